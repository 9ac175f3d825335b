"""Price lists as others write them, read into prices: pure functions over a text.

    per-1k    JSON, USD per 1000 tokens: {"gpt-4o": {"prompt": 0.0025, "completion": 0.01}}; `input` and `output` and
              the price keys of the config go as well, `"gpt-4o": 0.01` is for both, `"gpt-4o": "free"` is free
    litellm   JSON, LiteLLM's map: USD per token, image, second …
    csv       a header of `model`, perhaps `upstream`, and price keys as the config has them: USD per 1M tokens

Numbers are taken from the text as they stand there: no float ever touches money. A list is read whole or not at all;
what in it has no meaning here is told by name (`Read.ignored`), never guessed at.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec

from .errors import UsageError
from .money import MAX_NANO, catalogue_nano, to_nano
from .names import MODEL
from .pricing import CONFIG_KEYS, FREE, TOKENS, UNITS, Price, Tier, price_of

FORMATS = ("per-1k", "litellm", "csv")


class Read(NamedTuple):
    """What a list says."""

    format: str
    prices: dict[tuple[str, str], Price]
    """(upstream or '', model) → price."""
    ignored: dict[str, int]
    """What wasn't taken, and of how many models."""


def read(text: str, form: str = "auto") -> Read:
    """Read a list. `auto` tells the formats by what is in them. Raises UsageError, naming the model and the cure."""
    if form not in ("auto", *FORMATS):
        raise UsageError(f"there is no price list format {form!r}: known are auto, {', '.join(FORMATS)}")
    ignored: Counter[str] = Counter()
    if form == "csv" or (form == "auto" and not text.lstrip("\ufeff \t\r\n").startswith(("{", "["))):
        found = _checked(_csv(text, ignored))
        form = "csv"
    else:
        entries = _json(text)
        if form == "auto":
            form = "litellm" if any(_is_litellm(entry) for entry in entries.values()) else "per-1k"
        of_entry = _litellm if form == "litellm" else _per_1k
        found = _checked(_models(entries, of_entry, ignored))
    if not found:
        raise UsageError(f"there is no price in it, read as {form}: {_about(ignored)}")
    return Read(form, found, dict(ignored))


def _about(ignored: Mapping[str, int]) -> str:
    return f"not understood: {', '.join(list(ignored)[:5])}" if ignored else "see `llmgate prices import --help`"


def _json(text: str) -> dict[str, Any]:
    """A JSON object whose numbers are decimals. A name that stands there twice is an error: which one would count?"""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
        if twice:
            raise UsageError(f"{twice[0]!r} stands there twice: leave one of them")
        return dict(pairs)

    exact: dict[str, Any] = {"parse_float": Decimal, "parse_int": Decimal, "parse_constant": Decimal}
    try:
        found = json.loads(text.lstrip("\ufeff"), object_pairs_hook=unique, **exact)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"this is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise UsageError("this is no price list: it must be a JSON object of models, or CSV with a header")
    return found


def _models(
    entries: Mapping[str, Any], of_entry: Callable[[Any, Counter[str]], Price | None], ignored: Counter[str]
) -> Iterator[tuple[tuple[str, str], Price]]:
    for model, entry in entries.items():
        if model == "sample_spec":  # LiteLLM's own explanation of its fields
            continue
        if not MODEL.fullmatch(model):
            ignored[f"the name {model!r}"] += 1
            continue
        try:
            price = of_entry(entry, ignored)
        except ValueError as error:
            raise UsageError(f"{model}: {error}") from error
        if price is not None:
            yield ("", model), price


def _checked(found: Iterator[tuple[tuple[str, str], Price]]) -> dict[tuple[str, str], Price]:
    """Names that differ by their capitals only are one model here: they must say the same."""
    prices: dict[tuple[str, str], Price] = {}
    names: dict[tuple[str, str], str] = {}
    for (upstream, model), price in found:
        first = names.setdefault((upstream, model.casefold()), model)
        if first != model and prices[upstream, first] != price:
            raise UsageError(f"{first!r} and {model!r} are one model, and have two prices: leave one of them")
        prices.setdefault((upstream, first), price)
    return prices


