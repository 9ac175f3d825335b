"""`llmgate users`, `teams` and `credits`: who pays, and with what."""

from __future__ import annotations

import re
from pathlib import Path

from llmgate.store import identities
from llmgate.store.db import Database

from .conftest import Cli


def test_a_user_is_made_shown_and_changed(cli: Cli) -> None:
    done = cli("users", "add", "alice", "--email", "alice@example.org")
    assert (done.out, "llmgate keys add alice" in done.err) == ("", True)
    assert cli("users", "add", "alice", "--json", code=1).error["code"] == "conflict"
    row = cli.data("users")[0]
    assert list(row)[:4] == ["user", "team", "plan", "billing"]
    assert {"email", "status"} <= set(row)
    assert (row["email"], row["billing"], row["status"], row["account"]) == (
        *("alice@example.org", "metered", "active", "alice"),
    )
    assert cli.data("users", "set", "alice", "--billing", "prepaid", "--email", "")["billing"] == "prepaid"
    shown = cli.data("users", "show", "alice")
    assert (shown["email"], shown["balance_usd"], shown["keys"]) == (None, "0", [])


def test_a_user_is_disabled_and_enabled(cli: Cli) -> None:
    cli("keys", "add", "alice")
    assert cli.data("users", "disable", "alice")["status"] == "disabled"
    assert cli.data("users", "disable", "alice")["status"] == "disabled"
    assert cli.data("users", "show", "alice")["keys"] == ["alice/default"]
    assert cli.data("users", "enable", "alice")["status"] == "active"


def test_a_team_pays_for_its_users_until_they_have_their_own(cli: Cli) -> None:
    assert cli("users", "add", "bob", "--team", "research", "--json", code=1).error["code"] == "not_found"
    cli("teams", "add", "research")
    cli("users", "add", "bob", "--team", "research")
    cli("users", "add", "carol")
    cli("users", "set", "carol", "--team", "research")
    done = cli("credits", "add", "team:research", "250")
    assert "llmgate teams set research --billing metered" in done.err
    row = cli.data("teams")[0]
    assert (row["team"], row["billing"], row["members"]) == ("research", "prepaid", 2)
    assert cli.data("teams", "show", "research")["users"] == ["bob", "carol"]
    assert cli.data("users", "show", "bob")["account"] == "team:research"
    assert cli.data("users", "show", "bob")["balance_usd"] == "250"
    assert [user["user"] for user in cli.data("users", "--team", "research")] == ["bob", "carol"]
    cli("credits", "add", "bob", "1")
    assert cli.data("users", "show", "bob")["account"] == "bob"
    assert cli.data("users", "set", "carol", "--team", "")["account"] == "carol"
    assert cli.data("teams", "set", "research", "--billing", "metered")["billing"] == "metered"


def test_credits_are_listed_for_every_account(cli: Cli) -> None:
    cli("teams", "add", "research")
    cli("users", "add", "bob", "--team", "research")
    cli("credits", "add", "bob", "12.5")
    rows = cli.data("credits")
    assert list(rows[0]) == [
        *(
            "account",
            "kind",
            "user",
            "team",
            "billing",
            "balance_usd",
            "held_usd",
            "available_usd",
            "payer",
            "pays_for",
        ),
    ]
    assert rows[0] == {
        "account": "bob",
        "kind": "user",
        "user": "bob",
        "team": "research",
        "billing": "prepaid",
        "balance_usd": "12.5",
        "held_usd": "0",
        "available_usd": "12.5",
        "payer": "bob",
        "pays_for": ["bob"],
    }
    assert (rows[1]["account"], rows[1]["kind"], rows[1]["user"], rows[1]["team"]) == (
        *("team:research", "team", None, "research"),
    )


def test_credits_are_added(cli: Cli) -> None:
    cli("users", "add", "alice")
    done = cli("credits", "add", "alice", "5", "--note", "welcome")
    assert done.out == ""
    assert "added $5.00 to alice: entry 1, balance $5.00" in done.err
    assert "alice is prepaid from now on" in done.err
    moved = cli.data("credits", "add", "user:alice", "$0.50")
    assert moved == {
        "entry": 2,
        "account": "alice",
        "amount_usd": "0.5",
        "balance_usd": "5.5",
        "became_prepaid": False,
        "repeated": False,
        "reversed_by": None,
    }
    told = cli("credits", "add", "alise", "5", code=1).err
    assert told == "llmgate: there is no user 'alise': did you mean alice? `llmgate users` lists them\n"


