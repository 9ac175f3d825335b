"""Tables for people where no terminal is: as wide as they are, without colours, and quick for many rows."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence

from .columns import Column, Kind, Show
from .layout import GAP, Cells, cells_of


def write(columns: Sequence[Column], rows: list[Cells], total: Cells | None) -> None:
    """A table on stdout, with a line of totals if there is one."""
    titles = [column.title for column in columns]
    everything = [titles, *rows, total] if total else [titles, *rows]
    widths = [max(cells_of(row[at]) for row in everything) for at in range(len(columns))]
    rule = "─" if (sys.stdout.encoding or "").lower().startswith("utf") else "-"
    ruler = rule * (sum(widths) + GAP * (len(widths) - 1)) + "\n"
    sys.stdout.write(_line(columns, widths, titles) + ruler)
    form = (" " * GAP).join(
        f"%{'' if column.right else '-'}{width}s" for column, width in zip(columns, widths, strict=True)
    )
    for row in rows:
        padded = form % tuple(row)  # ten times as fast, but it takes every sign for one cell
        sys.stdout.write(f"{padded.rstrip()}\n" if padded.isascii() else _line(columns, widths, row))
    if total:
        sys.stdout.write(ruler + _line(columns, widths, total))


LIKELY = {Kind.ID: 8, Kind.TIME: 19, Kind.WORD: 14, Kind.TEXT: 16, Kind.NUMBER: 7, Kind.MONEY: 11, Kind.STATE: 9}
"""How wide the values of a column are going to be, as far as anybody can know before they are there."""

NAMES = (Kind.WORD, Kind.TEXT, Kind.STATE)


def follow(columns: Sequence[Column], rows: Iterable[Mapping[Column, str]]) -> None:
    """A table of rows that come one by one: the titles at once, then a line for each. A column grows where it must.

    On a terminal the most minor columns are left out until a line is likely to fit. If none can be, names begin as
    narrow as they can.
    """
    chosen = [column for column in columns if column.show is Show.ALWAYS]
    widths = {column: max(len(column.title), LIKELY.get(column.kind, 0)) for column in chosen}
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    while room is not None and sum(widths[column] + GAP for column in chosen) - GAP > room:
        minor = max(chosen, key=lambda column: column.minor)
        if not minor.minor:
            widths |= {column: len(column.title) for column in chosen if column.kind in NAMES}
            break
        chosen.remove(minor)
    sys.stdout.write(_line(chosen, [widths[column] for column in chosen], [column.title for column in chosen]))
    for row in rows:
        cells = [row[column] for column in chosen]
        for column, cell in zip(chosen, cells, strict=True):
            widths[column] = max(widths[column], cells_of(cell))
        sys.stdout.write(_line(chosen, [widths[column] for column in chosen], cells))


def write_fields(pairs: Sequence[tuple[str, str]]) -> None:
    """One thing: its fields one below the other."""
    column = max(cells_of(name) for name, _ in pairs) + GAP
    for name, value in pairs:
        sys.stdout.write(f"{_padded(name, column)}{value}".rstrip() + "\n")


def _line(columns: Sequence[Column], widths: Sequence[int], cells: Cells) -> str:
    padded = (
        _padded(cell, width, right=column.right) for column, width, cell in zip(columns, widths, cells, strict=True)
    )
    return (" " * GAP).join(padded).rstrip() + "\n"


def _padded(text: str, width: int, *, right: bool = False) -> str:
    width -= cells_of(text) - len(text)
    return text.rjust(width) if right else text.ljust(width)
