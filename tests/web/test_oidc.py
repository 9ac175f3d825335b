"""Signing in by a real OpenID provider, by one that lies, and by GitHub: there and back with a browser."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from llmgate.config import SelfService
from llmgate.errors import Refusal
from llmgate.store import accounts, identities, requests
from llmgate.types import Billing
from tests.books import POLICY
from tests.replay import Replay, json_answer
from tests.served import Served, main_upstream
from tests.web.conftest import Browser, words_of
from tests.web.issuers import CLIENT, CLIENT_SECRET, GitHub, Liar, Provider, nowhere, provider, query_of

_numbers = count(1)


class Hall:
    """A gateway, and all whom it lets vouch for people."""

    def __init__(self, served: Served, mock: Provider, liar: Liar, github: GitHub) -> None:
        self.served = served
        self.mock = mock
        self.liar = liar
        self.github = github

    def person(self, domain: str = "corp.example", **claims: Any) -> str:
        """Somebody with an account at the provider, who is nobody here: the name, and the subject there."""
        name = f"person{next(_numbers)}"
        self.mock.knows(name, **{"email": f"{name}@{domain}", "email_verified": True} | claims)
        return name

    def user(self, name: str, email: str | None = None, **fields: Any) -> None:
        with self.served.tx() as tx:
            accounts.add_user(tx, name, email=email, **fields)

    def row(self, name: str) -> Any:
        with self.served.view() as tx:
            return accounts.find_user(tx, name)

    def linked(self, name: str) -> int:
        with self.served.view() as tx:
            return len(identities.of_user(tx, name))

    def sessions(self) -> int:
        number: int = self.served.value("SELECT count(*) FROM sessions")
        return number


def table(issuer: str, **more: Any) -> dict[str, Any]:
    return {"issuer": issuer, "client_id": CLIENT, "client_secret": CLIENT_SECRET, **more}


@pytest.fixture(scope="module")
def hall(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hall]:
    folder: Path = tmp_path_factory.mktemp("hall")
    with provider(folder) as mock, Replay() as up, Replay() as lying, Replay() as hub, nowhere() as gone:
        liar, github = Liar(lying), GitHub(hub)
        ways = {
            "made": table(mock.url, label="Example SSO", new_users="create", plan="starter"),
            "corp": table(mock.url, new_users="create", allowed_domains=["corp.example"]),
            "strict": table(mock.url),
            "asked": table(mock.url, new_users="approval"),
            "named": table(mock.url, claim="preferred_username"),
            "lost": table(mock.url, new_users="create", team="nobody"),
            "liar": table(liar.issuer, label="Liar & <b>Co</b>", new_users="create"),
            "hub": table(github.up.url, preset="github", new_users="create", allowed_domains=["corp.example"]),
            "gone": table(gone),
        }
        plans = {"starter": {"limits": ["$5/month"], "billing": "prepaid"}}
        server = {"trusted_proxies": ["127.0.0.1"]}
        config = {"server": server, "upstreams": {"main": main_upstream(up)}, "oidc": ways, "plans": plans}
        with Served(folder, config) as served:
            served.secrets.append(CLIENT_SECRET)
            yield Hall(served, mock, liar, github)


@pytest.fixture
def browser(hall: Hall) -> Iterator[Browser]:
    browser = new_browser(hall)
    yield browser
    browser.close()


def new_browser(hall: Hall) -> Browser:
    """One with an address of its own, as tries in vain are counted by address."""
    browser = Browser(hall.served)
    browser.client.headers["x-forwarded-for"] = f"10.0.0.{next(_numbers)}"
    return browser


def sent_out(browser: Browser, way: str, onward: str | None = None) -> str:
    """Where a browser is sent that wants to sign in."""
    answer = browser.get(f"/sign-in/{way}" + (f"?next={onward}" if onward else ""))
    assert answer.status_code == 303, words_of(answer)
    return answer.headers["location"]


def back(browser: Browser, url: str) -> httpx.Response:
    """A browser comes back from another site."""
    return browser.get(url, sec_fetch_site="cross-site", sec_fetch_mode="navigate")


def signs_in(hall: Hall, browser: Browser, way: str, subject: str, onward: str | None = None) -> httpx.Response:
    return back(browser, hall.mock.agrees(sent_out(browser, way, onward), subject))


def refused(answer: httpx.Response, status: int, words: str) -> None:
    """The page where one signs in, which says why not; and nobody is signed in."""
    assert answer.status_code == status, words_of(answer)
    assert words.lower() in words_of(answer).lower()
    assert "Sign in with Example SSO" in words_of(answer)
    assert "llmgate_session" not in answer.headers.get("set-cookie", "")


# ── all is well ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_user_signs_in(hall: Hall, browser: Browser) -> None:
    name = hall.person()
    hall.user("ann", f"{name.upper()}@Corp.Example")
    page = browser.shown("/sign-in")
    assert 'href="/sign-in/made"' in page.text
    assert "Liar &amp; &lt;b&gt;Co&lt;/b&gt;" in page.text
    out = sent_out(browser, "strict")
    assert out.startswith(f"{hall.mock.url}/oauth2/authorize?")
    asked = query_of(out)
    assert asked["redirect_uri"] == f"{hall.served.url}/sign-in/strict/callback"
    assert asked["code_challenge_method"] == "S256"
    answer = back(browser, hall.mock.agrees(out, name))
    assert (answer.status_code, answer.headers["location"]) == (303, "/portal")
    cookie = next(one for one in answer.headers.get_list("set-cookie") if one.startswith("llmgate_session="))
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert "ann" in words_of(browser.shown("/portal"))
    assert hall.linked("ann") == 1
    with hall.served.view() as tx:
        user_id = accounts.user_row(tx, "ann")["id"]
        (session,) = tx.execute("SELECT way, key_id FROM sessions WHERE user_id = ?", (user_id,))
    assert (session["way"], session["key_id"]) == ("oidc", None)
    hall.served.logged("user:ann signed in by strict, from 10.0.0.")


def test_who_is_known_stays_known_by_another_address(hall: Hall, browser: Browser) -> None:
    name = hall.person()
    hall.user("bert", f"{name}@corp.example")
    assert signs_in(hall, browser, "strict", name).status_code == 303
    hall.mock.knows(name, email="someone@else.example", email_verified=False)
    assert signs_in(hall, browser, "strict", name).headers["location"] == "/portal"
    assert hall.linked("bert") == 1


def test_one_goes_on_to_the_page_that_was_wanted(hall: Hall, browser: Browser) -> None:
    name = hall.person()
    assert signs_in(hall, browser, "made", name, "/portal/keys%3Fa=b").headers["location"] == "/portal/keys?a=b"
    page = browser.client.get("/sign-in", params={"next": "/portal?a=b"})
    assert page.status_code == 303  # who is signed in goes on


@pytest.mark.parametrize(
    "onward",
    ["https://evil.example/", "//evil.example", "/%5Cevil.example", "%2F%09/evil.example", "portal", "/" + "x" * 600],
)
def test_one_never_goes_on_elsewhere(hall: Hall, browser: Browser, onward: str) -> None:
    assert signs_in(hall, browser, "made", hall.person(), onward).headers["location"] == "/portal"


def test_behind_a_proxy(hall: Hall, browser: Browser) -> None:
    """What was registered is what the browser sees."""
    browser.client.headers.update({"x-forwarded-proto": "https", "host": "llm.example.org"})
    out = sent_out(browser, "made")
    assert query_of(out)["redirect_uri"] == "https://llm.example.org/sign-in/made/callback"
    answer = browser.get("/sign-in/made/callback")
    assert answer.status_code == 400
    assert all("Secure" in cookie for cookie in browser.get("/sign-in/made").headers.get_list("set-cookie"))


def test_nothing_of_it_is_imported_before_somebody_signs_in() -> None:
    heavy = {"authlib", "httpx2", "joserfc"}
    looks = f"import sys, llmgate.server, llmgate.web.pages; print(*{heavy} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", looks], capture_output=True, check=True, text=True).stdout == "\n"


def test_a_new_user_is_made(hall: Hall, browser: Browser) -> None:
    name = hall.person()
    assert signs_in(hall, browser, "made", name).headers["location"] == "/portal"
    row = hall.row(name)
    assert (row["email"], row["plan"], row["own_billing"]) == (f"{name}@corp.example", "starter", "prepaid")
    assert hall.served.value("SELECT actor FROM audit WHERE action = 'users.add' AND target = ?", name) == "oidc:made"
    # The same person by another table with the same issuer is the same user.
    assert signs_in(hall, browser, "strict", name).headers["location"] == "/portal"
    assert hall.linked(name) == 1


def test_a_session_of_before_ends(hall: Hall, browser: Browser) -> None:
    first, second = hall.person(), hall.person()
    signs_in(hall, browser, "made", first)
    before, old = hall.sessions(), browser.client.cookies["llmgate_session"]
    signs_in(hall, browser, "made", second)
    assert hall.sessions() == before
    assert second in words_of(browser.shown("/portal"))
    browser.client.cookies.set("llmgate_session", old)
    assert browser.get("/portal").status_code == 303


def test_two_tabs(hall: Hall, browser: Browser) -> None:
    name = hall.person()
    first, second = sent_out(browser, "made"), sent_out(browser, "made")
    assert query_of(first)["nonce"] != query_of(second)["nonce"]
    assert back(browser, hall.mock.agrees(first, name)).status_code == 303


def test_approval(hall: Hall, browser: Browser) -> None:
    name = hall.person()
    answer = signs_in(hall, browser, "asked", name)
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in")
    assert f"Your request to be the user {name} waits for an admin" in words_of(browser.shown("/sign-in"))
    assert signs_in(hall, browser, "asked", name).headers["location"] == "/sign-in"
    with hall.served.view() as tx:
        (row,) = tx.execute("SELECT * FROM requests WHERE subject = ?", (name,)).fetchall()
    assert (row["username"], row["email"], row["status"]) == (name, f"{name}@corp.example", "waiting")
    assert (row["issuer"], row["hash"]) == (hall.mock.url, None)
    assert hall.row(name) is None
    with hall.served.tx() as tx:
        requests.deny(tx, row["id"])
    refused(signs_in(hall, browser, "asked", name), 403, "your request to be a user here was denied")
    with hall.served.tx() as tx:
        requests.approve(tx, SelfService(), row["id"], POLICY, Billing.METERED)
    assert signs_in(hall, browser, "asked", name).headers["location"] == "/portal"
    assert (hall.row(name)["email"], hall.linked(name)) == (f"{name}@corp.example", 1)


def test_approval_of_who_is_a_user_by_now(hall: Hall, browser: Browser) -> None:
    name = hall.person()
    signs_in(hall, browser, "asked", name)
    hall.user("erna", f"{name}@corp.example")
    assert signs_in(hall, browser, "asked", name).headers["location"] == "/portal"
    number = hall.served.value("SELECT id FROM requests WHERE subject = ?", name)
    with hall.served.tx() as tx, pytest.raises(Refusal, match=f"who asked is user erna by now: deny request {number}"):
        requests.approve(tx, SelfService(), number, POLICY, Billing.METERED)
    assert hall.row(name) is None


# ── who is let in ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_nobody_is_made_where_the_admin_does_it(hall: Hall, browser: Browser) -> None:
    name = hall.person()
    refused(signs_in(hall, browser, "strict", name), 403, f"{name}@corp.example is no user here: ask your admin")
    hall.served.logged("not signed in by strict, from 10.0.0.")
    assert hall.row(name) is None


def test_an_unverified_address_is_none(hall: Hall, browser: Browser) -> None:
    name = hall.person(email_verified=False)
    hall.user("carl", f"{name}@corp.example")
    refused(signs_in(hall, browser, "made", name), 403, "no verified address")
    refused(signs_in(hall, browser, "corp", name), 403, "hasn't verified an address of yours")
    assert hall.linked("carl") == 0
    assert hall.row(name) is None


def test_domains(hall: Hall, browser: Browser) -> None:
    name = hall.person("evil.example")
    refused(signs_in(hall, browser, "corp", name), 403, "accounts of evil.example aren't for this gateway")
    assert hall.row(name) is None
    name = hall.person()
    assert signs_in(hall, browser, "corp", name).status_code == 303


def test_a_disabled_user_stays_out(hall: Hall, browser: Browser) -> None:
    name = hall.person()
    assert signs_in(hall, browser, "made", name).status_code == 303
    with hall.served.tx() as tx:
        accounts.set_user(tx, name, {"status": "disabled"})
    assert browser.get("/portal").status_code == 303
    refused(signs_in(hall, browser, "made", name), 403, f"user {name} is disabled")


def test_a_claim_names_the_user(hall: Hall, browser: Browser) -> None:
    hall.user("dora")
    name = hall.person(preferred_username="dora", email_verified=False)
    assert signs_in(hall, browser, "named", name).headers["location"] == "/portal"
    name = hall.person(preferred_username="Dora")
    refused(signs_in(hall, browser, "named", name), 403, "Dora is no user here")


def test_a_name_that_is_taken_is_left_alone(hall: Hall, browser: Browser) -> None:
    name = hall.person()
    hall.user(name)
    refused(signs_in(hall, browser, "made", name), 403, f"there is a user {name} without an address")
    assert hall.linked(name) == 0


def test_a_team_that_is_not_there(hall: Hall, browser: Browser) -> None:
    name = hall.person()
    refused(signs_in(hall, browser, "lost", name), 500, "new users can't be made at the moment")
    hall.served.logged("[oidc.lost] team: there is no team 'nobody'")
    assert hall.row(name) is None


# ── what comes back ───────────────────────────────────────────────────────────────────────────────────────────────────

BEGUN_ELSEWHERE = "was begun in another browser, or too long ago"


def test_an_answer_counts_in_its_own_browser_alone(hall: Hall, browser: Browser) -> None:
    """Else somebody could be signed in, unseen, as the one who made the link."""
    url = hall.mock.agrees(sent_out(browser, "made"), hall.person())
    other = new_browser(hall)
    refused(back(other, url), 400, BEGUN_ELSEWHERE)
    other.shown("/sign-in")  # it has a cookie of its own now
    refused(back(other, url), 400, BEGUN_ELSEWHERE)
    other.close()
    assert back(browser, url).status_code == 303


def test_an_answer_counts_once(hall: Hall, browser: Browser) -> None:
    url = hall.mock.agrees(sent_out(browser, "made"), hall.person())
    kept = dict(browser.client.cookies)
    assert back(browser, url).status_code == 303
    refused(back(browser, url), 400, BEGUN_ELSEWHERE)
    # Nor for who has kept the cookie: the provider takes a code once.
    browser.client.cookies.update(kept)
    refused(
        back(browser, url),
        400,
        "this sign-in by Example SSO is over",
    )


def test_a_state_that_is_not_ours(hall: Hall, browser: Browser) -> None:
    url = hall.mock.agrees(sent_out(browser, "made"), hall.person())
    state = query_of(url)["state"]
    for wrong in ("", "x", state[:-1], f"{state}x", "a.b.c", "%FF"):
        refused(back(browser, url.replace(state, wrong)), 400, BEGUN_ELSEWHERE)
    elsewhere = url.replace("/sign-in/made/", "/sign-in/strict/")
    refused(back(browser, elsewhere), 400, BEGUN_ELSEWHERE)
    assert back(browser, url).status_code == 303


def test_an_error_is_told(hall: Hall, browser: Browser) -> None:
    refused(back(browser, denied(hall, browser)), 403, "Example SSO was told not to sign you in here")
    out = sent_out(browser, "made")
    state = query_of(out)["state"]
    here = "/sign-in/made/callback?state=" + state
    refused(back(browser, f"{here}&error=server_error&error_description=%3Cb%3Ecall+555"), 502, "(server_error)")
    answer = back(browser, f"{here}&error=%3Cscript%3E")
    refused(answer, 502, "(a word of its own)")
    assert "<script>" not in re.sub(r'<script src="[^"]*" defer></script>', "", answer.text)
    refused(back(browser, here), 400, "without a word")
    refused(back(browser, f"{here}&code=x&iss=https://evil.example"), 400, "somebody else than Example SSO")
    assert back(browser, f"{here}&code=x&code=y").status_code == 400
    # Who isn't on the way is told nothing of what stands in the address.
    refused(back(browser, "/sign-in/made/callback?error=access_denied"), 400, BEGUN_ELSEWHERE)


def denied(hall: Hall, browser: Browser) -> str:
    """The provider's own answer to "no" lacks the state, which the standard wants."""
    out = sent_out(browser, "made")
    url = hall.mock.refuses(out)
    return url if "state=" in url else f"{url}&state={query_of(out)['state']}"


