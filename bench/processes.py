"""The processes of a run: started on their cores, found on their free ports, gone at the end."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

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
        self.all = set(usable)

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


class Neighbours:
    """What else this machine does while we measure."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._all_s, self._ours_s = self._used()

    def cores(self) -> float:
        """How many of its cores others have used since, on average; to be asked when all that we started has ended."""
        all_s, ours_s = self._used()
        others_s = all_s - self._all_s - (ours_s - self._ours_s)
        return max(0.0, others_s / (time.monotonic() - self._began))

    def _used(self) -> tuple[float, float]:
        """Seconds of processor time: of everybody, and of us and those that we started."""
        times = psutil.cpu_times()
        ours = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(times) - times.idle - getattr(times, "iowait", 0.0), sum(use.ru_utime + use.ru_stime for use in ours)


class Process:
    """A program that says where it is listening, or is told."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        folder: Path,
        env: Mapping[str, str] | None = None,
        *,
        address: str | None = None,
    ) -> None:
        self.name = name
        self._address = address
        self._log = folder / f"{name.replace(' ', '-')}.log"
        with self._log.open("w") as output:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env=env,
                stdin=subprocess.PIPE,  # closed when we end, however we end: see `until_abandoned`
                stdout=output,
                stderr=output,
            )

    def address(self) -> str:
        """Its base URL; once it listens, where it says so itself."""
        if self._address:
            return self._address
        give_up = time.monotonic() + START_S
        while time.monotonic() < give_up and self._process.poll() is None:
            _, found, rest = self.said().partition("listening on ")
            if found and "\n" in rest:
                return rest.split("\n", 1)[0]
            time.sleep(0.002)
        raise BenchError(f"{self.name} didn't start: {self.last_words()}")

    def last_words(self) -> str:
        return self.said()[-1000:].strip() or "it said nothing"

    def rss_mib(self) -> float:
        """The memory that it and its workers hold now."""
        return float(sum(one.memory_info().rss for one in self._all()) / 2**20)

    def peak_mib(self) -> float:
        """The most that it and its workers have held, where the system tells (Linux); else what they hold now."""
        kib = 0
        for one in self._all():
            status = Path(f"/proc/{one.pid}/status")
            if not status.exists():
                return self.rss_mib()
            kib += int(next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM:")))
        return kib / 1024

    def cpu_s(self) -> float:
        """The processor time that it and its workers have used."""
        return float(sum(used.user + used.system for used in (one.cpu_times() for one in self._all())))

    def _all(self) -> list[psutil.Process]:
        parent = psutil.Process(self._process.pid)
        return [parent, *parent.children(recursive=True)]

    def alive(self) -> bool:
        return self._process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def said(self) -> str:
        """All that it has written."""
        return self._log.read_text()

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


def python(*args: str) -> list[str]:
    """The command that runs a module on the interpreter that runs us."""
    return [sys.executable, "-m", *args]


def many_files() -> None:
    """Let this process and those that it starts have as many connections as the system allows."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


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
