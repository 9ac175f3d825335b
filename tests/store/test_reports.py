"""Reports over roll-ups, against sums worked out in Python from the requests themselves."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from fnmatch import fnmatchcase
from itertools import product
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgate.clock import hour_start_ms
from llmgate.pricing import UNITS, Price, amount
from llmgate.store import accounts, keys, reports
from llmgate.store.db import set_zone
from llmgate.types import Meters, Status

from ..books import PRICE, Book


class Request(NamedTuple):
    """A request as the model knows it."""

    user: str
    team: str
    key: str
    plan: str
    model: str
    upstream: str
    tags: tuple[str, ...]
    hour: int
    day: str
    error: bool
    meters: Meters
    cost: int
    charge: int


MODELS = ("gpt-4o", "gpt-4o-mini", "o3", "claude-sonnet")
UPSTREAMS = ("openai", "azure")
CHARGE = Price(input=3 * UNITS, output=UNITS // 3)
USERS = {"alice": "", "bob": "ops", "carl": "ops", "dora": "dev"}


def monday(day: str) -> str:
    found = date.fromisoformat(day)
    return (found - timedelta(days=found.weekday())).isoformat()


GROUPS: dict[str, Callable[[Request], Any]] = {
    "user": lambda one: one.user,
    "team": lambda one: one.team,
    "key": lambda one: one.key,
    "model": lambda one: one.model,
    "upstream": lambda one: one.upstream,
    "plan": lambda one: one.plan,
    "tag": lambda one: one.tags or "",
    "hour": lambda one: one.hour,
    "day": lambda one: one.day,
    "week": lambda one: monday(one.day),
    "month": lambda one: one.day[:7],
}


def instant(day: str, hour: int = 0, minute: int = 0) -> int:
    found = datetime.fromisoformat(day).replace(hour=hour, minute=minute, tzinfo=UTC)
    return int(found.timestamp()) * 1000


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Book, list[Request]]]:
    """Some 150 requests of four users over two years' ends, a few of them corrected later."""
    chance = random.Random(42)
    book = Book(tmp_path_factory.mktemp("reports") / "llmgate.db")
    for team in ("ops", "dev"):
        book.team(team)
    owned = {}
    for user, team in USERS.items():
        owned[f"{user}/default"] = book.user(user, team=team or None)
        with book.write() as tx:
            owned[f"{user}/laptop"] = keys.add(tx, user, name="laptop").key
            accounts.set_user(tx, user, {"plan": {"alice": "pro", "bob": "free"}.get(user, "")})
    days = [(date(2026, 12, 24) + timedelta(days=number)).isoformat() for number in range(16)]
    requests = []
    for _ in range(150):
        key = chance.choice(list(owned))
        user = key.partition("/")[0]
        meters = Meters(**{name: chance.randrange(50) for name in Meters.__struct_fields__ if name != "calls"}, calls=1)
        charge = chance.choice((None, CHARGE))
        tags = {name: chance.choice("12") for name in ("job", "run") if chance.random() < 0.5}
        day, hour = chance.choice(days), chance.choice((0, 9, 23))
        one = Request(
            user=user,
            team=USERS[user],
            key=key,
            plan={"alice": "pro", "bob": "free"}.get(user, ""),
            model=chance.choice(MODELS),
            upstream=chance.choice(UPSTREAMS),
            tags=tuple(f"{name}={value}" for name, value in tags.items()),
            hour=instant(day, hour),
            day=day,
            error=chance.random() < 0.2,
            meters=meters,
            cost=amount(meters, PRICE),
            charge=amount(meters, charge or PRICE),
        )
        shared: dict[str, Any] = {"charge": charge, "model": one.model, "upstream": one.upstream}
        hold = book.place(owned[key], now_ms=instant(day, hour, chance.randrange(60)), tags=tags, **shared)
        if chance.random() < 0.2:  # what was believed of it at first
            book.settle(hold, Meters(input=1, calls=1), **shared | {"upstream": chance.choice(UPSTREAMS)})
        book.settle(hold, meters, status=Status.ERROR if one.error else Status.OK, **shared)
        requests.append(one)
    assert book.findings() == []
    yield book, requests
    book.close()


