"""Every shape in which an upstream tells what was used, through the whole gateway: exact meters, exact nano-USD, and
the bytes as they came.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pytest

from llmgate.types import METERS
from tests.replay import Replay, Step, body_answer, json_answer, sse, sse_answer
from tests.served import DONE, PROMPT, SECRET, Person, Served, answers, chunk_of, completion, usage_of, words

RATES = {
    "input": 1_000,
    "cached_input": 100,
    "cache_write": 1_250,
    "cache_write_1h": 2_000,
    "audio_input": 3_000,
    "image_input": 1_500,
    "output": 5_000,
    "reasoning": 7_000,
    "audio_output": 11_000,
    "images": 40_000_000,
    "milliseconds": 100,
    "searches": 10_000_000,
    "characters": 15_000,
    "calls": 1_000_000,
}
"""What one of each meter costs in nano-USD: no two the same, so that no meter can be taken for another."""

PRICE = {
    "input": 1,
    "cached_input": 0.1,
    "cache_write": 1.25,
    "cache_write_1h": 2,
    "audio_input": 3,
    "image_input": 1.5,
    "output": 5,
    "reasoning": 7,
    "audio_output": 11,
    "per_image": 0.04,
    "per_second": 0.0001,
    "per_search": 0.01,
    "per_1k_characters": 0.015,
    "per_request": 0.001,
}
"""The same as an admin writes it."""

SAID = [{"role": "user", "content": PROMPT}]
CHAT = {"model": "zeta", "messages": SAID}
STREAMED = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
MESSAGE = {**CHAT, "max_tokens": 5000}
RESPONSE = {"model": "zeta", "input": PROMPT}
CONTENTS = {"contents": [{"role": "user", "parts": [{"text": PROMPT}]}]}

FORM = {"content-type": "multipart/form-data; boundary=b"}


def multipart(**fields: str) -> bytes:
    parts = [f'--b\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{text}\r\n' for name, text in fields.items()]
    file = '--b\r\ncontent-disposition: form-data; name="file"; filename="a.mp3"\r\n\r\n' + "x" * 16_000 + "\r\n"
    return "".join([*parts, file, "--b--\r\n"]).encode()


class Shape(NamedTuple):
    """A request, its answer, and what the books must say of it."""

    path: str
    body: Mapping[str, Any] | bytes
    answer: Sequence[Step]
    meters: dict[str, int]
    charge_nano: int | None = None
    """Where it isn't what the meters come to."""


def plain(path: str, body: Mapping[str, Any] | bytes, answer: Mapping[str, Any], **meters: int) -> Shape:
    return Shape(path, body, json_answer(answer), meters)


def streamed(path: str, body: Mapping[str, Any], *events: bytes, **meters: int) -> Shape:
    return Shape(path, body, sse_answer(*events), meters)


def free(path: str, body: Mapping[str, Any], answer: Mapping[str, Any], **meters: int) -> Shape:
    return Shape(path, body, json_answer(answer), meters, charge_nano=0)


def named(*payloads: dict[str, Any]) -> list[bytes]:
    """Events whose name is their type, as Anthropic and the responses API have them."""
    return [sse(payload, payload["type"]) for payload in payloads]


# ── format openai ─────────────────────────────────────────────────────────────────────────────────────────────────────

CHAT_USAGE = usage_of(
    1200,
    340,
    prompt_tokens_details={"cached_tokens": 1024, "cache_write_tokens": 50, "audio_tokens": 6, "image_tokens": 20},
    completion_tokens_details={"reasoning_tokens": 200, "audio_tokens": 40, "rejected_prediction_tokens": 10},
)
CHAT_METERS = {
    "input": 100,
    "cached_input": 1024,
    "cache_write": 50,
    "audio_input": 6,
    "image_input": 20,
    "output": 100,
    "reasoning": 200,
    "audio_output": 40,
    "calls": 1,
}
NOTHING = usage_of(0, 0)
AZURE_FIRST = {"id": "", "object": "", "created": 0, "model": "", "choices": [], "usage": None}

