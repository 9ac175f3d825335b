"""The format `openai`: what a request asks for, what an answer says it used, how an error looks. Pure, no I/O.

Source: OpenAI's API reference and SDK types (openai 3.52); what compatible servers do differently is noted where it
matters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache, partial
from typing import Any

import msgspec

from ..errors import LlmgateError, Refusal
from ..quoting import positive
from ..types import Ask
from . import body
from .body import Fields
from .endpoint import Dialect, Endpoint, Terms
from .heard import Heard, SseStream
from .openai_usage import counted, part, read_usage
from .sse import Event
from .weight import Medium, Weight, unread_bytes, utf8_len

OUTPUT_BOUNDS = ("n_predict", "max_completion_tokens", "max_tokens")
"""Fields that bound the output, in one or the other upstream."""

COUNTS = ("n", "n_cmpl", "best_of")
"""Fields that multiply the output, in one or the other upstream."""

UNQUOTABLE = (
    *("models", "plugins", "route", "provider", "preset"),  # OpenRouter: who answers, and at whose price
    *("web_search_options", "search_parameters", "enable_search"),  # OpenAI, xAI, Alibaba: paid searches
    *("data_sources", "dataSources"),  # Azure: what is found there is read and billed, and is not in the body
    *("deferred",),  # xAI: the answer, and what it used, is to be fetched later
    *("prediction",),  # what of it isn't taken is billed as output, beside what the bound allows
)
"""Fields that change who answers, or add paid work, in ways that no bound is known for."""

_UNQUOTABLE = frozenset(UNQUOTABLE)

HIDING = ("chat_template", "prompt_embeds", "mm_processor_kwargs", "media_io_kwargs")
"""Fields that make more of a prompt than its bytes show (vLLM): a template may say it a thousand times, a tensor may be
stored as one of its rows, a picture may be scaled up."""

REASONING = ("reasoning_effort", "reasoning")
"""Fields that ask a model to reason."""

TEMPLATE_WORDS = "chat_template_kwargs"
"""What a template is told. Some servers take the template itself from there."""

KNOWN = frozenset(
    {
        "model",
        "stream",
        "stream_options",
        "messages",
        "input",
        "prompt",
        "suffix",
        "tools",
        "functions",
        "response_format",
    }
    | {
        "service_tier",
        "user",
        "safety_identifier",
        "metadata",
        "modalities",
        *REASONING,
        *OUTPUT_BOUNDS,
        *COUNTS,
        *UNQUOTABLE,
        *HIDING,
        TEMPLATE_WORDS,
    }
)

IMAGE_TOKENS = 50_000
"""Upper bound of what one image is billed as (gpt-4o-mini, high detail, the largest size: 48,169)."""

AUDIO_CHARACTERS_PER_TOKEN = 64
"""Audio is billed at 10 tokens a second; 8 kbit/s, about the thinnest in use, is 133 base64 characters per token."""

MOST_TAGS, LONGEST_TAG = 32, 512

NOT_TEXT = frozenset({"role", "type", "id", "tool_call_id", "index", "detail", "format", "cache_control"})
"""Fields of a message that the model doesn't read as text, as long as they are `SHORT`."""

_MEDIA = frozenset({"image_url", "input_image", "image"})
_POINTERS = frozenset(
    {"file", "input_file", "file_url", "document_url", "audio_url", "video_url", "input_video", "video"}
)
"""As the type of a part, or as a field of one without a type, as vLLM takes it."""

_MEDIAL = _POINTERS | {"type", "multimodal_data", "image_url", "image", "audio"}
"""The fields by which a medium is known."""

PAYLOAD = frozenset({"image_url", "image", "input_audio", "file", "file_url", "file_data", "video_url", "url", "data"})
"""What of a medium is the medium itself: its tokens are bounded, its bytes are no text."""


