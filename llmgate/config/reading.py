"""TOML into structs by their annotations, with every problem that is in it."""

from __future__ import annotations

import re
import tomllib
import typing
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
from msgspec.structs import replace

from ..errors import ConfigError, reason
from ..issuers import ISSUERS
from ..limits import included_tokens
from ..limits import parse as parse_limit
from ..money import to_nano
from ..presets import PRESETS, Preset
from ..quoting import MOST_NANO
from .paths import FILE_NAME
from .rules import Rule, Secret, because, nearest, one_of
from .tables import Config, PathTable, PlanTable, issuer_of, passed_to, preset_of
from .variables import upstreams_from_environment


class InvalidConfig(ConfigError):
    """Everything that is wrong with a config; the message is the first of it.

    `readable` is what could be read of it, for whoever looks for further problems; `faulty` are the tables that
    something is missing of.
    """

    def __init__(
        self, source: str, problems: Sequence[str], readable: Config | None = None, faulty: Sequence[str] = ()
    ) -> None:
        more = f" ({len(problems) - 1} more: see `llmgate config check`)" if len(problems) > 1 else ""
        super().__init__(f"{source}: {problems[0]}{more}")
        self.problems = tuple(problems)
        self.readable = readable
        self.faulty = tuple(faulty)


def read(path: Path, env: Mapping[str, str]) -> Config:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} can't be read: {reason(error)}") from error
    return parse(text, path, env)


