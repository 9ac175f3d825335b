"""The walk of a request through a real daemon: what the upstream is asked, what the client gets, what the books say."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import httpx
import pytest

from llmgate.money import parse_usd, usd
from llmgate.store import accounts, keys, ledger
from llmgate.types import METERS, Billing
from tests.replay import (
    CLOSE,
    HANG,
    RESET,
    Pause,
    Replay,
    Request,
    Step,
    body_answer,
    chunk,
    head,
    json_answer,
    sse,
    sse_answer,
    wait_until,
)
from tests.served import (
    DONE,
    ESTIMATED_INPUT,
    INPUT_BOUND,
    INPUT_NANO,
    OUTPUT_NANO,
    PRICE,
    SECRET,
    Person,
    Served,
    answers,
    chat_body,
    chunk_of,
    completion,
    error_of,
    estimate,
    facts,
    main_upstream,
    usage_chunk,
    usage_of,
    words,
)

MAX_OUTPUT = 1000
FLOOR_NANO = INPUT_BOUND * INPUT_NANO + 256 * OUTPUT_NANO
"""The least that a request without a bound of its own may be held at."""

OK = json_answer(completion("hello", usage=usage_of(10, 5)))
OK_NANO = 10 * INPUT_NANO + 5 * OUTPUT_NANO


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
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
    quick = {"first_byte": 0.3, "idle": 0.3}
    config = {
        "defaults": {"max_output": MAX_OUTPUT},
        "upstreams": {
            "main": main_upstream(upstream),
            "openai": main_upstream(upstream, "/openai/v1"),
            "local": main_upstream(upstream, "/local/v1", preset="ollama"),
            "silent": main_upstream(upstream, ask_usage=False),
            "router": {"base_url": upstream.url + "/router/v1", "api_key": SECRET, "preset": "openrouter"},
            "resold": main_upstream(upstream, "/router/v1", preset="openrouter"),
            "dressed": main_upstream(
                upstream,
                auth="header:x-secret",
                headers={"X-Title": "intranet", "OpenAI-Organization": "house"},
                query={"api-version": "2024-10-21", "mode": "a b"},
            ),
            "queried": main_upstream(upstream, auth="query:sig"),
            "open": {"base_url": upstream.url + "/v1", "auth": "none", "price": "free"},
            "fresh": main_upstream(upstream),  # never has an idle connection: none of its answers is whole
            "quick": main_upstream(upstream, timeout=quick),
            "thinker": main_upstream(upstream, timeout={"first_byte": 10, "idle": 0.3}),
            "trickler": main_upstream(upstream, timeout={"first_byte": 0.3, "idle": 10}),
            "short": main_upstream(upstream, timeout={"total": 0.5}),
            "down": {"base_url": nowhere, "auth": "none", "price": PRICE},
            "down2": {"base_url": nowhere, "auth": "none", "price": PRICE},
        },
        "models": {
            "zeta": {"routes": [{"upstream": "main"}]},
            "alias": {"routes": [{"upstream": "main", "model": "org/zeta:1"}], "price": {"input": 3, "output": 4}},
            "pair": {"routes": [{"upstream": "down"}, {"upstream": "main", "model": "zeta"}]},
            "both-down": {"routes": [{"upstream": "down"}, {"upstream": "down2"}]},
            "second": {"routes": [{"upstream": "openai", "weight": 2**31}, {"upstream": "main"}]},
        },
    }
    with Served(tmp_path_factory.mktemp("walk"), config) as served:
        yield served


def row_of(served: Served, person: Person) -> dict[str, Any]:
    return served.settled(person, 1)[0]


def meters(row: dict[str, Any]) -> dict[str, int]:
    return {name: row[name] for name in METERS if row[name] and name != "calls"}


def last_event(stream: bytes) -> Any:
    """The payload of the last event of a stream."""
    event = stream.removesuffix(b"\n\n").rpartition(b"\n\n")[2]
    return json.loads(event.removeprefix(b"data: "))


# -- a plain answer


def test_a_plain_answer(served: Served, up: Replay) -> None:
    alice = served.person()
    answer = served.chat(alice)
    assert answer.status_code == 200
    assert answer.content == OK[0].partition(b"\r\n\r\n")[2]  # type: ignore[union-attr]
    assert answer.headers["x-llmgate-charge-usd"] == usd(OK_NANO) == "0.00002"
    assert "x-llmgate-balance-usd" not in answer.headers
    row = row_of(served, alice)
    assert row["request_id"] == answer.headers["x-request-id"]
    assert facts(row) == ("ok", "upstream", 200, OK_NANO)
    assert meters(row) == {"input": 10, "output": 5}
    assert (row["model"], row["upstream"], row["upstream_model"]) == ("main/zeta", "main", "zeta")
    assert (row["endpoint"], row["format"], row["streamed"], row["overrun"]) == ("chat", "openai", 0, 0)
    assert (row["cost_nano"], row["cost_source"], row["key"], row["user"]) == (OK_NANO, "config", "default", alice.name)
    (request,) = up.requests
    assert (request.method, request.path) == ("POST", "/v1/chat/completions")
    assert request.json() == chat_body(model="zeta")


def test_embeddings(served: Served, up: Replay) -> None:
    alice = served.person(credits="1")
    up.handler = answers(json_answer({"object": "list", "data": [], "usage": {"prompt_tokens": 8, "total_tokens": 8}}))
    body = {"model": "main/zeta", "input": ["ab", "cd"], "stream": True}
    answer = served.post(alice, body, path="/v1/embeddings")
    assert answer.status_code == 200
    assert answer.headers["x-llmgate-charge-usd"] == "0.000008"
    (request,) = up.requests
    assert request.path == "/v1/embeddings"
    assert request.json() == body | {"model": "zeta"}  # no bound, no stream options: there is nothing to bound
    row = row_of(served, alice)
    assert facts(row) == ("ok", "upstream", 200, 8 * INPUT_NANO)
    assert (row["endpoint"], row["hold_nano"]) == ("embeddings", (4 + 2 * 4 + 128) * INPUT_NANO)


def test_charge_and_balance_are_told(served: Served, up: Replay) -> None:
    alice = served.person(credits="1")
    answer = served.chat(alice)
    assert answer.headers["x-llmgate-charge-usd"] == "0.00002"
    assert answer.headers["x-llmgate-balance-usd"] == "0.99998"
    assert served.balance(alice.name) == parse_usd("1") - OK_NANO
    assert row_of(served, alice)["bounded"] == 1


def test_a_teams_balance_is_not_told_to_its_members(served: Served, up: Replay) -> None:
    with served.tx() as tx:
        accounts.add_team(tx, "research")
        ledger.add(tx, "team:research", parse_usd("1"))
    alice = served.person(team="research")
    answer = served.chat(alice)
    assert answer.headers["x-llmgate-charge-usd"] == "0.00002"
    assert "x-llmgate-balance-usd" not in answer.headers
    assert served.balance("team:research") == parse_usd("1") - OK_NANO
    assert row_of(served, alice)["team"] == "research"


def test_the_price_of_an_alias(served: Served, up: Replay) -> None:
    alice = served.person()
    for name in ("alias", "main/org/zeta:1"):
        assert served.chat(alice, model=name).headers["x-llmgate-charge-usd"] == "0.00005"
    assert [request.json()["model"] for request in up.requests] == ["org/zeta:1", "org/zeta:1"]
    assert [row["model"] for row in served.settled(alice, 2)] == ["alias", "main/org/zeta:1"]


def test_a_usage_above_the_hold_is_charged_and_ends_it(served: Served, up: Replay) -> None:
    alice = served.person(credits="0.003")
    up.handler = answers(json_answer(completion(usage=usage_of(1_000_000, 0))))
    answer = served.chat(alice)
    assert answer.headers["x-llmgate-balance-usd"] == "-0.997"
    row = row_of(served, alice)
    assert facts(row) == ("ok", "upstream", 200, 1_000_000 * INPUT_NANO)
    assert row["overrun"] == 1
    error_of(served.chat(alice), 402, "insufficient_credits")


@pytest.mark.parametrize("count", [10**15, 9e15, 10**18, 10**30])
def test_an_impossible_usage_is_none(served: Served, up: Replay, count: float) -> None:
    alice = served.person(credits="1")
    usage = {"prompt_tokens": count, "completion_tokens": count, "total_tokens": 2 * count, "cost": count}
    up.handler = answers(json_answer(completion("hello", usage=usage)))
    assert served.chat(alice).status_code == 200
    assert facts(row_of(served, alice)) == ("ok", "estimated", 200, estimate(5))


def test_metered_accounts_are_never_stopped(served: Served, up: Replay) -> None:
    alice = served.person(credits="0.000001", billing=Billing.METERED)
    up.handler = answers(json_answer(completion(usage=usage_of(1_000_000, 0))))
    assert served.chat(alice).status_code == 200
    assert served.chat(alice).status_code == 200
    assert [row["overrun"] for row in served.settled(alice, 2)] == [0, 0]
    assert served.balance(alice.name) < 0


# -- what the upstream is asked


def test_nothing_is_changed_without_need(served: Served, up: Replay) -> None:
    """Byte for byte: whitespace, escapes, the order, repeated fields that llmgate doesn't read."""
    alice = served.person()
    body = (
        b'{ "messages" :\t[{"role":"user","content":"\\u00fc\xc3\xbc\\/"}],\r\n "x":1.50, "x":1e400, "model":"zeta"}\n'
    )
    assert served.post(alice, body).status_code == 200
    assert up.requests[0].body == body
    up.handler = answers(sse_answer(DONE))
    body = b'{"stream" : true,"stream_options":{"include_usage":true, "y":[ ]},"model":"zeta"}'
    assert served.post(alice, body).status_code == 200
    assert up.requests[1].body == body


