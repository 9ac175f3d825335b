"""Responses of the sandbox. It keeps none: what an earlier one said it doesn't know."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

from .words import CREATED, Echo, Refused, Told, conversation, echo, event, read, text


def tell(asked: dict[str, Any]) -> Told:
    said = _said(asked)
    answer = echo(said[-1], asked.get("max_output_tokens"))
    # An id belongs to the account that made it: two that ask the same must not get the same one.
    number = secrets.token_hex(24)
    head: dict[str, Any] = {
        "id": f"resp_{number}",
        "object": "response",
        "created_at": CREATED,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": asked.get("instructions"),
        "max_output_tokens": asked.get("max_output_tokens"),
        "model": asked.get("model"),
        "output": [],
        "parallel_tool_calls": True,
        "previous_response_id": asked.get("previous_response_id"),
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": None,
        "metadata": asked.get("metadata") or {},
    }
    item = _item(f"msg_{number}", "incomplete" if answer.cut else "completed", [_part(answer.text)])
    whole = {**head, **_end(answer), "output": [item], "usage": _usage(read(said), answer.tokens)}
    return _events(head, answer, item, whole) if asked.get("stream") else whole


def count(asked: dict[str, Any]) -> Told:
    return {"object": "response.input_tokens", "input_tokens": read(_said(asked))}


def _said(asked: dict[str, Any]) -> list[str]:
    """The instructions, and then what each item of the input says. Raises Refused."""
    given = asked.get("input")
    if not isinstance(given, str | list):
        raise Refused("input must be a text or a list of items")
    instructions = text(asked.get("instructions"))
    said = [given] if isinstance(given, str) else conversation(given)
    return [*([instructions] if instructions else []), *(said or [""])]


def _end(answer: Echo) -> dict[str, Any]:
    if answer.cut:
        return {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    return {"status": "completed"}


def _usage(read_tokens: int, written: int) -> dict[str, Any]:
    return {
        "input_tokens": read_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": read_tokens + written,
    }


def _item(name: str, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
    return {"id": name, "type": "message", "status": status, "role": "assistant", "content": content}


def _part(said: str) -> dict[str, Any]:
    return {"type": "output_text", "text": said, "annotations": [], "logprobs": []}


def _events(head: dict[str, Any], answer: Echo, item: dict[str, Any], whole: dict[str, Any]) -> Iterator[bytes]:
    """A streamed answer. Its last event has all of it, and there is no `[DONE]`."""
    item_at = {"output_index": 0}
    part_at = {"item_id": item["id"], "output_index": 0, "content_index": 0}
    part = item["content"][0]
    events: list[tuple[str, dict[str, Any]]] = [
        ("response.created", {"response": head}),
        ("response.in_progress", {"response": head}),
        ("response.output_item.added", {**item_at, "item": _item(item["id"], "in_progress", [])}),
        ("response.content_part.added", {**part_at, "part": _part("")}),
        *(("response.output_text.delta", {**part_at, "delta": word, "logprobs": []}) for word in answer.words),
        ("response.output_text.done", {**part_at, "text": part["text"], "logprobs": []}),
        ("response.content_part.done", {**part_at, "part": part}),
        ("response.output_item.done", {**item_at, "item": item}),
        (f"response.{whole['status']}", {"response": whole}),
    ]
    for number, (name, payload) in enumerate(events):
        yield event({"type": name, "sequence_number": number, **payload}, name)
