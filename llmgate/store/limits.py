"""Limits where they hang, and the counters that say how far each is used up in its window.

Invariants:
- `used` of a counter is the sum over the usage rows of its subject that were placed in its window and whose model it
  means; `held` is the same sum over the holds in flight. Both are derived, by `_used` and `_held`: a counter that is
  new, or whose window is over (or not yet begun again, because a clock was set back), is worked out from those facts.
- A request satisfies all limits that apply or consumes none: they are read, decided and written in the transaction
  that places its hold.
- The moment at which the hold is placed decides the window, also for what is settled later.
- A key that a user made for itself is *under* the keys that the admin gave (`selfmade`): their limits hold for it too,
  and their counters count it. So a limit of a key means that key with all that are under it, and however many are made,
  together they have what the one has. Which keys those are is fixed when a key is made, before it is used.
- What the lead of a team sets only narrows: beside a plan's or the default's limit of the same slot the tighter holds.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from ..clock import day_of, rfc3339
from ..errors import Refusal
from ..limits import Limit, Span, Unit, Window, applying, parse, quantity, span
from ..money import usd
from ..plans import Plan, Policy
from ..types import Meters
from . import accounts, audit, events, keys
from .db import Row, Tx
from .keys import Caller

Subject = tuple[str, str]
"""Whom a counter counts: ("key" | "user" | "team", id)."""

Slot = tuple[Unit, Window, str]
"""What a limit is about, as `Limit.slot`."""


class Amounts(msgspec.Struct, frozen=True):
    """What one hold sets aside of each unit."""

    input_tokens: int = 0
    output_tokens: int = 0
    nano: int = 0

    def of(self, unit: Unit) -> int:
        match unit:
            case Unit.REQUESTS | Unit.CONCURRENT:
                return 1
            case Unit.TOKENS:
                return self.input_tokens + self.output_tokens
            case Unit.INPUT_TOKENS:
                return self.input_tokens
            case Unit.OUTPUT_TOKENS:
                return self.output_tokens
            case Unit.USD:
                return self.nano


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """A limit that applies to a request, and how it stands."""

    limit: Limit
    subject: Subject
    source: str
    """Where it hangs: key, user, team, plan or default; or lead: the team's lead set it."""
    span: Span
    used: int
    held: int
    fresh: bool
    """Its counter says just this, and of this window."""
    soft: bool = False
    """It says how many tokens a plan includes: past it they are charged, not refused."""

    @property
    def amount(self) -> int:
        assert self.limit.amount is not None
        return self.limit.amount

    @property
    def room(self) -> int:
        """What a new request may still take."""
        return self.amount - self.used - self.held

    @property
    def percent(self) -> int:
        """How much of it is used or held, rounded down. A limit of nothing forbids: it has no end to be near to."""
        return 100 * (self.used + self.held) // self.amount if self.amount else 0


def subjects(tx: Tx, key_id: str, user_id: int, team_id: int | None) -> list[Subject]:
    """Whose counters a request moves."""
    found = [("key", key_id), *(("key", given) for given in above(tx, key_id)), ("user", str(user_id))]
    return [*found, ("team", str(team_id))] if team_id is not None else found


def above(tx: Tx, key_id: str) -> tuple[str, ...]:
    """The keys whose limits hold for a key besides its own."""
    if tx.kept is not None:
        known = tx.kept.get(("under", key_id))
        if known is not None:
            found: tuple[str, ...] = known
            return found
    found = tuple(row[0] for row in tx.apart("SELECT given_id FROM under WHERE key_id = ? ORDER BY 1", (key_id,)))
    if tx.kept is not None:
        tx.kept["under", key_id] = found
    return found


def below(tx: Tx, key_id: str) -> int:
    """How many keys are under one."""
    number: int = tx.value("SELECT count(*) FROM under WHERE given_id = ?", key_id)
    return number


def standings(tx: Tx, caller: Caller, plan: Plan | None, policy: Policy, names: Sequence[str] | None) -> list[Standing]:
    """Every limit that applies to a caller's request for a model that goes by `names` (None: for any), as it stands
    now. Reads only.
    """
    hanging = _hanging(tx, caller, plan, policy)
    wanted = [one for one in hanging if names is None or one[0].means(names)]
    if not wanted:
        return []
    counters = {
        (_subject(row), _slot(row)): row for row in _counters(tx, dict.fromkeys(subject for _, subject, _ in wanted))
    }
    return [
        _standing(tx, limit, subject, source, counters.get((subject, limit.slot)), plan)
        for limit, subject, source in wanted
    ]


