"""Prices: what admins set, from when on; and snapshots of all that anything was ever costed or charged by.

Invariants, and why they hold:
1. **The past isn't repriced.** A price begins now or later, and only one that hasn't begun can be taken back. What a
   request costs is fixed by the snapshots on its hold anyway.
2. **A change is seen at the next request.** Every change counts `meta.prices` up in its own transaction. A hold is only
   placed where `version`, read in the hold's transaction, is still the one that its claim was priced by: so each hold
   that is committed after a change has the new price, and each one before it the old.
3. **Any amount can be recomputed for ever.** Snapshots are never edited or deleted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from .. import catalogue, pricing
from ..errors import Refusal
from ..limits import FOREVER_MS
from ..pricebook import Book, Key, Kind, SetPrice, Version
from ..pricing import Price
from . import audit
from .db import Row, Tx

# ── snapshots ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Snapshot(msgspec.Struct, frozen=True):
    """A price that the database knows by this id. It never changes, so it may be kept once its transaction is over."""

    id: int
    price: Price


def intern(tx: Tx, price: Price) -> Snapshot:
    """The snapshot of a price, made if need be."""
    body = pricing.encode(price)
    tx.execute("INSERT INTO prices (body) VALUES (?) ON CONFLICT (body) DO NOTHING", (body,))
    return Snapshot(tx.value("SELECT id FROM prices WHERE body = ?", body), price)


def snapshot(tx: Tx, number: int) -> Snapshot:
    return Snapshot(number, pricing.decode(tx.value("SELECT body FROM prices WHERE id = ?", number)))


# ── which prices hold ─────────────────────────────────────────────────────────────────────────────────────────────────


class Outdated(Exception):
    """Prices have changed since a claim was made: it is to be made anew."""


def version(tx: Tx) -> Version:
    if tx.kept is not None:
        known = tx.kept.get("prices")
        if known is not None and known[0].begun_ms <= tx.now_ms < known[1]:
            holding: Version = known[0]
            return holding
    changes, begun_ms, next_ms = tx.execute(_VERSION, (tx.now_ms, tx.now_ms)).fetchone()
    found = Version(int(changes), begun_ms or 0)
    if tx.kept is not None:
        tx.kept["prices"] = found, FOREVER_MS if next_ms is None else next_ms
    return found


_VERSION = """
SELECT value, (SELECT max(from_ms) FROM set_prices WHERE from_ms <= ?),
       (SELECT min(from_ms) FROM set_prices WHERE from_ms > ?)
FROM meta WHERE key = 'prices'
"""


def check(tx: Tx, known: Version) -> None:
    """Raises Outdated where other prices hold now than those that were looked up."""
    if version(tx) != known:
        raise Outdated


_IN_FORCE = """
SELECT s.kind, s.upstream, s.model, s.from_ms, p.body FROM set_prices s JOIN prices p ON p.id = s.price_id
WHERE s.from_ms = (SELECT max(t.from_ms) FROM set_prices t WHERE t.kind = s.kind AND t.upstream = s.upstream
                   AND t.model = s.model AND t.from_ms <= ?)
