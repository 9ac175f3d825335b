"""The format `openai` at POST /v1/responses: what a request asks for, and what an answer or its events say.

Much of what is billed here isn't in the request: earlier turns, files and templates that it names, what tools find that
the upstream runs. All of it is bounded by the model's context window, once for each time that the model is called.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import msgspec

from ..quoting import positive
from ..types import Ask, Meters, Usage
from . import body, openai
from .body import Fields
from .endpoint import Endpoint, Terms
from .heard import Heard, SseStream
from .openai import (
    COUNTS,
    HIDING,
    IMAGE_TOKENS,
    NOT_TEXT,
    OPENAI,
    PAYLOAD,
    TEMPLATE_WORDS,
    UNQUOTABLE,
    added_work,
    bounded,
    flag,
    hides,
    model_of,
    most,
    renamed,
    tags_of,
    text,
)
from .openai_usage import counted, part, read_either
from .sse import Event
from .weight import Medium, Weight, unread_bytes, utf8_len

BOUND = "max_output_tokens"

OUTPUT_BOUNDS = (BOUND, *openai.OUTPUT_BOUNDS)
"""llama.cpp makes a chat of a response, and obeys what a chat may state."""

MIN_OUTPUT = 16
"""The least bound that the API accepts."""

HIDDEN = ("previous_response_id", "conversation", "prompt")
"""Fields that bring along input which the body doesn't show."""

KNOWN = frozenset(
    {"model", "stream", "input", "instructions", "tools", "text", "background", "max_tool_calls", "service_tier"}
    | {"user", "safety_identifier", "metadata", "reasoning", "context_management", "prompt_cache_options"}
    | {*HIDDEN, *OUTPUT_BOUNDS, *COUNTS, *UNQUOTABLE, *HIDING, TEMPLATE_WORDS}
)

CLIENT_TOOLS = frozenset({"function", "custom", "computer", "local_shell", "apply_patch"})
"""Tools that the client runs: they cost the tokens that they are written in."""

_NOT_TEXT = NOT_TEXT | {"call_id", "status", "file_id", "item_id"}


# ── what is asked ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _medium(item: dict[str, Any]) -> Medium | None:
    kind = item.get("type")
    if kind == "image_generation_call":
        return Medium(IMAGE_TOKENS, frozenset({"result"}))
    if kind == "computer_screenshot" or (kind == "input_image" and "file_id" in item):
        return Medium(IMAGE_TOKENS, PAYLOAD)
    if _is_reference(item) or "file_id" in item or "file_url" in item:
        return Medium(0, PAYLOAD, hidden=True)
    return openai.medium(item)


def _is_reference(item: dict[str, Any]) -> bool:
    """An item that stands for one that the upstream keeps: named as such, or its id alone, or thoughts without them."""
    kind = item.get("type")
    if kind == "reasoning":
        return not item.get("encrypted_content")
    return kind == "item_reference" or (kind is None and "id" in item and "content" not in item)


def read_ask(fields: Fields, _: str | None = None) -> Ask:
    """What a response asks for. Raises Refusal `invalid_request`."""
    given = body.value(fields, "input")
    weight = Weight(_medium, _NOT_TEXT)
    for name in ("input", "instructions", "prompt"):
        weight.add(body.value(fields, name))
    for name in ("tools", "text"):
        if name in fields:
            weight.text += len(bytes(fields[name]))
    calls, unquotable = _upstreams_tools(fields, given)
    return Ask(
        model=model_of(fields),
        stream=flag(fields, "stream"),
        text_bytes=weight.text + unread_bytes(fields, KNOWN - {TEMPLATE_WORDS}),
        messages=1 + (len(given) if isinstance(given, list) else 1),
        media_tokens=weight.media,
        hidden_input=weight.hidden
        or bool(calls)
        or hides(fields)
        or any(body.value(fields, name) is not None for name in HIDDEN),
        rounds=1 + calls,
        searches=calls,
        max_output=most(fields, OUTPUT_BOUNDS),
        min_output=MIN_OUTPUT,
        choices=most(fields, COUNTS) or 1,
        service_tier=text(fields, "service_tier"),
        reasons=_reasons(body.value(fields, "reasoning")),
        background=flag(fields, "background"),
        unquotable=added_work(fields) or unquotable,
        tags=tags_of(fields),
    )


def _reasons(asked: Any) -> bool:
    return asked is not None and not (isinstance(asked, dict) and asked.get("effort") == "none")


