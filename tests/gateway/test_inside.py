"""What only the inside of the gateway can bring about: a failing database, its own failures, its end."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from llmgate.gateway import pipeline
from llmgate.gateway.writer import Writer
from llmgate.store import keys
from llmgate.store.db import Tx
from llmgate.store.holds import Hold
from tests.replay import Pause, Replay, json_answer, sse, sse_answer, until
from tests.served import (
    DONE,
    Client,
    Inside,
    answers,
    completion,
    main_upstream,
    usage_chunk,
    usage_of,
    words,
)


@pytest.fixture
async def inside(tmp_path: Path) -> AsyncIterator[Inside]:
    with Replay() as up:
        up.handler = lambda _: json_answer({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}})
        async with Inside(
            tmp_path, {"upstreams": {"main": {"base_url": f"{up.url}/v1", "price": {"input": 1, "output": 2}}}}
        ) as inside:
            yield inside


def code_of(client: Client) -> str:
    return str(json.loads(client.got)["error"]["code"])


async def test_a_database_that_cannot_be_read(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    alice = inside.person()

    def broken(tx: Tx, _: bytes) -> Any:
        return tx.value("SELECT * FROM nowhere")

    monkeypatch.setattr(keys, "authenticate", broken)
    client, serving = inside.ask(alice)
    await serving
    assert (client.status, code_of(client)) == (503, "storage_busy")
    assert b"nowhere" not in client.got
    assert str(inside.database).encode() not in client.got


async def test_a_failure_of_our_own(
    inside: Inside, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    alice = inside.person()

    def broken(*_: object) -> Any:
        raise ZeroDivisionError("a secret of the inside")

    monkeypatch.setattr(keys, "authenticate", broken)
    client, serving = inside.ask(alice)
    await serving
    assert (client.status, code_of(client)) == (500, "internal_error")
    assert b"inside" not in client.got
    assert "a secret of the inside" in caplog.text


async def test_nothing_is_begun_once_the_gateway_ends(inside: Inside) -> None:
    alice = inside.person()
    inside.gateway.interrupt_all()
    client, serving = inside.ask(alice)
    await serving
    assert (client.status, code_of(client)) == (503, "upstream_unavailable")
    assert inside.value("SELECT count(*) FROM usage") == 0


async def test_a_server_that_gives_up_in_the_turn_of_the_commit_leaves_no_hold(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hold is there, and its request isn't: whoever was told of it last lets it go."""
    alice = inside.person(credits="5")
    submit, tell, ends = Writer.submit, Writer._told, 0

    def in_company(self: Writer, work: Any, *, alone: bool = False, **kept: Any) -> Any:
        return submit(self, work, **kept)  # who is alone is committed, and goes on, in the turn in which it came

    def told(self: Writer, items: Any, results: list[Any]) -> None:
        nonlocal ends
        placed = any(isinstance(result, Hold) for result in results)
        ends += placed
        if placed:
            serving.cancel()  # so that it runs before the walk, which has a result and is cancelled all the same
        tell(self, items, results)

    monkeypatch.setattr(Writer, "submit", in_company)
    monkeypatch.setattr(Writer, "_told", told)
    _, serving = inside.ask(alice)
    with pytest.raises(asyncio.CancelledError):
        await serving
    await until(lambda: inside.held(alice) == 0 and not inside.gateway.in_flight)
    assert ends == 1
    assert inside.rows(alice) == []
    assert inside.value("SELECT sum(held_nano) FROM accounts") == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_a_server_that_gives_up_in_any_turn_leaves_no_hold(tmp_path: Path, stream: bool) -> None:
    whole = json_answer(completion(usage=usage_of(10, 5)))
    pieces = sse_answer(*words("hi"), sse(usage_chunk(10, 5)), DONE)
    with Replay() as up:
        up.handler = answers(pieces if stream else whole)
        async with Inside(tmp_path, {"upstreams": {"main": main_upstream(up)}}) as inside:
            alice = inside.person(credits="5")
            for turn in range(60):
                _, serving = inside.ask(alice, stream=stream)
                for _ in range(turn):
                    await asyncio.sleep(0)
                serving.cancel()
                await asyncio.wait({serving})
                await until(lambda: inside.held(alice) == 0 and not inside.gateway.in_flight)
            assert len(inside.rows(alice)) == len(up.requests)
            assert inside.value("SELECT sum(held_nano) FROM accounts") == 0


async def test_what_lies_at_an_upstream_that_is_gone_lies_nowhere(inside: Inside) -> None:
    alice = inside.person()
    with inside.tx() as tx:
        account = tx.value("SELECT account_id FROM users WHERE name = ?", alice.name)
        for name, upstream in (("file-x", "gone"), ("file-y", "main")):
            tx.execute("INSERT INTO objects VALUES (?, ?, ?, 'm', 'm', 1)", (name, account, upstream))
    for names, status in ((["file-y"], 200), (["file-x"], 404), (["file-x", "file-y"], 404)):
        content = [{"type": "file", "file": {"file_id": name}} for name in names]
        client, serving = inside.ask(alice, messages=[{"role": "user", "content": content}])
        await serving
        assert client.status == status


async def test_what_was_resolved_is_not_kept_without_end(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "MOST_RESOLVED", 2)
    alice = inside.person()
    for name in "abcde":
        client, serving = inside.ask(alice, model=f"main/{name}")
        await serving
        assert client.status == 200
        assert len(inside.gateway._resolved) <= 2


@pytest.mark.parametrize("stream", [False, True])
async def test_a_connection_that_is_kept_keeps_nothing_of_the_request_that_made_it(
    tmp_path: Path, stream: bool
) -> None:
    """Its body may have been 32 MiB."""
    done = [*words("hi"), sse(usage_chunk(1, 1)), DONE]
    answer = sse_answer(*done) if stream else json_answer(completion(usage=usage_of(1, 1)))
    with Replay() as up:
        up.handler = answers((Pause(0.2), *answer))
        async with Inside(tmp_path, {"upstreams": {"main": main_upstream(up)}}) as inside:
            client, serving = inside.ask(inside.person(), stream=stream)
            await until(lambda: bool(up.requests))
            (gone,) = map(weakref.ref, inside.gateway.in_flight)
            await serving
            assert (client.status, up.open) == (200, 1)

            def forgotten() -> bool:
                gc.collect()
                return gone() is None

            await until(forgotten)
            assert up.open == 1
