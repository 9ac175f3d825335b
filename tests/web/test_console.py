"""What admins do by clicking: the same as by the API, in the books and in what is told."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from llmgate.store import accounts, identities, keys, limits, requests
from llmgate.store.admins import Scope
from llmgate.store.db import now_ms
from tests.served import Person

from .conftest import Browser, House, form_to, words_of

USERS = "/admin/pages/users"
TEAMS = "/admin/pages/teams"
KEYS = "/admin/pages/keys"
CREDITS = "/admin/pages/credits"
LIMITS = "/admin/pages/limits"
REQUESTS = "/admin/pages/requests"

MARKUP = "<script>alert(1)</script>"


def said(answer: httpx.Response) -> str:
    """What a page says, with `code` within its sentence."""
    return re.sub(r" ([.,:;])", r"\1", words_of(answer))


@pytest.fixture
def admin(house: House) -> Browser:
    """Of scope all."""
    return house.admin()


def user_row(house: House, name: str) -> dict[str, Any]:
    with house.served.view() as tx:
        return dict(accounts.user_row(tx, name))


def last_act(house: House, target: str) -> tuple[str, str]:
    with house.served.view() as tx:
        row = tx.one("SELECT actor, action FROM audit WHERE target = ? ORDER BY id DESC LIMIT 1", target)
    assert row is not None
    return row["actor"], row["action"]


# ── users and teams ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_user_is_made_and_changed(house: House, admin: Browser) -> None:
    name = "clicked.user"
    page = admin.done(USERS, USERS, user=name, team="research", email="c@example.org")
    assert page.request.url.path == f"{USERS}/{name}"
    assert f"User {name} is made" in said(page)
    assert (user_row(house, name)["team"], user_row(house, name)["email"]) == ("research", "c@example.org")
    assert last_act(house, name) == ("admin:all", "users.add")
    page = admin.done(page, f"{USERS}/{name}", team="", email="", leads="research", billing="prepaid")
    assert f"User {name} is changed: team, email, leads, billing." in said(page)
    row = user_row(house, name)
    assert (row["team"], row["email"], row["leads"], row["billing"]) == (None, None, "research", "prepaid")
    acts = house.served.value("SELECT count(*) FROM audit WHERE target = ?", name)
    assert "Nothing was changed" in said(admin.done(page, f"{USERS}/{name}"))
    assert house.served.value("SELECT count(*) FROM audit WHERE target = ?", name) == acts


def test_what_is_typed_wrongly_is_told_beside_what_was_typed(house: House, admin: Browser) -> None:
    before = house.served.value("SELECT count(*) FROM users")
    answer = admin.send(USERS, USERS, user="no such:name", email="kept@example.org")
    assert answer.status_code == 400
    assert "no such:name" in said(answer)
    assert form_to(answer, USERS).fields["email"] == "kept@example.org"
    answer = admin.send(USERS, USERS, user=house.alice.name)
    assert (answer.status_code, "exists already" in said(answer)) == (409, True)
    answer = admin.send(USERS, USERS, user="somebody", team="nowhere")
    assert (answer.status_code, "There is no team" in said(answer)) == (404, True)
    assert house.served.value("SELECT count(*) FROM users") == before


def test_two_who_change_one_thing(house: House, admin: Browser) -> None:
    """Who saves later is told that it isn't any more as it was shown."""
    person = house.served.person()
    path = f"{USERS}/{person.name}"
    mine, theirs = admin.shown(path), house.admin(Scope.KEYS).shown(path)
    house.admin(Scope.KEYS).done(theirs, path, email="first@example.org")
    answer = admin.send(mine, path, email="second@example.org")
    assert answer.status_code == 412
    assert "Somebody else has changed it" in said(answer)
    assert user_row(house, person.name)["email"] == "first@example.org"
    assert form_to(answer, path).fields["email"] == "second@example.org", "what was typed isn't lost"
    admin.done(answer, path)
    assert user_row(house, person.name)["email"] == "second@example.org"


