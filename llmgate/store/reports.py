"""Sums over the daily roll-ups: a report costs what its answer has rows, not what the history has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
