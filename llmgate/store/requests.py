"""Requests for keys: who asked for one by itself, and what became of it.

Invariants:
- **No stranger gets into a user's account.** Without an admin's word a key is only made for a user that is new, and
  made with it. A name that differs from a user's in capitals alone is that user's. A request under the name of a user
  is approved only by an admin who says that it knows so; what was approved for a new user is that user's alone.
- **Credits are given once**, in the transaction that makes the user; users are never deleted. However many keys are
  asked for, a name has them once, and an address makes so many names as its cap allows.
- **Caps hold.** They are counted in the transaction of the request, over the rows of this table: over all processes,
  also after a restart. A refused request leaves no row.
- **A key is known to one alone.** It is made when the asker comes for it with the secret of its request, of which only
  the SHA-256 is kept, and told once.
"""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

from ..config import SelfService
from ..errors import Failure, Refusal, UsageError
from ..limits import Cap, parse_cap
from ..money import ceil_div, to_nano
from ..names import check_new, quoted
from ..plans import Policy
from ..types import Billing
from . import accounts, audit, identities, keys, ledger, selfmade
from .db import Row, Tx

PREFIX = "sk-lg-request-"
"""How the secret of a request begins. It opens nothing but the request."""

MOST_WAITING = 1000
"""Requests that may wait: past that nobody reads them any more, and none is taken."""

FETCH_MS = 30 * 86_400_000
"""How long the key of an approved request can be fetched."""

LONGEST_NOTE = 500


class Asked(NamedTuple):
    """What came of a request: a key at once, or the secret to come back with."""

    row: Row
    issued: keys.Issued | None = None
    secret: str | None = None


