"""How requests travel to an upstream: httpx's transport interface over aiohttp's connections.

httpx's own pool is linear in its connections and collapses under concurrency, so only its interface is kept. Three
things that a gateway needs and aiohttp doesn't do are added here, and nowhere else is aiohttp imported:

- what arrived before an error comes out before the error (`Reply`);
- a reused idle connection that turned out dead is told from one that died at work (`_Protocol`, `StaleConnection`);
- an error says whether the request may have reached the upstream (`_meaning`).

Not public in aiohttp: `StreamReader._read_nowait`, `TCPConnector._factory`, and `ResponseHandler` with its `_payload`.
They are the same in 3.11 to 3.14; a version that changes them fails in `tests/gateway/test_transport.py`.

HTTP/2 is not spoken to upstreams, although many offer it. It saves handshakes, which kept connections save as well. But
a lost packet would hold up every stream that shares the connection, an upstream's bound on streams per connection would
queue requests that hold credit, and a connection that dies would take all of them along. Nor does a client for asyncio
that speaks it keep up: httpx's own transport takes 3.7 times the processor for a plain answer, 2.3 times for a stream.
"""

from __future__ import annotations

import asyncio
import functools
import io
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextvars import ContextVar
from typing import Any

import aiohttp
import httpx
from aiohttp.client_proto import ResponseHandler
from httpx_aiohttp import AiohttpTransport
from multidict import CIMultiDict
from yarl import URL

_READ_AHEAD = 2**16
"""Twice this much of an answer is read ahead of a slow client; aiohttp's own 256 KiB are a lot for 10,000 streams."""

_ONE_WRITE = 2**20
"""A longer body is written piece by piece, so that it holds up neither the loop nor a cancellation."""


class StaleConnection(httpx.RemoteProtocolError):
    """A reused idle connection closed before any byte of the answer came: most likely the upstream had left it before
    the request was sent, so one retry is right. It gets a new connection, as all that were idle are now distrusted."""


class _Stale(aiohttp.ServerDisconnectedError):
    """`StaleConnection` on its way through aiohttp."""


UNSENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
    httpx.LocalProtocolError,
)
"""What says that a request was not sent, so that trying again is safe."""


def _meaning(error: Exception, *, connected: bool = True) -> httpx.TransportError:
    """Say in httpx's words what happened. Whatever isn't surely unsent counts as sent."""
    match error:
        # the request was not sent
        case aiohttp.ConnectionTimeoutError():
            return httpx.ConnectTimeout("no connection in time")
        case aiohttp.ClientProxyConnectionError():
            return httpx.ProxyError(f"no connection to the proxy: {error.os_error}")
        case aiohttp.ClientHttpProxyError():  # it answered CONNECT with another status than 200
            return httpx.ProxyError(f"HTTP {error.status}")
        case aiohttp.ClientConnectorError():  # name lookup, refusal, TLS
            return httpx.ConnectError(str(error.os_error))
        case aiohttp.InvalidURL() | aiohttp.NonHttpUrlClientError():
            return httpx.UnsupportedProtocol("not a URL that HTTP can ask")
        case ValueError():
            return httpx.LocalProtocolError(str(error))
        case _ if not connected:  # a proxy that broke off before there was a tunnel
            return httpx.ConnectError(str(error) or type(error).__name__)
        # it was, or may have been
        case _Stale():
            return StaleConnection("the idle connection was closed")
        case aiohttp.ServerTimeoutError():
            return httpx.ReadTimeout("nothing to read in time")
        case aiohttp.ServerDisconnectedError():
            return httpx.RemoteProtocolError("the connection was closed without a complete answer")
        case aiohttp.ClientResponseError():
            return httpx.RemoteProtocolError("the answer is not HTTP")
        case aiohttp.ClientPayloadError():
            return httpx.RemoteProtocolError(str(error))
        case _:
            return httpx.ReadError(str(error) or type(error).__name__)


