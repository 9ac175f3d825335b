"""Where calls are done: reads in one thread, changes in another, so that neither stalls the event loop, nor a long
report a change. Each is one transaction.

A change waits for other writers as a command of the CLI does, for a few seconds. In its transaction the admin key is
looked at once more, `If-Match` is compared with what is there, and an `Idempotency-Key` is looked for: whatever comes
at the same time, what was decided on is what is changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from ..errors import Refusal
from ..gateway.reader import Aside, Reader
from ..store import admins, answers, ledger
from ..store.answers import Answer
from ..store.db import Database, Tx
from ..store.keys import hash_key
from .answers import Told
from .calls import NOBODY, Call, Route

T = TypeVar("T")


class Terms(NamedTuple):
    """What a request says of how it is to be done."""

    admin_key: str
    if_match: str | None = None
    idempotency_key: str | None = None
    request: bytes = b""
    """All that makes it the same request."""


class Done(NamedTuple):
    answer: Answer
    etag: str | None = None
    repeated: bool = False
    """It was done before: nothing was done again."""


class Desk:
    """Nothing is opened before the first call."""

    def __init__(self, path: Path, reader: Reader, *, durable: bool) -> None:
        self._reader = reader
        self._aside = Aside(path, "llmgate-admin", "what admins change can't be written", durable=durable)

    async def do(self, route: Route, call: Call, terms: Terms) -> Done:
        """Raises what the route's function does, and StorageError that tells nothing of the file."""
        if route.writes:
            return await self._aside.do(lambda db: _change(db, route, call, terms))
        if route.overdue:
            await self.expire_overdue()
        return await self._reader.run(lambda tx: _told(route, route.does(tx, call)))

    async def change(self, actor: str, work: Callable[[Tx], T]) -> T:
        """Something else that is changed in the same way, in one transaction: `work` looks itself whether whoever acts
        still may. Raises as `do`.
        """

        def change(db: Database) -> T:
            with db.write() as own:
                return work(Tx(own.conn, own.now_ms, actor))

        return await self._aside.do(change)

    async def expire_overdue(self) -> None:
        """Take away credits that have expired: to be done before balances are told."""
        await self._aside.do(ledger.expire_overdue)

    async def close(self) -> None:
        await self._aside.close()


def _change(db: Database, route: Route, call: Call, terms: Terms) -> Done:
    with db.write() as own:
        tx = Tx(own.conn, own.now_ms, call.actor)
        if call.admin is not NOBODY and call.admin.name != admins.ENV:
            admins.authenticate(tx, hash_key(terms.admin_key))
        if terms.idempotency_key is not None:
            before = answers.find(tx, terms.admin_key, terms.idempotency_key, terms.request)
            if before is not None:
                return Done(before, repeated=True)
        if route.same is not None:
            _check_match(route, etag(route.same(tx, call)), terms.if_match)
        done = _told(route, route.does(tx, call))
        if terms.idempotency_key is not None:
            answers.keep(tx, terms.admin_key, terms.idempotency_key, terms.request, done.answer)
        return done


def _told(route: Route, told: msgspec.Struct) -> Done:
    status = told.other_status() if isinstance(told, Told) else None
    return Done(Answer(status or route.status, msgspec.json.encode(told)), etag(told))


def etag(told: msgspec.Struct) -> str | None:
    """A short name of what admins have said of a thing: two who see the same one see the same thing."""
    version = told.version() if isinstance(told, Told) else None
    if version is None:
        return None
    return f'"{hashlib.sha256(msgspec.json.encode(version)).hexdigest()[:20]}"'


def _check_match(route: Route, now: str | None, if_match: str | None) -> None:
    """Raises Refusal 412 where somebody changed it meanwhile, 428 where nobody looked before replacing it all."""
    if if_match is None:
        if route.must_match:
            raise Refusal(
                f"{route.method} replaces everything: send If-Match with the ETag that GET told, or * to replace "
                "whatever is there",
                code="precondition_required",
                param="if-match",
            )
        return
    if if_match.strip() != "*" and now not in [one.strip() for one in if_match.split(",")]:
        raise Refusal(
            "it was changed since you looked: GET it again, and decide anew",
            code="precondition_failed",
            param="if-match",
        )
