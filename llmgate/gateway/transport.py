"""How requests travel to an upstream: httpx's transport interface over aiohttp's connections.

httpx's own pool is linear in its connections and collapses under concurrency, so only its interface is kept. Three
things that a gateway needs and aiohttp doesn't do are added here, and nowhere else is aiohttp imported:

- what arrived before an error comes out before the error (`Reply`);
- a reused idle connection that turned out dead is told from one that died at work (`_Protocol`, `StaleConnection`);
- an error says whether the request may have reached the upstream (`_meaning`).

A plain request - a body at hand, no proxy, no header that is about the connection - is written to the connection as it
is, and a plain answer taken from there (`Transport._send`, `_Protocol.ask`, `plain`): aiohttp's session, its parser and
its reader take longer than all that llmgate does with them. The pool is aiohttp's, and so is whatever isn't plain.

Not public in aiohttp: `StreamReader._read_nowait`, `TCPConnector._factory`, `ClientRequest` and what the session calls
of `ResponseHandler`, and its `_payload`. They are the same in 3.11 to 3.14; a version that changes them fails in
`tests/gateway/test_transport.py`.

HTTP/2 is not spoken to upstreams, although many offer it. It saves handshakes, which kept connections save as well. But
a lost packet would hold up every stream that shares the connection, an upstream's bound on streams per connection would
queue requests that hold credit, and a connection that dies would take all of them along. Nor does a client for asyncio
that speaks it keep up: httpx's own transport takes 3.7 times the processor for a plain answer, 2.3 times for a stream.
"""

from __future__ import annotations

import asyncio
import functools
import io
import re
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextvars import ContextVar
from typing import Any

import aiohttp
import httpx
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import HttpProcessingError
from httpx_aiohttp import AiohttpTransport
from multidict import CIMultiDict
from yarl import URL

from . import plain

_READ_AHEAD = 2**16
"""Twice this much of an answer is read ahead of a slow client; aiohttp's own 256 KiB are a lot for 10,000 streams."""

_MOST_FIELD = 2**16
"""Bytes of a header of an answer."""

_MOST_PLACES = 1000
"""URLs that are kept taken apart."""

_LONGEST_PLACE = 2**10
"""A longer one isn't: its client wrote most of it, and the next will be another."""

_PLAIN = frozenset({"GET", "POST"})
"""Methods of plain requests."""

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
        case aiohttp.ClientResponseError() | HttpProcessingError():
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
"""Told when the request that the session makes has its connection: from then on it may have been sent."""

_OF_THE_CONNECTION = frozenset(
    {b"host", b"content-length", b"transfer-encoding", b"expect", b"connection", b"upgrade", b"trailer", b"te"}
)
"""With one of these a request is the session's."""

_HEADERS = re.compile(plain.FIELDS)


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
        connection = await self.take(*args, **kwargs)
        _connected.get()()
        return connection

    async def take(self, *args: Any, **kwargs: Any) -> aiohttp.connector.Connection:
        """The same, without a word."""
        return await super().connect(*args, **kwargs)


