"""What names may look like, and when a glob means one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from fnmatch import translate
from functools import lru_cache

from .errors import UsageError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
"""A user, team, key, plan or upstream: safe in a URL, a log, a table and a shell."""

_SECRET = re.compile(r"(sk-).*|(AIza|gsk_|xai-|pplx-|hf_|gh[pousr]_|AKIA)[A-Za-z0-9_-]{16,}", re.DOTALL)
"""What keys of ours and of vendors look like; nobody means a name that begins with `sk-`."""

MODEL = re.compile(r"(?!.*\.\.)[A-Za-z0-9._:@/-]{1,256}")
"""A model: as NAME, with the signs that vendors use. No `..`, because some vendors put it into a path."""


def check_name(name: str, what: str) -> str:
    """Raises UsageError unless `name` is a NAME."""
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{quoted(name)} is no name for a {what}: 1 to 64 letters, digits and . _ @ + - are allowed, "
            "and the first is a letter or a digit"
        )
    return name


def is_secret(text: str) -> bool:
    """Whether a word looks like a key, ours or a vendor's: it was pasted in the wrong place."""
    return _SECRET.fullmatch(text) is not None


def check_new(name: str, what: str) -> str:
    """As `check_name`, for something that is made: a secret in its place would stand in lists, logs and the audit for
    good. What has such a name already keeps it.
    """
    if is_secret(name):
        raise UsageError(
            f"what was given as the name of a {what} looks like a secret, and names are shown everywhere: choose "
            "another; the secrets of upstreams belong into .env"
        )
    return check_name(name, what)


def quoted(word: str) -> str:
    """A word in an error, so that no secret is repeated."""
    match = _SECRET.match(word)
    return repr(f"{match[1] or match[2]}…") if match else repr(word)


def meant(name: str, known: Iterable[str], listed_by: str) -> str:
    """What to do about a name that isn't there: the one that is spelled most like it, if any is, and the command that
    lists all of them.
    """
    near = difflib.get_close_matches(name, list(known), n=1)
    lists = f"`{listed_by}` lists them"
    return f"did you mean {near[0]}? {lists}" if near else lists


def path_name(pattern: str) -> str:
    """What the requests to a path of the config are called in books and limits: of those that begin so, the
    beginning."""
    return pattern.rstrip("*").rstrip("/") or "/"


@lru_cache(maxsize=4096)
def _pattern(glob: str) -> re.Pattern[str]:
    return re.compile(translate(glob))


def matches(glob: str, name: str) -> bool:
    """Whether a glob such as `gpt-4o*` means a model; capital letters count."""
    return _pattern(glob).match(name) is not None
