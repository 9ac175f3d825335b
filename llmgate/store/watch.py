"""What happens now: what a live screen reads. Many short looks, in which nothing is written.

Between two looks nothing is held open, so that who looks for hours never keeps the write-ahead log from being
shortened, and never makes a daemon wait.
"""

from __future__ import annotations

from typing import NamedTuple

from ..plans import Policy
from ..types import METERS, Meters, Status
from . import limits, usage, workers
from .db import Database, Row, Tx

PAGE = 1000
"""Usage rows that are read in one transaction."""

LONGEST_MS = 3_600_000
"""How long a request may have run to be seen by the first look, if it had ended by then. Later looks see every end."""

MOST_NEAR = 50
"""How many limits near their end are looked at, the nearest first."""

NEAR_PERCENT = 80
"""From where on a limit is near its end, where the config names no threshold."""


class Ended(NamedTuple):
    """A request that has ended."""

    ended_ms: int
    user: str
    model: str
    upstream: str
    failed: bool
    http_status: int | None
    tokens: int
    cost_nano: int
    charge_nano: int
    first_byte_ms: int | None
    """From its arrival to the first byte of the answer; None: it got none."""


class Wasted(NamedTuple):
    """What an upstream billed for a try of a request that has ended, and that brought nothing."""

    ended_ms: int
    upstream: str
    cost_nano: int


class Flight(NamedTuple):
    """A request in flight."""

    request_id: str
    user: str
    key: str
    model: str
    upstream: str
    """That it was first sent to."""
    streamed: bool
    hold_nano: int
    placed_ms: int
    stranded: bool
    """Its process died: it is going to be booked as interrupted."""


class Daemon(NamedTuple):
    """A process that serves."""

    pid: int
    host: str
    started_ms: int


class Look(NamedTuple):
    """What was seen at a moment."""

    now_ms: int
    ended: list[Ended]
    """Since the look before."""
    wasted: list[Wasted]
    in_flight: list[Flight]
    """The oldest first."""
    daemons: list[Daemon]
    near: list[limits.Listed]
    """Limits near their end, the nearest first."""


class Watch:
    """Looks at one database, again and again. It takes the connection over: from now on nothing is written by it."""

    def __init__(self, db: Database, policy: Policy, back_ms: int) -> None:
        """`back_ms`: how far the first look goes back."""
        self._db = db
        self._policy = policy
        db.only_read()
        with db.read() as tx:
            self._seen_ms = tx.now_ms - back_ms
            self._seen = usage.mark_before(tx, self._seen_ms - LONGEST_MS)
        self._filters = {"ended_from_ms": self._seen_ms}

    def look(self) -> Look:
        with self._db.read() as tx:
            now_ms, mark = tx.now_ms, usage.mark(tx)
            daemons = workers.serving(tx, self._db.path)
            in_flight = _in_flight(tx, {row["id"] for row in daemons})
            near = limits.near(tx, self._policy, min(self._policy.alert_at, default=NEAR_PERCENT), MOST_NEAR)
        rows = list(usage.between(self._db, self._filters, self._seen, mark, PAGE))
        ended_ms = {row["id"]: _ended_ms(row, self._seen_ms, now_ms) for row in rows}
        with self._db.read() as tx:
            tries = usage.attempts(tx, [row["id"] for row in rows if row["wasted_nano"]])
        # Every end from now on is seen by its mark: what was booked late, as of a dead process, has ended now.
        self._seen, self._seen_ms, self._filters = mark, now_ms, {}
        return Look(
            now_ms=now_ms,
            ended=[_ended(row, ended_ms[row["id"]]) for row in rows],
            wasted=[Wasted(ended_ms[row["usage_id"]], row["upstream"], row["cost_nano"]) for row in tries],
            in_flight=in_flight,
            daemons=[Daemon(row["pid"], row["host"], row["started_ms"]) for row in daemons],
            near=near,
        )


def _in_flight(tx: Tx, serving: set[str]) -> list[Flight]:
    return [
        Flight(
            request_id=row["request_id"],
            user=row["user"],
            key=f"{row['user']}/{row['key']}",
            model=row["model"],
            upstream=row["upstream"],
            streamed=bool(row["streamed"]),
            hold_nano=row["amount_nano"],
            placed_ms=row["placed_ms"],
            stranded=row["worker_id"] not in serving,
        )
        for row in tx.execute(
            "SELECT h.*, u.name AS user, k.name AS key FROM holds h JOIN users u ON u.id = h.user_id "
            "JOIN keys k ON k.id = h.key_id ORDER BY h.placed_ms, h.id"
        )
    ]


def _ended_ms(row: Row, seen_ms: int, now_ms: int) -> int:
    """When a request ended that is seen by a look at `now_ms`, and wasn't by the one before."""
    ended_ms: int = row["time_ms"] + row["duration_ms"]
    return min(max(ended_ms, seen_ms), now_ms)


def _ended(row: Row, ended_ms: int) -> Ended:
    meters = Meters(*(row[name] for name in METERS))
    return Ended(
        ended_ms=ended_ms,
        user=row["user"],
        model=row["model"],
        upstream=row["upstream"],
        failed=row["status"] == Status.ERROR,
        http_status=row["http_status"],
        tokens=meters.input_tokens + meters.output_tokens,
        cost_nano=row["cost_nano"],
        charge_nano=row["charge_nano"],
        first_byte_ms=row["ttft_ms"],
    )
