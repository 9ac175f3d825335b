"""`/`: what this is, where clients connect, and what to paste into them."""

from __future__ import annotations

from typing import NamedTuple

from ..store.db import Tx
from .visits import Shown, Visit

KEY = "sk-lg-…"
"""In place of a key."""


class Snippet(NamedTuple):
    title: str
    text: str
    note: str = ""


def show(tx: Tx, visit: Visit) -> Shown:  # noqa: ARG001
    return Shown("home.html", {"snippets": snippets(visit.base_url)})


def snippets(url: str) -> list[Snippet]:
    return [Snippet("Base URL", f"{url}/v1")]
