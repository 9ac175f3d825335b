"""The format `gemini`: what a request asks for, what an answer says it used, how an error looks. Pure, no I/O.

Source: Google's Gemini API reference and SDK types (google-genai 3.4); what Vertex AI and older servers do differently
is noted where it matters.

Google reads each field by two names, `generationConfig` and `generation_config`. So does llmgate, and refuses both at
once, `null` included: nobody outside knows which of them would count.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from ..errors import LlmgateError, Refusal
from ..names import MODEL
from ..quoting import positive
from ..types import Ask, Meters, Usage
from . import body
from .body import Fields
from .endpoint import Dialect, Endpoint, Terms
from .heard import Heard, SseStream
from .openai import short_tags
from .openai_usage import counted, split
from .sse import MAX_EVENT, Event
from .weight import SHORT, Medium, Weight, utf8_len

# ── names ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _spellings(*names: str) -> dict[str, tuple[str, ...]]:
    """Each name with the ways to write it: as in JSON, and as in Google's own definitions."""
    return {name: tuple(dict.fromkeys((name, re.sub("[A-Z]", lambda m: f"_{m[0].lower()}", name)))) for name in names}


def _all(spellings: dict[str, tuple[str, ...]]) -> frozenset[str]:
    return frozenset(spelling for spelled in spellings.values() for spelling in spelled)


_GENERATE = _spellings(
    *("model", "contents", "systemInstruction", "tools", "toolConfig", "cachedContent", "generationConfig"),
    *("serviceTier", "labels"),
)
_CONFIG = _spellings(
    *("maxOutputTokens", "candidateCount", "thinkingConfig", "responseModalities", "routingConfig", "modelConfig"),
    *("modelSelectionConfig", "responseSchema", "responseJsonSchema", "_responseJsonSchema", "responseFormat"),
)
_EMBED = _spellings("model", "content", "title", "embedContentConfig")
_BATCH = _spellings("model", "requests")
_COUNT = _spellings("model", "contents", "generateContentRequest")

UNQUOTABLE = ("routingConfig", "modelConfig", "modelSelectionConfig")
"""Fields of generationConfig that change who answers (Vertex AI): no bound is known for it."""

_OWN_TOOLS = frozenset({"functionDeclarations", "function_declarations"})
"""The only kind of tool that Google doesn't run by itself. Searches are billed by the piece, at one per prompt or one
per query the model thinks of; what other tools find is billed as input, in rounds that nothing bounds."""

_BOUNDED_MODALITIES = frozenset({"TEXT", "AUDIO"})
"""Whether maxOutputTokens also bounds what an image or a video is billed as is not documented."""

_PLAIN_TIERS = frozenset({"", "standard", "unspecified", "service_tier_standard", "service_tier_unspecified"})

IMAGE_TOKENS = 6_450
"""Upper bound of what one image is billed as: 25 tiles of 258 tokens (24 is the most that 3072 × 3072 pixels, to which
larger images are scaled down, can be cut into); from Gemini 3 on 2,240 at ultra high resolution."""

MEDIA_CHARACTERS_PER_TOKEN = 300
"""About what sounds, films and documents come to in base64 (32 tokens a second at 64 kbit/s, 258 a page of 60 kB). Only
for estimates: an hour of silence or a thousand empty pages fit into a few kB, so it is the context window that bounds
them, as it does what isn't shown at all."""

IMAGE_OUTPUT_TOKENS = 1_290
"""What an image in an answer is billed as, where the answer doesn't say it itself."""

AUDIO_OUTPUT_CHARACTERS_PER_TOKEN = 2_560
"""Likewise speech: 25 tokens a second, of 24 kHz × 16 bit in base64."""

_NOT_TEXT = frozenset({"role", "mimeType", "mime_type", "id", "level", "displayName", "display_name"})
"""Fields of a content that the model doesn't read as text, as long as they are `SHORT`."""

_AS_WRITTEN = frozenset({"args", "partialArgs", "partial_args", "response"})
"""What a function is called with and what it returns are objects: their names and numbers are read as well."""