class _Protocol(ResponseHandler):
    """A connection that knows whether it was used before, and whether it was answered since it was used again.

    Whoever writes a request to it themselves is given a plain answer as it is (`ask`).
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, pool: _Pool) -> None:
        super().__init__(loop)
        self._pool = pool
        self._generation = pool.generation
        self._uses = 0
        self._answered = False
        self._asked: asyncio.Future[Reply | None] | None = None
        """Waits for the head of an answer."""
        self._connection: aiohttp.connector.Connection | None = None
        self._body: _Body | None = None
        """Of a plain answer, until all of it is here."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._pool.certificate = transport.get_extra_info("peercert")
        super().connection_made(transport)

    def set_response_params(self, **params: Any) -> None:
        """aiohttp calls it when a request takes the connection."""
        self._uses += 1
        self._answered = False
        super().set_response_params(**params)

    def ask(self, connection: aiohttp.connector.Connection) -> asyncio.Future[Reply | None]:
        """For a request that is written by the caller: its answer; None: it isn't plain, and is to be had by `read`."""
        self._uses += 1
        self._answered = False
        self._connection = connection
        self._asked = self._loop.create_future()
        return self._asked

    def data_received(self, data: bytes) -> None:
        self._answered = True
        if self._body is not None:
            self._take(self._body, data)
        elif self._asked is not None:
            self._begin(self._asked, data)
        else:
            super().data_received(data)

    def _begin(self, asked: asyncio.Future[Reply | None], data: bytes) -> None:
        if asked.done():
            return  # nobody waits any more, and the connection is about to be closed
        self._asked = None
        end = data.find(b"\r\n\r\n") + 4
        head = plain.parse(data[:end]) if 4 <= end <= _MOST_FIELD else None
        if head is None:
            super().set_response_params(
                read_until_eof=True, auto_decompress=False, read_bufsize=_READ_AHEAD, max_field_size=_MOST_FIELD
            )
            super().data_received(data)
            asked.set_result(None)
            return
        assert self._connection is not None
        self._should_close = head.close
        body = self._body = _Body(self, plain.Chunked() if head.length is None else plain.Sized(head.length))
        asked.set_result(Reply(head.status, head.reason, head.headers, body, self._connection.close))
        self._take(body, data[end:])

    def _take(self, body: _Body, data: bytes) -> None:
        try:
            rest = body.feed(data)
        except ValueError as error:
            self._body = None
            self._should_close = True
            body.end(aiohttp.ClientPayloadError(str(error)))
            if self.transport is not None:
                self.transport.close()
            return
        if rest is not None:
            self._body = None
            self._should_close = self._should_close or bool(rest)
            body.end()
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.release()

    @property
    def should_close(self) -> bool:
        return self._body is not None or self._asked is not None or super().should_close

    def resume_reading(self, *args: Any, **kwargs: Any) -> None:
        """aiohttp calls it for each piece that is taken, and then looks for more to parse: there is none unless reading
        was paused."""
        if self._reading_paused:
            super().resume_reading(*args, **kwargs)

    def set_exception(self, exc: BaseException, *cause: Any) -> None:
        lost = isinstance(exc, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError)
        if lost and self._uses > 1 and not self._answered:
            self._pool.generation += 1
            exc = _Stale(str(exc))
        asked, self._asked = self._asked, None
        if asked is not None and not asked.done():
            asked.set_exception(exc)
        super().set_exception(exc, *cause)

    def is_connected(self) -> bool:
        """aiohttp asks it before it reuses the connection. One that has spoken while idle must not be reused: what it
        said would be taken for the answer to the next request, which may be another user's."""
        return super().is_connected() and not self.should_close and self._generation == self._pool.generation

    def connection_lost(self, exc: BaseException | None) -> None:
        payload, body, self._body = self._payload, self._body, None
        if body is not None:
            lost = aiohttp.ClientPayloadError("the body has no end")
            body.end(lost if exc is None else aiohttp.ClientOSError(*exc.args))
        if exc is not None:  # aiohttp takes even a reset for the end of a body that ends with its connection
            _break_off(payload, aiohttp.ClientOSError(*exc.args))
        super().connection_lost(exc)
        _break_off(payload, aiohttp.ClientPayloadError("the body is not HTTP"))  # aiohttp would let a reader wait

    def close(self) -> None:
        closed = aiohttp.ClientConnectionError("the connection was closed")
        _break_off(self._payload, closed)  # here too
        if self._body is not None:
            self._body.end(closed)
        if self.transport is not None and self.transport.get_write_buffer_size():
            self.transport.abort()  # aiohttp would go on sending what was cancelled
        super().close()


def _break_off(payload: aiohttp.StreamReader | None, error: aiohttp.ClientError) -> None:
    """End a body with an error, unless it has ended already."""
    if payload is not None and not payload.is_eof() and payload.exception() is None:
        payload.set_exception(error)


class _Body:
    """Of a plain answer, in the words of aiohttp's `StreamReader`."""

    __slots__ = ("_decoder", "_error", "_over", "_paused", "_pieces", "_protocol", "_size", "_waiter")

    def __init__(self, protocol: _Protocol, decoder: plain.Sized | plain.Chunked) -> None:
        self._protocol = protocol
        self._decoder = decoder
        self._pieces: list[bytes] = []
        """Those that were not read yet."""
        self._size = 0
        self._paused = False
        self._over = False
        self._error: aiohttp.ClientError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def feed(self, data: bytes) -> bytes | None:
        """Returns what comes after its end. Raises as `plain.Chunked.feed`."""
        try:
            return self._decoder.feed(data, self._pieces)
        finally:
            self._size += len(data)
            transport = self._protocol.transport
            if self._size > 2 * _READ_AHEAD and not self._paused and transport is not None:
                self._paused = True
                transport.pause_reading()
            if self._pieces:
                self._wake()

    def end(self, error: aiohttp.ClientError | None = None) -> None:
        if not self._over:
            self._over = True
            self._error = error
            self._resume()
            self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def readany(self) -> bytes:
        if not self._pieces and not self._over:
            self._waiter = self._protocol._loop.create_future()
            await self._waiter
        if self._error is not None:
            raise self._error
        return self._read_nowait(-1)

    def _read_nowait(self, _: int) -> bytes:
        pieces = self._pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._size = 0
        self._resume()
        return data

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            transport = self._protocol.transport
            if transport is not None and not transport.is_closing():
                transport.resume_reading()


