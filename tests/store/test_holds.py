"""The life of a hold: a random walk with crashes against a plain model, and each rule of it by name."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from llmgate.errors import Refusal, StorageError
from llmgate.pricing import FREE, UNITS, Price, amount
from llmgate.quoting import amount_at
from llmgate.store import accounts, events, holds, keys
from llmgate.store.admission import Claim
from llmgate.store.holds import LAST_USED_EVERY_MS, Attempt, Hold
from llmgate.types import Billing, CostSource, Meters, Source, Status

from ..books import PRICE, Book, asdict

ROOT = Path(__file__).parents[2]


def refused(book: Book, key: str, **fields: Any) -> Refusal:
    """What a claim is refused with; nothing may be left of it."""
    before = [book.rows(f"SELECT * FROM {table}") for table in ("accounts", "holds", "keys")]
    with pytest.raises(Refusal) as caught:
        book.place(key, **fields)
    assert [book.rows(f"SELECT * FROM {table}") for table in ("accounts", "holds", "keys")] == before
    with pytest.raises(Refusal) as read:
        holds.decide(book.tx, book.claim(key, **fields))
    assert (read.value.code, read.value.message) == (caught.value.code, caught.value.message)
    return caught.value


def usage(book: Book) -> list[dict[str, Any]]:
    return book.rows("SELECT * FROM usage ORDER BY id")


# ── placed ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_hold_sets_its_quote_aside(book: Book) -> None:
    key = book.user("alice", credits=1000)
    hold = book.place(key, bound=100, output=50, choices=2, now_ms=5_000_000)
    assert (hold.grant.amount_nano, hold.grant.output_tokens, hold.grant.clamped) == (300, 50, False)
    assert book.money("alice") == (1000, 300)
    (row,) = book.rows("SELECT * FROM holds")
    assert row["id"] == hold.id
    assert (row["amount_nano"], row["bounded"], row["input_estimate"], row["day"], row["placed_ms"]) == (
        *(300, 1, 40, "1970-01-01", 5_000_000),
    )
    assert holds.in_flight(book.tx) == 1
    assert book.findings() == []


def test_deciding_writes_nothing_and_says_what_placing_will(book: Book) -> None:
    key = book.user("alice", credits=1000)
    claim = book.claim(key)
    grant = holds.decide(book.tx, claim)
    assert book.rows("SELECT * FROM holds") == []
    with book.write() as tx:
        assert holds.place(tx, claim).grant == grant


def test_a_metered_account_is_neither_bounded_nor_clamped_nor_stopped(book: Book) -> None:
    key = book.user("alice")
    hold = book.place(key, bound=10**6, output=10**6)
    assert (hold.grant.amount_nano, hold.grant.output_tokens, hold.grant.clamped) == (3 * 10**6, None, False)
    assert book.money("alice") == (0, 3 * 10**6)
    assert book.settle(hold, Meters(input=10**7, calls=1)).overrun is False
    assert book.money("alice") == (-(10**7), 0)
    assert book.place(key, unquotable="plugins").grant.output_tokens is None


@pytest.mark.parametrize("state", ["revoke", "disable"])
def test_a_key_that_died_since_is_refused_in_the_holds_own_transaction(book: Book, state: str) -> None:
    key = book.user("alice", credits=1000)
    claim = book.claim(key)
    holds.decide(book.tx, claim)
    with book.write() as tx:
        keys.set_state(tx, "alice", state)
    with book.write() as tx, pytest.raises(Refusal) as caught:
        holds.place(tx, claim)
    assert caught.value.http_status == 401
    assert book.money("alice") == (1000, 0)


def test_credit_that_went_since_is_seen_in_the_holds_own_transaction(book: Book) -> None:
    key = book.user("alice", credits=200)
    first, second = book.claim(key), book.claim(key)
    assert holds.decide(book.tx, first).amount_nano == holds.decide(book.tx, second).amount_nano == 200
    with book.write() as tx:
        holds.place(tx, first)
        with pytest.raises(Refusal) as caught:
            holds.place(tx, second)
    assert caught.value.code == "credits_held"


def test_a_model_that_the_key_may_not_use(book: Book) -> None:
    key = book.user("alice", credits=1000, models=["gpt-4o*"])
    error = refused(book, key, model="o3")
    assert (error.code, error.http_status) == ("model_not_allowed", 403)
    book.place(key, model="fast", names=("fast", "gpt-4o-mini"))


def test_a_user_whose_plan_is_gone_is_refused(book: Book) -> None:
    key = book.user("alice", credits=1000)
    for plan, code in (("pro", None), ("gone", "plan_not_found"), ("", None)):
        with book.write() as tx:
            accounts.set_user(tx, "alice", {"plan": plan})
        if code is None:
            book.place(key)
        else:
            with pytest.raises(Refusal) as caught:
                book.place(key)
            assert (caught.value.code, caught.value.http_status) == (code, 403)


def test_a_request_id_is_used_once(book: Book) -> None:
    key = book.user("alice", credits=1000)
    book.place(key, request_id="req_1")
    with pytest.raises(StorageError, match="UNIQUE constraint failed"):
        book.place(key, request_id="req_1")
    assert book.money("alice") == (1000, 200)


def test_the_last_use_of_a_key_is_noted_once_a_minute(book: Book) -> None:
    key = book.user("alice")
    start = 10**12
    noted = []
    for after_ms in (0, 1, LAST_USED_EVERY_MS - 1, LAST_USED_EVERY_MS, LAST_USED_EVERY_MS + 1):
        book.place(key, now_ms=start + after_ms)
        noted.append(book.value("SELECT last_used_ms FROM keys") - start)
    assert noted == [0, 0, 0, LAST_USED_EVERY_MS, LAST_USED_EVERY_MS]


# ── 402 or 429, decided exactly ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("balance", "held", "code"),
    [
        # The floor of this claim is 100 + 2 × 50 = 200 nano-USD.
        (200, 0, None),
        (199, 0, "insufficient_credits"),
        (1, 0, "insufficient_credits"),
        (400, 200, None),
        (399, 200, "credits_held"),
        (200, 200, "credits_held"),
        (201, 200, "credits_held"),
    ],
)
def test_pay_where_there_is_too_little_and_wait_where_others_hold_it(
    book: Book, balance: int, held: int, code: str | None
) -> None:
    key = book.user("alice", credits=balance)
    if held:
        book.place(key)
    if code is None:
        assert book.place(key).grant.amount_nano == 200
        return
    error = refused(book, key)
    assert error.code == code
    if code == "credits_held":
        assert (error.http_status, error.headers) == (429, (("retry-after", "2"),))
    else:
        assert (error.http_status, error.headers) == (402, (("x-should-retry", "false"),))


def test_where_even_all_of_the_balance_is_too_little_it_is_no_use_to_wait(book: Book) -> None:
    key = book.user("alice", credits=250)
    book.place(key)
    assert refused(book, key, bound=151).code == "insufficient_credits"
    assert refused(book, key, bound=150).code == "credits_held"


def test_a_user_is_told_what_is_left_and_a_teams_member_is_not(book: Book) -> None:
    alice = book.user("alice", credits=150)
    assert "the remaining credit of $0.00000015 doesn't carry this request, which may cost $0.0000002" in (
        refused(book, alice).message
    )
    book.team("ops", credits=150)
    bob = book.user("bob", team="ops")
    message = refused(book, bob).message
    assert "the remaining credit doesn't carry this request" in message
    assert "0.00000015" not in message


def test_one_who_owes_is_refused(book: Book) -> None:
    key = book.user("alice", billing=Billing.PREPAID)
    assert refused(book, key).code == "insufficient_credits"
    book.user("bob", credits=5)
    with book.write() as tx:
        accounts.set_user(tx, "alice", {"billing": "metered"})
    book.use(key, Meters(input=500, calls=1))
    with book.write() as tx:
        accounts.set_user(tx, "alice", {"billing": "prepaid"})
    assert book.money("alice") == (-500, 0)
    assert refused(book, key).code == "insufficient_credits"
    assert book.add("alice", 700).balance_nano == 200
    assert book.place(key).grant.amount_nano == 200


def test_what_has_no_bound_is_not_for_who_can_run_out_of_money(book: Book) -> None:
    error = refused(book, book.user("alice", credits=10**9), unquotable="plugins")
    assert (error.code, error.param) == ("invalid_request", "plugins")
    assert "it is not for accounts whose money can run out" in error.message


# ── clamped ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("balance", "output", "amount_nano"),
    [(10_000, 1000, 2100), (2100, 1000, 2100), (2099, 999, 2098), (2098, 999, 2098), (613, 256, 612), (612, 256, 612)],
)
def test_an_answer_is_clamped_to_what_the_room_carries(book: Book, balance: int, output: int, amount_nano: int) -> None:
    hold = book.place(book.user("alice", credits=balance), output=1000)
    assert (hold.grant.output_tokens, hold.grant.amount_nano) == (output, amount_nano)
    assert hold.grant.clamped is (output < 1000)
    assert book.money("alice") == (balance, amount_nano)


@pytest.mark.parametrize(
    ("fields", "floor"), [({"output": 1000}, 256), ({"output": 1000, "least": 400}, 400), ({"output": 20}, 20)]
)
def test_an_answer_is_not_clamped_below_its_floor(book: Book, fields: dict[str, Any], floor: int) -> None:
    key = book.user("alice", credits=100 + 2 * floor - 1)
    assert refused(book, key, **fields).code == "insufficient_credits"
    book.add("alice", 1)
    assert book.place(key, **fields).grant.output_tokens == floor


def test_a_clamp_counts_every_choice(book: Book) -> None:
    hold = book.place(book.user("alice", credits=100 + 2 * 3 * 300 + 5), output=1000, choices=3)
    assert (hold.grant.output_tokens, hold.grant.amount_nano) == (300, 1900)


def test_output_that_costs_nothing_is_neither_bounded_nor_clamped(book: Book) -> None:
    key = book.user("alice", credits=100)
    hold = book.place(key, price=Price(input=UNITS, output=0), output=10**6)
    assert (hold.grant.output_tokens, hold.grant.amount_nano, hold.grant.clamped) == (None, 100, False)


# ── free of charge ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("fields", [{"price": FREE}, {"charge": FREE}])
def test_what_is_free_is_free_for_who_has_nothing(book: Book, fields: dict[str, Any]) -> None:
    key = book.user("alice", billing=Billing.PREPAID)
    hold = book.place(key, **fields)
    assert (hold.grant.amount_nano, hold.grant.output_tokens) == (0, None)
    settled = book.settle(hold, Meters(input=1000, output=1000, calls=1), **fields)
    assert (settled.charge_nano, settled.balance_nano, settled.overrun) == (0, 0, False)
    assert settled.cost_nano == (3000 if "charge" in fields else 0)
    assert book.findings() == []


def test_what_is_free_is_free_also_while_all_credit_is_held_or_owed(book: Book) -> None:
    key = book.user("alice", credits=200)
    held = book.place(key)
    book.place(key, price=FREE)
    book.settle(held, Meters(input=500, calls=1))
    assert book.money("alice") == (-300, 0)
    book.place(key, price=FREE)


def test_what_was_free_and_is_billed_all_the_same_is_an_overrun(book: Book) -> None:
    """An upstream whose reported cost is the charge may bill what no list knew of."""
    key = book.user("alice", billing=Billing.PREPAID)
    settled = book.settle(book.place(key, price=FREE), Meters(input=1, calls=1), price=FREE, reported=5)
    assert (settled.charge_nano, settled.balance_nano, settled.overrun) == (5, -5, True)
    assert book.findings() == []


# ── who pays ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("member", "payer"),
    [({}, "team:ops"), ({"credits": 1000}, "alice"), ({"billing": Billing.METERED}, "alice")],
)
def test_the_team_pays_unless_the_member_has_billing_of_its_own(book: Book, member: dict[str, Any], payer: str) -> None:
    book.team("ops", credits=1000)
    key = book.user("alice", team="ops", **member)
    other = {"team:ops": "alice", "alice": "team:ops"}[payer]
    before = {who: book.money(who) for who in (payer, other)}
    hold = book.place(key)
    assert book.money(payer) == (before[payer][0], 200)
    book.settle(hold, Meters(input=10, output=5, calls=1))
    assert book.money(payer) == (before[payer][0] - 20, 0)
    assert book.money(other) == before[other]
    (row,) = usage(book)
    assert row["account_id"] == book.account(payer)["id"]
    assert row["team_id"] == 1


def test_who_pays_is_fixed_on_the_hold(book: Book) -> None:
    book.team("ops", credits=1000)
    key = book.user("alice", team="ops")
    hold = book.place(key)
    book.add("alice", 500)
    with book.write() as tx:
        accounts.set_user(tx, "alice", {"team": "", "plan": "pro"})
    book.settle(hold)
    assert (book.money("team:ops"), book.money("alice")) == ((980, 0), (500, 0))
    (row,) = usage(book)
    assert (row["team_id"], row["plan"]) == (1, None)


# ── settled ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_settlement_charges_what_was_used_and_gives_the_rest_back(book: Book) -> None:
    key = book.user("alice", credits=1000, tags={"job": "7", "who": "key"})
    hold = book.place(key, tags={"who": "request", "end_user": "u"}, now_ms=777)
    meters = Meters(input=10, cached_input=5, output=20, reasoning=3, calls=1)
    settled = book.settle(hold, meters)
    charge = 10 + 5 + 2 * 23
    assert asdict(settled) == {
        "usage_id": hold.id,
        "cost_nano": charge,
        "charge_nano": charge,
        "balance_nano": 1000 - charge,
        "overrun": False,
    }
    assert book.money("alice") == (1000 - charge, 0)
    assert book.rows("SELECT * FROM holds") == []
    (row,) = usage(book)
    assert {name: row[name] for name in msgspec.structs.asdict(meters)} == msgspec.structs.asdict(meters)
    expected = {
        "request_id": hold.claim.request_id,
        "status": "ok",
        "source": "upstream",
        "http_status": 200,
        "model": "gpt",
        "upstream": "openai",
        "upstream_model": "gpt",
        "format": "openai",
        "endpoint": "chat",
        "streamed": 0,
        "hold_nano": 200,
        "bounded": 1,
        "day": "1970-01-01",
        "time_ms": 777,
        "duration_ms": 12,
        "ttft_ms": 3,
        "cost_source": "config",
        "charge_price_id": None,
    }
    assert {name: row[name] for name in expected} == expected
    tags = {row["name"]: row["value"] for row in book.rows("SELECT name, value FROM usage_tags")}
    assert tags == {"job": "7", "who": "key", "end_user": "u"}, "a request can't overwrite what the admin said"
    assert book.findings() == []


@pytest.mark.parametrize(
    ("fields", "cost", "charge", "source"),
    [
        ({}, 30, 30, "config"),
        ({"charge": Price(input=5 * UNITS, output=7 * UNITS)}, 30, 120, "config"),
        ({"charge": FREE}, 30, 0, "config"),
        ({"reported": 44}, 44, 44, "upstream"),
        ({"reported": 0}, 0, 0, "upstream"),
        ({"reported": 44, "charge": Price(input=5 * UNITS, output=7 * UNITS)}, 44, 120, "upstream"),
    ],
)
def test_cost_and_charge_are_two_numbers(
    book: Book, fields: dict[str, Any], cost: int, charge: int, source: str
) -> None:
    settled = book.use(book.user("alice", credits=1000), Meters(input=10, output=10, calls=1), **fields)
    assert (settled.cost_nano, settled.charge_nano, settled.balance_nano) == (cost, charge, 1000 - charge)
    assert usage(book)[0]["cost_source"] == source
    assert book.findings() == []


def test_what_an_upstream_bills_beyond_the_hold_is_charged_and_marked(book: Book) -> None:
    key = book.user("alice", credits=250)
    hold = book.place(key)
    settled = book.settle(hold, Meters(input=100, output=90, calls=1))
    assert (settled.charge_nano, settled.balance_nano, settled.overrun) == (280, -30, True)
    assert usage(book)[0]["overrun"] == 1
    assert refused(book, key).code == "insufficient_credits", "the account stops at once"
    assert book.findings() == []


def test_a_charge_of_exactly_the_hold_is_no_overrun(book: Book) -> None:
    hold = book.place(book.user("alice", credits=200))
    settled = book.settle(hold, Meters(input=100, output=50, calls=1))
    assert (settled.charge_nano, settled.balance_nano, settled.overrun) == (200, 0, False)


def test_a_released_hold_leaves_nothing(book: Book) -> None:
    key = book.user("alice", credits=1000)
    book.release(book.place(key))
    assert book.money("alice") == (1000, 0)
    assert usage(book) == []
    assert book.rows("SELECT * FROM rollups") == []
    assert book.findings() == []


@pytest.mark.parametrize("again", ["settle", "release"])
def test_a_hold_that_was_released_has_no_second_life(book: Book, again: str) -> None:
    hold = book.place(book.user("alice", credits=1000))
    book.release(hold)
    with pytest.raises(AssertionError, match=f"hold {hold.id} was neither found nor ever settled"):
        book.settle(hold) if again == "settle" else book.release(hold)
    assert (book.money("alice"), usage(book)) == ((1000, 0), [])


def test_ids_are_never_used_again(book: Book) -> None:
    key = book.user("alice", credits=1000)
    first = book.place(key)
    book.release(first)
    book.reopen()
    assert book.place(key).id > first.id


# ── the last truth wins ───────────────────────────────────────────────────────────────────────────────────────────────


def test_settling_again_corrects_the_row(book: Book) -> None:
    key = book.user("alice", credits=1000)
    hold = book.place(key, tags={"job": "1"})
    book.settle(hold, Meters(input=40, calls=1), status=Status.INTERRUPTED, source=Source.ESTIMATED)
    settled = book.settle(hold, Meters(input=30, output=30, calls=1), upstream="azure")
    assert (settled.charge_nano, settled.balance_nano) == (90, 910)
    assert book.money("alice") == (910, 0)
    (row,) = usage(book)
    assert (row["id"], row["status"], row["upstream"], row["hold_nano"]) == (hold.id, "ok", "azure", 200)
    assert book.rows("SELECT name, value FROM usage_tags") == [{"name": "job", "value": "1"}]
    assert [row["upstream"] for row in book.rows("SELECT * FROM rollups")] == ["azure"], "nothing is left of openai"
    assert book.findings() == []


def test_both_truths_are_told(book: Book) -> None:
    hold = book.place(book.user("alice", credits=1000), request_id="req_1")
    book.crash()
    book.recover()
    book.settle(hold, Meters(input=30, output=30, calls=1))
    (event,) = events.since(book.tx, 0)
    assert (event["kind"], event["target"]) == ("corrected", "alice")
    assert event["message"] == (
        "request req_1 was booked as interrupted at $0.00000004, and is ok at $0.00000009: "
        "its process was believed dead"
    )


def test_releasing_what_was_believed_dead_takes_its_row_away(book: Book) -> None:
    key = book.user("alice", credits=1000)
    hold = book.place(key, tags={"job": "1"})
    book.settle(hold, Meters(input=40, calls=1), status=Status.INTERRUPTED)
    book.release(hold)
    assert book.money("alice") == (1000, 0)
    assert usage(book) == book.rows("SELECT * FROM usage_tags") == book.rows("SELECT * FROM rollups") == []
    assert book.findings() == []


# ── crashes ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("mode", "charge"), [("input", 40), ("none", 0)])
def test_a_hold_of_the_dead_becomes_a_row(book: Book, mode: str, charge: int) -> None:
    key = book.user("alice", credits=1000)
    hold = book.place(key, tags={"job": "1"})
    book.crash()
    assert book.recover(mode) == holds.Recovered(1, charge)
    assert book.money("alice") == (1000 - charge, 0)
    (row,) = usage(book)
    assert (row["id"], row["status"], row["source"], row["http_status"]) == (hold.id, "interrupted", "estimated", None)
    assert (row["input"], row["output"], row["calls"]) == ((40, 0, 1) if charge else (0, 0, 0))
    assert book.recover(mode) == holds.Recovered(0, 0)
    assert book.findings() == []


def test_holds_of_the_living_are_left_alone(book: Book) -> None:
    hold = book.place(book.user("alice", credits=1000))
    assert book.recover() == holds.Recovered(0, 0)
    assert book.money("alice") == (1000, 200)
    book.settle(hold)


def test_only_the_holds_of_the_dead_are_resolved(book: Book) -> None:
    key = book.user("alice", credits=1000)
    for _ in range(2):
        book.place(key)
    book.crash()
    living = book.place(key)
    assert book.recover() == holds.Recovered(2, 80)
    assert book.rows("SELECT id FROM holds") == [{"id": living.id}]
    assert book.money("alice") == (920, 200)


def test_an_interrupted_request_is_charged_by_the_price_of_its_hold(book: Book) -> None:
    book.place(book.user("alice", credits=10_000), charge=Price(input=9 * UNITS, output=9 * UNITS, calls=5 * UNITS))
    book.crash()
    assert book.recover().charge_nano == 9 * 40 + 5
    assert (usage(book)[0]["cost_nano"], usage(book)[0]["charge_nano"]) == (40, 365)


@pytest.mark.parametrize("estimate", [1, 40, 99, 100])
def test_an_interrupted_request_is_never_charged_more_than_it_held(book: Book, estimate: int) -> None:
    hold = book.place(book.user("alice", credits=100 + 2), bound=100, estimate=estimate, output=1)
    book.crash()
    assert book.recover().charge_nano == estimate <= hold.grant.amount_nano
    assert usage(book)[0]["overrun"] == 0


# ── many at once ──────────────────────────────────────────────────────────────────────────────────────────────────────


def spend(path: Path, key: str, seed: int) -> int:
    """Place and settle until there is nothing left, and count what was charged."""
    chance, book, charged = random.Random(seed), Book(path), 0
    flying: list[Hold] = []
    most_input, most_output = 60, 400
    while most_input:
        try:
            flying.append(book.place(key, bound=chance.randint(1, most_input), output=chance.randint(1, most_output)))
        except Refusal as error:
            if error.code == "insufficient_credits" and not flying:
                most_input, most_output = most_input // 2, max(1, most_output // 8)  # for less there may be enough
        if flying and (len(flying) > 3 or chance.random() < 0.5):
            hold = flying.pop(chance.randrange(len(flying)))
            most = Meters(input=hold.claim.quote.input_tokens, output=hold.grant.output_tokens or 0, calls=1)
            some = Meters(input=chance.randint(0, most.input), output=chance.randint(0, most.output), calls=1)
            charged += book.settle(hold, chance.choice((most, some))).charge_nano
    book.close()
    return charged


def test_many_who_spend_one_balance_at_once_never_spend_more(book: Book) -> None:
    key = book.user("alice", credits=20_000)
    with ThreadPoolExecutor(4) as pool:
        charged = sum(pool.map(lambda seed: spend(book.path, key, seed), range(4)))
    assert book.money("alice") == (20_000 - charged, 0)
    assert 0 <= 20_000 - charged < 3, "it was spent down to less than what the smallest request costs"
    assert book.value("SELECT count(*) FROM usage WHERE overrun") == 0
    assert book.findings() == []


# ── kill -9 at any instant ────────────────────────────────────────────────────────────────────────────────────────────

VICTIM = """
import os, sys
from pathlib import Path
from llmgate.types import Meters
from tests.books import Book
book, journal = Book(Path(sys.argv[1])), os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
def note(what, hold):
    os.write(journal, f"{what} {hold.id}\\n".encode())
