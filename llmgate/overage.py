"""What a plan with `overage` charges for tokens: nothing up to the included ones, so much for each past them.

    charge = overage × (max(0, used after − quota) − max(0, used before − quota))

in the order in which requests are settled. Whatever that order is, the charges of a month add up to overage ×
max(0, used − quota): the intervals [used before, used after) follow each other without a gap.

Argument that a charge stays within its hold. While a request is in flight, all that can come before it is what is
settled already and what other requests in flight may use at most. With `reached` = used + the bounds of all requests in
flight, its own included, it is charged at most `worst(…, reached)`. A settlement moves tokens from the bounds to the
used ones, and never more than the bound: `reached` can't grow by it. It grows only when another request is placed, and
that one must set aside what the others may then be charged more (`store.overage`).
"""

from __future__ import annotations

import msgspec

from .pricing import TOKENS, Price, amount
from .types import Meters

UNLIMITED = 2**62
"""Included tokens that no month uses up."""


class Terms(msgspec.Struct, frozen=True):
    """What a request's tokens are charged by, fixed when its hold is placed."""

    quota: int
    """Tokens that the month includes."""
    glob: str
    """The models whose tokens count."""
    nano: int
    """For each token past them, in nano-USD."""


def past(terms: Terms, used: int, tokens: int) -> int:
    """What `tokens` more are charged where `used` were used before, in nano-USD."""
    return terms.nano * (max(0, used + tokens - terms.quota) - max(0, used - terms.quota))


def worst(terms: Terms, bound: int, reached: int) -> int:
    """The most that a request of at most `bound` tokens is charged, where all in flight come to `reached` at most."""
    return terms.nano * min(bound, max(0, reached - terms.quota))


def covered(terms: Terms, used: int, tokens: int, bound: int, held_nano: int) -> int:
    """How many tokens count as used before a request of `tokens`, so that it isn't charged above what it set aside.

    That is all that were, except where some came by whom no hold knew: the user was on another plan meanwhile, or an
    answer had no bound because its own account can't run out. These are then the house's. Tokens beyond its own bound
    are the upstream's doing, and are charged.
    """
    if not terms.nano:
        return used
    most = held_nano // terms.nano + max(0, tokens - bound)
    return used if tokens <= most else min(used, max(0, terms.quota + most - tokens))


_NO_TOKENS = dict.fromkeys(TOKENS, 0)


def charged(meters: Meters, cost_nano: int, cost: Price, own: Price | None, terms: Terms | None, used: int) -> int:
    """What the account pays for a request, in nano-USD: its tokens by its plan's terms, else by its own price, else
    what it costs. What isn't tokens is paid by a price also under a plan's terms.

    `used` are the included tokens that were used before it.
    """
    if terms is None:
        return cost_nano if own is None else amount(meters, own)
    beside = msgspec.structs.replace(meters, **_NO_TOKENS)
    return amount(beside, own or cost) + past(terms, used, meters.input_tokens + meters.output_tokens)
