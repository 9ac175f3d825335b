"""Which path is which endpoint, and which dialect a client speaks who asks for anything else."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from itertools import pairwise
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

import httpx
import msgspec

from .. import metering, routing
from ..config import METHODS, PLAIN_PATH, Config, PathTable, Upstream, is_own, passed_to
from ..metering import Metering
from ..money import to_nano
from ..names import path_name
from ..routing import Target
from ..types import CostSource
from ..wire import anthropic, gemini, openai, passing
from ..wire.anthropic import ANTHROPIC
from ..wire.audio import TRANSCRIPTIONS, TRANSLATIONS
from ..wire.completions import COMPLETIONS
from ..wire.endpoint import Dialect, Endpoint
from ..wire.gemini import GEMINI
from ..wire.images import IMAGE_EDITS, IMAGE_VARIATIONS, IMAGES
from ..wire.moderations import MODERATIONS
from ..wire.openai import OPENAI
from ..wire.rerank import RERANK
from ..wire.responses import RESPONSES, RESPONSES_COMPACT, RESPONSES_INPUT_TOKENS
from ..wire.speech import SPEECH
from .exchange import Resolved
from .http import Scope, header

FORMATS = {"openai": OPENAI, "anthropic": ANTHROPIC, "gemini": GEMINI}

FIXED: dict[bytes, Endpoint] = {
    b"/v1" + endpoint.path.encode(): endpoint
    for endpoint in (
        *(openai.CHAT, COMPLETIONS, openai.EMBEDDINGS, RESPONSES, RESPONSES_COMPACT, RESPONSES_INPUT_TOKENS),
        *(IMAGES, IMAGE_EDITS, IMAGE_VARIATIONS, TRANSCRIPTIONS, TRANSLATIONS, SPEECH, MODERATIONS, RERANK),
        *(anthropic.MESSAGES, anthropic.COUNT_TOKENS),
    )
}
_OF_MODELS: dict[bytes, Endpoint] = {
    endpoint.path.partition(":")[2].encode(): endpoint
    for endpoint in (gemini.GENERATE, gemini.STREAM, gemini.EMBED, gemini.BATCH_EMBED, gemini.COUNT)
}
_GEMINI = re.compile(rb"/(v1(?:alpha|beta)?)/models/([^:]+(?::[^:]+)*):([A-Za-z]+)")

_RESPONSE = re.compile(rb"/v1/responses/([A-Za-z0-9_-]{1,200})(/cancel|/input_items)?")
_OF_RESPONSES = {b"": ("GET", "DELETE"), b"/cancel": ("POST",), b"/input_items": ("GET",)}
"""What may be done with a response that an upstream keeps. It was billed when it was made."""

FREE_METHODS = frozenset({"GET", "DELETE"})
"""What these ask for isn't billed, where a path is passed through."""

_COLLECTION = re.compile(rb"/v\d+[a-z]*/[A-Za-z_]+")
"""Where a POST makes something new (`/v1/files`, `/v1beta/cachedContents`). Deeper down an answer names what was there
before, and may be somebody else's."""

_PLAIN = re.compile(PLAIN_PATH)
_TWICE = re.compile(r"(/v1(?:alpha|beta)?)+/v1(?:alpha|beta)?/")
VERSIONS = ("/v1/", "/v1beta/", "/v1alpha/")
MOST_COMPARED = 100
"""Bytes of a path that is compared with those that there are."""

_VERSION = re.compile(r"/v\d+[a-z]*")


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """A path that the config adds, or all that begin so."""

    methods: tuple[str, ...]
    endpoint: Callable[[str], Endpoint]
    """A method → what it is there."""
    target: Callable[[bool], Target]
    """Where it goes; True: what is asked isn't billed."""
    name: str
    """What its requests are called in books and limits: its path."""
    transports: Mapping[str, httpx.AsyncBaseTransport]
    """Those of the config that has it."""
    resolved: dict[tuple[str, bool], Resolved] = msgspec.field(default_factory=dict)
    """By day, and whether it is free."""


