"""The format `anthropic`, pure: what is asked, what must be changed, what an answer used, what a client gets."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgate.errors import CODES, LlmgateError, Refusal
from llmgate.pricing import Price, amount, dearest, price_of
from llmgate.quoting import input_bound, quote
from llmgate.types import Ask, Meters, Usage
from llmgate.wire import anthropic, body
from llmgate.wire.anthropic import (
    COUNT_TOKENS,
    HARNESS_TOKENS,
    IMAGE_TOKENS,
    MESSAGES,
    PREDEFINED_TOKENS,
    ROUNDS,
    error_body,
    error_event,
    hear,
    read_usage,
)
from llmgate.wire.endpoint import Endpoint, Terms
from llmgate.wire.heard import Heard
from tests.replay import sse

# -- what a request asks for


def ask_of(raw: dict[str, Any] | bytes, endpoint: Endpoint = MESSAGES) -> Ask:
    content = raw if isinstance(raw, bytes) else json.dumps({"model": "m", **raw}).encode()
    return endpoint.read_ask(body.read(content, endpoint.known), None)


def refused(raw: dict[str, Any] | bytes, endpoint: Endpoint = MESSAGES) -> Refusal:
    with pytest.raises(Refusal) as caught:
        ask_of(raw, endpoint)
    assert caught.value.code == "invalid_request"
    return caught.value


def user(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(content)}


def test_the_least_that_can_be_asked() -> None:
    assert ask_of(b'{"model":"m"}') == Ask(model="m", remembers=False)


def test_all_that_is_read() -> None:
    asked = ask_of(
        {
            "stream": True,
            "max_tokens": 5000,
            "system": [{"type": "text", "text": "be brief", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
            "messages": [{"role": "user", "content": "héllo"}, {"role": "assistant", "content": None}],
            "thinking": {"type": "enabled", "budget_tokens": 2048},
            "service_tier": "auto",
            "metadata": {"user_id": "u-1", "other": "x"},
            "speed": "standard",
            "temperature": 1,
        }
    )
    assert asked == Ask(
        model="m",
        stream=True,
        text_bytes=14,
        messages=2,
        max_output=5000,
        min_output=2049,
        service_tier="auto",
        reasons=True,
        remembers=False,
        tags={"metadata.user_id": "u-1", "end_user": "u-1"},
    )


def test_null_is_the_same_as_absent() -> None:
    assert ask_of(dict.fromkeys(anthropic.KNOWN - {"model"})) == ask_of({})


PNG = {"type": "base64", "media_type": "image/png", "data": "x" * 9000}
PDF = {"type": "base64", "media_type": "application/pdf", "data": "x" * 9000}


@pytest.mark.parametrize(
    ("messages", "text", "media", "hidden"),
    [
        ("a plain string", 14, 0, False),
        ([{"role": "user", "content": "äöü"}], 6, 0, False),
        ([user({"type": "text", "text": "abc"}, {"type": "text", "text": "de"})], 5, 0, False),
        ([user({"type": "text", "text": "abc", "cache_control": {"type": "ephemeral", "ttl": "5m"}})], 3, 0, False),
        ([user({"type": "image", "source": PNG})], 0, IMAGE_TOKENS, False),
        ([user({"type": "image", "source": PNG}, {"type": "image", "source": PNG})], 0, 2 * IMAGE_TOKENS, False),
        ([user({"type": "image", "source": {"type": "url", "url": "https://example.com/" + "x" * 99}})], 0, 0, True),
        ([user({"type": "image", "source": {"type": "file", "file_id": "file_1"}})], 0, 0, True),
        ([user({"type": "document", "source": PDF, "title": "abc"})], 3, 0, True),
        ([user({"type": "document", "source": {"type": "url", "url": "https://x"}})], 0, 0, True),
        ([user({"type": "document", "source": {"type": "file", "file_id": "file_1"}})], 0, 0, True),
        (
            [user({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "abc"}})],
            3,
            0,
            False,
        ),
        (
            [
                user(
                    {
                        "type": "document",
                        "source": {"type": "content", "content": [{"type": "text", "text": "abc"}]},
                        "citations": {"enabled": True},
                        "context": "de",
                    }
                )
            ],
            5,
            0,
            False,
        ),
        ([user({"type": "image", "source": {**PNG, "media_type": ["image/png"]}})], 0, 0, True),
        ([user({"type": ["image"], "source": {"type": {"a": 1}}})], 0, 0, False),
        ([user({"type": "container_upload", "file_id": "file_1"})], 0, 0, True),
        ([user({"type": "tool_result", "tool_use_id": "toolu_1", "content": "abc"})], 3, 0, False),
        (
            [
                user(
                    {
                        "type": "tool_result",
                        "tool_use_id": "toolu_1",
                        "is_error": False,
                        "content": [{"type": "text", "text": "abc"}, {"type": "image", "source": PNG}],
                    }
                )
            ],
            3,
            IMAGE_TOKENS,
            False,
        ),
        ([{"content": [{"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": 1}}]}], 1 + 7, 0, False),
        ([{"content": [{"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}]}], 1 + 2, 0, False),
        ([{"content": [{"type": "thinking", "thinking": "hmm", "signature": "x" * 99}]}], 102, 0, False),
        ([{"content": [{"type": "redacted_thinking", "data": "x" * 99}]}], 99, 0, False),
        (
            [
                {
                    "content": [
                        {
                            "type": "web_search_tool_result",
                            "tool_use_id": "srvtoolu_1",
                            "content": [{"type": "web_search_result", "title": "abc", "encrypted_content": "x" * 99}],
                        }
                    ]
                }
            ],
            102,
            0,
            False,
        ),
        (
            [
                {
                    "content": [
                        {
                            "type": "web_fetch_tool_result",
                            "content": {
                                "type": "web_fetch_result",
                                "content": {"type": "document", "source": PDF},
                            },
                        }
                    ]
                }
            ],
            0,
            0,
            True,
        ),
        ([{"content": [{"type": "search_result", "source": "abc", "title": "de", "content": []}]}], 5, 0, False),
        ([{"content": [{"type": "a new kind", "something": "abc"}]}], 3, 0, False),
    ],
)
def test_what_a_prompt_weighs(messages: Any, text: int, media: int, hidden: bool) -> None:
    asked = ask_of({"messages": messages})
    assert (asked.text_bytes, asked.media_tokens, asked.hidden_input) == (text, media, hidden)


LONG = "x" * 1000


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "type": "image", "content": LONG},
        user({"type": "text", "text": LONG, "source": PNG}),
        user({"type": "image", "source": {**PNG, "note": LONG}}),
        user({"type": "image", "source": LONG}),
        user({"type": "image", "source": PNG, "alt": LONG}),
        user({"type": "document", "source": {"type": "text", "media_type": "image/png", "data": LONG}}),
        user({"type": "document", "source": {"type": "url", "url": "https://x", "data": LONG}}),
        user({"type": "container_upload", "file_id": "f", "text": LONG}),
        # the arguments of a tool are any JSON, and read as such
        user({"type": "tool_use", "name": "f", "input": {"type": "image", "source": {**PNG, "data": LONG}}}),
        user({"type": "tool_use", "name": "f", "input": {"type": "base64", "media_type": "image/png", "data": LONG}}),
        user({"type": "tool_use", "name": "f", "input": [{"content": [{**PNG, "data": LONG}]}]}),
        user({"type": "tool_use", "name": "f", "input": {"type": "file", "file_id": LONG}}),
        user({"type": "tool_use", "name": "f", "input": {f"a name of its own {n:03}": n for n in range(50)}}),
        user({"type": "tool_use", "name": "f", "input": {"type": ["role" * 8] * 40}}),
        user({"type": "tool_use", "name": "f", "input": [{"role": "y" * 60, "id": "z" * 60} for _ in range(9)]}),
        user({"type": "tool_use", "name": "f", "input": ['"' * 500]}),
        user({"type": "tool_use", "name": "f", "input": [0.123456789] * 100}),
        user({"type": "mcp_tool_use", "name": "f", "input": {"data": LONG}}),
        user(
            {"type": "tool_addition", "tool": {"definition": {"input_schema": {"examples": [{**PNG, "data": LONG}]}}}}
        ),
        user({"type": "text", "text": "", "citations": [{"cited_text": LONG}]}),
        user({"type": "text", "text": "", "cache_control": {"ttl": LONG}}),
        user({"type": "text", "text": "", "cache_control": LONG}),
        {"role": LONG},
        {"role": "user", "content": "", "id": LONG},
        {"role": "user", "content": {LONG: ""}},
        {"role": "user", "content": "", "tool_use_id": LONG},
    ],
)
def test_no_text_is_smuggled_past_the_count(message: dict[str, Any]) -> None:
    assert ask_of({"messages": [message]}).text_bytes >= 1000


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), json_values, min_size=1, max_size=4))
def test_a_tools_arguments_weigh_what_they_are_as_json(arguments: dict[str, Any]) -> None:
    compact = json.dumps(arguments, ensure_ascii=False, separators=(",", ":"))
    asked = ask_of({"messages": [{"content": [{"type": "tool_use", "input": arguments}]}]})
    assert (asked.text_bytes, asked.media_tokens, asked.hidden_input) == (len(compact.encode()), 0, False)


def test_arguments_may_be_nested_as_deeply_as_a_body() -> None:
    deep = b'{"model":"m","messages":[{"content":[{"type":"tool_use","input":%b1%b}]}]}' % (b"[" * 900, b"]" * 900)
    assert ask_of(deep).text_bytes >= 1801


def test_tool_definitions_weigh_what_they_are_written_in_and_what_comes_with_them() -> None:
    tools = [{"name": "f", "description": "does", "input_schema": {"type": "object"}}]
    assert ask_of({"tools": tools}).text_bytes == len(json.dumps(tools)) + HARNESS_TOKENS
    tools = [{"type": "bash_20250124", "name": "bash"}, {"type": "custom", "name": "g"}]
    assert ask_of({"tools": tools}).text_bytes == len(json.dumps(tools)) + HARNESS_TOKENS + PREDEFINED_TOKENS
    assert ask_of({"tools": []}) == ask_of({})


def test_a_schema_for_the_output_weighs_as_well() -> None:
    schema = {"type": "json_schema", "schema": {"type": "object"}}
    alone = len(json.dumps(schema, separators=(",", ":"))) + HARNESS_TOKENS
    assert ask_of({"output_config": {"format": schema}}).text_bytes == alone
    assert ask_of({"output_format": schema}) == ask_of({"output_config": {"format": schema}})
    both = ask_of({"output_format": schema, "output_config": {"format": LONG}}).text_bytes
    assert both == alone + len(LONG) + 2
    assert ask_of({"output_config": {"effort": "high"}}) == ask_of({})


SEARCH = {"type": "web_search_20250305", "name": "web_search"}


@pytest.mark.parametrize(
    ("tools", "searches", "rounds", "hidden", "unquotable"),
    [
        ([{"name": "f"}, {"type": "custom"}, {"type": None}], 0, 1, False, None),
        (
            [{"type": kind} for kind in ("bash_20250124", "text_editor_20250728", "computer_20251124")],
            0,
            1,
            False,
            None,
        ),
        ([{"type": "memory_20250818"}], 0, 1, False, None),
        ([{"type": "browser_toolset_20260801"}], 0, 1, True, None),
        ([{**SEARCH, "max_uses": 3}], 3, ROUNDS, True, None),
        ([{**SEARCH, "max_uses": 3}, {"type": "web_search_20260318", "max_uses": 2}], 5, ROUNDS, True, None),
        ([{**SEARCH, "max_uses": 0}], 0, ROUNDS, True, None),
        ([SEARCH], 0, ROUNDS, True, "tools"),
        ([{**SEARCH, "max_uses": None}], 0, ROUNDS, True, "tools"),
        ([{**SEARCH, "max_uses": -1}], 0, ROUNDS, True, "tools"),
        ([{**SEARCH, "max_uses": "3"}], 0, ROUNDS, True, "tools"),
        ([{**SEARCH, "max_uses": 10**9}], 0, ROUNDS, True, "tools"),
        ([{"type": "web_fetch_20250910"}], 0, ROUNDS, True, None),
        ([{"type": "tool_search_tool_bm25"}, {"type": "tool_search_tool_regex_20251119"}], 0, ROUNDS, True, None),
        ([{"type": "code_execution_20250825"}], 0, 1, False, "tools"),
        ([{"type": "advisor_20260301", "model": "dear"}], 0, 1, False, "tools"),
        ([{"type": "mcp_toolset"}], 0, 1, False, "tools"),
        ([{"type": "what comes next"}], 0, 1, False, "tools"),
        ([{"type": "bash_20250124 "}], 0, 1, False, "tools"),
        ([{"type": 7}], 0, 1, False, "tools"),
        (["f"], 0, 1, False, None),  # no tools, as the upstream will say
        ({"type": "code_execution"}, 0, 1, False, None),
    ],
)
def test_tools(tools: Any, searches: int, rounds: int, hidden: bool, unquotable: str | None) -> None:
    asked = ask_of({"tools": tools})
    assert (asked.searches, asked.rounds, asked.hidden_input, asked.unquotable) == (
        searches,
        rounds,
        hidden,
        unquotable,
    )


@pytest.mark.parametrize(
    ("fields", "unquotable"),
    [
        *(({name: {"a": 1}}, name) for name in anthropic.UNQUOTABLE),
        *(({name: []}, name) for name in anthropic.UNQUOTABLE),
        ({"speed": "standard"}, None),
        ({"speed": "fast"}, None),
        ({"speed": "faster"}, "speed"),
        ({"speed": 1}, "speed"),
        ({"inference_geo": "global"}, None),
        ({"inference_geo": "us"}, "inference_geo"),
        ({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}, None),
        ({"context_management": {}}, None),
        (
            {"context_management": {"edits": [{"type": "clear_thinking_20251015"}, {"type": "compact_20260112"}]}},
            "context_management",
        ),
        ({"context_management": {"edits": [{"type": None}]}}, "context_management"),
        ({"context_management": {"edits": ["odd"]}}, None),
        ({"context_management": "odd"}, None),
        ({"messages": [user({"type": "tool_addition", "tool": {"type": "tool_reference", "name": "f"}})]}, None),
        ({"messages": [user({"type": "tool_addition", "tool": {"type": "tool_definition"}})]}, "messages"),
        ({"messages": [user({"type": "tool_addition", "tool": 7})]}, "messages"),
        ({"messages": ["odd", {"content": ["odd"]}, {"content": 7}]}, None),
        ({"messages": 7}, None),
        ({"service_tier": "auto", "thread": None, "diagnostics": {}}, None),
    ],
)
def test_what_has_no_known_bound(fields: dict[str, Any], unquotable: str | None) -> None:
    assert ask_of(fields).unquotable == unquotable


def test_a_conversation_that_is_kept_over_there_is_hidden() -> None:
    assert ask_of({"thread": {"type": "continue", "previous_message_id": "msg_1"}}).hidden_input


@pytest.mark.parametrize(
    ("thinking", "reasons", "least"),
    [
        ({"type": "enabled", "budget_tokens": 1024}, True, 1025),
        ({"type": "enabled"}, True, 1),
        ({"type": "enabled", "budget_tokens": "much"}, True, 1),
        ({"type": "adaptive"}, True, 1),
        ({"type": "adaptive", "budget_tokens": 1024}, True, 1),
        ({"type": "between_tools"}, True, 1),
        ({"type": "disabled"}, False, 1),
        ({}, False, 1),
        ("enabled", False, 1),
        (None, False, 1),
    ],
)
def test_thinking(thinking: Any, reasons: bool, least: int) -> None:
    asked = ask_of({"thinking": thinking})
    assert (asked.reasons, asked.min_output) == (reasons, least)


@pytest.mark.parametrize("value", [0, -1, 1.5, 7.0, 2**31, 10**30, "7", "", True, False, [], {}])
def test_a_bound_is_an_integer_of_at_least_1(value: Any) -> None:
    assert refused({"max_tokens": value}).param == "max_tokens"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"model": 7}, "model"),
        ({"stream": "true"}, "stream"),
        ({"stream": 2}, "stream"),
        ({"service_tier": 1}, "service_tier"),
    ],
)
def test_fields_that_must_be_understood(fields: dict[str, Any], param: str) -> None:
    assert refused(fields).param == param


@pytest.mark.parametrize(
    "name", ["model", "max_tokens", "stream", "speed", "messages", "tools", "thinking", "fallbacks"]
)
@pytest.mark.parametrize("endpoint", [MESSAGES, COUNT_TOKENS])
def test_twins_and_aliases_are_refused(name: str, endpoint: Endpoint) -> None:
    pair = b'{"model":"m","%b":1,"%b":2}'
    assert refused(pair % (name.encode(), name.encode()), endpoint).param == name
    assert refused(pair % (name.encode(), name.upper().encode()), endpoint).param == name
    assert refused(pair % (name.encode(), b"\\u%04x" % ord(name[0]) + name[1:].encode()), endpoint).param == name


@pytest.mark.parametrize("fields", [{"temperature": "hot"}, {"messages": 7}, {"tools": 1}, {"metadata": 1}])
def test_what_is_the_upstreams_to_judge(fields: dict[str, Any]) -> None:
    assert ask_of(fields).tags == {}


def test_a_tag_is_short() -> None:
    tags = ask_of({"metadata": {"user_id": "y" * 600}}).tags
    assert tags == {"metadata.user_id": "y" * 512, "end_user": "y" * 512}
    assert ask_of({"metadata": {"user_id": 7}}).tags == {}


# -- what it may cost


PRICE = price_of(
    {
        "input": 3,
        "output": 15,
        "cached_input": Decimal("0.3"),
        "cache_write": Decimal("3.75"),
        "cache_write_1h": 6,
        "per_search": Decimal("0.01"),
    }
)


def test_searches_are_quoted_with_all_that_is_read_round_after_round() -> None:
    asked = ask_of({"max_tokens": 1000, "tools": [{**SEARCH, "max_uses": 3}]})
    read = input_bound(asked, 200_000)
    assert read == ROUNDS * 200_000
    price = dearest((PRICE,), read, asked.hidden_input, asked.searches)
    # dollars: 2M × 6/M for input written for an hour, 1,000 × 15/M for output, 3 × 0.01 for searches
    assert quote(asked, price, read, 16_384).amount_nano == 12_000_000_000 + 15_000_000 + 30_000_000


def test_a_clamp_leaves_the_thinking_its_room() -> None:
    asked = ask_of({"max_tokens": 5000, "thinking": {"type": "enabled", "budget_tokens": 2048}})
    assert quote(asked, dearest((PRICE,), 0, False, 0), 0, 16_384).floor_tokens == 2049


# -- what must be changed


def changed(fields: dict[str, Any], *, model: str = "m", bound: int | None = None) -> dict[str, Any]:
    read = body.read(json.dumps({"model": "m", **fields}).encode(), anthropic.KNOWN)
    terms = Terms(model=model, bound=bound, bound_fields=("n_predict",), bound_write="n_predict", ask_usage=True)
    return anthropic.prepare(read, anthropic.read_ask(read), terms)


@pytest.mark.parametrize(
    ("fields", "bound", "changes"),
    [
        ({"max_tokens": 7, "stream": True}, None, {}),
        ({}, None, {}),
        ({"max_tokens": 7}, 7, {}),
        ({"max_tokens": 5}, 7, {}),
        ({"max_tokens": 8}, 7, {"max_tokens": 7}),
        ({"max_tokens": None}, 7, {"max_tokens": 7}),
        ({}, 7, {"max_tokens": 7}),
    ],
)
def test_no_more_is_sent_than_the_hold_carries(fields: dict[str, Any], bound: int | None, changes: Any) -> None:
    assert changed(fields, bound=bound) == changes
    assert changed(fields, bound=bound, model="n") == {"model": "n", **changes}


def test_all_else_keeps_its_bytes() -> None:
    raw = (
        '{ "model" : "m",\n "max_tokens":9000, "messages":[ {"role":"user", "content":"h\\u00e9llo \\ud83d\\ude00 €"} ]'
        ', "metadata": {"user_id":1e400}, "temperature":0.10 }'
    ).encode()
    fields = body.read(raw, anthropic.KNOWN)
    terms = Terms(model="n", bound=8000, bound_fields=(), bound_write="", ask_usage=True)
    written = body.write(fields, MESSAGES.prepare(fields, MESSAGES.read_ask(fields, None), terms))
    after = body.read(written, anthropic.KNOWN)
    assert list(after) == list(fields)
    assert bytes(after["model"]) == b'"n"'
    assert bytes(after["max_tokens"]) == b"8000"
    kept = [name for name in fields if name not in ("model", "max_tokens")]
    assert [bytes(after[name]) for name in kept] == [bytes(fields[name]) for name in kept]


# -- counting tokens


def test_counting_tokens_is_free() -> None:
    raw = {"messages": [user({"type": "image", "source": PNG})], "tools": [SEARCH], "metadata": {"user_id": "u"}}
    asked = ask_of({"stream": True, **raw}, COUNT_TOKENS)
    assert asked == Ask(model="m", output=False, tags={"metadata.user_id": "u", "end_user": "u"})
    assert (COUNT_TOKENS.free, MESSAGES.free) == (True, False)
    fields = body.read(json.dumps({"model": "m", **raw}).encode(), COUNT_TOKENS.known)
    terms = Terms(model="n", bound=7, bound_fields=(), bound_write="max_tokens", ask_usage=True)
    assert COUNT_TOKENS.prepare(fields, asked, terms) == {"model": "n"}
    assert COUNT_TOKENS.hear(b'{"input_tokens":2095}') == Heard(usage=Usage(meters=Meters()), finished=True)
    assert COUNT_TOKENS.hear(b"<html>") is None
    assert refused({"model": 7}, COUNT_TOKENS).param == "model"


# -- what a usage says


def counts(read: int, wrote: int, **more: Any) -> dict[str, Any]:
    return {"input_tokens": read, "output_tokens": wrote, **more}


MESSAGE = counts(500, 90, type="message", cache_creation_input_tokens=0, cache_read_input_tokens=0)
COMPACTION = counts(
    180_000,
    3_500,
    type="compaction",
    cache_creation_input_tokens=100,
    cache_creation={"ephemeral_5m_input_tokens": 40, "ephemeral_1h_input_tokens": 60},
    cache_read_input_tokens=7,
)
ADVISOR = counts(800, 200, type="advisor_message", model="dear")

# usage → meters, and what they come to at PRICE in nano-USD, worked out by hand:
# 3,000 for a token of input, 300 read from the cache, 3,750 or 6,000 written to it, 15,000 of output, 10^7 a search
TABLE: dict[str, tuple[dict[str, Any], dict[str, int], int]] = {
    "plain": (counts(10, 5), {"input": 10, "output": 5}, 105_000),
    "an explicit zero": (counts(0, 0), {}, 0),
    "nulls": (
        counts(10, 5, cache_creation=None, cache_read_input_tokens=None, server_tool_use=None, iterations=None),
        {"input": 10, "output": 5},
        105_000,
    ),
    "all of the reference": (
        {
            "input_tokens": 500,
            "cache_creation_input_tokens": 100,
            "cache_read_input_tokens": 2000,
            "cache_creation": {"ephemeral_5m_input_tokens": 40, "ephemeral_1h_input_tokens": 60},
            "output_tokens": 97,
            "output_tokens_details": {"thinking_tokens": 30},
            "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 9},
            "service_tier": "standard",
            "speed": "standard",
            "inference_geo": "us",
        },
        {
            "input": 500,
            "cached_input": 2000,
            "cache_write": 40,
            "cache_write_1h": 60,
            "output": 67,
            "reasoning": 30,
            "searches": 2,
        },
        1_500_000 + 600_000 + 150_000 + 360_000 + 1_455_000 + 20_000_000,
    ),
    "cache writes without their lifetime": (
        counts(10, 5, cache_creation_input_tokens=100),
        {"input": 10, "cache_write": 100, "output": 5},
        105_000 + 375_000,
    ),
    "cache writes by lifetime only": (
        counts(10, 5, cache_creation={"ephemeral_5m_input_tokens": 40, "ephemeral_1h_input_tokens": 60}),
        {"input": 10, "cache_write": 40, "cache_write_1h": 60, "output": 5},
        105_000 + 150_000 + 360_000,
    ),
    "more cache writes than lifetimes": (
        counts(
            10,
            5,
            cache_creation_input_tokens=130,
            cache_creation={"ephemeral_5m_input_tokens": 40, "ephemeral_1h_input_tokens": 60},
        ),
        {"input": 10, "cache_write": 70, "cache_write_1h": 60, "output": 5},
        105_000 + 262_500 + 360_000,
    ),
    "more cache writes than lifetimes, of which all are an hour": (
        counts(
            10,
            5,
            cache_creation_input_tokens=130,
            cache_creation={"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 100},
        ),
        {"input": 10, "cache_write_1h": 130, "output": 5},
        105_000 + 780_000,
    ),
    "fewer cache writes than lifetimes": (
        counts(10, 5, cache_creation_input_tokens=10, cache_creation={"ephemeral_5m_input_tokens": 40}),
        {"input": 10, "cache_write": 40, "output": 5},
        105_000 + 150_000,
    ),
    "more thinking than output": (
        counts(10, 5, output_tokens_details={"thinking_tokens": 9}),
        {"input": 10, "reasoning": 5},
        105_000,
    ),
    "floats": (counts(10, 5) | {"input_tokens": 10.0}, {"input": 10, "output": 5}, 105_000),
    "details that are none": (
        counts(10, 5, cache_creation=[4], output_tokens_details="?", server_tool_use=3, iterations={"a": 1}),
        {"input": 10, "output": 5},
        105_000,
    ),
    "one pass": (counts(500, 90, iterations=[MESSAGE]), {"input": 500, "output": 90}, 2_850_000),
    "compaction is not in the totals": (
        counts(500, 90, iterations=[COMPACTION, MESSAGE, 7]),
        {
            "input": 180_500,
            "cached_input": 7,
            "cache_write": 40,
            "cache_write_1h": 60,
            "output": 3_590,
        },
        541_500_000 + 2_100 + 150_000 + 360_000 + 53_850_000,
    ),
    "compaction, and totals that could hold it": (
        counts(500_000, 9_000, iterations=[COMPACTION, counts(500_000, 9_000, type="message")]),
        {
            "input": 680_000,
            "cached_input": 7,
            "cache_write": 40,
            "cache_write_1h": 60,
            "output": 12_500,
        },
        2_040_000_000 + 2_100 + 150_000 + 360_000 + 187_500_000,
    ),
    "an advisor beside the totals": (
        counts(500, 90, iterations=[MESSAGE, ADVISOR]),
        {"input": 1300, "output": 290},
        8_250_000,
    ),
    "an advisor in the totals": (
        counts(1300, 290, iterations=[MESSAGE, ADVISOR]),
        {"input": 1300, "output": 290},
        8_250_000,
    ),
    "an advisor alone": (counts(1300, 290, iterations=[ADVISOR]), {"input": 2100, "output": 490}, 13_650_000),
    "a pass of a kind that nobody knows": (
        counts(500, 90, iterations=[MESSAGE, counts(1, 1, type="next")]),
        {"input": 501, "output": 91},
        2_868_000,
    ),
    "a fallback is in the totals": (
        counts(500, 90, iterations=[counts(500, 90, type="fallback_message", model="other")]),
        {"input": 500, "output": 90},
        2_850_000,
    ),
    "a pass without a kind": (counts(500, 90, iterations=[counts(500, 90)]), {"input": 500, "output": 90}, 2_850_000),
}


@pytest.mark.parametrize("case", TABLE)
def test_usage(case: str) -> None:
    usage, expected, nano = TABLE[case]
    found = read_usage(usage)
    assert found is not None
    assert found.meters == Meters(**expected, calls=1)
    assert (found.input_missing, found.output_missing, found.cost_nano) == (False, False, None)
    assert amount(found.meters, PRICE) == nano


@pytest.mark.parametrize(
    ("usage", "expected", "input_missing", "output_missing"),
    [
        ({"input_tokens": 10}, {"input": 10}, False, True),
        ({"input_tokens": 10, "output_tokens": None}, {"input": 10}, False, True),
        ({"input_tokens": 10, "output_tokens": -1}, {"input": 10}, False, True),
        ({"input_tokens": 10, "output_tokens": 10**15}, {"input": 10}, False, True),
        ({"output_tokens": 5}, {"output": 5}, True, False),
        ({"output_tokens": 5, "input_tokens": True}, {"output": 5}, True, False),
        ({"output_tokens": 5, "cache_read_input_tokens": 7}, {"output": 5, "cached_input": 7}, False, False),
        (
            {"output_tokens": 5, "cache_creation": {"ephemeral_1h_input_tokens": 7}},
            {"output": 5, "cache_write_1h": 7},
            False,
            False,
        ),
        ({"output_tokens": 5, "cache_creation": {"ephemeral_1h_input_tokens": None}}, {"output": 5}, True, False),
    ],
)
def test_what_isnt_told_is_to_be_estimated(
    usage: dict[str, Any], expected: dict[str, int], input_missing: bool, output_missing: bool
) -> None:
    found = read_usage(usage)
    assert found == Usage(
        meters=Meters(**expected, calls=1), input_missing=input_missing, output_missing=output_missing
    )


@pytest.mark.parametrize(
    "usage", [{}, {"input_tokens": None}, {"input_tokens": "?", "output_tokens": "?"}, {"prompt_tokens": 5}]
)
def test_a_usage_that_counts_nothing_is_missing(usage: dict[str, Any]) -> None:
    assert read_usage(usage) is None
    assert hear(json.dumps({"content": [{"type": "text", "text": "hello"}], "usage": usage}).encode()) == Heard(
        text_bytes=5, finished=True
    )


@pytest.mark.parametrize(
    ("usage", "tier"),
    [
        ({}, None),
        ({"service_tier": "priority", "speed": None}, "priority"),
        ({"service_tier": "standard", "speed": "fast"}, "fast"),
        ({"service_tier": 7}, None),
    ],
)
def test_the_tier_that_was_used(usage: dict[str, Any], tier: str | None) -> None:
    heard = hear(json.dumps({"usage": counts(1, 1, **usage)}).encode())
    assert heard is not None
    assert heard.usage is not None
    assert (heard.service_tier, heard.usage.service_tier) == (tier, tier)


number = st.integers(-2, 300) | st.none() | st.floats(0, 300) | st.just("x")
a_pass = st.fixed_dictionaries(
    {},
    optional={
        "input_tokens": number,
        "output_tokens": number,
        "cache_read_input_tokens": number,
        "cache_creation_input_tokens": number,
        "cache_creation": st.dictionaries(
            st.sampled_from(["ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens"]), number
        ),
        "output_tokens_details": st.dictionaries(st.just("thinking_tokens"), number),
        "type": st.sampled_from(["message", "compaction", "advisor_message", "fallback_message", "next"]),
    },
)


@given(a_pass, st.lists(a_pass, max_size=4))
def test_meters_are_never_less_than_what_is_told(usage: dict[str, Any], passes: list[dict[str, Any]]) -> None:
    found = read_usage({**usage, "iterations": passes})
    if found is None:
        return

    def told(name: str, *among: dict[str, Any]) -> int:
        values = [one.get(name) for one in among]
        return sum(int(value) for value in values if isinstance(value, int | float) and value >= 0)

    meters = found.meters
    assert all(getattr(meters, name) >= 0 for name in meters.__struct_fields__)
    compactions = [one for one in passes if one.get("type") == "compaction"]
    assert meters.output_tokens >= told("output_tokens", usage, *compactions)
    parts = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    assert meters.input_tokens >= sum(told(name, usage, *compactions) for name in parts)
    if not passes:
        assert meters.output_tokens == told("output_tokens", usage)
        assert (meters.input, meters.cached_input) == (told(parts[0], usage), told(parts[1], usage))


# -- a whole answer


def heard_of(**answer: Any) -> Heard:
    found = hear(json.dumps(answer).encode())
    assert found is not None
    return found


def test_a_whole_answer() -> None:
    heard = heard_of(
        id="msg_1",
        type="message",
        role="assistant",
        content=[{"type": "text", "text": "héllo"}],
        stop_reason="end_turn",
        usage=counts(10, 5, service_tier="standard"),
    )
    usage = Usage(meters=Meters(input=10, output=5, calls=1), service_tier="standard")
    made = ("msg_1",)
    assert heard == Heard(usage=usage, text_bytes=6, counted_bytes=6, finished=True, service_tier="standard", made=made)


@pytest.mark.parametrize(
    ("block", "text", "reasoned"),
    [
        ({"type": "text", "text": "abc"}, 3, False),
        ({"type": "text", "text": None}, 0, False),
        ({"type": "text", "text": "abc", "citations": [{"cited_text": "not billed"}]}, 3, False),
        ({"type": "thinking", "thinking": "hmm", "signature": "x" * 99}, 3, True),
        ({"type": "thinking", "thinking": "", "signature": "x" * 99}, 0, True),
        ({"type": "redacted_thinking", "data": "x" * 99}, 0, True),
        ({"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": 1}}, 8, False),
        ({"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}, 1, False),
        ({"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"q": "x"}}, 19, False),
        ({"type": "web_search_tool_result", "content": [{"title": "not written"}]}, 0, False),
        ({"type": "compaction", "content": "the story so far"}, 16, False),
        ({"type": "a new kind", "text": "abc"}, 3, False),
        ({}, 0, False),
    ],
)
def test_text_that_went_by(block: dict[str, Any], text: int, reasoned: bool) -> None:
    assert heard_of(content=[block, block]) == Heard(text_bytes=2 * text, reasoned=reasoned, finished=True)


def test_thinking_that_is_only_counted() -> None:
    assert heard_of(usage=counts(1, 9, output_tokens_details={"thinking_tokens": 4})).reasoned


def test_an_error_with_200() -> None:
    heard = heard_of(type="error", error={"type": "overloaded_error", "message": "Overloaded"})
    assert (heard.failed, heard.usage, heard.text_bytes) == (True, None, 0)


@pytest.mark.parametrize("raw", [b"", b"<html>", b"{", b"[]", b"null", b'"x"', b"data: {}\n\n", b"[" * 100_000])
def test_what_is_no_answer(raw: bytes) -> None:
    assert hear(raw) is None


@pytest.mark.parametrize(
    "odd",
    [
        b'"x":"\\ud83d"',
        b'"x":"\xff"',
        b'"x":NaN',
        b'"content":{}',
        b'"content":"text"',
        b'"content":[[]]',
        b'"message":7',
        b'"message":{"content":7}',
        b'"delta":7,"message":' + b'{"message":' * 900 + b"1" + b"}" * 900,
        b'"delta":[]',
        b'"content_block":"x"',
        b'"content":[{"type":"text","text":"\\ud800"}]',
        b'"content":[{"type":"tool_use","input":' + b"[" * 900 + b"]" * 900 + b"}]",
    ],
)
def test_an_odd_answer_is_billed_all_the_same(odd: bytes) -> None:
    usage = Usage(meters=Meters(input=5, output=1, calls=1))
    raw = b'{%b,"usage":{"input_tokens":5,"output_tokens":1}}' % odd
    heard = hear(raw)
    assert heard is not None
    assert heard.usage == usage
    event = b'event: message_delta\ndata: {"type":"message_delta",' + raw[1:] + b"\n\n"
    assert through(event) == (event, heard_in(event))
    assert heard_in(event).usage == usage


# -- a stream


def event(kind: str, **fields: Any) -> bytes:
    return sse(json.dumps({"type": kind, **fields}, ensure_ascii=False), event=kind)


def started(**usage: Any) -> bytes:
    head = {"id": "msg_1", "type": "message", "role": "assistant", "stop_reason": None}
    return event("message_start", message={**head, "content": [], "usage": usage})


def block(kind: str, **fields: Any) -> bytes:
    return event("content_block_start", index=0, content_block={"type": kind, **fields})


def delta(kind: str, **fields: Any) -> bytes:
    return event("content_block_delta", index=0, delta={"type": kind, **fields})


def ended(reason: str | None = "end_turn", **usage: Any) -> bytes:
    return event("message_delta", delta={"stop_reason": reason, "stop_sequence": None}, usage=usage or None)


START = started(
    input_tokens=10,
    cache_creation_input_tokens=100,
    cache_read_input_tokens=7,
    cache_creation={"ephemeral_5m_input_tokens": 40, "ephemeral_1h_input_tokens": 60},
    output_tokens=3,
    service_tier="standard",
)
READ = Meters(input=10, cached_input=7, cache_write=40, cache_write_1h=60, calls=1)
PING = event("ping")
OPEN = block("text", text="")
TEXT = delta("text_delta", text="héllo 🙂")
CLOSE = event("content_block_stop", index=0)
END = ended(output_tokens=15)
STOP = event("message_stop")
THINK = block("thinking", thinking="", signature="") + delta("thinking_delta", thinking="hmm")
SIGN = delta("signature_delta", signature="x" * 99)
REDACTED = block("redacted_thinking", data="x" * 99)
TOOL = block("tool_use", id="toolu_1", name="weather", input={})
ARGUMENTS = delta("input_json_delta", partial_json="") + delta("input_json_delta", partial_json='{"city": "Köln"}')
CITED = delta("citations_delta", citation={"type": "char_location", "cited_text": "not billed"})
FOUND = block("web_search_tool_result", tool_use_id="srvtoolu_1", content=[{"title": "not written"}])
NEW = event("something_new", text="not known")
ERROR = event("error", error={"type": "overloaded_error", "message": "Overloaded"}, request_id="req_1")


def through(data: bytes, *, hide: bool = False) -> tuple[bytes, Heard]:
    stream = anthropic.stream(hide)
    return stream.feed(data) + stream.finish(), stream.heard


def heard_in(*events: bytes) -> Heard:
    return through(b"".join(events))[1]


def told(meters: Meters, **more: Any) -> Usage:
    return Usage(meters=meters, **more)


def with_output(output: int, **more: int) -> Meters:
    return Meters(input=10, cached_input=7, cache_write=40, cache_write_1h=60, output=output, calls=1, **more)


STREAMS: dict[str, tuple[list[bytes], Heard]] = {
    "plain": (
        [START, PING, OPEN, TEXT, TEXT, CLOSE, END, STOP],
        Heard(
            usage=told(with_output(15), service_tier="standard"),
            text_bytes=22,
            counted_bytes=22,
            finished=True,
            done=True,
            service_tier="standard",
        ),
    ),
    "thinking": (
        [
            *(START, THINK, SIGN, CLOSE, REDACTED, CLOSE, OPEN, TEXT, CLOSE),
            *(ended(output_tokens=15, output_tokens_details={"thinking_tokens": 9}), STOP),
        ],
        Heard(
            usage=told(with_output(6, reasoning=9), service_tier="standard"),
            text_bytes=14,
            counted_bytes=14,
            reasoned=True,
            finished=True,
            done=True,
            service_tier="standard",
        ),
    ),
    "a tool": (
        [START, TOOL, ARGUMENTS, CLOSE, ended("tool_use", output_tokens=15), STOP],
        Heard(
            usage=told(with_output(15), service_tier="standard"),
            text_bytes=24,
            counted_bytes=24,
            finished=True,
            done=True,
            service_tier="standard",
        ),
    ),
    "a search": (
        [
            started(input_tokens=10, output_tokens=3),
            block("server_tool_use", id="srvtoolu_1", name="web_search", input={}),
            *(ARGUMENTS, CLOSE, FOUND, CLOSE, OPEN, CITED, TEXT, CLOSE),
            ended(
                input_tokens=900,
                cache_creation_input_tokens=0,
                cache_read_input_tokens=50,
                output_tokens=15,
                server_tool_use={"web_search_requests": 2},
            ),
            STOP,
        ],
        Heard(
            usage=told(Meters(input=900, cached_input=50, output=15, searches=2, calls=1)),
            text_bytes=38,
            counted_bytes=38,
            finished=True,
            done=True,
        ),
    ),
    "a count on the way": (
        [START, OPEN, TEXT, ended(None, output_tokens=6), TEXT],
        Heard(
            usage=told(with_output(6), service_tier="standard"),
            text_bytes=22,
            counted_bytes=11,
            service_tier="standard",
        ),
    ),
    "counts replace, and never add": (
        [START, OPEN, TEXT, ended(None, output_tokens=6), ended(output_tokens=15, input_tokens=20), STOP],
        Heard(
            usage=told(
                Meters(input=20, cached_input=7, cache_write=40, cache_write_1h=60, output=15, calls=1),
                service_tier="standard",
            ),
            text_bytes=11,
            counted_bytes=11,
            finished=True,
            done=True,
            service_tier="standard",
        ),
    ),
    "nulls and zeros at the end": (
        [
            START,
            ended(
                input_tokens=0,
                cache_creation_input_tokens=0,
                cache_read_input_tokens=None,
                cache_creation={"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
                output_tokens=0,
                service_tier=None,
            ),
            STOP,
        ],
        Heard(
            usage=told(READ, service_tier="standard"),
            finished=True,
            done=True,
            service_tier="standard",
        ),
    ),
    "all of it at the end": (
        [started(input_tokens=0, output_tokens=0), OPEN, TEXT, ended(input_tokens=10, output_tokens=15), STOP],
        Heard(
            usage=told(Meters(input=10, output=15, calls=1)),
            text_bytes=11,
            counted_bytes=11,
            finished=True,
            done=True,
        ),
    ),
    "compaction": (
        [
            started(input_tokens=500, output_tokens=1),
            block("compaction", content=None),
            delta("compaction_delta", content="the story so far", encrypted_content="x" * 99),
            ended(input_tokens=500, output_tokens=90, iterations=[COMPACTION, MESSAGE]),
            STOP,
        ],
        Heard(
            usage=told(Meters(input=180_500, cached_input=7, cache_write=40, cache_write_1h=60, output=3_590, calls=1)),
            text_bytes=16,
            counted_bytes=16,
            finished=True,
            done=True,
        ),
    ),
    "fast": (
        [started(input_tokens=10, output_tokens=1, speed="fast", service_tier="standard"), END, STOP],
        Heard(
            usage=told(Meters(input=10, output=15, calls=1), service_tier="fast"),
            finished=True,
            done=True,
            service_tier="fast",
        ),
    ),
    "broken off after its start": (
        [START],
        Heard(usage=told(READ, output_missing=True, service_tier="standard"), service_tier="standard"),
    ),
    "broken off in its text": (
        [START, OPEN, TEXT],
        Heard(usage=told(READ, output_missing=True, service_tier="standard"), text_bytes=11, service_tier="standard"),
    ),
    "an end without a count": (
        [START, OPEN, TEXT, ended(), STOP],
        Heard(
            usage=told(READ, output_missing=True, service_tier="standard"),
            text_bytes=11,
            finished=True,
            done=True,
            service_tier="standard",
        ),
    ),
    "no usage at all": (
        [event("message_start", message={"id": "msg_1"}), OPEN, TEXT, ended(), STOP],
        Heard(text_bytes=11, finished=True, done=True),
    ),
    "an error": (
        [START, OPEN, TEXT, ERROR],
        Heard(
            usage=told(READ, output_missing=True, service_tier="standard"),
            text_bytes=11,
            failed=True,
            service_tier="standard",
        ),
    ),
    "an error at once": ([ERROR], Heard(failed=True)),
    "an error without a type": ([sse({"error": {"message": "x"}})], Heard(failed=True)),
    "what nobody knows yet": (
        [PING, NEW, block("new", data="x"), delta("new_delta", data="x"), b": hello\n\n", b"event: x\ndata: y\n\n"],
        Heard(),
    ),
    "events without a type in their data": (
        [b'event: content_block_delta\ndata: {"delta":{"text":"abc"}}\n\n', b"event: message_stop\ndata: {}\n\n"],
        Heard(text_bytes=3, finished=True, done=True),
    ),
    "events without a name": (
        [b'data: {"type":"content_block_delta","delta":{"type":"text_delta","text":"abc"}}\n\n'],
        Heard(text_bytes=3),
    ),
    "a message that begins with text": (
        [event("message_start", message={"content": [{"type": "text", "text": "abc"}], "usage": {"input_tokens": 5}})],
        Heard(usage=told(Meters(input=5, calls=1), output_missing=True), text_bytes=3),
    ),
}


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_streams(name: str, line_end: bytes) -> None:
    """Whole, byte by byte, and cut in two at every place: inside a character, and inside a line end."""
    events, heard = STREAMS[name]
    whole = b"".join(events).replace(b"\n", line_end)
    heard.made = ("msg_1",) if b"msg_1" in whole else ()
    assert through(whole) == (whole, heard)
    assert through(whole, hide=True) == (whole, heard)
    stream = anthropic.stream(False)
    assert b"".join(stream.feed(bytes([byte])) for byte in whole) + stream.finish() == whole
    assert stream.heard == heard
    for cut in range(0, len(whole), max(len(whole) // 200, 1)):
        stream = anthropic.stream(False)
        assert stream.feed(whole[:cut]) == whole[:cut]
        assert stream.feed(whole[cut:]) + stream.finish() == whole[cut:]
        assert stream.heard == heard


def test_a_character_over_two_pieces() -> None:
    cut = TEXT.index("🙂".encode()) + 2
    stream = anthropic.stream(False)
    assert stream.feed(TEXT[:cut]) == TEXT[:cut]
    assert stream.feed(TEXT[cut:]) == TEXT[cut:]
    assert stream.heard.text_bytes == 11


def test_the_end_is_heard_also_without_its_blank_line() -> None:
    stream = anthropic.stream(False)
    stream.feed(START + TEXT + END.rstrip())
    assert stream.break_off() == b"\n\n"
    assert stream.heard.usage == told(with_output(15), service_tier="standard")


def test_what_a_stream_said_is_not_kept_for_the_next() -> None:
    heard_in(START, END)
    assert heard_in(ended(output_tokens=5)).usage == told(Meters(output=5, calls=1), input_missing=True)


EVENTS = [START, PING, OPEN, TEXT, CLOSE, END, STOP, THINK, SIGN, REDACTED, TOOL, ARGUMENTS, CITED, FOUND, NEW, ERROR]
streams = st.lists(st.sampled_from([*EVENTS, b": ping\n\n", b"data: not json\n\n", b"data: [1]\n\n"]), max_size=12)


@given(streams, st.sampled_from([b"\n", b"\r\n", b"\r"]), st.data())
def test_bytes_out_are_bytes_in_however_they_are_cut(events: list[bytes], line_end: bytes, data: st.DataObject) -> None:
    whole = b"".join(events).replace(b"\n", line_end)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=20)))
    stream = anthropic.stream(False)
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert [stream.feed(piece) for piece in pieces] == pieces
    assert stream.finish() == b""
    assert stream.heard == heard_in(*events)


@given(st.binary(max_size=200), st.sampled_from([b"data: ", b"event: message_delta\ndata: ", b""]))
def test_no_bytes_are_too_odd(noise: bytes, before: bytes) -> None:
    whole = before + noise
    assert through(whole)[0] == whole
    hear(noise)


@given(json_values, json_values, st.sampled_from(["message_start", "message_delta", "content_block_delta", "error"]))
def test_no_event_is_too_odd(one: Any, other: Any, kind: str) -> None:
    whole = event(
        kind, message={"usage": one, "content": other}, usage=other, delta=one, content_block=other, error=one
    )
    assert through(whole)[0] == whole
    hear(json.dumps({"content": one, "usage": other}).encode())


def test_a_price_for_the_whole_story() -> None:
    """A broken stream is exact in its input; the finished one in all."""
    broken, finished = heard_in(START, OPEN, TEXT), heard_in(START, OPEN, TEXT, END, STOP)
    assert broken.usage is not None
    assert finished.usage is not None
    read = 30_000 + 2_100 + 150_000 + 360_000
    assert amount(broken.usage.meters, PRICE) == read
    assert amount(finished.usage.meters, PRICE) == read + 225_000
    assert amount(finished.usage.meters, Price(calls=10**15)) == 10**9


# -- errors


@pytest.mark.parametrize("code", CODES)
def test_every_error_is_shaped_as_anthropic_does(code: str) -> None:
    error = LlmgateError('it is "so"', code=code, param="model")
    shaped = json.loads(error_body(error, "req_1"))
    assert shaped == {
        "type": "error",
        "error": {"type": shaped["error"]["type"], "message": 'it is "so"'},
        "request_id": "req_1",
    }
    assert error_event(error, "req_1") == b"event: error\ndata: " + error_body(error, "req_1") + b"\n\n"
    assert heard_in(error_event(error, "req_1")) == Heard(failed=True)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("invalid_request", "invalid_request_error"),
        ("missing_key", "authentication_error"),
        ("insufficient_credits", "billing_error"),
        ("model_not_allowed", "permission_error"),
        ("model_not_found", "not_found_error"),
        ("method_not_allowed", "invalid_request_error"),
        ("request_timeout", "invalid_request_error"),
        ("conflict", "conflict_error"),
        ("request_too_large", "request_too_large"),
        ("unsupported_encoding", "invalid_request_error"),
        ("credits_held", "rate_limit_error"),
        ("internal_error", "api_error"),
        ("upstream_error", "api_error"),
        ("upstream_unavailable", "overloaded_error"),
        ("upstream_timeout", "timeout_error"),
    ],
)
def test_types_are_those_that_anthropic_uses(code: str, kind: str) -> None:
    assert json.loads(error_body(LlmgateError("x", code=code)))["error"]["type"] == kind
