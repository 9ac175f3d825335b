"""Pictures in the format `openai`: POST /v1/images/generations, /edits and /variations.

Some models bill tokens, others by the piece. Both are metered, and a price names the one or the other. No field bounds
the tokens of a picture: what it can come to at most follows from its quality and size.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import msgspec

from ..errors import Refusal
from ..money import ceil_div
from ..quoting import positive
from ..types import Ask, Meters, Usage
from . import body, form
from .body import Fields
from .endpoint import Endpoint
from .form import Form
from .heard import Heard, SseStream
from .openai import IMAGE_TOKENS, OPENAI, UNQUOTABLE, added_work, model_of, renamed, tags_of, text
from .openai_usage import INPUT, part, read_either
from .sse import Event
from .weight import utf8_len

PICTURES = ("image", "images", "mask", "markup")

KNOWN = frozenset(
    {"model", "prompt", "n", "stream", "partial_images", "frame_count", "size", "quality", "output_format", "svg"}
    | {"user", "safety_identifier", "metadata", *PICTURES, *UNQUOTABLE}
)


TOKENS = {"low": 2_000, "medium": 8_000, "high": 30_000, "auto": 30_000, "standard": 30_000, "hd": 30_000}
"""The most output tokens that a picture of up to `AREA` pixels comes to, by quality: five times what gpt-image-1 takes
at most (408, 1,584 and 6,240), for what later models make of it."""

FINEST = 60_000
"""Any other quality."""

LIKELY = 5
"""A picture likely comes to the fifth part of its bound."""

AREA = 1024 * 1536

LARGEST = 4096 * 4096
"""Of a size that isn't written in pixels (`4K`, `4096X4096`)."""

PARTIAL_TOKENS = 100
"""What each partial picture of a stream adds, as documented."""

SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")


def read_ask(fields: Fields, _: str | None = None) -> Ask:
    """What pictures are asked for, of words or of other pictures. Raises Refusal `invalid_request`."""
    count = _positive(fields, "n", 1)
    given = _pictures(fields)
    words = fields.text_bytes if isinstance(fields, Form) else utf8_len(text(fields, "prompt") or "")
    tokens = _tokens(fields)
    return Ask(
        model=model_of(fields),
        stream=form.flag(fields, "stream"),
        text_bytes=words,
        messages=1,
        media_tokens=given * IMAGE_TOKENS,
        max_output=tokens,
        min_output=tokens,  # nothing that could be sent would make it less
        choices=count,
        images=count,
        unquotable=added_work(fields) or _other_model(fields),
        tags=tags_of(fields),
    )


def _positive(fields: Fields, name: str, default: int) -> int:
    found = form.number(fields, name)
    return default if found is None else positive(found, name)


def _tokens(fields: Fields) -> int:
    """What one of the pictures comes to at most."""
    tokens = TOKENS.get(text(fields, "quality") or "auto", FINEST) * _positive(fields, "frame_count", 1)
    named = text(fields, "size") or "auto"
    if size := SIZE.fullmatch(named):
        tokens *= ceil_div(int(size[1]) * int(size[2]), AREA)
    elif named != "auto":
        tokens *= ceil_div(LARGEST, AREA)
    if form.number(fields, "partial_images"):
        tokens += PARTIAL_TOKENS * _positive(fields, "partial_images", 0)
    if tokens >= 2**31:
        raise Refusal("such pictures are larger than could ever be paid: ask for smaller or fewer ones", param="size")
    return tokens


def _pictures(fields: Fields) -> int:
    """How many pictures came along, or are pointed at."""
    if isinstance(fields, Form):
        return len(fields.files)
    found = [body.value(fields, name) for name in PICTURES]
    return sum(len(one) if isinstance(one, list) else one is not None for one in found)


def _other_model(fields: Fields) -> str | None:
    """A drawing in vectors is written by a model of its own, at a price of its own."""
    if body.value(fields, "svg") is not None:
        return "svg"
    return "output_format" if body.value(fields, "output_format") == "svg" else None


def refers_to(fields: Fields) -> tuple[str, ...]:
    """Files that the request makes the upstream read."""
    if isinstance(fields, Form):
        return ()
    given = [body.value(fields, name) for name in PICTURES]
    items = [item for one in given for item in (one if isinstance(one, list) else [one]) if isinstance(item, dict)]
    return tuple(dict.fromkeys(name for item in items if isinstance(name := item.get("file_id"), str)))


