"""`llmgate invoice`: what an account was charged in a month, on one page."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import date, timedelta
from typing import Annotated, Any, NamedTuple
from zoneinfo import ZoneInfo

import typer

from .. import clock
from ..config import Config
from ..errors import UsageError
from ..money import to_nano, usd
from ..pricing import CONFIG_KEYS, UNIT_OF, said
from ..store import accounts, invoices, ledger
from ..store.db import Tx
from ..types import METERS
from .columns import Column, Kind, Row, Show, exact
from .context import config_of, open_store
from .credits import AccountName
from .grammar import alone, verb
from .output import ascii_only, exported, laid_out, table
from .session import Format, note, session, visible
from .suggest import unknown

app = alone()

FORMATS = ("table", "md", "html", "csv", "json")

LINES = (
    Column("model", Kind.WORD),
    Column("requests", Kind.NUMBER),
    Column("quantities"),
    Column("price"),
    Column("amount_usd", Kind.MONEY),
)
"""For people; for machines `quantities` is a number for each meter."""

ENTRIES = (
    Column("entry", Kind.ID),
    Column("time", Kind.TIME),
    Column("kind", Kind.WORD),
    Column("ref", show=Show.USED),
    Column("note", show=Show.USED),
    Column("amount_usd", Kind.MONEY),
)

BALANCE = (Column("balance"), Column("amount_usd", Kind.MONEY))

PLANS = (Column("plan", Kind.WORD), Column("users", Kind.NUMBER), Column("price_usd", Kind.MONEY))

FLAT = (
    Column("number", Kind.ID),
    Column("account", Kind.WORD),
    Column("section", Kind.WORD),
    Column("time", Kind.TIME),
    Column("entry", Kind.ID),
    Column("model"),
    Column("price"),
    Column("requests", Kind.NUMBER),
    *(Column(name, Kind.NUMBER) for name in (*METERS, "tokens")),
    Column("ref"),
    Column("note"),
    Column("amount_usd", Kind.MONEY),
)
"""CSV: a row for each line and entry, and for the opening balance, the total and the closing balance."""

UNITS: Mapping[str, tuple[str, int]] = {
    **{name: (f"{key.replace('_', ' ')} tokens", 1) for key, (name, scale) in CONFIG_KEYS.items() if scale == 1},
    "tokens": ("tokens past the included", 1),
    "images": ("images", 1),
    "milliseconds": ("seconds", 1000),
    "searches": ("searches", 1),
    "characters": ("characters", 1),
}
"""Meter → what it counts, and how many of it are one. Calls are left out: that is what `requests` says."""


class Part(NamedTuple):
    """A table of an invoice."""

    title: str
    columns: Sequence[Column]
    rows: list[Row]
    total: Row | None = None


class Page(NamedTuple):
    """An invoice as it is written, whatever the format."""

    number: str
    account: str
    month: str
    heading: list[str]
    open: str
    """Why it isn't final; empty: it is."""
    remarks: list[str]
    zone: ZoneInfo
    invoice: invoices.Invoice
    plans: list[Row]

    @property
    def parts(self) -> list[Part]:
        invoice = self.invoice
        total = {"model": "total", "requests": self.requests, "amount_usd": invoice.total_nano}
        found = [Part("Usage", LINES, [_line(line) for line in invoice.lines], total)]
        if invoice.entries:
            rows = [_entry(row) for row in invoice.entries]
            moved = {"entry": "total", "amount_usd": invoice.moved_nano}
            found.append(Part("Credits", ENTRIES, rows, moved if len(rows) > 1 else None))
        balance: list[Row] = [
            {"balance": "opening balance", "amount_usd": invoice.opening_nano},
            {"balance": "credits", "amount_usd": invoice.moved_nano},
            {"balance": "usage", "amount_usd": -invoice.total_nano},
        ]
        found.append(Part("Balance", BALANCE, balance, {"balance": "closing balance", "amount_usd": self.closing_nano}))
        if self.plans:
            found.append(Part("Plans (for information, not part of the total)", PLANS, self.plans))
        return found

    @property
    def requests(self) -> int:
        return sum(line.requests for line in self.invoice.lines)

    @property
    def closing_nano(self) -> int:
        return self.invoice.closing_nano


