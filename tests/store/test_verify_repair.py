"""What is derived is put right from facts: exactly, whatever was done to it, and the facts stay as they are."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgate.money import dollars
from llmgate.store import ledger, limits, prune
from llmgate.store.verify import Repaired, repair
from llmgate.types import Meters, Status

from ..books import DAY, Book

FACTS = (
    *("entries", "usage", "usage_tags", "attempts", "pruned", "holds", "prices", "keys", "users", "teams", "limits"),
    "workers",
)


def facts(book: Book) -> dict[str, Any]:
    """Everything that is no derived figure."""
    found: dict[str, Any] = {table: book.rows(f"SELECT * FROM {table} ORDER BY 1, 2") for table in FACTS}
    found["accounts"] = book.rows("SELECT id, kind, billing, billing_source FROM accounts")
    return found


def figures(book: Book) -> dict[str, Any]:
    """What is derived, and doesn't go when it is put right."""
    return {
        "rollups": book.rows("SELECT * FROM rollups ORDER BY day, account_id, user_id, key_id, model, upstream"),
        "accounts": book.rows("SELECT * FROM accounts ORDER BY id"),
    }


def mend(book: Book) -> list[Repaired]:
    return list(repair(book.db, book.findings()))


@pytest.fixture
def kept(book: Book) -> Book:
    """alice, with limits, two rows and a hold; bob of the team ops, with a row and a pruned one of another day."""
    book.team("ops", credits=500)
    alice = book.user("alice", credits=1000)
    bob = book.user("bob", team="ops")
    with book.write() as tx:
        limits.hang(tx, "alice", ["9 requests total", "900 tokens/day on g*"])
    book.use(alice, Meters(input=10, output=5, calls=1))
    book.use(alice, Meters(input=3, calls=1), upstream="azure")
    book.use(bob, Meters(input=8, calls=1), status=Status.ERROR)
    book.use(bob, Meters(input=70, calls=1), day="2025-01-01")
    book.place(alice)
    for _ in prune.prune(book.db, "2025-02-01"):
        pass
    assert book.value("SELECT count(*) FROM pruned") == 1
    assert book.findings() == []
    return book


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        (
            "UPDATE accounts SET balance_nano = 5 WHERE kind = 'team'",
            [("balance", "team ops", dollars(5), dollars(422))],
        ),
        ("UPDATE accounts SET held_nano = 0", [("held", "user alice", dollars(0), dollars(200))]),
        (
            "UPDATE rollups SET input = input + 1, errors = 0 WHERE errors = 1",
            [("rollups", f"{DAY} 1 2 1 KEY gpt openai", "errors 0, input 9", "errors 1, input 8")],
        ),
        (
            "DELETE FROM rollups WHERE errors = 1",
            [
                (
                    *("rollups", f"{DAY} 1 2 1 KEY gpt openai", "-"),
                    "requests 1, errors 1, input 8, calls 1, cost_nano 8, charge_nano 8",
                )
            ],
        ),
        (
            "UPDATE counters SET used = 0, held = 9 WHERE unit = 'tokens'",
            [
                ("limits used", "user 1 900 tokens/day on g*", "0", "begins anew"),
            ],
        ),
    ],
)
def test_each_derived_figure_is_put_right(
    kept: Book, statement: str, expected: list[tuple[str, str, str, str]]
) -> None:
    whole, before = facts(kept), figures(kept)
    kept.tamper(statement)
    key = kept.value("SELECT k.id FROM keys k JOIN users u ON u.id = k.user_id WHERE u.name = 'bob'")
    assert mend(kept) == [
        Repaired(check, subject.replace("KEY", key), was, now) for check, subject, was, now in expected
    ]
    assert kept.findings() == []
    assert (facts(kept), figures(kept)) == (whole, before)
    acts = kept.rows("SELECT * FROM audit WHERE action = 'verify.repair' ORDER BY id")
    assert [(act["actor"], act["target"], json.loads(act["before"]), json.loads(act["after"])) for act in acts] == [
        ("test", subject.replace("KEY", key), {check: was}, {check: now}) for check, subject, was, now in expected
    ]


def test_a_fact_is_never_touched(kept: Book) -> None:
    kept.tamper("UPDATE usage SET overrun = 1")
    whole, before = facts(kept), figures(kept)
    assert mend(kept) == []
    assert (facts(kept), figures(kept)) == (whole, before)
    assert {(finding.check, finding.derived) for finding in kept.findings()} == {("overrun", False)}


def test_a_balance_is_not_made_to_follow_a_forged_entry(kept: Book) -> None:
    """It may be the last that tells the truth."""
    balance = kept.value("SELECT balance_nano FROM accounts WHERE id = 2")
    kept.tamper("DROP TRIGGER entries_are_not_edited", "UPDATE entries SET amount_nano = amount_nano + 5 WHERE id = 1")
    assert ("balance", True) in {(finding.check, finding.derived) for finding in kept.findings()}
    assert mend(kept) == []
    assert kept.value("SELECT balance_nano FROM accounts WHERE id = 2") == balance


