"""`/portal`: what a user is told and may do, and the lead of a team."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgate.errors import Refusal
from llmgate.plans import NONE
from llmgate.pricing import UNITS, Price
from llmgate.store import accounts, keys, ledger, limits, selfmade
from llmgate.store.db import Tx
from llmgate.types import Billing, Meters
from llmgate.web.portal import held, requests, sums
from llmgate.web.portal.requests import plain
from tests.books import Book
from tests.served import Person, Served, chat_body

from .conftest import Browser, House, forms_of, words_of

CHARGE = Price(input=3_000 * UNITS, output=15_000 * UNITS)
COST = Price(input=7 * UNITS, output=11 * UNITS)
"""What the house pays: told to nobody here."""

VENDOR = "the-vendor"
"""To whom."""

MARKUP = "a<b>&\"'"

FORMULA = "=<b>HYPERLINK(1)</b>"
"""As somebody may call a model."""


@contextmanager
def book_of(house: House) -> Iterator[Book]:
    book = Book(house.served.database)
    try:
        yield book
    finally:
        book.close()


def chat(house: House, person: Person | str, status: int = 200, **fields: Any) -> httpx.Response:
    answer = house.served.chat(person, **{"model": "zeta", **fields})
    assert answer.status_code == status, answer.text
    return answer


def key_in(answer: httpx.Response, house: House) -> str:
    """The key that a page shows this once."""
    words = words_of(answer).split()
    found = next(word for word in words if keys.well_formed(word))
    house.served.secrets.append(found)
    return found


def made(house: House, person: Person, **fields: Any) -> str:
    answer = house.of(person).send("/portal/keys", "/portal/keys", **fields)
    assert answer.status_code == 200, words_of(answer)
    return key_in(answer, house)


def id_of(house: House, key: str) -> str:
    found: str = house.served.value("SELECT id FROM keys WHERE hash = ?", keys.hash_key(key))
    return found


def count(house: House, table: str) -> int:
    number: int = house.served.value(f"SELECT count(*) FROM {table}")
    return number


def this_month(house: House) -> str:
    with house.served.view() as tx:
        return sums.month(tx).name


# ── what is left and what was used ────────────────────────────────────────────────────────────────────────────────────


def test_the_balance_falls_with_a_request(house: House) -> None:
    person = house.served.person(credits="1.5")
    browser = house.of(person)
    assert "Balance $1.50" in words_of(browser.shown("/portal"))
    month = this_month(house)
    chat(house, person)
    house.served.settled(person, 1)
    words = words_of(browser.shown("/portal"))
    assert "Balance $1.49998 " in words
    if this_month(house) != month:
        return
    assert "Used this month $0.00002 " in words
    assert "Requests this month 1 0 failed upstream Tokens this month 15 5 of them output" in words


def test_metered_users_are_told_what_they_used(house: House) -> None:
    words = words_of(house.of(house.served.person()).shown("/portal"))
    assert "Balance" not in words
    assert "Used this month $0.00 " in words
    assert "not stopped for want of a balance" in words


def test_nothing_left(house: House) -> None:
    person = house.served.person(billing=Billing.PREPAID)
    assert "Nothing is left: requests are refused" in words_of(house.of(person).shown("/portal"))


def test_a_teams_balance_is_not_told_to_its_members(house: House) -> None:
    with house.served.tx() as tx:
        accounts.add_team(tx, "rich")
        ledger.add(tx, "team:rich", 123_456_000_000_000)
    lead, member = (house.served.person(team="rich") for _ in range(2))
    with house.served.tx() as tx:
        accounts.set_user(tx, lead.name, {"leads": "rich"})
    for path in ("/portal", "/portal/usage", "/portal/requests", "/portal/keys", f"/portal/keys/{member.key_id}"):
        assert "123,456" not in house.of(member).shown(path).text
    assert "Paid by team rich What it has left is told to its lead." in words_of(house.of(member).shown("/portal"))
    assert "Balance $123,456.00" in words_of(house.of(lead).shown("/portal/team"))
    house.of(member).shown("/portal/team", 403)


@pytest.fixture(scope="module")
def february(house: House) -> Person:
    """A user of a leap day, years ago."""
    person = house.served.person()
    with book_of(house) as book:
        for day, model, meters in (
            ("2020-02-01", "alpha", Meters(input=1_000, output=100, calls=1)),
            ("2020-02-29", "alpha", Meters(input=2_000, cached_input=500, output=200, calls=1)),
            ("2020-02-29", FORMULA, Meters(input=10, calls=1)),
            ("2020-03-01", "alpha", Meters(input=7, calls=1)),
        ):
            book.use(person.key, meters, day=day, model=model, upstream=VENDOR, price=COST, charge=CHARGE)
    return person


def test_a_month_by_model_and_by_day(house: House, february: Person) -> None:
    """3,000 nano-USD for a token of input, 15,000 for one of output."""
    with house.served.view() as tx:
        found = sums.used(tx, sums.month(tx, "2020-02"), {"user": february.name})
    charges = {line.name: line.sums.charge_nano for line in found.models}
    assert charges == {"alpha": (1_000 + 2_500) * 3_000 + 300 * 15_000, FORMULA: 30_000}
    assert [(line.name, line.sums.charge_nano) for line in found.days if line.sums.requests] == [
        ("2020-02-01", 1_000 * 3_000 + 100 * 15_000),
        ("2020-02-29", 2_510 * 3_000 + 200 * 15_000),
    ]
    assert len(found.days) == 29
    assert found.total == sums.Sums(3, 0, 3_510, 300, sum(charges.values()))
    assert [line.height for line in found.days if line.sums.requests] == [42, 100]
    for told in (found.models, found.days):
        assert sums._sum(line.sums for line in told) == found.total
    page = house.of(february).shown("/portal/usage?month=2020-02")
    assert "<b>" not in page.text
    words = words_of(page)
    assert FORMULA in words
    assert "Charged $0.01503 Requests 3 Tokens 3,810" in words
    assert "Nothing was used in 2020-01." in words_of(house.of(february).shown("/portal/usage?month=2020-01"))


@pytest.mark.parametrize("month", ["2020-13", "24-02", "9999-01", "2020-02-01", "x" * 200, "<b>"])
def test_no_such_month(house: House, month: str) -> None:
    answer = house.of(house.bob).shown(f"/portal/usage?month={month}", 400)
    assert "<b>" not in answer.text


def test_nobody_is_told_what_the_house_pays(house: House, february: Person) -> None:
    browser = house.of(february)
    for path in ("/portal", "/portal/usage?month=2020-02", "/portal/requests", f"/portal/keys/{february.key_id}"):
        words = words_of(browser.shown(path)).casefold()
        assert "cost" not in words
        assert "margin" not in words
        assert VENDOR not in words
    text = browser.shown("/portal/usage.csv?start=2020-02-01&end=2026-12-31").text
    assert VENDOR not in text
    assert "cost" not in text


# ── requests, and files ───────────────────────────────────────────────────────────────────────────────────────────────


def test_requests_page_by_page(house: House) -> None:
    person = house.served.person()
    for number in range(5):
        chat(house, person if number != 2 else house.bob)
    house.served.settled(person, 4)
    browser, seen, path = house.of(person), [], "/portal/requests?limit=3"
    for _ in range(2):
        page = browser.shown(path)
        seen.append(page.text.count("$0.00<small"))
        path = "/portal/requests?" + page.text.partition('rel="next" href="?')[2].partition('"')[0].replace(
            "&amp;", "&"
        )
    assert seen == [3, 1]
    assert 'rel="next"' not in page.text
    browser.shown("/portal/requests?cursor=nonsense", 400)
    browser.shown("/portal/requests?limit=100000", 400)
    browser.shown(f"/portal/requests?user={house.bob.name}", 400)


def rows_of(answer: httpx.Response) -> list[dict[str, str]]:
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    return list(csv.DictReader(io.StringIO(answer.text)))


def test_the_sums_of_days_as_a_file(house: House, february: Person) -> None:
    answer = house.of(february).shown("/portal/usage.csv?of=days&start=2020-02-01&end=2020-02-29")
    disposition = answer.headers["content-disposition"]
    assert disposition == f'attachment; filename="llmgate-{february.name}-days-2020-02-01-2020-02-29.csv"'
    assert [tuple(row.values()) for row in rows_of(answer)] == [
        ("2020-02-01", "alpha", "1", "0", "1000", "0", "100", "0.0045"),
        ("2020-02-29", "alpha", "1", "0", "2500", "500", "200", "0.0105"),
        ("2020-02-29", f"'{FORMULA}", "1", "0", "10", "0", "0", "0.00003"),
    ]


def test_own_requests_as_a_file(house: House) -> None:
    """Nobody else's, and nothing that a spreadsheet takes for a formula."""
    person = house.served.person()
    answer = house.served.post(person, chat_body(model="zeta"), headers={"x-llmgate-tags": "job==1+1"})
    assert answer.status_code == 200
    chat(house, house.bob)
    house.served.settled(person, 1)
    (row,) = rows_of(house.of(person).shown("/portal/usage.csv"))
    told = {name: row[name] for name in ("key", "model", "status", "input_tokens", "output_tokens", "charge_usd")}
    assert told == {
        "key": "default",
        "model": "zeta",
        "status": "ok",
        "input_tokens": "10",
        "output_tokens": "5",
        "charge_usd": "0.00002",
    }
    assert row["tags"] == '{"job":"=1+1"}'
    assert tuple(row) == requests.HEAD


