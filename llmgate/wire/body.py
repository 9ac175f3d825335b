"""JSON bodies, read without trusting that everybody reads them the same.

Only the top level is taken apart; each value stays the exact bytes that the client sent, so that a body in which one
field is changed differs from the original in that field alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from typing import Any

import msgspec

from ..errors import Refusal

Fields = dict[str, msgspec.Raw]
"""A body's top level: name → the value's own bytes."""

MOST_OBJECTS = 1_000_000
"""Brackets in one body. More is no prompt, but an attempt to keep the gateway busy."""

_ESCAPED_NAME = re.compile(rb'\\u[0-9a-fA-F]{4}(?:[^"\\]|\\.){0,64}"\s*:')
"""The end of a field's name that is written with an escape: no name that is read is longer."""

_top = msgspec.json.Decoder(Fields)


def read(body: bytes, known: frozenset[str]) -> Fields:
    """The top level of a JSON object.

    `known` are the fields that llmgate reads. Parsers disagree on which of two equal names counts, and some ignore
    case, so a known name that comes twice, or in other letters, is refused: what was quoted must be what is served.
    Raises Refusal `invalid_request`.
    """
    if body.count(b"{") + body.count(b"[") > MOST_OBJECTS:
        raise Refusal(f"the body has more than {MOST_OBJECTS} objects and arrays")
    try:
        fields = _top.decode(body)
    except RecursionError as error:
        raise Refusal("the body is nested too deeply") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refusal(f"the body is not a JSON object: {error}") from error
    folded = _folded(known)
    for name in fields:
        if name not in known and (meant := folded.get(name.casefold())):  # as Go folds: a long s is an s
            raise Refusal(f"the field {name!r} is written {meant!r}", param=meant)
    # A name can only come twice if its text is there twice, or if one is written with escapes.
    if (b"\\u" in body and _ESCAPED_NAME.search(body)) or any(
        body.count(b'"%b"' % name.encode()) > 1 for name in fields if name in known
    ):
        _refuse_twins(body, known)
    return fields


@lru_cache(maxsize=64)
def _folded(known: frozenset[str]) -> dict[str, str]:
    return {name.casefold(): name for name in known}


def _refuse_twins(body: bytes, known: frozenset[str]) -> None:
    """The slow and certain way: `json` shows every pair of an object, the top level's last."""
    last: list[tuple[str, Any]] = []

    def pairs(found: list[tuple[str, Any]]) -> None:
        nonlocal last
        last = found

    try:
        json.loads(body, object_pairs_hook=pairs)
    except (ValueError, RecursionError) as error:
        raise Refusal("the body is not a JSON object, or is nested too deeply") from error
    seen = set()
    for name, _ in last:
        if name in known and name in seen:
            raise Refusal(f"the field {name!r} comes twice", param=name)
        seen.add(name)


def value(fields: Fields, name: str) -> Any:
    """A field's value; None where it is absent or null. Raises Refusal `invalid_request` where it can't be read."""
    raw = fields.get(name)
    if raw is None:
        return None
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        try:
            return json.loads(bytes(raw))  # huge exponents: valid JSON that msgspec won't take
        except (ValueError, RecursionError) as error:
            raise Refusal(f"the field {name!r} can't be read", param=name) from error


def strings_at(value: Any, names: Collection[str], below: Collection[str] | None = None) -> tuple[str, ...]:
    """The strings that stand in fields of these names, anywhere in a value; or only `below` certain other fields."""
    found: dict[str, None] = {}
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, list):
            stack.extend(item)
        elif isinstance(item, dict):
            found |= {item[name]: None for name in names if isinstance(item.get(name), str)}
            stack += [child for name, child in item.items() if below is None or name in below]
    return tuple(found)


def strings_in(
    fields: Fields, among: Iterable[str], names: Collection[str], below: Collection[str] | None = None
) -> tuple[str, ...]:
    """The same in some fields of a body. Each is taken apart only if such a name can stand in it: prompts are long."""
    values = [value(fields, name) for name in among if name in fields and may_name(bytes(fields[name]), names)]
    return strings_at(values, names, below)


def may_name(raw: bytes, names: Collection[str]) -> bool:
    """Whether one of these names can stand in some JSON: spelled out, or with an escape."""
    return b"\\u" in raw or any(name.encode() in raw for name in names)


def write(fields: Fields, changes: Mapping[str, Any]) -> bytes:
    """The body with some fields changed or added; all others keep their bytes."""
    encoded = {name: msgspec.Raw(msgspec.json.encode(new)) for name, new in changes.items()}
    return msgspec.json.encode(fields | encoded)


def lenient(data: bytes) -> Any:
    """Any JSON of an answer, or None where it isn't any. What was billed must be heard also where half a character or a
    number beyond all measure makes it odd."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        return json.loads(data.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
