"""The admin API as an ASGI application, mounted beside the walk. What is answered where is told by `ROUTES`."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from email.utils import formatdate

import msgspec
from starlette.responses import Response
from starlette.routing import Route as StarletteRoute
from starlette.routing import Router
from starlette.types import Receive, Scope, Send

from ..errors import Failure, LlmgateError, Refusal
from ..gateway import cors
from ..gateway.admins import Attempts, Door
from ..gateway.http import Disconnected, header, names_connections, read_body, unread
from ..gateway.pipeline import Gateway
from ..wire.openai import error_body
from .asked import body_of, query_of
from .calls import NOBODY, Route, call_of
from .desk import Desk, Done, Terms
from .document import openapi
from .pages import FILES, File, content
from .routes import ROUTES

log = logging.getLogger("llmgate.admin")

MOST_BODY = 256 * 1024
"""Bytes of a body: the longest that is any use has some lists of globs."""

MOST_PUBLIC_BODY = 8 * 1024
"""Of who has no key."""

LISTS = ("by", "tag")
"""Fields of a query that may be given several times."""

LONGEST_IDEMPOTENCY_KEY = 255

SHORT_TOKEN = 16
"""Characters of an ADMIN_TOKEN below which whoever started the gateway is warned."""


class Api:
    """All of it. Made by the server, inside the running loop."""

    def __init__(self, gateway: Gateway, desk: Desk) -> None:
        self._gateway = gateway
        self._desk = desk
        self._door = Door(gateway)
        self._guesses = Attempts("names and secrets that nobody has here")
        token = gateway.config.admin_token
        if token is not None and len(token.reveal()) < SHORT_TOKEN:
            log.warning("ADMIN_TOKEN has fewer than %d characters: it can be guessed, take a longer one", SHORT_TOKEN)
        paths: dict[str, dict[str, Route]] = defaultdict(dict)
        for route in ROUTES:
            paths[route.path][route.method] = route
        described = _Described(msgspec.json.encode(openapi(ROUTES)))
        self._router = Router(
            [
                StarletteRoute("/openapi.json", described),
                *(StarletteRoute(path, _File(file)) for path, file in FILES.items()),
                *(StarletteRoute(path, _Path(self, of)) for path, of in paths.items()),
            ],
            default=_nothing,
            redirect_slashes=False,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers whatever comes, also what goes wrong."""
        request_id = f"req_{secrets.token_hex(12)}"
        scope["request_id"] = request_id
        try:
            await self._router(scope, receive, send)
        except Disconnected:
            pass  # nobody is left to answer
        except LlmgateError as error:
            await _refuse(error, scope, receive, send)
        except Exception:
            log.exception("an admin's request failed")
            await _refuse(Failure("the gateway failed: its log says why"), scope, receive, send)

    async def answer(self, route: Route, scope: Scope, receive: Receive) -> Done:
        """Who asks, what for, and what came of it. No body is read before the admin key is known."""
        if route.scope is None:
            return await self._public(route, scope, receive)
        admin, key = self._door.admin(scope)
        if not admin.scope.covers(route.scope):
            raise Refusal(
                f"this admin key is of scope {admin.scope}, and this takes {route.scope} or all",
                code="scope_not_allowed",
            )
        body, raw = None, b""
        if route.writes:
            timeout_s = self._gateway.config.server.body_timeout
            raw = await read_body(scope, receive, most=MOST_BODY, timeout_s=timeout_s)
            body = body_of(route.body, raw)
        query = query_of(route.query, scope["query_string"], LISTS)
        call = call_of(self._gateway, admin, scope["path_params"], query, body)
        done = await self._desk.do(route, call, _terms(route, key, scope, raw))
        if route.writes and not done.repeated:
            log.info("%s: %s %s", admin.actor, route.method, route.path)
        return done

    def check_public(self) -> None:
        """Raises Refusal where nobody is served who has no key."""
        if self._gateway.config.self_service.mode == "off":
            raise Refusal("self-service is off here", code="not_found")

    async def _public(self, route: Route, scope: Scope, receive: Receive) -> Done:
        """The same for somebody without any key. Whoever tries names that are taken, or not there, has to wait."""
        config = self._gateway.config
        address, now = self._gateway.address_of(scope), time.monotonic()
        body = None
        if route.writes:
            _check_site(scope, config.server.cors_origins)
            raw = await read_body(scope, receive, most=MOST_PUBLIC_BODY, timeout_s=config.server.body_timeout)
            body = body_of(route.body, raw)
        query = query_of(route.query, scope["query_string"])
        self._guesses.check(address, now)
        call = call_of(self._gateway, NOBODY, scope["path_params"], query, body, address)
        try:
            done = await self._desk.do(route, call, Terms(admin_key=""))
        except Refusal as error:
            if error.code in ("not_found", "conflict"):
                self._guesses.wrong(address, now)
            raise
        if route.writes:
            log.info("%s: %s %s", call.actor, route.method, route.path)
        return done


