"""How a table fits a terminal. Pure: what is to be shown and the room in, the width of each column out.

In this order: as it is; without what needs room to spare; with its texts folded between words; with everything folded
but ids and figures, long words where they have a joint; the same without one minor column after the other; at last with
words broken anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from rich.cells import cell_len

from .columns import Column, Kind, Show

Cells = Sequence[str]


def cells_of(text: str) -> int:
    """How wide a text is on a terminal, where some signs are as wide as two others, and some add nothing."""
    return len(text) if text.isascii() else cell_len(text)


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
    whole: int
    """The longest word of the values."""
    joint: int
    """The longest part of one that has no joint."""

    @property
    def natural(self) -> int:
        return max(self.title, self.body)

    @property
    def unbroken(self) -> int:
        """With a title over several lines."""
        return max(self.word, self.body)

    def folded(self, narrowest: int, part: int) -> int:
        return max(self.word, part, min(self.body, narrowest))


def fit(columns: Sequence[Column], rows: Sequence[Cells], room: int) -> Fit | None:
    """The most comfortable layout that fits the room; None: none does, a block of lines per row is better."""
    sizes = [_sizes(column, [row[at] for row in rows]) for at, column in enumerate(columns)]
    everything = list(range(len(columns)))
    natural = {at: sizes[at].natural for at in everything}
    spare = [at for at in everything if columns[at].show is Show.SPARE]
    while _needs(natural, GAP) > room and spare:
        del natural[spare.pop()]
    if _needs(natural, GAP) <= room:
        return Fit(natural, GAP)
    everything = list(natural)
    found = _folded(columns, sizes, everything, FOLDED, GAP, room, lambda size: size.whole)
    for least in (lambda size: size.joint, lambda _: 0):
        kept = list(everything)
        found = found or _folded(columns, sizes, kept, FOLDED_IF_TIGHT, 1, room, least)
        for at in sorted(everything, key=lambda at: (columns[at].minor, at), reverse=True):
            if columns[at].minor and not found:
                kept.remove(at)
                found = _folded(columns, sizes, kept, FOLDED_IF_TIGHT, 1, room, least)
    return found


def _sizes(column: Column, cells: Sequence[str]) -> Sizes:
    foldable = column.kind in FOLDED_IF_TIGHT and column.kind is not Kind.TIME
    words = {word for cell in cells for word in cell.split()} if foldable else set()
    parts = {part for word in words for part in JOINTS.findall(word)}
    return Sizes(
        cells_of(column.title),
        _longest(column.title.split()),
        _longest(cells),
        _longest(words),
        _longest(parts),
    )


def _longest(texts: Iterable[str]) -> int:
    return max(map(cells_of, texts), default=0)


JOINTS = re.compile(r"[^/_.,:;=@|-]*[/_.,:;=@|-]+|[^/_.,:;=@|-]+")
"""The parts of a long word: a path, an address, a name; it is broken behind the sign that joins them."""


def wrapped(text: str, width: int) -> str:
    """A text on as many lines as it needs: broken between words, long words at their joints, and only what has none
    anywhere.
    """
    if cells_of(text) <= width:
        return text
    lines = [""]
    for word in text.split():
        space = " " if lines[-1] else ""
        if cells_of(lines[-1]) + len(space) + cells_of(word) <= width:
            lines[-1] += space + word
        elif cells_of(word) <= width:
            lines.append(word)
        else:
            for part in _parts(word, width):
                if cells_of(lines[-1]) + len(space) + cells_of(part) <= width:
                    lines[-1] += space + part
                else:
                    lines.append(part)
                space = ""
    return "\n".join(lines).lstrip("\n")


def _parts(word: str, width: int) -> Iterator[str]:
    for part in JOINTS.findall(word):
        piece = ""
        for sign in part:
            if cells_of(piece) + cells_of(sign) > width:
                yield piece
                piece = ""
            piece += sign
        yield piece


def _folded(
    columns: Sequence[Column],
    sizes: Sequence[Sizes],
    kept: Sequence[int],
    foldable: Mapping[Kind, int],
    gap: int,
    room: int,
    least: Callable[[Sizes], int],
) -> Fit | None:
    """The layout in which only so much is folded as must be, the widest columns first; None if it doesn't fit. `least`
    is the room that values of a folded column need.

    A time is whole, or its day stands above its hour.
    """
    widths = {at: sizes[at].unbroken for at in kept}
    floors = {
        at: sizes[at].folded(foldable[columns[at].kind], least(sizes[at]))
        if columns[at].kind in foldable
        else widths[at]
        for at in kept
    }
    if _needs(floors, gap) > room:
        return None
    while _needs(widths, gap) > room:
        widest = max((at for at in kept if widths[at] > floors[at]), key=widths.__getitem__)
        widths[widest] = floors[widest] if columns[widest].kind is Kind.TIME else widths[widest] - 1
    return Fit(widths, gap)


def _needs(widths: Mapping[int, int], gap: int) -> int:
    return sum(widths.values()) + gap * (len(widths) - 1)
