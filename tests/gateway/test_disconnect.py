"""Clients that leave, or stop reading: what the upstream bills is charged, and nothing is left behind."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from llmgate.gateway import pipeline
from tests.replay import (
    CLOSE,
    HANG,
    RESET,
    Pause,
    Replay,
    Step,
    body_answer,
    head,
    json_answer,
    sse,
    sse_answer,
    until,
    wait_until,
)
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
    estimate,
    facts,
    main_upstream,
    usage_chunk,
    usage_of,
    words,
)

EXACT = 10 * INPUT_NANO + 5 * OUTPUT_NANO
HELLO = sse(chunk_of("hello"))
THOUGHT = sse(chunk_of(choices=[{"index": 0, "delta": {"reasoning_content": "hmm"}, "finish_reason": None}]))
REST = (*words("hello"), sse(usage_chunk(10, 5)), DONE)


@pytest.fixture(scope="module")
def upstream() -> Iterator[Replay]:
    with Replay() as up:
        yield up


@pytest.fixture
def up(upstream: Replay) -> Replay:
    upstream.requests.clear()
    return upstream


@pytest.fixture(scope="module")
def mute() -> Iterator[str]:
    """The URL of somebody who takes connections and never says a word of TLS."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"https://127.0.0.1:{server.getsockname()[1]}/v1"


def config_for(up: Replay, mute: str) -> dict[str, Any]:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
    return {
        "upstreams": {
            "main": main_upstream(up),
            "drained": main_upstream(up, on_disconnect="drain"),
            "quick": main_upstream(up, timeout={"first_byte": 0.3, "idle": 0.3}),
            "down": {"base_url": nowhere, "auth": "none", "price": PRICE},
            "mute": {"base_url": mute, "auth": "none", "price": PRICE},
        }
    }


@pytest.fixture(scope="module")
def served(upstream: Replay, mute: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("disconnect"), config_for(upstream, mute)) as served:
        yield served


def send(served: Served, person: Person, *, cut: int = 0, **fields: Any) -> socket.socket:
    """A request on a connection of its own, but for the last `cut` bytes of its body."""
    host, _, port = served.url.removeprefix("http://").partition(":")
    connection = socket.create_connection((host, int(port)))
    connection.settimeout(10)
    body = json.dumps(chat_body(**fields)).encode()
    lines = ["POST /v1/chat/completions HTTP/1.1", f"host: {host}", f"authorization: Bearer {person.key}"]
    lines += [f"content-length: {len(body)}"]
    connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode() + body[: len(body) - cut])
    return connection


def read_until(connection: socket.socket, text: bytes, times: int = 1) -> None:
    got = b""
    while got.count(text) < times:
        piece = connection.recv(65536)
        assert piece, got
        got += piece


