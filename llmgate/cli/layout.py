"""How a table fits a terminal. Pure: what is to be shown and the room in, the width of each column out.

In this order: as it is; with its texts folded; with everything folded but ids and figures; the same without one minor
column after the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rich.cells import cell_len

from .columns import Column, Kind

Cells = Sequence[str]

GAP = 2
"""Blanks between columns; one less where room is tight."""

FOLDED = {Kind.TEXT: 12, Kind.LIST: 12, Kind.MAP: 12}
"""The kinds that are broken over several lines where there is little room, and the least width for each."""

FOLDED_IF_TIGHT = {**dict.fromkeys(FOLDED, 8), Kind.WORD: 8, Kind.TIME: len("2026-11-20")}
"""The same where there is even less."""


class Fit(NamedTuple):
    """How a table fits its terminal: the columns that it has, how wide each is, and the blanks between them."""

    widths: dict[int, int]
    gap: int


class Sizes(NamedTuple):
    """What is known of a column's width."""

    title: int
    word: int
    """The longest word of the title."""
    body: int

    @property
    def natural(self) -> int:
        return max(self.title, self.body)

    @property
    def unbroken(self) -> int:
        """With a title over several lines."""
        return max(self.word, self.body)

    def folded(self, narrowest: int) -> int:
        return max(self.word, min(self.body, narrowest))


def fit(columns: Sequence[Column], rows: Sequence[Cells], room: int) -> Fit | None:
    """The most comfortable layout that fits the room; None: none does, a block of lines per row is better."""
    sizes = [_sizes(column, [row[at] for row in rows]) for at, column in enumerate(columns)]
    everything = range(len(columns))
    natural = {at: sizes[at].natural for at in everything}
    if _needs(natural, GAP) <= room:
        return Fit(natural, GAP)
    for foldable, gap in ((FOLDED, GAP), (FOLDED_IF_TIGHT, 1)):
        found = _folded(columns, sizes, everything, foldable, gap, room)
        if found:
            return found
    kept = list(everything)
    for at in sorted(everything, key=lambda at: (columns[at].minor, at), reverse=True):
        if columns[at].minor:
            kept.remove(at)
            found = _folded(columns, sizes, kept, FOLDED_IF_TIGHT, 1, room)
            if found:
                return found
    return None


def _sizes(column: Column, cells: Sequence[str]) -> Sizes:
    words = (cell_len(word) for word in column.title.split())
    return Sizes(cell_len(column.title), max(words), max((cell_len(cell) for cell in cells), default=0))


def _folded(
    columns: Sequence[Column],
    sizes: Sequence[Sizes],
    kept: Sequence[int],
    foldable: Mapping[Kind, int],
    gap: int,
    room: int,
) -> Fit | None:
    """The layout in which only so much is folded as must be, the widest columns first; None if it doesn't fit.

    A time is whole, or its day stands above its hour.
    """
    widths = {at: sizes[at].unbroken for at in kept}
    floors = {
        at: sizes[at].folded(foldable[columns[at].kind]) if columns[at].kind in foldable else widths[at] for at in kept
    }
    if _needs(floors, gap) > room:
        return None
    while _needs(widths, gap) > room:
        widest = max((at for at in kept if widths[at] > floors[at]), key=widths.__getitem__)
        widths[widest] = floors[widest] if columns[widest].kind is Kind.TIME else widths[widest] - 1
    return Fit(widths, gap)


def _needs(widths: Mapping[int, int], gap: int) -> int:
    return sum(widths.values()) + gap * (len(widths) - 1)
