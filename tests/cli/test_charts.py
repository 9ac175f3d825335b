"""`llmgate report --chart`, and the shares and trends in tables: what is drawn is what was charged."""

from __future__ import annotations

from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgate.cli.charts import Point, buckets, fitting, largest, sparkline, spread, steps
from llmgate.cli.columns import share
from llmgate.cli.options import Whose
from llmgate.cli.report import _chart
from llmgate.money import MAX_NANO
from llmgate.store.db import Database

from .conftest import Cli, Ran, plain
from .test_report import SINCE, at, told  # noqa: F401 - a fixture

UTC = ZoneInfo("UTC")


@pytest.fixture
def report(cli: Cli, told: Path) -> Any:  # noqa: F811
    def run(*args: str, code: int = 0, days: tuple[str, ...] = SINCE, **env: str) -> Ran:
        return cli("--db", told, "report", *days, *args, code=code, **env)

    return run


# ── what is drawn ─────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.integers(0, MAX_NANO))
def test_an_axis_begins_at_nothing_and_ends_at_or_above_the_most(most: int) -> None:
    found = steps(most)
    assert found[0] == 0
    assert found[-1] >= most
    assert len(found) <= 6
    assert len({later - before for before, later in pairwise(found)}) <= 1


@given(st.lists(st.integers(0, MAX_NANO), max_size=40))
def test_a_sparkline_shows_what_is_there(values: list[int]) -> None:
    drawn = sparkline(values)
    assert len(drawn) == len(values)
    assert [sign == "·" for sign in drawn] == [value == 0 for value in values]
    if any(values):
        assert drawn[values.index(max(values))] == "█"


@pytest.mark.parametrize(
    ("part", "whole", "said"),
    [(0, 0, ""), (0, 5, "0.0%"), (1, 3, "33.3%"), (2, 3, "66.7%"), (1, 10**9, "<0.1%"), (5, 5, "100.0%")],
)
def test_a_share_is_never_rounded_to_nothing(part: int, whole: int, said: str) -> None:
    assert share(part, whole) == said


def test_the_rest_is_summed_up() -> None:
    points = [Point(name, value) for name, value in (("a", 1), ("b", 5), ("c", 2), ("d", 0))]
    assert largest(points, 2) == [Point("b", 5), Point("c", 2), Point("others (2)", 1)]
    assert [point.label for point in largest(points, 4)] == ["b", "c", "a", "d"]


@pytest.mark.parametrize(
    ("bucket", "first", "last", "names"),
    [
        ("day", date(2026, 2, 27), date(2026, 3, 1), ["2026-02-27", "2026-02-28", "2026-03-01"]),
        ("week", date(2026, 11, 4), date(2026, 11, 16), ["2026-11-02", "2026-11-09", "2026-11-16"]),
        ("month", date(2026, 11, 30), date(2027, 1, 1), ["2026-11", "2026-12", "2027-01"]),
    ],
)
def test_every_part_of_a_period_is_there(bucket: str, first: date, last: date, names: list[str]) -> None:
    assert list(buckets(bucket, first, last, 0, UTC)) == names


@pytest.mark.parametrize(("day", "hours"), [(date(2026, 3, 29), 23), (date(2026, 10, 25), 25), (date(2026, 7, 1), 24)])
def test_the_hours_of_a_day_are_those_of_its_zone(day: date, hours: int) -> None:
    assert len(list(buckets("hour", day, day, MAX_NANO, ZoneInfo("Europe/Berlin")))) == hours


def test_hours_that_have_not_begun_are_left_out() -> None:
    day = date(2026, 11, 20)
    assert len(list(buckets("hour", day, day, at("2026-11-20T05:30"), UTC))) == 6


@pytest.mark.parametrize(
    ("days", "room", "bucket"), [(31, 40, "day"), (41, 40, "week"), (300, 40, "month"), (1, 1, "day")]
)
def test_a_series_fits_its_room(days: int, room: int, bucket: str) -> None:
    first = date(2026, 1, 1)
    assert fitting("day", first, date.fromordinal(first.toordinal() + days - 1), room) == bucket


def test_labels_are_evenly_apart() -> None:
    assert spread(10, 4) == [0, 3, 6, 9]
    assert spread(3, 0) == [2]
    assert spread(30, 7) == [4, 9, 14, 19, 24, 29], "the last day is told"
    assert spread(0, 5) == []


