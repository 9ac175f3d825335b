"""What a path of the config means: where its home is, and what it is relative to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

FILE_NAME = "llmgate.toml"
DATABASE_NAME = "llmgate.db"


def located(text: str, folder: Path, env: Mapping[str, str]) -> Path:
    if text == "~" or text.startswith("~/"):
        return _home(env) / text[2:]
    return folder / text


def _home(env: Mapping[str, str]) -> Path:
    return Path(env.get("HOME") or Path.home())


def xdg(variable: str, otherwise: str, env: Mapping[str, str]) -> Path:
    """A base folder by the XDG specification, which says to ignore a relative one."""
    value = env.get(variable, "")
    return Path(value) if Path(value).is_absolute() else _home(env) / otherwise


def is_file(path: Path) -> bool:
    """Whether there is a file to read; a folder that nobody may look into (a hidden home) has none."""
    try:
        return path.is_file()
    except OSError:
        return False
