"""Links that sign a user in, once, without a key: `llmgate users link alice`. Only the SHA-256 of a secret is kept."""

from __future__ import annotations

import hashlib
import secrets

from ..errors import Refusal
from . import accounts, audit
from .db import Row, Tx

LASTS_MS = 15 * 60_000


def add(tx: Tx, user: str) -> tuple[str, int]:
    """A link's secret, at the only moment when it is known, and when it ends. Raises Refusal."""
    row = accounts.user_row(tx, user)
    if row["status"] != "active":
        raise Refusal(f"user {user} is disabled: `llmgate users enable {user}` first", code="user_disabled")
    secret, expires_ms = secrets.token_urlsafe(32), tx.now_ms + LASTS_MS
    # Those that are over are kept for as long again, so that who comes late is told why.
    tx.execute("DELETE FROM links WHERE expires_ms <= ?", (tx.now_ms - LASTS_MS,))
    tx.execute(
        "INSERT INTO links (hash, user_id, created_ms, expires_ms) VALUES (?, ?, ?, ?)",
        (_hash(secret), row["id"], tx.now_ms, expires_ms),
    )
    audit.record(tx, "users.link", user, after={"expires_ms": expires_ms})
    return secret, expires_ms


def look(tx: Tx, secret: str) -> Row:
    """The user whom a link would sign in. Raises Refusal where it is unknown, used or over."""
    row = tx.one(
        "SELECT l.expires_ms, l.used_ms, u.id, u.name, u.status FROM links l JOIN users u ON u.id = l.user_id "
        "WHERE l.hash = ?",
        _hash(secret),
    )
    if row is None:
        raise Refusal(
            "this link is not known here: check that you have all of it, or ask your admin for a new one",
            code="not_found",
        )
    if row["used_ms"] is not None:
        raise Refusal("this link was used already: it signs in once; ask your admin for a new one", code="link_over")
    if row["expires_ms"] <= tx.now_ms:
        raise Refusal("this link is too old: ask your admin for a new one", code="link_over")
    if row["status"] != "active":
        raise Refusal("this link's user is disabled: ask your admin", code="user_disabled")
    return row


def use(tx: Tx, secret: str) -> Row:
    """As `look`, and it is used up: of two who come at once one is too late, as writes are done one after the other."""
    row = look(tx, secret)
    tx.execute("UPDATE links SET used_ms = ? WHERE hash = ?", (tx.now_ms, _hash(secret)))
    return row


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
