"""Where things are: the config, the environment beside it, the database, the address to listen on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from ..errors import ConfigError, UsageError, reason
from . import rules
from .paths import DATABASE_NAME, FILE_NAME, is_file, located, xdg
from .reading import read
from .resolving import expanded
from .rules import Secret
from .tables import Config
from .variables import prices_from_environment, upstreams_from_environment


class Loaded(NamedTuple):
    """A config as written, and the environment that its references are looked up in."""

    config: Config
    env: Mapping[str, str]


def load(
    explicit: str | Path | None = None, *, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Loaded:
    """The config in use, wherever it is, and the environment with the `.env` files beside it."""
    real = os.environ if env is None else env
    here = cwd or Path.cwd()
    path = find_config(explicit, real, here)
    merged = environment(path, real)
    config = read(path, merged) if path else Config(upstreams=upstreams_from_environment(merged))
    listed = prices_from_environment(merged, config.folder or here)
    token = Secret(merged["ADMIN_TOKEN"]) if merged.get("ADMIN_TOKEN") else None
    return Loaded(replace(config, listed=listed, admin_token=token), merged)


def find_config(explicit: str | Path | None, env: Mapping[str, str], cwd: Path) -> Path | None:
    """`--config`, `$LLMGATE_CONFIG`, `./llmgate.toml`, `$XDG_CONFIG_HOME/llmgate/llmgate.toml`, in this order.

    One that was asked for by name must be there.
    """
    for asked, where in ((explicit, "--config"), (env.get("LLMGATE_CONFIG"), "LLMGATE_CONFIG")):
        if asked:
            path = located(str(asked), cwd, env)
            if os.path.isdir(path):  # noqa: PTH112 - never raises, as for a name that is too long
                raise ConfigError(f"{path} is a folder ({where} names it): name the file in it, such as {FILE_NAME}")
            if not is_file(path):
                raise ConfigError(f"{path}: there is no such file ({where} names it). Make one with `llmgate init`.")
            return path
    candidates = (cwd / FILE_NAME, xdg("XDG_CONFIG_HOME", ".config", env) / "llmgate" / FILE_NAME)
    return next((path for path in candidates if is_file(path)), None)


def environment(config_path: Path | None, env: Mapping[str, str]) -> dict[str, str]:
    """The environment over `.env.local` over `.env`, both read beside the config in use and nowhere else.

    Values are taken as they stand: a `$` in a secret is a `$`.
    """
    if config_path is None:
        return dict(env)
    return _dotenv(config_path.with_name(".env")) | _dotenv(config_path.with_name(".env.local")) | dict(env)


def _dotenv(path: Path) -> dict[str, str]:
    if not is_file(path):
        return {}
    from dotenv import dotenv_values  # a twentieth of a command's time, and few have such a file

    try:
        values = dotenv_values(path, interpolate=False)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} can't be read: {reason(error)}") from error
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
        (expanded(config, "database", env), f"{config.source}: database", config.folder or here),
    )
    for text, where, folder in given:
        if text:
            return located(_database_file(text, where), folder, env)
    return (config.folder or xdg("XDG_DATA_HOME", ".local/share", env) / "llmgate") / DATABASE_NAME


def left_behind(explicit: str | None, config: Config, env: Mapping[str, str]) -> Path | None:
    """The database in the data folder, where commands without a config work on it and this config has another place.

    Who had keys before there was a config finds none after. A database named otherwise than by the config was meant.
    """
    default = xdg("XDG_DATA_HOME", ".local/share", env) / "llmgate" / DATABASE_NAME
    meant = explicit or env.get("LLMGATE_DB") or env.get("DATABASE_PATH")
    if meant or config.folder is None or database_path(None, config, env) == default or not is_file(default):
        return None
    return default


def timezone_name(config: Config, env: Mapping[str, str]) -> str | None:
    """The zone that the config asks for, if it does."""
    return expanded(config, "timezone", env)


def split_bind(text: str) -> tuple[str, int]:
    """`127.0.0.1:8000` or `[::1]:8000` as host and port."""
    try:
        host, _, port = rules.bind(text).rpartition(":")
    except ValueError as error:
        raise UsageError(f"{text!r} is no address to listen on: write host:port, such as 127.0.0.1:8000.") from error
    return host.strip("[]"), int(port)


def _database_file(text: str, where: str) -> str:
    """The file that a path or an SQLite URL names: `sqlite:///relative.db`, `sqlite:////absolute.db`."""
    try:
        return rules.database(text).removeprefix("sqlite:///")
    except ValueError as error:
        detail = f": {error}" if str(error) else ""
        raise ConfigError(f"{where} must be the path of an SQLite file, or sqlite:///path{detail}.") from error
