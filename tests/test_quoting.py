"""Bounds and estimates, to the letter, and the clamp against a search that knows nothing of its arithmetic."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgate.errors import Refusal
from llmgate.pricing import UNITS, Dearest, Price
from llmgate.quoting import (
    PREAMBLE_TOKENS,
    SMALLEST_CLAMP,
    TEMPLATE_TOKENS,
    UNKNOWN_CONTEXT,
    amount_at,
    clamped_output,
    input_bound,
    input_estimate,
    output_estimate,
    positive,
    quote,
    rates_for,
)
from llmgate.types import Ask, Quote


def ask(
    text_bytes: int = 0,
    messages: int = 0,
    *,
    media_tokens: int = 0,
    hidden_input: bool = False,
    output: bool = True,
    max_output: int | None = None,
    min_output: int = 1,
    choices: int = 1,
) -> Ask:
    return Ask(
        model="m",
        text_bytes=text_bytes,
        messages=messages,
        media_tokens=media_tokens,
        hidden_input=hidden_input,
        output=output,
        max_output=max_output,
        min_output=min_output,
        choices=choices,
    )


# ── estimates and bounds ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text_bytes", "messages", "media", "tokens"),
    [(0, 0, 0, 0), (1, 0, 0, 1), (3, 0, 0, 1), (4, 0, 0, 2), (300, 2, 0, 108), (301, 2, 0, 109), (3, 1, 765, 770)],
)
def test_the_input_is_estimated_at_a_third_of_its_bytes_and_four_per_message(
    text_bytes: int, messages: int, media: int, tokens: int
) -> None:
    assert input_estimate(ask(text_bytes, messages, media_tokens=media)) == tokens


def test_sound_is_estimated_at_its_likely_length() -> None:
    heard = Ask(model="m", text_bytes=3, media_tokens=2_000, milliseconds=100_000, likely_milliseconds=9_375)
    assert input_estimate(heard) == 1 + 188
    assert input_bound(heard, None) == 3 + 128 + 2_000


@pytest.mark.parametrize(("text_bytes", "tokens"), [(0, 0), (1, 1), (2, 1), (3, 1), (4, 2), (3000, 1000), (3001, 1001)])
def test_the_output_is_estimated_at_a_third_of_its_bytes(text_bytes: int, tokens: int) -> None:
    assert output_estimate(text_bytes) == tokens


def test_the_input_bound_is_a_token_per_byte_and_room_for_templates() -> None:
    assert (TEMPLATE_TOKENS, PREAMBLE_TOKENS) == (16, 128)
    assert input_bound(ask(1000, 3, media_tokens=50), 8000) == 1000 + 3 * 16 + 128 + 50


@pytest.mark.parametrize(("window", "bound"), [(8000, 8000), (None, UNKNOWN_CONTEXT)])
def test_hidden_input_is_bounded_by_the_context_window(window: int | None, bound: int) -> None:
    assert input_bound(ask(1000, 3, hidden_input=True), window) == bound


def test_a_model_that_is_called_again_reads_all_again() -> None:
    assert input_bound(Ask(model="m", text_bytes=1000, hidden_input=True, rounds=4), 8000) == 4 * 8000


def test_everything_that_a_request_may_cause_has_its_rate() -> None:
    price = Price(input=1, audio_input=9, output=2, calls=5, searches=10, images=100, milliseconds=7, characters=3)
    plain = Ask(model="m")
    assert rates_for(plain, (price,), 0) == Dearest(input=1, output=2, fixed=5)
    heard = Ask(model="m", media_tokens=1, searches=2, images=3, milliseconds=4, characters=6)
    assert rates_for(heard, (price,), 0) == Dearest(input=9, output=2, fixed=5 + 20 + 300 + 28 + 18)
    assert rates_for(Ask(model="m", hidden_input=True), (price,), 0) == Dearest(input=9, output=2, fixed=5)


@given(st.integers(0, 10**7), st.integers(0, 1000), st.integers(0, 10**6))
def test_an_estimate_is_within_its_bound(text_bytes: int, messages: int, media: int) -> None:
    asked = ask(text_bytes, messages, media_tokens=media)
    assert input_estimate(asked) <= input_bound(asked, None)


# ── quotes ────────────────────────────────────────────────────────────────────────────────────────────────────────────

PRICE = Dearest(input=1_000_000, output=2_000_000, fixed=500_000)
"""One nano-USD per input token, two per output token, half of one per request."""


def quoted(asked: Ask, price: Dearest = PRICE, input_tokens: int = 100, max_output: int = 1000) -> Quote:
    return quote(asked, price, input_tokens, max_output)


@pytest.mark.parametrize(
    ("asked", "output", "floor"),
    [
        (ask(), 1000, 256),
        (ask(max_output=5000), 5000, 256),
        (ask(max_output=257), 257, 256),
        (ask(max_output=100), 100, 100),
        (ask(max_output=1), 1, 1),
        (ask(min_output=400), 1000, 400),
        (ask(max_output=300, min_output=16), 300, 256),
        (ask(max_output=300, min_output=300), 300, 300),
        (ask(max_output=300, min_output=5000), 300, 300),
        (ask(output=False), 0, 0),
        (ask(output=False, max_output=77), 0, 0),
    ],
)
def test_the_output_bound_and_the_least_worth_sending(asked: Ask, output: int, floor: int) -> None:
    found = quoted(asked)
    assert (found.output_tokens, found.floor_tokens) == (output, floor)
    assert found.amount_nano == 100 + 2 * output + 1
    assert found.floor_nano == 100 + 2 * floor + 1


def test_a_quote_counts_every_choice() -> None:
    found = quoted(ask(max_output=10, choices=4))
    assert (found.output_tokens, found.choices) == (10, 4)
    assert found.amount_nano == 100 + 4 * 10 * 2 + 1


@pytest.mark.parametrize(("bound", "estimate"), [(1000, 104), (104, 104), (50, 50)])
def test_the_estimate_of_a_quote_is_never_above_its_bound(bound: int, estimate: int) -> None:
    assert quoted(ask(300, 1), input_tokens=bound).input_estimate == estimate


# ── the clamp ─────────────────────────────────────────────────────────────────────────────────────────────────────────

RATES = st.one_of(st.integers(0, 3), st.integers(0, UNITS), st.integers(0, 200 * 10**9))


@st.composite
def quotes(draw: st.DrawFn) -> tuple[Quote, Dearest]:
    price = Dearest(input=draw(RATES), output=draw(RATES), fixed=draw(st.integers(0, 10**15)))
    asked = ask(
        max_output=draw(st.one_of(st.none(), st.integers(1, 600), st.integers(1, 200_000))),
        min_output=draw(st.sampled_from((1, 16, 1025))),
        choices=draw(st.integers(1, 4)),
        output=draw(st.booleans()),
    )
    return quote(asked, price, draw(st.integers(0, 10**6)), draw(st.integers(1, 20_000))), price


def searched(found: Quote, price: Dearest, room: int) -> int | None:
    """The largest output between floor and quote that fits the room, by halving and by nothing but `amount_at`."""

    def fits(output: int) -> bool:
        return amount_at(price, found.input_tokens, output, found.choices) <= room

    low, high = found.floor_tokens, found.output_tokens
    if not fits(low):
        return None
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


@settings(max_examples=500)
@given(quotes(), st.data())
def test_the_clamp_is_the_largest_output_that_fits(pair: tuple[Quote, Dearest], data: st.DataObject) -> None:
    found, price = pair
    room = data.draw(
        st.one_of(
            st.integers(-(10**6), 10**19),
            st.integers(found.floor_nano - 2, found.amount_nano + 2),
            st.sampled_from((0, found.floor_nano - 1, found.floor_nano, found.amount_nano - 1, found.amount_nano)),
        ),
        "room",
    )
    assert clamped_output(found, price, room) == searched(found, price, room)


@pytest.mark.parametrize(
    ("room", "output"),
    [
        (10_000, 1000),
        (2101, 1000),
        (2100, 999),
        (2099, 999),
        (2098, 998),
        (614, 256),
        (613, 256),
        (612, None),
        (0, None),
        (-5000, None),
    ],
)
def test_the_clamp_at_its_edges(room: int, output: int | None) -> None:
    assert SMALLEST_CLAMP == 256
    assert clamped_output(quoted(ask()), PRICE, room) == output


def test_a_request_without_output_fits_or_doesnt() -> None:
    embedding = quoted(ask(output=False))
    assert clamped_output(embedding, PRICE, 101) == 0
    assert clamped_output(embedding, PRICE, 100) is None


def test_output_that_costs_nothing_is_not_clamped() -> None:
    price = Dearest(input=1_000_000, output=0, fixed=0)
    assert clamped_output(quoted(ask(), price), price, 100) == 1000
    assert clamped_output(quoted(ask(), price), price, 99) is None


# ── what a request may state ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("value", [1, 2, 16_384, 2**31 - 1])
def test_a_bound_is_a_positive_integer(value: int) -> None:
    assert positive(value, "max_tokens") == value


@pytest.mark.parametrize("value", [0, -1, 2**31, 10**30, True, False, 1.0, 1.5, "5", None, [], {}, float("inf")])
def test_nothing_else_is_a_bound(value: object) -> None:
    with pytest.raises(Refusal) as caught:
        positive(value, "max_tokens")
    assert caught.value.message == "max_tokens must be an integer from 1 to 2147483647"
    assert (caught.value.code, caught.value.param) == ("invalid_request", "max_tokens")
