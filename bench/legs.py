"""The run: everything started, the legs interleaved, the books checked."""

from __future__ import annotations

import json
import statistics
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .gateway import Gateway, answer
from .load import Ask, Load, Sample, Void
from .processes import BenchError, Cores, Process, running
from .upstream import TEXT

TARGETS = ("direct", "bare", "llmgate")
"""Who is asked: the mock upstream itself, the pass-through before it, llmgate before it."""

REPOSITORY = Path(__file__).resolve().parent.parent

WARM_UP_S = 0.2


@dataclass(frozen=True)
class Shape:
    """What is asked for, over how many connections at a time."""

    streamed: bool
    connections: int

    def __str__(self) -> str:
        return f"{'stream' if self.streamed else 'plain'} x{self.connections}"

    def body(self) -> bytes:
        """As most programs write it: no bound of the output, and usage not asked for."""
        messages = [
            {"role": "system", "content": "You are a helpful assistant. Answer briefly."},
            {"role": "user", "content": "What does a gateway add to the cost of a request?"},
        ]
        asked = {"model": "bench", "messages": messages} | ({"stream": True} if self.streamed else {})
        return json.dumps(asked, separators=(",", ":")).encode()


SHAPES = tuple(Shape(streamed, connections) for streamed in (False, True) for connections in (1, 64))


@dataclass
class Leg:
    """One shape asked of one target, once per round."""

    shape: Shape
    target: str
    samples: list[Sample] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    """Processor time that the process asked has used per request; empty where the system doesn't tell."""
    void: str | None = None
    """Why its figures mean nothing."""

    @property
    def per_second(self) -> float:
        return statistics.median(sample.per_second for sample in self.samples)

    @property
    def cpu_us_per_request(self) -> float | None:
        return statistics.median(self.cpu_us) if self.cpu_us else None

    @property
    def p50_ms(self) -> float:
        return statistics.median(sample.p50_ms for sample in self.samples)

    @property
    def p99_ms(self) -> float:
        return statistics.median(sample.p99_ms for sample in self.samples)


@dataclass(frozen=True)
class Ratio:
    """How llmgate compares with the pass-through, round by round: what disturbs a whole round disturbs both."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, rounds: list[float]) -> Ratio:
        return cls(statistics.median(rounds), min(rounds), max(rounds))


@dataclass
class Result:
    pinned: bool
    legs: list[Leg] = field(default_factory=list)
    idle_mib: float = 0.0
    after_mib: float = 0.0
    first_answer_s: float = 0.0
    answered: int = 0
    """Requests of llmgate that the mock upstream has counted."""
    problems: list[str] = field(default_factory=list)

    def leg(self, shape: Shape, target: str) -> Leg:
        return next(leg for leg in self.legs if (leg.shape, leg.target) == (shape, target))

    def ratio(self, shape: Shape) -> Ratio | None:
        bare, llmgate = self.leg(shape, "bare"), self.leg(shape, "llmgate")
        if bare.void or llmgate.void:
            return None
        speeds = zip(llmgate.samples, bare.samples, strict=True)
        return Ratio.of([ours.per_second / theirs.per_second for ours, theirs in speeds])

    def cpu_ratio(self, shape: Shape) -> Ratio | None:
        """The same by processor time, which other programs on the machine disturb less."""
        bare, llmgate = self.leg(shape, "bare"), self.leg(shape, "llmgate")
        if bare.void or llmgate.void or not (bare.cpu_us and llmgate.cpu_us):
            return None
        return Ratio.of([theirs / ours for ours, theirs in zip(llmgate.cpu_us, bare.cpu_us, strict=True)])


@dataclass(frozen=True)
class _Target:
    process: Process
    base_url: str
    headers: dict[str, str] = field(default_factory=dict)

    def ask(self, shape: Shape) -> Ask:
        headers = {"Content-Type": "application/json", **self.headers}
        return Ask(f"{self.base_url}/v1/chat/completions", shape.body(), headers)


def measure(load: Load, *, engine: str, rounds: int, seconds: float, say: Callable[[str], None]) -> Result:
    """Raises BenchError where nothing can be measured; what can't be trusted is told in the result."""
    cores = Cores()
    result = Result(cores.pinned)
    with tempfile.TemporaryDirectory(prefix="llmgate-bench-") as name, cores.on(cores.load):
        folder = Path(name)
        say("starting")
        with _neighbours(cores, folder, engine) as (mock, bare):
            upstream = mock.address()
            (folder / "gateway").mkdir()
            gateway = Gateway(folder / "gateway", cores, upstream, engine)
            with gateway.serving(SHAPES[0].body()) as process:
                targets = {
                    "direct": _Target(mock, f"{upstream}/direct"),
                    "bare": _Target(bare, bare.address()),
                    "llmgate": _Target(process, process.address(), gateway.headers),
                }
                _compare(targets)
                gateway.asked += 2
                warm = _warm_up(targets, load, say)
                result.legs = _legs(targets, load, rounds, seconds, say)
                result.after_mib = process.rss_mib()
            say("checking the books")
            result.idle_mib, result.first_answer_s = gateway.idle_mib, gateway.first_answer_s
            result.answered = _answered(upstream)
            voided = [leg for leg in result.legs if leg.void]
            result.problems += [f"{leg.shape} {leg.target} is void: {leg.void}" for leg in voided]
            result.problems += gateway.books(result.answered)
            loaded = sum(sample.requests for leg in result.legs if leg.target == "llmgate" for sample in leg.samples)
            asked = gateway.asked + warm + loaded
            if not voided and asked != result.answered:
                result.problems.append(f"llmgate was asked {asked:,} times, and the upstream {result.answered:,} times")
    return result


