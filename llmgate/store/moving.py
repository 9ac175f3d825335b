"""What one box tells another, so that everything moves there: who is known, what moved money, what was used.

What is read here for `llmgate export` is what `Arrival` takes in, field by field under the same names; amounts are in
nano-USD and times in milliseconds.

Invariants of taking in:
1. **All or nothing**: one transaction, and whatever is wrong ends it.
2. **Once.** Users and teams are the same by their name, keys by their id; entries, requests and pruned sums keep the
   numbers that they had. What is here already, exactly as it comes, is left alone; what is here otherwise is refused.
   Requests are refused where sums of their day stand for them, and such sums where the requests are still here.
3. **The books balance**: balances and roll-ups move with what comes, as they do when it happens. What is taken in is
   checked as `verify` does. The chain of entries goes on without a gap: an entry that isn't here yet must be the next.
   Its hash covers the number of the account, which is another here, so it is worked out anew; that of the file is
   checked against the entry before it.
4. **No number is used twice**: holds are numbered past everything that came.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date
from typing import Any

import msgspec

from .. import clock, pricing
from ..errors import LlmgateError, Refusal
from ..limits import parse
from ..money import MAX_NANO, dollars
from ..names import check_name
from ..types import METERS
from . import audit, keys, ledger, limits, prices, prune
from .db import Row, Tx, set_zone
from .tally import ROLLUP_KEY, ROLLUP_SUMS
from .usage import ATTEMPT_FIELDS
from .verify import derived
from .verify import entries as of_entries
from .verify import usage as of_usage

Fields = Mapping[str, Any]

MAX_ID = 2**53
"""Far below where SQLite has no next one. Whatever reads JSON can hold it."""


class Wrong(Exception):
    """What can't be taken in: in which field, and why."""

    def __init__(self, field: str, why: str) -> None:
        self.message = f"{field} {why}"


# ── what is told ──────────────────────────────────────────────────────────────────────────────────────────────────────

_ACCOUNT = "coalesce(u.name, 'team:' || t.name) AS account"

_PRICES = """
SELECT s.kind, nullif(s.upstream, '') AS upstream, s.model, p.body AS price, s.from_ms AS from_at, s.actor
FROM set_prices s LEFT JOIN prices p ON p.id = s.price_id
"""
_TEAMS = """
SELECT t.name AS team, t.plan, a.billing, a.billing_source, t.created_ms AS created_at, 'team' AS kind, t.id AS subject
FROM teams t JOIN accounts a ON a.id = t.account_id
"""
_USERS = """
SELECT u.name AS user, t.name AS team, u.plan, u.email, u.status, a.billing, a.billing_source,
       u.created_ms AS created_at, l.name AS leads, 'user' AS kind, u.id AS subject
FROM users u JOIN accounts a ON a.id = u.account_id LEFT JOIN teams t ON t.id = u.team_id
LEFT JOIN teams l ON l.id = u.leads_team_id
"""
_KEYS = """
SELECT k.id, u.name AS user, k.name, lower(hex(k.hash)) AS hash, k.prefix, k.suffix,
       nullif(lower(hex(k.grace_hash)), '') AS grace_hash, k.grace_until_ms AS grace_until, k.status, k.models, k.ips,
       k.tags, k.note, k.created_ms AS created_at, k.expires_ms AS expires_at, k.last_used_ms AS last_used_at,
       'key' AS kind, k.id AS subject
FROM keys k JOIN users u ON u.id = k.user_id
"""
_SUMS_TOLD = {"cost_nano": "cost_usd", "charge_nano": "charge_usd", "wasted_nano": "wasted_usd"}
_PRUNED = f"""
SELECT p.rowid AS id, p.day, {_ACCOUNT}, w.name AS user, m.name AS team, p.key_id, p.plan, p.model, p.upstream,
       p.upstream_model, p.names, {", ".join(f"p.{name} AS {_SUMS_TOLD.get(name, name)}" for name in ROLLUP_SUMS)}
FROM pruned p JOIN users w ON w.id = p.user_id LEFT JOIN teams m ON m.id = p.team_id
LEFT JOIN users u ON u.account_id = p.account_id LEFT JOIN teams t ON t.account_id = p.account_id
"""


