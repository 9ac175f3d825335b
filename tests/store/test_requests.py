"""Requests for keys, and who would farm them."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from llmgate.config import SelfService
from llmgate.errors import Failure, Refusal, UsageError
from llmgate.plans import NONE, Plan, Policy
from llmgate.store import accounts, audit, keys, ledger, limits, requests, selfmade
from llmgate.store.requests import Asked
from llmgate.types import Billing

from ..books import Book
from .test_limits import NOON, Clocked

DAY_MS = 86_400_000
OPEN = SelfService(mode="open", limits=("2 requests/day",), per_address="3/day", per_name="2/day")
ASK = SelfService(mode="approval", credits=5, per_address="3/day", per_name="2/day")  # type: ignore[arg-type]


def ask(
    book: Book,
    name: str,
    service: SelfService = OPEN,
    *,
    address: str = "203.0.113.9",
    now_ms: int = NOON,
    note: str = "",
) -> Asked:
    with book.write(now_ms) as tx:
        return requests.ask(tx, service, name, note, address, NONE, Billing.METERED)


def refused(book: Book, name: str, service: SelfService = OPEN, **more: Any) -> Refusal:
    tables = ("requests", "users", "keys", "entries", "audit")
    before = [book.rows(f"SELECT * FROM {table}") for table in tables]
    with pytest.raises((Refusal, UsageError)) as caught:
        ask(book, name, service, **more)
    assert [book.rows(f"SELECT * FROM {table}") for table in tables] == before
    return caught.value  # type: ignore[return-value]


def approve(book: Book, number: int, service: SelfService = ASK, *, existing: bool = False) -> None:
    with book.write(NOON) as tx:
        requests.approve(tx, service, number, NONE, Billing.METERED, existing=existing)


def take(book: Book, secret: str | None, service: SelfService = ASK, now_ms: int = NOON) -> keys.Issued | None:
    assert secret is not None
    with book.write(now_ms) as tx:
        return requests.take(tx, service, secret)[1]


def user(book: Book, name: str) -> None:
    with book.write(NOON) as tx:
        accounts.add_user(tx, name)
        keys.add(tx, name)


# ── open ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_open_gives_a_key_at_once(book: Book) -> None:
    service = SelfService(
        mode="open",
        plan="small",
        credits="5",  # type: ignore[arg-type]
        limits=("$1/day",),
        models=("gpt*",),
        expires="90d",
        team="guests",
    )
    policy = Policy(plans={"small": Plan(name="small", price_nano=0, limits=(), models=())}, limits=(), alert_at=())
    with book.write(NOON) as tx:
        accounts.add_team(tx, "guests")
    with book.write(NOON) as tx:
        asked = requests.ask(tx, service, "ann", " for the course ", "::ffff:203.0.113.9", policy, Billing.METERED)
    assert asked.secret is None
    assert asked.issued is not None
    assert (asked.row["status"], asked.row["address"]) == ("done", "203.0.113.9")
    with book.db.read() as tx:
        key, owner = keys.key_row(tx, asked.issued.id), accounts.user_row(tx, "ann")
        assert (key["models"], key["expires_ms"], key["note"]) == ('["gpt*"]', NOON + 90 * DAY_MS, "for the course")
        assert (owner["plan"], owner["team"], owner["billing"]) == ("small", "guests", "prepaid")
        assert ledger.balance(tx, owner["account_id"]) == 5_000_000_000
        assert [str(one) for one in limits.own_of(tx, ("key", key["id"]))] == ["$1/day"]


def test_open_never_gives_a_key_of_a_user_who_is_there(book: Book) -> None:
    user(book, "Alice")
    for twin in ("Alice", "alice", "ALICE"):
        assert refused(book, twin).code == "conflict"
    ask(book, "bob")
    assert refused(book, "BOB", address="203.0.113.10").code == "conflict"


@pytest.mark.parametrize("name", ["", "a b", "team:x", "-x", "x" * 65, "<b>x</b>", "a\x00b", "sk-lg-abc", "ä"])
def test_names_are_checked(book: Book, name: str) -> None:
    assert refused(book, name).code == "usage_error"
    assert refused(book, name, ASK).code == "usage_error"


def test_what_is_given_is_there(book: Book) -> None:
    with pytest.raises(Failure, match="tell your admin"):
        ask(book, "ann", SelfService(mode="open", team="nobodies"))
    assert book.rows("SELECT * FROM users") == []


# ── caps ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_one_address_gets_what_its_cap_says(book: Book) -> None:
    for number in range(3):
        ask(book, f"farm{number}", now_ms=NOON + number)
    error = refused(book, "farm3", now_ms=NOON + 1000)
    assert error.code == "rate_limited"
    assert dict(error.headers)["retry-after"] == "86399"
    ask(book, "elsewhere", address="203.0.113.10", now_ms=NOON + 1000)
    refused(book, "farm3", now_ms=NOON + DAY_MS - 1)
    ask(book, "farm3", now_ms=NOON + DAY_MS)
    refused(book, "farm4", now_ms=NOON + DAY_MS)
    ask(book, "farm4", now_ms=NOON + DAY_MS + 1)


def test_a_network_of_ipv6_is_one_address(book: Book) -> None:
    for number, address in enumerate(("2001:db8::1", "2001:db8::ffff", "2001:db8:0:0:abcd::1")):
        ask(book, f"farm{number}", address=address)
    assert refused(book, "farm3", address="2001:db8::2").code == "rate_limited"
    ask(book, "farm3", address="2001:db8:0:1::1")


@pytest.mark.parametrize(
    ("address", "whose"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("::FFFF:cb00:7109", "203.0.113.9"),
        ("2001:DB8::1", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("fe80::2%eth1", "fe80::/64"),
        ("", ""),
        ("unknown", "unknown"),
    ],
)
def test_whose_address_it_is(address: str, whose: str) -> None:
    assert requests.subscriber(address) == whose


def test_names_that_differ_in_capitals_are_one(book: Book) -> None:
    ask(book, "ann", ASK, address="203.0.113.1")
    ask(book, "ANN", ASK, address="203.0.113.2")
    assert refused(book, "Ann", ASK, address="203.0.113.3").code == "rate_limited"


def test_only_so_many_wait(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "MOST_WAITING", 2)
    ask(book, "a", ASK, address="203.0.113.1")
    ask(book, "b", ASK, address="203.0.113.2")
    assert refused(book, "c", ASK, address="203.0.113.3").code == "rate_limited"
    with book.write(NOON) as tx:
        requests.deny(tx, 1)
    ask(book, "c", ASK, address="203.0.113.3")


ASKER = """
import sys
from pathlib import Path
from llmgate.config import SelfService
from llmgate.errors import Refusal
from llmgate.plans import NONE
from llmgate.store import requests
from llmgate.store.db import Database
from llmgate.types import Billing