@verb(
    app,
    "invoice",
    examples="""
    llmgate invoice alice
    llmgate invoice alice --month 2026-10 --format html > alice.html
    llmgate invoice team:research --format md
    """,
)
def invoice(
    ctx: typer.Context,
    user: AccountName,
    month: Annotated[
        str | None, typer.Option("--month", metavar="YYYY-MM", help="Which one [default: the one before this].")
    ] = None,
    form: Annotated[
        str | None, typer.Option("--format", metavar="|".join(FORMATS), help="How it is written [default: table].")
    ] = None,
) -> None:
    """Write the invoice of an account for a month: usage by model and price, credits, balances, and the total.

    It is about what the account paid: the requests of users whose team pays are on the team's. The total is exact, and
    the sum of its lines; each request was rounded up to the nano-USD by itself. What a plan is sold for stands below,
    for information: llmgate doesn't charge it. The page that html makes is printed as it is; `[invoice]` in the config
    says who issues it.
    """
    chosen = _format(ctx, form)
    config = config_of(ctx)
    with open_store(ctx) as db:
        ledger.expire_overdue(db)
        with db.read() as tx:
            page = _page(tx, config, user, month)
            hint = "" if page.invoice.lines or page.invoice.entries else _why_empty(tx, page, asked=month is not None)
    _WRITERS[chosen](page, config)
    if hint:
        note(hint)


def _why_empty(tx: Tx, page: Page, *, asked: bool) -> str:
    """What to tell of a month without anything: that it was before the account's time, or where to look instead."""
    made, running = accounts.made_ms(tx, page.account), f"{clock.local_day(tx.now_ms, tx.zone):%Y-%m}"
    day = clock.day_of(made, tx.zone)
    if page.month < day[:7] and not page.invoice.opening_nano:
        hint = f"{page.account} did not exist in {page.month}: it was made on {day}"
        return hint if asked else f"{hint}; --month {running} is the running month"
    return "" if asked else f"nothing happened in {page.month}: --month {running} is the running month"


def _format(ctx: typer.Context, form: str | None) -> str:
    held = session(ctx)
    chosen = form or str(held.wanted)
    if chosen not in FORMATS:
        raise unknown("format", chosen, FORMATS, "llmgate invoice")
    if held.as_json and chosen != Format.JSON:
        raise UsageError(f"--json and --format {chosen} are two formats: choose one")
    return chosen


def _page(tx: Tx, config: Config, target: str, month: str | None) -> Page:
    account_id, name = accounts.account_of(tx, target)
    today = clock.local_day(tx.now_ms, tx.zone)
    first = _month(month, today)
    after = _next(first)
    found = invoices.of_month(tx, account_id, first, after)
    number = f"{first:%Y-%m}-{name}"
    whose = accounts.find_user(tx, name) if not name.startswith("team:") else None
    own = accounts.plan_at(tx, name, clock.day_start_ms(after, tx.zone)) if whose else None
    if whose and today < after:
        own = whose["plan"]
    span = f"{first} to {after - timedelta(days=1)} ({tx.zone.key}), in USD"
    return Page(
        number=number,
        account=name,
        month=f"{first:%Y-%m}",
        heading=[f"for {name} <{whose['email']}>" if whose and whose["email"] else f"for {name}", span],
        open=_open(found, today < after),
        remarks=_remarks(found, name, whose, account_id),
        zone=tx.zone,
        invoice=found,
        plans=_plans(config, found, own),
    )


