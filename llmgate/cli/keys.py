"""`llmgate keys`: issue, list, change and revoke keys."""

from __future__ import annotations

import sys
from typing import Annotated, Any, NamedTuple

import msgspec
import typer

from .. import clock
from ..errors import Failure, reason
from ..money import dollars, parse_usd
from ..plans import policy_of
from ..store import keys, ledger
from ..store.db import Database
from ..store.db import Row as StoreRow
from ..store.issuing import Wish, issue
from ..types import Billing
from .addresses import base_url
from .columns import Column, Kind, Row, Show, shown
from .context import config_of, open_store
from .credits import consequences
from .grammar import noun, verb
from .options import NoteOption, require_changes, retagged, tags, words
from .output import listing, result, single
from .plans import PlanOption, check_plan
from .session import Format, confirm, note, session, uninterrupted

app = noun("keys", "Keys: who may send requests, and which.")

COLUMNS = (
    Column("id", Kind.ID),
    Column("user", Kind.WORD),
    Column("name", Kind.WORD),
    Column("prefix", Kind.WORD, minor=1),
    Column("plan", Kind.WORD, Show.USED),
    Column("models", Kind.LIST, Show.USED),
    Column("ips", Kind.LIST, Show.USED),
    Column("expires_at", Kind.TIME, Show.USED),
    Column("last_used_at", Kind.TIME, Show.USED, minor=2),
    Column("status", Kind.STATE),
    Column("created_at", Kind.TIME, Show.PIPED),
    Column("team", Kind.WORD, Show.PIPED),
    Column("tags", Kind.MAP, Show.PIPED),
    Column("note", Kind.TEXT, Show.PIPED),
)

ISSUED = (
    Column("key", Kind.WORD),
    *COLUMNS,
    Column("base_url", Kind.WORD),
    Column("user_added", Kind.FLAG),
    Column("became_prepaid", Kind.FLAG),
)
"""What is told of a key at the only moment when it is known."""

NEVER = "never"

MAY = "What it may do"
"""The heading of what a key is held to."""

KeyName = Annotated[str, typer.Argument(metavar="KEY", help="Its id, USER/NAME, or a USER with one key.")]
ModelsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--models", metavar="GLOB", help="Allow only the models that match, such as 'gpt-4o*'.", rich_help_panel=MAY
    ),
]
IpsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--ips", metavar="CIDR", help="Allow only requests from this address or network.", rich_help_panel=MAY
    ),
]
TagsOption = Annotated[
    list[str] | None, typer.Option("--tag", metavar="K=V", help="Tag every request that is made with the key.")
]
ExpiresOption = Annotated[
    str | None,
    typer.Option(
        "--expires",
        metavar="WHEN",
        help="When it ends: 90d, or 2027-01-31 (through the end of that day).",
        rich_help_panel=MAY,
    ),
]


def row_of(key: StoreRow) -> Row:
    """A key as it is shown."""
    return {
        **{name: key[name] for name in ("id", "user", "name", "prefix", "plan", "team", "note")},
        **{name: msgspec.json.decode(key[name]) for name in ("models", "ips", "tags")},
        **{f"{name}_at": key[f"{name}_ms"] for name in ("expires", "last_used", "created")},
        "status": key["state"],
    }


@verb(
    app,
    "list",
    examples="""
    llmgate keys
    llmgate keys --user alice --all
    llmgate keys --json | jq -r '.[].id'
    """,
)
def list_(
    ctx: typer.Context,
    user: Annotated[str | None, typer.Option("--user", metavar="USER", help="Only this user's.")] = None,
    dead: Annotated[bool, typer.Option("--all", help="Expired and revoked ones as well.")] = False,
) -> None:
    """List keys."""
    with open_store(ctx) as db:
        with db.read() as tx:
            rows = [row_of(key) for key in keys.list_keys(tx, user=user, dead=dead)]
        empty = f"there is no key{f' of {user}' if user else ''}: `llmgate keys add {user or 'USER'}` issues one"
        listing(ctx, COLUMNS, rows, empty=empty, zone=db.zone)


@verb(
    app,
    "show",
    examples="""
    llmgate keys show alice
    llmgate keys show alice/default --json
    """,
)
def show(ctx: typer.Context, key: KeyName) -> None:
    """Show all that is known of a key; the key itself is not."""
    with open_store(ctx) as db:
        with db.read() as tx:
            row = row_of(keys.key_row(tx, key))
        single(ctx, COLUMNS, row, zone=db.zone)


