"""The tables, as an append-only list of migrations. A migration that has been released is never edited.

Units stand last in names: `_nano` is nano-USD, `_ms` is milliseconds since the epoch (UTC), `_tokens` tokens.
A column marked *derived* can be recomputed from the rest, and `verify` does.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from ..types import METERS

if TYPE_CHECKING:
    from sqlite_utils.db import Database as SqliteUtils

VERSION = 6
"""How many migrations there are: `PRAGMA user_version` of an up-to-date database."""

_METERS = "".join(f"  {name} INTEGER NOT NULL DEFAULT 0,\n" for name in METERS)

_FIRST = f"""
CREATE TABLE meta (
  key TEXT PRIMARY KEY,
  value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Who pays. One row per user and per team; which of them pays a request is fixed on its hold.
CREATE TABLE accounts (
  id INTEGER PRIMARY KEY,
  kind TEXT NOT NULL CHECK (kind IN ('user', 'team')),
  billing TEXT NOT NULL CHECK (billing IN ('metered', 'prepaid')),
  -- 'default': as new accounts are; 'credits': prepaid because credits came; 'hand': an admin said so.
  billing_source TEXT NOT NULL CHECK (billing_source IN ('default', 'credits', 'hand')),
  balance_nano INTEGER NOT NULL DEFAULT 0, -- derived: sum of entries - sum of charges
  held_nano INTEGER NOT NULL DEFAULT 0     -- derived: sum of the holds in flight
) STRICT;

CREATE TABLE teams (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  account_id INTEGER NOT NULL UNIQUE REFERENCES accounts (id),
  plan TEXT,
  created_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE users (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  account_id INTEGER NOT NULL UNIQUE REFERENCES accounts (id),
  team_id INTEGER REFERENCES teams (id),
  plan TEXT,
  email TEXT,
  status TEXT NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'disabled')),
  created_ms INTEGER NOT NULL
) STRICT;

-- Only the SHA-256 of a key is kept. After a rotation the old one may live on until grace_until_ms.
CREATE TABLE keys (
  id TEXT PRIMARY KEY,
  user_id INTEGER NOT NULL REFERENCES users (id),
  name TEXT NOT NULL,
  hash BLOB NOT NULL UNIQUE,
  prefix TEXT NOT NULL,
  grace_hash BLOB UNIQUE,
  grace_until_ms INTEGER,
  status TEXT NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'disabled', 'revoked')),
  models TEXT NOT NULL DEFAULT '[]',
  ips TEXT NOT NULL DEFAULT '[]',
  tags TEXT NOT NULL DEFAULT '{{}}',
  note TEXT,
  created_ms INTEGER NOT NULL,
  expires_ms INTEGER,
  last_used_ms INTEGER,
  UNIQUE (user_id, name)
) STRICT;

-- The ledger: money that was moved. What requests were charged is in `usage`.
CREATE TABLE entries (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  account_id INTEGER NOT NULL REFERENCES accounts (id),
  kind TEXT NOT NULL CHECK (kind IN ('add', 'take', 'reverse', 'refund', 'transfer', 'expire', 'payment', 'closing')),
  amount_nano INTEGER NOT NULL CHECK (amount_nano <> 0),
  ref TEXT UNIQUE,
  note TEXT,
  actor TEXT NOT NULL,
  reverses INTEGER UNIQUE REFERENCES entries (id),
  usage_id INTEGER,
  expires_ms INTEGER,
  created_ms INTEGER NOT NULL,
  hash BLOB NOT NULL
) STRICT;
CREATE INDEX entries_by_account ON entries (account_id, id);

CREATE TRIGGER entries_are_not_edited BEFORE UPDATE ON entries
BEGIN SELECT RAISE(ABORT, 'a ledger entry is never edited: reverse it'); END;
CREATE TRIGGER entries_are_not_deleted BEFORE DELETE ON entries
BEGIN SELECT RAISE(ABORT, 'a ledger entry is never deleted: reverse it'); END;

-- Prices as they were when something was costed by them.
CREATE TABLE prices (
  id INTEGER PRIMARY KEY,
  body TEXT NOT NULL UNIQUE
) STRICT;
CREATE TRIGGER prices_are_not_edited BEFORE UPDATE ON prices
BEGIN SELECT RAISE(ABORT, 'a price snapshot is never edited'); END;
CREATE TRIGGER prices_are_not_deleted BEFORE DELETE ON prices
BEGIN SELECT RAISE(ABORT, 'a price snapshot is never deleted'); END;

