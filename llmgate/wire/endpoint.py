"""What the walk knows of a path: how its body is read and changed, and how its answer is heard.

A format is data plus a few pure functions; the walk is written once and asks these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from ..errors import LlmgateError
from ..types import Ask
from .body import Fields
from .heard import Heard, Stream


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What one upstream is to be sent for a request, and what it obeys."""

    model: str
    """What this upstream calls it."""
    bound: int | None
    """The output bound that the hold carries, per choice; None: the account's money and tokens can't run out."""
    bound_fields: tuple[str, ...]
    """The fields that this upstream obeys as an output bound (format openai)."""
    bound_write: str
    """The one of them to write where the request has none."""
    ask_usage: bool
    """A stream must be asked for its usage, and may be."""


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """How llmgate itself speaks to a client."""

    name: str
    error_body: Callable[[LlmgateError, str], bytes]
    """An error and the request's id → the body of an answer."""
    error_event: Callable[[LlmgateError, str], bytes]
    """The same in the middle of a stream."""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A path that the walk serves."""

    name: str
    """As usage rows have it."""
    dialect: Dialect
    path: str
    """Below an upstream's base URL; `{model}` stands for what the upstream calls the model."""
    known: frozenset[str]
    """The top-level fields of the body that llmgate reads: they may not come twice."""
    read_ask: Callable[[Fields, str | None], Ask]
    """The body and the model that the path names, if it does → what is asked for. Raises Refusal `invalid_request`."""
    prepare: Callable[[Fields, Ask, Terms], dict[str, Any]]
    """What must be changed in the body before it is sent; nothing more ever is."""
    hear: Callable[[bytes], Heard | None]
    """A whole answer; None where it isn't what this format says."""
    stream: Callable[[bool], Stream]
    """A new listener for an answer that streams; True: what only came because llmgate asked for it is taken out."""
    free: bool = False
    """Nobody bills it: it takes no money and no tokens."""
