"""The life of a hold: placed, then exactly once settled or released.

Invariants, and why they hold:
1. **No overspend.** For a prepaid account, balance − held ≥ 0 before and after `place`: the amount is decided from the
   two figures read in the same transaction that raises `held`, and writers are serialised. A charge ≤ its hold keeps
   it so at `settle` (held falls by the hold, balance by the charge); a charge above the hold is the upstream's doing
   and marked `overrun`.
2. **One outcome.** A hold's id is its usage row's id, and `settle` deletes the hold and inserts the row in one
   transaction: either both happen or neither. A settlement that finds the hold resolved already (its owner was
   believed dead) corrects the row instead; the last truth wins, and there is still one row.
3. **Nothing is lost.** A hold is committed before the upstream is called. If the process dies, `recover` turns it into
   a usage row marked `interrupted`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from ..errors import Refusal
from ..money import dollars
from ..overage import charged, covered
from ..plans import NONE, Plan, Policy
from ..pricing import amount
from ..types import METERS, CostSource, Meters, Source, Status
from . import events, keys, ledger, limits, objects, overage, prices, workers
from .admission import Claim, Grant, admit
from .db import Row, Tx
from .keys import Caller
from .prices import Snapshot
from .tally import ROLLUP_KEY, RollupKey

LAST_USED_EVERY_MS = 60_000
"""A key's last use is noted at most this often: it isn't worth a write per request."""


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    claim: Claim
    grant: Grant
    placed_ms: int
    row: dict[str, Any]
    """As it was written. Nobody changes it, unless it draws on a plan's included tokens: then others may raise it."""


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """A try that an upstream billed and that nobody got anything from. Also the last try of a request that failed.

    It is a cost of the house: the account is never charged for it.
    """

    upstream: str
    upstream_model: str
    http_status: int | None
    source: Source
    meters: Meters
    cost: Snapshot
    cost_source: CostSource
    reported_cost_nano: int | None = None


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a request ended, as its walk tells it."""

    status: Status
    source: Source
    http_status: int | None
    meters: Meters
    upstream: str
    upstream_model: str
    cost: Snapshot
    charge: Snapshot | None
    cost_source: CostSource
    reported_cost_nano: int | None = None
    """What the upstream says it bills, where that can be trusted."""
    duration_ms: int = 0
    ttft_ms: int | None = None
    attempts: tuple[Attempt, ...] = ()
    made: tuple[str, ...] = ()
    """Ids of what the answer has made at the upstream."""


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    usage_id: int
    cost_nano: int
    charge_nano: int
    balance_nano: int
    overrun: bool


def decide(tx: Tx, claim: Claim, policy: Policy = NONE) -> Grant:
    """What may be held for a claim as things stand. Reads only. Raises Refusal 401, 402, 403 or 429.

    The daemon asks once outside of any write, so that a caller who is refused never takes the writer's time, and once
    more inside the transaction that places the hold: that one counts.
    """
    caller = keys.authenticate(tx, claim.key_hash)
    plan = _plan_of(caller, policy)
    standings = limits.standings(tx, caller, plan, policy, claim.names)
    # The terms are those of the model that was asked for, whichever answers in its stead.
    asked = claim.models[0] if claim.models else claim.names
    pool = overage.pool_of(tx, caller, plan, asked) if not claim.free else None
    return admit(claim, caller, plan, standings, tx.now_ms, pool)


def _plan_of(caller: Caller, policy: Policy) -> Plan | None:
    """The plan of a user, read live. One that is no longer there can't be guessed at: its user is refused."""
    if caller.plan is None:
        return None
    plan = policy.plans.get(caller.plan)
    if plan is None:
        raise Refusal(
            f"the plan {caller.plan!r} of this user is no longer there: ask your admin", code="plan_not_found"
        )
    return plan


