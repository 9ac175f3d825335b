"""All commands and topics as a page of docs and as a man page: `make docs` writes them from what the program says.

commands.ENTRIES, help.TOPICS ─► manual.about, usage, lists ─► markdown() ─► cli.md
                                                           └─► roff() ─────► llmgate.1
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import typer

from llmgate import __version__
from llmgate.cli import help as topics
from llmgate.cli import manual
from llmgate.cli.commands import COMMANDS, application, load
from llmgate.cli.grammar import EVERYWHERE

PROGRAM = "llmgate"
WIDTH = 100


class Command(NamedTuple):
    """A command, and the context that its help is shown in."""

    command: Any
    ctx: Any

    @property
    def path(self) -> str:
        path: str = self.ctx.command_path
        return path

    @property
    def verbs(self) -> list[Command]:
        return [under(self, name, verb) for name, verb in getattr(self.command, "commands", {}).items()]


def under(parent: Command, name: str, command: Any) -> Command:
    return Command(command, typer.Context(command, info_name=name, parent=parent.ctx))


def root() -> Command:
    command = application()
    return Command(command, typer.Context(command, info_name=PROGRAM))


def nouns() -> Iterator[tuple[str, list[Command]]]:
    """The commands below each heading."""
    top = root()
    for title, entries in COMMANDS.items():
        yield title, [under(top, entry.word, load(entry)) for entry in entries]


# ── Markdown ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def markdown() -> str:
    parts = ["\n".join(_contents()), "## Options of every command", _fence(_everywhere())]
    for title, commands in nouns():
        parts.append(f"## {title}")
        for command in commands:
            parts += [f"### {command.path}", _fence(_page(command))]
            for verb in command.verbs:
                parts += [f"#### {verb.path}", _fence(_page(verb))]
    parts.append("## Topics")
    for name in topics.TOPICS:
        title, _, rest = topics.source(name).partition("\n")
        parts += [f"### {title.removeprefix('# ')}", rest.strip()]
    return "\n\n".join(parts)


def _contents() -> Iterator[str]:
    for title, commands in nouns():
        links = (f"[{command.ctx.info_name}](#{command.path.replace(' ', '-')})" for command in commands)
        yield f"- {title}: {', '.join(links)}"


def _page(command: Command) -> str:
    """Its help, without what every command has."""
    text = manual.page(command.command, command.ctx, WIDTH)
    blocks = text.rstrip().split("\n\n")
    return "\n\n".join(block for block in blocks if not block.startswith((f"{EVERYWHERE}:", "Options:\n  --help ")))


def _everywhere() -> str:
    top = root()
    listed = dict(manual.lists(top.command, top.ctx))
    return manual.pairs([*listed[EVERYWHERE], *listed["Options"]], WIDTH)


def _fence(text: str) -> str:
    return f"```text\n{text}\n```"


# ── roff ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def roff() -> str:
    """The man page, in the macros of man(7)."""
    top = root()
    lines = [f'.TH LLMGATE 1 "" "llmgate {__version__}" "llmgate"', ".SH NAME"]
    lines += [f"llmgate \\- {_escaped(manual.about(top.command)[0])}", ".SH SYNOPSIS", f".B {PROGRAM}"]
    lines += ["[OPTIONS] COMMAND \\&..."]
    for title, commands in nouns():
        lines += [".SH " + _escaped(title.upper())]
        for command in commands:
            if command.verbs:
                lines += [f".SS {_escaped(command.path)}", *_paragraphs(manual.about(command.command))]
            for one in command.verbs or [command]:
                lines += _command(one)
    lines += [".SH OPTIONS"]
    for title, listed in manual.lists(top.command, top.ctx):
        lines += _pairs(listed) if title in (EVERYWHERE, "Options") else []
    for name in topics.TOPICS:
        lines += _topic(topics.topic(name))
    return "\n".join(lines)


def _command(one: Command) -> Iterator[str]:
    yield f".SS {_escaped(manual.usage(one.command, one.ctx))}"
    yield from _paragraphs(manual.about(one.command))
    for title, listed in manual.lists(one.command, one.ctx):
        if title != EVERYWHERE:
            yield from _pairs([(term, text) for term, text in listed if term != "--help"])
    yield from _example(one.command.epilog)


def _topic(found: topics.Topic) -> Iterator[str]:
    yield f".SH ABOUT {found.name.upper()}"
    yield from _paragraphs([f"{found.summary[0].upper()}{found.summary[1:]}."])
    for block in found.blocks:
        if block.kind in topics.VERBATIM:
            yield from _example(block.text)
        elif block.kind:
            yield from _pairs(block.pairs)
        else:
            yield from _paragraphs([block.text])


def _paragraphs(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield ".PP"
        yield _escaped(" ".join(text.split()))


def _pairs(listed: manual.Pairs) -> Iterator[str]:
    for term, text in listed:
        yield ".TP"
        yield f"\\fB{_escaped(term)}\\fR"
        yield _escaped(text)


def _example(text: str) -> Iterator[str]:
    yield ".PP"
    yield ".RS 4"
    yield ".nf"
    yield from (_escaped(line) for line in text.splitlines())
    yield ".fi"
    yield ".RE"


def _escaped(text: str) -> str:
    """A text in which nothing is a request: a dot or a quote begins none, and what is typed can be copied."""
    signs = {"\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti"}
    told = "".join(signs.get(sign, sign if sign.isascii() else f"\\[u{ord(sign):04X}]") for sign in text)
    return f"\\&{told}" if told.startswith(".") else told
