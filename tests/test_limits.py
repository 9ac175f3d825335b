"""How limits are written, and the windows that they count in."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgate.errors import UsageError
from llmgate.limits import EXAMPLES, FOREVER_MS, Limit, Span, Unit, Window, applying, parse, quantity, span
from llmgate.money import NANO
from llmgate.types import Meters

R, T, I, O, U, C = Unit  # noqa: E741 - the units in their order


# ── how they are written ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "limit", "kept"),
    [
        ("60 requests/minute", Limit(60, R, Window.MINUTE), "60 requests/minute"),
        ("100000 tokens/day", Limit(100_000, T, Window.DAY), "100000 tokens/day"),
        ("$50/month", Limit(50 * NANO, U, Window.MONTH), "$50/month"),
        ("$20 total", Limit(20 * NANO, U, Window.TOTAL), "$20 total"),
        ("$5/day on gpt-4o*", Limit(5 * NANO, U, Window.DAY, "gpt-4o*"), "$5/day on gpt-4o*"),
        ("5 concurrent", Limit(5, C, Window.TOTAL), "5 concurrent"),
        ("100000 tokens/month", Limit(100_000, T, Window.MONTH), "100000 tokens/month"),
        ("unlimited requests/minute", Limit(None, R, Window.MINUTE), "unlimited requests/minute"),
        ("unlimited USD/month", Limit(None, U, Window.MONTH), "unlimited USD/month"),
        ("unlimited concurrent", Limit(None, C, Window.TOTAL), "unlimited concurrent"),
        ("unlimited tokens total on o3", Limit(None, T, Window.TOTAL, "o3"), "unlimited tokens total on o3"),
        ("1 request / hour", Limit(1, R, Window.HOUR), "1 requests/hour"),
        ("1 token/week", Limit(1, T, Window.WEEK), "1 tokens/week"),
        ("1_000 input  tokens/day", Limit(1_000, I, Window.DAY), "1000 input tokens/day"),
        ("7 output token/hour", Limit(7, O, Window.HOUR), "7 output tokens/hour"),
        ("5 USD/day", Limit(5 * NANO, U, Window.DAY), "$5/day"),
        ("5 usd/DAY", Limit(5 * NANO, U, Window.DAY), "$5/day"),
        ("$ 5 USD / day", Limit(5 * NANO, U, Window.DAY), "$5/day"),
        ("$0.000000001 total", Limit(1, U, Window.TOTAL), "$0.000000001 total"),
        ("$1_000.50/week", Limit(1_000_500_000_000, U, Window.WEEK), "$1000.5/week"),
        ("0 requests/day", Limit(0, R, Window.DAY), "0 requests/day"),
        ("$0/day", Limit(0, U, Window.DAY), "$0/day"),
        ("007 requests/day", Limit(7, R, Window.DAY), "7 requests/day"),
        ("  60 Requests/Minute  ", Limit(60, R, Window.MINUTE), "60 requests/minute"),
        ("60requests/minute", Limit(60, R, Window.MINUTE), "60 requests/minute"),
        ("3 Concurrent on slow", Limit(3, C, Window.TOTAL, "slow"), "3 concurrent on slow"),
        ("5 requests/day on *", Limit(5, R, Window.DAY), "5 requests/day"),
        ("5 requests/day on openai/GPT-[45]?", Limit(5, R, Window.DAY, "openai/GPT-[45]?"), None),
    ],
)
def test_a_limit_as_it_is_written(text: str, limit: Limit, kept: str | None) -> None:
    assert parse(text) == limit
    assert str(limit) == (kept or text)


def test_the_examples_are_limits() -> None:
    assert [str(parse(text)) for text in EXAMPLES.split(", ")] == EXAMPLES.split(", ")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "'' is no limit: write for example 60 requests/minute, "),
        ("lots", "'lots' is no limit: write for example "),
        ("5 apples/day", "is no limit"),
        ("5 requests/year", "is no limit"),
        ("5 requests per day", "is no limit"),
        ("-5 requests/day", "is no limit"),
        ("5e3 requests/day", "is no limit"),
        ("requests/day", "is no limit"),
        ("$/day", "is no limit"),
        ("€5/day", "is no limit"),
        ("5 requests/day on", "is no limit"),
        ("5 requests/day on a b", "is no limit"),
        ("5 requests/day/hour", "is no limit"),
        ("5 requests/day total", "is no limit"),
        ("5 reque\u017fts/day", "is no limit"),
        ("\u0665 requests/day", "is no limit"),
        ("5 toKens/day".replace("K", "\u212a"), "is no limit"),
        ("60", "'60' has no unit: requests, tokens, input tokens, output tokens, USD or concurrent"),
        ("60/minute", "'60/minute' has no unit"),
        ("unlimited/minute", "has no unit"),
        ("60 requests", "'60 requests' has no window: add /minute, /hour, /day, /week or /month, or total"),
        ("$5", "'$5' has no window"),
        ("$5 on gpt*", "has no window"),
        ("5 concurrent/minute", "concurrent requests are counted at a moment, not per minute"),
        ("5 concurrent total", "counted at a moment, not per total"),
        ("$5 tokens/day", "'$5 tokens/day': $ is for USD, not for tokens"),
        ("$5 input tokens/day", "$ is for USD, not for input tokens"),
        ("1.5 requests/day", "'1.5' is no amount of requests: a whole number is needed"),
        ("5. tokens/day", "a whole number is needed"),
        ("$1.2.3/day", "'1.2.3' is no amount of USD"),
        ("$0.0000000001/day", "'0.0000000001' is no amount of USD"),
        (f"{2**62} tokens/day", f"{2**62} is too large; write unlimited tokens"),
        ("$4611686018.427387904/day", "is too large; write unlimited USD"),
        ("$99999999999/day", "is no amount of USD"),
        (f"{'9' * 5000} tokens/day", "is no amount of tokens"),
    ],
)
def test_what_is_no_limit_is_told_how_to_write_one(text: str, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert sentence in caught.value.message


def test_the_largest_amounts() -> None:
    assert parse(f"{2**62 - 1} tokens/day").amount == 2**62 - 1
    assert parse("$4611686018.427387903 total").amount == 2**62 - 1


GLOBS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=12)


@st.composite
def limits(draw: st.DrawFn) -> Limit:
    unit = draw(st.sampled_from(Unit))
    window = Window.TOTAL if unit is C else draw(st.sampled_from(Window))
    return Limit(draw(st.none() | st.integers(0, 2**62 - 1)), unit, window, draw(st.just("*") | GLOBS))


@given(limits())
def test_a_limit_is_read_as_it_was_written(limit: Limit) -> None:
    assert parse(str(limit)) == limit


@given(st.text(st.sampled_from("$0159._ /uUsSdDonN*\u017f\u212a\u00a0") | st.characters(), max_size=30))
def test_any_text_is_a_limit_or_a_usage_error(text: str) -> None:
    try:
        limit = parse(text)
    except UsageError:
        return
    assert parse(str(limit)) == limit


# ── which hold ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("own", "shared", "found"),
    [
        ([], [], []),
        ([], ["5 requests/day"], ["5 requests/day"]),
        (["9 requests/day"], ["5 requests/day", "5 requests/hour"], ["9 requests/day", "5 requests/hour"]),
        (["9 requests/day"], ["5 requests/day on gpt*"], ["9 requests/day", "5 requests/day on gpt*"]),
        (["9 requests/day"], ["5 tokens/day"], ["9 requests/day", "5 tokens/day"]),
        (["unlimited requests/day"], ["5 requests/day", "4 requests/day"], []),
        (["9 concurrent"], ["5 concurrent"], ["9 concurrent"]),
        ([], ["7 requests/day", "5 requests/day", "6 requests/day"], ["5 requests/day"]),
        ([], ["unlimited requests/day", "5 requests/day"], ["5 requests/day"]),
    ],
)
def test_own_limits_replace_shared_ones_of_their_slot(own: list[str], shared: list[str], found: list[str]) -> None:
    assert [str(limit) for limit in applying(map(parse, own), map(parse, shared))] == found


@pytest.mark.parametrize(
    ("glob", "name", "meant"),
    [
        ("*", "anything/at-all", True),
        ("gpt-4o*", "gpt-4o-mini", True),
        ("gpt-4o", "gpt-4o-mini", False),
        ("gpt-4o*", "openai/gpt-4o", True),
        ("gpt-4o*", "openrouter/openai/gpt-4o", True),
        ("openai/*", "openrouter/openai/gpt-4o", True),
        ("openai/*", "gpt-4o", False),
        ("GPT-4O*", "gpt-4o", True),
        ("gpt-4o*", "GPT-4o", True),
        ("gpt-?", "gpt-4o", False),
    ],
)
def test_no_other_spelling_of_a_model_gets_round_a_limit(glob: str, name: str, meant: bool) -> None:
    assert parse(f"5 requests/day on {glob}").means(["other", name]) is meant


def test_what_a_request_has_used() -> None:
    of_input = Meters(input=1, cached_input=2, cache_write=4, cache_write_1h=8, audio_input=16, image_input=32)
    of_output = Meters(output=64, reasoning=128, audio_output=256, images=512, searches=1024, calls=2048)
    assert [quantity(unit, of_input, 7) for unit in Unit] == [1, 63, 63, 0, 7, 0]
    assert [quantity(unit, of_output, 7) for unit in Unit] == [1, 448, 0, 448, 7, 0]


# ── windows ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("window", "zone", "at", "start", "end"),
    [
        (Window.MINUTE, "UTC", "2026-11-18T12:34:56.789+00:00", "2026-11-18T12:34+00:00", "2026-11-18T12:35+00:00"),
        (Window.HOUR, "UTC", "2026-11-18T12:34:56.789+00:00", "2026-11-18T12:00+00:00", "2026-11-18T13:00+00:00"),
        (Window.HOUR, "Asia/Kolkata", "2026-11-18T12:34+00:00", "2026-11-18T12:30+00:00", "2026-11-18T13:30+00:00"),
        # autumn: the hour from 2 comes twice
        (Window.HOUR, "Europe/Berlin", "2026-10-25T02:30+02:00", "2026-10-25T02:00+02:00", "2026-10-25T02:00+01:00"),
        (Window.HOUR, "Europe/Berlin", "2026-10-25T02:30+01:00", "2026-10-25T02:00+01:00", "2026-10-25T03:00+01:00"),
        (Window.DAY, "Europe/Berlin", "2026-10-25T02:30+01:00", "2026-10-25T00:00+02:00", "2026-10-26T00:00+01:00"),
        # spring: the hour from 2 is skipped
        (Window.HOUR, "Europe/Berlin", "2026-03-29T01:59+01:00", "2026-03-29T01:00+01:00", "2026-03-29T03:00+02:00"),
        (Window.DAY, "Europe/Berlin", "2026-03-29T12:00+02:00", "2026-03-29T00:00+01:00", "2026-03-30T00:00+02:00"),
        (Window.WEEK, "Europe/Berlin", "2026-03-29T12:00+02:00", "2026-03-23T00:00+01:00", "2026-03-30T00:00+02:00"),
        (Window.MONTH, "Europe/Berlin", "2026-03-29T12:00+02:00", "2026-03-01T00:00+01:00", "2026-04-01T00:00+02:00"),
        # midnight itself is skipped
        (Window.DAY, "America/Santiago", "2026-09-06T12:00-03:00", "2026-09-06T01:00-03:00", "2026-09-07T00:00-03:00"),
        (Window.DAY, "UTC", "2028-02-29T00:00+00:00", "2028-02-29T00:00+00:00", "2028-03-01T00:00+00:00"),
        (Window.MONTH, "UTC", "2028-02-29T23:59:59.999+00:00", "2028-02-01T00:00+00:00", "2028-03-01T00:00+00:00"),
        (Window.MONTH, "UTC", "2026-12-31T23:59+00:00", "2026-12-01T00:00+00:00", "2027-01-01T00:00+00:00"),
        (Window.WEEK, "UTC", "2026-11-16T00:00+00:00", "2026-11-16T00:00+00:00", "2026-11-23T00:00+00:00"),
        (Window.WEEK, "UTC", "2026-11-15T23:59:59.999+00:00", "2026-11-09T00:00+00:00", "2026-11-16T00:00+00:00"),
        (Window.WEEK, "UTC", "2027-01-01T12:00+00:00", "2026-12-28T00:00+00:00", "2027-01-04T00:00+00:00"),
    ],
)
def test_a_window_is_one_of_the_calendar(window: Window, zone: str, at: str, start: str, end: str) -> None:
    def ms(text: str) -> int:
        return round(datetime.fromisoformat(text).timestamp() * 1000)

    assert span(window, ms(at), ZoneInfo(zone)) == Span(ms(start), ms(end))


def test_the_total_never_ends() -> None:
    assert span(Window.TOTAL, 10**12, ZoneInfo("UTC")) == Span(0, FOREVER_MS)


@given(
    window=st.sampled_from([window for window in Window if window is not Window.TOTAL]),
    at_ms=st.integers(0, 4 * 10**12),
    zone=st.sampled_from(("UTC", "Europe/Berlin", "America/Santiago", "Asia/Kolkata", "Pacific/Apia")),
)
def test_windows_follow_each_other_without_a_gap(window: Window, at_ms: int, zone: str) -> None:
    tz = ZoneInfo(zone)
    found = span(window, at_ms, tz)
    assert found.start_ms <= at_ms < found.end_ms
    assert span(window, found.start_ms, tz) == span(window, found.end_ms - 1, tz) == found
    assert span(window, found.end_ms, tz).start_ms == found.end_ms
