"""HTTP/1.1 as it is served here: what is taken is read as h11 reads it, all else is handed to hypercorn."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import h11
import pytest
from hypercorn.asyncio import run, serve, tcp_server
from hypercorn.config import Config
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmgate import http1, idle
from llmgate.http1 import MOST_UNREAD, Connection, Plain, parse
from tests.replay import until

Message = MutableMapping[str, Any]
App = Callable[[Any, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]

ASK = b"POST /v1/x?a=b HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"

# ── what is read ──────────────────────────────────────────────────────────────────────────────────────────────────────

_PIECES = st.sampled_from(
    [
        *(
            b"GET ",
            b"POST ",
            b"get ",
            b"/",
            b"/a?b=%20",
            b"*",
            b"http://x/",
            b" HTTP/1.1",
            b" HTTP/1.0",
            b"\r\n",
            b"\n",
        ),
        *(
            b"\r",
            b"Host: x",
            b"host:y",
            b"Host : x",
            b"Content-Length: 5",
            b"content-length:05",
            b"content-length: 5, 5",
        ),
        *(b"content-length: +5", b"content-length: 5_0", b"Transfer-Encoding: chunked", b"transfer-encoding: identity"),
        *(b"Connection: close", b"connection: keep-alive", b"connection: upgrade", b"connection: close, te"),
        *(b"Upgrade: h2c", b"Expect: 100-continue", b" folded", b"\tfolded", b"x:", b"x: \t a b \t", b": x", b"x"),
        *(b"\0", b"\x0b", b"\x0c", b"\x01", b"\x85", b"\xa0", b"\xff", b" "),
    ]
)
_LINES = st.lists(st.lists(_PIECES, max_size=3).map(b"".join), max_size=6)
_LIKELY = st.lists(_PIECES | st.binary(max_size=4), max_size=5).map(b"".join)


@settings(max_examples=1500, deadline=None)
@given(
    head=st.one_of(
        _LINES.map(
            lambda lines: b"GET / HTTP/1.1\r\nhost: x\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"
        ),
        _LIKELY.map(lambda rest: b"POST /a HTTP/1.1\r\nhost: x\r\n" + rest + b"\r\n\r\n"),
        _LIKELY.map(lambda rest: rest + b"\r\nhost: x\r\n\r\n"),
    )
)
@example(head=b"GET / HTTP/1.1\r\nhost: x\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n")
@example(head=b"GET / HTTP/1.1\r\nhost: x\n\nGET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n")
@example(head=b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\n")
@example(head=b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n")
@example(head=b"POST / HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n")
def test_what_is_plain_is_read_as_h11_reads_it(head: bytes) -> None:
    """Whoever sits before us, and whatever came before: there is one way only to understand what is taken here."""
    ours = parse(head)
    if ours is None:
        return
    theirs = h11.Connection(h11.SERVER)
    theirs.receive_data(head)
    request = theirs.next_event()
    assert isinstance(request, h11.Request)
    assert (request.method, request.target, list(request.headers)) == (ours.method, ours.target, ours.headers)
    assert theirs.trailing_data[0] == b""
    assert (theirs.their_state is h11.MUST_CLOSE) is False
    assert not theirs.they_are_waiting_for_100_continue
    body = theirs.next_event()
    assert isinstance(body, h11.EndOfMessage) is (ours.length == 0)
    if ours.length:
        assert body is h11.NEED_DATA
        theirs.receive_data(b"x" * min(ours.length, 10_000))
        assert isinstance(theirs.next_event(), h11.Data)
        assert isinstance(theirs.next_event(), h11.EndOfMessage) is (ours.length <= 10_000)
    assert (theirs.their_state is h11.MUST_CLOSE) is (ours.close and ours.length <= 10_000)


@pytest.mark.parametrize(
    "line",
    [
        *(b"transfer-encoding: chunked", b"expect: 100-continue", b"upgrade: h2c", b"connection: upgrade", b"host: y"),
        *(b"content-length: 5, 5", b"content-length: -5", b"content-length: 9999999999999999999", b"a : b", b" fold"),
        *(b"no colon", b"a\0b: c"),
    ],
)
def test_what_is_not_plain(line: bytes) -> None:
    assert parse(b"GET / HTTP/1.1\r\nhost: x\r\n%b\r\n\r\n" % line) is None


# ── a connection ──────────────────────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def served(app: App, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[str, int]]:
    """hypercorn with our connections. No test leaves a task behind."""
    monkeypatch.setattr(run, "TCPServer", Connection)
    monkeypatch.setattr(tcp_server, "AsyncioSingleTask", idle.Idle)
    stop, ready = asyncio.Event(), asyncio.Event()

    async def whole(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await app(scope, receive, send)
            return
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({"type": f"{message['type']}.complete"})
        await send({"type": "lifespan.shutdown.complete"})

    async def until_stopped() -> None:
        ready.set()
        await stop.wait()

    listener = socket.create_server(("127.0.0.1", 0))
    address: tuple[str, int] = listener.getsockname()
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.include_server_header = config.include_date_header = False
    config.errorlog = None
    serving = asyncio.create_task(serve(whole, config, shutdown_trigger=until_stopped, mode="asgi"))
    await ready.wait()
    try:
        yield address
    finally:
        stop.set()
        await asyncio.wait_for(serving, 10)


@asynccontextmanager
async def connected(address: tuple[str, int]) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(*address)
    try:
        yield reader, writer
    finally:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def body_of(receive: Callable[[], Awaitable[Message]]) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        assert message["type"] == "http.request"
        body += message["body"]
        more = message["more_body"]
    return body


async def echo(scope: Any, receive: Any, send: Any) -> None:
    told = b"%b %b?%b %b" % (scope["method"].encode(), scope["raw_path"], scope["query_string"], await body_of(receive))
    headers = [(b"content-length", b"%d" % len(told))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": told})


async def answer(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """The head and the body of an answer with a length."""
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    length = re.search(rb"content-length: (\d+)", head)
    assert length is not None
    return head, await asyncio.wait_for(reader.readexactly(int(length[1])), 10)


async def test_several_over_one_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(echo, monkeypatch) as address, connected(address) as (reader, writer):
        for _ in range(3):
            writer.write(ASK)
            head, body = await answer(reader)
            assert (head, body) == (b"HTTP/1.1 200 \r\ncontent-length: 20\r\n\r\n", b"POST /v1/x?a=b hello")


async def test_several_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are answered in their order, those that aren't plain as well."""
    chunked = b"POST /c HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    async with served(echo, monkeypatch) as address, connected(address) as (reader, writer):
        writer.write(ASK + ASK + b"GET /g HTTP/1.1\r\nhost: x\r\n\r\n" + chunked + ASK)
        said = [(await answer(reader))[1] for _ in range(5)]
        assert said == [b"POST /v1/x?a=b hello"] * 2 + [b"GET /g? ", b"POST /c? abc", b"POST /v1/x?a=b hello"]


