"""A request costs the same with one key and with ten thousand, with no usage rows and with ten million."""

from __future__ import annotations

import statistics
from functools import partial
from pathlib import Path

from llmgate.money import NANO
from llmgate.store import accounts, keys, ledger
from llmgate.store.db import Database

from . import reports
from .scene import compare, plain, scene
from .throughput import Series, interleave, rows, voids, warm_up
from .told import Ratio, Row, Setting, Told

KEYS, USERS = 10_000, 100
SHAPES = (plain(1), plain(64))

MOST = 1.25
"""Times the processor time of the first that any of them may take; caches of the processor are not endless."""


def flat(setting: Setting) -> Told:
    """Raises BenchError where nothing can be measured."""
    told = Told()
    with scene() as played:
        setting.say("starting")
        few = played.gateway("one key", engine=setting.engine)
        many_keys = played.gateway("many keys", engine=setting.engine, keys=_keys)
        setting.say(f"building a database of {setting.rows:,} usage rows")
        build = partial(reports.build, rows=setting.rows)
        many_rows = played.gateway("many rows", engine=setting.engine, prepare=build)
        targets = (few, many_keys, many_rows)
        for target in targets:
            compare(target)
        everything = [Series(shape, target) for shape in SHAPES for target in targets]
        warm_up(everything, setting)
        interleave(everything, setting)
        for target in targets:
            target.weigh()
        setting.say("checking the books")
    title = f"flat, {setting.engine}, medians of {setting.rounds} rounds of {setting.seconds:g} s"
    told.tables[title] = [row for shape in SHAPES for row in _rows([one for one in everything if one.shape == shape])]
    told.tables["memory, and from the start to the first answer"] = [target.memory() for target in targets]
    told.notes = [f"many keys: {KEYS:,} of {USERS:,} users, in turn; many rows: {setting.rows:,}", *played.notes()]
    told.problems = voids(everything) + played.problems
    told.problems += [
        f"{row['leg']}, {row['asked']}: {row['cpu_of_first']:.2f} times the processor time"
        for rows in told.tables.values()
        for row in rows
        if row.get("cpu_of_first", 0) > MOST
    ]
    return told


def _keys(path: Path) -> tuple[str, ...]:
    """Of many users, each as well off as the only one elsewhere."""
    issued = []
    with Database(path, actor="bench") as db, db.write() as tx:
        for number in range(USERS):
            user = f"user-{number}"
            accounts.add_user(tx, user)
            ledger.add(tx, user, 1_000_000 * NANO)
            issued += [keys.add(tx, user, name=f"key-{each}").key for each in range(KEYS // USERS)]
    return tuple(issued)


def _rows(turn: list[Series]) -> list[Row]:
    first, *others = turn
    told = rows(turn)
    for row, other in zip(told[1:], others, strict=True):
        if not first.void and not other.void:
            row["cpu_of_first"] = Ratio.of(other.cpu_us, first.cpu_us).median
            row["p50_of_first"] = statistics.median(
                theirs.p50_ms / ours.p50_ms for theirs, ours in zip(other.samples, first.samples, strict=True)
            )
    return told
