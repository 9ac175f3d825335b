"""Reading that may take long - sums over months, listings - in a thread of its own: the loop goes on meanwhile.

Single reads stay in the loop (`Gateway.look`): they take microseconds, and going to a thread takes longer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from ..errors import StorageError
from ..store.db import Database, Tx
from .writer import unavailable

T = TypeVar("T")

log = logging.getLogger("llmgate.server")


class Aside:
    """One piece of work after the other, over a connection of its own. Nothing is opened before the first."""

    def __init__(self, path: Path, name: str, trouble: str, *, durable: bool = False) -> None:
        self._path = path
        self._trouble = trouble
        """What the log says where the database fails."""
        self._durable = durable
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._db: Database | None = None

    async def do(self, work: Callable[[Database], T]) -> T:
        """Raises StorageError that tells a client nothing of the file."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._with, work)

    def _with(self, work: Callable[[Database], T]) -> T:
        try:
            if self._db is None:
                self._db = Database(self._path, actor="serve", durable=self._durable, create=False)
            return work(self._db)
        except StorageError as error:
            log.error("%s: %s", self._trouble, error.message)  # noqa: TRY400
            raise unavailable() from error

    async def close(self) -> None:
        """Once nothing is done there any more."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown()

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()


class Reader(Aside):
    def __init__(self, path: Path) -> None:
        super().__init__(path, "llmgate-reader", "the database can't be read")

    async def run(self, work: Callable[[Tx], T]) -> T:
        """What `work` finds, in one consistent view. Raises as `do`."""

        def read(db: Database) -> T:
            with db.read() as tx:
                return work(tx)

        return await self.do(read)