def reset(connection: socket.socket) -> None:
    """Leave rudely."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


# -- streams of an upstream that stops billing when it is closed


@pytest.mark.parametrize("rudely", [False, True])
def test_a_client_that_leaves_a_stream(served: Served, up: Replay, rudely: bool) -> None:
    """The upstream is closed; what was delivered is charged."""
    alice = served.person(credits="1")
    left = up.disconnects
    up.handler = answers(sse_answer(HELLO, HELLO, HANG))
    connection = send(served, alice, stream=True)
    read_until(connection, HELLO, 2)
    wait_until(lambda: served.held(alice) == 1)
    reset(connection) if rudely else connection.close()
    wait_until(lambda: up.disconnects == left + 1)
    (row,) = served.settled(alice, 1)
    assert facts(row) == ("cancelled", "estimated", 200, estimate(10))
    assert (row["input"], row["output"]) == (15, 4)
    assert served.balance(alice.name) == 10**9 - row["charge_nano"]


def test_a_usage_that_was_heard_before_the_client_left_is_exact(served: Served, up: Replay) -> None:
    alice = served.person(credits="1")
    up.handler = answers(sse_answer(sse(chunk_of("hello", usage=usage_of(10, 5))), HANG))
    with send(served, alice, stream=True) as connection:
        read_until(connection, b"hello")
    assert facts(served.settled(alice, 1)[0]) == ("cancelled", "upstream", 200, EXACT)


@pytest.mark.parametrize("steps", [(HANG,), sse_answer(HANG)], ids=["no head", "no byte"])
def test_a_client_that_leaves_before_any_answer(served: Served, up: Replay, steps: tuple[Step, ...]) -> None:
    """The upstream has read the prompt."""
    alice = served.person(credits="1")
    left = up.disconnects
    up.handler = answers(steps)
    with send(served, alice, stream=True):
        wait_until(lambda: len(up.requests) == 1)
        assert served.held(alice) == 1
    wait_until(lambda: up.disconnects == left + 1)
    row = served.settled(alice, 1)[0]
    assert (row["status"], row["source"], row["charge_nano"]) == ("cancelled", "estimated", estimate(0))


def test_a_client_that_leaves_a_stream_that_does_not_stream(served: Served, up: Replay) -> None:
    alice = served.person(credits="1")
    left = up.disconnects
    up.handler = answers((head(200, [("content-length", "999")]), b'{"a":', HANG))
    with send(served, alice, stream=True):
        wait_until(lambda: len(up.requests) == 1)
    wait_until(lambda: up.disconnects == left + 1)
    row = served.settled(alice, 1)[0]
    assert (row["status"], row["source"], row["charge_nano"]) == ("cancelled", "estimated", estimate(0))


def test_a_client_that_leaves_before_its_request_is_complete(served: Served, up: Replay) -> None:
    alice = served.person(credits="1")
    send(served, alice, stream=True, cut=5).close()
    served.logged(f" 499 {alice.name} ")
    assert (served.rows(alice), served.held(alice), up.requests) == ([], 0, [])


@pytest.mark.parametrize("name", ["down", "mute"])
def test_a_client_that_leaves_while_its_upstream_can_not_be_reached(served: Served, up: Replay, name: str) -> None:
    """Nothing was sent to anybody, so nothing is charged."""
    alice = served.person(credits="1")
    with send(served, alice, model=f"{name}/zeta", stream=True):
        wait_until(lambda: served.held(alice) == 1)
    wait_until(lambda: served.held(alice) == 0)
    assert served.rows(alice) == []
    assert served.balance(alice.name) == 10**9


def test_a_client_that_leaves_between_two_tries(served: Served, up: Replay) -> None:
    """The upstream refused, and isn't asked again for nobody."""
    alice = served.person(credits="1")
    up.handler = answers(body_answer(b"", 503, [("retry-after", "5")]))
    with send(served, alice, stream=True):
        wait_until(lambda: len(up.requests) == 1)
    assert facts(served.settled(alice, 1)[0]) == ("error", "upstream", 503, 0)
    assert len(up.requests) == 1


# -- streams that are read to their end all the same


DRAINED: dict[str, tuple[dict[str, Any], bytes]] = {
    "the upstream bills on": ({"model": "drained/zeta"}, HELLO),
    "the model is done": ({}, sse(chunk_of(finish="stop"))),
    "the model has thought": ({}, THOUGHT),
    "the model is asked to think": ({"reasoning_effort": "low"}, HELLO),
}


@pytest.mark.parametrize("case", DRAINED)
def test_a_stream_that_is_read_on_without_its_client(served: Served, up: Replay, case: str) -> None:
    fields, first = DRAINED[case]
    alice = served.person(credits="1")
    left = up.disconnects
    up.handler = answers(sse_answer(first, Pause(0.3), *REST))
    with send(served, alice, stream=True, **fields) as connection:
        read_until(connection, first)
    assert facts(served.settled(alice, 1)[0]) == ("cancelled", "upstream", 200, EXACT)
    assert up.disconnects == left


def test_reading_on_is_bounded_in_time(served: Served, up: Replay) -> None:
    alice = served.person(credits="1")
    left = up.disconnects
    up.handler = answers(sse_answer(HELLO, sse(chunk_of(finish="stop")), HANG))
    with send(served, alice, model="quick/zeta", stream=True) as connection:
        read_until(connection, b"stop")
    wait_until(lambda: up.disconnects == left + 1)
    assert facts(served.settled(alice, 1)[0]) == ("cancelled", "estimated", 200, estimate(5))


@pytest.mark.parametrize("end", [CLOSE, RESET])
def test_an_upstream_that_breaks_off_without_a_client(served: Served, up: Replay, end: Step) -> None:
    alice = served.person(credits="1")
    up.handler = answers(sse_answer(HELLO, Pause(0.3), end, end=False))
    with send(served, alice, model="drained/zeta", stream=True) as connection:
        read_until(connection, HELLO)
    assert facts(served.settled(alice, 1)[0]) == ("cancelled", "estimated", 200, estimate(5))


def test_a_client_that_leaves_at_the_last_event(served: Served, up: Replay) -> None:
    """It has read all there is, and doesn't wait for the end of the body: nothing was cancelled."""
    alice = served.person(credits="1")
    up.handler = answers(sse_answer(*REST, Pause(0.2)))
    with send(served, alice, stream=True) as connection:
        read_until(connection, DONE)
    assert facts(served.settled(alice, 1)[0]) == ("ok", "upstream", 200, EXACT)


