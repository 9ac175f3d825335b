"""What each usage row says of itself: cost, charge, mark, attempts. On the way the rows are added up."""

from __future__ import annotations

from collections.abc import Iterator
from operator import mul
from typing import Any

import msgspec

from ... import pricing
from ...clock import DAY_MS, rfc3339
from ...money import ceil_div, dollars
from ...overage import Terms, charged
from ...pricing import UNITS, Price
from ...types import METERS, Meters
from ..db import Database, Tx
from . import derived
from .finding import Counts, Finding, view

CHUNK = 10_000
"""Rows per transaction: a tenth of a second."""

COST_COLUMNS = ("id", "cost_nano", "cost_source", "cost_price_id")
CHARGE_COLUMNS = ("charge_price_id", "quota_used", "quota_tokens", "quota_glob", "overage_nano")
COLUMNS = (*(*COST_COLUMNS, "charge_nano", "overrun", "bounded", "hold_nano", "wasted_nano", "names", *CHARGE_COLUMNS),)


def check(db: Database, counts: Counts) -> Iterator[Finding]:
    known = Prices()
    last: int | None = 0
    while last is not None:
        with view(db) as tx:
            upto = _upto(tx, "usage", last)
            found = list(rows(tx, last, upto, known)) if upto is not None else []
            if upto is not None:
                counts.usage += derived.add_up(tx, last, upto)
        yield from found
        last = upto
        db.shorten_log()
    yield from _attempts(db, known)
    yield from _holds(db, counts)


def _upto(tx: Tx, table: str, last: int) -> int | None:
    """Where the chunk ends that begins after an id; None: nothing follows."""
    upto: int | None = tx.value(
        f"SELECT max(id) FROM (SELECT id FROM {table} WHERE id > ? ORDER BY id LIMIT {CHUNK})", last
    )
    return upto


def _plain(tx: Tx, columns: tuple[str, ...], table: str, last: int, upto: int) -> Iterator[Any]:
    """The rows of a chunk as tuples, which are faster than named rows; the meters come last."""
    cursor = tx.conn.cursor()
    cursor.row_factory = None
    return cursor.execute(
        f"SELECT {', '.join((*columns, *METERS))} FROM {table} WHERE id > ? AND id <= ? ORDER BY id", (last, upto)
    )


class Prices:
    """Price snapshots by their number, as what they make of meters."""

    def __init__(self) -> None:
        self._known: dict[int, Price | None] = {}
        self._rates: dict[int, tuple[int, ...]] = {}
        """Of those that don't depend on how much is read."""

    def load(self, tx: Tx, number: int | None) -> Iterator[Finding]:
        """Get to know a snapshot. One that is gone, or can't be read, is told once."""
        if number is None or number in self._known:
            return
        try:
            price = pricing.decode(tx.value("SELECT body FROM prices WHERE id = ?", number))
        except (msgspec.DecodeError, TypeError):
            price = None
            yield Finding("prices", f"price {number}", "-", "a price", derived=False)
        self._known[number] = price
        if price is not None and not price.tiers:
            self._rates[number] = pricing.rates(price, 0)

    def price(self, number: int | None) -> Price | None:
        return self._known[number] if number is not None else None

    def amount(self, number: int, quantities: tuple[int, ...]) -> int | None:
        """`pricing.amount` by a snapshot that was loaded; None where it is gone."""
        rates = self._rates.get(number)
        if rates is not None:
            return ceil_div(sum(map(mul, quantities, rates)), UNITS)
        price = self._known[number]
        return pricing.amount(Meters(*quantities), price) if price is not None else None


def rows(tx: Tx, last: int, upto: int, known: Prices) -> Iterator[Finding]:
    wasted: dict[int, int] = {
        row[0]: row[1]
        for row in tx.execute(
            "SELECT usage_id, sum(cost_nano) FROM attempts WHERE usage_id > ? AND usage_id <= ? GROUP BY usage_id",
            (last, upto),
        )
    }
    seen: set[int | None] = set()
    for row in _plain(tx, COLUMNS, "usage", last, upto):
        number, cost, source, cost_price, charge, overrun, bounded, hold, waste, names, charge_price = row[:_META]
        if cost_price not in seen or charge_price not in seen:
            yield from known.load(tx, cost_price)
            yield from known.load(tx, charge_price)
            seen |= {cost_price, charge_price}
        quantities = row[_QUANTITIES:]
        due = cost if source == "upstream" else known.amount(cost_price, quantities)
        if due is not None and due != cost:
            yield _differs("cost", number, dollars(cost), dollars(due))
        pays = _charge(known, row, cost if due is None else due)
        if pays is not None and pays != charge:
            yield _differs("charge", number, dollars(charge), dollars(pays))
        if (bounded and charge > hold) != bool(overrun):
            yield _differs("overrun", number, str(bool(overrun)), str(not overrun))
        if waste != wasted.get(number, 0):
            yield _differs("wasted", number, dollars(waste), dollars(wasted.get(number, 0)))
        if names is not None and not _readable(names):
            yield _differs("names", number, names, "a list of names")

    for number, day, time_ms in tx.execute(_DAYS, (last, upto)):
        yield _differs("day", number, day, f"a date within 2 days of {rfc3339(time_ms)}")


