"""Tables for people where no terminal is: as wide as they are, without colours, and quick for many rows."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.cells import cell_len

from .columns import Column
from .layout import GAP, Cells


def write(columns: Sequence[Column], rows: list[Cells], total: Cells | None) -> None:
    """A table on stdout, with a line of totals if there is one."""
    titles = [column.title for column in columns]
    everything = [titles, *rows, total] if total else [titles, *rows]
    widths = [max(cell_len(row[at]) for row in everything) for at in range(len(columns))]
    rule = "─" if (sys.stdout.encoding or "").lower().startswith("utf") else "-"
    ruler = rule * (sum(widths) + GAP * (len(widths) - 1)) + "\n"
    sys.stdout.write(_line(columns, widths, titles) + ruler)
    for row in rows:
        sys.stdout.write(_line(columns, widths, row))
    if total:
        sys.stdout.write(ruler + _line(columns, widths, total))


def write_fields(pairs: Sequence[tuple[str, str]]) -> None:
    """One thing: its fields one below the other."""
    column = max(cell_len(name) for name, _ in pairs) + GAP
    for name, value in pairs:
        sys.stdout.write(f"{_padded(name, column)}{value}".rstrip() + "\n")


def _line(columns: Sequence[Column], widths: Sequence[int], cells: Cells) -> str:
    padded = (
        _padded(cell, width, right=column.right) for column, width, cell in zip(columns, widths, cells, strict=True)
    )
    return (" " * GAP).join(padded).rstrip() + "\n"


def _padded(text: str, width: int, *, right: bool = False) -> str:
    blanks = " " * (width - cell_len(text))
    return blanks + text if right else text + blanks
