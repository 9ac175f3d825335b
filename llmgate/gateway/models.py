"""`GET …/models`: what a key may use, as clients of each dialect know it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from .. import routing
from ..errors import Refusal
from ..money import usd
from ..names import MODEL
from ..routing import Listing
from ..store.keys import Caller
from .pipeline import Gateway
from .sandbox import CREATED

NOT_THERE = Refusal("there is no such model for this key", code="model_not_found", param="model")


class Offer:
    """What is offered in each dialect, made once a day, config and change of prices: catalogues are long."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._listed: dict[str, tuple[object, object, list[Listing]]] = {}

    async def answer(self, dialect: str, caller: Caller, name: str) -> dict[str, Any]:
        """What this key may use of the models that are served in a dialect, or one model of it. Raises Refusal."""
        gateway = self._gateway
        one, many = _SHAPES[dialect]
        allowed = self._allowed(caller)
        listed = [line for line in await self._lines(dialect) if allowed(_names(line))]
        if not name:
            return many([one(line) for line in listed])
        for line in listed:
            if line.model == name:
                return one(line)
        # A model may go by more names than it is listed under.
        if MODEL.fullmatch(name) and allowed((await gateway.resolve(name, dialect)).target.names):
            book = await gateway.book()
            return one(next(routing.lines(gateway.config, gateway.upstreams, name, gateway.today(), (dialect,), book)))
        raise NOT_THERE

    async def names(self, caller: Caller) -> list[str]:
        """The names alone of all that this key may use, in any format."""
        allowed = self._allowed(caller)
        lines = [line for dialect in _SHAPES for line in await self._lines(dialect) if allowed(_names(line))]
        return list(dict.fromkeys(line.model for line in lines))

    def _allowed(self, caller: Caller) -> Callable[[tuple[str, ...]], bool]:
        plan = self._gateway.policy.plans.get(caller.plan or "")
        return lambda names: caller.may_use(names) and (plan is None or plan.includes(names))

    async def _lines(self, dialect: str) -> list[Listing]:
        gateway, today, book = self._gateway, self._gateway.today(), await self._gateway.book()
        config, of = gateway.config, (today, book.version)
        kept = self._listed.get(dialect)
        if kept is None or kept[0] is not config or kept[1] != of:
            listing = partial(routing.listing, config, gateway.upstreams, today, (dialect,), book)
            lines = await asyncio.to_thread(lambda: list(listing()))
            first = {line.model: line for line in reversed(lines)}  # a model of several routes is one model
            kept = self._listed[dialect] = (config, of, list(reversed(first.values())))
        return kept[2]


def _names(line: Listing) -> tuple[str, ...]:
    return line.model, f"{line.upstream}/{line.model}"


def _pricing(line: Listing) -> dict[str, Any]:
    """What the account pays in USD per 1M tokens, and for each of another unit where there is one."""
    told = {"input_usd": line.input, "output_usd": line.output, "cached_input_usd": line.cached_input}
    each = {} if line.price is None else {"price_usd": usd(line.price), "per": line.per}
    return {**{name: None if nano is None else usd(nano) for name, nano in told.items()}, "free": line.free, **each}


def _openai(line: Listing) -> dict[str, Any]:
    owner = {"id": line.model, "object": "model", "created": CREATED, "owned_by": line.upstream}
    return {**owner, "pricing": _pricing(line)}


def _anthropic(line: Listing) -> dict[str, Any]:
    created = datetime.fromtimestamp(CREATED, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    about = {"type": "model", "id": line.model, "display_name": line.model, "created_at": created}
    return {**about, "pricing": _pricing(line)}


def _gemini(line: Listing) -> dict[str, Any]:
    methods = ["generateContent", "countTokens", "embedContent"]
    about = {"name": f"models/{line.model}", "displayName": line.model, "supportedGenerationMethods": methods}
    return {**about, "pricing": _pricing(line)}


def _pages(models: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One page has all."""
    ends = {"first_id": models[0]["id"], "last_id": models[-1]["id"]} if models else {"first_id": None, "last_id": None}
    return {"data": models, **ends, "has_more": False}


_SHAPES: dict[str, tuple[Callable[[Listing], dict[str, Any]], Callable[[Sequence[dict[str, Any]]], dict[str, Any]]]] = {
    "openai": (_openai, lambda models: {"object": "list", "data": models}),
    "anthropic": (_anthropic, _pages),
    "gemini": (_gemini, lambda models: {"models": models}),
}
"""Dialect → the shape of one model, and of all."""
