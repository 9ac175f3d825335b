"""The transport against a real server: what comes out, in which order, and what each way of failing is called."""

from __future__ import annotations

import asyncio
import gc
import gzip
import socket
import ssl
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest
import uvloop

from llmgate.gateway.transport import Reply, StaleConnection, Transport
from tests.replay import (
    CLOSE,
    HANG,
    RESET,
    Pause,
    Replay,
    Request,
    Step,
    body_answer,
    chunk,
    head,
    json_answer,
    sse,
    sse_answer,
    until,
)

EVENTS = [sse({"n": n}) for n in range(11)]


@pytest.fixture
def up() -> Iterator[Replay]:
    with Replay() as up:
        yield up


class Plain(Transport):
    """One whose requests are plain wherever they can be: those of httpx name their host and their length."""

    async def send(self, method: str, url: str, headers: Any, body: Any, *more: Any) -> Reply:
        if isinstance(body, bytes):
            headers = [(name, value) for name, value in headers if name.lower() not in (b"host", b"content-length")]
        return await super().send(method, url, headers, body, *more)


@pytest.fixture(params=[Plain, Transport])
def kind(request: pytest.FixtureRequest) -> type[Transport]:
    made: type[Transport] = request.param
    return made


@pytest.fixture
async def transport(kind: type[Transport]) -> AsyncIterator[Transport]:
    async with kind() as transport:
        yield transport


async def send(
    transport: Transport, url: str, *, method: str = "POST", content: bytes = b"{}", **timeout: float
) -> httpx.Response:
    request = httpx.Request(method, url, content=content, extensions={"timeout": timeout})
    return await transport.handle_async_request(request)


async def ask(transport: Transport, url: str, *, method: str = "POST", content: bytes = b"{}") -> httpx.Response:
    """Send, read to the end, close."""
    response = await send(transport, url, method=method, content=content)
    await response.aread()
    return response


async def read_on(response: httpx.Response) -> tuple[bytes, Exception | None]:
    """What comes out, and the error that comes after it."""
    got = b""
    try:
        async for data in response.aiter_raw():
            got += data
    except httpx.TransportError as error:
        return got, error
    return got, None


# -- what arrived before an error comes out before the error

CUTS: dict[str, tuple[tuple[Step, ...], bytes]] = {
    "reset in a chunked body": (sse_answer(*EVENTS, RESET, end=False), b"".join(EVENTS)),
    "chunked body without its end": (sse_answer(*EVENTS, CLOSE, end=False), b"".join(EVENTS)),
    "chunk cut in the middle": ((*sse_answer(*EVENTS, end=False), b"ff\r\nhalf", CLOSE), b"".join(EVENTS) + b"half"),
    "body shorter than its length": ((head(200, [("content-length", "9999")]), *EVENTS, CLOSE), b"".join(EVENTS)),
    "reset in a body with a length": ((head(200, [("content-length", "9999")]), *EVENTS, RESET), b"".join(EVENTS)),
    "reset in a body that ends with its connection": ((head(200), *EVENTS, RESET), b"".join(EVENTS)),
    "more than is buffered at once": (
        (head(200, [("content-length", "2000000")]), b"x" * 1_500_000, CLOSE),
        b"x" * 1_500_000,
    ),
}


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("cut", CUTS)
def test_order_before_an_error(
    up: Replay, cut: str, new_loop: Callable[[], asyncio.AbstractEventLoop], kind: type[Transport]
) -> None:
    steps, sent = CUTS[cut]
    up.answer(*steps)

    async def read_late() -> tuple[bytes, Exception | None]:
        async with kind() as transport:
            response = await send(transport, up.url)
            await asyncio.sleep(0.02)  # by now all of it has arrived, and the error too
            return await read_on(response)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        got, error = runner.run(read_late())
    assert got == sent
    assert isinstance(error, httpx.ReadError | httpx.RemoteProtocolError)