def test_a_rollup_of_pruned_rows_is_put_right(kept: Book) -> None:
    before = figures(kept)
    kept.tamper("DELETE FROM rollups WHERE day = '2025-01-01'")
    assert [one.check for one in mend(kept)] == ["rollups"]
    assert figures(kept) == before


def test_what_was_written_since_counts(kept: Book) -> None:
    """A finding is old when it is put right: the figure is worked out anew."""
    kept.tamper("UPDATE accounts SET balance_nano = 0", "UPDATE rollups SET calls = 0")
    findings = kept.findings()
    with kept.write() as tx:
        ledger.add(tx, "alice", 30)
    kept.settle(5)
    list(repair(kept.db, findings))
    assert kept.findings() == []
    assert kept.money("alice") == (1000 + 30 - 20 - 3 - 20, 0)


def test_what_is_right_by_now_is_left_alone(kept: Book) -> None:
    kept.tamper("UPDATE accounts SET held_nano = 1 WHERE kind = 'team'")
    findings = kept.findings()
    kept.tamper("UPDATE accounts SET held_nano = 0 WHERE kind = 'team'")
    assert list(repair(kept.db, findings)) == []


@pytest.mark.parametrize("day", ["2019-01-01", "no day"])
def test_a_row_on_a_strange_day_is_added_up_where_it_says(kept: Book, day: str) -> None:
    kept.tamper(f"UPDATE usage SET day = '{day}' WHERE id = 2")
    assert {finding.check for finding in kept.findings()} == {"day", "rollups", "limits used"}
    mend(kept)
    assert {finding.check for finding in kept.findings()} == {"day"}, "it is a fact, so it is told and left alone"
    assert kept.value("SELECT sum(input) FROM rollups WHERE day = ?", day) == 3


# ── any book, spoiled in any way ──────────────────────────────────────────────────────────────────────────────────────

requests = st.lists(
    st.tuples(
        st.integers(0, 2),  # whose
        st.integers(0, 9),  # input tokens
        st.sampled_from(["gpt", "claude"]),
        st.sampled_from(["2026-11-19", DAY]),
        st.sampled_from(["settled", "corrected", "released", "in flight"]),
    ),
    max_size=12,
)

spoiling = st.lists(
    st.one_of(
        st.builds(
            "UPDATE accounts SET {} = {} WHERE id % 2 = {}".format,
            st.sampled_from(["balance_nano", "held_nano"]),
            st.integers(-5, 5),
            st.integers(0, 1),
        ),
        st.builds(
            "UPDATE rollups SET {0} = {0} + {1} WHERE user_id = {2}".format,
            st.sampled_from(["requests", "input", "calls", "charge_nano", "wasted_nano"]),
            st.integers(-2, 2),
            st.integers(1, 3),
        ),
        st.builds(
            "UPDATE OR IGNORE rollups SET {} WHERE model = '{}'".format,
            st.sampled_from(["day = '2026-01-01'", "upstream = 'x'", "team_id = 9", "account_id = 1", "plan = 'p'"]),
            st.sampled_from(["gpt", "claude"]),
        ),
        st.builds("DELETE FROM rollups WHERE user_id = {}".format, st.integers(1, 3)),
        st.builds(
            "UPDATE counters SET {} WHERE id % 2 = {}".format,
            st.sampled_from(["used = used + 1", "held = 3", "start_ms = 0", "amount = 1"]),
            st.integers(0, 1),
        ),
        st.just("DELETE FROM rollups"),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=40)
@given(requests=requests, spoiling=spoiling)
def test_putting_right_restores_exactly(requests: list[tuple[int, int, str, str, str]], spoiling: list[str]) -> None:
    with TemporaryDirectory() as folder:
        book = Book(Path(folder) / "llmgate.db")
        try:
            book.team("ops", credits=10_000)
            keys = [book.user("a", credits=10_000), book.user("b", team="ops"), book.user("c")]
            with book.write() as tx:
                limits.hang(tx, "a", ["$1 total", "900 tokens/day on g*", "90 requests/month"])
            for who, tokens, model, day, end in requests:
                hold = book.place(keys[who], bound=20, output=5, model=model, day=day)
                if end == "released":
                    book.release(hold)
                elif end != "in flight":
                    book.settle(hold, Meters(input=tokens, calls=1), model=model)
                if end == "corrected":
                    book.settle(hold, Meters(input=tokens + 1, output=1, calls=1), model=model)
            assert book.findings() == []
            whole, before = facts(book), figures(book)
            book.tamper(*spoiling)
            mend(book)
            assert book.findings() == []
            assert (facts(book), figures(book)) == (whole, before)
        finally:
            book.close()
