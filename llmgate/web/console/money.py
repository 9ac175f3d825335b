"""Credits, and limits."""

from __future__ import annotations

from msgspec import Struct

from ...admin import answers, bodies, reads, writes
from ...admin.bodies import Money, Specs, Text, When
from ...money import dollars, parse_usd
from ...store import accounts, ledger
from ...store.db import Tx
from ..visits import Redirect, Shown, Visit


class CreditsForm(Struct, frozen=True, forbid_unknown_fields=True):
    amount_usd: Money
    note: Text | None = None
    ref: Text | None = None
    expires: When | None = None


class LimitsForm(Struct, frozen=True, forbid_unknown_fields=True):
    limits: Specs = []


class Target(bodies.Paged, frozen=True, kw_only=True, forbid_unknown_fields=True):
    target: str | None = None


def credits(tx: Tx, visit: Visit) -> Shown:  # noqa: A001 - what they are called
    return Shown("admin/credits.html", {"found": reads.balance(tx, visit.call(query=visit.query))})


def account(tx: Tx, visit: Visit) -> Shown:
    account_id, _ = accounts.account_of(tx, visit.params["account"])
    told = answers.account(ledger.list_accounts(tx, account_id)[0])
    return Shown("admin/account.html", {"told": told, "found": reads.entries(tx, visit.call(query=visit.query))})


def add_credits(tx: Tx, visit: Visit) -> Redirect:
    form: CreditsForm = visit.form
    given = {name: getattr(form, name) for name in form.__struct_fields__}
    told = writes.add_credits(tx, visit.call(body=bodies.NewCredits(account=visit.params["account"], **given)))
    amount = dollars(parse_usd(form.amount_usd))
    said = f"Nothing was added: `{form.ref}` was known." if told.repeated else f"{amount} added to `{told.account}`."
    if told.became_prepaid:
        said += " It is prepaid from now on: without credits its requests are refused."
    return Redirect(f"/admin/pages/credits/{told.account}", said=said)


def limits(tx: Tx, visit: Visit) -> Shown | Redirect:
    if visit.query.target is not None:
        reads.limits_of(tx, visit.call({"target": visit.query.target}))
        return Redirect(f"/admin/pages/limits/{visit.query.target}")
    return Shown("admin/limits.html", {"found": reads.limit_list(tx, visit.call(query=visit.query))})


def limits_of(tx: Tx, visit: Visit) -> Shown:
    return Shown("admin/limits_of.html", {"told": reads.limits_of(tx, visit.call())})


def put_limits(tx: Tx, visit: Visit) -> Redirect:
    visit.check_version(reads.limits_of(tx, visit.call()))
    form: LimitsForm = visit.form
    if form.limits:
        told = writes.put_limits(tx, visit.call(body=bodies.NewLimits(limits=form.limits)))
        said = f"Limits of `{told.target}`: {', '.join(told.own)}."
    else:
        told = writes.delete_limits(tx, visit.call())
        said = f"`{told.target}` has no limits of its own: the plan's and the default's hold."
    return Redirect(f"/admin/pages/limits/{told.target}", said=said)
