"""A window of a browser, and what went wrong in it.

    await window.go("/portal")                    # status 200, and looked at: see `look`
    await window.page.get_by_label("Name").fill("laptop")
    await window.page.get_by_role("button", name="Make a key").click()
    await window.look("portal-key-made")          # what came of it

Whatever a window does is watched: errors and warnings of the console (what the Content-Security-Policy forbids is
among them), requests that fail, and requests to any other host. A page that is looked at is seen wide and on a phone,
in light and dark: axe-core finds nothing, and nothing is wider than the screen. With `LLMGATE_SCREENSHOTS=folder`,
what was seen is kept there, for people.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from urllib.parse import urlsplit

from axe_playwright_python.async_playwright import Axe

if TYPE_CHECKING:
    from playwright.async_api import BrowserContext, ConsoleMessage, Page, Request, Response

AXE = Axe()

INSIDE = ("data", "blob", "about")
"""URLs by which nobody is asked."""


class View(NamedTuple):
    """How a page is seen; sizes are in CSS pixels."""

    name: str
    width: int
    height: int
    scheme: Literal["light", "dark"]


VIEWS = (
    View("wide-light", 1280, 800, "light"),
    View("wide-dark", 1280, 800, "dark"),
    View("phone-dark", 360, 740, "dark"),
    View("phone-light", 360, 740, "light"),
)

WIDER = """() => {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= width) return [];
  return [...document.body.querySelectorAll("*")].filter(one => one.getBoundingClientRect().right > width)
    .map(one => one.outerHTML.slice(0, 120));
}"""

BACKGROUND = """() => {
  const probe = document.body.appendChild(document.createElement("i"));
  probe.style.backgroundColor = "Canvas";
  const all = [document.body, document.documentElement, probe].map(one => getComputedStyle(one).backgroundColor);
  probe.remove();
  return all.find(color => color != "rgba(0, 0, 0, 0)");
}"""
"""What is painted behind everything: what the page says, or else the browser's own."""


class Window:
    """A page with cookies of its own."""

    def __init__(self, context: BrowserContext, page: Page, url: str, *, javascript: bool) -> None:
        self.page = page
        self.url = url
        """Of the gateway: paths are below it."""
        self.status = 0
        """Of the document that is shown."""
        self.mishaps: list[str] = []
        self._javascript = javascript
        self._origins = {_origin(url)}
        context.on("console", self._said)
        context.on("weberror", lambda error: self.mishaps.append(f"uncaught: {error.error}"))
        context.on("request", self._asked)
        context.on("requestfailed", self._failed)
        context.on("response", self._answered)

    def also(self, url: str) -> None:
        """Another host that may be asked: an identity provider."""
        self._origins.add(_origin(url))

    async def go(self, path: str, *, status: int = 200, look: bool = True, **how: Any) -> None:
        """Open a path and look at what is there; `how` as for `look`."""
        await self.page.goto(self.url + path)
        assert self.status == status, (path, self.status)
        if look:
            await self.look(status=status, **how)

    async def look(
        self,
        name: str | None = None,
        *,
        status: int = 200,
        paper: bool = False,
        theirs: Mapping[str, str] | None = None,
        repeated: str = "",
    ) -> None:
        """Check the page that is shown.

        `name` is the screenshots'; else the path is. `status` is what the document was answered with. `paper`: it is
        white in the dark as well, and only seen so. `theirs`: axe's rules that a vendored library breaks, and where:
        all of them, so that the list shrinks with its next version. `repeated`: a selector of more of the same
        that axe is spared: a page of a thousand elements takes it seconds.
        """
        assert self.status == status, (self.page.url, self.status)
        name = name or re.sub(r"\W+", "-", urlsplit(self.page.url).path.strip("/")) or "home"
        theirs = theirs or {}
        found: dict[str, str] = {}
        grounds = {}
        for view in [view for view in VIEWS if not paper or view.scheme == "light"]:
            await self.page.set_viewport_size({"width": view.width, "height": view.height})
            await self.page.emulate_media(color_scheme=view.scheme)
            await self.keep(f"{name}-{view.name}")
            assert await self.wider() == [], f"{name} is wider than the screen: {view.name}"
            grounds[view.scheme] = await self.page.evaluate(BACKGROUND)
            if self._javascript:  # axe waits for timers, which such a page doesn't have
                found |= {rule: f"{view.name}: {what}" for rule, what in await self._violations(repeated)}
        wrong = [f"{rule}: {what}" for rule, what in found.items() if rule not in theirs]
        assert not wrong, "\n".join([f"axe on {name}", *wrong])
        if self._javascript:
            assert set(found) == set(theirs), f"no longer broken: {set(theirs) - set(found)}"
        assert paper or grounds["light"] != grounds["dark"], f"{name} is no darker in the dark"
        self.check()

    def check(self) -> None:
        """Nothing went wrong so far."""
        mishaps, self.mishaps = self.mishaps, []
        assert not mishaps, "\n".join(mishaps)

    async def wider(self) -> list[str]:
        """What makes the page scroll sideways."""
        found: list[str] = await self.page.evaluate(WIDER)
        return found

    async def keep(self, name: str) -> None:
        """Keep a screenshot, for people."""
        if folder := os.environ.get("LLMGATE_SCREENSHOTS"):
            await self.page.screenshot(path=Path(folder, f"{name}.png"), full_page=True)

    async def _violations(self, repeated: str) -> list[tuple[str, str]]:
        results = await AXE.run(self.page, context={"exclude": [repeated]} if repeated else None)
        return [(one["id"], _told(one)) for one in results.response["violations"]]

    # -- what is watched

    def _said(self, message: ConsoleMessage) -> None:
        # What failed to load is judged by its status and its kind; an icon that no page names is only told here.
        answered = message.text.startswith("Failed to load resource") and "/favicon" not in message.location["url"]
        if message.type in ("error", "warning") and not answered:
            self.mishaps.append(f"{message.type} on {message.page and message.page.url}: {message.text}")

    def _asked(self, request: Request) -> None:
        if urlsplit(request.url).scheme not in INSIDE and _origin(request.url) not in self._origins:
            self.mishaps.append(f"another host is asked: {request.url}")

    def _failed(self, request: Request) -> None:
        if request.failure != "net::ERR_ABORTED":  # the page was left, or the answer is a download
            self.mishaps.append(f"failed: {request.method} {request.url}: {request.failure}")

    def _answered(self, response: Response) -> None:
        if response.request.is_navigation_request() and response.frame == self.page.main_frame:
            self.status = response.status
        elif response.status >= 400:
            self.mishaps.append(f"{response.status}: {response.request.method} {response.url}")


def _told(violation: Mapping[str, Any]) -> str:
    """What axe found, and the first places of it."""
    nodes = violation["nodes"]
    places = [f"  {node['target'][0]}: {node['html'][:120]}" for node in nodes[:3]]
    return "\n".join([f"{violation['help']} ({len(nodes)})", *places])


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
