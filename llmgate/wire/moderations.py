"""The format `openai` at POST /v1/moderations: free, and without usage."""

from __future__ import annotations

from ..types import Ask, Meters, Usage
from . import body
from .body import Fields
from .endpoint import Endpoint
from .heard import Heard
from .openai import OPENAI, model_of, renamed, stream, weigh

DEFAULT_MODEL = "omni-moderation-latest"
"""What the API itself takes where the request names none."""


def read_ask(fields: Fields, _: str | None = None) -> Ask:
    """What is to be judged. Raises Refusal `invalid_request`."""
    weight = weigh(body.value(fields, "input"))
    return Ask(model=model_of(fields, DEFAULT_MODEL), text_bytes=weight.text, media_tokens=weight.media, output=False)


def hear(answer: bytes) -> Heard | None:
    """A whole answer, or None if it isn't JSON. It has no usage, and nothing is to be estimated."""
    found = body.lenient(answer)
    if not isinstance(found, dict):
        return None
    return Heard(usage=Usage(meters=Meters(calls=1)), finished=True, failed=found.get("error") is not None)


MODERATIONS = Endpoint(
    name="moderations",
    dialect=OPENAI,
    path="/moderations",
    known=frozenset({"model", "input"}),
    read_ask=read_ask,
    prepare=lambda _fields, ask, terms: renamed(ask, terms),
    hear=hear,
    stream=stream,
    free=True,
)
