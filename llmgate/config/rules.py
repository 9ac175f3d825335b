"""What may stand in a field: a type for mypy, and a rule for the reader, which says it in words."""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from zoneinfo import available_timezones

from .. import clock, limits, metering
from ..errors import UsageError
from ..issuers import ISSUERS
from ..money import to_nano
from ..names import NAME
from ..presets import PRESETS

TOKEN_PRICES = (
    "input",
    "cached_input",
    "cache_write",
    "cache_write_1h",
    "output",
    "reasoning",
    "audio_input",
    "audio_output",
    "image_input",
)
UNIT_PRICES = ("per_request", "per_image", "per_second", "per_search", "per_1k_characters")
PRICE_KEYS = TOKEN_PRICES + UNIT_PRICES
"""USD per 1M tokens, then USD per unit."""


MOST_WORKERS = 64
"""More than that only wait for each other: all write to one SQLite file."""


class Secret:
    """A text that no repr, log line or traceback shows."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "Secret(***)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


@dataclass(frozen=True)
class Rule:
    """A field's rule: `what` it must be, in words; the TOML types it may `accept`, exactly (a number in quotes is no
    number, and true is none either); a `check` that returns the value or raises ValueError with what is wrong.

    `fixed`: a word of llmgate's own, so no reference. `hidden`: an error must not show the value. `file`: a path
    relative to the config's folder.
    """

    what: str
    accept: tuple[type, ...] = (str,)
    check: Callable[[Any], Any] | None = None
    fixed: bool = False
    hidden: bool = False
    file: bool = False


def nearest(word: str, known: Mapping[str, Any] | Sequence[str], *, otherwise: str | None = None) -> str:
    """The word that was probably meant, else all of them, else `otherwise`."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]}?"
    return f"known are {', '.join(known)}" if otherwise is None else otherwise


def because(error: Exception | None) -> str:
    return f" ({error})" if error and str(error) else ""


def _matching(pattern: str) -> Callable[[str], str]:
    compiled = re.compile(pattern)

    def check(text: str) -> str:
        if compiled.fullmatch(text) is None:
            raise ValueError
        return text

    return check


def _count(number: int) -> int:
    if not 1 <= number <= 2**31:
        raise ValueError
    return number


def _quantity(number: int) -> int:
    return 0 if number == 0 else _count(number)


def _workers(number: int) -> int:
    if not 1 <= number <= MOST_WORKERS:
        raise ValueError
    return number


def _seconds(number: int | Decimal) -> float:
    if not 0 < number <= 7 * 86_400:
        raise ValueError
    return float(number)


def _grace(number: int | Decimal) -> float:
    return 0.0 if number == 0 else _seconds(number)


SIZE_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def _size(value: int | str) -> int:
    match = re.fullmatch(r"([0-9]{1,12}) ?([A-Za-z]*)", str(value))
    if match is None or match[2] not in SIZE_UNITS or int(match[1]) == 0:
        raise ValueError
    return int(match[1]) * SIZE_UNITS[match[2]]


def _session_time(text: str) -> str:
    span = clock.parse_duration(_duration(text))
    if span.unit not in clock.FIXED_MS or not 60_000 <= span.amount * clock.FIXED_MS[span.unit] <= 366 * clock.DAY_MS:
        raise ValueError
    return text


def fixed_ms(text: str) -> int:
    """The length of what `SessionTime` took."""
    span = clock.parse_duration(text)
    return span.amount * clock.FIXED_MS[span.unit]


def _public_url(text: str) -> str:
    if urlsplit(base_url(text)).path.strip("/"):
        raise ValueError("pages lie at the root of a host: leave the path out")
    return text.rstrip("/")


def _usd(value: int | Decimal) -> Decimal:
    to_nano(str(value))
    return Decimal(value)


def _price(value: Mapping[str, Any] | str) -> Mapping[str, Any] | str:
    if not value or (isinstance(value, str) and value != "free"):
        raise ValueError
    return value


def one_of(words: Sequence[str]) -> Callable[[str], str]:
    def check(text: str) -> str:
        if text not in words:
            raise ValueError(nearest(text, words, otherwise=""))
        return text

    return check


