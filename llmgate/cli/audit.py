"""`llmgate audit`: who changed what, and when."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer

from ..clock import rfc3339
from ..money import usd
from ..store import audit as store
from ..store.db import Row as StoreRow
from .columns import Column, Kind, Row
from .context import open_store
from .grammar import alone, verb
from .options import UntilOption, period
from .output import listing

app = alone()

COLUMNS = (
    Column("id", Kind.ID),
    Column("time", Kind.TIME),
    Column("actor", Kind.TEXT),
    Column("action", Kind.WORD),
    Column("target", Kind.TEXT),
    Column("before", Kind.MAP),
    Column("after", Kind.MAP),
)


@verb(
    app,
    "audit",
    examples="""
    llmgate audit
    llmgate audit --since 90d --format csv
    """,
)
def audit(
    ctx: typer.Context,
    since: Annotated[str, typer.Option("--since", metavar="WHEN", help="From then on: 1h, 30d, a date.")] = "7d",
    until: UntilOption = None,
) -> None:
    """Show who changed what, and when, oldest first."""
    with open_store(ctx) as db:
        with db.read() as tx:
            span = period(since, until, tx.now_ms, db.zone, precise=False)
            rows = [_row(act) for act in store.acts(tx, since_ms=span.since_ms, until_ms=span.until_ms)]
        listing(ctx, COLUMNS, rows, empty=f"nothing was changed since {since}", zone=db.zone)


def _row(act: StoreRow) -> Row:
    return {
        **{name: act[name] for name in ("id", "actor", "action", "target")},
        "time": act["time_ms"],
        **{name: _told(msgspec.json.decode(act[name])) if act[name] else None for name in ("before", "after")},
    }


def _told(fields: dict[str, Any]) -> dict[str, Any]:
    """What is kept in nano-USD and milliseconds, as everything else tells it: in USD, and as a time."""
    told: dict[str, Any] = {}
    for name, value in fields.items():
        if name.endswith("_nano") and value is not None:
            told[name.removesuffix("_nano") + "_usd"] = usd(value)
        elif name in ("expires_ms", "from_ms", "until_ms"):
            told[name.removesuffix("_ms") + "_at"] = rfc3339(value) if value is not None else None
        else:
            told[name] = value
    return told
