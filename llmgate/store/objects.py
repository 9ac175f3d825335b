"""What requests have made at an upstream - responses, conversations, containers - and whose it is.

All of llmgate's users share the admin's account there: only here is it known which of them made what.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import Refusal
from .db import Tx


def note(tx: Tx, ids: Iterable[str], account_id: int) -> None:
    """An answer has made these."""
    tx.conn.executemany(
        "INSERT INTO objects (id, account_id, created_ms) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        [(made, account_id, tx.now_ms) for made in ids],
    )


def check(tx: Tx, ids: Iterable[str], account_id: int) -> None:
    """Raises Refusal 404 where one of them isn't the account's: whose it is, and whether it exists, isn't told."""
    for named in ids:
        if tx.value("SELECT account_id FROM objects WHERE id = ?", named) != account_id:
            raise Refusal(
                f"there is no {named[:100]!r} that was made by this account through llmgate", code="not_found"
            )
