"""Issuers of identities: one that says whatever a test wants it to, GitHub's endpoints, and a real one from PyPI."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
from joserfc import jwt
from joserfc.jwk import ECKey

from tests.replay import Replay, Request, Step, json_answer, wait_until

CLIENT = "the-client"
CLIENT_SECRET = "client-secret-9Zk"


@cache
def key(name: str = "one") -> ECKey:
    return ECKey.generate_key("P-256", {"kid": name}, auto_kid=False)


class Liar:
    """An OpenID provider whose every answer can be changed. Well-behaved as long as nothing is."""

    def __init__(self, up: Replay) -> None:
        self.up = up
        up.handler = self._answer
        self.said: dict[str, Any] = {}
        self.claims: dict[str, Any] = {"email": "alice@corp.example", "email_verified": True}
        """What the token says beside what it must; None: it doesn't."""
        self.token: dict[str, Any] = {}
        self.userinfo: dict[str, Any] | None = None
        self.header: dict[str, Any] = {"alg": "ES256", "kid": "one"}
        self.signer = key()
        self.keys: Any = [key().as_dict(private=False)]
        self.answers: dict[str, Sequence[Step]] = {}
        """By path, instead of what it would say."""
        self.nonce = ""

    @property
    def issuer(self) -> str:
        return self.up.url

    def asked(self, path: str) -> list[Request]:
        return [request for request in self.up.requests if urlsplit(request.path).path == path]

    def _answer(self, request: Request) -> Sequence[Step]:
        path = urlsplit(request.path).path
        if path in self.answers:
            return self.answers[path]
        match path:
            case "/.well-known/openid-configuration":
                return json_answer(self._discovery())
            case "/keys":
                return json_answer({"keys": self.keys})
            case "/token":
                return json_answer(
                    {"access_token": "at-1", "token_type": "Bearer", "id_token": self._word()} | self.token
                )
            case "/userinfo" if self.userinfo is not None:
                return json_answer({"sub": "s-1"} | self.userinfo)
        return json_answer({"error": "there is nothing"}, 404)

    def _discovery(self) -> dict[str, Any]:
        ends = {"authorization_endpoint": "/authorize", "token_endpoint": "/token", "jwks_uri": "/keys"}
        if self.userinfo is not None:
            ends["userinfo_endpoint"] = "/userinfo"
        return {"issuer": self.issuer} | {name: f"{self.issuer}{path}" for name, path in ends.items()} | self.said

    def _word(self) -> str:
        now = int(time.time())
        claims = {"iss": self.issuer, "sub": "s-1", "aud": CLIENT, "exp": now + 600, "iat": now, "nonce": self.nonce}
        told = {name: value for name, value in (claims | self.claims).items() if value is not None}
        return jwt.encode(self.header, told, self.signer, ["ES256", "HS256"])


class GitHub:
    """GitHub's endpoints, as GitHub Enterprise has them under one address."""

    def __init__(self, up: Replay) -> None:
        self.up = up
        up.handler = self._answer
        self.user: dict[str, Any] = {"id": 583231, "login": "octocat", "email": "shown@evil.example"}
        self.emails: Any = [
            {"email": "old@corp.example", "primary": False, "verified": True},
            {"email": "Octocat@Corp.Example", "primary": True, "verified": True},
        ]
        self.token: dict[str, Any] = {"access_token": "gho_1", "token_type": "bearer", "scope": "read:user,user:email"}

    def _answer(self, request: Request) -> Sequence[Step]:
        match request.path:
            case "/login/oauth/access_token":
                return json_answer(self.token)
            case "/api/v3/user" if request.header("authorization") == "Bearer gho_1":
                return json_answer(self.user)
            case "/api/v3/user/emails" if request.header("authorization") == "Bearer gho_1":
                return json_answer(self.emails)
        return json_answer({"message": "Requires authentication"}, 401)


@contextmanager
def nowhere() -> Iterator[str]:
    """An address where nobody listens, and nobody else can meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def form_of(request: Request) -> dict[str, str]:
    return dict(parse_qsl(request.body.decode()))


def query_of(url: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(url).query))


# ── a real one ────────────────────────────────────────────────────────────────────────────────────────────────────────

LISTENS = re.compile(r"Uvicorn running on (http://\S+)")


class Provider:
    """`oidc-provider-mock`, a process of its own on a port that the kernel gives it."""

    def __init__(self, url: str) -> None:
        self.url = url

    def knows(self, subject: str, **claims: Any) -> None:
        """A person who has an account there."""
        httpx.put(f"{self.url}/users/{subject}", json=claims, trust_env=False).raise_for_status()

    def agrees(self, url: str, subject: str) -> str:
        """Somebody is sent there, signs in, and agrees: where the browser is sent back to."""
        answer = httpx.post(url, data={"sub": subject}, trust_env=False)
        assert answer.status_code == 302, answer.text
        return answer.headers["location"]

    def refuses(self, url: str) -> str:
        answer = httpx.post(url, data={"action": "deny"}, trust_env=False)
        assert answer.status_code == 302, answer.text
        return answer.headers["location"]


@contextmanager
def provider(folder: Path, *options: str) -> Iterator[Provider]:
    log = folder / "provider.log"
    with log.open("wb") as written:
        process = subprocess.Popen(
            [sys.executable, "-m", "oidc_provider_mock", "--port", "0", *options],
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=written,
        )
    try:
        wait_until(lambda: LISTENS.search(log.read_text()) is not None or process.poll() is not None, 30)
        found = LISTENS.search(log.read_text())
        assert found is not None, log.read_text()
        yield Provider(found[1])
    finally:
        process.terminate()
        process.wait(30)
