"""Asking an upstream: the request that it gets, and what became of it, in our own errors."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote, unquote_plus, urlencode

import httpx

from ..config import Upstream
from ..config.rules import Secret
from ..errors import NO_RETRY, UpstreamFailure
from ..presets import DEPLOYMENT_PATHS
from ..routing import Route
from ..store.keys import PREFIX
from ..wire.body import lenient
from ..wire.endpoint import Body
from ..wire.openai_usage import part
from .sandbox import Sandbox
from .transport import UNSENT, Reply, StaleConnection, Transport, limits

Headers = list[tuple[bytes, bytes]]

HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te"}
    | {b"trailer", b"trailers", b"transfer-encoding", b"upgrade"}
)
"""RFC 9110 §7.6.1: they are between two neighbours, not end to end."""

KEY_HEADERS = (b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key")
"""Where clients put their key; none of them is ever forwarded."""

_NOT_FORWARDED = HOP_BY_HOP | frozenset(
    {*KEY_HEADERS, b"host", b"cookie", b"forwarded", b"x-user-id", b"x-plan-id", b"x-real-ip", b"accept-encoding"}
    | {b"content-length", b"content-encoding", b"expect", b"via"}
    | {b"x-http-method-override", b"x-http-method", b"x-method-override"}  # what is free to GET may not be to POST
    | {b"x-admin-token"}  # ours, sent to the wrong door
    | {b"origin"}  # of a page that calls us; Anthropic answers it with 401
    | {b"x-goog-fieldmask"}  # see `_HIDES_USAGE`
    # Which of the admin's own accounts pays is for the admin to say, in `headers`.
    | {b"openai-organization", b"openai-project", b"anthropic-workspace-id", b"x-goog-user-project"}
)
_NOT_FORWARDED_PREFIXES = (b"x-forwarded-", b"x-llmgate-", b"x-vertex-ai-llm-")
"""The last choose a tier of service, which is quoted by the body."""

_NOT_RETURNED = HOP_BY_HOP | frozenset(
    {b"content-length", b"x-request-id"}
    # These are about the host that says it, and that is us.
    | {b"alt-svc", b"strict-transport-security", b"clear-site-data", b"nel", b"report-to", b"reporting-endpoints"}
)
_NOT_RETURNED_PREFIXES = (b"x-ratelimit-", b"anthropic-ratelimit-", b"x-llmgate-", b"access-control-")
"""Which pages may call us is for llmgate to say, and to say once."""

_HIDES_USAGE = frozenset({"fields", "$fields", "callback", "$callback", "alt", "$alt"})
"""Parameters by which Google's APIs leave fields out of an answer, or answer with what is no JSON: then nobody could
hear what is billed."""

_CREDENTIALS = frozenset({"key", "access_token", "oauth_token", "bearer_token"})
"""Parameters in which a client may show who it is; to an upstream that is llmgate."""

_ALT = ("json", "sse")
"""What `alt` may ask for all the same."""

OUR_SECRET_REFUSED = frozenset({401, 402, 403, 407})
"""Statuses that are between llmgate and the upstream: the secret, or the admin's money there."""

MAY_REFUSE_US = frozenset({400, 429})
"""Statuses by which some say the same, and mean other things else: then the error itself tells."""

_REFUSES_US = frozenset(
    {"API_KEY_INVALID", "API_KEY_EXPIRED"}  # Google, of any wrong secret
    | {"insufficient_quota", "credit_balance_exhausted"}  # OpenAI, as all below here: the money is used up
    | {"organization_spend_limit_exceeded", "project_spend_limit_exceeded", "organization_usage_limit_exceeded"}
    | {"enforced_spend_limit_reached", "contract_spend_limit_reached"}  # Anthropic
)
_REFUSALS = ("your credit balance is too low", "incorrect api key")
"""How Anthropic and xAI begin to say it; there is no code for it."""

MOST_REFUSAL = 2**16
"""Bytes of an error that are read to see whom it refuses."""


