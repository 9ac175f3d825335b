"""One request in flight: what is known of it, and how that becomes its outcome.

The walk only notes what happens; what it means is decided here, by `outcome_of`, for every way in which a request can
end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from enum import StrEnum
from typing import Any

import httpx
import msgspec

from .. import quoting
from ..config import Upstream
from ..errors import Refusal, UpstreamFailure
from ..pricebook import Version
from ..routing import Route, Target
from ..store.holds import Attempt, Hold, Outcome, Settled
from ..store.prices import Snapshot
from ..types import Ask, Meters, Source, Status, Usage
from ..wire.endpoint import Endpoint
from ..wire.heard import Heard, SseStream
from .upstream import Answer, Identity


class Cut(StrEnum):
    """Why a request was cut off from inside."""

    FIRST_BYTE = "first_byte"
    IDLE = "idle"
    TOTAL = "total"
    STALLED = "stalled"
    GONE = "gone"
    SHUTDOWN = "shutdown"


class Span:
    """A stretch of a walk that can be cut off: what it awaits then ends with TimeoutError.

    It is `asyncio.timeout` less what that does for a time that never comes. Like there, what has just been waited for
    successfully isn't lost: it arrives first, and nothing is cut off where the stretch ends with it.
    """

    __slots__ = ("_cancelled", "_cut", "_over", "_walk")

    def __init__(self, walk: asyncio.Task[None]) -> None:
        self._walk = walk
        self._cut = self._over = False

    def cut(self) -> None:
        asyncio.get_running_loop().call_soon(self._cancel)

    def _cancel(self) -> None:
        if not (self._cut or self._over):
            self._cut = True
            self._walk.cancel()

    def __enter__(self) -> Span:
        self._cancelled = self._walk.cancelling()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        self._over = True
        # If the server cancels the walk as well, at the same time, that is what counts.
        if self._cut and self._walk.uncancel() <= self._cancelled and kind is asyncio.CancelledError:
            raise TimeoutError from error


class Priced(msgspec.Struct, frozen=True):
    """A route with the snapshots of its prices."""

    route: Route
    cost: Snapshot
    charge: Snapshot | None
    service_tiers: Mapping[str, Snapshot]
    rank: int = 0
    """0: it is a route of the model that was asked for; then those of its fallbacks, in their order."""


class Resolved(msgspec.Struct, frozen=True):
    """A model's name, resolved and priced."""

    target: Target
    routes: tuple[Priced, ...]
    """Those of its fallbacks as well."""
    transports: Mapping[str, httpx.AsyncBaseTransport]
    """Those of the config that it was resolved by."""
    version: Version
    """The prices that it was resolved by."""

    @property
    def models(self) -> tuple[tuple[str, ...], ...]:
        """Every model that may answer, by all its names."""
        return (self.target.names, *(fallback.names for fallback in self.target.fallbacks))

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, for limits: they count whatever may answer."""
        fallbacks = self.target.fallbacks
        return (
            self.target.names
            if not fallbacks
            else tuple(dict.fromkeys(name for names in self.models for name in names))
        )

    def narrowed(self, allowed: Callable[[tuple[str, ...]], bool]) -> Resolved:
        """Without the fallbacks that a caller may not use. Of the model that was asked for it is decided elsewhere."""
        fallbacks = self.target.fallbacks
        ranks = {0, *(rank for rank, fallback in enumerate(fallbacks, 1) if allowed(fallback.names))}
        if len(ranks) > len(fallbacks):
            return self
        kept = tuple(fallback for rank, fallback in enumerate(fallbacks, 1) if rank in ranks)
        return msgspec.structs.replace(
            self,
            target=msgspec.structs.replace(self.target, fallbacks=kept),
            routes=tuple(priced for priced in self.routes if priced.rank in ranks),
        )

    def at(self, places: frozenset[str]) -> Resolved:
        """Only where all that the request refers to lies: whatever else has that name elsewhere is somebody else's.
        Raises Refusal 404 where no route leads there."""
        if not places:
            return self
        routes = tuple(priced for priced in self.routes if places == {priced.route.upstream.name})
        if not routes:
            raise Refusal(
                f"what this request refers to doesn't lie at an upstream that serves {self.target.model!r}",
                code="not_found",
            )
        return msgspec.structs.replace(self, routes=routes) if len(routes) < len(self.routes) else self


class Exchange:
    """One request in flight: what is known of it, where it stands, and how to cut it off."""

    # Until something else is known of it. (Here, so that not all of it is said for each request.)
    user = "-"
    identity: Identity | None = None
    walk: asyncio.Task[None] | None = None
    """Kept here, because asyncio itself doesn't keep a task alive."""
    body: bytes | None = None
    """As it came; None as long as it wasn't read to its end."""
    ask: Ask | None = None
    places: frozenset[str] = frozenset()
    """The upstreams where the things lie that it refers to."""
    resolved: Resolved | None = None
    hold: Hold | None = None
    # what became of it upstream
    priced: Priced | None = None
    sent = False
    """An upstream may have begun to work for it, at this try or an earlier one."""
    working = False
    """One may work for it now."""
    answer: Answer | None = None
    heard: Heard | None = None
    first_byte_ms: int | None = None
    attempts: list[Attempt]
    """Tries that were billed, and of which nobody gets anything."""
    failure: UpstreamFailure | None = None
    # what became of it here
    head_sent = False
    client_gone = False
    drained = False
    """It is read on without its client."""
    torn = b""
    """What must stand before an event of our own, because the upstream's last one has no end."""
    held_by: SseStream | None = None
    """What keeps the end of the stream back until its charge can be told before it."""
    cut: Cut | None = None
    outcome: Outcome | None = None
    settling: asyncio.Future[Settled | None] | None = None
    # what is being waited for
    watching: asyncio.Task[None] | None = None
    """Whether its client leaves."""
    swept = False
    """It was looked at once since that may be watched."""
    watch: Callable[[], Coroutine[Any, Any, None]] | None = None
    """Begins that; None: it isn't worth watching any more, or not yet."""
    span: Span | None = None
    reason = Cut.TOTAL
    deadline: float = float("inf")
    total_deadline: float = float("inf")

    def __init__(self, request_id: str, endpoint: Endpoint, model: str | None = None, version: str = "") -> None:
        self.request_id = request_id
        self.endpoint = endpoint
        self.model = model
        """As the path names it."""
        self.version = version
        """Of the API, as the path names it."""
        self.started = time.monotonic()
        self.attempts = []

    def note_sent(self) -> None:
        self.sent = self.working = True

    def begin(self, priced: Priced) -> None:
        """Another try: what is known of an earlier one no longer counts, but that it was sent."""
        self.priced, self.answer, self.working = priced, None, False
        timeout = priced.route.upstream.timeout
        self.total_deadline = self.started + timeout.total
        self.wait(Cut.FIRST_BYTE, timeout.first_byte)

    def in_vain(self, answer: Answer, got: bytes) -> None:
        """Nobody gets this answer, or what came of it: what it was billed is a cost of the house."""
        assert self.priced is not None
        attempt = attempt_of(self.priced, self.ask, answer.status, self.hear(answer, got))
        if attempt is not None:
            self.attempts.append(attempt)

    def hear(self, answer: Answer, got: bytes) -> Heard | None:
        """What there is to hear in an answer that came so far."""
        if not answer.is_stream:
            return self.endpoint.hear(got)
        stream = self.endpoint.stream(False)
        stream.feed(got)
        stream.break_off()
        return stream.heard

    def rest(self) -> None:
        """Nothing is waited for but the end of a pause."""
        self.deadline = float("inf")

    def wait(self, reason: Cut, seconds: float) -> None:
        """From now on, this is what is waited for, and for how long at most."""
        self.deadline = time.monotonic() + seconds
        self.reason = reason

    def interrupt(self, why: Cut) -> None:
        """Cut the waiting off: what is awaited inside `span` ends with TimeoutError."""
        if self.span is not None and self.cut is None and self.settling is None:
            self.cut = why
            self.span.cut()

    def spanned(self) -> Span:
        """The stretch that begins now."""
        assert self.walk is not None
        self.span = Span(self.walk)
        return self.span

    def elapsed_ms(self) -> int:
        return int((time.monotonic() - self.started) * 1000)


