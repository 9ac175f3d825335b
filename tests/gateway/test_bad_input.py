"""What clients get wrong, by mistake or on purpose, and the small endpoints: nothing of it costs anything."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from signal import SIGHUP
from typing import Any

import httpx
import pytest

from llmgate.store import accounts, keys
from llmgate.types import Billing
from tests.replay import Pause, Replay, json_answer, sse, sse_answer
from tests.served import (
    DONE,
    SECRET,
    Person,
    Served,
    answers,
    chat_body,
    chunk_of,
    completion,
    error_of,
    main_upstream,
    usage_chunk,
    usage_of,
    words,
)

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def upstream() -> Iterator[Replay]:
    with Replay() as up:
        yield up


@pytest.fixture
def up(upstream: Replay) -> Replay:
    upstream.requests.clear()
    upstream.handler = answers(json_answer(completion(usage=usage_of(10, 5))))
    return upstream


@pytest.fixture(scope="module")
def served(upstream: Replay, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    config = {
        "server": {"trusted_proxies": ["127.0.0.1"]},
        "upstreams": {
            "main": main_upstream(upstream),
            "bare": {"base_url": upstream.url + "/v1", "auth": "none"},
            "sandbox": {},
        },
        "models": {
            "zeta": {"routes": [{"upstream": "main"}]},
            "org/eta:free": {"routes": [{"upstream": "main"}], "price": "free"},
            "unpriced": {"routes": [{"upstream": "bare"}]},
        },
    }
    with Served(tmp_path_factory.mktemp("bad"), config) as served:
        yield served


@pytest.fixture(scope="module")
def hasty(upstream: Replay, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One that doesn't wait long for a body. (A large one may take its time on a busy machine.)"""
    config = {"server": {"body_timeout": 0.4}, "upstreams": {"main": main_upstream(upstream)}}
    with Served(tmp_path_factory.mktemp("hasty"), config) as served:
        yield served


@pytest.fixture
def alice(served: Served) -> Iterator[Person]:
    """A user with money, who still has all of it when the test is over."""
    person = served.person(credits="1")
    yield person
    assert served.rows(person) == []
    assert served.held(person) == 0
    assert served.balance(person.name) == 1_000_000_000


def test_nothing_here_reaches_an_upstream(served: Served, up: Replay, alice: Person) -> None:
    """The fixture's claim, once for all below: what is refused is refused before."""
    error_of(served.chat(alice, model=None), 400, "invalid_request")
    assert up.requests == []


# -- the body


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"hello", None),
        (b"[]", None),
        (b"null", None),
        (b'{"model":"zeta"', None),
        (b'{"model":"zeta","messages":"\\ud800"}', None),
        (b'{"model":"zeta","messages":' + b"[" * 200_000 + b"]" * 200_000 + b"}", None),
        (b'{"model":"zeta","anything":' + b'{"a":' * 200_000 + b"1" + b"}" * 200_000 + b"}", None),
        (b'{"model":"zeta","messages":"\xff"}', "messages"),
        (b"{}", "model"),
        (b'{"model":null}', "model"),
        (b'{"model":""}', "model"),
        (b'{"model":5}', "model"),
        (b'{"model":"a b"}', "model"),
        (b'{"model":"zeta\\n2026 forged line"}', "model"),
        (b'{"model":"../../admin"}', "model"),
        (b'{"model":"main/..%2f..%2fadmin"}', "model"),
        (b'{"model":"%b"}' % (b"x" * 300), "model"),
        (b'{"model":"cheap","model":"zeta"}', "model"),
        (b'{"model":"zeta","MODEL":"dear"}', "model"),
        (b'{"model":"zeta","max_tokens":5,"Max_Tokens":90000}', "max_tokens"),
        (b'{"model":"zeta","max_token\xc5\xbf":90000}', "max_tokens"),
        (b'{"model":"zeta","max_tokens":0}', "max_tokens"),
        (b'{"model":"zeta","max_tokens":-1}', "max_tokens"),
        (b'{"model":"zeta","max_tokens":1e3}', "max_tokens"),
        (b'{"model":"zeta","max_tokens":"5"}', "max_tokens"),
        (b'{"model":"zeta","max_tokens":%b}' % (b"9" * 5000), "max_tokens"),
        (b'{"model":"zeta","n":0}', "n"),
        (b'{"model":"zeta","stream":"yes"}', "stream"),
        (b'{"model":"zeta","stream":true,"stream_options":[]}', "stream_options"),
        (b'{"model":"zeta","service_tier":[]}', "service_tier"),
        (b'{"model":"zeta","plugins":[{"id":"web"}]}', "plugins"),
        (b'{"model":"zeta","models":["zeta","dear"]}', "models"),
        (b'{"model":"zeta","web_search_options":{}}', "web_search_options"),
    ],
)
def test_bodies_that_are_refused(served: Served, up: Replay, alice: Person, body: bytes, param: str | None) -> None:
    error = error_of(served.post(alice, body), 400, "invalid_request")
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert len(error["message"]) < 1000
    assert up.requests == []


