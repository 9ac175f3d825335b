"""What a leg is played on: a mock upstream, who is asked before it, and the books of each gateway at the end."""

from __future__ import annotations

import http.client
import json
import re
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from .gateway import Gateway
from .load import Ask, Load, Sample, Void
from .processes import START_S, BenchError, Cores, Neighbours, Process, python, running
from .told import Row
from .upstream import TEXT

REPOSITORY = Path(__file__).resolve().parent.parent

COMPLAINT = re.compile(r"^\S+Z (?:warning|error|critical) .*", re.MULTILINE)
"""A line of llmgate's log that a run without a failed request has no reason for."""

STARTS = 3
"""How often llmgate is started to see how long that takes."""


@dataclass(frozen=True)
class Shape:
    """What is asked for, over how many connections at a time."""

    kind: str
    connections: int
    streamed: bool = False
    more: tuple[tuple[str, int], ...] = ()
    """What the mock upstream is asked for beyond that: see there."""

    def __str__(self) -> str:
        return f"{self.kind} x{self.connections}"

    def body(self) -> bytes:
        """As most programs write it: no bound of the output, and usage not asked for."""
        messages = [
            {"role": "system", "content": "You are a helpful assistant. Answer briefly."},
            {"role": "user", "content": "What does a gateway add to the cost of a request?"},
        ]
        asked: dict[str, Any] = {"model": "bench", "messages": messages, **dict(self.more)}
        return json.dumps(asked | ({"stream": True} if self.streamed else {}), separators=(",", ":")).encode()


def plain(connections: int) -> Shape:
    return Shape("plain", connections)


def stream(connections: int) -> Shape:
    """22 events that come at once."""
    return Shape("stream", connections, streamed=True)


@dataclass
class Target:
    """Who is asked."""

    name: str
    process: Process
    base_url: str
    keys: tuple[str, ...] = ()
    """Which take turns."""
    first_answer_s: float | None = None
    """From the start of the process to its first answer."""
    idle_mib: float = 0.0
    """After its first answer."""
    after_mib: float = 0.0
    peak_mib: float = 0.0
    asked: int = 0
    """How often; unknown once a load was void."""
    void: bool = False

    def ask(self, shape: Shape) -> Ask:
        return Ask(f"{self.base_url}/v1/chat/completions", shape.body(), self.keys)

    def once(self, shape: Shape) -> str:
        self.asked += 1
        return answer(self.ask(shape))

    def weigh(self) -> None:
        """Write down the memory that it has come to."""
        self.after_mib, self.peak_mib = self.process.rss_mib(), self.process.peak_mib()

    def memory(self) -> Row:
        return {
            "process": self.name,
            "idle_mib": self.idle_mib,
            "peak_mib": self.peak_mib,
            "after_mib": self.after_mib,
            "first_answer_s": self.first_answer_s,
        }

    def load(self, load: Load, shape: Shape, seconds: float) -> tuple[Sample, float]:
        """What the load measured, and the processor time that it cost the process, in µs per request. Raises Void."""
        before = self.process.cpu_s()
        try:
            sample = load(self.ask(shape), shape.connections, seconds)
        except Void:
            self.void = True
            raise
        self.asked += sample.requests
        return sample, 1e6 * (self.process.cpu_s() - before) / sample.requests