def zone(tx: Tx) -> Iterator[Fields]:
    yield {"zone": tx.zone.key}


def set_prices(tx: Tx) -> Iterator[Fields]:
    return ({**dict(row), "price": _decoded(row["price"])} for row in tx.execute(f"{_PRICES} ORDER BY s.id"))


def teams(tx: Tx) -> Iterator[Fields]:
    return (_who(tx, row) for row in tx.execute(f"{_TEAMS} ORDER BY t.id"))


def users(tx: Tx) -> Iterator[Fields]:
    return (_who(tx, row) for row in tx.execute(f"{_USERS} ORDER BY u.id"))


def issued(tx: Tx) -> Iterator[Fields]:
    """Keys: their hashes, never what can be used."""
    return (_key(tx, row) for row in tx.execute(f"{_KEYS} ORDER BY k.created_ms, u.name, k.name"))


def pruned(tx: Tx, after_id: int, size: int) -> list[Fields]:
    rows = tx.execute(f"{_PRUNED} WHERE p.rowid > ? ORDER BY p.rowid LIMIT ?", (after_id, size)).fetchall()
    return [{**dict(row), "plan": row["plan"] or None, "names": _decoded(row["names"])} for row in rows]


def _who(tx: Tx, row: Row) -> dict[str, Any]:
    found = dict(row)
    subject = (found.pop("kind"), str(found.pop("subject")))
    own = tx.execute(
        "SELECT * FROM limits WHERE subject_kind = ? AND subject_id = ? ORDER BY created_ms, unit, window, glob",
        subject,
    ).fetchall()
    return found | {
        "limits": [str(limits.limit_of(limit)) for limit in own if limit["set_by"] is None],
        "led_limits": {str(limits.limit_of(limit)): limit["set_by"] for limit in own if limit["set_by"] is not None},
    }


def _key(tx: Tx, row: Row) -> dict[str, Any]:
    found = _who(tx, row) | {"under": list(limits.above(tx, row["id"]))}
    return found | {name: _decoded(found[name]) for name in ("models", "ips", "tags")}


def _decoded(text: str | None) -> Any:
    return None if text is None else json.loads(text)