@pytest.mark.parametrize("cut", [1, 20, len(ASK) - 7, len(ASK) - 5, len(ASK) - 1])
async def test_a_request_in_two_pieces(monkeypatch: pytest.MonkeyPatch, cut: int) -> None:
    async with served(echo, monkeypatch) as address, connected(address) as (reader, writer):
        for ask in (ASK, ASK):
            writer.write(ask[:cut])
            for _ in range(3):  # so that the server has read it
                await asyncio.sleep(0)
            writer.write(ask[cut:])
            assert (await answer(reader))[1] == b"POST /v1/x?a=b hello"


async def test_a_large_body_waits_for_the_application(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 50 * MOST_UNREAD
    begun, go_on = asyncio.Event(), asyncio.Event()
    sizes: list[int] = []

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        begun.set()
        await go_on.wait()
        more = True
        while more:
            message = await receive()
            sizes.append(len(message["body"]))
            more = message["more_body"]
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async with served(slow, monkeypatch) as address, connected(address) as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % size + b"x" * size)
        await begun.wait()
        go_on.set()
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 204 \r\n\r\n"
        assert sum(sizes) == size
        assert max(sizes) < 10 * MOST_UNREAD


def reset(address: tuple[str, int], said: bytes) -> None:
    """A client that comes, and is gone before the server has looked."""
    with socket.create_connection(address) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.sendall(said)


