"""Copies of a database: made while it is in use, kept in number, put in its place.

A copy has its name only once it is whole and sound. What a restore replaces is kept beside it, whole as well, and at no
moment is there a database without the log that belongs to it, or with another's.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from ..errors import StorageError
from . import audit, schema, workers
from .db import APPLICATION_ID, Database, create_empty, now_ms, translate, translated, write_to

TIME = "{time}"
"""What stands in a name for the moment at which the copy was made."""

_STAMP = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}-[0-9]{2}-[0-9]{2}\.[0-9]{3}Z"

_LOGS = ("-wal", "-journal")
"""Files beside a database that SQLite would play into whatever database has the name."""

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)


class Backup(NamedTuple):
    """A copy, and which older ones were removed."""

    path: Path
    size_bytes: int
    removed: list[Path]


class Seen(NamedTuple):
    """What a file says of itself that may be restored."""

    schema: int
    written_ms: int | None
    """When something was last written that says when; None: nothing was."""


def backup(source: Database, target: Path) -> int:
    """Copy a live database into a new file, consistently, and check the copy. Returns its size in bytes.

    Raises StorageError if the target exists or the copy is not sound.
    """
    if target.exists():
        raise StorageError(f"{target} exists already: choose another name, a backup never overwrites")
    with translated(target), _part_of(target) as part:
        _copy(source.conn, part, source.path)
        part.rename(target)
        return target.stat().st_size


def rotate(source: Database, file: Path, keep: int | None) -> Backup:
    """As `backup`, by the name that `file` stands for; of its kind only the newest `keep` stay, None: all.

    A folder, or a name with `{time}`, gives each copy a name of its own. Any other name is always the newest copy's;
    the one that had it before gets its time into the name.
    """
    if not file.is_dir() and not file.parent.is_dir():  # perhaps a disk that isn't mounted: it isn't made
        raise StorageError(f"there is no folder {file.parent}: make it first, or mount what it is on")
    template = _template(file, source.path)
    if template is None and keep is None:
        return Backup(file, backup(source, file), [])
    series = template or file.with_name(f"{file.stem}-{TIME}{file.suffix}")
    if template is None and file.exists():
        _must_be_copy(file, source.path)
    made = _filled(series, now_ms())
    size = backup(source, made)
    with translated(file):
        if template is None:
            if file.exists():
                file.rename(_filled(series, file.stat().st_mtime_ns // 1_000_000))
            made = made.rename(file)
        older = [path for path in _of_series(series) if path != made and not path.samefile(source.path)]
        removed = older[: max(0, len(older) + 1 - keep)] if keep else []
        for path in removed:
            path.unlink()
    return Backup(made, size, removed)


def _template(file: Path, database: Path) -> Path | None:
    if file.is_dir():
        return file / f"{database.stem}-{TIME}{database.suffix}"
    return file if TIME in file.name else None


def _filled(series: Path, ms: int) -> Path:
    return series.with_name(series.name.replace(TIME, stamp(ms)))


def stamp(ms: int) -> str:
    """A moment in a file's name, in UTC; names sort as their moments do."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H-%M-%S.") + f"{ms % 1000:03d}Z"


def _of_series(series: Path) -> list[Path]:
    """The copies of a series, oldest first: only files whose names are exactly what we would have given them."""
    name = re.compile(_STAMP.join(re.escape(part) for part in series.name.split(TIME)))
    return sorted(path for path in series.parent.iterdir() if name.fullmatch(path.name) and path.is_file())


def _must_be_copy(file: Path, database: Path) -> None:
    """Nothing is renamed that isn't a backup of ours: least of all a database that is in use."""
    if file.samefile(database) or file.with_name(f"{file.name}-wal").exists():
        raise StorageError(f"{file} is a database in use: choose another name for its backups")
    examine(file)


# ── back into place ───────────────────────────────────────────────────────────────────────────────────────────────────


def examine(file: Path) -> Seen:
    """Look at a file that is to be restored. Raises StorageError where it can't be."""
    if not file.is_file():
        raise StorageError(f"there is no file {file}: `llmgate db backup FILE` makes one")
    with translated(file), closing(_opened(file)) as conn:
        version = int(conn.execute("PRAGMA user_version").fetchone()[0])
        if conn.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID or version < 1:
            raise StorageError(f"{file} is no database of llmgate's: name a file that `llmgate db backup` made")
        if version > schema.VERSION:
            raise StorageError(
                f"{file} was written by a newer llmgate (schema {version}, this one knows {schema.VERSION}): "
                "upgrade llmgate, or choose an older backup"
            )
        written = conn.execute(
            "SELECT max(ms) FROM (SELECT max(time_ms) AS ms FROM audit UNION ALL SELECT max(time_ms) FROM usage)"
        ).fetchone()[0]
    return Seen(version, written)


