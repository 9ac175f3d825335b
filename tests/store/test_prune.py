"""Pruning: rows go, and nothing else. A book that was pruned is held beside a twin that never was."""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgate.errors import Refusal, StorageError
from llmgate.store import ledger, prune, schema
from llmgate.types import Meters

from ..books import Book
from ..twins import DAY_MS, Pair, gone

ROOT = Path(__file__).parents[2]

SEEDS = st.integers(0, 2**32)


@given(seed=SEEDS)
@settings(max_examples=30)
def test_a_pruned_book_and_its_twin(seed: int) -> None:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        pair = Pair(Path(folder), random.Random(seed), patch)
        for _ in range(45):
            pair.step()
        pair.now_ms += 70 * DAY_MS
        for number in pair.flying:
            pair.settle(number)
        pair.flying.clear()
        pair.prune()
        pair.both(ledger.expire_all_due)
        pair.check()
        pair.close()


# ── one book ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def old(book: Book) -> Book:
    """A history of 24 requests on four days of 2025, of alice, who has credits, and of bob, who has none."""
    alice, bob = book.user("alice", credits=10_000), book.user("bob")
    for number in range(24):
        day = f"2025-03-0{1 + number % 4}"
        book.use(alice if number % 3 else bob, Meters(input=10 + number, calls=1), day=day, tags={"job": str(number)})
    return book


def test_rows_go_and_sums_stay(old: Book) -> None:
    before = old.rows("SELECT * FROM rollups"), old.rows("SELECT * FROM accounts")
    charge = old.value("SELECT sum(charge_nano) FROM usage WHERE day < '2025-03-03'")
    assert gone(old, "2025-03-03") == prune.Sums(
        requests=12, charge_nano=charge, days=2, accounts=2, first="2025-03-01", last="2025-03-02"
    )
    assert [old.value(f"SELECT count(*) FROM {table}") for table in ("usage", "usage_tags", "pruned")] == [12, 12, 4]
    assert (old.rows("SELECT * FROM rollups"), old.rows("SELECT * FROM accounts")) == before
    assert gone(old, "2025-03-03") == prune.Sums()
    assert old.findings() == []


def test_not_beside_a_daemon_of_an_older_version(old: Book) -> None:
    """It would let requests past limits: what was pruned is no use to it."""
    with old.write() as tx:
        tx.execute("UPDATE workers SET schema = NULL")  # so do the versions that don't know of it register
    with pytest.raises(Refusal, match="restart it first"):
        gone(old, "2025-03-03")
    assert old.value("SELECT count(*) FROM pruned") == 0
    with old.write() as tx:
        tx.execute("UPDATE workers SET schema = ?", (schema.VERSION,))
        tx.execute("INSERT INTO workers (id, pid, host, started_ms) VALUES ('dead', 1, 'here', 0)")
    assert gone(old, "2025-03-03").requests == 12


def test_what_is_written_of_it(old: Book) -> None:
    gone(old, "2025-03-03")
    entries = old.rows("SELECT * FROM entries WHERE kind = 'closing' ORDER BY id")
    assert [(row["account_id"], row["note"], row["actor"]) for row in entries] == [
        (1, "4 requests of 2025-03-01, pruned", "test"),
        (2, "2 requests of 2025-03-01, pruned", "test"),
        (1, "4 requests of 2025-03-02, pruned", "test"),
        (2, "2 requests of 2025-03-02, pruned", "test"),
    ]
    (act,) = old.rows("SELECT * FROM audit WHERE action = 'db.prune'")
    charge = -sum(row["amount_nano"] for row in entries)
    assert (act["target"], json.loads(act["after"])) == (
        "2025-03-03",
        {"requests": 12, "charge_nano": charge, "first": "2025-03-01", "last": "2025-03-02"},
    )


def test_a_refund_of_what_was_pruned_is_refused(old: Book) -> None:
    with old.write() as tx:
        ledger.refund(tx, "2", 3, ref="r")
    request_id = old.value("SELECT request_id FROM usage WHERE id = 2")
    gone(old, "2025-03-05")
    with pytest.raises(Refusal) as caught, old.write() as tx:
        ledger.refund(tx, "2")
    assert "those up to 2025-03-04 were pruned, `llmgate credits add` gives back" in caught.value.message
    assert caught.value.code == "not_found"
    for again in ("2", request_id):
        with old.write() as tx:
            assert ledger.refund(tx, again, 3, ref="r").repeated
    for other in ("4", "req_other"):
        with pytest.raises(Refusal, match="ref 'r' belongs to entry"), old.write() as tx:
            ledger.refund(tx, other, 3, ref="r")
    with pytest.raises(Refusal, match="ref 'r' belongs to entry"), old.write() as tx:
        ledger.refund(tx, "2", 4, ref="r")
    assert old.findings() == [], "a refund of before stays, and has its closing entry"


@pytest.mark.parametrize("held", ["2025-03-04", "2025-03-31"])
def test_days_that_limits_may_still_need_are_kept(old: Book, held: str) -> None:
    hold = old.place(old.user("carol"), day=held)
    with pytest.raises(Refusal, match=r"from 2025-02-24 on|from 2025-03-01 on"):
        gone(old, "2025-03-04")
    assert old.value("SELECT count(*) FROM usage") == 24
    old.release(hold)
    assert gone(old, "2025-03-04").requests == 18


