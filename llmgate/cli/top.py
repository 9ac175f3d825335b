"""`llmgate top`: what happens now, on a screen that goes on."""

from __future__ import annotations

import sys
import time
from typing import Annotated, Any

import typer

from ..clock import FIXED_MS, parse_duration, rfc3339
from ..errors import UsageError
from ..money import usd
from ..plans import policy_of
from ..store.limits import as_row
from ..store.watch import Flight, Watch
from .columns import Column, Kind
from .context import config_of, open_store
from .grammar import alone, verb
from .output import listing, single
from .rates import Health, Rate, Recent, Share, State
from .session import Format, session

app = alone()

SLOWEST = 20
"""How many requests in flight JSON tells of, the slowest first."""

LONGEST_S = 3600
"""Of the interval and of the window: what ended is remembered second by second."""

DOCUMENT = tuple(
    Column(name)
    for name in (
        *("time", "daemons", "rates", "history_seconds", "history", "in_flight", "stranded", "slowest", "users"),
        *("models", "upstreams", "limits"),
    )
)

LINES = (
    Column("what", Kind.WORD),
    Column("name", Kind.WORD),
    Column("seconds", Kind.NUMBER),
    Column("requests", Kind.NUMBER),
    Column("errors", Kind.NUMBER),
    Column("tokens", Kind.NUMBER),
    Column("cost_usd", Kind.MONEY),
    Column("charge_usd", Kind.MONEY),
    Column("in_flight", Kind.NUMBER),
)
"""What CSV and Markdown have, who know no tables in a table."""


@verb(
    app,
    "top",
    examples="""
    llmgate top
    llmgate top --interval 5s --window 10m
    llmgate top --json | jq .in_flight
    """,
)
def top(
    ctx: typer.Context,
    interval: Annotated[str, typer.Option("--interval", metavar="TIME", help="How often it looks.")] = "1s",
    window: Annotated[str, typer.Option("--window", metavar="TIME", help="What rates and shares are of.")] = "1m",
) -> None:
    """Show what happens now: rates, requests in flight, users, models, upstreams, limits near their end.

    It goes on until q, Esc or Ctrl-C. On a pipe, and in every other format than a table, it tells once how things
    stand.

    Rates are of requests that have ended, USD are what accounts are charged. Upstreams are judged by their last 5
    minutes at least, and by who answered in the end: half of the answers began within "first byte" and 95 % within
    "p95"; "wasted" was billed for tries in vain. A limit is near its end from the lowest alert_at of the config on,
    where what requests in flight hold is counted. All is read from the database, for all daemons that share it;
    nothing is written.
    """
    interval_s, window_s = _seconds("--interval", interval, 1), _seconds("--window", window, 10)
    with open_store(ctx) as db:
        zone, recent = db.zone, Recent(window_s)
        watch = Watch(db, policy_of(config_of(ctx)), recent.kept_s * 1000)
        state = recent.take(watch.look())
        wanted = session(ctx).wanted
        if wanted is Format.JSON:
            single(ctx, DOCUMENT, _document(state))
        elif wanted is not Format.TABLE:
            listing(ctx, LINES, _flat(state), empty="nothing")
        elif sys.stdout.isatty():
            _watch(watch, recent, state, interval_s, zone)
        else:
            _write(state, zone)


def _watch(watch: Watch, recent: Recent, state: State, interval_s: int, zone: Any) -> None:
    """Look, draw, wait."""
    from .dashboard import Look, screen
    from .terminal import Event, Terminal

    with Terminal() as terminal:
        next_s = time.monotonic() + interval_s
        while True:
            terminal.show(screen(state, Look(*terminal.size, zone, terminal.is_ascii)))
            event = terminal.wait(next_s - time.monotonic())
            if event is Event.END:
                return
            if event is Event.TIME:
                state = recent.take(watch.look())
                next_s = time.monotonic() + interval_s


