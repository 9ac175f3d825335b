"""A plan's included tokens as they stand for one user this month: what is used, and what requests in flight may use.

Invariant: every hold under a plan's terms has set aside what it may be charged at worst (`overage.worst`). Settling
can't break it. Placing can, because a request that is placed later may be settled first and use up the included tokens:
so a hold that is placed raises the others, in its own transaction, and is refused where their accounts or limits don't
carry that.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

import msgspec

from ..limits import Limit, Unit, Window
from ..money import ceil_div
from ..overage import UNLIMITED, Terms, worst
from ..plans import Plan
from ..pricing import UNITS
from ..types import Quote
from . import limits
from .db import Row, Tx
from .keys import Caller


class Flying(msgspec.Struct, frozen=True):
    """Another request of the same user in flight, under its plan's terms."""

    row: Row
    terms: Terms

    def raised(self, reached: int) -> int:
        """How much more it must set aside where all in flight may come to `reached` tokens."""
        if not self.row["bounded"]:
            return 0
        held: int = self.row["overage_held_nano"]
        return max(0, worst(self.terms, self.row["bound_tokens"], reached) - held)


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """The included tokens of a user's month, and who draws on them."""

    terms: Terms
    used: int
    flying: tuple[Flying, ...] = ()
    rooms: tuple[tuple[int, frozenset[int]], ...] = ()
    """What accounts and limits of those in flight still carry, in nano-USD, and the ids of the holds in question."""

    def own(self, bound: int) -> int:
        """The most that the tokens of a new request of at most `bound` tokens are charged."""
        return worst(self.terms, bound, self._reached(bound))

    def raises(self, bound: int) -> dict[int, int]:
        """What the others must set aside more because of it, by hold."""
        reached = self._reached(bound)
        return {hold.row["id"]: more for hold in self.flying if (more := hold.raised(reached))}

    def cost(self, bound: int) -> int:
        """What the new request needs in all: a little more than it takes where not all others draw on its account."""
        return self.own(bound) + sum(self.raises(bound).values())

    def alone(self) -> Pool:
        return msgspec.structs.replace(self, flying=(), rooms=())

    def _reached(self, bound: int) -> int:
        others: int = sum(hold.row["bound_tokens"] for hold in self.flying)
        return self.used + bound + others


def bound_tokens(quote: Quote, output: int) -> int:
    """The most tokens that a request may use whose answer has at most `output` of them per choice."""
    return quote.input_tokens + output * quote.choices


def longest(quote: Quote, cost: Any, room_nano: int) -> int | None:
    """The longest answer whose cost fits the room, or None if not even the shortest does. `cost` must not fall."""
    if cost(quote.output_tokens) <= room_nano:
        return quote.output_tokens
    lengths = range(quote.floor_tokens, quote.output_tokens + 1)
    fitting = bisect_right(lengths, room_nano, key=cost)
    return lengths[fitting - 1] if fitting else None


def fixed_nano(fixed: int) -> int:
    """What a request costs beside its tokens, of a rate per `UNITS`."""
    return ceil_div(fixed, UNITS)


def pool_of(tx: Tx, caller: Caller, plan: Plan | None, names: tuple[str, ...]) -> Pool | None:
    """The included tokens that a request for a model that goes by `names` draws on; None: its plan has no such terms.

    A user's own limit of the plan's slot says how many tokens are included instead of the plan's.
    """
    if plan is None or plan.overage_nano is None or plan.quota is None or not plan.quota.means(names):
        return None
    quota = limits.own(tx, ("user", str(caller.user_id)), plan.quota.slot) or plan.quota
    terms = Terms(UNLIMITED if quota.amount is None else quota.amount, quota.glob, plan.overage_nano)
    used = _used(tx, caller.user_id, terms, tx.now_ms)
    flying = tuple(
        Flying(row, found)
        for row in tx.execute(
            "SELECT * FROM holds WHERE user_id = ? AND quota_glob = ?", (caller.user_id, quota.glob)
        ).fetchall()
        if limits.same_window(tx, quota, row) and (found := terms_of(row))
    )
    return Pool(terms=terms, used=used, flying=flying, rooms=_rooms(tx, caller, flying))


def _rooms(tx: Tx, caller: Caller, flying: tuple[Flying, ...]) -> tuple[tuple[int, frozenset[int]], ...]:
    """What stands in the way of raising others: accounts and budgets that aren't all the new request's own."""
    found: dict[Any, tuple[int, set[int]]] = {}
    for hold in flying:
        if not hold.row["bounded"]:
            continue
        if hold.row["account_id"] != caller.account_id:
            account = tx.one("SELECT * FROM accounts WHERE id = ?", hold.row["account_id"])
            assert account is not None
            if account["billing"] == "prepaid":
                room = account["balance_nano"] - account["held_nano"]
                found.setdefault(("account", account["id"]), (room, set()))[1].add(hold.row["id"])
        for budget, room in limits.budgets(tx, dict(hold.row)):
            found.setdefault(("budget", budget), (room, set()))[1].add(hold.row["id"])
    return tuple((room, frozenset(ids)) for room, ids in found.values())


def raise_others(tx: Tx, pool: Pool, bound: int) -> None:
    """Set aside for those in flight what a request of `bound` tokens, which is being placed, may make them cost."""
    rows = {hold.row["id"]: hold.row for hold in pool.flying}
    for hold_id, nano in pool.raises(bound).items():
        row = dict(rows[hold_id])
        tx.execute(
            "UPDATE holds SET amount_nano = amount_nano + ?, overage_held_nano = overage_held_nano + ? WHERE id = ?",
            (nano, nano, hold_id),
        )
        tx.execute("UPDATE accounts SET held_nano = held_nano + ? WHERE id = ?", (nano, row["account_id"]))
        limits.hold_more(tx, row, nano)


def terms_of(row: Any) -> Terms | None:
    """The terms of a hold or of a usage row."""
    if row["quota_tokens"] is None:
        return None
    return Terms(row["quota_tokens"], row["quota_glob"], row["overage_nano"])


def used_before(tx: Tx, row: dict[str, Any], terms: Terms) -> int:
    """How many of the included tokens a user has used before a request of this usage row is settled."""
    return _used(tx, row["user_id"], terms, row["time_ms"])


def _used(tx: Tx, user_id: int, terms: Terms, at_ms: int) -> int:
    if terms.quota == UNLIMITED:
        return 0  # nothing depends on it, and where there is no limit there is no counter either that knows it
    quota = Limit(terms.quota, Unit.TOKENS, Window.MONTH, terms.glob)
    return limits.used_now(tx, ("user", str(user_id)), quota, at_ms)
