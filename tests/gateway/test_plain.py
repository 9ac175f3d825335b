"""Plain answers are read as aiohttp reads them, however they are cut; what isn't plain is left to it."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any
from unittest.mock import Mock

import aiohttp
import pytest
from aiohttp.http import HttpProcessingError, HttpResponseParser
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmgate.gateway.plain import MOST_LINE, MOST_TRAILERS, Chunked, Sized, parse

_PIECES = st.sampled_from(
    [
        *(
            b"HTTP/1.1 ",
            b"HTTP/1.0 ",
            b"HTTP/2 ",
            b"200",
            b"204",
            b"101",
            b"600",
            b"20",
            b" OK",
            b"\r\n",
            b"\n",
            b"\r",
            b" ",
        ),
        *(
            b"Content-Length: 5",
            b"content-length:05",
            b"content-length: 5, 5",
            b"content-length: +5",
            b"content-length: 0",
        ),
        *(b"Transfer-Encoding: chunked", b"transfer-encoding: gzip, chunked", b"transfer-encoding: Chunked"),
        *(b"Connection: close", b"connection: keep-alive", b"connection: upgrade", b"Upgrade: h2c", b"X-A: b", b"x:"),
        *(b" folded", b": x", b"x", b"a b: c", b"\0", b"\x01", b"\x85", b"\xff"),
    ]
)
_LINES = st.lists(st.lists(_PIECES, min_size=1, max_size=2).map(b"".join), max_size=5)
_FRAMED = st.sampled_from([b"content-length: 5\r\n", b"transfer-encoding: chunked\r\n", b""])


def by_aiohttp(data: bytes) -> tuple[Any, Any]:
    """A head, and what it says of its body. Raises HttpProcessingError."""
    loop = asyncio.new_event_loop()
    try:
        protocol: Any = Mock(_reading_paused=False)
        parser = HttpResponseParser(protocol, loop, 2**16, read_until_eof=True, auto_decompress=False)
        messages, upgraded, tail = parser.feed_data(data)
        assert not upgraded
        assert not tail
        ((message, content),) = messages
        return message, content
    finally:
        loop.close()


@settings(max_examples=1500, deadline=None)
@given(
    head=st.builds(
        lambda framed, lines: b"HTTP/1.1 200 OK\r\n" + framed + b"".join(line + b"\r\n" for line in lines) + b"\r\n",
        _FRAMED,
        _LINES,
    )
    | st.builds(
        lambda line, framed: line + b"\r\n" + framed + b"\r\n", st.lists(_PIECES, max_size=4).map(b"".join), _FRAMED
    )
)
@example(head=b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n")
@example(head=b"HTTP/1.1 200\r\ncontent-length: 5\r\n\r\n")
@example(head=b"HTTP/1.1 200 \r\ncontent-length: 5\r\nconnection: close\r\n\r\n")
def test_what_is_plain_is_read_as_aiohttp_reads_it(head: bytes) -> None:
    ours = parse(head)
    if ours is None:
        return
    message, content = by_aiohttp(head)
    assert (message.code, message.raw_headers, message.should_close) == (ours.status, ours.headers, ours.close)
    assert message.chunked is (ours.length is None)
    assert content.is_eof() is (ours.length == 0)
    assert (message.reason or "").strip() == ours.reason.strip()


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\n\r\n",  # it ends with its connection
        b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\ncontent-length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    ],
)
def test_what_is_not_plain(head: bytes) -> None:
    assert parse(head) is None


# ── bodies ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def fed(decoder: Sized | Chunked, pieces: list[bytes]) -> tuple[bytes, bytes | None]:
    """What is of the body, and what comes after it; None: it has no end."""
    got: list[bytes] = []
    for number, piece in enumerate(pieces):
        rest = decoder.feed(piece, got)
        assert b"" not in got
        if rest is not None:
            return b"".join(got), rest + b"".join(pieces[number + 1 :])
    return b"".join(got), None


def cut(data: bytes, at: list[int]) -> list[bytes]:
    ends = [0, *sorted(end % (len(data) + 1) for end in at), len(data)]
    return [data[begin:end] for begin, end in pairwise(ends)]


@given(body=st.binary(max_size=30), rest=st.binary(max_size=5), at=st.lists(st.integers(0, 100), max_size=4))
def test_a_body_with_a_length(body: bytes, rest: bytes, at: list[int]) -> None:
    assert fed(Sized(len(body)), cut(body + rest, at)) == (body, rest)
    if body:
        assert fed(Sized(len(body)), cut(body[:-1], at)) == (body[:-1], None)


_CHUNKS = st.lists(st.binary(min_size=1, max_size=20), max_size=5)
_EXTENSION = st.sampled_from([b"", b";a=b", b" ", b";"])
_TRAILERS = st.sampled_from([b"", b"x-a: b\r\n", b"a: b\r\nc: d\r\n"])


@given(
    chunks=_CHUNKS,
    extension=_EXTENSION,
    trailers=_TRAILERS,
    rest=st.binary(max_size=5),
    at=st.lists(st.integers(0), max_size=6),
)
def test_a_body_in_chunks(chunks: list[bytes], extension: bytes, trailers: bytes, rest: bytes, at: list[int]) -> None:
    sent = b"".join(b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
    whole = sent + b"0\r\n" + trailers + b"\r\n"
    assert fed(Chunked(), cut(whole + rest, at)) == (b"".join(chunks), rest)
    assert fed(Chunked(), [bytes([byte]) for byte in whole]) == (b"".join(chunks), b"")
    assert fed(Chunked(), cut(whole[:-1], at)) == (b"".join(chunks), None)


@pytest.mark.parametrize(
    "wrong",
    [
        *(b"nonsense\r\n", b"\r\n", b"0x5\r\nhello\r\n", b"-1\r\n", b"+5\r\nhello\r\n", b"1_0\r\n", b"5\r\nhello!\r\n"),
        *(
            b"5\r\nhelloX\r\n",
            b"f" * 16 + b"\r\n",
            b"5\n\r\n",
            b"x" * (MOST_LINE + 1),
            b"5\r\nhello" + b"x" * (MOST_LINE + 1),
        ),
        b"0\r\n" + b"a: b\r\n" * (MOST_TRAILERS + 1),
    ],
)
@pytest.mark.parametrize("size", [1, 10_000])
def test_chunks_that_are_none(wrong: bytes, size: int) -> None:
    """What came before them comes out."""
    got: list[bytes] = []
    decoder = Chunked()
    data = b"2\r\nhi\r\n" + wrong
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    with pytest.raises(ValueError):
        [decoder.feed(piece, got) for piece in pieces]
    assert b"".join(got).startswith(b"hi")
    assert b"X" not in b"".join(got)


@settings(max_examples=500, deadline=None)
@given(
    data=st.lists(
        st.sampled_from(
            [b"5\r\nhello\r\n", b"0\r\n", b"\r\n", b"a: b\r\n", b"5", b"hello", b"\n", b"\r", b";x", b"g", b" "]
        ),
        max_size=8,
    ).map(b"".join)
)
def test_no_body_is_read_as_another_than_by_aiohttp(data: bytes) -> None:
    """Where both take it."""
    try:
        got, rest = fed(Chunked(), [data])
    except ValueError:
        return
    try:
        _, content = by_aiohttp(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + data)
    except (HttpProcessingError, aiohttp.ClientError, ValueError, AssertionError):
        assert rest != b""
        return
    if content.exception() is None:
        assert (b"".join(content._buffer), content.is_eof()) == (got, rest is not None)