# ── what comes ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Arrival:
    """A transaction that takes in what another box told. Kinds come in the order of `KINDS`, and `end` ends it."""

    def __init__(self, tx: Tx, *, own_zone: bool = False) -> None:
        """`own_zone`: the config says in which zone this box counts days, so it doesn't take another."""
        self.tx = tx
        self._own_zone = own_zone
        self.added: Counter[str] = Counter()
        self.known: Counter[str] = Counter()
        self._moved: Counter[int] = Counter()
        self._prices: dict[str, int] = {}
        self._entry_hashes: dict[int, bytes] = {}
        self._entries: dict[int, str] = {}
        self._requests: dict[int, str] = {}
        """What was added and is still to be checked: its number, and where it stands."""
        self._held = 0
        self._under: list[tuple[str, str]] = []
        self._summed = {tuple(row) for row in tx.execute("SELECT DISTINCT day, account_id FROM pruned")}

    # what all of it is counted by

    def zone(self, row: Fields) -> bool:
        """Only a box without anything takes another zone: days of one mean nothing in the other."""
        here = self.tx.zone.key
        if row["zone"] == here:
            return False
        name = _checked("zone", clock.zone, row["zone"]).key
        used = any(self.tx.value(f"SELECT 1 FROM {table} LIMIT 1") for table in ("users", "teams", "set_prices"))
        if used or self._own_zone:
            raise Wrong("zone", f"says {name}, and days are counted in {here} here: `llmgate db set-zone {name}` first")
        set_zone(self.tx, name)
        return True

    def price(self, row: Fields) -> bool:
        """What an admin set. What was charged by it keeps its own snapshot, so a begin in the past reprices nothing."""
        _one_of(row, "kind", ("charge", "cost"))
        values = {"kind": row["kind"], "upstream": row["upstream"] or "", "model": row["model"]}
        values |= {"from_ms": row["from_at"], "price_id": self._price("price", row["price"])}
        known = self.tx.one(
            "SELECT p.body FROM set_prices s LEFT JOIN prices p ON p.id = s.price_id "
            "WHERE s.kind = ? AND s.upstream = ? AND s.model = ? AND s.from_ms = ?",
            *(values[name] for name in ("kind", "upstream", "model", "from_ms")),
        )
        if known is not None:
            return _same(row, {"price": _decoded(known["body"])})
        self._insert("set_prices", values | {"actor": row["actor"]})
        prices.changed(self.tx)
        return True

    # who is known

    def team(self, row: Fields) -> bool:
        known = self.tx.one(f"{_TEAMS} WHERE t.name = ?", row["team"])
        if known is not None:
            return _same(row, _who(self.tx, known))
        _checked("team", check_name, row["team"], "team")
        account = self._account("team", row)
        number = self.tx.execute(
            "INSERT INTO teams (name, account_id, plan, created_ms) VALUES (?, ?, ?, ?)",
            (row["team"], account, row["plan"], row["created_at"]),
        ).lastrowid
        self._hang("team", str(number), row)
        return True

    def user(self, row: Fields) -> bool:
        known = self.tx.one(f"{_USERS} WHERE u.name = ?", row["user"])
        if known is not None:
            return _same(row, _who(self.tx, known))
        _checked("user", check_name, row["user"], "user")
        _one_of(row, "status", ("active", "disabled"))
        team, leads = (
            self._id("teams", name, row) if row.get(name) is not None else None for name in ("team", "leads")
        )
        account = self._account("user", row)
        number = self.tx.execute(
            "INSERT INTO users (name, account_id, team_id, plan, email, status, created_ms, leads_team_id) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (row["user"], account, team, row["plan"], row["email"], row["status"], row["created_at"], leads),
        ).lastrowid
        self._hang("user", str(number), row)
        return True

    def key(self, row: Fields) -> bool:
        known = self.tx.one(f"{_KEYS} WHERE k.id = ?", row["id"])
        if known is not None:
            return _same(row, _key(self.tx, known), but=("last_used_at",))
        _checked("name", check_name, row["name"], "key")
        _one_of(row, "status", ("active", "disabled", "revoked"))
        owner = self._id("users", "user", row)
        if self.tx.one("SELECT 1 FROM keys WHERE user_id = ? AND name = ?", owner, row["name"]):
            raise Wrong("name", f"{row['user']} has another key named {row['name']} here")
        hashes = [_hash(row, "hash"), _hash(row, "grace_hash")]
        for found in (one for one in hashes if one is not None):
            if self.tx.one("SELECT 1 FROM keys WHERE hash = ? OR grace_hash = ?", found, found):
                raise Wrong("hash", "another key here has it")
        if hashes[0] is None:
            raise Wrong("hash", "is missing")
        models = [str(one) for one in row["models"]]
        ips = _checked("ips", keys.check_ips, [str(one) for one in row["ips"]])
        tags = {str(name): str(value) for name, value in row["tags"].items()}
        self.tx.execute(
            "INSERT INTO keys (id, user_id, name, hash, prefix, grace_hash, grace_until_ms, status, models, ips, tags, "
            "note, created_ms, expires_ms, last_used_ms, suffix) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(row["id"], owner, row["name"], hashes[0], row["prefix"], hashes[1], row["grace_until"]),
                *(row["status"], *(msgspec.json.encode(one).decode() for one in (models, ips, tags))),
                *(row["note"], row["created_at"], row["expires_at"], row["last_used_at"], row.get("suffix")),
            ),
        )
        self._under += [(row["id"], str(given)) for given in row.get("under") or ()]
        self._hang("key", row["id"], row)
        return True

    # what was used

    def pruned(self, row: Fields) -> bool:
        _within(row, ("id",), 1)
        _within(row, ("requests", "errors", *METERS), 0)
        for field in _SUMS_TOLD.values():
            if row[field] < 0:
                raise Wrong(field, f"says {dollars(row[field])}, and is never below 0")
        if date.fromisoformat(row["day"]).isoformat() != row["day"]:
            raise Wrong("day", f"says {row['day']!r}, not a date such as 2026-11-20")
        values = {"rowid": row["id"], "day": row["day"], **self._whose(row), "names": _text(row["names"] or None)}
        values |= {"team_id": values["team_id"] or 0, "plan": row["plan"] or ""}
        values |= {name: row[name] for name in ("model", "upstream", "upstream_model")}
        values |= {name: row[_SUMS_TOLD.get(name, name)] for name in ROLLUP_SUMS}
        if self._is_known("pruned", values):
            return False
        if self.tx.one(
            "SELECT 1 FROM usage WHERE account_id = ? AND day = ? AND time_ms BETWEEN ? AND ? LIMIT 1",
            *(values["account_id"], row["day"], *prune.around(row["day"])),
        ):
            raise Wrong("day", f"requests of {row['account']} on {row['day']} are here one by one: prune them here")
        self._insert("pruned", values)
        self._roll_up(values, values)
        return True

    def request(self, row: Fields) -> bool:
        """A usage row, with its tags and attempts."""
        _within(row, ("id",), 1)
        _within(row, ("duration_ms", "ttft_ms"), 0)
        meters = {name: row["meters"].get(name, 0) for name in METERS}
        values = {name: row[name] for name in _USAGE_AS_TOLD} | self._whose(row) | meters
        values |= {ours: row[theirs] for ours, theirs in _USAGE_RENAMED.items()}
        values |= {
            "names": _text(row["names"] or None),
            "cost_price_id": self._price("cost_price", row["cost_price"]),
            "charge_price_id": self._price("charge_price", row["charge_price"]),
            **{name: int(row[name]) for name in ("streamed", "bounded", "overrun")},
        }
        if self._is_known("usage", values):
            return False
        for table in ("usage", "holds"):
            if self.tx.one(f"SELECT 1 FROM {table} WHERE request_id = ? OR id = ?", row["request_id"], row["id"]):
                raise Wrong("request_id", f"request {row['request_id']} has another number here, or is still in flight")
        if (row["day"], values["account_id"]) in self._summed:
            raise Wrong("day", f"requests of {row['account']} on {row['day']} were pruned here")
        self._insert("usage", values)
        self.tx.conn.executemany(
            "INSERT INTO usage_tags (usage_id, name, value) VALUES (?, ?, ?)",
            [(row["id"], str(name), str(value)) for name, value in row["tags"].items()],
        )
        for attempt in row["attempts"]:
            self._insert(
                "attempts",
                {name: attempt.get(name, 0) for name in METERS}
                | {name: attempt[name] for name in ATTEMPT_FIELDS}
                | {"usage_id": row["id"], "cost_price_id": self._price("attempts", attempt["price"])},
            )
        self._roll_up(values, {**values, "requests": 1, "errors": int(row["status"] == "error")})
        self._move(values["account_id"], -row["charge_usd"])
        self._held = max(self._held, row["id"])
        return True

    # what moved money

    def entry(self, row: Fields) -> bool:
        _within(row, ("entry", "reverses", "cause", "usage_id"), 1)
        fields: dict[str, Any] = {ours: row[theirs] for ours, theirs in _ENTRY.items()}
        told, number = _hash(row, "hash"), row["entry"]
        before = self._entry_hashes.get(number - 1, b"" if number == 1 else None)
        if before is not None and told != ledger.entry_hash(before, fields):
            raise Wrong("hash", f"entry {number} isn't as it was exported, or not the one that followed the last")
        self._entry_hashes = {number: told or b""}
        fields["account_id"] = self._payer(row)
        known = self.tx.one("SELECT * FROM entries WHERE id = ?", number)
        if known is not None:
            if known["account_id"] != fields["account_id"]:
                raise Wrong("entry", f"{number} is another account's here: only a box without entries takes another's")
            return _same(fields, {name: known[name] for name in fields}, _ENTRY)
        last = self.tx.one("SELECT id, hash FROM entries ORDER BY id DESC LIMIT 1")
        following = last["id"] + 1 if last else 1
        if number != following:
            raise Wrong("entry", f"entry {following} is the next here: export without --since")
        if row["ref"] is not None and self.tx.one("SELECT 1 FROM entries WHERE ref = ?", row["ref"]):
            raise Wrong("ref", f"{row['ref']} belongs to another entry here")
        for name in ("reverses", "cause"):
            if row[name] is not None and not self.tx.one("SELECT 1 FROM entries WHERE id = ?", row[name]):
                raise Wrong(name, f"there is no entry {row[name]}")
        fields["hash"] = ledger.entry_hash(last["hash"] if last else b"", fields)
        self._insert("entries", fields)
        self._move(fields["account_id"], row["amount_usd"])
        self._held = max(self._held, row["usage_id"] or 0)
        return True

    # the end

    def take(self, kind: str, rows: Iterable[tuple[str, Fields]]) -> None:
        """Rows of one kind, each with where it stands. Raises Wrong, which says where."""
        for where, row in rows:
            try:
                added = KINDS[kind](self, row)
            except Wrong as wrong:
                raise _at(where, wrong.message) from wrong
            except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
                raise _at(where, f"is no row that `llmgate export {kind}` wrote ({error})") from error
            except sqlite3.IntegrityError as error:
                raise _at(where, f"is not allowed here: {error}") from error
            (self.added if added else self.known)[kind] += 1
            if added and kind == "entries":
                self._entries[row["entry"]] = where
            elif added and kind == "usage":
                self._requests[row["id"]] = where
            if len(self._requests) == of_usage.CHUNK:
                self._check_requests()
        self._check_requests()

    def end(self, source: str) -> None:
        """Check what came, and let everything go on from here."""
        if not sum(self.added.values()):
            return
        self._put_under()
        for account_id, nano in self._moved.items():
            self.tx.execute("UPDATE accounts SET balance_nano = balance_nano + ? WHERE id = ?", (nano, account_id))
        self._check()
        self.tx.execute(
            "UPDATE accounts SET expires_next_ms = (SELECT min(expires_ms) FROM entries WHERE account_id = accounts.id)"
        )
        self.tx.execute("DELETE FROM counters")  # they begin anew by what the facts say
        if not self.tx.execute(
            "UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = 'holds'", (self._held,)
        ).rowcount:
            self.tx.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('holds', ?)", (self._held,))
        audit.record(self.tx, "import", source, after=dict(self.added))

    def _put_under(self) -> None:
        """Keys under those of the same user, all of which are here now."""
        for key_id, given_id in self._under:
            added = self.tx.execute(
                "INSERT INTO under (key_id, given_id) SELECT k.id, g.id FROM keys k "
                "JOIN keys g ON g.user_id = k.user_id WHERE k.id = ? AND g.id = ? AND k.id <> g.id",
                (key_id, given_id),
            ).rowcount
            if not added:
                raise _at("keys", f"{key_id} is under {given_id}, which is no key of its user")

    def _check(self) -> None:
        """As `verify` does: by its own functions."""
        first = min(self._entries, default=None)
        rows = self.tx.execute(f"{of_entries.ALL} WHERE e.id >= ? ORDER BY e.id", (first,)).fetchall() if first else ()
        for row in rows:
            for finding in of_entries.cause(self.tx, row):
                raise _at(self._entries[row["id"]], f"says {finding.stored}, not {finding.expected}")
        for row in self.tx.execute(derived.CLOSINGS).fetchall():
            raise _at(
                "entries",
                f"the closing entries of {row['name']} come to {dollars(row['closed_nano'])}, and what was pruned to "
                f"{dollars(row['charges_nano'] or 0)}: name what `llmgate export entries` and `llmgate export pruned` "
                "wrote in one command",
            )

    def _check_requests(self) -> None:
        """What the last rows say of themselves; some that were here already may be among them."""
        if not self._requests:
            return
        for finding in of_usage.rows(self.tx, min(self._requests) - 1, max(self._requests), of_usage.Prices()):
            number = finding.subject.removeprefix("usage ")
            where = self._requests.get(int(number)) if number.isdigit() else None
            if where is not None:
                raise _at(where, f"{finding.check}: says {finding.stored}, not {finding.expected}")
        self._requests = {}

    # how it is written

    def _account(self, kind: str, row: Fields) -> int:
        _one_of(row, "billing", ("metered", "prepaid"))
        _one_of(row, "billing_source", ("default", "credits", "hand"))
        number = self.tx.execute(
            "INSERT INTO accounts (kind, billing, billing_source) VALUES (?, ?, ?)",
            (kind, row["billing"], row["billing_source"]),
        ).lastrowid
        assert number is not None
        return number

    def _hang(self, kind: str, subject: str, row: Fields) -> None:
        given = [(text, None) for text in row["limits"]]
        for text, lead in [*given, *(row.get("led_limits") or {}).items()]:
            limit = _checked("limits", parse, str(text))
            self.tx.execute(
                "INSERT INTO limits (subject_kind, subject_id, unit, window, glob, amount, created_ms, set_by) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (kind, subject, *limit.slot, limit.amount, row["created_at"], lead),
            )

    def _id(self, table: str, field: str, row: Fields) -> int:
        number: int | None = self.tx.value(f"SELECT id FROM {table} WHERE name = ?", row[field])
        if number is None:
            raise Wrong(
                field, f"there is no {table[:-1]} {row[field]!r} here: import the {table} first, or in one command"
            )
        return number

    def _payer(self, row: Fields) -> int:
        kind, _, name = str(row["account"]).rpartition(":")
        table = "teams" if kind else "users"
        number: int | None = self.tx.value(f"SELECT account_id FROM {table} WHERE name = ?", name)
        if number is None:
            raise Wrong("account", f"there is no {row['account']!r} here: import the {table} first, or in one command")
        return number

    def _whose(self, row: Fields) -> dict[str, Any]:
        owner = self._id("users", "user", row)
        if self.tx.value("SELECT user_id FROM keys WHERE id = ?", row["key_id"]) != owner:
            raise Wrong("key_id", f"{row['user']} has no key {row['key_id']} here: import the keys first")
        team = self._id("teams", "team", row) if row["team"] is not None else None
        return {"account_id": self._payer(row), "user_id": owner, "team_id": team, "key_id": row["key_id"]}

    def _price(self, field: str, told: Any) -> int | None:
        """A price as its number here. None: charged at cost."""
        if told is None:
            return None
        text = json.dumps(told)
        if text not in self._prices:
            try:
                price = pricing.decode(text)
            except msgspec.DecodeError as error:
                raise Wrong(field, f"is no price: {error}") from error
            self._prices[text] = prices.intern(self.tx, price).id
        return self._prices[text]

    def _is_known(self, table: str, values: dict[str, Any]) -> bool:
        known = self.tx.one(f"SELECT rowid, * FROM {table} WHERE rowid = ?", values.get("rowid", values.get("id")))
        return known is not None and not _same(values, {name: known[name] for name in values})

    def _insert(self, table: str, values: Mapping[str, Any]) -> None:
        marks = ", ".join(f":{name}" for name in values)
        self.tx.execute(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})", dict(values))

    def _roll_up(self, whose: Mapping[str, Any], sums: Mapping[str, Any]) -> None:
        none = {"team_id": 0, "plan": ""}
        key = [none.get(name) if whose[name] is None else whose[name] for name in ROLLUP_KEY]
        self.tx.execute(_ROLL_UP, [*key, *(sums[name] for name in ROLLUP_SUMS)])

    def _move(self, account_id: int, nano: int) -> None:
        if abs(self._moved[account_id] + nano) > MAX_NANO:
            raise Wrong("amount_usd", "is more than a balance can hold")
        self._moved[account_id] += nano


