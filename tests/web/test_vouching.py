"""What an issuer says, and what of it is believed."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from llmgate.config import OidcTable, Secret
from llmgate.errors import LlmgateError, Refusal, UpstreamFailure
from llmgate.issuers import GOOGLE
from llmgate.store.identities import Person
from llmgate.web import vouching
from llmgate.web.vouching import Question, Way
from tests import tls
from tests.replay import HANG, RESET, Replay, body_answer, head, json_answer
from tests.web.issuers import CLIENT, CLIENT_SECRET, GitHub, Liar, form_of, key, nowhere, query_of

QUESTION = Question(
    state="the-state", nonce="the-nonce", verifier="v" * 43, redirect_uri="http://gate/sign-in/sso/callback"
)


def way(issuer: str, **more: Any) -> Way:
    table = OidcTable(issuer=issuer, client_id=CLIENT, client_secret=Secret(CLIENT_SECRET), label="SSO", **more)
    return vouching.way_of("sso", table)


@pytest.fixture(autouse=True)
def forgetful() -> None:
    """Issuers are known by their address, and the next test's may have the port of the last one's; a lock that somebody
    waited for belongs to the loop of that test.
    """
    vouching._said_lately.clear()
    vouching._asking.clear()


@pytest.fixture
def liar() -> Iterator[Liar]:
    with Replay() as up:
        liar = Liar(up)
        liar.nonce = QUESTION.nonce
        yield liar


@pytest.fixture
def github() -> Iterator[GitHub]:
    with Replay() as up:
        yield GitHub(up)


# ── all is well ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_browser_is_sent_with_a_question(liar: Liar) -> None:
    url = await vouching.address(way(liar.issuer), QUESTION)
    assert url.startswith(f"{liar.issuer}/authorize?")
    assert query_of(url) == {
        "response_type": "code",
        "client_id": CLIENT,
        "redirect_uri": QUESTION.redirect_uri,
        "scope": "openid email profile",
        "state": "the-state",
        "nonce": "the-nonce",
        "code_challenge": urlsafe_b64encode(sha256(b"v" * 43).digest()).rstrip(b"=").decode(),
        "code_challenge_method": "S256",
    }


@pytest.mark.parametrize("posted", [True, False])
async def test_a_code_becomes_a_person(liar: Liar, posted: bool) -> None:
    if posted:
        liar.said["token_endpoint_auth_methods_supported"] = ["client_secret_basic", "client_secret_post"]
    found = await vouching.person(way(liar.issuer), QUESTION, "the-code")
    assert found == Person(issuer=liar.issuer, subject="s-1", email="alice@corp.example")
    (request,) = liar.asked("/token")
    form = form_of(request)
    assert (form["code"], form["code_verifier"], form["redirect_uri"]) == ("the-code", "v" * 43, QUESTION.redirect_uri)
    assert form["grant_type"] == "authorization_code"
    assert form.get("client_secret") == (CLIENT_SECRET if posted else None)
    basic = request.header("authorization") or ""
    assert basic.startswith("Basic ") is not posted


async def test_what_an_issuer_says_of_itself_is_remembered_and_its_keys_are_not(liar: Liar) -> None:
    await vouching.address(way(liar.issuer), QUESTION)
    for _ in range(2):
        await vouching.person(way(liar.issuer), QUESTION, "c")
    assert len(liar.asked("/.well-known/openid-configuration")) == 1
    assert len(liar.asked("/keys")) == 2


async def test_many_at_once_ask_once(liar: Liar) -> None:
    await asyncio.gather(*(vouching.address(way(liar.issuer), QUESTION) for _ in range(20)))
    assert len(liar.asked("/.well-known/openid-configuration")) == 1


def test_authorities_are_read_once_and_again_when_they_are_others(tmp_path: Path) -> None:
    file = tls.authority(tmp_path).certificate
    first = vouching._trusted(str(file))
    assert vouching._trusted(str(file)) is first
    os.utime(file, ns=(1, 1))
    assert vouching._trusted(str(file)) is not first
    assert vouching._trusted(None) is vouching._trusted(None)


async def test_what_the_token_lacks_is_asked_for(liar: Liar) -> None:
    liar.claims = {}
    liar.userinfo = {"email": "Alice@Corp.Example", "email_verified": True, "preferred_username": "alice"}
    found = await vouching.person(way(liar.issuer, claim="preferred_username"), QUESTION, "c")
    assert (found.email, found.username) == ("alice@corp.example", "alice")
    assert liar.asked("/userinfo")[0].header("authorization") == "Bearer at-1"


async def test_an_address_is_not_verified_by_what_is_said_of_another(liar: Liar) -> None:
    liar.claims = {"email": "admin@corp.example"}
    liar.userinfo = {"email": "mallory@evil.example", "email_verified": True}
    assert (await vouching.person(way(liar.issuer), QUESTION, "c")).email == "mallory@evil.example"
    liar.claims = {"email_verified": True}
    liar.userinfo = {"email": "admin@corp.example"}
    assert (await vouching.person(way(liar.issuer), QUESTION, "c")).email is None


@pytest.mark.parametrize(
    ("claims", "email"),
    [
        ({"email_verified": "true"}, "alice@corp.example"),  # as some providers write it
        ({"email_verified": False}, None),
        ({"email_verified": "false"}, None),
        ({"email_verified": 1}, None),
        ({"email_verified": None}, None),
        ({"email": None}, None),
        ({"email": ["alice@corp.example"]}, None),
        ({"email": "alice"}, None),
        ({"email": "alice@corp.example@evil.example"}, None),
        ({"email": "alice @corp.example"}, None),
        ({"email": "al\u0131ce@corp.example"}, None),
        ({"email": "\u212aate@corp.example"}, None),  # the Kelvin sign is a k in lower case
        ({"email": "<b>@corp.example"}, "<b>@corp.example"),  # as strange as can be verified: never a name
    ],
)
async def test_which_addresses_count(liar: Liar, claims: dict[str, Any], email: str | None) -> None:
    liar.claims |= claims
    assert (await vouching.person(way(liar.issuer), QUESTION, "c")).email == email


@pytest.mark.parametrize(
    ("allowed", "claims", "fine"),
    [
        (("corp.example",), {}, True),
        (("else.example", "corp.example"), {}, True),
        (("*",), {}, True),
        (("else.example",), {}, False),
        (("example",), {}, False),
        (("corp.example",), {"email": "a@evil-corp.example"}, False),
        (("corp.example",), {"email": "a@sub.corp.example"}, False),
        (("corp.example",), {"email": "A@CORP.Example"}, True),
        (("corp.example",), {"email_verified": False}, False),
    ],
)
async def test_domains(liar: Liar, allowed: tuple[str, ...], claims: dict[str, Any], fine: bool) -> None:
    liar.claims |= claims
    asked = vouching.person(way(liar.issuer, allowed_domains=allowed), QUESTION, "c")
    if fine:
        await asked
        return
    with pytest.raises(Refusal) as caught:
        await asked
    assert caught.value.code == "sign_in_refused"


@pytest.mark.parametrize(
    ("claims", "allowed", "email"),
    [
        ({"email": "a@gmail.com"}, (), "a@gmail.com"),
        ({"email": "a@gmail.com"}, ("gmail.com",), "a@gmail.com"),
        ({"email": "a@corp.example", "hd": "corp.example"}, (), "a@corp.example"),
        ({"email": "a@corp.example", "hd": "corp.example"}, ("corp.example",), "a@corp.example"),
        # An account of no organisation, made with an address that may be somebody else's by now.
        ({"email": "a@corp.example"}, (), None),
        ({"email": "a@corp.example"}, ("corp.example",), Refusal),
        ({"email": "a@corp.example", "hd": "evil.example"}, ("corp.example",), Refusal),
        ({"email": "a@evil.example", "hd": "corp.example"}, ("corp.example",), Refusal),
        ({"email": "a@gmail.com", "hd": "corp.example"}, ("corp.example",), Refusal),
    ],
)
def test_google_vouches_for_what_it_hosts(claims: dict[str, Any], allowed: tuple[str, ...], email: Any) -> None:
    said = {"sub": "1", "email_verified": True} | claims
    google = way(GOOGLE, allowed_domains=allowed)
    if email is Refusal:
        with pytest.raises(Refusal):
            vouching._person(google, said)
    else:
        assert vouching._person(google, said).email == email


@pytest.mark.parametrize("said", [None, "", 7, ["alice"], "x" * 256, "ali\u202ece", "a\nb"])
async def test_a_claim_that_is_no_name(liar: Liar, said: Any) -> None:
    liar.claims["preferred_username"] = said
    with pytest.raises(Refusal, match="SSO says no preferred_username of you"):
        await vouching.person(way(liar.issuer, claim="preferred_username"), QUESTION, "c")


# ── lies ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

Change = Callable[[Liar], None]


def claim(name: str, value: Any) -> Change:
    return lambda liar: liar.claims.update({name: value})


def in_token(value: Any) -> Change:
    return lambda liar: liar.token.update(id_token=value)


def unsigned(liar: Liar) -> None:
    def part(value: Any) -> str:
        return urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    claims = {"iss": liar.issuer, "sub": "s-1", "aud": CLIENT, "exp": 2**34, "iat": 1, "nonce": QUESTION.nonce}
    liar.token["id_token"] = f"{part({'alg': 'none'})}.{part(claims)}."


def with_our_secret(liar: Liar) -> None:
    """As if the client's secret, or a public key, were the key."""
    from joserfc.jwk import OctKey

    shared = OctKey.import_key(CLIENT_SECRET.encode(), {"kid": "one"})
    liar.header = {"alg": "HS256", "kid": "one"}
    liar.signer = shared  # type: ignore[assignment]
    liar.keys = [shared.as_dict(private=True)]


