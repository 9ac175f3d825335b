"""The conversation with an issuer of identities: where to send a browser, and whom the issuer says that it was.

OpenID Connect's authorization code flow with PKCE, by Authlib. GitHub speaks OAuth alone: there its API says who it is.

Nothing that the issuer says is believed before it is checked: what it says of itself, the token's signature by its keys
(asymmetric ones only), who made the token, for whom, for which question (the nonce), until when. It is asked by this
process alone, never by the browser's word for an address; no redirect is followed, no proxy is taken from the
environment, an answer is read up to `MOST_ANSWER` and waited for `WAIT_S`. Whatever is wrong there is an
UpstreamFailure in words for people; the log has the rest.
"""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import msgspec
from authlib.integrations.base_client import OAuthError
from authlib.integrations.httpx_client import AsyncOAuth2Client
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import ClaimError, MissingClaimError
from joserfc.jwk import KeySet

from .. import __version__
from ..config import OidcTable, issuer_of, label_of
from ..errors import Refusal, UpstreamFailure
from ..issuers import GITHUB, GOOGLE
from ..store.db import now_ms
from ..store.identities import Person

log = logging.getLogger("llmgate.web")

WAIT_S = 10.0
"""For all that the issuer is asked at one page."""

MOST_ANSWER = 512 * 1024
"""Bytes: the longest that is any use has some keys."""

LEEWAY_S = 60
"""How far the issuer's clock may be from ours."""

KNOWN_FOR_MS = 3_600_000
"""How long what an issuer says of itself is remembered. Its keys are asked for anew at each sign-in, so that one which
it has withdrawn vouches for nobody."""

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519", "EdDSA")
"""Signatures that who only checks them can't make: "none" and the shared-secret ones aren't there, whatever is said."""

PAIR = frozenset({"email", "email_verified"})

ALL_THE_WORLD = "*"

LONGEST_SUBJECT = 255
"""Characters of what an issuer calls somebody."""


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """A way to sign in, complete: what is written, else what is known of its issuer."""

    name: str
    label: str
    issuer: str
    github: bool
    scopes: tuple[str, ...]
    table: OidcTable

    @property
    def names_users(self) -> bool:
        """Whether its claim is the name of a user, and no address."""
        return self.table.claim != "email"


def way_of(name: str, table: OidcTable) -> Way:
    known = issuer_of(name, table)
    return Way(
        name=name,
        label=label_of(name, table),
        issuer=table.issuer or known.issuer or "",
        github=known.manner == "github",
        scopes=table.scopes or known.scopes,
        table=table,
    )


class Question(NamedTuple):
    """What ties an answer to the browser that it was asked for."""

    state: str
    nonce: str
    verifier: str
    redirect_uri: str


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """What an OpenID provider says of itself."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str | None = None
    token_endpoint_auth_methods_supported: tuple[str, ...] = ()


# ── the two steps ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def address(way: Way, question: Question) -> str:
    """Where the browser is to be sent. Raises UpstreamFailure."""
    async with _client(way, question) as client:
        endpoint = (
            f"{way.issuer}/login/oauth/authorize" if way.github else (await _said(client, way)).authorization_endpoint
        )
        more = {} if way.github else {"nonce": question.nonce}
        url, _ = client.create_authorization_url(
            endpoint, state=question.state, code_verifier=question.verifier, **more
        )
        return str(url)


async def person(way: Way, question: Question, code: str) -> Person:
    """Whom the issuer vouches for. Raises UpstreamFailure, and Refusal where it isn't somebody for this gateway."""
    async with _client(way, question) as client:
        claims = await (_github if way.github else _openid)(client, way, question, code)
    return _person(way, claims)


