"""What somebody with a key tries, in the formats that read more than the body: each of it is stopped or paid."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from signal import SIGHUP
from typing import Any

import httpx
import pytest

from tests.replay import Replay, chunk, head, json_answer, sse, sse_answer
from tests.served import (
    DONE,
    PRICE,
    PROMPT,
    SECRET,
    Person,
    Served,
    answers,
    chunk_of,
    completion,
    error_of,
    main_upstream,
    usage_chunk,
    usage_of,
)

ANSWER = {
    "candidates": [{"content": {"parts": [{"text": "hello"}]}, "finishReason": "STOP"}],
    "usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 3, "totalTokenCount": 8},
}
PAGE = "https://chat.example.com"


@pytest.fixture(scope="module")
def upstream() -> Iterator[Replay]:
    with Replay() as up:
        yield up


@pytest.fixture
def up(upstream: Replay) -> Replay:
    upstream.requests.clear()
    upstream.handler = answers(json_answer(ANSWER))
    return upstream


@pytest.fixture(scope="module")
def served(upstream: Replay, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    google = {"base_url": upstream.url, "format": "gemini", "api_key": SECRET, "price": PRICE, "identify": True}
    config = {
        "server": {"cors_origins": [PAGE]},
        "upstreams": {
            "main": main_upstream(upstream),
            "google": {**google, "auth": "query:key", "query": {"v": "1"}},
            "claude": {**google, "format": "anthropic", "auth": "header:x-api-key"},
        },
        "routes": {
            "/v1/files*": {"upstream": "main", "methods": ["GET", "POST", "DELETE"], "unmetered": True},
            "/v1beta/*": {"upstream": "google", "methods": ["GET", "POST", "DELETE"], "unmetered": True},
        },
    }
    with Served(tmp_path_factory.mktemp("attacks"), config) as served:
        yield served


def generate(
    served: Served, person: Person | None, query: str = "", *, method: str = "generateContent", **headers: str
) -> httpx.Response:
    content = json.dumps({"contents": [{"parts": [{"text": PROMPT}]}]})
    url = f"{served.url}/v1beta/models/google/zeta:{method}{query}"
    shown = {"x-goog-api-key": person.key} if person else {}
    return served.client.post(url, content=content, headers={**shown, **headers})


@pytest.mark.parametrize("name", ["key", "%6Bey", "k%65y"])
def test_a_key_in_the_query_goes_no_further_however_it_is_written(served: Served, up: Replay, name: str) -> None:
    alice = served.person()
    assert generate(served, None, f"?a=1&{name}={alice.key}&$b=2").status_code == 200
    assert up.requests[0].path == f"/v1beta/models/zeta:generateContent?a=1&$b=2&v=1&key={SECRET}"


def test_a_key_of_ours_is_let_out_under_no_name(served: Served, up: Replay) -> None:
    alice = served.person()
    assert generate(served, alice, f"?token={alice.key}").status_code == 200
    assert alice.key not in up.requests[0].path


@pytest.mark.parametrize("name", ["access_token", "%61ccess_token", "oauth_token", "bearer_token"])
def test_no_other_login_is_let_out(served: Served, up: Replay, name: str) -> None:
    assert generate(served, served.person(), f"?{name}=ya29.mine&a=1").status_code == 200
    assert up.requests[0].path == f"/v1beta/models/zeta:generateContent?a=1&v=1&key={SECRET}"


PAYERS = {"OpenAI-Organization": "org-b", "OpenAI-Project": "proj-b", "Anthropic-Workspace-Id": "wrkspc-b"}


def test_who_of_the_admins_own_pays_is_not_for_clients_to_say(served: Served, up: Replay) -> None:
    up.handler = answers(json_answer(completion(usage=usage_of(10, 5))))
    more = {"X-Goog-User-Project": "b", "X_Goog_User_Project": "b", "X-Vertex-AI-LLM-Shared-Request-Type": "priority"}
    served.post(served.person(), {"model": "main/zeta", "messages": []}, headers={**PAYERS, **more})
    (request,) = up.requests
    assert [name for name in (*PAYERS, *more) if request.header(name.lower()) is not None] == []


def test_who_pays_is_what_the_admin_says(up: Replay, tmp_path: Path) -> None:
    up.handler = answers(json_answer(completion(usage=usage_of(10, 5))))
    with Served(tmp_path, {"upstreams": {"main": main_upstream(up, headers={"OpenAI-Project": "proj-a"})}}) as served:
        assert served.post(served.person(), {"model": "zeta", "messages": []}, headers=PAYERS).status_code == 200
    assert [value for name, value in up.requests[0].headers if name == "openai-project"] == ["proj-a"]


def test_what_a_host_says_of_itself_is_not_said_of_ours(served: Served, up: Replay) -> None:
    """Or clients would look for us by HTTP/3, or never again without TLS."""
    theirs = {"alt-svc": 'h3=":443"', "strict-transport-security": "max-age=31536000", "nel": "{}", "x-served-by": "a"}
    up.handler = answers(json_answer(ANSWER, headers=theirs.items()))
    told = generate(served, served.person()).headers
    assert [name for name in theirs if name in told] == ["x-served-by"]


@pytest.mark.parametrize("query", ["?a=1%23", "?a=1#b", "?%76=2&a=1"])
def test_what_the_upstream_wants_in_its_query_is_there(served: Served, up: Replay, query: str) -> None:
    assert generate(served, served.person(), query).status_code == 200
    params = httpx.URL(up.requests[0].path).params
    assert (params.get_list("v"), params.get_list("key")) == (["1"], [SECRET])


@pytest.mark.parametrize(
    "query", ["fields=candidates", "%66ields=candidates", "$fields=c", "alt=proto", "$alt=proto", "callback=f", "alt="]
)
def test_no_answer_is_asked_for_that_hides_its_usage(served: Served, up: Replay, query: str) -> None:
    """The thoughts of a model are billed, and only its usage tells of them."""
    answer = generate(served, served.person(), f"?{query}", **{"x-goog-fieldmask": "candidates"})
    assert answer.status_code == 200
    assert up.requests[0].path == f"/v1beta/models/zeta:generateContent?v=1&key={SECRET}"
    assert up.requests[0].header("x-goog-fieldmask") is None


def test_a_stream_that_is_neither_json_nor_events_is_none(served: Served, up: Replay) -> None:
    kind = [("content-type", "application/x-protobuf"), ("transfer-encoding", "chunked")]
    up.handler = answers((head(200, kind), chunk(b"\x0a\x05hello" * 1000), chunk(b"")))
    answer = generate(served, served.person(), method="streamGenerateContent")
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, 502)
    assert b"hello" not in answer.content


def test_no_header_is_told_in_another_spelling(served: Served, up: Replay) -> None:
    """Some servers take an underscore for a hyphen."""
    alice = served.person()
    forged = {"X_User_ID": "admin", "X_Forwarded_For": "10.0.0.1", "X_Api_Key": "k", "Origin": PAGE}
    assert generate(served, alice, **forged).status_code == 200
    names = [name for name, _ in up.requests[0].headers if "_" in name or name in ("origin", "x-forwarded-for")]
    assert (names, up.requests[0].header("x-user-id")) == ([], alice.name)


@pytest.mark.parametrize(("origin", "told"), [(PAGE, [PAGE]), ("https://evil.example.com", [])])
def test_which_pages_may_call_is_not_for_an_upstream_to_say(
    served: Served, up: Replay, origin: str, told: list[str]
) -> None:
    up.handler = answers(json_answer(ANSWER, headers=[("access-control-allow-origin", "*")]))
    answer = generate(served, served.person(), origin=origin)
    assert answer.headers.get_list("access-control-allow-origin") == told


HELLO = {"model": "claude/zeta", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
SAID = {"contents": [{"parts": [{"text": "hi"}]}]}

FILES: dict[str, tuple[str, Mapping[str, Any]]] = {
    "chat": (
        "/v1/chat/completions",
        {"model": "main/zeta", "messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]},
    ),
    "messages": (
        "/v1/messages",
        {
            "model": "claude/zeta",
            "max_tokens": 9,
            "messages": [
                {"role": "user", "content": [{"type": "document", "source": {"type": "file", "file_id": "f"}}]}
            ],
        },
    ),
    "generate": (
        "/v1beta/models/google/zeta:generateContent",
        {
            "contents": [
                {"parts": [{"fileData": {"fileUri": "https://generativelanguage.googleapis.com/v1beta/files/f"}}]}
            ]
        },
    ),
    "generate, by name": (
        "/v1beta/models/google/zeta:generateContent",
        {"contents": [{"parts": [{"file_data": {"file_uri": "files/f"}}]}]},
    ),
    "speech": (
        "/v1/chat/completions",
        {"model": "main/zeta", "messages": [{"role": "assistant", "audio": {"id": "audio_1"}}]},
    ),
    "container": ("/v1/messages", {**HELLO, "container": "container_1"}),
    "container, as an object": ("/v1/messages", {**HELLO, "container": {"id": "container_1"}}),
    "skill": ("/v1/messages", {**HELLO, "container": {"skills": [{"type": "custom", "skill_id": "skill_1"}]}}),
    "thread": ("/v1/messages", {**HELLO, "thread": {"type": "continue", "previous_message_id": "msg_1"}}),
    "container, to count": ("/v1/messages/count_tokens", {**HELLO, "container": "container_1"}),
    "context": ("/v1beta/models/google/zeta:generateContent", {**SAID, "cachedContent": "cachedContents/c"}),
    "context, in other words": (
        "/v1beta/models/google/zeta:generateContent",
        {**SAID, "cached_content": "cachedContents/c"},
    ),
    "context, to count": (
        "/v1beta/models/google/zeta:countTokens",
        {"generateContentRequest": {**SAID, "model": "google/zeta", "cachedContent": "cachedContents/c"}},
    ),
    "skill, for a shell": (
        "/v1/responses",
        {
            "model": "main/zeta",
            "input": "hi",
            "tools": [
                {"type": "shell", "environment": {"skills": [{"type": "skill_reference", "skill_id": "skill_1"}]}}
            ],
        },
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_files_of_others_are_not_there(served: Served, up: Replay, case: str) -> None:
    path, body = FILES[case]
    assert served.post(served.person(), body, path=path).status_code == 404
    assert up.requests == []


def message_left(number: str) -> dict[str, Any]:
    """A message that left a container, a file and a thread."""
    written = {"content": [{"file_id": f"file_{number}"}]}
    return {
        "id": f"msg_{number}",
        "type": "message",
        "content": [{"type": "code_execution_tool_result", "content": written}],
        "container": {"id": f"container_{number}", "expires_at": "2026-11-21T00:00:00Z"},
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 5, "output_tokens": 3},
    }


def events_of(message: Mapping[str, Any]) -> list[bytes]:
    end = {name: message[name] for name in ("stop_reason", "container")}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"id": message["id"], "usage": message["usage"]}},
        {"type": "content_block_start", "content_block": message["content"][0]},
        {"type": "message_delta", "delta": end, "usage": {"output_tokens": 3}},
        {"type": "message_stop"},
    ]
    return [sse(event, event["type"]) for event in events]


@pytest.mark.parametrize("stream", [False, True])
def test_what_a_program_ran_in_is_whose_it_was(served: Served, up: Replay, stream: bool) -> None:
    """And the files that it left, and the thread that it was in."""
    alice, bob = served.person(), served.person()
    made = message_left(alice.name)
    up.handler = answers(sse_answer(*events_of(made)) if stream else json_answer(made))
    tools = [{"type": "code_execution_20250825", "name": "code_execution"}]
    served.post(alice, {**HELLO, "stream": stream, "tools": tools}, path="/v1/messages")
    served.settled(alice, 1)
    container = made["container"]["id"]
    document = {"type": "document", "source": {"type": "file", "file_id": f"file_{alice.name}"}}
    later: list[dict[str, Any]] = [
        {"container": container},
        {"container": {"id": container, "skills": [{"type": "anthropic", "skill_id": "pptx"}]}},
        {"thread": {"type": "continue", "previous_message_id": made["id"]}},
        {"messages": [{"role": "user", "content": [document]}]},
    ]
    for fields in later:
        assert served.post(bob, {**HELLO, **fields}, path="/v1/messages").status_code == 404
        assert served.post(alice, {**HELLO, **fields}, path="/v1/messages").status_code == 200
    assert len(up.requests) == 1 + len(later)


def test_an_answer_that_leaves_nothing_is_not_noted(served: Served, up: Replay) -> None:
    up.handler = answers(json_answer(message_left("8") | {"container": None, "content": []}))
    alice = served.person()
    assert served.post(alice, HELLO, path="/v1/messages").status_code == 200
    assert served.value("SELECT count(*) FROM objects WHERE id = 'msg_8'") == 0


@pytest.mark.parametrize("stream", [False, True])
def test_what_a_model_said_aloud_is_whose_it_was(served: Served, up: Replay, stream: bool) -> None:
    alice, bob = served.person(), served.person()
    audio = {"id": f"audio_{alice.name}"}
    spoken = {**audio, "data": "AAAA", "transcript": "hi"}
    said = completion(usage=usage_of(10, 5), choices=[{"message": {"audio": spoken}, "finish_reason": "stop"}])
    chunks = [chunk_of(choices=[{"delta": {"audio": audio}}]), usage_chunk(10, 5)]
    up.handler = answers(sse_answer(*map(sse, chunks), DONE) if stream else json_answer(said))
    served.chat(alice, stream=stream)
    served.settled(alice, 1)
    again = [{"role": "assistant", "audio": audio}, {"role": "user", "content": "and?"}]
    assert served.chat(bob, messages=again).status_code == 404
    assert served.chat(alice, messages=again).status_code == 200


def with_file(file_id: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "file", "file": {"file_id": file_id}}]}]


def cached(name: str) -> dict[str, Any]:
    return {**SAID, "cachedContent": name}


GENERATE = "/v1beta/models/google/zeta:generateContent"


def test_a_file_is_whose_account_sent_it(served: Served, up: Replay) -> None:
    """Through a path that the admin lets go by. What is nobody's there is for everybody who may use the path."""
    alice, bob = served.person(), served.person()
    up.handler = answers(json_answer({"id": "file-a", "object": "file"}))
    assert served.post(alice, b"any form", path="/v1/files").status_code == 200
    for path in ("/v1/files/file-a", "/v1/files/file-a/content"):
        assert served.client.get(served.url + path, headers=served.headers(bob)).status_code == 404
        assert served.client.get(served.url + path, headers=served.headers(alice)).status_code == 200
    assert served.client.get(served.url + "/v1/files/file-b", headers=served.headers(bob)).status_code == 200
    up.handler = answers(json_answer(completion(usage=usage_of(10, 5))))
    assert served.chat(bob, messages=with_file("file-a")).status_code == 404
    assert served.chat(alice, messages=with_file("file-a")).status_code == 200


