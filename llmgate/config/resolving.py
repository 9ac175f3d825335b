"""A config made ready: its references replaced, its secrets read, its upstreams completed by their presets."""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import msgspec
from msgspec.structs import replace

from ..errors import reason
from ..presets import Format, OnDisconnect, Preset
from .paths import is_file, located
from .reading import BAD, REFERENCE, InvalidConfig, PathOf, Reader, dotted, hints_of, mapping_of, not_about, split
from .rules import VISIBLE, Price, Rule, Secret
from .tables import Config, OidcTable, Timeout, UpstreamTable, formats_of, preset_of
from .variables import secret_variable

AuthKind = Literal["bearer", "header", "query", "none"]


class Upstream(msgspec.Struct, frozen=True, kw_only=True):
    """An upstream, complete: what is written, else what its preset says."""

    name: str
    preset: str | None
    formats: tuple[Format, ...]
    base_url: str
    """Without a trailing slash; empty for the sandbox, which is inside this process."""
    auth: AuthKind
    auth_name: str
    """The header or query parameter that carries the secret."""
    secrets: tuple[Secret, ...] = ()
    """Used in turn. None where none is needed, and in a config that isn't resolved."""
    headers: Mapping[str, str]
    query: Mapping[str, str]
    timeout: Timeout
    ask_usage: bool
    on_disconnect: OnDisconnect
    service_tier: str | None = None
    """What a request means that asks for none, or for "auto"."""
    price: Price | None
    cost: Price | None
    catalogue: str | None
    cost_reported: bool
    output_fields: tuple[str, ...]
    output_write: str
    deployments: bool
    identify: bool
    """Whether it is told who asks, and under which plan."""
    proxy: str | None
    """The HTTP proxy on the way there, with the password that it may ask for."""
    ca: str | None = None
    """PEM: the only authorities that may vouch for it. None: the usual ones. Read once with the config, so that a
    reload changes all or nothing."""
    health: str | None
    """Where it says whether it is ready, below the address without its version."""

    @property
    def secret(self) -> Secret | None:
        """For whoever asks only now and then."""
        return self.secrets[0] if self.secrets else None

    def __repr__(self) -> str:
        return f"Upstream(name={self.name!r}, preset={self.preset!r}, base_url={self.base_url!r})"


class Resolved(NamedTuple):
    """A config whose references are replaced, and its upstreams with their secrets."""

    config: Config
    upstreams: Mapping[str, Upstream]


def known_upstreams(config: Config) -> dict[str, Upstream]:
    """All upstreams, completed by their presets, for whoever needs no secret."""
    return {name: _complete(name, table) for name, table in config.upstreams.items()}


def resolve(config: Config, env: Mapping[str, str]) -> Resolved:
    """Everything that `serve` needs: no reference left, every secret there. All that is missing is one error."""
    ready, problems = resolve_part(config, env)
    if problems:
        raise InvalidConfig(config.source, problems)
    return ready


def resolve_part(config: Config, env: Mapping[str, str]) -> tuple[Resolved, list[str]]:
    """The same for whoever goes on with the upstreams that nothing is missing of; and everything that is missing."""
    expander = _Expander(env, config)
    ready = expander.expand(Config, config, ())
    secrets = {name: expander.secrets(name, table) for name, table in ready.upstreams.items()}
    authorities = {
        name: expander.authorities(("upstreams", name), table.ca_file) for name, table in ready.upstreams.items()
    }
    ready = replace(ready, oidc={name: expander.issuer(name, table) for name, table in ready.oidc.items()})
    wrong = expander.problems
    broken = {name for name in secrets if len(not_about(wrong, [dotted("upstreams", name)])) < len(wrong)}
    ready = replace(ready, upstreams={**ready.upstreams, **{name: config.upstreams[name] for name in broken}})
    complete = known_upstreams(ready)
    upstreams = {
        name: replace(complete[name], secrets=secrets[name], ca=authorities[name])
        for name in secrets
        if name not in broken
    }
    return Resolved(ready, upstreams), wrong