def summed(requests: list[Request]) -> dict[str, int]:
    return {
        "requests": len(requests),
        "input_tokens": sum(one.meters.input_tokens for one in requests),
        "cached_tokens": sum(one.meters.cached_input for one in requests),
        "output_tokens": sum(one.meters.output_tokens for one in requests),
        "cost_nano": sum(one.cost for one in requests),
        "charge_nano": sum(one.charge for one in requests),
        "errors": sum(one.error for one in requests),
        "wasted_nano": 0,
    }


def expected(requests: list[Request], by: list[str]) -> list[dict[str, Any]]:
    groups: dict[tuple[Any, ...], list[Request]] = defaultdict(list)
    for one in requests:
        values = (GROUPS[name](one) for name in by)
        for group in product(*(value if isinstance(value, tuple) else (value,) for value in values)):
            groups[group].append(one)
    return [dict(zip(by, group, strict=True)) | summed(members) for group, members in groups.items()]


def found(book: Book, by: list[str], **filters: Any) -> list[dict[str, Any]]:
    return [dict(row) for row in reports.report(book.tx, by, filters)]


def unordered(rows: list[dict[str, Any]]) -> list[list[tuple[str, Any]]]:
    return sorted(sorted(row.items(), key=str) for row in rows)


def test_every_grouping_and_filter_is_tried_here() -> None:
    assert set(reports.GROUPS) == set(GROUPS)
    assert set(reports.FILTERS) == {"user", "team", "key", "model", "upstream", "plan", "tag", "since", "until"}


@pytest.mark.parametrize("name", GROUPS)
def test_groups(history: tuple[Book, list[Request]], name: str) -> None:
    book, requests = history
    rows = found(book, [name])
    assert unordered(rows) == unordered(expected(requests, [name]))
    if name in reports.IN_ORDER:
        assert [row[name] for row in rows] == sorted(row[name] for row in rows)
    else:
        assert rows == sorted(rows, key=lambda row: (-row["charge_nano"], row[name])), "dearest first"


def test_a_week_is_named_by_its_monday_also_over_new_year(history: tuple[Book, list[Request]]) -> None:
    book, _ = history
    assert [row["week"] for row in found(book, ["week"])] == ["2026-12-21", "2026-12-28", "2027-01-04"]
    assert [row["month"] for row in found(book, ["month"])] == ["2026-12", "2027-01"]


@pytest.mark.parametrize(
    ("day", "week"),
    [
        ("2026-11-16", "2026-11-16"),
        ("2026-11-22", "2026-11-16"),
        ("2026-11-23", "2026-11-23"),
        ("2027-01-01", "2026-12-28"),
        ("2028-02-29", "2028-02-28"),
        ("2028-03-01", "2028-02-28"),
    ],
)
def test_weeks(book: Book, day: str, week: str) -> None:
    book.use(book.user("alice"), Meters(input=1, calls=1), day=day)
    assert [row["week"] for row in found(book, ["week"])] == [week]


FILTERS = st.fixed_dictionaries(
    {},
    optional={
        "user": st.sampled_from([*USERS, "nobody", None]),
        "team": st.sampled_from(["ops", "dev", "none"]),
        "key": st.sampled_from(["alice/default", "bob/laptop", "x/y"]),
        "model": st.sampled_from(["gpt-4o", "gpt-4o*", "*", "[co]*", "GPT*"]),
        "upstream": st.sampled_from(["openai", "azure", "x"]),
        "plan": st.sampled_from(["pro", "free", "", "x"]),
        "tag": st.sampled_from(['["job=1"]', '["run=2"]', '["job=1", "run=1"]', '["job=1", "job=2"]', '["x=1"]']),
        "since": st.dates(date(2026, 12, 20), date(2027, 1, 10)).map(str),
        "until": st.dates(date(2026, 12, 20), date(2027, 1, 10)).map(str),
    },
)


