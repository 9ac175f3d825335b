"""Pruning: rows go, and nothing else. A book that was pruned is held beside a twin that never was."""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgate.errors import Refusal, StorageError
from llmgate.limits import parse
from llmgate.limits import span as window_of
from llmgate.plans import Plan, Policy
from llmgate.pricing import UNITS, Price
from llmgate.store import accounts, holds, ledger, limits, prune, reports
from llmgate.store.db import Tx
from llmgate.store.holds import Attempt
from llmgate.types import CostSource, Meters, Source, Status

from ..books import Book

ROOT = Path(__file__).parents[2]
DAY_MS = 86_400_000
START_MS = int(datetime(2025, 1, 10, tzinfo=UTC).timestamp()) * 1000
STARTER = Plan(name="starter", price_nano=0, limits=(parse("50 tokens/month"),), models=(), overage_nano=3)
TERMS = Policy(plans={"starter": STARTER}, limits=(), alert_at=())
LIMITS = ("900000 tokens total", "$9 total on g*", "9000 requests total on o*/gpt", "900000 output tokens/month on gpt")


def gone(book: Book, before: str) -> prune.Sums:
    return [prune.Sums(), *prune.prune(book.db, before)][-1]


# ── twins ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Pair:
    """Two books to which the same happens, but that one of them is pruned now and then."""

    def __init__(self, folder: Path, dice: random.Random, patch: pytest.MonkeyPatch) -> None:
        self.dice, self.now_ms = dice, START_MS
        patch.setattr("llmgate.store.db.now_ms", lambda: self.now_ms)
        patch.setattr(prune, "STEP", dice.choice((1, 3, 2000)))
        self.pruned, self.twin = Book(folder / "pruned.db"), Book(folder / "twin.db")
        self.books = (self.pruned, self.twin)
        self.keys: list[tuple[str, str]] = []
        self.flying: list[int] = []
        for book in self.books:
            book.team("ops")
        for name, team in (("alice", None), ("bob", "ops"), ("carol", "ops")):
            self.keys.append(tuple(book.user(name, team=team) for book in self.books))  # type: ignore[arg-type]
        for target in ("alice", "team:ops"):
            self.both(lambda tx, target=target: limits.hang(tx, target, LIMITS))  # type: ignore[misc]
        self.both(lambda tx: accounts.set_user(tx, "carol", {"plan": "starter"})["plan"])

    def both(self, deed: Callable[[Tx], Any]) -> Any:
        """Either both do it, or both refuse."""
        came = [self.one(book, deed) for book in self.books]
        assert came[0] == came[1]
        return came[0]

    def one(self, book: Book, deed: Callable[[Tx], Any]) -> Any:
        try:
            with book.db.write() as tx:
                return deed(tx)
        except Refusal as refusal:
            return refusal.code

    def entry(self, book: Book, at: int) -> int:
        """By its place among those that aren't closing."""
        rows = book.rows("SELECT id FROM entries WHERE kind <> 'closing' ORDER BY id")
        found: int = rows[at % len(rows)]["id"] if rows else 999_999
        return found

    def step(self) -> None:
        dice = self.dice
        self.now_ms += dice.choice((0, 1, 7, 3_600_000, 9_000_000, DAY_MS, 3 * DAY_MS, 20 * DAY_MS))
        who = dice.choice(("alice", "bob", "carol", "team:ops"))
        nano, at = dice.randrange(1, 120), dice.randrange(1000)
        match dice.randrange(13):
            case 0 | 1:
                expires = self.now_ms + dice.choice((1, 5_000_000, DAY_MS, 9 * DAY_MS, 40 * DAY_MS))
                until = dice.choice((None, expires, expires))
                self.both(lambda tx: ledger.add(tx, who, nano, expires_ms=until).balance_nano)
            case 2:
                self.both(lambda tx: ledger.take(tx, who, nano, force=bool(at % 2)).balance_nano)
            case 3:
                other = "alice" if who == "team:ops" else "team:ops"
                self.both(lambda tx: ledger.transfer(tx, who, other, nano).balance_nano)
            case 4:
                which = {book.path: self.entry(book, at) for book in self.books}
                self.both(lambda tx: ledger.reverse(tx, which[path_of(tx)]).balance_nano)
            case 5:
                self.refund(at)
            case 6:
                self.both(ledger.expire_all_due)
            case 7 if self.flying:
                self.settle(self.flying.pop(at % len(self.flying)))
            case 8:
                self.prune()
            case _:
                self.request(dice.choice(self.keys))

    def request(self, keys: tuple[str, str]) -> None:
        dice = self.dice
        model, upstream = dice.choice(("gpt", "o3")), dice.choice(("openai", "azure"))
        names = dice.choice((None, None, (model, f"{upstream}/{model}", "nick")))
        tags = dice.choice(({}, {"job": "1", "who": "x"}))
        bound, output = dice.randrange(1, 60), dice.randrange(1, 30)
        fields: dict[str, Any] = {"model": model, "upstream": upstream, "names": names, "tags": tags}
        claims = {
            book.path: book.claim(key, bound=bound, output=output, **fields)
            for book, key in zip(self.books, keys, strict=True)
        }
        number = self.both(lambda tx: holds.place(tx, claims[path_of(tx)], TERMS).id)
        if isinstance(number, int):
            self.flying.append(number)
            if dice.random() < 0.8:
                self.settle(self.flying.pop())

    def settle(self, number: int) -> None:
        dice = self.dice
        meters = Meters(input=dice.randrange(40), output=dice.randrange(25), cached_input=dice.randrange(3), calls=1)
        status, failed = dice.choice((Status.OK, Status.ERROR)), dice.random() < 0.2
        charge = dice.choice((None, Price(input=UNITS, output=5 * UNITS)))
        outcomes = {}
        for book in self.books:
            tries = (
                Attempt(
                    upstream="azure",
                    upstream_model="gpt",
                    http_status=500,
                    source=Source.UPSTREAM,
                    meters=Meters(input=4, calls=1),
                    cost=book.snapshot(Price(input=UNITS)),
                    cost_source=CostSource.CONFIG,
                ),
            )
            outcomes[book.path] = book.outcome(meters, status=status, charge=charge, attempts=tries if failed else ())
        self.both(lambda tx: holds.settle(tx, number, outcomes[path_of(tx)], TERMS).balance_nano)

    def refund(self, at: int) -> None:
        rows = self.twin.rows("SELECT request_id, id FROM usage ORDER BY id")
        if not rows:
            return
        number = str(rows[at % len(rows)]["id"])
        if self.pruned.value("SELECT 1 FROM usage WHERE id = ?", int(number)):
            self.both(lambda tx: ledger.refund(tx, number).balance_nano)
        else:
            assert self.one(self.pruned, lambda tx: ledger.refund(tx, number).balance_nano) == "not_found"

    def prune(self) -> None:
        with self.pruned.db.read() as tx:
            kept = prune.kept_from(tx)
        before = min((date.fromisoformat(kept) - timedelta(days=self.dice.randrange(40))).isoformat(), kept)
        balances = self.pruned.rows("SELECT * FROM accounts ORDER BY id")
        with self.pruned.db.read() as tx:
            ahead = prune.ahead(tx, before)
        assert gone(self.pruned, before) == ahead
        assert self.pruned.value("SELECT count(*) FROM usage WHERE day < ?", before) == 0
        assert self.pruned.rows("SELECT * FROM accounts ORDER BY id") == balances
        self.check()

    def check(self) -> None:
        for book in self.books:
            assert book.findings() == []
        assert told(self.pruned, self.now_ms) == told(self.twin, self.now_ms)

    def close(self) -> None:
        for book in self.books:
            book.close()


