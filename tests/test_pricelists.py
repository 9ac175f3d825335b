"""Price lists of others: read exactly, or refused with the name of what is wrong."""

from __future__ import annotations

import csv
import io
import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgate.errors import UsageError
from llmgate.money import NANO
from llmgate.pricelists import read
from llmgate.pricing import CONFIG_KEYS, FREE, TOKENS, UNITS, Price, Tier, price_of, said

MICRO = NANO // 1_000_000


def only(text: str, form: str = "auto") -> Price:
    (price,) = read(text, form).prices.values()
    return price


@pytest.mark.parametrize(
    "entry",
    [
        {"prompt": 0.0025, "completion": 0.01},
        {"input": 0.0025, "output": 0.01},
        {"prompt_per_1k": 0.0025, "completion_per_1k": 0.01},
        {"input_cost_per_1k_tokens": "0.0025", "output_price_per_1k": "1e-2"},
        {"input_price": 0.0025, "output_cost": 0.01},
        {"usd_prompt_1k": 0.0025, "usd_completion_1k": 0.01},
    ],
)
def test_usd_per_1000_tokens_in_many_words(entry: object) -> None:
    found = read(json.dumps({"gpt-4o": entry}))
    assert found == ("per-1k", {("", "gpt-4o"): price_of({"input": Decimal("2.5"), "output": 10})}, {})


def test_one_number_is_for_both_and_free_is_free() -> None:
    found = read(
        '{"a": 0.02, "b": "free", "c": {"input": 0, "output": 0}, "d": {"input": 1, "per_image": 0.04}}'
    ).prices
    assert found["", "a"] == Price(input=20 * NANO, output=20 * NANO), "$20 per 1M"
    assert found["", "b"] == found["", "c"] == FREE
    assert found["", "d"] == Price(input=1000 * NANO, images=40 * MICRO * 1000 * UNITS)


def test_what_has_no_meaning_here_is_told_and_never_guessed_at() -> None:
    found = read('{"a": {"input": 1, "note": "x", "context": 5}, "b": {"input": 2, "note": "y"}, "a b": 3}')
    assert found.ignored == {"note": 2, "context": 1, "the name 'a b'": 1}
    assert set(found.prices) == {("", "a"), ("", "b")}


LITELLM = {
    "sample_spec": {"input_cost_per_token": "explained here"},
    "claude": {
        "litellm_provider": "anthropic",
        "mode": "chat",
        "input_cost_per_token": 3e-06,
        "output_cost_per_token": 1.5e-05,
        "cache_read_input_token_cost": 3e-07,
        "cache_creation_input_token_cost": 3.75e-06,
        "cache_creation_input_token_cost_above_1hr": 6e-06,
        "input_cost_per_token_above_200k_tokens": 6e-06,
        "output_cost_per_token_above_200k_tokens": 2.25e-05,
        "input_cost_per_token_batches": 1.5e-06,
        "search_context_cost_per_query": {"search_context_size_low": 0.01, "search_context_size_high": 0.03},
        "max_input_tokens": 200000,
        "supports_vision": True,
    },
    "whisper": {"input_cost_per_second": 0.0001, "output_cost_per_second": 0},
    "dall-e": {"output_cost_per_image": 0.04},
    "noisy": {"input_cost_per_token": 8.333333333333334e-08},
    "unknown": {"input_cost_per_token": 0, "output_cost_per_token": 0.0},
}


def test_litellms_map() -> None:
    form, found, ignored = read(json.dumps(LITELLM))
    base: dict[str, Decimal | int] = {
        "input": 3,
        "cached_input": Decimal("0.3"),
        "cache_write": Decimal("3.75"),
        "cache_write_1h": 6,
    }
    claude = price_of({**base, "output": 15, "per_search": Decimal("0.03")})
    above = price_of({**base, "input": 6, "output": Decimal("22.5"), "per_search": Decimal("0.03")})
    assert form == "litellm"
    assert found["", "claude"].tiers == (Tier(above=200_000, price=above),)
    assert said(claude).items() <= said(found["", "claude"]).items()
    assert said(found["", "claude"])["output above 200000"] == "22.5"
    assert found["", "whisper"] == price_of({"per_second": Decimal("0.0001")})
    assert found["", "dall-e"] == price_of({"per_image": Decimal("0.04")})
    assert found["", "noisy"].input == 83_333_334, "binary noise is rounded up"
    assert ignored == {"input_cost_per_token_batches": 1, "a price of nothing": 1}