def test_a_running_month_is_kept(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    now = int(datetime(2025, 3, 20, 12, tzinfo=UTC).timestamp()) * 1000
    monkeypatch.setattr("llmgate.store.db.now_ms", lambda: now)
    with book.db.read() as tx:
        assert prune.kept_from(tx) == "2025-03-01"
        tx.now_ms = int(datetime(2025, 5, 2, 12, tzinfo=UTC).timestamp()) * 1000
        assert prune.kept_from(tx) == "2025-04-28", "the week began in April"
    with pytest.raises(Refusal, match="name a day up to 2025-03-01"):
        gone(book, "2025-03-02")
    assert gone(book, "2025-03-01") == prune.Sums()


def test_a_request_that_comes_to_a_pruned_day_after_all(old: Book) -> None:
    """Its hold was placed while a clock was wrong, say."""
    gone(old, "2025-03-05")
    charge = old.use(old.user("dora"), Meters(input=7, calls=1), day="2025-03-02").charge_nano
    assert charge == 7
    assert old.findings() == []
    assert gone(old, "2025-03-05").requests == 1
    assert old.findings() == []


# ── the world breaks ──────────────────────────────────────────────────────────────────────────────────────────────────

SLOWLY = """
import sys
from pathlib import Path
from llmgate.store import prune
from llmgate.store.db import Database
prune.STEP, prune.HELD_S = 2, 0
with Database(Path(sys.argv[1]), actor="other") as db:
    for gone in prune.prune(db, sys.argv[2]):
        print(gone.requests, flush=True)
"""


def slowly(book: Book, before: str) -> subprocess.Popen[str]:
    """Another process that prunes two rows at a time and tells of each time."""
    return subprocess.Popen(
        [sys.executable, "-c", SLOWLY, str(book.path), before], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


def test_killed_at_any_time_the_books_balance(old: Book) -> None:
    figures = old.rows("SELECT * FROM rollups"), old.rows("SELECT * FROM accounts")
    left = old.value("SELECT count(*) FROM usage")
    for lines in (0, 1, 3):
        with slowly(old, "2025-03-05") as process:
            assert process.stdout is not None
            for _ in range(lines):
                process.stdout.readline()
            process.kill()
            process.stdout.read()
        assert old.findings() == []
        assert (old.rows("SELECT * FROM rollups"), old.rows("SELECT * FROM accounts")) == figures
        assert old.value("SELECT count(*) FROM usage") <= left - lines
        left = old.value("SELECT count(*) FROM usage")
        pruned = old.value("SELECT coalesce(sum(requests), 0) FROM pruned")
        told = old.value(
            "SELECT coalesce(sum(json_extract(after, '$.requests')), 0) FROM audit WHERE action = 'db.prune'"
        )
        assert left + pruned == 24
        assert told == pruned, "the audit has what was done until then"
    gone(old, "2025-03-05")
    assert old.value("SELECT count(*) FROM usage") == 0
    assert old.findings() == []


def test_others_write_verify_and_prune_meanwhile(old: Book) -> None:
    keys = [old.user(f"busy{number}", credits=10**9) for number in range(3)]
    for number in range(120):
        old.use(keys[number % 3], Meters(input=number, calls=1), day=f"2025-04-{1 + number % 20:02}")
    writer = subprocess.Popen(
        [sys.executable, "-m", "tests.store.busy", str(old.path), *keys],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with writer, slowly(old, "2025-04-15") as other, pytest.MonkeyPatch.context() as patch:
        patch.setattr("llmgate.store.verify.usage.CHUNK", 20)
        patch.setattr(prune, "STEP", 3)
        patch.setattr(prune, "HELD_S", 0)
        assert writer.stdin is not None
        assert writer.stdout is not None
        assert writer.stdout.readline() == "at work\n"
        for number, _ in enumerate(prune.prune(old.db, "2025-05-01")):
            if number % 5 == 0:
                assert old.findings() == []
        assert other.stdout is not None
        other.stdout.read()
        assert other.wait(30) == 0
        assert old.findings() == []
        writer.stdin.close()
        writer.stdout.read()
        assert writer.wait(30) == 0
    assert old.value("SELECT count(*) FROM usage WHERE day < '2025-05-01'") == 0
    assert old.value("SELECT sum(requests) FROM pruned") == 144
    assert old.findings() == []


def test_on_a_full_disk_nothing_is_half_done(old: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prune, "HELD_S", 0)
    bounds = resource.getrlimit(resource.RLIMIT_FSIZE)
    steps = prune.prune(old.db, "2025-03-05")
    first = next(steps)
    log = old.path.with_name(f"{old.path.name}-wal")
    resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size, bounds[1]))
    try:
        with pytest.raises(StorageError, match=r"is full|can't be read or written"):
            list(steps)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, bounds)
    assert old.value("SELECT count(*) FROM usage") == 24 - first.requests
    assert old.findings() == []
    assert gone(old, "2025-03-05").requests == 24 - first.requests
    assert old.findings() == []


def test_the_file_shrinks_when_it_is_asked_for(old: Book) -> None:
    old.tamper("CREATE TABLE ballast (x)", "INSERT INTO ballast VALUES (zeroblob(3000000))", "DROP TABLE ballast")
    size = old.path.stat().st_size
    gone(old, "2025-03-05")
    prune.shrink(old.db)
    assert old.path.stat().st_size < size - 2_900_000
    assert old.findings() == []
