"""Templates, and the files that pages are made of."""

from __future__ import annotations

import gzip
import hashlib
import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from functools import cache
from importlib.resources import files
from typing import NamedTuple
from urllib.parse import urlencode

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from markupsafe import Markup, escape

from .. import __version__, clock
from ..admin.answers import Limit
from ..admin.desk import etag
from ..money import dollars, to_nano
from ..store.admins import Scope
from .visits import Page, Shown, Visit

SMALL = 1000
"""Bytes below which nothing is worth being compressed."""

TYPES = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8",
}


# ── templates ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def page(shown: Shown, visit: Visit, menu: list[Page]) -> bytes:
    return _environment().get_template(shown.template).render(visit=visit, menu=menu, **shown.given).encode()


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("llmgate.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters |= {
        "money": dollars,
        "usd": _usd,
        "at": _at,
        "percent": percent,
        "plain": _plain,
        "number": number,
        "words": words,
        "listed": listed,
        "sentence": sentence,
        "date": _date,
        "time": _time,
        "when": _when,
    }
    made.globals |= {
        "static": static_url,
        "Scope": Scope,
        "options": options,
        "further": _further,
        "hidden": _hidden,
        "version": version,
        "program": f"llmgate {__version__}",
    }
    return made


def number(value: int) -> str:
    """`12,345`."""
    return f"{value:,}"


def listed(text: str, none: str) -> str:
    """A list as the store keeps it."""
    return ", ".join(msgspec.json.decode(text, type=list[str])) or none


_CODE = re.compile(r"`([^`]*)`")


def words(text: str) -> Markup:
    """A sentence of ours, where code stands between `backticks`."""
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(text))))  # noqa: S704 - it was escaped


_NO_NAME = re.compile(
    r"(an?|the|this|that|these|there|who|what|you|your|it|no|nothing|nobody|somebody|too|two|new|all|user|team|keys?|"
    r"credits?|limits?|requests?|name|choose|cursor|top)(?![\w@+-]|\.\w)|[a-z ]+: "
)
"""How messages begin that begin with no name: with such a word, or with the field that they are about."""


def sentence(text: str) -> Markup:
    """The same, as a sentence stands in a page: errors begin as a part of one, unless it is with a name."""
    begin = text[:1].upper() if _NO_NAME.match(text) else text[:1]
    end = "" if text.endswith((".", "!", "?", ":")) else "."
    return words(f"{begin}{text[1:]}{end}")


def _moment(context: Context, ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, context["visit"].zone)


@pass_context
def _date(context: Context, ms: int | None) -> str:
    """`2026-11-20`, in the zone of the books."""
    return "" if ms is None else f"{_moment(context, ms):%Y-%m-%d}"


@pass_context
def _time(context: Context, ms: int | None) -> str:
    """`2026-11-20 14:05`."""
    return "" if ms is None else f"{_moment(context, ms):%Y-%m-%d %H:%M}"


@pass_context
def _when(context: Context, ms: int | None) -> Markup:
    """The same as an element that says the zone, too."""
    if ms is None:
        return Markup("")
    said = f"{_moment(context, ms):%Y-%m-%d %H:%M}"
    element = Markup('<time datetime="{}" title="{} {}">{}</time>')
    return element.format(clock.rfc3339(ms), said, context["visit"].zone.key, said)


@pass_context
def _at(context: Context, time: str, *, date: bool = False) -> Markup | str:
    """A time as the API tells it, as `when` shows one; or its day."""
    ms = clock.instant_ms(time)
    return _date(context, ms) if date else _when(context, ms)


def _usd(amount: str) -> str:
    """An amount as the API tells it, as `money` shows one."""
    nano = to_nano(amount.removeprefix("-"))
    return dollars(-nano if amount.startswith("-") else nano)


def _plain(value: object) -> str:
    """What JSON holds, for people: `a, b` of a list, `a=1, b=2` of a map."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={of}" for name, of in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def percent(limit: Limit) -> int:
    """How much of a limit is used up, with what requests in flight hold of it: 0 to 100, and 100 only for all of it."""
    used, held, left = (Decimal(figure) for figure in (limit.used, limit.held, limit.remaining))
    return int(100 * (used + held) / (used + held + left)) if used + held else 0


def options(names: Sequence[str], none: str, *more: str | None) -> list[tuple[str, str]]:
    """What `choice` offers: none, each name, and what there is already even if nobody can choose it any more."""
    every = dict.fromkeys([*names, *(one for one in more if one)])
    return [("", none), *((name, name) for name in every)]


@pass_context
def _further(context: Context, cursor: str) -> str:
    """The query of the next page."""
    query = context["visit"].query
    asked = {name: getattr(query, name) for name in query.__struct_fields__}
    said = {name: "true" if value is True else value for name, value in asked.items() if value}
    return urlencode(said | {"cursor": cursor}, doseq=True)


@pass_context
def _hidden(context: Context) -> Markup:
    """What each form that is sent by POST must have: the token of this browser, and a name of its own, by which the
    same form sent twice is known.
    """
    visit: Visit = context["visit"]
    field = Markup('<input type="hidden" name="{}" value="{}">')
    return field.format("csrf", visit.keeper.token(visit)) + field.format("nonce", secrets.token_urlsafe(12))


def version(told: msgspec.Struct) -> Markup:
    """What a form is to have that changes what it shows: see `Visit.check_version`."""
    return Markup('<input type="hidden" name="version" value="{}">').format(etag(told) or "")


# ── files ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


class File(NamedTuple):
    content_type: str
    body: bytes
    packed: bytes | None
    """Compressed, where that is worth it."""
    mark: str
    """Changes with the content."""


def static(name: str) -> File | None:
    """A file of `static/`, which may lie there compressed; None: there is none of that name. Only those that are there
    are remembered: anybody may ask for any name.
    """
    return _read(name) if name in _names() else None


@cache
def _names() -> frozenset[str]:
    every = (file.name.removesuffix(".gz") for file in files(__package__).joinpath("static").iterdir())
    return frozenset(name for name in every if name.rpartition(".")[2] in TYPES)


@cache
def _read(name: str) -> File:
    ending = name.rpartition(".")[2]
    folder = files(__package__).joinpath("static")
    plain, zipped = folder.joinpath(name), folder.joinpath(f"{name}.gz")
    if plain.is_file():
        body = plain.read_bytes()
        packed = gzip.compress(body, mtime=0) if len(body) > SMALL else None
    else:
        packed = zipped.read_bytes()
        body = gzip.decompress(packed)
    return File(TYPES[ending], body, packed, hashlib.sha256(body).hexdigest()[:12])


def static_url(name: str) -> str:
    """Where a file is: another address when it is another file, so that browsers may keep it for ever."""
    file = static(name)
    assert file is not None, name
    return f"/static/{name}?{file.mark}"
