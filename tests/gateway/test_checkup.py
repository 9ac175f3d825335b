"""What the check of upstreams finds, from answers of real servers, and what it says of them."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from llmgate.config import Upstream, parse, resolve
from llmgate.gateway import checkup
from llmgate.gateway.checkup import Checkup, Said, judged, names_in
from tests import tls
from tests.replay import CLOSE, HANG, Replay, Request, Step, body_answer, head, json_answer, until
from tests.tunnel import Tunnel

SECRET = "up-secret-4Jk"
OPENAI = {"object": "list", "data": [{"id": "gpt-4o", "object": "model"}, {"id": "gpt-4o-mini", "object": "model"}]}
ANTHROPIC = {"data": [{"type": "model", "id": "claude-sonnet-4-5-20250929"}], "first_id": "a", "has_more": False}
GEMINI = {"models": [{"name": "models/gemini-2.5-flash"}]}


async def checked(
    table: dict[str, Any],
    *,
    name: str = "up",
    models: dict[str, Any] | None = None,
    env: dict[str, str] | None = None,
    folder: Path | None = None,
) -> Checkup:
    text = tomli_w.dumps({"upstreams": {name: table}, "models": models or {}})
    env = {"UP_KEY": SECRET, **(env or {})}
    ready, upstreams = resolve(parse(text, folder and folder / "llmgate.toml"), env)
    (found,) = await checkup.check(ready, upstreams.values(), env)
    assert SECRET not in repr(found)
    assert (found.status == "ok") == (found.problems == [])
    return found


def at(up: Replay, path: str = "/v1", **more: Any) -> dict[str, Any]:
    return {"base_url": up.url + path, "api_key": "${UP_KEY}", **more}


async def problem(table: dict[str, Any], **more: Any) -> str:
    found = await checked(table, **more)
    assert len(found.problems) == 1, found.problems
    return found.problems[0]


# -- what is asked, in each dialect


async def test_a_list_of_models() -> None:
    with Replay() as up:
        up.answer(*json_answer(OPENAI))
        found = await checked(at(up))
        assert (found.status, found.models) == ("ok", 2)
        assert found.latency_ms is not None
        (asked,) = up.requests
        assert (asked.method, asked.path) == ("GET", "/v1/models")
        assert asked.header("authorization") == f"Bearer {SECRET}"


async def test_anthropic() -> None:
    with Replay() as up:
        up.answer(*json_answer(ANTHROPIC))
        found = await checked(
            at(up, "", preset="anthropic"),
            models={"sonnet": {"routes": [{"upstream": "up", "model": "claude-sonnet-4-5"}]}},
        )
        assert (found.models, found.problems) == (1, [])
        (asked,) = up.requests
        assert asked.path == "/v1/models?limit=1000"
        assert (asked.header("x-api-key"), asked.header("anthropic-version")) == (SECRET, "2023-06-01")


@pytest.mark.parametrize(
    ("base", "path"), [("", "/v1beta/models"), ("/v1", "/v1/models"), ("/v1alpha", "/v1alpha/models")]
)
async def test_gemini(base: str, path: str) -> None:
    with Replay() as up:
        up.answer(*json_answer(GEMINI))
        models = {"flash": {"routes": [{"upstream": "up", "model": "gemini-2.5-flash"}]}}
        assert (await checked(at(up, base, preset="gemini"), models=models)).problems == []
        assert up.requests[0].path == f"{path}?pageSize=1000"
        assert up.requests[0].header("x-goog-api-key") == SECRET


async def test_azure_asks_with_its_version() -> None:
    with Replay() as up:
        up.answer(*json_answer(OPENAI))
        table = at(up, "/openai", preset="azure", query={"api-version": "2024-10-21"})
        models = {"x": {"routes": [{"upstream": "up", "model": "my-deployment"}]}}
        assert (await checked(table, models=models)).problems == []
        assert up.requests[0].path == "/openai/models?api-version=2024-10-21"
        assert up.requests[0].header("api-key") == SECRET
        up.answer(*json_answer({"error": {"code": "404"}}, 404))
        assert "api-version" in await problem(at(up, "/openai", preset="azure"))


async def test_a_secret_in_the_query() -> None:
    with Replay() as up:
        up.answer(*json_answer(OPENAI))
        await checked(at(up, auth="query:key"))
        assert up.requests[0].path == f"/v1/models?key={SECRET}"
        up.answer(*body_answer(b"", 302, [("location", f"{up.url}/login?key={SECRET}")]))
        assert f"redirects to {up.url}/login (HTTP 302)" in await problem(at(up, auth="query:key"))


async def test_openrouter_tells_what_its_key_may_spend() -> None:
    left: float | None = 12.5

    def answer(request: Request) -> tuple[Step, ...]:
        if request.path.endswith("/key"):
            return json_answer({"data": {"limit_remaining": left}})
        return json_answer({"data": [{"id": "openai/gpt-4o"}]})

    with Replay() as up:
        up.handler = answer
        models = {"x": {"routes": [{"upstream": "up", "model": "openai/gpt-4o:online"}]}}
        found = await checked(at(up, preset="openrouter"), models=models)
        assert (found.credits_usd, found.problems) == ("12.5", [])
        left = 0
        assert "is used up" in await problem(at(up, preset="openrouter"))
        left = None
        assert (await checked(at(up, preset="openrouter"))).credits_usd is None
        up.handler = lambda request: json_answer({}, 401 if request.path.endswith("/key") else 200)
        found = await checked(at(up, preset="openrouter"))
        assert "no list" in found.problems[0]
        up.handler = lambda request: json_answer({"data": []} if "/models" in request.path else {}, 401)
        assert "look at $UP_KEY" in await problem(at(up, preset="openrouter"))


async def test_each_secret_is_tried() -> None:
    with Replay() as up:
        up.handler = lambda request: json_answer(
            OPENAI, 200 if "good" in (request.header("authorization") or "") else 401
        )
        table = {"base_url": f"{up.url}/v1", "api_key": ["${UP_KEY}", "${OTHER}"]}
        said = await problem(table, env={"UP_KEY": "good", "OTHER": SECRET})
        assert (
            said == 'it refuses the secret (HTTP 401): look at $OTHER, and at the way that it is sent (auth = "bearer")'
        )


# -- servers of one's own


async def test_llamacpp_that_loads_its_model() -> None:
    loading = {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}
    with Replay() as up:
        up.answer(*json_answer(loading, 503))
        found = await checked({"base_url": f"{up.url}/v1", "preset": "llamacpp"})
        assert found.status == "loading"
        assert [request.path for request in up.requests] == ["/health"]


async def test_llamacpp_that_asks_for_a_secret() -> None:
    """Its list of models is for everybody."""

    def answer(request: Request) -> tuple[Step, ...]:
        return json_answer(OPENAI, 401 if request.path == "/props" else 200)

    with Replay() as up:
        up.handler = answer
        table = {"base_url": f"{up.url}/v1", "preset": "llamacpp"}
        assert "asks for a secret" in await problem(table)
        assert "look at $UP_KEY" in await problem({**table, "api_key": "${UP_KEY}"})
        models = {"any": {"routes": [{"upstream": "up"}]}}
        up.handler = lambda _: json_answer(OPENAI)
        assert (await checked(table, models=models)).problems == []


async def test_ollama_without_a_model() -> None:
    with Replay() as up:
        up.handler = lambda request: json_answer({"object": "list", "data": None})
        assert "`ollama pull MODEL`" in await problem({"base_url": f"{up.url}/v1", "preset": "ollama"})


async def test_a_health_path_that_is_not_there() -> None:
    with Replay() as up:
        up.handler = lambda request: json_answer(OPENAI, 404 if request.path == "/health" else 200)
        assert "/health answers HTTP 404" in await problem(at(up, health="/health"))
        assert (await checked(at(up, preset="vllm"))).problems == []


async def test_the_sandbox_is_always_there() -> None:
    assert (await checked({}, name="sandbox")).models == 3


# -- routes that ask for what isn't there


async def test_a_route_to_a_model_that_it_does_not_have() -> None:
    routes = [{"upstream": "up", "model": "gpt-4o-minni"}, {"upstream": "up", "model": "gpt-4o"}]
    with Replay() as up:
        up.answer(*json_answer(OPENAI))
        said = await problem(
            at(up), models={"fast": {"routes": routes}, "gpt-4o-mini": {"routes": [{"upstream": "up"}]}}
        )
        assert said == "[models.fast] asks it for gpt-4o-minni, which it doesn't have: did you mean gpt-4o-mini?"


@pytest.mark.parametrize(
    ("listed", "dialect", "names"),
    [
        (OPENAI, "openai", ["gpt-4o", "gpt-4o-mini"]),
        ([{"id": "meta/llama"}, 5, {}], "openai", ["meta/llama"]),
        (GEMINI, "gemini", ["gemini-2.5-flash"]),
        ({"object": "list", "data": None}, "openai", []),
    ],
)
def test_names(listed: Any, dialect: Any, names: list[str]) -> None:
    assert names_in(listed, dialect) == names


# -- statuses and what mends them


def upstream(**table: Any) -> Upstream:
    text = tomli_w.dumps({"upstreams": {"up": {"base_url": "http://h/v1", "auth": "none", **table}}})
    return resolve(parse(text), {}).upstreams["up"]


@pytest.mark.parametrize(
    ("said", "place", "words"),
    [
        (Said(401), "$K", "look at $K"),
        (Said(401), None, "write api_key"),
        (Said(403), "$K", "may not do this"),
        (Said(402), "$K", "no money left"),
        (Said(407), "$K", "asks for a login"),
        (Said(404), "$K", "base_url is probably wrong"),
        (Said(308, location="https://h:8443/v1/models?a=b"), "$K", "redirects to https://h:8443/v1/models (HTTP 308)"),
        (Said(301, location="/x"), "$K", "redirects to elsewhere"),
        (Said(429), "$K", "too many requests"),
        (Said(500), "$K", "look at its own log"),
        (Said(503, b'{"error":{"message":"Loading model"}}'), "$K", "its model is loading"),
        (Said(400), "$K", "doesn't like"),
        (Said(200, b"<!DOCTYPE html>"), "$K", "a web page answers"),
        (Said(200, b"{}", "text/html; charset=utf-8"), "$K", "a web page answers"),
        (Said(200, b"hello"), "$K", "is no JSON"),
        (Said(200, b"{}"), "$K", "has no list of models"),
        (Said(200, b"5"), "$K", "has no list of models"),
        (Said(200, b'{"models": []}'), "$K", 'write format = "gemini"'),
        (Said(200, b'{"data": [], "first_id": null, "has_more": false}'), "$K", 'write format = "anthropic"'),
        (Said(200, b'{"data": []}'), "$K", None),
        (Said(200, b"[]"), "$K", None),
    ],
)
def test_judged(said: Said, place: str | None, words: str | None) -> None:
    found = judged(upstream(), said, place)
    assert found is None if words is None else words in (found or "")


def test_an_address_without_its_version() -> None:
    for said in (Said(404), Said(200, b"<html>")):
        assert "lacks its /v1: http://h:8080/v1" in (judged(upstream(base_url="http://h:8080"), said, None) or "")


@pytest.mark.parametrize(
    ("base", "right"),
    [
        ("http://h:8080/v1/v1", "base_url has its /v1 twice: http://h:8080/v1"),
        ("http://h:8080/v1/chat/completions", "base_url is what all paths begin with: http://h:8080/v1"),
        ("http://h:8080/v1/models", "base_url is what all paths begin with: http://h:8080/v1"),
    ],
)
def test_an_address_with_too_much(base: str, right: str) -> None:
    assert judged(upstream(base_url=base), Said(404), None) == f"there are no models at {base} (HTTP 404): {right}"


# -- no answer at all


async def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    table = {"base_url": f"http://127.0.0.1:{port}/v1", "auth": "none"}
    assert (
        await problem(table) == f"nothing listens at 127.0.0.1:{port}: it is not started, or base_url has another port"
    )
    assert "still loading its model" in await problem({**table, "preset": "vllm"})


async def test_a_name_that_is_not_known() -> None:
    table = {"base_url": "https://nowhere.invalid/v1", "auth": "none"}
    assert "the name nowhere.invalid isn't known here" in await problem(table)
    said = await problem(table, env={"HTTPS_PROXY": "http://user:pw@proxy:3128"})
    assert said.endswith('HTTPS_PROXY is set, but no proxy is used that isn\'t written: proxy = "${HTTPS_PROXY}"')


async def test_no_http_and_no_tls() -> None:
    with Replay() as up:
        up.answer(CLOSE)
        assert "https://" in await problem(at(up))
        up.answer(b"SSH-2.0-OpenSSH\r\n", CLOSE)
        assert "broke off" in await problem(at(up))
        table = at(up)
        assert "may have to begin with http://" in await problem(
            {**table, "base_url": table["base_url"].replace("http:", "https:")}
        )


async def test_no_answer_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup, "PATIENCE_S", 0.3)
    with Replay() as up:
        up.answer(head(), HANG)
        assert "didn't answer within" in await problem(at(up))


async def test_one_that_hangs_holds_up_no_other() -> None:
    with Replay() as slow, Replay() as quick:
        slow.answer(HANG)
        quick.answer(*json_answer(OPENAI))
        text = tomli_w.dumps({"upstreams": {"slow": at(slow), "quick": at(quick)}})
        ready, upstreams = resolve(parse(text), {"UP_KEY": SECRET})
        checking = asyncio.create_task(checkup.check(ready, upstreams.values(), {}))
        await until(lambda: bool(quick.requests and slow.requests))
        checking.cancel()


# -- certificates and proxies


async def test_certificates(tmp_path: Path) -> None:
    authority = tls.authority(tmp_path)
    with Replay(tls.server(tmp_path, authority)) as up:
        up.answer(*json_answer(OPENAI))
        assert 'ca_file = "corp.pem"' in await problem(at(up))
        found = await checked(at(up, ca_file="authority.pem"), folder=tmp_path)
        assert found.tls_days_left is not None
        assert found.tls_ends_ms is not None
        assert found.tls_days_left > 10_000
    with Replay(tls.server(tmp_path, authority, days=2)) as up:
        up.answer(*json_answer(OPENAI))
        assert "its certificate ends in 1 days" in await problem(at(up, ca_file="authority.pem"), folder=tmp_path)
    with Replay(tls.server(tmp_path, authority, host="other.example")) as up:
        assert "is for another name" in await problem(at(up, ca_file="authority.pem"), folder=tmp_path)


async def test_proxies(tmp_path: Path) -> None:
    authority = tls.authority(tmp_path)
    with Replay(tls.server(tmp_path, authority)) as up:
        up.answer(*json_answer(OPENAI))
        table = at(up, ca_file="authority.pem")
        with Tunnel(f"gate:{SECRET}") as tunnel:
            found = await checked(
                {**table, "proxy": f"http://gate:${{UP_KEY}}@127.0.0.1:{tunnel.port}"}, folder=tmp_path
            )
            assert (found.problems, len(tunnel.asked)) == ([], 1)
            said = await problem({**table, "proxy": f"http://127.0.0.1:{tunnel.port}"}, folder=tmp_path)
            assert "the proxy 127.0.0.1 asks for a login" in said
        gone = {**table, "proxy": f"http://gate:${{UP_KEY}}@127.0.0.1:{tunnel.port}"}
        assert f"the proxy 127.0.0.1:{tunnel.port} makes no connection" in await problem(gone, folder=tmp_path)
