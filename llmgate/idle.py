"""Connections over which nothing is asked, as hypercorn ends them, at less cost.

hypercorn itself starts two tasks after each request, which wait for the time to be over, and cancels them before the
next: a sixth of what a request costs. And where the client closes a connection they aren't cancelled: what is left of
it stays until that time is over. Here it is a timer, and one task for all connections that waits for the server to end.
`AsyncioSingleTask`, `_initiate_server_close` and `context` are not public: 0.17 and 0.18 have them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from hypercorn.asyncio import tcp_server


class Idle:
    """When to end one connection. It has the methods of the `AsyncioSingleTask` whose place it takes."""

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: set[Idle] | None = None
        self._connection: Any = None
        self._ending: asyncio.Task[None] | None = None
        """Kept here, because asyncio itself doesn't keep a task alive."""

    async def restart(self, _group: object, action: Callable[[], Any]) -> None:
        """Nothing is asked from now on. `action` is a method of the connection."""
        connection = self._connection = action.__self__  # type: ignore[attr-defined]
        context = connection.context
        if self._waiting is None:
            self._waiting = _waiting_for_the_end_of(context)
        self._waiting.add(self)
        after_s = 0 if context.terminated.is_set() else connection.config.keep_alive_timeout
        self._timer = connection.loop.call_later(after_s, self.end)

    async def stop(self) -> None:
        """Something is asked, or the connection is closed."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting is not None:
            self._waiting.discard(self)

    def end(self) -> None:
        if self._ending is None:
            self._ending = self._connection.loop.create_task(self._connection._initiate_server_close())


def _waiting_for_the_end_of(context: Any) -> set[Idle]:
    """The idle connections of a server, which are ended with it."""
    known: set[Idle] | None = vars(context).get("idle")
    if known is not None:
        return known
    waiting: set[Idle] = set()

    async def end_all() -> None:
        await context.terminated.wait()
        for idle in tuple(waiting):
            idle.end()

    context.idle = waiting
    context.ending_idle = asyncio.ensure_future(end_all())
    return waiting


def mend() -> None:
    """Have hypercorn use ours."""
    tcp_server.AsyncioSingleTask = Idle  # type: ignore[assignment, attr-defined]
