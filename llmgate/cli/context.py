"""The config and the database that a command works with."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from zoneinfo import ZoneInfo

import typer

from .. import catalogue, clock
from ..config import Config, Loaded, database_path, left_behind, load, timezone_name
from ..errors import ConfigError
from ..pricebook import NOTHING_SET, Book
from ..store import prices
from ..store.db import Database, now_ms, set_zone
from .session import Format, session


def loaded(ctx: typer.Context) -> Loaded:
    """The config in use and its environment, read once. Raises ConfigError."""
    held = session(ctx)
    if held.loaded is None:
        held.loaded = load(held.config_file)
    return held.loaded


def config_of(ctx: typer.Context) -> Config:
    return loaded(ctx).config


def store_path(ctx: typer.Context) -> Path:
    """Where the database is, or will be."""
    config, env = loaded(ctx)
    return database_path(session(ctx).database, config, env)


def open_store(ctx: typer.Context, *, create: bool = True, durable: bool = False) -> Database:
    """The database of this run, for the CLI and for the daemon. To be closed: `with open_store(ctx) as db`.

    A new one takes its time zone from the config. Raises ConfigError where the two disagree, and StorageError where the
    database can't be opened, or is missing although `create` is False.
    """
    db = open_any_zone(ctx, create=create, durable=durable)
    try:
        _check_zone(ctx, db)
    except BaseException:
        db.close()
        raise
    return db


def open_any_zone(ctx: typer.Context, *, create: bool = True, durable: bool = False) -> Database:
    """As `open_store`, but for the commands that mend a time zone."""
    db = Database(store_path(ctx), actor=actor(), durable=durable, create=create)
    if db.migrated_from == 0:
        _greet(ctx, db)
    return db


def _greet(ctx: typer.Context, db: Database) -> None:
    zone = timezone_name(*loaded(ctx))
    if zone:
        with db.write() as tx:
            set_zone(tx, zone)
    if session(ctx).wanted is not Format.JSON:
        session(ctx).afterwards.append(f"made the database {db.path}")
        session(ctx).afterwards.extend(about_behind(ctx, loaded(ctx)))


ABOUT_BEHIND = "which commands use where no config is found"


def about_behind(ctx: typer.Context, written: Loaded) -> list[str]:
    """What to say where keys and money are in another database than this config's, which is new."""
    behind = left_behind(session(ctx).database, *written)
    return [f"it is another one than {behind}, {ABOUT_BEHIND}: {cure_behind(behind)}"] if behind else []


def cure_behind(behind: Path) -> str:
    """How to go on with the database that was used before there was a config."""
    return f'to go on with that one, stop the daemon and `llmgate db restore {behind}`, or write database = "{behind}"'


def _check_zone(ctx: typer.Context, db: Database) -> None:
    problem = zone_problem(ctx, db)
    if problem:
        raise ConfigError(problem)


def zone_problem(ctx: typer.Context, db: Database) -> str | None:
    """What to tell where the config asks for another time zone than the book is kept in."""
    config, env = loaded(ctx)
    zone = timezone_name(config, env)
    if zone is None or zone == db.zone.key:
        return None
    return (
        f'{config.source}: timezone is "{zone}", but the days of {db.path} are counted in {db.zone.key}: '
        f'run `llmgate db set-zone {zone}`, or write timezone = "{db.zone.key}"'
    )


def book_of(ctx: typer.Context) -> Book:
    """The prices set that hold now, with the catalogue in use; none where there is no database yet."""
    if not store_path(ctx).exists():
        return NOTHING_SET
    with open_store(ctx) as db, db.read() as tx:
        book = prices.in_force(tx)
    catalogue.use(book.edition, book.catalogue)
    return book


def today() -> str:
    """The day by which list prices are dated: they change at midnight UTC, whatever the zone of the book."""
    return clock.day_of(now_ms(), ZoneInfo("UTC"))


def actor() -> str:
    """Who the audit says has done it."""
    try:
        return f"cli:{pwd.getpwuid(os.getuid()).pw_name}"
    except KeyError:
        return f"cli:{os.getuid()}"
