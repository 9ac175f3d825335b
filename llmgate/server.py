"""The daemon: builds everything, listens, serves until it is told to stop, and leaves nothing half-done."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h2.events
import hypercorn.protocol
from hypercorn.asyncio import serve as hypercorn_serve
from hypercorn.config import Config as HypercornConfig
from hypercorn.protocol.h2 import H2Protocol

from . import logs
from .config import Resolved, Server, split_bind
from .errors import ConfigError, LlmgateError
from .gateway.app import App
from .gateway.pipeline import Gateway
from .gateway.writer import Writer
from .store import holds, workers
from .store.db import Database
from .store.workers import Worker

log = logging.getLogger("llmgate.server")

BACKLOG = 2048

KEEP_ALIVE_S = 75.0
"""Longer than clients' pools keep a connection, so that it is they who close it, not we under their next request."""

UNREAD_S = 90
"""The kernel gives up a connection whose client takes no byte for this long (Linux)."""

RECOVER_EVERY_S = 30.0
"""How often a daemon looks for holds of other processes that died."""

LEAVE_S = 5.0
"""What connections get beyond the grace of their requests, to send the last bytes."""


def listen(bind: str) -> socket.socket:
    """A listening socket. Raises ConfigError where the address is taken or not ours."""
    host, port = split_bind(bind)
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise ConfigError(f"can't listen on {bind}: {error.strerror or error}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_S * 1000)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"can't listen on {bind}: {(error.strerror or str(error)).lower()}; choose another with --bind"
        ) from error
    return listener


def address_of(listener: socket.socket, server: Server) -> str:
    """The base address under which a listener is reached."""
    host, port = listener.getsockname()[:2]
    return f"{'https' if server.certfile else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def serve(
    resolved: Resolved,
    database: Path,
    listener: socket.socket,
    *,
    reload: Callable[[], Resolved],
    ready: Callable[[holds.Recovered], None],
) -> None:
    """Serve until SIGTERM or SIGINT. A second one ends the streams that are still running at once.

    `reload` reads the config anew (SIGHUP); `ready` is told once requests are answered. Raises LlmgateError where it
    can't begin.
    """
    config = resolved.config
    log_file = config.log.file or os.environ.get("PROXY_LOG_PATH")
    logs.set_up(config.log.level, config.log.format, Path(log_file) if log_file else None)
    check_tls(config.server)
    with Database(database, actor="serve") as store, asyncio.Runner(loop_factory=loop_factory()) as runner:
        worker = Worker(database)
        try:
            with store.write() as tx:
                worker.register(tx)
                recovered = holds.recover(tx, database, config.accounting.interrupted)
            if recovered.holds:
                log.warning("booked as interrupted, because a crash had cut them off: %s", recovered)
            runner.run(_run(resolved, store, worker, listener, reload, lambda: ready(recovered)))
        finally:
            listener.close()
            worker.close()


class _Http2(H2Protocol):
    """hypercorn's, less a crash: a body that still comes in after its answer was sent ended the connection, and with it
    whatever else was served on it. Its `_handle_events` and `streams` are not public: 0.17 and 0.18 have them.
    """

    async def _handle_events(self, events: list[h2.events.Event]) -> None:
        for event in events:
            if isinstance(event, h2.events.DataReceived) and event.stream_id not in self.streams:
                self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            else:
                await super()._handle_events([event])
        await self._flush()


hypercorn.protocol.H2Protocol = _Http2  # type: ignore[attr-defined]


async def _run(
    resolved: Resolved,
    store: Database,
    worker: Worker,
    listener: socket.socket,
    reload: Callable[[], Resolved],
    ready: Callable[[], None],
) -> None:
    config = resolved.config
    writer = Writer(store.path, durable=config.accounting.durability == "full")
    store.never_wait()
    gateway = Gateway(config, resolved.upstreams, store, writer, worker.id)
    stopping, hurried = asyncio.Event(), asyncio.Event()
    _on_signals(gateway, stopping, hurried, reload)
    sweeper = asyncio.create_task(gateway.sweep())
    recoverer = asyncio.create_task(_recover(gateway))
    grace = asyncio.create_task(_grace(gateway, stopping, hurried, config.server.shutdown_grace))

    async def until_stopped() -> None:
        ready()
        await stopping.wait()

    # hypercorn's types know its own messages only; ours are the dictionaries that ASGI defines.
    app: Any = App(gateway)
    settings = hypercorn_config(config.server, listener)
    serving = asyncio.create_task(hypercorn_serve(app, settings, shutdown_trigger=until_stopped, mode="asgi"))
    try:
        await asyncio.wait({serving, grace}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
    finally:
        await gateway.close()
        for task in (sweeper, recoverer, grace):
            task.cancel()
        await writer.close(patience_s=0)  # who waited for it has given up
        if not serving.done():
            await _cut_off()


async def _recover(gateway: Gateway) -> None:
    """Now and then, resolve what other processes left behind when they died."""
    path = gateway.database.path
    while True:
        await asyncio.sleep(RECOVER_EVERY_S)
        if gateway.look(lambda tx: workers.dead(tx, path)):
            interrupted = gateway.config.accounting.interrupted
            found = await gateway.writer.run(partial(holds.recover, database=path, interrupted=interrupted))
            log.warning("booked as interrupted, because their process died: %s", found)


async def _cut_off() -> None:
    """End the connections of clients that take nothing: hypercorn would wait until the kernel gives them up. Each ends
    when it is cancelled for the second time, in its own waiting to be closed.
    """
    log.warning("connections whose clients don't read were cut off")
    # What asyncio and hypercorn say of being cancelled isn't worth a word.
    asyncio.get_running_loop().set_exception_handler(lambda _, context: log.debug("%s", context["message"]))
    for _ in range(3):
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0.05)


def _on_signals(
    gateway: Gateway, stopping: asyncio.Event, hurried: asyncio.Event, reload: Callable[[], Resolved]
) -> None:
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if stopping.is_set():
            hurried.set()
        stopping.set()

    def again() -> None:
        try:
            fresh = reload()
        except LlmgateError as error:
            log.error("the config was not reloaded, the old one stays: %s", error.message)  # noqa: TRY400
        else:
            gateway.reload(fresh.config, fresh.upstreams)
            log.info("the config was reloaded: %d upstreams", len(fresh.upstreams))

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGHUP, again)


async def _grace(gateway: Gateway, stopping: asyncio.Event, hurried: asyncio.Event, grace_s: float) -> None:
    """Once stopping: let requests end, but not for ever. Returns when connections must not be waited for any more."""
    await stopping.wait()
    log.info("stopping: %d requests in flight", len(gateway.in_flight))
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(hurried.wait(), grace_s)
    gateway.interrupt_all()
    await asyncio.sleep(LEAVE_S + 1)


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
    config.h11_max_incomplete_size = 64 * 1024
    config.include_server_header = False
    config.include_date_header = False
    return config


def check_tls(server: Server) -> None:
    """Raises ConfigError where the certificate or its key can't be used."""
    if server.certfile is None:
        return
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(server.certfile, server.keyfile)
    except FileNotFoundError as error:
        missing = server.keyfile if Path(server.certfile).is_file() else server.certfile
        raise ConfigError(f"[server] certfile or keyfile: there is no file {missing}") from error
    except (OSError, ssl.SSLError) as error:
        reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        raise ConfigError(f"[server] certfile {server.certfile} can't be used: {reason or error}") from error


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where there is one: it serves about half as many requests again."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
