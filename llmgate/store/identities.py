"""Who somebody is here whom an issuer of identities vouches for.

An issuer knows a person by its `subject`, which never changes and is never given to another. Once it is linked to a
user, nothing else counts: not the address, not the name. Before that, the user is found by what the issuer says; there
an attacker would try to become somebody else, so:

- An address counts only where the issuer has verified it: else anybody could write an admin's address into a profile.
- A user is found by its e-mail, which admins alone write, or, where the admin chose a claim that names users, by that
  whole name. Never by a part of an address: `alice@evil.example` is not alice.
- Two users with one address are nobody: which one was meant can't be told.
- A user who is linked at this issuer already isn't linked to a second person there: addresses and names are given to
  others after people leave.
"""

from __future__ import annotations

import msgspec

from ..errors import LlmgateError, Refusal, UsageError
from ..names import check_new
from ..types import Billing
from . import accounts, audit, sessions
from .db import Row, Tx

DENIED = "sign_in_refused"


class Person(msgspec.Struct, frozen=True, kw_only=True):
    """Whom an issuer vouches for."""

    issuer: str
    subject: str
    email: str | None = None
    """Verified; in lower case."""
    username: str | None = None
    """What users here are called, where the issuer's own names are theirs. None: the address tells who it is."""

    @property
    def called(self) -> str:
        return self.username or self.email or self.subject


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """Of a user who is made."""

    team: str | None = None
    plan: str | None = None
    default_billing: Billing = Billing.METERED


def find(tx: Tx, issuer: str, subject: str) -> Row | None:
    """The user who somebody is, once that is known."""
    name = tx.value(
        "SELECT u.name FROM identities i JOIN users u ON u.id = i.user_id WHERE i.issuer = ? AND i.subject = ?",
        *(issuer, subject),
    )
    return accounts.user_row(tx, name) if name is not None else None


def recognise(tx: Tx, person: Person) -> Row | None:
    """The user who somebody is: by its link, else by what the issuer says, and it is linked then. None: a new one.

    Raises Refusal where it can't be told, or the user is disabled.
    """
    user = find(tx, person.issuer, person.subject)
    if user is None:
        user = _meant(tx, person)
        if user is None:
            return None
        _check_active(user)
        if tx.one("SELECT 1 FROM identities WHERE user_id = ? AND issuer = ?", user["id"], person.issuer):
            raise Refusal(
                f"the user of {person.called} is linked to another account there: ask your admin "
                f"(`llmgate users identities {user['name']}`)",
                code=DENIED,
            )
        link(tx, user, person.issuer, person.subject, person.email)
    _check_active(user)
    return user


def _meant(tx: Tx, person: Person) -> Row | None:
    if person.username is not None:
        return accounts.find_user(tx, person.username)
    if person.email is None:
        raise Refusal("your account there has no verified address, so it can't be told who you are here", code=DENIED)
    found = [row["name"] for row in tx.execute("SELECT name FROM users WHERE lower(email) = ?", (person.email,))]
    if len(found) > 1:
        raise Refusal(
            f"{len(found)} users have the address {person.email}, so it doesn't tell who you are: ask your admin",
            code=DENIED,
        )
    return accounts.user_row(tx, found[0]) if found else None


def _check_active(user: Row) -> None:
    if user["status"] != "active":
        raise Refusal(f"user {user['name']} is disabled: ask your admin", code="user_disabled")


def link(tx: Tx, user: Row, issuer: str, subject: str, email: str | None) -> None:
    """From now on this person is this user."""
    tx.execute(
        "INSERT INTO identities (issuer, subject, user_id, email, created_ms) VALUES (?, ?, ?, ?, ?)",
        (issuer, subject, user["id"], email, tx.now_ms),
    )
    audit.record(tx, "users.identify", user["name"], after={"issuer": issuer, "subject": subject, "email": email})


def make(tx: Tx, person: Person, terms: Terms) -> Row:
    """A user for somebody who is none yet. Raises Refusal."""
    name = new_name(tx, person)
    user = accounts.add_user(
        tx, name, team=terms.team, plan=terms.plan, email=person.email, default_billing=terms.default_billing
    )
    link(tx, user, person.issuer, person.subject, person.email)
    return user


def new_name(tx: Tx, person: Person) -> str:
    """What a new user is called: the issuer's name for it, else what stands before the @ of its address. If somebody
    else has that, the whole address. Raises Refusal where it would be, or look like, another user's.

    A user without an address who has that name may be this very person, whom the admin made by hand: making it anew
    would give one person two accounts, and taking that one would let anybody become any user by choosing an address.
    """
    if person.username is not None:
        return _free(tx, person.username)
    assert person.email is not None, "recognise() refuses who has neither"
    local = person.email.partition("@")[0]
    other = tx.one("SELECT name, email FROM users WHERE lower(name) = ?", local)
    if other is not None and not other["email"]:
        raise Refusal(
            f"there is a user {other['name']} without an address: if that is you, ask your admin to write yours "
            f"(`llmgate users set {other['name']} --email {person.email}`)",
            code=DENIED,
        )
    if other is None and _is_name(local):
        return local
    return _free(tx, person.email)


def _free(tx: Tx, name: str) -> str:
    if not _is_name(name):
        raise Refusal(f"{name[:100]!r} can't be the name of a user here: ask your admin to make one", code=DENIED)
    if tx.one("SELECT 1 FROM users WHERE lower(name) = lower(?)", name):
        raise Refusal(f"there is another user {name}: ask your admin", code=DENIED)
    return name


def _is_name(text: str) -> bool:
    try:
        check_new(text, "user")
    except LlmgateError:
        return False
    return True


def of_user(tx: Tx, user: str) -> list[Row]:
    """Who may sign in as a user."""
    return tx.execute(
        "SELECT i.issuer, i.subject, i.email, i.created_ms FROM identities i "
        "WHERE i.user_id = ? ORDER BY i.issuer, i.subject",
        (accounts.user_row(tx, user)["id"],),
    ).fetchall()


def forget(tx: Tx, user: str) -> list[Row]:
    """Nobody is this user any more, and it is signed out: who signs in is recognised anew. Returns who it was."""
    known, user_id = of_user(tx, user), accounts.user_row(tx, user)["id"]
    if not known:
        raise UsageError(f"nobody is linked to user {user}: there is nothing to forget")
    tx.execute("DELETE FROM identities WHERE user_id = ?", (user_id,))
    sessions.end_all(tx, user_id)
    was = [{"issuer": row["issuer"], "subject": row["subject"]} for row in known]
    audit.record(tx, "users.forget", user, before={"identities": was})
    return known
