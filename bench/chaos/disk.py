"""A disk that is full, a file that may not be written, and one that is damaged.

Full is what a limit on the size of files makes of a disk (`RLIMIT_FSIZE` of the daemon, changed while it runs): SQLite
is told so in the middle of whatever it writes.
"""

from __future__ import annotations

import asyncio
import random
import resource
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import aiohttp

from tests.replay import Pause, Request, Step, chunk, head, json_answer, sse, until
from tests.served import (
    DONE,
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
from .scene import ANSWER_S, Reply, Upstream, ask, command, daemons, held, is_named, quiet, rows_of, session

IN_FLIGHT = 5
CLIENTS = 4
USAGE = (10, 5)
EXACT = USAGE[0] * INPUT_NANO + USAGE[1] * OUTPUT_NANO
CREDIT_NANO = 100 * 10**9


def run(figures: Figures, folder: Path, *, rounds: int = 20) -> None:
    rng = random.Random(figures.seed)
    with Upstream() as up:
        config = {"upstreams": {"main": main_upstream(up)}}
        with daemons(folder, config) as (served,):
            alice = served.person(credits="100")
            for number in range(rounds):
                figures.rounds += 1
                Full(figures, up, served, alice, f"{number}-").run(rng, killed=number % 2 == 1)
            rows = rows_of(served)
            figures.one_row_each(up.journal, rows)
            charged = sum(row["charge_nano"] for found in rows.values() for row in found)
            figures.must(served.balance(alice.name) == CREDIT_NANO - charged, "the balance is not what the rows leave")
            figures.rows = sum(map(len, rows.values()))
            figures.interrupted = sum(row["status"] == "interrupted" for found in rows.values() for row in found)
            served.stop()
            _no_room_for_a_command(figures, served)
            _read_only(figures, served)
            for _ in range(max(1, rounds // 4)):
                _damaged(figures, served, rng)
            served.start()
            figures.count([asyncio.run(_once(served, alice, "at last"))])
            figures.verify(served)


async def _once(served: Served, person: Person, marker: str) -> Reply:
    async with session(1) as http:
        return await ask(http, served.url, person.key, marker)


# ── no room ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Full:
    """One round: streams are in flight when the room ends, and end before there is room again."""

    def __init__(self, figures: Figures, up: Upstream, served: Served, person: Person, prefix: str) -> None:
        self.figures, self.up, self.served, self.person, self.prefix = figures, up, served, person, prefix
        self.go_on = threading.Event()
        """The streams may end."""
        up.script = self._answer

    def _answer(self, request: Request) -> Sequence[Step]:
        if request.json().get("stream"):
            return cast(Sequence[Step], self._stream())  # it is only gone through, once
        return json_answer(completion("hello", usage=usage_of(*USAGE)))

    def _stream(self) -> Iterator[Step]:
        first, *rest = words("hello", "you")
        yield head(200, [("content-type", "text/event-stream"), ("transfer-encoding", "chunked")])
        yield chunk(first)
        while not self.go_on.is_set():
            yield Pause(0.02)
        for event in (*rest, sse(usage_chunk(*USAGE)), DONE, b""):
            yield chunk(event)

    def run(self, rng: random.Random, *, killed: bool) -> None:
        room = self._sizes() + rng.randrange(300_000)
        replies = asyncio.run(self._play(room, killed=killed))
        self.figures.count(replies)
        for reply in replies:
            cut_off = killed and reply.status is None
            rightly = reply.served or cut_off or (reply.code == "storage_busy" and is_named(reply))
            self._must(rightly, f"{reply.status} {reply.code}")
        if killed:
            self.served.start()
        self._must(quiet(self.served), "something is still held")
        self.figures.verify(self.served)
        rows = rows_of(self.served, self.prefix)
        began = {marker for marker in self.up.journal if marker.startswith(self.prefix)}
        self._must(began <= set(rows), f"{began - set(rows)} were answered and not booked")
        whole = {reply.marker for reply in replies if reply.served}
        for marker, (row, *_) in rows.items():
            facts = (row["status"], row["charge_nano"])
            exact = ("ok", EXACT)
            # A stream ends for its client after two seconds, settled or not: killed then, it is booked as interrupted.
            certain = not killed or (marker in whole and not row["streamed"])
            self._must(marker in began or facts == ("interrupted", estimate(0)), f"{marker} is booked and never began")
            allowed = {exact} if certain else {exact, ("interrupted", estimate(0))}
            self._must(facts in allowed, f"{marker} is booked as {facts}")

    def _must(self, holds: bool, sentence: str) -> None:
        self.figures.must(holds, f"{self.prefix} {sentence}")

    def _sizes(self) -> int:
        """What the write-ahead log has now; the daemon's own log must have room beside it, to complain."""
        log = self.served.database.with_name(self.served.database.name + "-wal")
        return max(log.stat().st_size if log.exists() else 0, self.served.log_file.stat().st_size + 100_000)

    def _limit(self, room: int | None) -> None:
        assert self.served.process is not None
        _, hard = resource.prlimit(self.served.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.served.process.pid, resource.RLIMIT_FSIZE, (hard if room is None else room, hard))

    async def _play(self, room: int, *, killed: bool) -> list[Reply]:
        replies: list[Reply] = []
        over = asyncio.Event()
        begin = len(self.served.log())
        async with session(IN_FLIGHT + CLIENTS + 2) as http:

            async def stream(number: int) -> None:
                marker = f"{self.prefix}stream{number}"
                replies.append(await ask(http, self.served.url, self.person.key, marker, stream=True, max_tokens=50))

            async def client(name: int) -> None:
                number = 0
                while not over.is_set():
                    marker = f"{self.prefix}{name}.{number}"
                    replies.append(await ask(http, self.served.url, self.person.key, marker, max_tokens=50))
                    number += 1
                    await asyncio.sleep(0 if replies[-1].served else 0.05)

            streams = [asyncio.create_task(stream(number)) for number in range(IN_FLIGHT)]
            mine = f"{self.prefix}stream"
            await until(lambda: sum(marker.startswith(mine) for marker in self.up.journal) == IN_FLIGHT, ANSWER_S)
            self._limit(room)
            clients = [asyncio.create_task(client(name)) for name in range(CLIENTS)]
            try:
                async with asyncio.timeout(ANSWER_S):
                    while not await self._is_full(http):
                        pass
                self._must("nothing can be written" in self.served.log()[begin:], "the log doesn't tell it")
                self._must(await self._status(http, "health") == 200, "/health is not 200")
                self.go_on.set()
                await asyncio.sleep(0.2)
                booked = [marker for marker in rows_of(self.served, self.prefix) if "stream" in marker]
                self._must(not booked, f"{booked} are booked without room")
                self._must(held(self.served) >= IN_FLIGHT, f"{held(self.served)} holds are left of {IN_FLIGHT}")
                again = await ask(http, self.served.url, self.person.key, f"{self.prefix}again")
                replies.append(again)
                self._must(again.code == "storage_busy", f"a new request gets {again.status} {again.code}")
            finally:
                over.set()
                self.go_on.set()
                if killed:
                    self.served.kill()
                else:
                    self._limit(None)
                await asyncio.gather(*streams, *clients)
            if not killed:
                self._must(await self._status(http, "ready") == 200, "/ready is not 200 again")
                self._must("can be written again" in self.served.log()[begin:], "the log doesn't tell that it's over")
        return replies

    async def _is_full(self, http: aiohttp.ClientSession) -> bool:
        """The last bytes may still do for something small: full is what stays so."""
        for _ in range(6):
            await asyncio.sleep(0.2)
            if await self._status(http, "ready") != 503:
                return False
        return True

    async def _status(self, http: aiohttp.ClientSession, path: str) -> int:
        async with http.get(f"{self.served.url}/{path}") as answer:
            return answer.status


def _no_room_for_a_command(figures: Figures, served: Served) -> None:
    before = served.value("SELECT count(*) FROM entries")

    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    for args in (("credits", "add", "user1", "1"), ("serve", "--bind", "127.0.0.1:0")):
        _fails_clearly(figures, command(served, *args, preexec_fn=no_room), "without room")
    figures.must(served.value("SELECT count(*) FROM entries") == before, "an entry was made without room")


# ── may not be written ────────────────────────────────────────────────────────────────────────────────────────────────

AS_NOBODY = """
import codecs, contextlib, importlib, os, pkgutil, sys
import llmgate, typer
for name in ("utf-8-sig", "idna"):
    codecs.lookup(name)
for package in (llmgate, typer):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not module.name.endswith("__main__"):
            with contextlib.suppress(AssertionError, ImportError):  # what is for another system only
                importlib.import_module(module.name)
from llmgate.cli import main
if os.geteuid() == 0:
    os.setuid(65534)
sys.exit(main())
"""
"""Root may write everything; and nobody may not read everything, so all of the program is read before."""


def _read_only(figures: Figures, served: Served) -> None:
    """Who may not write is told so."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        done = command(served, "db", "backup", str(folder / "books.db"))
        figures.must(done.returncode == 0, f"llmgate db backup: {done.stderr}")
        (folder / "books.db").chmod(0o444)
        shutil.copy(served.config, folder)
        for args in (("credits", "add", "user1", "1"), ("serve", "--bind", "127.0.0.1:0")):
            _fails_clearly(figures, command(served, *args, folder=folder, program=("-c", AS_NOBODY)), "read-only")


# ── damaged ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _damaged(figures: Figures, served: Served, rng: random.Random) -> None:
    """Pages in the middle are overwritten while nobody serves: no command trips, and a backup put in place is whole."""
    backup = served.folder / "backup.db"
    backup.unlink(missing_ok=True)
    done = command(served, "db", "backup", str(backup))
    figures.must(done.returncode == 0, f"llmgate db backup: {done.stderr}")
    before = rows_of(served)
    _damage(served.database, rng)
    for args in (("verify",), ("usage", "--json"), ("db", "backup", str(served.folder / "unsound.db"))):
        _fails_clearly(figures, command(served, *args), "damaged")
    for args in (("credits",), ("report", "--since", "30d")):
        done = command(served, *args)
        figures.must(done.returncode in (0, 4), f"damaged: {args} ends with {done.returncode}: {done.stderr}")
        figures.must("Traceback" not in done.stderr and "bug" not in done.stderr, f"damaged: {args}: {done.stderr}")
    for leftover in ("-wal", "-shm"):
        served.database.with_name(served.database.name + leftover).unlink(missing_ok=True)
    shutil.copy(backup, served.database)
    figures.must(rows_of(served) == before, "the backup has other rows")
    figures.verify(served)


def _damage(database: Path, rng: random.Random) -> None:
    """Some of the pages that keep usage rows, and a few others."""
    connection = sqlite3.connect(database)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    (count,) = connection.execute("PRAGMA page_count").fetchone()
    (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'usage'").fetchone()
    connection.close()
    with database.open("r+b") as file:
        for page in {root, *(rng.randint(2, count) for _ in range(3))}:
            file.seek((page - 1) * size)
            file.write(rng.randbytes(size))


def _fails_clearly(figures: Figures, done: Any, what: str) -> None:
    """Exit code 4, and one line that says why."""
    told = done.stderr.strip()
    clear = done.returncode == 4 and len(told.splitlines()) == 1 and "Traceback" not in told and "bug" not in told
    figures.must(clear, f"{what}: {done.args[-3:]} ends with {done.returncode}: {done.stderr}")