def by_another_key(liar: Liar) -> None:
    liar.signer = key("two")


def by_an_unknown_key(liar: Liar) -> None:
    liar.signer, liar.header = key("two"), {"alg": "ES256", "kid": "two"}


def no_keys(liar: Liar) -> None:
    liar.keys = []


def strange_keys(liar: Liar) -> None:
    liar.keys = [{"kty": "EC"}, 5]


def two_people(liar: Liar) -> None:
    liar.claims, liar.userinfo = {}, {"sub": "s-2", "email": "a@b.example", "email_verified": True}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (claim("nonce", "another"), "it answers another question than was asked"),
        (claim("nonce", None), "its word lacks something"),
        (claim("aud", "another"), "its word is for another program"),
        (claim("aud", None), "its word lacks something"),
        (claim("aud", []), "its word is for another program"),
        (claim("aud", ["another", CLIENT]), "its word lacks something"),  # who of them asked for it
        (claim("azp", "another"), "its word is for another program"),
        (claim("iss", "https://evil.example"), "somebody else speaks for it"),
        (claim("iss", "accounts.google.com"), "somebody else speaks for it"),
        (claim("iss", None), "its word lacks something"),
        (claim("exp", 1_600_000_000), "its word is too old"),
        (claim("exp", None), "its word lacks something"),
        (claim("exp", "soon"), "its word is too old"),
        (claim("iat", 99_999_999_999), "its word is of a time to come"),
        (claim("nbf", 99_999_999_999), "its word is of a time to come"),
        (claim("at_hash", "AAAA"), "its word isn't as it must be"),
        (claim("sub", None), "its word lacks something"),
        (claim("sub", ""), "its word isn't as it must be"),
        (claim("sub", 5), "its word isn't as it must be"),
        (claim("sub", "x" * 256), "it doesn't say who it is"),
        (unsigned, "its word isn't signed by it"),
        (with_our_secret, "its word isn't signed by it"),
        (by_another_key, "its word isn't signed by it"),
        (by_an_unknown_key, "its word isn't signed by it"),
        (no_keys, "its word isn't signed by it"),
        (strange_keys, "its word isn't signed by it"),
        (in_token(None), "its word isn't signed by it"),
        (in_token("a.b.c"), "its word isn't signed by it"),
        (in_token("e30." * 2), "its word isn't signed by it"),
        (in_token({"a": 1}), "its word isn't signed by it"),
        (lambda liar: liar.token.update(access_token=None), "it gives no token"),
        (lambda liar: liar.token.update(access_token=["x"]), "it gives no token"),
        (two_people, "it speaks of two people"),
        (lambda liar: liar.said.update(issuer="https://evil.example"), "it calls itself 'https://evil.example'"),
        (lambda liar: liar.said.update(jwks_uri="http://evil.example/keys"), "it has an address without TLS"),
        (lambda liar: liar.said.update(token_endpoint="file:///etc/passwd"), "it has an address without TLS"),
        (lambda liar: liar.said.update(jwks_uri=None), "it can't be read"),
    ],
)
async def test_a_lie_is_not_believed(liar: Liar, change: Change, words: str, caplog: pytest.LogCaptureFixture) -> None:
    change(liar)
    with caplog.at_level(logging.WARNING), pytest.raises(UpstreamFailure) as caught:
        await vouching.person(way(liar.issuer), QUESTION, "c")
    assert caught.value.message == f"what SSO says can't be believed ({words}): try again, or tell your admin"
    assert caught.value.http_status == 502
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"sso: what {liar.issuer} says isn't believed: {words}")
    assert CLIENT_SECRET not in line


