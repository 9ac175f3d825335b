"""`llmgate doctor`: everything that may be wrong around a gateway, each with its cure."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import stat
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import typer

from .. import catalogue, clock, money, routing
from ..config import (
    Config,
    InvalidConfig,
    Loaded,
    Resolved,
    Upstream,
    database_path,
    environment,
    known_upstreams,
    left_behind,
    timezone_name,
)
from ..config.paths import is_file
from ..errors import ConfigError, ProblemsFound, Refusal
from ..listening import missing, unavailable
from ..store import schema, workers
from ..store.condition import Condition, look
from ..store.db import now_ms
from .columns import Column, Kind
from .config import problems_of, without_plan
from .context import ABOUT_BEHIND, cure_behind, loaded, today
from .grammar import alone, verb
from .output import listing, verdict
from .serve import exposed
from .session import Format, session

app = alone()

COLUMNS = (Column("check", Kind.WORD), Column("status", Kind.STATE), Column("problem"))

LEAST_FREE = 512 * 2**20
"""Bytes of disk below which it is time to act: a full disk refuses every request."""

SOON_DAYS = 7
"""A certificate that ends within so many days: whoever renews it by itself has done so earlier."""

ORPHANED_MS = 2 * 60_000
"""A daemon books the holds of dead workers every 30 s."""

OLD_KEY_DAYS = 90
"""A key that nobody has sent for so long after it was made is one that nobody misses."""

AHEAD_MS = 60_000
"""By how much the last moment in the books may lie ahead: clocks are set by seconds."""


class Facts(msgspec.Struct, kw_only=True):
    """What was gathered; the checks look at nothing else. None: it could not be gathered, or there is none."""

    now_ms: int
    database: Path
    problems: list[str]
    """Of the config."""
    ready: Resolved | None = None
    """With the upstreams that nothing is missing of, if only others lack something."""
    zone: str | None = None
    """Of the config, if it says any."""
    plans: Collection[str] | None = None
    """Of the config."""
    modes: Mapping[Path, tuple[int, bool]] = {}
    """The permissions of config, .env and database, and whether others must not read the file."""
    left_behind: Path | None = None
    """The database that was used before there was a config, where this one has nothing in it yet."""
    is_writable: bool = True
    """Whether this user may write the database, or make it, and the log beside it."""
    free_bytes: int | None = None
    condition: Condition | None = None
    unavailable: str | None = None
    """Why nobody can listen where the config says, unless it is this database's own daemon that does."""
    certificate_ends_ms: int | None = None
    upstreams: Sequence[Any] = ()
    """What `gateway.checkup` found."""
    unpriced: Sequence[str] = ()


Check = Callable[[Facts], Iterator[str]]


# ── the checks ────────────────────────────────────────────────────────────────────────────────────────────────────────


def config(facts: Facts) -> Iterator[str]:
    yield from facts.problems
    if facts.ready and not facts.ready.config.upstreams:
        yield "there is no upstream: `llmgate init` writes a config, or set a secret such as OPENAI_API_KEY"


def permissions(facts: Facts) -> Iterator[str]:
    if not facts.is_writable:
        yield f"{facts.database} or its folder can't be written by this user: be its owner, or chown both"
    for path, (mode, private) in facts.modes.items():
        if mode & 0o022 and not private:
            yield f"{path} can be changed by others (mode {mode:o}): chmod go-w {path}"
        elif mode & 0o077 and private:
            yield f"{path} is open to others (mode {mode:o}): chmod 600 {path}"


def disk(facts: Facts) -> Iterator[str]:
    if facts.free_bytes is not None and facts.free_bytes < LEAST_FREE:
        yield f"the disk of {facts.database} has {facts.free_bytes / 2**20:,.0f} MiB left: free some, or move it"


def database(facts: Facts) -> Iterator[str]:
    if facts.left_behind:
        cure = cure_behind(facts.left_behind)
        yield f"{facts.database} is empty, but there is {facts.left_behind}, {ABOUT_BEHIND}: {cure}"
    if facts.condition and facts.condition.failure:
        yield facts.condition.failure
    elif facts.condition and facts.condition.damage:
        yield f"{facts.database} is damaged ({facts.condition.damage}): `llmgate db restore FILE` with a backup"


def migrations(facts: Facts) -> Iterator[str]:
    if facts.condition is None or facts.condition.failure:
        return
    found = facts.condition.schema
    if found > schema.VERSION:
        yield f"{facts.database} is of a newer llmgate (schema {found}, this one knows {schema.VERSION}): upgrade it"
    elif found < schema.VERSION:
        cure = "`llmgate db backup FILE`, then `llmgate db migrate`"
        yield f"{facts.database} is at schema {found} of {schema.VERSION}: {cure}"


