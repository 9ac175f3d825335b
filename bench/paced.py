"""Answers that take their time: streams whose events come one by one, and first bytes that come late.

Every event says when the mock wrote it, by the clock that all processes of the machine share, so its delay is known to
the client that gets it. Streams begin one after the other over a while, as clients do; what is counted is the time in
which all of them run.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass, field
from itertools import pairwise
from typing import cast

from llmgate import server

from .load import Void, complete, percentile
from .scene import Scene, Shape, Target, scene
from .told import Ratio, Row, Setting, Told
from .upstream import SENT

STREAMS = ((100, 20), (400, 20), (1000, 100))
"""How many at a time, and ms between two events of one."""

WAITING, WAIT_MS = 400, 1000
"""Connections that wait for a first byte, and for how long."""

BEGIN_PER_S = 200
"""Streams that begin in a second: what it costs to begin one is measured elsewhere."""

RUNNING_S = 4.0
"""In which all of them run, times `--seconds`."""

DRAIN_S = 30
"""What streams are given to end that a gateway at its limit has made late."""

SETTLE_S = 0.25
"""Between the beginning of the last stream, or the end of the first, and what is counted."""


@dataclass(frozen=True)
class Window:
    """What was seen while all streams ran."""

    per_s: float
    cpu_us: float
    """Per event, or per answer where only the first byte comes late."""
    p50_ms: float
    p99_ms: float
    """Delay of an event; of a late answer what it took beyond the wait."""
    gap_p99_ms: float
    """By how much the time between two events was longer at the client than at the mock."""
    mib: float


@dataclass
class Series:
    """So many streams asked of one target, once per round."""

    shape: Shape
    target: Target
    windows: list[Window] = field(default_factory=list)
    void: str | None = None


def paced(setting: Setting) -> Told:
    """Raises BenchError where nothing can be measured."""
    told = Told()
    with scene() as played:
        setting.say("starting")
        targets = [played.direct(), played.bare(setting.engine), played.gateway(engine=setting.engine)]
        seconds = RUNNING_S * setting.seconds
        everything = [Series(shape, target) for shape in shapes(seconds) for target in targets]
        for number in range(setting.rounds):
            for one in everything:
                setting.say(f"round {number + 1} of {setting.rounds}: {one.shape} {one.target.name}")
                measure(one, seconds)
        after = {target.name: target.process.rss_mib() for target in targets}
    title = f"paced, {setting.engine}, medians of {setting.rounds} rounds of {seconds:g} s"
    told.tables[title] = [_row(one, everything, after) for one in everything]
    told.problems = [f"{one.shape} {one.target.name} is void: {one.void}" for one in everything if one.void]
    told.problems += played.problems
    told.notes = [*played.notes(), _meaning(played)]
    return told


def _meaning(played: Scene) -> str:
    return (
        "an event's delay is from the mock's writing to the client's reading it; "
        + ("the mock and the reading client share a core, " if played.cores.pinned else "")
        + "so direct is what they cost themselves"
    )


def shapes(seconds: float) -> list[Shape]:
    """The first stream lasts until all have run together for so long."""
    streams = []
    for number, pace_ms in STREAMS:
        events = int(1000 * (number / BEGIN_PER_S + seconds + 2 * SETTLE_S) / pace_ms)
        streams.append(Shape(f"{1000 // pace_ms}/s", number, True, (("events", events), ("pace_ms", pace_ms))))
    return [*streams, Shape(f"first byte after {WAIT_MS / 1000:g} s", WAITING, more=(("wait_ms", WAIT_MS),))]


def measure(one: Series, seconds: float) -> None:
    try:
        with asyncio.Runner(loop_factory=server.loop_factory()) as runner:
            one.windows.append(runner.run(_run(one.shape, one.target, seconds)))
    except (Void, OSError) as void:  # a TimeoutError is an OSError, too
        one.target.void = True
        one.void = one.void or str(void) or f"not every answer came to its end within {DRAIN_S} s"


async def _run(shape: Shape, target: Target, seconds: float) -> Window:
    loop = asyncio.get_running_loop()
    more = dict(shape.more)
    requests, address = target.ask(shape).raw(), target.ask(shape).address
    spread_s = shape.connections / BEGIN_PER_S
    stop_s = spread_s + seconds + 2 * SETTLE_S
    begin = loop.time()
    clients = [
        Client(requests[number % len(requests)], more, begin + (0 if shape.streamed else stop_s))
        for number in range(shape.connections)
    ]

    async def one(number: int) -> None:
        await asyncio.sleep(begin + number / BEGIN_PER_S - loop.time())
        await loop.create_connection(lambda: clients[number], *address)
        await clients[number].done

    async with asyncio.timeout(stop_s + spread_s + more.get("wait_ms", 0) / 1000 + DRAIN_S):
        running = asyncio.gather(*map(one, range(shape.connections)))
        try:
            await _until(begin + spread_s + SETTLE_S, running)
            marks, cpu_s = [len(client.delays_ns) for client in clients], target.process.cpu_s()
            await _until(begin + spread_s + SETTLE_S + seconds, running)
            cpu_s, mib = target.process.cpu_s() - cpu_s, target.process.rss_mib()
            ends = [len(client.delays_ns) for client in clients]
            await running
        finally:
            running.cancel()
    target.asked += sum(client.answers for client in clients)
    counted = [client.delays_ns[mark:end] for client, mark, end in zip(clients, marks, ends, strict=True)]
    return _window(counted, seconds, cpu_s, mib)


async def _until(moment: float, running: asyncio.Future[list[None]]) -> None:
    """Raises Void as soon as a stream fails."""
    await asyncio.wait({running}, timeout=max(0.0, moment - asyncio.get_running_loop().time()))
    if running.done():
        running.result()
        raise Void("the streams ended before their time")


def _window(counted: list[list[int]], seconds: float, cpu_s: float, mib: float) -> Window:
    delays = sorted(delay / 1e9 for delays in counted for delay in delays)
    gaps = sorted((after - before) / 1e9 for delays in counted for before, after in pairwise(delays))
    if not delays:
        raise Void("nothing came while all streams ran")
    return Window(
        per_s=len(delays) / seconds,
        cpu_us=1e6 * cpu_s / len(delays),
        p50_ms=percentile(delays, 50),
        p99_ms=percentile(delays, 99),
        gap_p99_ms=percentile(gaps, 99) if gaps else 0.0,
        mib=mib,
    )


class Client(asyncio.Protocol):
    """One connection: a stream, or late answers until the end."""

    def __init__(self, request: bytes, more: dict[str, int], end: float) -> None:
        self._request = request
        self._events = more.get("events", 0)
        self._wait_ns = more.get("wait_ms", 0) * 1_000_000
        self._end = end
        self._unread = b""
        self._in_head = True
        self.delays_ns: list[int] = []
        self.answers = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._ask()

    def _ask(self) -> None:
        self._unread, self._in_head = b"", True
        self._asked_ns = time.monotonic_ns()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now_ns = time.monotonic_ns()
        if self._events:
            self._hear(data, now_ns)
            return
        self._unread += data
        if not complete(self._unread):
            return
        if self._unread[9:10] != b"2":
            self._fail(f"an answer was {self._unread[9:200].decode('latin-1')!r}")
            return
        self.delays_ns.append(now_ns - self._asked_ns - self._wait_ns)
        self.answers += 1
        if asyncio.get_running_loop().time() < self._end:
            self._ask()
        else:
            self._finish()

    def _hear(self, data: bytes, now_ns: int) -> None:
        if self._in_head:
            self._in_head = False
            if data[9:10] != b"2":
                self._fail(f"an answer was {data[9:200].decode('latin-1')!r}")
                return
        data = self._unread + data
        last = 0
        for sent in SENT.finditer(data):
            self.delays_ns.append(now_ns - int(sent[1]))
            last = sent.end()
        self._unread = data[max(last, len(data) - 64) :]
        if data.endswith(b"0\r\n\r\n"):  # the last chunk: no event of ours ends so
            self.answers += 1
            if len(self.delays_ns) == self._events:
                self._finish()
            else:
                self._fail(f"{len(self.delays_ns)} of {self._events} events came")

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio names it
        self._fail("a connection was closed without a complete answer")

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)
        self._transport.close()

    def _fail(self, why: str) -> None:
        if not self.done.done():
            self.done.set_exception(Void(why))
        self._transport.close()


def _row(one: Series, everything: list[Series], after: dict[str, float]) -> Row:
    row: Row = {"streams": str(one.shape), "asked": one.target.name}
    if one.void:
        return {**row, "per_s": "void"}
    seen = one.windows
    row |= {
        "per_s": statistics.median(w.per_s for w in seen),
        "cpu_us": statistics.median(w.cpu_us for w in seen),
        "p50_ms": statistics.median(w.p50_ms for w in seen),
        "p99_ms": statistics.median(w.p99_ms for w in seen),
    }
    if one.shape.streamed:
        row["gap_p99_ms"] = statistics.median(w.gap_p99_ms for w in seen)
    if one.target.name == "direct":
        return row
    peers = {other.target.name: other for other in everything if other.shape == one.shape}
    direct, bare = peers["direct"], peers["bare"]
    if not direct.void:
        pairs = list(zip(seen, direct.windows, strict=True))
        row["added_p99_ms"] = statistics.median(ours.p99_ms - theirs.p99_ms for ours, theirs in pairs)
        if one.shape.streamed:
            row["added_gap_p99_ms"] = statistics.median(ours.gap_p99_ms - theirs.gap_p99_ms for ours, theirs in pairs)
    row |= {"at_peak_mib": max(w.mib for w in seen), "after_mib": after[one.target.name]}
    if one is not bare and not bare.void:
        cost = Ratio.of([w.cpu_us for w in seen], [w.cpu_us for w in bare.windows])
        row |= {"cpu_of_bare": cost.median, "lowest": cost.low, "highest": cost.high}
    return row
