"""`llmgate report`: what was used and what it cost, summed up."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from datetime import date, timedelta
from itertools import dropwhile
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer

from .. import clock
from ..errors import UsageError
from ..pricing import Price
from ..store import reports
from ..store.db import Database, Tx
from ..store.db import Row as StoreRow
from . import charts
from .columns import Column, Kind, Row, Show
from .context import open_store
from .grammar import alone, verb
from .lists import read_list
from .options import (
    KeyOption,
    ModelOption,
    Period,
    PlanOption,
    TagOption,
    TeamOption,
    UpstreamOption,
    UserOption,
    Whose,
    period,
    words,
)
from .output import ascii_only, listing
from .session import Format, note, session
from .suggest import unknown

app = alone()

SUMS = (
    Column("requests", Kind.NUMBER),
    Column("input_tokens", Kind.NUMBER),
    Column("cached_tokens", Kind.NUMBER, minor=2),
    Column("output_tokens", Kind.NUMBER),
    Column("tokens", Kind.NUMBER, minor=1),
    Column("cost_usd", Kind.MONEY),
    Column("charge_usd", Kind.MONEY),
    Column("errors", Kind.NUMBER),
    Column("wasted_usd", Kind.MONEY, Show.USED),
)


RERATED = (
    Column("requests", Kind.NUMBER),
    Column("cost_usd", Kind.MONEY, minor=1),
    Column("charge_usd", Kind.MONEY),
    Column("rerated_usd", Kind.MONEY),
    Column("difference_usd", Kind.MONEY),
    Column("unpriced", Kind.NUMBER, Show.USED),
)

BEFORE = {"requests_before": "requests", "tokens_before": "tokens", "cost_before_usd": "cost_usd"} | {
    "charge_before_usd": "charge_usd"
}
"""Column of the period before → what it was there."""

COMPARED = (
    *SUMS,
    Column("requests_before", Kind.NUMBER, minor=1),
    Column("tokens_before", Kind.NUMBER, Show.PIPED),
    Column("cost_before_usd", Kind.MONEY, Show.PIPED),
    Column("charge_before_usd", Kind.MONEY),
    Column("difference_usd", Kind.MONEY),
    Column("percent", Kind.PERCENT),
)
"""Of the charge: `difference_usd` is now less before, `percent` that of before (nothing, where nothing was before)."""

BESIDE = (Column("share", Kind.SHARE, Show.SPARE), Column("trend", Kind.WORD, Show.SPARE))
"""Beside the sums of a table: the part of the charge, and a sparkline of the period, against the row's own highest."""

CELLS = 16
"""How many signs a sparkline has at most, each for as many days."""

READABLE = 100
"""Rows; nobody compares the trends of more, and they cost as much as the report."""

OTHERS = "others"

RECENT = "30d"


