"""The help of a command as text: plain, in one column of words, as wide as the terminal but no wider than is read well.

Issue a key; its user is made if new.

Usage: llmgate keys add [OPTIONS] USER

Options:
  --name NAME   …

Examples:
  llmgate keys add alice
"""

from __future__ import annotations

import inspect
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from textwrap import fill
from typing import Any

WIDEST = 100
"""Columns; longer lines are hard to read."""

LONGEST_TERM = 30
"""A term that is longer gets a line of its own."""

Pairs = list[tuple[str, str]]


def page(command: Any, ctx: Any, width: int | None = None) -> str:
    """The whole help of a command."""
    columns = width or room()
    blocks = [paragraph(text, columns) for text in about(command)]
    blocks.append(f"{heading('Usage:')} {usage(command, ctx)}")
    blocks += [f"{heading(f'{title}:')}\n{pairs(listed, columns)}" for title, listed in lists(command, ctx) if listed]
    if shown := examples(command, ctx):
        blocks.append("\n".join([heading("Examples:"), *(f"  {line}" for line in shown)]))
    return "\n\n".join(blocks) + "\n"


def room() -> int:
    """How wide help is shown."""
    return min(shutil.get_terminal_size((WIDEST, 24)).columns, WIDEST)


def summary(command: Any) -> str:
    """The first sentence of a command's help."""
    return " ".join(about(command)[0].split())


def about(command: Any) -> list[str]:
    """What a command does, in paragraphs."""
    return inspect.cleandoc(command.help or "").split("\n\n")


def examples(command: Any, ctx: Any) -> list[str]:
    """How a command is used, a line each; of a noun the first of each of its verbs."""
    if command.epilog:
        return list(command.epilog.splitlines())
    verbs = (command.get_command(ctx, name) for name in getattr(command, "commands", ()))
    return [verb.epilog.splitlines()[0] for verb in verbs]


def usage(command: Any, ctx: Any) -> str:
    """How a command is typed, on one line."""
    pieces = [_term(param) for param in command.params if param.param_type_name == "argument"]
    if hasattr(command, "commands"):
        pieces.append("COMMAND …" if hasattr(command, "sections") else "[COMMAND] …")
    return " ".join([ctx.command_path, "[OPTIONS]", *pieces])


def lists(command: Any, ctx: Any) -> Iterator[tuple[str, Pairs]]:
    """Every list of the page with its title: arguments, verbs, options by group."""
    params = [param for param in command.get_params(ctx) if not param.hidden]
    yield "Arguments", [(_term(param), _text(param)) for param in params if param.param_type_name == "argument"]
    if hasattr(command, "sections"):
        yield from command.sections().items()
    elif hasattr(command, "commands"):
        yield "Commands", _verbs(command, ctx)
        yield from _of_the_first(command, ctx)
    yield from _grouped(param for param in params if param.param_type_name == "option")


def _grouped(options: Iterable[Any]) -> Iterator[tuple[str, Pairs]]:
    """Options under their headings: those that have none come first."""
    groups: dict[str, Pairs] = {"Options": []}
    for param in options:
        groups.setdefault(param.rich_help_panel or "Options", []).append((_term(param), _text(param)))
    yield from groups.items()


def _verbs(command: Any, ctx: Any) -> Pairs:
    pairs = [(name, summary(command.get_command(ctx, name))) for name in command.list_commands(ctx)]
    first, text = pairs[0]
    return [(first, f"{text} (also without {first})"), *pairs[1:]]


def _of_the_first(command: Any, ctx: Any) -> Iterator[tuple[str, Pairs]]:
    """What a bare noun takes: the arguments and options of the verb that it stands for, less those of the noun."""
    name = command.list_commands(ctx)[0]
    known = {option for param in command.params for option in param.opts}
    own = [param for param in command.get_command(ctx, name).params if known.isdisjoint(param.opts)]
    for title, kind in (("Arguments", "argument"), ("Options", "option")):
        listed = [(_term(param), _text(param)) for param in own if param.param_type_name == kind and not param.hidden]
        yield f"{title} of {name} (also without {name})", listed


def _term(param: Any) -> str:
    if param.param_type_name == "argument":
        name = param.metavar or param.name.upper()
        return name if param.required else f"[{name}]"
    value = "" if param.is_flag else f" {param.metavar or 'TEXT'}"
    shown = sorted((name for name in param.opts if name != "-h"), key=lambda name: name.startswith("--"))
    names = ", ".join([*shown, *param.secondary_opts])
    return f"{names}{value}"


def _text(param: Any) -> str:
    text = " ".join((param.help or "").split())
    default = param.default
    if param.show_default and default not in (None, False, (), []):
        text += f" [default: {getattr(default, 'value', default)}]"
    return f"{text} [repeatable]" if getattr(param, "multiple", False) else text


def paragraph(text: str, width: int) -> str:
    return fill(" ".join(text.split()), width, break_long_words=False, break_on_hyphens=False)


def pairs(listed: Pairs, width: int) -> str:
    """Terms, and beside each what it means."""
    column = max((len(term) for term, _ in listed if len(term) <= LONGEST_TERM), default=0) + 4
    return "\n".join(_lines(listed, column, width))


def _lines(pairs: Iterable[tuple[str, str]], column: int, width: int) -> Iterator[str]:
    for term, text in pairs:
        start = f"  {term}".ljust(column)
        if len(start) > column:
            yield start
            start = ""
        yield fill(text, width, initial_indent=start.ljust(column), subsequent_indent=" " * column) or start.rstrip()


def heading(text: str) -> str:
    """Bold on a terminal."""
    return f"\x1b[1m{text}\x1b[0m" if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else text
