"""The format `anthropic`: what a request asks for, what an answer says it used, how an error looks. Pure, no I/O.

Source: Anthropic's API reference and SDK types (anthropic 2.11).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial, reduce
from typing import Any, NamedTuple

import msgspec

from ..errors import LlmgateError
from ..quoting import positive
from ..types import Ask, Meters, Usage
from . import body
from .body import Fields
from .endpoint import Dialect, Endpoint, Terms
from .heard import Heard, SseStream
from .openai import LONGEST_TAG, flag, model_of, text
from .openai_usage import count, counted, part, split
from .sse import Event
from .weight import Medium, Weight, unread_bytes, utf8_len, written_bytes

# ── what a request asks for ───────────────────────────────────────────────────────────────────────────────────────────

FAST = "fast"
"""A speed that has a price of its own: it is taken for a tier of service."""

UNQUOTABLE = (
    *("mcp_servers", "container"),  # work of others, and machines billed by the hour, which `usage` doesn't tell
    *("fallbacks", "models", "route", "plugins", "provider", "preset"),  # who answers is decided over there
    *("compaction",),  # a summary is written beside the answer, and no bound of it is known
    *("max_completion_tokens", "max_output_tokens", "n_predict", "n", "n_cmpl", "best_of"),  # bounds of other formats
)
"""Fields that may cost money in ways that no bound is known for."""

HARMLESS = {
    "speed": ("standard", FAST),
    "inference_geo": ("global", "not_available"),  # "us" costs a tenth more
}
"""Fields whose value decides what a token costs → the values that don't make it dearer, or whose price is known."""

KNOWN = frozenset(
    {"model", "stream", "max_tokens", "system", "messages", "tools", "thinking", "service_tier", "metadata", "thread"}
    | {"output_config", "output_format", "context_management", "diagnostics", *HARMLESS, *UNQUOTABLE}
)

IMAGE_TOKENS = 8_848
"""Upper bound of what one image is billed as: ⌈width × height / 750⌉ of the largest that is not scaled down first, of
2,576 pixels on its long edge (the older models' limit is 1,568)."""

HARNESS_TOKENS = 1_024
"""Upper bound of the instructions that come with a request that has tools or an output schema (up to 804 are told)."""

PREDEFINED_TOKENS = 2_048
"""Upper bound of the definition of a tool that only has a name in the body (computer use: 735, and 499 beside it)."""

ROUNDS = 10
"""The most rounds that Anthropic's own tools get in one request: then it ends with `pause_turn`."""

_PREDEFINED = re.compile(r"(bash|text_editor|computer|memory)_\d{8}")
_TOOLSET = re.compile(r"(browser|computer)_toolset_\d{8}")
_OWN = re.compile(r"web_fetch_\d{8}|tool_search_tool_(bm25|regex)(_\d{8})?")
_SEARCH = re.compile(r"web_search_\d{8}")

_NOT_TEXT = frozenset({"role", "type", "id", "tool_use_id", "media_type", "cache_control", "citations", "caller"})
"""Fields of a message that the model doesn't read as text, as long as they are `SHORT`."""

_NESTED = frozenset({"content", "source"})
"""Where images and documents may stand. Anything else that isn't plain is text, above all the `input` of a tool."""

_IMAGES = ("image/jpeg", "image/png", "image/gif", "image/webp")


def _medium(item: dict[str, Any]) -> Medium | None:
    """What the `source` of an image or a document is. (Plain text and content blocks are weighed as what they are.)"""
    kind = item.get("type")
    if kind == "base64":
        # The pages of a PDF can't be told from its size: it is compressed.
        image = item.get("media_type") in _IMAGES
        return Medium(IMAGE_TOKENS if image else 0, frozenset({"data"}), hidden=not image)
    if kind == "url":
        return Medium(0, frozenset({"url"}), hidden=True)
    return Medium(0, frozenset({"file_id"}), hidden=True) if kind in ("file", "container_upload") else None


def weigh(*values: Any) -> Weight:
    """What some values of a body weigh together.

    Thoughts and search results that are sent back hold their text encrypted (`signature`, `data`,
    `encrypted_content`), and it is billed: the ciphertext is weighed in its place.
    """
    weight = Weight(_medium, _NOT_TEXT, nested=_NESTED)
    for value in values:
        weight.add(value)
    return weight


