"""The google-genai SDK as it is installed, sync and async, against a real daemon: it works unchanged."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from google import genai
from google.genai import errors, types

from llmgate.store import limits
from llmgate.types import METERS
from tests.replay import RESET, Pause, Replay, body_answer, json_answer, sse, sse_answer
from tests.served import INPUT_NANO, OUTPUT_NANO, PROMPT, SECRET, Person, Served, answers, facts, main_upstream

EXACT = 10 * INPUT_NANO + 5 * OUTPUT_NANO
USAGE = {"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 15}
RICH = {
    "promptTokenCount": 1000,
    "cachedContentTokenCount": 200,
    "candidatesTokenCount": 100,
    "thoughtsTokenCount": 50,
    "totalTokenCount": 1150,
}
RICH_METERS = {"input": 800, "cached_input": 200, "output": 100, "reasoning": 50, "calls": 1}
RICH_NANO = 1000 * INPUT_NANO + 150 * OUTPUT_NANO


def answer_of(
    *parts: dict[str, Any], usage: dict[str, Any] | None = USAGE, finish: str | None = "STOP"
) -> dict[str, Any]:
    candidate = {"index": 0, "content": {"role": "model", "parts": list(parts)}}
    told = {"usageMetadata": usage} if usage else {}
    end = {"finishReason": finish} if finish else {}
    return {"candidates": [{**candidate, **end}], **told, "modelVersion": "zeta", "responseId": "r-1"}


HELLO = answer_of({"text": "hello"})
OK = json_answer(HELLO)
EVENTS = [
    sse(answer_of({"text": "hel"}, usage={"promptTokenCount": 10, "totalTokenCount": 10}, finish=None)),
    sse(answer_of({"text": "lo"})),
]
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
    google = main_upstream(upstream, "", format="gemini", auth="header:x-goog-api-key")
    pinned = main_upstream(upstream, "/v1beta", format="gemini", auth="query:key")
    config = {
        "upstreams": {"google": google, "pinned": pinned, "chats": main_upstream(upstream), "sandbox": {}},
        "models": {
            "zeta": {"routes": [{"upstream": "google"}]},
            "alias": {"routes": [{"upstream": "pinned", "model": "zeta-002"}]},
            "eta": {"routes": [{"upstream": "chats"}]},
        },
    }
    with Served(tmp_path_factory.mktemp("gemini"), config) as served:
        yield served


@pytest.fixture
def alice(served: Served) -> Person:
    return served.person(credits="1")


def client_of(served: Served, person: Person | str, **options: Any) -> genai.Client:
    key = person if isinstance(person, str) else person.key
    return genai.Client(api_key=key, http_options=types.HttpOptions(base_url=served.url, timeout=30_000, **options))


@pytest.fixture
def client(served: Served, alice: Person) -> Iterator[genai.Client]:
    with client_of(served, alice) as client:
        yield client


def meters(row: dict[str, Any]) -> dict[str, int]:
    return {meter: row[meter] for meter in METERS if row[meter]}


# -- what works


def test_content(served: Served, up: Replay, client: genai.Client, alice: Person) -> None:
    answer = client.models.generate_content(model="zeta", contents=PROMPT)
    assert answer.text == "hello"
    assert answer.usage_metadata is not None
    assert answer.usage_metadata.candidates_token_count == 5
    assert answer.sdk_http_response is not None
    assert answer.sdk_http_response.headers is not None
    assert answer.sdk_http_response.headers["x-llmgate-charge-usd"] == "0.00002"
    assert answer.sdk_http_response.headers["x-llmgate-upstream"] == "google"
    (row,) = served.settled(alice, 1)
    assert facts(row) == ("ok", "upstream", 200, EXACT)
    assert (row["format"], row["endpoint"], row["upstream"]) == ("gemini", "generate_content", "google")
    (request,) = up.requests
    assert request.path == "/v1/models/zeta:generateContent"
    assert request.header("x-goog-api-key") == SECRET
    assert str(request.header("x-goog-api-client")).startswith("google-genai-sdk/")
    assert alice.key not in str(request)


@pytest.mark.parametrize("version", ["v1", "v1beta", "v1alpha"])
def test_the_clients_version_is_kept(served: Served, up: Replay, alice: Person, version: str) -> None:
    up.handler = answers(OK, STREAM)
    with client_of(served, alice, api_version=version) as client:
        client.models.generate_content(model="zeta", contents=PROMPT)
        list(client.models.generate_content_stream(model="zeta", contents=PROMPT))
        client.models.get(model="zeta")
    assert [request.path for request in up.requests] == [
        f"/{version}/models/zeta:generateContent",
        f"/{version}/models/zeta:streamGenerateContent?alt=sse",
    ]
    assert [facts(row) for row in served.settled(alice, 2)] == [("ok", "upstream", 200, EXACT)] * 2


def test_an_upstreams_own_version_wins(served: Served, up: Replay, client: genai.Client, alice: Person) -> None:
    assert client.models.generate_content(model="alias", contents=PROMPT).text == "hello"
    assert up.requests[0].path == f"/v1beta/models/zeta-002:generateContent?key={SECRET}"
    assert served.settled(alice, 1)[0]["upstream_model"] == "zeta-002"


def test_a_stream(served: Served, up: Replay, client: genai.Client, alice: Person) -> None:
    up.handler = answers(STREAM)
    pieces = list(client.models.generate_content_stream(model="zeta", contents=PROMPT))
    assert "".join(piece.text or "" for piece in pieces) == "hello"
    assert pieces[-1].usage_metadata is not None
    assert pieces[-1].usage_metadata.total_token_count == 15
    assert facts(served.settled(alice, 1)[0]) == ("ok", "upstream", 200, EXACT)


def test_the_bytes_of_a_stream(served: Served, up: Replay, alice: Person) -> None:
    """In either framing they are those that came: the SDK breaks at comments, names of events and [DONE]."""
    array = b"[" + json.dumps(HELLO).encode() + b"\n,\n" + json.dumps(HELLO).encode() + b"\n]"
    up.handler = answers(STREAM, body_answer(array, headers=[("content-type", "application/json")]))
    body = {"contents": [{"parts": [{"text": PROMPT}]}]}
    path = "/v1beta/models/zeta:streamGenerateContent"
    assert served.post(alice, body, path=f"{path}?alt=sse").content == b"".join(EVENTS)
    assert served.post(alice, body, path=path).content == array
    assert [request.path for request in up.requests] == [f"{path}?alt=sse", path]
    assert [facts(row) for row in served.settled(alice, 2)] == [("ok", "upstream", 200, EXACT)] * 2


def test_thoughts_and_what_was_cached(served: Served, up: Replay, client: genai.Client, alice: Person) -> None:
    thought, said = {"text": "hmm", "thought": True}, {"text": "hello"}
    growing = {**RICH, "candidatesTokenCount": 1, "totalTokenCount": 1051}
    up.handler = answers(
        json_answer(answer_of(thought, said, usage=RICH)),
        sse_answer(sse(answer_of(thought, usage=growing, finish=None)), sse(answer_of(said, usage=RICH))),
    )
    config = types.GenerateContentConfig(
        thinking_config=types.ThinkingConfig(thinking_budget=1024, include_thoughts=True), max_output_tokens=2000
    )
    assert client.models.generate_content(model="zeta", contents=PROMPT, config=config).text == "hello"
    assert len(list(client.models.generate_content_stream(model="zeta", contents=PROMPT, config=config))) == 2
    rows = served.settled(alice, 2)
    assert [(meters(row), row["charge_nano"]) for row in rows] == [(RICH_METERS, RICH_NANO)] * 2
    asked = up.requests[0].json()["generationConfig"]
    assert asked == {"maxOutputTokens": 2000, "thinkingConfig": {"include_thoughts": True, "thinking_budget": 1024}}


def test_tools(served: Served, up: Replay, client: genai.Client, alice: Person) -> None:
    call = {"functionCall": {"name": "weather", "args": {"city": "Köln"}}}
    up.handler = answers(json_answer(answer_of(call)))
    weather = types.FunctionDeclaration(name="weather", description="of a city")
    config = types.GenerateContentConfig(tools=[types.Tool(function_declarations=[weather])])
    answer = client.models.generate_content(model="zeta", contents=PROMPT, config=config)
    assert answer.function_calls is not None
    assert answer.function_calls[0].args == {"city": "Köln"}
    assert facts(served.settled(alice, 1)[0]) == ("ok", "upstream", 200, EXACT)


def test_a_bound_is_put_in_by_the_name_that_is_used(served: Served, up: Replay, client: genai.Client) -> None:
    client.models.generate_content(model="zeta", contents=PROMPT)
    assert up.requests[0].json()["generationConfig"]["maxOutputTokens"] > 0


def test_tokens_are_counted_for_nothing(served: Served, up: Replay, client: genai.Client, alice: Person) -> None:
    up.handler = answers(json_answer({"totalTokens": 77}))
    assert client.models.count_tokens(model="zeta", contents=PROMPT).total_tokens == 77
    (row,) = served.settled(alice, 1)
    assert (row["endpoint"], row["charge_nano"], meters(row)) == ("count_tokens", 0, {})


def test_embeddings(served: Served, up: Replay, client: genai.Client, alice: Person) -> None:
    vectors = [{"values": [0.5, 0.25]}, {"values": [1.0, 0.0]}]
    up.handler = answers(json_answer({"embeddings": vectors, "usageMetadata": {"promptTokenCount": 12}}))
    texts: Any = ["a", "b"]  # a list of texts is no list of texts to mypy where pillow is installed
    found = client.models.embed_content(model="zeta", contents=texts)
    assert found.embeddings is not None
    assert [vector.values for vector in found.embeddings] == [[0.5, 0.25], [1.0, 0.0]]
    (row,) = served.settled(alice, 1)
    assert (row["endpoint"], meters(row)) == ("batch_embed_contents", {"input": 12, "calls": 1})
    assert row["charge_nano"] == 12 * INPUT_NANO


def test_models(served: Served, client: genai.Client) -> None:
    assert {model.name for model in client.models.list()} == {"models/zeta", "models/alias"}
    assert client.models.get(model="zeta").display_name == "zeta"
    with pytest.raises(errors.ClientError) as caught:
        client.models.get(model="nonesuch")
    assert (caught.value.code, caught.value.status) == (404, "NOT_FOUND")


# -- what fails


def refused(served: Served, person: Person | str, model: str = "zeta") -> errors.APIError:
    """The error that a request raises, which is the same for one that streams."""
    found = []
    with client_of(served, person) as client:
        with pytest.raises(errors.APIError) as caught:
            client.models.generate_content(model=model, contents=PROMPT)
        found.append(caught.value)
        with pytest.raises(errors.APIError) as caught:
            list(client.models.generate_content_stream(model=model, contents=PROMPT))
        found.append(caught.value)
    plain, streamed = found
    assert (plain.code, plain.status) == (streamed.code, streamed.status)
    return plain


def said(error: errors.APIError) -> tuple[str, int, str | None]:
    return type(error).__name__, error.code, error.status


def test_classes_of_errors(served: Served, up: Replay, alice: Person) -> None:
    assert said(refused(served, "sk-lg-typo")) == ("ClientError", 401, "UNAUTHENTICATED")
    assert said(refused(served, alice, "nonesuch")) == ("ClientError", 404, "NOT_FOUND")
    other = refused(served, alice, "eta")
    assert said(other) == ("ClientError", 404, "NOT_FOUND")
    assert "/v1/chat/completions" in str(other.message)
    bob = served.person(models=["sandbox/*"])
    assert said(refused(served, bob)) == ("ClientError", 403, "PERMISSION_DENIED")
    poor = served.person(credits="0.0001")
    assert said(refused(served, poor)) == ("ClientError", 402, "RESOURCE_EXHAUSTED")
    assert up.requests == []


def test_a_limit(served: Served, up: Replay) -> None:
    bob = served.person()
    with served.tx() as tx:
        limits.hang(tx, bob.name, ("1 requests total",))
    with client_of(served, bob) as client:
        client.models.generate_content(model="zeta", contents=PROMPT)
    error = refused(served, bob)
    assert said(error) == ("ClientError", 429, "RESOURCE_EXHAUSTED")
    assert len(up.requests) == 1
    served.settled(bob, 1)


def test_an_upstreams_refusal_is_its_own(served: Served, up: Replay, client: genai.Client, alice: Person) -> None:
    theirs = {"error": {"code": 400, "message": "theirs", "status": "FAILED_PRECONDITION"}}
    up.handler = answers(json_answer(theirs, 400))
    with pytest.raises(errors.ClientError) as caught:
        client.models.generate_content(model="zeta", contents=PROMPT)
    assert caught.value.details == theirs
    assert facts(served.settled(alice, 1)[0]) == ("error", "upstream", 400, 0)


def test_an_upstream_that_refuses_us(served: Served, up: Replay, client: genai.Client, alice: Person) -> None:
    up.handler = answers(json_answer({"error": {"code": 403, "message": "key of the house"}}, 403))
    with pytest.raises(errors.ServerError) as caught:
        client.models.generate_content(model="zeta", contents=PROMPT)
    assert said(caught.value) == ("ServerError", 502, "UNAVAILABLE")
    assert "of the house" not in str(caught.value)
    assert facts(served.settled(alice, 1)[0]) == ("error", "upstream", 502, 0)


@pytest.mark.parametrize("how", ["their error", "broken off"])
def test_a_stream_that_fails_raises(served: Served, up: Replay, client: genai.Client, alice: Person, how: str) -> None:
    begun = sse(answer_of({"text": "abcdef"}, usage=None, finish=None))
    theirs = sse({"error": {"code": 503, "message": "busy", "status": "UNAVAILABLE"}})
    up.handler = answers(
        sse_answer(begun, theirs) if how == "their error" else sse_answer(begun, Pause(0.1), RESET, end=False)
    )
    got = []
    with pytest.raises(errors.ServerError) as caught:
        got += [piece.text for piece in client.models.generate_content_stream(model="zeta", contents=PROMPT)]
    assert caught.value.status == "UNAVAILABLE"
    (row,) = served.settled(alice, 1)
    assert (row["status"], row["source"], row["http_status"], row["output"]) == ("error", "estimated", 200, 2)
    assert row["input"] > 0
    assert len(up.requests) == 1


ONE = json.dumps(HELLO).encode()


@pytest.mark.parametrize(
    ("came", "told"),
    [
        (b"[" + ONE + b"\n,\n", True),
        (b"[" + ONE, True),
        (b"[" + ONE + b",{", False),
        (b"[" + ONE + b',{"candidates": [{"content": {"parts": [{"text": "a]', False),
    ],
)
def test_an_array_that_breaks_off(served: Served, up: Replay, alice: Person, came: bytes, told: bool) -> None:
    """What came is passed on. If no object is torn, another one says what went wrong, and closes the array."""
    head, *_ = body_answer(b"", headers=[("content-type", "application/json")])
    assert isinstance(head, bytes)
    up.handler = answers((head.replace(b"content-length: 0", b"content-length: 5000"), came, Pause(0.1), RESET))
    answer = served.post(
        alice, {"contents": [{"parts": [{"text": PROMPT}]}]}, path="/v1/models/zeta:streamGenerateContent"
    )
    if told:
        assert answer.content.startswith(came)
        first, last = answer.json()
        assert first == HELLO
        assert last["error"]["status"] == "UNAVAILABLE" or "broke off" in last["error"]["message"]
    else:
        assert answer.content == came
    assert facts(served.settled(alice, 1)[0]) == ("error", "upstream", 200, EXACT)


# -- async


@pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession")
async def test_ten_streams_at_once(served: Served, up: Replay, alice: Person) -> None:
    up.handler = answers(STREAM)
    client = client_of(served, alice).aio

    async def one() -> str:
        stream = await client.models.generate_content_stream(model="zeta", contents=PROMPT)
        return "".join([piece.text or "" async for piece in stream])

    try:
        assert await asyncio.gather(*(one() for _ in range(10))) == ["hello"] * 10
        with pytest.raises(errors.ClientError):
            await client.models.generate_content(model="nonesuch", contents=PROMPT)
    finally:
        await client.aclose()
    rows = await served.settled_soon(alice, 10)
    assert {facts(row) for row in rows} == {("ok", "upstream", 200, EXACT)}
    assert served.balance(alice.name) == 10**9 - 10 * EXACT