@dataclass
class Scene:
    """One run. Whoever is asked is started by a method, and stopped at the end; `problems` is true only after it."""

    folder: Path
    cores: Cores
    mock: Process
    problems: list[str] = field(default_factory=list)
    others: float = 0.0
    """Cores that other programs have used meanwhile."""
    answered: int = 0
    """Answers of the mock upstream to gateways whose books were checked."""
    _stack: ExitStack = field(default_factory=ExitStack)

    def direct(self) -> Target:
        return Target("direct", self.mock, f"{self.mock.address()}/direct")

    def bare(self, engine: str) -> Target:
        env = {"PYTHONPATH": str(REPOSITORY)}
        return self.other(
            "bare", lambda: Process("bare", python("bench.bare", self._for("bare"), engine), self.folder, env)
        )

    def other(
        self, name: str, start: Callable[[], Process], *, keys: tuple[str, ...] = (), within_s: float = START_S
    ) -> Target:
        """Somebody who keeps no books."""
        began = time.monotonic()
        with self.cores.on(self.cores.gateway):
            process = self._stack.enter_context(running(start()))
        target = Target(name, process, process.address(), keys)
        return self._answering(target, began, within_s)

    def gateway(
        self,
        name: str = "llmgate",
        *,
        cores: set[int] | None = None,
        starts: int = 1,
        module: str = "llmgate",
        env: dict[str, str] | None = None,
        keys: Callable[[Path], tuple[str, ...]] | None = None,
        **options: Any,
    ) -> Target:
        """An installation of its own; `options` are Gateway's, `keys` makes keys to take turns instead of the one."""
        folder = self.folder / name.replace(" ", "-")
        folder.mkdir()
        gateway = Gateway(folder, self._for(name), **options)
        asking = keys(folder / "llmgate.db") if keys else (gateway.key,)

        def begin() -> tuple[Target, float]:
            began = time.monotonic()
            with self.cores.on(self.cores.gateway if cores is None else cores):
                process = gateway.start(name, module, env)
            try:
                target = self._answering(Target(name, process, process.address(), asking), began)
            except BaseException:
                process.stop()
                raise
            return target, target.first_answer_s or 0.0

        tries = []
        for _ in range(starts - 1):
            target, took_s = begin()
            tries.append(took_s)
            _end(target.process)
        asked = sum(1 for _ in tries)
        target, took_s = begin()
        target.asked += asked
        target.first_answer_s = statistics.median([*tries, took_s])
        self._stack.enter_context(self._booked(gateway, target))
        return target

    def _for(self, name: str) -> str:
        """The mock as somebody sees it: it counts whom it answers."""
        return f"{self.mock.address()}/{name.replace(' ', '-')}"

    def _answering(self, target: Target, began: float, within_s: float = START_S) -> Target:
        """Once it gives the answer that the mock upstream gives. Raises BenchError."""
        while True:
            try:
                target.once(plain(1))
                break
            except BenchError as error:
                target.asked = 0
                if time.monotonic() - began > within_s or not target.process.alive():
                    raise BenchError(f"{error}\n{target.process.last_words()}") from error
                time.sleep(0.01)
        target.first_answer_s = time.monotonic() - began
        target.idle_mib = target.process.rss_mib()
        return target

    @contextmanager
    def _booked(self, gateway: Gateway, target: Target) -> Iterator[None]:
        """Its end, and what is wrong with its books then."""
        try:
            yield
        except BaseException:
            target.process.stop()
            raise
        _end(target.process)
        complaints = COMPLAINT.findall(target.process.said())
        self.problems += [f"{target.name} logged {len(complaints)} lines: {complaints[0]}"] if complaints else []
        answered = self.counted(target)
        self.answered += answered
        self.problems += [f"{target.name}: {problem}" for problem in gateway.books(answered, whole=not target.void)]
        if not target.void and target.asked != answered:
            self.problems.append(f"{target.name} was asked {target.asked:,} times, the upstream {answered:,} times")

    def counted(self, target: Target) -> int:
        """How often the mock upstream has answered it."""
        with urllib.request.urlopen(self.mock.address(), timeout=10) as counts:
            return int(json.load(counts).get(target.name.replace(" ", "-"), 0))

    def notes(self, where: str | None = None) -> list[str]:
        """What is said below the figures."""
        pinned = "gateways on one core, load and upstream on another" if self.cores.pinned else "nothing pinned"
        books = f"books: {self.answered:,} answers of the upstream, as many usage rows; llmgate verify passed"
        others = f"other programs used {self.others:.2f} of the machine's {psutil.cpu_count()} cores meanwhile"
        return [where or pinned, others] + ([] if self.problems else [books])


@contextmanager
def scene() -> Iterator[Scene]:
    cores, neighbours = Cores(), Neighbours()
    with tempfile.TemporaryDirectory(prefix="llmgate-bench-") as name, cores.on(cores.load):
        folder = Path(name)
        mock = Process("upstream", python("bench.upstream"), folder, {"PYTHONPATH": str(REPOSITORY)})
        with running(mock):
            played = Scene(folder, cores, mock)
            with played._stack:
                yield played
        played.others = neighbours.cores()


def compare(target: Target) -> None:
    """Whoever is measured must give the answer that the mock upstream gives. Raises BenchError."""
    said = json.loads(target.once(plain(1)))
    lines = target.once(stream(1)).split("\n\n")
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    deltas = [choice["delta"].get("content") or "" for event in events for choice in event["choices"]]
    if said["choices"][0]["message"]["content"] != TEXT or "".join(deltas) != TEXT or "data: [DONE]" not in lines:
        raise BenchError(f"{target.name} doesn't give the upstream's answer")


def _end(process: Process) -> None:
    code = process.stop()
    if code:
        raise BenchError(f"{process.name} ended with {code}: {process.last_words()}")


def answer(ask: Ask) -> str:
    """Ask once, outside of all measuring, and return the body of the answer."""
    connection = http.client.HTTPConnection(*ask.address, timeout=30)
    try:
        connection.request("POST", ask.path, ask.body, ask.headers())
        response = connection.getresponse()
        body = response.read().decode()
    except (OSError, http.client.HTTPException) as error:
        raise BenchError(f"{ask.url} doesn't answer: {error}") from error
    finally:
        connection.close()
    if response.status != 200:
        raise BenchError(f"{ask.url} answers {response.status}: {body[:500]}")
    return body