def bind(text: str) -> str:
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        ipaddress.IPv6Address(host[1:-1])
    elif not re.fullmatch(r"[A-Za-z0-9._-]+", host):
        raise ValueError("an IPv6 address stands in brackets" if ":" in host else "")
    if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65_535:
        raise ValueError("a port is 0 to 65535")
    return text


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError as error:
        raise ValueError from error  # what it says is no better than the rule


def _limit(text: str) -> str:
    try:
        return str(limits.parse(text))
    except UsageError as error:
        raise ValueError(error.message) from error


def _cap(text: str) -> str:
    return str(limits.parse_cap(text))


def _duration(text: str) -> str:
    try:
        clock.parse_duration(text)
    except UsageError as error:
        raise ValueError from error
    return text


def _percent(number: int) -> int:
    if not 1 <= number <= 100:
        raise ValueError
    return number


def _zone(name: str) -> str:
    try:
        return str(clock.zone(name))
    except UsageError as error:
        raise ValueError(nearest(name, sorted(available_timezones()), otherwise="")) from error


def database(text: str) -> str:
    scheme, separator, rest = text.partition("://")
    if separator and scheme != "sqlite":
        raise ValueError("only SQLite is supported")
    if separator and not rest.startswith("/"):
        raise ValueError
    if (rest.removeprefix("/") if separator else text) in ("", ":memory:"):
        raise ValueError("a database in memory would be gone with the command")
    return text


def base_url(text: str) -> str:
    if not re.fullmatch(r"[!-~]+", text):
        raise ValueError("there is a blank or a special character in it")
    url = urlsplit(text)
    if url.username is not None:
        raise ValueError("a user name or a secret does not belong in it")
    if url.scheme not in ("http", "https") or not url.hostname or url.port == 0:  # .port raises ValueError itself
        raise ValueError
    if url.query or url.fragment:
        raise ValueError("what follows the ? goes into query = { … }")
    return text


def _proxy(text: str) -> str:
    if not re.fullmatch(r"[!-~]+", text):
        raise ValueError("there is a blank or a special character in it")
    url = urlsplit(text)
    if url.scheme not in ("http", "") and url.hostname:
        raise ValueError(f"{url.scheme}:// is not supported")
    if url.scheme != "http" or not url.hostname or url.port == 0:  # .port raises ValueError itself
        raise ValueError
    if url.path.strip("/") or url.query or url.fragment:
        raise ValueError("a proxy has no path")
    return text.rstrip("/")


def _issuer(text: str) -> str:
    base_url(text)
    url = urlsplit(text)
    if url.scheme != "https" and url.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise ValueError("without TLS anybody on the way could say who somebody is")
    return text.rstrip("/")


def _way_in(name: str) -> str:
    if name in _WAYS_OF_OUR_OWN:
        raise ValueError("llmgate itself uses that word")
    return _matching(r"[a-z0-9][a-z0-9-]{0,31}")(name)


_WAYS_OF_OUR_OWN = frozenset({"key", "link"})
"""What stands behind /sign-in/ already."""


def _domain(text: str) -> str:
    if text.startswith("@") or not re.fullmatch(r"\*|(?=.{1,253}$)(?:[A-Za-z0-9-]{1,63}\.)*[A-Za-z0-9-]{1,63}", text):
        raise ValueError
    return text.lower()


_TOKEN = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"  # noqa: S105 - a token as RFC 9110 has it
VISIBLE = r"[!-~]([ -~]*[!-~])?"
_OWN_HEADERS = frozenset({"connection", "content-length", "host", "te", "transfer-encoding", "upgrade"})


def _origin(text: str) -> str:
    url = urlsplit(text)
    if text != "*" and (
        url.scheme not in ("http", "https") or not url.hostname or text != f"{url.scheme}://{url.netloc}"
    ):
        raise ValueError
    return text


def _header_name(name: str) -> str:
    if name.lower() in _OWN_HEADERS:
        raise ValueError("llmgate sets that one itself")
    return _matching(_TOKEN)(name)


METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")

