"""Keys that users make for themselves: nothing is gained, nothing is multiplied, nothing is shed."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from hypothesis.stateful import run_state_machine_as_test as walk

from llmgate.errors import Refusal, UsageError
from llmgate.limits import Unit, parse
from llmgate.names import matches
from llmgate.store import accounts, holds, keys, limits, selfmade
from llmgate.store.db import Tx
from llmgate.store.holds import Hold
from llmgate.store.selfmade import Wish, common, narrower
from llmgate.types import Meters

from ..books import Book
from .test_limits import NOON, Clocked, policy_of

DAY_MS = 86_400_000


@contextmanager
def acting(book: Book, actor: str, now_ms: int = NOON) -> Iterator[Tx]:
    with book.write(now_ms) as tx:
        yield Tx(tx.conn, tx.now_ms, actor)


def make(book: Book, user: str = "alice", now_ms: int = NOON, **wish: Any) -> keys.Issued:
    with acting(book, f"user:{user}", now_ms) as tx:
        return selfmade.make(tx, user, Wish(**wish))


def refused(book: Book, user: str = "alice", now_ms: int = NOON, **wish: Any) -> str:
    before = book.value("SELECT count(*) FROM keys"), book.value("SELECT count(*) FROM under")
    with pytest.raises(Refusal) as caught:
        make(book, user, now_ms, **wish)
    assert (book.value("SELECT count(*) FROM keys"), book.value("SELECT count(*) FROM under")) == before
    return caught.value.message


def give(book: Book, user: str, name: str, *limit: str, **fields: object) -> str:
    """A key that an admin gives, in clear."""
    with book.write(NOON) as tx:
        if accounts.find_user(tx, user) is None:
            accounts.add_user(tx, user)
        issued = keys.add(tx, user, name=name, **fields)  # type: ignore[arg-type]
        if limit:
            limits.hang(tx, f"key:{issued.id}", limit)
    return issued.key


def of_key(book: Book, key: keys.Issued | str) -> dict[str, object]:
    with book.db.read() as tx:
        row = keys.key_row(tx, key.id if isinstance(key, keys.Issued) else key)
    told = {name: msgspec.json.decode(row[name]) for name in ("models", "ips", "tags")}
    return {**told, "expires_ms": row["expires_ms"], "note": row["note"]}


def set_state(book: Book, target: str, verb: str, actor: str = "cli:root") -> None:
    with acting(book, actor) as tx:
        keys.set_state(tx, target, verb)


# ── nothing is gained ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        ([], [], []),
        (["gpt-4o*"], [], ["gpt-4o*"]),
        (["gpt-*"], ["gpt-4o", "llama"], ["gpt-4o"]),
        (["gpt-4*"], ["gpt-4o*", "*-mini"], ["gpt-4o*", "gpt-4*-mini"]),
        (["*"], ["a?c", "[ab]"], ["a?c"]),
        (["[ab]"], ["[ab]"], ["[ab]"]),
    ],
)
def test_globs_in_common(one: list[str], other: list[str], both: list[str]) -> None:
    assert common("models", one, other) == both
    assert set(common("models", other, one)) == set(both)


@pytest.mark.parametrize(("one", "other"), [(["gpt*"], ["llama*"]), (["a?"], ["*b"]), (["?"], ["[ab]"])])
def test_nothing_in_common_is_no_key_and_not_all(one: list[str], other: list[str]) -> None:
    with pytest.raises(Refusal, match="no model is allowed"):
        common("models", one, other)


GLOB = st.text("ab.*?[]!-", min_size=1, max_size=6)
NAME = st.text("ab.-", min_size=0, max_size=6)


@settings(max_examples=250)
@given(GLOB, GLOB, st.lists(NAME, min_size=20, max_size=20))
def test_what_two_globs_have_in_common_is_meant_by_both(one: str, other: str, names: list[str]) -> None:
    both = narrower(one, other)
    if both is not None:
        for name in filter(lambda name: matches(both, name), [*names, both.replace("*", ""), both.replace("*", "ab")]):
            assert matches(one, name), (one, other, both, name)
            assert matches(other, name), (one, other, both, name)


NETWORK = st.builds(
    lambda bits, length: str(ipaddress.ip_network((bits << 24, length), strict=False)),
    *(st.integers(0, 255), st.integers(0, 6)),
)


@settings(max_examples=100)
@given(st.lists(NETWORK, min_size=1, max_size=3), st.lists(NETWORK, min_size=1, max_size=3))
def test_networks_in_common_are_those_of_both(one: list[str], other: list[str]) -> None:
    def within(networks: list[str], address: int) -> bool:
        return any(ipaddress.ip_address(address) in ipaddress.ip_network(network) for network in networks)

    try:
        both = common("ips", one, other)
    except Refusal:
        both = ["255.255.255.255/32"]
    for step in range(64):
        address = step << 26
        assert within(both, address) == (within(one, address) and within(other, address))


def test_a_key_has_the_strictest_of_all(book: Book) -> None:
    give(book, "alice", "one", models=["gpt-*"], ips=["10.0.0.0/8"], tags={"team": "red"}, expires_ms=NOON + 9)
    give(book, "alice", "two", models=["gpt-4o*", "o1"], tags={"job": "x", "team": "blue"}, expires_ms=NOON + 5)
    made = make(book, name="three", models=["gpt-4o-mini", "o1"], ips=["10.1.2.3", "11.0.0.1"], note="mine")
    assert of_key(book, made) == {
        "models": ["gpt-4o-mini"],
        "ips": ["10.1.2.3/32"],
        "tags": {"team": "red", "job": "x"},
        "expires_ms": NOON + 5,
        "note": "mine",
    }
    with book.write(NOON) as tx:
        assert selfmade.make(tx, "alice", Wish(expires="30d")).name == "default"
    assert of_key(book, "alice/default")["expires_ms"] == NOON + 5
    assert "no model" in refused(book, models=["o1"])
    assert "no address" in refused(book, ips=["11.0.0.1"])


def test_where_nobody_said_anything_nothing_is_inherited(book: Book) -> None:
    with book.write(NOON) as tx:
        accounts.add_user(tx, "bob")
    assert of_key(book, make(book, "bob"))["models"] == []
    assert book.rows("SELECT * FROM under") == []
    with book.write(NOON) as tx:
        accounts.set_user(tx, "bob", {"status": "disabled"})
    assert "disabled" in refused(book, "bob")


def test_there_is_an_end_to_it(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selfmade, "MOST", 3)
    give(book, "alice", "given")
    make(book)
    last = make(book)
    assert "3 keys already" in refused(book)
    with acting(book, "user:alice") as tx:
        selfmade.revoke(tx, "alice", last.id)
    make(book)


# ── nothing is shed ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_an_admin_has_ended_is_no_ground_for_another(book: Book) -> None:
    give(book, "alice", "given")
    set_state(book, "alice/given", "disable")
    assert "disabled" in refused(book)
    with acting(book, "user:alice") as tx, pytest.raises(Refusal, match="is disabled"):
        selfmade.revoke(tx, "alice", "given")
    set_state(book, "alice/given", "revoke")
    assert "revoked" in refused(book)
    give(book, "alice", "late", expires_ms=NOON + DAY_MS)
    assert "expired, revoked" in refused(book, now_ms=NOON + DAY_MS)


def test_who_revokes_all_its_keys_makes_the_next_by_the_last(book: Book) -> None:
    give(book, "alice", "given", "1 requests/day", models=["gpt*"])
    second = make(book)
    for name in ("given", second.name):
        with acting(book, "user:alice") as tx:
            selfmade.revoke(tx, "alice", name)
    third = make(book)
    assert of_key(book, third)["models"] == ["gpt*"]
    clocked = Clocked(book)
    clocked.use(third.key)
    assert clocked.refused(third.key).code == "rate_limited"


def test_a_team_s_lead_who_ends_a_key_is_not_its_user(book: Book) -> None:
    give(book, "alice", "given")
    set_state(book, "alice/given", "revoke", actor="user:lead")
    assert "revoked" in refused(book)


def test_a_key_whose_giver_has_ended_hands_its_limits_on(book: Book) -> None:
    """The given key is revoked, the one made beside it lives: what is made beside that has the limits of the first."""
    give(book, "alice", "given", "2 requests/day")
    second = make(book)
    set_state(book, "alice/given", "revoke")
    third = make(book)
    clocked = Clocked(book)
    clocked.use(second.key)
    clocked.use(third.key)
    assert clocked.refused(second.key).code == clocked.refused(third.key).code == "rate_limited"


def test_what_was_put_on_a_key_of_one_s_own_is_inherited_too(book: Book) -> None:
    give(book, "alice", "given")
    second = make(book)
    with book.write(NOON) as tx:
        limits.hang(tx, f"key:{second.id}", ["1 requests/day"])
    third = make(book)
    clocked = Clocked(book)
    clocked.use(third.key)
    assert clocked.refused(third.key).code == clocked.refused(second.key).code == "rate_limited"


def test_nobody_else_s_keys(book: Book) -> None:
    give(book, "alice", "given")
    give(book, "bob", "his")
    with book.db.read() as tx:
        his = keys.key_row(tx, "bob/his")["id"]
    for target in (his, "his", "bob/his", "%", ""):
        with acting(book, "user:alice") as tx:
            for act in (selfmade.key_of, selfmade.rotate, selfmade.revoke):
                with pytest.raises(Refusal) as caught:
                    act(tx, "alice", target)
                assert caught.value.code == "not_found"
    with acting(book, "user:bob") as tx:
        assert selfmade.rename(tx, "bob", his, "laptop")["name"] == "laptop"
        assert selfmade.rotate(tx, "bob", "laptop", grace_ms=1000).id == his
        with pytest.raises(UsageError):
            selfmade.rename(tx, "bob", his, "a b")


# ── nothing is multiplied ─────────────────────────────────────────────────────────────────────────────────────────────


def test_ten_keys_have_no_more_than_one(book: Book) -> None:
    """Whichever is used first, and also at once: five dollars a day are five dollars a day."""
    first = give(book, "alice", "given", "$0.00000012/day")
    clocked = Clocked(book)
    several = [first, *(make(book).key for _ in range(9))]
    held = [clocked.place(key, bound=10, output=10, least=10) for key in several[:4]]
    for key in several[4:]:
        assert clocked.refused(key, bound=10, output=10, least=10).code == "credits_held"
    for hold in held:
        clocked.settle(hold, Meters(input=10, output=10, calls=1))
    for key in several:
        assert clocked.refused(key, bound=10, output=10, least=10).code == "budget_exceeded"
    assert book.findings() == []


def test_a_limit_that_is_changed_is_changed_for_all(book: Book) -> None:
    first = give(book, "alice", "given", "1 requests/day")
    second = make(book).key
    clocked = Clocked(book)
    clocked.use(second)
    assert clocked.refused(first).code == "rate_limited"
    with book.db.read() as tx:
        given_id = keys.key_row(tx, "alice/given")["id"]
    clocked.hang(f"key:{given_id}", "3 requests/day")
    clocked.use(second)
    clocked.use(first)
    assert clocked.refused(second).code == "rate_limited"
    clocked.remove(f"key:{given_id}", None)
    clocked.use(second, 5)


class Farmer(RuleBasedStateMachine):
    """Someone with two given keys who makes, renames, rotates and revokes keys, and asks with all of them, across days:
    no given key with all that are under it ever goes past its limits.
    """

    LIMITS: ClassVar = {
        "work": ("4 requests/day", "$0.0000004/month"),
        "play": ("3 requests/day on gpt*", "2 concurrent"),
    }

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.book = Book(Path(self.folder.name) / "llmgate.db")
        self.clocked = Clocked(self.book, policy_of())
        self.keys = [give(self.book, "alice", name, *texts) for name, texts in self.LIMITS.items()]
        self.given = {row["id"]: row["name"] for row in self.book.rows("SELECT id, name FROM keys")}
        self.open: list[Hold] = []

    def teardown(self) -> None:
        assert self.book.findings() == []
        self.book.close()
        self.folder.cleanup()

    def own(self, act: object, *words: object) -> keys.Issued | None:
        try:
            with acting(self.book, "user:alice", self.clocked.now_ms) as tx:
                done = act(tx, "alice", *words)  # type: ignore[operator]
        except Refusal:
            return None
        return done if isinstance(done, keys.Issued) else None

    @rule()
    def make(self) -> None:
        if issued := self.own(selfmade.make):
            self.keys.append(issued.key)

    @rule(number=st.integers(0, 9), verb=st.sampled_from((selfmade.rotate, selfmade.revoke)))
    def end(self, number: int, verb: object) -> None:
        ids = [row["id"] for row in self.book.rows("SELECT id FROM keys ORDER BY rowid")]
        if issued := self.own(verb, ids[number % len(ids)]):
            self.keys.append(issued.key)

    @rule(number=st.integers(0, 30), model=st.sampled_from(("gpt", "llama")))
    def ask(self, number: int, model: str) -> None:
        try:
            hold = self.clocked.place(self.keys[number % len(self.keys)], model=model, bound=20, output=20, least=20)
        except Refusal:
            return
        self.open.append(hold)

    @rule(number=st.integers(0, 9))
    def end_request(self, number: int) -> None:
        if self.open:
            hold = self.open.pop(number % len(self.open))
            self.clocked.settle(hold, Meters(input=20, output=20, calls=1))

    @rule(number=st.integers(0, 9))
    def release(self, number: int) -> None:
        if self.open:
            with self.book.write(self.clocked.now_ms) as tx:
                holds.release(tx, self.open.pop(number % len(self.open)).id)

    @rule()
    def tomorrow(self) -> None:
        self.clocked.now_ms += DAY_MS

    @invariant()
    def nothing_is_multiplied(self) -> None:
        roots = {row["key_id"]: set[str]() for row in self.book.rows("SELECT id AS key_id FROM keys")}
        for row in self.book.rows("SELECT * FROM under"):
            roots[row["key_id"]].add(row["given_id"])
        assert all(roots[key] or key in self.given for key in roots), "a key is under none"
        rows = self.book.rows(
            "SELECT key_id, day, model, charge_nano AS nano, 0 AS open FROM usage "
            "UNION ALL SELECT key_id, day, model, amount_nano, 1 FROM holds"
        )
        for given_id, name in self.given.items():
            mine = [row for row in rows if row["key_id"] == given_id or given_id in roots[row["key_id"]]]
            for limit in map(parse, self.LIMITS[name]):
                meant = [row for row in mine if limit.means((row["model"],))]
                if limit.unit is Unit.USD:
                    assert sum(row["nano"] for row in meant) <= (limit.amount or 0)
                elif limit.unit is Unit.CONCURRENT:
                    assert sum(row["open"] for row in meant) <= (limit.amount or 0)
                else:
                    assert all(count <= (limit.amount or 0) for count in Counter(r["day"] for r in meant).values())


def test_a_farmer_gains_nothing() -> None:
    walk(Farmer, settings=settings(max_examples=20, stateful_step_count=40))


# ── the lead of a team ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def team(book: Book) -> Book:
    """carla leads research, in which alice and she are; bob is in another team."""
    with book.write(NOON) as tx:
        for name in ("research", "sales"):
            accounts.add_team(tx, name)
        for user, of in (("alice", "research"), ("carla", "research"), ("bob", "sales")):
            accounts.add_user(tx, user, team=of)
        accounts.set_user(tx, "carla", {"leads": "research"})
        limits.hang(tx, "team:research", ["$10/day", "100 requests/day"])
    return book


def test_a_lead_has_its_members_and_nobody_else(team: Book) -> None:
    with acting(team, "user:carla") as tx:
        assert [row["name"] for row in selfmade.members(tx, "carla")] == ["alice", "carla"]
        made = selfmade.make_for(tx, "carla", "alice", Wish(name="laptop"))
        assert selfmade.revoke_for(tx, "carla", "alice", made.id)["state"] == "revoked"
        his = keys.add(tx, "bob").id
        for attempt in (
            lambda: selfmade.make_for(tx, "carla", "bob"),
            lambda: selfmade.make_for(tx, "carla", "nobody"),
            lambda: selfmade.revoke_for(tx, "carla", "bob", his),
            lambda: selfmade.revoke_for(tx, "carla", "alice", his),
            lambda: selfmade.limit_member(tx, "carla", "bob", ["$1/day"]),
            lambda: selfmade.unlimit_member(tx, "carla", "bob", "$1/day"),
            lambda: selfmade.make_for(tx, "alice", "carla"),
            lambda: selfmade.members(tx, "nobody"),
        ):
            with pytest.raises(Refusal) as caught:
                attempt()
            assert caught.value.code == "not_found"


def test_a_lead_who_leads_no_more_can_do_nothing(team: Book) -> None:
    with team.write(NOON) as tx:
        accounts.set_user(tx, "carla", {"leads": ""})
        with pytest.raises(Refusal, match="leads no team"):
            selfmade.members(tx, "carla")


def test_a_lead_narrows(team: Book) -> None:
    with acting(team, "user:carla") as tx:
        selfmade.limit_member(tx, "carla", "alice", ["$2/day", "5 requests/hour"])
        selfmade.limit_member(tx, "carla", "alice", ["$10/day"])
        for wide in ("$11/day", "101 requests/day", "unlimited requests/day", "unlimited requests/minute"):
            with pytest.raises(Refusal) as caught:
                selfmade.limit_member(tx, "carla", "alice", [wide])
            assert caught.value.code == "conflict"
        selfmade.unlimit_member(tx, "carla", "alice", "$1/day")
    with team.write(NOON) as tx:
        limits.hang(tx, "alice", ["$3/day"])
    with acting(team, "user:carla") as tx:
        for text in ("$2/day", "$9/day"):
            with pytest.raises(Refusal, match=r"an admin has set \$3/day"):
                selfmade.limit_member(tx, "carla", "alice", [text])
        with pytest.raises(Refusal, match="an admin has set"):
            selfmade.unlimit_member(tx, "carla", "alice", "$3/day")


def test_what_a_lead_sets_never_replaces_the_default_s_or_the_plan_s(team: Book) -> None:
    """An admin raises a default by a user's own limit; a lead can't, also where the default comes down later."""
    with acting(team, "user:carla") as tx:
        selfmade.limit_member(tx, "carla", "alice", ["50 requests/hour", "7 requests/minute"])
        key = keys.add(tx, "alice").key
    clocked = Clocked(team, policy_of("5 requests/hour", "9 requests/minute"))
    assert {one for one in clocked.applying(key) if "team" not in one} == {
        "default: 5 requests/hour",
        "lead: 7 requests/minute",
    }
    clocked.use(key, 5)
    assert clocked.refused(key).code == "rate_limited"
    clocked.hang("alice", "60 requests/hour")
    assert "user: 60 requests/hour" in clocked.applying(key)


@pytest.mark.parametrize(
    ("narrow", "limit", "fine"),
    [
        ({}, (), True),
        ({"models": ["gpt-4o", "gpt-5"]}, (), True),
        ({"models": ["gpt-5"]}, (), False),
        ({"ips": ["10.0.0.0/8"]}, (), False),
        ({"expires_ms": NOON + DAY_MS}, (), False),
        ({"expires_ms": NOON + 3 * DAY_MS}, (), True),
        ({}, ("$1/day",), False),
    ],
)
def test_a_key_doesn_t_come_by_one_that_opens_more(
    book: Book, narrow: dict[str, Any], limit: tuple[str, ...], fine: bool
) -> None:
    """It may be in a script that others read: the admin said what it opens, so it signs nobody in to the main key."""
    give(book, "alice", "main", models=["gpt-4o"], expires_ms=NOON + 2 * DAY_MS)
    give(book, "alice", "narrow", *limit, **narrow)
    with acting(book, "user:alice") as tx:
        by = keys.key_row(tx, "alice/narrow")["id"]
        assert selfmade.rotate(tx, "alice", "narrow", by=by).name == "narrow"
        assert selfmade.rotate(tx, "alice", "main").name == "main"
        made = selfmade.make(tx, "alice", Wish(name="made")) if "models" not in narrow else None
        if fine:
            assert selfmade.rotate(tx, "alice", "main", by=by).name == "main"
        else:
            with pytest.raises(Refusal, match="signed in with a key that may do less than main"):
                selfmade.rotate(tx, "alice", "main", by=by)
        if made is not None:  # it is under both, and opens no more than either
            assert selfmade.rotate(tx, "alice", "made", by=by).name == "made"
            if limit:
                with pytest.raises(Refusal, match="may do less"):
                    selfmade.rotate(tx, "alice", "main", by=made.id)


# ── what is worked out while nobody else can write ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "wish",
    [
        {"models": [f"m{number}" for number in range(41)]},
        {"ips": [f"10.0.0.{number}" for number in range(41)]},
        {"limits": [f"{number + 1} requests/day on m{number}" for number in range(41)]},
    ],
)
def test_nobody_names_more_than_can_be_compared_soon(book: Book, wish: dict[str, Any]) -> None:
    give(book, "alice", "given")
    assert refused(book, **wish).startswith("a key has at most 40 models, addresses or limits of its own")


def test_lists_never_grow_by_being_multiplied(book: Book) -> None:
    """Forty that begin so and forty that end so would be 1,600, and the next key's many times as many."""
    give(book, "alice", "given")
    make(book, models=[f"a{number}*" for number in range(40)])
    assert refused(book, models=[f"*{number}z" for number in range(40)]).startswith(
        "what this key is held to comes to 1600 models"
    )
    issued = make(book, models=["*z"])
    assert len(msgspec.json.decode(book.value("SELECT models FROM keys WHERE id = ?", issued.id))) == 40


def test_what_an_admin_lists_is_inherited_however_long(book: Book) -> None:
    many = [f"vendor{number}/*" for number in range(300)]
    give(book, "alice", "given", models=many)
    for _ in range(3):
        issued = make(book)
    assert msgspec.json.decode(book.value("SELECT models FROM keys WHERE id = ?", issued.id)) == many
