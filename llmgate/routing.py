"""Model → routes and prices: who may answer for a name, what they bill for it, and what the account pays.

Pure: a config's upstreams and models, the prices set and the price catalogue in, a `Target` out. Nothing here remembers
anything; the daemon keeps what was resolved for as long as its config, the prices and the day last.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec

from . import catalogue
from .catalogue import Listed
from .clock import rfc3339
from .config import Config, ModelTable, Upstream
from .errors import Refusal
from .money import to_nano
from .names import MODEL
from .pricebook import NOTHING_SET, Book, Kind
from .pricing import FREE, TOKENS, Price, by_the_piece, price_of, rates
from .types import METERS, CostSource

REASONING = re.compile(
    r"(?:^|[/:.])(?:o\d|gpt-[5-9]|gpt-oss|codex|claude-(?:opus|sonnet|haiku)-[4-9]|gemini-(?:2\.5|[3-9]|flash-latest|pro-latest)|deepseek-r|grok-(?:[3-9]|code)"
    r"|qwq|qwen3|magistral|glm-[4-9]|kimi-k2|minimax-m)|reason|think",
    re.IGNORECASE,
)
"""Names of models that reason unasked; no price list says it of them. One too many is only read to its end."""

OTHER_WORK = re.compile(r"^ft:|:extended$|realtime|sora|veo|video")
"""Names in the list of models that answer on other paths than those served here, or that are patterns."""

SANDBOX_MODELS = ("echo", "slow", "embed")
"""What the sandbox is listed with; it answers to any name."""


class Tariff(NamedTuple):
    """What a route's requests cost and are charged."""

    cost: Price
    source: CostSource
    charge: Price | None
    """None: charged at cost."""
    service_tiers: Mapping[str, Price]
    """Costs by service tier, where the vendor prices it apart."""
    cost_from: str = ""
    charge_from: str = ""
    """Who says so, in words."""


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One way to get an answer."""

    upstream: Upstream
    model: str
    """What this upstream calls it."""
    tariff: Tariff
    context_window: int | None
    weight: int = 1
    """Its share among the routes of its model."""

    @property
    def reasons(self) -> bool:
        """The model is known to think before it writes: what it thought is billed, and may never be seen."""
        return REASONING.search(self.model) is not None


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """What a model's name means."""

    model: str
    names: tuple[str, ...]
    """Every name it goes by: as asked for, and as `upstream/model` of each route."""
    routes: tuple[Route, ...]
    max_output: int
    fallbacks: tuple[Target, ...] = ()
    """Other models, which may answer where none of the routes does. They have no fallbacks of their own."""
    unpriced: bool = False
    """Nobody knows what it costs: it isn't for accounts whose money can run out."""


class _Place(NamedTuple):
    """An upstream and what it calls the model."""

    upstream: Upstream
    model: str
    weight: int = 1


def resolve(
    config: Config,
    upstreams: Mapping[str, Upstream],
    model: str,
    date: str,
    format: str = "openai",  # noqa: A002
    *,
    free: bool = False,
    book: Book = NOTHING_SET,
) -> Target:
    """Where a model is served and at what price, on a date (`YYYY-MM-DD`) and by the prices set at this moment. `free`:
    for requests that nobody bills, so that no price is needed.

    Raises Refusal `model_not_found` or `model_not_priced`, with the line that an admin would write to cure it.
    """
    if not MODEL.fullmatch(model):
        raise Refusal("a model's name has letters, digits and . _ : @ / - only", param="model")
    target = _target(config, upstreams, model, date, format, free=free, book=book)
    table = config.models.get(model)
    if table is None or not table.fallbacks:
        return target
    fallbacks = tuple(_target(config, upstreams, name, date, format, free=free, book=book) for name in table.fallbacks)
    return msgspec.structs.replace(target, fallbacks=fallbacks)


