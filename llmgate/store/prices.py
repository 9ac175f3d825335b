"""Price snapshots: what each usage row was costed and charged by, kept for ever to recompute any amount."""

from __future__ import annotations

import msgspec

from .. import pricing
from ..pricing import Price
from .db import Tx


class Snapshot(msgspec.Struct, frozen=True):
    """A price that the database knows by this id. It never changes, so it may be kept once its transaction is over."""

    id: int
    price: Price


def intern(tx: Tx, price: Price) -> Snapshot:
    """The snapshot of a price, made if need be."""
    body = pricing.encode(price)
    tx.execute("INSERT INTO prices (body) VALUES (?) ON CONFLICT (body) DO NOTHING", (body,))
    return Snapshot(tx.value("SELECT id FROM prices WHERE body = ?", body), price)


def snapshot(tx: Tx, number: int) -> Snapshot:
    return Snapshot(number, pricing.decode(tx.value("SELECT body FROM prices WHERE id = ?", number)))