OF_CHATS = {
    "chat": plain("/v1/chat/completions", CHAT, completion(usage=CHAT_USAGE), **CHAT_METERS),
    "chat, totals only (ollama)": plain(
        "/v1/chat/completions", CHAT, completion(usage=usage_of(10, 5)), input=10, output=5, calls=1
    ),
    "chat, nulls in the details": plain(
        "/v1/chat/completions",
        CHAT,
        completion(usage=usage_of(10, 5, prompt_tokens_details=None, completion_tokens_details={"audio_tokens": None})),
        input=10,
        output=5,
        calls=1,
    ),
    "chat, reasoning beside the output (xAI)": plain(
        "/v1/chat/completions",
        CHAT,
        completion(
            usage={
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "total_tokens": 35,
                "completion_tokens_details": {"reasoning_tokens": 20},
            }
        ),
        input=10,
        output=5,
        reasoning=20,
        calls=1,
    ),
    "chat, an explicit zero": plain("/v1/chat/completions", CHAT, completion(usage=NOTHING), calls=1),
    "chat, streamed": streamed(
        "/v1/chat/completions",
        STREAMED,
        *words("hel", "lo"),
        sse(chunk_of(choices=[], usage=CHAT_USAGE)),
        DONE,
        **CHAT_METERS,
    ),
    "chat, streamed by azure": streamed(
        "/v1/chat/completions",
        STREAMED,
        sse({**AZURE_FIRST, "prompt_filter_results": [{"prompt_index": 0}]}),
        *words("hello"),
        sse(chunk_of(choices=[], usage=usage_of(10, 5))),
        DONE,
        input=10,
        output=5,
        calls=1,
    ),
    "chat, usage in every chunk (vllm)": streamed(
        "/v1/chat/completions",
        STREAMED,
        sse(chunk_of("hel", usage=usage_of(10, 1))),
        sse(chunk_of("lo", usage=usage_of(10, 2))),
        sse(chunk_of(finish="stop", usage=usage_of(10, 3))),
        sse(chunk_of(choices=[], usage=usage_of(10, 5))),
        DONE,
        input=10,
        output=5,
        calls=1,
    ),
    "chat, comments between the events (openrouter)": streamed(
        "/v1/chat/completions",
        STREAMED,
        b": OPENROUTER PROCESSING\n\n",
        *words("hello"),
        sse(chunk_of("", usage=usage_of(10, 5))),
        DONE,
        input=10,
        output=5,
        calls=1,
    ),
    "chat, timings beside the usage (llama.cpp)": streamed(
        "/v1/chat/completions",
        STREAMED,
        *words("hello"),
        sse(chunk_of(choices=[], usage=usage_of(10, 5), timings={"cache_n": 4, "prompt_n": 6, "predicted_n": 5})),
        DONE,
        input=10,
        output=5,
        calls=1,
    ),
    "completions": plain(
        "/v1/completions",
        {"model": "zeta", "prompt": [PROMPT, PROMPT], "n": 2, "max_tokens": 9},
        {"object": "text_completion", "choices": [{"text": "hi"}], "usage": usage_of(20, 30)},
        input=20,
        output=30,
        calls=1,
    ),
    "completions, streamed with zeros on the way (ollama)": streamed(
        "/v1/completions",
        {"model": "zeta", "prompt": PROMPT, "stream": True, "stream_options": {"include_usage": True}},
        sse({"choices": [{"index": 0, "text": "hi", "finish_reason": None}], "usage": NOTHING}),
        sse({"choices": [{"index": 0, "text": "", "finish_reason": "stop"}], "usage": NOTHING}),
        sse({"choices": [], "usage": usage_of(7, 3)}),
        DONE,
        input=7,
        output=3,
        calls=1,
    ),
    "embeddings": plain(
        "/v1/embeddings",
        {"model": "zeta", "input": ["a", "b"]},
        {"object": "list", "data": [], "model": "zeta", "usage": {"prompt_tokens": 8, "total_tokens": 8}},
        input=8,
        calls=1,
    ),
}

