"""The three formats side by side on one model: the same keys, errors and headers, each in its own words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

import httpx
import pytest

from llmgate.store import limits
from tests.replay import HANG, RESET, Pause, Replay, Step, json_answer, sse, sse_answer
from tests.served import (
    INPUT_NANO,
    OUTPUT_NANO,
    PROMPT,
    SECRET,
    Person,
    Served,
    answers,
    chunk_of,
    completion,
    facts,
    main_upstream,
    usage_of,
)

EXACT = 10 * INPUT_NANO + 5 * OUTPUT_NANO

SAID = [{"role": "user", "content": PROMPT}]
CONTENTS = {"contents": [{"role": "user", "parts": [{"text": PROMPT}]}]}
MESSAGE = {
    "type": "message",
    "content": [{"type": "text", "text": "hello"}],
    "usage": {"input_tokens": 10, "output_tokens": 5},
}
GENERATED = {
    "candidates": [{"content": {"parts": [{"text": "hello"}]}, "finishReason": "STOP"}],
    "usageMetadata": {"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 15},
}
BEGUN = {"type": "message_start", "message": {**MESSAGE, "content": []}}
TEXT = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hello"}}
PIECE = {"candidates": [{"content": {"parts": [{"text": "hello"}]}}]}


class Spoken(NamedTuple):
    """One format: where its model is asked, how, and what an upstream says."""

    path: str
    stream_path: str
    body: Mapping[str, Any]
    answer: Mapping[str, Any]
    events: list[bytes]
    """The beginning of a stream."""


def spoken(version: str) -> Spoken:
    at = f"/{version}/models/zeta"
    return Spoken(f"{at}:generateContent", f"{at}:streamGenerateContent?alt=sse", CONTENTS, GENERATED, [sse(PIECE)])


FORMATS = {
    "openai": Spoken(
        "/v1/chat/completions",
        "/v1/chat/completions",
        {"model": "zeta", "messages": SAID},
        completion(usage=usage_of(10, 5)),
        [sse(chunk_of("hello"))],
    ),
    "anthropic": Spoken(
        "/v1/messages",
        "/v1/messages",
        {"model": "zeta", "max_tokens": 100, "messages": SAID},
        MESSAGE,
        [sse(BEGUN, "message_start"), sse(TEXT, "content_block_delta")],
    ),
    "gemini": spoken("v1beta"),
    "gemini v1": spoken("v1"),
}
SECRETS = {"openai": "authorization", "anthropic": "x-api-key", "gemini": "x-goog-api-key"}


@pytest.fixture(scope="module")
def upstream() -> Iterator[Replay]:
    with Replay() as up:
        yield up


@pytest.fixture
def up(upstream: Replay) -> Replay:
    upstream.requests.clear()
    return upstream


@pytest.fixture(scope="module")
def served(upstream: Replay, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    config = {
        "upstreams": {
            "o": main_upstream(upstream),
            "a": main_upstream(upstream, "/v1", format="anthropic", auth="header:x-api-key"),
            "g": main_upstream(upstream, "", format="gemini", auth="header:x-goog-api-key"),
        },
        "models": {
            "zeta": {"routes": [{"upstream": name} for name in "oag"]},
            "chats": {"routes": [{"upstream": "o"}]},
            "org/zeta": {"routes": [{"upstream": "g"}]},
        },
    }
    with Served(tmp_path_factory.mktemp("formats"), config) as served:
        yield served


@pytest.fixture
def alice(served: Served) -> Person:
    return served.person(credits="1")


def ask(served: Served, path: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> httpx.Response:
    return served.client.post(served.url + path, json=body, headers=headers)


def message_of(response: httpx.Response, format: str, status: int) -> str:  # noqa: A002
    """What an error says, after checking that it is in the words of its format and whole."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body, request_id = response.json(), response.headers["x-request-id"]
    error: dict[str, Any] = body["error"]
    match format.split()[0]:
        case "openai":
            assert sorted(body) == ["error"]
            assert sorted(error) == ["code", "message", "param", "type"]
        case "anthropic":
            assert (body["type"], body["request_id"]) == ("error", request_id)
            assert sorted(error) == ["message", "type"]
            assert response.headers["request-id"] == request_id
        case _:
            assert sorted(body) == ["error"]
            assert sorted(error) == ["code", "message", "status"]
            assert error["code"] == status
    return str(error["message"])


