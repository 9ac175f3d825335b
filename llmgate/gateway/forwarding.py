"""Step 5 of the walk: the routes are asked in turn until one answers.

One try has one result, an answer or a failure (`_try`). What follows from it is decided by `after`, a pure function;
`Forwarding.forward` only does what it says. Before the first byte a try may be repeated, after it never; nor is one
repeated that may be billed: the body was sent, and no answer came.

A request that is tried often has one hold, one outcome and one charge. What an upstream billed for a try that failed is
noted on the exchange (`Exchange.in_vain`), as a cost of the house.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import NamedTuple

from .. import routing
from ..config import Upstream
from ..config.rules import Secret
from ..errors import UpstreamFailure
from ..routing import Chance, Route
from . import upstream as up
from .cooldown import Cooldown
from .exchange import Exchange, Priced
from .transport import StaleConnection
from .upstream import OUR_SECRET_REFUSED, Answer, Sent

log = logging.getLogger("llmgate.upstream")

RETRIABLE = frozenset({408, 429, 500, 502, 503, 504, 529})
"""Statuses after which another try may go better."""

TRIES_PER_ROUTE = 3

RETRY_BUDGET_S = 30.0
"""No route is asked again after this long: the client's own patience is not unlimited."""

MOST_PATIENT_S = 10.0
"""An upstream that asks for a longer pause is not asked again: the client is told instead."""

QUICK_S = 1.0
"""The longest pause where another route could be asked at once."""

FIRST_PAUSE_S = 0.25
"""Where the upstream asks for none; then twice as long each time."""

MOST_IN_VAIN = 2**18
"""Bytes of a failed try's answer that are read to hear what it was billed."""

IN_VAIN_PATIENCE_S = 1.0
"""And for how long, in seconds: a client waits for the next try."""


class Brought(NamedTuple):
    """What a try brought."""

    status: int | None = None
    """Of its answer; None: none came."""
    reached: bool = True
    """The upstream may have begun to work for it."""
    stale: bool = False
    """It was sent on an idle connection that the upstream had left already."""
    retry_after_s: float | None = None
    refused: bool = False
    """Whatever its status, it is llmgate that is refused there."""


class Stand(NamedTuple):
    """Where a request stands after a try."""

    tries: int = 1
    """Of this route. Those with another secret don't count."""
    secrets_left: int = 0
    """Of this upstream, that this request hasn't used yet."""
    routes_left: int = 0
    used_s: float = 0.0
    client_gone: bool = False


class Next(Enum):
    TAKE = "the answer is the client's"
    SECRET = "the same route again at once, with another secret"  # noqa: S105 - the word, not one of them
    AGAIN = "the same route again, after a pause"
    ROUTE = "the next route"
    END = "no other try: the client is told what this one brought"


def after(brought: Brought, stand: Stand) -> tuple[Next, float]:
    """What to do after a try, and the pause before it in seconds."""
    status = brought.status
    if status is None and brought.reached:
        return Next.END, 0.0  # it is working, and billing
    refused = brought.refused or (status is not None and up.refuses_us(status))
    if status is not None and not refused and status not in RETRIABLE:
        return Next.TAKE, 0.0
    if stand.client_gone:
        return Next.END, 0.0  # nobody waits for another try, so nobody should pay for it
    if stand.secrets_left and (brought.refused or status in OUR_SECRET_REFUSED or status == 429):
        return Next.SECRET, 0.0
    if not refused and stand.tries < TRIES_PER_ROUTE:
        if brought.stale:
            return Next.AGAIN, 0.0  # all idle connections are distrusted now: the next one is new
        pause_s = brought.retry_after_s
        if pause_s is None:
            pause_s = FIRST_PAUSE_S * 2.0 ** (stand.tries - 1)
        # Who can't be reached isn't likely to be there in a moment: where another route is left, it is asked.
        patience_s = MOST_PATIENT_S if not stand.routes_left else QUICK_S if status is not None else -1.0
        if pause_s <= patience_s and stand.used_s + pause_s <= RETRY_BUDGET_S:
            return Next.AGAIN, pause_s
    return (Next.ROUTE if stand.routes_left else Next.END), 0.0


Prepare = Callable[[Route, Secret | None], Sent]
"""What a route is sent, with one of its upstream's secrets."""


