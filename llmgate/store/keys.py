"""The keys that llmgate issues: made, found by their hash, changed.

A key is `sk-lg-` + 43 random base62 characters (256 bits) + 6 characters of checksum. Only its SHA-256 is kept: a fast
hash is enough for a secret that can't be guessed. The checksum tells a mistyped key from an unknown one without the
database.
"""

from __future__ import annotations

import hashlib
import ipaddress
import secrets
import string
import zlib
from collections.abc import Callable, Hashable
from difflib import get_close_matches
from itertools import chain
from typing import Any

import msgspec

from ..errors import Refusal, UsageError
from ..limits import FOREVER_MS
from ..names import check_new, is_secret, matches, quoted
from . import accounts, audit
from .db import Row, Tx

PREFIX = "sk-lg-"
BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
RANDOM, CHECKSUM = 43, 6
LENGTH = len(PREFIX) + RANDOM + CHECKSUM
SHOWN = len(PREFIX) + 6
"""How much of a key is kept in clear, so that its owner recognises it: its beginning, and"""

ENDING = 4
"""its end, which is of the checksum: 256 random bits less 36 of the beginning and 24 of this are left to guess."""

_ALPHABET = frozenset(BASE62)


def new_key(prefix: str = PREFIX) -> str:
    body = prefix + "".join(secrets.choice(BASE62) for _ in range(RANDOM))
    return body + _checksum(body)


def _checksum(body: str) -> str:
    number, digits = zlib.crc32(body.encode()), ""
    for _ in range(CHECKSUM):
        number, digit = divmod(number, 62)
        digits += BASE62[digit]
    return digits


def well_formed(key: str, prefix: str = PREFIX) -> bool:
    """Whether a string can be a key of ours at all; a typo can't."""
    return (
        len(key) == len(prefix) + RANDOM + CHECKSUM
        and key.startswith(prefix)
        and _ALPHABET.issuperset(key[len(prefix) :])
        and _checksum(key[:-CHECKSUM]) == key[-CHECKSUM:]
    )


