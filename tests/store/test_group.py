"""What groups keep from one to the next, and that nobody can tell: whatever an admin does, the next hold obeys it."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from llmgate.errors import Refusal
from llmgate.limits import parse
from llmgate.plans import Plan, Policy
from llmgate.pricebook import Kind
from llmgate.pricing import UNITS, Price
from llmgate.store import accounts, holds, keys, ledger, limits, prices
from llmgate.store.db import Tx, connect, set_zone
from llmgate.store.group import Group, Steady
from llmgate.store.holds import Hold
from llmgate.store.tally import ROLLUP_SUMS
from llmgate.types import Billing, Meters, Status

from ..books import POLICY, Book

FAR_MS = 2**42


@pytest.fixture
def group(book: Book) -> Iterator[Group]:
    group = Group(book.path, durable=False, actor="serve")
    yield group
    group.close()


def done(group: Group, *works: Callable[[Tx], Any]) -> list[Any]:
    results = group.begin(works)
    group.commit()
    return results


def place(book: Book, group: Group, key: str, **fields: Any) -> Hold | Exception:
    claim = book.claim(key, **fields)
    (result,) = done(group, Steady(lambda tx: holds.place(tx, claim, POLICY)))
    assert isinstance(result, Hold | Exception)
    return result


def settle(book: Book, group: Group, hold: Hold, meters: Meters) -> None:
    outcome = book.outcome(meters)
    (result,) = done(group, Steady(lambda tx: holds.settle(tx, hold.id, outcome, POLICY)))
    assert isinstance(result, holds.Settled)


Act = Callable[[Tx], object]

ACTS: dict[str, tuple[Act, str | None]] = {
    "revoked": (lambda tx: keys.set_state(tx, "alice/default", "revoke"), "key_revoked"),
    "disabled": (lambda tx: keys.set_state(tx, "alice/default", "disable"), "key_disabled"),
    "rotated": (lambda tx: keys.rotate(tx, "alice/default"), "invalid_key"),
    "other models": (lambda tx: keys.change(tx, "alice/default", {"models": ["claude*"]}), "model_not_allowed"),
    "user disabled": (lambda tx: accounts.set_user(tx, "alice", {"status": "disabled"}), "user_disabled"),
    "unknown plan": (lambda tx: accounts.set_user(tx, "alice", {"plan": "gone"}), "plan_not_found"),
    "credits taken": (lambda tx: ledger.take(tx, "alice", 10_000), "insufficient_credits"),
    "no requests": (lambda tx: limits.hang(tx, "alice", ["0 requests/day"]), "rate_limited"),
    "of its key": (lambda tx: limits.hang(tx, f"key:{_key_id(tx)}", ["1 requests total"]), "rate_limited"),
    "budget": (lambda tx: limits.hang(tx, "alice", ["$0 total"]), "budget_exceeded"),
    "a plan that is there": (lambda tx: accounts.set_user(tx, "alice", {"plan": "pro"}), None),
    "metered": (
        lambda tx: accounts.set_billing(
            tx, accounts.account_of(tx, "alice")[0], Billing.METERED, "hand"
        ),
        None,
    ),
    "another zone": (lambda tx: set_zone(tx, "Pacific/Kiritimati"), None),
}  # fmt: skip


def _key_id(tx: Tx) -> str:
    found = tx.value("SELECT id FROM keys")
    assert isinstance(found, str)
    return found


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("over", ["another connection", "its own"])
def test_the_next_hold_obeys_whatever_an_admin_did(book: Book, group: Group, act: str, over: str) -> None:
    key = book.user("alice", credits=10_200)
    first = [place(book, group, key) for _ in range(2)]
    assert all(isinstance(hold, Hold) for hold in first)
    for hold in first:
        assert isinstance(hold, Hold)
        settle(book, group, hold, Meters(input=10, output=5, calls=1))
    do, code = ACTS[act]
    if over == "its own":
        done(group, do)
    else:
        with book.write() as tx:
            do(tx)
    result = place(book, group, key)
    assert (result.code if isinstance(result, Refusal) else None) == code, result
    claim = book.claim(key)
    with book.db.write() as tx:  # as one decides who has kept nothing
        if code is not None:
            with pytest.raises(Refusal, match=str(result)[:20]):
                holds.place(tx, claim, POLICY)
        else:
            assert isinstance(result, Hold)
            fresh = holds.place(tx, claim, POLICY)
            assert (fresh.grant.bounded, fresh.grant.caller.plan) == (result.grant.bounded, result.grant.caller.plan)
            assert tx.value("SELECT count(DISTINCT day) FROM holds") == 1
    assert book.findings() == []


def test_keys_end_at_their_time(book: Book, group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    ends, graced = book.user("alice", credits=1000, expires_ms=FAR_MS), book.user("bob", credits=1000)
    with book.write(now_ms=FAR_MS - 1000) as tx:
        fresh = keys.rotate(tx, "bob/default", grace_ms=1000).key
    for now_ms, codes in ((FAR_MS - 1, [None, None, None]), (FAR_MS, ["key_expired", "key_expired", None])):
        monkeypatch.setattr("llmgate.store.group.now_ms", lambda now_ms=now_ms: now_ms)
        for _ in range(2):
            results = [place(book, group, key, bound=1, output=1) for key in (ends, graced, fresh)]
            assert [result.code if isinstance(result, Refusal) else None for result in results] == codes


def test_a_price_is_in_force_from_its_moment_on(book: Book, group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    key = (Kind.CHARGE, "", "gpt")
    versions = []
    for now_ms in (FAR_MS - 2, FAR_MS - 1, FAR_MS, FAR_MS + 1, FAR_MS - 1):  # a clock can be set back
        monkeypatch.setattr("llmgate.store.group.now_ms", lambda now_ms=now_ms: now_ms)
        if now_ms == FAR_MS - 2:
            with book.write(now_ms) as tx:
                prices.put(tx, {key: Price(input=3 * UNITS)}, FAR_MS)
        versions += done(group, Steady(prices.version))
        assert versions[-1] == prices.version(Tx(book.db.conn, now_ms, "test"))
    assert [version.begun_ms for version in versions] == [0, 0, FAR_MS, FAR_MS, 0]
    with book.write(FAR_MS + 2) as tx:
        prices.put(tx, {key: Price(input=4 * UNITS)})
    assert done(group, Steady(prices.version))[0].changes == versions[0].changes + 1


def test_money_and_counters_are_read_by_each_hold(book: Book, group: Group) -> None:
    key = book.user("alice", credits=500)
    with book.write() as tx:
        limits.hang(tx, "alice", ["3 requests total"])
    first, second = (place(book, group, key) for _ in range(2))
    assert isinstance(first, Hold)
    assert isinstance(second, Hold)
    refused = place(book, group, key)
    assert isinstance(refused, Refusal)
    assert refused.code == "credits_held"
    settle(book, group, first, Meters(input=1, output=1, calls=1))
    assert isinstance(place(book, group, key), Hold)
    settle(book, group, second, Meters(calls=1))
    refused = place(book, group, key)
    assert isinstance(refused, Refusal)
    assert refused.code == "rate_limited"
    assert book.findings() == []


def test_a_first_counter_is_seen_at_once(book: Book, group: Group) -> None:
    """That somebody has no counters is kept, and forgotten when a hold makes one."""
    key = book.user("alice", credits=10_000)
    assert isinstance(place(book, group, key), Hold)
    with book.write() as tx:
        limits.hang(tx, "alice", ["2 requests/day"])
    claims = [book.claim(key) for _ in range(3)]
    results = done(group, *(Steady(partial(holds.place, claim=claim, policy=POLICY)) for claim in claims))
    assert [isinstance(result, Hold) for result in results] == [True, False, False]
    assert book.findings() == []


def test_who_fails_after_writing_leaves_nothing_and_the_others_stay(book: Book, group: Group) -> None:
    key = book.user("alice", credits=10_000)
    claims = [book.claim(key) for _ in range(3)]

    def half(tx: Tx) -> None:
        tx.execute("UPDATE accounts SET balance_nano = 0")
        raise Refusal("no")

    first, failed, second, third = done(
        group,
        Steady(lambda tx: holds.place(tx, claims[0], POLICY)),
        Steady(half),
        Steady(lambda tx: holds.place(tx, claims[1], POLICY)),
        Steady(lambda tx: holds.place(tx, claims[2], POLICY)),
    )
    assert isinstance(failed, Refusal)
    assert [hold.grant.caller.held_nano for hold in (first, second, third)] == [0, 200, 400]
    assert book.money("alice") == (10_000, 600)
    assert book.findings() == []
    assert isinstance(place(book, group, key), Hold)


def test_a_refusal_costs_no_second_try(book: Book, group: Group) -> None:
    key, begun = book.user("alice", credits=10_000), 0
    poor = book.user("bob", credits=1)

    def counted(tx: Tx) -> Hold:
        nonlocal begun
        begun += 1
        return holds.place(tx, claims[0], POLICY)

    claims = [book.claim(key), book.claim(poor)]
    placed, refused = done(group, Steady(counted), Steady(lambda tx: holds.place(tx, claims[1], POLICY)))
    assert isinstance(placed, Hold)
    assert isinstance(refused, Refusal)
    assert begun == 1


PLANS = {"pro": Plan(name="pro", price_nano=0, limits=(parse("400 tokens/month"),), models=(), overage_nano=3)}
SEVERAL = Policy(plans=PLANS, limits=(parse("90 requests/day"),), alert_at=(50, 100), low_balance=(9_000, 4_000))

Step = tuple[str, int]


@pytest.mark.parametrize("seed", range(12))
def test_a_group_comes_to_what_its_works_come_to_one_after_the_other(
    book: Book, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Whatever is added up inside of a group: each of its works sees all that those before it did."""
    dice, people = random.Random(seed), _people(book)
    book.db.conn.execute("VACUUM INTO ?", (str(tmp_path / "other.db"),))
    other = Book(tmp_path / "other.db")
    monkeypatch.setattr("llmgate.store.group.now_ms", lambda: FAR_MS)
    groups = [Group(each.path, durable=False, actor="serve") for each in (book, other)]
    flying: list[tuple[Hold, Hold]] = []
    for _ in range(12):
        steps = [
            (dice.choice(("place", "place", "settle", "release", "expire")), dice.randrange(10**6)) for _ in range(9)
        ]
        taken = [flying.pop(at % len(flying)) for what, at in steps if what in ("settle", "release") and flying]
        works = [[*_works(each, people, steps, [pair[n] for pair in taken])] for n, each in enumerate((book, other))]
        together = done(groups[0], *works[0])
        apart = [result for work in works[1] for result in done(groups[1], work)]
        assert [_said(result) for result in together] == [_said(result) for result in apart]
        flying += [(a, b) for a, b in zip(together, apart, strict=True) if isinstance(a, Hold) and isinstance(b, Hold)]
        for table in ("accounts", "rollups", "counters", "events"):
            assert book.rows(f"SELECT * FROM {table} ORDER BY 1, 2, 3, 4, 5") == other.rows(
                f"SELECT * FROM {table} ORDER BY 1, 2, 3, 4, 5"
            )
    assert book.findings() == other.findings()
    assert {finding.check for finding in book.findings()} <= {"expiry"}  # it was another year
    for group in groups:
        group.close()
    other.close()