def test_a_user_is_disabled_and_enabled(house: House, admin: Browser) -> None:
    person = house.served.person()
    path = f"{USERS}/{person.name}"
    page = admin.done(path, f"{path}/disable")
    assert "every request is refused" in said(page)
    assert house.served.chat(person).status_code == 403
    admin.done(page, f"{path}/enable")
    assert house.served.chat(person).status_code == 200
    house.served.settled(person, 1)


def test_a_user_is_let_in_by_a_link_and_signed_out(house: House, admin: Browser) -> None:
    person = house.served.person()
    path = f"{USERS}/{person.name}"
    page = admin.send(path, f"{path}/link")
    found = re.search(r"/sign-in/link\?token=[A-Za-z0-9_-]+", page.text)
    assert found is not None
    guest = house.browser()
    assert person.name in said(guest.done(found[0], "/sign-in/link"))
    assert last_act(house, person.name) == ("admin:all", "users.link")
    assert "signed out everywhere" in said(admin.done(path, f"{path}/sign-out"))
    assert last_act(house, person.name) == ("admin:all", "users.signout")
    assert guest.get("/portal").status_code == 303
    guest.close()
    with house.served.tx() as tx:
        user = accounts.user_row(tx, person.name)
        identities.link(tx, user, "https://issuer.example", "subject-1", "someone@issuer.example")
    assert "someone@issuer.example" in said(admin.shown(path))
    page = admin.done(path, f"{path}/forget")
    assert "someone@issuer.example" not in said(page)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("limit=0", "Limit: a number >= 1 is wanted."),
        ("limit=1001", "Limit: a number <= 1000 is wanted."),
        ("limit=many", "Limit: a whole number is wanted."),
        (f"search={'x' * 257}", "Search: it is too long: at most 256 characters."),
        ("nope=1", "The query is wrong: 'nope' is no field of it."),
        ("cursor=zz", "Cursor must be next of a page that was told before."),
    ],
)
def test_an_address_that_was_changed_by_hand(admin: Browser, query: str, words: str) -> None:
    assert words in said(admin.shown(f"{USERS}?{query}", 400))


def test_who_may_not_say_who_pays(house: House) -> None:
    """Scope keys: the choice isn't offered, and isn't taken where it is made up."""
    browser = house.admin(Scope.KEYS)
    person = house.served.person()
    page = browser.shown(f"{USERS}/{person.name}")
    assert "billing" not in form_to(page, f"{USERS}/{person.name}").fields
    answer = browser.send(page, f"{USERS}/{person.name}", billing="prepaid")
    assert (answer.status_code, "scope all" in said(answer)) == (403, True)
    assert user_row(house, person.name)["own_billing"] == "metered"
    answer = browser.send(KEYS, KEYS, user="rich.by.form", credits_usd="100")
    assert (answer.status_code, "redits_usd takes an admin key of scope all" in said(answer)) == (403, True)
    assert house.served.value("SELECT count(*) FROM users WHERE name = 'rich.by.form'") == 0


def test_users_are_found(house: House, admin: Browser) -> None:
    names = ["found.one", "found.two", "other.one"]
    with house.served.tx() as tx:
        for name in names:
            accounts.add_user(tx, name, email=f"{name}@found.example" if name == "other.one" else None)
    told = said(admin.shown(f"{USERS}?search=FOUND"))
    assert [name for name in names if name in told] == names, "by name and by e-mail, whatever the capitals"
    told = said(admin.shown(f"{USERS}?search=found.o"))
    assert [name for name in names if name in told] == ["found.one"]
    assert "No user is like this" in said(admin.shown(f"{USERS}?search=nobody-is-called-so"))
    first = admin.shown(f"{USERS}?search=found&limit=2")
    assert [name for name in names if name in said(first)] == ["found.one", "found.two"]
    more = re.search(r'href="(\?[^"]*cursor=[^"]*)"', first.text)
    assert more is not None
    told = said(admin.shown(USERS + more[1].replace("&amp;", "&")))
    assert [name for name in names if name in told] == ["other.one"]
    assert admin.get(f"{USERS}?limit=100000").status_code == 400
    assert admin.get(f"{USERS}?cursor=nonsense!").status_code == 400
    assert admin.get(f"{USERS}?nothing=1").status_code == 400


