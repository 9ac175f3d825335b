"""`python -m bench.chaos`: break the world, print what became of the money, exit 1 if any of it is wrong."""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from . import attack, disconnect, disk, kill, locks, overspend
from .figures import Figures

SCENARIOS: dict[str, Callable[..., None]] = {
    scenario.__name__.rpartition(".")[2]: scenario.run
    for scenario in (overspend, kill, disconnect, locks, attack, disk)
}

NARROWEST = 116
"""Columns of text that the table needs."""


def main() -> int:
    args = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing that was started is left behind
    console = Console(width=max(Console().width, NARROWEST))
    rounds = {} if args.rounds is None else {"rounds": args.rounds}
    done = []
    try:
        for name in args.only or SCENARIOS:
            with console.status(f"{name}, seed {args.seed}"):
                done.append(_one(name, args.seed, rounds))
    except KeyboardInterrupt:
        return 130
    console.print(_table(done, args.seed))
    for problem in (problem for figures in done for problem in figures.problems):
        print(f"chaos: {problem}", file=sys.stderr)
    return 1 if any(figures.problems for figures in done) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.chaos", description="Prove that the money holds.")
    parser.add_argument("--only", action="append", choices=SCENARIOS, help="one scenario; may be repeated")
    parser.add_argument("--rounds", type=int, help="how often each is gone through (default: each has its own)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="to repeat a run (default: drawn)")
    return parser.parse_args()


def _one(name: str, seed: int, rounds: dict[str, int]) -> Figures:
    """One scenario; whatever it dies of is one more thing that is wrong."""
    figures = Figures(name, seed)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="llmgate-chaos-") as folder:
        try:
            SCENARIOS[name](figures, Path(folder), **rounds)
        except Exception as error:
            figures.must(False, f"{type(error).__name__}: {error}")
    figures.seconds = time.monotonic() - began
    return figures


def _table(done: list[Figures], seed: int) -> Table:
    table = Table(title=f"seed {seed}", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("scenario", no_wrap=True)
    for name in ("rounds", "requests", "served", "broken off"):
        table.add_column(name, justify="right")
    table.add_column("refused")
    for name in ("rows", "interrupted", "verified", "findings", "wrong", "s"):
        table.add_column(name, justify="right")
    for figures in done:
        numbers = (figures.rounds, figures.requests, figures.served, figures.broken)
        refused = "\n".join(f"{count:,} {code}" for code, count in sorted(figures.refused.items()))
        found = (figures.rows, figures.interrupted, figures.verified, figures.findings, len(figures.problems))
        table.add_row(
            figures.scenario,
            *(f"{number:,}" for number in numbers),
            refused,
            *(f"{number:,}" for number in found),
            f"{figures.seconds:.0f}",
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
