"""What the live screen says, against a plain model: all requests in a list, filtered and summed anew for each look."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgate.cli.rates import CELLS, HEALTH_S, NOW_S, Rate, Recent, Sums, quantile, two_digits
from llmgate.store.watch import Daemon, Ended, Flight, Look, Wasted

START_MS = 1_800_000_000_000

NAMES = st.sampled_from(["a", "b", "c"])


def look_at(
    now_ms: int,
    ended: Sequence[Ended] = (),
    wasted: Sequence[Wasted] = (),
    in_flight: Sequence[Flight] = (),
    daemons: Sequence[Daemon] = (),
) -> Look:
    return Look(now_ms, list(ended), list(wasted), list(in_flight), list(daemons), [])


def request(ended_ms: int, **fields: object) -> Ended:
    plain = Ended(ended_ms, "alice", "gpt", "openai", False, 200, 10, 20, 30, 40)
    return plain._replace(**fields)  # type: ignore[arg-type]


def flight(**fields: object) -> Flight:
    plain = Flight("req_1", "alice", "alice/default", "gpt", "openai", False, 5, START_MS, False)
    return plain._replace(**fields)  # type: ignore[arg-type]


@st.composite
def _looks(draw: st.DrawFn) -> list[Look]:
    """Looks one after the other, each with what ended since the one before."""
    now_ms = START_MS + draw(st.integers(0, 2000))
    looks = []
    for pause_ms in draw(st.lists(st.sampled_from([1, 700, 1000, 9_999, 61_000, 290_000]), min_size=1, max_size=6)):
        before_ms, now_ms = now_ms, now_ms + pause_ms
        ended = draw(
            st.lists(
                st.builds(
                    Ended,
                    ended_ms=st.integers(before_ms, now_ms),
                    user=NAMES,
                    model=NAMES,
                    upstream=NAMES,
                    failed=st.booleans(),
                    http_status=st.just(200),
                    tokens=st.integers(0, 9),
                    cost_nano=st.integers(0, 9),
                    charge_nano=st.integers(0, 9),
                    first_byte_ms=st.none() | st.integers(0, 5000),
                ),
                max_size=12,
            )
        )
        wasted = draw(st.lists(st.builds(Wasted, st.integers(before_ms, now_ms), NAMES, st.integers(1, 9)), max_size=3))
        in_flight = [flight(user=name, model=name, upstream=name) for name in draw(st.lists(NAMES, max_size=4))]
        looks.append(look_at(now_ms, ended, wasted, in_flight))
    return looks


@given(looks=_looks(), window_s=st.sampled_from([10, 60, 61, 300, 900]))
def test_each_window_is_the_sum_of_what_ended_in_it(looks: list[Look], window_s: int) -> None:
    recent = Recent(window_s)
    everything: list[Ended] = []
    wasted: list[Wasted] = []
    for look in looks:
        state = recent.take(look)
        everything += look.ended
        wasted += look.wasted
        cell_ms = -(-window_s // CELLS) * 1000
        end = look.now_ms // cell_ms

        def within(
            seconds: int, ms: int = cell_ms, now_ms: int = look.now_ms, known: Sequence[Ended] = tuple(everything)
        ) -> list[Ended]:
            """So many whole cells, and the one that has begun."""
            first = now_ms // ms - -(-seconds * 1000 // ms)
            return [one for one in known if one.ended_ms // ms >= first]

        assert state.now.sums == summed(within(NOW_S, 1000))
        assert state.now.covered_ms == NOW_S * 1000 + look.now_ms % 1000
        assert state.window.sums == summed(within(window_s))
        assert state.window.covered_ms - look.now_ms % cell_ms in range(window_s * 1000, window_s * 1000 + cell_ms)
        for shares, field in ((state.users, "user"), (state.models, "model")):
            flying = Counter(getattr(one, field) for one in look.in_flight)
            names = {getattr(one, field) for one in within(window_s)} | set(flying)
            assert {share.name for share in shares} == names
            for share in shares:
                own = [one for one in within(window_s) if getattr(one, field) == share.name]
                assert (share.rate.sums, share.in_flight) == (summed(own), flying[share.name])
            assert [share.rate.sums.charge_nano for share in shares] == sorted(
                (share.rate.sums.charge_nano for share in shares), reverse=True
            )
        health_s = max(window_s, HEALTH_S)
        for upstream in state.upstreams:
            own = [one for one in within(health_s) if one.upstream == upstream.name]
            assert upstream.rate.sums == summed(own)
            times = sorted(
                two_digits(one.first_byte_ms) for one in own if not one.failed and one.first_byte_ms is not None
            )
            assert upstream.median_ms == (times[-(-len(times) // 2) - 1] if times else None)
            assert upstream.slow_ms == (times[-(-len(times) * 95 // 100) - 1] if times else None)
            assert upstream.wasted_nano == sum(
                one.cost_nano
                for one in wasted
                if one.upstream == upstream.name and one.ended_ms // cell_ms >= end - -(-health_s * 1000 // cell_ms)
            )
            errors = [one.ended_ms for one in own if one.failed]
            assert (upstream.last_error.ended_ms if upstream.last_error else None) == max(errors, default=None)
        assert state.history == [
            sum(one.ended_ms // cell_ms == end - CELLS + at for one in everything) for at in range(CELLS)
        ]


def summed(requests: Sequence[Ended]) -> Sums:
    return Sums(
        requests=len(requests),
        errors=sum(one.failed for one in requests),
        tokens=sum(one.tokens for one in requests),
        cost_nano=sum(one.cost_nano for one in requests),
        charge_nano=sum(one.charge_nano for one in requests),
    )


def test_what_a_clock_that_was_set_back_has_left_in_the_future_is_forgotten() -> None:
    recent = Recent(60)
    assert recent.take(look_at(START_MS, [request(START_MS)])).window.sums.requests == 1
    hour_before = START_MS - 3_600_000
    assert recent.take(look_at(hour_before)).window.sums.requests == 0
    assert recent.take(look_at(hour_before + 1000, [request(hour_before + 500)])).now.sums.requests == 1
    assert recent.take(look_at(START_MS)).window.sums.requests == 0


def test_rates_are_of_the_time_that_they_cover() -> None:
    rate = Rate(10, 10_500, Sums(requests=21, charge_nano=1))
    assert rate.per_second(rate.sums.requests) == 2
    assert rate.nano_per_second(rate.sums.charge_nano) == 1, "money is never rounded to nothing"
    assert rate.nano_per_second(0) == 0


@pytest.mark.parametrize(("number", "expected"), [(0, 0), (7, 7), (99, 99), (123, 120), (1250, 1200), (98_765, 99_000)])
def test_two_digits(number: int, expected: int) -> None:
    assert two_digits(number) == expected


@pytest.mark.parametrize(
    ("counts", "median", "slow"),
    [({}, None, None), ({5: 1}, 5, 5), ({1: 1, 2: 1}, 1, 2), ({1: 95, 9: 5}, 1, 1), ({1: 94, 9: 6}, 1, 9)],
)
def test_quantiles(counts: dict[int, int], median: int | None, slow: int | None) -> None:
    assert (quantile(counts, 50), quantile(counts, 95)) == (median, slow)