@pytest.mark.parametrize(
    "query",
    ["start=2020-02-30", "start=2020-03-01&end=2020-02-01", "start=0001-01-01", "of=nothing", "end=x", "user=bob"],
)
def test_no_such_file(house: House, query: str) -> None:
    house.of(house.bob).shown(f"/portal/usage.csv?{query}", 400)


def test_a_file_has_an_end(house: House, february: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "MOST_ROWS", 2)
    with house.served.view() as tx:
        day = sums.month(tx).first
        with pytest.raises(Refusal, match="more than 2 requests"):
            list(requests._requests(tx, february.name, day.replace(year=2000), day.replace(year=2999)))


@given(st.text())
def test_no_cell_is_a_formula(text: str) -> None:
    cell = plain(text)
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert cell in (text, f"'{text}")


# ── limits ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_limit_that_holds(house: House) -> None:
    with house.served.tx() as tx:
        accounts.add_team(tx, "held")
        limits.hang(tx, "team:held", ["100 requests total"])
    person, lead = house.served.person(team="held"), house.served.person(team="held")
    with house.served.tx() as tx:
        accounts.set_user(tx, lead.name, {"leads": "held"})
        limits.hang(tx, person.name, ["$5 total"])
        limits.hang(tx, f"key:{person.key_id}", ["4 requests total"])
        selfmade.limit_member(tx, lead.name, person.name, ["50 requests total"])
    second = made(house, person, name="second", limits="2 requests total")
    for key in (person.key, second):
        chat(house, key)
    house.served.settled(person, 2)
    with house.served.view() as tx:
        user = accounts.user_row(tx, person.name)
        found = held.of_user(tx, NONE, user, keys.list_keys(tx, user=person.name))
    told = {(one.told.limit, one.whom, one.source, one.told.used, one.told.remaining) for one in found}
    assert told == {
        ("$5 total", "you, with all keys", "your admin", "0.00004", "4.99996"),
        ("50 requests total", "you, with all keys", "the team's lead", 2, 48),
        ("100 requests total", "the whole team", "your admin", 2, 98),
        ("4 requests total", "key default, with 1 made from it", "set on the key", 2, 2),
        ("2 requests total", "key second", "set on the key", 1, 1),
    }
    words = words_of(house.of(person).shown("/portal"))
    assert "4 requests total 50 % 50% 2 0 2" in words
    chat(house, second)
    chat(house, second, 429)
    chat(house, person)
    chat(house, person, 429)  # four with both


