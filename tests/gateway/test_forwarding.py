"""What follows from a try, as a table; which routes are left alone; and requests that walk several routes."""

from __future__ import annotations

import pytest

from llmgate.gateway.cooldown import COOLDOWN_S, MOST_COOLDOWN_S, MOST_ROUTES, Cooldown
from llmgate.gateway.forwarding import (
    MOST_PATIENT_S,
    QUICK_S,
    RETRIABLE,
    RETRY_BUDGET_S,
    TRIES_PER_ROUTE,
    Brought,
    Next,
    Stand,
    after,
    retry_after_s,
)

UNREACHED = Brought(reached=False)
STALE = Brought(reached=False, stale=True)
BROKEN_OFF = Brought(reached=True)
LAST_TRY = Stand(tries=TRIES_PER_ROUTE)


def asks(seconds: float, status: int = 503) -> Brought:
    """An upstream that asks for a pause."""
    return Brought(status, retry_after_s=seconds)


ONE_MORE = Stand(routes_left=1)
LATE = Stand(used_s=RETRY_BUDGET_S)

TABLE: list[tuple[Brought, Stand, Next, float]] = [
    # an answer that is the client's, whoever waits and whatever is left
    *((Brought(status), stand, Next.TAKE, 0) for status in (200, 201, 400, 404, 422) for stand in (Stand(), ONE_MORE)),
    (Brought(200), Stand(client_gone=True), Next.TAKE, 0),
    (Brought(400), Stand(secrets_left=1), Next.TAKE, 0),
    (Brought(501), Stand(routes_left=1), Next.TAKE, 0),
    # it may be billing: never again, nowhere
    (BROKEN_OFF, Stand(), Next.END, 0),
    (BROKEN_OFF, Stand(routes_left=3, secrets_left=3), Next.END, 0),
    # what may go better: the same route, with growing pauses
    *((Brought(status), Stand(), Next.AGAIN, 0.25) for status in sorted(RETRIABLE)),
    (Brought(503), Stand(tries=2), Next.AGAIN, 0.5),
    (Brought(503), LAST_TRY, Next.END, 0),
    (Brought(503), LAST_TRY._replace(routes_left=1), Next.ROUTE, 0),
    (Brought(503), ONE_MORE, Next.AGAIN, 0.25),
    # with the pause that the upstream asks for
    (asks(0), Stand(), Next.AGAIN, 0),
    (asks(3), Stand(), Next.AGAIN, 3),
    (asks(MOST_PATIENT_S), Stand(), Next.AGAIN, MOST_PATIENT_S),
    (asks(MOST_PATIENT_S + 0.5), Stand(), Next.END, 0),
    (asks(QUICK_S), ONE_MORE, Next.AGAIN, QUICK_S),
    (asks(QUICK_S + 0.5), ONE_MORE, Next.ROUTE, 0),
    # within a time in all
    (Brought(503), LATE, Next.END, 0),
    (asks(5), Stand(used_s=RETRY_BUDGET_S - 5), Next.AGAIN, 5),
    (asks(5), Stand(used_s=RETRY_BUDGET_S - 4), Next.END, 0),
    (asks(0), LATE._replace(routes_left=1), Next.AGAIN, 0),
    (Brought(503), LATE._replace(routes_left=1), Next.ROUTE, 0),
    # nobody is there: the next route at once, else the same one
    (UNREACHED, Stand(), Next.AGAIN, 0.25),
    (UNREACHED, Stand(tries=2), Next.AGAIN, 0.5),
    (UNREACHED, LAST_TRY, Next.END, 0),
    (UNREACHED, ONE_MORE, Next.ROUTE, 0),
    # the connection was dead, not the upstream
    (STALE, Stand(), Next.AGAIN, 0),
    (STALE, ONE_MORE, Next.AGAIN, 0),
    (STALE, LAST_TRY, Next.END, 0),
    # our secret is refused, or used up
    *((Brought(status), Stand(secrets_left=1), Next.SECRET, 0) for status in (401, 402, 403, 407, 429)),
    (Brought(503), Stand(secrets_left=1), Next.AGAIN, 0.25),
    (asks(60, 429), Stand(secrets_left=1, tries=TRIES_PER_ROUTE, routes_left=1), Next.SECRET, 0),
    *((Brought(status), Stand(), Next.END, 0) for status in (301, 302, 307, 401, 402, 403, 407)),
    *((Brought(status), ONE_MORE, Next.ROUTE, 0) for status in (307, 401, 402, 403, 407)),
    (Brought(307), Stand(secrets_left=1), Next.END, 0),
    # nobody waits for another try
    *(
        (brought, Stand(client_gone=True, secrets_left=1, routes_left=1), Next.END, 0.0)
        for brought in (Brought(503), Brought(429), Brought(401), Brought(307), UNREACHED, STALE, BROKEN_OFF)
    ),
]