class _Tools(NamedTuple):
    """What the tools of a request may add to it."""

    tokens: int
    """Of definitions that aren't in the body."""
    searches: int
    own: bool
    """The upstream runs some of them itself: the model reads what they found, and all else again, round after round."""
    hidden: bool
    bounded: bool


def _read_tools(tools: Any) -> _Tools:
    tokens, searches, own, hidden, bounded = 0, 0, False, False, True
    for tool in _objects(tools):
        kind = str(tool.get("type") or "custom")
        if _SEARCH.fullmatch(kind):
            uses = counted(tool, "max_uses")
            own, bounded = True, bounded and uses is not None
            searches += uses or 0
        elif _OWN.fullmatch(kind):
            own = True
        elif _PREDEFINED.fullmatch(kind):
            tokens += PREDEFINED_TOKENS
        elif _TOOLSET.fullmatch(kind):
            hidden = True  # dozens of tools, whose definitions are nowhere counted
        elif kind != "custom":
            bounded = False  # code execution (by the hour), advisors (another model), and what nobody knows yet
    return _Tools(tokens, searches, own, hidden, bounded)


def read_ask(fields: Fields, _: str | None = None) -> Ask:
    """What a message asks for. Raises Refusal `invalid_request`."""
    stream, tier = flag(fields, "stream"), text(fields, "service_tier")
    bound = body.value(fields, "max_tokens")
    messages = body.value(fields, "messages")
    weight = weigh(messages, body.value(fields, "system"))
    defined = body.value(fields, "tools")
    tools = _read_tools(defined)
    schemas = [_object(fields, "output_config").get("format"), body.value(fields, "output_format")]
    written = sum(written_bytes(schema) for schema in schemas if schema)
    if defined:
        written += len(bytes(fields["tools"]))
    if written:
        written += HARNESS_TOKENS
    thinking = _object(fields, "thinking")
    budget = count(thinking, "budget_tokens") if thinking.get("type") == "enabled" else 0
    return Ask(
        model=model_of(fields),
        stream=stream,
        text_bytes=weight.text + written + tools.tokens + unread_bytes(fields, KNOWN),
        messages=len(messages) if isinstance(messages, list) else 0,
        media_tokens=weight.media,
        hidden_input=weight.hidden or tools.own or tools.hidden or body.value(fields, "thread") is not None,
        rounds=ROUNDS if tools.own else 1,
        max_output=None if bound is None else positive(bound, "max_tokens"),
        min_output=budget + 1,
        searches=tools.searches,
        service_tier=FAST if body.value(fields, "speed") == FAST else tier,
        reasons=thinking.get("type") not in (None, "disabled"),
        unquotable=_unquotable(fields, messages, tools),
        remembers=tools.own or not tools.bounded or any(body.value(fields, name) is not None for name in _CARRIED_ON),
        tags=_tags(fields),
    )


_LONG_CONTEXT = re.compile(r"\bcontext-(\d{1,2})m\b")


def opened_context(headers: Iterable[tuple[bytes, bytes]]) -> int:
    """The context window in tokens that `anthropic-beta` opens beyond the one that is listed; 0: none."""
    betas = [value for name, value in headers if name.replace(b"_", b"-").endswith(b"anthropic-beta")]
    return 1_000_000 * max(map(int, _LONG_CONTEXT.findall(b",".join(betas).decode("latin-1").lower())), default=0)


def read_count(fields: Fields, _: str | None = None) -> Ask:
    """What a request to count tokens asks for: nothing that is billed. Raises Refusal `invalid_request`."""
    return Ask(model=model_of(fields), output=False, tags=_tags(fields))


def _object(fields: Fields, name: str) -> dict[str, Any]:
    """A field that is an object; empty where it is something else, which is the upstream's to judge."""
    found = body.value(fields, name)
    return found if isinstance(found, dict) else {}


