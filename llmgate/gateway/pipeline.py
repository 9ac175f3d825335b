"""The walk of one request, written once for every format and endpoint.

    1 authenticate   who is this key? alive, allowed from here, allowed this model      401 403
    2 read, route    body → ask; model → routes                                         400 404
    3 quote          the most it may cost on the dearest route
    4 hold           limits and credit, all or nothing, ONE transaction                 402 403 429
    5 forward        routes → answer; retries before the first byte                     502 503 504
    6 meter          bytes through, usage heard in passing
    7 settle         hold → cost, charge, usage row, roll-up, ONE transaction

From 4 on there is a hold, and whatever happens it is resolved exactly once: `_serve` ends in `_finish`, in a
`finally`, which starts a settlement that nothing cancels. What the settlement says is decided in one place,
`outcome_of`, from what the walk noted on its `Exchange`. If the process dies, the hold is still in the database, and
the next start resolves it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import secrets
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from functools import lru_cache, partial
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import httpx
import msgspec

from .. import catalogue, quoting, routing
from ..clock import DAY_MS, day_of
from ..config import Config, Upstream
from ..config.rules import Secret
from ..errors import LlmgateError, Refusal, StorageError, UpstreamFailure
from ..money import usd
from ..names import MODEL
from ..plans import policy_of
from ..pricebook import NOTHING_SET, Book, Version
from ..pricing import Price
from ..routing import Route, Target
from ..store import accounts, admins, holds, keys, objects, prices
from ..store.admins import Admin
from ..store.admission import Claim
from ..store.db import Database, Tx, now_ms
from ..store.group import Steady
from ..store.holds import Hold, Settled
from ..store.keys import Caller
from ..types import Ask, CostSource
from ..wire.anthropic import opened_context
from ..wire.body import Fields
from ..wire.endpoint import Dialect, Terms
from ..wire.gemini import GEMINI
from ..wire.heard import SseStream, Stream
from ..wire.openai import LONGEST_TAG, MOST_TAGS
from . import health
from . import upstream as up
from .exchange import Cut, Exchange, Priced, Resolved, outcome_of, tier_of, why_cut_off
from .forwarding import Forwarding, key_of
from .http import (
    LEFT_ALONE,
    Disconnected,
    Receive,
    Scope,
    Send,
    at_hand,
    check_address,
    client_address,
    error_headers,
    header,
    is_secure,
    limit_headers,
    names_connections,
    presented_key,
    read_body,
    respond,
    unread,
)
from .paths import Asked, Paths, Way
from .reader import Reader
from .upstream import Answer, Identity, Sent
from .writer import Writer, unavailable

log = logging.getLogger("llmgate.request")

T = TypeVar("T")

HOLD_PATIENCE_S = 5.0
"""How long a new request waits for a database that another process has locked: then 503 `storage_busy`."""

END_PATIENCE_S = 2.0
"""A stream's end is sent when it is settled, or after this long."""

MOST_LET_IN = 100_000
"""Keys that are remembered because they were let in."""

MOST_RESOLVED = 10_000
"""Names that are kept resolved; past that all are resolved anew."""

CLIENT_PATIENCE_S = 60.0
"""A client that doesn't take a byte for this long is gone."""

MOST_ANSWER = 256 * 2**20
"""Bytes of an answer that doesn't stream: it is held in memory until it is settled."""

MOST_DRAINS = 256
"""How many streams are read on without a client at a time; past that they are closed and estimated."""

SWEEP_S = 0.1
"""How often deadlines are looked at: one timer for all requests, rather than one per read. Whether its client leaves is
watched from the second look on: most requests of the kind that come by the thousand are over by then."""


