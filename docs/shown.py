"""What the docs show is what the program prints: `make docs` runs these commands and writes their output into the text,
`make lint` fails when the two have drifted apart.

One gateway serves the whole page, in a folder that is gone afterwards. What differs from run to run (keys, ids, times)
is replaced by the same stand-in every time.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STAND_INS = (
    (r"sk-lg-[0-9A-Za-z]{49}", "sk-lg-Xo2hT5uQ8vKdR1mZcW7pYbN4sEjGfL9aHtUiO3kVqCxBnMeJ0wDry6g"[:55]),
    (r"sk-lg-[0-9A-Za-z]{6}\b", "sk-lg-Xo2hT5"),
    (r"\bk-[0-9a-z]{8}\b", "k-7m2xq9ht"),
    (r"\breq_[0-9a-f]{24}\b", "req_5f0c1d2e3b4a59687706f5e4"),
    (r"\b20\d\d-\d\d-\d\d \d\d:\d\d:\d\d\b", "2026-11-20 10:00:00"),
    (r"\b20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "2026-11-20T10:00:00.000Z"),
    (r"\b20\d\d-\d\d-\d\d\b", "2026-11-20"),
    (r"127\.0\.0\.1:\d+", "127.0.0.1:8000"),
    (r"\b\d+ ms\b", "12 ms"),
    (r"/\S*/llmgate-docs-\w+/", ""),
)

NOT_INHERITED = re.compile(
    r"LLMGATE_.*|.*_API_KEY|.*_BASE_URL|DATABASE_PATH|PROXY_LOG_PATH|MODEL_PRICING_JSON|XDG_.*|NO_COLOR"
)

_folder = Path(tempfile.mkdtemp(prefix="llmgate-docs-"))
_env = {name: value for name, value in os.environ.items() if not NOT_INHERITED.fullmatch(name)}
_env |= {"PATH": f"{Path(sys.executable).parent}:{_env['PATH']}", "HOME": str(_folder), "COLUMNS": "100"}
_daemon: subprocess.Popen[bytes] | None = None


def shown(line: str, *, as_typed: str | None = None) -> None:
    """Run a command line of the shell, and print it as a reader would see it in a terminal."""
    done = subprocess.run(
        line,
        shell=True,
        cwd=_folder,
        env=_env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"docs: {line!r} ended with {done.returncode}: {done.stdout}")
    print(f"```console\n$ {as_typed or line}\n{_stood_in(done.stdout).rstrip()}\n```")


def key_of(user: str) -> None:
    """Issue a key as `shown` does, and keep it as $KEY for the commands that follow."""
    line = f"llmgate keys add {user} --credits 5"
    done = subprocess.run(line, shell=True, cwd=_folder, env=_env, text=True, capture_output=True, check=True)
    _env["KEY"] = done.stdout.strip()
    print(f"```console\n$ {line}\n{_stood_in(done.stdout + done.stderr).rstrip()}\n```")


def serving() -> None:
    """Start `llmgate serve`, and print what it says."""
    global _daemon
    log = _folder / "serve.log"
    with log.open("w") as output:
        _daemon = subprocess.Popen(
            ["llmgate", "serve", "--bind", "127.0.0.1:0"], cwd=_folder, env=_env, stdout=output, stderr=output
        )
    give_up = time.monotonic() + 15
    while "database:" not in log.read_text() and time.monotonic() < give_up:
        time.sleep(0.05)
    said = log.read_text()
    _env["BASE"] = re.search(r"http://\S+", said)[0]  # type: ignore[index]
    print(f"```console\n$ llmgate serve\n{_stood_in(said).rstrip()}\n```")


def _stood_in(text: str) -> str:
    for pattern, stand_in in STAND_INS:
        text = re.sub(pattern, stand_in, text)
    return "\n".join(line.rstrip() for line in text.splitlines())


@atexit.register
def _leave() -> None:
    if _daemon is not None:
        _daemon.send_signal(signal.SIGTERM)
        _daemon.wait(15)
    shutil.rmtree(_folder, ignore_errors=True)
