"""docs/json.md: what every command writes with --json is what is documented, field by field."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
import shapes

from tests.books import Book

from .conftest import Cli
from .prepared import KEY_OF_ALICE, USAGE
from .test_help import ALL

RUNS: dict[str, list[str]] = {
    "keys list": ["keys", "keys list --all --user alice"],
    "keys show": ["keys show alice"],
    "keys add": ["keys add zoe --credits 1 --plan starter --models gpt-4o --expires 90d --tag job=1 --note x"],
    "keys set": ["keys set alice --ips 10.0.0.0/8"],
    "keys rotate": ["keys rotate alice"],
    "keys disable": ["keys disable alice"],
    "keys enable": ["keys enable alice"],
    "keys revoke": [f"keys revoke {KEY_OF_ALICE} --yes"],
    "admins list": ["admins"],
    "admins add": ["admins add ops --scope keys"],
    "admins revoke": ["admins revoke prometheus --yes"],
    "requests list": ["requests", "requests --all"],
    "requests approve": ["requests approve 12 13"],
    "requests deny": ["requests deny 14"],
    "users list": ["users"],
    "users show": ["users show alice", "users show bob"],
    "users add": ["users add zoe --email zoe@example.org"],
    "users set": ["users set bob --plan starter --lead research"],
    "users disable": ["users disable alice"],
    "users enable": ["users enable alice"],
    "users link": ["users link alice"],
    "users signout": ["users signout alice"],
    "users identities": ["users identities alice", "users identities alice --forget"],
    "teams list": ["teams"],
    "teams show": ["teams show research"],
    "teams add": ["teams add other --plan starter"],
    "teams set": ["teams set research --billing metered"],
    "credits list": ["credits"],
    "credits show": ["credits show alice", "credits show team:research"],
    "credits add": ["credits add alice 1 --ref r", "credits add bob 1"],
    "credits take": ["credits take alice 1 --yes"],
    "credits reverse": ["credits reverse 17"],
    "credits refund": [f"credits refund {USAGE}"],
    "credits transfer": ["credits transfer alice bob 1"],
    "credits history": ["credits history alice", "credits history team:research"],
    "export entries": ["export entries"],
    "limits list": ["limits", "limits bob"],
    "limits set": ["limits set bob $5/day 60requests/minute"],
    "limits remove": ["limits remove alice --all --yes"],
    "plans list": ["plans"],
    "plans show": ["plans show starter"],
    "upstreams list": ["upstreams"],
    "upstreams check": ["upstreams check"],
    "models list": ["models"],
    "models price": ["models price gpt-4o --input 10 --cached 5 --output 3"],
    "prices list": ["prices --all"],
    "prices set": ["prices set gpt-4o-mini input=1 --from 30d", "prices set echo free"],
    "prices remove": ["prices remove gpt-4o"],
    "prices show": ["prices show gpt-4o", "prices show azure/gpt-4o"],
    "prices import": ["prices import next-year.csv --yes"],
    "prices diff": ["prices diff data.json --all"],
    "prices update": ["prices update --file data.json --all --yes"],
    "report": [
        "report",
        "report --by user --by team --by plan --by model --by upstream --by key",
        "report --by tag --by hour",
        "report --by day --by week --by month --top 1",
        "report --compare",
        "report --prices next-year.csv",
    ],
    "usage": ["usage", "usage --status error"],
    "export usage": ["export usage"],
    "export users": ["export users"],
    "export teams": ["export teams"],
    "export keys": ["export keys"],
    "export pruned": ["export pruned"],
    "export zone": ["export zone"],
    "export prices": ["export prices"],
    "import": ["import box.ndjson"],
    "top": ["top", "top --window 1h"],
    "invoice": ["invoice alice", "invoice team:research", "invoice bob --month 2024-02"],
    "events": ["events"],
    "verify": ["verify", "verify --repair"],
    "doctor": ["doctor"],
    "audit": ["audit"],
    "init": ["init --force"],
    "config check": ["config check"],
    "config path": ["config path"],
    "db stats": ["db stats"],
    "db backup": ["db backup copy.db"],
    "db prune": ["db prune --before 400d --dry-run", "db prune --before 400d --yes"],
    "db restore": ["db restore spare.db --yes"],
    "db migrate": ["db migrate"],
    "db set-zone": ["db set-zone UTC"],
}
"""How each command is called that writes data; each starts with the same books, and goes on with what was left."""

EMPTY_AT_FIRST = {"events", "export pruned"}
"""What has no row in these books; its fields are those of its columns anyway."""


ERROR: Any = shapes.of("error").of


@pytest.fixture
def copied(tmp_path: Path, ready: Path) -> Cli:
    shutil.copytree(ready, tmp_path, dirs_exist_ok=True)
    return Cli(tmp_path)


@pytest.mark.parametrize("command", shapes.WRITES)
def test_what_is_written_is_what_is_documented(copied: Cli, command: str) -> None:
    for line in RUNS[command]:
        out = copied(*line.split(), "--json").out
        found = msgspec.json.decode(out, type=shapes.written(command))
        assert found or command in EMPTY_AT_FIRST


def test_every_command_that_writes_data_is_documented() -> None:
    written = {path for path, command in ALL.items() if not getattr(command, "commands", None)}
    documented = {"export" if name.startswith("export ") else name for name in shapes.WRITES}
    assert documented | {*shapes.NOTHING} == written, "give each a line in docs/shapes.py"


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("keys show nobody", "not_found"),
        ("keys shwo", "usage_error"),
        ("credits take alice 999 --yes", "insufficient_credits"),
    ],
)
def test_an_error_is_what_is_documented(copied: Cli, line: str, code: str) -> None:
    (text,) = copied(*line.split(), "--json", code=None).err.splitlines()
    error: Any = msgspec.json.decode(text, type=dict[str, ERROR])["error"]
    assert error.code_ == code


def test_what_is_found_is_documented(copied: Cli) -> None:
    book = Book(copied.folder / "llmgate.db")
    book.db.conn.execute("UPDATE accounts SET balance_nano = balance_nano + 1")
    book.close()
    for repair in ([], ["--repair"]):
        out = copied("verify", *repair, "--json", code=None).out
        found: Any = msgspec.json.decode(out, type=shapes.written("verify"))
        assert found.repaired_ if repair else found.findings_
    (copied.folder / "llmgate.toml").write_text("[upstreams.openai]\n")
    for command in ("doctor", "config check"):
        out = copied(*command.split(), "--json", code=3).out
        found = msgspec.json.decode(out, type=shapes.written(command))
        assert found.problems_


def test_the_events_that_there_are_are_documented(copied: Cli) -> None:
    copied("limits", "set", "alice", "$0.10/month")
    out = copied("events", "--json").out
    assert msgspec.json.decode(out, type=shapes.written("events"))


def test_no_meaning_is_left_over() -> None:
    named = {f"{fields}.{column.name}" for fields, columns in shapes.SETS.items() for column in columns}
    plain = {name.partition(".")[2] for name in named}
    assert {name for name in shapes.MEANS if name not in named | plain} == set()