class Gateway:
    """What all requests share. Made inside the running loop, by the server."""

    def __init__(
        self,
        config: Config,
        upstreams: Mapping[str, Upstream],
        database: Database,
        writer: Writer,
        worker_id: str,
    ) -> None:
        self.database = database
        self.writer = writer
        self.reader = Reader(database.path)
        self.in_flight: set[Exchange] = set()
        self._worker_id = worker_id
        self._background: set[asyncio.Future[Any]] = set()
        self._drained = 0
        self._ending = False
        self._book = NOTHING_SET
        self._let_in: set[bytes] = set()
        """Whose latest request was let in: the next one is decided by its hold alone."""
        self._configure(config, upstreams)

    def _configure(self, config: Config, upstreams: Mapping[str, Upstream]) -> None:
        self.config = config
        self.upstreams = upstreams
        self.policy = policy_of(config)
        self._trusted = tuple(ipaddress.ip_network(network) for network in config.server.trusted_proxies)
        self._transports = {name: up.transport_for(upstream) for name, upstream in upstreams.items()}
        self._resolved: dict[tuple[str, str, str, bool], Resolved] = {}
        self._forwarding = Forwarding()
        self._health = asyncio.ensure_future(health.watch(config, upstreams, self._transports, self._forwarding))
        self.paths = Paths(config, upstreams, self._transports)

    def reload(self, config: Config, upstreams: Mapping[str, Upstream]) -> None:
        """Serve by another config from the next request on; what is in flight ends by the one that it began with."""
        old = list(self._transports.values())
        self._health.cancel()
        self._configure(config, upstreams)
        self._spawn(self._retire(old, set(self.in_flight)))
        billing = self.policy.billing
        self._spawn(self.writer.run(lambda tx: accounts.follow_plans(tx, billing)))

    async def _retire(self, transports: list[httpx.AsyncBaseTransport], users: set[Exchange]) -> None:
        while users & self.in_flight:  # noqa: ASYNC110 - seldom, and not worth an event per request
            await asyncio.sleep(SWEEP_S)
        for transport in transports:
            await transport.aclose()

    async def close(self, *, patience_s: float = 30.0) -> None:
        """Let go of the upstreams, once nothing is in flight. Settlements that are under way are waited for.

        What a broken or locked database doesn't take in time stays a hold, which the next start resolves.
        """
        self._health.cancel()
        give_up = time.monotonic() + patience_s
        while (self._background or self._unsettled()) and time.monotonic() < give_up:
            self.interrupt_all()
            await asyncio.sleep(SWEEP_S / 10)
        for transport in self._transports.values():
            await transport.aclose()
        await self.reader.close()

    def _unsettled(self) -> bool:
        return any(exchange.hold is not None and exchange.settling is None for exchange in self.in_flight)

    def today(self) -> str:
        """The day by which list prices are dated: they change at midnight UTC, whatever the zone of the book."""
        return _utc_day(now_ms() // DAY_MS)

    def look(self, work: Callable[[Tx], T]) -> T:
        """Read something of the database as it stands now. Raises StorageError that tells a client nothing of it."""
        try:
            return self.database.look(work)
        except StorageError as error:
            log.error("the database can't be read: %s", error.message)  # noqa: TRY400
            raise unavailable() from error

    # ── 1 to 4: up to the hold ────────────────────────────────────────────────────────────────────────────────────────

    async def handle(self, asked: Asked, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request from its first byte to its settlement.

        In a task of its own, unless it is left alone: a server that gives a connection up cancels who works for it, and
        what an upstream was sent is not undone by that. The client has left, that is all.
        """
        exchange = Exchange(new_request_id(), asked.endpoint, asked.model, asked.version)
        if LEFT_ALONE in scope.get("extensions", ()):
            exchange.walk = asyncio.current_task()
            await self._walk(exchange, asked, scope, receive, send)
            return
        exchange.walk = walk = asyncio.ensure_future(self._walk(exchange, asked, scope, receive, send))
        try:
            await asyncio.shield(walk)
        except asyncio.CancelledError:
            if exchange.hold is None or exchange.settling is not None:
                walk.cancel()
            elif not exchange.client_gone:
                self._leave(exchange)
            raise

    async def _walk(self, exchange: Exchange, asked: Asked, scope: Scope, receive: Receive, send: Send) -> None:
        self.in_flight.add(exchange)
        status = 499
        try:
            fields, claim = await self._admit(exchange, asked, scope, receive)
            if self._ending:
                raise UpstreamFailure("the gateway is shutting down", code="upstream_unavailable")
            exchange.hold = await self._hold(exchange, asked, claim)
            status = await self._serve(exchange, fields, scope, receive, send)
        except Disconnected:
            pass  # nobody is left to answer, and there is nothing to charge: 499 goes into the log
        except LlmgateError as error:
            status = error.http_status
            if exchange.body is None:
                async with unread(receive):
                    await refuse(
                        send, exchange.endpoint.dialect, error, exchange.request_id, close=names_connections(scope)
                    )
            else:
                await refuse(send, exchange.endpoint.dialect, error, exchange.request_id)
        finally:
            self.in_flight.discard(exchange)
            self._drained -= exchange.drained
            self._log(exchange, status)
            exchange.answer = None  # which knows of it in turn: its body would stay until the collector comes

    def authenticate(self, scope: Scope) -> tuple[bytes, Caller]:
        """The caller behind a request, as things stand now, and the hash of the key. Raises Refusal 401 or 403."""
        key_hash = keys.hash_key(presented_key(scope))
        caller = self.look(lambda tx: keys.authenticate(tx, key_hash))
        self._check_address(scope, caller)
        return key_hash, caller

    def _recognise(self, scope: Scope) -> tuple[bytes, Caller]:
        """The same for who is about to ask for a hold, where the money is read: here only who it is counts, and that is
        kept for as long as it is so.
        """
        key_hash = keys.hash_key(presented_key(scope))
        caller = keys.known(self.writer.known, key_hash, now_ms())
        if caller is None:
            caller = self.look(lambda tx: keys.authenticate(tx, key_hash))
        self._check_address(scope, caller)
        return key_hash, caller

    def _check_address(self, scope: Scope, caller: Caller) -> None:
        if caller.ips:
            check_address(self.address_of(scope), caller.ips)

    def address_of(self, scope: Scope) -> str:
        """Where a request comes from, as far as the proxies on its way are trusted."""
        return client_address(scope, self._trusted, self.config.server.client_ip_header)

    def is_secure(self, scope: Scope) -> bool:
        """Whether a client speaks TLS, to us or to a trusted proxy."""
        return is_secure(scope, self._trusted)

    def resting(self) -> dict[str, list[str]]:
        """As `Forwarding.resting`: what this process knows of its upstreams."""
        return self._forwarding.resting()

    def note_admin(self, admin: Admin) -> None:
        """An admin key is used: noted now and then, and never waited for."""
        if now_ms() - admin.last_used_ms > admins.SEEN_EVERY_MS and self.writer.trouble is None:
            self._spawn(self.writer.run(partial(admins.seen, name=admin.name)))

    async def _admit(self, exchange: Exchange, asked: Asked, scope: Scope, receive: Receive) -> tuple[Fields, Claim]:
        """Everything before the hold. No body is read before the key is known."""
        key_hash, caller = self._recognise(scope)
        exchange.user = caller.user
        exchange.identity = Identity(caller.user, caller.plan)
        if self.writer.trouble is not None:
            raise unavailable()
        server = self.config.server
        exchange.body = await read_body(scope, receive, most=server.max_body, timeout_s=server.body_timeout)
        endpoint, headers = exchange.endpoint, scope["headers"]
        content_type = (header(headers, b"content-type") or b"").decode("latin-1")
        fields = endpoint.read(exchange.body, content_type, endpoint.known)
        ask = exchange.ask = endpoint.read_ask(fields, exchange.model)
        if ask.hidden_input and (context := opened_context(headers)):
            ask = exchange.ask = msgspec.structs.replace(ask, context=context)
        if ask.background:
            raise Refusal("background answers aren't followed here: ask without, or stream", param="background")
        named = endpoint.refers_to(fields)
        if named:
            self.look(lambda tx: objects.check(tx, named, caller.account_id))
            exchange.places = self.look(lambda tx: objects.places(tx, named))
        if asked.touched:
            self.look(lambda tx: objects.check(tx, asked.touched, caller.account_id, unknown=True))
        return fields, await self._claimed(exchange, asked, key_hash, tags_of(scope))

    async def _claimed(self, exchange: Exchange, asked: Asked, key_hash: bytes, tags: dict[str, str]) -> Claim:
        """What a request wants set aside. Raises Refusal as `holds.decide` does.

        It is priced by what was last seen of the prices: the hold is placed only if that still holds.
        """
        ask, endpoint = exchange.ask, exchange.endpoint
        assert ask is not None
        if asked.kept is not None:
            exchange.resolved = await self._keeper(asked.kept, key_hash)
            ask = exchange.ask = msgspec.structs.replace(ask, model=exchange.resolved.target.model)
        elif asked.way is not None and ask.model == asked.way.name:
            exchange.resolved = await self._resolve_way(asked.way, free=endpoint.free)
        else:
            exchange.resolved = await self.resolve(ask.model, endpoint.dialect.name, free=endpoint.free, trust=True)
        if exchange.resolved.target.fallbacks:
            caller = self.look(lambda tx: keys.authenticate(tx, key_hash))
            plan = self.policy.plans.get(caller.plan or "")
            exchange.resolved = exchange.resolved.narrowed(
                lambda names: caller.may_use(names) and (plan is None or plan.includes(names))
            )
        exchange.resolved = exchange.resolved.at(exchange.places)
        try:
            claim = self._claim(exchange, ask, exchange.resolved, key_hash, tags)
        except Refusal:
            seen = self._book
            if await self.book() is seen:
                raise
            return await self._claimed(exchange, asked, key_hash, tags)  # it was for a price that holds no more
        if key_hash not in self._let_in:
            # Decided here as well, so that who is refused again and again never takes the writer's time.
            self.look(lambda tx: holds.decide(tx, claim, self.policy))
        return claim

    async def book(self) -> Book:
        """The prices set that hold now; the catalogue that goes with them is ready for look-ups."""
        book = self._book
        if book.version != self.look(prices.version):
            book = self.look(prices.in_force)
            await asyncio.to_thread(catalogue.use, book.edition, book.catalogue)
            self._book = book
        return book

    async def resolve(self, model: str, format: str, *, free: bool = False, trust: bool = False) -> Resolved:  # noqa: A002
        """A model's routes with their price snapshots, kept for the day and for as long as no price changes.

        `trust` what was last seen of the prices, where a hold is to follow that is placed only if they still hold. Else
        whether they do is read from the database. Raises Refusal 404 or 403.
        """
        asked = model, self.today(), format, free
        known = self._resolved.get(asked)
        book = self._book if trust and known is not None else await self.book()
        if known is None or known.version != book.version:
            # What a reload replaces meanwhile must neither be mixed with it, nor kept among what comes after it.
            config, upstreams, transports, kept = self.config, self.upstreams, self._transports, self._resolved
            # In a thread: the first look into the catalogue imports it, which takes a tenth of a second.
            target = await asyncio.to_thread(
                partial(routing.resolve, config, upstreams, model, asked[1], format, free=free, book=book)
            )
            routes = await self.writer.run(lambda tx: tuple(_all_priced(tx, target)), patience_s=HOLD_PATIENCE_S)
            if len(kept) >= MOST_RESOLVED:
                kept.clear()
            known = kept[asked] = Resolved(target, routes, transports, book.version)
        return known

    async def _resolve_way(self, way: Way, *, free: bool) -> Resolved:
        """The same for a path that the config adds. Its prices stand there: those set in the database are of models."""
        book = await self.book()
        key = self.today(), free
        known = way.resolved.get(key)
        if known is None or known.version != book.version:
            target = way.target(free)
            routes = await self.writer.run(lambda tx: tuple(_all_priced(tx, target)), patience_s=HOLD_PATIENCE_S)
            known = way.resolved[key] = Resolved(target, routes, way.transports, book.version)
        return known

    async def _keeper(self, kept: str, key_hash: bytes) -> Resolved:
        """Where something lies that the caller's account has made. Raises Refusal 404."""
        book, transports, upstreams = await self.book(), self._transports, self.upstreams
        made = self.look(lambda tx: objects.made(tx, kept, keys.authenticate(tx, key_hash).account_id))
        upstream = upstreams.get(made.upstream)
        if upstream is None:
            raise Refusal(f"the upstream that keeps {kept!r} is no longer there", code="not_found")
        target = routing.at(upstream, made.model, made.upstream_model)
        routes = await self.writer.run(lambda tx: tuple(_all_priced(tx, target)), patience_s=HOLD_PATIENCE_S)
        return Resolved(target, routes, transports, book.version)

    def _claim(self, exchange: Exchange, ask: Ask, resolved: Resolved, key_hash: bytes, tags: dict[str, str]) -> Claim:
        if exchange.endpoint.free:
            ask = Ask(model=ask.model, output=False, tags=ask.tags)  # nothing of it is billed, so nothing is set aside
        input_tokens = max(quoting.input_bound(ask, priced.route.context_window) for priced in resolved.routes)
        possible = tuple(price for priced in resolved.routes for price in _possible(priced, ask))
        price = quoting.rates_for(ask, possible, input_tokens)
        first = resolved.routes[0]
        return Claim(
            request_id=exchange.request_id,
            worker_id=self._worker_id,
            key_hash=key_hash,
            model=ask.model,
            names=resolved.names,
            models=resolved.models,
            free=exchange.endpoint.free,
            upstream=first.route.upstream.name,
            upstream_model=first.route.model,
            format=exchange.endpoint.dialect.name,
            endpoint=exchange.endpoint.name,
            streamed=ask.stream,
            quote=quoting.quote(ask, price, input_tokens, resolved.target.max_output),
            price=price,
            unquotable=ask.unquotable or _searching(resolved) or _unknown_tier(resolved, ask),
            unpriced=resolved.target.unpriced,
            cost=first.cost,
            charge=first.charge,
            cost_source=first.route.tariff.source,
            tags=ask.tags | tags,
        )

    async def _hold(self, exchange: Exchange, asked: Asked, claim: Claim) -> Hold:
        """Place the hold, by the prices that hold in its own transaction: where they have changed since the claim was
        made, it is made anew. Each turn takes another change by an admin, so that it ends.
        """
        while True:
            assert exchange.resolved is not None
            placing = self._place(claim, exchange.resolved.version)
            try:
                hold = await placing
            except asyncio.CancelledError:
                # Cancelled in the turn in which it was committed: then the writer has told it, and nobody heard.
                if not placing.cancelled() and placing.exception() is None:
                    self._unwanted(placing.result())
                raise
            except prices.Outdated:
                await self.book()
                claim = await self._claimed(exchange, asked, claim.key_hash, claim.tags)
            except LlmgateError:
                self._let_in.discard(claim.key_hash)
                raise
            else:
                if len(self._let_in) >= MOST_LET_IN:
                    self._let_in.clear()
                self._let_in.add(claim.key_hash)
                return hold

    def _place(self, claim: Claim, version: Version) -> asyncio.Future[Hold]:
        """Place the hold. If we are cancelled while it is being written it is released again: nobody would own it."""
        policy = self.policy

        def place(tx: Tx) -> Hold:
            prices.check(tx, version)
            return holds.place(tx, claim, policy)

        return self.writer.submit(
            Steady(place), patience_s=HOLD_PATIENCE_S, unwanted=self._unwanted, alone=len(self.in_flight) == 1
        )

    def _unwanted(self, hold: Hold) -> None:
        self._spawn(self.writer.run(lambda tx: holds.release(tx, hold.id)))

    # ── 5 to 7: from the hold to its outcome ──────────────────────────────────────────────────────────────────────────

    async def _serve(self, exchange: Exchange, fields: Fields, scope: Scope, receive: Receive, send: Send) -> int:
        """Forward, meter, settle, answer. Returns the HTTP status that the client got; 499: it was gone."""
        exchange.watch = partial(self._watch, exchange, receive)
        whole = b""
        try:
            try:
                with exchange.spanned():
                    prepare = partial(self._sent, exchange, fields, scope)
                    answer = await self._forwarding.forward(exchange, prepare)
                    if not _streams(exchange, answer):
                        whole = await _whole(exchange, answer)
                if exchange.cut is not None:
                    raise TimeoutError  # cut off in the very moment in which the waiting ended by itself
                if _streams(exchange, answer):
                    await self._pass_on(exchange, answer, send)
                else:
                    _listen(exchange, answer, whole)
            except TimeoutError:
                exchange.failure = why_cut_off(exchange)
                if exchange.cut is Cut.FIRST_BYTE and exchange.priced is not None:
                    self._forwarding.cooldown.failed(key_of(exchange.priced.route), time.monotonic())
            except UpstreamFailure as failure:
                exchange.failure = failure
            except asyncio.CancelledError:
                exchange.client_gone = True  # the server has given its connection up
                raise
            if exchange.watching is None:
                self._glance(exchange, receive)
            settling = self._finish(exchange)
            if exchange.head_sent:
                await self._end(exchange, settling, send)
            else:
                # Settled before its first byte, so that what its headers say of the charge is true.
                settled = await asyncio.shield(settling)
                if exchange.client_gone:
                    return 499
                if exchange.failure is not None:
                    await refuse(send, exchange.endpoint.dialect, exchange.failure, exchange.request_id)
                    return exchange.failure.http_status
                if self._tells_usage(exchange) and settled is not None and answer.is_json:
                    whole = with_usage(whole, self._usage(exchange, settled))
                await respond(send, answer.status, self._headers(exchange, answer, settled), whole)
            return 499 if exchange.client_gone else answer.status
        finally:
            exchange.span = None
            exchange.watch = None
            if exchange.watching is not None:
                exchange.watching.cancel()
                exchange.watching = None  # what it ends with holds its frame, and that the exchange: a circle
            self._finish(exchange)
            if exchange.answer is not None:
                await exchange.answer.close()

    def _sent(self, exchange: Exchange, fields: Fields, scope: Scope, route: Route, secret: Secret | None) -> Sent:
        """What one upstream is sent: where, with which headers, and the body with no more than the due changes."""
        assert exchange.ask is not None
        assert exchange.hold is not None
        terms = Terms(
            model=route.model,
            bound=exchange.hold.grant.output_tokens,
            bound_fields=route.upstream.output_fields,
            bound_write=route.upstream.output_write,
            ask_usage=route.upstream.ask_usage,
        )
        changes = exchange.endpoint.prepare(fields, exchange.ask, terms)
        assert exchange.body is not None
        return Sent(
            url=up.url_for(
                route, exchange.endpoint.path, scope["query_string"].decode("latin-1"), secret, exchange.version
            ),
            headers=up.request_headers(scope["headers"], route.upstream, secret, exchange.identity),
            body=exchange.endpoint.write(exchange.body, fields, changes) if changes else exchange.body,
            method=scope["method"],
        )

    async def _pass_on(self, exchange: Exchange, answer: Answer, send: Send) -> None:
        """A stream's bytes as they come, for as long as there is a client, and to the end where that must be known."""
        assert exchange.ask is not None
        upstream = answer.route.upstream
        stream = exchange.endpoint.stream(exchange.ask.stream and upstream.ask_usage and not exchange.ask.usage_asked)
        exchange.heard = stream.heard
        if self._tells_usage(exchange) and isinstance(stream, SseStream):
            stream.hold_end()
            exchange.held_by = stream
        try:
            while True:
                try:
                    with exchange.spanned():
                        return await self._pump(exchange, answer, stream, send)
                except TimeoutError:
                    # A client that stopped reading is gone. Its stream ends as if it had left, which may be to read on.
                    if exchange.cut is not Cut.STALLED or not self._leave(exchange):
                        raise
                    exchange.cut = None
        finally:
            exchange.torn = stream.break_off()

    async def _pump(self, exchange: Exchange, answer: Answer, stream: Stream, send: Send) -> None:
        idle_s = answer.route.upstream.timeout.idle
        while True:
            if exchange.first_byte_ms is not None:
                exchange.wait(Cut.IDLE, idle_s)
            piece = await answer.piece()
            if exchange.first_byte_ms is None:
                exchange.first_byte_ms = exchange.elapsed_ms()
            passed = stream.feed(piece) if piece else stream.finish()
            if not exchange.client_gone:
                exchange.wait(Cut.STALLED, CLIENT_PATIENCE_S)
                begins = not exchange.head_sent
                if begins:
                    exchange.head_sent = True
                    headers = self._headers(exchange, answer, None)
                    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
                if passed or begins:  # servers send the head with the first of the body, be it empty
                    await send({"type": "http.response.body", "body": passed, "more_body": True})
            if not piece:
                return

    async def _end(self, exchange: Exchange, settling: asyncio.Future[Settled | None], send: Send) -> None:
        """The end of a stream: a failure in the client's dialect, then the last byte once it is settled."""
        if exchange.client_gone:
            return
        told = _last_words(exchange)
        if told:
            await send({"type": "http.response.body", "body": told, "more_body": True})
        await asyncio.wait({settling}, timeout=END_PATIENCE_S)
        last = b""
        if exchange.held_by is not None:
            settled = settling.result() if settling.done() else None
            told = b": {" + self._usage(exchange, settled) + b"}\n\n" if settled is not None else b""
            last = told + exchange.held_by.held
        await send({"type": "http.response.body", "body": last, "more_body": False})

    async def _watch(self, exchange: Exchange, receive: Receive) -> None:
        """Notice that the client leaves: sending to it would never tell."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self._left(exchange)

    def _glance(self, exchange: Exchange, receive: Receive) -> None:
        """The same for a request that was over before anybody watched it."""
        while (message := at_hand(receive)) is not None:
            if message["type"] == "http.disconnect":
                self._left(exchange)
                return

    def _left(self, exchange: Exchange) -> None:
        delivered = exchange.heard is not None and exchange.heard.done
        if exchange.settling is None and not delivered:
            self._leave(exchange)

    def _leave(self, exchange: Exchange) -> bool:
        """The client is gone. Returns whether its answer is read on without it.

        A call that doesn't stream is always read to its end: the upstream bills it whole. A stream is closed where that
        stops the billing, unless the model is done, or reasons: what it thought is billed and not in the text.
        """
        exchange.client_gone = True
        ask, heard, priced = exchange.ask, exchange.heard, exchange.priced
        assert ask is not None
        if not ask.stream:
            return True
        must = (
            priced is None
            or priced.route.upstream.on_disconnect == "drain"
            or ask.reasons
            or priced.route.reasons
            or (heard is not None and (heard.finished or heard.reasoned))
        )
        if must and (exchange.drained or self._drained < MOST_DRAINS):
            self._drained += not exchange.drained
            exchange.drained = True
            return True
        exchange.interrupt(Cut.GONE)
        return False

    def _finish(self, exchange: Exchange) -> asyncio.Future[Settled | None]:
        """Start the one settlement of a request; asked again, it is the same one."""
        if exchange.settling is None:
            assert exchange.hold is not None
            hold_id, placed = exchange.hold.id, exchange.hold.row
            outcome = exchange.outcome = outcome_of(exchange)

            policy = self.policy

            def resolve(tx: Tx) -> Settled | None:
                if outcome is None:
                    holds.release(tx, hold_id)
                    return None
                return holds.settle(tx, hold_id, outcome, policy, placed=placed)

            settling = exchange.settling = self.writer.submit(Steady(resolve), alone=len(self.in_flight) == 1)
            self._background.add(settling)
            settling.add_done_callback(partial(self._settled, exchange.request_id, hold_id))
        return exchange.settling

    def _settled(self, request_id: str, hold_id: int, settling: asyncio.Future[Settled | None]) -> None:
        """A settlement that failed must not go unheard: its hold stays until the next start."""
        self._background.discard(settling)
        if not settling.cancelled() and settling.exception() is not None:
            log.error("hold %d of %s could not be settled", hold_id, request_id, exc_info=settling.exception())

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
        """Work that goes on whatever becomes of the request."""
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    def _headers(self, exchange: Exchange, answer: Answer, settled: Settled | None) -> up.Headers:
        """The upstream's headers, and what llmgate adds."""
        assert exchange.hold is not None
        grant = exchange.hold.grant
        route = answer.route
        headers = [
            *up.answer_headers(answer),
            (b"x-request-id", exchange.request_id.encode()),
            (b"x-llmgate-upstream", route.upstream.name.encode()),
            (b"x-llmgate-model", route.model.encode()),
        ]
        if grant.standings:
            headers += limit_headers(grant, now_ms(), exchange.endpoint.dialect.name)
        if grant.clamped:
            headers.append((b"x-llmgate-clamped", str(grant.output_tokens).encode()))
        if settled is not None:
            headers.append((b"x-llmgate-charge-usd", usd(settled.charge_nano).encode()))
            if grant.caller.prepaid and grant.caller.account_kind == "user":
                headers.append((b"x-llmgate-balance-usd", usd(settled.balance_nano).encode()))
        return headers

    def _tells_usage(self, exchange: Exchange) -> bool:
        """Google's clients take nothing that they don't know."""
        return self.config.server.usage_in_body and exchange.endpoint.dialect is not GEMINI

    def _usage(self, exchange: Exchange, settled: Settled) -> bytes:
        """What a client is told of a request, as the JSON of one field."""
        assert exchange.hold is not None
        assert exchange.outcome is not None
        caller, meters = exchange.hold.grant.caller, exchange.outcome.meters
        told = {
            "tokens_charged": meters.input_tokens + meters.output_tokens,
            "charge_usd": usd(settled.charge_nano),
            "balance_usd": usd(settled.balance_nano) if caller.prepaid and caller.account_kind == "user" else None,
            "key": caller.key_id,
        }
        return b'"gateway_usage":' + msgspec.json.encode(told)

    def _log(self, exchange: Exchange, status: int) -> None:
        """One line per request: never a key, a prompt or a query string."""
        if not log.isEnabledFor(logging.INFO):
            return
        outcome = exchange.outcome
        request = {
            "request_id": exchange.request_id,
            "status": status,
            "user": exchange.user,
            "endpoint": exchange.endpoint.name,
            "model": _shown(exchange.ask.model) if exchange.ask else "-",
            "upstream": outcome.upstream if outcome else "-",
            "outcome": outcome.status if outcome else "refused",
            "input_tokens": outcome.meters.input_tokens if outcome else 0,
            "output_tokens": outcome.meters.output_tokens if outcome else 0,
            "duration_ms": exchange.elapsed_ms(),
        }
        line = "{status} {user} {endpoint} {model} {upstream} {outcome} {input_tokens}+{output_tokens} tokens"
        log.info(f"{line} {{duration_ms}} ms {{request_id}}".format(**request), extra={"request": request})

    # ── deadlines ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def sweep(self) -> None:
        """Cut off what has waited too long. One timer for all requests, rather than one for each read."""
        while True:
            await asyncio.sleep(SWEEP_S)
            self._look_after_all()

    def _look_after_all(self) -> None:
        """On its own, so that no request is held by a name between two rounds."""
        now = time.monotonic()
        for exchange in list(self.in_flight):
            if exchange.watching is None and exchange.watch is not None:
                if exchange.swept:
                    exchange.watching = asyncio.ensure_future(exchange.watch())
                exchange.swept = True
            if now >= exchange.total_deadline:
                exchange.interrupt(Cut.TOTAL)
            elif now >= exchange.deadline:
                exchange.interrupt(exchange.reason)

    def interrupt_all(self) -> None:
        """The time that a shutdown leaves to streams is over: end them, and settle what was delivered."""
        self._ending = True
        for exchange in list(self.in_flight):
            exchange.interrupt(Cut.SHUTDOWN)


@lru_cache(maxsize=2)
def _utc_day(number: int) -> str:
    return day_of(number * DAY_MS, ZoneInfo("UTC"))


def with_usage(answer: bytes, field: bytes) -> bytes:
    """A JSON object with one more field at its end; anything else as it is. All else keeps its bytes."""
    whole = answer.rstrip()
    if not (whole.startswith(b"{") and whole.endswith(b"}")):
        return answer
    rest = whole[:-1].rstrip()
    return rest + (b"" if rest == b"{" else b",") + field + b"}"


def _last_words(exchange: Exchange) -> bytes:
    """What a client is told of a failure in mid-stream, as far as what it has got can still take it."""
    failure, answer, heard = exchange.failure, exchange.answer, exchange.heard
    dialect = exchange.endpoint.dialect
    if failure is None or answer is None:
        return b""
    if answer.is_stream:
        return exchange.torn + dialect.error_event(failure, exchange.request_id)
    if heard is not None and heard.open_array:
        return exchange.torn + dialect.error_body(failure, exchange.request_id) + b"]"
    return b""


def _streams(exchange: Exchange, answer: Answer) -> bool:
    """Gemini streams an array of JSON, unless it is asked for events."""
    assert exchange.ask is not None
    array = exchange.ask.stream and exchange.endpoint.dialect is GEMINI and answer.is_json
    return (answer.is_stream or array) and 200 <= answer.status < 300


async def _whole(exchange: Exchange, answer: Answer) -> bytes:
    """The body of a plain answer. Once it has begun, it is the time between its pieces that is bounded."""
    pieces = []
    size = 0
    try:
        while piece := await answer.piece():
            exchange.wait(Cut.IDLE, answer.route.upstream.timeout.idle)
            pieces.append(piece)
            size += len(piece)
            if size > MOST_ANSWER:
                raise UpstreamFailure(f"the answer is larger than {MOST_ANSWER} bytes", reached=True)
    except (UpstreamFailure, asyncio.CancelledError):
        if size <= MOST_ANSWER:
            _hear(exchange, answer, b"".join(pieces))  # its end is missing, which may be no more than a closing
        raise
    return b"".join(pieces)


def _hear(exchange: Exchange, answer: Answer, got: bytes) -> None:
    """What a plain answer says of itself: a success is charged, anything else is the house's."""
    if 200 <= answer.status < 300:
        exchange.heard = exchange.endpoint.hear(got)
    else:
        exchange.in_vain(answer, got)


def _listen(exchange: Exchange, answer: Answer, whole: bytes) -> None:
    """Hear a whole answer. Raises UpstreamFailure where a success is not what its format says."""
    exchange.first_byte_ms = exchange.elapsed_ms()
    _hear(exchange, answer, whole)
    if exchange.heard is None and 200 <= answer.status < 300:
        raise UpstreamFailure(
            f"upstream {answer.route.upstream.name} answered with something that is not JSON", reached=True
        )


def _all_priced(tx: Tx, target: Target) -> Iterator[Priced]:
    for rank, model in enumerate((target, *target.fallbacks)):
        yield from (_priced(tx, route, rank) for route in model.routes)


def _priced(tx: Tx, route: Route, rank: int) -> Priced:
    tariff = route.tariff
    return Priced(
        rank=rank,
        route=route,
        cost=prices.intern(tx, tariff.cost),
        charge=prices.intern(tx, tariff.charge) if tariff.charge is not None else None,
        service_tiers={name: prices.intern(tx, price) for name, price in tariff.service_tiers.items()},
    )


_STANDARD = (None, "default", "standard", "standard_only", "on_demand")
"""Service tiers at the price that is listed. (None: nobody says otherwise, neither the request nor the admin.)"""

_LISTED = (*_STANDARD, "auto", "flex", "scale", "priority")
"""Those that have the listed price where they have none of their own."""


def _possible(priced: Priced, ask: Ask) -> tuple[Price, ...]:
    """The prices that a request may be charged by on a route: its own, or the dearest of the tiers it may end up in."""
    if priced.charge is not None:
        return (priced.charge.price,)
    tiers, asked = priced.service_tiers, tier_of(ask, priced.route.upstream)
    if asked in _STANDARD or not tiers:
        return (priced.cost.price,)
    if asked in tiers:
        return (priced.cost.price, tiers[asked].price)
    return (priced.cost.price, *(tier.price for tier in tiers.values()))


def _unknown_tier(resolved: Resolved, ask: Ask) -> str | None:
    """A service tier whose price the catalogue doesn't know, where that is what is charged."""
    if ask.service_tier in _LISTED:
        return None
    listed = (priced for priced in resolved.routes if priced.route.tariff.source is CostSource.CATALOGUE)
    unknown = any(priced.charge is None and ask.service_tier not in priced.service_tiers for priced in listed)
    return "service_tier" if unknown else None


def _searching(resolved: Resolved) -> str | None:
    """OpenRouter's `:online` has the web searched for each answer, at a price that nobody tells beforehand."""
    online = any(_is_online(priced.route.model) for priced in resolved.routes)
    return "model" if online else None


@lru_cache(maxsize=1024)
def _is_online(model: str) -> bool:
    return "online" in model.casefold().split(":")[1:]


def _shown(model: str) -> str:
    """A model's name as the log may have it: a client can write anything there, lines and keys included."""
    return model if MODEL.fullmatch(model) and not model.startswith(keys.PREFIX) else "-"


def tags_of(scope: Scope) -> dict[str, str]:
    """`X-Llmgate-Tags: agent=coder,job=42`. Raises Refusal `invalid_request`."""
    text = header(scope["headers"], b"x-llmgate-tags")
    if not text:
        return {}
    tags = {}
    for pair in text.decode("latin-1").split(","):
        name, equals, value = (part.strip() for part in pair.partition("="))
        if not (equals and name and value) or len(name) > LONGEST_TAG or len(value) > LONGEST_TAG:
            raise Refusal("X-Llmgate-Tags is written name=value,name=value", param="x-llmgate-tags")
        tags[name] = value
    if len(tags) > MOST_TAGS:
        raise Refusal(f"X-Llmgate-Tags has more than {MOST_TAGS} tags", param="x-llmgate-tags")
    return tags


def new_request_id() -> str:
    """Unlike any other, by the time (in units of 2²⁰ ns) and by chance. The time comes first: so ids that are new lie
    side by side in the indexes of the books, and a commit writes few of their pages, however many rows there are.
    """
    return f"req_{time.time_ns() >> 20:012x}{secrets.token_hex(6)}"


async def refuse(send: Send, dialect: Dialect, error: LlmgateError, request_id: str, *, close: bool = False) -> None:
    """An error in the client's dialect. `close`: its body wasn't read, so the connection can't be used again."""
    headers = [*error_headers(error, request_id), *([(b"connection", b"close")] if close else [])]
    if dialect.name == "anthropic":
        headers.append((b"request-id", request_id.encode()))  # where its SDKs look for it
    await respond(send, error.http_status, headers, dialect.error_body(error, request_id))
