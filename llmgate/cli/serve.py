"""`llmgate serve`: the daemon."""

from __future__ import annotations

import ipaddress
from typing import Annotated

import msgspec
import typer

from .. import __version__
from ..config import Resolved, load, resolve, split_bind
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
    llmgate serve --bind 0.0.0.0:8000
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
) -> None:
    """Answer requests until it is told to stop (Ctrl-C or SIGTERM); SIGHUP reads the config again.

    Requests in flight are let end, for [server] shutdown_grace seconds at most; what was served is charged in any case.
    """
    from .. import server

    def ready_config() -> Resolved:
        config, env = load(session(ctx).config_file)
        return _bound(resolve(config, env), bind)

    resolved = _bound(resolve(*loaded(ctx)), bind)
    with open_store(ctx) as db, db.read() as tx:
        living = len(keys.list_keys(tx))
    listener = server.listen(resolved.config.server.bind)
    address = server.address_of(listener, resolved.config.server)

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

    server.serve(resolved, store_path(ctx), listener, reload=ready_config, ready=announce)


def _bound(resolved: Resolved, bind: str | None) -> Resolved:
    """The config with where to listen as the command line says."""
    if bind is None:
        return resolved
    split_bind(bind)
    server = msgspec.structs.replace(resolved.config.server, bind=bind)
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
