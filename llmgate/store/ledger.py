"""The credit ledger: money that was moved, as immutable entries in one hash chain.

Invariants:
- balance of an account = Σ its entries − Σ charges of its usage rows. `accounts.balance_nano` caches it; every change
  of either side updates it in the same transaction, and `verify` recomputes it.
- An entry is never edited or deleted (triggers see to it); a wrong one is reversed by another, once.
- Each entry's hash covers its content and the hash before it, so a book that was changed from outside shows it.
- The same `ref` with the same account and amount is the same entry: adding it again changes nothing.
- Credits that were granted until a moment are taken away by an `expire` entry, as far as nobody used them (`expiry`
  says which those are) and no request in flight may still do so: `expire_due`, inside the transaction of whoever asks,
  so that it happens once however many ask. It never takes what is held, so never more than there is. What the requests
  leave over expires later, so that one grant may expire in several entries.
- A row's refunds, less those that were reversed, never exceed its charge.
- A `closing` entry is the charges of pruned rows in another form. It counts like them: at the moment they were made
  (`charged_ms`), not at the one it was written, so that every balance of the past and every expiry stay as they were.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec

from ..errors import Refusal, UsageError
from ..money import MAX_NANO, dollars
from ..types import Billing
from . import accounts, audit, events
from .db import Database, Row, Tx
from .expiry import Lot, Purse, replay

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

LOOK_AGAIN_MS = 10_000
"""How soon expired credits that requests in flight hold are looked at again: each look replays the account."""


def entry_hash(before: bytes, fields: dict[str, Any]) -> bytes:
    """SHA-256 over the hash before and the entry's content in a fixed order. What only later versions knew stands at
    its end, as far as there is something.
    """
    later = [fields["cause"], fields["charged_ms"]]
    while later and later[-1] is None:
        later.pop()
    content = msgspec.json.encode([*(fields[name] for name in _HASHED), *later])
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
    cause: int | None = None,
    expires_ms: int | None = None,
    charged_ms: int | None = None,
) -> int:
    """Write one entry and move the cached balance with it. Returns the entry's id. Raises Refusal for an amount that
    the balance can't hold.
    """
    if abs(balance(tx, account_id) + amount_nano) > MAX_NANO:
        raise Refusal(f"{dollars(abs(amount_nano))} is more than a balance can hold")
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
        "cause": cause,
        "expires_ms": expires_ms,
        "created_ms": tx.now_ms,
        "charged_ms": charged_ms,
    }
    fields["hash"] = entry_hash(last["hash"] if last else b"", fields)
    tx.execute(
        f"INSERT INTO entries ({', '.join(fields)}) VALUES ({', '.join(':' + name for name in fields)})",
        fields,
    )
    tx.execute(
        """
        UPDATE accounts SET balance_nano = balance_nano + :amount_nano,
          expires_next_ms = coalesce(min(expires_next_ms, :expires_ms), :expires_ms, expires_next_ms)
        WHERE id = :account_id
        """,
        fields,
    )
    return entry_id


class Moved(msgspec.Struct, frozen=True):
    """What became of moving money."""

    entry_id: int
    balance_nano: int
    became_prepaid: bool = False
    relieved: str | None = None
    """The team that paid the requests of this user until now; from now on the user's own account does."""
    repeated: bool = False
    """The `ref` was known: nothing was done again."""
    reversed_by: int | None = None
    """The entry that has undone this one since, where the `ref` was known."""
    stays_prepaid: bool = False
    """What had made the account prepaid was reversed, and nothing is left; its billing is as it was."""
    other: Moved | None = None
    """The half of a transfer that went to the other account."""


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
    expire_due(tx, account_id)
    known = _known(tx, ref, account_id=account_id, amount_nano=amount_nano, kind="add")
    if known:
        return _repeated(tx, known)
    entry_id = append(tx, account_id, "add", amount_nano, ref=ref, note=note, expires_ms=expires_ms)
    became, relieved = _credited(tx, account_id)
    audit.record(tx, "credits.add", name, after={"entry": entry_id, "amount_nano": amount_nano, "ref": ref})
    return Moved(entry_id, balance(tx, account_id), became_prepaid=became, relieved=relieved)


def _known(tx: Tx, ref: str | None, **facts: Any) -> Row | None:
    """The entry of a ref that was given before. Raises Refusal where that was for something else."""
    known = tx.one("SELECT * FROM entries WHERE ref = ?", ref) if ref is not None else None
    if known and any(known[name] != fact for name, fact in facts.items()):
        raise _other(ref, known)
    return known


