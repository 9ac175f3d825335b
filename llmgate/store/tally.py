"""What the requests of one transaction come to in sums that many of them share: written once, however many they are.

An account's balance and what it holds, and a day's roll-up, change with every hold and every settlement. In a group
commit dozens of these are of the same few: they are read once, added up here, and written by one statement each.

Invariant: nobody sees a sum without what was added to it, because of two rules. Whoever asks the database anything does
so by `Tx.execute`, which writes what is added up first, and forgets what was read, as the statement may change it. Only
statements that touch none of these tables go past it (`Tx.apart`). And whoever commits writes it before.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import lru_cache
from operator import add

from ..types import METERS


class Money:
    """An account as it stands in a transaction, with all that is not written yet."""

    __slots__ = ("balance_nano", "expires_next_ms", "held_nano", "moved", "prepaid")

    def __init__(self, billing: str, balance_nano: int, held_nano: int, expires_next_ms: int | None) -> None:
        self.prepaid = billing == "prepaid"
        self.balance_nano = balance_nano
        self.held_nano = held_nano
        self.expires_next_ms = expires_next_ms
        """When credits of the account expire next."""
        self.moved = False


RollupKey = tuple[str, int, int, int, str, str, str, str]
"""The values of `ROLLUP_KEY`."""

ROLLUP_KEY = ("day", "account_id", "user_id", "team_id", "key_id", "plan", "model", "upstream")
ROLLUP_SUMS = ("requests", "errors", *METERS, "cost_nano", "charge_nano", "wasted_nano")

_NAMED = frozenset({"requests", "errors", "cost_nano", "charge_nano"})
"""Those that a new row must be told, even if they are 0."""

_PLACES = {name: place for place, name in enumerate(ROLLUP_SUMS)}

_MONEY = "SELECT billing, balance_nano, held_nano, expires_next_ms FROM accounts WHERE id = ?"
_MOVE = "UPDATE accounts SET balance_nano = ?, held_nano = ? WHERE id = ?"


class Tally:
    """Of one transaction."""

    __slots__ = ("_accounts", "_conn", "_rollups", "changes", "moves", "open")

    def __init__(self, conn: sqlite3.Connection) -> None:
        self._conn = conn
        self._accounts: dict[int, Money] = {}
        self._rollups: dict[RollupKey, Sequence[int]] = {}
        self.moves = 0
        """Goes up with all that is added."""
        self.changes = 0
        """Rows that were written, as SQLite counts them."""
        self.open = False
        """There is something here that a statement could be about."""

    def money(self, account_id: int) -> Money:
        """To be read only: `move` changes it."""
        found = self._accounts.get(account_id)
        if found is None:
            found = self._accounts[account_id] = Money(*self._conn.execute(_MONEY, (account_id,)).fetchone())
            self.open = True
        return found

    def move(self, account_id: int, balance_nano: int, held_nano: int) -> Money:
        """So much more (or less) of both."""
        money = self.money(account_id)
        money.balance_nano += balance_nano
        money.held_nano += held_nano
        money.moved = True
        self.moves += 1
        return money

    def roll_up(self, key: RollupKey, added: Sequence[int]) -> None:
        """So much more (or less) of `ROLLUP_SUMS`."""
        sums = self._rollups.get(key)
        self._rollups[key] = added if sums is None else [*map(add, sums, added)]
        self.open = True
        self.moves += 1

    def write(self) -> None:
        """Write all of it, and forget what was read. Raises sqlite3.Error, or OverflowError beyond 64 bits."""
        accounts, rollups = self._accounts, self._rollups
        before = self._conn.total_changes
        self.forget()
        try:
            for account_id, money in accounts.items():
                if money.moved:
                    self._conn.execute(_MOVE, (money.balance_nano, money.held_nano, account_id))
            for key, sums in rollups.items():
                names = tuple(name for name, number in zip(ROLLUP_SUMS, sums, strict=True) if number or name in _NAMED)
                self._conn.execute(_roll_up(names), (*key, *(sums[_PLACES[name]] for name in names)))
        except Exception:
            self.moves += 1  # what others had added is lost: whose statement it was hasn't failed for itself alone
            raise
        self.changes += self._conn.total_changes - before

    def forget(self) -> None:
        self._accounts, self._rollups, self.open = {}, {}, False


@lru_cache(maxsize=1024)
def _roll_up(names: tuple[str, ...]) -> str:
    """A statement that adds these: the others are 0 in a row that is new."""
    columns = (*ROLLUP_KEY, *names)
    return f"""
    INSERT INTO rollups ({", ".join(columns)}) VALUES ({", ".join("?" for _ in columns)})
    ON CONFLICT ({", ".join(ROLLUP_KEY)}) DO UPDATE
    SET {", ".join(f"{name} = {name} + excluded.{name}" for name in names)}
    """
