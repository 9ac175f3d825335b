"""Bodies and headers that try to be served for less than they cost, against an upstream that bills all it can.

The upstream reads each body as the most lenient parser would: whichever of two twins says more counts, in whatever
letters, as a number or as a string. It writes as many tokens as it thereby may, and bills them, and each byte of a
prompt as a token. So whatever gets past the quote shows as an overrun, or as a balance below zero.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llmgate.money import usd
from llmgate.store import accounts, keys, ledger
from tests.replay import HANG, Request, Step, json_answer, sse, sse_answer, until
from tests.served import (
    DONE,
    INPUT_BOUND,
    INPUT_NANO,
    OUTPUT_NANO,
    SECRET,
    Person,
    Served,
    chat_body,
    chunk_of,
    completion,
    main_upstream,
    usage_chunk,
    usage_of,
    words,
)

from .figures import Figures
from .scene import ANSWER_S, Reply, Upstream, ask, connect, daemons, is_named, quiet, rows_of, send, session

CREDIT_NANO = 3_000_000
"""Of each user: a few short answers, so that most bounds are clamped."""

REQUESTS_EACH = 4

BOUNDS = ("max_tokens", "max_completion_tokens", "n_predict")
COUNTS = ("n", "best_of", "n_cmpl")
UNBOUNDED = 1_000_000
"""What a request without any bound is answered with."""

MOST_BILLED = 100_000_000
"""Tokens; beyond ten times as many llmgate takes a count for a mistake."""

BESIDE = ("documents", "prompt")
"""Fields that some upstream puts into the prompt."""

SIZES = ("1", "5", "50", "300", "90000", "2147483647", "0", "-1", '"50"', "50.0", "1e3", "null", "true", "9" * 40)
MANY = ("1", "2", "3", "128", "0", '"2"', "null")
SMUGGLED = {
    "accept-encoding": "br, gzip, zstd",
    "x-user-id": "root",
    "x-plan-id": "gold",
    "x-forwarded-for": "10.0.0.1",
    "cookie": "session=1",
    "x-api-key": "sk-somebody-elses",
    "connection": "keep-alive, authorization",
}


def run(figures: Figures, folder: Path, *, rounds: int = 2000, at_once: int = 8) -> None:
    figures.rounds = rounds
    rng = random.Random(figures.seed)
    with Upstream(_greedy) as up:
        config = {"log": {"level": "warning"}, "upstreams": {"main": main_upstream(up)}}
        with daemons(folder, config) as (served,):
            people = [served.person(credits=usd(CREDIT_NANO)) for _ in range(-(-rounds // REQUESTS_EACH))]
            plan = [(str(number), body_of(str(number), rng), _headers(rng)) for number in range(rounds)]
            replies = asyncio.run(_all(served, people, plan, at_once))
            figures.count(replies)
            for reply in replies:
                figures.must(reply.served or is_named(reply), f"{reply.marker}: {reply.status} {reply.code}")
            asyncio.run(_slow_uploads(figures, served, up))
            asyncio.run(_slow_stream(figures, served, up))
            figures.must(quiet(served), "something is still held")
            _check(figures, served, up, {marker: body for marker, body, _ in plan})
            figures.verify(served)


def _check(figures: Figures, served: Served, up: Upstream, bodies: dict[str, bytes]) -> None:
    rows = rows_of(served)
    figures.rows = sum(map(len, rows.values()))
    figures.one_row_each(up.journal, rows)
    for marker, (row, *_) in rows.items():
        figures.must(not row["overrun"], f"{marker} is an overrun: {bodies.get(marker, b'')[:2000]!r}")
    below = served.value("SELECT count(*) FROM accounts WHERE balance_nano < 0 OR held_nano != 0")
    figures.must(below == 0, f"{below} accounts are below zero, or still hold something")
    for request in up.requests:
        figures.must(request.header("accept-encoding") == "identity", "an answer may come in an encoding")
        figures.must(request.header("authorization") == f"Bearer {SECRET}", "another secret was sent")
        passed = [name for name, value in request.headers if SMUGGLED.get(name) == value]
        figures.must(not passed, f"{passed} reached the upstream")
        body = request.json()
        if body["user"] in rows:
            (row,) = rows[body["user"]]
            used = usage(request.body)
            due = used[0] * INPUT_NANO + used[1] * OUTPUT_NANO
            figures.must(
                row["charge_nano"] == due or row["status"] != "ok", f"{body['user']}: {row['charge_nano']}, {due}"
            )


# ── what is asked ─────────────────────────────────────────────────────────────────────────────────────────────────────


def body_of(marker: str, rng: random.Random) -> bytes:
    """A chat request with a trick or two, as raw JSON: no library would write twins."""
    # By its own name it isn't renamed, so that a body without other changes is passed on as it came, twins and all.
    model = rng.choice(('"zeta"', '"zeta"', '"main/zeta"'))
    fields = [("model", model), ("messages", json.dumps(_messages(rng))), ("user", f'"{marker}"')]
    for names, values, chance in ((BOUNDS, SIZES, 0.5), (COUNTS, MANY, 0.15)):
        fields += [(name, _mostly(values, rng)) for name in names if rng.random() < chance]
    if rng.random() < 0.3:
        fields.append(("stream", "true"))
    if rng.random() < 0.1:
        fields.append((rng.choice(BESIDE), json.dumps(["word " * rng.randint(1, 200)])))
    if rng.random() < 0.1:
        fields.append(("service_tier", rng.choice(('"priority"', '"flex"', "[]"))))
    if rng.random() < 0.1:
        fields.append(("tools", '[{"type": "function", "function": {"name": "f"}}]'))
    if rng.random() < 0.1:
        fields.append((rng.choice(("plugins", "models", "web_search_options")), "[{}]"))
    if rng.random() < 0.4:
        twin = rng.choice([name for name, _ in fields if name in (*BOUNDS, *COUNTS, "stream")] or ["model"])
        value = {"stream": "false", "model": '"main/dear"'}.get(twin) or _mostly(SIZES, rng)
        fields.append((_disguised(twin, rng), value))
    rng.shuffle(fields)
    return ("{" + ", ".join(f'"{name}": {value}' for name, value in fields) + "}").encode()


def _mostly(values: Sequence[str], rng: random.Random) -> str:
    """Mostly what may be served, or everything would be refused for its first trick."""
    return values[rng.randrange(5 if values is SIZES else 3)] if rng.random() < 0.8 else rng.choice(values)


def _disguised(name: str, rng: random.Random) -> str:
    """The same name for one parser, another for the next."""
    escaped = f"\\u{ord(name[0]):04x}{name[1:]}"
    return rng.choice((name, name, escaped, escaped, name.upper(), name.title(), name.replace("s", "\u017f")))


def _messages(rng: random.Random) -> list[dict[str, Any]]:
    said = rng.choice(("word " * rng.randint(1, 60), "\u00fc\U0001f600" * rng.randint(1, 40), "\x00\x07", ""))
    shapes: tuple[Any, ...] = (
        said,
        [{"type": "text", "text": said}, {"type": "text", "text": said}],
        [{"type": "novel_kind", "novel_field": {"deeper": [said]}}],
    )
    count = rng.randint(1, 3)
    return [{"role": "user", "content": rng.choice(shapes), "name": said[:100]} for _ in range(count)]


def _headers(rng: random.Random) -> dict[str, str]:
    return {name: value for name, value in SMUGGLED.items() if rng.random() < 0.3}


async def _all(
    served: Served, people: Sequence[Person], plan: Sequence[tuple[str, bytes, dict[str, str]]], at_once: int
) -> list[Reply]:
    room = asyncio.Semaphore(at_once)
    async with session(at_once) as http:

        async def one(number: int, marker: str, body: bytes, headers: dict[str, str]) -> Reply:
            async with room:
                key = people[number // REQUESTS_EACH].key
                return await send(http, served.url, key, marker, body, headers)

        return list(await asyncio.gather(*(one(number, *asked) for number, asked in enumerate(plan))))


# ── what is billed ────────────────────────────────────────────────────────────────────────────────────────────────────


def usage(raw: bytes) -> tuple[int, int]:
    """The most that any reading of a body could bill."""
    pairs = [(name.casefold(), value) for name, value in json.loads(raw, object_pairs_hook=list)]
    bounds = [number for name, value in pairs if name in BOUNDS and (number := _number(value))]
    counts = [number for name, value in pairs if name in COUNTS and (number := _number(value))]
    texts = [text for name, value in pairs if name in ("messages", *BESIDE) for text in _texts(value)]
    messages = sum(len(value) for name, value in pairs if name == "messages")
    prompt = sum(len(text.encode()) for text in texts) + 10 * messages + 70
    return prompt, min(max(bounds, default=UNBOUNDED) * max(counts, default=1), MOST_BILLED)


def _number(value: Any) -> int:
    try:
        return max(int(float(value)), 0)
    except (TypeError, ValueError):
        return 0


def _texts(value: Any) -> Iterator[str]:
    """All texts of a value in which objects are lists of pairs; names, kinds and roles are no text."""
    for item in value if isinstance(value, list) else []:
        if isinstance(item, tuple):
            name, inner = item
            if name not in ("role", "type"):
                yield from _texts([inner])
        elif isinstance(item, str):
            yield item
        else:
            yield from _texts(item)


def _greedy(request: Request) -> Sequence[Step]:
    used = usage(request.body)
    if request.json().get("stream"):
        return sse_answer(*words("all", "I", "can"), sse(usage_chunk(*used)), DONE)
    return json_answer(completion("all I can", usage=usage_of(*used)))


# ── what takes its time ───────────────────────────────────────────────────────────────────────────────────────────────


async def _slow_uploads(figures: Figures, served: Served, up: Upstream) -> None:
    """A body that is still coming in when its key is revoked, or its credit taken: it isn't served any more."""
    for verb, status, code in (("revoked", 401, "key_revoked"), ("spent", 402, "insufficient_credits")):
        person = served.person(credits="1")
        marker = f"upload {verb}"
        reader, writer, request = await connect(served, person.key, json.dumps(chat_body(user=marker)).encode())
        writer.write(request[:-5])
        await writer.drain()
        await asyncio.sleep(0.2)
        with served.tx() as tx:
            if verb == "revoked":
                keys.set_state(tx, person.key_id, "revoke")
            else:
                ledger.take(tx, person.name, 10**9)
        writer.write(request[-5:])
        async with asyncio.timeout(ANSWER_S):
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readuntil(b"}}")
        writer.close()
        figures.must(head.split()[1] == str(status).encode(), f"{marker}: {head[:40]!r}")
        figures.must(json.loads(body)["error"]["code"] == code, f"{marker}: {body!r}")
        figures.must(marker not in up.journal, f"{marker} reached the upstream")


