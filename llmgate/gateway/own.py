"""What the holder of a key may know of itself: balance, limits, usage, and the key in OpenRouter's shape."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from ..clock import rfc3339
from ..limits import Unit, Window
from ..money import usd
from ..store import keys, limits, monitor, reports
from ..store.db import Row, Tx
from ..store.keys import Caller
from ..store.limits import Standing
from ..types import METERS, Meters
from .pipeline import Gateway


async def balance(_: Gateway, caller: Caller) -> dict[str, Any]:
    """What is left; a team's balance is not told to its members."""
    told = caller.account_kind == "user"
    return {
        "user": caller.user,
        "account": caller.user if told else f"team:{caller.team}",
        "billing": "prepaid" if caller.prepaid else "metered",
        "balance_usd": usd(caller.balance_nano) if told else None,
        "held_usd": usd(caller.held_nano) if told else None,
        "available_usd": usd(caller.balance_nano - caller.held_nano) if told else None,
    }


async def limit(gateway: Gateway, caller: Caller) -> dict[str, Any]:
    """Every limit that this key's requests must satisfy, as it stands."""
    found = gateway.look(lambda tx: _standings(gateway, tx, caller))
    names = {"key": f"key:{caller.key_id}", "user": caller.user, "team": f"team:{caller.team}"}
    return {"limits": [limits.as_row(names[standing.subject[0]], standing) for standing in found]}


def _standings(gateway: Gateway, tx: Tx, caller: Caller) -> list[Standing]:
    plan = gateway.policy.plans.get(caller.plan or "")
    return limits.standings(tx, caller, plan, gateway.policy, None)


async def usage(gateway: Gateway, caller: Caller) -> dict[str, Any]:
    """What the user has used, with all keys: today, this month, ever. What the house paid for it is not told."""
    return await gateway.reader.run(lambda tx: _used(tx, caller.user))


def _used(tx: Tx, user: str) -> dict[str, Any]:
    days = monitor.days(tx)
    since = {"today": days.today, "month": days.month, "total": None}
    last = monitor.last(tx, {"user": user})
    return {
        "user": user,
        **{name: _period(tx, {"user": user, "since": day}) for name, day in since.items()},
        "last_request": _request(last) if last else None,
    }


COUNTS = ("requests", "errors", "input_tokens", "cached_tokens", "output_tokens")


def _period(tx: Tx, filters: dict[str, Any]) -> dict[str, Any]:
    models = reports.report(tx, ("model",), filters)
    sums = {name: sum(row[name] for row in models) for name in (*COUNTS, "charge_nano")}
    return {**_sums(sums), "models": [{"model": row["model"], **_sums(row)} for row in models]}


def _sums(row: Row | dict[str, int]) -> dict[str, Any]:
    tokens = row["input_tokens"] + row["output_tokens"]
    return {**{name: row[name] for name in COUNTS}, "tokens": tokens, "charge_usd": usd(row["charge_nano"])}


def _request(row: Row) -> dict[str, Any]:
    meters = Meters(*(row[name] for name in METERS))
    return {
        "time": rfc3339(row["time_ms"]),
        "request_id": row["request_id"],
        "model": row["model"],
        "status": row["status"],
        "input_tokens": meters.input_tokens,
        "output_tokens": meters.output_tokens,
        "charge_usd": usd(row["charge_nano"]),
    }


RESETS = {Window.DAY: "daily", Window.WEEK: "weekly", Window.MONTH: "monthly"}
"""How OpenRouter calls when a limit begins anew; it knows no others."""


async def key(gateway: Gateway, caller: Caller) -> dict[str, Any]:
    """`GET /v1/key` as OpenRouter answers it: its clients show by it what is left. Amounts are numbers of USD there.

    `limit` and `limit_remaining` are those of the tightest that money meets here: a limit in USD on any model, or the
    user's own balance, whose whole is what was charged and what is available.
    """
    return await gateway.reader.run(lambda tx: {"data": _as_openrouter(gateway, tx, caller)})


def _as_openrouter(gateway: Gateway, tx: Tx, caller: Caller) -> dict[str, Any]:
    row, days = keys.key_row(tx, caller.key_id), monitor.days(tx)
    since = {"": None, "_daily": days.today, "_weekly": days.week, "_monthly": days.month}
    used = {part: monitor.charged(tx, {"key": caller.key_id, "since": day}) for part, day in since.items()}
    found = _standings(gateway, tx, caller)
    ceilings = [
        (max(standing.room, 0), standing.amount, RESETS.get(standing.limit.window))
        for standing in found
        if standing.limit.unit is Unit.USD and standing.limit.glob == "*"
    ]
    if caller.prepaid and caller.account_kind == "user":
        available = max(caller.balance_nano - caller.held_nano, 0)
        ceilings.append((available, available + monitor.charged(tx, {"user": caller.user}), None))
    left, most, reset = min(ceilings, key=lambda ceiling: ceiling[0], default=(None, None, None))
    zero = {f"byok_usage{part}": _number(0) for part in since}
    return {
        "label": f"{row['prefix']}…",
        "name": f"{caller.user}/{caller.key_name}",
        **{f"usage{part}": _number(nano) for part, nano in used.items()},
        **zero,
        "limit": _number(most),
        "limit_remaining": _number(left),
        "limit_reset": reset,
        "include_byok_in_limit": False,
        "is_free_tier": False,
        "is_management_key": False,
        "is_provisioning_key": False,
        "expires_at": rfc3339(row["expires_ms"]) if row["expires_ms"] is not None else None,
        "rate_limit": _rate(found),
    }


def _number(nano: int | None) -> msgspec.Raw | None:
    """An amount as a JSON number, to the last digit."""
    return msgspec.Raw(usd(nano).encode()) if nano is not None else None


def _rate(found: list[Standing]) -> dict[str, Any]:
    """The tightest limit of requests per minute; -1: none, as OpenRouter says it."""
    wanted = (Unit.REQUESTS, Window.MINUTE, "*")
    tightest = min((standing.amount for standing in found if standing.limit.slot == wanted), default=None)
    return {"requests": -1, "interval": "10s"} if tightest is None else {"requests": tightest, "interval": "60s"}


OWN: dict[bytes, Callable[[Gateway, Caller], Awaitable[dict[str, Any]]]] = {
    b"/user/balance": balance,
    b"/user/limit": limit,
    b"/user/monitor": usage,
    b"/v1/key": key,
}
