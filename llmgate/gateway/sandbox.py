"""The built-in upstream: answers deterministically, with usage, without a network.

It is a transport like any other, so that a request to the sandbox walks the same way as one to a vendor. It echoes the
last message, obeys the output bound, and counts a token per four bytes of text. Its model `slow` takes its time
between the pieces of a stream; any other name answers at once.
"""

from __future__ import annotations

import array
import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import msgspec

CREATED = 1_767_225_600
"""2026-01-01: an answer is the same on every day."""

SLOW_S = 0.1
"""Between two pieces of a stream of the model `slow`."""

DIMENSIONS = 8

MOST_CHOICES, MOST_DIMENSIONS, MOST_INPUTS = 128, 4096, 2048
"""It works inside the gateway: what it is asked for must not keep the others waiting."""


def tokens(text: str) -> int:
    return -(-len(text.encode()) // 4)


class _Pieces(httpx.AsyncByteStream):
    """A stream that is written while it is read."""

    def __init__(self, pieces: list[bytes], pause_s: float) -> None:
        self._pieces = pieces
        self._pause_s = pause_s

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for number, piece in enumerate(self._pieces):
            if number:
                await asyncio.sleep(self._pause_s)
            yield piece


class Sandbox(httpx.AsyncBaseTransport):
    """Answers `…/chat/completions` and `…/embeddings`."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        answer = _ANSWERS.get(request.url.path.rpartition("/v1/")[2])
        if answer is None:
            return _refuse(404, f"the sandbox doesn't serve {request.url.path}")
        try:
            asked = msgspec.json.decode(await request.aread())
        except msgspec.DecodeError:
            return _refuse(400, "the body is not JSON")
        return await answer(asked)


def _refuse(status: int, message: str) -> httpx.Response:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    return _json({"error": error}, status)


def _json(answer: Any, status: int = 200) -> httpx.Response:
    return httpx.Response(status, headers={"content-type": "application/json"}, content=msgspec.json.encode(answer))


async def _chat(asked: dict[str, Any]) -> httpx.Response:
    messages = asked.get("messages")
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        return _refuse(400, "messages must be a list of objects")
    said = [_text(message.get("content")) for message in messages]
    words, cut = _bounded(said[-1] if said and said[-1] else "Hello from the sandbox.", _bound(asked))
    text, finish = "".join(words), "length" if cut else "stop"
    count = asked.get("n") or 1
    if not isinstance(count, int) or not 1 <= count <= MOST_CHOICES:
        return _refuse(400, f"n must be a number from 1 to {MOST_CHOICES}")
    prompt = sum(tokens(part) + 4 for part in said)
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": count * tokens(text),
        "total_tokens": prompt + count * tokens(text),
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
    digest = hashlib.sha256(msgspec.json.encode([asked.get("model"), said])).hexdigest()[:24]
    head = {"id": f"chatcmpl-{digest}", "created": CREATED, "model": asked.get("model")}
    if asked.get("stream"):
        wanted = bool((asked.get("stream_options") or {}).get("include_usage"))
        pause = SLOW_S if asked.get("model") == "slow" else 0
        pieces = _chunks(head, words, finish, count, usage if wanted else None)
        return httpx.Response(
            200, headers={"content-type": "text/event-stream; charset=utf-8"}, stream=_Pieces(pieces, pause)
        )
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": None,
            "finish_reason": finish,
        }
        for index in range(count)
    ]
    return _json({**head, "object": "chat.completion", "choices": choices, "usage": usage})


def _chunks(
    head: dict[str, Any], words: list[str], finish: str, count: int, usage: dict[str, Any] | None
) -> list[bytes]:
    """The events of a streamed answer, with the usage event only where it was asked for."""

    def event(choices: list[dict[str, Any]], **more: Any) -> bytes:
        silent = {"usage": None} if usage else {}
        chunk = {**head, "object": "chat.completion.chunk", "choices": choices, **silent, **more}
        return b"data: " + msgspec.json.encode(chunk) + b"\n\n"

    def choice(index: int, delta: dict[str, str], reason: str | None = None) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}

    deltas = [{"role": "assistant", "content": ""}, *({"content": word} for word in words)]
    pieces = [event([choice(index, delta)]) for delta in deltas for index in range(count)]
    pieces += [event([choice(index, {}, finish)]) for index in range(count)]
    if usage:
        pieces.append(event([], usage=usage))
    return [*pieces, b"data: [DONE]\n\n"]


def _text(content: Any) -> str:
    """What a message says: its text, or the text of its parts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return " ".join(part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str))


def _bound(asked: dict[str, Any]) -> int | None:
    bound = asked.get("max_completion_tokens") or asked.get("max_tokens")
    return bound if isinstance(bound, int) else None


def _bounded(text: str, bound: int | None) -> tuple[list[str], bool]:
    """The text in words, cut where it would exceed the bound; and whether it was cut."""
    whole = text.encode()
    cut = bound is not None and tokens(text) > bound
    if cut and bound is not None:
        text = whole[: bound * 4].decode("utf-8", "ignore")
    return [word for word in text.replace(" ", " \0").split("\0") if word], cut


async def _embeddings(asked: dict[str, Any]) -> httpx.Response:
    given = asked.get("input")
    inputs = given if isinstance(given, list) and given and not isinstance(given[0], int) else [given]
    size = asked.get("dimensions") or DIMENSIONS
    if not isinstance(size, int) or not 1 <= size <= MOST_DIMENSIONS or len(inputs) > MOST_INPUTS:
        return _refuse(400, f"at most {MOST_INPUTS} inputs and {MOST_DIMENSIONS} dimensions")
    vectors = [_vector(msgspec.json.encode(item), size) for item in inputs]
    packed = asked.get("encoding_format") == "base64"
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": base64.b64encode(vector.tobytes()).decode() if packed else vector.tolist(),
        }
        for index, vector in enumerate(vectors)
    ]
    used = sum(tokens(item) if isinstance(item, str) else len(item or ()) for item in inputs)
    usage = {"prompt_tokens": used, "total_tokens": used}
    return _json({"object": "list", "data": data, "model": asked.get("model"), "usage": usage})


def _vector(seed: bytes, size: int) -> array.array[float]:
    """Numbers between -1 and 1 that depend on the seed alone."""
    stream = hashlib.shake_256(seed).digest(2 * size)
    return array.array("f", ((stream[2 * i] * 256 + stream[2 * i + 1]) / 32767.5 - 1 for i in range(size)))


_ANSWERS: dict[str, Callable[[dict[str, Any]], Awaitable[httpx.Response]]] = {
    "chat/completions": _chat,
    "embeddings": _embeddings,
}
