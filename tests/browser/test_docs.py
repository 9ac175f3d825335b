"""`/docs` and `/redoc`, as somebody sees them who looks something up."""

from __future__ import annotations

from playwright.async_api import expect

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
    await window.look(theirs=OF_SWAGGER_UI)


async def test_redoc_shows_the_document(window: Window) -> None:
    await window.go("/redoc", look=False)
    await expect(window.page.get_by_role("heading", name="llmgate admin API")).to_be_visible()
    await window.look(theirs=OF_REDOC, paper=True, repeated="[id^='tag/']:not([id^='tag/me'])")
