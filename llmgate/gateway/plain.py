"""Plain answers: what upstreams nearly always send, read from the bytes of a connection. Pure, no I/O.

An answer is plain if its head comes whole, is of the grammar below, and says how long its body is, by a length or by
chunks, and no more than once. What is not is aiohttp's to read, from its first byte on; what is, aiohttp would read in
the same way (`tests/gateway/test_plain.py` compares them). After RFC 9112, §5 to §7.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

FIELDS = rb"(?:[-!#$%&'*+.^_`|~0-9a-zA-Z]+:[^\0\n\v\f\r]*\r\n)*"
"""Header lines, each with its end. As h11 has them: control characters are let through, as some programs send them."""

LENGTH = re.compile(rb"[0-9]{1,18}")

_HEAD = re.compile(rb"HTTP/1\.1 ([2-5][0-9][0-9])(?: ([\t -~\x80-\xff]*))?\r\n(" + FIELDS + rb")\r\n")
_SIZE = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;[^\0\n\r]*)?")

_FIELD = re.compile(FIELDS)

_WITHOUT_BODY = (204, 304)

CR = 0x0D

MOST_LINE = 2**12
"""Bytes between two chunks."""

MOST_TRAILERS = 100

Headers = tuple[tuple[bytes, bytes], ...]


class Head(NamedTuple):
    status: int
    reason: str
    headers: Headers
    """Names as they came."""
    length: int | None
    """Of the body, in bytes; None: it comes in chunks."""
    close: bool
    """The upstream closes the connection after it."""


def parse(head: bytes) -> Head | None:
    """An answer's head, with the empty line at its end. None: it isn't plain."""
    found = _HEAD.fullmatch(head)
    if found is None:
        return None
    headers, length, chunked, close = [], None, False, False
    for line in found[3].split(b"\r\n")[:-1]:
        name, _, value = line.partition(b":")
        value = value.strip(b" \t")
        match name.lower():
            case b"content-length":
                if length is not None or not LENGTH.fullmatch(value):
                    return None
                length = int(value)
            case b"transfer-encoding":
                if chunked or value.lower() != b"chunked":
                    return None
                chunked = True
            case b"connection":
                if value.lower() not in (b"keep-alive", b"close"):
                    return None
                close = close or value.lower() == b"close"
            case b"upgrade":
                return None
        headers.append((name, value))
    status = int(found[1])
    if chunked is (length is not None) or status in _WITHOUT_BODY:
        return None
    return Head(status, (found[2] or b"").decode("latin-1"), tuple(headers), length, close)


@lru_cache(maxsize=1024)
def _size(line: bytes) -> int:
    """Raises ValueError."""
    found = _SIZE.fullmatch(line)
    if found is None:
        raise ValueError("the size of a chunk is none")
    return int(found[1], 16)


class Sized:
    """A body with a length."""

    __slots__ = ("_left",)

    def __init__(self, length: int) -> None:
        self._left = length

    def feed(self, data: bytes, pieces: list[bytes]) -> bytes | None:
        """Add to `pieces` what is of the body. Returns what comes after its end; None: that is still to come."""
        size = len(data)
        if size < self._left:
            self._left -= size
            if data:
                pieces.append(data)
            return None
        if self._left:
            pieces.append(data[: self._left] if size > self._left else data)
        rest = data[self._left :]
        self._left = 0
        return rest


class Chunked:
    """A body in chunks."""

    __slots__ = ("_held", "_left", "_open", "_trailers")

    def __init__(self) -> None:
        self._held = b""
        """The beginning of a line."""
        self._left = 0
        """Bytes of the chunk that are still to come."""
        self._open = False
        """The line end after a chunk is still to come."""
        self._trailers = -1
        """Lines since the last chunk; -1: it hasn't come."""

    def feed(self, data: bytes, pieces: list[bytes]) -> bytes | None:
        """As `Sized.feed`. Raises ValueError where it is not as it must be; `pieces` has what came before."""
        if self._held:
            data, self._held = self._held + data, b""
        at, size = 0, len(data)
        while not (self._left or self._open) and self._trailers < 0:  # whole chunks, quickly
            end = data.find(b"\r\n", at)
            chunk = _size(data[at:end]) if 0 <= end <= at + MOST_LINE else 0
            stop = end + 2 + chunk
            if not chunk or data[stop : stop + 2] != b"\r\n":
                break
            pieces.append(data[end + 2 : stop])
            at = stop + 2
        while at < size:
            if self._left:
                end = min(at + self._left, size)
                pieces.append(data[at:end])
                self._left -= end - at
                self._open = True
                at = end
                continue
            end = data.find(b"\n", at) - 1
            if end < -1:
                if size - at > MOST_LINE:
                    raise ValueError("a line between chunks is too long")
                self._held = data[at:]
                return None
            if end < at or data[end] != CR:
                raise ValueError("a line between chunks has another end")
            if self._open:
                if end > at:
                    raise ValueError("a chunk is longer than it says")
                self._open = False
            elif self._trailers >= 0:
                if end == at:
                    return data[end + 2 :]
                self._trailers += 1
                if self._trailers > MOST_TRAILERS or end - at > MOST_LINE or not _FIELD.fullmatch(data, at, end + 2):
                    raise ValueError("what follows the last chunk is none of HTTP")
            else:
                self._left = _size(data[at:end])
                if not self._left:
                    self._trailers = 0
            at = end + 2
        return None