_DAYS = f"""
SELECT id, day, time_ms FROM usage WHERE id > ? AND id <= ? AND (
  date(day, '+0 days') IS NOT day OR day NOT BETWEEN '1970' AND '9999'
  OR time_ms NOT BETWEEN strftime('%s', day) * 1000 - {2 * DAY_MS} AND strftime('%s', day) * 1000 + {3 * DAY_MS} - 1
)
"""
"""Rows that nobody finds who looks for requests of a day. Whatever zone a day was booked in, it began within a day."""

_QUANTITIES = len(COLUMNS)
_COST_PRICE, _CHARGE_PRICE = COLUMNS.index("cost_price_id"), COLUMNS.index("charge_price_id")
_META = _CHARGE_PRICE + 1
_TERMS = slice(COLUMNS.index("quota_tokens"), _QUANTITIES)


def _charge(known: Prices, row: Any, cost: int) -> int | None:
    """What a row should be charged: by its plan's terms, else by its own price, else its cost. None: a price that this
    needs is gone.
    """
    cost_price, charge_price, used = row[_COST_PRICE], row[_CHARGE_PRICE], row[_CHARGE_PRICE + 1]
    quota, glob, nano = row[_TERMS]
    if quota is None:  # most rows: the same as `charged`, but faster
        return cost if charge_price is None else known.amount(charge_price, row[_QUANTITIES:])
    price, own = known.price(cost_price), known.price(charge_price)
    if price is None or (own is None and charge_price is not None):
        return None
    return charged(Meters(*row[_QUANTITIES:]), cost, price, own, Terms(quota, glob, nano), used or 0)


def _differs(check: str, number: int, stored: str, expected: str) -> Finding:
    return Finding(check, f"usage {number}", stored, expected, derived=False)


def _readable(names: str) -> bool:
    try:
        msgspec.json.decode(names, type=list[str])
    except msgspec.DecodeError:
        return False
    return True


def _attempts(db: Database, known: Prices) -> Iterator[Finding]:
    """Attempts have their own cost, and belong to a request that is there."""
    last: int | None = 0
    while last is not None:
        with db.read() as tx:
            upto = _upto(tx, "attempts", last)
            found = list(_chunk_of_attempts(tx, last, upto, known)) if upto is not None else []
        yield from found
        last = upto


def _chunk_of_attempts(tx: Tx, last: int, upto: int, known: Prices) -> Iterator[Finding]:
    for row in _plain(tx, (*COST_COLUMNS, "usage_id"), "attempts", last, upto):
        number, cost, source, price, usage_id = row[:5]
        yield from known.load(tx, price)
        due = cost if source == "upstream" else known.amount(price, row[5:])
        if due is not None and due != cost:
            yield Finding("cost", f"attempt {number}", dollars(cost), dollars(due), derived=False)
        if tx.value("SELECT 1 FROM usage WHERE id = ?", usage_id) is None:
            yield Finding("orphans", f"attempt {number}", f"usage_id {usage_id}", "one of the usage", derived=False)


def _holds(db: Database, counts: Counts) -> Iterator[Finding]:
    """A hold has no outcome yet: a usage row of the same id would be a second one. And an outcome had a hold: a row of
    an id that was never given to one would meet the hold that will get it.
    """
    with db.read() as tx:
        counts.holds = tx.value("SELECT count(*) FROM holds")
        twice = [row[0] for row in tx.execute("SELECT h.id FROM holds h JOIN usage g ON g.id = h.id ORDER BY h.id")]
        given = tx.value("SELECT seq FROM sqlite_sequence WHERE name = 'holds'") or 0
        highest = tx.value("SELECT max(id) FROM usage") or 0
    for number in twice:
        yield Finding("holds", f"hold {number}", "in flight and settled", "one of them", derived=False)
    if highest > given:
        yield Finding("holds", f"usage {highest}", "never held", f"an id up to {given}", derived=False)
