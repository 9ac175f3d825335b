"""llmgate.toml: found, read, checked, and made ready for use.

    find_config ─► load ─► Config ───────────────────────► every command
                             └─► resolve ─► Resolved ────► the daemon and the checks

A `Config` is what is written: its `${NAME}`s are still references, so that a command that needs no secret works without
one. `resolve` replaces them, reads the secrets, and completes each upstream by its preset.

The structs below are the whole grammar: a field's type says what may stand there, and its `Rule` says it in words. A
table of the file is a struct, an option is a field; adding either is a change here and in llmgate.toml.example, which a
test compares. Errors name the file, the path of the key as one would write it, and what is allowed.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import tomllib
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin
from urllib.parse import urlsplit
from zoneinfo import available_timezones

import msgspec
import tomli_w
from dotenv import dotenv_values
from msgspec.structs import replace

from . import clock, limits
from .errors import ConfigError, UsageError
from .money import to_nano
from .presets import PRESETS, UNKNOWN, Format, OnDisconnect, Preset

FILE_NAME = "llmgate.toml"
DATABASE_NAME = "llmgate.db"

AuthKind = Literal["bearer", "header", "query", "none"]

TOKEN_PRICES = (
    "input",
    "cached_input",
    "cache_write",
    "cache_write_1h",
    "output",
    "reasoning",
    "audio_input",
    "audio_output",
    "image_input",
)
UNIT_PRICES = ("per_request", "per_image", "per_second", "per_search", "per_1k_characters")
PRICE_KEYS = TOKEN_PRICES + UNIT_PRICES
"""USD per 1M tokens, then USD per unit."""


class InvalidConfig(ConfigError):
    """Everything that is wrong with a config; the message is the first of it."""

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        more = f" ({len(problems) - 1} more: see `llmgate config check`)" if len(problems) > 1 else ""
        super().__init__(f"{source}: {problems[0]}{more}")
        self.problems = tuple(problems)


class Secret:
    """A text that no repr, log line or traceback shows."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "Secret(***)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


# ── what may stand in a field ─────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Rule:
    """A field's rule: `what` it must be, in words; the TOML types it may `accept`, exactly (a number in quotes is no
    number, and true is none either); a `check` that returns the value or raises ValueError with what is wrong.

    `fixed`: a word of llmgate's own, so no reference. `hidden`: an error must not show the value. `file`: a path
    relative to the config's folder.
    """

    what: str
    accept: tuple[type, ...] = (str,)
    check: Callable[[Any], Any] | None = None
    fixed: bool = False
    hidden: bool = False
    file: bool = False


def _matching(pattern: str) -> Callable[[str], str]:
    compiled = re.compile(pattern)

    def check(text: str) -> str:
        if compiled.fullmatch(text) is None:
            raise ValueError
        return text

    return check


def _count(number: int) -> int:
    if not 1 <= number <= 2**31:
        raise ValueError
    return number


def _seconds(number: int | Decimal) -> float:
    if not 0 < number <= 7 * 86_400:
        raise ValueError
    return float(number)


def _grace(number: int | Decimal) -> float:
    return 0.0 if number == 0 else _seconds(number)


_SIZE_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def _size(value: int | str) -> int:
    match = re.fullmatch(r"([0-9]{1,12}) ?([A-Za-z]*)", str(value))
    if match is None or match[2] not in _SIZE_UNITS or int(match[1]) == 0:
        raise ValueError
    return int(match[1]) * _SIZE_UNITS[match[2]]


def _usd(value: int | Decimal) -> Decimal:
    to_nano(str(value))
    return Decimal(value)


def _price(value: Mapping[str, Any] | str) -> Mapping[str, Any] | str:
    if not value or (isinstance(value, str) and value != "free"):
        raise ValueError
    return value


def _one_of(words: Sequence[str]) -> Callable[[str], str]:
    def check(text: str) -> str:
        if text not in words:
            raise ValueError(nearest(text, words, otherwise=""))
        return text

    return check


def _bind(text: str) -> str:
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        ipaddress.IPv6Address(host[1:-1])
    elif not re.fullmatch(r"[A-Za-z0-9._-]+", host):
        raise ValueError("an IPv6 address stands in brackets" if ":" in host else "")
    if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65_535:
        raise ValueError("a port is 0 to 65535")
    return text


def _network(text: str) -> str:
    return str(ipaddress.ip_network(text, strict=False))


def _limit(text: str) -> str:
    try:
        return str(limits.parse(text))
    except UsageError as error:
        raise ValueError(error.message) from error


def _percent(number: int) -> int:
    if not 1 <= number <= 100:
        raise ValueError
    return number


def _zone(name: str) -> str:
    try:
        return str(clock.zone(name))
    except UsageError as error:
        raise ValueError(nearest(name, sorted(available_timezones()), otherwise="")) from error


