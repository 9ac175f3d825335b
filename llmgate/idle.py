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
        self._connection: Any = None
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None
        """Of a time when it was idle, which may be over: to begin a timer anew for each request takes longer."""
        self._waiting: set[Idle] | None = None
        self._ending: asyncio.Task[None] | None = None
        """Kept here, because asyncio itself doesn't keep a task alive."""

    async def restart(self, _group: object, action: Callable[[], Any]) -> None:
        """Nothing is asked from now on. `action` is a method of the connection."""
        self.begin(action.__self__)  # type: ignore[attr-defined]

    async def stop(self) -> None:
        """Something is asked, or the connection is closed."""
        self.pause()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def begin(self, connection: Any) -> None:
        self._connection = connection
        if self._waiting is None:
            self._waiting = _waiting_for_the_end_of(connection.context)
        self._waiting.add(self)
        self._since = connection.loop.time()
        if connection.context.terminated.is_set():
            connection.loop.call_soon(self.end)
        elif self._timer is None:
            self._timer = connection.loop.call_later(connection.config.keep_alive_timeout, self._look)

    def pause(self) -> None:
        """Something is asked."""
        if self._waiting is not None:
            self._waiting.discard(self)

    def _look(self) -> None:
        """Whether it has been idle for all of the time."""
        self._timer = None
        if self._waiting is not None and self in self._waiting:
            loop, keep_alive_s = self._connection.loop, self._connection.config.keep_alive_timeout
            left_s = self._since + keep_alive_s - loop.time()
            if left_s > 0:
                self._timer = loop.call_later(left_s, self._look)
            else:
                self.end()

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
