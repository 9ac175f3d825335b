"""A visit of a page, and what may be answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from zoneinfo import ZoneInfo

import msgspec

from ..admin.calls import Call, call_of
from ..admin.desk import Desk, etag
from ..config import Config
from ..errors import LlmgateError, Refusal
from ..gateway.pipeline import Gateway
from ..plans import Policy
from ..store.admins import Scope
from ..store.db import Tx
from ..store.sessions import Session
from ..types import Billing

if TYPE_CHECKING:
    from .cookies import Keeper

T = TypeVar("T")


class Who(StrEnum):
    """For whom a page is that isn't an admin's."""

    EVERYBODY = "everybody"
    SIGNED_IN = "signed in"
    """A user, or an admin."""
    USER = "user"
    LEAD = "lead"
    """A user who leads a team."""


Access = Who | Scope
"""Who may see a page: a scope means admins whose scope covers it."""


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """No form, or no query."""


class Page(NamedTuple):
    """What is at a path. A GET reads, a POST changes."""

    method: str
    path: str
    access: Access
    does: Callable[..., Any]
    """Of a transaction and a visit: `does(tx, visit) -> Reply`; or `async does(visit) -> Reply`, which gets its
    transactions by `visit.read` and `visit.change`."""
    form: type[msgspec.Struct] = Nothing
    query: type[msgspec.Struct] = Nothing
    again: Callable[..., Any] | None = None
    """Of a POST: what shows the form again where it was refused, with what was typed (`visit.typed`)."""
    menu: str | None = None
    """What the menu calls it; None: it isn't there."""
    overdue: bool = False
    """It tells balances: credits that have expired are taken away before."""
    api: bool = False
    """For programs: JSON comes and goes, and no cookie counts."""
    wide: bool = False
    """It has tables: it takes the room that there is."""


class Shown(NamedTuple):
    """A page: a template, and what it is given beside `visit`."""

    template: str
    given: Mapping[str, Any] = {}
    status: int = 200


class Redirect(NamedTuple):
    """Done: go and see (303)."""

    to: str
    said: str | None = None
    """What the next page says at its top, once."""
    session: str | None = None
    """The id of a session that begins; "" ends the one there is."""
    keep: Mapping[str, str | None] = {}
    """What the browser is to keep for a while, signed, for `Visit.kept`; None: no longer."""


class Download(NamedTuple):
    """A file."""

    name: str
    body: bytes
    content_type: str


class Told(NamedTuple):
    """JSON."""

    answer: Any
    status: int = 200


Reply = Shown | Redirect | Download | Told


@dataclass
class Visit:
    """Who asks for a page, and what for."""

    page: Page
    path: str
    params: Mapping[str, str]
    session: Session | None
    address: str
    """Where it comes from, as far as proxies are trusted."""
    base_url: str
    """`https://llm.example.org`: without a slash at its end."""
    secure: bool
    now_ms: int
    zone: ZoneInfo
    gateway: Gateway
    desk: Desk
    keeper: Keeper
    config: Config
    session_id: str | None = None
    form_id: str | None = None
    """Names the browser of somebody who isn't signed in, in the cookie of its forms: a secret of that browser's."""
    query: Any = None
    form: Any = None
    typed: dict[str, Any] = field(default_factory=dict)
    """What stood in the form that was refused, by its fields: so that nobody has to type it again."""
    version: str | None = None
    """Of a POST: the `version` that the form was shown with."""
    refused: LlmgateError | None = None
    """Why the form is shown again."""
    said: str | None = None
    """What the page before had to say."""
    form_id_is_new: bool = False
    cookies: dict[str, str] = field(default_factory=dict)

    # ── who ───────────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def actor(self) -> str:
        """What the audit calls whoever it is."""
        return self.session.actor if self.session is not None else "public"

    @property
    def secret(self) -> str | None:
        """What only this browser knows: the id of its session, or else that of its forms."""
        return self.session_id if self.session is not None else self.form_id

    @property
    def user(self) -> str:
        """The name of the user whose page it is. Only where the page's access says that there is one."""
        assert self.session is not None
        assert self.session.user is not None
        return self.session.user

    @property
    def user_id(self) -> int:
        assert self.session is not None
        assert self.session.user_id is not None
        return self.session.user_id

    def may(self, access: Access) -> bool:
        """Whether a page of this access is for who is here."""
        session = self.session
        if isinstance(access, Scope):
            return session is not None and session.admin is not None and session.admin.scope.covers(access)
        return {
            Who.EVERYBODY: True,
            Who.SIGNED_IN: session is not None,
            Who.USER: session is not None and session.user is not None,
            Who.LEAD: session is not None and session.leads is not None,
        }[access]

    def kept(self, name: str) -> str | None:
        """What this browser was given to keep by `Redirect.keep`, if we did so and it isn't too long ago."""
        return self.keeper.kept(self.cookies, name)

    # ── what is asked ─────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def policy(self) -> Policy:
        return self.gateway.policy

    @property
    def default_billing(self) -> Billing:
        return Billing(self.config.defaults.billing)

    def call(self, params: Mapping[str, str] | None = None, query: Any = None, body: Any = None) -> Call:
        """The same as a call of the admin API: for `admin.reads` and `admin.writes`. Only on admins' pages."""
        assert self.session is not None
        assert self.session.admin is not None
        return call_of(self.gateway, self.session.admin, self.params if params is None else params, query, body)

    def check_version(self, now: msgspec.Struct) -> None:
        """Raises Refusal where what the form was shown with (`{{ version(told) }}`) isn't as it is now."""
        if self.version is not None and self.version != etag(now):
            raise Refusal(
                "somebody else has changed it since you opened this page: look at it as it is now, and decide anew",
                code="precondition_failed",
            )

    # ── for what isn't one transaction: within the loop ───────────────────────────────────────────────────────────────

    async def read(self, work: Callable[[Tx], T]) -> T:
        """Read in one consistent view."""
        return await self.gateway.reader.run(work)

    async def change(self, work: Callable[[Tx], T]) -> T:
        """Change something in one transaction, if whoever acts still may."""

        def checked(tx: Tx) -> T:
            self.keeper.check(tx, self)
            return work(tx)

        return await self.desk.change(self.actor, checked)
