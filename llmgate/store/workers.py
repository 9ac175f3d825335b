"""Who places holds, and whether it still lives.

Each daemon process locks a file of its own beside the database for as long as it runs. The kernel frees the lock at
the process's death, however it dies: safer than a pid, which containers reuse, or a heartbeat, which a suspended
machine misses.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
from pathlib import Path

from ..errors import Refusal
from . import schema
from .db import Row, Tx


class Worker:
    """This process as the owner of holds. Keep it for as long as the process may place one."""

    def __init__(self, database: Path) -> None:
        folder = _folder(database)
        folder.mkdir(mode=0o700, exist_ok=True)
        self.id = secrets.token_hex(8)
        self._path = folder / self.id
        hidden = folder / f".{self.id}"
        self._file = os.open(hidden, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        hidden.rename(self._path)  # seen only once it is locked: whoever looks takes what isn't for dead

    def register(self, tx: Tx) -> None:
        tx.execute(
            "INSERT INTO workers (id, pid, host, started_ms, schema) VALUES (?, ?, ?, ?, ?)",
            (self.id, os.getpid(), socket.gethostname(), tx.now_ms, schema.VERSION),
        )

    def close(self) -> None:
        """To be called once nothing is in flight any more."""
        self._path.unlink(missing_ok=True)
        os.close(self._file)


def _folder(database: Path) -> Path:
    real = database.resolve()  # one database has one folder, by whatever name it is opened
    return real.with_name(real.name + "-workers")


def dead(tx: Tx, database: Path) -> list[str]:
    """The workers that hold something and live no more."""
    owners = [row[0] for row in tx.execute("SELECT DISTINCT worker_id FROM holds")]
    return [worker for worker in owners if not _alive(_folder(database) / worker)]


def forget(tx: Tx, database: Path) -> None:
    """Drop the rows of workers that live no more and hold nothing."""
    for (worker,) in tx.execute("SELECT id FROM workers WHERE id NOT IN (SELECT worker_id FROM holds)").fetchall():
        if not _alive(_folder(database) / worker):
            tx.execute("DELETE FROM workers WHERE id = ?", (worker,))


def living(database: Path) -> int:
    """How many workers serve this database now."""
    folder = _folder(database)
    if not folder.is_dir():
        return 0
    return sum(_alive(path) for path in folder.iterdir() if not path.name.startswith("."))


def serving(tx: Tx, database: Path) -> list[Row]:
    """The workers that live, the oldest first."""
    rows = tx.execute("SELECT * FROM workers ORDER BY started_ms, id").fetchall()
    return [row for row in rows if _alive(_folder(database) / row["id"])]


def check(tx: Tx, database: Path) -> None:
    """Raises Refusal where a worker that lives knows an older schema: it would count limits without what was pruned."""
    if any((row["schema"] or 0) < schema.VERSION for row in serving(tx, database)):
        raise Refusal(
            "a daemon of an older version serves this database, and doesn't count what is pruned: restart it first",
            code="conflict",
        )


def _alive(path: Path) -> bool:
    """Whether somebody holds the lock on a worker's file. A dead worker's file is removed."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two who look at once don't take each other for it
    except BlockingIOError:
        return True
    else:
        path.unlink(missing_ok=True)
        return False
    finally:
        os.close(file)
