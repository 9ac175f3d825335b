"""What a leg tells: rows of figures whose names say their unit, for people as tables, for machines as they are."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

Row = dict[str, Any]
"""Name → text, count or figure; what isn't known is left out."""

WRITTEN = {"us": "µs", "mib": "MiB", "kib": "KiB", "cpu": "CPU", "llmgate": "llmgate"}
"""Parts of names as people read them."""


@dataclass(frozen=True)
class Setting:
    """What is asked of a run."""

    engine: str = "hypercorn"
    load: str = "python"
    rounds: int = 3
    seconds: float = 1.0
    requests: int = 200_000
    rows: int = 10_000_000
    beside: bool = True
    """Ask nginx and LiteLLM as well, where they are installed."""
    say: Callable[[str], None] = lambda _: None
    """Who is told how far it is."""


@dataclass
class Told:
    tables: dict[str, list[Row]] = field(default_factory=dict)
    """By title."""
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """Why figures can't be trusted, or aren't what is promised."""


Leg = Callable[[Setting], Told]


class Ratio(NamedTuple):
    """How two compare, round by round: what disturbs a whole round disturbs both."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, above: Sequence[float], below: Sequence[float]) -> Ratio:
        rounds = [one / other if other else math.inf for one, other in zip(above, below, strict=True)]
        return cls(statistics.median(rounds), min(rounds), max(rounds))


def show(told: Told, title: str) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)  # a table loses nothing when piped
    console.print(title, highlight=False)
    for name, rows in told.tables.items():
        console.print()
        console.print(_table(name, rows))
    console.print()
    for note in told.notes:
        console.print(note, highlight=False)


def _table(title: str, rows: list[Row]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    names = list(dict.fromkeys(name for row in rows for name in row))
    for name in names:
        text = all(isinstance(row.get(name, ""), str) for row in rows)
        table.add_column(_heading(name), justify="left" if text else "right")
    for row in rows:
        table.add_row(*(_written(row.get(name)) for name in names))
    return table


def _heading(name: str) -> str:
    return " ".join(WRITTEN.get(part, part) for part in name.split("_"))


def _written(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    return f"{value:,.{0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2}f}"


def for_machines(told: Told) -> dict[str, Any]:
    tables = {
        name: [{key: _rounded(value) for key, value in row.items()} for row in rows]
        for name, rows in told.tables.items()
    }
    return {"tables": tables, "notes": told.notes, "ok": not told.problems, "problems": told.problems}


def _rounded(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return round(value, 4) if math.isfinite(value) else None