@verb(
    app,
    "report",
    examples="""
    llmgate report
    llmgate report --since monday --by day --by model
    llmgate report --since 2026-10-01 --until 2026-10-31 --team research --format csv
    llmgate report --since 7d --by tag --tag agent=coder
    llmgate report --since 2026-10-01 --until 2026-10-31 --by model --compare --top 5
    llmgate report --since 30d --by model --prices next-year.csv
    llmgate report --since 30d --by team --chart
    llmgate report --since 2026-10-01 --until 2026-10-31 --by user --by week --chart october.svg
    """,
    bare=("--chart",),
)
def report(
    ctx: typer.Context,
    since: Annotated[
        str | None, typer.Option("--since", metavar="WHEN", help="From this day on: 30d, a date [default: 30d].")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="WHEN", help="Through this day [default: today].")
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option("--by", metavar="WHAT", help=f"A row for each: {', '.join(reports.GROUPS)} [default: user]."),
    ] = None,
    user: UserOption = None,
    team: TeamOption = None,
    key: KeyOption = None,
    model: ModelOption = None,
    upstream: UpstreamOption = None,
    plan: PlanOption = None,
    tag: TagOption = None,
    top: Annotated[
        int | None, typer.Option("--top", metavar="N", min=1, help="Only the N dearest; the rest is summed up.")
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Beside the period before, of the same length.")] = False,
    file: Annotated[
        str | None, typer.Option("--prices", metavar="FILE", help="What it would have been charged by this list.")
    ] = None,
    chart: Annotated[
        str | None,
        typer.Option("--chart", metavar="[FILE]", help="Draw it: here, or into a file that ends in .svg or .png."),
    ] = None,
) -> None:
    """Sum up what was used and what it cost.

    cost is what the upstreams bill, charge is what the accounts pay. wasted is what upstreams billed for tries that
    failed: a cost on top, that nobody is charged. Days are those of the time zone of the books, and
    the first and the last one are counted whole. Where a table has room, share is a row's part of the charge, and trend
    the period in up to 16 signs, the highest of which is the row's own most; a dot is nothing.

    A request with several tags is counted at each of them, and once in the total. --top keeps the N dearest; of each
    day (hour, week, month) if rows are by that. --compare sets the charge beside that of as many days before; beside
    the months before, where the period is whole months.

    With --prices (a list as `llmgate prices import` takes it) rerated is what the same requests would have been charged
    by the prices in FILE; those of models that it doesn't name keep their charge, and are counted as unpriced.

    --chart draws the charge instead: a bar for each group (the 15 dearest, or --top), and under them each day's (or
    hour's, week's, month's, if rows are by that) with the sum since the first; without --since they begin where
    something was used. A file that is there is replaced; drawing files takes matplotlib: `pip install
    'llmgate[charts]'`.
    """
    groups = _groups(by)
    narrowed = Whose(user, team, key, model, upstream, plan, tag)
    if chart is not None:
        _check_drawable(ctx, compare, file)
        _draw(ctx, groups, since, until, narrowed, top, chart)
        return
    if compare:
        _check_comparable(groups, file)
    price_of = _prices_of(file) if file is not None else None
    sums = RERATED if price_of else COMPARED if compare else SUMS
    with open_store(ctx) as db:
        with db.read() as tx:
            today = clock.day_of(tx.now_ms, db.zone)
            days = _days(period(since or RECENT, until, tx.now_ms, db.zone, precise=False), db.zone)
            whose = narrowed.filters(tx)
            before = _before(days, today) if compare else None

            def rows_of(by: list[str]) -> list[Row]:
                rows = _read(tx, by, whose | days, price_of)
                return _beside(by, rows, _read(tx, by, whose | before, None)) if before else rows

            rows = rows_of(groups)
            # Groups by tag overlap, so their sum is not the total.
            total = rows_of([]) if "tag" in groups else [_sum(rows, sums)]
            gone = reports.pruned(tx, whose | days) if reports.of_rows(groups, whose) or price_of else 0
            if top is not None:
                rows = _dearest(groups, rows, top, sums)
            columns = (*(Column(name, Kind.TIME if name == "hour" else Kind.WORD) for name in groups), *sums)
            if session(ctx).wanted is Format.TABLE and sums is SUMS:
                rows = _with_shares(tx, groups, rows, total[0], whose | days)
                columns += BESIDE if len(rows) > 1 else BESIDE[1:]
        if session(ctx).wanted is Format.TABLE:
            rows = [_readable(groups, row) for row in rows]
        empty = _nothing(days, today)
        last = {**total[0], groups[0]: "total"} if len(rows) > 1 else None
        listing(ctx, columns, rows, empty=empty, zone=db.zone, total=last)
        if model is not None and not rows:
            _tell_typo(ctx, db, model)
    if before:
        note(f"before: from {before['since']} to {before['until']}")
    _tell_gone(gone)


def _readable(groups: list[str], row: Row) -> Row:
    """Of a table: no name is told as such; what sums up the rest is about no one group."""
    if OTHERS in (row[name] for name in groups):
        return row
    return {**row, **{name: charts.NONE for name in groups if row[name] is None}}


