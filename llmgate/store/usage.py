"""Reading usage rows: what the CLI lists, and what a user is told about their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .db import Row, Tx

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

FILTERS = {
    "user": "u.name = :user",
    "team": "t.name = :team",
    "key": "(g.key_id = :key OR u.name || '/' || k.name = :key)",
    "model": "g.model GLOB :model",
    "upstream": "g.upstream = :upstream",
    "status": "g.status = :status",
    "since_ms": "g.time_ms >= :since_ms",
    "until_ms": "g.time_ms < :until_ms",
    "after_id": "g.id > :after_id",
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


def page(tx: Tx, filters: dict[str, Any], size: int) -> list[Row]:
    """The first so many rows that pass every filter, by id: `after_id` gives the next ones."""
    wanted = {name: value for name, value in filters.items() if value is not None}
    where = " AND ".join(FILTERS[name] for name in wanted) or "1"
    return tx.execute(f"{_USAGE} WHERE {where} ORDER BY g.id LIMIT :size", wanted | {"size": size}).fetchall()


def count(tx: Tx) -> int:
    number: int = tx.value("SELECT count(*) FROM usage")
    return number
