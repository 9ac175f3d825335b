"""`/docs` and `/redoc`, as somebody sees them who looks something up."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from llmgate.store.admins import Scope
from tests.admin.conftest import Office

from .conftest import OpenWindow
from .window import Window

OF_SWAGGER_UI = {
    "color-contrast": "white on the colours of methods; grey of versions and codes",
    "heading-order": "tags are h3 below the h1",
    "nested-interactive": "the padlock in an operation's line, which is a button itself",
    "select-name": "the choice of a server",
}

OF_REDOC = {
    "color-contrast": "grey of headings, red of codes",
    "heading-order": "Authorizations are h5 below an h2",
}


async def test_swagger_ui_shows_the_document(window: Window) -> None:
    await window.go("/docs", look=False)
    await expect(window.page.get_by_role("heading", name="llmgate admin API")).to_be_visible()
    await window.look(theirs=OF_SWAGGER_UI, repeated="[id^='operations-']:not([id*='-me'])")


async def test_swagger_ui_calls_with_an_admin_key(window: Window, office: Office) -> None:
    page = window.page
    await window.go("/docs", look=False)
    await page.get_by_role("button", name="Authorize").click()
    await page.locator(".modal-ux input").first.fill(office.keys[Scope.READ])
    await page.get_by_role("button", name="Apply credentials").first.click()
    await window.keep("docs-authorized")
    await page.get_by_role("button", name="Close").first.click()
    await page.get_by_role("button", name="Whose admin key").click()
    await page.get_by_role("button", name="Try it out").click()
    await page.get_by_role("button", name="Execute").click()
    await expect(page.locator(".live-responses-table .microlight").first).to_contain_text('"scope": "read"')
    await window.keep("docs-called")
    for scheme in ("light", "dark"):
        await page.emulate_media(color_scheme=scheme)
        await page.set_viewport_size({"width": 360, "height": 740})
        await window.keep(f"docs-called-phone-{scheme}")
        assert await window.wider() == []


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
async def test_without_scripts_a_page_says_what_needs_none(open_window: OpenWindow, office: Office, path: str) -> None:
    window = await open_window(office.served.url, javascript=False)
    await window.go(path, name=f"{path[1:]}-without-scripts")
    await window.page.get_by_role("link", name="openapi.json").click()
    assert window.page.url == f"{office.served.url}/openapi.json"


async def test_redoc_shows_the_document(window: Window) -> None:
    await window.go("/redoc", look=False)
    await expect(window.page.get_by_role("heading", name="llmgate admin API")).to_be_visible()
    await window.look(theirs=OF_REDOC, paper=True, repeated="[id^='tag/']:not([id^='tag/me'])")
