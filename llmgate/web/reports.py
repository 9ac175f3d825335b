"""`/reports`: what was used and what it cost, over some days: as a page, as JSON, as CSV.

The page's charts are drawn from its tables, by a script: so they say the same, also while requests come in. The JSON is
made of the same sums.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from itertools import accumulate
from typing import Any, NamedTuple

import msgspec

from .. import clock
from ..errors import Refusal
from ..money import usd
from ..names import quoted
from ..store import reports
from ..store.db import Tx
from .summing import (
    DAYS,
    GROUPINGS,
    MARGIN,
    MEASURES,
    TOP,
    TOPS,
    WASTED,
    Asked,
    Group,
    Measure,
    Query,
    Report,
    Sums,
    asked,
    presets,
    read,
)
from .tables import Cell, Column, Draw, Kind, Others, Table, amounts
from .visits import Download, Reply, Shown, Told, Visit

DWARFING = 3
"""How many times the highest bar a bar of all others may be."""

# ── the page ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def show(tx: Tx, visit: Visit) -> Reply:
    """The page; where it can't be of what is asked for, it says so above the form."""
    today = clock.local_day(tx.now_ms, tx.zone)
    given: dict[str, Any] = {
        "wanted": None,
        "report": None,
        "sheets": [],
        "today": today,
        "presets": presets(today),
        "measures": [(name, name) for name in MEASURES],
        "tops": [(str(top), f"{top} and others") for top in TOPS],
        "top": str(TOP),
    }
    try:
        wanted = asked(tx, visit.query)
    except Refusal as error:
        visit.refused = error
        visit.typed = {name: value for name, value in msgspec.structs.asdict(visit.query).items() if value is not None}
        visit.typed |= {name: "" for name in ("start", "end") if not _fits(visit.typed.get(name))}
        return Shown("reports.html", given, error.http_status)
    report = read(tx, wanted)
    given |= {"wanted": wanted, "report": report}
    if report.total.requests:
        given |= {"sheets": sheets(report), "figures": figures(report.total)}
        given |= {
            "drawn": wanted.measure.of(report.total) > 0,
            "instead": "tokens" if report.total.tokens else "requests",
        }
    else:
        given |= {"used": _latest(tx, today)}
    return Shown("reports.html", given)


def _fits(text: str | None) -> bool:
    """Whether a field for a date takes it. One that wasn't given stays as it is."""
    try:
        return text is None or date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


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
    so_far = Column(f"{measure.name} so far", _kind(measure), [*running, running[-1]], Draw.LINE)
    by_user = Table([group.label for group, _ in report.users], _columns_of(users, measure, share), _others(report))
    return [
        Sheet("users", f"{title} by user", "bars", "user", by_user),
        Sheet("days", f"{title} per day", "days", "day", Table(_days(report), _columns_of(days, measure, so_far))),
        *(Sheet(f"by-{by}", f"{title} per day by {by}", "stack", f"day,{by}", _stack(report, by)) for by in GROUPINGS),
    ]


def _others(report: Report) -> Others:
    (_, first), (last, others), of = report.users[0], report.users[-1], report.asked.measure.of
    if last.name is not None:
        return Others.NONE
    return Others.LEFT_OUT if of(others) > DWARFING * of(first) else Others.DRAWN


def _columns_of(rows: Sequence[Sums], measure: Measure, beside: Column) -> list[Column]:
    """What is drawn, what stands beside it, and then all else; what was wasted only where something was."""
    drawn = Column(measure.name, _kind(measure), [measure.of(sums) for sums in rows], Draw.BARS)
    everything = (*MEASURES.values(), MARGIN, WASTED)
    ordered = sorted((one for one in everything if one is not measure), key=lambda one: not one.money)
    rest = [Column(one.name, _kind(one), [one.of(sums) for sums in rows]) for one in ordered]
    return [drawn, beside, *(one for one in rest if one.title != WASTED.name or any(one.values))]


def _kind(measure: Measure) -> Kind:
    return Kind.MONEY if measure.money else Kind.NUMBER


def _days(report: Report) -> list[str]:
    return [day for day, _ in report.days]


def _stack(report: Report, by: str) -> Table:
    measure, found = report.asked.measure, []
    for number, (group, days) in enumerate(report.stacks[by], 1):
        values = [measure.of(sums) for sums in days]
        series = 0 if group.name is None else number
        found.append(Column(group.label, _kind(measure), [*values, sum(values)], Draw.BARS, series))
    total = [measure.of(sums) for _, sums in report.days]
    return Table(_days(report), [*found, Column("total", _kind(measure), [*total, sum(total)])])


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


class DataQuery(Query, frozen=True, forbid_unknown_fields=True):
    csv: str | None = None
    """By what the rows of a CSV are; without it the answer is JSON."""


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

COLUMNS = (
    *("requests", "input_tokens", "cached_tokens", "output_tokens", "tokens"),
    *("cost_usd", "charge_usd", "errors", "wasted_usd"),
)
"""As `llmgate report --format csv` writes them."""


def table(tx: Tx, wanted: Asked, by: str) -> bytes:
    """As CSV: all groups, none of them summed up; the same as `llmgate report --by … --format csv`."""
    groups, text = by.split(","), io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*groups, *COLUMNS))
    for row in reports.stream(tx, groups, wanted.span):
        figures = {name.replace("_nano", "_usd"): row[name] for name in reports.EACH}
        figures["tokens"] = row["input_tokens"] + row["output_tokens"]
        writer.writerow(
            [row[name] for name in groups]
            + [usd(figures[name]) if name.endswith("_usd") else figures[name] for name in COLUMNS]
        )
    return text.getvalue().encode()
