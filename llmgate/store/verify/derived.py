"""What follows from the rows: roll-ups, balances, what is held, how far limits are used up."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from ...clock import day_start_ms, rfc3339
from ...money import dollars
from ...types import Billing
from .. import ledger, limits
from ..db import Database, Row, Tx
from ..tally import ROLLUP_KEY, ROLLUP_SUMS
from .finding import Counts, Finding, view

Key = tuple[str | int, ...]
"""Of a roll-up: the values of `ROLLUP_KEY`."""

PAGE = 200
"""Roll-ups or counters that are named at a time."""

RANGE = 100_000
"""Usage rows that SQL adds up in one transaction."""

_KEY, _SUMS = ", ".join(ROLLUP_KEY), ", ".join(ROLLUP_SUMS)
_ALL = f"{_KEY}, {_SUMS}"
_OF_USAGE = {"team_id": "coalesce(team_id, 0)", "plan": "coalesce(plan, '')"}
_KEY_OF_USAGE = ", ".join(_OF_USAGE.get(name, name) for name in ROLLUP_KEY)
_SUM_OF_USAGE = {"requests": "count(*)", "errors": "coalesce(sum(status = 'error'), 0)"}
_SUMS_OF_USAGE = ", ".join(_SUM_OF_USAGE.get(name, f"coalesce(sum({name}), 0)") for name in ROLLUP_SUMS)


def _equal(one: str, other: str, names: tuple[str, ...]) -> str:
    return " AND ".join(f"{one}.{name} = {other}.{name}" for name in names)


# ── the rows added up, as they went by ────────────────────────────────────────────────────────────────────────────────


def begin(db: Database) -> None:
    """To be called before the first row is read."""
    with view(db) as tx:
        tx.execute(f"CREATE TEMP TABLE noted AS SELECT {_ALL} FROM rollups")
        tx.execute(f"CREATE UNIQUE INDEX temp.noted_by_key ON noted ({_KEY})")
        typed = ", ".join((*ROLLUP_KEY, *(f"{name} INTEGER" for name in ROLLUP_SUMS)))
        tx.execute(
            f"CREATE TEMP TABLE added ({typed}, first_ms INTEGER, last_ms INTEGER, PRIMARY KEY ({_KEY})) WITHOUT ROWID"
        )
        tx.execute(f"CREATE TEMP TABLE excess ({typed}, PRIMARY KEY ({_KEY})) WITHOUT ROWID")
        tx.execute(f"CREATE TEMP TABLE suspects (number INTEGER PRIMARY KEY, {_KEY}, first_ms, last_ms)")


_ADD_UP = f"""
INSERT INTO temp.added ({_ALL}, first_ms, last_ms)
SELECT {_KEY_OF_USAGE}, {_SUMS_OF_USAGE}, min(time_ms), max(time_ms) FROM usage WHERE id > ? AND id <= ?
GROUP BY {", ".join(str(number + 1) for number in range(len(ROLLUP_KEY)))}
ON CONFLICT DO UPDATE SET {", ".join(f"{name} = {name} + excluded.{name}" for name in ROLLUP_SUMS)},
  first_ms = min(first_ms, excluded.first_ms), last_ms = max(last_ms, excluded.last_ms)
"""
_ADD_PRUNED = f"""
INSERT INTO temp.added ({_ALL})
SELECT {_KEY}, {", ".join(f"sum({name})" for name in ROLLUP_SUMS)} FROM pruned GROUP BY {_KEY}
ON CONFLICT DO UPDATE SET {", ".join(f"{name} = {name} + excluded.{name}" for name in ROLLUP_SUMS)}
"""
"""To be run after the last row was added: from then on the moments of rows don't matter."""


def add_up(tx: Tx, last: int, upto: int) -> int:
    """Add the rows of a range of ids to the sums. Returns how many there are."""
    tx.execute(_ADD_UP, (last, upto))
    number: int = tx.value("SELECT count(*) FROM usage WHERE id > ? AND id <= ?", last, upto)
    return number


