"""What is told: structs made of the store's rows, with the names and the values that the CLI writes as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from msgspec import Meta, Struct

from ..clock import rfc3339
from ..config import PathTable, Upstream
from ..money import to_nano, usd
from ..plans import Plan as StorePlan
from ..routing import Listing
from ..store import limits as store_limits
from ..store.admins import Admin
from ..store.db import Row
from ..store.ledger import Moved as StoreMoved
from ..types import METERS, Billing, Meters

Usd = Annotated[str, Meta(pattern=r"^-?[0-9]+(\.[0-9]{1,9})?$", description="USD, exact to the last digit")]
Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]

T = TypeVar("T")


class Page(Struct, Generic[T], frozen=True, kw_only=True):
    data: list[T]
    next: str | None
    """The `cursor` of the next page; null: this is the last."""


class Told(Struct, frozen=True, kw_only=True):
    """Anything that is told."""

    def version(self) -> Any:
        """What of it admins change: its ETag is made of this. None: it has none."""
        return None

    def other_status(self) -> int | None:
        """Another status than the route's; None: that one."""
        return None


def _time(ms: int | None) -> str | None:
    return rfc3339(ms) if ms is not None else None


class User(Told, frozen=True, kw_only=True):
    user: str
    team: str | None
    plan: str | None
    billing: Billing
    """Of the account that pays."""
    account: str
    """Who pays."""
    email: str | None
    status: str
    created_at: Time
    leads: str | None
    """The team that it leads."""

    def version(self) -> Any:
        given = [self.user, self.team, self.plan, self.billing, self.account, self.email, self.status]
        return [*given, self.leads]


def user(row: Row) -> dict[str, Any]:
    return {
        "user": row["name"],
        "account": row["name"] if row["payer_kind"] == "user" else f"team:{row['team']}",
        "created_at": rfc3339(row["created_ms"]),
        **{name: row[name] for name in ("team", "plan", "email", "status", "leads")},
        "billing": Billing(row["billing"]),
    }


class UserDetails(User, frozen=True, kw_only=True):
    balance_usd: Usd
    available_usd: Usd
    keys: list[str]


class Team(Told, frozen=True, kw_only=True):
    team: str
    plan: str | None
    billing: Billing
    members: int
    created_at: Time

    def version(self) -> Any:
        return [self.team, self.plan, self.billing]


def team(row: Row, members: int) -> dict[str, Any]:
    return {
        "team": row["name"],
        "plan": row["plan"],
        "billing": Billing(row["billing"]),
        "members": members,
        "created_at": rfc3339(row["created_ms"]),
    }


class TeamDetails(Team, frozen=True, kw_only=True):
    balance_usd: Usd
    available_usd: Usd
    users: list[str]


class Key(Told, frozen=True, kw_only=True):
    id: str
    user: str
    name: str
    prefix: str
    plan: str | None
    models: list[str]
    ips: list[str]
    expires_at: Time | None
    last_used_at: Time | None
    status: str
    created_at: Time
    team: str | None
    tags: dict[str, str]
    note: str | None

    def version(self) -> Any:
        given = [self.name, self.prefix, self.models, self.ips, self.tags, self.note]
        return [self.id, *given, self.expires_at, self.status]


def key(row: Row) -> dict[str, Any]:
    return {
        **{name: row[name] for name in ("id", "user", "name", "prefix", "plan", "team", "note")},
        **{name: msgspec.json.decode(row[name]) for name in ("models", "ips", "tags")},
        **{f"{name}_at": _time(row[f"{name}_ms"]) for name in ("expires", "last_used", "created")},
        "status": row["state"],
    }


class IssuedKey(Key, frozen=True, kw_only=True):
    key: str
    """The only time that it is shown."""
    user_added: bool
    became_prepaid: bool


class Account(Told, frozen=True, kw_only=True):
    account: str
    kind: str
    user: str | None
    team: str | None
    billing: Billing
    balance_usd: Usd
    held_usd: Usd
    available_usd: Usd
    payer: str | None
    pays_for: list[str]