@pytest.mark.parametrize("name", ["plugins", "models", "web_search_options"])
def test_what_has_no_bound_is_for_accounts_whose_money_cannot_run_out(served: Served, up: Replay, name: str) -> None:
    bob = served.person()
    assert served.chat(bob, **{name: [{}]}).status_code == 200
    assert up.requests[0].json()[name] == [{}]
    served.settled(bob, 1)


def test_a_model_that_searches_for_each_answer_has_no_bound_either(served: Served, up: Replay, alice: Person) -> None:
    error = error_of(served.chat(alice, model="main/zeta:online"), 400, "invalid_request")
    assert error["param"] == "model"
    assert up.requests == []
    bob = served.person()
    assert served.chat(bob, model="main/zeta:online").status_code == 200
    served.settled(bob, 1)


def request_head(served: Served, person: Person, length: int | str, *more: str) -> bytes:
    host = served.url.removeprefix("http://")
    framing = f"content-length: {length}" if isinstance(length, int) else f"transfer-encoding: {length}"
    lines = [f"POST {CHAT} HTTP/1.1", f"host: {host}", f"authorization: Bearer {person.key}", framing, *more]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def connect(served: Served) -> socket.socket:
    host, _, port = served.url.removeprefix("http://").partition(":")
    connection = socket.create_connection((host, int(port)))
    connection.settimeout(10)
    return connection


def read_answer(connection: socket.socket) -> tuple[int, dict[str, Any], bool]:
    """The first answer on a connection: its status, its body, and whether the server closes the connection."""
    raw, closed = b"", False
    while not closed:
        head, _, body = raw.partition(b"\r\n\r\n")
        length = re.search(rb"\r\ncontent-length: (\d+)", head)
        if length and len(body) >= int(length[1]):
            break
        try:
            piece = connection.recv(65536)
        except ConnectionResetError:
            piece = b""
        raw += piece
        closed = not piece
    closes = b"connection: close" in head
    if closes:
        with suppress(ConnectionResetError):
            assert connection.recv(1) == b""
    return int(head.split(b" ")[1]), json.loads(body) if body else {}, closes


def test_a_body_that_is_too_large_by_its_length(served: Served, up: Replay, alice: Person) -> None:
    """Refused at its first line: none of its 40 MB is waited for."""
    with connect(served) as connection:
        connection.sendall(request_head(served, alice, 40_000_000))
        status, body, closes = read_answer(connection)
    assert (status, body["error"]["code"], closes) == (413, "request_too_large", True)


def test_a_body_that_turns_out_too_large(served: Served, up: Replay, alice: Person) -> None:
    sent = 0
    with connect(served) as connection:
        connection.sendall(request_head(served, alice, "chunked"))
        megabyte = b"100000\r\n" + b"x" * 2**20 + b"\r\n"
        try:
            while sent < 200:
                connection.sendall(megabyte)
                sent += 1
        except ConnectionError:
            pass
        status, body, closes = read_answer(connection)
    assert (status, body["error"]["code"], closes) == (413, "request_too_large", True)
    assert 32 <= sent < 100