def check(db: Database, counts: Counts) -> Iterator[Finding]:
    """To be called after the last row was read."""
    yield from _rollups(db, counts)
    with view(db) as tx:
        tx.execute(_ROLLUPS_PUT_RIGHT)
    yield from _accounts(db, counts)
    yield from _counters(db, counts)


# ── roll-ups ──────────────────────────────────────────────────────────────────────────────────────────────────────────

_SUSPECTS = f"""
INSERT INTO temp.suspects ({_KEY}, first_ms, last_ms)
SELECT {", ".join(f"r.{name}" for name in ROLLUP_KEY)}, a.first_ms, a.last_ms
FROM rollups r
LEFT JOIN temp.added a ON {_equal("a", "r", ROLLUP_KEY)}
LEFT JOIN temp.noted n ON {_equal("n", "r", ROLLUP_KEY)}
WHERE NOT coalesce({_equal("a", "r", ROLLUP_SUMS)} AND {_equal("n", "r", ROLLUP_SUMS)}, 0)
UNION ALL
SELECT {", ".join(f"a.{name}" for name in ROLLUP_KEY)}, a.first_ms, a.last_ms
FROM temp.added a
WHERE NOT EXISTS (SELECT 1 FROM rollups r WHERE {_equal("r", "a", ROLLUP_KEY)})
ORDER BY {", ".join(str(number + 1) for number in range(len(ROLLUP_KEY)))}
"""

_NOTE_EXCESS = f"""
INSERT INTO temp.excess ({_ALL}) VALUES ({", ".join("?" for _ in (*ROLLUP_KEY, *ROLLUP_SUMS))})
"""


def _rollups(db: Database, counts: Counts) -> Iterator[Finding]:
    """Roll-ups are the sums of the usage rows of their day, and of those that were pruned."""
    with view(db) as tx:
        counts.rollups = tx.value("SELECT count(*) FROM rollups")
        tx.execute(_ADD_PRUNED)
        tx.execute(_SUSPECTS)
    for row in _pages(db, "SELECT * FROM temp.suspects WHERE number > ? ORDER BY number LIMIT ?"):
        key = tuple(row[name] for name in ROLLUP_KEY)
        with view(db) as tx:
            stored, expected = rollup(tx, key, row["first_ms"], row["last_ms"])
            if stored == expected:
                continue
            tx.execute(_NOTE_EXCESS, (*key, *(stored.get(x, 0) - expected.get(x, 0) for x in ROLLUP_SUMS)))
        subject = " ".join(str(part) for part in key if part not in ("", 0))
        was, due = told(stored, expected)
        where = (*key, row["first_ms"], row["last_ms"])
        yield Finding("rollups", subject, was, due, derived=True, key=where)


def _pages(db: Database, sql: str) -> Iterator[Row]:
    """Rows by their number, page by page, so that nothing is left open in between."""
    last = 0
    while True:
        with db.read() as tx:
            rows = tx.execute(sql, (last, PAGE)).fetchall()
        yield from rows
        if len(rows) < PAGE:
            return
        last = rows[-1]["number"]


