"""The daemon as a process: how it starts, is told to reload or to stop, crashes, and what its log says."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGTERM, Signals
from typing import Any

import httpx
import pytest

from llmgate import routing
from llmgate.money import usd
from llmgate.store import ledger
from tests.replay import HANG, Pause, Replay, Step, json_answer, sse, sse_answer, until, wait_until
from tests.served import (
    DONE,
    INPUT_BOUND,
    INPUT_NANO,
    OUTPUT_NANO,
    PROMPT,
    SECRET,
    Inside,
    Person,
    Served,
    answers,
    chat_body,
    chunk_of,
    completion,
    error_of,
    estimate,
    facts,
    main_upstream,
    usage_chunk,
    usage_of,
    words,
)

EXACT = 10 * INPUT_NANO + 5 * OUTPUT_NANO
OK = json_answer(completion("hello", usage=usage_of(10, 5)))
HELLO = sse(chunk_of("hello"))
REST = (*words("you"), sse(usage_chunk(10, 5)), DONE)


def config_for(up: Replay, **server: Any) -> dict[str, Any]:
    return {"server": server, "upstreams": {"main": main_upstream(up)}}


# -- starting


def test_an_address_that_is_taken(tmp_path: Path) -> None:
    served = Served(tmp_path, {"upstreams": {"sandbox": {}}}, start=False)
    with served, socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        served.process = served.spawn("--bind", bind)
        assert served.wait() == 1
        (line,) = served.log().splitlines()
        assert line.startswith(f"llmgate: can't listen on {bind}: ")
        assert "--bind" in line


@pytest.mark.parametrize("bind", ["192.0.2.1:0", "no-such-host.invalid:0", "127.0.0.1"])
def test_an_address_that_is_not_ours(tmp_path: Path, bind: str) -> None:
    with Served(tmp_path, {"upstreams": {"sandbox": {}}}, start=False) as served:
        served.process = served.spawn("--bind", bind)
        assert served.wait() in (1, 2)
        assert len(served.log().splitlines()) == 1


def test_a_certificate_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("not a certificate")
    config = {"server": {"certfile": "cert.pem", "keyfile": "cert.pem"}, "upstreams": {"sandbox": {}}}
    with Served(tmp_path, config, start=False) as served:
        served.process = served.spawn("--bind", "127.0.0.1:0")
        assert served.wait() == 1
        assert "certfile" in served.log()


def test_a_secret_that_is_not_set(tmp_path: Path) -> None:
    config = {"upstreams": {"main": {"base_url": "http://127.0.0.1:9/v1", "api_key": "${NOT_SET_ANYWHERE}"}}}
    with Served(tmp_path, config, start=False) as served:
        served.process = served.spawn("--bind", "127.0.0.1:0")
        assert served.wait() == 1
        assert "NOT_SET_ANYWHERE" in served.log()
        assert "upstreams.main.api_key" in served.log()


# -- stopping


@pytest.mark.parametrize("number", [SIGTERM, SIGINT])
def test_it_stops_when_it_is_told_to(tmp_path: Path, number: Signals) -> None:
    with Served(tmp_path, {"upstreams": {"sandbox": {}}}) as served:
        alice = served.person(credits="1")
        assert served.chat(alice, model="sandbox/echo").status_code == 200  # and its connection stays open, idle
        begin = time.monotonic()
        assert served.stop(number) == 0
        assert time.monotonic() < begin + 10
        assert list((tmp_path / "books.db-workers").iterdir()) == []
        with pytest.raises(httpx.ConnectError):
            served.client.get(served.url + "/health")


def test_a_stream_is_let_end(tmp_path: Path) -> None:
    with Replay() as up, Served(tmp_path, config_for(up, shutdown_grace=10)) as served:
        alice = served.person(credits="1")
        up.handler = answers(sse_answer(HELLO, Pause(0.5), *REST))
        with served.streaming(alice) as stream:
            pieces = stream.iter_raw()
            got = next(pieces)
            served.signal(SIGTERM)
            served.logged("stopping: 1 requests in flight")
            got += b"".join(pieces)
        assert got == b"".join([HELLO, *words("you"), DONE])
        assert served.wait() == 0
        assert facts(served.settled(alice, 1)[0]) == ("ok", "upstream", 200, EXACT)


def test_a_plain_call_is_let_end(tmp_path: Path) -> None:
    with Replay() as up, Served(tmp_path, config_for(up, shutdown_grace=10)) as served, ThreadPoolExecutor() as pool:
        alice = served.person(credits="1")
        up.handler = answers((Pause(0.5), *OK))
        answer = pool.submit(served.chat, alice)
        wait_until(lambda: len(up.requests) == 1)
        assert served.stop() == 0
        assert answer.result().headers["x-llmgate-charge-usd"] == "0.00002"
        assert facts(served.settled(alice, 1)[0]) == ("ok", "upstream", 200, EXACT)


def test_what_is_read_on_without_a_client_is_let_end(tmp_path: Path) -> None:
    with Replay() as up, Served(tmp_path, config_for(up, shutdown_grace=10)) as served:
        alice = served.person(credits="1")
        up.handler = answers(sse_answer(HELLO, Pause(0.5), *REST))
        with served.streaming(alice, reasoning_effort="low") as stream:
            pieces = stream.iter_raw()
            next(pieces)
        assert served.stop() == 0
        assert facts(served.settled(alice, 1)[0]) == ("cancelled", "upstream", 200, EXACT)


def last_error(got: bytes) -> str:
    """The code of the error event at the end of a stream."""
    event = got.removesuffix(b"\n\n").rpartition(b"\n\n")[2].removeprefix(b"data: ")
    code: str = json.loads(event)["error"]["code"]
    return code


@pytest.mark.parametrize("signals", [1, 2])
def test_a_stream_that_takes_too_long_is_ended(tmp_path: Path, signals: int) -> None:
    """After the grace, or at the second signal: it is told why, and what was delivered is charged."""
    grace = 0.3 if signals == 1 else 300
    with Replay() as up, Served(tmp_path, config_for(up, shutdown_grace=grace)) as served:
        alice, bob = served.person(credits="1"), served.person(credits="1")
        up.handler = answers(sse_answer(HELLO, HANG))
        with served.streaming(alice) as stream, served.streaming(bob, stream_options={"include_usage": True}) as other:
            pieces, others = stream.iter_raw(), other.iter_raw()
            got, got_by_other = next(pieces), next(others)
            served.signal(SIGTERM)
            served.logged("stopping: 2 requests in flight")
            if signals == 2:
                served.signal(SIGTERM)
            got += b"".join(pieces)
            got_by_other += b"".join(others)
        for text in (got, got_by_other):
            assert text.startswith(HELLO)
            assert last_error(text) == "upstream_unavailable"
        assert served.wait() == 0
        assert up.disconnects == 2
        for person in (alice, bob):
            assert facts(served.settled(person, 1)[0]) == ("interrupted", "estimated", 200, estimate(5))
            assert served.balance(person.name) == 10**9 - estimate(5)


def test_a_plain_call_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    with Replay() as up, Served(tmp_path, config_for(up, shutdown_grace=0.2)) as served, ThreadPoolExecutor() as pool:
        alice = served.person(credits="1")
        up.handler = answers((HANG,))
        answer = pool.submit(served.chat, alice)
        wait_until(lambda: len(up.requests) == 1)
        assert served.stop() == 0
        error_of(answer.result(), 503, "upstream_unavailable")
        row = served.settled(alice, 1)[0]
        assert (row["status"], row["http_status"]) == ("interrupted", 503)


def test_no_grace_at_all(tmp_path: Path) -> None:
    with Replay() as up, Served(tmp_path, config_for(up, shutdown_grace=0)) as served:
        alice = served.person(credits="1")
        up.handler = answers(sse_answer(HELLO, HANG))
        with served.streaming(alice) as stream:
            pieces = stream.iter_raw()
            next(pieces)
            served.signal(SIGTERM)
            assert last_error(b"".join(pieces)) == "upstream_unavailable"
        assert served.wait() == 0
        assert facts(served.settled(alice, 1)[0]) == ("interrupted", "estimated", 200, estimate(5))


def test_a_client_that_does_not_read_keeps_nothing_from_ending(tmp_path: Path) -> None:
    with Replay() as up, Served(tmp_path, config_for(up, shutdown_grace=0.2)) as served:
        alice = served.person()
        text = "x" * 100_000
        up.handler = answers(sse_answer(*[sse(chunk_of(text))] * 300, HANG))
        host, _, port = served.url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port))) as connection:
            body = json.dumps(chat_body(stream=True)).encode()
            lines = ["POST /v1/chat/completions HTTP/1.1", f"host: {host}", f"authorization: Bearer {alice.key}"]
            connection.sendall(("\r\n".join(lines) + f"\r\ncontent-length: {len(body)}\r\n\r\n").encode() + body)
            wait_until(lambda: served.held(alice) == 1 and len(up.requests) == 1)
            time.sleep(0.3)  # until nothing more fits between here and there
            assert served.stop() == 0
        row = served.settled(alice, 1)[0]
        assert (row["status"], row["source"]) == ("interrupted", "estimated")
        assert row["charge_nano"] >= estimate(len(text))


# -- reloading


def test_a_reload(tmp_path: Path) -> None:
    """From the next request on; what is in flight ends by what it began with."""
    with Replay() as up, Served(tmp_path, config_for(up)) as served:
        alice = served.person(credits="1")
        assert_charge(served, up, alice, "0.00002")
        up.handler = answers(sse_answer(HELLO, Pause(1), *REST))
        with served.streaming(alice) as stream:
            pieces = stream.iter_raw()
            next(pieces)
            dearer = main_upstream(up, "/new/v1", price={"input": 10, "output": 20}, api_key="another-secret")
            served.write_config({"upstreams": {"main": dearer, "more": main_upstream(up)}})
            served.signal(SIGHUP)
            served.logged("the config was reloaded: 2 upstreams")
            assert_charge(served, up, alice, "0.0002")
            assert up.requests[-1].path == "/new/v1/chat/completions"
            assert up.requests[-1].header("authorization") == "Bearer another-secret"
            assert DONE in b"".join(pieces)
        charges = [row["charge_nano"] for row in served.settled(alice, 3)]
        assert charges == [EXACT, EXACT, 10 * EXACT]
        assert_charge(served, up, alice, "0.00002", model="more/zeta")
        served.write_config({"upstreams": {"more": main_upstream(up)}})
        served.signal(SIGHUP)
        served.logged("the config was reloaded: 1 upstream")
        assert_charge(served, up, alice, "0.00002", model="more/zeta")


def assert_charge(served: Served, up: Replay, person: Person, charge: str, **fields: Any) -> None:
    up.handler = answers(OK)
    answer = served.chat(person, **fields)
    assert (answer.status_code, answer.headers["x-llmgate-charge-usd"]) == (200, charge)


@pytest.mark.parametrize(
    "broken",
    [
        "this is no TOML",
        "[upstreams.main]\nbase_url = 5",
        "[serve]\nbind = '127.0.0.1:0'",
        '[upstreams.main]\nbase_url = "http://127.0.0.1:9/v1"\nprice = "free"\napi_key = "${NOT_SET_ANYWHERE}"',
        '[upstreams.main]\nbase_url = "http://127.0.0.1:9/v1"\nprice = "free"\napi_key_file = "missing.key"',
        None,
    ],
    ids=["no TOML", "wrong type", "unknown table", "unset variable", "missing file", "gone"],
)
def test_a_reload_that_fails_changes_nothing(tmp_path: Path, broken: str | None) -> None:
    with Replay() as up, Served(tmp_path, config_for(up)) as served:
        alice = served.person(credits="1")
        good = served.config.read_text()
        if broken is None:
            served.config.unlink()
        else:
            served.config.write_text(broken)
        served.signal(SIGHUP)
        line = served.logged("the config was not reloaded")
        assert "the old one stays" in line
        assert SECRET not in line
        assert_charge(served, up, alice, "0.00002")
        assert served.client.get(served.url + "/ready").status_code == 200
        served.config.write_text(good)
        served.signal(SIGHUP)
        served.logged("the config was reloaded")
        assert_charge(served, up, alice, "0.00002")


def test_a_secret_is_changed_by_a_reload(tmp_path: Path) -> None:
    """In the `.env` beside the config."""
    env = tmp_path / ".env"
    env.write_text("UP_KEY=first-secret\n")
    with Replay() as up:
        config = {"upstreams": {"main": main_upstream(up, api_key="${UP_KEY}")}}
        with Served(tmp_path, config) as served:
            served.secrets += ["first-secret", "second-secret"]
            alice = served.person()
            assert_charge(served, up, alice, "0.00002")
            env.write_text("UP_KEY=second-secret\n")
            served.signal(SIGHUP)
            served.logged("the config was reloaded")
            assert_charge(served, up, alice, "0.00002")
            sent = [request.header("authorization") for request in up.requests]
            assert sent == ["Bearer first-secret", "Bearer second-secret"]


def test_many_reloads_under_load(tmp_path: Path) -> None:
    with Replay() as up, Served(tmp_path, config_for(up)) as served, ThreadPoolExecutor(8) as pool:
        alice = served.person(credits="1")
        up.handler = answers(sse_answer(HELLO, Pause(0.02), *REST))
        streams = [pool.submit(served.stream, alice) for _ in range(60)]
        for _ in range(10):
            served.signal(SIGHUP)
            time.sleep(0.03)
        for stream in streams:
            response, got = stream.result()
            assert (response.status_code, DONE in got) == (200, True)
        assert {facts(row) for row in served.settled(alice, 60)} == {("ok", "upstream", 200, EXACT)}


@pytest.mark.parametrize("left", ["dearer", "nothing"])
async def test_a_reload_while_a_model_is_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: str) -> None:
    """What was looked up in the old config serves its own request, and none of those that come after."""
    began, go_on = threading.Event(), threading.Event()
    look_up = routing.resolve

    def slowly(*args: Any, **fields: Any) -> routing.Target:
        target = look_up(*args, **fields)
        began.set()
        go_on.wait(10)
        return target

    with Replay() as up:
        up.handler = answers(OK)
        async with Inside(tmp_path, config_for(up)) as inside:
            alice = inside.person(credits="1")
            monkeypatch.setattr(routing, "resolve", slowly)
            client, task = inside.ask(alice)
            await until(began.is_set)
            dearer = {"main": main_upstream(up, price={"input": 10, "output": 20})}
            inside.reload({"upstreams": dearer if left == "dearer" else {"sandbox": {}}})
            monkeypatch.setattr(routing, "resolve", look_up)
            go_on.set()
            await task
            later, task = inside.ask(alice, model="main/zeta" if left == "dearer" else "sandbox/echo")
            await task
            assert (client.status, later.status) == (200, 200)
            first, second = await inside.settled_soon(alice, 2)
            assert facts(first) == ("ok", "upstream", 200, EXACT)
            assert left == "nothing" or facts(second) == ("ok", "upstream", 200, 10 * EXACT)


# -- crashing


@pytest.mark.parametrize("interrupted", ["input", "none"])
def test_what_a_crash_cuts_off_is_booked_at_the_next_start(tmp_path: Path, interrupted: str) -> None:
    with Replay() as up:
        config = config_for(up) | {"accounting": {"interrupted": interrupted}}
        with Served(tmp_path, config) as served:
            alice = served.person(credits="0.01")
            up.handler = answers(sse_answer(HELLO, HANG))
            with served.streaming(alice, max_tokens=100) as stream:
                pieces = stream.iter_raw()
                next(pieces)
                served.kill()
                with pytest.raises(httpx.TransportError):
                    b"".join(pieces)
            assert (served.held(alice), served.rows(alice), served.findings()) == (1, [], [])
            served.start()
            assert "1 request" in served.logged("  booked as interrupted")
            (row,) = served.settled(alice, 1)
            charge = estimate(0) if interrupted == "input" else 0
            assert (row["status"], row["source"], row["http_status"]) == ("interrupted", "estimated", None)
            assert (row["charge_nano"], row["overrun"], row["streamed"]) == (charge, 0, 1)
            assert served.balance(alice.name) == 10**7 - charge
            assert_charge(served, up, alice, "0.00002")
            served.stop()
            served.start()
            assert len(served.settled(alice, 2)) == 2


def test_a_crash_with_many_in_flight(tmp_path: Path) -> None:
    """Whatever the instant: one row each, nothing held, nothing lost, and never more charged than there was."""
    with Replay() as up, Served(tmp_path, config_for(up)) as served, ThreadPoolExecutor(16) as pool:
        alice = served.person(credits="0.01")
        up.handler = answers(sse_answer(HELLO, Pause(0.05), *REST))

        def one(_: int) -> bool:
            with suppress(httpx.TransportError):
                return DONE in served.stream(alice, max_tokens=10)[1]
            return False

        streams = [pool.submit(one, number) for number in range(200)]
        wait_until(lambda: len(up.requests) > 40)
        served.kill()
        whole = sum(stream.result() for stream in streams)
        reached = len(up.requests)
        served.start()
        rows = served.settled(alice, served.value("SELECT count(*) FROM usage"))
        assert whole <= len(rows)
        assert reached - len([row for row in rows if row["status"] == "interrupted"]) <= whole + 16
        assert {row["status"] for row in rows} <= {"ok", "interrupted"}
        assert len({row["request_id"] for row in rows}) == len(rows) >= reached
        assert served.balance(alice.name) == 10**7 - sum(row["charge_nano"] for row in rows) >= 0


@pytest.mark.parametrize(("interrupted", "share"), [("input", 1), ("none", 0)])
def test_a_crash_while_a_path_is_sold(tmp_path: Path, interrupted: str, share: int) -> None:
    """What a second, a picture, a token comes to is charged by the path's fallback: its input says nothing."""
    counted = {"upstream": "main", "meter": "n", "most": 50, "price": 0.00002}
    sold = {
        "/v1/heard/*": (30, counted | {"unit": "second", "fallback": 30}),
        "/v1/drawn": (1, counted | {"unit": "image", "fallback": 1}),
        "/v1/read": (20, counted | {"unit": "token", "fallback": 20}),
        "/v1/spoken": (40, counted | {"unit": "character", "fallback": 40}),
        "/v1/asked": (1, {"upstream": "main", "price": 0.00002}),
    }
    with Replay() as up, ThreadPoolExecutor(len(sold)) as pool:
        config = config_for(up) | {
            "accounting": {"interrupted": interrupted},
            "routes": {path: table for path, (_, table) in sold.items()},
        }
        up.handler = answers((HANG,))
        with Served(tmp_path, config) as served:
            alice = served.person(credits="1")

            def one(path: str) -> None:
                with suppress(httpx.TransportError):
                    served.post(alice, {}, path=path.replace("*", "x"))

            asked = [pool.submit(one, path) for path in sold]
            wait_until(lambda: len(up.requests) == len(sold))
            served.kill()
            for request in asked:
                request.result()
            served.start()
            charged = {row["model"]: row["charge_nano"] for row in served.settled(alice, len(sold))}
            assert charged == {path.removesuffix("/*"): share * units * 20_000 for path, (units, _) in sold.items()}
            assert served.balance(alice.name) == 10**9 - sum(charged.values())


