"""Load: as many requests as a number of connections can make, each asking again as soon as it is answered.

Two generators do the same: wrk, and one of our own for machines without it. Neither leaves a request unanswered at its
end, because an abandoned one may or may not reach the upstream, and then the books could not be checked against it:
when the time is over no new request is sent, and those in flight are waited for.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

from llmgate import server

from .upstream import CONTENT_LENGTH

DRAIN_S = 30
"""What the last answers are given to come."""


class Void(Exception):
    """A leg whose figures mean nothing, and why."""


@dataclass(frozen=True)
class Ask:
    """The one request that a leg repeats, with one key after the other."""

    url: str
    body: bytes
    keys: tuple[str, ...] = ()

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or 80

    @property
    def path(self) -> str:
        return urlsplit(self.url).path

    def headers(self, number: int = 0) -> dict[str, str]:
        key = {"Authorization": f"Bearer {self.keys[number]}"} if self.keys else {}
        return {"Content-Type": "application/json", **key}

    def raw(self) -> list[bytes]:
        """Whole requests, one for each key."""
        return [self._raw(self.headers(number)) for number in range(max(1, len(self.keys)))]

    def _raw(self, headers: dict[str, str]) -> bytes:
        headers = {"Host": "{}:{}".format(*self.address), **headers, "Content-Length": str(len(self.body))}
        lines = [f"POST {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        return ("\r\n".join(lines) + "\r\n\r\n").encode() + self.body


@dataclass(frozen=True)
class Sample:
    """What one leg measured; every request of it was answered with 2xx."""

    requests: int
    seconds: float
    """From the first request to the last answer."""
    p50_ms: float
    p99_ms: float

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds


Load = Callable[[Ask, int, float], Sample]
"""(request, connections, seconds) -> what was measured. Raises Void."""


# ── wrk ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

# wrk has no way to stop without leaving requests unanswered, but it asks a script how long to wait before each of them.
_SCRIPT = """
local ffi = require("ffi")
ffi.cdef [[ typedef struct { long s; long ns; } moment; int clock_gettime(int, moment *); ]]
local MONOTONIC = jit.os == "OSX" and 6 or 1
local CONNECTIONS, SECONDS, NEVER_MS = @CONNECTIONS@, @SECONDS@, 3600 * 1000
local reading, began, resting = ffi.new("moment"), nil, 0

local requests, last = { @REQUESTS@ }, 0

function request()
  last = last % #requests + 1
  return requests[last]
end

function delay()
  ffi.C.clock_gettime(MONOTONIC, reading)
  local now = tonumber(reading.s) + tonumber(reading.ns) / 1e9
  began = began or now
  if now - began < SECONDS then return 0 end
  resting = resting + 1
  if resting == CONNECTIONS then
    io.write(string.format("drained %.6f\\n", now - began))
    io.flush()
  end
  return NEVER_MS
end

function done(summary, latency)
  local e = summary.errors
  local failed = string.format("%d %d %d %d %d", e.connect, e.read, e.write, e.status, e.timeout)
  local p50, p99 = latency:percentile(50), latency:percentile(99)
  io.write(string.format("summed %d %.3f %.3f %s\\n", summary.requests, p50 / 1000, p99 / 1000, failed))
