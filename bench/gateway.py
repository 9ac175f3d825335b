"""llmgate as it is measured: a folder of its own, one prepaid user with plenty of credit, and its books at the end."""

from __future__ import annotations

import http.client
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .load import Ask
from .processes import BenchError, Cores, Process
from .upstream import INPUT_TOKENS, OUTPUT_TOKENS

NOT_INHERITED = ("LLMGATE_CONFIG", "LLMGATE_DB", "DATABASE_PATH", "PROXY_LOG_PATH")
"""What would lead llmgate out of its own folder."""

STARTS = 3
"""How often it is started to see how long that takes."""

CONFIG = """\
[server]
bind = "127.0.0.1:0"
engine = "@ENGINE@"

[log]
level = "warning"

[upstreams.mock]
base_url = "@UPSTREAM@/llmgate/v1"
auth = "none"

[models.bench]
routes = [{ upstream = "mock" }]
price = { input = 1, output = 2 }
"""


class Gateway:
    """One installation, made in an empty folder."""

    def __init__(self, folder: Path, cores: Cores, upstream: str, engine: str) -> None:
        self._folder = folder
        self._cores = cores
        self._env = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
        (folder / "llmgate.toml").write_text(CONFIG.replace("@UPSTREAM@", upstream).replace("@ENGINE@", engine))
        key = self._command("keys", "add", "bench", "--credits", "1000000").strip()
        self.headers = {"Authorization": f"Bearer {key}"}
        self.first_answers_s: list[float] = []
        """From each start to the first answer."""
        self.idle_mib = 0.0
        self.asked = 0
        """Requests sent from here."""

    def _command(self, *words: str) -> str:
        command = [sys.executable, "-m", "llmgate", *words]
        done = subprocess.run(command, cwd=self._folder, env=self._env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchError(f"`llmgate {' '.join(words)}` failed: {(done.stderr or done.stdout).strip()[-1000:]}")
        return done.stdout

    @contextmanager
    def serving(self, ask: bytes) -> Iterator[Process]:
        """Start it some times to see how long that takes; the last one stays."""
        for _ in range(STARTS - 1):
            self._end(self._start(ask))
        process = self._start(ask)
        self.idle_mib = process.rss_mib()
        try:
            yield process
        except BaseException:
            process.stop()
            raise
        self._end(process)

    def _start(self, ask: bytes) -> Process:
        began = time.monotonic()
        with self._cores.on(self._cores.gateway):
            process = Process("llmgate", ["llmgate", "serve"], self._folder, self._env)
        try:
            answer(Ask(f"{process.address()}/v1/chat/completions", ask, self.headers))
        except BenchError as error:
            process.stop()
            raise BenchError(f"{error}\n{process.last_words()}") from error
        except BaseException:
            process.stop()
            raise
        self.asked += 1
        self.first_answers_s.append(time.monotonic() - began)
        return process

    def _end(self, process: Process) -> None:
        code = process.stop()
        if code:
            raise BenchError(f"llmgate ended with {code}: {process.last_words()}")

    @property
    def first_answer_s(self) -> float:
        return statistics.median(self.first_answers_s)

    def books(self, answered: int) -> list[str]:
        """What is wrong with the books, given how often the upstream has answered."""
        try:
            checked = json.loads(self._command("verify", "--json"))["checked"]
        except BenchError as error:
            return [str(error)]
        sums = self._sums()
        expected = {
            "usage rows": (checked["usage"], answered),
            "holds left": (checked["holds"], 0),
            "requests": (sums["requests"], answered),
            "errors": (sums["errors"], 0),
            "input tokens": (sums["input_tokens"], answered * INPUT_TOKENS),
            "output tokens": (sums["output_tokens"], answered * OUTPUT_TOKENS),
        }
        return [
            f"the books say {found:,} {name}, {due:,} follow from the {answered:,} answers that the upstream counted"
            for name, (found, due) in expected.items()
            if found != due
        ]

    def _sums(self) -> dict[str, int]:
        rows: list[dict[str, Any]] = json.loads(self._command("report", "--by", "user", "--json"))
        names = ("requests", "errors", "input_tokens", "output_tokens")
        return {name: sum(row[name] for row in rows) for name in names}


def answer(ask: Ask) -> str:
    """Ask once, outside of all measuring, and return the body of the answer."""
    connection = http.client.HTTPConnection(*ask.address, timeout=10)
    try:
        connection.request("POST", ask.path, ask.body, ask.headers)
        response = connection.getresponse()
        body = response.read().decode()
    except (OSError, http.client.HTTPException) as error:
        raise BenchError(f"{ask.url} doesn't answer: {error}") from error
    finally:
        connection.close()
    if response.status != 200:
        raise BenchError(f"{ask.url} answers {response.status}: {body[:500]}")
    return body