def hash_key(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def new_id() -> str:
    """The short id of a key, stable over rotation: `k-` and 8 characters that are hard to confuse."""
    return "k-" + "".join(secrets.choice("23456789abcdefghjkmnpqrstuvwxyz") for _ in range(8))


class Issued(msgspec.Struct, frozen=True):
    """A key at the only moment when it is known in clear."""

    id: str
    user: str
    name: str
    key: str


def add(
    tx: Tx,
    user: str,
    *,
    name: str | None = None,
    models: list[str] | None = None,
    ips: list[str] | None = None,
    tags: dict[str, str] | None = None,
    note: str | None = None,
    expires_ms: int | None = None,
) -> Issued:
    """Issue a key to a user that exists."""
    owner = accounts.user_row(tx, user)
    name = check_new(name, "key") if name else _free_name(tx, owner["id"])
    if tx.one("SELECT 1 FROM keys WHERE user_id = ? AND name = ?", owner["id"], name):
        raise Refusal(f"{user} has a key named {name} already: choose another name", code="conflict")
    key, key_id = new_key(), new_id()
    fields = {"models": models or [], "ips": check_ips(ips or []), "tags": tags or {}}
    tx.execute(
        """
        INSERT INTO keys (id, user_id, name, hash, prefix, suffix, models, ips, tags, note, created_ms, expires_ms)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
        """,
        (
            *(key_id, owner["id"], name, hash_key(key), key[:SHOWN], key[-ENDING:]),
            *(msgspec.json.encode(value).decode() for value in fields.values()),
            *(note, tx.now_ms, expires_ms),
        ),
    )
    audit.record(tx, "keys.add", key_id, after={"user": user, "name": name, **fields, "expires_ms": expires_ms})
    return Issued(key_id, user, name, key)


def _free_name(tx: Tx, user_id: int) -> str:
    taken = {row[0] for row in tx.execute("SELECT name FROM keys WHERE user_id = ?", (user_id,))}
    number, name = 1, "default"
    while name in taken:
        number += 1
        name = f"default-{number}"
    return name


def check_ips(ips: list[str]) -> list[str]:
    """Addresses and networks in their usual form. Raises UsageError."""
    return [_network(ip) for ip in ips]


def _network(ip: str) -> str:
    try:
        return str(ipaddress.ip_network(ip, strict=False))
    except ValueError as error:
        raise UsageError(f"{ip!r} is no address and no network: write one such as 10.0.0.7 or 10.0.0.0/8") from error


_KEY = """
SELECT k.*, u.name AS user, t.name AS team, u.plan AS plan,
       CASE WHEN k.status = 'active' AND k.expires_ms <= :now_ms THEN 'expired' ELSE k.status END AS state
FROM keys k JOIN users u ON u.id = k.user_id LEFT JOIN teams t ON t.id = u.team_id
"""


def list_keys(tx: Tx, *, user: str | None = None, team: str | None = None, dead: bool = False) -> list[Row]:
    """Keys, oldest first; revoked and expired ones only where `dead` asks for them. `team`: those of its members."""
    where = ["1"]
    if user:
        where.append("k.user_id = :user_id")
    if team:
        where.append("k.team = :team")
    if not dead:
        where.append("state IN ('active', 'disabled')")
    user_id = accounts.user_row(tx, user)["id"] if user else None
    return tx.execute(
        f"SELECT * FROM ({_KEY}) AS k WHERE {' AND '.join(where)} ORDER BY created_ms, user, name",
        {"now_ms": tx.now_ms, "user_id": user_id, "team": team},
    ).fetchall()


_NAMES = """
SELECT k.id, u.name || '/' || k.name, u.name FROM keys k JOIN users u ON u.id = k.user_id WHERE k.status <> 'revoked'
"""


def key_row(tx: Tx, target: str) -> Row:
    """A key by its id, or as `user/name`; or a user's name, where that user has one living key.

    Raises Refusal `not_found`, or UsageError where a whole key was given: those don't belong on a command line.
    """
    user, slash, name = target.partition("/")
    if is_secret(target) and not slash:
        raise UsageError("name a key by its id or as user/name, never by the key itself; `llmgate keys` lists them")
    if slash:
        where = "u.name = :user AND k.name = :name"
    elif target.startswith("k-"):
        where = "k.id = :user"
    else:
        where = "u.name = :user AND k.status <> 'revoked'"
    rows = tx.execute(
        f"{_KEY} WHERE {where} ORDER BY k.created_ms LIMIT 2",
        {"now_ms": tx.now_ms, "user": user, "name": name},
    ).fetchall()
    if not rows:
        near = get_close_matches(target, set(chain.from_iterable(tx.execute(_NAMES))), n=1)
        hint = f"did you mean {near[0]}?" if near else "`llmgate keys --all` lists them"
        raise Refusal(f"there is no key {quoted(target)}: {hint}", code="not_found")
    if len(rows) > 1:
        raise Refusal(f"{target} has more than one key: name it as user/name or by its id (`llmgate keys`)")
    row: Row = rows[0]
    return row


STATES = {"disable": "disabled", "enable": "active", "revoke": "revoked"}


def set_state(tx: Tx, target: str, verb: str) -> Row:
    """Disable, enable or revoke a key. What is revoked stays so."""
    key = key_row(tx, target)
    if key["status"] == "revoked" and verb != "revoke":
        raise Refusal(f"key {key['id']} is revoked for good: issue another with `llmgate keys add {key['user']}`")
    tx.execute("UPDATE keys SET status = ? WHERE id = ?", (STATES[verb], key["id"]))
    if verb == "revoke":
        tx.execute("UPDATE keys SET grace_hash = NULL, grace_until_ms = NULL WHERE id = ?", (key["id"],))
    if verb != "enable":
        tx.execute("DELETE FROM sessions WHERE key_id = ?", (key["id"],))
    audit.record(tx, f"keys.{verb}", key["id"], before={"status": key["status"]}, after={"status": STATES[verb]})
    return key_row(tx, key["id"])


_JSON = ("models", "ips", "tags")
"""Columns that hold lists and maps."""


def change(tx: Tx, target: str, changes: dict[str, Any]) -> Row:
    """Change what is named in `changes`: name, models, ips, tags, note, expires_ms."""
    key = key_row(tx, target)
    if "name" in changes:
        check_new(changes["name"], "key")
        clash = tx.one("SELECT id FROM keys WHERE user_id = ? AND name = ?", key["user_id"], changes["name"])
        if clash and clash["id"] != key["id"]:
            raise Refusal(f"{key['user']} has a key named {changes['name']} already", code="conflict")
    if "ips" in changes:
        changes = {**changes, "ips": check_ips(changes["ips"])}
    for field, value in changes.items():
        stored = msgspec.json.encode(value).decode() if field in _JSON else value
        tx.execute(f"UPDATE keys SET {field} = ? WHERE id = ?", (stored, key["id"]))
    before = {name: msgspec.json.decode(key[name]) if name in _JSON else key[name] for name in changes}
    audit.record(tx, "keys.set", key["id"], before=before, after=changes)
    return key_row(tx, key["id"])


def rotate(tx: Tx, target: str, *, grace_ms: int = 0) -> Issued:
    """A new secret under the same id; the old one works on for `grace_ms`."""
    key = key_row(tx, target)
    if key["status"] == "revoked":
        raise Refusal(f"key {key['id']} is revoked for good: issue another with `llmgate keys add {key['user']}`")
    secret = new_key()
    tx.execute(
        "UPDATE keys SET hash = ?, prefix = ?, suffix = ?, grace_hash = ?, grace_until_ms = ? WHERE id = ?",
        (
            *(hash_key(secret), secret[:SHOWN], secret[-ENDING:]),
            *((key["hash"], tx.now_ms + grace_ms) if grace_ms else (None, None)),
            key["id"],
        ),
    )
    after = {"prefix": secret[:SHOWN], "grace_ms": grace_ms}
    audit.record(tx, "keys.rotate", key["id"], before={"prefix": key["prefix"]}, after=after)
    return Issued(key["id"], key["user"], key["name"], secret)


class Caller(msgspec.Struct, frozen=True):
    """Who sends a request: a living key, its user, and the account that pays."""

    key_id: str
    key_name: str
    user_id: int
    user: str
    team_id: int | None
    team: str | None
    plan: str | None
    models: tuple[str, ...]
    ips: tuple[str, ...]
    tags: dict[str, str]
    account_id: int
    account_kind: str
    prepaid: bool
    balance_nano: int
    held_nano: int
    last_used_ms: int
    expires_next_ms: int | None
    """When credits of the account expire next."""

    def may_use(self, names: tuple[str, ...]) -> bool:
        """Whether the key's model globs allow any of the names that a model goes by."""
        return not self.models or any(matches(glob, name) for glob in self.models for name in names)


_CALLER = f"""
SELECT k.id, k.name, k.status, k.expires_ms, k.grace_until_ms, k.hash <> :hash AS old, k.models, k.ips, k.tags,
       k.last_used_ms, u.id AS user_id, u.name AS user, u.status AS user_status,
       coalesce(u.plan, t.plan) AS plan, t.id AS team_id, t.name AS team,
       p.id AS account_id, p.kind, p.billing, p.balance_nano, p.held_nano, p.expires_next_ms
FROM keys k
JOIN users u ON u.id = k.user_id
JOIN accounts ua ON ua.id = u.account_id
LEFT JOIN teams t ON t.id = u.team_id
JOIN accounts p ON p.id = {accounts.PAYER}
WHERE k.hash = :hash OR k.grace_hash = :hash
"""

_strings = msgspec.json.Decoder(tuple[str, ...])
_string_map = msgspec.json.Decoder(dict[str, str])


def authenticate(tx: Tx, key_hash: bytes) -> Caller:
    """The caller behind a key, as things stand at this moment. Raises Refusal 401 or 403.

    It is read again in the hold's transaction. What is kept there (`Tx.kept`) is who it is, for as long as nothing can
    have changed that; the money is read each time.
    """
    if tx.kept is not None:
        known = tx.kept.get(key_hash)
        if known is not None and tx.now_ms < known[1]:
            return _as_of_now(tx, known[0])
    row = tx.execute(_CALLER, {"hash": key_hash}).fetchone()
    if row is None:
        raise Refusal("this key is unknown here: check that it belongs to this gateway", code="invalid_key")
    if row["status"] == "revoked":
        raise Refusal("this key was revoked: ask your admin for another", code="key_revoked")
    if row["status"] == "disabled":
        raise Refusal("this key is disabled: ask your admin to enable it", code="key_disabled")
    if row["expires_ms"] is not None and row["expires_ms"] <= tx.now_ms:
        raise Refusal("this key has expired: ask your admin for another", code="key_expired")
    if row["old"] and row["grace_until_ms"] <= tx.now_ms:
        raise Refusal("this key was rotated and its time of grace is over: use the new one", code="key_expired")
    if row["user_status"] != "active":
        raise Refusal("this key's user is disabled: ask your admin", code="user_disabled")
    caller = Caller(
        key_id=row["id"],
        key_name=row["name"],
        user_id=row["user_id"],
        user=row["user"],
        team_id=row["team_id"],
        team=row["team"],
        plan=row["plan"],
        models=_strings.decode(row["models"]) if row["models"] != "[]" else (),
        ips=_strings.decode(row["ips"]) if row["ips"] != "[]" else (),
        tags=_string_map.decode(row["tags"]) if row["tags"] != "{}" else {},
        account_id=row["account_id"],
        account_kind=row["kind"],
        prepaid=row["billing"] == "prepaid",
        balance_nano=row["balance_nano"],
        held_nano=row["held_nano"],
        last_used_ms=row["last_used_ms"] or 0,
        expires_next_ms=row["expires_next_ms"],
    )
    if tx.kept is not None:
        ends = (row["expires_ms"], row["grace_until_ms"] if row["old"] else None)
        tx.kept[key_hash] = caller, min((end for end in ends if end is not None), default=FOREVER_MS)
    return caller


def known(kept: Callable[[Hashable], Any], key_hash: bytes, now_ms: int) -> Caller | None:
    """The caller behind a key, if that is kept, with money as it was some time ago; else None."""
    found = kept(key_hash)
    if found is None or now_ms >= found[1]:
        return None
    caller: Caller = found[0]
    return caller


def _as_of_now(tx: Tx, known: Caller) -> Caller:
    """A caller that is known, with the money of its account as it is in this transaction."""
    money = tx.tally.money(known.account_id)
    return msgspec.structs.replace(
        known,
        prepaid=money.prepaid,
        balance_nano=money.balance_nano,
        held_nano=money.held_nano,
        expires_next_ms=money.expires_next_ms,
    )
