"""The grammar of the file: a table is a struct, an option is a field, and its type says what may stand there."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Literal

import msgspec

from .. import issuers, pricing
from ..issuers import ISSUERS, Issuer
from ..presets import PRESETS, UNKNOWN, Format, OnDisconnect, Preset
from .rules import (
    Auth,
    BaseUrl,
    Bind,
    Cap,
    ClaimName,
    Count,
    Database,
    Domain,
    Duration,
    Expression,
    FilePath,
    Grace,
    HeaderName,
    HeaderValue,
    HealthPath,
    IssuerName,
    IssuerUrl,
    LimitText,
    MeterUnit,
    Method,
    ModelGlob,
    ModelName,
    Network,
    Origin,
    PassedPath,
    Percent,
    PlanName,
    PresetName,
    Price,
    Proxy,
    PublicUrl,
    Quantity,
    QueryName,
    QueryValue,
    RoutePath,
    ScopeName,
    Seconds,
    Secret,
    SecretText,
    SecretTexts,
    SessionTime,
    Size,
    TeamName,
    Text,
    ThePath,
    UpstreamModel,
    UpstreamName,
    Usd,
    WayIn,
    Workers,
    Zone,
    fixed_ms,
)


class Server(msgspec.Struct, frozen=True, kw_only=True):
    bind: Bind = "127.0.0.1:8000"
    public_url: PublicUrl | None = None
    workers: Workers = 1
    engine: Literal["hypercorn", "uvicorn"] = "hypercorn"
    max_body: Size = 32 * 2**20
    certfile: FilePath | None = None
    keyfile: FilePath | None = None
    trusted_proxies: tuple[Network, ...] = ()
    client_ip_header: HeaderName | None = None
    cors_origins: tuple[Origin, ...] = ()
    usage_in_body: bool = False
    passthrough: tuple[PassedPath, ...] = ()
    shutdown_grace: Grace = 30.0
    body_timeout: Seconds = 60.0
    metrics: Literal["admin", "loopback", "off"] = "admin"


class Defaults(msgspec.Struct, frozen=True, kw_only=True):
    billing: Literal["metered", "prepaid"] = "metered"
    limits: tuple[LimitText, ...] = ()
    max_output: Count = 16_384
    flat_rate: Usd | None = None


class Log(msgspec.Struct, frozen=True, kw_only=True):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"
    file: FilePath | None = None


class Accounting(msgspec.Struct, frozen=True, kw_only=True):
    durability: Literal["normal", "full"] = "normal"
    interrupted: Literal["input", "none"] = "input"
    alert_at: tuple[Percent, ...] = (80, 100)
    low_balance: tuple[Usd, ...] = ()


class Timeout(msgspec.Struct, frozen=True, kw_only=True):
    connect: Seconds = 5.0
    first_byte: Seconds = 600.0
    idle: Seconds = 300.0
    total: Seconds = 3600.0


class UpstreamTable(msgspec.Struct, frozen=True, kw_only=True):
    """An upstream as it is written. None: as its preset has it."""

    preset: PresetName | None = None
    base_url: BaseUrl | None = None
    format: Format | None = None
    api_key: SecretTexts | None = None
    """One, or several that are used in turn."""
    api_key_file: FilePath | None = None
    auth: Auth | None = None
    query: Mapping[QueryName, QueryValue] = msgspec.field(default_factory=dict)
    headers: Mapping[HeaderName, HeaderValue] = msgspec.field(default_factory=dict)
    price: Price | None = None
    cost: Price | None = None
    timeout: Timeout = Timeout()
    ask_usage: bool | None = None
    on_disconnect: OnDisconnect | None = None
    service_tier: Literal["default", "flex", "priority"] | None = None
    """What a request means there that asks for none, or for "auto"."""
    identify: bool = False
    proxy: Proxy | None = None
    ca_file: FilePath | None = None
    health: HealthPath | None = None

    def __repr__(self) -> str:
        return f"UpstreamTable(preset={self.preset!r}, base_url={self.base_url!r})"


class Route(msgspec.Struct, frozen=True, kw_only=True):
    upstream: UpstreamName
    model: UpstreamModel | None = None
    """None: it calls the model as the client does."""
    weight: Count = 1


class ModelTable(msgspec.Struct, frozen=True, kw_only=True):
    routes: tuple[Route, ...] = ()
    fallbacks: tuple[ModelName, ...] = ()
    """Models that answer where none of the routes does."""
    price: Price | None = None
    cost: Price | None = None
    max_output: Count | None = None


class PathTable(msgspec.Struct, frozen=True, kw_only=True):
    """A path of the admin's own: where it goes, how it is metered, and what a unit is sold for."""

    upstream: UpstreamName
    path: ThePath | None = None
    """Below the upstream's address; None: the same."""
    methods: tuple[Method, ...] = ("POST",)
    meter: Expression | None = None
    """None: each request is one unit."""
    unit: MeterUnit = "request"
    fallback: Quantity | None = None
    most: Count | None = None
    price: Usd | None = None
    cost: Usd | None = None
    """None: the price."""
    unmetered: bool = False