def outcome_of(exchange: Exchange) -> Outcome | None:
    """How a request ended, from what was noted of it; None: no upstream was reached, so there is nothing to settle.

    - A refusal or a failure before anything was delivered is free. If the upstream billed it all the same, that is an
      attempt in vain: a cost of the house.
    - What was delivered is charged: exactly where usage was heard, else as estimated from the text that went by, and
      never more than the hold's bounds.
    - A client that leaves before any answer is charged the input, because the upstream has read it.
    """
    if not exchange.sent:
        return None
    assert exchange.priced is not None
    route, heard = exchange.priced.route, exchange.heard
    status = _status(exchange)
    attempts = tuple(exchange.attempts)
    if _undelivered(exchange, status):
        refused_with = exchange.answer.status if exchange.answer else None
        attempt = attempt_of(exchange.priced, exchange.ask, refused_with, heard)
        attempts += (attempt,) if attempt else ()
        heard = None
    meters, source = _used(exchange, heard, status)
    return Outcome(
        status=status,
        source=source,
        http_status=_http_status(exchange),
        meters=meters,
        upstream=route.upstream.name,
        upstream_model=route.model,
        cost=_cost(exchange.priced, exchange.ask, heard),
        charge=exchange.priced.charge,
        cost_source=route.tariff.source,
        reported_cost_nano=_reported(exchange.priced, heard),
        duration_ms=exchange.elapsed_ms(),
        ttft_ms=exchange.first_byte_ms,
        attempts=attempts,
        made=heard.made if heard and exchange.ask is not None and exchange.ask.remembers else (),
    )


