"""Many requests: neither the memory of the process nor what it has allocated may grow with them.

One llmgate is as it is, the other one traces its allocations, which makes it slow, and exact.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable

from .load import LOADS, Void
from .processes import BenchError
from .scene import REPOSITORY, Target, compare, plain, scene, stream
from .told import Setting, Told

SHAPES = (plain(64), stream(64))
"""In turn."""

MARKS = 10
"""How often it is looked at; what the first `WARM` of them bring isn't growth: pools and caches fill."""
WARM = 3

TRACED_SHARE = 4
"""Tracing tells each byte, so a part of the requests will do: one in so many."""

MOST_MIB = 4.0
"""What the memory of the process may grow: the system gives and takes it by the piece."""

MOST_ALLOCATED_MIB = 0.5
"""What may be allocated more: connections come and go."""

TRACED = re.compile(r"^traced (\d+)$(.*?)^told$", re.MULTILINE | re.DOTALL)
TELLS_WITHIN_S = 60.0

Weigh = Callable[[Target], float]


def soak(setting: Setting) -> Told:
    """Raises BenchError where nothing can be measured."""
    told = Told()
    with scene() as played:
        setting.say("starting")
        env = {"PYTHONPATH": str(REPOSITORY)}
        as_it_is = played.gateway(engine=setting.engine)
        traced = played.gateway("traced", engine=setting.engine, module="bench.traced", env=env)
        for target in (as_it_is, traced):
            compare(target)
        held = _marks(as_it_is, setting, setting.requests, lambda target: target.process.rss_mib())
        allocated = _marks(traced, setting, setting.requests // TRACED_SHARE, lambda target: _allocated(target) / 2**20)
        grown = TRACED.findall(traced.process.said())[-1][1].strip()
    told.tables[f"soak, {setting.engine}, plain and streamed, 64 connections"] = [
        {
            "requests": int(requests),
            "rss_mib": mib,
            "requests_of_traced": int(of_traced),
            "allocated_mib": allocated_mib,
        }
        for (requests, mib), (of_traced, allocated_mib) in zip(held, allocated, strict=True)
    ]
    told.notes = [_growth(held, "rss"), _growth(allocated, "allocated"), *played.notes()]
    told.problems = played.problems
    if growth(held)[0] > MOST_MIB:
        told.problems.append(f"the memory of the process grows: {_growth(held, 'rss')}")
    if growth(allocated)[0] > MOST_ALLOCATED_MIB:
        told.problems.append(f"what is allocated grows: {_growth(allocated, 'allocated')}\n{grown}")
    return told


Marks = list[tuple[float, float]]
"""(requests so far, MiB)"""


def _marks(target: Target, setting: Setting, requests: int, weigh: Weigh) -> Marks:
    """Ask until it was asked so often. Raises BenchError."""
    first, marks = target.asked, [(0.0, weigh(target))]
    turn = 0
    for number in range(1, MARKS + 1):
        while target.asked - first < requests * number / MARKS:
            setting.say(f"{target.name}: {target.asked - first:,} of {requests:,}")
            try:
                target.load(LOADS[setting.load], SHAPES[turn % len(SHAPES)], setting.seconds)
            except Void as void:
                raise BenchError(f"{target.name}, after {target.asked - first:,} requests: {void}") from void
            turn += 1
        marks.append((float(target.asked - first), weigh(target)))
    return marks


def _allocated(target: Target) -> int:
    """Bytes. Raises BenchError."""
    before = len(TRACED.findall(target.process.said()))
    target.process.signal(signal.SIGUSR2)
    give_up = time.monotonic() + TELLS_WITHIN_S
    while time.monotonic() < give_up and target.process.alive():
        answers = TRACED.findall(target.process.said())
        if len(answers) > before:
            return int(answers[-1][0])
        time.sleep(0.05)
    raise BenchError(f"{target.name} doesn't tell what it has allocated: {target.process.last_words()}")


def growth(marks: Marks) -> tuple[float, float]:
    """What came after it was warm: MiB, and bytes per request."""
    (first, before), (last, after) = marks[WARM], marks[-1]
    return after - before, (after - before) * 2**20 / max(1.0, last - first)


def _growth(marks: Marks, name: str) -> str:
    mib, each = growth(marks)
    return f"{name}: {mib:+.2f} MiB over the last {marks[-1][0] - marks[WARM][0]:,.0f} requests, {each:+.2f} bytes each"