RESPONSE_USAGE = {
    "input_tokens": 900,
    "input_tokens_details": {
        "cached_tokens": 512,
        "cache_write_tokens": 100,
        "cache_write_tokens_details": {"ttl_30m_tokens": 70, "ttl_12h_tokens": 30},
    },
    "output_tokens": 150,
    "output_tokens_details": {"reasoning_tokens": 64},
    "total_tokens": 1050,
}
RESPONSE_METERS = {
    "input": 288,
    "cached_input": 512,
    "cache_write": 70,
    "cache_write_1h": 30,
    "output": 86,
    "reasoning": 64,
    "calls": 1,
}


def response(number: int, status: str = "completed", **more: Any) -> dict[str, Any]:
    return {"id": f"resp_shape{number}", "object": "response", "status": status, "output": [], **more}


def response_events(end: str, **more: Any) -> list[bytes]:
    began = response(9, "in_progress", usage=None)
    return named(
        {"type": "response.created", "sequence_number": 0, "response": began},
        {"type": "response.output_text.delta", "sequence_number": 1, "output_index": 0, "delta": "hello"},
        {"type": f"response.{end}", "sequence_number": 2, "response": response(9, end, **more)},
    )


OF_RESPONSES = {
    "a response": plain("/v1/responses", RESPONSE, response(1, usage=RESPONSE_USAGE), **RESPONSE_METERS),
    "a response that searched and drew": plain(
        "/v1/responses",
        {**RESPONSE, "tools": [{"type": "web_search"}, {"type": "image_generation"}]},
        response(
            2,
            output=[{"type": "image_generation_call", "id": "ig_1", "result": "aGk="}],
            usage=RESPONSE_USAGE,
            tool_usage={
                "web_search": {"num_requests": 2},
                "image_gen": {
                    "input_tokens": 70,
                    "input_tokens_details": {"image_tokens": 50, "text_tokens": 20},
                    "output_tokens": 300,
                    "total_tokens": 370,
                },
            },
        ),
        **{**RESPONSE_METERS, "input": 308, "image_input": 50, "audio_output": 300, "searches": 2, "images": 1},
    ),
    "a response, streamed": streamed(
        "/v1/responses",
        {**RESPONSE, "stream": True},
        *response_events("completed", usage=RESPONSE_USAGE),
        **RESPONSE_METERS,
    ),
    "a response, streamed and cut short": streamed(
        "/v1/responses",
        {**RESPONSE, "stream": True},
        *response_events("incomplete", usage=RESPONSE_USAGE, incomplete_details={"reason": "max_output_tokens"}),
        **RESPONSE_METERS,
    ),
    "tokens of a response, counted": free(
        "/v1/responses/input_tokens", RESPONSE, {"object": "response.input_tokens", "input_tokens": 77}
    ),
}

IMAGE_USAGE = {
    "input_tokens": 60,
    "input_tokens_details": {"image_tokens": 50, "text_tokens": 10},
    "output_tokens": 1056,
    "total_tokens": 1116,
}
DRAW = {"model": "zeta", "prompt": PROMPT, "n": 2}
PICTURE = {"b64_json": "aGk="}

