"""One of several workers: `python -m llmgate.worker LINE LISTENER DATABASE`, as `parent` starts it.

LINE and LISTENER are the numbers of inherited files. It serves as the only process of a daemon would, but it is the
parent that tells it what to do: see `line`.
"""

from __future__ import annotations

import signal
import sys

# Before anything else is imported: a terminal sends these to parent and workers alike, and the parent passes them on.
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGHUP, signal.SIG_IGN)

import asyncio
import logging
import socket
from contextlib import suppress
from functools import partial
from pathlib import Path

from . import line, server
from .config import Resolved
from .errors import Failure, LlmgateError
from .line import Order
from .server import Daemon
from .store.holds import Recovered

log = logging.getLogger("llmgate.worker")


def main(to_parent: socket.socket, listener: socket.socket, database: Path) -> int:
    """Serve until the parent says so, or is gone. Returns the exit code."""
    begun = False

    def say(message: object) -> None:
        with suppress(BrokenPipeError):  # a parent that is dead is noticed elsewhere
            to_parent.sendall(line.pack(message))

    def ready(recovered: Recovered) -> None:
        nonlocal begun
        begun = True
        say(recovered)

    try:
        resolved = line.receive(to_parent)
        server.serve(resolved, database, listener, obey=partial(_obey, to_parent), ready=ready)
    except EOFError:
        return 0  # the parent has died before it said anything: there is nobody to serve for
    except (LlmgateError, OSError) as problem:
        error = problem if isinstance(problem, LlmgateError) else Failure(str(problem))
        if begun:
            log.error("a worker has to end: %s", error.message)  # noqa: TRY400
        else:
            say(error)
        return error.exit_code
    return 0


async def _obey(to_parent: socket.socket, daemon: Daemon) -> None:
    """Do what the parent says, for as long as it lives."""
    # A service manager may send it to parent and workers at once: here it never means to hurry.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, daemon.stop)
    reader, _writer = await asyncio.open_connection(sock=to_parent.dup())
    while True:
        try:
            message = await line.read(reader)
        except EOFError:
            log.warning("the parent of the workers is gone: stopping")
            daemon.stop()
            return
        if isinstance(message, Resolved):
            daemon.reload(message)
        else:
            daemon.stop(hurry=message is Order.HURRY)


if __name__ == "__main__":
    of_line, of_listener, of_database = sys.argv[1:]
    sys.exit(main(socket.socket(fileno=int(of_line)), socket.socket(fileno=int(of_listener)), Path(of_database)))
