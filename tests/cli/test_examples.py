"""Every example in the help, pasted into a shell on a terminal: each ends well."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmgate.cli.commands import ENTRIES, EXAMPLES, load
from llmgate.cli.help import TOPICS, topic

from .conftest import PROGRAM, Cli, converse
from .prepared import NEXT_YEAR

ENDLESS = "goes on until it is told to stop"
NOT_RUN = {
    "llmgate serve": ENDLESS,
    "llmgate serve --bind 0.0.0.0:8000 --workers 4": ENDLESS,
    "llmgate serve --bind 127.0.0.1:0 --db /tmp/try.db": ENDLESS,
    "llmgate usage --follow --tag agent=coder": ENDLESS,
    "llmgate usage --follow --json | jq .charge_usd": ENDLESS,
    "llmgate top": ENDLESS,
    "llmgate top --interval 5s --window 10m": ENDLESS,
    "llmgate --install-completion": "is for the shell that it is called by; test_completion has a bash call it",
    "llmgate prices update": "fetches a list from the internet",
}
"""Why an example is not run here; what it shows has tests of its own."""

NEEDED = {
    "alice/laptop": "llmgate keys add alice --name laptop",
    "db restore llmgate-2026-11-20.db": "cp spare.db llmgate-2026-11-20.db",
    "db restore /backups/llmgate.db": "cp spare.db backups/llmgate.db",
    "llmgate init": "rm llmgate.toml",
    "users add": "rm llmgate.db; llmgate teams add research",
    "teams add research": "rm llmgate.db",
    "llmgate import teams.csv": "for what in teams users keys; do llmgate export $what > $what.csv; done",
}
"""What must have been done before examples that hold these words."""

ANSWERS = {"[y/N]": "y\n", "Upstreams [": "\n", "Listen on [": "\n", "prepaid [": "\n", "[Y/n]": "\n"}


def examples() -> Iterator[str]:
    yield from EXAMPLES.splitlines()
    for entry in ENTRIES.values():
        command = load(entry)
        for verb in getattr(command, "commands", {"": command}).values():
            yield from verb.epilog.splitlines()
    for name in TOPICS:
        for block in topic(name).blocks:
            yield from block.text.splitlines() if block.kind == "sh" else ()


@pytest.fixture
def pasted(tmp_path: Path, ready: Path) -> Cli:
    """Where an example is pasted into: a copy of all that it may need."""
    shutil.copytree(ready, tmp_path, dirs_exist_ok=True)
    for folder in ("backups", "bin"):
        (tmp_path / folder).mkdir()
    program = tmp_path / "bin" / "llmgate"
    program.write_text(f'#!/bin/sh\nexec {" ".join(PROGRAM)} "$@"\n')
    program.chmod(0o755)
    return Cli(tmp_path)


@pytest.mark.parametrize("example", [line for line in dict.fromkeys(examples()) if line not in NOT_RUN])
def test_an_example_works_when_it_is_pasted(pasted: Cli, example: str) -> None:
    if "jq" in example and not shutil.which("jq"):
        pytest.skip("there is no jq")
    before = [line for words, line in NEEDED.items() if words in example]
    here = example.replace("/backups", "backups").replace("/etc/llmgate", "etc").replace("2027", str(NEXT_YEAR))
    ours, theirs = pty.openpty()
    path = f"{pasted.folder}/bin:{os.environ['PATH']}"
    process = subprocess.Popen(
        ["sh", "-ec", "\n".join([*before, here])],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=pasted.folder,
        env={**pasted.env, "PATH": path, "OPENAI_API_KEY": "sk-x"},
        start_new_session=True,
    )
    os.close(theirs)
    out = converse(ours, dict(ANSWERS))
    os.close(ours)
    assert process.wait(30) == 0, out
    assert "Traceback" not in out


def test_what_is_not_run_is_an_example() -> None:
    assert {*NOT_RUN} <= {*examples()}
    assert all(any(words in example for example in examples()) for words in NEEDED)