OF_MEDIA = {
    "pictures": plain(
        "/v1/images/generations",
        DRAW,
        {"created": 1, "data": [PICTURE, PICTURE], "usage": IMAGE_USAGE},
        input=10,
        image_input=50,
        audio_output=1056,
        images=2,
        calls=1,
    ),
    "pictures with words among them": plain(
        "/v1/images/generations",
        DRAW,
        {
            "created": 1,
            "data": [PICTURE],
            "usage": {**IMAGE_USAGE, "output_tokens_details": {"image_tokens": 1000, "text_tokens": 56}},
        },
        input=10,
        image_input=50,
        output=56,
        audio_output=1000,
        images=1,
        calls=1,
    ),
    "a picture, streamed": streamed(
        "/v1/images/generations",
        {"model": "zeta", "prompt": PROMPT, "stream": True, "partial_images": 1},
        *named(
            {"type": "image_generation.partial_image", "partial_image_index": 0, **PICTURE},
            {"type": "image_generation.completed", "usage": IMAGE_USAGE, **PICTURE},
        ),
        input=10,
        image_input=50,
        audio_output=1056,
        images=1,
        calls=1,
    ),
    "a transcript by tokens": plain(
        "/v1/audio/transcriptions",
        multipart(model="zeta"),
        {
            "text": "hello",
            "usage": {
                "type": "tokens",
                "input_tokens": 30,
                "input_token_details": {"audio_tokens": 28, "text_tokens": 2},
                "output_tokens": 4,
                "total_tokens": 34,
            },
        },
        # How long it lasts isn't told: 16 kB are likely 2 s, for a price by the second.
        input=2,
        audio_input=28,
        output=4,
        milliseconds=2000,
        calls=1,
    ),
    "a transcript by the second": plain(
        "/v1/audio/transcriptions",
        multipart(model="zeta"),
        {"text": "hello", "usage": {"type": "duration", "seconds": 12.3}},
        milliseconds=12_300,
        calls=1,
    ),
    "a translation": plain(
        "/v1/audio/translations",
        multipart(model="zeta", response_format="verbose_json"),
        {"task": "translate", "duration": 8.5, "text": "hello"},
        milliseconds=8_500,
        calls=1,
    ),
    "subtitles": Shape(
        "/v1/audio/transcriptions",
        multipart(model="zeta", response_format="srt"),
        body_answer(b"1\n00:00:00,000 --> 00:01:02,500\nhello\n\n", headers=[("content-type", "text/plain")]),
        {"milliseconds": 62_500, "calls": 1},
    ),
    "a transcript, streamed": Shape(
        "/v1/audio/transcriptions",
        multipart(model="zeta", stream="true"),
        sse_answer(
            sse({"type": "transcript.text.delta", "delta": "hello"}),
            sse(
                {
                    "type": "transcript.text.done",
                    "text": "hello",
                    "usage": {"type": "tokens", "input_tokens": 14, "output_tokens": 5, "total_tokens": 19},
                }
            ),
        ),
        {"input": 14, "output": 5, "milliseconds": 2000, "calls": 1},
    ),
    "speech, streamed": streamed(
        "/v1/audio/speech",
        {"model": "zeta", "input": "x" * 20, "voice": "alloy", "stream_format": "sse"},
        sse({"type": "speech.audio.delta", "audio": "aGk="}),
        sse(
            {
                "type": "speech.audio.done",
                "usage": {"input_tokens": 6, "output_tokens": 80, "total_tokens": 86},
            }
        ),
        input=6,
        audio_output=80,
        characters=20,
        calls=1,
    ),
    "moderations": free(
        "/v1/moderations", {"model": "zeta", "input": PROMPT}, {"id": "modr-1", "results": []}, calls=1
    ),
    "rerank by searches (cohere)": plain(
        "/v1/rerank",
        {"model": "zeta", "query": PROMPT, "documents": ["a", "b"]},
        {"id": "1", "results": [], "meta": {"billed_units": {"search_units": 3}}},
        searches=3,
        calls=1,
    ),
    "rerank by tokens (jina)": plain(
        "/v1/rerank",
        {"model": "zeta", "query": PROMPT, "documents": ["a", "b"]},
        {"model": "zeta", "results": [], "usage": {"total_tokens": 40}},
        input=40,
        searches=1,
        calls=1,
    ),
}

ROUTER_USAGE = usage_of(
    194,
    20,
    cost=0.00095,
    is_byok=False,
    prompt_tokens_details={"cached_tokens": 0, "cache_write_tokens": 100, "video_tokens": 0},
    cost_details={"upstream_inference_cost": None},
)
BYOK_USAGE = {**ROUTER_USAGE, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.0019000005}}
ROUTED = {**CHAT, "model": "router/any/model"}
ROUTED_METERS = {"input": 94, "cache_write": 100, "output": 20, "calls": 1}

