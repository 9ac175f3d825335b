from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from genai_prices.data import providers

from llmgate.presets import PRESETS, UNKNOWN, Preset

EACH = pytest.mark.parametrize("preset", [*PRESETS.values(), UNKNOWN], ids=lambda preset: preset.name or "unknown")


@EACH
def test_a_preset_agrees_with_itself(preset: Preset) -> None:
    assert preset.output_write in preset.output_fields
    versioned = preset.base_url is None or bool(urlsplit(preset.base_url).path.strip("/"))
    assert versioned == (preset.formats != ("gemini",))
    assert bool(preset.secret_env) == (preset.auth != "none" and preset is not UNKNOWN)
    assert not preset.base_url_tail or preset.base_url_env
    assert PRESETS.get(preset.name, UNKNOWN) is preset


@EACH
def test_the_catalogue_knows_it(preset: Preset) -> None:
    assert preset.catalogue is None or preset.catalogue in {provider.id for provider in providers}
    assert (preset.catalogue is None) == (preset.auth == "none" or preset is UNKNOWN)


def test_the_names_of_the_contract() -> None:
    assert " ".join(PRESETS) == (
        "openai azure anthropic gemini openrouter groq mistral deepseek together fireworks xai "
        "llamacpp ollama vllm sandbox"
    )


def test_billing_stops_where_it_is_known_to_stop() -> None:
    assert {name for name, preset in PRESETS.items() if preset.on_disconnect == "drain"} == {
        "gemini",
        "groq",
        "mistral",
        "openrouter",
    }
    assert [name for name, preset in PRESETS.items() if preset.cost_reported] == ["openrouter"]


@pytest.mark.parametrize(
    ("name", "fields", "written"),
    [
        ("openai", ("max_completion_tokens", "max_tokens"), "max_completion_tokens"),
        ("llamacpp", ("n_predict", "max_completion_tokens", "max_tokens"), "max_tokens"),
        ("ollama", ("max_tokens",), "max_tokens"),
        ("mistral", ("max_tokens",), "max_tokens"),
        ("vllm", ("max_completion_tokens", "max_tokens"), "max_tokens"),
    ],
)
def test_what_bounds_the_output(name: str, fields: tuple[str, ...], written: str) -> None:
    preset = PRESETS[name]
    assert (preset.output_fields, preset.output_write) == (fields, written)
