"""The format `openai`, pure: what is asked, what must be changed, what an answer used, what the client gets of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmgate.errors import CODES, LlmgateError, Refusal
from llmgate.types import Ask, Meters, Usage
from llmgate.wire import body, openai
from llmgate.wire.endpoint import Terms
from llmgate.wire.heard import Heard
from llmgate.wire.openai import IMAGE_TOKENS, error_body, error_event, hear, prepare
from llmgate.wire.openai_usage import read_usage
from tests.replay import sse

# -- what a request asks for


def ask_of(raw: dict[str, Any] | bytes, *, output: bool = True) -> Ask:
    content = raw if isinstance(raw, bytes) else json.dumps({"model": "m", **raw}).encode()
    return (openai.CHAT if output else openai.EMBEDDINGS).read_ask(body.read(content, openai.KNOWN), None)


def refused(raw: dict[str, Any]) -> Refusal:
    with pytest.raises(Refusal) as caught:
        ask_of(raw)
    assert caught.value.code == "invalid_request"
    return caught.value


def test_the_least_that_can_be_asked() -> None:
    assert ask_of(b'{"model":"m"}') == Ask(model="m", usage_asked=False)


def test_all_that_is_read() -> None:
    asked = ask_of(
        {
            "stream": True,
            "stream_options": {"include_usage": True, "include_obfuscation": False},
            "messages": [{"role": "user", "content": "héllo"}, {"role": "assistant", "content": None}],
            "max_tokens": 100,
            "n": 3,
            "service_tier": "flex",
            "reasoning_effort": "low",
            "user": "u-1",
            "metadata": {"job": "42", "number": 7, "none": None},
        }
    )
    assert asked == Ask(
        model="m",
        stream=True,
        usage_asked=True,
        text_bytes=6,
        messages=2,
        max_output=100,
        choices=3,
        service_tier="flex",
        reasons=True,
        tags={"metadata.job": "42", "end_user": "u-1"},
    )


def test_null_is_the_same_as_absent() -> None:
    nothing = dict.fromkeys(openai.KNOWN - {"model", "tools", "functions", "response_format"})
    assert ask_of(nothing) == ask_of({})


@pytest.mark.parametrize(
    ("messages", "text", "media", "hidden"),
    [
        ("a plain string", 14, 0, False),
        ([{"role": "user", "content": "äöü"}], 6, 0, False),
        ([{"role": "user", "content": [{"type": "text", "text": "abc"}, {"type": "text", "text": "de"}]}], 5, 0, False),
        ([{"role": "user", "name": "bob", "content": "abc"}], 6, 0, False),
        ([{"role": "tool", "tool_call_id": "call_123456", "content": "abc"}], 3, 0, False),
        (
            [{"tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}]}],
            8,
            0,
            False,
        ),
        ([{"content": [{"type": "image_url", "image_url": {"url": "data:" + "x" * 9000}}]}], 0, IMAGE_TOKENS, False),
        ([{"content": [{"image_url": "https://example.com/cat.png"}]}], 0, IMAGE_TOKENS, False),
        ([{"content": [{"type": "image_url"}, {"type": "image_url"}]}], 0, 2 * IMAGE_TOKENS, False),
        ([{"content": [{"type": "input_audio", "input_audio": {"data": "x" * 6400}}]}], 0, 101, False),
        ([{"content": [{"type": "input_audio", "input_audio": "?"}]}], 0, IMAGE_TOKENS, False),
        ([{"content": [{"type": "file", "file": {"file_id": "f-1"}}]}], 0, 0, True),
        ([{"content": [{"type": "video_url", "video_url": {"url": "https://x"}}]}], 0, 0, True),
        ([{"content": [{"type": "a new kind", "something": {"deep": ["abc", {"er": "de"}]}}]}], 5, 0, False),
        ([{"content": [{"type": "document_url", "document_url": "https://x"}]}], 9, 0, True),
        ([{"content": [{"type": "audio_url", "audio_url": {"url": ""}}]}], 0, 0, True),
        ([{"content": [{"video_url": {"url": "https://x"}}]}], 0, 0, True),
        ([{"content": [{"image": "https://x"}]}], 9, IMAGE_TOKENS, False),
        ([{"role": "assistant", "audio": {"id": "audio_1"}}], 0, 0, True),
        ([{"content": [1, 2, True, None, 1.5]}], 12, 0, False),
    ],
)
def test_what_a_prompt_weighs(messages: Any, text: int, media: int, hidden: bool) -> None:
    asked = ask_of({"messages": messages})
    assert (asked.text_bytes, asked.media_tokens, asked.hidden_input) == (text, media, hidden)


def test_tool_definitions_weigh_what_they_are_written_in() -> None:
    plain = ask_of({"messages": []}).text_bytes
    for name in ("tools", "functions", "response_format"):
        value = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
        assert ask_of({"messages": [], name: value}).text_bytes - plain == len(json.dumps(value))


@pytest.mark.parametrize(
    ("given_input", "text", "inputs"),
    [
        *[("héllo", 6, 0), (["ab", "cde"], 5, 2), ([1, 2, 3], 9, 0), ([[1, 2], [3]], 9, 2), ([], 0, 0), (None, 0, 0)],
        ([[1.0, True, 2]], 9, 1),
    ],
)
def test_what_an_embedding_weighs(given_input: Any, text: int, inputs: int) -> None:
    asked = ask_of({"input": given_input, "stream": True}, output=False)
    assert asked == Ask(model="m", stream=False, usage_asked=False, text_bytes=text, inputs=inputs, output=False)


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "type": "image", "content": "x" * 1000},
        {"role": "user", "type": "input_audio", "input_audio": {"data": "AA"}, "content": "x" * 1000},
        {"role": "user", "image_url": {"url": "data:"}, "text": "x" * 1000},
        {"role": "user", "type": "file", "file": {"file_id": "f"}, "note": "x" * 1000},
        {"role": "x" * 1000},
        {"role": "user", "content": "", "id": "x" * 1000},
        {"role": "user", "content": {"x" * 1000: ""}},
    ],
)
def test_no_text_is_smuggled_past_the_count(message: dict[str, Any]) -> None:
    assert ask_of({"messages": [message]}).text_bytes >= 1000


@pytest.mark.parametrize("name", ["documents", "chat_template_kwargs", "prompt", "input"])
def test_text_beside_the_messages_counts_too(name: str) -> None:
    """vLLM puts `documents` into the prompt, OpenRouter takes a `prompt`: it is billed wherever it stands."""
    messages = [{"role": "user", "content": "hi"}]
    assert ask_of({"messages": messages, name: ["x" * 100]}).text_bytes == 2 + 104
    assert ask_of({"messages": messages, "temperature": 0.5, "stop": ["\n"]}).text_bytes == 2


def test_a_body_of_too_many_parts_is_refused() -> None:
    with pytest.raises(Refusal):
        ask_of({"input": [1] * 1_000_001}, output=False)


@pytest.mark.parametrize(
    ("fields", "unquotable"),
    [
        ({"tools": [{"type": "function", "function": {}}, {"type": "custom"}]}, None),
        ({"tools": [{"type": "openrouter:web_search"}]}, "tools"),
        ({"search_parameters": {"mode": "on"}}, "search_parameters"),
    ],
)
def test_what_the_upstream_runs_by_itself_has_no_known_bound(fields: dict[str, Any], unquotable: str | None) -> None:
    assert ask_of({"messages": [], **fields}).unquotable == unquotable


@pytest.mark.parametrize(
    ("fields", "bound", "choices"),
    [
        ({"max_tokens": 7}, 7, 1),
        ({"max_completion_tokens": 7}, 7, 1),
        ({"n_predict": 7}, 7, 1),
        ({"max_tokens": 7, "max_completion_tokens": 9, "n_predict": 8}, 9, 1),
        ({"max_tokens": None, "max_completion_tokens": 9}, 9, 1),
        ({"n": 2}, None, 2),
        ({"n": 2, "best_of": 5, "n_cmpl": 3}, None, 5),
        ({"n": None}, None, 1),
        ({"max_tokens": 2**31 - 1}, 2**31 - 1, 1),
    ],
)
def test_bounds(fields: dict[str, Any], bound: int | None, choices: int) -> None:
    asked = ask_of(fields)
    assert (asked.max_output, asked.choices) == (bound, choices)


@pytest.mark.parametrize("name", [*openai.OUTPUT_BOUNDS, *openai.COUNTS])
@pytest.mark.parametrize("value", [0, -1, -0.5, 1.5, 7.0, 2**31, 10**30, "7", "", True, False, [], [7], {}, {"a": 1}])
def test_a_bound_is_an_integer_of_at_least_1(name: str, value: Any) -> None:
    assert refused({name: value}).param == name


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"model": 7}, "model"),
        ({"model": ["m"]}, "model"),
        ({"stream": "true"}, "stream"),
        ({"stream": {}}, "stream"),
        ({"stream": 2}, "stream"),
        ({"stream_options": True}, "stream_options"),
        ({"stream_options": [1]}, "stream_options"),
        ({"service_tier": 1}, "service_tier"),
    ],
)
def test_fields_that_must_be_understood(fields: dict[str, Any], param: str) -> None:
    assert refused(fields).param == param


@pytest.mark.parametrize(
    "fields", [{"temperature": "hot"}, {"messages": 7}, {"tools": 1}, {"user": 7}, {"metadata": 1}]
)
def test_what_is_the_upstreams_to_judge(fields: dict[str, Any]) -> None:
    assert ask_of(fields).tags == {}


@pytest.mark.parametrize("name", openai.UNQUOTABLE)
def test_fields_whose_cost_has_no_known_bound(name: str) -> None:
    assert ask_of({name: []}).unquotable == name
    assert ask_of({name: {"a": 1}}).unquotable == name
    assert ask_of({name: None}).unquotable is None


@pytest.mark.parametrize(
    ("fields", "reasons"),
    [
        ({"reasoning_effort": "none"}, False),
        ({"reasoning_effort": "minimal"}, True),
        ({"reasoning": {"effort": "high"}}, True),
        ({"reasoning": None}, False),
    ],
)
def test_asking_to_reason(fields: dict[str, Any], reasons: bool) -> None:
    assert ask_of(fields).reasons is reasons


def test_tags_are_few_and_short() -> None:
    asked = ask_of({"metadata": {f"name{n}" + "x" * 600: "y" * 600 for n in range(100)}})
    assert len(asked.tags) == openai.MOST_TAGS
    assert {len(text) for pair in asked.tags.items() for text in pair} == {openai.LONGEST_TAG}


# -- what must be changed


def changed(
    fields: dict[str, Any],
    *,
    model: str = "m",
    bound: int | None = None,
    bound_fields: tuple[str, ...] = ("max_completion_tokens", "max_tokens"),
    write: str = "max_tokens",
    ask_usage: bool = True,
) -> dict[str, Any]:
    read = body.read(json.dumps({"model": "m", **fields}).encode(), openai.KNOWN)
    asked = openai.read_ask(read, output=True)
    terms = Terms(model=model, bound=bound, bound_fields=bound_fields, bound_write=write, ask_usage=ask_usage)
    return prepare(read, asked, terms)


def test_nothing_is_changed_without_need() -> None:
    assert changed({"max_tokens": 7, "n": 2, "messages": []}) == {}
    assert changed({"max_tokens": 7}, bound=7) == {}
    assert changed({"max_completion_tokens": 5}, bound=7) == {}
    assert changed({"stream": True, "stream_options": {"include_usage": True}}) == {}
    assert changed({"stream": True}, ask_usage=False) == {}
    assert changed({"stream": False, "stream_options": {"include_usage": False}}) == {}


def test_the_model_is_renamed() -> None:
    assert changed({}, model="n") == {"model": "n"}


@pytest.mark.parametrize(
    ("fields", "changes"),
    [
        ({}, {"max_tokens": 10}),
        ({"max_tokens": None}, {"max_tokens": 10}),
        ({"max_tokens": 11}, {"max_tokens": 10}),
        ({"max_tokens": 11, "max_completion_tokens": 5}, {"max_tokens": 10}),
        ({"max_tokens": 11, "max_completion_tokens": 12}, {"max_tokens": 10, "max_completion_tokens": 10}),
        ({"n_predict": 5}, {"max_tokens": 10}),  # which this upstream doesn't obey
        ({"n_predict": 50}, {"n_predict": 10, "max_tokens": 10}),
    ],
)
def test_no_field_says_more_than_the_hold_carries_and_one_that_is_obeyed_says_it(
    fields: dict[str, Any], changes: dict[str, Any]
) -> None:
    assert changed(fields, bound=10) == changes


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_the_bound_is_written_where_the_upstream_reads_it(field: str) -> None:
    assert changed({}, bound=10, bound_fields=(field,), write=field) == {field: 10}
    other = ({"max_tokens", "max_completion_tokens"} - {field}).pop()
    assert changed({other: 10}, bound=10, bound_fields=(field,), write=field) == {field: 10}


@pytest.mark.parametrize(
    ("options", "written"),
    [
        (None, {"include_usage": True}),
        ({}, {"include_usage": True}),
        ({"include_usage": False}, {"include_usage": True}),
        ({"include_usage": None, "include_obfuscation": False}, {"include_usage": True, "include_obfuscation": False}),
    ],
)
def test_a_stream_is_asked_for_its_usage(options: Any, written: dict[str, Any]) -> None:
    assert changed({"stream": True, "stream_options": options}) == {"stream_options": written}


# -- what a usage says

TABLE: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    "plain": ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}, {"input": 10, "output": 5}),
    "an explicit zero": ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, {}),
    "an embedding": ({"prompt_tokens": 8, "total_tokens": 8}, {"input": 8}),
    "cached inside": (
        {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}},
        {"input": 6, "cached_input": 4, "output": 5},
    ),
    "all that can be inside": (
        {
            "prompt_tokens": 100,
            "completion_tokens": 50,
            "total_tokens": 150,
            "prompt_tokens_details": {
                "cached_tokens": 40,
                "cache_write_tokens": 30,
                "audio_tokens": 10,
                "image_tokens": 5,
                "text_tokens": 15,
            },
            "completion_tokens_details": {
                "reasoning_tokens": 20,
                "audio_tokens": 7,
                "text_tokens": 23,
                "accepted_prediction_tokens": 3,
                "rejected_prediction_tokens": 4,
            },
        },
        {
            "input": 15,
            "cached_input": 40,
            "cache_write": 30,
            "audio_input": 10,
            "image_input": 5,
            "output": 23,
            "reasoning": 20,
            "audio_output": 7,
        },
    ),
    "reasoning inside (OpenAI)": (
        {
            "prompt_tokens": 10,
            "completion_tokens": 50,
            "total_tokens": 60,
            "completion_tokens_details": {"reasoning_tokens": 20},
        },
        {"input": 10, "output": 30, "reasoning": 20},
    ),
    "reasoning beside (xAI)": (
        {
            "prompt_tokens": 10,
            "completion_tokens": 50,
            "total_tokens": 80,
            "completion_tokens_details": {"reasoning_tokens": 20},
        },
        {"input": 10, "output": 50, "reasoning": 20},
    ),
    "reasoning, and no total to tell": (
        {"prompt_tokens": 10, "completion_tokens": 50, "completion_tokens_details": {"reasoning_tokens": 20}},
        {"input": 10, "output": 30, "reasoning": 20},
    ),
    "nulls": (
        {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "total_tokens": None,
            "prompt_tokens_details": None,
            "completion_tokens_details": {"reasoning_tokens": None},
        },
        {"input": 10, "output": 5},
    ),
    "floats": ({"prompt_tokens": 10.0, "completion_tokens": 5.0, "total_tokens": 15.0}, {"input": 10, "output": 5}),
    "negative": ({"prompt_tokens": 10, "completion_tokens": -5}, {"input": 10}),
    "negative, and a total": (
        {"prompt_tokens": -1, "completion_tokens": 5, "total_tokens": 15},
        {"input": 10, "output": 5},
    ),
    "strings": ({"prompt_tokens": "10", "completion_tokens": 5}, {"output": 5}),
    "truths": ({"prompt_tokens": True, "completion_tokens": 5}, {"output": 5}),
    "no count of tokens at all": ({"prompt_tokens": 10, "completion_tokens": 10**15}, {"input": 10}),
    "only a total": ({"total_tokens": 15}, {"input": 15}),
    "no prompt": ({"completion_tokens": 5, "total_tokens": 15}, {"input": 10, "output": 5}),
    "no completion": ({"prompt_tokens": 10, "total_tokens": 15}, {"input": 10, "output": 5}),
    "a total that is too small": ({"prompt_tokens": 10, "total_tokens": 5}, {"input": 10}),
    "details that say more than the whole": (
        {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "total_tokens": 15,
            "prompt_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 8, "audio_tokens": 8},
            "completion_tokens_details": {"reasoning_tokens": 8, "audio_tokens": 2},
        },
        {"cached_input": 8, "cache_write": 2, "reasoning": 3, "audio_output": 2},
    ),
    "details that are none": (
        {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": [4], "completion_tokens_details": "?"},
        {"input": 10, "output": 5},
    ),
}


@pytest.mark.parametrize("case", TABLE)
def test_usage(case: str) -> None:
    usage, expected = TABLE[case]
    heard = read_usage(usage)
    assert heard is not None
    assert (heard.meters, heard.cost_nano, heard.service_tier) == (Meters(**expected, calls=1), None, None)
    assert heard.input_missing is (expected.get("input") is None and "total_tokens" not in usage)
    assert heard.output_missing is (expected.get("output") is None and "total_tokens" not in usage)


@pytest.mark.parametrize(
    "usage",
    [
        {},
        {"prompt_tokens": None, "completion_tokens": None, "total_tokens": None},
        {"prompt_tokens": -1, "completion_tokens": -1},
        {"prompt_tokens": "?"},
        {"input_tokens": 10, "output_tokens": 5},
        {"cost": 0.1},
    ],
)
def test_a_usage_that_counts_nothing_is_missing(usage: dict[str, Any]) -> None:
    """An explicit zero is a zero; this isn't one, so it is estimated."""
    assert read_usage(usage) is None
    answer = {"choices": [{"message": {"content": "hello"}}], "usage": usage}
    assert hear(json.dumps(answer).encode()) == Heard(usage=None, text_bytes=5, finished=True)


