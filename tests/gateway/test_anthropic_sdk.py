"""The anthropic SDK as it is installed, sync and async, against a real daemon: it works unchanged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic
from anthropic.types import MessageParam, ToolParam

from llmgate.store import limits
from llmgate.types import METERS
from tests.replay import RESET, Pause, Replay, Step, json_answer, sse, sse_answer
from tests.served import INPUT_NANO, OUTPUT_NANO, PROMPT, SECRET, Person, Served, answers, facts, main_upstream

SAID: list[MessageParam] = [{"role": "user", "content": PROMPT}]
TOOLS: list[ToolParam] = [{"name": "weather", "input_schema": {"type": "object"}}]
EXACT = 10 * INPUT_NANO + 5 * OUTPUT_NANO
USAGE = {"input_tokens": 10, "output_tokens": 5}
CACHED = {
    **USAGE,
    "cache_creation_input_tokens": 100,
    "cache_read_input_tokens": 2000,
    "cache_creation": {"ephemeral_5m_input_tokens": 40, "ephemeral_1h_input_tokens": 60},
    "service_tier": "standard",
}
CACHED_METERS = {"input": 10, "cached_input": 2000, "cache_write": 40, "cache_write_1h": 60, "output": 5, "calls": 1}
CACHED_NANO = 2110 * INPUT_NANO + 5 * OUTPUT_NANO
"""`PRICE` has no rate for the cache: it falls back to that of the input."""

TEXT = {"type": "text", "text": "hello"}
THOUGHT = {"type": "thinking", "thinking": "hmm", "signature": "c2ln"}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Köln"}}


def message(*content: dict[str, Any], usage: dict[str, Any] = USAGE, **more: Any) -> dict[str, Any]:
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "zeta", "content": list(content)}
    return {**head, "stop_reason": "end_turn", "stop_sequence": None, "usage": usage, **more}


def named(*payloads: dict[str, Any]) -> list[bytes]:
    return [sse(payload, payload["type"]) for payload in payloads]


def block(index: int, empty: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"type": "content_block_start", "index": index, "content_block": empty},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def begin(**usage: Any) -> dict[str, Any]:
    return {"type": "message_start", "message": message(usage={**USAGE, "output_tokens": 1, **usage}, stop_reason=None)}


def end(output: int, reason: str = "end_turn", *, thoughts: int = 0) -> list[dict[str, Any]]:
    delta = {"stop_reason": reason, "stop_sequence": None}
    usage = {"output_tokens": output, "output_tokens_details": {"thinking_tokens": thoughts}}
    return [
        {"type": "message_delta", "delta": delta, "usage": usage},
        {"type": "message_stop"},
    ]


def text_delta(text: str) -> dict[str, Any]:
    return {"type": "text_delta", "text": text}


OK = json_answer(message(TEXT), headers=[("request-id", "req_theirs")])
EVENTS = named(
    begin(), *block(0, {"type": "text", "text": ""}, text_delta("hel"), text_delta("lo")), {"type": "ping"}, *end(5)
)
STREAM = sse_answer(*EVENTS)


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
    claude = main_upstream(upstream, "", format="anthropic", auth="header:x-api-key")
    bare = {"base_url": upstream.url, "format": "anthropic"}  # beside one alone every name would be served
    config = {
        "upstreams": {"claude": claude, "bare": bare, "chats": main_upstream(upstream), "sandbox": {}},
        "models": {"zeta": {"routes": [{"upstream": "claude"}]}, "eta": {"routes": [{"upstream": "chats"}]}},
    }
    with Served(tmp_path_factory.mktemp("anthropic"), config) as served:
        yield served


@pytest.fixture
def alice(served: Served) -> Person:
    return served.person(credits="1")


def client_of(served: Served, person: Person | str, **options: Any) -> Anthropic:
    key = person if isinstance(person, str) else person.key
    return Anthropic(api_key=key, base_url=served.url, timeout=30, **options)


@pytest.fixture
def client(served: Served, alice: Person) -> Iterator[Anthropic]:
    with client_of(served, alice) as client:
        yield client


def create(client: Anthropic, **fields: Any) -> Any:
    return client.messages.create(**{"model": "zeta", "max_tokens": 100, "messages": SAID, **fields})


def meters(row: dict[str, Any]) -> dict[str, int]:
    return {meter: row[meter] for meter in METERS if row[meter]}


# -- what works


def test_a_message(served: Served, up: Replay, client: Anthropic, alice: Person) -> None:
    answer = create(client, metadata={"user_id": "u-7"})
    assert answer.content[0].text == "hello"
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (10, 5)
    assert answer._request_id == "req_theirs"
    (row,) = served.settled(alice, 1)
    assert facts(row) == ("ok", "upstream", 200, EXACT)
    assert (row["format"], row["endpoint"], row["upstream"]) == ("anthropic", "messages", "claude")
    assert "u-7" in row["tags"]
    (request,) = up.requests
    assert request.path == "/v1/messages"
    assert request.header("x-api-key") == SECRET
    assert request.header("authorization") is None
    assert request.header("anthropic-version")
    assert request.header("x-stainless-lang") == "python"
    assert alice.key not in str(request)


def test_the_bytes_of_a_message(served: Served, up: Replay, client: Anthropic, alice: Person) -> None:
    raw = client.messages.with_raw_response.create(model="zeta", max_tokens=100, messages=SAID)
    head, *_ = OK
    assert isinstance(head, bytes)
    assert raw.http_response.content == head.partition(b"\r\n\r\n")[2]
    assert raw.headers["x-llmgate-charge-usd"] == "0.00002"
    assert raw.headers["x-llmgate-balance-usd"] == "0.99998"
    assert raw.headers["x-llmgate-upstream"] == "claude"
    with client.messages.with_streaming_response.create(
        model="zeta", max_tokens=100, messages=SAID, stream=True
    ) as streamed:
        assert b"".join(streamed.iter_bytes())
    up.handler = answers(STREAM)
    with client.messages.with_streaming_response.create(
        model="zeta", max_tokens=100, messages=SAID, stream=True
    ) as streamed:
        assert b"".join(streamed.iter_bytes()) == b"".join(EVENTS)
    served.settled(alice, 3)


def test_a_stream(served: Served, up: Replay, client: Anthropic, alice: Person) -> None:
    up.handler = answers(STREAM)
    with client.messages.stream(model="zeta", max_tokens=100, messages=SAID) as stream:
        assert "".join(stream.text_stream) == "hello"
        final = stream.get_final_message()
    assert (final.usage.input_tokens, final.usage.output_tokens, final.stop_reason) == (10, 5, "end_turn")
    kinds = [event.type for event in create(client, stream=True)]
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"
    assert [facts(row) for row in served.settled(alice, 2)] == [("ok", "upstream", 200, EXACT)] * 2


def test_what_was_cached(served: Served, up: Replay, client: Anthropic, alice: Person) -> None:
    up.handler = answers(json_answer(message(TEXT, usage=CACHED)))
    assert create(client).usage.cache_read_input_tokens == 2000
    up.handler = answers(
        sse_answer(*named(begin(**{**CACHED, "output_tokens": 1}), *block(0, TEXT, text_delta("!")), *end(5)))
    )
    assert [event.type for event in create(client, stream=True)][-1] == "message_stop"
    rows = served.settled(alice, 2)
    assert [(meters(row), row["charge_nano"]) for row in rows] == [(CACHED_METERS, CACHED_NANO)] * 2


def test_tools(served: Served, up: Replay, client: Anthropic, alice: Person) -> None:
    up.handler = answers(json_answer(message(CALL, stop_reason="tool_use")))
    assert create(client, tools=TOOLS).content[0].input == {"city": "Köln"}
    parts = ['{"ci', 'ty": "Kö', 'ln"}']
    deltas = [{"type": "input_json_delta", "partial_json": part} for part in parts]
    up.handler = answers(sse_answer(*named(begin(), *block(0, {**CALL, "input": {}}, *deltas), *end(5, "tool_use"))))
    with client.messages.stream(model="zeta", max_tokens=100, messages=SAID, tools=TOOLS) as stream:
        final = stream.get_final_message()
    assert final.stop_reason == "tool_use"
    assert getattr(final.content[0], "input", None) == {"city": "Köln"}
    assert [facts(row) for row in served.settled(alice, 2)] == [("ok", "upstream", 200, EXACT)] * 2
    assert up.requests[0].json()["tools"] == TOOLS


def test_thoughts(served: Served, up: Replay, client: Anthropic, alice: Person) -> None:
    details = {"output_tokens_details": {"thinking_tokens": 30}}
    thinking = {"type": "enabled", "budget_tokens": 1024}
    up.handler = answers(json_answer(message(THOUGHT, TEXT, usage={**USAGE, "output_tokens": 97, **details})))
    answer = create(client, thinking=thinking, max_tokens=2000)
    assert [one.type for one in answer.content] == ["thinking", "text"]
    signed = {"type": "signature_delta", "signature": "c2ln"}
    up.handler = answers(
        sse_answer(
            *named(
                begin(),
                *block(0, {**THOUGHT, "thinking": ""}, {"type": "thinking_delta", "thinking": "hmm"}, signed),
                *block(1, {"type": "text", "text": ""}, text_delta("hello")),
                *end(97, thoughts=30),
            )
        )
    )
    with client.messages.stream(
        model="zeta", max_tokens=2000, messages=SAID, thinking={"type": "enabled", "budget_tokens": 1024}
    ) as stream:
        final = stream.get_final_message()
    assert [one.type for one in final.content] == ["thinking", "text"]
    for row in served.settled(alice, 2):
        assert meters(row) == {"input": 10, "output": 67, "reasoning": 30, "calls": 1}
        assert row["charge_nano"] == 10 * INPUT_NANO + 97 * OUTPUT_NANO
    assert up.requests[0].json()["thinking"] == thinking


def test_beta_features_are_the_clients(served: Served, up: Replay, client: Anthropic, alice: Person) -> None:
    answer = client.beta.messages.create(
        model="zeta",
        max_tokens=100,
        messages=[{"role": "user", "content": PROMPT}],
        betas=["context-1m-2025-08-07", "token-efficient-tools-2025-02-19"],
    )
    assert answer.usage.output_tokens == 5
    (request,) = up.requests
    assert request.path == "/v1/messages"
    assert request.header("anthropic-beta") == "context-1m-2025-08-07,token-efficient-tools-2025-02-19"
    assert facts(served.settled(alice, 1)[0]) == ("ok", "upstream", 200, EXACT)


def test_tokens_are_counted_for_nothing(served: Served, up: Replay, client: Anthropic, alice: Person) -> None:
    up.handler = answers(json_answer({"input_tokens": 77}))
    assert client.messages.count_tokens(model="zeta", messages=SAID).input_tokens == 77
    (row,) = served.settled(alice, 1)
    assert (row["endpoint"], row["charge_nano"], meters(row)) == ("count_tokens", 0, {})
    assert up.requests[0].path == "/v1/messages/count_tokens"


def test_models(served: Served, client: Anthropic) -> None:
    models = {model.id: model for model in client.models.list()}
    assert {"zeta", "sandbox/echo"} <= models.keys()
    assert "eta" not in models  # it is served in format openai
    assert client.models.retrieve("zeta").display_name == "zeta"
    with pytest.raises(anthropic.NotFoundError):
        client.models.retrieve("nonesuch")


def test_the_sandbox(served: Served, client: Anthropic, alice: Person) -> None:
    answer = create(client, model="sandbox/echo")
    assert answer.content[0].text == PROMPT
    with client.messages.stream(model="sandbox/echo", max_tokens=2, messages=SAID) as stream:
        assert "".join(stream.text_stream) == PROMPT[:8]
        assert stream.get_final_message().stop_reason == "max_tokens"
    count = client.messages.count_tokens(model="sandbox/echo", messages=SAID).input_tokens
    assert count == answer.usage.input_tokens
    whole, cut, counted = served.settled(alice, 3)
    assert meters(whole) == {"input": count, "output": answer.usage.output_tokens, "calls": 1}
    assert whole["charge_nano"] == count * INPUT_NANO + answer.usage.output_tokens * OUTPUT_NANO
    assert meters(cut) == {"input": count, "output": 2, "calls": 1}
    assert counted["charge_nano"] == 0


# -- what fails, and how often it is tried


def refused(served: Served, person: Person | str, kind: type[Any], **fields: Any) -> Any:
    """The error that a request raises."""
    with client_of(served, person) as client, pytest.raises(kind) as caught:
        create(client, **fields)
    assert caught.value.request_id == caught.value.body["request_id"] == caught.value.response.headers["x-request-id"]
    return caught.value


@pytest.mark.parametrize("stream", [False, True])
def test_classes_of_errors(served: Served, up: Replay, alice: Person, stream: bool) -> None:
    assert refused(served, "sk-lg-typo", anthropic.AuthenticationError, stream=stream).type == "authentication_error"
    assert refused(served, alice, anthropic.NotFoundError, model="nonesuch/x", stream=stream).type == "not_found_error"
    bad = refused(served, alice, anthropic.BadRequestError, max_tokens=0, stream=stream)
    assert bad.type == "invalid_request_error"
    assert "max_tokens" in bad.message
    other = refused(served, alice, anthropic.NotFoundError, model="eta", stream=stream)
    assert "/v1/chat/completions" in other.message
    bob = served.person(models=["sandbox/*"])
    assert refused(served, bob, anthropic.PermissionDeniedError, stream=stream).type == "permission_error"
    assert up.requests == []


@pytest.mark.parametrize("stream", [False, True])
def test_no_credit_is_not_tried_again(served: Served, up: Replay, stream: bool) -> None:
    bob = served.person(credits="0.0001")
    error = refused(served, bob, anthropic.PaymentRequiredError, stream=stream)
    assert (error.status_code, error.type) == (402, "billing_error")
    assert error.response.headers["x-should-retry"] == "false"
    served.logged(f" 402 {bob.name} ")
    assert served.log().count(f" {bob.name} messages ") == 1
    assert up.requests == []


def test_a_limit_of_this_month_is_not_waited_for(served: Served, up: Replay) -> None:
    """The SDK would sleep for as long as Retry-After says, unless it is told that it shouldn't."""
    while (now := datetime.now(UTC)).month != (now + timedelta(seconds=75)).month:
        time.sleep(1)  # the last minute of a month is waited for
    bob = served.person()
    with served.tx() as tx:
        limits.hang(tx, bob.name, ("1 requests/month",))
    with client_of(served, bob) as client:
        raw = client.messages.with_raw_response.create(model="zeta", max_tokens=100, messages=SAID)
        told = {name: raw.headers[f"anthropic-ratelimit-requests-{name}"] for name in ("limit", "remaining", "reset")}
        assert (told["limit"], told["remaining"]) == ("1", "0")
        assert told["reset"].endswith("Z")
        assert not [name for name in raw.headers if name.startswith("x-ratelimit-")]
    error = refused(served, bob, anthropic.RateLimitError)
    assert error.type == "rate_limit_error"
    assert int(error.response.headers["retry-after"]) > 0
    assert error.response.headers.get("x-should-retry") == "false"
    assert len(up.requests) == 1
    served.settled(bob, 1)


