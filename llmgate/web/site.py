"""The pages as an ASGI application, mounted beside the walk. What is shown where is told by `PAGES`."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections import defaultdict
from collections.abc import Iterable
from email.utils import formatdate
from inspect import iscoroutinefunction
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

import msgspec
from starlette.routing import Route as StarletteRoute
from starlette.routing import Router

from ..admin.asked import body_of, query_of
from ..admin.desk import Desk
from ..errors import Failure, LlmgateError, Refusal
from ..gateway.http import Disconnected, Receive, Scope, Send, header, names_connections, read_body, respond, unread
from ..gateway.pipeline import Gateway
from ..gateway.upstream import Headers
from ..store import admins, answers, sessions
from ..store.answers import Answer
from ..store.db import Tx, now_ms
from ..store.sessions import Session
from ..wire.openai import error_body
from . import cookies, forms, render
from .cookies import Keeper
from .pages import PAGES
from .visits import Download, Page, Redirect, Reply, Shown, Told, Visit, Who

log = logging.getLogger("llmgate.web")

MOST_BODY = 64 * 1024
"""Bytes of a form."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

HEADERS: Headers = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
]

NO_STORE = (b"cache-control", b"no-store")
HTML = (b"content-type", b"text/html; charset=utf-8")
JSON = (b"content-type", b"application/json")

_HOST = re.compile(r"[A-Za-z0-9._-]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?")