def _repeated(tx: Tx, known: Row) -> Moved:
    """Nothing is done again for an entry that is there already."""
    reversed_by = _reversal(tx, known["id"])
    return Moved(known["id"], balance(tx, known["account_id"]), repeated=True, reversed_by=reversed_by)


def _other(ref: str | None, known: Row) -> Refusal:
    return Refusal(
        f"ref {ref!r} belongs to entry {known['id']} with another account or amount: choose another ref",
        code="conflict",
    )


def _credited(tx: Tx, account_id: int) -> tuple[bool, str | None]:
    """An account got credits: unless somebody said otherwise by hand, it is prepaid, and a user pays with its own.

    Returns whether it was metered before, and the team that paid for the user.
    """
    before = tx.one(
        """
        SELECT a.billing, 'team:' || t.name AS team FROM accounts a
        LEFT JOIN users u ON u.account_id = a.id
        LEFT JOIN teams t ON t.id = u.team_id
        WHERE a.id = ? AND a.billing_source = 'default'
        """,
        account_id,
    )
    if before is None:
        return False, None
    accounts.set_billing(tx, account_id, Billing.PREPAID, "credits")
    return before["billing"] == Billing.METERED, before["team"]


def take(tx: Tx, target: str, amount_nano: int, *, note: str | None = None, force: bool = False) -> Moved:
    """Take credits away, those that expire first, first; more than is available only by `force`."""
    account_id, name = accounts.account_of(tx, target)
    if amount_nano <= 0:
        raise UsageError("credits are taken in amounts above 0")
    expire_due(tx, account_id)
    _afford(tx, account_id, name, amount_nano, force=force)
    entry_id = append(tx, account_id, "take", -amount_nano, note=note)
    audit.record(tx, "credits.take", name, after={"entry": entry_id, "amount_nano": -amount_nano, "force": force})
    return Moved(entry_id, balance(tx, account_id))


def _afford(
    tx: Tx,
    account_id: int,
    name: str,
    amount_nano: int,
    *,
    force: bool,
    cure: str = "take less, or add --force",
) -> None:
    free = available(tx, account_id)
    if amount_nano > free and not force:
        raise Refusal(
            f"{name} has {dollars(free)} available, less than {dollars(amount_nano)}: {cure}",
            code="insufficient_credits",
        )


def transfer(
    tx: Tx,
    giver: str,
    taker: str,
    amount_nano: int,
    *,
    ref: str | None = None,
    note: str | None = None,
    force: bool = False,
) -> Moved:
    """Move credits from one account to another: two entries, of which the second has the first as its cause.

    Those that expire first go first; with the new account they don't expire any more. The `ref` is the first entry's.
    """
    giver_id, giver = accounts.account_of(tx, giver)
    taker_id, taker = accounts.account_of(tx, taker)
    if amount_nano <= 0:
        raise UsageError("credits are transferred in amounts above 0; to transfer back, swap the two accounts")
    if giver_id == taker_id:
        raise UsageError(f"{giver} can't transfer to itself: name two accounts")
    expire_due(tx, giver_id)
    expire_due(tx, taker_id)
    known = _known(tx, ref, account_id=giver_id, amount_nano=-amount_nano, kind="transfer")
    if known:
        half = tx.one("SELECT * FROM entries WHERE cause = ? AND kind = 'transfer'", known["id"])
        if half is None or half["account_id"] != taker_id:
            raise _other(ref, known)
        return msgspec.structs.replace(_repeated(tx, known), other=_repeated(tx, half))
    _afford(tx, giver_id, giver, amount_nano, force=force)
    gave_id = append(tx, giver_id, "transfer", -amount_nano, ref=ref, note=note)
    took_id = append(tx, taker_id, "transfer", amount_nano, note=note, cause=gave_id)
    became, relieved = _credited(tx, taker_id)
    after = {"entries": [gave_id, took_id], "to": taker, "amount_nano": amount_nano, "ref": ref, "force": force}
    audit.record(tx, "credits.transfer", giver, after=after)
    took = Moved(took_id, balance(tx, taker_id), became_prepaid=became, relieved=relieved)
    return Moved(gave_id, balance(tx, giver_id), other=took)


