"""The HTTP servers that can run the application, behind one call each: what `[server] engine` names.

hypercorn speaks HTTP/1.1 and HTTP/2; what is plain of the former is read and answered by `http1`, at uvicorn's cost.
uvicorn with httptools speaks HTTP/1.1 only; it is not installed with llmgate (`llmgate[fast]`). Both are told when to
stop, and stop listening at once then.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Any

from hypercorn.asyncio import serve as hypercorn_serve
from hypercorn.config import Config as HypercornConfig

from . import http1, http2
from .config import Server
from .gateway.http import LEFT_ALONE
from .listening import BACKLOG

KEEP_ALIVE_S = 75.0
"""Longer than clients' pools keep a connection, so that it is they who close it, not we under their next request."""

LEAVE_S = 5.0
"""What connections get beyond the grace of their requests, to send the last bytes."""

MOST_HEAD = 64 * 1024
"""Bytes of a request's line and headers."""

Engine = Callable[[Any, Server, socket.socket, Callable[[], Awaitable[None]]], Awaitable[None]]
"""Serve an ASGI application on a listener, which is the engine's from now on, until what is called once it does so
returns. Requests in flight are let end, for the grace of `[server]` and `LEAVE_S` more."""


async def hypercorn(
    app: Any, server: Server, listener: socket.socket, until_stopped: Callable[[], Awaitable[None]]
) -> None:
    http1.mend()
    http2.mend()
    settings = hypercorn_config(server, listener)
    listener.close()  # hypercorn's copy is left, and closed as soon as it stops: whoever comes then is refused at once
    await hypercorn_serve(app, settings, shutdown_trigger=until_stopped, mode="asgi")


def hypercorn_config(server: Server, listener: socket.socket) -> HypercornConfig:
    config = HypercornConfig()
    config.bind = [f"fd://{os.dup(listener.fileno())}"]  # hypercorn closes what it is given
    config.certfile = server.certfile
    config.keyfile = server.keyfile
    config.accesslog = None  # it would print query strings
    config.errorlog = logging.getLogger("llmgate.hypercorn")
    config.errorlog.setLevel(logging.WARNING)
    config.backlog = BACKLOG
    config.keep_alive_timeout = KEEP_ALIVE_S
    config.keep_alive_max_requests = 10**9
    config.graceful_timeout = server.shutdown_grace + LEAVE_S
    config.h11_max_incomplete_size = MOST_HEAD
    config.include_server_header = False
    config.include_date_header = False
    return config


async def uvicorn(
    app: Any, server: Server, listener: socket.socket, until_stopped: Callable[[], Awaitable[None]]
) -> None:
    from uvicorn import Config  # not everybody has it
    from uvicorn import Server as Uvicorn
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    class Bounded(HttpToolsProtocol):
        """httptools itself would take a head of any length, and keep all of it."""

        head = 0
        in_head = True

        def data_received(self, data: bytes) -> None:
            self.head += len(data)
            super().data_received(data)
            if self.in_head and self.head > MOST_HEAD and not self.transport.is_closing():
                self.send_400_response("The head of the request is too long.")

        def on_message_begin(self) -> None:
            self.in_head, self.head = True, 0
            super().on_message_begin()
            self.scope["extensions"] = {LEFT_ALONE: {}}  # until its grace is over

        def on_headers_complete(self) -> None:
            self.in_head = False
            super().on_headers_complete()

    class Told(Uvicorn):
        """It stops when it is told to, and leaves signals to who handles them here."""

        async def main_loop(self) -> None:
            await until_stopped()

        @contextmanager
        def capture_signals(self) -> Generator[None, None, None]:
            yield

    logging.getLogger("uvicorn").setLevel(logging.ERROR)  # what clients do wrong isn't worth a line
    config = Config(
        app,
        http=Bounded,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,  # it would print query strings
        proxy_headers=False,
        server_header=False,
        date_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=int(KEEP_ALIVE_S),
        timeout_graceful_shutdown=int(server.shutdown_grace + LEAVE_S),
        ssl_certfile=server.certfile,
        ssl_keyfile=server.keyfile,
    )
    await Told(config).serve(sockets=[listener])


ENGINES: dict[str, Engine] = {"hypercorn": hypercorn, "uvicorn": uvicorn}
