"""The daemon's only way to write: what waits at one moment is committed together.

The work of a group runs in the event loop's own thread: it takes tens of microseconds, and a thread that makes many
short SQLite calls would hand the interpreter's lock back and forth at up to 5 ms a time. What may take long doesn't:

- no call waits for a lock: a busy database is tried again by a timer, and the loop goes on;
- with `durable`, the COMMIT, which syncs the disk, runs in a thread, and the next group gathers meanwhile;
- checkpoints, which sync as well, run in that thread too, on a connection of their own.

The write-ahead log begins anew only where all of it has been moved and nobody writes. Under a load that never pauses
that never happens by itself, and the log would grow until the disk is full. So whenever it is `LONG_LOG` longer, most
of it is moved while groups go on; then the next group waits until the rest is moved, and the log is empty.

While nothing can be written (`trouble`: a full disk, say) new work is refused at once; what can't be given up waits:
the settlements of what is in flight. Every half second it is tried again, by them or by a probe.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ..errors import StorageError
from ..store.db import LONG_LOG, Tx
from ..store.group import Group, probe

T = TypeVar("T")

log = logging.getLogger("llmgate.writer")

RETRY_S = 0.01
"""How soon a busy database is tried again; the first time sooner, as another worker's commit takes less than that."""

SOON_S = 0.001

TROUBLE_RETRY_S = 0.5
"""How soon work that can't be given up is tried again after anything worse than busy (a full disk)."""

TELL_EVERY_S = 30.0
"""How often the log says that nothing can be written, for as long as that lasts."""

LOCKED_TELL_S = 5.0
"""How long another process may hold the database before the log says so."""

MOST = 64
"""How many wait before a group is written even though more are coming."""

LOOK_EVERY = 32
"""Commits between two looks at how long the write-ahead log is."""


class _Item(NamedTuple):
    work: Callable[[Tx], Any]
    future: asyncio.Future[Any]
    deadline: float | None
    """None: it waits for as long as it takes."""
    unwanted: Callable[[Any], None] | None = None


