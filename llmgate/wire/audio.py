"""Sound that is heard, in the format `openai`: POST /v1/audio/transcriptions and /translations.

Some models bill tokens, others by the second; half of the forms of an answer tell neither. How long a file lasts is
then what its own header says, if it is a WAV, or what its size makes likely.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import msgspec

from ..money import ceil_div
from ..types import Ask, Meters, Usage
from . import body, form
from .body import Fields
from .endpoint import Endpoint
from .form import File, Form
from .heard import Heard, SseStream
from .openai import OPENAI, UNQUOTABLE, added_work, model_of, renamed, tags_of
from .openai_usage import part, read_either
from .sse import Event
from .weight import utf8_len

ELSEWHERE = ("url", "file_url", "file_id")
"""Fields that point at sound (Groq, Mistral): it may be longer than what came along."""

KNOWN = frozenset({"model", "stream", "response_format", "user", "metadata", *ELSEWHERE, *UNQUOTABLE})

THINNEST = 750
"""Bytes a second: 6 kbit/s, the least that speech codecs are made for (silence may be thinner, and is seldom sent)."""

USUAL = 8_000
"""Bytes a second: 64 kbit/s, what an estimate assumes."""

TOKENS_PER_SECOND = 20
"""Upper bound of the tokens that a second of sound comes to (models take 10, or 16.7)."""

WRITTEN_PER_SECOND = 10
"""Upper bound of the tokens of what is said in a second, with its time stamps."""

TEMPLATE = 256
"""Tokens that an answer has beside what was said."""

FASTEST = 768_000
"""Samples a second: beyond it a header can't be meant."""

_PCM = (1, 3)
"""The WAV formats whose every sample is as long as the header says: integers and floats."""


def read_ask(fields: Fields, _: str | None = None) -> Ask:
    """What is to be written down. Raises Refusal `invalid_request`."""
    files = fields.files if isinstance(fields, Form) else []
    most = sum(_milliseconds(file, THINNEST) for file in files)
    likely = sum(_milliseconds(file, USUAL) for file in files)
    written = ceil_div(most * WRITTEN_PER_SECOND, 1000) + TEMPLATE
    return Ask(
        model=model_of(fields),
        stream=form.flag(fields, "stream"),
        text_bytes=fields.text_bytes if isinstance(fields, Form) else 0,
        media_tokens=ceil_div(most * TOKENS_PER_SECOND, 1000),
        hidden_input=not files,
        max_output=written,
        min_output=written,  # no field bounds it
        milliseconds=most,
        likely_milliseconds=likely,
        unquotable=added_work(fields) or _elsewhere(fields) or (None if files else "file"),
        tags=tags_of(fields),
    )


def _elsewhere(fields: Fields) -> str | None:
    return next((name for name in ELSEWHERE if body.value(fields, name) is not None), None)


def _refers_to(fields: Fields) -> tuple[str, ...]:
    found = body.value(fields, "file_id")
    return (found,) if isinstance(found, str) else ()


def _milliseconds(file: File, bytes_per_second: int) -> int:
    """How long a file lasts: exactly, if it is a plain WAV, else at so many bytes a second."""
    return ceil_div(file.size * 1000, _wav_rate(file.head) or bytes_per_second)


def _wav_rate(head: bytes) -> int | None:
    """Bytes a second of a WAV whose samples aren't compressed, by the fields that decoders go by."""
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return None
    at = 12
    while at + 8 <= len(head):
        size = int.from_bytes(head[at + 4 : at + 8], "little")
        if head[at : at + 4] == b"fmt ":
            chunk = head[at + 8 : at + 8 + size]
            kind, channels, bits = (int.from_bytes(chunk[i : i + 2], "little") for i in (0, 2, 14))
            if kind == 0xFFFE:  # the format itself stands further down
                kind = int.from_bytes(chunk[24:26], "little")
            rate = int.from_bytes(chunk[4:8], "little")
            plain = kind in _PCM and bits in (8, 16, 24, 32, 64) and 0 < channels <= 64 and 0 < rate <= FASTEST
            return rate * channels * bits // 8 if plain else None
        at += 8 + size + size % 2
    return None


