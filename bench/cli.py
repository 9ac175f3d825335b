"""How long commands take, beside an interpreter that does nothing: `python -m bench.cli`.

What a machine is worth and what else it does cancel out in the ratio, as far as anything does: a figure is the least of
several runs, each beside one of the bare interpreter.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from llmgate.store import accounts, keys
from llmgate.store.db import Database

USERS = 100
KEYS_EACH = 100

BARE = (sys.executable, "-c", "pass")
LLMGATE = (sys.executable, "-m", "llmgate")
COMMANDS = ("--help", "keys --help", "keys list", "keys list --json", "keys add zoe", "users", "report", "config check")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15, help="runs of each command")
    runs = parser.parse_args().runs
    with TemporaryDirectory() as folder:
        _fill(Path(folder) / "llmgate.db")
        env = {**os.environ, "HOME": folder, "LLMGATE_DB": "llmgate.db"}
        print(f"{'command':<20}{'seconds':>9}{'× python -c pass':>20}")
        for command in COMMANDS:
            took_s, bare_s = _least((*LLMGATE, *command.split()), folder, env, runs)
            print(f"{command:<20}{took_s:>9.3f}{took_s / bare_s:>20.1f}")


def _fill(path: Path) -> None:
    with Database(path, actor="bench") as db, db.write() as tx:
        for user in range(USERS):
            accounts.add_user(tx, f"user-{user}")
            for _ in range(KEYS_EACH):
                keys.add(tx, f"user-{user}")


def _least(command: Sequence[str], folder: str, env: dict[str, str], runs: int) -> tuple[float, float]:
    """Seconds that a command takes at least, and those of the bare interpreter."""
    pairs = [(_took(command, folder, env), _took(BARE, folder, env)) for _ in range(runs)]
    return min(took for took, _ in pairs), min(bare for _, bare in pairs)


def _took(command: Sequence[str], folder: str, env: dict[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
