"""What is known of upstreams that have a name: where they are, how they are asked, what they obey. Data only.

The fields that decide about money err to its safe side: an output bound is written where that upstream is known to
obey it, and what is asked for several times is counted by every field that may multiply it.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Literal

import msgspec

Format = Literal["openai", "anthropic", "gemini"]
OnDisconnect = Literal["cancel", "drain"]

MAX_COMPLETION = "max_completion_tokens"
MAX_TOKENS = "max_tokens"


class Preset(msgspec.Struct, frozen=True, kw_only=True):
    """One known upstream."""

    name: str
    formats: tuple[Format, ...] = ("openai",)
    """The dialects that it speaks, under the same base URL."""
    base_url: str | None = None
    """None: nobody but the admin knows it."""
    auth: str = "bearer"
    """`bearer`, `header:NAME`, `query:NAME`, or `none`, which becomes `bearer` as soon as a secret is given."""
    secret_env: tuple[str, ...] = ()
    """The variables that hold its secret, as its own SDK reads them."""
    base_url_env: str | None = None
    base_url_tail: str = ""
    """What its own SDK adds to the value of `base_url_env` before the path of a call."""
    api_version_env: str | None = None
    query: Mapping[str, str] = MappingProxyType({})
    catalogue: str | None = None
    """Its provider id in the price catalogue. None: the admin must say the price."""
    cost: Mapping[str, Decimal] | None = None
    """What it bills where no catalogue says so, in the keys of a price table."""
    cost_reported: bool = False
    """Whether the cost that it reports itself can be trusted."""
    ask_usage: bool = True
    """Whether a stream must be asked for its usage, and may be."""
    on_disconnect: OnDisconnect = "cancel"
    """Whether closing the connection stops the billing (cancel) or not (drain: read on, to know what is billed)."""
    output_fields: tuple[str, ...] = (MAX_COMPLETION, MAX_TOKENS)
    """The fields of a chat request that bound the output, in the order that this upstream obeys them; it doesn't know
    or doesn't obey any other. (`/completions` has `max_tokens` and `/responses` `max_output_tokens` everywhere.)"""
    output_write: str = MAX_TOKENS
    """The one to write where the request has none of them."""
    health: str | None = None
    """Where a server of one's own says whether it is ready, below the address without its version."""
    deployments: bool = False
    """Whether paths in `DEPLOYMENT_PATHS` carry the model: `/deployments/{model}/chat/completions`."""


DEPLOYMENT_PATHS = frozenset(
    {
        "/chat/completions",
        "/completions",
        "/embeddings",
        "/audio/transcriptions",
        "/audio/translations",
        "/audio/speech",
        "/images/generations",
        "/images/edits",
    }
)
"""Azure's older API has a deployment in these paths only; its v1 API (`…/openai/v1`) has none."""

OPENAI_AND_ANTHROPIC: tuple[Format, ...] = ("openai", "anthropic")

