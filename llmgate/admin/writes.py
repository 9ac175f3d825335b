"""What the admin API changes: each function within one transaction, with its audit rows. The first line of a docstring
is what the OpenAPI document says of it.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
from msgspec import UNSET

from .. import clock
from ..errors import Refusal
from ..money import parse_usd
from ..names import quoted
from ..plans import check
from ..store import accounts, keys, ledger, limits, requests
from ..store.admins import Scope
from ..store.db import Tx
from ..store.issuing import Wish, issue
from . import answers, bodies, reads
from .calls import Call

BILLING = "billing, which says who pays how,"


def _taken_away(changes: dict[str, Any]) -> dict[str, Any]:
    """Changes as the store takes them: what is null here is taken away, and billing becomes the default's again."""
    away = {"billing": accounts.DEFAULT}
    return {field: away.get(field, "") if value is None else value for field, value in changes.items()}


def _asked(body: msgspec.Struct) -> dict[str, Any]:
    """The fields that a change names. Raises Refusal for none."""
    named = {name: getattr(body, name) for name in body.__struct_fields__}
    changes = {name: value for name, value in named.items() if value is not UNSET}
    if not changes:
        raise Refusal(f"there is nothing to change: give one of {', '.join(named)}")
    return changes


def _check(call: Call, asked: dict[str, Any]) -> None:
    """What every user and team may be given: a plan that there is, and billing only by who may say so."""
    if "billing" in asked:
        call.need(Scope.ALL, BILLING)
    if asked.get("plan"):
        check(asked["plan"], call.config.plans)


# ── users and teams ───────────────────────────────────────────────────────────────────────────────────────────────────


def add_user(tx: Tx, call: Call) -> answers.UserDetails:
    """Make a user."""
    body: bodies.NewUser = call.body
    given = msgspec.structs.asdict(body)
    name = given.pop("user")
    _check(call, {field: value for field, value in given.items() if value is not None})
    accounts.add_user(tx, name, **given, default_billing=call.default_billing)
    return _user(tx, call, name)


def set_user(tx: Tx, call: Call) -> answers.UserDetails:
    """Change a user."""
    changes = _asked(call.body)
    _check(call, changes)
    name = call.params["user"]
    accounts.set_user(tx, name, _taken_away(changes), default_billing=call.default_billing)
    return _user(tx, call, name)


def disable_user(tx: Tx, call: Call) -> answers.UserDetails:
    """Refuse all requests of a user until it is enabled again."""
    accounts.set_user(tx, call.params["user"], {"status": "disabled"})
    return _user(tx, call, call.params["user"])


def enable_user(tx: Tx, call: Call) -> answers.UserDetails:
    """Let a disabled user's keys work again."""
    accounts.set_user(tx, call.params["user"], {"status": "active"})
    return _user(tx, call, call.params["user"])


def _user(tx: Tx, call: Call, name: str) -> answers.UserDetails:
    accounts.follow_plans(tx, call.policy.billing)
    return reads.user(tx, msgspec.structs.replace(call, params={"user": name}))


def add_team(tx: Tx, call: Call) -> answers.TeamDetails:
    """Make a team."""
    body: bodies.NewTeam = call.body
    given = msgspec.structs.asdict(body)
    name = given.pop("team")
    _check(call, {field: value for field, value in given.items() if value is not None})
    accounts.add_team(tx, name, **given, default_billing=call.default_billing)
    return _team(tx, call, name)


def set_team(tx: Tx, call: Call) -> answers.TeamDetails:
    """Change a team."""
    changes = _asked(call.body)
    _check(call, changes)
    name = call.params["team"]
    accounts.set_team(tx, name, _taken_away(changes), default_billing=call.default_billing)
    return _team(tx, call, name)


def _team(tx: Tx, call: Call, name: str) -> answers.TeamDetails:
    accounts.follow_plans(tx, call.policy.billing)
    return reads.team(tx, msgspec.structs.replace(call, params={"team": name}))


