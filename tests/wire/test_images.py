"""Pictures: what they come to at most, and what an answer says they came to, in tokens or by the piece."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmgate.errors import Refusal
from llmgate.pricing import Price
from llmgate.quoting import input_bound, quote, rates_for
from llmgate.types import Ask, Meters
from llmgate.wire import body
from llmgate.wire.images import IMAGE_EDITS, IMAGE_VARIATIONS, IMAGES
from llmgate.wire.openai import IMAGE_TOKENS
from tests.replay import sse
from tests.wire.listening import ask_of, changed, cost, replayed, used, whole
from tests.wire.test_form import TYPE, joined, part


def asked(**fields: Any) -> Ask:
    return ask_of(IMAGES, fields)


def test_the_least_that_can_be_asked() -> None:
    assert asked(prompt="héllo") == Ask(
        model="m", text_bytes=6, messages=1, images=1, max_output=30_000, min_output=30_000
    )


@pytest.mark.parametrize(
    ("fields", "tokens", "images"),
    [
        ({"quality": "low"}, 2_000, 1),
        ({"quality": "medium", "n": 3}, 8_000, 3),
        ({"quality": "auto"}, 30_000, 1),
        ({"quality": "max"}, 60_000, 1),
        ({"quality": "low", "size": "1024x1536"}, 2_000, 1),
        ({"quality": "low", "size": "1024x1537"}, 4_000, 1),
        ({"quality": "low", "size": "3840x2160"}, 12_000, 1),
        ({"quality": "low", "size": "auto"}, 2_000, 1),
        ({"quality": "low", "size": "4096X4096"}, 22_000, 1),
        ({"quality": "low", "size": "4K"}, 22_000, 1),
        ({"quality": "low", "frame_count": 4}, 8_000, 1),
        ({"quality": "low", "partial_images": 3, "stream": True}, 2_300, 1),
        ({"quality": "low", "partial_images": 0}, 2_000, 1),
    ],
)
def test_what_a_picture_comes_to_at_most(fields: dict[str, Any], tokens: int, images: int) -> None:
    found = asked(prompt="x", **fields)
    assert (found.max_output, found.min_output, found.images, found.choices) == (tokens, tokens, images, images)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 0}, "n"),
        ({"n": "2"}, "n"),
        ({"n": True}, "n"),
        ({"frame_count": -1}, "frame_count"),
        ({"partial_images": -1}, "partial_images"),
        ({"prompt": 7}, "prompt"),
        ({"quality": 7}, "quality"),
        ({"size": "99999x99999", "frame_count": 100}, "size"),
        ({"model": None}, "model"),
    ],
)
def test_what_must_be_understood(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(Refusal) as caught:
        asked(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("fields", "unquotable"),
    [({"svg": {"model": "n"}}, "svg"), ({"output_format": "svg"}, "output_format"), ({"output_format": "png"}, None)],
)
def test_vectors_are_another_models_work(fields: dict[str, Any], unquotable: str | None) -> None:
    assert asked(**fields).unquotable == unquotable


def test_the_quote_of_pictures() -> None:
    found = asked(prompt="x" * 100, n=2, quality="low")
    tokens = input_bound(found, None)
    assert tokens == 100 + 16 + 128
    by_piece = rates_for(found, (Price(images=40_000_000 * 10**6),), tokens)
    assert quote(found, by_piece, tokens, 16_384).amount_nano == 2 * 40_000_000
    by_token = rates_for(found, (Price(input=5 * 10**9, image_input=10**10, output=40 * 10**9),), tokens)
    quoted = quote(found, by_token, tokens, 16_384)
    assert quoted.amount_nano == quoted.floor_nano == tokens * 5000 + 2 * 2_000 * 40_000


def test_a_form() -> None:
    raw = joined(
        part("image[]", b"\x89PNG" * 9, filename="a.png"),
        part("image[]", b"\x89PNG" * 9, filename="b.png"),
        part("mask", b"\x89PNG", filename="m.png"),
        part("model", "gpt-image-1"),
        part("prompt", "héllo"),
        part("n", "2"),
        part("quality", "low"),
        part("stream", "true"),
    )
    fields = IMAGE_EDITS.read(raw, TYPE, IMAGE_EDITS.known)
    found = IMAGE_EDITS.read_ask(fields, None)
    assert (found.model, found.stream, found.images, found.max_output) == ("gpt-image-1", True, 2, 2_000)
    assert (found.media_tokens, found.text_bytes) == (3 * IMAGE_TOKENS, 11 + 6 + 1 + 3 + 4)
    assert IMAGE_EDITS.refers_to(fields) == ()
    assert whole(IMAGE_EDITS.write(raw, fields, {"model": "d"})) == raw.replace(b"gpt-image-1", b"d")


def test_an_edit_as_json() -> None:
    fields = {"prompt": "x", "images": [{"file_id": "file-1"}, {"image_url": "data:"}], "mask": {"file_id": "file-2"}}
    assert ask_of(IMAGE_EDITS, fields).media_tokens == 3 * IMAGE_TOKENS
    assert ask_of(IMAGE_VARIATIONS, {"image": "x"}).media_tokens == IMAGE_TOKENS
    read = body.read(json.dumps(fields).encode(), IMAGE_EDITS.known)
    assert IMAGE_EDITS.refers_to(read) == ("file-1", "file-2")


def test_nothing_is_changed_but_the_name() -> None:
    assert changed(IMAGES, {"prompt": "x"}, bound=7) == {}
    assert changed(IMAGES, {"prompt": "x"}, bound=7, model="n") == {"model": "n"}


# -- what an answer says

DIVIDED = {"input_tokens_details": {"image_tokens": 40, "text_tokens": 10}, "input_tokens": 50}
TABLE: dict[str, tuple[dict[str, Any], dict[str, int], int]] = {
    # what the answer says → meters → nano-USD at 5 a text token in, 10 a picture's, 10 a text token out, 32 a picture's
    "all of it picture": (
        {"usage": {"output_tokens": 1056, "total_tokens": 1106, **DIVIDED}},
        {"input": 10, "image_input": 40, "audio_output": 1056, "images": 2},
        (50 + 400 + 1056 * 32) * 1000,
    ),
    "divided": (
        {"usage": {"output_tokens": 100, "output_tokens_details": {"image_tokens": 90, "text_tokens": 10}, **DIVIDED}},
        {"input": 10, "image_input": 40, "output": 10, "audio_output": 90, "images": 2},
        (50 + 400 + 100 + 90 * 32) * 1000,
    ),
    "vectors": (
        {
            "usage": {"output_tokens": 100, **DIVIDED},
            "svg_usage": {"model": "n", "input_tokens": 7, "output_tokens": 30, "total_tokens": 37},
        },
        {"input": 17, "image_input": 40, "output": 30, "audio_output": 100, "images": 2},
        (85 + 400 + 300 + 3200) * 1000,
    ),
    "vectors alone": (
        {"svg_usage": {"model": "n", "input_tokens": 7, "output_tokens": 30, "total_tokens": 37}},
        {"input": 7, "output": 30, "images": 2},
        (35 + 300) * 1000,
    ),
}


@pytest.mark.parametrize("case", TABLE)
def test_usage(case: str) -> None:
    answer, meters, nano = TABLE[case]
    heard = IMAGES.hear(json.dumps({"created": 1, "data": [{"b64_json": "A"}, {"b64_json": "B"}], **answer}).encode())
    assert heard is not None
    usage = used(IMAGES, asked(n=2), heard)
    assert usage.meters == Meters(**meters, calls=1)
    assert not usage.input_missing
    assert cost(usage.meters, input=5, image_input=10, output=10, audio_output=32) == nano
    assert cost(usage.meters, images=40_000) == 2 * 40_000_000


def test_a_model_that_bills_by_the_piece() -> None:
    """Tokens that it doesn't count are estimated: where pictures have a price, they cost nothing."""
    heard = IMAGES.hear(b'{"data":[{"url":"a"},{"url":"b"}]}')
    assert heard is not None
    usage = used(IMAGES, asked(n=2, quality="medium"), heard)
    assert (usage.meters, usage.input_missing) == (Meters(images=2, audio_output=3_200, calls=1), True)
    assert cost(usage.meters, images=40_000) == 2 * 40_000_000