class Forwarding:
    """What is remembered from one request to the next: which routes failed lately, and whose secret's turn it is."""

    def __init__(self) -> None:
        self.cooldown = Cooldown()
        self._turns: dict[str, int] = {}
        self._unready: set[str] = set()

    async def forward(self, exchange: Exchange, prepare: Prepare) -> Answer:
        """Ask until one answers. Raises UpstreamFailure."""
        assert exchange.resolved is not None
        began = time.monotonic()
        left = self._in_order(exchange.resolved.routes)
        several = len(left) > 1
        while True:
            priced = left.pop(0)
            came, what = await self._ask(exchange, priced, prepare, len(left), began)
            if what is not Next.ROUTE:
                return _verdict(exchange, came, several=several)

    async def _ask(
        self, exchange: Exchange, priced: Priced, prepare: Prepare, routes_left: int, began: float
    ) -> tuple[Answer | UpstreamFailure, Next]:
        """Ask one route, as often as is worth it: what the last try brought, and what follows from it."""
        route, secrets = priced.route, self._in_turn(priced.route.upstream)
        tries = 1
        while True:
            self.cooldown.asked(key_of(route), time.monotonic())
            came = await _try(exchange, priced, prepare(route, secrets[0] if secrets else None))
            now, brought = time.monotonic(), brought_by(came)
            stand = Stand(tries, max(len(secrets) - 1, 0), routes_left, now - began, exchange.client_gone)
            what, pause_s = after(brought, stand)
            if pause_s:
                exchange.rest()
                await asyncio.sleep(pause_s)
                if exchange.client_gone:
                    return came, Next.END
            match what:
                case Next.AGAIN:
                    tries += 1
                case Next.SECRET:
                    del secrets[0]
                case Next.TAKE:
                    self.cooldown.worked(key_of(route))
                    return came, what
                case _:
                    if not exchange.client_gone:
                        self.cooldown.failed(key_of(route), now, brought.retry_after_s or 0.0)
                    return came, what

    def note_ready(self, upstream: str, ready: bool) -> None:
        """What an upstream says of itself: one that isn't ready is asked after all others."""
        if ready:
            self._unready.discard(upstream)
            self.cooldown.forget(lambda route: isinstance(route, tuple) and route[0] == upstream)
        else:
            self._unready.add(upstream)

    def resting(self) -> dict[str, list[str]]:
        """The upstreams that are asked after all others now, each with the models that they failed for lately; with
        none where the upstream itself says that it isn't ready.
        """
        found: dict[str, list[str]] = {name: [] for name in self._unready}
        for route in self.cooldown.cooling(time.monotonic()):
            if isinstance(route, tuple):
                found.setdefault(route[0], []).append(route[1])
        return found

    def _cools(self, route: Route, now: float) -> bool:
        return route.upstream.name in self._unready or self.cooldown.cools(key_of(route), now)

    def _in_order(self, routes: Sequence[Priced]) -> list[Priced]:
        if len(routes) == 1:
            return [routes[0]]
        now = time.monotonic()
        chances = [Chance(priced.route.weight, priced.rank, self._cools(priced.route, now)) for priced in routes]
        return [routes[index] for index in routing.ordered(chances, random.random)]

    def _in_turn(self, upstream: Upstream) -> list[Secret]:
        """An upstream's secrets, beginning with the one whose turn it is."""
        secrets = upstream.secrets
        if len(secrets) < 2:
            return list(secrets)
        turn = self._turns.get(upstream.name, 0)
        self._turns[upstream.name] = (turn + 1) % len(secrets)
        return [*secrets[turn:], *secrets[:turn]]


def key_of(route: Route) -> tuple[str, str]:
    return route.upstream.name, route.model


async def _try(exchange: Exchange, priced: Priced, sent: Sent) -> Answer | UpstreamFailure:
    """Ask one upstream once. A failure is a result: what it means is decided elsewhere."""
    assert exchange.resolved is not None
    if exchange.answer is not None:
        await _let_go(exchange, exchange.answer)
        if exchange.client_gone:
            return UpstreamFailure("nobody waits for another try", reached=True)
    earlier = exchange.sent
    exchange.begin(priced)
    try:
        transport = exchange.resolved.transports[priced.route.upstream.name]
        answer = exchange.answer = await up.ask(transport, priced.route, sent, exchange.note_sent)
        await answer.look()
    except UpstreamFailure as failure:
        log.warning("%s: %s (%r)", exchange.request_id, failure.message, failure.__cause__)
        exchange.sent = earlier or failure.reached
        return failure
    exchange.note_sent()
    return answer


async def _let_go(exchange: Exchange, answer: Answer) -> None:
    """From here on the request is no longer judged by this answer; what that was billed is heard, if it says so."""
    got = b""
    with suppress(TimeoutError, UpstreamFailure):  # what came until then is what there is to hear
        async with asyncio.timeout(IN_VAIN_PATIENCE_S):
            while len(got) < MOST_IN_VAIN and (piece := await answer.piece()):
                got += piece
    exchange.in_vain(answer, got)
    exchange.answer = None
    await answer.close()


def _verdict(exchange: Exchange, came: Answer | UpstreamFailure, *, several: bool) -> Answer:
    """What the client is told. An upstream's own refusal passes as it came, after the retries."""
    assert exchange.resolved is not None
    failure = came if isinstance(came, UpstreamFailure) else None
    if isinstance(came, Answer):
        failure = None if came.status in RETRIABLE and not came.refuses_us else up.wrong_with(came)
        if failure is None:
            return came
    assert failure is not None
    unserved = came.refuses_us if isinstance(came, Answer) else not came.reached
    if several and unserved:
        raise UpstreamFailure(
            f"no upstream of {exchange.resolved.target.model} can answer at the moment", code="upstream_unavailable"
        ) from failure
    raise failure


def brought_by(came: Answer | UpstreamFailure) -> Brought:
    if isinstance(came, UpstreamFailure):
        return Brought(reached=came.reached, stale=isinstance(came.__cause__, StaleConnection))
    if came.status < 300:
        return Brought(came.status)
    pause_s = retry_after_s(came.header("retry-after"), time.time())
    return Brought(came.status, retry_after_s=pause_s, refused=came.refuses_us and came.status in up.MAY_REFUSE_US)


_SECONDS = re.compile(r"\d{1,9}(\.\d+)?")


def retry_after_s(said: str, now: float) -> float | None:
    """A `Retry-After` in seconds from `now` (a time of the epoch): it may be a number or a date."""
    if _SECONDS.fullmatch(said):
        return float(said)
    try:
        return max(parsedate_to_datetime(said).timestamp() - now, 0.0) if said else None
    except (ValueError, OverflowError):
        return None