def rollup(
    tx: Tx, key: Key, first_ms: int | None = None, last_ms: int | None = None
) -> tuple[dict[str, int], dict[str, int]]:
    """What is stored of a roll-up, and what its rows come to, with those that were pruned; each empty if there is none.

    Its rows are found by their user and time. They lie within a day of its day, whatever zone it was booked in; rows
    whose time was tampered with were seen between `first_ms` and `last_ms`.
    """
    named = dict(zip(ROLLUP_KEY, key, strict=True))
    where = " AND ".join(f"{name} = :{name}" for name in ROLLUP_KEY)
    there = tx.execute(f"SELECT {_SUMS} FROM rollups WHERE {where}", named).fetchone()
    stored = {name: there[name] for name in ROLLUP_SUMS} if there is not None else {}
    earliest_ms, latest_ms = _around(str(named["day"]))
    of_usage = " AND ".join(f"+{_OF_USAGE.get(name, name)} = :{name}" for name in ROLLUP_KEY if name != "user_id")
    sums = tx.execute(
        f"SELECT {_SUMS_OF_USAGE} FROM usage WHERE user_id = :user_id AND time_ms BETWEEN :first_ms AND :last_ms "
        f"AND {of_usage}",
        {
            **named,
            "first_ms": earliest_ms if first_ms is None else min(first_ms, earliest_ms),
            "last_ms": latest_ms if last_ms is None else max(last_ms, latest_ms),
        },
    ).fetchone()
    pruned = tx.execute(
        f"SELECT {', '.join(f'coalesce(sum({name}), 0)' for name in ROLLUP_SUMS)} FROM pruned WHERE {where}", named
    ).fetchone()
    expected = {name: sums[number] + pruned[number] for number, name in enumerate(ROLLUP_SUMS)}
    return stored, expected if expected["requests"] else {}


def _around(day: str) -> tuple[int, int]:
    """From the day before until the day after, in milliseconds; for a text that is no day: for ever."""
    try:
        found = date.fromisoformat(day)
        first, after = found - timedelta(days=1), found + timedelta(days=2)
    except (ValueError, OverflowError):
        return -(2**62), 2**62
    return day_start_ms(first, ZoneInfo("UTC")), day_start_ms(after, ZoneInfo("UTC"))


def told(stored: dict[str, int], expected: dict[str, int]) -> tuple[str, str]:
    """Those of a roll-up's sums that differ; of a whole one that is too many or missing, those that aren't 0."""
    names = [name for name in ROLLUP_SUMS if stored.get(name) != expected.get(name)]
    whole = not (stored and expected)
    one, other = (
        ", ".join(f"{name} {row[name]}" for name in names if row and (row[name] or not whole)) or "-"
        for row in (stored, expected)
    )
    return one, other


_ROLLUPS_PUT_RIGHT = f"""
CREATE TEMP VIEW rollups AS
SELECT {_ALL} FROM main.rollups
UNION ALL
SELECT {_KEY}, {", ".join(f"-{name}" for name in ROLLUP_SUMS)} FROM temp.excess
"""
"""From then on, on this connection, `rollups` means what they should say: what is worked out from them is right even
where they aren't.
"""


# ── balances ──────────────────────────────────────────────────────────────────────────────────────────────────────────

ACCOUNTS = """
SELECT a.id, a.kind || ' ' || coalesce(u.name, t.name, '?') AS name, a.billing, a.billing_source,
       coalesce(u.name, t.name) AS target, a.balance_nano, a.held_nano,
       coalesce((SELECT sum(amount_nano) FROM entries e WHERE e.account_id = a.id), 0)
       - coalesce(c.charges_nano, 0) + coalesce(p.charges_nano, 0) AS balance_expected,
       coalesce((SELECT sum(amount_nano) FROM holds h WHERE h.account_id = a.id), 0) AS held_expected
FROM accounts a
LEFT JOIN users u ON u.account_id = a.id
LEFT JOIN teams t ON t.account_id = a.id
LEFT JOIN (SELECT account_id, sum(charge_nano) AS charges_nano FROM rollups GROUP BY account_id) c
       ON c.account_id = a.id
LEFT JOIN (SELECT account_id, sum(charge_nano) AS charges_nano FROM pruned GROUP BY account_id) p
       ON p.account_id = a.id
"""
"""Every account with what it says and what it should: balances are entries less charges (those of pruned requests,
which the roll-ups have as well, are in closing entries), what is held is what the holds say. Right as far as the
roll-ups are.
"""