def _used(exchange: Exchange, heard: Heard | None, status: Status) -> tuple[Meters, Source]:
    """What is charged: what was delivered, or what an upstream was at work on when its client left."""
    if heard is None and status in (Status.CANCELLED, Status.INTERRUPTED):
        heard = Heard() if exchange.working and not _refused(exchange) else None
    if heard is None:
        return Meters(), Source.UPSTREAM
    assert exchange.ask is not None
    usage = exchange.endpoint.used(exchange.ask, heard)
    if usage is not None:
        return _completed(exchange, usage, max(heard.text_bytes - heard.counted_bytes, 0))
    if heard.text_bytes or status is not Status.ERROR:
        return _estimated(exchange, heard.text_bytes), Source.ESTIMATED
    return Meters(), Source.UPSTREAM


def attempt_of(priced: Priced, ask: Ask | None, http_status: int | None, heard: Heard | None) -> Attempt | None:
    """What a try that brought nothing was billed, as far as the upstream said so; None: nothing that is known."""
    if heard is None or heard.usage is None:
        return None
    meters, reported = heard.usage.meters, _reported(priced, heard)
    if meters == Meters(calls=meters.calls) and not reported:
        return None
    return Attempt(
        upstream=priced.route.upstream.name,
        upstream_model=priced.route.model,
        http_status=http_status,
        source=Source.UPSTREAM,
        meters=meters,
        cost=_cost(priced, ask, heard),
        cost_source=priced.route.tariff.source,
        reported_cost_nano=reported,
    )


def tier_of(ask: Ask | None, upstream: Upstream) -> str | None:
    """The service tier that a request asks for; where it leaves that to the upstream, as the admin says of it."""
    tier = ask.service_tier if ask is not None else None
    return upstream.service_tier or tier if tier in (None, "auto") else tier


