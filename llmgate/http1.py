"""HTTP/1.1 under hypercorn at a third of its cost: plain requests are read and answered here.

A connection is ours for as long as each request on it is plain: its head comes whole, in one piece, and is of the
grammar below; its body, if any, has a length. That is what programs send. At the first that isn't plain (chunked, an
upgrade, HTTP/1.0 or cleartext HTTP/2, a head in pieces, anything odd or malformed) the connection is handed to
hypercorn as if nobody had read from it, and stays there: h11 alone judges what is doubtful, and no request is ever read
by two. What is taken here, h11 would read in the same way (`tests/test_http1.py` compares them).

TLS is hypercorn's; so is HTTP/2, from its first byte. `TCPServer` is not public: 0.17 and 0.18 have it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import MutableMapping
from typing import Any, NamedTuple
from urllib.parse import unquote

from hypercorn.asyncio import run
from hypercorn.asyncio.tcp_server import MAX_RECV, TCPServer
from hypercorn.utils import parse_socket_addr, suppress_body

from . import idle
from .gateway.http import LEFT_ALONE
from .gateway.plain import FIELDS, LENGTH
from .idle import Idle

Headers = list[tuple[bytes, bytes]]

_HEAD = re.compile(rb"([A-Z]+) (/[!-~]*) HTTP/1\.1\r\n(" + FIELDS + rb")\r\n")
_WRITTEN = re.compile(FIELDS)

_NOT_PLAIN = frozenset({b"transfer-encoding", b"expect", b"upgrade", b"http2-settings"})

MOST_UNREAD = 2**16
"""Bytes of a body that wait for the application; then the client has to."""


STALLED_S = 75.0
"""A client that takes not a byte of what waits for it in this time is gone. Of a stream the walk notices before."""


class Head(NamedTuple):
    method: bytes
    target: bytes
    headers: Headers
    """Names in lower case."""
    length: int
    """Of the body, in bytes."""
    close: bool
    """The client wants the connection closed after the answer."""


def parse(head: bytes) -> Head | None:
    """A request's head, with the empty line at its end. None: it isn't plain."""
    found = _HEAD.fullmatch(head)
    if found is None:
        return None
    headers: Headers = []
    hosts, length, close = 0, None, False
    for line in found[3].split(b"\r\n")[:-1]:
        name, _, value = line.partition(b":")
        name, value = name.lower(), value.strip(b" \t")
        if name == b"host":
            hosts += 1
        elif name == b"content-length":
            if length is not None or not LENGTH.fullmatch(value):
                return None
            length = int(value)
        elif name == b"connection":
            said = value.lower()
            if said not in (b"keep-alive", b"close"):
                return None
            close = close or said == b"close"
        elif name in _NOT_PLAIN:
            return None
        headers.append((name, value))
    return Head(found[1], found[2], headers, length or 0, close) if hosts == 1 else None


class Connection(TCPServer):
    """Ours first; hypercorn's when it is handed over."""

    idle_task: Idle  # type: ignore[assignment]  # what hypercorn makes, once it is mended
    _plain: Plain | None = None

    async def run(self) -> None:
        transport: Any = self.writer.transport
        tls = transport.get_extra_info("ssl_object")
        if tls is None or tls.selected_alpn_protocol() != "h2":
            theirs = transport.get_protocol()
            try:
                plain = self._plain = Plain(self, transport, "http" if tls is None else "https")
                came = _at_hand(self.reader)
            except OSError:  # it was reset before anybody looked at it
                transport.abort()
                return
            try:
                transport.set_protocol(plain)
                plain.begin(came, ended=self.reader.at_eof())
                await plain.over
                if plain.task is not None:
                    await asyncio.wait({plain.task})  # it may go on without its client
            except asyncio.CancelledError:  # the server gives it up; as hypercorn, it ends without a word
                plain.abandon()
                return
            finally:
                await self.idle_task.stop()
            if plain.rest is None:
                return
            self._plain = None
            transport.set_protocol(theirs)
            plain.hand_over(theirs, self.reader)
        await super().run()

    async def _initiate_server_close(self) -> None:
        if self._plain is None:
            await super()._initiate_server_close()
        else:
            self._plain.close()


def _at_hand(reader: asyncio.StreamReader) -> bytes:
    """What has come already."""
    got = b""
    while True:
        reading = reader.read(MAX_RECV)
        try:
            reading.send(None)
        except StopIteration as read:
            if not read.value:
                return got
            got += read.value
        else:
            reading.close()
            return got


