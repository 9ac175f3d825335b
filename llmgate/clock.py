"""When: the durations and dates that an admin types, and the days that reports count in.

Instants are integer milliseconds since the epoch, UTC, and named `_ms`; `now_ms` is always passed in, so that one
transaction has one now and every rule here can be tested on any day. Days belong to a zone:

- A day starts at its first instant in the zone, which is not 24 h after the one before where clocks change.
- `30d` back for a report is a number of *days* (it starts at a midnight); `30d` back for a tail of requests, or
  forward for an expiry, is 30 × 24 h. `6mo` and `1y` follow the calendar either way, and end on a month's last day
  where it is too short.
- The end of a span is exclusive: an `until` date returns the first instant of the day after it.
"""

from __future__ import annotations

import re
from calendar import monthrange
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from .errors import UsageError

DAY_MS = 86_400_000

FIXED_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": DAY_MS, "w": 7 * DAY_MS}
MONTHS = {"mo": 1, "y": 12}
DAYS = {"d": 1, "w": 7}
"""Of a unit: its length where it has a fixed one, its months where it has not, its days where it is made of days."""

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")

DURATIONS = "30s 15m 24h 30d 8w 6mo 1y"
DATES = "2026-11-20, 2026-11-20T10:00, today, yesterday or monday"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_DURATION = re.compile(r"([0-9]{1,9})(s|mo|m|h|d|w|y)")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_MOMENT = re.compile(_DATE.pattern + r"[T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?(Z|[+-][0-9]{2}:[0-9]{2})?")


class Duration(NamedTuple):
    """An amount of one unit, not yet a length: how long a month is depends on where it starts."""

    amount: int
    unit: str

    @property
    def of_days(self) -> bool:
        """Whether a report that goes back by this starts at a midnight."""
        return self.unit in DAYS or self.unit in MONTHS


def zone(name: str) -> ZoneInfo:
    """The zone of that IANA name."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:  # unknown; not a relative path; a folder of the database
        raise UsageError(f"{name!r} is no time zone: write an IANA name such as UTC or Europe/Berlin.") from error


def parse_duration(text: str) -> Duration:
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{text!r} is no duration: {_perhaps_days(text) or f'write one of {DURATIONS}.'}")
    return Duration(int(match[1]), match[2])


def before_ms(text: str, now_ms: int, tz: ZoneInfo) -> int:
    """The instant a duration ago, to the second: `usage --since 1h`."""
    return _shifted(parse_duration(text), now_ms, tz, -1, text)


def after_ms(text: str, now_ms: int, tz: ZoneInfo) -> int:
    """The instant a duration ahead: `rotate --grace 24h`."""
    return _shifted(parse_duration(text), now_ms, tz, 1, text)


def since_ms(text: str, now_ms: int, tz: ZoneInfo, *, precise: bool = False) -> int:
    """The first instant of a span that starts at a duration ago or at a date.

    `30d` means whole days, starting with the midnight of the day 30 days ago; `precise` counts it back from now.
    """
    when = _when(text, now_ms, tz)
    if isinstance(when, Duration):
        if precise or not when.of_days:
            return _shifted(when, now_ms, tz, -1, text)
        return day_start_ms(_days_away(when, local_day(now_ms, tz), -1, text), tz)
    return _moment_ms(when) if isinstance(when, datetime) else day_start_ms(when, tz)


def until_ms(text: str, now_ms: int, tz: ZoneInfo, *, precise: bool = False) -> int:
    """The exclusive end of a span: a date, or a duration of days, includes that day."""
    when = _when(text, now_ms, tz)
    if isinstance(when, datetime):
        return _moment_ms(when)
    if isinstance(when, Duration):
        if precise or not when.of_days:
            return _shifted(when, now_ms, tz, -1, text)
        when = _days_away(when, local_day(now_ms, tz), -1, text)
    return _day_end(when, tz, text)


def expires_ms(text: str, now_ms: int, tz: ZoneInfo) -> int:
    """When something ends that is given `90d` or until `2027-01-31`, which is through the end of that day."""
    when = _when(text, now_ms, tz)
    if isinstance(when, Duration):
        end_ms = _shifted(when, now_ms, tz, 1, text)
    else:
        end_ms = _moment_ms(when) if isinstance(when, datetime) else _day_end(when, tz, text)
    if end_ms <= now_ms:
        raise UsageError(f"{text!r} is not in the future: write a duration such as 90d, or a later date.")
    return end_ms


def begins_ms(text: str, now_ms: int, tz: ZoneInfo) -> int:
    """When something begins that is to begin in `7d`, or on a date, which is with the first instant of that day."""
    when = _when(text, now_ms, tz)
    if isinstance(when, Duration):
        return _shifted(when, now_ms, tz, 1, text)
    return _moment_ms(when) if isinstance(when, datetime) else day_start_ms(when, tz)


def local_day(ms: int, tz: ZoneInfo) -> date:
    """The day that an instant falls on in a zone."""
    return _moment(ms).astimezone(tz).date()


def day_of(ms: int, tz: ZoneInfo) -> str:
    """`local_day` as reports and roll-ups write it: `2026-11-20`."""
    return local_day(ms, tz).isoformat()


def day_start_ms(day: date, tz: ZoneInfo) -> int:
    """The first instant of a day. Where clocks skip midnight it is the moment they do; where midnight comes twice, the
    first: `fold=0` reads a skipped time by the offset before the change, and a repeated one as its first pass.
    """
    return _moment_ms(datetime(day.year, day.month, day.day, tzinfo=tz))


def hour_start_ms(ms: int, tz: ZoneInfo) -> int:
    """The first instant of the hour that a clock on the wall shows; an hour that comes twice is two hours."""
    moment = _moment(ms).astimezone(tz)
    return ms - (moment.minute * 60 + moment.second) * 1000 - moment.microsecond // 1000


def rfc3339(ms: int) -> str:
    """An instant as JSON carries it: `2026-11-20T10:00:00.123Z`."""
    return _moment(ms).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def instant_ms(text: str) -> int:
    """What `rfc3339` wrote. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return _moment_ms(moment)


