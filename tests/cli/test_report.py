"""`llmgate report` beyond sums: by tag and hour, beside the period before, the dearest only."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from llmgate.cli.report import _before
from llmgate.types import Meters

from ..books import Book
from .conftest import Cli, Ran
from .test_what_is_used import SUMS

SINCE = ("--since", "2026-11-19", "--until", "2026-11-20")


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1000


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two days, and the two before them. An input token costs 1 nano-USD."""
    book = Book(tmp_path_factory.mktemp("report") / "llmgate.db")
    alice, bob = book.user("alice"), book.user("bob")
    both = {"agent": "coder", "job": "42"}
    for key, when, tokens, model, tags in (
        (alice, "2026-11-17T10:00", 400, "big", {}),
        (bob, "2026-11-18T10:00", 300, "old", {"agent": "coder"}),
        (alice, "2026-11-19T10:00", 100, "big", both),
        (alice, "2026-11-19T10:59", 200, "mid", {"agent": "writer"}),
        (bob, "2026-11-20T11:00", 60, "small", both),
        (bob, "2026-11-20T12:00", 500, "big", {}),
        (bob, "2026-11-20T12:30", 50, "tiny", {}),
    ):
        book.use(key, Meters(input=tokens, calls=1), now_ms=at(when), model=model, tags=tags)
    book.close()
    return book.path


@pytest.fixture
def report(cli: Cli, told: Path) -> Any:
    """Runs a report on those two days."""

    def run(*args: str, code: int = 0, days: tuple[str, ...] = SINCE) -> Ran:
        return cli("--db", told, "report", *days, *args, code=code)

    return run


def test_by_tag_a_request_counts_at_each_and_once_in_the_total(report: Any) -> None:
    rows = report("--by", "tag", "--json").json
    assert list(rows[0]) == ["tag", *SUMS]
    assert [(row["tag"], row["requests"], row["charge_usd"]) for row in rows] == [
        (None, 2, "0.00000055"),
        ("agent=writer", 1, "0.0000002"),
        ("agent=coder", 2, "0.00000016"),
        ("job=42", 2, "0.00000016"),
    ]
    assert report("--by", "tag").out.splitlines()[-1].split()[:2] == ["total", "5"]


def test_by_hour(report: Any) -> None:
    rows = report("--by", "hour", "--by", "user", "--json").json
    assert [(row["hour"], row["user"], row["requests"]) for row in rows] == [
        ("2026-11-19T10:00:00.000Z", "alice", 2),
        ("2026-11-20T11:00:00.000Z", "bob", 1),
        ("2026-11-20T12:00:00.000Z", "bob", 2),
    ]
    table = report("--by", "hour").out.splitlines()
    assert table[2].startswith("2026-11-19 10:00:00")
    assert table[-1].startswith("total ")


@pytest.mark.parametrize(
    ("filters", "requests"),
    [
        (["--tag", "agent=coder"], 2),
        (["--tag", "agent=coder", "--user", "bob"], 1),
        (["--tag", "agent=coder", "--tag", "job=42"], 2),
        (["--tag", "agent=coder", "--tag", "agent=writer"], 0),
        (["--plan", "pro"], 0),
        (["--plan", ""], 5),
    ],
    ids=str,
)
def test_what_is_reported_can_be_narrowed(report: Any, filters: list[str], requests: int) -> None:
    assert sum(row["requests"] for row in report(*filters, "--json").json) == requests


def test_a_tag_is_a_pair(report: Any) -> None:
    assert "'coder' is no tag: write --tag NAME=VALUE" in report("--tag", "coder", code=2).err


def test_beside_the_period_before(report: Any) -> None:
    done = report("--by", "model", "--compare", "--json")
    rows = {row.pop("model"): row for row in done.json}
    compared = ("requests_before", "tokens_before", "cost_before_usd", "charge_before_usd", "difference_usd", "percent")
    assert list(rows["big"]) == [*SUMS, *compared]
    assert [rows["big"][name] for name in compared] == [1, 400, "0.0000004", "0.0000004", "0.0000002", 50.0]
    assert [rows["mid"][name] for name in compared] == [0, 0, "0", "0", "0.0000002", None]
    assert [rows["old"][name] for name in ("requests", "charge_usd", "difference_usd", "percent")] == [
        *(0, "0", "-0.0000003", -100.0),
    ]
    assert done.err == "before: from 2026-11-17 to 2026-11-18\n"
    total = report("--by", "model", "--compare").out.splitlines()[-1]
    assert total.split()[-3:] == ["$0.0000007", "$0.00000021", "+30.0%"]


