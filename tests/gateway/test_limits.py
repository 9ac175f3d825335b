"""Limits under load: a real daemon on the sandbox, and many clients at once against one limit."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from llmgate.money import parse_usd
from llmgate.store import accounts, limits
from llmgate.types import Billing
from tests.served import ESTIMATED_INPUT, PROMPT, Person, Served, chat_body, error_of

MODEL = "sandbox/echo"
CONNECTIONS, MANY = 32, 200

SPENT = 12 + 4
"""Tokens that a chat of PROMPT with `max_tokens` 4 uses at the sandbox: a token per four bytes and 4 per message."""

HELD = -(-5 * ESTIMATED_INPUT // 4) + 4
"""Tokens that it holds."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    config = {
        "upstreams": {"sandbox": {}},
        "plans": {
            "small": {"limits": ["2 requests/month"], "models": ["sandbox/echo"]},
            "sold": {"limits": ["100 tokens/month"], "overage": 0.001, "billing": "prepaid"},
        },
        "accounting": {"alert_at": [80, 100]},
    }
    with Served(tmp_path_factory.mktemp("limits"), config) as served:
        yield served


def limited(served: Served, *texts: str, **fields: Any) -> Person:
    """Somebody new with limits, at a moment that isn't just before the end of a window."""
    if (left_s := 3600 - time.time() % 3600) < 25:
        time.sleep(left_s)
    person = served.person(**fields)
    with served.tx() as tx:
        limits.hang(tx, person.name, texts)
    return person


def at_once(served: Served, person: Person, body: dict[str, Any]) -> Counter[str]:
    """Many requests over some connections: how many were served, and what the others were refused with."""
    pool = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
    content = json.dumps(body).encode()
    with (
        httpx.Client(timeout=60, trust_env=False, limits=pool, headers=served.headers(person)) as client,
        ThreadPoolExecutor(CONNECTIONS) as threads,
    ):

        def ask(_: int) -> str:
            answer = client.post(f"{served.url}/v1/chat/completions", content=content)
            return "served" if answer.status_code == 200 else str(answer.json()["error"]["code"])

        return Counter(threads.map(ask, range(MANY)))


def until_refused(ask: Callable[[], httpx.Response], most: int) -> tuple[int, httpx.Response]:
    """One request after the other: how many are served before the first that is not."""
    for number in range(most + 1):
        answer = ask()
        if answer.status_code != 200:
            return number, answer
    raise AssertionError(f"more than {most} were served")


def standing(served: Served, person: Person) -> dict[str, Any]:
    """The one limit of somebody, as its own key is told."""
    (row,) = served.client.get(f"{served.url}/user/limit", headers=served.headers(person)).json()["limits"]
    found: dict[str, Any] = row
    return found


BUDGET_PROMPT = "x" * 2000
BUDGET_SPENT = (504 * 1_000) + 4 * 2_000
BUDGET_HELD = (2000 + 16 + 128) * 1_000 + 4 * 2_000