# ── keys ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def add_key(tx: Tx, call: Call) -> answers.IssuedKey:
    """Issue a key; its user is made if new. The key is told this once."""
    body: bodies.NewKey = call.body
    if body.credits_usd is not None:
        call.need(Scope.ALL, "credits_usd")
    if body.plan is not None:
        check(body.plan, call.config.plans)
    given = msgspec.structs.asdict(body)
    credits_usd = given.pop("credits_usd")
    wish = Wish(**given, credits_nano=parse_usd(credits_usd) if credits_usd is not None else None)
    issued, added, moved = issue(tx, wish, call.policy, call.default_billing)
    return answers.IssuedKey(
        **answers.key(keys.key_row(tx, issued.id)),
        key=issued.key,
        user_added=added,
        became_prepaid=bool(moved and moved.became_prepaid),
    )


def set_key(tx: Tx, call: Call) -> answers.Key:
    """Change a key."""
    changes = _asked(call.body)
    if "expires" in changes:
        when = changes.pop("expires")
        changes["expires_ms"] = clock.expires_ms(when, tx.now_ms, tx.zone) if when is not None else None
    return answers.Key(**answers.key(keys.change(tx, call.params["key"], changes)))


def rotate_key(tx: Tx, call: Call) -> answers.IssuedKey:
    """Replace a key by a new one under the same id, told this once; the old one ends at once, or after its grace."""
    body: bodies.Rotation = call.body
    grace_ms = clock.after_ms(body.grace, tx.now_ms, tx.zone) - tx.now_ms if body.grace is not None else 0
    issued = keys.rotate(tx, call.params["key"], grace_ms=grace_ms)
    row = keys.key_row(tx, issued.id)
    return answers.IssuedKey(**answers.key(row), key=issued.key, user_added=False, became_prepaid=False)


def revoke_key(tx: Tx, call: Call) -> answers.Key:
    """End a key for good."""
    return _switch(tx, call, "revoke")


def disable_key(tx: Tx, call: Call) -> answers.Key:
    """Refuse a key's requests until it is enabled again."""
    return _switch(tx, call, "disable")


def enable_key(tx: Tx, call: Call) -> answers.Key:
    """Let a disabled key work again."""
    return _switch(tx, call, "enable")


def _switch(tx: Tx, call: Call, verb: str) -> answers.Key:
    return answers.Key(**answers.key(keys.set_state(tx, call.params["key"], verb)))


# ── requests ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def approve_request(tx: Tx, call: Call) -> answers.KeyRequest:
    """Let who asked have the key, and be a user if it is none: it is made when it is fetched."""
    service, existing = call.config.self_service, call.body.existing
    number = _number(call)
    row = requests.approve(tx, service, number, call.policy, call.default_billing, existing=existing)
    return answers.key_request(row)


def deny_request(tx: Tx, call: Call) -> answers.KeyRequest:
    """Refuse a request, or take back an approval that wasn't used yet."""
    return answers.key_request(requests.deny(tx, _number(call)))


def _number(call: Call) -> int:
    text = call.params["request"]
    if not re.fullmatch(r"[0-9]{1,15}", text):
        raise Refusal(f"there is no request {quoted(text[:100])}: GET /admin/requests lists them", code="not_found")
    return int(text)


# ── credits and limits ────────────────────────────────────────────────────────────────────────────────────────────────


def add_credits(tx: Tx, call: Call) -> answers.Moved:
    """Add credits to an account. The first ones make it prepaid, unless its billing was set by hand."""
    body: bodies.NewCredits = call.body
    _, name = accounts.account_of(tx, body.account)
    amount_nano = parse_usd(body.amount_usd)
    expires_ms = clock.expires_ms(body.expires, tx.now_ms, tx.zone) if body.expires is not None else None
    done = ledger.add(tx, body.account, amount_nano, ref=body.ref, note=body.note, expires_ms=expires_ms)
    return answers.moved(name, amount_nano, done)


def put_limits(tx: Tx, call: Call) -> answers.Limits:
    """Let these be all the limits of a target's own."""
    limits.put(tx, call.params["target"], call.body.limits, call.config.accounting.alert_at)
    return reads.limits_of(tx, call)


def delete_limits(tx: Tx, call: Call) -> answers.Limits:
    """Remove all limits of a target's own; the plan's and the default's hold again."""
    limits.take_off(tx, call.params["target"], None)
    return reads.limits_of(tx, call)