def test_a_way_that_is_not_there(hall: Hall, browser: Browser) -> None:
    for path in ("/sign-in/nothing", "/sign-in/nothing/callback", "/sign-in/made/callback/x"):
        assert browser.get(path).status_code == 404
    assert browser.post("/sign-in/made").status_code == 405


def test_who_tries_too_often_waits(hall: Hall) -> None:
    browser = new_browser(hall)
    for _ in range(20):
        answer = back(browser, "/sign-in/made/callback?code=x&state=y")
        if answer.status_code == 429:
            break
    assert answer.status_code == 429
    assert "wait a minute" in words_of(answer)
    assert browser.get("/sign-in/made").status_code == 429
    browser.close()


# ── issuers that lie or fail ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_liar_signs_nobody_in(hall: Hall, browser: Browser) -> None:
    before = hall.sessions()
    for change in ({"nonce": "another"}, {"aud": "another"}, {"exp": 1_600_000_000}, {"iss": "https://evil.example"}):
        out = query_of(sent_out(browser, "liar"))
        hall.liar.nonce = out["nonce"]
        hall.liar.claims = {"email": "eve@corp.example", "email_verified": True} | change
        answer = back(browser, f"/sign-in/liar/callback?code=x&state={out['state']}")
        refused(answer, 502, "can't be believed")
        assert "<b>" not in answer.text
    assert hall.sessions() == before
    assert hall.row("eve") is None
    hall.liar.claims = {"email": "eve@corp.example", "email_verified": True}
    answer = back(browser, f"/sign-in/liar/callback?code=x&state={out['state']}")
    assert answer.headers["location"] == "/portal"


