"""What a browser keeps: who it is, the tokens of its forms, what the next page is to say.

A session's cookie is its id, signed; without the signature nothing is looked up. A form carries a token that is made of
the id of its session, so a form on somebody else's page, who can't know that, does nothing here. Who isn't signed in
has an id for the forms alone, in a cookie of its own.
"""

from __future__ import annotations

import hmac
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from urllib.parse import urlsplit

from itsdangerous import BadSignature, Signer, TimestampSigner

from ..errors import Refusal
from ..gateway.admins import Attempts
from ..gateway.http import Scope, check_address, header
from ..gateway.pipeline import Gateway
from ..store import admins, sessions
from ..store.admins import Admin
from ..store.db import Tx
from ..store.keys import hash_key, well_formed
from ..store.sessions import Session
from .visits import Visit, Who

SESSION, FORM, SAID = "llmgate_session", "llmgate_form", "llmgate_said"

FORM_LASTS_S = 7200
"""How long a form may stand open of somebody who isn't signed in."""

SAID_LASTS_S = 60

KEPT_LASTS_S = 600
KEPT_LASTS_LONGER_S = {"request": 30 * 86_400}
"""What is kept for longer than ten minutes."""


class Keeper:
    """Signs, and reads what was signed."""

    def __init__(self, gateway: Gateway, secret: bytes) -> None:
        self._gateway = gateway
        self._secret = secret
        self.attempts = Attempts()
        """Wrong keys and links."""
        self.guesses = Attempts("names that are taken")
        """Of who asks for a key."""
        self._session = Signer(secret, salt="session")
        self._token = Signer(secret, salt="token")
        self._form = TimestampSigner(secret, salt="form")
        self._said = TimestampSigner(secret, salt="said")
        self._kept = TimestampSigner(secret, salt="kept")

    # ── read ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    def session_id(self, cookies: dict[str, str]) -> str | None:
        """The session that a cookie claims; None: it was never ours."""
        try:
            return self._session.unsign(cookies[SESSION]).decode()
        except (KeyError, BadSignature, UnicodeError):
            return None

    def form_id(self, cookies: dict[str, str]) -> str | None:
        try:
            return self._form.unsign(cookies[FORM], max_age=FORM_LASTS_S).decode()
        except (KeyError, BadSignature, UnicodeError):
            return None

    def said(self, cookies: dict[str, str]) -> str | None:
        try:
            return _unpacked(self._said.unsign(cookies[SAID], max_age=SAID_LASTS_S).decode())
        except (KeyError, BadSignature, ValueError):
            return None

    def kept(self, cookies: dict[str, str], name: str) -> str | None:
        try:
            text = self._kept.unsign(cookies[f"llmgate_{name}"], max_age=_lasts_s(name)).decode()
            of, _, packed = text.partition(".")
            return _unpacked(packed) if of == name else None
        except (KeyError, BadSignature, ValueError):
            return None

    def find(self, tx: Tx, session_id: str, address: str) -> Session | None:
        """The session, as things stand now, if this address may use the key that it was made by."""
        found = sessions.find(tx, sessions.hash_id(session_id), self._env_hash)
        try:
            check_address(address, found.ips if found is not None else ())
        except Refusal:
            return None
        return found

    def admin_of(self, tx: Tx, key: str) -> Admin | None:
        """Whose admin key this is; None: it doesn't look like one. Raises Refusal 401."""
        env_hash = self._env_hash
        if env_hash is not None and hmac.compare_digest(hash_key(key), env_hash):
            return Admin(admins.ENV, admins.Scope.ALL)
        return admins.authenticate(tx, hash_key(key)) if well_formed(key, admins.PREFIX) else None

    @property
    def _env_hash(self) -> bytes | None:
        """That of the ADMIN_TOKEN of this moment."""
        token = self._gateway.config.admin_token
        return hash_key(token.reveal()) if token is not None else None

    def check(self, tx: Tx, visit: Visit) -> None:
        """In the transaction of a change: whoever asked for it is still signed in, and still may."""
        if visit.session is None or visit.session_id is None:
            return
        now = self.find(tx, visit.session_id, visit.address)
        if now is None:
            raise signed_out()
        visit.session = now
        if not visit.may(visit.page.access):
            raise Refusal("you may not do that any more", code="page_not_allowed")

    # ── write ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def session_cookie(self, session_id: str, visit: Visit) -> bytes:
        if not session_id:
            return _cookie(SESSION, "", 0, visit)
        return _cookie(SESSION, self._session.sign(session_id).decode(), visit.config.sign_in.session_ms // 1000, visit)

    def form_cookie(self, visit: Visit) -> bytes:
        assert visit.form_id is not None
        return _cookie(FORM, self._form.sign(visit.form_id).decode(), FORM_LASTS_S, visit)

    def said_cookie(self, text: str | None, visit: Visit) -> bytes:
        if text is None:
            return _cookie(SAID, "", 0, visit)
        return _cookie(SAID, self._said.sign(_packed(text)).decode(), SAID_LASTS_S, visit)

    def kept_cookie(self, name: str, text: str | None, visit: Visit) -> bytes:
        """Its name is signed with it, so that none can stand for another."""
        if text is None:
            return _cookie(f"llmgate_{name}", "", 0, visit)
        signed = self._kept.sign(f"{name}.{_packed(text)}").decode()
        return _cookie(f"llmgate_{name}", signed, _lasts_s(name), visit)

    # ── browsers ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def hold(self, visit: Visit, *, anew: bool = False) -> None:
        """Have the browser keep the cookie of its forms, for the whole time from now on; `anew`: as another one."""
        if anew or visit.form_id is None:
            visit.form_id = secrets.token_urlsafe(24)
        visit.form_id_is_new = True

    def secret_of(self, visit: Visit) -> bytes:
        """What only this server knows of the browser that keeps a cookie of forms."""
        assert visit.form_id is not None
        return hmac.digest(self._secret, visit.form_id.encode(), "sha256")

    # ── forms ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def token(self, visit: Visit) -> str:
        """What a form on this page is to carry. Who isn't signed in is given an id for it."""
        if visit.secret is None:
            self.hold(visit)
        assert visit.secret is not None
        return self._token.get_signature(visit.secret).decode()

    def check_token(self, visit: Visit, token: str | None) -> None:
        """Raises Refusal where a form isn't one of ours, or not this browser's. Anybody can have a cookie of forms, and
        another program of this host can plant it: by it, nothing is done that takes a session.
        """
        named = [visit.session_id if visit.session is not None else None]
        if visit.session is None or visit.page.access is Who.EVERYBODY:
            named.append(visit.form_id)
        good = [self._token.get_signature(one) for one in named if one is not None]
        if not any(hmac.compare_digest(one, (token or "").encode()) for one in good):
            raise Refusal(
                "this form is too old, or of another session, or the browser takes no cookies: "
                "open the page again, and send it once more",
                code="form_refused",
            )


def _lasts_s(name: str) -> int:
    return KEPT_LASTS_LONGER_S.get(name, KEPT_LASTS_S)


def signed_out() -> Refusal:
    return Refusal("you are signed out: sign in again", code="signed_out")


def read(scope: Scope) -> dict[str, str]:
    """The cookies of a request."""
    sent = "; ".join(value.decode("latin-1") for name, value in scope["headers"] if name == b"cookie")
    return {name.strip(): value.strip() for name, _, value in (one.partition("=") for one in sent.split(";"))}


def check_origin(scope: Scope, base_url: str) -> None:
    """Raises Refusal where the browser says that a form was sent by a page of another site."""
    site = header(scope["headers"], b"sec-fetch-site")
    if site is not None:
        fine = site in (b"same-origin", b"none")
    else:
        origin, host = header(scope["headers"], b"origin"), header(scope["headers"], b"host") or b""
        hosts = (host.decode("latin-1").lower(), urlsplit(base_url).netloc.lower())
        fine = origin is None or urlsplit(origin.decode("latin-1")).netloc.lower() in hosts
    if not fine:
        raise Refusal(
            "this form was sent from another site: send it from its own page (behind a proxy that hides how it was "
            "called, `[server] public_url` says what this one is)",
            code="form_refused",
        )


def _packed(text: str) -> str:
    """Any text as one that a cookie can carry."""
    return urlsafe_b64encode(text.encode()).decode()


def _unpacked(text: str) -> str:
    return urlsafe_b64decode(text).decode()


def _cookie(name: str, value: str, lasts_s: int, visit: Visit) -> bytes:
    secure = "; Secure" if visit.secure else ""
    return f"{name}={value}; Path=/; Max-Age={lasts_s}; HttpOnly; SameSite=Lax{secure}".encode()
