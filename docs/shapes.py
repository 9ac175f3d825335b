"""What every command writes with --json: docs/json.md shows it, and a test reads what commands write by it.

A command's fields are its columns; of what kind they are follows from the column, what they mean stands in `MEANS`.
A new command gets a line in `WRITES` (or in `NOTHING`), and a meaning for each field that no other command has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Annotated, Any, NamedTuple

import msgspec

from llmgate.cli import (
    admins,
    audit,
    changes,
    database,
    doctor,
    events,
    export,
    importing,
    init,
    keys,
    limits,
    models,
    plans,
    prices,
    report,
    requests,
    teams,
    upstreams,
    usage,
    users,
    verify,
)
from llmgate.cli import config as config_
from llmgate.cli import credits as credits_
from llmgate.cli.columns import Column, Kind
from llmgate.errors import CODES
from llmgate.store.reports import GROUPS
from llmgate.types import METERS


class Type(NamedTuple):
    """What docs call it, and what msgspec takes for it."""

    told: str
    of: Any


TEXT, WHOLE, NUMBER, FLAG = Type("string", str), Type("integer", int), Type("number", float), Type("boolean", bool)
USD = Type("usd", Annotated[str, msgspec.Meta(pattern=r"^-?[0-9]+(\.[0-9]+)?$")])
TIME = Type("time", Annotated[str, msgspec.Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}\.[0-9]{3}Z$")])
HOUR = Type("time", Annotated[str, msgspec.Meta(pattern=r"^([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}\.[0-9]{3}Z|others)$")])
DAY = Type("day", Annotated[str, msgspec.Meta(pattern=r"^([0-9]{4}-[0-9]{2}-[0-9]{2}|others)$")])
MONTH = Type("month", Annotated[str, msgspec.Meta(pattern=r"^([0-9]{4}-[0-9]{2}|others)$")])


def several(one: Type) -> Type:
    return Type(f"array of {one.told}", list[one.of])  # type: ignore[name-defined]


def named(one: Type) -> Type:
    return Type(f"object of {one.told}", dict[str, one.of])  # type: ignore[name-defined]


KINDS = {
    Kind.TEXT: TEXT,
    Kind.WORD: TEXT,
    Kind.STATE: TEXT,
    Kind.ID: WHOLE,
    Kind.NUMBER: WHOLE,
    Kind.MONEY: USD,
    Kind.PERCENT: NUMBER,
    Kind.FIGURE: USD,
    Kind.TIME: TIME,
    Kind.LIST: several(TEXT),
    Kind.MAP: named(TEXT),
    Kind.FLAG: FLAG,
}

TYPES = {
    "keys.id": TEXT,
    "limits.used": Type("integer or usd", int | USD.of),
    "limits.held": Type("integer or usd", int | USD.of),
    "limits.remaining": Type("integer or usd", int | USD.of),
    "prices.price": named(USD),
    "changes.before": named(USD),
    "changes.after": named(USD),
    "audit.before": Type("object", dict[str, Any]),
    "audit.after": Type("object", dict[str, Any]),
    "pruned.before": DAY,
    "pruned.first_day": DAY,
    "pruned.last_day": DAY,
    "stats.oldest_day": DAY,
    "stats.rows": named(WHOLE),
    "stats.bytes": named(WHOLE),
    "exported keys.id": TEXT,
    "exported usage.meters": named(WHOLE),
    "exported usage.cost_price": Type("object", dict[str, Any]),
    "exported prices.price": Type("object", dict[str, Any]),
    "exported usage.charge_price": Type("object", dict[str, Any]),
    "exported usage.attempts": Type("array of object", list[dict[str, Any]]),
    "exported usage.day": DAY,
    "pruned sums.day": DAY,
    "upstreams.timeout": named(NUMBER),
    "report.hour": HOUR,
    "report.day": DAY,
    "report.week": DAY,
    "report.month": MONTH,
}
"""Where the column's kind doesn't say it."""

SETS: dict[str, Sequence[Column]] = {
    "keys": keys.ISSUED,
    "users": users.DETAILS,
    "link": users.LINK,
    "identities": users.IDENTITIES,
    "signed out": users.SIGNED_OUT,
    "teams": teams.DETAILS,
    "credits": credits_.DETAILS,
    "moved": dict.fromkeys((*credits_.MOVED, *credits_.REFUNDED, *credits_.BOTH)),  # type: ignore[dict-item]
    "entries": dict.fromkeys((*export.ENTRIES, *credits_.ENTRIES)),  # type: ignore[dict-item]
    "requests": requests.COLUMNS,
    "admins": admins.MADE,
    "limits": limits.COLUMNS,
    "plans": plans.COLUMNS,
    "upstreams": upstreams.COLUMNS,
    "checked upstreams": upstreams.CHECKED,
    "models": models.COLUMNS,
    "explained": models.PRICED,
    "lines": models.LINES,
    "prices": prices.COLUMNS,
    "rates": prices.RATES,
    "changes": changes.COLUMNS,
    "report": dict.fromkeys(  # type: ignore[dict-item]
        (
            *(Column(name, Kind.TIME if name == "hour" else Kind.WORD) for name in GROUPS),
            *report.COMPARED,
            *report.RERATED,
        )
    ),
    "usage": usage.COLUMNS,
    "events": events.COLUMNS,
    "findings": [column for column in verify.COLUMNS if column.name != "repaired"],
    "repaired": [Column("check"), Column("subject"), Column("before"), Column("after")],
    "checks": [column for column in doctor.COLUMNS if column.name != "problem"],
    "problems": [column for column in doctor.COLUMNS if column.name != "status"],
    "audit": audit.COLUMNS,
    "written config": init.COLUMNS,
    "paths": config_.PATHS,
    "stats": (*database.STATS, *database.MAPS),
    "backup": database.BACKUP,
    "restored": database.RESTORED,
    "migrated": database.MIGRATED,
    "zone": database.ZONE,
    "pruned": database.PRUNED,
    "exported usage": export.USAGE,
    "exported users": export.USERS,
    "exported teams": export.TEAMS,
    "exported keys": export.KEYS,
    "pruned sums": export.PRUNED,
    "exported zone": export.ZONE,
    "exported prices": export.PRICES,
    "imported": importing.COLUMNS,
}
"""Fields that some commands share."""


class Writes(NamedTuple):
    """What a command writes: one object or an array of them, of the fields of a set."""

    fields: str
    many: bool = False
    but: tuple[str, ...] = ()
    """Fields of the set that it doesn't have."""
    some: tuple[str, ...] = ()
    """Fields that depend on how it is called."""