@pytest.mark.parametrize("key", ["alice's", "nobody's"])
def test_a_client_that_sends_a_large_body_is_told_so(served: Served, up: Replay, alice: Person, key: str) -> None:
    """With an SDK's client, which writes before it reads."""
    presented = alice.key if key == "alice's" else keys.new_key()
    answer = served.post(presented, b"x" * 40_000_000)
    assert answer.status_code == (413 if key == "alice's" else 401)
    assert answer.headers["connection"] == "close"
    answer = served.post(presented, b"x" * 3_000_000)
    assert answer.status_code == (400 if key == "alice's" else 401)


def test_a_body_of_the_largest_size_is_read(served: Served, up: Replay) -> None:
    bob = served.person()
    body = json.dumps(chat_body(padding="")).encode()
    body = body.replace(b'"padding": ""', b'"padding": "%b"' % (b"x" * (32 * 2**20 - len(body))))
    assert len(body) == 32 * 2**20
    assert served.post(bob, body).status_code == 200
    assert len(up.requests[0].body) < 2**25
    served.settled(bob, 1)
    error_of(served.post(bob, body + b" "), 413, "request_too_large")


def test_a_body_that_never_arrives(hasty: Served, up: Replay) -> None:
    with connect(hasty) as connection:
        connection.sendall(request_head(hasty, hasty.person(credits="1"), 1000))
        status, body, closes = read_answer(connection)
    assert (status, body["error"]["code"], closes) == (408, "request_timeout", True)


def test_a_body_that_comes_too_slowly(hasty: Served, up: Replay) -> None:
    with connect(hasty) as connection:
        connection.sendall(request_head(hasty, hasty.person(credits="1"), 1000))
        begin = time.monotonic()
        try:
            while time.monotonic() < begin + 10:
                connection.sendall(b"x")
                time.sleep(0.05)
        except ConnectionError:
            pass
        assert time.monotonic() < begin + 10


def test_a_length_that_is_too_long(hasty: Served, up: Replay) -> None:
    raw = json.dumps(chat_body()).encode()
    with connect(hasty) as connection:
        connection.sendall(request_head(hasty, hasty.person(credits="1"), len(raw) + 1) + raw)
        status, body, _ = read_answer(connection)
    assert (status, body["error"]["code"]) == (408, "request_timeout")


def test_a_length_that_is_too_short(served: Served, up: Replay, alice: Person) -> None:
    raw = json.dumps(chat_body()).encode()
    with connect(served) as connection:
        connection.sendall(request_head(served, alice, len(raw) - 1) + raw)
        status, body, _ = read_answer(connection)
        assert (status, body["error"]["code"]) == (400, "invalid_request")
        connection.sendall(b"\r\n\r\n")  # with the one byte too many, that is no request
        rest = b""
        while piece := connection.recv(1000):
            rest += piece
    assert rest.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "raw",
    [
        b"nonsense\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-long: " + b"x" * 1_000_000 + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
    ids=["no HTTP", "two lengths", "negative length", "bad header", "long header", "TLS"],
)
def test_what_is_no_http_is_closed(served: Served, raw: bytes) -> None:
    with connect(served) as connection:
        got = b""
        try:
            connection.sendall(raw)
            while piece := connection.recv(1000):
                got += piece
        except ConnectionResetError:
            pass
    assert re.match(rb"HTTP/1.1 4\d\d ", got)
    assert b"content-length: 0" in got.lower()


def test_a_client_that_waits_for_permission_to_send(served: Served, up: Replay) -> None:
    bob = served.person()
    raw = json.dumps(chat_body()).encode()
    with connect(served) as connection:
        connection.sendall(request_head(served, bob, len(raw), "expect: 100-continue"))
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
        connection.sendall(raw)
        assert read_answer(connection)[0] == 200
    assert up.requests[0].header("expect") is None
    served.settled(bob, 1)


def test_a_chunked_body(served: Served, up: Replay) -> None:
    bob = served.person()
    raw = json.dumps(chat_body(model="zeta")).encode()
    with connect(served) as connection:
        head = request_head(served, bob, "chunked")
        connection.sendall(head + b"".join(b"1\r\n%c\r\n" % byte for byte in raw) + b"0\r\n\r\n")
        assert read_answer(connection)[0] == 200
    assert up.requests[0].body == raw
    assert up.requests[0].header("content-length") == str(len(raw))
    served.settled(bob, 1)


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip", "x"])
def test_a_compressed_body(served: Served, up: Replay, alice: Person, encoding: str) -> None:
    answer = served.post(alice, chat_body(), headers={"content-encoding": encoding})
    error_of(answer, 415, "unsupported_encoding")
    assert up.requests == []


