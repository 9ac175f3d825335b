"""Sums over the daily roll-ups: a report costs what its answer has rows, not what the history has.

Roll-ups know no hour and no tag, so what asks for these reads the usage rows of its days.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from sqlite3 import Cursor
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from ..clock import hour_start_ms
from ..overage import charged
from ..pricing import Price
from ..types import METERS, Meters
from . import overage, prices
from .db import Row, Tx
from .usage import TAGGED

GROUPS = {
    "user": "u.name",
    "team": "coalesce(t.name, '')",
    "key": "u.name || '/' || k.name",
    "model": "r.model",
    "upstream": "r.upstream",
    "plan": "coalesce(r.plan, '')",
    "tag": "coalesce(g.name || '=' || g.value, '')",
    "hour": "hour_start_ms(r.time_ms)",
    "day": "r.day",
    "week": "date(r.day, 'weekday 0', '-6 days')",
    "month": "substr(r.day, 1, 7)",
}
"""Grouping → SQL. A week is named by its Monday, an hour is its first instant in milliseconds. A request with several
tags is counted at each of them, so that groups by tag may add up to more than there was.
"""

IN_ORDER = ("hour", "day", "week", "month")
"""Groupings that are listed in their own order; the others come dearest first."""

FILTERS = {
    "user": "u.name = :user",
    "team": "t.name = :team",
    "key": "(r.key_id = :key OR u.name || '/' || k.name = :key)",
    "model": "r.model GLOB :model",
    "upstream": "r.upstream = :upstream",
    "plan": "coalesce(r.plan, '') = :plan",
    "tag": TAGGED.format(id="r.id"),
    "since": "r.day >= :since",
    "until": "r.day <= :until",
}
"""Filter → SQL condition on its value. Days are `YYYY-MM-DD`, both ends included. Of tags: JSON, as in `TAGGED`."""

OF_ROWS = ("tag", "hour")
"""Groupings and filters that roll-ups don't know."""

_ROWS = f"""(SELECT id, day, time_ms, user_id, team_id, key_id, plan, model, upstream, {", ".join(METERS)},
 cost_nano, charge_nano, wasted_nano, 1 AS requests, status = 'error' AS errors FROM usage)"""
"""Usage rows, each as a roll-up of one request."""

_INDEXED = {
    "since": "r.time_ms >= (strftime('%s', :since) - 86400) * 1000",
    "until": "r.time_ms < (strftime('%s', :until) + 172800) * 1000",
}
"""What the filters on days say of the time: rows are indexed by it. Wider by more than any zone is away from UTC."""

EACH = {
    "requests": "r.requests",
    "input_tokens": "r.input + r.cached_input + r.cache_write + r.cache_write_1h + r.audio_input + r.image_input",
    "cached_tokens": "r.cached_input",
    "output_tokens": "r.output + r.reasoning + r.audio_output",
    "cost_nano": "r.cost_nano",
    "charge_nano": "r.charge_nano",
    "errors": "r.errors",
    "wasted_nano": "r.wasted_nano",
}
"""What is summed up of each row."""


def report(tx: Tx, by: Sequence[str], filters: dict[str, Any]) -> list[Row]:
    """One row per group: the grouping columns, then the sums of `EACH`. Without a grouping: one row of sums."""
    return stream(tx, by, filters).fetchall()


def stream(tx: Tx, by: Sequence[str], filters: dict[str, Any]) -> Cursor:
    """`report`, one row after the other: there may be many."""
    wanted = _wanted(filters)
    rows = of_rows(by, filters)
    columns, each = {name: GROUPS[name] for name in by}, EACH
    source = f"{_from(tx, _ROWS if rows else 'rollups', by, wanted)} {_where(wanted, rows)}"
    if "tag" in by:
        source = _each_once(tx, by, wanted)
        columns = {name: GROUPS[name] if name == "tag" else f'r."{name}"' for name in by}
        each = {name: f"r.{name}" for name in EACH}
    selected = [f'{sql} AS "{name}"' for name, sql in columns.items()]
    selected += [f"coalesce(sum({sql}), 0) AS {name}" for name, sql in each.items()]
    order = [f'"{name}"' for name in by if name in IN_ORDER]
    order += ["charge_nano DESC", *(f'"{name}"' for name in by if name not in IN_ORDER)]
    grouped = f"GROUP BY {', '.join(str(number + 1) for number in range(len(by)))}" if by else ""
    return tx.execute(f"SELECT {', '.join(selected)} {source} {grouped} ORDER BY {', '.join(order)}", wanted)


