"""What requests have made at an upstream - responses, conversations, containers - and whose it is.

All of llmgate's users share the admin's account there: only here is it known which of them made what.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from ..errors import Refusal
from .db import Tx


class Made(NamedTuple):
    """Where something lies, and what made it."""

    upstream: str
    upstream_model: str
    model: str


def note(tx: Tx, ids: Iterable[str], usage: dict[str, Any]) -> None:
    """An answer has made these; `usage` is its row."""
    said = [usage[name] for name in ("account_id", *Made._fields)]
    tx.conn.executemany(
        "INSERT INTO objects (id, account_id, upstream, upstream_model, model, created_ms) VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT DO NOTHING",
        [(made, *said, tx.now_ms) for made in ids],
    )


def made(tx: Tx, named: str, account_id: int) -> Made:
    """Where something of the account's lies. Raises as `check` does."""
    check(tx, (named,), account_id)
    row = tx.one("SELECT upstream, upstream_model, model FROM objects WHERE id = ?", named)
    assert row is not None
    return Made(*row)


def places(tx: Tx, ids: Iterable[str]) -> frozenset[str]:
    """The upstreams where some of the account's own things lie."""
    return frozenset(tx.value("SELECT upstream FROM objects WHERE id = ?", named) for named in ids)


def check(tx: Tx, ids: Iterable[str], account_id: int, *, unknown: bool = False) -> None:
    """Raises Refusal 404 where one of them isn't the account's: whose it is, and whether it exists, isn't told.
    `unknown`: what nobody has made through llmgate is everybody's."""
    for named in ids:
        owner = tx.value("SELECT account_id FROM objects WHERE id = ?", named)
        if owner != account_id and not (unknown and owner is None):
            raise Refusal(
                f"there is no {named[:100]!r} that was made by this account through llmgate", code="not_found"
            )
