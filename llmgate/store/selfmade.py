"""Keys that users make for themselves, and what the lead of a team does for its members: each in one transaction.

A key that a user makes inherits the strictest of what the admin put on the user's keys. Invariants:

1. **Nothing is gained.** Whatever the new key may do, each key that it inherits from may do too: its models are among
   the models of each, its networks within those of each, and it ends with the first of them. An empty list means
   *all*, so where nothing is left in common there is no key. A glob is only taken for narrower than another where each
   name that it means is surely meant by that other one too: too strict rather than too loose.
2. **Nothing is multiplied.** The new key is put *under* the keys that it inherits from (see `limits`): their limits
   hold for it too, and what it uses counts there. A key of $5 a day with ten others made beside it may use $5 a day
   with all of them together. A copy of the limit on each new key would give $55, and a limit of the user's own in its
   place would replace the plan's, which may be tighter. A limit that the admin raises, lowers or takes off later is
   raised, lowered or taken off for all of them.
3. **Nothing is shed.** A key that was itself made by its user hands on what it is under, also when those keys have
   ended. Who revokes all its own keys makes the next one by the last of them. What an admin has revoked or disabled, or
   what has expired, is no ground for another key: where nothing else is left, only an admin gives one.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from .. import clock
from ..errors import Refusal
from ..limits import Limit, parse
from ..names import matches, quoted
from . import accounts, keys, limits
from .db import Row, Tx

MOST = 50
"""Living keys that a user may have, and still make another."""

MOST_LISTED = 40
"""Globs or networks that users name for a key; no list of two others' common ones grows past it. What a key inherits is
worked out pair by pair while nobody else can write, so however somebody words it, that must be done soon."""


class Wish(NamedTuple):
    """What is wanted of a new key: within what it inherits."""

    name: str | None = None
    models: Sequence[str] = ()
    ips: Sequence[str] = ()
    limits: Sequence[str] = ()
    expires: str | None = None
    """As people write it: `90d`, or a date."""
    note: str | None = None


ANY = Wish()


class Inherited(NamedTuple):
    """What holds for a key that is made now."""

    models: list[str]
    ips: list[str]
    tags: dict[str, str]
    expires_ms: int | None
    under: list[str]


# ── users and their own keys ──────────────────────────────────────────────────────────────────────────────────────────


def make(tx: Tx, user: str, wish: Wish = ANY, *, approved: bool = False) -> keys.Issued:
    """Make another key for a user. `approved`: an admin has said so, so that only living keys matter. Raises Refusal
    and UsageError.
    """
    owner = accounts.user_row(tx, user)
    if owner["status"] != "active":
        raise Refusal(f"user {user} is disabled: ask your admin", code="user_disabled")
    theirs = keys.list_keys(tx, user=user, dead=True)
    if sum(key["state"] in _LIVING for key in theirs) >= MOST:
        raise Refusal(f"{user} has {MOST} keys already: revoke one that isn't used", code="conflict")
    if not approved and max(len(wish.models), len(wish.ips), len(wish.limits)) > MOST_LISTED:
        raise Refusal(f"a key has at most {MOST_LISTED} models, addresses or limits of its own: name fewer")
    given = inherited(tx, _grounds(tx, user, theirs, approved=approved))
    asked_ms = clock.expires_ms(wish.expires, tx.now_ms, tx.zone) if wish.expires is not None else None
    ends = [ms for ms in (given.expires_ms, asked_ms) if ms is not None]
    issued = keys.add(
        tx,
        user,
        name=wish.name,
        models=common("models", given.models, wish.models),
        ips=common("ips", given.ips, keys.check_ips(list(wish.ips))),
        tags=given.tags,
        note=wish.note,
        expires_ms=min(ends, default=None),
    )
    tx.conn.executemany("INSERT INTO under (key_id, given_id) VALUES (?, ?)", [(issued.id, one) for one in given.under])
    if wish.limits:
        limits.hang(tx, f"key:{issued.id}", wish.limits)
    return issued


def key_of(tx: Tx, user: str, target: str) -> Row:
    """A key of a user's own, by its id or name. Another's is not there. Raises Refusal `not_found`."""
    row = tx.one(
        "SELECT k.id FROM keys k JOIN users u ON u.id = k.user_id WHERE u.name = ?1 AND ?2 IN (k.id, k.name) "
        "ORDER BY k.id <> ?2",  # no key is taken for another because it is called as that one's id
        *(user, target),
    )
    if row is None:
        raise Refusal(f"there is no key {quoted(target)}", code="not_found")
    return keys.key_row(tx, row["id"])


def note_of(tx: Tx, user: str, key: Row) -> str | None:
    """What a user has noted of a key, here or when it was asked for; what an admin has is none of the user's."""
    acts = (
        "SELECT actor FROM audit WHERE target = ? AND (action = 'keys.add' "
        "OR action = 'keys.set' AND json_type(after, '$.note') IS NOT NULL) ORDER BY id DESC LIMIT 1"
    )
    by = tx.value(acts, key["id"]) or ""
    return key["note"] if by == f"user:{user}" or by.partition(":")[0] == "public" else None


