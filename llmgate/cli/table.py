"""Tables for people: on a terminal as wide as it is, elsewhere as wide as they are.

On a terminal that is too narrow, first the texts are folded; where even that doesn't fit, each row becomes a block of
lines, one per field. Nothing is ever cut off, and nothing but a terminal is sent colours.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from .output import Column, Kind

GAP = 2
"""Blanks between columns."""

NARROWEST = 12
"""Columns that a folded text needs to be readable."""

STATES = {
    **dict.fromkeys(("active", "ok"), "green"),
    **dict.fromkeys(("disabled", "cancelled", "interrupted"), "yellow"),
    **dict.fromkeys(("revoked", "expired", "error"), "red"),
}

FOLDED = (Kind.TEXT, Kind.LIST, Kind.MAP)
"""The kinds that may be broken over several lines."""

Cells = Sequence[str]


def write(columns: Sequence[Column], rows: list[Cells], total: Cells | None) -> None:
    """A table on stdout, with a line of totals if there is one."""
    if not sys.stdout.isatty():
        _write_plain(columns, rows, total)
        return
    console = _console()
    widths = _widths(columns, [*rows, total] if total else rows, console.width)
    if widths:
        console.print(_table(columns, widths, rows, total))
    else:
        _write_blocks(console, columns, [*rows, total] if total else rows)


def write_fields(pairs: Sequence[tuple[str, str]]) -> None:
    """One thing: its fields one below the other."""
    if sys.stdout.isatty():
        _console().print(_fields(pairs))
        return
    column = max(cell_len(name) for name, _ in pairs) + GAP
    for name, value in pairs:
        sys.stdout.write(f"{_padded(name, column)}{value}".rstrip() + "\n")


def write_panel(title: str, parts: Sequence[str | Sequence[tuple[str, str]]]) -> None:
    """A few lines that stand out, for a terminal: paragraphs and fields. No border at the sides, so that a line can be
    copied whole.
    """
    console = _console()
    grid = Table.grid()
    for part in parts:
        grid.add_row(Text(part, overflow="fold") if isinstance(part, str) else _fields(part))
    console.print(Panel(grid, box=box.HORIZONTALS, title=Text(title), title_align="left", padding=(0, 1)))


def _console() -> Console:
    """The terminal. Rich guesses nothing: with NO_COLOR or a dumb terminal not even bold is sent."""
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") in ("dumb", "")
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


# ── where nobody looks ────────────────────────────────────────────────────────────────────────────────────────────────


def _write_plain(columns: Sequence[Column], rows: list[Cells], total: Cells | None) -> None:
    titles = [column.title for column in columns]
    everything = [titles, *rows, total] if total else [titles, *rows]
    widths = [max(cell_len(row[at]) for row in everything) for at in range(len(columns))]
    rule = "─" if (sys.stdout.encoding or "").lower().startswith("utf") else "-"
    line = rule * (sum(widths) + GAP * (len(widths) - 1)) + "\n"
    sys.stdout.write(_plain(columns, widths, titles) + line)
    for row in rows:
        sys.stdout.write(_plain(columns, widths, row))
    if total:
        sys.stdout.write(line + _plain(columns, widths, total))


def _plain(columns: Sequence[Column], widths: Sequence[int], cells: Cells) -> str:
    padded = (
        _padded(cell, width, right=column.right) for column, width, cell in zip(columns, widths, cells, strict=True)
    )
    return (" " * GAP).join(padded).rstrip() + "\n"


def _padded(text: str, width: int, *, right: bool = False) -> str:
    blanks = " " * (width - cell_len(text))
    return blanks + text if right else text + blanks


# ── on a terminal ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _widths(columns: Sequence[Column], rows: Iterable[Cells], room: int) -> list[int] | None:
    """How wide each column is, within the room; None where the table doesn't fit even with its texts folded."""
    bodies = [max((cell_len(row[at]) for row in rows), default=0) for at in range(len(columns))]
    room -= GAP * (len(columns) - 1)
    widest = [max(body, cell_len(column.title)) for body, column in zip(bodies, columns, strict=True)]
    if sum(widest) <= room:
        return widest
    words = [max(cell_len(word) for word in column.title.split()) for column in columns]
    widths = [max(body, word) for body, word in zip(bodies, words, strict=True)]
    floors = [
        max(min(width, NARROWEST), word) if column.kind in FOLDED else width
        for column, width, word in zip(columns, widths, words, strict=True)
    ]
    if sum(floors) > room:
        return None
    while sum(widths) > room:
        slack = [width - floor for width, floor in zip(widths, floors, strict=True)]
        at = max(range(len(columns)), key=lambda number: (slack[number] > 0, widths[number]))
        widths[at] -= 1
    return widths


def _table(columns: Sequence[Column], widths: Sequence[int], rows: list[Cells], total: Cells | None) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, GAP - 1, 0, 0),
        header_style="bold",
        border_style="dim",
        footer_style="bold",
        show_footer=total is not None,
    )
    for column, width in zip(columns, widths, strict=True):
        table.add_column(
            Text(column.title),
            width=width,
            overflow="fold",
            justify="right" if column.right else "left",
            vertical="top",
        )
    for row in rows:
        table.add_row(*(_cell(column, cell) for column, cell in zip(columns, row, strict=True)))
    if total:
        for footed, cell in zip(table.columns, total, strict=True):
            footed.footer = Text(cell)
    return table


def _cell(column: Column, text: str) -> RenderableType:
    if column.kind is Kind.STATE:
        return Text(text, style=STATES.get(text, ""))
    return Text(text, style="red" if column.kind is Kind.MONEY and text.startswith("-") else "")


def _write_blocks(console: Console, columns: Sequence[Column], rows: Iterable[Cells]) -> None:
    for number, row in enumerate(rows):
        if number:
            console.print()
        titles = (column.title for column in columns)
        console.print(_fields([(title, cell) for title, cell in zip(titles, row, strict=True) if cell]))


def _fields(pairs: Sequence[tuple[str, str]]) -> Table:
    grid = Table.grid(padding=(0, GAP, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs:
        grid.add_row(Text(name, style="dim"), Text(value))
    return grid
