"""Streams replayed in every way that a network may cut them: what is heard, and what is passed on, must not differ."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import msgspec

from llmgate.pricing import Price, amount
from llmgate.types import Ask, Meters, Usage
from llmgate.wire import body
from llmgate.wire.endpoint import Body, Endpoint, Terms
from llmgate.wire.heard import Heard

USD = 10**9


def ask_of(endpoint: Endpoint, fields: dict[str, Any] | bytes) -> Ask:
    raw = fields if isinstance(fields, bytes) else json.dumps({"model": "m", **fields}).encode()
    return endpoint.read_ask(endpoint.read(raw, "application/json", endpoint.known), None)


def whole(written: Body) -> bytes:
    """A body that may be in pieces."""
    return written if isinstance(written, bytes) else b"".join(written)


def changed(endpoint: Endpoint, fields: dict[str, Any], *, model: str = "m", **terms: Any) -> dict[str, Any]:
    """What `prepare` says of a body, under terms such as most upstreams have."""
    read = body.read(json.dumps({"model": "m", **fields}).encode(), endpoint.known)
    given: dict[str, Any] = {
        "bound": None,
        "bound_fields": ("max_completion_tokens", "max_tokens"),
        "bound_write": "max_completion_tokens",
        "ask_usage": True,
    }
    return endpoint.prepare(read, endpoint.read_ask(read, None), Terms(model=model, **(given | terms)))


def pieces(raw: bytes, cuts: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted({min(cut, len(raw)) for cut in cuts}), len(raw)]
    return [raw[a:b] for a, b in pairwise(edges)]


def listen(endpoint: Endpoint, parts: Iterable[bytes], *, hide: bool = False) -> tuple[bytes, Heard]:
    stream = endpoint.stream(hide)
    passed = b"".join([*(stream.feed(part) for part in parts), stream.finish()])
    return passed, stream.heard


def replayed(endpoint: Endpoint, raw: bytes) -> Heard:
    """What is heard of a stream: the same however it is cut, and with CRLF for LF. Nothing of it is changed."""
    passed, heard = listen(endpoint, [raw])
    assert passed == raw
    for other in (raw, raw.replace(b"\n", b"\r\n")):
        for parts in ([other[i : i + 1] for i in range(len(other))], pieces(other, range(0, len(other), 7))):
            assert listen(endpoint, parts) == (other, heard)
        assert listen(endpoint, parts, hide=True) == (other, heard)
    return heard


def used(endpoint: Endpoint, asked: Ask, heard: Heard) -> Usage:
    found = endpoint.used(asked, heard)
    assert found is not None
    return found


def cost(meters: Meters, **rates: int) -> int:
    """In nano-USD, at so many USD per 1M of each meter."""
    return amount(meters, msgspec.convert({name: rate * USD for name, rate in rates.items()}, Price))
