"""Asking each upstream before a client does: is it there, does it take our secret, which models has it?

    questions ─► said ─► judged ─► Checkup: what is wrong, each with its cure

Only lists are asked for, and what tells of the secret: nothing that anybody bills. `judged` and `unreached` are pure:
what came of a question in, what to tell the admin out. No sentence holds a secret, or what an upstream says of one.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import time
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from difflib import get_close_matches
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

import httpx
import msgspec

from ..config import Config, Upstream, secret_places
from ..config.rules import Secret
from ..presets import Format
from ..routing import SANDBOX_MODELS
from . import upstream as up
from .transport import Transport

PATIENCE_S = 10.0
"""For all that one upstream is asked."""

MOST_LIST = 32 * 2**20
"""Bytes of a list of models; OpenRouter's has half a megabyte."""

SOON_DAYS = 7
"""A certificate that ends within so many days is a problem: whoever renews it by itself has done so earlier."""

DAY_S = 86_400

WRONG_SECRET = (b"API_KEY_INVALID", b"API key not valid", b"Incorrect API key")
"""Google and xAI say so with 400."""

LISTS_ANYTHING = frozenset({"azure", "fireworks", "llamacpp"})
"""Whose lists don't say what can be asked for: Azure's has what might be deployed, Fireworks' a choice, and llama.cpp
answers to any name."""

Status = Literal["ok", "loading", "error"]


class Checkup(msgspec.Struct, kw_only=True):
    """What came of it."""

    upstream: str
    status: Status = "ok"
    """loading: it is there, and not ready yet."""
    latency_ms: int | None = None
    """Until the whole list of models was there."""
    models: int | None = None
    tls_ends_ms: int | None = None
    tls_days_left: int | None = None
    credits_usd: str | None = None
    """What its key may still spend there, where it tells."""
    problems: list[str] = []


class Said(NamedTuple):
    """What an upstream answered."""

    status: int
    body: bytes = b""
    content_type: str = ""
    location: str = ""

    def json(self) -> Any:
        """None: it is no JSON."""
        try:
            return msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None

    @property
    def is_page(self) -> bool:
        return "html" in self.content_type or self.body.lstrip()[:1] == b"<"

    @property
    def is_loading(self) -> bool:
        """llama.cpp's way to say so; others use the same words."""
        return self.status == 503 and b"loading" in self.body[:4096].lower()


async def check(config: Config, upstreams: Iterable[Upstream], env: Mapping[str, str]) -> list[Checkup]:
    """All of them at the same time."""
    return list(await asyncio.gather(*(_check(config, upstream, env) for upstream in upstreams)))


async def _check(config: Config, upstream: Upstream, env: Mapping[str, str]) -> Checkup:
    found = Checkup(upstream=upstream.name)
    if upstream.preset == "sandbox":
        found.models = len(SANDBOX_MODELS)
        return found
    try:
        async with asyncio.timeout(PATIENCE_S), Transport(ca=upstream.ca, proxy=upstream.proxy) as transport:
            names = await _examine(found, transport, upstream, config, env)
            _note_certificate(found, transport.certificate)
    except TimeoutError:
        found.problems.append(
            f"{upstream.base_url} didn't answer within {PATIENCE_S:.0f} s{_about_proxy(upstream, env)}"
        )
    except httpx.TransportError as error:
        found.problems.append(unreached(upstream, error, env))
    else:
        if names is not None and upstream.preset not in LISTS_ANYTHING:
            found.problems += unlisted(config, upstream.name, names)
    if found.problems and found.status == "ok":
        found.status = "error"
    return found


async def _examine(
    found: Checkup, transport: Transport, upstream: Upstream, config: Config, env: Mapping[str, str]
) -> list[str] | None:
    """Ask one thing after the other: the names of the models, if they came."""
    if upstream.health:
        said = await _get(transport, up.health_url(upstream), upstream, upstream.secret)
        if said.is_loading:
            found.status = "loading"
            found.problems.append("it is loading its model: not yet; requests go there as soon as it is ready")
            return None
        if said.status != 200 and (said.status != 404 or upstream.preset is None):
            found.problems.append(f"{up.health_url(upstream)} answers HTTP {said.status}, and not that it is ready")
    names = None
    places = [place.name for place in secret_places(config, upstream.name, env)]
    for index, secret in enumerate(upstream.secrets or (None,)):
        place = places[index] if index < len(places) else None
        began = time.monotonic()
        said = await _get(transport, _models_url(upstream, secret), upstream, secret)
        if found.latency_ms is None:
            found.latency_ms = round((time.monotonic() - began) * 1000)
        problem = judged(upstream, said, place)
        if problem is None:
            names = names_in(said.json(), upstream.formats[0])
            problem = await _ask_of_secret(found, transport, upstream, secret, place)
        if problem is not None:
            found.problems.append(problem)
    if names is not None:
        found.models = len(names)
        if not names:
            found.problems.append(_about_no_models(upstream))
    return names


