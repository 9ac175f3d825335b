"""Refunds and transfers: what they move, once, and what they are refused for."""

from __future__ import annotations

from typing import Any

import pytest

from llmgate.errors import LlmgateError
from llmgate.store import accounts, audit, ledger
from llmgate.types import Billing, Meters

from ..books import Book


def act(book: Book, what: Any, *args: Any, **fields: Any) -> Any:
    with book.write() as tx:
        return what(tx, *args, **fields)


def refusal(book: Book, what: Any, *args: Any, **fields: Any) -> LlmgateError:
    """What an act is refused with; nothing may have changed."""
    before = book.rows("SELECT * FROM entries"), book.rows("SELECT * FROM accounts"), book.rows("SELECT * FROM audit")
    with pytest.raises(LlmgateError) as caught:
        act(book, what, *args, **fields)
    after = book.rows("SELECT * FROM entries"), book.rows("SELECT * FROM accounts"), book.rows("SELECT * FROM audit")
    assert before == after
    return caught.value


# ── refunds ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def request_id(book: Book) -> str:
    """alice had 1000 and was charged 100 for it."""
    key = book.user("alice", credits=1000)
    book.use(key, Meters(input=100, calls=1), bound=100, output=0, request_id="req_1")
    return "req_1"


def test_a_refund_gives_back_what_a_request_was_charged(book: Book, request_id: str) -> None:
    before = book.rows("SELECT * FROM usage"), book.rows("SELECT * FROM rollups"), book.rows("SELECT * FROM counters")
    moved = act(book, ledger.refund, request_id, note="cut off")
    assert (moved.entry_id, moved.balance_nano) == (2, 1000)
    row = ledger.entry_row(book.tx, 2)
    assert (row["kind"], row["amount_nano"], row["usage_id"], row["account"], row["note"]) == (
        *("refund", 100, 1, "alice", "cut off"),
    )
    assert before == (
        *(book.rows("SELECT * FROM usage"), book.rows("SELECT * FROM rollups"), book.rows("SELECT * FROM counters")),
    )
    assert [act["action"] for act in audit.acts(book.tx)][-1] == "credits.refund"
    assert book.findings() == []


def test_parts_are_refunded_up_to_the_charge_and_no_further(book: Book, request_id: str) -> None:
    assert act(book, ledger.refund, "1", 30).balance_nano == 930
    error = refusal(book, ledger.refund, "1", 71)
    assert (error.code, "$0.00000007 can still be refunded" in error.message) == ("conflict", True)
    assert act(book, ledger.refund, request_id, 20).balance_nano == 950
    assert act(book, ledger.refund, request_id).balance_nano == 1000, "the rest"
    for amount in (None, 1):
        error = refusal(book, ledger.refund, request_id, amount)
        assert (error.code, "refunded in full already" in error.message) == ("conflict", True)


def test_a_refund_that_is_reversed_can_be_given_again(book: Book, request_id: str) -> None:
    act(book, ledger.refund, request_id)
    assert act(book, ledger.reverse, 2).balance_nano == 900
    assert act(book, ledger.refund, request_id, 60).balance_nano == 960
    assert "$0.00000004 can still be refunded" in refusal(book, ledger.refund, request_id, 41).message
    assert act(book, ledger.reverse, 4).balance_nano == 900
    assert act(book, ledger.refund, request_id).balance_nano == 1000
    assert book.findings() == []


def test_a_refund_goes_to_the_account_that_paid(book: Book) -> None:
    book.team("ops", credits=1000)
    key = book.user("bob", team="ops")
    book.use(key, Meters(input=100, calls=1), bound=100, output=0)
    book.add("bob", 5)
    act(book, ledger.refund, "1")
    assert (book.money("team:ops"), book.money("bob")) == ((1000, 0), (5, 0))


@pytest.mark.parametrize("usage", ["", "x", "2", "-1", "٣", "1.0", "9" * 30, "req_none"])
def test_what_is_unknown_isnt_refunded(book: Book, request_id: str, usage: str) -> None:
    error = refusal(book, ledger.refund, usage)
    assert (error.code, "`llmgate usage --json` shows" in error.message) == ("not_found", True)


def test_what_was_charged_nothing_or_is_in_flight_isnt_refunded(book: Book) -> None:
    key = book.user("alice", credits=1000)
    book.use(key, Meters(), bound=10, output=1)
    assert "was charged nothing" in refusal(book, ledger.refund, "1").message
    hold = book.place(key, bound=10, output=1)
    for name in (str(hold.id), hold.claim.request_id):
        assert "still in flight" in refusal(book, ledger.refund, name).message


@pytest.mark.parametrize("amount", [0, -1])
def test_a_refund_is_above_nothing(book: Book, request_id: str, amount: int) -> None:
    assert refusal(book, ledger.refund, request_id, amount).code == "usage_error"


def test_the_same_ref_refunds_once(book: Book, request_id: str) -> None:
    first = act(book, ledger.refund, request_id, 40, ref="ticket-1")
    again = [
        act(book, ledger.refund, usage, amount, ref="ticket-1") for usage in ("1", "req_1") for amount in (40, None)
    ]
    assert [(moved.entry_id, moved.repeated, moved.balance_nano) for moved in again] == [
        (first.entry_id, True, 940)
    ] * 4
    for what, *args in ((ledger.refund, request_id, 41), (ledger.add, "alice", 40)):
        assert refusal(book, what, *args, ref="ticket-1").code == "conflict"
    act(book, ledger.refund, request_id, ref="ticket-2")
    assert act(book, ledger.refund, request_id, ref="ticket-2").repeated


