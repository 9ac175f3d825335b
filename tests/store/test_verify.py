"""Every kind of tampering is found, by name, with both figures, and nothing else is."""

from __future__ import annotations

import sqlite3
import tracemalloc
from itertools import islice

import pytest

from llmgate.money import dollars
from llmgate.pricing import UNITS, Price
from llmgate.store import accounts, ledger, limits
from llmgate.store.verify import Counts, Finding, verify
from llmgate.types import Meters, Status

from ..books import DAY, Book

CHARGE = Price(input=5 * UNITS, output=7 * UNITS)


@pytest.fixture
def kept(book: Book) -> Book:
    """A book with something of everything.

    alice, account 2: entries 1 (+1000), 3 (-50); usage 1 (charge 20), 2 (charge 15, cost 3) and hold 5 of 200.
    bob, account 3, of the team ops, account 1 with entry 2 (+500): usage 3 (reported cost 9), and 4, an overrun of 300.
    """
    book.team("ops")
    alice = book.user("alice", credits=1000)
    bob = book.user("bob", team="ops")
    with book.write() as tx:
        ledger.add(tx, "team:ops", 500)
        ledger.take(tx, "alice", 50)
        accounts.set_user(tx, "alice", {"plan": "pro"})
    book.use(alice, Meters(input=10, output=5, calls=1))
    book.use(alice, Meters(input=3, calls=1), charge=CHARGE, upstream="azure", tags={"job": "1"})
    book.use(bob, Meters(input=8, calls=1), reported=9)
    book.settle(book.place(bob, bound=100, output=50), Meters(input=300, calls=1), status=Status.ERROR)
    book.place(alice)
    assert book.findings() == []
    return book


def key_of(book: Book, user: str) -> str:
    found: str = book.value("SELECT k.id FROM keys k JOIN users u ON u.id = k.user_id WHERE u.name = ?", user)
    return found


def found(book: Book) -> list[tuple[str, str, str, str, bool]]:
    return [(one.check, one.subject, one.stored, one.expected, one.derived) for one in book.findings()]


EDITED = "DROP TRIGGER entries_are_not_edited"
DELETED = "DROP TRIGGER entries_are_not_deleted"


