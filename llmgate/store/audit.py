"""Who changed what, when: written in the transaction that changes it, so that there is never one without the other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from .db import Row, Tx


def record(tx: Tx, action: str, target: str, *, before: Any = None, after: Any = None) -> int:
    """One admin act. `before` and `after` are what changed of the target, never a key or a secret. Returns its id."""
    cursor = tx.execute(
        "INSERT INTO audit (time_ms, actor, action, target, before, after) VALUES (?, ?, ?, ?, ?, ?)",
        (tx.now_ms, tx.actor, action, target, _json(before), _json(after)),
    )
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def amend(tx: Tx, act: int, after: Any) -> None:
    """An act that takes many transactions has come further: each of them says how far."""
    tx.execute("UPDATE audit SET after = ? WHERE id = ?", (_json(after), act))


def _json(value: Any) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()


def acts(tx: Tx, *, since_ms: int | None = None, until_ms: int | None = None) -> Iterator[Row]:
    """What was done from a moment on, until another, oldest first."""
    yield from tx.execute(
        "SELECT * FROM audit WHERE time_ms >= coalesce(:since_ms, 0) AND time_ms < coalesce(:until_ms, time_ms + 1) "
        "ORDER BY id",
        {"since_ms": since_ms, "until_ms": until_ms},
    )


def latest(tx: Tx, since_ms: int, size: int, before_id: int | None = None) -> list[Row]:
    """The newest so many acts from a moment on, newest first; `before_id` gives those before that one."""
    return tx.execute(
        "SELECT * FROM audit WHERE time_ms >= ? AND (? IS NULL OR id < ?) ORDER BY id DESC LIMIT ?",
        (since_ms, before_id, before_id, size),
    ).fetchall()
