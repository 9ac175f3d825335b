"""The built-in upstream: answers deterministically, with usage, without a network.

It is a transport like any other, so that a request to the sandbox walks the same way as one to a vendor. It echoes the
last message, obeys the output bound, and counts a token per four bytes of text. Its model `slow` takes its time
between the pieces of a stream; any other name answers at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, NamedTuple

import httpx
import msgspec

from . import chat, completions, embeddings, messages, responses
from .words import CREATED, Refused, Told

__all__ = ["CREATED", "Sandbox"]

SLOW_S = 0.1
"""Between two pieces of a stream of the model `slow`."""


class _Pieces(httpx.AsyncByteStream):
    """A stream that is written while it is read."""

    def __init__(self, pieces: Iterator[bytes], pause_s: float) -> None:
        self._pieces = pieces
        self._pause_s = pause_s

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for number, piece in enumerate(self._pieces):
            if number:
                await asyncio.sleep(self._pause_s)
            yield piece


class _Path(NamedTuple):
    """What is answered at a path: one object, or the pieces of a stream; and how it is refused there."""

    tell: Callable[[dict[str, Any]], Told]
    refuse: Callable[[str], dict[str, Any]]


_PATHS = {
    "chat/completions": _Path(chat.tell, chat.refuse),
    "completions": _Path(completions.tell, chat.refuse),
    "embeddings": _Path(embeddings.tell, chat.refuse),
    "responses": _Path(responses.tell, chat.refuse),
    "responses/input_tokens": _Path(responses.count, chat.refuse),
    "messages": _Path(messages.tell, messages.refuse),
    "messages/count_tokens": _Path(messages.count, messages.refuse),
}


class Sandbox(httpx.AsyncBaseTransport):
    """Answers the paths above."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        path = _PATHS.get(request.url.path.rpartition("/v1/")[2])
        if path is None:
            return _json(chat.refuse(f"the sandbox doesn't serve {request.url.path}"), 404)
        try:
            asked = msgspec.json.decode(await request.aread(), type=dict[str, Any])
            told = path.tell(asked)
        except msgspec.DecodeError:
            return _json(path.refuse("the body is not a JSON object"), 400)
        except Refused as refused:
            return _json(path.refuse(str(refused)), 400)
        if isinstance(told, dict):
            return _json(told)
        stream = _Pieces(told, SLOW_S if asked.get("model") == "slow" else 0)
        return httpx.Response(200, headers={"content-type": "text/event-stream; charset=utf-8"}, stream=stream)


def _json(answer: dict[str, Any], status: int = 200) -> httpx.Response:
    return httpx.Response(status, headers={"content-type": "application/json"}, content=msgspec.json.encode(answer))
