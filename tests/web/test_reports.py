"""`/reports`: the page, its JSON and its CSVs, over HTTP."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmgate.pricing import UNITS, Price
from llmgate.store.admins import Scope
from llmgate.types import Meters
from llmgate.web import reports
from tests.books import Book
from tests.cli.conftest import Cli

from .conftest import Browser, House, words_of

CHARGE = Price(input=3 * UNITS, output=2 * UNITS)

PERIOD = "start=2024-02-27&end=2024-03-01"
LONG = "a-long-name@of-the-people.who-make-such-names.example.org-1234567"[:64]


@pytest.fixture(scope="module")
def admin(house: House) -> Browser:
    """Of a gateway that was used over a leap day, years ago: what other tests use today is not in the way."""
    book = Book(house.served.database)
    book.team("feb-team")
    ann, long = book.user("ann", team="feb-team"), book.user(LONG)
    book.use(ann, Meters(input=2_000_000, output=1_000_000, calls=1), day="2024-02-27", charge=CHARGE)
    book.use(ann, Meters(input=123_456_789, calls=1), day="2024-02-29", model="o3")
    book.use(long, Meters(input=1, calls=1), day="2024-03-01", model="o3")
    book.close()
    return house.admin(Scope.READ)


def data(browser: Browser, query: str = PERIOD, status: int = 200) -> Any:
    answer = browser.get(f"/reports/data?{query}", accept="application/json")
    assert answer.status_code == status, answer.text
    return answer.json()


class _Tables(HTMLParser):
    """Tables by id: their heads, then each row's name and exact values."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, list[list[str]]] = {}
        self._rows: list[list[str]] = []
        self._inside: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        if tag == "table":
            self._rows = self.found[told["id"] or ""] = []
        elif tag == "tr":
            self._rows.append([])
        elif tag == "th":
            self._rows[-1].append("")
            self._inside = tag
        elif tag == "data" and self._inside is None and self._rows:
            self._rows[-1].append(told["value"] or "")

    def handle_endtag(self, tag: str) -> None:
        if tag == "th":
            self._inside = None
        elif tag == "table":
            self._rows = []

    def handle_data(self, data: str) -> None:
        if self._inside:
            self._rows[-1][-1] += data


def tables_of(page: httpx.Response) -> dict[str, list[list[str]]]:
    reader = _Tables()
    reader.feed(page.text)
    return reader.found


def test_the_data(admin: Browser) -> None:
    found = data(admin)
    assert {name: found[name] for name in ("start", "end", "zone", "measure", "top")} == {
        "start": "2024-02-27",
        "end": "2024-03-01",
        "zone": "UTC",
        "measure": "cost",
        "top": 8,
    }
    of_ann = {"requests": 2, "tokens": 126456789, "cost_usd": "0.127456789", "charge_usd": "0.131456789"}
    of_ann |= {"margin_usd": "0.004", "wasted_usd": "0"}
    least = {"requests": 1, "tokens": 1, "cost_usd": "0.000000001", "charge_usd": "0.000000001"}
    least |= {"margin_usd": "0", "wasted_usd": "0"}
    assert found["users"] == [{"user": "ann", "others": 0, **of_ann}, {"user": LONG, "others": 0, **least}]
    assert found["total"] == {
        "requests": 3,
        "tokens": 126456790,
        "cost_usd": "0.12745679",
        "charge_usd": "0.13145679",
        "margin_usd": "0.004",
        "wasted_usd": "0",
    }
    assert [(day["day"], day["cost_usd"], day["running"]["cost_usd"]) for day in found["days"]] == [
        ("2024-02-27", "0.004", "0.004"),
        ("2024-02-28", "0", "0.004"),
        ("2024-02-29", "0.123456789", "0.127456789"),
        ("2024-03-01", "0.000000001", "0.12745679"),
    ]
    assert [(one["model"], one["charge_usd"], one["requests"]) for one in found["by_model"]] == [
        ("o3", ["0", "0", "0.123456789", "0.000000001"], [0, 0, 1, 1]),
        ("gpt", ["0.008", "0", "0", "0"], [1, 0, 0, 0]),
    ]
    assert [(one["team"], one["others"], one["tokens"]) for one in found["by_team"]] == [
        ("feb-team", 0, [3000000, 0, 123456789, 0]),
        (None, 0, [0, 0, 0, 1]),
    ]