class Sent(NamedTuple):
    """What an upstream is sent."""

    url: httpx.URL
    headers: Headers
    body: Body
    method: str = "POST"


_ONE_PIECE = 2**18
"""Bytes that are handed on at once, so that a large body holds up neither the loop nor a cancellation."""


class _Pieces(httpx.AsyncByteStream):
    """A body in pieces, none of which is copied."""

    def __init__(self, pieces: Iterable[bytes | memoryview]) -> None:
        self._pieces = [memoryview(piece) for piece in pieces]
        self.size = sum(map(len, self._pieces))

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            for at in range(0, len(piece), _ONE_PIECE):
                yield piece[at : at + _ONE_PIECE]  # type: ignore[misc]  # as good as bytes for who writes them


class Answer:
    """An upstream's answer whose head, and in a stream the first piece, has arrived."""

    __slots__ = ("_ahead", "_content_type", "_read", "_response", "headers", "refuses_us", "route", "status")

    def __init__(self, response: Reply | httpx.Response, route: Route) -> None:
        self._response = response
        self.headers: Headers
        self._read: Callable[[], Awaitable[bytes]]
        if isinstance(response, Reply):
            self.status, self.headers, self._read = response.status, [*response.headers], response.read
        else:
            self.status, self.headers, self._read = response.status_code, response.headers.raw, _reading(response)
        self.route = route
        self._ahead: list[bytes] = []
        self.refuses_us = refuses_us(self.status)
        """It is between the upstream and llmgate."""
        self._content_type = self.header("content-type").lower()

    def header(self, name: str) -> str:
        """A header's value; all of them, where it comes more than once."""
        wanted = name.encode()
        return ", ".join([value.decode("latin-1") for key, value in self.headers if key.lower() == wanted])

    @property
    def is_stream(self) -> bool:
        return self._content_type.startswith("text/event-stream")

    @property
    def is_json(self) -> bool:
        """A success in JSON."""
        return 200 <= self.status < 300 and self._content_type.startswith("application/json")

    async def piece(self) -> bytes:
        """The next bytes as they came; empty at the end. Raises UpstreamFailure where the answer breaks off."""
        if self._ahead:
            return self._ahead.pop(0)
        try:
            return await self._read()
        except httpx.TransportError as error:
            raise UpstreamFailure("the upstream broke off in the middle of its answer", reached=True) from error

    async def look(self) -> None:
        """See whom an error refuses, where its status doesn't say it. Raises as `piece` does."""
        if self.status not in MAY_REFUSE_US:
            return
        ahead: list[bytes] = []
        while sum(map(len, ahead)) < MOST_REFUSAL and (piece := await self.piece()):
            ahead.append(piece)
        self._ahead = ahead
        self.refuses_us = _says_that_we_are_refused(b"".join(ahead))

    async def close(self) -> None:
        await self._response.aclose()


def _says_that_we_are_refused(said: bytes) -> bool:
    found = lenient(said)
    if isinstance(found, list) and found:
        found = found[0]  # Google, where it would have streamed
    told = found.get("error") if isinstance(found, dict) else None
    error = told if isinstance(told, dict) else {"message": told}
    details = error.get("details")
    several = details if isinstance(details, list) else []
    of_google = [detail.get("reason") for detail in several if isinstance(detail, dict)]
    named = (error.get("type"), error.get("code"), part(error, "details").get("error_code"), *of_google)
    known = any(isinstance(name, str) and name in _REFUSES_US for name in named)
    return known or str(error.get("message")).lower().startswith(_REFUSALS)


def _reading(response: httpx.Response) -> Callable[[], Awaitable[bytes]]:
    assert isinstance(response.stream, httpx.AsyncByteStream)
    pieces = aiter(response.stream)

    async def read() -> bytes:
        return await anext(pieces, b"")

    return read


