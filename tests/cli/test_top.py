"""`llmgate top` as its users run it: on a terminal until it is told to end, and once on a pipe."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import sqlite3
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from llmgate.store import limits
from llmgate.store.db import now_ms
from llmgate.types import Meters, Status

from ..books import Book
from ..served import Served
from .conftest import PROGRAM, Cli, plain

ENTERS, LEAVES = "\x1b[?1049h", "\x1b[?1049l"


class Screen:
    """A terminal with llmgate in it. What it shows is the last whole drawing."""

    def __init__(self, cli: Cli, *args: str, columns: int = 80, lines: int = 24, **env: str) -> None:
        self.ours, self.theirs = pty.openpty()
        self.resize(columns, lines)
        self.modes = termios.tcgetattr(self.theirs)
        self.out = ""
        self.process = subprocess.Popen(
            [*PROGRAM, *args],
            stdin=self.theirs,
            stdout=self.theirs,
            stderr=self.theirs,
            cwd=cli.folder,
            env={**cli.env, **env},
            process_group=0,  # of our session, so that it can be stopped
        )

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, keys: str) -> None:
        os.write(self.ours, keys.encode())

    def read(self, seconds: float = 30) -> None:
        """What comes next, if anything does in time."""
        if select.select([self.ours], [], [], seconds)[0]:
            self.out += os.read(self.ours, 65536).decode(errors="replace")

    def until(self, fits: Callable[[str], bool]) -> str:
        """Read until what is shown fits."""
        end = time.monotonic() + 30
        while not fits(self.shown) and time.monotonic() < end:
            self.read(end - time.monotonic())
        assert fits(self.shown), self.shown
        return self.shown

    @property
    def shown(self) -> str:
        return plain(self.out.split("\x1b[H")[-1]).replace("\r\n", "\n")

    def ended(self, code: int = 0) -> None:
        """It has left, and the terminal is as it was."""
        end = time.monotonic() + 30
        while self.process.poll() is None and time.monotonic() < end:
            self.read(0.05)
        assert self.process.wait(0) == code, self.out
        while select.select([self.ours], [], [], 0)[0]:
            self.read(0)
        assert self.is_as_it_was()

    def is_as_it_was(self) -> bool:
        left = self.out.rfind(LEAVES) > self.out.rfind(ENTERS)
        seen = self.out.rfind("\x1b[?25h") > self.out.rfind("\x1b[?25l")
        return left and seen and termios.tcgetattr(self.theirs) == self.modes

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.ours)
        os.close(self.theirs)


Open = Callable[..., Screen]


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    book = Book(tmp_path / "llmgate.db")
    yield book
    book.close()


@pytest.fixture
def cli(book: Book) -> Cli:
    return Cli(book.path.parent, LLMGATE_DB=str(book.path))


@pytest.fixture
def opened(cli: Cli) -> Iterator[Open]:
    started: list[Screen] = []

    def start(*args: str, **fields: Any) -> Screen:
        started.append(Screen(cli, *args, **fields))
        return started[-1]

    yield start
    for one in started:
        one.close()


def asked(book: Book, key: str, **fields: Any) -> None:
    book.use(key, Meters(input=10, output=5, calls=1), now_ms=now_ms(), **fields)


@pytest.mark.parametrize("keys", ["q", "Q", "\x1b", "xyzq", "\x1b[Aq"], ids=repr)
def test_it_shows_what_comes_and_ends_when_it_is_told_to(book: Book, opened: Open, keys: str) -> None:
    alice = book.user("alice")
    screen = opened("top")
    screen.until(lambda shown: "nothing is in flight" in shown and "no model" in shown)
    assert f"pid {os.getpid()} serves" in screen.shown
    hold = book.place(alice, model="slow", now_ms=now_ms())
    screen.until(lambda shown: "slow" in shown and "alice" in shown)
    book.settle(hold)
    screen.until(lambda shown: "nothing is in flight" in shown and "slow" in shown)
    for part in re.findall(r"\x1b\[A|[^\x1b]+|\x1b", keys):
        screen.type(part)
    screen.ended()


def test_an_arrow_is_no_escape(opened: Open) -> None:
    screen = opened("top")
    screen.until(lambda shown: "q ends" in shown)
    screen.type("\x1b[A")
    before = len(screen.out)
    screen.until(lambda shown: len(screen.out) > before)
    assert screen.process.poll() is None
    screen.type("q")
    screen.ended()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_ends_it_and_the_terminal_is_as_it_was(opened: Open, number: signal.Signals) -> None:
    screen = opened("top")
    screen.until(lambda shown: "q ends" in shown)
    screen.process.send_signal(number)
    screen.ended()


def test_it_is_drawn_anew_for_another_size(opened: Open) -> None:
    screen = opened("top", "--interval", "1h")
    screen.until(lambda shown: "q ends" in shown)
    screen.resize(132, 40)
    screen.process.send_signal(signal.SIGWINCH)
    screen.until(lambda shown: len(shown.split("\n")[0]) == 132)
    screen.resize(60, 20)
    screen.process.send_signal(signal.SIGWINCH)
    screen.until(lambda shown: len(shown.split("\n")) == 20 and len(shown.split("\n")[0]) == 60)
    screen.type("q")
    screen.ended()


def test_the_shell_has_its_terminal_while_it_is_stopped(book: Book, opened: Open) -> None:
    screen = opened("top")
    screen.until(lambda shown: "q ends" in shown)
    screen.process.send_signal(signal.SIGTSTP)
    while select.select([screen.ours], [], [], 0)[0] or not screen.is_as_it_was():
        screen.read(0.05)
    _, status = os.waitpid(screen.process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    asked(book, book.user("alice"), model="meanwhile")
    screen.process.send_signal(signal.SIGCONT)
    screen.until(lambda shown: "meanwhile" in shown)
    assert not screen.is_as_it_was()
    screen.type("q")
    screen.ended()


def test_what_goes_wrong_is_told_on_the_terminal_as_it_was(book: Book, opened: Open) -> None:
    screen = opened("top")
    screen.until(lambda shown: "q ends" in shown)
    with closing(sqlite3.connect(book.path)) as db:
        db.execute("ALTER TABLE holds RENAME TO gone")
    screen.ended(4)
    assert "no such table: holds" in screen.out[screen.out.rfind(LEAVES) :]
    assert "Traceback" not in screen.out


def test_a_terminal_without_colours_or_a_second_screen(book: Book, opened: Open) -> None:
    asked(book, book.user("alice"), status=Status.ERROR)
    screen = opened("top", NO_COLOR="1", TERM="screen")
    screen.until(lambda shown: "alice" in shown)
    assert not re.search(r"\x1b\[[0-9;]*m", screen.out)
    screen.type("q")
    screen.ended()
    dumb = opened("top", TERM="dumb")
    dumb.until(lambda shown: shown.count("alice") >= 2)
    assert "\x1b" not in dumb.out
    dumb.type("q")
    assert dumb.process.wait(30) == 0
    assert termios.tcgetattr(dumb.theirs) == dumb.modes


def test_the_daemon_at_work(tmp_path: Path, opened: Open) -> None:
    with Served(tmp_path, {"upstreams": {"sandbox": {}}}) as served:
        assert served.process is not None
        screen = opened("top", "--db", str(served.database))
        screen.until(lambda shown: f"pid {served.process.pid} serves" in shown)  # type: ignore[union-attr]
        user = served.person()
        assert served.chat(user, model="sandbox/echo").status_code == 200
        screen.until(lambda shown: user.name in shown and "sandbox/echo" in shown)
        screen.type("q")
        screen.ended()


# ── once ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_pipe_gets_how_things_stand_once(book: Book, cli: Cli) -> None:
    alice = book.user("alice")
    asked(book, alice, model="gpt-4o")
    book.place(alice, model="slow", now_ms=now_ms() - 75_000)
    done = cli("top")
    assert "\x1b" not in done.out
    titles = [line.split()[0] for line in done.out.splitlines() if line and not line.startswith(("─", " "))]
    assert [title for title in titles if title in ("over", "in", "user", "model", "upstream")] == [
        *("over", "in", "user", "model", "upstream"),
    ]
    assert "1m 15s" in done.out
    assert "no limit is near its end" in done.out


def test_json_is_one_document(book: Book, cli: Cli) -> None:
    alice = book.user("alice")
    for status in (Status.OK, Status.OK, Status.ERROR):
        asked(book, alice, status=status)
    hold = book.place(alice, model="slow", now_ms=now_ms() - 5000)
    found = cli.data("top", "--window", "10m")
    assert [rate["seconds"] for rate in found["rates"]] == [10, 600]
    minutes = found["rates"][1]
    assert (minutes["requests"], minutes["errors"], minutes["tokens"]) == (3, 1, 45)
    assert (minutes["charge_usd"], minutes["cost_usd"]) == ("0.00000006", "0.00000006")
    assert 0 < minutes["requests_per_second"] < 1
    assert sum(found["history"]) <= 3
    assert (found["history_seconds"], len(found["history"])) == (10, 60)
    assert (found["in_flight"], found["stranded"]) == (1, 0)
    (slowest,) = found["slowest"]
    assert (slowest["user"], slowest["model"], slowest["request_id"]) == ("alice", "slow", hold.claim.request_id)
    assert slowest["age_ms"] >= 5000
    assert [(one["name"], one["requests"], one["in_flight"]) for one in found["users"]] == [("alice", 3, 1)]
    assert {one["name"]: one["requests"] for one in found["models"]} == {"gpt": 3, "slow": 0}
    (upstream,) = found["upstreams"]
    assert (upstream["name"], upstream["first_byte_ms"], upstream["first_byte_p95_ms"]) == ("openai", 3, 3)
    assert (upstream["last_error_status"], upstream["wasted_usd"]) == (502, "0")
    assert [one["pid"] for one in found["daemons"]] == [os.getpid()]
    assert found["limits"] == []


def test_a_limit_near_its_end_is_shown_as_limits_shows_it(book: Book, cli: Cli) -> None:
    alice = book.user("alice")
    with book.write() as tx:
        limits.hang(tx, "alice", ["1 concurrent", "9 requests total"])
    book.place(alice, now_ms=now_ms())
    (expected,) = [one for one in cli.data("limits") if one["limit"] == "1 concurrent"]
    assert cli.data("top")["limits"] == [expected]


def test_other_formats_have_the_sums_in_rows(book: Book, cli: Cli) -> None:
    asked(book, book.user("alice"))
    lines = cli("top", "--format", "csv").out.splitlines()
    assert lines[0] == "what,name,seconds,requests,errors,tokens,cost_usd,charge_usd,in_flight"
    assert lines[2:] == [
        "all,,60,1,0,15,0.00000002,0.00000002,0",
        "user,alice,60,1,0,15,0.00000002,0.00000002,0",
        "model,gpt,60,1,0,15,0.00000002,0.00000002,0",
        "upstream,openai,300,1,0,15,0.00000002,0.00000002,0",
    ]
    assert cli("top", "--format", "md").out.startswith("| what | name |")


@pytest.mark.parametrize(
    ("option", "value"),
    [("--interval", "0s"), ("--interval", "2h"), ("--interval", "1mo"), ("--window", "5s"), ("--window", "soon")],
)
def test_lengths_of_time_that_make_no_sense(cli: Cli, option: str, value: str) -> None:
    said = cli("top", option, value, code=2).err
    assert value in said
    assert "write" in said
    assert len(said.splitlines()) == 1
