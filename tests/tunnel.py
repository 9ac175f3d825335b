"""A small HTTP proxy: tunnels for CONNECT, and plain requests passed on. In a thread with a loop of its own."""

from __future__ import annotations

import asyncio
import base64
import threading
from types import TracebackType
from urllib.parse import urlsplit


class Tunnel:
    """Use it as a context manager. With `login` ("user:password") it asks for that."""

    def __init__(self, login: str | None = None, *, refusal: bytes | None = None) -> None:
        self.url = ""
        self.asked: list[str] = []
        """The request line of every request that it was asked to pass on."""
        self._wanted = f"Basic {base64.b64encode(login.encode()).decode()}" if login else None
        self._login = f"{login}@" if login else ""
        self._refusal = refusal
        """Answered to whatever it is asked; empty: it hangs up."""
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), name="tunnel", daemon=True)

    def __enter__(self) -> Tunnel:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self.url = f"http://{self._login}127.0.0.1:{self.port}"
        self._ready.set()
        await self._stop.wait()
        server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            return  # one of the two has left, or the test has ended
        finally:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, _, rest = head.partition("\r\n")
        self.asked.append(line)
        method, target, version = line.split(" ")
        headers = {name.lower(): value for name, _, value in (each.partition(": ") for each in rest.split("\r\n"))}
        if self._refusal is not None:
            writer.write(self._refusal)
            return
        if self._wanted and headers.get("proxy-authorization") != self._wanted:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")
            return
        url = urlsplit(f"//{target}" if method == "CONNECT" else target)
        there_reader, there = await asyncio.open_connection(url.hostname, url.port)
        try:
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                path = f"{url.path}?{url.query}" if url.query else url.path
                there.write(f"{method} {path} {version}\r\n{rest}".encode("latin-1"))
            await asyncio.gather(_pass(reader, there), _pass(there_reader, writer))
        finally:
            there.close()  # also when one way broke: a writer left open is found by the collector, in any test


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(2**16):
        writer.write(data)
        await writer.drain()
    writer.close()
