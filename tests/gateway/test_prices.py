"""Prices that change while requests are served: who pays which, through a real daemon and inside of it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llmgate import catalogue
from llmgate.pricebook import Key, Kind
from llmgate.pricing import UNITS, Price
from llmgate.store import holds, prices
from llmgate.store.admission import Claim
from llmgate.store.db import Tx, now_ms
from llmgate.store.holds import Hold
from tests.replay import Pause, Replay, json_answer, sse_answer, wait_until
from tests.served import DONE, Inside, Person, Served, answers, completion, main_upstream, usage_chunk, usage_of, words

MODEL: Key = (Kind.CHARGE, "main", "zeta")
OK = json_answer(completion(usage=usage_of(10, 5)))
CONFIGURED = 10 * 1_000 + 5 * 2_000
"""What that is charged by the config: $1 and $2 per 1M."""


def at(nano: int) -> Price:
    """So much for a token."""
    return Price(input=nano * UNITS, output=nano * UNITS)


@pytest.fixture(scope="module")
def up() -> Iterator[Replay]:
    with Replay() as up:
        yield up


@pytest.fixture
def served(up: Replay, tmp_path: Path) -> Iterator[Served]:
    with Served(tmp_path, {"upstreams": {"main": main_upstream(up)}}) as served:
        yield served


def put(served: Served | Inside, nano: int, from_ms: int | None = None) -> None:
    with served.tx() as tx:
        prices.put(tx, {MODEL: at(nano)}, from_ms)


def charged(served: Served, person: Person) -> int:
    served.chat(person)
    with served.view() as tx:
        amount: int = tx.value("SELECT charge_nano FROM usage ORDER BY id DESC LIMIT 1")
    return amount


def test_the_next_request_has_the_new_price(served: Served, up: Replay) -> None:
    alice = served.person()
    up.handler = answers(OK)
    assert charged(served, alice) == CONFIGURED
    for nano in (3, 7, 5):
        put(served, nano)
        assert charged(served, alice) == 15 * nano
    listed = served.client.get(f"{served.url}/v1/models/main/zeta", headers=served.headers(alice)).json()
    assert listed["pricing"]["input_usd"] == "0.005"
    with served.tx() as tx:
        prices.remove(tx, MODEL)
    assert charged(served, alice) == CONFIGURED
    assert [row["charge_nano"] for row in served.settled(alice, 5)] == [CONFIGURED, 45, 105, 75, CONFIGURED]


def test_what_is_in_flight_keeps_the_price_of_its_hold(served: Served, up: Replay) -> None:
    alice = served.person(credits="1")
    slow = sse_answer(*words("one"), Pause(0.5), sse_usage(), DONE)
    up.handler = answers(slow, OK)
    with served.streaming(alice) as stream:
        pieces = stream.iter_raw()
        next(pieces)
        put(served, 9)
        assert charged(served, alice) == 15 * 9, "who comes later pays the new price"
        list(pieces)
    rows = served.settled(alice, 2)
    assert [row["charge_nano"] for row in rows] == [CONFIGURED, 135]


def sse_usage() -> bytes:
    return b"data: " + json.dumps(usage_chunk(10, 5)).encode() + b"\n\n"


def test_a_price_to_come_holds_from_its_moment_on(served: Served, up: Replay) -> None:
    alice = served.person()
    up.handler = answers(OK)
    begins_ms = now_ms() + 1500
    put(served, 9, begins_ms)
    while (before := now_ms()) < begins_ms + 200:
        amount = charged(served, alice)
        if now_ms() < begins_ms:
            assert amount == CONFIGURED
        if before >= begins_ms:
            assert amount == 135
    for row in served.rows(alice):
        assert row["charge_nano"] == (135 if row["time_ms"] >= begins_ms else CONFIGURED)


def test_prices_change_while_many_ask(served: Served, up: Replay) -> None:
    """Each row has the price that held when its hold was placed: its id tells the order of commits of both."""
    people = [served.person(credits="1") for _ in range(4)]
    up.handler = answers(OK)
    stop = threading.Event()
    served_since: list[str] = []

    def ask(person: Person) -> int:
        count = 0
        while not stop.is_set():
            assert served.chat(person).status_code == 200
            served_since.append(person.name)
            count += 1
        return count

    moments = [(0, CONFIGURED)]
    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask, person) for person in people]
        try:
            for nano in range(1, 25):
                with served.tx() as tx:
                    prices.put(tx, {MODEL: at(nano)})
                    placed = tx.value("SELECT max(seq) FROM sqlite_sequence WHERE name = 'holds'") or 0
                moments.append((placed, 15 * nano))
                served_since.clear()
                wait_until(lambda: len(served_since) > len(people))  # so that somebody asked since
        finally:
            stop.set()
        counts = [one.result() for one in asking]
    for person, count in zip(people, counts, strict=True):
        for row in served.settled(person, count):
            expected = [amount for placed, amount in moments if placed < row["id"]][-1]
            assert row["charge_nano"] == expected, row["id"]


# ── inside ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def inside(up: Replay, tmp_path: Path) -> AsyncIterator[Inside]:
    up.handler = answers(OK)
    async with Inside(tmp_path, {"upstreams": {"main": main_upstream(up)}}) as inside:
        yield inside
    catalogue.use("", b"")


async def test_a_price_that_changes_between_claim_and_hold(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decided at $1, and again each time an admin is quicker: placed by the price that holds then."""
    alice, changes = inside.person(), iter((3, 4))
    decide = holds.decide

    def decided(tx: Tx, claim: Claim, policy: object) -> object:
        found = decide(tx, claim, policy)  # type: ignore[arg-type]
        if not tx.conn.in_transaction:
            for nano in changes:
                put(inside, nano)
                break
        return found

    monkeypatch.setattr(holds, "decide", decided)
    client, serving = inside.ask(alice, model="main/zeta")
    await serving
    assert client.status == 200
    assert [row["charge_nano"] for row in await inside.settled_soon(alice, 1)] == [60]


