"""Pricing: every fallback, every tier, one rounding, and the quote that no charge exceeds."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgate.money import NANO
from llmgate.pricing import (
    CONFIG_KEYS,
    FREE,
    PARENTS,
    TOKENS,
    UNITS,
    Price,
    Tier,
    amount,
    dearest,
    decode,
    encode,
    price_of,
    rates,
)
from llmgate.quoting import amount_at
from llmgate.types import METERS, Meters

USD = NANO
"""A rate of 1 USD per 1M."""


def rate(price: Price, meter: str, input_tokens: int = 0) -> int:
    return rates(price, input_tokens)[METERS.index(meter)]


# ── as an admin writes it ─────────────────────────────────────────────────────────────────────────────────────────────


def test_every_price_key_prices_a_meter_and_every_meter_has_a_key() -> None:
    assert sorted(name for name, _ in CONFIG_KEYS.values()) == sorted(METERS)
    assert set(METERS) | {"tiers"} == set(Price.__struct_fields__)


@pytest.mark.parametrize(
    ("table", "price"),
    [
        ("free", Price(input=0, output=0)),
        ({"input": 1}, Price(input=USD)),
        ({"input": Decimal("0.25"), "output": Decimal("0.5")}, Price(input=USD // 4, output=USD // 2)),
        ({"output": Decimal("0.000000001")}, Price(output=1)),
        ({"input": 0, "output": 0}, Price(input=0, output=0)),
        ({"cached_input": 1, "input": 10}, Price(input=10 * USD, cached_input=USD)),
        ({"cache_write": 1}, Price(cache_write=USD)),
        ({"cache_write_1h": 2}, Price(cache_write_1h=2 * USD)),
        ({"reasoning": 3}, Price(reasoning=3 * USD)),
        ({"audio_input": 4}, Price(audio_input=4 * USD)),
        ({"audio_output": 5}, Price(audio_output=5 * USD)),
        ({"image_input": 6}, Price(image_input=6 * USD)),
        ({"per_request": Decimal("0.01")}, Price(calls=10_000_000 * UNITS)),
        ({"per_image": Decimal("0.04")}, Price(images=40_000_000 * UNITS)),
        ({"per_second": Decimal("0.0001")}, Price(milliseconds=100_000 * UNITS // 1000)),
        ({"per_search": Decimal("0.01")}, Price(searches=10_000_000 * UNITS)),
        ({"per_1k_characters": Decimal("0.015")}, Price(characters=15_000_000 * UNITS // 1000)),
    ],
)
def test_what_an_admin_writes(table: dict[str, Decimal | int] | str, price: Price) -> None:
    assert price_of(table) == price


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ("cheap", "'cheap' is no price: write \"free\" or a table"),
        ("", "'' is no price"),
        ({}, 'at least one key, or write "free"'),
        ({"inptu": 1}, "'inptu' is no price key; there are input, cached_input"),
        ({"calls": 1}, "'calls' is no price key"),
        ({"tiers": 1}, "'tiers' is no price key"),
        ({"input": -1}, "-1 is negative"),
        ({"input": 1, "output": Decimal("-0.5")}, "-0.5 is negative"),
        ({"input": Decimal("0.0000000001")}, "finer than one nano-USD"),
        ({"per_request": Decimal("0.0000000001")}, "finer than one nano-USD"),
        ({"input": Decimal("NaN")}, "not a finite number"),
        ({"input": Decimal("Infinity")}, "not a finite number"),
        ({"input": 10**10}, "too large"),
    ],
)
def test_what_is_no_price(table: dict[str, Decimal | int] | str, why: str) -> None:
    with pytest.raises(ValueError) as caught:
        price_of(table)
    assert why in str(caught.value)


@pytest.mark.parametrize(
    ("table", "meters", "usd"),
    [
        ({"per_request": Decimal("0.01")}, Meters(calls=1), "0.01"),
        ({"per_image": Decimal("0.04")}, Meters(images=3, calls=1), "0.12"),
        ({"per_second": Decimal("0.0001")}, Meters(milliseconds=1_500, calls=1), "0.00015"),
        ({"per_second": Decimal("0.000001")}, Meters(milliseconds=1), "0.000000001"),
        ({"per_search": Decimal("0.01")}, Meters(searches=7, calls=1), "0.07"),
        ({"per_1k_characters": Decimal("0.015")}, Meters(characters=500, calls=1), "0.0075"),
        ({"input": 3, "output": 15}, Meters(input=1_000_000, output=200_000, calls=1), "6"),
    ],
)
def test_a_unit_costs_what_its_key_says(table: dict[str, Decimal | int], meters: Meters, usd: str) -> None:
    assert amount(meters, price_of(table)) == int(Decimal(usd) * NANO)


# ── fallbacks: never to nothing ───────────────────────────────────────────────────────────────────────────────────────


def test_the_parents() -> None:
    assert {child for child, parent in PARENTS.items() if parent == "output"} == {"reasoning", "audio_output"}
    assert {child for child, parent in PARENTS.items() if parent == "input"} == set(TEXT_IN + MEDIA_IN) - {"input"}


@pytest.mark.parametrize(("child", "parent"), PARENTS.items())
def test_a_missing_special_price_is_its_parents(child: str, parent: str) -> None:
    price = Price(input=3 * USD, output=7 * USD)
    assert rate(price, child) == {"input": 3 * USD, "output": 7 * USD}[parent]
    own = msgspec.structs.replace(price, **{child: 5})
    assert rate(own, child) == 5
    nothing = msgspec.structs.replace(price, **{child: 0})
    assert rate(nothing, child) == 0, "a special price that is written as 0 is 0"


@pytest.mark.parametrize(
    ("price", "input_rate", "output_rate"),
    [
        (Price(input=3), 3, 3),
        (Price(output=7), 7, 7),
        (Price(input=3, output=7), 3, 7),
        (Price(input=0, output=7), 0, 7),
        (Price(input=3, output=0), 3, 0),
        (Price(calls=9), 0, 0),
        (Price(images=9), 0, 0),
        (Price(calls=9, input=3), 3, 3),
        (Price(calls=9, output=7), 7, 7),
        (Price(cached_input=2), 2, 2),
        (Price(reasoning=4), 4, 4),
        (Price(cached_input=2, audio_output=8), 8, 8),
        (Price(calls=9, cached_input=2), 2, 2),
        (Price(cached_input=2, input=5), 5, 5),
    ],
)
def test_not_naming_a_rate_never_makes_tokens_free(price: Price, input_rate: int, output_rate: int) -> None:
    assert (rate(price, "input"), rate(price, "output")) == (input_rate, output_rate)


@given(st.sets(st.sampled_from(TOKENS), min_size=1), st.integers(1, 10 * USD))
def test_whatever_token_is_priced_no_token_is_free(named: set[str], nano: int) -> None:
    price = msgspec.convert(dict.fromkeys(named, nano), Price)
    assert {rate(price, name) for name in TOKENS} == {nano}


@pytest.mark.parametrize(
    ("price", "free"),
    [
        (FREE, True),
        (Price(), True),
        (price_of("free"), True),
        (Price(input=0, output=0, cached_input=0), True),
        (Price(input=0), True),
        (Price(input=0, output=0, reasoning=1), False),
        (Price(input=0, output=0, calls=1), False),
        (Price(input=0, output=0, tiers=(Tier(above=10, price=Price(input=1, output=0)),)), False),
        (Price(input=0, output=0, tiers=(Tier(above=10, price=FREE),)), True),
    ],
)
def test_what_is_free(price: Price, free: bool) -> None:
    assert price.free is free


# ── tiers ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

TIERED = Price(
    input=1 * USD,
    output=2 * USD,
    tiers=(
        Tier(above=1000, price=Price(input=10 * USD, output=20 * USD)),
        Tier(above=2000, price=Price(input=100 * USD, output=200 * USD)),
    ),
)


@pytest.mark.parametrize(
    ("input_tokens", "input_rate"),
    [(0, 1), (999, 1), (1000, 1), (1001, 10), (2000, 10), (2001, 100), (10**9, 100)],
)
def test_a_tier_holds_above_its_threshold(input_tokens: int, input_rate: int) -> None:
    assert rate(TIERED, "input", input_tokens) == input_rate * USD


@pytest.mark.parametrize(
    ("meters", "usd_millionths"),
    [
        (Meters(input=1000, output=5), 1000 * 1 + 5 * 2),
        (Meters(input=1001, output=5), 1001 * 10 + 5 * 20),
        (Meters(input=1, cached_input=1000, output=5), 1001 * 10 + 5 * 20),
        (Meters(cache_write=500, cache_write_1h=500, audio_input=500, image_input=500), 2000 * 10),
        (Meters(cache_write=500, cache_write_1h=500, audio_input=500, image_input=501), 2001 * 100),
        (Meters(input=1, output=5000, reasoning=5000), 1 + 10_000 * 2),
    ],
)
def test_a_tier_is_chosen_by_all_of_the_input_and_holds_for_all_of_it(meters: Meters, usd_millionths: int) -> None:
    assert amount(meters, TIERED) == usd_millionths * NANO // UNITS


# ── rounding ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("meters", "price", "nano"),
    [
        (Meters(), Price(input=USD, output=USD), 0),
        (Meters(input=1), Price(input=1), 1),
        (Meters(input=1), Price(input=0, output=1), 0),
        (Meters(input=1_000_000), Price(input=1), 1),
        (Meters(input=1_000_001), Price(input=1), 2),
        # Rounded once: two halves are one, not two.
        (Meters(input=1, output=1), Price(input=500_000, output=500_000), 1),
        (Meters(input=1, output=1), Price(input=500_000, output=500_001), 2),
        (Meters(input=1, cached_input=1, reasoning=1, calls=1), Price(input=1, cached_input=1, output=1, calls=1), 1),
    ],
)
def test_an_amount_is_rounded_once_and_up(meters: Meters, price: Price, nano: int) -> None:
    assert amount(meters, price) == nano


RATES = st.one_of(st.none(), st.integers(0, 5), st.integers(0, 20 * USD), st.integers(0, 10_000 * USD))
FLAT_PRICES = st.builds(Price, **dict.fromkeys(METERS, RATES))
TIERS = st.lists(st.builds(Tier, above=st.integers(0, 3000), price=FLAT_PRICES), max_size=3).map(tuple)
PRICES = st.builds(Price, **dict.fromkeys(METERS, RATES), tiers=TIERS)
COUNTS = st.integers(0, 10**7)


@given(st.builds(Meters, **dict.fromkeys(METERS, COUNTS)), PRICES)
def test_an_amount_is_the_least_integer_that_is_not_below_the_exact_sum(meters: Meters, price: Price) -> None:
    table = dict(zip(METERS, rates(price, meters.input_tokens), strict=True))
    exact = sum(Fraction(getattr(meters, name) * table[name], UNITS) for name in METERS)
    assert 0 <= amount(meters, price) - exact < 1


# ── the quote that no charge exceeds ──────────────────────────────────────────────────────────────────────────────────


@st.composite
def split(draw: st.DrawFn, total: int, parts: tuple[str, ...]) -> dict[str, int]:
    """At most so many units, spread over the meters at random."""
    found = {}
    for name in draw(st.permutations(parts)):
        found[name] = draw(st.integers(0, total))
        total -= found[name]
    return found


TEXT_IN = ("input", "cached_input", "cache_write", "cache_write_1h")
MEDIA_IN = ("audio_input", "image_input")
OUT = ("output", "reasoning", "audio_output")
PIECES = ("images", "milliseconds", "characters")


@settings(max_examples=250)
@given(st.data(), st.lists(PRICES, min_size=1, max_size=4), st.booleans(), st.integers(0, 5))
def test_no_charge_within_the_bounds_exceeds_the_quote(
    data: st.DataObject, prices: list[Price], media: bool, searches: int
) -> None:
    """The no-overspend argument: whatever route and tier a request ends up with, and however its tokens are split."""
    input_bound = data.draw(st.integers(0, 4000), "input bound")
    output_bound, choices = data.draw(st.integers(0, 4000), "output bound"), data.draw(st.integers(1, 3), "choices")
    pieces = {name: data.draw(st.integers(0, 10**7), name) for name in PIECES}
    meters = Meters(
        **data.draw(split(input_bound, (*TEXT_IN, *MEDIA_IN) if media else TEXT_IN)),
        **data.draw(split(output_bound * choices, OUT)),
        searches=data.draw(st.integers(0, searches)),
        **{name: data.draw(st.integers(0, most)) for name, most in pieces.items()},
        calls=data.draw(st.integers(0, 1)),
    )
    price_of_all = dearest(tuple(prices), input_bound, media, searches, **pieces)
    quoted = amount_at(price_of_all, input_bound, output_bound, choices)
    for price in prices:
        assert amount(meters, price) <= quoted


@given(PRICES, st.integers(0, 4000), st.booleans(), st.integers(0, 5))
def test_a_quote_takes_no_rate_that_cannot_be_met(price: Price, bound: int, media: bool, searches: int) -> None:
    met = {0, bound, *(tier.above + 1 for tier in price.tiers if tier.above < bound)}
    tables = [rates(price, tokens) for tokens in met]
    overruled = [rates(tier.price, 0) for tier in price.tiers if tier.above < bound]
    quoted = dearest((price,), bound, media, searches)
    kinds = (*TEXT_IN, *MEDIA_IN) if media else TEXT_IN
    assert quoted.input in {table[METERS.index(name)] for table in tables + overruled for name in kinds}
    assert quoted.output in {table[METERS.index(name)] for table in tables + overruled for name in OUT}


@pytest.mark.parametrize(
    ("price", "bound", "media", "searches", "expected"),
    [
        (TIERED, 1000, False, 0, (1 * USD, 2 * USD, 0)),
        (TIERED, 1001, False, 0, (10 * USD, 20 * USD, 0)),
        (TIERED, 2001, False, 0, (100 * USD, 200 * USD, 0)),
        (Price(input=1, audio_input=9, output=2), 10, False, 0, (1, 2, 0)),
        (Price(input=1, audio_input=9, output=2), 10, True, 0, (9, 2, 0)),
        (Price(input=1, image_input=8, output=2, audio_output=7), 10, True, 0, (8, 7, 0)),
        (Price(input=1, cache_write_1h=5, output=2, reasoning=3), 10, False, 0, (5, 3, 0)),
        (Price(input=1, output=2, calls=4, searches=6), 10, False, 0, (1, 2, 4)),
        (Price(input=1, output=2, calls=4, searches=6), 10, False, 3, (1, 2, 22)),
    ],
)
def test_dearest(price: Price, bound: int, media: bool, searches: int, expected: tuple[int, int, int]) -> None:
    quoted = dearest((price,), bound, media, searches)
    assert (quoted.input, quoted.output, quoted.fixed) == expected


def test_pieces_are_quoted_at_their_own_rates_and_the_dearest_price_of_all_of_them_counts() -> None:
    """Of two prices the one that is dearer for this request: not the sum of the dearest of each."""
    by_piece, by_call = Price(images=5, milliseconds=3, characters=2, calls=1), Price(calls=100, searches=50)
    assert dearest((by_piece,), 10, False, 0, 4, 10, 1000).fixed == 4 * 5 + 10 * 3 + 1000 * 2 + 1
    assert dearest((by_piece, by_call), 10, False, 3, 4, 10).fixed == 250
    assert dearest((by_piece, by_call), 10, False).fixed == 100
    tiered = Price(input=1, tiers=(Tier(above=5, price=Price(images=7)),))
    assert [dearest((tiered,), bound, False, images=2).fixed for bound in (5, 6)] == [0, 14]


def test_a_dearer_tier_may_be_the_lower_one() -> None:
    """A quote may not assume that a price rises with the input."""
    falling = Price(input=10, output=10, tiers=(Tier(above=5, price=Price(input=1, output=1)),))
    assert dearest((falling,), 100, False, 0).input == 10


def test_of_several_routes_the_dearest_of_each_rate_counts() -> None:
    quoted = dearest((Price(input=1, output=9), Price(input=5, output=2, calls=3)), 10, False, 0)
    assert (quoted.input, quoted.output, quoted.fixed) == (5, 9, 3)


# ── what is kept for ever ─────────────────────────────────────────────────────────────────────────────────────────────


@given(PRICES)
def test_a_price_is_read_back_as_it_was_written(price: Price) -> None:
    text = encode(price)
    assert decode(text) == price
    assert encode(decode(text)) == text


def test_the_text_of_a_price_is_canonical() -> None:
    assert encode(price_of({"output": 2, "input": 1})) == encode(price_of({"input": 1, "output": 2}))
    assert encode(price_of({"input": 1, "output": 2})) == '{"input":1000000000,"output":2000000000}'
    assert encode(FREE) == '{"input":0,"output":0}'
    tiered = Price(input=1, tiers=(Tier(above=5, price=Price(input=2)),))
    assert encode(tiered) == '{"input":1,"tiers":[{"above":5,"price":{"input":2}}]}'


@given(st.lists(PRICES, min_size=2, max_size=2, unique=True))
def test_different_prices_have_different_texts(prices: list[Price]) -> None:
    first, second = prices
    assert encode(first) != encode(second)


def test_a_rate_beyond_64_bits_survives() -> None:
    price = price_of({"per_request": 9_000_000_000})
    assert decode(encode(price)) == price
    assert amount(Meters(calls=1), price) == 9_000_000_000 * NANO
