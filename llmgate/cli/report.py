"""`llmgate report`: what was used and what it cost, summed up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated
from zoneinfo import ZoneInfo

import typer

from .. import clock
from ..pricing import Price
from ..store import reports
from ..store.db import Row as StoreRow
from .columns import Column, Kind, Row, Show
from .context import open_store
from .grammar import alone, verb
from .lists import read_list
from .options import (
    KeyOption,
    ModelOption,
    Period,
    TeamOption,
    UpstreamOption,
    UserOption,
    Whose,
    period,
    words,
)
from .output import listing
from .session import note
from .suggest import unknown

app = alone()

SUMS = (
    Column("requests", Kind.NUMBER),
    Column("input_tokens", Kind.NUMBER),
    Column("cached_tokens", Kind.NUMBER, minor=2),
    Column("output_tokens", Kind.NUMBER),
    Column("tokens", Kind.NUMBER, minor=1),
    Column("cost_usd", Kind.MONEY),
    Column("charge_usd", Kind.MONEY),
    Column("errors", Kind.NUMBER),
    Column("wasted_usd", Kind.MONEY, Show.USED),
)


RERATED = (
    Column("requests", Kind.NUMBER),
    Column("cost_usd", Kind.MONEY, minor=1),
    Column("charge_usd", Kind.MONEY),
    Column("rerated_usd", Kind.MONEY),
    Column("difference_usd", Kind.MONEY),
    Column("unpriced", Kind.NUMBER, Show.USED),
)


@verb(
    app,
    "report",
    examples="""
    llmgate report
    llmgate report --since monday --by day --by model
    llmgate report --since 2026-10-01 --until 2026-10-31 --team research --format csv
    llmgate report --since 30d --by model --prices next-year.csv
    """,
)
def report(
    ctx: typer.Context,
    since: Annotated[str, typer.Option("--since", metavar="WHEN", help="From this day on: 30d, a date.")] = "30d",
    until: Annotated[
        str | None, typer.Option("--until", metavar="WHEN", help="Through this day [default: today].")
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option("--by", metavar="WHAT", help=f"A row for each: {', '.join(reports.GROUPS)} [default: user]."),
    ] = None,
    user: UserOption = None,
    team: TeamOption = None,
    key: KeyOption = None,
    model: ModelOption = None,
    upstream: UpstreamOption = None,
    file: Annotated[
        str | None, typer.Option("--prices", metavar="FILE", help="What it would have been charged by this list.")
    ] = None,
) -> None:
    """Sum up what was used and what it cost.

    cost is what the upstreams bill, charge is what the accounts pay. wasted is what upstreams billed for tries that
    failed: a cost on top, that nobody is charged. Days are those of the time zone of the books, and
    the first and the last one are counted whole.

    With --prices (a list as `llmgate prices import` takes it) rerated is what the same requests would have been charged
    by the prices in FILE; those of models that it doesn't name keep their charge, and are counted as unpriced.
    """
    groups = _groups(by)
    price_of = _prices_of(file) if file is not None else None
    with open_store(ctx) as db:
        with db.read() as tx:
            days = _days(period(since, until, tx.now_ms, db.zone, precise=False), db.zone)
            filters = Whose(user, team, key, model, upstream).filters(tx) | days
            if price_of is not None:
                rows = _rerated(groups, reports.rerated(tx, groups, filters, price_of))
            else:
                rows = [_row(groups, row) for row in reports.report(tx, groups, filters)]
        sums = SUMS if price_of is None else RERATED
        columns = (*(Column(name, Kind.WORD) for name in groups), *sums)
        empty = f"nothing was used from {days['since']} to {days['until'] or 'today'}"
        listing(ctx, columns, rows, empty=empty, zone=db.zone, total=_total(groups, rows, sums))


def _groups(by: list[str] | None) -> list[str]:
    groups = list(dict.fromkeys(words(by) or ["user"]))
    for name in groups:
        if name not in reports.GROUPS:
            raise unknown("grouping", name, reports.GROUPS, "llmgate report")
    return groups


def _days(span: Period, zone: ZoneInfo) -> dict[str, str | None]:
    """The first and the last day of a period, as roll-ups name them."""
    assert span.since_ms is not None
    since = clock.local_day(span.since_ms, zone)
    if clock.day_start_ms(since, zone) != span.since_ms:
        note(f"a report counts whole days: it starts with {since}")
    return {
        "since": since.isoformat(),
        "until": clock.day_of(span.until_ms - 1, zone) if span.until_ms is not None else None,
    }


def _row(groups: list[str], row: StoreRow) -> Row:
    return {
        **{name: row[name] or None for name in groups},
        **{name: row[name] for name in ("requests", "input_tokens", "cached_tokens", "output_tokens", "errors")},
        "tokens": row["input_tokens"] + row["output_tokens"],
        "cost_usd": row["cost_nano"],
        "charge_usd": row["charge_nano"],
        "wasted_usd": row["wasted_nano"],
    }


def _prices_of(file: str) -> Callable[[StoreRow], Price | None]:
    """Which price of a list a request has: that of the name that was asked for, else of what the upstream calls it."""
    found = read_list(file, "auto").prices
    prices = {(upstream, model.casefold()): price for (upstream, model), price in found.items()}

    def price_of(row: StoreRow) -> Price | None:
        upstream, names = row["upstream"], (row["model"], row["upstream_model"])
        keys = [(where, name.casefold()) for name in names for where in (upstream, "")]
        keys.append(("", f"{upstream}/{row['upstream_model']}".casefold()))
        return next((prices[key] for key in keys if key in prices), None)

    return price_of


def _rerated(groups: list[str], found: reports.Rerated) -> list[Row]:
    """Groups of time in their order, within them those first that would have paid most."""
    rows = [
        {
            **{name: value or None for name, value in zip(groups, key, strict=True)},
            "requests": sums["requests"],
            "cost_usd": sums["cost_nano"],
            "charge_usd": sums["charge_nano"],
            "rerated_usd": sums["rerated_nano"],
            "difference_usd": sums["rerated_nano"] - sums["charge_nano"],
            "unpriced": sums["unpriced"],
        }
        for key, sums in found.items()
    ]
    in_order = [name for name in groups if name in reports.IN_ORDER]
    rest = [name for name in groups if name not in reports.IN_ORDER]
    return sorted(
        rows,
        key=lambda row: (
            *(row[name] or "" for name in in_order),
            -row["rerated_usd"],
            *(row[name] or "" for name in rest),
        ),
    )


def _total(groups: list[str], rows: list[Row], sums: tuple[Column, ...]) -> Row | None:
    if len(rows) < 2:
        return None
    return {groups[0]: "total"} | {column.name: sum(row[column.name] for row in rows) for column in sums}
