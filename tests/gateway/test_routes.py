"""Requests that walk several routes: fallbacks, secrets in turn, routes that failed lately, tries billed in vain."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from llmgate.gateway import forwarding
from llmgate.store import accounts, limits
from tests.replay import (
    CLOSE,
    HANG,
    RESET,
    Pause,
    Replay,
    Request,
    Step,
    body_answer,
    head,
    json_answer,
    sse,
    sse_answer,
    until,
)
from tests.served import (
    DONE,
    INPUT_BOUND,
    INPUT_NANO,
    OUTPUT_NANO,
    Inside,
    Person,
    answers,
    completion,
    facts,
    main_upstream,
    usage_chunk,
    usage_of,
    words,
)

EXACT = 10 * INPUT_NANO + 5 * OUTPUT_NANO
DEAR = 10 * EXACT
WASTED = 7 * INPUT_NANO + 3 * OUTPUT_NANO
OK = json_answer(completion("hello", usage=usage_of(10, 5)))
STREAM = sse_answer(*words("hello"), sse(usage_chunk(10, 5)), DONE)
BUSY = json_answer({"error": {"message": "busy"}}, 503, [("retry-after", "0")])
BILLED = json_answer({"error": {"message": "busy"}, "usage": usage_of(7, 3)}, 503, [("retry-after", "0")])


@pytest.fixture(scope="module")
def upstream() -> Iterator[Replay]:
    with Replay() as up:
        yield up


@pytest.fixture
def up(upstream: Replay) -> Replay:
    upstream.requests.clear()
    upstream.handler = answers(OK)
    return upstream


def config_for(up: Replay) -> dict[str, Any]:
    return {
        "upstreams": {
            "main": main_upstream(up),
            "other": main_upstream(up, "/other/v1", price={"input": 10, "output": 20}),
            "third": main_upstream(up, "/third/v1"),
            "keyring": main_upstream(up, api_key=["sk-a", "sk-b", "sk-c"]),
            "asked": main_upstream(up, api_key=["sk-a", "sk-b"], auth="query:secret"),
            "quick": main_upstream(up, timeout={"first_byte": 0.3, "idle": 0.3}),
        },
        "models": {
            "prime": {"routes": [{"upstream": "main", "model": "big"}], "fallbacks": ["spare", "third/last"]},
            "spare": {"routes": [{"upstream": "other", "model": "small"}]},
            "pair": {
                "routes": [
                    {"upstream": "main", "model": "a", "weight": 2**31},
                    {"upstream": "third", "model": "b"},
                ]
            },
            "slow": {
                "routes": [
                    {"upstream": "quick", "model": "a", "weight": 2**31},
                    {"upstream": "third", "model": "b"},
                ]
            },
        },
        "plans": {"narrow": {"models": ["prime", "third/*"]}},
    }


@pytest.fixture
async def inside(up: Replay, tmp_path: Path) -> AsyncIterator[Inside]:
    async with Inside(tmp_path, config_for(up)) as inside:
        yield inside


def by_path(up: Replay, **scripts: Sequence[Step]) -> None:
    """What each upstream answers: `main`, `other`, `third`."""

    def handler(request: Request) -> Sequence[Step]:
        name = request.path.split("/")[1]
        return scripts["main" if name == "v1" else name]

    up.handler = handler


def asked(up: Replay) -> list[str]:
    """Who was asked, in order: the upstream's path and its name for the model."""
    return [f"{request.path.split('/')[1]} {request.json()['model']}" for request in up.requests]


async def chat(inside: Inside, person: Person, **fields: Any) -> int | None:
    client, serving = inside.ask(person, **fields)
    await serving
    return client.status


# -- fallbacks