def _people(book: Book) -> list[str]:
    """Prepaid and metered, with limits and without, in a team, and on a plan that includes tokens."""
    book.team("ops", credits=9_500)
    found = [book.user("alice", credits=5_000), book.user("bob"), book.user("carol", team="ops")]
    found += [book.user("dora", credits=12_000), book.user("emil", team="ops")]
    with book.write(FAR_MS) as tx:
        limits.hang(tx, "bob", ["30 requests/hour", "$0.000009/day", "7 concurrent"])
        limits.hang(tx, "team:ops", ["2000 tokens/day on gpt*"])
        accounts.set_user(tx, "dora", {"plan": "pro"})
        accounts.set_user(tx, "emil", {"plan": "pro"})
        ledger.add(tx, "alice", 3_000, expires_ms=FAR_MS + 1)
        ledger.add(tx, "dora", 100, expires_ms=FAR_MS)
    return found


def _works(book: Book, keys: list[str], steps: list[Step], taken: list[Hold]) -> Iterator[Callable[[Tx], Any]]:
    """What a number stands for is the same in each book."""
    for what, at in steps:
        if what == "place":
            claim = book.claim(
                keys[at % len(keys)], bound=at % 90 + 1, output=at % 70 + 1, request_id=f"req_{at}_{len(taken)}"
            )
            yield Steady(partial(holds.place, claim=claim, policy=SEVERAL))
        elif what == "expire":
            yield lambda tx: ledger.expire_all_due(tx)
        elif taken:
            hold = taken.pop()
            meters = Meters(input=at % 95, output=at % 60, reasoning=at % 3, calls=1)
            outcome = book.outcome(meters, status=Status.ERROR if at % 7 == 0 else Status.OK)
            settle = partial(holds.settle, hold_id=hold.id, outcome=outcome, policy=SEVERAL, placed=hold.row)
            yield Steady(partial(holds.release, hold_id=hold.id) if what == "release" else settle)


