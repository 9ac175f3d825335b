"""What a POST with an `Idempotency-Key` was answered, so that the same one again does nothing and is answered the same.

An answer may hold a key that was issued, which is kept nowhere in clear. So answers are sealed: combined with as many
bytes of SHAKE-256 over a fresh salt and the admin key, of which only the hash is stored. Whoever has the database can't
read them; who asks again with the same admin key can.
"""

from __future__ import annotations

import hashlib
import secrets

import msgspec

from ..errors import Refusal
from .db import Tx
from .keys import hash_key

KEPT_MS = 86_400_000
"""A day: whoever asks again later asks anew."""

SALT = 16


class Answer(msgspec.Struct, frozen=True):
    status: int
    body: bytes


def find(tx: Tx, admin_key: str, key: str, request: bytes) -> Answer | None:
    """What was answered before. Raises Refusal 409 where that was to another request."""
    row = tx.one(
        "SELECT * FROM answers WHERE admin = ? AND key = ? AND created_ms > ?",
        *(hash_key(admin_key), key, tx.now_ms - KEPT_MS),
    )
    if row is None:
        return None
    if row["request"] != digest(request):
        raise Refusal(
            "this Idempotency-Key was sent before with another request: choose another one",
            code="conflict",
            param="idempotency-key",
        )
    return Answer(row["status"], _sealed(row["body"], admin_key, row["salt"]))


def keep(tx: Tx, admin_key: str, key: str, request: bytes, answer: Answer) -> None:
    """Keep an answer for a day, in the transaction of the deed; those of before go."""
    tx.execute("DELETE FROM answers WHERE created_ms <= ?", (tx.now_ms - KEPT_MS,))
    salt = secrets.token_bytes(SALT)
    tx.execute(
        "INSERT INTO answers (admin, key, request, status, salt, body, created_ms) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            *(hash_key(admin_key), key, digest(request), answer.status, salt),
            *(_sealed(answer.body, admin_key, salt), tx.now_ms),
        ),
    )


def digest(request: bytes) -> bytes:
    """What tells a request from others."""
    return hashlib.sha256(request).digest()


def _sealed(body: bytes, admin_key: str, salt: bytes) -> bytes:
    """Seals what is open, and opens what is sealed. A salt is used once, so no two answers share their bytes."""
    pad = hashlib.shake_256(salt + admin_key.encode()).digest(len(body))
    return bytes(one ^ other for one, other in zip(body, pad, strict=True))
