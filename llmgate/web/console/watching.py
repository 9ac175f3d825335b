"""What goes on: the overview, requests, events, who changed what; and what there is to ask for."""

from __future__ import annotations

from ...admin import reads
from ...store.db import Tx
from ..visits import Shown, Visit


def overview(tx: Tx, visit: Visit) -> Shown:
    return Shown("admin/overview.html", {"told": reads.overview(tx, visit.call())})


def usage(tx: Tx, visit: Visit) -> Shown:
    return Shown("admin/usage.html", {"found": reads.usage_rows(tx, visit.call(query=visit.query))})


def events(tx: Tx, visit: Visit) -> Shown:
    return Shown("admin/events.html", {"found": reads.event_list(tx, visit.call(query=visit.query))})


def acts(tx: Tx, visit: Visit) -> Shown:
    return Shown("admin/audit.html", {"found": reads.acts(tx, visit.call(query=visit.query))})


def models(tx: Tx, visit: Visit) -> Shown:
    return Shown("admin/models.html", {"found": reads.models(tx, visit.call(query=visit.query))})


def plans(tx: Tx, visit: Visit) -> Shown:
    return Shown("admin/plans.html", {"found": reads.plans(tx, visit.call(query=visit.query))})
