"""What a key's holder is told, and what Prometheus reads: beside the walk, by the books."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from signal import SIGHUP
from typing import Any

import httpx
import pytest

from llmgate.errors import Refusal
from llmgate.gateway.admins import FORGET_S, MOST_ADDRESSES, MOST_WRONG, Attempts
from llmgate.store import accounts, admins, limits
from llmgate.store.admins import Scope
from llmgate.types import Billing
from tests.replay import Replay, json_answer
from tests.served import (
    Person,
    Served,
    answers,
    chat_body,
    completion,
    error_of,
    main_upstream,
    usage_of,
)

TOKEN = "an-admin-token-of-the-environment"

LABELS = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')


@pytest.fixture(scope="module")
def up() -> Iterator[Replay]:
    with Replay() as replay:
        replay.handler = answers(json_answer(completion(usage=usage_of(10, 5))))
        yield replay


@pytest.fixture(scope="module")
def served(up: Replay, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    config = {"upstreams": {"main": main_upstream(up)}, "models": {"zeta": {"routes": [{"upstream": "main"}]}}}
    with Served(tmp_path_factory.mktemp("own"), config, env={"ADMIN_TOKEN": TOKEN}) as gateway:
        gateway.secrets.append(TOKEN)
        yield gateway


def get(served: Served, path: str, key: str | Person | None = None, **headers: str) -> httpx.Response:
    told = {} if key is None else {"authorization": f"Bearer {key if isinstance(key, str) else key.key}"}
    return served.client.get(served.url + path, headers={**told, **headers})


def told(served: Served, path: str, key: str | Person) -> dict[str, Any]:
    answer = get(served, path, key)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


CHARGE = "0.00002"
"""Of ten tokens in and five out."""


def test_what_was_used(served: Served) -> None:
    alice = served.person(credits="1")
    empty = told(served, "/user/monitor", alice)
    assert empty["last_request"] is None
    assert empty["total"] == {**dict.fromkeys(empty["total"], 0), "charge_usd": "0", "models": []}
    for _ in range(2):
        assert served.chat(alice).status_code == 200
    served.settled(alice, 2)
    found = told(served, "/user/monitor", alice)
    sums = {"requests": 2, "errors": 0, "input_tokens": 20, "cached_tokens": 0, "output_tokens": 10, "tokens": 30}
    sums["charge_usd"] = "0.00004"  # type: ignore[assignment]
    whole = {**sums, "models": [{"model": "main/zeta", **sums}]}
    assert found["total"] == whole
    assert all(found[period] in (whole, empty["total"]) for period in ("today", "month")), "nothing, past a midnight"
    last = found["last_request"]
    assert (last["model"], last["status"], last["charge_usd"]) == ("main/zeta", "ok", CHARGE)
    assert "cost_usd" not in str(found), "what the house pays is not the user's to know"
    bob = served.person()
    assert told(served, "/user/monitor", bob)["total"]["requests"] == 0


def test_a_key_in_the_shape_of_openrouter(served: Served) -> None:
    alice = served.person(credits="1")
    assert served.chat(alice).status_code == 200
    served.settled(alice, 1)
    answer = get(served, "/v1/key", alice)
    assert '"usage":0.00002,' in answer.text, "a number to the last digit, and never 2e-05"
    data = answer.json()["data"]
    assert data["label"] == f"{alice.key[:12]}…"
    assert (data["limit"], data["limit_remaining"], data["limit_reset"]) == (1, 0.99998, None)
    assert {data[f"usage{part}"] for part in ("_daily", "_weekly", "_monthly")} <= {0, 0.00002}
    assert data["rate_limit"] == {"requests": -1, "interval": "10s"}
    assert data["is_free_tier"] is False
    with served.tx() as tx:
        limits.hang(tx, alice.name, ["$0.5/month", "$9/day", "7 requests/minute", "$0.1/day on other*"])
    data = told(served, "/v1/key", alice)["data"]
    assert (data["limit"], data["limit_remaining"], data["limit_reset"]) == (0.5, 0.49998, "monthly")
    assert data["rate_limit"] == {"requests": 7, "interval": "60s"}


def test_a_key_that_nothing_bounds(served: Served) -> None:
    with served.tx() as tx:
        accounts.add_team(tx, "rich", billing=Billing.PREPAID)
    for person in (served.person(), served.person(team="rich")):
        data = told(served, "/v1/key", person)["data"]
        assert (data["limit"], data["limit_remaining"]) == (None, None), "a team's balance is not its members'"


def test_the_models_as_a_plain_list(served: Served) -> None:
    assert told(served, "/models/simple", served.person()) == {"models": ["zeta"]}
    assert told(served, "/models/simple", served.person(models=["gpt-*"])) == {"models": []}


@pytest.mark.parametrize("path", ["/user/balance", "/user/limit", "/user/monitor", "/v1/key", "/models/simple"])
def test_they_are_for_key_holders_only(served: Served, path: str) -> None:
    error_of(get(served, path), 401, "missing_key")
    error_of(get(served, path, f"{TOKEN}"), 401, "invalid_key")
    with served.tx() as tx:
        admin = admins.add(tx, path.strip("/").replace("/", "-"), Scope.ALL)
    served.secrets.append(admin)
    assert "admin API" in error_of(get(served, path, admin), 401, "invalid_key")["message"]
    wrong = served.client.post(served.url + path, headers=served.headers(served.person()))
    assert error_of(wrong, 405, "method_not_allowed")
    assert wrong.headers["allow"] == "GET, HEAD"


def metrics(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """The samples of a text in Prometheus' format, each family of which is told of once."""
    found, typed = {}, set[str]()
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            assert line.split()[2] not in typed
            typed.add(line.split()[2])
        elif not line.startswith("#"):
            head, value = line.rsplit(" ", 1)
            name, _, inside = head.partition("{")
            assert name in typed, line
            labels = tuple(sorted((match[1], match[2]) for match in LABELS.finditer(inside)))
            assert (name, labels) not in found, line
            found[name, labels] = float(value)
    return found