def _hanging(tx: Tx, caller: Caller, plan: Plan | None, policy: Policy) -> list[tuple[Limit, Subject, str]]:
    """The limits of a caller and where they hang; a user's own replace the plan's and the default's of their slot."""
    terms = (caller.user_id, caller.team_id, plan, policy)
    if tx.kept is not None:
        known = tx.kept.get(("limits", caller.key_id))
        if known is not None and all(map(operator.is_, known[0], terms)):
            hanging: list[tuple[Limit, Subject, str]] = known[1]
            return hanging
    found: list[tuple[Limit, Subject, str]] = []
    for subject in subjects(tx, caller.key_id, caller.user_id, caller.team_id):
        found += [(limit, subject, source) for limit, source in _on_subject(tx, subject, plan, policy)]
    if tx.kept is not None:
        tx.kept["limits", caller.key_id] = terms, found
    return found


def _on_subject(tx: Tx, subject: Subject, plan: Plan | None, policy: Policy) -> list[tuple[Limit, str]]:
    """The limits of one subject, and where each hangs. A plan's and the default's hold per user."""
    rows = _of_subjects(tx, "limits", [subject])
    own = [limit_of(row) for row in rows if row["set_by"] is None]
    led = [limit_of(row) for row in rows if row["set_by"] is not None]
    shared: tuple[Limit, ...] = ()
    if subject[0] == "user":
        # What a plan includes is no ceiling: where the default has one of the same slot, that one holds.
        caps = {limit.slot for limit in policy.limits}
        of_plan = (
            (limit for limit in plan.limits if not (plan.includes_tokens(limit) and limit.slot in caps)) if plan else ()
        )
        shared = (*of_plan, *policy.limits)
    source = {**dict.fromkeys(led, "lead"), **dict.fromkeys(own, subject[0])}
    return [(limit, source.get(limit) or _source(limit, plan)) for limit in applying(own, (*led, *shared))]


def _source(limit: Limit, plan: Plan | None) -> str:
    return "plan" if plan and limit in plan.limits else "default"


def _standing(tx: Tx, limit: Limit, subject: Subject, source: str, counter: Row | None, plan: Plan | None) -> Standing:
    window = span(limit.window, tx.now_ms, tx.zone)
    fresh = counter is not None and (counter["start_ms"], counter["end_ms"]) == window
    if counter is not None and fresh:
        used, held = counter["used"], counter["held"]
        fresh = counter["amount"] == limit.amount
    else:
        used, held = _used(tx, limit, subject, window), _held(tx, limit, subject, window)
    return Standing(
        limit=limit,
        subject=subject,
        source=source,
        span=window,
        used=used,
        held=held,
        fresh=fresh,
        soft=plan is not None and source in ("user", "plan") and plan.includes_tokens(limit),
    )


# ── the counters move ─────────────────────────────────────────────────────────────────────────────────────────────────


def hold(tx: Tx, found: Iterable[Standing], row: Mapping[str, Any], alert_at: Sequence[int] = ()) -> None:
    """A hold of this row is placed. Counters that are new, or whose window has changed, begin by what the facts say."""
    for standing in found:
        if standing.fresh:
            continue
        if tx.kept is not None:
            tx.kept.pop(("no counters", standing.subject), None)
        tx.apart(
            """
            INSERT INTO counters (subject_kind, subject_id, unit, window, glob, amount, start_ms, end_ms, used, held)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
            ON CONFLICT (subject_kind, subject_id, unit, window, glob) DO UPDATE SET
              amount = excluded.amount, start_ms = excluded.start_ms, end_ms = excluded.end_ms,
              used = excluded.used, held = excluded.held
            """,
            (
                *(*standing.subject, *standing.limit.slot, standing.limit.amount),
                *(*standing.span, standing.used, standing.held),
            ),
        )
        _alert_passed(tx, standing, alert_at)
    _move_held(tx, row, 1)


