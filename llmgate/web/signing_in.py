"""Signing in: with a key, or a link that an admin made; and signing out.

Wrong keys and links are counted by address, in each process, and ten within a minute make it wait: what is tried has
256 bits, so that is there for the log and the processor's sake.
"""

from __future__ import annotations

import logging
import re
import time
from functools import partial
from typing import Annotated

import msgspec

from ..config import label_of
from ..errors import LlmgateError, Refusal
from ..gateway.http import check_address
from ..store import admins, keys, links, selfmade, sessions
from ..store.db import Tx
from ..store.keys import hash_key
from .visits import Redirect, Shown, Visit

log = logging.getLogger("llmgate.web")

Text = Annotated[str, msgspec.Meta(max_length=200)]

_LOCAL = re.compile(r"/(?![/\\])[!-\[\]-~]*")


class Next(msgspec.Struct, frozen=True):
    """Of the page that asks for a key; whatever else a query has is nobody's."""

    next: str | None = None
    """Where to go once signed in."""


class KeyForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    key: Text
    next: str | None = None


class Token(msgspec.Struct, frozen=True):
    token: Text | None = None


def show(tx: Tx, visit: Visit) -> Shown | Redirect:  # noqa: ARG001
    """Where a key is asked for. Who is signed in already goes on."""
    back = visit.typed.get("next") or getattr(visit.query, "next", None)
    if visit.session is not None and visit.refused is None:
        return Redirect(onward(back, admin=visit.session.admin is not None))
    return asking(visit, back)


def asking(visit: Visit, back: str | None = None, status: int = 200) -> Shown:
    """The page with all ways to sign in; `back`: where to go on to."""
    ways = {name: label_of(name, table) for name, table in visit.config.oidc.items()}
    asks = visit.config.self_service.mode != "off"
    return Shown("sign_in.html", {"next": back if is_local(back) else None, "ways": ways, "asks": asks}, status)


def is_local(path: str | None) -> bool:
    """Whether it is a page of ours: a link to us must not lead on to somebody else."""
    return path is not None and _LOCAL.fullmatch(path) is not None


def onward(back: str | None, *, admin: bool = False) -> str:
    """Where one goes who has signed in: back to where one wanted to, if that is a page of ours."""
    if back is not None and is_local(back):
        return back
    return "/admin" if admin else "/portal"


async def by_key(visit: Visit) -> Redirect:
    """Sign in with the key of a user, or of an admin."""
    key: str = visit.form.key
    now = time.monotonic()
    visit.keeper.attempts.check(visit.address, now)
    try:
        session_id, actor, is_admin = await visit.change(partial(_begin, visit=visit, key=key))
    except LlmgateError as error:
        if error.http_status == 401:
            visit.keeper.attempts.wrong(visit.address, now)
        raise
    log.info("%s signed in with a key, from %s", actor, visit.address)
    return Redirect(onward(visit.form.next, admin=is_admin), session=session_id)


def _begin(tx: Tx, visit: Visit, key: str) -> tuple[str, str, bool]:
    """A session for whoever has this key: its id, who that is, and whether it is an admin. Raises Refusal."""
    end_old(tx, visit)
    begin = partial(sessions.begin, tx, "key", visit.address, visit.config.sign_in.session_ms)
    admin = visit.keeper.admin_of(tx, key)
    if admin is not None:
        admins.seen(tx, admin.name)
        return begin(admin_hash=hash_key(key)), admin.actor, True
    if not keys.well_formed(key):
        raise Refusal("this is no key of this gateway: copy it again, all of it", code="invalid_key")
    caller = keys.authenticate(tx, hash_key(key))
    check_address(visit.address, caller.ips)
    selfmade.check_may_sign_in(tx, caller.user, caller.key_id)
    return begin(user_id=caller.user_id, key_id=caller.key_id), f"user:{caller.user}", False


def end_old(tx: Tx, visit: Visit) -> None:
    """Nobody is signed in twice with one browser."""
    if visit.session is not None:
        sessions.end(tx, visit.session.hash)


# ── links ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def show_link(tx: Tx, visit: Visit) -> Shown:
    """The page behind a link has a button, so that a program that looks at it beforehand doesn't use it up."""
    token = visit.query.token or ""
    return Shown("sign_in_link.html", {"user": links.look(tx, token)["name"], "token": token})


async def by_link(visit: Visit) -> Redirect:
    """Sign in with a link, once."""
    now = time.monotonic()
    visit.keeper.attempts.check(visit.address, now)

    def begin(tx: Tx) -> tuple[str, str]:
        user = links.use(tx, visit.form.token or "")
        end_old(tx, visit)
        lasts_ms = visit.config.sign_in.session_ms
        return sessions.begin(tx, "link", visit.address, lasts_ms, user_id=user["id"]), user["name"]

    try:
        session_id, user = await visit.change(begin)
    except LlmgateError as error:
        if error.code == "not_found":
            visit.keeper.attempts.wrong(visit.address, now)
        raise
    log.info("user:%s signed in with a link, from %s", user, visit.address)
    return Redirect("/portal", session=session_id)


# ── out ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def show_sessions(tx: Tx, visit: Visit) -> Shown:
    """Where one is signed in."""
    assert visit.session is not None
    return Shown("sessions.html", {"sessions": sessions.beside(tx, visit.session.hash)})


def out(tx: Tx, visit: Visit) -> Redirect:
    """Sign out this browser."""
    end_old(tx, visit)
    return Redirect("/sign-in", said="You are signed out.", session="")


def out_everywhere(tx: Tx, visit: Visit) -> Redirect:
    """Sign out every browser of this user, or of this admin key."""
    assert visit.session is not None
    if visit.session.user_id is not None:
        sessions.end_all(tx, visit.session.user_id)
    else:
        sessions.end_all_of_admin(tx, visit.session.hash)
    return Redirect("/sign-in", said="You are signed out everywhere.", session="")
