"""The ASGI application: which path is what. Beside the walk there are only small, quick answers."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote

import msgspec

from ..errors import Failure, LlmgateError, Refusal
from ..store import workers
from . import cors, metrics
from .admins import Door
from .http import Receive, Scope, Send, header, names_connections, own_headers, respond, unread
from .models import Offer
from .own import OWN
from .paths import dialect_of
from .pipeline import Gateway, new_request_id, refuse

log = logging.getLogger("llmgate.server")

MODELS = re.compile(rb"/v1(?:alpha|beta)?/models(?:/(.+))?")


API = (b"/admin", b"/public/", b"/openapi.json", b"/docs", b"/redoc")
"""Paths of the admin API: these, and all that begin so and are no pages."""

SITE = (b"/portal", b"/reports", b"/request-key", b"/sign-in", b"/sign-out", b"/admin/pages", b"/static/")
"""Paths of the pages: these, all that begin so, and those of `PAGES`."""

PAGES = (b"/", b"/admin", b"/favicon.ico")

Beside = Callable[[Scope, Receive, Send], Awaitable[None]]


def _is_page(path: bytes) -> bool:
    return path.startswith(SITE) or path in PAGES


class App:
    """What the server runs."""

    def __init__(self, gateway: Gateway, api: Beside | None = None, site: Beside | None = None) -> None:
        self._gateway = gateway
        self._api = api
        self._site = site
        self._offer = Offer(gateway)
        self._door = Door(gateway)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await _lifespan(receive, send)
        else:
            await receive()
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        origins, path = self._gateway.config.server.cors_origins, scope["raw_path"]
        if origins and not _is_page(path) and (told := cors.allowed(origins, scope)):
            if cors.is_preflight(scope):
                return await respond(send, 204, cors.preflight(scope, told), b"")
            send = cors.telling(send, told)
        try:
            asked = self._gateway.paths.asked_at(path, scope["method"])
            if asked is not None:
                await self._gateway.handle(asked, scope, receive, send)
            elif self._site is not None and _is_page(path):
                await self._site(scope, receive, send)
            elif self._api is not None and path.startswith(API):
                await self._api(scope, receive, send)
            else:
                async with unread(receive):
                    await self._answer(scope, send)
        except LlmgateError as error:
            with_body = scope["method"] not in ("GET", "HEAD")
            close = with_body and names_connections(scope)
            await refuse(send, dialect_of(scope), error, new_request_id(), close=close)
        except Exception:
            # Nothing of it reaches the client; the log has all of it.
            log.exception("a request failed inside the gateway")
            try:
                await refuse(send, dialect_of(scope), Failure("the gateway failed: its log says why"), new_request_id())
            except Exception:
                log.debug("the answer had begun already")

    async def _answer(self, scope: Scope, send: Send) -> None:
        path = scope["raw_path"]
        if methods := self._gateway.paths.methods(path):
            _allow(scope, *methods)
        if path == b"/health":
            _allow(scope, "GET", "HEAD")
            return await _reply(send, {"status": "ok"})
        if path == b"/ready":
            _allow(scope, "GET", "HEAD")
            wrong = self._unready()
            answer = {"status": "ok"} if wrong is None else {"status": "unavailable", "storage": wrong}
            return await _reply(send, answer, 200 if wrong is None else 503)
        method_of_model = scope["method"] == "POST" and b":" in path  # one of Google's that isn't served
        if (match := MODELS.fullmatch(path)) and not method_of_model:
            _allow(scope, "GET", "HEAD")
            _, caller = self._gateway.authenticate(scope)
            name = unquote((match[1] or b"").decode("latin-1"))
            return await _reply(send, await self._offer.answer(dialect_of(scope).name, caller, name))
        if path in OWN:
            _allow(scope, "GET", "HEAD")
            _, caller = self._gateway.authenticate(scope)
            return await _reply(send, await OWN[path](self._gateway, caller))
        if path == b"/models/simple":
            _allow(scope, "GET", "HEAD")
            _, caller = self._gateway.authenticate(scope)
            return await _reply(send, {"models": await self._offer.names(caller)})
        if path == b"/metrics" and self._gateway.config.server.metrics != "off":
            _allow(scope, "GET", "HEAD")
            return await self._metrics(scope, send)
        hint = self._gateway.paths.hint(path)
        raise Refusal(f"there is nothing at {scope['method']} {scope['path'][:200]}{hint}", code="not_found")

    async def _metrics(self, scope: Scope, send: Send) -> None:
        """For whoever has an admin key, and for this machine if the config says so."""
        gateway = self._gateway
        if gateway.config.server.metrics != "loopback" or not _is_local(scope, gateway.address_of(scope)):
            self._door.admin(scope)
        serving = await asyncio.to_thread(workers.living, gateway.database.path)
        told = await gateway.reader.run(lambda tx: metrics.text(tx, serving))
        headers = [(b"content-type", metrics.CONTENT_TYPE), *own_headers(new_request_id())[1:]]
        await respond(send, 200, headers, told)

    def _unready(self) -> str | None:
        """What is wrong with the database, in words that anybody may read; None: it can be read and written."""
        try:
            self._gateway.look(lambda tx: tx.value("SELECT count(*) FROM meta"))
        except Exception:
            log.exception("the database can't be read")
            return "the database can't be read"
        return None if self._gateway.writer.trouble is None else "the database can't be written"


def _is_local(scope: Scope, address: str) -> bool:
    """Whether a request comes from this machine, and was not passed on by a proxy here that nobody said to trust."""
    passed_on = (b"x-forwarded-for", b"forwarded", b"x-real-ip")
    if scope.get("client") and scope["client"][0] == address and any(header(scope["headers"], h) for h in passed_on):
        return False
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _allow(scope: Scope, *methods: str) -> None:
    if scope["method"] not in methods:
        raise Refusal(
            f"{scope['method']} is not for {scope['path'][:200]}: use {' or '.join(methods)}",
            code="method_not_allowed",
            headers=(("allow", ", ".join(methods)),),
        )


async def _reply(send: Send, answer: dict[str, Any], status: int = 200) -> None:
    await respond(send, status, own_headers(new_request_id()), msgspec.json.encode(answer))


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
