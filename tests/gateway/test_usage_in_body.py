"""`[server] usage_in_body`: each answer says what it was charged."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest

from llmgate.gateway.pipeline import with_usage
from tests.served import Served, chat_body


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    config = {"server": {"usage_in_body": True}, "upstreams": {"sandbox": {}}}
    with Served(tmp_path_factory.mktemp("told"), config) as served:
        yield served


def test_a_plain_answer_has_one_more_field(served: Served) -> None:
    person = served.person(credits="1")
    answer = served.chat(person, model="sandbox/echo", max_tokens=4)
    told = answer.json()["gateway_usage"]
    (row,) = served.settled(person, 1)
    assert told == {
        "tokens_charged": 16,
        "charge_usd": answer.headers["x-llmgate-charge-usd"],
        "balance_usd": answer.headers["x-llmgate-balance-usd"],
        "key": person.key_id,
    }
    assert row["charge_nano"] == 12_000 + 4 * 2_000


def test_a_stream_says_it_in_a_comment_before_its_end(served: Served) -> None:
    person = served.person()
    headers = served.headers(person)
    body = chat_body(model="sandbox/echo", max_tokens=4, stream=True)
    raw = httpx.post(f"{served.url}/v1/chat/completions", headers=headers, json=body, trust_env=False).content
    *chunks, comment, done, rest = raw.split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    assert all(chunk.startswith(b"data: {") for chunk in chunks)
    told = json.loads(comment.removeprefix(b": "))["gateway_usage"]
    assert told == {"tokens_charged": 16, "charge_usd": "0.00002", "balance_usd": None, "key": person.key_id}
    served.settled(person, 1)


def test_an_error_has_none(served: Served) -> None:
    answer = served.chat(served.person(), model="..")
    assert answer.status_code == 400
    assert "gateway_usage" not in answer.text


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b'{"a": 1}', b'{"a": 1,"x":2}'),
        (b' {"a": 1 }\n', b' {"a": 1 }\n'),
        (b'{"a": 1 }\n', b'{"a": 1,"x":2}'),
        (b"{}", b'{"x":2}'),
        (b"[1]", b"[1]"),
        (b"\x00\x01", b"\x00\x01"),
        (b"", b""),
    ],
)
def test_only_an_object_takes_a_field(answer: bytes, told: bytes) -> None:
    assert with_usage(answer, b'"x":2') == told
