"""The processes of a run: started on their cores, found on their free ports, gone at the end."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from llmgate import server

START_S = 20.0
STOP_S = 20.0


class BenchError(Exception):
    """The run can't go on."""


# ── for whoever starts ────────────────────────────────────────────────────────────────────────────────────────────────


class Cores:
    """Where things run: the gateways on one core, the load and the mock upstream on another, if there are two."""

    def __init__(self) -> None:
        usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        self.pinned = len(usable) > 1
        self.load = {usable[0]} if self.pinned else set()
        self.gateway = {usable[-1]} if self.pinned else set()
        self._all = set(usable)

    @contextmanager
    def on(self, cores: set[int]) -> Iterator[None]:
        """What is started in here runs on these cores: a process inherits them before its first instruction."""
        if not self.pinned:
            yield
            return
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cores)
        try:
            yield
        finally:
            os.sched_setaffinity(0, before)


class Process:
    """A program that says where it is listening."""

    def __init__(self, name: str, args: Sequence[str], folder: Path, env: Mapping[str, str] | None = None) -> None:
        self.name = name
        self._log = folder / f"{name}.log"
        with self._log.open("w") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *args],
                cwd=folder,
                env=env,
                stdin=subprocess.PIPE,  # closed when we end, however we end: see `until_abandoned`
                stdout=output,
                stderr=output,
            )

    def address(self) -> str:
        """Its base URL, once it listens."""
        give_up = time.monotonic() + START_S
        while time.monotonic() < give_up and self._process.poll() is None:
            _, found, rest = self._log.read_text().partition("listening on ")
            if found and "\n" in rest:
                return rest.split("\n", 1)[0]
            time.sleep(0.002)
        raise BenchError(f"{self.name} didn't start: {self.last_words()}")

    def last_words(self) -> str:
        return self._log.read_text()[-1000:].strip() or "it said nothing"

    def rss_mib(self) -> float:
        """The memory that it holds now."""
        status = Path(f"/proc/{self._process.pid}/status")
        if status.exists():
            kib = next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmRSS:"))
        else:
            shown = ["ps", "-o", "rss=", "-p", str(self._process.pid)]
            kib = subprocess.run(shown, capture_output=True, text=True, check=True).stdout
        return int(kib) / 1024

    def cpu_s(self) -> float | None:
        """The processor time that it has used, where the system tells (Linux)."""
        stat = Path(f"/proc/{self._process.pid}/stat")
        if not stat.exists():
            return None
        user, system = stat.read_text().rpartition(") ")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> int:
        """End it, and say how it ended."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            return self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()
        finally:
            assert self._process.stdin is not None
            self._process.stdin.close()


@contextmanager
def running(process: Process) -> Iterator[Process]:
    try:
        yield process
    finally:
        process.stop()


# ── for what is started ───────────────────────────────────────────────────────────────────────────────────────────────


def run(main: Coroutine[None, None, None]) -> None:
    """Run on the event loop that llmgate runs on."""
    with asyncio.Runner(loop_factory=server.loop_factory()) as runner:
        runner.run(main)


def announce(listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    print(f"listening on http://{host}:{port}", flush=True)


async def until_abandoned() -> None:
    """Return when whoever started us closes our stdin, or dies."""
    loop = asyncio.get_running_loop()
    abandoned = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), abandoned.set)
    await abandoned.wait()
    loop.remove_reader(sys.stdin.fileno())
