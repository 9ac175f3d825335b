"""Where clients find the gateway, as far as the config tells."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping

import typer

from ..config import split_bind
from ..errors import UsageError
from .context import loaded

EVERY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104 - compared with, not listened on
REFERENCE = re.compile(r"\$\{(\w+)\}")


def base_url(ctx: typer.Context) -> str:
    """What to give to an OpenAI client as its base URL."""
    return f"{public_url(ctx)}/v1"


def public_url(ctx: typer.Context) -> str:
    """Where the gateway is, without a slash at the end: what `[server] public_url` says, else where it listens."""
    config, env = loaded(ctx)
    if config.server.public_url is not None:
        return _filled(config.server.public_url, env)
    bind = _filled(config.server.bind, env)
    scheme = "https" if config.server.certfile else "http"
    try:
        host, port = split_bind(bind)
    except UsageError:
        return f"{scheme}://HOST:PORT"
    if host in EVERY_ADDRESS:
        host = socket.gethostname()
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def _filled(text: str, env: Mapping[str, str]) -> str:
    return REFERENCE.sub(lambda match: env.get(match[1], match[0]), text)
