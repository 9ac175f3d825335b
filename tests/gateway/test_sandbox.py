"""The sandbox by itself: what it answers at each path, without a gateway around it."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from llmgate.gateway.sandbox import Sandbox
from llmgate.wire import anthropic, completions, openai, responses
from llmgate.wire.endpoint import Endpoint

SAID = "one two three four"
WORDS = ["one ", "two ", "three ", "four"]
TOKENS = 5
"""Four bytes are a token."""

CHAT = {"model": "echo", "messages": [{"role": "user", "content": SAID}]}
OLD = {"model": "echo", "prompt": SAID}
RESPONSE = {"model": "echo", "input": SAID}

ENDPOINTS: dict[str, tuple[Endpoint, dict[str, Any], str, int]] = {
    "chat/completions": (openai.CHAT, CHAT, "max_tokens", TOKENS + 4),
    "completions": (completions.COMPLETIONS, OLD, "max_tokens", TOKENS),
    "messages": (anthropic.MESSAGES, CHAT, "max_tokens", TOKENS + 4),
    "responses": (responses.RESPONSES, RESPONSE, "max_output_tokens", TOKENS + 4),
}
"""Path → how it is heard, a body, its bound, and what its input counts."""


async def ask(path: str, body: Any) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = httpx.Request("POST", f"http://sandbox.invalid/v1/{path}", content=content)
    async with Sandbox() as sandbox:
        response = await sandbox.handle_async_request(request)
        await response.aread()
        return response


def events(response: httpx.Response) -> list[tuple[str, Any]]:
    """Each event's name and what it says."""
    found = []
    for block in response.text.removesuffix("\n\n").split("\n\n"):
        *names, data = block.split("\n")
        said = data.removeprefix("data: ")
        name = names[0].removeprefix("event: ") if names else ""
        found.append((name, said if said == "[DONE]" else json.loads(said)))
    return found


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("bound", [None, 2, 500])
async def test_what_is_used_is_told(path: str, stream: bool, bound: int | None) -> None:
    """As the gateway hears it: the input, and the output within its bound."""
    endpoint, body, field, read = ENDPOINTS[path]
    body = {**body, "stream": stream, **({} if bound is None else {field: bound})}
    if stream and endpoint.dialect.name == "openai" and path != "responses":
        body["stream_options"] = {"include_usage": True}
    answer = await ask(path, body)
    assert answer.status_code == 200
    if stream:
        listener = endpoint.stream(False)
        listener.feed(answer.content)
        listener.finish()
        heard = listener.heard
        assert heard.done
    else:
        whole = endpoint.hear(answer.content)
        assert whole is not None
        heard = whole
    assert heard.finished
    assert not heard.failed
    assert heard.usage is not None
    meters = heard.usage.meters
    assert (meters.input_tokens, meters.output_tokens) == (read, min(TOKENS, bound or TOKENS))
    assert heard.text_bytes == (8 if bound == 2 else len(SAID))
    assert not heard.usage.input_missing
    assert not heard.usage.output_missing


async def test_a_message() -> None:
    body = {**CHAT, "max_tokens": 100, "system": [{"type": "text", "text": "be brief"}]}
    answer = (await ask("messages", body)).json()
    assert (answer["content"], answer["stop_reason"]) == ([{"type": "text", "text": SAID}], "end_turn")
    assert answer["usage"]["input_tokens"] == 2 + 4 + TOKENS + 4
    assert (await ask("messages/count_tokens", body)).json() == {"input_tokens": 15}
    assert (await ask("messages", body)).json() == answer
    assert (await ask("messages", {**body, "max_tokens": 1})).json()["stop_reason"] == "max_tokens"


async def test_the_events_of_a_message() -> None:
    found = events(await ask("messages", {**CHAT, "max_tokens": 100, "stream": True}))
    assert [name for name, _ in found] == [
        *("message_start", "content_block_start", "ping"),
        *["content_block_delta"] * 4,
        *("content_block_stop", "message_delta", "message_stop"),
    ]
    assert all(said["type"] == name for name, said in found)
    assert [said["delta"]["text"] for name, said in found if name == "content_block_delta"] == WORDS
    assert found[0][1]["message"]["usage"]["input_tokens"] == 9
    assert found[-2][1]["usage"] == {"output_tokens": TOKENS}


