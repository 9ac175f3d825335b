"""`llmgate prices`: what models are charged and cost, who says so, and from when on."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Annotated

import typer

from .. import catalogue, clock, pricelists, routing
from ..clock import rfc3339
from ..config import Config, known_upstreams
from ..errors import Refusal, UpstreamFailure, UsageError
from ..money import to_nano
from ..names import MODEL, meant
from ..pricebook import Key
from ..pricebook import Kind as Of
from ..pricing import CONFIG_KEYS, FREE, UNIT_OF, Price, decimal_usd, decode, filled, price_of, rates, said
from ..store import prices
from ..store.db import Row as StoreRow
from ..store.db import Tx, now_ms
from ..types import METERS
from . import changes
from .columns import Column, Kind, Row, Show
from .context import book_of, config_of, open_store, today
from .grammar import noun, verb
from .known import resolved
from .lists import read_bytes, read_list
from .output import listing, result, single
from .session import Format, confirm, note, session
from .suggest import unknown

app = noun("prices", "Prices: what models are charged and cost, and from when on.")

COLUMNS = (
    Column("model", Kind.WORD),
    Column("upstream", Kind.WORD, Show.USED),
    Column("kind", Kind.WORD),
    Column("price", Kind.MAP),
    Column("from_at", Kind.TIME),
    Column("until_at", Kind.TIME, Show.USED),
    Column("status", Kind.STATE),
    Column("actor", Kind.TEXT, minor=1),
)

GONE = COLUMNS[:5]
"""Of what is no more."""

RATES = (
    Column("upstream", Kind.WORD),
    Column("price", Kind.WORD),
    Column("per", Kind.WORD, minor=1),
    Column("charge_usd", Kind.FIGURE),
    Column("charge_from", Kind.TEXT),
    Column("cost_usd", Kind.FIGURE),
    Column("cost_from", Kind.TEXT),
)

SHOWN = (Column("model", Kind.WORD), Column("rates", Kind.LIST), Column("history", Kind.LIST))

ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="A model's name, or UPSTREAM/MODEL.")]
UpstreamOption = Annotated[
    str | None, typer.Option("--upstream", metavar="U", help="Only where this upstream serves it.")
]
CostOption = Annotated[
    bool, typer.Option("--cost", help="What the upstream bills, instead of what accounts are charged.")
]
FromOption = Annotated[
    str | None, typer.Option("--from", metavar="WHEN", help="From then on: a date, or 7d [default: now].")
]
FileName = Annotated[str, typer.Argument(metavar="FILE", help="The list; - reads it from stdin.")]
FormatOption = Annotated[
    str, typer.Option("--list", metavar="|".join(("auto", *pricelists.FORMATS)), help="How the list is written.")
]


@verb(
    app,
    "list",
    examples="""
    llmgate prices
    llmgate prices --all
    llmgate prices --json
    """,
)
def list_(
    ctx: typer.Context,
    everything: Annotated[bool, typer.Option("--all", help="Those of the past as well.")] = False,
) -> None:
    """List the prices that were set, each with the time that it holds.

    `models` lists what all models are charged, `prices show` explains it for one of them.
    """
    with open_store(ctx) as db:
        with db.read() as tx:
            rows = [_row(row, tx.now_ms) for row in prices.listing(tx, everything=everything)]
        listing(ctx, COLUMNS, rows, empty="no price is set: `llmgate prices set MODEL input=… output=…`", zone=db.zone)


def _row(row: StoreRow, at_ms: int) -> Row:
    begun, ended = row["from_ms"] <= at_ms, row["until_ms"] is not None and row["until_ms"] <= at_ms
    return {
        **{name: row[name] for name in ("model", "kind", "actor")},
        "upstream": row["upstream"] or None,
        "price": said(decode(row["body"])),
        "from_at": row["from_ms"],
        "until_at": row["until_ms"],
        "status": "past" if ended else "active" if begun else "to come",
    }


@verb(
    app,
    "set",
    examples="""
    llmgate prices set gpt-4o input=2.50 output=10 cached_input=1.25
    llmgate prices set gpt-4o input=2 output=8 --from 30d
    llmgate prices set azure/gpt-4o input=2.20 output=8.80 --cost
    llmgate prices set my-llama free
    """,
)
def set_(
    ctx: typer.Context,
    model: ModelName,
    pairs: Annotated[
        list[str], typer.Argument(metavar="KEY=USD...", help=f"{', '.join(CONFIG_KEYS)}; or the word free.")
    ],
    upstream: UpstreamOption = None,
    cost: CostOption = False,
    from_: FromOption = None,
) -> None:
    """Set what a model is charged, in USD per 1M tokens (per request, image, second, search, 1000 characters).

    It holds from the next request on, whether or not the gateway runs, and goes before what llmgate.toml says of the
    same model. What was used before keeps its price, and so do requests in flight. A rate that is left out falls back
    to input or output, never to nothing.
    """
    key, price = _key(ctx, model, upstream, cost), _price(pairs)
    with open_store(ctx) as db:
        with db.write() as tx:
            begins_ms = clock.begins_ms(from_, tx.now_ms, db.zone) if from_ is not None else None
            from_ms = prices.put(tx, {key: price}, begins_ms)
            (row,) = [
                row
                for row in prices.listing(tx)
                if (row["kind"], row["upstream"], row["model"].casefold()) == (*key[:2], key[2].casefold())
                and row["from_ms"] == from_ms
            ]
            shown = _row(row, tx.now_ms)
        when = "from the next request on" if begins_ms is None else f"from {rfc3339(from_ms)} on"
        implied = [
            f"{name} ${usd} {by}" for name, (usd, by) in filled(price, "").items() if by and name in ("input", "output")
        ]
        told = ", ".join([*(f"{name} ${usd}" for name, usd in shown["price"].items()), *implied])
        told = "nothing" if price.free else told
        result(ctx, COLUMNS, shown, f"{prices.named(key)}: {told}, {when}", zone=db.zone)
        if shown["until_at"] is not None:
            note(f"it holds until {rfc3339(shown['until_at'])}: another price is set from then on")
    _tell_config(config_of(ctx), key)
    if begins_ms is None:
        _tell_effect(ctx, key)


def _tell_effect(ctx: typer.Context, key: Key) -> None:
    """What an admin may not have meant: a name that nobody serves, a charge below the cost."""
    _, upstream, model = key
    config = config_of(ctx)
    try:
        target = routing.resolve_any(
            config, known_upstreams(config), f"{upstream}/{model}" if upstream else model, today(), book_of(ctx)
        )
    except Refusal as refusal:
        note(f"it is charged to nobody yet: {refusal.message}")
        return
    for route in target.routes:
        charges, costs = (dict(zip(METERS, rates(price, 0), strict=True)) for price in _sides(route))
        for meter in ("input", "output"):
            if charges[meter] < costs[meter]:
                told = f"{decimal_usd(charges[meter])} of ${decimal_usd(costs[meter])}"
                note(f"below what {route.upstream.name} bills: {meter} ${told} per 1M ({route.tariff.cost_from})")


def _sides(route: routing.Route) -> tuple[Price, Price]:
    """The charge and the cost of a route."""
    return route.tariff.charge or route.tariff.cost, route.tariff.cost


def _tell_config(config: Config, key: Key) -> None:
    """Where the config says something of the same model as well, which of the two holds."""
    kind, _, model = key
    option = "price" if kind is Of.CHARGE else "cost"
    for name, table in config.models.items():
        if name.casefold() == model.casefold() and getattr(table, option):
            note(f"{config.source} has a {option} for [models.{name}] too: the one set here holds instead of it")
        routed = any((route.model or name).casefold() == model.casefold() for route in table.routes)
        if name.casefold() != model.casefold() and routed and getattr(table, option):
            note(f"who asks for {name} is still charged by the {option} of [models.{name}] in {config.source}")


def _key(ctx: typer.Context, model: str, upstream: str | None, cost: bool) -> Key:
    """Which price is meant. `U/M` is what U calls M, unless that is a name of its own."""
    config = config_of(ctx)
    if not MODEL.fullmatch(model):
        raise UsageError(f"{model!r} is no model: a name has letters, digits and . _ : @ / - only")
    first, slash, rest = model.partition("/")
    if upstream is None and slash and rest and first in config.upstreams and model not in config.models:
        upstream, model = first, rest
    if upstream is not None and upstream not in config.upstreams:
        hint = meant(upstream, config.upstreams, "llmgate upstreams")
        raise UsageError(f"there is no upstream {upstream!r}: {hint}")
    return Of.COST if cost else Of.CHARGE, upstream or "", model


def _price(pairs: list[str]) -> Price:
    if pairs == ["free"]:
        return FREE
    table: dict[str, str] = {}
    for text in pairs:
        key, equals, usd = text.partition("=")
        if not equals:
            raise UsageError(f"{text!r} is no rate: write KEY=USD, such as input=0.25, or the word free alone")
        if key not in CONFIG_KEYS:
            raise unknown("price key", key, CONFIG_KEYS, "llmgate prices set")
        if key in table:
            raise UsageError(f"{key} stands there twice: leave one of them")
        table[key] = usd.removeprefix("$")
        try:
            to_nano(table[key])
        except ValueError as error:
            raise UsageError(f"{text}: {error}") from error
    try:
        return price_of({key: Decimal(usd) for key, usd in table.items()})
    except ValueError as error:
        raise UsageError(str(error)) from error


@verb(
    app,
    "remove",
    examples="""
    llmgate prices remove gpt-4o
    llmgate prices remove azure/gpt-4o --cost
    """,
)
def remove(
    ctx: typer.Context,
    model: ModelName,
    upstream: UpstreamOption = None,
    cost: CostOption = False,
    from_: Annotated[
        str | None, typer.Option("--from", metavar="WHEN", help="Only take back the one that begins then.")
    ] = None,
) -> None:
    """End the price that was set for a model, and take back those to come; config and catalogue hold again."""
    key = _key(ctx, model, upstream, cost)
    with open_store(ctx) as db:
        with db.write() as tx:
            from_ms = clock.begins_ms(from_, tx.now_ms, db.zone) if from_ is not None else None
            gone = prices.remove(tx, key, from_ms)
        if session(ctx).wanted is not Format.TABLE:
            rows = [
                {
                    **{name: row[name] for name in ("model", "kind")},
                    "upstream": row["upstream"] or None,
                    "price": said(decode(row["body"])),
                    "from_at": row["from_ms"],
                }
                for row in gone
            ]
            listing(ctx, GONE, rows, empty="", zone=db.zone)
            return
        for row in gone:
            note(f"{prices.named(key)}: no more {_short(said(decode(row['body'])))}, from {rfc3339(row['from_ms'])}")


def _short(price: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ${usd}" for name, usd in price.items())


@verb(
    app,
    "show",
    examples="""
    llmgate prices show gpt-4o
    llmgate prices show azure/gpt-4o --json
    """,
)
def show(ctx: typer.Context, model: ModelName) -> None:
    """Explain the price of a model: every rate, where it comes from, and what was set for it over time."""
    target = resolved(ctx, model)
    told_rates = [row for route in target.routes for row in _rates(route)]
    names = {name.casefold() for route in target.routes for name in (model, route.model)}
    with open_store(ctx) as db:
        with db.read() as tx:
            history = [
                _row(row, tx.now_ms) for row in prices.listing(tx, everything=True) if row["model"].casefold() in names
            ]
        if session(ctx).wanted is Format.JSON:
            told = [{**row, **{at: row[at] and rfc3339(row[at]) for at in ("from_at", "until_at")}} for row in history]
            single(ctx, SHOWN, {"model": model, "rates": told_rates, "history": told})
            return
        listing(ctx, RATES, told_rates, empty="")
        if history and session(ctx).wanted is not Format.CSV:
            sys.stdout.write("\n")
            listing(ctx, COLUMNS, history, empty="", zone=db.zone)


def _rates(route: routing.Route) -> Iterator[Row]:
    """The rates of a route, and of each tier by the length of the input what differs."""
    tariff = route.tariff
    charge, _ = _sides(route)
    below: dict[str, tuple[object, object]] = {}
    for above in sorted({0, *(tier.above for price in (charge, tariff.cost) for tier in price.tiers)}):
        tokens = above + 1 if above else 0
        charges, costs = filled(charge, tariff.charge_from, tokens), filled(tariff.cost, tariff.cost_from, tokens)
        for key in CONFIG_KEYS:
            pair = charges.get(key), costs.get(key)
            if pair == (None, None) or pair == below.get(key):
                continue
            below[key] = pair
            (charge_usd, charge_from), (cost_usd, cost_from) = (one or (None, None) for one in pair)
            yield {
                "upstream": route.upstream.name,
                "price": f"{key} above {above}" if above else key,
                "per": UNIT_OF.get(key, "1M tokens"),
                "charge_usd": charge_usd,
                "charge_from": charge_from,
                "cost_usd": cost_usd,
                "cost_from": cost_from,
            }


# ── lists of prices ───────────────────────────────────────────────────────────────────────────────────────────────────


@verb(
    app,
    "import",
    examples="""
    llmgate prices import prices.csv
    llmgate prices import model_prices_and_context_window.json --list litellm --cost --yes
    llmgate prices import prices.json --from 30d
    """,
)
def import_(
    ctx: typer.Context,
    file: FileName,
    form: FormatOption = "auto",
    cost: CostOption = False,
    from_: FromOption = None,
) -> None:
    """Set the prices of a list, all or none of them; it shows what would change, and asks.

    per-1k: JSON in USD per 1000 tokens, {"gpt-4o": {"input": 0.0025, "output": 0.01}}. litellm: LiteLLM's map, USD per
    token. csv: a header of model and price keys, USD per 1M tokens. Models that the list doesn't name stay as they are.
    """
    found = read_list(file, form)
    asked = {_key(ctx, model, upstream or None, cost): price for (upstream, model), price in found.prices.items()}
    with open_store(ctx) as db:
        begins_ms = clock.begins_ms(from_, now_ms(), db.zone) if from_ is not None else None
        with db.read() as tx:
            held = prices.in_force(Tx(tx.conn, begins_ms or tx.now_ms, tx.actor))
        before = {
            key: known.price for key in asked if (known := held.prices.get((*key[:2], key[2].casefold()))) is not None
        }
        fresh = {key: price for key, price in asked.items() if before.get(key) != price}
        rows = list(changes.between(_by_name(before), _by_name(asked), gone=False))
        if rows:
            listing(ctx, changes.COLUMNS, rows, empty="")
        for what, count in found.ignored.items():
            note(f"not taken: {what}{f' ({count} models)' if count > 1 else ''}")
        told = changes.counted(rows, len(asked) - len(fresh))
        note(f"read as {found.format}")
        if not fresh:
            note(f"nothing to do: {told}")
            return
        confirm(ctx, f"Set these prices: {told}?")
        with db.write() as tx:
            prices.put(tx, fresh, begins_ms, source=file)
        note(f"{told}, {'from the next request on' if begins_ms is None else f'from {rfc3339(begins_ms)} on'}")


def _by_name(found: Mapping[Key, Price]) -> dict[tuple[str, str], Price]:
    return {key[1:]: price for key, price in found.items()}


# ── the catalogue ─────────────────────────────────────────────────────────────────────────────────────────────────────

AllOption = Annotated[
    bool, typer.Option("--all", help="Of all providers, not only of those that have an upstream here.")
]


@verb(
    app,
    "diff",
    examples="""
    llmgate prices diff data.json
    llmgate prices diff
    llmgate prices diff data.json --all --json
    """,
)
def diff(
    ctx: typer.Context,
    file: Annotated[
        str | None, typer.Argument(metavar="FILE", help="A data.json of genai-prices [default: the installed list].")
    ] = None,
    everything: AllOption = False,
) -> None:
    """Show what another catalogue would change of list prices, and change nothing."""
    if file is None and not book_of(ctx).edition:
        note("the installed catalogue is in use: name a data.json to compare it with")
    _compare(ctx, None if file is None else read_bytes(file), everything)


@verb(
    app,
    "update",
    examples="""
    llmgate prices update
    llmgate prices update --file data.json --yes
    llmgate prices update --installed
    """,
)
def update(
    ctx: typer.Context,
    file: Annotated[str | None, typer.Option("--file", metavar="FILE", help="A data.json of genai-prices.")] = None,
    url: Annotated[str | None, typer.Option("--url", metavar="URL", help="Where to fetch it instead.")] = None,
    installed: Annotated[bool, typer.Option("--installed", help="Go back to the installed catalogue.")] = False,
    everything: AllOption = False,
) -> None:
    """Take newer list prices into use; it shows what would change, and asks.

    The list is kept in the database, so that every gateway on it uses it from the next request on. Nothing is ever
    fetched but by this command.
    """
    if (file is not None) + (url is not None) + installed > 1:
        raise UsageError("choose one of --file, --url and --installed")
    body = b""
    source = "installed"
    if not installed:
        source = file or url or _default_url()
        body = read_bytes(file) if file else _fetched(source)
    told = _compare(ctx, body or None, everything)
    with open_store(ctx) as db:
        confirm(ctx, f"Use this catalogue from now on: {told}?")
        with db.write() as tx:
            edition = prices.use_catalogue(tx, body, source)
        note(f"the catalogue in use is {edition[:12] or 'the installed one'}, from the next request on: {told}")


def _compare(ctx: typer.Context, body: bytes | None, everything: bool) -> str:
    """Show what another catalogue (None: the installed one) says otherwise than the one in use. Returns the counts."""
    book_of(ctx)
    day = today()
    before = catalogue.everything(day)
    after = catalogue.everything(day, catalogue.installed() if body is None else catalogue.read(body))
    if not everything:
        here = {upstream.catalogue for upstream in known_upstreams(config_of(ctx)).values()}
        before, after = ({name: price for name, price in of.items() if name[0] in here} for of in (before, after))
    rows = list(changes.between(before, after, gone=True))
    whose = "any provider" if everything else "a provider that has an upstream here (--all: of any)"
    listing(ctx, changes.COLUMNS, rows, empty=f"no list price of {whose} differs")
    return changes.counted(rows, sum(before.get(name) == price for name, price in after.items()))


def _default_url() -> str:
    from genai_prices.update_prices import DEFAULT_UPDATE_URL

    return DEFAULT_UPDATE_URL


def _fetched(url: str) -> bytes:
    import httpx

    try:
        answer = httpx.get(url, timeout=10, follow_redirects=True)
        answer.raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise UpstreamFailure(
            f"{url} can't be fetched ({error}): without a network, fetch it elsewhere and run "
            "`llmgate prices update --file data.json`",
            code="upstream_unavailable",
        ) from error
    return answer.content
