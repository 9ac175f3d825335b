"""A book to keep: a database of its own, with users, keys, holds and outcomes in as few words as a test can bear.

Rates are chosen so that amounts can be added up in the head: an input token costs 1 nano-USD, an output token 2.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from llmgate import quoting
from llmgate.plans import Plan, Policy
from llmgate.pricing import UNITS, Price, dearest
from llmgate.store import accounts, holds, keys, ledger, prices
from llmgate.store.admission import Claim
from llmgate.store.db import Database, Row, Tx
from llmgate.store.holds import Attempt, Hold, Outcome, Recovered, Settled
from llmgate.store.prices import Snapshot
from llmgate.store.verify import Finding, verify
from llmgate.store.workers import Worker
from llmgate.types import Ask, Billing, CostSource, Meters, Source, Status

PRICE = Price(input=1 * UNITS, output=2 * UNITS)

DAY = "2026-11-20"

POLICY = Policy(
    plans={name: Plan(name=name, price_nano=0, limits=(), models=()) for name in ("free", "pro")},
    limits=(),
    alert_at=(),
)
"""Two plans that limit nothing."""

_numbers = count(1)


@cache
def _empty() -> bytes:
    """A new database's file: copying it is faster than migrating for every example of a property."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "empty.db"
        with Database(path) as db:
            db.conn.execute("PRAGMA journal_mode = DELETE")
        return path.read_bytes()