def _when(text: str, now_ms: int, tz: ZoneInfo) -> Duration | date | datetime:
    """What was typed; a `datetime` (with its zone) is a `date` too, so ask for it first."""
    word = text.strip()
    today = local_day(now_ms, tz)
    if match := _DURATION.fullmatch(word):
        return Duration(int(match[1]), match[2])
    if word in ("today", "yesterday"):
        return today - timedelta(days=word == "yesterday")
    if word in WEEKDAYS:
        return today - timedelta(days=(today.weekday() - WEEKDAYS.index(word)) % 7)
    try:
        if _DATE.fullmatch(word):
            return date.fromisoformat(word)
        if _MOMENT.fullmatch(word):
            moment = datetime.fromisoformat(word)
            return moment if moment.tzinfo else moment.replace(tzinfo=tz)
    except ValueError as error:
        raise UsageError(f"{text!r} is not in the calendar: there is no such month, day or hour.") from error
    cure = _perhaps_days(text) or f"write a duration ({DURATIONS}) or a date ({DATES})."
    raise UsageError(f"{text!r} is no time: {cure}")


def _perhaps_days(text: str) -> str | None:
    """What was probably meant by a number without a unit."""
    word = text.strip()
    return f"did you mean {word}d?" if re.fullmatch("[1-9][0-9]{0,2}", word) else None


def _shifted(span: Duration, now_ms: int, tz: ZoneInfo, sign: int, text: str) -> int:
    if span.unit in FIXED_MS:
        shifted_ms = now_ms + sign * span.amount * FIXED_MS[span.unit]
    else:
        now = _moment(now_ms).astimezone(tz)
        day = _days_away(span, now.date(), sign, text)
        shifted_ms = _moment_ms(now.replace(year=day.year, month=day.month, day=day.day))
    try:
        _moment(shifted_ms)
    except OverflowError as error:
        raise _too_far(text) from error
    return shifted_ms


def _days_away(span: Duration, day: date, sign: int, text: str) -> date:
    try:
        if span.unit in DAYS:
            return day + sign * timedelta(days=span.amount * DAYS[span.unit])
        year, month = divmod(day.year * 12 + day.month - 1 + sign * span.amount * MONTHS[span.unit], 12)
        return date(year, month + 1, min(day.day, monthrange(year, month + 1)[1]))
    except (OverflowError, ValueError) as error:
        raise _too_far(text) from error


def _day_end(day: date, tz: ZoneInfo, text: str) -> int:
    try:
        return day_start_ms(day + timedelta(days=1), tz)
    except OverflowError as error:
        raise _too_far(text) from error


def _too_far(text: str) -> UsageError:
    return UsageError(f"{text!r} is too far away: the calendar has the years 1 to 9999.")


def _moment(ms: int) -> datetime:
    return _EPOCH + ms * _MILLISECOND


def _moment_ms(moment: datetime) -> int:
    return (moment - _EPOCH) // _MILLISECOND
