"""What a request costs: one pure function over meters and a price, the same for every format.

A rate is nano-USD per 1,000,000 units of its meter. That is exact for a token price in USD per 1M with up to nine
decimals, and for a per-request, per-image, per-second, per-search or per-1k-characters price as well: the config's
unit is scaled to the meter's by `CONFIG_KEYS`.

    amount = ⌈ Σ quantityᵢ × rateᵢ / 1,000,000 ⌉      rounded once per request, and up

A rate that a price doesn't name falls back to its parent (`PARENTS`), never to nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, localcontext
from functools import lru_cache
from operator import mul

import msgspec

from .money import ceil_div, to_nano
from .types import METERS, Meters

UNITS = 1_000_000
"""A rate holds for this many units of its meter."""


class Price(msgspec.Struct, frozen=True, omit_defaults=True):
    """Rates in nano-USD per 1M units; None: falls back to the parent. Immutable: its JSON is its identity."""

    input: int | None = None
    cached_input: int | None = None
    cache_write: int | None = None
    cache_write_1h: int | None = None
    audio_input: int | None = None
    image_input: int | None = None
    output: int | None = None
    reasoning: int | None = None
    audio_output: int | None = None
    images: int | None = None
    milliseconds: int | None = None
    searches: int | None = None
    characters: int | None = None
    calls: int | None = None
    tiers: tuple[Tier, ...] = ()

    @property
    def free(self) -> bool:
        """Nothing that this price meters costs anything."""
        return not any(any(rates(self, tier.above + 1)) for tier in self.tiers) and not any(rates(self, 0))


class Tier(msgspec.Struct, frozen=True, omit_defaults=True):
    """A whole price that holds for a request of more than `above` input tokens (all of them, not the excess)."""

    above: int
    price: Price


FREE = Price(input=0, output=0)

CONFIG_KEYS: Mapping[str, tuple[str, int]] = {
    "input": ("input", 1),
    "cached_input": ("cached_input", 1),
    "cache_write": ("cache_write", 1),
    "cache_write_1h": ("cache_write_1h", 1),
    "output": ("output", 1),
    "reasoning": ("reasoning", 1),
    "audio_input": ("audio_input", 1),
    "audio_output": ("audio_output", 1),
    "image_input": ("image_input", 1),
    "per_request": ("calls", UNITS),
    "per_image": ("images", UNITS),
    "per_second": ("milliseconds", UNITS // 1000),
    "per_search": ("searches", UNITS),
    "per_1k_characters": ("characters", UNITS // 1000),
}
"""Price key as an admin writes it → (rate, how often its unit goes into 1M of the meter)."""

PARENTS: Mapping[str, str] = {
    "cached_input": "input",
    "cache_write": "input",
    "cache_write_1h": "input",
    "audio_input": "input",
    "image_input": "input",
    "reasoning": "output",
    "audio_output": "output",
}

TOKENS = ("input", "output", *PARENTS)


def price_of(table: Mapping[str, Decimal | int] | str) -> Price:
    """A price as the config says it: `"free"`, or a table of `CONFIG_KEYS` → USD.

    Raises ValueError on an unknown key, an empty table, or an amount that `money.to_nano` refuses.
    """
    if isinstance(table, str):
        if table == "free":
            return FREE
        raise ValueError(f'{table!r} is no price: write "free" or a table such as {{ input = 0.25, output = 0.5 }}')
    if not table:
        raise ValueError('a price table needs at least one key, or write "free"')
    found: dict[str, int] = {}
    for key, value in table.items():
        if key not in CONFIG_KEYS:
            raise ValueError(f"{key!r} is no price key; there are {', '.join(CONFIG_KEYS)}")
        name, scale = CONFIG_KEYS[key]
        found[name] = to_nano(value) * scale
    return msgspec.convert(found, Price)


def said(price: Price) -> dict[str, str]:
    """A price as an admin would write it: price keys → exact decimals of USD, `input above 200000` for a tier's."""
    found = {}
    for key, (name, scale) in CONFIG_KEYS.items():
        rate = getattr(price, name)
        if rate is not None:
            found[key] = decimal_usd(rate, scale)
    for tier in price.tiers:
        for key, text in said(tier.price).items():
            if text != found.get(key):
                found[f"{key} above {tier.above}"] = text
    return found


UNIT_OF: Mapping[str, str] = {
    "per_request": "request",
    "per_image": "image",
    "per_second": "second",
    "per_search": "search",
    "per_1k_characters": "1000 characters",
}
"""What a price key is the price of; the others are of 1M tokens."""


def by_the_piece(price: Price) -> tuple[int, str] | None:
    """What is paid apart from tokens, in nano-USD, rounded up, and for what: a fee of each request, or what is sold
    instead of tokens.
    """
    sold_by_token = any(getattr(price, name) is not None for name in TOKENS)
    for key, unit in UNIT_OF.items():
        name, scale = CONFIG_KEYS[key]
        rate = getattr(price, name)
        if rate and (name == "calls" or not sold_by_token):
            return ceil_div(rate, scale), unit
    return None