@pytest.mark.parametrize(
    ("statements", "expected"),
    [
        # what is derived from facts
        (
            ["UPDATE accounts SET balance_nano = balance_nano + 1 WHERE id = 2"],
            [("balance", "user alice", dollars(916), dollars(915), True)],
        ),
        (
            ["UPDATE accounts SET held_nano = 0 WHERE id = 2"],
            [("held", "user alice", dollars(0), dollars(200), True)],
        ),
        (
            ["UPDATE accounts SET balance_nano = -7, held_nano = 7 WHERE id = 1"],
            [
                ("balance", "team ops", dollars(-7), dollars(191), True),
                ("held", "team ops", dollars(7), dollars(0), True),
            ],
        ),
        (
            ["UPDATE holds SET amount_nano = 150"],
            [("held", "user alice", dollars(200), dollars(150), True)],
        ),
        (
            ["DELETE FROM holds"],
            [("held", "user alice", dollars(200), dollars(0), True)],
        ),
        # facts of a request
        (
            [
                "UPDATE usage SET cost_nano = 4 WHERE id = 2",
                "UPDATE rollups SET cost_nano = 4 WHERE upstream = 'azure'",
            ],
            [("cost", "usage 2", dollars(4), dollars(3), False)],
        ),
        (
            [
                "UPDATE usage SET charge_nano = 5 WHERE id = 2",
                "UPDATE rollups SET charge_nano = 5 WHERE upstream = 'azure'",
                "UPDATE accounts SET balance_nano = balance_nano + 10 WHERE id = 2",
            ],
            [("charge", "usage 2", dollars(5), dollars(15), False)],
        ),
        (
            [
                "UPDATE usage SET input = 2 WHERE id = 2",
                "UPDATE rollups SET input = 2 WHERE upstream = 'azure'",
            ],
            [
                ("cost", "usage 2", dollars(3), dollars(2), False),
                ("charge", "usage 2", dollars(15), dollars(10), False),
            ],
        ),
        # a cost that the upstream reported is a fact by itself; the charge still follows from it
        (
            [
                "UPDATE usage SET cost_nano = 8 WHERE id = 3",
                "UPDATE rollups SET cost_nano = cost_nano - 1 WHERE account_id = 1",
            ],
            [("charge", "usage 3", dollars(9), dollars(8), False)],
        ),
        (["UPDATE usage SET overrun = 0 WHERE id = 4"], [("overrun", "usage 4", "False", "True", False)]),
        (["UPDATE usage SET overrun = 1 WHERE id = 1"], [("overrun", "usage 1", "True", "False", False)]),
        (["UPDATE usage SET hold_nano = 300 WHERE id = 4"], [("overrun", "usage 4", "True", "False", False)]),
        # a hold that is also settled
        (
            [
                "CREATE TEMP TABLE again AS SELECT * FROM holds",
                "UPDATE again SET id = 4, request_id = 'again', amount_nano = 0",
                "INSERT INTO holds SELECT * FROM again",
            ],
            [("holds", "hold 4", "in flight and settled", "one of them", False)],
        ),
        # the ledger
        (
            [EDITED, "UPDATE entries SET note = 'a gift' WHERE id = 2"],
            [("entries", "entry 2", "HASH 2", "OTHER", False)],
        ),
        (
            [EDITED, "UPDATE entries SET amount_nano = 2000 WHERE id = 1"],
            [
                ("entries", "entry 1", "HASH 1", "OTHER", False),
                ("balance", "user alice", dollars(915), dollars(1915), True),
            ],
        ),
        (
            [EDITED, "UPDATE entries SET account_id = 1 WHERE id = 3"],
            [
                ("entries", "entry 3", "HASH 3", "OTHER", False),
                ("balance", "team ops", dollars(191), dollars(141), True),
                ("balance", "user alice", dollars(915), dollars(965), True),
            ],
        ),
        (
            [DELETED, "DELETE FROM entries WHERE id = 2", "UPDATE accounts SET balance_nano = -309 WHERE id = 1"],
            [
                ("entries", "entry 2", "-", "an entry", False),
                ("negative", "team ops", dollars(-309), f"{dollars(-100)} or more", False),
            ],
        ),
        (
            [DELETED, "DELETE FROM entries WHERE id = 1"],
            [
                ("entries", "entry 1", "-", "an entry", False),
                ("balance", "user alice", dollars(915), dollars(-85), True),
                ("negative", "user alice", dollars(-85), "$0.00 or more", False),
            ],
        ),
        (
            [DELETED, "DELETE FROM entries WHERE id = 3", "UPDATE accounts SET balance_nano = 965 WHERE id = 2"],
            [("entries", "entry 3", "-", "an entry", False)],
        ),
        (
            [DELETED, "DELETE FROM entries", "UPDATE accounts SET balance_nano = balance_nano - 500 WHERE id = 1"],
            [
                ("entries", "entries 1 to 3", "-", "an entry each", False),
                ("balance", "user alice", dollars(915), dollars(-35), True),
                ("negative", "team ops", dollars(-309), f"{dollars(-100)} or more", False),
                ("negative", "user alice", dollars(-35), "$0.00 or more", False),
            ],
        ),
        (
            [
                "INSERT INTO entries (account_id, kind, amount_nano, actor, created_ms, hash) "
                "VALUES (2, 'add', 5, 'me', 1, x'00')",
                "UPDATE accounts SET balance_nano = balance_nano + 5 WHERE id = 2",
            ],
            [("entries", "entry 4", "00", "OTHER", False)],
        ),
        # price snapshots
        (
            ["DROP TRIGGER prices_are_not_deleted", "DELETE FROM prices WHERE id = 2"],
            [("prices", "price 2", "-", "a price", False)],
        ),
        (
            ["DROP TRIGGER prices_are_not_edited", "UPDATE prices SET body = 'free' WHERE id = 2"],
            [("prices", "price 2", "-", "a price", False)],
        ),
        (
            ["DROP TRIGGER prices_are_not_edited", "UPDATE prices SET body = '{\"input\":0}' WHERE id = 2"],
            [("charge", "usage 2", dollars(15), dollars(0), False)],
        ),
    ],
)
def test_tampering_is_found(kept: Book, statements: list[str], expected: list[tuple[str, str, str, str, bool]]) -> None:
    hashes = {f"HASH {row['id']}": row["hash"].hex()[:16] for row in kept.rows("SELECT id, hash FROM entries")}
    kept.tamper(*statements)
    findings = found(kept)
    for number, (check, subject, stored, other, derived) in enumerate(expected):
        if other == "OTHER":
            assert findings[number][3] != findings[number][2]
            expected[number] = (check, subject, hashes.get(stored, stored), findings[number][3], derived)
    assert findings == expected


