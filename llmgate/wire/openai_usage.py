"""What the format `openai` counts: its usage objects, which name the same things differently on each path."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal
from typing import Any, NamedTuple

from ..money import NANO
from ..types import Meters, Usage

_NUMBER = (int, float)

MOST_TOKENS = 10**9
"""No request has so many: a count from there on is a mistake, and its amount might not fit 64 bits."""

MOST_COST = 10**6
"""In USD: likewise."""


class Words(NamedTuple):
    """How a path names its counts."""

    input: str
    output: str
    input_details: tuple[str, ...]
    output_details: tuple[str, ...]


PROMPT = Words("prompt_tokens", "completion_tokens", ("prompt_tokens_details",), ("completion_tokens_details",))
"""Chat, completions, embeddings."""

INPUT = Words(
    "input_tokens",
    "output_tokens",
    ("input_tokens_details", "input_token_details"),
    ("output_tokens_details", "output_token_details"),
)
"""Responses, images and audio (which has the singular)."""


def read_usage(usage: dict[str, Any], tier: str | None = None, words: Words = PROMPT) -> Usage | None:
    """An OpenAI `usage` object as disjoint meters, or None if it counts nothing (an explicit zero counts).

    A count that is missing is what the total leaves. Cached, cache-write, audio and image tokens are parts of the
    input; reasoning, audio and image tokens are parts of the output. Some servers (xAI) count reasoning beside the
    output: their total says so.
    """
    prompt, completion, total = (
        counted(usage, words.input),
        counted(usage, words.output),
        counted(usage, "total_tokens"),
    )
    if prompt is None and completion is None and total is None:
        return None
    input_missing = prompt is None and total is None
    output_missing = completion is None and total is None
    total = total or 0
    prompt = max(total - (completion or 0), 0) if prompt is None else prompt
    completion = max(total - prompt, 0) if completion is None else completion
    into, out = part(usage, *words.input_details), part(usage, *words.output_details)
    return Usage(
        meters=_meters(prompt, completion, total, into, out),
        input_missing=input_missing,
        output_missing=output_missing,
        cost_nano=_cost(usage),
        service_tier=tier,
    )


def _meters(prompt: int, completion: int, total: int, into: dict[str, Any], out: dict[str, Any]) -> Meters:
    if not (any(into.values()) or any(out.values())):
        return Meters(input=prompt, output=completion, calls=1)  # no details, or none of anything
    reasoning = count(out, "reasoning_tokens")
    if reasoning and total >= prompt + completion + reasoning:
        completion += reasoning
    cached, write, audio, image = split(
        prompt,
        *(count(into, name) for name in ("cached_tokens", "cache_write_tokens", "audio_tokens", "image_tokens")),
    )
    # OpenAI keeps for 30 minutes or for 12 hours; the dearer of our two meters of writing is the longer one's.
    (write_long,) = split(write, count(part(into, "cache_write_tokens_details"), "ttl_12h_tokens"))
    media, reasoning = split(completion, count(out, "audio_tokens") + count(out, "image_tokens"), reasoning)
    return Meters(
        input=prompt - cached - write - audio - image,
        cached_input=cached,
        cache_write=write - write_long,
        cache_write_1h=write_long,
        audio_input=audio,
        image_input=image,
        output=completion - media - reasoning,
        reasoning=reasoning,
        audio_output=media,
        calls=1,
    )


def read_either(usage: Any, tier: str | None = None) -> Usage | None:
    """The same for the younger paths, where compatible servers write the words of the one or of the other."""
    if not isinstance(usage, dict):
        return None
    older = counted(usage, PROMPT.input) is not None or counted(usage, PROMPT.output) is not None
    return read_usage(usage, tier, PROMPT if older else INPUT)


def counted(usage: dict[str, Any], name: str) -> int | None:
    """A count as an upstream writes it; what is no number of tokens is none."""
    found = usage.get(name)
    if found is None:
        return None
    if not isinstance(found, _NUMBER) or isinstance(found, bool) or not 0 <= found < MOST_TOKENS:
        return None
    return int(found)


def count(usage: dict[str, Any], name: str) -> int:
    return counted(usage, name) or 0


def part(usage: dict[str, Any], *names: str) -> dict[str, Any]:
    """The first of some fields that is an object."""
    for name in names:
        found = usage.get(name)
        if isinstance(found, dict):
            return found
    return {}


def split(whole: int, *parts: int) -> list[int]:
    """Parts that together are never more than the whole: an upstream whose details don't add up can't count twice."""
    fitted = []
    for one in parts:
        fitted.append(min(one, whole))
        whole -= fitted[-1]
    return fitted


def _cost(usage: dict[str, Any]) -> int | None:
    """OpenRouter's `cost`; with the user's own key there it is only the fee, and the provider's bill comes on top."""
    cost = usage.get("cost")
    if cost is None:
        return None
    if not isinstance(cost, int | float | Decimal) or isinstance(cost, bool) or not 0 <= cost < MOST_COST:
        return None
    total = Decimal(str(cost))
    billed = part(usage, "cost_details").get("upstream_inference_cost")
    if usage.get("is_byok") and isinstance(billed, int | float) and 0 < billed < MOST_COST:
        total += Decimal(str(billed))
    return int((total * NANO).to_integral_value(rounding=ROUND_CEILING))