def test_a_context_is_whose_account_made_it(served: Served, up: Replay) -> None:
    alice, bob = served.person(), served.person()
    up.handler = answers(json_answer({"name": "cachedContents/a", "displayName": "cachedContents/b"}))
    assert served.post(alice, b"{}", path="/v1beta/cachedContents").status_code == 200
    path = served.url + "/v1beta/cachedContents/a"
    assert served.client.delete(path, headers=served.headers(bob)).status_code == 404
    up.handler = answers(json_answer(ANSWER))
    assert served.post(bob, cached("cachedContents/a"), path=GENERATE).status_code == 404
    assert served.post(alice, cached("cachedContents/b"), path=GENERATE).status_code == 404
    assert served.post(alice, cached("cachedContents/a"), path=GENERATE).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "answer"),
    [
        ("GET", "/v1/files", {"id": "file-z"}),  # nothing is made by looking
        ("POST", "/v1/files/file-z", {"id": "file-z"}),  # nor below
        ("POST", "/v1/files/file-y/part", {"id": "file-z"}),
        ("POST", "/v1/files", {"id": "vs-z", "name": "file-z"}),  # nor by a name of one's choice
        ("POST", "/v1/files", {"files": [{"id": "file-z"}]}),
    ],
)
def test_what_others_made_is_not_had_by_naming_it(
    served: Served, up: Replay, method: str, path: str, answer: Mapping[str, Any]
) -> None:
    alice = served.person()
    up.handler = answers(json_answer(answer))
    assert served.client.request(method, served.url + path, headers=served.headers(alice)).status_code == 200
    assert served.chat(alice, messages=with_file("file-z")).status_code == 404


