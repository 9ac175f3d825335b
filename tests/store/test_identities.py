"""Who somebody is whom an issuer vouches for; and whom nobody becomes."""

from __future__ import annotations

from typing import Any

import pytest

from llmgate.errors import Refusal, UsageError
from llmgate.store import accounts, identities
from llmgate.store.db import Row
from llmgate.store.identities import Person, Terms
from llmgate.types import Billing
from tests.books import Book

ISSUER, OTHER = "https://sso.example", "https://else.example"


def person(subject: str = "1", email: str | None = "alice@corp.example", **more: Any) -> Person:
    return Person(**{"issuer": ISSUER, "subject": subject, "email": email} | more)


def user(book: Book, name: str, email: str | None = None) -> None:
    with book.write() as tx:
        accounts.add_user(tx, name, email=email)


def recognised(book: Book, who: Person) -> str | None:
    with book.write() as tx:
        row = identities.recognise(tx, who)
        return row["name"] if row is not None else None


def made(book: Book, who: Person, terms: Terms | None = None) -> Row:
    with book.write() as tx:
        return identities.make(tx, who, terms or Terms())


def users(book: Book) -> list[str]:
    return [row["name"] for row in accounts.list_users(book.tx)]


def links(book: Book) -> int:
    count: int = book.value("SELECT count(*) FROM identities")
    return count


# ── who is known ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_address_finds_its_user_and_the_subject_counts_from_then_on(book: Book) -> None:
    user(book, "alice", "Alice@Corp.Example")
    user(book, "bob", "bob@corp.example")
    assert recognised(book, person()) == "alice"
    # Neither the address nor the admin's word for it matters any more.
    assert recognised(book, person(email="bob@corp.example")) == "alice"
    assert recognised(book, person(email=None)) == "alice"
    assert links(book) == 1
    (act,) = book.rows("SELECT * FROM audit WHERE action = 'users.identify'")
    assert (act["target"], act["after"]) == (
        "alice",
        '{"issuer":"https://sso.example","subject":"1","email":"alice@corp.example"}',
    )


def test_subjects_are_of_their_issuer(book: Book) -> None:
    user(book, "alice", "alice@corp.example")
    assert recognised(book, person()) == "alice"
    assert recognised(book, person(issuer=OTHER, email="mallory@corp.example")) is None
    assert recognised(book, person(issuer=OTHER)) == "alice"
    assert links(book) == 2


@pytest.mark.parametrize("email", ["alice@evil.example", "alice@corp.example.evil.example", "corp.example"])
def test_a_like_address_is_nobody(book: Book, email: str) -> None:
    user(book, "alice", "alice@corp.example")
    assert recognised(book, person(email=email)) is None
    assert links(book) == 0


def test_a_user_is_no_address(book: Book) -> None:
    """Users that made themselves choose their names: one could be called by the address of somebody else."""
    user(book, "alice@corp.example")
    assert recognised(book, person()) is None


def test_without_an_address_nobody_is_found(book: Book) -> None:
    user(book, "alice")
    with pytest.raises(Refusal, match="no verified address") as caught:
        recognised(book, person(email=None))
    assert caught.value.http_status == 403


def test_two_users_with_one_address_are_nobody(book: Book) -> None:
    user(book, "alice", "alice@corp.example")
    user(book, "alice2", "ALICE@corp.example")
    with pytest.raises(Refusal, match="2 users have the address"):
        recognised(book, person())
    assert links(book) == 0


def test_an_address_that_somebody_else_has_now_opens_nothing(book: Book) -> None:
    user(book, "alice", "alice@corp.example")
    assert recognised(book, person("1")) == "alice"
    with pytest.raises(Refusal, match=r"linked to another account there.*`llmgate users identities alice`"):
        recognised(book, person("2"))
    with book.write() as tx:
        (gone,) = identities.forget(tx, "alice")
    assert gone["subject"] == "1"
    assert recognised(book, person("2")) == "alice"


