"""The openai SDK as it is installed, sync and async, against a real daemon: it works unchanged."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionToolParam, ChatCompletionUserMessageParam

from llmgate.store import limits
from llmgate.types import METERS
from tests.replay import HANG, RESET, Pause, Replay, body_answer, json_answer, sse, sse_answer, wait_until
from tests.served import (
    DONE,
    INPUT_NANO,
    OUTPUT_NANO,
    PROMPT,
    Person,
    Served,
    answers,
    chunk_of,
    completion,
    estimate,
    facts,
    main_upstream,
    usage_chunk,
    usage_of,
    words,
)

EXACT = 10 * INPUT_NANO + 5 * OUTPUT_NANO
OK = json_answer(completion("hello", usage=usage_of(10, 5)))
STREAM = sse_answer(*words("hel", "lo"), sse(usage_chunk(10, 5)), DONE)
MESSAGES: list[ChatCompletionUserMessageParam] = [{"role": "user", "content": PROMPT}]


@pytest.fixture(scope="module")
def upstream() -> Iterator[Replay]:
    with Replay() as up:
        yield up


@pytest.fixture
def up(upstream: Replay) -> Replay:
    upstream.requests.clear()
    upstream.handler = answers(OK)
    return upstream


@pytest.fixture(scope="module")
def served(upstream: Replay, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    config = {
        "upstreams": {
            "main": main_upstream(upstream),
            "bare": {"base_url": upstream.url + "/bare/v1", "auth": "none"},
            "sandbox": {},
        },
        "models": {
            "org/zeta:1": {"routes": [{"upstream": "main"}]},
            "zeta": {"routes": [{"upstream": "main"}]},
            "ear": {"routes": [{"upstream": "main", "model": "zeta-ear"}], "price": {"per_second": 0.0001}},
            "voice": {"routes": [{"upstream": "main", "model": "zeta-voice"}], "price": {"per_1k_characters": 0.015}},
        },
    }
    with Served(tmp_path_factory.mktemp("sdk"), config) as served:
        yield served


@pytest.fixture
def alice(served: Served) -> Person:
    return served.person(credits="1")


@pytest.fixture
def client(served: Served, alice: Person) -> Iterator[OpenAI]:
    with OpenAI(api_key=alice.key, base_url=served.url + "/v1", timeout=30) as client:
        yield client


def requests_of(served: Served, person: Person) -> int:
    """How many requests the daemon has logged for a user."""
    return served.log().count(f" {person.name} chat ")


# -- what works


def test_chat(served: Served, up: Replay, client: OpenAI, alice: Person) -> None:
    answer = client.chat.completions.create(model="main/zeta", messages=MESSAGES)
    assert answer.choices[0].message.content == "hello"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (10, 5)
    (row,) = served.settled(alice, 1)
    assert facts(row) == ("ok", "upstream", 200, EXACT)
    assert answer._request_id == row["request_id"]
    assert up.requests[0].header("x-stainless-lang") == "python"
    assert str(up.requests[0].header("user-agent")).startswith("OpenAI/Python")


def test_headers_of_an_answer(served: Served, up: Replay, client: OpenAI, alice: Person) -> None:
    raw = client.chat.completions.with_raw_response.create(model="main/zeta", messages=MESSAGES)
    assert raw.headers["x-llmgate-charge-usd"] == "0.00002"
    assert raw.headers["x-llmgate-balance-usd"] == "0.99998"
    assert raw.parse().choices[0].finish_reason == "stop"
    served.settled(alice, 1)


def test_a_stream(served: Served, up: Replay, client: OpenAI, alice: Person) -> None:
    """Its iteration ends, and a chunk without choices comes only to those who asked for it."""
    up.handler = answers(STREAM)
    chunks = list(client.chat.completions.create(model="main/zeta", messages=MESSAGES, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "hello"
    assert [chunk.usage for chunk in chunks] == [None] * 3
    chunks = list(
        client.chat.completions.create(
            model="main/zeta", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 15
    assert [facts(row) for row in served.settled(alice, 2)] == [("ok", "upstream", 200, EXACT)] * 2


def test_the_helper_for_streams(served: Served, up: Replay, client: OpenAI, alice: Person) -> None:
    up.handler = answers(STREAM)
    with client.chat.completions.stream(model="main/zeta", messages=MESSAGES) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert final.choices[0].message.content == "hello"
    assert facts(served.settled(alice, 1)[0]) == ("ok", "upstream", 200, EXACT)


def test_a_stream_that_is_left(served: Served, up: Replay, client: OpenAI, alice: Person) -> None:
    left = up.disconnects
    up.handler = answers(sse_answer(sse(chunk_of("hello")), HANG))
    with client.chat.completions.create(model="main/zeta", messages=MESSAGES, stream=True) as stream:
        for chunk in stream:
            assert chunk.choices[0].delta.content == "hello"
            break
    wait_until(lambda: up.disconnects == left + 1)
    assert facts(served.settled(alice, 1)[0]) == ("cancelled", "estimated", 200, estimate(5))


def test_the_same_connection_again(served: Served, up: Replay, client: OpenAI, alice: Person) -> None:
    """A stream read to its end gives its connection back, so that no request fails on a dead one."""
    for number in range(10):
        up.handler = answers(STREAM if number % 2 else OK)
        if number % 2:
            list(client.chat.completions.create(model="main/zeta", messages=MESSAGES, stream=True))
        else:
            client.chat.completions.create(model="main/zeta", messages=MESSAGES)
    served.settled(alice, 10)
    assert {request.header("x-stainless-retry-count") for request in up.requests} == {"0"}


def test_embeddings(served: Served, up: Replay, client: OpenAI, alice: Person) -> None:
    """The SDK asks for base64 unless told otherwise, and decodes it."""
    packed = client.embeddings.create(model="sandbox/embed", input=["hello", "world"])
    plain = client.embeddings.create(model="sandbox/embed", input=["hello", "world"], encoding_format="float")
    assert [len(item.embedding) for item in packed.data] == [8, 8]
    assert packed.data[0].embedding == pytest.approx(plain.data[0].embedding)
    assert packed.data[0].embedding != packed.data[1].embedding
    assert packed.usage.prompt_tokens == 4
    rows = served.settled(alice, 2)
    assert [(row["endpoint"], row["input"], row["charge_nano"]) for row in rows] == [("embeddings", 4, 4_000)] * 2


def test_models(served: Served, client: OpenAI) -> None:
    models = {model.id: model for model in client.models.list()}
    assert {"org/zeta:1", "zeta", "sandbox/echo"} <= models.keys()
    assert client.models.retrieve("org/zeta:1") == models["org/zeta:1"]
    assert models["zeta"].owned_by == "main"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("nonesuch")
    assert caught.value.code == "model_not_found"


def test_the_sandbox(served: Served, client: OpenAI, alice: Person) -> None:
    answer = client.chat.completions.create(model="sandbox/echo", messages=MESSAGES)
    assert answer.choices[0].message.content == PROMPT
    stream = client.chat.completions.create(model="sandbox/echo", messages=MESSAGES, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == PROMPT
    first, second = served.settled(alice, 2)
    assert first["charge_nano"] == second["charge_nano"] > 0
    assert (first["source"], second["source"]) == ("upstream", "upstream")


# -- the other paths


def meters(row: dict[str, Any]) -> dict[str, int]:
    return {meter: row[meter] for meter in METERS if row[meter]}


def test_tools(served: Served, up: Replay, client: OpenAI, alice: Person) -> None:
    call = {"index": 0, "id": "call_1", "type": "function"}
    parts = ('{"city":', ' "Köln"}')
    pieces = [{**call, "function": {"name": "weather", "arguments": part}} for part in parts]
    chunks = [chunk_of(choices=[{"index": 0, "delta": {"tool_calls": [piece]}}]) for piece in pieces]
    up.handler = answers(
        sse_answer(*map(sse, chunks), sse(chunk_of(finish="tool_calls")), sse(usage_chunk(10, 5)), DONE)
    )
    tool: ChatCompletionToolParam = {"type": "function", "function": {"name": "weather", "parameters": {}}}
    stream = client.chat.completions.create(model="main/zeta", messages=MESSAGES, tools=[tool], stream=True)
    calls = [chunk.choices[0].delta.tool_calls for chunk in stream]
    said = [call[0].function.arguments for call in calls if call and call[0].function]
    assert said == list(parts)
    assert up.requests[0].json()["tools"] == [tool]
    assert facts(served.settled(alice, 1)[0]) == ("ok", "upstream", 200, EXACT)


def test_what_was_cached_and_thought(served: Served, up: Replay, client: OpenAI, alice: Person) -> None:
    details = {
        "prompt_tokens_details": {"cached_tokens": 1024},
        "completion_tokens_details": {"reasoning_tokens": 200},
    }
    up.handler = answers(json_answer(completion("hello", usage=usage_of(1200, 340, **details))))
    answer = client.chat.completions.create(
        model="main/zeta", messages=MESSAGES, reasoning_effort="high", max_completion_tokens=1000
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens_details is not None
    assert answer.usage.completion_tokens_details.reasoning_tokens == 200
    (row,) = served.settled(alice, 1)
    assert meters(row) == {"input": 176, "cached_input": 1024, "output": 140, "reasoning": 200, "calls": 1}
    assert row["charge_nano"] == 1200 * INPUT_NANO + 340 * OUTPUT_NANO


def test_the_bytes_of_a_stream(served: Served, up: Replay, client: OpenAI, alice: Person) -> None:
    """Those that came, where the client asked for the usage itself."""
    events = [*words("hel", "lo"), sse(usage_chunk(10, 5)), DONE]
    up.handler = answers(sse_answer(*events))
    with client.chat.completions.with_streaming_response.create(
        model="main/zeta", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    ) as streamed:
        assert b"".join(streamed.iter_bytes()) == b"".join(events)
    assert facts(served.settled(alice, 1)[0]) == ("ok", "upstream", 200, EXACT)


def test_completions(served: Served, up: Replay, client: OpenAI, alice: Person) -> None:
    choice = {"index": 0, "text": "hello", "logprobs": None, "finish_reason": "stop"}
    head = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "zeta"}
    up.handler = answers(json_answer({**head, "choices": [choice], "usage": usage_of(10, 5)}))
    assert client.completions.create(model="main/zeta", prompt=PROMPT).choices[0].text == "hello"
    stream = client.completions.create(model="sandbox/echo", prompt=PROMPT, max_tokens=3, stream=True)
    assert "".join(piece.choices[0].text for piece in stream) == PROMPT[:12]
    first, second = served.settled(alice, 2)
    assert (first["endpoint"], first["charge_nano"]) == ("completions", EXACT)
    assert meters(second) == {"input": -(-len(PROMPT) // 4), "output": 3, "calls": 1}


RESPONSE = {
    "id": "resp_sdk1",
    "object": "response",
    "created_at": 1,
    "status": "completed",
    "model": "zeta",
    "output": [
        {
            "id": "msg_sdk1",
            "type": "message",
            "status": "completed",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "hello", "annotations": []}],
        }
    ],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "usage": {
        "input_tokens": 900,
        "input_tokens_details": {"cached_tokens": 512},
        "output_tokens": 150,
        "output_tokens_details": {"reasoning_tokens": 64},
        "total_tokens": 1050,
    },
}
RESPONSE_METERS = {"input": 388, "cached_input": 512, "output": 86, "reasoning": 64, "calls": 1}
RESPONSE_NANO = 900 * INPUT_NANO + 150 * OUTPUT_NANO
TOLD = [
    {
        "type": "response.created",
        "sequence_number": 0,
        "response": {**RESPONSE, "status": "in_progress", "output": [], "usage": None},
    },
    {
        "type": "response.output_text.delta",
        "sequence_number": 1,
        "item_id": "msg_sdk1",
        "output_index": 0,
        "content_index": 0,
        "delta": "hello",
        "logprobs": [],
    },
]
RESPONSE_EVENTS = [
    sse(event, str(event["type"]))
    for event in (*TOLD, {"type": "response.completed", "sequence_number": 2, "response": RESPONSE})
]


def test_responses(served: Served, up: Replay, client: OpenAI, alice: Person) -> None:
    up.handler = answers(json_answer(RESPONSE), sse_answer(*RESPONSE_EVENTS))
    assert client.responses.create(model="main/zeta", input=PROMPT).output_text == "hello"
    with client.responses.with_streaming_response.create(model="main/zeta", input=PROMPT, stream=True) as streamed:
        assert b"".join(streamed.iter_bytes()) == b"".join(RESPONSE_EVENTS)
    kinds = [event.type for event in client.responses.create(model="main/zeta", input=PROMPT, stream=True)]
    assert kinds == ["response.created", "response.output_text.delta", "response.completed"]
    rows = served.settled(alice, 3)
    assert [(meters(row), row["charge_nano"]) for row in rows] == [(RESPONSE_METERS, RESPONSE_NANO)] * 3
    assert rows[0]["endpoint"] == "responses"


def test_responses_are_for_who_made_them(served: Served, up: Replay, client: OpenAI, alice: Person) -> None:
    """All share one account at the upstream: there, an id of anybody's would be good."""
    bob = served.person()
    with OpenAI(api_key=bob.key, base_url=served.url + "/v1") as other:
        made = other.responses.create(model="sandbox/echo", input="of bob")
        again = other.responses.create(model="sandbox/echo", input="more", previous_response_id=made.id)
        assert again.previous_response_id == made.id
        other.responses.create(model="sandbox/echo", input="more", previous_response_id=again.id, stream=True).close()
    mine = client.responses.create(model="sandbox/echo", input="of bob")
    assert mine.id != made.id
    for stream in (False, True):
        for theirs in (made.id, again.id, "resp_nonesuch"):
            with pytest.raises(openai.NotFoundError) as caught:
                client.responses.create(model="main/zeta", input="x", previous_response_id=theirs, stream=stream)
            assert (caught.value.code, theirs in caught.value.message) == ("not_found", True)
    assert up.requests == []
    served.settled(alice, 1)
    served.settled(bob, 3)


