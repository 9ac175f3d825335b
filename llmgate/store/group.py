"""Group commit: many pieces of work in one transaction, and one that fails doesn't undo its neighbours.

Most that fail are refusals, which are decided by reading: there is nothing to undo. Where one fails that has written
something, the group is undone and done again, each in a savepoint: work must bear to be done twice.

The two ways in which things fail are kept apart. What a piece of work does wrong (a refusal, a constraint) is its own
result. What is wrong with the database (locked, full, unreadable) undoes the whole group, which is then tried again.

What only admins change (keys, users, teams, limits, prices, the zone) is read once and kept from one group to the next
(`Tx.kept`), for as long as nobody can have changed it:

- Another connection, of whichever process, has committed nothing since: `PRAGMA data_version`, read in each group's own
  transaction, says so. Or it has committed nothing of the kind: triggers count whatever changes any of it
  (`meta.kept`), so that workers who settle at the same time don't make each other read everything anew. A key that was
  revoked a millisecond ago is seen as revoked.
- Nothing was done over this connection but `Steady` work, which changes none of it (or drops what it changes).

Money is never kept: balances, holds and counters are read by every hold.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

from ..errors import StorageError
from .db import Tx, connect, now_ms, translate

Work = Callable[[Tx], Any]

T = TypeVar("T")

TROUBLE = frozenset(
    {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY}
    | {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_NOMEM}
)
"""Result codes that tell the database's state, as opposed to what was asked of it."""

CHECKPOINT_WAIT_MS = 20
"""How long nobody may write because somebody still reads the write-ahead log that is to begin anew."""

MOST_KEPT = 20_000
"""Things that are kept; past that all are read anew."""


class Steady(Generic[T]):
    """Work that changes nothing of what is kept."""

    __slots__ = ("_work",)

    def __init__(self, work: Callable[[Tx], T]) -> None:
        self._work = work

    def __call__(self, tx: Tx) -> T:
        return self._work(tx)


class Group:
    """A connection for group commits. It never waits for a lock: a busy database is an error, to try again after."""

    def __init__(self, path: Path, *, durable: bool, actor: str) -> None:
        self._path = path
        self._actor = actor
        self._conn = connect(path, durable=durable, wait_ms=0)
        self._conn.execute("PRAGMA wal_autocheckpoint = 0")  # it syncs the disk: `checkpoint` does it elsewhere
        self._checkpointer = connect(path, wait_ms=CHECKPOINT_WAIT_MS)
        self._log = path.with_name(f"{path.name}-wal")
        self._kept: dict[Hashable, Any] = {}
        self._kept_of = -1
        """The `data_version` that it was last known to hold at."""
        self._changes: str | None = None
        """And what the triggers had counted then, or before."""

    def begin(self, works: Sequence[Work]) -> list[Any]:
        """Do all of them in a new transaction, which stays open: what each returned, or the exception that it raised.

        Raises StorageError, with nothing done, where the database can't take them now.
        """
        try:
            self._conn.execute("BEGIN IMMEDIATE")
            kept: dict[Hashable, Any] | None = self._still_so()
            if not all(isinstance(work, Steady) for work in works):
                self._kept.clear()
                kept = None
            results = self._together(Tx(self._conn, now_ms(), self._actor, kept, gathers=True), works)
            if results is None:
                self._conn.execute("ROLLBACK")
                self._kept.clear()
                self._conn.execute("BEGIN IMMEDIATE")
                tx = Tx(self._conn, now_ms(), self._actor)
                results = [self._attempt(tx, work) for work in works]
        except sqlite3.Error as error:
            raise self._undone(error) from error
        return results

    def _still_so(self) -> dict[Hashable, Any]:
        """What is kept, or nothing, if anybody else may have changed it since.

        The version is read first. If somebody commits between the two reads, the next look finds another version.
        """
        version = self._conn.execute("PRAGMA data_version").fetchone()[0]
        if version != self._kept_of:
            changes = self._conn.execute("SELECT value FROM meta WHERE key = 'kept'").fetchone()[0]
            if changes != self._changes:
                self._kept.clear()
            self._kept_of, self._changes = version, changes
        if len(self._kept) > MOST_KEPT:
            self._kept.clear()
        return self._kept

    def _together(self, tx: Tx, works: Sequence[Work]) -> list[Any] | None:
        """Do all of them; None where one has failed after it wrote something."""
        results: list[Any] = []
        tally = tx.tally
        for work in works:
            written = self._conn.total_changes - tally.changes, tally.moves
            try:
                results.append(work(tx))
            except Exception as error:
                if self._is_trouble(error):
                    raise
                if (self._conn.total_changes - tally.changes, tally.moves) != written:
                    return None
                results.append(error)
        try:
            tally.write()
        except Exception as error:
            if self._is_trouble(error):
                raise
            return None  # somebody's sum is beyond all measure: then it is seen whose
        return results

    def known(self, name: Hashable) -> Any:
        """Something that is kept, if it is still so at this moment; None: it isn't, or can't be said at once, because a
        commit is under way in another thread."""
        if self._conn.in_transaction:
            return None
        try:
            return self._still_so().get(name)
        except sqlite3.Error:
            return None  # whoever reads it from the database is told why

    def commit(self) -> None:
        """Raises StorageError, with nothing done, where it can't be written."""
        try:
            self._conn.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._undone(error) from error

    def log_bytes(self) -> int:
        """How long the write-ahead log is."""
        try:
            return self._log.stat().st_size
        except OSError:
            return 0

    def checkpoint(self) -> None:
        """Move the write-ahead log into the database file, as far as no reader needs it. Who writes meanwhile isn't
        held up, and so makes the log longer still. May be called in a thread of its own. Raises StorageError.
        """
        self._checkpoint("PASSIVE")

    def begin_log_anew(self) -> None:
        """Move the rest as well, and begin the log anew, if within a moment nobody reads it. Nobody can write
        meanwhile, so it is called soon after `checkpoint`, when that rest is small. Raises StorageError.
        """
        self._checkpoint("TRUNCATE")

    def _checkpoint(self, how: str) -> None:
        try:
            self._checkpointer.execute(f"PRAGMA wal_checkpoint({how})").fetchone()
        except sqlite3.Error as error:
            raise translate(error, self._path) from error

    def close(self) -> None:
        self._checkpointer.close()
        self._conn.close()

    def _attempt(self, tx: Tx, work: Work) -> Any:
        self._conn.execute("SAVEPOINT work")
        try:
            result = work(tx)
        except Exception as error:
            if self._is_trouble(error):
                raise
            tx.tally.forget()  # what it added, and what it read of what it did
            self._conn.execute("ROLLBACK TO work")
            self._conn.execute("RELEASE work")
            return error
        self._conn.execute("RELEASE work")
        return result

    def _is_trouble(self, error: Exception) -> bool:
        return isinstance(error, sqlite3.Error) and (_code(error) in TROUBLE or not self._conn.in_transaction)

    def _undone(self, error: sqlite3.Error) -> StorageError:
        self._kept.clear()
        if self._conn.in_transaction:
            with suppress(sqlite3.Error):  # a disk that broke down; the next group's BEGIN fails, and comes here again
                self._conn.execute("ROLLBACK")
        return translate(error, self._path)


def probe(tx: Tx) -> None:
    """Write what nobody reads, to find out whether anything can be written. An equal value would not be written."""
    tx.execute(
        "INSERT INTO meta (key, value) VALUES ('written_ms', ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (str(tx.now_ms),),
    )


def _code(error: sqlite3.Error) -> int:
    """The primary result code."""
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