def rename(tx: Tx, user: str, target: str, name: str) -> Row:
    return keys.change(tx, key_of(tx, user, target)["id"], {"name": name})


def rotate(tx: Tx, user: str, target: str, *, grace_ms: int = 0, by: str | None = None) -> keys.Issued:
    """A new secret for a key that works. What an admin has disabled, and what has expired, stays so. `by`: the key that
    whoever asks is signed in with; whoever has it doesn't come by one that opens more.
    """
    key = _working(key_of(tx, user, target))
    if by is not None and not _opens_all(tx, keys.key_row(tx, by), key):
        raise Refusal(
            f"you are signed in with a key that may do less than {key['name']}: sign in with that one, or with a link "
            "that your admin makes (`llmgate users link`)",
            code="conflict",
        )
    return keys.rotate(tx, key["id"], grace_ms=grace_ms)


def _opens_all(tx: Tx, one: Row, other: Row) -> bool:
    """Whether a key surely opens all that another one does."""
    above = limits.above(tx, other["id"])
    if one["id"] in (other["id"], *above):
        return True
    if limits.own_of(tx, ("key", one["id"])) or not {*limits.above(tx, one["id"])} <= {*above}:
        return False
    for what in ("models", "ips"):
        has, wanted = (set(msgspec.json.decode(key[what])) for key in (one, other))
        if has and not (wanted and wanted <= has):
            return False
    return one["expires_ms"] is None or (other["expires_ms"] or one["expires_ms"] + 1) <= one["expires_ms"]


def revoke(tx: Tx, user: str, target: str) -> Row:
    """End a key for good. One that is disabled stays the admin's to decide on."""
    return keys.set_state(tx, _working(key_of(tx, user, target))["id"], "revoke")


def _working(key: Row) -> Row:
    if key["state"] != "active":
        raise Refusal(f"key {key['id']} is {key['state']}: ask your admin", code="conflict")
    return key


def check_may_sign_in(tx: Tx, user: str, key_id: str) -> None:
    """Raises Refusal for a key that somebody else was told who leads a team: it is for requests. Signed in with it,
    a lead would be the member, who may see what is its own and may lead another team.
    """
    told = "SELECT actor FROM audit WHERE action IN ('keys.add', 'keys.rotate') AND target = ? ORDER BY id DESC LIMIT 1"
    actor: str | None = tx.value(told, key_id)
    if actor is not None and actor.startswith("user:") and actor != f"user:{user}":
        raise Refusal(
            "this key was made by who leads a team, so it is for requests and doesn't sign in: use another key, "
            "or ask your admin for a link",
            code="page_not_allowed",
        )


# ── what is inherited ─────────────────────────────────────────────────────────────────────────────────────────────────

_LIVING = ("active", "disabled")


