"""The format `openai`: what a request asks for, what an answer says it used, how an error looks. Pure, no I/O.

Source: OpenAI's API reference and SDK types (openai 3.52); what compatible servers do differently is noted where it
matters.
"""

from __future__ import annotations

import json
from decimal import ROUND_CEILING, Decimal
from functools import partial
from typing import Any

import msgspec

from ..errors import LlmgateError, Refusal
from ..money import NANO
from ..quoting import positive
from ..types import Ask, Meters, Usage
from . import body
from .body import Fields
from .endpoint import Dialect, Endpoint, Terms
from .heard import Heard, SseStream
from .sse import Event
from .weight import SHORT, Medium, Weight

OUTPUT_BOUNDS = ("n_predict", "max_completion_tokens", "max_tokens")
"""Fields that bound the output, in one or the other upstream."""

COUNTS = ("n", "n_cmpl", "best_of")
"""Fields that multiply the output, in one or the other upstream."""

UNQUOTABLE = ("models", "plugins", "route", "web_search_options", "search_parameters")
"""Fields that change who answers, or add paid work, in ways that no bound is known for (OpenRouter, OpenAI search)."""

REASONING = ("reasoning_effort", "reasoning")
"""Fields that ask a model to reason."""

KNOWN = frozenset(
    {"model", "stream", "stream_options", "messages", "input", "prompt", "tools", "functions", "response_format"}
    | {"service_tier", "user", "metadata", "modalities", *REASONING, *OUTPUT_BOUNDS, *COUNTS, *UNQUOTABLE}
)

IMAGE_TOKENS = 50_000
"""Upper bound of what one image is billed as (gpt-4o-mini, high detail, the largest size: 48,169)."""

AUDIO_CHARACTERS_PER_TOKEN = 64
"""Audio is billed at 10 tokens a second; 8 kbit/s, about the thinnest in use, is 133 base64 characters per token."""

MOST_TAGS, LONGEST_TAG = 32, 512

_NOT_TEXT = frozenset({"role", "type", "id", "tool_call_id", "index", "detail", "format", "cache_control"})
"""Fields of a message that the model doesn't read as text, as long as they are `SHORT`."""

_MEDIA = frozenset({"image_url", "input_image", "image"})
_POINTERS = frozenset({"file", "input_file", "video_url", "file_url"})

_PAYLOAD = frozenset({"image_url", "image", "input_audio", "file", "file_url", "file_data", "video_url", "url", "data"})
"""What of a medium is the medium itself: its tokens are bounded, its bytes are no text."""


