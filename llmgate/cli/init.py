"""`llmgate init`: write llmgate.toml."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from ..config import (
    FILE_NAME,
    database_path,
    default_toml,
    environment,
    find_config,
    load,
    split_bind,
    upstreams_from_environment,
)
from ..config.paths import is_file
from ..errors import Refusal, UsageError
from ..presets import PRESETS
from ..types import Billing
from .columns import Column, Kind
from .context import about_behind
from .grammar import alone, verb
from .options import words
from .output import result
from .session import agreed, ask, can_ask, note, session, uninterrupted
from .suggest import nearest
from .users import BillingOption

app = alone()

COLUMNS = (
    Column("config", Kind.WORD),
    Column("upstreams", Kind.LIST),
    Column("bind", Kind.WORD),
    Column("billing", Kind.WORD),
)

BIND = "127.0.0.1:8000"


@verb(
    app,
    "init",
    examples="""
    llmgate init
    llmgate init --upstream openai --upstream ollama --bind 0.0.0.0:8000
    llmgate init --upstream sandbox --billing prepaid --path /etc/llmgate/llmgate.toml --yes
    """,
)
def init(
    ctx: typer.Context,
    upstream: Annotated[
        list[str] | None,
        typer.Option("--upstream", metavar="NAME", help=f"Who answers: {', '.join(PRESETS)}."),
    ] = None,
    bind: Annotated[
        str | None, typer.Option("--bind", metavar="HOST:PORT", help=f"Where to listen [default: {BIND}].")
    ] = None,
    billing: BillingOption = None,
    path: Annotated[
        Path | None, typer.Option("--path", metavar="FILE", help=f"The file to write [default: {FILE_NAME}].")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if there is one.")] = False,
) -> None:
    """Write llmgate.toml.

    On a terminal it asks for what is not given: the upstreams (it says whose secrets are in the environment already),
    the address, the billing of new users; then it shows the file and asks before it writes. Elsewhere, and with --yes,
    it takes the upstreams whose secrets are in the environment, or else the sandbox.
    """
    file = path or session(ctx).config_file or Path(os.environ.get("LLMGATE_CONFIG") or FILE_NAME)
    if file.exists() and not force:
        raise Refusal(f"{file} exists already: change it by hand, or add --force to overwrite it", code="conflict")
    asking = can_ask() and not session(ctx).yes
    names = words(upstream) or _upstreams(file, asking=asking)
    where = bind or (_bind() if asking else BIND)
    split_bind(where)
    kind = billing or (_billing() if asking else Billing.METERED)
    text = default_toml(names, bind=where, billing=kind)
    sys.stderr.write(f"{text}\n")
    if asking and not agreed(f"Write {file}?", default=True):
        note("llmgate: nothing was written")
        raise typer.Exit(1)
    with uninterrupted():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    row = {"config": str(file), "upstreams": names, "bind": where, "billing": kind}
    result(ctx, COLUMNS, row, f"wrote {file}")
    _say_what_next(ctx, file, names)


def _found(env: Mapping[str, str]) -> list[str]:
    """The known upstreams whose secrets are in the environment."""
    return [name for name in upstreams_from_environment(env) if name in PRESETS]


def _upstreams(file: Path, *, asking: bool) -> list[str]:
    env = environment(file, os.environ)
    found = _found(env) or ["sandbox"]
    if not asking:
        return found
    note(f"Known upstreams: {', '.join(PRESETS)}. The sandbox answers by itself, to try things out.")
    there = [f"{name} ({of})" for of, preset in PRESETS.items() for name in preset.secret_env if env.get(name)]
    note(f"Secrets in the environment already: {', '.join(there) or 'none; they may stand in .env beside the file'}.")
    while True:
        names = words([ask("Upstreams", " ".join(found)) or " ".join(found)])
        strange = [name for name in names if name not in PRESETS]
        if names and not strange:
            return names
        near = nearest(strange[0], PRESETS) if strange else None
        hint = f": did you mean {near}?" if near else ""
        note(f"{strange[0]} is not known{hint}" if strange else "name at least one")


def _bind() -> str:
    while True:
        where = ask("Listen on", BIND) or BIND
        try:
            split_bind(where)
        except UsageError as error:
            note(error.message)
        else:
            return where


def _billing() -> Billing:
    while True:
        word = ask("Billing of new users, metered or prepaid", Billing.METERED) or Billing.METERED
        if word in tuple(Billing):
            return Billing(word)
        note("metered: what is used is counted; prepaid: a balance is needed")


def _say_what_next(ctx: typer.Context, file: Path, names: list[str]) -> None:
    env = environment(file, os.environ)
    for name in names:
        secrets = PRESETS[name].secret_env
        if secrets and not any(env.get(secret) for secret in secrets):
            note(f"set {secrets[0]} in the environment, or in .env beside {file.name}")
    written = load(file)
    chosen = database_path(session(ctx).database, *written)
    if not is_file(chosen):
        for line in about_behind(ctx, written):
            note(f"the database will be {chosen}; {line}")
    found = find_config(None, os.environ, Path.cwd())
    named = "" if found is not None and found.resolve() == file.resolve() else f" --config {file}"
    note(f"next: `llmgate{named} keys add USER` issues a key, `llmgate{named} serve` starts the gateway")
