"""`llmgate credits`: the balance of every account, and the entries that moved it."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import clock
from ..money import dollars, parse_usd
from ..store import accounts, ledger
from ..store.db import Row as StoreRow
from .columns import Column, Kind, Row, Show
from .context import open_store
from .grammar import noun, verb
from .options import NoteOption
from .output import listing, result
from .session import confirm, note

app = noun("credits", "Credits: the balance of every account, and what moved it.")

COLUMNS = (
    Column("account", Kind.WORD),
    Column("kind", Kind.WORD, Show.NEVER),
    Column("user", Kind.WORD, Show.NEVER),
    Column("team", Kind.WORD, Show.USED, minor=1),
    Column("billing", Kind.WORD),
    Column("balance_usd", Kind.MONEY),
    Column("held_usd", Kind.MONEY),
    Column("available_usd", Kind.MONEY),
)

ENTRIES = (
    Column("entry", Kind.ID),
    Column("time", Kind.TIME),
    Column("kind", Kind.WORD),
    Column("amount_usd", Kind.MONEY),
    Column("charged_usd", Kind.MONEY),
    Column("balance_usd", Kind.MONEY),
    Column("ref", Kind.TEXT, Show.USED),
    Column("note", Kind.TEXT, Show.USED),
    Column("reverses", Kind.ID, Show.USED),
    Column("expires_at", Kind.TIME, Show.USED),
    Column("actor", Kind.TEXT, minor=1),
)

MOVED = (
    Column("entry", Kind.ID),
    Column("account", Kind.WORD),
    Column("amount_usd", Kind.MONEY),
    Column("balance_usd", Kind.MONEY),
    Column("became_prepaid", Kind.FLAG),
    Column("repeated", Kind.FLAG),
)

AccountName = Annotated[str, typer.Argument(metavar="USER", help="A user, or team:NAME.")]
Amount = Annotated[str, typer.Argument(metavar="USD", help="An amount: 5, 0.25 or $12.50.")]


@verb(
    app,
    "list",
    examples="""
    llmgate credits
    llmgate credits --format csv
    """,
)
def list_(ctx: typer.Context) -> None:
    """List every account: its balance, what requests in flight hold of it, and what is left to use."""
    with open_store(ctx) as db:
        with db.read() as tx:
            rows = [_account(row) for row in ledger.list_accounts(tx)]
        listing(ctx, COLUMNS, rows, empty="there is no account: `llmgate keys add USER` makes a user with one")


def _account(row: StoreRow) -> Row:
    return {
        "account": row["name"] if row["kind"] == "user" else f"team:{row['name']}",
        **{name: row[name] for name in ("kind", "user", "team", "billing")},
        "balance_usd": row["balance_nano"],
        "held_usd": row["held_nano"],
        "available_usd": row["balance_nano"] - row["held_nano"],
    }


@verb(
    app,
    "add",
    examples="""
    llmgate credits add alice 5
    llmgate credits add team:research 250 --ref invoice-2026-11 --note "paid by transfer"
    llmgate credits add bob 0.50 --expires 90d
    """,
)
def add(
    ctx: typer.Context,
    user: AccountName,
    usd: Amount,
    text: NoteOption = None,
    ref: Annotated[
        str | None, typer.Option("--ref", metavar="R", help="The same --ref twice adds once: safe to repeat.")
    ] = None,
    expires: Annotated[str | None, typer.Option("--expires", metavar="WHEN", help="90d, or a date.")] = None,
) -> None:
    """Add credits to an account. The first ones make it prepaid, unless its billing was set by hand."""
    amount_nano = parse_usd(usd)
    with open_store(ctx) as db:
        with db.write() as tx:
            expires_ms = clock.expires_ms(expires, tx.now_ms, db.zone) if expires is not None else None
            moved = ledger.add(tx, user, amount_nano, ref=ref, note=text or None, expires_ms=expires_ms)
        done = (
            "nothing was added again, this --ref is" if moved.repeated else f"added {dollars(amount_nano)} to {user}:"
        )
        _tell(ctx, user.removeprefix("user:"), amount_nano, moved, done)


@verb(
    app,
    "take",
    examples="""
    llmgate credits take alice 2.50 --note "moved to bob"
    llmgate credits take alice 100 --force --yes
    """,
)
def take(
    ctx: typer.Context,
    user: AccountName,
    usd: Amount,
    text: NoteOption = None,
    force: Annotated[bool, typer.Option("--force", help="Take more than is available.")] = False,
) -> None:
    """Take credits away from an account; it asks first."""
    amount_nano = parse_usd(usd)
    with open_store(ctx) as db:
        with db.read() as tx:
            accounts.account_of(tx, user)
        confirm(ctx, f"Take {dollars(amount_nano)} from {user}?")
        with db.write() as tx:
            moved = ledger.take(tx, user, amount_nano, note=text or None, force=force)
        _tell(ctx, user.removeprefix("user:"), -amount_nano, moved, f"took {dollars(amount_nano)} from {user}:")


@verb(
    app,
    "reverse",
    examples="""
    llmgate credits reverse 17
    llmgate credits reverse 17 --note "typed one zero too many"
    """,
)
def reverse(
    ctx: typer.Context,
    entry: Annotated[int, typer.Argument(metavar="ENTRY", help="The number of the entry.", min=1)],
    text: NoteOption = None,
) -> None:
    """Undo an entry by another one of the opposite amount, once."""
    with open_store(ctx) as db:
        with db.write() as tx:
            moved = ledger.reverse(tx, entry, note=text or None)
            row = ledger.entry_row(tx, moved.entry_id)
        amount_nano = row["amount_nano"]
        _tell(ctx, row["account"], amount_nano, moved, f"reversed entry {entry} of {row['account']}:")


def _tell(ctx: typer.Context, account: str, amount_nano: int, moved: ledger.Moved, done: str) -> None:
    """What was done, the entry it became, and the balance now."""
    row = {
        "entry": moved.entry_id,
        "account": account,
        "amount_usd": amount_nano,
        "balance_usd": moved.balance_nano,
        "became_prepaid": moved.became_prepaid,
        "repeated": moved.repeated,
    }
    result(ctx, MOVED, row, f"{done} entry {moved.entry_id}, balance {dollars(moved.balance_nano)}")
    if moved.became_prepaid:
        note(became_prepaid(account))


def became_prepaid(account: str) -> str:
    """What the first credits change."""
    kind, _, name = account.rpartition(":")
    undo = f"llmgate {kind or 'user'}s set {name} --billing metered"
    return f"{account} is prepaid from now on: without a balance requests are refused (`{undo}` undoes that)"


@verb(
    app,
    "history",
    examples="""
    llmgate credits history alice
    llmgate credits history team:research --format csv
    """,
)
def history(ctx: typer.Context, user: AccountName) -> None:
    """List the entries of an account, oldest first, each with the balance after it.

    What requests were charged is no entry: `charged` sums it up since the entry before.
    """
    with open_store(ctx) as db:
        with db.read() as tx:
            account_id, name = accounts.account_of(tx, user)
            rows = [_entry(row) for row in ledger.history(tx, account_id)]
            balance_nano = ledger.balance(tx, account_id)
        listing(ctx, ENTRIES, rows, empty=f"{name} has no entries", zone=db.zone)
    since_nano = (rows[-1]["balance_usd"] if rows else 0) - balance_nano
    if since_nano:
        note(f"{dollars(since_nano)} were charged since: the balance of {name} is {dollars(balance_nano)}")


def _entry(row: StoreRow) -> Row:
    return {
        "entry": row["id"],
        "time": row["created_ms"],
        "amount_usd": row["amount_nano"],
        "charged_usd": row["charged_nano"],
        "balance_usd": row["balance_nano"],
        "expires_at": row["expires_ms"],
        **{name: row[name] for name in ("kind", "ref", "note", "reverses", "actor")},
    }
