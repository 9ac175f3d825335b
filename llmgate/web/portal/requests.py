"""A user's own requests: page by page, and as a file."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from datetime import date
from typing import Any, Literal, NamedTuple

from msgspec import Struct

from ... import clock
from ...admin import bodies, paging
from ...clock import rfc3339
from ...errors import Refusal
from ...money import usd
from ...names import quoted
from ...store import reports, usage
from ...store.db import Row, Tx
from ...types import METERS, Meters
from ..tables import Cell, amounts
from ..visits import Download, Shown, Visit
from . import sums

MOST_ROWS = 50_000
"""Requests that one file has at most: about 8 MB, which is made at once."""

LONGEST = 3660
"""Days that one file is of at most."""


class Request(NamedTuple):
    """What a user is told of a request."""

    time_ms: int
    key: str
    model: str
    input_tokens: int
    output_tokens: int
    charge: Cell
    status: str
    http_status: int | None
    duration_ms: int


def told(rows: Iterable[Row]) -> list[Request]:
    rows = list(rows)
    charges = amounts([row["charge_nano"] for row in rows])
    found = []
    for row, charge in zip(rows, charges, strict=True):
        meters = Meters(*(row[name] for name in METERS))
        named = {name: row[name] for name in ("time_ms", "key", "model", "status", "http_status", "duration_ms")}
        found.append(
            Request(**named, input_tokens=meters.input_tokens, output_tokens=meters.output_tokens, charge=charge)
        )
    return found


def listing(tx: Tx, visit: Visit) -> Shown:
    query = visit.query
    rows = usage.latest(tx, {"user": visit.user}, query.limit + 1, paging.after(query, tuple[int, int]))
    page = paging.page(query, rows, lambda row: row, lambda row: (row["time_ms"], row["id"]))
    return Shown("portal/requests.html", {"requests": told(page.data), "next": page.next})


class Listed(bodies.Paged, frozen=True, kw_only=True, forbid_unknown_fields=True):
    limit: bodies.PageSize = 50


# ── as a file ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class File(Struct, frozen=True, forbid_unknown_fields=True):
    start: str | None = None
    end: str | None = None
    of: Literal["requests", "days"] = "requests"


def download(tx: Tx, visit: Visit) -> Download:
    query: File = visit.query
    today = clock.local_day(tx.now_ms, tx.zone)
    end = _day("end", query.end) if query.end is not None else today
    start = _day("start", query.start) if query.start is not None else end.replace(day=1)
    if end < start:
        raise Refusal(f"the end {end} is before the start {start}", param="end")
    if (end - start).days >= LONGEST:
        raise Refusal(f"{start} to {end} is more than {LONGEST:,} days: choose fewer", param="start")
    write = {"requests": _requests, "days": _days}[query.of]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([plain(cell) for cell in line] for line in write(tx, visit.user, start, end))
    name = f"llmgate-{visit.user}-{query.of}-{start}-{end}.csv"
    return Download(name, text.getvalue().encode(), "text/csv; charset=utf-8")


def plain(cell: Any) -> Any:
    """A cell that a spreadsheet takes for what it says, and never for a formula: models and tags are named by whoever
    sends a request.
    """
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def _day(name: str, text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise Refusal(f"the {name} {quoted(text[:40])} is no day: write it as 2026-11-20", param=name) from error


_AS_STORED = ("request_id", "key", "model", "format", "status", "http_status", "source")

HEAD = (
    *("time", *_AS_STORED, "input_tokens", "cached_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens"),
    *("charge_usd", "streamed", "duration_ms", "ttft_ms", "tags"),
)
"""The words of `llmgate export usage`, less what is the house's."""


def _requests(tx: Tx, user: str, start: date, end: date) -> Iterator[tuple[Any, ...]]:
    """Request by request, oldest first. Raises Refusal for more than fit."""
    span = {
        "since_ms": clock.since_ms(start.isoformat(), tx.now_ms, tx.zone),
        "until_ms": clock.until_ms(end.isoformat(), tx.now_ms, tx.zone),
    }
    yield HEAD
    for number, row in enumerate(usage.rows(tx, {"user": user, **span})):
        if number == MOST_ROWS:
            raise Refusal(
                f"{start} to {end} is more than {MOST_ROWS:,} requests: choose fewer days, or the sums of each day",
                param="start",
            )
        meters = Meters(*(row[name] for name in METERS))
        yield (
            *(rfc3339(row["time_ms"]), *(row[name] for name in _AS_STORED)),
            *(meters.input_tokens, meters.cached_input, meters.cache_write + meters.cache_write_1h),
            *(meters.output_tokens, meters.reasoning, usd(row["charge_nano"])),
            *("true" if row["streamed"] else "false", row["duration_ms"], row["ttft_ms"]),
            row["tags"] if row["tags"] != "{}" else "",
        )


def _days(tx: Tx, user: str, start: date, end: date) -> Iterator[tuple[Any, ...]]:
    """What each model comes to on each day: also what is only known by its sums any more."""
    yield ("day", "model", "requests", "errors", "input_tokens", "cached_tokens", "output_tokens", "charge_usd")
    span = {"since": start.isoformat(), "until": end.isoformat()}
    for row in reports.report(tx, ("day", "model"), {"user": user, **span}):
        counts = ("requests", "errors", "input_tokens", "cached_tokens", "output_tokens")
        yield row["day"], row["model"], *(row[name] for name in counts), usd(row["charge_nano"])


# ── a month ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def usage_page(tx: Tx, visit: Visit) -> Shown:
    """A month by model and by day, and what can be downloaded."""
    used = sums.used(tx, sums.month(tx, visit.query.month), {"user": visit.user})
    return Shown("portal/usage.html", {"used": used})
