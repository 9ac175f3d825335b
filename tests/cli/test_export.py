"""`llmgate export`: whole, exact, in the words of the contract, without holding it all in memory."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from llmgate.cli import usage

from ..books import Book
from . import books
from .conftest import Cli

ENTRIES = [
    *("entry", "time", "account", "kind", "amount_usd", "ref", "note", "reverses", "cause", "usage_id", "expires_at"),
    *("actor", "hash", "account_id", "charged_at"),
]


def test_usage_is_as_the_listing_tells_it(reader: Cli) -> None:
    """And more of the kind, after it."""
    listed = sorted(reader.data("usage"), key=lambda row: row["id"])
    whole = reader("export", "usage", "--format", "json").json
    assert [dict(list(row.items())[: len(listed[0])]) for row in whole] == listed
    assert reader.data("export", "usage") == whole
    lines = reader("export", "usage", "--format", "ndjson").out.splitlines()
    assert [json.loads(line) for line in lines] == whole
    out = reader("export", "usage").out
    assert out == reader("--format", "csv", "export", "usage").out
    rows = list(csv.DictReader(out.splitlines()))
    assert list(rows[0]) == list(whole[0])
    assert [row["charge_usd"] for row in rows] == [row["charge_usd"] for row in listed]


def test_the_rest_of_usage_is_what_it_was_costed_by(reader: Cli) -> None:
    (row,) = [row for row in reader.data("export", "usage") if row["tags"]]
    assert {name: row[name] for name in ("meters", "cost_price", "charge_price", "attempts", "endpoint")} == {
        "meters": {"input": 900, "cached_input": 100, "output": 400, "reasoning": 100, "calls": 1},
        "cost_price": {"input": 1_000_000_000, "output": 2_000_000_000},
        "charge_price": None,
        "attempts": [],
        "endpoint": "chat",
    }


def test_keys_are_exported_by_their_hash(reader: Cli) -> None:
    rows = reader.data("export", "keys")
    assert [(row["user"], row["name"], len(row["hash"])) for row in rows] == [
        ("alice", "default", 64),
        ("bob", "default", 64),
    ]
    assert [row["id"] for row in rows] == [row["id"] for row in reader.data("keys")]
    assert [(row["user"], row["team"], row["billing_source"]) for row in reader.data("export", "users")] == [
        ("alice", None, "credits"),
        ("bob", "research", "default"),
    ]
    assert [row["team"] for row in reader.data("export", "teams")] == ["research"]
    assert reader.data("export", "pruned") == []
    assert "leave out --since" in reader("export", "keys", "--since", "1d", code=2).err


def test_entries(cli: Cli) -> None:
    cli("teams", "add", "ops")
    cli("credits", "add", "team:ops", "5", "--ref", "r1", "--note", "a, b")
    cli("credits", "transfer", "team:ops", "team:ops2", "1", code=1)
    cli("credits", "reverse", "1")
    rows = cli.data("export", "entries")
    assert [list(row) for row in rows] == [ENTRIES] * 2
    assert [(row["entry"], row["account"], row["kind"], row["amount_usd"], row["reverses"]) for row in rows] == [
        (1, "team:ops", "add", "5", None),
        (2, "team:ops", "reverse", "-5", 1),
    ]
    assert (rows[0]["ref"], rows[0]["note"], len(rows[0]["hash"])) == ("r1", "a, b", 64)
    lines = cli("export", "entries", "--format", "ndjson").out.splitlines()
    assert [json.loads(line) for line in lines] == rows
    assert next(csv.DictReader(cli("export", "entries").out.splitlines()))["note"] == "a, b"


@pytest.mark.parametrize("what", ["usage", "entries"])
def test_a_span(reader: Cli, what: str) -> None:
    everything = reader.data("export", what)
    assert len(reader.data("export", what, "--since", "1h")) < len(everything)
    assert reader.data("export", what, "--until", "2020-01-01") == []
    assert len(reader("export", what, "--since", "2020-01-01", "--format", "ndjson").out.splitlines()) == len(
        everything
    )
    assert len(reader("export", what, "--until", "2020-01-01").out.splitlines()) == 1, (
        "columns stand there all the same"
    )


def test_what_is_typed_wrong(reader: Cli) -> None:
    assert "did you mean usage?" in reader("export", "usag", code=2).err
    assert "did you mean ndjson?" in reader("export", "usage", "--format", "ndjso", code=2).err
    assert "there is no format 'table'" in reader("--format", "table", "export", "usage", code=2).err
    assert "choose one" in reader("export", "usage", "--json", "--format", "csv", code=2).err


def test_pages_follow_each_other(
    reader: Cli, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from llmgate.cli.run import run

    for name, value in reader.env.items():
        monkeypatch.setenv(name, value)
    for what in ("usage", "entries"):
        whole = reader("export", what).out
        monkeypatch.setattr(usage, "PAGE", 1)
        assert run(["export", what]) == 0
        assert capsys.readouterr().out == whole


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux says how much memory a process had")
def test_memory_is_constant(cli: Cli) -> None:
    """The same small room is enough for a history that is larger than it."""
    path = books.fill_with(cli.folder / "llmgate.db", [books.Request()])
    book = Book(path)
    (names,) = [", ".join(row["name"] for row in book.rows("SELECT name FROM pragma_table_info('usage')"))]
    values = names.replace("request_id", "request_id || n").replace("id, ", "id + n, ", 1)
    book.tamper(
        f"WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 60000) "
        f"INSERT INTO usage ({names}) SELECT {values} FROM usage, c WHERE id = 1"
    )
    book.close()
    script = (
        "import sys; from llmgate.cli.run import run; code = run(['export', 'usage', '--format', 'ndjson']);"
        # Of this program alone: `getrusage` also counts the process that it was forked from.
        "print(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0], file=sys.stderr); sys.exit(code)"
    )
    out = cli.folder / "out"
    with out.open("w") as file:
        done = subprocess.run(
            [sys.executable, "-c", script],
            stdout=file,
            stderr=subprocess.PIPE,
            text=True,
            env=cli.env | {"LLMGATE_DB": str(path)},
            cwd=cli.folder,
        )
    assert done.returncode == 0, done.stderr
    with out.open() as file:
        assert sum(1 for _ in file) == 60_001
    assert int(done.stderr.split()[-1]) * 1024 < 80 * 2**20