def release(tx: Tx, row: Mapping[str, Any]) -> None:
    """A hold of this row is no more."""
    _move_held(tx, row, -1)


def book(
    tx: Tx,
    row: Mapping[str, Any],
    meters: Meters,
    sign: int,
    alert_at: Sequence[int] = (),
    *,
    hold: Mapping[str, Any] | None = None,
) -> None:
    """A usage row counts (1), or counts no more (-1). Crossing one of the percentages `alert_at` is told once. `hold`:
    the row of the hold that is no more, in whose stead it stands.
    """
    for counter, limit in _about(tx, row, row["time_ms"]):
        used = sign * quantity(limit.unit, meters, row["charge_nano"]) if limit.means(names_of(row)) else 0
        held = _amounts(hold).of(limit.unit) if hold is not None and limit.means(names_of(hold)) else 0
        if used or held:
            tx.apart("UPDATE counters SET used = used + ?, held = held - ? WHERE id = ?", (used, held, counter["id"]))
        for percent in alert_at:
            if 100 * counter["used"] < percent * counter["amount"] <= 100 * (counter["used"] + used):
                _alert(tx, _subject(counter), limit, Span(counter["start_ms"], counter["end_ms"]), percent)


def _alert(tx: Tx, subject: Subject, limit: Limit, window: Span, percent: int) -> None:
    until = "" if limit.window is Window.TOTAL else f" until {rfc3339(window.end_ms)}"
    about = f"{percent}% {limit} {window.start_ms}"
    events.record(tx, "limit", subject, about, f"{percent} % of the limit {limit} is used{until}")


def _alert_passed(tx: Tx, standing: Standing, alert_at: Sequence[int]) -> None:
    """A limit that is new, or another: no settlement crosses the thresholds that are behind it already."""
    for percent in alert_at:
        if 100 * standing.used >= percent * standing.amount > 0:
            _alert(tx, standing.subject, standing.limit, standing.span, percent)


def _move_held(tx: Tx, row: Mapping[str, Any], sign: int) -> None:
    held = _amounts(row)
    for counter, limit in _touched(tx, row, row["placed_ms"]):
        tx.apart("UPDATE counters SET held = held + ? WHERE id = ?", (sign * held.of(limit.unit), counter["id"]))


def _touched(tx: Tx, row: Mapping[str, Any], at_ms: int) -> Iterator[tuple[Row, Limit]]:
    """The counters that a request moves: all of its subjects' whose window it fell into and whose model it is."""
    return ((counter, limit) for counter, limit in _about(tx, row, at_ms) if limit.means(names_of(row)))


def _about(tx: Tx, row: Mapping[str, Any], at_ms: int) -> Iterator[tuple[Row, Limit]]:
    """The same of whatever model."""
    for counter in _counters(tx, subjects(tx, row["key_id"], row["user_id"], row["team_id"])):
        limit, window = limit_of(counter), Span(counter["start_ms"], counter["end_ms"])
        days = _days(tx, limit, window)
        if days[0] <= row["day"] <= days[1] if days else window.start_ms <= at_ms < window.end_ms:
            yield counter, limit


def hold_more(tx: Tx, row: Mapping[str, Any], nano: int) -> None:
    """A hold of this row sets aside so much more of the budgets that it touches."""
    for counter, limit in _touched(tx, row, row["placed_ms"]):
        if limit.unit is Unit.USD:
            tx.apart("UPDATE counters SET held = held + ? WHERE id = ?", (nano, counter["id"]))


def budgets(tx: Tx, row: Mapping[str, Any]) -> Iterator[tuple[tuple[int, int], int]]:
    """The limits in USD that a hold of this row touches: counter and window of each, and what it still carries there.

    A counter may tell of a later window than the one that the hold was placed in; what holds there is worked out.
    """
    for counter in _counters(tx, subjects(tx, row["key_id"], row["user_id"], row["team_id"])):
        limit, subject = limit_of(counter), _subject(counter)
        if limit.unit is Unit.USD and limit.means(names_of(row)):
            window = span(limit.window, row["placed_ms"], tx.zone)
            if (counter["start_ms"], counter["end_ms"]) == window:
                used, held = counter["used"], counter["held"]
            else:
                used, held = _used(tx, limit, subject, window), _held(tx, limit, subject, window)
            yield (counter["id"], window.start_ms), counter["amount"] - used - held