async def _ask_of_secret(
    found: Checkup, transport: Transport, upstream: Upstream, secret: Secret | None, place: str | None
) -> str | None:
    """Where the list of models is for everybody, something that is not tells whether the secret is right."""
    match upstream.preset:
        case "openrouter":
            said = await _get(transport, up.address(upstream, "/key", "", secret), upstream, secret)
            problem = judged(upstream, said, place, listing=False)
            if problem is None and (left := _left_to_spend(said)) is not None:
                found.credits_usd = str(left)
                if left <= 0:
                    return f"what {place} may spend there is used up: raise its limit, or wait for its reset"
            return problem
        case "llamacpp":
            said = await _get(transport, up.beside(upstream, "/props"), upstream, secret)
            return judged(upstream, said, place, listing=False) if said.status in (401, 403) else None
    return None


# ── questions ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _get(transport: Transport, url: httpx.URL, upstream: Upstream, secret: Secret | None) -> Said:
    headers = up.request_headers([(b"accept", b"application/json")], upstream, secret)
    if upstream.formats[0] == "anthropic" and "anthropic-version" not in {name.lower() for name in upstream.headers}:
        headers.append((b"anthropic-version", b"2023-06-01"))
    timeout = {"connect": min(upstream.timeout.connect, PATIENCE_S)}
    request = httpx.Request("GET", url, headers=headers, extensions={"timeout": timeout})
    response = await transport.handle_async_request(request)
    body = b""
    async for piece in response.aiter_raw():
        body += piece
        if len(body) > MOST_LIST:
            break
    await response.aclose()
    given = response.headers
    return Said(response.status_code, body, given.get("content-type", "").lower(), given.get("location", ""))


def _models_url(upstream: Upstream, secret: Secret | None) -> httpx.URL:
    match upstream.formats[0]:
        case "anthropic":
            return up.address(upstream, "/models", "limit=1000", secret)
        case "gemini":
            version = "" if _versioned(upstream.base_url) else "/v1beta"
            return up.address(upstream, f"{version}/models", "pageSize=1000", secret)
    return up.address(upstream, "/models", "", secret)


PATHS = ("/chat/completions", "/completions", "/responses", "/embeddings", "/messages", "/models")
"""What an address ends in that was copied whole."""


def _versioned(base_url: str) -> bool:
    return re.search(r"/v\d+[a-z0-9]*(/|$)", urlsplit(base_url).path) is not None


# ── what it means ─────────────────────────────────────────────────────────────────────────────────────────────────────


def judged(upstream: Upstream, said: Said, place: str | None, *, listing: bool = True) -> str | None:
    """What is wrong with an answer, and how to mend it; None: nothing. `place`: where the secret stands."""
    at, status = upstream.base_url, said.status
    if status in (401, 403) and place is None:
        return f'it asks for a secret (HTTP {status}): write api_key = "${{…}}" under [upstreams.{upstream.name}]'
    if status == 401 or (status == 400 and any(words in said.body for words in WRONG_SECRET)):
        return f"it refuses the secret (HTTP {status}): look at {place}{_about_auth(upstream)}"
    if status == 403:
        return f"it refuses (HTTP 403): the secret ({place}) may not do this, or not from this address"
    if status == 402:
        return "there is no money left there (HTTP 402): pay it, or use another secret"
    if status == 407:
        return 'the proxy asks for a login (HTTP 407): proxy = "http://user:password@host:port"'
    if 300 <= status < 400:
        return f"it redirects to {_place_of(said.location)} (HTTP {status}), and none is followed: correct base_url"
    if status in (404, 405):
        return f"there are no models at {at} (HTTP {status}): {_about_path(upstream)}"
    if status == 429:
        return "it has too many requests at the moment (HTTP 429): its limit is reached; the secret is right"
    if status >= 500:
        return (
            f"it is in trouble (HTTP {status}): {'its model is loading' if said.is_loading else 'look at its own log'}"
        )
    if status >= 400:
        return f"it doesn't like to be asked for its models (HTTP {status}): {_about_path(upstream)}"
    if said.is_page:
        return f"a web page answers at {at}, no API: {_about_path(upstream)}, or a login page stands in between"
    if said.json() is None:
        return f"what answers at {at} is no JSON: {_about_path(upstream)}"
    if listing:
        return _about_format(upstream, said.json())
    return None