def _without(fields: str, columns: Iterable[Column]) -> tuple[str, ...]:
    kept = {column.name for column in columns}
    return tuple(column.name for column in SETS[fields] if column.name not in kept)


KEY = Writes("keys", but=_without("keys", keys.COLUMNS))
USER = Writes("users", but=_without("users", users.COLUMNS))
TEAM = Writes("teams", but=_without("teams", teams.COLUMNS))
ADMIN = Writes("admins", but=_without("admins", admins.COLUMNS))
MOVED = Writes("moved", but=_without("moved", credits_.MOVED))

WRITES: dict[str, Writes] = {
    "keys list": KEY._replace(many=True),
    "keys show": KEY,
    "keys add": Writes("keys"),
    "keys set": KEY,
    "keys rotate": Writes("keys"),
    "keys disable": KEY,
    "keys enable": KEY,
    "keys revoke": KEY,
    "admins list": ADMIN._replace(many=True),
    "admins add": Writes("admins"),
    "admins revoke": ADMIN,
    "requests list": Writes("requests", many=True),
    "requests approve": Writes("requests", many=True),
    "requests deny": Writes("requests", many=True),
    "users list": USER._replace(many=True),
    "users show": Writes("users"),
    "users add": USER,
    "users set": USER,
    "users disable": USER,
    "users enable": USER,
    "users link": Writes("link"),
    "users signout": Writes("signed out"),
    "users identities": Writes("identities", many=True),
    "teams list": TEAM._replace(many=True),
    "teams show": Writes("teams"),
    "teams add": TEAM,
    "teams set": TEAM,
    "credits list": Writes("credits", many=True, but=_without("credits", credits_.COLUMNS)),
    "credits show": Writes("credits"),
    "credits add": MOVED,
    "credits take": MOVED,
    "credits reverse": Writes("moved", but=("usage_id",), some=_without("moved", credits_.MOVED)),
    "credits refund": Writes("moved", but=_without("moved", credits_.REFUNDED)),
    "credits transfer": Writes("moved", but=_without("moved", credits_.BOTH)),
    "credits history": Writes("entries", many=True, but=_without("entries", credits_.ENTRIES)),
    "export entries": Writes("entries", many=True, but=_without("entries", export.ENTRIES)),
    "limits list": Writes("limits", many=True),
    "limits set": Writes("limits", many=True),
    "limits remove": Writes("limits", many=True, but=_without("limits", limits.GONE)),
    "plans list": Writes("plans", many=True),
    "plans show": Writes("plans"),
    "upstreams list": Writes("upstreams", many=True),
    "upstreams check": Writes("checked upstreams", many=True),
    "models list": Writes("models", many=True),
    "models price": Writes("explained"),
    "prices list": Writes("prices", many=True),
    "prices set": Writes("prices"),
    "prices remove": Writes("prices", many=True, but=_without("prices", prices.GONE)),
    "prices show": Writes("explained price"),
    "prices import": Writes("changes", many=True),
    "prices diff": Writes("changes", many=True),
    "prices update": Writes("changes", many=True),
    "report": Writes(
        "report",
        many=True,
        some=(*GROUPS, *_without("report", report.RERATED), "rerated_usd", "difference_usd", "unpriced"),
    ),
    "usage": Writes("usage", many=True),
    "export usage": Writes("exported usage", many=True),
    "export users": Writes("exported users", many=True),
    "export teams": Writes("exported teams", many=True),
    "export keys": Writes("exported keys", many=True),
    "export pruned": Writes("pruned sums", many=True),
    "export zone": Writes("exported zone", many=True),
    "export prices": Writes("exported prices", many=True),
    "import": Writes("imported"),
    "top": Writes("now"),
    "invoice": Writes("invoice"),
    "events": Writes("events", many=True),
    "verify": Writes("verified", some=("repaired",)),
    "doctor": Writes("examined"),
    "audit": Writes("audit", many=True),
    "init": Writes("written config"),
    "config check": Writes("checked config"),
    "config path": Writes("paths"),
    "db stats": Writes("stats"),
    "db backup": Writes("backup"),
    "db restore": Writes("restored"),
    "db prune": Writes("pruned"),
    "db migrate": Writes("migrated"),
    "db set-zone": Writes("zone"),
}