def test_the_same_ref_adds_once(cli: Cli) -> None:
    cli("users", "add", "alice")
    cli("credits", "add", "alice", "5", "--ref", "invoice-1")
    again = cli.data("credits", "add", "alice", "5", "--ref", "invoice-1")
    assert (again["repeated"], again["balance_usd"], again["entry"]) == (True, "5", 1)
    assert "again" in cli("credits", "add", "alice", "5", "--ref", "invoice-1").err
    assert cli("credits", "add", "alice", "6", "--ref", "invoice-1", "--json", code=1).error["code"] == "conflict"
    assert len(cli.data("credits", "history", "alice")) == 1


def test_billing_set_by_hand_stays(cli: Cli) -> None:
    cli("users", "add", "alice", "--billing", "metered")
    assert cli.data("credits", "add", "alice", "5")["became_prepaid"] is False
    assert cli.data("credits")[0]["billing"] == "metered"


def test_taking_asks_and_takes_no_more_than_there_is(cli: Cli) -> None:
    cli("keys", "add", "alice", "--credits", "5")
    assert "--yes" in cli("credits", "take", "alice", "1", code=2).err
    cli.terminal("credits", "take", "alice", "1", answers={"[y/N]": "\n"}, code=1)
    cli.terminal("credits", "take", "alice", "1", answers={"Take $1.00 from alice? [y/N]": "y\n"})
    assert cli.data("credits")[0]["balance_usd"] == "4"
    done = cli("credits", "take", "alice", "10", "--yes", "--json", code=1)
    assert done.error["code"] == "insufficient_credits"
    moved = cli.data("credits", "take", "alice", "10", "--force", "--yes", "--note", "debt")
    assert (moved["amount_usd"], moved["balance_usd"]) == ("-10", "-6")
    assert "-$6.00" in cli("credits").out
    cli("credits", "take", "nobody", "1", "--yes", code=1)


def test_an_entry_is_reversed_once(cli: Cli) -> None:
    cli("keys", "add", "alice", "--credits", "5")
    moved = cli.data("credits", "reverse", "1", "--note", "typo")
    assert moved["amount_usd"] == "-5"
    assert (moved["account"], moved["balance_usd"]) == ("alice", "0")
    assert cli("credits", "reverse", "1", "--json", code=1).error["code"] == "conflict"
    assert cli("credits", "reverse", "2", "--json", code=1).error["code"] == "conflict"
    assert cli("credits", "reverse", "99", "--json", code=1).error["code"] == "not_found"


def test_the_history_of_an_account_runs_on(cli: Cli) -> None:
    cli("keys", "add", "alice", "--credits", "5")
    cli("credits", "take", "alice", "1", "--yes")
    cli("credits", "add", "alice", "2.25", "--ref", "r", "--note", "n", "--expires", "90d")
    cli("keys", "add", "bob", "--credits", "7")
    rows = cli.data("credits", "history", "alice")
    assert [(row["kind"], row["amount_usd"], row["balance_usd"]) for row in rows] == [
        ("add", "5", "5"),
        ("take", "-1", "4"),
        ("add", "2.25", "6.25"),
    ]
    assert (rows[2]["ref"], rows[2]["note"]) == ("r", "n")
    assert rows[2]["expires_at"]
    assert all(re.fullmatch(r"cli:.+", row["actor"]) for row in rows)


def test_the_history_counts_what_requests_were_charged(reader: Cli) -> None:
    done = reader("credits", "history", "alice", "--json")
    assert [(row["charged_usd"], row["balance_usd"]) for row in done.json] == [("0.002", "4.998")]
    assert "$0.004 were charged since: the balance of alice is $4.994" in done.err
    balance = next(row["balance_usd"] for row in reader.data("credits") if row["account"] == "alice")
    assert balance == "4.994"


def test_accounts_elsewhere_are_listed_and_forgotten(cli: Cli) -> None:
    cli("users", "add", "alice", "--email", "alice@corp.example")
    assert "no account elsewhere signs alice in" in cli("users", "identities", "alice").err
    person = identities.Person(issuer="https://sso.example", subject="s-1", email="alice@corp.example")
    with Database(Path(cli.data("config", "path")["database"])) as db, db.write() as tx:
        identities.recognise(tx, person)
    (row,) = cli.data("users", "identities", "alice")
    assert (row["issuer"], row["subject"], row["email"]) == ("https://sso.example", "s-1", "alice@corp.example")
    gone = cli("users", "identities", "alice", "--forget")
    assert "s-1" in gone.out
    assert "nobody is linked to user alice any more" in gone.err
    assert cli.data("users", "identities", "alice") == []
    assert "there is nothing to forget" in cli("users", "identities", "alice", "--forget", code=2).err
    assert "did you mean alice" in cli("users", "identities", "alic", code=1).err
    acts = cli.data("audit", "--since", "1h")
    assert [act["action"] for act in acts] == ["users.add", "users.identify", "users.forget"]