class Reply(httpx.AsyncByteStream):
    """An answer whose head has arrived, and its body in the pieces in which it arrives.

    After an error aiohttp's reader keeps to itself what it has buffered. Left so, an upstream that dies in mid-stream
    would look as if it had died before its first byte, and the request would be retried and paid twice.
    """

    __slots__ = ("_close", "_content", "headers", "reason", "status")

    def __init__(
        self,
        status: int,
        reason: str | None,
        headers: tuple[tuple[bytes, bytes], ...],
        content: aiohttp.StreamReader | _Body,
        close: Callable[[], None],
    ) -> None:
        self.status = status
        self.reason = reason
        self.headers = headers
        self._content = content
        self._close = close

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        data = await self.read()
        if not data:
            raise StopAsyncIteration
        return data

    async def read(self) -> bytes:
        """The next piece; empty at the end. Raises httpx.TransportError where it broke off."""
        content = self._content
        try:
            data = await content.readany()
        except (aiohttp.ClientError, OSError) as error:
            data = content._read_nowait(-1)  # the error stays in `content` and comes next time
            if not data:
                self._close()
                raise _meaning(error) from error
        except BaseException:
            self._close()
            raise
        return data

    async def aclose(self) -> None:
        """Close the connection, unless all of the answer is here: then the pool has it already."""
        self._close()


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
        self._places: dict[str, _Place | None] = {}
        self._session = self.client = aiohttp.ClientSession(
            connector=self._pool,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            auto_decompress=False,
            trust_env=False,
            read_bufsize=_READ_AHEAD,
            max_field_size=_MOST_FIELD,
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
        if isinstance(body, bytes) and len(body) <= _ONE_WRITE and method in _PLAIN and timeout.sock_read is None:
            written, place = _written(headers), self._place(url)
            if written is not None and place is not None:
                return await self._send(method, place, written, body, timeout, told)
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
        return Reply(response.status, response.reason, response.raw_headers, response.content, response.close)

    def _place(self, url: str) -> _Place | None:
        """Where a plain request goes to; None: to wherever the session finds."""
        if url in self._places:
            return self._places[url]
        where = URL(url, encoded=True)
        try:
            simple = self._proxy is None and where.scheme in ("http", "https") and where.host and where.user is None
        except ValueError:
            simple = False
        place = _Place(where, self._session) if simple else None
        if len(url) <= _LONGEST_PLACE:
            if len(self._places) >= _MOST_PLACES:
                self._places.clear()
            self._places[url] = place
        return place

    async def _send(
        self,
        method: str,
        place: _Place,
        headers: bytes,
        body: bytes,
        timeout: aiohttp.ClientTimeout,
        told: Callable[[], None] | None,
    ) -> Reply:
        """What the session does with a plain request."""
        try:
            connection = await self._pool.take(place.request, [], timeout)
        except TimeoutError as error:
            raise httpx.ConnectTimeout("no connection in time") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _meaning(error, connected=False) from error
        if told is not None:
            told()
        protocol: Any = connection.protocol
        try:
            if protocol.transport is None or protocol.transport.is_closing():
                raise aiohttp.ServerDisconnectedError
            length = b"Content-Length: %d\r\n" % len(body) if body or method != "GET" else b""
            asked = protocol.ask(connection)
            protocol.transport.write(
                b"%b %b HTTP/1.1\r\nHost: %b\r\n%b%b\r\n%b"
                % (method.encode(), place.target, place.host, headers, length, body)
            )
            reply: Reply | None = await asked
            if reply is not None:
                return reply
            while True:
                message, content = await protocol.read()
                if message.code >= 200 or message.code == 101:
                    break
        except (aiohttp.ClientError, OSError, HttpProcessingError) as error:
            connection.close()
            raise _meaning(error) from error
        except BaseException:
            connection.close()
            raise
        content.on_eof(functools.partial(_give_back, connection))
        return Reply(message.code, message.reason, message.raw_headers, content, connection.close)


class _Place:
    """Where requests go to, in the words of aiohttp and of HTTP."""

    __slots__ = ("host", "request", "target")

    def __init__(self, where: URL, session: aiohttp.ClientSession) -> None:
        self.request = aiohttp.ClientRequest("GET", where, loop=asyncio.get_running_loop(), session=session)
        """What the pool knows connections by. It is not sent."""
        self.host = (where.host_port_subcomponent or "").encode()
        self.target = where.raw_path_qs.encode()


def _give_back(connection: aiohttp.connector.Connection) -> None:
    """All of the answer is here."""
    if connection.protocol is not None and not connection.protocol.upgraded:
        connection.release()


def _written(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """As they are sent; None: that is the session's."""
    lines = []
    for name, value in headers:
        if name.lower() in _OF_THE_CONNECTION:
            return None
        lines.append(b"%b: %b\r\n" % (name, value))
    written = b"".join(lines)
    return written if _HEADERS.fullmatch(written) and written.count(b"\n") == len(lines) else None


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
