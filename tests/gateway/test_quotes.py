"""What a request may come to is set aside, whatever makes it dearer: tiers of service, speed, headers, templates.

Rates are the bundled list's, on the day of the request.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest

from llmgate import catalogue
from llmgate.catalogue import Listed
from llmgate.pricing import UNITS, Price
from llmgate.quoting import PREAMBLE_TOKENS, TEMPLATE_TOKENS
from tests.replay import Replay, json_answer, sse, sse_answer
from tests.served import (
    DONE,
    INPUT_BOUND,
    PROMPT,
    SECRET,
    Person,
    Served,
    answers,
    completion,
    error_of,
    main_upstream,
    usage_chunk,
    usage_of,
    words,
)

OUTPUT = 100
GPT, CLAUDE, SLOW_CLAUDE = "gpt-5", "claude-opus-5", "claude-opus-4-5"
"""A model with tiers; one with a fast mode; one without, of a small context window."""

USED = {"input_tokens": 10, "output_tokens": 5}


@pytest.fixture(scope="module")
def upstream() -> Iterator[Replay]:
    with Replay() as up:
        yield up


@pytest.fixture
def up(upstream: Replay) -> Replay:
    upstream.requests.clear()
    upstream.handler = answers(json_answer(completion(usage=usage_of(10, 5))))
    return upstream


@pytest.fixture(scope="module")
def served(upstream: Replay, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    openai = {"preset": "openai", "base_url": upstream.url + "/v1", "api_key": SECRET}
    config = {
        "upstreams": {
            "plain": openai,
            "prior": {**openai, "service_tier": "priority"},
            "flexible": {**openai, "service_tier": "flex"},
            "sold": {**openai, "price": {"input": 1, "output": 2}},
            "claude": {"preset": "anthropic", "base_url": upstream.url, "api_key": SECRET},
            "own": main_upstream(upstream),
        }
    }
    with Served(tmp_path_factory.mktemp("quotes"), config) as served:
        yield served


def listed(served: Served, model: str, provider: str) -> Listed:
    found = catalogue.find(model, provider, served.value("SELECT max(day) FROM usage"))
    assert found is not None
    return found


def bound(price: Price, input_tokens: int, output_tokens: int = OUTPUT) -> int:
    """The dearest that so many tokens may come to."""
    dearest = max(rate or 0 for rate in (price.input, price.cached_input, price.cache_write, price.cache_write_1h))
    assert price.output is not None
    return -(-(input_tokens * dearest + output_tokens * price.output) // UNITS)


def cost(price: Price) -> int:
    """Of 10 tokens in and 5 out."""
    assert price.input is not None
    assert price.output is not None
    return -(-(10 * price.input + 5 * price.output) // UNITS)


def chat(served: Served, person: Person, upstream: str, **fields: Any) -> httpx.Response:
    return served.chat(person, model=f"{upstream}/{GPT}", max_completion_tokens=OUTPUT, **fields)


# ── tiers of service ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "asked", "quoted", "told", "charged"),
    [
        ("plain", None, "", "default", ""),
        ("plain", "default", "", None, ""),
        ("plain", "auto", "priority", "default", ""),
        ("plain", "auto", "priority", "flex", "flex"),
        ("plain", "priority", "priority", "priority", "priority"),
        ("plain", "priority", "priority", "default", ""),
        ("plain", "priority", "priority", None, "priority"),  # what it doesn't say is as it was asked for
        ("plain", "fast", "fast", "priority", "priority"),
        ("plain", "flex", "", "flex", "flex"),
        ("prior", None, "priority", "priority", "priority"),
        ("prior", None, "priority", "default", ""),
        ("prior", None, "priority", None, "priority"),
        ("prior", "auto", "priority", "priority", "priority"),
        ("prior", "default", "", "default", ""),
        ("flexible", None, "", "flex", "flex"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_tier_is_quoted_as_asked_and_charged_as_served(
    served: Served,
    up: Replay,
    stream: bool,
    name: str,
    asked: str | None,
    quoted: str,
    told: str | None,
    charged: str,
) -> None:
    tier = {"service_tier": told} if told else {}
    whole = completion(usage=usage_of(10, 5)) | tier
    last = usage_chunk(10, 5) | tier
    up.handler = answers(sse_answer(*words("hello"), sse(last), DONE) if stream else json_answer(whole))
    alice = served.person(credits="1")
    fields = {"service_tier": asked} if asked else {}
    assert chat(served, alice, name, stream=stream, **fields).status_code == 200
    (row,) = served.settled(alice, 1)
    found = listed(served, GPT, "openai")
    prices = {"": found.price, **found.service_tiers}
    assert row["hold_nano"] == bound(prices[quoted], INPUT_BOUND)
    assert (row["charge_nano"], row["overrun"]) == (cost(prices[charged]), 0)
    assert json.loads(up.requests[0].body).get("service_tier") == asked


def test_a_tier_that_no_list_knows_is_not_for_accounts_whose_money_can_run_out(served: Served, up: Replay) -> None:
    alice = served.person(credits="1")
    error = error_of(chat(served, alice, "plain", service_tier="ultrafast"), 400, "invalid_request")
    assert (error["param"], up.requests) == ("service_tier", [])
    assert chat(served, alice, "sold", service_tier="ultrafast").status_code == 200  # it costs the account no more
    assert chat(served, served.person(), "plain", service_tier="ultrafast").status_code == 200


# ── Anthropic ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def message(served: Served, person: Person, model: str, fields: Mapping[str, Any], **headers: str) -> httpx.Response:
    body = {"model": f"claude/{model}", "max_tokens": OUTPUT, "messages": [{"role": "user", "content": PROMPT}]}
    return served.post(person, {**body, **fields}, path="/v1/messages", headers=headers)


def said(**usage: Any) -> Any:
    return json_answer({"id": "msg_1", "type": "message", "content": [], "usage": {**USED, **usage}})


@pytest.mark.parametrize(("speed", "charged"), [("fast", "fast"), ("standard", ""), (None, "fast")])
def test_a_speed_is_a_price(served: Served, up: Replay, speed: str | None, charged: str) -> None:
    up.handler = answers(said(**({"speed": speed, "service_tier": "standard"} if speed else {})))
    alice = served.person(credits="1")
    assert message(served, alice, CLAUDE, {"speed": "fast"}).status_code == 200
    (row,) = served.settled(alice, 1)
    found = listed(served, CLAUDE, "anthropic")
    prices = {"": found.price, **found.service_tiers}
    assert prices["fast"].output == 2 * (found.price.output or 0)
    assert row["hold_nano"] == bound(prices["fast"], INPUT_BOUND)
    assert (row["charge_nano"], row["overrun"]) == (cost(prices[charged]), 0)


def test_a_speed_without_a_price(served: Served, up: Replay) -> None:
    alice = served.person(credits="1")
    assert message(served, alice, SLOW_CLAUDE, {"speed": "fast"}).status_code == 400
    assert up.requests == []


DOCUMENT = {"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}}
LONG = {"anthropic-beta": "files-api-2025-04-14,context-1m-2025-08-07"}


@pytest.mark.parametrize(
    ("headers", "window"),
    [
        ({}, 200_000),
        ({"anthropic-beta": "files-api-2025-04-14"}, 200_000),
        (LONG, 1_000_000),
        ({"Anthropic_Beta": "CONTEXT-1M-2025-08-07"}, 1_000_000),
        ({"x-anthropic-beta": "context-2m-2027-01-01"}, 2_000_000),
    ],
)
def test_a_header_opens_a_larger_context(served: Served, up: Replay, headers: dict[str, str], window: int) -> None:
    up.handler = answers(said())
    alice = served.person(credits="100")
    fields = {"messages": [{"role": "user", "content": [DOCUMENT]}]}
    assert message(served, alice, SLOW_CLAUDE, fields, **headers).status_code == 200
    (row,) = served.settled(alice, 1)
    price = listed(served, SLOW_CLAUDE, "anthropic").price
    assert row["hold_nano"] == bound(price, window)
    assert (row["charge_nano"], row["overrun"]) == (cost(price), 0)


def test_input_that_can_be_seen_is_no_more_than_it_is(served: Served, up: Replay) -> None:
    up.handler = answers(said())
    alice = served.person(credits="1")
    assert message(served, alice, SLOW_CLAUDE, {}, **LONG).status_code == 200
    assert served.settled(alice, 1)[0]["hold_nano"] == bound(
        listed(served, SLOW_CLAUDE, "anthropic").price, len(PROMPT) + TEMPLATE_TOKENS + PREAMBLE_TOKENS
    )


# ── servers of one's own ──────────────────────────────────────────────────────────────────────────────────────────────

WINDOW = 1_000_000
"""What is assumed of a model that no list knows."""


@pytest.mark.parametrize(
    "fields",
    [
        {"chat_template": "{% for i in range(9999) %}{{ messages }}{% endfor %}"},
        {"chat_template_kwargs": {"chat_template": "{{ messages * 9999 }}"}},
        {"mm_processor_kwargs": {"min_pixels": 10**9}},
        {"media_io_kwargs": {"video": {"num_frames": 9999}}},
        {"prompt_embeds": "AAAA"},
    ],
)
def test_what_makes_more_of_a_prompt_is_bounded_by_the_context(
    served: Served, up: Replay, fields: dict[str, Any]
) -> None:
    alice = served.person(credits="2")
    assert served.chat(alice, model="own/zeta", max_tokens=OUTPUT, **fields).status_code == 200
    (row,) = served.settled(alice, 1)
    assert (row["hold_nano"], row["charge_nano"]) == (WINDOW * 1_000 + OUTPUT * 2_000, 10 * 1_000 + 5 * 2_000)


@pytest.mark.parametrize(
    ("fields", "added"),
    [
        ({"chat_template_kwargs": {"enable_thinking": False}}, 0),
        ({"chat_template_kwargs": {"words": "x" * 100}}, len(json.dumps({"words": "x" * 100}))),
        ({"chat_template": None, "mm_processor_kwargs": None}, 0),
        ({"prompt_logprobs": 5}, 0),
        ({"guided_regex": "x" * 100}, 102),
    ],
)
def test_what_does_not_is_its_bytes(served: Served, up: Replay, fields: dict[str, Any], added: int) -> None:
    alice = served.person(credits="1")
    assert served.chat(alice, model="own/zeta", max_tokens=OUTPUT, **fields).status_code == 200
    assert served.settled(alice, 1)[0]["hold_nano"] == (INPUT_BOUND + added) * 1_000 + OUTPUT * 2_000


@pytest.mark.parametrize(
    ("fields", "prompts"),
    [
        ({"prompt": "hi", "prompt_embeds": ["AAAA", "BBBB"]}, 2),
        ({"prompt": ["hi", "ho"], "prompt_embeds": "AAAA"}, 3),
        ({"prompt": {"prompt_string": "<__media__>", "multimodal_data": ["AAAA"]}}, 1),
        ({"prompt": [{"prompt_string": "<__media__>", "multimodal_data": ["AAAA"]}] * 2}, 2),
    ],
)
def test_each_of_several_prompts_may_fill_the_context(
    served: Served, up: Replay, fields: dict[str, Any], prompts: int
) -> None:
    alice = served.person(credits="4")
    body = {"model": "own/zeta", "max_tokens": OUTPUT, **fields}
    assert served.post(alice, body, path="/v1/completions").status_code == 200
    (row,) = served.settled(alice, 1)
    assert row["hold_nano"] == prompts * (WINDOW * 1_000 + OUTPUT * 2_000)


def test_a_prediction_is_not_for_accounts_whose_money_can_run_out(served: Served, up: Replay) -> None:
    """What of it isn't taken is billed as output, and the vendor takes no bound beside it."""
    fields = {"prediction": {"type": "content", "content": "hello"}}
    error = error_of(chat(served, served.person(credits="1"), "plain", **fields), 400, "invalid_request")
    assert (error["param"], up.requests) == ("prediction", [])
    rejected = usage_of(10, 5, completion_tokens_details={"rejected_prediction_tokens": 4})
    up.handler = answers(json_answer(completion(usage=rejected)))
    bob = served.person()
    assert chat(served, bob, "plain", **fields).status_code == 200
    assert served.settled(bob, 1)[0]["charge_nano"] == cost(listed(served, GPT, "openai").price)