AZURE = f"{DAY} 2 1 KEY pro gpt azure"
OPENAI = f"{DAY} 2 1 KEY pro gpt openai"


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        (
            "DELETE FROM rollups WHERE upstream = 'azure'",
            [(AZURE, "-", "requests 1, input 3, calls 1, cost_nano 3, charge_nano 15")],
        ),
        (
            "UPDATE rollups SET requests = 2, errors = 1 WHERE upstream = 'azure'",
            [(AZURE, "requests 2, errors 1", "requests 1, errors 0")],
        ),
        (
            "UPDATE rollups SET output = 4 WHERE plan = 'pro' AND upstream = 'openai'",
            [(OPENAI, "output 4", "output 5")],
        ),
        (
            "UPDATE rollups SET cost_nano = 0, charge_nano = 1 WHERE upstream = 'azure'",
            [(AZURE, "cost_nano 0, charge_nano 1", "cost_nano 3, charge_nano 15")],
        ),
        (
            "INSERT INTO rollups (day, account_id, user_id, team_id, key_id, plan, model, upstream, requests, errors, "
            "cost_nano, charge_nano) SELECT '2026-11-19', account_id, user_id, team_id, key_id, plan, model, upstream, "
            "0, 0, 0, 9 FROM rollups WHERE upstream = 'azure'",
            [(AZURE.replace(DAY, "2026-11-19"), "charge_nano 9", "-")],
        ),
        (
            "UPDATE rollups SET upstream = 'mistral' WHERE upstream = 'azure'",
            [
                (AZURE, "-", "requests 1, input 3, calls 1, cost_nano 3, charge_nano 15"),
                (
                    AZURE.replace("azure", "mistral"),
                    "requests 1, input 3, calls 1, cost_nano 3, charge_nano 15",
                    "-",
                ),
            ],
        ),
    ],
)
def test_a_rollup_that_differs_is_found(kept: Book, statement: str, expected: list[tuple[str, str, str]]) -> None:
    kept.tamper(statement)
    key = key_of(kept, "alice")
    assert found(kept) == [
        ("rollups", subject.replace("KEY", key), stored, right, True) for subject, stored, right in expected
    ]


def test_a_deleted_request_leaves_its_traces(kept: Book) -> None:
    kept.tamper("DELETE FROM usage_tags", "DELETE FROM usage WHERE id = 2")
    assert [(check, subject) for check, subject, *_ in found(kept)] == [
        ("rollups", AZURE.replace("KEY", key_of(kept, "alice"))),
        ("balance", "user alice"),
    ]


@pytest.mark.parametrize(("column", "stored", "expected"), [("used", 7, 2), ("held", 0, 1)])
def test_a_counter_that_differs_is_found(book: Book, column: str, stored: int, expected: int) -> None:
    key = book.user("alice", credits=1000)
    with book.write() as tx:
        limits.hang(tx, "alice", ["9 requests total"])
    for _ in range(2):
        book.use(key, Meters(input=1, calls=1))
    book.place(key)
    assert found(book) == []
    book.tamper(f"UPDATE counters SET {column} = {stored}")
    assert found(book) == [(f"limits {column}", "user 1 9 requests total", str(stored), str(expected), True)]


PRUNED = """
INSERT INTO pruned (day, account_id, user_id, team_id, key_id, plan, model, upstream, upstream_model, requests, errors,
  input, calls, cost_nano, charge_nano, wasted_nano)
SELECT day, account_id, user_id, coalesce(team_id, 0), key_id, coalesce(plan, ''), model, upstream, upstream_model,
  1, 0, input, calls, cost_nano, charge_nano, wasted_nano FROM usage WHERE id = 2
"""


@pytest.fixture
def pruned(kept: Book) -> Book:
    """The same, less usage 2."""
    kept.tamper(PRUNED, "DELETE FROM usage_tags", "DELETE FROM usage WHERE id = 2")
    with kept.write() as tx:
        ledger.append(tx, 2, "closing", -15, charged_ms=1)
        tx.execute("UPDATE accounts SET balance_nano = balance_nano + 15 WHERE id = 2")
    assert found(kept) == []
    return kept