def _database(text: str) -> str:
    scheme, separator, rest = text.partition("://")
    if separator and scheme != "sqlite":
        raise ValueError("only SQLite is supported")
    if separator and not rest.startswith("/"):
        raise ValueError
    if (rest.removeprefix("/") if separator else text) in ("", ":memory:"):
        raise ValueError("a database in memory would be gone with the command")
    return text


def _base_url(text: str) -> str:
    if not re.fullmatch(r"[!-~]+", text):
        raise ValueError("there is a blank or a special character in it")
    url = urlsplit(text)
    if url.username is not None:
        raise ValueError("a user name or a secret does not belong in it")
    if url.scheme not in ("http", "https") or not url.hostname or url.port == 0:  # .port raises ValueError itself
        raise ValueError
    if url.query or url.fragment:
        raise ValueError("what follows the ? goes into query = { … }")
    return text


_TOKEN = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"  # noqa: S105 - a token as RFC 9110 has it
_VISIBLE = r"[!-~]([ -~]*[!-~])?"
_OWN_HEADERS = frozenset({"connection", "content-length", "host", "te", "transfer-encoding", "upgrade"})


def _header_name(name: str) -> str:
    if name.lower() in _OWN_HEADERS:
        raise ValueError("llmgate sets that one itself")
    return _matching(_TOKEN)(name)


# An annotation is an expression: each alias is a type for mypy, and a rule for the reader.
_NAME = r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}"
_MODEL = r"(?!.*\.\.)[A-Za-z0-9._:@/-]+"
_SECONDS = "a number of seconds above 0, at most a week"
_PRICES = f'"free", or a table with at least one of: {", ".join(PRICE_KEYS)}'

Text = Annotated[str, Rule("a text", check=_matching(r"[^\x00-\x1f\x7f]+"))]
FilePath = Annotated[str, Rule("the path of a file", check=_matching(r"[^\x00-\x1f\x7f]+"), file=True)]
SecretText = Annotated[Secret, Rule("a text, best a reference: ${NAME}", check=Secret, hidden=True)]
Seconds = Annotated[float, Rule(_SECONDS, accept=(int, Decimal), check=_seconds)]
Grace = Annotated[float, Rule("a number of seconds, at most a week", accept=(int, Decimal), check=_grace)]
Count = Annotated[int, Rule("a whole number of at least 1", accept=(int,), check=_count)]
Size = Annotated[int, Rule('a size such as "32MiB" or a number of bytes', accept=(int, str), check=_size, fixed=True)]
Usd = Annotated[Decimal, Rule("USD: 0 or more, at most 9 decimals", accept=(int, Decimal), check=_usd)]
Bind = Annotated[str, Rule('"host:port", such as "127.0.0.1:8000" or "[::1]:8000"', check=_bind)]
Network = Annotated[str, Rule('an address or a network, such as "10.0.0.0/8"', check=_network)]
Zone = Annotated[str, Rule('an IANA time zone, such as "UTC" or "Europe/Berlin"', check=_zone)]
Database = Annotated[str, Rule('the path of an SQLite file, or "sqlite:///path"', check=_database, hidden=True)]
BaseUrl = Annotated[str, Rule("an http:// or https:// URL without a query", check=_base_url, hidden=True)]
Auth = Annotated[
    str,
    Rule("bearer, header:NAME, query:NAME or none", check=_matching(rf"bearer|none|header:{_TOKEN}|query:{_TOKEN}")),
]
PresetName = Annotated[str, Rule(f"one of: {', '.join(PRESETS)}", check=_one_of(tuple(PRESETS)))]
UpstreamName = Annotated[str, Rule(f"the name of an upstream, {_NAME}", check=_matching(_NAME), fixed=True)]
ModelName = Annotated[str, Rule("the name of a model, [A-Za-z0-9._:@/-]+ without ..", check=_matching(_MODEL))]
UpstreamModel = Annotated[str, Rule("a name without blanks and ..", check=_matching(r"(?!.*\.\.)[!-~]+"))]
HeaderName = Annotated[str, Rule("the name of an HTTP header", check=_header_name)]
HeaderValue = Annotated[str, Rule("a text that an HTTP header can carry", check=_matching(_VISIBLE), hidden=True)]
QueryName = Annotated[str, Rule("the name of a query parameter", check=_matching(r"[!-~]+"))]
QueryValue = Annotated[str, Rule("a text", check=_matching(r"[^\x00-\x1f\x7f]*"), hidden=True)]
LimitText = Annotated[str, Rule(f"a limit, such as {limits.EXAMPLES}", check=_limit)]
Percent = Annotated[int, Rule("a percentage from 1 to 100", accept=(int,), check=_percent)]
PlanName = Annotated[str, Rule(f"the name of a plan, {_NAME}", check=_matching(_NAME), fixed=True)]
ModelGlob = Annotated[str, Rule("a model, or a glob such as gpt-4o*", check=_matching(r"[!-~]+"))]
PriceKey = Annotated[str, Rule(f"a price; known are {', '.join(PRICE_KEYS)}", check=_one_of(PRICE_KEYS))]
Price = Annotated[Mapping[PriceKey, Usd] | Literal["free"], Rule(_PRICES, check=_price, fixed=True)]