async def test_a_response() -> None:
    answer = (await ask("responses", {**RESPONSE, "instructions": "be brief"})).json()
    assert answer["status"] == "completed"
    assert answer["output"][0]["content"][0]["text"] == SAID
    assert answer["usage"]["input_tokens"] == 15
    count = (await ask("responses/input_tokens", {**RESPONSE, "instructions": "be brief"})).json()
    assert count == {"object": "response.input_tokens", "input_tokens": 15}
    listed = [{"role": "user", "content": [{"type": "input_text", "text": SAID}]}]
    again = (await ask("responses", {**RESPONSE, "input": listed, "instructions": "be brief"})).json()
    assert again["id"] != answer["id"]
    assert again["usage"] == answer["usage"]
    cut = (await ask("responses", {**RESPONSE, "max_output_tokens": 2})).json()
    assert (cut["status"], cut["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert cut["output"][0]["content"][0]["text"] == SAID[:8]


@pytest.mark.parametrize(("bound", "last"), [(500, "response.completed"), (2, "response.incomplete")])
async def test_the_events_of_a_response(bound: int, last: str) -> None:
    found = events(await ask("responses", {**RESPONSE, "stream": True, "max_output_tokens": bound}))
    names = [name for name, _ in found]
    assert names[:4] == [
        *("response.created", "response.in_progress"),
        *("response.output_item.added", "response.content_part.added"),
    ]
    assert names[-4:] == [
        *("response.output_text.done", "response.content_part.done", "response.output_item.done", last),
    ]
    assert set(names[4:-4]) == {"response.output_text.delta"}
    assert [said["sequence_number"] for _, said in found] == list(range(len(found)))
    assert all(said["type"] == name for name, said in found)
    assert (
        "".join(said["delta"] for _, said in found[4:-4]) == found[-1][1]["response"]["output"][0]["content"][0]["text"]
    )


async def test_completions_of_several_prompts() -> None:
    body = {"model": "echo", "prompt": ["one", [1, 2, 3]], "n": 2, "best_of": 3, "max_tokens": 1}
    answer = (await ask("completions", body)).json()
    assert [(one["index"], one["text"], one["finish_reason"]) for one in answer["choices"]] == [
        *((0, "one", "stop"), (1, "one", "stop")),
        *((2, "Hell", "length"), (3, "Hell", "length")),
    ]
    assert answer["usage"]["prompt_tokens"] == 1 + 3
    assert answer["usage"]["completion_tokens"] == 3 * 2


async def test_completions_are_short_unless_asked_for_more() -> None:
    answer = (await ask("completions", {"model": "echo", "prompt": "x" * 100})).json()
    assert (answer["choices"][0]["text"], answer["usage"]["completion_tokens"]) == ("x" * 64, 16)
    found = events(await ask("completions", {**OLD, "stream": True}))
    assert "".join(said["choices"][0]["text"] for _, said in found[:-1]) == SAID
    assert found[-1] == ("", "[DONE]")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("chat/completions", b"no json"),
        ("chat/completions", b"[]"),
        ("chat/completions", {"model": "echo"}),
        ("chat/completions", {**CHAT, "n": 129}),
        ("completions", {"prompt": {}}),
        ("completions", {"prompt": ["a"] * 100, "n": 2}),
        ("completions", {"prompt": "a", "n": 1, "best_of": 2, "stream": True}),
        ("embeddings", {"input": "a", "dimensions": 5000}),
        ("responses", {"model": "echo"}),
        ("responses", {"input": ["text"]}),
        ("messages", {"messages": "hello"}),
        ("messages/count_tokens", {"messages": [1]}),
    ],
)
async def test_what_it_cannot_answer(path: str, body: Any) -> None:
    answer = await ask(path, body)
    assert answer.status_code == 400
    said = answer.json()
    assert said["error"]["type"] == "invalid_request_error"
    assert said["error"]["message"]
    assert (said.get("type") == "error") is path.startswith("messages")


@pytest.mark.parametrize("path", ENDPOINTS)
async def test_it_does_not_talk_for_ever(path: str) -> None:
    """It works inside the gateway: what a body of 32 MiB makes it echo keeps everybody waiting."""
    endpoint, _, field, _ = ENDPOINTS[path]
    long = "x " * 100_000
    body = {"prompt": long, "input": long, "messages": [{"role": "user", "content": long}], field: 10**6}
    heard = endpoint.hear((await ask(path, body)).content)
    assert heard is not None
    assert heard.usage is not None
    assert heard.usage.meters.output_tokens == 16_384


async def test_it_always_says_something() -> None:
    assert (await ask("messages", {"messages": []})).json()["content"][0]["text"] == "Hello from the sandbox."
    assert (await ask("responses", {"input": []})).json()["usage"]["output_tokens"] == 6
    assert (await ask("images/generations", {})).status_code == 404