-- A process that places holds. Whether it lives is told by the lock on its file, which the kernel frees at its death.
CREATE TABLE workers (
  id TEXT PRIMARY KEY,
  pid INTEGER NOT NULL,
  host TEXT NOT NULL,
  started_ms INTEGER NOT NULL
) STRICT;

-- Limits that an admin hung on somebody; those of plans and defaults are in the config.
CREATE TABLE limits (
  subject_kind TEXT NOT NULL CHECK (subject_kind IN ('key', 'user', 'team')),
  subject_id TEXT NOT NULL,
  unit TEXT NOT NULL,
  window TEXT NOT NULL,
  glob TEXT NOT NULL,
  amount INTEGER, -- nano-USD or a count; null: unlimited
  created_ms INTEGER NOT NULL,
  PRIMARY KEY (subject_kind, subject_id, unit, window, glob)
) STRICT, WITHOUT ROWID;

-- Derived: how far a limit is used up in its window, from the usage rows and holds that were placed in it.
CREATE TABLE counters (
  id INTEGER PRIMARY KEY,
  subject_kind TEXT NOT NULL,
  subject_id TEXT NOT NULL,
  unit TEXT NOT NULL,
  window TEXT NOT NULL,
  glob TEXT NOT NULL,
  amount INTEGER NOT NULL, -- the limit as it last applied
  start_ms INTEGER NOT NULL,
  end_ms INTEGER NOT NULL,
  used INTEGER NOT NULL,
  held INTEGER NOT NULL,
  UNIQUE (subject_kind, subject_id, unit, window, glob)
) STRICT;

-- What is worth telling, each once: thresholds crossed, and the like.
CREATE TABLE events (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  time_ms INTEGER NOT NULL,
  kind TEXT NOT NULL,
  subject_kind TEXT NOT NULL,
  subject_id TEXT NOT NULL,
  about TEXT NOT NULL, -- what makes it the same event: it is told once
  message TEXT NOT NULL,
  UNIQUE (kind, subject_kind, subject_id, about)
) STRICT;

-- A request in flight. Its id becomes the id of its usage row, so that each hold has at most one outcome.
CREATE TABLE holds (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  request_id TEXT NOT NULL UNIQUE,
  worker_id TEXT NOT NULL REFERENCES workers (id),
  account_id INTEGER NOT NULL REFERENCES accounts (id),
  user_id INTEGER NOT NULL REFERENCES users (id),
  team_id INTEGER REFERENCES teams (id),
  key_id TEXT NOT NULL REFERENCES keys (id),
  plan TEXT,
  model TEXT NOT NULL,
  upstream TEXT NOT NULL,
  upstream_model TEXT NOT NULL,
  format TEXT NOT NULL,
  endpoint TEXT NOT NULL,
  streamed INTEGER NOT NULL,
  amount_nano INTEGER NOT NULL CHECK (amount_nano >= 0),
  bounded INTEGER NOT NULL, -- 1: the account's money can run out, so the charge must stay within the amount
  input_estimate INTEGER NOT NULL,
  input_hold INTEGER NOT NULL,  -- tokens set aside for limits
  output_hold INTEGER NOT NULL,
  names TEXT, -- JSON: every name that the model goes by, where they don't follow from model and upstream
  cost_price_id INTEGER NOT NULL REFERENCES prices (id),
  charge_price_id INTEGER REFERENCES prices (id), -- null: charged at cost
  cost_source TEXT NOT NULL,
  tags TEXT NOT NULL,
  day TEXT NOT NULL,
  placed_ms INTEGER NOT NULL
) STRICT;

