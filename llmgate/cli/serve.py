"""`llmgate serve`: the daemon."""

from __future__ import annotations

import ipaddress
from functools import partial
from typing import Annotated, Any

import msgspec
import typer

from .. import __version__, listening
from ..config import MOST_WORKERS, Resolved, load, resolve, split_bind
from ..errors import UsageError
from ..store import keys
from ..store.holds import Recovered
from .context import loaded, open_store, store_path
from .grammar import alone, verb
from .session import note, session

app = alone()


@verb(
    app,
    "serve",
    examples="""
    llmgate serve
    llmgate serve --bind 0.0.0.0:8000 --workers 4
    llmgate serve --bind 127.0.0.1:0 --db /tmp/try.db
    """,
)
def serve(
    ctx: typer.Context,
    bind: Annotated[
        str | None,
        typer.Option(
            "--bind", metavar="HOST:PORT", help="Where to listen; port 0 takes a free one.", show_default=False
        ),
    ] = None,
    workers: Annotated[
        str | None,
        typer.Option(
            "--workers", metavar="N", help=f"How many processes serve, 1 to {MOST_WORKERS}.", show_default=False
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine", metavar="NAME", help="The HTTP server: hypercorn or uvicorn (faster).", show_default=False
        ),
    ] = None,
) -> None:
    """Answer requests until it is told to stop (Ctrl-C or SIGTERM); SIGHUP reads the config again.

    Requests in flight are let end, for [server] shutdown_grace seconds at most, or until it is told again; what was
    served is charged in any case. SIGHUP changes nothing if the config has a mistake, and never bind, workers and
    engine.

    More than one worker share the port and the database, under a parent that serves nothing: signals go to it, a worker
    that dies is started anew, and none outlives it.
    """

    def ready_config() -> Resolved:
        config, env = load(session(ctx).config_file)
        fresh = _as_asked(resolve(config, env), bind, workers, engine)
        listening.check_installed(fresh.config)
        return fresh

    resolved = _as_asked(resolve(*loaded(ctx)), bind, workers, engine)
    listening.check_installed(resolved.config)
    with open_store(ctx) as db, db.read() as tx:
        living = len(keys.list_keys(tx))
    listener = listening.listen(resolved.config.server.bind)
    address = listening.address_of(listener, resolved.config.server)

    def announce(recovered: Recovered) -> None:
        note(f"llmgate {__version__} listening on {address}")
        note(f"  upstreams: {', '.join(resolved.upstreams) or 'none: add [upstreams.…] to llmgate.toml'}")
        note(f"  keys: {living}" + ("" if living else ": `llmgate keys add USER` makes the first"))
        note(f"  database: {store_path(ctx)}")
        if recovered.holds:
            note(f"  booked as interrupted, because a crash had cut them off: {recovered}")
        warning = exposed(resolved)
        if warning:
            note(f"  warning: {warning}")

    # Each imports what it needs: a parent is small.
    if resolved.config.server.workers > 1:
        from .. import parent

        parent.serve(resolved, store_path(ctx), listener, reload=ready_config, ready=announce)
    else:
        from .. import server

        obey = partial(server.by_signals, reload=ready_config)
        server.serve(resolved, store_path(ctx), listener, obey=obey, ready=announce)


def _as_asked(resolved: Resolved, bind: str | None, workers: str | None, engine: str | None) -> Resolved:
    """The config with what the command line says instead. Raises UsageError."""
    changes: dict[str, Any] = {}
    if bind is not None:
        split_bind(bind)
        changes["bind"] = bind
    if workers is not None:
        if not workers.isdecimal() or not 1 <= int(workers) <= MOST_WORKERS:
            raise UsageError(f"--workers must be a whole number from 1 to {MOST_WORKERS}, not {workers!r}")
        changes["workers"] = int(workers)
    if engine is not None:
        if engine not in ("hypercorn", "uvicorn"):
            raise UsageError(f"--engine must be hypercorn or uvicorn, not {engine!r}")
        changes["engine"] = engine
    server = msgspec.structs.replace(resolved.config.server, **changes)
    return resolved._replace(config=msgspec.structs.replace(resolved.config, server=server))


def exposed(resolved: Resolved) -> str | None:
    """What to say where keys would cross a network in clear."""
    server = resolved.config.server
    host = split_bind(server.bind)[0]
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    if local or server.certfile:
        return None
    return f"{server.bind} is reached from other machines without TLS: set [server] certfile and keyfile, or a proxy"