def test_metrics_are_the_sums_of_the_books(up: Replay, tmp_path: Path) -> None:
    up.handler = answers(json_answer(completion(usage=usage_of(10, 5))))
    config = {"upstreams": {"main": main_upstream(up)}}
    with Served(tmp_path, config, env={"ADMIN_TOKEN": TOKEN}) as served:
        alice = served.person()
        for _ in range(3):
            assert served.chat(alice).status_code == 200
        served.settled(alice, 3)
        answer = get(served, "/metrics", TOKEN)
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        found = metrics(answer.text)
        route = (("model", "main/zeta"), ("upstream", "main"))
        assert found["llmgate_requests_total", (*route[:1], ("status", "ok"), *route[1:])] == 3
        assert found["llmgate_requests_total", (*route[:1], ("status", "error"), *route[1:])] == 0
        assert found["llmgate_tokens_total", (("kind", "input"), *route)] == 30
        assert found["llmgate_tokens_total", (("kind", "output"), *route)] == 15
        assert found["llmgate_charge_usd_total", route] == 0.00006
        assert found["llmgate_cost_usd_total", route] == 0.00006
        assert found["llmgate_requests_in_flight", ()] == 0
        assert found["llmgate_held_usd", ()] == 0
        assert found["llmgate_workers", ()] == 1
        assert found["llmgate_recent_requests", (("status", "ok"), ("upstream", "main"))] == 3
        assert found["llmgate_recent_duration_seconds", (("quantile", "0.99"), ("upstream", "main"))] < 30
        assert alice.name not in answer.text, "who uses it is not told"


