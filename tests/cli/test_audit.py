"""Every change through the command line leaves one row of the audit: who, when, what was before and after."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from llmgate.cli.context import actor
from llmgate.cli.run import run

from . import books
from .conftest import Cli
from .test_wrong_words import VERBS


class Change(NamedTuple):
    """A command that changes something, what the audit tells of it, and one like it that is refused."""

    line: str
    action: str
    target: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    refused: str = ""


CHANGES = {
    "keys add": Change(
        "alice --name laptop", "keys.add", "k-", None, {"user": "alice", "name": "laptop"}, "alice --name default"
    ),
    "keys set": Change(
        "alice/default --models gpt-*", "keys.set", "k-", {"models": []}, {"models": ["gpt-*"]}, "nobody --note x"
    ),
    "keys rotate": Change("alice/default --grace 1h", "keys.rotate", "k-", {}, {"grace_ms": 3_600_000}, "nobody"),
    "keys disable": Change("alice/default", "keys.disable", "k-", {"status": "active"}, {"status": "disabled"}, "x"),
    "keys enable": Change("carl/off", "keys.enable", "k-", {"status": "disabled"}, {"status": "active"}, "nobody"),
    "keys revoke": Change("bob", "keys.revoke", "k-", {"status": "active"}, {"status": "revoked"}, "nobody"),
    "users add": Change("zoe --email z@x.org", "users.add", "zoe", None, {"email": "z@x.org"}, "alice"),
    "users set": Change("bob --team ''", "users.set", "bob", {"team": "research"}, {"team": ""}, "bob --team none"),
    "users disable": Change("bob", "users.set", "bob", {"status": "active"}, {"status": "disabled"}, "nobody"),
    "users enable": Change("dora", "users.set", "dora", {"status": "disabled"}, {"status": "active"}, "nobody"),
    "users link": Change("bob", "users.link", "bob", None, {}, "dora"),
    "users signout": Change("bob", "users.signout", "bob", None, {"sessions": 0}, "nobody"),
    "teams add": Change("ops --billing prepaid", "teams.add", "ops", None, {"billing": "prepaid"}, "research"),
    "teams set": Change(
        "research --billing metered",
        "teams.set",
        "research",
        {"billing": "prepaid"},
        {"billing": "metered"},
        "none --billing metered",
    ),
    "credits add": Change("alice 2 --ref r-1", "credits.add", "alice", None, {"amount_usd": "2", "ref": "r-1"}, "no 1"),
    "credits take": Change("alice 1", "credits.take", "alice", None, {"amount_usd": "-1"}, "alice 1000"),
    "credits reverse": Change("2 --force", "credits.reverse", "2", None, {"amount_usd": "-5"}, "999"),
    "credits refund": Change("1", "credits.refund", "", None, {"amount_usd": "0.002"}, "999"),
    "credits transfer": Change(
        "alice bob 1", "credits.transfer", "alice", None, {"to": "bob", "amount_usd": "1"}, "alice bob 1000"
    ),
    "limits set": Change(
        "alice '$9/day'", "limits.set", "alice", {"limits": ["$5/day"]}, {"limits": ["$9/day"]}, "nobody '$5/day'"
    ),
    "limits remove": Change(
        "alice --all", "limits.remove", "alice", {"limits": ["$5/day"]}, None, "alice '5 requests/day'"
    ),
    "prices set": Change("other free", "prices.set", "other", None, {}, "'a b' free"),
    "prices remove": Change("echo", "prices.remove", "echo", {}, None, "none"),
    "prices import": Change("prices.csv", "prices.import", "prices.csv", None, {"prices": 1}, "nothing.csv"),
    "prices update": Change("--installed", "prices.update", "installed", {}, {}, "--file nothing.json"),
    "db set-zone": Change("Asia/Tokyo", "db.set-zone", "Asia/Tokyo", {"zone": "UTC"}, {"zone": "Asia/Tokyo"}, "Mars/O"),
}

CHANGE_NOTHING = {
    *("init", "demo", "serve", "report", "usage", "export", "events", "verify", "doctor", "audit", "help", "top"),
    *("invoice", "models price", "prices diff", "upstreams check", "db stats", "db backup"),
    *("config show", "config check", "config path", "config example", "credits history"),
}
"""Of the books, that is. (A list and a `show` never do.)"""

ELSEWHERE = {
    *("db restore", "db migrate", "db prune", "import", "admins add", "admins revoke", "users identities"),
    *("requests approve", "requests deny"),
}
"""What has tests of its own of what it tells the audit, if anything."""

BEFORE = (
    "keys add carl --name off",
    "keys disable carl/off",
    "users add dora",
    "users disable dora",
    "limits set alice $5/day",
    "prices set echo input=1 output=2",
)


def test_every_command_is_known_to_change_something_or_not() -> None:
    reading = {path for path in VERBS if path.split()[-1] in ("list", "show")}
    assert VERBS.keys() - reading - CHANGE_NOTHING - ELSEWHERE == CHANGES.keys()


@pytest.fixture
def acts(home: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command line, and tells the acts that the audit got from it."""
    books.fill(home / "books.db")
    (home / "prices.csv").write_text("model,input,output\nnew,1,2\n")

    def act(*words: str, code: int | None = 0) -> list[dict[str, Any]]:
        before = told()
        found = run([*words, "--db", "books.db", "--yes"])
        err = capsys.readouterr().err
        assert found == code or (code is None and found), err
        return told()[len(before) :]

    def told() -> list[dict[str, Any]]:
        assert run(["audit", "--since", "10d", "--json", "--db", "books.db"]) == 0
        rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
        return rows

    for line in BEFORE:
        act(*line.split(" "))
    return act


@pytest.mark.parametrize("path", CHANGES)
def test_a_change_is_one_row_and_a_refusal_none(path: str, acts: Any) -> None:
    change = CHANGES[path]
    assert acts(*path.split(), *shlex.split(change.refused), code=None) == []
    (row,) = acts(*path.split(), *shlex.split(change.line))
    assert row["action"] == change.action
    assert row["target"].startswith(change.target)
    assert row["actor"] == actor()
    assert row["time"]
    for told, expected in ((row["before"], change.before), (row["after"], change.after)):
        assert (told is None) == (expected is None), row
        assert (expected or {}).items() <= (told or {}).items() if not _lists(expected) else told == expected


def _lists(fields: dict[str, Any] | None) -> bool:
    return any(isinstance(value, list) for value in (fields or {}).values())


ASKING = ("keys revoke bob", "limits remove alice --all", "credits take alice 1", "db restore backup.db")
"""What is hard to undo."""


@pytest.mark.parametrize("line", ASKING)
def test_what_is_hard_to_undo_asks_and_takes_yes(line: str, cli: Cli) -> None:
    books.fill(cli.folder / "llmgate.db")
    cli.env["LLMGATE_DB"] = "llmgate.db"
    cli("limits", "set", "alice", "$5/day")
    cli("db", "backup", "backup.db")
    before = len(cli("audit", "--json").json)
    assert "add --yes" in cli(*line.split(), code=2).err
    assert "nothing was changed" in cli.terminal(*line.split(), answers={"[y/N]": "n\n"}, code=1).out
    assert "Traceback" not in cli.terminal(*line.split(), answers={"[y/N]": "\x03"}, code=130).out
    assert len(cli("audit", "--json").json) == before
    cli.terminal(*line.split(), answers={"[y/N]": "y\n"})
    assert len(cli("audit", "--json").json) == before + 1
