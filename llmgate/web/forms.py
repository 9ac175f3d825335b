"""What was typed into a form, as the struct that says what may be.

A field that was left empty is as if it weren't there, so that the struct's default holds; a field of a list takes each
value that was sent, and of a text each line.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl

import msgspec

from ..errors import Refusal

T = TypeVar("T", bound=msgspec.Struct)

MOST_FIELDS = 500

OWN = ("csrf", "nonce", "version")
"""Hidden fields that every form may have, and no struct."""

_UNSEEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
"""What nobody types, and what would make a text look like another one."""


class Sent(NamedTuple):
    """A form as it came."""

    own: dict[str, str]
    fields: dict[str, list[str]]


def parse(raw: bytes, content_type: bytes | None) -> Sent:
    """The fields of a form. Raises Refusal."""
    kind = (content_type or b"").partition(b";")[0].strip().lower()
    if raw and kind != b"application/x-www-form-urlencoded":
        raise Refusal("a form is sent as application/x-www-form-urlencoded", code="unsupported_encoding")
    try:
        pairs = parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MOST_FIELDS)
    except ValueError as error:
        raise Refusal("the form can't be read: it is no text in UTF-8, or too long") from error
    own: dict[str, str] = {}
    fields: dict[str, list[str]] = {}
    for name, value in pairs:
        if name in OWN:
            own[name] = value
        else:
            fields.setdefault(name, []).append(value)
    return Sent(own, fields)


def read(kind: type[T], fields: dict[str, list[str]]) -> T:
    """The struct. Raises Refusal that names the field."""
    known = {field.name: field for field in msgspec.structs.fields(kind)}
    given: dict[str, Any] = {}
    for name, values in fields.items():
        if name not in known:
            raise Refusal(f"{name[:100]!r} is no field of this form", param=name[:100])
        if any(_UNSEEN.search(value) for value in values):
            raise Refusal(f"{_called(name)}: there is a character in it that can't be seen", param=name)
        if _is_list(known[name].type):
            lines = [line.strip() for value in values for line in value.splitlines()]
            given[name] = [line for line in lines if line]
        elif len(values) > 1:
            raise Refusal(f"{_called(name)} is given twice: once is enough", param=name)
        elif values[0].strip():
            given[name] = values[0].strip()
    for name, field in known.items():
        if field.required and name not in given:
            raise Refusal(f"{_called(name)} is missing", param=name)
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        raise _invalid(error) from error


def in_words(error: Refusal) -> Refusal:
    """What is wrong with a query, told as it would be of a form."""
    cause = error.__cause__
    if not isinstance(cause, msgspec.ValidationError) or "unknown field" in str(cause):
        return error
    return _invalid(cause)


def typed(fields: dict[str, list[str]]) -> dict[str, str]:
    """What is put back into a form that was refused. Never a secret."""
    return {name: "\n".join(values) for name, values in fields.items() if name not in ("key", "token", "password")}


def _is_list(annotation: Any) -> bool:
    """Whether a field takes several: `list[str]`, also where it may be left out."""
    return "list[" in str(annotation) or "tuple[" in str(annotation)


def _called(name: str) -> str:
    return name.removesuffix("_usd").replace("_", " ")


_NAME = re.compile(r"[A-Za-z0-9_]+")

_WORDS = (
    (re.compile(r"Expected `int(?: \| null)?`, got .*"), "a whole number is wanted"),
    (re.compile(r"Expected `bool(?: \| null)?`, got .*"), "yes or no is wanted"),
    (re.compile(r"Expected `int` ([<>]=? ?-?\d+)"), r"a number \1 is wanted"),
    (re.compile(r"Expected `str` of length <= (\d+)"), r"it is too long: at most \1 characters"),
    (re.compile(r"Expected `str` of length >= (\d+)"), r"it is too short: at least \1 characters"),
    (re.compile(r"Invalid enum value '?(.*?)'?"), r"\1 can't be chosen"),
    (re.compile(r"Expected `str` matching regex .*"), "it isn't written as it must be"),
)


def _invalid(error: msgspec.ValidationError) -> Refusal:
    """What msgspec says, for people."""
    said, at, where = str(error).rpartition(" - at `$.")  # what was typed may stand before it, and say anything
    match = _NAME.match(where) if at else None
    said, name = (said, match[0]) if match else (str(error), None)
    for pattern, words in _WORDS:
        if found := pattern.fullmatch(said):
            said = found.expand(words)
            break
    return Refusal(f"{_called(name)}: {said[:300]}" if name else said[:300], param=name)
