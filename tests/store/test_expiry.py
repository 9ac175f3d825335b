"""Credits that expire: a random walk against a model that does it as it happens, and each rule by name."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgate.errors import Refusal
from llmgate.store import accounts, ledger
from llmgate.store.db import Database, now_ms
from llmgate.store.expiry import replay
from llmgate.store.holds import Hold
from llmgate.store.verify.repair import repair
from llmgate.types import Billing, Meters

from ..books import Book

LATER = ledger.LOOK_AGAIN_MS


def at(book: Book, now_ms: int, what: Callable[..., Any], *args: Any, **fields: Any) -> Any:
    with book.write(now_ms) as tx:
        return what(tx, *args, **fields)


def expire(book: Book, now_ms: int, target: str = "alice") -> int:
    with book.write(now_ms) as tx:
        return ledger.expire_due(tx, accounts.account_of(tx, target)[0])


def use(book: Book, key: str, tokens: int, now_ms: int) -> None:
    """A request that is charged so much."""
    book.use(key, Meters(input=tokens, calls=1), now_ms=now_ms, bound=tokens, output=0)


def lots(book: Book, target: str = "alice") -> list[tuple[int, int]]:
    """The entry and the rest of each lot."""
    return [(lot.entry_id, lot.left_nano) for lot in ledger.lots(book.tx, accounts.account_of(book.tx, target)[0])]


def entries(book: Book) -> list[tuple[str, int, int | None]]:
    return [(row["kind"], row["amount_nano"], row["cause"]) for row in book.rows("SELECT * FROM entries ORDER BY id")]


def next_ms(book: Book, target: str = "alice") -> int | None:
    value: int | None = book.account(target)["expires_next_ms"]
    return value


# ── a random walk ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Purse:
    """The model: what happens is done at once, to a list of lots. No replay, no SQL."""

    def __init__(self) -> None:
        self.lots: list[list[int]] = []  # [grant, expires, left]
        self.pool = self.debt = 0
        self.reversed: set[int] = set()

    @property
    def balance(self) -> int:
        return self.pool + sum(lot[2] for lot in self.lots) - self.debt

    def give(self, amount: int, grant: int = 0, expires: int = 0) -> None:
        paid = min(self.debt, amount)
        self.debt -= paid
        if expires:
            self.lots.append([grant, expires, amount - paid])
            self.lots.sort(key=lambda lot: (lot[1], lot[0]))
        else:
            self.pool += amount - paid

    def spend(self, amount: int, own: int | None = None) -> list[tuple[int, int]]:
        """Of which grants how much; `own` first, 0 being the pool."""
        drawn: list[tuple[int, int]] = []
        if own == 0:
            amount -= self._from_pool(amount, drawn)
        for lot in sorted(self.lots, key=lambda lot: lot[0] != own):
            part = min(lot[2], amount)
            lot[2] -= part
            amount -= part
            drawn.append((lot[0], part))
        amount -= self._from_pool(amount, drawn)
        self.debt += amount
        drawn.append((0, amount))
        return drawn

    def _from_pool(self, amount: int, drawn: list[tuple[int, int]]) -> int:
        part = min(self.pool, amount)
        self.pool -= part
        drawn.append((0, part))
        return part

    def back(self, drawn: list[tuple[int, int]], now: int) -> None:
        for grant, part in drawn:
            paid = min(self.debt, part)
            self.debt -= paid
            good = [lot for lot in self.lots if lot[0] == grant and lot[1] > now and grant not in self.reversed]
            if good:
                good[0][2] += part - paid
            else:
                self.pool += part - paid

    def expire(self, now: int) -> list[tuple[int, int]]:
        due = [(grant, left) for grant, expires, left in self.lots if expires <= now and left]
        for lot in self.lots:
            if lot[1] <= now:
                lot[2] = 0
        return due


SEEDS = st.integers(0, 2**32)
USERS = ("alice", "bob", "carol")
STEPS = 60
"""Of one walk: a seed is drawn and not the steps, because hypothesis likes its sequences short and simple."""


class Walk:
    """No request is in flight for long here: each is settled at once."""

    def __init__(self, seed: int, path: Path) -> None:
        self.random = Random(seed)
        self.book = Book(path)
        self.keys = {name: self.book.user(name, billing=Billing.METERED) for name in USERS}
        self.purses = {name: Purse() for name in USERS}
        self.now = 1_000_000
        self.last = 0
        self.drawn: dict[int, tuple[str, list[tuple[int, int]]]] = {}  # what entries took
        self.given: dict[int, tuple[str, str, int, int]] = {}  # account, kind, amount, grant of what entries gave
        self.halves: dict[int, int] = {}
        self.expired: dict[int, int] = {}
        self.gone: set[int] = set()
        self.charges: dict[int, tuple[str, int, int]] = {}  # usage row: account, charge, refunded
        self.refunds: dict[int, int] = {}
        self.total = 0

    def walk(self) -> None:
        steps = (
            *3 * (self.add, self.use),
            *2 * (self.take, self.reverse),
            self.transfer,
            self.refund,
            self.wait,
            self.look,
        )
        for _ in range(STEPS):
            self.random.choice(steps)(self.random.choice(USERS), self.random.randint(1, 60))
            self.the_book_is_the_model()
        assert self.book.findings() == []

    def tick(self, who: str) -> None:
        """The next moment, and what expires of an account until then."""
        self.now += 1
        for grant, left in self.purses[who].expire(self.now):
            self.last += 1
            self.total -= left
            self.expired[grant] = self.expired.get(grant, 0) + left
            self.given[self.last] = (who, "expire", -left, grant)

    def moved(self, entry_id: int, amount: int) -> None:
        self.last += 1
        assert entry_id == self.last
        self.total += amount

    def add(self, who: str, amount: int) -> None:
        self.tick(who)
        expires = self.random.choice((None, self.now + self.random.randint(2, 200)))
        moved = at(self.book, self.now, ledger.add, who, amount, expires_ms=expires)
        self.moved(moved.entry_id, amount)
        self.purses[who].give(amount, self.last, expires or 0)
        self.given[self.last] = (who, "add", amount, self.last if expires else 0)

    def take(self, who: str, amount: int) -> None:
        self.tick(who)
        moved = at(self.book, self.now, ledger.take, who, amount, force=True)
        self.moved(moved.entry_id, -amount)
        self.drawn[self.last] = (who, self.purses[who].spend(amount))

    def use(self, who: str, tokens: int) -> None:
        self.tick(who)
        use(self.book, self.keys[who], tokens, self.now)
        self.purses[who].spend(tokens)
        self.charges[self.book.value("SELECT max(id) FROM usage")] = (who, tokens, 0)
        self.total -= tokens

    def transfer(self, giver: str, amount: int) -> None:
        taker = self.random.choice([who for who in USERS if who != giver])
        self.tick(giver)
        self.now -= 1
        self.tick(taker)
        moved = at(self.book, self.now, ledger.transfer, giver, taker, amount, force=True)
        assert moved.other
        self.moved(moved.entry_id, -amount)
        self.drawn[self.last] = (giver, self.purses[giver].spend(amount))
        self.moved(moved.other.entry_id, amount)
        self.purses[taker].give(amount)
        self.given[self.last] = (taker, "transfer", amount, 0)
        self.halves |= {self.last: self.last - 1, self.last - 1: self.last}

    def refund(self, _: str, amount: int) -> None:
        if not self.charges:
            return
        row = self.random.choice(sorted(self.charges))
        who, charge, refunded = self.charges[row]
        if amount > charge - refunded:
            with pytest.raises(Refusal), self.book.write(self.now) as tx:
                ledger.refund(tx, str(row), amount)
            return
        self.tick(who)
        moved = at(self.book, self.now, ledger.refund, str(row), amount)
        self.moved(moved.entry_id, amount)
        self.purses[who].give(amount)
        self.given[self.last] = (who, "refund", amount, 0)
        self.charges[row] = (who, charge, refunded + amount)
        self.refunds[self.last] = row

    def reverse(self, _who: str, _amount: int) -> None:
        if not self.last:
            return
        number = self.random.randint(max(1, self.last - 20), self.last)
        both = [number, self.halves[number]] if number in self.halves else [number]
        known = all(half in self.drawn or half in self.given for half in both)  # not a reversal
        if not known or number in self.gone:
            with pytest.raises(Refusal), self.book.write(self.now) as tx:
                ledger.reverse(tx, number)
            return
        self.now += 1
        for who in sorted({(self.drawn.get(half) or self.given[half])[0] for half in both}):
            self.now -= 1  # all at one moment
            self.tick(who)
            expire(self.book, self.now, who)
        if number in self.given:
            _, kind, amount, grant = self.given[number]
            if kind == "expire" or (grant == number and self.expired.get(grant) == amount):
                with pytest.raises(Refusal), self.book.write(self.now) as tx:
                    ledger.reverse(tx, number)
                return
        moved: ledger.Moved | None = at(self.book, self.now, ledger.reverse, number, force=True)
        for half in both:
            assert moved
            self.undo(half, moved)
            moved = moved.other

    def undo(self, number: int, moved: ledger.Moved) -> None:
        self.gone.add(number)
        if number in self.drawn:
            who, drawn = self.drawn[number]
            self.moved(moved.entry_id, sum(part for _, part in drawn))
            self.purses[who].back(drawn, self.now)
            return
        who, _, amount, grant = self.given[number]
        amount -= self.expired.get(number, 0)
        self.moved(moved.entry_id, -amount)
        self.purses[who].spend(amount, own=grant)
        self.purses[who].reversed.add(number)
        if number in self.refunds:
            row = self.refunds[number]
            account, charge, refunded = self.charges[row]
            self.charges[row] = (account, charge, refunded - amount)

    def wait(self, _: str, forward: int) -> None:
        self.now += forward

    def look(self, who: str, _: int) -> None:
        self.tick(who)
        expire(self.book, self.now, who)

    def the_book_is_the_model(self) -> None:
        for who in USERS:
            model = self.purses[who]
            purse = ledger.purse(self.book.tx, self.book.account(who)["id"])
            assert [[lot.entry_id, lot.expires_ms, lot.left_nano] for lot in purse.left()] == [
                lot for lot in model.lots if lot[2]
            ]
            assert (purse.pool.left_nano, purse.debt_nano) == (model.pool, model.debt)
            assert self.book.money(who) == (purse.balance_nano, 0) == (model.balance, 0)
            tx = self.book.tx
            tx.now_ms = self.now
            latest, stored = ledger.expires_next(tx, self.book.account(who)["id"]), next_ms(self.book, who)
            assert latest is None or (stored is not None and stored <= latest)
        assert self.book.value("SELECT count(*) FROM entries") == self.last
        assert self.book.value("SELECT sum(balance_nano) FROM accounts") == self.total


@given(seed=SEEDS)
@settings(max_examples=15)
def test_a_random_walk(seed: int) -> None:
    with TemporaryDirectory() as folder:
        walk = Walk(seed, Path(folder) / "x.db")
        try:
            walk.walk()
        finally:
            walk.book.close()


class Flight:
    """Requests in flight while credits expire: one prepaid account, which may never be overspent nor robbed."""

    def __init__(self, seed: int, path: Path) -> None:
        self.random = Random(seed)
        self.book = Book(path)
        self.key = self.book.user("alice", billing=Billing.PREPAID)
        self.now = 1_000_000
        self.flying: list[Hold] = []
        self.events: list[tuple[int, int, int]] = []  # moment, amount, when it expires

    def fly(self) -> None:
        steps = (*2 * (self.add, self.wait), *4 * (self.place,), *3 * (self.settle,), self.take, self.look)
        for _ in range(STEPS):
            self.now += 1
            self.random.choice(steps)(self.random.randint(1, 60))
            balance, held = self.book.money("alice")
            assert balance >= held
        for hold in self.flying:
            self.book.release(hold)
        self.now += 1000
        self.look(0)
        self.nothing_more_expired_than_was_unused()
        assert lots(self.book) == []
        assert self.book.money("alice") == (self.ideal(), 0)
        assert self.book.findings() == []

    def ideal(self) -> int:
        """What is left if everybody knew at once what each request would be charged."""
        purse = Purse()
        charges = [(row["time_ms"], -row["charge_nano"], 0) for row in self.book.rows("SELECT * FROM usage")]
        for moment, amount, expires in sorted(self.events + charges, key=lambda event: event[0]):
            purse.expire(moment)
            if amount > 0:
                purse.give(amount, moment, expires)
            else:
                purse.spend(-amount)
        purse.expire(self.now)
        assert purse.debt == 0
        return purse.balance

    def add(self, amount: int) -> None:
        expires = self.random.choice((None, self.now + self.random.randint(2, 100)))
        at(self.book, self.now, ledger.add, "alice", amount, expires_ms=expires)
        self.events.append((self.now, amount, expires or 0))

    def take(self, amount: int) -> None:
        try:
            at(self.book, self.now, ledger.take, "alice", amount)
        except Refusal:
            return
        self.events.append((self.now, -amount, 0))

    def place(self, bound: int) -> None:
        expire(self.book, self.now)
        balance, held = self.book.money("alice")
        if balance > held:
            bound = min(bound, balance - held)
            self.flying.append(self.book.place(self.key, bound=bound, output=0, now_ms=self.now))

    def settle(self, _: int) -> None:
        if self.flying:
            hold = self.flying.pop(self.random.randrange(len(self.flying)))
            self.book.settle(hold, Meters(input=self.random.randint(0, hold.grant.amount_nano), calls=1))

    def wait(self, forward: int) -> None:
        self.now += forward

    def look(self, _: int) -> None:
        before = self.book.money("alice")
        gone = expire(self.book, self.now)
        balance, held = self.book.money("alice")
        assert (balance + gone, held) == before

    def nothing_more_expired_than_was_unused(self) -> None:
        """Each expiry took only what its own grant had left, by all charges that are known now."""
        charges = [(row["time_ms"], row["charge_nano"]) for row in self.book.rows("SELECT * FROM usage")]

        def charged(since_ms: int, until_ms: int | None) -> int:
            return sum(nano for moment, nano in charges if since_ms <= moment < min(until_ms or end_ms, end_ms))

        rows = self.book.tx.execute("SELECT * FROM entries ORDER BY id").fetchall()
        for number, row in enumerate(rows):
            if row["kind"] == "expire":
                end_ms = row["created_ms"]
                purse = replay(rows[:number], charged)
                assert purse.lots[row["cause"]].left_nano >= -row["amount_nano"] > 0


@given(seed=SEEDS)
@settings(max_examples=25)
def test_requests_in_flight_while_credits_expire(seed: int) -> None:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger, "LOOK_AGAIN_MS", 0)  # else what is left over expires a little late
        flight = Flight(seed, Path(folder) / "x.db")
        try:
            flight.fly()
        finally:
            flight.book.close()


# ── what expires ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def key(book: Book) -> str:
    return book.user("alice", billing=Billing.PREPAID)


def test_what_nobody_used_is_taken_away_when_it_expires(book: Book, key: str) -> None:
    at(book, 100, ledger.add, "alice", 50, expires_ms=1000)
    at(book, 100, ledger.add, "alice", 7)
    use(book, key, 20, 500)
    assert next_ms(book) == 1000
    assert expire(book, 999) == 0
    assert expire(book, 1000) == 30
    assert expire(book, 1000) == 0
    assert book.money("alice") == (7, 0)
    assert entries(book)[2:] == [("expire", -30, 1)]
    assert (next_ms(book), lots(book)) == (None, [])


def test_what_expires_first_is_used_first(book: Book, key: str) -> None:
    for amount, expires in ((10, 3000), (10, None), (10, 1000), (10, 2000), (10, 1000)):
        at(book, 100, ledger.add, "alice", amount, expires_ms=expires)
    assert lots(book) == [(3, 10), (5, 10), (4, 10), (1, 10)]
    use(book, key, 15, 200)
    assert lots(book) == [(5, 5), (4, 10), (1, 10)]
    at(book, 300, ledger.take, "alice", 10)
    assert lots(book) == [(4, 5), (1, 10)]
    at(book, 400, ledger.transfer, "alice", "bob", 10) if book.user("bob") else None
    assert lots(book) == [(1, 5)]
    assert lots(book, "bob") == [], "what was transferred doesn't expire any more"
    use(book, key, 10, 500)
    assert (lots(book), book.money("alice")) == ([], (5, 0))
    assert expire(book, 5000) == 0


def test_two_that_expire_at_once_are_two_entries(book: Book, key: str) -> None:
    for amount, expires in ((10, 1000), (20, 900), (40, 5000)):
        at(book, 100, ledger.add, "alice", amount, expires_ms=expires)
    assert expire(book, 1000) == 30
    assert entries(book)[3:] == [("expire", -20, 2), ("expire", -10, 1)]
    assert next_ms(book) == 5000


def test_what_a_request_in_flight_holds_expires_when_it_has_ended(book: Book, key: str) -> None:
    """It was granted while the credit was good. What it leaves over expires in a second entry."""
    at(book, 100, ledger.add, "alice", 50, expires_ms=1000)
    hold = book.place(key, bound=30, output=0, now_ms=500)
    assert expire(book, 1000) == 20
    assert book.money("alice") == (30, 30)
    assert next_ms(book) == 1000 + LATER
    book.settle(hold, Meters(input=12, calls=1))
    assert expire(book, 1001) == 0, "not looked at again so soon"
    assert expire(book, 1000 + LATER) == 18
    assert book.money("alice") == (0, 0)
    assert entries(book)[1:] == [("expire", -20, 1), ("expire", -18, 1)]
    assert next_ms(book) is None


def test_what_was_placed_after_credits_expired_holds_others(book: Book, key: str) -> None:
    at(book, 100, ledger.add, "alice", 50, expires_ms=1000)
    at(book, 100, ledger.add, "alice", 100)
    early = book.place(key, bound=30, output=0, now_ms=500)
    late = book.place(key, bound=90, output=0, now_ms=1500)
    assert entries(book)[2:] == [("expire", -20, 1)]
    assert expire(book, 2000 + LATER) == 0
    book.release(early)
    assert expire(book, 2000 + 2 * LATER) == 30
    book.settle(late, Meters(input=90, calls=1))
    assert book.money("alice") == (10, 0)


def test_a_request_in_flight_keeps_only_credits_that_were_there_when_it_was_placed(book: Book, key: str) -> None:
    at(book, 100, ledger.add, "alice", 3, expires_ms=1000)
    at(book, 100, ledger.add, "alice", 7)
    hold = book.place(key, bound=10, output=0, now_ms=200)
    at(book, 300, ledger.add, "alice", 10, expires_ms=900)
    assert expire(book, 1000) == 10
    assert entries(book)[3:] == [("expire", -10, 3)]
    book.settle(hold, Meters(input=10, calls=1))
    assert (expire(book, 1000 + LATER), book.money("alice")) == (0, (0, 0))


def test_expiry_never_takes_what_is_held_by_whom(book: Book) -> None:
    """A metered account may hold more than it has: nothing is taken that would be needed for it."""
    key = book.user("alice", billing=Billing.METERED)
    at(book, 100, ledger.add, "alice", 50, expires_ms=1000)
    hold = book.place(key, bound=60, output=0, now_ms=500)
    assert expire(book, 2000) == 0
    book.settle(hold, Meters(input=20, calls=1))
    assert expire(book, 2000 + LATER) == 30
    assert book.money("alice") == (0, 0)


def test_an_account_in_debt_has_nothing_to_expire(book: Book, key: str) -> None:
    at(book, 100, ledger.take, "alice", 80, force=True)
    at(book, 200, ledger.add, "alice", 50, expires_ms=1000)
    assert (lots(book), expire(book, 1000), book.money("alice")) == ([], 0, (-30, 0))
    at(book, 1100, ledger.add, "alice", 50, expires_ms=2000)
    assert (lots(book), expire(book, 2000), book.money("alice")) == ([(2 + 1, 20)], 20, (0, 0))


def test_a_charge_that_is_corrected_after_the_expiry_is_paid_by_what_is_there(book: Book, key: str) -> None:
    """The owner of a hold was believed dead, and lives: its row is corrected to more than was left for it."""
    at(book, 100, ledger.add, "alice", 50, expires_ms=1000)
    at(book, 100, ledger.add, "alice", 100)
    hold = book.place(key, bound=40, output=0, estimate=5, now_ms=500)
    book.crash()
    book.recover()
    assert book.money("alice") == (145, 0)
    assert expire(book, 1000) == 45
    book.settle(hold, Meters(input=40, calls=1))
    purse = ledger.purse(book.tx, book.account("alice")["id"])
    assert (purse.pool.left_nano, purse.debt_nano, purse.left()) == (65, 0, [])
    assert book.money("alice") == (65, 0)
    assert book.findings() == []


def test_what_a_corrected_charge_leaves_over_expires_too(book: Book, key: str) -> None:
    """Nothing was left to expire any more, until the row was corrected to less."""
    at(book, 100, ledger.add, "alice", 50, expires_ms=1000)
    hold = book.place(key, bound=50, output=0, estimate=50, now_ms=500)
    book.crash()
    book.recover()
    assert (expire(book, 1000), next_ms(book)) == (0, None)
    book.settle(hold, Meters(input=10, calls=1))
    assert expire(book, now_ms()) == 40
    assert (book.money("alice"), next_ms(book)) == ((0, 0), None)
    assert book.findings() == []


def test_what_has_expired_is_not_used_by_the_request_that_comes_first_after_it(book: Book, key: str) -> None:
    at(book, 100, ledger.add, "alice", 50, expires_ms=1000)
    at(book, 100, ledger.add, "alice", 7)
    assert book.place(key, bound=57, output=0, now_ms=999).grant.amount_nano == 57
    book.recover()
    with pytest.raises(Refusal) as caught:
        book.place(key, bound=8, output=0, now_ms=1000)
    assert caught.value.code == "credits_held", "the first request is still in flight"
    book.release(1)
    with pytest.raises(Refusal) as caught:
        book.place(key, bound=8, output=0, now_ms=1000 + LATER)
    assert caught.value.code == "insufficient_credits"
    assert book.place(key, bound=7, output=0, now_ms=1000 + LATER).grant.amount_nano == 7
    assert book.findings() == []


def test_credits_that_a_correction_gives_back_too_late_expire_after_all(book: Book, key: str) -> None:
    at(book, 100, ledger.add, "alice", 50, expires_ms=1000)
    hold = book.place(key, bound=40, output=0, estimate=40, now_ms=500)
    book.crash()
    book.recover()
    assert expire(book, 1000) == 10
    assert next_ms(book) is None
    book.settle(hold, Meters(input=15, calls=1))
    assert book.money("alice") == (25, 0)
    assert expire(book, 1001) == 25
    assert book.findings() == []


@pytest.mark.parametrize("told", ["NULL", "5000"])
def test_a_moment_that_is_told_too_late_is_found_and_put_right(book: Book, key: str, told: str) -> None:
    at(book, 100, ledger.add, "alice", 50, expires_ms=4_102_444_800_000)
    book.tamper(f"UPDATE accounts SET expires_next_ms = {told if told == 'NULL' else 'expires_next_ms + 20000'}")
    (finding,) = book.findings()
    assert (finding.check, finding.subject, finding.expected, finding.derived) == (
        *("expiry", "user alice", "2100-01-01T00:00:00.000Z"),
        True,
    )
    list(repair(book.db, [finding]))
    assert next_ms(book) == 4_102_444_800_000
    assert book.findings() == []


def test_a_clock_that_was_set_back_changes_nothing_but_the_moment(book: Book, key: str) -> None:
    at(book, 5000, ledger.add, "alice", 50, expires_ms=9000)
    at(book, 100, ledger.add, "alice", 10)
    use(book, key, 20, 200)
    assert lots(book) == [(1, 30)]
    assert expire(book, 8000) == 0
    assert (expire(book, 9000), book.money("alice")) == (30, (10, 0))


def test_every_command_that_moves_credits_lets_them_expire_first(book: Book, key: str) -> None:
    at(book, 100, ledger.add, "alice", 50, expires_ms=1000)
    with pytest.raises(Refusal) as caught, book.write(1000) as tx:
        ledger.take(tx, "alice", 1)
    assert "alice has $0.00 available" in caught.value.message
    assert at(book, 1000, ledger.add, "alice", 5).balance_nano == 5
    book.user("bob")
    at(book, 1000, ledger.add, "bob", 7, expires_ms=2000)
    moved = at(book, 2000, ledger.transfer, "alice", "bob", 5)
    assert (moved.balance_nano, moved.other.balance_nano) == (0, 5)


def test_nothing_is_replayed_where_nothing_is_due(book: Book, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    at(book, 100, ledger.add, "alice", 50, expires_ms=1000)
    at(book, 100, ledger.add, "alice", 50)
    monkeypatch.setattr(ledger, "purse", None)
    assert expire(book, 999) == 0
    with book.write(999) as tx:
        assert (ledger.due(tx), ledger.expire_all_due(tx)) == ([], 0)


def test_all_accounts_expire_at_once(book: Book) -> None:
    for name in ("alice", "bob", "carol"):
        book.user(name)
    for name, expires in (("alice", 1000), ("bob", 2000), ("carol", 1000)):
        at(book, 100, ledger.add, name, 50, expires_ms=expires)
    with book.write(1500) as tx:
        assert len(ledger.due(tx)) == 2
        assert ledger.expire_all_due(tx) == 100
        assert ledger.due(tx) == []
    assert [book.money(name)[0] for name in ("alice", "bob", "carol")] == [0, 50, 0]


def _expire_from_elsewhere(path: Path, ready: Any) -> None:
    with Database(path, actor="other") as db:
        ready.wait()
        for _ in range(20):
            with db.write() as tx:
                tx.now_ms = 1000
                ledger.expire_all_due(tx)


def test_two_processes_expire_once(book: Book) -> None:
    for name in ("alice", "bob", "carol", "dora"):
        book.user(name)
        for number in range(5):
            at(book, 100, ledger.add, name, 10 + number, expires_ms=1000)
    start = multiprocessing.get_context("spawn")
    ready = start.Barrier(2)
    others = [start.Process(target=_expire_from_elsewhere, args=(book.path, ready)) for _ in range(2)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert [other.exitcode for other in others] == [0, 0]
    rows = book.rows("SELECT cause, amount_nano FROM entries WHERE kind = 'expire' ORDER BY cause")
    assert [tuple(row.values()) for row in rows] == [(number + 1, -10 - number % 5) for number in range(20)]
    assert book.value("SELECT sum(abs(balance_nano)) FROM accounts") == 0
    assert book.findings() == []


# ── reversing ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_of_a_grant_that_expired_in_part_the_rest_is_reversed(book: Book, key: str) -> None:
    at(book, 100, ledger.add, "alice", 50, expires_ms=1000)
    at(book, 100, ledger.add, "alice", 100)
    use(book, key, 20, 500)
    assert expire(book, 1000) == 30
    assert at(book, 1100, ledger.reverse, 1).balance_nano == 80, "as if the grant had never been: 100 - 20"
    assert entries(book)[3:] == [("reverse", -20, None)]
    with pytest.raises(Refusal, match="entry 3 took what had expired"), book.write(1200) as tx:
        ledger.reverse(tx, 3)
    assert book.findings() == []


def test_a_grant_that_expired_whole_has_nothing_to_reverse(book: Book, key: str) -> None:
    at(book, 100, ledger.add, "alice", 50, expires_ms=1000)
    with pytest.raises(Refusal, match="all of entry 1 has expired"), book.write(1000) as tx:
        ledger.reverse(tx, 1)


def test_a_reversed_grant_leaves_other_credits_as_they_were(book: Book, key: str) -> None:
    at(book, 100, ledger.add, "alice", 50, expires_ms=1000)
    at(book, 100, ledger.add, "alice", 60, expires_ms=2000)
    at(book, 200, ledger.reverse, 2)
    assert lots(book) == [(1, 50)]
    assert (expire(book, 1000), expire(book, 2000)) == (50, 0)


def test_an_expiry_is_not_reversed(book: Book, key: str) -> None:
    """The credits would never expire again, and nobody would be told."""
    at(book, 100, ledger.add, "alice", 50, expires_ms=1000)
    expire(book, 1000)
    with pytest.raises(Refusal, match=r"`llmgate credits add alice 0\.00000005 --expires WHEN` grants it"):
        at(book, 1100, ledger.reverse, 2)
    assert book.money("alice") == (0, 0)


def test_an_expiry_that_an_earlier_version_reversed_gives_credits_that_dont_expire(book: Book, key: str) -> None:
    at(book, 100, ledger.add, "alice", 50, expires_ms=1000)
    expire(book, 1000)
    at(book, 1100, ledger.append, 1, "reverse", 50, reverses=2)
    assert book.findings() == []
    assert (lots(book), expire(book, 99999), book.money("alice")) == ([], 0, (50, 0))


def test_what_was_taken_by_mistake_comes_back_as_it_was(book: Book, key: str) -> None:
    at(book, 100, ledger.add, "alice", 50, expires_ms=1000)
    at(book, 100, ledger.add, "alice", 10, expires_ms=500)
    at(book, 100, ledger.add, "alice", 5)
    at(book, 200, ledger.take, "alice", 65)
    at(book, 600, ledger.reverse, 4)
    assert lots(book) == [(1, 50)], "but what would have expired meanwhile doesn't any more"
    assert (expire(book, 1000), book.money("alice")) == (50, (15, 0))


def test_the_charges_of_pruned_rows_use_up_the_credits_that_they_had_used(book: Book, key: str) -> None:
    """A closing entry is written later than they were, and counts at their moment."""
    at(book, 100, ledger.add, "alice", 50, expires_ms=1000)
    at(book, 100, ledger.add, "alice", 100)
    use(book, key, 20, 500)
    expire(book, 1000)
    book.tamper("DELETE FROM usage", "DELETE FROM rollups", "UPDATE accounts SET balance_nano = balance_nano + 20")
    at(book, 2000, ledger.append, 1, "closing", -20, charged_ms=500)
    assert (lots(book), book.money("alice")) == ([], (100, 0))
    with pytest.raises(Refusal, match="stands for the charges"), book.write(2100) as tx:
        ledger.reverse(tx, 4)
