"""Another try, another route, and requests that end at an awkward moment: charged once, and for what was served."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmgate.gateway import pipeline
from llmgate.gateway.exchange import Cut, Exchange
from llmgate.routing import REASONING
from llmgate.store import holds
from tests.replay import HANG, Pause, Replay, chunk, head, json_answer, sse, sse_answer, until, wait_until
from tests.served import (
    DONE,
    INPUT_NANO,
    OUTPUT_NANO,
    PRICE,
    Inside,
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

EXACT = 10 * INPUT_NANO + 5 * OUTPUT_NANO
OK = json_answer(completion("hello", usage=usage_of(10, 5)))
HELLO = sse(chunk_of("hello"))
REST = (*words(" world"), sse(usage_chunk(10, 5)), DONE)
STREAM = sse_answer(HELLO, *REST)


def busy(after: str, status: int = 503) -> tuple[Any, ...]:
    """A refusal that may go better later; that it tells a usage changes nothing."""
    body = {"error": {"message": "busy"}, "usage": usage_of(700, 700)}
    return json_answer(body, status, [("retry-after", after)])


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
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
    down = {"base_url": nowhere, "auth": "none", "price": PRICE}
    return {
        "upstreams": {
            "main": main_upstream(up, on_disconnect="cancel"),
            "other": main_upstream(up, "/other/v1", on_disconnect="cancel"),
            "quick": main_upstream(up, on_disconnect="cancel", timeout={"first_byte": 0.3, "idle": 0.3}),
            "down": down,
            "down2": down,
        },
        "models": {
            "down-first": {"routes": [{"upstream": "down", "weight": 2**31}, {"upstream": "main"}]},
            "down-last": {"routes": [{"upstream": "down"}, {"upstream": "main", "weight": 2**31}]},
            "either": {"routes": [{"upstream": "down"}, {"upstream": "main"}]},
            "both": {"routes": [{"upstream": "main", "weight": 2**31}, {"upstream": "other"}]},
            "nobody": {"routes": [{"upstream": "down"}, {"upstream": "down2"}]},
        },
    }


@pytest.fixture(scope="module")
def served(upstream: Replay, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("retries"), config_for(upstream)) as served:
        yield served


@pytest.fixture
async def inside(up: Replay, tmp_path: Path) -> AsyncIterator[Inside]:
    async with Inside(tmp_path, config_for(up)) as inside:
        yield inside


def send(served: Served, person: Person, **fields: Any) -> socket.socket:
    """A request on a connection of its own."""
    host, _, port = served.url.removeprefix("http://").partition(":")
    connection = socket.create_connection((host, int(port)))
    connection.settimeout(10)
    body = json.dumps(chat_body(**fields)).encode()
    lines = ["POST /v1/chat/completions HTTP/1.1", f"host: {host}", f"authorization: Bearer {person.key}"]
    lines += [f"content-length: {len(body)}"]
    connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode() + body)
    return connection


def read_until(connection: socket.socket, text: bytes) -> None:
    got = b""
    while text not in got:
        piece = connection.recv(65536)
        assert piece, got
        got += piece


# -- another try


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [429, 503])
def test_only_the_try_that_went_well_is_charged(served: Served, up: Replay, status: int, stream: bool) -> None:
    alice = served.person(credits="1")
    up.handler = answers(busy("0", status), STREAM if stream else OK)
    answer = served.chat(alice, stream=stream)
    assert answer.status_code == 200
    assert b"hello" in answer.content
    assert len(up.requests) == 2
    (row,) = served.settled(alice, 1)
    assert facts(row) == ("ok", "upstream", 200, EXACT)
    assert served.balance(alice.name) == 10**9 - EXACT


def test_tries_that_all_go_badly_are_free(served: Served, up: Replay) -> None:
    alice = served.person(credits="1")
    up.handler = answers(busy("0"))
    assert served.chat(alice).status_code == 503
    assert len(up.requests) == 3
    assert facts(served.settled(alice, 1)[0]) == ("error", "upstream", 503, 0)


def test_a_try_after_a_refusal_that_is_too_late(served: Served, up: Replay) -> None:
    """It isn't judged by the refusal before it: 504, not 503."""
    alice = served.person(credits="1")
    up.handler = answers(busy("0"), (HANG,))
    error_of(served.chat(alice, model="quick/zeta"), 504, "upstream_timeout")
    assert len(up.requests) == 2
    assert facts(served.settled(alice, 1)[0]) == ("error", "upstream", 504, 0)


