"""What needs no words of a model: documents put in order, and texts judged."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmgate.types import Ask, Meters, Usage
from llmgate.wire.heard import Heard
from llmgate.wire.moderations import MODERATIONS
from llmgate.wire.openai import IMAGE_TOKENS
from llmgate.wire.rerank import RERANK
from tests.wire.listening import ask_of, changed, cost, used


def test_the_query_is_read_with_each_document() -> None:
    found = ask_of(RERANK, {"query": "héllo", "documents": ["ab", {"text": "cde"}]})
    assert found == Ask(model="m", text_bytes=5 + 2 * 6, messages=2, inputs=2, output=False, searches=1)


@pytest.mark.parametrize(
    ("documents", "searches"),
    [(["x"], 1), (["x"] * 49, 1), (["x"] * 100, 2), (["x" * 249] * 50, 1), (["x" * 249] * 51, 2), (["x" * 25_000], 2)],
)
def test_searches_are_bounded_by_the_pieces_of_documents(documents: list[str], searches: int) -> None:
    assert ask_of(RERANK, {"query": "q", "documents": documents}).searches == searches


TOKENS = {"input_tokens": 120, "output_tokens": 0}
TABLE: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    "Cohere": ({"meta": {"billed_units": {"search_units": 3}}}, {"searches": 3}),
    "Cohere, with tokens": (
        {"meta": {"billed_units": {"search_units": 3}, "tokens": TOKENS}},
        {"searches": 3, "input": 120},
    ),
    "OpenRouter": ({"usage": {"search_units": 2, "total_tokens": 50}}, {"searches": 2, "input": 50}),
    "Jina": ({"usage": {"total_tokens": 815}}, {"searches": 1, "input": 815}),
    "llama.cpp": ({"usage": {"prompt_tokens": 20, "total_tokens": 20}}, {"searches": 1, "input": 20}),
}


@pytest.mark.parametrize("case", TABLE)
def test_usage(case: str) -> None:
    answer, meters = TABLE[case]
    heard = RERANK.hear(json.dumps({"results": [], **answer}).encode())
    assert heard is not None
    usage = used(RERANK, ask_of(RERANK, {"query": "q", "documents": ["d"]}), heard)
    assert (usage.meters, usage.input_missing) == (Meters(**meters, calls=1), False)
    assert cost(usage.meters, searches=2000) == 2_000_000 * meters["searches"]
    assert cost(usage.meters, input=1) == 1000 * meters.get("input", 0)


def test_an_instruction_is_read_with_each_document() -> None:
    fields = {"query": "ab", "documents": ["cde", "f"]}
    plain, told = ask_of(RERANK, fields), ask_of(RERANK, {**fields, "instruction": "x" * 98})
    assert (plain.text_bytes, told.text_bytes) == (8, 8 + 2 * 100)


def test_an_answer_that_tells_nothing_was_one_search() -> None:
    heard = RERANK.hear(b'{"results":[]}')
    assert heard is not None
    usage = used(RERANK, ask_of(RERANK, {"query": "q", "documents": ["d"]}), heard)
    assert (usage.meters, usage.input_missing) == (Meters(searches=1, calls=1), True)


@pytest.mark.parametrize("raw", [b"", b"<html>", b"[]"])
def test_what_is_no_answer(raw: bytes) -> None:
    assert RERANK.hear(raw) is None
    assert MODERATIONS.hear(raw) is None


def test_moderations_are_free_and_need_no_model() -> None:
    assert MODERATIONS.free
    assert ask_of(MODERATIONS, b'{"input":"abc"}') == Ask(model="omni-moderation-latest", text_bytes=3, output=False)
    pictures = [{"type": "text", "text": "abc"}, {"type": "image_url", "image_url": {"url": "data:"}}]
    found = ask_of(MODERATIONS, {"input": pictures})
    assert (found.model, found.text_bytes, found.media_tokens) == ("m", 3, IMAGE_TOKENS)
    assert MODERATIONS.hear(b'{"results":[]}') == Heard(usage=Usage(meters=Meters(calls=1)), finished=True)
    assert MODERATIONS.hear(b'{"error":{}}') == Heard(usage=Usage(meters=Meters(calls=1)), finished=True, failed=True)
    assert changed(MODERATIONS, {"input": "x"}, model="n") == {"model": "n"}
    assert changed(MODERATIONS, {"input": "x"}) == {}