def test_an_upstreams_own_limits_are_not_told(served: Served, up: Replay, client: Anthropic, alice: Person) -> None:
    theirs = [("anthropic-ratelimit-requests-limit", "9"), ("anthropic-organization-id", "org-1")]
    up.handler = answers(json_answer(message(TEXT), headers=theirs))
    raw = client.messages.with_raw_response.create(model="zeta", max_tokens=100, messages=SAID)
    assert not [name for name in raw.headers if name.startswith("anthropic-ratelimit-")]
    assert raw.headers["anthropic-organization-id"] == "org-1"
    served.settled(alice, 1)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, anthropic.BadRequestError),
        (404, anthropic.NotFoundError),
        (413, anthropic.APIStatusError),
        (422, anthropic.UnprocessableEntityError),
    ],
)
def test_an_upstreams_refusal_is_its_own(
    served: Served, up: Replay, client: Anthropic, alice: Person, status: int, kind: type[anthropic.APIStatusError]
) -> None:
    theirs = {"type": "error", "error": {"type": "invalid_request_error", "message": "theirs"}, "request_id": "req_up"}
    up.handler = answers(json_answer(theirs, status))
    with pytest.raises(kind) as caught:
        create(client)
    assert caught.value.body == theirs
    assert len(up.requests) == 1
    assert facts(served.settled(alice, 1)[0]) == ("error", "upstream", status, 0)