def account(row: Row) -> Account:
    return Account(
        account=row["name"] if row["kind"] == "user" else f"team:{row['name']}",
        **{name: row[name] for name in ("kind", "user", "team", "payer")},
        billing=Billing(row["billing"]),
        balance_usd=usd(row["balance_nano"]),
        held_usd=usd(row["held_nano"]),
        available_usd=usd(row["balance_nano"] - row["held_nano"]),
        pays_for=msgspec.json.decode(row["pays_for"]),
    )


class Entry(Told, frozen=True, kw_only=True):
    """One line of the ledger: `charged_usd` is what requests were charged since the one before."""

    entry: int
    time: Time
    kind: str
    amount_usd: Usd
    charged_usd: Usd
    balance_usd: Usd
    ref: str | None
    note: str | None
    reverses: int | None
    expires_at: Time | None
    actor: str
    left_usd: Usd | None
    cause: int | None
    other: str | None
    usage_id: int | None


def entry(row: Row, left: Mapping[int, int]) -> Entry:
    return Entry(
        entry=row["id"],
        time=rfc3339(row["created_ms"]),
        **{name: row[name] for name in ("kind", "ref", "note", "reverses", "cause", "other", "usage_id", "actor")},
        amount_usd=usd(row["amount_nano"]),
        charged_usd=usd(row["charged_nano"]),
        balance_usd=usd(row["balance_nano"]),
        expires_at=_time(row["expires_ms"]),
        left_usd=usd(left.get(row["id"], 0)) if row["expires_ms"] is not None else None,
    )


class Moved(Told, frozen=True, kw_only=True):
    entry: int
    account: str
    amount_usd: Usd
    balance_usd: Usd
    became_prepaid: bool
    repeated: bool
    """The `ref` was known: nothing was added again."""
    reversed_by: int | None
    """The entry that has undone it since."""


def moved(name: str, amount_nano: int, done: StoreMoved) -> Moved:
    return Moved(
        entry=done.entry_id,
        account=name,
        amount_usd=usd(amount_nano),
        balance_usd=usd(done.balance_nano),
        became_prepaid=done.became_prepaid,
        repeated=done.repeated,
        reversed_by=done.reversed_by,
    )


Figure = int | Usd


class Limit(Told, frozen=True, kw_only=True):
    target: str
    limit: str
    source: str
    used: Figure
    held: Figure
    remaining: Figure
    resets_at: Time | None


def limit(found: store_limits.Listed) -> Limit:
    return Limit(**store_limits.as_row(found.target, found.standing))


class Limits(Told, frozen=True, kw_only=True):
    """All limits that hold for a target; `source` says which are its own."""

    target: str
    limits: list[Limit]
    own: list[str]

    def version(self) -> Any:
        return [self.target, self.own]


class Plan(Told, frozen=True, kw_only=True):
    plan: str
    price_usd: Usd
    billing: Billing | None
    limits: list[str]
    overage_usd: Usd | None
    models: list[str]
    users: int


def plan(found: StorePlan, users: int) -> Plan:
    return Plan(
        plan=found.name,
        price_usd=usd(found.price_nano),
        billing=found.billing,
        overage_usd=usd(found.overage_nano) if found.overage_nano is not None else None,
        limits=[str(one) for one in found.limits],
        models=list(found.models),
        users=users,
    )


class Model(Told, frozen=True, kw_only=True):
    """What 1M tokens are charged, and what each of another unit is: of a path, and of what isn't sold by tokens."""

    model: str
    upstream: str
    input_usd: Usd | None
    output_usd: Usd | None
    cached_input_usd: Usd | None
    free: bool
    price_usd: Usd | None = None
    per: str | None = None


def model(line: Listing) -> Model:
    return Model(
        model=line.model,
        upstream=line.upstream,
        input_usd=_usd(line.input),
        output_usd=_usd(line.output),
        cached_input_usd=_usd(line.cached_input),
        free=line.free,
        price_usd=_usd(line.price),
        per=line.per,
    )


def _usd(nano: int | None) -> Usd | None:
    return None if nano is None else usd(nano)


def path(name: str, table: PathTable) -> Model:
    """A path that the config sells."""
    price_nano = to_nano(table.price or 0)
    return Model(
        model=name,
        upstream=table.upstream,
        input_usd=None,
        output_usd=None,
        cached_input_usd=None,
        free=not price_nano,
        price_usd=None if table.unmetered else usd(price_nano),
        per=None if table.unmetered else table.unit,
    )