class _Key(msgspec.Struct):
    limit_remaining: Decimal | None = None


class _KeyAnswer(msgspec.Struct):
    data: _Key


def _left_to_spend(said: Said) -> Decimal | None:
    """What OpenRouter says of a key, in USD; None: it has no limit of its own."""
    try:
        return msgspec.json.decode(said.body, type=_KeyAnswer).data.limit_remaining
    except msgspec.MsgspecError:
        return None


def _about_auth(upstream: Upstream) -> str:
    """In case that the secret is right and is sent in the wrong way."""
    if upstream.preset:
        return ""
    sent = f"{upstream.auth}:{upstream.auth_name}" if upstream.auth in ("header", "query") else upstream.auth
    return f', and at the way that it is sent (auth = "{sent}")'


def _about_path(upstream: Upstream) -> str:
    if upstream.deployments and "api-version" not in upstream.query:
        return 'Azure wants query = { api-version = "…" }, or a base_url that ends in /openai/v1'
    base = upstream.base_url
    if twice := re.search(r"(/v\d+[a-z0-9]*)\1$", base):
        return f"base_url has its {twice[1]} twice: {base.removesuffix(twice[1])}"
    if path := next((path for path in PATHS if base.endswith(path)), None):
        return f"base_url is what all paths begin with: {base.removesuffix(path)}"
    if upstream.formats[0] != "gemini" and not _versioned(upstream.base_url) and not upstream.deployments:
        return f"base_url probably lacks its /v1: {upstream.base_url}/v1"
    return "base_url is probably wrong"


def _about_format(upstream: Upstream, listed: Any) -> str | None:
    """The list is another dialect's, or none."""
    speaks = _format_of(listed)
    if speaks is None:
        return f"what answers at {upstream.base_url} has no list of models: {_about_path(upstream)}"
    if speaks != "any" and speaks not in upstream.formats:
        return f'it speaks {speaks}: write format = "{speaks}" under [upstreams.{upstream.name}]'
    return None


def _format_of(listed: Any) -> Format | Literal["any"] | None:
    """Whose dialect a list of models is in; any: several have it so; None: it is none."""
    if isinstance(listed, list):
        return "openai"  # Together's
    if not isinstance(listed, dict):
        return None
    if isinstance(listed.get("models"), list) and "data" not in listed:
        return "gemini"
    data = listed.get("data")
    if data is None and listed.get("object") == "list":
        return "openai"  # Ollama's, without models
    if not isinstance(data, list):
        return None
    if listed.get("object") == "list":
        return "openai"
    return "anthropic" if "has_more" in listed and "first_id" in listed else "any"


def names_in(listed: Any, format: Format) -> list[str]:  # noqa: A002
    """The names of the models in a list."""
    models = listed if isinstance(listed, list) else listed.get("models" if format == "gemini" else "data") or []
    named = (model.get("name" if format == "gemini" else "id") for model in models if isinstance(model, dict))
    return [name.removeprefix("models/") for name in named if isinstance(name, str)]


def unlisted(config: Config, upstream: str, names: list[str]) -> Iterator[str]:
    """Routes of `[models]` that ask an upstream for a model which it doesn't list."""
    for public, table in config.models.items():
        for route in table.routes:
            wanted = route.model or public
            if route.upstream == upstream and not _lists(wanted, names):
                near = get_close_matches(wanted, names, n=1)
                hint = f"did you mean {near[0]}?" if near else "its own list doesn't have it"
                yield f"[models.{public}] asks it for {wanted}, which it doesn't have: {hint}"


