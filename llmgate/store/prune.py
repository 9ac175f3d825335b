"""Fold old usage rows into sums: the rows go, and nothing that anybody is told of money changes.

In one transaction, of one day and one account:
- what the rows come to, per whom and what, is written into `pruned`. From now on that is a fact. The roll-ups, which
  are the sums of both, stay as they are, so that reports and limits of whole days do;
- closing entries of −Σ charges are written, so that Σ entries − Σ charges of rows, the balance, stays as it is;
- the rows go, with their tags and attempts. Entries never do.

Invariants, and why they hold:
1. **A balance doesn't change**, nor what a report says of days: argued above, and `verify` recomputes both.
2. **Expiry doesn't change**, whatever happens afterwards. It replays entries in their order with the charges between
   them (`expiry`), where charges are only ever seen as sums over spans that begin and end at an entry or at the moment
   when credits expire. A closing entry counts as charges at a moment of theirs (`charged_ms`), and one is written for
   the charges between each two such moments: so each of these sums is what it was. A span that is new later can't end
   within these days: entries are dated later, and so are the expiries of what they grant.
3. **A limit doesn't change.** Windows of whole days count `pruned` as well, which knows all names of a model. Shorter
   ones are over: days of a month or week that still runs are kept, and those of requests in flight.
4. **Whenever it is killed** the books balance, because each transaction leaves them so, and a second run goes on.

It writes in short transactions with pauses, so that a busy daemon goes on meanwhile.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Iterator
from datetime import date, timedelta
from itertools import groupby
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from ..clock import day_of, day_start_ms
from ..errors import Refusal
from ..limits import Window, span
from . import audit, ledger, workers
from .db import Database, Tx, translated
from .limits import ZONES_MS
from .tally import ROLLUP_KEY, ROLLUP_SUMS

STEP = 5000
"""Rows that are folded at a time: a day of an account that has more is folded in several steps."""

HELD_S = 0.1
"""A transaction begins no more steps after so long."""

PAUSE_S = 0.05
"""Between two transactions, where somebody serves."""


class Sums(msgspec.Struct):
    """What is to go, or has gone."""

    requests: int = 0
    charge_nano: int = 0
    days: int = 0
    accounts: int = 0
    first: str | None = None
    """The first of the days."""
    last: str | None = None


def kept_from(tx: Tx) -> str:
    """The first day that rows can't be pruned of: it is in a month or a week that still runs, or was still running when
    a request that is in flight was sent.
    """
    oldest = tx.one("SELECT min(placed_ms) AS placed_ms, min(day) AS day FROM holds")
    assert oldest is not None
    moments = [tx.now_ms] if oldest["placed_ms"] is None else [tx.now_ms, oldest["placed_ms"]]
    begun = (span(window, ms, tx.zone).start_ms for window in (Window.WEEK, Window.MONTH) for ms in moments)
    return min(day_of(min(begun), tx.zone), *([oldest["day"]] if oldest["day"] is not None else ()), "9")


def too_recent(kept: str) -> Refusal:
    return Refusal(f"limits that still run may need the requests from {kept} on as they are: name a day up to {kept}")


def ahead(tx: Tx, before: str) -> Sums:
    """What would go. From the roll-ups: it doesn't read the rows."""
    return _summed(_days(tx, before))


def prune(db: Database, before: str) -> Iterator[Sums]:
    """Fold the rows of all days before one. Yields what has gone in all after each transaction.

    Raises Refusal for a day that is too recent and beside a worker of an older version, and StorageError; what has gone
    by then stays so.
    """
    with db.read() as tx:
        workers.check(tx, db.path)
        kept = kept_from(tx)
        if before > kept:
            raise Refusal(
                f"requests from {kept} on are needed as they are by limits that still run: name a day up to {kept}"
            )
        pairs = [(row["day"], row["account_id"]) for row in _days(tx, before)][::-1]
    gone, act = Sums(), None
    seen: set[int] = set()
    while pairs:
        with db.write() as tx:
            workers.check(tx, db.path)
            until = time.monotonic() + HELD_S
            while True:
                day, account_id = pairs[-1]
                requests, charge = _fold(tx, day, account_id)
                if requests < STEP:
                    pairs.pop()
                if requests:
                    seen.add(account_id)
                    gone = _more(gone, day, requests, charge, len(seen))
                if not pairs or time.monotonic() >= until:
                    break
            if gone.requests:
                act = _told(tx, act, before, gone)
        yield gone
        db.shorten_log()
        if pairs and workers.living(db.path):
            time.sleep(PAUSE_S)


def _more(gone: Sums, day: str, requests: int, charge: int, accounts: int) -> Sums:
    return Sums(
        requests=gone.requests + requests,
        charge_nano=gone.charge_nano + charge,
        days=gone.days + (day != gone.last),
        accounts=accounts,
        first=gone.first or day,
        last=day,
    )


def _told(tx: Tx, act: int | None, before: str, gone: Sums) -> int:
    """One act in the audit, which says at any moment what has gone."""
    after = {"requests": gone.requests, "charge_nano": gone.charge_nano, "first": gone.first, "last": gone.last}
    if act is None:
        return audit.record(tx, "db.prune", before, after=after)
    audit.amend(tx, act, after)
    return act