class Done(NamedTuple):
    """A key that was issued, and what came with it."""

    key: str
    row: Row
    user_added: bool
    moved: ledger.Moved | None
    others: list[str]
    """The user's other keys, where this one's name was not asked for: perhaps it was not meant."""


@verb(
    app,
    "add",
    examples="""
    llmgate keys add alice
    llmgate keys add bob --plan starter --limit '10 requests/minute'
    llmgate keys add alice --name laptop --credits 5 --models 'gpt-4o*' --expires 90d
    KEY=$(llmgate keys add ci --tag job=nightly --ips 10.0.0.0/8)
    """,
)
def add(
    ctx: typer.Context,
    user: Annotated[str, typer.Argument(metavar="USER", help="Who it is for; made if new.")],
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="Its name [default: default].")] = None,
    plan: PlanOption = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            "--limit",
            metavar="SPEC",
            help="A limit of this key, such as '60 requests/minute'.",
            rich_help_panel=MAY,
        ),
    ] = None,
    credits_usd: Annotated[
        str | None, typer.Option("--credits", metavar="USD", help="Add credits to the user as well.")
    ] = None,
    models: ModelsOption = None,
    ips: IpsOption = None,
    expires: ExpiresOption = None,
    tag: TagsOption = None,
    text: NoteOption = None,
) -> None:
    """Issue a key; its user is made if new. The key is shown this once.

    On a pipe the key alone goes to stdout.
    """
    credits_nano = parse_usd(credits_usd) if credits_usd is not None else None
    wish = Wish(user, name, credits_nano, words(models), words(ips), tags(tag), text or None, expires, plan, limit)
    check_plan(ctx, plan)
    config = config_of(ctx)
    with open_store(ctx) as db, uninterrupted():
        with db.write() as tx:
            issued, added, moved = issue(tx, wish, policy_of(config), Billing(config.defaults.billing))
            others = [key["name"] for key in keys.list_keys(tx, user=user) if key["id"] != issued.id and name is None]
            done = Done(issued.key, row_of(keys.key_row(tx, issued.id)), added, moved, others)
        _hand_over(ctx, db, done)


def _hand_over(ctx: typer.Context, db: Database, done: Done) -> None:
    """Show a key, or say what to do where it can't be shown: it is known at no other moment."""
    try:
        _show(ctx, db, done)
        sys.stdout.flush()
    except OSError as error:
        raise Failure(
            f"key {done.row['id']} of {_full_name(done.row)} was issued, but can't be shown "
            f"({reason(error)}): `llmgate keys rotate {done.row['id']}` gives another"
        ) from error


def _show(ctx: typer.Context, db: Database, done: Done) -> None:
    """Show a key at the only moment when it is known: on a terminal with what to do next, on a pipe alone."""
    url = base_url(ctx)
    if session(ctx).wanted is not Format.TABLE:
        became = bool(done.moved and done.moved.became_prepaid)
        row = {**done.row, "key": done.key, "base_url": url, "user_added": done.user_added, "became_prepaid": became}
        single(ctx, ISSUED, row, zone=db.zone)
    elif sys.stdout.isatty():
        _panel(db, done, url)
    else:
        sys.stdout.write(f"{done.key}\n")
        note(f"key {done.row['id']} of {_full_name(done.row)}, for {url}; it is shown this once")
        for line in _about_user(done):
            note(line)


def _full_name(row: Row) -> str:
    return f"{row['user']}/{row['name']}"


def _about_user(done: Done) -> list[str]:
    """What else has happened, in words."""
    user = done.row["user"]
    lines = [f"user {user} is new"] if done.user_added else []
    if done.others:
        several = f"{len(done.others)} other keys: `llmgate keys --user {user}` lists them"
        lines.append(f"{user} has {several if len(done.others) > 1 else f'another key: {user}/{done.others[0]}'}")
    if done.moved:
        lines.append(f"{user} has {dollars(done.moved.balance_nano)} of credits")
        lines += consequences(user, done.moved)
    return lines