def refund(
    tx: Tx, usage: str, amount_nano: int | None = None, *, ref: str | None = None, note: str | None = None
) -> Moved:
    """Give back what a request was charged, or a part of it, to the account that paid.

    `usage` is a row's id or its request's. The row stays as it is, and so do the limits that it counts for. What was
    refunded doesn't expire.
    """
    if amount_nano is not None and amount_nano <= 0:
        raise UsageError("a refund is above 0; without --amount it is all that was charged")
    asked = {} if amount_nano is None else {"amount_nano": amount_nano}
    known = _known(tx, ref, kind="refund", **asked)
    if known and tx.one("SELECT 1 FROM usage WHERE id = ?", known["usage_id"]) is None:  # pruned since
        if usage not in (str(known["usage_id"]), _refunded_request(tx, known["id"])):
            raise _other(ref, known)
        expire_due(tx, known["account_id"])
        return _repeated(tx, known)
    row = _charged_row(tx, usage)
    expire_due(tx, row["account_id"])
    known = _known(tx, ref, account_id=row["account_id"], kind="refund", usage_id=row["id"], **asked)
    if known:
        return _repeated(tx, known)
    room = row["charge_nano"] - _refunded(tx, row["id"])
    if not row["charge_nano"]:
        raise Refusal(f"request {row['request_id']} was charged nothing: there is nothing to refund", code="conflict")
    if room <= 0:
        raise Refusal(f"request {row['request_id']} was refunded in full already: nothing is left", code="conflict")
    if amount_nano is not None and amount_nano > room:
        raise Refusal(
            f"of the {dollars(row['charge_nano'])} that request {row['request_id']} was charged, {dollars(room)} can "
            "still be refunded: refund less, or leave --amount out; `llmgate credits add` gives more",
            code="conflict",
        )
    amount = room if amount_nano is None else amount_nano
    entry_id = append(tx, row["account_id"], "refund", amount, ref=ref, note=note, usage_id=row["id"])
    audit.record(tx, "credits.refund", row["request_id"], after={"entry": entry_id, "amount_nano": amount, "ref": ref})
    return Moved(entry_id, balance(tx, row["account_id"]))


def _charged_row(tx: Tx, usage: str) -> Row:
    """A usage row by its id or its request's. Raises Refusal `not_found`."""
    number = int(usage) if usage.isascii() and usage.isdigit() and len(usage) <= 18 else None
    row = tx.one("SELECT * FROM usage WHERE id = ? OR request_id = ?", number, usage)
    if row is not None:
        return row
    if tx.one("SELECT 1 FROM holds WHERE id = ? OR request_id = ?", number, usage):
        raise Refusal(f"request {usage} is still in flight: refund it when it has ended", code="conflict")
    last_day = tx.value("SELECT max(day) FROM pruned")
    pruned = f"; those up to {last_day} were pruned, `llmgate credits add` gives back what one was charged"
    raise Refusal(
        f"there is no usage row {usage!r}: `llmgate usage --json` shows each one's `id` and `request_id`"
        f"{pruned if last_day else ''}",
        code="not_found",
    )


def _refunded_request(tx: Tx, entry_id: int) -> str | None:
    """Which request a refund was for, whose row may be gone: the audit knows, on the box where it was given."""
    sql = "SELECT target FROM audit WHERE action = 'credits.refund' AND json_extract(after, '$.entry') = ?"
    value: str | None = tx.value(sql, entry_id)
    return value


def _refunded(tx: Tx, usage_id: int) -> int:
    """What was refunded of a row. A refund that was reversed doesn't count."""
    value: int = tx.value(
        "SELECT coalesce(sum(amount_nano), 0) FROM entries e WHERE usage_id = ? AND kind = 'refund' "
        "AND NOT EXISTS (SELECT 1 FROM entries r WHERE r.reverses = e.id)",
        usage_id,
    )
    return value


def reverse(tx: Tx, entry_id: int, *, note: str | None = None, force: bool = False) -> Moved:
    """Undo an entry by another of the opposite amount, once; both halves of a transfer together.

    Of a grant only what hasn't expired is taken back: the rest is gone already. More than is available is taken back
    only by `force`.
    """
    entry = entry_row(tx, entry_id)
    moved = _reverse(tx, entry, note, force)
    if entry["kind"] == "transfer":
        half = tx.value("SELECT id FROM entries WHERE cause = ? AND kind = 'transfer'", entry_id) or entry["cause"]
        moved = msgspec.structs.replace(moved, other=_reverse(tx, entry_row(tx, half), note, force))
    amount = entry_row(tx, moved.entry_id)["amount_nano"]
    audit.record(
        tx, "credits.reverse", str(entry_id), after={"entry": moved.entry_id, "amount_nano": amount, "force": force}
    )
    return moved


