"""What a prompt weighs: the bytes of text that the model reads, and a bound of the tokens of what isn't text.

The same for every format; which objects of a body are media, and what they may weigh, each format says itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from ..errors import Refusal
from .body import Fields

SHORT = 64
"""Bytes. A longer role, type, id or field name is text that somebody may want to smuggle past the count."""

_NESTED = (list, dict)
_LIKE_A_TOKEN = (float, bool)

MOST_PARTS = 1_000_000
"""Values in one body. More is no prompt, but an attempt to keep the gateway busy."""


class Medium(NamedTuple):
    """What an object weighs that is an image, a sound, a document."""

    tokens: int
    """An upper bound of what it is billed as."""
    payload: frozenset[str]
    """The fields that are the medium itself: their bytes are no text."""
    hidden: bool = False
    """It points at input that the body doesn't show."""


class Weight:
    """What a prompt weighs: bytes of text, bound of media tokens, and whether it points at what it doesn't show."""

    __slots__ = ("_as_written", "_medium", "_nested", "_not_text", "hidden", "media", "text")

    def __init__(
        self,
        medium: Callable[[dict[str, Any]], Medium | None],
        not_text: frozenset[str],
        as_written: frozenset[str] = frozenset(),
        nested: frozenset[str] | None = None,
    ) -> None:
        """`medium` tells what an object is; `not_text` names fields that the model doesn't read, while `SHORT`;
        `as_written` those whose value it reads as JSON, with the names and numbers in it. `nested`, where given, names
        the only ones below which media may stand: every other list or object is read as JSON.
        """
        self._medium = medium
        self._not_text = not_text
        self._as_written = as_written
        self._nested = nested
        self.text = 0
        self.media = 0
        self.hidden = False

    def add(self, value: Any) -> None:
        """Every string below a value, whatever its shape: a field that nobody knows yet is still read by the model."""
        stack = [value]
        parts = 0
        while stack:
            item = stack.pop()
            parts += 1
            if isinstance(item, str):
                self.text += utf8_len(item)
            elif isinstance(item, list):
                stack.extend(item)
                # Some servers take 1.0 and true for the token id 1.
                self.text += 3 * sum(isinstance(one, _LIKE_A_TOKEN) for one in item)
            elif isinstance(item, dict):
                self._add_object(item, stack)
            elif isinstance(item, int) and not isinstance(item, bool):
                self.text += 3  # a token id where text may stand; ⌈3 / 3⌉ is the one token that it is
            if parts + len(stack) > MOST_PARTS:
                raise Refusal(f"the body has more than {MOST_PARTS} parts")

    def _add_object(self, item: dict[str, Any], stack: list[Any]) -> None:
        medium = self._medium(item)
        if medium is not None:
            self.media += medium.tokens
            self.hidden = self.hidden or medium.hidden
        for name, child in item.items():
            if len(name) > SHORT:
                self.text += utf8_len(name)
            if medium is not None and name in medium.payload:
                continue
            if name in self._as_written:
                self.text += written_bytes(child)
                continue
            if self._nested is not None and name not in self._nested and isinstance(child, _NESTED):
                written = written_bytes(child)
                self.text += written if name not in self._not_text or written > SHORT else 0
                continue
            short = not isinstance(child, _NESTED) and not (isinstance(child, str) and len(child) > SHORT)
            if name not in self._not_text or not short:
                stack.append(child)


def written_bytes(value: Any) -> int:
    """Bytes of a value as JSON without spaces, whatever its depth."""
    total = 0
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            total += 2 + 2 * len(item) - bool(item)  # braces, colons, commas
            stack.extend(item)
            stack.extend(item.values())
        elif isinstance(item, list):
            total += 2 + len(item) - bool(item)  # brackets, commas
            stack.extend(item)
        else:
            total += utf8_len(json.dumps(item, ensure_ascii=False))
    return total


def unread_bytes(fields: Fields, read: Collection[str]) -> int:
    """What the fields of a body weigh that nobody here reads.

    An upstream may put them into the prompt: vLLM does so with `documents`. What is short lies within what a template
    is allowed to add.
    """
    unread = [name for name in fields if name not in read]
    return sum(size for name in unread if (size := len(bytes(fields[name]))) > SHORT)


def utf8_len(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
