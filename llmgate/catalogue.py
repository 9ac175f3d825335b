"""What vendors charge: the bundled, dated, offline price list of `genai-prices`, in our units.

The library costs 40 MB of memory and a tenth of a second to import, so it is imported at the first look-up, and what
is found is kept: a request never pays for it twice.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

from .money import catalogue_nano
from .pricing import Price, Tier

if TYPE_CHECKING:
    from genai_prices.data_snapshot import DataSnapshot

TOKEN_KEYS = {
    "input_mtok": "input",
    "cache_read_mtok": "cached_input",
    "cache_write_mtok": "cache_write",
    "cache_write_1h_mtok": "cache_write_1h",
    "input_audio_mtok": "audio_input",
    "input_image_mtok": "image_input",
    "output_mtok": "output",
    "output_reasoning_mtok": "reasoning",
    "output_audio_mtok": "audio_output",
    "output_image_mtok": "audio_output",  # no model has both
}
"""The list's USD per 1M tokens → our rates."""

COUNT_KEYS = {
    "requests_kcount": ("calls", 1000),
    "web_searches_kcount": ("searches", 1000),
    "input_mchars": ("characters", 1),
    "audio_hours": ("milliseconds", 0),
    "input_audio_hours": ("milliseconds", 0),
}
"""The list's USD per so many things → our rates; the second figure is how often that many go into 1M (0: hours)."""

MS_PER_HOUR = 3_600_000

SERVICE_TIERS = ("flex", "priority", "fast")
"""Service tiers that vendors price apart; what else a request names is quoted at the dearest of them."""


class Listed(msgspec.Struct, frozen=True):
    """One model of the list."""

    provider: str
    model: str
    price: Price
    context_window: int | None
    service_tiers: dict[str, Price]
    """Only the tiers whose price differs."""


@cache
def _snapshot() -> DataSnapshot:
    from genai_prices.data_snapshot import get_snapshot

    return get_snapshot()


@lru_cache(maxsize=4096)
def find(model: str, provider: str | None, date: str) -> Listed | None:
    """The list's entry for a model of a provider (of any provider, where None) on a date (`YYYY-MM-DD`), or None.

    `date` is part of the question because lists are dated, and because it makes the answer cacheable for a day.
    """
    try:
        owner, info = _snapshot().find_provider_model(model, None, provider, None)
    except LookupError:
        return None
    moments = _moments(info, datetime.fromisoformat(date).date())
    price = _price([info.get_prices(at) for at in moments])
    if price is None:
        return None
    tiers = {name: _price([info.get_prices(at, {"service_tier": name}) for at in moments]) for name in SERVICE_TIERS}
    return Listed(
        provider=owner.id,
        model=info.id,
        price=price,
        context_window=info.context_window,
        service_tiers={name: tier for name, tier in tiers.items() if tier is not None and tier != price},
    )


def provider_of(model: str) -> str | None:
    """The provider that is known for a model of this name, or None."""
    try:
        owner, _ = _snapshot().find_provider_model(model, None, None, None)
    except LookupError:
        return None
    return str(owner.id)


def provider_at(url: str) -> str | None:
    """The provider whose API has this address, or None."""
    try:
        return str(_snapshot().find_provider(None, None, url).id)
    except LookupError:
        return None


def lists(model: str, provider: str) -> bool:
    """Whether a provider's list knows a model."""
    try:
        _snapshot().find_provider_model(model, None, provider, None)
    except LookupError:
        return False
    return True


def models(provider: str) -> list[str]:
    """The names of a provider's models, in the list's order; empty for a provider that the list doesn't know."""
    for owner in _snapshot().providers:
        if owner.id == provider:
            return [model.id for model in owner.models]
    return []


def _moments(info: Any, day: date) -> list[datetime]:
    """When a model's prices change on a day, beginning with its first instant: some vendors bill by the hour of it."""
    conditions = [entry.constraint for entry in (*_several(info.prices), *(info.price_variants or ()))]
    daily = [one for one in conditions if hasattr(one, "start_time")]
    hours = {time.min, *(one.start_time for one in daily), *(one.end_time for one in daily)}
    return [datetime.combine(day, hour, tzinfo=hour.tzinfo or UTC) for hour in hours]


def _several(prices: Any) -> tuple[Any, ...]:
    """The prices of a model that has more than one."""
    return tuple(prices) if isinstance(prices, list) else ()


def _price(listed: list[Any]) -> Price | None:
    """The dearest of a day's `genai_prices.types.ModelPrice`s as a Price, or None where they say nothing that we meter:
    what is charged is never below what is billed.
    """
    starts = sorted({tier.start for _, value in _values(listed) for tier in getattr(value, "tiers", ())})
    base = _flat(listed, 0)
    if base is None:
        return None
    tiers = tuple(Tier(above=start, price=_flat(listed, start + 1) or base) for start in starts)
    return msgspec.structs.replace(base, tiers=tiers)


def _values(listed: list[Any]) -> list[tuple[str, Any]]:
    return [(key, value) for one in listed for key, value in vars(one).items() if value is not None]


def _flat(listed: list[Any], input_tokens: int) -> Price | None:
    """The rates that hold for a request of so many input tokens."""
    found: dict[str, int] = {}
    for key, value in _values(listed):
        usd = value
        if hasattr(value, "tiers"):
            usd = value.base
            for tier in value.tiers:
                if input_tokens > tier.start:
                    usd = tier.price
        if key in TOKEN_KEYS:
            name, rate = TOKEN_KEYS[key], catalogue_nano(usd)
        elif key in COUNT_KEYS:
            name, times = COUNT_KEYS[key]
            rate = catalogue_nano(usd * times if times else usd * 1_000_000 / MS_PER_HOUR)
        else:
            continue
        found[name] = max(rate, found.get(name, 0))
    if "cache_write" in found:
        # An hour in the cache costs at least what five minutes do; where the list is silent, not the plain input price.
        found.setdefault("cache_write_1h", found["cache_write"])
    return msgspec.convert(found, Price) if found else None
