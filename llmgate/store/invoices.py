"""What an account was charged in a month, and what moved its balance.

    opening balance + entries of the month - charges of the month = closing balance

and the closing balance of a month is the opening one of the next: entries belong to the month that they were written
in, charges to that of their day, and each is in exactly one.

Charges come from the roll-ups, which are whole also after old rows were pruned: what rows are there tells the prices,
and what roll-ups have beyond the rows is a line of its own. An entry of the kind `closing` stands for charges that were
pruned, which the roll-ups still have: it moves no money, so it is no entry here.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, timedelta

import msgspec

from ..clock import DAY_MS, day_start_ms
from ..overage import Terms
from ..pricing import Price
from ..types import METERS
from . import overage, prices
from .db import Row, Tx


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """Requests for one model at one price."""

    model: str
    requests: int
    quantities: dict[str, int]
    """By meter; all of them."""
    price: Price | None
    """None: as it was billed, by upstreams that say so themselves; or no longer known."""
    pruned: bool = False
    terms: Terms | None = None
    """The plan's, by which tokens were charged instead of by the price."""
    past: bool = False
    """It is what was charged past the included tokens: `quantities` has only `tokens`, of requests of other lines."""
    amount_nano: int


class Invoice(msgspec.Struct, frozen=True, kw_only=True):
    opening_nano: int
    entries: list[Row]
    lines: list[Line]
    in_flight: int
    """Requests of the month that haven't ended: their charges are still to come."""
    plans: dict[str, int]
    """Plans that requests were made under, and of how many users."""

    @property
    def total_nano(self) -> int:
        return sum(line.amount_nano for line in self.lines)

    @property
    def moved_nano(self) -> int:
        return sum(entry["amount_nano"] for entry in self.entries)

    @property
    def closing_nano(self) -> int:
        return self.opening_nano + self.moved_nano - self.total_nano


_SUMS = ", ".join(f"sum({name}) AS {name}" for name in METERS)

_TOKENS = "input + cached_input + cache_write + cache_write_1h + audio_input + image_input + output + reasoning"
_TOKENS = f"coalesce(quota_used, 0) + {_TOKENS} + audio_output"

_PAST = f"max(0, {_TOKENS} - quota_tokens) - max(0, coalesce(quota_used, 0) - quota_tokens)"
"""The tokens of a row past the included ones, as `overage.past` has it. Times `overage_nano` they are at most the row's
charge, so that no product overflows."""


def of_month(tx: Tx, account_id: int, first: date, after: date) -> Invoice:
    """The invoice of an account from the first day of a month up to that of the next."""
    days = {"account_id": account_id, "first": first.isoformat(), "after": after.isoformat()}
    start_ms, end_ms = day_start_ms(first, tx.zone), day_start_ms(after, tx.zone)
    moved: int = tx.value(
        "SELECT coalesce(sum(amount_nano), 0) FROM entries "
        "WHERE account_id = ? AND created_ms < ? AND kind <> 'closing'",
        *(account_id, start_ms),
    )
    charged: int = tx.execute(
        "SELECT coalesce(sum(charge_nano), 0) FROM rollups WHERE account_id = :account_id AND day < :first", days
    ).fetchone()[0]
    entries = tx.execute(
        "SELECT * FROM entries WHERE account_id = ? AND created_ms >= ? AND created_ms < ? AND kind <> 'closing' "
        "ORDER BY id",
        (account_id, start_ms, end_ms),
    ).fetchall()
    lines = list(_of_rows(tx, days, first, after))
    return Invoice(
        opening_nano=moved - charged,
        entries=entries,
        lines=sorted([*lines, *_pruned(tx, days, lines)], key=lambda line: line.model),
        in_flight=tx.execute(
            "SELECT count(*) FROM holds WHERE account_id = :account_id AND day >= :first AND day < :after", days
        ).fetchone()[0],
        plans=dict(
            tx.execute(
                "SELECT plan, count(DISTINCT user_id) FROM rollups "
                "WHERE account_id = :account_id AND day >= :first AND day < :after AND plan <> '' GROUP BY plan",
                days,
            ).fetchall()
        ),
    )


def _of_rows(tx: Tx, days: dict[str, object], first: date, after: date) -> Iterable[Line]:
    """A line for each model, price and terms, and one more for what is past them."""
    # A row's day may be that of another zone: the book's was changed since. The index on times only narrows it down.
    near = {
        "from_ms": day_start_ms(first - timedelta(days=1), tx.zone) - DAY_MS,
        "to_ms": day_start_ms(after + timedelta(days=1), tx.zone) + DAY_MS,
    }
    for row in tx.execute(
        f"""
        SELECT model, coalesce(charge_price_id, cost_price_id) AS price_id,
          charge_price_id IS NULL AND cost_source = 'upstream' AS billed, quota_tokens, quota_glob, overage_nano,
          count(*) AS requests, {_SUMS}, sum(charge_nano) AS charge_nano,
          coalesce(sum({_PAST}), 0) AS past_tokens, coalesce(sum(overage_nano * ({_PAST})), 0) AS past_nano
        FROM usage WHERE account_id = :account_id AND time_ms >= :from_ms AND time_ms < :to_ms
          AND day >= :first AND day < :after
        GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY model, min(time_ms), min(id)
        """,
        days | near,
    ).fetchall():
        terms = overage.terms_of(row)
        yield Line(
            model=row["model"],
            requests=row["requests"],
            quantities={name: row[name] for name in METERS},
            price=None if row["billed"] else prices.snapshot(tx, row["price_id"]).price,
            terms=terms,
            amount_nano=row["charge_nano"] - row["past_nano"],
        )
        if row["past_tokens"]:
            yield Line(
                model=row["model"],
                requests=0,
                quantities={"tokens": row["past_tokens"]},
                price=None,
                terms=terms,
                past=True,
                amount_nano=row["past_nano"],
            )


def _pruned(tx: Tx, days: dict[str, object], lines: Iterable[Line]) -> Iterable[Line]:
    """What roll-ups have beyond the rows: by model, at prices that are no longer known."""
    there: dict[str, dict[str, int]] = {}
    for line in lines:
        sums = there.setdefault(line.model, dict.fromkeys((*METERS, "requests", "charge_nano"), 0))
        sums["requests"] += line.requests
        sums["charge_nano"] += line.amount_nano
        for name in METERS:
            sums[name] += line.quantities.get(name, 0)
    for row in tx.execute(
        f"""
        SELECT model, sum(requests) AS requests, {_SUMS}, sum(charge_nano) AS charge_nano
        FROM rollups WHERE account_id = :account_id AND day >= :first AND day < :after GROUP BY model
        """,
        days,
    ).fetchall():
        sums = there.get(row["model"], {})
        gone = {name: row[name] - sums.get(name, 0) for name in (*METERS, "requests", "charge_nano")}
        if any(gone.values()):
            requests, amount_nano = gone.pop("requests"), gone.pop("charge_nano")
            yield Line(
                model=row["model"],
                requests=requests,
                quantities=gone,
                price=None,
                pruned=True,
                amount_nano=amount_nano,
            )
