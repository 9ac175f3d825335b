"""What a command shows: columns of a kind, and what a value of that kind looks like to a machine and to people."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from ..clock import rfc3339
from ..money import dollars, usd
from .session import visible

Row = Mapping[str, Any]


class Kind(Enum):
    """What a column holds."""

    TEXT = auto()
    WORD = auto()
    """A short text: a name."""
    STATE = auto()
    """A word that is coloured by what it says."""
    ID = auto()
    """What one thing is named by in a command: never broken over lines."""
    NUMBER = auto()
    MONEY = auto()
    """nano-USD."""
    PERCENT = auto()
    """Tenths of a percent."""
    SHARE = auto()
    """A part and the whole."""
    FIGURE = auto()
    """A count, or an amount of USD as a decimal string: what a limit is about decides."""
    TIME = auto()
    """Milliseconds since the epoch."""
    LIST = auto()
    MAP = auto()
    FLAG = auto()


class Show(Enum):
    """Whether a table of many rows has the column. JSON, CSV and a single thing always have all."""

    ALWAYS = auto()
    USED = auto()
    """Only where some row has a value."""
    PIPED = auto()
    """As USED, but never on a terminal, which is narrow."""
    NEVER = auto()
    """Other columns tell the same."""
    SPARE = auto()
    """Only where there is room for it beside all others; in tables only, so nothing is lost without it."""


class Column(NamedTuple):
    name: str
    kind: Kind = Kind.TEXT
    show: Show = Show.ALWAYS
    minor: int = 0
    """Where a terminal is too narrow even for folded texts, the most minor columns go first; 0 never goes."""

    @property
    def title(self) -> str:
        """What a table calls it."""
        return self.name.removesuffix("_usd").removesuffix("_at").replace("_", " ")

    @property
    def right(self) -> bool:
        """Whether its values stand at the right edge."""
        return self.kind in (Kind.NUMBER, Kind.MONEY, Kind.PERCENT, Kind.SHARE, Kind.FIGURE)


def exact(column: Column, row: Row) -> Any:
    """A value as JSON carries it: money a decimal string of USD, a time RFC 3339 in UTC."""
    value = row[column.name]
    convert = EXACT.get(column.kind)
    return convert(value) if convert is not None and value is not None else value


EXACT: Mapping[Kind, Callable[[Any], Any]] = {
    Kind.MONEY: usd,
    Kind.TIME: lambda value: rfc3339(value) if isinstance(value, int) else value,
    Kind.PERCENT: lambda value: value / 10,
    Kind.FLAG: bool,
}


def shown(column: Column, row: Row, zone: ZoneInfo | None) -> str:
    """A value as people read it."""
    value = row[column.name]
    if value is None:
        return ""
    if isinstance(value, str) and column.kind is not Kind.FIGURE:
        return visible(value)
    match column.kind:
        case Kind.MONEY:
            return dollars(value)
        case Kind.NUMBER:
            return f"{value:,}"
        case Kind.PERCENT:
            return f"{value / 10:+,.1f}%"
        case Kind.SHARE:
            return share(*value)
        case Kind.FIGURE:
            return f"{value:,}" if isinstance(value, int) else f"${value}"
        case Kind.TIME if isinstance(value, int):
            return _local(value, zone)
        case Kind.FLAG:
            return "yes" if value else "no"
        case Kind.LIST:
            return visible(", ".join(str(item) for item in value))
        case Kind.MAP:
            return visible(", ".join(f"{name}={_item(item)}" for name, item in value.items() if not says_nothing(item)))
    return visible(str(value))


def share(part: int, whole: int) -> str:
    """A part in percent; one that is there is never told as nothing."""
    if not whole:
        return ""
    tenths = (2000 * part + whole) // (2 * whole)
    return "<0.1%" if part and not tenths else f"{tenths / 10:.1f}%"


def says_nothing(value: Any) -> bool:
    return value is None or value is False or value in ("", [], (), {})


def _item(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{name}={_item(item)}" for name, item in value.items())
    return " ".join(str(part) for part in value) if isinstance(value, list) else str(value)


def _local(ms: int, zone: ZoneInfo | None) -> str:
    moment = datetime.fromtimestamp(ms // 1000, UTC).astimezone(zone or UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%S")