def test_nobody_there(hall: Hall, browser: Browser) -> None:
    refused(browser.get("/sign-in/gone"), 503, "gone can't be asked from here: try again in a while")
    hall.served.logged("gone: http://127.0.0.1")


def test_the_issuer_is_gone_when_one_comes_back(hall: Hall, browser: Browser) -> None:
    out = query_of(sent_out(browser, "liar"))
    hall.liar.answers["/token"] = json_answer({}, 500)
    try:
        refused(back(browser, f"/sign-in/liar/callback?code=x&state={out['state']}"), 503, "can't be asked from here")
    finally:
        hall.liar.answers.clear()


def test_github(hall: Hall, browser: Browser) -> None:
    out = sent_out(browser, "hub")
    assert urlsplit(out).path == "/login/oauth/authorize"
    state = query_of(out)["state"]
    url = f"/sign-in/hub/callback?code=x&state={state}&iss=https://github.com/login/oauth"
    hall.github.emails[1]["verified"] = False
    refused(back(browser, url), 403, "GitHub hasn't verified an address of yours")
    hall.github.emails[1]["verified"] = True
    assert back(browser, url).headers["location"] == "/portal"
    assert hall.row("octocat")["email"] == "octocat@corp.example"
    with hall.served.view() as tx:
        (linked,) = identities.of_user(tx, "octocat")
    assert (linked["issuer"], linked["subject"]) == (hall.github.up.url, "583231")
