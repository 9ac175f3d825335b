"""The ledger: a random walk against a dictionary, and each rule of it by name."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from llmgate.errors import Refusal, UsageError
from llmgate.money import MAX_NANO
from llmgate.store import accounts, audit, ledger
from llmgate.types import Billing, Meters

from ..books import Book


def refusal(book: Book, act: Any, *args: Any, **fields: Any) -> Refusal:
    """What an act is refused with; nothing may have changed."""
    before = book.rows("SELECT * FROM entries"), book.rows("SELECT * FROM accounts"), book.rows("SELECT * FROM audit")
    with pytest.raises((Refusal, UsageError)) as caught, book.write() as tx:
        act(tx, *args, **fields)
    after = book.rows("SELECT * FROM entries"), book.rows("SELECT * FROM accounts"), book.rows("SELECT * FROM audit")
    assert before == after
    error: Any = caught.value
    return error  # type: ignore[no-any-return]


def act(book: Book, what: Any, *args: Any, **fields: Any) -> Any:
    with book.write() as tx:
        return what(tx, *args, **fields)


# ── a random walk ─────────────────────────────────────────────────────────────────────────────────────────────────────

TARGETS = ("alice", "bob", "team:ops")
AMOUNTS = st.one_of(st.integers(1, 5), st.integers(1, 10**6), st.integers(1, 10**18))
REFS = st.sampled_from(("a", "b", "c"))


class Entry(NamedTuple):
    target: str
    kind: str
    amount: int
    reverses: int | None = None


class Walk(RuleBasedStateMachine):
    """The real ledger beside a plain model of it."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.book = Book(Path(self.folder.name) / "x.db")
        self.book.team("ops")
        self.keys = {"alice": self.book.user("alice"), "bob": self.book.user("bob", billing=Billing.METERED)}
        self.entries: list[Entry] = []
        self.refs: dict[str, int] = {}
        self.charged = dict.fromkeys(TARGETS, 0)

    def teardown(self) -> None:
        self.book.close()
        self.folder.cleanup()

    def balance(self, target: str) -> int:
        return sum(entry.amount for entry in self.entries if entry.target == target) - self.charged[target]

    def record(self, moved: ledger.Moved, entry: Entry) -> None:
        self.entries.append(entry)
        assert moved.entry_id == len(self.entries)
        assert moved.balance_nano == self.balance(entry.target)
        assert not moved.repeated

    @rule(who=st.sampled_from(TARGETS), amount=AMOUNTS)
    def add(self, who: str, amount: int) -> None:
        if self.balance(who) + amount > MAX_NANO:
            assert "more than a balance can hold" in refusal(self.book, ledger.add, who, amount).message
            return
        self.record(act(self.book, ledger.add, who, amount), Entry(who, "add", amount))

    @rule(who=st.sampled_from(TARGETS), amount=AMOUNTS, ref=REFS)
    def add_with_a_ref(self, who: str, amount: int, ref: str) -> None:
        known = self.refs.get(ref)
        if known is None:
            if self.balance(who) + amount <= MAX_NANO:
                self.record(act(self.book, ledger.add, who, amount, ref=ref), Entry(who, "add", amount))
                self.refs[ref] = len(self.entries)
        elif (self.entries[known - 1].target, self.entries[known - 1].amount) != (who, amount):
            assert refusal(self.book, ledger.add, who, amount, ref=ref).code == "conflict"

    @precondition(lambda self: self.refs)
    @rule(data=st.data())
    def repeat_a_ref(self, data: st.DataObject) -> None:
        ref = data.draw(st.sampled_from(sorted(self.refs)))
        first = self.entries[self.refs[ref] - 1]
        moved = act(self.book, ledger.add, first.target, first.amount, ref=ref)
        assert (moved.entry_id, moved.repeated, moved.became_prepaid) == (self.refs[ref], True, False)
        assert moved.balance_nano == self.balance(first.target)

    @rule(who=st.sampled_from(TARGETS), amount=AMOUNTS, force=st.booleans())
    def take(self, who: str, amount: int, force: bool) -> None:
        if self.balance(who) - amount < -MAX_NANO:
            return
        if amount > self.balance(who) and not force:
            error = refusal(self.book, ledger.take, who, amount)
            assert error.code == "insufficient_credits"
            return
        self.record(act(self.book, ledger.take, who, amount, force=force), Entry(who, "take", -amount))

    @precondition(lambda self: self.entries)
    @rule(data=st.data())
    def reverse(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(1, len(self.entries)))
        entry = self.entries[number - 1]
        if entry.kind == "reverse" or any(other.reverses == number for other in self.entries):
            assert refusal(self.book, ledger.reverse, number).code == "conflict"
        elif abs(self.balance(entry.target) - entry.amount) <= MAX_NANO:
            if entry.amount > max(0, self.balance(entry.target)):
                assert refusal(self.book, ledger.reverse, number).code == "insufficient_credits"
            moved = act(self.book, ledger.reverse, number, force=True)
            self.record(moved, Entry(entry.target, "reverse", -entry.amount, number))

    @rule(user=st.sampled_from(("alice", "bob")), tokens=st.integers(1, 1000))
    def use(self, user: str, tokens: int) -> None:
        prepaid = self.book.account(user)["billing"] == "prepaid"
        if not prepaid or self.balance(user) >= tokens + 3:
            self.book.use(self.keys[user], Meters(input=tokens, calls=1))
            self.charged[user] += tokens

    @rule()
    def reopen(self) -> None:
        self.book.reopen()

    @invariant()
    def the_book_is_the_model(self) -> None:
        for target in TARGETS:
            assert self.book.money(target) == (self.balance(target), 0)
        rows = self.book.rows("SELECT id, kind, amount_nano, reverses FROM entries ORDER BY id")
        assert [tuple(row.values()) for row in rows] == [
            (number, entry.kind, entry.amount, entry.reverses) for number, entry in enumerate(self.entries, 1)
        ]
        billing = {target: self.book.account(target)["billing"] for target in TARGETS}
        for target in TARGETS:
            credited = any(entry.target == target and entry.kind == "add" for entry in self.entries)
            assert billing[target] == ("prepaid" if credited and target != "bob" else "metered")
        assert self.book.findings() == []


