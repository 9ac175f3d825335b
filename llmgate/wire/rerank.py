"""Documents put in order by a query: POST /v1/rerank, as Cohere, Jina and the local servers have it.

Cohere bills searches of up to a hundred pieces of documents, the others tokens.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ..money import ceil_div
from ..types import Ask, Meters, Usage
from . import body
from .body import Fields
from .endpoint import Endpoint
from .heard import Heard
from .openai import OPENAI, UNQUOTABLE, added_work, model_of, renamed, stream, tags_of, weigh
from .openai_usage import counted, part, read_either
from .weight import unread_bytes

KNOWN = frozenset({"model", "query", "documents", "user", "metadata", *UNQUOTABLE})

PIECES_PER_SEARCH = 100
PIECE_BYTES = 250
"""Cohere cuts documents into pieces of 500 tokens with the query: half of them at least are the document's, and a token
is a byte or more. A long query leaves less, but then it is itself what is counted most."""


def read_ask(fields: Fields, _: str | None = None) -> Ask:
    """What is to be put in order: the model reads the query anew with each document. Raises Refusal."""
    query, documents = body.value(fields, "query"), body.value(fields, "documents")
    documents = documents if isinstance(documents, list) else [documents]
    asked, weight = weigh(query), weigh(documents)
    asked.text += unread_bytes(fields, KNOWN)  # an instruction, for one, stands beside the query each time
    pieces = len(documents) + ceil_div(weight.text + asked.text * len(documents), PIECE_BYTES)
    return Ask(
        model=model_of(fields),
        text_bytes=weight.text + asked.text * len(documents),
        messages=len(documents),
        inputs=len(documents),
        media_tokens=weight.media + asked.media * len(documents),
        hidden_input=weight.hidden or asked.hidden,
        output=False,
        searches=ceil_div(pieces, PIECES_PER_SEARCH),
        unquotable=added_work(fields),
        tags=tags_of(fields),
    )


def hear(answer: bytes) -> Heard | None:
    """A whole answer, or None if it isn't JSON."""
    found = body.lenient(answer)
    if not isinstance(found, dict):
        return None
    heard = Heard(finished=True, failed=found.get("error") is not None)
    if (usage := read_usage(found)) is not None:
        heard.take_usage(usage)
    return heard


def read_usage(answer: dict[str, Any]) -> Usage | None:
    """Searches, tokens or both. Where only tokens are counted it was one search, for a price that is by the search."""
    meta, usage = part(answer, "meta"), part(answer, "usage")
    units = [counted(place, "search_units") for place in (part(meta, "billed_units"), usage)]
    searches = next((found for found in units if found is not None), None)
    tokens = read_either(usage) or read_either(part(meta, "billed_units")) or read_either(part(meta, "tokens"))
    if tokens is None and searches is None:
        return None
    meters = tokens.meters if tokens is not None else Meters(calls=1)
    found = tokens or Usage(meters=meters)
    return msgspec.structs.replace(
        found,
        meters=msgspec.structs.replace(meters, searches=1 if searches is None else searches),
        output_missing=False,
    )


def used(_: Ask, heard: Heard) -> Usage:
    return heard.usage or Usage(meters=Meters(searches=1, calls=1), input_missing=True)


RERANK = Endpoint(
    name="rerank",
    dialect=OPENAI,
    path="/rerank",
    known=KNOWN,
    read_ask=read_ask,
    prepare=lambda _fields, ask, terms: renamed(ask, terms),
    hear=hear,
    stream=stream,
    used=used,
)
