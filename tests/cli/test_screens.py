"""What people see, kept as it is meant to look: help, tables, errors. `make docs` writes it anew; read the diff."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion

from llmgate.cli.commands import ENTRIES, application
from llmgate.cli.manual import page

from .conftest import Cli, plain
from .test_help import ALL, context

STAND_INS = (
    (r"20\d\d-\d\d-\d\d", "2026-11-20"),
    (r"(?<!\d)\d\d:\d\d:\d\d(\.\d{3})?", lambda found: "10:00:00" + (".000" if found[1] else "")),
    (r"sk-lg-\w{6}", "sk-lg-Xo2hT5"),
    (r"req_[0-9a-f]{16}_\d{6}", "req_0123456789abcdef_000001"),
    (r"[·▁▂▃▄▅▆▇█]{16}", "·" * 15 + "█"),
)
"""What differs from run to run, and what stands for it: as wide, so that tables keep their shape."""

TABLES = (
    "keys",
    "credits",
    "limits",
    "usage",
    "report --by user --by model",
    "credits history alice --last 3",
    "prices",
)

ERRORS = (
    "kyes",
    "keys shwo",
    "keys show alise",
    "keys --fromat csv",
    "keys add",
    "keys add eve --plan startre",
    "limits set alice 60",
    "usage --since yesterdya",
    "credits take alice 1000",
    "credits add alice five",
    "models price gpt-5o",
    "--db nowhere.db verify",
    "--config nowhere.toml keys",
)


def steady(text: str) -> str:
    told = plain(text)
    for pattern, stand_in in STAND_INS:
        told = re.sub(pattern, stand_in, told)
    return told


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, ready: Path) -> Cli:
    """Books that these tests only read."""
    folder = tmp_path_factory.mktemp("house")
    shutil.copytree(ready, folder, dirs_exist_ok=True)
    return Cli(folder)


@pytest.mark.parametrize("word", ["", *ENTRIES])
def test_help(word: str, snapshot: SnapshotAssertion) -> None:
    command = ALL[word] if word else application()
    with context(word, command) as ctx:
        assert page(command, ctx, 80) == snapshot


@pytest.mark.parametrize("columns", [60, 80, 200])
@pytest.mark.parametrize("line", TABLES)
def test_tables_on_a_terminal(house: Cli, line: str, columns: int, snapshot: SnapshotAssertion) -> None:
    assert steady(house.terminal(*line.split(), columns=columns).out) == snapshot


@pytest.mark.parametrize("form", ["table", "csv", "md", "json"])
@pytest.mark.parametrize("line", TABLES)
def test_data_on_a_pipe(house: Cli, line: str, form: str, snapshot: SnapshotAssertion) -> None:
    assert steady(house(*line.split(), "--format", form).out) == snapshot


@pytest.mark.parametrize("line", ERRORS)
def test_errors(house: Cli, line: str, snapshot: SnapshotAssertion) -> None:
    done = house(*line.split(), code=None)
    assert done.out == ""
    told = done.err.replace(str(house.folder), "FOLDER")
    assert f"{told}exit {done.code}" == snapshot
