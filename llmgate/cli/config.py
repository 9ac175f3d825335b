"""`llmgate config`: where the config is, what it says, whether it is right."""

from __future__ import annotations

import json
import os
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import typer

from ..config import (
    Config,
    InvalidConfig,
    Resolved,
    dotted,
    environment,
    find_config,
    not_about,
    resolve_part,
    to_toml,
)
from ..errors import ConfigError, ProblemsFound
from ..store import accounts
from .columns import Column, Kind
from .context import config_of, loaded, open_any_zone, store_path, zone_problem
from .grammar import noun, verb
from .output import listing, single, verdict
from .session import Format, note, session

app = noun("config", "The config: where it is, what it says, whether it is right.")

OPTIONS = (Column("option"), Column("value"))
PATHS = (Column("config", Kind.WORD), Column("database", Kind.WORD))
PROBLEMS = (Column("problem"),)


@verb(
    app,
    "show",
    examples="""
    llmgate config show
    llmgate config show --format csv
    """,
)
def show(ctx: typer.Context) -> None:
    """Show the config in effect, as TOML: with the defaults, and without secrets."""
    text = to_toml(config_of(ctx))
    match session(ctx).wanted:
        case Format.TABLE:
            sys.stdout.write(text)
        case Format.JSON:
            json.dump(tomllib.loads(text, parse_float=str), sys.stdout, indent=2)
            sys.stdout.write("\n")
        case _:
            rows = [{"option": name, "value": value} for name, value in _flat(tomllib.loads(text, parse_float=str))]
            listing(ctx, OPTIONS, rows, empty="")


def _flat(value: Any, *path: str | int) -> Iterator[tuple[str, str]]:
    """Every option with its whole name."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _flat(part, *path, name)
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from _flat(part, *path, number)
    else:
        yield dotted(*path), str(value).lower() if isinstance(value, bool) else str(value)


@verb(
    app,
    "check",
    examples="""
    llmgate config check
    llmgate --config new.toml config check && mv new.toml llmgate.toml
    """,
)
def check(ctx: typer.Context) -> None:
    """Check the config as `serve` will: every key and value, every reference and secret. Exit code 3 for problems."""
    source, problems, _ = problems_of(ctx)
    with suppress(InvalidConfig):  # it is among the problems, and says where no database is looked for
        problems += _disagreements(ctx, config_of(ctx))
    if session(ctx).wanted is Format.JSON:
        json.dump({"ok": not problems, "config": source, "problems": problems}, sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        listing(ctx, PROBLEMS, [{"problem": problem} for problem in problems], empty="")
    if problems:
        raise ProblemsFound(f"{source}: {'1 problem' if len(problems) == 1 else f'{len(problems)} problems'} found")
    right = (
        f"{source} is right" if config_of(ctx).path else "there is no config file; what the environment says is right"
    )
    verdict(ctx, right)


def problems_of(ctx: typer.Context) -> tuple[str, list[str], Resolved | None]:
    """What the config is called, everything that is wrong with it, and what `serve` would make of it, if it can: where
    only upstreams lack something, with the others.
    """
    try:
        config, env = loaded(ctx)
    except InvalidConfig as error:
        path = find_config(session(ctx).config_file, os.environ, Path.cwd())
        return str(path), [*error.problems, *_further(error, environment(path, os.environ))], None
    ready, problems = resolve_part(config, env)
    if not_about(problems, [dotted("upstreams", name) for name in config.upstreams]):
        return config.source, problems, None
    return config.source, [*problems, *_unusable(ready.config)], ready


def _further(error: InvalidConfig, env: Mapping[str, str]) -> list[str]:
    """What else is missing where the config can't be read in parts, so that all of it is told at once."""
    if error.readable is None:
        return []
    _, missing = resolve_part(error.readable, env)
    return [problem for problem in not_about(missing, error.faulty) if problem not in error.problems]


def _unusable(ready: Config) -> Iterator[str]:
    """What `serve` would stumble over although it is written well: files that aren't there or can't be written."""
    checks: list[Callable[[], None]] = []
    if ready.server.certfile is not None:
        from ..listening import check_tls

        checks.append(partial(check_tls, ready.server))
    if ready.log.file is not None:
        from .. import logs

        checks.append(partial(logs.check, Path(ready.log.file)))
    for check_one in checks:
        try:
            check_one()
        except ConfigError as error:
            yield error.message


def _disagreements(ctx: typer.Context, config: Config) -> Iterator[str]:
    """What the config says otherwise than the database, if there is one."""
    if store_path(ctx).exists():
        with open_any_zone(ctx, create=False) as db:
            problem = zone_problem(ctx, db)
            with db.read() as tx:
                lost = accounts.without_plan(tx, config.plans)
                team = config.self_service.team
                teams = [row["name"] for row in accounts.list_teams(tx)]
        if problem:
            yield problem
        if team is not None and team not in teams:
            yield f"self_service.team is {team!r}, which isn't there: `llmgate teams add {team}` makes it"
        yield from (without_plan(name, plan) for name, plan in lost)


def without_plan(name: str, plan: str) -> str:
    """What to tell of a user or a team whose plan the config doesn't know."""
    kind, _, own = name.rpartition(":")
    cure = f"add [plans.{plan}], or `llmgate {kind or 'user'}s set {own} --plan …`"
    return f"{name} is on the plan {plan!r}, which isn't there: its requests are refused; {cure}"


EXAMPLE = "llmgate.toml.example"


@verb(
    app,
    "example",
    examples="""
    llmgate config example
    llmgate config example | grep -A 8 invoice
    """,
)
def example() -> None:
    """Show a config with every option there is: its default, and what it does. It is TOML in every format."""
    package = files(__package__.partition(".")[0])
    packed = package.joinpath(EXAMPLE)
    text = packed if packed.is_file() else package.joinpath("..", EXAMPLE)  # a checkout has it at its root
    sys.stdout.write(text.read_text(encoding="utf-8"))


@verb(
    app,
    "path",
    examples="""
    llmgate config path
    llmgate config path --json
    """,
)
def path(ctx: typer.Context) -> None:
    """Show which config and which database are in use; one that isn't there yet is shown as well."""
    config = config_of(ctx)
    single(ctx, PATHS, {"config": str(config.path) if config.path else None, "database": str(store_path(ctx))})
    if config.path is None:
        note("there is no config file: what the environment says is used, and the defaults")