def test_a_random_walk() -> None:
    run_state_machine_as_test(Walk, settings=settings(max_examples=30, stateful_step_count=30))


# ── refs ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_same_ref_with_the_same_account_and_amount_adds_once(book: Book) -> None:
    book.user("alice")
    first = book.add("alice", 100, ref="invoice-1", note="first")
    again = book.add("alice", 100, ref="invoice-1", note="another note")
    assert (first.repeated, again.repeated) == (False, True)
    assert (again.entry_id, again.balance_nano) == (first.entry_id, 100)
    assert book.rows("SELECT note FROM entries") == [{"note": "first"}]
    assert [row["action"] for row in audit.acts(book.tx)].count("credits.add") == 1


@pytest.mark.parametrize(("target", "amount"), [("bob", 100), ("alice", 101), ("team:ops", 100)])
def test_a_ref_belongs_to_one_account_and_amount(book: Book, target: str, amount: int) -> None:
    book.team("ops")
    for user in ("alice", "bob"):
        book.user(user)
    book.add("alice", 100, ref="invoice-1")
    error = refusal(book, ledger.add, target, amount, ref="invoice-1")
    assert error.code == "conflict"
    assert "ref 'invoice-1' belongs to entry 1 with another account or amount" in error.message


def test_a_ref_that_was_repeated_after_its_credits_were_spent_changes_nothing(book: Book) -> None:
    key = book.user("alice")
    book.add("alice", 100, ref="r")
    book.use(key, Meters(input=90, calls=1), bound=95, output=1)
    assert book.add("alice", 100, ref="r").balance_nano == 10


