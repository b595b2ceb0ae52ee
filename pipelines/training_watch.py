"""What is to be seen of a training while it runs: a bar on a terminal, lines in a log elsewhere, TensorBoard's events."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from encoders.training_rounds import Round, event_log, log_round

Watch = Callable[[Round], None]


@contextmanager
def watch_training(tensorboard: str | None) -> Iterator[Watch]:
    """Give what `train_heads` tells its rounds: shown to who looks on, and written to a folder of TensorBoard."""
    with ExitStack() as stack:
        watchers = [stack.enter_context(_shown())]
        if tensorboard:
            watchers.append(stack.enter_context(event_log(tensorboard)))

        def watch(done: Round) -> None:
            for watcher in watchers:
                watcher(done)

        yield watch


@contextmanager
def _shown() -> Iterator[Watch]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield log_round
        return
    columns: tuple[Any, ...] = (
        TextColumn("train"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"),
    )  # fmt: skip
    last: list[Round] = []
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("loading", total=None)

        def show(done: Round) -> None:
            last[:] = [done]
            bar.update(task, total=done.steps, completed=done.step, description=done.shown)

        yield show
    if last:
        log_round(last[0])
