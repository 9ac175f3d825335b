"""`/request-key`: a key at once, or after somebody has looked at the request."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmgate.config import SelfService
from llmgate.plans import NONE
from llmgate.store import admins, keys, requests, selfmade
from llmgate.store.admins import Scope
from llmgate.types import Billing
from tests.served import Served, error_of

from .conftest import Browser, form_to, words_of

KEY = re.compile(r"sk-lg-[0-9A-Za-z]{49}")
SECRET = re.compile(r"sk-lg-request-[0-9A-Za-z]{49}")

GIVEN = {"limits": ["5 requests/day"], "credits": 3, "models": ["echo"], "expires": "90d"}


def served_in(folder: Path, **service: Any) -> Served:
    config = {"upstreams": {"sandbox": {}}, "self_service": {**GIVEN, "per_address": "50/day", **service}}
    return Served(folder, config)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served_in(tmp_path_factory.mktemp("open"), mode="open") as served:
        yield served


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served_in(tmp_path_factory.mktemp("approval"), mode="approval") as served:
        yield served


@pytest.fixture
def browser(request: pytest.FixtureRequest) -> Iterator[Browser]:
    found = Browser(request.getfixturevalue(request.param))
    yield found
    found.close()


in_open = pytest.mark.parametrize("browser", ["opened"], indirect=True)
in_approval = pytest.mark.parametrize("browser", ["asking"], indirect=True)


def chat(served: Served, key: str) -> httpx.Response:
    body = {"model": "echo", "messages": [{"role": "user", "content": "hi"}]}
    return served.client.post(
        f"{served.url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"}
    )


def key_in(browser: Browser, answer: httpx.Response) -> str:
    """The key that a page shows."""
    assert answer.status_code == 200, words_of(answer)
    assert answer.headers["cache-control"] == "no-store"
    (key,) = {str(found) for found in KEY.findall(answer.text)}
    browser.served.secrets.append(key)
    return key


def decide(served: Served, name: str, *, approved: bool = True) -> None:
    with served.tx() as tx:
        row = next(row for row in requests.list_requests(tx) if row["username"] == name)
        if approved:
            requests.approve(tx, SelfService(mode="approval"), row["id"], NONE, Billing.METERED)
        else:
            requests.deny(tx, row["id"])


# ── open ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@in_open
def test_a_key_at_once_which_works(browser: Browser) -> None:
    page = browser.shown("/request-key")
    assert "5 requests/day" in words_of(page)
    answer = browser.send(page, "/request-key", username="ann", note="course")
    key = key_in(browser, answer)
    assert f'api_key="{key}"' in words_of(answer)
    assert chat(browser.served, key).status_code == 200
    with browser.served.view() as tx:
        assert tx.value("SELECT actor FROM audit WHERE target = 'ann' AND action = 'users.add'").startswith("public")


@in_open
def test_what_a_key_may_do_is_told_before(browser: Browser) -> None:
    told = words_of(browser.shown("/request-key"))
    assert "Credits $3.00, once Limits 5 requests/day Models echo Lives for 90d" in told


@in_open
def test_a_form_sent_twice_makes_one_key(browser: Browser) -> None:
    page = browser.shown("/request-key")
    fields = {**form_to(page, "/request-key").fields, "username": "twice"}
    first, second = (browser.post("/request-key", fields) for _ in range(2))
    assert key_in(browser, first) == key_in(browser, second)
    assert browser.served.value("SELECT count(*) FROM requests WHERE username = 'twice'") == 1


@in_open
def test_keys_made_beside_it_share_its_limit(browser: Browser) -> None:
    """At a gateway that serves: it keeps what it has read of keys and limits."""
    served = browser.served
    first = key_in(browser, browser.send("/request-key", "/request-key", username="sharer"))
    assert chat(served, first).status_code == 200
    with served.tx() as tx:
        second = selfmade.make(tx, "sharer").key
    served.secrets.append(second)
    assert [chat(served, second).status_code for _ in range(5)] == [200] * 4 + [429]
    error_of(chat(served, first), 429, "rate_limited")


@in_open
def test_admins_see_the_limit_that_a_key_shares(browser: Browser) -> None:
    served = browser.served
    first = key_in(browser, browser.send("/request-key", "/request-key", username="lender"))
    with served.tx() as tx:
        second = selfmade.make(tx, "lender")
        given = keys.authenticate(tx, keys.hash_key(first)).key_id
        ops = admins.add(tx, "ops", Scope.READ)
    served.secrets += [second.key, ops]
    url, headers = f"{served.url}/admin/limits/key:", {"authorization": f"Bearer {ops}"}
    of_first, of_second = (served.client.get(url + one, headers=headers).json() for one in (given, second.id))
    assert of_second["limits"] == of_first["limits"]
    assert [(one["target"], one["limit"]) for one in of_second["limits"]] == [(f"key:{given}", "5 requests/day")]
    assert (of_first["own"], of_second["own"]) == (["5 requests/day"], [])
    admin = Browser(served).sign_in(ops)
    told = words_of(admin.shown(f"/admin/pages/limits/key:{second.id}"))
    assert f"Target Limit From Used In flight Left Used up Begins anew key:{given} 5 requests/day" in told
    admin.close()


@in_open
def test_bad_names_are_told_beside_the_field(browser: Browser) -> None:
    for name, words in (("a b", "is no name"), ("<script>alert(1)</script>", "is no name"), ("", "1 to 64")):
        answer = browser.send("/request-key", "/request-key", username=name, note="kept")
        assert answer.status_code == 400
        assert words in words_of(answer)
        assert 'aria-invalid="true"' in answer.text
        assert "kept" in answer.text
        assert "<script>alert" not in answer.text
    browser.served.person()
    answer = browser.send("/request-key", "/request-key", username="USER1")
    assert answer.status_code == 409
    assert "is taken" in words_of(answer)


@in_open
def test_a_form_of_somebody_else_does_nothing(browser: Browser) -> None:
    assert browser.post("/request-key", {"username": "eve", "csrf": "x"}).status_code == 403
    page = browser.shown("/request-key")
    fields = {**form_to(page, "/request-key").fields, "username": "eve"}
    assert browser.post("/request-key", fields, sec_fetch_site="cross-site").status_code == 403
    assert browser.served.value("SELECT count(*) FROM users WHERE name = 'eve'") == 0


@in_open
def test_users_make_their_keys_elsewhere(browser: Browser) -> None:
    person = browser.served.person()
    answer = browser.sign_in(person.key).get("/request-key")
    assert (answer.status_code, answer.headers["location"]) == (303, "/portal")


def test_the_cap_is_told_on_the_page(tmp_path: Path) -> None:
    with served_in(tmp_path, mode="open", per_address="1/day") as served:
        browser = Browser(served)
        key_in(browser, browser.send("/request-key", "/request-key", username="one"))
        answer = browser.send("/request-key", "/request-key", username="two")
        browser.close()
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) > 80_000
    assert "no more are taken" in words_of(answer)


def test_off_is_off(tmp_path: Path) -> None:
    with served_in(tmp_path, mode="off") as served:
        browser = Browser(served)
        assert "Keys aren't asked for here: your admin gives them." in words_of(browser.shown("/request-key", 404))
        assert "request-key" not in browser.shown("/").text
        browser.close()


# ── approval ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@in_approval
def test_who_waits_comes_back_for_the_key(browser: Browser) -> None:
    page = browser.done("/request-key", "/request-key", username="ben", note="thesis & more")
    assert "waiting" in words_of(page)
    assert "thesis &amp; more" in page.text
    decide(browser.served, "ben")
    page = browser.shown("/request-key")
    key = key_in(browser, browser.send(page, "/request-key/fetch"))
    assert chat(browser.served, key).status_code == 200
    assert "was fetched" in words_of(browser.shown("/request-key"))
    again = browser.done("/request-key", "/request-key/forget")
    assert form_to(again, "/request-key")


@in_approval
def test_a_link_does_so_in_another_browser(browser: Browser) -> None:
    page = browser.done("/request-key", "/request-key", username="cleo")
    (secret,) = set(SECRET.findall(page.text))
    other = Browser(browser.served)
    path = f"/request-key?request={secret}"
    assert "waiting" in words_of(other.shown(path))
    decide(browser.served, "cleo")
    page = other.shown(path)
    key_in(other, other.send(page, "/request-key/fetch"))
    refused = browser.send(page := browser.shown(path), "/request-key/forget")
    assert refused.status_code == 303
    late = browser.post("/request-key/fetch", {**form_to(page, "/request-key/forget").fields, "secret": secret})
    assert late.status_code == 409
    assert "fetched already" in words_of(late)
    other.close()


@in_approval
def test_looking_makes_no_key(browser: Browser) -> None:
    browser.done("/request-key", "/request-key", username="dan")
    decide(browser.served, "dan")
    for _ in range(3):
        browser.shown("/request-key")
    assert browser.served.value("SELECT count(*) FROM keys k JOIN users u ON u.id = user_id WHERE u.name = 'dan'") == 0


@in_approval
def test_a_denied_one_is_told_so(browser: Browser) -> None:
    browser.done("/request-key", "/request-key", username="fay")
    decide(browser.served, "fay", approved=False)
    page = browser.shown("/request-key")
    assert "refused" in words_of(page)
    assert "fetch" not in page.text


@in_approval
def test_a_secret_that_nobody_has(browser: Browser) -> None:
    for secret in ("x", "sk-lg-request-" + "A" * 49, "%00", "%3Cb%3E"):
        answer = browser.shown(f"/request-key?request={secret}", 404)
        assert "no such request" in words_of(answer)
    browser.client.cookies.set("llmgate_request", "forged.cookie")
    assert form_to(browser.shown("/request-key"), "/request-key")


# ── JSON ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def post(served: Served, path: str, body: Any, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return served.client.post(f"{served.url}/public/keys{path}", json=body, headers=named)


def test_forms_that_change_nothing_leave_nothing(asking: Served) -> None:
    """Else anybody could fill the disk: each is another one, by its nonce."""
    browser = Browser(asking)
    asked = browser.send("/request-key", "/request-key", username="patient")
    assert asked.status_code == 303
    kept = asking.value("SELECT count(*) FROM answers")
    page = browser.shown("/request-key")
    fields = form_to(page, "/request-key/forget").fields
    for number in range(5):
        assert browser.post("/request-key/forget", fields | {"nonce": f"n{number}"}).status_code == 303
    assert asking.value("SELECT count(*) FROM answers") == kept
    browser.close()


def test_programs_ask_too(opened: Served) -> None:
    answer = post(opened, "", {"username": "robot", "note": "ci"})
    assert answer.status_code == 201, answer.text
    told = answer.json()
    opened.secrets.append(told["key"])
    assert told == {"username": "robot", "status": "issued", "key": told["key"], "secret": None}
    assert chat(opened, told["key"]).status_code == 200
    masked = opened.client.get(f"{opened.url}/public/keys/robot").json()
    assert masked == {
        "username": "robot",
        "keys": [{"key": f"{told['key'][:10]}…{told['key'][-4:]}", "status": "active"}],
    }
    error_of(post(opened, "", {"username": "robot"}), 409, "conflict")
    error_of(post(opened, "", {"username": "a b"}), 400, "invalid_request")
    error_of(post(opened, "", {"username": "x", "plan": "pro"}), 400, "invalid_request")
    error_of(post(opened, "", {"username": "x"}, sec_fetch_site="cross-site"), 400, "invalid_request")
    error_of(post(opened, "", {"username": "x", "note": "n" * 9000}), 413, "request_too_large")
    with opened.view() as tx:
        assert tx.value("SELECT actor FROM audit WHERE target = 'robot'") == "public:127.0.0.1"


def test_programs_wait_too(asking: Served) -> None:
    answer = post(asking, "", {"username": "waiter"})
    assert answer.status_code == 202
    told = answer.json()
    asking.secrets.append(told["secret"])
    assert (told["status"], told["key"]) == ("waiting", None)
    secret = {"secret": told["secret"]}
    waiting = {"username": "waiter", "status": "waiting", "key": None, "secret": None}
    assert post(asking, "/claim", secret).json() == waiting
    decide(asking, "waiter")
    issued = post(asking, "/claim", secret).json()
    asking.secrets.append(issued["key"])
    assert chat(asking, issued["key"]).status_code == 200
    error_of(post(asking, "/claim", secret), 409, "conflict")


def test_programs_are_told_that_it_is_off_and_nothing_else(tmp_path: Path) -> None:
    with served_in(tmp_path, mode="off") as served:
        person = served.person()
        answers = [
            post(served, "", {"username": "x"}),
            post(served, "", {"wrong": 1}),
            post(served, "/claim", {"secret": "x"}),
            *(served.client.get(f"{served.url}/public/keys/{name}") for name in (person.name, "nobody")),
            served.client.get(f"{served.url}/public/keys"),
        ]
        assert {error_of(answer, 404, "not_found")["message"] for answer in answers} == {"self-service is off here"}


def test_names_are_not_tried_one_after_the_other(tmp_path: Path) -> None:
    with served_in(tmp_path, mode="open") as served:
        person = served.person()
        get = served.client.get
        answers = [get(f"{served.url}/public/keys/{name}") for name in (person.name, *(f"name{i}" for i in range(20)))]
    assert [answer.status_code for answer in answers] == [404] * 10 + [429] * 11
    first, second = (answer.json()["error"]["message"] for answer in answers[:2])
    assert first.replace(person.name, "name0") == second, "who never asked is as who isn't there"
