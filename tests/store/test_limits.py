"""Limits in the books: a random walk against a plain model, and each rule of them by name."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as walk

from llmgate.errors import Refusal, UsageError
from llmgate.limits import Limit, parse
from llmgate.plans import Plan, Policy
from llmgate.pricing import FREE, Price
from llmgate.quoting import amount_at
from llmgate.store import accounts, events, holds, keys, ledger, limits
from llmgate.store.db import Database, Tx, set_zone
from llmgate.store.holds import Hold, Settled
from llmgate.store.limits import Standing
from llmgate.types import Billing, Meters

from ..books import PRICE, Book

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000


def at(text: str, zone: str = "UTC") -> int:
    """The instant of a time as a clock on the wall shows it; a time that comes twice is the first."""
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()) * 1000


NOON = at("2026-11-18 12:00")  # a Wednesday


def policy_of(
    *default: str, plan: Sequence[str] = (), alert_at: tuple[int, ...] = (), low: tuple[int, ...] = ()
) -> Policy:
    """The default's limits, and those of the one plan, `small`."""
    return Policy(
        plans={"small": Plan(name="small", price_nano=0, limits=tuple(map(parse, plan)), models=())},
        limits=tuple(map(parse, default)),
        alert_at=alert_at,
        low_balance=low,
    )


class Clocked:
    """A book whose clock a test sets, and which everything is placed by."""

    def __init__(self, book: Book, policy: Policy | None = None, now_ms: int = NOON) -> None:
        self.book = book
        self.policy = policy or policy_of()
        self.now_ms = now_ms

    @property
    def tx(self) -> Tx:
        """For reading, at the book's moment."""
        return Tx(self.book.db.conn, self.now_ms, "test")

    def hang(self, target: str, *texts: str) -> None:
        with self.book.write(self.now_ms) as tx:
            limits.hang(tx, target, texts, self.policy.alert_at)

    def remove(self, target: str, text: str | None) -> None:
        with self.book.write(self.now_ms) as tx:
            limits.take_off(tx, target, text)

    def place(self, key: str, **fields: Any) -> Hold:
        claim = self.book.claim(key, **fields)
        with self.book.write(self.now_ms) as tx:
            return holds.place(tx, claim, self.policy)

    def refused(self, key: str, **fields: Any) -> Refusal:
        """What a claim is refused with: nothing of it may be left."""
        tables = ("accounts", "holds", "counters")
        before = [self.book.rows(f"SELECT * FROM {table}") for table in tables]
        with pytest.raises(Refusal) as caught:
            self.place(key, **fields)
        assert [self.book.rows(f"SELECT * FROM {table}") for table in tables] == before
        return caught.value

    def settle(self, hold: Hold, meters: Meters | None = None, **fields: Any) -> Settled:
        outcome = self.book.outcome(meters if meters is not None else Meters(input=10, output=5, calls=1), **fields)
        with self.book.write(self.now_ms) as tx:
            return holds.settle(tx, hold.id, outcome, self.policy)

    def use(self, key: str, count: int = 1, meters: Meters | None = None, **fields: Any) -> None:
        """Whole requests, placed and settled at this moment."""
        for _ in range(count):
            self.settle(self.place(key, **fields), meters)

    def standings(self, key: str, names: Sequence[str] | None = None) -> list[Standing]:
        caller = keys.authenticate(self.tx, keys.hash_key(key))
        plan = self.policy.plans.get(caller.plan or "")
        return limits.standings(self.tx, caller, plan, self.policy, names)

    def used(self, key: str) -> dict[str, tuple[int, int]]:
        """Used and held of every limit of a key, by how the limit is written."""
        return {str(one.limit): (one.used, one.held) for one in self.standings(key)}

    def applying(self, key: str, *names: str) -> set[str]:
        """Where the limits of a key hang, and how they are written."""
        return {f"{one.source}: {one.limit}" for one in self.standings(key, names or None)}

    def events(self) -> list[str]:
        return [row["message"] for row in events.since(self.tx, 0) if row["kind"] != "corrected"]


@pytest.fixture
def clocked(book: Book) -> Clocked:
    return Clocked(book)


# ── a random walk ─────────────────────────────────────────────────────────────────────────────────────────────────────

POLICY = policy_of(
    *("5 requests/hour", "900 tokens/day on gpt*", "2 concurrent on llama"),
    plan=("3 requests/hour", "$0.000003/week", "2000 output tokens/month", "unlimited tokens/day on gpt*"),
    alert_at=(80, 100),
)

KEYS = {"alice": "alice", "bob": "bob", "bob-2": "bob", "carl": "carl"}
"""Keys, and whose they are. alice has the plan, bob is in the team at first, carl has neither."""

TARGETS = ("user:alice", "user:bob", "user:carl", "team:ops", "key:bob", "key:bob-2")

NAMES = {
    "gpt": ("gpt", "openai/gpt"),
    "llama": ("llama", "local/llama"),
    "fast": ("fast", "openai/gpt", "azure/gpt-4"),
}
"""Models, and what they go by. `fast` has two routes."""

MEANT = {
    "gpt": ("gpt", "openai/gpt"),
    "llama": ("llama", "local/llama"),
    "fast": ("fast", "openai/gpt", "azure/gpt-4", "gpt", "gpt-4"),
}
"""What limits know them by."""

ROUTES = {"gpt": [("openai", "gpt")], "llama": [("local", "llama")], "fast": [("openai", "gpt"), ("azure", "gpt-4")]}

WINDOWS = ("/minute", "/hour", "/day", "/week", "/month", " total")
AMOUNTS = {
    "requests": ("0", "1", "2", "4"),
    "tokens": ("60", "400", "2000"),
    "input tokens": ("40", "150"),
    "output tokens": ("50", "300", "1500"),
    "USD": ("0", "0.00000015", "0.000001", "0.000004"),
}
GLOBS = ("", "", "", " on gpt*", " on openai/*", " on azure/*", " on *llama")


