"""What is known of prices beside the config and the catalogue: what an admin has set, with the moment it holds from.

The store fills a `Book` from the database; routing looks things up in it. Names are compared without their capitals,
because some upstreams do so too.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from .pricing import Price


class Kind(StrEnum):
    """charge: what accounts pay. cost: what the upstream bills."""

    CHARGE = "charge"
    COST = "cost"


class Version(NamedTuple):
    """What a look-up depends on. Two looks that see the same version see the same prices in force.

    Argument: which prices hold at a moment follows from which there are and which of them have begun. The first changes
    only together with `changes`, which is only ever counted up; which have begun, of the same ones, is told by the
    latest begin that has passed.
    """

    changes: int
    begun_ms: int


class SetPrice(NamedTuple):
    """A price as an admin set it."""

    price: Price
    from_ms: int


Key = tuple[Kind, str, str]
"""Kind, upstream ('': any), model."""


class Book(NamedTuple):
    """The set prices that hold at one moment, and the catalogue in use."""

    version: Version = Version(0, 0)
    prices: Mapping[Key, SetPrice] = MappingProxyType({})
    edition: str = ""
    """The catalogue in use; '': the installed one."""
    catalogue: bytes = b""
    """Its text, compressed."""

    def find(self, kind: Kind, upstream: str, model: str) -> SetPrice | None:
        """The price that was set for a name at an upstream, else for the name wherever it is served."""
        name = model.casefold()
        return self.prices.get((kind, upstream, name)) or self.prices.get((kind, "", name))

    def knows(self, model: str, upstream: str) -> bool:
        return any(self.find(kind, upstream, model) for kind in Kind)


NOTHING_SET = Book()
