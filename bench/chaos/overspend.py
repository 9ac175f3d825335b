"""Many at once, to several processes, with money or room for few: never more are served, and nothing is stranded.

What a request may cost at most is its quote, what it costs is less: how much less is drawn for each round. So a burst
serves no more than the quotes allow at that moment, and once everything has settled as many more as what was charged
leaves room for. Both figures are known beforehand, to the request.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from llmgate.money import ceil_div, usd
from llmgate.store import limits
from llmgate.store.db import Database
from tests.replay import Pause, Request, Step, json_answer, sse, sse_answer
from tests.served import (
    DONE,
    ESTIMATED_INPUT,
    INPUT_BOUND,
    INPUT_NANO,
    OUTPUT_NANO,
    Person,
    Served,
    completion,
    main_upstream,
    usage_chunk,
    usage_of,
    words,
)

from .figures import Figures
from .scene import Reply, Upstream, ask, daemons, is_named, quiet, rows_of, session

DEAR = 100
"""How many times as dear the model is that budgets are tried with: else a burst would hardly touch a dollar."""

MOST_OUTPUT = 40
"""Tokens that every request asks for; an answer is not clamped below that."""

MOST_MORE = 2000
"""Requests after which something isn't going to be refused any more."""

PAUSE_S = 0.05
"""What an answer takes, so that requests are in flight together."""


@dataclass(frozen=True)
class Case:
    """What stands in the way, and how that is told."""

    name: str
    codes: frozenset[str]
    credits: int | None = None
    """In quotes."""
    limit: str | None = None
    whole: bool = False
    """The upstream bills all that the quote allows."""
    model: str = "main/zeta"


CASES = (
    Case("credit", frozenset({"insufficient_credits", "credits_held"}), credits=23),
    Case("credit, billed whole", frozenset({"insufficient_credits", "credits_held"}), credits=23, whole=True),
    Case("5 requests/minute", frozenset({"rate_limited"}), limit="5 requests/minute"),
    Case("$1/day", frozenset({"budget_exceeded", "credits_held"}), limit="$1/day", model="dear/zeta"),
    Case("1000 tokens/minute", frozenset({"rate_limited"}), limit="1000 tokens/minute"),
    Case("3 concurrent", frozenset({"rate_limited"}), limit="3 concurrent"),
)


def run(figures: Figures, folder: Path, *, rounds: int = 6, requests: int = 500, connections: int = 64) -> None:
    rng = random.Random(figures.seed)
    with Upstream() as up:
        dear = {"input": DEAR, "output": 2 * DEAR}
        config = {"upstreams": {"main": main_upstream(up), "dear": main_upstream(up, price=dear)}}
        with daemons(folder, config, 2) as served:
            for number in range(rounds):
                figures.rounds += 1
                for case in CASES:
                    trial = Trial(figures, up, served, case, f"{number}-{case.name}", rng)
                    trial.run(requests, connections)
            figures.verify(served[0])
        figures.rows = served[0].value("SELECT count(*) FROM usage")