def test_a_team(house: House, admin: Browser) -> None:
    page = admin.done(TEAMS, TEAMS, team="clickers")
    assert page.request.url.path == f"{TEAMS}/clickers"
    person = house.served.person(team="clickers")
    assert person.name in said(admin.shown(f"{TEAMS}/clickers"))
    page = admin.done(f"{TEAMS}/clickers", f"{TEAMS}/clickers", billing="prepaid")
    assert "prepaid" in said(page)
    assert house.served.chat(person).status_code == 402
    page = admin.done(f"{TEAMS}/clickers", f"{TEAMS}/clickers", billing="default")
    assert house.served.chat(person).status_code == 200
    house.served.settled(person, 1)
    assert last_act(house, "clickers") == ("admin:all", "teams.set")


@pytest.mark.parametrize("path", [f"{USERS}/nobody", f"{TEAMS}/none", f"{KEYS}/k-nothing", f"{CREDITS}/nobody"])
def test_what_there_is_not(admin: Browser, path: str) -> None:
    assert "there is no" in said(admin.shown(path, 404)).lower()


# ── keys ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

ISSUED = re.compile(r"sk-lg-[0-9A-Za-z]{49}")


def issued(house: House, page: Any) -> Person:
    found = ISSUED.search(page.text)
    assert found is not None
    house.served.secrets.append(found[0])
    with house.served.view() as tx:
        row = tx.one(
            "SELECT k.id, u.name FROM keys k JOIN users u ON u.id = k.user_id WHERE k.hash = ?", keys.hash_key(found[0])
        )
    assert row is not None
    return Person(name=row["name"], key=found[0], key_id=row["id"])


def test_a_key_is_issued_changed_rotated_and_revoked(house: House, admin: Browser) -> None:
    fields = {
        "user": "key.clicker",
        "name": "laptop",
        "note": MARKUP,
        "tags": "agent=coder\njob=a=b",
        "limits": "$5/day\n7 requests/month",
        "credits_usd": "2.5",
        "models": "zeta*\n*",
        "ips": "127.0.0.0/8",
    }
    page = admin.send(KEYS, KEYS, **fields)
    assert page.status_code == 200
    assert page.headers["cache-control"] == "no-store"
    person = issued(house, page)
    assert house.served.chat(person).status_code == 200
    house.served.settled(person, 1)
    with house.served.view() as tx:
        row = keys.key_row(tx, "key.clicker/laptop")
        assert (row["tags"], row["models"], row["ips"]) == (
            '{"agent":"coder","job":"a=b"}',
            '["zeta*","*"]',
            '["127.0.0.0/8"]',
        )
        assert [str(one) for one in limits.own_of(tx, ("key", row["id"]))] == ["$5/day", "7 requests/month"]
        entry = tx.one("SELECT amount_nano, actor FROM entries ORDER BY id DESC LIMIT 1")
        assert entry is not None
        assert tuple(entry) == (2_500_000_000, "admin:all")
    path = f"{KEYS}/{person.key_id}"
    page = admin.shown(path)
    assert MARKUP in said(page)
    assert MARKUP not in page.text, "what people wrote is text"
    page = admin.done(page, path, name="desk", models="", tags="", expires="2999-01-01")
    assert "is changed: name, models, tags, expires." in said(page)
    assert "Nothing was changed" in said(admin.done(page, path)), "an expiry is no other one for being shown"
    page = admin.send(path, f"{path}/rotate")
    second = issued(house, page)
    assert (second.key_id, house.served.chat(person).status_code) == (person.key_id, 401)
    assert house.served.chat(second).status_code == 200
    house.served.settled(second, 2)
    admin.done(path, f"{path}/disable")
    assert house.served.chat(second).status_code == 401
    admin.done(path, f"{path}/enable")
    assert house.served.chat(second).status_code == 200
    house.served.settled(second, 3)
    admin.done(path, f"{path}/revoke")
    assert house.served.chat(second).status_code == 401
    page = admin.shown(path)
    assert f'action="{path}' not in page.text, "what has ended can't be changed"
    assert admin.get(KEYS).text.count(person.key_id) == 0
    assert admin.get(f"{KEYS}?all=true").text.count(person.key_id) == 1


