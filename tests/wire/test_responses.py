"""The format `openai` at /v1/responses: what hides in a request, and what an answer or its events used."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgate.errors import Refusal
from llmgate.quoting import UNKNOWN_CONTEXT, input_bound
from llmgate.types import Ask, Meters, Usage
from llmgate.wire import body
from llmgate.wire.heard import Heard
from llmgate.wire.openai import IMAGE_TOKENS
from llmgate.wire.responses import OUTPUT_BOUNDS, RESPONSES, RESPONSES_INPUT_TOKENS
from tests.replay import sse
from tests.wire.listening import ask_of, changed, cost, listen, pieces, replayed

# -- what a request asks for


def asked(**fields: Any) -> Ask:
    return ask_of(RESPONSES, fields)


def test_the_least_that_can_be_asked() -> None:
    assert asked(input="héllo") == Ask(model="m", text_bytes=6, messages=2, min_output=16)


def test_all_that_is_read() -> None:
    found = asked(
        stream=True,
        instructions="be brief",
        input=[{"role": "user", "content": [{"type": "input_text", "text": "abc"}]}],
        max_output_tokens=100,
        service_tier="priority",
        reasoning={"effort": "low"},
        safety_identifier="u-1",
        metadata={"job": "42"},
        background=True,
    )
    assert found == Ask(
        model="m",
        stream=True,
        text_bytes=11,
        messages=2,
        max_output=100,
        min_output=16,
        service_tier="priority",
        reasons=True,
        background=True,
        tags={"metadata.job": "42", "end_user": "u-1"},
    )


@pytest.mark.parametrize(
    ("item", "text", "media", "hidden"),
    [
        ({"role": "user", "content": "äöü"}, 6, 0, False),
        ({"type": "input_text", "text": "abc"}, 3, 0, False),
        ({"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"}, 3, 0, False),
        ({"type": "function_call_output", "call_id": "call_1", "output": "abc"}, 3, 0, False),
        ({"type": "function_call_output", "output": [{"type": "input_text", "text": "abc"}]}, 3, 0, False),
        ({"type": "custom_tool_call_output", "call_id": "c", "output": "abc"}, 3, 0, False),
        ({"type": "input_image", "image_url": "data:" + "x" * 9000}, 0, IMAGE_TOKENS, False),
        ({"type": "input_image", "file_id": "file-1"}, 0, IMAGE_TOKENS, False),
        ({"type": "computer_screenshot", "file_id": "file-1"}, 0, IMAGE_TOKENS, False),
        ({"type": "image_generation_call", "id": "ig_1", "result": "x" * 9000}, 0, IMAGE_TOKENS, False),
        ({"type": "input_audio", "input_audio": {"data": "x" * 6400, "format": "mp3"}}, 0, 101, False),
        ({"type": "input_file", "file_id": "file-1"}, 0, 0, True),
        ({"type": "input_file", "file_url": "https://example.com/a.pdf"}, 0, 0, True),
        ({"type": "input_file", "filename": "a.pdf", "file_data": "data:" + "x" * 9000}, 5, 0, True),
        ({"type": "item_reference", "id": "msg_1"}, 0, 0, True),
        ({"id": "msg_1"}, 0, 0, True),
        ({"type": "reasoning", "id": "rs_1", "summary": []}, 0, 0, True),
        ({"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x" * 70}, 70, 0, False),
        ({"type": "a new kind", "file_id": "file-1"}, 0, 0, True),
        ({"type": "a new kind", "deep": {"deeper": ["abc"]}}, 3, 0, False),
    ],
)
def test_what_an_item_weighs(item: dict[str, Any], text: int, media: int, hidden: bool) -> None:
    for given_input in ([item], [{"role": "user", "content": [item]}]):
        found = asked(input=given_input)
        assert (found.text_bytes, found.media_tokens, found.hidden_input) == (text, media, hidden)


@pytest.mark.parametrize(
    "item",
    [
        {"type": "x" * 1000},
        {"type": "input_image", "image_url": "data:", "text": "x" * 1000},
        {"type": "image_generation_call", "result": "", "revised_prompt": "x" * 1000},
        {"type": "input_file", "file_id": "f", "note": "x" * 1000},
        {"type": "item_reference", "id": "x" * 1000},
        {"type": "function_call_output", "call_id": "x" * 1000, "output": ""},
        {"type": "message", "role": "x" * 1000, "content": ""},
        {"type": "message", "status": "x" * 1000, "content": ""},
        {"type": "computer_screenshot", "x" * 1000: ""},
    ],
)
def test_no_text_is_smuggled_past_the_count(item: dict[str, Any]) -> None:
    assert asked(input=[item]).text_bytes >= 1000


@pytest.mark.parametrize("name", ["tools", "text"])
def test_definitions_weigh_what_they_are_written_in(name: str) -> None:
    value: Any = [{"type": "function", "name": "f"}] if name == "tools" else {"format": {"type": "json_schema"}}
    assert asked(**{name: value}).text_bytes == len(json.dumps(value))


@pytest.mark.parametrize(
    ("fields", "unquotable"),
    [
        ({"previous_response_id": "resp_1"}, None),
        ({"conversation": "conv_1"}, None),
        ({"conversation": {"id": "conv_1"}}, None),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),  # its template may have tools that nobody sees
    ],
)
def test_what_the_upstream_keeps_is_hidden_input(fields: dict[str, Any], unquotable: str | None) -> None:
    found = asked(input="x", **fields)
    assert (found.hidden_input, found.unquotable) == (True, unquotable)
    assert input_bound(found, None) == UNKNOWN_CONTEXT
    assert not asked(input="x", **dict.fromkeys(fields)).hidden_input


@pytest.mark.parametrize(
    ("fields", "unquotable"),
    [
        (
            {"tools": [{"type": "function", "name": "f"}, {"type": "custom", "name": "g"}, {"type": "local_shell"}]},
            None,
        ),
        ({"tools": [{"type": "computer_use_preview"}, {"type": "apply_patch"}]}, None),
        ({"tools": [{"type": "namespace", "tools": [{"type": "function", "name": "f"}]}]}, None),
        ({"tools": [{"type": "namespace", "tools": [{"type": "web_search"}]}]}, "tools"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"tools": [{"type": "image_generation"}], "max_tool_calls": 1}, "tools"),
        ({"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}], "max_tool_calls": 1}, "tools"),
        ({"tools": [{"type": "web_search"}, {"type": "file_search"}], "max_tool_calls": 1}, "tools"),
        ({"tools": [{"type": "mcp"}]}, "tools"),
        ({"tools": ["?"]}, "tools"),
        ({"tools": {"type": "web_search"}}, "tools"),
        ({"tools": [{"type": ["web_search"]}]}, "tools"),
        ({"input": [{"type": "additional_tools", "tools": [{"type": "web_search"}]}]}, "tools"),
        ({"input": [{"type": "tool_search_output", "tools": [{"type": "mcp"}]}]}, "tools"),
        ({"context_management": [{"type": "compaction"}]}, "context_management"),
        ({"models": ["a", "b"]}, "models"),
        ({"plugins": []}, "plugins"),
    ],
)
def test_what_has_no_known_bound(fields: dict[str, Any], unquotable: str | None) -> None:
    assert asked(**fields).unquotable == unquotable


def test_tools_in_boxes_in_boxes() -> None:
    tools = '[{"type":"namespace","tools":' * 400 + '[{"type":"web_search"}]' + "}]" * 400
    assert ask_of(RESPONSES, f'{{"model":"m","tools":{tools}}}'.encode()).unquotable == "tools"


def test_searches_are_bounded_by_the_calls_that_are_allowed() -> None:
    """Each search calls the model anew, which reads all of its window again."""
    found = asked(input="x", tools=[{"type": "web_search_preview"}], max_tool_calls=3)
    assert (found.searches, found.rounds, found.hidden_input, found.unquotable) == (3, 4, True, None)
    assert input_bound(found, 8000) == 32_000
    none = asked(input="x", tools=[{"type": "web_search"}], max_tool_calls=0)
    assert (none.searches, none.rounds, none.unquotable) == (0, 1, None)


@pytest.mark.parametrize("value", [-1, 1.5, "1", True, False, [], 2**31])
def test_what_is_no_number_of_calls(value: Any) -> None:
    with pytest.raises(Refusal) as caught:
        asked(tools=[{"type": "web_search"}], max_tool_calls=value)
    assert caught.value.param == "max_tool_calls"


@pytest.mark.parametrize("name", OUTPUT_BOUNDS)
@pytest.mark.parametrize("value", [0, -1, 1.5, "7", True, [], {}])
def test_a_bound_is_an_integer_of_at_least_1(name: str, value: Any) -> None:
    with pytest.raises(Refusal) as caught:
        asked(**{name: value})
    assert caught.value.param == name


@pytest.mark.parametrize("name", ["model", "max_output_tokens", "previous_response_id", "background", "conversation"])
def test_twins_are_refused(name: str) -> None:
    for twin in (name, name.upper()):
        with pytest.raises(Refusal):
            ask_of(RESPONSES, f'{{"model":"m","{name}":null,"{twin}":null}}'.encode())


@pytest.mark.parametrize(
    ("fields", "changes"),
    [
        ({}, {"max_output_tokens": 20}),
        ({"max_output_tokens": None}, {"max_output_tokens": 20}),
        ({"max_output_tokens": 20}, {}),
        ({"max_output_tokens": 21}, {"max_output_tokens": 20}),
        ({"max_tokens": 5}, {"max_output_tokens": 20}),
        ({"max_output_tokens": 5, "n_predict": 90_000}, {"n_predict": 20}),
    ],
)
def test_what_is_changed(fields: dict[str, Any], changes: dict[str, Any]) -> None:
    assert changed(RESPONSES, fields, bound=20) == changes
    assert changed(RESPONSES, fields, bound=20, model="n") == changes | {"model": "n"}
    assert changed(RESPONSES, {**fields, "stream": True}) == {}


def test_what_a_request_refers_to() -> None:
    fields = body.read(
        json.dumps(
            {
                "previous_response_id": "resp_1",
                "conversation": {"id": "conv_1"},
                "prompt_cache_options": {"comparison_response_id": "resp_2"},
                "input": [
                    {"role": "user", "content": [{"type": "input_file", "file_id": "file-1"}, {"type": "input_text"}]},
                    {"type": "item_reference", "id": "msg_1"},
                    {"id": "msg_2"},
                    {"type": "reasoning", "id": "rs_1", "summary": []},
                    {"type": "reasoning", "id": "rs_2", "encrypted_content": "x"},
                    {"type": "message", "id": "msg_3", "role": "user", "content": "whole"},
                ],
                "tools": [
                    {"type": "file_search", "vector_store_ids": ["vs_1", "vs_2"]},
                    {"type": "code_interpreter", "container": "cntr_1"},
                    {"type": "code_interpreter", "container": {"type": "auto", "file_ids": ["file-2", "file-1"]}},
                    {"type": "image_generation", "input_image_mask": {"file_id": "file-3"}},
                ],
            }
        ).encode(),
        RESPONSES.known,
    )
    assert set(RESPONSES.refers_to(fields)) == (
        {"resp_1", "resp_2", "conv_1", "msg_1", "msg_2", "rs_1", "file-1", "file-2", "file-3"}
        | {"vs_1", "vs_2", "cntr_1"}
    )
    assert RESPONSES.refers_to(body.read(b'{"conversation":"conv_1"}', RESPONSES.known)) == ("conv_1",)
    assert RESPONSES.refers_to(body.read(b'{"conversation":null,"input":"resp_1"}', RESPONSES.known)) == ()


# -- a whole answer

USAGE = {
    "input_tokens": 900,
    "input_tokens_details": {"cached_tokens": 512, "cache_write_tokens": 0},
    "output_tokens": 150,
    "output_tokens_details": {"reasoning_tokens": 64},
    "total_tokens": 1050,
}
METERS = Meters(input=388, cached_input=512, output=86, reasoning=64, calls=1)
MESSAGE = {
    "type": "message",
    "id": "msg_1",
    "content": [{"type": "output_text", "text": "héllo", "annotations": ["x"]}],
}


def heard_of(**answer: Any) -> Heard:
    found = RESPONSES.hear(json.dumps(answer).encode())
    assert found is not None
    return found


def test_a_whole_answer() -> None:
    heard = heard_of(
        id="resp_1",
        status="completed",
        conversation={"id": "conv_1"},
        service_tier="flex",
        output=[MESSAGE],
        usage=USAGE,
    )
    usage = Usage(meters=METERS, service_tier="flex")
    made = ("resp_1", "conv_1", "msg_1")
    assert heard == Heard(usage=usage, text_bytes=6, counted_bytes=6, finished=True, service_tier="flex", made=made)
    assert cost(METERS, input=2, cached_input=1, output=8) == (388 * 2 + 512 + 150 * 8) * 1000


CACHED = {"cached_tokens": 10, "cache_write_tokens": 60}
NO_DRAWING = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
DRAWING = {
    "input_tokens": 30,
    "input_tokens_details": {"image_tokens": 20, "text_tokens": 10},
    "output_tokens": 1000,
    "total_tokens": 1030,
}
SEARCH = {"type": "web_search_call", "action": {"type": "search", "query": "q"}}

TABLE: dict[str, tuple[dict[str, Any], dict[str, int], int]] = {
    # what the answer says → meters → nano-USD at the rates of the test
    "plain": ({"usage": {"input_tokens": 10, "output_tokens": 5}}, {"input": 10, "output": 5}, 10_000 + 40_000),
    "an explicit zero": ({"usage": {"input_tokens": 0, "output_tokens": 0}}, {}, 0),
    "the words of a chat": (
        {"usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}},
        {"input": 10, "output": 5},
        50_000,
    ),
    "written for half an hour and for twelve": (
        {
            "usage": {
                "input_tokens": 100,
                "output_tokens": 0,
                "input_tokens_details": CACHED
                | {"cache_write_tokens_details": {"ttl_30m_tokens": 20, "ttl_12h_tokens": 40}},
            }
        },
        {"input": 30, "cached_input": 10, "cache_write": 20, "cache_write_1h": 40},
        30_000 + 40_000 + 40_000 + 120_000,
    ),
    "written, and not said for how long": (
        {"usage": {"input_tokens": 100, "output_tokens": 0, "input_tokens_details": CACHED}},
        {"input": 30, "cached_input": 10, "cache_write": 60},
        30_000 + 40_000 + 120_000,
    ),
    "searches that are counted": (
        {
            "usage": {"input_tokens": 10, "output_tokens": 5},
            "tool_usage": {"web_search": {"num_requests": 2}, "image_gen": NO_DRAWING},
            "output": [SEARCH, SEARCH, SEARCH],
        },
        {"input": 10, "output": 5, "searches": 2},
        50_000 + 20_000_000,
    ),
    "searches that are shown": (
        {
            "usage": {"input_tokens": 10, "output_tokens": 5},
            "output": [
                SEARCH,
                {"type": "web_search_call", "action": {"type": "open_page"}},
                {"type": "web_search_call"},
            ],
        },
        {"input": 10, "output": 5, "searches": 2},
        50_000 + 20_000_000,
    ),
    "a picture": (
        {
            "usage": {"input_tokens": 10, "output_tokens": 5},
            "tool_usage": {"image_gen": DRAWING, "web_search": {"num_requests": 0}},
            "output": [{"type": "image_generation_call", "result": "AAAA"}, {"type": "image_generation_call"}],
        },
        {"input": 20, "image_input": 20, "output": 5, "audio_output": 1000, "images": 1},
        40_000 + 40_000 + 8_000_000,
    ),
    "details that are none": (
        {"usage": {"input_tokens": 10, "output_tokens": 5}, "tool_usage": "?", "output": "?"},
        {"input": 10, "output": 5},
        50_000,
    ),
}


@pytest.mark.parametrize("case", TABLE)
def test_usage(case: str) -> None:
    answer, meters, nano = TABLE[case]
    usage = heard_of(id="resp_1", status="completed", **answer).usage
    assert usage is not None
    assert usage.meters == Meters(**meters, calls=1)
    rates = {"input": 1, "cached_input": 4, "cache_write": 2, "cache_write_1h": 3, "output": 8, "searches": 10_000}
    assert cost(usage.meters, **rates) == nano


def test_a_cost_that_the_upstream_reports() -> None:
    usage = heard_of(usage={"input_tokens": 1, "output_tokens": 1, "cost": 0.00000000123}).usage
    assert usage is not None
    assert usage.cost_nano == 2


@pytest.mark.parametrize(
    ("answer", "failed", "finished"),
    [
        ({"status": "failed", "usage": None, "error": {"code": "server_error"}}, True, True),
        ({"status": "incomplete", "usage": None, "incomplete_details": {"reason": "content_filter"}}, False, True),
        ({"status": "queued", "usage": None, "output": []}, False, False),
        ({"status": "in_progress"}, False, False),
        ({"error": {"message": "no"}}, True, True),
        ({}, False, True),
    ],
)
def test_an_answer_without_usage(answer: dict[str, Any], failed: bool, finished: bool) -> None:
    heard = heard_of(**answer)
    assert (heard.usage, heard.text_bytes, heard.failed, heard.finished) == (None, 0, failed, finished)


@pytest.mark.parametrize(
    ("item", "text", "reasoned"),
    [
        (MESSAGE, 6, False),
        ({"type": "message", "content": [{"type": "refusal", "refusal": "no"}]}, 2, False),
        ({"type": "function_call", "name": "f", "arguments": "{}"}, 3, False),
        ({"type": "function_call_output", "output": "what it brought"}, 0, False),
        ({"type": "custom_tool_call", "name": "f", "input": "abc"}, 4, False),
        ({"type": "code_interpreter_call", "code": "1+1", "outputs": [{"logs": "2"}]}, 3, False),
        ({"type": "mcp_call", "name": "f", "arguments": "{}", "output": "what it brought"}, 3, False),
        ({"type": "image_generation_call", "result": "AAAA"}, 0, False),
        ({"type": "shell_call", "action": {"commands": ["ls", "pwd"]}}, 5, False),
        (
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "abc"}], "encrypted_content": "x"},
            3,
            True,
        ),
        ({"type": "reasoning", "content": [{"type": "reasoning_text", "text": "abc"}]}, 3, True),
        ("?", 0, False),
    ],
)
def test_text_that_is_billed(item: Any, text: int, reasoned: bool) -> None:
    heard = heard_of(output=[item, item])
    assert (heard.text_bytes, heard.reasoned) == (2 * text, reasoned)


@pytest.mark.parametrize("raw", [b"", b"<html>", b"{", b"[]", b"null", b'"x"', b"[" * 100_000])
def test_what_is_no_answer(raw: bytes) -> None:
    assert RESPONSES.hear(raw) is None


@pytest.mark.parametrize("odd", [b'"x":"\\ud83d"', b'"x":"\xff"', b'"x":NaN', b'"output":[[]]', b'"output":[{"id":7}]'])
def test_an_odd_answer_is_billed_all_the_same(odd: bytes) -> None:
    raw = b'{%b,"usage":{"input_tokens":5,"output_tokens":1}}' % odd
    heard = RESPONSES.hear(raw)
    assert heard is not None
    assert heard.usage == Usage(meters=Meters(input=5, output=1, calls=1))
    assert listen(RESPONSES, [sse(b'{"type":"response.completed","response":'.decode())])[1].usage is None
    whole = b'data: {"type":"response.completed","response":%b}\n\n' % raw
    assert listen(RESPONSES, [whole])[1].usage == heard.usage


# -- a stream


def events(*found: tuple[str, dict[str, Any]]) -> bytes:
    numbered = [{"type": kind, "sequence_number": n, **more} for n, (kind, more) in enumerate(found)]
    return b"".join(sse(event, event["type"]) for event in numbered)


def response(status: str, **more: Any) -> dict[str, Any]:
    return {"response": {"id": "resp_1", "object": "response", "status": status, "usage": None, "error": None, **more}}


REASONING = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}]}
CALL = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "find", "arguments": '{"a":1}'}

BEGINNING = (
    ("response.created", response("in_progress", output=[])),
    ("response.in_progress", response("in_progress", output=[])),
    ("response.output_item.added", {"output_index": 0, "item": REASONING | {"summary": []}}),
    ("response.reasoning_summary_text.delta", {"output_index": 0, "summary_index": 0, "delta": "hm"}),
    ("response.reasoning_summary_text.done", {"output_index": 0, "summary_index": 0, "text": "hm"}),
    ("response.output_item.done", {"output_index": 0, "item": REASONING}),
    ("response.output_item.added", {"output_index": 1, "item": MESSAGE | {"content": []}}),
    ("response.content_part.added", {"output_index": 1, "part": {"type": "output_text", "text": ""}}),
    ("response.output_text.delta", {"output_index": 1, "delta": "h", "obfuscation": "xxxxxxxxxxxx"}),
    ("response.output_text.delta", {"output_index": 1, "delta": "éllo", "logprobs": []}),
)
MIDDLE = (
    ("response.output_text.done", {"output_index": 1, "text": "héllo"}),
    ("response.content_part.done", {"output_index": 1, "part": {"type": "output_text", "text": "héllo"}}),
    ("response.output_item.done", {"output_index": 1, "item": MESSAGE}),
    ("response.output_item.added", {"output_index": 2, "item": CALL | {"arguments": ""}}),
    ("response.function_call_arguments.delta", {"output_index": 2, "delta": '{"a":1}'}),
    ("response.function_call_arguments.done", {"output_index": 2, "arguments": '{"a":1}'}),
    ("response.output_item.done", {"output_index": 2, "item": CALL}),
)
OUTPUT = [REASONING, MESSAGE, CALL]
ALL_TEXT = 2 + 6 + 7 + 4
END = (("response.completed", response("completed", output=OUTPUT, usage=USAGE, service_tier="default")),)
MADE = ("resp_1", "rs_1", "msg_1", "fc_1")


@pytest.mark.parametrize("tail", [b"", b"data: [DONE]\n\n", b": ping\n\n"])
def test_a_stream_to_its_end(tail: bytes) -> None:
    heard = replayed(RESPONSES, events(*BEGINNING, *MIDDLE, *END) + tail)
    assert heard == Heard(
        usage=Usage(meters=METERS, service_tier="default"),
        text_bytes=ALL_TEXT,
        counted_bytes=ALL_TEXT,
        reasoned=True,
        finished=True,
        done=True,
        service_tier="default",
        made=MADE,
    )


def test_a_stream_that_breaks_off() -> None:
    heard = replayed(RESPONSES, events(*BEGINNING))
    assert heard == Heard(text_bytes=8, reasoned=True, made=("resp_1", "rs_1"))


def test_whole_items_count_where_no_pieces_came() -> None:
    only_items = [event for event in (*BEGINNING, *MIDDLE) if not event[0].endswith(".delta")]
    assert replayed(RESPONSES, events(*only_items)).text_bytes == ALL_TEXT
    only_end = ("response.completed", response("completed", output=OUTPUT))
    assert replayed(RESPONSES, events(only_end)).text_bytes == ALL_TEXT


@pytest.mark.parametrize(
    ("kind", "delta", "text", "reasoned"),
    [
        ("response.output_text.delta", "abc", 3, False),
        ("response.refusal.delta", "abc", 3, False),
        ("response.reasoning_text.delta", "abc", 3, True),
        ("response.reasoning_summary_text.delta", "abc", 3, True),
        ("response.function_call_arguments.delta", "abc", 3, False),
        ("response.custom_tool_call_input.delta", "abc", 3, False),
        ("response.mcp_call_arguments.delta", "abc", 3, False),
        ("response.code_interpreter_call_code.delta", "abc", 3, False),
        ("response.shell_call_command.delta", "abc", 3, False),
        ("response.audio.transcript.delta", "abc", 3, False),
        ("response.a_new_kind.delta", "abc", 3, False),
        ("response.audio.delta", "AAAA", 0, False),
        ("response.shell_call_output_content.delta", {"stdout": "abc"}, 0, False),
        ("response.output_text.delta", None, 0, False),
    ],
)
def test_pieces(kind: str, delta: Any, text: int, reasoned: bool) -> None:
    heard = replayed(RESPONSES, events((kind, {"output_index": 0, "delta": delta})))
    assert heard == Heard(text_bytes=text, reasoned=reasoned)


@pytest.mark.parametrize(
    ("last", "failed", "done", "usage"),
    [
        (("response.incomplete", response("incomplete", usage=USAGE)), False, True, METERS),
        (("response.failed", response("failed", usage=USAGE, error={"code": "server_error"})), True, True, METERS),
        (("response.failed", response("failed")), True, True, None),
        (("response.cancelled", response("cancelled")), False, True, None),
        (("error", {"code": "rate_limit_exceeded", "message": "slow down", "param": None}), True, False, None),
        (("response.queued", response("queued")), False, False, None),
    ],
)
def test_how_a_stream_may_end(last: tuple[str, dict[str, Any]], failed: bool, done: bool, usage: Meters | None) -> None:
    heard = replayed(RESPONSES, events(*BEGINNING, last))
    assert (heard.failed, heard.done, heard.finished, heard.text_bytes) == (failed, done, done, 8)
    assert (heard.usage.meters if heard.usage else None) == usage


def test_an_error_without_a_type() -> None:
    assert replayed(RESPONSES, sse({"error": {"message": "overloaded"}})).failed


def test_streams_share_nothing() -> None:
    first = events(("response.output_text.delta", {"output_index": 0, "delta": "abc"}))
    whole = events(("response.output_item.done", {"output_index": 0, "item": {"type": "m", "name": "abc"}}))
    assert listen(RESPONSES, [first])[1].text_bytes == 3
    assert listen(RESPONSES, [whole])[1].text_bytes == 3
    assert listen(RESPONSES, [first, whole])[1].text_bytes == 3


@given(st.lists(st.integers(0, 6000), max_size=30), st.booleans())
def test_what_goes_in_comes_out(cuts: list[int], crlf: bool) -> None:
    raw = events(*BEGINNING, *MIDDLE, *END)
    raw = raw.replace(b"\n", b"\r\n") if crlf else raw
    passed, heard = listen(RESPONSES, pieces(raw, cuts))
    assert passed == raw
    assert (heard.text_bytes, heard.usage) == (ALL_TEXT, Usage(meters=METERS, service_tier="default"))


# -- counting only


def test_counting_costs_nothing() -> None:
    assert RESPONSES_INPUT_TOKENS.free
    assert ask_of(RESPONSES_INPUT_TOKENS, {"input": "x", "max_output_tokens": 7}) == Ask(model="m", output=False)
    raw = b'{"object":"response.input_tokens","input_tokens":11}'
    assert RESPONSES_INPUT_TOKENS.hear(raw) == Heard(usage=Usage(meters=Meters()), finished=True)
    assert RESPONSES_INPUT_TOKENS.hear(b"<html>") is None
    assert changed(RESPONSES_INPUT_TOKENS, {}, bound=7, model="n") == {"model": "n"}
