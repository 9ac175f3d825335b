"""`llmgate usage`: the requests that reached an upstream, one by one."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import msgspec
import typer

from .. import clock
from ..errors import UsageError
from ..store import reports
from ..store import usage as store
from ..store.db import Database
from ..store.db import Row as StoreRow
from ..types import METERS, Meters, Status
from .columns import Column, Kind, Row, Show
from .context import open_store
from .grammar import alone, verb
from .options import (
    KeyOption,
    ModelOption,
    PlanOption,
    TagOption,
    TeamOption,
    UntilOption,
    UpstreamOption,
    UserOption,
    Whose,
    period,
)
from .output import following, listing
from .session import Format, note, session

app = alone()

NEWEST = 50
"""How many rows a terminal gets."""

TAIL = 10
"""How many of those before a terminal gets when it follows."""

POLL_S = 0.25
"""Seconds between two looks at what has come."""

PAGE = 1000
"""Rows that are read at a time, so that a slow reader of the output never holds the database."""

COLUMNS = (
    Column("id", Kind.ID),
    Column("time", Kind.TIME),
    Column("request_id", Kind.WORD, Show.PIPED),
    Column("user", Kind.WORD, Show.NEVER),
    Column("team", Kind.WORD, Show.PIPED),
    Column("key", Kind.WORD),
    Column("model", Kind.TEXT),
    Column("upstream", Kind.WORD, minor=2),
    Column("format", Kind.WORD, Show.PIPED),
    Column("input_tokens", Kind.NUMBER, minor=1),
    Column("cached_tokens", Kind.NUMBER, Show.USED, minor=4),
    Column("cache_write_tokens", Kind.NUMBER, Show.PIPED),
    Column("output_tokens", Kind.NUMBER, minor=1),
    Column("reasoning_tokens", Kind.NUMBER, Show.USED, minor=4),
    Column("cost_usd", Kind.MONEY, minor=2),
    Column("charge_usd", Kind.MONEY),
    Column("wasted_usd", Kind.MONEY, Show.USED, minor=2),
    Column("status", Kind.STATE),
    Column("source", Kind.WORD, Show.PIPED),
    Column("cost_source", Kind.WORD, Show.PIPED),
    Column("overrun", Kind.FLAG, Show.USED, minor=2),
    Column("http_status", Kind.ID, Show.PIPED),
    Column("streamed", Kind.FLAG, Show.PIPED),
    Column("duration_ms", Kind.NUMBER, minor=3),
    Column("ttft_ms", Kind.NUMBER, Show.PIPED),
    Column("tags", Kind.MAP, Show.USED, minor=3),
    Column("account", Kind.WORD, Show.PIPED),
)

NARROW = 100
"""Columns of a terminal below which lines that go on have only what matters most, so that each stays one line."""

BRIEF = (
    Column("time", Kind.ID),
    Column("id", Kind.ID, minor=1),
    Column("user", Kind.WORD),
    Column("model", Kind.TEXT),
    Column("charge_usd", Kind.MONEY),
    Column("status", Kind.STATE),
)
"""That: of the time the hour, of the key its user."""

AS_STORED = (
    *("id", "request_id", "user", "team", "account", "model", "upstream", "format", "status", "source"),
    *("cost_source", "http_status", "duration_ms", "ttft_ms"),
)


@verb(
    app,
    "usage",
    examples="""
    llmgate usage
    llmgate usage --user alice --since 1h
    llmgate usage --status error --last 20
    llmgate usage --follow --tag agent=coder
    llmgate usage --follow --json | jq .charge_usd
    llmgate usage --since 2026-11-01 --format csv > november.csv
    """,
)
def usage(
    ctx: typer.Context,
    user: UserOption = None,
    team: TeamOption = None,
    key: KeyOption = None,
    model: ModelOption = None,
    upstream: UpstreamOption = None,
    plan: PlanOption = None,
    tag: TagOption = None,
    status: Annotated[
        Status | None,
        typer.Option("--status", metavar="|".join(Status), help="Only what ended so.", show_default=False),
    ] = None,
    since: Annotated[str | None, typer.Option("--since", metavar="WHEN", help="From then on: 1h, 30d, a date.")] = None,
    until: UntilOption = None,
    last: Annotated[int | None, typer.Option("--last", metavar="N", min=1, help="Only the newest N.")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on with each request as it ends, until Ctrl-C.")] = False,
) -> None:
    """Show requests one by one, oldest first.

    On a terminal the newest 50; all of them on a pipe, and in every other format than a table.

    With --follow each request is shown once, when it has ended, in JSON as one object a line. It begins with what
    --since or --last ask for; else with the newest 10 on a terminal, and with what comes next on a pipe. A narrow
    terminal gets what matters most, each request on one line.
    """
    if follow and until is not None:
        raise UsageError("--follow has no end: leave out --until")
    with open_store(ctx) as db:
        with db.read() as tx:
            span = period(since, until, tx.now_ms, db.zone, precise=True)
            filters = Whose(user, team, key, model, upstream, plan, tag).filters(tx)
            filters |= {"status": status} | span._asdict()
        on_terminal = sys.stdout.isatty() and session(ctx).wanted is Format.TABLE
        if follow:
            newest = last or (None if since else TAIL if on_terminal else 0)
            brief = on_terminal and shutil.get_terminal_size().columns < NARROW
            rows = map(as_row, _follow(db, filters, newest))
            try:
                if brief:
                    following(ctx, BRIEF, (_brief(row, db.zone) for row in rows), zone=db.zone)
                else:
                    following(ctx, COLUMNS, rows, zone=db.zone)
            except KeyboardInterrupt:
                if sys.stderr.isatty():
                    note("")  # the terminal has written ^C, and the prompt begins on a line of its own
            return
        newest = last or (NEWEST if on_terminal else None)
        rows = map(as_row, _rows(db, filters, newest))
        number = listing(ctx, COLUMNS, rows, empty="no request that fits", zone=db.zone)
        if newest is None or number < newest:
            tell_pruned(db, filters)


def tell_pruned(db: Database, filters: dict[str, Any]) -> None:
    """Say how many requests would have passed that are no longer there one by one. Of pruned ones only whole days are
    known, and neither how they ended nor their tags.
    """
    days = {
        name: clock.day_of(filters[of] + shift, db.zone) if filters.get(of) is not None else None
        for name, of, shift in (("since", "since_ms", 0), ("until", "until_ms", -1))
    }
    with db.read() as tx:
        number = reports.pruned(tx, {name: filters.get(name) for name in WHOSE} | days)
    if number:
        were = "1 request of this time was" if number == 1 else f"{number:,} requests of this time were"
        note(f"{were} pruned, and {'is' if number == 1 else 'are'} not listed: `llmgate report` has the sums")


WHOSE = ("user", "team", "key", "model", "upstream", "plan")


def _rows(db: Database, filters: dict[str, Any], newest: int | None) -> Iterator[StoreRow]:
    """The rows page by page: between two pages nothing is held open."""
    if newest is not None:
        with db.read() as tx:
            latest = list(store.rows(tx, filters, newest=newest))
        yield from latest
        return
    yield from store.pages(db, filters, PAGE)


def _follow(db: Database, filters: dict[str, Any], newest: int | None) -> Iterator[StoreRow]:
    """The newest rows, or all that pass, then for ever those that come. What was written is flushed before it waits."""
    with db.read() as tx:
        seen = store.mark(tx)
        latest = list(store.rows(tx, filters, newest=newest)) if newest else []
    yield from latest
    if newest is None:
        yield from store.between(db, filters, store.BEGINNING, seen, PAGE)
    coming = filters | {"since_ms": None}  # a request may have begun before, and end now
    while True:
        sys.stdout.flush()
        time.sleep(POLL_S)
        with db.read() as tx:
            now = store.mark(tx)
        yield from store.between(db, coming, seen, now, PAGE)
        seen = now


def _brief(row: Row, zone: ZoneInfo) -> Row:
    return {**row, "time": f"{datetime.fromtimestamp(row['time'] // 1000, UTC).astimezone(zone):%H:%M:%S}"}


def as_row(row: StoreRow) -> Row:
    meters = Meters(*(row[name] for name in METERS))
    return {
        **{name: row[name] for name in AS_STORED},
        "time": row["time_ms"],
        "overrun": bool(row["overrun"]),
        "streamed": bool(row["streamed"]),
        "key": f"{row['user']}/{row['key']}",
        "input_tokens": meters.input_tokens,
        "cached_tokens": meters.cached_input,
        "cache_write_tokens": meters.cache_write + meters.cache_write_1h,
        "output_tokens": meters.output_tokens,
        "reasoning_tokens": meters.reasoning,
        "cost_usd": row["cost_nano"],
        "charge_usd": row["charge_nano"],
        "wasted_usd": row["wasted_nano"],
        "tags": msgspec.json.decode(row["tags"]),
    }