def _said(result: Any) -> Any:
    """What somebody was told, less what differs between two books."""
    if isinstance(result, Hold):
        return result.id, result.grant.amounts, result.grant.output_tokens, result.grant.caller.balance_nano
    return (type(result), str(result)) if isinstance(result, Exception) else result


def test_a_sum_beyond_all_measure_is_one_works_own_fault(book: Book, group: Group) -> None:
    key = book.user("alice", credits=10_000)
    placed = [place(book, group, key) for _ in range(4)]
    works = []
    for hold, tokens in zip(placed, (2**62, 7, 2**62 - 100, 2**62), strict=True):
        assert isinstance(hold, Hold)
        outcome = book.outcome(Meters(input=tokens, calls=1))
        works.append(Steady(partial(holds.settle, hold_id=hold.id, outcome=outcome, placed=hold.row)))
    results = done(group, *works)
    assert [type(result).__name__ for result in results] == ["Settled", "Settled", "Settled", "OverflowError"]
    assert book.money("alice") == (10_093 - 2**63, 200)
    assert book.value("SELECT count(*) FROM holds") == 1


def test_who_is_refused_after_looking_around_costs_no_second_try(book: Book, group: Group) -> None:
    """What others have added up is written when somebody looks, which isn't a change of who looks."""
    key, begun = book.user("alice", credits=10_000), 0
    claim = book.claim(key)

    def counted(tx: Tx) -> Hold:
        nonlocal begun
        begun += 1
        return holds.place(tx, claim, POLICY)

    def refused(tx: Tx) -> None:
        assert ledger.available(tx, accounts.account_of(tx, "alice")[0]) == 9_800
        raise Refusal("no")

    placed, failed = done(group, Steady(counted), Steady(refused))
    assert isinstance(placed, Hold)
    assert isinstance(failed, Refusal)
    assert begun == 1
    assert book.money("alice") == (10_000, 200)


