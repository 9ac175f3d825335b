"""Sound in both directions: how long it lasts, what is said of it, and what must be known without being said."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest

from llmgate.errors import Refusal
from llmgate.pricing import Price, amount
from llmgate.quoting import input_bound, quote, rates_for
from llmgate.types import Ask, Meters
from llmgate.wire.audio import TRANSCRIPTIONS, TRANSLATIONS
from llmgate.wire.heard import Heard
from llmgate.wire.speech import SPEECH
from tests.replay import sse
from tests.wire.listening import ask_of, changed, cost, replayed, used, whole
from tests.wire.test_form import TYPE, joined, part

WHISPER = Price(milliseconds=100_000_000)
"""0.0001 USD a second."""


def wav(
    data: bytes, *, kind: int = 1, channels: int = 1, rate: int = 16_000, bits: int = 16, before: bytes = b""
) -> bytes:
    block = channels * bits // 8
    chunk = struct.pack("<HHIIHH", kind & 0xFFFF, channels, rate, rate * block, block, bits)
    if kind >> 16:
        chunk += struct.pack("<HHIH", 22, bits, 0, kind >> 16) + bytes(14)
    whole = b"WAVE" + before + b"fmt " + struct.pack("<I", len(chunk)) + chunk + b"data" + struct.pack("<I", len(data))
    return b"RIFF" + struct.pack("<I", len(whole) + len(data)) + whole + data


def asked(file: bytes, **fields: str) -> Ask:
    parts = [part("model", "whisper-1"), *(part(name, value) for name, value in fields.items())]
    raw = joined(part("file", file, filename="a"), *parts)
    return TRANSCRIPTIONS.read_ask(TRANSCRIPTIONS.read(raw, TYPE, TRANSCRIPTIONS.known), None)


def test_what_is_asked() -> None:
    found = asked(b"x" * 75_000, prompt="héllo", stream="true")
    assert found == Ask(
        model="whisper-1",
        stream=True,
        text_bytes=9 + 6 + 4,
        media_tokens=2_000,
        max_output=1_256,
        min_output=1_256,
        milliseconds=100_000,
        likely_milliseconds=9_375,
    )


EXTENSIBLE = 0xFFFE


@pytest.mark.parametrize(
    ("file", "most", "likely"),
    [
        (wav(b"x" * 31_956), 1_000, 1_000),
        (wav(b"x" * 31_957), 1_001, 1_001),
        (wav(b"x" * 31_944, before=b"JUNK\x03\x00\x00\x00abc\x00"), 1_000, 1_000),
        (wav(b"x" * 31_932, kind=EXTENSIBLE | 1 << 16), 1_000, 1_000),
        (wav(b"x" * 7_956, rate=1_000, bits=32, kind=3, channels=2), 1_000, 1_000),
        (wav(b"x" * 956, rate=1, bits=8), 1_000_000, 1_000_000),  # as long as it says, however absurd
        (wav(b"x" * 7_956, kind=85), 10_667, 1_000),  # an MP3 inside
        (wav(b"x" * 7_932, kind=EXTENSIBLE | 85 << 16), 10_667, 1_000),
        (wav(b"x" * 7_956, bits=4), 10_667, 1_000),
        (wav(b"x" * 7_956, rate=0), 10_667, 1_000),
        (wav(b"x" * 7_956, rate=2**32 // 8), 10_667, 1_000),
        (wav(b"x" * 7_956, channels=65), 10_667, 1_000),
        (b"RIFF" + bytes(7_996), 10_667, 1_000),
        (b"ID3" + bytes(7_997), 10_667, 1_000),
        (b"", 0, 0),
    ],
)
def test_how_long_a_file_lasts(file: bytes, most: int, likely: int) -> None:
    found = asked(file)
    assert (found.milliseconds, found.likely_milliseconds) == (most, likely)


def test_several_files_last_together() -> None:
    raw = joined(part("model", "m"), part("file", b"x" * 750, filename="a"), part("other", b"x" * 750, filename="b"))
    fields = TRANSLATIONS.read(raw, TYPE, TRANSLATIONS.known)
    assert TRANSLATIONS.read_ask(fields, None).milliseconds == 2_000
    assert whole(TRANSLATIONS.write(raw, fields, {"model": "n"})) == raw.replace(b"\r\n\r\nm\r\n", b"\r\n\r\nn\r\n")


def test_sound_that_is_not_in_the_body_has_no_bound() -> None:
    found = ask_of(TRANSCRIPTIONS, {"url": "https://example.com/a.mp3"})
    assert (found.unquotable, found.hidden_input) == ("url", True)
    assert ask_of(TRANSCRIPTIONS, {"response_format": "json"}).unquotable == "file"
    for name in ("url", "file_url", "file_id"):  # beside a file of a moment, it may be hours
        raw = joined(part("model", "m"), part("file", b"x", filename="a"), part(name, "x"))
        fields = TRANSCRIPTIONS.read(raw, TYPE, TRANSCRIPTIONS.known)
        assert TRANSCRIPTIONS.read_ask(fields, None).unquotable == name
        assert TRANSCRIPTIONS.refers_to(fields) == (("x",) if name == "file_id" else ())


def test_the_quote_of_sound() -> None:
    found = asked(wav(b"x" * 31_956))
    tokens = input_bound(found, None)
    by_second = rates_for(found, (WHISPER,), tokens)
    assert quote(found, by_second, tokens, 16_384).amount_nano == 100_000
    by_token = rates_for(found, (Price(input=10**9, audio_input=6 * 10**9, output=10 * 10**9),), tokens)
    assert tokens == 9 + 128 + 20
    assert quote(found, by_token, tokens, 16_384).amount_nano == tokens * 6_000 + 266 * 10_000


# -- what an answer says

TOKENS = {"type": "tokens", "input_tokens": 110, "output_tokens": 20, "total_tokens": 130}
SPLIT = TOKENS | {"input_token_details": {"audio_tokens": 100, "text_tokens": 10}}
LIKELY = 1_000

TABLE: dict[str, tuple[bytes | dict[str, Any], dict[str, int], int, int]] = {
    # the answer → meters → nano-USD by tokens (2 in, 6 heard, 10 out) → nano-USD by the second (0.0001 USD)
    "tokens": (
        {"text": "abc", "usage": TOKENS},
        {"input": 110, "output": 20, "milliseconds": LIKELY},
        420_000,
        100_000,
    ),
    "tokens, divided": (
        {"text": "abc", "usage": SPLIT},
        {"input": 10, "audio_input": 100, "output": 20, "milliseconds": LIKELY},
        820_000,
        100_000,
    ),
    "a duration": (
        {"text": "abc", "usage": {"type": "duration", "seconds": 12.3}},
        {"milliseconds": 12_300},
        0,
        1_230_000,
    ),
    "whole seconds": (
        {"text": "abc", "usage": {"type": "duration", "seconds": 13}},
        {"milliseconds": 13_000},
        0,
        1_300_000,
    ),
    "verbose": ({"text": "abc", "duration": 8.4701, "segments": []}, {"milliseconds": 8_471}, 0, 847_100),
    "diarized": (
        {"text": "abc", "duration": 2.5, "usage": SPLIT},
        {"input": 10, "audio_input": 100, "output": 20, "milliseconds": 2_500},
        820_000,
        250_000,
    ),
    "both at once (Mistral)": (
        {"text": "abc", "usage": {"prompt_audio_seconds": 4, "prompt_tokens": 4, "completion_tokens": 5}},
        {"input": 4, "output": 5, "milliseconds": 4_000},
        58_000,
        400_000,
    ),
    "subtitles": (
        b"1\n00:00:00,000 --> 00:00:02,500\nhello\n\n2\n00:00:02,500 --> 01:00:04,250\nthere\n",
        {"milliseconds": 3_604_250},
        0,
        360_425_000,
    ),
    "WebVTT": (b"WEBVTT\n\n00:00.000 --> 00:07.120\nhello\n", {"milliseconds": 7_120}, 0, 712_000),
}


@pytest.mark.parametrize("case", TABLE)
def test_usage(case: str) -> None:
    answer, meters, by_token, by_second = TABLE[case]
    raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    heard = TRANSCRIPTIONS.hear(raw)
    assert heard is not None
    assert heard.text_bytes == heard.counted_bytes
    usage = used(TRANSCRIPTIONS, asked(wav(b"x" * 31_956)), heard)
    assert (usage.meters, usage.input_missing) == (Meters(**meters, calls=1), False)
    assert cost(usage.meters, input=2, audio_input=6, output=10) == by_token
    assert amount(usage.meters, WHISPER) == by_second


@pytest.mark.parametrize("raw", [b'{"text":"hello"}', b"hello", b'{"text":"hello","usage":null,"duration":null}'])
def test_an_answer_that_tells_nothing(raw: bytes) -> None:
    heard = TRANSLATIONS.hear(raw)
    assert heard == Heard(finished=True, text_bytes=5)
    usage = used(TRANSLATIONS, asked(b"x" * 16_000), heard)
    assert (usage.meters, usage.input_missing) == (Meters(milliseconds=2_000, calls=1), True)
    assert amount(usage.meters, WHISPER) == 200_000


@pytest.mark.parametrize("seconds", [-1, "7", True, None, 1e300, float("inf")])
def test_what_is_no_duration(seconds: Any) -> None:
    heard = TRANSCRIPTIONS.hear(json.dumps({"text": "", "usage": {"seconds": seconds}}).encode())
    assert heard == Heard(finished=True)


def test_an_error() -> None:
    heard = TRANSCRIPTIONS.hear(b'{"error":{"message":"no"}}')
    assert heard is not None
    assert heard.failed


def test_a_stream_of_words() -> None:
    raw = sse({"type": "transcript.text.delta", "delta": "hé", "logprobs": []}) + sse(
        {"type": "transcript.text.delta", "delta": "llo"}
    )
    end = sse({"type": "transcript.text.done", "text": "héllo", "usage": SPLIT})
    heard = replayed(TRANSCRIPTIONS, raw + end)
    assert (heard.text_bytes, heard.counted_bytes, heard.done) == (6, 6, True)
    assert heard.usage is not None
    assert heard.usage.meters == Meters(input=10, audio_input=100, output=20, calls=1)
    assert replayed(TRANSCRIPTIONS, raw) == Heard(text_bytes=6)
    assert replayed(TRANSCRIPTIONS, raw + sse({"error": {"message": "no"}})).failed


# -- speech


def test_what_is_to_be_spoken() -> None:
    found = ask_of(SPEECH, {"input": "héllo", "instructions": "softly", "voice": "alloy"})
    assert found == Ask(
        model="m", text_bytes=12, messages=1, max_output=80, min_output=80, characters=5, usage_asked=True
    )
    assert ask_of(SPEECH, {"input": "x", "stream_format": "sse"}).stream
    assert not ask_of(SPEECH, {"input": "x", "stream_format": "audio"}).stream
    assert changed(SPEECH, {"input": "x"}, bound=5, model="n") == {"model": "n"}


@pytest.mark.parametrize("fields", [{"input": 7}, {"input": ["a"]}, {"stream_format": 1}])
def test_what_cannot_be_spoken(fields: dict[str, Any]) -> None:
    with pytest.raises(Refusal):
        ask_of(SPEECH, fields)


@pytest.mark.parametrize("sound", [b"", b"ID3\x04\x00", bytes(range(256)), b'{"a":1}', b"data: x\n\n"])
def test_sound_says_nothing_and_the_request_does(sound: bytes) -> None:
    heard = SPEECH.hear(sound)
    assert heard is not None
    found = ask_of(SPEECH, {"input": "x" * 1000})
    usage = used(SPEECH, found, heard)
    assert (usage.meters, usage.input_missing) == (Meters(characters=1000, audio_output=2000, calls=1), True)
    assert cost(usage.meters, characters=15) == 15_000_000
    tokens = input_bound(found, None)
    by_character = rates_for(found, (Price(characters=15 * 10**9),), tokens)
    assert quote(found, by_character, tokens, 16_384).amount_nano == 15_000_000


def test_speech_as_events() -> None:
    raw = sse({"type": "speech.audio.delta", "audio": "AAAA"}) * 3
    end = sse({"type": "speech.audio.done", "usage": {"input_tokens": 14, "output_tokens": 101, "total_tokens": 115}})
    heard = replayed(SPEECH, raw + end)
    assert (heard.done, heard.text_bytes) == (True, 0)
    usage = used(SPEECH, ask_of(SPEECH, {"input": "héllo"}), heard)
    assert usage.meters == Meters(input=14, audio_output=101, characters=5, calls=1)
    assert cost(usage.meters, input=600, output=12_000) == 14 * 600_000 + 101 * 12_000_000
    assert replayed(SPEECH, raw) == Heard()
    assert replayed(SPEECH, raw + sse({"type": "error", "message": "no"})).failed
