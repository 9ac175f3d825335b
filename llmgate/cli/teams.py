"""`llmgate teams`: users who share an account."""

from __future__ import annotations

from typing import Annotated

import typer

from ..store import accounts, ledger
from ..store.db import Row as StoreRow
from ..store.db import Tx
from ..types import Billing
from .columns import Column, Kind, Row, Show
from .context import config_of, open_store
from .grammar import noun, verb
from .options import require_changes
from .output import listing, result, single
from .plans import PlanOption, check_plan, plan_billing
from .users import BillingOption, NewBillingOption

app = noun("teams", "Teams: users who share an account.")

COLUMNS = (
    Column("team", Kind.WORD),
    Column("plan", Kind.WORD, Show.USED),
    Column("billing", Kind.WORD),
    Column("members", Kind.NUMBER),
    Column("created_at", Kind.TIME, minor=1),
)

DETAILS = (
    *COLUMNS,
    Column("balance_usd", Kind.MONEY),
    Column("available_usd", Kind.MONEY),
    Column("users", Kind.LIST),
)

TeamName = Annotated[str, typer.Argument(metavar="TEAM")]


def _row(team: StoreRow, members: int) -> Row:
    return {
        "team": team["name"],
        "plan": team["plan"],
        "billing": team["billing"],
        "members": members,
        "created_at": team["created_ms"],
    }


def _details(tx: Tx, name: str) -> Row:
    team = accounts.team_row(tx, name)
    users = [user["name"] for user in accounts.list_users(tx) if user["team"] == name]
    return {
        **_row(team, len(users)),
        "balance_usd": ledger.balance(tx, team["account_id"]),
        "available_usd": ledger.available(tx, team["account_id"]),
        "users": users,
    }


@verb(
    app,
    "list",
    examples="""
    llmgate teams
    llmgate teams --json
    """,
)
def list_(ctx: typer.Context) -> None:
    """List teams."""
    with open_store(ctx) as db:
        with db.read() as tx:
            rows = [_row(team, team["members"]) for team in accounts.list_teams(tx)]
        listing(ctx, COLUMNS, rows, empty="there is no team: `llmgate teams add TEAM` makes one", zone=db.zone)


@verb(app, "show", examples="llmgate teams show research")
def show(ctx: typer.Context, team: TeamName) -> None:
    """Show a team, the balance of its account, and its users."""
    with open_store(ctx) as db:
        ledger.expire_overdue(db)
        with db.read() as tx:
            row = _details(tx, team)
        single(ctx, DETAILS, row, zone=db.zone)


@verb(
    app,
    "add",
    examples="""
    llmgate teams add research
    llmgate teams add research --billing prepaid --plan starter
    """,
)
def add(ctx: typer.Context, team: TeamName, plan: PlanOption = None, billing: BillingOption = None) -> None:
    """Make a team. A plan's limits hold for each of its users; what the team may use in all: `llmgate limits set`."""
    check_plan(ctx, plan)
    default = Billing(config_of(ctx).defaults.billing)
    with open_store(ctx) as db:
        with db.write() as tx:
            accounts.add_team(tx, team, plan=plan or None, billing=billing, default_billing=default)
            accounts.follow_plans(tx, plan_billing(ctx))
            row = _details(tx, team)
        said = f"made team {team}: `llmgate users set USER --team {team}` puts a user into it"
        result(ctx, COLUMNS, row, said, zone=db.zone)


@verb(app, "set", examples="llmgate teams set research --billing prepaid")
def set_(ctx: typer.Context, team: TeamName, plan: PlanOption = None, billing: NewBillingOption = None) -> None:
    """Change a team; what is not named stays as it is."""
    changes = {name: value for name, value in (("plan", plan), ("billing", billing)) if value is not None}
    require_changes(changes, "--plan or --billing")
    check_plan(ctx, plan)
    with open_store(ctx) as db:
        with db.write() as tx:
            accounts.set_team(tx, team, changes, default_billing=Billing(config_of(ctx).defaults.billing))
            accounts.follow_plans(tx, plan_billing(ctx))
            row = _details(tx, team)
        result(ctx, COLUMNS, row, f"changed team {team}", zone=db.zone)
