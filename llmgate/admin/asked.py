"""What a request asks, read into the struct that says what may be asked."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import msgspec

from ..errors import Refusal
from . import bodies

T = TypeVar("T")


def query_of(kind: type[T], query_string: bytes, lists: Collection[str] = ()) -> T:
    """The query. `lists`: fields that may be given several times. Raises Refusal that names the field."""
    found: dict[str, Any] = {}
    for name, value in parse_qsl(query_string.decode("latin-1"), keep_blank_values=True):
        if name in lists:
            found.setdefault(name, []).append(value)
        elif name in found:
            raise Refusal(f"{name[:100]} is given twice: once is enough", param=name[:100])
        else:
            found[name] = value
    try:
        return msgspec.convert(found, kind, strict=False)
    except msgspec.ValidationError as error:
        raise invalid(error, "query") from error


def body_of(kind: type[msgspec.Struct] | None, raw: bytes) -> msgspec.Struct:
    """The body, which is JSON; where none is asked for, there may be none, or an empty object. Raises Refusal."""
    kind = kind or bodies.Nothing
    needed = [field.name for field in msgspec.structs.fields(kind) if field.required]
    if not raw and needed:
        raise Refusal(f"a body is needed: JSON with {', '.join(needed)}", param=needed[0])
    try:
        return msgspec.json.decode(raw or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise invalid(error, "body") from error


_FIELD = re.compile(r"unknown field `([^`]*)`|missing required field `([^`]*)`|`\$\.([A-Za-z0-9_]+)")


def invalid(error: Exception, where: str) -> Refusal:
    """What is wrong, in words, and with which field."""
    match = _FIELD.search(str(error))
    field = next((group for group in match.groups() if group), None) if match else None
    text = str(error)[:300]
    if match and match[1]:
        text = f"{field!r:.102} is no field of it"
    elif match and match[2]:
        text = f"{field} is missing"
    elif where == "body" and not isinstance(error, msgspec.ValidationError):
        text = "it is no JSON" + (f" (at byte {at[1]})" if (at := re.search(r"\(byte (\d+)\)", text)) else "")
    return Refusal(f"the {where} is wrong: {text}", param=field[:100] if field else None)