@pytest.mark.parametrize("stream", [False, True])
async def test_a_fallback_answers_where_no_route_does(inside: Inside, up: Replay, stream: bool) -> None:
    alice = inside.person(credits="1")
    by_path(up, main=BUSY, other=STREAM if stream else OK, third=OK)
    client, serving = inside.ask(alice, model="prime", stream=stream)
    await serving
    assert client.status == 200
    assert asked(up) == ["v1 big"] * 3 + ["other small"]
    headers = dict(client.messages[0]["headers"])
    assert (headers[b"x-llmgate-upstream"], headers[b"x-llmgate-model"]) == (b"other", b"small")
    (row,) = await inside.settled_soon(alice, 1)
    assert facts(row) == ("ok", "upstream", 200, DEAR)  # at its own price
    assert (row["model"], row["upstream"], row["upstream_model"]) == ("prime", "other", "small")
    assert inside.balance(alice.name) == 10**9 - DEAR


async def test_fallbacks_are_asked_in_their_order_and_the_last_word_is_told(inside: Inside, up: Replay) -> None:
    alice = inside.person(credits="1")
    by_path(
        up, main=BUSY, other=BUSY, third=json_answer({"error": {"message": "the last"}}, 500, [("retry-after", "0")])
    )
    client, serving = inside.ask(alice, model="prime")
    await serving
    assert (client.status, b"the last" in client.got) == (500, True)
    assert asked(up) == ["v1 big"] * 3 + ["other small"] * 3 + ["third last"] * 3
    assert facts((await inside.settled_soon(alice, 1))[0]) == ("error", "upstream", 500, 0)


async def test_the_quote_covers_the_dearest_fallback(inside: Inside, up: Replay) -> None:
    alice = inside.person(credits="1")
    up.handler = answers((Pause(0.3), *OK))
    _, serving = inside.ask(alice, model="prime", max_tokens=100)
    await until(lambda: len(up.requests) == 1)
    assert inside.value("SELECT amount_nano FROM holds") == 10 * (INPUT_BOUND * INPUT_NANO + 100 * OUTPUT_NANO)
    await serving
    assert facts((await inside.settled_soon(alice, 1))[0]) == ("ok", "upstream", 200, EXACT)


@pytest.mark.parametrize(
    ("models", "plan", "walked"),
    [
        (["prime"], None, []),
        (["prime", "spare"], None, ["other small"]),
        (["prime", "third/*"], None, ["third last"]),
        (["prime", "other/*"], None, ["other small"]),  # by any of its names
        (None, "narrow", ["third last"]),
        (["prime", "spare"], "narrow", []),
        (None, None, ["other small"]),
    ],
)
async def test_a_fallback_that_the_caller_may_not_use_is_not_asked(
    inside: Inside, up: Replay, models: list[str] | None, plan: str | None, walked: list[str]
) -> None:
    alice = inside.person(credits="1", models=models)
    if plan:
        with inside.tx() as tx:
            accounts.set_user(tx, alice.name, {"plan": plan})
    by_path(up, main=BUSY, other=OK, third=OK)
    assert await chat(inside, alice, model="prime") == (200 if walked else 503)
    assert asked(up) == ["v1 big"] * 3 + walked
    await inside.settled_soon(alice, 1)


async def test_a_fallback_opens_no_door(inside: Inside, up: Replay) -> None:
    """Who may use the fallback may not therefore use what it stands in for."""
    alice = inside.person(credits="1", models=["spare", "third/last"])
    client, serving = inside.ask(alice, model="prime")
    await serving
    assert (client.status, b"model_not_allowed" in client.got) == (403, True)
    assert up.requests == []
    assert await chat(inside, alice, model="spare") == 200


@pytest.mark.parametrize("glob", ["prime", "main/big", "spare", "other/small", "third/*"])
async def test_a_limit_counts_whatever_may_answer(inside: Inside, up: Replay, glob: str) -> None:
    alice = inside.person()
    with inside.tx() as tx:
        limits.hang(tx, alice.name, [f"2 requests total on {glob}"])
    assert [await chat(inside, alice, model="prime") for _ in range(3)] == [200, 200, 429]
    assert len(up.requests) == 2


# -- several secrets


def secrets_of(up: Replay) -> list[str | None]:
    return [request.header("authorization") for request in up.requests]


def with_secrets(good: str, refusal: Sequence[Step], up: Replay) -> None:
    """An upstream that takes one secret alone."""
    up.handler = lambda request: OK if request.header("authorization") == f"Bearer {good}" else refusal