COMPACTED = {
    "id": "resp_sdk7",
    "object": "response.compaction",
    "created_at": 1,
    "output": [
        {"id": "msg_sdk7", "type": "message", "role": "user", "status": "completed", "content": []},
        {"id": "cmp_sdk7", "type": "compaction", "encrypted_content": "x" * 3000},
    ],
    "usage": RESPONSE["usage"],
}


def test_a_conversation_made_shorter(served: Served, up: Replay, client: OpenAI, alice: Person) -> None:
    """Metered as a response is; but no field bounds the summary."""
    up.handler = answers(json_answer(COMPACTED))
    bob = served.person()
    with OpenAI(api_key=bob.key, base_url=f"{served.url}/v1") as other:
        made = other.responses.compact(model="zeta", input=PROMPT)
        assert (made.id, made.usage.output_tokens) == ("resp_sdk7", 150)
        assert up.requests[0].path == "/v1/responses/compact"
        assert up.requests[0].json() == {"model": "zeta", "input": PROMPT}
        (row,) = served.settled(bob, 1)
        assert (row["endpoint"], meters(row)) == ("responses_compact", RESPONSE_METERS)
        assert facts(row) == ("ok", "upstream", 200, RESPONSE_NANO)
        assert other.responses.compact(model="zeta", previous_response_id=made.id).id == made.id
    with pytest.raises(openai.BadRequestError, match="/v1/responses/compact"):
        client.responses.compact(model="zeta", input=PROMPT)
    with OpenAI(api_key=served.person().key, base_url=f"{served.url}/v1") as other, pytest.raises(openai.NotFoundError):
        other.responses.compact(model="zeta", previous_response_id=made.id)
    assert len(up.requests) == 2


