"""Giving somebody a key: a user where it is new, its plan, the key, its limits, credits; all of it or nothing."""

from __future__ import annotations

from typing import NamedTuple

from .. import clock
from ..plans import Policy
from ..types import Billing
from . import accounts, keys, ledger, limits
from .db import Tx


class Wish(NamedTuple):
    """What is asked for."""

    user: str
    name: str | None = None
    credits_nano: int | None = None
    models: list[str] | None = None
    ips: list[str] | None = None
    tags: dict[str, str] | None = None
    note: str | None = None
    expires: str | None = None
    """As an admin writes it: `90d`, or a date."""
    plan: str | None = None
    """The user's plan from now on; "": none; None: as it is."""
    limits: list[str] | None = None
    """Of the key."""


class Done(NamedTuple):
    """What came of it."""

    issued: keys.Issued
    user_added: bool
    moved: ledger.Moved | None


def issue(tx: Tx, wish: Wish, policy: Policy, default_billing: Billing) -> Done:
    """Raises Refusal and UsageError."""
    added = accounts.find_user(tx, wish.user) is None
    if added:
        accounts.add_user(tx, wish.user, default_billing=default_billing)
    if wish.plan is not None:
        accounts.set_user(tx, wish.user, {"plan": wish.plan})
        accounts.follow_plans(tx, policy.billing)
    issued = keys.add(
        tx,
        wish.user,
        name=wish.name,
        models=wish.models,
        ips=wish.ips,
        tags=wish.tags,
        note=wish.note,
        expires_ms=clock.expires_ms(wish.expires, tx.now_ms, tx.zone) if wish.expires is not None else None,
    )
    if wish.limits:
        limits.hang(tx, f"key:{issued.id}", wish.limits)
    moved = ledger.add(tx, wish.user, wish.credits_nano) if wish.credits_nano is not None else None
    return Done(issued, added, moved)