-- One row per request that reached an upstream. A settled row is the charge.
CREATE TABLE usage (
  id INTEGER PRIMARY KEY,
  request_id TEXT NOT NULL UNIQUE,
  account_id INTEGER NOT NULL REFERENCES accounts (id),
  user_id INTEGER NOT NULL REFERENCES users (id),
  team_id INTEGER REFERENCES teams (id),
  key_id TEXT NOT NULL REFERENCES keys (id),
  plan TEXT,
  model TEXT NOT NULL,
  upstream TEXT NOT NULL,
  upstream_model TEXT NOT NULL,
  format TEXT NOT NULL,
  endpoint TEXT NOT NULL,
  names TEXT, -- as on the hold
  streamed INTEGER NOT NULL,
  status TEXT NOT NULL CHECK (status IN ('ok', 'error', 'cancelled', 'interrupted')),
  source TEXT NOT NULL CHECK (source IN ('upstream', 'estimated')),
  http_status INTEGER,
{_METERS}
  cost_nano INTEGER NOT NULL CHECK (cost_nano >= 0),
  charge_nano INTEGER NOT NULL CHECK (charge_nano >= 0),
  cost_source TEXT NOT NULL CHECK (cost_source IN ('catalogue', 'config', 'upstream')),
  cost_price_id INTEGER NOT NULL REFERENCES prices (id),
  charge_price_id INTEGER REFERENCES prices (id), -- null: charged at cost
  hold_nano INTEGER NOT NULL,
  bounded INTEGER NOT NULL,
  overrun INTEGER NOT NULL,
  day TEXT NOT NULL,
  time_ms INTEGER NOT NULL, -- when the hold was placed: decides the day and every window
  duration_ms INTEGER NOT NULL,
  ttft_ms INTEGER
) STRICT;
CREATE INDEX usage_by_time ON usage (time_ms);
CREATE INDEX usage_by_user ON usage (user_id, time_ms);

