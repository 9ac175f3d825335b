"""Which path is which endpoint, and which dialect a client speaks who asks for anything else."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from ..wire import anthropic, gemini, openai
from ..wire.anthropic import ANTHROPIC
from ..wire.audio import TRANSCRIPTIONS, TRANSLATIONS
from ..wire.completions import COMPLETIONS
from ..wire.endpoint import Dialect, Endpoint
from ..wire.gemini import GEMINI
from ..wire.images import IMAGE_EDITS, IMAGE_VARIATIONS, IMAGES
from ..wire.moderations import MODERATIONS
from ..wire.openai import OPENAI
from ..wire.rerank import RERANK
from ..wire.responses import RESPONSES, RESPONSES_INPUT_TOKENS
from ..wire.speech import SPEECH
from .http import Scope, header

FORMATS = {"openai": OPENAI, "anthropic": ANTHROPIC, "gemini": GEMINI}

_FIXED: dict[bytes, Endpoint] = {
    b"/v1" + endpoint.path.encode(): endpoint
    for endpoint in (
        *(openai.CHAT, COMPLETIONS, openai.EMBEDDINGS, RESPONSES, RESPONSES_INPUT_TOKENS),
        *(IMAGES, IMAGE_EDITS, IMAGE_VARIATIONS, TRANSCRIPTIONS, TRANSLATIONS, SPEECH, MODERATIONS, RERANK),
        *(anthropic.MESSAGES, anthropic.COUNT_TOKENS),
    )
}
_OF_MODELS: dict[bytes, Endpoint] = {
    endpoint.path.partition(":")[2].encode(): endpoint
    for endpoint in (gemini.GENERATE, gemini.STREAM, gemini.EMBED, gemini.BATCH_EMBED, gemini.COUNT)
}
_GEMINI = re.compile(rb"/(v1(?:alpha|beta)?)/models/([^:]+(?::[^:]+)*):([A-Za-z]+)")


class Asked(NamedTuple):
    """What a path asks for."""

    endpoint: Endpoint
    model: str | None = None
    """The model that the path names, if it does."""
    version: str = ""
    """Of Gemini's API, as the client has it."""


def asked_at(raw_path: bytes) -> Asked | None:
    """None: no upstream answers there."""
    fixed = _FIXED.get(raw_path)
    if fixed is not None:
        return Asked(fixed)
    match = _GEMINI.fullmatch(raw_path)
    endpoint = _OF_MODELS.get(match[3]) if match else None
    if match is None or endpoint is None:
        return None
    return Asked(endpoint, unquote_to_bytes(match[2]).decode("utf-8", "replace"), match[1].decode())


def dialect_of(scope: Scope) -> Dialect:
    """The dialect of a client, by the path that it asks, or else by how it shows its key."""
    path: bytes = scope["raw_path"]
    asked = asked_at(path)
    if asked is not None:
        return asked.endpoint.dialect
    if path.startswith((b"/v1beta/", b"/v1alpha/")) or header(scope["headers"], b"x-goog-api-key") is not None:
        return GEMINI
    if path.startswith(b"/v1/messages") or header(scope["headers"], b"anthropic-version") is not None:
        return ANTHROPIC
    return OPENAI