# -- keys


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("place", ["authorization", "x-api-key", "api-key", "x-goog-api-key"])
def test_a_key_wherever_it_stands(served: Served, up: Replay, alice: Person, format: str, place: str) -> None:  # noqa: A002
    """Whatever SDK sends it. It never reaches the upstream, which gets its own secret where it wants it."""
    there = FORMATS[format]
    up.handler = answers(json_answer(there.answer))
    key = f"Bearer {alice.key}" if place == "authorization" else alice.key
    answer = ask(served, there.path, there.body, {place: key})
    assert (answer.status_code, answer.json()) == (200, there.answer)
    (request,) = up.requests
    assert alice.key not in str(request)
    shown = {name: value for name, value in request.headers if name in SECRETS.values() or name == "api-key"}
    name = SECRETS[format.split()[0]]
    assert shown == {name: f"Bearer {SECRET}" if name == "authorization" else SECRET}
    assert request.path == there.path
    (row,) = served.settled(alice, 1)
    assert (facts(row), row["format"]) == (("ok", "upstream", 200, EXACT), format.split()[0])


@pytest.mark.parametrize("format", FORMATS)
def test_a_key_in_the_query(served: Served, up: Replay, alice: Person, format: str) -> None:  # noqa: A002
    """On Gemini's paths only: elsewhere it is no key, and isn't forwarded all the same."""
    there = FORMATS[format]
    up.handler = answers(json_answer(there.answer), sse_answer(*there.events, sse(there.answer)))
    answer = ask(served, f"{there.path}?key={alice.key}&x=1", there.body, {})
    if not format.startswith("gemini"):
        assert "no key" in message_of(answer, format, 401)
        assert ask(served, f"{there.path}?key={alice.key}&x=1", there.body, {"x-api-key": alice.key}).status_code == 200
        assert up.requests[0].path == f"{there.path}?x=1"
    else:
        assert answer.status_code == 200
        assert ask(served, f"{there.stream_path}&key={alice.key}", there.body, {}).status_code == 200
        assert [request.path for request in up.requests] == [f"{there.path}?x=1", there.stream_path]
        listed = served.client.get(f"{served.url}/v1beta/models?key={alice.key}")
        assert "models/zeta" in [model["name"] for model in listed.json()["models"]]
    assert alice.key not in str(up.requests)
    assert alice.key not in served.log()
    served.settled(alice, 2 if format.startswith("gemini") else 1)


@pytest.mark.parametrize("format", FORMATS)
def test_two_keys(served: Served, up: Replay, alice: Person, format: str) -> None:  # noqa: A002
    """Another vendor's beside ours is ignored; two of ours are none."""
    there, bob = FORMATS[format], served.person()
    up.handler = answers(json_answer(there.answer))
    assert ask(served, there.path, there.body, {"x-api-key": bob.key, "authorization": "Bearer sk-ant-x"}).is_success
    both = {"x-api-key": bob.key, "x-goog-api-key": alice.key}
    assert "two different" in message_of(ask(served, there.path, there.body, both), format, 401)
    assert "sk-ant-x" not in str(up.requests)
    served.settled(bob, 1)


# -- headers


