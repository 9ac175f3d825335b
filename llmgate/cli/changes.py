"""What a price list would change, before it does: shown, and agreed to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

from ..pricing import Price, said
from .columns import Column, Kind, Row, Show

Name = TypeVar("Name")

COLUMNS = (
    Column("change", Kind.STATE),
    Column("of", Kind.WORD, Show.USED),
    Column("model", Kind.WORD),
    Column("before", Kind.MAP),
    Column("after", Kind.MAP),
)


def between(
    before: Mapping[tuple[str, str], Price], after: Mapping[tuple[str, str], Price], *, gone: bool
) -> Iterator[Row]:
    """One row per model that is priced otherwise; a name is (upstream or provider, model).

    `gone`: also those that are missing.
    """
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old == new or (new is None and not gone):
            continue
        change = "added" if old is None else "gone" if new is None else "changed"
        yield {"change": change, "of": name[0] or None, "model": name[1], **_sides(old, new)}


def _sides(old: Price | None, new: Price | None) -> dict[str, dict[str, str]]:
    """Of two prices what differs; of a single one all."""
    was, will = said(old) if old else {}, said(new) if new else {}
    if not (was and will):
        return {"before": was, "after": will}
    differing = [key for key in {**was, **will} if was.get(key) != will.get(key)]
    return {
        "before": {key: was[key] for key in differing if key in was},
        "after": {key: will[key] for key in differing if key in will},
    }


def counted(rows: list[Row], unchanged: int) -> str:
    """`3 added, 1 changed, 12 unchanged`."""
    words = [row["change"] for row in rows]
    counts = [(words.count(word), word) for word in ("added", "changed", "gone")]
    return ", ".join(f"{count} {word}" for count, word in (*counts, (unchanged, "unchanged")) if count) or "nothing"