def journal(facts: Facts) -> Iterator[str]:
    if facts.condition and not facts.condition.failure and facts.condition.journal != "wal":
        yield f"readers and writers wait for each other (journal {facts.condition.journal}): `llmgate db migrate`"


def time(facts: Facts) -> Iterator[str]:
    if facts.condition is None or not facts.condition.is_known:
        return
    ahead_ms = facts.condition.last_ms - facts.now_ms
    if ahead_ms > AHEAD_MS:
        yield (
            f"the clock is {ahead_ms // 1000:,} s behind what was written last "
            f"({clock.rfc3339(facts.condition.last_ms)}): set it, and let NTP keep it"
        )
    if facts.zone not in (None, facts.condition.zone):
        yield (
            f"timezone is {facts.zone}, but days are counted in {facts.condition.zone}: "
            f'`llmgate db set-zone {facts.zone}`, or timezone = "{facts.condition.zone}"'
        )


def holds(facts: Facts) -> Iterator[str]:
    if facts.condition is None:
        return
    seen = facts.condition
    if seen.orphans:
        cure = "restart the daemon" if seen.serving else "`llmgate serve` books them as it starts"
        yield f"{_holds(seen.orphans)} of workers that died ({_stuck(seen)}): {cure}"
    if seen.overdue:
        yield f"{_holds(seen.overdue)} older than any request may take ({_stuck(seen)}): restart the daemon"


def _holds(number: int) -> str:
    return f"{number} holds are" if number > 1 else "1 hold is"


def _stuck(seen: Condition) -> str:
    return f"{money.dollars(seen.stuck_nano)} are set aside"


def keys(facts: Facts) -> Iterator[str]:
    for name in facts.condition.unused if facts.condition else ():
        yield f"the key {name} was never used in {OLD_KEY_DAYS} days: `llmgate keys revoke {name}`"


def plans(facts: Facts) -> Iterator[str]:
    if facts.condition and facts.plans is not None:
        lost = [(name, plan) for name, plan in facts.condition.planned if plan not in facts.plans]
        yield from (without_plan(name, plan) for name, plan in lost)


def bind(facts: Facts) -> Iterator[str]:
    if facts.unavailable:
        yield facts.unavailable
    # Who names trusted proxies has one in front, and TLS is its business.
    if facts.ready and (lacking := missing(facts.ready.config)):
        yield lacking
    if facts.ready and not facts.ready.config.server.trusted_proxies and (warning := exposed(facts.ready)):
        yield warning


def certificate(facts: Facts) -> Iterator[str]:
    if facts.ready is None or facts.certificate_ends_ms is None:
        return
    days = (facts.certificate_ends_ms - facts.now_ms) // clock.DAY_MS
    file = facts.ready.config.server.certfile
    if days < 0:
        yield f"the certificate {file} has expired: renew it, and restart the daemon"
    elif days < SOON_DAYS:
        yield f"the certificate {file} ends in {days} days: renew it, and restart the daemon"


def prices(facts: Facts) -> Iterator[str]:
    for name in facts.unpriced:
        yield f"the model {name} has no price, so it is refused: `llmgate prices set {name} input=… output=…`"


def upstreams(facts: Facts) -> Iterator[str]:
    for one in facts.upstreams:
        yield from (f"{one.upstream}: {problem}" for problem in one.problems)


CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        config,
        permissions,
        disk,
        database,
        migrations,
        journal,
        time,
        holds,
        keys,
        plans,
        bind,
        certificate,
        prices,
        upstreams,
    )
}

NEED_CONFIG = {"bind", "certificate", "prices", "upstreams"}
NEED_DATABASE = {"database", "migrations", "journal"}
NEED_TABLES = {"time", "holds", "keys", "plans"}


def _skipped(name: str, facts: Facts) -> str | None:
    """Why a check could not look: what it looks at isn't there, or another check has the problem."""
    seen = facts.condition
    if (name in NEED_CONFIG and facts.ready is None) or (name == "plans" and facts.plans is None):
        return "not looked at: the config must be right first"
    if name == "upstreams" and facts.ready is not None and not facts.ready.upstreams:
        return f"none was asked: {'each lacks something, see config' if facts.problems else 'there is none'}"
    if name in NEED_DATABASE | NEED_TABLES and seen is None:
        return "not looked at: there is no database yet"
    if seen is None:
        return None
    if (name in NEED_DATABASE and name != "database" and seen.failure) or (name in NEED_TABLES and not seen.is_known):
        return "not looked at: the database must be right first"
    return None


