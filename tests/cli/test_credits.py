"""`llmgate credits` as it is typed: refunds, transfers, credits that expire, and who pays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmgate.store import ledger
from tests.books import Book

from . import books
from .conftest import Cli


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """An empty home, with its database where `book` finds it."""
    return Cli(tmp_path, LLMGATE_DB=str(tmp_path / "llmgate.db"))


@pytest.fixture
def filled_cli(cli: Cli) -> Cli:
    books.fill(cli.folder / "llmgate.db")
    return cli


def add_long_ago(cli: Cli, user: str, nano: int, **fields: Any) -> None:
    book = Book(cli.folder / "llmgate.db")
    with book.write(1000) as tx:
        ledger.add(tx, user, nano, **fields)
    book.close()


def test_a_request_is_refunded(filled_cli: Cli) -> None:
    """To whom it was charged: bob's request to his team."""
    cli = filled_cli
    row = next(row for row in cli.data("usage") if row["user"] == "bob")
    assert (row["account"], row["charge_usd"]) == ("team:research", "0.002")
    moved = cli.data("credits", "refund", row["request_id"], "--amount", "0.0005", "--note", "slow")
    assert (moved["account"], moved["amount_usd"], moved["balance_usd"], moved["usage_id"]) == (
        *("team:research", "0.0005", "249.9985", row["id"]),
    )
    done = cli("credits", "refund", str(row["id"]), "--ref", "t-1")
    assert f"refunded $0.0015 of request {row['id']} to team:research: entry" in done.err
    assert "balance $250.00" in done.err
    assert "nothing was refunded again" in cli("credits", "refund", str(row["id"]), "--ref", "t-1").err
    assert "refunded in full already" in cli("credits", "refund", str(row["id"]), code=1).err
    rows = cli.data("credits", "history", "team:research")
    assert [(entry["kind"], entry["amount_usd"], entry["usage_id"]) for entry in rows] == [
        ("add", "250", None),
        ("refund", "0.0005", row["id"]),
        ("refund", "0.0015", row["id"]),
    ]
    assert next(one for one in cli.data("usage") if one["user"] == "bob") == row
    assert cli("verify").out.startswith("the books balance")


@pytest.mark.parametrize(
    ("args", "said", "code"),
    [
        (("refund", "nothing"), "`llmgate usage --json` shows each one's `id` and `request_id`", 1),
        (("refund",), "USAGE", 2),
        (("refund", "1", "--amount", "x"), "is no amount in USD", 2),
        (("refund", "1", "--amount", "0"), "a refund is above 0", 2),
        (("transfer", "alice", "alice", "1"), "name two accounts", 2),
        (("transfer", "alice", "bob", "0"), "above 0", 2),
        (("transfer", "alice", "bbo", "1"), "did you mean bob?", 1),
        (("transfer", "alice", "bob", "100"), "take less, or add --force", 1),
        (("transfer", "alice", "bob"), "USD", 2),
        (("show", "nobody"), "there is no user 'nobody'", 1),
        (("history", "alice", "--since", "never"), "is no time", 2),
        (("history", "alice", "--last", "0"), "--last", 2),
        (("add", "alice", "5", "--expires", "yesterday"), "is not in the future", 2),
    ],
)
def test_what_is_typed_wrongly_is_told_with_its_cure(reader: Cli, args: tuple[str, ...], said: str, code: int) -> None:
    done = reader("credits", *args, code=code)
    assert said in done.err
    assert "Traceback" not in done.err
    assert reader("credits", *args, "--json", code=code).error["message"]


