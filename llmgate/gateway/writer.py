"""Group commit: all holds and settlements that wait at one moment share one transaction.

The work of a batch runs in the event loop's own thread: it takes tens of microseconds, and a thread that makes many
short SQLite calls would hand the interpreter's lock back and forth at up to 5 ms a time. What may take long doesn't:

- no call waits for a lock (busy timeout 0): a busy database is tried again by a timer, and the loop goes on;
- with `durable`, the COMMIT, which syncs the disk, runs in a thread, and the next batch gathers meanwhile;
- checkpoints, which sync as well, run in that thread too, on a connection of their own.

Each piece of work is a savepoint, so that one that fails doesn't undo its neighbours.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from ..errors import StorageError
from ..store.db import Tx, connect, now_ms, translate

T = TypeVar("T")

log = logging.getLogger("llmgate.writer")

RETRY_S = 0.01
"""How soon a busy database is tried again."""

TROUBLE_RETRY_S = 0.5
"""How soon work that can't be given up is tried again after anything worse than busy (a full disk)."""

CHECKPOINT_EVERY = 1000
"""Commits between checkpoints of the write-ahead log."""


class _Item:
    __slots__ = ("deadline", "future", "work")

    def __init__(self, work: Callable[[Tx], Any], future: asyncio.Future[Any], deadline: float | None) -> None:
        self.work = work
        self.future = future
        self.deadline = deadline


class Writer:
    """The daemon's only way to write. Made inside the running loop."""

    def __init__(self, path: Path, *, durable: bool, actor: str = "serve") -> None:
        self._path = path
        self._actor = actor
        self._durable = durable
        self._loop = asyncio.get_running_loop()
        self._conn = connect(path, durable=durable, wait_ms=0)
        self._conn.execute("PRAGMA wal_autocheckpoint = 0")
        self._checkpointer = connect(path, wait_ms=0)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="llmgate-disk")
        self._waiting: list[_Item] = []
        self._scheduled: asyncio.Handle | None = None
        self._committing = False
        self._commits = 0
        self.trouble: StorageError | None = None
        """Why the last batch couldn't be written, until one could; told by /ready."""

    async def run(self, work: Callable[[Tx], T], *, patience_s: float | None = None) -> T:
        """Do some work in the next transaction, and return its result once that is committed.

        `patience_s` bounds the waiting for a busy or broken database (StorageError then); None waits for as long as it
        takes. What the work itself raises is raised here. Cancelling doesn't undo: see `Gateway.place`.
        """
        future: asyncio.Future[T] = self._loop.create_future()
        deadline = None if patience_s is None else self._loop.time() + patience_s
        self._waiting.append(_Item(work, future, deadline))
        if self._scheduled is None and not self._committing:
            self._scheduled = self._loop.call_soon(self._flush)
        return await asyncio.shield(future)

    async def close(self, *, patience_s: float = 30.0) -> None:
        """Write what still waits, then let go of the file.

        What can't be written by then stays a hold, which the next start resolves; the log says so.
        """
        give_up = self._loop.time() + patience_s
        while self._committing or (self._waiting and self._loop.time() < give_up):  # noqa: ASYNC110 - at shutdown only
            await asyncio.sleep(RETRY_S)
        if self._scheduled is not None:
            self._scheduled.cancel()
        if self._waiting:
            log.error("%d settlements could not be written: the next start charges their estimate", len(self._waiting))
        await self._loop.run_in_executor(self._thread, self._checkpoint)
        self._thread.shutdown()
        self._checkpointer.close()
        self._conn.close()

    def _flush(self) -> None:
        self._scheduled = None
        batch = self._waiting
        try:
            self._conn.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            self._later(error)
            return
        self._waiting = []
        tx = Tx(self._conn, now_ms(), self._actor)
        done: list[tuple[_Item, Any]] = []
        try:
            for item in batch:
                outcome = self._attempt(tx, item)
                if not self._conn.in_transaction:  # SQLite itself gave the whole transaction up
                    raise outcome if isinstance(outcome, sqlite3.Error) else sqlite3.OperationalError("rolled back")
                if isinstance(outcome, sqlite3.Error) and _is_trouble(outcome):
                    raise outcome
                done.append((item, outcome))
        except sqlite3.Error as error:
            self._undo(batch, error)
            return
        if self._durable:
            self._committing = True
            commit = self._loop.run_in_executor(self._thread, self._conn.execute, "COMMIT")
            commit.add_done_callback(lambda finished: self._committed(batch, done, finished.exception()))
            return
        try:
            self._conn.execute("COMMIT")
        except sqlite3.Error as error:
            self._committed(batch, done, error)
        else:
            self._committed(batch, done, None)

    def _attempt(self, tx: Tx, item: _Item) -> Any:
        """One piece of work inside its savepoint: its result, or the exception that it raised."""
        self._conn.execute("SAVEPOINT item")
        try:
            result = item.work(tx)
        except Exception as error:
            if self._conn.in_transaction:
                self._conn.execute("ROLLBACK TO item")
                self._conn.execute("RELEASE item")
            return error  # to whoever waits for it
        self._conn.execute("RELEASE item")
        return result

    def _committed(self, batch: list[_Item], done: list[tuple[_Item, Any]], error: BaseException | None) -> None:
        self._committing = False
        if error is not None:
            if not isinstance(error, sqlite3.Error):
                raise error
            self._undo(batch, error)
            return
        self._recovered()
        for item, outcome in done:
            if item.future.done():
                continue
            if isinstance(outcome, Exception):
                item.future.set_exception(outcome)
            else:
                item.future.set_result(outcome)
        self._commits += 1
        if self._commits % CHECKPOINT_EVERY == 0:
            self._thread.submit(self._checkpoint)
        if self._waiting:
            self._scheduled = self._loop.call_soon(self._flush)

    def _undo(self, batch: list[_Item], error: sqlite3.Error) -> None:
        """Nothing of the batch is written; its items wait in front of those that came since."""
        if self._conn.in_transaction:
            self._conn.execute("ROLLBACK")
        self._waiting = batch + self._waiting
        self._later(error)

    def _later(self, error: sqlite3.Error) -> None:
        """Try again in a moment; whose patience is over is told why."""
        reason = translate(error, self._path)
        busy = reason.code == "storage_busy"
        if not busy and self.trouble is None:
            log.error("nothing can be written: %s", reason.message)
        if not busy:
            self.trouble = reason
        now = self._loop.time()
        kept = []
        for item in self._waiting:
            if item.deadline is not None and (not busy or now >= item.deadline):
                if not item.future.done():
                    item.future.set_exception(_told())
            else:
                kept.append(item)
        self._waiting = kept
        if kept:
            self._scheduled = self._loop.call_later(RETRY_S if busy else TROUBLE_RETRY_S, self._flush)

    def _recovered(self) -> None:
        if self.trouble is not None:
            log.warning("the database can be written again")
            self.trouble = None

    def _checkpoint(self) -> None:
        """Move the log into the database file, as far as no reader needs it."""
        try:
            self._checkpointer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except sqlite3.Error as error:
            log.warning("checkpoint: %s", translate(error, self._path).message)


def _told() -> StorageError:
    """What a client may know of a storage problem: no path, and when to try again."""
    return StorageError(
        "the gateway's database can't be written at the moment: try again shortly",
        code="storage_busy",
        headers=(("retry-after", "2"),),
    )


_TROUBLE = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_NOMEM,
}


def _is_trouble(error: sqlite3.Error) -> bool:
    """The database's state, as opposed to what the work did (a constraint): the whole batch is tried again."""
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF in _TROUBLE