counts = st.integers(-2, 300) | st.none() | st.floats(0, 300) | st.just("x")


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "prompt_tokens": counts,
            "completion_tokens": counts,
            "total_tokens": counts,
            "prompt_tokens_details": st.dictionaries(
                st.sampled_from(["cached_tokens", "cache_write_tokens", "audio_tokens", "image_tokens"]), counts
            ),
            "completion_tokens_details": st.dictionaries(st.sampled_from(["reasoning_tokens", "audio_tokens"]), counts),
        },
    )
)
def test_meters_are_disjoint_and_none_is_negative(usage: dict[str, Any]) -> None:
    found = read_usage(usage)
    if found is None:
        return

    def number(name: str) -> int | None:
        value = usage.get(name)
        return int(value) if isinstance(value, int | float) and value >= 0 else None

    meters = found.meters
    assert all(getattr(meters, name) >= 0 for name in meters.__struct_fields__)
    prompt, completion, total = (number(name) for name in ("prompt_tokens", "completion_tokens", "total_tokens"))
    if prompt is not None:
        assert meters.input_tokens == prompt
    if prompt is not None and completion is not None:
        beside = meters.output_tokens - completion
        assert beside == 0 or (beside > 0 and total is not None and total >= prompt + completion + beside)


@pytest.mark.parametrize(
    ("usage", "nano"),
    [
        ({}, None),
        ({"cost": 0}, 0),
        ({"cost": 0.1}, 100_000_000),
        ({"cost": 1e-9}, 1),
        ({"cost": 1e-10}, 1),
        ({"cost": 0.00000000123}, 2),
        ({"cost": None}, None),
        ({"cost": "0.1"}, None),
        ({"cost": True}, None),
        ({"cost": -1}, None),
        ({"cost": 1e300}, None),
        ({"cost": 0.01, "is_byok": False, "cost_details": {"upstream_inference_cost": 0.2}}, 10_000_000),
        ({"cost": 0.01, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.2}}, 210_000_000),
        ({"cost": 0.01, "is_byok": True, "cost_details": {"upstream_inference_cost": None}}, 10_000_000),
        ({"cost": 0.01, "is_byok": True, "cost_details": {"upstream_inference_cost": -5}}, 10_000_000),
        ({"cost": 0.01, "is_byok": True}, 10_000_000),
    ],
)
def test_a_cost_that_the_upstream_reports(usage: dict[str, Any], nano: int | None) -> None:
    found = read_usage({"prompt_tokens": 1, "completion_tokens": 1, **usage})
    assert found is not None
    assert found.cost_nano == nano


