"""What a chart shows: bars by group, and a series over time with its running sum. Pure: `sketch` and `picture` draw it.

Whoever draws turns amounts into lengths, which may be floats; every amount that is written is exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import accumulate
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from .. import clock
from ..money import dollars
from .columns import Row, share
from .session import visible

MOST_BARS = 15
"""Groups that are drawn where `--top` doesn't say how many; the rest is summed up."""

NONE = "(none)"
"""What a group is called that is about nobody: no name is written so."""

COARSER = {"day": "week", "week": "month"}
"""What is drawn instead of a series that has too many points for its width."""

MEASURES = ("charge_usd", "tokens", "requests")
"""What is drawn: the first of which there is any. Where nothing is charged, tokens still tell who uses what."""


class Point(NamedTuple):
    label: str
    value: int


class Chart(NamedTuple):
    measure: str
    groups: Sequence[str]
    bucket: str
    about: str
    """The period, the zone, and what it was narrowed down to."""
    bars: Sequence[Point]
    series: Sequence[Point]
    total: int
    """Not always the sum of the bars: groups by tag overlap."""

    @property
    def what(self) -> str:
        return self.measure.removesuffix("_usd")

    @property
    def title(self) -> str:
        by = self.groups if self.bars else (self.bucket,)
        return f"{self.what} by {', '.join(by)}"

    @property
    def sums(self) -> list[int]:
        """The running sum of the series."""
        return list(accumulate(point.value for point in self.series))

    def said(self, value: int) -> str:
        """An amount in words: exact, so that nothing is rounded away."""
        return dollars(value) if self.measure == "charge_usd" else f"{value:,}"

    @property
    def shares(self) -> list[str]:
        return [share(point.value, self.total) for point in self.bars]


def measure_of(rows: Sequence[Row]) -> str:
    """What is worth drawing of these rows."""
    return next((name for name in MEASURES if any(row[name] for row in rows)), MEASURES[0])


def bars_of(groups: Sequence[str], rows: Iterable[Row], measure: str) -> list[Point]:
    return [Point(" · ".join(visible(str(row[name] or NONE)) for name in groups), row[measure]) for row in rows]


def largest(points: list[Point], top: int) -> list[Point]:
    """The largest so many, and one more that sums up the rest."""
    ordered = sorted(points, key=lambda point: -point.value)
    rest = ordered[top:]
    return [*ordered[:top], *([Point(f"others ({len(rest)})", sum(point.value for point in rest))] if rest else [])]


def buckets(bucket: str, first: date, last: date, until_ms: int, zone: ZoneInfo) -> Iterator[Any]:
    """Every day (week, month, hour) of a period as reports name it, also those without use.

    The hours are those that have begun before `until_ms`.
    """
    if bucket == "hour":
        at_ms = clock.day_start_ms(first, zone)
        end_ms = min(clock.day_start_ms(last + timedelta(days=1), zone), until_ms)
        while at_ms < end_ms:
            yield at_ms
            at_ms = clock.hour_start_ms(at_ms + 3_600_000, zone)
        return
    day = {"week": first - timedelta(days=first.weekday()), "month": first.replace(day=1)}.get(bucket, first)
    while day <= last:
        yield day.isoformat()[:7] if bucket == "month" else day.isoformat()
        day = (day.replace(day=1) + timedelta(days=32)).replace(day=1) if bucket == "month" else day + _STEPS[bucket]


_STEPS = {"day": timedelta(days=1), "week": timedelta(weeks=1)}


def fitting(bucket: str, first: date, last: date, room: int) -> str:
    """The bucket, or a coarser one where a period has more of them than there is room for."""
    days = (last - first).days + 1
    while bucket in COARSER and days // {"day": 1, "week": 7}[bucket] > room:
        bucket = COARSER[bucket]
    return bucket


def series_of(bucket: str, names: Sequence[Any], values: Mapping[Any, int], zone: ZoneInfo) -> list[Point]:
    """A point for each bucket, 0 where nothing was used. Years are left out where there is only one."""
    labels = [_label(name, zone) for name in names]
    if bucket != "month" and len({label[:4] for label in labels}) == 1:
        labels = [label[5:] for label in labels]
    return [Point(label, values.get(name, 0)) for label, name in zip(labels, names, strict=True)]


def _label(name: Any, zone: ZoneInfo) -> str:
    if isinstance(name, int):
        return datetime.fromtimestamp(name // 1000, UTC).astimezone(zone).strftime("%Y-%m-%d %H:%M")
    return str(name)


def steps(most: int, about: int = 4) -> list[int]:
    """Round figures for an axis from 0 to at least `most`, some `about` of them. Integers, so that they are exact."""
    step = next(size for size in _round_figures() if size * about >= most)
    return list(range(0, most + step, step)) if most else [0]


def _round_figures() -> Iterator[int]:
    power = 1
    while True:
        yield from (power, 2 * power, 5 * power)
        power *= 10


def spread(number: int, most: int) -> list[int]:
    """Which of so many points are labelled, at most so many: evenly apart, the last one among them."""
    step = max(1, -(-number // max(1, most)))
    return list(range((number - 1) % step, number, step))


def sparkline(values: Sequence[int]) -> str:
    """A sign for each value, as high as it is beside the highest: a dot for nothing, a bar for anything."""
    most = max(values, default=0)
    return "".join("▁▂▃▄▅▆▇█"[(8 * value - 1) // most] if value else "·" for value in values)
