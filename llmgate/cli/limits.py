"""`llmgate limits`: ceilings on requests, tokens, USD and concurrency, and how far they are used up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from ..errors import UsageError
from ..limits import EXAMPLES, Window
from ..plans import policy_of
from ..store import limits
from .columns import Column, Kind, Row, Show
from .context import config_of, open_store
from .grammar import noun, verb
from .output import listing
from .session import Format, confirm, note, session

app = noun("limits", "Limits: how much may be asked, and how far that is used up.")

COLUMNS = (
    Column("target", Kind.WORD),
    Column("limit", Kind.WORD),
    Column("source", Kind.WORD, minor=1),
    Column("used", Kind.FIGURE),
    Column("held", Kind.FIGURE),
    Column("remaining", Kind.FIGURE),
    Column("resets_at", Kind.TIME, Show.USED),
)

GONE = COLUMNS[:2]
"""Of what is no more."""

Target = Annotated[str, typer.Argument(metavar="TARGET", help="USER, user:U, team:T or key:ID.")]


@verb(
    app,
    "list",
    examples="""
    llmgate limits
    llmgate limits alice
    llmgate limits team:research --json
    """,
)
def list_(
    ctx: typer.Context,
    target: Annotated[str | None, typer.Argument(metavar="TARGET", help="USER, user:U, team:T or key:ID.")] = None,
) -> None:
    """List limits, with what is used of them, held by requests in flight, and left."""
    policy = policy_of(config_of(ctx))
    with open_store(ctx) as db:
        with db.read() as tx:
            rows = [_row(found) for found in limits.listing(tx, policy, target)]
        on = f" on {target}" if target else ""
        empty = f"there is no limit{on}: `llmgate limits set {target or 'USER'} '60 requests/minute'` sets one"
        listing(ctx, COLUMNS, rows, empty=empty, zone=db.zone)


def _row(found: limits.Listed) -> Row:
    standing = found.standing
    ends = None if standing.limit.window is Window.TOTAL else standing.span.end_ms
    return limits.as_row(found.target, standing) | {"resets_at": ends}


@verb(
    app,
    "set",
    examples="""
    llmgate limits set alice '60 requests/minute' '$50/month'
    llmgate limits set team:research '$5/day on gpt-4o*'
    llmgate limits set alice 'unlimited requests/minute'
    """,
)
def set_(
    ctx: typer.Context,
    target: Target,
    specs: Annotated[list[str], typer.Argument(metavar="SPEC...", help=f"Such as {EXAMPLES}.")],
) -> None:
    """Set limits on a user, a team or a key.

    A limit replaces the one for the same unit, window and models; a user's own replaces the plan's and the default's.
    """
    with open_store(ctx) as db:
        policy = policy_of(config_of(ctx))
        with db.write() as tx:
            found = limits.hang(tx, target, specs, config_of(ctx).accounting.alert_at)
            slots = {limit.slot for limit in found}
            subject, _ = limits.subject_of(tx, target)
            rows = [_row(one) for one in limits.of(tx, policy, subject) if one.standing.limit.slot in slots]
        _tell(ctx, COLUMNS, rows, [f"{target}: {limit}" for limit in found])


@verb(
    app,
    "remove",
    examples="""
    llmgate limits remove alice '60 requests/minute'
    llmgate limits remove key:k-7m2xq9ht --all --yes
    """,
)
def remove(
    ctx: typer.Context,
    target: Target,
    spec: Annotated[str | None, typer.Argument(metavar="SPEC", help="The limit; its amount doesn't matter.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All limits of its own.")] = False,
) -> None:
    """Remove a limit of a target's own, or all of them; the plan's and the default's hold again."""
    if (spec is None) is not everything:
        raise UsageError("name one limit, or say --all")
    if everything:
        confirm(ctx, f"Remove all limits of {target}'s own?")
    with open_store(ctx) as db:
        with db.write() as tx:
            gone = limits.take_off(tx, target, spec)
            _, name = limits.subject_of(tx, target)
        rows = [{"target": name, "limit": str(limit)} for limit in gone]
        _tell(ctx, GONE, rows, [f"{target}: no more {limit}" for limit in gone])


def _tell(ctx: typer.Context, columns: Sequence[Column], rows: Sequence[Row], said: list[str]) -> None:
    """What was done: in words, or the limits themselves where a format was asked for."""
    if session(ctx).wanted is Format.TABLE:
        for line in said:
            note(line)
    else:
        listing(ctx, columns, rows, empty="unlimited now: there is nothing to list")