def _upstreams_tools(fields: Fields, given: Any) -> tuple[int, str | None]:
    """How often tools may be called that the upstream runs, and the field that makes their cost unknown, if one does.

    A search costs a known price, and how many there may be the request can say. What other tools of the upstream cost,
    and what a template or the compaction of a context does, nobody can tell beforehand.
    """
    for name in ("prompt", "context_management"):
        if body.value(fields, name) is not None:
            return 0, name
    kinds = set(_kinds(body.value(fields, "tools")))
    for item in given if isinstance(given, list) else ():
        if isinstance(item, dict):
            kinds.update(_kinds(item.get("tools")))  # tools may be added in the middle of a conversation
    theirs = {kind for kind in kinds if kind not in CLIENT_TOOLS and not kind.startswith("computer_use")}
    if not theirs:
        return 0, None
    found = body.value(fields, "max_tool_calls")
    if found is None or not all(kind.startswith("web_search") for kind in theirs):
        return 0, "tools"
    return (0 if found == 0 and found is not False else positive(found, "max_tool_calls")), None


def _kinds(tools: Any) -> Iterator[str]:
    """The types of tools; a namespace is what is in it."""
    stack = [tools]
    while stack:
        tool = stack.pop()
        if isinstance(tool, list):
            stack.extend(tool)
        elif isinstance(tool, dict) and tool.get("type") == "namespace":
            stack.append(tool.get("tools"))
        elif tool is not None:
            kind = tool.get("type", "function") if isinstance(tool, dict) else None
            yield kind if isinstance(kind, str) else "?"


def refers_to(fields: Fields) -> tuple[str, ...]:
    """Ids of what the request makes the upstream read: earlier answers, conversations, items, files, containers."""
    conversation = body.value(fields, "conversation")
    found = [
        body.value(fields, "previous_response_id"),
        conversation.get("id") if isinstance(conversation, dict) else conversation,
        part({"options": body.value(fields, "prompt_cache_options")}, "options").get("comparison_response_id"),
    ]
    stack = [body.value(fields, name) for name in ("input", "tools", "prompt")]
    while stack:
        item = stack.pop()
        if isinstance(item, list):
            stack.extend(item)
        elif isinstance(item, dict):
            if _is_reference(item):
                found.append(item.get("id"))
            for name, child in item.items():
                if name in _ID_FIELDS and not (name == "skill_id" and str(child).startswith("openai-")):
                    found += child if isinstance(child, list) else [child]
                stack.append(child)
    return tuple(dict.fromkeys(name for name in found if isinstance(name, str)))


_ID_FIELDS = frozenset(
    {"file_id", "file_ids", "vector_store_id", "vector_store_ids", "container_id", "container", "skill_id"}
)
"""Skills are somebody's as well, unless OpenAI wrote them."""


def prepare(fields: Fields, ask: Ask, terms: Terms) -> dict[str, Any]:
    """What must be changed in the body before it is sent; nothing more ever is."""
    return renamed(ask, terms) | bounded(fields, terms, OUTPUT_BOUNDS, (BOUND,), BOUND)


# ── what an answer says ───────────────────────────────────────────────────────────────────────────────────────────────

_TERMINAL = ("response.completed", "response.incomplete", "response.failed", "response.cancelled")

_NOT_WRITTEN = ("response.audio.delta", "response.shell_call_output_content.delta")
"""Deltas that the model doesn't write as text: sound, and what a program printed."""

_WRITTEN = ("text", "refusal", "transcript", "name", "arguments", "input", "code", "action", "operation")
"""Fields of an output item, or of a part of one, that are billed as output: not what tools brought back."""


class _Event(msgspec.Struct):
    """An event, or a whole answer: the fields that metering reads."""

    type: Any = None
    delta: Any = None
    item: Any = None
    output_index: Any = None
    response: Any = None
    error: Any = None


_event = msgspec.json.Decoder(_Event)


def _decode_event(data: bytes) -> _Event | None:
    try:
        return _event.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        found = body.lenient(data)
    if not isinstance(found, dict):
        return None
    return _Event(**{name: found.get(name) for name in _Event.__struct_fields__})


def _written(item: Any) -> int:
    """Bytes of an output item that the model wrote."""
    if not isinstance(item, dict):
        return 0
    parts = [item]
    for name in ("content", "summary"):
        inside = item.get(name)
        parts += [one for one in inside if isinstance(one, dict)] if isinstance(inside, list) else []
    return openai.weigh([one.get(name) for one in parts for name in _WRITTEN]).text


def _take_response(heard: Heard, response: dict[str, Any]) -> None:
    """A response as a whole: at its beginning it has an id, at its end all that it used."""
    tier = response.get("service_tier")
    if isinstance(tier, str):
        heard.service_tier = tier
    output = response.get("output")
    output = output if isinstance(output, list) else []
    conversation = part(response, "conversation").get("id")
    heard.note(response.get("id"), conversation, *_ids(output))
    heard.text_bytes = max(heard.text_bytes, sum(map(_written, output)))
    heard.reasoned = heard.reasoned or any(_kind(item) == "reasoning" for item in output)
    usage = read_either(response.get("usage"), heard.service_tier)
    if usage is not None:
        heard.take_usage(_with_tools(usage, response, output))
    if response.get("status") == "failed" or response.get("error") is not None:
        heard.failed = True


