"""`llmgate verify`: do the books balance?"""

from __future__ import annotations

import json
import sys

import msgspec
import typer

from ..errors import ProblemsFound
from ..store.verify import Counts, Finding
from ..store.verify import verify as recompute
from .columns import Column, Kind
from .context import open_store
from .grammar import alone, verb
from .output import listing, verdict
from .session import Format, session

app = alone()

COLUMNS = (
    Column("check", Kind.WORD),
    Column("subject"),
    Column("stored"),
    Column("expected"),
    Column("derived", Kind.FLAG),
)

WORDS = {
    "entries": ("entry", "entries"),
    "usage": ("usage row", "usage rows"),
    "accounts": ("account", "accounts"),
    "holds": ("hold", "holds"),
    "rollups": ("roll-up", "roll-ups"),
    "counters": ("limit", "limits"),
}
"""What one and what several of the counted things are called."""


@verb(
    app,
    "verify",
    examples="""
    llmgate verify
    llmgate verify --json
    """,
)
def verify(ctx: typer.Context) -> None:
    """Recompute the books, and say where they differ.

    Every balance, cost, charge and sum is worked out again from entries, requests and prices. Exit code 3 if anything
    differs. What is derived follows from the rest and can be put right; a fact that was changed needs a backup.
    """
    counts = Counts()
    with open_store(ctx, create=False) as db:
        findings = list(recompute(db, counts))
    checked = msgspec.structs.asdict(counts)
    if session(ctx).wanted is Format.JSON:
        _write_json(checked, findings)
    elif findings:
        listing(ctx, COLUMNS, [msgspec.structs.asdict(finding) for finding in findings], empty="")
    looked_at = ", ".join(f"{number:,} {WORDS[name][number != 1]}" for name, number in checked.items())
    if findings:
        differ = "1 figure differs" if len(findings) == 1 else f"{len(findings)} figures differ"
        raise ProblemsFound(f"the books don't balance: {differ} (checked {looked_at})")
    verdict(ctx, f"the books balance: checked {looked_at}")


def _write_json(checked: dict[str, int], findings: list[Finding]) -> None:
    found = {"ok": not findings, "checked": checked, "findings": msgspec.to_builtins(findings)}
    json.dump(found, sys.stdout, indent=2)
    sys.stdout.write("\n")