def test_a_response_that_fails_in_the_middle(served: Served, up: Replay, client: OpenAI, alice: Person) -> None:
    up.handler = answers(sse_answer(*RESPONSE_EVENTS[:2], Pause(0.1), RESET, end=False))
    got = []
    with pytest.raises(openai.APIError) as caught:
        got += [event.type for event in client.responses.create(model="main/zeta", input=PROMPT, stream=True)]
    assert caught.value.code == "upstream_error"
    (row,) = served.settled(alice, 1)
    assert (row["status"], row["source"], row["output"]) == ("error", "estimated", 2)


def test_images(served: Served, up: Replay, client: OpenAI, alice: Person) -> None:
    usage = {
        "input_tokens": 60,
        "input_tokens_details": {"image_tokens": 50, "text_tokens": 10},
        "output_tokens": 1056,
        "total_tokens": 1116,
    }
    up.handler = answers(json_answer({"created": 1, "data": [{"b64_json": "aGk="}], "usage": usage}))
    drawn = client.images.generate(model="main/zeta", prompt=PROMPT, size="1024x1024", quality="low")
    edited = client.images.edit(model="main/zeta", prompt=PROMPT, image=("a.png", b"\x89PNG"), quality="low")
    assert drawn.data is not None
    assert edited.data is not None
    assert (drawn.data[0].b64_json, edited.data[0].b64_json) == ("aGk=", "aGk=")
    for row, endpoint in zip(served.settled(alice, 2), ("images", "image_edits"), strict=True):
        assert row["endpoint"] == endpoint
        assert meters(row) == {"input": 10, "image_input": 50, "audio_output": 1056, "images": 1, "calls": 1}
        assert row["charge_nano"] == 60 * INPUT_NANO + 1056 * OUTPUT_NANO
    assert b"\x89PNG" in up.requests[1].body


