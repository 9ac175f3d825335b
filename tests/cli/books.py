"""A database with a history to look at."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from llmgate.pricing import Price
from llmgate.store import ledger
from llmgate.store.db import now_ms
from llmgate.types import Meters, Status
from tests.books import Book

PRICE = Price(input=1_000_000_000, output=2_000_000_000)
"""$1 and $2 per 1M: a request of 1000 in and 500 out costs $0.002."""

DAY_MS = 86_400_000


class Request(NamedTuple):
    """One request as a test tells it."""

    key: str = ""
    model: str = "sandbox/echo"
    upstream: str = "sandbox"
    meters: Meters = Meters(input=900, cached_input=100, output=400, reasoning=100, calls=1)
    status: Status = Status.OK
    ago_ms: int = 60_000
    tags: tuple[tuple[str, str], ...] = ()


def use(book: Book, requests: Iterable[Request]) -> None:
    """Place and settle requests, each at its time."""
    for request in requests:
        at_ms = now_ms() - request.ago_ms
        book.use(
            request.key,
            request.meters,
            now_ms=at_ms,
            day=datetime.fromtimestamp(at_ms / 1000, UTC).date().isoformat(),
            price=PRICE,
            model=request.model,
            upstream=request.upstream,
            status=request.status,
            tags=dict(request.tags),
        )


def fill(path: Path) -> Path:
    """alice (prepaid since two days ago, two models, one error) and bob of the team research."""
    book = Book(path)
    book.team("research", credits=250_000_000_000)
    alice, bob = book.user("alice"), book.user("bob", team="research")
    use(book, [Request(alice, ago_ms=3 * DAY_MS)])
    with book.write(now_ms() - 2 * DAY_MS) as tx:
        ledger.add(tx, "alice", 5_000_000_000)
    use(
        book,
        [
            Request(bob, model="gpt-4o-mini", upstream="openai", ago_ms=DAY_MS),
            Request(alice, tags=(("job", "42"),)),
            Request(alice, model="gpt-4o-mini", upstream="openai"),
            Request(alice, status=Status.ERROR, meters=Meters()),
        ],
    )
    book.close()
    return path


def fill_with(path: Path, requests: Iterable[Request]) -> Path:
    """alice's requests and nothing else; their `key` is hers."""
    book = Book(path)
    alice = book.user("alice")
    use(book, [request._replace(key=alice) for request in requests])
    book.close()
    return path