_SANDBOX_COST = MappingProxyType({"input": Decimal(1), "output": Decimal(2)})

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        preset.name: preset
        for preset in (
            Preset(
                name="openai",
                base_url="https://api.openai.com/v1",
                secret_env=("OPENAI_API_KEY",),
                base_url_env="OPENAI_BASE_URL",
                catalogue="openai",
                output_write=MAX_COMPLETION,  # reasoning models refuse max_tokens, and both at once are refused
            ),
            Preset(
                name="azure",
                auth="header:api-key",
                secret_env=("AZURE_OPENAI_API_KEY",),
                base_url_env="AZURE_OPENAI_ENDPOINT",
                base_url_tail="/openai",
                api_version_env="OPENAI_API_VERSION",
                catalogue="azure",
                output_write=MAX_COMPLETION,
                deployments=True,
            ),
            Preset(
                name="anthropic",
                formats=("anthropic",),
                base_url="https://api.anthropic.com/v1",
                auth="header:x-api-key",
                secret_env=("ANTHROPIC_API_KEY",),
                base_url_env="ANTHROPIC_BASE_URL",
                catalogue="anthropic",
            ),
            Preset(
                name="gemini",
                formats=("gemini",),
                base_url="https://generativelanguage.googleapis.com",
                auth="header:x-goog-api-key",
                secret_env=("GEMINI_API_KEY", "GOOGLE_API_KEY"),
                base_url_env="GOOGLE_GEMINI_BASE_URL",
                catalogue="google",
                on_disconnect="drain",
            ),
            Preset(
                name="openrouter",
                formats=OPENAI_AND_ANTHROPIC,
                base_url="https://openrouter.ai/api/v1",
                secret_env=("OPENROUTER_API_KEY",),
                catalogue="openrouter",
                cost_reported=True,
                ask_usage=False,  # every stream ends with it; asking is a deprecated no-op
                on_disconnect="drain",  # who serves decides whether a cancelled stream is billed
                output_write=MAX_TOKENS,  # the one of the two that every provider behind it takes
            ),
            Preset(
                name="groq",
                base_url="https://api.groq.com/openai/v1",
                secret_env=("GROQ_API_KEY",),
                base_url_env="GROQ_BASE_URL",
                base_url_tail="/openai/v1",
                catalogue="groq",
                on_disconnect="drain",
                output_write=MAX_COMPLETION,
            ),
            Preset(
                name="mistral",
                base_url="https://api.mistral.ai/v1",
                secret_env=("MISTRAL_API_KEY",),
                catalogue="mistral",
                ask_usage=False,  # refuses stream_options with a 422, and sends its usage without being asked
                on_disconnect="drain",
                output_fields=(MAX_TOKENS,),  # refuses max_completion_tokens
            ),
            Preset(
                name="deepseek",
                base_url="https://api.deepseek.com/v1",
                secret_env=("DEEPSEEK_API_KEY",),
                catalogue="deepseek",
                output_fields=(MAX_TOKENS,),
            ),
            Preset(
                name="together",
                base_url="https://api.together.ai/v1",
                secret_env=("TOGETHER_API_KEY",),
                base_url_env="TOGETHER_BASE_URL",
                base_url_tail="/v1",
                catalogue="together",
                output_fields=(MAX_TOKENS,),
            ),
            Preset(
                name="fireworks",
                base_url="https://api.fireworks.ai/inference/v1",
                secret_env=("FIREWORKS_API_KEY",),
                base_url_env="FIREWORKS_BASE_URL",
                base_url_tail="/v1",
                catalogue="fireworks",
            ),
            Preset(
                name="xai",
                base_url="https://api.x.ai/v1",
                secret_env=("XAI_API_KEY",),
                catalogue="x-ai",
                output_write=MAX_COMPLETION,
            ),
            Preset(
                name="llamacpp",  # no base_url: its default port is 9931, and was 8080
                formats=OPENAI_AND_ANTHROPIC,
                auth="none",
                output_fields=("n_predict", MAX_COMPLETION, MAX_TOKENS),
                health="/health",  # 503 while it loads its model
            ),
            Preset(
                name="ollama",
                formats=OPENAI_AND_ANTHROPIC,
                base_url="http://127.0.0.1:11434/v1",
                auth="none",
                output_fields=(MAX_TOKENS,),  # takes max_completion_tokens and n, and ignores them
                health="/api/version",
            ),
            Preset(
                name="vllm",  # no base_url: its default port is llmgate's own
                formats=OPENAI_AND_ANTHROPIC,
                auth="none",
                health="/health",  # it listens only once its model is loaded
            ),
            Preset(name="sandbox", formats=OPENAI_AND_ANTHROPIC, auth="none", cost=_SANDBOX_COST),
        )
    }
)

UNKNOWN = Preset(
    name="",
    auth="none",
    output_fields=("n_predict", MAX_COMPLETION, MAX_TOKENS),
)
"""What is assumed of an upstream without a preset: a server of one's own that obeys whatever any of them does."""