# ── the file ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Server(msgspec.Struct, frozen=True, kw_only=True):
    bind: Bind = "127.0.0.1:8000"
    max_body: Size = 32 * 2**20
    certfile: FilePath | None = None
    keyfile: FilePath | None = None
    trusted_proxies: tuple[Network, ...] = ()
    client_ip_header: HeaderName | None = None
    shutdown_grace: Grace = 30.0
    body_timeout: Seconds = 60.0


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
    api_key: SecretText | None = None
    api_key_file: FilePath | None = None
    auth: Auth | None = None
    query: Mapping[QueryName, QueryValue] = msgspec.field(default_factory=dict)
    headers: Mapping[HeaderName, HeaderValue] = msgspec.field(default_factory=dict)
    price: Price | None = None
    cost: Price | None = None
    timeout: Timeout = Timeout()
    ask_usage: bool | None = None
    on_disconnect: OnDisconnect | None = None

    def __repr__(self) -> str:
        return f"UpstreamTable(preset={self.preset!r}, base_url={self.base_url!r})"


class Route(msgspec.Struct, frozen=True, kw_only=True):
    upstream: UpstreamName
    model: UpstreamModel | None = None
    """None: it calls the model as the client does."""
    weight: Count = 1


class ModelTable(msgspec.Struct, frozen=True, kw_only=True):
    routes: tuple[Route, ...] = ()
    price: Price | None = None
    cost: Price | None = None
    max_output: Count | None = None


class PlanTable(msgspec.Struct, frozen=True, kw_only=True):
    price: Usd = Decimal(0)
    limits: tuple[LimitText, ...] = ()
    models: tuple[ModelGlob, ...] = ()


class Config(msgspec.Struct, frozen=True, kw_only=True):
    database: Database | None = None
    timezone: Zone | None = None
    server: Server = Server()
    defaults: Defaults = Defaults()
    log: Log = Log()
    accounting: Accounting = Accounting()
    upstreams: Mapping[UpstreamName, UpstreamTable] = msgspec.field(default_factory=dict)
    models: Mapping[ModelName, ModelTable] = msgspec.field(default_factory=dict)
    plans: Mapping[PlanName, PlanTable] = msgspec.field(default_factory=dict)
    path: Path | None = None
    """Where it was read; None for one made of the environment. Not an option."""

    @property
    def folder(self) -> Path | None:
        """What the relative paths in it are relative to."""
        return self.path.parent if self.path else None

    @property
    def source(self) -> str:
        """What errors call it."""
        return str(self.path) if self.path else "environment"


# ── ready for use ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Upstream(msgspec.Struct, frozen=True, kw_only=True):
    """An upstream, complete: what is written, else what its preset says."""

    name: str
    preset: str | None
    format: Format
    base_url: str
    """Without a trailing slash; empty for the sandbox, which is inside this process."""
    auth: AuthKind
    auth_name: str
    """The header or query parameter that carries the secret."""
    secret: Secret | None
    """None where none is needed, and in a config that isn't resolved."""
    headers: Mapping[str, str]
    query: Mapping[str, str]
    timeout: Timeout
    ask_usage: bool
    on_disconnect: OnDisconnect
    price: Price | None
    cost: Price | None
    catalogue: str | None
    cost_reported: bool
    output_fields: tuple[str, ...]
    output_write: str
    count_fields: tuple[str, ...]
    deployments: bool

    def __repr__(self) -> str:
        return f"Upstream(name={self.name!r}, preset={self.preset!r}, base_url={self.base_url!r})"


class Resolved(NamedTuple):
    """A config whose references are replaced, and its upstreams with their secrets."""

    config: Config
    upstreams: Mapping[str, Upstream]


class Loaded(NamedTuple):
    """A config as written, and the environment that its references are looked up in."""

    config: Config
    env: Mapping[str, str]


# ── finding ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def load(
    explicit: str | Path | None = None, *, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Loaded:
    """The config in use, wherever it is, and the environment with the `.env` files beside it."""
    real = os.environ if env is None else env
    path = find_config(explicit, real, cwd or Path.cwd())
    merged = environment(path, real)
    return Loaded(read(path, merged) if path else Config(upstreams=upstreams_from_environment(merged)), merged)


def find_config(explicit: str | Path | None, env: Mapping[str, str], cwd: Path) -> Path | None:
    """`--config`, `$LLMGATE_CONFIG`, `./llmgate.toml`, `$XDG_CONFIG_HOME/llmgate/llmgate.toml`, in this order.

    One that was asked for by name must be there.
    """
    for asked, where in ((explicit, "--config"), (env.get("LLMGATE_CONFIG"), "LLMGATE_CONFIG")):
        if asked:
            path = _located(str(asked), cwd, env)
            if not _is_file(path):
                raise ConfigError(f"{path}: there is no such file ({where} names it). Make one with `llmgate init`.")
            return path
    candidates = (cwd / FILE_NAME, _xdg("XDG_CONFIG_HOME", ".config", env) / "llmgate" / FILE_NAME)
    return next((path for path in candidates if _is_file(path)), None)