CREATE TABLE usage_tags (
  usage_id INTEGER NOT NULL REFERENCES usage (id),
  name TEXT NOT NULL,
  value TEXT NOT NULL,
  PRIMARY KEY (usage_id, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX usage_tags_by_value ON usage_tags (name, value, usage_id);

-- Derived: the sums of `usage` per day and whom and what, as they were at the time. Reports read these.
CREATE TABLE rollups (
  day TEXT NOT NULL,
  account_id INTEGER NOT NULL,
  user_id INTEGER NOT NULL,
  team_id INTEGER NOT NULL, -- 0: none
  key_id TEXT NOT NULL,
  plan TEXT NOT NULL,       -- '': none
  model TEXT NOT NULL,
  upstream TEXT NOT NULL,
  requests INTEGER NOT NULL,
  errors INTEGER NOT NULL,
{_METERS}
  cost_nano INTEGER NOT NULL,
  charge_nano INTEGER NOT NULL,
  sealed INTEGER NOT NULL DEFAULT 0, -- 1: its usage rows were pruned, so it is a fact from now on
  PRIMARY KEY (day, account_id, user_id, team_id, key_id, plan, model, upstream)
) STRICT, WITHOUT ROWID;

-- What admins did, written in the same transaction as the deed.
CREATE TABLE audit (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  time_ms INTEGER NOT NULL,
  actor TEXT NOT NULL,
  action TEXT NOT NULL,
  target TEXT NOT NULL,
  before TEXT,
  after TEXT
) STRICT;
"""


def _statements(script: str) -> list[str]:
    """A script's statements one by one: `executescript` would commit the transaction that the migration runs in."""
    found, pending = [], ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            found.append(pending)
            pending = ""
    return found


def _run(db: SqliteUtils, script: str) -> None:
    for statement in _statements(script):
        db.execute(statement)


def first(db: SqliteUtils) -> None:
    """Users, keys, ledger, holds, usage, roll-ups."""
    _run(db, _FIRST)
    db.execute("INSERT INTO meta (key, value) VALUES ('zone', 'UTC')")


_SECOND = f"""
-- A plan's included tokens, and what each one past them is charged; all null: the plan has no such terms.
ALTER TABLE holds ADD COLUMN quota_tokens INTEGER;
ALTER TABLE holds ADD COLUMN quota_glob TEXT;
ALTER TABLE holds ADD COLUMN overage_nano INTEGER; -- nano-USD per token
ALTER TABLE holds ADD COLUMN bound_tokens INTEGER; -- the most that the request may use of them
ALTER TABLE holds ADD COLUMN overage_held_nano INTEGER NOT NULL DEFAULT 0; -- the part of amount_nano that is for them
ALTER TABLE usage ADD COLUMN quota_tokens INTEGER;
ALTER TABLE usage ADD COLUMN quota_glob TEXT;
ALTER TABLE usage ADD COLUMN quota_used INTEGER;   -- how many were used before this request was settled
ALTER TABLE usage ADD COLUMN overage_nano INTEGER;

CREATE TRIGGER usage_is_not_edited BEFORE UPDATE ON usage
BEGIN SELECT RAISE(ABORT, 'a usage row is never edited: credits add or take what was wrong'); END;

-- Rows go only where another takes their place in the same transaction, which says so in `meta`.
CREATE TRIGGER usage_is_not_deleted BEFORE DELETE ON usage
WHEN NOT EXISTS (SELECT 1 FROM meta WHERE key = 'withdrawing')
BEGIN SELECT RAISE(ABORT, 'a usage row is never deleted: credits add or take what was wrong'); END;

-- Tries that an upstream billed and that nobody got anything from: what they cost the house; nobody is charged.
CREATE TABLE attempts (
  id INTEGER PRIMARY KEY,
  usage_id INTEGER NOT NULL, -- the request's row, which may be written anew
  upstream TEXT NOT NULL,
  upstream_model TEXT NOT NULL,
  http_status INTEGER,
  source TEXT NOT NULL CHECK (source IN ('upstream', 'estimated')),
{_METERS}
  cost_nano INTEGER NOT NULL CHECK (cost_nano >= 0),
  cost_source TEXT NOT NULL CHECK (cost_source IN ('catalogue', 'config', 'upstream')),
  cost_price_id INTEGER NOT NULL REFERENCES prices (id)
) STRICT;
CREATE INDEX attempts_by_usage ON attempts (usage_id);
ALTER TABLE usage ADD COLUMN wasted_nano INTEGER NOT NULL DEFAULT 0;   -- the sum of its attempts' cost
ALTER TABLE rollups ADD COLUMN wasted_nano INTEGER NOT NULL DEFAULT 0;

-- The entry that another follows from: the grant that expired, the half of a transfer that gave.
ALTER TABLE entries ADD COLUMN cause INTEGER REFERENCES entries (id);
CREATE INDEX entries_by_cause ON entries (cause) WHERE cause IS NOT NULL;
CREATE INDEX entries_by_usage ON entries (usage_id) WHERE usage_id IS NOT NULL;

-- Derived: when the next credits of an account expire, or earlier; null: none do.
ALTER TABLE accounts ADD COLUMN expires_next_ms INTEGER;

-- What answers have made at an upstream, under the admin's one account there: where it lies, and whose it is.
CREATE TABLE objects (
  id TEXT PRIMARY KEY,
  account_id INTEGER NOT NULL REFERENCES accounts (id),
  upstream TEXT NOT NULL,
  upstream_model TEXT NOT NULL,
  model TEXT NOT NULL,
  created_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What an account was charged in a span, from the index alone: histories, and which credits are left to expire.
CREATE INDEX usage_by_account ON usage (account_id, time_ms, charge_nano);
"""


def second(db: SqliteUtils) -> None:
    """Overage, credits that expire, attempts that were billed in vain, what requests made at upstreams."""
    _run(db, _SECOND)


_THIRD = """
-- What admins say of prices: each holds from its moment until the next of the same kind, upstream and model.
CREATE TABLE set_prices (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  kind TEXT NOT NULL CHECK (kind IN ('charge', 'cost')),
  upstream TEXT NOT NULL, -- '': whichever serves the model
  model TEXT NOT NULL COLLATE NOCASE,
  price_id INTEGER REFERENCES prices (id), -- null: from then on none is set
  from_ms INTEGER NOT NULL,
  actor TEXT NOT NULL,
  UNIQUE (kind, upstream, model, from_ms)
) STRICT;
CREATE INDEX set_prices_by_time ON set_prices (from_ms);
CREATE TRIGGER set_prices_are_not_edited BEFORE UPDATE ON set_prices
BEGIN SELECT RAISE(ABORT, 'a price is never edited: set another one from a later moment'); END;

-- A price catalogue that is used instead of the installed one, compressed; at most one.
CREATE TABLE catalogues (
  edition TEXT PRIMARY KEY, -- SHA-256 of the text
  body BLOB NOT NULL,
  source TEXT NOT NULL,
  added_ms INTEGER NOT NULL
) STRICT;

-- Counts the changes of both: who has looked a price up knows by it whether that still holds.
INSERT INTO meta (key, value) VALUES ('prices', '0');
"""


def third(db: SqliteUtils) -> None:
    """Prices that admins set, and newer catalogues."""
    _run(db, _THIRD)


_FOURTH = f"""
-- What pruned usage rows came to, per day and whom and what: facts that stand in their place. `rollups` sums up both,
-- so that none of them is ever sealed. Limits that mean some models only need all the names.
CREATE TABLE pruned (
  day TEXT NOT NULL,
  account_id INTEGER NOT NULL REFERENCES accounts (id),
  user_id INTEGER NOT NULL REFERENCES users (id),
  team_id INTEGER NOT NULL, -- 0: none
  key_id TEXT NOT NULL REFERENCES keys (id),
  plan TEXT NOT NULL,       -- '': none
  model TEXT NOT NULL,
  upstream TEXT NOT NULL,
  upstream_model TEXT NOT NULL,
  names TEXT,               -- as on the rows
  requests INTEGER NOT NULL,
  errors INTEGER NOT NULL,
{_METERS}
  cost_nano INTEGER NOT NULL,
  charge_nano INTEGER NOT NULL,
  wasted_nano INTEGER NOT NULL
) STRICT;
CREATE INDEX pruned_by_user ON pruned (user_id, day);
CREATE INDEX pruned_by_day ON pruned (day);
CREATE TRIGGER pruned_is_not_edited BEFORE UPDATE ON pruned
BEGIN SELECT RAISE(ABORT, 'what was pruned is never edited'); END;
CREATE TRIGGER pruned_is_not_deleted BEFORE DELETE ON pruned
BEGIN SELECT RAISE(ABORT, 'what was pruned is never deleted'); END;

-- Of a closing entry: when the charges were made that it stands for. Which credits they used follows from that.
ALTER TABLE entries ADD COLUMN charged_ms INTEGER;
CREATE INDEX entries_by_charge ON entries (account_id, charged_ms, amount_nano) WHERE charged_ms IS NOT NULL;
"""


def fourth(db: SqliteUtils) -> None:
    """Usage rows that are pruned."""
    _run(db, _FOURTH)


_FIFTH = """
-- Who may use the admin API. Only the SHA-256 of an admin key is kept.
CREATE TABLE admins (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  scope TEXT NOT NULL CHECK (scope IN ('read', 'keys', 'credits', 'all')),
  hash BLOB NOT NULL UNIQUE,
  prefix TEXT NOT NULL,
  status TEXT NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'revoked')),
  created_ms INTEGER NOT NULL,
  last_used_ms INTEGER
) STRICT;

-- What a POST of the admin API was answered that had an Idempotency-Key, for a day. Sealed with the admin key, because
-- an answer may hold a key that was issued: whoever has the file can't read it.
CREATE TABLE answers (
  admin BLOB NOT NULL, -- the hash of the admin key
  key TEXT NOT NULL,
  request BLOB NOT NULL, -- SHA-256 of what was asked
  status INTEGER NOT NULL,
  salt BLOB NOT NULL,
  body BLOB NOT NULL,
  created_ms INTEGER NOT NULL,
  PRIMARY KEY (admin, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX answers_by_time ON answers (created_ms);

-- The schema that a worker knows; null: an older one.
ALTER TABLE workers ADD COLUMN schema INTEGER;
"""


def fifth(db: SqliteUtils) -> None:
    """Admin keys, and what they were answered; which schema a worker knows."""
    _run(db, _FIFTH)


_OF_KEYS = "id, user_id, name, hash, grace_hash, grace_until_ms, status, models, ips, tags, expires_ms"
_CHANGES = (
    *("UPDATE ON meta WHEN new.key IN ('zone', 'prices')", f"UPDATE OF {_OF_KEYS} ON keys", "DELETE ON keys"),
    *("UPDATE ON users", "DELETE ON users", "UPDATE ON teams", "DELETE ON teams"),
    *("UPDATE OF id, kind, billing, billing_source ON accounts", "INSERT ON counters"),
    *("INSERT ON limits", "UPDATE ON limits", "DELETE ON limits", "INSERT ON under", "DELETE ON under"),
    *("INSERT ON set_prices", "DELETE ON set_prices"),
)
_KEPT = "".join(
    f"CREATE TRIGGER kept_{number} AFTER {change}\nBEGIN UPDATE meta SET value = value + 1 WHERE key = 'kept'; END;\n"
    for number, change in enumerate(_CHANGES)
)

_SIXTH = f"""
-- Who is signed in with a browser: a user, or whoever holds an admin key. Only the SHA-256 of the cookie is kept. A
-- session ends with what it was made by: the key (by its id, so that a rotation ends nothing), or the admin
-- key (by its hash).
CREATE TABLE sessions (
  hash BLOB PRIMARY KEY,
  user_id INTEGER REFERENCES users (id),
  key_id TEXT REFERENCES keys (id),
  admin_hash BLOB,
  way TEXT NOT NULL CHECK (way IN ('key', 'link', 'oidc')),
  address TEXT NOT NULL,
  created_ms INTEGER NOT NULL,
  seen_ms INTEGER NOT NULL,
  expires_ms INTEGER NOT NULL,
  CHECK ((user_id IS NULL) <> (admin_hash IS NULL))
) STRICT, WITHOUT ROWID;
CREATE INDEX sessions_by_user ON sessions (user_id);
CREATE INDEX sessions_by_end ON sessions (expires_ms);

-- Links that sign a user in, once. Only the SHA-256 of their secret is kept.
CREATE TABLE links (
  hash BLOB PRIMARY KEY,
  user_id INTEGER NOT NULL REFERENCES users (id),
  created_ms INTEGER NOT NULL,
  expires_ms INTEGER NOT NULL,
  used_ms INTEGER
) STRICT, WITHOUT ROWID;

-- Who somebody is here whom an issuer of identities vouches for.
CREATE TABLE identities (
  issuer TEXT NOT NULL,
  subject TEXT NOT NULL,
  user_id INTEGER NOT NULL REFERENCES users (id),
  email TEXT,
  created_ms INTEGER NOT NULL,
  PRIMARY KEY (issuer, subject)
) STRICT, WITHOUT ROWID;
CREATE INDEX identities_by_user ON identities (user_id);

-- Who asked for a key, or to be a user (issuer and subject are given then), by itself. The key is made when the asker
-- comes for it with the secret of the request, of which only the SHA-256 is kept.
CREATE TABLE requests (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  username TEXT NOT NULL,
  note TEXT,
  address TEXT NOT NULL,
  hash BLOB UNIQUE,
  issuer TEXT,
  subject TEXT,
  email TEXT,
  status TEXT NOT NULL CHECK (status IN ('waiting', 'approved', 'denied', 'done')),
  key_id TEXT REFERENCES keys (id),
  decided_by TEXT,
  created_ms INTEGER NOT NULL,
  decided_ms INTEGER
) STRICT;
CREATE INDEX requests_by_address ON requests (address, created_ms);
CREATE INDEX requests_by_name ON requests (username COLLATE NOCASE, created_ms);
CREATE INDEX requests_waiting ON requests (id) WHERE status = 'waiting';

-- The team that a user leads; null: none.
ALTER TABLE users ADD COLUMN leads_team_id INTEGER REFERENCES teams (id);

-- The last four characters of a key, for its owner to recognise it by (they are of its checksum); null: issued before.
ALTER TABLE keys ADD COLUMN suffix TEXT;

-- Whose limits hold for a key besides its own: what a user made for itself is under those of the keys that the admin
-- gave, and what it uses counts there, so that ten keys have no more than one.
CREATE TABLE under (
  key_id TEXT NOT NULL REFERENCES keys (id),
  given_id TEXT NOT NULL REFERENCES keys (id),
  PRIMARY KEY (key_id, given_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX under_given ON under (given_id);

-- The lead of a team who set a limit; null: an admin. A lead's never replaces or loosens what an admin said.
ALTER TABLE limits ADD COLUMN set_by TEXT;

-- Counts the changes of what a daemon keeps from one transaction to the next (`group`): by it, it knows whether that
-- still holds although others have written. Who may do what, and at which prices; no balance, nothing that is counted.
INSERT INTO meta (key, value) VALUES ('kept', '0');
{_KEPT}"""


def sixth(db: SqliteUtils) -> None:
    """What people do with a browser: sessions, links, identities, requests for keys, team leads."""
    _run(db, _SIXTH)


MIGRATIONS = (first, second, third, fourth, fifth, sixth)


def apply(conn: sqlite3.Connection) -> None:
    """Apply what is missing, inside the caller's transaction. sqlite-utils is only imported when there is something."""
    from sqlite_utils.db import Database as SqliteUtils
    from sqlite_utils.migrations import Migrations

    migrations = Migrations("llmgate")
    for step in MIGRATIONS:
        migrations(name=step.__name__)(step)
    migrations.apply(SqliteUtils(conn))
