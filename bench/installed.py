"""How much disk an installation takes: what pip installs with llmgate, by what this environment has of it."""

from __future__ import annotations

from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

import llmgate

from .told import Row, Setting, Told

NAMED = 12
"""The largest ones; the others are summed up."""


def installed(_: Setting) -> Told:
    """Raises PackageNotFoundError where something is not installed that llmgate needs."""
    sizes = sorted(((size(found), found) for found in needed("llmgate").values()), key=lambda pair: -pair[0])
    rows: list[Row] = [
        {"distribution": found.name, "version": found.version, "size_mib": number / 2**20} for number, found in sizes
    ]
    others = {"distribution": f"{len(rows) - NAMED} others", "size_mib": sum(row["size_mib"] for row in rows[NAMED:])}
    total = {"distribution": "all", "size_mib": sum(row["size_mib"] for row in rows)}
    told = Told({"what is installed with llmgate, extras left out": [*rows[:NAMED], others, total]})
    told.notes = ["with the bytecode that pip compiles, without Python itself"]
    return told


def needed(name: str) -> dict[str, Distribution]:
    """It, and all that it needs on this system, by name."""
    found: dict[str, Distribution] = {}
    wanted = [(name, frozenset[str]())]
    seen = set()
    while wanted:
        name, extras = wanted.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        found[name] = distribution(name)
        for text in found[name].requires or ():
            asked = Requirement(text)
            if asked.marker is None or any(asked.marker.evaluate({"extra": extra}) for extra in extras or {""}):
                wanted.append((asked.name.lower().replace("_", "-"), frozenset(asked.extras)))
    return found


def size(found: Distribution) -> int:
    """Bytes."""
    if found.name == "llmgate":  # it may be installed as a link to this folder
        files = list(Path(llmgate.__file__).parent.rglob("*"))
    else:
        files = [Path(str(file.locate())) for file in found.files or ()]
    return sum(file.stat().st_size for file in files if file.is_file())
