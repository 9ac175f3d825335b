"""`llmgate verify`: do the books balance?"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import typer

from ..errors import ProblemsFound
from ..store.db import Database
from ..store.verify import Counts, Finding, Repaired
from ..store.verify import repair as put_right
from ..store.verify import verify as recompute
from .columns import Column, Kind, Row, Show
from .context import open_store
from .grammar import alone, verb
from .output import listing, verdict
from .progress import working
from .session import Format, session

app = alone()

COLUMNS = (
    Column("check", Kind.WORD),
    Column("subject"),
    Column("stored"),
    Column("expected"),
    Column("derived", Kind.FLAG),
    Column("repaired", Kind.FLAG, Show.USED),
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

Checked = dict[str, int]


@verb(
    app,
    "verify",
    examples="""
    llmgate verify
    llmgate verify --repair
    llmgate verify --json
    """,
)
def verify(
    ctx: typer.Context,
    repair: Annotated[
        bool, typer.Option("--repair", help="Put right what is derived, say what it was, and look again.")
    ] = False,
) -> None:
    """Recompute the books, and say where they differ.

    Every balance, cost, charge and sum is worked out again from entries, requests and prices; a daemon may go on
    serving meanwhile. Exit code 3 if anything differs. What is derived follows from the rest, and --repair puts it
    right; a fact that was changed is never touched: it needs a backup.
    """
    repaired: list[Repaired] = []
    with open_store(ctx, create=False) as db:
        findings, checked = _look(db)
        if repair:
            with working("putting right what is derived"):
                repaired = list(put_right(db, findings))
        if repaired:
            findings, checked = _look(db)
    if session(ctx).wanted is Format.JSON:
        _write_json(checked, findings, repaired if repair else None)
    else:
        listing(ctx, COLUMNS, [*map(_mended, repaired), *map(_found, findings)], empty="")
    said = f"checked {_told(checked)}"
    if findings:
        raise ProblemsFound(f"the books don't balance: {_differ(len(findings))} ({said}): {_cure(findings)}")
    put = f"put right {_figures(len(repaired))}, " if repaired else ""
    verdict(ctx, f"the books balance: {put}{said}")


def _look(db: Database) -> tuple[list[Finding], Checked]:
    counts = Counts()
    with working("checking the books"):
        findings = list(recompute(db, counts))
    return findings, msgspec.structs.asdict(counts)


def _found(finding: Finding) -> Row:
    return {**{name: getattr(finding, name) for name in _FINDING}, "repaired": False}


def _mended(one: Repaired) -> Row:
    figures = {"stored": one.before, "expected": one.after}
    return {"check": one.check, "subject": one.subject, **figures, "derived": True, "repaired": True}


_FINDING = ("check", "subject", "stored", "expected", "derived")


def _told(checked: Checked) -> str:
    return ", ".join(f"{number:,} {WORDS[name][number != 1]}" for name, number in checked.items())


def _figures(number: int) -> str:
    return "1 figure" if number == 1 else f"{number:,} figures"


def _differ(number: int) -> str:
    return f"{_figures(number)} differ{'s' if number == 1 else ''}"


def _cure(findings: Sequence[Finding]) -> str:
    """What an admin can do about it."""
    derived = sum(finding.derived for finding in findings)
    if not derived:
        return "facts can't be put right: compare with a backup"
    if derived == len(findings):
        return "`llmgate verify --repair` puts that right"
    return f"`llmgate verify --repair` puts {derived:,} right; the rest are facts: compare with a backup"


def _write_json(checked: Checked, findings: Sequence[Finding], repaired: Sequence[Repaired] | None) -> None:
    found: dict[str, Any] = {
        "ok": not findings,
        "checked": checked,
        "findings": [{name: getattr(finding, name) for name in _FINDING} for finding in findings],
    }
    if repaired is not None:
        found["repaired"] = msgspec.to_builtins(repaired)
    json.dump(found, sys.stdout, indent=2)
    sys.stdout.write("\n")
