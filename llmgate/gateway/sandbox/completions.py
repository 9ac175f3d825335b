"""Completions of the sandbox, as they were before there were chats: each of several prompts gets all its choices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .chat import counted, finish, wants_usage
from .words import CREATED, DONE, Echo, Refused, Told, choices, digest, echo, event, tokens

DEFAULT_OUTPUT = 16
"""As the API has it."""


def tell(asked: dict[str, Any]) -> Told:
    prompts = prompts_of(asked.get("prompt"))
    count = choices(asked, each=len(prompts))
    written = max(choices(asked, "best_of", each=len(prompts)), count)
    if written > count and asked.get("stream"):
        raise Refused("best_of can't be streamed")
    bound = asked.get("max_tokens") or DEFAULT_OUTPUT
    answers = [echo(prompt if isinstance(prompt, str) else "", bound) for prompt in prompts]
    head = {
        "id": f"cmpl-{digest(asked.get('model'), prompts)}",
        "object": "text_completion",
        "created": CREATED,
        "model": asked.get("model"),
    }
    usage = counted(sum(map(prompt_tokens, prompts)), written * sum(answer.tokens for answer in answers))
    every = [answer for answer in answers for _ in range(count)]
    if asked.get("stream"):
        return _chunks(head, every, usage if wants_usage(asked) else None)
    return {
        **head,
        "choices": [_choice(index, answer.text, finish(answer)) for index, answer in enumerate(every)],
        "usage": usage,
    }


def prompts_of(given: Any) -> list[Any]:
    """Each of the prompts or texts of a body: a string, or ids of tokens. Raises Refused."""
    several = isinstance(given, list) and bool(given) and not isinstance(given[0], int)
    prompts = given if several else [given]
    if not all(prompt is None or isinstance(prompt, str | list) for prompt in prompts):
        raise Refused("a prompt is a text, or a list of token ids")
    return list(prompts)


def prompt_tokens(prompt: Any) -> int:
    return tokens(prompt) if isinstance(prompt, str) else len(prompt or ())


def _choice(index: int, text: str, reason: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": reason}


def _chunks(head: dict[str, Any], answers: list[Echo], usage: dict[str, Any] | None) -> Iterator[bytes]:
    silent = {"usage": None} if usage else {}
    for index, answer in enumerate(answers):
        for word in answer.words:
            yield event({**head, "choices": [_choice(index, word, None)], **silent})
        yield event({**head, "choices": [_choice(index, "", finish(answer))], **silent})
    if usage:
        yield event({**head, "choices": [], "usage": usage})
    yield DONE
