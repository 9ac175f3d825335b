"""The ledger: each entry as it was written, none missing, and each with its cause."""

from __future__ import annotations

from collections.abc import Iterator

from ...money import dollars
from .. import ledger
from ..db import Database, Row, Tx
from .finding import Counts, Finding

PAGE = 2000

SIGNS = {"add": 1, "payment": 1, "refund": 1, "take": -1, "expire": -1, "closing": -1}
"""Which way a kind moves money; a reversal and the halves of a transfer go either way."""


def check(db: Database, counts: Counts) -> Iterator[Finding]:
    """Entries are only ever appended, so what was read stays true, and the chain goes on from page to page."""
    before, last, more = b"", 0, True
    while more:
        with db.read() as tx:
            found: list[Finding] = []
            number = 0
            for row in tx.execute(f"{ALL} WHERE e.id > ? ORDER BY e.id LIMIT ?", (last, PAGE)):
                number += 1
                found += _link(before, last, row)
                found += cause(tx, row)
                before, last = row["hash"], row["id"]
            more = number == PAGE
            if not more:
                written = tx.value("SELECT seq FROM sqlite_sequence WHERE name = 'entries'") or 0
                found += _missing(last + 1, written + 1)
        counts.entries += number
        yield from found


ALL = """
SELECT e.*, o.id AS of_id, o.account_id AS of_account, o.kind AS of_kind, o.amount_nano AS of_nano,
       o.expires_ms AS of_expires_ms
FROM entries e LEFT JOIN entries o ON o.id = coalesce(e.reverses, e.cause)
"""
"""Entries, each with the one that it follows from."""


def _link(before: bytes, last: int, row: Row) -> Iterator[Finding]:
    """The chain of hashes."""
    if row["id"] != last + 1:
        yield from _missing(last + 1, row["id"])
        return
    expected = ledger.entry_hash(before, dict(row))
    if row["hash"] != expected:
        yield Finding("entries", f"entry {row['id']}", row["hash"].hex()[:16], expected.hex()[:16], derived=False)


def _missing(first: int, after: int) -> Iterator[Finding]:
    if after - first == 1:
        yield Finding("entries", f"entry {first}", "-", "an entry", derived=False)
    elif after > first:
        yield Finding("entries", f"entries {first} to {after - 1}", "-", "an entry each", derived=False)


def cause(tx: Tx, row: Row) -> Iterator[Finding]:
    """What an entry says that it follows from is there, and allows it."""
    for stored, expected in _objections(tx, row):
        yield Finding("causes", f"entry {row['id']}", stored, expected, derived=False)


def _objections(tx: Tx, row: Row) -> Iterator[tuple[str, str]]:
    """What is wrong with an entry: what it says, what it should."""
    kind, amount = row["kind"], row["amount_nano"]
    if amount * SIGNS.get(kind, amount) < 0:
        yield f"{kind} {dollars(amount)}", f"{kind} {dollars(-amount)}"
    if (kind == "reverse") != (row["reverses"] is not None):
        yield kind, "an entry that it reverses" if kind == "reverse" else "reverse"
    if (kind == "closing") != (row["charged_ms"] is not None):
        yield kind, "when the charges were made" if kind == "closing" else "closing"
    match kind:
        case "reverse":
            yield from _of_reversal(tx, row)
        case "refund":
            yield from _of_refund(tx, row)
        case "expire":
            yield from _of_expiry(tx, row)
        case "transfer":
            yield from _of_transfer(tx, row)


def _of_reversal(tx: Tx, row: Row) -> Iterator[tuple[str, str]]:
    """The opposite of an entry of the same account; of a grant only what had not expired by then."""
    if row["of_id"] is None:
        return  # told already: it names none, or one that is missing
    if row["of_kind"] == "reverse":
        yield f"reverses entry {row['of_id']}", "an entry that is no reversal"
    if row["of_account"] != row["account_id"]:
        yield f"account {row['account_id']}", f"account {row['of_account']}"
    expired = tx.value(f"{_NOT_REVERSED} AND e.cause = ? AND e.kind = 'expire'", row["id"], row["of_id"])
    if row["amount_nano"] != -(row["of_nano"] + expired):
        yield dollars(row["amount_nano"]), dollars(-(row["of_nano"] + expired))


def _of_refund(tx: Tx, row: Row) -> Iterator[tuple[str, str]]:
    """A request that was charged to this account as much as all refunds of it come to. One that was pruned is booked
    by the closing entry after.
    """
    charged = tx.one("SELECT account_id, charge_nano FROM usage WHERE id = ?", row["usage_id"])
    if charged is None:
        pruned = tx.one(
            "SELECT 1 FROM entries WHERE account_id = ? AND id > ? AND kind = 'closing'", row["account_id"], row["id"]
        )
        if not pruned:
            yield f"usage {row['usage_id']}", "a request"
        return
    if charged["account_id"] != row["account_id"]:
        yield f"account {row['account_id']}", f"account {charged['account_id']}"
    back = tx.value(f"{_NOT_REVERSED} AND e.usage_id = ? AND e.kind = 'refund'", row["id"], row["usage_id"])
    if back > charged["charge_nano"]:
        yield f"{dollars(back)} of usage {row['usage_id']}", f"at most {dollars(charged['charge_nano'])}"


_NOT_REVERSED = """
SELECT coalesce(sum(e.amount_nano), 0) FROM entries e
WHERE e.id <= ? AND NOT EXISTS (SELECT 1 FROM entries r WHERE r.reverses = e.id)
"""


def _of_expiry(tx: Tx, row: Row) -> Iterator[tuple[str, str]]:
    """Credits that were granted to this account until then."""
    if row["of_id"] is None or row["of_nano"] <= 0 or row["of_expires_ms"] is None:
        yield f"of entry {row['cause']}", "credits that expire"
        return
    if row["of_account"] != row["account_id"]:
        yield f"account {row['account_id']}", f"account {row['of_account']}"
    if row["of_expires_ms"] > row["created_ms"]:
        yield f"expired at {row['created_ms']}", f"from {row['of_expires_ms']} on"
    gone = -tx.value(f"{_NOT_REVERSED} AND e.cause = ? AND e.kind = 'expire'", row["id"], row["cause"])
    if gone > row["of_nano"]:
        yield f"{dollars(gone)} of entry {row['cause']}", f"at most {dollars(row['of_nano'])}"


def _of_transfer(tx: Tx, row: Row) -> Iterator[tuple[str, str]]:
    """What one account gave another got: the half that gets names the half that gave."""
    if row["amount_nano"] < 0:
        got = tx.value(
            "SELECT coalesce(sum(amount_nano), 0) FROM entries WHERE cause = ? AND kind = 'transfer'", row["id"]
        )
        if got != -row["amount_nano"]:
            yield f"gave {dollars(-row['amount_nano'])}", f"{dollars(got)}, as was got"
    elif row["of_kind"] != "transfer" or row["of_nano"] >= 0 or row["of_account"] == row["account_id"]:
        yield f"of entry {row['cause']}", "the half that another account gave"
