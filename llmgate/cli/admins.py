"""`llmgate admins`: the keys of the admin API."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ..errors import Failure, reason
from ..store import admins
from ..store.admins import Scope
from ..store.db import Row as StoreRow
from .addresses import base_url
from .columns import Column, Kind, Row, Show
from .context import open_store
from .grammar import noun, verb
from .output import listing, result, single
from .session import Format, confirm, note, session, uninterrupted

app = noun("admins", "Admins: the keys of the admin API.")

COLUMNS = (
    Column("admin", Kind.WORD),
    Column("scope", Kind.WORD),
    Column("prefix", Kind.WORD, minor=1),
    Column("last_used_at", Kind.TIME, Show.USED, minor=1),
    Column("status", Kind.STATE),
    Column("created_at", Kind.TIME, minor=2),
)

MADE = (Column("key", Kind.WORD), *COLUMNS, Column("url", Kind.WORD))

AdminName = Annotated[str, typer.Argument(metavar="NAME", help="Who it is for: the audit calls it admin:NAME.")]


def row_of(admin: StoreRow) -> Row:
    return {
        "admin": admin["name"],
        **{name: admin[name] for name in ("scope", "prefix", "status")},
        **{f"{name}_at": admin[f"{name}_ms"] for name in ("last_used", "created")},
    }


@verb(
    app,
    "list",
    examples="""
    llmgate admins
    llmgate admins --all --json
    """,
)
def list_(
    ctx: typer.Context, dead: Annotated[bool, typer.Option("--all", help="Revoked ones as well.")] = False
) -> None:
    """List admin keys. Whoever has $ADMIN_TOKEN of the daemon's environment is an admin too, and not listed."""
    with open_store(ctx) as db:
        with db.read() as tx:
            rows = [row_of(admin) for admin in admins.list_admins(tx, dead=dead)]
        listing(ctx, COLUMNS, rows, empty="there is no admin key: `llmgate admins add NAME` makes one", zone=db.zone)


@verb(
    app,
    "add",
    examples="""
    llmgate admins add ops
    llmgate admins add dashboard --scope read
    TOKEN=$(llmgate admins add provisioning --scope keys)
    """,
)
def add(
    ctx: typer.Context,
    name: AdminName,
    scope: Annotated[
        Scope, typer.Option("--scope", metavar="|".join(Scope), help="What it may change; all may read everything.")
    ] = Scope.ALL,
) -> None:
    """Make a key for the admin API. It is shown this once; on a pipe it alone goes to stdout.

    read changes nothing; keys changes users, teams, keys and limits, but not who pays how; credits changes credits.
    """
    with open_store(ctx) as db, uninterrupted():
        with db.write() as tx:
            key = admins.add(tx, name, scope)
            row = row_of(admins.admin_row(tx, name))
        url = base_url(ctx).removesuffix("/v1") + "/admin"
        if session(ctx).wanted is not Format.TABLE:
            single(ctx, MADE, {"key": key, **row, "url": url}, zone=db.zone)
            return
        _hand_over(name, key)
        note(f"admin key of {name} (scope {scope}), for {url}; it is shown this once")


def _hand_over(name: str, key: str) -> None:
    """Show a key, or say what to do where it can't be shown: it is known at no other moment."""
    try:
        sys.stdout.write(f"{key}\n")
        sys.stdout.flush()
    except OSError as error:
        raise Failure(
            f"the admin key of {name} was made, but can't be shown ({reason(error)}): "
            f"`llmgate admins revoke {name}`, and add it again"
        ) from error


@verb(
    app,
    "revoke",
    examples="""
    llmgate admins revoke prometheus
    llmgate admins revoke prometheus --yes
    """,
)
def revoke(ctx: typer.Context, name: AdminName) -> None:
    """End an admin key for good; it asks first."""
    with open_store(ctx) as db:
        with db.read() as tx:
            admins.admin_row(tx, name)
        confirm(ctx, f"Revoke the admin key of {name}? That can't be undone.")
        with db.write() as tx:
            row = row_of(admins.revoke(tx, name))
        result(ctx, COLUMNS, row, f"the admin key of {name} is revoked", zone=db.zone)