KINDS: dict[str, Callable[[Arrival, Fields], bool]] = {
    "zone": Arrival.zone,
    "prices": Arrival.price,
    "teams": Arrival.team,
    "users": Arrival.user,
    "keys": Arrival.key,
    "pruned": Arrival.pruned,
    "usage": Arrival.request,
    "entries": Arrival.entry,
}
"""What is taken in, each after what it refers to."""

_USAGE_AS_TOLD = (
    *("id", "request_id", "plan", "model", "upstream", "upstream_model", "format", "endpoint", "status", "source"),
    *("http_status", "cost_source", "day", "duration_ms", "ttft_ms", "quota_tokens", "quota_glob", "quota_used"),
)
_USAGE_RENAMED = {"time_ms": "time", "cost_nano": "cost_usd", "charge_nano": "charge_usd", "hold_nano": "hold_usd"} | {
    "overage_nano": "overage_usd",
    "wasted_nano": "wasted_usd",
}
_ENTRY = {"id": "entry", "account_id": "account_id", "kind": "kind", "amount_nano": "amount_usd", "ref": "ref"} | {
    **{name: name for name in ("note", "actor", "reverses", "usage_id", "cause")},
    "expires_ms": "expires_at",
    "created_ms": "time",
    "charged_ms": "charged_at",
}
"""Column of the table → what the file calls it."""

