"""Chromium, a gateway to look at, and windows of the one on the other.

Tests here are async and share one loop for the session of a process, and so one browser: a window of it costs little.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from tests.admin.conftest import Office
from tests.replay import Replay, json_answer
from tests.served import Served, answers, completion, main_upstream, usage_of

if TYPE_CHECKING:
    from playwright.async_api import Browser

    from .window import Window

OpenWindow = Callable[..., Awaitable["Window"]]

CHROMIUM = os.environ.get("LLMGATE_CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "google-chrome"))), ""
)

FLAGS = (
    *("--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)

PATIENCE_MS = 30_000
"""A busy machine is no defect."""


class Unseen(pytest.Module):
    """Tests that need what isn't here."""

    def collect(self) -> Iterable[Any]:
        what = "Playwright (make test-browser installs it)" if CHROMIUM else "Chromium (apt-get install chromium)"
        pytest.skip(f"tests/browser is skipped: {what} is missing")


def pytest_pycollect_makemodule(module_path: Path, parent: Any) -> pytest.Module | None:
    here = CHROMIUM and find_spec("playwright") and find_spec("axe_playwright_python")
    return None if here else Unseen.from_parent(parent, path=module_path)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.browser)
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chromium() -> AsyncIterator[Browser]:
    """Without a window, a network, a profile or anything that it would do by itself."""
    from playwright.async_api import async_playwright, expect

    expect.set_options(timeout=PATIENCE_MS)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield browser
        await browser.close()


@pytest.fixture(scope="session")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    """A gateway with a user who has used it, and an admin of each scope; shared by the tests of a process."""
    with Replay() as up:
        up.handler = answers(json_answer(completion(usage=usage_of(10, 5))))
        with Served(tmp_path_factory.mktemp("browser"), {"upstreams": {"main": main_upstream(up)}}) as served:
            yield Office(served)


@pytest_asyncio.fixture(loop_scope="session")
async def open_window(chromium: Browser) -> AsyncIterator[OpenWindow]:
    """`await open_window(served.url)`: a window with cookies of its own, and nothing went wrong in it at the end.

    `javascript=False` opens one without scripts; other names are options of Playwright's `new_context`.
    """
    from .window import Window

    opened: list[Window] = []

    async def open_one(url: str, *, javascript: bool = True, **options: Any) -> Window:
        context = await chromium.new_context(java_script_enabled=javascript, reduced_motion="reduce", **options)
        context.set_default_timeout(PATIENCE_MS)
        opened.append(Window(context, await context.new_page(), url, javascript=javascript))
        return opened[-1]

    yield open_one
    for window in opened:
        await window.page.context.close()
    for window in opened:
        window.check()


@pytest_asyncio.fixture(loop_scope="session")
async def window(open_window: OpenWindow, office: Office) -> Window:
    """A window on the gateway of `office`."""
    return await open_window(office.served.url)
