"""Users, teams, and which of them pays."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from llmgate.errors import Refusal, UsageError
from llmgate.store import accounts, audit, keys, ledger
from llmgate.types import Billing

from ..books import Book

PREPAID, METERED = Billing.PREPAID, Billing.METERED


def test_a_new_user_has_an_account_that_nothing_was_said_of(book: Book) -> None:
    with book.write(now_ms=1234) as tx:
        row = accounts.add_user(tx, "alice", plan="pro", email="a@example.org")
    assert (row["name"], row["plan"], row["email"], row["status"]) == ("alice", "pro", "a@example.org", "active")
    assert (row["team"], row["team_id"], row["created_ms"]) == (None, None, 1234)
    assert (row["billing"], row["billing_source"]) == ("metered", "default")
    assert (row["payer_id"], row["payer_kind"]) == (row["account_id"], "user")
    assert book.money("alice") == (0, 0)


@pytest.mark.parametrize(
    ("billing", "default", "expected"),
    [
        (None, METERED, ("metered", "default")),
        (None, PREPAID, ("prepaid", "default")),
        (METERED, PREPAID, ("metered", "hand")),
        (PREPAID, METERED, ("prepaid", "hand")),
        (METERED, METERED, ("metered", "hand")),
    ],
)
@pytest.mark.parametrize("kind", ["user", "team"])
def test_billing_is_by_hand_or_by_default(
    book: Book, kind: str, billing: Billing | None, default: Billing, expected: tuple[str, str]
) -> None:
    make = accounts.add_user if kind == "user" else accounts.add_team
    with book.write() as tx:
        row = make(tx, "x", billing=billing, default_billing=default)
    assert (row["billing"], row["billing_source"]) == expected


@pytest.mark.parametrize("name", ["", "-x", ".x", "a b", "a/b", "a:b", "team:x", "a" * 65, "ä", "a\n", "<b>"])
@pytest.mark.parametrize("make", [accounts.add_user, accounts.add_team])
def test_names_that_nobody_has(book: Book, make: Any, name: str) -> None:
    with book.write() as tx, pytest.raises(UsageError, match="is no name for a"):
        make(tx, name)


def test_a_name_is_taken_once(book: Book) -> None:
    book.user("alice")
    book.team("ops")
    with book.write() as tx:
        with pytest.raises(Refusal, match="user alice exists already: see `llmgate users show alice`") as user:
            accounts.add_user(tx, "alice")
        with pytest.raises(Refusal, match="team ops exists already") as team:
            accounts.add_team(tx, "ops")
        assert (user.value.code, team.value.code) == ("conflict", "conflict")
        accounts.add_user(tx, "ops")
        accounts.add_team(tx, "alice")
    assert book.account("alice")["id"] != book.account("team:alice")["id"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("alcie", "did you mean alice? `llmgate users` lists them"),
        ("zzz", "`llmgate users` lists them"),
        ("", "lists them"),
    ],
)
def test_who_is_not_there(book: Book, name: str, hint: str) -> None:
    book.user("alice")
    with pytest.raises(Refusal, match=re.escape(hint)) as caught:
        accounts.user_row(book.tx, name)
    assert caught.value.code == "not_found"
    assert accounts.find_user(book.tx, name) is None


def test_a_team_that_is_not_there(book: Book) -> None:
    book.team("research")
    with pytest.raises(Refusal, match="there is no team 'reserch': did you mean research"):
        accounts.team_row(book.tx, "reserch")
    with book.write() as tx, pytest.raises(Refusal, match="there is no team"):
        accounts.add_user(tx, "alice", team="reserch")
    assert accounts.list_users(book.tx) == []


def test_an_account_is_named_by_its_user_or_its_team(book: Book) -> None:
    book.team("ops")
    book.user("alice", team="ops")
    with book.db.read() as tx:
        alice, ops = accounts.user_row(tx, "alice"), accounts.team_row(tx, "ops")
        assert accounts.account_of(tx, "alice") == (alice["account_id"], "alice")
        assert accounts.account_of(tx, "user:alice") == (alice["account_id"], "alice")
        assert accounts.account_of(tx, "team:ops") == (ops["account_id"], "team:ops")
        for unknown in ("bob", "team:alice", "user:ops", "ops"):
            with pytest.raises(Refusal):
                accounts.account_of(tx, unknown)


def test_listings_are_in_order_and_count_members(book: Book) -> None:
    for team in ("research", "ops"):
        book.team(team)
    for user, of in (("carl", "ops"), ("alice", "ops"), ("bob", None)):
        book.user(user, team=of)
    with book.db.read() as tx:
        assert [(row["name"], row["team"]) for row in accounts.list_users(tx)] == [
            ("alice", "ops"),
            ("bob", None),
            ("carl", "ops"),
        ]
        assert [(row["name"], row["members"]) for row in accounts.list_teams(tx)] == [("ops", 2), ("research", 0)]


# ── exactly one account pays ──────────────────────────────────────────────────────────────────────────────────────────


def payer(book: Book, user: str) -> str:
    """Who pays for a user, as the users' table, a key's caller and a hold see it: they must agree."""
    row = accounts.user_row(book.tx, user)
    name: str = book.value(
        "SELECT coalesce('team:' || t.name, u.name) FROM accounts a LEFT JOIN users u ON u.account_id = a.id "
        "LEFT JOIN teams t ON t.account_id = a.id WHERE a.id = ?",
        row["payer_id"],
    )
    with book.write() as tx:
        key = keys.add(tx, user).key
    caller = keys.authenticate(book.tx, keys.hash_key(key))
    assert (caller.account_id, caller.account_kind) == (row["payer_id"], row["payer_kind"])
    assert caller.prepaid == (row["billing"] == "prepaid")
    assert (caller.balance_nano, caller.held_nano) == book.money(name)
    return name


def test_a_user_without_a_team_pays(book: Book) -> None:
    book.user("alice")
    assert payer(book, "alice") == "alice"


@pytest.mark.parametrize("of_team", [{}, {"billing": PREPAID}, {"billing": METERED}, {"credits": 50}])
def test_a_team_pays_for_its_members_whatever_its_own_billing(book: Book, of_team: dict[str, Any]) -> None:
    book.team("ops", **of_team)
    book.user("alice", team="ops")
    assert payer(book, "alice") == "team:ops"


@pytest.mark.parametrize("of_user", [{"billing": PREPAID}, {"billing": METERED}, {"credits": 50}])
def test_a_member_with_billing_or_credits_of_its_own_pays_itself(book: Book, of_user: dict[str, Any]) -> None:
    book.team("ops", credits=100)
    book.user("alice", team="ops", **of_user)
    assert payer(book, "alice") == "alice"


def test_a_default_of_prepaid_is_no_billing_of_ones_own(book: Book) -> None:
    book.team("ops")
    with book.write() as tx:
        accounts.add_user(tx, "alice", team="ops", default_billing=PREPAID)
    assert payer(book, "alice") == "team:ops"


def test_who_pays_follows_the_team_from_the_next_request_on(book: Book) -> None:
    book.team("ops", credits=1000)
    book.team("dev", credits=2000)
    key = book.user("alice")
    first = book.place(key)
    with book.write() as tx:
        assert accounts.set_user(tx, "alice", {"team": "ops"})["team"] == "ops"
    assert payer(book, "alice") == "team:ops"
    second = book.place(key)
    with book.write() as tx:
        accounts.set_user(tx, "alice", {"team": "dev"})
    assert payer(book, "alice") == "team:dev"
    with book.write() as tx:
        assert accounts.set_user(tx, "alice", {"team": ""})["team"] is None
    assert payer(book, "alice") == "alice"
    book.settle(first)
    book.settle(second)
    assert (book.money("alice")[0], book.money("team:ops")[0], book.money("team:dev")[0]) == (-20, 980, 2000)
    assert [row["team_id"] for row in book.rows("SELECT team_id FROM usage ORDER BY id")] == [None, 1]
    assert book.findings() == []


def test_credits_of_ones_own_take_over_from_the_team(book: Book) -> None:
    book.team("ops", credits=1000)
    book.user("alice", team="ops")
    assert payer(book, "alice") == "team:ops"
    assert book.add("alice", 10).became_prepaid
    assert payer(book, "alice") == "alice"


# ── changes ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def acts(book: Book) -> list[tuple[str, str, Any, Any]]:
    def read(text: str | None) -> Any:
        return None if text is None else msgspec.json.decode(text)

    found = audit.acts(book.tx)
    return [(row["action"], row["target"], read(row["before"]), read(row["after"])) for row in found]


def test_a_user_is_changed_and_the_audit_says_from_what_to_what(book: Book) -> None:
    book.team("ops", billing=PREPAID)
    book.user("alice", team="ops")
    with book.write() as tx:
        row = accounts.set_user(
            tx, "alice", {"plan": "pro", "email": "a@x", "status": "disabled", "billing": "metered"}
        )
    assert (row["plan"], row["email"], row["status"]) == ("pro", "a@x", "disabled")
    assert (row["billing"], row["billing_source"]) == ("metered", "hand")
    assert acts(book)[-1] == (
        "users.set",
        "alice",
        # The user's own billing, not that of the team, which paid until now.
        {"plan": None, "email": None, "status": "active", "billing": "metered"},
        {"plan": "pro", "email": "a@x", "status": "disabled", "billing": "metered"},
    )
    with book.write() as tx:
        row = accounts.set_user(tx, "alice", {"plan": "", "email": ""})
    assert (row["plan"], row["email"]) == (None, None)


def test_a_team_is_changed(book: Book) -> None:
    book.team("ops")
    with book.write() as tx:
        row = accounts.set_team(tx, "ops", {"plan": "pro", "billing": "prepaid"})
    assert (row["plan"], row["billing"], row["billing_source"]) == ("pro", "prepaid", "hand")
    assert acts(book)[-1] == (
        "teams.set",
        "ops",
        {"plan": None, "billing": "metered"},
        {"plan": "pro", "billing": "prepaid"},
    )


@pytest.mark.parametrize("change", [accounts.set_user, accounts.set_team])
def test_what_cannot_be_changed(book: Book, change: Any) -> None:
    book.team("alice")
    book.user("alice")
    with book.write() as tx:
        with pytest.raises(AssertionError):
            change(tx, "alice", {"name": "bob"})
        with pytest.raises(ValueError):
            change(tx, "alice", {"billing": "free"})
        with pytest.raises(Refusal):
            change(tx, "bob", {"plan": "pro"})


def test_billing_that_was_set_by_hand_stays(book: Book) -> None:
    book.user("alice")
    with book.write() as tx:
        accounts.set_user(tx, "alice", {"billing": "metered"})
        moved = ledger.add(tx, "alice", 100)
    assert not moved.became_prepaid
    assert accounts.user_row(book.tx, "alice")["billing"] == "metered"


def test_the_audit_can_be_read_by_time(book: Book) -> None:
    for moment in (100, 200, 300):
        with book.write(now_ms=moment) as tx:
            accounts.add_user(tx, f"u{moment}")

    def targets(**span: int) -> list[str]:
        return [row["target"] for row in audit.acts(book.tx, **span)]

    assert targets() == ["u100", "u200", "u300"]
    assert targets(since_ms=200) == ["u200", "u300"]
    assert targets(until_ms=200) == ["u100"]
    assert targets(since_ms=101, until_ms=300) == ["u200"]
    assert [row["actor"] for row in audit.acts(book.tx)] == ["test"] * 3
    assert acts(book)[0] == ("users.add", "u100", None, {"team": None, "plan": None, "email": None, "billing": None})


def test_an_act_that_failed_is_not_in_the_audit(book: Book) -> None:
    def fail() -> None:
        with book.write() as tx:
            accounts.add_user(tx, "alice")
            accounts.set_user(tx, "alice", {"team": "none"})

    with pytest.raises(Refusal):
        fail()
    assert acts(book) == []
