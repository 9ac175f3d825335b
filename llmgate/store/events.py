"""What is worth telling an admin, each thing once: thresholds of limits crossed, balances running low."""

from __future__ import annotations

from .db import Row, Tx


def record(tx: Tx, kind: str, subject: tuple[str, str], about: str, message: str) -> bool:
    """Tell something, unless it was told: `about` is what makes it the same. Returns whether it is new."""
    cursor = tx.execute(
        """
        INSERT INTO events (time_ms, kind, subject_kind, subject_id, about, message) VALUES (?, ?, ?, ?, ?, ?)
        ON CONFLICT (kind, subject_kind, subject_id, about) DO NOTHING
        """,
        (tx.now_ms, kind, *subject, about, message),
    )
    return cursor.rowcount > 0


def since(tx: Tx, since_ms: int) -> list[Row]:
    """Events from a moment on, oldest first, with the name of whom they are about."""
    return tx.execute(
        """
        SELECT e.*, CASE e.subject_kind
          WHEN 'user' THEN (SELECT name FROM users WHERE id = CAST(e.subject_id AS INTEGER))
          WHEN 'team' THEN 'team:' || (SELECT name FROM teams WHERE id = CAST(e.subject_id AS INTEGER))
          ELSE 'key:' || e.subject_id END AS target
        FROM events e WHERE time_ms >= ? ORDER BY id
        """,
        (since_ms,),
    ).fetchall()
