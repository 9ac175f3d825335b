"""What is heard of an answer as it goes by. The same for every format: each says how one event is heard."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import msgspec

from ..types import Usage
from .sse import Event, SseReader


class Heard(msgspec.Struct):
    """What was heard of an answer so far."""

    usage: Usage | None = None
    text_bytes: int = 0
    """UTF-8 bytes of text and tool arguments that went by."""
    counted_bytes: int = 0
    """How much of it the last usage that was heard can have counted."""
    reasoned: bool = False
    finished: bool = False
    """The model said that it is done: all that will be billed has been written."""
    done: bool = False
    """The format's last event went by: there is nothing more to deliver."""
    failed: bool = False
    """The upstream reported an error inside the stream."""
    service_tier: str | None = None
    open_array: bool = False
    """It broke off, and what came is a JSON array that can take another object."""
    made: tuple[str, ...] = ()
    """Ids of what the answer left at the upstream: whoever comes back for it must be who asked."""

    def note(self, *ids: Any) -> None:
        """Of what may be ids, those that are."""
        self.made += tuple(name for name in dict.fromkeys(ids) if isinstance(name, str) and name not in self.made)

    def take_usage(self, usage: Usage) -> None:
        """The last usage wins: a later one replaces, and never adds."""
        self.usage = usage
        self.counted_bytes = 0 if usage.output_missing else self.text_bytes


HearEvent = Callable[[Heard, Event], bool]
"""Hear one event that has data. Returns whether it is the client's: False where it only came because llmgate asked."""


class Stream(Protocol):
    """Listens to an answer as it goes by. `feed` and `finish` return the bytes to pass on."""

    heard: Heard

    def feed(self, data: bytes) -> bytes: ...

    def finish(self) -> bytes: ...

    def break_off(self) -> bytes:
        """The stream is over, perhaps too early: hear what is left of it. Returns what must stand before an event of
        our own, because the last one was passed on without its end."""


class SseStream:
    """A stream of server-sent events.

    Without `hide` the bytes that are passed on are those that came, at once; with it, an event is passed on when it is
    complete, and only if it is the client's.
    """

    __slots__ = ("_hear", "_hide", "_hold", "_reader", "heard", "held")

    def __init__(self, hear: HearEvent, *, hide: bool = False) -> None:
        self._reader = SseReader()
        self._hear = hear
        self._hide = hide
        self._hold = False
        self.heard = Heard()
        self.held = b""

    def hold_end(self) -> None:
        """The format's last event, and what follows it, is kept in `held`: something is to be said before it."""
        self._hold = True

    def feed(self, data: bytes) -> bytes:
        passed = self._listen(self._reader.feed(data))
        return passed if self._hide or self._hold else data

    def finish(self) -> bytes:
        passed = self._listen(self._reader.finish())
        return passed if self._hide or self._hold else b""

    def break_off(self) -> bytes:
        torn = bool(self._reader.pending) and not (self._hide or self._hold)
        self._listen(self._reader.finish())
        return b"\n\n" if torn else b""

    def _listen(self, events: Iterable[Event]) -> bytes:
        passed = []
        for event in events:
            ours = not event.data or self._hear(self.heard, event) or not self._hide
            if self._hold and self.heard.done:
                self.held += event.raw
            elif ours:
                passed.append(event.raw)
        return b"".join(passed)
