"""The yardstick: the least that an ASGI pass-through does on llmgate's server and llmgate's transport.

`python -m bench.bare BASE_URL ENGINE` serves on a free port of the loopback until its stdin closes. No key, no model,
no hold, no usage: it reads the body, asks `BASE_URL/v1/chat/completions`, and passes on what comes. What llmgate costs
beyond this is what llmgate does. The server's settings and the event loop are llmgate's own, so that they stay the
same.
"""

from __future__ import annotations

import sys
from typing import Any

import httpx
from hypercorn.asyncio import serve

from llmgate import engines, listening
from llmgate.config import Server
from llmgate.gateway.http import Receive, Scope, Send
from llmgate.gateway.transport import Transport

from .processes import announce, run, until_abandoned

HEADERS = [(b"content-type", b"application/json"), (b"accept-encoding", b"identity")]
PASSED = (b"content-type", b"content-length")


class Bare:
    """Made inside the running loop."""

    def __init__(self, base_url: str) -> None:
        self._transport = Transport()
        self._url = httpx.URL(f"{base_url}/v1/chat/completions")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            while (message := await receive())["type"] != "lifespan.shutdown":
                await send({"type": f"{message['type']}.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        answer = await self._transport.handle_async_request(
            httpx.Request("POST", self._url, headers=HEADERS, content=await _body(receive))
        )
        headers = [(lowered, value) for name, value in answer.headers.raw if (lowered := name.lower()) in PASSED]
        start = {"type": "http.response.start", "status": answer.status_code, "headers": headers}
        assert isinstance(answer.stream, httpx.AsyncByteStream)
        if "content-length" in answer.headers:
            whole = b"".join([piece async for piece in answer.stream])
            await send(start)
            await send({"type": "http.response.body", "body": whole})
        else:
            await send(start)
            async for piece in answer.stream:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        await answer.aclose()

    async def aclose(self) -> None:
        await self._transport.aclose()


async def _body(receive: Receive) -> bytes:
    pieces = []
    while True:
        message = await receive()
        pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(pieces)


async def main(base_url: str, engine: str) -> None:
    listener = listening.listen("127.0.0.1:0")
    app = Bare(base_url)

    async def until_stopped() -> None:
        announce(listener)
        await until_abandoned()

    if engine == "hypercorn":  # as it is, without what llmgate mends in it
        settings = engines.hypercorn_config(Server(), listener)
        served: Any = app  # hypercorn's types know its own messages only
        await serve(served, settings, shutdown_trigger=until_stopped, mode="asgi")
    else:
        await engines.ENGINES[engine](app, Server(), listener, until_stopped)
    await app.aclose()


if __name__ == "__main__":
    run(main(*sys.argv[1:]))
