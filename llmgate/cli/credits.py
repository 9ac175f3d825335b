"""`llmgate credits`: the balance of every account, and the entries that moved it."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from .. import clock
from ..money import dollars, parse_usd
from ..store import accounts, ledger
from ..store.db import Row as StoreRow
from ..store.db import Tx
from .columns import Column, Kind, Row, Show
from .context import open_store
from .grammar import noun, verb
from .options import NoteOption, period
from .output import listing, result, single
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
    Column("payer", Kind.WORD, Show.NEVER),
    Column("pays_for", Kind.LIST),
)

DETAILS = (
    *COLUMNS,
    Column("expires_at", Kind.TIME),
    Column("expiring_usd", Kind.MONEY),
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
    Column("left_usd", Kind.MONEY, Show.USED),
    Column("cause", Kind.ID, Show.USED),
    Column("other", Kind.WORD, Show.USED),
    Column("usage_id", Kind.ID, Show.USED),
)

MOVED = (
    Column("entry", Kind.ID),
    Column("account", Kind.WORD),
    Column("amount_usd", Kind.MONEY),
    Column("balance_usd", Kind.MONEY),
    Column("became_prepaid", Kind.FLAG),
    Column("repeated", Kind.FLAG),
    Column("reversed_by", Kind.ID),
)

REFUNDED = (*MOVED, Column("usage_id", Kind.ID))

BOTH = (
    *MOVED,
    Column("other_entry", Kind.ID),
    Column("other_account", Kind.WORD),
    Column("other_balance_usd", Kind.MONEY),
)

AccountName = Annotated[str, typer.Argument(metavar="USER", help="A user, or team:NAME.")]
Amount = Annotated[str, typer.Argument(metavar="USD", help="An amount: 5, 0.25 or $12.50.")]
RefOption = Annotated[
    str | None, typer.Option("--ref", metavar="R", help="The same --ref twice does it once: safe to repeat.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Even more than is available.")]


@verb(
    app,
    "list",
    examples="""
    llmgate credits
    llmgate credits --format csv
    """,
)
def list_(ctx: typer.Context) -> None:
    """List every account: its balance, what requests in flight hold of it, what is left to use, and whom it pays for.

    Exactly one account pays a request: the user's, if the user has credits or billing of its own; else the team's.
    """
    with open_store(ctx) as db:
        ledger.expire_overdue(db)
        with db.read() as tx:
            rows = [_account(row) for row in ledger.list_accounts(tx)]
        listing(ctx, COLUMNS, rows, empty="there is no account: `llmgate keys add USER` makes a user with one")


def _account(row: StoreRow) -> Row:
    return {
        "account": row["name"] if row["kind"] == "user" else f"team:{row['name']}",
        **{name: row[name] for name in ("kind", "user", "team", "billing", "payer")},
        "balance_usd": row["balance_nano"],
        "held_usd": row["held_nano"],
        "available_usd": row["balance_nano"] - row["held_nano"],
        "pays_for": msgspec.json.decode(row["pays_for"]),
    }


@verb(
    app,
    "show",
    examples="""
    llmgate credits show alice
    llmgate credits show team:research --json
    """,
)
def show(ctx: typer.Context, user: AccountName) -> None:
    """Show an account, whom it pays for, and how much of its credits expires next, and when."""
    with open_store(ctx) as db:
        ledger.expire_overdue(db)
        with db.read() as tx:
            account_id, _ = accounts.account_of(tx, user)
            row = {**_account(ledger.list_accounts(tx, account_id)[0]), **_expiring(tx, account_id)}
        single(ctx, DETAILS, row, zone=db.zone)


def _expiring(tx: Tx, account_id: int) -> Row:
    lots = ledger.lots(tx, account_id)
    next_ms = lots[0].expires_ms if lots else None
    amount = sum(lot.left_nano for lot in lots if lot.expires_ms == next_ms)
    return {"expires_at": next_ms, "expiring_usd": amount if lots else None}


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
    ref: RefOption = None,
    expires: Annotated[
        str | None,
        typer.Option("--expires", metavar="WHEN", help="What is unused then is taken away: 90d, or a date."),
    ] = None,
) -> None:
    """Add credits to an account. The first ones make it prepaid, unless its billing was set by hand.

    Credits that expire are used before others, those that expire first, first.
    """
    amount_nano = parse_usd(usd)
    with open_store(ctx) as db:
        with db.write() as tx:
            expires_ms = clock.expires_ms(expires, tx.now_ms, db.zone) if expires is not None else None
            moved = ledger.add(tx, user, amount_nano, ref=ref, note=text or None, expires_ms=expires_ms)
        done = _once(moved, "added", f"added {dollars(amount_nano)} to {user}:")
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
    force: ForceOption = False,
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
    llmgate credits reverse 17 --force --yes
    """,
)
def reverse(
    ctx: typer.Context,
    entry: Annotated[
        int, typer.Argument(metavar="ENTRY", help="The number of the entry, as `credits history` shows it.", min=1)
    ],
    text: NoteOption = None,
    force: ForceOption = False,
) -> None:
    """Undo an entry by another one of the opposite amount, once.

    Both halves of a transfer are undone together. Of credits that were added, those that have expired since are gone
    already. What would take away more than is available is refused; --force does it all the same, and asks first: the
    balance falls below 0 then.
    """
    with open_store(ctx) as db:
        if force:
            with db.read() as tx:
                found = ledger.entry_row(tx, entry)
            amount = dollars(found["amount_nano"])
            confirm(ctx, f"Reverse entry {entry} of {found['account']}, {amount}, even if more than is available goes?")
        with db.write() as tx:
            moved = ledger.reverse(tx, entry, note=text or None, force=force)
            row = ledger.entry_row(tx, moved.entry_id)
            other = ledger.entry_row(tx, moved.other.entry_id)["account"] if moved.other else None
        account = row["account"]
        _tell(ctx, account, row["amount_nano"], moved, f"reversed entry {entry} of {account}:", other=other)


