"""The ASGI application: which path is what. Beside the walk there are only small, quick answers."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import msgspec

from ..errors import Failure, LlmgateError, Refusal
from ..money import usd
from ..store import limits
from ..store.keys import Caller
from . import cors
from .http import Receive, Scope, Send, names_connections, own_headers, respond, unread
from .models import Offer
from .paths import dialect_of
from .pipeline import Gateway, refuse

log = logging.getLogger("llmgate.server")

MODELS = re.compile(rb"/v1(?:alpha|beta)?/models(?:/(.+))?")


class App:
    """What the server runs."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._offer = Offer(gateway)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await _lifespan(receive, send)
        else:
            await receive()
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        origins = self._gateway.config.server.cors_origins
        if origins and (told := cors.allowed(origins, scope)):
            if cors.is_preflight(scope):
                return await respond(send, 204, cors.preflight(scope, told), b"")
            send = cors.telling(send, told)
        try:
            asked = self._gateway.paths.asked_at(scope["raw_path"], scope["method"])
            if asked is not None:
                await self._gateway.handle(asked, scope, receive, send)
            else:
                async with unread(receive):
                    await self._answer(scope, send)
        except LlmgateError as error:
            with_body = scope["method"] not in ("GET", "HEAD")
            close = with_body and names_connections(scope)
            await refuse(send, dialect_of(scope), error, _request_id(), close=close)
        except Exception:
            # Nothing of it reaches the client; the log has all of it.
            log.exception("a request failed inside the gateway")
            try:
                await refuse(send, dialect_of(scope), Failure("the gateway failed: its log says why"), _request_id())
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
            return await _reply(send, OWN[path](self._gateway, caller))
        hint = self._gateway.paths.hint(path)
        raise Refusal(f"there is nothing at {scope['method']} {scope['path'][:200]}{hint}", code="not_found")

    def _unready(self) -> str | None:
        """What is wrong with the database, in words that anybody may read; None: it can be read and written."""
        try:
            self._gateway.look(lambda tx: tx.value("SELECT count(*) FROM meta"))
        except Exception:
            log.exception("the database can't be read")
            return "the database can't be read"
        return None if self._gateway.writer.trouble is None else "the database can't be written"


def _balance(_: Gateway, caller: Caller) -> dict[str, Any]:
    """What is left; a team's balance is not told to its members."""
    told = caller.account_kind == "user"
    return {
        "user": caller.user,
        "account": caller.user if told else f"team:{caller.team}",
        "billing": "prepaid" if caller.prepaid else "metered",
        "balance_usd": usd(caller.balance_nano) if told else None,
        "held_usd": usd(caller.held_nano) if told else None,
        "available_usd": usd(caller.balance_nano - caller.held_nano) if told else None,
    }


def _limit(gateway: Gateway, caller: Caller) -> dict[str, Any]:
    """Every limit that this key's requests must satisfy, as it stands."""
    plan = gateway.policy.plans.get(caller.plan or "")
    found = gateway.look(lambda tx: limits.standings(tx, caller, plan, gateway.policy, None))
    names = {"key": f"key:{caller.key_id}", "user": caller.user, "team": f"team:{caller.team}"}
    return {"limits": [limits.as_row(names[standing.subject[0]], standing) for standing in found]}


OWN: dict[bytes, Callable[[Gateway, Caller], dict[str, Any]]] = {b"/user/balance": _balance, b"/user/limit": _limit}
"""What the holder of a key may know of itself."""


def _allow(scope: Scope, *methods: str) -> None:
    if scope["method"] not in methods:
        raise Refusal(
            f"{scope['method']} is not for {scope['path'][:200]}: use {' or '.join(methods)}",
            code="method_not_allowed",
            headers=(("allow", ", ".join(methods)),),
        )


async def _reply(send: Send, answer: dict[str, Any], status: int = 200) -> None:
    await respond(send, status, own_headers(_request_id()), msgspec.json.encode(answer))


def _request_id() -> str:
    return f"req_{secrets.token_hex(12)}"


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
