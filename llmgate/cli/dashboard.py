"""What the live screen looks like. Pure: a state and the room in, lines of text out.

Everything is a section: a few columns with a title each, and rows. Sections stand beside each other where there is
room, else one below the other; each gets its fair share of the lines, and says so where it has more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import zip_longest
from typing import NamedTuple
from zoneinfo import ZoneInfo

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from ..limits import Window
from ..money import dollars
from ..store.limits import Listed, as_row
from ..store.watch import MOST_NEAR
from .columns import Column, Kind, Show, shown
from .layout import GAP, Cells
from .rates import HEALTH_S, Health, Rate, Share, State
from .session import visible

BARS = " ▁▂▃▄▅▆▇█"
ASCII_BARS = " .:-=+*#@"

BESIDE = {240: 3, 110: 2}
"""From how many columns of the terminal on so many sections stand beside each other."""

BETWEEN = 4
"""Blanks between two that do."""

NARROWEST = 8
"""Columns that a name keeps, however little room there is."""

ROOMY = 24
"""From how many lines of the terminal on one is left empty."""

AIRY = 5
"""From how many lines for each section on one is left empty between two, also where there is more to tell."""


class Section(NamedTuple):
    """One table of the screen: its cells row by row, and the style that each row stands out by."""

    columns: Sequence[Column]
    rows: Sequence[Cells]
    styles: Sequence[str]
    empty: str
    more: bool
    """There may be more than those."""


class Look(NamedTuple):
    """How it is drawn, whatever there is to see."""

    width: int
    height: int
    zone: ZoneInfo
    ascii: bool = False


# ── what is told ──────────────────────────────────────────────────────────────────────────────────────────────────────


def rates(state: State) -> Section:
    columns = (Column("over", Kind.WORD), *_per_second_of(), *_numbers("errors"))
    rows = [(span(rate.seconds * 1000), *_per_second(rate), _part(rate)) for rate in (state.now, state.window)]
    return _section(columns, rows, ["", ""], "")


def flights(state: State) -> Section:
    columns = (
        *_numbers("in flight"),
        *(Column("user", Kind.WORD), Column("model", Kind.WORD), Column("upstream", Kind.WORD, minor=2)),
        *(Column("held", Kind.MONEY, minor=1), Column("request id", Kind.ID, minor=3)),
    )
    rows = [
        (
            span(max(state.now_ms - one.placed_ms, 0)),
            *(one.user, visible(one.model), visible(one.upstream), _money(one.hold_nano), one.request_id),
        )
        for one in state.in_flight
    ]
    return _section(columns, rows, ["red" if one.stranded else "" for one in state.in_flight], "nothing is in flight")


def users(state: State) -> Section:
    return _shares("user", state.users, state)


def models(state: State) -> Section:
    return _shares("model", state.models, state)


def _shares(title: str, shares: Sequence[Share], state: State) -> Section:
    columns = (
        *(Column(title, Kind.WORD), *_per_second_of()),
        *(Column("errors", Kind.NUMBER, minor=1), Column("in flight", Kind.NUMBER, minor=2)),
    )
    rows = [
        (visible(one.name), *_per_second(one.rate), _count(one.rate.sums.errors), _count(one.in_flight))
        for one in shares
    ]
    return _section(columns, rows, [""] * len(rows), f"no {title} in the last {span(state.window_s * 1000)}")


def upstreams(state: State) -> Section:
    columns = (
        *(Column("upstream", Kind.WORD), *_numbers("requests", "errors", "first byte")),
        *(Column("p95", Kind.NUMBER, minor=2), Column("in flight", Kind.NUMBER, minor=3)),
        *(Column("wasted", Kind.MONEY, Show.USED, minor=4), Column("last error", Kind.WORD, minor=1)),
    )
    rows = [
        (
            *(visible(one.name), f"{one.rate.sums.requests:,}", _part(one.rate), _took(one.median_ms)),
            *(_took(one.slow_ms), _count(one.in_flight), _money(one.wasted_nano) if one.wasted_nano else ""),
            _last_error(one, state.now_ms),
        )
        for one in state.upstreams
    ]
    styles = [_alarm(one.rate.sums.errors * 100, one.rate.sums.requests * ALARMING) for one in state.upstreams]
    health_s = max([HEALTH_S, *(one.rate.seconds for one in state.upstreams)])
    return _section(columns, rows, styles, f"no upstream has answered in the last {span(health_s * 1000)}")


ALARMING = 20
"""Percent of an upstream's requests that ended as errors: from there on it is red."""