end
"""


FAILURES = ("connect", "read", "write", "status", "timeout")
"""What wrk tells apart."""


def wrk(ask: Ask, connections: int, seconds: float) -> Sample:
    """Load by wrk, in one thread."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_script(ask, connections, seconds))
        script.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{math.ceil(seconds) + DRAIN_S}s", f"--timeout={DRAIN_S}s"]
        drained, summed, said = 0.0, None, []
        command += ["-s", script.name, ask.url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                match line.split():
                    case ["drained", took]:
                        drained = float(took)
                        process.send_signal(signal.SIGINT)  # what makes wrk sum up
                    case ["summed", *figures]:
                        summed = [float(figure) for figure in figures]
                    case _:
                        said.append(line)
    if summed is None:
        raise Void(f"wrk failed (there is also --load python): {''.join(said).strip()}")
    requests, p50_ms, p99_ms, *failed = summed
    if any(failed):
        kinds = ", ".join(f"{kind} {number:,.0f}" for kind, number in zip(FAILURES, failed, strict=True) if number)
        raise Void(f"of {requests:,.0f} requests some failed: {kinds}")
    if not drained:
        raise Void(f"not every request was answered within {DRAIN_S} s")
    return Sample(int(requests), drained, p50_ms, p99_ms)


def _script(ask: Ask, connections: int, seconds: float) -> str:
    # JSON's strings are Lua's, as long as they are ASCII
    requests = ",\n".join(json.dumps(raw.decode("ascii")) for raw in ask.raw())
    return (
        _SCRIPT.replace("@CONNECTIONS@", str(connections))
        .replace("@SECONDS@", str(seconds))
        .replace("@REQUESTS@", requests)
    )


# ── our own ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def python(ask: Ask, connections: int, seconds: float) -> Sample:
    """Load by a protocol on the event loop of this process."""
    with asyncio.Runner(loop_factory=server.loop_factory()) as runner:
        return runner.run(_python(ask, connections, seconds))


async def _python(ask: Ask, connections: int, seconds: float) -> Sample:
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    callers: list[_Caller] = []
    requests = itertools.cycle(ask.raw())

    def one_more() -> _Caller:
        callers.append(_Caller(requests, began + seconds))
        return callers[-1]

    try:
        async with asyncio.timeout(seconds + DRAIN_S):
            for _ in range(connections):
                await loop.create_connection(one_more, *ask.address)
            await asyncio.gather(*(caller.done for caller in callers))
    except OSError as error:  # a TimeoutError is one, too
        raise Void(str(error) or f"not every request was answered within {DRAIN_S} s") from error
    took = [took for caller in callers for took in caller.took]
    took.sort()
    last = max(caller.last for caller in callers)
    return Sample(len(took), last - began, percentile(took, 50), percentile(took, 99))


def percentile(ordered: list[float], percent: int) -> float:
    """In ms."""
    return 1000 * ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


class _Caller(asyncio.Protocol):
    """One connection. Of an answer it looks at the status and at where it ends, no more."""

    def __init__(self, requests: Iterator[bytes], end: float) -> None:
        self._requests = requests
        self._end = end
        self._answer = b""
        self._began = self.last = 0.0
        self.took: list[float] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._ask()

    def _ask(self) -> None:
        self._answer = b""
        self._began = time.perf_counter()
        self._transport.write(next(self._requests))

    def data_received(self, data: bytes) -> None:
        self._answer += data
        if not complete(self._answer):
            return
        if self._answer[9:10] != b"2":
            self._fail(Void(f"an answer was {self._answer[9:200].decode('latin-1')!r}"))
            return
        self.last = time.perf_counter()
        self.took.append(self.last - self._began)
        if self.last < self._end:
            self._ask()
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio names it
        if not self._answer or not complete(self._answer):
            self._fail(Void("a connection was closed without a complete answer"))
        elif not self.done.done():
            self.done.set_result(None)

    def _fail(self, why: Void) -> None:
        if not self.done.done():
            self.done.set_exception(why)
        self._transport.close()


def complete(answer: bytes) -> bool:
    end = answer.find(b"\r\n\r\n")
    if end < 0:
        return False
    length = CONTENT_LENGTH.search(answer, 0, end)
    if length is not None:
        return len(answer) >= end + 4 + int(length[1])
    return answer.endswith(b"0\r\n\r\n")  # the last chunk: no event of ours ends so


LOADS: dict[str, Load] = {"wrk": wrk, "python": python}


def best() -> str:
    """The name of the generator to use where none is asked for."""
    return "wrk" if shutil.which("wrk") else "python"
