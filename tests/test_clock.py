from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import pytest

from llmgate import clock
from llmgate.errors import UsageError

BERLIN = ZoneInfo("Europe/Berlin")
NEW_YORK = ZoneInfo("America/New_York")
BEIRUT = ZoneInfo("Asia/Beirut")
HAVANA = ZoneInfo("America/Havana")
KIRITIMATI = ZoneInfo("Pacific/Kiritimati")
Z = ZoneInfo("UTC")

HOUR = 3_600_000
DAY = 24 * HOUR


def ms(text: str) -> int:
    moment = datetime.fromisoformat(text)
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()) * 1000


NOW = ms("2026-11-20T10:20:30")  # a Friday


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [
        ("30s", 30, "s"),
        ("15m", 15, "m"),
        ("24h", 24, "h"),
        ("30d", 30, "d"),
        ("8w", 8, "w"),
        ("6mo", 6, "mo"),
        ("1y", 1, "y"),
        (" 0s ", 0, "s"),
    ],
)
def test_durations(text: str, amount: int, unit: str) -> None:
    assert clock.parse_duration(text) == (amount, unit)


@pytest.mark.parametrize("text", ["", "d", "-1d", "1.5h", "1h30m", "30 d", "30D", "30days", "1M", "٣d", "2026-11-20"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(UsageError, match=r"is no duration: write one of 30s 15m 24h 30d 8w 6mo 1y\."):
        clock.parse_duration(text)


def test_a_number_alone_is_probably_days() -> None:
    with pytest.raises(UsageError, match=r"'30' is no duration: did you mean 30d\?"):
        clock.parse_duration("30")
    with pytest.raises(UsageError, match=r"'5' is no time: did you mean 5d\?"):
        clock.since_ms("5", 0, ZoneInfo("UTC"))


@pytest.mark.parametrize(
    ("text", "zone", "start"),
    [
        ("30s", Z, "2026-11-20T10:20:00"),
        ("24h", Z, "2026-11-19T10:20:30"),
        ("0d", Z, "2026-11-20"),
        ("1d", Z, "2026-11-19"),
        ("30d", Z, "2026-10-21"),
        ("2w", Z, "2026-11-06"),
        ("6mo", Z, "2026-05-20"),
        ("1y", Z, "2025-11-20"),
        ("today", Z, "2026-11-20"),
        ("yesterday", Z, "2026-11-19"),
        ("monday", Z, "2026-11-16"),
        ("friday", Z, "2026-11-20"),
        ("saturday", Z, "2026-11-14"),
        ("2026-11-01", Z, "2026-11-01"),
        ("2026-11-20T10:00", Z, "2026-11-20T10:00"),
        ("2026-11-20 10:00:05", Z, "2026-11-20T10:00:05"),
        ("2026-11-20T10:00Z", BERLIN, "2026-11-20T10:00"),
        ("2026-11-20T10:00:00.000+02:00", BERLIN, "2026-11-20T08:00"),
        ("2026-11-20T10:00", BERLIN, "2026-11-20T09:00"),
        ("today", BERLIN, "2026-11-19T23:00"),
        ("today", KIRITIMATI, "2026-11-20T10:00"),  # there it is the 21st already
        ("friday", KIRITIMATI, "2026-11-19T10:00"),
        ("30d", BERLIN, "2026-10-20T22:00"),  # 30 days of which one has 25 hours
        ("6mo", NEW_YORK, "2026-05-20T04:00"),
    ],
)
def test_since(text: str, zone: ZoneInfo, start: str) -> None:
    assert clock.since_ms(text, NOW, zone) == ms(start)


@pytest.mark.parametrize(
    ("text", "zone", "end"),
    [
        ("2026-11-01", Z, "2026-11-02"),
        ("2026-11-20T10:00", Z, "2026-11-20T10:00"),
        ("today", Z, "2026-11-21"),
        ("yesterday", BERLIN, "2026-11-19T23:00"),
        ("monday", Z, "2026-11-17"),
        ("7d", Z, "2026-11-14"),
        ("1h", Z, "2026-11-20T09:20:30"),
        ("2026-10-25", BERLIN, "2026-10-25T23:00"),
        ("2026-03-29", BERLIN, "2026-03-29T22:00"),
    ],
)
def test_until_is_an_exclusive_end(text: str, zone: ZoneInfo, end: str) -> None:
    assert clock.until_ms(text, NOW, zone) == ms(end)


@pytest.mark.parametrize(
    ("text", "start"),
    [("1h", "2026-11-20T09:20:30"), ("30d", "2026-10-21T10:20:30"), ("1mo", "2026-10-20T09:20:30")],
)
def test_precise_counts_back_from_now(text: str, start: str) -> None:
    assert clock.since_ms(text, NOW, BERLIN, precise=True) == ms(start) == clock.before_ms(text, NOW, BERLIN)
    assert clock.until_ms(text, NOW, BERLIN, precise=True) == ms(start)


@pytest.mark.parametrize(
    ("now", "text", "end"),
    [
        ("2026-01-31T12:00", "1mo", "2026-02-28T12:00"),
        ("2028-01-31T12:00", "1mo", "2028-02-29T12:00"),
        ("2028-02-29T12:00", "1y", "2029-02-28T12:00"),
        ("2026-12-15T12:00", "1mo", "2027-01-15T12:00"),
        ("2026-11-20T10:00", "14mo", "2028-01-20T10:00"),
        ("2026-11-20T10:00", "90d", "2027-02-18T10:00"),
    ],
)
def test_ahead_by_the_calendar(now: str, text: str, end: str) -> None:
    assert clock.after_ms(text, ms(now), Z) == ms(end)


def test_a_month_keeps_the_time_of_day_over_a_change_of_clocks() -> None:
    noon_before = ms("2026-10-20T12:00+02:00")
    assert clock.after_ms("1mo", noon_before, BERLIN) == ms("2026-11-20T12:00+01:00")


@pytest.mark.parametrize(
    ("text", "zone", "end"),
    [
        ("90d", Z, "2027-02-18T10:20:30"),
        ("6mo", Z, "2027-05-20T10:20:30"),
        ("2027-01-31", Z, "2027-02-01"),
        ("2027-01-31", NEW_YORK, "2027-02-01T05:00"),
        ("2027-01-31T12:00", BERLIN, "2027-01-31T11:00"),
        ("today", Z, "2026-11-21"),
    ],
)
def test_expires(text: str, zone: ZoneInfo, end: str) -> None:
    assert clock.expires_ms(text, NOW, zone) == ms(end)


@pytest.mark.parametrize("text", ["0d", "yesterday", "2026-11-19", "2026-11-20T10:20", "monday"])
def test_what_expires_is_in_the_future(text: str) -> None:
    with pytest.raises(UsageError, match="is not in the future: write a duration such as 90d, or a later date"):
        clock.expires_ms(text, NOW, Z)


TAKES_A_TIME = [clock.since_ms, clock.until_ms, clock.expires_ms]


@pytest.mark.parametrize("parse", TAKES_A_TIME)
@pytest.mark.parametrize("text", ["", "tomorrow", "30x", "20.11.2026", "2026-11", "20261120", "2026-W47-5", "Monday"])
def test_what_is_no_time(parse: Callable[[str, int, ZoneInfo], int], text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text, NOW, Z)
    assert caught.value.message == (
        f"{text!r} is no time: write a duration (30s 15m 24h 30d 8w 6mo 1y) or a date "
        "(2026-11-20, 2026-11-20T10:00, today, yesterday or monday)."
    )


@pytest.mark.parametrize("parse", TAKES_A_TIME)
@pytest.mark.parametrize("text", ["2026-02-29", "2026-13-01", "2026-11-31", "0000-01-01", "2026-11-20T25:00"])
def test_what_is_not_in_the_calendar(parse: Callable[[str, int, ZoneInfo], int], text: str) -> None:
    with pytest.raises(UsageError, match="is not in the calendar"):
        parse(text, NOW, Z)


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (clock.since_ms, "9999y"),
        (clock.since_ms, "999999999w"),
        (clock.since_ms, "999999999mo"),
        (clock.after_ms, "999999999d"),
        (clock.before_ms, "999999999d"),
        (clock.until_ms, "9999-12-31"),
        (clock.expires_ms, "9999-12-31"),
    ],
)
def test_what_is_too_far(parse: Callable[[str, int, ZoneInfo], int], text: str) -> None:
    with pytest.raises(UsageError, match="is too far away"):
        parse(text, NOW, Z)


