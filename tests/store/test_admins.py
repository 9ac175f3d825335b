"""Admin keys: made, found by their hash, ended; and what each scope covers."""

from __future__ import annotations

import pytest

from llmgate.errors import Refusal, UsageError
from llmgate.store import admins, audit, keys
from llmgate.store.admins import Scope

from ..books import Book


def test_a_key_is_known_until_it_is_revoked(book: Book) -> None:
    with book.write() as tx:
        key = admins.add(tx, "ops", Scope.KEYS)
        assert keys.well_formed(key, admins.PREFIX)
        assert not keys.well_formed(key), "no user's key"
        found = admins.authenticate(tx, keys.hash_key(key))
        assert (found.name, found.scope, found.actor) == ("ops", Scope.KEYS, "admin:ops")
        assert tx.value("SELECT count(*) FROM admins WHERE instr(hash, ?) OR instr(prefix, ?)", key, key) == 0
        admins.revoke(tx, "ops")
        with pytest.raises(Refusal) as refused:
            admins.authenticate(tx, keys.hash_key(key))
        assert refused.value.code == "key_revoked"
        with pytest.raises(Refusal) as refused:
            admins.authenticate(tx, keys.hash_key(keys.new_key(admins.PREFIX)))
        assert refused.value.code == "invalid_key"
        acts = [(act["action"], act["target"]) for act in audit.acts(tx)]
        assert acts == [("admins.add", "ops"), ("admins.revoke", "ops")]


def test_a_name_has_one_key_and_may_get_another(book: Book) -> None:
    with book.write() as tx:
        first = admins.add(tx, "ops", Scope.READ)
        with pytest.raises(Refusal, match="has a key already"):
            admins.add(tx, "ops", Scope.ALL)
        admins.revoke(tx, "ops")
        second = admins.add(tx, "ops", Scope.ALL)
        assert admins.authenticate(tx, keys.hash_key(second)).scope is Scope.ALL
        with pytest.raises(Refusal):
            admins.authenticate(tx, keys.hash_key(first))
        assert len(admins.list_admins(tx, dead=True)) == 1


@pytest.mark.parametrize("name", ["env", "", "two words", "-x", "<b>", "a" * 65])
def test_names_that_nobody_may_have(book: Book, name: str) -> None:
    with book.write() as tx, pytest.raises(UsageError):
        admins.add(tx, name, Scope.ALL)


def test_what_scopes_cover() -> None:
    covered = {scope: {needed for needed in Scope if scope.covers(needed)} for scope in Scope}
    assert covered == {
        Scope.READ: {Scope.READ},
        Scope.KEYS: {Scope.READ, Scope.KEYS},
        Scope.CREDITS: {Scope.READ, Scope.CREDITS},
        Scope.ALL: set(Scope),
    }


def test_there_is_no_such_admin(book: Book) -> None:
    with book.write() as tx:
        for name in ("ops", "env"):
            with pytest.raises(Refusal) as refused:
                admins.revoke(tx, name)
            assert refused.value.code == "not_found"
