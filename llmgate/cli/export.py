"""`llmgate export`: everything for other programs, whole and exact, and for another box to import."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Annotated

import typer

from ..errors import UsageError
from ..store import ledger, moving
from ..store import usage as usage_store
from ..store.db import Database, Tx
from ..store.db import Row as StoreRow
from ..types import METERS
from . import usage
from .columns import Column, Kind, Row
from .context import open_store
from .grammar import alone, verb
from .options import Period, UntilOption, period
from .output import EXPORTS, exported
from .session import Format, session
from .suggest import unknown

app = alone()

LIMITS = Column("limits", Kind.LIST)
LED_LIMITS = Column("led_limits", Kind.MAP)
"""Those that the lead of a team has set, and who that is."""

ZONE = (Column("zone", Kind.WORD),)
PRICES = (
    Column("kind", Kind.WORD),
    Column("upstream", Kind.WORD),
    Column("model", Kind.WORD),
    Column("price", Kind.MAP),
    Column("from_at", Kind.TIME),
    Column("actor"),
)
TEAMS = (
    Column("team", Kind.WORD),
    Column("plan", Kind.WORD),
    Column("billing", Kind.WORD),
    Column("billing_source", Kind.WORD),
    LIMITS,
    Column("created_at", Kind.TIME),
)
USERS = (
    Column("user", Kind.WORD),
    Column("team", Kind.WORD),
    Column("plan", Kind.WORD),
    Column("email"),
    Column("status", Kind.WORD),
    Column("billing", Kind.WORD),
    Column("billing_source", Kind.WORD),
    LIMITS,
    Column("created_at", Kind.TIME),
    Column("leads", Kind.WORD),
    LED_LIMITS,
)
KEYS = (
    Column("id", Kind.WORD),
    Column("user", Kind.WORD),
    Column("name", Kind.WORD),
    Column("prefix", Kind.WORD),
    Column("hash", Kind.WORD),
    Column("grace_hash", Kind.WORD),
    Column("grace_until", Kind.TIME),
    Column("status", Kind.WORD),
    Column("models", Kind.LIST),
    Column("ips", Kind.LIST),
    Column("tags", Kind.MAP),
    Column("note"),
    LIMITS,
    Column("created_at", Kind.TIME),
    Column("expires_at", Kind.TIME),
    Column("last_used_at", Kind.TIME),
    Column("suffix", Kind.WORD),
    Column("under", Kind.LIST),
    LED_LIMITS,
)
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
    Column("hash", Kind.WORD),
    Column("account_id", Kind.ID),
    Column("charged_at", Kind.TIME),
)
USAGE = (
    *usage.COLUMNS,
    Column("key_id", Kind.WORD),
    Column("plan", Kind.WORD),
    Column("upstream_model", Kind.WORD),
    Column("endpoint", Kind.WORD),
    Column("names", Kind.LIST),
    Column("day", Kind.WORD),
    Column("meters", Kind.MAP),
    Column("cost_price", Kind.MAP),
    Column("charge_price", Kind.MAP),
    Column("hold_usd", Kind.MONEY),
    Column("bounded", Kind.FLAG),
    Column("quota_tokens", Kind.NUMBER),
    Column("quota_glob"),
    Column("quota_used", Kind.NUMBER),
    Column("overage_usd", Kind.MONEY),
    Column("attempts", Kind.LIST),
)
PRUNED = (
    Column("id", Kind.ID),
    Column("day", Kind.WORD),
    *(Column(name, Kind.WORD) for name in ("account", "user", "team", "key_id", "plan", "model", "upstream")),
    Column("upstream_model", Kind.WORD),
    Column("names", Kind.LIST),
    Column("requests", Kind.NUMBER),
    Column("errors", Kind.NUMBER),
    *(Column(name, Kind.NUMBER) for name in METERS),
    Column("cost_usd", Kind.MONEY),
    Column("charge_usd", Kind.MONEY),
    Column("wasted_usd", Kind.MONEY),
)
"""What `llmgate import` takes, all of it."""


@verb(
    app,
    "export",
    examples="""
    llmgate export usage --since 2026-11-01 > november.csv
    llmgate export usage --format ndjson | gzip > usage.ndjson.gz
    llmgate export entries --format json
    llmgate export all > box.ndjson
    """,
)
def export(
    ctx: typer.Context,
    what: Annotated[
        str, typer.Argument(metavar="WHAT", help="usage, entries, users, teams, keys, pruned, zone, prices or all.")
    ],
    since: Annotated[
        str | None, typer.Option("--since", metavar="WHEN", help="From then on: 30d, a date [default: all].")
    ] = None,
    until: UntilOption = None,
    form: Annotated[
        str | None, typer.Option("--format", metavar="|".join(EXPORTS), help="How it is written [default: csv].")
    ] = None,
) -> None:
    """Write usage rows, ledger entries, users, teams or keys to stdout, in constant memory.

    usage are requests: first the fields of `llmgate usage --json`, then what else is known of them. entries are what
    moved money, with `hash`, which chains an entry to the one before; keys are their hashes, never what can be used;
    pruned are the sums that stand for pruned requests; zone is the time zone that days are counted in, prices are
    those that admins set. Rows of usage, entries and pruned come by their number.

    Money is decimal USD, times are RFC 3339 in UTC. In ndjson each line is an object. A request counts from the moment
    it was sent, and is there once it has ended: who exports a period should let its last requests end.

    all is everything that `llmgate import` takes on another box, one after the other in ndjson. Stop the daemon first:
    what it goes on writing is in some of it, and not in the rest. The config, admin keys, events, the audit and the
    list of `llmgate prices update` are not in it.
    """
    if what not in (*EXPORTED, ALL):
        raise unknown("export", what, (*EXPORTED, ALL), "llmgate export")
    if (since or until) and what not in DATED:
        raise UsageError(f"{what} is exported whole: leave out --since and --until")
    chosen = _format(ctx, form, FORMATS if what == ALL else tuple(EXPORTS))
    with open_store(ctx) as db:
        with db.read() as tx:
            span = period(since, until, tx.now_ms, db.zone, precise=True)
        for kind in moving.KINDS if what == ALL else (what,):
            columns, rows = EXPORTED[kind]
            exported(columns, rows(db, span), chosen)
        if what == "usage":
            usage.tell_pruned(db, span._asdict())


ALL, FORMATS = "all", ("ndjson",)
"""Everything, and how it can be written one after the other."""


def _format(ctx: typer.Context, form: str | None, possible: tuple[str, ...]) -> str:
    held = session(ctx)
    chosen = str(form or (held.wanted if held.as_json or held.format else possible[0]))
    if chosen not in possible:
        raise unknown("format", chosen, possible, "llmgate export")
    if held.as_json and chosen != Format.JSON:
        raise UsageError(f"--json and --format {chosen} are two formats: choose one")
    return chosen


NEWER = ("leads", "led_limits", "suffix", "under")
"""Columns that older versions didn't write."""