# ── keys ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_key_is_made_within_the_others(house: House) -> None:
    person = house.served.person(models=["zeta", "gpt-4o*"], credits="1")
    key = made(house, person, name="laptop", models="zeta\n", ips="127.0.0.1", limits="5 requests total", note=MARKUP)
    chat(house, key)
    page = house.of(person).shown(f"/portal/keys/{id_of(house, key)}")
    assert MARKUP in words_of(page)
    assert "<b>" not in page.text
    assert key not in page.text
    before = count(house, "keys"), count(house, "audit")
    refused = house.of(person).send("/portal/keys", "/portal/keys", name="more", models="llama*")
    assert refused.status_code == 409
    assert "No model is allowed" in words_of(refused)
    form = next(form for form in forms_of(refused) if form.action == "/portal/keys")
    assert (form.fields["name"], form.fields["models"].strip()) == ("more", "llama*")
    for wrong in (
        {"name": "laptop"},
        {"name": MARKUP},
        {"limits": "much"},
        {"expires": "yesterday"},
        {"ips": "nowhere"},
        {"name": "x" * 65},
        {"note": "x" * 1001},
    ):
        answer = house.of(person).send("/portal/keys", "/portal/keys", **wrong)
        assert answer.status_code in (400, 409), words_of(answer)
        assert "<b>" not in answer.text
    assert (count(house, "keys"), count(house, "audit")) == before