def _nothing(days: dict[str, Any], today: str) -> str:
    if days["since"] > today:
        return f"{days['since']} is still to come"
    return f"nothing was used from {days['since']} to {days['until'] or 'today'}"


def _tell_typo(ctx: typer.Context, db: Database, model: str) -> None:
    """Where nothing was used of a model that nobody knows."""
    from .known import told_nearest

    with db.read() as tx:
        used = [row["model"] for row in reports.report(tx, ["model"], {})]
    told = told_nearest(ctx, model, used)
    if told:
        note(told)


def _tell_gone(gone: int) -> None:
    if gone:
        were = "1 request of this time was" if gone == 1 else f"{gone:,} requests of this time were"
        note(f"{were} pruned, and {'is' if gone == 1 else 'are'} not counted: only whole days' sums are left of that")


def _with_shares(tx: Tx, groups: list[str], rows: list[Row], total: Row, filters: dict[str, Any]) -> list[Row]:
    """Rows with what is `BESIDE` them. There are no trends within times, and none of what roll-ups don't know."""
    found: dict[tuple[Any, ...], list[int]] = {}
    times = [name for name in groups if name in reports.IN_ORDER]
    until = filters["until"] or clock.day_of(tx.now_ms, tx.zone)
    drawable = filters["since"] < until and not times and not reports.of_rows(groups, filters) and not ascii_only()
    if drawable and len(rows) <= READABLE:
        trends = reports.trends(tx, groups, filters | {"until": until}, CELLS)
        found = {tuple(name or None for name in group): values for group, values in trends.items()}
    trend = {group: charts.sparkline(values) for group, values in found.items()}
    return [
        {
            **row,
            "share": (row["charge_usd"], total["charge_usd"]),
            "trend": trend.get(tuple(row[name] for name in groups)),
        }
        for row in rows
    ]


FILE_POINTS = 120
"""How many points of a series a picture has at most; a terminal has one for a column."""


def _draw(
    ctx: typer.Context,
    groups: list[str],
    since: str | None,
    until: str | None,
    whose: Whose,
    top: int | None,
    file: str,
) -> None:
    """A chart on the terminal, or in a file."""
    path = None
    if file:
        from . import picture

        path = picture.check(file)
    room = FILE_POINTS if path else shutil.get_terminal_size().columns - 20
    with open_store(ctx) as db, db.read() as tx:
        today = clock.day_of(tx.now_ms, db.zone)
        days = _days(period(since or RECENT, until, tx.now_ms, db.zone, precise=False), db.zone)
        filters = whose.filters(tx) | days
        chart = _chart(tx, groups, filters, top or charts.MOST_BARS, room, whose.said(), whole=since is not None)
        gone = reports.pruned(tx, filters) if reports.of_rows(groups, filters) else 0
    if path:
        picture.write(chart, path)
        note(f"wrote {path}")
    elif chart.total:
        from . import sketch

        sketch.draw(chart)
    else:
        note(_nothing(days, today))
    _tell_gone(gone)


def _chart(
    tx: Tx,
    groups: list[str],
    filters: dict[str, Any],
    top: int,
    room: int,
    narrowed: Iterable[str],
    *,
    whole: bool,
) -> charts.Chart:
    """Bars by what is no time, and a series by what is one, else by day: of all the period or from its first use on."""
    times = [name for name in reports.IN_ORDER if name in groups]
    within = [name for name in groups if name not in times]
    first, today = date.fromisoformat(filters["since"]), clock.local_day(tx.now_ms, tx.zone)
    last = date.fromisoformat(filters["until"]) if filters["until"] else today
    last = max(first, min(last, today))
    bucket = charts.fitting(times[0] if times else "day", first, last, room)
    rows = _read(tx, [bucket], filters, None)
    measure = charts.measure_of(rows)
    values = {row[bucket]: row[measure] for row in rows}
    names = list(charts.buckets(bucket, first, last, tx.now_ms, tx.zone))
    names += sorted(values.keys() - set(names))  # a clock that was ahead once
    if not whole:
        names = list(dropwhile(lambda name: name not in values, names))
    bars = charts.largest(charts.bars_of(within, _read(tx, within, filters, None), measure), top) if within else []
    span = filters["since"] if first == last else f"{first} to {last}"
    return charts.Chart(
        measure=measure,
        groups=within,
        bucket=bucket,
        about=" · ".join((span, tx.zone.key, *narrowed)),
        bars=bars,
        series=charts.series_of(bucket, names, values, tx.zone) if len(names) > 1 or not bars else [],
        total=sum(values.values()),
    )


