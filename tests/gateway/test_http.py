"""Who calls, and what an answer says of limits."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from llmgate.errors import Refusal
from llmgate.gateway.exchange import Priced
from llmgate.gateway.http import check_address, client_address, go_duration
from llmgate.gateway.pipeline import _possible
from llmgate.pricing import Price
from llmgate.routing import Route, Tariff
from llmgate.store.prices import Snapshot
from llmgate.types import Ask, CostSource
from tests.test_routing import setup

PROXIES = (ip_network("10.0.0.0/8"), ip_network("::1/128"))


@pytest.mark.parametrize(
    ("peer", "headers", "ip_header", "address"),
    [
        ("198.51.100.7", {"x-forwarded-for": "1.2.3.4"}, None, "198.51.100.7"),  # nobody whose word counts
        ("10.0.0.1", {}, None, "10.0.0.1"),
        ("10.0.0.1", {"x-forwarded-for": "203.0.113.9"}, None, "203.0.113.9"),
        ("10.0.0.1", {"x-forwarded-for": "6.6.6.6, 203.0.113.9, 10.2.3.4"}, None, "203.0.113.9"),  # forged at the left
        ("10.0.0.1", {"x-forwarded-for": "10.9.9.9, 10.2.3.4"}, None, "10.9.9.9"),
        ("10.0.0.1", {"x-forwarded-for": "nonsense"}, None, "nonsense"),
        ("::1", {"x-forwarded-for": "2001:db8::1"}, None, "2001:db8::1"),
        ("10.0.0.1", {"x-real": " 203.0.113.9 ", "x-forwarded-for": "6.6.6.6"}, "X-Real", "203.0.113.9"),
        ("10.0.0.1", {}, "X-Real", "10.0.0.1"),
        (None, {"x-forwarded-for": "1.2.3.4"}, None, ""),
    ],
)
def test_who_calls(peer: str | None, headers: dict[str, str], ip_header: str | None, address: str) -> None:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"client": (peer, 1) if peer else None, "headers": raw}
    assert client_address(scope, PROXIES, ip_header) == address


def test_without_trusted_proxies_only_the_connection_counts() -> None:
    scope = {"client": ("10.0.0.1", 1), "headers": [(b"x-forwarded-for", b"1.2.3.4")]}
    assert client_address(scope, (), None) == "10.0.0.1"


@pytest.mark.parametrize(
    ("address", "allowed", "passes"),
    [
        ("10.1.2.3", (), True),
        ("10.1.2.3", ("10.0.0.0/8",), True),
        ("::ffff:10.1.2.3", ("10.0.0.0/8",), True),
        ("11.1.2.3", ("10.0.0.0/8", "192.168.0.0/16"), False),
        ("2001:db8::5", ("2001:db8::/32",), True),
        ("nonsense", ("0.0.0.0/0", "::/0"), False),
        ("", ("0.0.0.0/0",), False),
    ],
)
def test_a_key_may_be_held_to_networks(address: str, allowed: tuple[str, ...], passes: bool) -> None:
    if passes:
        check_address(address, allowed)
        return
    with pytest.raises(Refusal) as caught:
        check_address(address, allowed)
    assert caught.value.code == "ip_not_allowed"


@pytest.mark.parametrize(
    ("ms", "text"),
    [(0, "0ms"), (12, "12ms"), (1000, "1s"), (1001, "2s"), (60_000, "1m0s"), (360_000, "6m0s"), (3_630_000, "1h0m30s")],
)
def test_a_time_as_go_writes_it(ms: int, text: str) -> None:
    assert go_duration(ms) == text


BASE, FLEX, FAST, OWN = (Price(input=rate, output=rate) for rate in (10, 5, 25, 7))


@pytest.mark.parametrize(
    ("service_tier", "own", "prices"),
    [
        (None, None, (BASE,)),
        ("standard", None, (BASE,)),
        ("default", None, (BASE,)),
        ("priority", None, (BASE, FAST)),
        ("flex", None, (BASE, FLEX)),
        ("auto", None, (BASE, FLEX, FAST)),  # it may end up in any
        ("a-new-one", None, (BASE, FLEX, FAST)),
        ("priority", OWN, (OWN,)),
    ],
)
def test_what_a_service_tier_may_be_charged_by(
    service_tier: str | None, own: Price | None, prices: tuple[Price, ...]
) -> None:
    tiers = {"flex": FLEX, "priority": FAST}
    route = Route(
        upstream=setup("[upstreams.openai]")[1]["openai"],
        model="m",
        tariff=Tariff(BASE, CostSource.CATALOGUE, own, tiers),
        context_window=None,
    )
    priced = Priced(
        route=route,
        cost=Snapshot(1, BASE),
        charge=Snapshot(2, own) if own else None,
        service_tiers={name: Snapshot(3, price) for name, price in tiers.items()},
    )
    assert _possible(priced, Ask(model="m", service_tier=service_tier)) == prices
