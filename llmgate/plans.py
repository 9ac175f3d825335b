"""Plans and defaults as the store needs them: what a config says of limits, read once.

A plan is a named bundle of limits and terms. It lives in the config and is read live: a user carries only its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from .config import Config
from .limits import Limit, parse
from .money import to_nano
from .names import matches


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    price_nano: int
    """Per month."""
    limits: tuple[Limit, ...]
    models: tuple[str, ...]
    """Globs of the models that it includes; empty: all."""

    def includes(self, names: Iterable[str]) -> bool:
        """Whether it includes a model that goes by these names."""
        return not self.models or any(matches(glob, name) for glob in self.models for name in names)


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for everybody."""

    plans: Mapping[str, Plan]
    limits: tuple[Limit, ...]
    """The default's, of every user."""
    alert_at: tuple[int, ...]
    """Percentages of a limit that are worth telling when they are crossed."""

    low_balance: tuple[int, ...] = ()
    """Balances of prepaid accounts, in nano-USD, that are worth telling when they are fallen below."""


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
            )
            for name, table in config.plans.items()
        },
        limits=tuple(parse(text) for text in config.defaults.limits),
        alert_at=config.accounting.alert_at,
        low_balance=tuple(to_nano(usd) for usd in config.accounting.low_balance),
    )
