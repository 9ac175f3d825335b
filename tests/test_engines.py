"""What every HTTP server must do that `[server] engine` can name: the walk is the same behind each."""

from __future__ import annotations

import importlib.util
import json
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from signal import SIGTERM
from typing import Any

import httpx
import pytest

from llmgate import listening
from llmgate.config import Config, OidcTable, Secret, Server
from llmgate.engines import ENGINES, MOST_HEAD
from llmgate.errors import ConfigError
from llmgate.store import keys
from tests import tls
from tests.replay import HANG, Replay, json_answer, sse, sse_answer
from tests.served import (
    DONE,
    INPUT_NANO,
    OUTPUT_NANO,
    Served,
    answers,
    chat_body,
    chunk_of,
    completion,
    facts,
    main_upstream,
    usage_chunk,
    usage_of,
    words,
)

EXACT = 10 * INPUT_NANO + 5 * OUTPUT_NANO
REST = (*words("hello"), sse(usage_chunk(10, 5)), DONE)


@pytest.fixture(params=list(ENGINES))
def engine(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def up() -> Iterator[Replay]:
    with Replay() as up:
        up.handler = answers(json_answer(completion(usage=usage_of(10, 5))))
        yield up


def config(engine: str, up: Replay, **server: Any) -> dict[str, Any]:
    return {"server": {"engine": engine, **server}, "upstreams": {"main": main_upstream(up)}}


def test_answers_and_streams(engine: str, up: Replay, tmp_path: Path) -> None:
    with Served(tmp_path, config(engine, up)) as served:
        alice = served.person(credits="1")
        for _ in range(3):  # over one connection
            answer = served.chat(alice)
            assert answer.status_code == 200
            assert answer.headers["x-llmgate-charge-usd"] == "0.00002"
        up.handler = answers(sse_answer(*REST))
        streamed, got = served.stream(alice)
        assert (streamed.status_code, got.endswith(DONE)) == (200, True)
        assert [row["charge_nano"] for row in served.settled(alice, 4)] == [EXACT] * 4
        assert served.client.head(f"{served.url}/health").status_code == 200
        assert served.chat(keys.new_key()).status_code == 401
        large = served.post(alice, b" " * 2**20 + json.dumps(chat_body(stream=True)).encode())
        assert large.status_code == 200
        assert len(served.settled(alice, 5)) == 5


def test_a_client_that_leaves_is_noticed(engine: str, up: Replay, tmp_path: Path) -> None:
    with Served(tmp_path, config(engine, up)) as served:
        alice = served.person(credits="1")
        up.handler = answers(sse_answer(sse(chunk_of("hello")), HANG))
        with served.streaming(alice) as answer:
            assert b"hello" in next(answer.iter_raw())
        (row,) = served.settled(alice, 1)
        assert facts(row)[:2] == ("cancelled", "estimated")


def test_a_stop_lets_requests_end_and_cuts_off_who_takes_too_long(engine: str, up: Replay, tmp_path: Path) -> None:
    with Served(tmp_path, config(engine, up, shutdown_grace=0.2)) as served:
        alice = served.person(credits="1")
        up.handler = answers(sse_answer(sse(chunk_of("hello")), HANG))
        with served.streaming(alice) as answer:
            pieces = answer.iter_raw()
            assert b"hello" in next(pieces)
            served.signal(SIGTERM)
            assert b"shutting down" in b"".join(pieces)
        assert served.wait() == 0
        (row,) = served.settled(alice, 1)
        assert row["status"] == "interrupted"


def test_a_head_without_end_is_refused(engine: str, up: Replay, tmp_path: Path) -> None:
    with Served(tmp_path, config(engine, up)) as served:
        address = httpx.URL(served.url)
        for head in (b"GET /health HTTP/1.1\r\nx: ", b"GET /", b"GET /health HTTP/1.1\r\n" + b"a: b\r\n" * 11_000):
            with socket.create_connection((address.host, address.port or 0), 10) as connection:
                try:
                    connection.sendall(head)
                    for _ in range(3 * MOST_HEAD // 1000):
                        connection.sendall(b"x" * 1000)
                    told = connection.recv(1000)
                except ConnectionError:
                    continue
                assert told.split()[1:2] in ([b"400"], [b"431"], [])
        assert served.client.get(f"{served.url}/health").status_code == 200


def test_tls(engine: str, up: Replay, tmp_path: Path) -> None:
    made = tls.authority(tmp_path)
    tls.server(tmp_path, made)
    files = {"certfile": "server.pem", "keyfile": "server.key"}
    with Served(tmp_path, config(engine, up, **files), start=False) as served:
        process = served.process = served.spawn("--bind", "127.0.0.1:0")
        served.logged("listening on https://")
        assert process.poll() is None
        port = int(served.log().split("listening on https://127.0.0.1:")[1].split()[0])
        trusting = ssl.create_default_context(cafile=str(made.certificate))
        with httpx.Client(verify=trusting, trust_env=False) as client:
            assert client.get(f"https://localhost:{port}/health").json() == {"status": "ok"}


def test_several_workers(engine: str, up: Replay, tmp_path: Path) -> None:
    with Served(tmp_path, config(engine, up, workers=2)) as served:
        alice = served.person(credits="1")
        assert {served.chat(alice).status_code for _ in range(5)} == {200}
        assert len(served.settled(alice, 5)) == 5


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "find_spec", lambda name: importlib.util.find_spec("no_" + name))
    listening.check_installed(Config())
    with pytest.raises(ConfigError, match=r"pip install 'llmgate\[fast\]'"):
        listening.check_installed(Config(server=Server(engine="uvicorn")))
    way = OidcTable(client_id="c", client_secret=Secret("s"))
    with pytest.raises(ConfigError, match=r"^\[oidc\.google\] .* `pip install 'llmgate\[oidc\]'`$"):
        listening.check_installed(Config(oidc={"google": way}))