def _month(text: str | None, today: date) -> date:
    """The first day of the month that is meant."""
    if text is None:
        return (today.replace(day=1) - timedelta(days=1)).replace(day=1)
    try:
        first = date.fromisoformat(f"{text}-01") if re.fullmatch(r"[0-9]{4}-[0-9]{2}", text) else None
    except ValueError:
        first = None
    if first is None or first.year == date.max.year:
        raise UsageError(f"{text!r} is no month: write it as {today:%Y-%m}")
    if first > today:
        raise UsageError(f"{text} has not begun yet: the running month is {today:%Y-%m}")
    return first


def _next(first: date) -> date:
    return (first + timedelta(days=32)).replace(day=1)


def _open(found: invoices.Invoice, running: bool) -> str:
    if running:
        return "Not final: the month is not over."
    if found.in_flight:
        return f"Not final: requests of this month are still in flight ({found.in_flight})."
    return ""


def _remarks(found: invoices.Invoice, name: str, whose: Any, account_id: int) -> list[str]:
    remarks = []
    if any(line.requests for line in found.lines):
        remarks.append("Each request is charged by itself, and rounded up to the nano-USD.")
    if any(line.pruned for line in found.lines):
        remarks.append("Of requests that were pruned the amounts are kept, their prices are not.")
    if whose and whose["payer_id"] != account_id:
        remarks.append(f"Requests of {name} are now paid by team:{whose['team']}, and are on the team's invoice.")
    return remarks


def _plans(config: Config, found: invoices.Invoice, own: str | None) -> list[Row]:
    """What the plans in use are sold for; for a user without requests, the plan that the user had then."""
    users = found.plans or ({own: 1} if own else {})
    sold = {name: to_nano(config.plans[name].price) for name in users if name in config.plans}
    return [{"plan": name, "users": users[name], "price_usd": nano} for name, nano in sorted(sold.items()) if nano]


# ── in words ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _line(line: invoices.Line) -> Row:
    return {
        "model": line.model,
        "requests": None if line.past else line.requests,
        "quantities": ", ".join(
            _quantity(name, number) for name, number in line.quantities.items() if _told(name, number)
        ),
        "price": _price(line),
        "amount_usd": line.amount_nano,
    }


def _told(name: str, number: int) -> bool:
    return bool(number) and name in UNITS


def _quantity(name: str, number: int) -> str:
    what, parts = UNITS[name]
    whole, rest = divmod(number, parts)
    return f"{whole:,}{f'.{rest:03}' if rest else ''} {what}"


def _price(line: invoices.Line) -> str:
    """The price that a line was charged by, in the words of a price list."""
    if line.pruned:
        return "no longer known (pruned)"
    if line.past:
        assert line.terms is not None
        return f"${usd(line.terms.nano)} per token past {line.terms.quota:,} a month"
    if line.price is None:
        return "as the upstream billed"
    rates = said(line.price)
    tokens = [f"{key.replace('_', ' ')} ${rate}" for key, rate in rates.items() if key.partition(" ")[0] not in UNIT_OF]
    units = [
        f"${rate} per {UNIT_OF[key.partition(' ')[0]]}{key[len(key.partition(' ')[0]) :]}"
        for key, rate in rates.items()
        if key.partition(" ")[0] in UNIT_OF
    ]
    if line.terms is not None:
        tokens = ["tokens as the plan says"]
    elif line.price.free:
        return "free"
    elif tokens:
        tokens[-1] += " per 1M tokens"
    return ", ".join([*tokens, *units])


def _entry(row: Any) -> Row:
    return {
        "entry": row["id"],
        "time": row["created_ms"],
        "amount_usd": row["amount_nano"],
        **{name: row[name] for name in ("kind", "ref", "note")},
    }


# ── as it is written ──────────────────────────────────────────────────────────────────────────────────────────────────


def _as_table(page: Page, config: Config) -> None:
    issuer = [*([config.invoice.name] if config.invoice.name else []), *config.invoice.address]
    for line in (f"Invoice {page.number}", *page.heading, *issuer, *([page.open] if page.open else [])):
        _say(line)
    for part in page.parts:
        _say("")
        _say(part.title)
        if part.rows:
            table(part.columns, part.rows, page.zone, part.total)
        else:
            _say("nothing was used")
    for line in (*page.remarks, *([config.invoice.note] if config.invoice.note else [])):
        note(line)