@st.composite
def limit_texts(draw: st.DrawFn) -> str:
    glob = draw(st.sampled_from(GLOBS))
    if draw(st.integers(0, 5)) == 0:
        return f"{draw(st.sampled_from(('0', '1', '2', 'unlimited')))} concurrent{glob}"
    unit = draw(st.sampled_from(sorted(AMOUNTS)))
    amount = draw(st.sampled_from((*AMOUNTS[unit], *AMOUNTS[unit], "unlimited")))
    return f"{amount} {unit}{draw(st.sampled_from(WINDOWS))}{glob}"


def label(window: str, ms: int, day: date) -> Any:
    """What tells one window from another, worked out without knowing where it begins or ends."""
    match window:
        case "minute":
            return ms // MINUTE
        case "hour":
            return ms // HOUR
        case "day":
            return day
        case "week":
            return tuple(day.isocalendar())[:2]
        case "month":
            return day.year, day.month
    return None


class Request:
    """A request as the model knows it: in flight, or settled with what it used."""

    def __init__(self, hold: Hold, subjects: set[str], placed_ms: int, day: date, needs: dict[str, int]) -> None:
        self.hold = hold
        self.subjects = subjects
        self.placed_ms = placed_ms
        self.day = day
        self.held = needs
        self.used: dict[str, int] | None = None
        self.names = MEANT[hold.claim.model]
        self.worker = hold.claim.worker_id


def needs_of(input_tokens: int, output_tokens: int, nano: int) -> dict[str, int]:
    return {
        "requests": 1,
        "tokens": input_tokens + output_tokens,
        "input tokens": input_tokens,
        "output tokens": output_tokens,
        "USD": nano,
    }


EXACT = ("requests", "output tokens", "USD", "concurrent")
"""Units whose hold is a bound, not an estimate."""


