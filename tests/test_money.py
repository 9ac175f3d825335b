"""Money: exact in, exact out, and refused rather than rounded."""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgate.errors import UsageError
from llmgate.money import MAX_NANO, NANO, catalogue_nano, ceil_div, dollars, parse_usd, to_nano, usd

amounts = st.integers(0, MAX_NANO)
any_sign = st.integers(-MAX_NANO, MAX_NANO)


# usd and parse_usd


@given(amounts)
def test_what_usd_writes_parse_usd_reads(nano: int) -> None:
    assert parse_usd(usd(nano)) == nano


@given(st.integers(0, 9_223_372_035), st.text("0123456789", max_size=9))
def test_what_parse_usd_reads_usd_writes_as_the_same_number(whole: int, decimals: str) -> None:
    text = f"{whole}.{decimals}"
    assert Fraction(usd(parse_usd(text))) == Fraction(Decimal(text))


@given(any_sign, st.integers(0, 12))
def test_usd_is_exact_and_has_no_needless_zeros(nano: int, places: int) -> None:
    assert Fraction(usd(nano)) == Fraction(nano, NANO)
    assert re.fullmatch(r"-?(0|[1-9]\d*)(\.\d*[1-9])?", usd(nano))
    padded = usd(nano, places=places)
    assert Fraction(padded) == Fraction(nano, NANO)
    assert len(padded.partition(".")[2]) >= places


@pytest.mark.parametrize(
    ("nano", "places", "text"),
    [
        (0, 0, "0"),
        (0, 2, "0.00"),
        (1, 0, "0.000000001"),
        (-1, 0, "-0.000000001"),
        (1_500_000_000, 0, "1.5"),
        (1_500_000_000, 2, "1.50"),
        (1_234_567_891, 2, "1.234567891"),
        (10 * NANO, 0, "10"),
        (-10 * NANO, 2, "-10.00"),
        (MAX_NANO, 0, "9223372036.854775807"),
    ],
)
def test_usd(nano: int, places: int, text: str) -> None:
    assert usd(nano, places=places) == text