def _write(state: State, zone: Any) -> None:
    """Once, where no terminal is."""
    from . import dashboard, plain

    told = [("time", f"{dashboard.clock(state, zone)}"), ("serving", dashboard.serving(state)[0])]
    if warning := dashboard.stranded(state):
        told.append(("stranded", warning))
    plain.write_fields(told)
    for section in dashboard.sections(state):
        sys.stdout.write("\n")
        if section.rows:
            plain.write(section.columns, list(section.rows), None)
        else:
            sys.stdout.write(f"{section.empty}\n")


def _seconds(option: str, text: str, least: int) -> int:
    """A length of time in whole seconds. Raises UsageError."""
    span = parse_duration(text)
    seconds = span.amount * FIXED_MS.get(span.unit, 0) // 1000
    if not least <= seconds <= LONGEST_S:
        raise UsageError(f"{option} {text} is not between {least}s and 1h: write for example {option} {max(least, 5)}s")
    return seconds


# ── for machines ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _document(state: State) -> dict[str, Any]:
    return {
        "time": rfc3339(state.now_ms),
        "daemons": [{"pid": one.pid, "host": one.host, "started_at": rfc3339(one.started_ms)} for one in state.daemons],
        "rates": [_rate(rate) for rate in (state.now, state.window)],
        "history_seconds": state.cell_s,
        "history": state.history,
        "in_flight": len(state.in_flight),
        "stranded": state.stranded,
        "slowest": [_flight(one, state.now_ms) for one in state.in_flight[:SLOWEST]],
        "users": [_share(one) for one in state.users],
        "models": [_share(one) for one in state.models],
        "upstreams": [_health(one) for one in state.upstreams],
        "limits": [as_row(one.target, one.standing) for one in state.near],
    }


def _rate(rate: Rate) -> dict[str, Any]:
    """Requests that ended within some seconds. The sums are exact, the rates of the time that was really covered."""
    return {
        "seconds": rate.seconds,
        "requests": rate.sums.requests,
        "errors": rate.sums.errors,
        "tokens": rate.sums.tokens,
        "cost_usd": usd(rate.sums.cost_nano),
        "charge_usd": usd(rate.sums.charge_nano),
        "requests_per_second": round(rate.per_second(rate.sums.requests), 3),
        "tokens_per_second": round(rate.per_second(rate.sums.tokens), 3),
        "charge_usd_per_second": usd(rate.nano_per_second(rate.sums.charge_nano)),
    }


def _share(one: Share | Health) -> dict[str, Any]:
    return {"name": one.name, **_rate(one.rate), "in_flight": one.in_flight}


def _health(one: Health) -> dict[str, Any]:
    error = one.last_error
    return {
        **_share(one),
        "first_byte_ms": one.median_ms,
        "first_byte_p95_ms": one.slow_ms,
        "wasted_usd": usd(one.wasted_nano),
        "last_error_at": rfc3339(error.ended_ms) if error else None,
        "last_error_status": error.http_status if error else None,
    }


def _flight(one: Flight, now_ms: int) -> dict[str, Any]:
    return {
        "request_id": one.request_id,
        "user": one.user,
        "key": one.key,
        "model": one.model,
        "upstream": one.upstream,
        "streamed": one.streamed,
        "age_ms": max(now_ms - one.placed_ms, 0),
        "held_usd": usd(one.hold_nano),
        "stranded": one.stranded,
    }


def _flat(state: State) -> list[dict[str, Any]]:
    total = len(state.in_flight)
    found: list[tuple[str, str, Rate, int]] = [("all", "", rate, total) for rate in (state.now, state.window)]
    for what, parts in (("user", state.users), ("model", state.models), ("upstream", state.upstreams)):
        found += [(what, one.name, one.rate, one.in_flight) for one in parts]
    return [
        {
            "what": what,
            "name": name,
            "seconds": rate.seconds,
            "requests": rate.sums.requests,
            "errors": rate.sums.errors,
            "tokens": rate.sums.tokens,
            "cost_usd": rate.sums.cost_nano,
            "charge_usd": rate.sums.charge_nano,
            "in_flight": in_flight,
        }
        for what, name, rate, in_flight in found
    ]
