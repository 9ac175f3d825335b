"""Ways to an upstream: its own authorities, and proxies, on both event loops."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import uvloop

from llmgate.gateway.transport import UNSENT, StaleConnection, Transport
from tests import tls
from tests.replay import CLOSE, Replay, json_answer, sse, sse_answer
from tests.tunnel import Tunnel

LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [asyncio.new_event_loop, uvloop.new_event_loop]
ON_BOTH = pytest.mark.parametrize("loop", LOOPS, ids=["asyncio", "uvloop"])


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tls.Authority:
    return tls.authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def context(authority: tls.Authority) -> ssl.SSLContext:
    return tls.server(authority.key.parent, authority)


@pytest.fixture
def up(context: ssl.SSLContext) -> Iterator[Replay]:
    with Replay(context) as up:
        up.answer(*json_answer({"ok": True}))
        yield up


async def ask(transport: Transport, url: str, told: Callable[[], None] = lambda: None) -> httpx.Response:
    request = httpx.Request(
        "POST", url, content=b"{}", headers={"authorization": "Bearer up"}, extensions={"connected": told}
    )
    response = await transport.handle_async_request(request)
    await response.aread()
    await response.aclose()
    return response


async def asked(url: str, *, ca: str | None = None, proxy: str | None = None) -> httpx.Response:
    async with Transport(ca=ca, proxy=proxy) as transport:
        return await ask(transport, url)


@ON_BOTH
def test_an_authority_of_its_own(
    up: Replay, authority: tls.Authority, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def work() -> None:
        async with Transport(ca=authority.pem) as transport:
            assert (await ask(transport, up.url)).json() == {"ok": True}
            assert transport.certificate is not None
            assert transport.certificate["subjectAltName"] == (("DNS", "localhost"),)
            await ask(transport, up.url)
        assert up.connections == 1

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(work())


async def test_one_that_nobody_vouches_for(up: Replay, tmp_path: Path) -> None:
    for ca in (None, tls.authority(tmp_path, "other").pem):
        with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
            await asked(up.url, ca=ca)
    assert up.requests == []


def test_its_own_authorities_are_the_only_ones(authority: tls.Authority) -> None:
    async def work() -> int:
        async with Transport(ca=authority.pem) as transport:
            return len(transport.ssl_context.get_ca_certs())

    assert asyncio.run(work()) == 1


async def test_another_host(authority: tls.Authority, tmp_path: Path) -> None:
    context = tls.server(tmp_path, authority, host="elsewhere.example")
    with Replay(context) as up, pytest.raises(httpx.ConnectError, match="Hostname mismatch"):
        await asked(up.url, ca=authority.pem)


# -- proxies


@ON_BOTH
@pytest.mark.parametrize("login", [None, "gate:pa%40ss"], ids=["open", "login"])
def test_through_a_tunnel(
    up: Replay, authority: tls.Authority, loop: Callable[[], asyncio.AbstractEventLoop], login: str | None
) -> None:
    """The proxy sees no more than a name; connections through it are kept; streams come as they are."""
    up.answer(*json_answer({"ok": True}))
    up.answer(*sse_answer(sse({"n": 1}), sse({"n": 2})))

    async def work(proxy: str) -> None:
        async with Transport(ca=authority.pem, proxy=proxy) as transport:
            assert (await ask(transport, up.url)).status_code == 200
            assert (await ask(transport, up.url)).status_code == 200
            assert (await ask(transport, up.url)).content == sse({"n": 1}) + sse({"n": 2})
            assert transport.certificate is not None

    with Tunnel("gate:pa@ss" if login else None) as tunnel:
        proxy = f"http://{login + '@' if login else ''}127.0.0.1:{tunnel.port}"
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(work(proxy))
        assert tunnel.asked == [f"CONNECT {up.url.removeprefix('https://')} HTTP/1.1"]
    assert [request.header("authorization") for request in up.requests] == ["Bearer up"] * 3
    assert [request.header("proxy-authorization") for request in up.requests] == [None] * 3


@pytest.mark.parametrize("login", [None, "gate:pass"], ids=["open", "login"])
async def test_without_tls_it_is_asked_through_the_proxy(login: str | None) -> None:
    with Replay() as up, Tunnel(login) as tunnel:
        up.answer(*json_answer({}))
        assert (await asked(f"{up.url}/v1/models?a=1", proxy=tunnel.url)).status_code == 200
        assert tunnel.asked == [f"POST {up.url}/v1/models?a=1 HTTP/1.1"]
    assert up.requests[0].path == "/v1/models?a=1"


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n", "HTTP 407"),
        (b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n", "HTTP 502"),
        (b"SSH-2.0-OpenSSH\r\n", ""),
        (b"", ""),
    ],
    ids=["login", "unreachable", "no proxy", "hangs up"],
)
async def test_a_proxy_that_makes_no_tunnel_has_sent_nothing(up: Replay, refusal: bytes, said: str) -> None:
    told: list[None] = []
    with Tunnel(refusal=refusal) as tunnel:
        async with Transport(proxy=tunnel.url) as transport:
            with pytest.raises(UNSENT) as raised:
                await ask(transport, up.url, lambda: told.append(None))
    assert said in str(raised.value)
    assert told == []
    assert up.connections == 0


async def test_no_proxy_there(up: Replay) -> None:
    with Tunnel() as tunnel:
        gone = tunnel.url
    with pytest.raises(httpx.ProxyError, match="no connection to the proxy"):
        await asked(up.url, proxy=gone)


async def test_a_certificate_is_checked_through_a_tunnel(up: Replay) -> None:
    with Tunnel() as tunnel, pytest.raises(httpx.ConnectError, match="certificate verify failed"):
        await asked(up.url, proxy=tunnel.url)
    assert up.requests == []


async def test_what_dies_behind_a_tunnel_was_sent(up: Replay, authority: tls.Authority) -> None:
    up.answer(CLOSE)
    with Tunnel() as tunnel:
        async with Transport(ca=authority.pem, proxy=tunnel.url) as transport:
            await ask(transport, up.url)
            with pytest.raises(StaleConnection):
                await ask(transport, up.url)
            with pytest.raises(httpx.RemoteProtocolError):
                await ask(transport, up.url)
