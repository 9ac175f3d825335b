"""The parent of several workers: it listens, starts them, starts anew whichever dies, and serves nothing itself.

hypercorn's own way to several processes ends them all when one dies, and leaves orphans when only the parent is killed.

- **A worker is a new interpreter, not a fork.** What a fork takes over of threads, locks and a running loop can't be
  relied on, and a worker that dies after a week is replaced out of a parent that has all of these.
- **The listening socket is made once and inherited.** A connection that waits to be accepted isn't lost with a worker,
  and whichever worker is idle takes it.
- **No orphans.** A worker and its parent have a socket pair between them, the `line`. However the parent dies, the
  kernel closes its end, and the worker stops as by SIGTERM. (Linux' PR_SET_PDEATHSIG does nothing for a worker whose
  parent died before it asked for it, and takes the end of the starting *thread* for the parent's.)
- **One config.** It is read and checked here and goes down the line, so that a reload reaches all or none, and a worker
  that is started later serves by the config of its siblings, whatever has become of the file.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable
from pathlib import Path

from . import line, logs
from .config import Resolved
from .errors import Failure, LlmgateError, StorageError, reason
from .line import Order
from .listening import check_installed, check_tls
from .plans import policy_of
from .store import holds
from .store.db import Database
from .store.holds import Recovered

log = logging.getLogger("llmgate.parent")

STEADY_S = 10.0
"""A worker that has lived for so long is replaced at once when it dies."""

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 30.0
"""Before one is started anew that died young; doubled each time, so that what can't work doesn't burn the machine."""

WELL = (0, -signal.SIGTERM)
"""How a worker ends that was told to: SIGTERM kills one that hasn't begun yet."""


def serve(
    resolved: Resolved,
    database: Path,
    listener: socket.socket,
    *,
    reload: Callable[[], Resolved],
    ready: Callable[[Recovered], None],
) -> None:
    """Have `[server] workers` processes serve until SIGTERM or SIGINT, a second one of which hurries.

    `reload` reads the config anew (SIGHUP); `ready` is told once all of them answer. Raises LlmgateError where one
    can't begin, or didn't end as it should.
    """
    logs.set_up(resolved.config.log, several=True)
    check_installed(resolved.config)
    check_tls(resolved.config.server)
    asyncio.run(_Parent(resolved, database, listener).run(reload, ready))


class _Worker:
    """A process, and the line to it."""

    def __init__(self, process: Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer

    def tell(self, message: Resolved | Order) -> None:
        self._writer.write(line.pack(message))

    async def begun(self) -> Recovered:
        """What it says when it answers requests. Raises LlmgateError where it never does."""
        try:
            said = await line.read(self._reader)
        except EOFError:
            raise Failure(f"a worker ended before it could serve ({await self.ended()})") from None
        if isinstance(said, LlmgateError):
            raise said
        assert isinstance(said, Recovered)
        return said

    async def ended(self) -> str:
        """How it ended, once it has."""
        code = await self._process.wait()
        self._writer.close()
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    @property
    def well(self) -> bool:
        return self._process.returncode in WELL


class _Parent:
    def __init__(self, resolved: Resolved, database: Path, listener: socket.socket) -> None:
        self._resolved = resolved
        self._database = database
        self._listener = listener
        self._crew: set[_Worker] = set()
        self._stopping = asyncio.Event()
        self._worst: str | None = None
        """How a worker ended that died while all were to stop."""

    async def run(self, reload: Callable[[], Resolved], ready: Callable[[Recovered], None]) -> None:
        self._on_signals(reload)
        try:
            first = [await self._start() for _ in range(self._resolved.config.server.workers)]
            begun = await asyncio.gather(*(worker.begun() for worker in first))
            if not self._stopping.is_set():
                ready(Recovered(sum(one.holds for one in begun), sum(one.charge_nano for one in begun)))
            await asyncio.gather(*(self._keep(worker) for worker in first))
        except LlmgateError:
            if not self._stopping.is_set():
                raise
        finally:
            if not self._stopping.is_set():
                self._stop()
            await asyncio.gather(*(worker.ended() for worker in self._crew))
        if self._worst:
            raise Failure(f"a worker died while it was to stop ({self._worst}): what it left behind was booked")

    async def _start(self) -> _Worker:
        """Start a worker. Raises Failure where the system has no room for one."""
        try:
            ours, theirs = socket.socketpair()
            with theirs:
                process = await self._spawn(theirs)
        except OSError as error:
            raise Failure(f"no worker can be started: {reason(error)}") from error
        worker = _Worker(process, *await asyncio.open_connection(sock=ours))
        # From here on without a pause: it gets the config of now, and every message that comes after.
        worker.tell(self._resolved)
        self._crew.add(worker)
        if self._stopping.is_set():
            worker.tell(Order.STOP)
        return worker

    async def _spawn(self, to_parent: socket.socket) -> Process:
        files = (to_parent.fileno(), self._listener.fileno())
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "llmgate.worker", *map(str, files), str(self._database)),
            pass_fds=files,
            stdin=DEVNULL,
            # It imports what this process would, and nothing from the folder that it happens to be started in.
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )

    async def _keep(self, worker: _Worker) -> None:
        """Replace a worker whenever it dies, until all are to stop."""
        time = asyncio.get_running_loop().time
        began, pause_s = time(), 0.0
        while True:
            how = await worker.ended()
            self._crew.discard(worker)
            await self._book()
            if self._stopping.is_set():
                self._worst = self._worst if worker.well else how
                return
            log.error("a worker ended (%s): another is started", how)
            steady = time() - began >= STEADY_S
            pause_s = 0.0 if steady else min(2 * pause_s or FIRST_PAUSE_S, LONGEST_PAUSE_S)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s)
                return
            began = time()
            try:
                worker = await self._start()
                await worker.begun()
            except LlmgateError as error:
                log.error("a worker could not begin: %s", error.message)  # noqa: TRY400

    async def _book(self) -> None:
        """Resolve at once what a worker held when it died."""
        try:
            found = await asyncio.to_thread(self._recover)
        except StorageError as error:
            log.warning("what a worker left behind is not booked yet: %s", error.message)
        else:
            if found.holds:
                log.warning("booked as interrupted, because their worker died: %s", found)

    def _recover(self) -> Recovered:
        policy = policy_of(self._resolved.config)
        with Database(self._database, actor="serve", create=False) as store, store.write() as tx:
            return holds.recover(tx, self._database, policy)

    def _on_signals(self, reload: Callable[[], Resolved]) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload, reload)

    def _stop(self) -> None:
        """Have all workers stop; said again, in a hurry."""
        self._tell(Order.HURRY if self._stopping.is_set() else Order.STOP)
        self._stopping.set()
        self._listener.close()

    def _reload(self, reload: Callable[[], Resolved]) -> None:
        try:
            self._resolved = reload()
        except LlmgateError as error:
            log.error("the config was not reloaded, the old one stays: %s", error.message)  # noqa: TRY400
        else:
            self._tell(self._resolved)

    def _tell(self, message: Resolved | Order) -> None:
        for worker in self._crew:
            worker.tell(message)