# ── what the facts say ────────────────────────────────────────────────────────────────────────────────────────────────

_COUNTED = {
    "key": "key_id IN (SELECT :id UNION ALL SELECT key_id FROM under WHERE given_id = :id)",
    "user": "user_id = :id",
    "team": "team_id = :id",
}
"""SQL: whose requests a subject's counters count."""

_COUNTED_OF_USAGE = {**_COUNTED, "key": f"user_id = (SELECT user_id FROM keys WHERE id = :id) AND {_COUNTED['key']}"}
"""The same, by an index that is there: keys that are under another belong to the same user."""

_SUMS = {
    Unit.REQUESTS: "requests",
    Unit.TOKENS: "input + cached_input + cache_write + cache_write_1h + audio_input + image_input"
    " + output + reasoning + audio_output",
    Unit.INPUT_TOKENS: "input + cached_input + cache_write + cache_write_1h + audio_input + image_input",
    Unit.OUTPUT_TOKENS: "output + reasoning + audio_output",
    Unit.USD: "charge_nano",
}
_SUMS_OF_ROWS = _SUMS | {Unit.REQUESTS: "1"}


def _used(tx: Tx, limit: Limit, subject: Subject, window: Span) -> int:
    """What settled requests have used of a limit in a window.

    Windows of whole days, for every model, are summed from the roll-ups, which are the sums of the same rows. Rows that
    were pruned count in windows of whole days, by the sums that stand in their place; a shorter one never has any.
    """
    if limit.unit is Unit.CONCURRENT:
        return 0
    days = _days(tx, limit, window)
    if limit.glob == "*" and days:
        summed = tx.execute(
            f"SELECT coalesce(sum({_SUMS[limit.unit]}), 0) FROM rollups "
            f"WHERE {_COUNTED[subject[0]]} AND day BETWEEN :first AND :last",
            {"id": _typed(subject), "first": days[0], "last": days[1]},
        )
        total: int = summed.fetchone()[0]
        return total
    # Added up by SQL, for each set of names that a model went by: row by row a month of requests would take seconds.
    first_ms, end_ms, first, last = _within(tx, limit, window)
    whose = _COUNTED_OF_USAGE[subject[0]]
    sums = tx.execute(
        f"SELECT model, upstream, upstream_model, names, sum({_SUMS_OF_ROWS[limit.unit]}) AS used FROM usage "
        f"WHERE {whose} AND time_ms >= :first_ms AND time_ms < :end_ms AND day BETWEEN :first AND :last "
        "GROUP BY model, upstream, upstream_model, names UNION ALL "
        f"SELECT model, upstream, upstream_model, names, {_SUMS[limit.unit]} FROM pruned "
        f"WHERE {whose} AND day BETWEEN :first AND :last AND :days",
        {
            "id": _typed(subject),
            "first_ms": first_ms,
            "end_ms": end_ms,
            "first": first,
            "last": last,
            "days": bool(days),
        },
    )
    return sum(row["used"] for row in sums if limit.means(names_of(row)))


def _held(tx: Tx, limit: Limit, subject: Subject, window: Span) -> int:
    """What requests in flight hold of a limit."""
    first_ms, end_ms, first, last = _within(tx, limit, window)
    rows = tx.execute(
        f"SELECT * FROM holds WHERE {_COUNTED[subject[0]]} AND placed_ms >= :first_ms AND placed_ms < :end_ms "
        "AND day BETWEEN :first AND :last",
        {"id": _typed(subject), "first_ms": first_ms, "end_ms": end_ms, "first": first, "last": last},
    )
    return sum(_amounts(row).of(limit.unit) for row in rows if limit.means(names_of(row)))


def used_now(tx: Tx, subject: Subject, limit: Limit, at_ms: int) -> int:
    """What settled requests have used of a limit in the window that an instant falls into."""
    window = span(limit.window, at_ms, tx.zone)
    for counter in _counters(tx, [subject]):
        if _slot(counter) == limit.slot and (counter["start_ms"], counter["end_ms"]) == window:
            used: int = counter["used"]
            return used
    return _used(tx, limit, subject, window)