@pytest.mark.parametrize(
    ("name", "fields", "sent"),
    [
        ("main", {}, {"max_tokens": MAX_OUTPUT}),
        ("openai", {}, {"max_completion_tokens": MAX_OUTPUT}),
        ("local", {}, {"max_tokens": MAX_OUTPUT}),
        ("router", {}, {"max_tokens": MAX_OUTPUT}),
        ("main", {"max_tokens": None}, {"max_tokens": MAX_OUTPUT}),
        ("main", {"max_tokens": 7}, {"max_tokens": 7}),
        ("main", {"n_predict": 7}, {"n_predict": 7}),
        ("openai", {"max_tokens": 7}, {"max_tokens": 7}),
        ("openai", {"n_predict": 7}, {"n_predict": 7, "max_completion_tokens": 7}),
        ("local", {"max_completion_tokens": 7}, {"max_completion_tokens": 7, "max_tokens": 7}),
    ],
)
def test_the_bound_that_is_held_is_the_bound_that_is_sent(
    served: Served, up: Replay, name: str, fields: dict[str, Any], sent: dict[str, Any]
) -> None:
    alice = served.person(credits="1")
    model = "gpt-4o-mini" if name != "router" else "openai/gpt-4o-mini"
    assert served.chat(alice, model=f"{name}/{model}", **fields).status_code == 200
    (request,) = up.requests
    assert request.json() == chat_body(model=model) | sent
    bob = served.person()
    assert served.chat(bob, model=f"{name}/{model}", **fields).status_code == 200
    assert up.requests[1].json() == chat_body(model=model) | fields


def test_the_hold_is_the_bound(served: Served, up: Replay) -> None:
    alice = served.person(credits="1")
    served.chat(alice, max_tokens=7, n=3)
    assert row_of(served, alice)["hold_nano"] == INPUT_BOUND * INPUT_NANO + 3 * 7 * OUTPUT_NANO


def test_a_clamp(served: Served, up: Replay) -> None:
    alice = served.person(credits="0.001")
    room = (parse_usd("0.001") - INPUT_BOUND * INPUT_NANO) // OUTPUT_NANO
    assert 256 < room < MAX_OUTPUT
    answer = served.chat(alice)
    assert answer.headers["x-llmgate-clamped"] == str(room)
    assert up.requests[0].json()["max_tokens"] == room
    with served.tx() as tx:
        ledger.add(tx, alice.name, parse_usd("0.001") - served.balance(alice.name))
    up.handler = answers(sse_answer(*words("hi"), sse(usage_chunk(10, 5)), DONE))
    response, _ = served.stream(alice, max_tokens=900, max_completion_tokens=20)
    assert response.headers["x-llmgate-clamped"] == str(room)
    assert {"max_tokens": room, "max_completion_tokens": 20}.items() <= up.requests[1].json().items()
    assert all(row["hold_nano"] <= parse_usd("0.001") for row in served.settled(alice, 2))


def test_a_clamp_is_shared_by_all_choices(served: Served, up: Replay) -> None:
    alice = served.person(credits="0.0021")
    answer = served.chat(alice, n=3)
    clamped = int(answer.headers["x-llmgate-clamped"])
    assert clamped == up.requests[0].json()["max_tokens"] == (2_100_000 - INPUT_BOUND * INPUT_NANO) // (3 * OUTPUT_NANO)


def test_what_asks_for_little_is_not_clamped_below_it(served: Served, up: Replay) -> None:
    enough = INPUT_BOUND * INPUT_NANO + 7 * OUTPUT_NANO
    alice = served.person(credits=usd(enough))
    answer = served.chat(alice, max_tokens=7)
    assert answer.status_code == 200
    assert "x-llmgate-clamped" not in answer.headers
    bob = served.person(credits=usd(enough - 1))
    error_of(served.chat(bob, max_tokens=7), 402, "insufficient_credits")
    assert len(up.requests) == 1


def test_not_enough_to_pay(served: Served, up: Replay) -> None:
    alice = served.person(credits=usd(FLOOR_NANO - 1))
    answer = served.chat(alice)
    error = error_of(answer, 402, "insufficient_credits")
    assert error["type"] == "insufficient_quota"
    assert answer.headers["x-should-retry"] == "false"
    assert "retry-after" not in answer.headers
    assert served.rows(alice) == []
    assert served.held(alice) == 0
    assert up.requests == []
    with served.tx() as tx:
        ledger.add(tx, alice.name, 1)
    assert served.chat(alice).headers["x-llmgate-clamped"] == "256"


