"""Requests for keys: who waits for a decision."""

from __future__ import annotations

from ...admin import reads, writes
from ...store.db import Tx
from ..visits import Redirect, Shown, Visit

PAGE = "/admin/pages/requests"


def listing(tx: Tx, visit: Visit) -> Shown:
    found = reads.request_list(tx, visit.call(query=visit.query))
    return Shown("admin/requests.html", {"found": found, "mode": visit.config.self_service.mode})


def approve(tx: Tx, visit: Visit) -> Redirect:
    told = writes.approve_request(tx, visit.call(body=visit.form))
    what = "is a user" if told.status == "done" else "can fetch the key"
    return Redirect(PAGE, said=f"Request {told.id} is approved: `{told.user}` {what} now.")


def deny(tx: Tx, visit: Visit) -> Redirect:
    told = writes.deny_request(tx, visit.call())
    return Redirect(PAGE, said=f"Request {told.id} of `{told.user}` is denied.")
