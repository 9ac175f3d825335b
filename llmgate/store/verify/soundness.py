"""Whether the file can be trusted at all: its pages, and that nothing points at what isn't there."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby, islice

from ..db import Database, Tx
from .finding import Finding

MOST = 100
"""A table that lost all its parents is told by so many of its rows, and how many more there are."""

TOLD_ELSEWHERE = {("usage", "prices")}
"""A missing price is told once, not once per row: `usage.check`."""


def damage(db: Database) -> Iterator[Finding]:
    """Pages that are broken, rows that the tables don't allow. The indexes' content is left out: it takes thrice as
    long, and a backup checks it.
    """
    with db.read() as tx:
        told = [row[0] for row in tx.execute(f"PRAGMA quick_check({MOST})")]
    for line in told:
        if line != "ok":
            yield Finding("database", "file", line.replace("\n", " "), "ok", derived=False)


def orphans(db: Database) -> Iterator[Finding]:
    """Rows that refer to something that is gone."""
    with db.read() as tx:
        tables = [row[0] for row in tx.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
    for table in tables:
        with db.read() as tx:
            found = list(_orphans(tx, table))
        yield from found


def _orphans(tx: Tx, table: str) -> Iterator[Finding]:
    columns = {row["id"]: row["from"] for row in tx.execute(f'PRAGMA foreign_key_list("{table}")')}
    if not columns:
        return
    violations = tx.execute(f'PRAGMA foreign_key_check("{table}")')
    for (number, parent), rows in groupby(violations, key=lambda row: (row["fkid"], row["parent"])):
        if (table, parent) in TOLD_ELSEWHERE:
            continue
        column = columns[number]
        for row in islice(rows, MOST):
            subject, value = table, "one that is gone"
            if row["rowid"] is not None:  # a table without row ids doesn't tell which
                subject = f"{_one(table)} {row['rowid']}"
                value = tx.value(f'SELECT "{column}" FROM "{table}" WHERE rowid = ?', row["rowid"])
            yield Finding("orphans", subject, f"{column} {value}", f"one of the {parent}", derived=False)
        more = sum(1 for _ in rows)
        if more:
            yield Finding("orphans", table, f"{more} more of {column}", f"one of the {parent} each", derived=False)


def _one(table: str) -> str:
    """What one row of a table is called."""
    return {"entries": "entry"}.get(table) or (table if table == "usage" else table.removesuffix("s"))