def same_window(tx: Tx, limit: Limit, row: Row) -> bool:
    """Whether a hold was placed in the window of a limit that holds now."""
    days = _days(tx, limit, span(limit.window, tx.now_ms, tx.zone))
    assert days is not None
    return bool(days[0] <= row["day"] <= days[1])


def own_of(tx: Tx, subject: Subject) -> list[Limit]:
    """The limits that were hung on somebody."""
    return [limit_of(row) for row in _of_subjects(tx, "limits", [subject])]


def own(tx: Tx, subject: Subject, slot: Slot) -> Limit | None:
    """The limit of a slot that an admin hung on somebody."""
    found = [row for row in _of_subjects(tx, "limits", [subject]) if row["set_by"] is None and _slot(row) == slot]
    return limit_of(found[0]) if found else None


def set_by(tx: Tx, subject: Subject, slot: Slot) -> str | None:
    """Who set the limit of a slot on somebody, if it was the lead of a team."""
    return next((row["set_by"] for row in _of_subjects(tx, "limits", [subject]) if _slot(row) == slot), None)


def _days(tx: Tx, limit: Limit, window: Span) -> tuple[str, str] | None:
    """The first and the last day of a window of whole days. What counts there is the day that a request was booked on:
    it stays the same when the book is put into another zone.
    """
    match limit.window:
        case Window.MINUTE | Window.HOUR:
            return None
        case Window.TOTAL:
            return "0", "9"
    return day_of(window.start_ms, tx.zone), day_of(window.end_ms - 1, tx.zone)


ZONES_MS = 2 * 86_400_000
"""A day of one zone lies within this distance of the same day in any other."""


def _within(tx: Tx, limit: Limit, window: Span) -> tuple[int, int, str, str]:
    """What falls into a window: from when until when at most, and the first and the last day that it is booked on."""
    days = _days(tx, limit, window)
    if days is None:
        return *window, "0", "9"
    return window.start_ms - ZONES_MS, window.end_ms + ZONES_MS, *days


def expected(tx: Tx, counter: Row) -> tuple[int, int]:
    """What a counter must say of its own window: used, held."""
    limit, subject, window = limit_of(counter), _subject(counter), Span(counter["start_ms"], counter["end_ms"])
    return _used(tx, limit, subject, window), _held(tx, limit, subject, window)


# ── how rows are read ─────────────────────────────────────────────────────────────────────────────────────────────────


def limit_of(row: Row) -> Limit:
    return Limit(row["amount"], Unit(row["unit"]), Window(row["window"]), row["glob"])


def names_of(row: Any) -> tuple[str, ...]:
    """The names that a hold's or a usage row's model went by: told only where they don't follow from the row."""
    if row["names"]:
        return tuple(msgspec.json.decode(row["names"]))
    return row["model"], f"{row['upstream']}/{row['upstream_model']}"


def _subject(row: Row) -> Subject:
    return row["subject_kind"], row["subject_id"]


def _slot(row: Row) -> Slot:
    return Unit(row["unit"]), Window(row["window"]), row["glob"]


def _typed(subject: Subject) -> str | int:
    return subject[1] if subject[0] == "key" else int(subject[1])


def _amounts(row: Any) -> Amounts:
    return Amounts(row["input_hold"], row["output_hold"], row["amount_nano"])


def _counters(tx: Tx, whose: Collection[Subject]) -> list[Row]:
    """The counters of some. That somebody has none is kept: only a hold makes any, and forgets it then."""
    if tx.kept is None:
        return _of_subjects(tx, "counters", whose)
    kept = tx.kept
    asked = [subject for subject in whose if ("no counters", subject) not in kept]
    found = _of_subjects(tx, "counters", asked) if asked else []
    if asked and len(found) < len(asked):
        kept.update((("no counters", subject), True) for subject in {*asked} - {_subject(row) for row in found})
    return found


def _of_subjects(tx: Tx, table: str, whose: Collection[Subject]) -> list[Row]:
    one = f"SELECT * FROM {table} WHERE subject_kind = ? AND subject_id = ?"
    return tx.apart(" UNION ALL ".join([one] * len(whose)), [part for subject in whose for part in subject]).fetchall()