"""


def in_force(tx: Tx) -> Book:
    """The prices that hold now.

    The version is read first: where the prices change between the two reads, the book is called by the older one, and
    whoever compares that with the one in force looks again.
    """
    known = version(tx)
    found: dict[Key, SetPrice] = {
        (Kind(row["kind"]), row["upstream"], row["model"].casefold()): SetPrice(
            pricing.decode(row["body"]), row["from_ms"]
        )
        for row in tx.execute(_IN_FORCE, (tx.now_ms,))
    }
    newer = tx.one("SELECT edition, body FROM catalogues")
    return Book(known, found, *(newer or ("", b"")))


def changed(tx: Tx) -> None:
    tx.execute("UPDATE meta SET value = value + 1 WHERE key = 'prices'")


# ── set, removed, listed ──────────────────────────────────────────────────────────────────────────────────────────────


def put(tx: Tx, prices: Mapping[Key, Price], from_ms: int | None = None, *, source: str | None = None) -> int:
    """Set prices from a moment on (None: now), all or none of them. Returns the moment. `source`: the list that they
    come from, which is told in the audit instead of each of them.

    Another one of the same model that begins at the very same moment is replaced; those that begin later stay. Raises
    Refusal where the moment is past.
    """
    begins_ms = tx.now_ms if from_ms is None else from_ms
    if begins_ms < tx.now_ms:
        raise Refusal("the past can't be repriced: leave --from out for now, or name a later moment")
    for key, price in prices.items():
        before = _holding(tx, key, begins_ms)
        _insert(tx, key, intern(tx, price).id, begins_ms)
        if source is None:
            after = {"price": pricing.said(price), "from_ms": begins_ms}
            audit.record(tx, "prices.set", named(key), before=_told(before) if before else None, after=after)
    if source is not None:
        audit.record(tx, "prices.import", source, after={"prices": len(prices), "from_ms": begins_ms})
    changed(tx)
    return begins_ms


def remove(tx: Tx, key: Key, from_ms: int | None = None) -> list[Row]:
    """End what is set for a model now, and take back what is set for later; or only take back the one that begins at
    `from_ms`. Returns what is gone. Raises Refusal `not_found` where there is nothing of the kind.
    """
    gone = [row for row in _rows_of(tx, key) if row["from_ms"] > tx.now_ms]
    if from_ms is not None:
        gone = [row for row in gone if row["from_ms"] == from_ms]
    for row in gone:
        tx.execute("DELETE FROM set_prices WHERE id = ?", (row["id"],))
    now = _holding(tx, key, tx.now_ms) if from_ms is None else None
    if now and now["body"]:
        gone = [now, *gone]
        _insert(tx, key, None, tx.now_ms)
    if not gone:
        what = "no price is set for" if from_ms is None else "no price that begins then is still to come for"
        raise Refusal(f"{what} {named(key)}: `llmgate prices` lists them", code="not_found")
    audit.record(tx, "prices.remove", named(key), before={"prices": [_told(row) for row in gone]})
    changed(tx)
    return gone


def listing(tx: Tx, *, everything: bool = False) -> Iterator[Row]:
    """What is set, by name and time, each with the moment until which it holds (None: no end is known). Without
    `everything`, only what holds now or will.
    """
    yield from tx.execute(
        """
        SELECT * FROM (
          SELECT s.*, p.body,
                 lead(s.from_ms) OVER (PARTITION BY s.kind, s.upstream, s.model ORDER BY s.from_ms) AS until_ms
          FROM set_prices s LEFT JOIN prices p ON p.id = s.price_id
        ) WHERE body IS NOT NULL AND (? OR until_ms IS NULL OR until_ms > ?)
        ORDER BY model, upstream, kind, from_ms
        """,
        (everything, tx.now_ms),
    )


def named(key: Key) -> str:
    """What a price is called: `gpt-4o`, `azure/gpt-4o (cost)`."""
    kind, upstream, model = key
    return f"{f'{upstream}/' if upstream else ''}{model}{' (cost)' if kind is Kind.COST else ''}"


def _rows_of(tx: Tx, key: Key) -> list[Row]:
    return tx.execute(
        "SELECT s.*, p.body FROM set_prices s LEFT JOIN prices p ON p.id = s.price_id "
        "WHERE s.kind = ? AND s.upstream = ? AND s.model = ? ORDER BY s.from_ms",
        key,
    ).fetchall()


def _holding(tx: Tx, key: Key, at_ms: int) -> Row | None:
    begun = [row for row in _rows_of(tx, key) if row["from_ms"] <= at_ms]
    return begun[-1] if begun else None


def _insert(tx: Tx, key: Key, price_id: int | None, from_ms: int) -> None:
    where = (*key, from_ms)
    tx.execute("DELETE FROM set_prices WHERE kind = ? AND upstream = ? AND model = ? AND from_ms = ?", where)
    tx.execute(
        "INSERT INTO set_prices (kind, upstream, model, from_ms, price_id, actor) VALUES (?, ?, ?, ?, ?, ?)",
        (*where, price_id, tx.actor),
    )


def _told(row: Row) -> dict[str, object]:
    return {"price": pricing.said(pricing.decode(row["body"])) if row["body"] else None, "from_ms": row["from_ms"]}


# ── catalogues ────────────────────────────────────────────────────────────────────────────────────────────────────────


def use_catalogue(tx: Tx, body: bytes, source: str) -> str:
    """Use another catalogue from now on; an empty one: the installed again. Returns its edition.

    Only the one in use is kept: what earlier ones said of requests stands in the snapshots.
    """
    before = tx.value("SELECT edition FROM catalogues")
    tx.execute("DELETE FROM catalogues")
    edition = catalogue.edition_of(body) if body else ""
    if body:
        tx.execute(
            "INSERT INTO catalogues (edition, body, source, added_ms) VALUES (?, ?, ?, ?)",
            (edition, catalogue.packed(body), source, tx.now_ms),
        )
    audit.record(tx, "prices.update", source, before={"edition": before or ""}, after={"edition": edition})
    changed(tx)
    return edition
