"""Pages that call llmgate from a browser: only those of the origins that the config names."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.served import Served, chat_body

PAGE = "https://chat.example.com"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    config = {"server": {"cors_origins": [PAGE]}, "upstreams": {"sandbox": {}}}
    with Served(tmp_path_factory.mktemp("cors"), config) as served:
        yield served


def allowing(answer: object) -> dict[str, str]:
    headers: dict[str, str] = dict(answer.headers)  # type: ignore[attr-defined]
    return {name: value for name, value in headers.items() if name.startswith("access-control-")}


def test_a_preflight_is_answered_without_a_key(served: Served) -> None:
    asked = {
        "origin": PAGE,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    answer = served.client.request("OPTIONS", f"{served.url}/v1/chat/completions", headers=asked)
    assert answer.status_code == 204
    told = allowing(answer)
    assert told["access-control-allow-origin"] == PAGE
    assert told["access-control-allow-headers"] == "authorization,content-type"
    assert "POST" in told["access-control-allow-methods"]
    assert "access-control-allow-credentials" not in told
    answer = served.client.request(
        "OPTIONS", f"{served.url}/v1/chat/completions", headers=asked | {"origin": "https://other.example.com"}
    )
    assert (answer.status_code, allowing(answer)) == (405, {})


@pytest.mark.parametrize("stream", [False, True])
def test_answers_and_errors_may_be_read_by_the_page(served: Served, stream: bool) -> None:
    person = served.person()
    headers = served.headers(person, {"origin": PAGE})
    body = chat_body(model="sandbox/echo", stream=stream)
    answer = served.client.post(f"{served.url}/v1/chat/completions", headers=headers, json=body)
    assert answer.status_code == 200
    assert allowing(answer) == {"access-control-allow-origin": PAGE, "access-control-expose-headers": "*"}
    refused = served.client.post(f"{served.url}/v1/chat/completions", headers={"origin": PAGE}, json=body)
    assert refused.status_code == 401
    assert allowing(refused)["access-control-allow-origin"] == PAGE
    served.settled(person, 1)


def test_without_an_origin_nothing_is_said(served: Served) -> None:
    assert allowing(served.client.get(f"{served.url}/health")) == {}
