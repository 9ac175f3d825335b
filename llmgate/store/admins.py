"""The keys of the admin API: who may do what through it.

An admin key is `sk-lg-admin-` + 43 random base62 characters + a checksum, made and kept as the keys of users are: only
its SHA-256 stays. A scope says what its holder may change; all of them may read everything.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from ..errors import Refusal, UsageError
from ..names import check_new, quoted
from . import audit
from .db import Row, Tx
from .keys import hash_key, new_key

PREFIX = "sk-lg-admin-"
SHOWN = len(PREFIX) + 6

ENV = "env"
"""What the books call whoever has the ADMIN_TOKEN of the environment; nobody else is called so."""

SEEN_EVERY_MS = 60_000
"""How exactly it is known when an admin key was used last."""


class Scope(StrEnum):
    """What an admin key may change."""

    READ = "read"
    """Nothing."""
    KEYS = "keys"
    """Users, teams, keys and limits, but not who pays how, or how much."""
    CREDITS = "credits"
    """Credits, and nothing else."""
    ALL = "all"

    def covers(self, needed: Scope) -> bool:
        return needed in (Scope.READ, self) or self is Scope.ALL


class Admin(msgspec.Struct, frozen=True):
    """Who uses the admin API."""

    name: str
    scope: Scope
    last_used_ms: int = 0

    @property
    def actor(self) -> str:
        """What the audit calls it."""
        return f"admin:{self.name}"


def add(tx: Tx, name: str, scope: Scope) -> str:
    """Make an admin key, and return it: the only moment when it is known in clear. One that was revoked may be made
    anew under its name. Raises Refusal.
    """
    check_new(name, "key of an admin")
    if name == ENV:
        raise UsageError(f"{ENV!r} is the holder of $ADMIN_TOKEN in the books: choose another name")
    if tx.one("SELECT 1 FROM admins WHERE name = ? AND status = 'active'", name):
        raise Refusal(
            f"admin {name} has a key already: choose another name, or `llmgate admins revoke {name}` first",
            code="conflict",
        )
    key = new_key(PREFIX)
    tx.execute(
        """
        INSERT INTO admins (name, scope, hash, prefix, created_ms) VALUES (?, ?, ?, ?, ?)
        ON CONFLICT (name) DO UPDATE SET scope = excluded.scope, hash = excluded.hash, prefix = excluded.prefix,
          created_ms = excluded.created_ms, status = 'active', last_used_ms = NULL
        """,
        (name, scope, hash_key(key), key[:SHOWN], tx.now_ms),
    )
    audit.record(tx, "admins.add", name, after={"scope": scope})
    return key


def list_admins(tx: Tx, *, dead: bool = False) -> list[Row]:
    where = "1" if dead else "status = 'active'"
    return tx.execute(f"SELECT * FROM admins WHERE {where} ORDER BY name").fetchall()


def admin_row(tx: Tx, name: str) -> Row:
    """An admin by name. Raises Refusal `not_found`."""
    row = tx.one("SELECT * FROM admins WHERE name = ?", name)
    if row is None:
        hint = "unset ADMIN_TOKEN and restart" if name == ENV else "`llmgate admins` lists them"
        raise Refusal(f"there is no admin {quoted(name)}: {hint}", code="not_found")
    return row


def revoke(tx: Tx, name: str) -> Row:
    """End an admin key for good, from the next request on."""
    before = admin_row(tx, name)
    tx.execute("UPDATE admins SET status = 'revoked' WHERE id = ?", (before["id"],))
    audit.record(tx, "admins.revoke", name, before={"status": before["status"]}, after={"status": "revoked"})
    return admin_row(tx, name)


def authenticate(tx: Tx, key_hash: bytes) -> Admin:
    """Whose admin key this is, as things stand now. Raises Refusal 401."""
    row = tx.one("SELECT name, scope, status, last_used_ms FROM admins WHERE hash = ?", key_hash)
    if row is None:
        raise Refusal("this admin key is unknown here: check that it belongs to this gateway", code="invalid_key")
    if row["status"] != "active":
        raise Refusal("this admin key was revoked", code="key_revoked")
    return Admin(row["name"], Scope(row["scope"]), row["last_used_ms"] or 0)


def seen(tx: Tx, name: str) -> None:
    """An admin key was used."""
    tx.execute("UPDATE admins SET last_used_ms = ? WHERE name = ?", (tx.now_ms, name))