@pytest.mark.parametrize(
    ("text", "nano"),
    [
        ("0", 0),
        ("5", 5 * NANO),
        ("$5", 5 * NANO),
        ("$ 5", 5 * NANO),
        ("5 USD", 5 * NANO),
        ("5usd", 5 * NANO),
        (" 5\n", 5 * NANO),
        ("+5", 5 * NANO),
        ("5.", 5 * NANO),
        (".25", 250_000_000),
        ("12.50", 12_500_000_000),
        ("1_000", 1_000 * NANO),
        ("1e-3", 1_000_000),
        ("1E3", 1_000 * NANO),
        ("0.000123", 123_000),
        ("0.000000001", 1),
        ("0.0000000010", 1),
        ("9223372036.854775807", MAX_NANO),
    ],
)
def test_parse_usd_reads_what_people_type(text: str, nano: int) -> None:
    assert parse_usd(text) == nano


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not a number"),
        ("$", "not a number"),
        ("USD", "not a number"),
        ("five", "not a number"),
        ("1,5", "not a number"),
        ("1,234.50", "not a number"),
        ("5 EUR", "not a number"),
        ("€5", "not a number"),
        ("1.2.3", "not a number"),
        ("0x10", "not a number"),
        ("\u0665", "not a number"),
        ("-1", "negative"),
        ("-0.000000001", "negative"),
        ("$-1", "negative"),
        ("-$1", "not a number"),
        ("0.0000000001", "finer"),
        ("1.0000000005", "finer"),
        ("1e-10", "finer"),
        ("1e-1000000", "finer"),
        ("9223372036.854775808", "too large"),
        ("9223372037", "too large"),
        ("1e19", "too large"),
        ("1e999999", "too large"),
        ("1e999999999", "too large"),
        ("9" * 10_000, "too large"),
        ("NaN", "not a finite number"),
        ("sNaN", "not a finite number"),
        ("inf", "not a finite number"),
        ("-Infinity", "not a finite number"),
    ],
)
def test_parse_usd_refuses_the_rest_and_says_why(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        parse_usd(text)
    assert repr(text) in caught.value.message
    assert "for example" in caught.value.message


@given(amounts, st.integers(1, 10**9 - 1))
def test_more_than_nine_decimals_are_never_rounded(nano: int, beyond: int) -> None:
    with pytest.raises(UsageError):
        parse_usd(f"{usd(nano, places=9)}{beyond:09d}")


@pytest.mark.parametrize(
    "text",
    [
        "1.0000000000000000000000000001",
        "0.99999999999999999999999999999",
        "9223372036.8547758070000000000000001",
        "1e-2000000",
    ],
)
def test_not_even_past_the_precision_of_decimal(text: str) -> None:
    with pytest.raises(UsageError):
        parse_usd(text)


@given(st.text())
def test_parse_usd_reads_or_refuses_and_never_breaks(text: str) -> None:
    try:
        nano = parse_usd(text)
    except UsageError:
        return
    assert 0 <= nano <= MAX_NANO


# to_nano


@pytest.mark.parametrize(
    ("value", "nano"),
    [(3, 3 * NANO), ("0.5", 500_000_000), (Decimal("0.5"), 500_000_000), (0, 0), (Decimal("-0"), 0)],
)
def test_to_nano_takes_what_is_exact(value: Decimal | int | str, nano: int) -> None:
    assert to_nano(value) == nano


def test_to_nano_of_another_unit() -> None:
    assert to_nano("1.5", per=10) == 15
    with pytest.raises(ValueError, match="finer"):
        to_nano("1.55", per=10)


def test_to_nano_of_what_is_no_number_at_all() -> None:
    with pytest.raises(ValueError, match="None is not a number"):
        to_nano(None)  # type: ignore[arg-type]


# dollars


@given(any_sign)
def test_dollars_shows_the_exact_amount(nano: int) -> None:
    text = dollars(nano)
    assert re.fullmatch(r"-?\$\d{1,3}(,\d{3})*\.\d{2,9}", text)
    assert Fraction(text.replace("$", "").replace(",", "")) == Fraction(nano, NANO)


@pytest.mark.parametrize(
    ("nano", "text"),
    [
        (0, "$0.00"),
        (1, "$0.000000001"),
        (123_000, "$0.000123"),
        (-123_000, "-$0.000123"),
        (500_000_000, "$0.50"),
        (1_234_500_000_000, "$1,234.50"),
        (-1_234_567 * NANO, "-$1,234,567.00"),
    ],
)
def test_dollars(nano: int, text: str) -> None:
    assert dollars(nano) == text


# catalogue_nano and ceil_div


@given(st.decimals(0, 10_000, allow_nan=False, places=18))
def test_a_list_price_is_rounded_up_by_less_than_one(price: Decimal) -> None:
    nano = catalogue_nano(price)
    assert 0 <= nano - Fraction(price) * NANO < 1


@given(st.integers(0, 10**15))
def test_an_exact_list_price_stays(nano: int) -> None:
    assert catalogue_nano(Decimal(usd(nano))) == nano


@pytest.mark.parametrize(
    ("price", "nano"),
    [("0", 0), ("0.25", 250_000_000), ("0.0000000001", 1), ("1.0000000001", NANO + 1), ("1.9999999999", 2 * NANO)],
)
def test_catalogue_nano(price: str, nano: int) -> None:
    assert catalogue_nano(Decimal(price)) == nano


def test_a_list_price_is_rounded_up_past_the_precision_of_decimal() -> None:
    assert catalogue_nano(Decimal("1.0000000000000000000000000001")) == NANO + 1


def test_a_binary_float_of_a_list_rounds_up_to_the_next_nano() -> None:
    assert catalogue_nano(Decimal.from_float(0.1)) == 100_000_001  # 0.1000000000000000055…


@given(st.integers(-(10**30), 10**30), st.integers(1, 10**18))
def test_ceil_div_is_the_least_integer_not_below(numerator: int, denominator: int) -> None:
    quotient = ceil_div(numerator, denominator)
    assert (quotient - 1) * denominator < numerator <= quotient * denominator


@pytest.mark.parametrize(
    ("numerator", "denominator", "quotient"),
    [(0, 7, 0), (1, 7, 1), (7, 7, 1), (8, 7, 2), (-1, 7, 0), (-7, 7, -1), (10**40 + 1, 10**20, 10**20 + 1)],
)
def test_ceil_div(numerator: int, denominator: int, quotient: int) -> None:
    assert ceil_div(numerator, denominator) == quotient