def environment(config_path: Path | None, env: Mapping[str, str]) -> dict[str, str]:
    """The environment over `.env.local` over `.env`, both read beside the config in use and nowhere else.

    Values are taken as they stand: a `$` in a secret is a `$`.
    """
    if config_path is None:
        return dict(env)
    return _dotenv(config_path.with_name(".env")) | _dotenv(config_path.with_name(".env.local")) | dict(env)


def _dotenv(path: Path) -> dict[str, str]:
    try:
        values = dotenv_values(path, interpolate=False) if _is_file(path) else {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} can't be read: {error}.") from error
    return {key: value for key, value in values.items() if value is not None}


def database_path(explicit: str | None, config: Config, env: Mapping[str, str], cwd: Path | None = None) -> Path:
    """`--db`, `$LLMGATE_DB`, `$DATABASE_PATH`, `database`, `llmgate.db` beside the config, or in `$XDG_DATA_HOME`."""
    here = cwd or Path.cwd()
    if explicit == "":
        raise UsageError("--db is empty: name a database, or leave it out")
    given = (
        (explicit, "--db", here),
        (env.get("LLMGATE_DB"), "LLMGATE_DB", here),
        (env.get("DATABASE_PATH"), "DATABASE_PATH", here),
        (_expanded(config, "database", env), f"{config.source}: database", config.folder or here),
    )
    for text, where, folder in given:
        if text:
            return _located(_database_file(text, where), folder, env)
    return (config.folder or _xdg("XDG_DATA_HOME", ".local/share", env) / "llmgate") / DATABASE_NAME


def timezone_name(config: Config, env: Mapping[str, str]) -> str | None:
    """The zone that the config asks for, if it does."""
    return _expanded(config, "timezone", env)


def split_bind(text: str) -> tuple[str, int]:
    """`127.0.0.1:8000` or `[::1]:8000` as host and port."""
    try:
        host, _, port = _bind(text).rpartition(":")
    except ValueError as error:
        raise UsageError(f"{text!r} is no address to listen on: write host:port, such as 127.0.0.1:8000.") from error
    return host.strip("[]"), int(port)


def _database_file(text: str, where: str) -> str:
    """The file that a path or an SQLite URL names: `sqlite:///relative.db`, `sqlite:////absolute.db`."""
    try:
        return _database(text).removeprefix("sqlite:///")
    except ValueError as error:
        detail = f": {error}" if str(error) else ""
        raise ConfigError(f"{where} must be the path of an SQLite file, or sqlite:///path{detail}.") from error


def _located(text: str, folder: Path, env: Mapping[str, str]) -> Path:
    if text == "~" or text.startswith("~/"):
        return _home(env) / text[2:]
    return folder / text


def _home(env: Mapping[str, str]) -> Path:
    return Path(env.get("HOME") or Path.home())


def _xdg(variable: str, otherwise: str, env: Mapping[str, str]) -> Path:
    """A base folder by the XDG specification, which says to ignore a relative one."""
    value = env.get(variable, "")
    return Path(value) if Path(value).is_absolute() else _home(env) / otherwise


def _is_file(path: Path) -> bool:
    """Whether there is a file to read; a folder that nobody may look into (a hidden home) has none."""
    try:
        return path.is_file()
    except OSError:
        return False


# ── reading ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def read(path: Path, env: Mapping[str, str]) -> Config:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} can't be read: {error}.") from error
    return parse(text, path, env)


