"""One worker beside two on one database: how much of a second core becomes requests."""

from __future__ import annotations

import statistics

import psutil

from .scene import Scene, compare, plain, scene, stream
from .throughput import Series, interleave, rows, voids, warm_up
from .told import Ratio, Row, Setting, Told

WORKERS = (1, 2)
SHAPES = (plain(64), stream(64))


def workers(setting: Setting) -> Told:
    """Raises BenchError where nothing can be measured."""
    told = Told()
    with scene() as played:
        setting.say("starting")
        targets = [
            played.gateway(
                f"{number} worker{'s' * (number > 1)}", cores=played.cores.all, engine=setting.engine, workers=number
            )
            for number in WORKERS
        ]
        for target in targets:
            compare(target)
        everything = [Series(shape, target) for shape in SHAPES for target in targets]
        warm_up(everything, setting)
        interleave(everything, setting)
        for target in targets:
            target.weigh()
    title = f"workers, {setting.engine}, medians of {setting.rounds} rounds of {setting.seconds:g} s"
    told.tables[title] = [row for shape in SHAPES for row in _rows([one for one in everything if one.shape == shape])]
    told.tables["memory, and from the start to the first answer"] = [target.memory() for target in targets]
    told.problems = voids(everything) + played.problems
    told.notes = played.notes(_where(played))
    return told


def _rows(turn: list[Series]) -> list[Row]:
    one, two = turn
    first, second = rows(turn)
    if not one.void and not two.void:
        speed = Ratio.of(two.speeds, one.speeds)
        second |= {"of_one": speed.median, "lowest": speed.low, "highest": speed.high}
        second["of_one_by_cpu"] = statistics.median(
            WORKERS[1] * single / several for single, several in zip(one.cpu_us, two.cpu_us, strict=True)
        )
    return [first, second]


def _where(played: Scene) -> str:
    cores = len(played.cores.all) or psutil.cpu_count() or 1
    shared = "; the load and the mock upstream share them" if cores <= WORKERS[-1] else ""
    return (
        f"workers on {cores} cores{shared}: by CPU is what two cores of their own would give, as long as neither waits"
    )
