"""`python -m bench`: measure, print a table or JSON, exit 1 if anything can't be trusted."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from llmgate import __version__
from llmgate.engines import ENGINES

from . import load
from .legs import SHAPES, TARGETS, Leg, Ratio, Result, Shape, measure
from .processes import BenchError


def main() -> int:
    args = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing that was started is left behind
    try:
        with _progress() as say:
            result = measure(
                load.LOADS[args.load], engine=args.engine, rounds=args.rounds, seconds=args.seconds, say=say
            )
    except BenchError as error:
        print(json.dumps({"error": str(error)}) if args.json else f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if args.json:
        print(json.dumps(_for_machines(result, args), indent=2))
    else:
        _show(result, args)
    return 1 if result.problems else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Measure llmgate beside a bare pass-through on the same server."
    )
    parser.add_argument("--seconds", type=_positive, default=1.0, help="how long each leg lasts (default: 1)")
    parser.add_argument("--rounds", type=int, choices=range(1, 101), metavar="N", default=3, help="(default: 3)")
    parser.add_argument("--load", choices=load.LOADS, default=load.best(), help="(default: wrk where it is installed)")
    parser.add_argument("--engine", choices=ENGINES, default="hypercorn", help="(default: hypercorn)")
    parser.add_argument("--json", action="store_true", help="write JSON")
    return parser.parse_args()


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


def _show(result: Result, args: argparse.Namespace) -> None:
    console = Console()
    title = f"llmgate {__version__}, Python {platform.python_version()}, {args.engine}, load by {args.load}"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("leg")
    table.add_column("asked")
    for name in ("req/s", "p50 ms", "p99 ms", "CPU µs", "llmgate/bare", "by CPU"):
        table.add_column(name, justify="right")
    for shape in SHAPES:
        for target in TARGETS:
            leg = result.leg(shape, target)
            figures = _figures(leg)
            if target == "llmgate" and not leg.void:
                figures += [_spread(result.ratio(shape)), _median(result.cpu_ratio(shape))]
            table.add_row(str(shape), target, *figures, end_section=target == TARGETS[-1])
    console.print(table)
    where = "gateways on one core, load and upstream on another" if result.pinned else "nothing pinned"
    console.print(f"\nmedians of {args.rounds} rounds of {args.seconds:g} s; {where}", highlight=False)
    console.print(
        f"llmgate: {result.idle_mib:.1f} MiB idle, {result.after_mib:.1f} MiB after; "
        f"first answer {result.first_answer_s:.2f} s after the start",
        highlight=False,
    )
    if not result.problems:
        said = f"books: {result.answered:,} answers of the upstream, as many usage rows; llmgate verify passed"
        console.print(said, highlight=False)
    for problem in result.problems:
        print(f"bench: {problem}", file=sys.stderr)


def _figures(leg: Leg) -> list[str]:
    if leg.void:
        return ["[red]void[/]"]
    cpu = "" if leg.cpu_us_per_request is None else f"{leg.cpu_us_per_request:,.0f}"
    return [f"{leg.per_second:,.0f}", f"{leg.p50_ms:.2f}", f"{leg.p99_ms:.2f}", cpu]


def _median(ratio: Ratio | None) -> str:
    return "" if ratio is None else f"[bold]{ratio.median:.2f}[/]"


def _spread(ratio: Ratio | None) -> str:
    return "" if ratio is None else f"{_median(ratio)} {ratio.low:.2f}–{ratio.high:.2f}"


def _for_machines(result: Result, args: argparse.Namespace) -> dict[str, Any]:
    return {
        "llmgate": __version__,
        "python": platform.python_version(),
        "machine": {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count()},
        "pinned": result.pinned,
        "load": args.load,
        "engine": args.engine,
        "rounds": args.rounds,
        "seconds": args.seconds,
        "legs": [_leg(leg) for leg in result.legs],
        "ratios": [_ratio(result, shape) for shape in SHAPES],
        "rss_idle_mib": round(result.idle_mib, 1),
        "rss_after_mib": round(result.after_mib, 1),
        "first_answer_s": round(result.first_answer_s, 3),
        "answered": result.answered,
        "ok": not result.problems,
        "problems": result.problems,
    }


def _leg(leg: Leg) -> dict[str, Any]:
    told: dict[str, Any] = {
        "streamed": leg.shape.streamed,
        "connections": leg.shape.connections,
        "target": leg.target,
        "void": leg.void,
    }
    if leg.void is None:
        told["requests_per_s"] = round(leg.per_second, 1)
        told["p50_ms"], told["p99_ms"] = round(leg.p50_ms, 3), round(leg.p99_ms, 3)
        if leg.cpu_us_per_request is not None:
            told["cpu_us_per_request"] = round(leg.cpu_us_per_request, 1)
        told["rounds_per_s"] = [round(sample.per_second, 1) for sample in leg.samples]
    return told


def _ratio(result: Result, shape: Shape) -> dict[str, Any]:
    told: dict[str, Any] = {"streamed": shape.streamed, "connections": shape.connections}
    for name, ratio in (("requests_per_s", result.ratio(shape)), ("cpu", result.cpu_ratio(shape))):
        told[name] = {key: round(value, 3) for key, value in asdict(ratio).items()} if ratio else None
    return told


if __name__ == "__main__":
    sys.exit(main())
