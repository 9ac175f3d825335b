"""`llmgate plans`: what the config says of them, and who has them."""

from __future__ import annotations

from typing import Annotated

import typer

from ..plans import Plan, check, policy_of
from ..store import accounts
from ..types import Billing
from .columns import Column, Kind, Row, Show
from .context import config_of, open_store
from .grammar import noun, verb
from .output import listing, single

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
    if plan:
        check(plan, config_of(ctx).plans)


def plan_billing(ctx: typer.Context) -> dict[str, Billing]:
    """The billing that plans give to accounts that have none of their own."""
    return policy_of(config_of(ctx)).billing


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
        users = accounts.on_plans(tx)
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
    check(plan, rows)
    single(ctx, COLUMNS, rows[plan])
