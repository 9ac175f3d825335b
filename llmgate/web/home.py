"""`/`: what this is, where clients connect, and what to paste into them."""

from __future__ import annotations

from typing import NamedTuple

from ..store.db import Tx
from .visits import Shown, Visit

KEY = "sk-lg-…"
"""In place of a key, which nobody has typed here."""


class Snippet(NamedTuple):
    """Something to copy."""

    title: str
    text: str
    note: str = ""


def show(tx: Tx, visit: Visit) -> Shown:  # noqa: ARG001
    model = model_of(visit)
    return Shown(
        "home.html",
        {
            "url": visit.base_url,
            "model": model,
            "sdks": sdks(visit.base_url, model),
            "agents": agents(visit.base_url, model),
            "asks": visit.config.self_service.mode != "off",
        },
    )


def model_of(visit: Visit) -> str:
    """A model that there is, for snippets."""
    models = list(visit.config.models) or (["echo"] if list(visit.gateway.upstreams) == ["sandbox"] else [])
    return models[0] if models else "MODEL"


def sdks(url: str, model: str, key: str = KEY) -> list[Snippet]:
    """The three formats, each by its own SDK."""
    return [
        Snippet(
            "curl",
            f"""\
curl {url}/v1/chat/completions \\
  -H "Authorization: Bearer {key}" \\
  -H "Content-Type: application/json" \\
  -d '{{"model": "{model}",
  "messages": [{{"role": "user", "content": "Hello"}}]}}'""",
        ),
        Snippet(
            "OpenAI SDK (Python)",
            f"""\
from openai import OpenAI

client = OpenAI(
    base_url="{url}/v1",
    api_key="{key}",
)
answer = client.chat.completions.create(
    model="{model}",
    messages=[{{"role": "user", "content": "Hello"}}],
)
print(answer.choices[0].message.content)""",
        ),
        Snippet(
            "Anthropic SDK (Python)",
            f"""\
from anthropic import Anthropic

client = Anthropic(
    base_url="{url}",
    api_key="{key}",
)
answer = client.messages.create(
    model="{model}",
    max_tokens=1024,
    messages=[{{"role": "user", "content": "Hello"}}],
)
print(answer.content[0].text)""",
            "The base URL has no `/v1`. For models of an upstream that speaks Anthropic's format.",
        ),
        Snippet(
            "Google SDK (Python)",
            f"""\
from google import genai

client = genai.Client(
    api_key="{key}",
    http_options={{"base_url": "{url}"}},
)
answer = client.models.generate_content(
    model="{model}", contents="Hello"
)
print(answer.text)""",
            "The base URL has no version. For models of an upstream that speaks Gemini's format.",
        ),
        Snippet(
            "Whatever reads the environment",
            f"""\
export OPENAI_BASE_URL={url}/v1
export OPENAI_API_KEY={key}""",
        ),
    ]


def agents(url: str, model: str, key: str = KEY) -> list[Snippet]:
    """Coding agents, and how each is told where to ask."""
    return [
        Snippet(
            "Claude Code",
            f"""\
export ANTHROPIC_BASE_URL={url}
export ANTHROPIC_AUTH_TOKEN={key}
export ANTHROPIC_MODEL={model}
claude""",
            "For models in Anthropic's format.",
        ),
        Snippet(
            "Codex",
            f"""\
# ~/.codex/config.toml
model = "{model}"
model_provider = "llmgate"

[model_providers.llmgate]
name = "llmgate"
base_url = "{url}/v1"
env_key = "LLMGATE_KEY"
wire_api = "responses"

# export LLMGATE_KEY={key}""",
        ),
        Snippet(
            "aider",
            f"""\
export OPENAI_API_BASE={url}/v1
export OPENAI_API_KEY={key}
aider --model openai/{model}""",
        ),
        Snippet(
            "Cline",
            f"""\
API Provider   OpenAI Compatible
Base URL       {url}/v1
API Key        {key}
Model ID       {model}""",
            "In its settings.",
        ),
        Snippet(
            "Gemini CLI",
            f"""\
export GOOGLE_GEMINI_BASE_URL={url}
export GEMINI_API_KEY={key}
gemini --model {model}""",
            "For models in Gemini's format.",
        ),
    ]