def test_a_client_that_leaves_during_the_second_try(served: Served, up: Replay) -> None:
    """The upstream has read the prompt now, whatever it answered at first."""
    alice = served.person(credits="1")
    left = up.disconnects
    up.handler = answers(busy("0"), (HANG,))
    with send(served, alice, stream=True):
        wait_until(lambda: len(up.requests) == 2)
        assert served.held(alice) == 1
    wait_until(lambda: up.disconnects == left + 1)
    (row,) = served.settled(alice, 1)
    assert (row["status"], row["source"], row["charge_nano"]) == ("cancelled", "estimated", estimate(0))
    assert row["http_status"] is None
    assert served.balance(alice.name) == 10**9 - estimate(0)


def test_a_plain_client_that_leaves_during_the_second_try(served: Served, up: Replay) -> None:
    """A plain answer is billed whole, so it is read to its end."""
    alice = served.person(credits="1")
    up.handler = answers(busy("0"), (Pause(0.3), *OK))
    with send(served, alice):
        wait_until(lambda: len(up.requests) == 2)
    assert facts(served.settled(alice, 1)[0]) == ("cancelled", "upstream", 200, EXACT)


@pytest.mark.parametrize("model", ["main/zeta", "both"])
def test_a_plain_client_that_leaves_before_another_try(served: Served, up: Replay, model: str) -> None:
    """Nobody waits for it any more: neither this route nor the next one is asked."""
    alice = served.person(credits="1")
    up.handler = answers(busy("1"), OK)
    with send(served, alice, model=model):
        wait_until(lambda: len(up.requests) == 1)
    (row,) = served.settled(alice, 1)
    assert facts(row) == ("error", "upstream", 503, 0)
    assert len(up.requests) == 1
    assert served.balance(alice.name) == 10**9


@pytest.mark.parametrize("after", ["10.5", "11", "3600"])
@pytest.mark.parametrize("stream", [False, True])
def test_who_asks_for_a_long_pause_is_not_asked_again(served: Served, up: Replay, after: str, stream: bool) -> None:
    alice = served.person(credits="1")
    up.handler = answers(busy(after), OK)
    answer = served.chat(alice, stream=stream)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, after)
    assert answer.content == busy(after)[0].partition(b"\r\n\r\n")[2]
    assert len(up.requests) == 1
    assert facts(served.settled(alice, 1)[0]) == ("error", "upstream", 503, 0)


# -- another route


@pytest.mark.parametrize("model", ["down-first", "down-last", "either"])
@pytest.mark.parametrize("stream", [False, True])
def test_the_route_that_can_be_reached(served: Served, up: Replay, model: str, stream: bool) -> None:
    alice = served.person(credits="1")
    up.handler = answers(STREAM if stream else OK)
    assert served.chat(alice, model=model, stream=stream).status_code == 200
    (row,) = served.settled(alice, 1)
    assert facts(row) == ("ok", "upstream", 200, EXACT)
    assert (row["model"], row["upstream"], row["upstream_model"]) == (model, "main", model)
    assert len(up.requests) == 1


def test_the_row_names_the_route_that_answered(served: Served, up: Replay) -> None:
    alice = served.person(credits="1")
    up.handler = lambda request: OK if request.path.startswith("/other") else busy("0")
    assert served.chat(alice, model="both").status_code == 200
    (row,) = served.settled(alice, 1)
    assert (*facts(row), row["upstream"]) == ("ok", "upstream", 200, EXACT, "other")


@pytest.mark.parametrize("stream", [False, True])
def test_no_route_that_can_be_reached(served: Served, up: Replay, stream: bool) -> None:
    """Nobody was sent anything: no row, and the money is free again."""
    alice = served.person(credits="1")
    error_of(served.chat(alice, model="nobody", stream=stream), 503, "upstream_unavailable")
    assert served.settled(alice, 0) == []
    assert served.balance(alice.name) == 10**9
    held = "SELECT held_nano FROM accounts a JOIN users u ON u.account_id = a.id WHERE name = ?"
    assert served.value(held, alice.name) == 0
    assert up.requests == []


