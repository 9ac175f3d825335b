"""Signing in with an account elsewhere, at a real OpenID provider: there and back in one window."""

from __future__ import annotations

from pathlib import Path

from playwright.async_api import expect

from tests.served import Served
from tests.web.issuers import CLIENT, CLIENT_SECRET, nowhere, provider

from .conftest import OpenWindow

STYLES = "https://cdn.jsdelivr.net"


async def test_there_and_back(open_window: OpenWindow, tmp_path: Path) -> None:
    with provider(tmp_path) as mock, nowhere() as gone:
        mock.knows("ann", email="ann@corp.example", email_verified=True)
        of_client = {"client_id": CLIENT, "client_secret": CLIENT_SECRET}
        ways = {
            "sso": {**of_client, "issuer": mock.url, "label": "Example SSO", "new_users": "create"},
            "gone": {**of_client, "issuer": gone, "label": "A Provider with Rather a Long Name That Is Not There"},
        }
        with Served(tmp_path, {"upstreams": {"sandbox": {}}, "oidc": ways}) as served:
            window = await open_window(served.url)
            page = window.page
            window.also(mock.url)
            window.also(STYLES)  # of the provider's page
            await page.route(f"{STYLES}/**", lambda route: route.fulfill(body="", content_type="text/css"))
            await window.go("/portal", look=False)
            await window.look("sign-in-ways")
            await page.get_by_role("link", name="Sign in with A Provider").click()
            await expect(page.get_by_role("alert")).to_contain_text("can't be asked from here")
            await window.look("sign-in-gone", status=503)
            await window.go("/portal", look=False)
            await page.get_by_role("link", name="Sign in with Example SSO").click()
            await page.get_by_placeholder("sub").fill("ann")
            await page.get_by_role("button", name="Authorize").click()
            await expect(page).to_have_url(f"{served.url}/portal")
            await expect(page.get_by_role("banner")).to_contain_text("ann")
            await page.reload()
            await expect(page.get_by_role("banner")).to_contain_text("ann")