def test_free_is_free_for_everybody(served: Served, up: Replay) -> None:
    alice = served.person(billing=Billing.PREPAID)
    error_of(served.chat(alice), 402, "insufficient_credits")
    answer = served.chat(alice, model="open/zeta")
    assert (answer.status_code, answer.headers["x-llmgate-charge-usd"]) == (200, "0")
    assert up.requests[0].json() == chat_body(model="zeta")
    assert facts(row_of(served, alice)) == ("ok", "upstream", 200, 0)


def test_money_that_is_held_by_others(served: Served, up: Replay) -> None:
    alice = served.person(credits=usd(FLOOR_NANO + 5))
    up.handler = answers(sse_answer(sse(chunk_of("hello")), HANG))
    with served.streaming(alice) as stream:
        pieces = stream.iter_raw()  # to be kept: one that is thrown away closes its connection
        assert next(pieces)
        up.handler = answers(OK)
        answer = served.chat(alice)
        error = error_of(answer, 429, "credits_held")
        assert error["type"] == "rate_limit_error"
        assert int(answer.headers["retry-after"]) >= 1
        assert "x-should-retry" not in answer.headers
        error_of(served.chat(alice, max_tokens=1_000_000), 429, "credits_held")
    served.settled(alice, 1)
    error_of(served.chat(alice), 402, "insufficient_credits")


@pytest.mark.parametrize("streamed", [False, True])
def test_fifty_at_once_with_money_for_seven(served: Served, up: Replay, streamed: bool) -> None:
    alice = served.person(credits=usd(7 * FLOOR_NANO))
    usage = usage_of(INPUT_BOUND, 256)
    plain = (Pause(0.2), *json_answer(completion(usage=usage)))
    stream = sse_answer(*words("hi"), Pause(0.2), sse(chunk_of(choices=[], usage=usage)), DONE)
    up.handler = lambda _: stream if streamed else plain
    lowest = []

    def one(_: int) -> int:
        answer = served.chat(alice, stream=streamed, max_tokens=256)
        lowest.append(served.balance(alice.name))
        if answer.status_code != 200:
            assert answer.json()["error"]["code"] in ("credits_held", "insufficient_credits")
        return answer.status_code

    with ThreadPoolExecutor(50) as pool:
        statuses = list(pool.map(one, range(50)))
    assert statuses.count(200) == 7 == len(up.requests)
    assert set(statuses) <= {200, 402, 429}
    assert min(lowest) >= 0
    rows = served.settled(alice, 7)
    assert {facts(row) for row in rows} == {("ok", "upstream", 200, FLOOR_NANO)}
    assert served.balance(alice.name) == 0


def test_the_client_has_no_say_in_headers_between_us_and_the_upstream(served: Served, up: Replay) -> None:
    alice = served.person()
    ours = {
        "x-api-key": alice.key,
        "api-key": alice.key,
        "x-goog-api-key": alice.key,
        "cookie": "session=1",
        "forwarded": "for=1.2.3.4",
        "x-forwarded-for": "1.2.3.4",
        "x-forwarded-anything": "1",
        "x-real-ip": "1.2.3.4",
        "x-user-id": "root",
        "x-plan-id": "gold",
        "x-llmgate-tags": "a=b",
        "x-llmgate-anything": "1",
        "connection": "keep-alive, X-Hop",
        "x-hop": "1",
        "keep-alive": "timeout=5",
        "te": "trailers",
        "proxy-authorization": "Basic eA==",
        "accept-encoding": "br, gzip",
        "via": "1.1 client",
    }
    theirs = {
        "user-agent": "OpenAI/Python 3.52",
        "x-stainless-lang": "python",
        "openai-beta": "assistants=v2",
        "x-title": "client",
        "x-custom": "kept",
    }
    assert served.post(alice, chat_body(), headers=ours | theirs).status_code == 200
    (request,) = up.requests
    assert sorted(request.headers) == sorted(
        {
            **theirs,
            "accept": "*/*",
            "content-type": "application/json",
            "host": up.url.removeprefix("http://"),
            "content-length": str(len(request.body)),
            "accept-encoding": "identity",
            "authorization": f"Bearer {SECRET}",
        }.items()
    )


def test_an_upstreams_own_headers_query_and_secret(served: Served, up: Replay) -> None:
    alice = served.person()
    headers = {"x-title": "client", "x-secret": "client's", "openai-organization": "client", "openai-project": "p"}
    path = "/v1/chat/completions?mode=client&beta=1&api-version=evil&key=sk-lg-x"
    body = chat_body(model="dressed/zeta")
    assert served.post(alice, body, path=path, headers=headers).status_code == 200
    (request,) = up.requests
    assert request.path == "/v1/chat/completions?beta=1&api-version=2024-10-21&mode=a+b"
    for name, value in {
        "x-title": "intranet",
        "x-secret": SECRET,
        "openai-organization": "house",
    }.items():
        assert [found for key, found in request.headers if key == name] == [value]
    assert request.header("openai-project") is None  # which of the admin's projects pays is the admin's to say
    assert request.header("authorization") is None


def test_a_secret_in_the_query(served: Served, up: Replay) -> None:
    alice = served.person()
    assert served.post(alice, chat_body(model="queried/zeta"), path="/v1/chat/completions?sig=x").status_code == 200
    (request,) = up.requests
    assert request.path == f"/v1/chat/completions?sig={SECRET}"
    assert request.header("authorization") is None


def test_no_secret_where_none_is_needed(served: Served, up: Replay) -> None:
    alice = served.person()
    assert served.chat(alice, model="open/zeta").status_code == 200
    assert up.requests[0].header("authorization") is None


def test_tags(served: Served, up: Replay) -> None:
    alice = served.person(tags={"costs": "42", "agent": "key's"})
    fields = {"user": "u-7", "metadata": {"job": "nightly", "n": 1}}
    tags = {"x-llmgate-tags": "agent=coder , run = a=b"}
    answer = served.post(alice, chat_body(**fields), headers=tags)
    assert answer.status_code == 200
    assert json.loads(row_of(served, alice)["tags"]) == {
        "agent": "key's",  # what the admin put on the key can't be overwritten
        "costs": "42",
        "run": "a=b",
        "end_user": "u-7",
        "metadata.job": "nightly",
    }
    assert up.requests[0].json() == chat_body(model="zeta", **fields)
    assert up.requests[0].header("x-llmgate-tags") is None


@pytest.mark.parametrize(
    "tags", ["agent", "=x", "a=", "a=b,,c=d", "a=" + "x" * 600, ",".join(f"t{n}=1" for n in range(40))]
)
def test_tags_that_are_none(served: Served, up: Replay, tags: str) -> None:
    alice = served.person()
    answer = served.post(alice, chat_body(), headers={"x-llmgate-tags": tags})
    error = error_of(answer, 400, "invalid_request")
    assert error["param"] == "x-llmgate-tags"
    assert served.rows(alice) == []
    assert up.requests == []


# -- what the client gets