def parse(text: str, path: Path | None = None, env: Mapping[str, str] | None = None) -> Config:
    """The checked config in a text. One without upstreams takes those of the environment, as no config at all does."""
    source = str(path or FILE_NAME)
    try:
        raw = tomllib.loads(text, parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        raise InvalidConfig(source, [f"this is no TOML: {error}"]) from error
    reader = _Reader()
    config = reader.table(Config, raw, ())
    if not reader.problems:
        config = replace(config, path=path, upstreams=config.upstreams or upstreams_from_environment(env or {}))
        reader.problems.extend(problem for check in _CHECKS for problem in check(config))
    if reader.problems:
        raise InvalidConfig(source, reader.problems)
    return typing.cast("Config", config)


_PathOf = tuple[str | int, ...]
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_BAD = object()
"""Stands for a value whose problem is noted already."""


class _Reader:
    """Turns TOML into structs by their annotations, and notes every problem instead of stopping at the first."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def table(self, cls: type[msgspec.Struct], raw: Any, path: _PathOf) -> Any:
        if not isinstance(raw, dict):
            return self.refuse(path, Rule("a table"), raw)
        before = len(self.problems)
        hints = _hints(cls)
        for key in raw:
            if key not in hints:
                self.problems.append(f"{dotted(*path, key)} is no known key: {nearest(key, hints)}")
        values = {key: self.value(hint, raw[key], (*path, key)) for key, hint in hints.items() if key in raw}
        for field in msgspec.structs.fields(cls):
            if field.required and field.name not in raw:
                self.problems.append(f"{dotted(*path, field.name)} is missing")
        return _BAD if len(self.problems) > before else cls(**values)

    def value(self, hint: Any, raw: Any, path: _PathOf) -> Any:
        base, rule = _split(hint)
        if isinstance(base, type) and issubclass(base, msgspec.Struct):
            return self.table(base, raw, path)
        if get_origin(base) is tuple:
            return self.items(get_args(base)[0], raw, path)
        mapping = _mapping(base)
        if mapping and isinstance(raw, dict):
            before = len(self.problems)
            entries = self.entries(*mapping, raw, path)
            return _BAD if len(self.problems) > before else self.checked(rule, entries, path)
        return self.leaf(rule, raw, path)

    def items(self, hint: Any, raw: Any, path: _PathOf) -> Any:
        if not isinstance(raw, list):
            return self.refuse(path, Rule("a list"), raw)
        return tuple(self.value(hint, item, (*path, index)) for index, item in enumerate(raw))

    def entries(self, key_hint: Any, hint: Any, raw: Mapping[str, Any], path: _PathOf) -> dict[str, Any]:
        rule = _split(key_hint)[1]
        for key in raw:
            self.name(rule, key, path)
        return {key: self.value(hint, item, (*path, key)) for key, item in raw.items()}

    def name(self, rule: Rule, key: str, path: _PathOf) -> None:
        try:
            self.call(rule, key)
        except ValueError as error:
            self.problems.append(f"{dotted(*path, key)}: {_shown(key)} is not {rule.what}{_because(error)}")

    def leaf(self, rule: Rule, raw: Any, path: _PathOf) -> Any:
        if type(raw) not in rule.accept:
            return self.refuse(path, rule, raw)
        if isinstance(raw, str) and "${" in raw and not rule.fixed:
            if "${" in _REFERENCE.sub("", raw):
                self.problems.append(f"{dotted(*path)} has a reference that is not written ${{NAME}}")
                return _BAD
            return Secret(raw) if rule.check is Secret else raw
        return self.checked(rule, raw, path)

    def checked(self, rule: Rule, value: Any, path: _PathOf) -> Any:
        try:
            return self.call(rule, value)
        except ValueError as error:
            return self.refuse(path, rule, value, error)

    def call(self, rule: Rule, value: Any) -> Any:
        return rule.check(value) if rule.check else value

    def refuse(self, path: _PathOf, rule: Rule, raw: Any, error: Exception | None = None) -> Any:
        instead = "" if rule.hidden and isinstance(raw, str) else f", not {_shown(raw)}"
        self.problems.append(f"{dotted(*path)} must be {rule.what}{instead}{_because(error)}")
        return _BAD


@cache
def _hints(cls: type[msgspec.Struct]) -> dict[str, Any]:
    """The options of a table and what may stand there."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {name: hint for name, hint in hints.items() if hint != Path | None}


def _split(hint: Any) -> tuple[Any, Rule]:
    """A hint without its None, and its rule: written beside it, or plain from the type."""
    if get_origin(hint) in (typing.Union, UnionType):
        (hint,) = (part for part in get_args(hint) if part is not NoneType)
    if get_origin(hint) is Annotated:
        base, rule = get_args(hint)
        return base, rule
    if get_origin(hint) is Literal:
        words = get_args(hint)
        return hint, Rule(" or ".join(f'"{word}"' for word in words), check=_one_of(words), fixed=True)
    if hint is bool:
        return hint, Rule("true or false", accept=(bool,))
    return hint, Rule("a table", accept=(dict,))


def _mapping(base: Any) -> tuple[Any, Any] | None:
    """The key and the value of a table whose keys are names, alone or beside a word."""
    for part in get_args(base) if get_origin(base) in (typing.Union, UnionType) else (base,):
        if get_origin(part) is Mapping:
            key, value = get_args(part)
            return key, value
    return None


def dotted(*path: str | int) -> str:
    """The path of a key as TOML would write it: `models."gpt-4.1".routes[0].upstream`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += "." * bool(text) + (part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else f'"{part}"')
    return text


def nearest(word: str, known: Mapping[str, Any] | Sequence[str], *, otherwise: str | None = None) -> str:
    """The word that was probably meant, else all of them, else `otherwise`."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]}?"
    return f"known are {', '.join(known)}" if otherwise is None else otherwise


def _shown(raw: Any) -> str:
    if isinstance(raw, bool):
        return str(raw).lower()
    if isinstance(raw, dict | list):
        return f"{'a' if raw else 'an empty'} {'table' if isinstance(raw, dict) else 'list'}"
    text = f'"{raw}"' if isinstance(raw, str) else str(raw)
    return text if len(text) <= 80 else f"{text[:76]}…{text[-1]}"


def _because(error: Exception | None) -> str:
    return f" ({error})" if error and str(error) else ""


# ── what one field alone can't tell ───────────────────────────────────────────────────────────────────────────────────


def _check_tls(config: Config) -> Iterator[str]:
    server = config.server
    if (server.certfile is None) != (server.keyfile is None):
        missing = "keyfile" if server.certfile else "certfile"
        yield f"server.{missing} is missing: certfile and keyfile go together"


def _check_upstreams(config: Config) -> Iterator[str]:
    for name, table in config.upstreams.items():
        preset = preset_of(name, table)
        at = dotted("upstreams", name)
        if table.base_url is None and preset.base_url is None and preset.name != "sandbox":
            yield f"{at}.base_url is missing{_about_missing_url(name, preset)}"
        if table.base_url and preset.name == "sandbox":
            yield f"{at}.base_url must be left out: the sandbox is inside llmgate"
        if table.api_key and table.api_key_file:
            yield f"{at}.api_key_file must be left out where api_key is written"
        if table.auth == "none" and (table.api_key or table.api_key_file):
            yield f'{at}.auth must not be "none" where a secret is written'


def _about_missing_url(name: str, preset: Preset) -> str:
    if preset.name:
        return f': preset "{preset.name}" has none, write where yours is'
    return f": {name} is no known upstream; {nearest(name, PRESETS)}"


def _check_routes(config: Config) -> Iterator[str]:
    for model, table in config.models.items():
        for index, route in enumerate(table.routes):
            if route.upstream not in config.upstreams:
                at = dotted("models", model, "routes", index, "upstream")
                hint = nearest(route.upstream, config.upstreams, otherwise="")
                add = f"add [{dotted('upstreams', route.upstream)}]"
                yield f'{at} must be a configured upstream, not "{route.upstream}" ({hint or add})'


_CHECKS = (_check_tls, _check_upstreams, _check_routes)


def preset_of(name: str, table: UpstreamTable) -> Preset:
    """What is known of an upstream: by its `preset`, else by its name."""
    return PRESETS.get(table.preset or name, UNKNOWN)


# ── no config at all ──────────────────────────────────────────────────────────────────────────────────────────────────


def upstreams_from_environment(env: Mapping[str, str]) -> dict[str, UpstreamTable]:
    """The upstreams whose variables are set; the sandbox if there is none. Secrets stay references."""
    found = {name: table for name, preset in PRESETS.items() if (table := _preset_from_environment(preset, env))}
    if base := env.get("UPSTREAM_BASE"):
        found["upstream"] = _nameless_from_environment(base, env)
    return found or {"sandbox": UpstreamTable()}


def _preset_from_environment(preset: Preset, env: Mapping[str, str]) -> UpstreamTable | None:
    variable = _secret_variable(preset, env)
    base_url = env.get(preset.base_url_env) if preset.base_url_env else None
    if variable is None or not (base_url or preset.base_url):
        return None
    secret = Secret(f"${{{variable}}}")
    if not base_url:
        return UpstreamTable(api_key=secret)
    version = env.get(preset.api_version_env) if preset.api_version_env else None
    url = _tailed(_valid_url(base_url, str(preset.base_url_env)), preset, version)
    return UpstreamTable(api_key=secret, base_url=url, query={"api-version": version} if version else {})


def _nameless_from_environment(base: str, env: Mapping[str, str]) -> UpstreamTable:
    """`UPSTREAM_BASE`: anything that speaks OpenAI; with `UPSTREAM_API_VERSION` it speaks as Azure does."""
    url, version = _valid_url(base, "UPSTREAM_BASE"), env.get("UPSTREAM_API_VERSION")
    secret = Secret("${UPSTREAM_API_KEY}") if env.get("UPSTREAM_API_KEY") else None
    auth = None if secret else "none"
    if not version:
        return UpstreamTable(base_url=url, api_key=secret, auth=auth)
    azure = PRESETS["azure"]
    url = url if urlsplit(url).path.strip("/") else _tailed(url, azure, version)
    return UpstreamTable(preset="azure", base_url=url, api_key=secret, auth=auth, query={"api-version": version})


def _secret_variable(preset: Preset, env: Mapping[str, str]) -> str | None:
    return next((name for name in preset.secret_env if env.get(name)), None)


def _valid_url(text: str, variable: str) -> str:
    try:
        return _base_url(text).rstrip("/")
    except ValueError as error:
        rule = "an http:// or https:// URL without a query"
        raise ConfigError(f"environment: {variable} must be {rule}{_because(error)}.") from error


def _tailed(url: str, preset: Preset, version: str | None) -> str:
    """A base URL as an SDK's variable has it, with what that SDK adds to it; Azure's API without versions is `v1`."""
    if not preset.base_url_tail or url.endswith("/v1"):
        return url
    url = url if url.endswith(preset.base_url_tail) else url + preset.base_url_tail
    return f"{url}/v1" if preset.deployments and not version else url


# ── making it ready ───────────────────────────────────────────────────────────────────────────────────────────────────


def known_upstreams(config: Config) -> dict[str, Upstream]:
    """All upstreams, completed by their presets, for whoever needs no secret."""
    return {name: _complete(name, table) for name, table in config.upstreams.items()}


def resolve(config: Config, env: Mapping[str, str]) -> Resolved:
    """Everything that `serve` needs: no reference left, every secret there. All that is missing is one error."""
    expander = _Expander(env, config)
    ready = expander.expand(Config, config, ())
    secrets = {name: expander.secret(name, table) for name, table in ready.upstreams.items()}
    if expander.problems:
        raise InvalidConfig(config.source, expander.problems)
    complete = known_upstreams(ready)
    return Resolved(ready, {name: replace(complete[name], secret=secret) for name, secret in secrets.items()})


def _complete(name: str, table: UpstreamTable) -> Upstream:
    preset = preset_of(name, table)
    kind, auth_name = _auth(table, preset)
    base_url = re.sub(r"(?<!:)/{2,}", "/", table.base_url or preset.base_url or "").rstrip("/")
    return Upstream(
        name=name,
        preset=preset.name or None,
        format=table.format or preset.format,
        base_url=base_url,
        auth=kind,
        auth_name=auth_name,
        secret=None,
        headers=table.headers,
        query={**preset.query, **table.query},
        timeout=table.timeout,
        ask_usage=preset.ask_usage if table.ask_usage is None else table.ask_usage,
        on_disconnect=table.on_disconnect or preset.on_disconnect,
        price=table.price,
        cost=table.cost or preset.cost,
        catalogue=preset.catalogue,
        cost_reported=preset.cost_reported,
        output_fields=preset.output_fields,
        output_write=preset.output_write,
        count_fields=preset.count_fields,
        deployments=preset.deployments and not base_url.endswith("/v1"),
    )


def _auth(table: UpstreamTable, preset: Preset) -> tuple[AuthKind, str]:
    written = table.auth or preset.auth
    if written == "none" and (table.api_key or table.api_key_file):
        written = "bearer"  # a preset that needs no secret, and an admin who gave one
    kind, _, name = written.partition(":")
    return typing.cast("AuthKind", kind), name or ("authorization" if kind == "bearer" else "")


class _Expander(_Reader):
    """Replaces references, and puts what came of it through the same rules."""

    def __init__(self, env: Mapping[str, str], config: Config) -> None:
        super().__init__()
        self.env = env
        self.folder = config.folder or Path.cwd()

    def expand(self, hint: Any, value: Any, path: _PathOf) -> Any:
        base, rule = _split(hint)
        if isinstance(value, msgspec.Struct):
            hints = _hints(type(value))
            changed = {key: self.expand(hints[key], getattr(value, key), (*path, key)) for key in hints}
            return replace(value, **changed)
        if isinstance(value, tuple):
            return tuple(self.expand(get_args(base)[0], item, (*path, index)) for index, item in enumerate(value))
        mapping = _mapping(base)
        if mapping and isinstance(value, Mapping):
            return {key: self.expand(mapping[1], item, (*path, key)) for key, item in value.items()}
        return self.text(rule, value, path) if isinstance(value, str) else value

    def text(self, rule: Rule, value: str, path: _PathOf) -> Any:
        if "${" in value:
            before = len(self.problems)
            replaced = self.replaced(value, path)
            if len(self.problems) > before:
                return value
            value = self.checked(rule, replaced, path)
        return str(_located(value, self.folder, self.env)) if rule.file and value is not _BAD else value

    def replaced(self, text: str, path: _PathOf) -> str:
        """The text with its references replaced, once: what a variable holds is not looked at again."""
        for name in dict.fromkeys(_REFERENCE.findall(text)):
            if not self.env.get(name):
                self.problems.append(f"{dotted(*path)} needs the environment variable {name}, which is not set")
        return _REFERENCE.sub(lambda match: self.env.get(match[1], ""), text)

    def secret(self, name: str, table: UpstreamTable) -> Secret | None:
        preset = preset_of(name, table)
        if _auth(table, preset)[0] == "none":
            return None
        before = len(self.problems)
        key, text = self.secret_text(("upstreams", name), table, preset)
        if len(self.problems) == before and not re.fullmatch(_VISIBLE, text):
            at = dotted("upstreams", name, key)
            self.problems.append(f"{at} is empty or has a character that no HTTP header can carry")
        return Secret(text)

    def secret_text(self, at: _PathOf, table: UpstreamTable, preset: Preset) -> tuple[str, str]:
        """The option that gave an upstream's secret, and the secret."""
        if table.api_key:
            return "api_key", self.replaced(table.api_key.reveal(), (*at, "api_key")).strip()
        if table.api_key_file:
            return "api_key_file", self.secret_file(Path(table.api_key_file), (*at, "api_key_file"))
        if variable := _secret_variable(preset, self.env):
            return "api_key", self.env[variable].strip()
        self.problems.append(f"{dotted(*at)}.api_key is missing: {_about_missing_key(preset)}")
        return "api_key", ""

    def secret_file(self, path: Path, at: _PathOf) -> str:
        try:
            return path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            self.problems.append(f"{dotted(*at)}: {path} can't be read ({reason})")
            return ""


def _about_missing_key(preset: Preset) -> str:
    if preset.secret_env:
        return f"set {' or '.join(preset.secret_env)} in the environment or in .env, or write api_key or api_key_file"
    return 'write api_key or api_key_file, or auth = "none" if it needs no secret'


def _expanded(config: Config, key: str, env: Mapping[str, str]) -> str | None:
    """One text at the top of the config, ready for use."""
    value: str | None = getattr(config, key)
    if value is None:
        return None
    expander = _Expander(env, config)
    text = expander.text(_split(_hints(Config)[key])[1], value, (key,))
    if expander.problems:
        raise InvalidConfig(config.source, expander.problems)
    return str(text)


# ── writing ───────────────────────────────────────────────────────────────────────────────────────────────────────────

MASK = "***"
_SECRET_NAME = re.compile(r"auth|cookie|key|password|secret|sig|token", re.IGNORECASE)


def to_toml(config: Config) -> str:
    """The config in effect, with the defaults and without secrets; a reference is shown as it is."""
    return tomli_w.dumps(_plain(config))


def _plain(value: Any, key: str = "") -> Any:
    if isinstance(value, msgspec.Struct):
        parts = ((name, getattr(value, name)) for name in _hints(type(value)))
        return {name: _plain(part, name) for name, part in parts if part is not None and part not in ((), {})}
    if key in ("headers", "query"):
        return {name: _masked(text) if _SECRET_NAME.search(name) else text for name, text in value.items()}
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    if isinstance(value, Secret):
        return _masked(value.reveal())
    if key == "max_body":
        return _size_text(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _masked(text: str) -> str:
    return text if _REFERENCE.fullmatch(text) else MASK


def _size_text(size: int) -> str:
    unit = next(unit for unit in ("GiB", "MiB", "KiB", "B") if size % _SIZE_UNITS[unit] == 0)
    return f"{size // _SIZE_UNITS[unit]}{unit}"


_LOCAL = {"price": "free"}
_STARTERS: Mapping[str, Mapping[str, Any]] = {
    "azure": {"base_url": "${AZURE_OPENAI_ENDPOINT}/openai/v1"},
    "llamacpp": {"base_url": "http://127.0.0.1:9931/v1", **_LOCAL},
    "ollama": _LOCAL,
    "vllm": {"base_url": "http://127.0.0.1:8001/v1", **_LOCAL},
}
"""What a new config says of an upstream beside its secret."""

_ABOUT_FILE = """\
# llmgate.toml: llmgate.toml.example has every option, `llmgate config check` checks this file.
# ${NAME} is taken from the environment, or from .env beside this file.
"""
_ABOUT_SERVER = """
# Where clients connect. 0.0.0.0 listens on every address: put TLS in front of it.
"""
_ABOUT_DEFAULTS = """
# Of a new user. metered: what is used is counted; prepaid: a balance is needed.
"""
_ABOUT_UPSTREAMS = """
# Who answers. A known name needs no more than its secret.
"""


def default_toml(
    upstreams: Sequence[str] = ("sandbox",),
    *,
    bind: str = "127.0.0.1:8000",
    billing: str = "metered",
    timezone: str | None = None,
) -> str:
    """What `llmgate init` writes: few lines, each of them said to be what it is."""
    top = {"database": DATABASE_NAME} | ({"timezone": timezone} if timezone else {})
    sections: tuple[tuple[str, dict[str, Any]], ...] = (
        (_ABOUT_FILE, top),
        (_ABOUT_SERVER, {"server": {"bind": bind}}),
        (_ABOUT_DEFAULTS, {"defaults": {"billing": billing}}),
        (_ABOUT_UPSTREAMS, {"upstreams": {name: _starter(name) for name in upstreams}}),
    )
    text = "".join(comment + tomli_w.dumps(table) for comment, table in sections)
    parse(text)
    return text


def _starter(name: str) -> dict[str, Any]:
    if name not in PRESETS:
        raise UsageError(f"{name!r} is no known upstream: {nearest(name, PRESETS)}.")
    secret_env = PRESETS[name].secret_env
    api_key = {"api_key": f"${{{secret_env[0]}}}"} if secret_env else {}
    return {**api_key, **_STARTERS.get(name, {})}
