"""How large a database is, and how it grows: what `llmgate db stats` shows."""

from __future__ import annotations

import sqlite3
from datetime import date, timedelta
from pathlib import Path

import msgspec

from ..clock import local_day
from . import prune
from .db import Tx

GROWTH_DAYS = 30
"""How many whole days the growth is measured by, as far as there are so many."""

OF_REQUESTS = ("usage", "usage_tags", "attempts")
"""Tables whose rows go when requests are pruned."""


class Table(msgspec.Struct):
    """One of our tables."""

    rows: int
    bytes: int | None
    """With its indexes. None: this SQLite can't tell."""


class Growth(msgspec.Struct):
    """What comes in a day, and what could go."""

    oldest_day: str | None
    """The oldest of which there are requests one by one."""
    pruned: int
    """Requests that are only there as sums."""
    requests_per_day: int
    bytes_per_day: int | None
    prunable: prune.Sums
    prunable_bytes: int | None


def rows_per_table(tx: Tx) -> dict[str, int]:
    """Every table of ours and how many rows it has."""
    names = tx.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' "
        "AND name NOT LIKE '\\_%' ESCAPE '\\' ORDER BY name"
    ).fetchall()
    return {name: tx.value(f'SELECT count(*) FROM "{name}"') for (name,) in names}


def tables(tx: Tx) -> dict[str, Table]:
    """Every table of ours, and how large it is. It reads all of the file."""
    try:
        sizes = dict(
            tx.execute(
                "SELECT coalesce(m.tbl_name, d.name), sum(d.pgsize) FROM dbstat d "
                "LEFT JOIN sqlite_master m ON m.name = d.name WHERE d.aggregate = 1 GROUP BY 1"
            ).fetchall()
        )
    except sqlite3.OperationalError:  # SQLite was built without `dbstat`
        sizes = None
    rows = rows_per_table(tx)
    return {name: Table(number, None if sizes is None else sizes.get(name, 0)) for name, number in rows.items()}


def growth(tx: Tx, found: dict[str, Table], before: str) -> Growth:
    """From the roll-ups of the last days; what could go are the requests of the days before one."""
    today = local_day(tx.now_ms, tx.zone)
    first = tx.value("SELECT min(day) FROM rollups")
    since = max(first, (today - timedelta(days=GROWTH_DAYS)).isoformat()) if first else today.isoformat()
    until = max(since, (today - timedelta(days=1)).isoformat())
    days = max(1, (date.fromisoformat(until) - date.fromisoformat(since)).days + 1)
    recent = tx.value("SELECT coalesce(sum(requests), 0) FROM rollups WHERE day BETWEEN ? AND ?", since, until)
    per_request = _bytes_per_request(found)
    ahead = prune.ahead(tx, before)
    return Growth(
        oldest_day=tx.value("SELECT day FROM usage ORDER BY time_ms LIMIT 1"),
        pruned=tx.value("SELECT coalesce(sum(requests), 0) FROM pruned"),
        requests_per_day=-(-recent // days),
        bytes_per_day=None if per_request is None else -(-recent * per_request // days),
        prunable=ahead,
        prunable_bytes=None if per_request is None else ahead.requests * per_request,
    )


def _bytes_per_request(found: dict[str, Table]) -> int | None:
    """What a request takes with its tags, tries and indexes, rounded up."""
    sizes = [found[name].bytes for name in OF_REQUESTS]
    rows = found["usage"].rows
    total = sum(size or 0 for size in sizes)
    return None if None in sizes else -(-total // rows) if rows else 0


def free_bytes(tx: Tx) -> int:
    """Room inside the file that the next rows take before it grows."""
    number: int = tx.value("PRAGMA freelist_count") * tx.value("PRAGMA page_size")
    return number


def log_bytes(database: Path) -> int:
    """The size of the log of what isn't merged into the file yet."""
    log = database.with_name(f"{database.name}-wal")
    return log.stat().st_size if log.exists() else 0


def bytes_on_disk(database: Path) -> int:
    """The size of the file and of its log."""
    return log_bytes(database) + (database.stat().st_size if database.exists() else 0)
