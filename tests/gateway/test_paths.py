"""Paths of the admin's own, those passed through, and what lies at an upstream: through a real daemon."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest

from llmgate.config import is_own, known_upstreams, parse
from llmgate.gateway.paths import FIXED, Paths
from llmgate.store import limits
from tests.replay import CLOSE, Pause, Replay, Step, body_answer, json_answer, sse, sse_answer, wait_until
from tests.served import (
    DONE,
    INPUT_NANO,
    OUTPUT_NANO,
    SECRET,
    Person,
    Served,
    answers,
    error_of,
    facts,
    main_upstream,
    usage_of,
)

BINARY = bytes(range(256)) * 40
NANO = 20_000
"""What a unit is charged."""

ROUTES: dict[str, dict[str, Any]] = {
    "/v1/translate": {"path": "/v2/translate", "meter": "usage.billed", "unit": "character", "cost": 0.00001},
    "/v1/tokens": {"meter": "usage.total_tokens || last_sse.usage.total_tokens", "unit": "token"},
    "/v1/seconds": {"meter": "seconds", "unit": "second", "most": 60, "fallback": 30},
    "/v1/pictures": {"meter": "length(images)", "unit": "image", "most": 4, "fallback": 1},
    "/call": {"methods": ["GET", "PUT", "POST", "DELETE"]},
    "/v1/tree/*": {"path": "/below/*"},
    "/v1/tree/deep/*": {"upstream": "other", "path": "/deeper/*"},
    "/v1/free": {"unmetered": True},
}


def routes() -> dict[str, dict[str, Any]]:
    counted = {"fallback": 100, "most": 1000}
    return {
        path: {"upstream": "main"}
        | ({} if table.get("unmetered") else {"price": 0.00002})
        | (counted if "meter" in table else {})
        | table
        for path, table in ROUTES.items()
    }


@pytest.fixture(scope="module")
def upstream() -> Iterator[Replay]:
    with Replay() as up:
        yield up


@pytest.fixture
def up(upstream: Replay) -> Replay:
    upstream.requests.clear()
    upstream.handler = answers(json_answer({"ok": True}))
    return upstream


@pytest.fixture(scope="module")
def served(upstream: Replay, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    nameless = {"base_url": upstream.url + "/v1", "api_key": SECRET}
    config = {
        "server": {"passthrough": ["/v1/fim/*", "/v1/files*"]},
        "upstreams": {
            "main": nameless,
            "other": {"base_url": upstream.url + "/other", "auth": "none"},
            "priced": main_upstream(upstream, "/priced/v1"),
        },
        "models": {"zeta": {"routes": [{"upstream": "priced", "model": "zeta-2"}]}},
        "routes": routes(),
    }
    with Served(tmp_path_factory.mktemp("paths"), config) as served:
        yield served


def ask(
    served: Served, person: Person, path: str, body: bytes = b"{}", method: str = "POST", **headers: str
) -> httpx.Response:
    return served.client.request(
        method, served.url + path, content=body, headers={"authorization": f"Bearer {person.key}", **headers}
    )


def row_of(served: Served, person: Person) -> dict[str, Any]:
    return served.settled(person, 1)[0]


def test_every_path_of_llmgate_is_known_as_its_own() -> None:
    assert [path for path in FIXED if not is_own(path.decode())] == []


# -- routes


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/v1/v1/chat/completions", ": the base URL has a version too many, /v1"),
        ("/v1/v1beta/models/m:generateContent", ": the base URL has a version too many, /v1"),
        ("/v1/chat/completion", ": did you mean /v1/chat/completions?"),
        ("/v1/chat/completions/", ": did you mean /v1/chat/completions?"),
        ("/v1/message", ": did you mean /v1/messages?"),
        ("/v1/model", ": did you mean /v1/models?"),
        ("/v1/translat", ": did you mean /v1/translate?"),
        ("/chat/completions", ": the base URL ends in /v1"),
        ("/v1/files", ""),
        ("/v1/" + "x" * 100_000, ""),
    ],
)
def test_a_path_that_is_nearly_right_is_told_the_right_one(path: str, hint: str) -> None:
    config = parse('[upstreams.sandbox]\n[routes."/v1/translate"]\nupstream = "sandbox"\nunit = "request"\nprice = 1\n')
    assert Paths(config, known_upstreams(config), {}).hint(path.encode()) == hint


@pytest.mark.parametrize(
    ("path", "answer", "units", "meter", "quantity"),
    [
        ("/v1/translate", {"usage": {"billed": 321}}, 321, "characters", 321),
        ("/v1/translate", {"usage": {"billed": 0}}, 0, "characters", 0),
        ("/v1/tokens", {"usage": {"total_tokens": 77}}, 77, "output", 77),
        ("/v1/seconds", {"seconds": 2.5}, 2.5, "milliseconds", 2500),
        ("/v1/pictures", {"images": ["a", "b", "c"]}, 3, "images", 3),
        ("/call", {"whatever": 1}, 1, "calls", 1),
    ],
)
def test_what_the_answer_says_is_charged(
    served: Served, up: Replay, path: str, answer: dict[str, Any], units: float, meter: str, quantity: int
) -> None:
    alice = served.person(credits="1")
    up.handler = answers(json_answer(answer))
    got = ask(served, alice, path)
    row = row_of(served, alice)
    assert got.json() == answer
    assert facts(row) == ("ok", "upstream", 200, int(units * NANO))
    assert (row[meter], row["calls"]) == (quantity, 1)
    assert row["cost_nano"] == row["charge_nano"] // (2 if path == "/v1/translate" else 1)
    assert (row["model"], row["upstream"], row["endpoint"], row["overrun"]) == (path, "main", "route", 0)
    assert served.balance(alice.name) == 10**9 - int(units * NANO)


@pytest.mark.parametrize("answer", [{"usage": {}}, {"usage": {"billed": "many"}}, [1], "text"])
def test_an_answer_that_does_not_say_it_is_charged_the_fallback(served: Served, up: Replay, answer: Any) -> None:
    alice = served.person(credits="1")
    up.handler = answers(json_answer(answer))
    assert ask(served, alice, "/v1/translate").status_code == 200
    row = row_of(served, alice)
    assert facts(row) == ("ok", "estimated", 200, 100 * NANO)
    assert (row["characters"], row["input"], row["output"]) == (100, 0, 0)


STREAM = [sse({"usage": {"total_tokens": 1}}), sse({"text": "x", "usage": {"total_tokens": 55}}), DONE]


@pytest.mark.parametrize(
    ("pieces", "source", "units"),
    [
        (STREAM, "upstream", 55),
        ([b"".join(STREAM)[n : n + 7] for n in range(0, len(b"".join(STREAM)), 7)], "upstream", 55),
        (STREAM[:2], "upstream", 55),
        ([STREAM[1], sse({"end": True})], "estimated", 100),  # the last event is the one that counts
        ([DONE], "estimated", 100),
        ([STREAM[1].rstrip()], "upstream", 55),  # an event without its end
        ([*STREAM[:2], b'data: {"usage": {"tot'], "upstream", 55),
    ],
)
def test_the_last_event_of_a_stream_is_charged(
    served: Served, up: Replay, pieces: list[Step], source: str, units: int
) -> None:
    alice = served.person(credits="1")
    up.handler = answers(sse_answer(*pieces))
    got = ask(served, alice, "/v1/tokens", b'{"stream": true}')
    assert got.content == b"".join(piece for piece in pieces if isinstance(piece, bytes))
    row = row_of(served, alice)
    assert facts(row) == ("ok", source, 200, units * NANO)
    assert (row["output"], row["streamed"]) == (units, 1)


def test_a_stream_that_breaks_off_is_charged_what_it_said(served: Served, up: Replay) -> None:
    alice = served.person(credits="1")
    up.handler = answers(sse_answer(STREAM[0], CLOSE, end=False))
    ask(served, alice, "/v1/tokens", b'{"stream": true}')
    assert facts(row_of(served, alice)) == ("error", "upstream", 200, NANO)


def test_what_is_set_aside_is_most_times_the_price(served: Served, up: Replay) -> None:
    """To the nano: an account that has it is served, one that has a nano less isn't, and the upstream isn't asked."""
    enough, short = served.person(credits="0.02"), served.person(credits="0.019999999")
    up.handler = answers(json_answer({"usage": {"total_tokens": 1000}}))
    assert ask(served, enough, "/v1/tokens").status_code == 200
    assert served.balance(enough.name) == 0
    error_of(ask(served, short, "/v1/tokens"), 402, "insufficient_credits")
    assert len(up.requests) == 1
    assert served.rows(short) == []


def test_more_than_most_is_charged_in_full_and_told(served: Served, up: Replay) -> None:
    alice = served.person(credits="0.02")
    up.handler = answers(json_answer({"usage": {"total_tokens": 1500}}))
    assert ask(served, alice, "/v1/tokens").status_code == 200
    row = row_of(served, alice)
    assert (row["charge_nano"], row["overrun"]) == (1500 * NANO, 1)
    error_of(ask(served, alice, "/v1/tokens"), 402, "insufficient_credits")


def test_limits_count_requests_and_tokens(served: Served, up: Replay) -> None:
    alice = served.person()
    with served.tx() as tx:
        limits.hang(tx, alice.name, ["1500 tokens total on /v1/tok*", "1 requests total on main/v2/*"])
    up.handler = answers(json_answer({"usage": {"total_tokens": 600, "billed": 1}}))
    assert ask(served, alice, "/v1/tokens").status_code == 200
    error_of(ask(served, alice, "/v1/tokens"), 429, "rate_limited")  # 600 used, 1000 to be set aside
    assert ask(served, alice, "/v1/translate").status_code == 200
    error_of(ask(served, alice, "/v1/translate"), 429, "rate_limited")
    assert len(up.requests) == 2


@pytest.mark.parametrize("glob", ["/v1/translate", "/v1/*", "main/*"])
def test_a_key_is_held_to_paths_as_to_models(served: Served, up: Replay, glob: str) -> None:
    alice = served.person(models=[glob])
    assert ask(served, alice, "/v1/translate").status_code == 200
    row_of(served, alice)
    bob = served.person(models=["gpt-4o*"])
    error_of(ask(served, bob, "/v1/translate"), 403, "model_not_allowed")
    assert len(up.requests) == 1


@pytest.mark.parametrize("body", [b"", BINARY, b"{broken", b'{"a":1,"a":2, "model" : "x"}', b"[1,2]", b"{}" * 9])
@pytest.mark.parametrize("method", ["GET", "PUT", "POST", "DELETE"])
def test_all_passes_byte_for_byte(served: Served, up: Replay, body: bytes, method: str) -> None:
    alice = served.person(credits="1")
    up.handler = answers(body_answer(BINARY, 201, [("content-type", "application/octet-stream"), ("x-own", "1")]))
    more = {"content-type": "text/x", "x-more": "2", "x-http-method-override": "POST"}
    got = ask(served, alice, "/call?a=1&b=%20c", body, method, **more)
    assert (got.status_code, got.content, got.headers["x-own"]) == (201, BINARY, "1")
    (request,) = up.requests
    assert (request.method, request.path, request.body) == (method, "/v1/call?a=1&b=%20c", body)
    assert (request.header("content-type"), request.header("x-more")) == ("text/x", "2")
    assert request.header("authorization") == f"Bearer {SECRET}"
    assert request.header("x-http-method-override") is None
    assert row_of(served, alice)["charge_nano"] == NANO
    assert alice.key not in str(request)


def test_an_answer_without_a_body(served: Served, up: Replay) -> None:
    alice = served.person(credits="1")
    up.handler = answers((b"HTTP/1.1 204 No Content\r\n\r\n",))
    got = ask(served, alice, "/call", b"", "DELETE")
    assert (got.status_code, got.content) == (204, b"")
    assert facts(row_of(served, alice)) == ("ok", "upstream", 204, NANO)


@pytest.mark.parametrize("status", [400, 404, 422])
def test_a_refusal_of_the_upstream_is_free_and_the_clients(served: Served, up: Replay, status: int) -> None:
    alice = served.person(credits="1")
    up.handler = answers(json_answer({"usage": {"billed": 0}, "no": 1}, status))
    got = ask(served, alice, "/v1/translate")
    assert (got.status_code, got.json()["no"]) == (status, 1)
    assert facts(row_of(served, alice)) == ("error", "upstream", status, 0)


def test_other_methods_are_not_allowed(served: Served, up: Replay) -> None:
    alice = served.person()
    got = ask(served, alice, "/v1/translate", b"", "GET")
    assert error_of(got, 405, "method_not_allowed")
    assert got.headers["allow"] == "POST"
    assert ask(served, alice, "/call", b"", "PATCH").headers["allow"] == "GET, PUT, POST, DELETE"
    assert up.requests == []


@pytest.mark.parametrize(
    ("path", "there", "name"),
    [
        ("/v1/tree/a", "/v1/below/a", "/v1/tree"),
        ("/v1/tree/a/b:c", "/v1/below/a/b:c", "/v1/tree"),
        ("/v1/tree/deep/a", "/other/deeper/a", "/v1/tree/deep"),  # the narrowest that fits
        ("/v1/translate", "/v1/v2/translate", "/v1/translate"),
    ],
)
def test_where_a_path_goes(served: Served, up: Replay, path: str, there: str, name: str) -> None:
    alice = served.person(credits="1")
    assert ask(served, alice, path).status_code == 200
    assert up.requests[0].path == there
    assert row_of(served, alice)["model"] == name


@pytest.mark.parametrize(
    "path",
    [
        "/v1/tree",
        "/v1/tree/",
        "/v1/tree//a",
        "/v1/tree/a/",
        "/v1/tree/../chat/completions",
        "/v1/tree/%2e%2e/chat",
        "/v1/tree/a%2fb",
        "/v1/tree/./a",
        "/v1/translate/x",
        "/v1/Translate",
        "/v1/nothing",
        "/v1/fim/",
    ],
)
def test_what_is_no_plain_path_goes_nowhere(served: Served, up: Replay, path: str) -> None:
    alice = served.person()
    url = httpx.URL(served.url)
    client = http.client.HTTPConnection(str(url.host), url.port)  # sends a path as it stands
    with closing(client):
        client.request("POST", path, b"{}", served.headers(alice))
        got = client.getresponse()
        assert (got.status, json.loads(got.read())["error"]["code"]) == (404, "not_found")
    assert up.requests == []


def test_no_key_no_path(served: Served, up: Replay) -> None:
    error_of(served.client.post(served.url + "/v1/translate"), 401, "missing_key")
    assert up.requests == []


def test_what_the_admin_lets_go_by_is_free_and_counted_as_a_request(served: Served, up: Replay) -> None:
    alice = served.person(credits="0.000000001")
    up.handler = answers(json_answer({"usage": usage_of(5, 6)}))
    assert ask(served, alice, "/v1/free", BINARY).status_code == 200
    row = row_of(served, alice)
    assert facts(row) == ("ok", "upstream", 200, 0)
    assert (row["calls"], row["input"], row["output"]) == (1, 0, 0)


def test_a_model_that_is_called_like_a_path_is_none(served: Served, up: Replay) -> None:
    """What the path is sold for is not the price of chats."""
    alice = served.person()
    for model in ("/v1/free", "/v1/translate", "main/v2/translate"):
        assert served.chat(alice, model=model).status_code in (403, 404)
    assert up.requests == []


def test_a_client_that_leaves_a_stream_is_charged_the_fallback(served: Served, up: Replay) -> None:
    alice = served.person(credits="1")
    up.handler = answers(sse_answer(sse({"text": "x"}), Pause(30)))
    with served.client.stream(
        "POST", served.url + "/v1/tokens", content=b'{"stream": true}', headers=served.headers(alice)
    ) as got:
        next(got.iter_raw())
    wait_until(lambda: served.held(alice) == 0)
    assert facts(row_of(served, alice)) == ("cancelled", "estimated", 200, 100 * NANO)


# -- passed through


def test_what_names_a_model_is_that_models(served: Served, up: Replay) -> None:
    alice = served.person()
    up.handler = answers(json_answer({"choices": [], "usage": usage_of(10, 5)}))
    got = ask(served, alice, "/v1/fim/completions", b'{"model": "zeta", "prompt":  "a", "suffix":"b"}')
    assert got.status_code == 200
    (request,) = up.requests
    assert (request.path, request.json()["model"]) == ("/priced/v1/fim/completions", "zeta-2")
    row = row_of(served, alice)
    assert facts(row) == ("ok", "upstream", 200, 10 * INPUT_NANO + 5 * OUTPUT_NANO)
    assert (row["model"], row["endpoint"]) == ("zeta", "passthrough")


def test_a_stream_that_is_passed_through_is_metered(served: Served, up: Replay) -> None:
    alice = served.person()
    pieces = [sse({"x": 1}), sse({"usage": usage_of(10, 5)}), DONE]
    up.handler = answers(sse_answer(*pieces))
    got = ask(served, alice, "/v1/fim/completions", b'{"model":"zeta","stream":true}')
    assert got.content == b"".join(pieces)
    assert facts(row_of(served, alice)) == ("ok", "upstream", 200, 10 * INPUT_NANO + 5 * OUTPUT_NANO)


@pytest.mark.parametrize("body", [b'{"model":"zeta","model":"dear"}', b'{"Model":"dear","model":"zeta"}'])
def test_twins_of_the_model_are_refused(served: Served, up: Replay, body: bytes) -> None:
    error_of(ask(served, served.person(), "/v1/fim/completions", body), 400, "invalid_request")
    assert up.requests == []


def test_a_key_is_held_to_its_models_on_every_path(served: Served, up: Replay) -> None:
    alice = served.person(models=["gpt-4o*"])
    for body in (b'{"model":"zeta"}', b"{}", BINARY):
        error_of(ask(served, alice, "/v1/fim/completions", body), 403, "model_not_allowed")
    assert up.requests == []


def test_what_cannot_be_bounded_is_not_for_accounts_whose_money_can_run_out(served: Served, up: Replay) -> None:
    alice, bob = served.person(credits="1"), served.person()
    with served.tx() as tx:
        limits.hang(tx, bob.name, ["$5 total"])
    for person in (alice, bob):
        error_of(ask(served, person, "/v1/fim/completions", b'{"model":"zeta"}'), 400, "invalid_request")
        assert (
            "unmetered = true" in error_of(ask(served, person, "/v1/files", BINARY), 403, "model_not_priced")["message"]
        )
    assert up.requests == []


def test_what_names_no_model_is_counted_by_its_path(served: Served, up: Replay) -> None:
    alice = served.person()
    up.handler = answers(json_answer({"id": "file-1", "usage": usage_of(10, 5)}))
    got = ask(served, alice, "/v1/files", BINARY, **{"content-type": "multipart/form-data; boundary=x"})
    assert got.status_code == 200
    assert (up.requests[0].path, up.requests[0].body) == ("/v1/files", BINARY)
    row = row_of(served, alice)
    assert facts(row) == ("ok", "upstream", 200, 0)
    assert (row["model"], row["input"], row["output"]) == ("/v1/files", 10, 5)


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_looking_is_free(served: Served, up: Replay, method: str) -> None:
    alice = served.person(credits="0.000000001")
    up.handler = answers(json_answer({"id": "file-2", "usage": usage_of(10, 5)}))
    assert ask(served, alice, "/v1/files/file-2/content", b"", method).status_code == 200
    assert (up.requests[0].method, up.requests[0].path) == (method, "/v1/files/file-2/content")
    row = row_of(served, alice)
    assert facts(row) == ("ok", "upstream", 200, 0)
    assert (row["input"], row["output"]) == (0, 0)


# -- what lies at an upstream


def response_of(name: str) -> dict[str, Any]:
    usage = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
    return {"id": name, "object": "response", "status": "completed", "output": [], "usage": usage}


def test_a_response_is_found_by_the_account_that_made_it(served: Served, up: Replay) -> None:
    alice, bob = served.person(credits="1"), served.person(credits="1")
    up.handler = answers(json_answer(response_of("resp_a1")))
    served_at = ask(
        served, alice, "/v1/responses", json.dumps({"model": "zeta", "input": "hi", "store": True}).encode()
    )
    assert served_at.status_code == 200, served_at.text
    asked = [("GET", ""), ("GET", "/input_items?limit=2"), ("POST", "/cancel"), ("DELETE", "")]
    for method, more in asked:
        error_of(ask(served, bob, f"/v1/responses/resp_a1{more}", b"", method), 404, "not_found")
        assert ask(served, alice, f"/v1/responses/resp_a1{more}", b"", method).json() == response_of("resp_a1")
    assert [(one.method, one.path) for one in up.requests[1:]] == [
        (method, f"/priced/v1/responses/resp_a1{more}") for method, more in asked
    ]
    rows = served.settled(alice, 5)
    charges = sorted(row["charge_nano"] for row in rows)
    assert charges == [0, 0, 0, 0, 10 * INPUT_NANO + 5 * OUTPUT_NANO]
    assert {row["model"] for row in rows} == {"zeta"}
    assert served.rows(bob) == []


@pytest.mark.parametrize(("method", "more", "allow"), [("POST", "", "GET, DELETE"), ("GET", "/cancel", "POST")])
def test_what_cannot_be_done_with_a_response(served: Served, method: str, more: str, allow: str) -> None:
    got = ask(served, served.person(), f"/v1/responses/resp_a1{more}", b"", method)
    error_of(got, 405, "method_not_allowed")
    assert got.headers["allow"] == allow


@pytest.mark.parametrize("path", ["/v1/responses/", "/v1/responses/resp_a1/other", "/v1/responses/..%2fx"])
def test_other_paths_below_responses_are_none(served: Served, up: Replay, path: str) -> None:
    error_of(ask(served, served.person(), path, b"", "GET"), 404, "not_found")
    assert up.requests == []