def test_the_route_that_answered_is_told(served: Served, up: Replay) -> None:
    alice = served.person()
    for answer in (served.chat(alice), served.stream(alice)[0]):
        told = (answer.headers["x-llmgate-upstream"], answer.headers["x-llmgate-model"])
        assert told == ("main", "zeta")


def test_answer_headers(served: Served, up: Replay) -> None:
    alice = served.person()
    upstreams = [
        ("x-request-id", "theirs"),
        ("x-ratelimit-limit-requests", "5000"),
        ("X-RateLimit-Remaining-Tokens", "1"),
        ("x-llmgate-charge-usd", "999"),
        ("keep-alive", "timeout=1"),
        ("connection", "keep-alive, x-hop"),
        ("x-hop", "1"),
        ("openai-processing-ms", "12"),
        ("OpenAI-Version", "2020-10-01"),
        ("set-cookie", "a=1"),
        ("set-cookie", "b=2"),
    ]
    up.handler = answers(json_answer(completion(usage=usage_of(10, 5)), headers=upstreams))
    answer = served.chat(alice)
    got = answer.headers.multi_items()
    assert [pair for pair in got if pair[0] in ("openai-processing-ms", "openai-version", "set-cookie")] == [
        ("openai-processing-ms", "12"),
        ("openai-version", "2020-10-01"),
        ("set-cookie", "a=1"),
        ("set-cookie", "b=2"),
    ]
    names = [name for name, _ in got]
    assert names.count("x-request-id") == 1
    assert answer.headers["x-request-id"].startswith("req_")
    assert answer.headers["x-llmgate-charge-usd"] == "0.00002"
    assert not [name for name in names if name.startswith("x-ratelimit-") or name in ("keep-alive", "x-hop")]
    served.settled(alice, 1)


@pytest.mark.parametrize("status", [400, 404, 409, 413, 422, 418])
def test_an_upstreams_refusal_passes_as_it_came(served: Served, up: Replay, status: int) -> None:
    alice = served.person(credits="1")
    body = b'{"error": {"message":"no such thing",  "code":"odd"}}'
    up.handler = answers(body_answer(body, status, [("content-type", "application/problem+json"), ("x-own", "1")]))
    answer = served.chat(alice)
    assert (answer.status_code, answer.content) == (status, body)
    assert (answer.headers["content-type"], answer.headers["x-own"]) == ("application/problem+json", "1")
    assert answer.headers["x-llmgate-charge-usd"] == "0"
    assert len(up.requests) == 1
    assert facts(row_of(served, alice)) == ("error", "upstream", status, 0)
    assert served.balance(alice.name) == parse_usd("1")


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_may_go_better_is_tried_again_and_then_passes_as_it_came(served: Served, up: Replay, status: int) -> None:
    alice = served.person()
    retry = [("retry-after", "0"), ("x-ratelimit-remaining-requests", "0"), ("content-type", "text/html")]
    up.handler = answers(*(body_answer(b"<h1>%d</h1>" % n, status, retry) for n in range(3)))
    answer = served.chat(alice, stream=True)
    assert (answer.status_code, answer.content) == (status, b"<h1>2</h1>")
    assert (answer.headers["retry-after"], answer.headers["content-type"]) == ("0", "text/html")
    assert "x-ratelimit-remaining-requests" not in answer.headers
    assert [request.body for request in up.requests] == [up.requests[0].body] * 3
    assert facts(row_of(served, alice)) == ("error", "upstream", status, 0)


def test_a_retry_that_goes_well_is_charged_once(served: Served, up: Replay) -> None:
    alice = served.person(credits="1")
    up.handler = answers(body_answer(b"", 429, [("retry-after", "0.01")]), body_answer(b"", 503), OK)
    answer = served.chat(alice)
    assert (answer.status_code, len(up.requests)) == (200, 3)
    assert facts(row_of(served, alice)) == ("ok", "upstream", 200, OK_NANO)


def test_an_upstream_that_wants_a_long_pause_is_not_asked_again(served: Served, up: Replay) -> None:
    alice = served.person()
    up.handler = answers(json_answer({"error": {}}, 429, [("retry-after", "61")]), OK)
    answer = served.chat(alice)
    assert (answer.status_code, answer.headers["retry-after"], len(up.requests)) == (429, "61", 1)
    served.settled(alice, 1)


@pytest.mark.parametrize("status", [401, 402, 403, 407])
def test_a_refusal_of_our_secret_is_not_the_clients_business(served: Served, up: Replay, status: int) -> None:
    alice = served.person(credits="1")
    told = {"error": {"message": f"Incorrect API key provided: {SECRET}"}}
    up.handler = answers(json_answer(told, status, [("www-authenticate", SECRET), ("retry-after", "0")]))
    for stream in (False, True):
        answer = served.chat(alice, stream=stream)
        error = error_of(answer, 502, "upstream_auth")
        assert error["type"] == "server_error"
        assert answer.headers["x-should-retry"] == "false"
        assert SECRET not in answer.text + str(answer.headers)
        assert "Incorrect" not in answer.text
    assert len(up.requests) == 2
    assert {facts(row) for row in served.settled(alice, 2)} == {("error", "upstream", 502, 0)}
    assert served.balance(alice.name) == parse_usd("1")


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_the_admins_business(served: Served, up: Replay, status: int) -> None:
    """It is followed neither by llmgate nor by the client, who would go there with its key."""
    alice = served.person(credits="1")
    up.handler = answers(body_answer(b"moved", status, [("location", up.url + "/elsewhere")]))
    answer = served.chat(alice)
    error = error_of(answer, 502, "upstream_error")
    assert "base_url" in error["message"]
    assert answer.headers["x-should-retry"] == "false"
    assert "location" not in answer.headers
    assert "elsewhere" not in answer.text
    assert len(up.requests) == 1
    assert facts(row_of(served, alice)) == ("error", "upstream", 502, 0)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "answer",
    [
        body_answer(b"<html>welcome</html>", 200, [("content-type", "text/html")]),
        body_answer(b"", 200),
        body_answer(b"{", 200, [("content-type", "application/json")]),
        body_answer(b"[]", 200, [("content-type", "application/json")]),
        body_answer(b"{}", 200, [("content-type", "application/json"), ("content-encoding", "gzip")]),
    ],
    ids=["HTML", "nothing", "half", "a list", "packed"],
)
def test_a_success_that_is_none(served: Served, up: Replay, answer: tuple[Step, ...], stream: bool) -> None:
    alice = served.person(credits="1")
    up.handler = answers(answer)
    error_of(served.chat(alice, stream=stream), 502, "upstream_error")
    assert len(up.requests) == 1
    assert facts(row_of(served, alice)) == ("error", "upstream", 502, 0)


def test_an_upstream_that_is_down(served: Served, up: Replay) -> None:
    alice = served.person(credits="1")
    error = error_of(served.chat(alice, model="down/zeta"), 502, "upstream_error")
    assert "down" in error["message"]
    assert "127.0.0.1" not in error["message"]
    assert served.rows(alice) == []
    assert served.held(alice) == 0
    assert served.balance(alice.name) == parse_usd("1")