# -- models that think unasked


@pytest.mark.parametrize("model", ["o3", "gpt-5", "deepseek-r1", "openai/o4-mini"])
def test_a_model_that_thinks_is_read_to_its_end(served: Served, up: Replay, model: str) -> None:
    """What it thought is billed and not in the text, so only its usage tells."""
    alice = served.person(credits="1")
    left = up.disconnects
    up.handler = answers(sse_answer(HELLO, Pause(0.3), *REST))
    with send(served, alice, model=f"main/{model}", stream=True) as connection:
        read_until(connection, b"hello")
    assert facts(served.settled(alice, 1)[0]) == ("cancelled", "upstream", 200, EXACT)
    assert up.disconnects == left


@pytest.mark.parametrize("model", ["gpt-4o", "zeta"])
def test_a_model_that_does_not_think_is_closed(served: Served, up: Replay, model: str) -> None:
    alice = served.person(credits="1")
    left = up.disconnects
    up.handler = answers(sse_answer(HELLO, HANG))
    with send(served, alice, model=f"main/{model}", stream=True) as connection:
        read_until(connection, b"hello")
    wait_until(lambda: up.disconnects == left + 1)
    assert facts(served.settled(alice, 1)[0]) == ("cancelled", "estimated", 200, estimate(5))


@pytest.mark.parametrize(
    ("model", "thinks"),
    [
        *(
            (name, True)
            for name in ("o1", "o1-mini", "o3", "openai/o3-pro", "o4-mini", "gpt-5", "GPT-5.1", "gpt-oss:20b")
        ),
        *((name, True) for name in ("claude-opus-4-1", "anthropic/claude-sonnet-4.5", "gemini-2.5-flash", "grok-4")),
        *((name, True) for name in ("deepseek-r1:8b", "deepseek-reasoner", "kimi-k2-thinking", "qwq", "qwen3:8b")),
        *((name, False) for name in ("gpt-4o", "gpt-4.1-mini", "gpt-3.5-turbo", "chatgpt-4o-latest", "zeta", "echo3")),
        *((name, False) for name in ("claude-3-5-haiku", "gemini-2.0-flash", "deepseek-chat", "llama3", "foo-o3d")),
    ],
)
def test_names_of_models_that_think(model: str, thinks: bool) -> None:
    assert (REASONING.search(model) is not None) is thinks


# -- what can only be brought about from inside


