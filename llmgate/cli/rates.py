"""What the live screen says, worked out from what was seen. Pure: numbers in, numbers out.

What has ended is added up as it is seen, in cells of a second or more, so that a look costs what the screen shows, not
what was asked. A window is so many whole cells and the one that has begun; rates are of the time that it really covers.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..money import ceil_div
from ..store.limits import Listed
from ..store.watch import Daemon, Ended, Flight, Look

NOW_S = 10
"""Seconds of the shorter of the two windows that rates are shown of."""

HEALTH_S = 300
"""Seconds that upstreams are judged by, at least: what is wrong with them may be seldom."""

CELLS = 60
"""A window is cut into so many cells, but of a second at least; the history shows so many."""


@dataclass
class Sums:
    """Requests added up."""

    requests: int = 0
    errors: int = 0
    tokens: int = 0
    cost_nano: int = 0
    charge_nano: int = 0

    def count(self, one: Ended) -> None:
        self.requests += 1
        self.errors += one.failed
        self.tokens += one.tokens
        self.cost_nano += one.cost_nano
        self.charge_nano += one.charge_nano

    def add(self, other: Sums) -> None:
        self.requests += other.requests
        self.errors += other.errors
        self.tokens += other.tokens
        self.cost_nano += other.cost_nano
        self.charge_nano += other.charge_nano


class Rate(NamedTuple):
    """Requests added up over a time."""

    seconds: int
    """Of the window."""
    covered_ms: int
    sums: Sums

    def per_second(self, number: int) -> float:
        return number * 1000 / self.covered_ms

    def nano_per_second(self, nano: int) -> int:
        """Rounded up, so that it is never nothing."""
        return ceil_div(nano * 1000, self.covered_ms)


class Share(NamedTuple):
    """What one user or model has of a window."""

    name: str
    rate: Rate
    in_flight: int


class Health(NamedTuple):
    """What one upstream has answered."""

    name: str
    rate: Rate
    in_flight: int
    median_ms: int | None
    """Half of the answers began within so long (to two digits)."""
    slow_ms: int | None
    """95 % of them did."""
    wasted_nano: int
    """Billed by it for tries in vain."""
    last_error: Ended | None


class State(NamedTuple):
    """All that is shown."""

    now_ms: int
    window_s: int
    now: Rate
    """Over the last `NOW_S` seconds."""
    window: Rate
    history: list[int]
    """Requests in each of the last `CELLS` whole cells of `cell_s` seconds."""
    cell_s: int
    in_flight: list[Flight]
    """The slowest first."""
    users: list[Share]
    models: list[Share]
    upstreams: list[Health]
    near: list[Listed]
    daemons: list[Daemon]

    @property
    def stranded(self) -> int:
        """Requests in flight whose process died."""
        return sum(one.stranded for one in self.in_flight)


@dataclass
class _Cell:
    """What ended in one cell."""

    total: Sums = field(default_factory=Sums)
    users: dict[str, Sums] = field(default_factory=lambda: defaultdict(Sums))
    models: dict[str, Sums] = field(default_factory=lambda: defaultdict(Sums))
    upstreams: dict[str, Sums] = field(default_factory=lambda: defaultdict(Sums))
    first_bytes: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    wasted: Counter[str] = field(default_factory=Counter)
    errors: dict[str, Ended] = field(default_factory=dict)
    """The last of each upstream."""

    def count(self, one: Ended) -> None:
        for sums in (self.total, self.users[one.user], self.models[one.model], self.upstreams[one.upstream]):
            sums.count(one)
        if one.failed:
            self.errors[one.upstream] = max(one, self.errors.get(one.upstream, one), key=_when)
        elif one.first_byte_ms is not None:
            self.first_bytes[one.upstream][two_digits(one.first_byte_ms)] += 1


class Recent:
    """What has ended in the last minutes."""

    def __init__(self, window_s: int) -> None:
        self.window_s = window_s
        self.cell_s = ceil_div(window_s, CELLS)
        self._seconds: dict[int, Sums] = defaultdict(Sums)
        """Of the last `NOW_S`."""
        self._cells: dict[int, _Cell] = defaultdict(_Cell)

    @property
    def health_s(self) -> int:
        return max(self.window_s, HEALTH_S)

    @property
    def kept_s(self) -> int:
        """How far back anything is shown."""
        return (self._kept_cells + 1) * self.cell_s

    @property
    def _kept_cells(self) -> int:
        return max(CELLS, ceil_div(self.health_s, self.cell_s))

    def take(self, look: Look) -> State:
        """How things stand after one more look."""
        for one in look.ended:
            self._seconds[one.ended_ms // 1000].count(one)
            self._cells[self._cell(one.ended_ms)].count(one)
        for wasted in look.wasted:
            self._cells[self._cell(wasted.ended_ms)].wasted[wasted.upstream] += wasted.cost_nano
        _forget(self._seconds, look.now_ms // 1000, NOW_S)
        _forget(self._cells, self._cell(look.now_ms), self._kept_cells)
        window = list(self._within(look.now_ms, self.window_s))
        return State(
            now_ms=look.now_ms,
            window_s=self.window_s,
            now=Rate(NOW_S, NOW_S * 1000 + look.now_ms % 1000, _sum(self._seconds.values())),
            window=self._rate(look.now_ms, self.window_s, _sum(cell.total for cell in window)),
            history=self._history(self._cell(look.now_ms)),
            cell_s=self.cell_s,
            in_flight=look.in_flight,
            users=self._shares(look.now_ms, [cell.users for cell in window], [one.user for one in look.in_flight]),
            models=self._shares(look.now_ms, [cell.models for cell in window], [one.model for one in look.in_flight]),
            upstreams=self._upstreams(look),
            near=look.near,
            daemons=look.daemons,
        )

    def _cell(self, ms: int) -> int:
        return ms // (self.cell_s * 1000)

    def _within(self, now_ms: int, seconds: int) -> Iterator[_Cell]:
        """The cells of a window, the oldest first."""
        last = self._cell(now_ms)
        numbers = range(last - ceil_div(seconds, self.cell_s), last + 1)
        return (self._cells[number] for number in numbers if number in self._cells)

    def _rate(self, now_ms: int, seconds: int, sums: Sums) -> Rate:
        cell_ms = self.cell_s * 1000
        return Rate(seconds, ceil_div(seconds, self.cell_s) * cell_ms + now_ms % cell_ms, sums)

    def _history(self, end: int) -> list[int]:
        return [
            self._cells[number].total.requests if number in self._cells else 0 for number in range(end - CELLS, end)
        ]

    def _shares(self, now_ms: int, parts: Iterable[Mapping[str, Sums]], flying: Iterable[str]) -> list[Share]:
        sums, in_flight = _added(parts), Counter(flying)
        shares = [
            Share(name, self._rate(now_ms, self.window_s, sums[name]), in_flight[name]) for name in {*sums, *in_flight}
        ]
        return sorted(shares, key=_dearest)

    def _upstreams(self, look: Look) -> list[Health]:
        first_bytes: dict[str, Counter[int]] = defaultdict(Counter)
        wasted: Counter[str] = Counter()
        errors: dict[str, Ended] = {}
        cells = list(self._within(look.now_ms, self.health_s))
        for cell in cells:
            for name, times in cell.first_bytes.items():
                first_bytes[name].update(times)
            wasted.update(cell.wasted)
            errors |= cell.errors
        sums = _added(cell.upstreams for cell in cells)
        in_flight = Counter(one.upstream for one in look.in_flight)
        found = [
            Health(
                name=name,
                rate=self._rate(look.now_ms, self.health_s, sums[name]),
                in_flight=in_flight[name],
                median_ms=quantile(first_bytes[name], 50),
                slow_ms=quantile(first_bytes[name], 95),
                wasted_nano=wasted[name],
                last_error=errors.get(name),
            )
            for name in {*sums, *in_flight, *wasted}
        ]
        return sorted(found, key=_dearest)


def _forget(kept: dict[int, Any], end: int, length: int) -> None:
    """What is too long ago, or of a clock that was set back since."""
    for number in [number for number in kept if not end - length <= number <= end]:
        del kept[number]


def _when(one: Ended) -> int:
    return one.ended_ms


def _dearest(one: Share | Health) -> tuple[int, int, int, str]:
    return -one.rate.sums.charge_nano, -one.rate.sums.requests, -one.in_flight, one.name


def _added(parts: Iterable[Mapping[str, Sums]]) -> defaultdict[str, Sums]:
    found: defaultdict[str, Sums] = defaultdict(Sums)
    for part in parts:
        for name, sums in part.items():
            found[name].add(sums)
    return found


def _sum(parts: Iterable[Sums]) -> Sums:
    total = Sums()
    for part in parts:
        total.add(part)
    return total


def two_digits(number: int) -> int:
    """A number to two digits, so that few different ones have to be counted: 1234 is 1200."""
    return round(number, 2 - len(str(number)))


def quantile(counts: Mapping[int, int], percent: int) -> int | None:
    """The least number that at least so many percent don't exceed."""
    wanted = ceil_div(sum(counts.values()) * percent, 100)
    for number in sorted(counts):
        wanted -= counts[number]
        if wanted <= 0:
            return number
    return None
