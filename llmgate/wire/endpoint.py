"""What the walk knows of a path: how its body is read and changed, and how its answer is heard.

A format is data plus a few pure functions; the walk is written once and asks these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from ..errors import LlmgateError
from ..types import Ask, Usage
from . import body
from .body import Fields
from .heard import Heard, Stream

Body = bytes | tuple[bytes | memoryview, ...]
"""A body to send: whole, or in pieces, where all that isn't changed is still where it came in."""


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


def _read(raw: bytes, _content_type: str, known: frozenset[str]) -> Fields:
    return body.read(raw, known)


def _write(_raw: bytes, fields: Fields, changes: Mapping[str, Any]) -> bytes:
    return body.write(fields, changes)


def _nothing(_: Fields) -> tuple[str, ...]:
    return ()


def _heard(_: Ask, heard: Heard) -> Usage | None:
    return heard.usage


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
    read: Callable[[bytes, str, frozenset[str]], Fields] = _read
    """The body, its content type and `known` → its fields. Raises Refusal `invalid_request`."""
    write: Callable[[bytes, Fields, Mapping[str, Any]], Body] = _write
    """The body as it came, its fields and what `prepare` said → the body to send; all else keeps its bytes."""
    used: Callable[[Ask, Heard], Usage | None] = _heard
    """What a request that is to be charged has used, of what was heard of its answer and of what it asked for: some
    answers don't tell, and what was asked for does. None: it is to be estimated from the text that went by."""
    refers_to: Callable[[Fields], tuple[str, ...]] = _nothing
    """Ids of what lies at the upstream: they must be of the account that asks."""
    free: bool = False
    """Nobody bills it: it takes no money and no tokens, and its model needs no price."""