NOTHING = {
    "config show": "the config as an object, like llmgate.toml; numbers with a point are strings",
    "config example": "TOML: what matters of it is in comments",
    "demo": "a story, and no data",
    "serve": "its log, to stderr; JSON by `[log] format`",
    "help": "text",
}
"""What writes no such data, and what it writes instead."""

# fmt: off
MEANS: dict[str, str] = {
    "account": "who pays: a user, or team:NAME",
    "action": "what was done: noun.verb",
    "actor": "who did it",
    "address": "where it came from; of IPv6 the network",
    "after": "what was changed, as it is now",
    "amount_usd": "what was added; negative: taken",
    "ask_usage": "whether streams are asked for their usage",
    "auth": "how the secret is sent",
    "available_usd": "the balance less what is held",
    "backup": "the file of the copy",
    "balance_usd": "the balance of the account that pays",
    "base_url": "? where it is",
    "became_prepaid": "whether these credits made the account prepaid",
    "before": "what was changed, as it was",
    "billing": "metered or prepaid",
    "bind": "where it listens",
    "ca_file": "? the authorities that it is trusted by",
    "cache_write_tokens": "of the input, those written to a cache",
    "cached_input_usd": "? charged per 1M input tokens read from a cache",
    "cached_tokens": "of the input, those read from a cache",
    "catalogue": "? its name in the list of vendors' prices",
    "cause": "? the entry or request that it follows from",
    "change": "added, changed or gone",
    "charge_before_usd": "the charge of the period before",
    "charge_from": "? who says so",
    "charge_usd": "what accounts pay",
    "charged_usd": "what requests were charged since the entry before",
    "check": "what was looked at",
    "config": "? the file of the config",
    "cost": "? what it bills, where the config says so",
    "cost_before_usd": "the cost of the period before",
    "cost_from": "? who says so",
    "cost_source": "who said what it costs: catalogue, config or upstream",
    "cost_usd": "what the upstream bills",
    "created_at": "when it was made",
    "credits_usd": "? what the upstream says is left there",
    "database": "the file of the database",
    "decided_at": "? when it was decided",
    "decided_by": "? who approved or denied it",
    "derived": "whether it follows from the rest, so that --repair can mend it",
    "difference_usd": "the charge less that of before; with --prices, the new sum less the charge",
    "duration_ms": "milliseconds from the first byte in to the last one out",
    "email": "? where to write to",
    "entry": "the number of the entry",
    "errors": "requests that failed at the upstream",
    "existing": "whether there is a user of that name, whose the key would be",
    "expected": "what follows from the facts",
    "expires_at": "? when it ends",
    "expiring_usd": "? how much of the balance ends then",
    "format": "the dialect: openai, anthropic or gemini",
    "formats": "the dialects that it speaks",
    "free": "whether it costs nothing",
    "from": "what it was before",
    "from_at": "from when on it holds",
    "hash": "SHA-256 over the entry and the hash of the one before",
    "headers": "the names of the headers that are added",
    "health": "? where it says that it is ready",
    "held": "what requests in flight hold of it",
    "held_usd": "what requests in flight hold",
    "hour": "? when the hour began (--by hour)",
    "http_status": "? what the client got",
    "id": "its number",
    "identify": "whether it is told who asks",
    "input_tokens": "all input, cached included",
    "input_usd": "? charged per 1M input tokens",
    "ips": "the networks that it is held to; empty: any",
    "kept": "? where the replaced one is",
    "key": "USER/NAME",
    "keys": "USER/NAME of each",
    "kind": "what it is",
    "last_used_at": "? when it was sent last",
    "latency_ms": "? how long the answer took",
    "leads": "? the team that the user leads",
    "led_limits": "limits that the lead of a team has set, and who that is",
    "left_usd": "? what is left of credits that expire",
    "limit": "as it is written",
    "limits": "of each user of the plan",
    "lines": "what the amounts are made of",
    "members": "how many users",
    "message": "what happened, in words",
    "meter": "what is counted, or total",
    "model": "the name that was asked for",
    "models": "the models that match; empty: all",
    "month": "? the month (--by month)",
    "name": "its name",
    "note": "? a word of the admin's",
    "of": "cost or charge",
    "on_disconnect": "cancel or drain",
    "other": "? the other account of a transfer",
    "other_account": "the other account of a transfer",
    "other_balance_usd": "its balance",
    "other_entry": "its entry",
    "output_tokens": "all output, reasoning included",
    "output_usd": "? charged per 1M output tokens",
    "overage_usd": "? per token past those included; null: refused past them",
    "overrun": "whether it was charged more than was held",
    "payer": "? the account that pays this user's requests now; null: a team's account",
    "pays_for": "the users whose requests it pays",
    "per": "? what the rate is for",
    "percent": "? the difference in percent; null: nothing was before",
    "plan": "? its plan",
    "prefix": "how the key begins",
    "preset": "? the known upstream that it is",
    "price": "price key → USD per its unit",
    "price_usd": "per month",
    "problem": "what is wrong, and how to mend it",
    "problems": "what is wrong, and how to mend it",
    "proxy": "? the proxy on the way to it",
    "quantity": "? how many",
    "query": "the names of the query parameters that are added",
    "rate_usd": "? USD per its unit",
    "reasoning_tokens": "of the output, what the model thought",
    "ref": "? of the admin's: the same twice does it once",
    "remaining": "what is left",
    "removed": "older copies that were removed",
    "repeated": "whether the same --ref did it before, and nothing was done now",
    "request_id": "as the answer's x-request-id has it",
    "requests": "requests that reached an upstream",
    "requests.email": "? of who wants to be a user, as the issuer says who vouches for it",
    "requests.key": "? USER/NAME of the key that was made",
    "requests.note": "? what the asker says",
    "requests.status": "waiting, approved (its key wasn't fetched yet), denied or done",
    "requests.user": "the name that was asked for",
    "requests_before": "those of the period before",
    "rerated_usd": "what they would have been charged by the other prices",
    "resets_at": "? when the window ends; null: never",
    "reverses": "? the entry that it undoes",
    "reversed_by": "? the entry that has reversed it since (only where --ref is repeated)",
    "schema": "the version of the tables",
    "secret": "the variables that its secret comes from",
    "secret_set": "? whether they are set; null: it needs none",
    "size_bytes": "its size, in bytes",
    "source": "where the tokens are known from: upstream or estimated",
    "status": "how it stands",
    "stored": "what the database says",
    "streamed": "whether it was a stream",
    "subject": "which one",
    "suffix": "? how the key ends",
    "tag": "? NAME=VALUE (--by tag); null: requests without any",
    "tags": "name → value",
    "target": "whom or what it is about",
    "team": "? its team",
    "time": "when it was",
    "timeout": "seconds: connect, first_byte, idle, total",
    "tls_days_left": "? whole days until its certificate ends",
    "tls_ends_at": "? when its certificate ends",
    "to": "what it is now",
    "tokens": "input and output",
    "tokens_before": "those of the period before",
    "ttft_ms": "? milliseconds to the first token; null: none came",
    "under": "the keys whose limits hold for it too",
    "unpriced": "requests that the other prices don't name: they keep their charge",
    "until_at": "? until when it holds; null: for good",
    "upstream": "who answers, or answered",
    "upstream_model": "the name that the upstream calls it by",
    "upstreams": "who answers",
    "usage_id": "? the request that is refunded",
    "used": "how far it is used up, in its unit",
    "user": "the user",
    "user_added": "whether the user was made as well",
    "users": "its users",
    "wasted_usd": "what upstreams billed for tries that failed; nobody is charged that",
    "week": "? the Monday that it began on (--by week)",
    "day": "? the day (--by day)",
    "zone": "the time zone of its days",

    "keys.id": "its short id, which stays when it is rotated",
    "keys.key": "the key itself, this once",
    "stats.log_bytes": "of the write-ahead log beside it",
    "stats.free_bytes": "of the file, kept for what comes",
    "stats.oldest_day": "? of the requests that there are singly",
    "stats.pruned_requests": "how many were summed up and are gone",
    "stats.requests_per_day": "lately",
    "stats.bytes_per_day": "what it grows by",
    "stats.size_in_30_days": "how large the file will be then",
    "stats.size_in_90_days": "how large the file will be then",
    "stats.prunable_requests": "older than 400 days",
    "stats.prunable_bytes": "about what they take",
    "stats.rows": "table → its rows",
    "stats.bytes": "table → what it takes",
    "pruned.before": "the first day that stays",
    "pruned.requests": "how many were summed up, or would be",
    "pruned.charge_usd": "what they were charged",
    "pruned.days": "on how many days they were",
    "pruned.accounts": "of how many accounts",
    "pruned.first_day": "? of theirs; null: there are none",
    "pruned.last_day": "? of theirs; null: there are none",
    "pruned.free_bytes": "of the file, kept for what comes",
    "pruned.dry_run": "whether nothing was changed",
    "keys.base_url": "what to give to a client",
    "keys.status": "active, disabled, expired or revoked",
    "admins.admin": "its name: the audit says admin:NAME",
    "admins.scope": "what it may change: read, keys, credits or all",
    "admins.key": "the admin key itself, this once",
    "admins.url": "where the admin API is",
    "admins.status": "active or revoked",
    "keys.models": "the models that it is held to; empty: all",
    "teams.team": "its name",
    "users.status": "active or disabled",
    "link.url": "opened in a browser it signs in, once",
    "link.expires_at": "until when it does",
    "signed out.sessions": "how many ended",
    "identities.issuer": "whose account it is: the address of Google, GitHub, …",
    "identities.subject": "what it is called there, for good",
    "identities.email": "? its address when it was linked, if it was verified",
    "identities.created_at": "when it was linked",
    "users.account": "who pays: the user, or team:NAME",
    "credits.account": "the user, or team:NAME",
    "credits.kind": "user or team",
    "credits.user": "? the user; null: it is a team's",
    "moved.account": "the account that was asked for",
    "moved.balance_usd": "its balance after it",
    "moved.usage_id": "the request that is refunded",
    "entries.balance_usd": "the balance after it",
    "entries.kind": "add, take, reverse, refund, transfer, expire, payment or closing",
    "limits.source": "whose it is: user, team, key, plan or default",
    "models.price_usd": "? what one of `per` is charged: of what isn't sold by tokens, or for each request",
    "models.per": "? what that price is for",
    "plans.plan": "its name",
    "plans.billing": "? metered or prepaid, for its users; null: as it is",
    "plans.users": "how many users have it",
    "upstreams.price": "? what accounts are charged, in words",
    "checked upstreams.status": "ok, loading or error",
    "checked upstreams.models": "? how many models it has",
    "explained.model": "the name that was asked for",
    "lines.amount_usd": "quantity × rate",
    "lines.from": "who says so",
    "prices.kind": "charge or cost",
    "prices.status": "active, past or to come",
    "prices.model": "the model",
    "prices.upstream": "? only where this upstream serves it; null: wherever",
    "rates.price": "the price key, and from how many input tokens on",
    "rates.charge_usd": "? USD per its unit; null: it has none",
    "rates.cost_usd": "? USD per its unit; null: it has none",
    "changes.of": "? the upstream, or the vendor in the catalogue",
    "changes.before": "price key → USD, of what differs",
    "changes.after": "price key → USD, of what differs",
    "report.user": "? the user (--by user)",
    "report.team": "? the team (--by team)",
    "report.key": "? USER/NAME (--by key)",
    "report.model": "? the model (--by model)",
    "report.upstream": "? the upstream (--by upstream)",
    "report.plan": "? the plan (--by plan)",
    "usage.id": "its number, for `credits refund`",
    "usage.status": "ok, error, cancelled or interrupted",
    "events.kind": "what kind of thing happened",
    "audit.before": "? the fields that were changed, as they were",
    "audit.after": "? the fields that were changed, as they are now",
    "checks.status": "ok, error or skipped",
    "repaired.before": "what it was",
    "repaired.after": "what it is now",
    "written config.config": "the file that was written",
    "written config.billing": "of new users",
    "account_id": "the account's number here, which the hash covers",
    "charged_at": "? of a closing entry: when the charges were made that it stands for",
    "billing_source": "who said so: default, credits or hand",
    "key_id": "the key's id",
    "endpoint": "which path of the dialect",
    "names": "? the names that the model went by, where they don't follow from model and upstream",
    "meters": "what was used, in disjoint quantities",
    "cost_price": "nano-USD per 1M units that it was costed by",
    "charge_price": "? that it was charged by; null: by its cost",
    "hold_usd": "what was held for it",
    "bounded": "whether its account's money could run out",
    "quota_tokens": "? how many tokens its plan included",
    "quota_glob": "? of which models",
    "quota_used": "? how many were used before it",
    "attempts": "tries in vain that an upstream billed, in nano-USD",
    "grace_hash": "? of the key before the last rotation",
    "grace_until": "? until when that one works",
    "exported usage.id": "its number, for `credits refund`",
    "exported usage.day": "the day that it was booked on",
    "exported usage.status": "ok, error, cancelled or interrupted",
    "exported usage.overage_usd": "? charged per token past those",
    "exported keys.id": "its short id, which stays when it is rotated",
    "exported keys.hash": "its SHA-256",
    "exported keys.limits": "its own",
    "exported keys.models": "the models that it is held to; empty: all",
    "exported keys.status": "active, disabled or revoked",
    "exported users.limits": "their own",
    "exported users.status": "active or disabled",
    "exported users.billing": "of the user's own account: metered or prepaid",
    "exported teams.limits": "its own",
    "exported teams.team": "its name",
    "exported teams.billing": "metered or prepaid",
    "pruned sums.id": "its number",
    "pruned sums.day": "the day that they were booked on",
    "pruned sums.requests": "how many were pruned",
    "pruned sums.input": "the meter of this name, summed up",
    "pruned sums.cached_input": "the meter of this name, summed up",
    "pruned sums.cache_write": "the meter of this name, summed up",
    "pruned sums.cache_write_1h": "the meter of this name, summed up",
    "pruned sums.audio_input": "the meter of this name, summed up",
    "pruned sums.image_input": "the meter of this name, summed up",
    "pruned sums.output": "the meter of this name, summed up",
    "pruned sums.reasoning": "the meter of this name, summed up",
    "pruned sums.audio_output": "the meter of this name, summed up",
    "pruned sums.images": "the meter of this name, summed up",
    "pruned sums.milliseconds": "the meter of this name, summed up",
    "pruned sums.searches": "the meter of this name, summed up",
    "pruned sums.characters": "the meter of this name, summed up",
    "pruned sums.calls": "the meter of this name, summed up",
    "exported zone.zone": "days are counted in it",
    "exported prices.kind": "charge or cost",
    "exported prices.upstream": "? null: whichever serves the model",
    "exported prices.model": "of which model",
    "exported prices.price": "the rates; null: from then on none is set",
    "exported prices.actor": "who set it",
    "imported.zone": "1: the time zone was taken",
    "imported.zone_known": "1: the time zone was the same",
    "imported.prices": "set prices that came",
    "imported.prices_known": "set prices that were here already",
    "imported.teams": "teams that came",
    "imported.teams_known": "teams that were here already",
    "imported.users": "users that came",
    "imported.users_known": "users that were here already",
    "imported.keys": "keys that came",
    "imported.keys_known": "keys that were here already",
    "imported.pruned": "sums of pruned requests that came",
    "imported.pruned_known": "sums of pruned requests that were here already",
    "imported.usage": "requests that came",
    "imported.usage_known": "requests that were here already",
    "imported.entries": "entries that came",
    "imported.entries_known": "entries that were here already",
}
"""What a field means; in one set of fields, if that says it otherwise. A question mark: it may be null."""
# fmt: on


