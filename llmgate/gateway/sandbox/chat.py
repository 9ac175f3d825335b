"""Chat completions of the sandbox."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .words import CREATED, DONE, Echo, Told, choices, conversation, digest, echo, event, read


def refuse(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}


def tell(asked: dict[str, Any]) -> Told:
    said = conversation(asked.get("messages"))
    count = choices(asked)
    answer = echo(said[-1] if said else "", asked.get("max_completion_tokens") or asked.get("max_tokens"))
    head = {
        "id": f"chatcmpl-{digest(asked.get('model'), said)}",
        "created": CREATED,
        "model": asked.get("model"),
    }
    usage = counted(read(said), count * answer.tokens)
    if asked.get("stream"):
        return _chunks(
            {**head, "object": "chat.completion.chunk"}, answer, count, usage if wants_usage(asked) else None
        )
    message = {"role": "assistant", "content": answer.text, "refusal": None}
    told = [
        {"index": index, "message": message, "logprobs": None, "finish_reason": finish(answer)}
        for index in range(count)
    ]
    return {**head, "object": "chat.completion", "choices": told, "usage": usage}


def finish(answer: Echo) -> str:
    return "length" if answer.cut else "stop"


def counted(prompt: int, completion: int) -> dict[str, Any]:
    """The usage of what has a prompt and completions."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def wants_usage(asked: dict[str, Any]) -> bool:
    options = asked.get("stream_options")
    return isinstance(options, dict) and bool(options.get("include_usage"))


def _chunks(head: dict[str, Any], answer: Echo, count: int, usage: dict[str, Any] | None) -> Iterator[bytes]:
    """A streamed answer, with the usage event only where it was asked for."""
    silent = {"usage": None} if usage else {}
    deltas = [{"role": "assistant", "content": ""}, *({"content": word} for word in answer.words), {}]
    for number, delta in enumerate(deltas, 1):
        reason = finish(answer) if number == len(deltas) else None
        for index in range(count):
            choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
            yield event({**head, "choices": [choice], **silent})
    if usage:
        yield event({**head, "choices": [], "usage": usage})
    yield DONE