def _number(value: Any, what: str) -> Decimal:
    if isinstance(value, str):
        value = Decimal(value) if re.fullmatch(r"[0-9.]+([eE][-+]?[0-9]{1,3})?", value.strip()) else None
    if not isinstance(value, Decimal) or not value.is_finite():
        raise ValueError(f"{what} is not a number")
    if value < 0:
        raise ValueError(f"{what} is negative")
    return value


# ── USD per 1000 tokens ───────────────────────────────────────────────────────────────────────────────────────────────

_WORDS = {"prompt": "input", "completion": "output", "cached": "cached_input", "cached_prompt": "cached_input"}
_AROUND = re.compile(r"^usd_|_(?:usd|price|cost|tokens?|per_1k|per_1k_tokens|1k|per_thousand)$")


def _key(field: str) -> str | None:
    """The price key that a field of a list per 1000 tokens means: `prompt_price_per_1k` is `input`."""
    if field in CONFIG_KEYS:
        return field
    word = field.lower()
    while (shorter := _AROUND.sub("", word)) != word:
        word = shorter
    word = _WORDS.get(word, word)
    return word if word in TOKENS else None


def _per_1k(entry: Any, ignored: Counter[str]) -> Price | None:
    if entry == "free":
        return FREE
    if isinstance(entry, Decimal):
        entry = {"input": entry, "output": entry}
    if not isinstance(entry, dict):
        raise ValueError('write {"input": …, "output": …}, one number for both, or "free"')  # noqa: TRY004
    table: dict[str, Decimal] = {}
    for field, value in entry.items():
        key = _key(field)
        meant = difflib.get_close_matches(field, CONFIG_KEYS, n=1, cutoff=0.8)
        if key is None and meant:
            raise ValueError(
                f"{field!r} is no price key: did you mean {meant[0]}?"
            )  # left out, it would cost otherwise
        if key is None or value is None:
            ignored[field] += 1
        elif key in table:
            raise ValueError(f"{field} says {key} a second time")
        else:
            table[key] = _number(value, field) * (1000 if key in TOKENS else 1)
    return price_of(table) if table else None


# ── LiteLLM ───────────────────────────────────────────────────────────────────────────────────────────────────────────

_PER_TOKEN = {
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "cache_read_input_token_cost": "cached_input",
    "cache_creation_input_token_cost": "cache_write",
    "cache_creation_input_token_cost_above_1hr": "cache_write_1h",
    "input_cost_per_audio_token": "audio_input",
    "input_cost_per_image_token": "image_input",
    "input_cost_per_video_token": "image_input",
    "output_cost_per_reasoning_token": "reasoning",
    "output_cost_per_audio_token": "audio_output",
    "output_cost_per_image_token": "audio_output",
    "output_cost_per_video_token": "audio_output",
}
_PER_PIECE = {
    "input_cost_per_request": ("calls", 1),
    "output_cost_per_image": ("images", 1),
    "input_cost_per_second": ("milliseconds", 1000),
    "output_cost_per_second": ("milliseconds", 1000),
    "input_cost_per_audio_per_second": ("milliseconds", 1000),
    "input_cost_per_character": ("characters", 1),
    "output_cost_per_character": ("characters", 1),
    "input_cost_per_query": ("searches", 1),
}
"""Field → our meter, and how many of its units are one of the list's."""
_SEARCHES = "search_context_cost_per_query"
_TIER = re.compile(r"(?P<base>.+?)_above_(?P<thousands>[0-9]+)k_tokens")
_ABOUT_MONEY = re.compile(r"cost|price")


def _is_litellm(entry: Any) -> bool:
    return isinstance(entry, dict) and any(name in entry for name in (*_PER_TOKEN, *_PER_PIECE, "litellm_provider"))