# ── gathering ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _gather(ctx: typer.Context) -> Facts:
    """Everything that the checks look at. Nothing is changed, and nothing is asked for that costs money."""
    _, problems, ready = problems_of(ctx)
    facts = Facts(now_ms=now_ms(), database=Path(), problems=problems, ready=ready)
    try:
        written, env = _written(ctx)
        facts.database = database_path(session(ctx).database, written, env)
        facts.zone = timezone_name(written, env)
        facts.plans = frozenset(written.plans)
    except ConfigError:
        return facts  # it is among the problems
    facts.modes = _modes(written, facts.database)
    # os.path.exists never raises: what may not be looked at isn't there.
    folder = next(path for path in facts.database.parents if os.path.exists(path))  # noqa: PTH110
    is_there = os.path.exists(facts.database)  # noqa: PTH110
    facts.is_writable = os.access(folder, os.W_OK | os.X_OK) and (not is_there or os.access(facts.database, os.W_OK))
    facts.free_bytes = shutil.disk_usage(folder).free
    if is_there:
        longest_s = max((table.timeout.total for table in written.upstreams.values()), default=0)
        facts.condition = look(
            facts.database,
            orphaned_ms=facts.now_ms - ORPHANED_MS,
            overdue_ms=facts.now_ms - int(2 * longest_s * 1000) - ORPHANED_MS,
            unused_ms=facts.now_ms - OLD_KEY_DAYS * clock.DAY_MS,
        )
    behind = left_behind(session(ctx).database, written, env)
    if facts.condition is None or (facts.condition.is_known and not facts.condition.last_ms):
        facts.left_behind = behind
    if ready is not None:
        if not workers.living(facts.database):
            facts.unavailable = unavailable(ready.config.server.bind)
        if ready.config.server.certfile is not None:
            from ..listening import certificate_ends_ms

            facts.certificate_ends_ms = certificate_ends_ms(ready.config.server)
        facts.unpriced = list(_unpriced(ready.config, facts.condition))

        from ..gateway import checkup  # what asks takes a third of a second to import

        facts.upstreams = asyncio.run(checkup.check(ready.config, ready.upstreams.values(), env))
    return facts


def _written(ctx: typer.Context) -> Loaded:
    """The config, or what of it could be read: it says where the database is. Raises ConfigError for none of it."""
    try:
        return loaded(ctx)
    except InvalidConfig as error:
        if error.readable is None:
            raise
        return Loaded(error.readable, environment(error.readable.path, os.environ))


def _modes(config: Config, database: Path) -> dict[Path, tuple[int, bool]]:
    """Who may do what with the files that hold keys, money and secrets, as far as they are there."""
    private = {database: True}
    if config.path:
        literal = any(
            "${" not in secret.reveal() for table in config.upstreams.values() for secret in table.api_key or ()
        )
        private |= {config.path: literal} | {config.path.with_name(name): True for name in (".env", ".env.local")}
    return {path: (stat.S_IMODE(path.stat().st_mode), secret) for path, secret in private.items() if is_file(path)}


def _unpriced(config: Config, condition: Condition | None) -> Iterator[str]:
    """Models of `[models]` that would be refused for want of a price."""
    book = condition.book if condition else Condition().book
    catalogue.use(book.edition, book.catalogue)
    upstreams: dict[str, Upstream] = known_upstreams(config)
    for name in config.models:
        try:
            routing.resolve_any(config, upstreams, name, today(), book)
        except Refusal as refusal:
            if refusal.code == "model_not_priced":
                yield name


@verb(
    app,
    "doctor",
    examples="""
    llmgate doctor
    llmgate doctor --json
    """,
)
def doctor(ctx: typer.Context) -> None:
    """Look for everything that may be wrong, and say how to mend it. Exit code 3 for problems.

    The config and its secrets, permissions, disk, database, migrations, clock and zone, stuck holds, old keys, plans,
    the address and its certificate, prices, and each upstream. Nothing is changed, and nothing is asked that costs
    money.
    """
    facts = _gather(ctx)
    found = {name: list(check(facts)) for name, check in CHECKS.items()}
    problems = [{"check": name, "problem": problem} for name in found for problem in found[name]]
    skipped = {name: why for name in found if not found[name] and (why := _skipped(name, facts))}
    status = {name: "error" if found[name] else "skipped" if name in skipped else "ok" for name in found}
    if session(ctx).wanted is Format.JSON:
        checks = [{"check": name, "status": status[name]} for name in found]
        json.dump({"ok": not problems, "checks": checks, "problems": problems}, sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        rows = [
            {"check": name, "status": status[name], "problem": problem}
            for name in found
            for problem in found[name] or (skipped.get(name),)
        ]
        listing(ctx, COLUMNS, rows, empty="")
    if problems:
        number = len(problems)
        raise ProblemsFound(f"{number} {'problem' if number == 1 else 'problems'} found, each with its cure")
    verdict(ctx, f"all is well: {sum(said == 'ok' for said in status.values())} checks")
