"""Included tokens and overage in the book: exact charges, and no order of events that overspends."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from llmgate.errors import Refusal
from llmgate.limits import parse
from llmgate.overage import UNLIMITED
from llmgate.plans import Plan, Policy
from llmgate.pricing import FREE
from llmgate.store import accounts, holds, keys, limits
from llmgate.store.holds import Hold, Settled
from llmgate.types import Billing, Meters

from ..books import Book

PER_TOKEN = 100
"""Nano-USD for each token past the included ones."""


def policy(quota: str = "1000 tokens/month", *more: str, price: int = PER_TOKEN) -> Policy:
    plan = Plan(
        name="starter",
        price_nano=0,
        limits=tuple(parse(text) for text in (quota, *more)),
        models=(),
        overage_nano=price,
    )
    return Policy(plans={"starter": plan}, limits=(), alert_at=())


STARTER = policy()


def subscriber(book: Book, name: str = "alice", **fields: Any) -> str:
    key = book.user(name, **fields)
    with book.write() as tx:
        accounts.set_user(tx, name, {"plan": "starter"})
    return key


def place(book: Book, key: str, terms: Policy = STARTER, *, now_ms: int = 1_790_000_000_000, **fields: Any) -> Hold:
    claim = book.claim(key, **fields)
    with book.write(now_ms) as tx:
        return holds.place(tx, claim, terms)


def settle(book: Book, hold: Hold, tokens: int, terms: Policy = STARTER, **fields: Any) -> Settled:
    outcome = book.outcome(Meters(input=tokens, calls=1), **fields)
    with book.write() as tx:
        return holds.settle(tx, hold.id, outcome, terms)


def use(book: Book, key: str, tokens: int, terms: Policy = STARTER, **fields: Any) -> Settled:
    shared = {name: fields[name] for name in ("model", "upstream") if name in fields}
    return settle(book, place(book, key, terms, bound=tokens, output=1, **fields), tokens, terms, **shared)


def refused(book: Book, key: str, terms: Policy = STARTER, **fields: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        place(book, key, terms, **fields)
    return caught.value


def test_included_tokens_cost_nothing_and_each_past_them_is_charged(book: Book) -> None:
    key = subscriber(book, credits=100_000)
    assert [use(book, key, tokens).charge_nano for tokens in (600, 400, 1, 250)] == [0, 0, PER_TOKEN, 250 * PER_TOKEN]
    told = book.rows("SELECT quota_tokens, quota_glob, quota_used, overage_nano FROM usage ORDER BY id")
    assert [tuple(row.values()) for row in told] == [(1000, "*", used, PER_TOKEN) for used in (0, 600, 1000, 1001)]
    assert book.money("alice") == (100_000 - 251 * PER_TOKEN, 0)
    assert book.findings() == []


def test_a_request_that_crosses_the_quota_is_charged_for_what_is_past_it(book: Book) -> None:
    key = subscriber(book)
    use(book, key, 999)
    assert use(book, key, 3).charge_nano == 2 * PER_TOKEN


def test_who_has_no_credit_is_served_within_the_quota_and_not_past_it(book: Book) -> None:
    key = subscriber(book, billing=Billing.PREPAID)
    hold = place(book, key, bound=400, output=500)
    assert (hold.grant.amount_nano, hold.grant.output_tokens, hold.grant.bounded) == (0, 500, True)
    assert settle(book, hold, 900).charge_nano == 0
    assert refused(book, key, bound=60, output=41).code == "insufficient_credits"
    assert place(book, key, bound=60, output=40).grant.amount_nano == 0
    assert book.findings() == []


def test_the_answer_is_clamped_to_the_included_tokens(book: Book) -> None:
    key = subscriber(book, billing=Billing.PREPAID)
    hold = place(book, key, bound=100, output=2_000)
    assert (hold.grant.output_tokens, hold.grant.clamped, hold.grant.amount_nano) == (900, True, 0)
    told = refused(book, key, bound=100, output=2_000)
    assert told.code == "credits_held"
    settle(book, hold, 1_000)
    told = refused(book, key, bound=100, output=2_000)
    assert told.code == "insufficient_credits"
    assert "may cost $0.0000356 " in told.message
    assert (
        "of the 1000 tokens a month that your plan includes 0 are left; each past them costs $0.0000001" in told.message
    )


def test_one_that_is_placed_later_and_settled_first_is_paid_for_by_the_other(book: Book) -> None:
    """The first was within the quota when it was placed. The second uses it up, and the first must be able to pay."""
    key = subscriber(book, credits=100_000)
    first = place(book, key, bound=999, output=1)
    assert book.money("alice") == (100_000, 0)
    second = place(book, key, bound=299, output=1)
    assert book.money("alice") == (100_000, 2 * 300 * PER_TOKEN)
    assert settle(book, second, 300).charge_nano == 0
    settled = settle(book, first, 1_000)
    assert (settled.charge_nano, settled.overrun) == (300 * PER_TOKEN, False)
    assert book.money("alice") == (100_000 - 300 * PER_TOKEN, 0)
    assert book.findings() == []


def test_one_that_would_make_the_others_overspend_waits(book: Book) -> None:
    key = subscriber(book, credits=50 * PER_TOKEN)
    first = place(book, key, bound=999, output=1)
    assert refused(book, key, bound=99, output=1).code == "credits_held"
    settle(book, first, 10)
    assert place(book, key, bound=99, output=1).grant.amount_nano == 0


def test_whom_only_others_are_in_the_way_of_a_budget_waits(book: Book) -> None:
    key = subscriber(book)
    with book.write() as tx:
        limits.hang(tx, "alice", ["$0.00001/day"])  # 10,000 nano: 100 tokens past the included ones
    first = place(book, key, bound=999, output=1)
    assert refused(book, key, bound=149, output=1).code == "credits_held"
    settle(book, first, 1_000)
    told = refused(book, key, bound=149, output=1)
    assert (told.code, "can never fit" in told.message) == ("budget_exceeded", True)


def test_a_budget_on_another_key_is_not_overspent_by_this_one(book: Book) -> None:
    """The quota is the user's, the budget that one key's: what this key uses up, the other must be able to pay."""
    subscriber(book, billing=Billing.METERED)
    with book.write() as tx:
        own = [keys.add(tx, "alice", name=name) for name in ("a", "b")]
        limits.hang(tx, f"key:{own[0].id}", ["$0.000001/day"])  # 1,000 nano: 10 tokens
    first = place(book, own[0].key, bound=999, output=1)
    assert refused(book, own[1].key, bound=99, output=1).code == "credits_held"
    raised = place(book, own[1].key, bound=9, output=1)
    assert book.rows("SELECT amount_nano FROM holds ORDER BY id")[0]["amount_nano"] == 10 * PER_TOKEN
    settle(book, raised, 10)
    assert settle(book, first, 1_000).charge_nano == 10 * PER_TOKEN
    assert book.findings() == []


def test_a_limit_of_their_own_says_how_many_tokens_are_included(book: Book) -> None:
    key = subscriber(book)
    with book.write() as tx:
        limits.hang(tx, "alice", ["1500 tokens/month"])
    assert use(book, key, 1_600).charge_nano == 100 * PER_TOKEN
    with book.write() as tx:
        limits.hang(tx, "alice", ["unlimited tokens/month"])
    assert use(book, key, 5_000).charge_nano == 0
    assert book.rows("SELECT quota_tokens FROM usage ORDER BY id")[1]["quota_tokens"] == UNLIMITED
    assert book.findings() == []


def test_only_the_models_that_the_quota_means_are_on_these_terms(book: Book) -> None:
    terms = policy("1000 tokens/month on gpt*")
    key = subscriber(book)
    assert use(book, key, 700, terms, model="claude", upstream="anthropic").charge_nano == 700  # by its price
    assert use(book, key, 1_001, terms).charge_nano == PER_TOKEN


def test_other_limits_of_the_plan_still_refuse(book: Book) -> None:
    terms = policy("1000 tokens/month", "500 tokens/minute")
    key = subscriber(book)
    assert refused(book, key, terms, bound=900, estimate=900, output=1).code == "rate_limited"


def test_without_overage_the_month_is_a_limit(book: Book) -> None:
    plan = Plan(name="starter", price_nano=0, limits=(parse("100 tokens/month"),), models=())
    terms = Policy(plans={"starter": plan}, limits=(), alert_at=())
    key = subscriber(book)
    told = refused(book, key, terms, bound=200, estimate=200, output=1)
    assert told.code == "rate_limited"


def test_a_default_that_is_tighter_still_refuses(book: Book) -> None:
    terms = Policy(plans=STARTER.plans, limits=(parse("200 tokens/month"),), alert_at=())
    key = subscriber(book)
    assert refused(book, key, terms, bound=400, estimate=400, output=1).code == "rate_limited"


def test_a_new_month_includes_its_tokens_again_and_the_old_one_is_settled_by_its_own(book: Book) -> None:
    key = subscriber(book)
    october, november = 1_790_000_000_000, 1_790_000_000_000 + 40 * 86_400_000
    use(book, key, 900, now_ms=october)
    late = place(book, key, bound=299, output=1, now_ms=october)
    assert use(book, key, 1_000, now_ms=november).charge_nano == 0
    assert settle(book, late, 300).charge_nano == 200 * PER_TOKEN
    assert use(book, key, 5, now_ms=november).charge_nano == 5 * PER_TOKEN
    assert book.findings() == []


def test_a_request_cut_off_by_a_crash_is_charged_by_the_terms(book: Book) -> None:
    key = subscriber(book)
    use(book, key, 990)
    place(book, key, bound=100, estimate=30, output=1)
    book.crash()
    assert book.recover().charge_nano == 20 * PER_TOKEN
    assert book.findings() == []


def test_a_row_that_is_corrected_takes_its_place_after_all_others(book: Book) -> None:
    key = subscriber(book)
    first = place(book, key, bound=999, output=1)
    settle(book, first, 500)
    use(book, key, 400)
    assert settle(book, first, 700).charge_nano == 100 * PER_TOKEN
    assert book.value("SELECT sum(charge_nano) FROM usage") == 100 * PER_TOKEN
    assert book.findings() == []


# ── tokens that no hold could foresee ─────────────────────────────────────────────────────────────────────────────────

FLAT = Plan(name="flat", price_nano=0, limits=(), models=())
BOTH = Policy(plans={**STARTER.plans, "flat": FLAT}, limits=(), alert_at=())


@pytest.mark.parametrize("leaves", [True, False], ids=["leaves", "joins"])
def test_tokens_of_another_plan_dont_make_a_request_overspend(book: Book, leaves: bool) -> None:
    """They use up the included tokens as well, but those who placed them knew nothing of who is in flight here."""
    key = subscriber(book, credits=1_000)
    if leaves:
        first = place(book, key, BOTH, bound=499, output=1)
    with book.write() as tx:
        accounts.set_user(tx, "alice", {"plan": "flat"})
    other = place(book, key, BOTH, bound=999, output=1, price=FREE)
    if not leaves:
        with book.write() as tx:
            accounts.set_user(tx, "alice", {"plan": "starter"})
        first = place(book, key, BOTH, bound=499, output=1)
    settle(book, other, 1_000, BOTH, price=FREE)
    settled = settle(book, first, 500, BOTH)
    assert (settled.charge_nano, settled.overrun, book.money("alice")) == (0, False, (1_000, 0))
    assert book.value("SELECT quota_used FROM usage WHERE id = ?", first.id) == 500
    assert book.findings() == []


def test_an_answer_without_bound_does_not_make_another_overspend(book: Book) -> None:
    """One key has a budget, the other has none: what that one is sent has no bound."""
    key = subscriber(book, billing=Billing.METERED)
    with book.write() as tx:
        tight = keys.add(tx, "alice", name="tight")
        limits.hang(tx, f"key:{tight.id}", ["$0.000001/day"])
    free = place(book, key, bound=99, output=1)
    first = place(book, tight.key, bound=99, output=1)
    assert (free.grant.output_tokens, first.grant.output_tokens) == (None, 1)
    settle(book, free, 5_000)
    settled = settle(book, first, 100)
    assert (settled.charge_nano, settled.overrun) == (0, False)
    assert book.value("SELECT sum(used) FROM counters WHERE unit = 'USD'") == 0
    assert book.findings() == []


def test_what_an_upstream_bills_beyond_its_own_bound_is_charged_all_the_same(book: Book) -> None:
    key = subscriber(book, credits=100_000)
    first = place(book, key, bound=499, output=1)
    use(book, key, 1)
    settled = settle(book, first, 1_200)
    assert (settled.charge_nano, settled.overrun) == (201 * PER_TOKEN, True)
    assert book.findings() == []


DAY_MS = 86_400_000


def test_a_budget_of_the_day_before_is_not_overspent_by_who_comes_today(book: Book) -> None:
    """Its counter tells of today by now."""
    key = subscriber(book, billing=Billing.METERED)
    with book.write() as tx:
        tight = keys.add(tx, "alice", name="tight")
        limits.hang(tx, f"key:{tight.id}", ["$0.000001/day"])  # 10 tokens
    yesterday = 1_790_000_000_000
    first = place(book, tight.key, bound=899, output=1, now_ms=yesterday)
    use(book, tight.key, 50, now_ms=yesterday + DAY_MS)
    told = refused(book, key, bound=99, output=1, now_ms=yesterday + DAY_MS)
    assert told.code == "credits_held"
    use(book, key, 59, now_ms=yesterday + DAY_MS)
    assert settle(book, first, 900).charge_nano == 9 * PER_TOKEN
    assert book.findings() == []


def test_unlimited_included_tokens_are_not_even_counted(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no counter to know them, and adding up a month for each request would take long."""
    key = subscriber(book, credits=1_000)
    with book.write() as tx:
        limits.hang(tx, "alice", ["unlimited tokens/month"])
    monkeypatch.setattr(limits, "used_now", None)
    assert use(book, key, 5_000).charge_nano == 0
    assert book.findings() == []


