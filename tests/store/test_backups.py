"""Backups in number and in place: what a restore changes, keeps, and refuses."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from llmgate.errors import StorageError
from llmgate.store import accounts, backups, schema
from llmgate.store.backups import backup, examine, restore, rotate
from llmgate.store.db import Database, write_to
from llmgate.types import Meters

from ..books import Book


class Closed(Book):
    """A book that may be closed before its test ends."""

    is_open = True

    def close(self) -> None:
        if self.is_open:
            super().close()
        self.is_open = False


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    book = Closed(tmp_path / "llmgate.db")
    yield book
    book.close()


@pytest.fixture
def copy(book: Book, tmp_path: Path) -> Path:
    """A backup with alice; bob came after it was made."""
    key = book.user("alice", credits=100)
    book.use(key, Meters(input=10, output=5, calls=1))
    backup(book.db, tmp_path / "copies" / "copy.db")
    book.user("bob", credits=7)
    return tmp_path / "copies" / "copy.db"


def users(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as conn:
        return [name for (name,) in conn.execute("SELECT name FROM users ORDER BY name")]


def beside(path: Path) -> set[str]:
    """The files of a folder, without the workers'."""
    return {file.name for file in path.parent.iterdir() if file.is_file()}


# ── put in place ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_restore_brings_back_the_books_and_keeps_what_it_replaces(book: Book, copy: Path) -> None:
    balance = 100 - 10 - 2 * 5
    book.close()
    kept = restore(copy, book.path, actor="cli:ann")
    assert kept is not None
    assert users(book.path) == ["alice"]
    assert users(kept) == ["alice", "bob"]
    assert beside(book.path) == {book.path.name, kept.name}, "no log, and nothing half made"
    assert [stat.S_IMODE(path.stat().st_mode) for path in (book.path, kept)] == [0o600, 0o600]
    again = Book(book.path)
    assert again.money("alice")[0] == balance
    assert again.findings() == []
    with again.db.read() as tx:
        row = tx.one("SELECT * FROM audit WHERE action = 'db.restore'")
    assert row is not None
    assert (row["actor"], row["target"]) == ("cli:ann", str(copy))
    assert str(kept) in row["after"]
    again.close()
    assert users(copy) == ["alice"], "the backup itself is as it was"


def test_what_was_only_in_the_log_is_kept_with_the_replaced_database(book: Book, copy: Path, tmp_path: Path) -> None:
    """A killed process leaves its log: it belongs to the old database, and must not be played into the new one."""
    book.close()
    script = (
        "import os, sys; from pathlib import Path; from llmgate.store import accounts; "
        "from llmgate.store.db import Database; db = Database(Path(sys.argv[1]))\n"
        "with db.write() as tx: accounts.add_user(tx, 'carol')\n"
        "os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", script, str(book.path)], check=True)
    assert book.path.with_name(f"{book.path.name}-wal").stat().st_size > 0
    kept = restore(copy, book.path, actor="cli")
    assert kept is not None
    assert users(kept) == ["alice", "bob", "carol"]
    assert users(book.path) == ["alice"]


def test_a_damaged_database_is_replaced_and_its_log_never_met_again(book: Book, copy: Path) -> None:
    book.close()
    log = book.path.with_name(f"{book.path.name}-wal")
    book.path.write_bytes(b"no database at all" * 1000)
    log.write_bytes(b"its log")
    kept = restore(copy, book.path, actor="cli")
    assert kept is not None
    assert kept.read_bytes().startswith(b"no database")
    assert kept.with_name(f"{kept.name}-wal").read_bytes() == b"its log"
    assert not log.exists()
    assert users(book.path) == ["alice"]


def test_a_restore_where_there_is_no_database_any_more(book: Book, copy: Path, tmp_path: Path) -> None:
    place = tmp_path / "new" / "llmgate.db"
    assert restore(copy, place, actor="cli") is None
    assert users(place) == ["alice"]


def test_a_log_without_its_database_is_not_played_into_the_restored_one(copy: Path, tmp_path: Path) -> None:
    place = tmp_path / "gone" / "llmgate.db"
    place.parent.mkdir()
    place.with_name("llmgate.db-journal").write_bytes(b"old")
    restore(copy, place, actor="cli")
    assert not place.with_name("llmgate.db-journal").exists()
    assert users(place) == ["alice"]


def test_a_link_to_the_database_stays_a_link(book: Book, copy: Path, tmp_path: Path) -> None:
    book.close()
    link = tmp_path / "link.db"
    link.symlink_to(book.path)
    restore(copy, link, actor="cli")
    assert link.is_symlink()
    assert users(book.path) == ["alice"]


# ── refused ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def refused(file: Path, place: Path) -> str:
    """What a restore is refused with; it has changed nothing."""
    before, names = place.read_bytes(), beside(place)
    with pytest.raises(StorageError) as caught:
        restore(file, place, actor="cli")
    assert place.read_bytes() == before
    assert beside(place) == names
    return caught.value.message


def test_a_database_that_a_daemon_serves_is_not_replaced(book: Book, copy: Path) -> None:
    assert "a daemon serves" in refused(copy, book.path)


