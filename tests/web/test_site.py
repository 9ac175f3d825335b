"""Static files, where a page says that it is, and which address of ours is told to people."""

from __future__ import annotations

import gzip
import ipaddress
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmgate.gateway.http import is_secure
from llmgate.web import render
from tests.served import Served

from .conftest import Browser, House, words_of

STATIC = re.compile(r'(?:href|src)="(/static/[^"]+)"')


def test_the_icon_is_where_browsers_look_for_one(house: House) -> None:
    """As they do for what is no page, such as JSON: a 404 there is an error in their console."""
    answer = house.nobody.shown("/favicon.ico")
    assert answer.headers["content-type"] == "image/svg+xml"
    assert answer.content == house.nobody.shown("/static/icon.svg").content


def test_static_files_are_kept_for_ever(house: House) -> None:
    urls = set(STATIC.findall(house.nobody.shown("/").text))
    assert {url.partition("?")[0] for url in urls} == {
        f"/static/{name}" for name in ("style.css", "app.js", "icon.svg")
    }
    for url in urls:
        packed = house.nobody.client.get(url, headers={"accept-encoding": "gzip"})
        plain = house.nobody.client.get(url, headers={"accept-encoding": "identity"})
        assert packed.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert packed.headers["x-content-type-options"] == "nosniff"
        assert packed.content == plain.content
        assert packed.headers.get("content-encoding") == ("gzip" if len(plain.content) > render.SMALL else None)
        assert "content-encoding" not in plain.headers
        assert house.nobody.get(url.partition("?")[0]).headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    "name",
    ["..%2fsite.py", "%2e%2e", "site.py", "nothing.css", ".css", "style.css%00", "style.css.gz", "a/b.css", "x" * 999],
)
def test_no_other_file_is_given(house: House, name: str) -> None:
    answer = httpx.get(f"{house.served.url}/static/{name}", trust_env=False)
    assert answer.status_code == 404
    assert "content-security-policy" in answer.headers


def test_a_file_that_lies_there_compressed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "static").mkdir()
    (tmp_path / "static" / "chart.js.gz").write_bytes(gzip.compress(b"draw()"))
    monkeypatch.setattr(render, "files", lambda _: tmp_path)
    file = render._read.__wrapped__("chart.js")
    assert (file.body, gzip.decompress(file.packed or b"")) == (b"draw()", b"draw()")


def test_names_that_anybody_makes_up_are_not_remembered() -> None:
    assert render.static("style.css") is not None
    known = render._read.cache_info().currsize
    for number in range(100):
        assert render.static(f"{number}.css") is None
    assert render._read.cache_info().currsize == known


def test_snippets_name_the_address_that_was_asked(house: House) -> None:
    told = words_of(house.nobody.shown("/"))
    assert f"{house.served.url}/v1" in told
    other = words_of(house.nobody.get("/", host="gate.example.org:8080", x_forwarded_proto="https"))
    assert "https://gate.example.org:8080/v1" in other
    strange = house.nobody.get("/", host='"><script>alert(1)</script>')
    assert "<script>alert" not in strange.text


def test_public_url_goes_before_it(tmp_path: Path) -> None:
    config: dict[str, Any] = {"upstreams": {"sandbox": {}}, "server": {"public_url": "https://llm.example.org"}}
    with Served(tmp_path, config) as served:
        person = served.person()
        browser = Browser(served)
        assert "https://llm.example.org/v1" in words_of(browser.shown("/"))
        token = browser.token()
        proxied = browser.post("/sign-in", {"csrf": token, "key": person.key}, origin="https://llm.example.org")
        assert proxied.status_code == 303
        browser.close()


@pytest.mark.parametrize(
    ("scheme", "said", "client", "secure"),
    [
        ("https", None, "192.0.2.1", True),
        ("http", None, "192.0.2.1", False),
        ("http", b"https", "10.0.0.1", True),
        ("http", b"HTTPS , http", "10.0.0.1", True),
        ("http", b"http", "10.0.0.1", False),
        ("http", b"https", "192.0.2.1", False),
    ],
)
def test_tls_is_what_we_see_or_a_trusted_proxy_says(scheme: str, said: bytes | None, client: str, secure: bool) -> None:
    headers = [(b"x-forwarded-proto", said)] if said is not None else []
    scope = {"scheme": scheme, "headers": headers, "client": (client, 1)}
    assert is_secure(scope, (ipaddress.ip_network("10.0.0.0/8"),)) is secure


def test_nothing_of_the_pages_is_imported_before_the_first(tmp_path: Path) -> None:
    """Whoever never opens a page pays nothing for them. (Seen by the library of Jinja2 that is a shared object.)"""
    pytest.importorskip("markupsafe._speedups")
    with Served(tmp_path, {"upstreams": {"sandbox": {}}}) as served:
        assert served.process is not None
        loaded = f"/proc/{served.process.pid}/maps"
        if not Path(loaded).exists():
            pytest.skip("needs /proc")
        assert served.chat(served.person(), model="echo").status_code == 200
        assert "markupsafe" not in Path(loaded).read_text()
        assert served.client.get(f"{served.url}/sign-in").status_code == 200
        assert "markupsafe" in Path(loaded).read_text()