def test_audio(served: Served, up: Replay, client: OpenAI, alice: Person) -> None:
    tokens = {"type": "tokens", "input_tokens": 30, "output_tokens": 4, "total_tokens": 34}
    details = {"input_token_details": {"audio_tokens": 28, "text_tokens": 2}}
    up.handler = answers(
        json_answer({"text": "hello", "usage": {**tokens, **details}}),
        json_answer({"text": "hello", "usage": {"type": "duration", "seconds": 12.3}}),
    )
    sound = ("a.mp3", b"\x00\x01" * 4000)
    assert client.audio.transcriptions.create(model="main/zeta", file=sound).text == "hello"
    assert client.audio.transcriptions.create(model="ear", file=sound, language="de").text == "hello"
    first, second = served.settled(alice, 2)
    assert meters(first) == {"input": 2, "audio_input": 28, "output": 4, "milliseconds": 1000, "calls": 1}
    assert first["charge_nano"] == 30 * INPUT_NANO + 4 * OUTPUT_NANO
    assert (meters(second), second["charge_nano"]) == ({"milliseconds": 12_300, "calls": 1}, 12_300 * 100)
    renamed = up.requests[1].body
    assert b"zeta" in renamed
    assert b'name="model"\r\n\r\near' not in renamed
    assert b"\x00\x01" * 4000 in renamed