def _medium(item: dict[str, Any]) -> Medium | None:
    kind = item.get("type")
    if kind == "input_audio":
        sound = item.get("input_audio")
        data = sound.get("data") if isinstance(sound, dict) else None
        known = isinstance(data, str)
        return Medium(len(data) // AUDIO_CHARACTERS_PER_TOKEN + 1 if known else IMAGE_TOKENS, _PAYLOAD)  # type: ignore[arg-type]
    if kind in _MEDIA or "image_url" in item:
        return Medium(IMAGE_TOKENS, _PAYLOAD)
    return Medium(0, _PAYLOAD, hidden=True) if kind in _POINTERS else None


def weigh(*values: Any) -> Weight:
    """What some values of a body weigh together."""
    weight = Weight(_medium, _NOT_TEXT)
    for value in values:
        weight.add(value)
    return weight


def read_ask(fields: Fields, _: str | None = None, *, output: bool) -> Ask:
    """What a chat completion or an embedding (`output=False`) asks for. Raises Refusal `invalid_request`."""
    model = body.value(fields, "model")
    if model is not None and not isinstance(model, str):
        raise Refusal("model must be a string: the name of a model", param="model")
    if not model:
        raise Refusal("the field 'model' is missing: name a model, GET /v1/models lists them", param="model")
    stream = body.value(fields, "stream")
    if stream not in (None, True, False):
        raise Refusal("stream must be true or false", param="stream")
    options = body.value(fields, "stream_options")
    if not isinstance(options, dict | None):
        raise Refusal("stream_options must be an object", param="stream_options")
    tier = body.value(fields, "service_tier")
    if not isinstance(tier, str | None):
        raise Refusal("service_tier must be a string", param="service_tier")
    prompt = body.value(fields, "messages" if output else "input")
    weight = weigh(prompt)
    for name in ("tools", "functions", "response_format"):
        if name in fields:
            weight.text += len(bytes(fields[name]))
    # What isn't read here may be what an upstream puts into the prompt: vLLM does so with `documents`, and a `prompt`
    # may stand beside messages. What is short lies within what a template is allowed to add.
    unread = fields.keys() - (KNOWN - {"messages", "prompt", "input"}) - {"messages" if output else "input"}
    weight.text += sum(size for name in unread if (size := len(bytes(fields[name]))) > SHORT)
    bounds = [positive(found, name) for name in OUTPUT_BOUNDS if (found := body.value(fields, name)) is not None]
    counts = [positive(found, name) for name in COUNTS if (found := body.value(fields, name)) is not None]
    return Ask(
        model=model,
        stream=bool(stream) and output,
        usage_asked=options is not None and options.get("include_usage") is True,
        text_bytes=weight.text,
        messages=len(prompt) if output and isinstance(prompt, list) else 0,
        inputs=_inputs(prompt) if not output else 0,
        media_tokens=weight.media,
        hidden_input=weight.hidden,
        output=output,
        # Upstreams differ in which of several bounds they obey: none of them writes more than the largest.
        max_output=max(bounds, default=None),
        choices=max(counts, default=1),
        service_tier=tier,
        reasons=any(body.value(fields, name) not in (None, "none") for name in REASONING),
        unquotable=_unquotable(fields),
        tags=_tags(fields),
    )


def _inputs(given: Any) -> int:
    """How many texts an embedding is asked of: a list of numbers is one text in tokens."""
    return len(given) if isinstance(given, list) and not all(isinstance(item, int) for item in given[:1]) else 0


def _unquotable(fields: Fields) -> str | None:
    """The first field that may cost money in a way that no bound is known for: also tools that the upstream runs."""
    found = next((name for name in UNQUOTABLE if body.value(fields, name) is not None), None)
    tools = body.value(fields, "tools")
    if found is None and isinstance(tools, list):
        own = ("function", "custom")
        if any(isinstance(tool, dict) and tool.get("type", "function") not in own for tool in tools):
            return "tools"
    return found


def _tags(fields: Fields) -> dict[str, str]:
    """`metadata` and `user` as tags: recorded with the usage, never interpreted."""
    metadata, user = body.value(fields, "metadata"), body.value(fields, "user")
    found = {f"metadata.{name}": text for name, text in metadata.items()} if isinstance(metadata, dict) else {}
    if isinstance(user, str):
        found["end_user"] = user
    short = {name[:LONGEST_TAG]: text[:LONGEST_TAG] for name, text in found.items() if isinstance(text, str)}
    return dict(list(short.items())[:MOST_TAGS])


def prepare(fields: Fields, ask: Ask, terms: Terms) -> dict[str, Any]:
    """What must be changed in the body before it is sent; nothing more ever is.

    No field may state a larger bound than the hold carries, and one that this upstream obeys must state one.
    """
    changes: dict[str, Any] = {}
    if ask.model != terms.model:
        changes["model"] = terms.model
    if terms.bound is not None:
        stated = {name: found for name in OUTPUT_BOUNDS if (found := body.value(fields, name)) is not None}
        changes |= {name: terms.bound for name, found in stated.items() if found > terms.bound}
        if not stated.keys() & set(terms.bound_fields):
            changes[terms.bound_write] = terms.bound
    if ask.stream and terms.ask_usage and not ask.usage_asked:
        changes["stream_options"] = (body.value(fields, "stream_options") or {}) | {"include_usage": True}
    return changes


# ── what an answer says ───────────────────────────────────────────────────────────────────────────────────────────────


class _Said(msgspec.Struct):
    """A message, or a piece of one: the fields that are billed as output."""

    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    refusal: Any = None
    tool_calls: Any = None
    function_call: Any = None

    def text_bytes(self) -> int:
        said = (self.content, self.reasoning_content or self.reasoning, self.refusal)
        return weigh(*filter(None, (*said, self.tool_calls, self.function_call))).text


class _Choice(msgspec.Struct):
    delta: _Said | None = None
    message: _Said | None = None
    finish_reason: Any = None


class _Answer(msgspec.Struct):
    """A whole answer, or a chunk of a stream: the fields that metering reads."""

    choices: list[_Choice] | None = None
    usage: Any = None
    service_tier: Any = None
    error: Any = None


_answer = msgspec.json.Decoder(_Answer)


def _decode(data: bytes) -> _Answer | None:
    """An answer or a chunk, or None if it isn't a JSON object.

    What was billed must be heard also where something else in it is odd: half a character, or a field of another shape.
    """
    try:
        return _answer.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        found = json.loads(data.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    try:
        return msgspec.convert(found, _Answer)
    except msgspec.ValidationError:
        return _Answer(**{name: found.get(name) for name in ("usage", "service_tier", "error")})


def _take(heard: Heard, answer: _Answer) -> None:
    for choice in answer.choices or ():
        said = choice.delta or choice.message
        if said is not None:
            heard.text_bytes += said.text_bytes()
            heard.reasoned = heard.reasoned or bool(said.reasoning_content or said.reasoning)
        if choice.finish_reason is not None:
            heard.finished = True
    if isinstance(answer.service_tier, str):
        heard.service_tier = answer.service_tier
    if isinstance(answer.usage, dict):
        usage = read_usage(answer.usage, heard.service_tier)
        if usage is not None:
            heard.take_usage(usage)
    if answer.error is not None:
        heard.failed = True


MOST_TOKENS = 10**9
"""No request has so many: a count from there on is a mistake, and its amount might not fit 64 bits."""

MOST_COST = 10**6
"""In USD: likewise."""


def read_usage(usage: dict[str, Any], tier: str | None = None) -> Usage | None:
    """An OpenAI `usage` object as disjoint meters, or None if it counts nothing (an explicit zero counts).

    A count that is missing is what the total leaves. Cached, cache-write, audio and image tokens are parts of
    `prompt_tokens`; reasoning and audio are parts of `completion_tokens`. Some servers (xAI) count reasoning beside the
    completion: their total says so.
    """
    counts = ("prompt_tokens", "completion_tokens", "total_tokens")
    prompt, completion, total = (_counted(usage, name) for name in counts)
    if prompt is None and completion is None and total is None:
        return None
    input_missing = prompt is None and total is None
    output_missing = completion is None and total is None
    total = total or 0
    prompt = max(total - (completion or 0), 0) if prompt is None else prompt
    completion = max(total - prompt, 0) if completion is None else completion
    into, out = _part(usage, "prompt_tokens_details"), _part(usage, "completion_tokens_details")
    reasoning = _count(out, "reasoning_tokens")
    if reasoning and total >= prompt + completion + reasoning:
        completion += reasoning
    cached, write, audio, image = _split(
        prompt,
        *(_count(into, name) for name in ("cached_tokens", "cache_write_tokens", "audio_tokens", "image_tokens")),
    )
    spoken, reasoning = _split(completion, _count(out, "audio_tokens"), reasoning)
    return Usage(
        meters=Meters(
            input=prompt - cached - write - audio - image,
            cached_input=cached,
            cache_write=write,
            audio_input=audio,
            image_input=image,
            output=completion - spoken - reasoning,
            reasoning=reasoning,
            audio_output=spoken,
            calls=1,
        ),
        input_missing=input_missing,
        output_missing=output_missing,
        cost_nano=_cost(usage),
        service_tier=tier,
    )


def _counted(usage: dict[str, Any], name: str) -> int | None:
    """A count as an upstream writes it; what is no number of tokens is none."""
    found = usage.get(name)
    if not isinstance(found, int | float) or isinstance(found, bool) or not 0 <= found < MOST_TOKENS:
        return None
    return int(found)


def _count(usage: dict[str, Any], name: str) -> int:
    return _counted(usage, name) or 0


def _part(usage: dict[str, Any], name: str) -> dict[str, Any]:
    found = usage.get(name)
    return found if isinstance(found, dict) else {}


def _split(whole: int, *parts: int) -> list[int]:
    """Parts that together are never more than the whole: an upstream whose details don't add up can't count twice."""
    fitted = []
    for part in parts:
        fitted.append(min(part, whole))
        whole -= fitted[-1]
    return fitted


def _cost(usage: dict[str, Any]) -> int | None:
    """OpenRouter's `cost`; with the user's own key there it is only the fee, and the provider's bill comes on top."""
    cost = usage.get("cost")
    if not isinstance(cost, int | float | Decimal) or isinstance(cost, bool) or not 0 <= cost < MOST_COST:
        return None
    total = Decimal(str(cost))
    billed = _part(usage, "cost_details").get("upstream_inference_cost")
    if usage.get("is_byok") and isinstance(billed, int | float) and 0 < billed < MOST_COST:
        total += Decimal(str(billed))
    return int((total * NANO).to_integral_value(rounding=ROUND_CEILING))


def hear(answer: bytes) -> Heard | None:
    """A whole answer that didn't stream, or None if it isn't JSON of this format."""
    found = _decode(answer)
    if found is None:
        return None
    heard = Heard(finished=True)
    _take(heard, found)
    return heard


def _hear_event(heard: Heard, event: Event) -> bool:
    """The chunk that has usage and no choices only comes where somebody asked for it."""
    if event.data.startswith(b"[DONE]"):
        heard.done = heard.finished = True
        return True
    chunk = _decode(event.data)
    if chunk is None:
        return True  # a line that isn't a chunk: the client's to judge, and nothing to meter
    _take(heard, chunk)
    return not (isinstance(chunk.usage, dict) and not chunk.choices and chunk.error is None)


def stream(hide: bool) -> SseStream:
    return SseStream(_hear_event, hide=hide)


# ── errors ────────────────────────────────────────────────────────────────────────────────────────────────────────────

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "invalid_request_error",
    429: "rate_limit_error",
}


def error_body(error: LlmgateError, request_id: str = "") -> bytes:  # noqa: ARG001
    """An error as OpenAI's clients expect it: all four keys are there."""
    status = error.http_status
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return msgspec.json.encode(
        {"error": {"message": error.message, "type": kind, "param": error.param, "code": error.code}}
    )


def error_event(error: LlmgateError, request_id: str = "") -> bytes:
    """An error in the middle of a stream: the one form that the SDKs raise from."""
    return b"data: " + error_body(error, request_id) + b"\n\n"


OPENAI = Dialect(name="openai", error_body=error_body, error_event=error_event)

CHAT = Endpoint(
    name="chat",
    dialect=OPENAI,
    path="/chat/completions",
    known=KNOWN,
    read_ask=partial(read_ask, output=True),
    prepare=prepare,
    hear=hear,
    stream=stream,
)
EMBEDDINGS = Endpoint(
    name="embeddings",
    dialect=OPENAI,
    path="/embeddings",
    known=KNOWN,
    read_ask=partial(read_ask, output=False),
    prepare=prepare,
    hear=hear,
    stream=stream,
)