def test_percents_are_rounded_half_up(report: Any) -> None:
    (row,) = report("--user", "bob", "--compare", "--json").json
    assert (row["charge_usd"], row["charge_before_usd"], row["percent"]) == ("0.00000061", "0.0000003", 103.3)


def test_what_can_not_be_compared(report: Any) -> None:
    assert "leave out --by day" in report("--by", "user,day", "--compare", code=2).err
    assert "choose one" in report("--compare", "--prices", "x.csv", code=2).err


@pytest.mark.parametrize(
    ("since", "until", "before"),
    [
        ("2026-11-20", None, ("2026-11-19", "2026-11-19")),
        ("2026-11-14", "2026-11-20", ("2026-11-07", "2026-11-13")),
        ("2026-10-01", "2026-10-31", ("2026-09-01", "2026-09-30")),
        ("2026-01-01", "2026-03-31", ("2025-10-01", "2025-12-31")),
        ("2026-03-01", "2026-03-30", ("2026-01-30", "2026-02-28")),
    ],
)
def test_the_period_before(since: str, until: str | None, before: tuple[str, str]) -> None:
    assert tuple(_before({"since": since, "until": until}, "2026-11-20").values()) == before


def test_only_the_dearest_and_the_rest_in_one_row(report: Any) -> None:
    rows = report("--by", "model", "--top", "1", "--json").json
    assert [(row["model"], row["requests"], row["charge_usd"]) for row in rows] == [
        ("big", 2, "0.0000006"),
        ("others", 3, "0.00000031"),
    ]
    assert len(report("--by", "model", "--top", "4", "--json").json) == 4, "no others, where nothing is left"
    nested = report("--by", "user,model", "--top", "2", "--json").json
    assert [(row["user"], row["model"], row["requests"]) for row in nested] == [
        *(("bob", "big", 1), ("alice", "mid", 1), ("others", None, 3)),
    ]
    assert report("--by", "model", "--top", "1").out.splitlines()[-1].split()[:2] == ["total", "5"]


def test_the_dearest_of_each_day(report: Any) -> None:
    rows = report("--by", "model", "--by", "day", "--top", "1", "--json").json
    assert [(row["day"], row["model"], row["requests"]) for row in rows] == [
        *(("2026-11-19", "mid", 1), ("2026-11-19", "others", 1)),
        *(("2026-11-20", "big", 1), ("2026-11-20", "others", 2)),
    ]
    hours = report("--by", "hour", "--top", "2", "--json").json
    assert [(row["hour"], row["requests"]) for row in hours] == [
        *(("2026-11-19T10:00:00.000Z", 2), ("2026-11-20T12:00:00.000Z", 2), ("others", 1)),
    ]


def test_the_dearest_beside_the_period_before(report: Any) -> None:
    rows = report("--by", "model", "--top", "1", "--compare", "--json").json
    assert [(row["model"], row["charge_before_usd"], row["percent"]) for row in rows] == [
        *(("big", "0.0000004", 50.0), ("others", "0.0000003", 3.3)),
    ]


def test_other_prices_by_tag(report: Any, cli: Cli) -> None:
    (cli.folder / "dear.csv").write_text("model,input,output\nbig,1,1\n")
    done = report("--by", "tag", "--prices", "dear.csv", "--top", "1")
    assert done.out.splitlines()[-1].split()[:2] == ["total", "5"]


def test_decimal_points_stand_one_below_the_other(report: Any) -> None:
    charges = [line.split()[7] for line in report("--by", "model").out.splitlines()[2:] if "─" not in line]
    assert charges == ["$0.00000060", "$0.00000020", "$0.00000006", "$0.00000005", "$0.00000091"]


def test_what_is_still_to_come_has_no_use(report: Any) -> None:
    for chart in ([], ["--chart"]):
        assert "2999-01-01 is still to come" in report(*chart, days=("--since", "2999-01-01")).err
