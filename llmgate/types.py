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
    """Output tokens that are no text: sound or pictures. No model writes both, so that they share a price."""
    images: int = 0
    milliseconds: int = 0
    searches: int = 0
    characters: int = 0
    calls: int = 0
    """Requests that the upstream worked for: 1, or 0 where it refused."""

    @property
    def input_tokens(self) -> int:
        """All input, cached included: what `usage` shows and what limits count."""
        return (
            self.input
            + self.cached_input
            + self.cache_write
            + self.cache_write_1h
            + self.audio_input
            + self.image_input
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


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """What a request asks for, as far as routing, quoting and metering need to know; the same for every format."""

    model: str
    stream: bool = False
    usage_asked: bool = True
    """The client itself asked to be told the usage (or the format always tells it)."""
    text_bytes: int = 0
    """UTF-8 bytes of all text that the model reads: prompts, tool definitions, tool arguments."""
    messages: int = 0
    inputs: int = 0
    """Texts to embed: a server may put tokens of its own around each."""
    media_tokens: int = 0
    """A documented upper bound of the tokens of images and the like that came inside the body."""
    hidden_input: bool = False
    """The body points at input that it doesn't show: only the model's context window bounds it."""
    context: int = 0
    """The context window that the request opens, where that is larger than the one that is listed."""
    rounds: int = 1
    """How often the model may read hidden input: an upstream's own tools make it read all of it again."""
    output: bool = True
    """The model writes tokens for this request (an embedding doesn't)."""
    max_output: int | None = None
    """The request's own bound of output tokens, per choice."""
    min_output: int = 1
    """The least bound that the API accepts for this request."""
    choices: int = 1
    searches: int = 0
    """The most paid searches that the request may cause."""
    images: int = 0
    """The most pictures that it may be given."""
    milliseconds: int = 0
    """The most sound that it can have brought along, or may be given."""
    likely_milliseconds: int = 0
    """The same as an estimate."""
    characters: int = 0
    """Characters to be spoken."""
    service_tier: str | None = None
    reasons: bool = False
    """The request itself asks the model to reason: what it thinks is billed, and isn't in the text."""
    background: bool = False
    """The answer is to be fetched later: this call won't tell what was used."""
    unquotable: str | None = None
    """A field that may cost money in a way that no bound is known for: not for accounts whose money can run out."""
    remembers: bool = True
    """What the answer leaves at the upstream may be referred to later."""
    tags: dict[str, str] = {}


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer said of its own consumption."""

    meters: Meters
    input_missing: bool = False
    output_missing: bool = False
    """It says nothing of the one or the other: that is to be estimated."""
    cost_nano: int | None = None
    """What the upstream says that it bills, where it says so."""
    service_tier: str | None = None


class Quote(msgspec.Struct, frozen=True, kw_only=True):
    """The most that a request may be charged, and what it is made of."""

    input_tokens: int
    """The bound of the input."""
    output_tokens: int
    """The bound of the output, of one choice."""
    choices: int
    amount_nano: int
    floor_tokens: int
    """The least output bound, of one choice, that is worth sending."""
    floor_nano: int
    """The quote at that least bound."""
    input_estimate: int
    """The likely input: what a request cut off before any usage was heard is charged."""
