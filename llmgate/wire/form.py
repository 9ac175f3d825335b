"""Bodies of `multipart/form-data` (RFC 7578), read without trusting that everybody reads them the same.

Own code, because what is needed is not what libraries give: the places of the fields in the bytes as they came, so that
one can be changed while a file of many megabytes is never copied, and a refusal of everything that parsers are known to
read differently (a preamble, lines that end in LF, folded or repeated headers, names written in two ways, a boundary
inside a file). What is left is the narrow form in which every client library writes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from ..errors import Refusal
from . import body
from .body import Fields

MOST_PARTS = 1000
HEAD = 4096
"""Bytes of a file that are kept: its own headers."""

MOST_HEAD = 8192
"""Bytes of one part's headers."""

_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,\-./:=?]{1,70}")
_PARAMETER = re.compile(r"""\s*;\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+)=(?:"([^"\\\r\n]*)"|([^\s;",\\]+))""")
_HEADER = re.compile(r"([A-Za-z0-9-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")
_PLAIN_ENCODINGS = ("7bit", "8bit", "binary")


class File(NamedTuple):
    """A file: what is to be known of it without copying it."""

    name: str
    """Of its field."""
    size: int
    head: bytes
    """Its first `HEAD` bytes."""


class Form(dict[str, msgspec.Raw]):
    """The known text fields as JSON strings, so that they are read like those of a JSON body; the files beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.files: list[File] = []
        self.spans: dict[str, tuple[int, int]] = {}
        """Where the value of a text field is in the body."""
        self.text_bytes = 0
        """Of all text fields, whatever their names."""


def read(raw: bytes, content_type: str, known: frozenset[str]) -> Form:
    """A form's fields. Raises Refusal `invalid_request`."""
    boundary = _boundary(content_type)
    dashes = b"--" + boundary
    if not raw.startswith(dashes + b"\r\n"):
        raise Refusal("the form doesn't begin with its boundary")
    form = Form()
    seen: set[str] = set()
    parts = 0
    at = len(dashes) + 2
    while True:
        parts += 1
        head_end = raw.find(b"\r\n\r\n", at, at + MOST_HEAD)
        end = raw.find(b"\r\n" + dashes, at)
        if head_end < 0 or end < head_end + 4 or parts > MOST_PARTS:
            raise Refusal("the form is broken off, or has too many parts")
        _take(form, raw, raw[at:head_end], head_end + 4, end, known, seen)
        at = end + 2 + len(dashes)
        if raw[at : at + 2] == b"--":
            break
        if raw[at : at + 2] != b"\r\n":
            raise Refusal("the form's boundary is followed by something else")
        at += 2
    # Wherever else its text stood, another reader might see the end of a part.
    if raw[at + 2 :] not in (b"", b"\r\n") or raw.count(dashes) != parts + 1:
        raise Refusal("the form goes on after its end, or has its boundary inside a part")
    return form


def read_either(raw: bytes, content_type: str, known: frozenset[str], *, files: frozenset[str] = frozenset()) -> Fields:
    """A form, or JSON: some paths take both. `files` are fields that are text in JSON only."""
    if content_type.lower().lstrip().startswith("multipart/"):
        return read(raw, content_type, known - files)
    return body.read(raw, known)


def write(raw: bytes, fields: Fields, changes: Mapping[str, Any]) -> bytes | tuple[bytes | memoryview, ...]:
    """The body with some text fields changed, which must be there; every other byte stays what it was, and where."""
    if not isinstance(fields, Form):
        return body.write(fields, changes)
    whole = memoryview(raw)
    pieces: list[bytes | memoryview] = []
    at = 0
    for (start, end), value in sorted((fields.spans[name], value) for name, value in changes.items()):
        pieces += [whole[at:start], str(value).encode()]
        at = end
    return (*pieces, whole[at:])


