"""Whether a request may be served, and within which bounds: decided from how things stand, without touching anything.

Everything that may stand in the way is a `_Ceiling` over the length of the answer: the credit, a budget, a quota of
tokens, a rate. The answer gets the longest bound that all of them carry. Where one doesn't even carry a short answer
the request is refused, with the reason of the first such ceiling: what must be paid comes before what must be waited
for.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import msgspec

from ..clock import rfc3339
from ..errors import NO_RETRY, Refusal
from ..limits import Unit, Window
from ..money import ceil_div, dollars
from ..overage import UNLIMITED
from ..plans import Plan
from ..pricing import Dearest
from ..quoting import MOST_NANO, SMALLEST_CLAMP, amount_at, clamped_output
from ..types import CostSource, Quote
from .keys import Caller
from .limits import Amounts, Standing
from .overage import Pool, bound_tokens, fixed_nano, longest
from .prices import Snapshot

HELD_RETRY_S = 2
"""When to try again where only other requests in flight take the room."""

JITTER_S = 3
"""Everybody's minute begins at the same moment: who waits for it comes back spread over this long."""

LEAST_TOLD = 16
"""Tokens; nobody is told to ask for a shorter answer, which says nothing, and which OpenAI's Responses refuse."""

LONG_WAIT_S = 60
"""A reset that is further away than this is nothing that a client should wait for by itself."""


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What a request wants set aside, and everything that its usage row will need if the process dies."""

    request_id: str
    worker_id: str
    key_hash: bytes
    model: str
    names: tuple[str, ...]
    """All names that the model goes by: as asked for, and as each `upstream/model`; those of its fallbacks as well."""
    models: tuple[tuple[str, ...], ...] = ()
    """The names of each model that may answer, where there are fallbacks: the caller must be allowed every one."""
    free: bool = False
    """Nobody bills it."""
    upstream: str
    upstream_model: str
    format: str
    endpoint: str
    streamed: bool
    quote: Quote
    price: Dearest
    unquotable: str | None
    """A field of the request, or its path, whose cost has no known bound."""
    unpriced: bool = False
    """Nobody knows what it costs."""
    cost: Snapshot
    charge: Snapshot | None
    """None: charged at cost."""
    cost_source: CostSource
    tags: dict[str, str]


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """What may be used of a claim."""

    caller: Caller
    amounts: Amounts
    """What the hold takes of the credit and of every limit."""
    output_tokens: int | None
    """The output bound to send, per choice; None: unbounded, because neither money nor tokens can run out."""
    clamped: bool
    bounded: bool
    """Money can run out: the charge must stay within the hold."""
    standings: tuple[Standing, ...] = ()
    """The limits that apply, as they stood before this request."""
    pool: Pool | None = None
    """The included tokens that it draws on."""
    bound_tokens: int = 0
    """The most of them that it may use."""

    @property
    def amount_nano(self) -> int:
        return self.amounts.nano


class _Ceiling(NamedTuple):
    """Something that an answer must stay under."""

    most: Callable[[], int | None]
    """The longest answer (of one choice) that it carries; None: not even the shortest that is worth sending."""
    refuse: Callable[[], Refusal]
    bounds: bool
    """A longer answer takes more of it, so the bound must be sent."""


class _Bill(NamedTuple):
    """What a request may be charged, by the length of its answer (of one choice)."""

    own: Callable[[int], int]
    """What its hold sets aside, in nano-USD."""
    cost: Callable[[int], int]
    """What there must be room for: that, and what it makes others set aside."""
    longest: Callable[[int], int | None]
    """The longest answer that a room in nano-USD carries; None: not even the shortest that is worth sending."""
    longest_alone: Callable[[int], int | None]
    """The same if nothing else were in flight."""
    least_alone: int
    """What the shortest answer would cost then."""
    output_costs: bool


def _bill(claim: Claim, pool: Pool | None) -> _Bill:
    quote, price = claim.quote, claim.price
    if pool is None:

        def plain(output: int) -> int:
            return amount_at(price, quote.input_tokens, output, quote.choices)

        fitting = partial(clamped_output, quote, price)
        return _Bill(plain, plain, fitting, fitting, plain(quote.floor_tokens), price.output > 0)
    beside, alone = fixed_nano(price.fixed), pool.alone()

    def own(output: int) -> int:
        return beside + pool.own(bound_tokens(quote, output))

    def cost(output: int) -> int:
        return beside + pool.cost(bound_tokens(quote, output))

    def cost_alone(output: int) -> int:
        return beside + alone.cost(bound_tokens(quote, output))

    # What it may cost depends on what is placed after it: its answer is bounded even where nothing of it costs yet.
    fitting, fitting_alone = partial(longest, quote, cost), partial(longest, quote, cost_alone)
    return _Bill(own, cost, fitting, fitting_alone, cost_alone(quote.floor_tokens), output_costs=True)


def admit(
    claim: Claim,
    caller: Caller,
    plan: Plan | None,
    standings: Sequence[Standing],
    now_ms: int,
    pool: Pool | None = None,
) -> Grant:
    """What of a claim may be used. Raises Refusal 402, 403 or 429."""
    _check_model(claim, caller, plan)
    quote, bill = claim.quote, _bill(claim, pool)
    budgets = [standing for standing in standings if standing.limit.unit is Unit.USD]
    bounded = bool(budgets) or caller.prepaid
    if bounded and claim.unpriced:
        raise Refusal(
            f"nobody knows here what {claim.model} costs: it is not for accounts whose money can run out, unless the "
            f'admin gives it a price, or unmetered = true, under [routes."{claim.model}"]',
            code="model_not_priced",
        )
    if bounded and claim.unquotable is not None and (quote.amount_nano or pool is not None):
        what = "path" if claim.unquotable.startswith("/") else "field"
        raise Refusal(
            f"the {what} {claim.unquotable!r} may cost more than can be foreseen: "
            "it is not for accounts whose money can run out",
            param=claim.unquotable,
        )
    output, must_send = quote.output_tokens, False
    for ceiling in _ceilings(claim, caller, bill, pool, standings, now_ms):
        most = ceiling.most()
        if most is None:
            raise ceiling.refuse()
        output = min(output, most)
        must_send = must_send or ceiling.bounds
    nano = bill.own(output)
    if nano > MOST_NANO:
        raise Refusal("this request asks for more than could ever be paid: ask for less output")
    return Grant(
        caller=caller,
        amounts=Amounts(input_hold(quote), output * quote.choices, nano),
        output_tokens=output if must_send and output else None,
        clamped=output < quote.output_tokens,
        bounded=bounded,
        standings=tuple(standings),
        pool=pool,
        bound_tokens=bound_tokens(quote, output),
    )


def input_hold(quote: Quote) -> int:
    """What limits of tokens set aside for the input: a quarter more than it likely is.

    The bound of the money would be a token for every byte, and refuse small plans for ever.
    """
    return ceil_div(5 * quote.input_estimate, 4)


def _check_model(claim: Claim, caller: Caller, plan: Plan | None) -> None:
    for names in claim.models or (claim.names,):
        if not caller.may_use(names):
            raise Refusal(
                f"this key may not use {names[0]}: GET /v1/models lists what it may", code="model_not_allowed"
            )
        if plan and not plan.includes(names):
            raise Refusal(f"the plan {plan.name} doesn't include {names[0]}", code="model_not_allowed")


def _ceilings(
    claim: Claim, caller: Caller, bill: _Bill, pool: Pool | None, standings: Sequence[Standing], now_ms: int
) -> Iterator[_Ceiling]:
    """All of them; those that money cures come first."""
    quote = claim.quote
    free = not bill.cost(quote.output_tokens)  # of charge: so for everybody, also for who has nothing left
    if not free or pool is not None:
        # A room below zero doesn't stand in the way of what costs nothing as things are.
        least = 0 if free else -MOST_NANO
        if caller.prepaid:
            room = max(caller.balance_nano - caller.held_nano, least)
            refuse = partial(_no_credit, caller, bill, pool)
            yield _Ceiling(partial(bill.longest, room), refuse, bill.output_costs)
        for standing in standings:
            if standing.limit.unit is Unit.USD:
                room = max(standing.room, least)
                refuse = partial(_over, standing, bill.least_alone, now_ms)
                yield _Ceiling(partial(bill.longest, room), refuse, bill.output_costs)
    for room, ids in pool.rooms if pool else ():
        assert pool is not None
        others = partial(longest, quote, partial(_needed, quote, pool, ids), max(room, 0))
        yield _Ceiling(others, partial(_held, "the rest of the tokens that your plan includes is held by others"), True)
    if not standings:
        return
    shortest = quote.floor_tokens * quote.choices
    needs = {
        Unit.TOKENS: (input_hold(quote), shortest),
        Unit.INPUT_TOKENS: (input_hold(quote), 0),
        Unit.OUTPUT_TOKENS: (0, shortest),
        Unit.REQUESTS: (1, 0),
        Unit.CONCURRENT: (1, 0),
    }
    for standing in standings:
        if standing.limit.unit not in needs or standing.soft:
            continue
        fixed, least = needs[standing.limit.unit]
        if claim.free and not fixed + least:
            continue  # it takes nothing of it
        written = standing.limit.unit in (Unit.TOKENS, Unit.OUTPUT_TOKENS)
        shorter = partial(_shorter, quote, fixed) if written else None
        yield _Ceiling(
            partial(_most, quote, standing.room - fixed, least, written=written),
            partial(_over, standing, fixed + least, now_ms, shorter),
            written and quote.output_tokens > 0,
        )


def _needed(quote: Quote, pool: Pool, ids: frozenset[int], output: int) -> int:
    """What an answer of this length makes some of the others set aside more."""
    raises = pool.raises(bound_tokens(quote, output))
    return sum(nano for hold_id, nano in raises.items() if hold_id in ids)


def _most(quote: Quote, room: int, least: int, *, written: bool) -> int | None:
    """The longest answer for which the room is enough."""
    if room < least or room < 0:
        return None
    return min(quote.output_tokens, room // quote.choices) if written else quote.output_tokens


# ── refusals ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _no_credit(caller: Caller, bill: _Bill, pool: Pool | None) -> Refusal:
    """Wait, where the room is only taken by other requests in flight; pay, where it isn't there at all."""
    if bill.longest_alone(caller.balance_nano) is not None:
        return _held("the remaining credit is held by other requests in flight")
    have = f" of {dollars(caller.balance_nano - caller.held_nano)}" if caller.account_kind == "user" else ""
    return Refusal(
        f"the remaining credit{have} doesn't carry this request, which may cost {dollars(bill.least_alone)} "
        f"even with a short answer{_about_included(pool)}: ask your admin for credits",
        code="insufficient_credits",
        headers=NO_RETRY,
    )