def test_a_plain_body_may_say_that_it_is_plain(served: Served, up: Replay) -> None:
    bob = served.person()
    assert served.post(bob, chat_body(), headers={"content-encoding": "identity"}).status_code == 200
    assert up.requests[0].header("content-encoding") is None
    served.settled(bob, 1)


# -- the key


def ask(served: Served, headers: Mapping[str, str] | list[tuple[str, str]]) -> httpx.Response:
    return served.client.post(served.url + CHAT, json=chat_body(), headers=headers)


def wrong(served: Served, answer: httpx.Response, code: str) -> None:
    error = error_of(answer, 401, code)
    assert error["type"] == "authentication_error"
    assert answer.headers["connection"] == "close"  # its body wasn't read
    assert "sk-lg-" not in error["message"].replace("sk-lg-…", "").replace("begin with sk-lg-", "")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"x-api-key": ""},
        {"authorization": "Basic YWxpY2U6c2VjcmV0"},
    ],
)
def test_no_key(served: Served, up: Replay, headers: dict[str, str]) -> None:
    wrong(served, ask(served, headers), "missing_key")


def test_keys_that_are_none(served: Served, up: Replay, alice: Person) -> None:
    typo = alice.key[:-1] + ("a" if alice.key[-1] != "a" else "b")
    swapped = alice.key[:10] + alice.key[11] + alice.key[10] + alice.key[12:]
    others = [
        *(typo, alice.key[:-1], alice.key + "x", alice.key.upper(), "sk-lg-", "sk-proj-abc", SECRET, alice.key_id),
        *((swapped,) if swapped != alice.key else ()),
        keys.new_key(),
    ]
    for key in others:
        answer = ask(served, [("authorization", f"Bearer {key}")])
        wrong(served, answer, "invalid_key")
    assert up.requests == []


@pytest.mark.parametrize("name", ["authorization", "x-api-key", "api-key", "x-goog-api-key"])
def test_a_key_in_each_of_the_headers(served: Served, up: Replay, name: str) -> None:
    bob = served.person()
    value = bob.key if name != "authorization" else f"bearer  {bob.key}"
    assert ask(served, {name: value}).status_code == 200
    (request,) = up.requests
    assert [value for key, value in request.headers if key in ("authorization", "x-api-key", "api-key")] == [
        f"Bearer {SECRET}"
    ]
    assert request.header("x-goog-api-key") is None
    assert bob.key not in str(request)
    served.settled(bob, 1)


def test_a_foreign_key_beside_ours_is_ignored(served: Served, up: Replay) -> None:
    bob = served.person()
    headers = {"authorization": "Bearer sk-proj-theirs", "x-api-key": bob.key, "api-key": "sk-ant-theirs"}
    assert ask(served, headers).status_code == 200
    assert "theirs" not in str(up.requests)
    assert ask(served, {"authorization": f"Bearer {bob.key}", "x-api-key": bob.key}).status_code == 200
    served.settled(bob, 2)


def test_two_of_our_keys(served: Served, up: Replay, alice: Person) -> None:
    bob = served.person()
    wrong(served, ask(served, {"authorization": f"Bearer {alice.key}", "x-api-key": bob.key}), "invalid_key")
    twice = [("authorization", f"Bearer {alice.key}"), ("authorization", f"Bearer {bob.key}")]
    wrong(served, ask(served, twice), "invalid_key")
    assert up.requests == []


@pytest.mark.parametrize(
    ("verb", "code"), [("disable", "key_disabled"), ("revoke", "key_revoked"), ("expire", "key_expired")]
)
def test_keys_that_were_good(served: Served, up: Replay, alice: Person, verb: str, code: str) -> None:
    with served.tx() as tx:
        if verb == "expire":
            keys.change(tx, alice.key_id, {"expires_ms": tx.now_ms})
        else:
            keys.set_state(tx, alice.key_id, verb)
    wrong(served, served.chat(alice), code)
    wrong(served, served.chat(alice, stream=True), code)
    answer = served.client.get(served.url + "/v1/models", headers=served.headers(alice))
    error_of(answer, 401, code)
    assert up.requests == []


