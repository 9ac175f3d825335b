"""Plans and defaults as the store needs them: what a config says of limits, read once.

A plan is a named bundle of limits and terms. It lives in the config and is read live: a user carries only its name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType

import msgspec

from .config import Config
from .errors import Refusal
from .limits import Limit, included_tokens, parse
from .metering import Metering
from .money import to_nano
from .names import matches, meant, path_name
from .types import Billing, Meters


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    price_nano: int
    """Per month."""
    limits: tuple[Limit, ...]
    models: tuple[str, ...]
    """Globs of the models that it includes; empty: all."""
    overage_nano: int | None = None
    """For each token past those that the month includes, in nano-USD; None: past them requests are refused."""
    billing: Billing | None = None
    """Of an account whose billing was set by nothing else."""

    def includes(self, names: Iterable[str]) -> bool:
        """Whether it includes a model that goes by these names."""
        return not self.models or any(matches(glob, name) for glob in self.models for name in names)

    @property
    def quota(self) -> Limit | None:
        """The tokens that a month includes."""
        return included_tokens(self.limits)

    def includes_tokens(self, limit: Limit) -> bool:
        """Whether a limit says how many tokens a month includes: past it they are charged, not refused."""
        return self.overage_nano is not None and self.quota is not None and limit.slot == self.quota.slot


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for everybody."""

    plans: Mapping[str, Plan]
    limits: tuple[Limit, ...]
    """The default's, of every user."""
    alert_at: tuple[int, ...]
    """Percentages of a limit that are worth telling when they are crossed."""

    low_balance: tuple[int, ...] = ()
    """Balances of prepaid accounts, in nano-USD, that are worth telling when they are fallen below."""

    interrupted: str = "input"
    """What a request is charged that a crash cut off: its "input" estimate, or "none"."""

    paths: Mapping[str, Meters] = MappingProxyType({})
    """What such a request is charged at a path of the config instead, whose input says nothing: the fallback."""

    @property
    def billing(self) -> dict[str, Billing]:
        """The billing that plans give, by the plan's name."""
        return {name: plan.billing for name, plan in self.plans.items() if plan.billing}


def check(plan: str, plans: Collection[str]) -> None:
    """Raises Refusal `not_found` for a plan that isn't there: its users would be refused."""
    if plan not in plans:
        raise Refusal(f"there is no plan {plan!r}: {meant(plan, plans, 'llmgate plans')}", code="not_found")


NONE = Policy(plans={}, limits=(), alert_at=())


def policy_of(config: Config) -> Policy:
    """What a config says of limits. Its texts were checked when it was read."""
    return Policy(
        plans={
            name: Plan(
                name=name,
                price_nano=to_nano(table.price),
                limits=tuple(parse(text) for text in table.limits),
                models=table.models,
                overage_nano=to_nano(table.overage) if table.overage is not None else None,
                billing=Billing(table.billing) if table.billing else None,
            )
            for name, table in config.plans.items()
        },
        limits=tuple(parse(text) for text in config.defaults.limits),
        alert_at=config.accounting.alert_at,
        interrupted=config.accounting.interrupted,
        low_balance=tuple(to_nano(usd) for usd in config.accounting.low_balance),
        paths={
            path_name(pattern): Metering(unit=table.unit).meters(1 if table.fallback is None else table.fallback)
            for pattern, table in config.routes.items()
            if not table.unmetered
        },
    )