@pytest.mark.parametrize(
    ("text", "prompt", "fits", "refusals", "status", "figures"),
    [
        ("5 requests/month", PROMPT, 5, {"rate_limited"}, 429, (5, 0, 0)),
        (
            *("$0.01/month", BUDGET_PROMPT, (10_000_000 - BUDGET_HELD) // BUDGET_SPENT + 1),
            *({"credits_held", "budget_exceeded"}, 402, ("0.008192", "0", "0.001808")),
        ),
        (
            *("1000 tokens/month", PROMPT, (1_000 - HELD) // SPENT + 1, {"rate_limited"}, 429),
            (62 * SPENT, 0, 1_000 - 62 * SPENT),
        ),
    ],
)
def test_many_at_once_never_get_more_than_a_limit_and_nothing_is_stranded(
    served: Served, text: str, prompt: str, fits: int, refusals: set[str], status: int, figures: tuple[Any, ...]
) -> None:
    alice = limited(served, text)
    body = chat_body(model=MODEL, max_tokens=4, messages=[{"role": "user", "content": prompt}])
    found = at_once(served, alice, body)
    assert sum(found.values()) == MANY
    assert 1 <= found["served"] <= fits
    assert set(found) - {"served"} <= refusals
    served.settled(alice, found["served"])
    more, refusal = until_refused(lambda: served.post(alice, body), fits)
    assert found["served"] + more == fits, "what was held and not used is there again"
    error = error_of(refusal, status, "budget_exceeded" if status == 402 else "rate_limited")
    assert text in error["message"]
    assert refusal.headers.get("x-should-retry") == "false" or int(refusal.headers["retry-after"]) <= 63
    served.settled(alice, fits)
    row = standing(served, alice)
    assert (row["limit"], row["source"]) == (text, "user")
    assert (row["used"], row["held"], row["remaining"]) == figures
    thresholds = served.value(
        "SELECT count(*) FROM events WHERE subject_kind = 'user' AND subject_id = "
        "(SELECT CAST(id AS TEXT) FROM users WHERE name = ?)",
        alice.name,
    )
    assert thresholds == (2 if text.startswith("5") else 1), "each is told once"


def test_no_more_than_so_many_at_a_time(served: Served) -> None:
    alice = limited(served, "3 concurrent")
    body = chat_body(model="sandbox/slow", stream=True, max_tokens=2)
    seen = set()
    with ThreadPoolExecutor(1) as background:
        asking = background.submit(at_once, served, alice, body)
        while not asking.done():
            seen.add(served.held(alice))
            time.sleep(0.01)
        found = asking.result()
    assert max(seen) == 3
    assert set(found) == {"served", "rate_limited"}
    assert found["served"] >= 3
    served.settled(alice, found["served"])
    body = chat_body(model="sandbox/slow", stream=True, messages=[{"role": "user", "content": "word " * 20}])
    with served.streaming(alice, **body) as one, served.streaming(alice, **body) as two:
        assert [one.status_code, two.status_code] == [200, 200]
        with served.streaming(alice, **body) as three:
            assert three.status_code == 200
            refusal = served.post(alice, body)
            three.read()
        assert "3 concurrent" in error_of(refusal, 429, "rate_limited")["message"]
        assert refusal.headers["retry-after"] == "2"
        one.read()
        two.read()
    served.settled(alice, found["served"] + 3)
    assert served.post(alice, body).status_code == 200
    served.settled(alice, found["served"] + 4)


def test_the_tightest_limits_are_told_in_headers(served: Served) -> None:
    alice = limited(served, "50 requests/month", "7 requests/day", "1000 tokens/month", "20000 tokens total")
    first, second = (served.chat(alice, model=MODEL, max_tokens=4) for _ in range(2))
    told = [
        {name[12:]: value for name, value in answer.headers.items() if "ratelimit" in name}
        for answer in (first, second)
    ]
    resets = [(headers.pop("reset-requests"), headers.pop("reset-tokens")) for headers in told]
    assert told == [
        {
            "limit-requests": "7",
            "remaining-requests": "6",
            "limit-tokens": "1000",
            "remaining-tokens": str(1000 - HELD),
        },
        {
            "limit-requests": "7",
            "remaining-requests": "5",
            "limit-tokens": "1000",
            "remaining-tokens": str(1000 - SPENT - HELD),
        },
    ]
    for of_day, of_month in resets:
        assert re.fullmatch(r"(\d+h)?(\d+m)?\d+m?s", of_day)
        assert re.fullmatch(r"(\d+h)?(\d+m)?\d+m?s", of_month)
    bob = served.person()
    assert not [name for name in served.chat(bob, model=MODEL).headers if "ratelimit" in name]
    served.settled(alice, 2)


def test_a_clamp_is_told(served: Served) -> None:
    alice = limited(served, "400 output tokens/month")
    answer = served.chat(alice, model=MODEL, max_tokens=1_000)
    assert answer.headers["x-llmgate-clamped"] == "400"
    served.settled(alice, 1)


def test_a_model_under_another_name_is_still_limited(served: Served) -> None:
    alice = limited(served, "1 requests/month on echo")
    assert served.chat(alice, model="sandbox/slow").status_code == 200
    assert served.chat(alice, model=MODEL).status_code == 200
    error_of(served.chat(alice, model="sandbox/echo"), 429, "rate_limited")
    assert served.chat(alice, model="sandbox/slow").status_code == 200
    served.settled(alice, 3)


def test_a_plan_is_read_live(served: Served) -> None:
    alice = limited(served)
    with served.tx() as tx:
        accounts.set_user(tx, alice.name, {"plan": "small"})
    assert standing(served, alice)["source"] == "plan"
    error_of(served.chat(alice, model="sandbox/slow"), 403, "model_not_allowed")
    for _ in range(2):
        assert served.chat(alice, model=MODEL).status_code == 200
    assert "2 requests/month of your plan" in error_of(served.chat(alice, model=MODEL), 429, "rate_limited")["message"]
    with served.tx() as tx:
        limits.hang(tx, alice.name, ["3 requests/month"])
    assert served.chat(alice, model=MODEL).status_code == 200
    error_of(served.chat(alice, model=MODEL), 429, "rate_limited")
    with served.tx() as tx:
        accounts.set_user(tx, alice.name, {"plan": "gone"})
    error_of(served.chat(alice, model=MODEL), 403, "plan_not_found")
    served.settled(alice, 3)


def test_what_the_holder_of_a_key_is_told(served: Served) -> None:
    alice = limited(served, "3 requests/month", credits="0.5")
    served.chat(alice, model=MODEL, max_tokens=4)
    served.settled(alice, 1)
    row = standing(served, alice)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:00:00\.000Z", row.pop("resets_at"))
    assert row == {
        "target": alice.name,
        "limit": "3 requests/month",
        "source": "user",
        "used": 1,
        "held": 0,
        "remaining": 2,
    }

    def balance(person: Person) -> dict[str, Any]:
        answer = served.client.get(f"{served.url}/user/balance", headers=served.headers(person))
        assert answer.status_code == 200
        found: dict[str, Any] = answer.json()
        return found

    assert balance(alice) == {
        "user": alice.name,
        "account": alice.name,
        "billing": "prepaid",
        "balance_usd": "0.49998",
        "held_usd": "0",
        "available_usd": "0.49998",
    }
    with served.tx() as tx:
        accounts.add_team(tx, "ops", billing=Billing.PREPAID)
    bob = served.person(team="ops")
    assert balance(bob) == {
        "user": bob.name,
        "account": "team:ops",
        "billing": "prepaid",
        "balance_usd": None,
        "held_usd": None,
        "available_usd": None,
    }
    for path in ("/user/limit", "/user/balance"):
        assert served.client.get(served.url + path).status_code == 401
        error_of(served.client.post(served.url + path, headers=served.headers(bob)), 405, "method_not_allowed")
    assert parse_usd("0.49998") == served.balance(alice.name)


def test_overage_is_charged_to_the_token_and_never_beyond_the_credit(served: Served) -> None:
    """100 tokens are included, and $0.5 buys 500 more: whatever is sent at once, no more than 600 are used."""
    person = served.person(credits="0.5")
    with served.tx() as tx:
        accounts.set_user(tx, person.name, {"plan": "sold"})
    told = at_once(served, person, chat_body(model=MODEL, max_tokens=4))
    assert set(told) <= {"served", "credits_held", "insufficient_credits"}
    more, refused = until_refused(lambda: served.chat(person, model=MODEL, max_tokens=4), 20)
    error_of(refused, 402, "insufficient_credits")
    rows = served.settled(person, told["served"] + more)
    used = 0
    for row in sorted(rows, key=lambda row: row["quota_used"]):
        past = max(0, used + SPENT - 100) - max(0, used - 100)
        assert (row["quota_tokens"], row["quota_used"], row["charge_nano"]) == (100, used, past * 1_000_000)
        used += SPENT
    assert 100 < used <= 600
    assert served.balance(person.name) == 500_000_000 - (used - 100) * 1_000_000
    assert served.held(person) == 0


def test_the_included_tokens_are_no_rate_limit(served: Served) -> None:
    person = served.person(credits="1")
    with served.tx() as tx:
        accounts.set_user(tx, person.name, {"plan": "sold"})
    answer = served.chat(person, model=MODEL, max_tokens=400)
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("x-ratelimit")]
    assert standing(served, person)["limit"] == "100 tokens/month"