def test_a_client_that_leaves_after_the_end(served: Served, up: Replay) -> None:
    alice = served.person(credits="1")
    up.handler = answers(sse_answer(*REST))
    with send(served, alice, stream=True) as connection:
        read_until(connection, b"\r\n0\r\n\r\n")
    assert facts(served.settled(alice, 1)[0]) == ("ok", "upstream", 200, EXACT)


# -- calls that don't stream are billed whole


def test_a_client_that_leaves_a_plain_call(served: Served, up: Replay) -> None:
    alice = served.person(credits="1")
    left = up.disconnects
    up.handler = answers((Pause(0.3), *json_answer(completion(usage=usage_of(10, 5)))))
    with send(served, alice):
        wait_until(lambda: len(up.requests) == 1)
    assert facts(served.settled(alice, 1)[0]) == ("cancelled", "upstream", 200, EXACT)
    assert up.disconnects == left


def test_a_client_that_leaves_a_plain_call_whose_answer_has_no_usage(served: Served, up: Replay) -> None:
    alice = served.person(credits="1")
    up.handler = answers((Pause(0.3), *json_answer(completion("hello"))))
    with send(served, alice):
        wait_until(lambda: len(up.requests) == 1)
    assert facts(served.settled(alice, 1)[0]) == ("cancelled", "estimated", 200, estimate(5))


def test_a_client_that_leaves_a_plain_call_that_is_refused(served: Served, up: Replay) -> None:
    alice = served.person(credits="1")
    up.handler = answers((Pause(0.3), *json_answer({"error": {}}, 400)))
    with send(served, alice):
        wait_until(lambda: len(up.requests) == 1)
    assert facts(served.settled(alice, 1)[0]) == ("error", "upstream", 400, 0)


@pytest.mark.parametrize("steps", [(HANG,), (head(200, [("content-length", "999")]), b'{"a":', HANG)])
def test_a_client_that_leaves_a_plain_call_that_never_ends(served: Served, up: Replay, steps: tuple[Step, ...]) -> None:
    """Read on in vain, but not for ever; the upstream has read the prompt."""
    alice = served.person(credits="1")
    left = up.disconnects
    up.handler = answers(steps)
    with send(served, alice, model="quick/zeta"):
        wait_until(lambda: len(up.requests) == 1)
    wait_until(lambda: up.disconnects == left + 1)
    (row,) = served.settled(alice, 1)
    assert (row["status"], row["source"], row["charge_nano"]) == ("cancelled", "estimated", estimate(0))
    assert len(up.requests) == 1


def test_many_that_leave_at_once(served: Served, up: Replay) -> None:
    """Every one is settled once, and money held for them is free again."""
    alice = served.person(credits="10")
    up.handler = answers(sse_answer(HELLO, HANG))
    connections = [send(served, alice, stream=True) for _ in range(40)]
    for connection in connections:
        read_until(connection, b"hello")
    for number, connection in enumerate(connections):
        reset(connection) if number % 2 else connection.close()
    rows = served.settled(alice, 40)
    assert {facts(row) for row in rows} == {("cancelled", "estimated", 200, estimate(5))}
    assert served.balance(alice.name) == 10 * 10**9 - 40 * estimate(5)
    assert (
        served.value("SELECT held_nano FROM accounts a JOIN users u ON u.account_id = a.id WHERE name = ?", alice.name)
        == 0
    )


# -- what can only be brought about from inside


@pytest.fixture
async def inside(up: Replay, mute: str, tmp_path: Path) -> AsyncIterator[Inside]:
    async with Inside(tmp_path, config_for(up, mute)) as inside:
        yield inside