def passes(one: Request, filters: dict[str, str | None]) -> bool:
    for name, value in filters.items():
        match name, value:
            case _, None:
                continue
            case "since", str(day):
                fits = one.day >= day
            case "until", str(day):
                fits = one.day <= day
            case "tag", str(tags):
                fits = set(json.loads(tags)) <= set(one.tags)
            case "model", str(glob):
                fits = fnmatchcase(one.model, glob)
            case _:
                fits = getattr(one, name) == value
        if not fits:
            return False
    return True


@settings(max_examples=150)
@given(by=st.lists(st.sampled_from(sorted(GROUPS)), min_size=1, max_size=4, unique=True), filters=FILTERS)
def test_groups_and_filters_together(
    history: tuple[Book, list[Request]], by: list[str], filters: dict[str, str | None]
) -> None:
    book, requests = history
    kept = [one for one in requests if passes(one, filters)]
    assert unordered(found(book, by, **filters)) == unordered(expected(kept, by))


DAYS = st.dates(date(2026, 12, 20), date(2027, 1, 10)).map(str)
KEPT = st.fixed_dictionaries(
    {
        "user": st.lists(st.sampled_from([*USERS, "nobody"]), unique=True),
        "team": st.lists(st.sampled_from(["ops", "dev", ""]), unique=True),
        "model": st.lists(st.sampled_from(MODELS), unique=True),
    }
)


def sums_together(requests: list[Request], kept: dict[str, list[str]] | None, by: str) -> set[reports.Summed]:
    groups: dict[tuple[str | None, str | None], list[Request]] = defaultdict(list)
    for one in requests:
        group = getattr(one, by)
        if kept is None:
            groups[None, group].append(one)
        else:
            groups[one.day, group if group in kept[by] else None].append(one)
    return {
        reports.Summed(
            by,
            day,
            group,
            len(members),
            sum(one.meters.input_tokens + one.meters.output_tokens for one in members),
            sum(one.cost for one in members),
            sum(one.charge for one in members),
            0,
        )
        for (day, group), members in groups.items()
    }


@settings(max_examples=80)
@given(kept=st.one_of(st.none(), KEPT), since=DAYS, until=DAYS)
def test_groupings_together(
    history: tuple[Book, list[Request]], kept: dict[str, list[str]] | None, since: str, until: str
) -> None:
    book, requests = history
    within = [one for one in requests if since <= one.day <= until]
    rows = reports.together(book.tx, since, until, kept)
    assert len(set(rows)) == len(rows)
    assert set(rows) == set().union(*(sums_together(within, kept, by) for by in ("user", "team", "model")))


def test_the_days_of_use_are_the_first_and_the_last(history: tuple[Book, list[Request]], book: Book) -> None:
    used, requests = history
    days = [one.day for one in requests]
    assert reports.days_of_use(used.tx) == (min(days), max(days))
    assert reports.days_of_use(book.tx) is None


def test_a_key_is_also_named_by_its_id(history: tuple[Book, list[Request]]) -> None:
    book, requests = history
    key_id = keys.key_row(book.tx, "bob/laptop")["id"]
    (row,) = found(book, ["key"], key=key_id)
    assert row == {"key": "bob/laptop"} | summed([one for one in requests if one.key == "bob/laptop"])


def test_without_a_grouping_there_is_one_sum(history: tuple[Book, list[Request]]) -> None:
    book, requests = history
    assert found(book, []) == [summed(requests)]
    assert found(book, [], user="nobody") == [summed([])]


def test_where_nothing_was_used_there_is_no_group(book: Book) -> None:
    book.user("alice")
    assert found(book, ["user"]) == []


def test_a_report_is_of_how_things_were(book: Book) -> None:
    """Who changes teams takes no history along; who is renamed does."""
    book.team("ops")
    book.team("dev")
    key = book.user("alice", team="ops")
    book.use(key, Meters(input=1, calls=1))
    with book.write() as tx:
        accounts.set_user(tx, "alice", {"team": "dev", "plan": "pro"})
        keys.change(tx, "alice", {"name": "phone"})
    book.use(key, Meters(input=2, calls=1))
    rows = [(row["team"], row["plan"], row["key"], row["input_tokens"]) for row in found(book, ["team", "plan", "key"])]
    assert rows == [("dev", "pro", "alice/phone", 2), ("ops", "", "alice/phone", 1)]