def _target(
    config: Config,
    upstreams: Mapping[str, Upstream],
    model: str,
    date: str,
    format: str,  # noqa: A002
    *,
    free: bool,
    book: Book,
) -> Target:
    table = config.models.get(model)
    places = _speaking(_places(upstreams, model, table, format), model, format)
    routes = tuple(_free_route(place) if free else _route(config, model, place, date, book) for place in places)
    tables = [table for place in places for table in _entries(config, model, place)]
    return Target(
        model=model,
        names=(model, *(name for place in places if (name := f"{place.upstream.name}/{place.model}") != model)),
        routes=routes,
        max_output=next((table.max_output for table in tables if table.max_output), config.defaults.max_output),
    )


def resolve_any(
    config: Config, upstreams: Mapping[str, Upstream], model: str, date: str, book: Book = NOTHING_SET
) -> Target:
    """As `resolve`, in whichever format the model is served."""
    refusals = []
    spoken = [name for name in ASKED_AT if any(name in upstream.formats for upstream in upstreams.values())]
    for name in spoken or ASKED_AT:
        try:
            return resolve(config, upstreams, model, date, name, book=book)
        except Refusal as refusal:
            refusals.append(refusal)
    raise refusals[0]


def _places(
    upstreams: Mapping[str, Upstream],
    model: str,
    table: ModelTable | None,
    format: str,  # noqa: A002
) -> list[_Place]:
    """Who serves a model: its own routes; else `upstream/model`; else whom the catalogue knows; else the only one."""
    if table and table.routes:
        return [_Place(upstreams[route.upstream], route.model or model, route.weight) for route in table.routes]
    name, slash, rest = model.partition("/")
    if slash and rest and name in upstreams:
        return [_Place(upstreams[name], rest)]
    # The sandbox answers to any name: beside real upstreams only where it is named.
    real = [upstream for upstream in upstreams.values() if upstream.preset != "sandbox"] or upstreams.values()
    speaking = [upstream for upstream in real if format in upstream.formats]
    # The catalogue is large: it stays unread as long as nobody here is priced by it.
    priced = [upstream for upstream in speaking if upstream.catalogue]
    if priced:
        provider = catalogue.provider_of(model)  # by the pattern of its name; of embeddings, say, there is none
        known = [upstream for upstream in priced if upstream.catalogue == provider]
        known = known or [upstream for upstream in priced if catalogue.lists(model, str(upstream.catalogue))]
        if known:
            return [_Place(known[0], model)]
    if len(speaking) == 1:
        return [_Place(speaking[0], model)]
    elsewhere = [upstream for upstream in real if upstream.catalogue and upstream not in speaking]
    for upstream in elsewhere:
        if upstream.catalogue == catalogue.provider_of(model):
            return [_Place(upstream, model)]  # in another format: `_speaking` says which
    if real and not speaking:
        there = _asked_at([spoken for upstream in real for spoken in upstream.formats])
        raise Refusal(
            f"no upstream here answers in the format {format}: ask for {model!r} at {there}",
            code="model_not_found",
            param="model",
        )
    asked_as = " or ".join(f"{upstream.name}/{model}" for upstream in speaking[:3])
    raise Refusal(
        f"no upstream is known to serve {model!r}: ask for it as {asked_as}, or the admin adds "
        f"[models.{_quoted(model)}] with routes to llmgate.toml",
        code="model_not_found",
        param="model",
    )


ASKED_AT = {
    "openai": "POST /v1/chat/completions",
    "anthropic": "POST /v1/messages",
    "gemini": "POST /v1beta/models/MODEL:generateContent",
}


def _speaking(places: list[_Place], model: str, format: str) -> list[_Place]:  # noqa: A002
    """Those of them that speak a format: a request passes as it came, so it is never put into another one."""
    found = [place for place in places if format in place.upstream.formats]
    if not found:
        spoken = [name for name in ASKED_AT if name in places[0].upstream.formats]
        raise Refusal(
            f"{model!r} is served in the format {' or '.join(spoken)} here: ask for it at {_asked_at(spoken)}",
            code="model_not_found",
            param="model",
        )
    return found


def _asked_at(formats: Sequence[str]) -> str:
    return " or ".join(path for name, path in ASKED_AT.items() if name in formats)