class Book:
    """One database, and one worker that places holds in it."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(_empty())
            path.chmod(0o600)
        self.path = path
        self.db = Database(path, actor="test")
        self.worker = self._employ()

    def close(self) -> None:
        self.worker.close()
        self.db.close()

    @contextmanager
    def write(self, now_ms: int | None = None) -> Iterator[Tx]:
        """A transaction, at a moment of one's choice."""
        with self.db.write() as tx:
            if now_ms is not None:
                tx.now_ms = now_ms
            yield tx

    @property
    def tx(self) -> Tx:
        """For reading, outside of any transaction."""
        return Tx(self.db.conn, 0, "test")

    def value(self, sql: str, *values: Any) -> Any:
        return self.tx.value(sql, *values)

    def rows(self, sql: str, *values: Any) -> list[dict[str, Any]]:
        return [dict(row) for row in self.tx.execute(sql, values)]

    def tamper(self, *statements: str) -> None:
        """Raw SQL, as someone with the file in hand would run it, who knows of the trigger on usage rows."""
        self.db.conn.execute("PRAGMA foreign_keys = OFF")
        self.db.conn.execute("DROP TRIGGER IF EXISTS usage_is_not_edited")
        self.db.conn.execute("DROP TRIGGER IF EXISTS usage_is_not_deleted")
        for statement in statements:
            self.db.conn.execute(statement)
        self.db.conn.execute("PRAGMA foreign_keys = ON")

    def findings(self) -> list[Finding]:
        return list(verify(self.db))

    # who

    def user(
        self,
        name: str,
        *,
        team: str | None = None,
        billing: Billing | None = None,
        credits: int = 0,  # noqa: A002 - the word for it
        **of_key: Any,
    ) -> str:
        """A new user, with credits, and a key of it in clear."""
        with self.write() as tx:
            accounts.add_user(tx, name, team=team, billing=billing)
            if credits:
                ledger.add(tx, name, credits)
            return keys.add(tx, name, **of_key).key

    def team(self, name: str, *, billing: Billing | None = None, credits: int = 0) -> None:  # noqa: A002
        with self.write() as tx:
            accounts.add_team(tx, name, billing=billing)
            if credits:
                ledger.add(tx, f"team:{name}", credits)

    def add(self, target: str, nano: int, **fields: Any) -> ledger.Moved:
        with self.write() as tx:
            return ledger.add(tx, target, nano, **fields)

    def account(self, target: str) -> Row:
        row = self.tx.one("SELECT * FROM accounts WHERE id = ?", accounts.account_of(self.tx, target)[0])
        assert row is not None
        return row

    def money(self, target: str) -> tuple[int, int]:
        """Balance and holds."""
        row = self.account(target)
        return row["balance_nano"], row["held_nano"]

    # what

    def snapshot(self, price: Price) -> Snapshot:
        with self.write() as tx:
            return prices.intern(tx, price)

    def claim(
        self,
        key: str,
        *,
        bound: int = 100,
        estimate: int = 40,
        output: int = 50,
        least: int = 1,
        choices: int = 1,
        price: Price = PRICE,
        charge: Price | None = None,
        model: str = "gpt",
        upstream: str = "openai",
        names: tuple[str, ...] | None = None,
        unquotable: str | None = None,
        tags: dict[str, str] | None = None,
        request_id: str | None = None,
    ) -> Claim:
        """A claim of at most `bound` input tokens, likely `estimate`, and of `output` output tokens per choice."""
        ask = Ask(model=model, text_bytes=3 * estimate, max_output=output, min_output=least, choices=choices)
        most = dearest((charge or price,), bound, False, 0)
        return Claim(
            request_id=request_id or f"req_{self.worker.id}_{next(_numbers):06}",
            worker_id=self.worker.id,
            key_hash=keys.hash_key(key),
            model=model,
            names=names or (model, f"{upstream}/{model}"),
            upstream=upstream,
            upstream_model=model,
            format="openai",
            endpoint="chat",
            streamed=False,
            quote=quoting.quote(ask, most, bound, output),
            price=most,
            unquotable=unquotable,
            cost=self.snapshot(price),
            charge=self.snapshot(charge) if charge else None,
            cost_source=CostSource.CONFIG,
            tags=tags or {},
        )

    def outcome(
        self,
        meters: Meters,
        *,
        price: Price = PRICE,
        charge: Price | None = None,
        reported: int | None = None,
        status: Status = Status.OK,
        source: Source = Source.UPSTREAM,
        model: str = "gpt",
        upstream: str = "openai",
        attempts: tuple[Attempt, ...] = (),
    ) -> Outcome:
        return Outcome(
            status=status,
            source=source,
            http_status=200 if status is Status.OK else 502,
            meters=meters,
            upstream=upstream,
            upstream_model=model,
            cost=self.snapshot(price),
            charge=self.snapshot(charge) if charge else None,
            cost_source=CostSource.CONFIG,
            reported_cost_nano=reported,
            duration_ms=12,
            ttft_ms=3,
            attempts=attempts,
        )

    def place(self, key: str, *, now_ms: int | None = None, day: str = DAY, **fields: Any) -> Hold:
        """At a moment, or at noon of a day."""
        if now_ms is None:
            now_ms = int(datetime.fromisoformat(f"{day}T12:00+00:00").timestamp()) * 1000
        claim = self.claim(key, **fields)
        with self.write(now_ms) as tx:
            return holds.place(tx, claim, POLICY)

    def settle(self, hold: Hold | int, meters: Meters | None = None, **fields: Any) -> Settled:
        """A `Hold` as the daemon does it, which has the row still; its id as whoever finds it."""
        outcome = self.outcome(meters if meters is not None else Meters(input=10, output=5, calls=1), **fields)
        number, row = (hold, None) if isinstance(hold, int) else (hold.id, hold.row)
        with self.write() as tx:
            return holds.settle(tx, number, outcome, POLICY, placed=row)

    def release(self, hold: Hold | int) -> None:
        with self.write() as tx:
            holds.release(tx, hold if isinstance(hold, int) else hold.id)

    def use(self, key: str, meters: Meters, *, now_ms: int | None = None, **fields: Any) -> Settled:
        """A whole request, claimed and settled."""
        shared = {name: fields[name] for name in ("price", "charge", "model", "upstream") if name in fields}
        of_claim = {name: value for name, value in fields.items() if name not in ("status", "source", "reported")}
        of_outcome = shared | {name: fields[name] for name in ("status", "source", "reported") if name in fields}
        enough = {"bound": meters.input_tokens + 1, "output": meters.output_tokens + 1}
        return self.settle(self.place(key, now_ms=now_ms, **enough | of_claim), meters, **of_outcome)

    # the worker

    def _employ(self) -> Worker:
        worker = Worker(self.path)
        with self.write() as tx:
            worker.register(tx)
        return worker

    def crash(self) -> None:
        """The worker dies as by `kill -9`: the kernel frees its lock, and nothing else happens. Another takes over."""
        os.close(self.worker._file)
        self.worker = self._employ()

    def recover(self, interrupted: str = "input") -> Recovered:
        with self.write() as tx:
            return holds.recover(tx, self.path, msgspec.structs.replace(POLICY, interrupted=interrupted))

    def reopen(self) -> None:
        self.db.close()
        self.db = Database(self.path, actor="test")


def asdict(settled: Settled) -> dict[str, Any]:
    return msgspec.structs.asdict(settled)
