"""The first page, and signing in and out, as people do it."""

from __future__ import annotations

from playwright.async_api import expect

from llmgate.store import links
from llmgate.store.admins import Scope
from tests.admin.conftest import Office

from .conftest import OpenWindow
from .window import Window


async def test_the_first_page(window: Window, office: Office) -> None:
    await window.go("/")
    page = window.page
    await expect(page.get_by_text(f"{office.served.url}/v1").first).to_be_visible()
    await page.get_by_role("button", name="Copy").first.click()
    await expect(page.get_by_role("button", name="Copied")).to_be_visible()
    await page.get_by_role("link", name="Sign in").first.click()
    await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


async def test_a_wrong_key_and_a_wrong_path(window: Window) -> None:
    page = window.page
    await window.go("/portal", look=False)
    await window.look("sign-in")
    await page.get_by_label("Your key").fill("sk-lg-nonsense")
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_role("alert")).to_contain_text("This is no key of this gateway")
    await window.look("sign-in-refused", status=401)
    await window.go("/portal/nothing", status=404)


async def test_a_session(open_window: OpenWindow, office: Office) -> None:
    person = office.served.person()
    window = await open_window(office.served.url)
    page = window.page
    await window.go("/sign-in", look=False)
    await page.get_by_label("Your key").fill(person.key)
    await page.keyboard.press("Enter")
    await expect(page).to_have_url(f"{office.served.url}/portal")
    await expect(page.get_by_role("banner")).to_contain_text(person.name)
    await page.get_by_role("link", name=person.name).click()
    await expect(page.get_by_role("heading", name="Where you are signed in")).to_be_visible()
    await window.look("sessions")
    await page.get_by_role("button", name="Sign out", exact=True).click()
    await expect(page.get_by_role("status")).to_have_text("You are signed out.")
    await window.look("signed-out")
    await window.go("/portal", look=False)
    await expect(page).to_have_url(f"{office.served.url}/sign-in?next=/portal")


async def test_with_a_link_and_without_scripts(open_window: OpenWindow, office: Office) -> None:
    person = office.served.person()
    with office.served.tx() as tx:
        secret, _ = links.add(tx, person.name)
    office.served.secrets.append(secret)
    window = await open_window(office.served.url, javascript=False)
    page = window.page
    await window.go(f"/sign-in/link?token={secret}", look=False)
    await window.look("sign-in-link")
    await page.get_by_role("button", name="Sign in").click()
    await expect(page).to_have_url(f"{office.served.url}/portal")
    await window.go(f"/sign-in/link?token={secret}", status=410)


async def test_an_admin(open_window: OpenWindow, office: Office) -> None:
    window = await open_window(office.served.url)
    await window.go("/sign-in", look=False)
    await window.page.get_by_label("Your key").fill(office.keys[Scope.READ])
    await window.page.keyboard.press("Enter")
    await expect(window.page.get_by_role("banner")).to_contain_text("admin read")
    await window.go("/portal", status=403)