@pytest.mark.parametrize("said", [b"", ASK, ASK[:20]])
async def test_a_connection_that_is_reset_at_once_is_not_worth_a_word(
    monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    """Whoever looks whether a port is open does so, many a load balancer each second."""
    wrong: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: wrong.append(context))
    async with served(echo, monkeypatch) as address:
        reset(address, said)
        async with connected(address) as (reader, writer):
            writer.write(ASK)
            assert (await answer(reader))[1] == b"POST /v1/x?a=b hello"
    assert wrong == []


async def test_what_is_handed_over_waits_for_the_application() -> None:
    """More than hypercorn's reader takes may have come at once: then nothing more is read until that is taken."""
    reading = True

    class Wire(asyncio.Transport):
        def get_extra_info(self, name: str, default: Any = None) -> Any:
            return here

        def is_closing(self) -> bool:
            return False

        def pause_reading(self) -> None:
            nonlocal reading
            reading = False

        def resume_reading(self) -> None:
            nonlocal reading
            reading = True

    here, there = socket.socketpair()
    with here, there:
        wire, reader = Wire(), asyncio.StreamReader(limit=10)
        reader.set_transport(wire)
        config = Config()
        connection: Any = SimpleNamespace(idle_task=idle.Idle(), loop=asyncio.get_running_loop(), config=config)
        for size, more in ((30, False), (10, True)):
            plain = Plain(connection, wire, "http")
            plain.data_received(b"x" * size)
            assert not reading
            plain.hand_over(None, reader)
            assert reading is more
            assert await reader.read(100) == b"x" * size
            assert reading


async def test_a_stream_is_sent_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = asyncio.Event()

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-a", b"b")]})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await go_on.wait()
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        await send({"type": "http.response.body", "body": b"seventeen letters", "more_body": False})

    async with served(stream, monkeypatch) as address, connected(address) as (reader, writer):
        for _ in range(2):
            writer.write(ASK)
            first = b"HTTP/1.1 200 \r\nx-a: b\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n"
            assert await reader.readexactly(len(first)) == first
            go_on.set()
            rest = b"11\r\nseventeen letters\r\n0\r\n\r\n"
            assert await reader.readexactly(len(rest)) == rest
            go_on.clear()