def _read(
    tx: Tx, by: list[str], filters: dict[str, Any], price_of: Callable[[StoreRow], Price | None] | None
) -> list[Row]:
    if price_of is not None:
        return _rerated(by, reports.rerated(tx, by, filters, price_of))
    return [_row(by, row) for row in reports.report(tx, by, filters)]


def _check_comparable(groups: list[str], file: str | None) -> None:
    times = [name for name in groups if name in reports.IN_ORDER]
    if times:
        raise UsageError(f"--compare is about the period as a whole: leave out --by {times[0]}")
    if file is not None:
        raise UsageError("--compare and --prices are two comparisons: choose one")


def _check_drawable(ctx: typer.Context, compare: bool, file: str | None) -> None:
    wanted = session(ctx).wanted
    if wanted is not Format.TABLE:
        raise UsageError(f"a chart is not written as {wanted}: leave out --chart, or the format")
    if compare or file is not None:
        raise UsageError(f"--chart draws what was charged: leave out {'--compare' if compare else '--prices'}")


def _before(days: dict[str, str | None], today: str) -> dict[str, str | None]:
    """The period before: as many whole months, if this one is whole months, else as many days."""
    first, last = (date.fromisoformat(day) for day in (days["since"] or today, days["until"] or today))
    after = last + timedelta(days=1)
    if first.day == after.day == 1:
        months = (after.year - first.year) * 12 + after.month - first.month
        year, month = divmod(first.year * 12 + first.month - 1 - months, 12)
        start = date(year, month + 1, 1)
    else:
        start = first - (after - first)
    return {"since": start.isoformat(), "until": (first - timedelta(days=1)).isoformat()}


def _beside(groups: list[str], rows: list[Row], before: list[Row]) -> list[Row]:
    """Rows with those of the period before; at the end the groups that were only there then."""
    then = {tuple(row[name] for name in groups): row for row in before}
    found = []
    for row in rows:
        was = then.pop(tuple(row[name] for name in groups), None)
        found.append({**row, **{name: was[of] if was else 0 for name, of in BEFORE.items()}})
    for was in then.values():
        none = {column.name: 0 for column in SUMS}
        found.append({name: was[name] for name in groups} | none | {name: was[of] for name, of in BEFORE.items()})
    return [{**row, **_change(row)} for row in found]


