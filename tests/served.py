"""A real gateway, and its books read from outside.

    with Replay() as up, Served(folder, {"upstreams": {"main": main_upstream(up)}}) as served:
        alice = served.person(credits="0.01")
        up.handler = answers(json_answer(completion(usage=usage_of(10, 5))))
        answer = served.chat(alice)
        (row,) = served.settled(alice, 1)

`Served` is `llmgate serve` in a process of its own. `Inside` is the same without a process and without HTTP, for what
can't be brought about from outside: a client that doesn't read, a deadline of a minute, a reload at a certain moment.

Who serves in a test is checked when it stops: it leaves by itself with exit code 0, its books verify, nothing is held
any more, and its log has no traceback, no key, no secret and no prompt.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL, SIGTERM, Signals
from types import TracebackType
from typing import Any

import httpx
import tomli_w

from llmgate.config import parse, resolve
from llmgate.gateway.app import App
from llmgate.gateway.pipeline import Gateway
from llmgate.gateway.writer import Writer
from llmgate.money import parse_usd
from llmgate.store import accounts, keys, ledger, usage, verify
from llmgate.store.db import Database, Tx
from llmgate.store.workers import Worker
from llmgate.types import Billing
from tests.replay import Replay, Request, Step, sse, until, wait_until

PROMPT = "the-prompt-that-no-log-may-show"
"""What tests say to models; a log that has it has leaked."""

SECRET = "up-secret-7Qx"
"""Of the scripted upstream."""

PRICE = {"input": 1, "output": 2}
INPUT_NANO, OUTPUT_NANO = 1_000, 2_000
"""What a token costs at `PRICE`."""

LISTENING = re.compile(r"listening on (https?://\S+)")


@dataclass(frozen=True)
class Person:
    """A user with a key."""

    name: str
    key: str
    key_id: str


class Books:
    """A database as another process sees it, and who is in it."""

    def __init__(self, database: Path) -> None:
        self.database = database
        self.secrets = [SECRET, PROMPT]
        """What no log may have."""
        self._numbers = itertools.count(1)
        with Database(database):
            pass

    @contextmanager
    def tx(self) -> Iterator[Tx]:
        """Change something, as the CLI does."""
        with Database(self.database, actor="test") as db, db.write() as tx:
            yield tx

    @contextmanager
    def view(self) -> Iterator[Tx]:
        with Database(self.database, actor="test") as db, db.read() as tx:
            yield tx

    def value(self, sql: str, *values: Any) -> Any:
        with self.view() as tx:
            return tx.value(sql, *values)

    def person(
        self,
        *,
        credits: str | None = None,  # noqa: A002 - the project's word for it
        team: str | None = None,
        billing: Billing | None = None,
        **key: Any,
    ) -> Person:
        """A new user with a key; prepaid if there are credits."""
        name = f"user{next(self._numbers)}"
        with self.tx() as tx:
            accounts.add_user(tx, name, team=team, billing=billing)
            issued = keys.add(tx, name, **key)
            if credits is not None:
                ledger.add(tx, name, parse_usd(credits))
        self.secrets.append(issued.key)
        return Person(name, issued.key, issued.id)

    def rows(self, person: Person) -> list[dict[str, Any]]:
        with self.view() as tx:
            return [dict(row) for row in usage.rows(tx, {"user": person.name})]

    def held(self, person: Person) -> int:
        """How many requests of a user are in flight."""
        count: int = self.value(
            "SELECT count(*) FROM holds WHERE user_id = (SELECT id FROM users WHERE name = ?)", person.name
        )
        return count

    def settled(self, person: Person, count: int) -> list[dict[str, Any]]:
        """Wait until a user's requests are settled: so many rows are left, no hold, and the books verify."""
        wait_until(lambda: self._quiet(person, count))
        return self._checked(person, count)

    async def settled_soon(self, person: Person, count: int) -> list[dict[str, Any]]:
        """The same, while the loop goes on."""
        await until(lambda: self._quiet(person, count))
        return self._checked(person, count)

    def _quiet(self, person: Person, count: int) -> bool:
        return self.held(person) == 0 and len(self.rows(person)) >= count

    def _checked(self, person: Person, count: int) -> list[dict[str, Any]]:
        rows = self.rows(person)
        assert len(rows) == count, rows
        assert self.findings() == []
        return rows

    def balance(self, name: str) -> int:
        """What an account has left, in nano-USD; `team:NAME` names a team's."""
        with self.view() as tx:
            return ledger.balance(tx, accounts.account_of(tx, name)[0])

    def findings(self) -> list[verify.Finding]:
        with Database(self.database, actor="test") as db:
            return list(verify.verify(db))