def path_of(tx: Tx) -> Path:
    return Path(tx.value("SELECT file FROM pragma_database_list WHERE name = 'main'"))


REPORTS = ((), ("day",), ("user", "model"), ("team", "upstream"), ("plan", "week"), ("key", "month"))


def told(book: Book, now_ms: int) -> dict[str, Any]:
    """All that must not change, but that ids of entries do, and what is told row by row."""
    tx = Tx(book.db.conn, now_ms, "test")
    found: dict[str, Any] = {"accounts": book.rows("SELECT * FROM accounts ORDER BY id")}
    for row in found["accounts"]:
        moved = ("kind", "amount_nano", "charged_nano", "balance_nano", "moved_nano", "created_ms", "other")
        found[f"history {row['id']}"] = [[line[name] for name in moved] for line in ledger.history(tx, row["id"])]
        found[f"lots {row['id']}"] = [(lot.expires_ms, lot.left_nano) for lot in ledger.lots(tx, row["id"])]
        held = ledger.purse(tx, row["id"], with_holds=True)
        found[f"purse {row['id']}"] = (held.pool.left_nano, held.debt_nano, held.balance_nano)
    keys_by = "SELECT u.name || '/' || k.name AS name FROM keys k JOIN users u ON u.id = k.user_id WHERE k.id = ?"
    for by in REPORTS:
        found[f"by {by}"] = [tuple(row) for row in reports.report(tx, by, {})]
    found["rollups"] = [
        {**row, "key_id": book.value(keys_by, row["key_id"])}
        for row in book.rows("SELECT * FROM rollups ORDER BY day, account_id, user_id, plan, model, upstream")
    ]
    for subject in (("user", "1"), ("user", "2"), ("team", "1")):
        for text in LIMITS:
            limit = parse(text)
            window = window_of(limit.window, now_ms, tx.zone)
            found[f"{subject} {text}"] = limits._used(tx, limit, subject, window)
    found["counters"] = book.rows(
        "SELECT subject_kind, subject_id, unit, window, glob, used, held FROM counters ORDER BY 1, 2, 3, 4, 5"
    )
    return found


