"""`/portal`: what a user sees of what is the user's own."""

from __future__ import annotations

from ..store.db import Tx
from .visits import Shown, Visit


def show(tx: Tx, visit: Visit) -> Shown:  # noqa: ARG001
    """The user's name, and what there is."""
    return Shown("portal.html", {})