def _objects(value: Any) -> list[dict[str, Any]]:
    """The objects of a list; none where it is no list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _unquotable(fields: Fields, messages: Any, tools: _Tools) -> str | None:
    """The first field that may cost money in a way that no bound is known for."""
    found = [name for name in UNQUOTABLE if body.value(fields, name) is not None]
    found += [name for name, fine in HARMLESS.items() if body.value(fields, name) not in (None, *fine)]
    others = {
        "tools": not tools.bounded,
        "messages": _adds_tools(messages),
        "context_management": _compacts(fields),
    }
    found += [name for name, unbounded in others.items() if unbounded]
    return found[0] if found else None


def _adds_tools(messages: Any) -> bool:
    """A message defines a tool in the middle of the conversation (beta): it isn't looked at as those in `tools` are."""
    blocks = [block for message in _objects(messages) for block in _objects(message.get("content"))]
    added = [part(block, "tool") for block in blocks if block.get("type") == "tool_addition"]
    return any(not str(tool.get("type")).endswith("_reference") for tool in added)


def _compacts(fields: Fields) -> bool:
    """Old turns are summarised, and that is billed beside the answer. Clearing them only makes the input less."""
    edits = _objects(_object(fields, "context_management").get("edits"))
    return any(not str(edit.get("type")).startswith("clear_") for edit in edits)


def _tags(fields: Fields) -> dict[str, str]:
    """Who the client says its user is, by the name that it has here and by the one that it has in format openai."""
    user = _object(fields, "metadata").get("user_id")
    return dict.fromkeys(("metadata.user_id", "end_user"), user[:LONGEST_TAG]) if isinstance(user, str) else {}


_CARRIED_ON = ("container", "thread", "diagnostics")
"""Fields by which a request goes on with what an earlier answer left at the upstream, or leaves something there."""


def refers_to(fields: Fields) -> tuple[str, ...]:
    """What the request makes the upstream read: files, containers, earlier answers, skills that somebody wrote."""
    container = body.value(fields, "container")
    held = container if isinstance(container, dict) else {"id": container}
    named = [held.get("id"), *(_object(fields, name).get("previous_message_id") for name in ("thread", "diagnostics"))]
    named += [skill.get("skill_id") for skill in _objects(held.get("skills")) if skill.get("type") != "anthropic"]
    files = body.strings_in(fields, ("messages", "system"), ("file_id",), _NESTED)
    return tuple(dict.fromkeys((*files, *(name for name in named if isinstance(name, str)))))


def prepare(_: Fields, ask: Ask, terms: Terms) -> dict[str, Any]:
    """What must be changed in the body before it is sent: the model's name, and a bound that the hold doesn't carry.

    A hold is never smaller than `min_output` where the request isn't, so that the thinking budget still fits.
    """
    changes: dict[str, Any] = {}
    if ask.model != terms.model:
        changes["model"] = terms.model
    if terms.bound is not None and ask.output and (ask.max_output is None or ask.max_output > terms.bound):
        changes["max_tokens"] = terms.bound
    return changes


# ── what an answer says ───────────────────────────────────────────────────────────────────────────────────────────────


class _Block(msgspec.Struct):
    """A content block, or a piece of one: the fields that the model wrote."""

    type: Any = None
    text: Any = None
    thinking: Any = None
    partial_json: Any = None
    name: Any = None
    input: Any = None
    content: Any = None
    stop_reason: Any = None
    container: Any = None
    """These two where it is the `delta` of a whole message."""

    def text_bytes(self) -> int:
        """Signatures and encrypted thoughts are no text, cited text isn't billed, results of tools weren't written."""
        said = [self.text, self.thinking, self.partial_json]
        kind = self.type if isinstance(self.type, str) else ""
        if kind.endswith("tool_use"):
            said.append(self.name)
        if kind.startswith("compaction"):
            said.append(self.content)
        arguments = written_bytes(self.input) if self.input else 0
        return arguments + sum(utf8_len(text) for text in said if isinstance(text, str))

    @property
    def thought(self) -> bool:
        return self.type in ("thinking", "redacted_thinking", "thinking_delta", "signature_delta")


class _Message(msgspec.Struct):
    """A whole answer, or an event of a stream: the fields that metering reads."""

    type: Any = None
    id: Any = None
    container: Any = None
    message: _Message | None = None
    content: list[_Block] | None = None
    content_block: _Block | None = None
    delta: _Block | None = None
    usage: Any = None
    error: Any = None


_message = msgspec.json.Decoder(_Message)


def _decode(data: bytes) -> _Message | None:
    """An answer or an event, or None if it isn't a JSON object.

    What was billed must be heard also where something else in it is odd: half a character, or a field of another shape.
    """
    try:
        return _message.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        found = body.lenient(data)
    return _tolerant(found) if isinstance(found, dict) else None