# ── on a terminal ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_bars_and_a_series_with_its_sum(report: Any) -> None:
    lines = report("--by", "model", "--chart").out.splitlines()
    assert lines[:2] == ["charge by model", "2026-11-19 to 2026-11-20 · UTC"]
    assert [(line.split()[0], *line.split()[-2:]) for line in lines[3:7]] == [
        ("big", "$0.00000060", "65.9%"),
        ("mid", "$0.00000020", "22.0%"),
        ("small", "$0.00000006", "6.6%"),
        ("tiny", "$0.00000005", "5.5%"),
    ]
    assert "charge by day, left" in lines[8]
    assert lines[-1] == "total $0.00000091"
    assert lines[-2].split() == ["11-19", "11-20"]
    assert "\x1b" not in "".join(lines), "no colours on a pipe"


def test_the_option_does_not_take_the_next_one_for_its_file(report: Any) -> None:
    assert report("--chart", "--by", "model").out.splitlines()[0] == "charge by model"
    assert report("--by", "model", "--chart").out.splitlines()[0] == "charge by model"
    assert "given 2" not in report("--chart", "--nonsense", code=2).err


def test_top_and_filters_are_told(report: Any) -> None:
    lines = report("--by", "model", "--top", "1", "--chart", "--user", "bob").out.splitlines()
    assert lines[1].endswith("· UTC · user bob")
    assert [line.split()[0] for line in lines[3:5]] == ["big", "others"]
    assert "others (2)" in lines[4]


def test_times_are_the_series_and_not_bars(report: Any) -> None:
    lines = report("--by", "hour", "--chart").out.splitlines()
    assert lines[0] == "charge by hour"
    assert lines[-2].split()[-2:] == ["11-20", "11:00"], "23:00 would stand past the edge"
    both = report("--by", "user", "--by", "week", "--chart").out
    assert both.splitlines()[0] == "charge by user"
    assert "charge by week" not in both, "a week alone is no series"


@pytest.mark.parametrize(
    ("whole", "labels"), [(False, ["11-17", "11-18", "11-19", "11-20", "11-21", "11-22"]), (True, ["11-16", "11-22"])]
)
def test_a_series_begins_where_something_was_used(told: Path, whole: bool, labels: list[str]) -> None:  # noqa: F811
    with Database(told, actor="test") as db, db.read() as tx:
        tx.now_ms = at("2026-11-22T12:00")
        filters = Whose(*[None] * 7).filters(tx) | {"since": "2026-11-16", "until": None}
        chart = _chart(tx, ["user"], filters, 15, 40, (), whole=whole)
    found = [point.label for point in chart.series]
    assert (found if not whole else [found[0], found[-1]]) == labels


def test_the_bar_of_a_single_day_is_drawn_whole(report: Any) -> None:
    drawn = report("--by", "day", "--chart", days=("--since", "2026-11-20", "--until", "2026-11-20")).out
    assert "sum since the first" not in drawn
    assert not any("\u2800" <= sign <= "\u28ff" for sign in drawn), "no curve through it"


def test_nobody_has_a_name_in_tables_and_charts_only(report: Any) -> None:
    assert "(none)" in report("--by", "team").out
    assert "(none)" in report("--by", "team", "--chart").out
    assert report("--by", "team", "--json").json[0]["team"] is None
    others = report("--by", "model", "--by", "team", "--top", "1").out.splitlines()
    assert [line.split()[:2] for line in others[2:3]] == [["big", "(none)"]]
    assert "(none)" not in others[3]


def test_nothing_was_used(report: Any) -> None:
    done = report("--chart", days=("--since", "2020-01-01", "--until", "2020-01-31"))
    assert (done.out, done.err) == ("", "nothing was used from 2020-01-01 to 2020-01-31\n")


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_a_chart_is_as_wide_as_the_terminal(cli: Cli, told: Path, columns: int) -> None:  # noqa: F811
    out = cli.terminal("--db", told, "report", *SINCE, "--by", "model", "--chart", columns=columns).out
    assert "\x1b[" in out
    assert columns - 4 <= max(len(line) for line in plain(out).splitlines()) <= columns
    bare = cli.terminal("--db", told, "report", *SINCE, "--chart", columns=columns, NO_COLOR="1").out
    assert "\x1b[" not in bare


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--chart", "report.jpg"), "a file that ends in .svg or .png"),
        (("--chart", "svg"), "a file that ends in .svg or .png"),
        (("--chart", "--json"), "a chart is not written as json"),
        (("--chart", "a.svg", "--format", "csv"), "a chart is not written as csv"),
        (("--chart", "--compare"), "leave out --compare"),
        (("--chart", "--prices", "x.csv"), "leave out --prices"),
    ],
    ids=str,
)
def test_what_can_not_be_drawn(report: Any, args: tuple[str, ...], said: str) -> None:
    assert said in report(*args, code=2).err