class Trial:
    """One case, with a user of its own."""

    def __init__(
        self, figures: Figures, up: Upstream, daemons: Sequence[Served], case: Case, name: str, rng: random.Random
    ) -> None:
        self.figures, self.up, self.daemons, self.case, self.name = figures, up, daemons, case, name
        self.books = daemons[0]
        self.scale = DEAR if case.model.startswith("dear") else 1
        self.quote = self._amount(INPUT_BOUND, MOST_OUTPUT)
        self.usage = (
            (INPUT_BOUND, MOST_OUTPUT) if case.whole else (ESTIMATED_INPUT, rng.randint(MOST_OUTPUT // 2, MOST_OUTPUT))
        )
        self.charge = self._amount(*self.usage)
        self.credits = case.credits * self.quote + rng.randrange(self.quote) if case.credits else 0
        self.person = self._person()
        self.began: list[float] = []
        """When the upstream began with each answer, `time.monotonic()`."""
        self.pause = Pause(PAUSE_S)
        self.sent = 0

    def _amount(self, input_tokens: int, output_tokens: int) -> int:
        return (input_tokens * INPUT_NANO + output_tokens * OUTPUT_NANO) * self.scale

    def _person(self) -> Person:
        person = self.books.person(credits=usd(self.credits) if self.credits else None)
        if self.case.limit:
            with self.books.tx() as tx:
                limits.hang(tx, person.name, [self.case.limit])
        return person

    def run(self, requests: int, connections: int) -> None:
        self.up.script = self._answer
        with watched(self.books) as rooms:
            replies = asyncio.run(self._burst(requests, connections))
        self._must(min(rooms) >= 0, f"more was used and held than there is, by {-min(rooms)}")
        self._must(quiet(self.books), "something is still held")
        self.pause = Pause(0)
        if self.case.limit == "3 concurrent":
            self._at_a_time(replies)
        elif self.case.limit:
            self._per_window()
        else:
            self._until_spent(replies)
        rows = rows_of(self.books, f"{self.name} ")
        self.figures.one_row_each((marker for marker in self.up.journal if marker.startswith(f"{self.name} ")), rows)
        charges = {row["charge_nano"] for found in rows.values() for row in found}
        self._must(charges == {self.charge}, f"charged {charges}, not {self.charge}")

    def _must(self, holds: bool, sentence: str) -> None:
        self.figures.must(holds, f"{self.name}: {sentence}")

    # requests

    def _answer(self, request: Request) -> Sequence[Step]:
        self.began.append(time.monotonic())
        if request.json().get("stream"):
            return sse_answer(*words("so", "far"), self.pause, sse(usage_chunk(*self.usage)), DONE)
        return (self.pause, *json_answer(completion("so far", usage=usage_of(*self.usage))))

    async def _burst(self, count: int, connections: int) -> list[Reply]:
        async with session(connections) as client:
            return list(await asyncio.gather(*(self._ask(client) for _ in range(count))))

    async def _until(self, enough: Callable[[Reply], bool]) -> list[Reply]:
        """One after the other, until a reply says that it is enough; or until it can't be right any more."""
        async with session(1) as client:
            replies = [await self._ask(client)]
            while not enough(replies[-1]) and len(replies) < MOST_MORE:
                replies.append(await self._ask(client))
        return replies

    async def _ask(self, client: aiohttp.ClientSession) -> Reply:
        self.sent += 1
        number = self.sent
        url = self.daemons[number % len(self.daemons)].url
        fields = {"model": self.case.model, "max_tokens": MOST_OUTPUT, "stream": number % 3 == 0}
        reply = await ask(client, url, self.person.key, f"{self.name} {number}", **fields)
        self.figures.count([reply])
        self._must(reply.served or reply.code in self.case.codes, f"{reply.status} {reply.code or 'no answer'}")
        self._must(reply.served or is_named(reply), f"{reply.code} with {reply.status} and {dict(reply.headers)}")
        return reply

    # what must be so once everything has settled

    def _until_spent(self, replies: Sequence[Reply]) -> None:
        """A balance serves until it doesn't carry one more quote, neither sooner nor later."""
        fits = (self.credits - self.quote) // self.charge + 1
        served = sum(reply.served for reply in replies)
        self._must(self.credits // self.quote <= served <= fits, f"{served} were served at once, {fits} fit")
        *more, last = asyncio.run(self._until(lambda reply: not reply.served))
        served += len(more)
        left = self.books.balance(self.person.name)
        self._must(last.code == "insufficient_credits", f"refused at last with {last.code}")
        self._must(served == fits, f"{served} were served, {fits} fit")
        self._must(left == self.credits - fits * self.charge, f"{left} are left")
        self._must(0 <= left < self.quote, f"{left} are left, a quote is {self.quote}")

    def _per_window(self) -> None:
        """In each window no more than the limit says, and in the last one no less. A window may end at any moment: what
        is asked is asked again until the answer fell into one.
        """
        last = asyncio.run(
            self._until(lambda reply: not reply.served and self._window(reply.began) == self._window(reply.ended))
        )[-1]
        before = self._window(last.ended)
        used = Counter[int]()
        for found in rows_of(self.books, f"{self.name} ").values():
            used[self._window(found[0]["time_ms"] / 1000)] += self._consumed(found[0])
        most, need = self._limit()
        for window, amount in used.items():
            self._must(amount <= most, f"{amount} of {most} were used in window {window}")
        self._must(most - used[before] < need, f"refused, although {most - used[before]} of {most} are left")

    def _window(self, at: float) -> int:
        return int(at) // (86400 if "day" in str(self.case.limit) else 60)

    def _consumed(self, row: dict[str, Any]) -> int:
        if "requests" in str(self.case.limit):
            return 1
        tokens: int = row["input"] + row["output"]
        charge: int = row["charge_nano"]
        return charge if "$" in str(self.case.limit) else tokens

    def _limit(self) -> tuple[int, int]:
        """What a window has, and what a request needs of it to begin."""
        if "requests" in str(self.case.limit):
            return 5, 1
        return (
            (10**9, self.quote)
            if "$" in str(self.case.limit)
            else (1000, ceil_div(5 * ESTIMATED_INPUT, 4) + MOST_OUTPUT)
        )

    def _at_a_time(self, replies: Sequence[Reply]) -> None:
        """Never a fourth at the upstream, told by its own clock; and all three places are free again."""
        served = sum(reply.served for reply in replies)
        self._must(served >= 3, f"{served} were served")
        begun = sorted(self.began)
        # An answer goes on for its pause at least: who began within the pause of the third before was a fourth.
        crowded = sum(later - earlier < PAUSE_S - 0.005 for earlier, later in zip(begun, begun[3:], strict=False))
        self._must(not crowded, f"{crowded} were served beside three others")
        self.pause = Pause(PAUSE_S)
        again = asyncio.run(self._burst(3, 3))
        self._must(all(reply.served for reply in again), f"of 3 places {sum(reply.served for reply in again)} are free")
        self._must(quiet(self.books), "something is still held")


@contextmanager
def watched(books: Served) -> Iterator[list[int]]:
    """Look again and again how much room the tightest account and the tightest limit have."""
    rooms = [0]
    over = threading.Event()

    def look() -> None:
        with Database(books.database, actor="test") as db:
            while not over.wait(0.01):
                with db.read() as tx:
                    rooms.append(
                        tx.value("SELECT min(balance_nano - held_nano) FROM accounts WHERE billing = 'prepaid'") or 0
                    )
                    rooms.append(tx.value("SELECT min(amount - used - held) FROM counters") or 0)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield rooms
    finally:
        over.set()
        watcher.join()
