"""What may be sent: queries and bodies. A field that isn't named here is refused by its name."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from ..names import NAME
from ..types import Billing, Status

LONGEST_PAGE = 1000

Name = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=64,
        description="A name: letters, digits and . _ @ + -",
        extra_json_schema={"pattern": f"^{NAME.pattern}$"},  # the store checks it, and says it in words
    ),
]
Text = Annotated[str, Meta(max_length=1000)]
NewBilling = Annotated[Billing, Meta(description="null: as if it was never set by hand")]
Glob = Annotated[str, Meta(min_length=1, max_length=256)]
When = Annotated[str, Meta(max_length=64, description="A duration (90d, 24h, 6mo) or a date (2027-01-31, today)")]
Money = Annotated[str, Meta(max_length=40, description="USD above 0, such as 5 or 0.25", examples=["5", "0.25"])]
Spec = Annotated[str, Meta(max_length=400, examples=["60 requests/minute", "$50/month", "5 concurrent"])]
PageSize = Annotated[int, Meta(ge=1, le=LONGEST_PAGE, description="How many at most")]
Cursor = Annotated[str, Meta(max_length=1000, description="`next` of the page before")]
Tags = dict[Annotated[str, Meta(min_length=1, max_length=64)], Annotated[str, Meta(min_length=1, max_length=512)]]
Globs = Annotated[list[Glob], Meta(max_length=1000)]
Networks = Annotated[list[Annotated[str, Meta(max_length=64)]], Meta(max_length=1000)]
Specs = Annotated[list[Spec], Meta(max_length=100)]


class Sent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Anything that is sent."""


class Nothing(Sent, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """No field at all."""


class Paged(Sent, frozen=True, kw_only=True, forbid_unknown_fields=True):
    limit: PageSize = 100
    cursor: Cursor | None = None


class UsersOf(Paged, frozen=True, kw_only=True, forbid_unknown_fields=True):
    team: Name | None = None
    search: Annotated[str, Meta(max_length=256, description="Part of the name or the e-mail")] | None = None


class KeysOf(Paged, frozen=True, kw_only=True, forbid_unknown_fields=True):
    user: Name | None = None
    all: Annotated[bool, Meta(description="Expired and revoked ones as well")] = False


class Searched(Paged, frozen=True, kw_only=True, forbid_unknown_fields=True):
    search: Annotated[str, Meta(max_length=256)] | None = None


class Since(Paged, frozen=True, kw_only=True, forbid_unknown_fields=True):
    since: When = "7d"


class Whose(Sent, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What requests are narrowed down to."""

    user: Name | None = None
    team: Name | None = None
    key: Annotated[str, Meta(max_length=200, description="Its id, or USER/NAME")] | None = None
    model: Annotated[Glob, Meta(description="A glob")] | None = None
    upstream: Name | None = None
    plan: Annotated[str, Meta(max_length=64)] | None = None
    tag: Annotated[list[Annotated[str, Meta(max_length=600)]], Meta(description="NAME=VALUE; all of them")] = []


class UsageOf(Whose, frozen=True, kw_only=True, forbid_unknown_fields=True):
    limit: PageSize = 100
    cursor: Cursor | None = None
    status: Status | None = None
    since: When | None = None
    until: When | None = None


class UsageIn(Paged, frozen=True, kw_only=True, forbid_unknown_fields=True):
    status: Status | None = None
    since: When | None = None
    until: When | None = None


class ReportOf(Whose, frozen=True, kw_only=True, forbid_unknown_fields=True):
    since: When = "30d"
    until: When | None = None
    by: Annotated[
        list[Annotated[str, Meta(max_length=20)]],
        Meta(description="A row for each: user, team, key, model, upstream, plan, tag, hour, day, week, month"),
    ] = []


class NewUser(Sent, frozen=True, kw_only=True, forbid_unknown_fields=True):
    user: Name
    team: Name | None = None
    plan: Name | None = None
    billing: Billing | None = None
    email: Text | None = None


class RequestsOf(Paged, frozen=True, kw_only=True, forbid_unknown_fields=True):
    all: Annotated[bool, Meta(description="Those that were decided as well")] = False


class Approval(Sent, frozen=True, kw_only=True, forbid_unknown_fields=True):
    existing: Annotated[bool, Meta(description="Also if there is a user of this name, whose the key would be")] = False


class NewRequest(Sent, frozen=True, kw_only=True, forbid_unknown_fields=True):
    username: Name
    note: Annotated[str, Meta(max_length=500, description="A word to whoever decides")] | None = None


class Claim(Sent, frozen=True, kw_only=True, forbid_unknown_fields=True):
    secret: Annotated[str, Meta(max_length=200, description="What the request was answered")]


class UserChange(Sent, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is left out stays as it is; null takes away."""

    team: Name | UnsetType | None = UNSET
    plan: Name | UnsetType | None = UNSET
    email: Text | UnsetType | None = UNSET
    billing: NewBilling | UnsetType | None = UNSET
    leads: Annotated[Name, Meta(description="The team that it leads")] | UnsetType | None = UNSET


class NewTeam(Sent, frozen=True, kw_only=True, forbid_unknown_fields=True):
    team: Name
    plan: Name | None = None
    billing: Billing | None = None


class TeamChange(Sent, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is left out stays as it is; null takes away."""

    plan: Name | UnsetType | None = UNSET
    billing: NewBilling | UnsetType | None = UNSET


class NewKey(Sent, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key; its user is made if new."""

    user: Name
    name: Name | None = None
    models: Globs = []
    ips: Networks = []
    tags: Tags = {}
    note: Text | None = None
    expires: When | None = None
    plan: Annotated[Name, Meta(description="The user's plan from now on")] | None = None
    limits: Annotated[Specs, Meta(description="Of the key")] = []
    credits_usd: Annotated[Money, Meta(description="Credits for the user; takes scope all")] | None = None


class KeyChange(Sent, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is left out stays as it is; a list or map replaces the whole; null takes away."""

    name: Name | UnsetType = UNSET
    models: Globs | UnsetType = UNSET
    ips: Networks | UnsetType = UNSET
    tags: Tags | UnsetType = UNSET
    note: Text | UnsetType | None = UNSET
    expires: When | UnsetType | None = UNSET


class Rotation(Sent, frozen=True, kw_only=True, forbid_unknown_fields=True):
    grace: Annotated[When, Meta(description="How long the old key still works: 24h")] | None = None


class NewCredits(Sent, frozen=True, kw_only=True, forbid_unknown_fields=True):
    account: Annotated[str, Meta(min_length=1, max_length=70, description="A user, or team:NAME")]
    amount_usd: Money
    ref: Annotated[str, Meta(min_length=1, max_length=200, description="The same twice adds once")] | None = None
    note: Text | None = None
    expires: When | None = None


class NewLimits(Sent, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All limits of the target's own from now on."""

    limits: Specs
