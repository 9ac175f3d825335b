"""`llmgate report`: what was used and what it cost, summed up."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from .. import clock
from ..store import reports
from ..store.db import Row as StoreRow
from ..store.db import Tx
from .context import open_store
from .grammar import alone, unknown, verb
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
from .output import Column, Kind, Row, listing
from .session import note

app = alone()

SUMS = (
    Column("requests", Kind.NUMBER),
    Column("input_tokens", Kind.NUMBER),
    Column("cached_tokens", Kind.NUMBER),
    Column("output_tokens", Kind.NUMBER),
    Column("tokens", Kind.NUMBER),
    Column("cost_usd", Kind.MONEY),
    Column("charge_usd", Kind.MONEY),
    Column("errors", Kind.NUMBER),
)


@verb(
    app,
    "report",
    examples="""
    llmgate report
    llmgate report --since monday --by day --by model
    llmgate report --since 2026-10-01 --until 2026-10-31 --team research --format csv
    """,
)
def report(
    ctx: typer.Context,
    since: Annotated[str, typer.Option("--since", metavar="WHEN", help="From this day on: 30d, monday, a date.")] = "30d",
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
) -> None:
    """Sum up what was used and what it cost.

    cost is what the upstreams bill, charge is what the accounts pay. Days are those of the time zone of the books, and
    the first and the last one are counted whole.
    """
    groups = _groups(by)
    with open_store(ctx) as db:
        with db.read() as tx:
            span = period(since, until, tx.now_ms, db.zone, precise=False)
            days = _days(span, db.zone)
            rows = [_row(row) for row in reports.report(tx, groups, Whose(user, team, key, model, upstream).filters(tx) | days)]
        columns = (*(Column(name, Kind.WORD) for name in groups), *SUMS)
        empty = f"nothing was used from {days['since']} to {days['until'] or 'today'}"
        listing(ctx, columns, rows, empty=empty, zone=db.zone, total=_total(groups, rows))


def _groups(by: list[str] | None) -> list[str]:
    groups = list(dict.fromkeys(words(by) or ["user"]))
    for name in groups:
        if name not in reports.GROUPS:
            raise unknown("grouping", name, reports.GROUPS, "llmgate report")
    return groups
