"""llmgate as it is measured: a folder of its own, one prepaid user with plenty of credit, and its books at the end."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tomli_w

from .processes import BenchError, Process, python
from .upstream import INPUT_TOKENS, OUTPUT_TOKENS

NOT_INHERITED = ("LLMGATE_CONFIG", "LLMGATE_DB", "DATABASE_PATH", "PROXY_LOG_PATH")
"""What would lead llmgate out of its own folder."""

ROWS = "usage rows"
SUMMED = ("requests", "errors", "input_tokens", "output_tokens")

Prepare = Callable[[Path], None]
"""Makes a database at a path where there is none yet."""


class Gateway:
    """One installation, made in an empty folder."""

    def __init__(
        self,
        folder: Path,
        upstream: str,
        *,
        engine: str = "hypercorn",
        workers: int = 1,
        durability: str = "normal",
        prepare: Prepare | None = None,
    ) -> None:
        self._folder = folder
        self._env = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
        config = {
            "server": {"bind": "127.0.0.1:0", "engine": engine, "workers": workers},
            "log": {"level": "warning"},
            "accounting": {"durability": durability},
            "upstreams": {"mock": {"base_url": f"{upstream}/v1", "auth": "none"}},
            "models": {"bench": {"routes": [{"upstream": "mock"}], "price": {"input": 1, "output": 2}}},
        }
        (folder / "llmgate.toml").write_text(tomli_w.dumps(config))
        if prepare:
            prepare(folder / "llmgate.db")
        self.key = self._command("keys", "add", "bench", "--credits", "1000000").strip()
        self._before = self._counted() if prepare else dict.fromkeys((ROWS, *SUMMED), 0)

    def _command(self, *words: str) -> str:
        command = python("llmgate", *words)
        done = subprocess.run(command, cwd=self._folder, env=self._env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchError(f"`llmgate {' '.join(words)}` failed: {(done.stderr or done.stdout).strip()[-1000:]}")
        return done.stdout

    def start(self, name: str, module: str = "llmgate", env: Mapping[str, str] | None = None) -> Process:
        return Process(name, python(module, "serve"), self._folder, {**self._env, **(env or {})})

    def books(self, answered: int, *, whole: bool = True) -> list[str]:
        """What is wrong with the books, given how often the upstream has answered, and whether all of it was read."""
        try:
            checked = json.loads(self._command("verify", "--json"))["checked"]
        except BenchError as error:
            return [str(error)]
        found = {name: count - self._before[name] for name, count in self._counted(checked["usage"]).items()}
        expected = {
            ROWS: answered,
            "requests": answered,
        }
        if whole:
            expected |= {
                "errors": 0,
                "input_tokens": answered * INPUT_TOKENS,
                "output_tokens": answered * OUTPUT_TOKENS,
            }
        problems = [f"{checked['holds']:,} holds are left"] if checked["holds"] else []
        return problems + [
            f"the books say {found[name]:,} {name.replace('_', ' ')}, "
            f"{due:,} follow from the {answered:,} answers that the upstream counted"
            for name, due in expected.items()
            if found[name] != due
        ]

    def _counted(self, rows: int | None = None) -> dict[str, int]:
        summed: list[dict[str, Any]] = json.loads(self._command("report", "--since", "10y", "--by", "user", "--json"))
        counted = {name: sum(row[name] for row in summed) for name in SUMMED}
        return {ROWS: counted["requests"] if rows is None else rows, **counted}