def _cost(priced: Priced, ask: Ask | None, heard: Heard | None) -> Snapshot:
    """What the upstream bills by: the price of the service tier that it said, else of the one that was asked for, where
    it has one of its own."""
    said = (heard.service_tier if heard else None) or tier_of(ask, priced.route.upstream)
    return priced.service_tiers.get(said or "", priced.cost)


def _reported(priced: Priced, heard: Heard | None) -> int | None:
    """The cost that an upstream reports, where that can be trusted."""
    return heard.usage.cost_nano if heard and heard.usage and priced.route.upstream.cost_reported else None


def _undelivered(exchange: Exchange, status: Status) -> bool:
    """It failed, and the client gets nothing that a model wrote: an error of ours or the upstream's, and no text."""
    if status is not Status.ERROR:
        return False
    heard = exchange.heard
    if heard is None or (exchange.failure is not None and not exchange.head_sent):
        return True
    return not heard.text_bytes and (heard.failed or not heard.finished)


def _status(exchange: Exchange) -> Status:
    heard = exchange.heard
    if exchange.cut is Cut.SHUTDOWN:
        return Status.INTERRUPTED
    if exchange.client_gone and not _refused(exchange):
        return Status.CANCELLED
    if exchange.failure is not None or heard is None or heard.failed or exchange.answer is None:
        return Status.ERROR
    return Status.OK


def _refused(exchange: Exchange) -> bool:
    """The upstream answered, but not with what was asked for."""
    return exchange.answer is not None and exchange.answer.status >= 300


def _http_status(exchange: Exchange) -> int | None:
    if exchange.failure is not None and not exchange.head_sent and not exchange.client_gone:
        return exchange.failure.http_status
    return exchange.answer.status if exchange.answer is not None else None


def _completed(exchange: Exchange, usage: Usage, rest_bytes: int) -> tuple[Meters, Source]:
    """What was counted, and estimates of what wasn't: an input that isn't told, text after the last count."""
    meters = usage.meters
    assert exchange.ask is not None
    cut_short = exchange.heard is not None and not exchange.heard.finished and exchange.ask.output
    if not rest_bytes and not usage.input_missing and not (usage.output_missing and cut_short):
        return meters, Source.UPSTREAM
    if usage.input_missing:
        assert exchange.hold is not None
        meters = msgspec.structs.replace(meters, input=exchange.hold.claim.quote.input_estimate)
    rest = _within_bound(exchange, quoting.output_estimate(rest_bytes), meters.output_tokens)
    return msgspec.structs.replace(meters, output=meters.output + rest), Source.ESTIMATED


def _estimated(exchange: Exchange, text_bytes: int) -> Meters:
    """What likely was consumed, within what the hold set aside."""
    assert exchange.hold is not None
    output = _within_bound(exchange, quoting.output_estimate(text_bytes), 0)
    return Meters(input=exchange.hold.claim.quote.input_estimate, output=output, calls=1)


def _within_bound(exchange: Exchange, output: int, counted: int) -> int:
    """An estimate of output tokens that, with those counted, stays within the bound that was sent."""
    assert exchange.hold is not None
    grant, choices = exchange.hold.grant, exchange.hold.claim.quote.choices
    return output if grant.output_tokens is None else min(output, max(grant.output_tokens * choices - counted, 0))


_SLOW = {
    Cut.FIRST_BYTE: "didn't begin to answer in time",
    Cut.IDLE: "stopped in the middle of its answer",
    Cut.TOTAL: "took longer than a request may take in all",
}


def why_cut_off(exchange: Exchange) -> UpstreamFailure:
    """What a client is told of a request that was cut off."""
    if exchange.cut is Cut.SHUTDOWN:
        return UpstreamFailure("the gateway is shutting down: send the request again", code="upstream_unavailable")
    name = exchange.priced.route.upstream.name if exchange.priced else "?"
    slow = _SLOW.get(exchange.cut or Cut.TOTAL, "was cut off")
    return UpstreamFailure(f"upstream {name} {slow}", code="upstream_timeout", reached=True)
