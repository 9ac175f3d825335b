"""Models that somebody knows, for a name that is perhaps a typo."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import typer

from .. import catalogue, routing
from ..config import known_upstreams
from ..errors import Refusal
from ..names import meant, quoted
from .context import book_of, config_of, today
from .suggest import nearest

GLOB = frozenset("*?[")


def resolved(ctx: typer.Context, model: str) -> routing.Target:
    """Where a model is served, and at what price. Raises Refusal, which names the nearest model for a typo."""
    config, book = config_of(ctx), book_of(ctx)
    try:
        return routing.resolve_any(config, known_upstreams(config), model, today(), book)
    except Refusal as refusal:
        if refusal.code != "model_not_found" or _listed(ctx, model):
            raise
        told = _typo(model, _models(ctx, model)) or f"{refusal.message}; `llmgate models` lists those known"
        raise Refusal(told, code=refusal.code) from refusal


def told_nearest(ctx: typer.Context, model: str, used: Iterable[str]) -> str | None:
    """What to say of a model of which nothing is found, if that may be because it is spelled wrongly: nobody used it,
    and nobody knows it.
    """
    found = {name: name for name in used}
    if GLOB.intersection(model) or model in found or _listed(ctx, model):
        return None
    known = _models(ctx, model)
    return None if model in known else _typo(model, found) or _typo(model, known)


def _typo(model: str, known: Mapping[str, str]) -> str | None:
    near = nearest(model, known)
    return (
        near and f"there is no model {quoted(model)}: {meant(near, [near], f'llmgate models --search {known[near]}')}"
    )


def _models(ctx: typer.Context, model: str) -> dict[str, str]:
    """All names that can be asked for, and what to search for to find each; `UPSTREAM/MODEL` where this one is."""
    config = config_of(ctx)
    lines = list(routing.listing(config, known_upstreams(config), today(), book=book_of(ctx)))
    first, slash, rest = model.partition("/")
    names = {line.model: line.model for line in lines} | dict(zip(config.routes, config.routes, strict=True))
    if not slash:
        return names
    if first not in config.upstreams:
        return names | {f"{line.upstream}/{line.model}": line.model for line in lines}
    # The upstream is right, so that only the rest is compared: else everything that it has would be near.
    near = nearest(rest, [line.model for line in lines if line.upstream == first])
    return {f"{first}/{near}": near} if near else {}


def _listed(ctx: typer.Context, model: str) -> bool:
    """Whether the price list of an upstream has it: then it isn't the name that is wrong."""
    upstreams = known_upstreams(config_of(ctx)).values()
    return any(catalogue.lists(model, upstream.catalogue) for upstream in upstreams if upstream.catalogue)
