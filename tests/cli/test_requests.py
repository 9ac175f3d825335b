"""`llmgate requests`, and `llmgate users set --lead`."""

from __future__ import annotations

import pytest

from llmgate.config import SelfService
from llmgate.plans import NONE
from llmgate.store import requests
from llmgate.store.db import Database
from llmgate.types import Billing

from .conftest import Cli

CONFIG = """
[self_service]
mode = "approval"
credits = 5
"""


@pytest.fixture
def asked(cli: Cli) -> Cli:
    """alice is there; she, ann and ben are asked for."""
    (cli.folder / "llmgate.toml").write_text(CONFIG)
    cli("users", "add", "alice")
    ask(cli, "ann", "alice", "ben")
    return cli


def ask(cli: Cli, *names: str) -> None:
    service = SelfService(mode="approval")
    with Database(cli.folder / "llmgate.db") as db:
        for number, name in enumerate(names):
            with db.write() as tx:
                requests.ask(tx, service, name, "thesis", f"203.0.113.{number}", NONE, Billing.METERED)


def statuses(cli: Cli) -> dict[str, str]:
    return {row["user"]: row["status"] for row in cli("requests", "--all", "--json").json}


def test_who_waits_is_listed(asked: Cli) -> None:
    first, second, _ = asked("requests", "--json").json
    assert (first["id"], first["user"], first["existing"], first["status"]) == (1, "ann", False, "waiting")
    assert (first["note"], first["address"], first["key"]) == ("thesis", "203.0.113.0", None)
    assert (second["user"], second["existing"]) == ("alice", True)
    asked("requests", "deny", "1", "2", "3")
    assert "no request waits: [self_service] mode is approval" in asked("requests").err


def test_approving_makes_users_with_what_the_config_gives(asked: Cli) -> None:
    said = asked("requests", "approve", "1", "3").err
    assert "request 1 of ann is approved" in said
    assert "request 3 of ben is approved" in said
    assert [row["balance_usd"] for row in asked("credits", "--json").json if row["user"] in ("ann", "ben")] == [
        "5",
        "5",
    ]
    assert asked("keys", "--json").json == []
    acts = [(act["action"], act["target"]) for act in asked("audit", "--json").json]
    assert acts.count(("requests.approve", "1")) == 1


def test_a_key_of_somebody_else_takes_a_yes(asked: Cli) -> None:
    refused = asked("requests", "approve", "1", "2", code=2)
    assert "There already: alice (asked from 203.0.113.1)" in refused.err
    assert "add --yes" in refused.err
    assert set(statuses(asked).values()) == {"waiting"}
    asked("requests", "approve", "1", "2", "--yes")
    assert statuses(asked) == {"ann": "approved", "alice": "approved", "ben": "waiting"}


def test_all_of_them_or_none(asked: Cli) -> None:
    asked("requests", "deny", "1", "99", code=1)
    assert set(statuses(asked).values()) == {"waiting"}
    asked("requests", "deny", "1", "1")
    (act,) = [act for act in asked("audit", "--json").json if act["action"] == "requests.deny"]
    assert (act["target"], act["before"], act["after"]) == (
        "1",
        {"status": "waiting"},
        {"user": "ann", "status": "denied"},
    )


def test_who_leads_a_team(cli: Cli) -> None:
    cli("teams", "add", "research")
    cli("users", "add", "alice")
    cli("users", "set", "alice", "--lead", "research")
    assert cli("users", "show", "alice", "--json").json["leads"] == "research"
    assert "research" in cli("users", "show", "alice").out
    assert "there is no team" in cli("users", "set", "alice", "--lead", "resarch", code=1).err
    cli("users", "set", "alice", "--lead", "")
    assert cli("users", "show", "alice", "--json").json["leads"] is None


def test_a_team_that_is_not_there_is_a_problem(cli: Cli) -> None:
    (cli.folder / "llmgate.toml").write_text("[self_service]\nteam = 'guests'\n[upstreams.sandbox]")
    cli("users")
    assert "self_service.team is 'guests'" in cli("config", "check", code=3).out
    cli("teams", "add", "guests")
    cli("config", "check")