class Field(NamedTuple):
    name: str
    type: Type
    means: str
    nullable: bool

    @property
    def told(self) -> str:
        return f"{self.type.told} or null" if self.nullable else self.type.told


def field(fields: str, column: Column) -> Field:
    own = f"{fields}.{column.name}"
    means = MEANS.get(own) or MEANS.get(column.name)
    assert means, f"docs/shapes.py: say in MEANS what {own!r} means"
    kind = TYPES.get(own) or KINDS[column.kind]
    return Field(column.name, kind, means.removeprefix("? "), means.startswith("?"))


def made(name: str, **types: Type) -> list[Field]:
    """A set of fields that no columns say."""
    return [Field(key, kind, MADE[name, key], False) for key, kind in types.items()]


NAMED = Field("name", TEXT, "the user, the model or the upstream", False)
IN_FLIGHT = Field("in_flight", WHOLE, "its requests in flight", False)
RATE = [
    Field("seconds", WHOLE, "of the time that it is about", False),
    Field("requests", WHOLE, "requests that ended", False),
    Field("errors", WHOLE, "of these, those that the upstream failed", False),
    Field("tokens", WHOLE, "input and output", False),
    Field("cost_usd", USD, "what the upstreams bill", False),
    Field("charge_usd", USD, "what the accounts pay", False),
    Field("requests_per_second", NUMBER, "over the time that it really covers", False),
    Field("tokens_per_second", NUMBER, "the same", False),
    Field("charge_usd_per_second", USD, "the same, rounded up", False),
]
ANSWERED = [
    Field("first_byte_ms", WHOLE, "half of its answers began within so long, to two digits; null: none did", True),
    Field("first_byte_p95_ms", WHOLE, "95 % of them did", True),
    Field("wasted_usd", USD, "billed by it for tries in vain", False),
    Field("last_error_at", TIME, "when it failed last; null: it didn't", True),
    Field("last_error_status", WHOLE, "the HTTP status of that; null: none came", True),
]

