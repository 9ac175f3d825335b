"""`llmgate events`: thresholds crossed, and other things worth telling."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import clock
from ..store import events
from .columns import Column, Kind
from .context import open_store
from .grammar import alone, verb
from .output import listing

app = alone()

COLUMNS = (
    Column("id", Kind.ID),
    Column("time", Kind.TIME),
    Column("kind", Kind.WORD),
    Column("target", Kind.WORD),
    Column("message", Kind.TEXT),
)


@verb(
    app,
    "events",
    examples="""
    llmgate events
    llmgate events --since 30d --json
    """,
)
def events_(
    ctx: typer.Context,
    since: Annotated[str, typer.Option("--since", metavar="WHEN", help="From when on.")] = "7d",
) -> None:
    """List what happened that is worth telling: each thing once, as limits fill up and balances run low."""
    with open_store(ctx) as db:
        with db.read() as tx:
            found = events.since(tx, clock.since_ms(since, tx.now_ms, db.zone))
        rows = [{**dict(row), "time": row["time_ms"]} for row in found]
        listing(ctx, COLUMNS, rows, empty=f"nothing happened since {since} that is worth telling", zone=db.zone)