OWN_PATHS = (
    *("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/responses/input_tokens"),
    *("/v1/images/generations", "/v1/images/edits", "/v1/images/variations"),
    *("/v1/audio/transcriptions", "/v1/audio/translations", "/v1/audio/speech", "/v1/moderations", "/v1/rerank"),
    *("/v1/messages", "/v1/messages/count_tokens", "/v1/models", "/v1beta/models", "/v1alpha/models"),
    *("/health", "/ready", "/metrics", "/user/balance", "/user/monitor", "/user/limit", "/v1/key", "/models/simple"),
    *("/admin", "/public", "/openapi.json", "/docs", "/redoc"),
    *("/", "/favicon.ico", "/request-key", "/sign-in", "/sign-out", "/portal", "/reports"),
)
"""Where llmgate answers itself, or meters in its own way: no route gets there."""

OWN_BELOW = (
    *("/v1/models/", "/v1beta/models/", "/v1alpha/models/", "/v1/responses/", "/user/", "/admin/", "/docs/"),
    *("/sign-in/", "/portal/", "/reports/", "/static/", "/public/"),
)
"""And all that is below these."""

_STEP = r"/(?!\.{1,2}(?:[/*]|$))[A-Za-z0-9._:@-]+"
PLAIN_PATH = rf"(?:{_STEP})+"
"""A path that everybody reads alike: no empty step, no `..`, nothing encoded."""

_PATTERN = rf"(?=/.{{1,200}}$)(?:{PLAIN_PATH}|(?:{_STEP})*/?\*)"


def _route_path(text: str) -> str:
    _matching(_PATTERN)(text)
    if is_own(text):
        raise ValueError("llmgate itself answers there")
    return text


def is_own(path: str) -> bool:
    folded = path.casefold()
    return folded in OWN_PATHS or folded.startswith(OWN_BELOW)


def _passthrough(text: str) -> str:
    if not text.startswith("/v1/"):
        raise ValueError
    return _route_path(text)


def _expression(text: str) -> str:
    metering.compiled(text)
    return text


# An annotation is an expression: each alias is a type for mypy, and a rule for the reader.
_NAME = NAME.pattern
_MODEL = r"(?!.*\.\.)[A-Za-z0-9._:@/-]+"
_SECONDS = "a number of seconds above 0, at most a week"
_PRICES = f'"free", or a table with at least one of: {", ".join(PRICE_KEYS)}'