def test_a_form_that_is_sent_twice_issues_one_key(house: House, admin: Browser) -> None:
    form = form_to(admin.shown(KEYS), KEYS)
    fields = {**form.fields, "user": "twice.clicker"}
    one, two = admin.post(KEYS, fields), admin.post(KEYS, fields)
    assert issued(house, one).key == issued(house, two).key
    assert house.served.value("SELECT count(*) FROM users WHERE name = 'twice.clicker'") == 1
    assert (
        house.served.value("SELECT count(*) FROM keys k JOIN users u ON u.id = user_id WHERE u.name LIKE 'twice.%'")
        == 1
    )


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("tags", "nonsense", "is no tag"),
        ("limits", "many requests", "many requests"),
        ("ips", "300.1.1.1", "300.1.1.1"),
        ("expires", "yesterday", "yesterday"),
        ("credits_usd", "-5", "-5"),
        ("plan", "gold", "gold"),
        ("name", "a/b", "a/b"),
        ("note", "x" * 1001, "too long"),
        ("user", "", "User is missing"),
    ],
)
def test_a_key_that_can_not_be_issued(house: House, admin: Browser, field: str, value: str, told: str) -> None:
    before = house.served.value("SELECT count(*) FROM keys")
    answer = admin.send(KEYS, KEYS, **{"user": "never.made", field: value})
    assert answer.status_code in (400, 404)
    assert told in said(answer)
    assert house.served.value("SELECT count(*) FROM keys") == before
    assert house.served.value("SELECT count(*) FROM users WHERE name = 'never.made'") == 0


# ── money ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_credits_are_added_once(house: House) -> None:
    browser = house.admin(Scope.CREDITS)
    person = house.served.person()
    path = f"{CREDITS}/{person.name}"
    page = browser.done(path, path, amount_usd="5.25", note=MARKUP, ref="click-1")
    assert f"$5.25 added to {person.name}. It is prepaid from now on" in said(page)
    assert MARKUP not in page.text
    assert house.served.balance(person.name) == 5_250_000_000
    assert "Nothing was added: click-1 was known" in said(browser.done(page, path, amount_usd="5.25", ref="click-1"))
    answer = browser.send(page, path, amount_usd="6", ref="click-1")
    assert (answer.status_code, "click-1" in said(answer)) == (409, True)
    form = form_to(browser.shown(path), path)
    fields = {**form.fields, "amount_usd": "1"}
    assert [browser.post(path, fields).status_code for _ in range(2)] == [303, 303]
    assert house.served.balance(person.name) == 6_250_000_000, "one form adds once"
    for wrong in ("0", "-1", "1e3000", "1.0000000001", "five", "99999999999999"):
        assert browser.send(page, path, amount_usd=wrong).status_code == 400, wrong
    assert house.served.balance(person.name) == 6_250_000_000


def test_the_credits_of_a_team(house: House, admin: Browser) -> None:
    with house.served.tx() as tx:
        accounts.add_team(tx, "funded")
    member = house.served.person(team="funded")
    page = admin.done(f"{CREDITS}/team:funded", f"{CREDITS}/team:funded", amount_usd="3")
    assert "$3.00 added to team:funded" in said(page)
    assert member.name in said(page), "for whom it pays"
    assert "paid by team:funded" in said(admin.shown(f"{CREDITS}/{member.name}"))