def near(state: State) -> Section:
    columns = (
        *(Column("near limit", Kind.WORD), Column("limit", Kind.WORD), *_numbers("used")),
        *(Column("left", Kind.NUMBER, minor=1), Column("resets", Kind.NUMBER, minor=2)),
    )
    rows = [
        (
            *(one.target, visible(str(one.standing.limit)), f"{one.standing.percent:,} %"),
            *(_left(one), _resets(one, state.now_ms)),
        )
        for one in state.near
    ]
    styles = [_alarm(one.standing.percent, 100) for one in state.near]
    return _section(columns, rows, styles, "no limit is near its end", more=len(rows) == MOST_NEAR)


def serving(state: State) -> tuple[str, str]:
    """Which daemons live, and how that stands out."""
    match state.daemons:
        case []:
            return "no daemon is running: `llmgate serve` starts one", "yellow"
        case [one]:
            return f"pid {one.pid} serves, for {span(max(state.now_ms - one.started_ms, 0))}", ""
    return f"{len(state.daemons)} processes serve: pid {', '.join(str(one.pid) for one in state.daemons)}", ""


def stranded(state: State) -> str:
    """What to say of requests in flight whose process died."""
    if not state.stranded:
        return ""
    are = "request in flight is" if state.stranded == 1 else "requests in flight are"
    return f"{state.stranded} {are} of a process that died, and will be booked as interrupted"


def clock(state: State, zone: ZoneInfo) -> str:
    return f"{datetime.fromtimestamp(state.now_ms // 1000, UTC).astimezone(zone):%H:%M:%S}"


def _last_error(one: Health, now_ms: int) -> str:
    if one.last_error is None:
        return ""
    ago = span(now_ms - one.last_error.ended_ms)
    return f"{one.last_error.http_status or 'broken'}, {ago} ago"


def _left(one: Listed) -> str:
    row = as_row("", one.standing)
    return shown(Column("remaining", Kind.FIGURE), row, None)


def _resets(one: Listed, now_ms: int) -> str:
    return "" if one.standing.limit.window is Window.TOTAL else f"in {span(one.standing.span.end_ms - now_ms)}"


def _alarm(number: int, bad: int) -> str:
    """Red from `bad` on, yellow for less, nothing for nothing."""
    return "" if not number else "red" if number >= bad else "yellow"


def _section(
    columns: Sequence[Column], rows: Sequence[Cells], styles: Sequence[str], empty: str, *, more: bool = False
) -> Section:
    """With the points of its amounts one below the other."""
    cells = [list(row) for row in rows]
    for at, column in enumerate(columns):
        if column.kind is Kind.MONEY:
            decimals = [len(row[at].partition(".")[2]) for row in cells]
            for row, found in zip(cells, decimals, strict=True):
                row[at] += " " * (max(decimals) - found) if row[at] else ""
    return Section(columns, cells, styles, empty, more)


# ── numbers as people read them ───────────────────────────────────────────────────────────────────────────────────────


def _numbers(*names: str) -> Iterator[Column]:
    return (Column(name, Kind.NUMBER) for name in names)


def _per_second_of() -> tuple[Column, ...]:
    return (*_numbers("requests/s", "tokens/s"), Column("USD/s", Kind.MONEY))


