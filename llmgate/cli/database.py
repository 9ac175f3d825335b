"""`llmgate db`: the database file itself."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Annotated

import typer

from .. import clock
from ..config import timezone_name
from ..errors import UsageError
from ..money import dollars
from ..store import audit, backups, schema, sizes, workers
from ..store import prune as store_prune
from ..store.db import Database, Tx
from ..store.db import set_zone as keep_zone
from .columns import Column, Kind
from .context import actor, loaded, open_any_zone, open_store, store_path
from .grammar import noun, verb
from .output import listing, result, single
from .progress import progress, working
from .session import Format, confirm, note, session

app = noun("db", "The database: its size, backups, migrations and time zone.")

STATS = (
    Column("database", Kind.WORD),
    Column("size_bytes", Kind.NUMBER),
    Column("log_bytes", Kind.NUMBER),
    Column("free_bytes", Kind.NUMBER),
    Column("schema", Kind.NUMBER),
    Column("zone", Kind.WORD),
    Column("oldest_day", Kind.WORD),
    Column("pruned_requests", Kind.NUMBER),
    Column("requests_per_day", Kind.NUMBER),
    Column("bytes_per_day", Kind.NUMBER),
    Column("size_in_30_days", Kind.NUMBER),
    Column("size_in_90_days", Kind.NUMBER),
    Column("prunable_requests", Kind.NUMBER),
    Column("prunable_bytes", Kind.NUMBER),
)
MAPS = (Column("rows", Kind.MAP), Column("bytes", Kind.MAP))
TABLES = (Column("table", Kind.WORD), Column("rows", Kind.NUMBER), Column("bytes", Kind.NUMBER))
PRUNED = (
    Column("database", Kind.WORD),
    Column("before", Kind.WORD),
    Column("requests", Kind.NUMBER),
    Column("charge_usd", Kind.MONEY),
    Column("days", Kind.NUMBER),
    Column("accounts", Kind.NUMBER),
    Column("first_day", Kind.WORD),
    Column("last_day", Kind.WORD),
    Column("size_bytes", Kind.NUMBER),
    Column("free_bytes", Kind.NUMBER),
    Column("dry_run", Kind.FLAG),
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


OLD_DAYS = 400
"""Requests that are older than this aren't looked at one by one any more: what `stats` calls prunable."""

OLD = f"{OLD_DAYS}d"


@verb(app, "stats", examples="llmgate db stats")
def stats(ctx: typer.Context) -> None:
    """Show how large the database is, what of it is what, how it grows, and when to prune it.

    Growth is that of the last 30 whole days; size in 30 days is what the file will have then. free is room inside the
    file that is used before it grows. prunable are requests of more than 400 days ago. Bytes of tables include their
    indexes; it reads all of the file.
    """
    with open_store(ctx, create=False) as db:
        with db.read() as tx:
            found = sizes.tables(tx)
            before = _before(OLD, tx)
            grows = sizes.growth(tx, found, before)
            free = sizes.free_bytes(tx)
        size = sizes.bytes_on_disk(db.path)
        row = {
            "database": str(db.path),
            "size_bytes": size,
            "log_bytes": sizes.log_bytes(db.path),
            "free_bytes": free,
            "schema": schema.VERSION,
            "zone": db.zone.key,
            "oldest_day": grows.oldest_day,
            "pruned_requests": grows.pruned,
            "requests_per_day": grows.requests_per_day,
            "bytes_per_day": grows.bytes_per_day,
            "size_in_30_days": _grown(size, free, grows.bytes_per_day, 30),
            "size_in_90_days": _grown(size, free, grows.bytes_per_day, 90),
            "prunable_requests": grows.prunable.requests,
            "prunable_bytes": grows.prunable_bytes,
            "rows": {name: table.rows for name, table in found.items()},
            "bytes": {name: table.bytes for name, table in found.items()},
        }
        if session(ctx).wanted is Format.TABLE:
            single(ctx, STATS, row)
            typer.echo()
            largest = sorted(found.items(), key=lambda item: (-(item[1].bytes or 0), -item[1].rows, item[0]))
            lines = [{"table": name, "rows": table.rows, "bytes": table.bytes} for name, table in largest]
            listing(ctx, TABLES, lines, empty="")
        else:
            single(ctx, (*STATS, *MAPS), row)
    if grows.prunable.requests:
        note(f"`llmgate db prune --before {OLD}` sums up {_requests(grows.prunable.requests)} from before {before}")
    elif grows.oldest_day:
        when = date.fromisoformat(grows.oldest_day) + timedelta(days=OLD_DAYS + 1)
        note(f"nothing is older than {OLD_DAYS} days: look again on {when}")