def _usage(db: Database, span: Period) -> Iterator[Row]:
    return map(_request, usage_store.pages(db, span._asdict(), usage.PAGE, whole=True))


def _request(row: StoreRow) -> Row:
    as_json = {name: row[name] for name in ("names", "cost_price", "charge_price", "attempts")}
    return {
        **usage.as_row(row),
        **{name: row[name] for name in ("key_id", "plan", "upstream_model", "endpoint", "day", "bounded")},
        **{name: row[name] for name in ("quota_tokens", "quota_glob", "quota_used")},
        **{name: json.loads(text) if text is not None else None for name, text in as_json.items()},
        "meters": {name: row[name] for name in METERS if row[name]},
        "hold_usd": row["hold_nano"],
        "overage_usd": row["overage_nano"],
    }


def _entries(db: Database, span: Period) -> Iterator[Row]:
    def page(tx: Tx, after: int) -> list[Row]:
        return [_entry(row) for row in ledger.page(tx, span.since_ms, span.until_ms, after, usage.PAGE)]

    return _paged(db, page, "entry")


def _pruned(db: Database, _: Period) -> Iterator[Row]:
    return _paged(db, lambda tx, after: moving.pruned(tx, after, usage.PAGE), "id")


def _paged(db: Database, page: Callable[[Tx, int], list[Row]], number: str) -> Iterator[Row]:
    """Between two pages nothing is held open."""
    after = 0
    while True:
        with db.read() as tx:
            found = page(tx, after)
        yield from found
        if len(found) < usage.PAGE:
            return
        after = found[-1][number]


def _all(rows: Callable[[Tx], Iterator[Row]]) -> Callable[[Database, Period], Iterator[Row]]:
    """Those of which there are never too many to be read at once."""

    def read(db: Database, _: Period) -> Iterator[Row]:
        with db.read() as tx:
            found = list(rows(tx))
        return iter(found)

    return read


def _entry(row: StoreRow) -> Row:
    return {
        "entry": row["id"],
        "time": row["created_ms"],
        "amount_usd": row["amount_nano"],
        "expires_at": row["expires_ms"],
        "charged_at": row["charged_ms"],
        "hash": row["hash"].hex(),
        **{name: row[name] for name in ("account", "kind", "ref", "note", "reverses", "cause", "usage_id", "actor")},
        "account_id": row["account_id"],
    }


EXPORTED: dict[str, tuple[tuple[Column, ...], Callable[[Database, Period], Iterator[Row]]]] = {
    "usage": (USAGE, _usage),
    "entries": (ENTRIES, _entries),
    "zone": (ZONE, _all(moving.zone)),
    "prices": (PRICES, _all(moving.set_prices)),
    "users": (USERS, _all(moving.users)),
    "teams": (TEAMS, _all(moving.teams)),
    "keys": (KEYS, _all(moving.issued)),
    "pruned": (PRUNED, _pruned),
}
DATED = ("usage", "entries")