def _reverse(tx: Tx, entry: Row, note: str | None, force: bool) -> Moved:
    entry_id, account_id, amount = entry["id"], entry["account_id"], entry["amount_nano"]
    if entry["kind"] == "reverse":
        raise Refusal(f"entry {entry_id} is itself a reversal: add or take the amount instead", code="conflict")
    if entry["kind"] == "closing":
        raise Refusal(f"entry {entry_id} stands for the charges of requests: add the amount instead", code="conflict")
    done = _reversal(tx, entry_id)
    if done:
        raise Refusal(f"entry {entry_id} was reversed already, by entry {done}", code="conflict")
    if entry["kind"] == "expire":
        raise Refusal(
            f"entry {entry_id} took what had expired, and given back it would never expire again: "
            f"`llmgate credits add {entry['account']} {dollars(-amount).removeprefix('$')} --expires WHEN` "
            "grants it anew",
            code="conflict",
        )
    expire_due(tx, account_id)
    amount += _expired(tx, entry_id)
    if not amount:
        raise Refusal(f"all of entry {entry_id} has expired: there is nothing to reverse", code="conflict")
    if amount > 0:
        cure = "--force reverses it all the same, and the balance falls below 0"
        _afford(tx, account_id, entry["account"], amount, force=force, cure=cure)
    new_id = append(tx, account_id, "reverse", -amount, note=note, reverses=entry_id)
    left = balance(tx, account_id)
    by_credits = tx.value("SELECT billing_source = 'credits' FROM accounts WHERE id = ?", account_id)
    stays = bool(by_credits) and amount > 0 and left <= 0
    return Moved(new_id, left, stays_prepaid=stays)


def _reversal(tx: Tx, entry_id: int) -> int | None:
    """The entry that reversed another, if one did."""
    value: int | None = tx.value("SELECT id FROM entries WHERE reverses = ?", entry_id)
    return value


def _expired(tx: Tx, entry_id: int) -> int:
    """What has expired of a grant, as a negative amount. An expiry that was reversed doesn't count."""
    value: int = tx.value(
        "SELECT coalesce(sum(amount_nano), 0) FROM entries e WHERE cause = ? AND kind = 'expire' "
        "AND NOT EXISTS (SELECT 1 FROM entries r WHERE r.reverses = e.id)",
        entry_id,
    )
    return value


# ── expiry ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def expire_due(tx: Tx, account_id: int) -> int:
    """Take away the credits of an account that have expired unused. Returns how much. One point read if none are due.

    Why this never takes what is used: it takes what would be left if each request in flight were charged all that it
    holds. A lot has never less left for a smaller charge (`expiry` spends in a fixed order), so whatever they come to,
    what was taken stays unused - except if a charge was corrected later (the owner of a hold was believed dead) or
    overran: then other credits, or debt, make it up. Lots that have something left in spite of all holds add up to at
    most what is available, so the balance keeps carrying the requests in flight.
    """
    next_ms = tx.value("SELECT expires_next_ms FROM accounts WHERE id = ?", account_id)
    if next_ms is None or next_ms > tx.now_ms:
        return 0
    found, total = purse(tx, account_id), 0
    expired = [lot for lot in found.left() if lot.expires_ms is not None and lot.expires_ms <= tx.now_ms]
    unused = purse(tx, account_id, with_holds=True) if expired else found
    for lot in expired:
        amount = unused.lots[lot.entry_id].left_nano
        if amount:
            append(tx, account_id, "expire", -amount, cause=lot.entry_id)
            lot.left_nano -= amount
            total += amount
    tx.execute("UPDATE accounts SET expires_next_ms = ? WHERE id = ?", (_next_ms(found, tx.now_ms), account_id))
    return total


def due(tx: Tx) -> list[int]:
    """The accounts where credits may have expired that were not taken away yet. Reads only."""
    return [row[0] for row in tx.execute("SELECT id FROM accounts WHERE expires_next_ms <= ?", (tx.now_ms,))]


def expire_all_due(tx: Tx) -> int:
    """Take away what has expired, of every account. Returns how much."""
    return sum(expire_due(tx, account_id) for account_id in due(tx))