def place(tx: Tx, claim: Claim, policy: Policy = NONE) -> Hold:
    """Set the quote aside, all or nothing. Raises as `decide` does."""
    grant = decide(tx, claim, policy)
    caller = grant.caller
    if caller.expires_next_ms is not None and caller.expires_next_ms <= tx.now_ms:
        # What has expired can't be used any more, not even by the request that comes first after it.
        ledger.expire_due(tx, caller.account_id)
        if tx.kept is not None:
            tx.kept.clear()
        grant = decide(tx, claim, policy)
        caller = grant.caller
    pool = grant.pool
    row: dict[str, Any] = {
        "request_id": claim.request_id,
        "worker_id": claim.worker_id,
        "account_id": caller.account_id,
        "user_id": caller.user_id,
        "team_id": caller.team_id,
        "key_id": caller.key_id,
        "plan": caller.plan,
        "model": claim.model,
        "upstream": claim.upstream,
        "upstream_model": claim.upstream_model,
        "format": claim.format,
        "endpoint": claim.endpoint,
        "streamed": int(claim.streamed),
        "amount_nano": grant.amount_nano,
        "bounded": int(grant.bounded),
        "input_estimate": claim.quote.input_estimate,
        "input_hold": grant.amounts.input_tokens,
        "output_hold": grant.amounts.output_tokens,
        "names": _told_names(claim.names, claim.model, claim.upstream, claim.upstream_model),
        "cost_price_id": claim.cost.id,
        "charge_price_id": claim.charge.id if claim.charge else None,
        "cost_source": claim.cost_source.value,
        "tags": _tags(caller.tags, claim.tags),
        "day": tx.day,
        "placed_ms": tx.now_ms,
        "quota_tokens": pool.terms.quota if pool else None,
        "quota_glob": pool.terms.glob if pool else None,
        "overage_nano": pool.terms.nano if pool else None,
        "bound_tokens": grant.bound_tokens if pool else None,
        "overage_held_nano": pool.own(grant.bound_tokens) if pool else 0,
    }
    hold_id = _insert(tx, "holds", row)
    row["id"] = hold_id
    tx.tally.move(caller.account_id, 0, grant.amount_nano)
    tx.tallied()
    limits.hold(tx, grant.standings, row, policy.alert_at)
    if pool is not None:
        overage.raise_others(tx, pool, grant.bound_tokens)
    if tx.now_ms - caller.last_used_ms >= LAST_USED_EVERY_MS:
        tx.apart("UPDATE keys SET last_used_ms = ? WHERE id = ?", (tx.now_ms, caller.key_id))
        if tx.kept is not None:
            tx.kept.pop(claim.key_hash, None)
    return Hold(id=hold_id, claim=claim, grant=grant, placed_ms=tx.now_ms, row=row)


@lru_cache(maxsize=4096)
def _told_names(names: tuple[str, ...], model: str, upstream: str, upstream_model: str) -> str | None:
    """All names that a model goes by, as JSON; None where they follow from the row."""
    return None if set(names) == {model, f"{upstream}/{upstream_model}"} else msgspec.json.encode(names).decode()


def _insert(tx: Tx, table: str, row: Mapping[str, Any]) -> int:
    """Write a row of holds or of usage. Returns its id.

    What is null isn't named: of all columns' values that one takes SQLite's interface the longest to take.
    """
    given = {name: value for name, value in row.items() if value is not None}
    number = tx.apart(_insertion(table, tuple(given)), tuple(given.values())).lastrowid
    assert number is not None
    return number


@lru_cache(maxsize=1024)
def _insertion(table: str, names: tuple[str, ...]) -> str:
    return f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' for _ in names)})"


def _tags(of_key: dict[str, str], of_request: dict[str, str]) -> str:
    merged = of_request | of_key if of_key else of_request
    return msgspec.json.encode(merged).decode() if merged else "{}"


def release(tx: Tx, hold_id: int) -> None:
    """No upstream was reached: nothing was used, and nothing is left behind."""
    row = tx.one("SELECT * FROM holds WHERE id = ?", hold_id)
    if row is None:
        gone, (status, nano) = _withdraw(tx, hold_id)
        message = (
            f"request {gone['request_id']} was booked as {status} at {dollars(nano)}, and never reached an upstream"
        )
        events.record(tx, "corrected", ("user", str(gone["user_id"])), f"usage {hold_id}: released", message)
        return
    tx.execute("DELETE FROM holds WHERE id = ?", (hold_id,))
    tx.tally.move(row["account_id"], 0, -row["amount_nano"])
    tx.tallied()
    limits.release(tx, dict(row))


def settle(
    tx: Tx, hold_id: int, outcome: Outcome, policy: Policy = NONE, *, placed: Mapping[str, Any] | None = None
) -> Settled:
    """Turn a hold into its usage row, and charge it. Settling again corrects the row that is there. `placed`: the
    hold's row, where the caller still has it from `place`: it isn't read again, unless others may have raised it.
    """
    if placed is not None and placed["bound_tokens"] is None:
        hold = placed if tx.apart("DELETE FROM holds WHERE id = ?", (hold_id,)).rowcount else None
    else:
        taken = tx.apart("DELETE FROM holds WHERE id = ? RETURNING *", (hold_id,)).fetchone()
        hold = dict(taken) if taken is not None else None
    if hold is None:
        return _correct(tx, hold_id, outcome, policy)
    row = {name: hold[held_as] for name, held_as in _CARRIED_FROM}
    return _write(tx, row, hold["amount_nano"], outcome, policy, hold)