def _with_tools(usage: Usage, response: dict[str, Any], output: list[Any]) -> Usage:
    """Searches, pictures, and the tokens that went into those: `usage` itself doesn't count them.

    A server that doesn't count its searches is believed what it shows of them. The picture model's tokens are metered
    with the model's own, and priced so: what that other model costs, the answer doesn't say.
    """
    tools = part(response, "tool_usage")
    searches = counted(part(tools, "web_search"), "num_requests")
    if searches is None:
        searches = sum(map(_is_search, output))
    drawn = read_either(tools.get("image_gen"))
    meters = usage.meters
    if drawn is not None:
        extra = drawn.meters
        meters = msgspec.structs.replace(
            meters,
            input=meters.input + extra.input,
            cached_input=meters.cached_input + extra.cached_input,
            image_input=meters.image_input + extra.image_input,
            audio_output=meters.audio_output + extra.output_tokens,
        )
    images = sum(_kind(item) == "image_generation_call" and bool(item.get("result")) for item in output)
    return msgspec.structs.replace(usage, meters=msgspec.structs.replace(meters, searches=searches, images=images))


def _kind(item: Any) -> Any:
    return item.get("type") if isinstance(item, dict) else None


def _is_search(item: Any) -> bool:
    return bool(_kind(item) == "web_search_call" and part(item, "action").get("type", "search") == "search")


def _ids(output: list[Any]) -> Iterator[Any]:
    for item in output:
        if isinstance(item, dict):
            yield from (item.get("id"), item.get("container_id"))


def hear(answer: bytes) -> Heard | None:
    """A whole answer that didn't stream, or None if it isn't JSON of this format."""
    found = body.lenient(answer)
    if not isinstance(found, dict):
        return None
    heard = Heard(finished=found.get("status") not in ("queued", "in_progress"))
    _take_response(heard, found)
    return heard


def _hear_event(streamed: dict[Any, int], heard: Heard, event: Event) -> bool:
    """One event. `streamed` keeps how much of each unfinished item went by in pieces, so that the whole item at its
    end, which repeats them, adds only what no piece showed."""
    if event.data.startswith(b"[DONE]"):
        heard.done = heard.finished = True
        return True
    found = _decode_event(event.data)
    if found is None:
        return True
    kind = found.type if isinstance(found.type, str) else ""
    where = found.output_index if isinstance(found.output_index, int) else None
    if kind.endswith(".delta") and kind not in _NOT_WRITTEN and isinstance(found.delta, str):
        size = utf8_len(found.delta)
        heard.text_bytes += size
        streamed[where] = streamed.get(where, 0) + size
        heard.reasoned = heard.reasoned or kind.startswith("response.reasoning")
    elif kind in ("response.output_item.added", "response.output_item.done"):
        heard.reasoned = heard.reasoned or _kind(found.item) == "reasoning"
        if kind.endswith(".done"):
            heard.text_bytes += max(_written(found.item) - streamed.pop(where, 0), 0)
            heard.note(*_ids([found.item]))
    elif isinstance(found.response, dict):
        _take_response(heard, found.response)
    if kind in _TERMINAL:
        heard.done = heard.finished = True
    if kind in ("error", "response.failed") or found.error is not None:
        heard.failed = True
    return True


def stream(hide: bool) -> SseStream:
    return SseStream(partial(_hear_event, {}), hide=hide)


RESPONSES = Endpoint(
    name="responses",
    dialect=OPENAI,
    path="/responses",
    known=KNOWN,
    read_ask=read_ask,
    prepare=prepare,
    hear=hear,
    stream=stream,
    refers_to=refers_to,
)


def _read_compact(fields: Fields, _: str | None = None) -> Ask:
    """A conversation to be made shorter: the model writes a summary, and no field bounds it."""
    return msgspec.structs.replace(read_ask(fields), stream=False, background=False, unquotable=_COMPACT)


_COMPACT = "/v1/responses/compact"

RESPONSES_COMPACT = msgspec.structs.replace(
    RESPONSES,
    name="responses_compact",
    path="/responses/compact",
    read_ask=_read_compact,
    prepare=lambda _fields, ask, terms: renamed(ask, terms),
)


def _read_count(fields: Fields, _: str | None = None) -> Ask:
    return Ask(model=model_of(fields), output=False)


def _hear_count(answer: bytes) -> Heard | None:
    """Tokens that were counted, and not used: nothing is to be estimated."""
    return Heard(usage=Usage(meters=Meters()), finished=True) if isinstance(body.lenient(answer), dict) else None


RESPONSES_INPUT_TOKENS = Endpoint(
    name="responses_input_tokens",
    dialect=OPENAI,
    path="/responses/input_tokens",
    known=KNOWN,
    read_ask=_read_count,
    prepare=lambda _fields, ask, terms: renamed(ask, terms),
    hear=_hear_count,
    stream=stream,
    refers_to=refers_to,
    free=True,
)