def test_a_form_sent_twice_makes_one_key(house: House) -> None:
    person = house.served.person()
    browser = house.of(person)
    page = browser.shown("/portal/keys")
    form = next(form for form in forms_of(page) if form.action == "/portal/keys")
    before = count(house, "keys")
    first, again = (browser.post("/portal/keys", {**form.fields, "name": "once"}) for _ in range(2))
    assert key_in(first, house) == key_in(again, house)
    assert count(house, "keys") == before + 1


def test_a_key_is_named_in_one_of_two_tabs(house: House) -> None:
    person = house.served.person()
    path, browser = f"/portal/keys/{person.key_id}", house.of(person)
    one, other = browser.shown(path), browser.shown(path)
    assert "<h1>desk " in browser.done(one, path, name="desk").text
    late = browser.send(other, path, name="chair")
    assert late.status_code == 412
    assert "Somebody else has changed it" in words_of(late)
    assert "<h1>desk " in browser.shown(path).text
    assert browser.send(path, path, name="a b").status_code == 400


def test_an_admins_words_to_itself_are_not_shown(house: House) -> None:
    person = house.served.person(note="watch this one")
    browser = house.of(person)
    assert "watch this one" not in browser.shown(f"/portal/keys/{person.key_id}").text
    path = f"/portal/keys/{id_of(house, made(house, person, note='for the laptop'))}"
    assert "for the laptop" in words_of(browser.shown(path))
    with house.served.tx() as tx:
        keys.change(tx, path.rpartition("/")[2], {"note": "too dear"})
    assert "too dear" not in browser.shown(path).text


def test_a_key_is_rotated(house: House) -> None:
    person = house.served.person()
    path, browser = f"/portal/keys/{person.key_id}", house.of(person)
    form = next(form for form in forms_of(browser.shown(path)) if form.action == f"{path}/rotate")
    assert form.fields["grace"] == "24h"
    second = key_in(browser.send(path, f"{path}/rotate", grace="1h"), house)
    chat(house, person)
    chat(house, second)
    assert "works until" in words_of(browser.shown(path))
    third = key_in(browser.send(path, f"{path}/rotate", grace=""), house)
    assert [house.served.chat(key, model="zeta").status_code for key in (person.key, second, third)] == [401, 401, 200]
    assert browser.send(path, f"{path}/rotate", grace="999y").status_code == 400
    assert id_of(house, third) == person.key_id


def test_a_key_is_revoked(house: House) -> None:
    person = house.served.person()
    key = made(house, person, name="short")
    path, browser = f"/portal/keys/{id_of(house, key)}", house.of(person)
    page = browser.shown(path)
    assert "Key short is revoked" in words_of(browser.done(page, f"{path}/revoke"))
    chat(house, key, 401)
    assert browser.send(page, f"{path}/revoke").status_code == 303  # the same form: the same answer
    token = {"csrf": browser.token()}
    assert browser.post(f"{path}/revoke", token).status_code == 409
    assert browser.post(f"{path}/rotate", token).status_code == 409
    assert not [form for form in forms_of(browser.shown(path)) if form.action.startswith(path)]
    # the one that one is signed in with ends the session
    own = f"/portal/keys/{person.key_id}"
    assert "You are signed in with it" in words_of(browser.shown(own))
    gone = browser.send(own, f"{own}/revoke")
    assert browser.shown(gone.headers["location"], 303).headers["location"].startswith("/sign-in")


def test_what_an_admin_disabled_stays_so(house: House) -> None:
    person = house.served.person()
    key = made(house, person, name="off")
    path, browser = f"/portal/keys/{id_of(house, key)}", house.of(person)
    with house.served.tx() as tx:
        keys.set_state(tx, id_of(house, key), "disable")
    token = {"csrf": browser.token()}
    for verb in ("rotate", "revoke"):
        assert browser.post(f"{path}/{verb}", token).status_code == 409
    assert "Your admin has disabled it" in words_of(browser.shown(path))