QUANTITIES = {**dict.fromkeys(METERS, WHOLE), "tokens": WHOLE}

MADE = {
    **{("charged", name): "how many of these; none is in two of them" for name in METERS},
    ("charged", "tokens"): "of an overage: the tokens past the included ones",
    ("charged", "kind"): "usage; overage: past what a plan includes; pruned: of rows that are gone",
    ("charged", "model"): "the name that was asked for",
    ("charged", "requests"): "how many",
    ("charged", "price"): "the price that they were charged by, in words",
    ("charged", "amount_usd"): "what they were charged",
    ("invoice", "number"): "the month and the account",
    ("invoice", "account"): "who pays: a user, or team:NAME",
    ("invoice", "month"): "the month, in the `zone`",
    ("invoice", "zone"): "the time zone of the database",
    ("invoice", "currency"): "USD",
    ("invoice", "final"): "whether nothing is still to come: the month is over, and no request of it in flight",
    ("invoice", "issuer"): "who issues it, as `[invoice]` says",
    ("invoice", "lines"): "what was charged, by model and price",
    ("invoice", "entries"): "what was added and taken",
    ("invoice", "plans"): "what the plans in use are sold for: for information, not part of the total",
    ("invoice", "opening_usd"): "the balance before the month",
    ("invoice", "moved_usd"): "the sum of the entries",
    ("invoice", "total_usd"): "the sum of the lines",
    ("invoice", "closing_usd"): "opening_usd + moved_usd - total_usd",
    ("issuer", "address"): "line by line",
    ("moves", "entry"): "the number of the entry",
    ("moves", "time"): "when it was",
    ("moves", "kind"): "what it is",
    ("moves", "amount_usd"): "what was added; negative: taken",
    ("sold", "plan"): "its name",
    ("sold", "users"): "how many were on it",
    ("sold", "price_usd"): "for each, in a month",
    ("explained price", "model"): "the model",
    ("explained price", "rates"): "what each unit is charged and costs, and who says so",
    ("explained price", "history"): "what was set for it",
    ("verified", "ok"): "whether nothing differs; else the exit code is 3",
    ("verified", "checked"): "what was looked at → how many",
    ("verified", "findings"): "what differs",
    ("verified", "repaired"): "what was put right (--repair)",
    ("examined", "ok"): "whether there is no problem; else the exit code is 3",
    ("examined", "checks"): "what was looked at",
    ("examined", "problems"): "what is wrong",
    ("checked config", "ok"): "whether there is no problem; else the exit code is 3",
    ("checked config", "config"): "the file, or what stands in for it",
    ("checked config", "problems"): "what is wrong, and how to mend it",
    ("now", "time"): "when it was looked at",
    ("now", "daemons"): "the processes that serve; none: nobody does",
    ("now", "rates"): "what ended in the last 10 seconds, and in the window (--window)",
    ("now", "history_seconds"): "how long each of the `history` is",
    ("now", "history"): "requests that ended in each of the last 60 spans of time",
    ("now", "in_flight"): "requests in flight",
    ("now", "stranded"): "of these, those whose process died: they are going to be booked as interrupted",
    ("now", "slowest"): "the 20 requests in flight that have taken longest",
    ("now", "users"): "who asks, within the window",
    ("now", "models"): "what is asked for, within the window",
    ("now", "upstreams"): "who answers, within 5 minutes at least",
    ("now", "limits"): "limits near their end, as in `limits`, the 50 nearest",
    ("daemons", "pid"): "its process",
    ("daemons", "host"): "the machine's name",
    ("daemons", "started_at"): "since when it serves",
    ("slowest", "request_id"): "its id, as the client was told",
    ("slowest", "user"): "the user",
    ("slowest", "key"): "USER/NAME",
    ("slowest", "model"): "the model that was asked for",
    ("slowest", "upstream"): "that it was first sent to",
    ("slowest", "streamed"): "whether the answer comes as a stream",
    ("slowest", "age_ms"): "how long it has taken so far",
    ("slowest", "held_usd"): "what is held for it",
    ("slowest", "stranded"): "whether its process died",
    ("error", "code"): f"one of: {', '.join(sorted(CODES))}",
    ("error", "message"): "what is wrong, and how to mend it",
}