TOGETHER = {"user": "r.user_id", "team": "r.team_id", "model": "r.model"}
"""Groupings whose sums are worked out in one reading of the roll-ups, by what these call them."""


class Summed(NamedTuple):
    """What a group used, in a whole period or on one day of it."""

    by: str
    day: str | None
    group: str | None
    """None: all that aren't told apart. Empty: no team."""
    requests: int
    tokens: int
    cost_nano: int
    charge_nano: int
    wasted_nano: int


_SUMMED = {"tokens": f"{EACH['input_tokens']} + {EACH['output_tokens']}"} | EACH


def together(tx: Tx, since: str, until: str, each_day_of: Mapping[str, Sequence[str]] | None = None) -> list[Summed]:
    """What each user, each team and each model used; or on each day those that are named, and all others as one.

    It is reading the roll-ups that takes long: they are read once for all groupings, and by ids, because to look up a
    name for each of them would take as long again.
    """
    names = {by: dict(tx.execute(f"SELECT id, name FROM {by}s").fetchall()) for by in ("user", "team")}
    names["team"][0] = ""
    keys, values = dict(TOGETHER), {"since": since, "until": until}
    for by, groups in (each_day_of or {}).items():
        known = names.get(by)
        kept = groups if known is None else [key for key, name in known.items() if name in groups]
        values[by] = json.dumps(kept)
        keys[by] = f"CASE WHEN {keys[by]} IN (SELECT value FROM json_each(:{by})) THEN {keys[by]} END"
    sums = Summed._fields[3:]
    each = ", ".join(f"sum({_SUMMED[name]}) AS {name}" for name in sums)
    added = ", ".join(f"sum({name})" for name in sums)
    sides = [f"SELECT '{by}', day, {by}_key, {added} FROM cube GROUP BY 2, 3" for by in keys]
    found = tx.execute(
        f"""
        WITH cube AS MATERIALIZED (
          SELECT {"NULL" if each_day_of is None else "r.day"} AS day,
            {", ".join(f"{key} AS {by}_key" for by, key in keys.items())}, {each}
          FROM rollups r WHERE r.day BETWEEN :since AND :until GROUP BY 1, 2, 3, 4
        )
        {" UNION ALL ".join(sides)}
        """,
        values,
    )
    return [Summed(by, day, names[by].get(key) if by in names else key, *rest) for by, day, key, *rest in found]


def days_of_use(tx: Tx) -> tuple[str, str] | None:
    """The first and the last day of which anything is known to be used."""
    first, last = tx.value("SELECT min(day) FROM rollups"), tx.value("SELECT max(day) FROM rollups")
    return (first, last) if first is not None else None


def _each_once(tx: Tx, by: Sequence[str], wanted: dict[str, Any]) -> str:
    """Requests beside each of their tags, with what is needed of them worked out once for all tags.

    Without the limit, which limits nothing, SQLite would merge the two queries, and carry every meter of a request
    through the sorting as often as the request has tags: that takes half as long again.
    """
    others = [f'{GROUPS[name]} AS "{name}"' for name in by if name != "tag"]
    each = [f"{sql} AS {name}" for name, sql in EACH.items()]
    rows = f"{_from(tx, _ROWS, [name for name in by if name != 'tag'], wanted)} {_where(wanted, True)}"
    return f"""
        FROM (SELECT r.id, {", ".join([*others, *each])} {rows} LIMIT -1 OFFSET 0) r
        LEFT JOIN usage_tags g ON g.usage_id = r.id
        """