def _lists(wanted: str, names: list[str]) -> bool:
    """Also as what comes before a date, a tag (`llama3:latest`) or a way to route (`…:free`)."""
    if wanted in names or wanted.partition(":")[0] in names:
        return True
    return any(name.startswith((f"{wanted}-", f"{wanted}:")) for name in names)


def _about_no_models(upstream: Upstream) -> str:
    cure = "`ollama pull MODEL` gives it one" if upstream.preset == "ollama" else "has its secret the right to use any?"
    return f"it has no model: {cure}"


def unreached(upstream: Upstream, error: httpx.TransportError, env: Mapping[str, str]) -> str:
    """Why there was no answer, and how to mend it."""
    url = urlsplit(upstream.base_url)
    at = f"{url.hostname}:{url.port or (443 if url.scheme == 'https' else 80)}"
    if isinstance(error, httpx.ProxyError):
        proxy = urlsplit(upstream.proxy or "")
        if "407" in str(error):
            return f'the proxy {proxy.hostname} asks for a login: proxy = "http://user:password@{proxy.hostname}:…"'
        return f"the proxy {proxy.hostname}:{proxy.port} makes no connection to {at} ({_reason(error)}): look at proxy"
    cause = _first_cause(error)
    match cause:
        case ssl.SSLCertVerificationError():
            return _about_certificate(cause, at)
        case ssl.SSLError():
            return f"{at} speaks no TLS that we understand ({cause.reason}): base_url may have to begin with http://"
        case socket.gaierror():
            return (
                f"the name {url.hostname} isn't known here: look at base_url and the DNS{_about_proxy(upstream, env)}"
            )
        case ConnectionRefusedError():
            return f"nothing listens at {at}: {_about_silence(upstream)}"
    if isinstance(error, httpx.ConnectTimeout):
        return f"no connection to {at} in time: is it up, and no firewall in between?{_about_proxy(upstream, env)}"
    if isinstance(error, httpx.ConnectError):
        if url.scheme == "https" and (isinstance(cause, ConnectionResetError) or not getattr(cause, "errno", None)):
            return f"{at} broke off where TLS begins: base_url may have to begin with http://"
        return f"no connection to {at} ({_reason(error)}){_about_proxy(upstream, env)}"
    tls = "base_url may have to begin with https://" if url.scheme == "http" else "look at its own log"
    return f"{at} broke off without an answer: {tls}"


def _about_certificate(error: ssl.SSLCertVerificationError, at: str) -> str:
    code = getattr(error, "verify_code", 0)
    said = getattr(error, "verify_message", "") or "it is not valid"
    if code == 10:
        return f"the certificate of {at} has expired: renew it there"
    if code in (62, 64):
        return f"the certificate of {at} is for another name: base_url must have the name that it is for"
    return f'nobody who is trusted vouches for {at} ({said}): name its authority, ca_file = "corp.pem"'


def _about_silence(upstream: Upstream) -> str:
    if upstream.preset == "vllm":
        return "it is not started, or still loading its model, or base_url has another port"
    return "it is not started, or base_url has another port"


def _about_proxy(upstream: Upstream, env: Mapping[str, str]) -> str:
    """Where the way out is probably a proxy that was not given."""
    variable = next((name for name in ("HTTPS_PROXY", "https_proxy") if env.get(name)), None)
    if upstream.proxy or variable is None or not upstream.base_url.startswith("https:"):
        return ""
    return f'; {variable} is set, but no proxy is used that isn\'t written: proxy = "${{{variable}}}"'


def _first_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _reason(error: BaseException) -> str:
    cause = _first_cause(error)
    return (cause.strerror if isinstance(cause, OSError) else None) or str(error) or type(error).__name__


def _place_of(location: str) -> str:
    """Where a redirect leads, without what its query may hold."""
    url = urlsplit(location)
    return (
        f"{url.scheme}://{url.hostname}{f':{url.port}' if url.port else ''}{url.path}" if url.hostname else "elsewhere"
    )


def _note_certificate(found: Checkup, certificate: Mapping[str, Any] | None) -> None:
    if not certificate or "notAfter" not in certificate:
        return
    ends_s = ssl.cert_time_to_seconds(certificate["notAfter"])
    found.tls_ends_ms = ends_s * 1000
    found.tls_days_left = int((ends_s - time.time()) // DAY_S)
    if found.tls_days_left < SOON_DAYS:
        found.problems.append(f"its certificate ends in {found.tls_days_left} days: renew it there")