CLOSINGS = """
SELECT a.id, a.kind || ' ' || coalesce(u.name, t.name, '?') AS name, p.charges_nano,
       coalesce((SELECT -sum(amount_nano) FROM entries e WHERE e.account_id = a.id AND charged_ms IS NOT NULL), 0)
       AS closed_nano
FROM accounts a
LEFT JOIN users u ON u.account_id = a.id
LEFT JOIN teams t ON t.account_id = a.id
LEFT JOIN (SELECT account_id, sum(charge_nano) AS charges_nano FROM pruned GROUP BY account_id) p
       ON p.account_id = a.id
WHERE closed_nano <> coalesce(p.charges_nano, 0) ORDER BY a.id
"""
"""Accounts whose closing entries aren't what the pruned requests were charged. Both are facts."""


def _accounts(db: Database, counts: Counts) -> Iterator[Finding]:
    found, negative = [], []
    with db.read() as tx:
        for row in tx.execute(CLOSINGS):
            figures = dollars(row["closed_nano"]), dollars(row["charges_nano"] or 0)
            found.append(Finding("closings", row["name"], *figures, derived=False))
        for row in tx.execute(f"{ACCOUNTS} ORDER BY a.id"):
            counts.accounts += 1
            for what in ("balance", "held"):
                stored, expected = row[f"{what}_nano"], row[f"{what}_expected"]
                if stored != expected:
                    figures = dollars(stored), dollars(expected)
                    found.append(Finding(what, row["name"], *figures, derived=True, key=(row["id"],)))
            if row["billing"] == Billing.PREPAID and row["balance_expected"] < 0:
                negative.append(row)
    yield from found
    if negative:
        yield from _negative(db, negative)
    yield from _expiries(db)


_EXPIRING = """
SELECT id, expires_next_ms FROM accounts a
WHERE EXISTS (SELECT 1 FROM entries e WHERE e.account_id = a.id AND e.expires_ms IS NOT NULL)
"""


def _expiries(db: Database) -> Iterator[Finding]:
    """Credits that expire are looked at in time. A moment that is too early only means one look too many."""
    with db.read() as tx:
        accounts = tx.execute(_EXPIRING).fetchall()
    for account in accounts:
        with db.read() as tx:
            row = tx.one(f"{ACCOUNTS} WHERE a.id = ?", account["id"])
            stored = tx.value("SELECT expires_next_ms FROM accounts WHERE id = ?", account["id"])
            expected = ledger.expires_next(tx, account["id"])
        if row is not None and expected is not None and (stored is None or stored > expected + ledger.LOOK_AGAIN_MS):
            shown = "-" if stored is None else rfc3339(stored)
            yield Finding("expiry", row["name"], shown, rfc3339(expected), derived=True, key=(account["id"],))


def _negative(db: Database, accounts: list[Row]) -> Iterator[Finding]:
    """A prepaid balance that is below zero by more than anything explains.

    A request takes at most what is available, and is charged at most what it took. Below zero leads only what needs no
    room, each by at most its own amount: a charge above its hold (an overrun), a request that was placed while its
    account was metered, one that was given up for dead and settled after all when its room was let again, and entries
    that take without asking. Rows that explain a balance were written before it was read: they can be added up after.
    """
    with db.read() as tx:
        since_ms = {row["id"]: _prepaid_since(tx, row) for row in accounts}
    explained = dict.fromkeys(since_ms, 0)
    for number, nano in _beyond_holds(db, since_ms):
        explained[number] += nano
    with db.read() as tx:  # after the rows: those that are pruned meanwhile are in a closing entry by then
        for number in explained:
            explained[number] += tx.value(_UNASKED, number)
    for row in accounts:
        if -row["balance_expected"] > explained[row["id"]]:
            least = dollars(-explained[row["id"]])
            yield Finding("negative", row["name"], dollars(row["balance_expected"]), f"{least} or more", derived=False)


_UNASKED = """
SELECT coalesce(-sum(amount_nano), 0) FROM entries e
WHERE account_id = ? AND amount_nano < 0 AND (
  kind IN ('reverse', 'closing')
  OR e.created_ms <= (SELECT max(time_ms) FROM audit WHERE action = 'import')
  OR EXISTS (
    SELECT 1 FROM audit
    WHERE action IN ('credits.take', 'credits.transfer')
      AND e.id = coalesce(json_extract(after, '$.entry'), json_extract(after, '$.entries[0]'))
      AND json_extract(after, '$.force')
  )
)
"""