async def test_a_head_has_no_body(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(echo, monkeypatch) as address, connected(address) as (reader, writer):
        for _ in range(2):
            writer.write(b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\n")
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 200 \r\ncontent-length: 8\r\n\r\n"


async def test_a_client_that_wants_the_connection_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(echo, monkeypatch) as address, connected(address) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        head, _ = await answer(reader)
        assert b"\r\nconnection: close\r\n" in head
        assert await asyncio.wait_for(reader.read(), 10) == b""


async def test_an_answer_before_the_body_is_read_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    async def curt(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"no"})

    async with served(curt, monkeypatch) as address, connected(address) as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nhello")
        head, body = await answer(reader)
        assert (b"\r\nconnection: close\r\n" in head, body) == (True, b"no")
        assert await asyncio.wait_for(reader.read(), 10) == b""


@pytest.mark.parametrize("half", [True, False])
async def test_who_leaves_is_told_of(monkeypatch: pytest.MonkeyPatch, half: bool) -> None:
    """Also where the client only says that it says nothing more: it may still read then."""
    got: list[str] = []
    waiting = asyncio.Event()

    async def waits(scope: Any, receive: Any, send: Any) -> None:
        await body_of(receive)
        waiting.set()
        got.append((await receive())["type"])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async with served(waits, monkeypatch) as address, connected(address) as (reader, writer):
        writer.write(ASK)
        await waiting.wait()
        if half:
            writer.write_eof()
            assert (await answer(reader))[1] == b"ok"
            assert await asyncio.wait_for(reader.read(), 10) == b""
        else:
            writer.transport.abort()
        await until(lambda: got == ["http.disconnect"])


@pytest.mark.parametrize("after", ["nothing", "start", "some"])
async def test_an_application_that_fails(monkeypatch: pytest.MonkeyPatch, after: str) -> None:
    """What has not begun is a 500; what has begun has no end that could be taken for one."""

    async def fails(scope: Any, receive: Any, send: Any) -> None:
        if after != "nothing":
            await send({"type": "http.response.start", "status": 200, "headers": []})
        if after == "some":
            await send({"type": "http.response.body", "body": b"some", "more_body": True})
        raise ValueError

    async with served(fails, monkeypatch) as address, connected(address) as (reader, writer):
        writer.write(ASK)
        said = await asyncio.wait_for(reader.read(), 10)
    if after == "some":
        assert said.endswith(b"\r\n\r\n4\r\nsome\r\n")
    else:
        assert said.startswith(b"HTTP/1.1 500 \r\n")


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ([(b"x", b"a\r\nset-cookie: b")], b""),
        ([(b"x\r\ny", b"a")], b""),
        ([(b"x", b"a\nset-cookie: b")], b""),
        ([(b"x", b"a\0")], b""),
        ([(b"content-length", b"1")], b"two"),
        ([(b"content-length", b"5")], b"two"),
    ],
)
async def test_an_answer_that_is_none(
    monkeypatch: pytest.MonkeyPatch, headers: list[tuple[bytes, bytes]], body: bytes
) -> None:
    async def wrong(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async with served(wrong, monkeypatch) as address, connected(address) as (reader, writer):
        writer.write(ASK)
        said = await asyncio.wait_for(reader.read(), 10)
        assert said.startswith(b"HTTP/1.1 500 \r\n")
        assert b"set-cookie" not in said


async def test_a_client_that_does_not_read_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = 0

    async def floods(scope: Any, receive: Any, send: Any) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(200):
            await send({"type": "http.response.body", "body": b"x" * 2**17, "more_body": True})
            sent += 2**17
        await send({"type": "http.response.body"})

    async with served(floods, monkeypatch) as address, connected(address) as (reader, writer):
        writer.write(ASK)
        await reader.readuntil(b"\r\n\r\n")
        before = -1
        while sent != before:
            before = sent
            for _ in range(100):
                await asyncio.sleep(0)
        assert sent < 200 * 2**17
        for _ in range(200):
            assert await asyncio.wait_for(reader.readline(), 10) == b"20000\r\n"
            await asyncio.wait_for(reader.readexactly(2**17 + 2), 10)
        assert await asyncio.wait_for(reader.readexactly(5), 10) == b"0\r\n\r\n"


async def test_a_client_that_takes_nothing_for_long_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else bounds how long a plain answer may wait."""
    monkeypatch.setattr(http1, "STALLED_S", 0.1)
    size, ended = 2**24, asyncio.Event()

    async def plain(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]})
        await send({"type": "http.response.body", "body": b"x" * size})
        ended.set()

    async with served(plain, monkeypatch) as address, connected(address) as (reader, writer):
        writer.write(ASK)
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.wait_for(ended.wait(), 10)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(size), 10)


async def test_a_client_that_is_slow_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Mock(**{"get_write_buffer_size.return_value": 99})
    here, there = socket.socketpair()
    with here, there:
        wire.get_extra_info.return_value = here
        connection: Any = SimpleNamespace(idle_task=idle.Idle(), loop=asyncio.get_running_loop(), config=Config())
        plain = Plain(connection, wire, "http")
        plain.pause_writing()
        plain._look(100)
        assert not wire.abort.called
        plain._look(99)
        assert wire.abort.called
        plain.connection_lost(None)
        assert plain._stalled is None


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", b"200"),
        (b"GET / HTTP/1.0\r\n\r\n", b"200"),
        (b"GET / HTTP/1.1\nhost: x\n\n", b"200"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n", b"100"),
        (b"\x16\x03\x01\x02\0\x01\0", b"400"),
    ],
)
async def test_hypercorn_answers_what_is_not_plain(monkeypatch: pytest.MonkeyPatch, said: bytes, status: bytes) -> None:
    """Also after a request that was."""
    for before in (b"", ASK):
        async with served(echo, monkeypatch) as address, connected(address) as (reader, writer):
            if before:
                writer.write(before)
                await answer(reader)
            writer.write(said)
            line = await asyncio.wait_for(reader.readline(), 10)
            assert line.startswith(b"HTTP/1.1 " + status)