def _correct(tx: Tx, usage_id: int, outcome: Outcome, policy: Policy) -> Settled:
    """The owner of a hold was believed dead, and lives: what it says is the truth. Both are told."""
    row, was = _withdraw(tx, usage_id)
    settled = _write(tx, row, 0, outcome, policy)
    before, now = (f"{status} at {dollars(nano)}" for status, nano in (was, (outcome.status, settled.charge_nano)))
    about = f"usage {usage_id}: {before}, {now}"
    message = f"request {row['request_id']} was booked as {before}, and is {now}: its process was believed dead"
    events.record(tx, "corrected", ("user", str(row["user_id"])), about, message)
    return settled


_CARRIED = (
    *("id", "request_id", "account_id", "user_id", "team_id", "key_id", "plan", "model", "format", "endpoint"),
    *("streamed", "day", "time_ms", "hold_nano", "bounded", "names", "tags", "quota_tokens", "quota_glob"),
    "overage_nano",
)
"""What a usage row takes over from its hold, or from the row that it corrects."""


_CARRIED_FROM = tuple((name, {"time_ms": "placed_ms", "hold_nano": "amount_nano"}.get(name, name)) for name in _CARRIED)


def _withdraw(tx: Tx, usage_id: int) -> tuple[dict[str, Any], tuple[str, int]]:
    """Take an earlier outcome of the same hold back out of the balance and the roll-ups. Returns what a new row takes
    over, and what the old one said: its status and its charge.
    """
    row = tx.one("SELECT * FROM usage WHERE id = ?", usage_id)
    if row is None:
        raise AssertionError(f"hold {usage_id} was neither found nor ever settled")
    meters = Meters(*(row[name] for name in METERS))
    tx.tally.move(row["account_id"], row["charge_nano"], 0)
    _roll_up(tx, dict(row), meters, -1)
    tx.tallied()
    tx.execute(_DROP_EMPTY, _rollup_key(dict(row)))
    limits.book(tx, dict(row), meters, -1)
    # It may have used up credits that have expired since: they are looked at again.
    tx.execute(
        "UPDATE accounts SET expires_next_ms = (SELECT min(expires_ms) FROM entries WHERE account_id = accounts.id) "
        "WHERE id = ?",
        (row["account_id"],),
    )
    tags = dict(tx.execute("DELETE FROM usage_tags WHERE usage_id = ? RETURNING name, value", (usage_id,)).fetchall())
    tx.execute("DELETE FROM attempts WHERE usage_id = ?", (usage_id,))
    tx.execute("INSERT INTO meta (key, value) VALUES ('withdrawing', '1')")  # rows are not deleted by mistake
    tx.execute("DELETE FROM usage WHERE id = ?", (usage_id,))
    tx.execute("DELETE FROM meta WHERE key = 'withdrawing'")
    carried = {name: row[name] for name in _CARRIED if name != "tags"} | {"tags": msgspec.json.encode(tags).decode()}
    return carried, (row["status"], row["charge_nano"])


def _write(
    tx: Tx, row: dict[str, Any], held_nano: int, outcome: Outcome, policy: Policy, hold: Mapping[str, Any] | None = None
) -> Settled:
    cost, cost_source = _cost(outcome)
    terms = overage.terms_of(row)
    used = overage.used_before(tx, row, terms) if terms else 0
    if terms and hold is not None and hold["bounded"]:
        tokens = outcome.meters.input_tokens + outcome.meters.output_tokens
        used = covered(terms, used, tokens, hold["bound_tokens"], hold["overage_held_nano"])
    own = outcome.charge.price if outcome.charge else None
    charge = charged(outcome.meters, cost, outcome.cost.price, own, terms, used)
    tags = row.pop("tags")
    row |= {
        "quota_used": used if terms else None,
        "upstream": outcome.upstream,
        "upstream_model": outcome.upstream_model,
        "status": outcome.status.value,
        "source": outcome.source.value,
        "http_status": outcome.http_status,
        "cost_nano": cost,
        "charge_nano": charge,
        "wasted_nano": _write_attempts(tx, row["id"], outcome.attempts),
        "cost_source": cost_source.value,
        "cost_price_id": outcome.cost.id,
        "charge_price_id": outcome.charge.id if outcome.charge else None,
        "overrun": int(row["bounded"] and charge > row["hold_nano"]),
        "duration_ms": outcome.duration_ms,
        "ttft_ms": outcome.ttft_ms,
        **{
            name: number for name, number in zip(METERS, msgspec.structs.astuple(outcome.meters), strict=True) if number
        },
    }
    _insert(tx, "usage", row)
    if tags != "{}":
        tx.conn.executemany(
            "INSERT INTO usage_tags (usage_id, name, value) VALUES (?, ?, ?)",
            [(row["id"], name, value) for name, value in msgspec.json.decode(tags).items()],
        )
    if outcome.made:
        objects.note(tx, outcome.made, row)
    _roll_up(tx, row, outcome.meters, 1)
    money = tx.tally.move(row["account_id"], -charge, -held_nano)
    balance, prepaid = money.balance_nano, money.prepaid
    tx.tallied()
    limits.book(tx, row, outcome.meters, 1, policy.alert_at, hold=hold)
    if prepaid:
        for threshold in policy.low_balance:
            if balance < threshold <= balance + charge:
                ledger.tell_low(tx, row["account_id"], threshold)
    return Settled(
        usage_id=row["id"], cost_nano=cost, charge_nano=charge, balance_nano=balance, overrun=bool(row["overrun"])
    )