async def test_order_before_nonsense(up: Replay, transport: Transport) -> None:
    up.answer(*sse_answer(*EVENTS, Pause(0.1), end=False), b"nonsense\r\n", HANG)
    response = await send(transport, up.url)
    await until(lambda: up.disconnects == 1)  # the nonsense has arrived, and ended the connection
    got, error = await read_on(response)
    assert got == b"".join(EVENTS)
    assert isinstance(error, httpx.RemoteProtocolError)


async def test_the_error_stays(up: Replay, transport: Transport) -> None:
    up.answer(*sse_answer(*EVENTS, RESET, end=False))
    response = await send(transport, up.url)
    await read_on(response)
    assert isinstance(response.stream, httpx.AsyncByteStream)
    with pytest.raises(httpx.TransportError):
        await anext(aiter(response.stream))


async def test_a_body_that_ends_with_its_connection_is_whole(up: Replay, transport: Transport) -> None:
    up.answer(head(200), *EVENTS, CLOSE)
    assert await read_on(await send(transport, up.url)) == (b"".join(EVENTS), None)


# -- bytes go through as they are


async def test_pieces_come_out_as_they_arrive(up: Replay, transport: Transport) -> None:
    up.answer(*sse_answer(EVENTS[0], HANG))
    response = await send(transport, up.url)
    async with asyncio.timeout(10):
        assert await anext(response.aiter_raw()) == EVENTS[0]
    await response.aclose()


async def test_pauses_and_ends(up: Replay, transport: Transport) -> None:
    up.answer(*sse_answer(EVENTS[0], Pause(0.05), EVENTS[1], Pause(0.05), EVENTS[2]))
    pieces = [piece async for piece in (await send(transport, up.url)).aiter_raw()]
    assert pieces == EVENTS[:3]


async def test_no_header_is_invented(up: Replay, transport: Transport) -> None:
    up.answer(*json_answer({}))
    host = up.url.removeprefix("http://")
    await ask(transport, up.url, content=b"{}")
    await ask(transport, up.url, method="GET", content=b"")
    assert [request.headers for request in up.requests] == [[("host", host), ("content-length", "2")], [("host", host)]]


async def test_headers_and_target_are_sent_as_given(up: Replay, transport: Transport) -> None:
    up.answer(*json_answer({}))
    name = "Grüße".encode()
    headers = [(b"Accept-Encoding", b"identity"), (b"X-Twice", b"1"), (b"X-Twice", b"2"), (b"X-Name", name)]
    url = f"{up.url}/v1/a%2Fb%3Ac/d:e?q=a%20b&c=%7E"
    response = await transport.handle_async_request(httpx.Request("POST", url, headers=headers, content=b"{}"))
    await response.aread()
    assert up.requests[0].path == "/v1/a%2Fb%3Ac/d:e?q=a%20b&c=%7E"
    assert up.requests[0].headers[1:] == [
        ("accept-encoding", "identity"),
        ("x-twice", "1"),
        ("x-twice", "2"),
        ("x-name", name.decode("latin-1")),
        ("content-length", "2"),
    ]


async def test_answer_is_untouched(up: Replay, transport: Transport) -> None:
    packed = gzip.compress(b"hello")
    up.answer(
        *body_answer(packed, 302, [("Content-Encoding", "gzip"), ("Location", "/else"), ("X-A", "1"), ("X-A", "2")])
    )
    response = await send(transport, up.url)
    assert response.status_code == 302
    assert response.reason_phrase == "Found"
    assert response.headers.raw[:4] == [
        (b"Content-Encoding", b"gzip"),
        (b"Location", b"/else"),
        (b"X-A", b"1"),
        (b"X-A", b"2"),
    ]
    assert await read_on(response) == (packed, None)
    assert len(up.requests) == 1


async def test_long_headers_are_no_error(up: Replay, transport: Transport) -> None:
    up.answer(*json_answer({}, headers=[("x-long", "a" * 20_000)]))
    assert len((await ask(transport, up.url)).headers["x-long"]) == 20_000


