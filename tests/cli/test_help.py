"""Help: every command has a summary, its options, and examples that are real."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmgate.cli.commands import ENTRIES, application, load
from llmgate.cli.manual import page, summary

from .conftest import Cli, plain


def commands() -> Iterator[tuple[str, Any]]:
    """Every noun and verb."""
    for word, entry in ENTRIES.items():
        command = load(entry)
        yield word, command
        for name, verb in getattr(command, "commands", {}).items():
            yield f"{word} {name}", verb


ALL = dict(commands())


def context(path: str, command: Any) -> Any:
    """What help is shown in."""
    return command.make_context(f"llmgate {path}".strip(), ["--"], resilient_parsing=True)


@pytest.mark.parametrize("path", ALL)
def test_every_command_is_explained(path: str) -> None:
    command = ALL[path]
    with context(path, command) as ctx:
        text = page(command, ctx)
    lines = text.splitlines()
    assert summary(command).endswith((".", ")")), "the first line is a sentence"
    assert lines[0]
    assert f"Usage: llmgate {path}" in text
    assert all(len(line) <= 100 for line in lines)
    for everywhere in ("--config PATH", "--db PATH", "--format", "--json", "--yes"):
        assert everywhere in text
    for param in command.params:
        assert param.help or param.param_type_name == "argument", f"{param.name} has no help"


@pytest.mark.parametrize("path", [path for path in ALL if not hasattr(ALL[path], "commands")])
def test_every_command_has_examples_of_itself(path: str) -> None:
    examples = ALL[path].epilog.splitlines()
    assert examples
    assert any(f"llmgate {path}" in example or f"llmgate {path.split()[0]}" in example for example in examples)
    for example in examples:
        assert "llmgate" in shlex.split(example.replace("$(", " ").replace(")", " "))


@pytest.mark.parametrize("path", ALL)
def test_every_page_has_examples(cli: Cli, path: str) -> None:
    text = cli(*path.split(), "--help").out
    _, heading, examples = text.partition("\nExamples:\n")
    assert heading
    assert f"llmgate {path.split()[0]}" in examples


@pytest.mark.parametrize(
    ("noun", "term"), [("keys", "--user USER"), ("keys", "--all"), ("limits", "[TARGET]"), ("models", "--search S")]
)
def test_a_nouns_help_tells_what_the_bare_noun_takes(cli: Cli, noun: str, term: str) -> None:
    assert f"\n  {term} " in cli(noun, "--help").out


def test_the_summaries_that_llmgate_lists_are_those_of_the_nouns() -> None:
    for word, entry in ENTRIES.items():
        assert entry.summary.endswith(".")
        if hasattr(ALL[word], "commands"):
            assert entry.summary == summary(ALL[word]), word


def test_llmgate_lists_its_nouns_in_order(cli: Cli) -> None:
    text = cli("--help").out
    places = [text.index(f"\n  {word} ") for word in ENTRIES]
    assert places == sorted(places)
    assert "Examples:" in text


def test_a_nouns_help_lists_its_verbs(cli: Cli) -> None:
    text = cli("keys", "--help").out
    for verb in ("list", "add", "show", "set", "rotate", "disable", "enable", "revoke"):
        assert f"\n  {verb} " in text
    assert "also without list" in text


def test_help_is_asked_for_anywhere(cli: Cli) -> None:
    assert "Issue a key" in cli("keys", "add", "--help").out
    assert "Issue a key" in cli("--db", "x.db", "keys", "--json", "add", "alice", "--help").out
    assert not (cli.folder / "x.db").exists()


def test_headings_stand_out_on_a_terminal_only(cli: Cli) -> None:
    assert "\x1b[" not in cli("keys", "--help").out
    assert "\x1b[1mUsage:" in cli.terminal("keys", "--help").out
    assert "\x1b[" not in cli.terminal("keys", "--help", NO_COLOR="1").out


def test_help_is_as_wide_as_the_terminal(cli: Cli) -> None:
    lines = plain(cli.terminal("keys", "add", "--help", columns=60).out).splitlines()
    examples = lines.index("Examples:")
    assert max(map(len, lines[:examples])) <= 60


def test_a_shell_can_complete_words(cli: Cli) -> None:
    asked = cli("ke", _LLMGATE_COMPLETE="complete_bash", COMP_WORDS="llmgate ke", COMP_CWORD="1")
    assert asked.out.split() == ["keys"]


def test_application_is_made_anew_each_time() -> None:
    assert application() is not application()


MAN = Path(__file__).parents[2] / "docs" / "llmgate.1"


@pytest.mark.skipif(shutil.which("groff") is None, reason="there is no groff")
def test_the_man_page_is_written_well() -> None:
    done = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-z", MAN], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_the_man_page_has_every_command() -> None:
    text = MAN.read_text()
    for path in ALL:
        assert f".SS llmgate {path}".replace("-", "\\-") in text, "`make docs` writes it anew"


def test_h_is_help(cli: Cli) -> None:
    for words in ((), ("keys",), ("keys", "add")):
        assert cli(*words, "-h").out == cli(*words, "--help").out
