"""`python -m pipelines` is the command `catalogue-index`."""

import sys

from pipelines.cli import main

sys.exit(main())
