"""What the command shows: its log on standard error, tables on standard output."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

_UNFOLDED = 100_000  # characters: the longest text that a table shows has fewer
_NUMERIC = ("view", "rank", "score", "price", "sequence", "products", "recall@1", "recall@10", "recall@100", "mrr",
            "ndcg@10", "rows", "seconds", "rows/s")  # fmt: skip


def prepare_process() -> None:
    """Prepare TensorFlow, and show the log: short lines on a terminal, else whole ones with date (UTC) and level."""
    from rich.console import Console

    from encoders.towers import prepare_tensorflow

    prepare_tensorflow()
    console = Console(stderr=True)
    handler = _on_terminal(console) if console.is_terminal else _in_file()
    logging.basicConfig(level=logging.ERROR, handlers=[handler], force=True)
    # What fails in a worker is raised here too: Beam's own log of it would only hide the sentence.
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    for name in ("pipelines", "encoders", "transforms"):
        logging.getLogger(name).setLevel(logging.INFO)


def _on_terminal(console: Console) -> logging.Handler:
    from rich.highlighter import NullHighlighter
    from rich.logging import RichHandler

    plain = NullHighlighter()  # else parts of words are coloured as addresses: "packag" and "e:eff"
    handler = RichHandler(
        console=console, highlighter=plain, show_path=False, show_level=False, markup=False, log_time_format="%H:%M:%S"
    )
    handler.setFormatter(logging.Formatter("%(message)s"))
    return handler


def _in_file() -> logging.Handler:
    handler = logging.StreamHandler()
    formatter = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%SZ")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    return handler


def print_table(title: str, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """Print rows under their columns; what a row does not have stays empty.

    Where standard output is no terminal there are no lines, and none is folded unless COLUMNS is set.
    """
    from rich.box import HEAVY_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console()
    lines = HEAVY_HEAD if console.is_terminal else None
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _UNFOLDED
    table = Table(title=title or None, title_justify="left", show_edge=False, box=lines)
    for name in columns:
        # An id that is to be copied is not broken, nor is a mark within its words.
        whole, least = name == "version", None if name else len("current,")
        table.add_column(
            name, justify="right" if name in _NUMERIC else "left", overflow="fold", no_wrap=whole, min_width=least
        )
    for row in rows:
        table.add_row(*("" if row.get(name) is None else _shown(row[name]) for name in columns))
    console.print(table)


def _shown(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)