@verb(
    app,
    "refund",
    examples="""
    llmgate credits refund req_5f0c2a9be1d34d7f
    llmgate credits refund 1042 --amount 0.05 --note "answer was cut off"
    llmgate credits refund 1042 --ref ticket-77
    """,
)
def refund(
    ctx: typer.Context,
    usage: Annotated[
        str,
        typer.Argument(metavar="USAGE", help="The request: its id in `usage`, or its request id."),
    ],
    amount: Annotated[
        str | None, typer.Option("--amount", metavar="USD", help="Only a part; what is left by default.")
    ] = None,
    text: NoteOption = None,
    ref: RefOption = None,
) -> None:
    """Give back what a request was charged, to the account that paid; in several parts if need be.

    The request stays in usage, reports and limits as it is. What was refunded doesn't expire.
    """
    amount_nano = parse_usd(amount) if amount is not None else None
    with open_store(ctx) as db:
        with db.write() as tx:
            moved = ledger.refund(tx, usage, amount_nano, ref=ref, note=text or None)
            row = ledger.entry_row(tx, moved.entry_id)
        account, nano = row["account"], row["amount_nano"]
        done = f"refunded {dollars(nano)} of request {usage} to {account}:"
        _tell(ctx, account, nano, moved, _once(moved, "refunded", done), usage_id=row["usage_id"])


@verb(
    app,
    "transfer",
    examples="""
    llmgate credits transfer alice bob 5
    llmgate credits transfer team:research alice 20 --note "for the hackathon"
    llmgate credits transfer alice bob 5 --ref move-17
    """,
)
def transfer(
    ctx: typer.Context,
    giver: Annotated[str, typer.Argument(metavar="FROM", help="A user, or team:NAME.")],
    taker: Annotated[str, typer.Argument(metavar="TO", help="A user, or team:NAME.")],
    usd: Amount,
    text: NoteOption = None,
    ref: RefOption = None,
    force: ForceOption = False,
) -> None:
    """Move credits from one account to another.

    Those that expire first are moved first; with their new account they don't expire any more. The first credits of an
    account make it prepaid, unless its billing was set by hand.
    """
    amount_nano = parse_usd(usd)
    with open_store(ctx) as db:
        with db.write() as tx:
            moved = ledger.transfer(tx, giver, taker, amount_nano, ref=ref, note=text or None, force=force)
        giver, taker = giver.removeprefix("user:"), taker.removeprefix("user:")
        done = f"transferred {dollars(amount_nano)} from {giver} to {taker}:"
        _tell(ctx, giver, -amount_nano, moved, _once(moved, "transferred", done), other=taker)


def _once(moved: ledger.Moved, what: str, done: str) -> str:
    if moved.reversed_by:
        return f"nothing was {what} again; this --ref was reversed by entry {moved.reversed_by} since, it is"
    return f"nothing was {what} again, this --ref is" if moved.repeated else done