def test_credits_without_a_ref_are_added_every_time(book: Book) -> None:
    book.user("alice")
    assert [book.add("alice", 100).balance_nano for _ in range(3)] == [100, 200, 300]


# ── billing ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("billing", "default", "became", "after"),
    [
        (None, Billing.METERED, True, ("prepaid", "credits")),
        (None, Billing.PREPAID, False, ("prepaid", "credits")),
        (Billing.METERED, Billing.METERED, False, ("metered", "hand")),
        (Billing.PREPAID, Billing.METERED, False, ("prepaid", "hand")),
    ],
)
@pytest.mark.parametrize("target", ["x", "team:x"])
def test_credits_make_an_account_prepaid_once_unless_somebody_said_otherwise(
    book: Book, target: str, billing: Billing | None, default: Billing, became: bool, after: tuple[str, str]
) -> None:
    make = accounts.add_team if target.startswith("team:") else accounts.add_user
    act(book, make, "x", billing=billing, default_billing=default)
    assert [book.add(target, 5).became_prepaid for _ in range(3)] == [became, False, False]
    row = book.account(target)
    assert (row["billing"], row["billing_source"]) == after


def test_taking_and_reversing_say_nothing_of_billing(book: Book) -> None:
    book.user("alice")
    assert not act(book, ledger.take, "alice", 5, force=True).became_prepaid
    assert book.account("alice")["billing"] == "metered"
    book.add("alice", 5)
    act(book, ledger.reverse, 2, force=True)
    assert book.account("alice")["billing"] == "prepaid", "no way back but by hand"


# ── taking ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_no_more_is_taken_than_is_available(book: Book) -> None:
    """What requests in flight hold isn't available."""
    key = book.user("alice", credits=1000)
    book.place(key, bound=300, output=50)
    assert book.money("alice") == (1000, 400)
    error = refusal(book, ledger.take, "alice", 601)
    assert error.code == "insufficient_credits"
    assert "alice has $0.0000006 available, less than $0.000000601: take less, or add --force" in error.message
    assert act(book, ledger.take, "alice", 600).balance_nano == 400
    assert act(book, ledger.take, "alice", 1, force=True).balance_nano == 399
    assert ledger.available(book.tx, book.account("alice")["id"]) == -1


@pytest.mark.parametrize("amount", [0, -1])
@pytest.mark.parametrize("move", [ledger.add, ledger.take])
def test_amounts_are_above_nothing(book: Book, move: Any, amount: int) -> None:
    book.user("alice")
    assert refusal(book, move, "alice", amount).code == "usage_error"


def test_what_no_balance_can_hold_is_refused(book: Book) -> None:
    book.user("alice", credits=MAX_NANO - 5)
    assert "more than a balance can hold" in refusal(book, ledger.add, "alice", 6).message
    assert book.add("alice", 5).balance_nano == MAX_NANO
    assert book.findings() == []


# ── reversing ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_entry_is_reversed_once_and_a_reversal_never(book: Book) -> None:
    book.user("alice", credits=100)
    assert act(book, ledger.take, "alice", 30).balance_nano == 70
    assert act(book, ledger.reverse, 2, note="typo").balance_nano == 100
    assert "entry 2 was reversed already, by entry 3" in refusal(book, ledger.reverse, 2).message
    assert "entry 3 is itself a reversal" in refusal(book, ledger.reverse, 3).message
    assert "there is no entry 9" in refusal(book, ledger.reverse, 9).message
    assert act(book, ledger.reverse, 1).balance_nano == 0
    row = ledger.entry_row(book.tx, 3)
    assert (row["account"], row["kind"], row["amount_nano"], row["reverses"], row["note"]) == (
        *("alice", "reverse", 30, 2, "typo"),
    )


