"""Who may see and do what: every page × nobody, a user, another user, the lead of a team, each kind of admin.

A page that has no row here fails the first test. One that changes something is asked for with a form that is not its
own unless the row has one, so that 400 says: here one would have got on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import httpx
import pytest

from llmgate.store.admins import Scope
from llmgate.web.pages import PAGES
from llmgate.web.visits import Page, Who

from .conftest import Browser, House, words_of

WHO = ("nobody", "user", "other", "lead", "read", "keys", "credits", "all")
"""Who asks. What a path names (`{key}`, `{user}`) is the user's."""


class Row(NamedTuple):
    """What each of WHO is answered."""

    statuses: str
    form: Mapping[str, Any] = {}
    """What a POST is sent beside its token; without any it is sent a field that no form has."""
    query: str = ""


EVERYBODY = "200 200 200 200 200 200 200 200"
EVERYBODY_POSTS = "400 400 400 400 400 400 400 400"
SIGNED_IN_POSTS = "303 400 400 400 400 400 400 400"
USER = "303 200 200 200 403 403 403 403"
USER_POSTS = "303 400 400 400 403 403 403 403"
LEAD = "303 403 403 200 403 403 403 403"
LEAD_POSTS = "303 403 403 400 403 403 403 403"
ADMIN_READS = "303 403 403 403 200 200 200 200"
ADMIN_KEYS_POSTS = "303 403 403 403 403 400 403 400"
ADMIN_CREDITS_POSTS = "303 403 403 403 403 403 400 400"
ADMIN_ALL_POSTS = "303 403 403 403 403 403 403 400"

LISTS = ("users", "teams", "keys", "credits", "limits", "requests", "usage", "models", "plans", "events", "audit")
THINGS = ("users/{user}", "teams/{team}", "keys/{key}", "credits/{account}", "limits/{target}")
KEPT = (
    *(
        "users",
        "users/{user}",
        "users/{user}/disable",
        "users/{user}/enable",
        "users/{user}/link",
        "users/{user}/sign-out",
        "users/{user}/forget",
        "teams",
        "teams/{team}",
    ),
    *("keys", *(f"keys/{{key}}{verb}" for verb in ("", "/rotate", "/revoke", "/disable", "/enable"))),
    *("limits/{target}", "requests/{request}/approve", "requests/{request}/deny"),
)
"""What admins see, and what those of scope keys change."""

OF_MEMBERS = ("keys", "keys/{key}/revoke", "limits", "limits/remove")
"""What the lead of a team changes."""

ROWS: dict[str, Row] = {
    "GET /": Row(EVERYBODY),
    "GET /sign-in": Row("200 303 303 303 303 303 303 303"),
    "POST /sign-in": Row(EVERYBODY_POSTS),
    "GET /sign-in/link": Row("404 404 404 404 404 404 404 404"),
    "POST /sign-in/link": Row(EVERYBODY_POSTS),
    "GET /sign-out": Row("303 200 200 200 200 200 200 200"),
    "POST /sign-out": Row(SIGNED_IN_POSTS),
    "POST /sign-out/everywhere": Row(SIGNED_IN_POSTS),
    "GET /request-key": Row("200 303 303 303 200 200 200 200"),
    "POST /request-key": Row("400 400 400 400 400 400 400 400"),
    "POST /request-key/fetch": Row(EVERYBODY_POSTS),
    "POST /request-key/forget": Row(EVERYBODY_POSTS),
    # a user's own; a form of another's key is shown again, and so not found
    **dict.fromkeys((f"GET /portal{name}" for name in ("", "/keys", "/usage", "/usage.csv", "/requests")), Row(USER)),
    **dict.fromkeys(("POST /portal/keys", "POST /portal/keys/{key}/revoke"), Row(USER_POSTS)),
    "GET /portal/keys/{key}": Row("303 200 404 404 403 403 403 403"),
    "POST /portal/keys/{key}": Row("303 400 404 404 403 403 403 403"),
    "POST /portal/keys/{key}/rotate": Row("303 400 404 404 403 403 403 403"),
    **dict.fromkeys(("GET /portal/team", "GET /portal/team/members/{member}"), Row(LEAD)),
    **dict.fromkeys((f"POST /portal/team/members/{{member}}/{name}" for name in OF_MEMBERS), Row(LEAD_POSTS)),
    "GET /sign-in/{provider}": Row("404 404 404 404 404 404 404 404"),
    "GET /sign-in/{provider}/callback": Row("404 404 404 404 404 404 404 404"),
    # admins'
    **dict.fromkeys(("GET /admin", "GET /reports", "GET /reports/data"), Row(ADMIN_READS)),
    **dict.fromkeys((f"GET /admin/pages/{name}" for name in LISTS), Row(ADMIN_READS)),
    **dict.fromkeys((f"GET /admin/pages/{name}" for name in THINGS), Row(ADMIN_READS)),
    **dict.fromkeys((f"POST /admin/pages/{name}" for name in KEPT), Row(ADMIN_KEYS_POSTS)),
    "POST /admin/pages/credits/{account}": Row(ADMIN_CREDITS_POSTS),
}