def _cost(what: Outcome | Attempt) -> tuple[int, CostSource]:
    """What an upstream bills, in nano-USD, and who says so: itself, where that can be trusted, else a price."""
    if what.reported_cost_nano is not None:
        return what.reported_cost_nano, CostSource.UPSTREAM
    return amount(what.meters, what.cost.price), what.cost_source


_ATTEMPT = (
    *("usage_id", "upstream", "upstream_model", "http_status", "source", *METERS, "cost_nano", "cost_source"),
    "cost_price_id",
)
_INSERT_ATTEMPT = f"INSERT INTO attempts ({', '.join(_ATTEMPT)}) VALUES ({', '.join('?' for _ in _ATTEMPT)})"


def _write_attempts(tx: Tx, usage_id: int, attempts: tuple[Attempt, ...]) -> int:
    """The tries of a request that were billed in vain. Returns their cost in all."""
    wasted = 0
    for attempt in attempts:
        cost, source = _cost(attempt)
        wasted += cost
        where = (usage_id, attempt.upstream, attempt.upstream_model, attempt.http_status, attempt.source)
        meters = msgspec.structs.astuple(attempt.meters)
        tx.execute(_INSERT_ATTEMPT, (*where, *meters, cost, source, attempt.cost.id))
    return wasted


_DROP_EMPTY = f"""
DELETE FROM rollups WHERE {" AND ".join(f"{name} = ?" for name in ROLLUP_KEY)} AND requests = 0 AND NOT sealed
"""


def _rollup_key(row: dict[str, Any]) -> RollupKey:
    return (
        *(row["day"], row["account_id"], row["user_id"], row["team_id"] or 0),
        *(row["key_id"], row["plan"] or "", row["model"], row["upstream"]),
    )


def _roll_up(tx: Tx, row: dict[str, Any], meters: Meters, sign: int) -> None:
    """Add a usage row to its day's sums, or take it out of them."""
    sums = (
        *(1, row["status"] == Status.ERROR, *msgspec.structs.astuple(meters)),
        *(row["cost_nano"], row["charge_nano"], row["wasted_nano"]),
    )
    tx.tally.roll_up(_rollup_key(row), sums if sign > 0 else [-number for number in sums])


class Recovered(msgspec.Struct, frozen=True):
    holds: int
    charge_nano: int

    def __str__(self) -> str:
        return f"{self.holds} request{'' if self.holds == 1 else 's'}, charged {dollars(self.charge_nano)}"


def recover(tx: Tx, database: Path, policy: Policy = NONE) -> Recovered:
    """Resolve the holds whose owner died: one usage row each, marked `interrupted`."""
    total = count = 0
    for worker in workers.dead(tx, database):
        for hold in tx.execute("SELECT * FROM holds WHERE worker_id = ?", (worker,)).fetchall():
            total += settle(tx, hold["id"], _cut_off(tx, hold, policy), policy).charge_nano
            count += 1
    workers.forget(tx, database)
    return Recovered(count, total)


def _cut_off(tx: Tx, hold: Row, policy: Policy) -> Outcome:
    """At a path of the config that is sold by the second, say, it is what the path's answers come to that don't say."""
    meters = Meters()
    if policy.interrupted == "input":
        sold = policy.paths.get(hold["model"]) if hold["endpoint"] == "route" else None
        meters = sold or Meters(input=hold["input_estimate"], calls=1)
    return Outcome(
        status=Status.INTERRUPTED,
        source=Source.ESTIMATED,
        http_status=None,
        meters=meters,
        upstream=hold["upstream"],
        upstream_model=hold["upstream_model"],
        cost=prices.snapshot(tx, hold["cost_price_id"]),
        charge=prices.snapshot(tx, hold["charge_price_id"]) if hold["charge_price_id"] else None,
        cost_source=CostSource(hold["cost_source"]),
    )


def in_flight(tx: Tx) -> int:
    count: int = tx.value("SELECT count(*) FROM holds")
    return count
