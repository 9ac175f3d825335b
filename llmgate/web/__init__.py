"""The pages: what people see with a browser.

    pages    every page: the one table that the server and the tests go by
    visits   a visit, and what may be answered
    site     the ASGI application             cookies  what a browser keeps: sessions, tokens of forms
    forms    what was typed, as a struct      render   templates, static files
    home signing_in portal …                  the pages themselves: functions of a transaction and a visit

Nothing of it is imported before somebody asks for a page.
"""

from __future__ import annotations

import asyncio
from importlib import import_module

from ..admin.desk import Desk
from ..gateway.app import Beside
from ..gateway.http import Receive, Scope, Send
from ..gateway.pipeline import Gateway


class Site:
    """The application, made when the first page is asked for."""

    def __init__(self, gateway: Gateway, desk: Desk) -> None:
        self._gateway = gateway
        self._desk = desk
        self._made: Beside | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._made is None:
            module = await asyncio.to_thread(import_module, ".site", __package__)
            self._made = self._made or module.Pages(self._gateway, self._desk)
        await self._made(scope, receive, send)