# ── what another worker writes, and what of it matters ────────────────────────────────────────────────────────────────

MONEY = {("accounts", name) for name in ("balance_nano", "held_nano", "expires_next_ms")} | {("keys", "last_used_ms")}
"""What is read each time, or noted once a minute by whoever uses it."""


def _kept(book: Book) -> int:
    return int(book.value("SELECT value FROM meta WHERE key = 'kept'"))


def _raises(book: Book, *statements: str) -> bool:
    """Whether these are counted as a change of what is kept. They are undone, and needn't be allowed."""
    conn, before = book.db.conn, _kept(book)
    conn.execute("PRAGMA foreign_keys = OFF")
    conn.execute("BEGIN")
    try:
        for statement in statements:
            conn.execute(statement)
        return _kept(book) > before
    finally:
        conn.execute("ROLLBACK")
        conn.execute("PRAGMA foreign_keys = ON")


def test_whatever_is_kept_is_counted_when_it_changes(book: Book) -> None:
    """All that a hold reads to keep it is found out by asking SQLite: also a column that somebody adds one day."""
    book.team("ops", credits=1000)
    key = book.user("alice", team="ops", models=["gpt*"])
    snapshot = book.snapshot(Price(input=UNITS))
    with book.write() as tx:
        limits.hang(tx, "alice", ["3 requests/day"])
        keys.add(tx, "alice")
        tx.execute("INSERT INTO under SELECT min(id), max(id) FROM keys")
        prices.put(tx, {(Kind.CHARGE, "", "gpt"): snapshot.price})
    read: set[tuple[str, str]] = set()

    def note(action: int, table: str | None, column: str | None, *_: object) -> int:
        if action == sqlite3.SQLITE_READ and table and column:
            read.add((table, column))
        return sqlite3.SQLITE_OK

    fresh = connect(book.path)
    fresh.set_authorizer(note)
    tx = Tx(fresh, FAR_MS, "test", {})
    holds.decide(tx, book.claim(key), POLICY)
    prices.version(tx)
    assert tx.day
    fresh.set_authorizer(None)
    fresh.close()
    facts = {"holds", "rollups"}  # where a counter is new
    assert {table for table, _ in read} - facts == {
        *("keys", "users", "teams", "accounts", "limits", "under", "counters", "meta", "set_prices")
    }
    others = facts | {
        "counters",
        "set_prices",
        "meta",
    }  # the first is kept where there is none, the second never edited
    assert [
        (table, column)
        for table, column in sorted(read - MONEY)
        if table not in others and not _raises(book, f"UPDATE {table} SET {column} = {column}")
    ] == [("under", "given_id"), ("under", "key_id")]  # which are only ever written or deleted
    for name in ("zone", "prices"):
        assert _raises(book, f"UPDATE meta SET value = value WHERE key = '{name}'")
    for table in ("keys", "users", "teams", "limits", "under"):
        assert _raises(book, f"DELETE FROM {table}")
    assert _raises(book, "INSERT INTO under SELECT max(id), min(id) FROM keys")
    assert _raises(book, "INSERT INTO limits VALUES ('key', 'k', 'requests', 'day', '*', 1, 0, NULL)")
    assert _raises(book, "INSERT INTO counters VALUES (9, 'key', 'k', 'requests', 'day', '*', 1, 0, 1, 0, 0)")
    assert _raises(book, "INSERT INTO set_prices VALUES (9, 'cost', 'up', 'x', NULL, 7, 'me')")


