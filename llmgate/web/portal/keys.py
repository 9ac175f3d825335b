"""A user's own keys: made, named, rotated, revoked. The rules are `store.selfmade`'s."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Struct

from ... import clock
from ...admin import answers
from ...admin.bodies import Globs, Name, Networks, Specs, Text, When
from ...store import keys as store_keys
from ...store import selfmade
from ...store.db import Row, Tx
from ...store.keys import Issued
from .. import home
from ..visits import Redirect, Shown, Visit
from . import held, sums

PAGE = "/portal/keys"


class NewKey(Struct, frozen=True, forbid_unknown_fields=True):
    name: Name | None = None
    models: Globs = []
    ips: Networks = []
    limits: Specs = []
    expires: When | None = None
    note: Text | None = None

    def wish(self) -> selfmade.Wish:
        return selfmade.Wish(**msgspec.structs.asdict(self))


class NewName(Struct, frozen=True, forbid_unknown_fields=True):
    name: Name


class Rotation(Struct, frozen=True, forbid_unknown_fields=True):
    grace: Literal["1h", "24h", "7d"] | None = None
    """How long the old one works on; None: no longer."""


def listing(tx: Tx, visit: Visit) -> Shown:
    every = store_keys.list_keys(tx, user=visit.user, dead=True)
    return Shown("portal/keys.html", {"keys": parted(every), "most": selfmade.MOST})


def parted(every: list[Row]) -> dict[str, list[Row]]:
    """Keys that work, or may again; and those that have ended. The newest first."""
    living = [key for key in reversed(every) if key["state"] in ("active", "disabled")]
    return {"living": living, "ended": [key for key in reversed(every) if key not in living]}


def add(tx: Tx, visit: Visit) -> Shown:
    return shown_once(visit, selfmade.make(tx, visit.user, visit.form.wish()), "/portal/keys")


def show(tx: Tx, visit: Visit) -> Shown:
    key = selfmade.key_of(tx, visit.user, visit.params["key"])
    return Shown(
        "portal/key.html",
        {
            "told": answers.Key(**answers.key(key)),
            "key": key,
            "note": selfmade.note_of(tx, visit.user, key),
            "limits": held.of_keys(tx, visit.policy, [key["id"]]),
            "used": sums.used(tx, sums.month(tx), {"user": visit.user, "key": key["id"]}),
            "signed_in": visit.session is not None and visit.session.key_id == key["id"],
        },
    )


def rename(tx: Tx, visit: Visit) -> Redirect:
    before = selfmade.key_of(tx, visit.user, visit.params["key"])
    visit.check_version(answers.Key(**answers.key(before)))
    after = selfmade.rename(tx, visit.user, before["id"], visit.form.name)
    return Redirect(f"{PAGE}/{after['id']}", said=f"The key is called `{after['name']}` from now on.")


def rotate(tx: Tx, visit: Visit) -> Shown:
    grace: str | None = visit.form.grace
    grace_ms = clock.after_ms(grace, tx.now_ms, tx.zone) - tx.now_ms if grace is not None else 0
    by = visit.session.key_id if visit.session is not None else None
    issued = selfmade.rotate(tx, visit.user, visit.params["key"], grace_ms=grace_ms, by=by)
    until_ms = tx.now_ms + grace_ms if grace_ms else None
    return shown_once(visit, issued, f"{PAGE}/{issued.id}", rotated=True, until_ms=until_ms)


def revoke(tx: Tx, visit: Visit) -> Redirect:
    key = selfmade.revoke(tx, visit.user, visit.params["key"])
    return Redirect(PAGE, said=f"Key `{key['name']}` is revoked: nothing takes it any more.")


def shown_once(visit: Visit, issued: Issued, back: str, **more: Any) -> Shown:
    """The only page that has a key in clear."""
    url, model = visit.base_url, home.model_of(visit)
    snippets = [*home.sdks(url, model, issued.key), *home.agents(url, model, issued.key)]
    given = {"rotated": False, "until_ms": None, **more}
    return Shown("portal/issued.html", {"issued": issued, "snippets": snippets, "back": back, **given})
