"""Signing in by the word of an issuer of identities: out to it, and back.

What goes out comes back in the address, so anybody can make it up. It counts only in the browser that was sent out, and
for ten minutes: `state` is signed with a secret of that browser's (the cookie of its forms names it), and the nonce and
the PKCE verifier are made of both. Nothing is kept here meanwhile, and several tabs can be on their way at once. Who
has come back gets another cookie, so that the same address opens nothing twice; the issuer takes a code once as well.

Authlib is imported when the first one is sent out.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import secrets
import time
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Annotated

import msgspec
from itsdangerous import BadData, URLSafeTimedSerializer

from ..errors import Failure, LlmgateError, Refusal, UpstreamFailure
from ..store import accounts, identities, requests, sessions
from ..store.db import Row, Tx
from ..store.identities import Person, Terms
from . import signing_in
from .visits import Redirect, Shown, Visit

if TYPE_CHECKING:
    from .vouching import Question, Way

log = logging.getLogger("llmgate.web")

LASTS_S = 600
"""How long somebody may take to sign in over there."""

LONGEST_ONWARD = 500
"""Characters of the page to go on to: it goes out and back within an address."""

Text = Annotated[str, msgspec.Meta(max_length=4096)]


class Back(msgspec.Struct, frozen=True):
    """What an issuer sends along; whatever else it says is its own."""

    code: Text | None = None
    state: Text | None = None
    error: Text | None = None
    iss: Text | None = None


async def leave(visit: Visit) -> Redirect | Shown:
    """Send the browser to the issuer."""
    way = await _way(visit)
    visit.keeper.hold(visit)
    onward = visit.query.next
    if not signing_in.is_local(onward) or len(onward) > LONGEST_ONWARD:
        onward = None
    state = _states(visit, way).dumps([secrets.token_urlsafe(16), onward])
    from . import vouching

    try:
        visit.keeper.attempts.check(visit.address, time.monotonic())
        return Redirect(await vouching.address(way, _question(visit, way, str(state))))
    except LlmgateError as error:
        return _again(visit, error)


async def come_back(visit: Visit) -> Redirect | Shown:
    """Whoever the issuer says that it is, if it is an answer to what this browser was sent out with."""
    way = await _way(visit)
    now = time.monotonic()
    try:
        visit.keeper.attempts.check(visit.address, now)
        onward, question, code = _answered(visit, way)
        from . import vouching

        person = await vouching.person(way, question, code)
        arrive = partial(_arrive, visit=visit, way=way, person=person)
        user, session_id = await visit.desk.change(f"oidc:{way.name}", arrive)
    except LlmgateError as error:
        log.info("not signed in by %s, from %s: %s", way.name, visit.address, error.message)
        if isinstance(error, Refusal) and error.code != "rate_limited":
            visit.keeper.attempts.wrong(visit.address, now)
        return _again(visit, error)
    visit.keeper.hold(visit, anew=True)
    if session_id is None:
        log.info("%s asks to be a user by %s, from %s", user, way.name, visit.address)
        said = f"Your request to be the user {user} waits for an admin: once it is approved, sign in here again."
        return Redirect("/sign-in", said=said)
    log.info("user:%s signed in by %s, from %s", user, way.name, visit.address)
    return Redirect(onward or "/portal", session=session_id)


async def _way(visit: Visit) -> Way:
    """The way that the path names. Raises Refusal `not_found`."""
    name = visit.params["provider"]
    table = visit.config.oidc.get(name)
    if table is None:
        raise Refusal("there is no such way to sign in", code="not_found")
    await asyncio.to_thread(import_module, ".vouching", __package__)  # takes half a second the first time
    from . import vouching

    return vouching.way_of(name, table)


# ── what ties there and back together ─────────────────────────────────────────────────────────────────────────────────


def _states(visit: Visit, way: Way) -> URLSafeTimedSerializer:
    """Signs for this browser and this way alone."""
    return URLSafeTimedSerializer(visit.keeper.secret_of(visit), salt=f"oidc {way.name} {way.issuer}")


def _question(visit: Visit, way: Way, state: str) -> Question:
    from . import vouching

    def derived(purpose: str) -> str:
        return hmac.digest(visit.keeper.secret_of(visit), f"{purpose} {state}".encode(), "sha256").hex()

    return vouching.Question(
        state=state,
        nonce=derived("nonce"),
        verifier=derived("verifier"),
        redirect_uri=f"{visit.base_url}/sign-in/{way.name}/callback",
    )


def _answered(visit: Visit, way: Way) -> tuple[str | None, Question, str]:
    """Where to go on to, what was asked, and the code. Raises Refusal and UpstreamFailure."""
    said = visit.query
    begin_again = Refusal(
        f"this sign-in by {way.label} was begun in another browser, or too long ago: begin it again from here"
    )
    if visit.form_id is None or said.state is None:
        raise begin_again
    try:
        _, onward = _states(visit, way).loads(said.state, max_age=LASTS_S)
    except BadData as error:
        raise begin_again from error
    if said.iss is not None and said.iss.rstrip("/") != way.issuer and not way.github:
        raise Refusal(f"somebody else than {way.label} has sent you back: begin it again from here")
    if said.error is not None:
        raise _refused(way, said.error)
    if said.code is None:
        raise Refusal(f"{way.label} has sent you back without a word: begin it again from here")
    return onward, _question(visit, way, said.state), said.code


def _refused(way: Way, error: str) -> LlmgateError:
    """Why an issuer sends somebody back who isn't signed in there."""
    if error == "access_denied":
        return Refusal(f"{way.label} was told not to sign you in here: begin again, and agree", code="sign_in_refused")
    word = error if re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", error) else "a word of its own"
    log.warning("%s: %s sends people back with %s", way.name, way.issuer, word)
    return UpstreamFailure(f"{way.label} doesn't sign you in ({word}): try again, or tell your admin")