class PlanTable(msgspec.Struct, frozen=True, kw_only=True):
    price: Usd = Decimal(0)
    limits: tuple[LimitText, ...] = ()
    models: tuple[ModelGlob, ...] = ()
    overage: Usd | None = None
    billing: Literal["metered", "prepaid"] | None = None


class InvoiceTable(msgspec.Struct, frozen=True, kw_only=True):
    """Who issues invoices."""

    name: Text | None = None
    address: tuple[Text, ...] = ()
    """Line by line."""
    note: Text | None = None


class SelfService(msgspec.Struct, frozen=True, kw_only=True):
    """Keys that people ask for themselves: whether they get one, and what it may do."""

    mode: Literal["off", "approval", "open"] = "off"
    plan: PlanName | None = None
    credits: Usd | None = None
    """Of a user that is new."""
    limits: tuple[LimitText, ...] = ()
    """Of the key."""
    models: tuple[ModelGlob, ...] = ()
    expires: Duration | None = None
    team: TeamName | None = None
    per_address: Cap = "5/day"
    per_name: Cap = "3/day"


class SignIn(msgspec.Struct, frozen=True, kw_only=True):
    """How people sign in to the pages."""

    session: SessionTime = "12h"

    @property
    def session_ms(self) -> int:
        return fixed_ms(self.session)


class OidcTable(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody whose word on who a person is signs that person in."""

    preset: IssuerName | None = None
    issuer: IssuerUrl | None = None
    """None: as its preset has it."""
    client_id: Text
    client_secret: SecretText
    label: Text | None = None
    scopes: tuple[ScopeName, ...] = ()
    """Empty: as its preset has them."""
    claim: ClaimName = "email"
    """What tells which user it is: the address, if it is verified; any other is the user's name."""
    allowed_domains: tuple[Domain, ...] = ()
    """Of verified addresses. Empty: it needs none."""
    new_users: Literal["refuse", "approval", "create"] = "refuse"
    """What becomes of people who are no user yet. The safest by default: at a public issuer everybody has an account,
    and a user is somebody who spends money."""
    team: TeamName | None = None
    plan: PlanName | None = None
    proxy: Proxy | None = None
    ca_file: FilePath | None = None


class Config(msgspec.Struct, frozen=True, kw_only=True):
    database: Database | None = None
    timezone: Zone | None = None
    server: Server = Server()
    defaults: Defaults = Defaults()
    log: Log = Log()
    accounting: Accounting = Accounting()
    upstreams: Mapping[UpstreamName, UpstreamTable] = msgspec.field(default_factory=dict)
    models: Mapping[ModelName, ModelTable] = msgspec.field(default_factory=dict)
    routes: Mapping[RoutePath, PathTable] = msgspec.field(default_factory=dict)
    plans: Mapping[PlanName, PlanTable] = msgspec.field(default_factory=dict)
    invoice: InvoiceTable = InvoiceTable()
    self_service: SelfService = SelfService()
    sign_in: SignIn = SignIn()
    oidc: Mapping[WayIn, OidcTable] = msgspec.field(default_factory=dict)
    path: Path | None = None
    """Where it was read; None for one made of the environment. Not an option."""
    listed: Mapping[str, pricing.Price] = msgspec.field(default_factory=dict)
    """Prices of $MODEL_PRICING_JSON by the models' names without their capitals: they hold where nothing here says
    otherwise. Not an option."""
    admin_token: Secret | None = None
    """$ADMIN_TOKEN: whoever has it may use the admin API. Not an option."""

    @property
    def folder(self) -> Path | None:
        """What the relative paths in it are relative to."""
        return self.path.parent if self.path else None

    @property
    def source(self) -> str:
        """What errors call it."""
        return str(self.path) if self.path else "environment"


def preset_of(name: str, table: UpstreamTable) -> Preset:
    """What is known of an upstream: by its `preset`, else by its name."""
    return PRESETS.get(table.preset or name, UNKNOWN)


def issuer_of(name: str, table: OidcTable) -> Issuer:
    """What is known of an issuer of identities: by the table's `preset`, else by its name."""
    return ISSUERS.get(table.preset or name, issuers.UNKNOWN)


def label_of(name: str, table: OidcTable) -> str:
    """What people call an issuer of identities."""
    return table.label or issuer_of(name, table).label or name


def formats_of(table: UpstreamTable, preset: Preset) -> tuple[Format, ...]:
    return (table.format,) if table.format else preset.formats


def passed_to(config: Config, path: str) -> str | None:
    """The upstream of a path that has no route: the first that speaks the format it belongs to. As everywhere, the
    sandbox is only meant where it is alone."""
    spoken: Format = "anthropic" if path.startswith("/v1/messages") else "openai"
    presets = {name: preset_of(name, table) for name, table in config.upstreams.items()}
    real = [name for name, preset in presets.items() if preset.name != "sandbox"] or list(presets)
    return next((name for name in real if spoken in formats_of(config.upstreams[name], presets[name])), None)