class UpstreamState(Told, frozen=True, kw_only=True):
    """An upstream, and what the worker that answers knows of it."""

    upstream: str
    preset: str | None
    formats: list[str]
    base_url: str | None
    secret_set: bool
    ready: bool
    """False: it says itself that it isn't."""
    failing: list[str]
    """The models that it failed for lately: they are asked elsewhere first."""
    recent_requests: int
    recent_errors: int
    """Of the last five minutes."""


def upstream(found: Upstream, resting: Mapping[str, list[str]], recent: list[Row]) -> UpstreamState:
    mine = [row["status"] for row in recent if row["upstream"] == found.name]
    return UpstreamState(
        upstream=found.name,
        preset=found.preset,
        formats=list(found.formats),
        base_url=found.base_url or None,
        secret_set=bool(found.secrets) or found.auth == "none",
        ready=resting.get(found.name) != [],
        failing=resting.get(found.name, []),
        recent_requests=len(mine),
        recent_errors=mine.count("error"),
    )


class KeyRequest(Told, frozen=True, kw_only=True):
    """Somebody who asked for a key, or to be a user."""

    id: int
    user: str
    existing: bool
    """There is a user of this name: the key would be that user's."""
    note: str | None
    address: str
    email: str | None
    """As the issuer says who vouches for it; null: nobody does."""
    status: str
    created_at: Time
    decided_by: str | None
    decided_at: Time | None
    key: str | None


def key_request(row: Row) -> KeyRequest:
    return KeyRequest(
        **{name: row[name] for name in ("id", "note", "address", "email", "status", "decided_by")},
        user=row["username"],
        existing=bool(row["existing"]),
        created_at=rfc3339(row["created_ms"]),
        decided_at=_time(row["decided_ms"]),
        key=f"{row['user']}/{row['key_name']}" if row["key_id"] is not None else None,
    )


class Asked(Told, frozen=True, kw_only=True):
    """What became of a request for a key."""

    username: str
    status: Annotated[str, Meta(extra_json_schema={"enum": ["waiting", "denied", "issued"]})]
    key: str | None
    """The only time that it is shown; null: there is none yet."""
    secret: str | None
    """What to come back with to /public/keys/claim; told this once."""

    def other_status(self) -> int | None:
        return 202 if self.secret is not None else None


class MaskedKey(Struct, frozen=True, kw_only=True):
    key: str
    """Its first and its last four characters."""
    status: str


class PublicKeys(Told, frozen=True, kw_only=True):
    """What anybody may know of the keys that were asked for under a name."""

    username: str
    keys: list[MaskedKey]


class Usage(Told, frozen=True, kw_only=True):
    """A request that reached an upstream."""

    id: int
    time: Time
    request_id: str
    user: str
    team: str | None
    key: str
    model: str
    upstream: str
    format: str
    input_tokens: int
    cached_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    cost_usd: Usd
    charge_usd: Usd
    wasted_usd: Usd
    status: str
    source: str
    cost_source: str
    overrun: bool
    http_status: int | None
    streamed: bool
    duration_ms: int
    ttft_ms: int | None
    tags: dict[str, str]
    account: str


AS_STORED = (
    *("id", "request_id", "user", "team", "account", "model", "upstream", "format", "status", "source"),
    *("cost_source", "http_status", "duration_ms", "ttft_ms"),
)


def usage(row: Row) -> Usage:
    meters = Meters(*(row[name] for name in METERS))
    return Usage(
        **{name: row[name] for name in AS_STORED},
        time=rfc3339(row["time_ms"]),
        overrun=bool(row["overrun"]),
        streamed=bool(row["streamed"]),
        key=f"{row['user']}/{row['key']}",
        input_tokens=meters.input_tokens,
        cached_tokens=meters.cached_input,
        cache_write_tokens=meters.cache_write + meters.cache_write_1h,
        output_tokens=meters.output_tokens,
        reasoning_tokens=meters.reasoning,
        cost_usd=usd(row["cost_nano"]),
        charge_usd=usd(row["charge_nano"]),
        wasted_usd=usd(row["wasted_nano"]),
        tags=msgspec.json.decode(row["tags"]),
    )