def number(fields: Fields, name: str) -> Any:
    """A field's value, which a form writes in digits."""
    found = body.value(fields, name)
    if isinstance(fields, Form) and isinstance(found, str) and re.fullmatch(r"[0-9]{1,10}", found):
        return int(found)
    return found


_FLAGS = {"true": True, "1": True, "false": False, "0": False}


def flag(fields: Fields, name: str) -> bool:
    """Yes or no, as JSON or as a form writes it. Raises Refusal `invalid_request`."""
    found = body.value(fields, name)
    if isinstance(fields, Form) and isinstance(found, str):
        found = _FLAGS.get(found.lower(), found)
    if found not in (None, True, False):
        raise Refusal(f"{name} must be true or false", param=name)
    return bool(found)


def _boundary(content_type: str) -> bytes:
    kind, semicolon, rest = content_type.partition(";")
    if kind.strip().lower() != "multipart/form-data":
        raise Refusal("the body must be multipart/form-data")
    found = _parameters(semicolon + rest, "the content type").get("boundary", "")
    if not _BOUNDARY.fullmatch(found):
        raise Refusal("the content type names no boundary that is allowed")
    return found.encode()


def _parameters(text: str, of: str) -> dict[str, str]:
    """`; name=value; name="value"` in full, each once, in lower case."""
    found: dict[str, str] = {}
    at = 0
    while match := _PARAMETER.match(text, at):
        name = match[1].lower()
        if name in found:
            raise Refusal(f"{of} of the form names {name!r} twice")
        found[name] = match[2] if match[2] is not None else match[3]
        at = match.end()
    if text[at:].strip() not in ("", ";"):
        raise Refusal(f"{of} of the form can't be read")
    return found


def _take(form: Form, raw: bytes, head: bytes, start: int, end: int, known: frozenset[str], seen: set[str]) -> None:
    """One part. What llmgate reads must be written in one way only, once, and be text."""
    headers = _headers(head)
    kind, semicolon, rest = headers.get("content-disposition", "").partition(";")
    if kind.strip().lower() != "form-data":
        raise Refusal("a part of the form has no Content-Disposition of form-data")
    disposition = _parameters(semicolon + rest, "a part")
    name = disposition.get("name")
    if name is None or "name*" in disposition or "%" in name:
        raise Refusal("a part of the form has no plain name")
    if headers.get("content-transfer-encoding", "binary").strip().lower() not in _PLAIN_ENCODINGS:
        raise Refusal("a part of the form is encoded")
    meant = name.strip().casefold()
    is_file = "filename" in disposition or "filename*" in disposition
    if meant in known:
        if name != meant or is_file:
            raise Refusal(f"the field {name!r} must be the text field {meant!r}", param=meant)
        if name in seen:
            raise Refusal(f"the field {name!r} comes twice", param=name)
        seen.add(name)
    if is_file or meant == "file":
        form.files.append(File(name, end - start, raw[start : min(end, start + HEAD)]))
        return
    charset = _parameters("".join(headers.get("content-type", "").partition(";")[1:]), "a part").get("charset", "utf-8")
    if charset.lower() not in ("utf-8", "us-ascii") or meant == "_charset_":
        raise Refusal("the text of a form must be UTF-8", param=name)
    form.text_bytes += end - start
    if name in known:
        try:
            value = raw[start:end].decode()
        except UnicodeDecodeError as error:
            raise Refusal(f"the field {name!r} is not UTF-8", param=name) from error
        form[name] = msgspec.Raw(msgspec.json.encode(value))
        form.spans[name] = (start, end)


def _headers(head: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    try:
        lines = head.decode().split("\r\n")
    except UnicodeDecodeError as error:
        raise Refusal("a header of the form is not UTF-8") from error
    for line in lines:
        match = _HEADER.fullmatch(line)
        if match is None or match[1].lower() in found:
            raise Refusal("a part of the form has a header that can't be read, or has one twice")
        found[match[1].lower()] = match[2]
    return found
