"""The file: made, migrated, refused, locked, copied; and what a transaction promises."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmgate.errors import Refusal, StorageError
from llmgate.pricing import FREE
from llmgate.store import db as store
from llmgate.store import prices, schema, sizes
from llmgate.store.backups import backup
from llmgate.store.db import APPLICATION_ID, Database, connect, set_zone, translate
from llmgate.types import Meters

from ..books import Book


def sentence(path: Path, *, create: bool = True) -> str:
    """What opening a file is refused with."""
    with pytest.raises(StorageError) as caught:
        Database(path, create=create).close()
    assert str(path) in caught.value.message
    return caught.value.message


def pragma(path: Path, name: str) -> Any:
    with closing(sqlite3.connect(path)) as conn:
        return conn.execute(f"PRAGMA {name}").fetchone()[0]


# ── made ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_new_file_belongs_to_its_owner_alone_and_its_folder_is_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / "llmgate.db"
    umask = os.umask(0)
    try:
        with Database(path) as db, db.write() as tx:
            set_zone(tx, "Europe/Berlin")
            modes = [stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()]
            assert len(modes) == 3, "the file, its log and the log's index"
            assert set(modes) == {0o600}
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_new_file_says_whose_it_is_and_how_old(tmp_path: Path) -> None:
    with Database(tmp_path / "x.db") as db:
        assert db.migrated_from == 0
        assert db.zone.key == "UTC"
        assert db.conn.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        assert db.conn.execute("PRAGMA foreign_keys").fetchone()[0] == 1
    assert (pragma(tmp_path / "x.db", "application_id"), pragma(tmp_path / "x.db", "user_version")) == (
        APPLICATION_ID,
        schema.VERSION,
    )
    with Database(tmp_path / "x.db") as again:
        assert again.migrated_from == schema.VERSION


def test_there_are_as_many_migrations_as_the_version_says() -> None:
    assert len(schema.MIGRATIONS) == schema.VERSION


@pytest.mark.parametrize(("durable", "synchronous"), [(False, 1), (True, 2)])
def test_durable_means_synced(tmp_path: Path, durable: bool, synchronous: int) -> None:
    with Database(tmp_path / "x.db", durable=durable) as db:
        assert db.conn.execute("PRAGMA synchronous").fetchone()[0] == synchronous


def test_a_file_that_must_be_there(tmp_path: Path) -> None:
    assert "there is no database" in sentence(tmp_path / "none.db", create=False)
    assert not (tmp_path / "none.db").exists()


def test_an_empty_file_becomes_ours(tmp_path: Path) -> None:
    (tmp_path / "x.db").touch()
    with Database(tmp_path / "x.db", create=False) as db:
        assert db.migrated_from == 0


OPENER = """
import sys, time
from pathlib import Path
from llmgate.store import schema
from llmgate.store.db import Database
import sqlite_utils, sqlite_utils.migrations
print("ready", flush=True)
sys.stdin.readline()
with Database(Path(sys.argv[1])) as db, db.read() as tx:
    zones = tx.value("SELECT count(*) FROM meta WHERE key = 'zone'")
    print(zones, db.conn.execute("PRAGMA journal_mode").fetchone()[0])
