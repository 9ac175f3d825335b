"""Keys: their form, what is kept of them, and every reason to turn one away."""

from __future__ import annotations

import hashlib
import re
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgate.errors import Refusal, UsageError
from llmgate.store import accounts, audit, keys
from llmgate.store.db import Database
from llmgate.store.keys import BASE62, LENGTH, PREFIX, Caller, hash_key, new_id, new_key, well_formed
from llmgate.store.ledger import add as add_credits
from llmgate.types import Meters

from ..books import Book

HOUR_MS = 3_600_000


# ── the form of a key ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_key_is_a_prefix_256_random_bits_and_a_checksum() -> None:
    found = {new_key() for _ in range(50)}
    assert len(found) == 50
    for key in found:
        assert re.fullmatch(r"sk-lg-[0-9A-Za-z]{43}[0-9A-Za-z]{6}", key)
        assert well_formed(key)
    assert 62**43 > 2**256
    assert len({key[:6] + key[6] for key in found}) > 10, "what follows the prefix is random"


def test_a_key_that_was_issued_once_is_well_formed_for_ever() -> None:
    """The checksum must never change: keys are in use."""
    assert well_formed("sk-lg-0000000000000000000000000000000000000000000xLdBv0")


def checksum(random: str) -> str:
    """CRC-32 of all before it, in base 62, its least digit first: written out again, from the description."""
    number = zlib.crc32(f"sk-lg-{random}".encode())
    return "".join(BASE62[number // 62**place % 62] for place in range(6))


randoms = st.text(BASE62, min_size=43, max_size=43)


@given(randoms)
def test_the_checksum_is_what_it_is_described_as(random: str) -> None:
    assert well_formed(f"{PREFIX}{random}{checksum(random)}")


@given(randoms, st.integers(0, LENGTH - 1), st.one_of(st.sampled_from(BASE62), st.characters()))
def test_no_single_wrong_character_makes_another_key(random: str, at: int, wrong: str) -> None:
    key = f"{PREFIX}{random}{checksum(random)}"
    typo = key[:at] + wrong + key[at + 1 :]
    assert well_formed(typo) == (typo == key)


@given(randoms, st.integers(0, LENGTH - 2))
def test_no_two_characters_that_changed_places_make_another_key(random: str, at: int) -> None:
    key = f"{PREFIX}{random}{checksum(random)}"
    typo = key[:at] + key[at + 1] + key[at] + key[at + 2 :]
    assert well_formed(typo) == (typo == key)


@given(randoms, st.integers(0, LENGTH))
def test_a_lost_or_added_character_is_noticed(random: str, at: int) -> None:
    key = f"{PREFIX}{random}{checksum(random)}"
    assert not well_formed(key[:at] + "x" + key[at:])
    assert at == LENGTH or not well_formed(key[:at] + key[at + 1 :])


@pytest.mark.parametrize("key", ["", "sk-lg-", "sk-" + "a" * 52, "sk-lg-" + "a" * 49, "sk-lg-" + "ä" * 49])
def test_what_is_no_key_at_all(key: str) -> None:
    assert not well_formed(key)


def test_an_id_is_short_and_has_nothing_to_confuse() -> None:
    ids = {new_id() for _ in range(200)}
    assert len(ids) == 200
    assert all(re.fullmatch(r"k-[2-9a-hjkmnp-z]{8}", one) for one in ids)


def test_the_hash_is_sha256() -> None:
    assert hash_key("sk-lg-x") == hashlib.sha256(b"sk-lg-x").digest()


# ── what is kept ──────────────────────────────────────────────────────────────────────────────────────────────────────


def everything_on_disk(book: Book) -> bytes:
    return b"".join(file.read_bytes() for file in book.path.parent.glob("llmgate.db*") if file.is_file())


def test_no_key_is_in_the_database_in_clear(book: Book) -> None:
    with book.write() as tx:
        accounts.add_user(tx, "alice")
        issued = keys.add(tx, "alice", note="for the laptop")
        rotated = keys.rotate(tx, issued.id, grace_ms=HOUR_MS)
    book.use(rotated.key, Meters(input=1, calls=1))
    for _ in range(2):  # as it lies in the log, and merged into the file
        content = everything_on_disk(book)
        assert b"for the laptop" in content
        for key in (issued.key, rotated.key):
            assert hash_key(key) in content
            assert key[:12].encode() in content or key == issued.key, "what its owner recognises it by"
            assert key[:13].encode() not in content
            assert key[6:20].encode() not in content
            assert key[-12:].encode() not in content
        book.db.conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def test_a_key_has_what_was_said_of_it(book: Book) -> None:
    book.user("alice")
    with book.write(now_ms=1000) as tx:
        issued = keys.add(
            tx,
            "alice",
            name="laptop",
            models=["gpt-4o*", "openai/*"],
            ips=["10.0.0.7", "192.168.1.9/24", "2001:db8::1/32"],
            tags={"job": "42"},
            note="old",
            expires_ms=5000,
        )
        row = keys.key_row(tx, issued.id)
        caller = keys.authenticate(tx, hash_key(issued.key))
    assert (issued.user, issued.name) == ("alice", "laptop")
    assert (row["user"], row["name"], row["note"], row["created_ms"], row["expires_ms"]) == (
        *("alice", "laptop", "old", 1000, 5000),
    )
    assert row["prefix"] == issued.key[:12]
    assert caller.models == ("gpt-4o*", "openai/*")
    assert caller.ips == ("10.0.0.7/32", "192.168.1.0/24", "2001:db8::/32")
    assert (caller.key_id, caller.key_name, caller.user, caller.tags) == (issued.id, "laptop", "alice", {"job": "42"})


def test_keys_are_named_in_turn(book: Book) -> None:
    book.user("alice")
    with book.write() as tx:
        assert [keys.add(tx, "alice").name for _ in range(3)] == ["default-2", "default-3", "default-4"]
        keys.change(tx, "alice/default-2", {"name": "laptop"})
        assert keys.add(tx, "alice").name == "default-2"
        with pytest.raises(Refusal, match="alice has a key named laptop already") as caught:
            keys.add(tx, "alice", name="laptop")
        assert caught.value.code == "conflict"
        with pytest.raises(UsageError, match="is no name for a key"):
            keys.add(tx, "alice", name="a/b")
        with pytest.raises(UsageError, match="is no address and no network"):
            keys.add(tx, "alice", ips=["10.0.0.256"])
        with pytest.raises(Refusal, match="there is no user 'bob'"):
            keys.add(tx, "bob")


# ── naming a key ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_key_is_named_by_its_id_or_its_user(book: Book) -> None:
    book.user("alice")
    book.user("bob")
    with book.write() as tx:
        laptop = keys.add(tx, "alice", name="laptop")
        assert keys.key_row(tx, laptop.id)["id"] == laptop.id
        assert keys.key_row(tx, "alice/laptop")["id"] == laptop.id
        assert keys.key_row(tx, "bob")["name"] == "default"
        with pytest.raises(Refusal, match="alice has more than one key: name it as user/name or by its id"):
            keys.key_row(tx, "alice")
        keys.set_state(tx, "alice/default", "revoke")
        assert keys.key_row(tx, "alice")["id"] == laptop.id
        for unknown in ("carl", "alice/phone", "k-22222222", "bob/laptop"):
            with pytest.raises(Refusal, match="there is no key") as caught:
                keys.key_row(tx, unknown)
            assert caught.value.code == "not_found"
        with pytest.raises(UsageError, match="never by the key itself") as told:
            keys.key_row(tx, laptop.key)
        assert laptop.key not in told.value.message


def test_listing_leaves_out_the_dead(book: Book) -> None:
    book.user("alice")
    book.user("bob")
    with book.write(now_ms=1000) as tx:
        keys.add(tx, "alice", name="old", expires_ms=2000)
        keys.add(tx, "alice", name="lost")
        keys.set_state(tx, "alice/lost", "revoke")
        keys.set_state(tx, "bob", "disable")

    def listed(now_ms: int, **filters: Any) -> list[tuple[str, str]]:
        with book.write(now_ms=now_ms) as tx:
            return sorted((f"{row['user']}/{row['name']}", row["state"]) for row in keys.list_keys(tx, **filters))

    living = [("alice/default", "active"), ("bob/default", "disabled")]
    assert listed(1999) == sorted([*living, ("alice/old", "active")])
    assert listed(2000) == living
    assert listed(2000, dead=True) == sorted([*living, ("alice/old", "expired"), ("alice/lost", "revoked")])
    assert listed(2000, user="bob") == living[1:]
    assert listed(2000, user="alice", dead=True) == sorted(
        [living[0], ("alice/old", "expired"), ("alice/lost", "revoked")]
    )
    with pytest.raises(Refusal, match="there is no user"):
        listed(2000, user="carl")


# ── who is let in ─────────────────────────────────────────────────────────────────────────────────────────────────────


def enter(book: Book, key: str, now_ms: int = 1000) -> Caller | str:
    """The caller behind a key, or the code that it is refused with."""
    with book.write(now_ms=now_ms) as tx:
        try:
            return keys.authenticate(tx, hash_key(key))
        except Refusal as error:
            refused = error
    assert refused.http_status == (403 if refused.code == "user_disabled" else 401)
    assert "sk-lg-" not in refused.message
    return refused.code


def test_an_unknown_key_is_refused(book: Book) -> None:
    book.user("alice")
    assert enter(book, new_key()) == "invalid_key"
    assert enter(book, "") == "invalid_key"


@pytest.mark.parametrize(
    ("verbs", "code"),
    [(["revoke"], "key_revoked"), (["disable"], "key_disabled"), (["disable", "revoke"], "key_revoked")],
)
def test_a_dead_key_is_refused(book: Book, verbs: list[str], code: str) -> None:
    key = book.user("alice")
    with book.write() as tx:
        for verb in verbs:
            keys.set_state(tx, "alice/default", verb)
    assert enter(book, key) == code


def test_an_enabled_key_is_let_in_again(book: Book) -> None:
    key = book.user("alice")
    with book.write() as tx:
        keys.set_state(tx, "alice", "disable")
        assert keys.set_state(tx, "alice", "enable")["status"] == "active"
    assert isinstance(enter(book, key), Caller)


def test_a_disabled_user_is_refused_with_every_key(book: Book) -> None:
    key = book.user("alice")
    with book.write() as tx:
        other = keys.add(tx, "alice").key
        accounts.set_user(tx, "alice", {"status": "disabled"})
    assert [enter(book, one) for one in (key, other)] == ["user_disabled", "user_disabled"]
    with book.write() as tx:
        accounts.set_user(tx, "alice", {"status": "active"})
    assert isinstance(enter(book, key), Caller)


def test_what_is_revoked_stays_so(book: Book) -> None:
    key = book.user("alice")
    with book.write() as tx:
        keys.set_state(tx, "alice/default", "revoke")
        assert keys.set_state(tx, "alice/default", "revoke")["status"] == "revoked"
        for verb in ("enable", "disable"):
            with pytest.raises(Refusal, match="is revoked for good: issue another with `llmgate keys add alice`"):
                keys.set_state(tx, "alice/default", verb)
        with pytest.raises(Refusal, match="is revoked for good"):
            keys.rotate(tx, "alice/default", grace_ms=HOUR_MS)
    assert enter(book, key) == "key_revoked"


@pytest.mark.parametrize(("now_ms", "code"), [(0, None), (4999, None), (5000, "key_expired"), (5001, "key_expired")])
def test_a_key_expires_at_its_millisecond(book: Book, now_ms: int, code: str | None) -> None:
    entered = enter(book, book.user("alice", expires_ms=5000), now_ms)
    assert entered == code if code else isinstance(entered, Caller)


def test_an_expired_key_can_be_given_more_time(book: Book) -> None:
    key = book.user("alice", expires_ms=5000)
    assert enter(book, key, 6000) == "key_expired"
    with book.write() as tx:
        keys.change(tx, "alice/default", {"expires_ms": None})
    assert isinstance(enter(book, key, 6000), Caller)


# ── rotation ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def rotate(book: Book, now_ms: int, grace_ms: int = 0) -> str:
    with book.write(now_ms=now_ms) as tx:
        return keys.rotate(tx, "alice/default", grace_ms=grace_ms).key


def test_rotation_keeps_the_id_and_kills_the_old_key_at_once(book: Book) -> None:
    old = book.user("alice")
    before = enter(book, old)
    new = rotate(book, 1000)
    after = enter(book, new)
    assert isinstance(before, Caller)
    assert isinstance(after, Caller)
    assert before.key_id == after.key_id
    assert enter(book, old) == "invalid_key"
    assert keys.key_row(book.tx, "alice")["prefix"] == new[:12]


@pytest.mark.parametrize(("now_ms", "code"), [(1000, None), (1499, None), (1500, "key_expired"), (9999, "key_expired")])
def test_a_grace_ends_at_its_millisecond(book: Book, now_ms: int, code: str | None) -> None:
    old = book.user("alice")
    new = rotate(book, 1000, grace_ms=500)
    entered = enter(book, old, now_ms)
    assert entered == code if code else isinstance(entered, Caller)
    assert isinstance(enter(book, new, now_ms), Caller)


def test_a_second_rotation_leaves_the_last_two_keys(book: Book) -> None:
    first = book.user("alice")
    second = rotate(book, 1000, grace_ms=500)
    third = rotate(book, 1100, grace_ms=500)
    assert enter(book, first, 1200) == "invalid_key"
    assert isinstance(enter(book, second, 1200), Caller)
    assert isinstance(enter(book, third, 1200), Caller)
    assert enter(book, second, 1600) == "key_expired"


def test_revoking_ends_a_grace(book: Book) -> None:
    old = book.user("alice")
    new = rotate(book, 1000, grace_ms=HOUR_MS)
    with book.write() as tx:
        keys.set_state(tx, "alice/default", "revoke")
    assert enter(book, old) == "invalid_key"
    assert enter(book, new) == "key_revoked"


def test_disabling_and_expiry_hold_in_grace_too(book: Book) -> None:
    old = book.user("alice", expires_ms=5000)
    rotate(book, 1000, grace_ms=HOUR_MS)
    assert enter(book, old, 5000) == "key_expired"
    with book.write() as tx:
        keys.set_state(tx, "alice/default", "disable")
    assert enter(book, old) == "key_disabled"


# ── what a key may do ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("globs", "names", "allowed"),
    [
        ([], ("gpt-4o",), True),
        (["gpt-4o"], ("gpt-4o", "openai/gpt-4o"), True),
        (["gpt-4o"], ("gpt-4o-mini", "openai/gpt-4o-mini"), False),
        (["gpt-4o*"], ("gpt-4o-mini",), True),
        (["openai/*"], ("gpt-4o", "openai/gpt-4o"), True),
        (["openai/*"], ("openai", "azure/openai"), False),
        (["*-mini", "claude-*"], ("claude-sonnet",), True),
        (["*-mini", "claude-*"], ("gpt-4o",), False),
        (["gpt-[45]*"], ("gpt-5",), True),
        (["gpt-?o"], ("gpt-4o",), True),
        (["GPT-4o"], ("gpt-4o",), False),
        (["gpt-4.1"], ("gpt-4x1",), False),
        (["*"], ("anything/at:all",), True),
    ],
)
def test_globs(book: Book, globs: list[str], names: tuple[str, ...], allowed: bool) -> None:
    caller = enter(book, book.user("alice", models=globs))
    assert isinstance(caller, Caller)
    assert caller.may_use(names) is allowed


def test_a_caller_has_its_teams_and_its_accounts_facts(book: Book) -> None:
    book.team("ops", credits=700)
    key = book.user("alice", team="ops")
    with book.write() as tx:
        accounts.set_user(tx, "alice", {"plan": "pro"})
    book.place(key, now_ms=1_000_000, bound=100, output=50)
    caller = enter(book, key)
    assert isinstance(caller, Caller)
    assert (caller.team, caller.plan, caller.prepaid, caller.account_kind) == ("ops", "pro", True, "team")
    assert (caller.balance_nano, caller.held_nano, caller.last_used_ms) == (700, 200, 1_000_000)


# ── changes ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_key_is_changed(book: Book) -> None:
    key = book.user("alice")
    with book.write() as tx:
        changes = {"name": "phone", "models": ["a*"], "ips": ["10.1.2.3/8"], "tags": {"x": "y"}, "note": "n"}
        row = keys.change(tx, "alice", changes)
        assert (row["name"], row["note"]) == ("phone", "n")
        assert keys.change(tx, "alice", {"name": "phone"})["name"] == "phone", "its own name is no clash"
        keys.add(tx, "alice", name="laptop")
        with pytest.raises(Refusal, match="alice has a key named laptop already"):
            keys.change(tx, "alice/phone", {"name": "laptop"})
        with pytest.raises(UsageError):
            keys.change(tx, "alice/phone", {"name": "a b"})
        with pytest.raises(UsageError):
            keys.change(tx, "alice/phone", {"ips": ["nowhere"]})
    caller = enter(book, key)
    assert isinstance(caller, Caller)
    assert (caller.models, caller.ips, caller.tags) == (("a*",), ("10.0.0.0/8",), {"x": "y"})


def test_every_act_is_in_the_audit_and_no_key_is(book: Book) -> None:
    key = book.user("alice")
    with book.write() as tx:
        keys.change(tx, "alice", {"note": "n"})
        rotated = keys.rotate(tx, "alice", grace_ms=5)
        for verb in ("disable", "enable", "revoke"):
            keys.set_state(tx, "alice/default", verb)
    rows = [dict(row) for row in audit.acts(book.tx)]
    assert [row["action"] for row in rows] == [
        *("users.add", "keys.add", "keys.set", "keys.rotate", "keys.disable", "keys.enable", "keys.revoke"),
    ]
    for secret in (key, rotated.key):
        assert secret[6:] not in str(rows)


def test_a_key_that_is_revoked_by_another_process_is_refused_at_the_next_look(book: Book) -> None:
    key = book.user("alice")
    assert isinstance(enter(book, key), Caller)
    with Database(book.path) as other, other.write() as tx:
        keys.set_state(tx, "alice", "revoke")
        add_credits(tx, "alice", 5)
    assert enter(book, key) == "key_revoked"