def test_speech(served: Served, up: Replay, client: OpenAI, alice: Person) -> None:
    sound = bytes(range(256)) * 50
    up.handler = answers(body_answer(sound, headers=[("content-type", "audio/mpeg")]))
    spoken = client.audio.speech.create(model="voice", voice="alloy", input="x" * 1000)
    assert spoken.content == sound
    (row,) = served.settled(alice, 1)
    assert (row["characters"], row["endpoint"], row["charge_nano"]) == (1000, "speech", 15_000_000)


def test_moderations(served: Served, up: Replay, client: OpenAI, alice: Person) -> None:
    up.handler = answers(json_answer({"id": "modr-1", "model": "zeta", "results": []}))
    assert client.moderations.create(model="main/zeta", input=PROMPT).id == "modr-1"
    (row,) = served.settled(alice, 1)
    assert (row["endpoint"], row["charge_nano"], row["source"]) == ("moderations", 0, "upstream")


# -- what fails, and how often it is tried


def create(client: OpenAI, **fields: Any) -> None:
    client.chat.completions.create(**{"model": "main/zeta", "messages": MESSAGES, **fields})


def test_a_wrong_key(served: Served, up: Replay) -> None:
    for key, code in (("sk-proj-theirs", "invalid_key"), ("sk-lg-typo", "invalid_key")):
        with (
            OpenAI(api_key=key, base_url=served.url + "/v1") as client,
            pytest.raises(openai.AuthenticationError) as it,
        ):
            create(client)
        assert (it.value.code, it.value.status_code) == (code, 401)
        assert it.value.request_id is not None
        assert it.value.request_id.startswith("req_")
    assert up.requests == []