def test_a_tier_keeps_what_it_does_not_name() -> None:
    entry = {
        "input_cost_per_token": 1e-6,
        "output_cost_per_token": 2e-6,
        "input_cost_per_token_above_128k_tokens": 3e-6,
    }
    (tier,) = only(json.dumps({"m": entry})).tiers
    assert tier == Tier(above=128_000, price=Price(input=3 * NANO, output=2 * NANO))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "header"),
        ("{", "no JSON"),
        ("[]", "must be a JSON object"),
        ("[" * 100_000, "no JSON"),
        ("{}", "no price in it"),
        ('{"a": {"note": 1}}', "not understood: note"),
        ('{"a": 1, "a": 2}', "'a' stands there twice"),
        ('{"a": {"input": 1, "input": 2}}', "'input' stands there twice"),
        ('{"a": {"input": 1, "prompt": 2}}', "a: prompt says input a second time"),
        ('{"gpt": 1, "GPT": 2}', "'gpt' and 'GPT' are one model"),
        ('{"a": {"input": 1, "outputt": 2}}', "a: 'outputt' is no price key: did you mean output?"),
        ('{"a": {"input": -1}}', "a: input is negative"),
        ('{"a": {"input": true}}', "a: input is not a number"),
        ('{"a": {"input": NaN}}', "a: input is not a number"),
        ('{"a": {"input": "x"}}', "a: input is not a number"),
        ('{"a": {"input": 1e-13}}', "finer than"),
        ('{"a": {"input": 1e30}}', "too large"),
        ('{"a": {"input_cost_per_token": 1e30}}', "too large"),
        ('{"a": "dear"}', "a: write"),
        ("model,price\na,1", "'price' is no price key"),
        ("model,input,input\na,1,2", "'input' stands in the header twice"),
        ("name,input\na,1", "header"),
        ("model,input\na,1,2", "line 2: there are more cells"),
        ("model,input\n,1", "line 2: no model"),
        ("model,input\na,1\na,1", "line 3: 'a' stands there twice"),
        ("model,input\na,-1", "line 2, a: -1 is negative"),
        ("model,input\na,dear", "line 2, a: 'dear' is not a number"),
        ('model,input\n"a', "no CSV"),
        ("model,input\na,", "no price in it"),
    ],
)
def test_what_is_refused(text: str, told: str) -> None:
    with pytest.raises(UsageError) as error:
        read(text)
    assert told in error.value.message


def test_a_format_that_there_is_not() -> None:
    with pytest.raises(UsageError, match="known are auto, per-1k, litellm, csv"):
        read("{}", "yaml")


# ── there and back ────────────────────────────────────────────────────────────────────────────────────────────────────

MODELS = st.from_regex(r"[a-z0-9][a-z0-9._:@/-]{0,20}", fullmatch=True).filter(
    lambda name: ".." not in name and name != "sample_spec"
)
USD = st.integers(0, 10**15).map(lambda nano: Decimal(nano).scaleb(-9))
TABLES = st.dictionaries(MODELS, st.dictionaries(st.sampled_from(list(CONFIG_KEYS)), USD, min_size=1), min_size=1)


@given(TABLES)
def test_csv_there_and_back(tables: dict[str, dict[str, Decimal]]) -> None:
    out = io.StringIO()
    writer = csv.DictWriter(out, ["model", *CONFIG_KEYS])
    writer.writeheader()
    writer.writerows({"model": model, **table} for model, table in tables.items())
    assert read(out.getvalue()).prices == {("", model): price_of(table) for model, table in tables.items()}


@given(TABLES)
def test_per_1000_there_and_back(tables: dict[str, dict[str, Decimal]]) -> None:
    """To the nano-USD: prices go as decimals, and come back as the same ones."""
    per_1k = {
        model: {key: str(usd / 1000 if key in TOKENS else usd) for key, usd in table.items()}
        for model, table in tables.items()
    }
    assert read(json.dumps(per_1k), "per-1k").prices == {
        ("", model): price_of(table) for model, table in tables.items()
    }


RATES = st.integers(1, 10**12)


@given(st.dictionaries(MODELS, st.tuples(RATES, RATES, st.integers(1, 999), RATES), min_size=1))
def test_litellm_there_and_back(tables: dict[str, tuple[int, int, int, int]]) -> None:
    def per_token(rate: int) -> str:
        return f"{Decimal(rate).scaleb(-15):f}"

    entries = {
        model: f'{{"input_cost_per_token": {per_token(into)}, "output_cost_per_token": {per_token(out)}, '
        f'"input_cost_per_token_above_{above}k_tokens": {per_token(dearer)}}}'
        for model, (into, out, above, dearer) in tables.items()
    }
    text = "{" + ", ".join(f"{json.dumps(model)}: {entry}" for model, entry in entries.items()) + "}"
    assert read(text).prices == {
        ("", model): Price(
            input=into, output=out, tiers=(Tier(above=above * 1000, price=Price(input=dearer, output=out)),)
        )
        for model, (into, out, above, dearer) in tables.items()
    }


@given(st.dictionaries(st.sampled_from(list(CONFIG_KEYS)), USD, min_size=1))
def test_a_price_is_said_as_it_was_written(table: dict[str, Decimal]) -> None:
    assert {key: Decimal(text) for key, text in said(price_of(table)).items()} == table
