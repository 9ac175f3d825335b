"""Who may do what: every route × nobody, a user, each scope, and the token of the environment."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llmgate.admin.calls import Route
from llmgate.admin.routes import ROUTES
from llmgate.gateway.admins import MOST_WRONG
from llmgate.store import admins
from llmgate.store.admins import Scope
from tests.replay import wait_until
from tests.served import Served, error_of

from .conftest import TOKEN, Admin, Office

BODIES = {
    "/admin/users": {"user": "carol"},
    "/admin/teams": {"team": "carols"},
    "/admin/keys": {"user": "carol"},
    "/admin/credits": {"account": "nobody-there", "amount_usd": "1"},
    "/admin/limits/{target}": {"limits": []},
}

OF_ADMINS = [route for route in ROUTES if route.scope is not None]
EACH = [pytest.param(route, id=f"{route.method} {route.path}") for route in OF_ADMINS]

PUBLIC = {"/public/keys", "/public/keys/claim", "/public/keys/{username}"}
"""What takes no key at all: `test_public` says what it does."""

MAY: dict[Scope, set[Scope]] = {
    Scope.READ: {Scope.READ, Scope.KEYS, Scope.CREDITS, Scope.ALL},
    Scope.KEYS: {Scope.KEYS, Scope.ALL},
    Scope.CREDITS: {Scope.CREDITS, Scope.ALL},
}
"""What a route takes → the admin keys that may."""


def knock(admin: Admin, route: Route) -> int:
    """Ask for something that isn't there, so that nothing is changed: what matters is how far one gets."""
    path = re.sub(r"\{\w+\}", "nobody-there", route.path).removeprefix("/admin")
    answer = admin(route.method, path, BODIES.get(route.path) if route.method != "GET" else None)
    return answer.status_code


def test_the_scope_of_each_route_is_what_it_is_meant_to_be() -> None:
    assert {route.path for route in ROUTES} - {route.path for route in OF_ADMINS} == PUBLIC
    assert all(route.path.startswith("/admin/") for route in OF_ADMINS)
    scopes = {(route.method, route.path): route.scope for route in OF_ADMINS}
    assert {scopes[at] for at in scopes if at[0] == "GET"} == {Scope.READ}
    assert [at for at, scope in scopes.items() if scope is Scope.CREDITS] == [("POST", "/admin/credits")]
    assert {scope for at, scope in scopes.items() if at[0] != "GET"} == {Scope.KEYS, Scope.CREDITS}


@pytest.mark.parametrize("route", EACH)
def test_nobody_gets_in(office: Office, route: Route) -> None:
    assert knock(office.nobody, route) == 401


def test_a_user_s_key_opens_nothing(office: Office, tmp_path: Path) -> None:
    """At a gateway of its own: its address is asked to wait after a few, which must not be what keeps it out."""
    with Served(tmp_path, {"upstreams": {"sandbox": {}}}) as served:
        user = Admin(served, served.person().key)
        statuses = [knock(user, route) for route in OF_ADMINS]
    assert statuses == [401] * MOST_WRONG + [429] * (len(OF_ADMINS) - MOST_WRONG)


@pytest.mark.parametrize("scope", list(Scope))
@pytest.mark.parametrize("route", EACH)
def test_an_admin_gets_as_far_as_its_scope(office: Office, route: Route, scope: Scope) -> None:
    status = knock(office.of(scope), route)
    assert route.scope is not None
    assert (status != 403) == (scope in MAY[route.scope]), status
    assert status not in (401, 500)


def test_the_token_of_the_environment_is_an_admin(office: Office) -> None:
    env = Admin(office.served, TOKEN)
    assert env.told("/me") == {"admin": "env", "scope": "all"}
    env.done("POST", "/users", {"user": "by-env"})
    assert [act["actor"] for act in env.told("/audit?limit=1")["data"]] == ["admin:env"]


def test_both_headers_are_taken(office: Office) -> None:
    key = str(office.ops.key)
    assert office.nobody("GET", "/me", x_admin_token=key).status_code == 200
    assert office.nobody("GET", "/me", x_admin_token=key, authorization=f"bearer {key}").status_code == 200
    answer = office.nobody("GET", "/me", x_admin_token=key, authorization=f"Bearer {TOKEN}")
    error_of(answer, 401, "invalid_key")
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_a_key_that_is_revoked_ends_at_once(office: Office) -> None:
    with office.served.tx() as tx:
        late = Admin(office.served, admins.add(tx, "late", Scope.ALL))
    office.served.secrets.append(str(late.key))
    assert late.told("/me")["admin"] == "late"
    with office.served.tx() as tx:
        admins.revoke(tx, "late")
    error_of(late("GET", "/me"), 401, "key_revoked")
    error_of(late("POST", "/users", {"user": "too-late"}), 401, "key_revoked")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/users", {"user": "u1", "billing": "metered"}),
        ("POST", "/teams", {"team": "t1", "billing": "prepaid"}),
        ("PATCH", "/users/alice", {"billing": None}),
        ("PATCH", "/teams/fellows", {"billing": "metered"}),
        ("POST", "/keys", {"user": "u1", "credits_usd": "5"}),
    ],
)
def test_who_pays_is_for_scope_all(office: Office, method: str, path: str, body: dict[str, object]) -> None:
    """Whoever may make keys may not give credits with them, nor let somebody go on without."""
    office.ops("POST", "/users", {"user": "alice"})
    office.ops("POST", "/teams", {"team": "fellows"})
    refused = error_of(office.of(Scope.KEYS)(method, path, body), 403, "scope_not_allowed")
    assert "scope all" in refused["message"]
    assert "u1" not in str(office.ops.told("/users?limit=1000"))


def test_a_user_s_key_is_told_what_it_is_not(office: Office) -> None:
    answer = Admin(office.served, office.alice.key)("GET", "/users")
    assert "no admin key" in error_of(answer, 401, "invalid_key")["message"]


def test_use_is_noted(office: Office) -> None:
    office.of(Scope.READ).told("/me")
    wait_until(lambda: office.served.value("SELECT last_used_ms FROM admins WHERE name = 'read'") is not None)
