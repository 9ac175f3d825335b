"""What a check finds, and what it counts on the way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from ..db import Database, Tx


class Finding(msgspec.Struct, frozen=True):
    """One thing that isn't as it should be: where, what the book says, and what follows from the facts."""

    check: str
    subject: str
    stored: str
    expected: str
    derived: bool
    """The stored figure is derived, so `repair` puts it right; a differing fact can't be."""
    key: tuple[Any, ...] = ()
    """Which row of its table a derived figure is in."""


class Counts(msgspec.Struct):
    """What was looked at."""

    entries: int = 0
    usage: int = 0
    accounts: int = 0
    holds: int = 0
    rollups: int = 0
    counters: int = 0


@contextmanager
def view(db: Database) -> Iterator[Tx]:
    """A short transaction that only reads, but what it notes in temporary tables stays."""
    with db.read() as tx:
        yield tx
        tx.execute("COMMIT")
