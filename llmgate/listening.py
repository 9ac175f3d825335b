"""Where the daemon listens: its socket, the address that it is reached under, and its certificate."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from .config import Config, Server, split_bind
from .errors import ConfigError, reason

BACKLOG = 2048

EXPIRED = 10
"""OpenSSL's X509_V_ERR_CERT_HAS_EXPIRED."""

UNREAD_S = 90
"""The kernel gives up a connection whose client takes no byte for this long (Linux)."""


def listen(bind: str) -> socket.socket:
    """A listening socket. Raises ConfigError where the address is taken or not ours."""
    listener = _bound(bind)
    try:
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise _refused(bind, error) from error
    return listener


def unavailable(bind: str) -> str | None:
    """Why nothing could listen there now. Who wants to at this moment isn't kept from it: only listening takes an
    address, having bound it doesn't.
    """
    try:
        _bound(bind).close()
    except ConfigError as error:
        return error.message
    return None


def _bound(bind: str) -> socket.socket:
    host, port = split_bind(bind)
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise _refused(bind, error) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_S * 1000)
        listener.bind(address)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise _refused(bind, error) from error
    return listener


def _refused(bind: str, error: OSError) -> ConfigError:
    return ConfigError(f"can't listen on {bind}: {reason(error)}; choose another with --bind or [server] bind")


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
        why = error.reason if isinstance(error, ssl.SSLError) else reason(error)
        raise ConfigError(f"[server] certfile {server.certfile} can't be used: {why or error}") from error


FAST = ("uvicorn", "httptools")
"""What the engine uvicorn takes: the extra `llmgate[fast]`."""


OIDC = ("authlib", "httpx2")
"""What [oidc] takes: the extra `llmgate[oidc]`."""


def missing(config: Config) -> str | None:
    """What to say where something that the config asks for isn't installed."""
    if config.server.engine == "uvicorn" and not all(map(find_spec, FAST)):
        return '[server] engine = "uvicorn" isn\'t installed: `pip install \'llmgate[fast]\'`, or engine = "hypercorn"'
    if config.oidc and not all(map(find_spec, OIDC)):
        first = next(iter(config.oidc))
        return f"[oidc.{first}] takes a part that isn't installed: `pip install 'llmgate[oidc]'`"
    return None


def check_installed(config: Config) -> None:
    """Raises ConfigError where something that the config asks for isn't installed."""
    if told := missing(config):
        raise ConfigError(told)


def certificate_ends_ms(server: Server) -> int | None:
    """When the certificate ends, 0 for one that has; None: it doesn't say so, or can't be used.

    Only a handshake decodes a certificate, so one is made within this process, trusting that certificate alone.
    """
    ours, theirs = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        speaker = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        speaker.load_cert_chain(str(server.certfile), server.keyfile)
        listener = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        listener.check_hostname = False
        listener.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        listener.load_verify_locations(server.certfile)
        client = listener.wrap_bio(ours, theirs)
        service = speaker.wrap_bio(theirs, ours, server_side=True)
        for side in (client, service, client):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
        told = client.getpeercert() or {}
    except ssl.SSLCertVerificationError as error:
        return 0 if error.verify_code == EXPIRED else None
    except (OSError, ValueError):
        return None
    return ssl.cert_time_to_seconds(str(told["notAfter"])) * 1000 if "notAfter" in told else None