def test_the_living_are_not_taken_for_dead(tmp_path: Path) -> None:
    """A second daemon on the same book leaves the holds of the first alone."""
    (tmp_path / "second").mkdir()
    with Replay() as up, Served(tmp_path, config_for(up)) as served:
        alice = served.person(credits="1")
        up.handler = answers(sse_answer(HELLO, Pause(1), *REST))
        with served.streaming(alice) as stream:
            pieces = stream.iter_raw()
            next(pieces)
            with beside(served, tmp_path / "second", config_for(up)) as second:
                assert "interrupted" not in second.log()
                assert DONE in b"".join(pieces)
        assert facts(served.settled(alice, 1)[0]) == ("ok", "upstream", 200, EXACT)


def beside(served: Served, folder: Path, config: dict[str, Any]) -> Served:
    """Another daemon on the same database."""
    second = Served(folder, config, start=True)
    second.database.unlink()
    second.database = served.database
    return second


def test_two_daemons_do_not_spend_the_same_money(tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    hold = INPUT_BOUND * INPUT_NANO + 256 * OUTPUT_NANO
    with (
        Replay() as up,
        Served(tmp_path, config_for(up)) as served,
        beside(served, tmp_path / "second", config_for(up)) as second,
        ThreadPoolExecutor(24) as pool,
    ):
        alice = served.person(credits=usd(5 * hold))
        up.handler = answers((Pause(0.3), *json_answer(completion(usage=usage_of(INPUT_BOUND, 256)))))
        asked = [pool.submit((served, second)[number % 2].chat, alice, max_tokens=256) for number in range(40)]
        statuses = [answer.result().status_code for answer in asked]
        assert set(statuses) <= {200, 402, 429}
        assert statuses.count(200) == 5 == len(up.requests)
        served.settled(alice, 5)
        assert served.balance(alice.name) == 0


# -- the log

TEXT = re.compile(
    r"2\d{3}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z info llmgate\.request 200 user1 chat main/zeta main ok 10\+5 tokens "
    r"\d+ ms req_[0-9a-f]+"
)


def mischief(served: Served, up: Replay) -> Person:
    """Requests of many kinds, with what no log may show in every place."""
    alice = served.person()
    up.handler = answers(OK)
    path = f"/v1/chat/completions?q=a-query-string&key={alice.key}"
    assert served.post(alice, chat_body(user=PROMPT, metadata={"a": PROMPT}), path=path).status_code == 200
    up.handler = answers(json_answer({"error": {"message": f"bad key {SECRET}"}}, 401))
    served.chat(alice)
    up.handler = answers(json_answer({"error": {"message": PROMPT}}, 400))
    served.chat(alice)
    broken: tuple[Step, ...] = (b"HTTP/1.1 200 " + SECRET.encode() + b"\r\nnonsense " + SECRET.encode() + b"\r\n\r\n",)
    up.handler = answers(broken)
    served.chat(alice)
    served.post(alice, b"{" + PROMPT.encode())
    served.client.get(f"{served.url}/v1/models/{PROMPT}?key={alice.key}", headers=served.headers(alice))
    served.client.get(f"{served.url}/nothing/{PROMPT}?key={alice.key}")
    served.secrets.append("a-query-string")
    served.settled(alice, 4)
    return alice


def test_a_text_log(tmp_path: Path) -> None:
    with Replay() as up, Served(tmp_path, config_for(up)) as served:
        mischief(served, up)
        lines = [line for line in served.log().splitlines() if " llmgate.request " in line]
        assert TEXT.fullmatch(lines[0])
        assert [line.split()[3] for line in lines] == ["200", "502", "400", "502", "400"]


def test_a_json_log(tmp_path: Path) -> None:
    with Replay() as up:
        config = config_for(up) | {"log": {"format": "json", "file": "own.log"}}
        with Served(tmp_path, config) as served:
            mischief(served, up)
            served.stop()
            own = (tmp_path / "own.log").read_text()
            records = [json.loads(line) for line in own.splitlines()]
            assert next(record for record in records if record["logger"] == "llmgate.request") == {
                "time": records[0]["time"],
                "level": "info",
                "logger": "llmgate.request",
                "request_id": served.rows(Person("user1", "", ""))[0]["request_id"],
                "status": 200,
                "user": "user1",
                "endpoint": "chat",
                "model": "main/zeta",
                "upstream": "main",
                "outcome": "ok",
                "input_tokens": 10,
                "output_tokens": 5,
                "duration_ms": records[0]["duration_ms"],
            }
            assert [record["status"] for record in records if "status" in record] == [200, 502, 400, 502, 400]
            assert all(line in served.log() for line in own.splitlines())
            assert not [secret for secret in served.secrets if secret in own]


def test_a_quiet_log(tmp_path: Path) -> None:
    with Replay() as up, Served(tmp_path, config_for(up) | {"log": {"level": "warning"}}) as served:
        mischief(served, up)
        assert "llmgate.request" not in served.log()


def test_a_log_that_can_not_be_written(tmp_path: Path) -> None:
    with Served(tmp_path, {"log": {"file": "missing/x.log"}, "upstreams": {"sandbox": {}}}, start=False) as served:
        served.process = served.spawn("--bind", "127.0.0.1:0")
        assert served.wait() == 1
        assert "[log] file" in served.log()


def test_the_log_may_be_rotated_away(tmp_path: Path) -> None:
    with Replay() as up, Served(tmp_path, config_for(up) | {"log": {"file": "own.log"}}) as served:
        alice = served.person()
        own, old = tmp_path / "own.log", tmp_path / "own.log.1"
        assert_charge(served, up, alice, "0.00002")
        wait_until(lambda: "llmgate.request 200" in own.read_text())
        own.rename(old)
        assert_charge(served, up, alice, "0.00002")
        wait_until(lambda: own.exists() and "llmgate.request 200" in own.read_text())
        assert old.read_text().count("llmgate.request 200") == 1


def test_credits_added_while_it_serves(tmp_path: Path) -> None:
    """By another process, at any moment, also while requests are in flight."""
    with Replay() as up, Served(tmp_path, config_for(up)) as served, ThreadPoolExecutor(8) as pool:
        alice = served.person(credits="0.001")
        up.handler = answers(OK)
        asked = [pool.submit(served.chat, alice, max_tokens=10) for _ in range(100)]
        for _ in range(20):
            with served.tx() as tx:
                ledger.add(tx, alice.name, 10**6)
        served_count = sum(answer.result().status_code == 200 for answer in asked)
        served.settled(alice, served_count)
        assert served.balance(alice.name) == 21 * 10**6 - served_count * EXACT