@contextmanager
def _neighbours(cores: Cores, folder: Path, engine: str) -> Iterator[tuple[Process, Process]]:
    """The mock upstream and the pass-through."""
    env = {"PYTHONPATH": str(REPOSITORY)}
    with running(Process("upstream", ["bench.upstream"], folder, env)) as mock:
        upstream = mock.address()
        with cores.on(cores.gateway):
            bare = Process("bare", ["bench.bare", f"{upstream}/bare", engine], folder, env)
        with running(bare):
            yield mock, bare


def _compare(targets: dict[str, _Target]) -> None:
    """Whatever is measured must give the answer that the mock upstream gives."""
    for target in targets.values():
        plain = json.loads(answer(target.ask(Shape(streamed=False, connections=1))))
        lines = answer(target.ask(Shape(streamed=True, connections=1))).split("\n\n")
        events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
        deltas = [choice["delta"].get("content", "") for event in events for choice in event["choices"]]
        if plain["choices"][0]["message"]["content"] != TEXT or "".join(deltas) != TEXT or "data: [DONE]" not in lines:
            raise BenchError(f"{target.base_url} doesn't give the upstream's answer")


def _warm_up(targets: dict[str, _Target], load: Load, say: Callable[[str], None]) -> int:
    """Fill pools and caches. Returns how often llmgate was asked."""
    say("warming up")
    asked = 0
    for shape in SHAPES:
        for name, target in targets.items():
            try:
                sample = load(target.ask(shape), shape.connections, WARM_UP_S)
            except Void as void:
                raise BenchError(f"warming up, {shape} {name}: {void}") from void
            asked += sample.requests if name == "llmgate" else 0
    return asked


def _legs(
    targets: dict[str, _Target], load: Load, rounds: int, seconds: float, say: Callable[[str], None]
) -> list[Leg]:
    """All shapes and targets in each round; every other round runs the targets the other way round."""
    legs = [Leg(shape, target) for shape in SHAPES for target in TARGETS]
    for number in range(rounds):
        for shape in SHAPES:
            turn = [leg for leg in legs if leg.shape == shape]
            for leg in turn if number % 2 == 0 else reversed(turn):
                say(f"round {number + 1} of {rounds}: {leg.shape} {leg.target}")
                try:
                    _measure(leg, targets[leg.target], load, seconds)
                except Void as void:
                    leg.void = leg.void or str(void)
    return legs


def _measure(leg: Leg, target: _Target, load: Load, seconds: float) -> None:
    before = target.process.cpu_s()
    sample = load(target.ask(leg.shape), leg.shape.connections, seconds)
    after = target.process.cpu_s()
    leg.samples.append(sample)
    if before is not None and after is not None:
        leg.cpu_us.append(1e6 * (after - before) / sample.requests)


def _answered(upstream: str) -> int:
    """How often the mock upstream has answered llmgate."""
    with urllib.request.urlopen(upstream, timeout=10) as counts:
        return int(json.load(counts)["llmgate"])