def test_a_disabled_user_stays_out(book: Book) -> None:
    user(book, "alice", "alice@corp.example")
    with book.write() as tx:
        accounts.set_user(tx, "alice", {"status": "disabled"})
    with pytest.raises(Refusal, match="user alice is disabled"):
        recognised(book, person())
    assert links(book) == 0
    with book.write() as tx:
        accounts.set_user(tx, "alice", {"status": "active"})
    assert recognised(book, person()) == "alice"
    with book.write() as tx:
        accounts.set_user(tx, "alice", {"status": "disabled"})
    with pytest.raises(Refusal, match="user alice is disabled"):
        recognised(book, person())


def test_a_claim_is_the_whole_name(book: Book) -> None:
    user(book, "alice")
    assert recognised(book, person(username="alice")) == "alice"
    for name in ("Alice", "alic", "alice@corp.example", "alice "):
        assert recognised(book, person("2", username=name)) is None
    # Where names tell who somebody is, addresses don't.
    user(book, "bob", "bob@corp.example")
    assert recognised(book, person("3", email="bob@corp.example", username="robert")) is None


# ── who is new ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_new_user_is_called_by_the_address(book: Book) -> None:
    with book.write() as tx:
        accounts.add_team(tx, "research")
    row = made(book, person(), Terms(team="research", plan="pro", default_billing=Billing.PREPAID))
    assert (row["name"], row["email"], row["team"], row["plan"]) == ("alice", "alice@corp.example", "research", "pro")
    assert row["own_billing"] == "prepaid"
    assert recognised(book, person()) == "alice"
    assert links(book) == 1


def test_a_name_that_another_address_has_is_left_to_it(book: Book) -> None:
    user(book, "Alice", "alice@else.example")
    assert made(book, person())["name"] == "alice@corp.example"
    assert recognised(book, person()) == "alice@corp.example"


def test_a_user_without_an_address_is_not_taken_over_and_not_made_twice(book: Book) -> None:
    user(book, "Alice")
    with pytest.raises(Refusal, match=r"`llmgate users set Alice --email alice@corp\.example`"):
        made(book, person())
    assert users(book) == ["Alice"]
    assert links(book) == 0


@pytest.mark.parametrize(
    ("local", "name"),
    [("o'brien", None), ("-x", None), ("sk-lg-1234", None), ("a" * 64, "a" * 64), ("a+b.c_d", "a+b.c_d")],
)
def test_names_are_names(book: Book, local: str, name: str | None) -> None:
    who = person(email=f"{local}@corp.example")
    if name is not None:
        assert made(book, who)["name"] == name
        return
    with pytest.raises(Refusal, match="can't be the name of a user here"):
        made(book, who)
    assert users(book) == []


@pytest.mark.parametrize("name", ["Alice", "<b>", "a b", "", "sk-lg-x"])
def test_a_claim_that_is_no_new_name_makes_nobody(book: Book, name: str) -> None:
    user(book, "alice")
    with pytest.raises(Refusal) as caught:
        made(book, person(username=name))
    assert caught.value.code == "sign_in_refused"
    assert users(book) == ["alice"]


def test_a_claim_names_a_new_user(book: Book) -> None:
    assert made(book, person(email=None, username="alice"))["name"] == "alice"
    assert recognised(book, person(email=None, username="anything")) == "alice"


# ── what is told ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_who_signs_in_as_a_user_is_listed_and_forgotten(book: Book) -> None:
    user(book, "alice", "alice@corp.example")
    recognised(book, person())
    recognised(book, person("9", issuer=OTHER))
    assert [row["issuer"] for row in identities.of_user(book.tx, "alice")] == [OTHER, ISSUER]
    with book.write() as tx:
        assert len(identities.forget(tx, "alice")) == 2
    assert links(book) == 0
    (act,) = book.rows("SELECT * FROM audit WHERE action = 'users.forget'")
    assert act["before"] == (
        '{"identities":[{"issuer":"https://else.example","subject":"9"},{"issuer":"https://sso.example","subject":"1"}]}'
    )
    with book.write() as tx, pytest.raises(UsageError, match="nobody is linked to user alice"):
        identities.forget(tx, "alice")
    with book.write() as tx, pytest.raises(Refusal, match="there is no user 'alic'"):
        identities.forget(tx, "alic")
