"""Sums over the daily roll-ups: a report costs what its answer has rows, not what the history has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..overage import charged
from ..pricing import Price
from ..types import METERS, Meters
from . import overage, prices
from .db import Row, Tx

GROUPS = {
    "user": "u.name",
    "team": "coalesce(t.name, '')",
    "key": "u.name || '/' || k.name",
    "model": "r.model",
    "upstream": "r.upstream",
    "plan": "r.plan",
    "day": "r.day",
    "week": "date(r.day, 'weekday 0', '-6 days')",
    "month": "substr(r.day, 1, 7)",
}
"""Grouping → SQL. A week is named by its Monday."""

IN_ORDER = ("day", "week", "month")
"""Groupings that are listed in their own order; the others come dearest first."""

FILTERS = {
    "user": "u.name = :user",
    "team": "t.name = :team",
    "key": "(r.key_id = :key OR u.name || '/' || k.name = :key)",
    "model": "r.model GLOB :model",
    "upstream": "r.upstream = :upstream",
    "plan": "r.plan = :plan",
    "since": "r.day >= :since",
    "until": "r.day <= :until",
}
"""Filter → SQL condition on its value. Days are `YYYY-MM-DD`, both ends included."""

SUMS = {
    "requests": "sum(r.requests)",
    "input_tokens": "sum(r.input + r.cached_input + r.cache_write + r.cache_write_1h + r.audio_input + r.image_input)",
    "cached_tokens": "sum(r.cached_input)",
    "output_tokens": "sum(r.output + r.reasoning + r.audio_output)",
    "cost_nano": "sum(r.cost_nano)",
    "charge_nano": "sum(r.charge_nano)",
    "errors": "sum(r.errors)",
    "wasted_nano": "sum(r.wasted_nano)",
}


def report(tx: Tx, by: Sequence[str], filters: dict[str, Any]) -> list[Row]:
    """One row per group: the grouping columns, then `SUMS`. Without a grouping: one row of sums."""
    wanted = {name: value for name, value in filters.items() if value is not None}
    columns = [f'{GROUPS[name]} AS "{name}"' for name in by]
    columns += [f"coalesce({sql}, 0) AS {name}" for name, sql in SUMS.items()]
    order = [f'"{name}"' for name in by if name in IN_ORDER]
    order += ["charge_nano DESC", *(f'"{name}"' for name in by if name not in IN_ORDER)]
    grouped = f"GROUP BY {', '.join(str(number + 1) for number in range(len(by)))}" if by else ""
    return tx.execute(
        f"""
        SELECT {", ".join(columns)} FROM rollups r
        JOIN users u ON u.id = r.user_id
        JOIN keys k ON k.id = r.key_id
        LEFT JOIN teams t ON t.id = r.team_id
        WHERE {" AND ".join(FILTERS[name] for name in wanted) or "1"}
        {grouped} ORDER BY {", ".join(order)}
        """,
        wanted,
    ).fetchall()


Rerated = dict[tuple[Any, ...], dict[str, int]]


def rerated(tx: Tx, by: Sequence[str], filters: dict[str, Any], price_of: Callable[[Row], Price | None]) -> Rerated:
    """What the same requests would have been charged by other prices: per group what was charged, and would have been.

    Reads the usage rows one after the other, because roll-ups don't tell what tier or price each request had. A request
    that `price_of` has no price for keeps its charge, and is counted as `unpriced`. Plans' terms hold as they did.
    """
    wanted = {name: value for name, value in filters.items() if value is not None}
    keys = ", ".join(f'{GROUPS[name]} AS "by_{name}"' for name in by)
    costs: dict[int, Price] = {}
    found: Rerated = {}
    for row in tx.execute(
        f"""
        SELECT {keys}{"," if by else ""} r.* FROM usage r
        JOIN users u ON u.id = r.user_id
        JOIN keys k ON k.id = r.key_id
        LEFT JOIN teams t ON t.id = r.team_id
        WHERE {" AND ".join(FILTERS[name] for name in wanted) or "1"}
        """,
        wanted,
    ):
        sums = found.setdefault(
            tuple(row[f"by_{name}"] for name in by),
            {"requests": 0, "cost_nano": 0, "charge_nano": 0, "rerated_nano": 0, "unpriced": 0},
        )
        own, charge = price_of(row), row["charge_nano"]
        if own is not None:
            number = row["cost_price_id"]
            if number not in costs:
                costs[number] = prices.snapshot(tx, number).price
            meters = Meters(*(row[name] for name in METERS))
            terms, used = overage.terms_of(row), row["quota_used"] or 0
            charge = charged(meters, row["cost_nano"], costs[number], own, terms, used)
        sums["requests"] += 1
        sums["cost_nano"] += row["cost_nano"]
        sums["charge_nano"] += row["charge_nano"]
        sums["rerated_nano"] += charge
        sums["unpriced"] += own is None
    return found
