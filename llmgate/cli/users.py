"""`llmgate users`: who keys belong to."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from ..store import accounts, audit, identities, keys, ledger, links, sessions
from ..store.db import Row as StoreRow
from ..store.db import Tx
from ..types import Billing
from .addresses import public_url
from .columns import Column, Kind, Row, Show
from .context import config_of, open_store
from .grammar import noun, verb
from .options import require_changes
from .output import listing, result, single
from .plans import PlanOption, check_plan, plan_billing
from .session import Format, note, session, uninterrupted

app = noun("users", "Users: who keys belong to.")

COLUMNS = (
    Column("user", Kind.WORD),
    Column("team", Kind.WORD, Show.USED),
    Column("plan", Kind.WORD, Show.USED),
    Column("billing", Kind.WORD),
    Column("account", Kind.WORD),
    Column("email", Kind.TEXT, Show.USED, minor=2),
    Column("status", Kind.STATE),
    Column("created_at", Kind.TIME, minor=1),
    Column("leads", Kind.WORD, Show.USED),
)

DETAILS = (
    *COLUMNS,
    Column("balance_usd", Kind.MONEY),
    Column("available_usd", Kind.MONEY),
    Column("keys", Kind.LIST),
)

LINK = (Column("url", Kind.WORD), Column("user", Kind.WORD), Column("expires_at", Kind.TIME))

SIGNED_OUT = (Column("user", Kind.WORD), Column("sessions", Kind.NUMBER))

IDENTITIES = (
    Column("issuer", Kind.TEXT),
    Column("subject", Kind.TEXT),
    Column("email", Kind.TEXT, Show.USED),
    Column("created_at", Kind.TIME, minor=1),
)

UserName = Annotated[str, typer.Argument(metavar="USER")]
TeamOption = Annotated[str | None, typer.Option("--team", metavar="TEAM", help="The team; '' for none.")]
EmailOption = Annotated[str | None, typer.Option("--email", metavar="E", help="Where to write to; '' for none.")]
BillingOption = Annotated[
    Billing | None,
    typer.Option(
        "--billing",
        metavar="metered|prepaid",
        help="metered: what is used is counted; prepaid: a balance is needed.",
        show_default=False,
    ),
]


class NewBilling(StrEnum):
    """What the billing of an account can be changed to."""

    METERED = Billing.METERED
    PREPAID = Billing.PREPAID
    DEFAULT = accounts.DEFAULT


NewBillingOption = Annotated[
    NewBilling | None,
    typer.Option(
        "--billing",
        metavar="|".join(NewBilling),
        help="metered: what is used is counted; prepaid: a balance is needed; default: as if never set by hand.",
        show_default=False,
    ),
]


def row_of(user: StoreRow) -> Row:
    """A user as it is shown; `account` pays, and `billing` is that account's."""
    return {
        "user": user["name"],
        "account": user["name"] if user["payer_kind"] == "user" else f"team:{user['team']}",
        "created_at": user["created_ms"],
        **{name: user[name] for name in ("team", "plan", "billing", "email", "status", "leads")},
    }


@verb(
    app,
    "list",
    examples="""
    llmgate users
    llmgate users --team research --json
    """,
)
def list_(
    ctx: typer.Context,
    team: Annotated[str | None, typer.Option("--team", metavar="TEAM", help="Only of this team.")] = None,
) -> None:
    """List users, with the account that pays for each."""
    with open_store(ctx) as db:
        with db.read() as tx:
            if team is not None:
                accounts.team_row(tx, team)
            rows = [row_of(user) for user in accounts.list_users(tx) if team in (None, user["team"])]
        listing(ctx, COLUMNS, rows, empty="there is no user: `llmgate users add USER` makes one", zone=db.zone)


@verb(app, "show", examples="llmgate users show alice")
def show(ctx: typer.Context, user: UserName) -> None:
    """Show a user, the balance of the account that pays, and the user's keys."""
    with open_store(ctx) as db:
        ledger.expire_overdue(db)
        with db.read() as tx:
            row = _details(tx, user)
        single(ctx, DETAILS, row, zone=db.zone)


def _details(tx: Tx, name: str) -> Row:
    user = accounts.user_row(tx, name)
    return {
        **row_of(user),
        "balance_usd": ledger.balance(tx, user["payer_id"]),
        "available_usd": ledger.available(tx, user["payer_id"]),
        "keys": [f"{name}/{key['name']}" for key in keys.list_keys(tx, user=name)],
    }


@verb(
    app,
    "add",
    examples="""
    llmgate users add alice
    llmgate users add bob --team research --email bob@example.org
    """,
)
def add(
    ctx: typer.Context,
    user: UserName,
    team: TeamOption = None,
    plan: PlanOption = None,
    billing: BillingOption = None,
    email: EmailOption = None,
) -> None:
    """Make a user. (`llmgate keys add` does so too, where it is new.)"""
    default = Billing(config_of(ctx).defaults.billing)
    check_plan(ctx, plan)
    with open_store(ctx) as db:
        with db.write() as tx:
            accounts.add_user(
                tx,
                user,
                team=team or None,
                plan=plan or None,
                email=email or None,
                billing=billing,
                default_billing=default,
            )
            accounts.follow_plans(tx, plan_billing(ctx))
            made = accounts.user_row(tx, user)
        said = f"made user {user}: `llmgate keys add {user}` issues a key"
        result(ctx, COLUMNS, row_of(made), said, zone=db.zone)


