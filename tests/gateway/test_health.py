"""Servers of one's own that are not ready: who is asked instead, and how they come back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmgate.gateway import health
from tests.replay import HANG, Replay, Request, Step, json_answer, until
from tests.served import Inside, Served, completion, main_upstream, usage_of

LOADING = json_answer({"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}, 503)
CHAT = json_answer(completion(usage=usage_of(10, 5)))


class Server:
    """One that says of itself what the test wants."""

    def __init__(self, up: Replay) -> None:
        self.up = up
        self.says: tuple[Step, ...] = json_answer({"status": "ok"})
        up.handler = self._answer

    def _answer(self, request: Request) -> tuple[Step, ...]:
        return self.says if request.path == "/health" else CHAT

    def asked(self, path: str) -> int:
        return sum(request.path == path for request in self.up.requests)

    @property
    def chats(self) -> int:
        return self.asked("/v1/chat/completions")


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Server, Server]]:
    monkeypatch.setattr(health, "EVERY_S", 0.02)
    monkeypatch.setattr(health, "PATIENCE_S", 0.5)
    with Replay() as first, Replay() as second:
        yield Server(first), Server(second)


def config(first: Server, second: Server, **more: Any) -> dict[str, Any]:
    routes = [{"upstream": "first", "weight": 1_000_000_000}, {"upstream": "second"}]
    upstreams = {
        "first": main_upstream(first.up, preset="llamacpp", **more),
        "second": main_upstream(second.up, **more),
    }
    return {"upstreams": upstreams, "models": {"zeta": {"routes": routes}}}


async def ask(inside: Inside, person: Any) -> None:
    client, task = inside.ask(person, model="zeta")
    await task
    assert client.status == 200


@pytest.mark.parametrize("says", [LOADING, (HANG,), json_answer({}, 500)], ids=["loading", "hanging", "broken"])
async def test_one_that_is_not_ready_is_asked_last(
    tmp_path: Path, pair: tuple[Server, Server], says: tuple[Step, ...]
) -> None:
    first, second = pair
    first.says = says
    async with Inside(tmp_path, config(first, second)) as inside:
        alice = inside.person()
        await until(lambda: "first" in inside.gateway._forwarding._unready)
        await ask(inside, alice)
        assert (first.chats, second.chats) == (0, 1)
        first.says = json_answer({"status": "ok"})
        await until(lambda: "first" not in inside.gateway._forwarding._unready)
        await ask(inside, alice)
        assert (first.chats, second.chats) == (1, 1)
    assert second.asked("/health") == 0


async def test_one_that_is_ready_again_need_not_cool(tmp_path: Path, pair: tuple[Server, Server]) -> None:
    first, second = pair
    first.says = LOADING
    async with Inside(tmp_path, config(first, second)) as inside:
        forwarding = inside.gateway._forwarding
        forwarding.cooldown.failed(("first", "zeta"), 0.0, 300.0)
        forwarding.cooldown.failed(("second", "zeta"), 0.0, 300.0)
        await until(lambda: "first" in forwarding._unready)
        first.says = json_answer({})
        await until(lambda: "first" not in forwarding._unready)
        assert not forwarding.cooldown.cools(("first", "zeta"), 1.0)
        assert forwarding.cooldown.cools(("second", "zeta"), 1.0)


async def test_the_last_route_is_asked_all_the_same(tmp_path: Path, pair: tuple[Server, Server]) -> None:
    first, second = pair
    first.says = second.says = LOADING
    async with Inside(tmp_path, config(first, second, health="/health")) as inside:
        alice = inside.person()
        await until(lambda: len(inside.gateway._forwarding._unready) == 2)
        await ask(inside, alice)
        assert first.chats + second.chats == 1


async def test_one_without_another_way_is_not_asked(tmp_path: Path, pair: tuple[Server, Server]) -> None:
    first, second = pair
    alone = config(first, second)
    alone["models"] = {"zeta": {"routes": [{"upstream": "first"}]}}
    async with Inside(tmp_path, alone) as inside:
        await asyncio.sleep(0.1)
        assert first.up.requests == []
        inside.reload(config(first, second))
        await until(lambda: first.asked("/health") > 1)
        inside.reload(alone)
        await asyncio.sleep(0.1)
        before = first.asked("/health")
        await asyncio.sleep(0.1)
        assert first.asked("/health") == before


async def test_one_that_says_nothing_of_itself_is_ready(tmp_path: Path, pair: tuple[Server, Server]) -> None:
    first, second = pair
    first.says = json_answer({}, 404)
    async with Inside(tmp_path, config(first, second)) as inside:
        await until(lambda: first.asked("/health") > 2)
        assert inside.gateway._forwarding._unready == set()


# -- who asks


def test_an_upstream_is_told_who_asks_where_it_should(tmp_path: Path) -> None:
    with Replay() as up:
        up.handler = lambda _: CHAT
        told = main_upstream(up, identify=True)
        plans = {"starter": {"limits": ["1000 requests/day"]}}
        with Served(tmp_path, {"upstreams": {"main": told, "other": main_upstream(up)}, "plans": plans}) as served:
            alice, bob = served.person(), served.person()
            with served.tx() as tx:
                tx.conn.execute("UPDATE users SET plan = 'starter' WHERE name = ?", (alice.name,))
            forged = {"X-User-ID": "root", "x-plan-id": "unlimited"}
            for person, model in ((alice, "main/zeta"), (bob, "main/zeta"), (alice, "other/zeta")):
                body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
                assert served.post(person, body, headers=forged).status_code == 200
        sent = [
            [(name, value) for name, value in request.headers if name in ("x-user-id", "x-plan-id")]
            for request in up.requests
        ]
        assert sent == [[("x-user-id", alice.name), ("x-plan-id", "starter")], [("x-user-id", bob.name)], []]