# ── what admins do ────────────────────────────────────────────────────────────────────────────────────────────────────


def subject_of(tx: Tx, target: str) -> tuple[Subject, str]:
    """Whom `alice`, `user:alice`, `team:research` or `key:ID` names, and the full name. Raises Refusal."""
    kind, colon, name = target.partition(":")
    if colon and kind == "team":
        return ("team", str(accounts.team_row(tx, name)["id"])), target
    if colon and kind == "key":
        row = keys.key_row(tx, name)
        return ("key", row["id"]), f"key:{row['id']}"
    name = name if colon and kind == "user" else target
    return ("user", str(accounts.user_row(tx, name)["id"])), name


def hang(
    tx: Tx, target: str, texts: Iterable[str], alert_at: Sequence[int] = (), *, lead: str | None = None
) -> list[Limit]:
    """Set limits on a target; one of a slot that has one already replaces it. Percentages `alert_at` that are past
    already are told. `lead`: who leads the team of whom it is. Raises UsageError, Refusal.
    """
    subject, name = subject_of(tx, target)
    found = [parse(text) for text in texts]
    slots = {limit.slot for limit in found}
    replaced = [limit for row in _of_subjects(tx, "limits", [subject]) if (limit := limit_of(row)).slot in slots]
    for limit in found:
        tx.execute(
            """
            INSERT INTO limits (subject_kind, subject_id, unit, window, glob, amount, created_ms, set_by)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?)
            ON CONFLICT (subject_kind, subject_id, unit, window, glob) DO UPDATE SET
              amount = excluded.amount, set_by = excluded.set_by
            """,
            (*subject, *limit.slot, limit.amount, tx.now_ms, lead),
        )
        _forget(tx, subject, limit)
    for limit in {limit.slot: limit for limit in found}.values():
        if limit.amount is not None:
            _alert_passed(tx, _standing(tx, limit, subject, subject[0], None, None), alert_at)
    before = {"limits": [str(limit) for limit in replaced]} if replaced else None
    audit.record(tx, "limits.set", name, before=before, after={"limits": [str(limit) for limit in found]})
    return found


def take_off(tx: Tx, target: str, text: str | None) -> list[Limit]:
    """Remove the limit of the slot that `text` says, or all of a target's own.

    Raises UsageError where it is no limit, and Refusal where there is none.
    """
    subject, name = subject_of(tx, target)
    own = [limit_of(row) for row in _of_subjects(tx, "limits", [subject])]
    slot = parse(text).slot if text is not None else None
    gone = [limit for limit in own if slot in (None, limit.slot)]
    if not gone:
        raise Refusal(f"{name} has no such limit of its own: `llmgate limits {name}` lists them", code="not_found")
    for limit in gone:
        tx.execute(
            "DELETE FROM limits WHERE (subject_kind, subject_id, unit, window, glob) = (?, ?, ?, ?, ?)",
            (*subject, *limit.slot),
        )
        _forget(tx, subject, limit)
    audit.record(tx, "limits.remove", name, before={"limits": [str(limit) for limit in gone]})
    return gone


def put(tx: Tx, target: str, texts: Sequence[str], alert_at: Sequence[int] = ()) -> list[Limit]:
    """Let these be all the limits of a target's own. Raises as `hang` does."""
    subject, _ = subject_of(tx, target)
    wanted = {parse(text).slot for text in texts}
    for limit in own_of(tx, subject):
        if limit.slot not in wanted:
            take_off(tx, target, str(limit))
    return hang(tx, target, texts, alert_at) if texts else []


def _forget(tx: Tx, subject: Subject, limit: Limit) -> None:
    """A limit is another, or none: its counter may not tell of the old one. The next hold derives it anew."""
    tx.execute(
        "DELETE FROM counters WHERE (subject_kind, subject_id, unit, window, glob) = (?, ?, ?, ?, ?)",
        (*subject, *limit.slot),
    )


