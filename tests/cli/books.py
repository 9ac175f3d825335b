"""A database with a history to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from llmgate.pricing import Price, dearest
from llmgate.store import accounts, holds, keys, ledger, prices, workers
from llmgate.store.db import Database, Tx
from llmgate.types import CostSource, Meters, Quote, Source, Status

PRICE = Price(input=1_000_000_000, output=2_000_000_000)
"""$1 and $2 per 1M: a request of 1000 in and 500 out costs $0.002."""

DAY_MS = 86_400_000


class Request(NamedTuple):
    """One request as a test tells it."""

    key: str
    model: str = "sandbox/echo"
    upstream: str = "sandbox"
    meters: Meters = Meters(input=900, cached_input=100, output=400, reasoning=100, calls=1)
    status: Status = Status.OK
    ago_ms: int = 60_000
    tags: dict[str, str] = {}


def use(db: Database, requests: Sequence[Request]) -> None:
    """Place and settle requests, each at its time."""
    worker = workers.Worker(db.path)
    with db.write() as tx:
        worker.register(tx)
        for request in requests:
            _one(tx, worker.id, request)
    worker.close()


def _one(tx: Tx, worker_id: str, request: Request) -> None:
    now_ms = tx.now_ms
    tx.now_ms = now_ms - request.ago_ms
    snapshot = prices.intern(tx, PRICE)
    claim = holds.Claim(
        request_id=f"req-{uuid4().hex}",
        worker_id=worker_id,
        key_hash=keys.hash_key(request.key),
        model=request.model,
        names=(request.model,),
        upstream=request.upstream,
        upstream_model=request.model,
        format="openai",
        endpoint="/v1/chat/completions",
        streamed=False,
        quote=Quote(
            input_tokens=1000,
            output_tokens=1000,
            choices=1,
            amount_nano=3_000_000,
            floor_tokens=256,
            floor_nano=1_512_000,
            input_estimate=900,
        ),
        price=dearest((PRICE,), 1000, False, 0),
        unquotable=None,
        cost=snapshot,
        charge=None,
        cost_source=CostSource.CATALOGUE,
        tags=request.tags,
        day=day_of(tx.now_ms),
    )
    hold = holds.place(tx, claim)
    outcome = holds.Outcome(
        status=request.status,
        source=Source.UPSTREAM,
        http_status=200,
        meters=request.meters,
        upstream=request.upstream,
        upstream_model=request.model,
        cost=snapshot,
        charge=None,
        cost_source=CostSource.CATALOGUE,
        duration_ms=1234,
        ttft_ms=210,
    )
    holds.settle(tx, hold.id, outcome)
    tx.now_ms = now_ms


def day_of(ms: int) -> str:
    from zoneinfo import ZoneInfo

    from llmgate import clock

    return clock.day_of(ms, ZoneInfo("UTC"))


def issue(db: Database, user: str, *, team: str | None = None, credits_nano: int = 0, name: str | None = None) -> str:
    """A key of a user, made if new."""
    with db.write() as tx:
        if accounts.find_user(tx, user) is None:
            accounts.add_user(tx, user, team=team)
        issued = keys.add(tx, user, name=name)
        if credits_nano:
            ledger.add(tx, user, credits_nano)
        return issued.key


def fill(path: Path) -> Path:
    """alice (prepaid, two models, one error) and bob of the team research."""
    with Database(path, actor="cli:test") as db:
        with db.write() as tx:
            accounts.add_team(tx, "research")
            ledger.add(tx, "team:research", 250_000_000_000, ref="invoice-1")
        alice = issue(db, "alice", credits_nano=5_000_000_000)
        bob = issue(db, "bob", team="research", name="laptop")
        use(
            db,
            [
                Request(alice, ago_ms=3 * DAY_MS),
                Request(alice, tags={"job": "42"}),
                Request(alice, model="gpt-4o-mini", upstream="openai"),
                Request(alice, status=Status.ERROR, meters=Meters()),
                Request(bob, model="gpt-4o-mini", upstream="openai", ago_ms=DAY_MS),
            ],
        )
    return path