# ── faults ────────────────────────────────────────────────────────────────────────────────────────────────────────────

DISCOVERY = "/.well-known/openid-configuration"
BOMB = b" " * (vouching.MOST_ANSWER + 1)


@pytest.mark.parametrize(
    ("path", "steps", "status"),
    [
        (DISCOVERY, json_answer({}, 500), 502),
        (DISCOVERY, json_answer({}, 404), 502),
        (DISCOVERY, json_answer({}, 302, [("location", "http://127.0.0.1:1/")]), 502),
        (DISCOVERY, body_answer(b"<html>"), 502),
        (DISCOVERY, body_answer(b"[]"), 502),
        (DISCOVERY, body_answer(b"\xff"), 502),
        (DISCOVERY, body_answer(BOMB), 503),
        (DISCOVERY, body_answer(b"\x1f\x8b", headers=[("content-encoding", "gzip")]), 503),
        (DISCOVERY, (RESET,), 503),
        (DISCOVERY, (head(200, [("content-length", "5")]), b"{", RESET), 503),
        ("/keys", json_answer({}, 503), 502),
        ("/keys", json_answer([]), 502),
        ("/keys", json_answer({"nothing": 1}), 502),
        ("/token", json_answer({}, 503), 503),
        ("/token", json_answer([]), 502),
        ("/token", json_answer({}), 502),
        ("/token", body_answer(b"<html>"), 502),
        ("/token", body_answer(b"<html>", 429), 503),
        ("/token", json_answer({"error": "invalid_client"}, 401), 502),
        ("/token", (RESET,), 503),
    ],
)
async def test_a_fault_is_told(liar: Liar, path: str, steps: Any, status: int) -> None:
    liar.answers[path] = steps
    with pytest.raises(UpstreamFailure) as caught:
        await vouching.person(way(liar.issuer), QUESTION, "c")
    assert caught.value.http_status == status
    assert "SSO" in caught.value.message


