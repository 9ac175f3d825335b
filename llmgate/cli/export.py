"""`llmgate export`: usage rows and ledger entries for other programs, whole and exact."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated

import typer

from ..errors import UsageError
from ..store import ledger
from ..store import usage as usage_store
from ..store.db import Database
from ..store.db import Row as StoreRow
from . import usage
from .columns import Column, Kind, Row
from .context import open_store
from .grammar import alone, verb
from .options import Period, UntilOption, period
from .output import EXPORTS, exported
from .session import Format, session
from .suggest import unknown

app = alone()

ENTRIES = (
    Column("entry", Kind.ID),
    Column("time", Kind.TIME),
    Column("account", Kind.WORD),
    Column("kind", Kind.WORD),
    Column("amount_usd", Kind.MONEY),
    Column("ref"),
    Column("note"),
    Column("reverses", Kind.ID),
    Column("cause", Kind.ID),
    Column("usage_id", Kind.ID),
    Column("expires_at", Kind.TIME),
    Column("actor"),
    Column("hash"),
)


@verb(
    app,
    "export",
    examples="""
    llmgate export usage --since 2026-11-01 > november.csv
    llmgate export usage --format ndjson | gzip > usage.ndjson.gz
    llmgate export entries --format json
    """,
)
def export(
    ctx: typer.Context,
    what: Annotated[str, typer.Argument(metavar="usage|entries", help="Requests, or what moved money.")],
    since: Annotated[
        str | None, typer.Option("--since", metavar="WHEN", help="From then on: 30d, a date [default: all].")
    ] = None,
    until: UntilOption = None,
    form: Annotated[
        str | None, typer.Option("--format", metavar="|".join(EXPORTS), help="How it is written [default: csv].")
    ] = None,
) -> None:
    """Write usage rows or ledger entries to stdout, by their id, in constant memory.

    The fields of usage are those of `llmgate usage --json`: money in decimal USD, times RFC 3339 in UTC. In ndjson each
    line is an object. A request counts from the moment it was sent, and is there once it has ended: who exports a
    period should let its last requests end. `hash` chains an entry to the one before.
    """
    if what not in _ROWS:
        raise unknown("export", what, _ROWS, "llmgate export")
    columns, rows = _ROWS[what]
    chosen = _format(ctx, form)
    with open_store(ctx) as db:
        with db.read() as tx:
            span = period(since, until, tx.now_ms, db.zone, precise=True)
        exported(columns, rows(db, span), chosen)


def _format(ctx: typer.Context, form: str | None) -> str:
    held = session(ctx)
    chosen = str(form or (held.wanted if held.as_json or held.format else Format.CSV))
    if chosen not in EXPORTS:
        raise unknown("format", chosen, EXPORTS, "llmgate export")
    if held.as_json and chosen != Format.JSON:
        raise UsageError(f"--json and --format {chosen} are two formats: choose one")
    return chosen


def _usage(db: Database, span: Period) -> Iterator[Row]:
    return map(usage.as_row, usage_store.pages(db, span._asdict(), usage.PAGE))


def _entries(db: Database, span: Period) -> Iterator[Row]:
    after = 0
    while True:
        with db.read() as tx:
            page = ledger.page(tx, span.since_ms, span.until_ms, after, usage.PAGE)
        yield from map(_entry, page)
        if len(page) < usage.PAGE:
            return
        after = page[-1]["id"]


def _entry(row: StoreRow) -> Row:
    return {
        "entry": row["id"],
        "time": row["created_ms"],
        "amount_usd": row["amount_nano"],
        "expires_at": row["expires_ms"],
        "hash": row["hash"].hex(),
        **{name: row[name] for name in ("account", "kind", "ref", "note", "reverses", "cause", "usage_id", "actor")},
    }


_ROWS: dict[str, tuple[tuple[Column, ...], Callable[[Database, Period], Iterator[Row]]]] = {
    "usage": (usage.COLUMNS, _usage),
    "entries": (ENTRIES, _entries),
}