def _free_route(place: _Place) -> Route:
    """For requests that nobody bills, whatever their model costs."""
    tariff = Tariff(FREE, CostSource.CONFIG, FREE, {})
    return Route(upstream=place.upstream, model=place.model, tariff=tariff, context_window=None, weight=place.weight)


def at(upstream: Upstream, name: str, there: str, tariff: Tariff | None = None) -> Target:
    """A path of an upstream, or what lies there, as a model: `name` is what clients call it, `there` what it is called
    there. Without a tariff nobody bills it."""
    tariff = tariff or Tariff(FREE, CostSource.CONFIG, FREE, {})
    there = there.strip("/") or "/"
    return Target(
        model=name,
        names=tuple(dict.fromkeys((name, f"{upstream.name}/{there}"))),
        routes=(Route(upstream=upstream, model=there, tariff=tariff, context_window=None),),
        max_output=1,
    )


def tariff_of(config: Config, upstream: Upstream) -> Tariff | None:
    """The prices of an upstream that hold whatever is asked of it; None: what it costs depends on the model."""
    where = f"[upstreams.{upstream.name}]"
    charge = _written(upstream.price, f"{where} price") or _flat(config.defaults.flat_rate)
    cost = _written(upstream.cost, f"{where} cost") or charge
    if cost is None:
        return None
    return Tariff(
        cost.price, CostSource.CONFIG, charge.price if charge else None, {}, cost.by, charge.by if charge else ""
    )


def _entries(config: Config, model: str, place: _Place) -> Iterator[ModelTable]:
    """The `[models]` entries that a place belongs to."""
    return (config.models[name] for name in _goes_by(config, model, place) if name in config.models)


def _goes_by(config: Config, model: str, place: _Place) -> tuple[str, ...]:
    """The names whose prices a place has, whatever name it was asked by: no alias gets round their price.

    First the one that was asked for; then the upstream's own name for the model; and, unless the name that was asked
    for has an entry of its own, those whose entries route there. Capitals don't count, as they don't to some upstreams.
    """
    wanted = place.model.casefold()
    alike = {name for name, table in config.models.items() if not table.routes and name.casefold() == wanted}
    if not any(table.routes and name.casefold() == wanted for name, table in config.models.items()):
        alike.add(place.model)  # which may have a price without an entry
    names = [model, *sorted(alike, key=lambda name: (name != place.model, name))]
    if model not in config.models:
        names += [
            name
            for name, table in config.models.items()
            for route in table.routes
            if route.upstream == place.upstream.name and (route.model or name).casefold() == wanted
        ]
    return tuple(dict.fromkeys(names))


DATED = re.compile(r"(?P<stem>.+?)(?:-\d{4}-\d{2}-\d{2}|[-@]\d{8}|-\d{4})")
"""A model's name with the date of a snapshot of it: `gpt-4o-2024-08-06`, `claude-sonnet-4-5-20250929`, `gpt-4-0613`."""


def _stem(config: Config, place: _Place, date: str, book: Book) -> tuple[str, ...]:
    """The name without its date, where that has a price and the catalogue says that both are the same model at the same
    price: else a snapshot's name would get round the price of its model, and a model that only sounds alike would be
    charged by it.
    """
    dated = DATED.fullmatch(place.model)
    if dated is None:
        return ()
    stem = dated["stem"]
    alike = [name for name in config.models if name.casefold() == stem.casefold()]
    priced = alike or book.knows(stem, place.upstream.name) or _listed_at(config, stem)
    if not priced or any(config.models[name].routes for name in alike):
        return ()
    ours, theirs = (_listed(place.upstream, name, date) for name in (place.model, stem))
    return (*alike, stem) if ours and ours == theirs else ()


def _listed_at(config: Config, name: str) -> Price | None:
    return config.listed.get(name.casefold())


class _Said(NamedTuple):
    """A price, and who says so."""

    price: Price
    by: str


def _set(book: Book, kind: Kind, upstream: str, name: str) -> _Said | None:
    found = book.find(kind, upstream, name)
    return _Said(found.price, f"set for {name} since {rfc3339(found.from_ms)}") if found else None