def _grounds(tx: Tx, user: str, theirs: Sequence[Row], *, approved: bool) -> list[Row]:
    """The keys whose terms a new one has; none where nobody ever put terms on any. Raises Refusal where what there was
    has ended, and not by its user.
    """
    living = [key for key in theirs if key["state"] in _LIVING]
    if any(key["state"] == "active" for key in living) or approved or not theirs:
        return living
    ended = [key for key in theirs if key["state"] == "revoked" and _revoked_by(tx, key["id"]) == f"user:{user}"]
    if living or not ended:
        states = ", ".join(sorted({key["state"] for key in living or theirs}))
        raise Refusal(f"the keys of {user} are {states}: ask your admin for another", code="conflict")
    return [max(ended, key=lambda key: (key["created_ms"], key["id"]))]


def _revoked_by(tx: Tx, key_id: str) -> str | None:
    """Who has revoked a key, as the last act says that did."""
    acts = "SELECT actor FROM audit WHERE action = 'keys.revoke' AND target = ? ORDER BY id DESC LIMIT 1"
    actor: str | None = tx.value(acts, key_id)
    return actor


def inherited(tx: Tx, grounds: Iterable[Row]) -> Inherited:
    """The strictest of the terms of some keys. Raises Refusal where they have nothing in common, or have ended."""
    models: list[str] = []
    ips: list[str] = []
    tags: dict[str, str] = {}
    under: set[str] = set()
    ends = []
    for key in grounds:
        models = common("models", models, msgspec.json.decode(key["models"]))
        ips = common("ips", ips, msgspec.json.decode(key["ips"]))
        tags = msgspec.json.decode(key["tags"]) | tags
        if key["expires_ms"] is not None:
            ends.append(key["expires_ms"])
        above = limits.above(tx, key["id"])
        # One that is under others hands those on. Itself it matters only where something was put on it as well.
        under |= {*above, *((key["id"],) if not above or limits.own_of(tx, ("key", key["id"])) else ())}
    end_ms = min(ends, default=None)
    if end_ms is not None and end_ms <= tx.now_ms:
        raise Refusal("the time that your keys were given for is over: ask your admin", code="conflict")
    return Inherited(models, ips, tags, end_ms, sorted(under))


def common(what: str, one: Sequence[str], other: Sequence[str]) -> list[str]:
    """What two lists of globs or of networks both allow; an empty one allows all. Raises Refusal for nothing, and for
    too much.
    """
    if not one or not other or one == other:
        return list(one or other)
    found = _COMMON[what](one, other)
    if not found:
        named = {"models": "no model", "ips": "no address"}[what]
        raise Refusal(f"{named} is allowed by all that this key is held to: ask your admin", code="conflict")
    if len(found) > max(len(one), len(other), MOST_LISTED):
        raise Refusal(f"what this key is held to comes to {len(found)} {what}: name fewer of them", code="conflict")
    return list(found)


def _common_globs(one: Sequence[str], other: Sequence[str]) -> dict[str, None]:
    pairs = ((left, right) for left in one for right in other)
    return dict.fromkeys(found for left, right in pairs if (found := narrower(left, right)) is not None)


def narrower(one: str, other: str) -> str | None:
    """A glob of which each name is meant by both; None: none is known, or there is no such name."""
    if one == other:
        return one
    short = min(len(_begins(one)), len(_begins(other)))
    if one[:short] != other[:short]:  # most pairs: each name begins as its glob does
        return None
    if _covers(other, one):
        return one
    if _covers(one, other):
        return other
    if _BEGINNING.fullmatch(one) and _END.fullmatch(other):
        return one + other[1:]
    if _BEGINNING.fullmatch(other) and _END.fullmatch(one):
        return other + one[1:]
    return None


def _begins(glob: str) -> str:
    """What each name that it means begins with."""
    return _SIGN.split(glob, 1)[0]


_SIGN = re.compile(r"[*?\[]")
_PLAIN = re.compile(r"[^?\[\]]*")
_BEGINNING = re.compile(r"[^*?\[\]]+\*")
_END = re.compile(r"\*[^*?\[\]]+")
_WILD = re.compile(r"[*?]")