def filled(price: Price, by: str, input_tokens: int = 0) -> dict[str, tuple[str, str]]:
    """Every rate that a price comes to for a request of so many input tokens, with its fallbacks: price key → USD and
    who says so (`by`, or `as input`).
    """
    chosen = chosen_tier(price, input_tokens)
    found = dict(zip(METERS, _rates(chosen), strict=True))
    told = {}
    for key, (name, scale) in CONFIG_KEYS.items():
        if getattr(chosen, name) is not None:
            told[key] = (decimal_usd(found[name], scale), by)
        elif name in TOKENS and any(getattr(chosen, other) is not None for other in TOKENS):
            parent = PARENTS.get(name, "output" if name == "input" else "input")
            told[key] = (decimal_usd(found[name], scale), f"as {parent}")
    return told


def decimal_usd(nano: int, parts: int = 1) -> str:
    """nano-USD / parts as an exact decimal of USD, without an exponent. `parts` has no prime factors but 2 and 5."""
    with localcontext(prec=60):
        return f"{(Decimal(nano).scaleb(-9) / parts).normalize():f}"


@lru_cache(maxsize=4096)
def _rates(price: Price) -> tuple[int, ...]:
    """Every rate of one price with its fallbacks filled in, in the order of `METERS`.

    A price that names only one of `input` and `output` lends it to the other, and one that names neither of them, but
    other tokens, lends the dearest of those: not naming a rate must never make tokens free. Only a price by nothing but
    the piece (per image, per second …) leaves its tokens at nothing.
    """
    roots: dict[str, int | None] = {}
    named = [rate for name in TOKENS if (rate := getattr(price, name)) is not None]
    if named:
        known = [rate for rate in (price.input, price.output) if rate is not None] or [max(named)]
        roots = {"input": known[0], "output": known[-1]}
    filled = []
    for name in METERS:
        own = getattr(price, name)
        if own is None:
            own = roots.get(PARENTS.get(name, name))
        filled.append(own or 0)
    return tuple(filled)


def rates(price: Price, input_tokens: int) -> tuple[int, ...]:
    """The rates that hold for a request of that many input tokens, in the order of `METERS`."""
    return _rates(chosen_tier(price, input_tokens))


def chosen_tier(price: Price, input_tokens: int) -> Price:
    """The price that holds for a request of that many input tokens: itself, or that of a tier."""
    chosen = price
    for tier in price.tiers:
        if input_tokens > tier.above:
            chosen = tier.price
    return chosen


_quantities = msgspec.structs.astuple


def amount(meters: Meters, price: Price) -> int:
    """What the meters come to in nano-USD, rounded once, up."""
    return ceil_div(sum(map(mul, _quantities(meters), rates(price, meters.input_tokens))), UNITS)


class Dearest(msgspec.Struct, frozen=True):
    """The dearest rates that a request may meet, in nano-USD per 1M: what a quote multiplies its bounds by."""

    input: int
    output: int
    fixed: int
    """What one request adds whatever its tokens: per request, and for all the pieces that it may cause."""


_INPUT = tuple(METERS.index(name) for name in ("input", "cached_input", "cache_write", "cache_write_1h"))
_MEDIA = tuple(METERS.index(name) for name in ("audio_input", "image_input"))
_OUTPUT = tuple(METERS.index(name) for name in ("output", "reasoning", "audio_output"))
_PIECES = tuple(METERS.index(name) for name in ("searches", "images", "milliseconds", "characters"))
_CALLS = METERS.index("calls")


@lru_cache(maxsize=4096)
def dearest(
    prices: tuple[Price, ...],
    input_bound: int,
    media: bool,
    searches: int = 0,
    images: int = 0,
    milliseconds: int = 0,
    characters: int = 0,
) -> Dearest:
    """The dearest of every rate over all prices that a request may end up with; the rest are bounds of its pieces.

    A request that stays under a tier's threshold can't meet that tier; one that may pass it is quoted at the dearer.
    """
    pieces = (searches, images, milliseconds, characters)
    candidates = [
        _rates(price)
        for base in prices
        for price in (base, *(tier.price for tier in base.tiers if input_bound > tier.above))
    ]
    kinds = (*_INPUT, *_MEDIA) if media else _INPUT
    return Dearest(
        input=max(table[i] for table in candidates for i in kinds),
        output=max(table[i] for table in candidates for i in _OUTPUT),
        fixed=max(
            table[_CALLS] + sum(most * table[i] for most, i in zip(pieces, _PIECES, strict=True))
            for table in candidates
        ),
    )


def encode(price: Price) -> str:
    """The canonical text of a price: the same rates always give the same text."""
    return msgspec.json.encode(price, order="deterministic").decode()


def decode(text: str) -> Price:
    return msgspec.json.decode(text, type=Price)
