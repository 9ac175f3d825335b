"""The price list, against the library that it comes from: never below what is billed, and exact where it can be."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from decimal import Decimal
from fractions import Fraction

import pytest
from genai_prices import Usage, calc_price
from genai_prices.data_snapshot import DataSnapshot
from genai_prices.data_units import unit_data
from genai_prices.types import (
    ClauseEquals,
    ClauseStartsWith,
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    PriceVariant,
    Provider,
    StartDateConstraint,
    TieredPrices,
    TimeOfDateConstraint,
)
from genai_prices.types import Tier as ListedTier
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgate import catalogue
from llmgate.errors import UsageError
from llmgate.money import NANO
from llmgate.presets import PRESETS
from llmgate.pricing import Price, Tier, amount
from llmgate.types import Meters

DAY = "2026-11-20"

KNOWN = [
    ("openai", "gpt-4o"),
    ("openai", "gpt-4o-mini-2024-07-18"),
    ("openai", "gpt-4.1"),
    ("openai", "gpt-5"),
    ("openai", "o3"),
    ("anthropic", "claude-sonnet-4-5"),
    ("anthropic", "claude-sonnet-4-5-20250929"),
    ("anthropic", "claude-opus-4-6"),
    ("anthropic", "claude-3-5-haiku-20241022"),
    ("groq", "openai/gpt-oss-120b"),
    ("mistral", "mistral-medium-latest"),
    ("x-ai", "grok-4"),
    ("google", "gemini-2.5-pro"),
]

VENDORS = sorted(
    {preset.catalogue for preset in PRESETS.values() if preset.catalogue} - {"fireworks"} | {"anthropic", "google"}
)
"""Fireworks' API knows its models by other names than the list's ids."""


def found(model: str, provider: str | None, day: str = DAY) -> catalogue.Listed:
    listed = catalogue.find(model, provider, day)
    assert listed is not None, (model, provider)
    return listed


def billed(meters: Meters, model: str, provider: str, at: datetime, tier: str | None = None) -> Fraction:
    """What the library says that it costs, in nano-USD."""
    usage = Usage(
        input_tokens=meters.input_tokens,
        cache_read_tokens=meters.cached_input,
        cache_write_tokens=meters.cache_write + meters.cache_write_1h,
        cache_write_1h_tokens=meters.cache_write_1h,
        output_tokens=meters.output_tokens,
    )
    context = {"service_tier": tier} if tier else None
    found = calc_price(usage, model, provider_id=provider, genai_request_timestamp=at, price_context=context)
    return Fraction(found.total_price) * NANO


def moment(day: str) -> datetime:
    return datetime.fromisoformat(day).replace(tzinfo=UTC)


COUNTS = st.one_of(st.integers(0, 50), st.integers(0, 100_000), st.integers(190_000, 210_000), st.integers(0, 10**6))
METERS = st.builds(
    Meters,
    input=COUNTS,
    cached_input=COUNTS,
    cache_write=COUNTS,
    cache_write_1h=COUNTS,
    output=COUNTS,
    reasoning=COUNTS,
    calls=st.just(1),
)


@settings(max_examples=300)
@given(METERS, st.sampled_from(KNOWN), st.sampled_from((DAY, "2025-12-31", "2025-06-01")))
def test_a_known_model_costs_what_the_list_says(meters: Meters, known: tuple[str, str], day: str) -> None:
    """Cached tokens, tiers over a threshold and cache writes of 5 minutes and of an hour included."""
    provider, model = known
    exact = billed(meters, model, provider, moment(day))
    assert 0 <= amount(meters, found(model, provider, day).price) - exact < 1


@pytest.mark.parametrize(("provider", "model"), KNOWN)
def test_a_tier_begins_where_the_lists_does(provider: str, model: str) -> None:
    price = found(model, provider).price
    for tier in price.tiers:
        for tokens in (tier.above, tier.above + 1):
            meters = Meters(input=tokens, output=1)
            assert 0 <= amount(meters, price) - billed(meters, model, provider, moment(DAY)) < 1


def test_the_list_has_tiers_and_dear_cache_writes_to_test_with() -> None:
    sonnet = found("claude-sonnet-4-5", "anthropic").price
    assert [tier.above for tier in sonnet.tiers] == [200_000]
    assert (sonnet.input, sonnet.cache_write, sonnet.cache_write_1h) == (3 * NANO, 3_750_000_000, 6 * NANO)


@settings(max_examples=100)
@given(METERS, st.sampled_from(("gpt-5", "gpt-4o", "o3", "gpt-5.5")), st.sampled_from(catalogue.SERVICE_TIERS))
def test_a_service_tier_costs_what_the_list_says(meters: Meters, model: str, tier: str) -> None:
    listed = found(model, "openai")
    price = listed.service_tiers.get(tier, listed.price)
    assert 0 <= amount(meters, price) - billed(meters, model, "openai", moment(DAY), tier) < 1


def test_only_service_tiers_that_differ_are_kept() -> None:
    assert set(found("gpt-5", "openai").service_tiers) == {"flex", "priority", "fast"}
    assert found("text-embedding-3-small", "openai").service_tiers == {}


@pytest.mark.parametrize("provider", VENDORS)
def test_no_model_is_charged_below_the_list(provider: str) -> None:
    """Every model that can be asked for by its listed name. Above the list by roundings of its rates only: lists carry
    binary noise past the ninth decimal. Where the list names no price of output, output is not free either.
    """
    meters = Meters(
        input=123_457, cached_input=300_001, cache_write=7_919, cache_write_1h=104_729, output=54_321, calls=1
    )
    looked_at = 0
    for model in catalogue.models(provider):
        listed = catalogue.find(model, provider, DAY)
        if listed is None:
            continue
        looked_at += 1
        exact = max(
            billed(meters, model, provider, datetime.combine(date(2026, 11, 20), time(hour), UTC))
            for hour in (0, 2, 8, 12)
        )
        above = amount(meters, listed.price) - exact
        assert above >= 0, model
        if listed.price.output is not None and not listed.price.calls:
            assert above < 5, model
    assert looked_at > 0


# ── a list of our own: what real ones do too seldom to rely on ────────────────────────────────────────────────────────


def usd(text: str) -> Decimal:
    return Decimal(text)


def at_night(start: time, end: time) -> TimeOfDateConstraint:
    return TimeOfDateConstraint(start_time=start, end_time=end)


MODELS = [
    ModelInfo(
        id="owl",
        match=ClauseEquals("owl"),
        context_window=1234,
        prices=[
            ConditionalPrice(prices=ModelPrice(input_mtok=usd("1"), cache_read_mtok=usd("0.5"), output_mtok=usd("2"))),
            ConditionalPrice(
                at_night(time(1, tzinfo=UTC), time(4, tzinfo=UTC)),
                prices=ModelPrice(input_mtok=usd("3"), cache_read_mtok=usd("0.7"), output_mtok=usd("6")),
            ),
            ConditionalPrice(
                at_night(time(22), time(0, 30)),
                prices=ModelPrice(input_mtok=usd("4"), cache_read_mtok=usd("0.1"), output_mtok=usd("5")),
            ),
        ],
    ),
    ModelInfo(
        id="riser",
        match=ClauseEquals("riser"),
        prices=[
            ConditionalPrice(prices=ModelPrice(input_mtok=usd("1"), output_mtok=usd("2"))),
            ConditionalPrice(
                StartDateConstraint(date(2026, 11, 20)), prices=ModelPrice(input_mtok=usd("5"), output_mtok=usd("6"))
            ),
        ],
    ),
    ModelInfo(
        id="stairs",
        match=ClauseStartsWith("stairs"),
        prices=ModelPrice(
            input_mtok=TieredPrices(usd("1"), [ListedTier(200, usd("3")), ListedTier(100, usd("2"))]),
            output_mtok=TieredPrices(usd("10"), [ListedTier(100, usd("20"))]),
            cache_read_mtok=usd("0.5"),
        ),
        price_variants=[
            PriceVariant({"service_tier": "flex"}, ModelPrice(input_mtok=usd("0.5"))),
            PriceVariant(
                {"service_tier": "priority"},
                ModelPrice(input_mtok=TieredPrices(usd("1"), [ListedTier(200, usd("3")), ListedTier(100, usd("2"))])),
            ),
        ],
    ),
    ModelInfo(
        id="pieces",
        match=ClauseEquals("pieces"),
        prices=ModelPrice(
            input_mtok=usd("1"), requests_kcount=usd("5"), web_searches_kcount=usd("10"), input_mchars=usd("15")
        ),
    ),
    ModelInfo(
        id="ear", match=ClauseEquals("ear"), prices=ModelPrice(audio_hours=usd("0.36"), input_audio_hours=usd("0.36"))
    ),
    ModelInfo(
        id="senses",
        match=ClauseEquals("senses"),
        prices=ModelPrice(
            input_mtok=usd("1"),
            output_mtok=usd("2"),
            input_audio_mtok=usd("3"),
            input_image_mtok=usd("4"),
            output_audio_mtok=usd("5"),
            output_reasoning_mtok=usd("6"),
            cache_write_mtok=usd("7"),
        ),
    ),
    ModelInfo(
        id="brush",
        match=ClauseEquals("brush"),
        prices=ModelPrice(input_mtok=usd("5"), output_mtok=usd("10"), output_image_mtok=usd("32")),
    ),
    ModelInfo(
        id="painter",
        match=ClauseEquals("painter"),
        prices=ModelPrice(
            input_mtok=usd("1"),
            input_image_mtok=usd("2"),
            input_video_mtok=usd("3"),
            cache_read_mtok=usd("0.5"),
            cache_image_read_mtok=usd("0.75"),
            output_mtok=usd("4"),
            output_image_mtok=usd("5"),
            output_video_mtok=usd("6"),
            output_citation_mtok=usd("4.5"),
            storage_searches_kcount=usd("2"),
        ),
    ),
    ModelInfo(id="noisy", match=ClauseEquals("noisy"), prices=ModelPrice(input_mtok=usd("0.08333333333333334"))),
    ModelInfo(id="gift", match=ClauseEquals("gift"), prices=ModelPrice()),
    ModelInfo(
        id="reader",
        match=ClauseEquals("reader"),
        prices=ModelPrice(input_mtok=usd("1"), output_mtok=usd("2"), input_document_kpages=usd("1")),
    ),
    ModelInfo(
        id="voice",
        match=ClauseEquals("voice"),
        prices=ModelPrice(audio_hours=usd("1"), input_text_messages_kcount=usd("1")),
    ),
    ModelInfo(id="pages", match=ClauseEquals("pages"), prices=ModelPrice(input_document_kpages=usd("1"))),
]


@pytest.fixture
def own_list(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    zoo = Provider(id="zoo", name="Zoo", api_pattern=r"https://api\.zoo\.example", models=MODELS)
    snapshot = DataSnapshot(providers=[zoo], from_auto_update=False)
    monkeypatch.setattr(catalogue, "_snapshot", lambda: snapshot)
    catalogue._find.cache_clear()
    yield
    catalogue._find.cache_clear()


@pytest.mark.usefixtures("own_list")
class TestAListOfOurOwn:
    def test_what_is_billed_by_the_hour_of_the_day_is_charged_at_its_dearest(self) -> None:
        listed = found("owl", "zoo")
        assert listed.price == Price(input=4 * NANO, cached_input=700_000_000, output=6 * NANO)
        assert (listed.provider, listed.model, listed.context_window) == ("zoo", "owl", 1234)

    @pytest.mark.parametrize(("day", "price"), [("2026-11-19", 1), ("2026-11-20", 5), ("2027-01-01", 5)])
    def test_a_price_holds_from_its_day(self, day: str, price: int) -> None:
        assert found("riser", "zoo", day).price.input == price * NANO

    def test_tiers_of_several_rates_are_one_stair(self) -> None:
        assert found("stairs", "zoo").price == Price(
            input=1 * NANO,
            cached_input=500_000_000,
            output=10 * NANO,
            tiers=(
                Tier(above=100, price=Price(input=2 * NANO, cached_input=500_000_000, output=20 * NANO)),
                Tier(above=200, price=Price(input=3 * NANO, cached_input=500_000_000, output=20 * NANO)),
            ),
        )

    def test_a_service_tier_changes_what_it_names_and_one_that_changes_nothing_is_none(self) -> None:
        tiers = found("stairs-2", "zoo").service_tiers
        assert set(tiers) == {"flex"}
        assert tiers["flex"].input == 500_000_000
        assert tiers["flex"].output == 10 * NANO
        assert [tier.above for tier in tiers["flex"].tiers] == [100]

    @pytest.mark.parametrize(
        ("model", "meters", "nano"),
        [
            ("pieces", Meters(calls=1), 5_000_000),
            ("pieces", Meters(searches=3), 30_000_000),
            ("pieces", Meters(characters=1_000), 15_000_000),
            ("ear", Meters(milliseconds=3_600_000), 360_000_000),
            ("ear", Meters(milliseconds=1), 100),
            ("senses", Meters(audio_input=1_000_000), 3 * NANO),
            ("senses", Meters(image_input=1_000_000), 4 * NANO),
            ("senses", Meters(audio_output=1_000_000), 5 * NANO),
            ("brush", Meters(output=1_000_000), 10 * NANO),
            ("brush", Meters(audio_output=1_000_000), 32 * NANO),
            ("senses", Meters(reasoning=1_000_000), 6 * NANO),
            ("senses", Meters(cached_input=1_000_000), 1 * NANO),
            ("senses", Meters(cache_write=1_000_000), 7 * NANO),
            ("senses", Meters(cache_write_1h=1_000_000), 7 * NANO),
            ("painter", Meters(image_input=1_000_000), 3 * NANO),
            ("painter", Meters(audio_output=1_000_000), 6 * NANO),
            ("painter", Meters(cached_input=1_000_000), NANO // 2),
            ("painter", Meters(output=1_000_000), 4_500_000_000),
            ("painter", Meters(searches=1), 2_000_000),
            ("noisy", Meters(input=1_000_000), 83_333_334),
            ("noisy", Meters(output=1_000_000), 83_333_334),
        ],
    )
    def test_what_the_list_prices_otherwise_than_by_the_plain_token(
        self, model: str, meters: Meters, nano: int
    ) -> None:
        assert amount(meters, found(model, "zoo").price) == nano

    @pytest.mark.parametrize("model", ["gift", "pages", "reader", "voice"])
    def test_a_model_that_is_listed_without_a_price_that_we_meter_is_unpriced(self, model: str) -> None:
        assert catalogue.find(model, "zoo", DAY) is None
        assert catalogue.lists(model, "zoo")

    def test_who_is_who(self) -> None:
        assert catalogue.provider_at("https://api.zoo.example/v1") == "zoo"
        assert catalogue.models("zoo") == [model.id for model in MODELS]


# ── finding ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("model", "provider"),
    [("no-such-model", "openai"), ("gpt-4o", "no-such-provider"), ("no-such-model", None), ("", "openai")],
)
def test_what_is_unknown_is_none(model: str, provider: str | None) -> None:
    assert catalogue.find(model, provider, DAY) is None


def test_a_model_is_found_without_its_provider() -> None:
    assert found("gpt-4o", None).provider == "openai"
    assert found("claude-sonnet-4-5", None).provider == "anthropic"


def test_a_snapshot_of_a_model_is_the_model() -> None:
    assert found("gpt-4o-2024-08-06", "openai").model == "gpt-4o"
    assert found("gpt-4o", "openai").context_window == 128_000


@pytest.mark.parametrize(
    ("model", "provider"),
    [
        ("gpt-4o", "openai"),
        ("claude-opus-4-6", "anthropic"),
        ("mistral-large-latest", "mistral"),
        ("my-own-llama-9", None),
    ],
)
def test_provider_of(model: str, provider: str | None) -> None:
    assert catalogue.provider_of(model) == provider


@pytest.mark.parametrize(
    ("url", "provider"),
    [
        ("https://api.openai.com/v1", "openai"),
        ("https://api.anthropic.com", "anthropic"),
        ("https://openrouter.ai/api/v1", "openrouter"),
        ("http://127.0.0.1:8080/v1", None),
        ("https://gpu1.example/v1", None),
    ],
)
def test_provider_at(url: str, provider: str | None) -> None:
    assert catalogue.provider_at(url) == provider


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if preset.catalogue and preset.base_url])
def test_a_preset_is_at_its_providers_address(name: str) -> None:
    preset = PRESETS[name]
    assert preset.base_url is not None
    at = catalogue.provider_at(preset.base_url)
    assert at in (preset.catalogue, None)


def test_lists_and_models() -> None:
    assert catalogue.lists("gpt-4o", "openai")
    assert not catalogue.lists("gpt-4o", "mistral")
    assert not catalogue.lists("gpt-4o", "no-such-provider")
    names = catalogue.models("openai")
    assert {"gpt-4o", "gpt-4o-mini", "text-embedding-3-small"} <= set(names)
    assert len(names) == len(set(names))
    assert catalogue.models("no-such-provider") == []


def test_the_library_is_imported_at_the_first_look_up() -> None:
    code = (
        "import sys; from llmgate import catalogue, routing; assert 'genai_prices' not in sys.modules; "
        "catalogue.find('gpt-4o', 'openai', '2026-11-20'); assert 'genai_prices' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# ── editions ──────────────────────────────────────────────────────────────────────────────────────────────────────────


NEWER = json.dumps(
    [
        {
            "id": "openai",
            "name": "OpenAI",
            "api_pattern": "https://api\\.openai\\.com",
            "model_match": {"starts_with": "gpt-"},
            "models": [
                {"id": "gpt-4o", "match": {"equals": "gpt-4o"}, "prices": {"input_mtok": 7, "output_mtok": 8}},
                {"id": "gpt-9", "match": {"equals": "gpt-9"}, "prices": {"input_mtok": 1, "output_mtok": 2}},
            ],
        }
    ]
).encode()


@pytest.fixture
def newer() -> Iterator[str]:
    edition = catalogue.edition_of(NEWER)
    catalogue.use(edition, catalogue.packed(NEWER))
    yield edition
    catalogue.use("", b"")


def test_another_edition_is_looked_up_in_and_can_be_left_again(newer: str) -> None:
    assert found("gpt-4o", "openai").price == Price(input=7 * NANO, output=8 * NANO)
    assert catalogue.provider_of("gpt-9") == "openai"
    assert catalogue.find("gpt-4.1", "openai", DAY) is None
    assert set(catalogue.everything(DAY)) == {("openai", "gpt-4o"), ("openai", "gpt-9")}
    catalogue.use("", b"")
    assert found("gpt-4o", "openai").price.input == 2_500_000_000
    assert catalogue.provider_of("gpt-4.1") == "openai"
    catalogue.use(newer, catalogue.packed(NEWER))
    assert found("gpt-4o", "openai").price.input == 7 * NANO


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"[1]", b'[{"id": "x"}]', b"\xff", b"[" * 100_000])
def test_what_is_no_catalogue(body: bytes) -> None:
    with pytest.raises(UsageError, match=r"no (JSON: line 1|data\.json of genai-prices)"):
        catalogue.read(body)


def test_every_unit_of_the_library_is_metered_bounded_or_refused() -> None:
    """A new version of the library with a unit that we don't know makes this fail, rather than making it free."""
    keys = {unit["price_key"] for unit in unit_data.values()}
    metered = catalogue.TOKEN_KEYS.keys() | catalogue.COUNT_KEYS.keys()
    bounded = {key for key in keys if catalogue.CACHED_MEDIA.fullmatch(key)}
    assert metered <= keys
    assert {key for key in keys - metered - bounded if not key.endswith("_mtok")} == {
        "input_document_kpages",
        "input_annotated_document_kpages",
        "input_text_messages_kcount",
        "input_gpixels",
    }
    tools = {key for key in keys - metered - bounded if key.endswith("_mtok")}
    assert all("tool" in key or "reasoning" in key or "citation" in key for key in tools)
