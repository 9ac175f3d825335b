"""Group commit: what is written together, what fails alone, and what happens while the database can't be written."""

from __future__ import annotations

import asyncio
import itertools
import logging
import resource
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from llmgate.errors import Refusal, StorageError
from llmgate.gateway import pipeline, writer
from llmgate.gateway.writer import Writer
from llmgate.store import holds
from llmgate.store.db import Database, Tx, connect
from llmgate.store.group import probe
from tests.replay import HANG, Pause, Replay, json_answer, sse, sse_answer, until
from tests.served import (
    DONE,
    INPUT_NANO,
    OUTPUT_NANO,
    Inside,
    Person,
    Served,
    answers,
    chat_body,
    chunk_of,
    completion,
    error_of,
    estimate,
    facts,
    main_upstream,
    usage_chunk,
    usage_of,
    words,
)

EXACT = 10 * INPUT_NANO + 5 * OUTPUT_NANO


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "books.db"
    with Database(found) as store:
        store.conn.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE) STRICT")
    return found


@pytest.fixture(params=[False, True], ids=["normal", "durable"])
async def quill(path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Writer]:
    """A writer, in either mode."""
    found = Writer(path, durable=request.param)
    yield found
    await found.close()


def note(text: str) -> Callable[[Tx], Tx]:
    """Work that writes a note, and returns the transaction that it was written in."""

    def work(tx: Tx) -> Tx:
        tx.execute("INSERT INTO notes (text) VALUES (?)", (text,))
        return tx

    return work


def notes(path: Path) -> list[str]:
    with Database(path) as store:
        return [row[0] for row in store.conn.execute("SELECT text FROM notes ORDER BY id")]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another process writes, and takes its time."""
    script = (
        "import sqlite3, sys; conn = sqlite3.connect(sys.argv[1], isolation_level=None); "
        "conn.execute('BEGIN IMMEDIATE'); print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        yield
        process.communicate()


class Ticks:
    """How often the loop came round."""

    def __init__(self) -> None:
        self.count = 0

    async def __aenter__(self) -> Ticks:
        self._task = asyncio.create_task(self._tick())
        return self

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(0.005)
            self.count += 1

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task


# -- together, and yet each for itself


async def test_what_waits_at_one_moment_is_one_transaction(path: Path, quill: Writer) -> None:
    transactions = await asyncio.gather(*(quill.run(note(str(n))) for n in range(50)))
    assert len({id(tx) for tx in transactions}) == 1
    assert notes(path) == [str(n) for n in range(50)]
    later = await quill.run(note("later"))
    assert later is not transactions[0]


async def test_a_result_is_told_once_it_is_written(path: Path, quill: Writer) -> None:
    await quill.run(note("a"))
    assert notes(path) == ["a"]


async def test_what_fails_does_not_undo_its_neighbours(path: Path, quill: Writer) -> None:
    def refuse(tx: Tx) -> None:
        tx.execute("INSERT INTO notes (text) VALUES ('half')")
        raise Refusal("no", code="insufficient_credits")

    def stumble(tx: Tx) -> None:
        tx.execute("INSERT INTO notes (text) VALUES ('half a bug')")
        raise ZeroDivisionError

    def mistype(tx: Tx) -> None:
        tx.execute("INSERT INTO notes (text) VALUES ('half of SQL')")
        tx.execute("SELEKT")

    works: list[Callable[[Tx], Any]] = [
        *(note("a"), refuse, note("b"), stumble, note("a"), mistype, note("c")),
        lambda tx: tx.execute("INSERT INTO notes (id, text) VALUES (?, 'too big')", (2**63,)),
    ]
    results = await asyncio.gather(*(quill.run(work) for work in works), return_exceptions=True)
    assert [type(result) for result in results] == [
        *(Tx, Refusal, Tx, ZeroDivisionError, sqlite3.IntegrityError, sqlite3.OperationalError, Tx, OverflowError)
    ]
    assert notes(path) == ["a", "b", "c"]
    assert quill.trouble is None


async def test_what_fails_alone_leaves_nothing(path: Path, quill: Writer) -> None:
    await quill.run(note("a"))
    with pytest.raises(sqlite3.IntegrityError):
        await quill.run(note("a"))
    await quill.run(note("b"))
    assert notes(path) == ["a", "b"]


async def test_work_goes_on_when_nobody_waits_any_more(path: Path, quill: Writer) -> None:
    task = asyncio.create_task(quill.run(note("a")))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await quill.run(note("b"))
    assert notes(path) == ["a", "b"]


async def test_closing_writes_what_waits(path: Path) -> None:
    quill = Writer(path, durable=False)
    writing = asyncio.gather(*(quill.run(note(str(n))) for n in range(5)))
    await asyncio.sleep(0)
    await quill.close()
    await writing
    assert len(notes(path)) == 5


@pytest.mark.parametrize("durable", [False, True])
async def test_the_log_begins_anew_although_nobody_pauses(
    path: Path, durable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would grow for as long as the load lasts: by gigabytes a minute."""
    monkeypatch.setattr(writer, "LONG_LOG", 200_000)
    monkeypatch.setattr(writer, "LOOK_EVERY", 2)
    quill = Writer(path, durable=durable)
    log, longest, written, anew = path.with_name(f"{path.name}-wal"), 0, 0, 0

    async def ask() -> None:
        nonlocal written
        while anew < 3:
            written += 1
            await quill.run(note(f"{written:3000}"))

    asking = [asyncio.create_task(ask()) for _ in range(8)]
    while anew < 3:  # whoever waits for it in vain is ended by the test's own time limit
        await asyncio.sleep(0)
        length = log.stat().st_size
        anew, longest = (anew + 1, length) if length < longest else (anew, max(length, longest))
    await asyncio.gather(*asking)
    await quill.close()
    assert len(notes(path)) == written


