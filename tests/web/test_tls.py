"""The pages over TLS of our own: cookies that never go over anything else, and addresses that say so."""

from __future__ import annotations

import ssl
from pathlib import Path

import httpx
import pytest

from tests import tls
from tests.served import Served

from .conftest import Browser, words_of


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/2"])
def test_signing_in_over_tls(tmp_path: Path, version: str) -> None:
    authority = tls.authority(tmp_path)
    tls.server(tmp_path, authority)
    files = {"certfile": str(tmp_path / "server.pem"), "keyfile": str(tmp_path / "server.key")}
    with Served(tmp_path, {"upstreams": {"sandbox": {}}, "server": files}) as served:
        person = served.person()
        browser = Browser(served)
        browser.close()
        url = served.url.replace("127.0.0.1", "localhost")
        assert url.startswith("https://")
        with httpx.Client(
            base_url=url,
            verify=ssl.create_default_context(cadata=authority.pem),
            http2=version == "HTTP/2",
            headers={"accept": "text/html", "origin": url},
            trust_env=False,
        ) as browser.client:
            page = browser.shown("/sign-in")
            assert page.http_version == version
            answer = browser.send(page, "/sign-in", key=person.key)
            assert answer.status_code == 303
            for cookie in page.headers.get_list("set-cookie") + answer.headers.get_list("set-cookie"):
                assert cookie.endswith("; HttpOnly; SameSite=Lax; Secure")
            assert person.name in words_of(browser.shown("/portal"))
            assert f"{url}/v1" in browser.shown("/").text
            elsewhere = browser.post("/sign-out", {"csrf": browser.token()}, origin="https://evil.example")
            assert elsewhere.status_code == 403
