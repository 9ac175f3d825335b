"""Histories of everything that moves money, as chance has it: of a book, and of a twin that is never pruned."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from llmgate.errors import Refusal
from llmgate.limits import parse
from llmgate.limits import span as window_of
from llmgate.plans import Plan, Policy
from llmgate.pricing import UNITS, Price
from llmgate.store import accounts, holds, ledger, limits, prune, reports
from llmgate.store.db import Tx
from llmgate.store.holds import Attempt
from llmgate.types import CostSource, Meters, Source, Status

from .books import Book

DAY_MS = 86_400_000
START_MS = int(datetime(2025, 1, 10, tzinfo=UTC).timestamp()) * 1000
STARTER = Plan(name="starter", price_nano=0, limits=(parse("50 tokens/month"),), models=(), overage_nano=3)
TERMS = Policy(plans={"starter": STARTER}, limits=(), alert_at=())
LIMITS = ("900000 tokens total", "$9 total on g*", "9000 requests total on o*/gpt", "900000 output tokens/month on gpt")


def gone(book: Book, before: str) -> prune.Sums:
    return [prune.Sums(), *prune.prune(book.db, before)][-1]


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
                self.both(lambda tx: ledger.reverse(tx, which[path_of(tx)], force=bool(at % 2)).balance_nano)
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
