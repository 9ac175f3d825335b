"""`llmgate upstreams`: who answers, and whether they do."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import typer

from ..config import Config, Upstream, UpstreamTable, known_upstreams, resolve, secret_places
from ..errors import ProblemsFound, Refusal
from ..names import meant
from .columns import Column, Kind, Row, Show
from .context import loaded
from .grammar import noun, verb
from .output import listing, verdict
from .session import Format, session

app = noun("upstreams", "Upstreams: who answers, and whether they do.")

COLUMNS = (
    Column("upstream", Kind.WORD),
    Column("preset", Kind.WORD, Show.USED, minor=2),
    Column("formats", Kind.LIST, Show.PIPED),
    Column("base_url"),
    Column("auth", Kind.WORD),
    Column("secret", Kind.LIST),
    Column("secret_set", Kind.FLAG),
    Column("on_disconnect", Kind.WORD, minor=1),
    Column("price", minor=3),
    Column("cost", Kind.TEXT, Show.PIPED),
    Column("catalogue", Kind.WORD, Show.PIPED),
    Column("identify", Kind.FLAG, Show.PIPED),
    Column("proxy", Kind.TEXT, Show.PIPED),
    Column("ca_file", Kind.TEXT, Show.PIPED),
    Column("health", Kind.TEXT, Show.PIPED),
    Column("ask_usage", Kind.FLAG, Show.PIPED),
    Column("headers", Kind.LIST, Show.PIPED),
    Column("query", Kind.LIST, Show.PIPED),
    Column("timeout", Kind.MAP, Show.PIPED),
)

CHECKED = (
    Column("upstream", Kind.WORD),
    Column("status", Kind.STATE),
    Column("latency_ms", Kind.NUMBER),
    Column("models", Kind.NUMBER),
    Column("tls_days_left", Kind.NUMBER, Show.USED, minor=1),
    Column("tls_ends_at", Kind.TIME, Show.NEVER),
    Column("credits_usd", Kind.FIGURE, Show.USED),
    Column("problems", Kind.LIST, Show.NEVER),
)

PROBLEMS = (Column("upstream", Kind.WORD), Column("problem"))


@verb(
    app,
    "list",
    examples="""
    llmgate upstreams
    llmgate upstreams --json
    """,
)
def list_(ctx: typer.Context) -> None:
    """List the upstreams of the config: where they are, and whether their secrets are there. No secret is shown."""
    config, env = loaded(ctx)
    rows = [_row(upstream, config, env) for upstream in known_upstreams(config).values()]
    listing(ctx, COLUMNS, rows, empty="there is no upstream: add [upstreams.NAME] to llmgate.toml")


def _row(upstream: Upstream, config: Config, env: Mapping[str, str]) -> Row:
    table = config.upstreams[upstream.name]
    places = secret_places(config, upstream.name, env)
    named = upstream.auth in ("header", "query")
    return {
        "upstream": upstream.name,
        "preset": upstream.preset,
        "formats": list(upstream.formats),
        "base_url": upstream.base_url or None,
        "auth": f"{upstream.auth}:{upstream.auth_name}" if named else upstream.auth,
        "secret": [place.name for place in places],
        "secret_set": all(place.filled for place in places) if places else None,
        "on_disconnect": upstream.on_disconnect,
        "price": _price(upstream.price) or _otherwise(upstream),
        "cost": _price(upstream.cost),
        "catalogue": upstream.catalogue,
        "identify": upstream.identify,
        "proxy": re.sub(r"//.*@", "//***@", upstream.proxy) if upstream.proxy else None,
        "ca_file": table.ca_file,
        "health": upstream.health,
        "ask_usage": upstream.ask_usage,
        "headers": list(upstream.headers),
        "query": list(upstream.query),
        "timeout": _seconds(table),
    }


def _price(price: Any) -> str | None:
    return price if price is None or isinstance(price, str) else " ".join(f"{key}={usd}" for key, usd in price.items())


def _otherwise(upstream: Upstream) -> str | None:
    """What accounts are charged where the upstream has no price of its own, and models have none either."""
    if upstream.cost_reported:
        return "as it bills"
    return "list price" if upstream.catalogue else _price(upstream.cost)


def _seconds(table: UpstreamTable) -> dict[str, float]:
    return {name: int(s) if s.is_integer() else s for name, s in msgspec.structs.asdict(table.timeout).items()}


@verb(
    app,
    "check",
    examples="""
    llmgate upstreams check
    llmgate upstreams check gpu1
    until llmgate upstreams check gpu1; do sleep 5; done
    """,
)
def check(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Only this one.")] = None,
) -> None:
    """Ask each upstream for its models: whether it is there, takes its secret, and has what [models] asks it for.

    Nothing is asked for that costs money. Each has 10 s to answer, all are asked at once. What is wrong comes with
    how to mend it. Exit code 3 for problems; a server that is still loading its model is one.
    """
    config, env = loaded(ctx)
    if name is not None and name not in config.upstreams:
        hint = meant(name, config.upstreams, "llmgate upstreams")
        raise Refusal(f"there is no upstream {name!r}: {hint}", code="not_found")
    ready, upstreams = resolve(config, env)

    from ..gateway import checkup  # what asks takes a third of a second to import

    chosen = [upstream for upstream in upstreams.values() if name in (None, upstream.name)]
    found = asyncio.run(checkup.check(ready, chosen, env))
    rows = [{**msgspec.structs.asdict(one), "tls_ends_at": one.tls_ends_ms} for one in found]
    listing(ctx, CHECKED, rows, empty="there is no upstream: add [upstreams.NAME] to llmgate.toml")
    problems = [{"upstream": one.upstream, "problem": problem} for one in found for problem in one.problems]
    if problems:
        if session(ctx).wanted is Format.TABLE:
            typer.echo()
            listing(ctx, PROBLEMS, problems, empty="")
        wrong = sum(one.status != "ok" for one in found)
        whose = f"{wrong} of {len(found)} upstreams" if len(found) > 1 else f"the upstream {found[0].upstream}"
        raise ProblemsFound(f"{whose} can't answer as {'they' if len(found) > 1 else 'it'} should")
    if found:
        verdict(ctx, f"{'the upstream answers' if len(found) == 1 else f'all {len(found)} upstreams answer'}")