@pytest.mark.parametrize(
    ("statements", "expected"),
    [
        (
            [EDITED, "UPDATE entries SET amount_nano = -14, hash = x'00' WHERE kind = 'closing'"],
            {("closings", False), ("balance", True), ("entries", False)},
        ),
        (
            ["DROP TRIGGER pruned_is_not_edited", "UPDATE pruned SET charge_nano = 14"],
            {("closings", False), ("rollups", True)},
        ),
        (["DROP TRIGGER pruned_is_not_edited", "UPDATE pruned SET input = input + 1"], {("rollups", True)}),
        (["UPDATE rollups SET requests = 2 WHERE upstream = 'azure'"], {("rollups", True)}),
        (["DELETE FROM rollups WHERE upstream = 'azure'"], {("rollups", True)}),
        (
            [EDITED, "UPDATE entries SET charged_ms = NULL"],
            {("causes", False), ("entries", False), ("closings", False)},
        ),
    ],
)
def test_what_was_pruned_is_a_fact(pruned: Book, statements: list[str], expected: set[tuple[str, bool]]) -> None:
    pruned.tamper(*statements)
    assert {(one.check, one.derived) for one in pruned.findings()} == expected


@pytest.mark.parametrize("statement", ["UPDATE pruned SET requests = 2", "DELETE FROM pruned"])
def test_what_was_pruned_is_not_edited_by_mistake(pruned: Book, statement: str) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="what was pruned is never"):
        pruned.db.conn.execute(statement)


def test_what_is_derived_and_what_is_a_fact(kept: Book) -> None:
    kept.tamper("UPDATE accounts SET balance_nano = 0, held_nano = 1", "UPDATE usage SET overrun = 1 - overrun")
    assert {finding.check: finding.derived for finding in kept.findings()} == {
        "balance": True,
        "held": True,
        "overrun": False,
    }


def test_everything_that_was_looked_at_is_counted(kept: Book) -> None:
    counts = Counts()
    assert list(verify(kept.db, counts)) == []
    assert counts == Counts(entries=3, usage=4, accounts=3, holds=1, rollups=3)


def test_an_empty_book_balances(book: Book) -> None:
    counts = Counts()
    assert list(verify(book.db, counts)) == []
    assert counts == Counts()


def test_what_is_written_meanwhile_is_no_finding(kept: Book) -> None:
    """Between one finding and the next others write: to the roll-ups that are looked at as well."""
    kept.tamper("UPDATE usage SET overrun = 1 - overrun", "UPDATE rollups SET calls = 9 WHERE upstream = 'azure'")
    other = Book(kept.path)
    checks = []
    keys = [other.user(name, credits=100_000) for name in ("carl", "dora")]
    for finding in verify(kept.db):
        checks.append(finding.check)
        for key in keys:
            other.add("alice", 77)
            other.use(key, Meters(input=1, calls=1))
            other.place(key)
    other.close()
    assert checks == ["overrun"] * 4 + ["rollups"]


# ── memory doesn't grow with the history ──────────────────────────────────────────────────────────────────────────────


YEAR_2000_MS, DAY_MS = 946_684_800_000, 86_400_000


def multiply(book: Book, times: int) -> None:
    """So many more requests, each on a day of its own, and so many more entries."""
    columns = [row["name"] for row in book.rows("PRAGMA table_info(usage)")]
    values = {
        "id": "n + 1000",
        "request_id": "'copy ' || n",
        "day": "date('2000-01-01', '+' || n || ' days')",
        "time_ms": f"{YEAR_2000_MS} + n * {DAY_MS}",
    }
    book.db.conn.execute(
        f"WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {times}) "
        f"INSERT INTO usage SELECT {', '.join(values.get(name, name) for name in columns)} "
        "FROM numbers, (SELECT * FROM usage WHERE id = 1)"
    )
    with book.write() as tx:
        for _ in range(times // 10):
            ledger.append(tx, 2, "add", 1)


def peak(book: Book) -> tuple[int, int]:
    """The most memory that verifying takes, and how much it finds."""
    tracemalloc.start()
    count = sum(1 for _ in verify(book.db))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most, count


def test_memory_does_not_grow_with_the_rows(kept: Book) -> None:
    found = {}
    for times in (1000, 8000):
        kept.tamper("DELETE FROM usage WHERE id > 1000")
        multiply(kept, times)
        peak(kept)  # what Python keeps for the next tuple of the same length is there from now on
        found[times] = peak(kept)
    assert found[8000][1] - found[1000][1] == 7000, "each day's roll-up is missing"
    assert found[8000][0] < found[1000][0] + 50_000


def test_findings_come_as_they_are_found(kept: Book) -> None:
    kept.tamper("UPDATE usage SET overrun = 1 - overrun")
    first = next(iter(verify(kept.db)))
    assert first == Finding("overrun", "usage 1", "True", "False", derived=False)
    assert len(list(islice(verify(kept.db), 2))) == 2
