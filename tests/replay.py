"""A scripted upstream: a real HTTP/1.1 server on 127.0.0.1 that records what it is asked and answers from a script.

    with Replay() as up:
        up.answer(*json_answer({"ok": True}))                  # the first request
        up.answer(*sse_answer(sse({"n": 1}), Pause(0.1), RESET))  # the second, and all that follow
        ...  # ask up.url
        assert up.requests[0].path == "/v1/chat/completions?beta=1"

It runs in a thread with an event loop of its own, so sync tests, async tests and subprocesses can all use it. It writes
what the script says and nothing else: nothing stops a script from breaking HTTP, that is what it is for.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from types import TracebackType
from typing import Any

import h11

Headers = Iterable[tuple[str, str]]


@dataclass(frozen=True)
class Pause:
    """Wait before the next step."""

    seconds: float


class Move(Enum):
    """A step that is no bytes."""

    RESET = "close with a TCP reset; what the client's kernel has received stays readable"
    CLOSE = "close cleanly (FIN)"
    HANG = "say nothing more until the client leaves or the server stops"


RESET, CLOSE, HANG = Move.RESET, Move.CLOSE, Move.HANG

Step = bytes | Pause | Move


@dataclass(frozen=True)
class Request:
    """What a client sent. Header names are in lower case and in the order of sending."""

    method: str
    path: str
    """The request target as it was sent, query included."""
    headers: list[tuple[str, str]]
    body: bytes
    connection: int
    """Which TCP connection it came on, counted from 1."""

    def header(self, name: str) -> str | None:
        """The first header of that name."""
        return next((value for key, value in self.headers if key == name.lower()), None)

    def json(self) -> Any:
        return json.loads(self.body)


# -- what answers are made of


def head(status: int = 200, headers: Headers = ()) -> bytes:
    """A status line and headers, just as given: no length, no date, no server."""
    phrase = HTTPStatus(status).phrase if status in list(HTTPStatus) else "Overloaded"
    lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body; `chunk(b"")` is the last one."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def sse(payload: object, event: str | None = None) -> bytes:
    """One server-sent event; a payload that is no string becomes JSON."""
    text = payload if isinstance(payload, str) else json.dumps(payload)
    return (f"event: {event}\n" if event else "").encode() + f"data: {text}\n\n".encode()


def body_answer(body: bytes = b"", status: int = 200, headers: Headers = ()) -> tuple[Step, ...]:
    """A whole answer with a content length, in one write."""
    return (head(status, [*headers, ("content-length", str(len(body)))]) + body,)


def json_answer(payload: object, status: int = 200, headers: Headers = ()) -> tuple[Step, ...]:
    return body_answer(json.dumps(payload).encode(), status, [("content-type", "application/json"), *headers])


def sse_answer(*pieces: Step, status: int = 200, headers: Headers = (), end: bool = True) -> tuple[Step, ...]:
    """A chunked event stream: the head, then each piece of bytes as one chunk in one write, other steps as they are.

    `end=False` leaves out the last chunk, so that the body stays incomplete.
    """
    first = head(status, [("content-type", "text/event-stream"), ("transfer-encoding", "chunked"), *headers])
    steps = [chunk(piece) if isinstance(piece, bytes) else piece for piece in pieces]
    return (first, *steps, chunk(b"")) if end else (first, *steps)


# -- waiting for what the server's thread will notice


async def until(condition: Callable[[], bool], timeout_s: float = 10) -> None:
    """Wait, without blocking the loop, until the condition holds."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in another thread
            await asyncio.sleep(0.005)