def test_no_hold_sets_more_aside_than_could_ever_be_paid(book: Book) -> None:
    """Sums of holds stay within 64 bits."""
    key = subscriber(book, billing=Billing.METERED)
    terms = policy("0 tokens/month", price=2_000_000)
    told = refused(book, key, terms, output=2**31 - 1, choices=2, price=FREE)
    assert "more than could ever be paid" in told.message


def test_the_terms_are_those_of_the_model_that_was_asked_for(book: Book) -> None:
    """A fallback that the quota means doesn't make the dear model that it stands in for free."""
    terms = policy("1000 tokens/month on gpt*")
    key = subscriber(book)
    models = (("claude", "anthropic/claude"), ("gpt", "openai/gpt"))
    claim = msgspec.structs.replace(
        book.claim(key, model="claude", upstream="anthropic", names=(*models[0], *models[1]), bound=700, output=1),
        models=models,
    )
    with book.write(1_790_000_000_000) as tx:
        hold = holds.place(tx, claim, terms)
    assert settle(book, hold, 700, terms, model="claude", upstream="anthropic").charge_nano == 700


def test_what_nobody_bills_draws_on_nothing(book: Book) -> None:
    key = subscriber(book, billing=Billing.PREPAID)
    use(book, key, 999)
    assert refused(book, key, bound=5, output=1).code == "insufficient_credits"
    claim = msgspec.structs.replace(book.claim(key, bound=5, output=0, price=FREE), free=True)
    with book.write(1_790_000_000_000) as tx:
        assert holds.place(tx, claim, STARTER).grant.amount_nano == 0


