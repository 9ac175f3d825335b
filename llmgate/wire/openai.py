"""The format `openai`: what a request asks for, what an answer says it used, how an error looks. Pure, no I/O.

Source: OpenAI's API reference and SDK types (openai 3.52); what compatible servers do differently is noted where it
matters.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from decimal import ROUND_CEILING, Decimal
from typing import Any

import msgspec

from ..errors import LlmgateError, Refusal
from ..money import NANO
from ..quoting import positive
from ..types import Ask, Meters, Usage
from . import body
from .body import Fields
from .sse import Event, SseReader

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

SHORT = 64
"""Bytes. A longer role, type, id or field name is text that somebody may want to smuggle past the count."""

MOST_PARTS = 1_000_000
"""Values in one body. More is no prompt, but an attempt to keep the gateway busy."""

_MEDIA = frozenset({"image_url", "input_image", "image"})
_POINTERS = frozenset({"file", "input_file", "video_url", "file_url"})

_PAYLOAD = frozenset({"image_url", "image", "input_audio", "file", "file_url", "file_data", "video_url", "url", "data"})
"""What of a medium is the medium itself: its tokens are bounded, its bytes are no text."""


class _Weight:
    """What a prompt weighs: bytes of text, bound of media tokens, and whether it points at what it doesn't show."""

    __slots__ = ("hidden", "media", "text")

    def __init__(self) -> None:
        self.text = 0
        self.media = 0
        self.hidden = False

    def add(self, value: Any) -> None:
        """Every string below a value, whatever its shape: a field that nobody knows yet is still read by the model."""
        stack = [value]
        parts = 0
        while stack:
            item = stack.pop()
            parts += 1
            if isinstance(item, str):
                self.text += utf8_len(item)
            elif isinstance(item, list):
                stack.extend(item)
            elif isinstance(item, dict):
                self._add_object(item, stack)
            elif isinstance(item, int) and not isinstance(item, bool):
                self.text += 3  # a token id where text may stand; ⌈3 / 3⌉ is the one token that it is
            if parts + len(stack) > MOST_PARTS:
                raise Refusal(f"the body has more than {MOST_PARTS} parts")

    def _add_object(self, item: dict[str, Any], stack: list[Any]) -> None:
        kind = item.get("type")
        medium = True
        if kind == "input_audio":
            sound = item.get("input_audio")
            data = sound.get("data") if isinstance(sound, dict) else None
            self.media += len(data) // AUDIO_CHARACTERS_PER_TOKEN + 1 if isinstance(data, str) else IMAGE_TOKENS
        elif kind in _MEDIA or "image_url" in item:
            self.media += IMAGE_TOKENS
        elif kind in _POINTERS:
            self.hidden = True
        else:
            medium = False
        for name, child in item.items():
            if len(name) > SHORT:
                self.text += utf8_len(name)
            if medium and name in _PAYLOAD:
                continue
            short = not isinstance(child, list | dict) and not (isinstance(child, str) and len(child) > SHORT)
            if name not in _NOT_TEXT or not short:
                stack.append(child)