@functools.lru_cache(maxsize=64)
def _trusting(ca: str | None) -> ssl.SSLContext:
    """Certificates are checked against the authorities in a PEM text, and no others; None: those in `SSL_CERT_FILE` or
    `SSL_CERT_DIR` if set, else certifi's. Reading them takes 20 ms, so upstreams share them."""
    if ca is None:
        return httpx.create_ssl_context()
    # Not create_default_context: without a certificate it would trust the public ones, and since Python 3.13 it refuses
    # authorities that are not made by the book, as those of many a company are.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=ca)
    return context


_connected: ContextVar[Callable[[], None]] = ContextVar("connected")
"""Told when the request that is being made has its connection: from then on it may have been sent."""


class _Pool(aiohttp.TCPConnector):
    """The connections to one upstream, without a limit: who may send is decided before the transport is asked."""

    generation = 0
    """Goes up when an idle connection turned out dead; connections of an earlier one are not used again."""

    certificate: Mapping[str, Any] | None = None
    """What the upstream showed when the latest connection was made, as `SSLSocket.getpeercert` has it."""

    def __init__(self, context: ssl.SSLContext, keepalive_s: float) -> None:
        super().__init__(limit=0, ssl=context, keepalive_timeout=keepalive_s)
        self._factory: Any = functools.partial(_Protocol, asyncio.get_running_loop(), self)

    async def connect(self, *args: Any, **kwargs: Any) -> aiohttp.connector.Connection:
        connection = await super().connect(*args, **kwargs)
        if connection.transport is not None:
            self.certificate = connection.transport.get_extra_info("peercert")
        _connected.get()()
        return connection


class _Protocol(ResponseHandler):
    """A connection that knows whether it was used before, and whether it was answered since it was used again."""

    def __init__(self, loop: asyncio.AbstractEventLoop, pool: _Pool) -> None:
        super().__init__(loop)
        self._pool = pool
        self._generation = pool.generation
        self._uses = 0
        self._answered = False

    def set_response_params(self, **params: Any) -> None:
        """aiohttp calls it when a request takes the connection."""
        self._uses += 1
        self._answered = False
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        self._answered = True
        super().data_received(data)

    def set_exception(self, exc: BaseException, *cause: Any) -> None:
        lost = isinstance(exc, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError)
        if lost and self._uses > 1 and not self._answered:
            self._pool.generation += 1
            exc = _Stale(str(exc))
        super().set_exception(exc, *cause)

    def is_connected(self) -> bool:
        """aiohttp asks it before it reuses the connection. One that has spoken while idle must not be reused: what it
        said would be taken for the answer to the next request, which may be another user's."""
        return super().is_connected() and not self.should_close and self._generation == self._pool.generation

    def connection_lost(self, exc: BaseException | None) -> None:
        payload = self._payload
        if exc is not None:  # aiohttp takes even a reset for the end of a body that ends with its connection
            _break_off(payload, aiohttp.ClientOSError(*exc.args))
        super().connection_lost(exc)
        _break_off(payload, aiohttp.ClientPayloadError("the body is not HTTP"))  # aiohttp would let a reader wait

    def close(self) -> None:
        _break_off(self._payload, aiohttp.ClientConnectionError("the connection was closed"))  # here too
        if self.transport is not None and self.transport.get_write_buffer_size():
            self.transport.abort()  # aiohttp would go on sending what was cancelled
        super().close()


def _break_off(payload: aiohttp.StreamReader | None, error: aiohttp.ClientError) -> None:
    """End a body with an error, unless it has ended already."""
    if payload is not None and not payload.is_eof() and payload.exception() is None:
        payload.set_exception(error)


class Reply(httpx.AsyncByteStream):
    """An answer whose head has arrived, and its body in the pieces in which it arrives.

    After an error aiohttp's reader keeps to itself what it has buffered. Left so, an upstream that dies in mid-stream
    would look as if it had died before its first byte, and the request would be retried and paid twice.
    """

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.headers = response.raw_headers

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        data = await self.read()
        if not data:
            raise StopAsyncIteration
        return data

    async def read(self) -> bytes:
        """The next piece; empty at the end. Raises httpx.TransportError where it broke off."""
        content = self._response.content
        try:
            data = await content.readany()
        except (aiohttp.ClientError, OSError) as error:
            data = content._read_nowait(-1)  # the error stays in `content` and comes next time
            if not data:
                self._response.close()
                raise _meaning(error) from error
        except BaseException:
            self._response.close()
            raise
        return data

    @property
    def reason(self) -> str | None:
        return self._response.reason

    async def aclose(self) -> None:
        """Close the connection, unless all of the answer is here: then the pool has it already."""
        self._response.close()


