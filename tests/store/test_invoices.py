"""Invoices: opening balance + entries - charges = closing balance, month after month, also where rows were pruned."""

from __future__ import annotations

from datetime import UTC, date, datetime
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgate.pricing import UNITS, Price
from llmgate.store import accounts, ledger
from llmgate.store import prune as pruning
from llmgate.store.db import set_zone
from llmgate.store.invoices import Invoice, of_month
from llmgate.types import METERS, Meters, Status

from ..books import PRICE, Book
from .test_overage import PER_TOKEN, policy, subscriber, use

MONTHS = (date(2024, 9, 1), date(2024, 10, 1), date(2024, 11, 1), date(2024, 12, 1), date(2025, 1, 1))
DEAR = Price(input=7 * UNITS, output=UNITS // 3)


def at(text: str, zone: str = "UTC") -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()) * 1000


def invoice(book: Book, target: str = "alice", first: date = MONTHS[1], after: date = MONTHS[2]) -> Invoice:
    with book.db.read() as tx:
        return of_month(tx, accounts.account_of(tx, target)[0], first, after)


def all_of(book: Book, target: str) -> list[Invoice]:
    return [invoice(book, target, first, after) for first, after in pairwise(MONTHS)]


def prune(book: Book, before: str) -> None:
    for _ in pruning.prune(book.db, before):
        pass


HOURS = int((datetime(2024, 12, 31, tzinfo=UTC) - datetime(2024, 9, 1, tzinfo=UTC)).total_seconds()) // 3600

STEPS = st.lists(
    st.tuples(
        st.integers(0, HOURS),
        st.sampled_from(("use", "use", "use", "dear", "fail", "add", "take", "transfer", "refund")),
        st.sampled_from(("alice", "bob")),
        st.integers(1, 10**6),
    ),
    max_size=25,
)


@settings(max_examples=40)
@given(STEPS, st.sampled_from(("UTC", "America/New_York")), st.sampled_from(("2024-09-20", "2024-11-01", "2025-01-01")))
def test_every_movement_is_on_one_invoice(steps: list[tuple[int, str, str, int]], zone: str, pruned: str) -> None:
    with TemporaryDirectory() as folder:
        book = Book(Path(folder) / "llmgate.db")
        try:
            with book.write() as tx:
                set_zone(tx, zone)
            charged = play(book, steps)
            check(book, charged)
            before = [(one.opening_nano, one.total_nano, one.closing_nano) for one in all_of(book, "alice")]
            prune(book, pruned)
            check(book, charged)
            assert book.findings() == []
            assert before == [(one.opening_nano, one.total_nano, one.closing_nano) for one in all_of(book, "alice")]
        finally:
            book.close()


def play(book: Book, steps: list[tuple[int, str, str, int]]) -> dict[str, int]:
    """Do it all, and return what the accounts were charged."""
    keys = {name: book.user(name) for name in ("alice", "bob")}
    charged = dict.fromkeys(keys, 0)
    last: dict[str, str] = {}
    for hour, what, name, nano in sorted(steps):
        now_ms = at("2024-09-01T05:30") + hour * 3_600_000
        if what in ("use", "dear", "fail"):
            price = DEAR if what == "dear" else PRICE
            status = Status.ERROR if what == "fail" else Status.OK
            meters = Meters(input=nano, output=nano % 7, calls=1)
            charge = {"model": f"m{nano % 3}", "charge": price if nano % 2 else None, "price": PRICE}
            settled = book.use(keys[name], meters, now_ms=now_ms, status=status, **charge)
            charged[name] += settled.charge_nano
            last[name] = str(settled.usage_id)
            continue
        with book.write(now_ms) as tx:
            if what == "add":
                ledger.add(tx, name, nano)
                accounts.set_user(tx, name, {"billing": "metered"})
            elif what == "take":
                ledger.take(tx, name, nano, force=True)
            elif what == "transfer":
                ledger.transfer(tx, name, "bob" if name == "alice" else "alice", nano, force=True)
                for each in keys:
                    accounts.set_user(tx, each, {"billing": "metered"})
            elif name in last:
                ledger.refund(tx, last.pop(name))
    return charged


def check(book: Book, charged: dict[str, int]) -> None:
    for name, total in charged.items():
        found = all_of(book, name)
        assert found[0].opening_nano == 0
        assert found[-1].closing_nano == book.money(name)[0]
        assert sum(one.total_nano for one in found) == total
        for one, following in pairwise(found):
            assert one.closing_nano == following.opening_nano
        for one in found:
            assert one.opening_nano + one.moved_nano - one.total_nano == one.closing_nano
            assert all(entry["kind"] != "closing" for entry in one.entries)