def test_a_default_that_is_looser_than_the_quota_still_refuses(book: Book) -> None:
    terms = Policy(plans=STARTER.plans, limits=(parse("2000 tokens/month"),), alert_at=())
    key = subscriber(book)
    assert use(book, key, 1_200, terms, estimate=1_200).charge_nano == 200 * PER_TOKEN
    assert refused(book, key, terms, bound=900, estimate=900, output=1).code == "rate_limited"


# ── a random walk ─────────────────────────────────────────────────────────────────────────────────────────────────────

QUOTA = 300
WALK = policy(f"{QUOTA} tokens/month")


class Month(RuleBasedStateMachine):
    """One user on a plan with overage: two keys, one with a budget of its own, and a prepaid balance."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.book = book = Book(Path(self.folder.name) / "x.db")
        subscriber(book, credits=120 * PER_TOKEN)
        with book.write() as tx:
            made = [keys.add(tx, "alice", name=name) for name in ("free", "tight")]
            limits.hang(tx, f"key:{made[1].id}", ["$0.000004 total"])  # 40 tokens past the included ones
        self.keys = [one.key for one in made]
        self.credits = 120 * PER_TOKEN
        self.flying: list[Hold] = []
        self.used = self.charged = 0

    def teardown(self) -> None:
        self.book.close()
        self.folder.cleanup()

    @rule(which=st.integers(0, 1), bound=st.integers(1, 200), output=st.integers(1, 200), least=st.integers(1, 50))
    def place(self, which: int, bound: int, output: int, least: int) -> None:
        try:
            hold = place(self.book, self.keys[which], WALK, bound=bound, output=output, least=min(least, output))
        except Refusal:
            assert self.flying or self.used + bound + output > QUOTA
        else:
            assert hold.grant.output_tokens is not None
            self.flying.append(hold)

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), share=st.integers(0, 4))
    def settle(self, data: st.DataObject, share: int) -> None:
        hold = self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))
        tokens = hold.grant.bound_tokens * share // 4
        settled = settle(self.book, hold, tokens, WALK)
        expected = PER_TOKEN * (max(0, self.used + tokens - QUOTA) - max(0, self.used - QUOTA))
        assert (settled.charge_nano, settled.overrun) == (expected, False)
        self.used += tokens
        self.charged += expected

    @precondition(lambda self: self.flying)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.book.release(self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1))))

    @rule(nano=st.integers(1, 30 * PER_TOKEN))
    def credit(self, nano: int) -> None:
        self.book.add("alice", nano)
        self.credits += nano

    @precondition(lambda self: self.flying)
    @rule()
    def crash(self) -> None:
        """Everything in flight is booked by its estimate, in the order of its holds."""
        self.book.crash()
        self.book.recover()
        for hold in sorted(self.flying, key=lambda hold: hold.id):
            tokens = hold.claim.quote.input_estimate
            self.charged += PER_TOKEN * (max(0, self.used + tokens - QUOTA) - max(0, self.used - QUOTA))
            self.used += tokens
        self.flying = []

    @invariant()
    def nothing_is_overspent(self) -> None:
        balance, held = self.book.money("alice")
        assert balance == self.credits - self.charged
        assert balance - held >= 0
        if not self.flying:
            assert held == 0
        rows = self.book.rows(
            "SELECT k.name, sum(charge_nano) AS nano FROM usage JOIN keys k ON k.id = key_id GROUP BY 1"
        )
        assert all(row["nano"] <= 40 * PER_TOKEN for row in rows if row["name"] == "tight")
        assert self.book.value("SELECT count(*) FROM usage WHERE overrun") == 0
        assert self.charged == PER_TOKEN * max(0, self.used - QUOTA)

    @invariant()
    def the_books_balance(self) -> None:
        assert self.book.findings() == []


def test_no_order_of_events_overspends() -> None:
    run_state_machine_as_test(Month, settings=settings(max_examples=60, stateful_step_count=30))