async def _openid(client: Any, way: Way, question: Question, code: str) -> dict[str, Any]:
    said = await _said(client, way)
    token = await _token(client, way, said.token_endpoint, question, code)
    keys = await _asked(client, way, said.jwks_uri, dict[str, Any])
    claims = _checked(way, said, keys, token, question)
    if said.userinfo_endpoint and not claims.keys() >= {way.table.claim, *PAIR}:
        more = await _asked(client, way, said.userinfo_endpoint, dict[str, Any], with_token=True)
        if more.get("sub") != claims["sub"]:
            raise _wrong(way, "it speaks of two people")
        # An address, and whether it is verified, are of one breath: else one could be verified by the other's word.
        pair = {name: (claims if claims.keys() >= PAIR else more).get(name) for name in PAIR}
        claims = {**more, **claims, **pair}
    return claims


async def _github(client: Any, way: Way, question: Question, code: str) -> dict[str, Any]:
    await _token(client, way, f"{way.issuer}/login/oauth/access_token", question, code)
    api = "https://api.github.com" if way.issuer == GITHUB else f"{way.issuer}/api/v3"
    user = await _asked(client, way, f"{api}/user", dict[str, Any], with_token=True)
    if type(user.get("id")) is not int:
        raise _wrong(way, "it doesn't say who it is")
    addresses = await _asked(client, way, f"{api}/user/emails", list[dict[str, Any]], with_token=True)
    primary: dict[str, Any] = next((one for one in addresses if one.get("primary") is True), {})
    # "email" of the user itself is what the user chose to show, verified or not.
    own = {"sub": str(user["id"]), "email": primary.get("email"), "email_verified": primary.get("verified")}
    return {**user, **own}


# ── what is asked ─────────────────────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def _client(way: Way, question: Question) -> AsyncIterator[Any]:
    table = way.table
    try:
        async with (
            asyncio.timeout(WAIT_S),
            AsyncOAuth2Client(
                client_id=table.client_id,
                client_secret=table.client_secret.reveal(),
                scope=" ".join(way.scopes),
                redirect_uri=question.redirect_uri,
                code_challenge_method="S256",
                timeout=WAIT_S,
                follow_redirects=False,
                trust_env=False,
                transport=_Bounded(
                    httpx2.AsyncHTTPTransport(verify=_trusted(table.ca_file), proxy=table.proxy, trust_env=False)
                ),
                headers={"user-agent": f"llmgate/{__version__}", "accept-encoding": "identity"},
            ) as client,
        ):
            yield client
    except (TimeoutError, httpx2.TimeoutException) as error:
        log.warning("%s: %s doesn't answer in time", way.name, way.issuer)
        raise UpstreamFailure(
            f"{way.label} doesn't answer: try again in a while, or sign in another way", code="upstream_timeout"
        ) from error
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        log.warning("%s: %s can't be asked: %s", way.name, way.issuer, _short(error))
        raise UpstreamFailure(
            f"{way.label} can't be asked from here: try again in a while, or sign in another way",
            code="upstream_unavailable",
        ) from error


def _trusted(ca_file: str | None) -> ssl.SSLContext:
    """Whose certificates count. They are read once, and again when the file is another: it takes a while, and anybody
    may have an issuer asked.
    """
    return _authorities(ca_file, Path(ca_file).stat().st_mtime_ns if ca_file else 0)


@lru_cache(maxsize=32)
def _authorities(ca_file: str | None, _changed_ns: int) -> ssl.SSLContext:
    if ca_file is None:
        return httpx2.create_ssl_context(trust_env=False)
    return ssl.create_default_context(cafile=ca_file)


