"""`llmgate db`: the database file itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import clock
from ..config import timezone_name
from ..store import audit, schema, sizes
from ..store.db import backup as copy
from ..store.db import set_zone as keep_zone
from .columns import Column, Kind
from .context import loaded, open_any_zone, open_store
from .grammar import noun, verb
from .output import result, single
from .session import note

app = noun("db", "The database: its size, backups, migrations and time zone.")

STATS = (
    Column("database", Kind.WORD),
    Column("size_bytes", Kind.NUMBER),
    Column("schema", Kind.NUMBER),
    Column("zone", Kind.WORD),
    Column("rows", Kind.MAP),
)
BACKUP = (Column("database", Kind.WORD), Column("backup", Kind.WORD), Column("size_bytes", Kind.NUMBER))
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
    llmgate db backup /backups/$(date +%F).db
    """,
)
def backup(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A new file; nothing is overwritten.")],
) -> None:
    """Copy the database into a new file, also while it is in use, and check the copy."""
    with open_store(ctx, create=False) as db:
        size = copy(db, file)
        row = {"database": str(db.path), "backup": str(file), "size_bytes": size}
        result(ctx, BACKUP, row, f"copied {db.path} to {file}: {size:,} bytes, and the copy is sound")


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
