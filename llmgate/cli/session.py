"""What was said on the command line for every command: which config, which database, how to write, whether to ask."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import typer

from ..errors import UsageError
from .suggest import unknown

if TYPE_CHECKING:
    from ..config import Loaded


class Format(StrEnum):
    """How data is written."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    MD = "md"


@dataclass
class Session:
    """One run of the program. The options may stand before and after the command; `grammar` fills them in."""

    config_file: Path | None = None
    database: str | None = None
    format: Format | None = None
    as_json: bool = False
    yes: bool = False
    loaded: Loaded | None = None
    """The config, once a command has asked for it."""
    afterwards: list[str] = field(default_factory=list)
    """What is to be said once the command has succeeded."""

    def keep(self, name: str, value: Any, path: str) -> None:
        """Take an option's value, given to the command `path`. Raises UsageError for one that makes no sense."""
        if name == "format" and value not in tuple(Format):
            raise unknown("format", value, Format, path)
        typed = _TYPES.get(name)
        setattr(self, name, typed(value) if typed else value)
        if self.as_json and self.format not in (None, Format.JSON):
            raise UsageError(f"--json and --format {self.format} are two formats: choose one")

    @property
    def wanted(self) -> Format:
        """How data is to be written."""
        return Format.JSON if self.as_json else self.format or Format.TABLE


_TYPES: dict[str, Callable[[str], Any]] = {"config_file": Path, "format": Format}


def session(ctx: typer.Context) -> Session:
    return ctx.ensure_object(Session)


def note(text: str) -> None:
    """Say something that is no data: what was done, what to do next. On a terminal no word of it is broken."""
    typer.echo(laid_out(visible(text)), err=True)


def laid_out(text: str) -> str:
    """A text for stderr: on a terminal in lines of its width, elsewhere as one line."""
    if not sys.stderr.isatty():
        return text
    return fill(text, shutil.get_terminal_size().columns, break_long_words=False, break_on_hyphens=False)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C waits until what was begun is done and told: a key that is issued is shown, or not issued."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def can_ask() -> bool:
    """Whether somebody sits there who could answer."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def confirm(ctx: typer.Context, question: str) -> None:
    """Ask before something that is hard to undo. Returns only with a yes; where nobody can be asked, it takes --yes."""
    if session(ctx).yes:
        return
    if not can_ask():
        raise UsageError(f"{visible(question)} Nobody can be asked here: add --yes")
    if not agreed(question):
        note("llmgate: nothing was changed")
        raise typer.Exit(1)


def agreed(question: str, *, default: bool = False) -> bool:
    """Ask for a yes or a no until one is given. Raises Abort where nobody answers."""
    while True:
        word = ask(question, "Y/n" if default else "y/N").lower()
        if word in ("y", "yes", "n", "no", ""):
            return word[0] == "y" if word else default
        note("answer y or n")


def ask(question: str, default: str) -> str:
    """Ask, and return the words that were typed. Raises Abort for Ctrl-C and Ctrl-D."""
    told, bracket = laid_out(visible(question)), f"[{default}]: "
    room = shutil.get_terminal_size().columns - len(told.rpartition("\n")[2]) - len(bracket) - 1
    typer.echo(f"{told}{' ' if room > 0 else chr(10)}{bracket}", nl=False, err=True)
    try:
        line = sys.stdin.readline()
    except KeyboardInterrupt:
        raise typer.Abort from None
    if not line:
        raise typer.Abort
    return line.strip()


_INVISIBLE = {
    code: chr(code).encode("unicode_escape", "surrogatepass").decode()
    for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
}


def visible(text: str) -> str:
    """A text on one line, in which nothing can move the cursor, colour the screen or turn the reading direction."""
    return text if text.isprintable() else text.translate(_INVISIBLE)