def _change(row: Row) -> Row:
    """Percents are of integers and in tenths, rounded half up."""
    was, difference = row["charge_before_usd"], row["charge_usd"] - row["charge_before_usd"]
    return {"difference_usd": difference, "percent": (2000 * difference + was) // (2 * was) if was else None}


def _dearest(groups: list[str], rows: list[Row], top: int, sums: tuple[Column, ...]) -> list[Row]:
    """The first `top` rows of each hour, day, week or month, then one that sums up the rest of it.

    Rows come dearest first within these. Where there is nothing within them, they are what is chosen from.
    """
    times = [name for name in groups if name in reports.IN_ORDER]
    within = [name for name in groups if name not in times]
    if not within:
        dearest = sorted(range(len(rows)), key=lambda at: -_paid(rows[at]))[:top]
        kept, rest = (
            [rows[at] for at in sorted(dearest)],
            [row for at, row in enumerate(rows) if at not in set(dearest)],
        )
        return [*kept, *_others(groups, {}, rest, sums)]
    buckets: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        buckets.setdefault(tuple(row[name] for name in times), []).append(row)
    found: list[Row] = []
    for bucket, members in buckets.items():
        found += members[:top]
        found += _others(within, dict(zip(times, bucket, strict=True)), members[top:], sums)
    return found


def _others(groups: list[str], bucket: Row, rest: list[Row], sums: tuple[Column, ...]) -> list[Row]:
    return [{**dict.fromkeys(groups), **bucket, groups[0]: OTHERS, **_sum(rest, sums)}] if rest else []


def _paid(row: Row) -> int:
    paid: int = row.get("rerated_usd", row["charge_usd"])
    return paid


def _sum(rows: list[Row], sums: tuple[Column, ...]) -> Row:
    found = {column.name: sum(row[column.name] for row in rows) for column in sums if column.kind is not Kind.PERCENT}
    return {**found, **_change(found)} if "charge_before_usd" in found else found


def _groups(by: list[str] | None) -> list[str]:
    groups = list(dict.fromkeys(words(by) or ["user"]))
    for name in groups:
        if name not in reports.GROUPS:
            raise unknown("grouping", name, reports.GROUPS, "llmgate report")
    return groups


def _days(span: Period, zone: ZoneInfo) -> dict[str, str | None]:
    """The first and the last day of a period, as roll-ups name them."""
    assert span.since_ms is not None
    since = clock.local_day(span.since_ms, zone)
    if clock.day_start_ms(since, zone) != span.since_ms:
        note(f"a report counts whole days: it starts with {since}")
    return {
        "since": since.isoformat(),
        "until": clock.day_of(span.until_ms - 1, zone) if span.until_ms is not None else None,
    }


def _row(groups: list[str], row: StoreRow) -> Row:
    return {
        **{name: row[name] or None for name in groups},
        **{name: row[name] for name in ("requests", "input_tokens", "cached_tokens", "output_tokens", "errors")},
        "tokens": row["input_tokens"] + row["output_tokens"],
        "cost_usd": row["cost_nano"],
        "charge_usd": row["charge_nano"],
        "wasted_usd": row["wasted_nano"],
    }


def _prices_of(file: str) -> Callable[[StoreRow], Price | None]:
    """Which price of a list a request has: that of the name that was asked for, else of what the upstream calls it."""
    found = read_list(file, "auto").prices
    prices = {(upstream, model.casefold()): price for (upstream, model), price in found.items()}

    def price_of(row: StoreRow) -> Price | None:
        upstream, names = row["upstream"], (row["model"], row["upstream_model"])
        keys = [(where, name.casefold()) for name in names for where in (upstream, "")]
        keys.append(("", f"{upstream}/{row['upstream_model']}".casefold()))
        return next((prices[key] for key in keys if key in prices), None)

    return price_of


def _rerated(groups: list[str], found: reports.Rerated) -> list[Row]:
    """Groups of time in their order, within them those first that would have paid most."""
    rows = [
        {
            **{name: value or None for name, value in zip(groups, key, strict=True)},
            "requests": sums["requests"],
            "cost_usd": sums["cost_nano"],
            "charge_usd": sums["charge_nano"],
            "rerated_usd": sums["rerated_nano"],
            "difference_usd": sums["rerated_nano"] - sums["charge_nano"],
            "unpriced": sums["unpriced"],
        }
        for key, sums in found.items()
    ]
    in_order = [name for name in groups if name in reports.IN_ORDER]
    rest = [name for name in groups if name not in reports.IN_ORDER]
    return sorted(
        rows,
        key=lambda row: (
            *(row[name] or "" for name in in_order),
            -row["rerated_usd"],
            *(row[name] or "" for name in rest),
        ),
    )
