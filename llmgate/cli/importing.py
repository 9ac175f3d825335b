"""`llmgate import`: what `llmgate export` wrote, so that one box moves to another."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from itertools import chain, groupby
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TextIO

import typer

from ..clock import instant_ms
from ..config import timezone_name
from ..errors import Refusal, UsageError
from ..money import to_nano
from ..store import accounts, moving, workers
from .columns import Column, Kind
from .config import without_plan
from .context import config_of, loaded, open_store
from .export import EXPORTED, NEWER
from .grammar import alone, verb
from .output import result
from .progress import progress
from .session import note

app = alone()

COLUMNS = tuple(Column(f"{kind}{ending}", Kind.NUMBER) for kind in moving.KINDS for ending in ("", "_known"))
"""How many of each kind came, and how many were here already."""


class Told(NamedTuple):
    """One thing that a file tells."""

    where: str
    kind: str
    fields: dict[str, Any]


@verb(
    app,
    "import",
    examples="""
    llmgate import box.ndjson
    llmgate import teams.csv users.csv keys.csv
    """,
)
def import_(
    ctx: typer.Context,
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="What export wrote; - is stdin.")],
) -> None:
    """Take in what `llmgate export` wrote on another box: all of it, or nothing.

    Each file is CSV, JSON or NDJSON; one of NDJSON may hold zone, prices, teams, users, keys, pruned, usage and
    entries, in this order. Name what belongs together in one command, in any order: keys need their users, users their
    teams, usage and entries all of them; and an account's balance is its entries less its usage.

    Stop the daemon of this box first: nobody else can write meanwhile. The config, admin keys, events, the audit and
    the list of `llmgate prices update` don't move. Only a new box takes another time zone.

    Keys work at once. Entries and requests keep their numbers and times: a new box takes them, and so does one that
    took the first part of them before. What is here already is left alone, so the same command may be repeated; what is
    here otherwise is refused, with file, line and field.
    """
    with open_store(ctx) as db, ExitStack() as opened:
        if workers.living(db.path):
            note("a daemon serves this database: its requests wait until all is imported, or are refused")
        told = sorted((_told(opened, file) for file in dict.fromkeys(files)), key=lambda one: one[0])
        with db.write() as tx, progress("importing", None) as at:
            workers.check(tx, db.path)
            arrival = moving.Arrival(tx, own_zone=timezone_name(*loaded(ctx)) is not None)
            for kind, some in groupby(chain.from_iterable(rows for _, rows in told), key=lambda one: one.kind):
                arrival.take(kind, ((one.where, one.fields) for one in some))
                at(arrival.added.total() + arrival.known.total())
            arrival.end(" ".join(files))
            lost = list(accounts.without_plan(tx, config_of(ctx).plans)) if arrival.added else []
    row = {kind: arrival.added[kind] for kind in moving.KINDS}
    row |= {f"{kind}_known": arrival.known[kind] for kind in moving.KINDS}
    result(ctx, COLUMNS, row, _said(arrival))
    for name, plan in lost:
        note(without_plan(name, plan))
    if arrival.added:
        note(f"not moved: {STAYS}")


STAYS = "the config, admin keys (`llmgate admins add`), events, the audit, and the list of `llmgate prices update`"


def _said(arrival: moving.Arrival) -> str:
    added, known = (
        ", ".join(f"{number:,} {WORDS[kind][number != 1]}" for kind in moving.KINDS if (number := counts[kind]))
        for counts in (arrival.added, arrival.known)
    )
    also = f"; here already: {known}" if known else ""
    return f"imported {added or 'nothing'}{also}"


WORDS = {
    "zone": ("time zone", "time zones"),
    "prices": ("price", "prices"),
    "teams": ("team", "teams"),
    "users": ("user", "users"),
    "keys": ("key", "keys"),
    "pruned": ("sum of pruned requests", "sums of pruned requests"),
    "usage": ("request", "requests"),
    "entries": ("entry", "entries"),
}


# ── files ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _told(opened: ExitStack, file: str) -> tuple[int, Iterator[Told]]:
    """What a file tells, and when its turn is: what others refer to comes first."""
    rows = _read(_open(opened, file), "stdin" if file == "-" else file)
    first = next(rows, None)
    if first is None:
        return 0, iter(())
    return list(moving.KINDS).index(first.kind), chain([first], rows)


def _open(opened: ExitStack, file: str) -> TextIO:
    if file == "-":
        return sys.stdin
    try:
        return opened.enter_context(Path(file).open(encoding="utf-8-sig", newline=""))
    except OSError as error:
        raise UsageError(f"{file} can't be read: {(error.strerror or str(error)).lower()}") from error


def _read(stream: TextIO, file: str) -> Iterator[Told]:
    """Its first sign tells a file's format. JSON is read whole, the others line by line."""
    try:
        first = next((line for line in stream if line.strip()), "")
        for where, told in _FORMS.get(first.lstrip()[:1], _of_csv)(chain([first], stream), file):
            kind = _kind(where, told)
            yield Told(where, kind, _fields(where, kind, told))
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is no text in UTF-8") from error


