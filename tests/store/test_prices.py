"""Prices that are set: what holds when, who sees it, and that the past stays as it was."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgate.errors import Refusal, StorageError
from llmgate.pricebook import Book as PriceBook
from llmgate.pricebook import Key, Kind, Version
from llmgate.pricing import Price
from llmgate.store import prices
from tests.books import Book

GPT: Key = (Kind.CHARGE, "", "gpt-4o")
NOW = 1_800_000_000_000


def price(nano: int) -> Price:
    return Price(input=nano, output=2 * nano)


def at(book: Book, now_ms: int) -> PriceBook:
    with book.db.read() as tx:
        tx.now_ms = now_ms
        return prices.in_force(tx)


def held(book: Book, now_ms: int, key: Key = GPT) -> int | None:
    found = at(book, now_ms).find(*key)
    return found.price.input if found else None


def put(book: Book, nano: int, now_ms: int, from_ms: int | None = None, key: Key = GPT) -> None:
    with book.write(now_ms) as tx:
        prices.put(tx, {key: price(nano)}, from_ms)


def test_a_price_holds_from_its_moment_until_the_next(book: Book) -> None:
    put(book, 1, NOW)
    put(book, 3, NOW, NOW + 3000)
    put(book, 2, NOW + 1000)
    assert [held(book, NOW + ms) for ms in (-1, 0, 999, 1000, 2999, 3000, 10**9)] == [None, 1, 1, 2, 2, 3, 3]


def test_the_past_cannot_be_repriced(book: Book) -> None:
    with pytest.raises(Refusal, match="the past can't be repriced"):
        put(book, 1, NOW, NOW - 1)
    put(book, 1, NOW, NOW)
    with pytest.raises(sqlite3.IntegrityError, match="never edited"):
        book.db.conn.execute("UPDATE set_prices SET from_ms = 1")


def test_all_or_none(book: Book) -> None:
    put(book, 1, NOW)
    with pytest.raises(StorageError), book.write(NOW + 1) as tx:
        prices.put(tx, {GPT: price(2), ("no kind", "", "x"): price(3)})  # type: ignore[dict-item]
    assert held(book, NOW + 5) == 1
    assert book.value("SELECT count(*) FROM audit WHERE action = 'prices.set'") == 1


def test_names_have_no_capitals_and_an_upstreams_own_goes_first(book: Book) -> None:
    put(book, 1, NOW)
    put(book, 2, NOW, key=(Kind.CHARGE, "azure", "GPT-4o"))
    put(book, 3, NOW, key=(Kind.COST, "", "gpt-4O"))
    found = at(book, NOW)
    told = {(kind, where): found.find(kind, where, "Gpt-4o") for kind in Kind for where in ("azure", "openai")}
    assert {key: one.price.input for key, one in told.items() if one} == {
        (Kind.CHARGE, "azure"): 2,
        (Kind.CHARGE, "openai"): 1,
        (Kind.COST, "azure"): 3,
        (Kind.COST, "openai"): 3,
    }
    put(book, 4, NOW + 1, key=(Kind.CHARGE, "", "GPT-4O"))
    assert held(book, NOW + 1) == 4


def test_one_that_begins_at_the_same_moment_is_replaced(book: Book) -> None:
    put(book, 1, NOW, NOW + 5)
    put(book, 2, NOW, NOW + 5)
    assert held(book, NOW + 5) == 2
    assert book.value("SELECT count(*) FROM set_prices") == 1


def test_removing_ends_what_holds_and_takes_back_what_is_to_come(book: Book) -> None:
    put(book, 1, NOW)
    put(book, 2, NOW, NOW + 2000)
    put(book, 3, NOW, NOW + 3000)
    with book.write(NOW + 1000) as tx:
        gone = prices.remove(tx, GPT)
    assert [row["from_ms"] for row in gone] == [NOW, NOW + 2000, NOW + 3000]
    assert [held(book, NOW + ms) for ms in (500, 1000, 2500, 3500)] == [1, None, None, None], "what was stays"
    with pytest.raises(Refusal, match="no price is set for gpt-4o"), book.write(NOW + 1001) as tx:
        prices.remove(tx, GPT)


def test_taking_back_only_one_that_is_to_come(book: Book) -> None:
    put(book, 1, NOW)
    put(book, 2, NOW, NOW + 2000)
    put(book, 3, NOW, NOW + 3000)
    with book.write(NOW + 1) as tx:
        prices.remove(tx, GPT, NOW + 2000)
    assert [held(book, NOW + ms) for ms in (500, 2500, 3500)] == [1, 1, 3]
    for from_ms in (NOW, NOW + 2000):
        with pytest.raises(Refusal, match="still to come"), book.write(NOW + 2) as tx:
            prices.remove(tx, GPT, from_ms)


def test_listing(book: Book) -> None:
    put(book, 1, NOW - 10)
    put(book, 2, NOW)
    put(book, 3, NOW, NOW + 10)

    def told(*, everything: bool) -> list[tuple[int, int | None]]:
        with book.write(NOW + 1) as tx:
            return [(row["from_ms"] - NOW, row["until_ms"]) for row in prices.listing(tx, everything=everything)]

    assert told(everything=True) == [(-10, NOW), (0, NOW + 10), (10, None)]
    assert told(everything=False) == [(0, NOW + 10), (10, None)]
    with book.write(NOW + 1) as tx:
        prices.remove(tx, GPT)
    assert told(everything=False) == []
    assert told(everything=True) == [(-10, NOW), (0, NOW + 1)]


def test_every_change_is_audited_and_an_import_once(book: Book) -> None:
    put(book, 1, NOW)
    with book.write(NOW + 1) as tx:
        prices.put(tx, {(Kind.COST, "", f"m{n}"): price(n) for n in range(5)}, source="list.csv")
        prices.remove(tx, GPT)
        prices.use_catalogue(tx, b"[1]", "data.json")
    acts = book.rows("SELECT action, target, after FROM audit ORDER BY id")
    assert [(act["action"], act["target"]) for act in acts] == [
        ("prices.set", "gpt-4o"),
        ("prices.import", "list.csv"),
        ("prices.remove", "gpt-4o"),
        ("prices.update", "data.json"),
    ]
    assert msgspec.json.decode(acts[0]["after"]) == {
        "price": {"input": "0.000000001", "output": "0.000000002"},
        "from_ms": NOW,
    }
    for act in book.rows("SELECT before, after FROM audit"):
        for side in act.values():
            assert side is None or isinstance(msgspec.json.decode(side), dict)


def test_one_catalogue_is_kept_and_can_be_taken_back(book: Book) -> None:
    for body in (b"[1]", b"[2]"):
        with book.write(NOW) as tx:
            edition = prices.use_catalogue(tx, body, "x")
        assert at(book, NOW).edition == edition
    assert book.value("SELECT count(*) FROM catalogues") == 1
    with book.write(NOW) as tx:
        assert prices.use_catalogue(tx, b"", "installed") == ""
    assert (at(book, NOW).edition, at(book, NOW).catalogue) == ("", b"")


MOVES = st.lists(
    st.tuples(st.sampled_from(("set", "later", "remove", "wait")), st.integers(1, 3), st.integers(0, 50)), max_size=30
)


@settings(max_examples=60)
@given(MOVES)
def test_the_same_version_means_the_same_prices(moves: list[tuple[str, int, int]]) -> None:
    """Against a plain dictionary of who was set when; and whoever sees an old version can tell."""
    with TemporaryDirectory() as folder:
        book = Book(Path(folder) / "books.db")
        now, model = NOW, dict[tuple[Key, int], int | None]()
        seen: dict[Version, dict[Key, int | None]] = {}
        for verb, number, ms in moves:
            key = (Kind.CHARGE, "", f"m{number}")
            now += 1
            if verb == "wait":
                now += ms
            elif verb == "remove":
                try:
                    with book.write(now) as tx:
                        prices.remove(tx, key)
                except Refusal:  # there was nothing to remove
                    pass
                else:
                    model = {(k, at): nano for (k, at), nano in model.items() if k != key or at < now}
                    model[key, now] = None
            else:
                begins = now + (ms if verb == "later" else 0)
                put(book, 100 + ms, now, begins if verb == "later" else None, key)
                model[key, begins] = 100 + ms
            found = at(book, now)
            expected: dict[Key, int | None] = {}
            for (k, begins), nano in sorted(model.items(), key=lambda item: item[0][1]):
                if begins <= now:
                    expected[k] = nano
            expected = {k: nano for k, nano in expected.items() if nano is not None}
            assert {k: one.price.input for k, one in found.prices.items()} == expected
            assert seen.setdefault(found.version, expected) == expected
        book.close()


def test_a_change_is_told_by_the_version_to_who_looked_before(book: Book) -> None:
    put(book, 1, NOW, NOW + 10)
    known = at(book, NOW).version
    with book.write(NOW + 9) as tx:
        prices.check(tx, known)
    with pytest.raises(prices.Outdated), book.write(NOW + 10) as tx:
        prices.check(tx, known)
    put(book, 2, NOW + 1)
    with pytest.raises(prices.Outdated), book.write(NOW + 1) as tx:
        prices.check(tx, known)