@pytest.mark.parametrize(("brought", "stand", "what", "pause_s"), TABLE)
def test_what_follows_from_a_try(brought: Brought, stand: Stand, what: Next, pause_s: float) -> None:
    assert after(brought, stand) == (what, pause_s)


def test_no_pause_is_longer_than_what_is_left() -> None:
    """Whatever a try brings, another one of the same route begins within the budget."""
    for used_s in range(int(RETRY_BUDGET_S) + 10):
        for pause_s in (None, 0.0, 0.1, 5.0, 10.0, 11.0):
            for left in (0, 1):
                brought = Brought(503, retry_after_s=pause_s)
                what, waits_s = after(brought, Stand(routes_left=left, used_s=used_s))
                assert what is Next.AGAIN or waits_s == 0
                assert what is not Next.AGAIN or used_s + waits_s <= RETRY_BUDGET_S


@pytest.mark.parametrize(
    ("said", "pause_s"),
    [
        ("0", 0.0),
        ("7", 7.0),
        ("1.5", 1.5),
        ("Fri, 20 Nov 2026 12:00:30 GMT", 30.0),
        ("Fri, 20 Nov 2026 11:00:00 GMT", 0.0),
        ("", None),
        ("-1", None),
        ("soon", None),
        ("9" * 400, None),
        ("Fri, 99 Nov 2026 12:00:30 GMT", None),
    ],
)
def test_a_pause_that_an_upstream_asks_for(said: str, pause_s: float | None) -> None:
    noon = 1_795_176_000.0  # 2026-11-20T12:00:00Z
    assert retry_after_s(said, noon) == pause_s


# -- routes that failed lately


def test_a_route_that_failed_is_left_alone_and_then_probed_by_one() -> None:
    cooldown = Cooldown()
    assert not cooldown.cools("r", 0)
    cooldown.failed("r", 0)
    assert cooldown.cools("r", COOLDOWN_S - 1)
    assert not cooldown.cools("other", 1)
    assert not cooldown.cools("r", COOLDOWN_S)
    cooldown.asked("r", COOLDOWN_S)  # the probe
    assert cooldown.cools("r", COOLDOWN_S + 1)
    cooldown.worked("r")
    assert not cooldown.cools("r", COOLDOWN_S + 2)
    cooldown.failed("r", 50)
    assert not cooldown.cools("r", 50 + COOLDOWN_S)  # what was is forgotten


def test_a_probe_that_fails_doubles_the_time() -> None:
    cooldown, now, waited = Cooldown(), 0.0, []
    for _ in range(8):
        cooldown.asked("r", now)
        cooldown.failed("r", now)
        begin = now
        while cooldown.cools("r", now):
            now += 1
        waited.append(now - begin)
    assert waited == [10, 20, 40, 80, 160, 300, 300, 300]
    assert waited[0] == COOLDOWN_S
    assert waited[-1] == MOST_COOLDOWN_S


def test_a_probe_that_never_ends_is_followed_by_another() -> None:
    cooldown = Cooldown()
    cooldown.failed("r", 0)
    cooldown.asked("r", COOLDOWN_S)
    assert cooldown.cools("r", 2 * COOLDOWN_S - 1)
    assert not cooldown.cools("r", 2 * COOLDOWN_S)


def test_many_that_fail_at_once_are_one_failure() -> None:
    cooldown = Cooldown()
    for _ in range(100):
        cooldown.failed("r", 0)
    assert not cooldown.cools("r", COOLDOWN_S)


@pytest.mark.parametrize(("asked_s", "cools_s"), [(0, 10), (5, 10), (60, 60), (3600, 300)])
def test_the_pause_that_an_upstream_asks_for_is_kept(asked_s: float, cools_s: float) -> None:
    cooldown = Cooldown()
    cooldown.failed("r", 0, asked_s)
    assert cooldown.cools("r", cools_s - 1)
    assert not cooldown.cools("r", cools_s)


def test_not_every_name_that_a_client_makes_up_is_remembered() -> None:
    cooldown = Cooldown()
    for number in range(MOST_ROUTES + 1):
        cooldown.failed(("upstream", f"model-{number}"), 0)
    assert len(cooldown._cooling) == 1