def test_the_next_route_when_one_is_down(served: Served, up: Replay) -> None:
    alice = served.person(credits="1")
    assert served.chat(alice, model="pair").status_code == 200
    row = row_of(served, alice)
    assert (row["model"], row["upstream"], row["upstream_model"]) == ("pair", "main", "zeta")
    assert facts(row) == ("ok", "upstream", 200, OK_NANO)


def test_the_next_route_when_one_is_overloaded(served: Served, up: Replay) -> None:
    alice = served.person(credits="1")
    overloaded = body_answer(b"", 503, [("retry-after", "60")])
    up.handler = lambda request: overloaded if request.path.startswith("/openai") else OK
    assert served.chat(alice, model="second").status_code == 200
    assert [request.path for request in up.requests] == ["/openai/v1/chat/completions", "/v1/chat/completions"]
    assert [sorted(request.json()) for request in up.requests] == [
        ["max_completion_tokens", "messages", "model"],
        ["max_tokens", "messages", "model"],
    ]
    assert row_of(served, alice)["upstream"] == "main"


def test_all_routes_are_down(served: Served, up: Replay) -> None:
    alice = served.person(credits="1")
    error_of(served.chat(alice, model="both-down"), 503, "upstream_unavailable")
    assert served.rows(alice) == []
    assert served.held(alice) == 0


@pytest.mark.parametrize(
    "steps",
    [(CLOSE,), (RESET,), (b"HTTP/1.1 200 OK\r\nconte", CLOSE), (b"SSH-2.0-OpenSSH\r\n", HANG)],
    ids=["close", "reset", "half a head", "no HTTP"],
)
@pytest.mark.parametrize("stream", [False, True])
def test_broken_off_before_the_head_is_not_tried_again(
    served: Served, up: Replay, steps: tuple[Step, ...], stream: bool
) -> None:
    """The upstream may have begun to work, and to bill: a second try could be paid twice."""
    alice = served.person(credits="1")
    up.handler = answers(steps)
    error_of(served.chat(alice, model="fresh/zeta", stream=stream), 502, "upstream_error")
    assert len(up.requests) == 1
    assert facts(row_of(served, alice)) == ("error", "upstream", 502, 0)
    assert served.balance(alice.name) == parse_usd("1")


@pytest.mark.parametrize("end", [CLOSE, RESET], ids=["close", "reset"])
def test_an_idle_connection_that_was_closed_is_tried_once_more(served: Served, up: Replay, end: Step) -> None:
    alice = served.person(credits="1")
    assert served.chat(alice).status_code == 200
    known = up.connections
    up.requests.clear()
    up.handler = lambda request: (end,) if request.connection <= known else OK
    assert served.chat(alice).status_code == 200
    assert len(up.requests) == 2
    assert {facts(row) for row in served.settled(alice, 2)} == {("ok", "upstream", 200, OK_NANO)}


@pytest.mark.parametrize("end", [CLOSE, RESET], ids=["close", "reset"])
def test_a_plain_answer_that_is_broken_off(served: Served, up: Replay, end: Step) -> None:
    alice = served.person(credits="1")
    up.handler = answers((head(200, [("content-type", "application/json"), ("content-length", "999")]) + b'{"a":', end))
    error_of(served.chat(alice), 502, "upstream_error")
    assert len(up.requests) == 1
    assert facts(row_of(served, alice)) == ("error", "upstream", 502, 0)


# -- streams


def test_a_stream(served: Served, up: Replay) -> None:
    alice = served.person(credits="1")
    events = words("hel", "lo")
    usage = sse(usage_chunk(10, 5))
    up.handler = answers(sse_answer(*events, usage, DONE, headers=[("x-own", "1"), ("x-ratelimit-limit-tokens", "1")]))
    response, got = served.stream(alice, stream_options={"include_obfuscation": False})
    assert got == b"".join([*events, DONE])
    assert response.headers["content-type"] == "text/event-stream"
    assert response.headers["x-own"] == "1"
    assert response.headers["x-request-id"].startswith("req_")
    assert not {"content-length", "x-llmgate-charge-usd", "x-ratelimit-limit-tokens"} & response.headers.keys()
    assert up.requests[0].json()["stream_options"] == {"include_obfuscation": False, "include_usage": True}
    row = row_of(served, alice)
    assert facts(row) == ("ok", "upstream", 200, OK_NANO)
    assert row["streamed"] == 1
    assert row["ttft_ms"] <= row["duration_ms"]


def test_a_usage_that_the_client_asked_for_stays(served: Served, up: Replay) -> None:
    alice = served.person()
    events = [*words("hello"), sse(usage_chunk(10, 5)), DONE]
    up.handler = answers(sse_answer(*events))
    _, got = served.stream(alice, stream_options={"include_usage": True})
    assert got == b"".join(events)
    assert facts(row_of(served, alice)) == ("ok", "upstream", 200, OK_NANO)


def test_a_usage_that_nobody_asked_for_stays(served: Served, up: Replay) -> None:
    alice = served.person()
    events = [*words("hello"), sse(usage_chunk(10, 5)), DONE]
    up.handler = answers(sse_answer(*events))
    _, got = served.stream(alice, model="silent/zeta")
    assert got == b"".join(events)
    assert "stream_options" not in up.requests[0].json()
    assert facts(row_of(served, alice)) == ("ok", "upstream", 200, OK_NANO)


AZURE_FIRST = sse({"id": "", "object": "", "model": "", "choices": [], "prompt_filter_results": [{}], "usage": None})
WITH_CHOICES = sse(chunk_of(finish="stop", usage=usage_of(10, 5)))

