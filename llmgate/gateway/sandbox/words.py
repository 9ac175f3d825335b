"""What all formats of the sandbox say the same way: an echo within its bound, and how it is counted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

CREATED = 1_767_225_600
"""2026-01-01: an answer is the same on every day."""

MOST_CHOICES, MOST_OUTPUT = 128, 16_384
"""Answers to one question, and tokens of each. It works inside the gateway: what it is asked for must not
keep the others waiting."""

Told = dict[str, Any] | Iterator[bytes]
"""A whole answer, or the pieces of a stream."""


class Refused(ValueError):
    """The sandbox can't make anything of a body: 400."""


class Echo(NamedTuple):
    """What is said back."""

    words: list[str]
    cut: bool
    """It would have been longer than its bound."""

    @property
    def text(self) -> str:
        return "".join(self.words)

    @property
    def tokens(self) -> int:
        return tokens(self.text)


def tokens(text: str) -> int:
    return -(-len(text.encode()) // 4)


def read(parts: list[str]) -> int:
    """Input tokens of what was said: its text, and some for each message."""
    return sum(tokens(part) + 4 for part in parts)


def echo(said: str, bound: Any) -> Echo:
    """The text in words, cut where it would exceed the bound."""
    said = said or "Hello from the sandbox."
    bound = min(bound, MOST_OUTPUT) if isinstance(bound, int) else MOST_OUTPUT
    cut = tokens(said) > bound
    if cut:
        said = said.encode()[: bound * 4].decode("utf-8", "ignore")
    return Echo([word for word in said.replace(" ", " \0").split("\0") if word], cut)


def text(content: Any) -> str:
    """What a message says: its text, or the text of its parts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return " ".join(part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str))


def conversation(messages: Any) -> list[str]:
    """What each of some messages says. Raises Refused where they are none."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise Refused("messages must be a list of objects")
    return [text(message.get("content")) for message in messages]


def choices(asked: dict[str, Any], name: str = "n", each: int = 1) -> int:
    """How many answers are wanted, and of each as many. Raises Refused."""
    count = asked.get(name) or 1
    if not isinstance(count, int) or count < 1 or count * each > MOST_CHOICES:
        raise Refused(f"{name} must be a number from 1 on, and there are {MOST_CHOICES} choices at most")
    return count


def digest(*what: Any) -> str:
    """Part of an id: the same question has the same one."""
    return hashlib.sha256(msgspec.json.encode(what)).hexdigest()[:24]


def event(payload: Any, name: str = "") -> bytes:
    """One server-sent event."""
    return (f"event: {name}\n" if name else "").encode() + b"data: " + msgspec.json.encode(payload) + b"\n\n"


DONE = b"data: [DONE]\n\n"