Text = Annotated[str, Rule("a text", check=_matching(r"[^\x00-\x1f\x7f]+"))]
FilePath = Annotated[str, Rule("the path of a file", check=_matching(r"[^\x00-\x1f\x7f]+"), file=True)]
SecretText = Annotated[Secret, Rule("a text, best a reference: ${NAME}", check=Secret, hidden=True)]
SecretTexts = Annotated[tuple[SecretText, ...], Rule("a text, or a list of them", accept=(str, list))]
Seconds = Annotated[float, Rule(_SECONDS, accept=(int, Decimal), check=_seconds)]
Grace = Annotated[float, Rule("a number of seconds, at most a week", accept=(int, Decimal), check=_grace)]
Count = Annotated[int, Rule("a whole number of at least 1", accept=(int,), check=_count)]
Quantity = Annotated[int, Rule("a whole number of at least 0", accept=(int,), check=_quantity)]
Workers = Annotated[int, Rule(f"a whole number from 1 to {MOST_WORKERS}", accept=(int,), check=_workers)]
Size = Annotated[int, Rule('a size such as "32MiB" or a number of bytes', accept=(int, str), check=_size, fixed=True)]
Usd = Annotated[Decimal, Rule("USD: 0 or more, at most 9 decimals", accept=(int, Decimal), check=_usd)]
Bind = Annotated[str, Rule('"host:port", such as "127.0.0.1:8000" or "[::1]:8000"', check=bind)]
Network = Annotated[str, Rule('an address or a network, such as "10.0.0.0/8"', check=_network)]
Origin = Annotated[str, Rule('an origin such as "https://chat.example.com", or "*"', check=_origin)]
Zone = Annotated[str, Rule('an IANA time zone, such as "UTC" or "Europe/Berlin"', check=_zone)]
Database = Annotated[str, Rule('the path of an SQLite file, or "sqlite:///path"', check=database, hidden=True)]
BaseUrl = Annotated[str, Rule("an http:// or https:// URL without a query", check=base_url, hidden=True)]
PublicUrl = Annotated[str, Rule('an address such as "https://llm.example.org"', check=_public_url)]
SessionTime = Annotated[str, Rule('a time such as "30m", "12h" or "7d": a minute to a year', check=_session_time)]
Proxy = Annotated[
    str, Rule("http://host:port, or http://user:password@host:port", check=_proxy, hidden=True)
]  # hidden: it may hold a password
HealthPath = Annotated[str, Rule('a path, such as "/health"', check=_matching(r"/[!-~]*"))]
Auth = Annotated[
    str,
    Rule("bearer, header:NAME, query:NAME or none", check=_matching(rf"bearer|none|header:{_TOKEN}|query:{_TOKEN}")),
]
PresetName = Annotated[str, Rule(f"one of: {', '.join(PRESETS)}", check=one_of(tuple(PRESETS)))]
UpstreamName = Annotated[str, Rule(f"the name of an upstream, {_NAME}", check=_matching(_NAME), fixed=True)]
ModelName = Annotated[str, Rule("the name of a model, [A-Za-z0-9._:@/-]+ without ..", check=_matching(_MODEL))]
UpstreamModel = Annotated[str, Rule("a name without blanks and ..", check=_matching(r"(?!.*\.\.)[!-~]+"))]
HeaderName = Annotated[str, Rule("the name of an HTTP header", check=_header_name)]
HeaderValue = Annotated[str, Rule("a text that an HTTP header can carry", check=_matching(VISIBLE), hidden=True)]
QueryName = Annotated[str, Rule("the name of a query parameter", check=_matching(r"[!-~]+"))]
QueryValue = Annotated[str, Rule("a text", check=_matching(r"[^\x00-\x1f\x7f]*"), hidden=True)]
LimitText = Annotated[str, Rule("a limit such as 60 requests/minute", check=_limit)]
Cap = Annotated[str, Rule("a number per minute, hour, day, week or month, such as 5/day", check=_cap)]
Duration = Annotated[str, Rule("a duration such as 90d", check=_duration)]
TeamName = Annotated[str, Rule(f"the name of a team, {_NAME}", check=_matching(_NAME), fixed=True)]
Percent = Annotated[int, Rule("a percentage from 1 to 100", accept=(int,), check=_percent)]
PlanName = Annotated[str, Rule(f"the name of a plan, {_NAME}", check=_matching(_NAME), fixed=True)]
ModelGlob = Annotated[str, Rule("a model, or a glob such as gpt-4o*", check=_matching(r"[!-~]+"))]
RoutePath = Annotated[
    str, Rule('a path such as "/v1/translate", with * at its end for all that begin so', check=_route_path, fixed=True)
]
PassedPath = Annotated[
    str, Rule('a path such as "/v1/files*", * meaning all that begin so', check=_passthrough, fixed=True)
]
ThePath = Annotated[
    str, Rule('a path such as "/v2/translate", or with * at its end', check=_matching(_PATTERN), fixed=True)
]
Expression = Annotated[str, Rule("a JMESPath expression", check=_expression, fixed=True)]
MeterUnit = Annotated[
    metering.Unit, Rule(f"one of: {', '.join(metering.METER)}", check=one_of(tuple(metering.METER)), fixed=True)
]
Method = Annotated[str, Rule(f"one of: {', '.join(METHODS)}", check=one_of(METHODS), fixed=True)]
WayIn = Annotated[str, Rule("a name, [a-z0-9][a-z0-9-]{0,31}, such as google", check=_way_in, fixed=True)]
IssuerName = Annotated[str, Rule(f"one of: {', '.join(ISSUERS)}", check=one_of(tuple(ISSUERS)), fixed=True)]
IssuerUrl = Annotated[str, Rule("an https:// URL (http:// only on this machine)", check=_issuer)]
ScopeName = Annotated[str, Rule("a scope, such as openid", check=_matching(r"[!#-\[\]-~]+"))]
ClaimName = Annotated[str, Rule('the name of a claim, such as "preferred_username"', check=_matching(r"[!-~]{1,64}"))]
Domain = Annotated[str, Rule('a domain such as "example.org", or "*" for all', check=_domain)]
PriceKey = Annotated[str, Rule(f"a price; known are {', '.join(PRICE_KEYS)}", check=one_of(PRICE_KEYS))]
Price = Annotated[Mapping[PriceKey, Usd] | Literal["free"], Rule(_PRICES, check=_price, fixed=True)]
