"""The grammar of limits, and the windows that they count in: one mechanism for rates, budgets, quotas, concurrency.

    limit  = amount unit [ "/" window | "total" ] [ "on" glob ] | "unlimited" unit "/" window
    unit   = "requests" | "tokens" | "input tokens" | "output tokens" | "USD" ("$5" is short for "5 USD") | "concurrent"
    window = "minute" | "hour" | "day" | "week" | "month"

`60 requests/minute`, `100000 tokens/day`, `$50/month`, `$20 total`, `$5/day on gpt-4o*`, `5 concurrent`. The same words
stand in the config, on the command line and in reports: `str(parse(text))` is the one spelling that is stored.

Windows are calendar windows in the database's zone: a week starts on Monday, a day at its first instant.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import date, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from .clock import day_start_ms, hour_start_ms, local_day
from .errors import UsageError
from .money import to_nano, usd
from .names import matches
from .types import Meters

EXAMPLES = "60 requests/minute, 100000 tokens/day, $50/month, $20 total, $5/day on gpt-4o*, 5 concurrent"

MINUTE_MS, HOUR_MS = 60_000, 3_600_000
FOREVER_MS = 2**62


class Unit(StrEnum):
    REQUESTS = "requests"
    TOKENS = "tokens"
    INPUT_TOKENS = "input tokens"
    OUTPUT_TOKENS = "output tokens"
    USD = "USD"
    CONCURRENT = "concurrent"


class Window(StrEnum):
    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    TOTAL = "total"


class Limit(msgspec.Struct, frozen=True):
    """A ceiling. `amount` is nano-USD where the unit is USD, else a count; None: unlimited."""

    amount: int | None
    unit: Unit
    window: Window
    """TOTAL for `concurrent`, which has no window."""
    glob: str = "*"

    @property
    def slot(self) -> tuple[Unit, Window, str]:
        """What a limit is about: a user's own replaces the plan's or the default's of the same slot."""
        return self.unit, self.window, self.glob

    def means(self, names: Iterable[str]) -> bool:
        """Whether it is about a model that goes by these names.

        `openai/gpt-4o` is also `gpt-4o`, and capitals don't count: no other spelling gets round a limit.
        """
        return self.glob == "*" or any(
            matches(self.glob.casefold(), tail) for name in names for tail in _tails(name.casefold())
        )

    def __str__(self) -> str:
        on = "" if self.glob == "*" else f" on {self.glob}"
        if self.unit is Unit.CONCURRENT:
            return f"{'unlimited' if self.amount is None else self.amount} concurrent{on}"
        window = " total" if self.window is Window.TOTAL else f"/{self.window}"
        if self.amount is None:
            return f"unlimited {self.unit}{window}{on}"
        if self.unit is Unit.USD:
            return f"${usd(self.amount)}{window}{on}"
        return f"{self.amount} {self.unit}{window}{on}"


def _tails(name: str) -> Iterator[str]:
    """`a/b/c`, `b/c`, `c`."""
    yield name
    while "/" in name:
        name = name.partition("/")[2]
        yield name


_LIMIT = re.compile(
    r"""
    (?P<amount> unlimited | \$ \s* [0-9][0-9_.]* | [0-9][0-9_.]* ) \s*
    (?P<unit> requests? | (?:input\s+|output\s+)? tokens? | USD | concurrent )? \s*
    (?: / \s* (?P<window> minute | hour | day | week | month ) | (?P<total> total ) )? \s*
    (?: on \s+ (?P<glob> \S+ ) )?
    """,
    re.VERBOSE | re.IGNORECASE | re.ASCII,
)


def parse(text: str) -> Limit:
    """A limit as it is written. Raises UsageError with what is wrong and examples."""
    match = _LIMIT.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{text!r} is no limit: write for example {EXAMPLES}")
    unit = _unit(text, match)
    window = match["window"] or match["total"]
    if unit is Unit.CONCURRENT:
        if window:
            raise UsageError(f"{text!r}: concurrent requests are counted at a moment, not per {window}")
    elif window is None:
        raise UsageError(f"{text!r} has no window: add /minute, /hour, /day, /week or /month, or total")
    return Limit(
        amount=_amount(text, match["amount"], unit),
        unit=unit,
        window=Window((window or "total").lower()),
        glob=match["glob"] or "*",
    )


def _unit(text: str, match: re.Match[str]) -> Unit:
    written = " ".join((match["unit"] or "").lower().split())
    if match["amount"].startswith("$"):
        if written not in ("", "usd"):
            raise UsageError(f"{text!r}: $ is for USD, not for {written}")
        return Unit.USD
    if not written:
        raise UsageError(f"{text!r} has no unit: requests, tokens, input tokens, output tokens, USD or concurrent")
    if written == "usd":
        return Unit.USD
    return Unit(written if written == "concurrent" or written.endswith("s") else f"{written}s")


