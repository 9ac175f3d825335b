"""`llmgate models`: what can be asked for, and what it is charged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import msgspec
import typer

from .. import routing
from ..config import Config, known_upstreams
from ..errors import UsageError
from ..money import to_nano
from ..pricing import CONFIG_KEYS, UNIT_OF, Price, amount, decimal_usd, filled, rates
from ..types import METERS, Meters
from .columns import Column, Kind, Row, Show
from .context import book_of, config_of, today
from .grammar import noun, verb
from .known import resolved
from .output import listing, single
from .session import Format, note, session
from .suggest import unknown

app = noun("models", "Models: what can be asked for, and what it is charged.")

COLUMNS = (
    Column("model", Kind.TEXT),
    Column("upstream", Kind.WORD),
    Column("input_usd", Kind.MONEY),
    Column("output_usd", Kind.MONEY),
    Column("cached_input_usd", Kind.MONEY, minor=1),
    Column("free", Kind.FLAG),
    Column("price_usd", Kind.MONEY, Show.USED),
    Column("per", Kind.WORD, Show.USED),
)


@verb(
    app,
    "list",
    examples="""
    llmgate models
    llmgate models --search mini
    llmgate models --format csv
    """,
)
def list_(
    ctx: typer.Context,
    search: Annotated[
        str | None, typer.Option("--search", metavar="S", help="Only those with S in their name or their upstream's.")
    ] = None,
) -> None:
    """List the models that can be asked for, with what 1M tokens of each are charged.

    What isn't sold by tokens has the price of its unit instead; a fee for each request stands beside them. The paths of
    [routes] are among them, with the price of what each counts.
    """
    config, book = config_of(ctx), book_of(ctx)
    found = routing.listing(config, known_upstreams(config), today(), book=book)
    everything = [*(_row(line) for line in found), *_paths(config)]
    rows = [row for row in everything if _fits(row, search)]
    empty = f"no model has {search!r} in its name" if search else "there is no model: the config has no upstream"
    listing(ctx, COLUMNS, rows, empty=empty)


def _fits(row: Row, search: str | None) -> bool:
    return search is None or search.lower() in f"{row['model']} {row['upstream']}".lower()


def _paths(config: Config) -> Iterator[Row]:
    """The paths that the admin sells, which books and limits call by the path."""
    for path, table in config.routes.items():
        price_nano = to_nano(table.price or 0)
        yield {
            "model": path,
            "upstream": table.upstream,
            **dict.fromkeys(("input_usd", "output_usd", "cached_input_usd")),
            "free": not price_nano,
            "price_usd": None if table.unmetered else price_nano,
            "per": None if table.unmetered else table.unit,
        }


def _row(line: routing.Listing) -> Row:
    return {
        "model": line.model,
        "upstream": line.upstream,
        "input_usd": line.input,
        "output_usd": line.output,
        "cached_input_usd": line.cached_input,
        "free": line.free,
        "price_usd": line.price,
        "per": line.per,
    }


LINES = (
    Column("of", Kind.WORD),
    Column("meter", Kind.WORD),
    Column("quantity", Kind.NUMBER),
    Column("rate_usd", Kind.FIGURE),
    Column("per", Kind.WORD, minor=1),
    Column("amount_usd", Kind.FIGURE),
    Column("from", Kind.TEXT),
)

PRICED = (
    Column("model", Kind.WORD),
    Column("upstream", Kind.WORD),
    Column("upstream_model", Kind.WORD, Show.NEVER),
    Column("cost_usd", Kind.MONEY),
    Column("charge_usd", Kind.MONEY),
    Column("lines", Kind.LIST),
)

KEY_OF = {meter: key for key, (meter, _) in CONFIG_KEYS.items()}


def _count(name: str, what: str, of: str) -> typer.models.OptionInfo:
    return typer.Option(name, metavar="N", min=0, help=what, rich_help_panel=of)  # type: ignore[no-any-return]


def _input(name: str, what: str) -> typer.models.OptionInfo:
    return _count(name, what, "Input")


def _output(name: str, what: str) -> typer.models.OptionInfo:
    return _count(name, what, "Output")


def _piece(name: str, what: str) -> typer.models.OptionInfo:
    return _count(name, what, "What is billed by the piece")


@verb(
    app,
    "price",
    examples="""
    llmgate models price gpt-4o --input 1000 --output 500
    llmgate models price gpt-4o --input 1000 --cached 200 --output 500 --searches 1
    llmgate models price gpt-4o --input 1000 --output 500 --upstream azure --json
    """,
)
def price(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL")],
    input_: Annotated[int, _input("--input", "All input tokens, those of the next options included.")] = 0,
    cached: Annotated[int, _input("--cached", "Of them, those read from a cache.")] = 0,
    cache_write: Annotated[int, _input("--cache-write", "Of them, those written to a cache.")] = 0,
    cache_write_1h: Annotated[int, _input("--cache-write-1h", "Of them, those written for an hour.")] = 0,
    audio_input: Annotated[int, _input("--audio-input", "Of them, sound.")] = 0,
    image_input: Annotated[int, _input("--image-input", "Of them, pictures.")] = 0,
    output_: Annotated[int, _output("--output", "All output tokens, those of the next options included.")] = 0,
    reasoning: Annotated[int, _output("--reasoning", "Of them, what the model thought.")] = 0,
    audio_output: Annotated[int, _output("--audio-output", "Of them, sound or pictures.")] = 0,
    images: Annotated[int, _piece("--images", "Pictures.")] = 0,
    seconds: Annotated[int, _piece("--seconds", "Seconds of sound.")] = 0,
    searches: Annotated[int, _piece("--searches", "Searches.")] = 0,
    characters: Annotated[int, _piece("--characters", "Characters to be spoken.")] = 0,
    upstream: Annotated[
        str | None, typer.Option("--upstream", metavar="U", help="Where it is served by several: this one.")
    ] = None,
) -> None:
    """Explain line by line what a request costs, and what it is charged.

    An amount is quantity × rate; the sum of a request is rounded once, up to a billionth of a dollar.
    """
    meters = Meters(
        input=_rest("--input", input_, cached, cache_write, cache_write_1h, audio_input, image_input),
        cached_input=cached,
        cache_write=cache_write,
        cache_write_1h=cache_write_1h,
        audio_input=audio_input,
        image_input=image_input,
        output=_rest("--output", output_, reasoning, audio_output),
        reasoning=reasoning,
        audio_output=audio_output,
        images=images,
        milliseconds=seconds * 1000,
        searches=searches,
        characters=characters,
        calls=1,
    )
    target = resolved(ctx, model)
    route = _chosen(target, upstream)
    tariff = route.tariff
    charge = tariff.charge or tariff.cost
    told = list(_lines("cost", meters, tariff.cost, tariff.cost_from))
    told += _lines("charge", meters, charge, tariff.charge_from)
    if session(ctx).wanted is Format.JSON:
        sums = {"cost_usd": amount(meters, tariff.cost), "charge_usd": amount(meters, charge)}
        names = {"model": model, "upstream": route.upstream.name, "upstream_model": route.model}
        single(ctx, PRICED, {**names, **sums, "lines": told})
        return
    listing(ctx, LINES, told, empty="")
    if not any(row["amount_usd"] not in ("0", None) for row in told):
        note("say how much it is: --input 1000 --output 500, or what else `llmgate models price --help` has")
    others = sorted({other.upstream.name for other in target.routes} - {route.upstream.name})
    if others:
        note(f"served by {route.upstream.name}; --upstream explains it for {', '.join(others)}")


def _rest(option: str, whole: int, *parts: int) -> int:
    """What is left of a whole for the plain tokens."""
    if sum(parts) > whole:
        raise UsageError(f"{option} {whole} is all of them: its parts come to {sum(parts)}, which is more")
    return whole - sum(parts)


def _chosen(target: routing.Target, upstream: str | None) -> routing.Route:
    names = {route.upstream.name: route for route in reversed(target.routes)}
    if upstream is None:
        return target.routes[0]
    if upstream not in names:
        raise unknown(f"route of {target.model} to", upstream, names, "llmgate models price")
    return names[upstream]


def _lines(of: str, meters: Meters, price: Price, by: str) -> Iterator[Row]:
    """A line for each meter that is more than nothing, and their sum."""
    tokens = meters.input_tokens
    tiers = [tier.above for tier in price.tiers if tokens > tier.above]
    by = f"{by}, above {tiers[-1]} input tokens" if tiers else by
    sources = filled(price, by, tokens)
    exact = 0
    for name, quantity, rate in zip(METERS, msgspec.structs.astuple(meters), rates(price, tokens), strict=True):
        key = KEY_OF[name]
        if not quantity or (key not in sources and name == "calls"):
            continue
        exact += quantity * rate
        scale = CONFIG_KEYS[key][1]
        yield {
            "of": of,
            "meter": name,
            "quantity": quantity,
            "rate_usd": decimal_usd(rate, scale),
            "per": UNIT_OF.get(key, "1M tokens"),
            "amount_usd": decimal_usd(quantity * rate, 1_000_000),
            "from": sources.get(key, ("", f"not priced: {by}"))[1],
        }
    total = amount(meters, price)
    yield {
        "of": of,
        "meter": "total",
        "quantity": None,
        "rate_usd": None,
        "per": None,
        "amount_usd": decimal_usd(total),
        "from": "rounded up" if total * 1_000_000 != exact else "exact",
    }
