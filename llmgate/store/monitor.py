"""What is going on: sums for whoever watches - a user its own use, an admin everybody's, Prometheus the whole house."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import msgspec

from ..clock import day_of, local_day
from ..types import METERS
from . import reports, usage
from .db import Row, Tx

LATELY_MS = 5 * 60_000
"""What `lately` looks back: long enough for a picture, short enough to be cheap."""

MOST_LATELY = 10_000
"""Requests that `lately` looks at."""


class Days(msgspec.Struct, frozen=True):
    """The first day of each period that ends now, as roll-ups name them."""

    today: str
    week: str
    """Its Monday."""
    month: str


def days(tx: Tx) -> Days:
    today = local_day(tx.now_ms, tx.zone)
    monday: date = today - timedelta(days=today.weekday())
    return Days(today.isoformat(), monday.isoformat(), today.replace(day=1).isoformat())


def charged(tx: Tx, filters: dict[str, Any]) -> int:
    """What requests that pass were charged."""
    nano: int = reports.report(tx, (), filters)[0]["charge_nano"]
    return nano


def last(tx: Tx, filters: dict[str, Any]) -> Row | None:
    """The latest request that passes."""
    return next(usage.rows(tx, filters, newest=1), None)


def in_flight(tx: Tx) -> Row:
    """`requests` that are being served, by all workers, and what they hold (`held_nano`)."""
    row = tx.one("SELECT count(*) AS requests, coalesce(sum(amount_nano), 0) AS held_nano FROM holds")
    assert row is not None
    return row


def users(tx: Tx) -> Row:
    """How many users there are in all, and how many have sent a request today."""
    row = tx.one(
        "SELECT (SELECT count(*) FROM users) AS total, "
        "(SELECT count(DISTINCT user_id) FROM rollups WHERE day = ?) AS active",
        day_of(tx.now_ms, tx.zone),
    )
    assert row is not None
    return row


def totals(tx: Tx) -> list[Row]:
    """The sums of all roll-ups per model and upstream: they only grow."""
    sums = ", ".join(f"sum({name}) AS {name}" for name in (*METERS, "cost_nano", "charge_nano", "wasted_nano"))
    return tx.execute(
        f"SELECT model, upstream, sum(requests) AS requests, sum(errors) AS errors, {sums} FROM rollups "
        "GROUP BY model, upstream ORDER BY model, upstream"
    ).fetchall()


def lately(tx: Tx) -> list[Row]:
    """The requests of the last minutes, newest first: where they went, how they ended, how long they took."""
    return tx.execute(
        "SELECT upstream, status, duration_ms, ttft_ms, time_ms FROM usage WHERE time_ms >= ? "
        "ORDER BY time_ms DESC LIMIT ?",
        (tx.now_ms - LATELY_MS, MOST_LATELY),
    ).fetchall()