"""


def test_processes_that_open_a_new_file_at_once_make_one_database(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "x.db"
    openers = [
        subprocess.Popen(
            [sys.executable, "-c", OPENER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for opener in openers:
        assert opener.stdout is not None
        assert opener.stdout.readline() == "ready\n"
    for opener in openers:
        assert opener.stdin is not None
        opener.stdin.write("go\n")
        opener.stdin.flush()
    assert [opener.communicate(timeout=30)[0] for opener in openers] == ["1 wal\n"] * 4


# ── migrated ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def nicknames(db: Any) -> None:
    db.execute("ALTER TABLE users ADD COLUMN nickname TEXT")


def broken(db: Any) -> None:
    db.execute("CREATE TABLE half (x INTEGER) STRICT")
    db.execute("ALTER TABLE no_such_table ADD COLUMN x")


def migrations(monkeypatch: pytest.MonkeyPatch, *steps: Callable[[Any], None]) -> None:
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, *steps))
    monkeypatch.setattr(schema, "VERSION", len(schema.MIGRATIONS))


def test_an_older_database_is_migrated_with_all_that_is_in_it(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    book.user("alice", credits=500)
    before = schema.VERSION
    migrations(monkeypatch, nicknames)
    with Database(book.path) as db:
        assert db.migrated_from == before
        with db.read() as tx:
            assert tx.value("SELECT nickname FROM users WHERE name = 'alice'") is None
            assert tx.value("SELECT balance_nano FROM accounts") == 500
    assert pragma(book.path, "user_version") == before + 1


def test_a_migration_that_fails_leaves_the_database_as_it_was(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    book.user("alice", credits=500)
    before = schema.VERSION
    migrations(monkeypatch, nicknames, broken)
    assert "no_such_table" in sentence(book.path)
    assert pragma(book.path, "user_version") == before
    assert "nickname" not in {row["name"] for row in book.rows("PRAGMA table_info(users)")}
    assert book.value("SELECT count(*) FROM sqlite_master WHERE name = 'half'") == 0
    monkeypatch.undo()
    assert book.findings() == []


def test_a_file_that_was_marked_as_ours_but_never_filled_is_filled(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    with closing(sqlite3.connect(path)) as conn:
        conn.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    with Database(path) as db:
        assert db.migrated_from == 0
        assert db.zone.key == "UTC"


def test_a_backup_that_was_put_in_place_writes_to_a_log_again(book: Book, tmp_path: Path) -> None:
    """Without one, readers and writers would wait for each other for ever after."""
    backup(book.db, tmp_path / "copy.db")
    assert pragma(tmp_path / "copy.db", "journal_mode") == "delete"
    with Database(tmp_path / "copy.db") as db:
        assert db.conn.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


# ── refused ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_database_of_a_newer_llmgate_is_refused(book: Book) -> None:
    book.db.conn.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    told = sentence(book.path)
    assert f"written by a newer llmgate (schema {schema.VERSION + 1}, this one knows {schema.VERSION})" in told
    assert "upgrade llmgate" in told


@pytest.mark.parametrize("script", ["CREATE TABLE notes (text)", "PRAGMA user_version = 1", "PRAGMA user_version = 9"])
def test_another_programs_database_is_refused_and_left_alone(tmp_path: Path, script: str) -> None:
    path = tmp_path / "notes.db"
    with closing(sqlite3.connect(path)) as conn:
        conn.execute(script)
    before = path.read_bytes()
    assert "not one of llmgate's" in sentence(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"PK\x03\x04" + b"zip" * 1000, b"[upstreams.openai]\n" * 100])
def test_what_is_no_database_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "llmgate.toml"
    path.write_bytes(content)
    assert "is not a SQLite database" in sentence(path)
    assert path.read_bytes() == content


def test_a_directory_is_refused(tmp_path: Path) -> None:
    assert "can't be opened" in sentence(tmp_path)


def test_a_file_where_a_folder_is_needed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "can't be opened" in sentence(tmp_path / "file" / "x.db")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that another user may reach."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


AS_NOBODY = """
import os, sys
from pathlib import Path
from llmgate.errors import StorageError
from llmgate.store.db import Database, set_zone
if os.geteuid() == 0:
    os.setuid(65534)
try:
    with Database(Path(sys.argv[1])) as db:
        with db.read() as tx:
            print(tx.value("SELECT count(*) FROM meta WHERE key = 'zone'"))
        with db.write() as tx:
            set_zone(tx, "Europe/Berlin")
except StorageError as error:
    print(error.code, error.message)
"""


def as_nobody(path: Path) -> list[str]:
    """What a user who isn't root is told, who reads a database and then writes to it."""
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, path], capture_output=True, text=True, check=True, timeout=30
    )
    return done.stdout.splitlines()


def test_a_read_only_file_can_be_read_and_says_so_when_written(open_folder: Path) -> None:
    path = open_folder / "x.db"
    Database(path).close()
    path.chmod(0o444)
    assert as_nobody(path) == ["1", f"storage_error {path} can't be written: it is read-only for this user"]


