"""Usage rows as they are listed: every filter, the newest, page by page."""

from __future__ import annotations

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
