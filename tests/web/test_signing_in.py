"""Signing in with a key or a link, staying so, and signing out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmgate.gateway.admins import MOST_WRONG
from llmgate.store import accounts, admins, keys, links, sessions
from llmgate.store.admins import Scope
from tests.replay import wait_until
from tests.served import Person, Served

from .conftest import TOKEN, Browser, House, form_to, words_of

COOKIE = "llmgate_session"


@pytest.fixture
def browser(house: House) -> Iterator[Browser]:
    """One of nobody."""
    made = house.browser()
    yield made
    made.close()


def signed_out(browser: Browser, path: str = "/portal") -> bool:
    answer = browser.get(path)
    assert answer.status_code in (200, 303)
    return answer.status_code == 303 and answer.headers["location"].startswith("/sign-in?")


# ── with a key ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_user_signs_in_with_a_key(house: House, browser: Browser) -> None:
    page = browser.done("/sign-in", "/sign-in", key=f"  {house.alice.key} ")
    assert page.request.url.path == "/portal"
    assert house.alice.name in words_of(page)
    assert house.alice.key not in page.text


def test_an_admin_signs_in_with_an_admin_key(house: House, browser: Browser) -> None:
    answer = browser.send("/sign-in", "/sign-in", key=house.keys[Scope.READ])
    assert (answer.status_code, answer.headers["location"]) == (303, "/admin")
    assert "admin read" in words_of(browser.shown("/"))


def test_the_token_of_the_environment_signs_in(browser: Browser) -> None:
    browser.sign_in(TOKEN)
    assert "admin env" in words_of(browser.shown("/"))


def test_one_goes_on_to_where_one_wanted_to(house: House, browser: Browser) -> None:
    answer = browser.get("/portal?x=1&y=a%20b")
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in?next=/portal%3Fx%3D1%26y%3Da%2520b")
    page = browser.shown(answer.headers["location"])
    there = browser.send(page, "/sign-in", key=house.alice.key)
    assert there.headers["location"] == "/portal?x=1&y=a%20b"


@pytest.mark.parametrize(
    "elsewhere",
    [
        "https://evil.example",
        "//evil.example",
        "/\\evil.example",
        "javascript:alert(1)",
        "portal",
        "/\t/evil.example",
        "",
    ],
)
def test_never_to_somebody_else(house: House, browser: Browser, elsewhere: str) -> None:
    page = browser.client.get("/sign-in", params={"next": elsewhere})
    assert "next" not in form_to(page, "/sign-in").fields
    answer = browser.send(page, "/sign-in", key=house.alice.key, next=elsewhere)
    if answer.status_code == 303:
        assert answer.headers["location"] == "/portal"
        answer = browser.client.get("/sign-in", params={"next": elsewhere})
        assert answer.headers["location"] == "/portal"
    else:
        assert answer.status_code == 400


@pytest.mark.parametrize(
    ("key", "status", "words"),
    [
        ("", 400, "key is missing"),
        ("sk-lg-nonsense", 401, "this is no key of this gateway"),
        ("sk-lg-<script>alert(1)</script>", 401, "this is no key of this gateway"),
        ("a key", 401, "this key is unknown here"),
        ("an admin key", 401, "this admin key is unknown here"),
        ("k" * 300, 400, "too long"),
        ("sk\x00lg", 400, "a character in it that can't be seen"),
    ],
)
def test_a_wrong_key(house: House, key: str, status: int, words: str) -> None:
    key = {"a key": keys.new_key(), "an admin key": keys.new_key(admins.PREFIX)}.get(key, key)
    browser = house.browser()
    browser.client.headers["x-forwarded-for"] = "192.0.2.1"
    answer = browser.send("/sign-in", "/sign-in", key=key)
    browser.close()
    assert answer.status_code == status
    assert words in words_of(answer).lower()
    assert form_to(answer, "/sign-in").fields["key"] == ""
    assert "<script>alert" not in answer.text
    assert COOKIE not in answer.cookies


@pytest.mark.parametrize(("verb", "words"), [("revoke", "was revoked"), ("disable", "is disabled")])
def test_a_key_that_is_over(house: House, browser: Browser, verb: str, words: str) -> None:
    person = house.served.person()
    with house.served.tx() as tx:
        keys.set_state(tx, person.key_id, verb)
    browser.client.headers["x-forwarded-for"] = "192.0.2.250"
    answer = browser.send("/sign-in", "/sign-in", key=person.key)
    assert answer.status_code == 401
    assert words in words_of(answer).lower()


def test_guessing_has_an_end(house: House, browser: Browser) -> None:
    """Of one address; from another one may go on."""
    browser.client.headers["x-forwarded-for"] = "198.51.100.1"
    statuses = [browser.send("/sign-in", "/sign-in", key=keys.new_key()).status_code for _ in range(MOST_WRONG)]
    assert statuses == [401] * MOST_WRONG
    answer = browser.send("/sign-in", "/sign-in", key=house.alice.key)
    assert answer.status_code == 429
    assert 0 < int(answer.headers["retry-after"]) <= 60
    assert "wait a minute" in words_of(answer)
    browser.client.headers["x-forwarded-for"] = "198.51.100.2"
    browser.sign_in(house.alice.key)


def test_a_key_that_is_for_some_addresses(house: House, browser: Browser) -> None:
    """So is who signed in with it."""
    person = house.served.person(ips=["203.0.113.0/24"])
    browser.client.headers["x-forwarded-for"] = "203.0.114.1"
    answer = browser.send("/sign-in", "/sign-in", key=person.key)
    assert answer.status_code == 403
    assert "your address" in words_of(answer)
    browser.client.headers["x-forwarded-for"] = "203.0.113.7"
    browser.sign_in(person.key)
    assert not signed_out(browser)
    browser.client.headers["x-forwarded-for"] = "203.0.114.1"
    assert signed_out(browser)


# ── the cookie ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_the_cookie_is(house: House, browser: Browser) -> None:
    answer = browser.send("/sign-in", "/sign-in", key=house.alice.key)
    told = next(line for line in answer.headers.get_list("set-cookie") if line.startswith(COOKIE))
    assert told.endswith("; Path=/; Max-Age=43200; HttpOnly; SameSite=Lax")
    browser = house.browser()
    browser.client.headers["x-forwarded-proto"] = "https"
    page = browser.get("/sign-in")
    assert page.headers["set-cookie"].endswith("; Secure")
    browser.client.cookies.set("llmgate_form", page.headers["set-cookie"].split(";")[0].split("=", 1)[1])
    answer = browser.post("/sign-in", {"csrf": form_to(page, "/sign-in").fields["csrf"], "key": house.alice.key})
    browser.close()
    assert next(line for line in answer.headers.get_list("set-cookie") if line.startswith(COOKIE)).endswith("; Secure")


def test_the_database_doesn_t_know_it(house: House, browser: Browser) -> None:
    cookie = browser.sign_in(house.alice.key).client.cookies[COOKIE]
    session_id = cookie.rpartition(".")[0]
    with house.served.view() as tx:
        assert sessions.find(tx, sessions.hash_id(session_id), None) is not None
        assert tx.value("SELECT count(*) FROM sessions WHERE hash = ?", session_id.encode()) == 0


@pytest.mark.parametrize(
    "forged", ["", "x", "x.y", "{id}", "{id}.{other}", "{id}x.{sig}", "{sig}.{id}", "é.ü", "a" * 5000]
)
def test_a_forged_cookie_is_nobody_s(house: House, forged: str) -> None:
    mine = house.of(house.alice).client.cookies[COOKIE].rpartition(".")
    other = house.of(house.bob).client.cookies[COOKIE].rpartition(".")
    value = forged.format(id=mine[0], sig=mine[2], other=other[2])
    headers = [(b"cookie", f"{COOKIE}={value}".encode()), (b"accept", b"text/html")]
    answer = httpx.get(f"{house.served.url}/portal", headers=headers, trust_env=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in?next=/portal")


def test_a_signature_alone_is_no_session(house: House, browser: Browser) -> None:
    """Of a session that was deleted the cookie is still signed."""
    browser.sign_in(house.alice.key)
    with house.served.tx() as tx:
        tx.execute("DELETE FROM sessions WHERE hash = ?", (hash_of(browser),))
    assert signed_out(browser)


def hash_of(browser: Browser) -> bytes:
    return sessions.hash_id(browser.client.cookies[COOKIE].rpartition(".")[0])


def test_signing_in_again_is_another_session(house: House, browser: Browser) -> None:
    """Nobody is signed in by an id that somebody else knew before, and the old one is over."""
    browser.sign_in(house.alice.key)
    first = browser.client.cookies[COOKIE]
    page = browser.shown("/")
    token = form_to(page, "/sign-out").fields["csrf"]
    assert browser.post("/sign-in", {"csrf": token, "key": house.bob.key}).status_code == 303
    assert browser.client.cookies[COOKIE] != first
    old = house.browser()
    old.client.cookies.set(COOKIE, first)
    assert signed_out(old)
    old.close()


def test_it_is_over_in_time(house: House, browser: Browser) -> None:
    browser.sign_in(house.alice.key)
    with house.served.tx() as tx:
        tx.execute("UPDATE sessions SET expires_ms = ? WHERE hash = ?", (tx.now_ms, hash_of(browser)))
    assert signed_out(browser)
    browser.sign_in(house.alice.key)
    assert house.served.value("SELECT count(*) FROM sessions WHERE expires_ms <= created_ms + 1000") == 0


def test_its_use_is_noted(house: House, browser: Browser) -> None:
    browser.sign_in(house.alice.key)
    with house.served.tx() as tx:
        tx.execute("UPDATE sessions SET seen_ms = 1 WHERE hash = ?", (hash_of(browser),))
    browser.shown("/portal")
    mine = hash_of(browser)
    wait_until(lambda: house.served.value("SELECT seen_ms FROM sessions WHERE hash = ?", mine) > 1)


def test_nobody_has_more_than_a_few(house: House) -> None:
    person = house.served.person()
    first = house.browser().sign_in(person.key)
    with house.served.tx() as tx:
        user_id = accounts.user_row(tx, person.name)["id"]
        tx.execute("UPDATE sessions SET created_ms = 1 WHERE user_id = ?", (user_id,))
        for _ in range(sessions.MOST):
            sessions.begin(tx, "link", "", 60_000, user_id=user_id)
        assert tx.value("SELECT count(*) FROM sessions WHERE user_id = ?", user_id) == sessions.MOST
    assert signed_out(first)
    first.close()


# ── what ends it ──────────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def signed_in_browser(house: House) -> Iterator[Browser]:
    browser = Browser(house.served)
    try:
        yield browser.sign_in(house.served.person().key)
    finally:
        browser.close()


def signed_in(house: House, browser: Browser) -> Person:
    person = house.served.person()
    browser.sign_in(person.key)
    assert not signed_out(browser)
    return person


@pytest.mark.parametrize("verb", ["revoke", "disable"])
def test_a_key_that_is_taken_away_ends_it(house: House, browser: Browser, verb: str) -> None:
    person = signed_in(house, browser)
    with house.served.tx() as tx:
        keys.set_state(tx, person.key_id, verb)
    assert signed_out(browser)
    if verb == "disable":
        with house.served.tx() as tx:
            keys.set_state(tx, person.key_id, "enable")
        assert signed_out(browser)


def test_it_is_said_that_a_session_has_ended(house: House, browser: Browser) -> None:
    person = signed_in(house, browser)
    with house.served.tx() as tx:
        keys.set_state(tx, person.key_id, "revoke")
    said = "Your session has ended: sign in again."
    assert said in words_of(browser.shown(browser.get("/portal").headers["location"]))
    nobody = house.browser()
    assert said not in words_of(nobody.shown(nobody.get("/portal").headers["location"]))
    nobody.close()


def test_a_key_that_expires_ends_it(house: House, browser: Browser) -> None:
    person = signed_in(house, browser)
    with house.served.tx() as tx:
        keys.change(tx, person.key_id, {"expires_ms": tx.now_ms})
    assert signed_out(browser)


def test_a_key_that_is_rotated_doesn_t(house: House, browser: Browser) -> None:
    person = signed_in(house, browser)
    with house.served.tx() as tx:
        house.served.secrets.append(keys.rotate(tx, person.key_id).key)
    assert not signed_out(browser)


def test_a_user_who_is_disabled_is_out_for_good(house: House, browser: Browser) -> None:
    person = signed_in(house, browser)
    for status in ("disabled", "active"):
        with house.served.tx() as tx:
            accounts.set_user(tx, person.name, {"status": status})
        assert signed_out(browser)


def test_an_admin_key_that_is_revoked_ends_it(house: House, browser: Browser) -> None:
    with house.served.tx() as tx:
        key = admins.add(tx, "leaving", Scope.ALL)
    house.served.secrets.append(key)
    browser.sign_in(key)
    assert "admin leaving" in words_of(browser.shown("/"))
    with house.served.tx() as tx:
        admins.revoke(tx, "leaving")
    assert "admin leaving" not in words_of(browser.shown("/"))
    with house.served.tx() as tx:  # another key under the old name isn't the old key
        house.served.secrets.append(admins.add(tx, "leaving", Scope.ALL))
    assert "admin leaving" not in words_of(browser.shown("/"))


def test_another_token_in_the_environment_ends_it(tmp_path: Path) -> None:
    config: dict[str, Any] = {"upstreams": {"sandbox": {}}}
    with Served(tmp_path, config, env={"ADMIN_TOKEN": TOKEN}) as served:
        served.secrets.append(TOKEN)
        browser = Browser(served).sign_in(TOKEN)
        cookie = browser.client.cookies[COOKIE]
        browser.close()
    for token, there in ((TOKEN, True), (f"{TOKEN}-other", False)):
        with Served(tmp_path, config, env={"ADMIN_TOKEN": token}) as served:
            browser = Browser(served)
            browser.client.cookies.set(COOKIE, cookie)
            assert ("admin env" in words_of(browser.shown("/"))) == there
            browser.close()


def test_signing_out(house: House, browser: Browser) -> None:
    browser.sign_in(house.alice.key)
    cookie = browser.client.cookies[COOKIE]
    page = browser.done("/portal", "/sign-out")
    assert "You are signed out." in words_of(page)
    assert "You are signed out." not in words_of(browser.shown("/sign-in"))
    assert COOKIE not in browser.client.cookies
    browser.client.cookies.set(COOKIE, cookie)
    assert signed_out(browser)


def test_where_one_is_signed_in(house: House, browser: Browser) -> None:
    person = signed_in(house, browser)
    other = house.browser()
    other.client.headers["x-forwarded-for"] = "203.0.113.9"
    other.sign_in(person.key)
    told = words_of(browser.shown("/sign-out"))
    assert told.count("with a key") == 2
    assert "203.0.113.9 with a key" in told
    assert "127.0.0.1 this one" in told
    assert browser.done("/sign-out", "/sign-out/everywhere").url.path == "/sign-in"
    assert signed_out(other)
    other.close()


def test_signing_out_everywhere(house: House, browser: Browser) -> None:
    person = signed_in(house, browser)
    other = house.browser().sign_in(person.key)
    token = other.token()
    assert other.post("/sign-out/everywhere", {"csrf": token}).status_code == 303
    assert signed_out(browser)
    assert signed_out(other)
    other.close()


def test_an_admin_is_signed_out_everywhere_alone(house: House, browser: Browser) -> None:
    with house.served.tx() as tx:
        key = admins.add(tx, "twice", Scope.READ)
    house.served.secrets.append(key)
    other = house.browser().sign_in(key)
    browser.sign_in(key)
    assert browser.post("/sign-out/everywhere", {"csrf": browser.token()}).status_code == 303
    assert "admin twice" not in words_of(other.shown("/"))
    assert "admin all" in words_of(house.admin().shown("/"))
    other.close()


# ── links ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def link_for(house: House, name: str) -> str:
    with house.served.tx() as tx:
        secret, _ = links.add(tx, name)
    house.served.secrets.append(secret)
    return f"/sign-in/link?token={secret}"


def test_a_link_signs_in_once(house: House, browser: Browser) -> None:
    person = house.served.person()
    link = link_for(house, person.name)
    for _ in range(3):  # a program that looks at it doesn't use it up
        page = browser.shown(link)
        assert browser.client.head(link).status_code == 200
    assert f"Sign in as {person.name}" in words_of(page)
    assert words_of(browser.done(page, "/sign-in/link")).count(person.name) >= 1
    assert house.served.value("SELECT way FROM sessions WHERE hash = ?", hash_of(browser)) == "link"
    again = house.browser()
    answer = again.get(link)
    assert answer.status_code == 410
    assert "was used already" in words_of(answer)
    token = again.token()
    answer = again.post("/sign-in/link", {"csrf": token, "token": link.partition("=")[2]})
    assert answer.status_code == 410
    assert COOKIE not in again.client.cookies
    again.close()


def test_of_two_who_use_a_link_at_once_one_gets_in(house: House) -> None:
    person = house.served.person()
    link = link_for(house, person.name)
    browsers = [house.browser() for _ in range(8)]
    pages = [browser.shown(link) for browser in browsers]

    def use(number: int) -> int:
        return browsers[number].send(pages[number], "/sign-in/link").status_code

    with ThreadPoolExecutor(len(browsers)) as pool:
        statuses = sorted(pool.map(use, range(len(browsers))))
    assert statuses == [303] + [410] * (len(browsers) - 1)
    for browser in browsers:
        browser.close()


def test_a_link_is_over_after_a_while(house: House, browser: Browser) -> None:
    person = house.served.person()
    link = link_for(house, person.name)
    page = browser.shown(link)
    with house.served.tx() as tx:
        tx.execute("UPDATE links SET expires_ms = ? WHERE used_ms IS NULL", (tx.now_ms,))
    assert browser.get(link).status_code == 410
    answer = browser.send(page, "/sign-in/link")
    assert answer.status_code == 410
    assert "too old" in words_of(answer)


def test_old_links_go(house: House) -> None:
    person = house.served.person()
    link_for(house, person.name)
    with house.served.tx() as tx:
        tx.execute("UPDATE links SET expires_ms = ?", (tx.now_ms - links.LASTS_MS,))
    link_for(house, person.name)
    assert house.served.value("SELECT count(*) FROM links") == 1


@pytest.mark.parametrize("token", ["", "x", "<b>x</b>", "%00", "x" * 5000])
def test_a_link_that_nobody_made(house: House, browser: Browser, token: str) -> None:
    browser.client.headers["x-forwarded-for"] = "198.51.100.9"
    answer = browser.get(f"/sign-in/link?token={token}")
    assert answer.status_code in (400, 404)
    assert "<b>x</b>" not in answer.text


def test_a_link_of_a_user_who_may_not_any_more(house: House, browser: Browser) -> None:
    person = house.served.person()
    link = link_for(house, person.name)
    page = browser.shown(link)
    with house.served.tx() as tx:
        accounts.set_user(tx, person.name, {"status": "disabled"})
    assert browser.send(page, "/sign-in/link").status_code == 403
    assert browser.get(link).status_code == 403
    with house.served.tx() as tx:
        accounts.set_user(tx, person.name, {"status": "active"})
    assert browser.get(link).status_code == 404, "what was disabled comes back without what was made before"


def test_a_planted_cookie_of_forms_opens_nothing(house: House, browser: Browser) -> None:
    """Another program of this host, at another port, may set our cookies, and who made them knows the token."""
    token = browser.token()
    with signed_in_browser(house) as victim:
        victim.client.cookies.set("llmgate_form", browser.client.cookies["llmgate_form"])
        for path in ("/sign-out", "/sign-out/everywhere", "/portal/keys"):
            answer = victim.post(path, {"csrf": token})
            assert (answer.status_code, "form_refused" in answer.text) == (403, True)
        assert not signed_out(victim)


def test_signing_somebody_out_ends_their_links(house: House, browser: Browser) -> None:
    person = house.served.person()
    link = link_for(house, person.name)
    with house.served.tx() as tx:
        sessions.end_all(tx, accounts.user_row(tx, person.name)["id"])
    assert browser.get(link).status_code == 404


def test_guessing_links_has_an_end(house: House, browser: Browser) -> None:
    browser.client.headers["x-forwarded-for"] = "198.51.100.3"
    token = browser.token()
    statuses = [
        browser.post("/sign-in/link", {"csrf": token, "token": str(number)}).status_code
        for number in range(MOST_WRONG + 1)
    ]
    assert statuses == [404] * MOST_WRONG + [429]


def test_the_log_says_who_signed_in_and_no_secret(house: House, browser: Browser) -> None:
    person = house.served.person()
    browser.sign_in(person.key)
    line = house.served.logged(f"user:{person.name} signed in with a key")
    assert re.search(r"from 127\.0\.0\.1$", line)
    assert browser.client.cookies[COOKIE] not in house.served.log()
