"""`llmgate usage --follow`: each request once, when it has ended, until Ctrl-C."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Queue
from threading import Thread

import pytest

from ..books import Book
from .conftest import PROGRAM, Cli, plain


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    book = Book(tmp_path / "llmgate.db")
    yield book
    book.close()


@pytest.fixture
def cli(book: Book) -> Cli:
    return Cli(book.path.parent, LLMGATE_DB=str(book.path))


class Follower:
    """A follower on a pipe. Its lines are read as they come."""

    def __init__(self, cli: Cli, *args: str) -> None:
        command, pipe = [*PROGRAM, "usage", "--follow", *args], subprocess.PIPE
        self.process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=cli.folder, env=cli.env)
        self.lines: Queue[str] = Queue()
        self.reader = Thread(target=self._read)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line)

    def line(self) -> str:
        return self.lines.get(timeout=30)

    def interrupt(self) -> None:
        """Ctrl-C: it ends cleanly, and nothing more has come."""
        self.process.send_signal(signal.SIGINT)
        assert self.process.stderr is not None
        assert (self.process.wait(30), self.process.stderr.read()) == (0, "")
        self.close()
        assert self.lines.empty()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.reader.join()
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()


Follow = Callable[..., Follower]


@pytest.fixture
def follow(cli: Cli) -> Iterator[Follow]:
    started: list[Follower] = []

    def start(*args: str) -> Follower:
        started.append(Follower(cli, *args))
        return started[-1]

    yield start
    for one in started:
        one.close()


def test_each_request_is_an_object_a_line_also_the_late_one(book: Book, follow: Follow) -> None:
    alice = book.user("alice")
    book.settle(book.place(alice, model="before"))
    slow = book.place(alice, model="slow")
    follower = follow("--json", "--last", "1")
    assert json.loads(follower.line())["model"] == "before"
    book.settle(book.place(alice, model="quick"))
    quick = json.loads(follower.line())
    assert (quick["model"], quick["charge_usd"]) == ("quick", "0.00000002")
    book.settle(slow)
    assert json.loads(follower.line())["id"] == slow.id
    follower.interrupt()


def test_it_begins_where_it_is_told_to_and_keeps_its_filters(book: Book, follow: Follow) -> None:
    alice, bob = book.user("alice"), book.user("bob")
    for key in (alice, bob, alice):
        book.settle(book.place(key))
    follower = follow("--json", "--since", "2020-01-01", "--user", "alice")
    assert [json.loads(follower.line())["id"] for _ in range(2)] == [1, 3]
    book.settle(book.place(bob))
    book.settle(book.place(alice, now_ms=1000))
    assert json.loads(follower.line())["id"] == 5, "also what began before --since, as it ends now"
    follower.interrupt()


def test_a_pipe_gets_lines_with_titles_at_once(book: Book, follow: Follow) -> None:
    alice = book.user("alice")
    book.settle(book.place(alice))
    follower = follow("--last", "1")
    assert follower.line().split()[:4] == ["id", "time", "key", "model"]
    assert "alice/default" in follower.line()
    book.settle(book.place(alice, model="a-model-with-a-name-that-is-long"))
    assert "a-model-with-a-name-that-is-long" in follower.line()
    follower.interrupt()


def test_csv_goes_on_too(book: Book, follow: Follow) -> None:
    book.settle(book.place(book.user("alice")))
    follower = follow("--format", "csv", "--last", "5")
    assert follower.line().startswith("id,time,")
    assert follower.line().startswith("1,")
    follower.interrupt()


def test_a_terminal_begins_with_the_newest_and_fits(book: Book, cli: Cli) -> None:
    alice = book.user("alice")
    for number in range(12):
        book.settle(book.place(alice, model=f"m{number:02}"))
    out = plain(cli.terminal("usage", "--follow", columns=110, answers={"m11": "\x03"}).out)
    assert "m02" in out
    assert "m01" not in out
    assert max(len(row) for row in out.splitlines()) <= 110
    assert out.endswith("^C\n"), "the prompt comes on a line of its own"


def test_a_narrow_terminal_gets_what_matters_on_one_line(book: Book, cli: Cli) -> None:
    alice = book.user("alice")
    for model in ("gpt-4o-mini", "claude-sonnet-4"):
        book.settle(book.place(alice, model=model))
    for columns, titles in ((60, ["time", "user", "model"]), (80, ["time", "id", "user", "model"])):
        out = plain(cli.terminal("usage", "--follow", columns=columns, answers={"claude-sonnet-4": "\x03"}).out)
        lines = [line for line in out.splitlines() if line and not line.startswith("^C")]
        assert lines[0].split() == [*titles, "charge", "status"]
        assert len(lines) == 3
        assert max(map(len, lines)) <= columns
        assert lines[1].startswith("12:00:00 ")


def test_a_tail_has_no_end(cli: Cli) -> None:
    assert "leave out --until" in cli("usage", "--follow", "--until", "today", code=2).err