def _amount(text: str, written: str, unit: Unit) -> int | None:
    if written.lower() == "unlimited":
        return None
    digits = written.removeprefix("$").strip().replace("_", "")
    try:
        amount = to_nano(digits) if unit is Unit.USD else int(digits)
    except ValueError as error:
        whole = "" if unit is Unit.USD else ": a whole number is needed"
        raise UsageError(f"{text!r}: {digits!r} is no amount of {unit}{whole}") from error
    if amount >= FOREVER_MS:
        raise UsageError(f"{text!r}: {digits} is too large; write unlimited {unit}")
    return amount


def applying(own: Iterable[Limit], shared: Iterable[Limit]) -> list[Limit]:
    """A user's limits: the own ones, and of the plan's and the default's those whose slot isn't among them.

    What is unlimited was needed to replace, and is then none at all. Where the plan and the default both have a limit
    of one slot, the tighter one is what holds: they share a counter.
    """
    found = {limit.slot: limit for limit in own}
    taken = frozenset(found)
    for limit in shared:
        if limit.amount is not None and limit.slot not in taken:
            there = found.setdefault(limit.slot, limit)
            if there.amount is not None and limit.amount < there.amount:
                found[limit.slot] = limit
    return [limit for limit in found.values() if limit.amount is not None]


def included_tokens(limits: Iterable[Limit]) -> Limit | None:
    """The limit on tokens per month, where there is just one: what a plan with `overage` includes."""
    found = [limit for limit in limits if limit.unit is Unit.TOKENS and limit.window is Window.MONTH]
    return found[0] if len(found) == 1 else None


class Span(NamedTuple):
    """A window: from its first millisecond until the first after it."""

    start_ms: int
    end_ms: int


def span(window: Window, at_ms: int, zone: ZoneInfo) -> Span:
    """The window that an instant falls into."""
    if window is Window.MINUTE:
        start = at_ms - at_ms % MINUTE_MS
        return Span(start, start + MINUTE_MS)
    if window is Window.TOTAL:
        return Span(0, FOREVER_MS)
    return _long_span(window, at_ms - at_ms % MINUTE_MS, zone)


@lru_cache(maxsize=256)
def _long_span(window: Window, minute_ms: int, zone: ZoneInfo) -> Span:
    """Windows from the hour up, which start on a minute: worked out once a minute."""
    if window is Window.HOUR:
        start = hour_start_ms(minute_ms, zone)
        return Span(start, start + HOUR_MS)
    today = local_day(minute_ms, zone)
    first, after = _days(window, today)
    return Span(day_start_ms(first, zone), day_start_ms(after, zone))


def _days(window: Window, today: date) -> tuple[date, date]:
    """The first day of a window, and the first after it."""
    if window is Window.DAY:
        return today, today + timedelta(days=1)
    if window is Window.WEEK:
        monday = today - timedelta(days=today.weekday())
        return monday, monday + timedelta(days=7)
    first = today.replace(day=1)
    return first, (first + timedelta(days=32)).replace(day=1)


class Cap(NamedTuple):
    """How often something may be asked for: at most so many times within so long, whenever that begins."""

    most: int
    within_ms: int
    text: str

    def __str__(self) -> str:
        return self.text


_CAP = re.compile(r"([1-9][0-9]{0,8}) ?/ ?(minute|hour|day|week|month)")
_CAP_MS = {"minute": MINUTE_MS, "hour": HOUR_MS, "day": 24 * HOUR_MS, "week": 168 * HOUR_MS, "month": 720 * HOUR_MS}


def parse_cap(text: str) -> Cap:
    """`5/day`. Raises ValueError. A month is 30 days."""
    match = _CAP.fullmatch(text)
    if match is None:
        raise ValueError
    return Cap(int(match[1]), _CAP_MS[match[2]], f"{match[1]}/{match[2]}")


def quantity(unit: Unit, meters: Meters, charge_nano: int) -> int:
    """How much of a unit a settled request has used."""
    match unit:
        case Unit.REQUESTS:
            return 1
        case Unit.TOKENS:
            return meters.input_tokens + meters.output_tokens
        case Unit.INPUT_TOKENS:
            return meters.input_tokens
        case Unit.OUTPUT_TOKENS:
            return meters.output_tokens
        case Unit.USD:
            return charge_nano
        case Unit.CONCURRENT:
            return 0