def test_anothers_key_is_not_there(house: House) -> None:
    """As little as one that there never was, by id and by name."""
    before = house.served.value("SELECT json_array(name, hex(hash), status) FROM keys WHERE id = ?", house.bob.key_id)
    browser = house.of(house.alice)
    token = {"csrf": browser.token()}
    for target in (house.bob.key_id, house.bob.name, "k-22222222", "%00", "default%20"):
        path = f"/portal/keys/{target}"
        said = {words_of(browser.shown(path, 404))}
        said.add(words_of(browser.post(path, {**token, "name": "mine"})))
        said |= {words_of(browser.post(f"{path}/{verb}", token)) for verb in ("rotate", "revoke")}
        assert len(said) == 1, said
        assert house.bob.name not in said.pop()
    after = house.served.value("SELECT json_array(name, hex(hash), status) FROM keys WHERE id = ?", house.bob.key_id)
    assert after == before


def test_a_key_called_as_another_ones_id(house: House) -> None:
    """Its name takes nobody to another key than its id does."""
    person = house.served.person()
    made(house, person, name=person.key_id)
    path = f"/portal/keys/{person.key_id}"
    assert "<h1>default " in house.of(person).shown(path).text
    house.of(person).send(path, f"{path}/revoke")
    assert house.served.value("SELECT status FROM keys WHERE id = ?", person.key_id) == "revoked"


def test_sign_out_everywhere(house: House) -> None:
    person = house.served.person()
    with_two = [Browser(house.served).sign_in(person.key) for _ in range(2)]
    answer = with_two[0].send("/portal", "/sign-out/everywhere")
    assert answer.status_code == 303
    assert [browser.get("/portal").status_code for browser in with_two] == [303, 303]
    for browser in with_two:
        browser.close()


# ── the lead of a team ────────────────────────────────────────────────────────────────────────────────────────────────


class Team:
    """A team of its own, with a lead and a member who have used something."""

    def __init__(self, house: House, name: str) -> None:
        served: Served = house.served
        self.name = name
        with served.tx() as tx:
            accounts.add_team(tx, name)
            ledger.add(tx, f"team:{name}", 1_000_000_000)
            limits.hang(tx, f"team:{name}", ["$50 total", "100 requests total"])
        self.lead, self.member = served.person(team=name), served.person(team=name)
        with served.tx() as tx:
            accounts.set_user(tx, self.lead.name, {"leads": name})
        self.browser = house.of(self.lead)
        self.page = f"/portal/team/members/{self.member.name}"


def test_a_lead_sees_the_teams_usage(house: House) -> None:
    team = Team(house, "seen")
    with book_of(house) as book:
        for person, times in ((team.lead, 1), (team.member, 3), (house.bob, 1)):
            for _ in range(times):
                book.use(person.key, Meters(input=20, calls=1), day="2020-02-29", charge=Price(input=1_000 * UNITS))
    with house.served.view() as tx:
        month = sums.month(tx, "2020-02")
        found = sums.used(tx, month, {"team": "seen"}, [team.lead.name, team.member.name, "idle"])
    assert [(line.name, line.sums.requests, line.sums.charge_nano, line.percent) for line in found.members] == [
        (team.member.name, 3, 60_000, 75),
        (team.lead.name, 1, 20_000, 25),
        ("idle", 0, 0, 0),
    ]
    words = words_of(team.browser.shown("/portal/team?month=2020-02"))
    assert "Balance $0.99992" in words
    assert "Used in 2020-02 $0.00008 Requests 4 0 failed upstream Members 2 2 keys" in words
    assert house.bob.name not in words.split()


def test_who_left_is_still_in_the_teams_usage_and_nowhere_else(house: House) -> None:
    team = Team(house, "left")
    with book_of(house) as book:
        book.use(team.member.key, Meters(input=20, calls=1), day="2020-02-29", charge=Price(input=1_000 * UNITS))
    page = team.browser.shown(team.page)
    with house.served.tx() as tx:
        accounts.set_user(tx, team.member.name, {"team": ""})
    words = words_of(team.browser.shown("/portal/team?month=2020-02"))
    assert f"{team.member.name} no member any more" in words
    team.browser.shown(team.page, 404)
    before = count(house, "keys"), count(house, "limits"), count(house, "audit")
    for action, fields in (
        ("keys", {"name": "late"}),
        (f"keys/{team.member.key_id}/revoke", {}),
        ("limits", {"limit": "1 requests total"}),
    ):
        assert team.browser.send(page, f"{team.page}/{action}", **fields).status_code == 404
    assert (count(house, "keys"), count(house, "limits"), count(house, "audit")) == before
    chat(house, team.member)


