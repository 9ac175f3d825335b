"""Model → routes, price and cost: a table of configs and names, and every way round a price that was thought of."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import NamedTuple

import msgspec
import pytest

from llmgate import catalogue
from llmgate.config import Config, Upstream, known_upstreams, parse
from llmgate.errors import Refusal
from llmgate.names import MODEL
from llmgate.pricebook import NOTHING_SET, Book, Kind, SetPrice
from llmgate.pricing import FREE, Price, price_of, rates
from llmgate.routing import Chance, Target, Tariff, listing, ordered, resolve
from llmgate.types import CostSource

DAY = "2026-11-20"

OPENAI = """
[upstreams.openai]
api_key = "sk"
"""
AZURE = """
[upstreams.azure]
api_key = "sk"
base_url = "https://x.openai.azure.com/openai/v1"
"""
MISTRAL = """
[upstreams.mistral]
api_key = "sk"
"""
LOCAL = """
[upstreams.gpu1]
base_url = "http://10.0.0.5:8080/v1"
auth = "none"
"""
OLLAMA = """
[upstreams.ollama]
"""
SANDBOX = """
[upstreams.sandbox]
"""

DEAR = "price = { input = 10, output = 30 }\n"
DEAR_PRICE = price_of({"input": 10, "output": 30})
CHEAP = "price = { input = 1, output = 3 }\n"
CHEAP_PRICE = price_of({"input": 1, "output": 3})
OTHER_PRICE = price_of({"input": Decimal("0.25"), "output": Decimal("0.5")})


def setup(text: str) -> tuple[Config, Mapping[str, Upstream]]:
    config = parse(text)
    return config, known_upstreams(config)


def target(text: str, model: str) -> Target:
    return resolve(*setup(text), model, DAY)


def refusal(text: str, model: str) -> Refusal:
    with pytest.raises(Refusal) as caught:
        target(text, model)
    return caught.value


def listed(model: str, provider: str) -> Price:
    found = catalogue.find(model, provider, DAY)
    assert found is not None
    return found.price


class Way(NamedTuple):
    """What is expected of one route."""

    to: str
    """`upstream/model`, as the upstream calls it."""
    charge: Price | None
    """None: charged at cost."""
    cost: Price
    source: CostSource


def ways(found: Target) -> list[Way]:
    return [
        Way(
            f"{route.upstream.name}/{route.model}",
            route.tariff.charge,
            route.tariff.cost,
            route.tariff.source,
        )
        for route in found.routes
    ]


# ── where a name leads, and what it costs there ───────────────────────────────────────────────────────────────────────

GPT_4O = listed("gpt-4o", "openai")
MINI = listed("gpt-4o-mini", "openai")
LIST, OWN = CostSource.CATALOGUE, CostSource.CONFIG


@pytest.mark.parametrize(
    ("text", "model", "expected"),
    [
        # known by the price list
        (OPENAI, "gpt-4o", [Way("openai/gpt-4o", None, GPT_4O, LIST)]),
        (OPENAI + MISTRAL, "gpt-4o", [Way("openai/gpt-4o", None, GPT_4O, LIST)]),
        (
            OPENAI + MISTRAL,
            "mistral-large-latest",
            [Way("mistral/mistral-large-latest", None, listed("mistral-large-latest", "mistral"), LIST)],
        ),
        (OPENAI + LOCAL, "gpt-4o", [Way("openai/gpt-4o", None, GPT_4O, LIST)]),
        # one whose name follows no pattern of its vendor, by the list alone
        (
            OPENAI + MISTRAL + LOCAL,
            "text-embedding-3-small",
            [Way("openai/text-embedding-3-small", None, listed("text-embedding-3-small", "openai"), LIST)],
        ),
        # another vendor's model, at the one who has it on its list too
        (AZURE + LOCAL, "gpt-4o", [Way("azure/gpt-4o", None, listed("gpt-4o", "azure"), LIST)]),
        # by upstream and model
        (OPENAI + MISTRAL, "openai/gpt-4o", [Way("openai/gpt-4o", None, GPT_4O, LIST)]),
        (OPENAI + LOCAL + CHEAP, "gpu1/gpt-4o", [Way("gpu1/gpt-4o", CHEAP_PRICE, GPT_4O, LIST)]),
        (LOCAL + CHEAP, "gpu1/my/llama", [Way("gpu1/my/llama", CHEAP_PRICE, CHEAP_PRICE, OWN)]),
        # the only upstream
        (LOCAL + CHEAP, "my-llama", [Way("gpu1/my-llama", CHEAP_PRICE, CHEAP_PRICE, OWN)]),
        (LOCAL + CHEAP, "nobody/my-llama", [Way("gpu1/nobody/my-llama", CHEAP_PRICE, CHEAP_PRICE, OWN)]),
        (SANDBOX, "anything", [Way("sandbox/anything", None, price_of({"input": 1, "output": 2}), OWN)]),
        # a local server is never looked up, and an unknown one by the model's name
        (OLLAMA + 'price = "free"', "gpt-4o", [Way("ollama/gpt-4o", FREE, FREE, OWN)]),
        (LOCAL, "gpt-4o", [Way("gpu1/gpt-4o", None, GPT_4O, LIST)]),
        # an entry of its own: price, cost, routes
        (OPENAI + "[models.gpt-4o]\n" + DEAR, "gpt-4o", [Way("openai/gpt-4o", DEAR_PRICE, GPT_4O, LIST)]),
        (
            OPENAI + "[models.gpt-4o]\n" + DEAR + "cost = { input = 1, output = 3 }",
            "gpt-4o",
            [Way("openai/gpt-4o", DEAR_PRICE, CHEAP_PRICE, OWN)],
        ),
        (
            OPENAI + "[models.gpt-4o]\ncost = { input = 1, output = 3 }",
            "gpt-4o",
            [Way("openai/gpt-4o", None, CHEAP_PRICE, OWN)],
        ),
        (OPENAI + '[models.gpt-4o]\nprice = "free"', "gpt-4o", [Way("openai/gpt-4o", FREE, GPT_4O, LIST)]),
        (LOCAL + "[models.my-llama]\n" + DEAR, "my-llama", [Way("gpu1/my-llama", DEAR_PRICE, DEAR_PRICE, OWN)]),
        (
            OPENAI + '[models.fast]\nroutes = [{ upstream = "openai", model = "gpt-4o-mini" }]',
            "fast",
            [Way("openai/gpt-4o-mini", None, MINI, LIST)],
        ),
        (
            OPENAI + '[models.gpt-4o]\nroutes = [{ upstream = "openai", model = "gpt-4o-mini" }]',
            "gpt-4o",
            [Way("openai/gpt-4o-mini", None, MINI, LIST)],
        ),
        (
            OPENAI
            + LOCAL
            + '[models.fast]\nroutes = [{ upstream = "gpu1" }, { upstream = "openai", model = "gpt-4o-mini" }]\n'
            + DEAR,
            "fast",
            [Way("gpu1/fast", DEAR_PRICE, DEAR_PRICE, OWN), Way("openai/gpt-4o-mini", DEAR_PRICE, MINI, LIST)],
        ),
        # a price on the upstream, which one of the model overrides
        (OPENAI + CHEAP, "gpt-4o", [Way("openai/gpt-4o", CHEAP_PRICE, GPT_4O, LIST)]),
        (OPENAI + CHEAP + "[models.gpt-4o]\n" + DEAR, "gpt-4o", [Way("openai/gpt-4o", DEAR_PRICE, GPT_4O, LIST)]),
        (OPENAI + "cost = { input = 1, output = 3 }", "gpt-4o", [Way("openai/gpt-4o", None, CHEAP_PRICE, OWN)]),
        # a flat rate, where no price says otherwise
        ("defaults.flat_rate = 20" + OPENAI, "gpt-4o", [Way("openai/gpt-4o", price_of({"input": 20}), GPT_4O, LIST)]),
        ("defaults.flat_rate = 0" + OPENAI, "gpt-4o", [Way("openai/gpt-4o", Price(input=0), GPT_4O, LIST)]),
        (
            "defaults.flat_rate = 20" + OPENAI + "[models.gpt-4o]\n" + DEAR,
            "gpt-4o",
            [Way("openai/gpt-4o", DEAR_PRICE, GPT_4O, LIST)],
        ),
        ("defaults.flat_rate = 20" + OPENAI + CHEAP, "gpt-4o", [Way("openai/gpt-4o", CHEAP_PRICE, GPT_4O, LIST)]),
    ],
)
def test_where_a_name_leads(text: str, model: str, expected: list[Way]) -> None:
    found = target(text, model)
    assert [way._replace(charge=None) for way in ways(found)] == [way._replace(charge=None) for way in expected]
    for way, wanted in zip(ways(found), expected, strict=True):
        assert same_rates(way.charge, wanted.charge), way.to
    assert found.model == model


def same_rates(one: Price | None, other: Price | None) -> bool:
    """Charged alike: a flat rate names both of what a price of its input alone lends."""
    if one is None or other is None:
        return one is other
    return rates(one, 0) == rates(other, 0)


@pytest.mark.parametrize(
    ("text", "model", "code", "told"),
    [
        (OPENAI + MISTRAL, "my-llama", "model_not_found", "no upstream is known to serve 'my-llama'"),
        (OPENAI + MISTRAL, "my-llama", "model_not_found", "openai/my-llama or mistral/my-llama"),
        ("[upstreams.anthropic]" + OPENAI + MISTRAL, "my-llama", "model_not_found", "as openai/my-llama or mistral/"),
        (OPENAI + MISTRAL, "my-llama", "model_not_found", "[models.my-llama] with routes"),
        (OPENAI + MISTRAL, "my.llama", "model_not_found", '[models."my.llama"]'),
        (OPENAI, "my-llama", "model_not_found", "in no [models] entry and in no price catalogue"),
        (LOCAL, "my-llama", "model_not_found", "under [models.my-llama] or [upstreams.gpu1]"),
        (OLLAMA, "gpt-4o", "model_not_priced", "'gpt-4o' has no price"),
        (LOCAL + '[models.big]\nroutes = [{ upstream = "gpu1", model = "x" }]', "big", "model_not_priced", "no price"),
        (LOCAL + "[models.big]\nmax_output = 5", "gpu1/big", "model_not_priced", '[models."gpu1/big"]'),
        # known, but to none of those who are configured
        (MISTRAL, "gpt-4o", "model_not_priced", "'gpt-4o' has no price"),
        (MISTRAL + LOCAL, "gpt-4o", "model_not_found", "no upstream is known to serve 'gpt-4o'"),
        # the charge would be known, but not the cost: margins would be lies
        ("defaults.flat_rate = 20" + LOCAL, "my-llama", "model_not_found", "not known"),
        # every route must be priced
        (
            OPENAI
            + LOCAL
            + '[models.fast]\nroutes = [{ upstream = "openai", model = "gpt-4o" }, { upstream = "gpu1", model = "x" }]',
            "fast",
            "model_not_priced",
            "[upstreams.gpu1]",
        ),
        (OPENAI + MISTRAL, "openai/", "model_not_found", "openai/"),
    ],
)
def test_what_leads_nowhere(text: str, model: str, code: str, told: str) -> None:
    error = refusal(text, model)
    assert error.code == code
    assert told in error.message
    assert error.param == "model"


SANDBOX = "\n[upstreams.sandbox]\n"


@pytest.mark.parametrize(
    ("text", "model", "told"),
    [
        (SANDBOX, "echo", "POST /v1/chat/completions or POST /v1/messages"),
        (
            SANDBOX,
            "sandbox/echo",
            "openai or anthropic here: ask for it at POST /v1/chat/completions or POST /v1/messages",
        ),
        (OPENAI + MISTRAL, "my-llama", "in the format gemini: ask for 'my-llama' at POST /v1/chat/completions"),
    ],
)
def test_a_format_that_nobody_speaks(text: str, model: str, told: str) -> None:
    """The first answer is the whole truth: no other name would be answered in that format."""
    config = parse(text)
    with pytest.raises(Refusal, match="format") as raised:
        resolve(config, known_upstreams(config), model, "2026-11-20", "gemini")
    assert raised.value.message.endswith(told)


@pytest.mark.parametrize(
    "model",
    [
        "",
        "..",
        "a/../b",
        "gpt-4o/..%2f..%2fadmin",
        "gpt%2f4o",
        "gpt 4o",
        "gpt\n4o",
        "gpt-4o\n",
        "gpt\x004o",
        "gpt\x7f",
        "gpt\u20284o",
        "gpt‑4o",
        "gpt?x=1",
        "gpt#x",
        "gpt\\4o",
        "gpt+4o",
        "a" * 257,
    ],
)
def test_names_that_no_model_has(model: str) -> None:
    assert not MODEL.fullmatch(model)
    error = refusal(LOCAL + CHEAP, model)
    assert (error.code, error.param) == ("invalid_request", "model")


@pytest.mark.parametrize("model", ["a", "gpt-4.1", "org/gpt-oss:20b", "@cf/meta/llama_3", "-x", "a" * 256])
def test_names_that_a_model_may_have(model: str) -> None:
    assert target(LOCAL + CHEAP, model).routes[0].model == model


# ── no way round a price ──────────────────────────────────────────────────────────────────────────────────────────────

PRICED = OPENAI + "[models.gpt-4o]\n" + DEAR
RENAMED = OPENAI + '[models.big]\nroutes = [{ upstream = "openai", model = "gpt-4o" }]\n' + DEAR


@pytest.mark.parametrize(
    ("text", "model"),
    [
        (PRICED, "gpt-4o"),
        (PRICED, "openai/gpt-4o"),
        (PRICED, "GPT-4o"),
        (PRICED, "openai/GPT-4O"),
        (RENAMED, "big"),
        (RENAMED, "gpt-4o"),
        (RENAMED, "openai/gpt-4o"),
        (RENAMED, "openai/GPT-4o"),
        # a second name without a price of its own
        (PRICED + '[models.fast]\nroutes = [{ upstream = "openai", model = "gpt-4o" }]', "fast"),
        (PRICED + '[models."x/y"]\nroutes = [{ upstream = "openai", model = "GPT-4o" }]', "x/y"),
        # nor may the unpriced second name come first in the file
        (
            OPENAI + '[models.fast]\nroutes = [{ upstream = "openai", model = "gpt-4o" }]\n[models.gpt-4o]\n' + DEAR,
            "fast",
        ),
        (
            OPENAI
            + '[models.fast]\nroutes = [{ upstream = "openai", model = "gpt-4o" }]\n'
            + '[models.big]\nroutes = [{ upstream = "openai", model = "gpt-4o" }]\n'
            + DEAR,
            "openai/gpt-4o",
        ),
        # an upstream's price is for what has none of its own
        (OPENAI + CHEAP + "[models.gpt-4o]\n" + DEAR, "openai/gpt-4o"),
        (OPENAI + CHEAP + "[models.gpt-4o]\n" + DEAR, "openai/GPT-4o"),
    ],
)
def test_no_alias_gets_round_a_price(text: str, model: str) -> None:
    (way,) = ways(target(text, model))
    assert way.charge == DEAR_PRICE


def test_the_own_cost_of_a_model_holds_by_every_name_too() -> None:
    text = OPENAI + "[models.gpt-4o]\ncost = { input = 1, output = 3 }"
    for model in ("gpt-4o", "openai/gpt-4o", "GPT-4o"):
        (way,) = ways(target(text, model))
        assert (way.cost, way.source, way.charge) == (CHEAP_PRICE, OWN, None)


@pytest.mark.parametrize("price", ['"free"', "{ input = 10, output = 30 }"])
def test_an_own_price_is_charged_also_where_the_upstream_reports_another_cost(price: str) -> None:
    """A model that no list knows, at an upstream whose reported cost is trusted: that is the cost, never the charge."""
    text = f'[upstreams.openrouter]\napi_key = "sk"\n[models."lab/new-one"]\nprice = {price}'
    (route,) = target(text, "lab/new-one").routes
    assert route.upstream.cost_reported
    assert route.tariff.charge == (FREE if "free" in price else DEAR_PRICE)


def test_an_entry_of_the_exact_name_is_before_one_of_other_capitals() -> None:
    text = OPENAI + "[models.GPT-4o]\n" + CHEAP + "[models.gpt-4o]\n" + DEAR
    assert ways(target(text, "openai/gpt-4o"))[0].charge == DEAR_PRICE
    assert ways(target(text, "openai/GPT-4o"))[0].charge == CHEAP_PRICE


def test_a_second_name_with_a_price_of_its_own_has_that() -> None:
    text = PRICED + '[models.fast]\nroutes = [{ upstream = "openai", model = "gpt-4o" }]\n' + CHEAP
    assert ways(target(text, "fast"))[0].charge == CHEAP_PRICE
    assert ways(target(text, "openai/gpt-4o"))[0].charge == DEAR_PRICE


def test_a_name_that_is_routed_elsewhere_says_nothing_of_its_namesake() -> None:
    """The free local model that is called gpt-4o doesn't make OpenAI's free."""
    text = OPENAI + LOCAL + '[models.gpt-4o]\nprice = "free"\nroutes = [{ upstream = "gpu1", model = "llama" }]'
    assert ways(target(text, "gpt-4o")) == [Way("gpu1/llama", FREE, FREE, OWN)]
    assert ways(target(text, "openai/gpt-4o")) == [Way("openai/gpt-4o", None, GPT_4O, LIST)]


# ── what else a target says ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "model", "names"),
    [
        (OPENAI, "gpt-4o", ("gpt-4o", "openai/gpt-4o")),
        (OPENAI, "openai/gpt-4o", ("openai/gpt-4o",)),
        (RENAMED, "big", ("big", "openai/gpt-4o")),
        (
            OPENAI
            + LOCAL
            + '[models.f]\nroutes = [{ upstream = "gpu1" }, { upstream = "openai", model = "gpt-4o" }]\n'
            + DEAR,
            "f",
            ("f", "gpu1/f", "openai/gpt-4o"),
        ),
    ],
)
def test_a_target_says_every_name_that_it_goes_by(text: str, model: str, names: tuple[str, ...]) -> None:
    assert target(text, model).names == names


@pytest.mark.parametrize(
    ("text", "model", "max_output"),
    [
        (OPENAI, "gpt-4o", 16_384),
        ("defaults.max_output = 99" + OPENAI, "gpt-4o", 99),
        (OPENAI + "[models.gpt-4o]\nmax_output = 77", "gpt-4o", 77),
        (OPENAI + "[models.gpt-4o]\nmax_output = 77", "openai/gpt-4o", 77),
        (RENAMED + "max_output = 55", "gpt-4o", 55),
    ],
)
def test_the_output_bound_of_a_model(text: str, model: str, max_output: int) -> None:
    assert target(text, model).max_output == max_output


def test_the_context_window_is_the_lists() -> None:
    assert target(OPENAI, "gpt-4o").routes[0].context_window == 128_000
    assert target(LOCAL + CHEAP, "my-llama").routes[0].context_window is None


def test_a_window_that_the_price_goes_beyond_is_no_bound() -> None:
    """200,000 tokens, and a price from there on: a header of the client opens it to a million."""
    claude = '[upstreams.anthropic]\napi_key = "sk"\n'
    assert resolve(*setup(claude), "claude-sonnet-4-5", DAY, "anthropic").routes[0].context_window is None
    assert resolve(*setup(claude), "claude-opus-4-6", DAY, "anthropic").routes[0].context_window == 1_000_000


def test_routes_are_tried_in_the_order_of_their_weighted_draws() -> None:
    draws = iter((0.5, 0.5, 0.5, 0.9, 0.1))
    assert ordered([Chance(1), Chance(3), Chance(2)], lambda: next(draws)) == [1, 2, 0]
    assert ordered([Chance(1), Chance(1)], lambda: next(draws)) == [0, 1]
    assert ordered([], lambda: next(draws)) == []


ASKED, FIRST, SECOND = (Chance(1, rank) for rank in range(3))


def cooling(chance: Chance) -> Chance:
    return chance._replace(cools=True)


@pytest.mark.parametrize(
    ("chances", "order"),
    [
        ([SECOND, FIRST, ASKED], [2, 1, 0]),
        ([ASKED, Chance(2**31, 1)], [0, 1]),  # a fallback's weight counts among its like alone
        ([cooling(Chance(2**31)), ASKED], [1, 0]),
        ([cooling(ASKED), FIRST], [1, 0]),  # a fallback that works is asked before a route that doesn't
        ([cooling(ASKED), FIRST, cooling(FIRST), SECOND], [1, 3, 0, 2]),
        ([cooling(ASKED), cooling(FIRST)], [0, 1]),  # none is left out: not where all of them failed
        ([cooling(ASKED)], [0]),
    ],
)
def test_the_order_of_fallbacks_and_of_routes_that_failed_lately(chances: list[Chance], order: list[int]) -> None:
    assert ordered(chances, lambda: 0.5) == order


def test_fallbacks_are_models_of_their_own() -> None:
    text = (
        OPENAI
        + LOCAL
        + (
            '[models.f]\nroutes = [{ upstream = "gpu1", model = "x" }]\nprice = "free"\n'
            'fallbacks = ["m", "openai/o3"]\n'
            '[models.m]\nroutes = [{ upstream = "openai", model = "gpt-4o" }]\nmax_output = 7\nfallbacks = ["f"]\n'
        )
    )
    found = target(text, "f")
    assert found.names == ("f", "gpu1/x")  # not those of its fallbacks: who may use one may not use the other
    assert [fallback.names for fallback in found.fallbacks] == [("m", "openai/gpt-4o"), ("openai/o3",)]
    assert [fallback.fallbacks for fallback in found.fallbacks] == [(), ()]  # no circle
    assert found.fallbacks[0] == msgspec.structs.replace(target(text, "m"), fallbacks=())
    assert target(text, "gpu1/x").fallbacks == ()


def test_a_fallback_without_a_price_is_refused_by_its_name() -> None:
    text = OPENAI + LOCAL + '[models.f]\nroutes = [{ upstream = "openai", model = "o3" }]\nfallbacks = ["gpu1/unheard"]'
    with pytest.raises(Refusal, match=r"unheard"):
        target(text, "f")


def test_a_route_keeps_its_weight() -> None:
    text = (
        OPENAI + '[models.f]\nroutes = [{ upstream = "openai", model = "o3", weight = 9 }, { upstream = "openai" }]\n'
    )
    assert [route.weight for route in target(text + DEAR, "f").routes] == [9, 1]


def test_service_tiers_are_kept_where_the_list_is_the_cost() -> None:
    assert "priority" in target(OPENAI, "gpt-5").routes[0].tariff.service_tiers
    assert target(OPENAI + "cost = { input = 1 }", "gpt-5").routes[0].tariff.service_tiers == {}


# ── the listing ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_listing_has_what_can_be_asked_for_with_what_it_is_charged() -> None:
    text = (
        OPENAI
        + LOCAL
        + SANDBOX
        + (
            "[models.gpt-4o]\n"
            + DEAR
            + '[models.fast]\nroutes = [{ upstream = "openai", model = "gpt-4o-mini" }, { upstream = "gpu1" }]\n'
            + "price = { input = 0.25, output = 0.5, cached_input = 0.1 }\n"
            + '[models.gift]\nprice = "free"\nroutes = [{ upstream = "gpu1", model = "y" }]\n'
            + "[models.nowhere]\nmax_output = 5\n"
        )
    )
    lines = list(listing(*setup(text), DAY))
    by_name = {(line.model, line.upstream): line for line in lines}
    assert [line.model for line in lines[:4]] == ["gpt-4o", "fast", "fast", "gift"]
    assert by_name["gpt-4o", "openai"][2:6] == (10 * 10**9, 30 * 10**9, 10 * 10**9, False)
    assert by_name["fast", "gpu1"][2:6] == (250_000_000, 500_000_000, 100_000_000, False)
    assert by_name["gift", "gpu1"][2:6] == (0, 0, 0, True)
    assert by_name["gpt-4o-mini", "openai"][2:6] == by_name["fast", "openai"][2:6], "it is the same model"
    assert by_name["o3-mini", "openai"][2:5] == (1_100_000_000, 4_400_000_000, 550_000_000)
    assert {line.model for line in lines if line.upstream == "sandbox"} == {
        "sandbox/echo",
        "sandbox/slow",
        "sandbox/embed",
    }
    assert not [line for line in lines if line.model == "nowhere"], "what nobody could use is no offer"
    assert len(by_name) == len(lines)


def test_what_two_upstreams_have_is_listed_under_both() -> None:
    lines = [line for line in listing(*setup(OPENAI + AZURE), DAY) if line.model.endswith("o3-mini")]
    assert [(line.model, line.upstream) for line in lines] == [("o3-mini", "openai"), ("azure/o3-mini", "azure")]


def test_every_line_of_the_listing_can_be_asked_for() -> None:
    config, upstreams = setup(OPENAI + MISTRAL + AZURE)
    lines = list(listing(config, upstreams, DAY))
    assert len(lines) > 100
    for line in lines:
        found = resolve(config, upstreams, line.model, DAY)
        assert line.upstream in [route.upstream.name for route in found.routes]


# ── prices that were set ──────────────────────────────────────────────────────────────────────────────────────────────


def tariff(text: str, model: str, book: Book = NOTHING_SET, listed: Mapping[str, Price] | None = None) -> Tariff:
    config, upstreams = setup(text)
    config = msgspec.structs.replace(config, listed=listed or {})
    return resolve(config, upstreams, model, DAY, book=book).routes[0].tariff


SET = price_of({"input": 7, "output": 7})
PRICED = f"{OPENAI}\n[models.gpt-4o]\n{DEAR}"
ALIAS = f'{OPENAI}\n[models.fast]\nroutes = [{{ upstream = "openai", model = "gpt-4o" }}]\n'
ELSEWHERE = f'{OPENAI}{MISTRAL}[models.gpt-4o]\nroutes = [{{ upstream = "mistral", model = "mistral-large-latest" }}]\n'


@pytest.mark.parametrize(
    ("text", "model", "set_for", "charge"),
    [
        (OPENAI, "gpt-4o", ("", "gpt-4o"), SET),
        (OPENAI, "openai/gpt-4o", ("", "gpt-4o"), SET),
        (OPENAI, "openai/GPT-4o", ("", "gpt-4o"), SET),
        (OPENAI, "gpt-4o", ("openai", "gpt-4o"), SET),
        (OPENAI, "gpt-4o", ("azure", "gpt-4o"), None),
        (OPENAI, "gpt-4o-mini", ("", "gpt-4o"), None),
        (PRICED, "gpt-4o", ("", "gpt-4o"), SET),
        (PRICED, "openai/gpt-4o", ("", "GPT-4o"), SET),
        (PRICED, "gpt-4o", ("", "other"), DEAR_PRICE),
        (f"defaults.flat_rate = 20\n{OPENAI}", "gpt-4o", ("", "gpt-4o"), SET),
        (f"{OPENAI}{DEAR}", "gpt-4o", ("", "gpt-4o"), SET),
        # an alias has its own price; else that of what it routes to, however that is called
        (f"{ALIAS}{DEAR}", "fast", ("", "gpt-4o"), DEAR_PRICE),
        (f"{ALIAS}{DEAR}", "fast", ("", "fast"), SET),
        (f"{ALIAS}{DEAR}", "openai/gpt-4o", ("", "fast"), SET),
        (f"{ALIAS}{DEAR}", "openai/gpt-4o", ("", "gpt-4o"), SET),
        (ALIAS, "fast", ("", "gpt-4o"), SET),
        # a name that routes elsewhere is not the upstream's own name
        (ELSEWHERE, "openai/gpt-4o", ("", "gpt-4o"), None),
        # a snapshot of a model has its price, where the catalogue says that it is one, at the same price
        (OPENAI, "gpt-4o-2024-08-06", ("", "gpt-4o"), SET),
        (PRICED, "gpt-4o-2024-08-06", ("", "other"), DEAR_PRICE),
        (PRICED, "gpt-4o-2024-05-13", ("", "other"), None),
        (PRICED, "gpt-4o-mini-2024-07-18", ("", "other"), None),
        (PRICED, "gpt-4o-2024-08-06", ("", "gpt-4o-2024-08-06"), SET),
    ],
)  # fmt: skip
def test_who_says_the_charge(text: str, model: str, set_for: tuple[str, str], charge: Price | None) -> None:
    upstream, name = set_for
    book = Book(prices={(Kind.CHARGE, upstream, name.casefold()): SetPrice(SET, 0)})
    found = tariff(text, model, book)
    assert found.charge == charge
    assert found.source is CostSource.CATALOGUE
    assert found.cost != SET


def test_a_cost_that_was_set_goes_before_config_and_catalogue() -> None:
    book = Book(prices={(Kind.COST, "", "gpt-4o"): SetPrice(SET, 0)})
    for text in (OPENAI, f"{OPENAI}cost = {{ input = 1 }}\n", f"{PRICED}cost = {{ input = 1 }}\n"):
        found = tariff(text, "gpt-4o", book)
        assert (found.cost, found.source, found.service_tiers) == (SET, CostSource.CONFIG, {})
    assert tariff(PRICED, "gpt-4o", book).charge == DEAR_PRICE


def test_a_price_that_was_set_prices_what_nobody_knows() -> None:
    book = Book(prices={(Kind.CHARGE, "", "my-llama"): SetPrice(SET, 0)})
    found = tariff(LOCAL, "my-llama", book)
    assert (found.charge, found.cost, found.source) == (SET, SET, CostSource.CONFIG)
    assert tariff(LOCAL, "gpu1/my-llama", book).charge == SET
    free = Book(prices={(Kind.CHARGE, "", "my-llama"): SetPrice(FREE, 0)})
    assert tariff(LOCAL, "my-llama", free).charge == FREE


def test_prices_of_the_environment_hold_where_the_config_says_nothing() -> None:
    listed = {"gpt-4o": SET, "my-llama": SET}
    assert tariff(OPENAI, "gpt-4o", listed=listed).charge == SET
    assert tariff(OPENAI, "gpt-4o-2024-08-06", listed=listed).charge == SET
    assert tariff(f"defaults.flat_rate = 20\n{OPENAI}", "openai/GPT-4o", listed=listed).charge == SET
    assert tariff(PRICED, "gpt-4o", listed=listed).charge == DEAR_PRICE
    assert tariff(f"{OPENAI}{DEAR}", "gpt-4o", listed=listed).charge == DEAR_PRICE
    assert tariff(LOCAL, "my-llama", listed=listed).cost == SET


def test_a_flat_rate_prices_what_an_admin_has_named_or_runs() -> None:
    """It is the cost too, where nobody knows that. What is in no list and no entry may be a typo."""
    flat = price_of({"input": 20, "output": 20})
    for text, model in (
        (f"{LOCAL}\n[models.big]\nmax_output = 5", "big"),
        (f"{LOCAL}\n[models.big]\nmax_output = 5", "gpu1/big"),
        (f'{LOCAL}\n[models.big]\nroutes = [{{ upstream = "gpu1", model = "x" }}]', "gpu1/x"),
        (OLLAMA, "llama3.2"),
    ):
        found = tariff(f"defaults.flat_rate = 20\n{text}", model)
        assert (found.charge, found.cost, found.source) == (flat, flat, CostSource.CONFIG)
    for text in (LOCAL, OPENAI):
        with pytest.raises(Refusal) as error:
            tariff(f"defaults.flat_rate = 20\n{text}", "my-llama")
        assert error.value.code == "model_not_found"


def test_it_says_who_says_so() -> None:
    book = Book(prices={(Kind.CHARGE, "", "gpt-4o"): SetPrice(SET, 1_800_000_000_000)})
    found = tariff(OPENAI, "gpt-4o", book)
    assert found.charge_from == "set for gpt-4o since 2027-01-15T08:00:00.000Z"
    assert found.cost_from == "catalogue: openai gpt-4o"
    assert tariff(OPENAI, "gpt-4o").charge_from == "the cost (catalogue: openai gpt-4o)"
    assert tariff(PRICED, "gpt-4o").charge_from == "[models.gpt-4o] price"
    assert tariff(f"{OPENAI}{DEAR}", "gpt-4o").charge_from == "[upstreams.openai] price"
    assert tariff(f"defaults.flat_rate = 20\n{OPENAI}", "gpt-4o").charge_from == "[defaults] flat_rate"
    assert tariff(OPENAI, "gpt-4o", listed={"gpt-4o": SET}).charge_from == "$MODEL_PRICING_JSON"


def test_the_listing_has_what_was_set() -> None:
    book = Book(prices={(Kind.CHARGE, "", "gpt-4o"): SetPrice(SET, 0)})
    lines = {line.model: line for line in listing(*setup(OPENAI), DAY, book=book)}
    assert (lines["gpt-4o"].input, lines["gpt-4o"].output) == (SET.input, SET.output)
    assert lines["gpt-4o-mini"].input == 150_000_000