def _days(tx: Tx, before: str) -> list[Any]:
    """Days and accounts of which there are rows, the oldest first, with what these come to."""
    return tx.execute(
        """
        SELECT day, account_id, sum(requests) AS requests, sum(charge_nano) AS charge_nano FROM (
          SELECT day, account_id, requests, charge_nano FROM rollups WHERE day < :before
          UNION ALL
          SELECT day, account_id, -requests, -charge_nano FROM pruned WHERE day < :before
        ) GROUP BY day, account_id HAVING sum(requests) > 0 ORDER BY day, account_id
        """,
        {"before": before},
    ).fetchall()


def _summed(rows: list[Any]) -> Sums:
    days = sorted({row["day"] for row in rows})
    return Sums(
        requests=sum(row["requests"] for row in rows),
        charge_nano=sum(row["charge_nano"] for row in rows),
        days=len(days),
        accounts=len({row["account_id"] for row in rows}),
        first=days[0] if days else None,
        last=days[-1] if days else None,
    )


# ── one step ──────────────────────────────────────────────────────────────────────────────────────────────────────────

_ROWS = """
SELECT id, time_ms, charge_nano FROM usage
WHERE account_id = ? AND day = ? AND time_ms BETWEEN ? AND ? ORDER BY time_ms, id LIMIT ?
"""

_OF_USAGE = {"team_id": "coalesce(team_id, 0)", "plan": "coalesce(plan, '')"}
_SUMS_OF_USAGE = {"requests": "count(*)", "errors": "sum(status = 'error')"}
_NAMED = (*ROLLUP_KEY, "upstream_model", "names")
_GOING = "IN (SELECT value FROM json_each(?))"

_FOLD = f"""
INSERT INTO pruned ({", ".join((*_NAMED, *ROLLUP_SUMS))})
SELECT {", ".join(_OF_USAGE.get(name, name) for name in _NAMED)},
       {", ".join(_SUMS_OF_USAGE.get(name, f"sum({name})") for name in ROLLUP_SUMS)}
FROM usage WHERE id {_GOING} GROUP BY {", ".join(str(number + 1) for number in range(len(_NAMED)))}
"""


def _fold(tx: Tx, day: str, account_id: int) -> tuple[int, int]:
    """Fold up to `STEP` rows of a day and an account. Returns how many there were, and what they were charged."""
    rows = tx.execute(_ROWS, (account_id, day, *around(day), STEP)).fetchall()
    if not rows:
        return 0, 0
    going = msgspec.json.encode([row["id"] for row in rows]).decode()
    tx.execute(_FOLD, (going,))
    charge = _close(tx, day, account_id, rows)
    tx.execute("INSERT INTO meta (key, value) VALUES ('withdrawing', '1')")  # rows are not deleted by mistake
    tx.execute(f"DELETE FROM usage_tags WHERE usage_id {_GOING}", (going,))
    tx.execute(f"DELETE FROM attempts WHERE usage_id {_GOING}", (going,))
    tx.execute(f"DELETE FROM usage WHERE id {_GOING}", (going,))
    tx.execute("DELETE FROM meta WHERE key = 'withdrawing'")
    return len(rows), charge


def _close(tx: Tx, day: str, account_id: int, rows: list[Any]) -> int:
    """Write the closing entries of some rows, which come by their time. Returns what they were charged.

    The entry takes the amount from the balance, where the rows had taken it already: it is given back.
    """
    moments = _moments(tx, account_id, rows[0]["time_ms"], rows[-1]["time_ms"])
    total = 0
    for _, between in groupby(rows, key=lambda row: bisect_right(moments, row["time_ms"])):
        some = list(between)
        nano = sum(row["charge_nano"] for row in some)
        if nano:
            note = f"{len(some)} request{'' if len(some) == 1 else 's'} of {day}, pruned"
            ledger.append(tx, account_id, "closing", -nano, note=note, charged_ms=some[0]["time_ms"])
            total += nano
    tx.execute("UPDATE accounts SET balance_nano = balance_nano + ? WHERE id = ?", (total, account_id))
    return total


def _moments(tx: Tx, account_id: int, first_ms: int, last_ms: int) -> list[int]:
    """Where spans of charges that expiry or a history looks at may begin or end: a charge of that very millisecond
    belongs to the span that begins there.

    A clock that was set back doesn't change the order of entries: each counts at the latest moment so far.
    """
    found = tx.execute(
        """
        WITH own AS (
          SELECT created_ms, expires_ms, max(created_ms) OVER (ORDER BY id) AS counted_ms FROM entries
          WHERE account_id = :account_id AND kind <> 'closing'
        )
        SELECT at_ms FROM (
          SELECT created_ms AS at_ms FROM own UNION SELECT counted_ms FROM own UNION SELECT expires_ms FROM own
        ) WHERE at_ms BETWEEN :first_ms AND :last_ms ORDER BY at_ms
        """,
        {"account_id": account_id, "first_ms": first_ms, "last_ms": last_ms},
    )
    return [row[0] for row in found]


def around(day: str) -> tuple[int, int]:
    """Rows of a day lie in between, whatever zone it was booked in."""
    first = date.fromisoformat(day)
    utc = ZoneInfo("UTC")
    return day_start_ms(first, utc) - ZONES_MS, day_start_ms(first + timedelta(days=1), utc) + ZONES_MS


# ── the room that rows leave ──────────────────────────────────────────────────────────────────────────────────────────


def shrink(db: Database) -> None:
    """Write the file anew without its free pages. Nobody else can write meanwhile, and it needs as much room again.
    Raises StorageError.
    """
    with translated(db.path):
        db.conn.execute("VACUUM")
        db.conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
