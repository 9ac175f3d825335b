"""No config at all: the upstreams that the variables of the environment name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from .. import pricelists
from ..errors import ConfigError, UsageError, reason
from ..presets import PRESETS, Preset
from ..pricing import Price
from . import rules
from .paths import located
from .rules import Secret, because
from .tables import UpstreamTable


def upstreams_from_environment(env: Mapping[str, str]) -> dict[str, UpstreamTable]:
    """The upstreams whose variables are set; the sandbox if there is none. Secrets stay references."""
    found = {name: table for name, preset in PRESETS.items() if (table := _preset_from_environment(preset, env))}
    if base := env.get("UPSTREAM_BASE"):
        found["upstream"] = _nameless_from_environment(base, env)
    return found or {"sandbox": UpstreamTable()}


PRICES = "MODEL_PRICING_JSON"


def prices_from_environment(env: Mapping[str, str], folder: Path) -> dict[str, Price]:
    """The prices in a variable that holds JSON (USD per 1000 tokens, or LiteLLM's map), or the path of such a file."""
    given = env.get(PRICES, "").strip()
    if not given:
        return {}
    try:
        text = given if given.startswith("{") else located(given, folder, env).read_text(encoding="utf-8-sig")
        found = pricelists.read(text)
    except (OSError, UnicodeDecodeError, UsageError) as error:
        detail = error.message if isinstance(error, UsageError) else f"{given} can't be read: {reason(error)}"
        rule = 'JSON such as {"gpt-4o": {"input": 0.0025, "output": 0.01}} in USD per 1000 tokens, or the path of it'
        raise ConfigError(f"environment: {PRICES} must be {rule} ({detail}).") from error
    return {model.casefold(): price for (_, model), price in found.prices.items()}


def _preset_from_environment(preset: Preset, env: Mapping[str, str]) -> UpstreamTable | None:
    variable = secret_variable(preset, env)
    base_url = env.get(preset.base_url_env) if preset.base_url_env else None
    if variable is None or not (base_url or preset.base_url):
        return None
    secrets = (Secret(f"${{{variable}}}"),)
    if not base_url:
        return UpstreamTable(api_key=secrets, proxy=_proxy_to(str(preset.base_url), env))
    version = env.get(preset.api_version_env) if preset.api_version_env else None
    url = _tailed(_valid_url(base_url, str(preset.base_url_env)), preset, version)
    query = {"api-version": version} if version else {}
    return UpstreamTable(api_key=secrets, base_url=url, query=query, proxy=_proxy_to(url, env))


def _nameless_from_environment(base: str, env: Mapping[str, str]) -> UpstreamTable:
    """`UPSTREAM_BASE`: anything that speaks OpenAI; with `UPSTREAM_API_VERSION` it speaks as Azure does."""
    url, version = _valid_url(base, "UPSTREAM_BASE"), env.get("UPSTREAM_API_VERSION")
    secrets = (Secret("${UPSTREAM_API_KEY}"),) if env.get("UPSTREAM_API_KEY") else None
    auth = None if secrets else "none"
    proxy = _proxy_to(url, env)
    if not version:
        return UpstreamTable(base_url=url, api_key=secrets, auth=auth, proxy=proxy)
    azure = PRESETS["azure"]
    url = url if urlsplit(url).path.strip("/") else _tailed(url, azure, version)
    query = {"api-version": version}
    return UpstreamTable(preset="azure", base_url=url, api_key=secrets, auth=auth, query=query, proxy=proxy)


def _proxy_to(url: str, env: Mapping[str, str]) -> str | None:
    """Where everything comes from the environment, so does the proxy: for https alone, less what NO_PROXY names. It
    stays a reference: it may hold a password."""
    variable = next((name for name in ("HTTPS_PROXY", "https_proxy") if env.get(name)), None)
    parts = urlsplit(url)
    if variable is None or parts.scheme != "https" or _goes_direct(parts.hostname or "", env):
        return None
    return f"${{{variable}}}"


def _goes_direct(host: str, env: Mapping[str, str]) -> bool:
    """Whether NO_PROXY names a host, or a domain that it is in."""
    named = (env.get("NO_PROXY") or env.get("no_proxy") or "").replace(",", " ").split()
    names = [name.partition(":")[0].removeprefix("*").lstrip(".").lower() for name in named]
    return any(name == "" or host == name or host.endswith(f".{name}") for name in names)


def secret_variable(preset: Preset, env: Mapping[str, str]) -> str | None:
    return next((name for name in preset.secret_env if env.get(name)), None)


def _valid_url(text: str, variable: str) -> str:
    try:
        return rules.base_url(text).rstrip("/")
    except ValueError as error:
        rule = "an http:// or https:// URL without a query"
        raise ConfigError(f"environment: {variable} must be {rule}{because(error)}.") from error


def _tailed(url: str, preset: Preset, version: str | None) -> str:
    """A base URL as an SDK's variable has it, with what that SDK adds to it; Azure's API without versions is `v1`."""
    if not preset.base_url_tail or url.endswith("/v1"):
        return url
    url = url if url.endswith(preset.base_url_tail) else url + preset.base_url_tail
    return f"{url}/v1" if preset.deployments and not version else url
