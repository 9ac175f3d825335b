"""Which routes failed lately, so that others are asked first.

Known to one process alone: another one finds out by itself. A route is an upstream and a model there: an upstream that
is overloaded for one model may well serve another.

A route that failed cools: for 10 s, then twice as long each time, or for as long as its upstream asks. When the time is
over one request is its probe, and the rest stays away until that has ended: well, and the route is back; badly, and it
cools again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

import msgspec

COOLDOWN_S = 10.0
"""How long a route is left alone after its first failure, and while a probe of it is under way."""

MOST_COOLDOWN_S = 300.0
"""No route is left alone for longer, whatever it asks for."""


MOST_ROUTES = 10_000
"""Routes that are remembered; past that all are forgotten. A client may ask for models of any name."""


class _Cooling(msgspec.Struct):
    until: float
    times: int = 1
    """How often it failed in a row."""
    probed: bool = False
    """A request is finding out whether it works again."""


class Cooldown:
    """Times are in seconds of any clock that only goes forward."""

    def __init__(self) -> None:
        self._cooling: dict[Hashable, _Cooling] = {}

    def cools(self, route: Hashable, now: float) -> bool:
        """It is better to ask another one. That there is another one is not known here."""
        found = self._cooling.get(route)
        return found is not None and now < found.until

    def cooling(self, now: float) -> list[Hashable]:
        """The routes that it is better not to ask now."""
        return [route for route, found in self._cooling.items() if now < found.until]

    def asked(self, route: Hashable, now: float) -> None:
        """A request is sent there. The first one after the time is over is the probe: the rest stays away meanwhile."""
        found = self._cooling.get(route)
        if found is not None and now >= found.until:
            found.until, found.probed = now + COOLDOWN_S, True

    def worked(self, route: Hashable) -> None:
        self._cooling.pop(route, None)

    def forget(self, belongs: Callable[[Hashable], bool]) -> None:
        """Some routes are known to work again."""
        for route in [route for route in self._cooling if belongs(route)]:
            del self._cooling[route]

    def failed(self, route: Hashable, now: float, asked_s: float = 0.0) -> None:
        """`asked_s`: the pause that the upstream asks for. One that fails while it cools cools no longer."""
        found = self._cooling.get(route)
        if found is not None and now < found.until and not found.probed:
            return
        if found is None and len(self._cooling) >= MOST_ROUTES:
            self._cooling.clear()
        times = found.times + 1 if found else 1
        pause_s = max(COOLDOWN_S * 2.0 ** min(times - 1, 10), asked_s)
        self._cooling[route] = _Cooling(now + min(pause_s, MOST_COOLDOWN_S), times)