def test_what_anthropics_clients_say_of_versions_goes_through(served: Served, up: Replay, alice: Person) -> None:
    there = FORMATS["anthropic"]
    up.handler = answers(json_answer(there.answer))
    versions = {"anthropic-version": "2026-10-21", "anthropic-beta": "a-2026-01-01,b-2026-01-01"}
    assert ask(served, f"{there.path}?beta=true", there.body, {"x-api-key": alice.key, **versions}).is_success
    (request,) = up.requests
    assert request.path == "/v1/messages?beta=true"
    assert {name: request.header(name) for name in versions} == versions
    served.settled(alice, 1)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_told_in_headers(served: Served, up: Replay, format: str, stream: bool) -> None:  # noqa: A002
    there, bob = FORMATS[format], served.person(credits="1")
    with served.tx() as tx:
        limits.hang(tx, bob.name, ("10 requests/day", "100000 tokens total"))
    theirs = [("x-ratelimit-limit-requests", "7"), ("anthropic-ratelimit-tokens-limit", "7"), ("x-request-id", "x")]
    theirs += [("x-llmgate-charge-usd", "7"), ("server", "theirs")]
    up.handler = answers(
        sse_answer(*there.events, headers=theirs) if stream else json_answer(there.answer, 200, theirs)
    )
    path, body = (there.stream_path, {**there.body}) if stream else (there.path, dict(there.body))
    if stream and not format.startswith("gemini"):
        body["stream"] = True
    told = ask(served, path, body, {"x-api-key": bob.key}).headers
    assert re.fullmatch("req_[0-9a-f]{24}", told["x-request-id"])
    assert told["server"] == "theirs"
    assert (told["x-llmgate-upstream"], told["x-llmgate-model"]) == (format[0], "zeta")
    prefix, other = "anthropic-ratelimit-{1}-{0}", "x-ratelimit-"
    if format != "anthropic":
        prefix, other = "x-ratelimit-{0}-{1}", "anthropic-ratelimit-"
    assert not [name for name in told if name.startswith(other)]
    assert told[prefix.format("limit", "requests")] == "10"
    assert told[prefix.format("remaining", "requests")] == "9"
    assert told[prefix.format("limit", "tokens")] == "100000"
    assert prefix.format("reset", "tokens") not in told  # it never is
    reset = told[prefix.format("reset", "requests")]
    if format == "anthropic":
        assert datetime.fromisoformat(reset).tzinfo is not None
    else:
        assert re.fullmatch(r"(\d+h)?(\d+m)?\d+s|\d+ms", reset)
    if stream:
        assert "x-llmgate-charge-usd" not in told
    else:
        assert (told["x-llmgate-charge-usd"], told["x-llmgate-balance-usd"]) == ("0.00002", "0.99998")
    served.settled(bob, 1)


@pytest.mark.parametrize("format", FORMATS)
def test_a_clamp_is_told(served: Served, up: Replay, format: str) -> None:  # noqa: A002
    """And the bound that is held is the bound that is sent, in the format's own field."""
    there, bob = FORMATS[format], served.person(credits="0.001")
    up.handler = answers(json_answer(there.answer))
    body = dict(there.body)
    if format == "anthropic":
        body["max_tokens"] = 5000
    answer = ask(served, there.path, body, {"x-api-key": bob.key})
    clamped = int(answer.headers["x-llmgate-clamped"])
    sent = up.requests[0].json()
    found = sent["generationConfig"]["maxOutputTokens"] if "contents" in sent else _bound(sent)
    assert 256 <= found == clamped <= 500
    served.settled(bob, 1)


def _bound(sent: Mapping[str, Any]) -> int:
    (bound,) = [sent[name] for name in ("max_tokens", "max_completion_tokens") if name in sent]
    return int(bound)


# -- errors


@pytest.mark.parametrize("format", FORMATS)
def test_each_error_in_its_words(served: Served, up: Replay, alice: Person, format: str) -> None:  # noqa: A002
    there, poor, blind = FORMATS[format], served.person(credits="0.00001"), served.person(models=["other"])
    key = {"x-api-key": alice.key}
    assert "no key" in message_of(ask(served, there.path, there.body, {}), format, 401)
    assert message_of(ask(served, there.path, there.body, {"x-api-key": poor.key}), format, 402)
    assert message_of(ask(served, there.path, there.body, {"x-api-key": blind.key}), format, 403)
    unknown = ask(served, there.path.replace("zeta", "a..b"), {**there.body, "model": "a..b"}, key)
    message_of(unknown, format, unknown.status_code)
    assert unknown.status_code in (400, 404)
    broken = served.client.post(served.url + there.path, content=b"{", headers=key)
    assert message_of(broken, format, 400)
    assert message_of(served.client.get(served.url + there.path, headers=key), format, 405)
    assert up.requests == []


@pytest.mark.parametrize(
    ("path", "body", "format"),
    [
        ("/v1/messages", {"model": "chats", "max_tokens": 1, "messages": SAID}, "anthropic"),
        ("/v1/messages/count_tokens", {"model": "chats", "messages": SAID}, "anthropic"),
        ("/v1beta/models/chats:generateContent", CONTENTS, "gemini"),
        ("/v1/models/chats:streamGenerateContent?alt=sse", CONTENTS, "gemini"),
        ("/v1/chat/completions", {"model": "org/zeta", "messages": SAID}, "openai"),
    ],
)
def test_a_model_of_another_format(
    served: Served,
    up: Replay,
    alice: Person,
    path: str,
    body: Mapping[str, Any],
    format: str,  # noqa: A002
) -> None:
    said = message_of(ask(served, path, body, {"x-api-key": alice.key}), format, 404)
    assert "is served in the format" in said
    assert up.requests == []