def test_a_line_for_each_model_and_price(book: Book) -> None:
    key = book.user("alice")
    for day, model, charge in (
        ("2024-10-01T00:00", "gpt", None),
        ("2024-10-02T10:00", "gpt", DEAR),
        ("2024-10-03T10:00", "gpt", DEAR),
        ("2024-10-31T23:59", "claude", None),
        ("2024-11-01T00:00", "claude", None),
    ):
        meters = Meters(input=100, cached_input=30, cache_write=20, output=10, reasoning=5, calls=1)
        book.use(key, meters, now_ms=at(day), model=model, charge=charge)
    found = invoice(book)
    assert [(line.model, line.requests, line.price, line.amount_nano) for line in found.lines] == [
        ("claude", 1, PRICE, 180),
        ("gpt", 1, PRICE, 180),
        ("gpt", 2, DEAR, 2 * 1055),
    ]
    assert found.lines[2].quantities == dict.fromkeys(METERS, 0) | {
        "input": 200,
        "cached_input": 60,
        "cache_write": 40,
        "output": 20,
        "reasoning": 10,
        "calls": 2,
    }
    assert (found.total_nano, found.opening_nano, found.closing_nano) == (2470, 0, -2470)
    assert invoice(book, "alice", MONTHS[2], MONTHS[3]).opening_nano == -2470


def test_what_an_upstream_billed_itself_has_no_price(book: Book) -> None:
    key = book.user("alice")
    hold = book.place(key, now_ms=at("2024-10-05T10:00"))
    book.settle(hold, Meters(input=10, calls=1), reported=77)
    (line,) = invoice(book).lines
    assert (line.price, line.pruned, line.amount_nano) == (None, False, 77)


def test_months_are_those_of_the_zone(book: Book) -> None:
    with book.write() as tx:
        set_zone(tx, "America/New_York")
    key = book.user("alice")
    book.use(key, Meters(input=5, calls=1), now_ms=at("2024-11-01T03:59"))
    book.use(key, Meters(input=7, calls=1), now_ms=at("2024-11-01T04:00"))
    with book.write(at("2024-11-01T03:59")) as tx:
        ledger.add(tx, "alice", 1000)
    assert (invoice(book).total_nano, invoice(book).moved_nano) == (5, 1000)
    november = invoice(book, "alice", MONTHS[2], MONTHS[3])
    assert (november.total_nano, november.entries, november.opening_nano) == (7, [], 995)


def test_tokens_past_the_included_ones_are_a_line_of_their_own(book: Book) -> None:
    key = subscriber(book, credits=10**6)
    for tokens in (900, 300, 50):
        use(book, key, tokens, policy(), now_ms=at("2024-10-05T10:00"))
    found = invoice(book)
    kept, past = found.lines
    assert (kept.requests, kept.quantities["input"], kept.amount_nano, kept.past) == (3, 1250, 0, False)
    assert (past.requests, past.quantities, past.amount_nano, past.past) == (0, {"tokens": 250}, 250 * PER_TOKEN, True)
    assert past.terms is not None
    assert (past.terms.quota, past.terms.nano) == (1000, PER_TOKEN)
    assert found.plans == {"starter": 1}


def test_pruned_rows_leave_their_sums(book: Book) -> None:
    key = book.user("alice")
    book.use(key, Meters(input=100, output=10, calls=1), now_ms=at("2024-10-05T10:00"))
    book.use(key, Meters(input=40, calls=1), now_ms=at("2024-10-25T10:00"))
    prune(book, "2024-10-20")
    kept, gone = invoice(book).lines
    assert (kept.pruned, kept.requests, kept.amount_nano) == (False, 1, 40)
    assert (gone.pruned, gone.requests, gone.price, gone.amount_nano) == (True, 1, None, 120)
    assert (gone.quantities["input"], gone.quantities["output"]) == (100, 10)


def test_requests_in_flight_are_told(book: Book) -> None:
    key = book.user("alice")
    book.place(key, now_ms=at("2024-10-31T23:59"))
    assert invoice(book).in_flight == 1
    assert invoice(book, "alice", MONTHS[2], MONTHS[3]).in_flight == 0


@pytest.mark.parametrize("target", ["team:ops", "alice"])
def test_who_pays_gets_the_invoice(book: Book, target: str) -> None:
    book.team("ops", credits=10**6)
    key = book.user("alice", team="ops")
    book.use(key, Meters(input=9, calls=1), now_ms=at("2024-10-05T10:00"))
    found: Any = invoice(book, target)
    assert found.total_nano == (9 if target == "team:ops" else 0)
