"""Commands import what they need: a CLI that is slow to start is not used in scripts."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from .conftest import Cli

HEAVY = (
    "hypercorn",
    "aiohttp",
    "httpx",
    "httpx_aiohttp",
    "genai_prices",
    "sqlite_utils",
    "uvloop",
    "plotext",
    "matplotlib",
)
LIGHT = (*HEAVY, "pydantic", "rich.console", "msgspec", "sqlite3", "llmgate.config", "llmgate.store")

SCRIPT = """
import sys
sys.argv = ["llmgate", *{args!r}]
from llmgate.cli import main
try:
    main()
except SystemExit as leave:
    assert not leave.code, leave.code
print("imported:", *(name for name in {names!r} if name in sys.modules), file=sys.stderr)
"""


@pytest.mark.skipif("COVERAGE_PROCESS_CONFIG" in os.environ, reason="what measures coverage imports things itself")
@pytest.mark.parametrize(
    ("args", "names"),
    [
        (["--help"], LIGHT),
        (["--version"], LIGHT),
        (["keys", "list"], (*HEAVY, "pydantic", "rich.console")),
        (["keys", "add", "zoe"], HEAVY),
        (["report", "--top", "3"], (*HEAVY, "pydantic")),
        (["usage", "--format", "csv"], HEAVY),
        (["credits", "--json"], HEAVY),
        (["top", "--json"], (*HEAVY, "rich.console")),
        (["config", "check"], HEAVY),
        (["upstreams"], HEAVY),
        (["models", "--help"], ("hypercorn", "aiohttp", "httpx", "sqlite_utils", "genai_prices")),
        (["models"], ("hypercorn", "aiohttp", "httpx", "sqlite_utils")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_command_imports_only_what_it_needs(cli: Cli, args: list[str], names: tuple[str, ...]) -> None:
    if args[0] != "models":
        cli("users", "add", "alice")  # the migration of a new database is another matter
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(args=args, names=names)],
        capture_output=True,
        text=True,
        env=cli.env,
        cwd=cli.folder,
        check=True,
    )
    assert done.stderr.splitlines()[-1] == "imported:"
