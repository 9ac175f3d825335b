"""A mock upstream that costs next to nothing: the load's machine should be busy with load, and the gateway's with it.

`python -m bench.upstream` serves on a free port of the loopback until its stdin closes. Every answer is made before the
first request comes; which one is given depends on `"stream":true` in the body. Whom it answered is told by the first
segment of the path (`/llmgate/v1/chat/completions`), and how often by `GET /`.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from typing import Any, cast

from .processes import announce, run, until_abandoned

INPUT_TOKENS, OUTPUT_TOKENS = 12, 18
"""What every answer says it used."""

CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
STREAM = re.compile(rb'"stream": *true')

_USAGE = {
    "prompt_tokens": INPUT_TOKENS,
    "completion_tokens": OUTPUT_TOKENS,
    "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
}
_WORDS = [f"word{number} " for number in range(OUTPUT_TOKENS)]
TEXT = "".join(_WORDS)


def _plain() -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}
    return _json(_completion("chat.completion", [choice], _USAGE))


def _events() -> list[bytes]:
    """A stream as OpenAI writes it, with usage: 22 events."""
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}, *({"content": word} for word in _WORDS), {}]
    payloads = [
        _completion("chat.completion.chunk", [_choice(delta, None if delta else "stop")], None) for delta in deltas
    ]
    payloads.append(_completion("chat.completion.chunk", [], _USAGE))
    return [b"data: %s\n\n" % data for data in (*map(_json, payloads), b"[DONE]")]


def _choice(delta: dict[str, Any], finish: str | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": finish}


def _completion(kind: str, choices: list[dict[str, Any]], usage: dict[str, int] | None) -> dict[str, Any]:
    made = {"id": "chatcmpl-bench", "object": kind, "created": 1750000000, "model": "bench"}
    return {**made, "choices": choices, "usage": usage}


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _sized(status: bytes, body: bytes) -> bytes:
    head = b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % (status, len(body)) + body


def _chunked(pieces: list[bytes]) -> bytes:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (*pieces, b""))


PLAIN = _sized(b"200 OK", _plain())
STREAMED = _chunked(_events())
"""One HTTP chunk per event, all in one write."""

UNREADABLE = _sized(b"501 Not Implemented", b'{"error":{"message":"send a content length"}}')


class Mock(asyncio.Protocol):
    """One connection."""

    def __init__(self, answered: Counter[str]) -> None:
        self._answered = answered
        self._unread = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        data = self._unread + data
        while (end := data.find(b"\r\n\r\n") + 4) > 3:
            head = data[:end]
            if head.startswith(b"GET "):
                self._transport.write(_sized(b"200 OK", _json(self._answered)))
            else:
                length = CONTENT_LENGTH.search(head)
                if length is None:
                    self._transport.write(UNREADABLE)
                    self._transport.close()
                    return
                end += int(length[1])
                if len(data) < end:
                    break
                self._answered[head.split(b"/", 2)[1].decode()] += 1
                self._transport.write(STREAMED if STREAM.search(data, len(head), end) else PLAIN)
            data = data[end:]
        self._unread = data


async def main() -> None:
    answered: Counter[str] = Counter()
    server = await asyncio.get_running_loop().create_server(lambda: Mock(answered), "127.0.0.1", 0, backlog=2048)
    announce(server.sockets[0])
    await until_abandoned()
    server.close()


if __name__ == "__main__":
    run(main())
