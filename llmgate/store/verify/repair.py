"""Put right what is derived, while a daemon goes on writing. Facts are never touched.

What a finding says may be old by now: each figure is worked out anew in the transaction that writes it. Transactions
are short and leave room for others in between. Roll-ups come first, because balances follow from them; once they are
all right they stay so, whoever writes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

import msgspec

from ...money import dollars
from .. import audit, ledger
from ..db import Database, Tx
from ..tally import ROLLUP_KEY, ROLLUP_SUMS
from . import derived
from .finding import Finding

HELD_S = 0.1
"""A transaction takes up no more figures after so long. The daemon waits 5 s for a locked database, trying again."""

PAUSE_S = 0.05

MONEY_MOVED = ("entries", "causes")
"""Checks of the facts that balances follow from."""


class Repaired(msgspec.Struct, frozen=True):
    """One derived figure, before and after."""

    check: str
    subject: str
    before: str
    after: str


def repair(db: Database, findings: Iterable[Finding]) -> Iterator[Repaired]:
    """Put right what `verify` found of derived figures, each with a line in the audit. Raises StorageError.

    Balances stay as they are where entries were changed or are missing: they may be the last that tell the truth.
    """
    findings = list(findings)
    forged = any(finding.check in MONEY_MOVED and not finding.derived for finding in findings)
    for checks, mend in _MENDING:
        if not (forged and "balance" in checks):
            yield from _in_turns(db, [one for one in findings if one.derived and one.check in checks], mend)


def _in_turns(
    db: Database, findings: list[Finding], mend: Callable[[Tx, Finding], list[Repaired]]
) -> Iterator[Repaired]:
    """In transactions that are short, with pauses for who else has to write."""
    while findings:
        done: list[Repaired] = []
        with db.write() as tx:
            until = time.monotonic() + HELD_S
            while findings and time.monotonic() < until:
                done += mend(tx, findings.pop(0))
            for one in done:
                audit.record(
                    tx, "verify.repair", one.subject, before={one.check: one.before}, after={one.check: one.after}
                )
        yield from done
        if findings:
            time.sleep(PAUSE_S)


_PUT = f"""
INSERT INTO rollups ({", ".join((*ROLLUP_KEY, *ROLLUP_SUMS))})
VALUES ({", ".join("?" for _ in (*ROLLUP_KEY, *ROLLUP_SUMS))})
ON CONFLICT DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in ROLLUP_SUMS)}
"""
_DROP = f"DELETE FROM rollups WHERE {' AND '.join(f'{name} = ?' for name in ROLLUP_KEY)}"


def _rollup(tx: Tx, finding: Finding) -> list[Repaired]:
    key, span = finding.key[: len(ROLLUP_KEY)], finding.key[len(ROLLUP_KEY) :]
    stored, expected = derived.rollup(tx, key, *span)
    if stored == expected:
        return []
    if expected:
        tx.execute(_PUT, (*key, *(expected[name] for name in ROLLUP_SUMS)))
    else:
        tx.execute(_DROP, key)
    return [Repaired(finding.check, finding.subject, *derived.told(stored, expected))]


def _account(tx: Tx, finding: Finding) -> list[Repaired]:
    """One account's balance, or what it holds."""
    row = tx.one(f"{derived.ACCOUNTS} WHERE a.id = ?", *finding.key)
    column = f"{finding.check}_nano"
    if row is None or row[column] == row[f"{finding.check}_expected"]:
        return []
    stored, expected = row[column], row[f"{finding.check}_expected"]
    tx.execute(f"UPDATE accounts SET {column} = ? WHERE id = ?", (expected, row["id"]))
    return [Repaired(finding.check, finding.subject, dollars(stored), dollars(expected))]


def _expiry(tx: Tx, finding: Finding) -> list[Repaired]:
    """When credits of an account are to be looked at next."""
    tx.execute(
        "UPDATE accounts SET expires_next_ms = ? WHERE id = ?", (ledger.expires_next(tx, *finding.key), *finding.key)
    )
    return [Repaired(finding.check, finding.subject, finding.stored, finding.expected)]


def _counter(tx: Tx, finding: Finding) -> list[Repaired]:
    """A limit's counter that is gone begins anew by what the facts say: adding them up here might take long."""
    gone = tx.execute("DELETE FROM counters WHERE id = ?", finding.key).rowcount
    return [Repaired(finding.check, finding.subject, finding.stored, "begins anew")] if gone else []


_MENDING = (
    ({"rollups"}, _rollup),
    ({"balance", "held"}, _account),
    ({"expiry"}, _expiry),
    ({"limits", "limits used", "limits held"}, _counter),
)
"""Which checks, in which order, are put right how."""
