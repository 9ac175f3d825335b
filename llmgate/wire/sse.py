"""Server-sent events, read from a copy of bytes that pass through.

After the WHATWG HTML Living Standard, §9.2 "Server-sent events" (§9.2.5 parsing, §9.2.6 interpreting). The gateway
forwards what the upstream sent, byte for byte, and needs the events only to meter them; so every event carries the
exact bytes it was read from, and no byte is ever dropped, whatever it means:

    b"".join(event.raw for event in all events) == all bytes fed        (with those of `finish`)

and the same bytes give the same events however they were cut into chunks.

Where this differs from what a browser does, it is to lose nothing: an event without data, which the standard does not
dispatch, and an event cut off by the end of the stream, which it discards, are handed out all the same, to be
forwarded (and the latter to be metered: the usage may be in it). `id` and `retry` concern reconnecting and are ignored.

Lines are split as bytes and never decoded. That gives what decoding first would give, because CR, LF, colon and space
can't be part of a longer UTF-8 sequence, broken ones included, and it can't tear a character at a chunk's border.
"""

from __future__ import annotations

import re

import msgspec

BOM = b"\xef\xbb\xbf"

# As integers, because `CR in data` costs a fraction of `b"\r" in data`.
LF = 0x0A
CR = 0x0D

MAX_EVENT = 64 * 1024 * 1024
"""Images come as one line of several MB. Beyond this it isn't an event, and must not fill the memory."""

_LINE_END = re.compile(rb"\r\n?|\n")
# Two line ends, the first from its last byte on. After it comes a CR, or an LF if it was an LF itself: an LF after a CR
# still belongs to the same line end. (A set comes first so that the search skips to line ends quickly.)
_BLANK_LINE = re.compile(rb"[\r\n](?:\r\n?|(?<=\n)\n)")


class Event(msgspec.Struct, frozen=True, gc=False):
    """One event, or what else stood between two blank lines. (A Struct: the quickest of Python's records to build.)"""

    raw: bytes
    """The exact bytes, with the blank line that ends the event, and with comments and a BOM before it."""
    data: bytes
    """Its data lines joined by LF; empty also where there is none (only comments, or a stray blank line)."""
    name: bytes = b""
    """Its `event` field. Empty means the default, which the standard calls `message`."""
    complete: bool = True
    """False for the rest that a stream broke off in, and for bytes handed through unparsed (see `SseReader`)."""


class SseReader:
    """Cuts a stream into events, at every blank line.

    A CR at the end of what was fed may be the first half of a CRLF, whose LF would belong to the same event: such an
    event is handed out with the next byte, or by `finish`. Only streams whose lines end in bare CR ever wait for that.

    Once an event exceeds `max_event` bytes, parsing is given up for the rest of the stream: the bytes of that event
    and all that follow are handed through as they come, in events with empty data and `complete` False. (Where parsing
    stops doesn't depend on the chunks; how the bytes after it are divided does.)

    The work is linear in the bytes fed, however small the pieces: what is held was searched before, and only its last
    two bytes can begin a blank line that ends in what comes next.
    """

    __slots__ = ("_given_up", "_held", "_max_event", "_plain")

    def __init__(self, *, max_event: int = MAX_EVENT) -> None:
        self._max_event = max_event
        self._held = bytearray()
        self._given_up = False
        self._plain = False
        """The quick way may be taken: something came, and it doesn't begin with a BOM, or that is past; and parsing
        wasn't given up."""

    @property
    def pending(self) -> bytes:
        """What was fed and is in no event yet."""
        return bytes(self._held)

    def feed(self, data: bytes) -> list[Event]:
        """The events that these bytes complete."""
        held = self._held
        if held:
            if data.find(b"\n\n") >= 0:
                # What is held ends here for certain, so it is copied this once.
                data = bytes(held) + data
                held.clear()
            elif LF in data or CR in data or held[-1] == CR or len(held) + len(data) > self._max_event:
                return self._cut(data)
            else:
                held += data
                return []
        elif not self._plain and data and not self._given_up:
            self._plain = data[0] != BOM[0]
        if not self._plain or CR in data or len(data) > self._max_event:
            return self._cut(data)
        return self._cut_plain(data)

    def finish(self) -> list[Event]:
        """At the end of the stream: what was held, as a last event that is not complete.

        It is complete if it only waited for the LF that might have followed its last CR.
        """
        events = self._cut(b"", final=True)
        if self._held:
            raw = bytes(self._held)
            self._held.clear()
            events.append(Event(raw, *_interpret(raw if self._plain else raw.removeprefix(BOM)), complete=False))
        return events

    def _cut_plain(self, data: bytes) -> list[Event]:
        """The usual stream, quickly: its lines end in LF, nothing is held, and no event in it can be too large.

        The two shapes that vendors send, a data line alone or after an event line, are taken apart in place.
        """
        events = []
        blocks = data.split(b"\n\n")
        rest = blocks.pop()
        for block in blocks:
            if block[:6] == b"data: " and LF not in block:
                events.append(Event(block + b"\n\n", block[6:]))
                continue
            head, data_follows, tail = block.partition(b"\ndata: ")
            if data_follows and head[:7] == b"event: " and LF not in head and LF not in tail:
                events.append(Event(block + b"\n\n", tail, head[7:]))
            elif block and block[0] != LF:
                events.append(Event(block + b"\n\n", *_interpret(block)))
            else:  # a stray blank line, after which the split fell beside the ends of events
                return self._cut(data)
        if rest:
            if rest[0] == LF:
                return self._cut(data)
            self._held += rest
        return events

    def _cut(self, data: bytes, *, final: bool = False) -> list[Event]:
        """Any stream. `final` settles what a CR at the end is."""
        if self._given_up:
            return [Event(data, b"", complete=False)] if data else []
        events: list[Event] = []
        held = self._held
        searched = max(len(held) - 2, 0)
        held += data
        begin = 0
        while True:
            text = begin if self._plain or not held.startswith(BOM) else len(BOM)
            # The first line's end is a blank line by itself, with no line before it.
            found = _LINE_END.match(held, text) or _BLANK_LINE.search(held, max(text, searched))
            end = found.end() if found else len(held)
            if end - begin > self._max_event:
                events.append(Event(bytes(held[begin:]), b"", complete=False))
                begin = len(held)
                self._given_up, self._plain = True, False
                break
            if not found or (end == len(held) and held[-1] == CR and not final):
                break
            events.append(Event(bytes(held[begin:end]), *_interpret(bytes(held[text:end]))))
            begin = end
            self._plain = True
        del held[:begin]
        return events


def _interpret(block: bytes) -> tuple[bytes, bytes]:
    """The data and the name that the lines of an event give (§9.2.6)."""
    data = []
    name = b""
    for line in block.splitlines():  # of bytes, so at CR, LF and CRLF only: U+2028 and its like are text
        field, _, value = line.partition(b":")
        if field == b"data":
            data.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.removeprefix(b" ")
    return b"\n".join(data), name
