"""Who is signed in with a browser.

A session is named by 256 random bits that only its cookie has; here is their SHA-256. It belongs to a user, or to
whoever holds an admin key, and lives as long as what it was made by: a user that is disabled, a key that is revoked,
disabled or expired, an admin key that is revoked end it at the next page. A key that is rotated doesn't: it is the same
key.
"""

from __future__ import annotations

import hashlib
import secrets

import msgspec

from . import admins
from .admins import Admin, Scope
from .db import Row, Tx

MOST = 20
"""Sessions of one user, or of one admin key, at a time: past that the oldest ends."""

SEEN_EVERY_MS = 60_000
"""How exactly it is known when a session was used last."""


class Session(msgspec.Struct, frozen=True):
    """Somebody who is signed in: a user, or an admin."""

    hash: bytes
    user_id: int | None
    user: str | None
    team_id: int | None
    team: str | None
    leads_team_id: int | None
    leads: str | None
    """The team that the user leads."""
    key_id: str | None
    """The key that it was made by."""
    ips: tuple[str, ...]
    """Where that key may be used; empty: anywhere."""
    admin: Admin | None
    way: str
    seen_ms: int
    expires_ms: int

    @property
    def actor(self) -> str:
        """What the audit calls it."""
        return self.admin.actor if self.admin is not None else f"user:{self.user}"


def hash_id(session_id: str) -> bytes:
    return hashlib.sha256(session_id.encode()).digest()


def begin(
    tx: Tx,
    way: str,
    address: str,
    lasts_ms: int,
    *,
    user_id: int | None = None,
    key_id: str | None = None,
    admin_hash: bytes | None = None,
) -> str:
    """Sign somebody in: the id of the new session, at the only moment when it is known. Those that are over go."""
    session_id = secrets.token_urlsafe(32)
    tx.execute("DELETE FROM sessions WHERE expires_ms <= ?", (tx.now_ms,))
    tx.execute(
        """
        DELETE FROM sessions WHERE hash IN (
          SELECT hash FROM sessions WHERE user_id IS ? AND admin_hash IS ?
          ORDER BY created_ms DESC, hash LIMIT -1 OFFSET ?)
        """,
        (user_id, admin_hash, MOST - 1),
    )
    tx.execute(
        """
        INSERT INTO sessions (hash, user_id, key_id, admin_hash, way, address, created_ms, seen_ms, expires_ms)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
        """,
        (
            *(hash_id(session_id), user_id, key_id, admin_hash, way, address),
            *(tx.now_ms, tx.now_ms, tx.now_ms + lasts_ms),
        ),
    )
    return session_id


_SESSION = """
SELECT s.*, u.name AS user, u.status AS user_status, u.team_id, t.name AS team, u.leads_team_id, l.name AS leads,
       k.status AS key_status, k.expires_ms AS key_expires_ms, k.ips,
       a.name AS admin, a.scope, a.status AS admin_status, a.last_used_ms
FROM sessions s
LEFT JOIN users u ON u.id = s.user_id
LEFT JOIN teams t ON t.id = u.team_id
LEFT JOIN teams l ON l.id = u.leads_team_id
LEFT JOIN keys k ON k.id = s.key_id
LEFT JOIN admins a ON a.hash = s.admin_hash
WHERE s.hash = ? AND s.expires_ms > ?
"""

_strings = msgspec.json.Decoder(tuple[str, ...])


def find(tx: Tx, session_hash: bytes, env_hash: bytes | None) -> Session | None:
    """A session, if it goes on, as things stand now. `env_hash`: that of the ADMIN_TOKEN of this moment."""
    row = tx.one(_SESSION, session_hash, tx.now_ms)
    if row is None:
        return None
    admin = _admin(row, env_hash)
    if admin is None and not _goes_on(row, tx.now_ms):
        return None
    return Session(
        **{name: row[name] for name in ("hash", "user_id", "user", "team_id", "team", "leads_team_id", "leads")},
        **{name: row[name] for name in ("key_id", "way", "seen_ms", "expires_ms")},
        ips=_strings.decode(row["ips"]) if row["ips"] else (),
        admin=admin,
    )


def _admin(row: Row, env_hash: bytes | None) -> Admin | None:
    """The admin whose session it is, if its key still is one."""
    if row["admin_hash"] is None:
        return None
    if row["admin_hash"] == env_hash:
        return Admin(admins.ENV, Scope.ALL)
    if row["admin_status"] != "active":
        return None
    return Admin(row["admin"], Scope(row["scope"]), row["last_used_ms"] or 0)


def _goes_on(row: Row, now_ms: int) -> bool:
    """Whether the user of a session, and the key that it was made by, are as they must be."""
    if row["user_status"] != "active":
        return False
    if row["key_id"] is None:
        return True
    return row["key_status"] == "active" and (row["key_expires_ms"] is None or row["key_expires_ms"] > now_ms)


def seen(tx: Tx, session_hash: bytes) -> None:
    """A session was used."""
    tx.execute("UPDATE sessions SET seen_ms = ? WHERE hash = ?", (tx.now_ms, session_hash))


def end(tx: Tx, session_hash: bytes) -> None:
    """Sign out."""
    tx.execute("DELETE FROM sessions WHERE hash = ?", (session_hash,))


def end_all(tx: Tx, user_id: int) -> int:
    """Sign a user out everywhere, and let no link sign it in any more. Returns how many sessions that were."""
    tx.execute("DELETE FROM links WHERE user_id = ? AND used_ms IS NULL", (user_id,))
    gone = tx.execute("DELETE FROM sessions WHERE user_id = ? RETURNING expires_ms", (user_id,)).fetchall()
    return sum(row["expires_ms"] > tx.now_ms for row in gone)


def end_all_of_admin(tx: Tx, session_hash: bytes) -> None:
    """Sign out whoever holds the admin key of this session, everywhere."""
    tx.execute(
        "DELETE FROM sessions WHERE admin_hash = (SELECT admin_hash FROM sessions WHERE hash = ?)", (session_hash,)
    )


def beside(tx: Tx, session_hash: bytes) -> list[Row]:
    """The sessions of whoever has this one, the newest first."""
    return tx.execute(
        """
        SELECT s.hash = this.hash AS this, s.way, s.address, s.created_ms, s.seen_ms, s.expires_ms
        FROM sessions this JOIN sessions s ON s.user_id IS this.user_id AND s.admin_hash IS this.admin_hash
        WHERE this.hash = ? AND s.expires_ms > ? ORDER BY s.created_ms DESC, s.hash
        """,
        (session_hash, tx.now_ms),
    ).fetchall()


def signing_secret(tx: Tx) -> bytes | None:
    """What cookies are signed with; None: it was never made."""
    text = tx.value("SELECT value FROM meta WHERE key = 'signing_secret'")
    return bytes.fromhex(text) if text is not None else None


def make_signing_secret(tx: Tx) -> None:
    """Once for each database, whoever comes first."""
    tx.execute("INSERT OR IGNORE INTO meta (key, value) VALUES ('signing_secret', ?)", (secrets.token_hex(32),))
