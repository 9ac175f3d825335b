"""Recompute the books from first facts, and say where they differ.

Facts are the entries, the usage rows (quantities and price snapshots) and the holds; costs, charges, balances and
roll-ups follow from them. Each check is a plain function that yields what it found; nothing here trusts a cached sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import msgspec

from .. import pricing
from ..money import dollars
from ..overage import charged
from ..pricing import Price, amount
from ..types import METERS, Meters
from . import ledger, limits, overage
from .db import Row, Tx
from .holds import ROLLUP_KEY, ROLLUP_SUMS


class Finding(msgspec.Struct, frozen=True):
    """One thing that isn't as it should be: where, what the book says, and what follows from the facts."""

    check: str
    subject: str
    stored: str
    expected: str
    derived: bool
    """The stored figure is derived, so it can be rebuilt; a differing fact can't."""


class Counts(msgspec.Struct):
    """What was looked at."""

    entries: int = 0
    usage: int = 0
    accounts: int = 0
    holds: int = 0
    rollups: int = 0
    counters: int = 0


def verify(tx: Tx, counts: Counts | None = None) -> Iterator[Finding]:
    """Every check in turn, over one consistent view, in memory that doesn't grow with the history."""
    counts = counts or Counts()
    yield from _entries(tx, counts)
    yield from _usage(tx, counts)
    yield from _accounts(tx, counts)
    yield from _holds(tx, counts)
    yield from _rollups(tx, counts)
    yield from _counters(tx, counts)


def _entries(tx: Tx, counts: Counts) -> Iterator[Finding]:
    """The chain of hashes: each entry is as it was written, and none is missing, in between or at the end."""
    before, last = b"", 0
    for row in tx.execute("SELECT * FROM entries ORDER BY id"):
        counts.entries += 1
        expected = ledger.entry_hash(before, dict(row))
        if row["id"] != last + 1:
            yield from _missing(last + 1, row["id"])
        elif row["hash"] != expected:
            yield Finding("entries", f"entry {row['id']}", row["hash"].hex()[:16], expected.hex()[:16], derived=False)
        before, last = row["hash"], row["id"]
    written = tx.value("SELECT seq FROM sqlite_sequence WHERE name = 'entries'") or 0
    yield from _missing(last + 1, written + 1)


def _missing(first: int, after: int) -> Iterator[Finding]:
    if after - first == 1:
        yield Finding("entries", f"entry {first}", "-", "an entry", derived=False)
    elif after > first:
        yield Finding("entries", f"entries {first} to {after - 1}", "-", "an entry each", derived=False)


def _usage(tx: Tx, counts: Counts) -> Iterator[Finding]:
    """Each row's cost and charge follow from its quantities and its price snapshots."""
    known: dict[int | None, Price | None] = {None: None}
    for row in tx.execute("SELECT * FROM usage ORDER BY id"):
        counts.usage += 1
        subject = f"usage {row['id']}"
        for number in {row["cost_price_id"], row["charge_price_id"]} - known.keys():
            known[number] = _price(tx, number)
            if known[number] is None:
                yield Finding("prices", f"price {number}", "-", "a price", derived=False)
        cost_price, charge_price = known[row["cost_price_id"]], known[row["charge_price_id"]]
        meters = Meters(*(row[name] for name in METERS))
        cost, charge = row["cost_nano"], row["charge_nano"]
        if cost_price and row["cost_source"] != "upstream":
            cost = amount(meters, cost_price)
        if cost_price and (charge_price or row["charge_price_id"] is None):
            used = row["quota_used"] or 0
            charge = charged(meters, cost, cost_price, charge_price, overage.terms_of(row), used)
        if row["cost_nano"] != cost:
            yield Finding("cost", subject, dollars(row["cost_nano"]), dollars(cost), derived=False)
        if row["charge_nano"] != charge:
            yield Finding("charge", subject, dollars(row["charge_nano"]), dollars(charge), derived=False)
        overrun = bool(row["bounded"]) and row["charge_nano"] > row["hold_nano"]
        if bool(row["overrun"]) != overrun:
            yield Finding("overrun", subject, str(bool(row["overrun"])), str(overrun), derived=False)


def _price(tx: Tx, number: int) -> Price | None:
    """A snapshot, or None where it is gone or can't be read."""
    body = tx.value("SELECT body FROM prices WHERE id = ?", number)
    try:
        return pricing.decode(body)
    except (msgspec.DecodeError, TypeError):
        return None


