"""`GET /metrics`: what Prometheus reads, in its text format.

Nothing is counted for it: each scrape reads the sums that the books keep anyway, so the walk pays nothing, a restart
loses nothing, and all workers tell the same. By hand rather than by prometheus_client, whose counters live in each
process and begin at 0 with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from .. import __version__
from ..money import usd
from ..store import monitor
from ..store.db import Row, Tx
from ..types import METERS, Meters

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

QUANTILES = ("0.5", "0.9", "0.99")


class Sample(NamedTuple):
    labels: Mapping[str, str]
    value: str


class Family(NamedTuple):
    """A metric: its name without `llmgate_`, its type, what it says, and its samples."""

    name: str
    kind: str
    about: str
    samples: Iterable[Sample]


def text(tx: Tx, workers: int) -> bytes:
    """All metrics as they stand."""
    return "".join(line for family in _families(tx, workers) for line in _lines(family)).encode()


def _families(tx: Tx, workers: int) -> Iterator[Family]:
    totals, lately, flight = monitor.totals(tx), monitor.lately(tx), monitor.in_flight(tx)
    yield Family("info", "gauge", "The version that serves.", [Sample({"version": __version__}, "1")])
    yield Family("workers", "gauge", "Processes that serve.", [Sample({}, str(workers))])
    yield Family("requests_in_flight", "gauge", "Requests being served.", [Sample({}, str(flight["requests"]))])
    yield Family("held_usd", "gauge", "What requests in flight set aside.", [Sample({}, usd(flight["held_nano"]))])
    yield Family("requests_total", "counter", "Requests that reached an upstream; error: it failed.", _requests(totals))
    yield Family("tokens_total", "counter", "Tokens; cached is a part of input.", _tokens(totals))
    for name, about in (
        ("charge", "What accounts were charged."),
        ("cost", "What upstreams bill."),
        ("wasted", "What upstreams bill for tries that failed, beside the cost."),
    ):
        samples = [Sample(_of(row), usd(row[f"{name}_nano"])) for row in totals]
        yield Family(f"{name}_usd_total", "counter", about, samples)
    minutes = monitor.LATELY_MS // 60_000
    yield Family(
        "recent_requests", "gauge", f"Requests of the last {minutes} minutes, by how they ended.", _ended(lately)
    )
    for name, column, about in (
        ("recent_duration_seconds", "duration_ms", "How long requests took"),
        ("recent_first_byte_seconds", "ttft_ms", "How long streams took to their first byte"),
    ):
        yield Family(name, "gauge", f"{about} in the last {minutes} minutes.", _quantiles(lately, column))


def _of(row: Row) -> dict[str, str]:
    return {"model": row["model"], "upstream": row["upstream"]}


def _requests(totals: list[Row]) -> Iterator[Sample]:
    for row in totals:
        yield Sample({**_of(row), "status": "ok"}, str(row["requests"] - row["errors"]))
        yield Sample({**_of(row), "status": "error"}, str(row["errors"]))


def _tokens(totals: list[Row]) -> Iterator[Sample]:
    kinds: dict[str, Callable[[Meters], int]] = {
        "input": lambda meters: meters.input_tokens,
        "cached": lambda meters: meters.cached_input,
        "output": lambda meters: meters.output_tokens,
    }
    for row in totals:
        meters = Meters(*(row[name] for name in METERS))
        for kind, count in kinds.items():
            yield Sample({**_of(row), "kind": kind}, str(count(meters)))


def _ended(lately: list[Row]) -> list[Sample]:
    counts: dict[tuple[str, str], int] = {}
    for row in lately:
        at = row["upstream"], row["status"]
        counts[at] = counts.get(at, 0) + 1
    return [Sample({"upstream": at[0], "status": at[1]}, str(count)) for at, count in sorted(counts.items())]


def _quantiles(lately: list[Row], column: str) -> Iterator[Sample]:
    """The nearest rank, per upstream."""
    for upstream in sorted({row["upstream"] for row in lately}):
        took = sorted(row[column] for row in lately if row["upstream"] == upstream and row[column] is not None)
        for quantile in QUANTILES if took else ():
            ms = took[min(int(float(quantile) * len(took)), len(took) - 1)]
            yield Sample({"upstream": upstream, "quantile": quantile}, f"{ms / 1000:g}")


def _lines(family: Family) -> Iterator[str]:
    name = f"llmgate_{family.name}"
    yield f"# HELP {name} {family.about}\n# TYPE {name} {family.kind}\n"
    for labels, value in family.samples:
        inside = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        yield f"{name}{{{inside}}} {value}\n" if inside else f"{name} {value}\n"


def _escaped(value: Any) -> str:
    return str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
