"""Paths that no format describes: the admin's own (`[routes]`), those passed through, what lies at an upstream.

Their bodies and answers may be anything, and pass byte for byte. What was used is found by the admin's expression, or
in a usage as OpenAI writes it, or isn't asked for.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ..errors import Refusal
from ..metering import Metering
from ..types import Ask, Meters, Usage
from . import body
from .body import Fields
from .endpoint import Dialect, Endpoint, Terms
from .heard import Heard, SseStream
from .openai import flag, model_of, renamed, tags_of
from .openai_usage import part, read_either
from .sse import Event

KNOWN = frozenset({"model", "stream"})


def _read(raw: bytes, _content_type: str, known: frozenset[str]) -> Fields:
    """The top level of a JSON object; of anything else, nothing."""
    if raw[:64].lstrip()[:1] != b"{":
        return {}
    try:
        msgspec.json.decode(raw, type=Fields)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return body.read(raw, known)


def _nothing(_fields: Fields, _ask: Ask, _terms: Terms) -> dict[str, Any]:
    return {}


# ── metered by the admin's expression ─────────────────────────────────────────────────────────────────────────────────


class _Last(SseStream):
    """A stream whose last event of data says what was used. It is read once, at the end."""

    __slots__ = ("_last", "_metering")

    def __init__(self, metering: Metering) -> None:
        super().__init__(self._keep)
        self._metering = metering
        self._last = b""

    def _keep(self, heard: Heard, event: Event) -> bool:
        # What went by is never estimated from its size: all of it counts as counted, and some of it as delivered.
        heard.text_bytes += len(event.data)
        heard.counted_bytes = heard.text_bytes
        if event.data.startswith(b"[DONE]"):
            heard.done = heard.finished = True
        elif event.data[:1] == b"{" and (event.complete or body.lenient(event.data) is not None):
            self._last = event.data
        return True

    def break_off(self) -> bytes:
        torn = super().break_off()
        if self._last and self._metering.expression is not None:
            _take(self.heard, self._metering.counted({"last_sse": body.lenient(self._last)}))
        return torn


def _take(heard: Heard, meters: Meters | None) -> None:
    if meters is not None:
        heard.take_usage(Usage(meters=meters))


def metered(model: str, path: str, dialect: Dialect, metering: Metering) -> Endpoint:
    """A path of the admin's own. `model` is what its requests are called in books and limits."""

    def read_ask(fields: Fields, _: str | None) -> Ask:
        return metering.ask(model, stream=bytes(fields.get("stream", b"")) == b"true")

    def hear(answer: bytes) -> Heard:
        heard = Heard(finished=True)
        if metering.expression is not None:
            _take(heard, metering.counted(body.lenient(answer)))
        return heard

    def used(_: Ask, heard: Heard) -> Usage:
        """What the answer doesn't say is the fallback, marked as estimated (its input, which is none, is missing)."""
        missing = metering.expression is not None
        return heard.usage or Usage(meters=metering.meters(metering.fallback), input_missing=missing)

    return Endpoint(
        name="route",
        dialect=dialect,
        path=path,
        known=frozenset(),
        read_ask=read_ask,
        prepare=_nothing,
        hear=hear,
        stream=lambda _hide: _Last(metering),
        read=_read,
        used=used,
    )


# ── billed by nobody ──────────────────────────────────────────────────────────────────────────────────────────────────


def _call(_ask: Ask, _heard: Heard) -> Usage:
    return Usage(meters=Meters(calls=1))


def unmetered(name: str, path: str, dialect: Dialect) -> Endpoint:
    """What costs nothing, or what the admin lets go by. Its model's name is the path's."""
    uncounted = Metering(unit="request")

    def read_ask(fields: Fields, model: str | None) -> Ask:
        assert model is not None
        return Ask(model=model, stream=bytes(fields.get("stream", b"")) == b"true", output=False)

    return Endpoint(
        name=name,
        dialect=dialect,
        path=path,
        known=frozenset(),
        read_ask=read_ask,
        prepare=_nothing,
        hear=lambda _answer: Heard(finished=True),
        stream=lambda _hide: _Last(uncounted),
        read=_read,
        used=_call,
        free=True,
    )


# ── what is made there ────────────────────────────────────────────────────────────────────────────────────────────────

MOST_TOLD = 2**20
"""Bytes. Who makes a file, a container or a context is told what it is called, in an answer that is no longer."""


def making(endpoint: Endpoint) -> Endpoint:
    """A path at which something is made, and stays: it is whose the request was. OpenAI and Anthropic call it by its
    `id`, Google by a `name` and an address."""

    def hear(answer: bytes) -> Heard | None:
        heard = endpoint.hear(answer)
        found = body.lenient(answer) if heard is not None and len(answer) <= MOST_TOLD else None
        if heard is not None and isinstance(found, dict):
            made = part(found, "file") or found
            # Beside an id, a name is what somebody wished it to be called.
            heard.note(*(made.get(name) for name in (("id",) if "id" in made else ("name", "uri"))))
        return heard

    return msgspec.structs.replace(endpoint, hear=hear)


# ── passed through ────────────────────────────────────────────────────────────────────────────────────────────────────


def _read_ask(fields: Fields, path: str | None) -> Ask:
    """A request that names a model is one to that model; any other is called by its path.

    Nobody here knows which field bounds it, so that it isn't for accounts whose money can run out.
    """
    assert path is not None
    try:
        model = model_of(fields, path)
    except Refusal:
        model = path  # what isn't a name is none
    return Ask(
        model=model,
        stream=model != path and flag(fields, "stream"),
        text_bytes=sum(len(bytes(value)) for value in fields.values()),
        messages=1,
        output=model != path,
        unquotable=path,
        tags=tags_of(fields),
    )


def _renamed(_fields: Fields, ask: Ask, terms: Terms) -> dict[str, Any]:
    """The model has another name at its upstream only where the body names one."""
    return renamed(ask, terms) if ask.output else {}


def _hear(answer: bytes) -> Heard:
    heard = Heard(finished=True)
    _hear_usage(heard, body.lenient(answer))
    return heard


def _hear_usage(heard: Heard, found: Any) -> None:
    if isinstance(found, dict):
        usage = read_either(found.get("usage")) or read_either(part(found, "response").get("usage"))
        if usage is not None:
            heard.take_usage(usage)


def _hear_event(heard: Heard, event: Event) -> bool:
    heard.text_bytes += len(event.data)
    heard.counted_bytes = heard.text_bytes
    if event.data.startswith(b"[DONE]"):
        heard.done = heard.finished = True
    elif b'"usage"' in event.data:
        _hear_usage(heard, body.lenient(event.data))
    return True


def passed(path: str, dialect: Dialect) -> Endpoint:
    """A path that is passed through, and metered where its answer carries a usage."""
    return Endpoint(
        name="passthrough",
        dialect=dialect,
        path=path,
        known=KNOWN,
        read_ask=_read_ask,
        prepare=_renamed,
        hear=_hear,
        stream=lambda _hide: SseStream(_hear_event),
        read=_read,
        used=lambda _ask, heard: heard.usage or Usage(meters=Meters(calls=1)),
    )