def test_an_upstream_out_of_money_is_the_admins_business(
    served: Served, up: Replay, client: Anthropic, alice: Person
) -> None:
    up.handler = answers(json_answer({"type": "error", "error": {"type": "billing_error", "message": "pay"}}, 402))
    with pytest.raises(anthropic.InternalServerError) as caught:
        create(client)
    assert (caught.value.status_code, caught.value.type) == (502, "api_error")
    assert "pay" not in caught.value.message
    assert len(up.requests) == 1
    assert facts(served.settled(alice, 1)[0]) == ("error", "upstream", 502, 0)


def test_an_overloaded_upstream(served: Served, up: Replay, alice: Person) -> None:
    overloaded = {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}
    up.handler = answers(json_answer(overloaded, 529), OK)
    with client_of(served, alice, max_retries=0) as client:
        assert create(client).content[0].text == "hello"
    assert len(up.requests) == 2
    assert facts(served.settled(alice, 1)[0]) == ("ok", "upstream", 200, EXACT)


BROKEN: dict[str, tuple[Step, ...]] = {
    "their error": sse_answer(
        *named(begin(), *block(0, TEXT, text_delta("abcdef"))[:2]),
        sse({"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}, "error"),
    ),
    "broken off": sse_answer(*named(begin(), *block(0, TEXT, text_delta("abcdef"))[:2]), Pause(0.1), RESET, end=False),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_stream_that_fails_raises(served: Served, up: Replay, client: Anthropic, alice: Person, how: str) -> None:
    """What was delivered is charged: the input that was counted, and the text that wasn't."""
    up.handler = answers(BROKEN[how])
    got = []
    with pytest.raises(anthropic.APIStatusError) as caught:
        got += [event.type for event in create(client, stream=True)]
    assert caught.value.type == ("overloaded_error" if how == "their error" else "api_error")
    (row,) = served.settled(alice, 1)
    assert facts(row) == ("error", "estimated", 200, 10 * INPUT_NANO + 4 * OUTPUT_NANO)
    assert len(up.requests) == 1


# -- async


async def test_ten_streams_at_once(served: Served, up: Replay, alice: Person) -> None:
    up.handler = answers(STREAM)
    async with AsyncAnthropic(api_key=alice.key, base_url=served.url, timeout=30) as client:

        async def one() -> str:
            async with client.messages.stream(model="zeta", max_tokens=100, messages=SAID) as stream:
                return "".join([text async for text in stream.text_stream])

        assert await asyncio.gather(*(one() for _ in range(10))) == ["hello"] * 10
        with pytest.raises(anthropic.NotFoundError):
            await client.messages.create(model="nonesuch/x", max_tokens=1, messages=SAID)
        assert "zeta" in [model.id async for model in client.models.list()]
    rows = await served.settled_soon(alice, 10)
    assert {facts(row) for row in rows} == {("ok", "upstream", 200, EXACT)}
    assert served.balance(alice.name) == 10**9 - 10 * EXACT