_DATA = frozenset({"data"})
_URI = frozenset({"fileUri", "file_uri"})

# ── what a request asks for ───────────────────────────────────────────────────────────────────────────────────────────


def _medium(item: dict[str, Any]) -> Medium | None:
    """The object below `inlineData` or `fileData`. A label in two spellings may be read either way."""
    if not _URI.isdisjoint(item):
        return Medium(0, _URI, hidden=True)
    data = item.get("data")
    labels = [item[name] for name in ("mimeType", "mime_type") if name in item]
    if not isinstance(data, str) or not labels:
        return None
    if len(labels) == 1 and isinstance(labels[0], str):
        if labels[0].startswith("image/"):
            return Medium(IMAGE_TOKENS, _DATA)
        if labels[0].startswith("text/"):
            return None  # base64 is longer than the text in it
    return Medium(len(data) // MEDIA_CHARACTERS_PER_TOKEN + 1, _DATA, hidden=True)


def weigh(*values: Any) -> Weight:
    """What some values of a body weigh together."""
    weight = Weight(_medium, _NOT_TEXT, _AS_WRITTEN)
    for value in values:
        weight.add(value)
    return weight


def _refuse_twins(fields: Fields, spellings: dict[str, tuple[str, ...]]) -> None:
    for name, spelled in spellings.items():
        if sum(spelling in fields for spelling in spelled) > 1:
            raise Refusal(f"{' and '.join(spelled)} are one field: send one of them", param=name)


def _spelled(fields: Fields, name: str, spellings: dict[str, tuple[str, ...]] = _GENERATE) -> str:
    """How a body writes a field."""
    return next((spelling for spelling in spellings[name] if spelling in fields), name)


def _value(fields: Fields, name: str, spellings: dict[str, tuple[str, ...]] = _GENERATE) -> Any:
    return body.value(fields, _spelled(fields, name, spellings))


def _written(fields: Fields, name: str) -> int:
    """How long a field's value is written."""
    raw = fields.get(_spelled(fields, name))
    return len(bytes(raw)) if raw is not None else 0


def _inner(raw: bytes, what: str, spellings: dict[str, tuple[str, ...]]) -> Fields:
    """An object inside the body, taken apart as the body itself: no name may count twice."""
    if not raw.startswith(b"{"):
        raise Refusal(f"{what} must be an object", param=what)
    fields = body.read(raw, _all(spellings))
    _refuse_twins(fields, spellings)
    return fields


def _member(
    fields: Fields, name: str, within: dict[str, tuple[str, ...]], inside: dict[str, tuple[str, ...]]
) -> Fields:
    """A field that is an object; empty where it is absent or null."""
    raw = fields.get(_spelled(fields, name, within))
    if raw is None or bytes(raw) == b"null":
        return {}
    return _inner(bytes(raw), name, inside)


def _check_model(fields: Fields, model: str) -> None:
    """A body may name the model as well: then it must be the one of the path, which is quoted and routed."""
    given = body.value(fields, "model")
    if given is not None and given not in (model, f"models/{model}"):
        raise Refusal(f"the path names the model {model!r}, and the body another one", param="model")


def _path_model(model: str | None) -> str:
    if not model or not MODEL.fullmatch(model):
        raise Refusal("the path names no model: letters, digits and . _ : @ / - are allowed, .. is not", param="model")
    return model


def read_generate(fields: Fields, path_model: str | None, *, stream: bool) -> Ask:
    """What generateContent asks for. Raises Refusal `invalid_request`."""
    model = _path_model(path_model)
    _refuse_twins(fields, _GENERATE)
    _check_model(fields, model)
    config = _member(fields, "generationConfig", _GENERATE, _CONFIG)
    contents, system = _value(fields, "contents"), _value(fields, "systemInstruction")
    weight = weigh(contents, system)
    weight.text += _written(fields, "tools") + _written(fields, "toolConfig")
    # A schema is read by the model, and so may be what else is long.
    weight.text += sum(len(bytes(raw)) for raw in config.values() if len(bytes(raw)) > SHORT)
    bound, count = (_value(config, name, _CONFIG) for name in ("maxOutputTokens", "candidateCount"))
    return Ask(
        model=model,
        stream=stream,
        text_bytes=weight.text,
        messages=(len(contents) if isinstance(contents, list) else 1) + (system is not None),
        media_tokens=weight.media,
        hidden_input=weight.hidden or _value(fields, "cachedContent") is not None,
        max_output=None if bound is None else positive(bound, "maxOutputTokens"),
        choices=1 if count is None else positive(count, "candidateCount"),
        service_tier=_asked_tier(fields),
        reasons=_asks_to_reason(_value(config, "thinkingConfig", _CONFIG)),
        unquotable=_unquotable(_value(fields, "tools"), config),
        tags=_tags(fields),
    )


def _asked_tier(fields: Fields) -> str | None:
    tier = _value(fields, "serviceTier")
    if not isinstance(tier, str | None):
        raise Refusal("serviceTier must be a string", param="serviceTier")
    tier = (tier or "").lower()
    return None if tier in _PLAIN_TIERS else tier.removeprefix("service_tier_")


def _asks_to_reason(thinking: Any) -> bool:
    return isinstance(thinking, dict) and any(wish not in (None, False, 0, "0") for wish in thinking.values())


def _unquotable(tools: Any, config: Fields) -> str | None:
    """What may cost money in a way that no bound is known for."""
    for tool in tools if isinstance(tools, list) else [tools]:
        if isinstance(tool, dict) and any(tool[name] is not None for name in tool.keys() - _OWN_TOOLS):
            return "tools"
    modalities = _value(config, "responseModalities", _CONFIG)
    for modality in modalities if isinstance(modalities, list) else [modalities]:
        if modality is not None and str(modality).upper() not in _BOUNDED_MODALITIES:
            return "responseModalities"
    return next((name for name in UNQUOTABLE if _value(config, name, _CONFIG) is not None), None)


def _tags(fields: Fields) -> dict[str, str]:
    """`labels` as tags: recorded with the usage, never interpreted."""
    labels = _value(fields, "labels")
    if not isinstance(labels, dict):
        return {}
    return short_tags({f"metadata.{name}": text for name, text in labels.items()})


def read_embed(fields: Fields, path_model: str | None) -> Ask:
    """What embedContent asks for. Raises Refusal `invalid_request`."""
    return _embedding(_path_model(path_model), [fields])


def read_batch_embed(fields: Fields, path_model: str | None) -> Ask:
    """What batchEmbedContents asks for. Raises Refusal `invalid_request`."""
    model = _path_model(path_model)
    _check_model(fields, model)
    return _embedding(model, _requests(fields))


def _embedding(model: str, requests: list[Fields]) -> Ask:
    weight = weigh()
    for request in requests:
        _refuse_twins(request, _EMBED)
        _check_model(request, model)
        for name in ("content", "title", "embedContentConfig"):
            weight.add(_value(request, name, _EMBED))
    return Ask(
        model=model,
        text_bytes=weight.text,
        inputs=len(requests),
        media_tokens=weight.media,
        hidden_input=weight.hidden,
        output=False,
        # One context window bounds what one request hides, and not what several do.
        unquotable="requests" if weight.hidden and len(requests) > 1 else None,
    )


_several = msgspec.json.Decoder(list[msgspec.Raw])


def _requests(fields: Fields) -> list[Fields]:
    """The requests of a batch."""
    raw = bytes(fields.get("requests", b"null"))
    try:
        found = _several.decode(b"[]" if raw == b"null" else raw)
    except msgspec.DecodeError as error:
        raise Refusal("requests must be a list", param="requests") from error
    return [_inner(bytes(raw), "requests", _EMBED) for raw in found]


def read_count(fields: Fields, path_model: str | None) -> Ask:
    """What countTokens asks for: nothing that anybody bills, but the model must be the one of the path."""
    model = _path_model(path_model)
    _refuse_twins(fields, _COUNT)
    _check_model(fields, model)
    _check_model(_member(fields, "generateContentRequest", _COUNT, _GENERATE), model)
    return Ask(model=model, output=False)


_FILE = re.compile(r"(https?://[^/]*\bgoogleapis\.com/(upload/)?v[0-9a-z]+/)?files/", re.IGNORECASE)


def refers_to(fields: Fields) -> tuple[str, ...]:
    """Files and contexts kept by Google that the request makes it read. (Any other address is what it is to
    everybody.)"""
    several = [name for name, raw in fields.items() if bytes(raw)[:1] in (b"{", b"[")]
    files = (uri for uri in body.strings_in(fields, several, tuple(_URI)) if _FILE.match(uri))
    inner = _member(fields, "generateContentRequest", _COUNT, _GENERATE)  # of a request to count tokens
    cached = (_value(one, "cachedContent") for one in (fields, inner))
    return (*files, *(name for name in cached if isinstance(name, str)))


# ── what must be changed ──────────────────────────────────────────────────────────────────────────────────────────────


def _renamed(fields: Fields, terms: Terms) -> dict[str, Any]:
    """The model by the name that this upstream knows, where a body names it at all."""
    given = body.value(fields, "model")
    if given is None:
        return {}
    name = f"models/{terms.model}" if given.startswith("models/") else terms.model
    return {} if name == given else {"model": name}


def _with(fields: Fields, changes: dict[str, Any]) -> msgspec.Raw:
    """An object inside the body with some of its fields changed; all others keep their bytes."""
    return msgspec.Raw(body.write(fields, changes))


def prepare_generate(fields: Fields, _: Ask, terms: Terms) -> dict[str, Any]:
    """The model's name and the bound of the output, the latter in the words that the body itself uses.

    The bound that is sent is never larger than the one that the hold carries.
    """
    changes = _renamed(fields, terms)
    if terms.bound is not None:
        config = _member(fields, "generationConfig", _GENERATE, _CONFIG)
        stated = _value(config, "maxOutputTokens", _CONFIG)
        if stated is None or stated > terms.bound:
            outer = _spelled(fields, "generationConfig")
            fresh = "max_output_tokens" if outer == "generation_config" else "maxOutputTokens"
            inner = next((name for name in _CONFIG["maxOutputTokens"] if name in config), fresh)
            changes[outer] = _with(config, {inner: terms.bound})
    return changes


def prepare_embed(fields: Fields, _: Ask, terms: Terms) -> dict[str, Any]:
    return _renamed(fields, terms)


def prepare_batch_embed(fields: Fields, ask: Ask, terms: Terms) -> dict[str, Any]:
    changes = _renamed(fields, terms)
    if ask.model != terms.model:
        requests = _requests(fields)
        renamed = [_renamed(request, terms) for request in requests]
        if any(renamed):
            changes["requests"] = [_with(*pair) for pair in zip(requests, renamed, strict=True)]
    return changes


def prepare_count(fields: Fields, _: Ask, terms: Terms) -> dict[str, Any]:
    changes = _renamed(fields, terms)
    inner = _member(fields, "generateContentRequest", _COUNT, _GENERATE)
    if renamed := _renamed(inner, terms):
        changes[_spelled(fields, "generateContentRequest", _COUNT)] = _with(inner, renamed)
    return changes


# ── what an answer says ───────────────────────────────────────────────────────────────────────────────────────────────


class _Part(msgspec.Struct, rename="camel"):
    """The fields of a part that are billed as output, or tell how it came about."""

    text: Any = None
    thought: Any = None
    thought_signature: Any = None
    function_call: Any = None
    tool_call: Any = None
    executable_code: Any = None
    inline_data: Any = None

    @property
    def image(self) -> bool:
        """An image that is part of the answer: those that a model makes for itself while it thinks aren't billed."""
        data = self.inline_data
        return not self.thought and isinstance(data, dict) and str(data.get("mimeType")).startswith("image/")

    def text_bytes(self) -> int:
        """What it weighs. An image or speech weighs what its tokens would as text, of which three bytes make one."""
        said = utf8_len(self.text) if isinstance(self.text, str) else 0
        if called := [value for value in (self.function_call, self.tool_call, self.executable_code) if value]:
            said += weigh(*called).text
        if self.image:
            said += 3 * IMAGE_OUTPUT_TOKENS
        elif isinstance(self.inline_data, dict) and isinstance(data := self.inline_data.get("data"), str):
            said += 3 * (len(data) // AUDIO_OUTPUT_CHARACTERS_PER_TOKEN + 1)
        return said


class _Content(msgspec.Struct):
    parts: list[_Part] | None = None


class _Candidate(msgspec.Struct, rename="camel"):
    content: _Content | None = None
    finish_reason: Any = None
    grounding_metadata: Any = None


class _Embedding(msgspec.Struct):
    statistics: Any = None


class _Answer(msgspec.Struct, rename="camel"):
    """A whole answer, or a piece of a stream: the fields that metering reads."""

    candidates: list[_Candidate] | None = None
    prompt_feedback: Any = None
    usage_metadata: Any = None
    model_version: Any = None
    embedding: _Embedding | None = None
    embeddings: list[_Embedding] | None = None
    error: Any = None


_answer = msgspec.json.Decoder(_Answer)


def _decode(data: bytes) -> list[_Answer] | None:
    """An answer, or a list of them (a stream of the one framing, read whole), or None if it isn't either.

    What was billed must be heard also where something else in it is odd: half a character, or a field of another shape.
    """
    try:
        return [_answer.decode(data)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        found = body.lenient(data)
    several = found if isinstance(found, list) else [found]
    if not all(isinstance(one, dict) for one in several):
        return None
    return [_convert(one) for one in several]


def _convert(found: dict[str, Any]) -> _Answer:
    try:
        return msgspec.convert(found, _Answer)
    except msgspec.ValidationError:
        return _Answer(
            usage_metadata=found.get("usageMetadata"),
            model_version=found.get("modelVersion"),
            error=found.get("error"),
        )


class _Listener:
    """What is remembered between the pieces of an answer, besides what every format hears."""

    __slots__ = ("_images", "_maps", "_model", "_queries", "_sources")

    def __init__(self) -> None:
        self._queries: set[tuple[str, str]] = set()
        self._sources = False
        self._maps = False
        self._images = 0
        self._model = ""

    def take(self, heard: Heard, answer: _Answer) -> None:
        for candidate in answer.candidates or ():
            for part in (candidate.content and candidate.content.parts) or ():
                heard.text_bytes += part.text_bytes()
                heard.reasoned = heard.reasoned or bool(part.thought or part.thought_signature)
                self._images += part.image
            self._ground(candidate.grounding_metadata)
            if candidate.finish_reason not in (None, "FINISH_REASON_UNSPECIFIED"):
                heard.finished = True
        if isinstance(answer.prompt_feedback, dict) and answer.prompt_feedback.get("blockReason"):
            heard.finished = True  # the prompt was refused: no candidate follows
        if isinstance(answer.model_version, str):
            self._model = answer.model_version
        if (usage := _usage_of(answer)) is not None:
            heard.service_tier = usage.service_tier or heard.service_tier
            heard.reasoned = heard.reasoned or usage.meters.reasoning > 0
            heard.take_usage(usage)
        if answer.error is not None:
            heard.failed = True
        self._add_pieces(heard)

    def _ground(self, grounding: Any) -> None:
        """Searches. Google counts the different queries, and not those that are empty."""
        if not isinstance(grounding, dict):
            return
        for kind in ("webSearchQueries", "imageSearchQueries"):
            self._queries |= {(kind, query) for query in _list(grounding, kind) if isinstance(query, str) and query}
        chunks = [chunk for chunk in _list(grounding, "groundingChunks") if isinstance(chunk, dict)]
        self._sources = self._sources or any("web" in chunk for chunk in chunks)
        self._maps = self._maps or any("maps" in chunk for chunk in chunks)

    @property
    def _searches(self) -> int:
        """Up to Gemini 2 a prompt that was searched for is billed, from Gemini 3 on each query of it; so are those of a
        model that isn't named. Maps are billed beside that, once.
        """
        queries = max(len(self._queries), self._sources)
        return (min(queries, 1) if _BILLED_PER_PROMPT.search(self._model) else queries) + self._maps

    def _add_pieces(self, heard: Heard) -> None:
        """No usage counts what is billed by the piece. It may come before the usage, after it, or without any."""
        if not (self._queries or self._sources or self._maps or self._images):
            return
        usage = heard.usage or Usage(meters=Meters(calls=1), input_missing=True, output_missing=True)
        meters = msgspec.structs.replace(usage.meters, searches=self._searches, images=self._images)
        heard.usage = msgspec.structs.replace(usage, meters=meters)


_BILLED_PER_PROMPT = re.compile(r"\bgemini-[12]\.")


def _usage_of(answer: _Answer) -> Usage | None:
    if isinstance(answer.usage_metadata, dict):
        return read_usage(answer.usage_metadata)
    embeddings = answer.embeddings or ([answer.embedding] if answer.embedding else [])
    told = [counted(one.statistics, "tokenCount") for one in embeddings if isinstance(one.statistics, dict)]
    if not told or None in told or len(told) < len(embeddings):
        return None
    return Usage(meters=Meters(input=sum(filter(None, told)), calls=1))


def _list(found: dict[str, Any], name: str) -> list[Any]:
    value = found.get(name)
    return value if isinstance(value, list) else []


_TRAFFIC = {"ON_DEMAND_FLEX": "flex", "ON_DEMAND_PRIORITY": "priority"}


def _tier(usage: dict[str, Any]) -> str | None:
    """The tier that was served, as prices name it: Google's own API and Vertex AI say it differently."""
    tier = usage.get("serviceTier")
    if isinstance(tier, str) and tier:
        return tier.lower().removeprefix("service_tier_")
    return _TRAFFIC.get(str(usage.get("trafficType")))


_SEEN = frozenset({"IMAGE", "VIDEO", "DOCUMENT"})
"""A page of a document is an image; from Gemini 3 on it is counted as one."""


def _heard_and_seen(usage: dict[str, Any], name: str) -> tuple[int, int]:
    """The tokens of sound and those of images in a list of details by modality."""
    heard = seen = 0
    for detail in _list(usage, name):
        if isinstance(detail, dict):
            modality = str(detail.get("modality"))
            if modality == "AUDIO":
                heard += counted(detail, "tokenCount") or 0
            elif modality in _SEEN:
                seen += counted(detail, "tokenCount") or 0
    return heard, seen


def read_usage(usage: dict[str, Any]) -> Usage | None:
    """A `usageMetadata` as disjoint meters, or None if it counts nothing (an explicit zero counts).

    The total is the sum of prompt, candidates, thoughts and what tools added to the prompt. Of those, the first that is
    missing is what the total leaves. Cached tokens are part of the prompt. Some servers count thoughts inside the
    candidates: then it is their total that tells, by being short of exactly that.
    """
    names = ("promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount", "toolUsePromptTokenCount")
    told = [counted(usage, name) for name in names]
    total = counted(usage, "totalTokenCount")
    if total is None and not any(count is not None for count in told):
        return None
    counts = [count or 0 for count in told]
    if total is not None and None in told:
        counts[told.index(None)] = max(total - sum(counts), 0)
    prompt, candidates, thoughts, tool = counts
    if None not in told[:2] and total is not None and 0 < thoughts <= candidates:
        beside = total - prompt - candidates
        if beside in (0, tool) and beside not in (thoughts, thoughts + tool):
            candidates -= thoughts
    (cached,) = split(prompt, counted(usage, "cachedContentTokenCount") or 0)
    # Cached sounds are in the details of the prompt and in those of the cache.
    of_prompt = _heard_and_seen(
        usage, "promptTokensDetails" if "promptTokensDetails" in usage else "promptTokenDetails"
    )
    of_cache = _heard_and_seen(usage, "cacheTokensDetails")
    of_tool = _heard_and_seen(usage, "toolUsePromptTokensDetails")
    audio, image = (max(of_prompt[i] - of_cache[i], 0) + of_tool[i] for i in (0, 1))
    audio, image = split(prompt + tool - cached, audio, image)
    # No model both speaks and draws, so that what isn't text has one price.
    (shown,) = split(candidates, sum(_heard_and_seen(usage, "candidatesTokensDetails")))
    return Usage(
        meters=Meters(
            input=prompt + tool - cached - audio - image,
            cached_input=cached,
            audio_input=audio,
            image_input=image,
            output=candidates - shown,
            reasoning=thoughts,
            audio_output=shown,
            calls=1,
        ),
        input_missing=told[0] is None and total is None,
        # The first pieces of a stream may have text, and a total that is the prompt's alone.
        output_missing=told[1] is None and not candidates and not thoughts,
        service_tier=_tier(usage),
    )


def hear(answer: bytes) -> Heard | None:
    """A whole answer, or None if it isn't JSON of this format."""
    found = _decode(answer)
    if found is None:
        return None
    heard, listener = Heard(), _Listener()
    for one in found:
        listener.take(heard, one)
    heard.finished = True
    return heard


def hear_count(answer: bytes) -> Heard | None:
    """An answer of countTokens: nothing of what it counts was consumed."""
    return None if _decode(answer) is None else Heard(usage=Usage(meters=Meters()), finished=True)


# ── streams ───────────────────────────────────────────────────────────────────────────────────────────────────────────

_QUOTE, _BACKSLASH = b'"\\'
_BRACES, _BRACKETS = b"{}", b"[]"
_OPENING = b"{["
_OUTSIDE = re.compile(rb'["{}\[\]]')
_INSIDE = re.compile(rb'["\\]')


class ElementReader:
    """Cuts a JSON array that arrives piece by piece into the objects in it.

    All of JSON's structure is ASCII, so it is found in the bytes, and no piece can tear it. An object of more than
    `max_element` bytes is passed over; those after it are handed out all the same.
    """

    __slots__ = ("_base", "_depth", "_escaped", "_held", "_in_string", "_max", "ended")

    def __init__(self, *, max_element: int = MAX_EVENT) -> None:
        self._max = max_element
        self._depth = 0
        self._base: int | None = None
        """The depth at which the object stands that has begun; None between objects."""
        self._held: bytearray | None = bytearray()
        """Its bytes so far; None if there were too many."""
        self._in_string = False
        self._escaped = False
        self.ended = False
        """The array was closed."""

    def feed(self, data: bytes) -> list[bytes]:
        """The objects that these bytes complete."""
        elements = []
        begin = at = 0
        while at < len(data):
            if self._escaped:
                self._escaped = False
                at += 1
                continue
            found = (_INSIDE if self._in_string else _OUTSIDE).search(data, at)
            if found is None:
                break
            at = found.end()
            sign = data[at - 1]
            if sign == _QUOTE:
                self._in_string = not self._in_string
            elif sign == _BACKSLASH:
                self._escaped = True
            elif sign in _OPENING:
                if self._base is None and self._depth <= 1 and sign == _BRACES[0]:
                    self._base, self._held, begin = self._depth, bytearray(), at - 1
                self._depth += 1
            else:
                self._depth = max(self._depth - 1, 0)
                self.ended = self.ended or self._depth == 0
                if self._depth == self._base:
                    self._hold(data[begin:at])
                    if self._held is not None:
                        elements.append(bytes(self._held))
                    self._base, self._held = None, bytearray()
        if self._base is not None:
            self._hold(data[begin:])
        return elements

    @property
    def between(self) -> bool:
        """The array has begun and isn't closed, and no object is torn."""
        return self._depth == 1 and self._base is None and not self.ended

    def _hold(self, data: bytes) -> None:
        if self._held is not None:
            self._held += data
            if len(self._held) > self._max:
                self._held = None


class GeminiStream:
    """A stream in either framing: server-sent events (`alt=sse`) or one JSON array. The first byte tells which.

    The bytes that are passed on are those that came, at once: nothing comes only because llmgate asked for it.
    """

    __slots__ = ("_elements", "_framed", "_last", "_listener", "_sse", "heard")

    def __init__(self) -> None:
        self._listener = _Listener()
        self._sse = SseStream(self._hear_event)
        self._elements: ElementReader | None = None
        self._framed = False
        self._last = b""
        """The last byte that is no blank."""
        self.heard = self._sse.heard

    def feed(self, data: bytes) -> bytes:
        if not self._framed and (first := data.lstrip()[:1]):
            self._framed = True
            self._elements = ElementReader() if first in (b"[", b"{") else None
        if self._elements is None:
            self._sse.feed(data)
            return data
        for element in self._elements.feed(data):
            self._hear(element)
        self.heard.done = self._elements.ended
        self._last = data.rstrip()[-1:] or self._last
        return data

    def finish(self) -> bytes:
        return self._sse.finish()

    def break_off(self) -> bytes:
        """An array that ends between two objects can take one more, which says what went wrong."""
        if self._elements is None:
            return self._sse.break_off()
        self.heard.open_array = self._elements.between
        return b"," if self._elements.between and self._last == b"}" else b""

    def _hear_event(self, _: Heard, event: Event) -> bool:
        self._hear(event.data)
        return True

    def _hear(self, data: bytes) -> None:
        for answer in _decode(data) or ():
            self._listener.take(self.heard, answer)


def stream(_: bool) -> GeminiStream:
    return GeminiStream()


# ── errors ────────────────────────────────────────────────────────────────────────────────────────────────────────────

_STATUSES = {
    401: "UNAUTHENTICATED",
    402: "RESOURCE_EXHAUSTED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    408: "DEADLINE_EXCEEDED",
    409: "ABORTED",
    412: "FAILED_PRECONDITION",
    428: "FAILED_PRECONDITION",
    429: "RESOURCE_EXHAUSTED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""google.rpc.Code by HTTP status; any other is the caller's fault or ours."""


def error_body(error: LlmgateError, request_id: str = "") -> bytes:  # noqa: ARG001
    """An error as Google's clients expect it. `error` must be the first field: the SDK looks at how a chunk begins."""
    status = error.http_status
    name = _STATUSES.get(status, "INVALID_ARGUMENT" if status < 500 else "INTERNAL")
    return msgspec.json.encode({"error": {"code": status, "message": error.message, "status": name}})


def error_event(error: LlmgateError, request_id: str = "") -> bytes:
    """An error in the middle of a stream: the SDK raises from it, and breaks at comments, `event:` and `[DONE]`."""
    return b"data: " + error_body(error, request_id) + b"\n\n"


GEMINI = Dialect(name="gemini", error_body=error_body, error_event=error_event)


def _endpoint(
    name: str,
    method: str,
    spellings: dict[str, tuple[str, ...]],
    read_ask: Callable[[Fields, str | None], Ask],
    prepare: Callable[[Fields, Ask, Terms], dict[str, Any]],
) -> Endpoint:
    return Endpoint(
        name=name,
        dialect=GEMINI,
        path=f"/models/{{model}}:{method}",
        known=_all(spellings),
        read_ask=read_ask,
        prepare=prepare,
        hear=hear,
        stream=stream,
        refers_to=refers_to,
    )


GENERATE = _endpoint(
    "generate_content", "generateContent", _GENERATE, partial(read_generate, stream=False), prepare_generate
)
STREAM = _endpoint(
    "generate_content", "streamGenerateContent", _GENERATE, partial(read_generate, stream=True), prepare_generate
)
EMBED = _endpoint("embed_content", "embedContent", _EMBED, read_embed, prepare_embed)
BATCH_EMBED = _endpoint("batch_embed_contents", "batchEmbedContents", _BATCH, read_batch_embed, prepare_batch_embed)
COUNT = msgspec.structs.replace(
    _endpoint("count_tokens", "countTokens", _COUNT, read_count, prepare_count), hear=hear_count, free=True
)