def test_a_file_that_may_not_be_read_is_refused(open_folder: Path) -> None:
    path = open_folder / "x.db"
    Database(path).close()
    path.chmod(0)
    assert as_nobody(path) == [f"storage_error {path} can't be opened: check the folder and its permissions"]


def test_a_damaged_file_is_told_from_an_error_of_ours(tmp_path: Path) -> None:
    book = Book(tmp_path / "x.db")
    for number in range(50):
        book.user(f"user{number}", credits=number + 1)
    book.close()
    content = bytearray(book.path.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    book.path.write_bytes(content)
    with pytest.raises(StorageError) as caught, Database(book.path) as db, db.read() as tx:
        tx.execute("SELECT * FROM users ORDER BY name").fetchall()
    assert "is damaged" in caught.value.message
    assert "restore a backup" in caught.value.message


@pytest.mark.parametrize(
    ("code", "told", "kind"),
    [
        (sqlite3.SQLITE_BUSY, "is locked by another process", "storage_busy"),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, "is locked by another process", "storage_busy"),
        (sqlite3.SQLITE_LOCKED, "is locked by another process", "storage_busy"),
        (sqlite3.SQLITE_FULL, "the disk of /x.db is full", "storage_error"),
        (sqlite3.SQLITE_IOERR_WRITE, "can't be read or written (no)", "storage_error"),
        (sqlite3.SQLITE_READONLY_DBMOVED, "it is read-only", "storage_error"),
        (sqlite3.SQLITE_CANTOPEN_ISDIR, "can't be opened", "storage_error"),
        (sqlite3.SQLITE_CORRUPT, "is damaged (no)", "storage_error"),
        (sqlite3.SQLITE_NOTADB, "is not a SQLite database", "storage_error"),
        (sqlite3.SQLITE_CONSTRAINT_CHECK, "/x.db: no", "storage_error"),
        (None, "/x.db: no", "storage_error"),
    ],
)
def test_a_complaint_in_a_sentence(code: int | None, told: str, kind: str) -> None:
    error = sqlite3.OperationalError("no")
    if code is not None:
        error.sqlite_errorcode = code
    found = translate(error, Path("/x.db"))
    assert told in found.message
    assert (found.code, found.exit_code) == (kind, 4)


# ── locked ────────────────────────────────────────────────────────────────────────────────────────────────────────────

HOLDER = """
import sqlite3, sys
conn = sqlite3.connect(sys.argv[1], isolation_level=None)
conn.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def locked(book: Book) -> Iterator[Book]:
    """A book that another process is writing to."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(book.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        book.db.conn.execute("PRAGMA busy_timeout = 20")
        yield book
        holder.communicate("go\n", timeout=10)


def test_what_another_process_locks_is_busy(locked: Book) -> None:
    with pytest.raises(StorageError) as caught, locked.db.write():
        pytest.fail("the lock was not respected")
    assert (caught.value.code, caught.value.http_status, caught.value.exit_code) == ("storage_busy", 503, 4)
    assert "is locked by another process: try again" in caught.value.message
    assert not locked.db.conn.in_transaction


def test_what_another_process_writes_can_be_opened_and_read_meanwhile(locked: Book) -> None:
    with Database(locked.path) as db, db.read() as tx:
        assert tx.value("SELECT count(*) FROM users") == 0


def test_a_writer_waits_its_turn(book: Book) -> None:
    book.db.conn.execute("PRAGMA busy_timeout = 5000")
    other = connect(book.path)
    other.execute("BEGIN IMMEDIATE")
    threading.Timer(0.1, lambda: other.execute("COMMIT")).start()
    began = time.monotonic()
    with book.write() as tx:
        set_zone(tx, "Europe/Berlin")
    assert time.monotonic() - began >= 0.05
    other.close()


def test_a_file_that_stays_locked_while_it_is_made_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "BUSY_TIMEOUT_MS", 30)
    path = tmp_path / "x.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        with pytest.raises(StorageError) as caught:
            Database(path)
    assert caught.value.code == "storage_busy"