class Asked(NamedTuple):
    """What a path asks for."""

    endpoint: Endpoint
    model: str | None = None
    """The model that the path names, if it does."""
    version: str = ""
    """Of Gemini's API, as the client has it."""
    way: Way | None = None
    kept: str | None = None
    """The id of what an upstream keeps: it goes where that lies."""
    touched: tuple[str, ...] = ()
    """What the path may be about, if it is the name of something that lies there."""


class Paths:
    """Every path that is walked: those of the formats, and those that a config adds."""

    def __init__(
        self, config: Config, upstreams: Mapping[str, Upstream], transports: Mapping[str, httpx.AsyncBaseTransport]
    ) -> None:
        ways = {
            pattern: _route(pattern, table, upstreams[table.upstream], transports)
            for pattern, table in config.routes.items()
        }
        for pattern in config.server.passthrough:
            name = passed_to(config, pattern)
            assert name is not None  # the config was checked
            ways[pattern] = _passthrough(pattern, config, upstreams[name], transports)
        self._exact = {pattern.encode(): way for pattern, way in ways.items() if not pattern.endswith("*")}
        below = [(pattern[:-1].encode(), way) for pattern, way in ways.items() if pattern.endswith("*")]
        self._below = sorted(below, key=lambda one: -len(one[0]))  # the narrowest that fits

    def asked_at(self, raw_path: bytes, method: str) -> Asked | None:
        """None: no upstream answers there, or not to this method."""
        fixed = _fixed(raw_path)
        if fixed is not None:
            return fixed if method == "POST" else None
        if kept := _RESPONSE.fullmatch(raw_path):
            if method not in _OF_RESPONSES[kept[2] or b""]:
                return None
            made = kept[1].decode()
            endpoint = passing.unmetered("responses", raw_path.removeprefix(b"/v1").decode(), OPENAI)
            return Asked(endpoint, model="/v1/responses", kept=made)
        found = self._way(raw_path)
        if found is None or method not in found[0].methods:
            return None
        way, rest = found
        endpoint = way.endpoint(method)
        if rest:
            endpoint = msgspec.structs.replace(endpoint, path=endpoint.path + rest)
        if method == "POST" and _COLLECTION.fullmatch(raw_path):
            endpoint = passing.making(endpoint)
        return Asked(endpoint, way.name, way=way, touched=_touched(rest and raw_path.decode("latin-1")))

    def methods(self, raw_path: bytes) -> tuple[str, ...]:
        """What may be asked there; empty: nothing."""
        if _fixed(raw_path) is not None:
            return ("POST",)
        if kept := _RESPONSE.fullmatch(raw_path):
            return _OF_RESPONSES[kept[2] or b""]
        found = self._way(raw_path)
        return found[0].methods if found else ()

    def hint(self, raw_path: bytes) -> str:
        """What may have been meant by a path at which there is nothing."""
        path = raw_path[:MOST_COMPARED].decode("latin-1")
        if twice := _TWICE.match(path):
            return f": the base URL has a version too many, {twice[1]}"
        if not path.startswith(VERSIONS):
            return ": the base URL ends in /v1"
        known = [one.decode() for one in (*FIXED, *self._exact, b"/v1/models", b"/user/balance", b"/user/limit")]
        near = get_close_matches(path, known, n=1, cutoff=0.8)
        return f": did you mean {near[0]}?" if near else ""

    def _way(self, raw_path: bytes) -> tuple[Way, str] | None:
        """The way of a path, and what follows its beginning.

        What lies below is taken only if everybody reads it alike, and never if it is a path of llmgate's own in other
        letters: some upstreams don't mind capitals, and there it would be answered unmetered.
        """
        exact = self._exact.get(raw_path)
        if exact is not None:
            return exact, ""
        for begin, way in self._below:
            if raw_path.startswith(begin):
                path = raw_path.decode("latin-1")
                return (way, path[len(begin) :]) if _PLAIN.fullmatch(path) and not is_own(path) else None
        return None


