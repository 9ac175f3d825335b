"""One SQLite file, opened the same way by the CLI and by the daemon.

- WAL, so that readers never wait; foreign keys on; every write is one `BEGIN IMMEDIATE` transaction (a deferred one
  that reads first and writes later fails at once with SQLITE_BUSY_SNAPSHOT when another process wrote in between).
- A transaction carries one `now_ms`, so that everything it writes has happened at the same moment.
- The file belongs to its owner alone (0600), and carries an application id, so that a foreign file is never touched.
- sqlite-utils runs the migrations; the hot path and the money paths are plain SQL.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from ..clock import day_of
from ..errors import StorageError, reason
from . import schema
from .tally import Tally

APPLICATION_ID = 0x6C6C6D67
"""Written into the file's header ("llmg"): tells our databases from any other SQLite file."""

BUSY_TIMEOUT_MS = 5000
"""How long a command of the CLI waits for another writer. The daemon never waits inside its loop."""

LONG_LOG = 32 * 2**20
"""Bytes from which on a write-ahead log is long."""

Row = sqlite3.Row

T = TypeVar("T")


class Tx:
    """One transaction: a connection, the moment it happens at, and who acts."""

    __slots__ = ("_gathers", "_zone", "actor", "apart", "conn", "kept", "now_ms", "tally")

    def __init__(
        self,
        conn: sqlite3.Connection,
        now_ms: int,
        actor: str,
        kept: dict[Hashable, Any] | None = None,
        *,
        gathers: bool = False,
    ) -> None:
        """`gathers`: whoever commits it writes its tally before."""
        self.conn = conn
        self.apart: Callable[..., sqlite3.Cursor] = conn.execute
        """`execute` for statements about none of the tables that a tally is about."""
        self.tally = Tally(conn)
        self._gathers = gathers
        self.now_ms = now_ms
        self.actor = actor
        self.kept = kept
        """What earlier transactions have read and is still so (see `group`); None: everything is read."""
        self._zone: ZoneInfo | None = None if kept is None else kept.get("zone")

    @property
    def zone(self) -> ZoneInfo:
        """The zone that days, weeks and months are counted in: a fact of the book, not of a config."""
        if self._zone is None:
            self._zone = ZoneInfo(self.value("SELECT value FROM meta WHERE key = 'zone'"))
            if self.kept is not None:
                self.kept["zone"] = self._zone
        return self._zone

    @property
    def day(self) -> str:
        """The day that it is."""
        return _day(self.now_ms // 60_000, self.zone)

    def execute(self, sql: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> sqlite3.Cursor:
        """Run a statement, which sees all that was done before."""
        if self.tally.open:
            self.tally.write()
        return self.conn.execute(sql, values)

    def tallied(self) -> None:
        """Something was added to the tally: it is written now, unless it is written with what comes after it."""
        if not self._gathers:
            self.tally.write()

    def one(self, sql: str, *values: Any) -> Row | None:
        row: Row | None = self.execute(sql, values).fetchone()
        return row

    def value(self, sql: str, *values: Any) -> Any:
        """The first column of the first row, or None."""
        row = self.execute(sql, values).fetchone()
        return row[0] if row else None


@lru_cache(maxsize=64)
def _day(minute: int, zone: ZoneInfo) -> str:
    """Worked out once a minute: days begin on one."""
    return day_of(minute * 60_000, zone)


def now_ms() -> int:
    """Now, in milliseconds since the epoch, UTC."""
    return time.time_ns() // 1_000_000


class Database:
    """A migrated database file, and how to get a transaction on it.

    Not to be shared between threads or processes: each opens its own.
    """

    def __init__(self, path: Path, *, actor: str = "cli", durable: bool = False, create: bool = True) -> None:
        """Open, and create or migrate where needed.

        Raises StorageError: not a database, another program's, from a newer llmgate, unreadable, locked.
        """
        self.path = path
        self.actor = actor
        with translated(path):
            if create:
                create_empty(path)
            elif not path.exists():
                raise StorageError(f"there is no database at {path}: `llmgate keys add USER` makes one")
            self.conn = connect(path, durable=durable)
            try:
                self.migrated_from = _migrate(self.conn, path)
            except BaseException:
                self.conn.close()
                raise

    def close(self) -> None:
        self.conn.close()

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def write(self) -> Iterator[Tx]:
        """A transaction that changes something: all of it, or nothing."""
        with translated(self.path):
            self.conn.execute("BEGIN IMMEDIATE")
            try:
                yield Tx(self.conn, now_ms(), self.actor)
                self.conn.execute("COMMIT")
            except BaseException:
                if self.conn.in_transaction:
                    self.conn.execute("ROLLBACK")
                raise

    @contextmanager
    def read(self) -> Iterator[Tx]:
        """A consistent view: nothing that is written meanwhile is seen."""
        with translated(self.path):
            self.conn.execute("BEGIN")
            try:
                yield Tx(self.conn, now_ms(), self.actor)
            finally:
                if self.conn.in_transaction:
                    self.conn.execute("ROLLBACK")

    def look(self, work: Callable[[Tx], T]) -> T:
        """Read something outside of any transaction: for single reads. Raises StorageError."""
        try:
            return work(Tx(self.conn, now_ms(), self.actor))
        except (sqlite3.Error, OSError) as error:
            raise translate(error, self.path) from error

    def never_wait(self) -> None:
        """From now on a locked database is an error at once: an event loop must not sleep."""
        self.conn.execute("PRAGMA busy_timeout = 0")

    def only_read(self) -> None:
        """From now on a write is an error."""
        self.conn.execute("PRAGMA query_only = ON")

    def shorten_log(self) -> None:
        """Where the write-ahead log has grown long, let the next write begin it anew. To be called between two reads by
        whoever reads for long: while anybody reads, it can only grow. Where it can't be done now, nothing is done.
        """
        log = self.path.with_name(f"{self.path.name}-wal")
        with suppress(OSError, sqlite3.OperationalError):
            if log.stat().st_size > LONG_LOG:
                self.conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    @property
    def zone(self) -> ZoneInfo:
        """The zone that days, weeks and months are counted in: a fact of the book, not of a config."""
        row = self.conn.execute("SELECT value FROM meta WHERE key = 'zone'").fetchone()
        return ZoneInfo(row[0])


def set_zone(tx: Tx, zone: str) -> None:
    """Count days in another zone from now on. The days of the past stay as they were booked."""
    tx.execute("UPDATE meta SET value = ? WHERE key = 'zone'", (zone,))
    tx._zone = None
    tx.execute("DELETE FROM counters")  # their windows were the old zone's; they begin anew by what the facts say


def connect(path: Path, *, durable: bool = False, wait_ms: int = BUSY_TIMEOUT_MS) -> sqlite3.Connection:
    """A bare connection with our pragmas. `durable`: a commit is on the disk when it returns (survives power loss).

    It may be handed from thread to thread (the daemon commits off its loop), but never be used by two at once.
    """
    conn = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
    conn.row_factory = Row
    conn.execute(f"PRAGMA busy_timeout = {wait_ms}")
    conn.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
    conn.execute("PRAGMA foreign_keys = ON")
    conn.execute("PRAGMA trusted_schema = OFF")
    return conn


def create_empty(path: Path) -> None:
    """An empty file that only its owner may read, in a folder that is made if need be."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))


def _migrate(conn: sqlite3.Connection, path: Path) -> int:
    """Bring the schema up to date, at most once between all processes; returns the version it was at before."""
    conn.execute("BEGIN")  # one view: another process may be creating the file at this moment
    try:
        version = int(conn.execute("PRAGMA user_version").fetchone()[0])
        application = int(conn.execute("PRAGMA application_id").fetchone()[0])
        tables = conn.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    finally:
        if conn.in_transaction:
            conn.execute("ROLLBACK")
    if application != APPLICATION_ID and (tables or version):
        raise StorageError(f"{path} is a SQLite database, but not one of llmgate's: choose another file with --db")
    if version > schema.VERSION:
        raise StorageError(
            f"{path} was written by a newer llmgate (schema {version}, this one knows {schema.VERSION}): "
            "upgrade llmgate, or open a backup made before"
        )
    write_to(conn, "WAL")  # a new file doesn't yet, and a backup that was put in place doesn't either
    if version == schema.VERSION:
        return version
    conn.execute("BEGIN IMMEDIATE")
    try:
        if int(conn.execute("PRAGMA user_version").fetchone()[0]) < schema.VERSION:
            schema.apply(conn)
            conn.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            conn.execute(f"PRAGMA user_version = {schema.VERSION}")
        conn.execute("COMMIT")
    except BaseException:
        conn.execute("ROLLBACK")
        raise
    return version


def write_to(conn: sqlite3.Connection, journal: str) -> None:
    """Change the journal mode: to WAL, or away from it, which only the one who alone has the file open can do.

    SQLite doesn't wait for other connections here, so this does.
    """
    give_up = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            conn.execute(f"PRAGMA journal_mode = {journal}")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                raise
            time.sleep(0.01)
        else:
            return


@contextmanager
def translated(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise translate(error, path) from error


def translate(error: Exception, path: Path) -> StorageError:
    """SQLite's or the system's complaint as one sentence with its cure."""
    text = str(error)
    if isinstance(error, OSError):
        return StorageError(f"{path} can't be opened: {reason(error)}")
    code = getattr(error, "sqlite_errorcode", None)
    primary = code & 0xFF if code is not None else None
    sentence = {
        sqlite3.SQLITE_NOTADB: f"{path} is not a SQLite database: choose another file with --db, or restore a backup",
        sqlite3.SQLITE_CORRUPT: f"{path} is damaged ({text}): restore a backup",
        sqlite3.SQLITE_READONLY: f"{path} can't be written: it is read-only for this user",
        sqlite3.SQLITE_CANTOPEN: f"{path} can't be opened: check the folder and its permissions",
        sqlite3.SQLITE_FULL: f"the disk of {path} is full: free some space; nothing was written",
        sqlite3.SQLITE_IOERR: f"{path} can't be read or written ({text}): check the disk",
    }.get(primary or 0)
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StorageError(
            f"{path} is locked by another process: try again in a moment, or find out which one holds it",
            code="storage_busy",
        )
    return StorageError(sentence or f"{path}: {text}")
