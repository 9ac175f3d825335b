"""`/portal`: what is left, what was used this month, what holds, and the latest requests."""

from __future__ import annotations

from ...store import accounts, keys, usage
from ...store.db import Tx
from ..visits import Shown, Visit
from . import held, requests, sums

LATEST = 8
"""Requests that are shown."""


def show(tx: Tx, visit: Visit) -> Shown:
    user = accounts.user_row(tx, visit.user)
    living = keys.list_keys(tx, user=visit.user)
    own = user["payer_kind"] == "user"
    return Shown(
        "portal/overview.html",
        {
            "user": user,
            # What a team has left isn't told to its members.
            "money": accounts.money(tx, user["payer_id"]) if own else None,
            "used": sums.used(tx, sums.month(tx), {"user": visit.user}),
            "limits": held.of_user(tx, visit.policy, user, living),
            "requests": requests.told(usage.latest(tx, {"user": visit.user}, LATEST)),
            "keys": living,
        },
    )