def _written(table: Any, where: str) -> _Said | None:
    return _Said(price_of(table), where) if table else None


def _said(config: Config, kind: Kind, place: _Place, names: Sequence[str], book: Book) -> _Said | None:
    """Who says the charge or the cost of a place, apart from the catalogue and the flat rate.

    What belongs to a name nearer to the one that was asked for goes before what belongs to another; of one name, what
    was set in the database before what the config says, because it is the later act; then what the config says of all
    models of the upstream; then the environment.
    """
    upstream, option = place.upstream, "price" if kind is Kind.CHARGE else "cost"
    for name in names:
        said = _set(book, kind, upstream.name, name)
        if said is None and name in config.models:
            said = _written(getattr(config.models[name], option), f"[models.{_quoted(name)}] {option}")
        if said is not None:
            return said
    said = _written(getattr(upstream, option), f"[upstreams.{upstream.name}] {option}")
    if said is None and kind is Kind.CHARGE:
        listed = next((price for name in names if (price := _listed_at(config, name))), None)
        said = _Said(listed, "$MODEL_PRICING_JSON") if listed else None
    return said


def _route(config: Config, model: str, place: _Place, date: str, book: Book) -> Route:
    names = (*_goes_by(config, model, place), *_stem(config, place, date, book))
    upstream = place.upstream
    listed = _listed(upstream, place.model, date)
    own = _said(config, Kind.CHARGE, place, names, book)
    cost = _said(config, Kind.COST, place, names, book)
    flat = _flat(config.defaults.flat_rate)
    charge = own or flat
    # The price is also the cost where nobody says otherwise. An upstream that reports its cost may, and the charge is
    # the price all the same. A flat rate prices what an admin has named, or runs; what nobody knows stays refused.
    named = any(name in config.models for name in names)
    ran_here = upstream.catalogue is None and upstream.preset is not None
    tiers: Mapping[str, Price] = {}
    source = CostSource.CONFIG
    if cost is None and listed:
        cost = _Said(listed.price, f"catalogue: {listed.provider} {listed.model}")
        source, tiers = CostSource.CATALOGUE, listed.service_tiers
    elif cost is None:
        cost = own or (flat if named or ran_here else None)
    if cost is None:
        raise _unpriced(model, place, known=named or catalogue.provider_of(place.model) is not None)
    return Route(
        upstream=upstream,
        model=place.model,
        tariff=Tariff(
            cost=cost.price,
            source=source,
            charge=charge.price if charge else None,
            service_tiers=tiers,
            cost_from=cost.by,
            charge_from=charge.by if charge else f"the cost ({cost.by})",
        ),
        context_window=_window(listed) if listed else None,
        weight=place.weight,
    )


def _window(listed: Listed) -> int | None:
    """A price for prompts that are longer than the window tells of a larger one, which a header opens (Anthropic)."""
    window, longest = listed.context_window, max((tier.above for tier in listed.price.tiers), default=-1)
    return window if window is not None and window > longest else None


class Chance(NamedTuple):
    """What decides when a route is tried."""

    weight: int = 1
    rank: int = 0
    """0: a route of the model that was asked for; then those of its fallbacks, in their order."""
    cools: bool = False
    """It failed lately."""


def ordered(chances: Sequence[Chance], draw: Callable[[], float]) -> list[int]:
    """In which order routes are tried; none is left out, so that the last one never is.

    Those that failed lately come last, a fallback comes after what it stands in for, and among equals each comes first
    as often as its weight says. `draw` gives numbers from 0 to 1 (Efraimidis and Spirakis: the keys u^(1/w) in
    descending order). Returns indexes.
    """
    keys = [(cools, rank, -(draw() ** (1 / weight))) for weight, rank, cools in chances]
    return sorted(range(len(keys)), key=keys.__getitem__)