# -- a whole answer


def heard_of(**answer: Any) -> Heard:
    found = hear(json.dumps(answer).encode())
    assert found is not None
    return found


def test_a_whole_answer() -> None:
    heard = heard_of(
        choices=[{"message": {"content": "héllo"}, "finish_reason": "stop"}],
        usage={"prompt_tokens": 10, "completion_tokens": 5},
        service_tier="flex",
    )
    usage = Usage(meters=Meters(input=10, output=5, calls=1), service_tier="flex")
    assert heard == Heard(usage=usage, text_bytes=6, counted_bytes=6, finished=True, service_tier="flex")


@pytest.mark.parametrize(
    ("message", "text", "reasoned"),
    [
        ({}, 0, False),
        ({"content": None}, 0, False),
        ({"content": "abc"}, 3, False),
        ({"content": [{"type": "text", "text": "abc"}]}, 3, False),
        ({"content": "abc", "refusal": "no"}, 5, False),
        ({"content": "abc", "reasoning_content": "hmm"}, 6, True),
        ({"content": "abc", "reasoning": "hmm"}, 6, True),
        ({"content": "abc", "reasoning": "hmm", "reasoning_content": "hmm"}, 6, True),
        ({"tool_calls": [{"id": "call_1", "function": {"name": "f", "arguments": "{}"}}]}, 3, False),
        ({"function_call": {"name": "f", "arguments": "{}"}}, 3, False),
        ({"role": "assistant", "annotations": ["not", "billed"]}, 0, False),
    ],
)
def test_text_that_went_by(message: dict[str, Any], text: int, reasoned: bool) -> None:
    heard = heard_of(choices=[{"message": message}, {"message": message}])
    assert (heard.text_bytes, heard.reasoned, heard.usage) == (2 * text, reasoned, None)