# ── transfers ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def three(book: Book) -> str:
    """alice has 100; bob and the team have nothing. Returns alice's key."""
    book.team("ops")
    book.user("bob", team="ops")
    return book.user("alice", credits=100)


def test_a_transfer_is_two_entries_of_which_one_causes_the_other(book: Book, three: str) -> None:
    moved = act(book, ledger.transfer, "alice", "user:bob", 30, note="lunch")
    assert (moved.entry_id, moved.balance_nano) == (2, 70)
    assert (moved.other.entry_id, moved.other.balance_nano) == (3, 30)
    rows = book.rows("SELECT kind, amount_nano, cause, note FROM entries WHERE id > 1")
    assert [tuple(row.values()) for row in rows] == [("transfer", -30, None, "lunch"), ("transfer", 30, 2, "lunch")]
    for target, other in (("alice", "bob"), ("bob", "alice")):
        assert ledger.history(book.tx, book.account(target)["id"])[-1]["other"] == other
    assert book.findings() == []


@pytest.mark.parametrize(
    ("default", "billing", "became", "relieved", "after"),
    [
        (Billing.METERED, None, True, "team:ops", "credits"),
        (Billing.PREPAID, None, False, "team:ops", "credits"),
        (Billing.METERED, Billing.METERED, False, None, "hand"),
    ],
)
@pytest.mark.parametrize("move", ["transfer", "add"])
def test_who_gets_credits_pays_for_itself_and_is_told(
    book: Book,
    three: str,
    move: str,
    default: Billing,
    billing: Billing | None,
    became: bool,
    relieved: str,
    after: str,
) -> None:
    act(book, accounts.add_user, "carol", team="ops", billing=billing, default_billing=default)
    got = book.add("carol", 5) if move == "add" else act(book, ledger.transfer, "alice", "carol", 5).other
    assert (got.became_prepaid, got.relieved) == (became, relieved)
    assert book.account("carol")["billing_source"] == after
    again = book.add("carol", 5)
    assert (again.became_prepaid, again.relieved) == (False, None)
    assert book.account("alice")["billing"] == "prepaid"


def test_no_more_is_transferred_than_is_available(book: Book, three: str) -> None:
    book.place(three, bound=40, output=0)
    error = refusal(book, ledger.transfer, "alice", "bob", 61)
    assert error.code == "insufficient_credits"
    assert "alice has $0.00000006 available" in error.message
    assert act(book, ledger.transfer, "alice", "team:ops", 60).balance_nano == 40
    assert act(book, ledger.transfer, "alice", "bob", 50, force=True).balance_nano == -10


@pytest.mark.parametrize(
    ("giver", "taker", "amount", "code"),
    [
        ("alice", "alice", 5, "usage_error"),
        ("alice", "user:alice", 5, "usage_error"),
        ("team:ops", "team:ops", 5, "usage_error"),
        ("alice", "bob", 0, "usage_error"),
        ("alice", "bob", -5, "usage_error"),
        ("alice", "nobody", 5, "not_found"),
        ("team:nobody", "alice", 5, "not_found"),
        ("bob", "alice", 1, "insufficient_credits"),
    ],
)
def test_transfers_that_make_no_sense(book: Book, three: str, giver: str, taker: str, amount: int, code: str) -> None:
    assert refusal(book, ledger.transfer, giver, taker, amount).code == code


def test_the_same_ref_transfers_once(book: Book, three: str) -> None:
    first = act(book, ledger.transfer, "alice", "bob", 30, ref="r")
    again = act(book, ledger.transfer, "alice", "bob", 30, ref="r")
    assert (again.entry_id, again.repeated, again.balance_nano) == (first.entry_id, True, 70)
    assert (again.other.entry_id, again.other.repeated, again.other.balance_nano) == (3, True, 30)
    for args in (("alice", "bob", 31), ("alice", "team:ops", 30), ("bob", "alice", 30)):
        assert refusal(book, ledger.transfer, *args, ref="r").code == "conflict"
    assert refusal(book, ledger.add, "bob", 30, ref="r").code == "conflict"


@pytest.mark.parametrize("half", [2, 3])
def test_both_halves_are_reversed_together(book: Book, three: str, half: int) -> None:
    act(book, ledger.transfer, "alice", "bob", 30)
    moved = act(book, ledger.reverse, half)
    assert {moved.balance_nano, moved.other.balance_nano} == {100, 0}
    rows = book.rows("SELECT kind, amount_nano, reverses FROM entries WHERE id > 3")
    assert [tuple(row.values()) for row in rows] == [
        ("reverse", 30 if half == 2 else -30, half),
        ("reverse", -30 if half == 2 else 30, 5 - half),
    ]
    for entry in (2, 3):
        assert "reversed already" in refusal(book, ledger.reverse, entry).message
    assert book.findings() == []


# ── who pays ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_list_says_who_pays_for_whom(book: Book, three: str) -> None:
    book.user("carol", team="ops")
    book.user("dora", team="ops", billing=Billing.METERED)
    rows = {row["name"]: (row["payer"], row["pays_for"]) for row in ledger.list_accounts(book.tx)}
    assert rows == {
        "alice": ("alice", '["alice"]'),
        "bob": ("team:ops", "[]"),
        "carol": ("team:ops", "[]"),
        "dora": ("dora", '["dora"]'),
        "ops": (None, '["bob","carol"]'),
    }
    account_id = accounts.account_of(book.tx, "bob")[0]
    assert [row["name"] for row in ledger.list_accounts(book.tx, account_id)] == ["bob"]
