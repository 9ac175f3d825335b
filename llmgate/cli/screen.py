"""Tables for people on a terminal.

How a table fits a narrow terminal is decided in `layout`. Nothing is ever cut off.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from .columns import Column, Kind, Show
from .layout import GAP, Cells, Fit, cells_of, fit, wrapped
from .session import note

LINES = box.Box("    \n    \n ── \n    \n    \n ── \n    \n    \n")
"""A line below the titles and one above the totals, nothing else."""

WIDEST_PANEL = 80

STATES = {
    **dict.fromkeys(("active", "ok"), "green"),
    **dict.fromkeys(("disabled", "cancelled", "interrupted", "loading"), "yellow"),
    **dict.fromkeys(("revoked", "expired", "error"), "red"),
}


def write(columns: Sequence[Column], rows: list[Cells], total: Cells | None) -> None:
    """A table on stdout, with a line of totals if there is one."""
    console = terminal()
    everything = [*rows, total] if total else rows
    fitting = fit(columns, everything, console.width)
    if fitting is None:
        _write_blocks(console, columns, everything)
        return
    console.print(_table(columns, fitting, rows, total))
    missing = (column for at, column in enumerate(columns) if at not in fitting.widths)
    left_out = [column.title for column in missing if column.show is not Show.SPARE]
    if left_out:
        note(f"left out, the terminal is too narrow: {', '.join(left_out)} (--format csv has everything)")


def write_fields(pairs: Sequence[tuple[str, str]]) -> None:
    """One thing: its fields one below the other."""
    console = terminal()
    console.print(_fields(pairs, console.width))


def write_panel(title: str, parts: Sequence[str | Sequence[tuple[str, str]]]) -> None:
    """A few lines that stand out, for a terminal: paragraphs and fields. No border at the sides, so that a line can be
    copied whole.
    """
    console = terminal()
    grid = Table.grid()
    width = min(console.width, WIDEST_PANEL)
    for part in parts:
        grid.add_row(Text(wrapped(part, width - 2)) if isinstance(part, str) else _fields(part, width - 2))
    console.print(Panel(grid, box=box.HORIZONTALS, width=width, title=Text(title), title_align="left", padding=(0, 1)))


def terminal() -> Console:
    """The terminal. Rich guesses nothing: with NO_COLOR, on a dumb terminal or on a pipe not even bold is sent."""
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") in ("dumb", "") or not sys.stdout.isatty()
    return Console(
        file=sys.stdout,
        width=shutil.get_terminal_size().columns,
        force_terminal=not plain,
        color_system=None if plain else "standard",
        markup=False,
        emoji=False,
        highlight=False,
        legacy_windows=False,
    )


def _table(columns: Sequence[Column], fitting: Fit, rows: list[Cells], total: Cells | None) -> Table:
    table = Table(
        box=LINES,
        show_edge=False,
        pad_edge=False,
        padding=(0, fitting.gap - 1, 0, 0),
        header_style="bold",
        border_style="dim",
        footer_style="bold",
        show_footer=total is not None,
    )
    for at, width in fitting.widths.items():
        table.add_column(
            Text(columns[at].title),
            Text(total[at]) if total else "",
            width=width,
            overflow="fold",
            justify="right" if columns[at].right else "left",
        )
    for row in rows:
        table.add_row(*(_cell(columns[at], wrapped(row[at], width)) for at, width in fitting.widths.items()))
    return table


def _cell(column: Column, text: str) -> RenderableType:
    if column.kind is Kind.STATE:
        return Text(text, style=STATES.get(text, ""))
    return Text(text, style="red" if column.kind is Kind.MONEY and text.startswith("-") else "")


def _write_blocks(console: Console, columns: Sequence[Column], rows: Iterable[Cells]) -> None:
    for number, row in enumerate(rows):
        if number:
            console.print()
        told = (pair for pair in zip(columns, row, strict=True) if pair[0].show is not Show.SPARE)
        console.print(_fields([(column.title, cell) for column, cell in told if cell], console.width))


def _fields(pairs: Sequence[tuple[str, str]], width: int) -> Table:
    room = max(width - GAP - max((cells_of(name) for name, _ in pairs), default=0), 1)
    grid = Table.grid(padding=(0, GAP, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs:
        grid.add_row(Text(name, style="dim"), Text(wrapped(value, room)))
    return grid
