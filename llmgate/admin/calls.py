"""A call of the admin API, and a route: what is answered where, to whom, by which function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from ..config import Config, Upstream
from ..errors import Refusal
from ..gateway.pipeline import Gateway
from ..plans import Policy
from ..store.admins import Admin, Scope
from ..store.db import Tx
from ..types import Billing
from . import bodies

NOBODY = Admin("", Scope.READ)
"""In place of an admin, where anybody may call."""


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked, by whom, and the config of that moment."""

    admin: Admin
    params: Mapping[str, str]
    query: Any
    body: Any
    config: Config
    policy: Policy
    upstreams: Mapping[str, Upstream]
    resting: Mapping[str, list[str]]
    """What this process knows of its upstreams, as `Gateway.resting`."""
    address: str = ""
    """Where it comes from, if anybody may call."""

    @property
    def actor(self) -> str:
        """What the audit calls who does it."""
        return self.admin.actor if self.admin is not NOBODY else f"public:{self.address}"

    @property
    def default_billing(self) -> Billing:
        return Billing(self.config.defaults.billing)

    def need(self, scope: Scope, what: str) -> None:
        """Raises Refusal where the admin key's scope doesn't cover what is asked."""
        if not self.admin.scope.covers(scope):
            raise Refusal(
                f"{what} takes an admin key of scope {scope} or all, and this one is {self.admin.scope}"
                if scope is not Scope.ALL
                else f"{what} takes an admin key of scope all, and this one is {self.admin.scope}",
                code="scope_not_allowed",
            )


Does = Callable[[Tx, Call], Any]


class Route(NamedTuple):
    method: str
    path: str
    scope: Scope | None
    """None: anybody may, where self-service is on."""
    does: Does
    answer: Any
    """The type of what is told."""
    query: type[msgspec.Struct] = bodies.Nothing
    body: type[msgspec.Struct] | None = None
    status: int = 200
    also: tuple[int, ...] = ()
    """Other statuses of what goes well, as the answer says."""
    same: Does | None = None
    """Of a change: what tells the thing as it is before. With its ETag `If-Match` is compared."""
    must_match: bool = False
    """It replaces everything, so whoever asks must have seen what that is."""
    overdue: bool = False
    """It tells balances: credits that have expired are taken away before."""

    @property
    def summary(self) -> str:
        """The first line of what its function says of itself."""
        return (self.does.__doc__ or "").strip().splitlines()[0]

    @property
    def writes(self) -> bool:
        return self.method != "GET"


def call_of(
    gateway: Gateway, admin: Admin, params: Mapping[str, str], query: Any, body: Any, address: str = ""
) -> Call:
    """What is asked now, with the config of now. Within the loop."""
    return Call(
        admin=admin,
        params=params,
        query=query,
        body=body,
        config=gateway.config,
        policy=gateway.policy,
        upstreams=gateway.upstreams,
        resting=gateway.resting(),
        address=address,
    )