class Pages:
    """All of it. Made inside the running loop."""

    def __init__(self, gateway: Gateway, desk: Desk) -> None:
        self.gateway = gateway
        self.desk = desk
        self._keeper: Keeper | None = None
        self._noting: set[asyncio.Future[Any]] = set()
        paths: dict[str, dict[str, Page]] = defaultdict(dict)
        for page in PAGES:
            paths[page.path][page.method] = page
        self._router = Router(
            [
                StarletteRoute("/static/{name}", _Static()),
                StarletteRoute("/favicon.ico", _Static("icon.svg")),  # browsers ask for it where no page names another
                *(StarletteRoute(path, _Path(self, of)) for path, of in paths.items()),
            ],
            default=_nothing,
            redirect_slashes=False,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers whatever comes, also what goes wrong."""
        scope["request_id"] = f"req_{secrets.token_hex(12)}"
        try:
            await self._router(scope, receive, send)
        except Disconnected:
            pass  # nobody is left to answer
        except LlmgateError as error:
            await self._refuse(error, scope, receive, send)
        except Exception:
            log.exception("a page failed")
            await self._refuse(Failure("the gateway failed: its log says why"), scope, receive, send)

    # ── a visit ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def keeper(self) -> Keeper:
        """What signs cookies: its secret is made once for each database."""
        if self._keeper is None:
            secret = self.gateway.look(sessions.signing_secret)
            if secret is None:
                await self.desk.change("serve", sessions.make_signing_secret)
                secret = self.gateway.look(sessions.signing_secret)
            assert secret is not None
            self._keeper = Keeper(self.gateway, secret)
        return self._keeper

    async def visit(self, page: Page, scope: Scope) -> Visit:
        """Who asks. No body is read before that is known."""
        keeper, gateway = await self.keeper(), self.gateway
        found = {} if page.api else cookies.read(scope)
        address = gateway.address_of(scope)
        session_id = keeper.session_id(found)

        def look(tx: Tx) -> tuple[ZoneInfo, Session | None]:
            return tx.zone, keeper.find(tx, session_id, address) if session_id is not None else None

        zone, session = gateway.look(look)
        if session is not None and now_ms() - session.seen_ms > sessions.SEEN_EVERY_MS:
            self._note(session.hash)
        if session is not None and session.admin is not None and session.admin.name != admins.ENV:
            gateway.note_admin(session.admin)
        secure = gateway.is_secure(scope)
        return Visit(
            page=page,
            path=scope["path"],
            params=scope.get("path_params", {}),
            session=session,
            address=address,
            base_url=gateway.config.server.public_url or _base_url(scope, secure=secure),
            secure=secure,
            now_ms=now_ms(),
            zone=zone,
            gateway=gateway,
            desk=self.desk,
            keeper=keeper,
            config=gateway.config,
            session_id=session_id,
            form_id=keeper.form_id(found),
            said=keeper.said(found),
            cookies=found,
        )

    def _note(self, session_hash: bytes) -> None:
        """A session is used: noted now and then, and never waited for."""
        if self.gateway.writer.trouble is None:
            noting = asyncio.ensure_future(self.gateway.writer.run(lambda tx: sessions.seen(tx, session_hash)))
            self._noting.add(noting)
            noting.add_done_callback(self._noted)

    def _noted(self, noting: asyncio.Future[Any]) -> None:
        self._noting.discard(noting)
        if not noting.cancelled() and noting.exception() is not None:
            log.debug("that a session was used couldn't be noted")

    async def answer(self, page: Page, scope: Scope, receive: Receive) -> tuple[int, Headers, bytes]:
        visit = await self.visit(page, scope)
        if not visit.may(page.access):
            return self._not_for(visit, scope)
        if not page.api or page.method == "GET":
            try:
                visit.query = query_of(page.query, _given(scope["query_string"]))
            except Refusal as error:
                raise forms.in_words(error) from error
        if page.method == "GET":
            return await self._get(page, visit)
        return await self._post(page, visit, scope, receive)

    async def _get(self, page: Page, visit: Visit) -> tuple[int, Headers, bytes]:
        if page.overdue:
            await self.desk.expire_overdue()
        if iscoroutinefunction(page.does):
            reply = await page.does(visit)
            return await asyncio.to_thread(self._sent, reply, visit)
        return await self.gateway.reader.run(lambda tx: self._sent(page.does(tx, visit), visit))

    async def _post(self, page: Page, visit: Visit, scope: Scope, receive: Receive) -> tuple[int, Headers, bytes]:
        timeout_s = self.gateway.config.server.body_timeout
        if not page.api:
            cookies.check_origin(scope, visit.base_url)
        raw = await read_body(scope, receive, most=MOST_BODY, timeout_s=timeout_s)
        nonce, sent = None, None
        try:
            if page.api:
                visit.form = body_of(page.form, raw)
            else:
                sent = forms.parse(raw, header(scope["headers"], b"content-type"))
                visit.keeper.check_token(visit, sent.own.get("csrf"))
                visit.version, nonce = sent.own.get("version") or None, sent.own.get("nonce")
                visit.form = forms.read(page.form, sent.fields)
            if iscoroutinefunction(page.does):
                reply = await page.does(visit)
                done = await asyncio.to_thread(self._sent, reply, visit)
            else:
                request = b"%s\n%s" % (visit.path.encode(), raw)
                done = await self.desk.change(visit.actor, lambda tx: self._change(tx, page, visit, nonce, request))
            log.info("%s: %s %s", visit.actor, page.method, page.path)
        except LlmgateError as error:
            if page.again is None or sent is None or error.code in ("form_refused", "signed_out", "page_not_allowed"):
                raise
            visit.refused, visit.typed = error, forms.typed(sent.fields)
            again = page.again
            status, headers, body = await self.gateway.reader.run(lambda tx: self._sent(again(tx, visit), visit))
            status = error.http_status if status == 200 else status
            told = [(name.encode(), value.encode()) for name, value in error.headers]
            return status, [*headers, *told], body
        return done

    def _change(
        self, tx: Tx, page: Page, visit: Visit, nonce: str | None, request: bytes
    ) -> tuple[int, Headers, bytes]:
        """In one transaction, if whoever asks still may; a form that was sent twice is answered as it was at first. One
        that changed nothing may be sent for ever, and leaves nothing.
        """
        visit.keeper.check(tx, visit)
        secret = visit.secret
        key = f"page:{answers.digest(request).hex()}"
        if nonce and secret:
            before = answers.find(tx, secret, key, request)
            if before is not None:
                headers, body = msgspec.json.decode(before.body, type=tuple[list[tuple[bytes, bytes]], bytes])
                return before.status, headers, body
        unchanged = tx.conn.total_changes
        status, headers, body = self._sent(page.does(tx, visit), visit)
        if nonce and secret and tx.conn.total_changes > unchanged:
            answers.keep(tx, secret, key, request, Answer(status, msgspec.json.encode((headers, body))))
        return status, headers, body

    # ── answers ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _sent(self, reply: Reply, visit: Visit) -> tuple[int, Headers, bytes]:
        """An answer as it is sent. In a thread: a template takes its time."""
        headers: Headers = [*HEADERS, NO_STORE]
        if isinstance(reply, Told):
            return reply.status, [*headers, JSON], msgspec.json.encode(reply.answer)
        if isinstance(reply, Download):
            name = re.sub(r"[^A-Za-z0-9._-]", "-", reply.name).encode()
            disposition = (b"content-disposition", b'attachment; filename="%s"' % name)
            return 200, [*headers, disposition, (b"content-type", reply.content_type.encode())], reply.body
        keeper = visit.keeper
        if isinstance(reply, Redirect):
            headers.append((b"location", reply.to.encode()))
            if reply.session is not None:
                headers.append((b"set-cookie", keeper.session_cookie(reply.session, visit)))
            if reply.said is not None:
                headers.append((b"set-cookie", keeper.said_cookie(reply.said, visit)))
            headers += [(b"set-cookie", keeper.kept_cookie(name, text, visit)) for name, text in reply.keep.items()]
            if visit.form_id_is_new:
                headers.append((b"set-cookie", keeper.form_cookie(visit)))
            return 303, headers, b""
        body = render.page(reply, visit, _menu(visit))
        if visit.said is not None:
            headers.append((b"set-cookie", keeper.said_cookie(None, visit)))
        if visit.form_id_is_new:  # rendering may have begun one
            headers.append((b"set-cookie", keeper.form_cookie(visit)))
        return reply.status, [*headers, HTML], body

    def _not_for(self, visit: Visit, scope: Scope) -> tuple[int, Headers, bytes]:
        """To who isn't signed in, where that can be done; raises Refusal to somebody else, and to programs."""
        if visit.session is not None:
            raise Refusal(_whose(visit), code="page_not_allowed")
        if not _takes_html(scope):
            raise cookies.signed_out()
        back = ""
        if visit.page.method == "GET":
            query = scope["query_string"].decode("latin-1")
            back = f"?next={quote(visit.path + (f'?{query}' if query else ''), safe='/')}"
        ended = "Your session has ended: sign in again." if visit.session_id is not None else None
        return self._sent(Redirect(f"/sign-in{back}", said=ended), visit)

    async def _refuse(self, error: LlmgateError, scope: Scope, receive: Receive, send: Send) -> None:
        """An error: a page for people, JSON for programs, in the one shape that all of them have."""
        if error.code == "usage_error":
            error = Refusal(error.message, param=error.param)
        page = scope.get("llmgate.page")
        headers: Headers = [(name.encode(), value.encode()) for name, value in error.headers]
        html = _takes_html(scope) and not (page is not None and page.api)
        try:
            if html:
                shown = Shown("error.html", {"error": _for_people(error, page)}, error.http_status)
                visit = await self.visit(page or _UNKNOWN, scope)
                status, more, body = await asyncio.to_thread(self._sent, shown, visit)
                headers += more
        except LlmgateError:
            html = False  # the database can't be read: there are no sessions, but there is a word
        if not html:
            status, body = error.http_status, error_body(error)
            headers += [*HEADERS, NO_STORE, JSON]
        if scope["method"] not in ("GET", "HEAD") and names_connections(scope):
            headers.append((b"connection", b"close"))  # its body may not have been read
        async with unread(receive):
            await respond(send, status, [*_own(scope), *headers], body)


_UNKNOWN = Page("GET", "", Who.EVERYBODY, lambda: None)
"""In place of a page that there isn't."""


class _Path:
    """What is at one path, by method. (An object, because Starlette would read the request for a function.)"""

    def __init__(self, pages: Pages, of: dict[str, Page]) -> None:
        self._pages = pages
        self._of = of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        page = self._of.get("GET" if scope["method"] == "HEAD" else scope["method"])
        if page is None:
            raise _wrong_method(scope, self._of)
        scope["llmgate.page"] = page
        status, headers, body = await self._pages.answer(page, scope, receive)
        await respond(send, status, [*_own(scope), *headers], body)


class _Static:
    """A file, which a browser may keep for ever if it asked for this very one."""

    def __init__(self, name: str | None = None) -> None:
        self._name = name
        """None: the path names it."""

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        if scope["method"] not in ("GET", "HEAD"):
            raise _wrong_method(scope, ("GET",))
        file = await asyncio.to_thread(render.static, self._name or scope["path_params"]["name"])
        if file is None:
            raise Refusal("there is no such file", code="not_found")
        asked = scope["query_string"].decode("latin-1") == file.mark
        headers: Headers = [*_own(scope), *HEADERS, (b"content-type", file.content_type.encode())]
        headers.append((b"cache-control", b"public, max-age=31536000, immutable" if asked else b"no-cache"))
        body = file.body
        if file.packed is not None:
            headers.append((b"vary", b"accept-encoding"))
            if b"gzip" in (header(scope["headers"], b"accept-encoding") or b""):
                headers.append((b"content-encoding", b"gzip"))
                body = file.packed
        await respond(send, 200, headers, body)


async def _nothing(scope: Scope, _receive: Receive, _send: Send) -> None:
    raise Refusal(f"there is nothing at {scope['path'][:200]}", code="not_found")


def _menu(visit: Visit) -> list[Page]:
    """What the menu offers to who is here."""
    return [page for page in PAGES if page.menu is not None and visit.may(page.access)]


def _whose(visit: Visit) -> str:
    """Why a page isn't for who is signed in."""
    access, session = visit.page.access, visit.session
    assert session is not None
    if access is Who.LEAD and session.user is not None:
        return "this page is for who leads a team"
    if isinstance(access, Who):
        return "this page is for users, and you are signed in with an admin key: sign in with a user's key"
    if session.admin is None:
        return "this page is for admins: sign in with an admin key"
    needed = "all" if access is admins.Scope.ALL else f"{access} or all"
    return f"this takes an admin key of scope {needed}, and yours is of scope {session.admin.scope}"


def _for_people(error: LlmgateError, page: Page | None) -> LlmgateError:
    """An error as a page shows it. What the store says of something that isn't there may name what others have."""
    of_admins = page is not None and isinstance(page.access, admins.Scope)
    if error.code == "not_found" and page is not None and page.access is not Who.EVERYBODY and not of_admins:
        return Refusal("there is nothing here, or it isn't yours", code="not_found")
    return error


def _takes_html(scope: Scope) -> bool:
    return b"text/html" in (header(scope["headers"], b"accept") or b"")


def _given(query_string: bytes) -> bytes:
    """A query without the fields that were left empty: a form sends all it has."""
    return b"&".join(pair for pair in query_string.split(b"&") if not pair.endswith(b"=") and b"=" in pair)


def _base_url(scope: Scope, *, secure: bool) -> str:
    """Where a browser says that it found us."""
    host = (header(scope["headers"], b"host") or b"").decode("latin-1")
    if _HOST.fullmatch(host) is None:
        host = "localhost"
    return f"{'https' if secure else 'http'}://{host}"


def _own(scope: Scope) -> Headers:
    """What every answer carries."""
    return [(b"date", formatdate(usegmt=True).encode()), (b"x-request-id", scope["request_id"].encode())]


def _wrong_method(scope: Scope, answered: Iterable[str]) -> Refusal:
    methods = [one for method in answered for one in ((method, "HEAD") if method == "GET" else (method,))]
    return Refusal(
        f"{scope['method']} is not for {scope['path'][:200]}: use {' or '.join(methods)}",
        code="method_not_allowed",
        headers=(("allow", ", ".join(methods)),),
    )