async def test_a_client_that_does_not_read(inside: Inside, up: Replay, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while it is gone, and its upstream is closed."""
    monkeypatch.setattr(pipeline, "CLIENT_PATIENCE_S", 0.2)
    alice = inside.person(credits="1")
    left = up.disconnects
    up.handler = answers(sse_answer(HELLO, Pause(0.1), HELLO, HANG))
    client, _ = inside.ask(alice, stream=True)
    await until(lambda: b"hello" in client.got)
    client.reads.clear()
    (row,) = await inside.settled_soon(alice, 1)
    assert facts(row) == ("cancelled", "estimated", 200, estimate(10))
    await until(lambda: up.disconnects == left + 1)


async def test_a_client_that_does_not_read_what_is_read_on(
    inside: Inside, up: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "CLIENT_PATIENCE_S", 0.2)
    alice = inside.person(credits="1")
    up.handler = answers(sse_answer(HELLO, Pause(0.1), HELLO, Pause(0.6), *REST))
    client, _ = inside.ask(alice, model="drained/zeta", stream=True)
    await until(lambda: b"hello" in client.got)
    client.reads.clear()
    (row,) = await inside.settled_soon(alice, 1)
    assert facts(row) == ("cancelled", "upstream", 200, EXACT)


async def test_a_slow_client_is_not_gone(inside: Inside, up: Replay, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as it takes a byte now and then; and the upstream's time doesn't run meanwhile."""
    monkeypatch.setattr(pipeline, "CLIENT_PATIENCE_S", 5)
    alice = inside.person(credits="1")
    up.handler = answers(sse_answer(HELLO, *REST))
    client, _ = inside.ask(alice, model="quick/zeta", stream=True)
    await until(lambda: b"hello" in client.got)
    client.reads.clear()
    await asyncio.sleep(0.6)
    client.reads.set()
    await until(lambda: client.ended)
    (row,) = await inside.settled_soon(alice, 1)
    assert facts(row) == ("ok", "upstream", 200, EXACT)


async def test_a_client_that_does_not_take_its_answer_stops_no_clock(inside: Inside, up: Replay) -> None:
    """Deadlines of others are kept while one is past being cut off: it is settled, only its answer is in the way."""
    alice, bob = inside.person(credits="1"), inside.person(credits="1")
    up.handler = answers(json_answer(completion(usage=usage_of(10, 5))), (HANG,))
    client, _ = inside.ask(alice, model="quick/zeta")
    client.reads.clear()
    (row,) = await inside.settled_soon(alice, 1)
    assert facts(row) == ("ok", "upstream", 200, EXACT)
    await asyncio.sleep(0.6)
    other, _ = inside.ask(bob, model="quick/zeta")
    await until(lambda: other.status is not None)
    assert other.status == 504
    client.reads.set()
    await until(lambda: client.ended)
    assert client.status == 200


async def test_so_many_are_read_on_at_a_time(inside: Inside, up: Replay, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past that they are closed and estimated; and who is done makes room."""
    monkeypatch.setattr(pipeline, "MOST_DRAINS", 2)
    alice = inside.person(credits="1")
    for _ in range(2):
        up.handler = answers(sse_answer(HELLO, HANG))
        clients = [inside.ask(alice, model="drained/zeta", stream=True)[0] for _ in range(4)]
        await until(lambda clients=clients: all(b"hello" in client.got for client in clients))  # type: ignore[misc]
        before = len(inside.rows(alice))
        for client in clients:
            client.left.set()
        await until(lambda before=before: len(inside.rows(alice)) == before + 2)  # type: ignore[misc]
        assert len(inside.gateway.in_flight) == 2
        for exchange in list(inside.gateway.in_flight):
            assert exchange.answer is not None
            await exchange.answer.close()
        await until(lambda: not inside.gateway.in_flight)
    rows = await inside.settled_soon(alice, 8)
    assert {facts(row) for row in rows} == {("cancelled", "estimated", 200, estimate(5))}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_that_the_server_gives_up(inside: Inside, up: Replay, stream: bool) -> None:
    """Whatever ends a connection, it isn't a way to be served for nothing: it is as if the client had left."""
    alice = inside.person(credits="1")
    left = up.disconnects
    plain = (Pause(0.3), *json_answer(completion(usage=usage_of(10, 5))))
    up.handler = answers(sse_answer(HELLO, HANG) if stream else plain)
    client, task = inside.ask(alice, stream=stream)
    await until(lambda: b"hello" in client.got if stream else len(up.requests) == 1)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    (row,) = await inside.settled_soon(alice, 1)
    if stream:
        assert facts(row) == ("cancelled", "estimated", 200, estimate(5))
        await until(lambda: up.disconnects == left + 1)
    else:
        assert facts(row) == ("cancelled", "upstream", 200, EXACT)
        assert up.disconnects == left
    await until(lambda: not inside.gateway.in_flight)


async def test_a_request_that_is_given_up_while_its_hold_is_written(inside: Inside, up: Replay) -> None:
    """Nobody would own the hold: it is released again."""
    alice = inside.person(credits="1")
    await inside.gateway.resolve("main/zeta", "openai")
    with inside.tx():  # another process writes
        _, task = inside.ask(alice)
        await asyncio.sleep(0.1)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    await until(lambda: inside.value("SELECT seq FROM sqlite_sequence WHERE name = 'holds'") == 1)
    await until(lambda: inside.value("SELECT count(*) FROM holds") == 0)
    assert (inside.rows(alice), up.requests) == ([], [])