async def test_a_hold_is_never_placed_by_an_old_price(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    alice, place = inside.person(), holds.place
    placed: list[int] = []

    def placing(tx: Tx, claim: Claim, policy: object) -> Hold:
        assert claim.charge is not None
        held = prices.in_force(tx).find(*MODEL)
        placed.append(claim.charge.price.input or 0)
        assert claim.charge.price == (held.price if held else Price(input=1000 * UNITS, output=2000 * UNITS))
        return place(tx, claim, policy)  # type: ignore[arg-type]

    monkeypatch.setattr(holds, "place", placing)
    tasks: list[asyncio.Task[object]] = []
    for nano in range(1, 15):
        tasks += [inside.ask(alice, model="main/zeta")[1] for _ in range(3)]
        await (asyncio.gather(*tasks) if nano % 5 == 0 else asyncio.sleep(0.002))
        put(inside, nano)
    await asyncio.gather(*tasks)
    assert len(placed) == len(await inside.settled_soon(alice, 42)) == 42
    assert len(set(placed)) >= 3


async def test_what_nobody_changed_is_looked_up_once(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    alice, in_force = inside.person(), prices.in_force
    looked: list[int] = []

    def counted(tx: Tx) -> object:
        looked.append(1)
        return in_force(tx)

    monkeypatch.setattr(prices, "in_force", counted)
    for _ in range(3):
        await inside.ask(alice, model="main/zeta")[1]
    assert looked == []
    put(inside, 2)
    for _ in range(3):
        await inside.ask(alice, model="main/zeta")[1]
    assert looked == [1]


async def test_another_catalogue_is_used_from_the_next_request_on(inside: Inside, up: Replay) -> None:
    newer = {
        "id": "openai",
        "name": "OpenAI",
        "api_pattern": "https://api\\.openai\\.com",
        "model_match": {"starts_with": "gpt-"},
        "models": [{"id": "gpt-9", "match": {"equals": "gpt-9"}, "prices": {"input_mtok": 1000, "output_mtok": 1000}}],
    }
    alice = inside.person()
    inside.reload({"upstreams": {"openai": {"base_url": f"{up.url}/v1", "api_key": "sk"}}})
    client, serving = inside.ask(alice, model="gpt-9")
    await serving
    assert client.status == 404
    with inside.tx() as tx:
        prices.use_catalogue(tx, json.dumps([newer]).encode(), "data.json")
    client, serving = inside.ask(alice, model="gpt-9")
    await serving
    assert client.status == 200
    with inside.tx() as tx:
        prices.use_catalogue(tx, b"", "installed")
    client, serving = inside.ask(alice, model="gpt-9")
    await serving
    assert client.status == 404
    assert [row["charge_nano"] for row in await inside.settled_soon(alice, 1)] == [15_000_000]
