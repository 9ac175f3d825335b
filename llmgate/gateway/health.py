"""Which servers of one's own are ready: they are asked every few seconds, so that no request has to find it out.

A server that loads its model (llama.cpp says so: 503) or that isn't there is asked after all other routes, and comes
back with the first good word, not when its cooldown is over. Only those are asked that have a health path, and whose
models have another way to go.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import Protocol

import httpx

from ..config import Config, Upstream
from . import upstream as up

log = logging.getLogger("llmgate.upstream")

EVERY_S = 5.0

PATIENCE_S = 3.0
"""A server that doesn't answer such a small question within this is not ready."""


class Routes(Protocol):
    """Who wants to know it."""

    def note_ready(self, upstream: str, ready: bool) -> None: ...


async def watch(
    config: Config,
    upstreams: Mapping[str, Upstream],
    transports: Mapping[str, httpx.AsyncBaseTransport],
    routes: Routes,
) -> None:
    """Ask until it is cancelled. What changes is logged once."""
    ready = dict.fromkeys(_watched(config, upstreams.values()), True)
    while ready:
        answers = await asyncio.gather(*(is_ready(upstreams[name], transports[name]) for name in ready))
        for name, now in zip(list(ready), answers, strict=True):
            if now != ready[name]:
                ready[name] = now
                routes.note_ready(name, now)
                log.warning("upstream %s is %s", name, "ready again" if now else "not ready: it is asked last")
        await asyncio.sleep(EVERY_S)


def _watched(config: Config, upstreams: Iterable[Upstream]) -> list[str]:
    tables = [table for table in config.models.values() if len(table.routes) > 1 or table.fallbacks]
    routed = {route.upstream for table in tables for route in table.routes}
    return [upstream.name for upstream in upstreams if upstream.health and upstream.name in routed]


async def is_ready(upstream: Upstream, transport: httpx.AsyncBaseTransport) -> bool:
    """A server that has no such path (404) is taken for ready: it is there, and says nothing of itself."""
    headers = up.request_headers((), upstream, upstream.secret)
    request = httpx.Request("GET", up.health_url(upstream), headers=headers)
    try:
        async with asyncio.timeout(PATIENCE_S):
            response = await transport.handle_async_request(request)
            await response.aread()
            await response.aclose()
    except (TimeoutError, httpx.TransportError):
        return False
    return response.status_code < 500