@pytest.mark.parametrize("size", [0, 2**20 - 1, 3 * 2**20])
async def test_bodies_of_any_size_are_sent_whole(up: Replay, transport: Transport, size: int) -> None:
    up.answer(*json_answer({}))
    await ask(transport, up.url, content=b"x" * size)
    assert up.requests[0].body == b"x" * size
    assert up.requests[0].header("content-length") == str(size)
    assert up.requests[0].header("content-type") is None


@pytest.mark.parametrize("framing", [{}, {"content-length": "6"}])
async def test_a_body_may_be_a_stream(up: Replay, transport: Transport, framing: dict[str, str]) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"abc"
        yield b"def"

    up.answer(*json_answer({}))
    request = httpx.Request("POST", up.url, content=pieces(), headers=framing)
    await (await transport.handle_async_request(request)).aread()
    assert up.requests[0].body == b"abcdef"
    assert up.requests[0].header("transfer-encoding") == (None if framing else "chunked")


async def test_what_clients_write_into_a_query_is_not_kept(up: Replay, transport: Transport) -> None:
    """Somebody would fill the memory with it."""
    for number in range(3):
        up.answer(*body_answer(b"ok"))
        path = f"/v1/x?{number}{'y' * 2**12}"
        await ask(transport, f"{up.url}{path}")
        assert up.requests[-1].path == path
    assert len(transport._places) == 0


async def test_cookies_are_not_kept(up: Replay, transport: Transport) -> None:
    up.answer(*json_answer({}, headers=[("set-cookie", "session=alice; Path=/")]))
    url = up.url.replace("127.0.0.1", "localhost")  # cookie jars don't keep what an address has set
    await ask(transport, url)
    await ask(transport, url)
    assert up.requests[1].header("cookie") is None


async def test_proxies_of_the_environment_are_not_used(
    up: Replay, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    up.answer(*json_answer({}))
    assert (await ask(transport, up.url)).status_code == 200


# -- how failing is called


async def test_refused(transport: Transport) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(httpx.ConnectError):
        await send(transport, f"http://127.0.0.1:{port}")


async def test_no_such_host(transport: Transport) -> None:
    with pytest.raises(httpx.ConnectError):
        await send(transport, "http://nowhere.invalid")


async def test_no_tls_over_there(up: Replay, transport: Transport) -> None:
    up.handler = lambda _: ()
    with pytest.raises(httpx.ConnectError):
        await send(transport, up.url.replace("http:", "https:"))


async def test_connecting_takes_too_long(transport: Transport) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(httpx.ConnectTimeout):
        # connected by the kernel, and never a word of TLS
        await send(transport, f"https://127.0.0.1:{server.getsockname()[1]}", connect=0.05)


async def test_connect_timeout_ends_with_connecting(up: Replay, transport: Transport) -> None:
    up.answer(Pause(0.3), *json_answer({}))
    assert (await send(transport, up.url, connect=0.1)).status_code == 200


async def test_tls_is_verified_unless_told_otherwise() -> None:
    async with Transport() as strict, Transport(verify=False) as lax:
        assert strict.ssl_context.verify_mode is ssl.CERT_REQUIRED
        assert strict.ssl_context.check_hostname
        assert lax.ssl_context.verify_mode is ssl.CERT_NONE


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/x", "http://"])
async def test_urls_that_are_none(transport: Transport, url: str) -> None:
    with pytest.raises((httpx.UnsupportedProtocol, httpx.LocalProtocolError)):
        await send(transport, url)


async def test_a_header_that_would_be_two_is_not_sent(up: Replay, transport: Transport) -> None:
    request = httpx.Request("POST", up.url, headers={"x-a": "1\r\nx-b: 2"}, content=b"{}")
    with pytest.raises(httpx.LocalProtocolError):
        await transport.handle_async_request(request)
    assert up.requests == []


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ((CLOSE,), httpx.RemoteProtocolError),
        ((RESET,), httpx.ReadError),
        ((b"HTTP/1.1 200 OK\r\nconte", CLOSE), httpx.RemoteProtocolError),
        ((b"SSH-2.0-OpenSSH\r\n", HANG), httpx.RemoteProtocolError),
    ],
    ids=["close", "reset", "half a head", "no HTTP"],
)
async def test_sent_but_not_answered(
    up: Replay, transport: Transport, steps: tuple[Step, ...], expected: type[Exception]
) -> None:
    up.answer(*steps)
    with pytest.raises(expected) as raised:
        await send(transport, up.url)
    assert not isinstance(raised.value, StaleConnection)
    assert len(up.requests) == 1