service = SelfService(mode="open", credits="1", per_address="7/day")
with Database(Path(sys.argv[1])) as db:
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(10):
        try:
            with db.write() as tx:
                requests.ask(tx, service, f"{sys.argv[2]}{number}", None, "203.0.113.9", NONE, Billing.METERED)
        except Refusal as error:
            assert error.code == "rate_limited", error
"""


def test_two_processes_at_once_get_exactly_the_cap(book: Book) -> None:
    def asker(name: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", ASKER, str(book.path), name]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    with asker("left") as left, asker("right") as right:
        for one in (left, right):
            assert one.stdout is not None
            assert one.stdout.readline() == "ready\n"
        for one in (left, right):
            assert one.stdin is not None
            one.stdin.write("\n")
            one.stdin.close()
        assert [one.wait(60) for one in (left, right)] == [0, 0]
    assert book.value("SELECT count(*) FROM requests") == 7
    assert book.value("SELECT count(*) FROM users") == 7
    assert book.value("SELECT sum(amount_nano) FROM entries") == 7_000_000_000
    assert book.findings() == []


# ── approval ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_request_waits_is_approved_and_fetched_once(book: Book) -> None:
    asked = ask(book, "ann", ASK, note="thesis")
    assert asked.issued is None
    assert book.value("SELECT count(*) FROM users") == 0
    assert take(book, asked.secret) is None
    approve(book, 1)
    assert book.value("SELECT count(*) FROM keys") == 0
    issued = take(book, asked.secret)
    assert issued is not None
    assert keys.authenticate(book.tx, keys.hash_key(issued.key)).user == "ann"
    with pytest.raises(Refusal, match="fetched already") as caught:
        take(book, asked.secret)
    assert caught.value.code == "conflict"
    kept = b"".join(file.read_bytes() for file in book.path.parent.glob("llmgate.db*") if file.is_file())
    assert issued.key[:12].encode() in kept
    assert issued.key.encode() not in kept
    assert str(asked.secret).encode() not in kept
    assert book.money("ann")[0] == 5_000_000_000
    acts = [(act["action"], act["target"]) for act in audit.acts(book.tx)]
    assert acts == [("users.add", "ann"), ("credits.add", "ann"), ("requests.approve", "1"), ("keys.add", issued.id)]


def test_a_denied_one_gets_nothing(book: Book) -> None:
    asked = ask(book, "ann", ASK)
    with book.write(NOON) as tx:
        assert requests.deny(tx, 1)["status"] == "denied"
    assert take(book, asked.secret) is None
    approve(book, 1)
    with book.write(NOON) as tx:
        requests.deny(tx, 1)
    assert take(book, asked.secret) is None
    assert book.rows("SELECT * FROM keys") == []


def test_what_is_done_is_done(book: Book) -> None:
    asked = ask(book, "ann", ASK)
    approve(book, 1)
    with pytest.raises(Refusal, match="approved already"):
        approve(book, 1)
    take(book, asked.secret)
    with book.write(NOON) as tx:
        with pytest.raises(Refusal, match="has got what it asked for"):
            requests.deny(tx, 1)
        with pytest.raises(Refusal, match="there is no request 2"):
            requests.request_row(tx, 2)
    with pytest.raises(Refusal):
        approve(book, 1)


def test_a_stranger_gets_no_key_of_a_user_unless_an_admin_knows(book: Book) -> None:
    user(book, "alice")
    asked = ask(book, "alice", ASK)
    with pytest.raises(Refusal, match=r"alice is there already.*203\.0\.113\.9"):
        approve(book, 1)
    assert take(book, asked.secret) is None
    approve(book, 1, existing=True)
    issued = take(book, asked.secret)
    assert issued is not None
    assert issued.user == "alice"
    assert book.money("alice") == (0, 0), "credits are for who is new"


def test_a_twin_is_never_approved(book: Book) -> None:
    user(book, "alice")
    ask(book, "Alice", ASK)
    with pytest.raises(Refusal, match="deny request 1"):
        approve(book, 1, existing=True)


def test_two_requests_for_one_new_name_are_not_one_user(book: Book) -> None:
    ask(book, "ann", ASK, address="203.0.113.1")
    second = ask(book, "ann", ASK, address="203.0.113.2")
    approve(book, 1)
    with pytest.raises(Refusal, match="is there already"):
        approve(book, 2)
    assert take(book, second.secret) is None
    assert book.value("SELECT count(*) FROM entries") == 1


def test_another_key_has_no_more_than_the_first(book: Book) -> None:
    service = SelfService(mode="approval", limits=("2 requests/day",), models=("gpt*",))
    secrets = [ask(book, "ann", service, address=f"203.0.113.{number}").secret for number in (1, 2)]
    for number in (1, 2):
        approve(book, number, service, existing=number == 2)
    first, second = (take(book, secret, service) for secret in secrets)
    assert first is not None
    assert second is not None
    clocked = Clocked(book)
    clocked.use(first.key)
    clocked.use(second.key)
    assert clocked.refused(first.key).code == clocked.refused(second.key).code == "rate_limited"


def test_nobody_is_let_in_who_was_shut_out_meanwhile(book: Book) -> None:
    asked = ask(book, "ann", ASK)
    approve(book, 1)
    with pytest.raises(Refusal, match="too long ago"):
        take(book, asked.secret, now_ms=NOON + requests.FETCH_MS)
    with book.write(NOON) as tx:
        accounts.set_user(tx, "ann", {"status": "disabled"})
    with pytest.raises(Refusal) as caught:
        take(book, asked.secret)
    assert caught.value.code == "user_disabled"


def test_a_secret_that_is_none(book: Book) -> None:
    ask(book, "ann", ASK)
    for secret in ("", "x", "sk-lg-request-" + "A" * 49, keys.new_key(), keys.new_key(requests.PREFIX)):
        with pytest.raises(Refusal) as caught:
            take(book, secret)
        assert caught.value.code == "not_found"


# ── to be a user ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_somebody_an_issuer_vouches_for(book: Book) -> None:
    def come(subject: str = "1", name: str = "ann") -> dict[str, Any]:
        with book.write(NOON) as tx:
            given = {"issuer": "https://id.example", "subject": subject, "email": "ann@x.org", "address": "203.0.113.9"}
            return dict(requests.to_be_user(tx, name, **given))

    assert [come()["id"] for _ in range(5)] == [1] * 5
    with book.write(NOON) as tx:
        requests.deny(tx, 1)
    assert come()["status"] == "denied"
    approve(book, 1)
    assert book.value("SELECT status FROM requests") == "done"
    assert book.rows("SELECT issuer, subject, email FROM identities") == [
        {"issuer": "https://id.example", "subject": "1", "email": "ann@x.org"}
    ]
    assert book.value("SELECT email FROM users WHERE name = 'ann'") == "ann@x.org"
    assert book.value("SELECT count(*) FROM keys") == 0
    assert come("2")["id"] == 2
    with pytest.raises(Refusal, match="deny request 2"):
        approve(book, 2, existing=True)


def test_who_is_approved_to_be_a_user_gets_no_more_than_self_service_gives(book: Book) -> None:
    """Such a user has no key yet, and makes all of its keys alone: not without what the config puts on a key."""
    service = SelfService(mode="approval", limits=("$5/month",), models=("gpt-4o-mini",), expires="90d")
    with book.write(NOON) as tx:
        requests.to_be_user(
            tx, "ann", issuer="https://id.example", subject="1", email="ann@x.org", address="203.0.113.9"
        )
    approve(book, 1, service)
    with book.write(NOON) as tx:
        issued = [selfmade.make(tx, "ann"), selfmade.make(tx, "ann")]
        with pytest.raises(Refusal, match="no model is allowed"):
            selfmade.make(tx, "ann", selfmade.Wish(models=["gpt-5"]))
    with book.db.read() as tx:
        rows = [keys.key_row(tx, one.id) for one in issued]
        (given,) = {key_id for one in issued for key_id in limits.above(tx, one.id)}
        assert [str(limit) for limit in limits.own_of(tx, ("key", given))] == ["$5/month"]
        with pytest.raises(Refusal, match="nobody has asked for a key"):
            requests.public_keys(tx, "ann")
    assert [row["models"] for row in rows] == ['["gpt-4o-mini"]'] * 2
    assert {row["expires_ms"] for row in rows} == {NOON + 90 * 86_400_000}


# ── what a stranger sees ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_stranger_sees_masks_of_what_was_asked_for(book: Book) -> None:
    def seen(name: str) -> list[tuple[str, str]]:
        with book.db.read() as tx:
            return [(one.key, one.status) for one in requests.public_keys(tx, name)]

    issued = ask(book, "ann").issued
    assert issued is not None
    assert seen("ann") == [(f"{issued.key[:10]}…{issued.key[-4:]}", "active")]
    with book.write(NOON) as tx:
        selfmade.make(tx, "ann")
        keys.set_state(tx, issued.id, "revoke")
    assert seen("ann") == [(f"{issued.key[:10]}…{issued.key[-4:]}", "revoked")]
    user(book, "alice")
    ask(book, "wait", ASK)
    for name in ("alice", "wait", "nobody", "ANN", "%", "a\x00"):
        with pytest.raises(Refusal) as caught:
            seen(name)
        assert caught.value.code == "not_found"


def test_listing(book: Book) -> None:
    user(book, "alice")
    for number, name in enumerate(("alice", "ann")):
        ask(book, name, ASK, now_ms=NOON + number)
    approve(book, 2)

    def listed(**more: bool) -> list[tuple[str, str, int]]:
        with book.db.read() as tx:
            rows = requests.list_requests(tx, **more)
            return [(row["username"], row["status"], row["existing"]) for row in rows]

    assert listed() == [("alice", "waiting", 1)]
    assert listed(decided=True) == [("alice", "waiting", 1), ("ann", "approved", 1)]
