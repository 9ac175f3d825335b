"""`llmgate verify`: what it says of books that balance, of books that don't, and of a file that is damaged."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from . import books
from .conftest import Cli

CHECKED = {"entries": 2, "usage": 5, "accounts": 3, "holds": 0, "rollups": 4, "counters": 0}


@pytest.fixture
def path(cli: Cli) -> Path:
    """A book of one's own, to spoil."""
    return books.fill(cli.folder / "llmgate.db")


def spoil(path: Path, *statements: str) -> None:
    with sqlite3.connect(path) as other:
        other.execute("DROP TRIGGER usage_is_not_edited")
        for statement in statements:
            other.execute(statement)
    other.close()


BALANCE = "UPDATE accounts SET balance_nano = balance_nano + 1 WHERE kind = 'team'"
ROLLUP = "DELETE FROM rollups WHERE errors = 1"
COST = "UPDATE usage SET cost_nano = 7 WHERE id = 1"


def test_books_that_balance(reader: Cli) -> None:
    done = reader("verify")
    assert done.err == ""
    assert done.out == "the books balance: checked 2 entries, 5 usage rows, 3 accounts, 0 holds, 4 roll-ups, 0 limits\n"
    assert reader.data("verify") == {"ok": True, "checked": CHECKED, "findings": []}


@pytest.mark.parametrize(("form", "header"), [("csv", "check,subject,"), ("md", "| check | subject |")])
def test_a_listing_of_no_findings_has_its_header(reader: Cli, form: str, header: str) -> None:
    done = reader("verify", "--format", form)
    assert done.out.startswith(header)
    assert "the books balance" in done.err
    assert "\n\n" not in f"\n{done.err}"


def test_books_that_do_not(cli: Cli, path: Path) -> None:
    spoil(path, BALANCE, COST)
    done = cli("--db", path, "verify", code=3)
    assert "team research" in done.out
    assert "$249.998000001" in done.out
    assert done.err.startswith("llmgate: the books don't balance: 3 figures differ ")
    assert "`llmgate verify --repair` puts 2 right; the rest are facts: compare with a backup" in done.err
    assert done.err.count("\n") == 1
    in_json = cli("--db", path, "verify", "--json", code=3)
    assert in_json.error["code"] == "problems_found"
    assert in_json.json["ok"] is False
    assert {finding["check"] for finding in in_json.json["findings"]} == {"balance", "cost", "rollups"}
    assert "usage 1" in cli("--db", path, "verify", "--format", "csv", code=3).out


def test_what_is_derived_is_put_right(cli: Cli, path: Path) -> None:
    spoil(path, BALANCE, ROLLUP)
    assert cli("--db", path, "verify", code=3).err.endswith(": `llmgate verify --repair` puts that right\n")
    done = cli("--db", path, "verify", "--repair", "--json")
    assert done.json["ok"] is True
    assert done.json["checked"] == CHECKED
    assert done.json["findings"] == []
    assert {
        "check": "balance",
        "subject": "team research",
        "before": "$249.998000001",
        "after": "$249.998",
    } in done.json["repaired"]
    assert [one["check"] for one in done.json["repaired"]] == ["rollups", "balance"]
    assert "the books balance" in cli("--db", path, "verify").out
    acts = cli.data("--db", path, "audit")[-2:]
    assert [(act["action"], act["target"]) for act in acts][1] == ("verify.repair", "team research")
    assert (acts[1]["before"], acts[1]["after"]) == ({"balance": "$249.998000001"}, {"balance": "$249.998"})


def test_what_was_put_right_is_shown(cli: Cli, path: Path) -> None:
    spoil(path, BALANCE)
    done = cli("--db", path, "verify", "--repair")
    assert "$249.998000001" in done.out
    assert "repaired" in done.out
    assert "the books balance: put right 1 figure, checked 2 entries" in done.out


def test_a_fact_is_left_as_it_is(cli: Cli, path: Path) -> None:
    spoil(path, COST, BALANCE)
    done = cli("--db", path, "verify", "--repair", "--json", code=3)
    assert [finding["check"] for finding in done.json["findings"]] == ["cost", "charge"][:1]
    assert {one["check"] for one in done.json["repaired"]} == {"balance", "rollups"}
    assert done.error["message"].endswith("facts can't be put right: compare with a backup")


def test_nothing_to_put_right(reader: Cli) -> None:
    assert reader.data("verify", "--repair") == {"ok": True, "checked": CHECKED, "findings": [], "repaired": []}
    assert "put right" not in reader("verify", "--repair").out


def test_a_damaged_file_is_told_of_in_a_sentence(cli: Cli, path: Path) -> None:
    """Page after page is overwritten: whatever it holds, there is a finding or a cure, and no traceback."""
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        size = other.execute("PRAGMA page_size").fetchone()[0]
        root = other.execute("SELECT rootpage FROM sqlite_master WHERE name = 'usage'").fetchone()[0]
    other.close()
    whole = path.read_bytes()
    for page, garbage in ((root, b"\xff"), (root, b"\x0d\x00"), (2, b"\xff"), (len(whole) // size, b"\xff")):
        broken = bytearray(whole)
        broken[(page - 1) * size : page * size] = (garbage * size)[:size]
        path.write_bytes(broken)
        for extra in ((), ("--repair",)):
            done = cli("--db", path, "verify", "--json", *extra, code=None)
            assert done.code in (3, 4)
            if done.code == 3:
                assert {finding["check"] for finding in done.json["findings"]} == {"database"}
            else:
                assert "restore a backup" in done.error["message"]
    path.write_bytes(whole[: len(whole) // 2])
    assert cli("--db", path, "verify", code=None).code in (3, 4)