@pytest.mark.parametrize(
    ("day", "zone", "start", "hours"),
    [
        (date(2026, 3, 29), BERLIN, "2026-03-28T23:00", 23),
        (date(2026, 10, 25), BERLIN, "2026-10-24T22:00", 25),
        (date(2026, 3, 8), NEW_YORK, "2026-03-08T05:00", 23),
        (date(2026, 11, 1), NEW_YORK, "2026-11-01T04:00", 25),
        (date(2024, 3, 31), BEIRUT, "2024-03-30T22:00", 23),  # clocks skip midnight
        (date(2024, 11, 3), HAVANA, "2024-11-03T04:00", 25),  # midnight comes twice
    ],
)
def test_days_where_clocks_change(day: date, zone: ZoneInfo, start: str, hours: int) -> None:
    start_ms = clock.day_start_ms(day, zone)
    end_ms = clock.until_ms(day.isoformat(), NOW, zone)
    assert start_ms == ms(start)
    assert end_ms - start_ms == hours * HOUR
    assert clock.day_of(start_ms, zone) == clock.day_of(end_ms - 1, zone) == day.isoformat()
    assert clock.day_of(start_ms - 1, zone) < day.isoformat() < clock.day_of(end_ms, zone)


@pytest.mark.parametrize(
    ("at_ms", "zone", "day"),
    [(NOW, Z, "2026-11-20"), (NOW, KIRITIMATI, "2026-11-21"), (0, NEW_YORK, "1969-12-31"), (-1, Z, "1969-12-31")],
)
def test_day_of(at_ms: int, zone: ZoneInfo, day: str) -> None:
    assert clock.day_of(at_ms, zone) == day


@pytest.mark.parametrize(
    ("at_ms", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (NOW, "2026-11-20T10:20:30.000Z"),
        (NOW + 123, "2026-11-20T10:20:30.123Z"),
        (-1, "1969-12-31T23:59:59.999Z"),
    ],
)
def test_rfc3339_and_back(at_ms: int, text: str) -> None:
    assert clock.rfc3339(at_ms) == text
    assert clock.since_ms(text, NOW, BERLIN) == at_ms


@pytest.mark.parametrize("name", ["", "Mars", "Europe", "../UTC", "/etc/passwd", "europe/berlin "])
def test_what_is_no_zone(name: str) -> None:
    with pytest.raises(UsageError, match="is no time zone: write an IANA name"):
        clock.zone(name)


def test_zone() -> None:
    assert clock.zone("Europe/Berlin") == BERLIN