def _tolerant(found: dict[str, Any]) -> _Message:
    """The fields that have the shape they should have."""
    read = _Message(**{name: found.get(name) for name in ("type", "id", "container", "usage", "error")})
    for name, shape in (("content", list[_Block]), ("content_block", _Block), ("delta", _Block)):
        try:
            setattr(read, name, msgspec.convert(found.get(name), shape | None))
        except msgspec.ValidationError:
            continue
    inner = found.get("message")
    read.message = _tolerant({**inner, "message": None}) if isinstance(inner, dict) else None
    return read


_INPUT = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
_OUTPUT = "output_tokens"

_INSIDE = (None, "message", "fallback_message")
"""The passes that the totals hold."""


def read_usage(usage: dict[str, Any]) -> Usage | None:
    """An Anthropic `usage` object as disjoint meters, or None if it counts nothing (an explicit zero counts).

    Cache reads and writes stand beside `input_tokens`, thinking stands inside `output_tokens`. What other passes of the
    model used is added where the totals leave it out.
    """
    meters = _meters(usage)
    input_missing = not meters.input_tokens and all(counted(usage, name) is None for name in _INPUT)
    output_missing = counted(usage, _OUTPUT) is None
    if input_missing and output_missing:
        return None
    meters = reduce(_sum, map(_meters, _beside(usage)), meters)
    return Usage(
        meters=msgspec.structs.replace(
            meters, searches=count(part(usage, "server_tool_use"), "web_search_requests"), calls=1
        ),
        input_missing=input_missing,
        output_missing=output_missing,
        service_tier=_tier(usage),
    )


def _meters(usage: dict[str, Any]) -> Meters:
    """The token counts of one pass, or of all.

    How long cache writes live is told once, at the start of a stream; how many there are is told again, and may have
    grown. What isn't told lives 5 minutes, unless all that is told lives an hour.
    """
    lives = part(usage, "cache_creation")
    short, long = count(lives, "ephemeral_5m_input_tokens"), count(lives, "ephemeral_1h_input_tokens")
    written = max(count(usage, "cache_creation_input_tokens"), short + long)
    if long and not short:
        long = written
    output = count(usage, _OUTPUT)
    (thought,) = split(output, count(part(usage, "output_tokens_details"), "thinking_tokens"))
    return Meters(
        input=count(usage, "input_tokens"),
        cached_input=count(usage, "cache_read_input_tokens"),
        cache_write=written - long,
        cache_write_1h=long,
        output=output - thought,
        reasoning=thought,
    )


def _sum(one: Meters, other: Meters) -> Meters:
    pairs = zip(msgspec.structs.astuple(one), msgspec.structs.astuple(other), strict=True)
    return Meters(*(a + b for a, b in pairs))


def _beside(usage: dict[str, Any]) -> list[dict[str, Any]]:
    """The passes (beta `iterations`) that the totals leave out.

    `compaction` never is in the totals. Of an `advisor_message`, and of what may come, it isn't certain: it is added
    unless the totals can hold it beside what is in them for certain. (An advisor is another model with a price of its
    own, which a usage row can't have: it is counted at this one's. That is why its tool is unquotable.)
    """
    passes = _objects(usage.get("iterations"))
    beside = [item for item in passes if item.get("type") == "compaction"]
    inside = [item for item in passes if item.get("type") in _INSIDE]
    unclear = [item for item in passes if item.get("type") not in ("compaction", *_INSIDE)]
    total, all_in = _meters(usage), reduce(_sum, map(_meters, (*inside, *unclear)), Meters())
    held = total.input_tokens >= all_in.input_tokens and total.output_tokens >= all_in.output_tokens
    return beside if inside and held else [*beside, *unclear]


def _tier(usage: dict[str, Any]) -> str | None:
    """What the tokens were priced by: fast mode is a price of its own, whatever the tier."""
    tier = FAST if usage.get("speed") == FAST else usage.get("service_tier")
    return tier if isinstance(tier, str) else None


def _say(heard: Heard, block: _Block) -> None:
    heard.text_bytes += block.text_bytes()
    heard.reasoned = heard.reasoned or block.thought
    if isinstance(block.content, list | dict):  # what a program wrote may be files
        heard.note(*body.strings_at(block.content, ("file_id",)))


