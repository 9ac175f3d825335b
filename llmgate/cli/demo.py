"""`llmgate demo`: the whole story in seconds, on the sandbox, in a folder that is gone afterwards.

Nothing is staged: every command line that is shown is run as a process of its own, and the requests go over HTTP to a
real daemon, in the form in which OpenAI's SDK sends them.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..errors import Failure
from .grammar import alone, verb

if TYPE_CHECKING:
    import httpx

app = alone()

NOT_INHERITED = ("LLMGATE_CONFIG", "LLMGATE_DB", "DATABASE_PATH", "PROXY_LOG_PATH")
"""What would lead the demo's commands out of its own folder."""

START_S = 10.0
ENOUGH = 100
"""Requests after which Bob must have run out of credit."""


@verb(
    app,
    "demo",
    examples="""
    llmgate demo
    """,
)
def demo() -> None:
    """Show the whole story in seconds: keys, credits, a chat, a stream, an embedding, an empty balance, the books.

    It runs a real daemon on a free port of this machine, on the built-in sandbox: no secret and no network is needed,
    and nothing is left behind.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="llmgate-demo-") as folder:
        _Story(Path(folder)).tell()
    _say(f"\nDone in {time.monotonic() - began:.1f} s, and nothing is left behind. Next: llmgate init")


class _Story:
    """The steps, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._env = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
        self._step = 0

    def tell(self) -> None:
        import httpx

        self._title("A config: the built-in sandbox answers, at $1 per 1M input tokens and $2 per 1M output tokens")
        self._run("init --upstream sandbox --bind 127.0.0.1:0")
        self._title("Two users: Alice has five dollars, Bob has a fifth of a cent")
        alice = self._run("keys add alice --credits 5 --tag agent=demo")
        bob = self._run("keys add bob --credits 0.002")
        self._title("The daemon")
        with self._daemon() as address, httpx.Client(base_url=f"{address}/v1", timeout=30) as client:
            self._title("A chat, a stream and an embedding, as OpenAI's SDK sends them")
            self._chat(client, alice)
            self._stream(client, alice)
            self._embed(client, alice)
            self._title("Bob asks until his credit is gone; the request that it can't carry is refused, not overspent")
            self._run_out(client, bob)
            self._title("What was used, and who paid")
            self._run("report --since today --by user --by model")
            self._run("credits")
            self._title("The books, recomputed from first facts")
            self._run("verify")

    def _title(self, text: str) -> None:
        self._step += 1
        _say(f"\n{self._step}. {text}", bold=True)

    def _run(self, line: str) -> str:
        """Run a command as an admin would type it, and show what it prints. A new key is returned as well."""
        _say(f"   $ llmgate {line}", dim=True)
        wanted = line.startswith("keys add")
        quiet = wanted or line.startswith("init")
        done = subprocess.run(  # noqa: S603 - our own program
            [sys.executable, "-m", "llmgate", *shlex.split(line)],
            cwd=self._folder,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if wanted else None,
            stderr=subprocess.PIPE if quiet else None,
            text=True,
            check=False,
        )
        if done.returncode:
            raise Failure(f"the demo failed at `llmgate {line}`: {(done.stderr or '').strip()}")
        if wanted:
            _say(f"   {done.stdout.strip()}")
        return done.stdout.strip() if wanted else ""

    @contextmanager
    def _daemon(self) -> Iterator[str]:
        """A real `llmgate serve` on a free port; yields its address."""
        _say("   $ llmgate serve", dim=True)
        log = self._folder / "serve.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "llmgate", "serve"],
                cwd=self._folder,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            address = self._address(process, log)
            _say(f"   listening on {address}")
            yield address
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.returncode:
            raise Failure(f"the demo's daemon ended with {process.returncode}: {log.read_text()[-500:]}")

    def _address(self, process: subprocess.Popen[bytes], log: Path) -> str:
        give_up = time.monotonic() + START_S
        while time.monotonic() < give_up and process.poll() is None:
            _, found, rest = log.read_text().partition(" listening on ")
            if found and "\n" in rest:
                return rest.split("\n", 1)[0]
            time.sleep(0.02)
        raise Failure(f"the demo's daemon didn't start: {log.read_text()[-500:]}")

    def _chat(self, client: httpx.Client, key: str) -> None:
        _shown("chat/completions", "echo")
        answer = _post(client, key, "chat/completions", _asking("echo", "Good morning, gateway!"))
        used = answer.json()["usage"]
        _say(f"   {answer.json()['choices'][0]['message']['content']}")
        _say(
            f"   {used['prompt_tokens']} + {used['completion_tokens']} tokens, "
            f"charged ${answer.headers['x-llmgate-charge-usd']}, left ${answer.headers['x-llmgate-balance-usd']}",
            dim=True,
        )

    def _stream(self, client: httpx.Client, key: str) -> None:
        _shown("chat/completions", "slow", stream=True)
        body = _asking("slow", "Every word comes by itself, and every token is counted.") | {"stream": True}
        with client.stream("POST", "chat/completions", json=body, headers=_bearer(key)) as answer:
            _check(answer)
            sys.stdout.write("   ")
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    choices = json.loads(line.removeprefix("data: "))["choices"]
                    sys.stdout.write(choices[0]["delta"].get("content", "") if choices else "")
                    sys.stdout.flush()
        sys.stdout.write("\n")

    def _embed(self, client: httpx.Client, key: str) -> None:
        _shown("embeddings", "embed")
        answer = _post(client, key, "embeddings", {"model": "embed", "input": "money that is right"}).json()
        vector = answer["data"][0]["embedding"]
        _say(f"   [{', '.join(f'{number:.3f}' for number in vector[:4])}, …] of {len(vector)} dimensions")

    def _run_out(self, client: httpx.Client, key: str) -> None:
        _shown("chat/completions", "echo")
        question = "Tell me how much of my credit is left, and whether it carries one more question. " * 2
        for served in range(ENOUGH):
            answer = client.post("chat/completions", json=_asking("echo", question), headers=_bearer(key))
            if answer.status_code == 402:
                _say(f"   {served} were served, then HTTP 402: {answer.json()['error']['message']}")
                return
            _check(answer)
        raise Failure("the demo failed: Bob never ran out of credit")


def _asking(model: str, question: str) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": question}]}


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def _post(client: httpx.Client, key: str, path: str, body: dict[str, Any]) -> httpx.Response:
    answer = client.post(path, json=body, headers=_bearer(key))
    _check(answer)
    return answer


def _check(answer: httpx.Response) -> None:
    if answer.status_code != 200:
        answer.read()
        raise Failure(f"the demo failed: HTTP {answer.status_code} {answer.text}")


def _shown(path: str, model: str, *, stream: bool = False) -> None:
    _say(f"   > POST /v1/{path}  model={model}{' stream=true' if stream else ''}", dim=True)


def _say(text: str, *, bold: bool = False, dim: bool = False) -> None:
    """A line of the story: in order with what the commands print, so it is flushed."""
    typer.echo(typer.style(text, bold=bold, dim=dim) if _coloured() else text)
    sys.stdout.flush()


def _coloured() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ
