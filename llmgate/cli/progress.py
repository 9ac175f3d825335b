"""How far something has come that takes long: a bar or a sign of life on a terminal, and nothing anywhere else."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

PATIENCE_S = 0.5
"""Seconds after which people begin to wonder."""


@contextmanager
def progress(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Gives a function that is told how much of the total is done. The bar is gone in the end.

    None: nobody knows how much there is.
    """
    console = _terminal()
    if console is None:
        yield lambda _: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


@contextmanager
def working(what: str) -> Iterator[None]:
    """Says that something goes on that can't tell how far it is, once it takes longer than people wait."""
    console = _terminal()
    if console is None:
        yield
        return
    status = console.status(f"{what} …")
    begun = threading.Timer(PATIENCE_S, status.start)
    begun.start()
    try:
        yield
    finally:
        begun.cancel()
        begun.join()
        status.stop()


def _terminal() -> Console | None:
    """stderr, if somebody looks at it."""
    if not sys.stderr.isatty() or os.environ.get("TERM") in ("dumb", ""):
        return None
    from rich.console import Console

    return Console(file=sys.stderr, no_color=bool(os.environ.get("NO_COLOR")))
