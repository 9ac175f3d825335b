"""The bench measures what it says, in short: what it measures is its own affair, and no test's."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import flat, soak, throughput
from bench.installed import installed
from bench.load import Ask, Void, python
from bench.paced import Client
from bench.processes import Process, running
from bench.processes import python as module
from bench.scene import REPOSITORY, Shape, Target, answer, plain, stream
from bench.soak import WARM, growth
from bench.told import Ratio, Setting, Told, for_machines

patient = pytest.mark.timeout(
    300
)  # many processes are started, which takes its time on a machine that is busy with others

SHORT = Setting(rounds=2, seconds=0.05, requests=200, rows=1000, beside=False)


@pytest.fixture
def mock(tmp_path: Path) -> Iterator[Target]:
    with running(Process("upstream", module("bench.upstream"), tmp_path, {"PYTHONPATH": str(REPOSITORY)})) as process:
        yield Target("direct", process, f"{process.address()}/direct", keys=("one", "two"))


@patient
def test_throughput_has_books_that_balance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "SHAPES", (plain(1), stream(4)))
    monkeypatch.setattr(throughput, "STARTS", 2)
    told = throughput.throughput(SHORT)
    assert told.problems == []
    answers, memory = told.tables.values()
    asked = ["direct", "bare", "llmgate", "llmgate full"]
    assert [(row["leg"], row["asked"]) for row in answers] == [
        (leg, who) for leg in ("plain x1", "stream x4") for who in asked
    ]
    assert [row["process"] for row in memory] == asked[1:]
    assert any("as many usage rows" in note for note in told.notes)


@patient
def test_many_keys_and_rows_have_books_that_balance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flat, "SHAPES", (plain(4),))
    monkeypatch.setattr(flat, "KEYS", 50)
    monkeypatch.setattr(flat, "USERS", 5)
    monkeypatch.setattr(flat, "MOST", math.inf)
    told = flat.flat(SHORT)
    assert told.problems == []
    assert [row["asked"] for row in next(iter(told.tables.values()))] == ["one key", "many keys", "many rows"]


@patient
def test_soak_asks_as_often_as_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "MARKS", WARM + 1)
    monkeypatch.setattr(soak, "MOST_MIB", math.inf)
    monkeypatch.setattr(soak, "MOST_ALLOCATED_MIB", math.inf)
    told = soak.soak(SHORT)
    assert told.problems == []
    (rows,) = told.tables.values()
    assert len(rows) == soak.MARKS + 1
    assert rows[-1]["requests"] >= SHORT.requests
    assert rows[-1]["requests_of_traced"] >= SHORT.requests // soak.TRACED_SHARE


def test_growth_is_what_comes_after_the_warming_up() -> None:
    marks = [(100.0 * number, 50.0 + min(number, WARM)) for number in range(WARM)] + [(1000.0, 60.0), (2000.0, 61.0)]
    assert growth(marks) == (1.0, 2**20 / 1000)


def test_nothing_grows_over_no_requests() -> None:
    assert growth([(200.0, 50.0)] * (WARM + 2)) == (0.0, 0.0)


def test_a_paced_stream_is_heard_event_by_event(mock: Target) -> None:
    shape = Shape("paced", 1, streamed=True, more=(("events", 20), ("pace_ms", 1)))
    client = _heard(mock, shape)
    assert client.answers == 1
    assert len(client.delays_ns) == 20
    assert min(client.delays_ns) >= 0


def test_a_late_answer_is_told_by_what_it_took_beyond_the_wait(mock: Target) -> None:
    client = _heard(mock, Shape("late", 1, more=(("wait_ms", 50),)))
    assert client.answers == 1
    assert len(client.delays_ns) == 1
    assert answer(mock.ask(Shape("late", 1, more=(("wait_ms", 1),)))) == answer(mock.ask(plain(1)))


def _heard(mock: Target, shape: Shape) -> Client:
    ask = mock.ask(shape)

    async def hear() -> Client:
        client = Client(ask.raw()[0], dict(shape.more), end=0)
        await asyncio.get_running_loop().create_connection(lambda: client, *ask.address)
        await client.done
        return client

    return asyncio.run(hear())


def test_a_stream_that_is_refused_voids_its_leg(mock: Target) -> None:
    shape = Shape("paced", 1, streamed=True, more=(("events", 5), ("pace_ms", 1)))

    async def hear() -> None:
        client = Client(b"POST / HTTP/1.1\r\n\r\n", dict(shape.more), end=0)
        await asyncio.get_running_loop().create_connection(lambda: client, *mock.ask(shape).address)
        await client.done

    with pytest.raises(Void, match="501"):
        asyncio.run(hear())


def test_load_counts_each_answer_once(mock: Target) -> None:
    sample, _ = mock.load(python, plain(3), 0.05)
    assert mock.asked == sample.requests >= 3


def test_keys_take_turns() -> None:
    raw = Ask("http://127.0.0.1:1/v1/chat/completions", b"{}", ("one", "two")).raw()
    assert [f"Bearer {key}".encode() in request for key, request in zip(("one", "two"), raw, strict=True)] == [
        True,
        True,
    ]


def test_ratios_are_taken_round_by_round() -> None:
    assert Ratio.of([1, 4, 9], [1, 2, 3]) == Ratio(2, 1, 3)


def test_what_is_installed_is_counted() -> None:
    (rows,) = installed(SHORT).tables.values()
    assert rows[-1]["distribution"] == "all"
    assert rows[-1]["size_mib"] == pytest.approx(sum(row["size_mib"] for row in rows[:-1]))


def test_machines_are_told_all_of_it() -> None:
    told = Told({"a table": [{"p50_ms": 1.23456, "by_cpu": math.inf, "asked": "bare"}]}, ["a note"], ["a problem"])
    written = json.loads(json.dumps(for_machines(told)))
    assert written == {
        "tables": {"a table": [{"p50_ms": 1.2346, "by_cpu": None, "asked": "bare"}]},
        "notes": ["a note"],
        "ok": False,
        "problems": ["a problem"],
    }
