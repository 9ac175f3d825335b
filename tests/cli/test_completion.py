"""Tab, as bash, zsh and fish ask it: by variables of the environment, and once by a real bash."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.books import Book

from .conftest import PROGRAM, Cli, converse
from .test_speed import HEAVY, LIGHT, SCRIPT

ALWAYS_SLOW = ("pydantic", "rich.console")

CONFIG = """
database = "books.db"
[upstreams.sandbox]
[plans.starter]
price = 29
limits = ["100000 tokens/month"]
[models.gpt-fast]
routes = [{ upstream = "sandbox", model = "echo" }]
"""


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """alice, who has a key, and bob of the team research; nobody changes that."""
    cli = Cli(tmp_path_factory.mktemp("shell"))
    (cli.folder / "llmgate.toml").write_text(CONFIG)
    cli("teams", "add", "research")
    cli("users", "add", "bob", "--team", "research")
    cli("keys", "add", "alice")
    return cli


def bash(cli: Cli, *words: str) -> list[str]:
    """What bash is told for the last of these words, which it has cut at its colons and equal signs."""
    asked = cli(
        code=None,
        _LLMGATE_COMPLETE="complete_bash",
        COMP_WORDS="\n".join(["llmgate", *words]),
        COMP_CWORD=str(len(words)),
    )
    assert asked.err == ""
    return asked.out.split()


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["ke"], ["keys"]),
        (["keys", ""], ["list", "show", "add", "set", "rotate", "disable", "enable", "revoke"]),
        (["keys", "re"], ["revoke"]),
        (["users", "show", ""], ["alice", "bob"]),
        (["users", "show", "b"], ["bob"]),
        (["keys", "--user", "al"], ["alice"]),
        (["keys", "show", "alice/"], ["alice/default"]),
        (["teams", "show", ""], ["research"]),
        (["credits", "transfer", "alice", ""], ["alice", "bob", "team:research"]),
        (["credits", "add", "t"], ["team:research"]),
        (["limits", "re"], ["remove"]),
        (["limits", "al"], ["alice"]),
        (["limits", "set", "team", ":"], ["research"]),
        (["limits", "set", "team", ":", "re"], ["research"]),
        (["users", "set", "bob", "--plan", "=", "st"], ["starter"]),
        (["users", "set", "bob", "--plan", ""], ["starter"]),
        (["plans", "show", ""], ["starter"]),
        (["models", "price", ""], ["gpt-fast"]),
        (["report", "--upstream", ""], ["sandbox"]),
        (["report", "--by", "user", "--by", "mo"], ["model", "month"]),
        (["upstreams", "check", ""], ["sandbox"]),
        (["init", "--upstream", "open"], ["openai", "openrouter"]),
        (["usage", "--status", "e"], ["error"]),
        (["keys", "--format", "j"], ["json"]),
        (["keys", "--us"], ["--user"]),
        (["--js"], ["--json"]),
        (["db", "set-zone", "Europe/Berl"], ["Europe/Berlin"]),
        (["help", "da"], ["dates"]),
        (["help", "credits", "tr"], ["transfer"]),
        (["nothing", ""], []),
        (["--format", "nothing", "users", "show", "b"], ["bob"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_what_bash_is_told(shell: Cli, typed: list[str], told: list[str]) -> None:
    assert bash(shell, *typed) == told


def test_a_limit_can_hang_on_everything_that_has_one(shell: Cli) -> None:
    (key,) = shell.data("keys")
    assert bash(shell, "limits", "set", "") == ["alice", "bob", "team:research", f"key:{key['id']}"]
    assert bash(shell, "limits", "set", "user", ":") == ["alice", "bob"]


def test_the_bare_noun_is_completed_like_its_first_verb(shell: Cli) -> None:
    assert {"--user", "--all", "--json"} <= {*bash(shell, "keys", "-")}
    assert bash(shell, "limits", "") == ["list", "set", "remove", *bash(shell, "limits", "list", "")]


@pytest.mark.parametrize("form", ["zsh", "fish"])
def test_zsh_and_fish_are_told_what_words_mean(shell: Cli, form: str) -> None:
    told = shell(
        _LLMGATE_COMPLETE=f"complete_{form}", _TYPER_COMPLETE_ARGS="llmgate ", _TYPER_COMPLETE_FISH_ACTION="get-args"
    )
    assert "Write llmgate.toml." in told.out
    for line in told.out.splitlines():
        assert line.count("keys") <= 2
    named = shell(
        _LLMGATE_COMPLETE=f"complete_{form}",
        _TYPER_COMPLETE_ARGS="llmgate limits set team:",
        _TYPER_COMPLETE_FISH_ACTION="get-args",
    )
    assert "research" in named.out
    assert told.err == named.err == ""


@pytest.mark.skipif("COVERAGE_PROCESS_CONFIG" in os.environ, reason="what measures coverage imports things itself")
@pytest.mark.parametrize(
    ("words", "names"),
    [("ke", LIGHT), ("keys ", (*HEAVY, *ALWAYS_SLOW)), ("users show ", (*HEAVY, *ALWAYS_SLOW))],
)
def test_tab_imports_only_what_it_needs(shell: Cli, words: str, names: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(args=[], names=names)],
        capture_output=True,
        text=True,
        env={
            **shell.env,
            "_LLMGATE_COMPLETE": "complete_bash",
            "COMP_WORDS": "llmgate\n" + words.replace(" ", "\n"),
            "COMP_CWORD": str(words.count(" ") + 1),
        },
        cwd=shell.folder,
        check=True,
    )
    assert done.stdout
    assert done.stderr.splitlines()[-1] == "imported:"


def test_tab_leaves_nothing_behind(cli: Cli) -> None:
    before = sorted(cli.folder.rglob("*"))
    assert bash(cli, "keys", "show", "") == []
    assert bash(cli, "--db", "new/books.db", "users", "show", "") == []
    assert sorted(cli.folder.rglob("*")) == before


@pytest.mark.parametrize("content", [b"", b"no database", b"SQLite format 3\0" + bytes(4000)])
def test_tab_is_silent_where_something_is_wrong(cli: Cli, content: bytes) -> None:
    (cli.folder / "llmgate.db").write_bytes(content)
    (cli.folder / "llmgate.toml").write_text('database = "llmgate.db"\n[upstreams.sandbox]')
    assert bash(cli, "keys", "show", "") == []
    assert (cli.folder / "llmgate.db").read_bytes() == content
    (cli.folder / "llmgate.toml").write_text("no toml")
    assert bash(cli, "keys", "show", "") == []
    assert bash(cli, "plans", "show", "") == []


def test_an_older_database_is_not_migrated_by_tab(cli: Cli) -> None:
    file = cli.folder / "old.db"
    book = Book(file)
    book.user("alice")
    book.db.conn.execute("PRAGMA user_version = 2")
    book.close()
    before = file.read_bytes()
    assert bash(cli, "--db", "old.db", "users", "show", "a") == ["alice"]
    assert file.read_bytes() == before


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_it_is_installed_for_the_shell_that_calls(cli: Cli) -> None:
    line = f"{' '.join(PROGRAM)} --install-completion; exit $?"
    done = subprocess.run(["bash", "-c", line], cwd=cli.folder, env=cli.env, capture_output=True, text=True, check=True)
    assert "bash completion installed" in done.stdout
    script = cli.folder / ".bash_completions" / "llmgate.sh"
    assert str(script) in (cli.folder / ".bashrc").read_text()
    assert script.read_text().strip() == cli(_LLMGATE_COMPLETE="source_bash").out.strip()


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_a_real_bash_completes(shell: Cli) -> None:
    script = shell(_LLMGATE_COMPLETE="source_bash").out
    folder = shell.folder / "bin"
    folder.mkdir()
    program = folder / "llmgate"
    program.write_text(f'#!/bin/sh\nexec {" ".join(PROGRAM)} "$@"\n')
    program.chmod(0o755)
    (shell.folder / "rc").write_text(f"{script}\nPS1='ready> '\n")
    ours, theirs = pty.openpty()
    path = f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    process = subprocess.Popen(
        ["bash", "--noprofile", "--rcfile", "rc", "-i"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=shell.folder,
        env={**shell.env, "PATH": path},
        start_new_session=True,
    )
    os.close(theirs)
    out = converse(ours, {"ready> ": "llmgate limits set team:re\t", "team:research ": "'9 requests/minute'; exit\n"})
    os.close(ours)
    assert process.wait(30) == 0, out
    assert "team:research: 9 requests/minute" in out
