"""Users and teams."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from ...admin import bodies, reads, writes
from ...admin.bodies import Name, Text
from ...store import accounts, audit, identities, links, sessions
from ...store.db import Tx
from ..visits import Redirect, Shown, Visit

Billing = Annotated[Literal["metered", "prepaid", "default"] | None, Meta(description="None: it stays as it is")]


class UserForm(Struct, frozen=True, forbid_unknown_fields=True):
    """All that can be changed; what is empty is taken away."""

    team: Name | None = None
    plan: Name | None = None
    email: Text | None = None
    leads: Name | None = None
    billing: Billing = None


class TeamForm(Struct, frozen=True, forbid_unknown_fields=True):
    plan: Name | None = None
    billing: Billing = None


def users(tx: Tx, visit: Visit) -> Shown:
    query = visit.query
    found = reads.users(tx, visit.call(query=query))
    return Shown("admin/users.html", {"found": found, **_choices(tx, visit)})


def add_user(tx: Tx, visit: Visit) -> Redirect:
    told = writes.add_user(tx, visit.call(body=visit.form))
    return Redirect(f"/admin/pages/users/{told.user}", said=f"User `{told.user}` is made: give it a key next.")


def user(tx: Tx, visit: Visit) -> Shown:
    told = reads.user(tx, visit.call())
    found = {
        "told": told,
        "keys": reads.key_list(tx, visit.call(query=bodies.KeysOf(user=told.user, all=True))).data,
        "limits": reads.limits_of(tx, visit.call({"target": f"user:{told.user}"})).limits,
        "identities": identities.of_user(tx, told.user),
        "recent": reads.usage_of(tx, visit.call({"whose": told.user}, bodies.UsageIn(limit=10))).data,
    }
    return Shown("admin/user.html", {**found, **_choices(tx, visit)})


def set_user(tx: Tx, visit: Visit) -> Redirect:
    before = reads.user(tx, visit.call())
    changes = _changes(before, visit)
    if changes:
        writes.set_user(tx, visit.call(body=bodies.UserChange(**changes)))
    return _changed(f"/admin/pages/users/{before.user}", f"User `{before.user}`", changes)


def disable_user(tx: Tx, visit: Visit) -> Redirect:
    told = writes.disable_user(tx, visit.call())
    return Redirect(
        f"/admin/pages/users/{told.user}", said=f"User `{told.user}` is disabled: every request is refused."
    )


def enable_user(tx: Tx, visit: Visit) -> Redirect:
    told = writes.enable_user(tx, visit.call())
    return Redirect(f"/admin/pages/users/{told.user}", said=f"User `{told.user}` is enabled.")


def link(tx: Tx, visit: Visit) -> Shown:
    """Whoever has it is that user, once: it is shown here, and sent by the admin."""
    user = visit.params["user"]
    secret, expires_ms = links.add(tx, user)
    url = f"{visit.base_url}/sign-in/link?token={secret}"
    return Shown("admin/link.html", {"user": user, "url": url, "expires_ms": expires_ms})


def sign_out(tx: Tx, visit: Visit) -> Redirect:
    row = accounts.user_row(tx, visit.params["user"])
    count = sessions.end_all(tx, row["id"])
    audit.record(tx, "users.signout", row["name"], after={"sessions": count})
    return Redirect(f"/admin/pages/users/{row['name']}", said=f"`{row['name']}` is signed out everywhere.")


def forget(tx: Tx, visit: Visit) -> Redirect:
    user = visit.params["user"]
    identities.forget(tx, user)
    return Redirect(f"/admin/pages/users/{user}", said=f"Accounts elsewhere no longer sign in as `{user}`.")


def teams(tx: Tx, visit: Visit) -> Shown:
    found = reads.teams(tx, visit.call(query=visit.query))
    return Shown("admin/teams.html", {"found": found, **_choices(tx, visit)})


def add_team(tx: Tx, visit: Visit) -> Redirect:
    told = writes.add_team(tx, visit.call(body=visit.form))
    return Redirect(f"/admin/pages/teams/{told.team}", said=f"Team `{told.team}` is made.")


def team(tx: Tx, visit: Visit) -> Shown:
    told = reads.team(tx, visit.call())
    found = {"told": told, "limits": reads.limits_of(tx, visit.call({"target": f"team:{told.team}"})).limits}
    return Shown("admin/team.html", {**found, **_choices(tx, visit)})


def set_team(tx: Tx, visit: Visit) -> Redirect:
    before = reads.team(tx, visit.call())
    changes = _changes(before, visit)
    if changes:
        writes.set_team(tx, visit.call(body=bodies.TeamChange(**changes)))
    return _changed(f"/admin/pages/teams/{before.team}", f"Team `{before.team}`", changes)


def _changes(before: Struct, visit: Visit) -> dict[str, Any]:
    """What a form says that isn't so already, as the API takes it: null takes away. Raises Refusal where it was shown
    with something else.
    """
    visit.check_version(before)
    wanted = msgspec.structs.asdict(visit.form)
    billing = wanted.pop("billing")
    changes = {name: value for name, value in wanted.items() if value != getattr(before, name)}
    if billing is not None:
        changes["billing"] = None if billing == accounts.DEFAULT else billing
    return changes


def _changed(page: str, what: str, changes: Collection[str]) -> Redirect:
    return Redirect(page, said=f"{what} is changed: {', '.join(changes)}." if changes else "Nothing was changed.")


def _choices(tx: Tx, visit: Visit) -> dict[str, list[str]]:
    return {"teams": [row["name"] for row in accounts.list_teams(tx)], "plans": list(visit.policy.plans)}