def test_what_another_worker_settles_is_no_change(book: Book, group: Group) -> None:
    key = book.user("alice", credits=100_000)
    with book.write() as tx:
        limits.hang(tx, "alice", ["1000 requests/day", "$5 total"])
    other = Group(book.path, durable=False, actor="serve")
    for each in (group, other, group, other):  # the first of all makes counters, which is a change
        hold = place(book, each, key)
        assert isinstance(hold, Hold)
        settle(book, each, hold, Meters(input=1, output=1, calls=1))
    counted = _kept(book)
    for each in (group, other) * 3:
        assert each.known(keys.hash_key(key)) is not None
        hold = place(book, each, key)
        assert isinstance(hold, Hold)
        assert each.known(keys.hash_key(key)) is not None
        settle(book, each, hold, Meters(input=1, output=1, calls=1))
    assert _kept(book) == counted
    done(other, lambda tx: keys.set_state(tx, "alice/default", "disable"))
    assert group.known(keys.hash_key(key)) is None
    assert isinstance(place(book, group, key), Refusal)
    other.close()
    assert book.findings() == []


WORKER = """
import sys
from pathlib import Path
from llmgate.types import Meters
from tests.books import Book

book = Book(Path(sys.argv[1]))
book.use(sys.argv[2], Meters(input=3, calls=1))
book.close()
"""


def test_another_process_is_seen_where_it_matters(book: Book, group: Group) -> None:
    key = book.user("alice", credits=10_000)
    for _ in range(2):  # the first time it is noted that the key is used
        assert isinstance(place(book, group, key), Hold)
    run = partial(subprocess.run, check=True, capture_output=True, cwd=Path(__file__).parents[2])
    run([sys.executable, "-c", WORKER, str(book.path), key])
    assert book.value("SELECT count(*) FROM usage") == 1
    assert group.known(keys.hash_key(key)) is not None
    hold = place(book, group, key)
    assert isinstance(hold, Hold)
    assert hold.grant.caller.balance_nano == 10_000 - 3
    run([sys.executable, "-m", "llmgate", "--db", str(book.path), "keys", "revoke", "alice/default", "--yes"])
    assert group.known(keys.hash_key(key)) is None
    refused = place(book, group, key)
    assert isinstance(refused, Refusal)
    assert refused.code == "key_revoked"


@pytest.mark.parametrize("rolled_up", [False, True])
def test_a_sum_beyond_all_measure_is_the_failure_of_who_brought_it(
    book: Book, group: Group, *, rolled_up: bool
) -> None:
    """Not of whoever's statement came next and had it written; and what others had added isn't lost with it."""
    alice, bob = (book.claim(book.user(name, credits=10_000)) for name in ("alice", "bob"))
    account = book.account("alice")["id"]

    def beyond(tx: Tx) -> None:
        if rolled_up:
            tx.tally.roll_up(("2026-01-01", account, 1, 0, "k", "", "gpt", "up"), [2**63] * len(ROLLUP_SUMS))
        else:
            tx.tally.move(account, -(2**63) - 10_001, 0)
        tx.tallied()

    def looks(tx: Tx) -> Any:
        return tx.value("SELECT held_nano FROM accounts WHERE id = ?", account)

    placing = [Steady(partial(holds.place, claim=claim, policy=POLICY)) for claim in (alice, bob)]
    first, failed, seen, second = done(group, placing[0], Steady(beyond), Steady(looks), placing[1])
    assert isinstance(failed, OverflowError)
    assert seen == 200
    assert isinstance(first, Hold)
    assert isinstance(second, Hold)
    assert [book.money(name) for name in ("alice", "bob")] == [(10_000, 200)] * 2
    assert book.findings() == []


def test_nobody_writes_what_another_added_who_failed(book: Book, group: Group) -> None:
    claim = book.claim(book.user("alice", credits=10_000))
    account = book.account("alice")["id"]

    def fails(tx: Tx) -> None:
        tx.tally.move(account, -5, 7)
        raise ValueError

    failed, hold = done(group, Steady(fails), Steady(lambda tx: holds.place(tx, claim, POLICY)))
    assert isinstance(failed, ValueError)
    assert isinstance(hold, Hold)
    assert book.money("alice") == (10_000, 200)
    assert book.findings() == []