def test_an_error_with_200() -> None:
    heard = heard_of(error={"message": "overloaded", "code": 503})
    assert (heard.failed, heard.usage, heard.text_bytes) == (True, None, 0)


@pytest.mark.parametrize("raw", [b"", b"<html>", b"{", b"[]", b"null", b'"x"', b"data: {}\n\n", b"[" * 100_000])
def test_what_is_no_answer(raw: bytes) -> None:
    assert hear(raw) is None


USAGE_5 = Usage(meters=Meters(input=5, output=1, calls=1))


@pytest.mark.parametrize(
    "odd",
    [
        b'"x":"\\ud83d"',
        b'"x":"\xff"',
        b'"x":NaN',
        b'"choices":{}',
        b'"choices":[{"message":"text"}]',
        b'"choices":[[]]',
        b'"choices":[{"delta":{"content":"\\ud800"}}]',
    ],
)
def test_an_odd_answer_is_billed_all_the_same(odd: bytes) -> None:
    raw = b'{%b,"usage":{"prompt_tokens":5,"completion_tokens":1}}' % odd
    heard = hear(raw)
    assert heard is not None
    assert heard.usage == USAGE_5
    stream = openai.stream(False)
    assert stream.feed(b"data: " + raw + b"\n\n") == b"data: " + raw + b"\n\n"
    assert stream.heard.usage == USAGE_5