def parse(text: str, path: Path | None = None, env: Mapping[str, str] | None = None) -> Config:
    """The checked config in a text. One without upstreams takes those of the environment, as no config at all does."""
    source = str(path or FILE_NAME)
    try:
        raw = tomllib.loads(text, parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        raise InvalidConfig(source, [f"this is no TOML: {_about_toml(str(error))}"]) from error
    reader = Reader()
    config = replace(typing.cast("Config", reader.table(Config, raw, ())), path=path)
    if not raw.get("upstreams"):
        config = replace(config, upstreams=upstreams_from_environment(env or {}))
    # What a table with a fault in it lacks besides may only follow from that.
    found = [problem for check in _CHECKS for problem in check(config)]
    problems = [*reader.problems, *not_about(found, reader.faulty)]
    if problems:
        raise InvalidConfig(source, problems, config, reader.faulty)
    return config


_TOML = {
    "Invalid value": "what stands behind the = is no value; a text stands in quotes",
    "Expected '='": "a key, an = and a value belong on a line",
    "Invalid statement": "this line is no key = value and no [table]",
    "Expected newline": "something follows the value on its line",
    "Cannot overwrite": "this key stands there twice",
    "Cannot declare": "this table stands there twice",
    "Cannot mutate": "this table is closed: its keys belong where it began",
    "Unclosed array": "a [ of a list is not closed",
    "Unclosed inline table": "a { is not closed",
    "Unterminated string": "a text has no quote at its end",
    "Expected \"'": "a text has no quote at its end",
    "Illegal character": "there is a character that may not stand there, such as a line's end within quotes",
    "Invalid initial character": "a key begins with a letter, a digit, _ or -, or stands in quotes",
    "Unescaped": "a \\ in a text must be doubled, or the text stand in single quotes",
    "Invalid hex": "a \\u or \\U in a text must be followed by digits",
    "Invalid date": "there is no such date",
    "Expected ']'": "a [table] is not closed",
    "Expected ']]'": "a [[table]] is not closed",
    "Duplicate inline table key": "this key stands there twice",
}
"""How a complaint of Python's reader begins, and what is meant."""


def _about_toml(complaint: str) -> str:
    """A complaint of Python's reader in words of ours, with its place."""
    what, _, place = complaint.rpartition(" (at ")
    meant = next((told for begin, told in _TOML.items() if what.startswith(begin)), what or complaint)
    return f"{meant} (at {place}" if what else meant


def not_about(problems: Sequence[str], tables: Sequence[str]) -> list[str]:
    """The problems that aren't about one of these tables."""
    return [problem for problem in problems if not problem.startswith(tuple(f"{table}." for table in tables))]


PathOf = tuple[str | int, ...]
REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
BAD = object()
"""Stands for a value whose problem is noted already."""


class Reader:
    """Turns TOML into structs by their annotations, and notes every problem instead of stopping at the first: what it
    is about is left out.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.faulty: list[str] = []
        """The tables of which something is left out."""

    def table(self, cls: type[msgspec.Struct], raw: Any, path: PathOf) -> Any:
        if not isinstance(raw, dict):
            return self.refuse(path, Rule("a table"), raw)
        before = len(self.problems)
        hints = hints_of(cls)
        for key in raw:
            if key not in hints:
                self.problems.append(f"{dotted(*path, key)} is no known key: {nearest(key, hints)}")
        values = {key: self.value(hint, raw[key], (*path, key)) for key, hint in hints.items() if key in raw}
        for field in msgspec.structs.fields(cls):
            if field.required and field.name not in raw:
                self.problems.append(f"{dotted(*path, field.name)} is missing")
        if path and len(self.problems) > before:
            self.faulty.append(dotted(*path))
        good = {key: value for key, value in values.items() if value is not BAD}
        return cls(**good) if all(not one.required or one.name in good for one in msgspec.structs.fields(cls)) else BAD

    def value(self, hint: Any, raw: Any, path: PathOf) -> Any:
        base, rule = split(hint)
        if isinstance(base, type) and issubclass(base, msgspec.Struct):
            return self.table(base, raw, path)
        if get_origin(base) is tuple:
            item = get_args(base)[0]
            if list in rule.accept and not isinstance(raw, list):  # one may stand there alone
                alone = self.value(item, raw, path)
                return BAD if alone is BAD else (alone,)
            return self.items(item, raw, path)
        mapping = mapping_of(base)
        if mapping and isinstance(raw, dict):
            before = len(self.problems)
            entries = self.entries(*mapping, raw, path)
            if len(self.problems) == before:
                return self.checked(rule, entries, path)
            return BAD if rule.check else entries
        return self.leaf(rule, raw, path)

    def items(self, hint: Any, raw: Any, path: PathOf) -> Any:
        if not isinstance(raw, list):
            return self.refuse(path, Rule("a list"), raw)
        found = (self.value(hint, item, (*path, index)) for index, item in enumerate(raw))
        return tuple(value for value in found if value is not BAD)

    def entries(self, key_hint: Any, hint: Any, raw: Mapping[str, Any], path: PathOf) -> dict[str, Any]:
        rule = split(key_hint)[1]
        for key in raw:
            self.name(rule, key, path)
        found = {key: self.value(hint, item, (*path, key)) for key, item in raw.items()}
        return {key: value for key, value in found.items() if value is not BAD}

    def name(self, rule: Rule, key: str, path: PathOf) -> None:
        try:
            self.call(rule, key)
        except ValueError as error:
            self.problems.append(f"{dotted(*path, key)}: {_shown(key)} is not {rule.what}{because(error)}")

    def leaf(self, rule: Rule, raw: Any, path: PathOf) -> Any:
        if type(raw) not in rule.accept:
            return self.refuse(path, rule, raw)
        if isinstance(raw, str) and "${" in raw and not rule.fixed:
            if "${" in REFERENCE.sub("", raw):
                self.problems.append(f"{dotted(*path)} has a reference that is not written ${{NAME}}")
                return BAD
            return Secret(raw) if rule.check is Secret else raw
        return self.checked(rule, raw, path)

    def checked(self, rule: Rule, value: Any, path: PathOf) -> Any:
        try:
            return self.call(rule, value)
        except ValueError as error:
            return self.refuse(path, rule, value, error)

    def call(self, rule: Rule, value: Any) -> Any:
        return rule.check(value) if rule.check else value

    def refuse(self, path: PathOf, rule: Rule, raw: Any, error: Exception | None = None) -> Any:
        instead = "" if rule.hidden and isinstance(raw, str) else f", not {_shown(raw)}"
        self.problems.append(f"{dotted(*path)} must be {rule.what}{instead}{because(error)}")
        return BAD


NO_OPTIONS = frozenset({(Config, "path"), (Config, "listed"), (Config, "admin_token")})


@cache
def hints_of(cls: type[msgspec.Struct]) -> dict[str, Any]:
    """The options of a table and what may stand there."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {name: hint for name, hint in hints.items() if (cls, name) not in NO_OPTIONS}


def split(hint: Any) -> tuple[Any, Rule]:
    """A hint without its None, and its rule: written beside it, or plain from the type."""
    if get_origin(hint) in (typing.Union, UnionType):
        (hint,) = (part for part in get_args(hint) if part is not NoneType)
    if get_origin(hint) is Annotated:
        base, rule = get_args(hint)
        return base, rule
    if get_origin(hint) is Literal:
        words = get_args(hint)
        return hint, Rule(" or ".join(f'"{word}"' for word in words), check=one_of(words), fixed=True)
    if hint is bool:
        return hint, Rule("true or false", accept=(bool,))
    return hint, Rule("a table", accept=(dict,))


def mapping_of(base: Any) -> tuple[Any, Any] | None:
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


def _shown(raw: Any) -> str:
    if isinstance(raw, bool):
        return str(raw).lower()
    if isinstance(raw, dict | list):
        return f"{'a' if raw else 'an empty'} {'table' if isinstance(raw, dict) else 'list'}"
    text = f'"{raw}"' if isinstance(raw, str) else str(raw)
    return text if len(text) <= 80 else f"{text[:76]}…{text[-1]}"


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
        if table.api_key == ():
            yield f"{at}.api_key must have a secret in its list"
        if table.api_key and table.api_key_file:
            yield f"{at}.api_key_file must be left out where api_key is written"
        if table.identify and {header.lower() for header in table.headers} & {"x-user-id", "x-plan-id"}:
            yield f"{at}.headers must not have X-User-ID or X-Plan-ID where identify is true: llmgate sends them"
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


def _check_plans(config: Config) -> Iterator[str]:
    for name, table in config.plans.items():
        quota = included_tokens(parse_limit(text) for text in table.limits)
        if table.overage is not None and (quota is None or quota.amount is None):
            yield (
                f"{dotted('plans', name, 'overage')} needs one limit on tokens per month among the limits, "
                'such as "100000 tokens/month": what the plan includes'
            )


def _check_fallbacks(config: Config) -> Iterator[str]:
    for model, table in config.models.items():
        for index, fallback in enumerate(table.fallbacks):
            if fallback == model:
                yield f"{dotted('models', model, 'fallbacks', index)} must be another model than {model}"


def _check_paths(config: Config) -> Iterator[str]:
    for path, table in config.routes.items():
        at = dotted("routes", path)
        if table.upstream not in config.upstreams:
            hint = nearest(table.upstream, config.upstreams, otherwise="")
            add = f"add [{dotted('upstreams', table.upstream)}]"
            yield f'{at}.upstream must be a configured upstream, not "{table.upstream}" ({hint or add})'
        if table.path is not None and table.path.endswith("*") != path.endswith("*"):
            yield f"{at}.path must end with * where the path that clients ask does, and only there"
        if table.methods == ():
            yield f"{at}.methods must have a method in its list"
        yield from _check_metering(at, table)


def _check_metering(at: str, table: PathTable) -> Iterator[str]:
    sold = {"price": table.price, "cost": table.cost}
    counted = {"meter": table.meter, "fallback": table.fallback, "most": table.most}
    if table.unmetered:
        said_all = (sold | counted).items()
        yield from (
            f"{at}.{key} must be left out where unmetered is true" for key, said in said_all if said is not None
        )
        return
    if table.price is None:
        yield f"{at}.price is missing: what each {table.unit} is sold for, 0 for nothing, or unmetered = true"
    if table.unit == "request":
        for key, said in counted.items():
            if said is not None:
                yield f"{at}.{key} must be left out where the unit is a request: say what is counted with unit"
        return
    for key, said in counted.items():
        if said is None:
            yield f"{at}.{key} is missing: {_ABOUT_METERING[key]}"
    if table.most is not None and table.fallback is not None and table.fallback > table.most:
        yield f"{at}.fallback must not be more than most"
    dearest = max(to_nano(table.price or 0), to_nano(table.cost or 0))
    if (table.most or 1) * dearest > MOST_NANO:
        yield f"{at}.most times the price must not be more than a request may ever cost, a million USD"


_ABOUT_METERING = {
    "meter": "where the answer says how many units there were",
    "fallback": "how many units are charged where the answer doesn't say it",
    "most": "how many units are set aside for accounts whose money can run out",
}


def _check_passthrough(config: Config) -> Iterator[str]:
    for index, path in enumerate(config.server.passthrough):
        at = dotted("server", "passthrough", index)
        if passed_to(config, path) is None:
            yield f"{at} needs an upstream that speaks the format of {path}, and there is none"
        if path in config.routes:
            yield f"{at} must not be {path}, which has a route"


def _check_self_service(config: Config) -> Iterator[str]:
    service = config.self_service
    if service.plan is not None and service.plan not in config.plans:
        hint = nearest(service.plan, config.plans, otherwise="") or f"add [{dotted('plans', service.plan)}]"
        yield f'self_service.plan must be one of [plans], not "{service.plan}" ({hint})'
    bounded = service.credits or service.limits or _is_bounded(config, service.plan)
    if service.mode == "open" and not bounded:
        yield (
            'self_service.mode must not be "open" as long as nothing bounds what such a key may spend: '
            "write limits, credits, or a plan with limits"
        )


def _is_bounded(config: Config, plan_name: str | None) -> bool:
    """Whether something bounds what a new user on a plan may spend."""
    plan = config.plans.get(plan_name or "", PlanTable())
    limited = plan.limits or config.defaults.limits
    return bool(limited) or (plan.billing or config.defaults.billing) == "prepaid"


def _check_oidc(config: Config) -> Iterator[str]:
    for name, table in config.oidc.items():
        at = dotted("oidc", name)
        known = issuer_of(name, table)
        if table.issuer is None and known.issuer is None:
            yield f"{at}.issuer is missing: {name} is no known issuer; {nearest(name, ISSUERS)}"
        if table.new_users == "create" and known.public and not table.allowed_domains:
            yield (
                f"{at}.allowed_domains is missing: everybody can have an account there, so say whose addresses make a "
                'user, or ["*"] for all the world'
            )
        if table.new_users == "create" and "*" in table.allowed_domains and not _is_bounded(config, table.plan):
            yield (
                f'{at}.allowed_domains must not be ["*"] as long as nothing bounds what such a user may spend: '
                "write a plan with limits, or [defaults] limits"
            )
        if table.claim != "email" and config.self_service.mode == "open":
            yield (
                f'{at}.claim must be "email" where self_service.mode is "open": there names are taken by whoever comes '
                "first, who would have a key of the one whose name it is"
            )
        if table.plan is not None and table.plan not in config.plans:
            hint = nearest(table.plan, config.plans, otherwise="") or f"add [{dotted('plans', table.plan)}]"
            yield f'{at}.plan must be one of [plans], not "{table.plan}" ({hint})'


_CHECKS = (
    *(_check_tls, _check_upstreams, _check_routes, _check_fallbacks, _check_plans, _check_paths, _check_passthrough),
    _check_self_service,
    _check_oidc,
)