NAMED: dict[str, Callable[[House], str]] = {
    "key": lambda house: house.alice.key_id,
    **dict.fromkeys(("user", "account", "target"), lambda house: house.alice.name),
    "team": lambda _: "research",
    "member": lambda house: house.member.name,
    "provider": lambda _: "nobody",
    "request": lambda _: "1",
}
"""What stands in the place of a path's names."""


def called(page: Page) -> str:
    return f"{page.method} {page.path}"


def browser_of(house: House, who: str) -> Browser:
    people = {"user": house.alice, "other": house.bob, "lead": house.lead}
    if who == "nobody":
        return house.nobody
    return house.of(people[who]) if who in people else house.admin(Scope(who))


def ask(browser: Browser, page: Page, house: House, row: Row) -> httpx.Response:
    path = re.sub(r"\{(\w+)\}", lambda match: NAMED[match[1]](house), page.path)
    if page.method == "GET":
        return browser.get(f"{path}{row.query}")
    if page.api:
        return browser.client.post(path, json=dict(row.form or {"no-field-of-it": 1}))
    return browser.post(path, {"csrf": browser.token(), **(row.form or {"no-field-of-it": "1"})})


def test_every_page_has_a_row() -> None:
    assert {called(page) for page in PAGES} == ROWS.keys()
    assert {len(row.statuses.split()) for row in ROWS.values()} == {len(WHO)}


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("page", [pytest.param(page, id=called(page)) for page in PAGES])
def test_everybody_gets_as_far_as_they_may(house: House, page: Page, who: str) -> None:
    row = ROWS[called(page)]
    answer = ask(browser_of(house, who), page, house, row)
    assert answer.status_code == int(row.statuses.split()[WHO.index(who)]), words_of(answer)
    if answer.status_code == 303 and who == "nobody":
        assert answer.headers["location"].partition("?")[0] == "/sign-in"


GETS = [pytest.param(page, id=called(page)) for page in PAGES if page.method == "GET" and not page.api]
POSTS = [pytest.param(page, id=called(page)) for page in PAGES if page.method == "POST" and not page.api]


def who_may(page: Page) -> str:
    """Somebody for whom a page is."""
    if isinstance(page.access, Scope):
        return "all"
    return {Who.EVERYBODY: "nobody", Who.LEAD: "lead"}.get(page.access, "user")


@pytest.mark.parametrize("page", POSTS)
@pytest.mark.parametrize("wrong", ["no token", "a wrong one", "that of another", "of another site", "another origin"])
def test_a_form_of_somebody_else_does_nothing(house: House, page: Page, wrong: str) -> None:
    mine = browser_of(house, who_may(page))
    path = re.sub(r"\{(\w+)\}", lambda match: NAMED[match[1]](house), page.path)
    row = ROWS[called(page)]
    fields = dict(row.form)
    headers: dict[str, str] = {}
    if wrong == "a wrong one":
        fields["csrf"] = "x" * 27
    elif wrong == "that of another":
        fields["csrf"] = house.of(house.member).token()
    elif wrong != "no token":
        fields["csrf"] = mine.token()
        headers = {"sec-fetch-site": "cross-site"} if wrong == "of another site" else {"origin": "https://evil.example"}
    answer = mine.client.post(path, data=fields, headers=headers)
    assert answer.status_code == 403, words_of(answer)
    assert "form_refused" in words_of(answer)


