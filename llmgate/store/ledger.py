"""The credit ledger: money that was moved, as immutable entries in one hash chain.

Invariants:
- balance of an account = Σ its entries − Σ charges of its usage rows. `accounts.balance_nano` caches it; every change
  of either side updates it in the same transaction, and `verify` recomputes it.
- An entry is never edited or deleted (triggers see to it); a wrong one is reversed by another, once.
- Each entry's hash covers its content and the hash before it, so a book that was changed from outside shows it.
- The same `ref` with the same account and amount is the same entry: adding it again changes nothing.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from ..errors import Refusal, UsageError
from ..money import MAX_NANO, dollars
from ..types import Billing
from . import accounts, audit
from .db import Row, Tx

_HASHED = (
    "id",
    "account_id",
    "kind",
    "amount_nano",
    "ref",
    "note",
    "actor",
    "reverses",
    "usage_id",
    "expires_ms",
    "created_ms",
)


def entry_hash(before: bytes, fields: dict[str, Any]) -> bytes:
    """SHA-256 over the hash before and the entry's content in a fixed order."""
    content = msgspec.json.encode([fields[name] for name in _HASHED])
    return hashlib.sha256(before + content).digest()


def append(
    tx: Tx,
    account_id: int,
    kind: str,
    amount_nano: int,
    *,
    ref: str | None = None,
    note: str | None = None,
    reverses: int | None = None,
    usage_id: int | None = None,
    expires_ms: int | None = None,
) -> int:
    """Write one entry and move the cached balance with it. Returns the entry's id."""
    last = tx.one("SELECT id, hash FROM entries ORDER BY id DESC LIMIT 1")
    entry_id: int = (last["id"] if last else 0) + 1
    fields: dict[str, Any] = {
        "id": entry_id,
        "account_id": account_id,
        "kind": kind,
        "amount_nano": amount_nano,
        "ref": ref,
        "note": note,
        "actor": tx.actor,
        "reverses": reverses,
        "usage_id": usage_id,
        "expires_ms": expires_ms,
        "created_ms": tx.now_ms,
    }
    fields["hash"] = entry_hash(last["hash"] if last else b"", fields)
    tx.execute(
        f"INSERT INTO entries ({', '.join(fields)}) VALUES ({', '.join(':' + name for name in fields)})",
        fields,
    )
    tx.execute("UPDATE accounts SET balance_nano = balance_nano + ? WHERE id = ?", (amount_nano, account_id))
    return entry_id


class Moved(msgspec.Struct, frozen=True):
    """What became of moving money."""

    entry_id: int
    balance_nano: int
    became_prepaid: bool = False
    repeated: bool = False
    """The `ref` was known: nothing was done again."""


def add(
    tx: Tx,
    target: str,
    amount_nano: int,
    *,
    ref: str | None = None,
    note: str | None = None,
    expires_ms: int | None = None,
) -> Moved:
    """Add credits to a user or `team:NAME`. An account whose billing nobody set by hand becomes prepaid."""
    account_id, name = accounts.account_of(tx, target)
    if amount_nano <= 0:
        raise UsageError("credits are added in amounts above 0; `llmgate credits take` takes them away")
    known = tx.one("SELECT * FROM entries WHERE ref = ?", ref) if ref is not None else None
    if known:
        if (known["account_id"], known["amount_nano"], known["kind"]) != (account_id, amount_nano, "add"):
            raise Refusal(
                f"ref {ref!r} belongs to entry {known['id']} with another account or amount: choose another ref",
                code="conflict",
            )
        return Moved(known["id"], balance(tx, account_id), repeated=True)
    if balance(tx, account_id) + amount_nano > MAX_NANO:
        raise Refusal(f"{dollars(amount_nano)} is more than a balance can hold")
    entry_id = append(tx, account_id, "add", amount_nano, ref=ref, note=note, expires_ms=expires_ms)
    became = tx.value("SELECT billing FROM accounts WHERE id = ? AND billing_source = 'default'", account_id)
    if became:
        accounts.set_billing(tx, account_id, Billing.PREPAID, "credits")
    audit.record(tx, "credits.add", name, after={"entry": entry_id, "amount_nano": amount_nano, "ref": ref})
    return Moved(entry_id, balance(tx, account_id), became_prepaid=became == Billing.METERED)