def as_row(target: str, standing: Standing) -> dict[str, Any]:
    """A limit as JSON shows it: USD as decimal strings, all else as counts."""
    limit = standing.limit

    def figure(amount: int) -> str | int:
        return usd(amount) if limit.unit is Unit.USD else amount

    return {
        "target": target,
        "limit": str(limit),
        "source": standing.source,
        "used": figure(standing.used),
        "held": figure(standing.held),
        "remaining": figure(max(standing.room, 0)),
        "resets_at": None if limit.window is Window.TOTAL else rfc3339(standing.span.end_ms),
    }


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """A limit as it is shown: on whom, and how it stands for requests of any model that it means."""

    target: str
    standing: Standing


def listing(tx: Tx, policy: Policy, target: str | None = None) -> list[Listed]:
    """The limits of a target, or of everybody: of users (own, plan's, default's), of teams and of keys. Of a key also
    those of the keys that it is under, which hold for it together with others.
    """
    wanted = subject_of(tx, target)[0] if target is not None else None
    found: list[Listed] = []
    for subject, name, plan_name in _everybody(tx):
        if wanted in (None, subject):
            found += _listed(tx, policy, subject, name, plan_name)
    if wanted is not None and wanted[0] == "key":
        for given_id in above(tx, wanted[1]):
            found += of(tx, policy, ("key", given_id))
    return found


def of(tx: Tx, policy: Policy, subject: Subject) -> list[Listed]:
    """The limits of one."""
    return list(_listed(tx, policy, subject, *_somebody(tx, subject)))


def _listed(tx: Tx, policy: Policy, subject: Subject, name: str, plan_name: str | None) -> Iterator[Listed]:
    plan = policy.plans.get(plan_name) if plan_name else None
    counters = {_slot(row): row for row in _counters(tx, [subject])}
    for limit, source in _on_subject(tx, subject, plan, policy):
        standing = _standing(tx, limit, subject, source, counters.get(limit.slot), plan)
        yield Listed(target=name, standing=standing)


def near(tx: Tx, policy: Policy, percent: int, most: int) -> list[Listed]:
    """Limits of which so many percent are used or held, at most `most` of them, the nearest to their end first.

    Cheap where there are thousands of limits, because only those with a counter of the present window are looked at;
    one that was hung a moment ago is told from its next request on. Counters say who may be near, limits say who is.
    """
    candidates = tx.execute(
        """
        SELECT subject_kind, subject_id FROM counters
        WHERE amount > 0 AND start_ms <= ?1 AND ?1 < end_ms AND (used + held) * 100.0 >= amount * 0.999 * ?2
        GROUP BY 1, 2 ORDER BY max((used + held) * 1.0 / amount) DESC, 1, 2 LIMIT ?3
        """,
        (tx.now_ms, percent, most),
    ).fetchall()
    found = [
        one
        for row in candidates
        for one in _listed(tx, policy, _subject(row), *_somebody(tx, _subject(row)))
        if one.standing.percent >= percent
    ]
    return sorted(found, key=lambda one: (-one.standing.percent, one.target))[:most]


def _somebody(tx: Tx, subject: Subject) -> tuple[str, str | None]:
    """How a subject is called, and its plan."""
    if subject[0] == "key":
        return f"key:{subject[1]}", None
    sql = {
        "user": "SELECT u.name, coalesce(u.plan, t.plan) FROM users u LEFT JOIN teams t ON t.id = u.team_id "
        "WHERE u.id = ?",
        "team": "SELECT 'team:' || name, NULL FROM teams WHERE id = ?",
    }[subject[0]]
    name, plan = tx.execute(sql, (_typed(subject),)).fetchone()
    return name, plan


def _everybody(tx: Tx) -> Iterator[tuple[Subject, str, str | None]]:
    """Everybody on whom limits may hang, with the plan whose limits they have."""
    for row in tx.execute(
        "SELECT u.id, u.name, coalesce(u.plan, t.plan) AS plan "
        "FROM users u LEFT JOIN teams t ON t.id = u.team_id ORDER BY u.name"
    ).fetchall():
        yield ("user", str(row["id"])), row["name"], row["plan"]
    for row in tx.execute("SELECT id, name FROM teams ORDER BY name").fetchall():
        yield ("team", str(row["id"])), f"team:{row['name']}", None
    for row in tx.execute("SELECT DISTINCT subject_id FROM limits WHERE subject_kind = 'key'").fetchall():
        yield ("key", row["subject_id"]), f"key:{row['subject_id']}", None