async def test_a_plain_answer_that_is_too_large(inside: Inside, up: Replay, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is cut off while it comes in, and never held in memory."""
    monkeypatch.setattr(pipeline, "MOST_ANSWER", 1000)
    alice = inside.person(credits="1")
    left = up.disconnects
    first = head(200, [("content-type", "application/json"), ("transfer-encoding", "chunked")])
    up.handler = answers((first, chunk(b" " * 1001), HANG))
    client, task = inside.ask(alice)
    await task
    assert client.status == 502
    assert json.loads(client.got)["error"]["code"] == "upstream_error"
    await until(lambda: up.disconnects == left + 1)
    (row,) = await inside.settled_soon(alice, 1)
    assert facts(row) == ("error", "upstream", 502, 0)


async def test_a_plain_answer_that_is_just_small_enough(
    inside: Inside, up: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = json.dumps(completion("hello", usage=usage_of(10, 5))).encode()
    monkeypatch.setattr(pipeline, "MOST_ANSWER", len(body))
    alice = inside.person(credits="1")
    client, task = inside.ask(alice)
    await task
    assert (client.status, client.got) == (200, body)
    (row,) = await inside.settled_soon(alice, 1)
    assert facts(row) == ("ok", "upstream", 200, EXACT)


class Pieces(httpx.AsyncByteStream):
    """A body whose pieces come when the test says so."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            yield piece
        await asyncio.Event().wait()

    async def aclose(self) -> None:
        self.closed = True


class Stub(httpx.AsyncBaseTransport):
    """An upstream whose head arrives in exactly the tick that the test says."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.head: asyncio.Future[httpx.Response] = asyncio.get_running_loop().create_future()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.set()
        return await self.head


async def stub_of(inside: Inside) -> Stub:
    """A stub in the place of the upstream `main`."""
    stub = Stub()
    replaced, inside.gateway._transports["main"] = inside.gateway._transports["main"], stub
    await replaced.aclose()
    return stub


@pytest.mark.parametrize(
    ("why", "end"),
    [
        (Cut.FIRST_BYTE, ("error", "upstream", 504, 0)),
        (Cut.TOTAL, ("error", "upstream", 504, 0)),
        (Cut.SHUTDOWN, ("interrupted", "estimated", 503, estimate(0))),
    ],
)
async def test_a_cut_in_the_very_tick_of_the_head_is_a_cut(
    inside: Inside, why: Cut, end: tuple[str, str, int, int]
) -> None:
    """Otherwise the request would count as cut off already, and no later deadline could end it."""
    stub, body = await stub_of(inside), Pieces(HELLO)
    alice = inside.person(credits="1")
    client, task = inside.ask(alice, stream=True)
    await asyncio.wait_for(stub.asked.wait(), 10)
    (exchange,) = inside.gateway.in_flight
    await asyncio.sleep(0)  # until the walk waits for the head
    stub.head.set_result(httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=body))
    exchange.interrupt(why)
    await asyncio.wait_for(task, 10)
    assert client.status == (503 if why is Cut.SHUTDOWN else 504)
    (row,) = await inside.settled_soon(alice, 1)
    assert facts(row) == end
    assert body.closed


async def test_a_client_that_leaves_in_the_very_tick_of_the_head(inside: Inside) -> None:
    stub, body = await stub_of(inside), Pieces(HELLO)
    alice = inside.person(credits="1")
    _, task = inside.ask(alice, stream=True)
    await asyncio.wait_for(stub.asked.wait(), 10)
    (exchange,) = inside.gateway.in_flight
    await asyncio.sleep(0)
    stub.head.set_result(httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=body))
    inside.gateway._leave(exchange)
    await asyncio.wait_for(task, 10)
    (row,) = await inside.settled_soon(alice, 1)
    assert facts(row) == ("cancelled", "estimated", 200, estimate(0))
    assert body.closed


@pytest.mark.parametrize("stream", [False, True])
async def test_a_settlement_that_fails_is_logged(
    inside: Inside, up: Replay, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, stream: bool
) -> None:
    """Its hold stays, so somebody must hear of it: which hold, of which request, and why."""

    def fail(*_: Any, **__: Any) -> None:
        raise ArithmeticError("the books are on fire")

    settle = holds.settle
    monkeypatch.setattr(holds, "settle", fail)
    alice = inside.person(credits="1")
    up.handler = answers(sse_answer(HELLO, Pause(0.1), *REST) if stream else (Pause(0.1), *OK))
    with caplog.at_level(logging.ERROR, "llmgate"):
        client, task = inside.ask(alice, stream=stream)
        await until(lambda: inside.held(alice) == 1)
        (exchange,) = inside.gateway.in_flight
        await task
        await until(lambda: not inside.gateway._background)
    assert (client.status, client.ended) == (200 if stream else 500, True)
    hold_id, request_id = inside.value("SELECT id FROM holds"), inside.value("SELECT request_id FROM holds")
    (record,) = [found for found in caplog.records if "could not be settled" in found.message]
    assert record.levelno == logging.ERROR
    assert record.message == f"hold {hold_id} of {request_id} could not be settled"
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ArithmeticError)
    assert request_id == exchange.request_id
    assert inside.rows(alice) == []
    resolve(inside, exchange, settle)
    (row,) = inside.rows(alice)
    assert facts(row) == ("ok", "upstream", 200, EXACT)


def resolve(inside: Inside, exchange: Exchange, settle: Any) -> None:
    """As the next start would: nothing may be held at the end of a test."""
    assert exchange.hold is not None
    with inside.tx() as tx:
        settle(tx, exchange.hold.id, exchange.outcome)
