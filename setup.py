"""Lets Beam ship these packages to its workers: `--setup_file ./setup.py` (the `./` is needed).

Everything is declared in pyproject.toml, the packages too: a second list here could only disagree with it.
"""

from setuptools import setup

setup()