def test_limits_are_said_as_a_whole(house: House, admin: Browser) -> None:
    person = house.served.person()
    path = f"{LIMITS}/{person.name}"
    stale = admin.shown(path)
    page = admin.done(path, path, limits="3 requests/month\n$1/month")
    assert f"Limits of {person.name}: $1/month, 3 requests/month." in said(page)
    assert admin.send(stale, path, limits="9 requests/month").status_code == 412
    answer = admin.send(page, path, limits="3 apples/month")
    assert (answer.status_code, "apples" in said(answer)) == (400, True)
    assert form_to(answer, path).fields["limits"] == "3 apples/month"
    for _ in range(3):
        assert house.served.chat(person).status_code == 200
    assert house.served.chat(person).status_code == 429
    house.served.settled(person, 3)
    page = admin.done(path, path, limits="")
    assert "no limits of its own" in said(page)
    assert house.served.chat(person).status_code == 200
    house.served.settled(person, 4)
    answer = admin.get(f"{LIMITS}?target=key:{person.key_id}")
    assert (answer.status_code, answer.headers["location"]) == (303, f"{LIMITS}/key:{person.key_id}")
    assert admin.get(f"{LIMITS}?target=team:nowhere").status_code == 404


# ── requests, and what goes on ────────────────────────────────────────────────────────────────────────────────────────


def asked(house: House, name: str, note: str | None = None) -> int:
    """A request that waits."""
    with house.served.tx() as tx:
        number = tx.execute(
            "INSERT INTO requests (username, note, address, hash, status, created_ms) VALUES (?, ?, ?, ?, ?, ?)",
            (name, note, "203.0.113.7", keys.hash_key(f"{requests.PREFIX}{name}"), "waiting", now_ms()),
        ).lastrowid
    assert number is not None
    return number


def test_requests_are_decided(house: House, admin: Browser) -> None:
    one, two = asked(house, "asks.one", MARKUP), asked(house, "asks.two")
    known = asked(house, house.alice.name)
    page = admin.shown(REQUESTS)
    assert MARKUP not in page.text
    page = admin.done(page, f"{REQUESTS}/{one}/approve")
    assert f"Request {one} is approved: asks.one can fetch the key now." in said(page)
    page = admin.done(page, f"{REQUESTS}/{two}/deny")
    assert f"Request {two} of asks.two is denied." in said(page)
    assert admin.send(page, f"{REQUESTS}/{known}/approve").status_code == 409, "it is alice who must be known to ask"
    admin.done(page, f"{REQUESTS}/{known}/approve", existing="true")
    with house.served.view() as tx:
        found = tx.execute("SELECT id, status FROM requests WHERE id IN (?, ?, ?)", (one, two, known)).fetchall()
    assert dict(map(tuple, found)) == {one: "approved", two: "denied", known: "approved"}
    assert "asks.two" not in said(admin.shown(REQUESTS))
    assert "asks.two" in said(admin.shown(f"{REQUESTS}?all=true"))


def test_what_goes_on(house: House, admin: Browser) -> None:
    person = house.served.person(credits="1")
    assert house.served.chat(person).status_code == 200
    (row,) = house.served.settled(person, 1)
    page = admin.shown(f"/admin/pages/usage?user={person.name}")
    assert page.text.count("<tr>") == 2, "a head, and one request"
    assert f"{row['input']:,}" in said(page)
    assert "No request is like this" in said(admin.shown(f"/admin/pages/usage?user={person.name}&status=error"))
    assert admin.get("/admin/pages/usage?user=nobody-at-all").status_code == 404
    assert admin.get("/admin/pages/usage?since=soon").status_code == 400
    told = said(admin.shown("/admin"))
    assert person.name in told
    assert "main" in told
    with house.served.tx() as tx:
        limits.hang(tx, person.name, ["1 requests/month"])
    assert "limits.set" in said(admin.shown("/admin/pages/audit"))
    assert person.name in said(admin.shown("/admin/pages/audit?since=1h"))
    assert "zeta" in said(admin.shown("/admin/pages/models?search=ZET"))
    assert "There are no plans" in said(admin.shown("/admin/pages/plans"))
    assert admin.get("/admin/pages/events?since=1").status_code == 400
