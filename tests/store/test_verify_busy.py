"""Verifying, and putting right, while another process writes all the time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmgate.store import limits
from llmgate.store.verify import repair, verify
from llmgate.types import Meters

from ..books import Book

ROOT = Path(__file__).parents[2]


@pytest.fixture
def busy(book: Book) -> Iterator[Book]:
    """A book with a history of 300 rows, in which another process places, settles, corrects and releases."""
    keys = [book.user(f"busy{number}", credits=10**9) for number in range(3)]
    keys.append(book.user("metered"))
    idle = book.user("idle", credits=10**6)
    with book.write() as tx:
        limits.hang(
            tx, "busy0", ["900000 requests total", "$5 total on g*", "900000 tokens/hour", "9000000 tokens total"]
        )
    for number in range(300):
        book.use([*keys, idle][number % 5], Meters(input=number, calls=1))
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.store.busy", str(book.path), *keys],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "at work\n"
    yield book
    process.stdin.close()
    process.stdout.close()
    assert process.wait(30) == 0
    assert book.findings() == []


def rows(book: Book) -> int:
    number: int = book.value("SELECT count(*) FROM usage")
    return number


def test_a_writer_is_no_finding(busy: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmgate.store.verify.usage.CHUNK", 20)  # the more transactions, the more comes in between
    before = rows(busy)
    for _ in range(15):
        assert busy.findings() == []
    assert rows(busy) > before


PLANTED = {
    "UPDATE rollups SET output = output - 3 WHERE user_id = 1": {"rollups"},
    "UPDATE rollups SET requests = requests + 1, charge_nano = charge_nano + 2 WHERE user_id = 5": {"rollups"},
    "UPDATE accounts SET balance_nano = balance_nano - 1 WHERE id = 2": {"balance"},
    "UPDATE accounts SET held_nano = held_nano + 1 WHERE id = 3": {"held"},
    "UPDATE counters SET used = used + 1 WHERE unit = 'requests'": {"limits used"},
}


@pytest.mark.parametrize("statement", PLANTED)
def test_what_is_planted_is_found_and_put_right(busy: Book, statement: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmgate.store.verify.usage.CHUNK", 20)
    busy.db.conn.execute(statement)
    for _ in range(3):
        assert {finding.check for finding in verify(busy.db)} == PLANTED[statement]
    repaired = list(repair(busy.db, busy.findings()))
    assert {one.check for one in repaired} == PLANTED[statement]
    for _ in range(3):
        assert busy.findings() == []
