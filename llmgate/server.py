"""The daemon: builds everything, listens, serves until it is told to stop, and leaves nothing half-done."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

from . import logs
from .admin.api import Api
from .admin.desk import Desk
from .config import Resolved
from .engines import ENGINES, LEAVE_S
from .errors import LlmgateError, StorageError
from .gateway.app import App
from .gateway.pipeline import Gateway
from .gateway.writer import Writer
from .listening import check_installed, check_tls
from .plans import policy_of
from .store import accounts, holds, ledger, workers
from .store.db import Database
from .store.workers import Worker
from .web import Site

log = logging.getLogger("llmgate.server")

KEEP_UP_EVERY_S = 30.0
"""How often a daemon looks for what other processes left behind when they died, and for credits that have expired."""

GARBAGE_EVERY = 10_000
"""New objects between two looks for garbage in circles. Python's own 700 are those of two or three requests, and each
look at them costs a tenth of all processor time; a request leaves hardly any such garbage behind."""


def serve(
    resolved: Resolved,
    database: Path,
    listener: socket.socket,
    *,
    obey: Callable[[Daemon], Coroutine[Any, Any, None]],
    ready: Callable[[holds.Recovered], None],
) -> None:
    """Serve until it is told to stop.

    `obey` runs beside it and tells it when to stop or to reload (`by_signals`); `ready` is told once requests are
    answered. Raises LlmgateError where it can't begin.
    """
    config = resolved.config
    policy = policy_of(config)
    logs.set_up(config.log, several=config.server.workers > 1)
    check_installed(config)
    check_tls(config.server)
    with Database(database, actor="serve") as store, asyncio.Runner(loop_factory=loop_factory()) as runner:
        worker = Worker(database)
        try:
            with store.write() as tx:
                worker.register(tx)
                accounts.follow_plans(tx, policy.billing)
                recovered = holds.recover(tx, database, policy)
            if recovered.holds:
                log.warning("booked as interrupted, because a crash had cut them off: %s", recovered)
            runner.run(_run(resolved, store, worker, listener, obey, lambda: ready(recovered)))
        finally:
            listener.close()
            worker.close()


class Daemon:
    """What may be told to the process that serves."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.stopping, self.hurried = asyncio.Event(), asyncio.Event()

    def stop(self, *, hurry: bool = False) -> None:
        """Let requests end, for `shutdown_grace` seconds at most; in a hurry, end them."""
        if hurry:
            self.hurried.set()
        self.stopping.set()

    def reload(self, fresh: Resolved) -> None:
        """Serve by another config from the next request on. Where it listens stays as it was."""
        old, new = self._gateway.config.server, fresh.config.server
        self._gateway.reload(fresh.config, fresh.upstreams)
        number = len(fresh.upstreams)
        log.info("the config was reloaded: %d %s", number, "upstream" if number == 1 else "upstreams")
        fixed = ("bind", "workers", "engine", "certfile", "keyfile")
        stays = [name for name in fixed if getattr(old, name) != getattr(new, name)]
        if stays:
            log.warning("what was changed of [server] %s takes a restart", ", ".join(stays))
        self.tell_lost()

    def tell_lost(self) -> None:
        """Whose plan is no longer in the config: they are refused, and nobody else would tell."""
        plans = self._gateway.config.plans
        for name, plan in self._gateway.look(lambda tx: accounts.without_plan(tx, plans)):
            log.warning("%s is on the plan %r, which isn't there: its requests are refused", name, plan)


async def by_signals(daemon: Daemon, reload: Callable[[], Resolved]) -> None:
    """SIGTERM and SIGINT stop it, a second one hurries; SIGHUP reads the config anew."""
    loop = asyncio.get_running_loop()

    def again() -> None:
        try:
            fresh = reload()
        except LlmgateError as error:
            log.error("the config was not reloaded, the old one stays: %s", error.message)  # noqa: TRY400
        else:
            daemon.reload(fresh)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: daemon.stop(hurry=daemon.stopping.is_set()))
    loop.add_signal_handler(signal.SIGHUP, again)


async def _run(
    resolved: Resolved,
    store: Database,
    worker: Worker,
    listener: socket.socket,
    obey: Callable[[Daemon], Coroutine[Any, Any, None]],
    ready: Callable[[], None],
) -> None:
    config = resolved.config
    writer = Writer(store.path, durable=config.accounting.durability == "full")
    store.never_wait()
    gateway = Gateway(config, resolved.upstreams, store, writer, worker.id)
    daemon = Daemon(gateway)
    daemon.tell_lost()
    sweeper = asyncio.create_task(gateway.sweep())
    upkeep = asyncio.create_task(_keep_up(gateway))
    obeying = asyncio.create_task(obey(daemon))
    grace = asyncio.create_task(_grace(gateway, daemon, config.server.shutdown_grace))

    async def until_stopped() -> None:
        # What was imported and built up to here stays for good: it needn't be looked through again and again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GARBAGE_EVERY)
        ready()
        await daemon.stopping.wait()

    engine = ENGINES[config.server.engine]
    desk = Desk(store.path, gateway.reader, durable=config.accounting.durability == "full")
    app = App(gateway, Api(gateway, desk), Site(gateway, desk))
    serving = asyncio.ensure_future(engine(app, config.server, listener, until_stopped))
    try:
        await asyncio.wait({serving, grace}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
    finally:
        await desk.close()
        await gateway.close()
        for task in (sweeper, upkeep, obeying, grace):
            task.cancel()
        await writer.close(patience_s=0)  # who waited for it has given up
        if not serving.done():
            await _cut_off()


async def _keep_up(gateway: Gateway) -> None:
    """Now and then: resolve what other processes left behind when they died, take away credits that have expired
    unused, and tell of balances that have run low.
    """
    path = gateway.database.path
    while True:
        await asyncio.sleep(KEEP_UP_EVERY_S)
        try:
            if gateway.look(lambda tx: workers.dead(tx, path)):
                found = await gateway.writer.run(partial(holds.recover, database=path, policy=gateway.policy))
                log.warning("booked as interrupted, because their process died: %s", found)
            for account_id in gateway.look(ledger.due):
                await gateway.writer.run(partial(ledger.expire_due, account_id=account_id))
            for account_id, threshold in gateway.look(
                partial(ledger.untold_low, thresholds=gateway.policy.low_balance)
            ):
                await gateway.writer.run(partial(ledger.tell_low, account_id=account_id, threshold=threshold))
        except StorageError:
            log.debug("the upkeep waits for the database")
        except Exception:
            log.exception("the upkeep failed: it is tried again")


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


async def _grace(gateway: Gateway, daemon: Daemon, grace_s: float) -> None:
    """Once stopping: let requests end, but not for ever. Returns when connections must not be waited for any more."""
    await daemon.stopping.wait()
    log.info("stopping: %d requests in flight", len(gateway.in_flight))
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(daemon.hurried.wait(), grace_s)
    gateway.interrupt_all()
    await asyncio.sleep(LEAVE_S + 1)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where there is one: it serves about half as many requests again."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
