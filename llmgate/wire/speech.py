"""Text that is spoken, in the format `openai`: POST /v1/audio/speech.

The answer is sound, which says nothing of what it cost: the request does, by its characters. Models that bill tokens
tell them where the answer is asked for as events; else they are estimated.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ..types import Ask, Meters, Usage
from . import body
from .body import Fields
from .endpoint import Endpoint
from .heard import Heard, SseStream
from .openai import OPENAI, UNQUOTABLE, added_work, model_of, renamed, tags_of, text
from .openai_usage import read_either
from .sse import Event
from .weight import utf8_len

KNOWN = frozenset({"model", "input", "instructions", "stream_format", "user", "metadata", *UNQUOTABLE})

MOST_PER_CHARACTER = 16
"""Upper bound of the tokens that a character is spoken in: 20 a second, and no sign takes longer than 0.8 s."""

LIKELY_PER_CHARACTER = 2
"""What an estimate assumes: some 14 characters a second make 1.5."""


def read_ask(fields: Fields, _: str | None = None) -> Ask:
    """What is to be spoken. Raises Refusal `invalid_request`."""
    spoken, manner = text(fields, "input") or "", text(fields, "instructions") or ""
    most = MOST_PER_CHARACTER * max(len(spoken), 1)
    return Ask(
        model=model_of(fields),
        stream=text(fields, "stream_format") == "sse",
        text_bytes=utf8_len(spoken) + utf8_len(manner),
        messages=1,
        max_output=most,
        min_output=most,  # no field bounds it
        characters=len(spoken),
        unquotable=added_work(fields),
        tags=tags_of(fields),
    )


def hear(_answer: bytes) -> Heard:
    """Sound, in whatever form."""
    return Heard(finished=True)


def used(ask: Ask, heard: Heard) -> Usage:
    """The characters are exact. An upstream speaks, and bills, to the end, whoever listens."""
    usage = heard.usage or Usage(
        meters=Meters(audio_output=LIKELY_PER_CHARACTER * ask.characters, calls=1), input_missing=True
    )
    return msgspec.structs.replace(usage, meters=msgspec.structs.replace(usage.meters, characters=ask.characters))


def _hear_event(heard: Heard, event: Event) -> bool:
    found: Any = None
    if event.data.startswith(b"[DONE]"):
        heard.done = heard.finished = True
    elif b'"speech.audio.delta"' not in event.data[:256]:  # sound: long, and nothing to meter
        found = body.lenient(event.data)
    if not isinstance(found, dict):
        return True
    if found.get("type") == "speech.audio.done":
        heard.done = heard.finished = True
        usage = read_either(found.get("usage"))
        if usage is not None:
            meters = usage.meters
            spoken = msgspec.structs.replace(meters, output=0, audio_output=meters.audio_output + meters.output)
            heard.take_usage(msgspec.structs.replace(usage, meters=spoken))
    elif found.get("type") == "error" or found.get("error") is not None:
        heard.failed = True
    return True


def stream(hide: bool) -> SseStream:
    return SseStream(_hear_event, hide=hide)


SPEECH = Endpoint(
    name="speech",
    dialect=OPENAI,
    path="/audio/speech",
    known=KNOWN,
    read_ask=read_ask,
    prepare=lambda _fields, ask, terms: renamed(ask, terms),
    hear=hear,
    stream=stream,
    used=used,
)
