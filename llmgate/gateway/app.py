"""The ASGI application: which path is what. Beside the walk there are only small, quick answers."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import msgspec

from .. import routing
from ..errors import Failure, LlmgateError, Refusal
from ..money import usd
from ..names import MODEL
from ..routing import Listing
from ..store import limits
from ..store.keys import Caller
from ..wire.endpoint import Endpoint
from ..wire.openai import CHAT, EMBEDDINGS, OPENAI
from .http import Receive, Scope, Send, names_connections, own_headers, respond, unread
from .pipeline import Gateway, refuse
from .sandbox import CREATED

log = logging.getLogger("llmgate.server")

WALKED: dict[bytes, Endpoint] = {b"/v1/chat/completions": CHAT, b"/v1/embeddings": EMBEDDINGS}
"""Paths that are walked: those that an upstream answers."""

MODELS = b"/v1/models"


class App:
    """What the server runs."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._listed: tuple[object, str, list[Listing]] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await _lifespan(receive, send)
        else:
            await receive()
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            endpoint = WALKED.get(scope["raw_path"])
            if endpoint is not None and scope["method"] == "POST":
                await self._gateway.handle(endpoint, scope, receive, send)
            else:
                async with unread(receive):
                    await self._answer(scope, send)
        except LlmgateError as error:
            with_body = scope["method"] not in ("GET", "HEAD")
            await refuse(send, OPENAI, error, _request_id(), close=with_body and names_connections(scope))
        except Exception:
            # Nothing of it reaches the client; the log has all of it.
            log.exception("a request failed inside the gateway")
            try:
                await refuse(send, OPENAI, Failure("the gateway failed: its log says why"), _request_id())
            except Exception:
                log.debug("the answer had begun already")

    async def _answer(self, scope: Scope, send: Send) -> None:
        path = scope["raw_path"]
        if path in WALKED:
            _allow(scope, "POST")
        if path == b"/health":
            _allow(scope, "GET", "HEAD")
            return await _reply(send, {"status": "ok"})
        if path == b"/ready":
            _allow(scope, "GET", "HEAD")
            wrong = self._unready()
            answer = {"status": "ok"} if wrong is None else {"status": "unavailable", "storage": wrong}
            return await _reply(send, answer, 200 if wrong is None else 503)
        if path == MODELS or path.startswith(MODELS + b"/"):
            _allow(scope, "GET")
            _, caller = self._gateway.authenticate(scope)
            return await _reply(send, await self._models(caller, unquote(path[len(MODELS) + 1 :].decode("latin-1"))))
        if path in OWN:
            _allow(scope, "GET")
            _, caller = self._gateway.authenticate(scope)
            return await _reply(send, OWN[path](self._gateway, caller))
        hint = "" if path.startswith(b"/v1/") else ": the base URL ends in /v1"
        raise Refusal(f"there is nothing at {scope['method']} {scope['path'][:200]}{hint}", code="not_found")

    def _unready(self) -> str | None:
        """What is wrong with the database, in words that anybody may read; None: it can be read and written."""
        try:
            self._gateway.look(lambda tx: tx.value("SELECT count(*) FROM meta"))
        except Exception:
            log.exception("the database can't be read")
            return "the database can't be read"
        return None if self._gateway.writer.trouble is None else "the database can't be written"

    async def _models(self, caller: Caller, name: str) -> dict[str, Any]:
        """What this key may use, or one model of it."""
        plan = self._gateway.policy.plans.get(caller.plan or "")

        def allowed(names: tuple[str, ...]) -> bool:
            return caller.may_use(names) and (plan is None or plan.includes(names))

        listed = [line for line in await self._listing() if allowed((line.model, f"{line.upstream}/{line.model}"))]
        if not name:
            return {"object": "list", "data": [_model(line) for line in listed]}
        for line in listed:
            if line.model == name:
                return _model(line)
        # A model may go by more names than it is listed under.
        gateway = self._gateway
        if MODEL.fullmatch(name) and allowed((await gateway.resolve(name)).target.names):
            return _model(next(routing.lines(gateway.config, gateway.upstreams, name, gateway.today())))
        raise Refusal("there is no such model for this key", code="model_not_found", param="model")

    async def _listing(self) -> list[Listing]:
        """All that is offered, made once a day and config: a catalogue has hundreds of models."""
        gateway, today = self._gateway, self._gateway.today()
        config = gateway.config
        if self._listed is None or self._listed[0] is not config or self._listed[1] != today:
            lines = await asyncio.to_thread(lambda: list(routing.listing(config, gateway.upstreams, today)))
            first = {line.model: line for line in reversed(lines)}  # a model of several routes is one model
            self._listed = (config, today, list(reversed(first.values())))
        return self._listed[2]


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


def _model(line: Listing) -> dict[str, Any]:
    """A model as OpenAI's clients know it, with what the account pays in USD per 1M tokens."""
    return {
        "id": line.model,
        "object": "model",
        "created": CREATED,
        "owned_by": line.upstream,
        "pricing": {
            "input_usd": usd(line.input),
            "output_usd": usd(line.output),
            "cached_input_usd": usd(line.cached_input),
            "free": line.free,
        },
    }


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