@cache
def fields_of(name: str) -> list[Field]:
    """The fields of a set."""
    match name:
        case "explained price":
            return made(name, model=TEXT, rates=several(of("rates")), history=several(of("prices")))
        case "verified":
            parts = {"findings": several(of("findings")), "repaired": several(of("repaired"))}
            return made(name, ok=FLAG, checked=named(WHOLE), **parts)
        case "examined":
            return made(name, ok=FLAG, checks=several(of("checks")), problems=several(of("problems")))
        case "checked config":
            return made(name, ok=FLAG, config=TEXT, problems=several(TEXT))
        case "now":
            return made(
                name,
                time=TIME,
                daemons=several(of("daemons")),
                rates=several(of("sums")),
                history_seconds=WHOLE,
                history=several(WHOLE),
                in_flight=WHOLE,
                stranded=WHOLE,
                slowest=several(of("slowest")),
                users=several(of("shares")),
                models=several(of("shares")),
                upstreams=several(of("answering")),
                limits=several(of("limits")),
            )
        case "invoice":
            words = dict.fromkeys(("number", "account", "month", "zone", "currency"), TEXT) | {"month": MONTH}
            lists = {"issuer": "issuer", "lines": "charged", "entries": "moves", "plans": "sold"}
            parts = {key: of(kind) if key == "issuer" else several(of(kind)) for key, kind in lists.items()}
            sums = dict.fromkeys(("opening_usd", "moved_usd", "total_usd", "closing_usd"), USD)
            return made(name, **words, final=FLAG, **parts, **sums)
        case "issuer":
            issuer = Field("name", TEXT, "who issues it", True)
            return [issuer, *made(name, address=several(TEXT)), Field("note", TEXT, "stands at its end", True)]
        case "charged":
            return made(name, kind=TEXT, model=TEXT, requests=WHOLE, **QUANTITIES, price=TEXT, amount_usd=USD)
        case "moves":
            told = [Field("ref", TEXT, "of the admin's", True), Field("note", TEXT, "a word of the admin's", True)]
            return [*made(name, entry=WHOLE, time=TIME, kind=TEXT), *told, *made(name, amount_usd=USD)]
        case "sold":
            return made(name, plan=TEXT, users=WHOLE, price_usd=USD)
        case "daemons":
            return made(name, pid=WHOLE, host=TEXT, started_at=TIME)
        case "sums":
            return RATE
        case "shares":
            return [NAMED, *RATE, IN_FLIGHT]
        case "answering":
            return [NAMED, *RATE, IN_FLIGHT, *ANSWERED]
        case "slowest":
            named_ = dict.fromkeys(("request_id", "user", "key", "model", "upstream"), TEXT)
            return made(name, **named_, streamed=FLAG, age_ms=WHOLE, held_usd=USD, stranded=FLAG)
        case "error":
            return made(name, code=TEXT, message=TEXT)
        case "explained":
            found = [field(name, column) for column in SETS[name]]
            return [one._replace(type=several(of("lines"))) if one.name == "lines" else one for one in found]
    return [field(name, column) for column in SETS[name]]


