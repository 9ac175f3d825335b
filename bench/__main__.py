"""`python -m bench [LEG…]`: measure, print tables or JSON, exit 1 if anything can't be trusted or isn't as promised."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from rich.console import Console

from llmgate import __version__
from llmgate.engines import ENGINES

from . import load
from .flat import flat
from .installed import installed
from .paced import paced
from .processes import BenchError, many_files
from .soak import soak
from .throughput import throughput
from .told import Leg, Setting, Told, for_machines, show
from .workers import workers

LEGS: dict[str, Leg] = {
    "throughput": throughput,
    "paced": paced,
    "workers": workers,
    "soak": soak,
    "flat": flat,
    "installed": installed,
}

WITHOUT_ENGINE = {"installed"}


def main() -> int:
    args = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing that was started is left behind
    many_files()
    setting = Setting(
        load=args.load,
        rounds=args.rounds,
        seconds=args.seconds,
        requests=args.requests,
        rows=args.rows,
        beside=not args.alone,
    )
    engines = args.engine or list(ENGINES)
    runs = [
        (name, engine)
        for name in args.legs or ["throughput"]
        for engine in (engines[:1] if name in WITHOUT_ENGINE else engines)
    ]
    result = {}
    try:
        with _progress() as say:
            for name, engine in runs:
                told = LEGS[name](replace(setting, engine=engine, say=say))
                result[f"{name}, {engine}"] = told
                if not args.json:
                    _show(told, name, args)
    except BenchError as error:
        print(json.dumps({"error": str(error)}) if args.json else f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if args.json:
        told_by = {name: for_machines(told) for name, told in result.items()}
        print(json.dumps({**_machine(), "load": args.load, "legs": told_by}, indent=2))
    return 1 if any(told.problems for told in result.values()) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Measure llmgate beside a bare pass-through on the same server."
    )
    parser.add_argument("legs", nargs="*", type=_leg, metavar="LEG", help=f"{', '.join(LEGS)} (default: throughput)")
    parser.add_argument("--seconds", type=_positive, default=1.0, help="how long each measurement lasts (default: 1)")
    parser.add_argument("--rounds", type=int, choices=range(1, 101), metavar="N", default=3, help="(default: 3)")
    parser.add_argument("--requests", type=int, default=200_000, help="of soak (default: 200,000)")
    parser.add_argument("--rows", type=int, default=10_000_000, help="of flat: usage rows (default: 10 million)")
    parser.add_argument("--load", choices=load.LOADS, default=load.best(), help="(default: wrk where it is installed)")
    parser.add_argument("--engine", choices=ENGINES, action="append", help="(default: each in turn)")
    parser.add_argument("--alone", action="store_true", help="neither nginx nor LiteLLM, even if they are installed")
    parser.add_argument("--json", action="store_true", help="write JSON")
    return parser.parse_args()


def _leg(name: str) -> str:
    if name not in LEGS:
        raise argparse.ArgumentTypeError(f"there is no leg {name}: choose from {', '.join(LEGS)}")
    return name


def _positive(text: str) -> float:
    seconds = float(text)
    if not 0.05 <= seconds <= 3600:
        raise argparse.ArgumentTypeError("0.05 to 3600 seconds")
    return seconds


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status("") as status:
        yield status.update


def _machine() -> dict[str, object]:
    return {
        "llmgate": __version__,
        "python": platform.python_version(),
        "machine": {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count()},
    }


def _show(told: Told, name: str, args: argparse.Namespace) -> None:
    cores = f"{os.cpu_count()} cores"
    show(told, f"{name}: llmgate {__version__}, Python {platform.python_version()}, {cores}, load by {args.load}")
    for problem in told.problems:
        print(f"bench: {problem}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
