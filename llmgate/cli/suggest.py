"""Did you mean …?"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from ..errors import UsageError
from ..names import quoted

FEW = 9
"""Words that a message can name."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that is spelled most like it, if any is."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1)), None)


def unknown(what: str, word: str, known: Iterable[str], path: str) -> UsageError:
    """There is no such word; but perhaps one that is spelled nearly so. If it is one of a few, all are named."""
    words = list(known)
    near = nearest(word, words)
    few = f"it is {_either(words)}" if 0 < len(words) <= FEW else f"see `{path} --help`"
    cure = f"did you mean {near}?" if near else few
    return UsageError(f"there is no {what} {quoted(word)}: {cure}")


def choose(what: str, word: str, known: Sequence[str]) -> str:
    """One of a few words. Raises UsageError, which says them."""
    if word in known:
        return word
    near = nearest(word, known)
    cure = f"did you mean {near}?" if near else f"it is {_either(known)}"
    raise UsageError(f"{what} can't be {quoted(word)}: {cure}")


def _either(words: Sequence[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last