def test_credits_are_transferred(cli: Cli) -> None:
    cli("teams", "add", "research")
    cli("keys", "add", "alice", "--credits", "5")
    cli("users", "add", "bob")
    cli("users", "set", "bob", "--team", "research")
    done = cli("credits", "transfer", "alice", "bob", "2", "--note", "lunch", "--ref", "m-1")
    assert done.out == ""
    assert "transferred $2.00 from alice to bob: entry 2, balance $3.00; bob: entry 3, balance $2.00" in done.err
    assert "bob is prepaid from now on" in done.err
    assert "bob pays its own requests from now on, no longer team:research" in done.err
    assert "nothing was transferred again" in cli("credits", "transfer", "alice", "bob", "2", "--ref", "m-1").err
    assert cli.data("credits", "transfer", "user:bob", "team:research", "0.5") == {
        "entry": 4,
        "account": "bob",
        "amount_usd": "-0.5",
        "balance_usd": "1.5",
        "became_prepaid": True,
        "repeated": False,
        "reversed_by": None,
        "other_entry": 5,
        "other_account": "team:research",
        "other_balance_usd": "0.5",
    }
    refused = cli("credits", "reverse", "3", code=1).err
    assert "bob has $1.50 available, less than $2.00: --force reverses it all the same" in refused
    assert "add --yes" in cli("credits", "reverse", "3", "--force", code=2).err
    done = cli("credits", "reverse", "3", "--force", "--yes")
    assert "reversed entry 3 of bob: entry 6, balance -$0.50; alice: entry 7, balance $5.00" in done.err
    rows = cli.data("credits", "history", "alice")
    assert [(row["kind"], row["other"], row["ref"]) for row in rows] == [
        ("add", None, None),
        ("transfer", "bob", "m-1"),
        ("reverse", None, None),
    ]


def test_credits_expire(cli: Cli) -> None:
    """Whatever shows a balance has taken them away before."""
    cli("keys", "add", "alice", "--credits", "5")
    cli("credits", "add", "alice", "2", "--expires", "90d")
    cli("credits", "add", "alice", "1", "--expires", "30d")
    shown = cli.data("credits", "show", "alice")
    assert (shown["balance_usd"], shown["expiring_usd"], shown["pays_for"]) == ("8", "1", ["alice"])
    assert "$1.00" in cli("credits", "show", "alice").out
    assert [row["left_usd"] for row in cli.data("credits", "history", "alice")] == [None, "2", "1"]
    for number, look in enumerate((("credits",), ("credits", "history"), ("credits", "show"), ("users", "show"))):
        user = f"user{number}"
        cli("users", "add", user)
        add_long_ago(cli, user, 3_000_000_000, expires_ms=2000)
        rows = cli.data(*look, *((user,) if len(look) == 2 else ()))
        if look[-1] == "history":
            assert [(row["kind"], row["amount_usd"], row["cause"], row["left_usd"]) for row in rows] == [
                ("add", "3", None, "0"),
                ("expire", "-3", rows[0]["entry"], None),
            ]
        row = rows if isinstance(rows, dict) else next(row for row in cli.data("credits") if row["account"] == user)
        assert row["balance_usd"] == "0"
    assert cli.data("credits", "show", "alice")["balance_usd"] == "8"
    assert cli("verify").out.startswith("the books balance")


def test_a_history_can_be_cut_short(cli: Cli) -> None:
    cli("keys", "add", "alice", "--credits", "5")
    cli("credits", "add", "alice", "1")
    cli("credits", "add", "alice", "2")
    rows = cli.data("credits", "history", "alice", "--last", "2")
    assert [(row["amount_usd"], row["balance_usd"]) for row in rows] == [("1", "6"), ("2", "8")]
    assert len(cli.data("credits", "history", "alice", "--since", "today", "--last", "9")) == 3
    add_long_ago(cli, "alice", 1)
    assert [row["entry"] for row in cli.data("credits", "history", "alice", "--since", "2000-01-01")] == [1, 2, 3]
    assert cli("credits", "history", "alice", "--since", "9999-01-01").err == "alice has no entries since then\n"
    cli("users", "add", "bob")
    assert cli("credits", "history", "bob").err == "bob has no entries\n"


def test_the_list_says_who_pays_for_whom(cli: Cli) -> None:
    cli("teams", "add", "research")
    for user in ("bob", "carol"):
        cli("users", "add", user)
        cli("users", "set", user, "--team", "research")
    cli("users", "add", "alice")
    assert [(row["account"], row["payer"], row["pays_for"]) for row in cli.data("credits")] == [
        ("alice", "alice", ["alice"]),
        ("bob", "team:research", []),
        ("carol", "team:research", []),
        ("team:research", None, ["bob", "carol"]),
    ]
    lines = cli("credits").out.splitlines()
    assert lines[0].endswith("pays for")
    assert lines[-1].endswith("bob, carol")