def take(tx: Tx, target: str, amount_nano: int, *, note: str | None = None, force: bool = False) -> Moved:
    """Take credits away; more than is available only by `force`."""
    account_id, name = accounts.account_of(tx, target)
    if amount_nano <= 0:
        raise UsageError("credits are taken in amounts above 0")
    free = available(tx, account_id)
    if amount_nano > free and not force:
        raise Refusal(
            f"{name} has {dollars(free)} available, less than {dollars(amount_nano)}: take less, or add --force",
            code="insufficient_credits",
        )
    entry_id = append(tx, account_id, "take", -amount_nano, note=note)
    audit.record(tx, "credits.take", name, after={"entry": entry_id, "amount_nano": -amount_nano, "force": force})
    return Moved(entry_id, balance(tx, account_id))


def reverse(tx: Tx, entry_id: int, *, note: str | None = None) -> Moved:
    """Undo an entry by another of the opposite amount, once."""
    entry = entry_row(tx, entry_id)
    if entry["kind"] == "reverse":
        raise Refusal(f"entry {entry_id} is itself a reversal: add or take the amount instead", code="conflict")
    done = tx.value("SELECT id FROM entries WHERE reverses = ?", entry_id)
    if done:
        raise Refusal(f"entry {entry_id} was reversed already, by entry {done}", code="conflict")
    new_id = append(tx, entry["account_id"], "reverse", -entry["amount_nano"], note=note, reverses=entry_id)
    audit.record(tx, "credits.reverse", str(entry_id), after={"entry": new_id, "amount_nano": -entry["amount_nano"]})
    return Moved(new_id, balance(tx, entry["account_id"]))


def balance(tx: Tx, account_id: int) -> int:
    value: int = tx.value("SELECT balance_nano FROM accounts WHERE id = ?", account_id)
    return value


def available(tx: Tx, account_id: int) -> int:
    """The balance less what requests in flight hold: what a new request may still use."""
    value: int = tx.value("SELECT balance_nano - held_nano FROM accounts WHERE id = ?", account_id)
    return value


def list_accounts(tx: Tx) -> list[Row]:
    """Every account with its owner, balance and holds."""
    return tx.execute(
        """
        SELECT a.*, coalesce(u.name, t.name) AS name, u.name AS user, coalesce(t.name, ut.name) AS team
        FROM accounts a
        LEFT JOIN users u ON u.account_id = a.id
        LEFT JOIN teams ut ON ut.id = u.team_id
        LEFT JOIN teams t ON t.account_id = a.id
        ORDER BY a.kind DESC, name
        """
    ).fetchall()


def history(tx: Tx, account_id: int) -> list[Row]:
    """The account's entries, oldest first, each with `moved_nano`, the sum of all entries up to it; `charged_nano`, the
    charges of the requests since the entry before; and `balance_nano`, the balance that both left.
    """
    return tx.execute(
        """
        WITH dated AS (
          SELECT *, coalesce(max(created_ms) OVER before, 0) AS since_ms FROM entries WHERE account_id = :account_id
          WINDOW before AS (ORDER BY id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
        ), charged AS (
          SELECT *, coalesce((
            SELECT sum(charge_nano) FROM usage g
            WHERE g.account_id = :account_id AND g.time_ms >= d.since_ms AND g.time_ms < d.created_ms
          ), 0) AS charged_nano
          FROM dated d
        )
        SELECT *, sum(amount_nano) OVER upto AS moved_nano, sum(amount_nano - charged_nano) OVER upto AS balance_nano
        FROM charged WINDOW upto AS (ORDER BY id) ORDER BY id
        """,
        {"account_id": account_id},
    ).fetchall()


def entry_row(tx: Tx, entry_id: int) -> Row:
    """An entry, with the full name of its account as `account`. Raises Refusal `not_found`."""
    row = tx.one(
        """
        SELECT e.*, coalesce(u.name, 'team:' || t.name) AS account FROM entries e
        LEFT JOIN users u ON u.account_id = e.account_id
        LEFT JOIN teams t ON t.account_id = e.account_id
        WHERE e.id = ?
        """,
        entry_id,
    )
    if row is None:
        raise Refusal(f"there is no entry {entry_id}: `llmgate credits history USER` lists them", code="not_found")
    return row
