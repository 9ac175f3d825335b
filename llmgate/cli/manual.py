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
from itertools import groupby
from textwrap import fill
from typing import Any

WIDEST = 100
"""Columns; longer lines are hard to read."""

LONGEST_TERM = 30
"""A term that is longer gets a line of its own."""

Pairs = list[tuple[str, str]]


def page(command: Any, ctx: Any) -> str:
    """The whole help of a command."""
    width = min(shutil.get_terminal_size((WIDEST, 24)).columns, WIDEST)
    blocks = [_about(command, width), f"{_bold('Usage:')} {_usage(command, ctx)}"]
    blocks += [_section(title, pairs, width) for title, pairs in _lists(command, ctx) if pairs]
    if command.epilog:
        blocks.append("\n".join([_bold("Examples:"), *(f"  {line}" for line in command.epilog.splitlines())]))
    return "\n\n".join(blocks) + "\n"


def summary(command: Any) -> str:
    """The first sentence of a command's help."""
    return " ".join(inspect.cleandoc(command.help or "").split("\n\n")[0].split())


def _about(command: Any, width: int) -> str:
    paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    return "\n\n".join(fill(" ".join(paragraph.split()), width) for paragraph in paragraphs)


def _usage(command: Any, ctx: Any) -> str:
    pieces = [_term(param) for param in command.params if param.param_type_name == "argument"]
    if hasattr(command, "commands"):
        pieces.append("COMMAND …" if hasattr(command, "sections") else "[COMMAND] …")
    return " ".join([ctx.command_path, "[OPTIONS]", *pieces])


def _lists(command: Any, ctx: Any) -> Iterator[tuple[str, Pairs]]:
    """Every list of the page with its title: arguments, verbs, options by group."""
    params = [param for param in command.get_params(ctx) if not param.hidden]
    yield "Arguments", [(_term(param), _text(param)) for param in params if param.param_type_name == "argument"]
    if hasattr(command, "sections"):
        yield from command.sections().items()
    elif hasattr(command, "commands"):
        yield "Commands", _verbs(command, ctx)
    options = [param for param in params if param.param_type_name == "option"]
    options.sort(key=lambda param: param.rich_help_panel is not None)
    for title, group in groupby(options, key=lambda param: param.rich_help_panel or "Options"):
        yield title, [(_term(param), _text(param)) for param in group]


def _verbs(command: Any, ctx: Any) -> Pairs:
    pairs = [(name, summary(command.get_command(ctx, name))) for name in command.list_commands(ctx)]
    first, text = pairs[0]
    return [(first, f"{text} (also without {first})"), *pairs[1:]]


def _term(param: Any) -> str:
    if param.param_type_name == "argument":
        name = param.metavar or param.name.upper()
        return name if param.required else f"[{name}]"
    value = "" if param.is_flag else f" {param.metavar or 'TEXT'}"
    names = ", ".join([*sorted(param.opts, key=lambda name: name.startswith("--")), *param.secondary_opts])
    return f"{names}{value}"


def _text(param: Any) -> str:
    text = " ".join((param.help or "").split())
    default = param.default
    if param.show_default and default not in (None, False, (), []):
        text += f" [default: {getattr(default, 'value', default)}]"
    return f"{text} [repeatable]" if getattr(param, "multiple", False) else text


def _section(title: str, pairs: Pairs, width: int) -> str:
    column = max((len(term) for term, _ in pairs if len(term) <= LONGEST_TERM), default=0) + 4
    return "\n".join([_bold(f"{title}:"), *_lines(pairs, column, width)])


def _lines(pairs: Iterable[tuple[str, str]], column: int, width: int) -> Iterator[str]:
    for term, text in pairs:
        start = f"  {term}".ljust(column)
        if len(start) > column:
            yield start
            start = ""
        yield fill(text, width, initial_indent=start.ljust(column), subsequent_indent=" " * column) or start.rstrip()


def _bold(text: str) -> str:
    return f"\x1b[1m{text}\x1b[0m" if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else text