def of(name: str, but: tuple[str, ...] = (), some: tuple[str, ...] = ()) -> Type:
    """An object of a set of fields, as a type: no other fields, and each as it should be."""
    members: list[Any] = []
    renamed: dict[str, str] = {}
    for one in fields_of(name):
        if one.name in but:
            continue
        renamed[f"{one.name}_"] = one.name
        kind = one.type.of | None if one.nullable else one.type.of
        members.append(
            (f"{one.name}_", kind | msgspec.UnsetType, msgspec.UNSET) if one.name in some else (f"{one.name}_", kind)
        )
    struct = msgspec.defstruct(name.title(), members, kw_only=True, forbid_unknown_fields=True, rename=renamed.get)
    return Type(name, struct)


def written(command: str) -> Any:
    """What a command writes, as a type that msgspec decodes and checks."""
    writes = WRITES[command]
    one = of(writes.fields, writes.but, writes.some).of
    return list[one] if writes.many else one  # type: ignore[valid-type]


# ── docs ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


CALLED = {
    "sums": ("rates",),
    "shares": ("users", "models"),
    "answering": ("upstreams",),
    "charged": ("lines",),
    "moves": ("entries",),
    "sold": ("plans",),
}
"""Fields that hold a set of another name."""


def markdown() -> str:
    sets: dict[str, list[str]] = {}
    for command, writes in WRITES.items():
        sets.setdefault(writes.fields, []).append(command)
    parts = []
    for name, commands in sets.items():
        parts += [f"## {name[0].upper()}{name[1:]}", "\n".join(_commands(commands)), *NOTES.get(name, ())]
        parts.append("\n".join(_table(name)))
        parts += [
            part
            for inner in NESTED.get(name, ())
            for part in (f"Each of {_names(CALLED.get(inner, (inner,)))}:", "\n".join(_table(inner)))
        ]
    parts += [
        "## Errors",
        'With --json an error is `{"error": {…}}`, on one line of stderr:',
        "\n".join(_table("error")),
    ]
    parts += ["## Everything else", "\n".join(f"- `{path}`: {instead}" for path, instead in NOTHING.items())]
    return "\n\n".join(parts)