def test_a_disabled_user(served: Served, up: Replay, alice: Person) -> None:
    with served.tx() as tx:
        accounts.set_user(tx, alice.name, {"status": "disabled"})
    error = error_of(served.chat(alice), 403, "user_disabled")
    assert error["type"] == "permission_error"


def test_a_rotated_key_and_its_grace(served: Served, up: Replay) -> None:
    bob = served.person()
    with served.tx() as tx:
        fresh = keys.rotate(tx, bob.key_id, grace_ms=60_000).key
    assert served.chat(bob).status_code == 200
    assert served.chat(fresh).status_code == 200
    with served.tx() as tx:
        tx.execute("UPDATE keys SET grace_until_ms = ? WHERE id = ?", (tx.now_ms, bob.key_id))
    wrong(served, served.chat(bob), "key_expired")
    assert served.chat(fresh).status_code == 200
    served.settled(bob, 3)


def test_a_key_for_certain_addresses(served: Served, up: Replay, alice: Person) -> None:
    bob = served.person(ips=["10.0.0.0/8", "2001:db8::/32"])
    error = error_of(served.chat(bob), 403, "ip_not_allowed")
    assert error["type"] == "permission_error"
    for forwarded, status in {
        "10.1.2.3": 200,
        "11.1.2.3": 403,
        "10.1.2.3, 11.1.2.3": 403,  # only what the trusted proxy itself says counts
        "11.1.2.3, 10.1.2.3": 200,
        "2001:db8::1": 200,
        "::ffff:10.1.2.3": 200,
        "nonsense": 403,
    }.items():
        answer = served.post(bob, chat_body(), headers={"x-forwarded-for": forwarded})
        assert answer.status_code == status
    answer = served.client.get(served.url + "/v1/models", headers=served.headers(bob))
    error_of(answer, 403, "ip_not_allowed")
    served.settled(bob, 4)
    carol = served.person(ips=["127.0.0.1"])
    assert served.chat(carol).status_code == 200
    served.settled(carol, 1)


# -- the model


def test_models_that_are_not_there(served: Served, up: Replay, alice: Person) -> None:
    for name in ("nonesuch-7", "bare/nonesuch-7", "other/zeta"):
        error = error_of(served.chat(alice, model=name), 404, "model_not_found")
        assert error["param"] == "model"
    assert up.requests == []


def test_a_model_without_a_price(served: Served, up: Replay, alice: Person) -> None:
    error = error_of(served.chat(alice, model="unpriced"), 403, "model_not_priced")
    assert error["param"] == "model"
    assert "[models.unpriced]" in error["message"]
    error_of(served.chat(served.person(), model="unpriced"), 403, "model_not_priced")
    assert up.requests == []


def test_a_key_for_certain_models(served: Served, up: Replay) -> None:
    bob = served.person(models=["zeta", "org/*"])
    error = error_of(served.chat(bob, model="sandbox/echo"), 403, "model_not_allowed")
    assert error["type"] == "permission_error"
    error_of(served.chat(bob, model="main/other"), 403, "model_not_allowed")
    assert served.chat(bob, model="zeta").status_code == 200
    assert served.chat(bob, model="org/eta:free").status_code == 200
    with served.tx() as tx:
        keys.change(tx, bob.key_id, {"models": ["main/zeta"]})
    assert served.chat(bob, model="zeta").status_code == 200  # by the name that it goes by over there
    error_of(served.chat(bob, model="org/eta:free"), 403, "model_not_allowed")
    served.settled(bob, 3)


def get(served: Served, path: str, person: Person | None = None, method: str = "GET") -> httpx.Response:
    headers = served.headers(person) if person else {}
    return served.client.request(method, served.url + path, headers=headers)