def test_a_name_that_another_upstream_gave_opens_nothing(served: Served, up: Replay) -> None:
    alice = served.person()
    up.handler = answers(json_answer({"name": "file-w"}))
    assert served.post(alice, b"{}", path="/v1beta/anything").status_code == 200
    assert served.chat(alice, messages=with_file("file-w")).status_code == 404
    assert len(up.requests) == 1


def test_odd_numbers_beside_a_file_are_no_way_round(served: Served, up: Replay) -> None:
    """Valid JSON that not every decoder takes."""
    raw = b'{"contents":[{"parts":[{"fileData":{"fileUri":"files/f"},"x":1e999}]}]}'
    answer = served.post(served.person(), raw, path="/v1beta/models/google/zeta:generateContent")
    assert (answer.status_code, up.requests) == (404, [])


def test_documents_behind_an_address_are_paid_before_they_are_read(served: Served, up: Replay) -> None:
    """A thousand pages weigh as little as their address: the context window bounds them."""
    up.handler = answers(json_answer(completion(usage=usage_of(400_000, 5))))
    alice = served.person(credits="0.10")
    parts = [{"type": "document_url", "document_url": "https://example.com/a.pdf"}]
    error_of(
        served.post(alice, {"model": "main/zeta", "messages": [{"role": "user", "content": parts}]}),
        402,
        "insufficient_credits",
    )
    assert up.requests == []
    assert served.balance(alice.name) == 100_000_000


