"""Clients that vanish at every step, politely and rudely, from upstreams that stop billing and from some that don't.

Where the upstream waits for the client to be gone, what must be charged is known to the nano-USD. Where both go on at
their own pace (`whenever`), it is known where usage was heard; else it is at least the prompt, and at most the hold.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tests.replay import HANG, Pause, Request, Step, json_answer, sse, sse_answer, until
from tests.served import (
    DONE,
    INPUT_BOUND,
    INPUT_NANO,
    OUTPUT_NANO,
    Person,
    Served,
    chat_body,
    chunk_of,
    completion,
    estimate,
    main_upstream,
    usage_chunk,
    usage_of,
)

from .figures import Figures
from .scene import ANSWER_S, Upstream, connect, daemons, held, rows_of

CREDIT_NANO = 100 * 10**9
MOST_OUTPUT = 200
USAGE = (10, 33)
EXACT = USAGE[0] * INPUT_NANO + USAGE[1] * OUTPUT_NANO
HOLD = INPUT_BOUND * INPUT_NANO + MOST_OUTPUT * OUTPUT_NANO
TEXT = "hello "
HELLO = sse(chunk_of(TEXT))
COUNTED = sse(chunk_of(TEXT, usage=usage_of(*USAGE)))
STOP = sse(chunk_of(finish="stop"))
USED = sse(usage_chunk(*USAGE))
MOMENT = Pause(0.05)
"""In which clients are noticed as gone, or not: what is charged doesn't depend on it."""

Mode = Literal["cancel", "drain"]


@dataclass(frozen=True)
class Case:
    """Where a client vanishes, and what its request must come to."""

    name: str
    streamed: bool
    steps: tuple[Step, ...]
    seen: bytes
    """The client goes once it has read this; empty: once the upstream has the request."""
    cancel: int | None
    drain: int | None
    """What is charged in either mode; None: what was estimated on the way, or exactly."""
    closed: bool = False
    """In mode `cancel` the upstream is closed then. It waits for that: what it would say later must not be charged."""

    def script(self, mode: Mode) -> Sequence[Step]:
        waits = self.closed and mode == "cancel"
        return [HANG if waits and step is MOMENT else step for step in self.steps]


HEARD = (HELLO, STOP, USED, DONE)
SLOWLY = tuple(step for _ in range(12) for step in (HELLO, Pause(0.004)))
PLAIN = json_answer(completion(TEXT, usage=usage_of(*USAGE)))
SILENT = json_answer(completion(TEXT))
ONCE = estimate(len(TEXT))
CASES = (
    Case("before the answer", True, sse_answer(MOMENT, *HEARD), b"", estimate(0), EXACT, closed=True),
    Case("after a chunk", True, sse_answer(HELLO, MOMENT, *HEARD), HELLO, ONCE, EXACT, closed=True),
    Case("after a count", True, sse_answer(COUNTED, MOMENT, *HEARD), COUNTED, EXACT, EXACT, closed=True),
    Case("after the last word", True, sse_answer(HELLO, STOP, MOMENT, USED, DONE), STOP, EXACT, EXACT),
    Case("after the last event", True, sse_answer(*HEARD, MOMENT), DONE, EXACT, EXACT),
    Case("after the end", True, sse_answer(*HEARD), b"\r\n0\r\n\r\n", EXACT, EXACT),
    Case("whenever", True, sse_answer(*SLOWLY, *HEARD), b"", None, None),
    Case("a plain call", False, (MOMENT, *PLAIN), b"", EXACT, EXACT),
    Case("a plain call that tells no usage", False, (MOMENT, *SILENT), b"", ONCE, ONCE),
    Case("before its request is whole", True, (HANG,), b"", 0, 0),
)


@dataclass(frozen=True)
class Departure:
    """One client that vanishes."""

    marker: str
    case: Case
    mode: Mode
    rudely: bool
    """With a TCP reset."""
    after_s: float
    """How long it stays, where it waits for nothing."""

    def __str__(self) -> str:
        return f"{self.case.name}, {self.mode}, {self.marker}"