async def test_a_code_that_is_used_up_is_no_fault_of_the_issuer(liar: Liar) -> None:
    liar.answers["/token"] = json_answer({"error": "invalid_grant", "error_description": "used"}, 400)
    with pytest.raises(Refusal, match=r"^this sign-in by SSO is over: begin it again$"):
        await vouching.person(way(liar.issuer), QUESTION, "c")


@pytest.mark.parametrize("path", [DISCOVERY, "/token", "/keys"])
async def test_who_is_slow_is_not_waited_for(liar: Liar, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    liar.answers[path] = (HANG,)
    monkeypatch.setattr(vouching, "WAIT_S", 0.3)
    with pytest.raises(UpstreamFailure, match=r"^SSO doesn't answer: try again in a while") as caught:
        await vouching.person(way(liar.issuer), QUESTION, "c")
    assert caught.value.http_status == 504


async def test_nobody_is_there() -> None:
    with nowhere() as url, pytest.raises(UpstreamFailure, match=r"^SSO can't be asked from here") as caught:
        await vouching.address(way(url), QUESTION)
    assert caught.value.http_status == 503


# ── GitHub ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_github_sends_the_browser(github: GitHub) -> None:
    url = await vouching.address(way(github.up.url, preset="github"), QUESTION)
    assert url.startswith(f"{github.up.url}/login/oauth/authorize?")
    asked = query_of(url)
    assert (asked["scope"], asked["state"], asked["code_challenge_method"]) == (
        "read:user user:email",
        "the-state",
        "S256",
    )
    assert github.up.requests == []


async def test_github_says_who_it_is(github: GitHub) -> None:
    found = await vouching.person(way(github.up.url, preset="github"), QUESTION, "c")
    assert found == Person(issuer=github.up.url, subject="583231", email="octocat@corp.example")
    form = form_of(github.up.requests[0])
    assert (form["client_secret"], form["code_verifier"]) == (CLIENT_SECRET, "v" * 43)
    found = await vouching.person(way(github.up.url, preset="github", claim="login"), QUESTION, "c")
    assert found.username == "octocat"


@pytest.mark.parametrize(
    "emails",
    [
        [],
        [{"email": "octocat@corp.example", "primary": True, "verified": False}],
        [{"email": "octocat@corp.example", "primary": False, "verified": True}],
    ],
)
async def test_only_the_primary_verified_address_counts(github: GitHub, emails: Any) -> None:
    github.emails = emails
    found = await vouching.person(way(github.up.url, preset="github"), QUESTION, "c")
    assert found.email is None


@pytest.mark.parametrize(
    ("token", "user", "kind"),
    [
        ({"error": "bad_verification_code", "error_description": "x"}, {}, Refusal),
        ({"error": "incorrect_client_credentials"}, {}, UpstreamFailure),
        ({"access_token": "gho_2", "token_type": "bearer"}, {}, UpstreamFailure),
        ({}, {"id": None}, UpstreamFailure),
        ({}, {"id": "583231"}, UpstreamFailure),
        ({}, {"id": True}, UpstreamFailure),
    ],
)
async def test_github_says_no(github: GitHub, token: Any, user: Any, kind: type[LlmgateError]) -> None:
    github.token = token or github.token
    github.user |= user
    with pytest.raises(kind):
        await vouching.person(way(github.up.url, preset="github"), QUESTION, "c")


def test_the_real_github_has_its_api_elsewhere() -> None:
    table = OidcTable(client_id=CLIENT, client_secret=Secret(CLIENT_SECRET))
    assert vouching.way_of("github", table).issuer == "https://github.com"
    assert vouching.way_of("github", table).label == "GitHub"
