"""Recompute the books from first facts, and say where they differ, while a daemon goes on writing.

Facts are the entries, the usage rows (quantities and price snapshots), their attempts, what pruned rows came to, and
the holds; costs, charges, balances, roll-ups and counters follow from them. Nothing here trusts a cached sum.

One long read transaction would be the simplest consistent view, but the write-ahead log can't be emptied as long as it
lasts. So the books are read in many short ones, and no finding comes from comparing two of them:

1. What one row says of itself (a cost, a link of the ledger's chain) is judged in the transaction that reads the row.
   Rows go by in ranges of ids. Ids are those of holds, so a row may still appear in a range that went by, be corrected
   or withdrawn; what it says of itself is then judged by the next run.
2. Roll-ups. While the rows go by they are added up, in a temporary table. A roll-up that has these sums, and had them
   before the first row was read as well as after the last, is right: nothing touched it meanwhile. Every other one is
   only *suspect*: its rows are added up once more, by an index, in one transaction with what is stored. What differs
   then does differ.
3. Balances and counters follow from the roll-ups, which need not be right: of each wrong one it is known by now how
   much it has too much. Whoever writes moves a roll-up, its rows and a balance by the same amount, so that this excess
   stays what it is, and a balance can be judged in one transaction by its entries and the roll-ups less their excess.

Memory doesn't grow with the number of rows: temporary tables are files.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..db import Database
from . import derived, entries, soundness, usage
from .finding import Counts, Finding
from .repair import Repaired, repair

__all__ = ["Counts", "Finding", "Repaired", "repair", "verify"]


def verify(db: Database, counts: Counts | None = None) -> Iterator[Finding]:
    """Every check in turn. `db` only names the file: this reads by a connection of its own.

    A file that is damaged is not read any further: what it says can't be trusted. Raises StorageError.
    """
    counts = counts if counts is not None else Counts()
    with Database(db.path, actor=db.actor, create=False) as own:
        damaged = False
        for finding in soundness.damage(own):
            damaged = True
            yield finding
        if damaged:
            return
        yield from soundness.orphans(own)
        yield from entries.check(own, counts)
        derived.begin(own)
        yield from usage.check(own, counts)
        yield from derived.check(own, counts)