class Transport(AiohttpTransport):
    """The connections to one upstream. Made inside the running loop, closed by `aclose()`.

    What it is given is what is sent, and what came is what it gives: no header is invented, no cookie kept, no redirect
    followed, nothing decompressed, no proxy but the given one. Through a proxy an https upstream is reached by a tunnel
    (CONNECT), so that the proxy sees neither secret nor request; an http one is asked through it. Of
    `extensions["timeout"]` it obeys `connect`, which spans from the name lookup to the end of the TLS handshake, and
    `read`. All other waiting is the caller's to bound: cancelling a request or a read closes its connection.
    `extensions["connected"]` is called once there is one: who cancels before that knows that nothing was sent.
    """

    def __init__(
        self,
        *,
        verify: ssl.SSLContext | bool = True,
        keepalive_s: float = 30.0,
        ca: str | None = None,
        proxy: str | None = None,
    ) -> None:
        super().__init__(verify=_trusting(ca) if verify is True else verify)
        self._pool = _Pool(self.ssl_context, keepalive_s)
        self._proxy = URL(proxy) if proxy else None
        self._session = self.client = aiohttp.ClientSession(
            connector=self._pool,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            auto_decompress=False,
            trust_env=False,
            read_bufsize=_READ_AHEAD,
            max_field_size=2**16,
        )

    @property
    def certificate(self) -> Mapping[str, Any] | None:
        """The upstream's, of the latest connection; None without TLS."""
        return self._pool.certificate

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        headers = request.headers.raw
        body: Any
        try:
            body = request.content
        except httpx.RequestNotRead:
            body = request.stream
            headers = [
                (name, value) for name, value in headers if name.lower() != b"transfer-encoding"
            ]  # aiohttp's own
        timeout = request.extensions.get("timeout", {})
        told = request.extensions.get("connected")
        patience = limits(timeout.get("connect"), timeout.get("read"))
        reply = await self.send(request.method, str(request.url), headers, body, patience, told)
        return httpx.Response(
            reply.status,
            headers=reply.headers,
            stream=reply,
            request=request,
            extensions={"http_version": b"HTTP/1.1", "reason_phrase": (reply.reason or "").encode()},
        )

    async def send(
        self,
        method: str,
        url: str,
        headers: Iterable[tuple[bytes, bytes]],
        body: Any,
        timeout: aiohttp.ClientTimeout,
        told: Callable[[], None] | None = None,
    ) -> Reply:
        """The same without httpx's objects, which take as long to make as all the rest of a request. `told` is what
        `extensions["connected"]` is."""
        if isinstance(body, bytes):
            body = io.BytesIO(body) if len(body) > _ONE_WRITE else body or None
        connected = False

        def note() -> None:
            nonlocal connected
            connected = True
            if told is not None:
                told()

        _connected.set(note)
        try:
            response = await self._session.request(
                method,
                URL(url, encoded=True),
                headers=_as_text(headers),
                data=body,
                allow_redirects=False,
                proxy=self._proxy,
                timeout=timeout,
            )
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _meaning(error, connected=connected) from error
        finally:
            told = None  # a new connection keeps the context that it was made in, and with it all that is known here
        return Reply(response)


@functools.lru_cache(maxsize=64)
def limits(connect_s: float | None, read_s: float | None = None) -> aiohttp.ClientTimeout:
    """For how long a connection may take, and the pause between two pieces of an answer."""
    return aiohttp.ClientTimeout(connect=connect_s, sock_read=read_s)


def _as_text(headers: Iterable[tuple[bytes, bytes]]) -> CIMultiDict[str]:
    """As aiohttp takes them, which writes them as UTF-8; what isn't any can only be meant as Latin-1."""
    try:
        return CIMultiDict([(name.decode(), value.decode()) for name, value in headers])
    except UnicodeDecodeError:
        return CIMultiDict([(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers])