def _tell(
    ctx: typer.Context,
    account: str,
    amount_nano: int,
    moved: ledger.Moved,
    done: str,
    *,
    usage_id: int | None = None,
    other: str | None = None,
) -> None:
    """What was done, the entry it became, and the balance now; of a transfer both."""
    row = {
        "entry": moved.entry_id,
        "account": account,
        "amount_usd": amount_nano,
        "balance_usd": moved.balance_nano,
        "became_prepaid": moved.became_prepaid,
        "repeated": moved.repeated,
        "reversed_by": moved.reversed_by,
    }
    columns: tuple[Column, ...] = MOVED
    said = f"{done} entry {moved.entry_id}, balance {dollars(moved.balance_nano)}"
    if usage_id is not None:
        columns, row = REFUNDED, row | {"usage_id": usage_id}
    if moved.other:
        columns = BOTH
        row |= {
            "became_prepaid": moved.other.became_prepaid,
            "other_entry": moved.other.entry_id,
            "other_account": other,
            "other_balance_usd": moved.other.balance_nano,
        }
        said += f"; {other}: entry {moved.other.entry_id}, balance {dollars(moved.other.balance_nano)}"
    result(ctx, columns, row, said)
    for line in consequences(other or account, moved.other or moved):
        note(line)
    for name, half in ((account, moved), (other, moved.other)):
        if name and half and half.stays_prepaid:
            note(f"{name} stays prepaid, though nothing is left: `{_set_billing(name)} default` undoes that too")


def _set_billing(account: str) -> str:
    kind, _, name = account.rpartition(":")
    return f"llmgate {kind or 'user'}s set {name} --billing"


def consequences(account: str, moved: ledger.Moved) -> list[str]:
    """What the first credits of an account change."""
    undo = f"{_set_billing(account)} metered"
    lines = []
    if moved.became_prepaid:
        lines.append(f"{account} is prepaid from now on: without a balance requests are refused (`{undo}` undoes that)")
    if moved.relieved:
        lines.append(f"{account} pays its own requests from now on, no longer {moved.relieved}")
    return lines


@verb(
    app,
    "history",
    examples="""
    llmgate credits history alice
    llmgate credits history team:research --format csv
    llmgate credits history alice --since 30d --last 20
    """,
)
def history(
    ctx: typer.Context,
    user: AccountName,
    since: Annotated[
        str | None, typer.Option("--since", metavar="WHEN", help="Only entries from then on: 30d, a date.")
    ] = None,
    last: Annotated[int | None, typer.Option("--last", metavar="N", min=1, help="Only the newest N.")] = None,
) -> None:
    """List the entries of an account, oldest first, each with the balance after it.

    What requests were charged is no entry: `charged` sums it up since the entry before. A request counts from the
    moment it was sent, even if it ended later. `left` is what is still unused of credits that expire.
    """
    with open_store(ctx) as db:
        ledger.expire_overdue(db)
        with db.read() as tx:
            account_id, name = accounts.account_of(tx, user)
            span = period(since, None, tx.now_ms, db.zone, precise=False)
            left = {lot.entry_id: lot.left_nano for lot in ledger.lots(tx, account_id)}
            rows = [_entry(row, left) for row in ledger.history(tx, account_id)]
            balance_nano = ledger.balance(tx, account_id)
        wanted = [row for row in rows if row["time"] >= (span.since_ms or 0)][-(last or 0) :]
        listing(ctx, ENTRIES, wanted, empty=f"{name} has no entries{' since then' if rows else ''}", zone=db.zone)
    since_nano = (rows[-1]["balance_usd"] if rows else 0) - balance_nano
    if since_nano:
        note(f"{dollars(since_nano)} were charged since: the balance of {name} is {dollars(balance_nano)}")


def _entry(row: StoreRow, left: dict[int, int]) -> Row:
    return {
        "entry": row["id"],
        "time": row["created_ms"],
        "amount_usd": row["amount_nano"],
        "charged_usd": row["charged_nano"],
        "balance_usd": row["balance_nano"],
        "expires_at": row["expires_ms"],
        "left_usd": left.get(row["id"], 0) if row["expires_ms"] is not None else None,
        **{name: row[name] for name in ("kind", "ref", "note", "reverses", "cause", "other", "usage_id", "actor")},
    }
