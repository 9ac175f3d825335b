"""What state a database is in, seen without changing it: no migration, no journal mode, no file made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec

from ..errors import StorageError
from ..pricebook import NOTHING_SET, Book
from . import accounts, prices, schema, workers
from .db import APPLICATION_ID, Tx, connect, now_ms, translated

MOST_READ = 2**30
"""Bytes up to which a database is read whole to find damage; beyond that `llmgate verify` is the one who does it."""


class Condition(msgspec.Struct, kw_only=True):
    """What was seen. Where the file is not of this version's schema, what the tables would tell is left out."""

    failure: str | None = None
    """Why nothing more is known."""
    schema: int = schema.VERSION
    journal: str = "wal"
    damage: str | None = None
    zone: str | None = None
    last_ms: int = 0
    """The latest moment that is written in it."""
    serving: int = 0
    """How many workers live."""
    orphans: int = 0
    """Holds of workers that live no more, placed before `orphaned_ms`."""
    overdue: int = 0
    """Holds of workers that live, placed before `overdue_ms`."""
    stuck_nano: int = 0
    """What both hold."""
    unused: list[str] = []
    """Living keys made before `unused_ms` that nobody ever sent."""
    planned: list[tuple[str, str]] = []
    """Users and `team:NAME`s that have a plan, each with it."""
    book: Book = NOTHING_SET

    @property
    def is_known(self) -> bool:
        """Whether the tables were read."""
        return self.failure is None and self.damage is None and self.schema == schema.VERSION


def look(path: Path, *, orphaned_ms: int, overdue_ms: int, unused_ms: int) -> Condition:
    """Never raises for what is wrong with the database: that is the answer."""
    seen = Condition(serving=workers.living(path))
    try:
        with _only_reading(path) as tx:
            seen.schema = tx.value("PRAGMA user_version")
            if tx.value("PRAGMA application_id") != APPLICATION_ID:
                seen.failure = f"{path} is not one of llmgate's databases: choose another file with --db"
                return seen
            seen.journal = tx.value("PRAGMA journal_mode")
            verdict = tx.value("PRAGMA quick_check(1)") if path.stat().st_size <= MOST_READ else "ok"
            seen.damage = None if verdict == "ok" else str(verdict)
            if seen.is_known:
                _read(seen, tx, path, orphaned_ms, overdue_ms, unused_ms)
    except StorageError as error:
        seen.failure = error.message
    return seen


@contextmanager
def _only_reading(path: Path) -> Iterator[Tx]:
    with translated(path), closing(connect(path)) as conn:
        conn.execute("PRAGMA query_only = ON")
        yield Tx(conn, now_ms(), "doctor")


def _read(seen: Condition, tx: Tx, path: Path, orphaned_ms: int, overdue_ms: int, unused_ms: int) -> None:
    seen.zone = tx.zone.key
    seen.last_ms = tx.value(
        "SELECT max(coalesce((SELECT max(time_ms) FROM audit), 0), coalesce((SELECT max(time_ms) FROM usage), 0))"
    )
    gone = set(workers.dead(tx, path))
    for worker, amount, placed_ms in tx.execute("SELECT worker_id, amount_nano, placed_ms FROM holds").fetchall():
        if placed_ms < (orphaned_ms if worker in gone else overdue_ms):
            seen.orphans += worker in gone
            seen.overdue += worker not in gone
            seen.stuck_nano += amount
    seen.unused = [
        f"{user}/{name}"
        for user, name in tx.execute(
            "SELECT u.name, k.name FROM keys k JOIN users u ON u.id = k.user_id WHERE k.status = 'active' "
            "AND k.last_used_ms IS NULL AND k.created_ms < ? AND coalesce(k.expires_ms, ?) > ? ORDER BY 1, 2",
            (unused_ms, tx.now_ms + 1, tx.now_ms),
        )
    ]
    seen.planned = accounts.without_plan(tx, ())
    seen.book = prices.in_force(tx)