def _per_second(rate: Rate) -> tuple[str, str, str]:
    sums = rate.sums
    return (
        figure(rate.per_second(sums.requests)),
        figure(rate.per_second(sums.tokens)),
        _money(rate.nano_per_second(sums.charge_nano)),
    )


def figure(number: float) -> str:
    """To about three digits, and never rounded to nothing."""
    if not number:
        return "0"
    if number < 0.01:
        return f"{number:.2g}"
    return f"{number:,.0f}" if number >= 100 else f"{number:.1f}" if number >= 10 else f"{number:.2f}"


def _money(nano: int) -> str:
    """To three digits."""
    return dollars(round(nano, 3 - len(str(nano))))


def _count(number: int) -> str:
    return f"{number:,}" if number else ""


def _part(rate: Rate) -> str:
    """How many of the requests ended as errors."""
    errors = rate.sums.errors
    if not errors:
        return ""
    percent = 100 * errors / rate.sums.requests
    part = f"{percent:.0f}" if percent >= 10 else f"{percent:.1f}" if percent >= 0.1 else "<0.1"
    return f"{errors:,} ({part} %)"


def _took(ms: int | None) -> str:
    return "" if ms is None else f"{ms}ms" if ms < 1000 else span(ms)


def span(ms: int) -> str:
    """A length of time in its two largest units: `0.3s`, `12s`, `3m 10s`, `2h 5m`."""
    if ms < 10_000:
        return f"{ms / 1000:.1f}".removesuffix(".0") + "s"
    seconds = ms // 1000
    for length, unit, part, smaller in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "m"), (60, "m", 1, "s")):
        if seconds >= length:
            rest = seconds % length // part
            return f"{seconds // length}{unit}" + (f" {rest}{smaller}" if rest else "")
    return f"{seconds}s"


