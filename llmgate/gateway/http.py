"""The little of HTTP that the walk needs: who calls, with which key, the body within its bounds, an answer sent."""

from __future__ import annotations

import asyncio
import io
import ipaddress
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from contextlib import asynccontextmanager
from email.utils import formatdate
from typing import Any
from urllib.parse import parse_qsl

from ..clock import rfc3339
from ..errors import LlmgateError, Refusal
from ..limits import Unit, Window
from ..money import ceil_div
from ..store import admins, keys
from ..store.admission import Grant
from .upstream import KEY_HEADERS, Headers

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

JSON = (b"content-type", b"application/json")

LEFT_ALONE = "llmgate.left_alone"
"""Among a scope's `extensions`: the server doesn't cancel who serves it, except when all that is in flight was
interrupted long ago. That a client has left is only told."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


GEMINI_PATH = re.compile(rb"/v1(alpha|beta)/|/v1/models/.+:[A-Za-z]+$")
"""Where Google's clients may put their key into the query."""


def header(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """A header's first value."""
    return next((value for key, value in headers if key == name), None)


def presented_key(scope: Scope) -> str:
    """The llmgate key among the credentials of a request. Raises Refusal 401.

    A client may carry another vendor's key beside ours (SDKs read it from the environment): that one is ignored.
    """
    found: list[str] = []
    if GEMINI_PATH.match(scope["raw_path"]):
        query = parse_qsl(scope["query_string"].decode("latin-1"))
        found += [value for name, value in query if name == "key" and value]
    for name, value in scope["headers"]:
        if name in KEY_HEADERS:
            text = value.decode("latin-1").strip()
            if name == b"authorization":
                scheme, _, text = text.partition(" ")
                text = text.strip() if scheme.lower() == "bearer" else ""
            if text:
                found.append(text)
    ours = {text for text in found if text.startswith(keys.PREFIX)}
    if len(ours) > 1:
        raise Refusal("two different llmgate keys in one request: send one", code="invalid_key")
    if not ours:
        if found:
            raise Refusal(f"this is not a key of this gateway: its keys begin with {keys.PREFIX}", code="invalid_key")
        raise Refusal("no key: send one as `Authorization: Bearer sk-lg-…`", code="missing_key")
    key = ours.pop()
    if key.startswith(admins.PREFIX):
        raise Refusal("this is an admin key: it opens the admin API, and no model", code="invalid_key")
    if not keys.well_formed(key):
        raise Refusal("this key is mistyped: it is not as it was issued, copy it again", code="invalid_key")
    return key


def client_address(scope: Scope, trusted: Iterable[Network], ip_header: str | None) -> str:
    """Who called. What a proxy says counts only if the proxy itself is trusted, and from the right: a client can put
    anything at the left of `X-Forwarded-For`.
    """
    address = scope["client"][0] if scope.get("client") else ""
    trusted = tuple(trusted)
    if not trusted or not _within(address, trusted):
        return str(address)
    if ip_header:
        said = header(scope["headers"], ip_header.lower().encode())
        return said.decode("latin-1").strip() if said else str(address)
    hops = ",".join(value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for")
    for hop in reversed([hop.strip() for hop in hops.split(",") if hop.strip()]):
        address = hop
        if not _within(hop, trusted):
            break
    return str(address)


def is_secure(scope: Scope, trusted: Iterable[Network]) -> bool:
    """Whether a client speaks TLS, to us or to a proxy that is trusted and says so."""
    if scope.get("scheme") == "https":
        return True
    said = header(scope["headers"], b"x-forwarded-proto") or b""
    address = scope["client"][0] if scope.get("client") else ""
    return said.partition(b",")[0].strip().lower() == b"https" and _within(address, trusted)


def _within(address: str, networks: Iterable[Network]) -> bool:
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(ip, "ipv4_mapped", None)
    return any(ip in network or (mapped is not None and mapped in network) for network in networks)


def check_address(address: str, allowed: tuple[str, ...]) -> None:
    """Raises Refusal `ip_not_allowed` unless a key's list (empty: anywhere) has the address."""
    if allowed and not _within(address, [ipaddress.ip_network(network) for network in allowed]):
        raise Refusal("this key may not be used from your address", code="ip_not_allowed")


async def read_body(scope: Scope, receive: Receive, *, most: int, timeout_s: float) -> bytes:
    """The whole body. Raises Refusal 408, 413 or 415, and Disconnected where the client leaves instead."""
    encoding = header(scope["headers"], b"content-encoding")
    if encoding not in (None, b"", b"identity"):
        raise Refusal("a compressed body can't be read here: send it plain", code="unsupported_encoding")
    length = header(scope["headers"], b"content-length")
    if length is not None and length.isdigit() and int(length) > most:
        raise _too_large(most)
    first = at_hand(receive)
    if first is not None and first["type"] == "http.request" and not first.get("more_body", False):
        body: bytes = first.get("body", b"")  # the usual one came with its head
        if len(body) > most:
            raise _too_large(most)
        return body
    begun, size = b"", 0
    whole: io.BytesIO | None = None  # grows where it is, and is handed out as it is: joined pieces would be there twice
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                message = first or await receive()
                first = None
                if message["type"] == "http.disconnect":
                    raise Disconnected
                piece = message.get("body", b"")
                size += len(piece)
                if size > most:
                    raise _too_large(most)
                if size == len(piece):
                    begun = piece
                elif piece:
                    if whole is None:
                        whole = io.BytesIO()
                        whole.write(begun)
                    whole.write(piece)
                if not message.get("more_body", False):
                    return begun if whole is None else whole.getvalue()
    except TimeoutError as error:
        raise Refusal("the body didn't arrive in time", code="request_timeout") from error


def at_hand(receive: Receive) -> MutableMapping[str, Any] | None:
    """The next message if it is here already; None: it would have to be waited for, and is left to who does."""
    receiving = receive().__await__()
    try:
        next(receiving)
    except StopIteration as received:
        message: MutableMapping[str, Any] = received.value
        return message
    receiving.close()
    return None


@asynccontextmanager
async def unread(receive: Receive) -> AsyncIterator[None]:
    """Takes a body that nobody reads while it is being answered: where its queue is full, hypercorn would wait until it
    is taken, and never hear that its request is over.
    """
    taking = asyncio.ensure_future(_take(receive))
    try:
        yield
    finally:
        taking.cancel()


async def _take(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def names_connections(scope: Scope) -> bool:
    """Whether an answer may say `Connection: close`: HTTP/2 has no such word, and needs none."""
    return bool(scope["http_version"] < "2")


def _too_large(most: int) -> Refusal:
    return Refusal(f"the body is larger than {most} bytes", code="request_too_large")


class Disconnected(Exception):
    """The client left before its request was complete: there is nobody to answer and nothing to charge."""


async def respond(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """One answer, whole."""
    headers = [*headers, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def own_headers(request_id: str) -> Headers:
    """What an answer of llmgate's own carries."""
    return [JSON, (b"date", formatdate(usegmt=True).encode()), (b"x-request-id", request_id.encode())]


def error_headers(error: LlmgateError, request_id: str) -> Headers:
    return [*own_headers(request_id), *((name.encode(), value.encode()) for name, value in error.headers)]


_TOLD = ((Unit.REQUESTS, "requests"), (Unit.TOKENS, "tokens"))


def limit_headers(grant: Grant, now_ms: int, dialect: str) -> Headers:
    """The tightest limit of each kind, with this request counted in: `x-ratelimit-*` as OpenAI writes them, or
    `anthropic-ratelimit-*`.
    """
    headers: Headers = []
    for unit, name in _TOLD:
        found = [standing for standing in grant.standings if standing.limit.unit is unit and not standing.soft]
        if not found:
            continue
        tightest = min(found, key=lambda standing: standing.room)
        told = {"limit": str(tightest.amount), "remaining": str(max(tightest.room - grant.amounts.of(unit), 0))}
        end_ms = tightest.span.end_ms
        if tightest.limit.window is not Window.TOTAL:
            told["reset"] = rfc3339(end_ms) if dialect == "anthropic" else go_duration(max(end_ms - now_ms, 0))
        for what, value in told.items():
            header = f"anthropic-ratelimit-{name}-{what}" if dialect == "anthropic" else f"x-ratelimit-{what}-{name}"
            headers.append((header.encode(), value.encode()))
    return headers


def go_duration(ms: int) -> str:
    """A time as Go writes it: `12ms`, `1s`, `6m0s`, `1h0m30s`."""
    if ms < 1000:
        return f"{ms}ms"
    minutes, seconds = divmod(ceil_div(ms, 1000), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{seconds}s" if hours else f"{minutes}m{seconds}s" if minutes else f"{seconds}s"
