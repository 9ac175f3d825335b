"""The portal, as a user and the lead of a team see it."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

import pytest
from playwright.async_api import Page, expect

from llmgate.money import to_nano
from llmgate.pricing import UNITS, Price
from llmgate.store import accounts, ledger, limits
from llmgate.types import Meters
from tests.books import Book
from tests.replay import Replay, json_answer
from tests.served import Person, Served, answers, completion, main_upstream, usage_of

from .conftest import OpenWindow
from .window import Window

CHARGE = Price(input=3_000 * UNITS, output=15_000 * UNITS)

LONG = "a-long-name@of-the-people.who-make-such-names.example.org-1234567"[:64]

PLANS = {
    "starter": {"price": 29, "limits": ["100000 tokens/month", "300 requests/minute"], "overage": 0.00001},
    "basic": {"limits": ["300 requests/minute"]},
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    config = {
        "plans": PLANS,
        "defaults": {"limits": ["50 concurrent"]},
        "models": {"zeta": {"routes": [{"upstream": "main"}]}},
    }
    with Replay() as up:
        up.handler = answers(json_answer(completion(usage=usage_of(10, 5))))
        config["upstreams"] = {"main": main_upstream(up)}
        with Served(tmp_path_factory.mktemp("portal"), config) as found:
            yield found


async def sign_in(open_window: OpenWindow, served: Served, person: Person, **options: bool) -> Window:
    window = await open_window(served.url, **options)
    await window.go("/sign-in", look=False)
    await window.page.get_by_label("Your key").fill(person.key)
    await window.page.keyboard.press("Enter")
    await expect(window.page).to_have_url(f"{served.url}/portal")
    return window


async def balance(page: Page) -> int:
    """What the page says, in nano-USD."""
    text = await page.locator("#balance").inner_text()
    return to_nano(Decimal(text.removeprefix("$").replace(",", "")))


async def test_a_new_user_sees_what_to_do(open_window: OpenWindow, served: Served) -> None:
    window = await sign_in(open_window, served, served.person())
    page = window.page
    await window.look("portal-new")
    for name in ("Keys", "Usage", "Requests"):
        await page.get_by_role("navigation", name="Main").get_by_role("link", name=name).click()
        await expect(page.get_by_role("heading", level=1)).to_have_text(name)
        await window.look(f"portal-new-{name.lower()}")


async def test_the_balance_falls_with_a_request(open_window: OpenWindow, served: Served) -> None:
    person = served.person(credits="1")
    with served.tx() as tx:
        accounts.set_user(tx, person.name, {"plan": "basic"})
        limits.hang(tx, person.name, ["$5/day", "20 requests total on zeta"])
        limits.hang(tx, f"key:{person.key_id}", ["2 requests total"])
    window = await sign_in(open_window, served, person)
    page = window.page
    assert await balance(page) == 1_000_000_000
    assert served.chat(person, model="zeta").status_code == 200
    served.settled(person, 1)
    await page.reload()
    assert await balance(page) == 1_000_000_000 - 10 * 1_000 - 5 * 2_000
    await window.look("portal")
    await expect(page.get_by_role("progressbar", name="2 requests total", exact=True)).to_have_attribute("value", "50")
    assert served.chat(person, model="zeta").status_code == 200
    served.settled(person, 2)
    await page.reload()
    await expect(page.get_by_role("progressbar", name="2 requests total", exact=True)).to_have_attribute("value", "100")


async def test_keys(open_window: OpenWindow, served: Served) -> None:
    """Made, used, rotated, revoked."""
    person = served.person(credits="1", name=LONG, models=["zeta", "gpt-4o*"])
    window = await sign_in(open_window, served, person)
    page = window.page
    await window.go("/portal/keys", look=False)
    await page.get_by_label("Name").fill("laptop")
    await page.get_by_text("Hold it to less").click()
    await page.get_by_label("Limits").fill("$5/day\n60 requests/minute")
    await window.look("portal-new-key")
    await page.get_by_label("Models").fill("llama*")
    await page.get_by_role("button", name="Make the key").click()
    await expect(page.get_by_role("alert")).to_contain_text("No model is allowed")
    await window.look("portal-new-key-refused", status=409)
    await page.get_by_label("Models").fill("zeta")
    await page.get_by_role("button", name="Make the key").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Your key laptop")
    made = await page.locator(".copyable code").first.inner_text()
    served.secrets.append(made)
    await page.get_by_role("button", name="Copy the key").click()
    await expect(page.get_by_role("button", name="Copied")).to_be_visible()
    await window.look("portal-issued")
    assert served.chat(made, model="zeta").status_code == 200
    await page.get_by_role("link", name="Done").click()
    await window.look("portal-keys")
    await page.get_by_role("link", name="laptop").click()
    await expect(page.get_by_role("heading", level=1)).to_contain_text("laptop")
    await window.look("portal-key")
    await page.get_by_label("What it is called").fill("desk")
    await page.get_by_role("button", name="Save the name").click()
    await expect(page.get_by_role("status")).to_contain_text("desk")
    await page.get_by_label("The old one works on").select_option("for an hour")
    await page.get_by_role("button", name="Rotate the key").click()
    await expect(page.get_by_text("The old one works until")).to_be_visible()
    new = await page.locator(".copyable code").first.inner_text()
    served.secrets.append(new)
    assert [served.chat(key, model="zeta").status_code for key in (made, new)] == [200, 200]
    await page.get_by_role("link", name="Done").click()
    await page.locator("summary").filter(has_text="Revoke").click()
    await window.look("portal-key-sure")
    await page.get_by_role("button", name="Yes, revoke it for good").click()
    await expect(page.get_by_role("status")).to_contain_text("revoked")
    await window.look("portal-keys-ended")
    assert [served.chat(key, model="zeta").status_code for key in (made, new)] == [401, 401]


async def test_a_month_of_use(open_window: OpenWindow, served: Served) -> None:
    person = served.person()
    book = Book(served.database)
    for day in range(1, 29):
        book.use(
            person.key,
            Meters(input=day * 1_000, output=day * day * 10, calls=1),
            day=f"2024-02-{day:02}",
            charge=CHARGE,
        )
    book.use(person.key, Meters(input=10, calls=1), day="2024-02-29", model=f"an-upstream/{LONG}")
    book.close()
    with served.tx() as tx:
        accounts.set_user(tx, person.name, {"plan": "starter"})
    assert served.chat(person, model="zeta").status_code == 200
    window = await sign_in(open_window, served, person)
    page = window.page
    await window.look("portal-plan")
    await window.go("/portal/usage?month=2024-02", repeated="tbody tr:nth-child(n + 4)")
    # 3 USD for 1M input, 15 for 1M output: 28 * 29 / 2 = 406 thousand, 10 * 7,714 = 77,140
    await expect(page.locator(".cards")).to_contain_text("$2.3751")
    await page.get_by_role("link", name="2024-01").click()
    await expect(page.get_by_text("Nothing was used in 2024-01.")).to_be_visible()
    await window.go("/portal/requests", repeated="tbody tr:nth-child(n + 4)")
    async with page.expect_download() as download:
        await page.goto(f"{served.url}/portal/usage?month=2024-02")
        await page.get_by_role("button", name="Download as CSV").click()
    assert (await download.value).suggested_filename.endswith("-requests-2024-02-01-2024-02-29.csv")


async def test_a_lead(open_window: OpenWindow, served: Served) -> None:
    with served.tx() as tx:
        accounts.add_team(tx, "research")
        ledger.add(tx, "team:research", 5_000_000_000)
        limits.hang(tx, "team:research", ["$50/month", "100 requests total"])
        accounts.add_user(tx, LONG, team="research")
    lead, member = served.person(team="research"), served.person(team="research")
    with served.tx() as tx:
        accounts.set_user(tx, lead.name, {"leads": "research"})
    for person, count in ((lead, 1), (member, 3)):
        for _ in range(count):
            assert served.chat(person, model="zeta").status_code == 200
        served.settled(person, count)
    window = await sign_in(open_window, served, member)
    await expect(window.page.get_by_text("What it has left is told to its lead.")).to_be_visible()
    await window.look("portal-member")
    await window.go("/portal/team", status=403, look=False)

    window = await sign_in(open_window, served, lead)
    page = window.page
    await page.get_by_role("navigation", name="Main").get_by_role("link", name="Team").click()
    assert await balance(page) == 5_000_000_000 - 4 * 20_000
    await window.look("team")
    await page.get_by_role("link", name=member.name).first.click()
    await window.look("team-member")
    await page.get_by_label("Set a limit").fill("$60/month")
    await page.get_by_role("button", name="Set the limit").click()
    await expect(page.get_by_role("alert")).to_contain_text("more than the team's own")
    await page.get_by_label("Set a limit").fill("3 requests total")
    await page.get_by_role("button", name="Set the limit").click()
    await expect(page.get_by_role("status")).to_contain_text("3 requests total")
    await window.look("team-member-limited")
    assert served.chat(member, model="zeta").status_code == 429
    await page.get_by_role("button", name="Take off 3 requests total").click()
    await expect(page.get_by_role("status")).to_contain_text("is gone")
    assert served.chat(member, model="zeta").status_code == 200
    await page.get_by_text("New key for").click()
    await page.get_by_label("Name").fill("ci")
    await page.get_by_role("button", name="Make the key").click()
    made = await page.locator(".copyable code").first.inner_text()
    served.secrets.append(made)
    assert served.chat(made, model="zeta").status_code == 200
    await page.get_by_role("link", name="Done").click()
    row = page.get_by_role("row", name="ci").first
    await row.locator("summary").click()
    await row.get_by_role("button", name="Yes, revoke ci").click()
    await expect(page.get_by_role("status")).to_contain_text("is revoked")
    assert served.chat(made, model="zeta").status_code == 401


async def test_without_scripts(open_window: OpenWindow, served: Served) -> None:
    window = await sign_in(open_window, served, served.person(credits="1"), javascript=False)
    page = window.page
    await window.look("portal-plain")
    await window.go("/portal/keys", look=False)
    await page.get_by_label("Name").fill("plain")
    await page.get_by_role("button", name="Make the key").click()
    served.secrets.append(await page.locator(".copyable code").first.inner_text())
    await page.get_by_role("link", name="Done").click()
    await page.get_by_role("link", name="plain").click()
    await page.locator("summary").filter(has_text="Revoke").click()
    await page.get_by_role("button", name="Yes, revoke it for good").click()
    await expect(page.get_by_role("status")).to_contain_text("Key plain is revoked")