class Served(Books):
    """The daemon as a process. As a context manager it starts, and is checked when it stops."""

    def __init__(
        self, folder: Path, config: Mapping[str, Any], *, env: Mapping[str, str] | None = None, start: bool = True
    ) -> None:
        super().__init__(folder / "books.db")
        self.folder = folder
        self.config = folder / "llmgate.toml"
        self.log_file = folder / "stderr.log"
        self.write_config(config)
        self.url = ""
        self.process: subprocess.Popen[bytes] | None = None
        self.client = httpx.Client(timeout=30, trust_env=False, headers={"accept-encoding": "identity"})
        self._env = dict(env or {})
        self._start = start

    # -- the process

    def write_config(self, config: Mapping[str, Any]) -> None:
        self.config.write_text(tomli_w.dumps(config))

    def spawn(self, *args: str) -> subprocess.Popen[bytes]:
        """`llmgate serve` as a process whose stderr goes to the log."""
        kept = ("PATH", "LANG", "TMPDIR", "COVERAGE_PROCESS_CONFIG")
        env = {name: os.environ[name] for name in kept if name in os.environ}
        with self.log_file.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "llmgate", "serve", "--db", self.database, "--config", self.config, *args],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env={**env, "HOME": str(self.folder), **self._env},
                cwd=self.folder,
            )

    def start(self) -> None:
        begin = len(self.log())
        process = self.process = self.spawn("--bind", "127.0.0.1:0")

        def answered() -> bool:
            found = LISTENING.search(self.log(), begin)
            self.url = found[1] if found else ""
            return bool(found) or process.poll() is not None

        wait_until(answered, 30)
        assert self.url, self.log()

    def signal(self, number: Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self, timeout_s: float = 30) -> int:
        """Until the process has ended; its exit code."""
        assert self.process is not None
        code = self.process.wait(timeout_s)
        self.process = None
        return code

    def stop(self, number: Signals = SIGTERM) -> int:
        self.signal(number)
        return self.wait()

    def kill(self) -> None:
        """As a crash, an OOM killer or `kill -9` ends it."""
        assert self.stop(SIGKILL) == -SIGKILL

    def log(self) -> str:
        return self.log_file.read_text() if self.log_file.exists() else ""

    def logged(self, text: str, count: int = 1) -> str:
        """Wait until a text stands in the log so often; the last line that has it."""
        wait_until(lambda: self.log().count(text) >= count)
        return [line for line in self.log().splitlines() if text in line][-1]

    def __enter__(self) -> Served:
        if self._start:
            self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.client.close()
        try:
            code = self.stop() if self.process is not None else 0
        except subprocess.TimeoutExpired:
            assert self.process is not None
            self.process.kill()
            self.process.wait()
            raise
        if error is None:
            assert code == 0, self.log()
            self.check()
            assert self.value("SELECT count(*) FROM holds") == 0

    def check(self) -> None:
        """The books verify, and the log keeps its secrets."""
        assert self.findings() == []
        log = self.log()
        assert "Traceback" not in log, log
        assert not [secret for secret in self.secrets if secret in log]

    # -- requests

    def headers(self, person: Person | str, more: Mapping[str, str] | None = None) -> dict[str, str]:
        key = person if isinstance(person, str) else person.key
        return {"authorization": f"Bearer {key}", "content-type": "application/json", **(more or {})}

    def post(
        self,
        person: Person | str,
        body: bytes | Mapping[str, Any],
        *,
        path: str = "/v1/chat/completions",
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.client.post(self.url + path, content=content, headers=self.headers(person, headers))

    def chat(self, person: Person | str, **fields: Any) -> httpx.Response:
        return self.post(person, chat_body(**fields))

    @contextmanager
    def streaming(self, person: Person, **fields: Any) -> Iterator[httpx.Response]:
        """A stream that is read by the test. Left early, its connection is closed."""
        content = json.dumps(chat_body(**{"stream": True, **fields})).encode()
        headers = self.headers(person)
        with self.client.stream("POST", f"{self.url}/v1/chat/completions", content=content, headers=headers) as got:
            yield got

    def stream(self, person: Person, **fields: Any) -> tuple[httpx.Response, bytes]:
        """A stream, read to its end."""
        with self.streaming(person, **fields) as response:
            return response, b"".join(response.iter_raw())


class Client:
    """The other side of an ASGI application: one request, and what came back of it."""

    def __init__(self, body: bytes) -> None:
        self.body: bytes | None = body
        self.messages: list[MutableMapping[str, Any]] = []
        self.left = asyncio.Event()
        """Set it to hang up."""
        self.reads = asyncio.Event()
        """Clear it to take nothing more."""
        self.reads.set()

    async def receive(self) -> MutableMapping[str, Any]:
        body, self.body = self.body, None
        if body is not None:
            return {"type": "http.request", "body": body, "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        await self.reads.wait()
        self.messages.append(message)

    @property
    def status(self) -> int | None:
        return self.messages[0]["status"] if self.messages else None

    @property
    def got(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages)

    @property
    def ended(self) -> bool:
        return bool(self.messages) and self.messages[-1].get("more_body", False) is False and len(self.messages) > 1


class Inside(Books):
    """The gateway without its process, in the test's own loop: `async with Inside(folder, config) as inside`."""

    def __init__(self, folder: Path, config: Mapping[str, Any], *, durable: bool = False) -> None:
        super().__init__(folder / "books.db")
        self._config = config
        self._durable = durable
        self._tasks: list[asyncio.Task[Any]] = []
        self._stopped = False

    async def __aenter__(self) -> Inside:
        resolved = resolve(parse(tomli_w.dumps(self._config)), {})
        self._store = Database(self.database, actor="serve")
        self._worker = Worker(self.database)
        with self._store.write() as tx:
            self._worker.register(tx)
        self.writer = Writer(self.database, durable=self._durable)
        self.gateway = Gateway(resolved.config, resolved.upstreams, self._store, self.writer, self._worker.id)
        self.app = App(self.gateway)
        self._run(self.gateway.sweep())
        return self

    def _run(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.append(task)
        return task

    def reload(self, config: Mapping[str, Any]) -> None:
        resolved = resolve(parse(tomli_w.dumps(config)), {})
        self.gateway.reload(resolved.config, resolved.upstreams)

    def ask(self, person: Person, **fields: Any) -> tuple[Client, asyncio.Task[Any]]:
        """Send a chat request: the client that waits for the answer, and the task that serves it."""
        client = Client(json.dumps(chat_body(**fields)).encode())
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "path": "/v1/chat/completions",
            "raw_path": b"/v1/chat/completions",
            "query_string": b"",
            "headers": [(b"authorization", f"Bearer {person.key}".encode())],
            "client": ("127.0.0.1", 1),
        }
        return client, self._run(self.app(scope, client.receive, client.send))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.stop()
        if error is None:
            assert [end for end in self._ended if isinstance(end, Exception)] == []
            assert self.findings() == []
            assert self.value("SELECT count(*) FROM holds") == 0

    async def stop(self, *, patience_s: float = 30) -> None:
        """End, as the server does; more than once is once."""
        if self._stopped:
            return
        self._stopped = True
        for task in self._tasks:
            task.cancel()
        self._ended = await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.gateway.close(patience_s=patience_s)
        await self.writer.close(patience_s=0)
        self._worker.close()
        self._store.close()


def chat_body(**fields: Any) -> dict[str, Any]:
    return {"model": "main/zeta", "messages": [{"role": "user", "content": PROMPT}], **fields}


ESTIMATED_INPUT = -(-len(PROMPT) // 3) + 4
"""What the prompt of `chat_body` is estimated at."""

INPUT_BOUND = len(PROMPT) + 16 + 128
"""What it may be at most: its bytes, and what a template may add."""


def estimate(text: int, prompt: int = ESTIMATED_INPUT) -> int:
    """What an estimated request is charged at `PRICE`: its prompt, and so many bytes of text."""
    return prompt * INPUT_NANO + -(-text // 3) * OUTPUT_NANO


def facts(row: Mapping[str, Any]) -> tuple[str, str, int, int]:
    """What a usage row says of how its request ended."""
    return row["status"], row["source"], row["http_status"], row["charge_nano"]


def main_upstream(up: Replay, path: str = "/v1", **more: Any) -> dict[str, Any]:
    """An upstream of a config: the scripted one, priced so that a test can count."""
    return {"base_url": up.url + path, "api_key": SECRET, "price": PRICE, **more}


def error_of(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The error of an answer, after checking that it is in OpenAI's dialect, whole."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"].startswith("req_")
    body = response.json()
    assert list(body) == ["error"]
    error: dict[str, Any] = body["error"]
    assert sorted(error) == ["code", "message", "param", "type"]
    assert error["code"] == code, error
    assert error["message"]
    return error


# -- what upstreams say


def answers(*scripts: Sequence[Step]) -> Callable[[Request], Sequence[Step]]:
    """A handler of `Replay` that gives one answer after the other, and the last one again and again."""
    left = list(scripts)

    def handler(_: Request) -> Sequence[Step]:
        return left.pop(0) if len(left) > 1 else left[0]

    return handler


def usage_of(prompt: int, completion: int, **more: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion, **more}


def completion(text: str = "hello", *, usage: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A whole chat completion; without a usage, none is in it."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    said = {} if usage is None else {"usage": usage}
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "zeta"}
    return {**head, "choices": [choice], **said, **more}


def chunk_of(text: str | None = None, *, finish: str | None = None, **more: Any) -> dict[str, Any]:
    """A chunk of a streamed completion."""
    delta = {} if text is None else {"content": text}
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "zeta"}
    return {**head, "choices": [choice], **more}


def usage_chunk(prompt: int, completion: int) -> dict[str, Any]:
    return chunk_of(choices=[], usage=usage_of(prompt, completion))


DONE = sse("[DONE]")


def words(*texts: str) -> list[bytes]:
    """The events of a stream that says these, and then that it is done."""
    return [*(sse(chunk_of(text)) for text in texts), sse(chunk_of(finish="stop"))]
