"""The format `gemini`, pure: what is asked, what must be changed, what an answer used, in both framings of a stream."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmgate.errors import CODES, LlmgateError, Refusal
from llmgate.pricing import Price, amount
from llmgate.types import Ask, Meters, Usage
from llmgate.wire import body, gemini
from llmgate.wire.endpoint import Endpoint, Terms
from llmgate.wire.gemini import (
    BATCH_EMBED,
    COUNT,
    EMBED,
    GENERATE,
    IMAGE_TOKENS,
    STREAM,
    ElementReader,
    GeminiStream,
    error_body,
    error_event,
    hear,
    read_usage,
)
from llmgate.wire.heard import Heard
from tests.replay import sse

# -- what a request asks for


def ask_of(raw: dict[str, Any] | bytes, endpoint: Endpoint = GENERATE, model: str | None = "m") -> Ask:
    content = raw if isinstance(raw, bytes) else json.dumps(raw).encode()
    return endpoint.read_ask(body.read(content, endpoint.known), model)


def refused(raw: dict[str, Any] | bytes, endpoint: Endpoint = GENERATE, model: str | None = "m") -> Refusal:
    with pytest.raises(Refusal) as caught:
        ask_of(raw, endpoint, model)
    assert caught.value.code == "invalid_request"
    return caught.value


def user(*parts: Any) -> dict[str, Any]:
    return {"contents": [{"role": "user", "parts": list(parts)}]}


def test_the_least_that_can_be_asked() -> None:
    assert ask_of(b'{"contents":[]}') == Ask(model="m")
    assert ask_of(b'{"contents":[]}', STREAM) == Ask(model="m", stream=True)


ALL = {
    "contents": [{"role": "user", "parts": [{"text": "héllo"}]}, {"role": "model", "parts": [{"text": "hi"}]}],
    "systemInstruction": {"parts": [{"text": "abc"}]},
    "tools": [{"functionDeclarations": [{"name": "f"}]}],
    "toolConfig": {"functionCallingConfig": {"mode": "ANY"}},
    "generationConfig": {
        "temperature": 0.5,
        "maxOutputTokens": 100,
        "candidateCount": 3,
        "thinkingConfig": {"thinkingBudget": 50},
        "responseModalities": ["TEXT"],
    },
    "serviceTier": "flex",
    "labels": {"job": "42", "number": 7},
}
SNAKE = {
    "contents": ALL["contents"],
    "system_instruction": {"parts": [{"text": "abc"}]},
    "tools": [{"functionDeclarations": [{"name": "f"}]}],
    "tool_config": {"functionCallingConfig": {"mode": "ANY"}},
    "generation_config": {
        "temperature": 0.5,
        "max_output_tokens": 100,
        "candidate_count": 3,
        "thinking_config": {"thinking_budget": 50},
        "response_modalities": ["TEXT"],
    },
    "service_tier": "flex",
    "labels": {"job": "42", "number": 7},
}


@pytest.mark.parametrize("raw", [ALL, SNAKE])
def test_all_that_is_read_in_either_spelling(raw: dict[str, Any]) -> None:
    written = len(json.dumps(ALL["tools"])) + len(json.dumps(ALL["toolConfig"]))
    assert ask_of(raw) == Ask(
        model="m",
        text_bytes=11 + written,
        messages=3,
        max_output=100,
        choices=3,
        service_tier="flex",
        reasons=True,
        tags={"metadata.job": "42"},
    )


def test_null_is_the_same_as_absent() -> None:
    names = GENERATE.known - {"tools", "toolConfig"} - {name for name in GENERATE.known if "_" in name}
    assert ask_of(dict.fromkeys(names)) == ask_of({})
    config = dict.fromkeys(gemini._CONFIG)
    assert ask_of({"generationConfig": config}) == ask_of({})
    assert ask_of({"requests": None}, BATCH_EMBED) == ask_of({}, BATCH_EMBED)


@pytest.mark.parametrize(
    "model", [None, "", "..%2f..%2fother", "a/../b", "..", "a b", "a?b", "a#b", "a\nb", "ä", "%2e", "x" * 257]
)
@pytest.mark.parametrize("endpoint", [GENERATE, STREAM, EMBED, BATCH_EMBED, COUNT])
def test_a_model_that_no_path_may_name(endpoint: Endpoint, model: str | None) -> None:
    assert refused({}, endpoint, model).param == "model"


@pytest.mark.parametrize(
    ("endpoint", "around"),
    [
        (GENERATE, lambda model: {"model": model}),
        (STREAM, lambda model: {"model": model}),
        (EMBED, lambda model: {"model": model}),
        (BATCH_EMBED, lambda model: {"model": model}),
        (BATCH_EMBED, lambda model: {"requests": [{"model": "m"}, {"model": model}]}),
        (COUNT, lambda model: {"model": model}),
        (COUNT, lambda model: {"generateContentRequest": {"model": model}}),
        (COUNT, lambda model: {"generate_content_request": {"model": model}}),
    ],
)
def test_a_body_may_name_no_other_model_than_its_path(endpoint: Endpoint, around: Any) -> None:
    assert ask_of(around("m"), endpoint).model == "m"
    assert ask_of(around("models/m"), endpoint).model == "m"
    assert ask_of(around(None), endpoint).model == "m"
    for other in ("dear", "models/dear", "models/models/m", "", 7, ["m"], "M"):
        assert refused(around(other), endpoint).param == "model"


@pytest.mark.parametrize(
    ("part", "text", "media", "hidden"),
    [
        ({"text": "äöü"}, 6, 0, False),
        ({"text": "abc", "thought": True, "thoughtSignature": "c2ln"}, 7, 0, False),
        ({"inlineData": {"mimeType": "image/png", "data": "x" * 9000}}, 0, IMAGE_TOKENS, False),
        ({"inline_data": {"mime_type": "image/png", "data": "x" * 9000}}, 0, IMAGE_TOKENS, False),
        ({"inlineData": {"mimeType": "text/csv", "data": "x" * 90}}, 90, 0, False),
        ({"inlineData": {"mimeType": "audio/flac", "data": "x" * 900}}, 0, 4, True),
        ({"inlineData": {"mimeType": "video/mp4", "data": "x"}}, 0, 1, True),
        ({"inlineData": {"mimeType": "application/pdf", "data": "x"}}, 0, 1, True),
        ({"inlineData": {"mimeType": "image/png", "mime_type": "audio/wav", "data": "x"}}, 0, 1, True),
        ({"inlineData": {"mimeType": 7, "data": "x"}}, 0, 1, True),
        ({"inlineData": {"data": "xyz"}}, 3, 0, False),
        ({"fileData": {"mimeType": "image/png", "fileUri": "https://example.com/" + "x" * 99}}, 0, 0, True),
        ({"file_data": {"mime_type": "video/mp4", "file_uri": "https://youtu.be/x"}}, 0, 0, True),
        ({"functionCall": {"name": "f", "args": {"a": 1.5, "b": [True, None]}}}, 1 + 25, 0, False),
        ({"functionResponse": {"id": "1", "name": "f", "response": {"ä": "ö"}}}, 1 + 11, 0, False),
        (
            {"functionResponse": {"response": {}, "parts": [{"inlineData": {"mimeType": "image/png", "data": "x"}}]}},
            2,
            IMAGE_TOKENS,
            False,
        ),
        ({"executableCode": {"language": "", "code": "abc"}}, 3, 0, False),
        ({"aNewKind": {"deep": ["abc", {"er": "de"}]}}, 5, 0, False),
    ],
)
def test_what_a_part_weighs(part: dict[str, Any], text: int, media: int, hidden: bool) -> None:
    asked = ask_of(user(part))
    assert (asked.text_bytes, asked.media_tokens, asked.hidden_input) == (text, media, hidden)
    asked = ask_of({"systemInstruction": {"parts": part}})
    assert (asked.text_bytes, asked.media_tokens, asked.hidden_input) == (text, media, hidden)


@pytest.mark.parametrize(
    "contents", ["x" * 5, {"parts": {"text": "x" * 5}}, [{"parts": [{"text": "x" * 5}]}], ["x" * 5]]
)
def test_contents_of_whatever_shape_weigh(contents: Any) -> None:
    asked = ask_of({"contents": contents})
    assert (asked.text_bytes, asked.messages) == (5, 1)


@pytest.mark.parametrize("name", ["cachedContent", "cached_content"])
def test_what_is_cached_is_not_shown(name: str) -> None:
    assert ask_of({name: "cachedContents/abc"}).hidden_input
    assert not ask_of({name: None}).hidden_input


@pytest.mark.parametrize(
    "raw",
    [
        user({"functionCall": {"name": "f", "args": {"x" * 60 + str(n): n for n in range(20)}}}),
        user({"functionResponse": {"name": "f", "response": {"data": "x" * 1000, "mimeType": "image/png"}}}),
        user({"functionResponse": {"name": "f", "response": {"numbers": [1.25] * 300}}}),
        user({"inlineData": {"mimeType": "image/png", "data": "x", "displayName": "x" * 1000}}),
        user({"inlineData": {"mimeType": "image/" + "x" * 1000, "data": "x"}}),
        user({"fileData": {"fileUri": "x"}, "text": "x" * 1000}),
        user({"fileUri": "x", "text": "x" * 1000}),
        user({"x" * 1000: ""}),
        {"contents": [{"role": "x" * 1000}]},
        {"generationConfig": {"responseSchema": {"enum": ["x" * 1000]}}},
        {"generation_config": {"response_json_schema": {"enum": ["x" * 1000]}}},
        {"generationConfig": {"somethingNew": "x" * 1000}},
        {"toolConfig": {"functionCallingConfig": {"allowedFunctionNames": ["x" * 1000]}}},
        {"tools": [{"functionDeclarations": [{"x" * 50: 1} for _ in range(20)]}]},
    ],
)
def test_no_text_is_smuggled_past_the_count(raw: dict[str, Any]) -> None:
    assert ask_of(raw).text_bytes >= 1000


def test_plain_settings_are_no_text() -> None:
    assert (
        ask_of({"generationConfig": {"temperature": 1, "stopSequences": ["\n"], "maxOutputTokens": 9}}).text_bytes == 0
    )


def test_nesting_has_an_end() -> None:
    args = "{" + '"a":{' * 100_000 + "}" * 100_000 + "}"
    refused(f'{{"contents":[{{"parts":[{{"functionCall":{{"args":{args}}}}}]}}]}}'.encode())


# -- bounds, and two readings of one body


@pytest.mark.parametrize("name", ["maxOutputTokens", "candidateCount", "max_output_tokens", "candidate_count"])
@pytest.mark.parametrize("value", [0, -1, 1.5, 7.0, 2**31, "7", "", True, False, [], {}])
def test_a_bound_is_an_integer_of_at_least_1(name: str, value: Any) -> None:
    assert refused({"generationConfig": {name: value}}).param in ("maxOutputTokens", "candidateCount")


@pytest.mark.parametrize("config", [7, "x", [], [{}], True])
def test_settings_are_an_object(config: Any) -> None:
    assert refused({"generationConfig": config}).param == "generationConfig"
    assert refused({"generateContentRequest": config}, COUNT).param == "generateContentRequest"
    assert refused({"requests": [config]}, BATCH_EMBED).param == "requests"


@pytest.mark.parametrize(
    ("raw", "endpoint"),
    [
        (b'{"generationConfig":{"maxOutputTokens":5},"generation_config":{"maxOutputTokens":90000}}', GENERATE),
        (b'{"generation_config":{"maxOutputTokens":5},"generationConfig":null}', GENERATE),
        (b'{"generationConfig":{"maxOutputTokens":5},"generationConfig":{}}', GENERATE),
        (b'{"generationConfig":{"maxOutputTokens":5},"generation\\u0043onfig":{}}', GENERATE),
        (b'{"GENERATIONCONFIG":{"maxOutputTokens":5}}', GENERATE),
        (b'{"generationconfig":{"maxOutputTokens":5}}', GENERATE),
        (b'{"Generation_Config":{"maxOutputTokens":5}}', GENERATE),
        (b'{"generationConfig":{"maxOutputTokens":5,"maxOutputTokens":90000}}', GENERATE),
        (b'{"generationConfig":{"maxOutputTokens":5,"max_output_tokens":90000}}', GENERATE),
        (b'{"generationConfig":{"maxOutputTokens":5,"max_output_tokens":null}}', GENERATE),
        (b'{"generationConfig":{"maxOutputTokens":5,"max\\u004futputTokens":90000}}', GENERATE),
        (b'{"generationConfig":{"MAXOUTPUTTOKENS":5}}', GENERATE),
        (b'{"generationConfig":{"candidateCount":1,"candidate_count":8}}', GENERATE),
        (b'{"systemInstruction":{},"system_instruction":{}}', GENERATE),
        (b'{"cachedContent":null,"cached_content":"c"}', STREAM),
        (b'{"contents":[],"contents":[{}]}', STREAM),
        (b'{"tools":[],"tools":[{"googleSearch":{}}]}', STREAM),
        (b'{"model":"m","model":"dear"}', GENERATE),
        (b'{"requests":[{"model":"m","model":"dear"}]}', BATCH_EMBED),
        (b'{"requests":[{"embedContentConfig":{},"embed_content_config":{}}]}', BATCH_EMBED),
        (b'{"requests":[],"requests":[{}]}', BATCH_EMBED),
        (b'{"content":{},"content":{"parts":[]}}', EMBED),
        (b'{"generateContentRequest":{"model":"m"},"generate_content_request":{"model":"dear"}}', COUNT),
        (b'{"generateContentRequest":{"model":"m","model":"dear"}}', COUNT),
    ],
)
def test_what_two_readers_may_read_differently(raw: bytes, endpoint: Endpoint) -> None:
    refused(raw, endpoint)


@pytest.mark.parametrize(
    ("fields", "unquotable"),
    [
        ({"tools": None}, None),
        ({"tools": []}, None),
        ({"tools": [{"functionDeclarations": []}, {"function_declarations": []}, {"googleSearch": None}, 7]}, None),
        ({"tools": [{"googleSearch": {}}]}, "tools"),
        ({"tools": [{"google_search": {}}]}, "tools"),
        ({"tools": {"google_search_retrieval": {}}}, "tools"),
        ({"tools": [{"functionDeclarations": []}, {"urlContext": {}}]}, "tools"),
        ({"tools": [{"codeExecution": {}}]}, "tools"),
        ({"tools": [{"googleMaps": {}}]}, "tools"),
        ({"tools": [{"fileSearch": {}}]}, "tools"),
        ({"tools": [{"nextYearsTool": {}}]}, "tools"),
        ({"generationConfig": {"responseModalities": ["TEXT", "AUDIO", "text"]}}, None),
        ({"generationConfig": {"responseModalities": ["TEXT", "IMAGE"]}}, "responseModalities"),
        ({"generation_config": {"response_modalities": "VIDEO"}}, "responseModalities"),
        ({"generationConfig": {"routingConfig": {"autoMode": {}}}}, "routingConfig"),
        ({"generationConfig": {"model_selection_config": {}}}, "modelSelectionConfig"),
    ],
)
def test_what_has_no_known_bound(fields: dict[str, Any], unquotable: str | None) -> None:
    assert ask_of(fields).unquotable == unquotable


@pytest.mark.parametrize(
    ("thinking", "reasons"),
    [
        (None, False),
        ({}, False),
        ({"thinkingBudget": 0}, False),
        ({"thinking_budget": 0, "includeThoughts": False}, False),
        ({"thinkingBudget": -1}, True),
        ({"thinking_budget": 8}, True),
        ({"thinkingLevel": "LOW"}, True),
        ({"includeThoughts": True}, True),
    ],
)
def test_asking_to_reason(thinking: Any, reasons: bool) -> None:
    assert ask_of({"generationConfig": {"thinkingConfig": thinking}}).reasons is reasons


@pytest.mark.parametrize(
    ("tier", "asked"),
    [
        ("standard", None),
        ("STANDARD", None),
        ("SERVICE_TIER_UNSPECIFIED", None),
        ("", None),
        ("flex", "flex"),
        ("PRIORITY", "priority"),
        ("SERVICE_TIER_PRIORITY", "priority"),
        ("next", "next"),
    ],
)
def test_tiers_as_prices_name_them(tier: str, asked: str | None) -> None:
    assert ask_of({"serviceTier": tier}).service_tier == asked
    assert ask_of({"service_tier": tier}).service_tier == asked


def test_a_tier_is_a_word() -> None:
    assert refused({"serviceTier": 1}).param == "serviceTier"


def test_labels_are_few_and_short() -> None:
    tags = ask_of({"labels": {f"name{n}" + "x" * 600: "y" * 600 for n in range(100)}}).tags
    assert len(tags) == 32
    assert {len(text) for pair in tags.items() for text in pair} == {512}
    assert ask_of({"labels": ["x"]}).tags == {}


# -- embeddings and counts


def test_an_embedding() -> None:
    raw = {"content": {"parts": [{"text": "héllo"}]}, "title": "abc", "taskType": "RETRIEVAL_DOCUMENT"}
    assert ask_of(raw, EMBED) == Ask(model="m", text_bytes=9, inputs=1, output=False)


def test_several_embeddings() -> None:
    request = {"model": "models/m", "content": {"parts": [{"text": "héllo"}]}, "embedContentConfig": {"title": "abc"}}
    assert ask_of({"requests": [request, request]}, BATCH_EMBED) == Ask(
        model="m", text_bytes=18, inputs=2, output=False
    )
    assert refused({"requests": {}}, BATCH_EMBED).param == "requests"


def test_several_embeddings_of_what_is_not_shown_have_no_bound() -> None:
    request = {"content": {"parts": [{"fileData": {"fileUri": "x"}}]}}
    one, two = (ask_of({"requests": [request] * n}, BATCH_EMBED) for n in (1, 2))
    assert (one.hidden_input, one.unquotable) == (True, None)
    assert (two.hidden_input, two.unquotable) == (True, "requests")


def test_counting_tokens_is_free() -> None:
    assert COUNT.free
    assert not any(endpoint.free for endpoint in (GENERATE, STREAM, EMBED, BATCH_EMBED))
    assert ask_of(user({"text": "abc"}), COUNT) == Ask(model="m", output=False)
    assert COUNT.hear(b'{"totalTokens":31}') == Heard(usage=Usage(meters=Meters()), finished=True)
    assert COUNT.hear(b"<html>") is None


# -- what must be changed


def sent(raw: bytes, *, model: str = "m", bound: int | None = None, endpoint: Endpoint = GENERATE) -> bytes:
    fields = body.read(raw, endpoint.known)
    asked = endpoint.read_ask(fields, "m")
    terms = Terms(model=model, bound=bound, bound_fields=("max_tokens",), bound_write="max_tokens", ask_usage=True)
    changes = endpoint.prepare(fields, asked, terms)
    return body.write(fields, changes) if changes else raw


CONTENTS = b'"contents":[ {"parts" : [{"text":"\\u00e4 \xc3\xa4"}]} ]'


@pytest.mark.parametrize(
    ("raw", "bound", "result"),
    [
        (b"{ }", None, b"{ }"),
        (b'{ "generationConfig":{"maxOutputTokens":7}}', 7, b'{ "generationConfig":{"maxOutputTokens":7}}'),
        (b'{ "generation_config":{"max_output_tokens":5}}', 7, b'{ "generation_config":{"max_output_tokens":5}}'),
        (b"{%b}" % CONTENTS, 7, b'{%b,"generationConfig":{"maxOutputTokens":7}}' % CONTENTS),
        (b'{"generationConfig":null}', 7, b'{"generationConfig":{"maxOutputTokens":7}}'),
        (b'{"generation_config":null}', 7, b'{"generation_config":{"max_output_tokens":7}}'),
        (b'{"generationConfig":{}}', 7, b'{"generationConfig":{"maxOutputTokens":7}}'),
        (b'{"generation_config":{}}', 7, b'{"generation_config":{"max_output_tokens":7}}'),
        (
            b'{"generationConfig":{"temperature":0.10,"maxOutputTokens":9,"seed":1e2},%b}' % CONTENTS,
            7,
            b'{"generationConfig":{"temperature":0.10,"maxOutputTokens":7,"seed":1e2},%b}' % CONTENTS,
        ),
        (b'{"generationConfig":{"max_output_tokens":9}}', 7, b'{"generationConfig":{"max_output_tokens":7}}'),
        (b'{"generation_config":{"maxOutputTokens":9}}', 7, b'{"generation_config":{"maxOutputTokens":7}}'),
        (b'{"generationConfig":{"max_output_tokens":null}}', 7, b'{"generationConfig":{"max_output_tokens":7}}'),
        (
            b'{"generationConfig":{"responseSchema":{ "type" : "OBJECT" }}}',
            7,
            b'{"generationConfig":{"responseSchema":{ "type" : "OBJECT" },"maxOutputTokens":7}}',
        ),
    ],
)
def test_the_bound_is_written_in_the_bodys_own_words_and_nothing_else_is_touched(
    raw: bytes, bound: int | None, result: bytes
) -> None:
    assert sent(raw, bound=bound) == result


@pytest.mark.parametrize(
    ("endpoint", "raw", "result"),
    [
        (GENERATE, b"{ }", b"{ }"),
        (GENERATE, b'{"model":"models/m"}', b'{"model":"models/n"}'),
        (GENERATE, b'{"model":"m"}', b'{"model":"n"}'),
        (EMBED, b'{"model":"models/m","content":{ }}', b'{"model":"models/n","content":{ }}'),
        (BATCH_EMBED, b'{"requests":[{"content":{ }}]}', b'{"requests":[{"content":{ }}]}'),
        (
            BATCH_EMBED,
            b'{"requests":[{"model":"models/m","content":{ "a":1.0 }},{"content":{ }}]}',
            b'{"requests":[{"model":"models/n","content":{ "a":1.0 }},{"content":{ }}]}',
        ),
        (COUNT, b'{"contents":[ ]}', b'{"contents":[ ]}'),
        (
            COUNT,
            b'{"generateContentRequest":{"model":"models/m","contents":[ ]}}',
            b'{"generateContentRequest":{"model":"models/n","contents":[ ]}}',
        ),
        (COUNT, b'{"generate_content_request":{"model":"m"}}', b'{"generate_content_request":{"model":"n"}}'),
    ],
)
def test_the_model_is_renamed_wherever_it_is_named(endpoint: Endpoint, raw: bytes, result: bytes) -> None:
    assert sent(raw, model="n", endpoint=endpoint) == result
    assert sent(raw, model="m", endpoint=endpoint) == raw


@given(
    st.dictionaries(
        st.sampled_from(["temperature", "seed", "responseSchema", "thinkingConfig", "x"]), st.integers(0, 9)
    ),
    st.none() | st.integers(1, 20),
    st.sampled_from(["generationConfig", "generation_config"]),
    st.sampled_from(["maxOutputTokens", "max_output_tokens"]),
    st.integers(1, 20),
)
def test_what_is_sent_never_states_more_than_the_hold(
    config: dict[str, Any], stated: int | None, outer: str, inner: str, bound: int
) -> None:
    if stated is not None:
        config = config | {inner: stated}
    result = json.loads(sent(json.dumps({outer: config}).encode(), bound=bound))
    assert list(result) == [outer]
    bounds = [result[outer].pop(name) for name in ("maxOutputTokens", "max_output_tokens") if name in result[outer]]
    assert bounds == [min(bound, stated or bound)]
    config.pop(inner, None)
    assert result[outer] == config


# -- what a usage says, and what it comes to

PRICE = Price(
    input=1_000_000_000,
    cached_input=100_000_000,
    audio_input=3_000_000_000,
    image_input=1_500_000_000,
    output=10_000_000_000,
    reasoning=11_000_000_000,
    audio_output=20_000_000_000,
    searches=14_000_000_000_000,
    calls=0,
)
"""So many nano-USD each: input 1000, cached 100, audio 3000, image 1500, output 10,000, thought 11,000, speech 20,000,
a search 14,000,000."""

TABLE: dict[str, tuple[dict[str, Any], dict[str, int], int]] = {
    "plain": (
        {"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 15},
        {"input": 10, "output": 5},
        60_000,
    ),
    "an explicit zero": ({"promptTokenCount": 0, "candidatesTokenCount": 0, "totalTokenCount": 0}, {}, 0),
    "all of it": (
        {
            "promptTokenCount": 1000,
            "cachedContentTokenCount": 200,
            "candidatesTokenCount": 100,
            "thoughtsTokenCount": 50,
            "toolUsePromptTokenCount": 30,
            "totalTokenCount": 1180,
            "trafficType": "ON_DEMAND",
            "promptTokensDetails": [
                {"modality": "TEXT", "tokenCount": 500},
                {"modality": "IMAGE", "tokenCount": 100},
                {"modality": "VIDEO", "tokenCount": 70},
                {"modality": "DOCUMENT", "tokenCount": 30},
                {"modality": "AUDIO", "tokenCount": 300},
            ],
            "cacheTokensDetails": [
                {"modality": "TEXT", "tokenCount": 60},
                {"modality": "AUDIO", "tokenCount": 120},
                {"modality": "IMAGE", "tokenCount": 20},
            ],
            "candidatesTokensDetails": [
                {"modality": "TEXT", "tokenCount": 60},
                {"modality": "AUDIO", "tokenCount": 40},
            ],
            "toolUsePromptTokensDetails": [
                {"modality": "TEXT", "tokenCount": 25},
                {"modality": "IMAGE", "tokenCount": 5},
            ],
        },
        {
            "input": 465,
            "cached_input": 200,
            "audio_input": 180,
            "image_input": 185,
            "output": 60,
            "reasoning": 50,
            "audio_output": 40,
        },
        465_000 + 20_000 + 540_000 + 277_500 + 600_000 + 550_000 + 800_000,
    ),
    "cached, and no details": (
        {
            "promptTokenCount": 10,
            "cachedContentTokenCount": 8,
            "candidatesTokenCount": 5,
            "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 9}],
        },
        {"cached_input": 8, "audio_input": 2, "output": 5},
        56_800,
    ),
    "thoughts beside the candidates": (
        {"promptTokenCount": 10, "candidatesTokenCount": 50, "thoughtsTokenCount": 20, "totalTokenCount": 80},
        {"input": 10, "output": 50, "reasoning": 20},
        730_000,
    ),
    "thoughts inside the candidates": (
        {"promptTokenCount": 10, "candidatesTokenCount": 50, "thoughtsTokenCount": 20, "totalTokenCount": 60},
        {"input": 10, "output": 30, "reasoning": 20},
        530_000,
    ),
    "thoughts inside the candidates, and tools": (
        {
            "promptTokenCount": 10,
            "candidatesTokenCount": 50,
            "thoughtsTokenCount": 20,
            "toolUsePromptTokenCount": 7,
            "totalTokenCount": 67,
        },
        {"input": 17, "output": 30, "reasoning": 20},
        537_000,
    ),
    "thoughts beside the candidates, and tools that the total leaves out": (
        {
            "promptTokenCount": 10,
            "candidatesTokenCount": 50,
            "thoughtsTokenCount": 20,
            "toolUsePromptTokenCount": 20,
            "totalTokenCount": 80,
        },
        {"input": 30, "output": 50, "reasoning": 20},
        750_000,
    ),
    "thoughts, and no total to tell": (
        {"promptTokenCount": 10, "candidatesTokenCount": 50, "thoughtsTokenCount": 20},
        {"input": 10, "output": 50, "reasoning": 20},
        730_000,
    ),
    "thoughts alone": (
        {"promptTokenCount": 10, "thoughtsTokenCount": 20, "totalTokenCount": 30},
        {"input": 10, "reasoning": 20},
        230_000,
    ),
    "thoughts that only the total tells of": (
        {"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 35},
        {"input": 10, "output": 5, "reasoning": 20},
        280_000,
    ),
    "tools that only the total tells of": (
        {"promptTokenCount": 10, "candidatesTokenCount": 5, "thoughtsTokenCount": 0, "totalTokenCount": 35},
        {"input": 30, "output": 5},
        80_000,
    ),
    "a blocked prompt": ({"promptTokenCount": 10, "totalTokenCount": 10}, {"input": 10}, 10_000),
    "an embedding": (
        {"promptTokenCount": 8, "promptTokenDetails": [{"modality": "AUDIO", "tokenCount": 3}]},
        {"input": 5, "audio_input": 3},
        14_000,
    ),
    "no candidates": ({"promptTokenCount": 10, "totalTokenCount": 15}, {"input": 10, "output": 5}, 60_000),
    "no prompt": ({"candidatesTokenCount": 5, "totalTokenCount": 15}, {"input": 10, "output": 5}, 60_000),
    "only a total": ({"totalTokenCount": 15}, {"input": 15}, 15_000),
    "a total that is too small": (
        {"promptTokenCount": 10, "candidatesTokenCount": 5, "thoughtsTokenCount": 3, "totalTokenCount": 2},
        {"input": 10, "output": 5, "reasoning": 3},
        93_000,
    ),
    "floats": ({"promptTokenCount": 10.0, "candidatesTokenCount": 5.0}, {"input": 10, "output": 5}, 60_000),
    "no count of tokens at all": (
        {"promptTokenCount": 10, "candidatesTokenCount": 10**15, "thoughtsTokenCount": "5"},
        {"input": 10},
        10_000,
    ),
    "details that say more than the whole": (
        {
            "promptTokenCount": 10,
            "cachedContentTokenCount": 80,
            "candidatesTokenCount": 5,
            "toolUsePromptTokenCount": 4,
            "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 90}],
            "candidatesTokensDetails": [{"modality": "AUDIO", "tokenCount": 9}],
        },
        {"cached_input": 10, "audio_input": 4, "audio_output": 5},
        113_000,
    ),
    "details that are none": (
        {
            "promptTokenCount": 10,
            "candidatesTokenCount": 5,
            "promptTokensDetails": "?",
            "candidatesTokensDetails": [7, {"modality": "AUDIO"}, {"tokenCount": 3}, {"modality": [], "tokenCount": 3}],
            "cacheTokensDetails": {"modality": "AUDIO"},
        },
        {"input": 10, "output": 5},
        60_000,
    ),
    "an image that was made": (
        {
            "promptTokenCount": 10,
            "candidatesTokenCount": 1300,
            "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1290}],
        },
        {"input": 10, "output": 10, "audio_output": 1290},
        10_000 + 100_000 + 25_800_000,
    ),
}


@pytest.mark.parametrize("case", TABLE)
def test_usage(case: str) -> None:
    usage, expected, nano = TABLE[case]
    heard = read_usage(usage)
    assert heard is not None
    assert heard.meters == Meters(**expected, calls=1)
    assert amount(heard.meters, PRICE) == nano


@pytest.mark.parametrize(
    "usage",
    [
        {},
        {"promptTokenCount": None, "totalTokenCount": None},
        {"promptTokenCount": -1, "candidatesTokenCount": True},
        {"prompt_tokens": 10, "completion_tokens": 5},
        {"trafficType": "ON_DEMAND"},
    ],
)
def test_a_usage_that_counts_nothing_is_missing(usage: dict[str, Any]) -> None:
    assert read_usage(usage) is None


@pytest.mark.parametrize(
    ("usage", "missing"),
    [
        ({"promptTokenCount": 10}, (False, True)),
        ({"promptTokenCount": 10, "totalTokenCount": 10}, (False, True)),
        ({"promptTokenCount": 10, "totalTokenCount": 15}, (False, False)),
        ({"promptTokenCount": 10, "candidatesTokenCount": 0}, (False, False)),
        ({"promptTokenCount": 10, "thoughtsTokenCount": 3}, (False, False)),
        ({"candidatesTokenCount": 5}, (True, False)),
    ],
)
def test_what_a_usage_does_not_say(usage: dict[str, Any], missing: tuple[bool, bool]) -> None:
    found = read_usage(usage)
    assert found is not None
    assert (found.input_missing, found.output_missing) == missing


@pytest.mark.parametrize(
    ("told", "tier"),
    [
        ({}, None),
        ({"serviceTier": "standard", "trafficType": "ON_DEMAND_FLEX"}, "standard"),
        ({"serviceTier": "FLEX"}, "flex"),
        ({"serviceTier": "SERVICE_TIER_PRIORITY"}, "priority"),
        ({"trafficType": "ON_DEMAND"}, None),
        ({"trafficType": "ON_DEMAND_FLEX"}, "flex"),
        ({"trafficType": "ON_DEMAND_PRIORITY"}, "priority"),
        ({"trafficType": "PROVISIONED_THROUGHPUT"}, None),
        ({"serviceTier": 7, "trafficType": []}, None),
    ],
)
def test_the_tier_that_was_served(told: dict[str, Any], tier: str | None) -> None:
    heard = heard_of(usageMetadata={"promptTokenCount": 1, **told})
    assert heard.service_tier == tier
    assert heard.usage is not None
    assert heard.usage.service_tier == tier


counts = st.integers(-2, 300) | st.none() | st.just("x")
details = st.lists(
    st.fixed_dictionaries({"modality": st.sampled_from(["TEXT", "AUDIO", "IMAGE", "VIDEO"]), "tokenCount": counts}),
    max_size=4,
)
COUNTS = ["promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount", "toolUsePromptTokenCount"]
DETAILS = [
    "promptTokensDetails",
    "cacheTokensDetails",
    "candidatesTokensDetails",
    "toolUsePromptTokensDetails",
]
usages = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys([*COUNTS, "cachedContentTokenCount", "totalTokenCount"], counts)
    | dict.fromkeys(DETAILS, details),
)


@given(usages)
def test_meters_are_disjoint_and_none_is_negative(usage: dict[str, Any]) -> None:
    found = read_usage(usage)
    if found is None:
        return

    def number(name: str) -> int | None:
        value = usage.get(name)
        return value if isinstance(value, int) and value >= 0 else None

    meters = found.meters
    assert all(getattr(meters, name) >= 0 for name in meters.__struct_fields__)
    prompt, candidates, thoughts, tool = (number(name) for name in COUNTS)
    total = number("totalTokenCount")
    if None not in (prompt, candidates, thoughts, tool):
        assert prompt is not None
        assert tool is not None
        assert candidates is not None
        assert thoughts is not None
        assert meters.input_tokens == prompt + tool
        assert meters.output_tokens in (candidates + thoughts, candidates)
        if meters.output_tokens != candidates + thoughts:
            assert total in (prompt + candidates, prompt + candidates + tool)
    elif total is not None and total >= sum(filter(None, (prompt, candidates, thoughts, tool))):
        assert meters.input_tokens + meters.output_tokens in (total, total + (tool or 0))


# -- a whole answer


def heard_of(endpoint: Endpoint = GENERATE, **answer: Any) -> Heard:
    found = endpoint.hear(json.dumps(answer).encode())
    assert found is not None
    return found


def candidate(*parts: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"content": {"role": "model", "parts": list(parts)}, "index": 0, **more}


def test_a_whole_answer() -> None:
    heard = heard_of(
        candidates=[candidate({"text": "héllo"}, finishReason="STOP")],
        usageMetadata={"promptTokenCount": 10, "candidatesTokenCount": 5, "serviceTier": "flex"},
        modelVersion="gemini-2.5-flash",
    )
    usage = Usage(meters=Meters(input=10, output=5, calls=1), service_tier="flex")
    assert heard == Heard(usage=usage, text_bytes=6, counted_bytes=6, finished=True, service_tier="flex")


@pytest.mark.parametrize(
    ("part", "text", "reasoned"),
    [
        ({}, 0, False),
        ({"text": ""}, 0, False),
        ({"text": "abc"}, 3, False),
        ({"text": "hmm", "thought": True}, 3, True),
        ({"text": "abc", "thoughtSignature": "c2ln"}, 3, True),
        ({"functionCall": {"id": "1", "name": "f", "args": {"a": 1}}}, 8, False),
        ({"executableCode": {"code": "abc"}}, 3, False),
        ({"codeExecutionResult": {"output": "not written by the model"}}, 0, False),
        ({"inlineData": {"mimeType": "image/png", "data": "x" * 99}}, 3 * 1290, False),
        ({"inlineData": {"mimeType": "audio/pcm", "data": "x" * 5120}}, 9, False),
        ({"inlineData": "?"}, 0, False),
    ],
)
def test_text_that_went_by(part: dict[str, Any], text: int, reasoned: bool) -> None:
    heard = heard_of(candidates=[candidate(part), candidate(part)])
    assert (heard.text_bytes, heard.reasoned) == (2 * text, reasoned)


def test_thoughts_that_are_only_counted() -> None:
    assert heard_of(usageMetadata={"promptTokenCount": 1, "thoughtsTokenCount": 2}).reasoned


def test_images_are_counted_by_the_piece() -> None:
    image = {"inlineData": {"mimeType": "image/png", "data": "x"}}
    draft = image | {"thought": True}
    heard = heard_of(candidates=[candidate(draft, image, image)], usageMetadata={"promptTokenCount": 1})
    assert heard.usage is not None
    assert heard.usage.meters == Meters(input=1, images=2, calls=1)


def grounded(*queries: str, **more: Any) -> dict[str, Any]:
    return candidate({"text": "abc"}, groundingMetadata={"webSearchQueries": list(queries), **more})


@pytest.mark.parametrize(
    ("version", "candidates", "searches"),
    [
        ("gemini-3-flash-preview", [grounded("a", "b")], 2),
        ("gemini-3-flash-preview", [grounded("a", "", "a")], 1),
        ("gemini-3-flash-preview", [grounded("a"), grounded("b")], 2),
        ("gemini-3-flash-preview", [grounded("a", imageSearchQueries=["a"])], 2),
        ("gemini-3-flash-preview", [grounded(groundingChunks=[{"web": {}}, {"web": {}}])], 1),
        ("gemini-3-flash-preview", [grounded("a", groundingChunks=[{"web": {}}])], 1),
        ("gemini-3-flash-preview", [grounded(groundingChunks=[{"maps": {}}, {"maps": {}}])], 1),
        ("gemini-3-flash-preview", [grounded("a", groundingChunks=[{"maps": {}}])], 2),
        (
            "gemini-3-flash-preview",
            [grounded(retrievalQueries=["a"], groundingChunks=[{"retrievedContext": {}}, 7])],
            0,
        ),
        ("gemini-3-flash-preview", [candidate(groundingMetadata={"webSearchQueries": "?"})], 0),
        ("gemini-3-flash-preview", [candidate(groundingMetadata=[])], 0),
        ("gemini-2.5-flash", [grounded("a", "b")], 1),
        ("models/gemini-2.0-flash-001", [grounded("a", "b")], 1),
        ("gemini-1.5-pro", [grounded("a", "b", groundingChunks=[{"maps": {}}])], 2),
        ("gemini-2.5-flash", [grounded("")], 0),
        ("gemini-nano-banana-2.1", [grounded("a", "b")], 2),
        (None, [grounded("a", "b")], 2),
    ],
)
def test_searches(version: str | None, candidates: list[Any], searches: int) -> None:
    heard = heard_of(candidates=candidates, modelVersion=version, usageMetadata={"promptTokenCount": 10})
    assert heard.usage is not None
    assert heard.usage.meters == Meters(input=10, searches=searches, calls=1)
    assert amount(heard.usage.meters, PRICE) == 10_000 + searches * 14_000_000


def test_searches_without_a_usage_are_charged_all_the_same() -> None:
    heard = heard_of(candidates=[grounded("a")])
    assert heard.usage == Usage(meters=Meters(searches=1, calls=1), input_missing=True, output_missing=True)
    assert heard.counted_bytes == 0


def test_a_blocked_prompt() -> None:
    raw: dict[str, Any] = {
        "promptFeedback": {"blockReason": "SAFETY"},
        "usageMetadata": {"promptTokenCount": 4, "totalTokenCount": 4},
    }
    stream = gemini.stream(False)
    stream.feed(sse(raw))
    assert stream.heard.finished
    assert stream.heard.usage == heard_of(GENERATE, **raw).usage
    assert stream.heard.usage is not None
    assert stream.heard.usage.meters == Meters(input=4, calls=1)


def test_an_error_with_200() -> None:
    for answer in (b'{"error":{"code":503}}', b'[{"error":{"code":503}}]'):
        heard = hear(answer)
        assert heard is not None
        assert (heard.failed, heard.usage) == (True, None)


@pytest.mark.parametrize("raw", [b"", b"<html>", b"{", b"null", b'"x"', b"[1]", b"data: {}\n\n", b"[" * 100_000])
def test_what_is_no_answer(raw: bytes) -> None:
    assert hear(raw) is None


def test_embeddings_that_say_what_they_used_and_that_do_not() -> None:
    vector = {"values": [0.1, 0.2]}
    assert heard_of(EMBED, embedding=vector) == Heard(finished=True)
    assert heard_of(BATCH_EMBED, embeddings=[vector, vector]) == Heard(finished=True)
    told = Usage(meters=Meters(input=7, calls=1))
    counted = vector | {"statistics": {"tokenCount": 7, "truncated": False}}
    assert heard_of(EMBED, embedding=counted).usage == told
    assert heard_of(BATCH_EMBED, embeddings=[counted, counted]).usage == Usage(meters=Meters(input=14, calls=1))
    assert heard_of(BATCH_EMBED, embeddings=[counted, vector]).usage is None
    heard = heard_of(EMBED, embedding=vector, usageMetadata={"promptTokenCount": 7})
    assert heard.usage is not None
    assert heard.usage.meters == told.meters


ODD = [
    b'"x":"\\ud83d"',
    b'"x":"\xff"',
    b'"x":NaN',
    b'"candidates":{}',
    b'"candidates":[{"content":"text"}]',
    b'"candidates":[[]]',
    b'"candidates":[{"content":{"parts":[{"text":"\\ud800"}]}}]',
    b'"candidates":[{"content":{"parts":[{"text":7,"functionCall":{"args":[1]}}]}}]',
    b'"embedding":[1]',
]


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_answer_is_billed_all_the_same(odd: bytes) -> None:
    raw = b'{%b,"usageMetadata":{"promptTokenCount":5,"candidatesTokenCount":1}}' % odd
    usage = Usage(meters=Meters(input=5, output=1, calls=1))
    heard = hear(raw)
    assert heard is not None
    assert heard.usage == usage
    for framed in (b"data: " + raw + b"\n\n", b"[" + raw + b"]"):
        stream = gemini.stream(False)
        assert stream.feed(framed) == framed
        assert stream.heard.usage == usage


# -- streams, in both framings

FIRST = {
    "candidates": [candidate({"text": "Let me see", "thought": True})],
    "usageMetadata": {"promptTokenCount": 12, "thoughtsTokenCount": 30, "totalTokenCount": 42},
    "modelVersion": "gemini-3-flash-preview",
}
SECOND = {
    "candidates": [candidate({"text": 'He said: "}]{[", \\ and 🙂€\u2028'})],
    "usageMetadata": {
        "promptTokenCount": 12,
        "candidatesTokenCount": 9,
        "thoughtsTokenCount": 30,
        "totalTokenCount": 51,
    },
}
CALL = {"candidates": [candidate({"functionCall": {"name": "weather", "args": {"city": "Århus"}}})]}
LAST = {
    "candidates": [
        candidate(
            {"text": "", "thoughtSignature": "c2ln"},
            finishReason="STOP",
            groundingMetadata={"webSearchQueries": ["one", "two"]},
        )
    ],
    "usageMetadata": {
        "promptTokenCount": 12,
        "candidatesTokenCount": 20,
        "thoughtsTokenCount": 35,
        "totalTokenCount": 67,
        "serviceTier": "standard",
    },
}
CHUNKS = [FIRST, SECOND, CALL, LAST]
FAILURE = {"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}}

WHOLE = Heard(
    usage=Usage(
        meters=Meters(input=12, output=20, reasoning=35, searches=2, calls=1),
        service_tier="standard",
    ),
    text_bytes=10 + 33 + 7 + len('{"city":"Århus"}'.encode()),
    counted_bytes=10 + 33 + 7 + len('{"city":"Århus"}'.encode()),
    reasoned=True,
    finished=True,
    service_tier="standard",
)


def as_sse(chunks: list[Any], line_end: str = "\n") -> bytes:
    return "".join(f"data: {json.dumps(one, ensure_ascii=False)}{line_end * 2}" for one in chunks).encode()


def as_array(chunks: list[Any], *, indent: int | None = 2, between: str = "\n,\r\n", end: str = "\n]\n") -> bytes:
    return ("[" + between.join(json.dumps(one, ensure_ascii=False, indent=indent) for one in chunks) + end).encode()


FRAMED = {
    "sse": as_sse(CHUNKS),
    "sse, CRLF": as_sse(CHUNKS, "\r\n"),
    "array": as_array(CHUNKS),
    "array in one line": as_array(CHUNKS, indent=None, between=",", end="]"),
    "array, CRLF": b" \r\n" + as_array(CHUNKS).replace(b"\n", b"\r\n"),
}


def replay(pieces: list[bytes]) -> Heard:
    """Feed a stream; what comes out must be what went in, at once."""
    stream = gemini.stream(False)
    for piece in pieces:
        assert stream.feed(piece) == piece
    assert stream.finish() == b""
    assert stream.break_off() == b""
    return stream.heard


def cut(data: bytes, *places: int) -> list[bytes]:
    places = tuple(sorted(places))
    return [data[begin:end] for begin, end in zip((0, *places), (*places, len(data)), strict=True)]


@pytest.mark.parametrize("framing", FRAMED)
def test_a_stream_is_heard_alike_however_it_comes(framing: str) -> None:
    data = FRAMED[framing]
    whole = replay([data])
    whole.done = False  # told by the array's end alone
    assert whole == WHOLE
    assert whole.usage is not None
    assert amount(whole.usage.meters, PRICE) == 12_000 + 200_000 + 385_000 + 28_000_000
    assert replay([data]) == replay([data[at : at + 1] for at in range(len(data))])
    smile = data.index("🙂".encode())
    for at in (smile + 1, smile + 2, smile + 3, data.index(b"\\\\") + 1, data.index(b'\\"') + 1):
        assert replay(cut(data, at)) == replay([data])
    for at in (at for at in range(len(data)) if data[at : at + 2] == b"\r\n"):
        assert replay(cut(data, at + 1)) == replay([data])


@given(st.sampled_from(sorted(FRAMED)), st.lists(st.integers(0, 1500), max_size=8))
@example("array", [0, 0, 1, 2])
def test_bytes_out_are_bytes_in(framing: str, places: list[int]) -> None:
    data = FRAMED[framing]
    assert replay(cut(data, *(min(place, len(data)) for place in places))) == replay([data])


@pytest.mark.parametrize(
    ("chunks", "usage"),
    [
        ([FIRST], Usage(meters=Meters(input=12, reasoning=30, calls=1))),
        ([FIRST, SECOND], Usage(meters=Meters(input=12, output=9, reasoning=30, calls=1))),
        ([SECOND, FIRST], Usage(meters=Meters(input=12, reasoning=30, calls=1))),
        ([LAST, LAST], WHOLE.usage),
        ([CALL], None),
        ([SECOND, {"usageMetadata": {}}], Usage(meters=Meters(input=12, output=9, reasoning=30, calls=1))),
    ],
)
def test_the_last_usage_replaces_the_others(chunks: list[Any], usage: Usage | None) -> None:
    for data in (as_sse(chunks), as_array(chunks)):
        heard = replay([data])
        found = heard.usage
        if chunks[-1] is LAST and found is not None:
            assert usage is not None
            assert found.meters.searches == 2
        assert found == usage


def test_text_after_the_last_count_is_left_to_estimate() -> None:
    heard = replay([as_sse([SECOND, CALL])])
    assert heard.text_bytes - heard.counted_bytes == 7 + len('{"city":"Århus"}'.encode())


def test_a_first_count_of_the_prompt_alone_counts_no_text() -> None:
    first = {"candidates": [candidate({"text": "abc"})], "usageMetadata": {"promptTokenCount": 4, "totalTokenCount": 4}}
    heard = replay([as_sse([first])])
    assert (heard.text_bytes, heard.counted_bytes) == (3, 0)
    assert heard.usage is not None
    assert heard.usage.meters.input == 4


def test_searches_outlive_the_usage_that_follows() -> None:
    usage = {"usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": 2}}
    for chunks in ([{"candidates": [grounded("a")]}, usage], [usage, {"candidates": [grounded("a")]}]):
        heard = replay([as_array(chunks)])
        assert heard.usage is not None
        assert heard.usage.meters == Meters(input=1, output=2, searches=1, calls=1)


def test_an_error_in_the_stream() -> None:
    for data in (as_sse([FIRST, FAILURE]), as_array([FIRST, FAILURE]), as_sse([FIRST, [FAILURE]])):
        heard = replay([data])
        assert heard.failed
        assert heard.text_bytes == 10


def test_an_answer_that_is_no_array_after_all() -> None:
    heard = replay(cut(json.dumps(FAILURE).encode(), 9))
    assert (heard.failed, heard.done) == (True, True)


def test_an_array_that_is_read_whole() -> None:
    heard = STREAM.hear(as_array(CHUNKS))
    assert heard == WHOLE
    assert STREAM.hear(b"[]") == Heard(finished=True)


def test_a_stream_that_breaks_off() -> None:
    torn = as_sse(CHUNKS)[:-2]
    stream = gemini.stream(False)
    stream.feed(torn)
    assert stream.break_off() == b"\n\n"
    assert stream.heard == WHOLE
    stream = gemini.stream(True)
    stream.feed(as_array(CHUNKS)[:-30])
    assert stream.break_off() == b""
    assert stream.heard.usage == replay([as_array(CHUNKS[:-1])]).usage
    assert not stream.heard.done


def test_the_end_of_an_array_is_the_end() -> None:
    stream = gemini.stream(False)
    stream.feed(as_array(CHUNKS, end=""))
    assert (stream.heard.finished, stream.heard.done) == (True, False)
    stream.feed(b"]")
    assert stream.heard.done


# -- the objects of an array

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.sampled_from('ab"\\{}[],:\n🙂é\u2028')),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.sampled_from('a"\\{}[]')), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(
    st.lists(values, max_size=5),
    st.booleans(),
    st.sampled_from([None, 1]),
    st.lists(st.integers(0, 400), max_size=8),
)
@example([{"a": "\\"}, {"a": '"'}, 7, "}", [{"no": 1}], {}], False, None, [])
def test_every_object_of_an_array_comes_out(
    elements: list[Any], ascii_only: bool, indent: int | None, places: list[int]
) -> None:
    data = json.dumps(elements, ensure_ascii=ascii_only, indent=indent).encode()
    expected = [element for element in elements if isinstance(element, dict)]
    for pieces in ([data], cut(data, *(min(place, len(data)) for place in places)), [bytes([byte]) for byte in data]):
        reader = ElementReader()
        found = [json.loads(raw) for piece in pieces for raw in reader.feed(piece)]
        assert found == expected
        assert reader.ended


def test_an_object_that_is_too_large_is_passed_over() -> None:
    small, large = b'{"a":1}', b'{"a":"%b"}' % (b"x" * 100)
    data = b"[%b,%b,%b]" % (small, large, small)
    for pieces in ([data], [data[at : at + 1] for at in range(len(data))]):
        reader = ElementReader(max_element=50)
        assert [raw for piece in pieces for raw in reader.feed(piece)] == [small, small]
        assert reader.ended
    reader = ElementReader(max_element=len(large))
    assert reader.feed(data) == [small, large, small]


@given(st.binary(max_size=60).map(lambda data: data.translate(bytes.maketrans(b"\x00\x01\x02\x03", b'{}["'))))
def test_no_bytes_break_a_stream(data: bytes) -> None:
    stream = GeminiStream()
    assert stream.feed(data) == data
    assert stream.feed(data) == data
    assert stream.finish() == b""
    stream.break_off()


# -- errors


class Broken(LlmgateError):
    def __init__(self, code: str) -> None:
        super().__init__("it is 'broken'", code=code)


STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    402: "RESOURCE_EXHAUSTED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    408: "DEADLINE_EXCEEDED",
    409: "ABORTED",
    410: "INVALID_ARGUMENT",
    412: "FAILED_PRECONDITION",
    413: "INVALID_ARGUMENT",
    415: "INVALID_ARGUMENT",
    428: "FAILED_PRECONDITION",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


@pytest.mark.parametrize("code", CODES)
def test_errors_as_google_writes_them(code: str) -> None:
    status = CODES[code].http
    written = error_body(Broken(code), "req_1")
    assert json.loads(written) == {"error": {"code": status, "message": "it is 'broken'", "status": STATUSES[status]}}
    event = error_event(Broken(code), "req_1")
    assert event == b"data: " + written + b"\n\n"
    assert event.startswith(b'data: {"error":{')  # the SDK looks for an error by how a chunk begins
    assert event.count(b"\n") == 2


def test_where_it_is_served() -> None:
    assert [endpoint.path for endpoint in (GENERATE, STREAM, EMBED, BATCH_EMBED, COUNT)] == [
        "/models/{model}:generateContent",
        "/models/{model}:streamGenerateContent",
        "/models/{model}:embedContent",
        "/models/{model}:batchEmbedContents",
        "/models/{model}:countTokens",
    ]
