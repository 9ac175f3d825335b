"""What all scenarios have: daemons on one database, an upstream that keeps a journal, requests, and the CLI.

Every request carries a marker of its own as OpenAI's field `user`: the upstream writes it into its journal before it
begins to answer, and the usage row keeps it as the tag `end_user`. So it can be said of each single request whether it
was worked for, and whether it was booked.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from tests.replay import Replay, Request, Step
from tests.served import Books, Served, chat_body

ANSWER_S = 60.0
"""No answer takes longer, whatever is broken; a request that waits for more has been lost."""

Script = Callable[[Request], Sequence[Step]]
"""From a request to what is answered."""


class Upstream(Replay):
    """Writes down whom it begins to answer."""

    def __init__(self, script: Script | None = None) -> None:
        super().__init__()
        self.script = script
        self.journal: list[str] = []
        """Markers, in the order of coming."""
        self.handler = self._begin

    def __enter__(self) -> Upstream:
        super().__enter__()
        return self

    def _begin(self, request: Request) -> Sequence[Step]:
        self.journal.append(request.json()["user"])
        assert self.script is not None
        return self.script(request)


@contextmanager
def daemons(folder: Path, config: Mapping[str, Any], count: int = 1) -> Iterator[list[Served]]:
    """So many daemons on one database, each on a port of its own; the first keeps the books.

    They are what worker processes are to each other. (With `llmgate serve --workers` this is the one place to change.)
    """
    with ExitStack() as stack:
        found: list[Served] = []
        for number in range(count):
            own = folder / f"daemon{number}"
            own.mkdir(parents=True)
            served = Served(own, config, start=False)
            if found:
                served.database.unlink()
                served.database = found[0].database
            found.append(stack.enter_context(served))
            served.start()
        yield found


# ── requests ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Reply:
    """What became of a request."""

    marker: str
    status: int | None
    """None: no answer, or not all of it."""
    code: str
    """Of a refusal."""
    began: float
    ended: float
    """`time.time()`, so that it can be compared with what other processes do."""
    headers: Mapping[str, str]

    @property
    def served(self) -> bool:
        return self.status == 200


NAMED = {
    "insufficient_credits": 402,
    "budget_exceeded": 402,
    "credits_held": 429,
    "rate_limited": 429,
    "storage_busy": 503,
    "invalid_key": 401,
    "key_revoked": 401,
    "invalid_request": 400,
    "unsupported_encoding": 415,
}
"""Refusals that scenarios know, and the status that each must have."""


def session(connections: int) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections), timeout=aiohttp.ClientTimeout(total=ANSWER_S)
    )


async def ask(client: aiohttp.ClientSession, url: str, key: str, marker: str, **fields: Any) -> Reply:
    """One chat request, read to its end."""
    return await send(client, url, key, marker, json.dumps(chat_body(user=marker, **fields)).encode())


async def send(
    client: aiohttp.ClientSession,
    url: str,
    key: str,
    marker: str,
    body: bytes,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """One body, and the answer read to its end. Whatever breaks, breaks off; nothing is tried again."""
    began = time.time()
    status, code, told = None, "", {}
    try:
        async with client.post(
            f"{url}/v1/chat/completions",
            data=body,
            headers={**(headers or {}), "authorization": f"Bearer {key}", "content-type": "application/json"},
        ) as answer:
            got = await answer.read()
            told = {name.lower(): value for name, value in answer.headers.items()}
            if answer.status != 200:
                code = json.loads(got)["error"]["code"]
                status = answer.status
            elif "event-stream" not in told["content-type"] or got.endswith(b"data: [DONE]\n\n"):
                status = 200
    except (aiohttp.ClientError, ConnectionError, TimeoutError):
        pass
    return Reply(marker, status, code, began, time.time(), told)


async def connect(served: Served, key: str, body: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
    """A connection of its own, and the bytes to send on it: when, and how many, is for who calls."""
    host, _, port = served.url.removeprefix("http://").partition(":")
    head = ("POST /v1/chat/completions HTTP/1.1", f"host: {host}", f"authorization: Bearer {key}")
    request = "\r\n".join((*head, f"content-length: {len(body)}", "", "")).encode() + body
    return *await asyncio.open_connection(host, int(port)), request


def is_named(reply: Reply) -> bool:
    """Whether a refusal is named rightly, and says when to come back where waiting helps."""
    waits = reply.status in (429, 503)
    return NAMED.get(reply.code) == reply.status and (not waits or reply.headers.get("retry-after", "").isdigit())


# ── the books ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def rows_of(books: Books, prefix: str = "") -> dict[str, list[dict[str, Any]]]:
    """The usage rows of every marker that begins so."""
    found = defaultdict(list)
    with books.view() as tx:
        for row in tx.execute(
            "SELECT g.*, t.value AS marker FROM usage g "
            "LEFT JOIN usage_tags t ON t.usage_id = g.id AND t.name = 'end_user' ORDER BY g.id"
        ):
            marker = row["marker"] or "(none)"
            if marker.startswith(prefix) or marker == "(none)":
                found[marker].append(dict(row))
    return found


def held(books: Books) -> int:
    count: int = books.value("SELECT count(*) FROM holds")
    return count


def quiet(books: Books, timeout_s: float = 60) -> bool:
    """Wait until nothing is held any more; False where something stays."""
    give_up = time.monotonic() + timeout_s
    while held(books):
        if time.monotonic() > give_up:
            return False
        time.sleep(0.02)
    return True


# ── the CLI ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def command(
    served: Served,
    *words: str,
    folder: Path | None = None,
    program: Sequence[str] = ("-m", "llmgate"),
    preexec_fn: Callable[[], None] | None = None,
) -> subprocess.CompletedProcess[str]:
    """`llmgate …` on the same file, or on one in another folder, as an admin types it."""
    database, config = (folder / "books.db", folder / "llmgate.toml") if folder else (served.database, served.config)
    # Whoever may not write can't say what of it was covered either.
    kept = ("PATH", "LANG", "TMPDIR", *(() if folder or preexec_fn else ("COVERAGE_PROCESS_CONFIG",)))
    env = {name: os.environ[name] for name in kept if name in os.environ}
    return subprocess.run(
        [sys.executable, *program, "--db", database, "--config", config, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**env, "HOME": str(config.parent)},
        cwd=config.parent,
        preexec_fn=preexec_fn,
    )
