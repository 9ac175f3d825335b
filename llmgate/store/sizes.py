"""How large a database is: what `llmgate db stats` shows."""

from __future__ import annotations

from pathlib import Path

from .db import Tx


def rows_per_table(tx: Tx) -> dict[str, int]:
    """Every table of ours and how many rows it has."""
    names = tx.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' "
        "AND name NOT LIKE '\\_%' ESCAPE '\\' ORDER BY name"
    ).fetchall()
    return {name: tx.value(f'SELECT count(*) FROM "{name}"') for (name,) in names}


def bytes_on_disk(database: Path) -> int:
    """The size of the file, and of the log of what isn't merged into it yet."""
    files = (database, database.with_name(f"{database.name}-wal"))
    return sum(file.stat().st_size for file in files if file.exists())