async def _slow_stream(figures: Figures, served: Served, up: Upstream) -> None:
    """One slow stream holds its own quote of a team's balance and no more; others wait, and aren't told to pay."""
    quote = INPUT_BOUND * INPUT_NANO + 50 * OUTPUT_NANO
    with served.tx() as tx:
        accounts.add_team(tx, "slow")
        ledger.add(tx, "team:slow", 2 * quote)
    slow, quick = served.person(team="slow"), served.person(team="slow")

    def script(request: Request) -> Sequence[Step]:
        return sse_answer(sse(chunk_of("hm")), HANG) if request.json().get("stream") else _greedy(request)

    up.script = script
    body = json.dumps(chat_body(user="slow stream", stream=True, max_tokens=50)).encode()
    reader, writer, request = await connect(served, slow.key, body)
    writer.write(request)
    async with asyncio.timeout(ANSWER_S):
        await reader.readuntil(b"hm")
    async with session(1) as http:
        first = await ask(http, served.url, quick.key, "beside it", max_tokens=50)
        second = await ask(http, served.url, quick.key, "beside it too", max_tokens=50)
        writer.close()
        await until(lambda: served.held(slow) == 0, ANSWER_S)
        third = await ask(http, served.url, quick.key, "after it", max_tokens=50)
    told = [reply.code or reply.status for reply in (first, second, third)]
    figures.must(told == [200, "credits_held", 200], f"beside a slow stream: {told}")
