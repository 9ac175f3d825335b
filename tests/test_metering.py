"""Quantities that an expression finds, and the meters, prices and quotes that they become."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgate import metering, quoting
from llmgate.metering import METER, MOST_UNITS, Metering, Unit
from llmgate.pricing import amount
from llmgate.types import Meters


@pytest.mark.parametrize(
    ("expression", "answer", "quantity"),
    [
        ("usage.total_tokens", {"usage": {"total_tokens": 7}}, 7),
        ("usage.total_tokens", {"usage": {"total_tokens": 0}}, 0),  # an explicit zero is one
        ("usage.total_tokens || last_sse.usage.total_tokens", {"last_sse": {"usage": {"total_tokens": 7}}}, 7),
        ("sum(results[].chars)", {"results": [{"chars": 3}, {"chars": 4}]}, 7),
        ("length(images)", {"images": [1, 2]}, 2),
        ("seconds", {"seconds": 1.25}, Decimal("1.25")),
        ("to_number(n)", {"n": "12"}, 12),
        ("n", {"n": "12"}, None),
        ("n", {"n": True}, None),
        ("n", {"n": -1}, None),
        ("n", {"n": float("nan")}, None),
        ("n", {"n": float("inf")}, None),
        ("n", {"n": MOST_UNITS}, None),
        ("n", {"n": None}, None),
        ("n", {}, None),
        ("n", None, None),
        ("n", [1], None),
        ("n", "text", None),
        ("sum(n)", {"n": "text"}, None),  # a function that doesn't take it
    ],
)
def test_what_an_expression_finds(expression: str, answer: Any, quantity: Decimal | None) -> None:
    assert metering.found(metering.compiled(expression), answer) == quantity


@pytest.mark.parametrize("expression", ["", "usage.", "a b", "f(", "nosuch(a)", "a || [b.nosuch(c)]", "[?a"])
def test_a_wrong_expression_is_said_to_be(expression: str) -> None:
    with pytest.raises(ValueError, match=r"\A.+\Z"):  # in one line
        metering.compiled(expression)


@pytest.mark.parametrize(
    ("unit", "units", "meters"),
    [
        ("request", 1, Meters(calls=1)),
        ("token", 7, Meters(output=7, calls=1)),
        ("token", Decimal("6.2"), Meters(output=7, calls=1)),
        ("character", 7, Meters(characters=7, calls=1)),
        ("image", 2, Meters(images=2, calls=1)),
        ("second", Decimal("1.2501"), Meters(milliseconds=1251, calls=1)),
        ("second", 0, Meters(calls=1)),
    ],
)
def test_units_are_booked_in_their_meter(unit: Unit, units: Decimal | int, meters: Meters) -> None:
    assert Metering(unit=unit).meters(units) == meters


def test_more_than_could_ever_be_paid_is_a_mistake() -> None:
    counted = Metering(unit="image", expression=metering.compiled("n"), nano=10**9)
    assert counted.counted({"n": 10**6}) == Meters(images=10**6, calls=1)
    assert counted.counted({"n": 10**6 + 1}) is None


units = st.sampled_from(sorted(METER))
prices = st.decimals(0, 1, places=9)


@given(units, prices, st.integers(1, 10**6), st.booleans())
def test_the_quote_is_most_times_the_price(unit: Unit, usd: Decimal, most: int, stream: bool) -> None:
    most = 1 if unit == "request" else most
    price = metering.price_of(unit, usd)
    ask = Metering(unit=unit, most=most).ask("/v1/x", stream=stream)
    bound = quoting.input_bound(ask, None)
    rates = quoting.rates_for(ask, (price,), bound)
    quote = quoting.quote(ask, rates, bound, 1)
    assert quote.amount_nano == quote.floor_nano == most * int(usd * 10**9)
    assert (quote.input_estimate, quote.output_tokens) == (0, most if unit == "token" else 0)


@given(units, prices, st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_charge_within_most_is_within_the_quote(unit: Unit, usd: Decimal, used: int, more: int) -> None:
    counted = Metering(unit=unit, most=1 if unit == "request" else used + more)
    used = 1 if unit == "request" else used
    assert amount(counted.meters(used), metering.price_of(unit, usd)) == used * int(usd * 10**9)
