"""`llmgate models`: what can be asked for, and what it is charged."""

from __future__ import annotations

import time
from typing import Annotated
from zoneinfo import ZoneInfo

import typer

from .. import clock, routing
from ..config import known_upstreams, timezone_name
from .columns import Column, Kind, Row
from .context import loaded
from .grammar import noun, verb
from .output import listing

app = noun("models", "Models: what can be asked for, and what it is charged.")

COLUMNS = (
    Column("model", Kind.TEXT),
    Column("upstream", Kind.WORD),
    Column("input_usd", Kind.MONEY),
    Column("output_usd", Kind.MONEY),
    Column("cached_input_usd", Kind.MONEY, minor=1),
    Column("free", Kind.FLAG),
)


@verb(
    app,
    "list",
    examples="""
    llmgate models
    llmgate models --search mini
    llmgate models --format csv
    """,
)
def list_(
    ctx: typer.Context,
    search: Annotated[
        str | None, typer.Option("--search", metavar="S", help="Only those with S in their name or their upstream's.")
    ] = None,
) -> None:
    """List the models that can be asked for, with what 1M tokens of each are charged."""
    config, env = loaded(ctx)
    now_ms = time.time_ns() // 1_000_000
    day = clock.day_of(now_ms, ZoneInfo(timezone_name(config, env) or "UTC"))
    rows = [_row(line) for line in routing.listing(config, known_upstreams(config), day) if _fits(line, search)]
    empty = f"no model has {search!r} in its name" if search else "there is no model: the config has no upstream"
    listing(ctx, COLUMNS, rows, empty=empty)


def _fits(line: routing.Listing, search: str | None) -> bool:
    return search is None or search.lower() in f"{line.model} {line.upstream}".lower()


def _row(line: routing.Listing) -> Row:
    return {
        "model": line.model,
        "upstream": line.upstream,
        "input_usd": line.input,
        "output_usd": line.output,
        "cached_input_usd": line.cached_input,
        "free": line.free,
    }