class Sums(Told, frozen=True, kw_only=True):
    requests: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    tokens: int
    cost_usd: Usd
    charge_usd: Usd
    errors: int
    wasted_usd: Usd


def sums(row: Row) -> dict[str, Any]:
    return {
        **{name: row[name] for name in ("requests", "input_tokens", "cached_tokens", "output_tokens", "errors")},
        "tokens": row["input_tokens"] + row["output_tokens"],
        **{f"{name}_usd": usd(row[f"{name}_nano"]) for name in ("cost", "charge", "wasted")},
    }


class Group(Sums, frozen=True, kw_only=True):
    """The sums of a group, which those of the grouping columns name that were asked for."""

    user: str | msgspec.UnsetType | None = msgspec.UNSET
    team: str | msgspec.UnsetType | None = msgspec.UNSET
    key: str | msgspec.UnsetType | None = msgspec.UNSET
    model: str | msgspec.UnsetType | None = msgspec.UNSET
    upstream: str | msgspec.UnsetType | None = msgspec.UNSET
    plan: str | msgspec.UnsetType | None = msgspec.UNSET
    tag: str | msgspec.UnsetType | None = msgspec.UNSET
    hour: Time | msgspec.UnsetType = msgspec.UNSET
    day: str | msgspec.UnsetType = msgspec.UNSET
    week: str | msgspec.UnsetType = msgspec.UNSET
    month: str | msgspec.UnsetType = msgspec.UNSET


def group(by: list[str], row: Row) -> Group:
    named: dict[str, Any] = {name: rfc3339(row[name]) if name == "hour" else row[name] or None for name in by}
    return Group(**named, **sums(row))


class Report(Told, frozen=True, kw_only=True):
    since: str
    until: str
    """The first and the last day, both counted whole."""
    rows: list[Group]
    total: Sums
    pruned: int
    """Requests of this time that only roll-ups know, and that groups by tag and hour don't count."""


class Event(Told, frozen=True, kw_only=True):
    id: int
    time: Time
    kind: str
    target: str | None
    message: str


def event(row: Row) -> Event:
    return Event(time=rfc3339(row["time_ms"]), **{name: row[name] for name in ("id", "kind", "target", "message")})


class Act(Told, frozen=True, kw_only=True):
    id: int
    time: Time
    actor: str
    action: str
    target: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None


def act(row: Row) -> Act:
    changed = {name: msgspec.json.decode(row[name]) if row[name] else None for name in ("before", "after")}
    return Act(
        time=rfc3339(row["time_ms"]),
        **{name: row[name] for name in ("id", "actor", "action", "target")},
        before=_told(changed["before"]),
        after=_told(changed["after"]),
    )


def _told(fields: dict[str, Any] | None) -> dict[str, Any] | None:
    """What is kept in nano-USD and milliseconds, as everything else tells it."""
    if fields is None:
        return None
    told: dict[str, Any] = {}
    for name, value in fields.items():
        if name.endswith("_nano") and value is not None:
            told[f"{name.removesuffix('_nano')}_usd"] = usd(value)
        elif name == "expires_ms":
            told["expires_at"] = _time(value)
        else:
            told[name] = value
    return told


class Top(Sums, frozen=True, kw_only=True):
    user: str


class People(Struct, frozen=True, kw_only=True):
    total: int
    active_today: int


class Flight(Struct, frozen=True, kw_only=True):
    requests: int
    held_usd: Usd


class Monitor(Told, frozen=True, kw_only=True):
    users: People
    today: Sums
    top_users: list[Top]
    """Of today, the dearest first."""
    recent: list[Usage]
    """The latest requests, newest first."""
    in_flight: Flight
    upstreams: list[UpstreamState]


class Me(Told, frozen=True, kw_only=True):
    """Whose admin key this is, and what it may change."""

    admin: str
    scope: str


def me(admin: Admin) -> Me:
    return Me(admin=admin.name, scope=admin.scope)


class Fault(Struct, frozen=True, kw_only=True):
    message: str
    type: str
    param: str | None
    code: str


class Error(Struct, frozen=True, kw_only=True):
    error: Fault