@pytest.mark.parametrize("raw", [b"", b"<html>", b"[]", b"null"])
def test_what_is_no_answer(raw: bytes) -> None:
    assert IMAGES.hear(raw) is None


def test_an_error() -> None:
    heard = IMAGES.hear(b'{"error":{"message":"no"}}')
    assert heard is not None
    assert (heard.failed, heard.usage) == (True, None)


# -- a stream


def done(output: int, kind: str = "image_generation.completed") -> bytes:
    usage = {"input_tokens": 50, "output_tokens": output, "total_tokens": 50 + output}
    return sse({"type": kind, "b64_json": "AAAA", "usage": usage}, kind)


PARTIAL = sse({"type": "image_generation.partial_image", "b64_json": "AA", "partial_image_index": 0})


@pytest.mark.parametrize(
    ("raw", "images", "output"),
    [
        (PARTIAL + PARTIAL + done(1000), 1, 1000),
        (done(1000, "image_edit.completed"), 1, 1000),
        (done(1000) + done(1000), 2, 2000),
        (done(1000) + done(1040), 2, 2040),
        (done(1000) + done(2000), 2, 2000),  # it counts the first one as well
        (done(1000) + done(2000) + done(3000), 3, 3000),
        (done(1000) + done(1000) + done(1000), 3, 3000),
        (done(1000) + b"data: [DONE]\n\n", 1, 1000),
    ],
)
def test_streams(raw: bytes, images: int, output: int) -> None:
    heard = replayed(IMAGES, raw)
    usage = used(IMAGES, asked(n=images, stream=True), heard)
    assert (usage.meters.images, usage.meters.audio_output, usage.meters.calls) == (images, output, 1)
    assert (heard.finished, heard.failed) == (True, False)


def test_a_stream_that_breaks_off_is_charged_as_drawn() -> None:
    heard = replayed(IMAGES, PARTIAL)
    assert (heard.usage, heard.finished) == (None, False)
    usage = used(IMAGES, asked(prompt="x", quality="low", n=2, stream=True), heard)
    assert (usage.meters, usage.input_missing) == (Meters(images=2, audio_output=800, calls=1), True)


def test_an_empty_list_says_that_nothing_was_drawn() -> None:
    heard = IMAGES.hear(b'{"created":1,"data":[]}')
    assert heard is not None
    found = used(IMAGES, ask_of(IMAGES, {"prompt": "x", "n": 3}), heard)
    assert (found.meters.images, found.meters.output_tokens) == (0, 0)


def test_a_stream_that_fails() -> None:
    assert replayed(IMAGES, PARTIAL + sse({"type": "error", "error": {"message": "no"}}, "error")).failed
