"""The bounds of a request: what it may cost at most, and what it likely consumes. Pure arithmetic.

Argument that the input bound holds: every tokenizer in use makes at least one byte of UTF-8 text out of each token, so
a text of n bytes has at most n tokens; what chat templates put around messages is allowed for by
`TEMPLATE_TOKENS` per message and `PREAMBLE_TOKENS` per request; media have documented bounds of their own; and what
the body doesn't show is bounded by the model's context window. The output bound is the one that is sent along.
"""

from __future__ import annotations

from .errors import Refusal
from .money import ceil_div
from .pricing import UNITS, Dearest, Price, dearest
from .types import Ask, Quote

TEMPLATE_TOKENS = 16
"""Upper bound of what a chat template adds around one message (the widest in use add 3 to 10)."""

EMBEDDING_TOKENS = 4
"""Upper bound of what is put around one text to embed ([CLS] and [SEP] are two)."""

PREAMBLE_TOKENS = 128
"""Upper bound of what a template adds to a whole request (dates, default system lines; gpt-oss adds about 70)."""

SMALLEST_CLAMP = 256
"""An answer is not clamped below this many tokens, or what was asked for if that is less."""

MOST_NANO = 10**15
"""A million USD: no request is quoted higher, so that sums of holds stay far from 64 bits."""

UNKNOWN_CONTEXT = 1_000_000
"""The context window assumed for hidden input where the catalogue knows none."""


def input_estimate(ask: Ask) -> int:
    """⌈bytes of text / 3⌉ + 4 per message, plus the media: of sound that it brought along, as much as is likely."""
    media = ask.media_tokens
    if ask.milliseconds:
        media = ceil_div(media * ask.likely_milliseconds, ask.milliseconds)
    return ceil_div(ask.text_bytes, 3) + 4 * ask.messages + media


def output_estimate(text_bytes: int) -> int:
    """⌈bytes of text and tool arguments that went by / 3⌉."""
    return ceil_div(text_bytes, 3)


def input_bound(ask: Ask, context_window: int | None) -> int:
    if ask.hidden_input:
        return max(context_window or UNKNOWN_CONTEXT, ask.context) * ask.rounds
    around = TEMPLATE_TOKENS * ask.messages + EMBEDDING_TOKENS * ask.inputs + PREAMBLE_TOKENS
    return ask.text_bytes + around + ask.media_tokens


def rates_for(ask: Ask, prices: tuple[Price, ...], input_tokens: int) -> Dearest:
    """The dearest rates that a request may meet, over all prices that it may end up with."""
    return dearest(
        prices,
        input_tokens,
        ask.media_tokens > 0 or ask.hidden_input,
        ask.searches,
        ask.images,
        ask.milliseconds,
        ask.characters,
    )


def amount_at(price: Dearest, input_tokens: int, output_tokens: int, choices: int) -> int:
    """What so many tokens come to at the dearest rates, in nano-USD, rounded up."""
    return ceil_div(input_tokens * price.input + output_tokens * choices * price.output + price.fixed, UNITS)


def quote(ask: Ask, price: Dearest, input_tokens: int, max_output: int) -> Quote:
    """The most that a request may be charged.

    `max_output` bounds the output where the request has no bound of its own: the model's, else the default.
    """
    output = (ask.max_output or max_output) if ask.output else 0
    amount = amount_at(price, input_tokens, output, ask.choices)
    if amount > MOST_NANO:
        raise Refusal("this request asks for more than could ever be paid: ask for less output")
    floor = max(min(output, SMALLEST_CLAMP), ask.min_output) if ask.output else 0
    return Quote(
        input_tokens=input_tokens,
        output_tokens=output,
        choices=ask.choices,
        amount_nano=amount,
        floor_tokens=min(floor, output),
        floor_nano=amount_at(price, input_tokens, min(floor, output), ask.choices),
        input_estimate=min(input_estimate(ask), input_tokens),
    )


def clamped_output(quoted: Quote, price: Dearest, room_nano: int) -> int | None:
    """The largest output bound (of one choice) whose quote fits the room, or None if not even the floor does.

    Inverts `amount_at`: ⌈x / UNITS⌉ ≤ room exactly when x ≤ room × UNITS.
    """
    if quoted.amount_nano <= room_nano:
        return quoted.output_tokens
    if quoted.floor_nano > room_nano:
        return None
    left = room_nano * UNITS - quoted.input_tokens * price.input - price.fixed
    # The quote is too dear and its floor is not, so output costs something: no division by zero.
    return min(quoted.output_tokens, left // (quoted.choices * price.output))


def positive(value: object, name: str) -> int:
    """A bound as a request may state it: an integer ≥ 1."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 2**31:
        raise Refusal(f"{name} must be an integer from 1 to {2**31 - 1}", param=name)
    return value