def _note(heard: Heard, message_id: Any, container: Any) -> None:
    heard.note(message_id, container.get("id") if isinstance(container, dict) else None)


def _count_in(heard: Heard, told: dict[str, Any]) -> None:
    usage = read_usage(told)
    if usage is not None:
        heard.take_usage(usage)
        heard.reasoned = heard.reasoned or usage.meters.reasoning > 0
        heard.service_tier = usage.service_tier or heard.service_tier


def hear(answer: bytes) -> Heard | None:
    """A whole answer that didn't stream, or None if it isn't JSON of this format."""
    found = _decode(answer)
    if found is None:
        return None
    heard = Heard(finished=True, failed=found.error is not None)
    _note(heard, found.id, found.container)
    for block in found.content or ():
        _say(heard, block)
    if isinstance(found.usage, dict):
        _count_in(heard, found.usage)
    return heard


def hear_count(answer: bytes) -> Heard | None:
    """How many tokens a request would have: nothing was used, and nothing is to be estimated."""
    return Heard(usage=Usage(meters=Meters()), finished=True) if _decode(answer) is not None else None


def _merge(told: dict[str, Any], said: dict[str, Any]) -> None:
    """Counts are totals, so what comes later replaces; what is missing, or back at zero, stays as it was."""
    for name, new in said.items():
        old = told.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            _merge(old, new)
        elif new or (new == 0 and not old):
            told[name] = new


def _hear_event(told: dict[str, Any], heard: Heard, event: Event) -> bool:
    """`told` is what the stream said of its usage so far.

    `message_start` says all of the input. Its output is the first few tokens, no count of the whole: until a
    `message_delta` counts, the output is estimated.
    """
    found = _decode(event.data)
    if found is None:
        return True  # a line that isn't an event: the client's to judge, and nothing to meter
    kind = found.type or event.name.decode("ascii", "replace")
    if kind in ("content_block_start", "content_block_delta"):
        for block in (found.content_block, found.delta):
            if block is not None:
                _say(heard, block)
    elif kind == "message_start":
        if found.message:
            _note(heard, found.message.id, found.message.container)
        for block in (found.message.content or ()) if found.message else ():
            _say(heard, block)
        if found.message and isinstance(found.message.usage, dict):
            _merge(told, {name: said for name, said in found.message.usage.items() if not name.startswith(_OUTPUT)})
            _count_in(heard, told)
    elif kind == "message_delta":
        if isinstance(found.usage, dict):
            _merge(told, found.usage)
            _count_in(heard, told)
        if found.delta:
            _note(heard, None, found.delta.container)
            heard.finished = heard.finished or found.delta.stop_reason is not None
    elif kind == "message_stop":
        heard.done = heard.finished = True
    elif kind == "error" or found.error is not None:
        heard.failed = True
    return True


def stream(hide: bool) -> SseStream:  # noqa: ARG001
    """Nothing is ever asked for on the client's behalf, so nothing is taken out."""
    return SseStream(partial(_hear_event, {}))


# ── errors ────────────────────────────────────────────────────────────────────────────────────────────────────────────

_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def error_body(error: LlmgateError, request_id: str = "") -> bytes:
    """An error as Anthropic's clients expect it."""
    status = error.http_status
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    return msgspec.json.encode(
        {"type": "error", "error": {"type": kind, "message": error.message}, "request_id": request_id}
    )


def error_event(error: LlmgateError, request_id: str = "") -> bytes:
    """An error in the middle of a stream: the SDKs skip an event that has no name."""
    return b"event: error\ndata: " + error_body(error, request_id) + b"\n\n"


ANTHROPIC = Dialect(name="anthropic", error_body=error_body, error_event=error_event)

MESSAGES = Endpoint(
    name="messages",
    dialect=ANTHROPIC,
    path="/messages",
    known=KNOWN,
    read_ask=read_ask,
    prepare=prepare,
    hear=hear,
    stream=stream,
    refers_to=refers_to,
)
COUNT_TOKENS = Endpoint(
    name="count_tokens",
    dialect=ANTHROPIC,
    path="/messages/count_tokens",
    known=KNOWN,
    read_ask=read_count,
    prepare=prepare,
    hear=hear_count,
    stream=stream,
    refers_to=refers_to,
    free=True,
)