class _Bounded(httpx2.AsyncBaseTransport):
    """Reads an answer whole, and none that is longer than any use."""

    def __init__(self, inner: httpx2.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        answer = await self._inner.handle_async_request(request)
        body = b""
        try:
            async for piece in answer.aiter_raw():
                body += piece
                if len(body) > MOST_ANSWER:
                    raise httpx2.DecodingError("the answer is too long", request=request)
        finally:
            await answer.aclose()
        if answer.headers.get("content-encoding", "identity") != "identity":
            raise httpx2.DecodingError("the answer is compressed", request=request)
        return httpx2.Response(answer.status_code, headers=answer.headers, content=body, request=request)

    async def aclose(self) -> None:
        await self._inner.aclose()


async def _asked(client: Any, way: Way, url: str, kind: Any, *, with_token: bool = False) -> Any:
    """What is said at an address, as JSON of a kind."""
    headers = {"accept": "application/json"}
    answer = await client.request("GET", url, withhold_token=not with_token, headers=headers)
    if answer.status_code != 200:
        log.warning("%s: %s answers %d", way.name, url, answer.status_code)
        raise UpstreamFailure(f"{way.label} answers with an error ({answer.status_code}): try again in a while")
    try:
        return msgspec.json.decode(answer.content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _wrong(way, "it can't be read", error) from error


_said_lately: dict[str, tuple[int, Said]] = {}
_asking: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
"""By issuer. However many want to sign in while it is slow or down, it is asked by one at a time."""


async def _said(client: Any, way: Way) -> Said:
    """What an OpenID provider says of itself (OpenID Connect Discovery)."""
    async with _asking[way.issuer]:
        at_ms, said = _said_lately.get(way.issuer, (0, None))
        if said is None or not 0 <= now_ms() - at_ms < KNOWN_FOR_MS:
            said = await _asked(client, way, f"{way.issuer}/.well-known/openid-configuration", Said)
            _check_said(way, said)
            _said_lately[way.issuer] = (now_ms(), said)
    return said


def _check_said(way: Way, said: Said) -> None:
    """Raises UpstreamFailure where it speaks for another issuer, or would have us ask without TLS."""
    if said.issuer.rstrip("/") != way.issuer:
        raise _wrong(way, f"it calls itself {said.issuer[:200]!r}")
    endpoints = (said.authorization_endpoint, said.token_endpoint, said.jwks_uri, said.userinfo_endpoint)
    if not all(one is None or _is_safe(one, way) for one in endpoints):
        raise _wrong(way, "it has an address without TLS")


def _is_safe(url: str, way: Way) -> bool:
    """Whether an address may be used: by TLS, but where the issuer itself, on this machine, is without."""
    begin = "https://" if way.issuer.startswith("https://") else f"{way.issuer}/"
    return re.fullmatch(r"[!-~]+", url) is not None and url.startswith(begin)


async def _token(client: Any, way: Way, url: str, question: Question, code: str) -> dict[str, Any]:
    """What a code is exchanged for; the client goes on with it."""
    posted = way.github or "client_secret_post" in (await _said(client, way)).token_endpoint_auth_methods_supported
    client.token_endpoint_auth_method = "client_secret_post" if posted else "client_secret_basic"
    try:
        token: dict[str, Any] = await client.fetch_token(
            url, grant_type="authorization_code", code=code, code_verifier=question.verifier
        )
    except OAuthError as error:
        log.warning("%s: %s takes no code: %s", way.name, way.issuer, _short(error))
        if error.error in ("invalid_client", "unauthorized_client", "incorrect_client_credentials"):
            raise UpstreamFailure(
                f"{way.label} doesn't know this gateway: tell your admin that its client_id or client_secret is wrong"
            ) from error
        raise Refusal(f"this sign-in by {way.label} is over: begin it again") from error
    except httpx2.HTTPError:
        raise
    except Exception as error:
        raise _wrong(way, "its answer to a code is none", error) from error
    if not isinstance(token.get("access_token"), str):
        raise _wrong(way, "it gives no token")
    return token


# ── what is believed ──────────────────────────────────────────────────────────────────────────────────────────────────

_CLAIMS = {
    "exp": "its word is too old",
    "iat": "its word is of a time to come",
    "nbf": "its word is of a time to come",
    "nonce": "it answers another question than was asked",
    "aud": "its word is for another program",
    "azp": "its word is for another program",
    "iss": "somebody else speaks for it",
}


def _checked(
    way: Way, said: Said, keys: Mapping[str, Any], token: Mapping[str, Any], question: Question
) -> dict[str, Any]:
    """The claims of an ID token: signed by the issuer, made by it for this gateway and this question, not over."""
    issuers = [said.issuer, "accounts.google.com"] if way.issuer == GOOGLE else [said.issuer]
    client_id = way.table.client_id
    wanted: dict[str, Any] = {
        "iss": {"essential": True, "values": issuers},
        "sub": {"essential": True},
        "aud": {"essential": True, "value": client_id},
        "exp": {"essential": True},
        "iat": {"essential": True},
    }
    given = {"nonce": question.nonce, "client_id": client_id, "access_token": token["access_token"]}
    try:
        signed = jwt.decode(token["id_token"], KeySet.import_key_set({"keys": keys["keys"]}), list(ALGORITHMS))
        claims = CodeIDToken(signed.claims, signed.header, wanted, given)
        claims.validate(leeway=LEEWAY_S)
    except MissingClaimError as error:
        raise _wrong(way, "its word lacks something", error) from error
    except ClaimError as error:
        raise _wrong(way, _CLAIMS.get(error.claim, "its word isn't as it must be"), error) from error
    except Exception as error:  # a liar may send anything, and what the libraries make of it isn't told
        raise _wrong(way, "its word isn't signed by it", error) from error
    return dict(claims)


_ADDRESS = re.compile(r"[!-?A-~]{1,64}@((?:[A-Za-z0-9-]{1,63}\.)*[A-Za-z0-9-]{1,63})")
"""Of ASCII alone: what another alphabet makes look like a letter, or becomes one in lower case, is no such letter."""


def _person(way: Way, claims: Mapping[str, Any]) -> Person:
    """Who it is, if it is somebody for this gateway. Raises Refusal."""
    subject = claims["sub"]
    if not isinstance(subject, str) or not 0 < len(subject) <= LONGEST_SUBJECT:
        raise _wrong(way, "it doesn't say who it is")
    email = _verified(way, claims)
    allowed = way.table.allowed_domains
    if allowed and ALL_THE_WORLD not in allowed:
        _check_domain(way, email, claims, allowed)
    username = None
    if way.names_users:
        username = claims.get(way.table.claim)
        if not isinstance(username, str) or not 0 < len(username) <= LONGEST_SUBJECT or not username.isprintable():
            raise Refusal(
                f"{way.label} says no {way.table.claim} of you, so it can't be told who you are here: ask your admin",
                code="sign_in_refused",
            )
    return Person(issuer=way.issuer, subject=subject, email=email, username=username)


def _verified(way: Way, claims: Mapping[str, Any]) -> str | None:
    """The address, if it is verified; in lower case.

    Google vouches for addresses of its own, and of organisations whose mail it hosts (`hd`). Another may have been the
    account's when it was made, and be somebody else's today.
    """
    email, verified = claims.get("email"), claims.get("email_verified")
    if not isinstance(email, str) or not (verified is True or verified == "true"):  # some write it as a text
        return None
    match = _ADDRESS.fullmatch(email)
    if match is None:
        return None
    if way.issuer == GOOGLE and not claims.get("hd") and match[1].lower() not in _GOOGLES_OWN:
        return None
    return email.lower()


_GOOGLES_OWN = ("gmail.com", "googlemail.com")


def _check_domain(way: Way, email: str | None, claims: Mapping[str, Any], allowed: tuple[str, ...]) -> None:
    """Raises Refusal unless the address is of one of these domains, and at Google the organisation is as well."""
    if email is None:
        raise Refusal(f"{way.label} hasn't verified an address of yours: do that there first", code="sign_in_refused")
    domain = email.partition("@")[2]
    host = claims.get("hd") if way.issuer == GOOGLE and domain not in _GOOGLES_OWN else domain
    if domain not in allowed or not isinstance(host, str) or host.lower() not in allowed:
        raise Refusal(f"accounts of {domain} aren't for this gateway: take another one", code="sign_in_refused")


def _wrong(way: Way, what: str, error: Exception | None = None) -> UpstreamFailure:
    """The issuer says something that can't be believed."""
    log.warning(
        "%s: what %s says isn't believed: %s%s", way.name, way.issuer, what, f" ({_short(error)})" if error else ""
    )
    return UpstreamFailure(f"what {way.label} says can't be believed ({what}): try again, or tell your admin")


def _short(error: Exception) -> str:
    return ascii(f"{type(error).__name__}: {error}")[1:-1][:200]