def test_an_encoding_without_bars_is_told(report: Any) -> None:
    assert "set it to UTF-8" in report("--chart", code=2, PYTHONIOENCODING="ascii").err
    assert "\\u" not in report("--by", "model", PYTHONIOENCODING="ascii").out


# ── in a file ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="session")
def fonts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """matplotlib looks for the fonts of the machine once."""
    return {"MPLCONFIGDIR": str(tmp_path_factory.mktemp("matplotlib"))}


def test_a_picture_for_a_mail(report: Any, cli: Cli, fonts: dict[str, str]) -> None:
    (cli.folder / "report.svg").write_text("old")
    done = report("--by", "model", "--chart", "report.svg", **fonts)
    assert (done.out, done.err.splitlines()[-1]) == ("", "wrote report.svg")
    drawn = (cli.folder / "report.svg").read_text()
    for text in ("charge by model, total $0.00000091", "2026-11-19 to 2026-11-20 · UTC", "$0.0000006", "11-20"):
        assert text in drawn
    report("--chart", "empty.PNG", days=("--since", "2020-01-01", "--until", "2020-01-31"), **fonts)
    assert (cli.folder / "empty.PNG").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in cli.folder.iterdir() if path.name.startswith(".")] == []


def test_a_picture_that_can_not_be_written_leaves_nothing(report: Any, cli: Cli, fonts: dict[str, str]) -> None:
    assert "no such file or directory" in report("--chart", "no/where.svg", code=1, **fonts).err
    (cli.folder / "folder.svg").mkdir()
    assert "folder.svg can't be written: is a directory" in report("--chart", "folder.svg", code=1, **fonts).err
    assert [path.name for path in cli.folder.iterdir() if path.name.startswith(".")] == []


def test_without_matplotlib_it_is_told_how_to_get_it(cli: Cli, report: Any) -> None:
    (cli.folder / "hidden").mkdir()
    (cli.folder / "hidden" / "matplotlib.py").write_text("raise ImportError('not here')")
    done = report("--chart", "a.svg", code=1, PYTHONPATH=str(cli.folder / "hidden"))
    assert "pip install 'llmgate[charts]'" in done.err


# ── beside the sums ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_shares_and_trends_stand_in_tables_only(report: Any) -> None:
    lines = report("--by", "model").out.splitlines()
    assert lines[0].split()[-2:] == ["share", "trend"]
    assert [line.split()[-2:] for line in lines[2:6]] == [
        ["65.9%", "▂█"],
        ["22.0%", "█·"],
        ["6.6%", "·█"],
        ["5.5%", "·█"],
    ]
    assert "share" not in report("--by", "model", "--json").out
    assert "share" not in report("--by", "model", "--format", "csv").out


def test_trends_are_of_groups_over_days(report: Any) -> None:
    assert "trend" not in report("--by", "day").out
    assert "trend" not in report("--by", "tag").out
    today = ("--since", "2026-11-20", "--until", "2026-11-20")
    assert "trend" not in report("--by", "user", days=today).out
    assert "share" not in report("--by", "user", days=today).out, "one row is all of it"
    others = report("--by", "model", "--top", "1").out.splitlines()[3].split()
    assert (others[0], others[-1]) == ("others", "34.1%")


def test_they_go_first_where_it_is_narrow(cli: Cli, told: Path) -> None:  # noqa: F811
    wide = plain(cli.terminal("--db", told, "report", *SINCE, "--by", "model", columns=200).out)
    assert "trend" in wide
    narrow = plain(cli.terminal("--db", told, "report", *SINCE, "--by", "model", columns=112).out)
    assert "errors" in narrow
    assert "trend" not in narrow
    assert "left out" not in narrow, "nothing is lost without them"