# -- a stream

ROLE = sse({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}], "usage": None})
TEXT = sse({"choices": [{"index": 0, "delta": {"content": "héllo"}}]})
REASONING = sse({"choices": [{"index": 0, "delta": {"reasoning_content": "hmm"}}]})
STOP = sse({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
USAGE = sse({"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}})
BARE_USAGE = sse({"usage": {"prompt_tokens": 1, "completion_tokens": 1}})
STOP_WITH_USAGE = sse(
    {
        "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3},
    }
)
AZURE_FIRST = sse({"id": "", "model": "", "choices": [], "prompt_filter_results": [{}], "usage": None})
AZURE_FILTER = sse({"choices": [], "prompt_filter_results": [{}]})
EMPTY_USAGE = sse({"choices": [], "usage": {}})
ERROR = sse({"error": {"message": "overloaded", "code": 502}, "choices": [], "usage": {"prompt_tokens": 2}})
DONE = sse("[DONE]")


def through(data: bytes, *, hide: bool) -> tuple[bytes, Heard]:
    stream = openai.stream(hide)
    return stream.feed(data) + stream.finish(), stream.heard


@pytest.mark.parametrize(
    ("events", "passed"),
    [
        ([ROLE, TEXT, STOP, USAGE, DONE], [ROLE, TEXT, STOP, DONE]),
        ([ROLE, TEXT, STOP, BARE_USAGE, DONE], [ROLE, TEXT, STOP, DONE]),
        ([AZURE_FIRST, ROLE, TEXT, STOP, USAGE, DONE], [AZURE_FIRST, ROLE, TEXT, STOP, DONE]),
        ([AZURE_FILTER, TEXT, USAGE, DONE], [AZURE_FILTER, TEXT, DONE]),
        ([TEXT, STOP_WITH_USAGE, DONE], [TEXT, STOP_WITH_USAGE, DONE]),
        ([TEXT, STOP_WITH_USAGE, USAGE, DONE], [TEXT, STOP_WITH_USAGE, DONE]),
        ([USAGE, TEXT, USAGE, DONE], [TEXT, DONE]),
        ([TEXT, ERROR], [TEXT, ERROR]),
        ([b": ping\n\n", TEXT, b"event: x\n\n", b"\n", USAGE], [b": ping\n\n", TEXT, b"event: x\n\n", b"\n"]),
        ([TEXT, b"data: not json\n\n", b"data: [1]\n\n", USAGE], [TEXT, b"data: not json\n\n", b"data: [1]\n\n"]),
        ([TEXT, b'data: {"choices":[{"del'], [TEXT, b'data: {"choices":[{"del']),
    ],
)
def test_only_the_usage_chunk_is_taken_out(events: list[bytes], passed: list[bytes]) -> None:
    hidden, heard = through(b"".join(events), hide=True)
    shown, also_heard = through(b"".join(events), hide=False)
    assert hidden == b"".join(passed)
    assert shown == b"".join(events)
    assert heard == also_heard


@pytest.mark.parametrize(
    ("events", "counts"),
    [
        ([TEXT, STOP, DONE], None),
        ([TEXT, STOP, USAGE, DONE], (10, 5)),
        ([TEXT, STOP_WITH_USAGE, DONE], (7, 3)),
        ([TEXT, STOP_WITH_USAGE, USAGE, DONE], (10, 5)),
        ([TEXT, USAGE, STOP_WITH_USAGE, DONE], (7, 3)),
        ([USAGE, BARE_USAGE, USAGE, DONE], (10, 5)),
        ([USAGE, ROLE, EMPTY_USAGE, DONE], (10, 5)),
        ([TEXT, USAGE.rstrip()], (10, 5)),  # the stream breaks off before the blank line
        ([TEXT, USAGE.replace(b"data: ", b"data:")], (10, 5)),
        ([TEXT.replace(b"\n", b"\r\n"), USAGE.replace(b"\n", b"\r\n")], (10, 5)),
        ([b"event: message\n" + USAGE], (10, 5)),
    ],
)
def test_the_last_usage_counts(events: list[bytes], counts: tuple[int, int] | None) -> None:
    _, heard = through(b"".join(events), hide=True)
    found = (heard.usage.meters.input, heard.usage.meters.output) if heard.usage else None
    assert found == counts


def test_what_is_heard_on_the_way() -> None:
    stream = openai.stream(False)
    for event, expected in [
        (ROLE, Heard()),
        (REASONING, Heard(text_bytes=3, reasoned=True)),
        (TEXT, Heard(text_bytes=9, reasoned=True)),
        (STOP, Heard(text_bytes=9, reasoned=True, finished=True)),
    ]:
        stream.feed(event)
        assert stream.heard == expected
    stream.feed(DONE)
    assert stream.heard == Heard(text_bytes=9, reasoned=True, finished=True, done=True)


def test_done_is_the_end_also_without_a_reason() -> None:
    stream = openai.stream(True)
    assert stream.feed(b"data: [DONE] \n\n") == b"data: [DONE] \n\n"
    assert stream.heard == Heard(finished=True, done=True)


def test_an_error_in_the_stream() -> None:
    _, heard = through(TEXT + ERROR, hide=True)
    assert heard.failed
    assert heard.text_bytes == 6


def test_the_tier_that_was_used_is_the_one_that_was_said_last() -> None:
    first = sse({"choices": [], "service_tier": "default"})
    _, heard = through(first + sse({"choices": [], "service_tier": None}), hide=False)
    assert heard.service_tier == "default"
    _, heard = through(first + sse({"service_tier": "priority", "usage": {"prompt_tokens": 1}}), hide=False)
    assert heard.usage is not None
    assert heard.usage.service_tier == "priority"


def test_a_character_over_two_pieces() -> None:
    text = sse(json.dumps({"choices": [{"delta": {"content": "🙂€"}}]}, ensure_ascii=False))
    cut = text.index("🙂".encode()) + 2
    stream = openai.stream(False)
    assert stream.feed(text[:cut]) == text[:cut]
    assert stream.feed(text[cut:]) == text[cut:]
    assert stream.heard.text_bytes == 7


def test_without_hiding_bytes_go_by_at_once() -> None:
    stream = openai.stream(False)
    assert [stream.feed(bytes([byte])) for byte in TEXT] == [bytes([byte]) for byte in TEXT]
    assert stream.finish() == b""


EVENTS = [ROLE, TEXT, REASONING, STOP, USAGE, BARE_USAGE, STOP_WITH_USAGE, AZURE_FIRST, EMPTY_USAGE, ERROR, DONE]
HIDDEN = {USAGE, BARE_USAGE, EMPTY_USAGE}
streams = st.lists(st.sampled_from([*EVENTS, b": ping\n\n", b"event: x\ndata: y\n\n"]), max_size=12)
line_ends = st.sampled_from([b"\n", b"\r\n", b"\r"])


@given(streams, line_ends, st.data(), st.booleans())
@example([USAGE], b"\r", None, True)
def test_bytes_out_are_bytes_in_less_exactly_the_usage(
    events: list[bytes], line_end: bytes, data: st.DataObject | None, hide: bool
) -> None:
    """However it is cut: the same bytes are passed on, and the same is heard."""
    written = [event.replace(b"\n", line_end) for event in events]
    whole = b"".join(written)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=20))) if data else list(range(len(whole)))
    stream = openai.stream(hide)
    passed = b"".join(stream.feed(whole[a:b]) for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True))
    passed += stream.finish()
    if hide:
        kept = [raw for raw, event in zip(written, events, strict=True) if event not in HIDDEN]
        assert passed == b"".join(kept)
    else:
        assert passed == whole
    assert stream.heard == through(b"".join(events), hide=False)[1]


