"""Tables of figures, as pages show them. What a table says, a chart may draw (`static/charts.js`): from the table
itself, so that the two can't differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from ..money import usd


class Kind(StrEnum):
    NUMBER = "number"
    MONEY = "money"
    """nano-USD."""
    SHARE = "share"
    """A part and the whole."""


class Draw(StrEnum):
    """How a column is drawn in the chart above the table."""

    NOT = ""
    BARS = "bar"
    LINE = "line"


class Others(StrEnum):
    """Whether the last row before the total sums up what the rows above leave out, and how it is drawn."""

    NONE = ""
    DRAWN = "drawn"
    LEFT_OUT = "left out"
    """So many that beside them no bar could be told from another."""


class Column(NamedTuple):
    title: str
    kind: Kind
    values: Sequence[int]
    """From top to bottom; the last is the total's."""
    draw: Draw = Draw.NOT
    series: int | None = None
    """Which colour it is drawn in; None: the only one."""


class Cell(NamedTuple):
    value: str
    """Exact, for programs."""
    text: str
    fine: str = ""
    """What follows the cents: written small, so that amounts stay exact and can be read at a glance."""


class Table(NamedTuple):
    """Rows by name; the figures in columns, each of them as exact as it is known."""

    rows: Sequence[str]
    columns: Sequence[Column]
    others: Others = Others.NONE

    @property
    def cells(self) -> list[tuple[str, tuple[Cell, ...]]]:
        """Row by row, the total the last."""
        return list(zip((*self.rows, "total"), zip(*map(_cells, self.columns), strict=True), strict=True))


def _cells(column: Column) -> list[Cell]:
    if column.kind is Kind.MONEY:
        return amounts(column.values)
    if column.kind is Kind.SHARE:
        return [Cell("", share(value, column.values[-1])) for value in column.values]
    return [Cell(str(value), f"{value:,}") for value in column.values]


def amounts(values: Sequence[int]) -> list[Cell]:
    """Amounts that stand under each other: all with as many decimals as the finest of them needs."""
    places = max((len(usd(value).partition(".")[2]) for value in values), default=0)
    found = []
    for value in values:
        whole, _, decimals = usd(abs(value), places=max(places, 2)).partition(".")
        text = f"{'-' if value < 0 else ''}${int(whole):,}.{decimals[:2]}"
        found.append(Cell(usd(value), text, decimals[2:]))
    return found


def share(part: int, whole: int) -> str:
    """A part in percent; one that is there is never told as nothing."""
    if not whole:
        return ""
    tenths = (2000 * part + whole) // (2 * whole)
    return "<0.1%" if part and not tenths else f"{tenths // 10}.{tenths % 10}%"