async def test_read_timeout_if_one_is_asked_for(up: Replay, transport: Transport) -> None:
    up.answer(HANG)
    with pytest.raises(httpx.ReadTimeout):
        await send(transport, up.url, read=0.05)
    up.answer(*sse_answer(EVENTS[0], HANG))
    got, error = await read_on(await send(transport, up.url, read=0.2))
    assert got == EVENTS[0]
    assert isinstance(error, httpx.ReadTimeout)


# -- idle connections


async def test_a_finished_answer_gives_its_connection_back(up: Replay, transport: Transport) -> None:
    up.answer(*json_answer({}))
    up.answer(*sse_answer(*EVENTS))
    up.answer(*json_answer({}))
    for _ in range(3):
        await ask(transport, up.url)
    assert [request.connection for request in up.requests] == [1, 1, 1]


@pytest.mark.parametrize("size", [100_000, 140_000, 200_000, 3_000_000])
@pytest.mark.parametrize("chunked", [True, False])
async def test_a_large_answer_that_is_read_late_gives_it_back_too(
    up: Replay, transport: Transport, size: int, chunked: bool
) -> None:
    """However much of it was here before it was read."""
    whole = b"x" * size
    for _ in range(3):
        up.answer(*(sse_answer(whole) if chunked else body_answer(whole)))
        response = await send(transport, up.url)
        await asyncio.sleep(0.02)
        assert await response.aread() == whole
    assert up.disconnects == 0
    assert len({request.connection for request in up.requests}) == 1


async def test_an_unfinished_answer_does_not(up: Replay, transport: Transport) -> None:
    up.answer(*sse_answer(EVENTS[0], HANG))
    up.answer(*json_answer({}))
    response = await send(transport, up.url)
    await anext(response.aiter_raw())
    await response.aclose()
    await until(lambda: up.disconnects == 1)
    await ask(transport, up.url)
    assert [request.connection for request in up.requests] == [1, 2]


@pytest.mark.parametrize("end", [CLOSE, RESET], ids=["close", "reset"])
async def test_a_stale_connection_is_told_apart(up: Replay, transport: Transport, end: Step) -> None:
    up.answer(*json_answer({}))
    up.answer(end)
    up.answer(*json_answer({}))
    await ask(transport, up.url)
    with pytest.raises(StaleConnection):
        await send(transport, up.url)
    assert (await ask(transport, up.url)).status_code == 200
    assert [request.connection for request in up.requests] == [1, 1, 2]


@pytest.mark.parametrize("end", [CLOSE, RESET], ids=["close", "reset"])
async def test_a_connection_that_has_begun_to_answer_is_not_stale(up: Replay, transport: Transport, end: Step) -> None:
    up.answer(*json_answer({}))
    up.answer(b"HTTP/1.1 200 OK\r\nconte", Pause(0.05), end)
    await ask(transport, up.url)
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)) as raised:
        await send(transport, up.url)
    assert not isinstance(raised.value, StaleConnection)


async def test_one_stale_connection_discredits_the_idle_ones(up: Replay, transport: Transport) -> None:
    up.answer(*json_answer({}))
    responses = await asyncio.gather(*(send(transport, up.url) for _ in range(3)))
    for response in responses:
        await response.aread()
    assert up.connections == 3
    up.handler = lambda request: (RESET,) if request.connection <= 3 else json_answer({})
    with pytest.raises(StaleConnection):
        await send(transport, up.url)
    assert (await ask(transport, up.url)).status_code == 200
    assert (await ask(transport, up.url)).status_code == 200
    assert up.connections == 4


