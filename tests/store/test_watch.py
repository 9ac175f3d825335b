"""What the live screen reads: each end once, what is in flight, who serves, which limits are near their end."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from llmgate.errors import StorageError
from llmgate.limits import parse
from llmgate.plans import Plan, Policy
from llmgate.store import accounts, holds, limits
from llmgate.store.db import Database, now_ms
from llmgate.store.holds import Attempt
from llmgate.store.watch import Watch
from llmgate.store.workers import Worker
from llmgate.types import CostSource, Meters, Source, Status

from ..books import POLICY, PRICE, Book

BACK_MS = 300_000


@pytest.fixture
def watched(book: Book) -> Iterator[Database]:
    with Database(book.path) as db:
        yield db


def ends(watch: Watch) -> list[str]:
    return [one.model for one in watch.look().ended]


def test_the_first_look_goes_back_and_later_ones_see_each_end_once(book: Book, watched: Database) -> None:
    alice, now = book.user("alice"), now_ms()
    book.settle(book.place(alice, model="old", now_ms=now - BACK_MS - 60_000))
    book.settle(book.place(alice, model="recent", now_ms=now - 60_000))
    slow = book.place(alice, model="slow", now_ms=now - 7_200_000)
    watch = Watch(watched, POLICY, BACK_MS)
    assert ends(watch) == ["recent"]
    assert ends(watch) == []
    book.settle(book.place(alice, model="quick"))
    book.settle(slow)
    assert sorted(ends(watch)) == ["quick", "slow"]
    assert ends(watch) == []


def test_an_end_lies_between_the_looks_that_it_was_seen_by(book: Book, watched: Database) -> None:
    hold = book.place(book.user("alice"), now_ms=now_ms() - 3_600_000)
    watch = Watch(watched, POLICY, BACK_MS)
    before = watch.look().now_ms
    book.settle(hold)
    look = watch.look()
    (one,) = look.ended
    assert before <= one.ended_ms <= look.now_ms, "its row tells of 12 ms: what was booked late has ended now"


def test_what_it_tells_of_a_request(book: Book, watched: Database) -> None:
    book.use(
        book.user("alice"),
        Meters(input=10, cached_input=5, output=3, reasoning=2, calls=1),
        now_ms=now_ms() - 1000,
        upstream="azure",
        status=Status.ERROR,
    )
    (one,) = Watch(watched, POLICY, BACK_MS).look().ended
    assert one[1:7] == ("alice", "gpt", "azure", True, 502, 20)
    assert (one.cost_nano, one.charge_nano, one.first_byte_ms) == (20 + 5, 20 + 5, 3)


def test_tries_in_vain_are_of_the_upstream_that_billed_them(book: Book, watched: Database) -> None:
    alice = book.user("alice")
    tried = Attempt(
        upstream="azure",
        upstream_model="gpt",
        http_status=500,
        source=Source.UPSTREAM,
        meters=Meters(input=7, calls=1),
        cost=book.snapshot(PRICE),
        cost_source=CostSource.CONFIG,
    )
    book.settle(book.place(alice, now_ms=now_ms() - 1000), attempts=(tried,))
    (one,) = Watch(watched, POLICY, BACK_MS).look().wasted
    assert (one.upstream, one.cost_nano) == ("azure", 7)


def test_what_is_in_flight_and_who_serves(book: Book, watched: Database) -> None:
    alice, now = book.user("alice"), now_ms()
    watch = Watch(watched, POLICY, BACK_MS)
    young = book.place(alice, model="young", now_ms=now - 1000)
    old = book.place(alice, model="old", now_ms=now - 2000)
    other = Worker(book.path)
    with book.write() as tx:
        other.register(tx)
    look = watch.look()
    assert [one.model for one in look.in_flight] == ["old", "young"]
    assert [(one.user, one.key, one.placed_ms, one.stranded) for one in look.in_flight] == [
        ("alice", "alice/default", old.placed_ms, False),
        ("alice", "alice/default", young.placed_ms, False),
    ]
    assert len(look.daemons) == 2
    other.close()
    assert len(watch.look().daemons) == 1


def test_what_a_dead_process_holds_is_stranded_until_it_is_booked(book: Book, watched: Database) -> None:
    book.place(book.user("alice"), now_ms=now_ms() - 1000)
    watch = Watch(watched, POLICY, BACK_MS)
    book.worker.close()
    look = watch.look()
    assert ([one.stranded for one in look.in_flight], look.daemons) == ([True], [])
    with book.write() as tx:
        holds.recover(tx, book.path, POLICY)
    look = watch.look()
    assert (len(look.ended), look.in_flight) == (1, [])
    book.worker = Worker(book.path)


def test_limits_near_their_end_are_those_that_limits_lists(book: Book, watched: Database) -> None:
    policy = Policy(
        plans={"small": Plan(name="small", price_nano=0, limits=(parse("20 tokens total"),), models=())},
        limits=(parse("5 requests total"),),
        alert_at=(80, 100),
    )
    book.team("ops")
    names = ("alice", "bob", "carl", "dora", "eve")
    users = {name: book.user(name, team="ops" if name == "eve" else None) for name in names}
    with book.write() as tx:
        accounts.set_user(tx, "carl", {"plan": "small"})
        limits.hang(tx, "alice", ["1 concurrent", "$1 total"])
        limits.hang(tx, "team:ops", ["2 requests total", "100 tokens total"])
        key_id = tx.value("SELECT id FROM keys WHERE user_id = (SELECT id FROM users WHERE name = 'bob')")
        limits.hang(tx, f"key:{key_id}", ["6 requests total", "0 requests total on zeta"])

    def ask(name: str, times: int, *, settled: bool = True) -> None:
        for _ in range(times):
            claim = book.claim(users[name], estimate=1, output=3)
            with book.write() as tx:
                hold = holds.place(tx, claim, policy)
            if settled:
                book.settle(hold, Meters(input=4, output=5, calls=1))

    ask("alice", 1, settled=False)
    ask("bob", 5)
    ask("carl", 2)
    ask("dora", 3)
    ask("eve", 2)
    with watched.read() as tx:
        everything = limits.listing(tx, policy)
    near = Watch(watched, policy, BACK_MS).look().near
    assert {str(one) for one in near} == {str(one) for one in everything if one.standing.percent >= 80}
    assert [(one.target, one.standing.percent) for one in near] == [
        ("alice", 100),
        ("bob", 100),
        ("team:ops", 100),
        ("carl", 90),
        (f"key:{key_id}", 83),
    ]
    with book.write() as tx:
        limits.take_off(tx, "team:ops", "2 requests total")
        limits.hang(tx, "bob", ["50 requests total"])
    with watched.read() as tx:
        assert {one.target for one in limits.near(tx, policy, 80, 50)} == {"alice", "carl", f"key:{key_id}"}
        assert len(limits.near(tx, policy, 80, 2)) == 2


def test_it_never_writes_and_holds_nothing_open(book: Book, watched: Database) -> None:
    watch = Watch(watched, POLICY, BACK_MS)
    book.use(book.user("alice"), Meters(input=1, calls=1), now_ms=now_ms())
    watch.look()
    with closing(sqlite3.connect(book.path)) as other:
        busy, in_log, moved = other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    assert (busy, in_log, moved) == (0, 0, 0), "the log is shortened while it watches"
    with pytest.raises(StorageError, match="read-only"), watched.write() as tx:
        tx.execute("DELETE FROM counters")