def _prepaid_since(tx: Tx, account: Row) -> int:
    """When an account last became prepaid: by its first credits, by an admin or a plan, or when it was made.

    What came from another box came without the audit that would explain it: all of it is taken as explained.
    """
    credited = tx.value(
        "SELECT min(created_ms) FROM entries WHERE account_id = ? AND amount_nano > 0 "
        "AND kind IN ('add', 'payment', 'transfer')",
        account["id"],
    )
    said = tx.value(
        "SELECT max(time_ms) FROM audit WHERE target = ? "
        "AND action IN ('users.set', 'teams.set') AND json_extract(after, '$.billing') = 'prepaid'",
        account["target"],
    )
    imported = tx.value("SELECT max(time_ms) FROM audit WHERE action = 'import'")
    return max(credited or 0 if account["billing_source"] == "credits" else 0, said or 0, imported or 0)


def _beyond_holds(db: Database, since_ms: dict[int, int]) -> Iterator[tuple[int, int]]:
    """Of some accounts, what each range of rows was charged without room, or above it."""
    with view(db) as tx:
        tx.execute("CREATE TEMP TABLE below (account_id INTEGER PRIMARY KEY, since_ms INTEGER)")
        tx.conn.executemany("INSERT INTO temp.below VALUES (?, ?)", since_ms.items())
    last: int | None = 0
    while last is not None:
        with db.read() as tx:
            upto = tx.value("SELECT max(id) FROM (SELECT id FROM usage WHERE id > ? ORDER BY id LIMIT ?)", last, RANGE)
            found: list[Any] = tx.execute(_BEYOND, (last, upto)).fetchall() if upto is not None else []
        yield from ((row[0], row[1]) for row in found)
        last = upto


_BEYOND = """
SELECT g.account_id, sum(CASE
  WHEN NOT g.bounded OR g.time_ms <= b.since_ms OR EXISTS (
    SELECT 1 FROM events WHERE kind = 'corrected' AND about GLOB 'usage ' || g.id || ':*'
      AND subject_kind = 'user' AND subject_id = CAST(g.user_id AS TEXT)
  ) THEN g.charge_nano
  ELSE max(g.charge_nano - g.hold_nano, 0) END)
FROM usage g JOIN temp.below b ON b.account_id = g.account_id
WHERE g.id > ? AND g.id <= ? GROUP BY g.account_id
"""


# ── limits ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _counters(db: Database, counts: Counts) -> Iterator[Finding]:
    """A limit's counter is the sum of the usage rows, and of the holds, that were placed in its window."""
    for known in _pages(db, "SELECT id AS number FROM counters WHERE id > ? ORDER BY id LIMIT ?"):
        with db.read() as tx:
            row = tx.one("SELECT * FROM counters WHERE id = ?", known["number"])
            if row is None:
                continue  # its limit was taken off meanwhile
            counts.counters += 1
            found = list(_counter(tx, row))
        yield from found


def _counter(tx: Tx, row: Row) -> Iterator[Finding]:
    subject = f"{row['subject_kind']} {row['subject_id']} "
    try:
        limit = limits.limit_of(row)
        due = limits.expected(tx, row)
    except (ValueError, KeyError, msgspec.DecodeError) as error:  # of the counter itself, or of a row that it counts
        yield Finding(
            "limits",
            f"{subject}{row['unit']}/{row['window']}",
            "unreadable",
            str(error),
            derived=True,
            key=(row["id"],),
        )
        return
    for what, expected in zip(("used", "held"), due, strict=True):
        if row[what] != expected:
            figures = str(row[what]), str(expected)
            yield Finding(f"limits {what}", f"{subject}{limit}", *figures, derived=True, key=(row["id"],))