SEEDS = st.integers(0, 2**32)


@given(seed=SEEDS)
@settings(max_examples=30, deadline=None)
def test_a_pruned_book_and_its_twin(seed: int) -> None:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        pair = Pair(Path(folder), random.Random(seed), patch)
        for _ in range(45):
            pair.step()
        pair.now_ms += 70 * DAY_MS
        for number in pair.flying:
            pair.settle(number)
        pair.flying.clear()
        pair.prune()
        pair.both(ledger.expire_all_due)
        pair.check()
        pair.close()


# ── one book ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def old(book: Book) -> Book:
    """A history of 24 requests on four days of 2025, of alice, who has credits, and of bob, who has none."""
    alice, bob = book.user("alice", credits=10_000), book.user("bob")
    for number in range(24):
        day = f"2025-03-0{1 + number % 4}"
        book.use(alice if number % 3 else bob, Meters(input=10 + number, calls=1), day=day, tags={"job": str(number)})
    return book


def test_rows_go_and_sums_stay(old: Book) -> None:
    before = old.rows("SELECT * FROM rollups"), old.rows("SELECT * FROM accounts")
    charge = old.value("SELECT sum(charge_nano) FROM usage WHERE day < '2025-03-03'")
    assert gone(old, "2025-03-03") == prune.Sums(
        requests=12, charge_nano=charge, days=2, accounts=2, first="2025-03-01", last="2025-03-02"
    )
    assert [old.value(f"SELECT count(*) FROM {table}") for table in ("usage", "usage_tags", "pruned")] == [12, 12, 4]
    assert (old.rows("SELECT * FROM rollups"), old.rows("SELECT * FROM accounts")) == before
    assert gone(old, "2025-03-03") == prune.Sums()
    assert old.findings() == []


def test_what_is_written_of_it(old: Book) -> None:
    gone(old, "2025-03-03")
    entries = old.rows("SELECT * FROM entries WHERE kind = 'closing' ORDER BY id")
    assert [(row["account_id"], row["note"], row["actor"]) for row in entries] == [
        (1, "4 requests of 2025-03-01, pruned", "test"),
        (2, "2 requests of 2025-03-01, pruned", "test"),
        (1, "4 requests of 2025-03-02, pruned", "test"),
        (2, "2 requests of 2025-03-02, pruned", "test"),
    ]
    (act,) = old.rows("SELECT * FROM audit WHERE action = 'db.prune'")
    charge = -sum(row["amount_nano"] for row in entries)
    assert (act["target"], json.loads(act["after"])) == (
        "2025-03-03",
        {"requests": 12, "charge_nano": charge, "first": "2025-03-01", "last": "2025-03-02"},
    )


def test_a_refund_of_what_was_pruned_is_refused(old: Book) -> None:
    with old.write() as tx:
        ledger.refund(tx, "2", 3)
    gone(old, "2025-03-05")
    with pytest.raises(Refusal) as caught, old.write() as tx:
        ledger.refund(tx, "2")
    assert "those up to 2025-03-04 were pruned, `llmgate credits add` gives back" in caught.value.message
    assert caught.value.code == "not_found"
    assert old.findings() == [], "a refund of before stays, and has its closing entry"


@pytest.mark.parametrize("held", ["2025-03-04", "2025-03-31"])
def test_days_that_limits_may_still_need_are_kept(old: Book, held: str) -> None:
    hold = old.place(old.user("carol"), day=held)
    with pytest.raises(Refusal, match=r"from 2025-02-24 on|from 2025-03-01 on"):
        gone(old, "2025-03-04")
    assert old.value("SELECT count(*) FROM usage") == 24
    old.release(hold)
    assert gone(old, "2025-03-04").requests == 18