def _touched(path: str) -> tuple[str, ...]:
    """Every step of a path, and every two of them (`cachedContents/c1:method`), as names of what may lie there."""
    steps = [step.partition(":")[0] for step in path.split("/") if step]
    return (*steps, *(f"{one}/{two}" for one, two in pairwise(steps)))


def _fixed(raw_path: bytes) -> Asked | None:
    fixed = FIXED.get(raw_path)
    if fixed is not None:
        return Asked(fixed)
    match = _GEMINI.fullmatch(raw_path)
    endpoint = _OF_MODELS.get(match[3]) if match else None
    if match is None or endpoint is None:
        return None
    return Asked(endpoint, unquote_to_bytes(match[2]).decode("utf-8", "replace"), match[1].decode())


def _route(
    pattern: str, table: PathTable, upstream: Upstream, transports: Mapping[str, httpx.AsyncBaseTransport]
) -> Way:
    """A path of the admin's own."""
    name, path, dialect = path_name(pattern), _path_at(upstream, pattern, table.path), _dialect_at(pattern.encode())
    if table.unmetered:
        free = passing.unmetered("route", path, dialect)
        return _way(table.methods, lambda _: free, lambda _: routing.at(upstream, name, path), name, transports)
    assert table.price is not None
    cost = table.price if table.cost is None else table.cost
    counted = Metering(
        unit=table.unit,
        expression=metering.compiled(table.meter) if table.meter is not None else None,
        fallback=1 if table.fallback is None else table.fallback,
        most=table.most or 1,
        nano=max(to_nano(table.price), to_nano(cost)),
    )
    tariff = routing.Tariff(
        metering.price_of(table.unit, cost), CostSource.CONFIG, metering.price_of(table.unit, table.price), {}
    )
    endpoint = passing.metered(name, path, dialect, counted)
    target = routing.at(upstream, name, path, tariff)
    return _way(table.methods, lambda _: endpoint, lambda _: target, name, transports)


def _passthrough(
    pattern: str, config: Config, upstream: Upstream, transports: Mapping[str, httpx.AsyncBaseTransport]
) -> Way:
    """A path that is passed through to the upstream that speaks its format."""
    name, path, dialect = path_name(pattern), _path_at(upstream, pattern, None), _dialect_at(pattern.encode())
    free, billed = passing.unmetered("passthrough", path, dialect), passing.passed(path, dialect)
    known = routing.tariff_of(config, upstream)
    target = routing.at(upstream, name, path, known)
    if known is None:
        target = msgspec.structs.replace(target, unpriced=True)
    return _way(
        METHODS,
        lambda method: free if method in FREE_METHODS else billed,
        lambda unbilled: routing.at(upstream, name, path) if unbilled else target,
        name,
        transports,
    )


def _way(
    methods: tuple[str, ...],
    endpoint: Callable[[str], Endpoint],
    target: Callable[[bool], Target],
    name: str,
    transports: Mapping[str, httpx.AsyncBaseTransport],
) -> Way:
    return Way(methods=methods, endpoint=endpoint, target=target, name=name, transports=transports)


def _path_at(upstream: Upstream, pattern: str, path: str | None) -> str:
    """Where it is below the upstream's address. A version that the address ends in isn't sent twice."""
    if path is None:
        path = pattern
        version = _VERSION.match(path)
        if version and _VERSION.fullmatch("/" + (upstream.base_url or "v1").rpartition("/")[2]):
            path = path[version.end() :]
    return path.removesuffix("*")


def dialect_of(scope: Scope) -> Dialect:
    """The dialect of a client, by the path that it asks, or else by how it shows its key."""
    path: bytes = scope["raw_path"]
    fixed = _fixed(path)
    if fixed is not None:
        return fixed.endpoint.dialect
    if header(scope["headers"], b"x-goog-api-key") is not None:
        return GEMINI
    if header(scope["headers"], b"anthropic-version") is not None:
        return ANTHROPIC
    return _dialect_at(path)


def _dialect_at(path: bytes) -> Dialect:
    if path.startswith((b"/v1beta/", b"/v1alpha/")):
        return GEMINI
    return ANTHROPIC if path.startswith(b"/v1/messages") else OPENAI
