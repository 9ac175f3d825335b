"""Each check by a book of its own that breaks it: causes of entries, attempts, orphans, negative balances, pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmgate.errors import StorageError
from llmgate.money import dollars
from llmgate.pricing import UNITS, Price, Tier
from llmgate.store import accounts, ledger, limits
from llmgate.store.db import Database
from llmgate.store.holds import Attempt
from llmgate.store.verify import verify
from llmgate.types import Billing, CostSource, Meters, Source

from ..books import PRICE, Book


def found(book: Book) -> list[tuple[str, str, str, str]]:
    return [(one.check, one.subject, one.stored, one.expected) for one in book.findings()]


@pytest.mark.parametrize(
    "day", ["2020", "2025-03-04", "2025-02-26", "2025-02-30", "20250301", "0001-01-01", "9999-12-31"]
)
def test_a_day_that_no_request_of_its_time_had(book: Book, day: str) -> None:
    book.use(book.user("alice"), Meters(input=1, calls=1), day="2025-03-01")
    book.tamper(f"UPDATE usage SET day = '{day}'", f"UPDATE rollups SET day = '{day}'")
    assert found(book) == [("day", "usage 1", day, "a date within 2 days of 2025-03-01T12:00:00.000Z")]


@pytest.mark.parametrize("day", ["2025-02-28", "2025-03-03"])
def test_days_of_far_zones(book: Book, day: str) -> None:
    book.use(book.user("alice"), Meters(input=1, calls=1), day="2025-03-01")
    book.tamper(f"UPDATE usage SET day = '{day}'", f"UPDATE rollups SET day = '{day}'")
    assert found(book) == []


# ── entries and their causes ──────────────────────────────────────────────────────────────────────────────────────────


def write(book: Book, account: int, kind: str, nano: int, **fields: Any) -> None:
    """An entry that no command would write; its hash is right, and so is the balance."""
    cause = fields.pop("cause", None)
    at_ms = fields.pop("at_ms", None)
    with book.write(at_ms) as tx:
        entry = ledger.append(tx, account, kind, nano, **fields)
        if cause is not None:
            tx.execute("DROP TRIGGER IF EXISTS entries_are_not_edited")
            tx.execute("UPDATE entries SET cause = ? WHERE id = ?", (cause, entry))
            row = tx.one("SELECT * FROM entries WHERE id = ?", entry)
            assert row is not None
            before = tx.value("SELECT hash FROM entries WHERE id = ?", entry - 1)
            tx.execute("UPDATE entries SET hash = ? WHERE id = ?", (ledger.entry_hash(before, dict(row)), entry))


@pytest.fixture
def led(book: Book) -> Book:
    """alice, account 1: entry 1 (+1000) and usage 1, charged 20; bob, account 2: entry 2 (+500, until 5000)."""
    key = book.user("alice", credits=1000)
    book.user("bob")
    book.add("bob", 500, expires_ms=5000)
    book.use(key, Meters(input=10, output=5, calls=1))
    return book


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        # which way
        ([(1, "add", -5, {})], [("entry 3", f"add {dollars(-5)}", f"add {dollars(5)}")]),
        ([(1, "take", 5, {})], [("entry 3", f"take {dollars(5)}", f"take {dollars(-5)}")]),
        # reversals
        ([(1, "reverse", -1000, {"reverses": 1}), (1, "add", 1000, {})], []),
        ([(1, "reverse", -900, {"reverses": 1})], [("entry 3", dollars(-900), dollars(-1000))]),
        ([(2, "reverse", -400, {})], [("entry 3", "reverse", "an entry that it reverses")]),
        ([(1, "take", -5, {"reverses": 1})], [("entry 3", "take", "reverse")]),
        (
            [(2, "reverse", -1000, {"reverses": 1}), (2, "add", 600, {})],
            [("entry 3", "account 2", "account 1")],
        ),
        (
            [(1, "reverse", -1000, {"reverses": 1}), (1, "reverse", 1000, {"reverses": 3})],
            [("entry 4", "reverses entry 3", "an entry that is no reversal")],
        ),
        # refunds
        ([(1, "refund", 20, {"usage_id": 1})], []),
        (
            [(1, "refund", 15, {"usage_id": 1}), (1, "refund", 6, {"usage_id": 1})],
            [("entry 4", f"{dollars(21)} of usage 1", f"at most {dollars(20)}")],
        ),
        (
            [
                (1, "refund", 15, {"usage_id": 1}),
                (1, "reverse", -15, {"reverses": 3}),
                (1, "refund", 20, {"usage_id": 1}),
            ],
            [],
        ),
        ([(2, "refund", 5, {"usage_id": 1})], [("entry 3", "account 2", "account 1")]),
        ([(1, "refund", 5, {"usage_id": 7})], [("entry 3", "usage 7", "a request")]),
        ([(1, "refund", 5, {"usage_id": 7}), (1, "closing", -5, {"charged_ms": 1})], []),
        # expiries
        ([(2, "expire", -500, {"cause": 2, "at_ms": 5000})], []),
        ([(2, "expire", -500, {"cause": 2, "at_ms": 4999})], [("entry 3", "expired at 4999", "from 5000 on")]),
        ([(2, "expire", -5, {})], [("entry 3", "of entry None", "credits that expire")]),
        ([(1, "expire", -5, {"cause": 1})], [("entry 3", "of entry 1", "credits that expire")]),
        ([(1, "expire", -5, {"cause": 2})], [("entry 3", "account 1", "account 2")]),
        (
            [(2, "add", 500, {}), (2, "expire", -300, {"cause": 2}), (2, "expire", -201, {"cause": 2})],
            [("entry 5", f"{dollars(501)} of entry 2", f"at most {dollars(500)}")],
        ),
        # transfers
        ([(2, "transfer", -9, {}), (1, "transfer", 9, {"cause": 3})], []),
        ([(2, "transfer", -9, {})], [("entry 3", f"gave {dollars(9)}", "$0.00, as was got")]),
        (
            [(2, "transfer", -9, {}), (1, "transfer", 8, {"cause": 3})],
            [("entry 3", f"gave {dollars(9)}", f"{dollars(8)}, as was got")],
        ),
        ([(1, "transfer", 9, {})], [("entry 3", "of entry None", "the half that another account gave")]),
        ([(1, "transfer", 9, {"cause": 2})], [("entry 3", "of entry 2", "the half that another account gave")]),
        (
            [(2, "transfer", -9, {}), (2, "transfer", 9, {"cause": 3})],
            [("entry 4", "of entry 3", "the half that another account gave")],
        ),
    ],
)
def test_an_entry_has_its_cause(
    led: Book, entries: list[tuple[int, str, int, dict[str, Any]]], expected: list[tuple[str, str, str]]
) -> None:
    for account, kind, nano, fields in entries:
        write(led, account, kind, nano, **fields)
    assert [one for one in found(led) if one[0] not in ("balance", "negative", "closings")] == [
        ("causes", *one) for one in expected
    ]


# ── requests ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def vain(book: Book, **fields: Any) -> Attempt:
    told: dict[str, Any] = {
        "upstream": "openai",
        "upstream_model": "gpt",
        "http_status": 500,
        "source": Source.ESTIMATED,
        "meters": Meters(input=4, calls=1),
        "cost": book.snapshot(PRICE),
        "cost_source": CostSource.CONFIG,
    }
    return Attempt(**told | fields)


@pytest.mark.parametrize(
    ("statements", "expected"),
    [
        ((), []),
        (
            ["UPDATE attempts SET cost_nano = 5 WHERE id = 1"],
            [("wasted", "usage 1", dollars(13), dollars(14)), ("cost", "attempt 1", dollars(5), dollars(4))],
        ),
        (["DELETE FROM attempts WHERE id = 2"], [("wasted", "usage 1", dollars(13), dollars(4))]),
        (
            ["UPDATE attempts SET usage_id = 8 WHERE id = 2"],
            [
                ("wasted", "usage 1", dollars(13), dollars(4)),
                ("orphans", "attempt 2", "usage_id 8", "one of the usage"),
            ],
        ),
        (
            ["UPDATE usage SET wasted_nano = 0", "UPDATE rollups SET wasted_nano = 0"],
            [("wasted", "usage 1", dollars(0), dollars(13))],
        ),
        (["UPDATE usage SET names = 'gpt'"], [("names", "usage 1", "gpt", "a list of names")]),
        (
            ["UPDATE sqlite_sequence SET seq = 0 WHERE name = 'holds'"],
            [("holds", "usage 1", "never held", "an id up to 0")],
        ),
    ],
)
def test_what_a_request_says_of_itself(
    book: Book, statements: list[str], expected: list[tuple[str, str, str, str]]
) -> None:
    key = book.user("alice", credits=1000)
    book.settle(book.place(key), attempts=(vain(book), vain(book, reported_cost_nano=9)))
    book.tamper(*statements)
    assert found(book) == expected


def test_a_price_by_tiers_is_recomputed(book: Book) -> None:
    key = book.user("alice", credits=10**6)
    price = Price(input=UNITS, output=UNITS, tiers=(Tier(above=100, price=Price(input=3 * UNITS)),))
    for tokens in (100, 101):
        book.use(key, Meters(input=tokens, calls=1), price=price)
    assert [row["charge_nano"] for row in book.rows("SELECT charge_nano FROM usage")] == [100, 303]
    assert found(book) == []
    book.tamper("UPDATE usage SET cost_nano = 101 WHERE id = 2", "UPDATE rollups SET cost_nano = 201")
    assert found(book) == [("cost", "usage 2", dollars(101), dollars(303))]


def test_a_limit_that_cannot_be_read(book: Book) -> None:
    key = book.user("alice", credits=1000)
    with book.write() as tx:
        limits.hang(tx, "alice", ["9 requests total on g*"])
    book.use(key, Meters(input=1, calls=1))
    book.tamper("UPDATE counters SET unit = 'dreams'")
    (finding,) = book.findings()
    assert (finding.check, finding.subject, finding.stored) == ("limits", "user 1 dreams/total", "unreadable")
    assert finding.derived


# ── what is gone ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_orphans(book: Book) -> None:
    key = book.user("alice", credits=1000)
    book.use(key, Meters(input=1, calls=1), tags={"job": "1"})
    book.place(key)
    book.tamper("DELETE FROM workers", "INSERT INTO usage_tags VALUES (77, 'job', '2')")
    assert found(book) == [
        ("orphans", "hold 2", f"worker_id {book.worker.id}", "one of the workers"),
        ("orphans", "usage_tags", "usage_id one that is gone", "one of the usage"),
    ]


def test_many_orphans_are_told_in_few_words(book: Book) -> None:
    key = book.user("alice")
    for _ in range(3):
        book.use(key, Meters(input=1, calls=1))
    numbers = "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 250)"
    book.tamper(f"{numbers} INSERT INTO usage_tags SELECT 1000 + x, 'job', x FROM n")
    findings = found(book)
    assert len(findings) == 101
    assert findings[-1] == ("orphans", "usage_tags", "150 more of usage_id", "one of the usage each")


# ── a prepaid balance below zero ──────────────────────────────────────────────────────────────────────────────────────


LATER_MS = 2**42
"""After whatever else a test does."""


def below(book: Book) -> int:
    balance, _ = book.money("alice")
    return balance


def test_an_overrun_explains(book: Book) -> None:
    key = book.user("alice", credits=100)
    book.settle(book.place(key, bound=60, output=20, now_ms=LATER_MS), Meters(input=300, calls=1))
    assert below(book) == -200
    assert found(book) == []
    book.tamper("UPDATE usage SET hold_nano = 101")
    assert found(book) == [("negative", "user alice", dollars(-200), f"{dollars(-199)} or more")]


def test_a_reversal_explains(book: Book) -> None:
    key = book.user("alice", credits=100)
    book.use(key, Meters(input=70, calls=1), now_ms=LATER_MS)
    with book.write() as tx:
        ledger.reverse(tx, 1, force=True)
    assert below(book) == -70
    assert found(book) == []


@pytest.mark.parametrize("force", [True, False])
def test_a_take_explains_only_by_force(book: Book, force: bool) -> None:
    book.user("alice", credits=100)
    with book.write() as tx:
        ledger.take(tx, "alice", 130, force=True)
    if not force:
        book.tamper("""UPDATE audit SET after = json_set(after, '$.force', json('false'))""")
    assert below(book) == -30
    assert found(book) == ([] if force else [("negative", "user alice", dollars(-30), "$0.00 or more")])


def test_a_metered_past_explains(book: Book) -> None:
    key = book.user("alice")
    book.use(key, Meters(input=70, calls=1))
    book.add("alice", 10)
    assert book.account("alice")["billing"] == "prepaid"
    assert below(book) == -60
    assert found(book) == []


def test_a_metered_past_under_a_budget_explains(book: Book) -> None:
    """Its rows were bounded, but not by the balance."""
    key = book.user("alice", billing=Billing.METERED)
    with book.write() as tx:
        limits.hang(tx, "alice", ["$1 total"])
    book.use(key, Meters(input=70, calls=1), now_ms=1_000_000)
    with book.write() as tx:
        accounts.set_user(tx, "alice", {"billing": "prepaid"})
    assert (below(book), book.value("SELECT bounded FROM usage")) == (-70, 1)
    assert found(book) == []


def test_a_correction_explains(book: Book) -> None:
    """Its room was let again when its worker was taken for dead; but the worker lived."""
    key = book.user("alice", credits=150)
    first = book.place(key, bound=100, output=0, estimate=1, now_ms=LATER_MS)
    book.crash()
    book.recover("none")
    book.use(key, Meters(input=140, calls=1), now_ms=LATER_MS)
    book.settle(first, Meters(input=90, calls=1))
    assert below(book) == -80
    assert book.value("SELECT sum(overrun) FROM usage") == 0
    assert found(book) == []
    book.tamper("DELETE FROM events")
    assert found(book) == [("negative", "user alice", dollars(-80), "$0.00 or more")]


# ── pages ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def checks_of(path: Path) -> set[str]:
    """What is found in a file, or that it can't be read but how that is cured."""
    try:
        with Database(path) as db:
            return {finding.check for finding in verify(db)}
    except StorageError as error:
        return {"a cure" if "restore a backup" in error.message else error.message}


def test_a_broken_page_is_a_finding_or_an_error_with_its_cure(book: Book) -> None:
    key = book.user("alice", credits=10**6)
    for _ in range(200):
        book.use(key, Meters(input=1, calls=1))
    book.db.conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    size = book.value("PRAGMA page_size")
    pages = book.path.stat().st_size // size
    whole = book.path.read_bytes()
    told = set()
    for page in range(2, pages + 1):
        broken = bytearray(whole)
        broken[(page - 1) * size : page * size] = b"\xff" * size
        path = book.path.with_name(f"broken{page}.db")
        path.write_bytes(broken)
        told |= checks_of(path)
    assert told == {"database", "a cure"}
