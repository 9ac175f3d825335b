"""`llmgate db`: the database file itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import clock
from ..config import timezone_name
from ..errors import UsageError
from ..store import audit, backups, schema, sizes
from ..store.db import set_zone as keep_zone
from .columns import Column, Kind
from .context import actor, loaded, open_any_zone, open_store, store_path
from .grammar import noun, verb
from .output import result, single
from .session import confirm, note

app = noun("db", "The database: its size, backups, migrations and time zone.")

STATS = (
    Column("database", Kind.WORD),
    Column("size_bytes", Kind.NUMBER),
    Column("schema", Kind.NUMBER),
    Column("zone", Kind.WORD),
    Column("rows", Kind.MAP),
)
BACKUP = (
    Column("database", Kind.WORD),
    Column("backup", Kind.WORD),
    Column("size_bytes", Kind.NUMBER),
    Column("removed", Kind.LIST),
)
RESTORED = (Column("database", Kind.WORD), Column("backup", Kind.WORD), Column("kept", Kind.WORD))
MIGRATED = (Column("database", Kind.WORD), Column("from", Kind.NUMBER), Column("to", Kind.NUMBER))
ZONE = (Column("database", Kind.WORD), Column("from", Kind.WORD), Column("to", Kind.WORD))


@verb(app, "stats", examples="llmgate db stats")
def stats(ctx: typer.Context) -> None:
    """Show the size of the database, and how many rows each table has."""
    with open_store(ctx, create=False) as db:
        with db.read() as tx:
            rows = sizes.rows_per_table(tx)
        row = {
            "database": str(db.path),
            "size_bytes": sizes.bytes_on_disk(db.path),
            "schema": schema.VERSION,
            "zone": db.zone.key,
            "rows": rows,
        }
        single(ctx, STATS, row)


@verb(
    app,
    "backup",
    examples="""
    llmgate db backup llmgate-2026-11-20.db
    llmgate db backup /backups --keep 14
    llmgate db backup '/backups/gate-{time}.db' --keep 14
    """,
)
def backup(
    ctx: typer.Context,
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A new file, a folder, or a name with {time}; nothing is overwritten."),
    ],
    keep: Annotated[
        int | None, typer.Option("--keep", metavar="N", help="Remove older copies of this name beyond the newest N.")
    ] = None,
) -> None:
    """Copy the database into a new file, also while it is in use, and check the copy.

    In a folder, and with {time} in its name, each copy has the moment in its name. With --keep any other FILE is
    always the newest copy, and the one before gets its moment into its name. Older ones are removed only once
    the new copy is sound. For cron: llmgate db backup /backups --keep 14
    """
    if keep is not None and keep < 1:
        raise UsageError(f"--keep must be at least 1, not {keep}: the copy just made stays")
    with open_store(ctx, create=False) as db:
        made = backups.rotate(db, file, keep)
        removed = [str(path) for path in made.removed]
        row = {"database": str(db.path), "backup": str(made.path), "size_bytes": made.size_bytes, "removed": removed}
        also = f"; removed {len(removed)} older" if removed else ""
        said = f"copied {db.path} to {made.path}: {made.size_bytes:,} bytes, and the copy is sound{also}"
        result(ctx, BACKUP, row, said)


@verb(
    app,
    "restore",
    examples="""
    llmgate db restore llmgate-2026-11-20.db
    llmgate db restore /backups/llmgate.db --yes
    """,
)
def restore(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `llmgate db backup` made.")],
) -> None:
    """Put a backup in the database's place, once a copy of it proved sound; the daemon must be stopped.

    The database that is replaced is kept beside it, under a name that tells the moment. What happened after the backup
    is in that one only.
    """
    path = store_path(ctx)
    seen = backups.examine(file)
    written = f"last written {clock.rfc3339(seen.written_ms)}" if seen.written_ms else "without any history"
    confirm(ctx, f"Put {file}, {written}, in the place of {path}?")
    kept = backups.restore(file, path, actor=actor())
    also = f"; what was there is kept as {kept}" if kept else ""
    row = {"database": str(path), "backup": str(file), "kept": str(kept) if kept else None}
    result(ctx, RESTORED, row, f"{path} is {file} now{also}")


@verb(app, "migrate", examples="llmgate db migrate")
def migrate(ctx: typer.Context) -> None:
    """Bring the database up to this version's schema. (Every command does so when it must.)"""
    with open_store(ctx, create=False) as db:
        before, now = db.migrated_from, schema.VERSION
        said = f"{db.path} is at schema {now} already" if before == now else f"{db.path}: schema {before} to {now}"
        result(ctx, MIGRATED, {"database": str(db.path), "from": before, "to": now}, said)


@verb(app, "set-zone", examples="llmgate db set-zone Europe/Berlin")
def set_zone(
    ctx: typer.Context,
    zone: Annotated[str, typer.Argument(metavar="ZONE", help="An IANA name, such as Europe/Berlin.")],
) -> None:
    """Count days, weeks and months in another time zone from now on; the past stays as it was booked."""
    name = clock.zone(zone).key
    with open_any_zone(ctx, create=False) as db:
        before = db.zone.key
        with db.write() as tx:
            keep_zone(tx, name)
            audit.record(tx, "db.set-zone", name, before={"zone": before}, after={"zone": name})
        said = f"{db.path} counts days in {name} from now on (before: {before})"
        result(ctx, ZONE, {"database": str(db.path), "from": before, "to": name}, said)
    written = timezone_name(*loaded(ctx))
    if written not in (None, name):
        source = loaded(ctx).config.source
        note(f'{source} still says timezone = "{written}": write "{name}" there, or no command works')
