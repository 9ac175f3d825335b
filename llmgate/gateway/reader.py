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


class Reader:
    """One reader after the other. Nothing is opened before the first."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="llmgate-reader")
        self._db: Database | None = None

    async def run(self, work: Callable[[Tx], T]) -> T:
        """What `work` finds, in one consistent view. Raises StorageError that tells a client nothing of the file."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._read, work)

    def _read(self, work: Callable[[Tx], T]) -> T:
        try:
            if self._db is None:
                self._db = Database(self._path, actor="serve", create=False)
            with self._db.read() as tx:
                return work(tx)
        except StorageError as error:
            log.error("the database can't be read: %s", error.message)  # noqa: TRY400
            raise unavailable() from error

    async def close(self) -> None:
        """Once nobody reads any more."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown()

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()