def _covers(wide: str, glob: str) -> bool:
    """Whether each name that `glob` means is meant by `wide` too; False: perhaps not.

    Only a `*` of `wide` can take what is no letter of a name. So if it means the glob itself, with something that no
    name has in place of each `*` and `?`, then each of those lies within a `*`, whatever it stands for.
    """
    return _PLAIN.fullmatch(wide) is not None and "[" not in glob and matches(wide, _WILD.sub("\0", glob))


def _common_networks(one: Sequence[str], other: Sequence[str]) -> dict[str, None]:
    """Of each two that overlap the smaller, which is a part of the larger."""
    left, right = ([ipaddress.ip_network(text) for text in texts] for texts in (one, other))
    return dict.fromkeys(
        str(max(a, b, key=lambda network: network.prefixlen))
        for a in left
        for b in right
        if a.version == b.version and a.overlaps(b)
    )


_COMMON = {"models": _common_globs, "ips": _common_networks}


# ── the lead of a team ────────────────────────────────────────────────────────────────────────────────────────────────


def led_team(tx: Tx, lead: str) -> Row:
    """The team that a user leads. Raises Refusal `not_found` for one who leads none."""
    row = tx.one("SELECT t.name FROM users u JOIN teams t ON t.id = u.leads_team_id WHERE u.name = ?", lead)
    if row is None:
        raise Refusal(f"{lead} leads no team", code="not_found")
    return accounts.team_row(tx, row["name"])


def members(tx: Tx, lead: str) -> list[Row]:
    """Who belongs to the team that a user leads."""
    team = led_team(tx, lead)
    return [user for user in accounts.list_users(tx) if user["team_id"] == team["id"]]


def member(tx: Tx, lead: str, name: str) -> Row:
    """A member of the team that a user leads. Anybody else is not there. Raises Refusal `not_found`."""
    team = led_team(tx, lead)
    user = accounts.find_user(tx, name)
    if user is None or user["team_id"] != team["id"]:
        raise Refusal(f"{team['name']} has no member {quoted(name)}", code="not_found")
    return user


def make_for(tx: Tx, lead: str, name: str, wish: Wish = ANY) -> keys.Issued:
    """Make a key for a member, by what the member's own would inherit."""
    return make(tx, member(tx, lead, name)["name"], wish)


def revoke_for(tx: Tx, lead: str, name: str, target: str) -> Row:
    return revoke(tx, member(tx, lead, name)["name"], target)


def limit_member(tx: Tx, lead: str, name: str, texts: Sequence[str], alert_at: Sequence[int] = ()) -> list[Limit]:
    """Set limits on a member, each within the team's own of its slot. What a plan, the default or an admin says holds
    beside them: a lead narrows. Raises Refusal and UsageError.
    """
    subject, of_team = _member_subject(tx, lead, name)
    for limit in map(parse, texts):
        if limit.amount is None:
            raise Refusal(f"{limit}: a limit of a lead narrows, and unlimited is none", code="conflict")
        _admin_has_none(tx, subject, name, limit)
        ceiling = next((one for one in limits.own_of(tx, of_team) if one.slot == limit.slot), None)
        if ceiling is not None and ceiling.amount is not None and limit.amount > ceiling.amount:
            raise Refusal(f"{limit} is more than the team's own {ceiling}", code="conflict")
    return limits.hang(tx, f"user:{name}", texts, alert_at, lead=lead)


def unlimit_member(tx: Tx, lead: str, name: str, text: str) -> list[Limit]:
    """Take off a limit that a lead has set. Raises Refusal for one that an admin has."""
    subject, _ = _member_subject(tx, lead, name)
    _admin_has_none(tx, subject, name, parse(text))
    return limits.take_off(tx, f"user:{name}", text)


def _member_subject(tx: Tx, lead: str, name: str) -> tuple[limits.Subject, limits.Subject]:
    user = member(tx, lead, name)
    return ("user", str(user["id"])), ("team", str(user["team_id"]))


def _admin_has_none(tx: Tx, subject: limits.Subject, name: str, limit: Limit) -> None:
    there = limits.own(tx, subject, limit.slot)
    if there is not None:
        raise Refusal(f"an admin has set {there} on {name}: ask your admin to change it", code="conflict")