_ROLL_UP = f"""
INSERT INTO rollups ({", ".join((*ROLLUP_KEY, *ROLLUP_SUMS))})
VALUES ({", ".join("?" for _ in (*ROLLUP_KEY, *ROLLUP_SUMS))})
ON CONFLICT DO UPDATE SET {", ".join(f"{name} = {name} + excluded.{name}" for name in ROLLUP_SUMS)}
"""


def _at(where: str, why: str) -> LlmgateError:
    return Refusal(f"{where}: {why}; nothing was imported", code="conflict")


def _same(row: Fields, known: Fields, called: Mapping[str, str] | None = None, but: tuple[str, ...] = ()) -> bool:
    """False, because nothing is to be added; raises Wrong where what is known differs."""
    for name, value in known.items():
        if name not in but and name in row and row[name] != value:
            field = (called or {}).get(name, name)
            raise Wrong(field, f"says {row[name]!r}, and is {value!r} here")
    return False


def _checked(field: str, check: Callable[..., Any], *values: Any) -> Any:
    try:
        return check(*values)
    except LlmgateError as error:
        raise Wrong(field, error.message) from error


def _one_of(row: Fields, field: str, allowed: tuple[str, ...]) -> None:
    if row[field] not in allowed:
        raise Wrong(field, f"says {row[field]!r}, not one of {', '.join(allowed)}")


def _within(row: Fields, fields: Iterable[str], least: int) -> None:
    for field in fields:
        if row[field] is not None and not least <= row[field] <= MAX_ID:
            raise Wrong(field, f"says {row[field]}, not {least} to {MAX_ID}")


def _hash(row: Fields, field: str) -> bytes | None:
    try:
        found = bytes.fromhex(row[field]) if row[field] is not None else None
    except ValueError:
        found = b""
    if found is not None and len(found) != 32:
        raise Wrong(field, "is no SHA-256 in hexadecimal")
    return found


def _text(value: Any) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()
