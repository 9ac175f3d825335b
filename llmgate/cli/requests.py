"""`llmgate requests`: who asked for a key, and whether it is given."""

from __future__ import annotations

from typing import Annotated

import typer

from ..plans import policy_of
from ..store import requests
from ..store.db import Database
from ..store.db import Row as StoreRow
from ..types import Billing
from .columns import Column, Kind, Row, Show
from .context import config_of, open_store
from .grammar import noun, verb
from .output import listing
from .session import Format, confirm, note, session

app = noun("requests", "Requests: who asked for a key, and whether it is given.")

COLUMNS = (
    Column("id", Kind.ID),
    Column("user", Kind.WORD),
    Column("existing", Kind.FLAG),
    Column("note", Kind.TEXT, Show.USED),
    Column("address", Kind.WORD, minor=1),
    Column("email", Kind.TEXT, Show.USED),
    Column("status", Kind.STATE),
    Column("created_at", Kind.TIME, minor=2),
    Column("decided_by", Kind.WORD, Show.USED, minor=2),
    Column("decided_at", Kind.TIME, Show.USED, minor=2),
    Column("key", Kind.WORD, Show.USED),
)

Numbers = Annotated[list[int], typer.Argument(metavar="ID...", help="Their numbers; `llmgate requests` lists them.")]


def row_of(request: StoreRow) -> Row:
    """A request as it is shown; `existing`: the key would be a user's who is there."""
    return {
        "user": request["username"],
        "existing": bool(request["existing"]),
        "key": f"{request['user']}/{request['key_name']}" if request["key_id"] is not None else None,
        **{name: request[name] for name in ("id", "note", "address", "email", "status", "decided_by")},
        **{f"{name}_at": request[f"{name}_ms"] for name in ("created", "decided")},
    }


@verb(
    app,
    "list",
    examples="""
    llmgate requests
    llmgate requests --all --json
    """,
)
def list_(
    ctx: typer.Context, decided: Annotated[bool, typer.Option("--all", help="Those that were decided as well.")] = False
) -> None:
    """List requests that wait for a decision, oldest first. [self_service] in the config says whether there are any."""
    with open_store(ctx) as db:
        with db.read() as tx:
            rows = [row_of(request) for request in requests.list_requests(tx, decided=decided)]
        mode = config_of(ctx).self_service.mode
        how = "[self_service] is off" if mode == "off" else f"[self_service] mode is {mode}"
        listing(ctx, COLUMNS, rows, empty=f"no request {'was made' if decided else 'waits'}: {how}", zone=db.zone)


@verb(
    app,
    "approve",
    examples="""
    llmgate requests approve 12
    llmgate requests approve 12 13 14 --yes
    """,
)
def approve(ctx: typer.Context, ids: Numbers) -> None:
    """Let those who asked have their keys; users that are new are made, with what [self_service] gives.

    The key itself is made when its asker comes back for it, within 30 days. Where there is a user of that name already,
    whoever asked would have a key of that user: then it asks first, and demands --yes on a pipe.
    """
    config = config_of(ctx)
    with open_store(ctx) as db:
        with db.read() as tx:
            waiting = [requests.request_row(tx, number) for number in dict.fromkeys(ids)]
        there = [row for row in waiting if row["existing"]]
        if there:
            named = ", ".join(f"{row['username']} (asked from {row['address']})" for row in there)
            confirm(ctx, f"There already: {named}. Give whoever asked a key of that user?")
        known = {row["id"] for row in there}
        with db.write() as tx:
            rows = [
                row_of(
                    requests.approve(
                        *(tx, config.self_service, row["id"], policy_of(config), Billing(config.defaults.billing)),
                        existing=row["id"] in known,
                    )
                )
                for row in waiting
            ]
        _tell(ctx, db, rows, "approved: the key is made when who asked comes back for it")


@verb(
    app,
    "deny",
    examples="""
    llmgate requests deny 12
    llmgate requests deny 12 13
    """,
)
def deny(ctx: typer.Context, ids: Numbers) -> None:
    """Refuse requests, or take back approvals whose keys weren't fetched yet."""
    with open_store(ctx) as db:
        with db.write() as tx:
            rows = [row_of(requests.deny(tx, number)) for number in dict.fromkeys(ids)]
        _tell(ctx, db, rows, "denied")


def _tell(ctx: typer.Context, db: Database, rows: list[Row], said: str) -> None:
    """What was done: in words, or the requests themselves where a format was asked for."""
    if session(ctx).wanted is Format.TABLE:
        for row in rows:
            note(f"request {row['id']} of {row['user']} is {said}")
    else:
        listing(ctx, COLUMNS, rows, empty="", zone=db.zone)
