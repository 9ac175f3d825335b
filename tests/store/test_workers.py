"""Who lives: told by a lock that the kernel frees, tried with real processes."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from llmgate.store import workers
from llmgate.store.workers import Worker, dead, living
from llmgate.types import Meters

from ..books import Book

WORKER = """
import subprocess, sys
from pathlib import Path
from llmgate.store.db import Database
from llmgate.store.workers import Worker
database = Path(sys.argv[1])
worker = Worker(database)
with Database(database) as db, db.write() as tx:
    worker.register(tx)
child = subprocess.Popen(["sleep", "60"]) if "parent" in sys.argv else None
print(worker.id, child.pid if child else 0, flush=True)
sys.stdin.readline()
worker.close()
"""


class Process:
    """A worker in a process of its own."""

    def __init__(self, book: Book, *words: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(book.path), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.id, child = self.process.stdout.readline().split()
        self.child = int(child)

    def end(self, number: signal.Signals | None = None) -> None:
        if number is None:
            self.process.communicate("go\n", timeout=20)
        else:
            self.process.send_signal(number)
            self.process.communicate(timeout=20)


@pytest.fixture
def employ(book: Book) -> Iterator[Callable[..., Process]]:
    with ExitStack() as leaving:

        def employ(*words: str) -> Process:
            process = Process(book, *words)
            leaving.callback(process.process.communicate, timeout=20)
            leaving.callback(process.process.kill)
            return process

        yield employ


def give_a_hold(book: Book, worker_id: str) -> None:
    """A hold of another worker: only those with holds are looked for."""
    hold = book.place(book.user(f"user-{worker_id}"))
    book.db.conn.execute("UPDATE holds SET worker_id = ? WHERE id = ?", (worker_id, hold.id))


def file_of(book: Book, worker_id: str) -> Path:
    return book.path.with_name("llmgate.db-workers") / worker_id


def test_a_worker_is_alive_while_it_runs_and_dead_after_kill_9(book: Book, employ: Callable[..., Process]) -> None:
    process = employ()
    give_a_hold(book, process.id)
    assert dead(book.tx, book.path) == []
    assert living(book.path) == 2
    process.end(signal.SIGKILL)
    assert file_of(book, process.id).exists(), "nobody tidied up after it"
    assert dead(book.tx, book.path) == [process.id]
    assert living(book.path) == 1


def test_a_worker_that_is_only_suspended_lives(book: Book, employ: Callable[..., Process]) -> None:
    process = employ()
    give_a_hold(book, process.id)
    process.process.send_signal(signal.SIGSTOP)
    assert dead(book.tx, book.path) == []
    process.process.send_signal(signal.SIGCONT)
    process.end()


def test_a_worker_that_ended_well_leaves_no_file(book: Book, employ: Callable[..., Process]) -> None:
    process = employ()
    assert oct(file_of(book, process.id).stat().st_mode)[-3:] == "600"
    process.end()
    assert process.process.returncode == 0
    assert [file.name for file in file_of(book, "x").parent.iterdir()] == [book.worker.id]
    assert living(book.path) == 1


def test_a_workers_children_don_t_keep_it_alive(book: Book, employ: Callable[..., Process]) -> None:
    process = employ("parent")
    give_a_hold(book, process.id)
    try:
        process.process.kill()
        process.process.wait(timeout=20)
        os.kill(process.child, 0)
        assert dead(book.tx, book.path) == [process.id]
    finally:
        os.kill(process.child, signal.SIGKILL)


def test_a_pid_that_was_given_out_again_keeps_nobody_alive(book: Book, employ: Callable[..., Process]) -> None:
    process = employ()
    give_a_hold(book, process.id)
    process.end(signal.SIGKILL)
    book.db.conn.execute("UPDATE workers SET pid = ? WHERE id = ?", (os.getpid(), process.id))
    assert dead(book.tx, book.path) == [process.id]


def test_a_worker_without_a_file_is_dead(book: Book) -> None:
    """A restored backup has the holds, but not the files."""
    book.place(book.user("alice"))
    file_of(book, book.worker.id).unlink()
    assert dead(book.tx, book.path) == [book.worker.id]


def test_who_holds_nothing_is_not_looked_for(book: Book, employ: Callable[..., Process]) -> None:
    employ().end(signal.SIGKILL)
    assert dead(book.tx, book.path) == []


def test_the_file_of_the_dead_is_removed_by_whoever_counts(book: Book, employ: Callable[..., Process]) -> None:
    process = employ()
    process.end(signal.SIGKILL)
    assert living(book.path) == 1
    assert not file_of(book, process.id).exists()


def test_two_who_look_at_once_both_see_that_it_is_dead(book: Book, employ: Callable[..., Process]) -> None:
    process = employ()
    give_a_hold(book, process.id)
    process.end(signal.SIGKILL)
    looking = os.open(file_of(book, process.id), os.O_RDWR)
    fcntl.flock(looking, fcntl.LOCK_SH)
    try:
        assert dead(book.tx, book.path) == [process.id]
    finally:
        os.close(looking)


def test_a_worker_is_never_taken_for_dead_while_it_starts(book: Book) -> None:
    """Its file appears locked: somebody who counts at that very moment must not remove it."""
    done = threading.Event()

    def count() -> None:
        while not done.is_set():
            living(book.path)

    counting = threading.Thread(target=count)
    counting.start()
    try:
        started = [Worker(book.path) for _ in range(150)]
    finally:
        done.set()
        counting.join()
    assert living(book.path) == 151
    for worker in started:
        worker.close()
    assert living(book.path) == 1


def test_where_nobody_ever_served_nobody_lives(tmp_path: Path) -> None:
    assert living(tmp_path / "llmgate.db") == 0


def test_a_worker_is_registered(book: Book) -> None:
    (row,) = book.rows("SELECT * FROM workers")
    assert (row["id"], row["pid"]) == (book.worker.id, os.getpid())
    assert row["host"]


def test_a_request_that_was_in_flight_at_kill_9_is_recovered(book: Book, employ: Callable[..., Process]) -> None:
    process = employ()
    key = book.user("alice", credits=1000)
    hold = book.place(key)
    book.db.conn.execute("UPDATE holds SET worker_id = ? WHERE id = ?", (process.id, hold.id))
    process.end(signal.SIGKILL)
    assert (book.recover().holds, book.money("alice")) == (1, (960, 0))
    book.settle(hold, Meters(input=50, calls=1))  # it lived after all, and says what it knows
    assert book.money("alice") == (950, 0)
    assert book.findings() == []


def test_probing_never_takes_the_lock_of_the_living(book: Book) -> None:
    """Nor does it lose it: closing a probe's file must not free the owner's lock, as it would with POSIX locks."""
    for _ in range(3):
        assert workers._alive(file_of(book, book.worker.id))


def test_workers_that_hold_nothing_any_more_are_forgotten(book: Book) -> None:
    hold = book.place(book.user("alice", credits=1_000))
    book.crash()
    book.crash()
    assert book.value("SELECT count(*) FROM workers") == 3
    book.recover()
    assert [row["id"] for row in book.rows("SELECT id FROM workers")] == [book.worker.id]
    assert book.value("SELECT status FROM usage WHERE id = ?", hold.id) == "interrupted"
