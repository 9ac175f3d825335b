"""`/reports`: what was used and what it cost, over some days: as a page, as JSON, as CSV. All of it is read at once,
from the daily roll-ups, so that whatever is shown of a period adds up to the same.

Cost is what upstreams bill, charge is what accounts pay; the margin is what is left of the charge when all that
upstreams billed is paid, tries in vain too. Which one is drawn is a choice; the figures beside it tell all.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, timedelta
from functools import reduce
from itertools import accumulate
from operator import add
from typing import Any, NamedTuple

import msgspec

from .. import clock
from ..errors import Refusal
from ..money import usd
from ..names import quoted
from ..store import reports
from ..store.db import Row, Tx
from .tables import Cell, Column, Draw, Kind, Table, amounts
from .visits import Download, Reply, Shown, Told, Visit

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


class Measure(NamedTuple):
    """A figure that can be drawn."""

    name: str
    money: bool
    of: Callable[[Sums], int]

    @property
    def kind(self) -> Kind:
        return Kind.MONEY if self.money else Kind.NUMBER


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


class DataQuery(Query, frozen=True, forbid_unknown_fields=True):
    csv: str | None = None
    """By what the rows of a CSV are; without it the answer is JSON."""


def asked(tx: Tx, query: Query) -> Asked:
    """What a report is to be of. Raises Refusal."""
    today = clock.local_day(tx.now_ms, tx.zone)
    end = _day("end", query.end) if query.end is not None else today
    start = date.fromordinal(max(1, end.toordinal() - DAYS + 1))
    if query.start is not None:
        start = _day("start", query.start)
    for name, day in (("start", start), ("end", end)):
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
    span = _span(wanted)
    groups = {by: _top(reports.report(tx, (by,), span), by, wanted) for by in GROUPINGS}
    kept = {by: [group.name for group, _ in found if group.name is not None] for by, found in groups.items()}
    rows = [(row, _sums(row)) for row in reports.by_day(tx, kept, span)]
    days = [
        (wanted.start + timedelta(days=number)).isoformat() for number in range((wanted.end - wanted.start).days + 1)
    ]
    of_day = _folded((row["day"], sums) for row, sums in rows)
    stacks = {}
    for by, found in groups.items():
        of_both = _folded(((row[by], row["day"]), sums) for row, sums in rows)
        stacks[by] = [(group, [of_both.get((group.name, day), NOTHING) for day in days]) for group, _ in found]
    return Report(
        asked=wanted,
        zone=tx.zone.key,
        total=reduce(Sums.plus, of_day.values(), NOTHING),
        users=groups["user"],
        days=[(day, of_day.get(day, NOTHING)) for day in days],
        stacks=stacks,
    )


def _span(wanted: Asked) -> dict[str, Any]:
    return {"since": wanted.start.isoformat(), "until": wanted.end.isoformat()}


def _top(rows: Sequence[Row], by: str, wanted: Asked) -> list[tuple[Group, Sums]]:
    """The groups that have most of what is drawn, then all others as one."""
    found = sorted(((row[by], _sums(row)) for row in rows), key=lambda one: (-wanted.measure.of(one[1]), one[0]))
    rest = found[wanted.top :]
    top = [(Group(name), sums) for name, sums in found[: wanted.top]]
    return [*top, (Group(None, len(rest)), reduce(Sums.plus, (sums for _, sums in rest), NOTHING))] if rest else top


def _folded(rows: Iterable[tuple[Any, Sums]]) -> dict[Any, Sums]:
    found: dict[Any, Sums] = {}
    for key, sums in rows:
        found[key] = found.get(key, NOTHING).plus(sums)
    return found


def _sums(row: Row) -> Sums:
    return Sums(
        row["requests"],
        row["input_tokens"] + row["output_tokens"],
        row["cost_nano"],
        row["charge_nano"],
        row["wasted_nano"],
    )


# ── the page ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def show(tx: Tx, visit: Visit) -> Reply:
    """The page; where it can't be of what is asked for, it says so above the form."""
    today = clock.local_day(tx.now_ms, tx.zone)
    given: dict[str, Any] = {"wanted": None, "report": None, "sheets": [], "today": today, "presets": presets(today)}
    given |= {
        "measures": [(name, name) for name in MEASURES],
        "tops": [(str(top), f"{top} and others") for top in TOPS],
    }
    try:
        wanted = asked(tx, visit.query)
    except Refusal as error:
        visit.refused = error
        visit.typed = {name: value for name, value in msgspec.structs.asdict(visit.query).items() if value is not None}
        return Shown("reports.html", given, error.http_status)
    report = read(tx, wanted)
    given |= {"wanted": wanted, "report": report}
    if report.total.requests:
        given |= {"sheets": sheets(report), "figures": figures(report.total)}
        given |= {"drawn": wanted.measure.of(report.total) > 0}
    else:
        given |= {"used": _latest(tx, today)}
    return Shown("reports.html", given)


def _latest(tx: Tx, today: date) -> tuple[date, date] | None:
    """A period in which something was used: what to look at instead."""
    days = reports.days_of_use(tx)
    if days is None or days[0] > today.isoformat():
        return None
    end = min(date.fromisoformat(days[1]), today)
    return end - timedelta(days=DAYS - 1), end


class Sheet(NamedTuple):
    """A chart, and the table under it that says the same."""

    name: str
    title: str
    chart: str
    """`bars`, `days` or `stack`."""
    by: str
    """Of its CSV."""
    table: Table