STREAMS: dict[str, tuple[list[bytes], list[bytes], str, int]] = {
    "nulls elsewhere": (
        [sse(chunk_of("hello", usage=None)), sse(usage_chunk(10, 5)), DONE],
        [sse(chunk_of("hello", usage=None)), DONE],
        "upstream",
        OK_NANO,
    ),
    "Azure's first chunk": (
        [AZURE_FIRST, *words("hello"), sse(usage_chunk(10, 5)), DONE],
        [AZURE_FIRST, *words("hello"), DONE],
        "upstream",
        OK_NANO,
    ),
    "usage beside choices": (
        [sse(chunk_of("hello")), WITH_CHOICES, DONE],
        [sse(chunk_of("hello")), WITH_CHOICES, DONE],
        "upstream",
        OK_NANO,
    ),
    "usage twice": (
        [*words("hello"), sse(usage_chunk(99, 99)), sse(usage_chunk(10, 5)), DONE],
        [*words("hello"), DONE],
        "upstream",
        OK_NANO,
    ),
    "usage never": ([*words("hello", "you"), DONE], [*words("hello", "you"), DONE], "estimated", estimate(8)),
    "an explicit zero": ([*words("hello"), sse(usage_chunk(0, 0)), DONE], [*words("hello"), DONE], "upstream", 0),
    "usage that says nothing": (
        [*words("hello"), sse(chunk_of(choices=[], usage={})), DONE],
        [*words("hello"), DONE],
        "estimated",
        estimate(5),
    ),
    "a broken line": (
        [sse(chunk_of("hello")), b'data: {"choices":[{"del\n\n', b"nonsense\n\n", sse(usage_chunk(10, 5)), DONE],
        [sse(chunk_of("hello")), b'data: {"choices":[{"del\n\n', b"nonsense\n\n", DONE],
        "upstream",
        OK_NANO,
    ),
    "comments and named events": (
        [b": OPENROUTER PROCESSING\n\n", sse(chunk_of("hello"), "message"), sse(usage_chunk(10, 5)), DONE],
        [b": OPENROUTER PROCESSING\n\n", sse(chunk_of("hello"), "message"), DONE],
        "upstream",
        OK_NANO,
    ),
    "no data at all": ([b""], [], "estimated", estimate(0)),
    "no DONE": ([*words("hello"), sse(usage_chunk(10, 5))], words("hello"), "upstream", OK_NANO),
    "neither usage nor DONE": (words("hello"), words("hello"), "estimated", estimate(5)),
    "not even a finish": ([sse(chunk_of("hello"))], [sse(chunk_of("hello"))], "estimated", estimate(5)),
    "usage in every chunk": (
        [sse(chunk_of("hel", usage=usage_of(10, 1))), sse(chunk_of("lo", usage=usage_of(10, 5))), DONE],
        [sse(chunk_of("hel", usage=usage_of(10, 1))), sse(chunk_of("lo", usage=usage_of(10, 5))), DONE],
        "upstream",
        OK_NANO,
    ),
    "the end without its blank line": (
        [*words("hello"), sse(usage_chunk(10, 5))[:-2]],
        words("hello"),
        "upstream",
        OK_NANO,
    ),
}


@pytest.mark.parametrize("case", STREAMS)
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_streams(served: Served, up: Replay, case: str, line_end: bytes) -> None:
    sent, passed, source, charge = STREAMS[case]
    alice = served.person(credits="1")
    up.handler = answers(sse_answer(*(event.replace(b"\n", line_end) for event in sent if event)))
    response, got = served.stream(alice)
    assert (response.status_code, got) == (200, b"".join(passed).replace(b"\n", line_end))
    assert facts(row_of(served, alice)) == ("ok", source, 200, charge)
    assert served.balance(alice.name) == parse_usd("1") - charge


def test_a_stream_in_pieces_of_any_size(served: Served, up: Replay) -> None:
    alice = served.person()
    events = words("🙂", "ü", "€")
    raw = b"".join([*events, sse(usage_chunk(10, 5)), DONE])
    raw = raw.replace(b"\\ud83d\\ude42", "🙂".encode())
    expected = b"".join([*events, DONE]).replace(b"\\ud83d\\ude42", "🙂".encode())
    for size in (1, 2, 7):
        pieces = [raw[at : at + size] for at in range(0, len(raw), size)]
        up.handler = answers(sse_answer(b"".join(map(chunk, pieces)), end=False))
        up.handler = answers((sse_answer(end=False)[0], b"".join(map(chunk, [*pieces, b""]))))
        assert served.stream(alice)[1] == expected
    cut = raw.index("🙂".encode()) + 2
    up.handler = answers(sse_answer(raw[:cut], Pause(0.05), raw[cut:]))
    assert served.stream(alice)[1] == expected
    assert {facts(row) for row in served.settled(alice, 4)} == {("ok", "upstream", 200, OK_NANO)}


def test_events_are_not_held_back(served: Served, up: Replay) -> None:
    """What the upstream has said is here while it says nothing more."""
    alice = served.person()
    first = sse(chunk_of("hello"))
    up.handler = answers(sse_answer(first, HANG))
    with served.streaming(alice) as stream:
        assert next(stream.iter_raw()) == first
    assert facts(row_of(served, alice))[:2] == ("cancelled", "estimated")