def bars(numbers: Sequence[int], signs: str = BARS) -> str:
    """A bar for each number: blank for nothing, the highest for the most."""
    most, steps = max(numbers, default=0) or 1, len(signs) - 1
    return "".join(signs[-(-number * steps // most)] for number in numbers)


def sections(state: State) -> Iterator[Section]:
    """All of them, where there is room."""
    return (section(state) for section in (rates, flights, users, models, upstreams, near))


# ── where it stands ───────────────────────────────────────────────────────────────────────────────────────────────────


def screen(state: State, look: Look) -> Text:
    """The whole screen: at most `height` lines of at most `width` columns."""
    top = [*_head(state, look), *_lines(rates(state), look.width, 2, look.ascii), _history(state, look)]
    if look.height >= ROOMY:
        top.append(Text())
    shelves = _shelves(state, look.width)
    width = (look.width - BETWEEN * (len(shelves) - 1)) // len(shelves)
    height = look.height - len(top)
    columns = [_shelf(sections, width, height, look.ascii) for sections in shelves]
    lines = [*top, *(_beside(row, width) for row in zip_longest(*columns, fillvalue=Text()))][: look.height]
    for line in lines:
        line.truncate(look.width)
    return Text("\n", no_wrap=True).join(lines)


def _head(state: State, look: Look) -> Iterator[Text]:
    told, style = serving(state)
    hint = "q ends"
    line = Text(f"{clock(state, look.zone)}  ").append(told, style)
    line.truncate(look.width, overflow="crop" if look.ascii else "ellipsis")
    room = look.width - line.cell_len - len(hint)
    yield line.append(" " * room).append(hint, "dim") if room >= GAP else line
    if warning := stranded(state):
        yield Text(_cut(warning, look.width, look.ascii), "red")


def _history(state: State, look: Look) -> Text:
    label, most = "requests  ", f"  most {max(state.history):,} in {span(state.cell_s * 1000)}"
    room = max(look.width - len(label) - len(most), 0)
    shown_ = state.history[-room:] if room else []
    return Text(label, "dim").append(bars(shown_, ASCII_BARS if look.ascii else BARS), "cyan").append(most, "dim")


def _shelves(state: State, width: int) -> list[list[Section]]:
    """The sections, one below the other on each shelf, and the shelves beside each other."""
    match next((number for least, number in BESIDE.items() if width >= least), 1):
        case 3:
            return [[flights(state), near(state)], [users(state), models(state)], [upstreams(state)]]
        case 2:
            return [[flights(state), users(state)], [upstreams(state), models(state), near(state)]]
    return [[flights(state), users(state), models(state), upstreams(state), near(state)]]


def _shelf(sections: Sequence[Section], width: int, height: int, ascii_: bool) -> list[Text]:
    everything = sum(1 + len(section.rows) for section in sections) + len(sections) - 1
    airy = height >= min(AIRY * len(sections), everything)
    room = height - len(sections) - (len(sections) - 1 if airy else 0)
    lines: list[Text] = []
    for section, rows in zip(sections, fair([len(section.rows) for section in sections], room), strict=True):
        if lines and airy:
            lines.append(Text())
        lines += _lines(section, width, rows, ascii_)
    return lines


def fair(wanted: Sequence[int], room: int) -> list[int]:
    """How many lines each gets: as many as it wants, or as many as the others who want more."""
    given = [0] * len(wanted)
    while room > 0 and given != list(wanted):
        for at, most in enumerate(wanted):
            if given[at] < most and room > 0:
                given[at] += 1
                room -= 1
    return given


def _lines(section: Section, width: int, most: int, ascii_: bool) -> Iterator[Text]:
    """A section as lines: its titles and the first of its rows, or one line where there are none."""
    if not section.rows:
        yield Text(_cut(section.empty, width, ascii_), "dim")
        return
    titles = [column.title for column in section.columns]
    if most < len(section.rows):
        titles[0] += f" {max(most, 0)}/{len(section.rows)}{'+' if section.more else ''}"
    rows = section.rows[: max(most, 0)]
    widths = _widths(section.columns, [titles, *rows], width)
    yield _line(section.columns, widths, titles, "bold", ascii_)
    for row, style in zip(rows, section.styles, strict=False):
        yield _line(section.columns, widths, row, style, ascii_)


def _widths(columns: Sequence[Column], rows: Sequence[Cells], room: int) -> dict[int, int]:
    """How wide each column is. Where room is tight, minor ones go, then names are cut, then the least minor ones go."""
    widths = {at: max(cell_len(row[at]) for row in rows) for at in range(len(columns))}
    for at, column in enumerate(columns):
        if column.show is Show.USED and not any(row[at] for row in rows[1:]):
            del widths[at]
    while sum(widths.values()) + GAP * (len(widths) - 1) > room:
        names = [at for at in widths if columns[at].kind is Kind.WORD and widths[at] > NARROWEST]
        minor = max(widths, key=lambda at: columns[at].minor)
        if columns[minor].minor and (not names or columns[minor].minor > 1):
            del widths[minor]
        elif names:
            widths[max(names, key=widths.__getitem__)] -= 1
        else:
            break
    return widths


def _line(columns: Sequence[Column], widths: dict[int, int], cells: Cells, style: str, ascii_: bool) -> Text:
    parts = []
    for at, width in widths.items():
        text = _cut(cells[at], width, ascii_)
        blanks = " " * (width - cell_len(text))
        parts.append(blanks + text if columns[at].right else text + blanks)
    return Text((" " * GAP).join(parts), style)


def _cut(text: str, width: int, ascii_: bool) -> str:
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, max(width - 1, 0)) + ("~" if ascii_ else "…")


def _beside(parts: Sequence[Text], width: int) -> Text:
    line = Text()
    for at, part in enumerate(parts):
        if at:
            line.append(" " * (at * (width + BETWEEN) - line.cell_len))
        line.append_text(part)
    return line
