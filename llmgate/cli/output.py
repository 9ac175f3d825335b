"""How data is written: one mechanism for every command.

A command says its columns once and hands over rows: mappings from a column's name to a plain value (nano-USD for money,
milliseconds for times). What a value looks like follows from its column's kind and the format that was asked for:
machines get exact values under stable names, people get what they can read.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import ModuleType
from typing import Any
from zoneinfo import ZoneInfo

import typer

from .columns import Column, Kind, Row, Show, exact, says_nothing, shown
from .session import Format, note, session, visible


def listing(
    ctx: typer.Context,
    columns: Sequence[Column],
    rows: Iterable[Row],
    *,
    empty: str,
    zone: ZoneInfo | None = None,
    total: Row | None = None,
) -> int:
    """Write rows in the format that was asked for. `total` ends a table; `empty` is said where there is no row.

    Returns how many there were.
    """
    wanted = session(ctx).wanted
    counted = _Counted(rows)
    if wanted is Format.TABLE:
        table(columns, list(counted), zone, total)
    else:
        _STREAMS[wanted](columns, counted, zone)
    if empty and not counted.number:
        note(empty)
    return counted.number


def following(ctx: typer.Context, columns: Sequence[Column], rows: Iterable[Row], *, zone: ZoneInfo | None) -> None:
    """Write rows that have no end, each as it comes: JSON is an object a line, a table's columns grow as they must."""
    wanted = session(ctx).wanted
    if wanted is Format.TABLE:
        from . import plain

        plain.follow(columns, ({column: shown(column, row, zone) for column in columns} for row in rows))
    else:
        ({**_STREAMS, Format.JSON: _ndjson}[wanted])(columns, rows, zone)


def exported(columns: Sequence[Column], rows: Iterable[Row], form: str) -> None:
    """Write rows for a program, in constant memory. `form` is one of `EXPORTS`."""
    EXPORTS[form](columns, rows, None)


def single(ctx: typer.Context, columns: Sequence[Column], row: Row, *, zone: ZoneInfo | None = None) -> None:
    """Write one thing: an object in JSON, else its fields one below the other."""
    wanted = session(ctx).wanted
    if wanted is Format.JSON:
        _line(json.dumps(_object(columns, row), ensure_ascii=ascii_only(), indent=2))
    elif wanted is Format.CSV:
        _csv(columns, [row], zone)
    else:
        fields = [{"field": column.title, "value": shown(column, row, zone)} for column in columns]
        pair = (Column("field", Kind.WORD), Column("value"))
        if wanted is Format.MD:
            _md(pair, fields, zone)
        else:
            _medium().write_fields([(field["field"], field["value"]) for field in fields])


def result(ctx: typer.Context, columns: Sequence[Column], row: Row, said: str, *, zone: ZoneInfo | None = None) -> None:
    """Tell what a command has done: in words on stderr, or the thing itself where a format was asked for."""
    if session(ctx).wanted is Format.TABLE:
        note(said)
    else:
        single(ctx, columns, row, zone=zone)


def verdict(ctx: typer.Context, text: str) -> None:
    """What a check says where it found nothing: its whole answer to a reader, and a remark beside any other format."""
    if session(ctx).wanted is Format.TABLE:
        _line(visible(text))
    else:
        note(text)


