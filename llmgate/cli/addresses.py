"""Where clients find the gateway, as far as the config tells."""

from __future__ import annotations

import re
import socket

import typer

from ..config import split_bind
from ..errors import UsageError
from .context import loaded

EVERY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104 - compared with, not listened on
REFERENCE = re.compile(r"\$\{(\w+)\}")


def base_url(ctx: typer.Context) -> str:
    """What to give to an OpenAI client as its base URL."""
    config, env = loaded(ctx)
    bind = REFERENCE.sub(lambda match: env.get(match[1], match[0]), config.server.bind)
    scheme = "https" if config.server.certfile else "http"
    try:
        host, port = split_bind(bind)
    except UsageError:
        return f"{scheme}://HOST:PORT/v1"
    if host in EVERY_ADDRESS:
        host = socket.gethostname()
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/v1"
