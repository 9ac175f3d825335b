"""`/reports`, as an admin sees it: what is drawn is what the tables say, and what the data says."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import expect

from llmgate.pricing import UNITS, Price
from llmgate.store.admins import Scope
from llmgate.types import Meters
from tests.admin.conftest import Office
from tests.books import Book

from .conftest import OpenWindow
from .window import Window

PERIOD = "start=2024-02-20&end=2024-03-01"

LONG = "a-name-that-is-as-long-as-names-may-be.of-somebody@example.org-1"

DRAWN = """() => Object.fromEntries([...document.querySelectorAll("figure[data-chart]")].map(figure => {
  const { data } = Chart.getChart(figure.querySelector("canvas"));
  const names = data.datasets.map(one => [one.type, one.label, one.data]);
  return [figure.dataset.table, { labels: data.labels, series: names }];
}))"""
"""What the charts themselves say that they show."""

TOLD = """([table, x, y]) => {
  const chart = Chart.getChart(document.querySelector(`figure[data-table=${table}] canvas`));
  chart.tooltip.setActiveElements([{ datasetIndex: x, index: y }], { x: 0, y: 0 });
  chart.update();
  const { title, body, footer } = chart.tooltip;
  return [...title, ...body.flatMap(one => one.lines), ...footer];
}"""
"""The words beside a bar that is pointed at."""


COLOURED = """colour => new Promise(done => {
  const chart = () => Chart.getChart(document.querySelector("figure[data-table=days-table] canvas"));
  const look = () => chart().data.datasets[0].backgroundColor[0] == colour ? done() : requestAnimationFrame(look);
  look();
})"""
"""Waits until bars have a colour."""


@pytest.fixture(scope="module")
def used(office: Office) -> Office:
    """Eleven users over eleven days, two of them idle; an amount that a float can't hold."""
    book = Book(office.served.database)
    book.team("drawers")
    charge = Price(input=2 * UNITS, output=3 * UNITS)
    for number in range(11):
        name = LONG if number == 3 else f"drawn{number}"
        key = book.user(name, team="drawers" if number % 2 else None)
        for day in range(20, 29):
            meters = Meters(input=1000 * (number + 1) + day, output=number, calls=1)
            book.use(key, meters, day=f"2024-02-{day}", model=f"model{(number + day) % 4}", charge=charge)
    dear = Price(input=900_000_007 * UNITS)
    for _ in range(11):  # 900,002.707000021 USD each: more nano-USD in all than a float can count
        book.use(key, Meters(input=1_000_003, calls=1), day="2024-03-01", model="dear", price=dear)
    book.close()
    return office


@pytest_asyncio.fixture(loop_scope="session")
async def page(used: Office, window: Window) -> Window:
    """Signed in as an admin who may read."""
    await window.go("/sign-in", look=False)
    await window.page.get_by_label("Your key").fill(used.keys[Scope.READ])
    await window.page.get_by_role("button", name="Sign in").click()
    await expect(window.page.get_by_role("button", name="Sign out")).to_be_visible()
    return window


async def data(page: Window, query: str) -> Any:
    answer = await page.page.request.get(f"{page.url}/reports/data?{query}")
    assert answer.ok
    return json.loads(await answer.text())


@pytest.mark.parametrize("measure", ["cost", "tokens"])
async def test_what_is_drawn_is_what_was_used(page: Window, measure: str) -> None:
    query = f"{PERIOD}&measure={measure}&top=5"
    await page.go(f"/reports?{query}", look=False)
    await expect(page.page.locator("canvas")).to_have_count(5)
    found, drawn = await data(page, query), await page.page.evaluate(DRAWN)
    name = f"{measure}_usd" if measure == "cost" else measure
    days = [one["day"] for one in found["days"]]

    def named(one: dict[str, Any], by: str) -> str:
        return f"others ({one['others']})" if one["others"] else one[by] or "(none)"

    expected = {
        "users-table": {
            "labels": [named(one, "user") for one in found["users"]],
            "series": [["bar", measure, [float(one[name]) for one in found["users"]]]],
        },
        "days-table": {
            "labels": days,
            "series": [
                ["bar", measure, [float(one[name]) for one in found["days"]]],
                ["line", f"{measure} so far", [float(one["running"][name]) for one in found["days"]]],
            ],
        },
    }
    for by in ("user", "model", "team"):
        series = [["bar", named(one, by), [float(value) for value in one[name]]] for one in found[f"by_{by}"]]
        expected[f"by-{by}-table"] = {"labels": days, "series": series}
    assert drawn == expected
    assert len(found["users"]) == 6, "five and the others"


