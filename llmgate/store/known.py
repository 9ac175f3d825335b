"""What there is by name, for a shell that completes words: read as it stands, quickly, and without leaving a trace."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from .db import connect, translated

SHORT_MS = 200
"""Who presses Tab doesn't wait for a lock."""

NAMES = {
    "users": "SELECT name FROM users",
    "teams": "SELECT name FROM teams",
    "keys": "SELECT u.name || '/' || k.name FROM keys k JOIN users u ON u.id = k.user_id WHERE k.status != 'revoked'",
    "key ids": "SELECT id FROM keys WHERE status != 'revoked'",
    "models": "SELECT model FROM set_prices UNION "
    "SELECT model FROM rollups WHERE day >= (SELECT date(max(day), '-7 days') FROM rollups)",
}


def names(path: Path, what: str, start: str = "") -> list[str]:
    """The names that begin so, in their order. None where there is no database, or one of another version.

    Raises StorageError.
    """
    if not path.is_file():
        return []
    with translated(path), closing(connect(path, wait_ms=SHORT_MS)) as conn:
        conn.execute("PRAGMA query_only = ON")
        rows = conn.execute(
            f"SELECT name FROM (SELECT '' AS name WHERE 0 UNION ALL {NAMES[what]}) "
            "WHERE substr(name, 1, length(?)) = ? ORDER BY name",
            (start, start),
        )
        return [row[0] for row in rows]
