"""All commands, in the order in which help lists them. A command's file is imported when the command is called."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from .. import __version__
from .grammar import Noun

if TYPE_CHECKING:
    from .completion import Word


class Entry(NamedTuple):
    """A word after `llmgate`, the file that knows it, and what help says of it."""

    word: str
    file: str
    summary: str


COMMANDS: dict[str, tuple[Entry, ...]] = {
    "Start": (
        Entry("init", "init", "Write llmgate.toml."),
        Entry("demo", "demo", "See the whole story in seconds, on the sandbox."),
        Entry("serve", "serve", "Answer requests until told to stop."),
        Entry("help", "help", "Explain limits, dates, money, config and other topics."),
    ),
    "Who may ask, and who pays": (
        Entry("keys", "keys", "Keys: who may send requests, and which."),
        Entry("users", "users", "Users: who keys belong to."),
        Entry("teams", "teams", "Teams: users who share an account."),
        Entry("credits", "credits", "Credits: the balance of every account, and what moved it."),
        Entry("requests", "requests", "Requests: who asked for a key, and whether it is given."),
        Entry("limits", "limits", "Limits: how much may be asked, and how far that is used up."),
        Entry("plans", "plans", "Plans: named bundles of limits."),
        Entry("admins", "admins", "Admins: the keys of the admin API."),
    ),
    "Who answers": (Entry("upstreams", "upstreams", "Upstreams: who answers, and whether they do."),),
    "What is used": (
        Entry("models", "models", "Models: what can be asked for, and what it is charged."),
        Entry("prices", "prices", "Prices: what models are charged and cost, and from when on."),
        Entry("report", "report", "Sum up what was used and what it cost."),
        Entry("usage", "usage", "Show requests one by one."),
        Entry("top", "top", "Show what happens now, on a screen that goes on."),
        Entry("invoice", "invoice", "Write the invoice of an account for a month."),
        Entry("export", "export", "Write usage, ledger entries, users, teams or keys for other programs."),
        Entry("import", "importing", "Take in what export wrote on another box."),
        Entry("events", "events", "List what happened that is worth telling."),
    ),
    "Upkeep": (
        Entry("verify", "verify", "Recompute the books, and say where they differ."),
        Entry("doctor", "doctor", "Look for everything that may be wrong, and say how to mend it."),
        Entry("audit", "audit", "Show who changed what, and when."),
        Entry("config", "config", "The config: where it is, what it says, whether it is right."),
        Entry("db", "database", "The database: its size, backups, migrations and time zone."),
    ),
}

EXAMPLES = """llmgate init
llmgate keys add alice --credits 5
llmgate report --since 30d --by user
llmgate help limits"""

ENTRIES = {entry.word: entry for entries in COMMANDS.values() for entry in entries}


class Root(Noun):
    """`llmgate` itself. It knows the summaries without importing the commands."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        return list(ENTRIES)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        entry = ENTRIES.get(cmd_name)
        return load(entry) if entry else None

    def sections(self) -> dict[str, list[tuple[str, str]]]:
        """What help lists."""
        return {title: [(entry.word, entry.summary) for entry in entries] for title, entries in COMMANDS.items()}

    def words(self) -> list[Word]:
        from .completion import Word

        return [Word(entry.word, entry.summary) for entry in ENTRIES.values()]

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        if incomplete.startswith("-"):
            return super(Noun, self).shell_complete(ctx, incomplete)
        from .completion import fitting

        return fitting(self.words(), incomplete)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super(Noun, self).parse_args(ctx, args)


def load(entry: Entry) -> Any:
    """The command of an entry, with its file imported."""
    command = typer.main.get_command(import_module(f".{entry.file}", __package__).app)
    command.name = entry.word
    return command


def application() -> Any:
    """The command `llmgate`."""
    app = typer.Typer(name="llmgate", cls=Root, invoke_without_command=True)
    app.callback(epilog=EXAMPLES)(_root)
    return typer.main.get_command(app)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"llmgate {__version__}")
        raise typer.Exit


def _root(
    ctx: typer.Context,
    version: Annotated[  # noqa: ARG001
        bool,
        typer.Option("--version", "-V", help="Show the version.", callback=_version, is_eager=True),
    ] = False,
) -> None:
    """The LLM gateway whose money is right: keys, metering and credits over one SQLite file."""
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())
