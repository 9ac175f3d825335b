"""llmgate run as its users run it: a process of its own, in a home of its own, on a pipe or on a terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from codecs import getincrementaldecoder
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from . import books, prepared

PROGRAM = (sys.executable, "-m", "llmgate")


class Ran(NamedTuple):
    """What a run left behind. On a terminal both streams are in `out`."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        """The error that a run with --json has told."""
        return json.loads(self.err.splitlines()[-1])["error"]


class Cli:
    """Runs llmgate in a folder that is its home and where it is called."""

    def __init__(self, folder: Path, **env: str) -> None:
        self.folder = folder
        self.env = {
            **{name: os.environ[name] for name in ("PATH", "COVERAGE_PROCESS_CONFIG") if name in os.environ},
            "HOME": str(folder),
            "XDG_CONFIG_HOME": str(folder / "config"),
            "XDG_DATA_HOME": str(folder / "data"),
            "LANG": "C.UTF-8",
            "TERM": "xterm-256color",
            **env,
        }

    def __call__(self, *args: str | Path, code: int | None = 0, stdin: str = "", **env: str) -> Ran:
        """On pipes. The exit code must be `code`; None: any."""
        done = subprocess.run(
            [*PROGRAM, *map(str, args)],
            input=stdin,
            capture_output=True,
            text=True,
            cwd=self.folder,
            env={**self.env, **env},
            timeout=60,
            check=False,
        )
        assert code in (None, done.returncode), f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return Ran(done.returncode, done.stdout, done.stderr)

    def terminal(
        self, *args: str | Path, columns: int = 100, answers: Mapping[str, str] | None = None, code: int = 0, **env: str
    ) -> Ran:
        """On a terminal of so many columns. `answers`: what is typed once the text before it was shown."""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        process = subprocess.Popen(
            [*PROGRAM, *map(str, args)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=self.folder,
            env={**self.env, **env},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that Ctrl-C reaches it
        )
        os.close(theirs)
        out = converse(ours, dict(answers or {}))
        os.close(ours)
        assert process.wait(30) == code, out
        return Ran(code, out, "")

    def data(self, *args: str | Path) -> Any:
        """What a command writes with --json."""
        return self(*args, "--json").json


def converse(terminal: int, answers: dict[str, str]) -> str:
    """Type each answer once its prompt was seen, until the other end is closed; returns all that was seen."""
    seen, end = "", time.monotonic() + 30
    decoder = getincrementaldecoder("utf-8")()  # a sign of several bytes may come in two pieces
    while time.monotonic() < end:
        if not select.select([terminal], [], [], 0.1)[0]:
            continue
        try:
            chunk = os.read(terminal, 65536)
        except OSError:  # the other end is closed
            break
        if not chunk:
            break
        seen += decoder.decode(chunk)
        for prompt in [prompt for prompt in answers if prompt in seen]:
            time.sleep(0.1)  # nobody types while the question is being written
            os.write(terminal, answers.pop(prompt).encode())
    return seen.replace("\r\n", "\n")


def plain(text: str) -> str:
    """A terminal's text without its colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """An empty home."""
    return Cli(tmp_path)


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with a history, for tests that only read."""
    return books.fill(tmp_path_factory.mktemp("books") / "llmgate.db")


@pytest.fixture
def reader(tmp_path: Path, filled: Path) -> Cli:
    """Runs on `filled`."""
    return Cli(tmp_path, LLMGATE_DB=str(filled))


@pytest.fixture(scope="session")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every example works, to be copied."""
    return prepared.prepare(tmp_path_factory.mktemp("ready"))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, for runs inside of this process: there are hundreds of them."""
    monkeypatch.chdir(tmp_path)
    for name, folder in (("HOME", "."), ("XDG_CONFIG_HOME", "config"), ("XDG_DATA_HOME", "data")):
        monkeypatch.setenv(name, str(tmp_path / folder))
    for name in ("LLMGATE_DB", "LLMGATE_CONFIG", "DATABASE_PATH"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path