async def test_secrets_are_used_in_turn(inside: Inside, up: Replay) -> None:
    alice = inside.person()
    for _ in range(4):
        assert await chat(inside, alice, model="keyring/zeta") == 200
    assert secrets_of(up) == ["Bearer sk-a", "Bearer sk-b", "Bearer sk-c", "Bearer sk-a"]


async def test_secrets_in_the_query_are_used_in_turn(inside: Inside, up: Replay) -> None:
    alice = inside.person()
    for _ in range(3):
        assert await chat(inside, alice, model="asked/zeta") == 200
    assert [request.path.partition("?")[2] for request in up.requests] == ["secret=sk-a", "secret=sk-b", "secret=sk-a"]


@pytest.mark.parametrize("status", [401, 402, 403, 429])
async def test_a_secret_that_is_refused_is_followed_by_the_next_at_once(
    inside: Inside, up: Replay, status: int
) -> None:
    alice = inside.person(credits="1")
    with_secrets("sk-c", body_answer(b"", status, [("retry-after", "3600")]), up)
    assert await chat(inside, alice, model="keyring/zeta") == 200
    assert secrets_of(up) == ["Bearer sk-a", "Bearer sk-b", "Bearer sk-c"]
    assert facts((await inside.settled_soon(alice, 1))[0]) == ("ok", "upstream", 200, EXACT)