def expire_overdue(db: Database) -> None:
    """Take away what has expired, where there is any, before balances are shown."""
    with db.read() as tx:
        overdue = due(tx)
    if overdue:
        with db.write() as tx:
            expire_all_due(tx)


def expires_next(tx: Tx, account_id: int) -> int | None:
    """When credits of an account expire next, from first facts: the latest that `accounts.expires_next_ms` may say.

    An earlier moment there only means that this is looked at once too often, and null that nothing is left to expire.
    """
    return _next_ms(purse(tx, account_id), tx.now_ms)


def _next_ms(found: Purse, now_ms: int) -> int | None:
    """Lots that are used up count as long as they are good: a reversal may fill them again. What has expired and is
    still held by requests in flight is looked at again after a while.
    """
    moments = [lot.expires_ms for lot in found.lots.values() if lot.expires_ms is not None]
    again = any(lot.left_nano for lot in found.lots.values() if lot.expires_ms is not None and lot.expires_ms <= now_ms)
    return min((*(ms for ms in moments if ms > now_ms), *([now_ms + LOOK_AGAIN_MS] if again else ())), default=None)


def lots(tx: Tx, account_id: int) -> list[Lot]:
    """What is left of the credits of an account that expire, those that expire first, first."""
    return purse(tx, account_id).left()


def purse(tx: Tx, account_id: int, *, with_holds: bool = False) -> Purse:
    """The credits of an account by when they expire, from first facts: entries and charges. Closing entries count as
    charges.

    `with_holds`: as if each request in flight were charged all that it holds.
    """
    entries = tx.execute(
        "SELECT * FROM entries WHERE account_id = ? AND kind <> 'closing' ORDER BY id", (account_id,)
    ).fetchall()
    sql = "SELECT placed_ms, amount_nano FROM holds WHERE account_id = ?"
    holds = tx.execute(sql, (account_id,)).fetchall() if with_holds else []

    def charged(since_ms: int, until_ms: int | None) -> int:
        end_ms = MAX_NANO if until_ms is None else until_ms
        span = account_id, since_ms, end_ms
        settled: int = tx.value(
            """
            SELECT coalesce((
              SELECT sum(charge_nano) FROM usage WHERE account_id = ? AND time_ms >= ? AND time_ms < ?
            ), 0) - coalesce((
              SELECT sum(amount_nano) FROM entries WHERE account_id = ? AND charged_ms >= ? AND charged_ms < ?
            ), 0)
            """,
            *(*span, *span),
        )
        held: int = sum(hold["amount_nano"] for hold in holds if since_ms <= hold["placed_ms"] < end_ms)
        return settled + held

    return replay(entries, charged)


# ── reading ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def tell_low(tx: Tx, account_id: int, threshold: int) -> None:
    """A prepaid balance has fallen below a threshold: told once, and again after credits came."""
    row = tx.one(f"{_CREDITED} WHERE a.id = ?", account_id)
    assert row is not None
    message = f"the balance is {dollars(row['balance_nano'])}, below {dollars(threshold)}"
    about = f"{threshold} since entry {row['credited']}"
    events.record(tx, "low_balance", (row["kind"], str(row["owner"])), about, message)


def untold_low(tx: Tx, thresholds: Sequence[int]) -> list[tuple[int, int]]:
    """Prepaid accounts that have fallen below a threshold otherwise than by a request, which tells it itself: credits
    were taken, moved or have expired. Each with the threshold; only those that credits were ever given to.
    """
    untold = f"""
    {_CREDITED} WHERE a.billing = 'prepaid' AND a.balance_nano < :threshold AND credited IS NOT NULL AND NOT EXISTS (
      SELECT 1 FROM events WHERE kind = 'low_balance' AND subject_kind = a.kind
      AND subject_id = CAST(owner AS TEXT) AND about = :threshold || ' since entry ' || credited
    )
    """
    return [(row["id"], low) for low in thresholds for row in tx.execute(untold, {"threshold": low}).fetchall()]


_CREDITED = """
SELECT a.id, a.kind, a.balance_nano, coalesce(u.id, t.id) AS owner,
       (SELECT max(id) FROM entries e WHERE e.account_id = a.id AND amount_nano > 0) AS credited
FROM accounts a LEFT JOIN users u ON u.account_id = a.id LEFT JOIN teams t ON t.account_id = a.id
"""
"""Accounts with who owns them, and the entry that gave them credits last."""


def balance(tx: Tx, account_id: int) -> int:
    value: int = tx.value("SELECT balance_nano FROM accounts WHERE id = ?", account_id)
    return value


