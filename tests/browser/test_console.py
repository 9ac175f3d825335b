"""`/admin` and its pages, as an admin sees them."""

from __future__ import annotations

import pytest
import pytest_asyncio
from playwright.async_api import expect

from llmgate.store import accounts, keys, ledger, limits
from llmgate.store.admins import Scope
from tests.admin.conftest import Office

from .window import Window

NAME = "clicked-at.with-a-name-that-is-as-long-as-names-may-be@example.org"[:64]


@pytest_asyncio.fixture(loop_scope="session")
async def admin(office: Office, window: Window) -> Window:
    """Signed in with an admin key of scope all."""
    with office.served.tx() as tx:
        if accounts.find_user(tx, NAME) is None:
            accounts.add_user(tx, NAME, email=f"{NAME}.example")
            keys.add(tx, NAME, note="a note\nof two lines", tags={"agent": "coder"})
            limits.hang(tx, NAME, ["$0.000001/month", "2 concurrent"])
            ledger.add(tx, NAME, 1_234_567_890_123_456, note="<b>much</b>")
    await window.go("/sign-in", look=False)
    await window.page.get_by_label("Your key").fill(office.keys[Scope.ALL])
    await window.page.get_by_role("button", name="Sign in").click()
    await expect(window.page.get_by_role("heading", name="Overview")).to_be_visible()
    return window


@pytest.mark.parametrize(
    "path",
    [
        *("/admin", "/admin/pages/users", f"/admin/pages/users/{NAME}", "/admin/pages/keys?all=true"),
        *(f"/admin/pages/credits/{NAME}", f"/admin/pages/limits/{NAME}", "/admin/pages/audit", "/admin/pages/requests"),
    ],
)
async def test_pages_of_admins(admin: Window, path: str) -> None:
    await admin.go(path)


async def test_a_key_is_issued_and_ended(admin: Window) -> None:
    page = admin.page
    await admin.go(f"/admin/pages/users/{NAME}", look=False)
    await page.get_by_role("link", name="Issue a key").click()
    await expect(page.get_by_label("User", exact=True).last).to_have_value(NAME)
    await page.get_by_label("Name of the key").fill("by-hand")
    await page.get_by_label("Limits of the key").fill("5 apples/day")
    await page.get_by_role("button", name="Issue the key").click()
    await expect(page.get_by_role("alert")).to_contain_text("apples")
    await admin.look("key-refused", status=400)
    await page.get_by_label("Limits of the key").fill("$5/day")
    await page.get_by_role("button", name="Issue the key").click()
    await expect(page.get_by_text("Copy it now:")).to_be_visible()
    await admin.look("key-issued", status=200)
    await page.get_by_role("link", name="To the key").click()
    await expect(page.get_by_role("heading", level=1)).to_contain_text("by-hand active")
    await admin.look("key")
    await page.locator("summary", has_text="Revoke").click()
    await page.get_by_role("button", name="Yes, revoke it for good").click()
    await expect(page.get_by_role("status")).to_contain_text("revoked for good")
    await expect(page.get_by_role("button", name="Save")).to_have_count(0)


async def test_without_scripts(office: Office, admin: Window) -> None:
    """Credits are added with no script at all."""
    before = office.served.balance(NAME)
    page = admin.page
    await page.route("**/*.js*", lambda route: route.fulfill(body="", content_type="text/javascript"))
    await admin.go(f"/admin/pages/credits/{NAME}", look=False)
    await page.get_by_label("USD").fill("0.000000001")
    await page.get_by_role("button", name="Add").click()
    await expect(page.get_by_role("status")).to_contain_text("$0.000000001 added")
    assert office.served.balance(NAME) == before + 1
