"""Usage rows as they are listed: every filter, the newest, page by page."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from llmgate.store import usage
from llmgate.types import Meters, Status

from ..books import Book


@pytest.fixture
def used(book: Book) -> Book:
    """Six requests; the last row was placed before the one before it."""
    book.team("ops")
    alice, bob = book.user("alice"), book.user("bob", team="ops")
    tokens = Meters(input=1, calls=1)
    book.use(alice, tokens, now_ms=100, model="gpt-4o", tags={"job": "1", "who": "me"})
    book.use(alice, tokens, now_ms=200, model="gpt-4o-mini")
    book.use(bob, tokens, now_ms=300, model="gpt-4o", upstream="azure", status=Status.ERROR)
    book.use(bob, tokens, now_ms=400, model="o3")
    book.use(alice, tokens, now_ms=600, model="o3", status=Status.CANCELLED)
    book.use(alice, tokens, now_ms=500, model="o3")
    return book


def ids(book: Book, newest: int | None = None, **filters: Any) -> list[int]:
    return [row["id"] for row in usage.rows(book.tx, filters, newest=newest)]


def test_rows_come_in_the_order_of_time(used: Book) -> None:
    assert ids(used) == [1, 2, 3, 4, 6, 5]
    assert usage.count(used.tx) == 6


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"user": "alice"}, [1, 2, 6, 5]),
        ({"user": "carl"}, []),
        ({"team": "ops"}, [3, 4]),
        ({"key": "bob/default"}, [3, 4]),
        ({"model": "gpt-4o"}, [1, 3]),
        ({"model": "gpt-4o*"}, [1, 2, 3]),
        ({"model": "[go]*"}, [1, 2, 3, 4, 6, 5]),
        ({"upstream": "azure"}, [3]),
        ({"status": "cancelled"}, [5]),
        ({"since_ms": 300}, [3, 4, 6, 5]),
        ({"until_ms": 300}, [1, 2]),
        ({"since_ms": 300, "until_ms": 500}, [3, 4]),
        ({"after_id": 4}, [6, 5]),
        ({"upto_id": 2}, [1, 2]),
        ({"ids": "[2, 5, 7]"}, [2, 5]),
        ({"plan": "pro"}, []),
        ({"tag": '["job=1"]'}, [1]),
        ({"tag": '["job=1", "who=me"]'}, [1]),
        ({"tag": '["job=1", "who=you"]'}, []),
        ({"user": "alice", "model": "o3", "status": "ok"}, [6]),
        ({"user": None, "model": None}, [1, 2, 3, 4, 6, 5]),
        ({"user": "x' OR 1=1 --"}, []),
    ],
)
def test_filters(used: Book, filters: dict[str, Any], expected: list[int]) -> None:
    assert ids(used, **filters) == expected


def test_a_key_is_also_named_by_its_id(used: Book) -> None:
    key_id = used.value("SELECT k.id FROM keys k JOIN users u ON u.id = k.user_id WHERE u.name = 'bob'")
    assert ids(used, key=key_id) == [3, 4]


@pytest.mark.parametrize(
    ("newest", "expected"), [(0, []), (1, [5]), (2, [6, 5]), (6, [1, 2, 3, 4, 6, 5]), (99, [1, 2, 3, 4, 6, 5])]
)
def test_the_newest_come_oldest_first_too(used: Book, newest: int, expected: list[int]) -> None:
    assert ids(used, newest) == expected


def test_the_newest_of_those_that_pass(used: Book) -> None:
    assert ids(used, 1, user="bob") == [4]


def test_a_row_has_names_and_tags(used: Book) -> None:
    first, _, third, *_ = usage.rows(used.tx, {})
    assert (first["user"], first["team"], first["key"]) == ("alice", None, "default")
    assert msgspec.json.decode(first["tags"]) == {"job": "1", "who": "me"}
    assert (third["user"], third["team"], msgspec.json.decode(third["tags"])) == ("bob", "ops", {})


def test_pages_follow_each_other_without_gap_or_repeat(used: Book) -> None:
    seen: list[int] = []
    while page := usage.page(used.tx, {"after_id": seen[-1] if seen else 0}, 2):
        assert len(page) <= 2
        seen += [row["id"] for row in page]
    assert seen == [1, 2, 3, 4, 5, 6]
    assert [row["id"] for row in usage.page(used.tx, {"user": "bob", "after_id": 3}, 9)] == [4]


def test_rows_are_read_as_they_are_asked_for(used: Book) -> None:
    rows = usage.rows(used.tx, {})
    assert next(rows)["id"] == 1
    rows.close()  # type: ignore[attr-defined]


# ── following ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def look(book: Book, seen: usage.Mark, size: int = 100, **filters: Any) -> tuple[list[int], usage.Mark]:
    with book.db.read() as tx:
        now = usage.mark(tx)
    return [row["id"] for row in usage.between(book.db, filters, seen, now, size)], now


def test_a_row_that_ends_late_is_not_missed(book: Book) -> None:
    alice = book.user("alice")
    slow, quick = book.place(alice), book.place(alice)
    book.settle(quick)
    came, seen = look(book, usage.BEGINNING)
    assert (came, set(seen.in_flight)) == ([quick.id], {slow.id})
    book.settle(slow)
    came, seen = look(book, seen)
    assert (came, seen.in_flight) == ([slow.id], frozenset())
    assert look(book, seen)[0] == []


def test_what_ends_between_the_mark_and_the_reading_comes_once(book: Book) -> None:
    alice = book.user("alice")
    first, second, third = (book.place(alice) for _ in range(3))
    book.settle(first)
    with book.db.read() as tx:
        now = usage.mark(tx)
    rows = usage.between(book.db, {}, usage.BEGINNING, now, 1)
    assert next(rows)["id"] == first.id
    book.settle(second)  # while the reader of the output takes its time
    book.release(third)
    fourth = book.place(alice)
    book.settle(fourth)
    assert list(rows) == []
    assert look(book, now)[0] == [second.id, fourth.id]


def test_a_correction_is_not_new(book: Book) -> None:
    hold = book.place(book.user("alice"))
    book.crash()
    book.recover()
    came, seen = look(book, usage.BEGINNING)
    assert came == [hold.id]
    book.settle(hold)
    assert look(book, seen)[0] == []


@pytest.mark.parametrize("seed", range(3))
def test_each_row_comes_exactly_once_whatever_the_order(book: Book, seed: int) -> None:
    chance = random.Random(seed)
    owners = [book.user("alice"), book.user("bob")]
    flying: list[Any] = []
    ended: set[int] = set()
    came: list[int] = []
    _, seen = look(book, usage.BEGINNING)
    for _ in range(150):
        match chance.choice(("place", "place", "settle", "settle", "release", "look")):
            case "place":
                flying.append(book.place(chance.choice(owners)))
            case "look":
                found, seen = look(book, seen, size=chance.choice((1, 2, 100)))
                came += found
                assert set(came) == ended
                assert len(seen.in_flight) == len(flying), "what is remembered is what is in flight"
            case act if flying:
                hold = flying.pop(chance.randrange(len(flying)))
                if act == "release":
                    book.release(hold)
                else:
                    book.settle(hold)
                    ended.add(hold.id)
    came += look(book, seen)[0]
    assert len(came) == len(set(came))
    assert set(came) == ended


def test_a_page_is_read_by_ids_whatever_is_filtered(used: Book) -> None:
    """Any other index would look through and sort all that is left, for each page."""
    statements: list[str] = []
    used.db.conn.set_trace_callback(statements.append)
    for filters in ({"user": "alice"}, {"since_ms": 1, "until_ms": 900}, {"key": "bob/default"}):
        usage.page(used.tx, filters | {"after_id": 2}, 2)
    used.db.conn.set_trace_callback(None)
    for sql in statements:
        plan = [row["detail"] for row in used.rows(f"EXPLAIN QUERY PLAN {sql}")]
        assert not any("ORDER BY" in step for step in plan), plan
