"""Requests per second, latency and memory: llmgate beside a bare pass-through, at both durabilities, and others."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from .beside import BESIDE
from .load import LOADS, Sample, Void
from .processes import BenchError
from .scene import STARTS, Shape, Target, compare, plain, scene, stream
from .told import Ratio, Row, Setting, Told

SHAPES = (*(plain(number) for number in (1, 64, 512)), *(stream(number) for number in (1, 64, 512)))

LITELLM_MOST = 64
"""Connections; with more, its queue is longer than clients wait."""

WARM_UP_S = 0.2


@dataclass
class Series:
    """One shape asked of one target, once per round."""

    shape: Shape
    target: Target
    samples: list[Sample] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    """Processor time of the process that is asked, per request."""
    void: str | None = None
    """Why its figures mean nothing."""

    @property
    def speeds(self) -> list[float]:
        return [sample.per_second for sample in self.samples]

    def measure(self, setting: Setting, seconds: float) -> None:
        try:
            sample, cpu_us = self.target.load(LOADS[setting.load], self.shape, seconds)
        except Void as void:
            self.void = self.void or str(void)
            return
        self.samples.append(sample)
        self.cpu_us.append(cpu_us)


def throughput(setting: Setting) -> Told:
    """Raises BenchError where nothing can be measured."""
    told = Told()
    with scene() as played:
        setting.say("starting")
        targets = [
            played.direct(),
            played.bare(setting.engine),
            played.gateway(starts=STARTS, engine=setting.engine),
            played.gateway("llmgate full", engine=setting.engine, durability="full"),
            *(target for start in BESIDE if setting.beside and (target := start(played)) is not None),
        ]
        for target in targets:
            compare(target)
        everything = [Series(shape, target) for shape in SHAPES for target in targets if _asked(shape, target)]
        warm_up(everything, setting)
        interleave(everything, setting)
        for target in targets[1:]:
            target.weigh()
    title = f"answers, {setting.engine}, medians of {setting.rounds} rounds of {setting.seconds:g} s"
    told.tables[title] = [row for shape in SHAPES for row in rows([one for one in everything if one.shape == shape])]
    told.tables["memory, and from the start to the first answer"] = [target.memory() for target in targets[1:]]
    told.problems = voids(everything) + played.problems
    told.notes = [*_against(everything, "litellm"), *played.notes()]
    return told


def _against(everything: list[Series], name: str) -> list[str]:
    """How much more llmgate answers than somebody else."""
    ours = {one.shape: one for one in everything if one.target.name == "llmgate" and not one.void}
    theirs = [one for one in everything if one.target.name == name and not one.void and one.shape in ours]
    times = {one.shape: Ratio.of(ours[one.shape].speeds, one.speeds).median for one in theirs}
    return [f"{shape}: llmgate answers {often:.0f} times as many as {name}" for shape, often in times.items()]


def _asked(shape: Shape, target: Target) -> bool:
    return target.name != "litellm" or shape.connections <= LITELLM_MOST


def warm_up(everything: list[Series], setting: Setting) -> None:
    """Fill pools and caches."""
    setting.say("warming up")
    for one in everything:
        try:
            one.target.load(LOADS[setting.load], one.shape, WARM_UP_S)
        except Void as void:
            raise BenchError(f"warming up, {one.shape} {one.target.name}: {void}") from void


def interleave(everything: list[Series], setting: Setting) -> None:
    """All shapes and targets in each round; every other round runs the targets the other way round."""
    for number in range(setting.rounds):
        for shape in dict.fromkeys(one.shape for one in everything):
            turn = [one for one in everything if one.shape == shape]
            for one in turn if number % 2 == 0 else reversed(turn):
                setting.say(f"round {number + 1} of {setting.rounds}: {one.shape} {one.target.name}")
                one.measure(setting, setting.seconds)


def voids(everything: Sequence[Series]) -> list[str]:
    return [f"{one.shape} {one.target.name} is void: {one.void}" for one in everything if one.void]


def rows(turn: list[Series]) -> list[Row]:
    """Of one shape."""
    by_name = {one.target.name: one for one in turn}
    direct, bare = by_name.get("direct"), by_name.get("bare")
    return [_row(one, direct, bare) for one in turn]


def _row(one: Series, direct: Series | None, bare: Series | None) -> Row:
    row: Row = {"leg": str(one.shape), "asked": one.target.name}
    if one.void:
        return {**row, "requests_per_s": "void"}
    row["requests_per_s"] = statistics.median(one.speeds)
    row["p50_ms"] = statistics.median(sample.p50_ms for sample in one.samples)
    row["p99_ms"] = statistics.median(sample.p99_ms for sample in one.samples)
    if direct and direct is not one and not direct.void and one.shape.connections == 1:
        pairs = list(zip(one.samples, direct.samples, strict=True))
        row["added_p50_ms"] = statistics.median(ours.p50_ms - theirs.p50_ms for ours, theirs in pairs)
        row["added_p99_ms"] = statistics.median(ours.p99_ms - theirs.p99_ms for ours, theirs in pairs)
    row["cpu_us"] = statistics.median(one.cpu_us)
    if bare and not bare.void and one not in (direct, bare):
        speed = Ratio.of(one.speeds, bare.speeds)
        row |= {"of_bare": speed.median, "lowest": speed.low, "highest": speed.high}
        row["by_cpu"] = Ratio.of(bare.cpu_us, one.cpu_us).median
    return row