def test_a_model_that_is_not_allowed(served: Served) -> None:
    bob = served.person(models=["sandbox/*"])
    with OpenAI(api_key=bob.key, base_url=served.url + "/v1") as client:
        with pytest.raises(openai.PermissionDeniedError) as caught:
            create(client)
        assert caught.value.code == "model_not_allowed"


@pytest.mark.parametrize("stream", [False, True])
def test_classes_of_errors(served: Served, up: Replay, client: OpenAI, stream: bool) -> None:
    with pytest.raises(openai.NotFoundError) as not_found:
        create(client, model="bare/nonesuch", stream=stream)
    assert (not_found.value.code, not_found.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as bad:
        create(client, max_tokens=0, stream=stream)
    assert (bad.value.code, bad.value.param, bad.value.type) == (
        "invalid_request",
        "max_tokens",
        "invalid_request_error",
    )
    up.handler = answers(json_answer({"error": {"message": "too long", "code": "context_length_exceeded"}}, 400))
    with pytest.raises(openai.BadRequestError) as theirs:
        create(client, stream=stream)
    assert theirs.value.code == "context_length_exceeded"
    up.handler = answers(json_answer({"error": {"message": "no"}}, 422))
    with pytest.raises(openai.UnprocessableEntityError):
        create(client, stream=stream)


@pytest.mark.parametrize("stream", [False, True])
def test_no_credit_is_not_tried_again(served: Served, up: Replay, stream: bool) -> None:
    bob = served.person(credits="0.0001")
    with OpenAI(api_key=bob.key, base_url=served.url + "/v1") as client, pytest.raises(openai.APIStatusError) as caught:
        create(client, stream=stream)
    assert (caught.value.status_code, caught.value.code) == (402, "insufficient_credits")
    assert caught.value.type == "insufficient_quota"
    served.logged(f" 402 {bob.name} ")
    assert requests_of(served, bob) == 1
    assert up.requests == []


def test_a_refused_secret_is_not_tried_again(served: Served, up: Replay, client: OpenAI, alice: Person) -> None:
    up.handler = answers(json_answer({"error": {"message": "bad key"}}, 401))
    with pytest.raises(openai.InternalServerError) as caught:
        create(client)
    assert (caught.value.status_code, caught.value.code) == (502, "upstream_auth")
    assert len(up.requests) == 1
    assert facts(served.settled(alice, 1)[0]) == ("error", "upstream", 502, 0)


def test_credit_that_is_held_by_others_is_waited_for(served: Served, up: Replay) -> None:
    """The SDK obeys Retry-After, and its second try finds the money free again."""
    bob = served.person(credits="0.0008")
    up.handler = answers(sse_answer(sse(chunk_of("hello")), HANG))
    with OpenAI(api_key=bob.key, base_url=served.url + "/v1") as client, ThreadPoolExecutor() as pool:
        stream = client.chat.completions.create(model="main/zeta", messages=MESSAGES, stream=True)
        next(stream)
        up.handler = answers(OK)
        with pytest.raises(openai.RateLimitError) as caught:
            create(client.with_options(max_retries=0), max_tokens=50)
        assert caught.value.code == "credits_held"
        waiting = pool.submit(create, client, max_tokens=50)
        served.logged(f" 429 {bob.name} ", 2)
        stream.close()
        served.settled(bob, 1)
        waiting.result()
    assert len(up.requests) == 2
    served.settled(bob, 2)


def test_a_limit_for_ever_is_not_waited_for(served: Served, up: Replay) -> None:
    bob = served.person()
    with served.tx() as tx:
        limits.hang(tx, bob.name, ("1 requests total",))
    with OpenAI(api_key=bob.key, base_url=served.url + "/v1") as client:
        raw = client.chat.completions.with_raw_response.create(model="main/zeta", messages=MESSAGES)
        assert (raw.headers["x-ratelimit-limit-requests"], raw.headers["x-ratelimit-remaining-requests"]) == ("1", "0")
        with pytest.raises(openai.RateLimitError) as caught:
            create(client)
    assert caught.value.code == "rate_limited"
    assert caught.value.response.headers["x-should-retry"] == "false"
    served.logged(f" 429 {bob.name} ")
    assert requests_of(served, bob) == 2
    assert len(up.requests) == 1
    served.settled(bob, 1)


def test_an_overloaded_upstream(served: Served, up: Replay, alice: Person) -> None:
    up.handler = answers(
        json_answer({"error": {"message": "slow down", "code": "slow_down"}}, 429, [("retry-after", "61")])
    )
    with (
        OpenAI(api_key=alice.key, base_url=served.url + "/v1", max_retries=0) as client,
        pytest.raises(openai.RateLimitError) as caught,
    ):
        create(client)
    assert (caught.value.code, len(up.requests)) == ("slow_down", 1)
    served.settled(alice, 1)


def test_a_stream_that_breaks_off_raises(served: Served, up: Replay, client: OpenAI, alice: Person) -> None:
    up.handler = answers(sse_answer(sse(chunk_of("hello")), Pause(0.1), RESET, end=False))
    stream = client.chat.completions.create(model="main/zeta", messages=MESSAGES, stream=True)
    assert next(stream).choices[0].delta.content == "hello"
    with pytest.raises(openai.APIError) as caught:
        next(stream)
    assert (caught.value.code, caught.value.type) == ("upstream_error", "server_error")
    stream.close()
    assert facts(served.settled(alice, 1)[0]) == ("error", "estimated", 200, estimate(5))
    assert len(up.requests) == 1


# -- async


async def test_twenty_streams_at_once(served: Served, up: Replay, alice: Person) -> None:
    up.handler = answers(sse_answer(*words("hel"), Pause(0.1), *words("lo"), sse(usage_chunk(10, 5)), DONE))
    async with AsyncOpenAI(api_key=alice.key, base_url=served.url + "/v1", timeout=30) as client:

        async def one() -> str:
            stream = await client.chat.completions.create(model="main/zeta", messages=MESSAGES, stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        assert await asyncio.gather(*(one() for _ in range(20))) == ["hello"] * 20
    rows = await served.settled_soon(alice, 20)
    assert {facts(row) for row in rows} == {("ok", "upstream", 200, EXACT)}
    assert served.balance(alice.name) == 10**9 - 20 * EXACT


async def test_the_rest_of_it_async(served: Served, up: Replay, alice: Person) -> None:
    async with AsyncOpenAI(api_key=alice.key, base_url=served.url + "/v1", timeout=30) as client:
        answer = await client.chat.completions.create(model="main/zeta", messages=MESSAGES)
        assert answer.choices[0].message.content == "hello"
        embedded = await client.embeddings.create(model="sandbox/embed", input="hello")
        assert len(embedded.data[0].embedding) == 8
        assert "zeta" in [model.id async for model in client.models.list()]
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(model="nonesuch-7/x", messages=MESSAGES)
    await served.settled_soon(alice, 2)