class Place(NamedTuple):
    """Where an upstream's secret stands; never the secret."""

    name: str
    """`$VARIABLE`, the path of a file, or that it is written in the config."""
    filled: bool


def secret_places(config: Config, name: str, env: Mapping[str, str]) -> tuple[Place, ...]:
    """Where the secrets of an upstream are looked for, in their order; nowhere if it needs none."""
    table = config.upstreams[name]
    preset = preset_of(name, table)
    if _auth(table, preset)[0] == "none":
        return ()
    if table.api_key:
        return tuple(_place(secret.reveal(), env) for secret in table.api_key)
    if table.api_key_file:
        file = located(table.api_key_file, config.folder or Path.cwd(), env)
        return (Place(table.api_key_file, is_file(file)),)
    variable = secret_variable(preset, env)
    return tuple(Place(f"${name}", bool(variable)) for name in (variable or "", *preset.secret_env) if name)[:1]


def _place(text: str, env: Mapping[str, str]) -> Place:
    variables = dict.fromkeys(REFERENCE.findall(text))
    named = " ".join(f"${variable}" for variable in variables) or "the config"
    return Place(named, all(env.get(variable) for variable in variables))


def _complete(name: str, table: UpstreamTable) -> Upstream:
    preset = preset_of(name, table)
    kind, auth_name = _auth(table, preset)
    formats = formats_of(table, preset)
    base_url = re.sub(r"(?<!:)/{2,}", "/", table.base_url or preset.base_url or "").rstrip("/")
    if formats == ("anthropic",) and not base_url.endswith("/v1"):
        base_url += "/v1"  # its own SDK takes the address without
    return Upstream(
        name=name,
        preset=preset.name or None,
        formats=formats,
        base_url=base_url,
        auth=kind,
        auth_name=auth_name,
        headers=table.headers,
        query={**preset.query, **table.query},
        timeout=table.timeout,
        ask_usage=preset.ask_usage if table.ask_usage is None else table.ask_usage,
        on_disconnect=table.on_disconnect or preset.on_disconnect,
        service_tier=table.service_tier,
        price=table.price,
        cost=table.cost or preset.cost,
        catalogue=preset.catalogue,
        cost_reported=preset.cost_reported,
        output_fields=preset.output_fields,
        output_write=preset.output_write,
        deployments=preset.deployments and not base_url.endswith("/v1"),
        identify=table.identify,
        proxy=table.proxy,
        health=table.health or preset.health,
    )


def _auth(table: UpstreamTable, preset: Preset) -> tuple[AuthKind, str]:
    written = table.auth or preset.auth
    if written == "none" and (table.api_key or table.api_key_file):
        written = "bearer"  # a preset that needs no secret, and an admin who gave one
    kind, _, name = written.partition(":")
    return typing.cast("AuthKind", kind), name or ("authorization" if kind == "bearer" else "")


