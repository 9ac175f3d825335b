"""What a request to a path of the admin's own consumed: an expression over the answer, and units that have a meter.

Any API can be sold so: by the token, the character, the image, the second or the request. Each unit is one that
`Meters` has already, so that quotes, limits, reports and `verify` know no special case.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import ROUND_CEILING, Decimal
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from .money import to_nano
from .pricing import UNITS, Price
from .quoting import MOST_NANO
from .types import Ask, Meters

if TYPE_CHECKING:
    from jmespath.parser import ParsedResult

Unit = Literal["request", "token", "character", "image", "second"]

METER: Mapping[Unit, tuple[str, int]] = {
    "request": ("calls", 1),
    "token": ("output", 1),
    "character": ("characters", 1),
    "image": ("images", 1),
    "second": ("milliseconds", 1000),
}
"""Unit → the meter that it is booked in, and how many of the meter's units it is. Nobody says whether a path's tokens
were read or written: as output they are bounded, held and limited by exactly what the admin wrote."""

MOST_UNITS = 10**9
"""No request has so many: a quantity from there on is a mistake."""


def compiled(expression: str) -> ParsedResult:
    """A JMESPath expression. Raises ValueError that says what is wrong with it, in one line."""
    import jmespath  # takes 10 ms, and few configs need it
    from jmespath.functions import Functions

    try:
        parsed = jmespath.compile(expression)
    except ValueError as error:  # all of its own are
        raise ValueError(_about(error)) from error
    for name in _functions(parsed.parsed):
        if name not in Functions.FUNCTION_TABLE:  # told when it is called, else, and then it is a fallback for ever
            raise ValueError(f"there is no function {name}()")
    return parsed


def _about(error: ValueError) -> str:
    """What JMESPath complains of, in words of ours."""
    if "Incomplete" in str(error) or "empty" in str(error):
        return "it ends too early"
    at = getattr(error, "lex_position", getattr(error, "lexer_position", None))
    return "it is none" if at is None else f"from its character {at + 1} on it is none"


def _functions(node: Any) -> Iterator[str]:
    """The functions that an expression calls."""
    if isinstance(node, dict):
        if node["type"] == "function_expression":
            yield node["value"]
        for child in node["children"]:
            yield from _functions(child)


def found(expression: ParsedResult, answer: Any) -> Decimal | None:
    """The quantity that an expression finds in an answer; None where it finds none, or what can be none."""
    try:
        value = expression.search(answer)
    except (ValueError, RecursionError):
        return None  # a function of JMESPath that doesn't take what stands there
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < MOST_UNITS:
        return None
    return Decimal(str(value))


def price_of(unit: Unit, usd: Decimal) -> Price:
    """USD for each unit as the rate of its meter. Raises ValueError where the rate isn't exact."""
    name, size = METER[unit]
    rate, rest = divmod(to_nano(usd) * UNITS, size)
    assert not rest  # every size divides UNITS
    # Tokens are named both ways, because a price that names one of them lends it to the other.
    return Price(input=0, output=rate) if name == "output" else msgspec.convert({name: rate}, Price)


class Metering(msgspec.Struct, frozen=True, kw_only=True):
    """How the requests of a path are counted."""

    unit: Unit
    expression: Any = None
    """Compiled; None: each request is one."""
    fallback: int = 1
    """Units where the expression finds none."""
    most: int = 1
    """Units that are set aside where money can run out."""
    nano: int = 0
    """What a unit costs or is charged, the dearer of the two."""

    def meters(self, units: Decimal | int) -> Meters:
        """So many units, as meters; a part of the smallest is a whole one."""
        name, size = METER[self.unit]
        whole = int(
            (units * size).to_integral_value(rounding=ROUND_CEILING) if isinstance(units, Decimal) else units * size
        )
        return Meters(**({"calls": 1} | {name: whole}))

    def counted(self, answer: Any) -> Meters | None:
        """What an answer says that was used; None: it doesn't. More than could ever be paid is a mistake."""
        units = found(self.expression, answer) if self.expression is not None else None
        return None if units is None or units * self.nano > MOST_NANO else self.meters(units)

    def ask(self, model: str, *, stream: bool) -> Ask:
        """What a request asks for, such that its quote is `most` × the price, to the nano."""
        most, tokens = self.meters(self.most), self.unit == "token"
        return Ask(
            model=model,
            stream=stream,
            output=tokens,
            max_output=self.most if tokens else None,
            min_output=self.most if tokens else 1,  # nothing that could be sent would make it less
            images=most.images,
            milliseconds=most.milliseconds,
            likely_milliseconds=most.milliseconds,
            characters=most.characters,
        )