# ── what an answer says ───────────────────────────────────────────────────────────────────────────────────────────────

_STAMP = re.compile(rb"--> *(?:(\d{1,4}):)?(\d\d):(\d\d)[.,](\d{3})")
"""When a subtitle ends (SRT, WebVTT)."""

MOST_SECONDS = 10**7


def _ms(seconds: Any) -> int | None:
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not 0 <= seconds < MOST_SECONDS:
        return None
    whole, rest = divmod(seconds, 1)
    return int(whole) * 1000 + ceil_div(int(rest * 10**6), 1000)


def read_usage(answer: dict[str, Any]) -> Usage | None:
    """Tokens, seconds or both; a duration is what it says: there are no tokens beside it."""
    usage = part(answer, "usage")
    told = (_ms(found) for found in (usage.get("seconds"), usage.get("prompt_audio_seconds"), answer.get("duration")))
    milliseconds = next((found for found in told if found is not None), None)
    tokens = read_either(usage)
    if tokens is None:
        return None if milliseconds is None else Usage(meters=Meters(milliseconds=milliseconds, calls=1))
    return msgspec.structs.replace(
        tokens, meters=msgspec.structs.replace(tokens.meters, milliseconds=milliseconds or 0)
    )


def hear(answer: bytes) -> Heard:
    """A whole answer: JSON, subtitles, or nothing but the text."""
    found = body.lenient(answer) if answer.lstrip()[:1] == b"{" else None
    if not isinstance(found, dict):
        heard = Heard(finished=True, text_bytes=len(answer))
        ends = [
            sum(int(n or 0) * unit for n, unit in zip(match, _UNITS, strict=True)) for match in _STAMP.findall(answer)
        ]
        if ends:
            heard.take_usage(Usage(meters=Meters(milliseconds=max(ends), calls=1)))
        return heard
    text = found.get("text")
    heard = Heard(finished=True, text_bytes=utf8_len(text) if isinstance(text, str) else 0)
    heard.failed = found.get("error") is not None
    if (usage := read_usage(found)) is not None:
        heard.take_usage(usage)
    return heard


_UNITS = (3_600_000, 60_000, 1000, 1)


def used(ask: Ask, heard: Heard) -> Usage | None:
    """What isn't told lasts as long as the file likely does, and its tokens are estimated."""
    usage = heard.usage or Usage(meters=Meters(calls=1), input_missing=True, output_missing=True)
    if usage.meters.milliseconds:
        return usage
    return msgspec.structs.replace(
        usage, meters=msgspec.structs.replace(usage.meters, milliseconds=ask.likely_milliseconds)
    )


def _hear_event(heard: Heard, event: Event) -> bool:
    if event.data.startswith(b"[DONE]"):
        heard.done = heard.finished = True
        return True
    found = body.lenient(event.data)
    if not isinstance(found, dict):
        return True
    kind, delta, text = found.get("type"), found.get("delta"), found.get("text")
    if kind == "transcript.text.delta" and isinstance(delta, str):
        heard.text_bytes += utf8_len(delta)
    elif kind == "transcript.text.done":
        heard.done = heard.finished = True
        if isinstance(text, str):
            heard.text_bytes = max(heard.text_bytes, utf8_len(text))
        if (usage := read_usage(found)) is not None:
            heard.take_usage(usage)
    elif kind == "error" or found.get("error") is not None:
        heard.failed = True
    return True


def stream(hide: bool) -> SseStream:
    return SseStream(_hear_event, hide=hide)


_endpoint = partial(
    Endpoint,
    dialect=OPENAI,
    known=KNOWN,
    read=form.read_either,
    write=form.write,
    read_ask=read_ask,
    prepare=lambda _fields, ask, terms: renamed(ask, terms),
    hear=hear,
    stream=stream,
    used=used,
    refers_to=_refers_to,
)

TRANSCRIPTIONS = _endpoint(name="transcriptions", path="/audio/transcriptions")
TRANSLATIONS = _endpoint(name="translations", path="/audio/translations")
