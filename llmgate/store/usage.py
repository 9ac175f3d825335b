"""Reading usage rows: what the CLI lists and follows, and what a user is told about their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from ..types import METERS
from .db import Database, Row, Tx

ATTEMPT_FIELDS = ("upstream", "upstream_model", "http_status", "source", "cost_nano", "cost_source")

_USAGE = """
SELECT g.*, u.name AS user, t.name AS team, k.name AS key,
       CASE g.account_id WHEN u.account_id THEN u.name ELSE 'team:' || p.name END AS account,
       (SELECT json_group_object(name, value) FROM usage_tags WHERE usage_id = g.id) AS tags
FROM usage g
JOIN users u ON u.id = g.user_id
JOIN keys k ON k.id = g.key_id
LEFT JOIN teams t ON t.id = g.team_id
LEFT JOIN teams p ON p.account_id = g.account_id
"""

_MORE = f"""
SELECT (SELECT body FROM prices WHERE id = g.cost_price_id) AS cost_price,
       (SELECT body FROM prices WHERE id = g.charge_price_id) AS charge_price,
       (SELECT json_group_array(json_object(
          {", ".join(f"'{name}', a.{name}" for name in (*ATTEMPT_FIELDS, *METERS))}, 'price', json(p.body)
        )) FROM attempts a JOIN prices p ON p.id = a.cost_price_id WHERE a.usage_id = g.id) AS attempts,
       """
"""What makes a row whole: what it was costed and charged by, and the tries in vain."""

TAGGED = """NOT EXISTS (
  SELECT 1 FROM json_each(:tag) j
  WHERE NOT EXISTS (SELECT 1 FROM usage_tags WHERE usage_id = {id} AND name || '=' || value = j.value)
)"""
"""Whether a row has all tags of a JSON list of `NAME=VALUE`."""

FILTERS = {
    "user": "u.name = :user",
    "team": "t.name = :team",
    "key": "(g.key_id = :key OR u.name || '/' || k.name = :key)",
    "model": "g.model GLOB :model",
    "upstream": "g.upstream = :upstream",
    "plan": "coalesce(g.plan, '') = :plan",
    "tag": TAGGED.format(id="g.id"),
    "status": "g.status = :status",
    "since_ms": "g.time_ms >= :since_ms",
    "until_ms": "g.time_ms < :until_ms",
    "ended_from_ms": "g.time_ms + g.duration_ms >= :ended_from_ms",
    "after_id": "g.id > :after_id",
    "upto_id": "g.id <= :upto_id",
    "ids": "g.id IN (SELECT value FROM json_each(:ids))",
}
"""Filter → SQL condition on its value."""


def rows(tx: Tx, filters: dict[str, Any], *, newest: int | None = None) -> Iterator[Row]:
    """Usage rows that pass every filter, oldest first; only the `newest` so many, where given."""
    wanted = {name: value for name, value in filters.items() if value is not None}
    where = " AND ".join(FILTERS[name] for name in wanted) or "1"
    if newest is None:
        yield from tx.execute(f"{_USAGE} WHERE {where} ORDER BY g.time_ms, g.id", wanted)
        return
    latest = f"{_USAGE} WHERE {where} ORDER BY g.time_ms DESC, g.id DESC LIMIT :newest"
    yield from reversed(tx.execute(latest, wanted | {"newest": newest}).fetchall())


def page(tx: Tx, filters: dict[str, Any], size: int, *, whole: bool = False) -> list[Row]:
    """The first so many rows that pass every filter, by id: `after_id` gives the next ones. `whole`: with all that
    another database needs to know of them.

    Rows are walked by their ids. By any other index each page would look through all that are left, and sort them.
    """
    wanted = {name: value for name, value in filters.items() if value is not None}
    where = " AND ".join(FILTERS[name] for name in wanted) or "1"
    by_id = _USAGE.replace("FROM usage g\n", "FROM usage g NOT INDEXED\n")
    if whole:
        by_id = by_id.replace("SELECT ", _MORE, 1)
    return tx.execute(f"{by_id} WHERE {where} ORDER BY g.id LIMIT :size", wanted | {"size": size}).fetchall()


def latest(tx: Tx, filters: dict[str, Any], size: int, before: tuple[int, int] | None = None) -> list[Row]:
    """The newest so many rows that pass, newest first; `before` (time and id of the last) gives those that follow."""
    wanted = {name: value for name, value in filters.items() if value is not None}
    conditions = [FILTERS[name] for name in wanted]
    if before is not None:
        conditions.append("g.time_ms <= :before_ms AND (g.time_ms, g.id) < (:before_ms, :before_id)")
        wanted |= {"before_ms": before[0], "before_id": before[1]}
    where = " AND ".join(conditions) or "1"
    return tx.execute(
        f"{_USAGE} WHERE {where} ORDER BY g.time_ms DESC, g.id DESC LIMIT :size", wanted | {"size": size}
    ).fetchall()


def pages(db: Database, filters: dict[str, Any], size: int, *, whole: bool = False) -> Iterator[Row]:
    """All rows that pass, by id. Between two pages nothing is held open, so that a slow reader never holds the
    database; a row that is written meanwhile may be among them or not.
    """
    while True:
        with db.read() as tx:
            found = page(tx, filters, size, whole=whole)
        yield from found
        if len(found) < size:
            return
        filters = filters | {"after_id": found[-1]["id"]}


class Mark(NamedTuple):
    """How far usage has been seen: which holds had been placed at a moment, and which of them were still in flight.

    A row has the id of its hold, so rows don't appear in the order of ids: a request that takes an hour comes with an
    id from an hour ago. But ids of holds only grow. So at any moment each id up to `upto_id` is either in flight, or
    has got the row that it will ever get. What is new at a later moment is therefore, exactly: the ids past `upto_id`,
    and those in flight of then, less those in flight of now. All that is remembered are the requests in flight.

    A row that is corrected later (its process was believed dead, and lives) isn't new: `events` tells of it.
    """

    upto_id: int
    in_flight: frozenset[int]


BEGINNING = Mark(0, frozenset())


def mark(tx: Tx) -> Mark:
    """Where things stand. In one snapshot with the holds: `tx` must be a transaction."""
    placed = tx.value("SELECT seq FROM sqlite_sequence WHERE name = 'holds'") or 0
    return Mark(placed, frozenset(row[0] for row in tx.execute("SELECT id FROM holds")))


def mark_before(tx: Tx, time_ms: int) -> Mark:
    """A mark from which on everything comes that began at a moment or later."""
    first = tx.value("SELECT min(id) FROM usage WHERE time_ms >= ?", time_ms)
    return Mark(mark(tx).upto_id if first is None else first - 1, frozenset())


def between(db: Database, filters: dict[str, Any], seen: Mark, now: Mark, size: int) -> Iterator[Row]:
    """The rows that came from one mark to another, those of old ids first, `size` at a time."""
    late = sorted(seen.in_flight - now.in_flight)
    if late:
        yield from pages(db, filters | {"ids": msgspec.json.encode(late).decode()}, size)
    if now.upto_id > seen.upto_id:
        for row in pages(db, filters | {"after_id": seen.upto_id, "upto_id": now.upto_id}, size):
            if row["id"] not in now.in_flight:  # it has ended since: it comes with the next mark
                yield row


def attempts(tx: Tx, ids: list[int]) -> list[Row]:
    """The tries in vain of requests: what was billed for them, and by which upstream."""
    return tx.execute(
        "SELECT usage_id, upstream, cost_nano FROM attempts WHERE usage_id IN (SELECT value FROM json_each(?))",
        (msgspec.json.encode(ids).decode(),),
    ).fetchall()


def count(tx: Tx) -> int:
    number: int = tx.value("SELECT count(*) FROM usage")
    return number