def test_the_models_of_a_key(served: Served, up: Replay, alice: Person) -> None:
    listed = get(served, "/v1/models", alice).json()
    assert listed["object"] == "list"
    names = [model["id"] for model in listed["data"]]
    assert names[:2] == ["zeta", "org/eta:free"]
    assert "sandbox/echo" in names
    assert "unpriced" not in names
    assert len(names) == len(set(names))
    zeta = listed["data"][0]
    assert (zeta["object"], zeta["owned_by"], type(zeta["created"])) == ("model", "main", int)
    assert zeta["pricing"] == {"input_usd": "1", "output_usd": "2", "cached_input_usd": "1", "free": False}
    assert listed["data"][1]["pricing"]["free"] is True
    bob = served.person(models=["zeta"])
    assert [model["id"] for model in get(served, "/v1/models", bob).json()["data"]] == ["zeta"]
    error_of(get(served, "/v1/models/sandbox/echo", bob), 404, "model_not_found")
    assert up.requests == []


@pytest.mark.parametrize("path", ["org/eta:free", "org%2Feta%3Afree", "org%2feta:free"])
def test_a_model_with_a_slash_in_its_name(served: Served, alice: Person, path: str) -> None:
    answer = get(served, f"/v1/models/{path}", alice)
    assert (answer.status_code, answer.json()["id"]) == (200, "org/eta:free")


@pytest.mark.parametrize("path", ["nonesuch", "..%2f..%2fetc", "%ff%00", "zeta/x", "x" * 5000])
def test_a_model_that_nobody_knows(served: Served, alice: Person, path: str) -> None:
    answer = get(served, f"/v1/models/{path}", alice)
    if path in ("nonesuch", "zeta/x"):
        error = error_of(answer, 404, "model_not_found")
    else:  # and one that can't be the name of any
        error = error_of(
            answer, answer.status_code, "invalid_request" if answer.status_code == 400 else "model_not_found"
        )
    assert error["param"] == "model"


def test_models_are_for_keys(served: Served) -> None:
    error_of(get(served, "/v1/models"), 401, "missing_key")
    error_of(get(served, "/v1/models/zeta"), 401, "missing_key")


@pytest.mark.parametrize(
    "path", ["/v1/models", "/v1/models/main%2Fzeta", "/v1beta/models", "/user/balance", "/user/limit"]
)
def test_a_head_is_a_get_without_its_body(served: Served, alice: Person, path: str) -> None:
    whole, only = (get(served, path, alice, method) for method in ("GET", "HEAD"))
    assert (only.status_code, only.content) == (whole.status_code, b"")
    told = [{name: answer.headers[name] for name in ("content-type", "content-length")} for answer in (whole, only)]
    assert told[0] == told[1]
    assert get(served, path, method="HEAD").status_code == 401


