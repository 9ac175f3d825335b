"""`kill -9` at any instant, again and again: whom the upstream began to answer is booked once, and nothing stays held.

Instants are drawn, not timed: after so many requests of a round have reached the upstream, and a moment more. Each
round begins with the next start, which books what the kill cut off, and what `verify` then says.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path

from tests.replay import Pause, Request, Step, json_answer, sse, sse_answer, until
from tests.served import (
    DONE,
    ESTIMATED_INPUT,
    INPUT_NANO,
    OUTPUT_NANO,
    Person,
    Served,
    completion,
    estimate,
    main_upstream,
    usage_chunk,
    usage_of,
    words,
)

from .figures import Figures
from .scene import ANSWER_S, Reply, Upstream, ask, daemons, held, rows_of, session

MOST_MORE_S = 0.15
"""The moment more, at most: about as long as an answer takes, so that every step of the walk is hit."""

CREDIT_NANO = 100 * 10**9


def run(figures: Figures, folder: Path, *, rounds: int = 100, connections: int = 16) -> None:
    rng = random.Random(figures.seed)
    with Upstream(_answer) as up:
        config = {"log": {"level": "warning"}, "upstreams": {"main": main_upstream(up)}}
        with daemons(folder, config) as (served,):
            alice = served.person(credits="100")
            for number in range(rounds):
                figures.rounds += 1
                after = len(up.journal) + rng.randint(1, 3 * connections)
                more_s = rng.uniform(0, MOST_MORE_S)
                replies = asyncio.run(_until_killed(served, alice, up, f"{number}-", connections, after, more_s))
                figures.count(replies)
                interrupted = rng.choice(("input", "none"))
                served.write_config(config | {"accounting": {"interrupted": interrupted}})
                served.start()
                figures.must(held(served) == 0, f"round {number}: {held(served)} holds are left after the start")
                figures.verify(served)
                charge = estimate(0) if interrupted == "input" else 0
                _check(figures, up, served, replies, f"{number}-", charge)
            rows = rows_of(served)
            figures.one_row_each(up.journal, rows)
            charged = sum(row["charge_nano"] for found in rows.values() for row in found)
            figures.must(served.balance(alice.name) == CREDIT_NANO - charged, "the balance is not what the rows leave")
            figures.rows = sum(map(len, rows.values()))
            figures.interrupted = sum(row["status"] == "interrupted" for found in rows.values() for row in found)


async def _until_killed(
    served: Served, person: Person, up: Upstream, prefix: str, connections: int, after: int, more_s: float
) -> list[Reply]:
    """Requests without end, plain and streamed, until the daemon is dead."""
    dead = asyncio.Event()
    replies: list[Reply] = []

    async def client(first: int) -> None:
        async with session(1) as http:
            number = first
            while not dead.is_set():
                streamed = number % 2 == 0
                marker = f"{prefix}{number}"
                replies.append(await ask(http, served.url, person.key, marker, stream=streamed, max_tokens=100))
                number += connections

    async def killer() -> None:
        await until(lambda: len(up.journal) >= after, ANSWER_S)
        await asyncio.sleep(more_s)
        served.kill()
        dead.set()

    await asyncio.gather(killer(), *(client(first) for first in range(connections)))
    return replies


def usage(marker: str) -> tuple[int, int]:
    """What the upstream says it used for a marker: another for each, so that no two can be taken for each other."""
    return ESTIMATED_INPUT, 1 + int(marker.rpartition("-")[2]) % 97


def _answer(request: Request) -> Sequence[Step]:
    body = request.json()
    used = usage(body["user"])
    if body.get("stream"):
        one, two, *rest = words("so", "far", "so", "good")
        return sse_answer(one, Pause(0.02), two, Pause(0.02), *rest, sse(usage_chunk(*used)), DONE)
    return (Pause(0.03), *json_answer(completion("so far, so good", usage=usage_of(*used))))


def _check(figures: Figures, up: Upstream, served: Served, replies: Sequence[Reply], prefix: str, charge: int) -> None:
    """What was answered whole is booked exactly, what was cut off is `interrupted`, and there is nothing else."""
    rows = rows_of(served, prefix)
    began = {marker for marker in up.journal if marker.startswith(prefix)}
    figures.one_row_each(began, rows)
    figures.must(not [reply for reply in replies if reply.code], f"{prefix} a request was refused")
    whole = {reply.marker for reply in replies if reply.served}
    for marker, (row, *_) in rows.items():
        status = row["status"]
        figures.must(status in ("ok", "interrupted"), f"{marker} is booked as {status}")
        figures.must(marker in began or status == "interrupted", f"{marker} is booked as {status}, and never began")
        figures.must(marker not in whole or status == "ok", f"{marker} was answered whole, and is booked as {status}")
        used = usage(marker)
        due = used[0] * INPUT_NANO + used[1] * OUTPUT_NANO if status == "ok" else charge
        figures.must(row["charge_nano"] == due, f"{marker}, {status}, is charged {row['charge_nano']}, not {due}")