@pytest.mark.parametrize("page", POSTS)
def test_a_form_of_ours_is_taken_as_browsers_send_it(house: House, page: Page) -> None:
    browser = browser_of(house, who_may(page))
    path = re.sub(r"\{(\w+)\}", lambda match: NAMED[match[1]](house), page.path)
    fields = {"csrf": browser.token(), "no-field-of-it": "1"}
    headers = {"sec-fetch-site": "same-origin", "origin": house.served.url}
    assert browser.client.post(path, data=fields, headers=headers).status_code == 400
    assert browser.client.post(path, data=fields, headers={"origin": house.served.url}).status_code == 400


POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


def check_headers(answer: httpx.Response) -> None:
    assert answer.headers["content-security-policy"] == POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "same-origin"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-request-id"].startswith("req_")


INLINE = re.compile(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son[a-z]+=|javascript:", re.IGNORECASE)
ELSEWHERE = re.compile(r"""(?:src|href|action)=["'](?:https?:)?//""", re.IGNORECASE)


@pytest.mark.parametrize("page", GETS)
def test_what_every_page_has(house: House, page: Page) -> None:
    """Its headers, nothing inline, nothing from another host, a name, and a form for each button that changes."""
    row = ROWS[called(page)]
    answer = ask(browser_of(house, who_may(page)), page, house, row)
    check_headers(answer)
    if not answer.headers.get("content-type", "").startswith("text/html"):
        return
    assert not INLINE.search(answer.text)
    assert not ELSEWHERE.search(answer.text)
    assert re.search(r"<title>[^<]+ · llmgate</title>", answer.text)
    assert answer.text.count("<h1") == 1
    assert answer.text.count('method="post"') == answer.text.count('name="csrf"')


@pytest.mark.parametrize("page", GETS)
def test_head_is_get_without_a_body(house: House, page: Page) -> None:
    row = ROWS[called(page)]
    browser = browser_of(house, who_may(page))
    path = re.sub(r"\{(\w+)\}", lambda match: NAMED[match[1]](house), page.path) + row.query
    got, head = browser.get(path), browser.client.head(path)
    assert (head.status_code, head.content) == (got.status_code, b"")
    assert head.headers.get("content-type") == got.headers.get("content-type")


@pytest.mark.parametrize("path", sorted({page.path for page in PAGES}))
def test_a_wrong_method_is_told_the_right_ones(house: House, path: str) -> None:
    methods = {page.method for page in PAGES if page.path == path}
    answer = house.admin().client.request("PATCH", re.sub(r"\{(\w+)\}", "x", path))
    assert answer.status_code == 405
    assert set(answer.headers["allow"].split(", ")) == methods | ({"HEAD"} if "GET" in methods else set())
    check_headers(answer)


@pytest.mark.parametrize(
    "path", ["/portal/nothing", "/sign-in/nothing/here", "/admin/pages/nothing", "/static/nothing.css"]
)
def test_where_there_is_no_page(house: House, path: str) -> None:
    """People are told by a page, programs by JSON."""
    answer = house.nobody.get(path)
    assert answer.status_code == 404
    assert "Nothing here" in words_of(answer)
    check_headers(answer)
    told = house.nobody.get(path, accept="application/json")
    assert (told.status_code, told.json()["error"]["code"]) == (404, "not_found")
    check_headers(told)


@pytest.mark.parametrize("path", ["/portalx", "/admin/nothing", "/v1/nothing", "/nothing"])
def test_paths_of_programs_answer_json(house: House, path: str) -> None:
    answer = house.nobody.get(path, accept="*/*")
    assert answer.json()["error"]["code"] in ("not_found", "missing_key")


def test_a_cookie_opens_no_api(house: House) -> None:
    """The JSON API takes admin keys, and nothing that a browser sends by itself."""
    for path in ("/admin/users", "/admin/me", "/admin/monitor"):
        assert house.admin().get(path).status_code == 401
    assert house.of(house.alice).get("/user/balance").status_code == 401
