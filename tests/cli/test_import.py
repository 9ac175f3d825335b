"""`llmgate import`: one box moves to another, whole or not at all, and once."""

from __future__ import annotations

import csv
import io
import json
import random
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgate.store import accounts, keys, ledger, limits, schema, selfmade
from llmgate.types import Billing, Meters, Status

from ..books import Book
from ..twins import DAY_MS, Pair, gone, told
from .conftest import Cli

KINDS = ("zone", "prices", "teams", "users", "keys", "pruned", "usage", "entries")
ENDINGS = ("csv", "json", "ndjson")


def fill(path: Path) -> None:
    """A bit of everything, of which the first day is to be pruned."""
    book = Book(path)
    book.team("ops", credits=700)
    fields: dict[str, Any] = {"models": ["gpt*", "o3"], "ips": ["10.0.0.0/8"], "tags": {"who": "a b"}, "note": '1, "2"'}
    alice = book.user("alice", credits=5000, **fields)
    bob = book.user("bob", team="ops")
    book.user("carol", billing=Billing.PREPAID)
    for number in range(6):
        named: dict[str, Any] = {"names": ("gpt", "azure/gpt", "nick")} if number % 2 else {}
        book.use(alice, Meters(input=9 + number, output=2, calls=1), day=f"2025-03-0{1 + number % 3}", **named)
    book.use(bob, Meters(input=3, calls=1), status=Status.ERROR, day="2025-03-09", tags={"job": "7", "x": "a b"})
    with book.write() as tx:
        ledger.add(tx, "alice", 100, ref="r-1", note="a, b\nand more", expires_ms=4_102_444_800_000)
        ledger.refund(tx, "3")
        ledger.transfer(tx, "alice", "team:ops", 50)
        ledger.take(tx, "carol", 5, force=True)
        ledger.reverse(tx, 3)
        accounts.set_user(tx, "alice", {"plan": "pro", "email": "a@example.com"})
        accounts.set_user(tx, "carol", {"status": "disabled"})
        limits.hang(tx, "alice", ["9 requests/day", "$5 total on g*", "unlimited tokens/month"])
        limits.hang(tx, "team:ops", ["900 tokens total"])
        keys.rotate(tx, "bob", grace_ms=DAY_MS)
        limits.hang(tx, "key:alice/default", ["3 requests/day"])
        selfmade.make(tx, "alice", selfmade.Wish(name="own"))
        accounts.set_user(tx, "carol", {"leads": "ops"})
        selfmade.limit_member(tx, "carol", "bob", ["$1/day", "8 requests/hour"])
    gone(book, "2025-03-02")
    assert book.findings() == []
    book.close()