class _Counted:
    """Rows that go by, and how many there were."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows = rows
        self.number = 0

    def __iter__(self) -> Iterator[Row]:
        for row in self.rows:
            self.number += 1
            yield row


# ── for machines ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _object(columns: Sequence[Column], row: Row) -> dict[str, Any]:
    return {column.name: exact(column, row) for column in columns}


def _json(columns: Sequence[Column], rows: Iterable[Row], zone: ZoneInfo | None) -> None:  # noqa: ARG001
    """An array, one row a line: it is written as it comes, and `grep` can read it."""
    between, encode = "[", json.JSONEncoder(ensure_ascii=ascii_only()).encode
    for row in rows:
        sys.stdout.write(f"{between}\n  {encode(_object(columns, row))}")
        between = ","
    _line("[]" if between == "[" else "\n]")


def _ndjson(columns: Sequence[Column], rows: Iterable[Row], zone: ZoneInfo | None) -> None:  # noqa: ARG001
    """An object a line."""
    encode = json.JSONEncoder(ensure_ascii=ascii_only()).encode
    for row in rows:
        _line(encode(_object(columns, row)))


def _csv(columns: Sequence[Column], rows: Iterable[Row], zone: ZoneInfo | None) -> None:  # noqa: ARG001
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([column.name for column in columns])
    writer.writerows([_cell(exact(column, row)) for column in columns] for row in rows)


def _cell(value: Any) -> Any:
    """A value in one field of CSV: a list with blanks between; a map, or a list of more than words, as JSON."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        if any(not isinstance(item, str) or " " in item for item in value):
            return json.dumps(value, ensure_ascii=False)
        return " ".join(str(item) for item in value)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value


def ascii_only() -> bool:
    """Whether what reads the output can't be given more than ASCII."""
    return (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"


# ── for people ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _medium() -> ModuleType:
    """What draws tables: for a terminal, or for a pipe or a file."""
    if sys.stdout.isatty():
        from . import screen

        return screen
    from . import plain

    return plain


def table(columns: Sequence[Column], rows: list[Row], zone: ZoneInfo | None, total: Row | None) -> None:
    """A table for people."""
    if rows:
        _medium().write(*laid_out(columns, rows, zone, total))


def laid_out(
    columns: Sequence[Column], rows: list[Row], zone: ZoneInfo | None, total: Row | None
) -> tuple[list[Column], list[list[str]], list[str] | None]:
    """The columns that a table has, what stands in it, and in the line that ends it."""
    chosen = [column for column in columns if _belongs(column, rows)]
    cells = [[shown(column, row, zone) for column in chosen] for row in rows]
    last = [shown(column, total, zone) if column.name in total else "" for column in chosen] if total else None
    for at, column in enumerate(chosen):
        if column.kind is Kind.MONEY:
            _align([*cells, last] if last else cells, at)
    return chosen, cells, last


def _align(cells: Sequence[list[str]], at: int) -> None:
    """Give the amounts of a column as many decimals each, so that their points stand one below the other."""
    most = max((len(row[at].partition(".")[2]) for row in cells), default=0)
    for row in cells:
        if row[at]:
            row[at] += "0" * (most - len(row[at].partition(".")[2]))


def _belongs(column: Column, rows: list[Row]) -> bool:
    if column.show in (Show.ALWAYS, Show.NEVER) or (column.show is Show.PIPED and sys.stdout.isatty()):
        return column.show is Show.ALWAYS
    return _says_something(column, rows)


def _says_something(column: Column, rows: Sequence[Row]) -> bool:
    return any(row[column.name] != 0 and not says_nothing(row[column.name]) for row in rows)


def _md(columns: Sequence[Column], rows: Iterable[Row], zone: ZoneInfo | None) -> None:
    rows = list(rows)
    beside = [column for column in columns if column.show is Show.PIPED and _says_something(column, rows)]
    chosen = [column for column in columns if column.show not in (Show.NEVER, Show.PIPED) or column in beside]
    _line(_md_line(column.title for column in chosen))
    _line(_md_line("---:" if column.right else "---" for column in chosen))
    for row in rows:
        _line(_md_line(shown(column, row, zone).replace("\\", "\\\\").replace("|", "\\|") for column in chosen))


def _md_line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _line(text: str) -> None:
    sys.stdout.write(f"{text}\n")


_STREAMS: dict[Format, Callable[[Sequence[Column], Iterable[Row], ZoneInfo | None], None]] = {
    Format.JSON: _json,
    Format.CSV: _csv,
    Format.MD: _md,
}

EXPORTS = {"csv": _csv, "json": _json, "ndjson": _ndjson}