def test_who_was_a_lead_a_second_ago(house: House) -> None:
    team = Team(house, "demoted")
    page = team.browser.shown(team.page)
    with house.served.tx() as tx:
        accounts.set_user(tx, team.lead.name, {"leads": ""})
    before = count(house, "keys"), count(house, "limits")
    assert team.browser.send(page, f"{team.page}/keys", name="late").status_code == 403
    assert team.browser.send(page, f"{team.page}/limits", limit="1 requests total").status_code == 403
    assert team.browser.send(page, f"{team.page}/keys/{team.member.key_id}/revoke").status_code == 403
    assert (count(house, "keys"), count(house, "limits")) == before
    chat(house, team.member)
    team.browser.shown("/portal/team", 403)


def test_a_lead_of_another_team(house: House) -> None:
    team, other = Team(house, "mine"), Team(house, "theirs")
    page = team.browser.shown(team.page)
    fields = next(form for form in forms_of(page) if form.action == f"{team.page}/keys").fields
    team.browser.shown(other.page, 404)
    assert team.browser.post(f"{other.page}/keys", fields).status_code == 404
    # a member of one's own, but the key of another's
    revoking = f"{team.page}/keys/{other.member.key_id}/revoke"
    assert team.browser.post(revoking, {"csrf": fields["csrf"]}).status_code == 404
    chat(house, other.member)


def test_a_lead_makes_and_revokes_a_members_key(house: House) -> None:
    team = Team(house, "keys")
    answer = team.browser.send(team.page, f"{team.page}/keys", name="ci", limits="1 requests total")
    key = key_in(answer, house)
    assert f"A key for {team.member.name}: ci" in words_of(answer)
    chat(house, key)
    chat(house, key, 429)
    assert house.served.value(
        "SELECT actor FROM audit WHERE action = 'keys.add' AND target = ?", id_of(house, key)
    ) == (f"user:{team.lead.name}")
    words = words_of(team.browser.done(team.page, f"{team.page}/keys/{id_of(house, key)}/revoke"))
    assert f"Key {team.member.name}/ci is revoked." in words
    chat(house, key, 401)


def test_a_key_that_a_lead_made_signs_nobody_in(house: House) -> None:
    """The lead knows it: it would show what is the member's alone, and give what powers the member has elsewhere."""
    team = Team(house, "doors")
    key = key_in(team.browser.send(team.page, f"{team.page}/keys", name="ci"), house)
    guest = house.browser()
    answer = guest.send("/sign-in", "/sign-in", key=key)
    assert (answer.status_code, "made by who leads a team" in words_of(answer)) == (403, True)
    chat(house, key)
    with house.served.tx() as tx:  # who was told the secret last is its user
        own = selfmade.rotate(Tx(tx.conn, tx.now_ms, f"user:{team.member.name}"), team.member.name, "ci").key
    house.served.secrets.append(own)
    guest.sign_in(own)
    guest.close()


def test_a_lead_narrows_and_never_widens(house: House) -> None:
    team = Team(house, "limits")
    with house.served.tx() as tx:
        limits.hang(tx, team.member.name, ["7 requests total on zeta"])
    for wrong, status in (
        ("$51 total", 409),
        ("unlimited requests total", 409),
        ("9 requests total on zeta", 409),
        ("much", 400),
        ("1 concurrent/day", 400),
    ):
        answer = team.browser.send(team.page, f"{team.page}/limits", limit=wrong)
        assert answer.status_code == status, words_of(answer)
    one, other = team.browser.shown(team.page), team.browser.shown(team.page)
    words = words_of(team.browser.done(one, f"{team.page}/limits", limit="2 requests total"))
    assert f"{team.member.name} has the limit 2 requests total from now on." in words
    assert team.browser.send(other, f"{team.page}/limits", limit="90 requests total").status_code == 412
    chat(house, team.member)
    chat(house, team.member)
    chat(house, team.member, 429)
    forms = [form for form in forms_of(team.browser.shown(team.page)) if form.action.endswith("/limits/remove")]
    assert [form.fields["limit"] for form in forms] == ["2 requests total"]  # not the admin's
    foreign = {**forms[0].fields, "limit": "7 requests total on zeta", "nonce": "another"}
    assert team.browser.post(f"{team.page}/limits/remove", foreign).status_code == 409
    team.browser.done(team.page, f"{team.page}/limits/remove")
    chat(house, team.member)