def test_what_was_corrected_leaves_no_empty_group_behind(book: Book) -> None:
    hold = book.place(book.user("alice"))
    book.settle(hold, Meters(input=1, calls=1), upstream="openai")
    book.settle(hold, Meters(input=2, calls=1), upstream="azure")
    assert [row["upstream"] for row in found(book, ["upstream"])] == ["azure"]
    book.release(hold)
    assert found(book, ["upstream"]) == []


def test_an_hour_that_comes_twice_is_two_hours(book: Book) -> None:
    with book.write() as tx:
        set_zone(tx, "Europe/Berlin")
    key = book.user("alice")
    for hour, minute in ((0, 10), (0, 50), (1, 10), (2, 0)):  # 02:10 02:50 | 02:10 | 03:00
        book.use(key, Meters(input=1, calls=1), now_ms=instant("2026-10-25", hour, minute))
    with book.db.read() as tx:
        rows = [(row["day"], row["hour"], row["requests"]) for row in reports.report(tx, ["day", "hour"], {})]
    assert rows == [("2026-10-25", instant("2026-10-25", hour), number) for hour, number in ((0, 2), (1, 1), (2, 1))]


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Etc/GMT+12", "Asia/Kathmandu"])
def test_days_are_found_by_their_time_in_every_zone(book: Book, zone: str) -> None:
    with book.write() as tx:
        set_zone(tx, zone)
    key = book.user("alice")
    for hour in range(96):
        book.use(key, Meters(input=1, calls=1), now_ms=instant("2026-11-18") + hour * 3_600_000, tags={"a": "b"})
    for filters in ({"since": "2026-11-20", "until": "2026-11-20"}, {"since": "2026-11-20"}, {"until": "2026-11-18"}):
        (of_rollups,) = found(book, [], **filters)
        assert of_rollups["requests"] > 0
        assert found(book, [], tag='["a=b"]', **filters) == [of_rollups]


def test_what_was_pruned_is_told(book: Book) -> None:
    key = book.user("alice")
    book.use(key, Meters(input=1, calls=1), day="2026-11-19")
    book.use(key, Meters(input=1, calls=1), day="2026-11-20")
    assert reports.pruned(book.tx, {}) == 0
    book.tamper(
        "INSERT INTO pruned (day, account_id, user_id, team_id, key_id, plan, model, upstream, upstream_model, "
        "requests, errors, cost_nano, charge_nano, wasted_nano) "
        "SELECT day, account_id, user_id, team_id, key_id, plan, model, upstream, model, "
        "requests, errors, cost_nano, charge_nano, wasted_nano FROM rollups WHERE day = '2026-11-19'",
        "DELETE FROM usage WHERE day = '2026-11-19'",
    )
    assert found(book, ["day"])[0]["requests"] == 1
    assert found(book, ["hour"])[0]["hour"] == instant("2026-11-20", 12)
    assert reports.pruned(book.tx, {"tag": '["a=b"]'}) == 1
    assert reports.pruned(book.tx, {"since": "2026-11-20", "user": "alice"}) == 0


@pytest.mark.parametrize("name", ["UTC", "Europe/Berlin", "Asia/Kathmandu", "Australia/Lord_Howe", "America/St_Johns"])
def test_hours_begin_where_a_clock_on_the_wall_says(name: str) -> None:
    zone, chance = ZoneInfo(name), random.Random(7)
    hours = reports._hours(zone)
    for day in ("2026-03-08", "2026-03-29", "2026-04-05", "2026-10-04", "2026-10-25", "2026-11-01"):
        for _ in range(300):
            ms = instant(day) + chance.randrange(-43_200_000, 129_600_000)
            assert hours(ms) == hour_start_ms(ms, zone)
