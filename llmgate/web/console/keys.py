"""Keys: issued, changed, rotated, ended."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec import Struct

from ...admin import bodies, reads, writes
from ...admin.answers import Key
from ...admin.bodies import Globs, Money, Name, Networks, Specs, Text, When
from ...errors import Refusal
from ...store.db import Tx
from ..visits import Redirect, Shown, Visit


class NewKeyForm(Struct, frozen=True, forbid_unknown_fields=True):
    user: Name
    name: Name | None = None
    models: Globs = []
    ips: Networks = []
    tags: list[str] = []
    note: Text | None = None
    expires: When | None = None
    limits: Specs = []
    plan: Name | None = None
    credits_usd: Money | None = None


class KeyForm(Struct, frozen=True, forbid_unknown_fields=True):
    """All that can be changed; what is empty is taken away."""

    name: Name
    models: Globs = []
    ips: Networks = []
    tags: list[str] = []
    note: Text | None = None
    expires: When | None = None


class RotationForm(Struct, frozen=True, forbid_unknown_fields=True):
    grace: When | None = None


def listing(tx: Tx, visit: Visit) -> Shown:
    found = reads.key_list(tx, visit.call(query=visit.query))
    return Shown("admin/keys.html", {"found": found, "plans": list(visit.policy.plans)})


def add(tx: Tx, visit: Visit) -> Shown:
    form: NewKeyForm = visit.form
    given = {name: getattr(form, name) for name in form.__struct_fields__}
    told = writes.add_key(tx, visit.call(body=bodies.NewKey(**given | {"tags": _tags(form.tags)})))
    return Shown("admin/issued.html", {"told": told, "rotated": False})


def show(tx: Tx, visit: Visit) -> Shown:
    told = reads.key(tx, visit.call())
    recent = reads.usage_of(tx, visit.call({"whose": told.id}, bodies.UsageIn(limit=10)))
    return Shown("admin/key.html", {"told": told, "recent": recent.data, "tags": [*_lines(told)]})


def change(tx: Tx, visit: Visit) -> Redirect:
    before = reads.key(tx, visit.call())
    visit.check_version(before)
    form: KeyForm = visit.form
    wanted: dict[str, Any] = {name: getattr(form, name) for name in ("name", "models", "ips", "note")}
    wanted["tags"] = _tags(form.tags)
    changes = {name: value for name, value in wanted.items() if value != getattr(before, name)}
    if form.expires != before.expires_at:
        changes["expires"] = form.expires
    if not changes:
        return Redirect(_page(before), said="Nothing was changed.")
    told = writes.set_key(tx, visit.call(body=bodies.KeyChange(**changes)))
    return Redirect(_page(told), said=f"Key `{told.user}/{told.name}` is changed: {', '.join(changes)}.")


def rotate(tx: Tx, visit: Visit) -> Shown:
    told = writes.rotate_key(tx, visit.call(body=bodies.Rotation(grace=visit.form.grace)))
    return Shown("admin/issued.html", {"told": told, "rotated": True})


def revoke(tx: Tx, visit: Visit) -> Redirect:
    return _done(writes.revoke_key(tx, visit.call()), "revoked for good")


def disable(tx: Tx, visit: Visit) -> Redirect:
    return _done(writes.disable_key(tx, visit.call()), "disabled")


def enable(tx: Tx, visit: Visit) -> Redirect:
    return _done(writes.enable_key(tx, visit.call()), "enabled")


def _done(told: Key, what: str) -> Redirect:
    return Redirect(_page(told), said=f"Key `{told.user}/{told.name}` is {what}.")


def _page(told: Key) -> str:
    return f"/admin/pages/keys/{told.id}"


def _lines(told: Key) -> Iterable[str]:
    return (f"{name}={value}" for name, value in told.tags.items())


def _tags(lines: list[str]) -> dict[str, str]:
    """`agent=coder`, one a line. Raises Refusal."""
    tags: dict[str, str] = {}
    for line in lines:
        name, sign, value = line.partition("=")
        if not (sign and name.strip() and value.strip()):
            raise Refusal(f"{line[:100]!r} is no tag: write NAME=VALUE, one a line", param="tags")
        tags[name.strip()] = value.strip()
    return tags