def utf8_len(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def read_ask(fields: Fields, *, output: bool) -> Ask:
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
    weight = _Weight()
    prompt = body.value(fields, "messages" if output else "input")
    weight.add(prompt)
    for name in ("tools", "functions", "response_format"):
        if name in fields:
            weight.text += len(bytes(fields[name]))
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


def prepare(
    fields: Fields,
    ask: Ask,
    *,
    model: str,
    bound: int | None,
    bound_fields: tuple[str, ...],
    bound_write: str,
    ask_usage: bool,
) -> dict[str, Any]:
    """What must be changed in the body before it is sent; nothing more ever is.

    `bound` is the output bound that the hold carries (None: the account's money can't run out). No field may say more,
    and one that this upstream obeys must say it.
    """
    changes: dict[str, Any] = {}
    if ask.model != model:
        changes["model"] = model
    if bound is not None:
        stated = {name: found for name in OUTPUT_BOUNDS if (found := body.value(fields, name)) is not None}
        changes |= {name: bound for name, found in stated.items() if found > bound}
        if not stated.keys() & set(bound_fields):
            changes[bound_write] = bound
    if ask.stream and ask_usage and not ask.usage_asked:
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
        weight = _Weight()
        for part in (self.content, self.reasoning_content or self.reasoning, self.refusal):
            if part:
                weight.add(part)
        for call in (self.tool_calls, self.function_call):
            if call:
                weight.add(call)
        return weight.text


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


class Heard(msgspec.Struct):
    """What was heard of an answer so far."""

    usage: Usage | None = None
    text_bytes: int = 0
    """UTF-8 bytes of text and tool arguments that went by."""
    counted_bytes: int = 0
    """How much of it the last usage that was heard can have counted."""
    reasoned: bool = False
    finished: bool = False
    """The model said that it is done: all that will be billed has been written."""
    done: bool = False
    """`[DONE]` went by: there is nothing more to deliver."""
    failed: bool = False
    """The upstream reported an error inside the stream."""
    service_tier: str | None = None

    def _take(self, answer: _Answer) -> None:
        for choice in answer.choices or ():
            said = choice.delta or choice.message
            if said is not None:
                self.text_bytes += said.text_bytes()
                self.reasoned = self.reasoned or bool(said.reasoning_content or said.reasoning)
            if choice.finish_reason is not None:
                self.finished = True
        if isinstance(answer.service_tier, str):
            self.service_tier = answer.service_tier
        if isinstance(answer.usage, dict):
            usage = read_usage(answer.usage, self.service_tier)
            if usage is not None:
                self.usage = usage
                self.counted_bytes = 0 if usage.output_missing else self.text_bytes
        if answer.error is not None:
            self.failed = True


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
    heard._take(found)
    return heard


class Stream:
    """Listens to a stream as it goes by, and takes out what only came because llmgate asked for it.

    `feed` and `finish` return the bytes to pass on. Without `hide_usage` they are the bytes that came, at once; with
    it, an event is passed on when it is complete, and the one that has usage and no choices isn't.
    """

    __slots__ = ("_hide", "_reader", "heard")

    def __init__(self, *, hide_usage: bool) -> None:
        self._reader = SseReader()
        self._hide = hide_usage
        self.heard = Heard()

    def feed(self, data: bytes) -> bytes:
        passed = self._listen(self._reader.feed(data))
        return passed if self._hide else data

    def finish(self) -> bytes:
        passed = self._listen(self._reader.finish())
        return passed if self._hide else b""

    def break_off(self) -> bytes:
        """The stream is over, perhaps too early: hear what is left of it. Returns what must stand before an event of
        our own, because the last one was passed on without its end."""
        torn = bool(self._reader.pending) and not self._hide
        self._listen(self._reader.finish())
        return b"\n\n" if torn else b""

    def _listen(self, events: Iterable[Event]) -> bytes:
        return b"".join([event.raw for event in events if self._hear(event) or not self._hide])

    def _hear(self, event: Event) -> bool:
        """Whether the event is the client's."""
        if not event.data:
            return True
        if event.data.startswith(b"[DONE]"):
            self.heard.done = self.heard.finished = True
            return True
        chunk = _decode(event.data)
        if chunk is None:
            return True  # a line that isn't a chunk: the client's to judge, and nothing to meter
        self.heard._take(chunk)
        return not (isinstance(chunk.usage, dict) and not chunk.choices and chunk.error is None)


# ── errors ────────────────────────────────────────────────────────────────────────────────────────────────────────────

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "invalid_request_error",
    429: "rate_limit_error",
}


def error_body(error: LlmgateError) -> bytes:
    """An error as OpenAI's clients expect it: all four keys are there."""
    status = error.http_status
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return msgspec.json.encode(
        {"error": {"message": error.message, "type": kind, "param": error.param, "code": error.code}}
    )


def error_event(error: LlmgateError) -> bytes:
    """An error in the middle of a stream: the one form that the SDKs raise from."""
    return b"data: " + error_body(error) + b"\n\n"
