"""Group commit: many pieces of work in one transaction, each in a savepoint, so that one that fails doesn't undo its
neighbours.

The two ways in which things fail are kept apart. What a piece of work does wrong (a refusal, a constraint) is its own
result. What is wrong with the database (locked, full, unreadable) undoes the whole group, which is then tried again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import StorageError
from .db import Tx, connect, now_ms, translate

Work = Callable[[Tx], Any]

TROUBLE = frozenset(
    {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY}
    | {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_NOMEM}
)
"""Result codes that tell the database's state, as opposed to what was asked of it."""


class Group:
    """A connection for group commits. It never waits for a lock: a busy database is an error, to try again after."""

    def __init__(self, path: Path, *, durable: bool, actor: str) -> None:
        self._path = path
        self._actor = actor
        self._conn = connect(path, durable=durable, wait_ms=0)
        self._conn.execute("PRAGMA wal_autocheckpoint = 0")  # it syncs the disk: `checkpoint` does it elsewhere
        self._checkpointer = connect(path, wait_ms=0)

    def begin(self, works: Sequence[Work]) -> list[Any]:
        """Do all of them in a new transaction, which stays open: what each returned, or the exception that it raised.

        Raises StorageError, with nothing done, where the database can't take them now.
        """
        try:
            self._conn.execute("BEGIN IMMEDIATE")
            tx = Tx(self._conn, now_ms(), self._actor)
            return [self._attempt(tx, work) for work in works]
        except sqlite3.Error as error:
            raise self._undone(error) from error

    def commit(self) -> None:
        """Raises StorageError, with nothing done, where it can't be written."""
        try:
            self._conn.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._undone(error) from error

    def checkpoint(self) -> None:
        """Move the write-ahead log into the database file, as far as no reader needs it. May be called in a thread of
        its own. Raises StorageError.
        """
        try:
            self._checkpointer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
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
            if isinstance(error, sqlite3.Error) and (_code(error) in TROUBLE or not self._conn.in_transaction):
                raise
            self._conn.execute("ROLLBACK TO work")
            self._conn.execute("RELEASE work")
            return error
        self._conn.execute("RELEASE work")
        return result

    def _undone(self, error: sqlite3.Error) -> StorageError:
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
