"""Another process holds the write lock again and again: nobody's loop stands still, and nothing that ran is lost.

Meanwhile an admin adds credits, rotates keys and revokes them. What the command line has said holds from the next
request on: none that begins after `keys revoke` has returned is served.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp

from llmgate.gateway.pipeline import HOLD_PATIENCE_S
from llmgate.money import usd
from tests.replay import Pause, Request, Step, json_answer, sse, sse_answer, until
from tests.served import (
    DONE,
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
from .scene import ANSWER_S, Reply, Upstream, ask, command, daemons, is_named, quiet, rows_of, session

SHORTEST_S, LONGEST_S = 0.1, 5.0
CLIENTS = 6
USAGE = (10, 5)
EXACT = USAGE[0] * INPUT_NANO + USAGE[1] * OUTPUT_NANO
CREDIT_NANO, ADDED_NANO = 100 * 10**9, 10**6

LOCKER = """
import sqlite3, sys
conn = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
for word in sys.stdin:
    conn.execute("BEGIN IMMEDIATE" if word == "lock\\n" else "ROLLBACK")
    print("done", flush=True)
"""


def run(figures: Figures, folder: Path, *, rounds: int = 30, longest_s: float = LONGEST_S) -> None:
    with Upstream(_answer) as up:
        config = {"log": {"level": "warning"}, "upstreams": {"main": main_upstream(up)}}
        with daemons(folder, config) as (served,):
            scene = Scene(figures, served, random.Random(figures.seed), rounds)
            asyncio.run(scene.play(longest_s))
            figures.must(quiet(served), "something is still held")
            scene.check(up)
            figures.verify(served)


def _answer(request: Request) -> Sequence[Step]:
    if request.json().get("stream"):
        return sse_answer(*words("so", "far"), Pause(0.05), sse(usage_chunk(*USAGE)), DONE)
    return (Pause(0.05), *json_answer(completion("so far", usage=usage_of(*USAGE))))


class Scene:
    def __init__(self, figures: Figures, served: Served, rng: random.Random, rounds: int) -> None:
        self.figures, self.served, self.rng = figures, served, rng
        self.alice = served.person(credits=usd(CREDIT_NANO))
        self.leavers = [served.person(credits="1") for _ in range(rounds)]
        self.over = asyncio.Event()
        self.replies: list[Reply] = []
        self.locked: list[tuple[float, float]] = []
        """From when to when the lock was held: `time.time()`, as in replies."""
        self.healthy: list[tuple[float, float]] = []
        """When /health was asked, and when it had answered."""
        self.added = 0
        self.asked = 0

    async def play(self, longest_s: float) -> None:
        async with session(CLIENTS + 2) as http, self._locker() as (lock, free):

            async def client() -> None:
                while not self.over.is_set():
                    await self._ask(http, self.alice.key)

            async def health() -> None:
                while not self.over.is_set():
                    began = time.time()
                    async with http.get(f"{self.served.url}/health") as answer:
                        self.figures.must(answer.status == 200, f"/health says {answer.status}")
                    self.healthy.append((began, time.time()))
                    await asyncio.sleep(0.02)

            around = [asyncio.create_task(work()) for work in (*[client] * CLIENTS, health, self._adds_credits)]
            await self._refuses(lock, free)
            for number, leaver in enumerate(self.leavers):
                self.figures.rounds += 1
                admin = asyncio.create_task(self._ends_a_key(http, leaver, ("rotate", "revoke")[number % 2]))
                while not admin.done():
                    await asyncio.sleep(self.rng.uniform(0.05, 0.3))
                    await self._held(lock, free, self.rng.uniform(SHORTEST_S, longest_s))
                await admin
            self.over.set()
            await asyncio.gather(*around)

    @asynccontextmanager
    async def _locker(self) -> AsyncIterator[tuple[Callable[[], Awaitable[None]], Callable[[], Awaitable[None]]]]:
        """Another process, that takes the lock and lets go of it."""
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", LOCKER, str(self.served.database), stdin=pipe, stdout=pipe
        )
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        async def say(word: bytes) -> None:
            stdin.write(word)
            await stdin.drain()
            assert await stdout.readline() == b"done\n"

        try:
            yield lambda: say(b"lock\n"), lambda: say(b"free\n")
        finally:
            stdin.close()
            await process.wait()

    async def _held(
        self, lock: Callable[[], Awaitable[None]], free: Callable[[], Awaitable[None]], seconds: float
    ) -> None:
        await lock()
        began = time.time()
        await asyncio.sleep(seconds)
        self.locked.append((began, time.time()))
        await free()

    async def _refuses(self, lock: Callable[[], Awaitable[None]], free: Callable[[], Awaitable[None]]) -> None:
        """A lock that lasts until a new request is refused, which must be while it lasts."""
        await lock()
        began = time.time()
        with suppress(TimeoutError):
            await until(lambda: any(reply.code == "storage_busy" for reply in self.replies), ANSWER_S / 2)
        self.locked.append((began, time.time()))
        await free()
        refused = [reply for reply in self.replies if reply.code == "storage_busy"]
        self.figures.must(bool(refused), "nobody was refused while the lock was held")
        for reply in refused:
            waited = reply.ended - reply.began
            self.figures.must(waited > HOLD_PATIENCE_S - 0.1, f"refused after {waited:.2f} s already")

    async def _ask(self, http: aiohttp.ClientSession, key: str) -> Reply:
        self.asked += 1
        streamed = self.asked % 2 == 0
        reply = await ask(http, self.served.url, key, str(self.asked), stream=streamed, max_tokens=50)
        self.replies.append(reply)
        return reply

    # the admin

    async def _command(self, *words: str) -> str:
        """What a command printed, once the lock let it through."""
        while True:
            done = await asyncio.to_thread(command, self.served, *words, "--yes")
            if done.returncode == 0:
                return str(done.stdout)
            told = done.returncode == 4 and "is locked by another process" in done.stderr
            self.figures.must(told, f"llmgate {words[0]} {words[1]} ends with {done.returncode}: {done.stderr}")
            if not told:
                return ""

    async def _adds_credits(self) -> None:
        while not self.over.is_set():
            words = ("credits", "add", self.alice.name, usd(ADDED_NANO), "--ref", f"ref-{self.added}")
            await self._command(*words)
            self.added += 1
            await asyncio.sleep(0.2)

    async def _ends_a_key(self, http: aiohttp.ClientSession, leaver: Person, verb: str) -> None:
        """A key that is in use is rotated or revoked: from then on it is refused, and its successor is not."""
        ended: list[float] = []

        async def uses() -> list[Reply]:
            mine = [await self._ask(http, leaver.key)]
            while not ended or mine[-1].began <= ended[0]:
                mine.append(await self._ask(http, leaver.key))
            return mine

        using = asyncio.create_task(uses())
        await asyncio.sleep(self.rng.uniform(0, 0.3))
        tried = time.time()
        printed = await self._command("keys", verb, f"{leaver.name}/default")
        ended.append(time.time())
        for reply in await using:
            refused = reply.code in ("invalid_key", "key_revoked")
            self.figures.must(reply.began <= ended[0] or not reply.served, f"served after `keys {verb}` had returned")
            self.figures.must(reply.ended >= tried or not refused, f"refused before `keys {verb}` was begun")
        if verb == "rotate":
            self.served.secrets.append(printed.strip())
            reply = await self._ask(http, printed.strip())
            self.figures.must(reply.served or reply.code == "storage_busy", f"the new key: {reply.status} {reply.code}")

    # what must be so afterwards

    def check(self, up: Upstream) -> None:
        figures = self.figures
        figures.count(self.replies)
        for reply in self.replies:
            named = reply.served or is_named(reply)
            figures.must(named, f"{reply.marker}: {reply.status} {reply.code} after {reply.ended - reply.began:.1f} s")
        rows = rows_of(self.served)
        figures.rows = sum(map(len, rows.values()))
        figures.one_row_each(up.journal, rows)
        served = {reply.marker for reply in self.replies if reply.served}
        figures.must(served == set(rows), f"{len(served)} were served, {len(rows)} are booked")
        facts = {(row["status"], row["charge_nano"]) for found in rows.values() for row in found}
        figures.must(facts == {("ok", EXACT)}, f"booked as {facts}")
        mine = self.served.rows(self.alice)
        due = CREDIT_NANO + self.added * ADDED_NANO - len(mine) * EXACT
        figures.must(self.served.balance(self.alice.name) == due, "the balance is not what was added and used")
        for began, ended in self.locked:
            if ended - began >= 1:
                answered = sum(began < asked and heard < ended for asked, heard in self.healthy)
                figures.must(answered >= 3, f"/health answered {answered} times in {ended - began:.1f} s of a lock")