class _Path:
    """What is at one path, by method. (An object, because Starlette would read the request for a function.)"""

    def __init__(self, api: Api, of: Mapping[str, Route]) -> None:
        self._api = api
        self._of = of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if any(route.scope is None for route in self._of.values()):
            self._api.check_public()
        route = self._of.get("GET" if scope["method"] == "HEAD" else scope["method"])
        if route is None:
            raise _wrong_method(scope, self._of)
        done = await self._api.answer(route, scope, receive)
        headers = _own(scope) | {"cache-control": "no-store"}
        if done.etag is not None:
            headers["etag"] = done.etag
        if done.repeated:
            headers["idempotent-replayed"] = "true"
        await Response(done.answer.body, done.answer.status, headers, "application/json")(scope, receive, send)


class _Described:
    """The OpenAPI document. It tells what the source code tells, and nothing of this gateway: so to everybody."""

    def __init__(self, document: bytes) -> None:
        self._document = document

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in ("GET", "HEAD"):
            raise _wrong_method(scope, ("GET",))
        headers = _own(scope)
        await Response(self._document, 200, headers, "application/json")(scope, receive, send)


class _File:
    """A file of the pages that show the document."""

    def __init__(self, file: File) -> None:
        self._file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in ("GET", "HEAD"):
            raise _wrong_method(scope, ("GET",))
        packed = b"gzip" in (header(scope["headers"], b"accept-encoding") or b"")
        body, headers = await asyncio.to_thread(content, self._file, packed=packed)
        headers = headers | _own(scope)
        await Response(body, 200, headers, self._file.content_type)(scope, receive, send)


def _own(scope: Scope) -> dict[str, str]:
    """What every answer carries."""
    return {"date": formatdate(usegmt=True), "x-request-id": scope["request_id"]}


def _wrong_method(scope: Scope, answered: Iterable[str]) -> Refusal:
    methods = [one for method in answered for one in ((method, "HEAD") if method == "GET" else (method,))]
    return Refusal(
        f"{scope['method']} is not for {scope['path'][:200]}: use {' or '.join(methods)}",
        code="method_not_allowed",
        headers=(("allow", ", ".join(methods)),),
    )


async def _nothing(scope: Scope, _receive: Receive, _send: Send) -> None:
    raise Refusal(f"there is nothing at {scope['method']} {scope['path'][:200]}: see /openapi.json", code="not_found")


async def _refuse(error: LlmgateError, scope: Scope, receive: Receive, send: Send) -> None:
    """An error in the one shape that all of them have: OpenAI's. What is typed wrongly is an invalid request here."""
    if error.code == "usage_error":
        error = Refusal(error.message, param=error.param)
    headers = dict(error.headers) | _own(scope) | {"cache-control": "no-store"}
    if error.code in ("missing_key", "invalid_key", "key_revoked"):
        headers["www-authenticate"] = 'Bearer realm="llmgate admin"'
    if scope["method"] not in ("GET", "HEAD") and names_connections(scope):
        headers["connection"] = "close"  # its body may not have been read
    async with unread(receive):
        await Response(error_body(error), error.http_status, headers, "application/json")(scope, receive, send)


def _check_site(scope: Scope, origins: tuple[str, ...]) -> None:
    """Raises Refusal where a browser says that a page of another site sends this: its visitors would ask for keys."""
    if header(scope["headers"], b"sec-fetch-site") in (b"cross-site", b"same-site") and not cors.allowed(
        origins, scope
    ):
        raise Refusal("this was sent by a page of another site, which [server] cors_origins doesn't name")


def _terms(route: Route, key: str, scope: Scope, raw: bytes) -> Terms:
    if_match = header(scope["headers"], b"if-match")
    idempotency = header(scope["headers"], b"idempotency-key") if route.method == "POST" else None
    if idempotency is not None and not 0 < len(idempotency) <= LONGEST_IDEMPOTENCY_KEY:
        raise Refusal(f"Idempotency-Key must have 1 to {LONGEST_IDEMPOTENCY_KEY} characters", param="idempotency-key")
    return Terms(
        admin_key=key,
        if_match=if_match.decode("latin-1") if if_match is not None else None,
        idempotency_key=idempotency.decode("latin-1") if idempotency is not None else None,
        request=b"%s %s\n%s" % (route.method.encode(), scope["path"].encode(), raw),
    )