while True:
    holds = [book.place(sys.argv[3]) for _ in range(3)]
    for hold in holds:
        note("placed", hold)
    note("releasing", holds[0])
    book.release(holds[0])
    for hold in holds[1:]:
        book.settle(hold, Meters(input=7, calls=1))
        note("settled", hold)
"""


def test_nothing_that_was_served_is_lost_to_kill_9(tmp_path: Path) -> None:
    path, journal = tmp_path / "x.db", tmp_path / "journal"
    book = Book(path)
    key = book.user("alice", credits=10**9)
    for delay in (0.0, 0.011, 0.023, 0.037, 0.05):
        lines = len(journal.read_text().splitlines()) if journal.exists() else 0
        with subprocess.Popen([sys.executable, "-c", VICTIM, path, journal, key], cwd=ROOT) as victim:
            while not journal.exists() or len(journal.read_text().splitlines()) == lines:
                time.sleep(0.002)
            time.sleep(delay)
            victim.kill()
        book.recover()
        assert book.findings() == []
    noted: dict[str, set[int]] = {"placed": set(), "releasing": set(), "settled": set()}
    for what, number in (line.split() for line in journal.read_text().splitlines()):
        noted[what].add(int(number))
    rows = {row["id"]: (row["status"], row["charge_nano"]) for row in usage(book)}
    assert noted["settled"] <= noted["placed"] - noted["releasing"] <= rows.keys()
    assert {rows[number] for number in noted["settled"]} == {("ok", 7)}
    assert set(rows.values()) <= {("ok", 7), ("interrupted", 40)}
    assert ("interrupted", 40) in rows.values()
    assert book.money("alice") == (10**9 - sum(charge for _, charge in rows.values()), 0)
    book.close()


# ── tried in vain ─────────────────────────────────────────────────────────────────────────────────────────────────────


def vain(book: Book, **fields: Any) -> Attempt:
    told: dict[str, Any] = {
        "upstream": "azure",
        "upstream_model": "gpt-eu",
        "http_status": 500,
        "source": Source.UPSTREAM,
        "meters": Meters(input=10, calls=1),
        "cost": book.snapshot(PRICE),
        "cost_source": CostSource.CATALOGUE,
    }
    return Attempt(**told | fields)


def test_a_try_that_was_billed_in_vain_is_a_cost_of_the_house(book: Book) -> None:
    key = book.user("alice", credits=1000)
    attempts = (vain(book), vain(book, reported_cost_nano=7, http_status=None))
    settled = book.settle(book.place(key), Meters(input=5, output=1, calls=1), attempts=attempts)
    paid = amount(Meters(input=5, output=1, calls=1), PRICE)
    wasted = amount(Meters(input=10, calls=1), PRICE) + 7
    assert (settled.charge_nano, settled.cost_nano) == (paid, paid)
    assert book.money("alice") == (1000 - paid, 0)
    assert [row["wasted_nano"] for row in usage(book)] == [wasted]
    assert book.value("SELECT sum(wasted_nano) FROM rollups") == wasted
    found = book.rows("SELECT usage_id, http_status, input, cost_nano, cost_source FROM attempts ORDER BY id")
    assert [tuple(row.values()) for row in found] == [
        (settled.usage_id, 500, 10, wasted - 7, "catalogue"),
        (settled.usage_id, None, 10, 7, "upstream"),
    ]
    assert book.findings() == []


def test_a_corrected_row_has_the_attempts_of_its_last_truth(book: Book) -> None:
    hold = book.place(book.user("alice", credits=1000))
    book.settle(hold, attempts=(vain(book), vain(book)))
    book.settle(hold, attempts=(vain(book, reported_cost_nano=3),))
    assert book.value("SELECT count(*) FROM attempts") == 1
    assert [row["wasted_nano"] for row in usage(book)] == [3]
    assert book.value("SELECT sum(wasted_nano) FROM rollups") == 3
    assert book.findings() == []


# ── a random walk ─────────────────────────────────────────────────────────────────────────────────────────────────────

PRICES = (
    PRICE,
    FREE,
    Price(input=UNITS // 3, output=7 * UNITS // 3, calls=UNITS // 2),
    Price(input=3 * UNITS, output=0),
)
CHARGES = (None, None, FREE, Price(input=5 * UNITS, output=UNITS // 7))
USERS = {"alice": "alice", "bob": "bob", "carl": "team:ops", "dora": "team:ops", "erin": "erin", "fay": "team:dev"}
"""Users, and who pays for them at first: prepaid, metered, a prepaid team, the same, a member who pays itself, and a
metered team."""


class Placed:
    """A hold as the model knows it: open, or settled with a charge."""

    def __init__(self, hold: Hold, account: str, bounded: bool) -> None:
        self.hold = hold
        self.account = account
        self.bounded = bounded
        self.charge: int | None = None
        self.worker = hold.claim.worker_id


class Life(RuleBasedStateMachine):
    """Accounts, holds and outcomes beside a plain model of them."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.book = book = Book(Path(self.folder.name) / "x.db")
        book.team("ops", credits=5_000)
        book.team("dev")
        self.keys = {
            "alice": book.user("alice", credits=1_000),
            "bob": book.user("bob"),
            "carl": book.user("carl", team="ops"),
            "dora": book.user("dora", team="ops"),
            "erin": book.user("erin", team="dev", credits=300),
            "fay": book.user("fay", team="dev"),
        }
        self.pays = dict(USERS)
        self.prepaid = {"alice": True, "bob": False, "carl": False, "dora": False, "erin": True, "fay": False}
        self.prepaid |= {"team:ops": True, "team:dev": False}
        self.entries = dict.fromkeys(self.prepaid, 0) | {"alice": 1_000, "erin": 300, "team:ops": 5_000}
        self.placed: dict[int, Placed] = {}
        self.excused = dict.fromkeys(self.prepaid, 0)
        """By how much an account's available credit fell below what it was stopped at, for a reason that is known."""

    def teardown(self) -> None:
        self.book.close()
        self.folder.cleanup()

    # the model

    def balance(self, account: str) -> int:
        return self.entries[account] - sum(one.charge or 0 for one in self.placed.values() if one.account == account)

    def held(self, account: str) -> int:
        return sum(
            one.hold.grant.amount_nano for one in self.placed.values() if one.account == account and one.charge is None
        )

    def expected(self, account: str, claim: Claim) -> int | str:
        """The output bound that a claim is granted, or the code that it is refused with, by trying every bound."""
        quote = claim.quote
        if not self.prepaid[account] or quote.amount_nano == 0:
            return quote.output_tokens

        def most(room: int) -> int:
            fitting = [
                output
                for output in range(quote.floor_tokens, quote.output_tokens + 1)
                if amount_at(claim.price, quote.input_tokens, output, quote.choices) <= room
            ]
            return max(fitting, default=-1)

        found = most(self.balance(account) - self.held(account))
        if found >= 0:
            return found
        return "credits_held" if self.held(account) and most(self.balance(account)) >= 0 else "insufficient_credits"

    # what happens

    @rule(who=st.sampled_from(sorted(USERS)), nano=st.one_of(st.integers(1, 50), st.integers(1, 3_000)))
    def credit(self, who: str, nano: int) -> None:
        account = self.pays[who]
        moved = self.book.add(account, nano)
        self.entries[account] += nano
        assert moved.became_prepaid == (not self.prepaid[account])
        if moved.became_prepaid:
            self.prepaid[account] = True
            self.excused[account] = max(0, self.held(account) - self.balance(account))

    @rule(
        who=st.sampled_from(sorted(USERS)),
        bound=st.integers(1, 600),
        estimate=st.integers(0, 600),
        output=st.one_of(st.integers(1, 20), st.integers(200, 400)),
        choices=st.integers(1, 3),
        price=st.sampled_from(PRICES),
        charge=st.sampled_from(CHARGES),
    )
    def place(self, who: str, **fields: Any) -> None:
        account, key = self.pays[who], self.keys[who]
        claim = self.book.claim(key, **fields)
        expected = self.expected(account, claim)
        if isinstance(expected, str):
            with pytest.raises(Refusal) as caught, self.book.write() as tx:
                holds.place(tx, claim)
            assert caught.value.code == expected
            return
        with self.book.write() as tx:
            hold = holds.place(tx, claim)
        grant = hold.grant
        assert grant.amount_nano == amount_at(claim.price, claim.quote.input_tokens, expected, claim.quote.choices)
        assert grant.clamped == (expected < claim.quote.output_tokens)
        if grant.output_tokens is not None:
            assert grant.output_tokens == expected
        self.placed[hold.id] = Placed(hold, account, self.prepaid[account])

    def pick(self, data: st.DataObject, *, settled: bool) -> Placed:
        there = [one for one in self.placed.values() if (one.charge is not None) == settled]
        return data.draw(st.sampled_from(there))

    def obedient(self, data: st.DataObject, one: Placed) -> Meters:
        """What an upstream may bill that keeps to the bounds it was sent."""
        quote, grant = one.hold.claim.quote, one.hold.grant
        output = (grant.output_tokens or quote.output_tokens) * quote.choices
        total_in, total_out = data.draw(st.integers(0, quote.input_tokens)), data.draw(st.integers(0, output))
        cached, thought = data.draw(st.integers(0, total_in)), data.draw(st.integers(0, total_out))
        return Meters(
            input=total_in - cached, cached_input=cached, output=total_out - thought, reasoning=thought, calls=1
        )

    def settle(self, one: Placed, meters: Meters, reported: int | None = None) -> int:
        """Settle, for the first time or again, and compare everything that is known of it. Returns the charge."""
        claim, before = one.hold.claim, one.charge
        charge_price = claim.charge.price if claim.charge else None
        cost = amount(meters, claim.cost.price) if reported is None else reported
        charge = amount(meters, charge_price) if charge_price else cost
        settled = self.book.settle(one.hold, meters, price=claim.cost.price, charge=charge_price, reported=reported)
        one.charge = charge
        loss = charge - (one.hold.grant.amount_nano if before is None else before)
        if loss > 0:
            self.excused[one.account] += loss
        assert asdict(settled) == {
            "usage_id": one.hold.id,
            "cost_nano": cost,
            "charge_nano": charge,
            "balance_nano": self.balance(one.account),
            "overrun": one.bounded and charge > one.hold.grant.amount_nano,
        }
        return charge

    @precondition(lambda self: any(one.charge is None for one in self.placed.values()))
    @rule(data=st.data())
    def settle_within_the_bounds(self, data: st.DataObject) -> None:
        one = self.pick(data, settled=False)
        charge = self.settle(one, self.obedient(data, one))
        assert not one.bounded or charge <= one.hold.grant.amount_nano, "no overspend"

    @precondition(lambda self: any(one.charge is None for one in self.placed.values()))
    @rule(data=st.data(), beyond=st.integers(0, 3_000), reported=st.one_of(st.none(), st.integers(0, 3_000)))
    def settle_at_an_upstream_that_bills_as_it_likes(
        self, data: st.DataObject, beyond: int, reported: int | None
    ) -> None:
        self.settle(self.pick(data, settled=False), Meters(input=beyond, output=beyond, calls=1), reported)

    @precondition(lambda self: any(one.charge is None for one in self.placed.values()))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        one = self.pick(data, settled=False)
        self.book.release(one.hold)
        del self.placed[one.hold.id]

    @precondition(lambda self: any(one.charge is not None for one in self.placed.values()))
    @rule(data=st.data(), nothing=st.booleans())
    def learn_the_truth_late(self, data: st.DataObject, nothing: bool) -> None:
        one = self.pick(data, settled=True)
        if nothing:
            self.book.release(one.hold)
            del self.placed[one.hold.id]
        else:
            self.settle(one, self.obedient(data, one))

    @rule(mode=st.sampled_from(("input", "none")))
    def crash_and_recover(self, mode: str) -> None:
        dying = self.book.worker.id
        self.book.crash()
        orphans = [one for one in self.placed.values() if one.charge is None and one.worker == dying]
        total = 0
        for one in orphans:
            claim = one.hold.claim
            price = claim.charge.price if claim.charge else claim.cost.price
            one.charge = amount(Meters(input=claim.quote.input_estimate, calls=1), price) if mode == "input" else 0
            assert one.charge <= one.hold.grant.amount_nano, "never more than it held"
            total += one.charge
        assert self.book.recover(mode) == holds.Recovered(len(orphans), total)

    @rule()
    def recover_while_alive(self) -> None:
        assert self.book.recover() == holds.Recovered(0, 0)

    @rule()
    def reopen(self) -> None:
        self.book.reopen()

    @rule(who=st.sampled_from(("carl", "dora")), team=st.sampled_from(("ops", "dev")))
    def move(self, who: str, team: str) -> None:
        with self.book.write() as tx:
            accounts.set_user(tx, who, {"team": team})
        self.pays[who] = f"team:{team}"

    # what must be true whatever happened

    @invariant()
    def balances_and_holds_are_the_models(self) -> None:
        for account in self.prepaid:
            assert self.book.money(account) == (self.balance(account), self.held(account))

    @invariant()
    def no_prepaid_account_is_overspent_without_a_reason(self) -> None:
        for account, prepaid in self.prepaid.items():
            if prepaid:
                assert self.balance(account) - self.held(account) + self.excused[account] >= 0

    @invariant()
    def every_request_has_exactly_one_row(self) -> None:
        open_holds = sorted(number for number, one in self.placed.items() if one.charge is None)
        outcomes = sorted((number, one.charge) for number, one in self.placed.items() if one.charge is not None)
        assert [row["id"] for row in self.book.rows("SELECT id FROM holds ORDER BY id")] == open_holds
        rows = self.book.rows("SELECT id, charge_nano FROM usage ORDER BY id")
        assert [tuple(row.values()) for row in rows] == outcomes

    @invariant()
    def an_overrun_is_marked(self) -> None:
        marked = {row["id"] for row in self.book.rows("SELECT id FROM usage WHERE overrun")}
        assert marked == {
            number
            for number, one in self.placed.items()
            if one.charge is not None and one.bounded and one.charge > one.hold.grant.amount_nano
        }

    @invariant()
    def the_books_balance(self) -> None:
        assert self.book.findings() == []


def test_a_random_walk() -> None:
    run_state_machine_as_test(Life, settings=settings(max_examples=60, stateful_step_count=40))