class _Expander(Reader):
    """Replaces references, and puts what came of it through the same rules."""

    def __init__(self, env: Mapping[str, str], config: Config) -> None:
        super().__init__()
        self.env = env
        self.folder = config.folder or Path.cwd()
        self.reads_dotenv = config.folder is not None

    def expand(self, hint: Any, value: Any, path: PathOf) -> Any:
        base, rule = split(hint)
        if isinstance(value, msgspec.Struct):
            hints = hints_of(type(value))
            changed = {key: self.expand(hints[key], getattr(value, key), (*path, key)) for key in hints}
            return replace(value, **changed)
        if isinstance(value, tuple):
            return tuple(self.expand(get_args(base)[0], item, (*path, index)) for index, item in enumerate(value))
        mapping = mapping_of(base)
        if mapping and isinstance(value, Mapping):
            return {key: self.expand(mapping[1], item, (*path, key)) for key, item in value.items()}
        return self.text(rule, value, path) if isinstance(value, str) else value

    def text(self, rule: Rule, value: str, path: PathOf) -> Any:
        if "${" in value:
            before = len(self.problems)
            replaced = self.replaced(value, path)
            if len(self.problems) > before:
                return value
            value = self.checked(rule, replaced, path)
        return str(located(value, self.folder, self.env)) if rule.file and value is not BAD else value

    def replaced(self, text: str, path: PathOf) -> str:
        """The text with its references replaced, once: what a variable holds is not looked at again."""
        for name in dict.fromkeys(REFERENCE.findall(text)):
            if not self.env.get(name):
                self.problems.append(f"{dotted(*path)} needs the environment variable {name}, {self.lack(name)}")
        return REFERENCE.sub(lambda match: self.env.get(match[1], ""), text)

    def lack(self, name: str) -> str:
        """What is the matter with a variable, and what to do about it."""
        if name in self.env:
            return "which is empty: give it a value where it is set"
        return f"which is not set: export it{', or write it into .env beside the config' if self.reads_dotenv else ''}"

    def secrets(self, name: str, table: UpstreamTable) -> tuple[Secret, ...]:
        preset = preset_of(name, table)
        if _auth(table, preset)[0] == "none":
            return ()
        before = len(self.problems)
        found = self.secret_texts(("upstreams", name), table, preset)
        for path, text in found if len(self.problems) == before else ():
            if not re.fullmatch(VISIBLE, text):
                self.problems.append(f"{dotted(*path)} is empty or has a character that no HTTP header can carry")
        return tuple(Secret(text) for _, text in found)

    def secret_texts(self, at: PathOf, table: UpstreamTable, preset: Preset) -> list[tuple[PathOf, str]]:
        """An upstream's secrets, and where each stands."""
        key: PathOf = (*at, "api_key")
        if table.api_key:
            several = len(table.api_key) > 1
            paths: list[PathOf] = [(*key, index) if several else key for index in range(len(table.api_key))]
            texts = [secret.reveal() for secret in table.api_key]
            return [(path, self.replaced(text, path).strip()) for path, text in zip(paths, texts, strict=True)]
        if table.api_key_file:
            path = (*at, "api_key_file")
            return [(path, self.text_of(Path(table.api_key_file), path).strip())]
        if variable := secret_variable(preset, self.env):
            return [(key, self.env[variable].strip())]
        self.problems.append(f"{dotted(*key)} is missing: {_about_missing_key(preset, self.env)}")
        return []

    def issuer(self, name: str, table: OidcTable) -> OidcTable:
        """An issuer of identities with its secret."""
        at: PathOf = ("oidc", name)
        self.authorities(at, table.ca_file)
        return replace(table, client_secret=Secret(self.replaced(table.client_secret.reveal(), (*at, "client_secret"))))

    def authorities(self, table: PathOf, ca_file: str | None) -> str | None:
        """The certificates in a `ca_file`."""
        if ca_file is None:
            return None
        at: PathOf = (*table, "ca_file")
        before = len(self.problems)
        pem = self.text_of(Path(ca_file), at)
        if len(self.problems) == before:
            import ssl  # takes 10 ms, and few upstreams need it

            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem)
            except (ssl.SSLError, ValueError):
                self.problems.append(f"{dotted(*at)}: {ca_file} holds no certificate in PEM form")
        return pem

    def text_of(self, path: Path, at: PathOf) -> str:
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            self.problems.append(f"{dotted(*at)}: {path} can't be read ({reason(error)})")
            return ""


def _about_missing_key(preset: Preset, env: Mapping[str, str]) -> str:
    empty = next((name for name in preset.secret_env if name in env), None)
    if empty:
        return f"{empty} is empty: give it a value, or write api_key or api_key_file"
    if preset.secret_env:
        return f"set {' or '.join(preset.secret_env)} in the environment or in .env, or write api_key or api_key_file"
    return 'write api_key or api_key_file, or auth = "none" if it needs no secret'


def expanded(config: Config, key: str, env: Mapping[str, str]) -> str | None:
    """One text at the top of the config, ready for use."""
    value: str | None = getattr(config, key)
    if value is None:
        return None
    expander = _Expander(env, config)
    text = expander.text(split(hints_of(Config)[key])[1], value, (key,))
    if expander.problems:
        raise InvalidConfig(config.source, expander.problems)
    return str(text)
