"""Where the daemon listens: its socket, the address that it is reached under, and its certificate."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

from .config import Server, split_bind
from .errors import ConfigError

BACKLOG = 2048

UNREAD_S = 90
"""The kernel gives up a connection whose client takes no byte for this long (Linux)."""


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