def _accounts(tx: Tx, counts: Counts) -> Iterator[Finding]:
    """Balances are entries less charges; what is held is what the holds say."""
    sums = tx.execute(
        """
        SELECT a.id, a.kind || ' ' || coalesce(u.name, t.name, '?') AS name, a.balance_nano, a.held_nano,
               coalesce((SELECT sum(amount_nano) FROM entries e WHERE e.account_id = a.id), 0)
               - coalesce(c.charges_nano, 0) AS balance_expected,
               coalesce((SELECT sum(amount_nano) FROM holds h WHERE h.account_id = a.id), 0) AS held_expected
        FROM accounts a
        LEFT JOIN users u ON u.account_id = a.id
        LEFT JOIN teams t ON t.account_id = a.id
        LEFT JOIN (SELECT account_id, sum(charge_nano) AS charges_nano FROM usage GROUP BY account_id) c
               ON c.account_id = a.id
        ORDER BY a.id
        """
    )
    for row in sums:
        counts.accounts += 1
        for what in ("balance", "held"):
            stored, expected = row[f"{what}_nano"], row[f"{what}_expected"]
            if stored != expected:
                yield Finding(what, row["name"], dollars(stored), dollars(expected), derived=True)


def _holds(tx: Tx, counts: Counts) -> Iterator[Finding]:
    """A hold has no outcome yet: a usage row of the same id would be a second one."""
    counts.holds = tx.value("SELECT count(*) FROM holds")
    for row in tx.execute("SELECT h.id FROM holds h JOIN usage g ON g.id = h.id"):
        yield Finding("holds", f"hold {row[0]}", "in flight and settled", "one of them", derived=False)


def _rollups(tx: Tx, counts: Counts) -> Iterator[Finding]:
    """Roll-ups are the sums of the usage rows of their day; a sealed one is a fact."""
    counts.rollups = tx.value("SELECT count(*) FROM rollups")
    fresh = ", ".join(
        {"requests": "count(*)", "errors": "sum(status = 'error')"}.get(name, f"sum({name})") for name in ROLLUP_SUMS
    )
    keys = ", ".join(
        {"team_id": "coalesce(team_id, 0)", "plan": "coalesce(plan, '')"}.get(name, name) for name in ROLLUP_KEY
    )
    rows = tx.execute(
        f"""
        SELECT {", ".join(ROLLUP_KEY)}, 1 AS is_stored, {", ".join(ROLLUP_SUMS)} FROM rollups WHERE NOT sealed
        UNION ALL
        SELECT {keys}, 0, {fresh} FROM usage GROUP BY {", ".join(str(n + 1) for n in range(len(ROLLUP_KEY)))}
        ORDER BY {", ".join(ROLLUP_KEY)}
        """
    )
    for key, pair in groupby(rows, key=_rollup_key):
        sides = {row["is_stored"]: {name: row[name] for name in ROLLUP_SUMS} for row in pair}
        stored, expected = sides.get(1, {}), sides.get(0, {})
        differing = [name for name in ROLLUP_SUMS if stored.get(name) != expected.get(name)]
        if differing:
            subject = " ".join(str(part) for part in key if part not in ("", 0))
            yield Finding("rollups", subject, _sums(stored, differing), _sums(expected, differing), derived=True)


def _rollup_key(row: Row) -> tuple[str | int, ...]:
    return tuple(row[name] for name in ROLLUP_KEY)


def _sums(row: dict[str, int], names: list[str]) -> str:
    """Those of a roll-up's sums that differ; of a whole one that is too many or missing, those that aren't 0."""
    whole = len(names) == len(ROLLUP_SUMS)
    return ", ".join(f"{name} {row[name]}" for name in names if row and (row[name] or not whole)) or "-"


def _counters(tx: Tx, counts: Counts) -> Iterator[Finding]:
    """A limit's counter is the sum of the usage rows, and of the holds, that were placed in its window."""
    for row in tx.execute("SELECT * FROM counters ORDER BY id").fetchall():
        counts.counters += 1
        used, held = limits.expected(tx, row)
        subject = f"{row['subject_kind']} {row['subject_id']} {limits.limit_of(row)}"
        for what, expected in (("used", used), ("held", held)):
            if row[what] != expected:
                yield Finding(f"limits {what}", subject, str(row[what]), str(expected), derived=True)
