"""Money is an integer of nano-USD (10⁻⁹ USD). No float ever touches it.

Invariants, each tested:
- `parse_usd` takes exactly what can be said in nano-USD, and refuses the rest rather than rounding it.
- `usd(parse_usd(s))` and `s` are the same number.
- Every amount that is stored fits a signed 64-bit integer; products are formed in Python, where they can't overflow.
"""

from __future__ import annotations

from decimal import ROUND_CEILING, Context, Decimal, Inexact, InvalidOperation, Subnormal, localcontext

from .errors import UsageError

NANO = 1_000_000_000
"""nano-USD in one USD."""

MAX_NANO = 2**63 - 1
"""The largest amount that SQLite's INTEGER holds: about 9.2 billion USD."""

_EXACT = Context(prec=100, traps=[Inexact, InvalidOperation, Subnormal])
"""Decimals are multiplied exactly or not at all: the usual 28 digits would round what should be refused."""


def to_nano(value: Decimal | int | str, *, per: int = NANO) -> int:
    """An exact decimal amount as an integer of 1/`per`.

    Raises ValueError if the value is no number, negative, finer than 1/`per`, or beyond 64 bits.
    """
    try:
        if isinstance(value, str):
            value.encode("ascii")  # digits of other scripts would be taken, too
        number = Decimal(value)
    except (InvalidOperation, ValueError, TypeError) as error:
        raise ValueError(f"{value!r} is not a number") from error
    if not number.is_finite():
        raise ValueError(f"{value!r} is not a finite number")
    if number < 0:
        raise ValueError(f"{value} is negative")
    if number and number.adjusted() > 18:
        raise ValueError(f"{value} is too large")
    with localcontext(_EXACT):
        try:
            scaled = number * per
            exact = scaled == scaled.to_integral_value()
        except (Inexact, Subnormal):
            exact = False
    if not exact:
        raise ValueError(f"{value} is finer than one nano-USD (9 decimals)")
    if scaled > MAX_NANO:
        raise ValueError(f"{value} is too large")
    return int(scaled)


def parse_usd(text: str) -> int:
    """What an admin typed (`5`, `$5`, `0.000123`, `5 USD`) as nano-USD, at least 0."""
    cleaned = text.strip().removeprefix("$").removesuffix("USD").removesuffix("usd").strip()
    try:
        return to_nano(cleaned)
    except ValueError as error:
        raise UsageError(f"{text!r} is no amount in USD: {error}. Write for example 5, 0.25 or $12.50.") from error


def usd(nano: int, *, places: int = 0) -> str:
    """The exact decimal string of an amount, as JSON and CSV carry it: `1500000000` → `"1.5"`.

    `places` is the least number of decimals shown; nothing is ever rounded away.
    """
    sign = "-" if nano < 0 else ""
    whole, fraction = divmod(abs(nano), NANO)
    decimals = f"{fraction:09d}".rstrip("0").ljust(places, "0")
    return f"{sign}{whole}.{decimals}" if decimals else f"{sign}{whole}"


def dollars(nano: int) -> str:
    """An amount for people: `$1,234.50`, `$0.000123`. At least two decimals, and never rounded to nothing."""
    text = usd(abs(nano), places=2)
    whole, _, decimals = text.partition(".")
    return f"{'-' if nano < 0 else ''}${int(whole):,}.{decimals}"


def catalogue_nano(value: Decimal) -> int:
    """A vendor's list price in USD as nano-USD. Lists carry binary noise past the ninth decimal: rounded up."""
    with localcontext(Context(prec=100, rounding=ROUND_CEILING)):
        return int((value * NANO).to_integral_value())


def ceil_div(numerator: int, denominator: int) -> int:
    """⌈numerator / denominator⌉ of integers: an amount is rounded once, and up."""
    return -(-numerator // denominator)