NESTED = {
    "explained": ("lines",),
    "explained price": ("rates",),
    "verified": ("findings", "repaired"),
    "examined": ("checks", "problems"),
    "invoice": ("issuer", "charged", "moves", "sold"),
    "now": ("daemons", "sums", "slowest", "shares", "answering"),
}


NOTES = {
    "limits": ("`limits set` with `unlimited` takes a limit away, which is not among what it writes then.",),
    "report": (
        "With --top the row that sums up the rest has `others` as its first grouping; what a row is not about is null.",
    ),
}


def _commands(commands: Sequence[str]) -> Iterator[str]:
    """Who writes these fields: commands that do it alike on one line."""
    alike: dict[Writes, list[str]] = {}
    for command in commands:
        alike.setdefault(WRITES[command], []).append(command)
    for writes, names in alike.items():
        told = "an array of objects" if writes.many else "an object"
        lacking = f", without {_names(writes.but)}" if writes.but else ""
        at_times = f"; {_names(writes.some)} only where it is called for" if writes.some else ""
        yield f"- {_names(names)}: {told}{lacking}{at_times}"


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(name: str) -> Iterator[str]:
    yield "| field | type | |"
    yield "|---|---|---|"
    for one in fields_of(name):
        yield f"| `{one.name}` | {one.told} | {one.means} |"
