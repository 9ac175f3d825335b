"""`llmgate init`: write llmgate.toml."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..config import FILE_NAME, default_toml, environment, find_config, split_bind, upstreams_from_environment
from ..errors import Refusal, UsageError
from ..presets import PRESETS
from ..types import Billing
from .columns import Column, Kind
from .grammar import alone, verb
from .options import words
from .output import result
from .session import can_ask, note, session
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

    On a terminal it asks for what is not given; elsewhere, and with --yes, it takes the upstreams whose secrets are in
    the environment, or else the sandbox.
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
    if asking and not typer.confirm(f"Write {file}?", default=True, err=True):
        note("llmgate: nothing was written")
        raise typer.Exit(1)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    row = {"config": str(file), "upstreams": names, "bind": where, "billing": kind}
    result(ctx, COLUMNS, row, f"wrote {file}")
    _say_what_next(file, names)


def _found(file: Path) -> list[str]:
    """The known upstreams whose secrets are in the environment."""
    env = environment(file, os.environ)
    return [name for name in upstreams_from_environment(env) if name in PRESETS]


def _upstreams(file: Path, *, asking: bool) -> list[str]:
    found = _found(file) or ["sandbox"]
    if not asking:
        return found
    note(f"Known upstreams: {', '.join(PRESETS)}. The sandbox answers by itself, to try things out.")
    while True:
        names = words([typer.prompt("Upstreams", default=" ".join(found), err=True)])
        strange = [name for name in names if name not in PRESETS]
        if names and not strange:
            return names
        note(f"{strange[0]} is not known" if strange else "name at least one")


def _bind() -> str:
    while True:
        where: str = typer.prompt("Listen on", default=BIND, err=True)
        try:
            split_bind(where)
        except UsageError as error:
            note(error.message)
        else:
            return where


def _billing() -> Billing:
    while True:
        word = typer.prompt("Billing of new users, metered or prepaid", default=Billing.METERED.value, err=True)
        if word in tuple(Billing):
            return Billing(word)
        note("metered: what is used is counted; prepaid: a balance is needed")


def _say_what_next(file: Path, names: list[str]) -> None:
    env = environment(file, os.environ)
    for name in names:
        secrets = PRESETS[name].secret_env
        if secrets and not any(env.get(secret) for secret in secrets):
            note(f"set {secrets[0]} in the environment, or in .env beside {file.name}")
    found = find_config(None, os.environ, Path.cwd())
    named = "" if found is not None and found.resolve() == file.resolve() else f" --config {file}"
    note(f"next: `llmgate{named} keys add USER` issues a key, `llmgate{named} serve` starts the gateway")
