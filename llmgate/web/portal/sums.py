"""What was used in a month: by model and on each day, for a team by member too. Read at once from the daily roll-ups,
so that whatever is told of a month adds up to the same.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from datetime import date, timedelta
from operator import add
from typing import NamedTuple

from msgspec import Struct

from ... import clock
from ...errors import Refusal
from ...names import quoted
from ...store import reports
from ...store.db import Row, Tx
from ..tables import Cell, amounts, share

TALLEST = 100
"""How high the highest bar of a chart is."""


class InMonth(Struct, frozen=True, forbid_unknown_fields=True):
    month: str | None = None


class Month(NamedTuple):
    first: date
    today: date

    @property
    def last(self) -> date:
        return (self.first + timedelta(days=31)).replace(day=1) - timedelta(days=1)

    @property
    def name(self) -> str:
        return f"{self.first:%Y-%m}"

    @property
    def days(self) -> list[str]:
        """All of them."""
        return [self.first.replace(day=number + 1).isoformat() for number in range(self.last.day)]

    @property
    def is_now(self) -> bool:
        return self.first == self.today.replace(day=1)

    @property
    def before(self) -> str:
        return f"{self.first - timedelta(days=1):%Y-%m}"

    @property
    def after(self) -> str:
        return f"{self.last + timedelta(days=1):%Y-%m}"


_MONTH = re.compile(r"(2[0-9]{3})-(0[1-9]|1[0-2])")


def month(tx: Tx, text: str | None = None) -> Month:
    """The month that is asked for; None: this one. Raises Refusal."""
    today = clock.local_day(tx.now_ms, tx.zone)
    if text is None:
        return Month(today.replace(day=1), today)
    match = _MONTH.fullmatch(text)
    if match is None:
        raise Refusal(f"{quoted(text[:40])} is no month: write it as {today:%Y-%m}", param="month")
    first = date(int(match[1]), int(match[2]), 1)
    if first > today:
        raise Refusal(f"{text} is still to come: this month is {today:%Y-%m}", param="month")
    return Month(first, today)


class Sums(NamedTuple):
    """What some requests come to."""

    requests: int = 0
    errors: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    charge_nano: int = 0

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens


class Line(NamedTuple):
    """What a model, a day or a member comes to, as a table shows it."""

    name: str
    sums: Sums
    charge: Cell
    percent: int
    """Of all."""
    share: str
    height: int
    """Of its bar."""


class Used(NamedTuple):
    month: Month
    total: Sums
    models: list[Line]
    days: list[Line]
    """Each of the month up to today."""
    members: list[Line]
    by_tokens: bool
    """Nothing was charged: bars are of tokens."""


def used(tx: Tx, of: Month, filters: dict[str, str], members: Iterable[str] | None = None) -> Used:
    """What passes `filters`. `members`: who is to be told apart, and there without any use too."""
    by = ("day", "model") if members is None else ("day", "model", "user")
    span = {"since": of.days[0], "until": of.days[-1]}
    rows = reports.report(tx, by, {**filters, **span})
    total = _sum(_of(row) for row in rows)
    by_tokens = not total.charge_nano
    days = dict.fromkeys((day for day in of.days if day <= of.today.isoformat()), Sums()) | _grouped(rows, "day")
    people = dict.fromkeys(members or (), Sums()) | (_grouped(rows, "user") if members is not None else {})

    def lines(found: dict[str, Sums]) -> list[Line]:
        return _lines(found, total, by_tokens=by_tokens)

    return Used(
        month=of,
        total=total,
        models=lines(_dearest(_grouped(rows, "model"))),
        days=lines(dict(sorted(days.items()))),
        members=lines(_dearest(people)),
        by_tokens=by_tokens,
    )


def _of(row: Row) -> Sums:
    return Sums(*(row[name] for name in Sums._fields))


def _sum(found: Iterable[Sums]) -> Sums:
    total = Sums()
    for one in found:
        total = Sums(*map(add, total, one))
    return total


def _grouped(rows: Iterable[Row], by: str) -> dict[str, Sums]:
    found: dict[str, list[Sums]] = defaultdict(list)
    for row in rows:
        found[row[by]].append(_of(row))
    return {name: _sum(parts) for name, parts in found.items()}


def _dearest(found: dict[str, Sums]) -> dict[str, Sums]:
    """The dearest first; where that is the same, those with the most tokens."""
    return dict(sorted(found.items(), key=lambda one: (-one[1].charge_nano, -one[1].tokens, one[0])))


def _lines(found: dict[str, Sums], total: Sums, *, by_tokens: bool) -> list[Line]:
    figures = [one.tokens if by_tokens else one.charge_nano for one in found.values()]
    whole, most = (total.tokens if by_tokens else total.charge_nano), max(figures, default=0)
    charges = amounts([*(one.charge_nano for one in found.values()), total.charge_nano])
    return [
        Line(
            name=name,
            sums=sums,
            charge=charge,
            percent=100 * figure // whole if whole else 0,
            share=share(figure, whole),
            height=max(TALLEST * figure // most, 1) if figure else 0,
        )
        for (name, sums), charge, figure in zip(found.items(), charges, figures, strict=False)
    ]