# ── a transaction ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("error", [Refusal("no"), ValueError("no"), KeyboardInterrupt(), SystemExit(1)])
def test_a_write_that_raises_leaves_nothing(book: Book, error: BaseException) -> None:
    def fail() -> None:
        with book.write() as tx:
            set_zone(tx, "Europe/Berlin")
            prices.intern(tx, FREE)
            raise error

    with pytest.raises(type(error)):
        fail()
    assert book.db.zone.key == "UTC"
    assert book.value("SELECT count(*) FROM prices") == 0
    with book.write() as tx:
        set_zone(tx, "Asia/Tokyo")
    assert book.db.zone.key == "Asia/Tokyo"


def test_a_constraint_is_an_error_of_storage(book: Book) -> None:
    with pytest.raises(StorageError, match="UNIQUE constraint failed"), book.write() as tx:
        tx.execute("INSERT INTO meta (key, value) VALUES ('zone', 'UTC')")


def test_a_sum_that_overflows_is_refused_and_not_rounded(book: Book) -> None:
    book.user("alice", credits=2**63 - 1)
    with pytest.raises(StorageError), book.write() as tx:
        tx.execute("UPDATE accounts SET balance_nano = balance_nano + 1")
    assert book.money("alice") == (2**63 - 1, 0)


def test_a_view_sees_nothing_that_is_written_meanwhile(book: Book) -> None:
    with Database(book.path) as other, book.db.read() as tx:
        assert tx.value("SELECT value FROM meta WHERE key = 'zone'") == "UTC"
        with other.write() as writing:
            set_zone(writing, "Europe/Berlin")
        assert tx.value("SELECT value FROM meta WHERE key = 'zone'") == "UTC"
    assert book.db.zone.key == "Europe/Berlin"


def test_a_view_is_left_also_when_reading_raises(book: Book) -> None:
    with pytest.raises(StorageError, match="no such table"), book.db.read() as tx:
        tx.execute("SELECT * FROM nonsense")
    assert not book.db.conn.in_transaction


def test_a_transaction_has_one_moment_and_one_actor(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(time_ns=lambda: 1_700_000_000_123_456_789, monotonic=time.monotonic)
    monkeypatch.setattr(store, "time", clock)
    with book.write() as tx:
        assert (tx.now_ms, tx.actor) == (1_700_000_000_123, "test")
        assert tx.one("SELECT 1 WHERE 0") is None
        assert tx.value("SELECT 1 WHERE 0") is None


# ── what is never edited ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("UPDATE entries SET amount_nano = 1", "a ledger entry is never edited: reverse it"),
        ("UPDATE entries SET note = 'x' WHERE id = 1", "a ledger entry is never edited: reverse it"),
        ("DELETE FROM entries", "a ledger entry is never deleted: reverse it"),
        ("UPDATE usage SET charge_nano = 0", "a usage row is never edited"),
        ("DELETE FROM usage WHERE id = 1", "a usage row is never deleted"),
        ("UPDATE prices SET body = '{}'", "a price snapshot is never edited"),
        ("DELETE FROM prices", "a price snapshot is never deleted"),
    ],
)
def test_entries_and_prices_are_not_edited_not_even_by_hand(book: Book, statement: str, told: str) -> None:
    book.use(book.user("alice", credits=500), Meters(input=1, calls=1))
    with pytest.raises(sqlite3.IntegrityError, match=told):
        book.db.conn.execute(statement)
    assert book.findings() == []


ENTRY = "INSERT INTO entries (account_id, kind, amount_nano, actor, created_ms, hash)"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE accounts SET balance_nano = 1.5",
        "UPDATE accounts SET billing = 'free'",
        "UPDATE keys SET user_id = 99",
        f"{ENTRY} VALUES (1, 'add', 0, 'x', 1, x'')",
        f"{ENTRY} VALUES (1, 'gift', 1, 'x', 1, x'')",
    ],
)
def test_the_schema_refuses_what_cannot_be(book: Book, statement: str) -> None:
    book.use(book.user("alice", credits=500), Meters(input=1, calls=1))
    with pytest.raises(sqlite3.IntegrityError):
        book.db.conn.execute(statement)