Lines = Iterable[str]

Placed = Iterator[tuple[str, Any]]
"""Rows, each with where it stands."""


def _of_json(lines: Lines, file: str) -> Placed:
    rows = _decoded(file, "".join(lines))
    return ((f"{file}, row {number}", row) for number, row in enumerate(rows, 1))


def _of_ndjson(lines: Lines, file: str) -> Placed:
    for number, line in enumerate(lines, 1):
        if line.strip():
            where = f"{file}, line {number}"
            yield where, _decoded(where, line)


def _of_nothing(_: Lines, __: str) -> Placed:
    return iter(())


_FORMS: dict[str, Callable[[Lines, str], Placed]] = {"[": _of_json, "{": _of_ndjson, "": _of_nothing}


def _decoded(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise Refusal(f"{where}: is no JSON ({error}); nothing was imported") from error


def _of_csv(lines: Lines, file: str) -> Placed:
    reader = csv.reader(lines, strict=True)
    try:
        names = next(reader)
        _kind(f"{file}, line 1", dict.fromkeys(names))
        for cells in reader:
            where = f"{file}, line {reader.line_num}"
            if len(cells) != len(names):
                raise Refusal(f"{where}: has {len(cells)} fields, not {len(names)}; nothing was imported")
            yield where, dict(zip(names, cells, strict=True))
    except csv.Error as error:
        raise Refusal(f"{file}, line {reader.line_num}: is no CSV ({error}); nothing was imported") from error


def _kind(where: str, told: Any) -> str:
    """Which export has just these columns."""
    if not isinstance(told, dict):
        raise Refusal(f"{where}: is no object; nothing was imported")
    shared = {kind: len(_NAMES[kind] & told.keys()) for kind in moving.KINDS}
    kind = max(shared, key=lambda kind: (shared[kind], -len(_NAMES[kind])))
    for names, what in ((_NAMES[kind] - told.keys() - {*NEWER}, "lacks"), (told.keys() - _NAMES[kind], "has")):
        if names:
            named = ", ".join(sorted(names)[:3])
            raise Refusal(f"{where}: {what} {named}, so `llmgate export {kind}` didn't write it; nothing was imported")
    return kind


_NAMES = {kind: {column.name for column in EXPORTED[kind][0]} for kind in moving.KINDS}


# ── values ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _fields(where: str, kind: str, told: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a row as the store has them: nano-USD, milliseconds."""
    found = {}
    for column in EXPORTED[kind][0]:
        if column.name in NEWER and column.name not in told:
            continue
        try:
            found[column.name] = _value(column.kind, told[column.name])
        except (ValueError, TypeError, OverflowError) as error:
            what = _MEANT.get(column.kind, "text")
            raise Refusal(
                f"{where}: {column.name} {told[column.name]!r} is no {what} ({error}); nothing was imported"
            ) from error
    return found


def _value(kind: Kind, value: Any) -> Any:
    if value is None or value == "":
        return [] if kind is Kind.LIST else None
    read: Callable[[Any], Any] = _READ.get(kind, _text)
    return read(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value


def _number(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise TypeError("not a whole number")
    return int(value)


def _money(value: Any) -> int:
    text = _text(value)
    return -to_nano(text[1:]) if text.startswith("-") else to_nano(text)


def _flag(value: Any) -> bool:
    if value not in (True, False, "true", "false"):
        raise ValueError("write true or false")
    return value in (True, "true")


def _list(value: Any) -> list[Any]:
    if isinstance(value, str):
        value = json.loads(value) if value.startswith(("[{", '["')) else value.split(" ")
    if not isinstance(value, list):
        raise TypeError("not a list")
    return value


def _map(value: Any) -> dict[str, Any]:
    found = json.loads(value) if isinstance(value, str) else value
    if not isinstance(found, dict):
        raise TypeError("not an object")
    return found


_READ: dict[Kind, Callable[[Any], Any]] = {
    Kind.ID: _number,
    Kind.NUMBER: _number,
    Kind.MONEY: _money,
    Kind.TIME: lambda value: instant_ms(_text(value)),
    Kind.FLAG: _flag,
    Kind.LIST: _list,
    Kind.MAP: _map,
}
_MEANT = {
    Kind.ID: "number",
    Kind.NUMBER: "number",
    Kind.MONEY: "amount in USD",
    Kind.TIME: "time",
    Kind.FLAG: "true or false",
    Kind.LIST: "list",
    Kind.MAP: "object",
}