WRONG_SECRET = {
    "code": 400,
    "message": "API key not valid. Please pass a valid API key.",
    "status": "INVALID_ARGUMENT",
    "details": [
        {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"},
        {"@type": "type.googleapis.com/google.rpc.LocalizedMessage", "message": "API key not valid."},
    ],
}
REFUSING_US: dict[str, tuple[int, Any]] = {
    "google": (400, {"error": WRONG_SECRET}),
    "google, to a stream": (400, [{"error": WRONG_SECRET}]),
    "openai": (429, {"error": {"message": "You exceeded your current quota", "type": "insufficient_quota"}}),
    "xai": (400, {"code": "Client specified an invalid argument", "error": "Incorrect API key provided: up***"}),
    "openai, by code": (429, {"error": {"type": "billing", "code": "project_spend_limit_exceeded"}}),
    "anthropic": (400, {"type": "error", "error": {"message": "Your credit balance is too low to access the API"}}),
    "anthropic, by code": (
        429,
        {"type": "error", "error": {"message": "no", "details": {"error_code": "enforced_spend_limit_reached"}}},
    ),
}
"""Errors whose status says something else."""


@pytest.mark.parametrize("case", REFUSING_US)
async def test_an_error_that_refuses_us_is_followed_by_the_next_secret(inside: Inside, up: Replay, case: str) -> None:
    status, said = REFUSING_US[case]
    alice = inside.person(credits="1")
    with_secrets("sk-c", json_answer(said, status, [("retry-after", "3600")]), up)
    assert await chat(inside, alice, model="keyring/zeta") == 200
    assert secrets_of(up) == ["Bearer sk-a", "Bearer sk-b", "Bearer sk-c"]
    assert facts((await inside.settled_soon(alice, 1))[0]) == ("ok", "upstream", 200, EXACT)


@pytest.mark.parametrize("case", REFUSING_US)
async def test_an_error_that_refuses_us_is_not_the_clients(inside: Inside, up: Replay, case: str) -> None:
    status, said = REFUSING_US[case]
    alice = inside.person(credits="1")
    up.handler = answers(json_answer(said, status))
    client, serving = inside.ask(alice)
    await serving
    assert (client.status, json.loads(client.got)["error"]["code"]) == (502, "upstream_auth")
    assert (b"x-should-retry", b"false") in client.messages[0]["headers"]
    assert f"(HTTP {status})".encode() in client.got
    assert not [word for word in ("API key", "quota", "balance") if word.encode() in client.got]
    assert len(up.requests) == 1  # asked again it would say the same
    assert facts((await inside.settled_soon(alice, 1))[0]) == ("error", "upstream", 502, 0)


@pytest.mark.parametrize(
    "said",
    [
        {"error": {"code": 400, "status": "INVALID_ARGUMENT", "details": [{"reason": "FIELD_INVALID"}, 7]}},
        {"error": {"message": "API_KEY_INVALID", "details": {"error_code": 7}}},
        {"error": {"message": "x" * 2**17, "type": "insufficient_quota"}},  # too long to be one
        {"error": "insufficient_quota"},
        [],
        "insufficient_quota",
    ],
)
async def test_other_errors_are_the_clients_as_they_came(inside: Inside, up: Replay, said: Any) -> None:
    alice = inside.person(credits="1")
    up.handler = answers(json_answer(said, 400))
    client, serving = inside.ask(alice)
    await serving
    assert (client.status, client.got) == (400, json.dumps(said).encode())
    assert facts((await inside.settled_soon(alice, 1))[0]) == ("error", "upstream", 400, 0)


async def test_an_error_that_breaks_off(inside: Inside, up: Replay) -> None:
    alice = inside.person(credits="1")
    up.handler = answers((head(400, [("content-length", "99")]) + b'{"error":', RESET))
    assert await chat(inside, alice) == 502
    assert facts((await inside.settled_soon(alice, 1))[0]) == ("error", "upstream", 502, 0)


async def test_secrets_that_are_all_refused(inside: Inside, up: Replay) -> None:
    alice = inside.person(credits="1")
    with_secrets("none", body_answer(b"", 401), up)
    client, serving = inside.ask(alice, model="keyring/zeta")
    await serving
    assert (client.status, b"upstream_auth" in client.got) == (502, True)
    assert len(up.requests) == 3
    assert facts((await inside.settled_soon(alice, 1))[0]) == ("error", "upstream", 502, 0)


async def test_secrets_that_are_all_overloaded_are_tried_again_as_one(inside: Inside, up: Replay) -> None:
    alice = inside.person(credits="1")
    with_secrets("none", body_answer(b"", 429, [("retry-after", "0")]), up)
    assert await chat(inside, alice, model="keyring/zeta") == 429
    assert len(up.requests) == 5
    await inside.settled_soon(alice, 1)


async def test_a_refused_secret_leads_to_the_next_route(inside: Inside, up: Replay) -> None:
    alice = inside.person(credits="1")
    by_path(up, main=body_answer(b"", 401), third=OK)
    assert await chat(inside, alice, model="pair") == 200
    assert asked(up) == ["v1 a", "third b"]


async def test_routes_that_all_refuse_our_secret(inside: Inside, up: Replay) -> None:
    alice = inside.person(credits="1")
    up.handler = answers(body_answer(b"", 401))
    client, serving = inside.ask(alice, model="pair")
    await serving
    assert (client.status, b"upstream_unavailable" in client.got) == (503, True)
    assert facts((await inside.settled_soon(alice, 1))[0]) == ("error", "upstream", 503, 0)


# -- routes that failed lately


def over(inside: Inside) -> None:
    """The time that routes are left alone is over."""
    for cooling in inside.gateway._forwarding.cooldown._cooling.values():
        cooling.until = 0


async def test_a_route_that_failed_is_left_alone_until_a_probe_went_well(inside: Inside, up: Replay) -> None:
    alice = inside.person()
    by_path(up, main=BUSY, third=OK)
    for _ in range(3):
        assert await chat(inside, alice, model="pair") == 200
    assert asked(up) == ["v1 a"] * 3 + ["third b"] * 3
    up.requests.clear()
    over(inside)
    for _ in range(2):
        assert await chat(inside, alice, model="pair") == 200
    assert asked(up) == ["v1 a"] * 3 + ["third b"] * 2  # the probe went badly
    up.requests.clear()
    over(inside)
    by_path(up, main=OK, third=OK)
    for _ in range(2):
        assert await chat(inside, alice, model="pair") == 200
    assert asked(up) == ["v1 a"] * 2


async def test_one_request_alone_is_the_probe(inside: Inside, up: Replay) -> None:
    alice = inside.person()
    by_path(up, main=BUSY, third=OK)
    assert await chat(inside, alice, model="pair") == 200
    up.requests.clear()
    over(inside)
    by_path(up, main=(Pause(0.3), *OK), third=OK)
    _, probe = inside.ask(alice, model="pair")
    await until(lambda: len(up.requests) == 1)
    assert await chat(inside, alice, model="pair") == 200
    await probe
    assert asked(up) == ["v1 a", "third b"]


async def test_the_last_route_is_never_left_alone(inside: Inside, up: Replay) -> None:
    alice = inside.person()
    up.handler = answers(BUSY)
    for _ in range(2):
        assert await chat(inside, alice, model="pair") == 503
        assert await chat(inside, alice, model="main/a") == 503
    assert len(up.requests) == 2 * 6 + 2 * 3
    up.handler = answers(OK)
    assert await chat(inside, alice, model="pair") == 200


async def test_another_model_of_the_same_upstream_is_not_left_alone(inside: Inside, up: Replay) -> None:
    alice = inside.person()
    by_path(up, main=BUSY, third=OK, other=OK)
    assert await chat(inside, alice, model="pair") == 200
    up.requests.clear()
    by_path(up, main=OK, third=OK, other=OK)
    assert await chat(inside, alice, model="prime") == 200
    assert asked(up) == ["v1 big"]


async def test_a_route_that_does_not_answer_in_time_is_left_alone(inside: Inside, up: Replay) -> None:
    alice = inside.person()
    up.handler = answers((HANG,), OK)
    assert await chat(inside, alice, model="slow") == 504
    assert await chat(inside, alice, model="slow") == 200
    assert asked(up) == ["v1 a", "third b"]


async def test_a_client_that_leaves_puts_no_route_aside(inside: Inside, up: Replay) -> None:
    alice = inside.person()
    up.handler = answers(json_answer({}, 503, [("retry-after", "1")]), OK)
    client, serving = inside.ask(alice, model="pair")
    await until(lambda: len(up.requests) == 1)
    client.left.set()
    await serving
    assert await chat(inside, alice, model="pair") == 200
    assert asked(up) == ["v1 a"] * 2


async def test_a_reload_forgets_which_routes_failed(inside: Inside, up: Replay) -> None:
    """The admin may have mended them."""
    alice = inside.person()
    by_path(up, main=BUSY, third=OK)
    assert await chat(inside, alice, model="pair") == 200
    inside.reload(config_for(up))
    by_path(up, main=OK, third=OK)
    up.requests.clear()
    assert await chat(inside, alice, model="pair") == 200
    assert asked(up) == ["v1 a"]


# -- billed in vain


def attempts(inside: Inside) -> list[tuple[Any, ...]]:
    with inside.view() as tx:
        found = tx.execute(
            "SELECT upstream, upstream_model, http_status, source, input, output, cost_nano, cost_source FROM attempts"
        ).fetchall()
    return [tuple(row) for row in found]


VAIN = ("upstream", 7, 3, WASTED, "config")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_try_that_was_billed_and_failed_is_the_houses_cost(inside: Inside, up: Replay, stream: bool) -> None:
    alice = inside.person(credits="1")
    up.handler = answers(BILLED, BUSY, STREAM if stream else OK)
    assert await chat(inside, alice, stream=stream) == 200
    (row,) = await inside.settled_soon(alice, 1)
    assert facts(row) == ("ok", "upstream", 200, EXACT)
    assert (row["cost_nano"], row["wasted_nano"]) == (EXACT, WASTED)
    assert attempts(inside) == [("main", "zeta", 503, *VAIN)]
    assert inside.balance(alice.name) == 10**9 - EXACT


async def test_tries_that_were_all_billed_and_failed(inside: Inside, up: Replay) -> None:
    """The last one as well, although its answer is the client's."""
    alice = inside.person(credits="1")
    up.handler = answers(BILLED)
    client, serving = inside.ask(alice)
    await serving
    assert (client.status, b'"usage"' in client.got) == (503, True)
    (row,) = await inside.settled_soon(alice, 1)
    assert facts(row) == ("error", "upstream", 503, 0)
    assert (row["cost_nano"], row["wasted_nano"], row["input"], row["output"]) == (0, 3 * WASTED, 0, 0)
    assert attempts(inside) == [("main", "zeta", 503, *VAIN)] * 3
    assert inside.balance(alice.name) == 10**9


ERROR = {"error": {"message": "broken"}}
LONGER = head(200, [("content-type", "application/json"), ("content-length", "999")])
WHOLE = json.dumps(completion("hello", usage=usage_of(7, 3))).encode()


@pytest.mark.parametrize(
    ("script", "status", "told"),
    [
        (json_answer(ERROR | {"usage": usage_of(7, 3)}), 200, 200),
        (json_answer(ERROR | {"usage": usage_of(7, 3)}, 400), 400, 400),
        (sse_answer(sse(ERROR | {"usage": usage_of(7, 3)})), 200, 200),
        (sse_answer(sse(usage_chunk(7, 3)), CLOSE, end=False), 200, 200),
        ((LONGER, WHOLE, Pause(0.1), RESET), 200, 502),
    ],
    ids=["an error with 200", "a refusal", "a stream of an error", "a stream of its usage alone", "not to its end"],
)
async def test_an_answer_that_was_billed_and_brought_nothing(
    inside: Inside, up: Replay, script: Sequence[Step], status: int, told: int
) -> None:
    alice = inside.person(credits="1")
    up.handler = answers(script)
    assert await chat(inside, alice, stream=True) == told
    (row,) = await inside.settled_soon(alice, 1)
    assert (row["status"], row["charge_nano"], row["cost_nano"], row["wasted_nano"]) == ("error", 0, 0, WASTED)
    assert attempts(inside) == [("main", "zeta", status, *VAIN)]
    assert inside.balance(alice.name) == 10**9


@pytest.mark.parametrize(
    ("text", "usage", "charge", "wasted"),
    [
        ("", None, 0, 0),
        ("", usage_of(7, 0), 0, 7 * INPUT_NANO),
        ("half", usage_of(7, 3), WASTED, 0),  # which was delivered
    ],
)
async def test_a_choice_that_failed(
    inside: Inside, up: Replay, text: str, usage: dict[str, Any] | None, charge: int, wasted: int
) -> None:
    """OpenRouter answers with HTTP 200 also then."""
    alice = inside.person(credits="1")
    error = {"code": 502, "message": "Provider returned error"}
    choice = {"index": 0, "message": {"content": text}, "finish_reason": "error", "error": error}
    up.handler = answers(json_answer(completion(usage=usage, choices=[choice])))
    assert await chat(inside, alice) == 200
    (row,) = await inside.settled_soon(alice, 1)
    assert (row["status"], row["charge_nano"], row["wasted_nano"]) == ("error", charge, wasted)


async def test_a_refusal_without_end_does_not_hold_up_the_next_try(
    inside: Inside, up: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwarding, "IN_VAIN_PATIENCE_S", 0.05)
    alice = inside.person(credits="1")
    begun = head(503, [("retry-after", "0"), ("content-length", "9999")])
    up.handler = answers((begun, b'{"usage": {"prompt', HANG), OK)
    assert await chat(inside, alice) == 200
    (row,) = await inside.settled_soon(alice, 1)
    assert (*facts(row), row["wasted_nano"]) == ("ok", "upstream", 200, EXACT, 0)


async def test_of_a_refusal_only_so_much_is_read(inside: Inside, up: Replay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarding, "MOST_IN_VAIN", 1000)
    alice = inside.person(credits="1")
    begun = head(503, [("retry-after", "0"), ("content-length", "999999")])
    up.handler = answers((begun, b" " * 2000, HANG), OK)
    assert await chat(inside, alice) == 200
    assert facts((await inside.settled_soon(alice, 1))[0]) == ("ok", "upstream", 200, EXACT)


async def test_a_pause_longer_than_the_time_for_the_first_byte(inside: Inside, up: Replay) -> None:
    """Nobody is slow while nobody is asked."""
    alice = inside.person(credits="1")
    up.handler = answers(json_answer({}, 503, [("retry-after", "0.6")]), OK)
    assert await chat(inside, alice, model="quick/zeta") == 200
    assert len(up.requests) == 2
