"""Large forms: they are kept once, in memory, and sent on from there."""

from __future__ import annotations

import os
from collections.abc import Iterator

import httpx
import pytest

from tests.replay import Replay, body_answer, json_answer
from tests.served import SECRET, Person, Served, answers, facts

BORDER = "a-border"
SOUND = os.urandom(3 * 2**20)
NANO = 6_000_000
"""What a second costs."""

HEARD = json_answer({"text": "hi", "usage": {"type": "duration", "seconds": 2.5}})


@pytest.fixture(scope="module")
def upstream() -> Iterator[Replay]:
    with Replay() as up:
        yield up


@pytest.fixture
def up(upstream: Replay) -> Replay:
    upstream.requests.clear()
    upstream.handler = answers(HEARD)
    return upstream


@pytest.fixture(scope="module")
def served(upstream: Replay, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    main = {"base_url": upstream.url + "/v1", "api_key": SECRET, "price": {"per_second": 0.006}}
    routes = [{"upstream": "main", "model": "whisper-9"}]
    config = {"upstreams": {"main": main}, "models": {"ear": {"routes": routes}}}
    with Served(tmp_path_factory.mktemp("uploads"), config) as served:
        yield served


def form(model: str) -> bytes:
    """The model's name stands between two files."""
    dashes = f"--{BORDER}".encode()
    part = b'\r\ncontent-disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
    parts = [(b"file", b'; filename="a.mp3"', SOUND), (b"model", b"", model.encode()), (b"x", b'; filename="b"', SOUND)]
    return b"".join(dashes + part % one for one in parts) + dashes + b"--\r\n"


def transcribe(served: Served, person: Person, model: str) -> httpx.Response:
    kind = {"content-type": f"multipart/form-data; boundary={BORDER}"}
    return served.post(person, form(model), path="/v1/audio/transcriptions", headers=kind)


@pytest.mark.parametrize(("asked", "sent"), [("ear", "whisper-9"), ("main/whisper-9", "whisper-9"), ("mouth", "mouth")])
def test_a_large_form_arrives_whole(served: Served, up: Replay, asked: str, sent: str) -> None:
    alice = served.person(credits="100")
    assert transcribe(served, alice, asked).status_code == 200
    (request,) = up.requests
    assert request.body == form(sent)
    assert (request.header("content-length"), request.header("transfer-encoding")) == (str(len(form(sent))), None)
    (row,) = served.settled(alice, 1)
    assert facts(row) == ("ok", "upstream", 200, 5 * NANO // 2)


def test_a_large_form_is_sent_again_as_it_was(served: Served, up: Replay) -> None:
    up.handler = answers(body_answer(b"", 503, [("retry-after", "0")]), HEARD)
    alice = served.person(credits="100")
    assert transcribe(served, alice, "ear").status_code == 200
    assert [request.body == form("whisper-9") for request in up.requests] == [True, True]
    assert facts(served.settled(alice, 1)[0]) == ("ok", "upstream", 200, 5 * NANO // 2)