def _as_md(page: Page, config: Config) -> None:
    issuer = [*([f"**{_md(config.invoice.name)}**"] if config.invoice.name else []), *map(_md, config.invoice.address)]
    _say(f"# Invoice {_md(page.number)}\n")
    for line in issuer:
        _say(f"{line}  ")
    for line in (*([""] if issuer else []), *map(_md, page.heading)):
        _say(f"{line}  " if line else "")
    if page.open:
        _say(f"\n**{page.open}**")
    for part in page.parts:
        _say(f"\n## {part.title}\n")
        columns, rows, last = laid_out(part.columns, part.rows, page.zone, part.total)
        for row in (
            [column.title for column in columns],
            ["---:" if column.right else "---" for column in columns],
            *([_md(cell) for cell in row] for row in (*rows, *([last] if last else []))),
        ):
            _say(f"| {' | '.join(row)} |")
    for line in (*page.remarks, *([config.invoice.note] if config.invoice.note else [])):
        _say(f"\n{_md(line)}")


def _md(text: str) -> str:
    """Text of others, which is no markup."""
    return re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", visible(text))


def _as_html(page: Page, config: Config) -> None:
    from jinja2 import Environment, PackageLoader

    names = Environment(loader=PackageLoader("llmgate.cli"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    parts = [(part.title, *laid_out(part.columns, part.rows, page.zone, part.total)) for part in page.parts]
    text = names.get_template("invoice.html").render(invoice=page, issuer=config.invoice, parts=parts)
    _say(text.encode("ascii", "xmlcharrefreplace").decode() if ascii_only() else text)


def _as_csv(page: Page, config: Config) -> None:  # noqa: ARG001
    exported(FLAT, [{**dict.fromkeys(column.name for column in FLAT), **row} for row in _flat(page)], "csv")


def _flat(page: Page) -> list[Row]:
    shared = {"number": page.number, "account": page.account}
    found = page.invoice
    lines = [{**_line(line), **line.quantities, "section": _section(line)} for line in found.lines]
    entries = [{**entry, "section": entry["kind"]} for entry in map(_entry, found.entries)]
    rows = [
        {"section": "opening", "amount_usd": found.opening_nano},
        *lines,
        {"section": "total", "requests": page.requests, "amount_usd": found.total_nano},
        *entries,
        {"section": "closing", "amount_usd": found.closing_nano},
    ]
    return [{**shared, **row} for row in rows]


def _section(line: invoices.Line) -> str:
    return "overage" if line.past else "pruned" if line.pruned else "usage"


def _as_json(page: Page, config: Config) -> None:
    found, issuer = page.invoice, config.invoice
    told = {
        "number": page.number,
        "account": page.account,
        "month": page.month,
        "zone": page.zone.key,
        "currency": "USD",
        "final": not page.open,
        "issuer": {"name": issuer.name, "address": list(issuer.address), "note": issuer.note},
        "lines": [
            {
                "kind": _section(line),
                "model": line.model,
                "requests": line.requests,
                **{name: line.quantities.get(name, 0) for name in (*METERS, "tokens")},
                "price": _price(line),
                "amount_usd": usd(line.amount_nano),
            }
            for line in found.lines
        ],
        "entries": [{column.name: exact(column, _entry(row)) for column in ENTRIES} for row in found.entries],
        "plans": [{column.name: exact(column, row) for column in PLANS} for row in page.plans],
        "opening_usd": usd(found.opening_nano),
        "moved_usd": usd(found.moved_nano),
        "total_usd": usd(found.total_nano),
        "closing_usd": usd(found.closing_nano),
    }
    _say(json.dumps(told, ensure_ascii=ascii_only(), indent=2))


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


_WRITERS: dict[str, Callable[[Page, Config], None]] = {
    "table": _as_table,
    "md": _as_md,
    "html": _as_html,
    "csv": _as_csv,
    "json": _as_json,
}