def wait_until(condition: Callable[[], bool], timeout_s: float = 10) -> None:
    """The same for tests without a loop."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.005)


class Replay:
    """The server; use it as a context manager.

    An error in `handler` or in the server itself is raised on leaving the context: a broken script must not look like a
    broken upstream.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.url = ""
        self._tls = tls
        self.requests: list[Request] = []
        self.handler: Callable[[Request], Sequence[Step]] | None = None
        """Asked for the answer, instead of the queue; runs in the server's thread."""
        self.connections = 0
        """TCP connections accepted so far."""
        self.open = 0
        """Those that are open now."""
        self.disconnects = 0
        """How often a client left before its answer was written to the end."""
        self.garbled = 0
        """How often a client sent what is not HTTP; its connection is closed."""
        self._answers: deque[Sequence[Step]] = deque()
        self._last: Sequence[Step] | None = None
        self._failures: list[Exception] = []
        self._conversations: set[asyncio.Task[None]] = set()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), name="replay", daemon=True)

    def answer(self, *steps: Step) -> None:
        """Queue one answer. When the queue is empty, the last one is given again."""
        self._answers.append(steps)

    def __enter__(self) -> Replay:
        self._thread.start()
        self._listening.wait()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        if self._failures and error is None:
            raise self._failures[0]

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls)
        host, port = server.sockets[0].getsockname()
        self.url = f"https://localhost:{port}" if self._tls else f"http://{host}:{port}"
        self._listening.set()
        await self._stop.wait()
        await asyncio.sleep(0.01)  # asyncio trips over a connection that it is accepting when the server is closed
        server.close()
        for task in self._conversations:
            task.cancel()
        if self._conversations:
            await asyncio.wait(self._conversations)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        task = asyncio.create_task(self._converse(reader, writer, self.connections))
        self._conversations.add(task)

        def finish(task: asyncio.Task[None]) -> None:
            self._conversations.discard(task)
            self.open -= 1
            writer.transport.close()

        task.add_done_callback(finish)  # runs even if the task is cancelled before it has begun

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        if self._tls is None:  # a limit of 0 makes drain() wait for ever over TLS
            writer.transport.set_write_buffer_limits(high=0)  # so that drain() waits until the kernel has it all
        unread = bytearray()
        try:
            while request := await self._listen(reader, writer, unread, number):
                self.requests.append(request)
                playing = asyncio.create_task(self._play(self._script(request), writer))
                leaving = asyncio.create_task(self._left(reader, unread))
                try:
                    await asyncio.wait({playing, leaving}, return_when=asyncio.FIRST_COMPLETED)
                    if not playing.done():
                        self.disconnects += 1
                        break
                    playing.result()
                finally:
                    playing.cancel()
                    leaving.cancel()
                    await asyncio.wait({playing, leaving})
                if writer.is_closing() or request.header("connection") == "close":
                    break
        except ConnectionError:
            self.disconnects += 1
        except h11.RemoteProtocolError:
            self.garbled += 1
        except Exception as error:
            self._failures.append(error)

    async def _listen(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, unread: bytearray, number: int
    ) -> Request | None:
        """Read one request, or None if the client closed before it. h11 parses; it isn't told of what is answered."""
        http = h11.Connection(h11.SERVER)
        if unread:
            http.receive_data(bytes(unread))
            unread.clear()
        head: h11.Request | None = None
        body = bytearray()
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                if http.they_are_waiting_for_100_continue:
                    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                try:
                    data = await reader.read(2**16)
                except ConnectionError:
                    data = b""
                if not data and head is not None:
                    raise ConnectionError("the client left within its request")
                http.receive_data(data)
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert head is not None
                unread += http.trailing_data[0]
                headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in head.headers]
                return Request(head.method.decode(), head.target.decode("latin-1"), headers, bytes(body), number)
            else:
                return None

    def _script(self, request: Request) -> Sequence[Step]:
        if self.handler is not None:
            return self.handler(request)
        if self._answers:
            self._last = self._answers.popleft()
        if self._last is None:
            raise LookupError(f"no answer is queued for {request.method} {request.path}")
        return self._last

    async def _play(self, steps: Sequence[Step], writer: asyncio.StreamWriter) -> None:
        for step in steps:
            match step:
                case bytes():
                    writer.write(step)
                    await writer.drain()
                case Pause(seconds):
                    await asyncio.sleep(seconds)
                case Move.RESET:
                    at_once = struct.pack("ii", 1, 0)
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
                    writer.transport.abort()
                    return
                case Move.CLOSE:
                    writer.close()
                    return
                case Move.HANG:
                    await asyncio.Event().wait()

    async def _left(self, reader: asyncio.StreamReader, unread: bytearray) -> None:
        """Return when the client has left, keeping what it sent ahead."""
        try:
            while data := await reader.read(2**16):
                unread += data
        except ConnectionError:
            return