class Writer:
    """Made inside the running loop."""

    def __init__(self, path: Path, *, durable: bool, actor: str = "serve") -> None:
        self._loop = asyncio.get_running_loop()
        self._durable = durable
        self._group = Group(path, durable=durable, actor=actor)
        self._known = self._group.known
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="llmgate-disk")
        self._waiting: list[_Item] = []
        self._scheduled: asyncio.Handle | None = None
        self._committing = False
        self._commits = 0
        self._long = LONG_LOG
        """Bytes of the write-ahead log at which something is done about it; 0: something is being done."""
        self._moved = False
        """Most of the log has been moved: before the next group, it begins anew."""
        self.trouble: StorageError | None = None
        """Why nothing can be written, until something could; told by /ready. A lock is none: it is waited for."""
        self._stuck_since: float | None = None
        """Since when no group was written, be it for a lock or for worse."""
        self._tell_at = 0.0
        self._told_stuck = False

    async def run(self, work: Callable[[Tx], T], *, patience_s: float | None = None) -> T:
        """Do some work in the next transaction, and return its result once that is committed.

        `patience_s` bounds the waiting for a busy or broken database (StorageError then); None waits for as long as it
        takes. What the work itself raises is raised here. Cancelling the waiting doesn't undo the work.
        """
        return await self.submit(work, patience_s=patience_s)

    def submit(
        self,
        work: Callable[[Tx], T],
        *,
        patience_s: float | None = None,
        unwanted: Callable[[T], None] | None = None,
        alone: bool = False,
    ) -> asyncio.Future[T]:
        """The same, as a future. `unwanted` gets a result that nobody waits for any more, because the future was
        cancelled. `alone`: nobody else is there who could share the transaction, so that it need not be waited for.
        """
        if self.trouble is not None and patience_s is not None:
            raise unavailable()
        future: asyncio.Future[T] = self._loop.create_future()
        deadline = None if patience_s is None else self._loop.time() + patience_s
        self._waiting.append(_Item(work, future, deadline, unwanted))
        if self._scheduled is None and not self._committing:
            if alone:
                self._flush()
            else:
                self._schedule()
        return future

    def known(self, name: Hashable) -> Any:
        """Something that groups keep (see `store/group`), if it is still so; else None."""
        return None if self._committing else self._known(name)

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
            log.error("%d settlements could not be written: the next start books them", len(self._waiting))
        await self._loop.run_in_executor(self._thread, self._checkpoint, self._group.checkpoint)
        self._thread.shutdown()
        self._group.close()

    def _schedule(self) -> None:
        if self._scheduled is None and not self._committing:
            self._scheduled = self._loop.call_soon(self._gather, len(self._waiting))

    def _gather(self, before: int) -> None:
        """Write once a turn of the loop has brought nothing more: the larger a group, the less each of it costs. Who is
        alone waits for one turn; `MOST` that wait are enough.
        """
        if before < len(self._waiting) < MOST:
            self._scheduled = self._loop.call_soon(self._gather, len(self._waiting))
        else:
            self._flush()

    def _flush(self) -> None:
        """Everything that waits, in one transaction."""
        self._scheduled = None
        if self._moved:
            self._begin_log_anew()
            return
        items, self._waiting = self._waiting or [self._probe()], []
        try:
            results = self._group.begin([item.work for item in items])
            if not self._durable:
                self._group.commit()
        except StorageError as error:
            self._again(items, error)
            return
        if self._durable:
            self._committing = True
            commit = self._loop.run_in_executor(self._thread, self._group.commit)
            commit.add_done_callback(lambda finished: self._synced(items, results, finished))
        else:
            self._told(items, results)

    def _probe(self) -> _Item:
        """Who finds out that the trouble is over, where nobody else waits. Nobody waits for it either."""
        nobody: asyncio.Future[None] = self._loop.create_future()
        nobody.set_result(None)
        return _Item(probe, nobody, 0.0)

    def _synced(self, items: list[_Item], results: list[Any], finished: asyncio.Future[None]) -> None:
        self._committing = False
        error = finished.exception()
        if isinstance(error, StorageError):
            self._again(items, error)
        elif error is not None:
            raise error
        else:
            self._told(items, results)

    def _told(self, items: list[_Item], results: list[Any]) -> None:
        """The group is committed: everybody gets what their work returned or raised."""
        if self._stuck_since is not None:
            self._unstuck(items)
        for item, result in zip(items, results, strict=True):
            if item.future.done():
                if item.unwanted is not None and not isinstance(result, Exception):
                    item.unwanted(result)
            elif isinstance(result, Exception):
                item.future.set_exception(result)
            else:
                item.future.set_result(result)
        self._commits += 1
        if self._commits % LOOK_EVERY == 0 and 0 < self._long < self._group.log_bytes():
            self._long = 0
            moving = self._loop.run_in_executor(self._thread, self._checkpoint, self._group.checkpoint)
            moving.add_done_callback(self._most_is_moved)
        if self._waiting:
            self._schedule()

    def _most_is_moved(self, _: asyncio.Future[None]) -> None:
        self._moved = True

    def _begin_log_anew(self) -> None:
        """In front of a group, which waits for it as for a commit."""
        self._moved, self._committing = False, True
        beginning = self._loop.run_in_executor(self._thread, self._checkpoint, self._group.begin_log_anew)
        beginning.add_done_callback(self._log_begins_anew)

    def _log_begins_anew(self, _: asyncio.Future[None]) -> None:
        """Or it doesn't, because somebody reads it: then it is tried again when it is as much longer."""
        self._committing, self._long = False, self._group.log_bytes() + LONG_LOG
        if self._waiting:
            self._schedule()

    def _again(self, items: list[_Item], error: StorageError) -> None:
        """Nothing is written: try again in a moment, in front of what came since. Whose patience is over is told."""
        busy = error.code == "storage_busy"
        if not busy:
            self.trouble = error
        now = self._loop.time()
        kept = []
        for item in items + self._waiting:
            if item.deadline is None or (busy and now < item.deadline):
                kept.append(item)
            elif not item.future.done():
                item.future.set_exception(unavailable())
        self._waiting = kept
        again_s = RETRY_S if self._stuck_since is not None else SOON_S
        self._stuck(error, now, busy=busy)
        if kept or self.trouble is not None:
            self._scheduled = self._loop.call_later(again_s if kept and busy else TROUBLE_RETRY_S, self._flush)

    def _stuck(self, error: StorageError, now: float, *, busy: bool) -> None:
        """Say so, loudly: at once, and again and again; of a lock only once it lasts."""
        if self._stuck_since is None:
            self._stuck_since = now
            self._tell_at = now + LOCKED_TELL_S
            self._told_stuck = False
        if now >= self._tell_at or not (busy or self._told_stuck):
            self._tell_at, self._told_stuck = now + TELL_EVERY_S, True
            refused = "" if self.trouble is None else ", new requests are refused"
            log.error(
                "nothing can be written for %.0f s%s, settlements waiting: %d: %s",
                *(now - self._stuck_since, refused, _settlements(self._waiting), error.message),
            )

    def _unstuck(self, items: list[_Item]) -> None:
        assert self._stuck_since is not None
        if self._told_stuck:
            log.warning(
                "the database can be written again after %.0f s, settlements written: %d",
                *(self._loop.time() - self._stuck_since, _settlements(items)),
            )
        self.trouble = self._stuck_since = None

    def _checkpoint(self, checkpoint: Callable[[], None]) -> None:
        try:
            checkpoint()
        except StorageError as error:
            log.warning("no checkpoint: %s", error.message)


def _settlements(items: list[_Item]) -> int:
    """How many of them can't be given up."""
    return sum(item.deadline is None for item in items)


def unavailable() -> StorageError:
    """What a client may know of a storage problem: no path, and when to try again."""
    return StorageError(
        "the gateway's database can't be written at the moment: try again shortly",
        code="storage_busy",
        headers=(("retry-after", "2"),),
    )