async def test_amounts_beside_bars_are_exact(page: Window) -> None:
    await page.go(f"/reports?{PERIOD}&top=5", look=False)
    told = await page.page.evaluate(TOLD, ["users-table", 0, 0])
    assert told == ["drawn10", "cost: $9,900,029.777099627"]
    told = await page.page.evaluate(TOLD, ["days-table", 1, 10])
    assert told == ["2024-03-01", "cost so far: $9,900,029.777597597"]
    told = await page.page.evaluate(TOLD, ["by-model-table", 0, 10])
    assert told == ["2024-03-01", "dear: $9,900,029.777000231", "total: $9,900,029.777000231"]


async def test_reports_look_well(page: Window) -> None:
    await page.go(f"/reports?{PERIOD}", look=False)
    await expect(page.page.get_by_role("img", name="Cost per day by model, drawn")).to_be_visible()
    await page.look("reports")
    await page.go("/reports?start=2001-01-01&end=2001-01-31", look=False)
    await expect(page.page.get_by_text("Nothing was used from 2001-01-01")).to_be_visible()
    await page.look("reports-nothing")
    await page.go("/reports?start=2024-02-30&end=2024-03-01&top=x", look=False, status=400)
    await page.look("reports-refused", status=400)


async def test_a_chart_follows_the_scheme(page: Window) -> None:
    await page.go(f"/reports?{PERIOD}", look=False)
    await page.page.emulate_media(color_scheme="light")
    await page.page.evaluate(COLOURED, "#4b86ed")
    await page.page.emulate_media(color_scheme="dark")
    await page.page.evaluate(COLOURED, "#4f78d2")


async def test_a_period_is_chosen_in_the_form(page: Window) -> None:
    await page.go("/reports", look=False)
    await page.page.get_by_label("From").fill("2024-02-20")
    await page.page.get_by_label("To", exact=True).fill("2024-02-21")
    await page.page.get_by_label("Show").select_option("requests")
    await page.page.get_by_role("button", name="Show").click()
    await expect(page.page.get_by_role("heading", name="Requests per day", exact=True)).to_be_visible()
    drawn = await page.page.evaluate(DRAWN)
    assert drawn["days-table"]["series"][1] == ["line", "requests so far", [11, 22]]


async def test_a_chart_is_saved_as_a_picture(page: Window) -> None:
    await page.page.set_viewport_size({"width": 360, "height": 740})
    await page.go(f"/reports?{PERIOD}", look=False)
    async with page.page.expect_download() as saving:
        await page.page.get_by_role("button", name="Save as PNG").nth(2).click()
    saved = await saving.value
    assert saved.suggested_filename == "llmgate-cost-by-user-2024-02-20-2024-03-01.png"
    picture = (await saved.path()).read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">I", picture[16:20]) == (2400,), "as wide on a phone as anywhere"


async def test_without_script_the_tables_are_there(used: Office, open_window: OpenWindow) -> None:
    plain = await open_window(used.served.url, javascript=False)
    await plain.go("/sign-in", look=False)
    await plain.page.get_by_label("Your key").fill(used.keys[Scope.READ])
    await plain.page.get_by_role("button", name="Sign in").click()
    await plain.go(f"/reports?{PERIOD}", look=False)
    await expect(plain.page.get_by_role("table")).to_have_count(5)
    await expect(plain.page.locator("canvas").first).to_be_hidden()
    await plain.look("reports-plain")
