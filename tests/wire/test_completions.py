"""Completions that are no chats: every prompt has its choices, and one field bounds them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmgate.errors import Refusal
from llmgate.types import Ask, Meters, Usage
from llmgate.wire.completions import COMPLETIONS
from llmgate.wire.heard import Heard
from tests.replay import sse
from tests.wire.listening import ask_of, changed, listen, replayed


def asked(**fields: Any) -> Ask:
    return ask_of(COMPLETIONS, fields)


@pytest.mark.parametrize(
    ("prompt", "text", "inputs"),
    [("héllo", 6, 0), (["ab", "cde"], 5, 2), ([1, 2, 3], 9, 0), ([[1, 2], [3]], 9, 2), ([], 0, 0), (None, 0, 0)],
)
@pytest.mark.parametrize(("counts", "each"), [({}, 1), ({"n": 2}, 2), ({"n": 2, "best_of": 5}, 5), ({"n_cmpl": 3}, 3)])
def test_every_prompt_has_all_its_choices(
    prompt: Any, text: int, inputs: int, counts: dict[str, int], each: int
) -> None:
    found = asked(prompt=prompt, suffix="xyz", max_tokens=7, **counts)
    assert (found.text_bytes, found.inputs, found.choices) == (text + 3, inputs, each * max(inputs, 1))


@pytest.mark.parametrize(
    ("fields", "bound"),
    [
        ({}, 16),
        ({"max_tokens": 100}, 100),
        ({"n_predict": 50, "max_tokens": 7}, 50),
        ({"max_completion_tokens": 9}, 16),
    ],
)
def test_bounds(fields: dict[str, int], bound: int) -> None:
    assert asked(**fields).max_output == bound


@pytest.mark.parametrize("name", ["max_tokens", "n_predict", "n", "best_of"])
def test_a_bound_is_an_integer_of_at_least_1(name: str) -> None:
    for value in (0, -1, "7", True):
        with pytest.raises(Refusal):
            asked(**{name: value})


def test_more_choices_than_could_be_counted() -> None:
    with pytest.raises(Refusal) as caught:
        asked(prompt=["a", "b"], n=2**30)
    assert caught.value.param == "n"


def test_what_is_changed() -> None:
    assert changed(COMPLETIONS, {}) == {}
    assert changed(COMPLETIONS, {}, bound=16, model="n") == {"max_tokens": 16, "model": "n"}
    assert changed(COMPLETIONS, {"max_tokens": 20}, bound=16) == {"max_tokens": 16}
    assert changed(COMPLETIONS, {"max_completion_tokens": 20}, bound=16) == {
        "max_completion_tokens": 16,
        "max_tokens": 16,
    }
    assert changed(COMPLETIONS, {"n_predict": 5}, bound=16) == {"max_tokens": 16}
    assert changed(COMPLETIONS, {"n_predict": 5}, bound=16, bound_fields=("n_predict", "max_tokens")) == {}
    assert changed(COMPLETIONS, {"stream": True}, bound=16) == {
        "max_tokens": 16,
        "stream_options": {"include_usage": True},
    }


def test_a_whole_answer() -> None:
    answer = {
        "choices": [{"text": "héllo", "finish_reason": "stop"}, {"text": "you", "finish_reason": "length"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    }
    usage = Usage(meters=Meters(input=10, output=5, calls=1))
    assert COMPLETIONS.hear(json.dumps(answer).encode()) == Heard(
        usage=usage, text_bytes=9, counted_bytes=9, finished=True
    )


def chunk(text: str, **more: Any) -> bytes:
    return sse({"object": "text_completion", "choices": [{"text": text, "index": 0, "finish_reason": None}], **more})


ZEROS = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
LAST = sse({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}})


def test_a_stream() -> None:
    raw = chunk("hé", usage=ZEROS) + chunk("llo", usage=None)
    heard = replayed(COMPLETIONS, raw)
    assert heard == Heard(text_bytes=6)  # zeros beside text count nothing
    heard = replayed(
        COMPLETIONS, raw + LAST.replace(b'"choices": []', b'"choices": [{"text": ""}]') + b"data: [DONE]\n\n"
    )
    assert heard.usage == Usage(meters=Meters(input=3, output=4, calls=1))
    running = chunk("abc", usage={"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4})
    assert replayed(COMPLETIONS, running + chunk("de")).counted_bytes == 3
    assert listen(COMPLETIONS, [raw, LAST, b"data: [DONE]\n\n"], hide=True)[0] == raw + b"data: [DONE]\n\n"