OF_ROUTERS = {
    "a cost that is told": Shape(
        "/v1/chat/completions", ROUTED, json_answer(completion(usage=ROUTER_USAGE)), ROUTED_METERS, charge_nano=950_000
    ),
    "a cost that is told of the user's own key": Shape(
        "/v1/chat/completions",
        ROUTED,
        json_answer(completion(usage=BYOK_USAGE)),
        ROUTED_METERS,
        charge_nano=2_850_001,
    ),
}

# ── format anthropic ──────────────────────────────────────────────────────────────────────────────────────────────────

MESSAGE_USAGE = {
    "input_tokens": 500,
    "cache_creation_input_tokens": 100,
    "cache_read_input_tokens": 2000,
    "cache_creation": {"ephemeral_5m_input_tokens": 40, "ephemeral_1h_input_tokens": 60},
    "output_tokens": 97,
    "output_tokens_details": {"thinking_tokens": 30},
    "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 0},
    "service_tier": "standard",
}
MESSAGE_METERS = {
    "input": 500,
    "cached_input": 2000,
    "cache_write": 40,
    "cache_write_1h": 60,
    "output": 67,
    "reasoning": 30,
    "searches": 2,
    "calls": 1,
}


def message(usage: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    content = [{"type": "text", "text": "hello"}]
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "zeta", "content": content}
    return {**head, "stop_reason": "end_turn", "stop_sequence": None, "usage": dict(usage), **more}