def run(figures: Figures, folder: Path, *, rounds: int = 1000, at_once: int = 20) -> None:
    figures.rounds = rounds
    rng = random.Random(figures.seed)
    plan = {str(number): _draw(str(number), CASES[number % len(CASES)], rng) for number in range(rounds)}

    def script(request: Request) -> Sequence[Step]:
        departure = plan[request.json()["user"]]
        return departure.case.script(departure.mode)

    with Upstream(script) as up:
        upstreams = {mode: main_upstream(up, on_disconnect=mode) for mode in ("cancel", "drain")}
        config = {"log": {"level": "warning"}, "upstreams": upstreams}
        with daemons(folder, config) as (served,):
            alice = served.person(credits="100")
            asyncio.run(_all(served, alice, up, plan.values(), at_once))
            figures.requests = figures.broken = rounds
            figures.must(served.stop() == 0, "the daemon doesn't end")  # once nothing is in flight any more
            figures.must(held(served) == 0, "something is still held")
            rows = rows_of(served)
            figures.one_row_each(up.journal, rows)
            for departure in plan.values():
                _check(figures, departure, rows.get(departure.marker))
            charged = sum(row["charge_nano"] for found in rows.values() for row in found)
            figures.must(served.balance(alice.name) == CREDIT_NANO - charged, "the balance is not what the rows leave")
            figures.rows = sum(map(len, rows.values()))
            figures.verify(served)


def _draw(marker: str, case: Case, rng: random.Random) -> Departure:
    modes: tuple[Mode, Mode] = ("cancel", "drain")
    return Departure(marker, case, rng.choice(modes), rng.random() < 0.5, rng.uniform(0, 0.08))


def _check(figures: Figures, departure: Departure, rows: Sequence[dict[str, Any]] | None) -> None:
    """Exactly one row of the exact charge; of a request that reached nobody, none."""
    case, mode = departure.case, departure.mode
    due = case.cancel if mode == "cancel" else case.drain
    if rows is None:
        figures.must(due in (0, None), f"{departure}: not booked")
        return
    charge, source = rows[0]["charge_nano"], rows[0]["source"]
    if due is not None:
        figures.must(charge == due, f"{departure}: charged {charge}, not {due}")
    elif source == "upstream":
        figures.must(charge == EXACT, f"{departure}: charged {charge}, not {EXACT}")
    else:
        figures.must(mode == "cancel", f"{departure}: estimated")
        figures.must(estimate(0) <= charge <= HOLD, f"{departure}: charged {charge}")
    figures.must(not rows[0]["overrun"], f"{departure}: overrun")


async def _all(served: Served, person: Person, up: Upstream, departures: Iterable[Departure], at_once: int) -> None:
    room = asyncio.Semaphore(at_once)

    async def one(departure: Departure) -> None:
        async with room:
            await _vanish(served, person, up, departure)

    await asyncio.gather(*map(one, departures))


async def _vanish(served: Served, person: Person, up: Upstream, departure: Departure) -> None:
    """Ask, wait for the moment, and be gone."""
    case, marker = departure.case, departure.marker
    model = f"{departure.mode}/zeta"
    body = chat_body(model=model, user=marker, stream=case.streamed, max_tokens=MOST_OUTPUT)
    cut = 7 if case.name == "before its request is whole" else 0
    reader, writer, request = await connect(served, person.key, json.dumps(body).encode())
    try:
        async with asyncio.timeout(ANSWER_S):
            writer.write(request[: len(request) - cut])
            await writer.drain()
            if case.seen:
                await reader.readuntil(case.seen)
            elif cut or case.name == "whenever":
                await asyncio.sleep(departure.after_s)
            else:
                await until(lambda: marker in up.journal, ANSWER_S)
    finally:
        if departure.rudely:
            at_once = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        writer.close()