def transport_for(upstream: Upstream) -> httpx.AsyncBaseTransport:
    return Sandbox() if upstream.preset == "sandbox" else Transport(ca=upstream.ca, proxy=upstream.proxy)


class Identity(NamedTuple):
    """Who asks, for upstreams that want to know."""

    user: str
    plan: str | None = None

    def headers(self) -> Headers:
        plan = [(b"X-Plan-ID", self.plan.encode())] if self.plan else []
        return [(b"X-User-ID", self.user.encode()), *plan]


def request_headers(
    client: Iterable[tuple[bytes, bytes]], upstream: Upstream, secret: Secret | None, identity: Identity | None = None
) -> Headers:
    """The client's headers, less what is between it and us, plus the upstream's secret and own headers, and who asks
    where the upstream is told that."""
    client = list(client)
    named = _named_in_connection(client)
    own = {name.lower().encode() for name in (*upstream.headers, upstream.auth_name)}
    headers = [
        (name, value)
        for name, value in client
        if (plain := name.replace(b"_", b"-")) not in _NOT_FORWARDED  # some servers take the one for the other
        and name not in named
        and plain not in own
        and not plain.startswith(_NOT_FORWARDED_PREFIXES)
    ]
    headers.append((b"accept-encoding", b"identity"))
    headers += [(name.encode(), value.encode()) for name, value in upstream.headers.items()]
    if upstream.identify and identity is not None:
        headers += identity.headers()
    if secret is not None and upstream.auth in ("bearer", "header"):
        value = f"Bearer {secret.reveal()}" if upstream.auth == "bearer" else secret.reveal()
        headers.append((upstream.auth_name.encode(), value.encode()))
    return headers


def _named_in_connection(headers: Headers) -> set[bytes]:
    """What `Connection` names is between two neighbours as well."""
    values = [value for name, value in headers if name.lower() == b"connection"]
    return {token.strip().lower() for value in values for token in value.split(b",")}


def answer_headers(answer: Answer) -> Headers:
    """The upstream's headers, less what llmgate answers for itself."""
    left_out = _NOT_RETURNED | _named_in_connection(answer.headers)
    return [
        (lowered, value)
        for name, value in answer.headers
        if (lowered := name.lower()) not in left_out and not lowered.startswith(_NOT_RETURNED_PREFIXES)
    ]


def _url(base_url: str, path: str, query: str) -> httpx.URL:
    """Parsed once: a URL is the same for every request of an endpoint. Not a long one, which a client wrote."""
    whole = f"{base_url}{path}{'?' if query else ''}{query}"
    return _parsed(whole) if len(whole) <= LONGEST_KEPT else httpx.URL(whole)


LONGEST_KEPT = 2**10

_parsed = lru_cache(maxsize=1024)(httpx.URL)


SANDBOX_URL = "http://sandbox.invalid/v1"
"""Stands for an address where there is none: the sandbox is inside this process."""

_VERSIONED = re.compile(r".*/v\d+[a-z]*")


def url_for(route: Route, path: str, client_query: str, secret: Secret | None, version: str = "") -> httpx.URL:
    """Where an endpoint's `path` (`/chat/completions`, `/models/{model}:countTokens`) is at an upstream.

    `version` is the client's, where the path has one of its own (Gemini): it is sent where the base URL has none.
    """
    upstream = route.upstream
    if "{" in path:
        path = path.replace("{model}", quote(route.model, safe=""))
    if upstream.deployments and path in DEPLOYMENT_PATHS:
        path = f"/deployments/{quote(route.model, safe='')}{path}"
    if version and not _VERSIONED.fullmatch(upstream.base_url or SANDBOX_URL):
        path = f"/{version}{path}"
    return address(upstream, path, client_query, secret)