def _about_included(pool: Pool | None) -> str:
    """Why a request costs anything under a plan that includes tokens."""
    if pool is None or pool.terms.quota == UNLIMITED:
        return ""
    included = pool.terms.quota
    left = f"of the {included} tokens a month that your plan includes {max(included - pool.used, 0)} are left"
    return f" ({left}; each past them costs {dollars(pool.terms.nano)})"


def _shorter(quote: Quote, fixed: int, room: int) -> str:
    """That a shorter answer would fit the room in tokens, where the client may ask for one: nothing but its own wish
    keeps the shortest that is tried above that.
    """
    longest_answer = (room - fixed) // quote.choices
    if longest_answer < LEAST_TOLD or quote.floor_tokens > SMALLEST_CLAMP:
        return ""
    return f"; with a max_tokens of {longest_answer} or less it would fit"


def _held(what: str) -> Refusal:
    return Refusal(f"{what}: try again in a moment", code="credits_held", headers=(("retry-after", str(HELD_RETRY_S)),))


_WHOSE = {
    "key": "of this key",
    "user": "of yours",
    "team": "of your team",
    "lead": "that your team's lead has set",
    "plan": "of your plan",
    "default": "of this gateway",
}


def _over(standing: Standing, need: int, now_ms: int, shorter: Callable[[int], str] | None = None) -> Refusal:
    """Over a limit: whether and when trying again can help, or asking for less."""
    limit = standing.limit
    budget = limit.unit is Unit.USD
    code = "budget_exceeded" if budget else "rate_limited"
    named = f"the limit {limit} {_WHOSE[standing.source]}"
    if need > standing.amount:
        less = shorter(standing.amount) if shorter else ""
        return Refusal(f"this request can never fit {named}: it is too large{less}", code=code, headers=NO_RETRY)
    if limit.unit is Unit.CONCURRENT:
        return Refusal(
            f"{named} is reached: try again when another request has ended",
            code=code,
            headers=(("retry-after", str(HELD_RETRY_S)),),
        )
    waits = limit.unit is not Unit.REQUESTS and need <= standing.amount - standing.used  # only others are in the way
    if waits and budget:
        return _held(f"the rest of {named} is held by other requests in flight")
    if waits:
        return Refusal(
            f"the rest of {named} is held by other requests in flight: try again in a moment",
            code=code,
            headers=(("retry-after", str(HELD_RETRY_S)),),
        )
    if limit.window is Window.TOTAL:
        return Refusal(f"{named} is used up: ask your admin to raise it", code=code, headers=NO_RETRY)
    reset = f"it resets at {rfc3339(standing.span.end_ms)}"
    if budget:
        return Refusal(f"{named} is used up: {reset}", code=code, headers=NO_RETRY)
    wait_s = ceil_div(standing.span.end_ms - now_ms, 1000)
    retry = ("retry-after", str(wait_s + random.randint(0, JITTER_S)))
    less = shorter(standing.room) if shorter else ""
    return Refusal(
        f"{named} is reached: {reset}{less}", code=code, headers=(retry, *(NO_RETRY if wait_s > LONG_WAIT_S else ()))
    )