@pytest.fixture(scope="module")
def moved_from(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a box, and with all that it exports."""
    folder = tmp_path_factory.mktemp("old")
    fill(folder / "llmgate.db")
    cli = Cli(folder, LLMGATE_DB=str(folder / "llmgate.db"))
    for ending in ENDINGS:
        exported(cli, ending)
    return folder


@pytest.fixture
def old(tmp_path: Path, moved_from: Path) -> Cli:
    """A copy of that box, with its files beside it."""
    shutil.copytree(moved_from, tmp_path, dirs_exist_ok=True)
    return Cli(tmp_path, LLMGATE_DB=str(tmp_path / "llmgate.db"))


def files_of(cli: Cli, ending: str) -> list[Path]:
    return [cli.folder / f"{kind}.{ending}" for kind in KINDS]


def box(cli: Cli, name: str) -> Cli:
    """Another one beside it."""
    return Cli(cli.folder, LLMGATE_DB=str(cli.folder / name / "llmgate.db"))


def exported(cli: Cli, ending: str) -> list[Path]:
    files = files_of(cli, ending)
    for kind, file in zip(KINDS, files, strict=True):
        file.write_text(cli("export", kind, "--format", ending).out)
    return files


TELLING = (
    ["keys", "--all"],
    ["credits"],
    ["users"],
    ["teams"],
    ["limits"],
    ["credits", "history", "alice"],
    ["usage"],
    ["report", "--since", "2025-01-01", "--by", "day", "--by", "user", "--by", "key", "--by", "model"],
    ["report", "--since", "2025-01-01", "--by", "tag"],
    *(["export", kind, "--format", "json"] for kind in KINDS if kind != "entries"),
)


SAME_ZONE = "here already: 1 time zone"
ALL_OF_IT = "1 team, 3 users, 4 keys, 2 sums of pruned requests, 5 requests, 9 entries"


def test_a_box_moves(old: Cli) -> None:
    files = files_of(old, "csv")
    new = box(old, "new")
    assert f"imported {ALL_OF_IT}; {SAME_ZONE}\n" in new("import", *reversed(files)).err
    for words in TELLING:
        assert new.data(*words) == old.data(*words), words
    new("verify")
    assert f"imported nothing; here already: 1 time zone, {ALL_OF_IT}\n" in new("import", *files).err
    (act,) = [act for act in new.data("audit") if act["action"] == "import"]
    assert act["after"]["usage"] == 5


@pytest.mark.parametrize("ending", ["json", "ndjson"])
def test_every_format_says_the_same(old: Cli, ending: str) -> None:
    new = box(old, "new")
    new("import", *files_of(old, ending))
    assert f"imported nothing; here already: 1 time zone, {ALL_OF_IT}\n" in new("import", *files_of(old, "csv")).err
    new("verify")


def test_what_an_older_version_told_comes_too(old: Cli) -> None:
    """It knew nobody who leads, and no key that is under another."""
    new, lines = box(old, "new"), old("export", "all").out.splitlines()
    newer = ("leads", "led_limits", "suffix", "under")
    told = [{name: value for name, value in json.loads(line).items() if name not in newer} for line in lines]
    old_file = old.folder / "older.ndjson"
    old_file.write_text("".join(f"{json.dumps(row)}\n" for row in told))
    new("import", old_file)
    assert f"here already: 1 time zone, {ALL_OF_IT}\n" in new("import", old_file).err
    assert {row["leads"] for row in new.data("users")} == {None}
    new("verify")


def test_a_key_is_under_those_of_its_own_user(old: Cli) -> None:
    rows = [json.loads(line) for line in old("export", "all").out.splitlines()]
    own = next(row for row in rows if row.get("name") == "own")
    for other in (next(row["id"] for row in rows if row.get("user") == "bob" and "hash" in row), "k-nobody", own["id"]):
        own["under"] = [other]
        wrong = old.folder / "wrong.ndjson"
        wrong.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        assert "which is no key of its user" in box(old, "new")("import", wrong, code=1).err


PRICED = ("prices", "set", "gpt-9", "input=1", "output=2")


def test_the_zone_and_the_prices_move(old: Cli) -> None:
    old("db", "set-zone", "Asia/Tokyo")
    old(*PRICED)
    old("prices", "set", "azure/gpt-9", "input=3", "output=4", "--from", "2099-01-01")
    old("prices", "remove", "gpt-9")
    stream = old("export", "all").out
    new = box(old, "new")
    done = new("import", "-", stdin=stream)
    assert "imported 1 time zone, 3 prices, 1 team" in done.err
    assert "not moved: the config, admin keys" in done.err
    for words in (["prices", "--all"], ["export", "prices"], ["export", "zone"]):
        assert new.data(*words) == old.data(*words), words
    assert "imported nothing; here already: 1 time zone, 3 prices" in new("import", "-", stdin=stream).err
    new("verify")


def test_a_box_keeps_its_zone_and_its_prices(old: Cli) -> None:
    old("db", "set-zone", "Asia/Tokyo")
    old(*PRICED)
    stream = old("export", "all").out
    used = box(old, "used")
    used("users", "add", "zoe")
    refused = used("import", "-", stdin=stream, code=1).err
    assert "zone says Asia/Tokyo, and days are counted in UTC here: `llmgate db set-zone Asia/Tokyo` first" in refused
    used("db", "set-zone", "Asia/Tokyo")
    used("import", "-", stdin=stream)
    priced = json.loads(next(line for line in stream.splitlines() if '"gpt-9"' in line))
    priced["price"] = {"input": 7}
    assert "line 1: price says" in used("import", "-", stdin=json.dumps(priced), code=1).err


def test_what_the_config_here_lacks_is_told(old: Cli) -> None:
    """alice is on the plan pro."""
    assert "alice is on the plan 'pro', which isn't there" in box(old, "new")("import", *files_of(old, "csv")).err


def test_a_daemon_beside_it(old: Cli) -> None:
    (old.folder / "new").mkdir()
    book = Book(old.folder / "new" / "llmgate.db")
    new = box(old, "new")
    with book.write() as tx:
        tx.execute("UPDATE workers SET schema = NULL")
    assert "restart it first" in new("import", *files_of(old, "csv"), code=1).err
    with book.write() as tx:
        tx.execute("UPDATE workers SET schema = ?", (schema.VERSION,))
    done = new("import", *files_of(old, "csv"))
    assert "a daemon serves this database: its requests wait" in done.err
    book.close()


def test_entries_are_the_same_but_for_their_chain(old: Cli) -> None:
    files = files_of(old, "csv")
    new = box(old, "new")
    new("import", *files)
    ours, theirs = new.data("export", "entries"), old.data("export", "entries")
    own = ("hash", "account_id")
    assert [{**row, **dict.fromkeys(own)} for row in ours] == [{**row, **dict.fromkeys(own)} for row in theirs]


def test_one_stream_of_everything(old: Cli) -> None:
    stream = old("export", "all").out
    assert stream == "".join(file.read_text() for file in files_of(old, "ndjson"))
    new = box(old, "new")
    assert new("import", "-", "--json", stdin=stream).json["entries"] == 9
    new("verify")
    assert new("import", "-", "--json", stdin=stream).json["entries_known"] == 9
    assert "there is no format 'csv'" in old("export", "all", "--format", "csv", code=2).err
    assert "leave out --since" in old("export", "all", "--since", "1d", code=2).err


def test_what_came_since_is_added(old: Cli) -> None:
    new = box(old, "new")
    new("import", *files_of(old, "ndjson"))
    old("credits", "add", "alice", "2", "--ref", "r-2")
    old("keys", "add", "dora")
    found = new("import", *exported(old, "ndjson"), "--json").json
    assert {name: number for name, number in found.items() if number and not name.endswith("_known")} == {
        "users": 1,
        "keys": 1,
        "entries": 1,
    }
    new("verify")
    assert new.data("credits") == old.data("credits")


def test_ids_go_on_where_they_were(old: Cli) -> None:
    new = box(old, "new")
    new("import", *files_of(old, "csv"))
    book = Book(new.folder / "new" / "llmgate.db")
    hold = book.place(book.user("eve"))
    assert hold.id == 8
    book.release(hold)
    book.close()
    new("credits", "add", "eve", "1")
    new("verify")


def changed(file: Path, row: int, **fields: Any) -> None:
    """One row of a CSV file says something else."""
    rows = list(csv.DictReader(io.StringIO(file.read_text(), newline="")))
    rows[row] |= fields
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    file.write_text(text.getvalue())


@pytest.mark.parametrize(
    ("kind", "row", "fields", "expected"),
    [
        ("users", 1, {"billing": "free"}, "users.csv, line 3: billing says 'free', not one of metered, prepaid"),
        ("users", 0, {"created_at": "soon"}, "users.csv, line 2: created_at 'soon' is no time"),
        ("users", 0, {"user": "a b"}, "users.csv, line 2: user 'a b' is no name for a user"),
        ("users", 1, {"team": "nobody"}, "users.csv, line 3: team"),
        ("users", 0, {"limits": "often"}, "line 2: limits 'often' is no limit"),
        ("keys", 0, {"hash": "00"}, "keys.csv, line 2: hash is no SHA-256"),
        ("keys", 0, {"user": "zoe"}, "there is no user 'zoe' here"),
        ("keys", 0, {"ips": "10.0.0"}, "line 2: ips"),
        ("usage", 1, {"charge_usd": "7"}, "usage.csv, line 3: charge: says $7.00, not $0.0000000"),
        ("usage", 1, {"cost_usd": "abc"}, "usage.csv, line 3: cost_usd 'abc' is no amount in USD"),
        ("usage", 1, {"key_id": "k-none"}, "line 3: key_id alice has no key k-none here"),
        (
            "usage",
            1,
            {"id": str(2**63 - 1)},
            "usage.csv, line 3: id says 9223372036854775807, not 1 to 9007199254740992",
        ),
        ("usage", 1, {"id": "0"}, "line 3: id says 0, not 1 to"),
        ("usage", 1, {"duration_ms": "-1"}, "line 3: duration_ms says -1, not 0 to"),
        ("usage", 1, {"day": "2020"}, "usage.csv, line 3: day: says 2020, not a date within 2 days of 2025-03-"),
        ("usage", 1, {"day": "2031-01-01"}, "line 3: day: says 2031-01-01, not a date within 2 days of 2025-03-"),
        ("usage", 1, {"day": "2025-02-30"}, "line 3: day: says 2025-02-30, not a date within 2 days of 2025-03-"),
        ("entries", 6, {"usage_id": str(2**63 - 1)}, "usage_id says 9223372036854775807, not 1 to"),
        ("entries", 3, {"reverses": str(2**63)}, "reverses says 9223372036854775808, not 1 to"),
        ("entries", 3, {"cause": "-4"}, "cause says -4, not 1 to"),
        ("pruned", 0, {"requests": "-1"}, "pruned.csv, line 2: requests says -1, not 0 to"),
        ("pruned", 0, {"wasted_usd": "-0.1"}, "line 2: wasted_usd says -$0.10, and is never below 0"),
        ("pruned", 0, {"id": str(2**63 - 1)}, "line 2: id says 9223372036854775807, not 1 to"),
        ("pruned", 0, {"day": "20250301"}, "line 2: day says '20250301', not a date such as"),
        ("entries", 3, {"amount_usd": "9"}, "hash entry 4 isn't as it was exported"),
        ("entries", 0, {"account": "team:none"}, "there is no 'team:none' here"),
        ("pruned", 0, {"charge_usd": "0"}, "the closing entries of user alice come to"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_comes(
    old: Cli, kind: str, row: int, fields: dict[str, str], expected: str
) -> None:
    files = files_of(old, "csv")
    changed(next(file for file in files if file.stem == kind), row, **fields)
    new = box(old, "new")
    done = new("import", *files, code=1)
    assert expected in done.err
    assert "nothing was imported" in done.err
    assert len(done.err.splitlines()) <= 2
    assert new.data("users") == []
    assert new.data("export", "entries") == []


def test_facts_that_differ_are_refused(old: Cli) -> None:
    new = box(old, "new")
    files = files_of(old, "ndjson")
    new("import", *files)
    new("users", "set", "alice", "--email", "b@example.com")
    assert "line 1: email says 'a@example.com', and is 'b@example.com' here" in new("import", *files, code=1).err
    other = box(old, "other")
    other("keys", "add", "alice", "--credits", "1")
    assert "users.ndjson, line 1: plan says 'pro', and is None here" in other("import", *files, code=1).err
    third = box(old, "third")
    third("keys", "add", "zoe", "--credits", "1")
    assert "line 1: entry 1 is another account's here" in third("import", *files, code=1).err


def test_what_was_pruned_here_does_not_come_back(old: Cli) -> None:
    new = box(old, "new")
    before = files_of(old, "json")
    new("import", *before)
    new("db", "prune", "--before", "2025-03-03", "--yes")
    assert "were pruned here" in new("import", *before, code=1).err
    old("db", "prune", "--before", "2025-03-04", "--yes")
    third = box(old, "third")
    third("import", *exported(old, "csv"))
    third("verify")
    fourth = box(old, "fourth")
    fourth("import", *before)
    assert "are here one by one: prune them here" in fourth("import", *exported(old, "ndjson"), code=1).err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "imported nothing"),
        ("[]", "imported nothing"),
        ("{", "line 1: is no JSON"),
        ("[1]", "row 1: is no object"),
        ("a,b\n1,2\n", "lacks"),
        ("garbage", "file, line 1: lacks zone, so `llmgate export zone` didn't write it"),
        ("garbage\n", "file, line 1: lacks"),
        ("zone\na,b\n", "line 2: has 2 fields, not 1"),
        ('{"zone": "Mars/Olympus"}', "line 1: zone 'Mars/Olympus' is no time zone"),
        ('{"team": "x"}\n', "line 1: lacks billing, billing_source, created_at, so `llmgate export teams` didn't"),
    ],
)
def test_files_that_export_never_wrote(cli: Cli, text: str, expected: str) -> None:
    (cli.folder / "file").write_text(text)
    done = cli("import", "file", code=0 if expected == "imported nothing" else 1)
    assert expected in done.err


def test_files_that_are_not_there(cli: Cli) -> None:
    assert "no.csv can't be read: no such file" in cli("import", "no.csv", code=2).err
    (cli.folder / "bin").write_bytes(b"\xff\xfe\x00")
    assert "is no text in UTF-8" in cli("import", "bin", code=2).err


def test_a_key_works_at_once(old: Cli) -> None:
    book = Book(old.folder / "llmgate.db")
    with book.write() as tx:
        issued = keys.add(tx, "alice", name="second")
    book.close()
    new = box(old, "new")
    new("import", *exported(old, "ndjson"))
    moved = Book(new.folder / "new" / "llmgate.db")
    assert keys.authenticate(moved.tx, keys.hash_key(issued.key)).user == "alice"
    assert moved.use(issued.key, Meters(input=1, calls=1)).charge_nano == 1
    assert moved.findings() == []
    moved.close()


SEEDS = st.integers(0, 2**32)


@given(seed=SEEDS)
@settings(max_examples=4)
def test_any_history_moves(seed: int) -> None:
    """Balances, expiry, limits and reports are the same on the other box."""
    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        pair = Pair(folder, random.Random(seed), patch)
        for _ in range(40):
            pair.step()
        for number in pair.flying:
            pair.settle(number)
        pair.prune()
        before = told(pair.pruned, pair.now_ms)
        pair.close()
        old, new = (Cli(folder, LLMGATE_DB=str(folder / f"{which}.db")) for which in ("pruned", "new"))
        new("import", *exported(old, random.Random(seed).choice(ENDINGS)))
        book = Book(folder / "new.db")
        after = told(book, pair.now_ms)
        assert book.findings() == []
        book.close()
        assert comparable(after) == comparable(before)


def comparable(found: dict[str, Any]) -> dict[str, Any]:
    """Accounts have other numbers, counters begin anew, and credits that may expire are looked at once more."""
    histories = sorted(json.dumps(value, default=str) for name, value in found.items() if name.split()[0] in OWN)
    balances = sorted((row["kind"], row["balance_nano"], row["held_nano"], row["billing"]) for row in found["accounts"])
    sums = [{**row, "account_id": 0, "user_id": 0, "team_id": 0} for row in found["rollups"]]
    reports = {name: value for name, value in found.items() if name.startswith("by ")}
    limits_used = sorted(str(value) for name, value in found.items() if name.startswith("("))
    return {"own": histories, "balances": balances, "sums": sums, "reports": reports, "used": limits_used}


OWN = ("history", "lots", "purse")
