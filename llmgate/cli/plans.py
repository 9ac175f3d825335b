"""`llmgate plans`: what the config says of them, and who has them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Annotated

import typer

from ..errors import Refusal
from ..plans import Plan, policy_of
from ..store import accounts
from ..types import Billing
from .columns import Column, Kind, Row, Show
from .context import config_of, open_store
from .grammar import noun, verb
from .output import listing, single
from .suggest import nearest

PlanOption = Annotated[
    str | None, typer.Option("--plan", metavar="PLAN", help="The plan whose limits hold; '' for none.")
]

app = noun("plans", "Plans: named bundles of limits.")

COLUMNS = (
    Column("plan", Kind.WORD),
    Column("price_usd", Kind.MONEY),
    Column("billing", Kind.WORD, Show.USED),
    Column("limits", Kind.LIST),
    Column("overage_usd", Kind.MONEY, Show.USED),
    Column("models", Kind.LIST),
    Column("users", Kind.NUMBER),
)


def check_plan(ctx: typer.Context, plan: str | None) -> None:
    """Raises Refusal for a plan that the config doesn't know: its users would be refused."""
    plans = config_of(ctx).plans
    if plan and plan not in plans:
        raise no_plan(plan, plans)


def plan_billing(ctx: typer.Context) -> dict[str, Billing]:
    """The billing that plans give to accounts that have none of their own."""
    return policy_of(config_of(ctx)).billing


def no_plan(plan: str, plans: Iterable[str]) -> Refusal:
    near = nearest(plan, plans)
    hint = f"did you mean {near}?" if near else "`llmgate plans` lists them"
    return Refusal(f"there is no plan {plan!r}: {hint}", code="not_found")


def _row(plan: Plan, users: int) -> Row:
    return {
        "plan": plan.name,
        "price_usd": plan.price_nano,
        "billing": plan.billing,
        "overage_usd": plan.overage_nano,
        "limits": [str(limit) for limit in plan.limits],
        "models": list(plan.models),
        "users": users,
    }


def _rows(ctx: typer.Context) -> dict[str, Row]:
    plans = policy_of(config_of(ctx)).plans
    with open_store(ctx) as db, db.read() as tx:
        of_team = {team["name"]: team["plan"] for team in accounts.list_teams(tx)}
        users = Counter(user["plan"] or of_team.get(user["team"]) for user in accounts.list_users(tx))
    return {name: _row(plan, users[name]) for name, plan in plans.items()}


@verb(
    app,
    "list",
    examples="""
    llmgate plans
    llmgate plans --json
    """,
)
def list_(ctx: typer.Context) -> None:
    """List the plans of the config."""
    listing(ctx, COLUMNS, _rows(ctx).values(), empty="there is no plan: add [plans.NAME] to llmgate.toml")


@verb(
    app,
    "show",
    examples="""
    llmgate plans show starter
    """,
)
def show(ctx: typer.Context, plan: Annotated[str, typer.Argument(metavar="PLAN")]) -> None:
    """Show one plan."""
    rows = _rows(ctx)
    if plan not in rows:
        raise no_plan(plan, rows)
    single(ctx, COLUMNS, rows[plan])