# -- the small endpoints


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_health(served: Served, path: str) -> None:
    answer = get(served, path)
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    assert answer.headers["x-request-id"].startswith("req_")
    answer = get(served, path, method="HEAD")
    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/v1",
        "/v1/chat",
        "/v1/chat/completions/",
        "//v1/chat/completions",
        "/v1/chat%2fcompletions",
        "/v1/../v1/chat/completions",
        "/v1/files",
        "/%ff%00",
        "/" + "x" * 5000,
        "/health/x",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_there_is_nothing_there(served: Served, up: Replay, alice: Person, path: str, method: str) -> None:
    with connect(served) as connection:
        lines = [f"{method} {path}?key=a-query HTTP/1.1", "host: x", f"authorization: Bearer {alice.key}"]
        connection.sendall(("\r\n".join(lines) + "\r\ncontent-length: 2\r\n\r\n{}").encode())
        status, body, _ = read_answer(connection)
    assert (status, body["error"]["code"]) == (404, "not_found")
    assert "a-query" not in body["error"]["message"]
    assert len(body["error"]["message"]) < 500
    assert up.requests == []


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", CHAT, "POST"),
        ("DELETE", CHAT, "POST"),
        ("OPTIONS", CHAT, "POST"),
        ("PUT", "/v1/embeddings", "POST"),
        ("POST", "/v1/models", "GET, HEAD"),
        ("DELETE", "/v1/models/zeta", "GET, HEAD"),
        ("POST", "/health", "GET, HEAD"),
        ("POST", "/ready", "GET, HEAD"),
    ],
)
def test_methods(served: Served, alice: Person, method: str, path: str, allow: str) -> None:
    answer = get(served, path, alice, method)
    error_of(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == allow


@pytest.mark.parametrize("path", ["/health", "/v1/models", CHAT, "/nothing"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_bodies_that_nobody_reads(served: Served, alice: Person, method: str, path: str) -> None:
    """They neither hang nor leave the connection in a state in which the next request fails."""
    size = 5_000_000
    with connect(served) as connection:
        lines = [f"{method} {path} HTTP/1.1", "host: x", "x-api-key: sk-lg-wrong", f"content-length: {size}"]
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        with suppress(ConnectionError):
            connection.sendall(b"x" * size)
        status, _, _ = read_answer(connection)
    assert status in (200, 401, 404, 405)
    assert get(served, "/health").status_code == 200


def test_a_body_beside_a_question_for_models(served: Served, alice: Person) -> None:
    """The list is made anew, so that more of the body comes than is waited for before there is an answer."""
    served.signal(SIGHUP)
    served.logged("the config was reloaded")
    size = 20_000_000
    with connect(served) as connection:
        lines = ["GET /v1/models HTTP/1.1", "host: x", f"x-api-key: {alice.key}", f"content-length: {size}"]
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        with suppress(ConnectionError):
            connection.sendall(b"x" * size)
        assert read_answer(connection)[0] == 200


def test_a_body_that_nobody_reads_over_http2(served: Served, up: Replay) -> None:
    """It ends its own stream, and none of those beside it on the same connection."""
    bob = served.person()
    rest = [*words("you"), sse(usage_chunk(10, 5)), DONE]
    up.handler = answers(sse_answer(sse(chunk_of("hello")), Pause(0.5), *rest))
    with httpx.Client(http1=False, http2=True, trust_env=False) as client:
        asked = {"json": chat_body(stream=True), "headers": served.headers(bob)}
        with client.stream("POST", served.url + CHAT, **asked) as stream:  # type: ignore[arg-type]
            pieces = stream.iter_raw()
            assert b"hello" in next(pieces)
            for path in (CHAT, "/nothing"):
                answer = client.post(served.url + path, content=b"x" * 3_000_000)
                assert (answer.status_code, answer.http_version) == (401 if path == CHAT else 404, "HTTP/2")
                assert "connection" not in answer.headers
            assert DONE in b"".join(pieces)
    assert [row["status"] for row in served.settled(bob, 1)] == ["ok"]


def test_a_websocket_is_closed(served: Served) -> None:
    with connect(served) as connection:
        connection.sendall(
            b"GET /v1/realtime HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        got = b""
        while piece := connection.recv(1000):
            got += piece
    assert got.startswith(b"HTTP/1.1 403 ")


# -- what is never told


def test_no_log_line_is_forged_and_none_tells_a_secret(served: Served, up: Replay, alice: Person) -> None:
    """Beyond what is checked when the server stops: a client's text can't look like a line of the log."""
    typo = alice.key[:-1] + ("a" if alice.key[-1] != "a" else "b")
    forged = "x\n2026-11-20T10:00:00.000Z info llmgate.request 200 root"
    error_of(served.chat(alice, model=forged), 400, "invalid_request")
    error_of(served.chat(alice, model=alice.key), 404, "model_not_found")
    error_of(served.post(alice, chat_body(), path=f"/v1/nothing?api_key={alice.key}"), 404, "not_found")
    error_of(served.post(alice, b'{"model":"\xff"}', path=CHAT + "?q=a-query-string"), 400, "invalid_request")
    error_of(served.chat(typo), 401, "invalid_key")
    log = served.log()
    assert "200 root" not in log
    assert "a-query-string" not in log
    assert alice.key not in log
    assert typo not in log
    lines = [line for line in log.splitlines() if " llmgate.request " in line]
    assert all(re.match(r"2\d{3}-\d\d-\d\dT[\d:.]+Z info llmgate\.request \d{3} ", line) for line in lines)


def test_prepaid_without_credits_reads_models_and_nothing_else(served: Served, up: Replay) -> None:
    bob = served.person(billing=Billing.PREPAID)
    assert get(served, "/v1/models", bob).status_code == 200
    error_of(served.chat(bob), 402, "insufficient_credits")
    assert served.chat(bob, model="org/eta:free").status_code == 200
    served.settled(bob, 1)