@pytest.mark.parametrize("measure", ["cost", "charge", "tokens", "requests"])
def test_the_tables_say_what_the_data_says(admin: Browser, measure: str) -> None:
    query = f"{PERIOD}&measure={measure}"
    found, tables = data(admin, query), tables_of(admin.shown(f"/reports?{query}"))
    name = f"{measure}_usd" if measure in ("cost", "charge") else measure
    assert list(tables) == ["users-table", "days-table", "by-user-table", "by-model-table", "by-team-table"]
    for table, rows, by in (("users-table", found["users"], "user"), ("days-table", found["days"], "day")):
        head, *body, foot = tables[table]
        assert head[:2] == [by, measure]
        assert [row[:2] for row in body] == [[row[by], str(row[name])] for row in rows]
        assert foot[:2] == ["total", str(found["total"][name])]
        assert {"cost", "charge", "margin", "requests", "tokens"} <= set(head)
    assert [row[2] for row in tables["days-table"][1:-1]] == [str(day["running"][name]) for day in found["days"]]
    for by in ("user", "model", "team"):
        head, *body, _ = tables[f"by-{by}-table"]
        assert head == ["day", *(one[by] or "(none)" for one in found[f"by_{by}"]), "total"]
        for at, (row, day) in enumerate(zip(body, found["days"], strict=True)):
            each = [str(one[name][at]) for one in found[f"by_{by}"]]
            assert row == [day["day"], *each, str(day[name])]


def test_others_are_summed_up(admin: Browser, house: House) -> None:
    book = Book(house.served.database)
    for number in range(7):
        book.use(book.user(f"old{number}"), Meters(input=number + 1, calls=1), day="2024-01-01", model=f"m{number}")
    book.close()
    found = data(admin, "start=2024-01-01&end=2024-01-01&top=5")
    assert [(one["user"], one["others"], one["cost_usd"]) for one in found["users"]] == [
        *((f"old{number}", 0, f"0.00000000{number + 1}") for number in (6, 5, 4, 3, 2)),
        (None, 2, "0.000000003"),
    ]
    assert [one["cost_usd"] for one in found["by_model"]][-1] == ["0.000000003"]
    page = admin.shown("/reports?start=2024-01-01&end=2024-01-01&top=5")
    assert tables_of(page)["users-table"][-2][0] == "others (2)"
    assert 'data-others="drawn"' in page.text
    assert 'data-series="0"' in page.text


def test_others_that_would_dwarf_every_bar_are_not_drawn(admin: Browser, house: House) -> None:
    book = Book(house.served.database)
    for number in range(25):
        book.use(book.user(f"crowd{number}"), Meters(input=10, calls=1), day="2024-01-03")
    book.close()
    page = admin.shown("/reports?start=2024-01-03&end=2024-01-03&top=5")
    assert 'data-others="left out"' in page.text
    assert "others (20): in the table only" in words_of(page)
    assert tables_of(page)["users-table"][-2][:2] == ["others (20)", "0.0000002"]
    page = admin.shown("/reports?start=2024-01-03&end=2024-01-03&top=20")
    assert 'data-others="left out"' in page.text, "five times the first"
    page = admin.shown("/reports?start=2024-01-03&end=2024-01-03&top=20&measure=tokens")
    assert tables_of(page)["users-table"][-2][:2] == ["others (5)", "50"]


@pytest.mark.parametrize("by", reports.FILES)
def test_a_csv_is_what_the_command_writes(admin: Browser, house: House, tmp_path: Path, by: str) -> None:
    answer = admin.get(f"/reports/data?{PERIOD}&csv={by}&top=5")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    name = f"llmgate-by-{by.replace(',', '-')}-2024-02-27-2024-03-01.csv"
    assert answer.headers["content-disposition"] == f'attachment; filename="{name}"'
    period = ("--since", "2024-02-27", "--until", "2024-03-01", "--by", by)
    ran = Cli(tmp_path)("--db", house.served.database, "report", *period, "--format", "csv")
    assert answer.text == ran.out
    assert len(ran.out.splitlines()) > 2


