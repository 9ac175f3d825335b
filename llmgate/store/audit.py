"""Who changed what, when: written in the transaction that changes it, so that there is never one without the other."""

from __future__ import annotations

from typing import Any

import msgspec

from .db import Tx


def record(tx: Tx, action: str, target: str, *, before: Any = None, after: Any = None) -> None:
    """One admin act. `before` and `after` are what changed of the target, never a key or a secret."""
    tx.execute(
        "INSERT INTO audit (time_ms, actor, action, target, before, after) VALUES (?, ?, ?, ?, ?, ?)",
        (tx.now_ms, tx.actor, action, target, _json(before), _json(after)),
    )


def _json(value: Any) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()
