"""What vendors charge: the bundled, dated, offline price list of `genai-prices`, in our units.

The library costs 40 MB of memory and a tenth of a second to import, so it is imported at the first look-up, and what
is found is kept: a request never pays for it twice. An admin may put a newer list in the place of the installed one: an
*edition*, which `use` takes.

What becomes of the list's units:
- metered: `TOKEN_KEYS` and `COUNT_KEYS`. Where several are one of our meters, the dearest counts;
- bounded: `CACHED_MEDIA`, which answers don't tell apart from other cached tokens, are charged as those;
- refused: a model with any other unit (pages of documents, messages of a voice, what a later list may come up with) has
  no price, because what we don't meter would be free.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from datetime import UTC, date, datetime, time
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

from .errors import UsageError
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
    # No model writes both sound and pictures, so that they share a meter; films are bounded by what they are made of.
    "output_image_mtok": "audio_output",
    "output_video_mtok": "audio_output",
    "input_video_mtok": "image_input",
    # Parts that are counted with the whole.
    "input_text_mtok": "input",
    "output_text_mtok": "output",
    "output_citation_mtok": "output",
    "cache_write_5m_mtok": "cache_write",
}
"""The list's USD per 1M tokens → our rates."""

COUNT_KEYS = {
    "requests_kcount": ("calls", 1000),
    "web_searches_kcount": ("searches", 1000),
    "storage_searches_kcount": ("searches", 1000),
    "social_searches_kcount": ("searches", 1000),
    "rerank_searches_kcount": ("searches", 1000),
    "code_executions_kcount": ("searches", 1000),
    "input_mchars": ("characters", 1),
    "audio_hours": ("milliseconds", 0),
    "input_audio_hours": ("milliseconds", 0),
    "output_audio_hours": ("milliseconds", 0),
}
"""The list's USD per so many things → our rates; the second figure is how often that many go into 1M (0: hours)."""

CACHED_MEDIA = re.compile(r"cache_(?:audio|image|video|text)_(?:read|write|write_5m|write_1h)_mtok")

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


_editions: dict[str, DataSnapshot] = {}
_in_use = ""
"""Which edition this process looks things up in; '': the installed list."""


def edition_of(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def packed(body: bytes) -> bytes:
    return zlib.compress(body, 9)


def use(edition: str, text: bytes) -> None:
    """Look things up in another edition from now on, of which this is the text, compressed; '': in the installed list.

    Loading one takes a second: not in an event loop.
    """
    global _in_use
    if edition and edition not in _editions:
        _editions[edition] = read(zlib.decompress(text))
    for other in _editions.keys() - {edition}:
        del _editions[other]
    _in_use = edition


def read(body: bytes) -> DataSnapshot:
    """A list as genai-prices publishes it (`data.json`). Raises UsageError."""
    from genai_prices.data_snapshot import DataSnapshot
    from genai_prices.types import _providers_from_raw

    try:
        raw = json.loads(body)
        if not isinstance(raw, list) or not raw:
            raise ValueError("it is no list of providers")
        return DataSnapshot(providers=_providers_from_raw(raw), from_auto_update=False)
    except json.JSONDecodeError as error:
        raise UsageError(f"this is no JSON: line {error.lineno}, column {error.colno}") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:  # pydantic's errors are ValueErrors
        own = type(error) is ValueError
        detail = str(error) if own else "a provider has other fields than are known"
        raise UsageError(f"this is no data.json of genai-prices 0.2 (v2): {detail}") from error


@cache
def installed() -> DataSnapshot:
    from genai_prices.data_snapshot import get_snapshot

    return get_snapshot()


def _snapshot() -> DataSnapshot:
    edition = _editions.get(_in_use)
    return installed() if edition is None else edition


def find(model: str, provider: str | None, date: str) -> Listed | None:
    """The list's entry for a model of a provider (of any provider, where None) on a date (`YYYY-MM-DD`), or None.

    `date` is part of the question because lists are dated, and because it makes the answer cacheable for a day.
    """
    return _find(_in_use, model, provider, date)


@lru_cache(maxsize=4096)
def _find(edition: str, model: str, provider: str | None, date: str) -> Listed | None:  # noqa: ARG001
    """`edition` keeps apart what different ones say."""
    try:
        owner, info = _snapshot().find_provider_model(model, None, provider, None)
    except LookupError:
        return None
    return _listed(owner, info, datetime.fromisoformat(date).date())


def _listed(owner: Any, info: Any, day: date) -> Listed | None:
    moments = _moments(info, day)
    price = _price([info.get_prices(at) for at in moments])
    if price is None:
        return None
    # Anthropic's fast mode is no tier of service, but as a price it is one.
    asked = {name: {"service_tier": name, "speed": name} for name in SERVICE_TIERS}
    tiers = {name: _price([info.get_prices(at, context) for at in moments]) for name, context in asked.items()}
    return Listed(
        provider=owner.id,
        model=info.id,
        price=price,
        context_window=info.context_window,
        service_tiers={name: tier for name, tier in tiers.items() if tier is not None and tier != price},
    )


def everything(day: str, other: DataSnapshot | None = None) -> dict[tuple[str, str], Price]:
    """(provider, model) → price on a day, of the list in use or of another one."""
    when = datetime.fromisoformat(day).date()
    return {
        (owner.id, info.id): listed.price
        for owner in (other or _snapshot()).providers
        for info in owner.models
        if (listed := _listed(owner, info, when)) is not None
    }


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
        elif CACHED_MEDIA.fullmatch(key):
            continue
        else:
            return None
        found[name] = max(rate, found.get(name, 0))
    if "cache_write" in found:
        # An hour in the cache costs at least what five minutes do; where the list is silent, not the plain input price.
        found.setdefault("cache_write_1h", found["cache_write"])
    return msgspec.convert(found, Price) if found else None