@pytest.mark.parametrize("answer", ["plain", "stream"])
def test_usage_never_is_estimated_to_the_letter(served: Served, up: Replay, answer: str) -> None:
    """⌈bytes / 3⌉ + 4 per message in, ⌈bytes / 3⌉ out."""
    alice = served.person(credits="1")
    messages = [{"role": "system", "content": "äöü"}, {"role": "user", "content": [{"type": "text", "text": "12345"}]}]
    texts = ["één", "x", "{}"]
    if answer == "plain":
        up.handler = answers(json_answer(completion("".join(texts))))
    else:
        tool = {"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": {"arguments": texts[2]}}]}
        last = sse(chunk_of(choices=[{"index": 0, "delta": tool}]))
        up.handler = answers(sse_answer(sse(chunk_of(texts[0])), sse(chunk_of(texts[1])), last, DONE))
    assert served.chat(alice, messages=messages, stream=answer == "stream").status_code == 200
    row = row_of(served, alice)
    text = sum(len(text.encode()) for text in texts)
    assert meters(row) == {"input": -(-(6 + 5) // 3) + 4 + 4, "output": -(-text // 3)} == {"input": 12, "output": 3}
    assert facts(row) == ("ok", "estimated", 200, estimate(text, 12))


def test_an_estimate_stays_within_the_hold(served: Served, up: Replay) -> None:
    alice, bob = served.person(credits="1"), served.person()
    up.handler = answers(json_answer(completion("x" * 3000)))
    for person in (alice, bob):
        assert served.chat(person, max_tokens=7, n=2).status_code == 200
    assert meters(row_of(served, alice)) == {"input": ESTIMATED_INPUT, "output": 14}
    assert row_of(served, alice)["charge_nano"] <= row_of(served, alice)["hold_nano"]
    assert meters(row_of(served, bob)) == {"input": ESTIMATED_INPUT, "output": 1000}


def test_an_embedding_without_usage(served: Served, up: Replay) -> None:
    alice = served.person()
    up.handler = answers(json_answer({"object": "list", "data": []}))
    served.post(alice, {"model": "main/zeta", "input": "1234567"}, path="/v1/embeddings")
    assert facts(row_of(served, alice)) == ("ok", "estimated", 200, 3 * INPUT_NANO)


def test_cached_and_reasoning_tokens_are_told_apart(served: Served, up: Replay) -> None:
    alice = served.person()
    usage = usage_of(
        100, 50, prompt_tokens_details={"cached_tokens": 40}, completion_tokens_details={"reasoning_tokens": 20}
    )
    up.handler = answers(json_answer(completion(usage=usage)))
    assert served.chat(alice).headers["x-llmgate-charge-usd"] == "0.0002"
    assert meters(row_of(served, alice)) == {"input": 60, "cached_input": 40, "output": 30, "reasoning": 20}


def test_a_cost_that_the_upstream_reports(served: Served, up: Replay) -> None:
    """What the router bills is the cost; without a price of the admin's own it is the charge as well."""
    alice, bob = served.person(credits="1"), served.person(credits="1")
    usage = usage_of(10, 5, cost=0.00123, cost_details={"upstream_inference_cost": None})
    up.handler = answers(sse_answer(*words("hello"), sse(chunk_of(choices=[], usage=usage)), DONE))
    _, got = served.stream(alice, model="router/openai/gpt-4o-mini")
    assert sse(chunk_of(choices=[], usage=usage)) in got
    row = row_of(served, alice)
    assert (row["cost_nano"], row["charge_nano"], row["cost_source"]) == (1_230_000, 1_230_000, "upstream")
    served.stream(bob, model="resold/openai/gpt-4o-mini")
    row = row_of(served, bob)
    assert (row["cost_nano"], row["charge_nano"], row["cost_source"]) == (1_230_000, OK_NANO, "upstream")


def test_a_cost_is_not_taken_from_anybody(served: Served, up: Replay) -> None:
    alice = served.person()
    up.handler = answers(json_answer(completion(usage=usage_of(10, 5, cost=0))))
    served.chat(alice)
    row = row_of(served, alice)
    assert (row["cost_nano"], row["cost_source"]) == (OK_NANO, "config")


def test_an_error_inside_a_stream(served: Served, up: Replay) -> None:
    alice = served.person(credits="1")
    error = sse({"error": {"message": "overloaded", "code": 502}})
    events = [sse(chunk_of("hello")), error]
    up.handler = answers(sse_answer(*events))
    assert served.stream(alice)[1] == b"".join(events)
    assert facts(row_of(served, alice)) == ("error", "estimated", 200, estimate(5))


def test_an_error_in_the_middle_of_a_stream(served: Served, up: Replay) -> None:
    """It isn't the end: what comes after it is passed on, and counts."""
    alice = served.person(credits="1")
    events = [sse(chunk_of("hello")), sse({"error": {"message": "overloaded"}}), *words(" again"), DONE]
    up.handler = answers(sse_answer(*events[:-1], sse(usage_chunk(10, 5)), DONE))
    assert served.stream(alice)[1] == b"".join(events)
    assert facts(row_of(served, alice)) == ("error", "upstream", 200, OK_NANO)


def test_an_error_with_200(served: Served, up: Replay) -> None:
    alice = served.person(credits="1")
    up.handler = answers(json_answer({"error": {"message": "overloaded", "code": 502}}))
    answer = served.chat(alice)
    assert (answer.status_code, answer.json()["error"]["code"]) == (200, 502)
    assert facts(row_of(served, alice)) == ("error", "upstream", 200, 0)


def test_an_answer_that_does_not_stream_although_asked_to(served: Served, up: Replay) -> None:
    alice = served.person()
    answer = served.chat(alice, stream=True)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert facts(row_of(served, alice)) == ("ok", "upstream", 200, OK_NANO)


def test_an_answer_that_streams_although_not_asked_to(served: Served, up: Replay) -> None:
    alice = served.person()
    events = [*words("hello"), sse(usage_chunk(10, 5)), DONE]
    up.handler = answers(sse_answer(*events))
    assert served.chat(alice).content == b"".join(events)
    assert facts(row_of(served, alice)) == ("ok", "upstream", 200, OK_NANO)


@pytest.mark.parametrize("end", [CLOSE, RESET], ids=["close", "reset"])
@pytest.mark.parametrize("asked", [False, True], ids=["usage hidden", "usage asked for"])
def test_a_stream_that_is_broken_off(served: Served, up: Replay, end: Step, asked: bool) -> None:
    """What arrived is delivered and charged; then comes an error that SDKs raise from."""
    alice = served.person(credits="1")
    event = sse(chunk_of("hello"))
    up.handler = answers(sse_answer(event, Pause(0.1), end, end=False))
    response, got = served.stream(alice, stream_options={"include_usage": asked})
    assert response.status_code == 200
    assert got.startswith(event)
    told = last_event(got)
    assert sorted(told["error"]) == ["code", "message", "param", "type"]
    assert (told["error"]["code"], told["error"]["type"]) == ("upstream_error", "server_error")
    assert b"[DONE]" not in got
    assert facts(row_of(served, alice)) == ("error", "estimated", 200, estimate(5))
    assert len(up.requests) == 1


@pytest.mark.parametrize("asked", [False, True], ids=["usage hidden", "usage asked for"])
@pytest.mark.parametrize("half", [b'data: {"choices":[{"del', b"data: x\n", b"data: x\r\n"])
def test_the_error_stands_alone_after_half_an_event(served: Served, up: Replay, asked: bool, half: bytes) -> None:
    alice = served.person()
    event = sse(chunk_of("hello"))
    up.handler = answers(sse_answer(event, half, Pause(0.1), RESET, end=False))
    _, got = served.stream(alice, stream_options={"include_usage": asked})
    assert got.startswith(event + half if asked else event)
    assert last_event(got)["error"]["code"] == "upstream_error"
    assert facts(row_of(served, alice)) == ("error", "estimated", 200, estimate(5))


def test_a_usage_in_half_an_event_is_heard(served: Served, up: Replay) -> None:
    alice = served.person()
    up.handler = answers(sse_answer(sse(chunk_of("hello")), sse(usage_chunk(10, 5))[:-1], Pause(0.1), RESET, end=False))
    served.stream(alice)
    assert facts(row_of(served, alice)) == ("error", "upstream", 200, OK_NANO)


def test_a_stream_that_is_broken_off_before_its_first_byte(served: Served, up: Replay) -> None:
    alice = served.person(credits="1")
    up.handler = answers(sse_answer(Pause(0.05), RESET, end=False))
    error_of(served.chat(alice, stream=True), 502, "upstream_error")
    assert len(up.requests) == 1
    assert facts(row_of(served, alice)) == ("error", "upstream", 502, 0)


# -- time


@pytest.mark.parametrize("steps", [(HANG,), sse_answer(HANG)], ids=["no head", "a stream without a byte"])
@pytest.mark.parametrize("stream", [False, True])
def test_no_answer_in_time(served: Served, up: Replay, steps: tuple[Step, ...], stream: bool) -> None:
    """The upstream is at work and bills: it is never asked again."""
    alice = served.person(credits="1")
    left = up.disconnects
    up.handler = answers(steps)
    error = error_of(served.chat(alice, model="quick/zeta", stream=stream), 504, "upstream_timeout")
    assert error["type"] == "server_error"
    assert len(up.requests) == 1
    assert facts(row_of(served, alice)) == ("error", "upstream", 504, 0)
    wait_until(lambda: up.disconnects == left + 1)


def test_a_stream_that_stops(served: Served, up: Replay) -> None:
    alice = served.person(credits="1")
    left = up.disconnects
    up.handler = answers(sse_answer(sse(chunk_of("hello")), HANG))
    response, got = served.stream(alice, model="quick/zeta")
    assert response.status_code == 200
    assert last_event(got)["error"]["code"] == "upstream_timeout"
    assert facts(row_of(served, alice)) == ("error", "estimated", 200, estimate(5))
    wait_until(lambda: up.disconnects == left + 1)


def test_a_plain_answer_that_stops(served: Served, up: Replay) -> None:
    alice = served.person(credits="1")
    up.handler = answers((head(200, [("content-length", "99")]), b'{"a":', HANG))
    error_of(served.chat(alice, model="thinker/zeta"), 504, "upstream_timeout")
    assert facts(row_of(served, alice)) == ("error", "upstream", 504, 0)


def test_thinking_before_the_first_byte_is_not_idling(served: Served, up: Replay) -> None:
    alice = served.person()
    up.handler = answers(sse_answer(Pause(0.8), *words("hello"), sse(usage_chunk(10, 5)), DONE))
    assert served.stream(alice, model="thinker/zeta")[1] == b"".join([*words("hello"), DONE])
    assert facts(row_of(served, alice)) == ("ok", "upstream", 200, OK_NANO)


def test_an_answer_that_has_begun_has_the_time_between_its_pieces(served: Served, up: Replay) -> None:
    """Routers keep a plain answer alive with blanks until they have it."""
    alice = served.person()
    body = b" " + json.dumps(completion("hello", usage=usage_of(10, 5))).encode()
    up.handler = answers((head(200, [("content-length", str(len(body)))]) + body[:1], Pause(0.8), body[1:]))
    assert served.chat(alice, model="trickler/zeta").content == body
    assert facts(row_of(served, alice)) == ("ok", "upstream", 200, OK_NANO)


def test_a_stream_that_takes_longer_than_it_may_in_all(served: Served, up: Replay) -> None:
    alice = served.person()
    piece = sse(chunk_of("abc"))
    up.handler = answers(sse_answer(*[step for _ in range(100) for step in (piece, Pause(0.1))]))
    _, got = served.stream(alice, model="short/zeta")
    assert last_event(got)["error"]["code"] == "upstream_timeout"
    row = row_of(served, alice)
    assert facts(row) == ("error", "estimated", 200, estimate(3 * got.count(piece)))
    assert 0 < got.count(piece) < 50


# -- what is as it is at this moment


def test_credits_and_keys_are_seen_at_the_next_request(served: Served, up: Replay) -> None:
    alice = served.person(billing=Billing.PREPAID)
    error_of(served.chat(alice), 402, "insufficient_credits")
    with served.tx() as tx:
        ledger.add(tx, alice.name, parse_usd("1"))
    assert served.chat(alice).status_code == 200
    with served.tx() as tx:
        ledger.take(tx, alice.name, parse_usd("1"), force=True)
    error_of(served.chat(alice), 402, "insufficient_credits")
    with served.tx() as tx:
        keys.set_state(tx, alice.key_id, "disable")
    error_of(served.chat(alice), 401, "key_disabled")


def test_a_key_revoked_while_its_stream_runs(served: Served, up: Replay) -> None:
    """What was begun is ended and charged."""
    alice = served.person(credits="1")
    up.handler = answers(sse_answer(*words("hello"), Pause(0.2), sse(usage_chunk(10, 5)), DONE))
    with served.streaming(alice) as stream:
        pieces = stream.iter_raw()
        assert next(pieces)
        with served.tx() as tx:
            keys.set_state(tx, alice.key_id, "revoke")
        assert b"[DONE]" in b"".join(pieces)
    error_of(served.chat(alice), 401, "key_revoked")
    assert facts(row_of(served, alice)) == ("ok", "upstream", 200, OK_NANO)


def test_many_users_at_once(served: Served, up: Replay) -> None:
    """Each gets its own answer, and each is charged its own."""
    people = [served.person(credits="1") for _ in range(10)]

    def echo(request: Request) -> tuple[Step, ...]:
        number = request.json()["messages"][0]["content"]
        usage = usage_of(int(number), 1)
        return sse_answer(sse(chunk_of(number)), Pause(0.02), sse(chunk_of(choices=[], usage=usage)), DONE)

    up.handler = echo

    def one(number: int) -> bytes:
        person = people[number % 10]
        return served.stream(person, messages=[{"role": "user", "content": str(number)}])[1]

    with ThreadPoolExecutor(20) as pool:
        got = list(pool.map(one, range(100)))
    assert got == [sse(chunk_of(str(number))) + DONE for number in range(100)]
    for number, person in enumerate(people):
        rows = served.settled(person, 10)
        assert sorted(row["input"] for row in rows) == list(range(number, 100, 10))
        charged = sum(row["charge_nano"] for row in rows)
        assert served.balance(person.name) == parse_usd("1") - charged


def test_a_connection_serves_one_request_after_the_other(served: Served, up: Replay) -> None:
    alice = served.person()
    with httpx.Client(limits=httpx.Limits(max_connections=1), trust_env=False) as client:
        for stream in (False, True, False):
            up.handler = answers(sse_answer(*words("hi"), sse(usage_chunk(10, 5)), DONE) if stream else OK)
            body = chat_body(stream=stream)
            answer = client.post(f"{served.url}/v1/chat/completions", json=body, headers=served.headers(alice))
            assert answer.status_code == 200
            assert "connection" not in answer.headers
    served.settled(alice, 3)


def test_everything_at_once(served: Served, up: Replay) -> None:
    """Answers of every kind, clients that leave at any moment, and too little money for all of it."""
    dice = random.Random(20261120)
    alice = served.person(credits="0.02")
    exact = usage_of(INPUT_BOUND, 20)
    hello, last = sse(chunk_of("hello " * 3)), sse(chunk_of(choices=[], usage=exact))
    behaviours: list[tuple[Step, ...]] = [
        json_answer(completion(usage=exact)),
        json_answer(completion("x" * 90)),
        json_answer({"error": {"message": "no"}}, 400),
        json_answer({"error": {"message": "bad key"}}, 401),
        json_answer({"error": {"message": "busy"}}, 503, [("retry-after", "0")]),
        body_answer(b"<html>", 200),
        (CLOSE,),
        (RESET,),
        (HANG,),
        (head(200, [("content-length", "99")]), b"{", RESET),
        sse_answer(hello, *words("a"), last, DONE),
        sse_answer(hello, *words("a"), DONE),
        sse_answer(hello, Pause(0.05), hello, last, DONE),
        sse_answer(hello, Pause(0.05), RESET, end=False),
        sse_answer(hello, HANG),
    ]
    up.handler = lambda _: dice.choice(behaviours)
    lowest = []

    def one(number: int) -> None:
        body = json.dumps(chat_body(model="quick/zeta", stream=number % 3 > 0, max_tokens=20)).encode()
        with suppress(httpx.TransportError):
            request = served.client.build_request(
                "POST", f"{served.url}/v1/chat/completions", content=body, headers=served.headers(alice)
            )
            response = served.client.send(request, stream=True)
            try:
                for _ in response.iter_raw():
                    if number % 5 == 0:
                        break
            finally:
                response.close()
        lowest.append(served.balance(alice.name))

    with ThreadPoolExecutor(24) as pool:
        list(pool.map(one, range(300)))
    wait_until(lambda: served.held(alice) == 0)
    rows = served.rows(alice)
    assert served.findings() == []
    assert min(lowest) >= 0
    assert served.balance(alice.name) == parse_usd("0.02") - sum(row["charge_nano"] for row in rows) >= 0
    assert all(row["charge_nano"] <= row["hold_nano"] and not row["overrun"] for row in rows)
    assert len({row["request_id"] for row in rows}) == len(rows) <= len(up.requests)
    assert {row["status"] for row in rows} == {"ok", "error", "cancelled"}