def _grown(size: int, free: int, per_day: int | None, days: int) -> int | None:
    return None if per_day is None else size + max(0, days * per_day - free)


def _requests(number: int) -> str:
    return f"{number:,} request{'' if number == 1 else 's'}"


def _before(when: str, tx: Tx) -> str:
    """The day that a moment falls on, in the zone of the books."""
    return clock.day_of(clock.since_ms(when, tx.now_ms, tx.zone, precise=False), tx.zone)


@verb(
    app,
    "prune",
    examples="""
    llmgate db prune --before 400d --dry-run
    llmgate db prune --before 400d
    llmgate db prune --before 2026-01-01 --yes
    llmgate db prune --before 400d --vacuum
    """,
)
def prune(
    ctx: typer.Context,
    before: Annotated[
        str, typer.Option("--before", metavar="WHEN", help="Requests of the days before this one: 400d, a date.")
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    vacuum: Annotated[
        bool, typer.Option("--vacuum", help="Give the room back to the disk; nobody can write meanwhile.")
    ] = False,
) -> None:
    """Sum up old requests: the single requests go, and no figure changes.

    Balances, reports by day, user, team, key, model, upstream and plan, limits and credits that expire stay exactly as
    they are, and `llmgate verify` holds. What goes: `usage` and `export usage` of these days, their tags and hours, and
    refunds of single requests. It can't be undone: make a backup first (`llmgate db backup FILE`).

    It may run while a daemon of this version serves, and be stopped at any time: the next run goes on. The room is used
    by the next requests; --vacuum writes the file anew without it, which takes as much room again and lets everybody
    wait.
    """
    with open_store(ctx, create=False) as db:
        with db.read() as tx:
            day = _before(before, tx)
            ahead = store_prune.ahead(tx, day)
            kept = store_prune.kept_from(tx)
        if day > kept:
            raise store_prune.too_recent(kept)
        if dry_run:
            gone = ahead
        else:
            with db.read() as tx:
                workers.check(tx, db.path)
            if ahead.requests:
                confirm(ctx, _question(ahead))
            gone = _prune(db, day, ahead)
            if vacuum:
                store_prune.shrink(db)
        with db.read() as tx:
            free = sizes.free_bytes(tx)
        size = sizes.bytes_on_disk(db.path)
    row = {
        "database": str(db.path),
        "before": day,
        "requests": gone.requests,
        "charge_usd": gone.charge_nano,
        "days": gone.days,
        "accounts": gone.accounts,
        "first_day": gone.first,
        "last_day": gone.last,
        "size_bytes": size,
        "free_bytes": free,
        "dry_run": dry_run,
    }
    result(ctx, PRUNED, row, _pruned(day, gone, size, free, dry_run=dry_run))


def _question(ahead: store_prune.Sums) -> str:
    return (
        f"Sum up {_requests(ahead.requests)} of {ahead.first} to {ahead.last}, so that no single one of them can be "
        "looked at, refunded or exported any more? (`llmgate db backup FILE` keeps them.)"
    )


def _prune(db: Database, day: str, ahead: store_prune.Sums) -> store_prune.Sums:
    """With a bar on a terminal."""
    gone = store_prune.Sums()
    with progress("pruning", ahead.requests) as at:
        for gone in store_prune.prune(db, day):
            at(gone.requests)
    return gone


def _pruned(day: str, gone: store_prune.Sums, size: int, free: int, *, dry_run: bool) -> str:
    if not gone.requests:
        return f"there are no requests before {day}: nothing to prune"
    what = f"{_requests(gone.requests)} of {gone.first} to {gone.last}, charged {dollars(gone.charge_nano)}"
    if dry_run:
        return f"would sum up {what}: nothing was changed"
    room = f"; of its {size:,} bytes {free:,} are free for the next ones" if free else f"; it has {size:,} bytes"
    back = ", --vacuum gives them back to the disk" if free else ""
    return f"summed up {what}: no figure has changed{room}{back}"


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
        with working("copying the database, and checking the copy"):
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
    with working("examining the backup"):
        seen = backups.examine(file)
    written = f"last written {clock.rfc3339(seen.written_ms)}" if seen.written_ms else "without any history"
    confirm(ctx, f"Put {file}, {written}, in the place of {path}?")
    with working("putting the backup in place"):
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