@pytest.mark.parametrize("name", ["provider", "preset", "data_sources", "enable_search", "deferred"])
def test_who_answers_at_whose_price_is_not_for_accounts_whose_money_can_run_out(
    served: Served, up: Replay, name: str
) -> None:
    up.handler = answers(json_answer(completion(usage=usage_of(10, 5))))
    error = error_of(served.chat(served.person(credits="1"), **{name: {"only": ["dear"]}}), 400, "invalid_request")
    assert error["param"] == name
    assert served.chat(served.person(), **{name: {"only": ["dear"]}}).status_code == 200


def test_what_refers_to_an_earlier_answer_goes_where_that_lies(tmp_path: Path) -> None:
    """Not money: any other upstream would say that there is no such thing."""
    with Replay() as one, Replay() as two, Replay() as three:
        for name, up in (("one", one), ("two", two)):
            up.handler = answers(
                json_answer({"id": f"resp_{name}", "status": "completed", "output": [], "usage": usage_of(5, 5)})
            )
        routes = [{"upstream": name, "model": "zeta"} for name in ("one", "two")]
        upstreams = {"one": main_upstream(one), "two": main_upstream(two), "three": main_upstream(three)}
        with Served(tmp_path, {"upstreams": upstreams, "models": {"both": {"routes": routes}}}) as served:
            alice = served.person()
            for _ in range(8):
                body = {"model": "both", "input": "hi"}
                made = served.post(alice, body, path="/v1/responses").json()["id"]
                again = served.post(alice, {**body, "previous_response_id": made}, path="/v1/responses")
                assert again.json()["id"] == made
                elsewhere = {**body, "model": "three/zeta", "previous_response_id": made}
                assert served.post(alice, elsewhere, path="/v1/responses").status_code == 404
            both = {**body, "previous_response_id": "resp_one", "conversation": "resp_two"}
            assert served.post(alice, both, path="/v1/responses").status_code == 404
            # Whether an upstream that is gone is only called something else today, nobody can know.
            served.write_config({"upstreams": {"three": upstreams["three"]}})
            served.signal(SIGHUP)
            served.logged("reloaded")
            three.handler = answers(json_answer({"id": "resp_3", "status": "completed", "output": []}))
            assert served.post(alice, elsewhere, path="/v1/responses").status_code == 404
            assert three.requests == []