class Plain(asyncio.Protocol):
    """A connection with plain requests, one after the other."""

    def __init__(self, connection: Connection, transport: Any, scheme: str) -> None:
        self._connection = connection
        self._idle = connection.idle_task
        self.transport = transport
        self.loop = connection.loop
        self.over: asyncio.Future[None] = self.loop.create_future()
        """Done when the connection is closed, or to be handed over."""
        self.rest: bytes | None = None
        """What hypercorn is to read; None: nothing."""
        self._next = b""
        """What came after the request that is being answered."""
        self._request: Request | None = None
        self.task: asyncio.Task[None] | None = None
        """Kept here, because asyncio itself doesn't keep a task alive."""
        self._writable: asyncio.Future[None] | None = None
        """None: it may be written."""
        self._stalled: asyncio.TimerHandle | None = None
        """While it may not."""
        self._reading = True
        self.gone = False
        """The client has left, or at least says nothing more."""
        socket = transport.get_extra_info("socket")
        self._scope = {
            "type": "http",
            "http_version": "1.1",
            "asgi": {"spec_version": "2.1", "version": "3.0"},
            "scheme": scheme,
            "root_path": connection.config.root_path,
            "client": parse_socket_addr(socket.family, socket.getpeername()),
            "server": parse_socket_addr(socket.family, socket.getsockname()),
        }

    def begin(self, got: bytes, *, ended: bool) -> None:
        """`got` came before the connection was ours."""
        self._idle.begin(self._connection)
        if got:
            self.data_received(got)
        if ended and not self.eof_received():
            self.transport.close()
        if self.transport.is_closing():
            self.connection_lost(None)

    def hand_over(self, protocol: Any, reader: asyncio.StreamReader) -> None:
        """To hypercorn, which is told all that we know."""
        if self._writable is not None:
            protocol.pause_writing()
            self.resume_writing()  # from here on it is theirs to wait
        self.read_on()  # first: the reader stops it again where `rest` is all that it takes for now
        if self.rest:
            reader.feed_data(self.rest)
        if self.gone:
            reader.feed_eof()

    def close(self) -> None:
        """Once what was written is sent."""
        self.transport.close()

    def abandon(self) -> None:
        """At once. Whoever still works for it is told that the client has left."""
        self.transport.abort()

    # ── what comes ────────────────────────────────────────────────────────────────────────────────────────────────────

    def data_received(self, data: bytes) -> None:
        if self.rest is not None:
            self.rest += data
        elif self._request is None:
            self._ask(data)
        elif data := self._request.take(data):
            self._next += data
            self.wait()

    def _ask(self, data: bytes) -> None:
        """Between two requests something came."""
        end = data.find(b"\r\n\r\n") + 4
        head = parse(data[:end]) if 4 <= end <= self._connection.config.h11_max_incomplete_size else None
        if head is None:
            self.rest = data
            self.wait()
            self.over.set_result(None)
            return
        self._idle.pause()
        path, _, query = head.target.partition(b"?")
        text = path.decode("ascii")
        scope: dict[str, Any] = {
            **self._scope,
            "method": head.method.decode("ascii"),
            "path": unquote(text) if "%" in text else text,
            "raw_path": path,
            "query_string": query,
            "headers": head.headers,
            "state": self._connection.state.copy(),
            "extensions": {LEFT_ALONE: {}},
        }
        request = self._request = Request(self, head)
        if len(data) > end and (data := request.take(data[end:])):
            self._next = data
            self.wait()
        self.task = self.loop.create_task(self._serve(request, scope))

    async def _serve(self, request: Request, scope: Any) -> None:
        config: Any = self._connection.config
        try:
            await self._connection.app(scope, request.receive, request.send, None, None)  # type: ignore[arg-type]
        except Exception:
            await config.log.exception("Error in ASGI Framework")
        finally:
            self._request = self.task = None
            self._answered(whole=request.end(self.gone))

    def _answered(self, *, whole: bool) -> None:
        """To the next request, if there may be one."""
        if self.over.done():
            return
        if not whole or self.gone or self._connection.context.terminated.is_set():
            if self.transport.can_write_eof() and not self.transport.is_closing():
                self.transport.write_eof()
            self.transport.close()
            return
        self._idle.begin(self._connection)
        data, self._next = self._next, b""
        self.read_on()
        if data:
            self.data_received(data)

    def eof_received(self) -> bool:
        """The client says nothing more, which is how most of them leave. It may still read."""
        self.gone = True
        if self._request is not None:
            self._request.wake()
        in_use = self._request is not None or self.rest is not None
        return in_use and self._scope["scheme"] == "http"

    def connection_lost(self, _: Exception | None) -> None:
        self.gone = True
        if self._request is not None:
            self._request.wake()
        self.resume_writing()
        self.rest = None
        if not self.over.done():
            self.over.set_result(None)

    def wait(self) -> None:
        """Take nothing more for now."""
        if self._reading and not self.transport.is_closing():
            self._reading = False
            self.transport.pause_reading()

    def read_on(self) -> None:
        if not self._reading and not self.transport.is_closing():
            self._reading = True
            self.transport.resume_reading()

    # ── what goes ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def write(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)
            if self._writable is not None:
                await asyncio.shield(self._writable)

    def pause_writing(self) -> None:
        self._writable = self.loop.create_future()
        self._look_again()

    def _look_again(self) -> None:
        self._stalled = self.loop.call_later(STALLED_S, self._look, self.transport.get_write_buffer_size())

    def _look(self, waiting: int) -> None:
        """Whether the client has taken any of the bytes that were waiting for it."""
        if self.transport.get_write_buffer_size() < waiting:
            self._look_again()
        else:
            self.abandon()

    def resume_writing(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
        writable, self._writable = self._writable, None
        if writable is not None:
            writable.set_result(None)


class Request:
    """One request and its answer, as ASGI has them."""

    __slots__ = (
        "_body",
        "_bodyless",
        "_chunked",
        "_close",
        "_due",
        "_ended",
        "_left",
        "_method",
        "_plain",
        "_something",
        "_start",
        "_told",
    )

    def __init__(self, plain: Plain, head: Head) -> None:
        self._plain = plain
        self._method = head.method
        self._left = head.length
        """Bytes of the body that are still to come."""
        self._body: list[bytes] = []
        """Those that have come and were not received yet."""
        self._told = False
        """The end of the body was received."""
        self._something: asyncio.Event | None = None
        """Set when there is something to receive; None: nobody has waited yet."""
        self._close = head.close
        self._start: bytes | None = None
        """The head of the answer, which is sent with the first of its body."""
        self._chunked = self._bodyless = self._ended = False
        self._due: int | None = None
        """Bytes that the answer has promised and not sent; None: it hasn't begun."""

    def take(self, data: bytes) -> bytes:
        """Some of the body. Returns what is none of it any more."""
        left = self._left
        if not left:
            return data
        self._left = max(left - len(data), 0)
        self._body.append(data if len(data) <= left else data[:left])
        if self._left and sum(map(len, self._body)) > MOST_UNREAD:
            self._plain.wait()
        self.wake()
        return data[left:]

    def wake(self) -> None:
        if self._something is not None:
            self._something.set()

    async def receive(self) -> MutableMapping[str, Any]:
        while True:
            if self._body or not (self._left or self._told):
                body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
                self._body.clear()
                self._told = not self._left
                if not self._told:
                    self._plain.read_on()
                return {"type": "http.request", "body": body, "more_body": not self._told}
            if self._plain.gone or self._ended:
                return {"type": "http.disconnect"}
            if self._something is None:
                self._something = asyncio.Event()
            self._something.clear()
            await self._something.wait()

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.body":
            await self._send_body(message.get("body", b""), more=message.get("more_body", False))
        elif message["type"] == "http.response.start" and self._due is None:
            self._begin(message["status"], message.get("headers", ()))
        else:
            raise RuntimeError(f"{message['type']} is not expected here")

    def _begin(self, status: int, headers: Headers) -> None:
        lines, due = [], None
        for name, value in headers:
            if name == b"content-length":
                due = int(value)
            elif name == b"connection":
                self._close = self._close or value.lower() == b"close"
                continue
            elif name == b"transfer-encoding":
                continue  # as the connection, it is between the client and us
            lines.append(b"%b: %b\r\n" % (name, value))
        self._bodyless = suppress_body(self._method.decode(), status)
        if due is None and status not in (204, 304):
            self._chunked = True
            lines.append(b"transfer-encoding: chunked\r\n")
        if self._close or self._left:
            self._close = True
            lines.append(b"connection: close\r\n")
        fields = b"".join(lines)
        if not _WRITTEN.fullmatch(fields) or fields.count(b"\n") > len(lines):
            raise ValueError("a header can't be written")
        self._start = b"HTTP/1.1 %d \r\n%b\r\n" % (status, fields)
        self._due = due or 0

    async def _send_body(self, data: bytes, *, more: bool) -> None:
        if self._due is None or self._ended:
            raise RuntimeError("a body is not expected here")
        if self._bodyless:
            data = b""
        elif self._chunked:
            if data:
                data = b"%x\r\n%b\r\n" % (len(data), data)
            if not more:
                data += b"0\r\n\r\n"
        else:
            self._due -= len(data)
            if self._due < 0 or (self._due and not more):
                raise RuntimeError("the body is not as long as its head says")
        if self._start is not None:
            data, self._start = self._start + data, None
        self._ended = not more
        if data:
            await self._plain.write(data)

    def end(self, gone: bool) -> bool:
        """The application is through with it. Returns whether all is read and written, and another may follow."""
        if not gone and (self._due is None or self._start is not None) and not self._plain.transport.is_closing():
            self._plain.transport.write(b"HTTP/1.1 500 \r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        whole = self._ended and not (self._left or self._close)
        self._ended = True
        self.wake()
        return whole


def mend() -> None:
    """Have hypercorn use ours."""
    idle.mend()
    run.TCPServer = Connection  # type: ignore[attr-defined]
