"""`llmgate help`: what is true of more than one command, told once; the texts are in `topics/`.

A text is Markdown: a title with its summary, paragraphs, and fenced blocks. `sh` and `toml` are shown as they stand; in
any other block a line is a term and what it means, two blanks apart, and the block says what its terms are: a test
parses each by the grammar of that name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from importlib.resources import files
from typing import Annotated, Any, NamedTuple

import typer

from . import manual
from .grammar import alone, verb
from .suggest import unknown

app = alone()

TOPICS = ("config", "keys", "routing", "limits", "money", "dates", "formats", "errors", "completion")
"""In the order in which they are listed."""

VERBATIM = ("sh", "toml")

_FENCE = re.compile(r"```(\w+)\n(.*?)\n```", re.DOTALL)


class Block(NamedTuple):
    """A part of a text. A paragraph has no kind, a fenced block the word behind its fence."""

    kind: str
    text: str

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The terms of a block, and what they mean."""
        split = (re.split(r"\s{2,}", line, maxsplit=1) for line in self.text.splitlines())
        return [(term, text) for term, text in split]


class Topic(NamedTuple):
    name: str
    summary: str
    blocks: list[Block]


def source(name: str) -> str:
    """A topic as it was written."""
    return files(__package__).joinpath("topics", f"{name}.md").read_text(encoding="utf-8")


def topic(name: str) -> Topic:
    title, _, rest = source(name).partition("\n")
    return Topic(name, title.partition(": ")[2], list(_blocks(rest)))


def _blocks(text: str) -> Iterator[Block]:
    end = 0
    for match in _FENCE.finditer(text):
        yield from _paragraphs(text[end : match.start()])
        yield Block(match[1], match[2])
        end = match.end()
    yield from _paragraphs(text[end:])


def _paragraphs(text: str) -> Iterator[Block]:
    return (Block("", paragraph.strip()) for paragraph in text.split("\n\n") if paragraph.strip())


def shown(found: Topic, width: int) -> str:
    """A topic as a terminal shows it."""
    first = f"{found.name}: {found.summary}"
    return (
        "\n\n".join(
            [manual.heading(manual.paragraph(first, width)), *(_laid_out(block, width) for block in found.blocks)]
        )
        + "\n"
    )


def _laid_out(block: Block, width: int) -> str:
    if block.kind in VERBATIM:
        return "\n".join(f"  {line}".rstrip() for line in block.text.splitlines())
    if block.kind:
        return manual.pairs(block.pairs, width)
    return manual.paragraph(block.text, width)


@verb(
    app,
    "help",
    examples="""
    llmgate help
    llmgate help limits
    llmgate help keys add
    """,
)
def help_(
    ctx: typer.Context,
    words: Annotated[
        list[str] | None, typer.Argument(metavar="TOPIC", help=f"{', '.join(TOPICS)}; or a command.")
    ] = None,
) -> None:
    """Explain what is true of many commands: limits, dates, money, config and more; or show the help of a command."""
    width = manual.room()
    if not words:
        typer.echo(_index(width), nl=False)
    elif len(words) == 1 and words[0] in TOPICS:
        typer.echo(shown(topic(words[0]), width), nl=False)
    else:
        typer.echo(_of_command(ctx, words), nl=False)


def _index(width: int) -> str:
    listed = manual.pairs([(name, topic(name).summary) for name in TOPICS], width)
    return (
        "\n\n".join(
            [
                f"{manual.heading('Topics:')}\n{listed}",
                manual.paragraph(
                    "`llmgate help TOPIC` explains one of them, `llmgate help COMMAND` is the same as "
                    "`llmgate COMMAND --help`, and `llmgate --help` lists the commands.",
                    width,
                ),
            ]
        )
        + "\n"
    )


def _of_command(ctx: typer.Context, words: Sequence[str]) -> str:
    """The help of a command. Raises UsageError with the nearest word where there is none."""
    here: Any = ctx.find_root()
    for at, word in enumerate(words):
        known = here.command.list_commands(here) if hasattr(here.command, "list_commands") else []
        found = here.command.get_command(here, word) if word in known else None
        if found is None:
            if at:
                raise unknown("command", word, known, here.command_path)
            raise unknown("topic or command", word, [*TOPICS, *known], "llmgate help")
        here = type(here)(found, info_name=word, parent=here)
    return manual.page(here.command, here)
