"""A listing in pieces: a cursor says after which item the next page begins, so that nothing is told twice or left out
where items come and go meanwhile.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import msgspec

from ..errors import Refusal
from .answers import Page

Item = TypeVar("Item")
Told = TypeVar("Told")


class Paged(Protocol):
    """A query that says which page."""

    @property
    def limit(self) -> int: ...
    @property
    def cursor(self) -> str | None: ...


def after(query: Paged, kind: Any) -> Any:
    """The place of the last item that was told, as a `kind`; None: begin. Raises Refusal for a strange cursor."""
    if query.cursor is None:
        return None
    try:
        packed = base64.b64decode(query.cursor.encode() + b"=" * (-len(query.cursor) % 4), b"-_", validate=True)
        return msgspec.json.decode(packed, type=kind)
    except (binascii.Error, ValueError, msgspec.DecodeError) as error:
        raise Refusal("cursor must be `next` of a page that was told before", param="cursor") from error


def cursor(place: Any) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).rstrip(b"=").decode()


def page(query: Paged, found: Sequence[Item], told: Callable[[Item], Told], place: Callable[[Item], Any]) -> Page[Told]:
    """One more item than asked for may have been found: then there is a next page."""
    kept = found[: query.limit]
    more = len(found) > len(kept)
    return Page(data=[told(item) for item in kept], next=cursor(place(kept[-1])) if more else None)


def sliced(
    query: Paged, items: Sequence[Item], told: Callable[[Item], Told], place: Callable[[Item], list[str]]
) -> Page[Told]:
    """A page of a listing that is read whole, in the order of the items' places."""
    begin = after(query, list[str])
    ordered = sorted(items, key=place)
    left = [item for item in ordered if begin is None or place(item) > begin]
    return page(query, left[: query.limit + 1], told, place)
