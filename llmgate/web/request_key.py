"""`/request-key`: somebody asks for a key, and has it at once, or comes back for it.

Who has to wait is given the secret of the request: this browser keeps it in a signed cookie, and a link has it for any
other one. Looking makes nothing: the key is made by the form that fetches it, and is its answer.
"""

from __future__ import annotations

import time
from typing import Annotated

import msgspec

from ..clock import rfc3339
from ..errors import Refusal
from ..store import keys, requests
from ..store.db import Row, Tx
from . import home
from .visits import Redirect, Shown, Visit

PAGE = "/request-key"

COOKIE = "request"

Text = Annotated[str, msgspec.Meta(max_length=200)]


class Which(msgspec.Struct, frozen=True):
    """Of the page: a request that was made; whatever else a query has is nobody's."""

    request: Text | None = None


class AskForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    username: Text = ""
    note: Annotated[str, msgspec.Meta(max_length=requests.LONGEST_NOTE)] | None = None


class FetchForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    secret: Text


def show(tx: Tx, visit: Visit) -> Shown | Redirect:
    """The form, or what became of a request that was made. Users make their keys elsewhere."""
    _check_on(visit)
    if visit.session is not None and visit.session.user is not None and visit.refused is None:
        return Redirect("/portal", said="You are signed in: here you make another key of your own.")
    asked = getattr(visit.query, "request", None)
    secret = asked or visit.kept(COOKIE)
    row = _found(tx, secret, strict=asked is not None) if secret is not None and visit.refused is None else None
    if row is None:
        return _form(visit)
    return Shown("request_key_state.html", {**_told(row), "secret": secret, "link": _link(visit, secret or "")})


def ask(tx: Tx, visit: Visit) -> Shown | Redirect:
    """Ask for a key."""
    _check_on(visit)
    form: AskForm = visit.form
    service, now = visit.config.self_service, time.monotonic()
    visit.keeper.guesses.check(visit.address, now)
    try:
        asked = requests.ask(
            *(tx, service, form.username, form.note, visit.address, visit.policy, visit.default_billing)
        )
    except Refusal as error:
        if error.code == "conflict":
            visit.keeper.guesses.wrong(visit.address, now)
        raise
    if asked.issued is not None:
        return _key(tx, visit, asked.issued)
    return Redirect(PAGE, keep={COOKIE: asked.secret})


def fetch(tx: Tx, visit: Visit) -> Shown | Redirect:
    """Have the key of a request that was approved."""
    _check_on(visit)
    row, issued = requests.take(tx, visit.config.self_service, visit.form.secret)
    if issued is None:
        return Redirect(f"{PAGE}?request={visit.form.secret}", said=f"The request of `{row['username']}` still waits.")
    return _key(tx, visit, issued)


def forget(_: Tx, visit: Visit) -> Redirect:
    """Let this browser forget the request, to make another one. The request itself stays."""
    _check_on(visit)
    return Redirect(PAGE, keep={COOKIE: None})


def _check_on(visit: Visit) -> None:
    if visit.config.self_service.mode == "off":
        raise Refusal("keys aren't asked for here: your admin gives them", code="not_found")


def _form(visit: Visit) -> Shown:
    service = visit.config.self_service
    return Shown("request_key.html", {"waits": service.mode == "approval", "service": service})


def _found(tx: Tx, secret: str, *, strict: bool) -> Row | None:
    """The request of a secret. One that a link names must be there; a cookie may be of another database."""
    try:
        return requests.by_secret(tx, secret)
    except Refusal:
        if strict:
            raise
        return None


def _told(row: Row) -> dict[str, str | None]:
    return {"username": row["username"], "note": row["note"], "status": row["status"], "at": rfc3339(row["created_ms"])}


def _link(visit: Visit, secret: str) -> str:
    return f"{visit.base_url}{PAGE}?request={secret}"


def _key(tx: Tx, visit: Visit, issued: keys.Issued) -> Shown:
    """A key, the only time that it is shown, and what to do with it."""
    url, model = visit.base_url, home.model_of(visit)
    return Shown(
        "request_key_done.html",
        {
            "key": issued.key,
            "username": issued.user,
            "expires_ms": keys.key_row(tx, issued.id)["expires_ms"],
            "url": url,
            "sdks": home.sdks(url, model, issued.key),
            "agents": home.agents(url, model, issued.key),
        },
    )