def subscriber(address: str) -> str:
    """An address, or the network that one subscriber has of IPv6: whoever has one address there has 2^64."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    if ip.version == 4:
        return str(ip)
    return str(ip.ipv4_mapped or ipaddress.ip_network((ip, 64), strict=False))


# ── who asks ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def ask(
    tx: Tx, service: SelfService, username: str, note: str | None, address: str, policy: Policy, default: Billing
) -> Asked:
    """Ask for a key: it is there at once where self-service is open, else an admin has to approve.

    Raises UsageError for a name that is none, Refusal 409 for one that is taken where no admin is asked, and 429 where
    there were too many.
    """
    try:
        check_new(username, "user")
    except UsageError as error:
        error.param = "username"
        raise
    note, whose = (note or "").strip()[:LONGEST_NOTE] or None, subscriber(address)
    _check_cap(tx, parse_cap(service.per_address), "address = ? AND issuer IS NULL", whose, "from your address")
    _check_cap(tx, parse_cap(service.per_name), "username = ? COLLATE NOCASE", username, "under this name")
    if service.mode == "open":
        if _alike(tx, username) is not None:
            raise Refusal(
                f"{username} is taken: choose another name; if it is yours, sign in, and make another key there",
                code="conflict",
                param="username",
            )
        _welcome(tx, service, username, policy, default)
        issued = _make(tx, service, username, note)
        number = _insert(tx, username, note, whose, "done", key_id=issued.id)
        return Asked(request_row(tx, number), issued)
    _check_room(tx)
    secret = keys.new_key(PREFIX)
    number = _insert(tx, username, note, whose, "waiting", hash=keys.hash_key(secret))
    return Asked(request_row(tx, number), secret=secret)


def to_be_user(tx: Tx, username: str, *, issuer: str, subject: str, email: str | None, address: str) -> Row:
    """The request of somebody whom an issuer vouches for to be a user: the one that was made before, or a new one. It
    comes back by signing in, so there is no secret, and the issuer vouches for it, so there is no cap.
    """
    known = tx.one(
        f"{_REQUEST} WHERE r.issuer = ? AND r.subject = ? AND r.status IN ('waiting', 'denied') ORDER BY r.id DESC",
        *(issuer, subject),
    )
    if known is not None:
        return known
    check_new(username, "user")
    _check_room(tx)
    given = {"issuer": issuer, "subject": subject, "email": email}
    return request_row(tx, _insert(tx, username, None, subscriber(address), "waiting", **given))


def _check_cap(tx: Tx, cap: Cap, where: str, value: str, whose: str) -> None:
    """Raises Refusal 429 where the cap is reached: when the oldest that counts is old enough, there is room again."""
    made_ms: int | None = tx.value(
        f"SELECT created_ms FROM requests WHERE {where} ORDER BY created_ms DESC LIMIT 1 OFFSET ?",
        *(value, cap.most - 1),
    )
    left_ms = (made_ms or 0) + cap.within_ms - tx.now_ms
    if made_ms is not None and left_ms > 0:
        raise Refusal(
            f"there were {cap} requests for keys {whose}, and no more are taken: try again later, or ask your admin",
            code="rate_limited",
            headers=(("retry-after", str(ceil_div(left_ms, 1000))),),
        )


def _check_room(tx: Tx) -> None:
    if tx.value("SELECT count(*) FROM requests WHERE status = 'waiting'") >= MOST_WAITING:
        raise Refusal("too many requests are waiting: ask your admin to look at them", code="rate_limited")


def _insert(tx: Tx, username: str, note: str | None, address: str, status: str, **more: object) -> int:
    values = {"username": username, "note": note, "address": address, "status": status, "created_ms": tx.now_ms, **more}
    if status == "done":
        values |= {"decided_ms": tx.now_ms}
    marks = ", ".join(f":{name}" for name in values)
    number = tx.execute(f"INSERT INTO requests ({', '.join(values)}) VALUES ({marks})", values).lastrowid
    assert number is not None
    return number


def _alike(tx: Tx, username: str) -> str | None:
    """The user of this name, whatever its capitals."""
    found: str | None = tx.value(
        "SELECT name FROM users WHERE name = ?1 COLLATE NOCASE ORDER BY name = ?1 DESC LIMIT 1", username
    )
    return found


def _welcome(
    tx: Tx, service: SelfService, username: str, policy: Policy, default: Billing, email: str | None = None
) -> None:
    """Make a user with what the config gives: the one moment when there are credits."""
    if service.team is not None and not tx.one("SELECT 1 FROM teams WHERE name = ?", service.team):
        raise Failure("what is given to those who ask is set up wrongly: tell your admin", code="config_error")
    accounts.add_user(tx, username, team=service.team, plan=service.plan, email=email, default_billing=default)
    accounts.follow_plans(tx, policy.billing)
    if service.credits:
        ledger.add(tx, username, to_nano(service.credits), note="self-service")


def _make(tx: Tx, service: SelfService, username: str, note: str | None) -> keys.Issued:
    wish = selfmade.Wish(models=service.models, limits=service.limits, expires=service.expires, note=note)
    return selfmade.make(tx, username, wish, approved=True)


# ── who decides ───────────────────────────────────────────────────────────────────────────────────────────────────────

_REQUEST = """
SELECT r.*, EXISTS (SELECT 1 FROM users u WHERE u.name = r.username) AS existing, k.name AS key_name, i.name AS user
FROM requests r LEFT JOIN keys k ON k.id = r.key_id LEFT JOIN users i ON i.id = k.user_id
"""


def list_requests(tx: Tx, *, decided: bool = False) -> list[Row]:
    """Requests, oldest first: those that wait, or with those that were decided."""
    where = "1" if decided else "r.status = 'waiting'"
    return tx.execute(f"{_REQUEST} WHERE {where} ORDER BY r.id").fetchall()


def request_row(tx: Tx, number: int) -> Row:
    """A request by its number. Raises Refusal `not_found`."""
    row = tx.one(f"{_REQUEST} WHERE r.id = ?", number) if number < 2**63 else None
    if row is None:
        raise Refusal(f"there is no request {number}: `llmgate requests --all` lists them", code="not_found")
    return row


def approve(
    tx: Tx, service: SelfService, number: int, policy: Policy, default: Billing, *, existing: bool = False
) -> Row:
    """Let the asker have its key, and be a user if it is none. `existing`: whoever approves knows that the key will be
    a user's who is there already. Raises Refusal.
    """
    row = request_row(tx, number)
    if row["status"] not in ("waiting", "denied"):
        raise Refusal(f"request {number} was approved already", code="conflict")
    known = identities.find(tx, row["issuer"], row["subject"]) if row["issuer"] is not None else None
    if known is not None:
        raise Refusal(f"who asked is user {known['name']} by now: deny request {number}", code="conflict")
    there = _alike(tx, row["username"])
    if there is not None and (there != row["username"] or row["issuer"] is not None):
        raise Refusal(
            f"there is a user {there} already, who need not be the one that asks: deny request {number}",
            code="conflict",
        )
    if there is not None and not existing:
        raise Refusal(
            f"user {there} is there already, and whoever asked from {row['address']} would have a key of that user: "
            "say that you know so",
            code="conflict",
        )
    if there is None:
        _welcome(tx, service, row["username"], policy, default, row["email"])
    if row["issuer"] is not None:
        user = accounts.user_row(tx, row["username"])
        identities.link(tx, user, row["issuer"], row["subject"], row["email"])
        if service.models or service.limits or service.expires:
            # Who signs in makes keys by those there are: so there is one of these terms, and nobody has its secret.
            _make(tx, service, row["username"], "of the approval: what other keys are held to; rotate it to have it")
    return _decide(tx, row, "done" if row["issuer"] is not None else "approved", user_added=there is None)


def deny(tx: Tx, number: int) -> Row:
    """Refuse a request, or take back what was approved and not fetched yet. A user that was made with it stays."""
    row = request_row(tx, number)
    if row["status"] == "done":
        raise Refusal(
            f"request {number} has got what it asked for: `llmgate keys revoke` ends its key", code="conflict"
        )
    return _decide(tx, row, "denied")


def _decide(tx: Tx, row: Row, status: str, **more: object) -> Row:
    tx.execute(
        "UPDATE requests SET status = ?, decided_by = ?, decided_ms = ? WHERE id = ?",
        (status, tx.actor, tx.now_ms, row["id"]),
    )
    verb = "deny" if status == "denied" else "approve"
    after = {"user": row["username"], "status": status, **more}
    audit.record(tx, f"requests.{verb}", str(row["id"]), before={"status": row["status"]}, after=after)
    return request_row(tx, row["id"])


# ── who comes back ────────────────────────────────────────────────────────────────────────────────────────────────────


def by_secret(tx: Tx, secret: str) -> Row:
    """The request that a secret belongs to. Raises Refusal `not_found`."""
    well_formed = keys.well_formed(secret, PREFIX)
    row = tx.one(f"{_REQUEST} WHERE r.hash = ?", keys.hash_key(secret)) if well_formed else None
    if row is None:
        raise Refusal("there is no such request: its secret is mistyped, or another gateway's", code="not_found")
    return row


def take(tx: Tx, service: SelfService, secret: str) -> tuple[Row, keys.Issued | None]:
    """The request of a secret, and its key where it was approved: made now, and told this once. Raises Refusal."""
    row = by_secret(tx, secret)
    if row["status"] == "done":
        raise Refusal(
            "the key of this request was fetched already, and it is told once: ask your admin", code="conflict"
        )
    if row["status"] != "approved":
        return row, None
    if row["decided_ms"] + FETCH_MS <= tx.now_ms:
        raise Refusal("this request was approved too long ago: ask again", code="conflict")
    issued = _make(tx, service, row["username"], row["note"])
    tx.execute("UPDATE requests SET status = 'done', key_id = ? WHERE id = ?", (issued.id, row["id"]))
    return request_row(tx, row["id"]), issued


class Masked(NamedTuple):
    """A key as anybody may see it."""

    key: str
    status: str


def public_keys(tx: Tx, username: str) -> list[Masked]:
    """The keys that were asked for under a name, oldest first: what a stranger may learn of them.

    A user that an admin made has none here, as one that isn't there. Raises Refusal `not_found`.
    """
    rows = tx.execute(
        """
        SELECT k.prefix, k.suffix, CASE WHEN k.status = 'active' AND k.expires_ms <= ? THEN 'expired' ELSE k.status END
        FROM requests r JOIN keys k ON k.id = r.key_id JOIN users u ON u.id = k.user_id
        WHERE r.username = ? COLLATE NOCASE AND u.name = ? ORDER BY r.id
        """,
        (tx.now_ms, username, username),
    ).fetchall()
    if not rows:
        raise Refusal(f"nobody has asked for a key as {quoted(username)}", code="not_found")
    return [Masked(f"{prefix[: len(keys.PREFIX) + 4]}…{suffix or ''}", status) for prefix, suffix, status in rows]
