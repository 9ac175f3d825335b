"""The limits that hold, how far each is used up, and who set it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ...admin import answers
from ...plans import Policy
from ...store import keys, limits
from ...store.db import Row, Tx
from ...store.limits import Subject


class Held(NamedTuple):
    """A limit, for whom it holds, and where it comes from."""

    whom: str
    told: answers.Limit
    source: str
    soft: bool
    """It is what the plan includes: past it tokens are charged, not refused."""


SOURCES = {
    "key": "set on the key",
    "user": "your admin",
    "team": "your admin",
    "plan": "the plan",
    "default": "the default",
    "lead": "the team's lead",
}


def of_user(tx: Tx, policy: Policy, user: Row, whose: Iterable[Row], *, you: str = "you") -> list[Held]:
    """All that hold for a user, for the user's team, and for these keys of the user's."""
    found = _of(tx, policy, ("user", str(user["id"])), f"{you}, with all keys")
    if user["team_id"] is not None:
        found += of_team(tx, policy, user["team_id"])
    return found + of_keys(tx, policy, [key["id"] for key in whose])


def of_team(tx: Tx, policy: Policy, team_id: int) -> list[Held]:
    return _of(tx, policy, ("team", str(team_id)), "the whole team")


def of_keys(tx: Tx, policy: Policy, key_ids: Iterable[str]) -> list[Held]:
    """Those of keys, and of the keys that they are under: these count all that are under them."""
    every = dict.fromkeys(one for key_id in key_ids for one in (key_id, *limits.above(tx, key_id)))
    found = []
    for key_id in every:
        for one in _of(tx, policy, ("key", key_id), ""):
            below = limits.below(tx, key_id)
            named = f"key {keys.key_row(tx, key_id)['name']}"
            found.append(one._replace(whom=f"{named}, with {below} made from it" if below else named))
    return found


def _of(tx: Tx, policy: Policy, subject: Subject, whom: str) -> list[Held]:
    return [
        Held(whom, answers.limit(one), SOURCES[one.standing.source], one.standing.soft)
        for one in limits.of(tx, policy, subject)
    ]