@given(streams)
def test_byte_by_byte(events: list[bytes]) -> None:
    whole = b"".join(events)
    for hide in (False, True):
        stream = openai.stream(hide)
        passed = b"".join(stream.feed(bytes([byte])) for byte in whole) + stream.finish()
        assert (passed, stream.heard) == through(whole, hide=hide)


# -- errors


@pytest.mark.parametrize("code", CODES)
def test_every_error_has_all_four_keys(code: str) -> None:
    error = LlmgateError('it is "so"', code=code, param="model")
    shaped = json.loads(error_body(error))
    assert shaped == {
        "error": {"message": 'it is "so"', "type": shaped["error"]["type"], "param": "model", "code": code}
    }
    assert error_event(error) == b"data: " + error_body(error) + b"\n\n"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("invalid_request", "invalid_request_error"),
        ("missing_key", "authentication_error"),
        ("insufficient_credits", "insufficient_quota"),
        ("model_not_allowed", "permission_error"),
        ("model_not_found", "invalid_request_error"),
        ("request_too_large", "invalid_request_error"),
        ("credits_held", "rate_limit_error"),
        ("upstream_timeout", "server_error"),
    ],
)
def test_types_are_those_that_openai_uses(code: str, kind: str) -> None:
    assert json.loads(error_body(LlmgateError("x", code=code)))["error"]["type"] == kind


def test_the_timings_of_llama_cpp_say_what_no_usage_says() -> None:
    timings = {"cache_n": 100, "prompt_n": 20, "predicted_n": 7, "prompt_ms": 1.5}
    meters = Meters(input=20, cached_input=100, output=7, calls=1)
    assert heard_of(choices=[], timings=timings).usage == Usage(meters=meters)
    told = heard_of(usage={"prompt_tokens": 1, "completion_tokens": 2}, timings=timings).usage
    assert told is not None
    assert told.meters == Meters(input=1, output=2, calls=1)
    assert heard_of(timings={"prompt_n": 20}).usage is None
    assert heard_of(timings=7).usage is None