def test_who_may_read_the_metrics(up: Replay, tmp_path: Path) -> None:
    config: dict[str, Any] = {"upstreams": {"main": main_upstream(up)}}
    with Served(tmp_path, config) as served:
        with served.tx() as tx:
            key = admins.add(tx, "prometheus", Scope.READ)
        served.secrets.append(key)
        assert "llmgate admins add" in error_of(get(served, "/metrics"), 401, "missing_key")["message"]
        error_of(get(served, "/metrics", served.person()), 401, "invalid_key")
        assert get(served, "/metrics", key).status_code == 200
        assert get(served, "/metrics", **{"x-admin-token": key}).status_code == 200
        two = get(served, "/metrics", key, **{"x-admin-token": key[:-1]})
        assert "two different" in error_of(two, 401, "invalid_key")["message"]
        with served.tx() as tx:
            admins.revoke(tx, "prometheus")
        error_of(get(served, "/metrics", key), 401, "key_revoked")

        served.write_config({**config, "server": {"metrics": "loopback"}})
        served.signal(SIGHUP)
        served.logged("reloaded")
        assert get(served, "/metrics").status_code == 200
        error_of(get(served, "/metrics", **{"x-forwarded-for": "192.0.2.1"}), 401, "missing_key")

        served.write_config({**config, "server": {"metrics": "off"}})
        served.signal(SIGHUP)
        served.logged("reloaded", 2)
        error_of(get(served, "/metrics", key), 404, "not_found")


def test_wrong_admin_keys_are_counted_by_address() -> None:
    attempts = Attempts()
    for number in range(MOST_WRONG):
        attempts.check("192.0.2.1", number)
        attempts.wrong("192.0.2.1", number)
    with pytest.raises(Refusal) as refused:
        attempts.check("192.0.2.1", MOST_WRONG)
    assert refused.value.code == "rate_limited"
    assert dict(refused.value.headers)["retry-after"] == str(int(FORGET_S) - MOST_WRONG)
    attempts.check("192.0.2.2", MOST_WRONG)
    attempts.check("192.0.2.1", FORGET_S)
    attempts.wrong("192.0.2.1", FORGET_S)
    attempts.check("192.0.2.1", FORGET_S + 1)


def test_an_address_of_ipv6_is_its_network() -> None:
    attempts = Attempts()
    for number in range(MOST_WRONG):
        attempts.wrong(f"2001:db8::{number:x}", 0)
    with pytest.raises(Refusal):
        attempts.check("2001:db8::ffff", 1)
    attempts.check("2001:db8:0:1::1", 1)


def test_addresses_that_are_remembered_are_bounded() -> None:
    attempts = Attempts()
    for number in range(MOST_ADDRESSES + 50):
        attempts.wrong(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 0)
    assert len(attempts._wrong) == MOST_ADDRESSES


def test_who_guesses_is_asked_to_wait(up: Replay, tmp_path: Path) -> None:
    with Served(tmp_path, {"upstreams": {"main": main_upstream(up)}}, env={"ADMIN_TOKEN": TOKEN}) as served:
        served.secrets.append(TOKEN)
        for number in range(MOST_WRONG):
            error_of(get(served, "/metrics", f"guess-{number}"), 401, "invalid_key")
        answer = get(served, "/metrics", TOKEN)
        assert 1 <= int(answer.headers["retry-after"]) <= FORGET_S
        error_of(answer, 429, "rate_limited")
        error_of(get(served, "/metrics"), 401, "missing_key")


def test_an_admin_token_that_goes_astray_is_not_sent_on(up: Replay, served: Served) -> None:
    answer = served.post(served.person(), chat_body(), headers={"x-admin-token": TOKEN})
    assert answer.status_code == 200
    assert TOKEN not in str(up.requests[-1].headers)


def test_a_short_admin_token_is_warned_of(up: Replay, tmp_path: Path) -> None:
    with Served(tmp_path, {"upstreams": {"main": main_upstream(up)}}, env={"ADMIN_TOKEN": "hunter2"}) as served:
        served.secrets.append("hunter2")
        assert get(served, "/metrics", "hunter2").status_code == 200
        assert "ADMIN_TOKEN has fewer than 16 characters" in served.log()