# ── who arrives ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _arrive(tx: Tx, visit: Visit, way: Way, person: Person) -> tuple[str, str | None]:
    """The user, and the id of its session; None: its request to be one waits. In one transaction; raises Refusal."""
    user = identities.recognise(tx, person)
    if user is None and way.table.new_users == "approval":
        return _asks(tx, visit, person), None
    if user is None:
        user = _made(tx, visit, way, person)
    signing_in.end_old(tx, visit)
    lasts_ms = visit.config.sign_in.session_ms
    return user["name"], sessions.begin(tx, "oidc", visit.address, lasts_ms, user_id=user["id"])


def _made(tx: Tx, visit: Visit, way: Way, person: Person) -> Row:
    table = way.table
    if table.new_users == "refuse":
        raise Refusal(f"{person.called} is no user here: ask your admin to make you one", code="sign_in_refused")
    try:
        if table.team is not None:
            accounts.team_row(tx, table.team)
    except Refusal as error:
        log.error("[oidc.%s] team: %s: nobody new can sign in", way.name, error.message)  # noqa: TRY400
        raise Failure("new users can't be made at the moment: tell your admin") from error
    terms = Terms(team=table.team, plan=table.plan, default_billing=visit.default_billing)
    user = identities.make(tx, person, terms)
    accounts.follow_plans(tx, visit.policy.billing)
    return user


def _asks(tx: Tx, visit: Visit, person: Person) -> str:
    name = identities.new_name(tx, person)
    row = requests.to_be_user(
        tx, name, issuer=person.issuer, subject=person.subject, email=person.email, address=visit.address
    )
    if row["status"] == "denied":
        raise Refusal("your request to be a user here was denied: ask your admin", code="sign_in_refused")
    return str(row["username"])


def _again(visit: Visit, error: LlmgateError) -> Shown:
    """The page where one signs in, which says why it didn't go well."""
    visit.refused = error
    return signing_in.asking(visit, None, error.http_status)
