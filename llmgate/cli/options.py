"""Options that several commands have, and what is made of their values."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple
from zoneinfo import ZoneInfo

import msgspec
import typer

from .. import clock
from ..errors import UsageError
from ..store import accounts, keys
from ..store.db import Tx

WHICH = "Which requests"
"""The heading of what narrows a report or a listing down."""


def _only(name: str, metavar: str, text: str) -> Any:
    return typer.Option(name, metavar=metavar, help=text, rich_help_panel=WHICH)


UserOption = Annotated[str | None, _only("--user", "USER", "Only of this user.")]
TeamOption = Annotated[str | None, _only("--team", "TEAM", "Only of this team.")]
KeyOption = Annotated[str | None, _only("--key", "KEY", "Only of this key: its id or USER/NAME.")]
ModelOption = Annotated[str | None, _only("--model", "GLOB", "Only of models that match.")]
UpstreamOption = Annotated[str | None, _only("--upstream", "NAME", "Only of this upstream.")]
PlanOption = Annotated[str | None, _only("--plan", "PLAN", "Only of this plan.")]
TagOption = Annotated[list[str] | None, _only("--tag", "K=V", "Only with this tag; several: with all of them.")]
UntilOption = Annotated[
    str | None, typer.Option("--until", metavar="WHEN", help="Until then; a date or a weekday is included.")
]
NoteOption = Annotated[str | None, typer.Option("--note", metavar="TEXT", help="A word to yourself.")]


class Whose(NamedTuple):
    """Whose requests, to whom: what reports and listings of usage can be narrowed down to."""

    user: str | None
    team: str | None
    key: str | None
    model: str | None
    upstream: str | None
    plan: str | None
    tag: list[str] | None

    def said(self) -> list[str]:
        """What was asked for, in words."""
        given = {name: value for name, value in self._asdict().items() if value is not None and value != []}
        return [f"{name} {', '.join(value) if isinstance(value, list) else value}" for name, value in given.items()]

    def filters(self, tx: Tx) -> dict[str, Any]:
        """As the store takes them. Raises Refusal for a user, team or key that there isn't: that is a typo."""
        if self.user is not None:
            accounts.user_row(tx, self.user)
        if self.team is not None:
            accounts.team_row(tx, self.team)
        found = self._asdict()
        if self.key is not None:
            found["key"] = keys.key_row(tx, self.key)["id"]
        for pair in self.tag or ():
            if not pair.partition("=")[1]:
                raise UsageError(f"{pair!r} is no tag: write --tag NAME=VALUE, such as --tag agent=coder")
        found["tag"] = msgspec.json.encode(self.tag).decode() if self.tag else None
        return found


class Period(NamedTuple):
    """From a moment on, until another (that is not part of it); None: open."""

    since_ms: int | None
    until_ms: int | None


def period(since: str | None, until: str | None, now_ms: int, zone: ZoneInfo, *, precise: bool) -> Period:
    """What `--since` and `--until` mean. `precise`: 1d is 24 hours ago; else it is the midnight before."""
    found = Period(
        clock.since_ms(since, now_ms, zone, precise=precise) if since is not None else None,
        clock.until_ms(until, now_ms, zone, precise=precise) if until is not None else None,
    )
    if found.since_ms is not None and found.until_ms is not None and found.since_ms >= found.until_ms:
        raise UsageError(f"--since {since} is not before --until {until}: there is nothing in between")
    return found


def words(values: list[str] | None) -> list[str]:
    """A repeatable option, which may also be given as a list with commas."""
    return [word for value in values or () for word in value.replace(",", " ").split()]


def tags(pairs: list[str] | None) -> dict[str, str]:
    return retagged({}, pairs or [])


def retagged(before: dict[str, str], pairs: list[str]) -> dict[str, str]:
    """Tags with some set by K=V, and some taken away by K=."""
    found = dict(before)
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"{pair!r} is no tag: write --tag NAME=VALUE, such as --tag agent=coder")
        found.pop(name.strip(), None)
        if value:
            found[name.strip()] = value
    return found


def require_changes(changes: dict[str, Any], names: str) -> None:
    if not changes:
        raise UsageError(f"there is nothing to change: give {names}")