def _listed(upstream: Upstream, model: str, date: str) -> Listed | None:
    """What the catalogue says of a model at this upstream.

    An upstream of unknown kind is looked up by its address, then by the model's name alone: a proxy in front of a
    vendor bills as the vendor does. A local server is never looked up: its electricity has no list price.
    """
    if upstream.catalogue:
        return catalogue.find(model, upstream.catalogue, date)
    if upstream.preset:
        return None
    return catalogue.find(model, catalogue.provider_at(upstream.base_url), date)


def _flat(rate: Decimal | None) -> _Said | None:
    if rate is None:
        return None
    return _Said(Price(input=to_nano(rate), output=to_nano(rate)), "[defaults] flat_rate")


def _unpriced(model: str, place: _Place, *, known: bool) -> Refusal:
    cure = (
        f"the admin runs `llmgate prices set {model} input=… output=…` (or `… free`), or adds `price = "
        f'{{ input = …, output = … }}` (or "free") under [models.{_quoted(model)}] or '
        f"[upstreams.{place.upstream.name}] in llmgate.toml"
    )
    if known:
        return Refusal(f"{model!r} has no price: {cure}", code="model_not_priced", param="model")
    return Refusal(
        f"{model!r} is not known: it is in no [models] entry and in no price catalogue; if it is right, {cure}",
        code="model_not_found",
        param="model",
    )


def _quoted(model: str) -> str:
    """A model's name as a TOML key."""
    return model if model.replace("-", "").replace("_", "").isalnum() else f'"{model}"'


class Listing(NamedTuple):
    """One line of `llmgate models` and of `GET /v1/models`; rates in nano-USD per 1M, of what the account pays."""

    model: str
    upstream: str
    input: int | None
    """None, here and below: it isn't sold by tokens."""
    output: int | None
    cached_input: int | None
    free: bool
    price: int | None = None
    """For each of `per`: what is paid apart from tokens, in nano-USD, rounded up."""
    per: str | None = None


def listing(
    config: Config,
    upstreams: Mapping[str, Upstream],
    date: str,
    formats: Sequence[str] = tuple(ASKED_AT),
    book: Book = NOTHING_SET,
) -> Iterator[Listing]:
    """Every model that can be asked for by name and has a price: own entries first, then each upstream's list."""
    seen = set()
    for name in config.models:
        yield from lines(config, upstreams, name, date, formats, book)
        seen.add(name)
    for upstream in upstreams.values():
        for name in _names(upstream):
            asked = name if name not in seen else f"{upstream.name}/{name}"
            seen.add(name)
            yield from lines(config, upstreams, asked, date, formats, book)


def _names(upstream: Upstream) -> list[str]:
    if upstream.preset == "sandbox":
        return [f"{upstream.name}/{name}" for name in SANDBOX_MODELS]
    if upstream.catalogue is None:
        return []
    return [
        name
        for name in catalogue.models(upstream.catalogue)
        if MODEL.fullmatch(name) and name[-1].isalnum() and not OTHER_WORK.search(name)
    ]


def lines(
    config: Config,
    upstreams: Mapping[str, Upstream],
    model: str,
    date: str,
    formats: Sequence[str] = tuple(ASKED_AT),
    book: Book = NOTHING_SET,
) -> Iterator[Listing]:
    """A model's routes with what the account pays, in the first of the formats that it is served in."""
    for spoken in formats:
        try:
            target = resolve(config, upstreams, model, date, spoken, book=book)
        except Refusal:
            continue  # a name that nobody could use is no offer
        for route in target.routes:
            yield _line(model, route.upstream, route.tariff.charge or route.tariff.cost)
        return


def _line(model: str, upstream: Upstream, price: Price) -> Listing:
    by_token = price.free or any(getattr(price, name) is not None for name in TOKENS)
    rate: Mapping[str, int] = dict(zip(METERS, rates(price, 0), strict=True)) if by_token else {}
    piece, unit = by_the_piece(price) or (None, None)
    return Listing(
        model=model,
        upstream=upstream.name,
        input=rate.get("input"),
        output=rate.get("output"),
        cached_input=rate.get("cached_input"),
        free=price.free,
        price=piece,
        per=unit,
    )