def trends(tx: Tx, by: Sequence[str], filters: dict[str, Any], cells: int) -> dict[tuple[Any, ...], list[int]]:
    """What each group was charged over a period, in so many parts of it at most, each of as many days; the first may
    have less.

    From roll-ups; `filters` must have `since` and `until`.
    """
    wanted = _wanted(filters)
    first, last = (date.fromisoformat(wanted[name]) for name in ("since", "until"))
    days = -(-((last - first).days + 1) // cells)
    number = ((last - first).days + days) // days
    missing = number * days - (last - first).days - 1
    found: dict[tuple[Any, ...], list[int]] = {}
    for *group, at, charge_nano in tx.execute(
        f"""
        SELECT {", ".join(GROUPS[name] for name in by)},
          CAST(julianday(r.day) - julianday(:since) + :missing AS INTEGER) / :days AS at, sum(r.charge_nano)
        {_from(tx, "rollups", by, wanted)} {_where(wanted, False)}
        GROUP BY {", ".join(str(place + 1) for place in range(len(by) + 1))}
        """,
        wanted | {"days": days, "missing": missing},
    ):
        found.setdefault(tuple(group), [0] * number)[at] = charge_nano
    return found


def of_rows(by: Sequence[str], filters: dict[str, Any]) -> bool:
    """Whether a report has to read usage rows."""
    return any(name in OF_ROWS for name in (*by, *_wanted(filters)))


def pruned(tx: Tx, filters: dict[str, Any]) -> int:
    """How many requests that pass are only known by their sums any more: who reads rows doesn't see them."""
    known = {name: value for name, value in _wanted(filters).items() if name not in OF_ROWS}
    sql = f"SELECT coalesce(sum(r.requests), 0) {_from(tx, 'pruned', (), known)} {_where(known, False)}"
    number: int = tx.execute(sql, known).fetchone()[0]
    return number


def _wanted(filters: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in filters.items() if value is not None}


def _from(tx: Tx, source: str, by: Sequence[str], wanted: Iterable[str]) -> str:
    """Only what is asked for is joined: among a million rows each join is felt."""
    asked = {*by, *wanted}
    if "hour" in by:
        tx.conn.create_function("hour_start_ms", 1, _hours(tx.zone), deterministic=True)
    return f"""
        FROM {source} r
        {"JOIN users u ON u.id = r.user_id" if asked & {"user", "key"} else ""}
        {"JOIN keys k ON k.id = r.key_id" if "key" in asked else ""}
        {"LEFT JOIN teams t ON t.id = r.team_id" if "team" in asked else ""}
        {"LEFT JOIN usage_tags g ON g.usage_id = r.id" if "tag" in by else ""}
        """


def _hours(zone: ZoneInfo) -> Callable[[int], int]:
    """`hour_start_ms` for a million calls: no zone of today has an hour that begins within a quarter of one in UTC."""
    found: dict[int, int] = {}

    def start_ms(ms: int) -> int:
        quarter = ms // 900_000
        if quarter not in found:
            found[quarter] = hour_start_ms(quarter * 900_000, zone)
        return found[quarter]

    return start_ms


def _where(wanted: dict[str, Any], rows: bool) -> str:
    conditions = [FILTERS[name] for name in wanted]
    if rows:
        conditions += [_INDEXED[name] for name in wanted if name in _INDEXED]
    return f"WHERE {' AND '.join(conditions) or '1'}"


Rerated = dict[tuple[Any, ...], dict[str, int]]


def rerated(tx: Tx, by: Sequence[str], filters: dict[str, Any], price_of: Callable[[Row], Price | None]) -> Rerated:
    """What the same requests would have been charged by other prices: per group what was charged, and would have been.

    Reads the usage rows one after the other, because roll-ups don't tell what tier or price each request had. A request
    that `price_of` has no price for keeps its charge, and is counted as `unpriced`. Plans' terms hold as they did.
    """
    wanted = _wanted(filters)
    keys = ", ".join(f'{GROUPS[name]} AS "by_{name}"' for name in by)
    costs: dict[int, Price] = {}
    found: Rerated = {}
    for row in tx.execute(
        f"""
        SELECT {keys}{"," if by else ""} r.* {_from(tx, "usage", by, wanted)}
        {_where(wanted, True)}
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