def test_what_is_not_asked_rightly_is_told_above_the_form(admin: Browser) -> None:
    page = admin.shown("/reports?start=2024-02-30&end=2024-03-01&measure=charge", 400)
    assert "The start 2024-02-30 is not in the calendar" in words_of(page)
    assert 'value="2024-03-01"' in page.text
    assert '<option value="charge" selected>' in page.text
    assert tables_of(page) == {}
    assert "there is no CSV by 'x'" in data(admin, f"{PERIOD}&csv=x", 400)["error"]["message"]
    for query, param in (
        ("start=2024-03-02&end=2024-03-01", "end"),
        ("end=9999-12-31", "end"),
        ("start=1999-01-01&end=2024-03-01", "start"),
        ("start=x", "start"),
        ("begin=2024-03-01", "begin"),
        ("start=2024-03-01&start=2024-03-01", "start"),
        ("top=1000000", "top"),
        ("measure=%3Cb%3E", "measure"),
    ):
        error = data(admin, query, 400)["error"]
        assert (error["param"], error["code"]) == (param, "invalid_request"), query
        assert admin.get(f"/reports?{query}").status_code == 400


def test_markup_is_not_taken_for_such(admin: Browser) -> None:
    page = admin.shown("/reports?start=%3Cscript%3Ealert(1)%3C%2Fscript%3E", 400)
    assert "<script>alert" not in page.text
    assert "&lt;script&gt;alert(1)" in page.text


def test_an_empty_field_of_the_form_is_one_that_was_not_filled_in(admin: Browser) -> None:
    page = admin.shown("/reports?start=&end=&measure=&top=")
    assert 'aria-current="true">30 days</a>' in page.text


def test_where_nothing_was_used_the_page_says_where_something_was(admin: Browser) -> None:
    page = admin.shown("/reports?start=2019-01-01&end=2019-01-31")
    assert "Nothing was used from 2019-01-01 to 2019-01-31" in words_of(page)
    assert tables_of(page) == {}
    found = data(admin, "start=2019-01-01&end=2019-01-31")
    assert found["users"] == []
    assert [day["requests"] for day in found["days"]] == [0] * 31
    assert data(admin, "start=2019-01-01&end=2019-01-31")["total"]["cost_usd"] == "0"


def test_where_all_is_free_the_page_says_what_to_look_at(admin: Browser, house: House) -> None:
    book = Book(house.served.database)
    book.use(book.user("gratis"), Meters(input=9, calls=1), day="2024-01-10", price=Price(input=0, output=0))
    book.close()
    page = admin.shown("/reports?start=2024-01-10&end=2024-01-10")
    assert "Nothing to draw: there is no cost in all of this. Show tokens" in words_of(page)
    assert "<canvas" not in page.text
    assert "<canvas" in admin.shown("/reports?start=2024-01-10&end=2024-01-10&measure=tokens").text


@pytest.mark.parametrize("scope", Scope)
def test_every_admin_may_look(admin: Browser, house: House, scope: Scope) -> None:
    house.admin(scope).shown(f"/reports?{PERIOD}")
    assert data(house.admin(scope)) == data(admin)


@pytest.mark.parametrize("path", ["/reports", "/reports/data"])
def test_nobody_else_may(house: House, path: str) -> None:
    assert house.of(house.alice).get(path).status_code == 403
    assert house.of(house.lead).get(path).status_code == 403
    asked = house.nobody.get(path)
    assert (asked.status_code, asked.headers["location"]) == (303, f"/sign-in?next={path}")
    assert house.nobody.get(path, accept="application/json").status_code == 401
    bearer = house.nobody.get(path, accept="application/json", authorization=f"Bearer {house.keys[Scope.ALL]}")
    assert bearer.status_code == 401, "an admin key is for the API"
    assert house.admin().post(path).status_code == 405