@pytest.mark.parametrize(
    ("path", "format"),
    [
        ("/v1/nonesuch", "openai"),
        ("/v1/messages/nonesuch", "anthropic"),
        ("/v1beta/nonesuch", "gemini"),
        ("/v1/models/zeta:nonesuch", "gemini"),
        ("/v1beta/models/zeta:nonesuch", "gemini"),
    ],
)
def test_nothing_is_there(served: Served, up: Replay, alice: Person, path: str, format: str) -> None:  # noqa: A002
    headers = {"x-goog-api-key" if format == "gemini" else "x-api-key": alice.key}
    assert message_of(ask(served, path, {}, headers), format, 404)
    assert up.requests == []


CUT: dict[str, tuple[Step, ...]] = {
    "broken off": (Pause(0.1), RESET),
    "within an event": (b"data: {", Pause(0.1), RESET),
}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("how", CUT)
def test_a_stream_that_breaks_off(served: Served, up: Replay, alice: Person, format: str, how: str) -> None:  # noqa: A002
    """What came is passed on as it came, then one event of the format says why it ends."""
    there = FORMATS[format]
    up.handler = answers(sse_answer(*there.events, *CUT[how], end=False))
    body = dict(there.body) if format.startswith("gemini") else {**there.body, "stream": True}
    got = ask(served, there.stream_path, body, {"x-api-key": alice.key}).content
    came = b"".join(there.events)
    assert got.startswith(came)
    lines = got.removeprefix(came).strip().splitlines()
    said = json.loads(lines[-1].removeprefix(b"data: "))
    assert "broke off" in said["error"]["message"]
    assert (lines[-2:-1] == [b"event: error"]) is (format == "anthropic")
    assert b"[DONE]" not in got
    assert facts(served.settled(alice, 1)[0])[:3] == ("error", "estimated", 200)


@pytest.mark.parametrize("format", FORMATS)
def test_a_client_that_leaves(served: Served, up: Replay, alice: Person, format: str) -> None:  # noqa: A002
    there = FORMATS[format]
    left = up.disconnects
    up.handler = answers(sse_answer(*there.events, HANG))
    body = dict(there.body) if format.startswith("gemini") else {**there.body, "stream": True}
    headers = {"x-api-key": alice.key}
    with served.client.stream("POST", served.url + there.stream_path, json=body, headers=headers) as answer:
        pieces, got = answer.iter_raw(), b""
        while len(got) < len(b"".join(there.events)):
            got += next(pieces)
    (row,) = served.settled(alice, 1)
    assert (row["status"], row["source"], row["output"], up.disconnects) == ("cancelled", "estimated", 2, left + 1)


# -- models


@pytest.mark.parametrize("version", ["v1", "v1beta", "v1alpha"])
def test_a_models_name_with_a_slash(served: Served, up: Replay, alice: Person, version: str) -> None:
    """In the path of Google's clients it is as good as any other, however it is written, and goes on as one segment."""
    up.handler = answers(json_answer(GENERATED))
    for name in ("org/zeta", "org%2Fzeta"):
        path = f"/{version}/models/{name}:generateContent"
        assert ask(served, path, CONTENTS, {"x-goog-api-key": alice.key}).status_code == 200
        assert ask(served, f"{path}?key={alice.key}", CONTENTS, {}).status_code == 200
    assert {request.path for request in up.requests} == {f"/{version}/models/org%2Fzeta:generateContent"}
    served.settled(alice, 4)


@pytest.mark.parametrize(
    ("path", "headers", "shape"),
    [
        ("/v1/models", {}, "data"),
        ("/v1/models", {"anthropic-version": "2023-06-01"}, "has_more"),
        ("/v1beta/models", {}, "models"),
    ],
)
def test_models_in_the_words_of_who_asks(
    served: Served, alice: Person, path: str, headers: Mapping[str, str], shape: str
) -> None:
    got = served.client.get(served.url + path, headers={"x-api-key": alice.key, **headers}).json()
    assert shape in got
    (listed,) = [value for name, value in got.items() if isinstance(value, list)]
    names = [model.get("id") or model["name"].removeprefix("models/") for model in listed]
    assert "zeta" in names
    assert ("chats" in names) is (shape == "data")
    assert ("org/zeta" in names) is (shape == "models")
    assert all("pricing" in model for model in listed)
