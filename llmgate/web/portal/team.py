"""What the lead of a team sees and does: its usage, its balance, its members, their keys and limits; and nothing else.

Who leads which team and who is a member is looked up by `store.selfmade` in the same transaction: who was a lead or a
member a moment ago is none.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from ...admin import answers
from ...admin.bodies import Spec
from ...store import accounts, keys, limits, selfmade
from ...store.db import Row, Tx
from ..visits import Redirect, Shown, Visit
from . import held, sums
from .keys import parted, shown_once


class NewLimit(Struct, frozen=True, forbid_unknown_fields=True):
    limit: Spec


def show(tx: Tx, visit: Visit) -> Shown:
    team = selfmade.led_team(tx, visit.user)
    members = selfmade.members(tx, visit.user)
    return Shown(
        "portal/team.html",
        {
            "team": team,
            "members": {member["name"]: member for member in members},
            "money": accounts.money(tx, team["account_id"]),
            "used": sums.used(
                tx, sums.month(tx, visit.query.month), {"team": team["name"]}, [member["name"] for member in members]
            ),
            "limits": held.of_team(tx, visit.policy, team["id"]),
            "keys": parted(keys.list_keys(tx, team=team["name"]))["living"],
        },
    )


def member(tx: Tx, visit: Visit) -> Shown:
    team, one = _member(tx, visit)
    every = keys.list_keys(tx, user=one["name"], dead=True)
    subject = ("user", str(one["id"]))
    found = held.of_user(tx, visit.policy, one, parted(every)["living"], you=one["name"])
    led = [str(limit) for limit in limits.own_of(tx, subject) if limits.set_by(tx, subject, limit.slot) is not None]
    return Shown(
        "portal/member.html",
        {
            "team": team,
            "member": one,
            "keys": parted(every),
            "limits": found,
            "led": led,
            "told": _limits(tx, one),
            "used": sums.used(tx, sums.month(tx), {"user": one["name"], "team": team["name"]}),
        },
    )


def add_key(tx: Tx, visit: Visit) -> Shown:
    issued = selfmade.make_for(tx, visit.user, visit.params["member"], visit.form.wish())
    return shown_once(visit, issued, _page(issued.user), member=issued.user)


def revoke_key(tx: Tx, visit: Visit) -> Redirect:
    key = selfmade.revoke_for(tx, visit.user, visit.params["member"], visit.params["key"])
    return Redirect(_page(key["user"]), said=f"Key `{key['user']}/{key['name']}` is revoked.")


def add_limit(tx: Tx, visit: Visit) -> Redirect:
    _, one = _member(tx, visit)
    visit.check_version(_limits(tx, one))
    (limit,) = selfmade.limit_member(tx, visit.user, one["name"], [visit.form.limit], visit.config.accounting.alert_at)
    return Redirect(_page(one["name"]), said=f"`{one['name']}` has the limit `{limit}` from now on.")


def remove_limit(tx: Tx, visit: Visit) -> Redirect:
    _, one = _member(tx, visit)
    visit.check_version(_limits(tx, one))
    selfmade.unlimit_member(tx, visit.user, one["name"], visit.form.limit)
    return Redirect(_page(one["name"]), said=f"The limit `{visit.form.limit}` of `{one['name']}` is gone.")


def _member(tx: Tx, visit: Visit) -> tuple[Row, Row]:
    """The team, and the member that the path names. Raises Refusal `not_found`."""
    return selfmade.led_team(tx, visit.user), selfmade.member(tx, visit.user, visit.params["member"])


def _limits(tx: Tx, one: Row) -> answers.Limits:
    """What a form that changes limits was shown with."""
    own: list[Any] = sorted(str(limit) for limit in limits.own_of(tx, ("user", str(one["id"]))))
    return answers.Limits(target=one["name"], limits=[], own=own)


def _page(member: str) -> str:
    return f"/portal/team/members/{member}"