@verb(
    app,
    "set",
    examples="""
    llmgate users set alice --team research
    llmgate users set alice --team '' --billing metered
    llmgate users set alice --billing default
    llmgate users set alice --plan starter
    llmgate users set alice --lead research
    """,
)
def set_(
    ctx: typer.Context,
    user: UserName,
    team: TeamOption = None,
    plan: PlanOption = None,
    billing: NewBillingOption = None,
    email: EmailOption = None,
    lead: Annotated[
        str | None, typer.Option("--lead", metavar="TEAM", help="The team that the user leads; '' for none.")
    ] = None,
) -> None:
    """Change a user; what is not named stays as it is.

    Who leads a team sees its usage, balance, members and keys at /portal, makes and revokes its members' keys and sets
    their limits within the team's.

    A user of a team whose billing is set by hand pays with an account of its own from then on; --billing default lets
    the team pay again, unless the user has credits left.
    """
    asked: dict[str, Any] = {"team": team, "plan": plan, "billing": billing, "email": email, "leads": lead}
    changes = {name: value for name, value in asked.items() if value is not None}
    require_changes(changes, "--team, --plan, --billing, --email or --lead")
    check_plan(ctx, plan)
    _change(ctx, user, changes, f"changed user {user}")


@verb(app, "disable", examples="llmgate users disable alice")
def disable(ctx: typer.Context, user: UserName) -> None:
    """Refuse all requests of a user until it is enabled again."""
    _change(ctx, user, {"status": "disabled"}, f"user {user} is disabled: all its keys are refused")


@verb(app, "enable", examples="llmgate users enable alice")
def enable(ctx: typer.Context, user: UserName) -> None:
    """Let a disabled user's keys work again."""
    _change(ctx, user, {"status": "active"}, f"user {user} is active")


@verb(
    app,
    "link",
    examples="""
    llmgate users link alice
    llmgate users link alice --json | jq -r .url
    """,
)
def link(ctx: typer.Context, user: UserName) -> None:
    """Make a link that signs a user in to the pages, once, within 15 minutes. On a pipe it alone goes to stdout.

    Whoever has it is that user: send it where nobody else reads.
    """
    with open_store(ctx) as db, uninterrupted():
        with db.write() as tx:
            secret, expires_ms = links.add(tx, user)
        url = f"{public_url(ctx)}/sign-in/link?token={secret}"
        if session(ctx).wanted is not Format.TABLE:
            single(ctx, LINK, {"url": url, "user": user, "expires_at": expires_ms}, zone=db.zone)
            return
        typer.echo(url)
        note(f"signs {user} in, once, within 15 minutes; it is shown this once")


@verb(app, "signout", examples="llmgate users signout alice")
def signout(ctx: typer.Context, user: UserName) -> None:
    """Sign a user out of the pages, everywhere; links that were not used yet end too. Keys are not touched."""
    with open_store(ctx) as db:
        with db.write() as tx:
            row = accounts.user_row(tx, user)
            count = sessions.end_all(tx, row["id"])
            audit.record(tx, "users.signout", user, after={"sessions": count})
        said = f"signed {user} out: {count} {'session' if count == 1 else 'sessions'} ended"
        result(ctx, SIGNED_OUT, {"user": user, "sessions": count}, said, zone=db.zone)


@verb(
    app,
    "identities",
    examples="""
    llmgate users identities alice
    llmgate users identities alice --forget
    """,
)
def identities_(
    ctx: typer.Context,
    user: UserName,
    forget: Annotated[bool, typer.Option("--forget", help="Unlink them, and sign the user out.")] = False,
) -> None:
    """List the accounts elsewhere ([oidc]) that sign a user in: each is linked when it does so first.

    From then on the account counts, not its address. Where somebody has a new one, or somebody else's, --forget: who
    signs in next is recognised by the user's e-mail again (`llmgate users set USER --email`).
    """
    with open_store(ctx) as db:
        if forget:
            with db.write() as tx:
                found = identities.forget(tx, user)
        else:
            with db.read() as tx:
                found = identities.of_user(tx, user)
        rows = [
            {"created_at": row["created_ms"], **{n: row[n] for n in ("issuer", "subject", "email")}} for row in found
        ]
        listing(ctx, IDENTITIES, rows, empty=f"no account elsewhere signs {user} in", zone=db.zone)
        if forget:
            note(f"forgotten: nobody is linked to user {user} any more")


def _change(ctx: typer.Context, user: str, changes: dict[str, Any], said: str) -> None:
    with open_store(ctx) as db:
        with db.write() as tx:
            accounts.set_user(tx, user, changes, default_billing=Billing(config_of(ctx).defaults.billing))
            accounts.follow_plans(tx, plan_billing(ctx))
            row = row_of(accounts.user_row(tx, user))
        result(ctx, COLUMNS, row, said, zone=db.zone)