# ── what an answer says ───────────────────────────────────────────────────────────────────────────────────────────────


def read_usage(answer: dict[str, Any]) -> Usage | None:
    """The tokens of an answer; where they aren't divided, all that was written is picture. A drawing in vectors is
    metered at the price of this model, because the answer doesn't say that of the other one."""
    drawn, written = read_either(answer.get("usage")), read_either(answer.get("svg_usage"))
    if drawn is not None and not part(part(answer, "usage"), *INPUT.output_details):
        meters = drawn.meters
        pictures = msgspec.structs.replace(meters, output=0, audio_output=meters.audio_output + meters.output)
        drawn = msgspec.structs.replace(drawn, meters=pictures)
    return added(drawn, written) if drawn and written else drawn or written


def added(one: Usage, other: Usage) -> Usage:
    """Two usages of one request, together."""
    sums = {name: getattr(one.meters, name) + getattr(other.meters, name) for name in Meters.__struct_fields__}
    costs = [usage.cost_nano for usage in (one, other) if usage.cost_nano is not None]
    return msgspec.structs.replace(one, meters=Meters(**(sums | {"calls": 1})), cost_nano=sum(costs) if costs else None)


def hear(answer: bytes) -> Heard | None:
    """A whole answer, or None if it isn't JSON."""
    found = body.lenient(answer)
    if not isinstance(found, dict):
        return None
    heard = Heard(finished=True, failed=found.get("error") is not None)
    data = found.get("data")
    images = len(data) if isinstance(data, list) else 0
    usage = read_usage(found)
    if usage is not None:
        heard.take_usage(_with_images(usage, images))
    elif isinstance(data, list):  # an empty one says that nothing was drawn
        heard.take_usage(_pieces_only(images))
    return heard


def _with_images(usage: Usage, images: int) -> Usage:
    return msgspec.structs.replace(usage, meters=msgspec.structs.replace(usage.meters, images=images))


def _pieces_only(images: int) -> Usage:
    return Usage(meters=Meters(images=images, calls=1), input_missing=True, output_missing=True)


def used(ask: Ask, heard: Heard) -> Usage | None:
    """Tokens that nobody counted are estimated: a model that bills by the piece has none that cost anything.

    A stream that ended before a picture was done is charged as drawn: the upstream drew all along.
    """
    usage = heard.usage or _pieces_only(ask.images)
    if not usage.output_missing:
        return usage
    likely = ceil_div(ask.max_output or 0, LIKELY) * usage.meters.images
    return msgspec.structs.replace(usage, meters=msgspec.structs.replace(usage.meters, audio_output=likely))


def _hear_event(heard: Heard, event: Event) -> bool:
    """Each picture that is done has an event with its usage. Whether a later one counts the earlier pictures as well is
    documented nowhere: it does where it says more than another picture of their kind could add."""
    if event.data.startswith(b"[DONE]"):
        heard.done = heard.finished = True
        return True
    found = body.lenient(event.data)
    if not isinstance(found, dict):
        return True
    kind = found.get("type")
    if isinstance(kind, str) and kind.endswith(".completed"):
        heard.finished = True
        before = heard.usage
        images = before.meters.images if before is not None else 0
        usage = read_usage(found) or _pieces_only(0)
        if before is not None and images:
            output = before.meters.output_tokens
            if 2 * images * (usage.meters.output_tokens - output) <= output:
                usage = added(before, usage)
        heard.take_usage(_with_images(usage, images + 1))
    if kind == "error" or found.get("error") is not None:
        heard.failed = True
    return True


def stream(hide: bool) -> SseStream:
    return SseStream(_hear_event, hide=hide)


_read = partial(form.read_either, files=frozenset(PICTURES))

_endpoint = partial(
    Endpoint,
    dialect=OPENAI,
    known=KNOWN,
    read_ask=read_ask,
    prepare=lambda _fields, ask, terms: renamed(ask, terms),
    hear=hear,
    stream=stream,
    used=used,
    refers_to=refers_to,
)

IMAGES = _endpoint(name="images", path="/images/generations")
IMAGE_EDITS = _endpoint(name="image_edits", path="/images/edits", read=_read, write=form.write)
IMAGE_VARIATIONS = _endpoint(name="image_variations", path="/images/variations", read=_read, write=form.write)