def sheets(report: Report) -> list[Sheet]:
    """All that the page shows, in its order."""
    measure = report.asked.measure
    title = measure.name.capitalize()
    users, days = ([sums for _, sums in rows] + [report.total] for rows in (report.users, report.days))
    share = Column("share", Kind.SHARE, [measure.of(sums) for sums in users])
    running = [measure.of(sums) for sums in accumulate(days[:-1], Sums.plus)]
    so_far = Column(f"{measure.name} so far", measure.kind, [*running, running[-1]], Draw.LINE)
    by_user = Table(
        [group.label for group, _ in report.users],
        _columns_of(users, measure, share),
        others=report.users[-1][0].name is None,
    )
    return [
        Sheet("users", f"{title} by user", "bars", "user", by_user),
        Sheet("days", f"{title} per day", "days", "day", Table(_days(report), _columns_of(days, measure, so_far))),
        *(Sheet(f"by-{by}", f"{title} per day by {by}", "stack", f"day,{by}", _stack(report, by)) for by in GROUPINGS),
    ]


def _columns_of(rows: Sequence[Sums], measure: Measure, beside: Column) -> list[Column]:
    """What is drawn, what stands beside it, and then all else; what was wasted only where something was."""
    drawn = Column(measure.name, measure.kind, [measure.of(sums) for sums in rows], Draw.BARS)
    everything = (*MEASURES.values(), MARGIN, WASTED)
    ordered = sorted((one for one in everything if one is not measure), key=lambda one: not one.money)
    rest = [Column(one.name, one.kind, [one.of(sums) for sums in rows]) for one in ordered]
    return [drawn, beside, *(one for one in rest if one.title != WASTED.name or any(one.values))]


def _days(report: Report) -> list[str]:
    return [day for day, _ in report.days]


def _stack(report: Report, by: str) -> Table:
    measure, found = report.asked.measure, []
    for number, (group, days) in enumerate(report.stacks[by], 1):
        values = [measure.of(sums) for sums in days]
        series = 0 if group.name is None else number
        found.append(Column(group.label, measure.kind, [*values, sum(values)], Draw.BARS, series))
    total = [measure.of(sums) for _, sums in report.days]
    return Table(_days(report), [*found, Column("total", measure.kind, [*total, sum(total)])])


def figures(total: Sums) -> dict[str, tuple[Cell, str]]:
    """What stands above everything: name → the figure, and what it means."""
    found = {
        "cost": (amounts([total.cost])[0], "what upstreams bill"),
        "charge": (amounts([total.charge])[0], "what accounts pay"),
        "margin": (amounts([total.margin])[0], "what is left of the charge"),
        "requests": (Cell(str(total.requests), f"{total.requests:,}"), "that reached an upstream"),
        "tokens": (Cell(str(total.tokens), f"{total.tokens:,}"), "in and out"),
    }
    if total.wasted:
        found["wasted"] = (amounts([total.wasted])[0], "billed for tries in vain, a cost on top")
    return found


# ── what is told of it ────────────────────────────────────────────────────────────────────────────────────────────────


def data(tx: Tx, visit: Visit) -> Reply:
    """What the page says, for programs: JSON, or a CSV of all that a table sums up."""
    wanted, by = asked(tx, visit.query), visit.query.csv
    if by is None:
        return Told(told(read(tx, wanted)))
    if by not in FILES:
        raise Refusal(f"there is no CSV by {quoted(by[:40])}: use {', '.join(map(repr, FILES))}", param="csv")
    name = f"llmgate-by-{by.replace(',', '-')}-{wanted.start}-{wanted.end}.csv"
    return Download(name, table(tx, wanted, by), "text/csv; charset=utf-8")


def told(report: Report) -> dict[str, Any]:
    """As JSON: money in decimal strings of USD. `others` is how many groups a row sums up; its name is null."""
    wanted, running = report.asked, accumulate((sums for _, sums in report.days), Sums.plus)
    return {
        "start": wanted.start.isoformat(),
        "end": wanted.end.isoformat(),
        "zone": report.zone,
        "measure": wanted.measure.name,
        "top": wanted.top,
        "total": _figures(report.total),
        "users": [_named("user", group) | _figures(sums) for group, sums in report.users],
        "days": [
            {"day": day} | _figures(sums) | {"running": _figures(so_far)}
            for (day, sums), so_far in zip(report.days, running, strict=True)
        ],
        **{
            f"by_{by}": [_named(by, group) | _columns([_figures(sums) for sums in days]) for group, days in found]
            for by, found in report.stacks.items()
        },
    }


def _figures(sums: Sums) -> dict[str, Any]:
    return {
        "requests": sums.requests,
        "tokens": sums.tokens,
        "cost_usd": usd(sums.cost),
        "charge_usd": usd(sums.charge),
        "margin_usd": usd(sums.margin),
        "wasted_usd": usd(sums.wasted),
    }


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def _named(by: str, group: Group) -> dict[str, Any]:
    return {by: group.name or None, "others": group.others}


FILES = ("user", "day", *(f"day,{by}" for by in GROUPINGS))
"""What there is a CSV of: by what its rows are."""

COLUMNS = tuple("requests input_tokens cached_tokens output_tokens tokens cost_usd charge_usd errors wasted_usd".split())
"""As `llmgate report --format csv` writes them."""


def table(tx: Tx, wanted: Asked, by: str) -> bytes:
    """As CSV: all groups, none of them summed up; the same as `llmgate report --by … --format csv`."""
    groups, text = by.split(","), io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*groups, *COLUMNS))
    for row in reports.stream(tx, groups, _span(wanted)):
        figures = {name.replace("_nano", "_usd"): row[name] for name in reports.EACH}
        figures["tokens"] = row["input_tokens"] + row["output_tokens"]
        writer.writerow(
            [row[name] for name in groups]
            + [usd(figures[name]) if name.endswith("_usd") else figures[name] for name in COLUMNS]
        )
    return text.getvalue().encode()