def restore(file: Path, database: Path, *, actor: str) -> Path | None:
    """Put a copy of `file` in a database's place; returns where the replaced one is kept, None: there was none.

    The copy is made, checked, brought up to this version's schema and given its audit row beside the database; then it
    takes the name in one step. Raises StorageError, and has changed nothing: the file is not sound or not ours, or
    somebody has the database open.
    """
    seen = examine(file)
    place = database.resolve()  # a link stays a link
    if workers.living(place):
        raise StorageError(f"a daemon serves {database}: stop it first", code="storage_busy")
    was_there = place.exists()
    if was_there and file.samefile(place):
        raise StorageError(f"{file} is the database itself: name a backup of it")
    kept = place.with_name(f"{place.stem}-replaced-{stamp(now_ms())}{place.suffix}")
    with translated(database), _part_of(place) as part:
        with closing(_opened(file)) as source:
            _copy(source, part, file)
        with Database(part, actor=actor, durable=True, create=False) as copy:
            with copy.write() as tx:
                after = {"schema": seen.schema, "kept": str(kept) if was_there else None}
                audit.record(tx, "db.restore", str(file), after=after)
            write_to(copy.conn, "DELETE")
        with _shut(place):
            _keep(place, kept, part)
            part.replace(place)
        _sync(place.parent)
    return kept if was_there else None


@contextmanager
def _shut(place: Path) -> Iterator[None]:
    """While this lasts nobody else has the database open, or gets at it; what was in its log is in the file.

    Only who is alone can leave WAL mode, and then an exclusive lock keeps everybody out. Who had opened the file before
    it was renamed, and waited for the lock, can write nothing into it afterwards: SQLite sees that it was moved.
    A file too damaged to be locked is taken as it is.
    """
    if not place.exists():
        yield
        return
    with closing(sqlite3.connect(place, timeout=1, isolation_level=None)) as conn:
        try:
            ours = conn.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
            if not ours and conn.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise StorageError(f"{place} is another program's database: choose another file with --db")
            write_to(conn, "DELETE")
            conn.execute("BEGIN EXCLUSIVE")
            if conn.execute("PRAGMA journal_mode").fetchone()[0] != "delete":
                raise StorageError(f"{place} was opened by another process: try again", code="storage_busy")
        except sqlite3.DatabaseError as error:
            if (error.sqlite_errorcode or 0) & 0xFF not in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
                raise translate(error, place) from error
        yield


def _keep(place: Path, kept: Path, part: Path) -> None:
    """Give the old database its new name, with its logs if it still has any: they must never meet the new one."""
    if place.exists():
        old = place.stat()
        if os.geteuid() == 0:
            os.chown(part, old.st_uid, old.st_gid)  # root restores, another user serves
        try:
            os.link(place, kept)  # so that the place is never empty
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            place.rename(kept)
    for end in _LOGS:
        log = place.with_name(place.name + end)
        if log.exists():
            log.rename(kept.with_name(kept.name + end))
    place.with_name(f"{place.name}-shm").unlink(missing_ok=True)


# ── what both do ──────────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def _part_of(target: Path) -> Iterator[Path]:
    """A hidden file beside the target, for what is not whole yet; gone afterwards."""
    part = target.with_name(f".{target.name}-{secrets.token_hex(4)}.part")
    create_empty(part)
    try:
        yield part
    finally:
        for end in ("", "-shm", *_LOGS):
            part.with_name(part.name + end).unlink(missing_ok=True)


def _copy(source: sqlite3.Connection, part: Path, called: Path) -> None:
    """All pages as of one moment into one file without a log. Raises StorageError where the copy isn't sound."""
    with closing(sqlite3.connect(part)) as copy:
        # All pages in one step: between steps a write by another process would start it all over.
        source.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")
        verdict = copy.execute("PRAGMA integrity_check").fetchone()[0]
    if verdict != "ok":
        raise StorageError(f"{called} can't be copied soundly ({verdict}): it may be damaged")


def _opened(file: Path) -> sqlite3.Connection:
    """Never made anew. Not read-only either: who only reads a copy that has a log leaves files beside it."""
    return sqlite3.connect(f"{file.resolve().as_uri()}?mode=rw", uri=True)


def _sync(folder: Path) -> None:
    """What was renamed stays renamed when the power fails."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