# ── copied ────────────────────────────────────────────────────────────────────────────────────────────────────────────

WRITER = """
import sys, time
from pathlib import Path
from llmgate.store import ledger
from llmgate.store.db import Database
with Database(Path(sys.argv[1])) as db:
    print("ready", flush=True)
    while True:
        with db.write() as tx:
            ledger.add(tx, "alice", 1)
            ledger.add(tx, "bob", 1)
"""


def test_a_backup_taken_under_writes_is_one_moment_of_the_book(book: Book, tmp_path: Path) -> None:
    book.user("alice", credits=1)
    book.user("bob", credits=1)
    with book.write() as tx:  # more than one step's worth of pages, so that a copy in steps would start over for ever
        for number in range(40):
            tx.execute(
                "INSERT INTO audit (time_ms, actor, action, target) VALUES (0, '', ?, ?)", (str(number), "x" * 500_000)
            )
    with subprocess.Popen([sys.executable, "-c", WRITER, str(book.path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        try:
            time.sleep(0.1)
            sizes_found = [backup(book.db, tmp_path / f"copy{number}.db") for number in range(3)]
        finally:
            writer.kill()
    balances = []
    for number, size in enumerate(sizes_found):
        path = tmp_path / f"copy{number}.db"
        assert path.stat().st_size == size
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert sorted(file.name for file in tmp_path.glob(f"copy{number}*")) == [path.name], "one file, and no log"
        copy = Book(path)
        assert copy.money("alice") == copy.money("bob")
        assert copy.findings() == []
        balances.append(copy.money("alice")[0])
        copy.close()
    assert balances == sorted(balances)
    assert balances[-1] > 1


def test_a_backup_never_overwrites(book: Book, tmp_path: Path) -> None:
    (tmp_path / "copy.db").write_text("precious")
    with pytest.raises(StorageError, match="exists already: choose another name"):
        backup(book.db, tmp_path / "copy.db")
    assert (tmp_path / "copy.db").read_text() == "precious"
    with pytest.raises(StorageError, match="exists already"):
        backup(book.db, book.path)


def test_a_backup_makes_its_folder(book: Book, tmp_path: Path) -> None:
    assert backup(book.db, tmp_path / "a" / "b" / "copy.db") > 0


def test_a_backup_that_fails_leaves_no_file_that_looks_like_one(tmp_path: Path) -> None:
    book = Book(tmp_path / "x.db")
    for number in range(50):
        book.user(f"user{number}")
    book.close()
    content = bytearray(book.path.read_bytes())
    content[8192:12288] = os.urandom(4096)
    book.path.write_bytes(content)
    with Database(book.path) as db, pytest.raises(StorageError, match="damaged"):
        backup(db, tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists()


def test_a_backup_of_what_is_not_sound_is_no_backup(book: Book, tmp_path: Path) -> None:
    """Every page can be read, but an index doesn't say what its table says."""
    book.use(book.user("alice"), Meters(input=1, calls=1))
    book.tamper(
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_master SET sql = 'CREATE INDEX usage_by_time ON usage (duration_ms)' "
        "WHERE name = 'usage_by_time'",
        "PRAGMA writable_schema = RESET",
    )
    with pytest.raises(StorageError, match="can't be copied soundly"):
        backup(book.db, tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists()


# ── measured ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_sizes(book: Book) -> None:
    book.use(book.user("alice", credits=500), Meters(input=1, calls=1))
    rows = sizes.rows_per_table(book.tx)
    assert {name: rows[name] for name in ("users", "accounts", "entries", "usage", "holds", "audit")} == {
        "users": 1,
        "accounts": 1,
        "entries": 1,
        "usage": 1,
        "holds": 0,
        "audit": 3,
    }
    assert not [name for name in rows if name.startswith(("_", "sqlite_"))]
    log = book.path.with_name("llmgate.db-wal")
    assert sizes.bytes_on_disk(book.path) == book.path.stat().st_size + log.stat().st_size
    assert sizes.bytes_on_disk(book.path.with_name("none.db")) == 0
