"""What was used over some days and what it cost: by user, by model, by team, and on each day. All of it is read at
once, from the daily roll-ups, so that whatever is told of a period adds up to the same.

Cost is what upstreams bill, charge is what accounts pay; the margin is what is left of the charge when all that
upstreams billed is paid, tries in vain too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import date, timedelta
from functools import reduce
from operator import add
from typing import NamedTuple

import msgspec

from .. import clock
from ..errors import Refusal
from ..names import quoted
from ..store import reports
from ..store.db import Tx

DAYS = 30
"""How many days are shown where nobody says, today among them."""

LONGEST = 366
"""Days that one report has at most."""

TOP = 8
TOPS = (5, TOP, 12, 20)
"""How many groups may be told apart; the rest of them is summed up."""

GROUPINGS = ("user", "model", "team")
"""What each day's use is stacked by."""

_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


class Sums(NamedTuple):
    """What some requests come to; money in nano-USD."""

    requests: int = 0
    tokens: int = 0
    cost: int = 0
    charge: int = 0
    wasted: int = 0

    @property
    def margin(self) -> int:
        return self.charge - self.cost - self.wasted

    def plus(self, other: Sums) -> Sums:
        return Sums(*map(add, self, other))


NOTHING = Sums()


def added(rows: Iterable[Sums]) -> Sums:
    return reduce(Sums.plus, rows, NOTHING)


class Measure(NamedTuple):
    """A figure that can be drawn."""

    name: str
    money: bool
    """Whether it is nano-USD."""
    of: Callable[[Sums], int]


MEASURES = {
    one.name: one
    for one in (
        Measure("cost", True, lambda sums: sums.cost),
        Measure("charge", True, lambda sums: sums.charge),
        Measure("tokens", False, lambda sums: sums.tokens),
        Measure("requests", False, lambda sums: sums.requests),
    )
}
"""The first is drawn where nobody says. Where models are free, tokens still tell who uses what."""

MARGIN = Measure("margin", True, lambda sums: sums.margin)
WASTED = Measure("wasted", True, lambda sums: sums.wasted)
"""What tables tell as well."""


class Group(NamedTuple):
    """A user, team or model; or all others of them."""

    name: str | None
    """None: the others. Empty: no team."""
    others: int = 0
    """How many it sums up, if it is the others."""

    @property
    def label(self) -> str:
        return f"others ({self.others:,})" if self.name is None else self.name or "(none)"


class Asked(NamedTuple):
    """What a report is to be of."""

    start: date
    end: date
    measure: Measure
    top: int

    @property
    def days(self) -> int:
        return (self.end - self.start).days + 1

    @property
    def span(self) -> dict[str, str]:
        """As the store filters by it."""
        return {"since": self.start.isoformat(), "until": self.end.isoformat()}


class Report(NamedTuple):
    asked: Asked
    zone: str
    total: Sums
    users: list[tuple[Group, Sums]]
    days: list[tuple[str, Sums]]
    """All of them, also those without use."""
    stacks: dict[str, list[tuple[Group, list[Sums]]]]
    """Grouping → what each of its groups used on each of the days."""


# ── what is asked for ─────────────────────────────────────────────────────────────────────────────────────────────────


class Query(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """As texts: what is wrong with them is told in the page."""

    start: str | None = None
    end: str | None = None
    measure: str | None = None
    top: str | None = None


def asked(tx: Tx, query: Query) -> Asked:
    """What a report is to be of. Raises Refusal."""
    today = clock.local_day(tx.now_ms, tx.zone)
    end = _day("end", query.end) if query.end is not None else today
    start = date.fromordinal(max(1, end.toordinal() - DAYS + 1))
    if query.start is not None:
        start = _day("start", query.start)
    for name, day in (("end", end), ("start", start)):
        if day > today:
            raise Refusal(f"{day} is still to come: today is {today} in {tx.zone.key}", param=name)
    if end < start:
        raise Refusal(f"the end {end} is before the start {start}", param="end")
    days = (end - start).days + 1
    if days > LONGEST:
        raise Refusal(
            f"{start} to {end} is {days:,} days, and a report has at most {LONGEST}: choose fewer, or run "
            "`llmgate report --by month`",
            param="start",
        )
    measure = query.measure or next(iter(MEASURES))
    if measure not in MEASURES:
        raise Refusal(f"there is no measure {quoted(measure[:40])}: use {', '.join(MEASURES)}", param="measure")
    top = query.top or str(TOP)
    if top not in map(str, TOPS):
        raise Refusal(f"top {quoted(top[:40])} is no choice: use {', '.join(map(str, TOPS))}", param="top")
    return Asked(start, end, MEASURES[measure], int(top))


def _day(name: str, text: str) -> date:
    if not _DAY.fullmatch(text):
        raise Refusal(f"the {name} {quoted(text[:40])} is no day: write it as 2026-11-20", param=name)
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise Refusal(f"the {name} {text} is not in the calendar", param=name) from error


def presets(today: date) -> dict[str, tuple[date, date]]:
    """Periods that are often looked at."""
    first = today.replace(day=1)
    before = first - timedelta(days=1)
    return {
        "7 days": (today - timedelta(days=6), today),
        "30 days": (today - timedelta(days=29), today),
        "this month": (first, today),
        "last month": (before.replace(day=1), before),
    }


# ── what is found ─────────────────────────────────────────────────────────────────────────────────────────────────────


def read(tx: Tx, wanted: Asked) -> Report:
    """Which groups are told apart follows from the whole period; so each of them is there on every day."""
    since, until = wanted.start.isoformat(), wanted.end.isoformat()
    whole = reports.together(tx, since, until)
    groups = {by: _top({one.group: _sums(one) for one in whole if one.by == by}, wanted) for by in GROUPINGS}
    kept = {by: [group.name for group, _ in found if group.name is not None] for by, found in groups.items()}
    of_both = {(one.by, one.group, one.day): _sums(one) for one in reports.together(tx, since, until, kept)}
    days = [(wanted.start + timedelta(days=number)).isoformat() for number in range(wanted.days)]
    stacks = {
        by: [(group, [of_both.get((by, group.name, day), NOTHING) for day in days]) for group, _ in found]
        for by, found in groups.items()
    }
    of_days = [added(sums) for sums in zip(*(found for _, found in stacks["user"]), strict=True)]
    return Report(
        asked=wanted,
        zone=tx.zone.key,
        total=added(of_days),
        users=groups["user"],
        days=list(zip(days, of_days or [NOTHING] * len(days), strict=True)),
        stacks=stacks,
    )


def _top(found: dict[str | None, Sums], wanted: Asked) -> list[tuple[Group, Sums]]:
    """The groups that have most of what is drawn, then all others as one."""
    ordered = sorted(found.items(), key=lambda one: (-wanted.measure.of(one[1]), one[0]))
    top, rest = ordered[: wanted.top], [sums for _, sums in ordered[wanted.top :]]
    return [(Group(name), sums) for name, sums in top] + ([(Group(None, len(rest)), added(rest))] if rest else [])


def _sums(one: reports.Summed) -> Sums:
    return Sums(one.requests, one.tokens, one.cost_nano, one.charge_nano, one.wasted_nano)
