"""What reports are of: periods, groups, sums, against sums worked out from the requests themselves."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from llmgate.errors import Refusal
from llmgate.pricing import UNITS, Price, amount
from llmgate.store.db import Tx, set_zone
from llmgate.store.holds import Attempt
from llmgate.types import CostSource, Meters, Source
from llmgate.web import summing
from llmgate.web.summing import MEASURES, TOPS, Group, Query, Sums
from tests.books import PRICE, Book

CHARGE = Price(input=3 * UNITS, output=2 * UNITS)

START, END = date(2024, 2, 26), date(2024, 3, 2)


def at(book: Book, now: str) -> Tx:
    """Reading at a moment, in UTC."""
    moment = datetime.fromisoformat(now).replace(tzinfo=UTC)
    return Tx(book.db.conn, int(moment.timestamp() * 1000), "test")


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    found = Book(tmp_path / "llmgate.db")
    yield found
    found.close()


@pytest.fixture
def used(book: Book) -> Book:
    """Four users, two of whom are in a team, over a leap day."""
    book.team("research")
    alice, bob = (book.user(name, team="research") for name in ("alice", "bob"))
    carol, dave = (book.user(name) for name in ("carol", "dave"))
    book.use(alice, Meters(input=10, output=5, calls=1), day="2024-02-27", charge=CHARGE)
    book.use(bob, Meters(input=100, calls=1), day="2024-02-29", model="o3")
    vain = Attempt(
        upstream="openai",
        upstream_model="gpt",
        http_status=500,
        source=Source.UPSTREAM,
        meters=Meters(input=4, calls=1),
        cost=book.snapshot(PRICE),
        cost_source=CostSource.CONFIG,
    )
    book.settle(book.place(carol, day="2024-02-29"), Meters(input=7, calls=1), attempts=(vain,))
    book.use(dave, Meters(input=1, calls=1), day="2024-03-02", model="mini")
    book.use(alice, Meters(input=1_000_000, calls=1), day="2024-03-03")  # a day later than what is asked for
    book.use(alice, Meters(input=1_000_000, calls=1), day="2024-02-25")
    return book


def report(book: Book, measure: str = "cost", top: int = 8) -> summing.Report:
    return summing.read(at(book, "2024-03-03"), summing.Asked(START, END, MEASURES[measure], top))


def test_sums(used: Book) -> None:
    found = report(used)
    assert found.total == Sums(requests=4, tokens=123, cost=128, charge=148, wasted=4)
    assert found.total.margin == 16
    assert found.users == [
        (Group("bob"), Sums(1, 100, 100, 100)),
        (Group("alice"), Sums(1, 15, 20, 40)),
        (Group("carol"), Sums(1, 7, 7, 7, 4)),
        (Group("dave"), Sums(1, 1, 1, 1)),
    ]
    assert found.days == [
        ("2024-02-26", Sums()),
        ("2024-02-27", Sums(1, 15, 20, 40)),
        ("2024-02-28", Sums()),
        ("2024-02-29", Sums(2, 107, 107, 107, 4)),
        ("2024-03-01", Sums()),
        ("2024-03-02", Sums(1, 1, 1, 1)),
    ]


def test_stacks(used: Book) -> None:
    costs = {
        by: {group.label: [sums.cost for sums in days] for group, days in found}
        for by, found in report(used).stacks.items()
    }
    assert costs == {
        "user": {
            "bob": [0, 0, 0, 100, 0, 0],
            "alice": [0, 20, 0, 0, 0, 0],
            "carol": [0, 0, 0, 7, 0, 0],
            "dave": [0, 0, 0, 0, 0, 1],
        },
        "model": {"o3": [0, 0, 0, 100, 0, 0], "gpt": [0, 20, 0, 7, 0, 0], "mini": [0, 0, 0, 0, 0, 1]},
        "team": {"research": [0, 20, 0, 100, 0, 0], "(none)": [0, 0, 0, 7, 0, 1]},
    }


def test_who_is_told_apart_is_who_has_most_of_what_is_drawn(used: Book) -> None:
    def users(measure: str) -> list[tuple[str, int]]:
        found = report(used, measure, top=2)
        return [(group.label, MEASURES[measure].of(sums)) for group, sums in found.users]

    assert users("cost") == [("bob", 100), ("alice", 20), ("others (2)", 8)]
    assert users("charge") == [("bob", 100), ("alice", 40), ("others (2)", 8)]
    assert users("requests") == [("alice", 1), ("bob", 1), ("others (2)", 2)], "of equals the first by name"


def test_nothing_was_used(book: Book) -> None:
    found = report(book)
    assert (found.total, found.users, set(found.stacks)) == (Sums(), [], {"user", "model", "team"})
    assert found.days == [((START + timedelta(days=number)).isoformat(), Sums()) for number in range(6)]


def summed(rows: Iterable[Sums]) -> Sums:
    return Sums(*map(sum, zip(Sums(), *rows, strict=True)))


class Request(NamedTuple):
    user: str
    team: str
    model: str
    day: str
    sums: Sums


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Book, list[Request]]]:
    """Of 25 users, 6 teams and 23 models, so that there are always others."""
    chance, book, requests = random.Random(7), Book(tmp_path_factory.mktemp("summing") / "llmgate.db"), []
    teams = ["", *(f"team{number}" for number in range(6))]
    for team in teams[1:]:
        book.team(team)
    keys = {}
    for number in range(25):
        user, team = f"user{number}", teams[number % 7]
        keys[user, team] = book.user(user, team=team or None)
    for (user, team), key in keys.items():
        for _ in range(8):
            day = (START + timedelta(days=chance.randrange(6))).isoformat()
            model, charge = f"m{chance.randrange(23)}", chance.choice((None, CHARGE))
            meters = Meters(input=chance.randrange(50), output=chance.randrange(50), calls=1)
            book.use(key, meters, day=day, model=model, charge=charge)
            tokens = meters.input + meters.output
            sums = Sums(1, tokens, amount(meters, PRICE), amount(meters, charge or PRICE))
            requests.append(Request(user, team, model, day, sums))
    yield book, requests
    book.close()


@pytest.mark.parametrize("top", TOPS)
@pytest.mark.parametrize("name", MEASURES)
def test_whatever_is_told_of_a_period_adds_up_to_the_same(
    history: tuple[Book, list[Request]], name: str, top: int
) -> None:
    book, requests = history
    found, of = report(book, name, top), MEASURES[name].of
    assert found.total == summed(one.sums for one in requests)
    assert found.days == [(day, summed(one.sums for one in requests if one.day == day)) for day, _ in found.days]
    for by, stack in found.stacks.items():
        figures = Counter[str]()
        for one in requests:
            figures[getattr(one, by)] += of(one.sums)
        best = sorted(figures, key=lambda group: (-figures[group], group))
        assert [group.name for group, _ in stack] == best[:top] + [None] * (len(best) > top)
        assert sum(group.others for group, _ in stack) == max(0, len(best) - top)
        for group, days in stack:
            members = best[top:] if group.name is None else [group.name]
            mine = [one for one in requests if getattr(one, by) in members]
            assert days == [summed(one.sums for one in mine if one.day == day) for day, _ in found.days]
    assert found.users == [(group, summed(days)) for group, days in found.stacks["user"]]


# ── what is asked for ─────────────────────────────────────────────────────────────────────────────────────────────────


def asked(book: Book, now: str = "2024-03-01T12:00", **query: str) -> tuple[str, str, str, int]:
    found = summing.asked(at(book, now), Query(**query))
    return str(found.start), str(found.end), found.measure.name, found.top


def test_30_days_where_nobody_says(book: Book) -> None:
    assert asked(book) == ("2024-02-01", "2024-03-01", "cost", 8)


def test_today_is_that_of_the_zone_of_the_books(book: Book) -> None:
    with book.write() as tx:
        set_zone(tx, "Asia/Tokyo")
    assert asked(book, "2024-02-29T15:30")[1] == "2024-03-01"
    with book.write() as tx:
        set_zone(tx, "America/Los_Angeles")
    assert asked(book, "2024-03-01T07:30")[1] == "2024-02-29"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"start": "2024-02-28"}, ("2024-02-28", "2024-03-01", "cost", 8)),
        ({"end": "2024-01-31"}, ("2024-01-02", "2024-01-31", "cost", 8)),
        ({"start": "2024-03-01", "end": "2024-03-01"}, ("2024-03-01", "2024-03-01", "cost", 8)),
        ({"start": "2023-03-02"}, ("2023-03-02", "2024-03-01", "cost", 8)),
        ({"end": "0001-01-05"}, ("0001-01-01", "0001-01-05", "cost", 8)),
        ({"measure": "charge", "top": "20"}, ("2024-02-01", "2024-03-01", "charge", 20)),
    ],
)
def test_periods(book: Book, query: dict[str, str], expected: Any) -> None:
    assert asked(book, **query) == expected


@pytest.mark.parametrize(
    ("query", "param", "words"),
    [
        ({"start": "2024-02-30"}, "start", "the start 2024-02-30 is not in the calendar"),
        ({"start": "2023-02-29", "end": "2023-03-01"}, "start", "the start 2023-02-29 is not in the calendar"),
        ({"end": "0000-01-01"}, "end", "the end 0000-01-01 is not in the calendar"),
        ({"end": "yesterday"}, "end", "the end 'yesterday' is no day: write it as 2026-11-20"),
        ({"end": "20240301"}, "end", "the end '20240301' is no day: write it as 2026-11-20"),
        ({"end": "2024-W09-5"}, "end", "the end '2024-W09-5' is no day: write it as 2026-11-20"),
        ({"end": "２０２４-03-01"}, "end", "the end '２０２４-03-01' is no day: write it as 2026-11-20"),
        ({"end": "9" * 99}, "end", f"the end '{'9' * 40}' is no day: write it as 2026-11-20"),
        ({"start": "2024-02-02", "end": "2024-02-01"}, "end", "the end 2024-02-01 is before the start 2024-02-02"),
        ({"end": "2024-03-02"}, "end", "2024-03-02 is still to come: today is 2024-03-01 in UTC"),
        ({"start": "9999-12-31"}, "start", "9999-12-31 is still to come: today is 2024-03-01 in UTC"),
        (
            {"start": "2023-03-01"},
            "start",
            "2023-03-01 to 2024-03-01 is 367 days, and a report has at most 366: choose fewer, or run "
            "`llmgate report --by month`",
        ),
        ({"measure": "profit"}, "measure", "there is no measure 'profit': use cost, charge, tokens, requests"),
        ({"top": "7"}, "top", "top '7' is no choice: use 5, 8, 12, 20"),
        ({"top": "08"}, "top", "top '08' is no choice: use 5, 8, 12, 20"),
        ({"top": "-1"}, "top", "top '-1' is no choice: use 5, 8, 12, 20"),
    ],
)
def test_what_can_not_be_asked_for(book: Book, query: dict[str, str], param: str, words: str) -> None:
    with pytest.raises(Refusal) as caught:
        asked(book, **query)
    assert (caught.value.message, caught.value.param, caught.value.http_status) == (words, param, 400)


def test_a_secret_is_not_repeated(book: Book) -> None:
    with pytest.raises(Refusal, match=r"the start 'sk-…' is no day"):
        asked(book, start="sk-lg-a-key-that-was-pasted-here")


@pytest.mark.parametrize(
    ("today", "expected"),
    [
        (date(2024, 3, 31), ("2024-03-25", "2024-03-02", "2024-03-01", "2024-02-01", "2024-02-29")),
        (date(2024, 1, 1), ("2023-12-26", "2023-12-03", "2024-01-01", "2023-12-01", "2023-12-31")),
    ],
)
def test_presets(today: date, expected: tuple[str, ...]) -> None:
    found = {name: (str(start), str(end)) for name, (start, end) in summing.presets(today).items()}
    week, days, month, last, until = expected
    assert found == {
        "7 days": (week, str(today)),
        "30 days": (days, str(today)),
        "this month": (month, str(today)),
        "last month": (last, until),
    }