def test_credits_that_were_spent_are_reversed_only_by_force(book: Book) -> None:
    """What was wrong is undone, and the balance says what it has come to."""
    key = book.user("alice", credits=100)
    book.use(key, Meters(input=80, calls=1), bound=80, output=1)
    error = refusal(book, ledger.reverse, 1)
    assert error.code == "insufficient_credits"
    assert "alice has $0.00000002 available, less than $0.0000001: --force reverses it" in error.message
    assert act(book, ledger.reverse, 1, force=True).balance_nano == -80
    assert book.findings() == []


# ── reading ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_history_has_every_entry_with_the_charges_since_the_one_before(book: Book) -> None:
    key, other = book.user("alice"), book.user("bob")
    for now_ms, amount in ((100, 1000), (200, 2000), (300, 4000)):
        with book.write(now_ms=now_ms) as tx:
            ledger.add(tx, "alice", amount)
            ledger.add(tx, "bob", 500)
    for now_ms, tokens in ((50, 1), (150, 10), (199, 20), (200, 30), (250, 40), (300, 50), (999, 60)):
        book.use(key, Meters(input=tokens, calls=1), now_ms=now_ms)
        book.use(other, Meters(input=1, calls=1), now_ms=now_ms)
    rows = ledger.history(book.tx, book.account("alice")["id"])
    assert [(row["amount_nano"], row["charged_nano"], row["moved_nano"], row["balance_nano"]) for row in rows] == [
        (1000, 1, 1000, 999),
        (2000, 30, 3000, 2969),
        (4000, 70, 7000, 6899),
    ]
    since = 50 + 60
    assert book.money("alice")[0] == rows[-1]["balance_nano"] - since
    with book.write() as tx:
        accounts.add_user(tx, "carl")
        assert ledger.history(tx, accounts.account_of(tx, "carl")[0]) == []


def test_the_list_of_accounts(book: Book) -> None:
    book.team("ops", credits=500)
    key = book.user("bob", team="ops")
    book.user("alice", credits=100)
    book.place(key, bound=100, output=50)
    rows = ledger.list_accounts(book.tx)
    assert [(row["name"], row["user"], row["team"], row["balance_nano"], row["held_nano"]) for row in rows] == [
        ("alice", "alice", None, 100, 0),
        ("bob", "bob", "ops", 0, 0),
        ("ops", None, "ops", 500, 200),
    ]


# ── the chain ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_entrys_hash_covers_all_of_it_and_the_hash_before(book: Book) -> None:
    """Written out again, from the description: a hash that was written once must be right for ever."""
    book.user("alice")
    book.team("ops")
    with book.write(now_ms=1234) as tx:
        ledger.add(tx, "alice", 100, ref="r", note='"ä"', expires_ms=9999)
        ledger.take(tx, "alice", 7)
        ledger.transfer(tx, "alice", "team:ops", 5)
    before = b""
    for row in book.rows("SELECT * FROM entries ORDER BY id"):
        fields = ("id", "account_id", "kind", "amount_nano", "ref", "note", "actor", "reverses", "usage_id")
        content = [row[name] for name in (*fields, "expires_ms", "created_ms")]
        content += [row["cause"]] if row["cause"] is not None else []  # where there is none: as before there was one
        text = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
        assert row["hash"] == hashlib.sha256(before + text.encode()).digest()
        before = row["hash"]


@pytest.mark.parametrize(
    "change",
    [
        "account_id = 2",
        "kind = 'payment'",
        "amount_nano = 101",
        "ref = 'other'",
        "note = 'other'",
        "actor = 'other'",
        "reverses = 1",
        "usage_id = 1",
        "cause = 1",
        "expires_ms = 1",
        "created_ms = created_ms + 1",
        "hash = zeroblob(32)",
    ],
)
def test_an_edit_from_outside_breaks_the_chain(book: Book, change: str) -> None:
    for user in ("alice", "bob"):
        book.user(user)
    for number in range(3):
        book.add("alice", 100, ref=f"r{number}")
    book.tamper("DROP TRIGGER entries_are_not_edited", f"UPDATE entries SET {change} WHERE id = 2")
    assert "entry 2" in [finding.subject for finding in book.findings() if finding.check == "entries"]
