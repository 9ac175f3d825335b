"""A config as TOML: the one in effect, without its secrets, and the one that `llmgate init` begins with."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import tomli_w

from ..errors import UsageError
from ..presets import PRESETS
from .paths import DATABASE_NAME
from .reading import REFERENCE, hints_of, parse
from .rules import SIZE_UNITS, Secret, nearest
from .tables import Config

MASK = "***"
_SECRET_NAME = re.compile(r"auth|cookie|key|password|secret|sig|token", re.IGNORECASE)


def to_toml(config: Config) -> str:
    """The config in effect, with the defaults and without secrets; a reference is shown as it is."""
    return tomli_w.dumps(_plain(config))


def _plain(value: Any, key: str = "") -> Any:
    if isinstance(value, msgspec.Struct):
        parts = ((name, getattr(value, name)) for name in hints_of(type(value)))
        return {name: _plain(part, name) for name, part in parts if part is not None and part not in ((), {})}
    if key in ("headers", "query"):
        return {name: _masked(text) if _SECRET_NAME.search(name) else text for name, text in value.items()}
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, tuple):
        items = [_plain(item) for item in value]
        return items[0] if key == "api_key" and len(items) == 1 else items
    if key == "proxy":
        return re.sub(r"//.*@", f"//{MASK}@", value)
    if isinstance(value, Secret):
        return _masked(value.reveal())
    if key == "max_body":
        return _size_text(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _masked(text: str) -> str:
    return text if REFERENCE.fullmatch(text) else MASK


def _size_text(size: int) -> str:
    unit = next(unit for unit in ("GiB", "MiB", "KiB", "B") if size % SIZE_UNITS[unit] == 0)
    return f"{size // SIZE_UNITS[unit]}{unit}"


_LOCAL = {"price": "free"}
_STARTERS: Mapping[str, Mapping[str, Any]] = {
    "azure": {"base_url": "${AZURE_OPENAI_ENDPOINT}/openai/v1"},
    "llamacpp": {"base_url": "http://127.0.0.1:9931/v1", **_LOCAL},
    "ollama": _LOCAL,
    "vllm": {"base_url": "http://127.0.0.1:8001/v1", **_LOCAL},
}
"""What a new config says of an upstream beside its secret."""

_ABOUT_FILE = """\
# llmgate.toml: `llmgate config example` shows every option, `llmgate config check` checks this file.
# ${NAME} is taken from the environment, or from .env beside this file.
"""
_ABOUT_SERVER = """
# Where clients connect. 0.0.0.0 listens on every address: put TLS in front of it.
"""
_ABOUT_DEFAULTS = """
# Of a new user. metered: what is used is counted; prepaid: a balance is needed.
"""
_ABOUT_UPSTREAMS = """
# Who answers. A known name needs no more than its secret.
"""


def default_toml(
    upstreams: Sequence[str] = ("sandbox",),
    *,
    bind: str = "127.0.0.1:8000",
    billing: str = "metered",
    timezone: str | None = None,
) -> str:
    """What `llmgate init` writes: few lines, each of them said to be what it is."""
    top = {"database": DATABASE_NAME} | ({"timezone": timezone} if timezone else {})
    sections: tuple[tuple[str, dict[str, Any]], ...] = (
        (_ABOUT_FILE, top),
        (_ABOUT_SERVER, {"server": {"bind": bind}}),
        (_ABOUT_DEFAULTS, {"defaults": {"billing": billing}}),
        (_ABOUT_UPSTREAMS, {"upstreams": {name: _starter(name) for name in upstreams}}),
    )
    text = "".join(comment + tomli_w.dumps(table) for comment, table in sections)
    parse(text)
    return text


def _starter(name: str) -> dict[str, Any]:
    if name not in PRESETS:
        raise UsageError(f"{name!r} is no known upstream: {nearest(name, PRESETS)}")
    secret_env = PRESETS[name].secret_env
    api_key = {"api_key": f"${{{secret_env[0]}}}"} if secret_env else {}
    return {**api_key, **_STARTERS.get(name, {})}
