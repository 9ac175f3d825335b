"""Connections over which nothing is asked: ended after their time, with the server, and gone with their client."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypercorn.asyncio import run, serve, tcp_server
from hypercorn.config import Config

from llmgate.http1 import Connection
from llmgate.idle import Idle
from tests.replay import until

Address = tuple[str, int]


@pytest.fixture(autouse=True, params=["ours", "hypercorn's"])
def mended(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp_server, "AsyncioSingleTask", Idle)
    if request.param == "ours":
        monkeypatch.setattr(run, "TCPServer", Connection)


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({"type": f"{message['type']}.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@asynccontextmanager
async def served(keep_alive_s: float) -> AsyncIterator[tuple[Address, asyncio.Event]]:
    stop = asyncio.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = Config()
        config.bind = [f"fd://{listener.detach()}"]
        config.keep_alive_timeout = keep_alive_s
        config.errorlog = None
        address: list[Address] = []
        ready = asyncio.Event()

        async def until_stopped() -> None:
            ready.set()
            await stop.wait()

        copy = socket.socket(fileno=int(config.bind[0][5:]))
        address.append(copy.getsockname())
        copy.detach()
        serving = asyncio.create_task(serve(app, config, shutdown_trigger=until_stopped, mode="asgi"))
        await ready.wait()
        try:
            yield address[0], stop
        finally:
            stop.set()
            await asyncio.wait_for(serving, 10)


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    assert (await reader.readuntil(b"\r\n\r\nok")).startswith(b"HTTP/1.1 200")


async def test_nothing_is_left_of_a_connection_that_its_client_closed() -> None:
    async with served(3600) as (address, _):
        before = len(asyncio.all_tasks())
        for _ in range(20):
            reader, writer = await asyncio.open_connection(*address)
            await ask(reader, writer)
            writer.close()
            await writer.wait_closed()
        await until(lambda: len(asyncio.all_tasks()) <= before + 1)  # one waits for the server to end


async def test_an_idle_connection_is_closed_after_its_time() -> None:
    async with served(0.3) as (address, _):
        for asked in (0, 3):
            reader, writer = await asyncio.open_connection(*address)
            for _ in range(asked):
                await ask(reader, writer)
            assert await asyncio.wait_for(reader.read(), 10) == b""
            writer.close()
            await writer.wait_closed()


async def test_idle_connections_end_with_the_server() -> None:
    async with served(3600) as (address, stop):
        pairs = [await asyncio.open_connection(*address) for _ in range(3)]
        for reader, writer in pairs[:2]:
            await ask(reader, writer)
        stop.set()
        for reader, writer in pairs:
            assert await asyncio.wait_for(reader.read(), 10) == b""
            writer.close()
            await writer.wait_closed()