class Walk(RuleBasedStateMachine):
    """Limits, requests and a clock beside a plain model of them."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.book = book = Book(Path(self.folder.name) / "x.db")
        book.team("ops")
        self.keys = {"alice": book.user("alice"), "bob": book.user("bob", team="ops"), "carl": book.user("carl")}
        with book.write() as tx:
            accounts.set_user(tx, "alice", {"plan": "small"})
            self.keys["bob-2"] = keys.add(tx, "bob").key
        self.ids = {name: keys.authenticate(book.tx, keys.hash_key(key)).key_id for name, key in self.keys.items()}
        self.clocked = Clocked(book, POLICY)
        self.zone = ZoneInfo("UTC")
        self.in_team = {"bob"}
        self.planned = {"alice"}
        self.hung: dict[str, dict[Any, Limit]] = {target: {} for target in TARGETS}
        self.requests: dict[int, Request] = {}

    def teardown(self) -> None:
        self.book.close()
        self.folder.cleanup()

    # the model

    def day(self, ms: int) -> date:
        return datetime.fromtimestamp(ms / 1000, self.zone).date()

    def label(self, window: str, ms: int) -> Any:
        return label(window, ms, self.day(ms))

    def subjects(self, key: str) -> list[str]:
        user = KEYS[key]
        return [f"key:{key}", f"user:{user}", *(["team:ops"] if user in self.in_team else [])]

    def limits(self, key: str) -> list[tuple[str, Limit]]:
        """Whom each limit of a key's requests counts, in no order."""
        found: dict[tuple[str, Any], Limit] = {}
        for subject in self.subjects(key):
            own = self.hung.get(subject, {})
            shared = list(POLICY.limits) if subject.startswith("user:") else []
            if subject.startswith("user:") and KEYS[key] in self.planned:
                shared += POLICY.plans["small"].limits
            for limit in [*own.values(), *(limit for limit in shared if limit.slot not in own)]:
                if limit.amount is not None:
                    there = found.setdefault((subject, limit.slot), limit)
                    if there.amount is not None and limit.amount < there.amount:
                        found[subject, limit.slot] = limit
        return [(subject, limit) for (subject, _), limit in found.items()]

    def sums(self, subject: str, limit: Limit) -> tuple[int, int]:
        """Used and held of a limit at this moment."""
        used = held = 0
        now = self.label(limit.window, self.clocked.now_ms)
        for one in self.requests.values():
            if subject not in one.subjects or not any(fnmatchcase(name, limit.glob) for name in one.names):
                continue
            if limit.unit == "concurrent":
                held += one.used is None
            elif label(limit.window, one.placed_ms, one.day) == now:
                used += one.used[limit.unit] if one.used else 0
                held += one.held[limit.unit] if one.used is None else 0
        return used, held

    def lacking(self, key: str, model: str, needs: dict[str, int], free: bool) -> set[str]:
        """The codes of the limits that a request doesn't satisfy, by what it needs."""
        codes = set()
        for subject, limit in self.limits(key):
            if not any(fnmatchcase(name, limit.glob) for name in MEANT[model]) or (limit.unit == "USD" and free):
                continue
            used, held = self.sums(subject, limit)
            need = needs.get(limit.unit, 1)
            assert limit.amount is not None
            if used + held + need <= limit.amount:
                continue
            if limit.unit != "USD":
                codes.add("rate_limited")
            else:
                codes.add("credits_held" if held and used + need <= limit.amount else "budget_exceeded")
        return codes - {"rate_limited"} or codes  # what must be paid comes before what must be waited for

    # what happens

    @rule(
        key=st.sampled_from(sorted(KEYS)),
        model=st.sampled_from(sorted(NAMES)),
        bound=st.integers(1, 200),
        estimate=st.integers(0, 60),
        output=st.one_of(st.integers(1, 60), st.integers(1, 60), st.integers(250, 600)),
        choices=st.integers(1, 2),
        price=st.sampled_from((PRICE, PRICE, FREE)),
    )
    def place(self, key: str, model: str, price: Price, **fields: Any) -> None:
        upstream = ROUTES[model][0][0]
        wanted = {"model": model, "upstream": upstream, "names": NAMES[model], "price": price, **fields}
        claim = self.book.claim(self.keys[key], **wanted)
        quote, free = claim.quote, price is FREE

        def needs(output: int) -> dict[str, int]:
            nano = amount_at(claim.price, quote.input_tokens, output, quote.choices)
            return needs_of(-(-5 * quote.input_estimate // 4), output * quote.choices, nano)

        lacking = self.lacking(key, model, needs(quote.floor_tokens), free)
        if lacking:
            assert self.clocked.refused(self.keys[key], **wanted).code in lacking
            return
        hold = self.clocked.place(self.keys[key], **wanted)
        most = hold.grant.amounts.output_tokens // quote.choices
        assert not self.lacking(key, model, needs(most), free)
        if most < quote.output_tokens:
            assert self.lacking(key, model, needs(most + 1), free), "the longest answer that fits"
        held = needs(most)
        self.requests[hold.id] = Request(
            hold, set(self.subjects(key)), self.clocked.now_ms, self.day(self.clocked.now_ms), held
        )

    def pick(self, data: st.DataObject, *, settled: bool) -> Request:
        return data.draw(st.sampled_from([one for one in self.requests.values() if (one.used is not None) == settled]))

    def totals(self) -> dict[Any, int]:
        return {
            (subject, limit.slot): sum(self.sums(subject, limit))
            for key in KEYS
            for subject, limit in self.limits(key)
            if limit.unit in EXACT
        }

    def settle(self, data: st.DataObject, one: Request, most_input: int, most_output: int) -> None:
        total_in, total_out = data.draw(st.integers(0, most_input)), data.draw(st.integers(0, most_output))
        cached, thought = data.draw(st.integers(0, total_in)), data.draw(st.integers(0, total_out))
        meters = Meters(
            input=total_in - cached, cached_input=cached, output=total_out - thought, reasoning=thought, calls=1
        )
        upstream, model = data.draw(st.sampled_from(ROUTES[one.hold.claim.model]))
        price = one.hold.claim.cost.price
        settled = self.clocked.settle(one.hold, meters, price=price, upstream=upstream, model=model)
        one.used = needs_of(total_in, total_out, settled.charge_nano)

    @precondition(lambda self: any(one.used is None for one in self.requests.values()))
    @rule(data=st.data())
    def settle_within_the_bounds(self, data: st.DataObject) -> None:
        one, before = self.pick(data, settled=False), self.totals()
        self.settle(data, one, one.hold.claim.quote.input_tokens, one.held["output tokens"])
        assert all(total <= before[limit] for limit, total in self.totals().items()), "what was held is enough"

    @precondition(lambda self: any(one.used is None for one in self.requests.values()))
    @rule(data=st.data())
    def settle_above_the_bounds(self, data: st.DataObject) -> None:
        self.settle(data, self.pick(data, settled=False), 2_000, 2_000)

    @precondition(lambda self: any(one.used is None for one in self.requests.values()))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        one = self.pick(data, settled=False)
        self.book.release(one.hold)
        del self.requests[one.hold.id]

    @precondition(lambda self: any(one.used is not None for one in self.requests.values()))
    @rule(data=st.data(), nothing=st.booleans())
    def learn_the_truth_late(self, data: st.DataObject, nothing: bool) -> None:
        one = self.pick(data, settled=True)
        if nothing:
            self.book.release(one.hold)
            del self.requests[one.hold.id]
        else:
            self.settle(data, one, 300, 300)

    @rule(mode=st.sampled_from(("input", "none")))
    def crash_and_recover(self, mode: str) -> None:
        dying = self.book.worker.id
        self.book.crash()
        self.book.recover(mode)
        for one in self.requests.values():
            if one.used is None and one.worker == dying:
                count = one.hold.claim.quote.input_estimate if mode == "input" else 0
                one.used = needs_of(count, 0, 0 if one.hold.claim.cost.price is FREE else count)

    @rule(whom=st.sampled_from(TARGETS), text=limit_texts())
    def set_a_limit(self, whom: str, text: str) -> None:
        self.clocked.hang(self.stored(whom), text)
        limit = parse(text)
        self.hung[whom][limit.slot] = limit

    def stored(self, target: str) -> str:
        kind, _, name = target.partition(":")
        return f"key:{self.ids[name]}" if kind == "key" else target

    @precondition(lambda self: any(self.hung.values()))
    @rule(data=st.data(), everything=st.booleans())
    def remove_limits(self, data: st.DataObject, everything: bool) -> None:
        target = data.draw(st.sampled_from([target for target, hung in self.hung.items() if hung]))
        if everything:
            self.clocked.remove(self.stored(target), None)
            self.hung[target].clear()
        else:
            limit = data.draw(st.sampled_from(list(self.hung[target].values())))
            self.clocked.remove(self.stored(target), str(limit))
            del self.hung[target][limit.slot]

    @rule(user=st.sampled_from(("bob", "carl")), team=st.booleans())
    def move(self, user: str, team: bool) -> None:
        with self.book.write() as tx:
            accounts.set_user(tx, user, {"team": "ops" if team else ""})
        self.in_team = self.in_team | {user} if team else self.in_team - {user}

    @rule(user=st.sampled_from(("alice", "carl")), plan=st.booleans())
    def change_the_plan(self, user: str, plan: bool) -> None:
        with self.book.write() as tx:
            accounts.set_user(tx, user, {"plan": "small" if plan else ""})
        self.planned = self.planned | {user} if plan else self.planned - {user}

    @rule(window=st.sampled_from(("minute", "hour", "day", "week", "month")), short_ms=st.sampled_from((-1, 0, 1, 500)))
    def wait_for_the_end_of(self, window: str, short_ms: int) -> None:
        """To about where the next window begins, found by looking."""
        here = self.label(window, self.clocked.now_ms)
        low, high = self.clocked.now_ms, self.clocked.now_ms + 40 * DAY
        if window in ("minute", "hour"):
            high = low + HOUR
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.label(window, middle) == here else (low, middle)
        self.clocked.now_ms = high + short_ms

    @rule(
        ms=st.sampled_from((1, 999, 31_000, 20 * MINUTE, 7 * HOUR, -1, -MINUTE, -HOUR, -9 * HOUR, -3 * DAY, -20 * DAY))
    )
    def the_clock_is_set(self, ms: int) -> None:
        self.clocked.now_ms += ms

    @rule(zone=st.sampled_from(("UTC", "Europe/Berlin", "Pacific/Auckland")))
    def count_in_another_zone(self, zone: str) -> None:
        """What was booked stays on the day that it was booked on."""
        with self.book.write() as tx:
            set_zone(tx, zone)
        self.zone = ZoneInfo(zone)

    @rule()
    def reopen(self) -> None:
        self.book.reopen()

    # what must be true whatever happened

    @invariant()
    def every_limit_stands_as_in_the_model(self) -> None:
        for key in KEYS:
            told = {
                (f"{one.subject[0]}:{self.told(one)}", one.limit): (one.used, one.held)
                for one in self.clocked.standings(self.keys[key])
            }
            assert told == {(subject, limit): self.sums(subject, limit) for subject, limit in self.limits(key)}

    def told(self, one: Standing) -> str:
        kind, number = one.subject
        if kind == "key":
            return next(name for name, key_id in self.ids.items() if key_id == number)
        return str(self.book.value(f"SELECT name FROM {kind}s WHERE id = ?", int(number)))

    @invariant()
    def the_books_balance(self) -> None:
        assert self.book.findings() == []


def test_a_random_walk() -> None:
    walk(Walk, settings=settings(max_examples=60, stateful_step_count=40))


# ── which limits apply ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_users_own_limit_replaces_the_shared_one_of_its_slot_and_nothing_else(book: Book) -> None:
    policy = policy_of(
        *("9 requests/minute", "7 requests/day", "5 requests/minute on gpt*"),
        plan=("8 requests/hour", "$1/month"),
    )
    clocked, alice = Clocked(book, policy), book.user("alice")
    with book.write() as tx:
        accounts.set_user(tx, "alice", {"plan": "small"})
    defaults = {"default: 9 requests/minute", "default: 7 requests/day", "default: 5 requests/minute on gpt*"}
    assert clocked.applying(alice) == defaults | {"plan: 8 requests/hour", "plan: $1/month"}
    clocked.hang("alice", "100 requests/minute", "$5/month")
    assert clocked.applying(alice) == {
        *("user: 100 requests/minute", "default: 7 requests/day", "default: 5 requests/minute on gpt*"),
        *("plan: 8 requests/hour", "user: $5/month"),
    }
    clocked.remove("alice", "1 requests/minute")  # the amount doesn't matter
    assert clocked.applying(alice) == defaults | {"plan: 8 requests/hour", "user: $5/month"}
    clocked.remove("alice", None)
    assert clocked.applying(alice) == defaults | {"plan: 8 requests/hour", "plan: $1/month"}


def test_of_the_plans_and_the_defaults_limit_of_one_slot_the_tighter_holds(book: Book) -> None:
    clocked = Clocked(book, policy_of("2 requests/hour", "9 requests/day", plan=("3 requests/hour", "8 requests/day")))
    alice = book.user("alice")
    with book.write() as tx:
        accounts.set_user(tx, "alice", {"plan": "small"})
    assert clocked.applying(alice) == {"default: 2 requests/hour", "plan: 8 requests/day"}
    clocked.use(alice, 2)
    assert "2 requests/hour of this gateway" in clocked.refused(alice).message
    assert clocked.used(alice) == {"2 requests/hour": (2, 0), "8 requests/day": (2, 0)}


def test_unlimited_lifts_the_limit_of_its_slot_until_it_is_removed(book: Book) -> None:
    clocked, alice = Clocked(book, policy_of("1 requests/hour", "3 requests/day")), book.user("alice")
    clocked.hang("alice", "unlimited requests/hour")
    clocked.use(alice, 2)
    assert clocked.used(alice) == {"3 requests/day": (2, 0)}
    clocked.remove("alice", "unlimited requests/hour")
    assert "1 requests/hour" in clocked.refused(alice).message


@pytest.mark.parametrize("target", ["key", "team"])
def test_a_keys_and_a_teams_limits_add(book: Book, target: str) -> None:
    clocked = Clocked(book, policy_of("3 requests/hour"))
    book.team("ops")
    bob = book.user("bob", team="ops")
    name = f"key:{book.value('SELECT id FROM keys')}" if target == "key" else "team:ops"
    clocked.hang(name, "unlimited requests/hour")
    assert clocked.applying(bob) == {"default: 3 requests/hour"}, "unlimited of another's replaces nothing"
    clocked.hang(name, "2 requests/hour", "5 requests/day")
    assert clocked.applying(bob) == {
        *("default: 3 requests/hour", f"{target}: 2 requests/hour", f"{target}: 5 requests/day"),
    }
    clocked.use(bob, 2)
    whose = "of this key" if target == "key" else "of your team"
    assert f"2 requests/hour {whose} is reached" in clocked.refused(bob).message


def test_a_team_shares_its_limit_and_a_user_its_own_among_keys(clocked: Clocked) -> None:
    book = clocked.book
    book.team("ops")
    bob, eve = book.user("bob", team="ops"), book.user("eve", team="ops")
    with book.write() as tx:
        second = keys.add(tx, "bob").key
    clocked.hang("team:ops", "3 requests/hour")
    clocked.hang("bob", "2 requests/hour")
    clocked.use(bob)
    clocked.use(second)
    assert "of yours" in clocked.refused(bob).message
    assert "of yours" in clocked.refused(second).message
    clocked.use(eve)
    assert "of your team" in clocked.refused(eve).message
    assert clocked.book.findings() == []


def test_a_plans_limits_hold_for_each_user_of_a_team_that_has_the_plan(book: Book) -> None:
    clocked = Clocked(book, policy_of(plan=("1 requests/hour",)))
    book.team("ops")
    with book.write() as tx:
        accounts.set_team(tx, "ops", {"plan": "small"})
    bob, eve = book.user("bob", team="ops"), book.user("eve", team="ops")
    clocked.use(bob)
    clocked.use(eve)
    assert "1 requests/hour of your plan" in clocked.refused(bob).message


def test_a_user_whose_plan_is_gone_is_refused(clocked: Clocked) -> None:
    alice = clocked.book.user("alice")
    with clocked.book.write() as tx:
        accounts.set_user(tx, "alice", {"plan": "gone"})
    error = clocked.refused(alice)
    assert (error.code, error.http_status) == ("plan_not_found", 403)
    assert "'gone'" in error.message


@pytest.mark.parametrize(
    ("glob", "names", "counts"),
    [
        ("gpt-4o*", ("gpt-4o-mini", "openai/gpt-4o-mini"), True),
        ("gpt-4o*", ("fast", "azure/gpt", "openai/org/gpt-4o-mini"), True),
        ("openai/gpt-4o*", ("fast", "azure/gpt", "openai/gpt-4o-mini"), True),
        ("fast", ("fast", "openai/gpt-4o-mini"), True),
        ("*/gpt-4o-mini", ("fast", "azure/gpt", "openai/gpt-4o-mini"), True),
        ("FAST", ("Fast", "openai/gpt-4o-mini"), True),
        ("gpt-4o*", ("o3", "openai/o3"), False),
    ],
)
@pytest.mark.parametrize("window", ["minute", "month"])
def test_a_glob_means_the_name_asked_for_or_any_route(
    clocked: Clocked, glob: str, names: tuple[str, ...], counts: bool, window: str
) -> None:
    """Also a route that didn't answer: azure did, whatever is first."""
    alice = clocked.book.user("alice")
    text = f"9 requests/{window} on {glob}"
    clocked.hang("alice", text)
    fields: dict[str, Any] = {"model": names[0], "names": names}
    clocked.settle(clocked.place(alice, **fields), upstream="azure", model="gpt")
    clocked.place(alice, **fields)
    assert clocked.used(alice) == {text: (int(counts), int(counts))}
    clocked.hang("alice", text.replace("9", "8"))
    assert list(clocked.used(alice).values()) == [(int(counts), int(counts))], "the facts say the same"
    assert clocked.book.findings() == []


# ── windows ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_limit_set_later_counts_what_was_used_before(clocked: Clocked) -> None:
    """The minute and the hour by the rows, longer windows by the roll-ups; what is in flight counts as held."""
    alice, meters = clocked.book.user("alice"), Meters(input=7, cached_input=3, output=1, reasoning=1, calls=1)
    for before_ms in (40 * DAY, 3 * DAY, 2 * DAY, 5 * HOUR, 30 * MINUTE, 0):
        clocked.now_ms = NOON + 35 * MINUTE - before_ms
        clocked.use(alice, meters=meters)
    hold = clocked.place(alice, bound=100, estimate=40, output=20, choices=2)
    clocked.hang(
        "alice",
        *(f"100 requests{window}" for window in WINDOWS),
        *(
            "1000 tokens/hour",
            "1000 input tokens/hour",
            "1000 output tokens/month",
            "$1/month",
            "$1 total",
            "5 concurrent",
        ),
    )
    expected = {
        "100 requests/minute": (1, 1),
        "100 requests/hour": (2, 1),
        "100 requests/day": (3, 1),
        "100 requests/week": (4, 1),
        "100 requests/month": (5, 1),
        "100 requests total": (6, 1),
        "1000 tokens/hour": (24, 90),
        "1000 input tokens/hour": (20, 50),
        "1000 output tokens/month": (10, 40),
        "$1/month": (5 * 14, 180),
        "$1 total": (6 * 14, 180),
        "5 concurrent": (0, 1),
    }
    assert clocked.used(alice) == expected
    clocked.settle(hold, meters)
    clocked.use(alice, meters=meters)
    assert clocked.used(alice)["$1 total"] == (8 * 14, 0)
    assert clocked.used(alice)["100 requests/week"] == (6, 0)
    assert clocked.book.findings() == []


def test_the_moment_of_the_hold_decides_the_window_also_of_what_is_settled_late(clocked: Clocked) -> None:
    alice = clocked.book.user("alice")
    clocked.hang("alice", "2 requests/minute", "2 requests/day")
    clocked.now_ms = at("2026-11-18 23:59:59")
    early = [clocked.place(alice), clocked.place(alice)]
    assert clocked.refused(alice).code == "rate_limited"
    clocked.now_ms += 1_000
    assert clocked.used(alice) == {"2 requests/minute": (0, 0), "2 requests/day": (0, 0)}
    clocked.use(alice)
    for hold in early:
        clocked.settle(hold)
    assert clocked.used(alice) == {"2 requests/minute": (1, 0), "2 requests/day": (1, 0)}
    assert clocked.book.findings() == []
    clocked.now_ms -= 1_000  # a clock that is set back counts in the window that it shows
    assert clocked.used(alice) == {"2 requests/minute": (2, 0), "2 requests/day": (2, 0)}
    assert clocked.refused(alice).code == "rate_limited"
    assert clocked.book.findings() == []


@pytest.mark.parametrize(
    ("window", "zone", "last", "first"),
    [
        ("minute", "UTC", "2026-11-18 12:34:59.999", "2026-11-18 12:35:00"),
        ("hour", "UTC", "2026-11-18 12:59:59.999", "2026-11-18 13:00:00"),
        ("hour", "Asia/Kolkata", "2026-11-18 12:59:59.999", "2026-11-18 13:00:00"),
        ("day", "UTC", "2028-02-28 23:59:59.999", "2028-02-29 00:00"),
        ("day", "UTC", "2028-02-29 23:59:59.999", "2028-03-01 00:00"),
        ("day", "Europe/Berlin", "2026-03-28 23:59:59.999", "2026-03-29 00:00"),
        ("day", "Europe/Berlin", "2026-03-29 23:59:59.999", "2026-03-30 00:00"),
        ("day", "Europe/Berlin", "2026-10-25 23:59:59.999", "2026-10-26 00:00"),
        ("week", "UTC", "2026-11-22 23:59:59.999", "2026-11-23 00:00"),  # a Sunday, a Monday
        ("week", "Europe/Berlin", "2026-03-29 23:59:59.999", "2026-03-30 00:00"),
        ("week", "UTC", "2027-01-03 23:59:59.999", "2027-01-04 00:00"),
        ("month", "UTC", "2028-02-29 23:59:59.999", "2028-03-01 00:00"),
        ("month", "America/New_York", "2026-12-31 23:59:59.999", "2027-01-01 00:00"),
        ("month", "Europe/Berlin", "2026-10-31 23:59:59.999", "2026-11-01 00:00"),
    ],
)
def test_a_window_ends_where_the_next_begins(clocked: Clocked, window: str, zone: str, last: str, first: str) -> None:
    book, text = clocked.book, f"2 requests/{window}"
    alice = book.user("alice")
    clocked.hang("alice", text)
    with book.write() as tx:
        set_zone(tx, zone)
    clocked.now_ms = at(first, zone) - 1
    assert clocked.now_ms // 1000 * 1000 == at(last, zone)
    clocked.use(alice, 2)
    assert clocked.refused(alice).code == "rate_limited"
    clocked.now_ms += 1
    assert clocked.used(alice) == {text: (0, 0)}
    clocked.use(alice)
    assert clocked.used(alice) == {text: (1, 0)}
    assert book.findings() == []


@pytest.mark.parametrize(
    ("day", "hours"), [("2026-03-28", 24), ("2026-03-29", 23), ("2026-10-25", 25), ("2026-10-26", 24)]
)
def test_a_day_has_as_many_hours_as_its_clocks_show(clocked: Clocked, day: str, hours: int) -> None:
    """Where clocks change, an hour that is skipped is none, and one that comes twice is two."""
    book = clocked.book
    alice = book.user("alice")
    with book.write() as tx:
        set_zone(tx, "Europe/Berlin")
    clocked.hang("alice", "1 requests/hour", "99 requests/day")
    start = at(day, "Europe/Berlin")
    for hour in range(hours):
        clocked.now_ms = start + hour * HOUR
        clocked.use(alice)
        clocked.now_ms += HOUR - 1
        assert "1 requests/hour" in clocked.refused(alice).message
    assert clocked.used(alice) == {"1 requests/hour": (1, 0), "99 requests/day": (hours, 0)}
    clocked.now_ms += 1
    assert clocked.used(alice) == {"1 requests/hour": (0, 0), "99 requests/day": (0, 0)}
    assert book.findings() == []


def test_another_zone_clears_the_counters(clocked: Clocked) -> None:
    book = clocked.book
    alice = book.user("alice")
    clocked.hang("alice", "5 requests/day", "5 requests/hour", "5 requests/day on gpt", "5 requests/month")
    clocked.now_ms = at("2026-11-18 23:10")
    clocked.use(alice, 2)
    hold = clocked.place(alice)
    with book.write() as tx:
        set_zone(tx, "Europe/Berlin")  # where it is the 19th already
    assert book.rows("SELECT * FROM counters") == []
    assert book.findings() == []
    clocked.use(alice)
    assert clocked.used(alice)["5 requests/hour"] == (3, 1)
    assert book.findings() == []
    clocked.settle(hold)
    assert clocked.used(alice)["5 requests/hour"] == (4, 0)
    assert book.findings() == [], "what was in flight is counted where its day was booked"


def test_a_day_has_what_was_booked_on_it_whatever_the_zone_is_now(clocked: Clocked) -> None:
    """By roll-ups and by rows: a day of Berlin begins before that of UTC."""
    alice = clocked.book.user("alice")
    with clocked.book.write() as tx:
        set_zone(tx, "Europe/Berlin")
    clocked.now_ms = at("2026-11-18 23:10")
    clocked.use(alice)
    clocked.place(alice)
    with clocked.book.write() as tx:
        set_zone(tx, "UTC")
    clocked.now_ms = at("2026-11-19 01:00")
    clocked.hang("alice", "5 requests/day", "5 requests/day on gpt")
    assert set(clocked.used(alice).values()) == {(1, 1)}
    clocked.use(alice)
    assert set(clocked.used(alice).values()) == {(2, 1)}
    assert clocked.book.findings() == []


# ── what is told ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_threshold_is_told_once_per_limit_and_window(book: Book) -> None:
    clocked = Clocked(book, policy_of("5 requests/day", alert_at=(50, 80, 100)))
    alice = book.user("alice")
    clocked.hang("alice", "10 requests/month on gpt*")
    clocked.use(alice, 2)
    assert clocked.events() == []
    clocked.use(alice)
    until = "until 2026-11-19T00:00:00.000Z"
    assert clocked.events() == [f"50 % of the limit 5 requests/day is used {until}"]
    clocked.use(alice, 2)
    month = "of the limit 10 requests/month on gpt* is used until 2026-12-01T00:00:00.000Z"
    expected = [
        *(f"{percent} % of the limit 5 requests/day is used {until}" for percent in (50, 80, 100)),
        f"50 % {month}",
    ]
    assert sorted(clocked.events()) == sorted(expected)
    row = events.since(clocked.tx, 0)[0]
    assert (row["kind"], row["target"], row["time_ms"]) == ("limit", "alice", NOON)
    clocked.settle(holds_of(clocked, alice)[-1], Meters(calls=1))  # corrected: under the threshold, and over it again
    assert len(clocked.events()) == 4
    clocked.now_ms += DAY
    clocked.use(alice, 3)
    assert [text for text in clocked.events() if text not in expected] == [
        "50 % of the limit 5 requests/day is used until 2026-11-20T00:00:00.000Z",
        f"80 % {month}",
    ]


def holds_of(clocked: Clocked, key: str) -> list[Hold]:
    """What was placed and settled by a key, as if its holds had been kept."""
    kept = clocked.book.rows("SELECT id FROM usage ORDER BY id")
    claim = clocked.book.claim(key)
    grant = holds.decide(Tx(clocked.book.db.conn, 0, "test"), claim)
    return [Hold(id=row["id"], claim=claim, grant=grant, placed_ms=0, row={}) for row in kept]


def test_thresholds_that_one_request_crosses_together(book: Book) -> None:
    clocked, alice = Clocked(book, policy_of("$0.0000001 total", alert_at=(80, 100))), book.user("alice")
    clocked.use(alice, meters=Meters(input=100, calls=1), bound=20, output=30)
    assert clocked.events() == [f"{n} % of the limit $0.0000001 total is used" for n in (80, 100)]


def test_two_processes_tell_a_threshold_once(book: Book) -> None:
    clocked, alice = Clocked(book, policy_of("4 requests/day", alert_at=(50,))), book.user("alice")
    other = Clocked(Book(book.path), clocked.policy)
    first, second, third = clocked.place(alice), other.place(alice), clocked.place(alice)
    clocked.settle(first)
    other.settle(second)
    clocked.book.release(first)  # nothing was used after all: it is under the threshold again
    other.settle(third)
    assert len(clocked.events()) == 1
    assert other.used(alice) == {"4 requests/day": (2, 0)}
    with Database(book.path) as db, db.write() as tx:
        assert events.record(tx, "limit", ("user", "1"), "it", "told") is True
    with book.write() as tx:
        assert events.record(tx, "limit", ("user", "1"), "it", "told") is False
    other.book.close()


def test_a_balance_that_is_low_without_any_request_is_told_too(book: Book) -> None:
    clocked = Clocked(book, policy_of(low=(500, 100)))
    book.user("alice", credits=1_000)
    book.user("bob", billing=Billing.PREPAID)
    assert ledger.untold_low(book.tx, (500, 100)) == []
    with book.write() as tx:
        ledger.take(tx, "alice", 600)
    (low,) = ledger.untold_low(book.tx, (500, 100))
    with book.write() as tx:
        ledger.tell_low(tx, *low)
    assert clocked.events() == ["the balance is $0.0000004, below $0.0000005"]
    assert ledger.untold_low(book.tx, (500, 100)) == [], "bob never had credits, and alice was told of"
    book.add("alice", 50)
    assert len(ledger.untold_low(book.tx, (500, 100))) == 1, "credits came, and it is low again"


def told(clocked: Clocked) -> list[str]:
    return [text.partition(" is used")[0] for text in clocked.events()]


def test_a_limit_that_is_past_its_thresholds_when_it_is_set_tells_them(book: Book) -> None:
    clocked, alice = Clocked(book, policy_of(alert_at=(50, 100))), book.user("alice")
    clocked.use(alice, 3)
    clocked.hang("alice", "5 requests/day", "10 requests/day", "3 requests/month")
    assert told(clocked) == [
        "50 % of the limit 3 requests/month",
        "100 % of the limit 3 requests/month",
    ], "of one slot the last is the limit, and 3 of 10 is no threshold"


def test_a_limit_that_was_raised_tells_its_thresholds_anew(book: Book) -> None:
    clocked, alice = Clocked(book, policy_of(alert_at=(100,))), book.user("alice")
    clocked.hang("alice", "1 requests/day")
    clocked.use(alice, 1)
    clocked.hang("alice", "2 requests/day")
    clocked.use(alice, 1)
    assert told(clocked) == ["100 % of the limit 1 requests/day", "100 % of the limit 2 requests/day"]


def test_so_does_one_of_a_plan_that_has_changed_at_the_next_request(book: Book) -> None:
    clocked, alice = Clocked(book, policy_of(alert_at=(50, 100))), book.user("alice")
    clocked.use(alice, 3)
    clocked.policy = policy_of("5 requests/day", alert_at=(50, 100))
    clocked.place(alice)
    assert told(clocked) == ["50 % of the limit 5 requests/day"]
    clocked.use(alice)
    assert told(clocked) == ["50 % of the limit 5 requests/day"]


@pytest.mark.parametrize("change", ["raise", "remove", "lift"])
def test_a_limit_that_is_no_more_tells_nothing(book: Book, change: str) -> None:
    clocked, alice = Clocked(book, policy_of(alert_at=(50,))), book.user("alice")
    clocked.hang("alice", "2 requests/day")
    hold = clocked.place(alice)
    match change:
        case "raise":
            clocked.hang("alice", "100 requests/day")
        case "remove":
            clocked.remove("alice", "2 requests/day")
        case "lift":
            clocked.hang("alice", "unlimited requests/day")
    clocked.settle(hold)
    assert clocked.events() == []
    assert book.findings() == []


def test_a_shared_limit_that_a_reload_has_changed_is_told_as_it_is_now(book: Book) -> None:
    clocked, alice = Clocked(book, policy_of("2 requests/day")), book.user("alice")
    clocked.use(alice)
    clocked.policy = policy_of("4 requests/day", alert_at=(50,))
    clocked.use(alice)
    assert [text.partition(" is used")[0] for text in clocked.events()] == ["50 % of the limit 4 requests/day"]


def test_a_low_balance_is_told_once_until_credits_come(book: Book) -> None:
    clocked, alice = Clocked(book, policy_of(low=(500, 100))), book.user("alice", credits=1_000)
    spend = Meters(input=200, calls=1)

    def use(count: int) -> None:
        clocked.use(alice, count, spend, bound=200, output=1, least=1)

    use(2)
    assert clocked.events() == []
    use(1)
    assert clocked.events() == ["the balance is $0.0000004, below $0.0000005"]
    first = holds_of(clocked, alice)[-1]
    clocked.settle(first, Meters(calls=1))  # it was less after all
    clocked.settle(first, spend)
    assert len(clocked.events()) == 1
    with book.write(NOON) as tx:
        ledger.add(tx, "alice", 200)
    use(1)
    assert clocked.events()[1:] == ["the balance is $0.0000004, below $0.0000005"]
    row = events.since(clocked.tx, 0)[-1]
    assert (row["kind"], row["target"]) == ("low_balance", "alice")


def test_the_balance_of_a_team_and_of_who_is_metered(book: Book) -> None:
    clocked = Clocked(book, policy_of(low=(500,)))
    book.team("ops", credits=600)
    bob, eve = book.user("bob", team="ops"), book.user("eve", billing=Billing.METERED, credits=600)
    for key in (bob, eve):
        clocked.use(key, meters=Meters(input=200, calls=1), bound=200, output=1)
    assert [(row["target"], row["message"]) for row in events.since(clocked.tx, 0)] == [
        ("team:ops", "the balance is $0.0000004, below $0.0000005")
    ]


# ── what admins do ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_limit_is_set_replaced_and_removed(clocked: Clocked) -> None:
    clocked.book.user("alice")
    clocked.hang("user:alice", "5 requests/day", "$2/month on gpt*")
    clocked.hang("alice", "6 requests/day")
    assert shown(clocked, "alice") == ["$2/month on gpt*", "6 requests/day"]
    assert shown(clocked, None) == ["$2/month on gpt*", "6 requests/day"]
    for text in ("6 requests/hour", "6 tokens/day", "6 requests/day on gpt*"):
        with pytest.raises(Refusal) as caught:
            clocked.remove("alice", text)
        assert (caught.value.code, "`llmgate limits alice`" in caught.value.message) == ("not_found", True)
    with pytest.raises(UsageError):
        clocked.remove("alice", "all of them")
    clocked.remove("alice", None)
    assert shown(clocked, "alice") == []
    with pytest.raises(Refusal):
        clocked.remove("alice", None)
    assert [row["action"] for row in clocked.book.rows("SELECT action FROM audit ORDER BY id")][-3:] == [
        *("limits.set", "limits.set", "limits.remove"),
    ]


def shown(clocked: Clocked, target: str | None) -> list[str]:
    return sorted(str(found.standing.limit) for found in limits.listing(clocked.tx, clocked.policy, target))


def test_nothing_is_set_where_one_of_the_texts_is_wrong(clocked: Clocked) -> None:
    clocked.book.user("alice")
    with pytest.raises(UsageError):
        clocked.hang("alice", "5 requests/day", "5 apples/day")
    assert shown(clocked, "alice") == []


@pytest.mark.parametrize("target", ["nobody", "user:nobody", "team:nobody", "team:alice", "key:nobody", "key:k-2"])
def test_a_target_that_is_nobody(clocked: Clocked, target: str) -> None:
    clocked.book.user("alice")
    with pytest.raises(Refusal) as caught:
        clocked.hang(target, "5 requests/day")
    assert caught.value.code == "not_found"


def test_the_listing_has_everybodys_limits(book: Book) -> None:
    clocked = Clocked(book, policy_of("5 requests/day"))
    book.team("ops")
    book.user("bob", team="ops")
    key_id = book.value("SELECT id FROM keys")
    clocked.hang("team:ops", "$5/day")
    clocked.hang("key:bob/default", "3 concurrent")
    with book.write(NOON) as tx:
        listed = [limits.as_row(found.target, found.standing) for found in limits.listing(tx, clocked.policy)]
    day = "2026-11-19T00:00:00.000Z"
    fields = ("target", "limit", "source", "used", "held", "remaining", "resets_at")
    assert listed == [
        dict(zip(fields, ("bob", "5 requests/day", "default", 0, 0, 5, day), strict=True)),
        dict(zip(fields, ("team:ops", "$5/day", "team", "0", "0", "5", day), strict=True)),
        dict(zip(fields, (f"key:{key_id}", "3 concurrent", "key", 0, 0, 3, None), strict=True)),
    ]


# ── verify ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("statement", "check"),
    [
        ("UPDATE counters SET used = used - 1 WHERE unit = 'requests'", "limits used"),
        ("UPDATE counters SET held = held + 1 WHERE unit = 'USD'", "limits held"),
        ("UPDATE counters SET glob = 'o3' WHERE unit = 'requests'", "limits used"),
        ("UPDATE counters SET start_ms = start_ms + 1, end_ms = start_ms + 2 WHERE unit = 'requests'", "limits used"),
    ],
)
def test_a_counter_that_was_changed_is_found(clocked: Clocked, statement: str, check: str) -> None:
    alice = clocked.book.user("alice")
    clocked.hang("alice", "5 requests/hour", "$1/day", "5 concurrent")
    clocked.use(alice, 2)
    assert clocked.book.findings() == []
    clocked.book.tamper(statement)
    assert [(finding.check, finding.derived) for finding in clocked.book.findings()] == [(check, True)]


def test_a_request_takes_of_all_limits_or_of_none(clocked: Clocked) -> None:
    """The last limit that is looked at refuses: those before it are as they were."""
    book = clocked.book
    book.team("ops")
    bob = book.user("bob", team="ops")
    clocked.hang(f"key:{book.value('SELECT id FROM keys')}", "9 requests/hour", "9 concurrent")
    clocked.hang("bob", "$1/day", "5000 tokens/hour")
    clocked.hang("team:ops", "1 requests/day")
    clocked.use(bob)
    before = clocked.used(bob)
    error = clocked.refused(bob)
    assert "1 requests/day of your team" in error.message
    assert clocked.used(bob) == before
