"""`llmgate users link` and `users signout`."""

from __future__ import annotations

import re

from llmgate.store import sessions
from llmgate.store.db import Database

from .conftest import Cli

LINK = re.compile(r"http://127\.0\.0\.1:8000/sign-in/link\?token=[A-Za-z0-9_-]{43}")


def test_on_a_pipe_the_link_stands_alone(cli: Cli) -> None:
    cli("users", "add", "alice")
    done = cli("users", "link", "alice")
    assert LINK.fullmatch(done.out.removesuffix("\n"))
    assert done.err == "signs alice in, once, within 15 minutes; it is shown this once\n"
    told = cli.data("users", "link", "alice")
    assert list(told) == ["url", "user", "expires_at"]
    assert LINK.fullmatch(told["url"])
    assert told["url"] not in cli("audit", "--json").out


def test_it_leads_to_where_people_find_the_gateway(cli: Cli) -> None:
    (cli.folder / "llmgate.toml").write_text('[server]\npublic_url = "https://llm.example.org/"\n')
    cli("users", "add", "alice")
    assert cli("users", "link", "alice").out.startswith("https://llm.example.org/sign-in/link?token=")
    assert cli.data("admins", "add", "ops")["url"] == "https://llm.example.org/admin"


def test_only_users_who_may(cli: Cli) -> None:
    assert cli("users", "link", "nobody", "--json", code=1).error["code"] == "not_found"
    cli("users", "add", "alice")
    cli("users", "disable", "alice")
    refused = cli("users", "link", "alice", "--json", code=1).error
    assert refused["code"] == "user_disabled"
    assert "llmgate users enable alice" in refused["message"]


def test_signing_out(cli: Cli) -> None:
    cli.env["LLMGATE_DB"] = "llmgate.db"
    cli("keys", "add", "alice")
    with Database(cli.folder / "llmgate.db") as db, db.write() as tx:
        user_id = tx.value("SELECT id FROM users WHERE name = 'alice'")
        for lasts_ms in (60_000, 60_000, -1):
            sessions.begin(tx, "link", "127.0.0.1", lasts_ms, user_id=user_id)
    assert cli("users", "signout", "alice").err == "signed alice out: 2 sessions ended\n"
    assert cli.data("users", "signout", "alice") == {"user": "alice", "sessions": 0}
