"""Messages of the sandbox, in the format `anthropic`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .words import Echo, Told, conversation, digest, echo, event, read, text


def refuse(message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": "invalid_request_error", "message": message}}


def tell(asked: dict[str, Any]) -> Told:
    said = _said(asked)
    answer = echo(said[-1], asked.get("max_tokens"))
    head: dict[str, Any] = {
        "id": f"msg_{digest(asked.get('model'), said)}",
        "type": "message",
        "role": "assistant",
        "model": asked.get("model"),
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {
            "input_tokens": read(said),
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 1,
            "service_tier": "standard",
        },
    }
    if asked.get("stream"):
        return _events(head, answer)
    return {
        **head,
        "content": [{"type": "text", "text": answer.text}],
        "stop_reason": _reason(answer),
        "usage": {**head["usage"], "output_tokens": answer.tokens},
    }


def count(asked: dict[str, Any]) -> Told:
    return {"input_tokens": read(_said(asked))}


def _said(asked: dict[str, Any]) -> list[str]:
    """The system prompt, and then what each message says."""
    system = text(asked.get("system"))
    return [*([system] if system else []), *(conversation(asked.get("messages")) or [""])]


def _reason(answer: Echo) -> str:
    return "max_tokens" if answer.cut else "end_turn"


def _events(head: dict[str, Any], answer: Echo) -> Iterator[bytes]:
    """A streamed answer: what it used stands at its beginning but for the output, which is told at its end."""
    written = {"output_tokens": answer.tokens}
    ends = {"stop_reason": _reason(answer), "stop_sequence": None}
    events: list[tuple[str, dict[str, Any]]] = [
        ("message_start", {"message": head}),
        ("content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}),
        ("ping", {}),
        *(("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": w}}) for w in answer.words),
        ("content_block_stop", {"index": 0}),
        ("message_delta", {"delta": ends, "usage": written}),
        ("message_stop", {}),
    ]
    for name, payload in events:
        yield event({"type": name, **payload}, name)