def _panel(db: Database, done: Done, url: str) -> None:
    from . import screen

    facts = {column.name: shown(column, done.row, db.zone) for column in COLUMNS}
    fields = [
        ("base URL", url),
        ("id", f"{facts['id']} ({_full_name(done.row)})"),
        ("models", facts["models"] or "all that are configured"),
        ("from", facts["ips"] or "any address"),
        ("expires", facts["expires_at"] or NEVER),
    ]
    following = "Next: `llmgate serve`; the base URL and the key go into any client that speaks OpenAI."
    about = [f"{line}." for line in _about_user(done)]
    once = "It is shown this once; `llmgate keys rotate` makes a new one if it is lost."
    screen.write_panel(f"A key for {done.row['user']}", [done.key, once, "", fields, "", *about, following])


@verb(
    app,
    "set",
    examples="""
    llmgate keys set alice/default --name laptop --expires 90d
    llmgate keys set alice --models 'gpt-4o*' --models sandbox/echo
    llmgate keys set alice --models '' --expires never --tag job=
    """,
)
def set_(
    ctx: typer.Context,
    key: KeyName,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="Another name.")] = None,
    models: ModelsOption = None,
    ips: IpsOption = None,
    expires: ExpiresOption = None,
    tag: TagsOption = None,
    text: NoteOption = None,
) -> None:
    """Change a key; what is not named stays as it is.

    --models and --ips replace the whole list, and '' empties it; --tag K= takes a tag away; --expires never and --note
    '' take away theirs.
    """
    with open_store(ctx) as db:
        with db.write() as tx:
            changes: dict[str, Any] = {}
            if name is not None:
                changes["name"] = name
            if models is not None:
                changes["models"] = words(models)
            if ips is not None:
                changes["ips"] = words(ips)
            if tag is not None:
                changes["tags"] = retagged(row_of(keys.key_row(tx, key))["tags"], tag)
            if text is not None:
                changes["note"] = text or None
            if expires is not None:
                changes["expires_ms"] = None if expires == NEVER else clock.expires_ms(expires, tx.now_ms, db.zone)
            require_changes(changes, "--name, --models, --ips, --expires, --tag or --note")
            row = row_of(keys.change(tx, key, changes))
        result(ctx, COLUMNS, row, f"changed key {row['id']} of {_full_name(row)}", zone=db.zone)


@verb(
    app,
    "rotate",
    examples="""
    llmgate keys rotate alice
    llmgate keys rotate alice/laptop --grace 24h
    """,
)
def rotate(
    ctx: typer.Context,
    key: KeyName,
    grace: Annotated[
        str | None, typer.Option("--grace", metavar="DURATION", help="How long the old one still works: 24h.")
    ] = None,
) -> None:
    """Replace a key by a new one under the same id; the old one ends at once, or after --grace."""
    with open_store(ctx) as db, uninterrupted():
        with db.write() as tx:
            grace_ms = clock.after_ms(grace, tx.now_ms, db.zone) - tx.now_ms if grace is not None else 0
            issued = keys.rotate(tx, key, grace_ms=grace_ms)
            done = Done(issued.key, row_of(keys.key_row(tx, issued.id)), user_added=False, moved=None, others=[])
        _hand_over(ctx, db, done)


def _switch(ctx: typer.Context, key: str, verb_: str) -> None:
    with open_store(ctx) as db:
        with db.write() as tx:
            row = row_of(keys.set_state(tx, key, verb_))
        result(ctx, COLUMNS, row, f"key {row['id']} of {_full_name(row)} is {row['status']}", zone=db.zone)


@verb(app, "disable", examples="llmgate keys disable alice/laptop")
def disable(ctx: typer.Context, key: KeyName) -> None:
    """Refuse a key's requests until it is enabled again."""
    _switch(ctx, key, "disable")


@verb(app, "enable", examples="llmgate keys enable alice/laptop")
def enable(ctx: typer.Context, key: KeyName) -> None:
    """Let a disabled key work again."""
    _switch(ctx, key, "enable")


@verb(
    app,
    "revoke",
    examples="""
    llmgate keys revoke alice/laptop
    llmgate keys revoke k-7hq2m9xd --yes
    """,
)
def revoke(ctx: typer.Context, key: KeyName) -> None:
    """End a key for good; it asks first."""
    with open_store(ctx) as db:
        with db.read() as tx:
            row = row_of(keys.key_row(tx, key))
        confirm(ctx, f"Revoke key {row['id']} of {_full_name(row)}? That can't be undone.")
    _switch(ctx, row["id"], "revoke")