async def test_a_connection_closed_while_idle_is_not_used(up: Replay, transport: Transport) -> None:
    up.answer(*json_answer({}), CLOSE)
    await ask(transport, up.url)
    await until(lambda: up.open == 0)
    await asyncio.sleep(0.05)
    assert (await ask(transport, up.url)).status_code == 200
    assert up.connections == 2


async def test_an_answer_nobody_asked_for_goes_to_nobody(up: Replay, transport: Transport) -> None:
    up.answer(*json_answer("alice's"), Pause(0.02), *json_answer("nobody's"), HANG)
    up.answer(*json_answer("bob's"))
    assert (await ask(transport, up.url)).json() == "alice's"
    await asyncio.sleep(0.1)
    assert (await ask(transport, up.url)).json() == "bob's"


# -- many, and leaving


async def test_two_hundred_at_once(up: Replay, transport: Transport) -> None:
    def echo(request: Request) -> tuple[Step, ...]:
        return sse_answer(sse(request.json()), HANG)

    up.handler = echo

    async def first_event(n: int) -> tuple[httpx.Response, bytes]:
        response = await send(transport, up.url, content=b"%d" % n)
        return response, await anext(response.aiter_raw())

    async with asyncio.timeout(60):
        all_of_them = await asyncio.gather(*(first_event(n) for n in range(200)))
    assert [event for _, event in all_of_them] == [sse(n) for n in range(200)]
    assert up.open == 200
    for response, _ in all_of_them:
        await response.aclose()
    await until(lambda: up.open == 0)


@pytest.mark.parametrize("steps", [(HANG,), (head(200, [("content-length", "9")]), HANG)], ids=["head", "body"])
async def test_cancelling_closes_the_connection(up: Replay, transport: Transport, steps: tuple[Step, ...]) -> None:
    up.answer(*steps)
    task = asyncio.create_task(ask(transport, up.url))
    await until(lambda: len(up.requests) == 1)
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: up.disconnects == 1 and up.open == 0)


async def test_cancelling_only_the_read_closes_the_connection(up: Replay, transport: Transport) -> None:
    up.answer(*sse_answer(EVENTS[0], HANG))
    response = await send(transport, up.url)
    assert isinstance(response.stream, httpx.AsyncByteStream)
    body = aiter(response.stream)
    assert await anext(body) == EVENTS[0]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await anext(body)
    await until(lambda: up.open == 0)


@pytest.mark.parametrize("size", [1_000_000, 50_000_000])
def test_a_cancelled_upload_is_dropped(kind: type[Transport], size: int) -> None:
    """An upstream that reads nothing must not keep our connection open until it does."""

    async def upload(server: socket.socket) -> None:
        async with kind() as transport:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await send(transport, f"http://127.0.0.1:{server.getsockname()[1]}", content=b"x" * size)
            await asyncio.sleep(0.05)

    with warnings.catch_warnings(record=True) as leaks, socket.create_server(("127.0.0.1", 0)) as server:
        warnings.simplefilter("always")
        asyncio.run(upload(server))
        gc.collect()
    assert [str(leak.message) for leak in leaks] == []


async def test_closing_ends_what_is_being_read(up: Replay, kind: type[Transport]) -> None:
    up.answer(*sse_answer(EVENTS[0], HANG))
    async with kind() as transport:
        response = await send(transport, up.url)
        reading = asyncio.create_task(read_on(response))
        await asyncio.sleep(0.05)
    async with asyncio.timeout(10):
        got, error = await reading
    assert got == EVENTS[0]
    assert error is not None


async def test_unread_rest_of_a_whole_answer(up: Replay, transport: Transport) -> None:
    up.answer(*sse_answer(*EVENTS))
    response = await send(transport, up.url)
    await asyncio.sleep(0.05)
    await response.aclose()
    await ask(transport, up.url)
    assert up.disconnects == 0


def test_chunk_is_what_the_server_sends() -> None:
    assert chunk(b"hello, world") == b"c\r\nhello, world\r\n"