def test_a_running_month_is_kept(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    now = int(datetime(2025, 3, 20, 12, tzinfo=UTC).timestamp()) * 1000
    monkeypatch.setattr("llmgate.store.db.now_ms", lambda: now)
    with book.db.read() as tx:
        assert prune.kept_from(tx) == "2025-03-01"
        tx.now_ms = int(datetime(2025, 5, 2, 12, tzinfo=UTC).timestamp()) * 1000
        assert prune.kept_from(tx) == "2025-04-28", "the week began in April"
    with pytest.raises(Refusal, match="name a day up to 2025-03-01"):
        gone(book, "2025-03-02")
    assert gone(book, "2025-03-01") == prune.Sums()


def test_a_request_that_comes_to_a_pruned_day_after_all(old: Book) -> None:
    """Its hold was placed while a clock was wrong, say."""
    gone(old, "2025-03-05")
    charge = old.use(old.user("dora"), Meters(input=7, calls=1), day="2025-03-02").charge_nano
    assert charge == 7
    assert old.findings() == []
    assert gone(old, "2025-03-05").requests == 1
    assert old.findings() == []


# ── the world breaks ──────────────────────────────────────────────────────────────────────────────────────────────────

SLOWLY = """
import sys
from pathlib import Path
from llmgate.store import prune
from llmgate.store.db import Database
prune.STEP, prune.HELD_S = 2, 0
with Database(Path(sys.argv[1]), actor="other") as db:
    for gone in prune.prune(db, sys.argv[2]):
        print(gone.requests, flush=True)
"""


def slowly(book: Book, before: str) -> subprocess.Popen[str]:
    """Another process that prunes two rows at a time and tells of each time."""
    return subprocess.Popen(
        [sys.executable, "-c", SLOWLY, str(book.path), before], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


def test_killed_at_any_time_the_books_balance(old: Book) -> None:
    figures = old.rows("SELECT * FROM rollups"), old.rows("SELECT * FROM accounts")
    left = old.value("SELECT count(*) FROM usage")
    for lines in (0, 1, 3):
        with slowly(old, "2025-03-05") as process:
            assert process.stdout is not None
            for _ in range(lines):
                process.stdout.readline()
            process.kill()
            process.stdout.read()
        assert old.findings() == []
        assert (old.rows("SELECT * FROM rollups"), old.rows("SELECT * FROM accounts")) == figures
        assert old.value("SELECT count(*) FROM usage") <= left - lines
        left = old.value("SELECT count(*) FROM usage")
        pruned = old.value("SELECT coalesce(sum(requests), 0) FROM pruned")
        told = old.value(
            "SELECT coalesce(sum(json_extract(after, '$.requests')), 0) FROM audit WHERE action = 'db.prune'"
        )
        assert left + pruned == 24
        assert told == pruned, "the audit has what was done until then"
    gone(old, "2025-03-05")
    assert old.value("SELECT count(*) FROM usage") == 0
    assert old.findings() == []


def test_others_write_verify_and_prune_meanwhile(old: Book) -> None:
    keys = [old.user(f"busy{number}", credits=10**9) for number in range(3)]
    for number in range(120):
        old.use(keys[number % 3], Meters(input=number, calls=1), day=f"2025-04-{1 + number % 20:02}")
    writer = subprocess.Popen(
        [sys.executable, "-m", "tests.store.busy", str(old.path), *keys],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with writer, slowly(old, "2025-04-15") as other, pytest.MonkeyPatch.context() as patch:
        patch.setattr("llmgate.store.verify.usage.CHUNK", 20)
        patch.setattr(prune, "STEP", 3)
        patch.setattr(prune, "HELD_S", 0)
        assert writer.stdin is not None
        assert writer.stdout is not None
        assert writer.stdout.readline() == "at work\n"
        for number, _ in enumerate(prune.prune(old.db, "2025-05-01")):
            if number % 5 == 0:
                assert old.findings() == []
        assert other.stdout is not None
        other.stdout.read()
        assert other.wait(30) == 0
        assert old.findings() == []
        writer.stdin.close()
        writer.stdout.read()
        assert writer.wait(30) == 0
    assert old.value("SELECT count(*) FROM usage WHERE day < '2025-05-01'") == 0
    assert old.value("SELECT sum(requests) FROM pruned") == 144
    assert old.findings() == []


def test_on_a_full_disk_nothing_is_half_done(old: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prune, "HELD_S", 0)
    bounds = resource.getrlimit(resource.RLIMIT_FSIZE)
    steps = prune.prune(old.db, "2025-03-05")
    first = next(steps)
    log = old.path.with_name(f"{old.path.name}-wal")
    resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size, bounds[1]))
    try:
        with pytest.raises(StorageError, match=r"is full|can't be read or written"):
            list(steps)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, bounds)
    assert old.value("SELECT count(*) FROM usage") == 24 - first.requests
    assert old.findings() == []
    assert gone(old, "2025-03-05").requests == 24 - first.requests
    assert old.findings() == []


def test_the_file_shrinks_when_it_is_asked_for(old: Book) -> None:
    old.tamper("CREATE TABLE ballast (x)", "INSERT INTO ballast VALUES (zeroblob(3000000))", "DROP TABLE ballast")
    size = old.path.stat().st_size
    gone(old, "2025-03-05")
    prune.shrink(old.db)
    assert old.path.stat().st_size < size - 2_900_000
    assert old.findings() == []