def address(upstream: Upstream, path: str, client_query: str, secret: Secret | None) -> httpx.URL:
    """Where a `path` is at an upstream, with what the upstream wants in every query."""
    if not (client_query or upstream.query or upstream.auth == "query"):
        return _url(upstream.base_url or SANDBOX_URL, path, "")
    own = dict(upstream.query)
    if upstream.auth == "query" and secret is not None:
        own[upstream.auth_name] = secret.reveal()
    pairs = client_query.replace("#", "%23").split("&")  # what follows a fragment's sign would not be sent
    kept = "&".join(pair for pair in pairs if pair and _is_forwarded(pair, own, google="gemini" in upstream.formats))
    return _url(upstream.base_url or SANDBOX_URL, path, "&".join(part for part in (kept, urlencode(own)) if part))


def _is_forwarded(pair: str, own: Collection[str], *, google: bool) -> bool:
    """By what the upstream will read: a name can be written in many ways. A key of llmgate's own is never let out."""
    name, _, value = (unquote_plus(part) for part in pair.partition("="))
    if name in own or name in _CREDENTIALS or value.startswith(PREFIX):
        return False
    return not (google and name in _HIDES_USAGE) or (name.endswith("alt") and value in _ALT)


def health_url(upstream: Upstream) -> httpx.URL:
    """Where a server of one's own says whether it is ready."""
    assert upstream.health is not None
    return beside(upstream, upstream.health)


def beside(upstream: Upstream, path: str) -> httpx.URL:
    """A path of the server itself, which is beside its versions."""
    return httpx.URL(re.sub(r"/v\d+$", "", upstream.base_url) + path)


async def ask(transport: httpx.AsyncBaseTransport, route: Route, sent: Sent, connected: Callable[[], None]) -> Answer:
    """Send one request and wait for the head of its answer. `connected` is called when it may begin to be sent.

    Raises UpstreamFailure; its `reached` is False where the request never got there, so that trying again is safe.
    """
    upstream = route.upstream
    body = _Pieces(sent.body) if isinstance(sent.body, tuple) else sent.body
    headers = sent.headers
    if isinstance(body, _Pieces):
        headers = [*headers, (b"content-length", b"%d" % body.size)]
    response: Reply | httpx.Response
    try:
        if isinstance(transport, Transport):
            patience = limits(upstream.timeout.connect)
            response = await transport.send(sent.method, str(sent.url), headers, body, patience, connected)
        else:
            request = httpx.Request(sent.method, sent.url, headers=headers, content=body)
            response = await transport.handle_async_request(request)
    except UNSENT as error:
        raise UpstreamFailure(f"upstream {upstream.name} can't be reached", reached=False) from error
    except StaleConnection as error:
        raise UpstreamFailure(f"upstream {upstream.name} closed an idle connection", reached=False) from error
    except httpx.TransportError as error:
        raise UpstreamFailure(f"upstream {upstream.name} broke off before it answered", reached=True) from error
    return Answer(response, route)


def refuses_us(status: int) -> bool:
    """The answer is between the upstream and llmgate: our secret, our money there, or a wrong base_url."""
    return status in OUR_SECRET_REFUSED or 300 <= status < 400


def wrong_with(answer: Answer) -> UpstreamFailure | None:
    """Why an answer is between the upstream and llmgate, and not for the client; None: it is the client's.

    `upstream_auth` where llmgate itself is refused.
    """
    name, status = answer.route.upstream.name, answer.status
    if answer.refuses_us and not 300 <= status < 400:
        return UpstreamFailure(
            f"upstream {name} refused the gateway's own credentials or credit (HTTP {status}): "
            "the admin must look at it",
            code="upstream_auth",
            headers=NO_RETRY,
            reached=True,
        )
    if 300 <= status < 400:
        return UpstreamFailure(
            f"upstream {name} answered with a redirect (HTTP {status}), and none is followed: the admin must correct "
            "its base_url",
            headers=NO_RETRY,
            reached=True,
        )
    encoding = answer.header("content-encoding").lower()
    if encoding not in ("", "identity"):
        return UpstreamFailure(
            f"upstream {name} answered in the encoding {encoding!r}, although asked not to", reached=True
        )
    return None
