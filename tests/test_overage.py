"""What a plan with overage charges, as plain arithmetic."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgate.overage import UNLIMITED, Terms, charged, past, worst
from llmgate.pricing import UNITS, Price
from llmgate.types import Meters

STARTER = Terms(100_000, "*", 2_000_000)
"""100,000 tokens a month, $0.002 for each past them."""


@pytest.mark.parametrize(
    ("used", "tokens", "nano"),
    [
        (0, 0, 0),
        (0, 100_000, 0),
        (0, 100_001, 2_000_000),
        (99_999, 1, 0),
        (99_999, 2, 2_000_000),
        (100_000, 1, 2_000_000),
        (100_000, 0, 0),
        (250_000, 1_000, 2_000_000_000),
    ],
)
def test_each_token_past_the_included_ones_is_charged(used: int, tokens: int, nano: int) -> None:
    assert past(STARTER, used, tokens) == nano


def test_unlimited_tokens_are_never_past() -> None:
    assert past(Terms(UNLIMITED, "*", 5), 10**15, 10**9) == 0


@given(
    quota=st.integers(0, 50), nano=st.integers(0, 9), flying=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)))
)
def test_the_charges_of_a_month_add_up_whatever_their_order(
    quota: int, nano: int, flying: list[tuple[int, int]]
) -> None:
    """And each stays within the worst that was held for it: `used` and the bounds of what is in flight only fall."""
    terms = Terms(quota, "*", nano)
    requests = [(bound, min(bound, tokens)) for bound, tokens in flying]
    reached = sum(bound for bound, _ in requests)
    used = total = 0
    for bound, tokens in requests:
        one = past(terms, used, tokens)
        assert one <= worst(terms, bound, reached)
        used, total = used + tokens, total + one
    assert total == nano * max(0, used - quota)


OWN, COST = Price(input=UNITS, searches=30 * UNITS, calls=7 * UNITS), Price(input=2 * UNITS, output=3 * UNITS)
METERS = Meters(input=10, cached_input=20, output=5, reasoning=5, searches=2, calls=1)


@pytest.mark.parametrize(
    ("own", "terms", "used", "nano"),
    [
        (None, None, 0, 999),  # at cost, which the upstream may have told
        (OWN, None, 0, 10 + 20 + 10 + 60 + 7),
        (OWN, Terms(100, "*", 1000), 0, 60 + 7),  # what isn't tokens is paid by its price
        (OWN, Terms(100, "*", 1000), 61, 60 + 7 + 1000),
        (None, Terms(100, "*", 1000), 60, 0),
        (None, Terms(100, "*", 1000), 100, 40_000),
    ],
)
def test_who_pays_by_what(own: Price | None, terms: Terms | None, used: int, nano: int) -> None:
    assert charged(METERS, 999, COST, own, terms, used) == nano
