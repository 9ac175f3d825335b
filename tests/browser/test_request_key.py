"""Asking for a key, as people do it: the key is used from the page that shows it."""

from __future__ import annotations

import re
from pathlib import Path

from playwright.async_api import expect

from llmgate.config import SelfService
from llmgate.plans import NONE
from llmgate.store import requests
from llmgate.types import Billing
from tests.served import Served

from .conftest import OpenWindow

KEY = re.compile(r"sk-lg-[0-9A-Za-z]{49}")
SECRET = re.compile(r"sk-lg-request-[0-9A-Za-z]{49}")


def config(mode: str) -> dict[str, object]:
    service = {"mode": mode, "limits": ["5 requests/day"], "credits": 2, "models": ["echo"], "expires": "90d"}
    return {"upstreams": {"sandbox": {}}, "self_service": service}


async def test_a_key_at_once(tmp_path: Path, open_window: OpenWindow) -> None:
    with Served(tmp_path, config("open")) as served:
        window = await open_window(served.url)
        page = window.page
        await window.go("/", look=False)
        await page.get_by_role("link", name="Ask for a key").click()
        await expect(page.get_by_role("heading", name="Ask for a key")).to_be_visible()
        await window.look("request-key")
        await page.get_by_label("Your name here").fill("Ann Lee")
        await page.get_by_role("button", name="Give me a key").click()
        await expect(page.get_by_text("is no name for a user")).to_be_visible()
        await window.look("request-key-refused", status=400)
        await page.get_by_label("Your name here").fill("ann")
        await page.get_by_role("button", name="Give me a key").click()
        await expect(page.get_by_role("heading", name="Your key, ann")).to_be_visible()
        shown = await page.get_by_text(KEY).first.text_content() or ""
        served.secrets.append(shown)
        await window.look("request-key-done")
        await page.get_by_role("button", name="Copy the key").click()
        await expect(page.get_by_role("button", name="Copied")).to_be_visible()
        answer = served.client.post(
            f"{served.url}/v1/chat/completions",
            json={"model": "echo", "messages": [{"role": "user", "content": "hi"}]},
            headers={"authorization": f"Bearer {shown}"},
        )
        assert answer.status_code == 200, answer.text


async def test_who_waits_comes_back(tmp_path: Path, open_window: OpenWindow) -> None:
    with Served(tmp_path, config("approval")) as served:
        window = await open_window(served.url, javascript=False)
        page = window.page
        await window.go("/request-key")
        await page.get_by_label("Your name here").fill("ben")
        await page.get_by_label("What you need it for").fill("thesis")
        await page.get_by_role("button", name="Send the request").click()
        await expect(page.get_by_text("waiting", exact=True)).to_be_visible()
        served.secrets.append(SECRET.findall(await page.content())[0])
        await window.look("request-key-waits")
        with served.tx() as tx:
            requests.approve(tx, SelfService(mode="approval"), 1, NONE, Billing.METERED)
        await page.get_by_role("link", name="Look again").click()
        await window.look("request-key-approved")
        await page.get_by_role("button", name="Show my key").click()
        await expect(page.get_by_role("heading", name="Your key, ben")).to_be_visible()
        served.secrets.append(KEY.findall(await page.content())[0])
        await window.go("/request-key")