def test_a_database_that_somebody_has_open_is_not_replaced(
    book: Book, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmgate.store.db.BUSY_TIMEOUT_MS", 100)
    book.close()
    with Database(book.path):
        assert "locked by another process" in refused(copy, book.path)
    assert restore(copy, book.path, actor="cli")


def test_who_opened_the_replaced_file_can_write_nothing_into_it(book: Book, copy: Path) -> None:
    book.close()
    with closing(sqlite3.connect(book.path)) as late:  # it has the file, and no lock on it yet
        kept = restore(copy, book.path, actor="cli")
        with pytest.raises(sqlite3.OperationalError) as caught:
            write_to(late, "WAL")
        assert caught.value.sqlite_errorcode == sqlite3.SQLITE_READONLY_DBMOVED
    assert kept is not None
    assert users(kept) == ["alice", "bob"]
    assert users(book.path) == ["alice"]


def test_a_damaged_backup_is_refused(book: Book, copy: Path) -> None:
    book.close()
    content = bytearray(copy.read_bytes())
    content[8192:20480] = os.urandom(12288)
    copy.write_bytes(content)
    assert "damaged" in refused(copy, book.path)


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("PRAGMA application_id = 7", "is no database of llmgate's"),
        ("PRAGMA user_version = 0", "is no database of llmgate's"),
        (f"PRAGMA user_version = {schema.VERSION + 1}", "written by a newer llmgate"),
    ],
)
def test_a_file_that_is_not_ours_to_restore(book: Book, copy: Path, script: str, told: str) -> None:
    book.close()
    with closing(sqlite3.connect(copy)) as conn:
        conn.execute(script)
    assert told in refused(copy, book.path)


def test_what_is_no_database_or_not_there_or_the_database_itself(book: Book, copy: Path, tmp_path: Path) -> None:
    book.close()
    (tmp_path / "text").write_text("not a database, but long enough to be taken for one" * 100)
    assert "is not a SQLite database" in refused(tmp_path / "text", book.path)
    assert "there is no file" in refused(tmp_path / "nothing.db", book.path)
    assert "is the database itself" in refused(book.path, book.path)


def test_another_programs_database_is_not_replaced(copy: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "notes.db"
    other.parent.mkdir()
    with closing(sqlite3.connect(other)) as conn:
        conn.execute("CREATE TABLE notes (text)")
    assert "another program's" in refused(copy, other)


def test_a_backup_of_an_older_schema_is_brought_up_to_date_before_it_takes_the_place(
    book: Book, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book.close()
    old = tmp_path / "older" / "old.db"
    with monkeypatch.context() as then:
        then.setattr(schema, "VERSION", 1)
        then.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:1])
        Database(old).close()
    assert examine(old).schema == 1
    restore(old, book.path, actor="cli")
    with Database(book.path) as db:
        assert db.migrated_from == schema.VERSION


# ── in number ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def clockwork(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at the clock is a second after the one before."""
    ticks = iter(range(1_800_000_000_000, 1_900_000_000_000, 1_000))
    monkeypatch.setattr(backups, "now_ms", lambda: next(ticks))


@pytest.mark.usefixtures("clockwork")
def test_in_a_folder_the_newest_copies_are_kept_and_nothing_else_is_touched(book: Book, tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    folder.mkdir()
    others = ["llmgate-old.db", f"{book.path.stem}-2026-01-01.db", "x-2026-01-01T00-00-00.000Z.db"]
    for name in others:
        (folder / name).write_text("precious")
    made = [rotate(book.db, folder, 3) for _ in range(5)]
    assert [len(one.removed) for one in made] == [0, 0, 0, 1, 1]
    assert made[3].removed == [made[0].path]
    assert {path.name for path in folder.iterdir()} == {*others, *(one.path.name for one in made[2:])}
    assert made[0].path.name == f"{book.path.stem}-2027-01-15T08-00-00.000Z.db"
    rotate(book.db, folder, None)
    assert len(list(folder.iterdir())) == len(others) + 4


@pytest.mark.usefixtures("clockwork")
def test_the_time_stands_where_the_name_says(book: Book, tmp_path: Path) -> None:
    file = tmp_path / "b" / "gate {time}.sqlite"
    file.parent.mkdir()
    made = [rotate(book.db, file, 2) for _ in range(3)]
    assert sorted(path.name for path in file.parent.iterdir()) == [one.path.name for one in made[1:]]
    assert made[0].path.name == "gate 2027-01-15T08-00-00.000Z.sqlite"


@pytest.mark.usefixtures("clockwork")
def test_a_plain_name_is_always_the_newest(book: Book, tmp_path: Path) -> None:
    file = tmp_path / "b" / "nightly.db"
    file.parent.mkdir()
    for number in range(4):
        book.user(f"user{number}")
        made = rotate(book.db, file, 3)
        os.utime(file, (1_700_000_000 + number, 1_700_000_000 + number))
        assert made.path == file
        assert users(file) == [f"user{user}" for user in range(number + 1)]
    names = sorted(path.name for path in file.parent.iterdir())
    assert names == ["nightly-2023-11-14T22-13-21.000Z.db", "nightly-2023-11-14T22-13-22.000Z.db", "nightly.db"]
    assert len(users(file.with_name(names[0]))) == 2
    rotate(book.db, file, 1)
    assert [path.name for path in file.parent.iterdir()] == ["nightly.db"]


def test_a_database_in_use_is_never_taken_for_a_backup(book: Book, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="is a database in use"):
        rotate(book.db, book.path, 3)
    other = Book(tmp_path / "other.db")
    with pytest.raises(StorageError, match="is a database in use"):
        rotate(book.db, other.path, 3)
    other.close()
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StorageError):
        rotate(book.db, tmp_path / "notes.txt", 3)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_restored_backup_can_be_written_to(book: Book, copy: Path) -> None:
    book.close()
    restore(copy, book.path, actor="cli")
    with Database(book.path) as db, db.write() as tx:
        accounts.add_user(tx, "dora")
    with Database(book.path) as db:
        assert db.conn.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