async def test_a_log_that_somebody_reads_grows_on(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's view is taken away, and nothing waits for the reader to end; later it is tried again."""
    monkeypatch.setattr(writer, "LONG_LOG", 100_000)
    monkeypatch.setattr(writer, "LOOK_EVERY", 1)
    quill = Writer(path, durable=False)
    reader = connect(path)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM meta").fetchone()[0] > 0
    log = path.with_name(f"{path.name}-wal")
    numbers = itertools.count()
    while log.stat().st_size < 500_000:
        await quill.run(note(f"{next(numbers):3000}"))
    reader.execute("COMMIT")
    reader.close()
    grown = log.stat().st_size
    while log.stat().st_size >= grown:
        await quill.run(note(f"{next(numbers):3000}"))
    await quill.close()


async def test_durable_means_synced(path: Path, quill: Writer) -> None:
    mode = await quill.run(lambda tx: tx.value("PRAGMA synchronous"))
    assert mode == (2 if quill._durable else 1)


async def test_a_slow_disk_does_not_hold_up_the_loop(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one group is being synced the next gathers; each gets its answer when its own is on the disk."""
    quill = Writer(path, durable=True)
    commit = quill._group.commit
    threads = []

    def slow() -> None:
        threads.append(threading.current_thread())
        time.sleep(0.2)
        commit()

    monkeypatch.setattr(quill._group, "commit", slow)
    async with Ticks() as ticks:
        first = asyncio.create_task(quill.run(note("first")))
        await asyncio.sleep(0.05)
        assert notes(path) == []
        rest = await asyncio.gather(*(quill.run(note(str(n))) for n in range(20)))
    assert (await first) is not rest[0]
    assert len({id(tx) for tx in rest}) == 1
    assert len(threads) == 2
    assert threading.main_thread() not in threads
    assert ticks.count > 10
    await quill.close()
    assert len(notes(path)) == 21


# -- while another process writes


async def test_a_locked_database_is_waited_for_without_stopping_the_loop(path: Path, quill: Writer) -> None:
    async with Ticks() as ticks:
        with locked(path):
            waiting = [asyncio.create_task(quill.run(note(str(n)))) for n in range(5)]
            waiting += [asyncio.create_task(quill.run(note("hold"), patience_s=30))]
            await asyncio.sleep(0.3)
            assert not [task for task in waiting if task.done()]
            assert ticks.count > 10
        await asyncio.gather(*waiting)
    assert notes(path) == ["0", "1", "2", "3", "4", "hold"]
    assert quill.trouble is None


async def test_a_hold_waits_so_long_and_a_settlement_as_long_as_it_takes(path: Path, quill: Writer) -> None:
    with locked(path):
        settlement = asyncio.create_task(quill.run(note("settlement")))
        with pytest.raises(StorageError) as caught:
            await quill.run(note("hold"), patience_s=0.1)
        await asyncio.sleep(0.1)
        assert not settlement.done()
    await settlement
    assert notes(path) == ["settlement"]
    assert (caught.value.code, caught.value.http_status) == ("storage_busy", 503)
    assert dict(caught.value.headers) == {"retry-after": "2"}
    assert str(path) not in caught.value.message
    assert "books" not in caught.value.message


async def test_closing_gives_up_in_the_end(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    quill = Writer(path, durable=False)
    with locked(path):
        writing = asyncio.create_task(quill.run(note("a")))
        await asyncio.sleep(0.05)
        await quill.close(patience_s=0.1)
        writing.cancel()
    assert notes(path) == []
    assert "could not be written" in caplog.text


# -- while the disk is full


@contextmanager
def full_disk(path: Path) -> Iterator[None]:
    """No file may grow beyond what the write-ahead log has now."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.with_name(path.name + "-wal").stat().st_size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


async def test_a_full_disk(path: Path, quill: Writer, caplog: pytest.LogCaptureFixture) -> None:
    """New holds are refused at once, settlements wait; what was told as written is written."""
    for number in range(5):
        await quill.run(note(str(number)))
    with full_disk(path):
        settlements = [asyncio.create_task(quill.run(note(f"settlement {n}"))) for n in range(3)]
        for _ in range(2):
            with pytest.raises(StorageError) as caught:
                await quill.run(note("hold" + "x" * 100_000), patience_s=30)
            assert caught.value.code == "storage_busy"
            assert quill.trouble is not None
        assert not [task for task in settlements if task.done()]
        assert notes(path) == [str(n) for n in range(5)]
    await asyncio.gather(*settlements)
    assert notes(path) == [*(str(n) for n in range(5)), *(f"settlement {n}" for n in range(3))]
    assert quill.trouble is None
    told = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(told) == 2  # that it can't be written, and that it can be again
    assert "can be written again" in told[1].message


async def test_a_database_that_may_not_grow(path: Path, quill: Writer) -> None:
    """Another way to be full: SQLite says so in the middle of a group, and rolls all of it back."""
    await quill.run(note("a"))
    pages = await quill.run(lambda tx: tx.value("PRAGMA page_count"))
    quill._group._conn.execute(f"PRAGMA max_page_count = {pages}")
    settlement = asyncio.create_task(quill.run(note("s" * 50_000)))
    small = asyncio.create_task(quill.run(note("small")))
    await asyncio.sleep(0)
    with pytest.raises(StorageError):
        await quill.run(note("hold"), patience_s=30)
    assert not settlement.done()
    assert not small.done()
    assert notes(path) == ["a"]
    quill._group._conn.execute("PRAGMA max_page_count = 1000000")
    await asyncio.gather(settlement, small)
    assert notes(path) == ["a", "s" * 50_000, "small"]


# -- while nothing can be written


class Broken:
    """A group whose database takes nothing, until it is mended."""

    def __init__(self, quill: Writer, error: StorageError) -> None:
        self.quill, self.error = quill, error
        self.group = quill._group
        self.begun = 0
        """How often something was tried to be written."""

    def begin(self, works: Any) -> Any:
        self.begun += 1
        raise self.error

    def __enter__(self) -> Broken:
        self.quill._group = self  # type: ignore[assignment]
        return self

    def __exit__(self, *_: object) -> None:
        self.quill._group = self.group


FULL = StorageError("the disk of books.db is full")
LOCKED = StorageError("books.db is locked", code="storage_busy")


async def test_new_work_is_refused_without_a_try_of_its_own(path: Path, quill: Writer) -> None:
    with Broken(quill, FULL) as broken:
        with pytest.raises(StorageError):
            await quill.run(note("hold"), patience_s=30)
        begun = broken.begun
        for _ in range(100):
            with pytest.raises(StorageError) as caught:
                await quill.run(note("hold"), patience_s=30)
            assert (caught.value.code, caught.value.http_status) == ("storage_busy", 503)
        assert broken.begun == begun == 1


async def test_a_probe_finds_out_that_there_is_room_again(
    path: Path, quill: Writer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where no request comes any more: who balances loads sends none to a gateway that isn't ready."""
    monkeypatch.setattr(writer, "TROUBLE_RETRY_S", 0.01)
    with Broken(quill, FULL) as broken:
        with pytest.raises(StorageError):
            await quill.run(note("hold"), patience_s=30)
        await until(lambda: broken.begun > 3)
        assert quill.trouble is FULL
    await until(lambda: quill.trouble is None)
    assert "the database can be written again after 0 s, settlements written: 0" in caplog.text
    await quill.run(note("a"), patience_s=30)
    assert notes(path) == ["a"]


async def test_a_probe_writes(path: Path, quill: Writer) -> None:
    """A transaction that writes nothing succeeds on a full disk as well."""
    before = path.with_name(path.name + "-wal").stat().st_size
    for at_ms in (1, 2):
        await quill.run(lambda tx, at_ms=at_ms: probe(Tx(tx.conn, at_ms, "test")))  # type: ignore[misc]
        size = path.with_name(path.name + "-wal").stat().st_size
        assert size > before
        before = size


async def test_the_log_says_it_again_and_again(
    path: Path, quill: Writer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(writer, "TROUBLE_RETRY_S", 0.01)
    monkeypatch.setattr(writer, "TELL_EVERY_S", 0.05)
    with Broken(quill, FULL):
        settlements = [asyncio.create_task(quill.run(note(str(n)))) for n in range(3)]
        await until(lambda: caplog.text.count("nothing can be written") >= 3)
    await asyncio.gather(*settlements)
    told = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert told[0] == (
        "nothing can be written for 0 s, new requests are refused, settlements waiting: 3: the disk of books.db is full"
    )
    assert told[-1].endswith("settlements written: 3")


async def test_each_trouble_is_told_at_once(
    path: Path, quill: Writer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(writer, "TROUBLE_RETRY_S", 0.01)
    for count in (1, 2):
        with Broken(quill, FULL) as broken:
            settlement = asyncio.create_task(quill.run(note(str(count))))
            await until(lambda broken=broken: broken.begun > 3)  # type: ignore[misc]
            assert caplog.text.count("nothing can be written") == count
        await settlement
        assert caplog.text.count("can be written again") == count


async def test_a_lock_is_told_only_once_it_lasts(
    path: Path, quill: Writer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(writer, "LOCKED_TELL_S", 0.2)
    with Broken(quill, LOCKED) as broken:
        settlement = asyncio.create_task(quill.run(note("a")))
        await until(lambda: broken.begun > 3)
        assert caplog.text == ""
        await until(lambda: "settlements waiting: 1: books.db is locked" in caplog.text)
        assert quill.trouble is None
    await settlement
    assert "can be written again" in caplog.text


async def test_a_lock_while_the_disk_is_full_lets_nobody_in(path: Path, quill: Writer) -> None:
    with Broken(quill, FULL) as broken:
        settlement = asyncio.create_task(quill.run(note("a")))
        await until(lambda: broken.begun == 1)
        broken.error = LOCKED
        await until(lambda: broken.begun > 2)
        with pytest.raises(StorageError):
            await quill.run(note("hold"), patience_s=30)
        assert not settlement.done()
    await settlement
    assert quill.trouble is None


class Rude:
    """A connection whose COMMIT fails, and then its ROLLBACK too."""

    def __init__(self, conn: sqlite3.Connection) -> None:
        self.conn = conn
        self.fails = ["COMMIT", "ROLLBACK"]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.conn, name)

    def execute(self, sql: str, *values: Any) -> Any:
        if sql in self.fails:
            self.fails.remove(sql)
            raise sqlite3.OperationalError("disk I/O error")
        return self.conn.execute(sql, *values)


async def test_a_rollback_that_fails_loses_nothing(path: Path, quill: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "TROUBLE_RETRY_S", 0.01)
    rude = Rude(quill._group._conn)
    quill._group._conn = rude  # type: ignore[assignment]
    await asyncio.gather(quill.run(note("a")), quill.run(note("b")))
    assert rude.fails == []
    assert notes(path) == ["a", "b"]
    assert quill.trouble is None


# -- the walk, while the database can't be written


@pytest.fixture
def up() -> Iterator[Replay]:
    with Replay() as up:
        up.handler = answers(json_answer(completion(usage=usage_of(10, 5))))
        yield up


@pytest.fixture(params=[False, True], ids=["normal", "durable"])
async def inside(up: Replay, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Inside]:
    async with Inside(tmp_path, {"upstreams": {"main": main_upstream(up)}}, durable=request.param) as inside:
        await inside.gateway.resolve("main/zeta", "openai")
        yield inside


async def test_no_hold_no_request(inside: Inside, up: Replay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "HOLD_PATIENCE_S", 0.2)
    alice = inside.person(credits="1")
    with locked(inside.database):
        client, task = inside.ask(alice)
        await task
    assert client.status == 503
    assert b'"code":"storage_busy"' in client.got
    assert (b"retry-after", b"2") in client.messages[0]["headers"]
    assert b"books" not in client.got
    assert (inside.rows(alice), up.requests) == ([], [])


async def test_nothing_is_begun_while_the_disk_is_full(inside: Inside, up: Replay) -> None:
    """Nobody's body is read, and nothing is written for it; who isn't known is told so all the same."""
    alice = inside.person(credits="1")
    with Broken(inside.writer, FULL) as broken:
        client, task = inside.ask(alice)
        await task
        assert client.status == 503
        broken.begun = 0
        for person, status in ((alice, 503), (Person("nobody", "sk-lg-none", "k"), 401)):
            client, task = inside.ask(person)
            await task
            assert client.status == status
        assert client.body is not None  # nobody asked for it
        assert broken.begun <= 1  # the probe
    await until(lambda: inside.writer.trouble is None)
    client, task = inside.ask(alice)
    await task
    assert client.status == 200
    assert len(up.requests) == 1


async def test_who_is_refused_needs_no_writer(inside: Inside, up: Replay) -> None:
    """A client hammering without credit is told at once, whatever the writer is doing."""
    alice = inside.person(credits="0.0001")
    with locked(inside.database):
        client, task = inside.ask(alice)
        await task
    assert client.status == 402


async def test_a_plain_answer_waits_for_its_settlement(inside: Inside, up: Replay) -> None:
    """Its headers tell the charge, so they wait until it is a fact."""
    alice = inside.person(credits="1")
    up.handler = answers((Pause(0.1), *json_answer(completion(usage=usage_of(10, 5)))))
    client, task = inside.ask(alice)
    await until(lambda: len(up.requests) == 1)
    with locked(inside.database):
        await asyncio.sleep(0.3)
        assert client.messages == []
    await task
    assert (b"x-llmgate-charge-usd", b"0.00002") in client.messages[0]["headers"]
    assert facts((await inside.settled_soon(alice, 1))[0]) == ("ok", "upstream", 200, EXACT)


async def test_a_stream_ends_without_its_settlement_in_the_end(
    inside: Inside, up: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "END_PATIENCE_S", 0.3)
    alice = inside.person(credits="1")
    up.handler = answers(sse_answer(*words("hello"), Pause(0.1), sse(usage_chunk(10, 5)), DONE))
    client, task = inside.ask(alice, stream=True)
    await until(lambda: b"hello" in client.got)
    with locked(inside.database):
        await until(lambda: DONE in client.got)
        await task
        await until(lambda: client.ended)
        assert inside.rows(alice) == []
        assert inside.held(alice) == 1
    assert facts((await inside.settled_soon(alice, 1))[0]) == ("ok", "upstream", 200, EXACT)


async def test_what_can_not_be_settled_before_the_end_is_booked_at_the_next_start(inside: Inside, up: Replay) -> None:
    """Shutting down doesn't wait for ever for a database that can't be written: the hold tells what was in flight."""
    alice = inside.person(credits="1")
    up.handler = answers(sse_answer(sse(chunk_of("hello")), HANG))
    client, _ = inside.ask(alice, stream=True)
    await until(lambda: b"hello" in client.got)
    with locked(inside.database):
        async with asyncio.timeout(10):
            await inside.stop(patience_s=0.3)
        assert inside.held(alice) == 1
    with inside.tx() as tx:
        assert holds.recover(tx, inside.database).holds == 1
    (row,) = inside.rows(alice)
    assert (row["status"], row["source"], row["charge_nano"]) == ("interrupted", "estimated", estimate(0))


def test_a_daemon_whose_disk_is_full(up: Replay, tmp_path: Path) -> None:
    """What was served while there was room is charged once there is room again; nothing is served meanwhile."""
    with Served(tmp_path, {"upstreams": {"main": main_upstream(up)}}) as served:
        alice = served.person(credits="1")
        assert served.chat(alice).status_code == 200
        up.handler = answers(sse_answer(sse(chunk_of("hello")), HANG))
        with served.streaming(alice) as stream:
            pieces = stream.iter_raw()
            assert b"hello" in next(pieces)
            assert served.process is not None
            room = served.database.with_name("books.db-wal").stat().st_size
            _, hard = resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, (room, hard))
            up.handler = answers(json_answer(completion(usage=usage_of(10, 5))))
            error_of(served.chat(alice), 503, "storage_busy")
            assert served.client.get(served.url + "/health").status_code == 200
            ready = served.client.get(served.url + "/ready")
            assert ready.status_code == 503
            assert ready.json() == {"status": "unavailable", "storage": "the database can't be written"}
            assert len(up.requests) == 2
        served.logged("new requests are refused, settlements waiting: ")
        assert len(served.rows(alice)) == 1
        assert served.held(alice) == 1
        resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        rows = served.settled(alice, 2)
        assert [facts(row) for row in rows] == [
            ("ok", "upstream", 200, EXACT),
            ("cancelled", "estimated", 200, estimate(5)),
        ]
        assert served.client.get(served.url + "/ready").status_code == 200
        assert served.post(alice, chat_body()).status_code == 200
        served.settled(alice, 3)
