"""A mock upstream that costs next to nothing: the load's machine should be busy with load, and the gateway's with it.

`python -m bench.upstream` serves on a free port of the loopback until its stdin closes. Every answer is made before the
first request comes; which one is given depends on `"stream":true` in the body. Fields of our own, which no gateway
touches, ask for more: `"wait_ms":500` for a first byte that comes late, `"events":250,"pace_ms":20` for a stream whose
events come one by one, each with the moment at which it was written. Whom it answered is told by the first segment of
the path (`/llmgate/v1/chat/completions`), and how often by `GET /`.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from typing import Any, cast

from .processes import announce, run, until_abandoned

INPUT_TOKENS, OUTPUT_TOKENS = 12, 18
"""What every answer says it used."""

CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
STREAM = re.compile(rb'"stream": *true')
ASKED = re.compile(rb'"(wait_ms|events|pace_ms)": *(\d+)')
SENT = re.compile(rb'"sent_ns":(\d+)')
"""When an event of a paced stream was written, by the clock that all processes of a machine share."""

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


def _chunk(piece: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(piece), piece)


PLAIN = _sized(b"200 OK", _plain())

STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_FIRST, *_MIDDLE, _FINISH, _USED, _DONE = _events()
STREAMED = STREAM_HEAD + b"".join(map(_chunk, (*_events(), b"")))
"""One HTTP chunk per event, all in one write."""

PACED_HEAD = STREAM_HEAD + _chunk(_FIRST)
PACED = _MIDDLE[0].replace(b"}\n\n", b',"sent_ns":%d}\n\n')
PACED_END = b"".join(map(_chunk, (_FINISH, _USED, _DONE, b"")))

UNREADABLE = _sized(b"501 Not Implemented", b'{"error":{"message":"send a content length"}}')


class Mock(asyncio.Protocol):
    """One connection."""

    def __init__(self, answered: Counter[str]) -> None:
        self._answered = answered
        self._unread = b""
        self._timer: asyncio.TimerHandle | None = None

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
                answer = STREAMED if STREAM.search(data, len(head), end) else PLAIN
                asked = {name: int(value) for name, value in ASKED.findall(data, len(head), end)}
                if asked:
                    self._slowly(answer, asked.get(b"wait_ms", 0), asked.get(b"events", 0), asked.get(b"pace_ms", 0))
                else:
                    self._transport.write(answer)
            data = data[end:]
        self._unread = data

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio names it
        if self._timer:
            self._timer.cancel()

    def _slowly(self, answer: bytes, wait_ms: int, events: int, pace_ms: int) -> None:
        loop = asyncio.get_running_loop()
        begin_s = loop.time() + wait_ms / 1000

        def event(number: int) -> None:
            if number == events:
                self._transport.write(PACED_END)
                return
            data = _chunk(PACED % time.monotonic_ns())
            self._transport.write(data if number else PACED_HEAD + data)
            self._timer = loop.call_at(begin_s + (number + 1) * pace_ms / 1000, event, number + 1)

        if events:
            self._timer = loop.call_at(begin_s, event, 0)
        else:
            self._timer = loop.call_at(begin_s, self._transport.write, answer)


async def main() -> None:
    answered: Counter[str] = Counter()
    server = await asyncio.get_running_loop().create_server(lambda: Mock(answered), "127.0.0.1", 0, backlog=2048)
    announce(server.sockets[0])
    await until_abandoned()
    server.close()


if __name__ == "__main__":
    run(main())
