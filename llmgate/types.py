"""The nouns that every floor speaks of. No behaviour beyond what a noun knows of itself."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Meters(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a request consumed, in disjoint quantities: no unit is counted in two of them.

    Formats disagree on whether cached tokens stand inside or beside the input count, and reasoning inside or beside
    the output count; each wire format normalises to these, so that pricing is one pure function for all.
    """

    input: int = 0
    """Input tokens that are in none of the next five."""
    cached_input: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    audio_input: int = 0
    image_input: int = 0
    output: int = 0
    """Output tokens that are in neither of the next two."""
    reasoning: int = 0
    audio_output: int = 0
    images: int = 0
    milliseconds: int = 0
    searches: int = 0
    characters: int = 0

    @property
    def input_tokens(self) -> int:
        """All input, cached included: what `usage` shows and what limits count."""
        return (
            self.input + self.cached_input + self.cache_write + self.cache_write_1h + self.audio_input + self.image_input
        )

    @property
    def output_tokens(self) -> int:
        """All output, reasoning included."""
        return self.output + self.reasoning + self.audio_output


METERS: tuple[str, ...] = tuple(field.name for field in msgspec.structs.fields(Meters))
"""The meters' names, in the order of the usage table's columns."""


class Status(StrEnum):
    """How a request that reached an upstream ended."""

    OK = "ok"
    ERROR = "error"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"


class Source(StrEnum):
    """Where a row's token counts come from."""

    UPSTREAM = "upstream"
    ESTIMATED = "estimated"


class CostSource(StrEnum):
    """Where a row's cost comes from."""

    CATALOGUE = "catalogue"
    CONFIG = "config"
    UPSTREAM = "upstream"


class Billing(StrEnum):
    """metered: what is used is counted. prepaid: a balance is needed."""

    METERED = "metered"
    PREPAID = "prepaid"
