"""Which credits were used, and which are left to expire: an account's entries and charges replayed. Pure, no SQL.

Credits that expire form one lot per entry that granted them; all others are one pool. The rules:

1. What is spent (charges, takes, transfers to others) uses the credits that expire first, first; then the pool; then
   lots that have expired but were not taken away yet; what nothing covers is debt.
2. What comes in pays debt first.
3. A charge counts at the moment its request was placed: that is when the credit was set aside for it. It goes before
   an entry of a later millisecond, and after one of the same.
4. An entry that has a lot as its `cause` (an expiry) uses up that lot, then as rule 1.
5. A reversal of a grant uses up that grant's lot first. A reversal of something spent gives it back to where it came
   from, as long as that has neither expired nor been reversed; else to the pool. Refunds, what a transfer brought and
   reversed expiries go to the pool: they don't expire (any more).
6. A closing entry is no step of its own: it is charges, at the moment when they were made. So pruning changes nothing
   here, as long as no closing entry stands for charges on both sides of an entry or of an expiry (`store.prune`).

Invariants: lots and pool are never negative; while there is debt they are all 0; lots + pool - debt = balance, at every
step and whatever is put in (even an expiry of more than its lot has left, which charges that were corrected after the
expiry can bring about: the rest is then spent as by rule 1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from .db import Row

POOL = 0
"""In place of an entry's id: the credits that don't expire."""


class Lot(msgspec.Struct):
    """What is left of credits that expire."""

    entry_id: int
    expires_ms: int | None
    """None only for the pool."""
    left_nano: int


class Purse(msgspec.Struct):
    """An account's credits by when they expire."""

    pool: Lot
    lots: dict[int, Lot]
    """By the entry that granted them. Those that are used up stay, because a reversal may fill them again."""
    filled: dict[int, Lot]
    """Those that have something left."""
    debt_nano: int = 0

    @property
    def balance_nano(self) -> int:
        return sum(lot.left_nano for lot in self.filled.values()) + self.pool.left_nano - self.debt_nano

    def left(self) -> list[Lot]:
        """What is left that expires, the soonest first."""
        return sorted(self.filled.values(), key=_soonest)


def replay(entries: Sequence[Row], charged: Callable[[int, int | None], int]) -> Purse:
    """What the entries of an account, oldest first, and its charges have left.

    `charged(since_ms, until_ms)` sums up the charges of requests that were placed from a moment on and before another;
    None: all that follow.
    """
    purse = Purse(Lot(POOL, None, 0), {}, {})
    by_id = {row["id"]: row for row in entries}
    drawn: dict[int, list[Lot]] = {}
    at_ms = 0
    for row in entries:
        until_ms = max(at_ms, row["created_ms"])  # a clock that was set back doesn't change the order of entries
        _charge(purse, charged, at_ms, until_ms)
        at_ms = until_ms
        amount, undone = row["amount_nano"], by_id.get(row["reverses"])
        if amount < 0:
            first = purse.lots.get(undone["id"], purse.pool) if undone else purse.lots.get(row["cause"])
            drawn[row["id"]] = _spend(purse, -amount, at_ms, first)
            if undone:
                purse.lots.pop(undone["id"], None)
        elif undone and undone["kind"] != "expire":
            for part in drawn.get(undone["id"], ()):
                _give(purse, purse.lots.get(part.entry_id), part.left_nano, at_ms)
        elif row["expires_ms"] is not None:
            purse.lots[row["id"]] = Lot(row["id"], row["expires_ms"], 0)
            _give(purse, purse.lots[row["id"]], amount, 0)
        else:
            _give(purse, None, amount, at_ms)
    _charge(purse, charged, at_ms, None)
    return purse


def _charge(purse: Purse, charged: Callable[[int, int | None], int], since_ms: int, until_ms: int | None) -> None:
    """Spend what was charged in a span, part by part: which credits are good changes where some expire."""
    moments = {_moment(lot) for lot in purse.filled.values()}
    between = sorted(at for at in moments if at > since_ms and (until_ms is None or at < until_ms))
    for part_ms in (*between, until_ms):
        if part_ms != since_ms:
            _spend(purse, charged(since_ms, part_ms), since_ms)
        since_ms = part_ms or since_ms


def _spend(purse: Purse, nano: int, at_ms: int, first: Lot | None = None) -> list[Lot]:
    """Use credits as they are at a moment, those of one lot before all others. Returns how much of which."""
    drawn: list[Lot] = []
    if not nano:
        return drawn
    left = purse.left()
    good = [lot for lot in left if _moment(lot) > at_ms]
    expired = [lot for lot in left if _moment(lot) <= at_ms]
    for lot in (*((first,) if first else ()), *good, purse.pool, *expired):
        part = min(nano, lot.left_nano)
        if not part:
            continue
        lot.left_nano -= part
        nano -= part
        drawn.append(Lot(lot.entry_id, lot.expires_ms, part))
        if not lot.left_nano:
            purse.filled.pop(lot.entry_id, None)
    if nano:
        purse.debt_nano += nano
        drawn.append(Lot(POOL, None, nano))
    return drawn


def _give(purse: Purse, lot: Lot | None, nano: int, at_ms: int) -> None:
    """Pay debt, and put the rest into a lot if that is good at a moment, else into the pool."""
    paid = min(purse.debt_nano, nano)
    purse.debt_nano -= paid
    if lot is None or _moment(lot) <= at_ms:
        purse.pool.left_nano += nano - paid
    elif nano > paid:
        lot.left_nano += nano - paid
        purse.filled[lot.entry_id] = lot


def _moment(lot: Lot) -> int:
    """When a lot expires."""
    assert lot.expires_ms is not None
    return lot.expires_ms


def _soonest(lot: Lot) -> tuple[int, int]:
    return _moment(lot), lot.entry_id