def _litellm(entry: Any, ignored: Counter[str]) -> Price | None:
    """One model, or None. Where two fields mean one of our meters, the dearer counts."""
    if not isinstance(entry, dict):
        raise ValueError("write an object of LiteLLM's fields")  # noqa: TRY004
    base: dict[str, int] = {}
    tiers: dict[int, dict[str, int]] = {}
    for field, value in entry.items():
        if value is None:
            continue
        tier = _TIER.fullmatch(field)
        rated = _rate(tier["base"] if tier else field, value)
        if rated is None:
            if _ABOUT_MONEY.search(field) and not isinstance(value, bool):
                ignored[field] += 1
            continue
        name, rate = rated
        rates = tiers.setdefault(int(tier["thousands"]) * 1000, {}) if tier else base
        rates[name] = max(rate, rates.get(name, 0))
    if not any(base.values()):
        ignored["a price of nothing"] += 1  # the list says so of what it doesn't know as well
        return None
    return msgspec.structs.replace(msgspec.convert(base, Price), tiers=_stair(base, tiers))


def _rate(field: str, value: Any) -> tuple[str, int] | None:
    if field in _PER_TOKEN:
        return _PER_TOKEN[field], _listed(_number(value, field))
    if field in _PER_PIECE:
        name, units = _PER_PIECE[field]
        return name, _listed(_number(value, field) / units)
    if field == _SEARCHES and isinstance(value, dict) and value:
        return "searches", max(_listed(_number(one, field)) for one in value.values())
    return None


def _listed(usd: Decimal) -> int:
    """USD for one unit as a rate. Lists carry binary noise past the ninth decimal: rounded up, as in the catalogue."""
    rate = catalogue_nano(usd * UNITS)
    if rate > MAX_NANO:
        raise ValueError(f"{usd} is too large")
    return rate


def _stair(base: Mapping[str, int], tiers: Mapping[int, Mapping[str, int]]) -> tuple[Tier, ...]:
    """Each tier as a whole price: what it doesn't name is as below it."""
    steps = []
    rates = dict(base)
    for above, changed in sorted(tiers.items()):
        rates |= changed
        steps.append(Tier(above=above, price=msgspec.convert(rates, Price)))
    return tuple(steps)


# ── CSV ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _csv(text: str, ignored: Counter[str]) -> Iterator[tuple[tuple[str, str], Price]]:
    try:
        rows = list(csv.reader(io.StringIO(text.lstrip("\ufeff")), strict=True))
    except csv.Error as error:
        raise UsageError(f"this is no CSV: {error}") from error
    if not rows or "model" not in (header := [cell.strip() for cell in rows[0]]):
        raise UsageError(f"the CSV needs a header with model and price keys: {', '.join(CONFIG_KEYS)}")
    for name in header:
        if name not in ("model", "upstream", *CONFIG_KEYS):
            raise UsageError(f"{name!r} is no price key; there are {', '.join(CONFIG_KEYS)}")
        if header.count(name) > 1:
            raise UsageError(f"{name!r} stands in the header twice: leave one of them")
    seen = set()
    for line, row in enumerate(rows[1:], 2):
        cells = {name: cell.strip() for name, cell in zip(header, row, strict=False) if cell.strip()}
        if not cells:
            continue
        model, upstream = cells.pop("model", ""), cells.pop("upstream", "")
        if len(row) > len(header) or not MODEL.fullmatch(model):
            raise UsageError(f"line {line}: " + ("there are more cells than in the header" if model else "no model"))
        if (upstream, model) in seen:
            raise UsageError(f"line {line}: {model!r} stands there twice: leave one of them")
        seen.add((upstream, model))
        if not cells:
            ignored["lines without a price"] += 1
            continue
        try:
            for cell in cells.values():
                to_nano(cell)
            yield (upstream, model), price_of({key: Decimal(cell) for key, cell in cells.items()})
        except ValueError as error:
            raise UsageError(f"line {line}, {model}: {error}") from error