def available(tx: Tx, account_id: int) -> int:
    """The balance less what requests in flight hold: what a new request may still use."""
    value: int = tx.value("SELECT balance_nano - held_nano FROM accounts WHERE id = ?", account_id)
    return value


def list_accounts(tx: Tx, account_id: int | None = None) -> list[Row]:
    """Every account, or one, with its owner, balance and holds; `payer`, the full name of the account that pays for
    the user's requests (null for a team); and `pays_for`, a JSON array of the users whose requests it pays.
    """
    return tx.execute(
        f"""
        WITH paying AS (
          SELECT u.id AS user_id, u.name, {accounts.PAYER} AS payer_id
          FROM users u JOIN accounts ua ON ua.id = u.account_id LEFT JOIN teams t ON t.id = u.team_id
        ), sums AS (
          SELECT payer_id, json_group_array(name) AS pays_for
          FROM (SELECT * FROM paying ORDER BY name) GROUP BY payer_id
        )
        SELECT a.*, coalesce(u.name, t.name) AS name, u.name AS user, coalesce(t.name, ut.name) AS team,
               coalesce(s.pays_for, '[]') AS pays_for,
               CASE p.payer_id WHEN a.id THEN u.name ELSE 'team:' || ut.name END AS payer
        FROM accounts a
        LEFT JOIN users u ON u.account_id = a.id
        LEFT JOIN teams ut ON ut.id = u.team_id
        LEFT JOIN teams t ON t.account_id = a.id
        LEFT JOIN paying p ON p.user_id = u.id
        LEFT JOIN sums s ON s.payer_id = a.id
        WHERE :account_id IS NULL OR a.id = :account_id
        ORDER BY a.kind DESC, name
        """,
        {"account_id": account_id},
    ).fetchall()


def history(tx: Tx, account_id: int) -> list[Row]:
    """The account's entries, oldest first, each with `moved_nano`, the sum of all entries up to it; `charged_nano`, the
    charges of the requests since the entry before; `balance_nano`, the balance that both left; and `other`, the other
    account of a transfer.

    A request counts from the moment it was placed, so that one in flight changes the balances after it when it ends.
    Closing entries are among the charges, like the requests that they stand for: what this says is the same before and
    after these were pruned.
    """
    return tx.execute(
        """
        WITH dated AS (
          SELECT *, coalesce(max(created_ms) OVER before, 0) AS since_ms FROM entries
          WHERE account_id = :account_id AND kind <> 'closing'
          WINDOW before AS (ORDER BY id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
        ), charged AS (
          SELECT *, coalesce((
            SELECT sum(charge_nano) FROM usage g
            WHERE g.account_id = :account_id AND g.time_ms >= d.since_ms AND g.time_ms < d.created_ms
          ), 0) - coalesce((
            SELECT sum(amount_nano) FROM entries e
            WHERE e.account_id = :account_id AND e.charged_ms >= d.since_ms AND e.charged_ms < d.created_ms
          ), 0) AS charged_nano
          FROM dated d
        )
        SELECT c.*, sum(c.amount_nano) OVER upto AS moved_nano,
               sum(c.amount_nano - c.charged_nano) OVER upto AS balance_nano,
               coalesce(u.name, 'team:' || t.name) AS other
        FROM charged c
        LEFT JOIN entries h ON c.kind = 'transfer'
                            AND h.id = coalesce(c.cause, (SELECT id FROM entries WHERE cause = c.id))
        LEFT JOIN users u ON u.account_id = h.account_id
        LEFT JOIN teams t ON t.account_id = h.account_id
        WINDOW upto AS (ORDER BY c.id) ORDER BY c.id
        """,
        {"account_id": account_id},
    ).fetchall()


def page(tx: Tx, since_ms: int | None, until_ms: int | None, after_id: int, size: int) -> list[Row]:
    """The first so many entries of all accounts past an id, each with the full name of its account as `account`."""
    return tx.execute(
        """
        SELECT e.*, coalesce(u.name, 'team:' || t.name) AS account FROM entries e
        LEFT JOIN users u ON u.account_id = e.account_id
        LEFT JOIN teams t ON t.account_id = e.account_id
        WHERE e.id > ? AND e.created_ms >= ? AND (? IS NULL OR e.created_ms < ?) ORDER BY e.id LIMIT ?
        """,
        (after_id, since_ms or 0, until_ms, until_ms, size),
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
