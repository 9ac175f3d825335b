"""The SSE reader: whatever the bytes and however they are cut, nothing is lost and the same events come out."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmgate.wire.sse import MAX_EVENT, Event, SseReader

BOM = b"\xef\xbb\xbf"

FRAGMENTS = [
    b'data: {"a":1}',
    b'data:{"a":1}',
    b'data: {"a":1}\n\n',
    b"data: [DONE]\n\n",
    b"data",
    b"data:",
    b"data:  two spaces",
    b"data: ",
    b"event: x",
    b"event: x\ndata: y\n\n",
    b"event",
    b": ping",
    b"id: 7",
    b"retry: 3000",
    b"unknown: field",
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\r",
    b"\n\n",
    b"\r\n\r\n",
    b"\n\r",
    BOM,
    BOM[:1],
    BOM[:2],
    "æøå €".encode(),
    "🙂".encode(),
    "🙂".encode()[:2],
    "\u2028\u2029\u0085".encode(),
    b"\x0b\x0c\x1c\x1d\x1e\x85",
    b"\xff",
    b"\x00",
    b":",
    b" ",
    b"x",
]

streams = st.lists(st.sampled_from(FRAGMENTS), max_size=24).map(b"".join)
usual_streams = st.lists(st.sampled_from([f for f in FRAGMENTS if b"\r" not in f]), max_size=24).map(b"".join)


@st.composite
def chunked(draw: st.DrawFn) -> list[bytes]:
    """A stream and somewhere to cut it; empty chunks included.

    Half of them are such as the quick way is for: a first event is out, and lines end in LF.
    """
    first, stream = draw(st.tuples(st.just([]), streams) | st.tuples(st.just([b": first\n\n"]), usual_streams))
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    return first + [stream[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


def read(chunks: Iterable[bytes], max_event: int = MAX_EVENT) -> list[Event]:
    """All events of a stream, while nothing is lost at any moment."""
    reader = SseReader(max_event=max_event)
    fed = b""
    events = []
    for chunk in chunks:
        events += reader.feed(chunk)
        fed += chunk
        assert b"".join(event.raw for event in events) + reader.pending == fed
    events += reader.finish()
    assert reader.pending == b""
    assert b"".join(event.raw for event in events) == fed
    assert reader.finish() == []
    return events


def bytewise(stream: bytes) -> list[bytes]:
    return [stream[at : at + 1] for at in range(len(stream))]


def reference(stream: bytes, *, at_start: bool = True) -> list[tuple[str, str | None]]:
    """(type, data) for each blank line, after §9.2.5 and §9.2.6 of the standard, a character at a time.

    Data is None where the standard does not dispatch, because its data buffer is empty.
    """
    text = stream.decode("utf-8", "replace")
    if at_start:
        text = text.removeprefix("\ufeff")
    lines = []
    line = ""
    at = 0
    while at < len(text):
        if text[at] in "\r\n":
            lines.append(line)
            line = ""
            at += 2 if text[at : at + 2] == "\r\n" else 1
        else:
            line += text[at]
            at += 1
    # `line` is what the stream ended in: "Once the end of the file is reached, any pending data must be discarded."

    dispatched: list[tuple[str, str | None]] = []
    data_buffer = event_type = ""
    for line in lines:
        if line == "":
            dispatched.append((event_type or "message", data_buffer[:-1] if data_buffer else None))
            data_buffer = event_type = ""
            continue
        if line.startswith(":"):
            continue
        field, value = line, ""
        if ":" in line:
            field, value = line[: line.index(":")], line[line.index(":") + 1 :]
            if value.startswith(" "):
                value = value[1:]
        if field == "event":
            event_type = value
        elif field == "data":
            data_buffer += value + "\n"
    return dispatched


def seen(event: Event) -> tuple[str, str]:
    """An event as the reference tells it."""
    return event.name.decode("utf-8", "replace") or "message", event.data.decode("utf-8", "replace")


# any stream, cut anyhow


@given(chunked())
@example([b"data: x\r", b"\n", b"\r", b"\ndata: y\n\n"])
@example([b"data: x\n\r", b"data: y\n\n"])
@example([b"x\r", b"\r", b"\r", b"\n", b"\n"])
@example([b": \n\n", b"\n", b"\n\n", b"\n\n\n", b"\n\ndata: x\n\n\n"])
@example([b"\xef", b"\xbb", b"\xbf", b"\r", b"data: x\n\n"])
def test_the_cutting_changes_nothing(chunks: list[bytes]) -> None:
    stream = b"".join(chunks)
    whole = read([stream])
    assert read(chunks) == whole
    assert read(bytewise(stream)) == whole


@given(chunked())
def test_agrees_with_the_standard(chunks: list[bytes]) -> None:
    stream = b"".join(chunks)
    events = read(chunks)
    complete = [event for event in events if event.complete]
    expected = reference(stream)
    assert [seen(event) for event in complete] == [(name, data or "") for name, data in expected]
    assert events[: len(complete)] == complete
    if len(events) > len(complete):
        [rest] = events[len(complete) :]
        name, data = reference(stream + b"\n\n")[len(complete)]
        assert seen(rest) == (name, data or "")


@given(chunked())
def test_every_complete_event_ends_with_its_only_blank_line(chunks: list[bytes]) -> None:
    for index, event in enumerate(read(chunks)):
        assert len(reference(event.raw, at_start=index == 0)) == event.complete


@given(chunked(), st.integers(0, 40))
@example([b": first\n\n", b"data: xyz\n\n"], 10)
@example([b"x\n\r", b"\n"], 3)
@example([b"x\n\r", b"y"], 3)
def test_where_parsing_is_given_up_does_not_depend_on_the_cutting(chunks: list[bytes], max_event: int) -> None:
    stream = b"".join(chunks)
    unbounded = read([stream])
    fitting = 0
    while fitting < len(unbounded) and len(unbounded[fitting].raw) <= max_event:
        fitting += 1
    for cut in (chunks, [stream], bytewise(stream)):
        events = read(cut, max_event)
        assert events[:fitting] == unbounded[:fitting]
        for event in events[fitting:]:
            assert (event.data, event.name, event.complete) == (b"", b"", False)
            assert event.raw


# one stream after the other

EXAMPLES: dict[str, tuple[bytes, list[Event]]] = {
    "nothing": (b"", []),
    "data": (b'data: {"a":1}\n\n', [Event(b'data: {"a":1}\n\n', b'{"a":1}')]),
    "no space after the colon": (b"data:{}\n\n", [Event(b"data:{}\n\n", b"{}")]),
    "only one space goes": (b"data:  x \n\n", [Event(b"data:  x \n\n", b" x ")]),
    "a tab stays": (b"data:\tx\n\n", [Event(b"data:\tx\n\n", b"\tx")]),
    "colons in the value": (b"data: a: b\n\n", [Event(b"data: a: b\n\n", b"a: b")]),
    "event and data": (b"event: x\ndata: y\n\n", [Event(b"event: x\ndata: y\n\n", b"y", b"x")]),
    "data and event": (b"data: y\nevent: x\n\n", [Event(b"data: y\nevent: x\n\n", b"y", b"x")]),
    "the last name counts": (
        b"event: x\nevent: y\ndata: z\n\n",
        [Event(b"event: x\nevent: y\ndata: z\n\n", b"z", b"y")],
    ),
    "a name alone": (b"event: x\n\n", [Event(b"event: x\n\n", b"", b"x")]),
    "a name isn't kept": (
        b"event: x\n\ndata: y\n\n",
        [Event(b"event: x\n\n", b"", b"x"), Event(b"data: y\n\n", b"y")],
    ),
    "several data lines": (b"data: a\ndata: b\n\n", [Event(b"data: a\ndata: b\n\n", b"a\nb")]),
    "several after a name": (
        b"event: x\ndata: a\ndata: b\n\n",
        [Event(b"event: x\ndata: a\ndata: b\n\n", b"a\nb", b"x")],
    ),
    "a data line without a colon": (b"data\ndata\n\n", [Event(b"data\ndata\n\n", b"\n")]),
    "an empty data line": (b"data:\n\n", [Event(b"data:\n\n", b"")]),
    "names are exact": (b"Data: x\n data: x\ndata : x\n\n", [Event(b"Data: x\n data: x\ndata : x\n\n", b"")]),
    "the end of OpenAI's": (b"data: [DONE]\n\n", [Event(b"data: [DONE]\n\n", b"[DONE]")]),
    "a comment": (b": ping\n\n", [Event(b": ping\n\n", b"")]),
    "a comment before an event": (b": ping\ndata: x\n\n", [Event(b": ping\ndata: x\n\n", b"x")]),
    "id and retry": (b"id: 7\nretry: 3000\ndata: x\n\n", [Event(b"id: 7\nretry: 3000\ndata: x\n\n", b"x")]),
    "retry alone": (b"retry: 3000\n\n", [Event(b"retry: 3000\n\n", b"")]),
    "a blank line before": (b"\ndata: x\n\n", [Event(b"\n", b""), Event(b"data: x\n\n", b"x")]),
    "a blank line after": (b"data: x\n\n\n", [Event(b"data: x\n\n", b"x"), Event(b"\n", b"")]),
    "stray blank lines": (
        b"\ndata: x\n\n\n\n\ndata: y\n\n",
        [
            Event(b"\n", b""),
            Event(b"data: x\n\n", b"x"),
            *[Event(b"\n", b"")] * 3,
            Event(b"data: y\n\n", b"y"),
        ],
    ),
    "CRLF": (b"data: x\r\n\r\n: p\r\n\r\n", [Event(b"data: x\r\n\r\n", b"x"), Event(b": p\r\n\r\n", b"")]),
    "CR": (b"data: x\r\rdata: y\r\r", [Event(b"data: x\r\r", b"x"), Event(b"data: y\r\r", b"y")]),
    "mixed line ends": (
        b"event: e\r\ndata: x\rdata: y\n\r\ndata: z\r\n\n",
        [Event(b"event: e\r\ndata: x\rdata: y\n\r\n", b"x\ny", b"e"), Event(b"data: z\r\n\n", b"z")],
    ),
    "a BOM": (BOM + b"data: x\n\n", [Event(BOM + b"data: x\n\n", b"x")]),
    "a second BOM is text": (BOM + BOM + b"data: x\n\n", [Event(BOM + BOM + b"data: x\n\n", b"")]),
    "a later BOM is text": (
        b"data: x\n\n" + BOM + b"data: y\n\n",
        [Event(b"data: x\n\n", b"x"), Event(BOM + b"data: y\n\n", b"")],
    ),
    "a BOM before a blank line": (BOM + b"\ndata: x\n\n", [Event(BOM + b"\n", b""), Event(b"data: x\n\n", b"x")]),
    "a BOM alone": (BOM, [Event(BOM, b"", complete=False)]),
    "a BOM in an unterminated event": (BOM + b"data: x", [Event(BOM + b"data: x", b"x", complete=False)]),
    "a later BOM in an unterminated event": (
        b"\n" + BOM + b"data: x",
        [Event(b"\n", b""), Event(BOM + b"data: x", b"", complete=False)],
    ),
    "line separators of Unicode": (
        "data: a\u2028b\u2029c\u0085d\n\n".encode(),
        [Event("data: a\u2028b\u2029c\u0085d\n\n".encode(), "a\u2028b\u2029c\u0085d".encode())],
    ),
    "line separators of ASCII": (
        b"data: a\x0bb\x0cc\x1cd\x1de\x1ef\x85g\r\n\r\n",
        [Event(b"data: a\x0bb\x0cc\x1cd\x1de\x1ef\x85g\r\n\r\n", b"a\x0bb\x0cc\x1cd\x1de\x1ef\x85g")],
    ),
    "NUL": (b"id: \0\ndata: a\0b\n\n", [Event(b"id: \0\ndata: a\0b\n\n", b"a\0b")]),
    "not UTF-8": (b"data: \xff\xe2\x82\n\n", [Event(b"data: \xff\xe2\x82\n\n", b"\xff\xe2\x82")]),
    "cut off in a line": (
        b'data: x\n\nevent: e\ndata: {"us',
        [Event(b"data: x\n\n", b"x"), Event(b'event: e\ndata: {"us', b'{"us', b"e", complete=False)],
    ),
    "cut off before the blank line": (b"data: x\n", [Event(b"data: x\n", b"x", complete=False)]),
    "cut off before the blank line, CR": (b"data: x\r", [Event(b"data: x\r", b"x", complete=False)]),
}


@pytest.mark.parametrize(("stream", "events"), EXAMPLES.values(), ids=EXAMPLES)
def test_examples(stream: bytes, events: list[Event]) -> None:
    assert read([stream]) == events
    assert read(bytewise(stream)) == events
    # Behind a first event the quick way is open, where a BOM isn't one any more.
    if not stream.startswith(BOM):
        assert read([b"data: 0\n\n", stream]) == [Event(b"data: 0\n\n", b"0"), *events]


# when an event comes out


@given(chunked())
@example([b"data: x\n\n", b"data: y\n\n\n"])
def test_an_event_that_is_over_is_never_held(chunks: list[bytes]) -> None:
    reader = SseReader()
    begun = False
    for chunk in chunks:
        begun = bool(reader.feed(chunk)) or begun
        assert reader.pending.endswith(b"\r") or reference(reader.pending, at_start=not begun) == []


def test_an_event_comes_out_with_its_last_byte() -> None:
    reader = SseReader()
    for stream in (b"data: x\n\n", b"event: e\ndata: x\n\n", b": ping\n\n", b"data: x\r\n\r\n"):
        for byte in bytewise(stream[:-1]):
            assert reader.feed(byte) == []
        assert reader.pending == stream[:-1]
        assert [event.raw for event in reader.feed(stream[-1:])] == [stream]
        assert reader.pending == b""


def test_after_a_cr_that_may_be_half_a_crlf_the_next_byte_decides() -> None:
    reader = SseReader()
    assert reader.feed(b"data: x\r\r") == []
    assert reader.feed(b"d") == [Event(b"data: x\r\r", b"x")]
    assert reader.feed(b"ata: y\r\r") == []
    assert reader.feed(b"\n") == [Event(b"data: y\r\r\n", b"y")]
    assert reader.feed(b"data: z\r\r") == []
    assert reader.finish() == [Event(b"data: z\r\r", b"z")]


def test_many_events_in_a_chunk_that_ends_within_one() -> None:
    reader = SseReader()
    assert reader.feed(b": hello\n\n") == [Event(b": hello\n\n", b"")]
    assert [event.data for event in reader.feed(b"data: 1\n\nevent: e\ndata: 2\n\ndata: 3")] == [b"1", b"2"]
    assert reader.pending == b"data: 3"
    assert [event.data for event in reader.feed(b"3\n\ndata: 4\n\n")] == [b"33", b"4"]
    assert reader.feed(b"") == []


def test_a_character_cut_by_a_chunk_is_whole_again() -> None:
    character = "🙂".encode()
    reader = SseReader()
    assert reader.feed(b"data: " + character[:2]) == []
    [event] = reader.feed(character[2:] + b"\n\n")
    assert event.data.decode() == "🙂"


# large ones


def test_an_event_too_large_passes_through_unparsed() -> None:
    reader = SseReader(max_event=1000)
    assert reader.feed(b"data: 1\n\n") == [Event(b"data: 1\n\n", b"1")]
    assert reader.feed(b"data: " + b"x" * 994) == []
    assert reader.feed(b"x") == [Event(b"data: " + b"x" * 995, b"", complete=False)]
    assert reader.pending == b""
    assert reader.feed(b"\n\ndata: 2\n\n") == [Event(b"\n\ndata: 2\n\n", b"", complete=False)]
    assert reader.feed(b"") == []
    assert reader.finish() == []


def test_events_of_the_bound_itself_are_read_whatever_surrounds_them() -> None:
    event = b"data: " + b"x" * 92 + b"\n\n"
    assert len(event) == 100
    assert [len(each.data) for each in read([event * 5], max_event=100)] == [92] * 5
    assert [len(each.data) for each in read([event * 5], max_event=99)] == [0]
    assert [len(each.data) for each in read([b"data: 1\n\n", event * 5], max_event=100)] == [1, *[92] * 5]
    assert [len(each.data) for each in read([b"data: 1\n\n", event * 5], max_event=99)] == [1, 0]


@pytest.mark.timeout(30)
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("lines", [1, 50_000])
def test_small_pieces_of_a_large_event_cost_no_more_each(end: bytes, lines: int) -> None:
    # Searching or copying for every piece all that is held would mean to touch 500 GB, and run into the timeout.
    line = b"data: " + b"x" * (1_000_000 // lines)
    stream = (line + end) * lines + end
    reader = SseReader()
    events = []
    for at in range(len(stream)):
        events += reader.feed(stream[at : at + 1])
    events += reader.finish()
    assert [event.raw for event in events] == [stream]
    assert events[0].data.count(b"x") == 1_000_000