def message_events(begin: Mapping[str, Any], *ends: Mapping[str, Any]) -> list[bytes]:
    """A streamed message with what its start and each of its deltas say of the usage."""
    return named(
        {"type": "message_start", "message": {**message(begin), "content": [], "stop_reason": None}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hello"}},
        {"type": "content_block_stop", "index": 0},
        *({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": dict(usage)} for usage in ends),
        {"type": "message_stop"},
    )


BEGIN = {**MESSAGE_USAGE, "output_tokens": 1, "output_tokens_details": None, "server_tool_use": None}
COMPACTED = [
    {"type": "compaction", "input_tokens": 700, "output_tokens": 80},
    {"type": "message", "input_tokens": 20, "output_tokens": 9},
]

OF_MESSAGES = {
    "a message": plain("/v1/messages", MESSAGE, message(MESSAGE_USAGE), **MESSAGE_METERS),
    "a message, the least that is told (ollama)": plain(
        "/v1/messages",
        MESSAGE,
        message({"input_tokens": 10, "output_tokens": 5}),
        input=10,
        output=5,
        calls=1,
    ),
    "a message after a compaction": plain(
        "/v1/messages",
        MESSAGE,
        message({"input_tokens": 20, "output_tokens": 9, "iterations": COMPACTED}),
        input=720,
        output=89,
        calls=1,
    ),
    "a message, streamed": streamed(
        "/v1/messages",
        {**MESSAGE, "stream": True},
        *message_events(
            BEGIN,
            {"output_tokens": 40, "input_tokens": None},
            {
                "output_tokens": 97,
                "output_tokens_details": {"thinking_tokens": 30},
                "server_tool_use": {"web_search_requests": 2},
            },
        ),
        **MESSAGE_METERS,
    ),
    "a message, streamed, its input grown": streamed(
        "/v1/messages",
        {**MESSAGE, "stream": True},
        *message_events(
            {"input_tokens": 10, "output_tokens": 1},
            {"input_tokens": 4010, "cache_read_input_tokens": 25, "output_tokens": 50},
        ),
        input=4010,
        cached_input=25,
        output=50,
        calls=1,
    ),
    "tokens of a message, counted": free("/v1/messages/count_tokens", CHAT, {"input_tokens": 77}),
}

# ── format gemini ─────────────────────────────────────────────────────────────────────────────────────────────────────

GEMINI_USAGE = {
    "promptTokenCount": 1000,
    "cachedContentTokenCount": 200,
    "candidatesTokenCount": 100,
    "thoughtsTokenCount": 50,
    "toolUsePromptTokenCount": 30,
    "totalTokenCount": 1180,
    "trafficType": "ON_DEMAND",
    "promptTokensDetails": [
        {"modality": "TEXT", "tokenCount": 880},
        {"modality": "IMAGE", "tokenCount": 100},
        {"modality": "AUDIO", "tokenCount": 20},
    ],
    "candidatesTokensDetails": [{"modality": "TEXT", "tokenCount": 100}],
}
GEMINI_METERS = {
    "input": 710,
    "cached_input": 200,
    "audio_input": 20,
    "image_input": 100,
    "output": 100,
    "reasoning": 50,
    "calls": 1,
}
GENERATE = "/v1beta/models/zeta:generateContent"
STREAM = "/v1beta/models/zeta:streamGenerateContent"


def generated(usage: Mapping[str, Any] | None, finish: str | None = "STOP", **more: Any) -> dict[str, Any]:
    candidate: dict[str, Any] = {"index": 0, "content": {"role": "model", "parts": [{"text": "hello"}]}}
    if finish:
        candidate["finishReason"] = finish
    told = {} if usage is None else {"usageMetadata": dict(usage)}
    return {"candidates": [candidate], **told, "modelVersion": "gemini-2.5-flash", "responseId": "abc", **more}


GROWING = [
    generated({"promptTokenCount": 1000, "totalTokenCount": 1000}, None),
    generated({**GEMINI_USAGE, "candidatesTokenCount": 3, "thoughtsTokenCount": 50, "totalTokenCount": 1083}, None),
    generated(GEMINI_USAGE),
]
ARRAY = b"[" + b"\n,\n".join(json.dumps(piece).encode() for piece in GROWING) + b"\n]"

OF_GEMINI = {
    "generated": plain(GENERATE, CONTENTS, generated(GEMINI_USAGE), **GEMINI_METERS),
    "generated, after two searches for one prompt": plain(
        GENERATE,
        {**CONTENTS, "tools": [{"google_search": {}}]},
        {
            **generated(GEMINI_USAGE),
            "candidates": [
                {
                    "content": {"parts": [{"text": "hello"}]},
                    "finishReason": "STOP",
                    "groundingMetadata": {"webSearchQueries": ["a", "b"]},
                }
            ],
        },
        **{**GEMINI_METERS, "searches": 1},
    ),
    "a prompt that is refused": plain(
        GENERATE,
        CONTENTS,
        {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 9, "totalTokenCount": 9}},
        input=9,
        calls=1,
    ),
    "generated, as events": streamed(f"{STREAM}?alt=sse", CONTENTS, *map(sse, GROWING), **GEMINI_METERS),
    "generated, as an array": Shape(
        STREAM,
        CONTENTS,
        body_answer(ARRAY, headers=[("content-type", "application/json; charset=UTF-8")]),
        GEMINI_METERS,
    ),
    "embedded": plain(
        "/v1beta/models/zeta:embedContent",
        {"content": {"parts": [{"text": PROMPT}]}},
        {"embedding": {"values": [0.5]}, "usageMetadata": {"promptTokenCount": 12}},
        input=12,
        calls=1,
    ),
    "embedded, several": plain(
        "/v1beta/models/zeta:batchEmbedContents",
        {"requests": [{"model": "models/zeta", "content": {"parts": [{"text": PROMPT}]}}]},
        {"embeddings": [{"values": [0.5]}], "usageMetadata": {"promptTokenCount": 24, "totalTokenCount": 24}},
        input=24,
        calls=1,
    ),
    "tokens of contents, counted": free("/v1beta/models/zeta:countTokens", CONTENTS, {"totalTokens": 77}),
}

SHAPES: dict[str, Shape] = OF_CHATS | OF_RESPONSES | OF_MEDIA | OF_ROUTERS | OF_MESSAGES | OF_GEMINI


@pytest.fixture(scope="module")
def up() -> Iterator[Replay]:
    with Replay() as up:
        yield up


@pytest.fixture(scope="module")
def served(up: Replay, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    each = {"base_url": up.url, "api_key": SECRET, "price": PRICE}
    config = {
        "upstreams": {
            "o": {**each, "base_url": up.url + "/v1"},
            "a": {**each, "format": "anthropic", "auth": "header:x-api-key"},
            "g": {**each, "format": "gemini", "auth": "header:x-goog-api-key"},
            "router": {"base_url": up.url + "/v1", "api_key": SECRET, "preset": "openrouter", "cost": PRICE},
        },
        "models": {"zeta": {"routes": [{"upstream": name} for name in "oag"]}},
    }
    with Served(tmp_path_factory.mktemp("shapes"), config) as served:
        yield served


@pytest.fixture(scope="module")
def alice(served: Served) -> Person:
    """Metered: what can't be quoted is for such accounts only, and nothing of a body is changed."""
    return served.person()


def body_of(steps: Sequence[Step]) -> bytes:
    """What a client gets of a whole answer that is passed on as it came."""
    head, *rest = steps
    assert isinstance(head, bytes)
    if not rest:
        return head.partition(b"\r\n\r\n")[2]
    return b"".join(step.partition(b"\r\n")[2][:-2] for step in rest if isinstance(step, bytes))


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape(served: Served, up: Replay, alice: Person, name: str) -> None:
    shape = SHAPES[name]
    up.requests.clear()
    up.handler = answers(shape.answer)
    before = len(served.rows(alice))
    headers = FORM if isinstance(shape.body, bytes) else {}
    answer = served.post(alice, shape.body, path=shape.path, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.content == body_of(shape.answer)
    row = served.settled(alice, before + 1)[-1]
    assert {meter: row[meter] for meter in METERS if row[meter]} == shape.meters
    charge = sum(RATES[meter] * count for meter, count in shape.meters.items())
    assert row["charge_nano"] == (charge if shape.charge_nano is None else shape.charge_nano)
    assert (row["status"], row["source"], row["http_status"]) == ("ok", "upstream", 200)
    assert row["cost_nano"] == row["charge_nano"]
    (request,) = up.requests
    sent = shape.body if isinstance(shape.body, bytes) else json.dumps(shape.body).encode()
    if "router/" not in str(shape.body):
        assert request.body == sent


def test_speech_is_sound(served: Served, up: Replay, alice: Person) -> None:
    """Nothing in it tells what it cost: its characters are exact, its tokens are estimated."""
    sound = bytes(range(256)) * 100
    up.handler = answers(body_answer(sound, headers=[("content-type", "audio/mpeg")]))
    before = len(served.rows(alice))
    body = {"model": "zeta", "input": "x" * 20, "voice": "alloy"}
    answer = served.post(alice, body, path="/v1/audio/speech")
    assert (answer.content, answer.headers["content-type"]) == (sound, "audio/mpeg")
    row = served.settled(alice, before + 1)[-1]
    assert {meter: row[meter] for meter in METERS if row[meter]} == {
        "input": 11,
        "audio_output": 40,
        "characters": 20,
        "calls": 1,
    }
    assert row["charge_nano"] == 11 * 1_000 + 40 * 11_000 + 20 * 15_000 + 1_000_000
    assert row["source"] == "estimated"


def test_pictures_by_the_piece(served: Served, up: Replay, alice: Person) -> None:
    """Without a usage it is the pictures that count; what their tokens come to is estimated."""
    up.handler = answers(json_answer({"created": 1, "data": [PICTURE, PICTURE]}))
    before = len(served.rows(alice))
    assert served.post(alice, DRAW, path="/v1/images/generations").status_code == 200
    row = served.settled(alice, before + 1)[-1]
    assert (row["images"], row["source"]) == (2, "estimated")
