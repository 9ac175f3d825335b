"""How data is written: the same rows as a table, JSON, CSV and Markdown, on a terminal and on a pipe."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest

from llmgate.cli.columns import Column, Kind
from llmgate.cli.layout import GAP, fit
from llmgate.cli.session import visible

from . import books
from .conftest import Cli, plain

LISTINGS = ("keys", "users", "teams", "credits", "report", "usage", "audit", "models", "credits history alice")


@pytest.mark.parametrize("command", LISTINGS)
def test_every_listing_has_all_formats(reader: Cli, command: str) -> None:
    rows = reader.data(*command.split())
    assert rows
    assert isinstance(rows, list)
    table = list(csv.DictReader(io.StringIO(reader(*command.split(), "--format", "csv").out)))
    assert [list(row) for row in table] == [list(rows[0])] * len(rows), "the same names in the same order"
    markdown = reader(*command.split(), "--format", "md").out.splitlines()
    assert len(markdown) == len(rows) + 2
    assert all(line.startswith("| ") and line.endswith(" |") for line in markdown)
    assert set(markdown[1]) <= set("|-: ")
    assert reader(*command.split()).out.count("\n") >= len(rows) + 1


def test_a_pipe_gets_no_colours_and_loses_nothing(cli: Cli) -> None:
    globs = [f"model-with-a-rather-long-name-{number}*" for number in range(12)]
    cli("keys", "add", "alice", "--models", ",".join(globs), "--note", "n" * 300)
    out = cli("keys", COLUMNS="40").out
    assert "\x1b" not in out
    assert "…" not in out
    assert ", ".join(globs) in out
    assert "n" * 300 in cli("keys", "show", "alice", COLUMNS="40").out


@pytest.mark.parametrize("columns", [30, 60, 80, 200])
def test_a_terminal_gets_no_line_that_is_too_wide_and_every_value(reader: Cli, columns: int) -> None:
    for command in ("keys", "users", "report"):
        out = plain(reader.terminal(command, columns=columns).out)
        data, _, _ = out.partition("left out")
        assert "…" not in data
        assert max(map(len, data.splitlines())) <= columns, command
    squeezed = re.sub(r"\s", "", plain(reader.terminal("keys", columns=columns).out))
    for row in reader.data("keys"):
        assert row["id"] in squeezed


def test_what_a_narrow_terminal_leaves_out_is_told(reader: Cli) -> None:
    told = plain(reader.terminal("usage", columns=60).out)
    assert "left out" in told
    assert "upstream" in told[told.index("left out") :]
    assert "left out" not in reader.terminal("usage", columns=200).out


def test_colours_only_where_they_are_wanted(reader: Cli) -> None:
    assert "\x1b[" in reader.terminal("keys").out
    assert "\x1b" not in reader.terminal("keys", NO_COLOR="1").out
    assert "\x1b" not in reader.terminal("keys", TERM="dumb").out
    assert "\x1b[" in reader.terminal("keys", NO_COLOR="").out, "an empty NO_COLOR says nothing"
    assert "\x1b" not in reader("keys", FORCE_COLOR="1").out


def test_json_is_exact_and_tables_are_readable(cli: Cli) -> None:
    cli("keys", "add", "alice", "--credits", "1234.5")
    cli("credits", "add", "alice", "0.000000001")
    row = cli.data("credits")[0]
    assert row["balance_usd"] == "1234.500000001"
    assert "$1,234.500000001" in cli("credits").out
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", cli.data("keys")[0]["created_at"])


def test_times_are_shown_in_the_zone_of_the_books(cli: Cli) -> None:
    cli("keys", "add", "alice", "--expires", "2031-01-31")
    cli("db", "set-zone", "Asia/Tokyo")
    assert "2031-02-01 09:00:00" in cli("keys").out
    assert cli.data("keys")[0]["expires_at"] == "2031-02-01T00:00:00.000Z"


def test_money_stands_at_the_right_edge(cli: Cli) -> None:
    for user, usd in (("alice", "5"), ("bob", "1250")):
        cli("keys", "add", user, "--credits", usd)
    for out in (cli("credits").out, plain(cli.terminal("credits").out)):
        rows = [line for line in out.splitlines() if line.startswith(("alice", "bob"))]
        ends = {match.end() for row in rows for match in re.finditer(r"\$[\d,.]+", row)}
        assert len(ends) == 3, rows


NASTY = "[red]x[/red] :smile: |pipe| \\ ümläut 日本語 \x1b[31mred\x1b[0m\ttab\nnewline \u202eturned"


def test_free_text_is_shown_as_it_is_and_moves_nothing(cli: Cli) -> None:
    cli("keys", "add", "alice", "--note", NASTY, "--tag", f"t={NASTY}")
    assert cli.data("keys", "show", "alice")["note"] == NASTY
    for out in (cli("keys", "show", "alice").out, cli.terminal("keys", "show", "alice", columns=300).out):
        assert "[red]x[/red] :smile: |pipe| \\ ümläut 日本語 \\x1b[31mred\\x1b[0m\\ttab\\nnewline \\u202eturned" in out
    row = next(csv.DictReader(io.StringIO(cli("keys", "--format", "csv").out)))
    assert row["note"] == NASTY
    note = next(line for line in cli("keys", "show", "alice", "--format", "md").out.splitlines() if "| note |" in line)
    assert "\\|pipe\\|" in note


def test_an_error_that_quotes_nasty_text_is_one_line(cli: Cli) -> None:
    done = cli("users", "show", NASTY, code=1)
    assert done.err.count("\n") == 1
    assert "\x1b" not in done.err


def test_nothing_to_list_is_said_on_stderr(cli: Cli) -> None:
    cli("db", "stats", code=4)
    assert cli("keys").out == ""
    for command in ("keys", "users", "teams", "credits", "report", "usage", "audit"):
        done = cli(command, "--json")
        assert done.json == []
        assert done.err
        header = cli(command, "--format", "csv").out
        assert header.count("\n") == 1
        assert "," in header


def test_a_list_of_usage_is_streamed(cli: Cli) -> None:
    path = books.fill_with(cli.folder / "many.db", [books.Request(ago_ms=9000)] * 2300)
    assert len(cli.data("--db", path, "usage")) == 2300
    lines = cli("--db", path, "usage", "--format", "csv").out.splitlines()
    assert len(lines) == 2301
    ids = [int(line.split(",")[0]) for line in lines[1:]]
    assert ids == sorted(set(ids))


def test_visible() -> None:
    assert visible("a\nb\x00\x9b\u2028") == "a\\nb\\x00\\x9b\\u2028"
    assert visible("ümläut 日本 🙂") == "ümläut 日本 🙂"


# ── how a table fits ──────────────────────────────────────────────────────────────────────────────────────────────────

COLUMNS = (
    Column("id", Kind.ID),
    Column("name", Kind.WORD),
    Column("created_at", Kind.TIME, minor=1),
    Column("text"),
    Column("input_tokens", Kind.NUMBER),
)
ROW = ("k-12345678", "a-rather-long-name", "2026-11-20 10:00:00", "words " * 10, "1,234")


@pytest.mark.parametrize(
    ("room", "widths"),
    [
        (150, [10, 18, 19, 60, 12]),
        (131, [10, 18, 19, 60, 12]),
        (127, [10, 18, 19, 60, 12]),
        (126, [10, 18, 19, 60, 6]),
        (100, [10, 18, 19, 39, 6]),
        (75, [10, 18, 19, 14, 6]),
        (60, [10, 15, 10, 15, 6]),
        (46, [10, 8, 10, 8, 6]),
        (45, [10, 13, None, 13, 6]),
        (35, [10, 8, None, 8, 6]),
        (34, None),
    ],
)
def test_fit(room: int, widths: list[int | None] | None) -> None:
    found = fit(COLUMNS, [ROW], room)
    if widths is None:
        assert found is None
        return
    assert found is not None
    assert [found.widths.get(at) for at in range(len(COLUMNS))] == widths
    assert sum(found.widths.values()) + found.gap * (len(found.widths) - 1) <= room
    assert found.gap in (1, GAP)


def test_wide_characters_count_twice() -> None:
    found = fit((Column("name", Kind.WORD),), [("日本語",)], 10)
    assert found is not None
    assert found.widths == {0: 6}


def test_the_database_may_be_anywhere(cli: Cli, tmp_path: Path) -> None:
    deep = tmp_path / "a b" / "ü" / "gate.db"
    cli("--db", deep, "keys", "add", "alice")
    assert deep.exists()