def medium(item: dict[str, Any]) -> Medium | None:
    """What an object of a prompt weighs that is no text."""
    if _MEDIAL.isdisjoint(item):
        return None
    kind = item.get("type")
    if kind == "input_audio":
        sound = item.get("input_audio")
        data = sound.get("data") if isinstance(sound, dict) else None
        known = isinstance(data, str)
        return Medium(len(data) // AUDIO_CHARACTERS_PER_TOKEN + 1 if known else IMAGE_TOKENS, PAYLOAD)  # type: ignore[arg-type]
    if kind in _POINTERS or not _POINTERS.isdisjoint(item):
        return Medium(0, PAYLOAD, hidden=True)
    if "multimodal_data" in item:  # llama.cpp: pictures and sounds beside a prompt that isn't a chat
        return Medium(0, frozenset({"multimodal_data"}), hidden=True)
    if kind in _MEDIA or "image_url" in item:
        return Medium(IMAGE_TOKENS, PAYLOAD)
    if "image" in item:
        return Medium(IMAGE_TOKENS, frozenset())  # to embed or to rank; or a text that a template reads
    spoken = item.get("audio")  # what the model said aloud earlier, and reads again
    return Medium(0, frozenset(), hidden=True) if isinstance(spoken, dict) and "id" in spoken else None


def weigh(*values: Any) -> Weight:
    """What some values of a body weigh together."""
    weight = Weight(medium, NOT_TEXT)
    for value in values:
        weight.add(value)
    return weight


def read_ask(fields: Fields, _: str | None = None, *, named: str = "messages", output: bool = True) -> Ask:
    """What a request asks for whose prompt is the field `named`; an embedding has no output. Raises Refusal
    `invalid_request`.
    """
    model = model_of(fields)
    stream = flag(fields, "stream")
    options = body.value(fields, "stream_options")
    if not isinstance(options, dict | None):
        raise Refusal("stream_options must be an object", param="stream_options")
    tier = text(fields, "service_tier")
    prompt = body.value(fields, named)
    weight = weigh(prompt, body.value(fields, "suffix")) if "suffix" in fields else weigh(prompt)
    for name in ("tools", "functions", "response_format"):
        if name in fields:
            weight.text += len(bytes(fields[name]))
    # Where one of these is the prompt, an upstream may put the others in as well.
    weight.text += unread_bytes(fields, _read_beside(named))
    inputs = texts_in(prompt) if named != "messages" else 0
    hidden = weight.hidden or hides(fields)
    return Ask(
        model=model,
        stream=stream and output,
        usage_asked=options is not None and options.get("include_usage") is True,
        text_bytes=weight.text,
        messages=len(prompt) if named == "messages" and isinstance(prompt, list) else 0,
        inputs=inputs,
        media_tokens=weight.media,
        hidden_input=hidden,
        rounds=max(inputs, 1) if hidden else 1,
        output=output,
        max_output=most(fields, OUTPUT_BOUNDS),
        choices=most(fields, COUNTS) or 1,
        service_tier=tier,
        reasons=any(body.value(fields, name) not in (None, "none") for name in REASONING if name in fields),
        unquotable=_unquotable(fields),
        tags=tags_of(fields),
    )


@lru_cache(maxsize=8)
def _read_beside(named: str) -> frozenset[str]:
    """The fields that are read, or that no upstream puts into a prompt, where the prompt is the one `named`."""
    return KNOWN - {"messages", "prompt", "input", TEMPLATE_WORDS} | {named}


_HIDES = frozenset({TEMPLATE_WORDS, *HIDING})


def hides(fields: Fields) -> bool:
    """Whether a field makes more of the prompt than can be seen."""
    if _HIDES.isdisjoint(fields):
        return False
    told = body.value(fields, TEMPLATE_WORDS) if TEMPLATE_WORDS in fields else None
    return (isinstance(told, dict) and "chat_template" in told) or any(
        body.value(fields, name) is not None for name in HIDING
    )


def model_of(fields: Fields, default: str | None = None) -> str:
    model = body.value(fields, "model")
    if model is not None and not isinstance(model, str):
        raise Refusal("model must be a string: the name of a model", param="model")
    if not (model := model or default):
        raise Refusal("the field 'model' is missing: name a model, GET /v1/models lists them", param="model")
    return model


def flag(fields: Fields, name: str) -> bool:
    found = body.value(fields, name)
    if found not in (None, True, False):
        raise Refusal(f"{name} must be true or false", param=name)
    return bool(found)


def text(fields: Fields, name: str) -> str | None:
    found = body.value(fields, name)
    if not isinstance(found, str | None):
        raise Refusal(f"{name} must be a string", param=name)
    return found


def most(fields: Fields, names: Iterable[str]) -> int | None:
    """The largest of several bounds: upstreams differ in which of them they obey, and none goes beyond the largest."""
    given = [name for name in names if name in fields]
    return max(
        (positive(found, name) for name in given if (found := body.value(fields, name)) is not None), default=None
    )


def texts_in(given: Any) -> int:
    """How many texts a field holds that may be one text or several: a list of numbers is one text in tokens."""
    return len(given) if isinstance(given, list) and not all(isinstance(item, int) for item in given[:1]) else 0


def added_work(fields: Fields) -> str | None:
    """The first field that may cost money in a way that no bound is known for."""
    if _UNQUOTABLE.isdisjoint(fields):
        return None
    return next((name for name in UNQUOTABLE if body.value(fields, name) is not None), None)


def _unquotable(fields: Fields) -> str | None:
    """The same, and tools that the upstream runs."""
    found = added_work(fields)
    tools = body.value(fields, "tools") if "tools" in fields and found is None else None
    if isinstance(tools, list):
        own = ("function", "custom")
        if any(isinstance(tool, dict) and tool.get("type", "function") not in own for tool in tools):
            return "tools"
    return found


_TAGGING = frozenset({"metadata", "user", "safety_identifier"})


def tags_of(fields: Fields) -> dict[str, str]:
    """`metadata` and who the client's own user is, as tags: recorded with the usage, never interpreted."""
    if _TAGGING.isdisjoint(fields):
        return {}
    metadata = body.value(fields, "metadata")
    found = {f"metadata.{name}": text for name, text in metadata.items()} if isinstance(metadata, dict) else {}
    found["end_user"] = body.value(fields, "user") or body.value(fields, "safety_identifier")
    return short_tags(found)


def short_tags(found: Mapping[str, Any]) -> dict[str, str]:
    """Those that are texts, as many and as long as a usage row takes."""
    short = {name[:LONGEST_TAG]: text[:LONGEST_TAG] for name, text in found.items() if isinstance(text, str)}
    return dict(list(short.items())[:MOST_TAGS])


def refers_to(fields: Fields) -> tuple[str, ...]:
    """Files that the request makes the upstream read, and what a model said aloud earlier."""
    if "messages" not in fields or not body.may_name(bytes(fields["messages"]), ("file_id", "audio")):
        return ()
    messages = body.value(fields, "messages")
    several = messages if isinstance(messages, list) else []
    spoken = [part(one, "audio").get("id") for one in several if isinstance(one, dict)]
    found = (*body.strings_at(messages, ("file_id",)), *(name for name in spoken if isinstance(name, str)))
    return tuple(dict.fromkeys(found))


def prepare(fields: Fields, ask: Ask, terms: Terms) -> dict[str, Any]:
    """What must be changed in the body before it is sent; nothing more ever is."""
    changes = renamed(ask, terms) | bounded(fields, terms, OUTPUT_BOUNDS, terms.bound_fields, terms.bound_write)
    if ask.stream and terms.ask_usage and not ask.usage_asked:
        changes["stream_options"] = (body.value(fields, "stream_options") or {}) | {"include_usage": True}
    return changes


def renamed(ask: Ask, terms: Terms) -> dict[str, Any]:
    return {} if ask.model == terms.model else {"model": terms.model}


def bounded(fields: Fields, terms: Terms, names: Iterable[str], obeyed: Iterable[str], write: str) -> dict[str, Any]:
    """No field of `names` may state a larger bound than the hold carries, and one that is obeyed must state one."""
    if terms.bound is None:
        return {}
    stated = {name: found for name in names if (found := body.value(fields, name)) is not None}
    changes = {name: terms.bound for name, found in stated.items() if found > terms.bound}
    if not stated.keys() & set(obeyed):
        changes[write] = terms.bound
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
    audio: Any = None

    def text_bytes(self) -> int:
        whole = (self.content, self.reasoning_content or self.reasoning, self.refusal, self.tool_calls)
        said = [one for one in (*whole, self.function_call) if one]
        if len(said) == 1 and isinstance(said[0], str):
            return utf8_len(said[0])  # a piece of a stream, nearly always
        return weigh(*said).text if said else 0


class _Choice(msgspec.Struct):
    delta: _Said | None = None
    message: _Said | None = None
    text: Any = None
    """Of a completion that is no chat."""
    finish_reason: Any = None
    error: Any = None
    """OpenRouter says here what went wrong in an answer that doesn't stream, with HTTP 200."""


class _Answer(msgspec.Struct):
    """A whole answer, or a chunk of a stream: the fields that metering reads."""

    choices: list[_Choice] | None = None
    usage: Any = None
    service_tier: Any = None
    error: Any = None
    timings: Any = None


_answer = msgspec.json.Decoder(_Answer)


class _Text(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: None = None
    tool_calls: None = None
    function_call: None = None
    audio: None = None


class _OfOne(msgspec.Struct):
    delta: _Text
    message: None = None
    text: None = None
    finish_reason: None = None
    error: None = None


class _Piece(msgspec.Struct):
    """A chunk that brings a bit of text and nothing else, as nearly all do. What is `None` here is what `_Answer` and
    its like read besides: a chunk that says anything there is none.
    """

    choices: tuple[_OfOne]
    usage: None = None
    error: None = None
    timings: None = None
    service_tier: str | None = None


_piece = msgspec.json.Decoder(_Piece)


def _decode(data: bytes) -> _Answer | None:
    """An answer or a chunk, or None if it isn't a JSON object.

    What was billed must be heard also where something else in it is odd: half a character, or a field of another shape.
    """
    try:
        return _answer.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        found = body.lenient(data)
    if not isinstance(found, dict):
        return None
    try:
        return msgspec.convert(found, _Answer)
    except msgspec.ValidationError:
        return _Answer(**{name: found.get(name) for name in ("usage", "service_tier", "error", "timings")})


def _take(heard: Heard, answer: _Answer) -> None:
    for choice in answer.choices or ():
        said = choice.delta or choice.message
        if said is not None:
            heard.text_bytes += said.text_bytes()
            heard.reasoned = heard.reasoned or bool(said.reasoning_content or said.reasoning)
            if isinstance(said.audio, dict):
                heard.note(said.audio.get("id"))
        if choice.text:
            heard.text_bytes += weigh(choice.text).text
        if choice.finish_reason is not None:
            heard.finished = True
        if choice.error is not None:
            heard.failed = True
    if isinstance(answer.service_tier, str):
        heard.service_tier = answer.service_tier
    told = answer.usage if isinstance(answer.usage, dict) else _timed(answer.timings)
    usage = read_usage(told, heard.service_tier) if told is not None else None
    if usage is not None:
        heard.take_usage(usage)
    if answer.error is not None:
        heard.failed = True


def _timed(timings: Any) -> dict[str, Any] | None:
    """llama.cpp's `timings` as a usage: they are on the last chunk also where no usage was asked for."""
    if not isinstance(timings, dict) or "predicted_n" not in timings:
        return None
    cached = counted(timings, "cache_n") or 0
    return {
        "prompt_tokens": (counted(timings, "prompt_n") or 0) + cached,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens": timings["predicted_n"],
    }


def hear(answer: bytes) -> Heard | None:
    """A whole answer that didn't stream, or None if it isn't JSON of this format."""
    found = _decode(answer)
    if found is None:
        return None
    heard = Heard(finished=True)
    _take(heard, found)
    return heard


_TOTALS = ("prompt_tokens", "completion_tokens", "total_tokens")


def _hear_event(heard: Heard, event: Event) -> bool:
    """The chunk that has usage and no choices only comes where somebody asked for it."""
    data = event.data
    if data.startswith(b"[DONE]"):
        heard.done = heard.finished = True
        return True
    try:
        piece = _piece.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _hear_more(heard, data)
    said = piece.choices[0].delta
    if said.content:
        heard.text_bytes += utf8_len(said.content)
    if thought := said.reasoning_content or said.reasoning:
        heard.text_bytes += utf8_len(thought)
        heard.reasoned = True
    if piece.service_tier is not None:
        heard.service_tier = piece.service_tier
    return True


def _hear_more(heard: Heard, data: bytes) -> bool:
    """A chunk that may be more than a piece of text."""
    chunk = _decode(data)
    if chunk is None:
        return True  # a line that isn't a chunk: the client's to judge, and nothing to meter
    if chunk.choices and isinstance(chunk.usage, dict) and not any(map(chunk.usage.get, _TOTALS)):
        chunk.usage = None  # Ollama's completions carry one of zeros beside each piece of text
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
    read_ask=read_ask,
    prepare=prepare,
    hear=hear,
    stream=stream,
    refers_to=refers_to,
)
EMBEDDINGS = Endpoint(
    name="embeddings",
    dialect=OPENAI,
    path="/embeddings",
    known=KNOWN,
    read_ask=partial(read_ask, named="input", output=False),
    prepare=prepare,
    hear=hear,
    stream=stream,
)
