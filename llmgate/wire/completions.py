"""The format `openai` before there were chats: POST /v1/completions. Answers are heard as those of chats are."""

from __future__ import annotations

from typing import Any

import msgspec

from ..errors import Refusal
from ..types import Ask
from . import body, openai
from .body import Fields
from .endpoint import Endpoint, Terms
from .openai import OPENAI, bounded, hear, most, renamed, stream

OUTPUT_BOUNDS = ("n_predict", "max_tokens")
"""Fields that bound the output here: llama.cpp reads its own first, and nobody knows `max_completion_tokens`."""

DEFAULT_OUTPUT = 16
"""What the API itself takes where the request says nothing: more would be refused by models of a small window, and
would be paid without having been asked for."""


def read_ask(fields: Fields, _: str | None = None) -> Ask:
    """What a completion asks for: each of several prompts gets all its choices. Raises Refusal `invalid_request`."""
    asked = openai.read_ask(fields, named="prompt")
    tensors = body.value(fields, "prompt_embeds")  # vLLM: prompts that are no text
    prompts = max(asked.inputs + (len(tensors) if isinstance(tensors, list) else tensors is not None), 1)
    choices = asked.choices * prompts
    if choices >= 2**31:
        raise Refusal("these are more choices than could ever be paid: ask for fewer", param="n")
    return msgspec.structs.replace(
        asked,
        max_output=most(fields, OUTPUT_BOUNDS) or DEFAULT_OUTPUT,
        choices=choices,
        rounds=prompts if asked.hidden_input else 1,
    )


def prepare(fields: Fields, ask: Ask, terms: Terms) -> dict[str, Any]:
    """As for a chat, but for the field that bounds it."""
    unbounded = openai.prepare(fields, ask, msgspec.structs.replace(terms, bound=None))
    obeyed = ("max_tokens", *(name for name in terms.bound_fields if name in OUTPUT_BOUNDS))
    return unbounded | renamed(ask, terms) | bounded(fields, terms, openai.OUTPUT_BOUNDS, obeyed, "max_tokens")


COMPLETIONS = Endpoint(
    name="completions",
    dialect=OPENAI,
    path="/completions",
    known=openai.KNOWN,
    read_ask=read_ask,
    prepare=prepare,
    hear=hear,
    stream=stream,
)
