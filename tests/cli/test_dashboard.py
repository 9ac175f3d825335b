"""What the live screen looks like, at every size."""

from __future__ import annotations

import io
from textwrap import dedent
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from llmgate.cli import dashboard
from llmgate.cli.dashboard import Look, bars, fair, figure, screen, span
from llmgate.cli.rates import Recent, State
from llmgate.limits import Span, parse
from llmgate.store.limits import Listed, Standing
from llmgate.store.watch import Daemon, Wasted

from .test_rates import START_MS, flight, look_at, request

UTC = ZoneInfo("UTC")


def busy() -> State:
    """Two users, three models, two upstreams; something slow, something wrong, a limit that is nearly used up."""
    ended = [
        *(request(START_MS - 1000 * second, charge_nano=2_000_000, tokens=1500) for second in range(1, 40)),
        *(request(START_MS - 500, user="bob", model="o3", charge_nano=70_000) for _ in range(3)),
        request(START_MS - 5000, model="a/model-with-a-very-long-name-2026", upstream="azure", first_byte_ms=2345),
        request(START_MS - 2000, upstream="azure", failed=True, http_status=502, charge_nano=0),
    ]
    look = look_at(
        START_MS,
        ended,
        [Wasted(START_MS - 3000, "azure", 1_500_000)],
        [flight(placed_ms=START_MS - 75_000, hold_nano=123_456_789), flight(user="bob", placed_ms=START_MS - 300)],
        [Daemon(4242, "box", START_MS - 11_520_000)],
    )
    near = [limited("alice", "$50/month", 49_000_000_000), limited("team:ops", "5 concurrent", 5)]
    return Recent(60).take(look._replace(near=near))


def limited(target: str, text: str, used: int) -> Listed:
    limit = parse(text)
    window = Span(START_MS - 1, START_MS + 90_000_000)
    standing = Standing(limit=limit, subject=("user", "1"), source="user", span=window, used=used, held=0, fresh=True)
    return Listed(target=target, standing=standing)


IDLE = Recent(60).take(look_at(START_MS))


def drawn(state: State, width: int, height: int, **fields: bool) -> list[str]:
    """The lines of the screen as a terminal gets them."""
    console = Console(file=io.StringIO(), width=width, height=height, color_system=None, record=True)
    console.print(screen(state, Look(width, height, UTC, **fields)))
    return [line.rstrip() for line in console.export_text().splitlines()]


def test_a_small_terminal() -> None:
    expected = """
        08:00:00  pid 4242 serves, for 3h 12m                 q ends
        over  requests/s  tokens/s     USD/s     errors
        10s         1.50     1,505  $0.00202  1 (6.7 %)
        1m          0.73       976  $0.0013   1 (2.3 %)
        requests  ▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▄▂▂▄█  most 4 in 1s
        in flight  user   model  upstream          held  request id
           1m 15s  alice  gpt    openai    $0.123        req_1
             0.3s  bob    gpt    openai    $0.000000005  req_1
        user   requests/s  tokens/s       USD/s  errors  in flight
        alice        0.68       975  $0.0013          1          1
        bob          0.05      0.50  $0.0000035                  1
        model 2/3  requests/s  tokens/s         USD/s  errors
        gpt              0.67       975  $0.0013            1
        o3               0.05      0.50  $0.0000035
        upstream  requests    errors  first byte   p95  last error
        openai          42                  40ms  40ms
        azure            2  1 (50 %)        2.3s  2.3s  502, 2s ago
        near limit  limit          used  left    resets
        alice       $50/month      98 %    $1  in 1d 1h
        team:ops    5 concurrent  100 %     0
        """
    assert drawn(busy(), 60, 20) == dedent(expected).strip("\n").splitlines()


def test_a_usual_terminal() -> None:
    expected = """
        08:00:00  pid 4242 serves, for 3h 12m                                     q ends
        over  requests/s  tokens/s     USD/s     errors
        10s         1.50     1,505  $0.00202  1 (6.7 %)
        1m          0.73       976  $0.0013   1 (2.3 %)
        requests                   ▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂▄▂▂▄█  most 4 in 1s

        in flight  user   model  upstream          held  request id
           1m 15s  alice  gpt    openai    $0.123        req_1
             0.3s  bob    gpt    openai    $0.000000005  req_1
        user   requests/s  tokens/s       USD/s  errors  in flight
        alice        0.68       975  $0.0013          1          1
        bob          0.05      0.50  $0.0000035                  1
        model                               requests/s  tokens/s         USD/s  errors
        gpt                                       0.67       975  $0.0013            1
        o3                                        0.05      0.50  $0.0000035
        a/model-with-a-very-long-name-2026        0.02      0.17  $0.000000001
        upstream  requests    errors  first byte   p95  in flight   wasted  last error
        openai          42                  40ms  40ms          2
        azure            2  1 (50 %)        2.3s  2.3s             $0.0015  502, 2s ago
        near limit  limit          used  left    resets
        alice       $50/month      98 %    $1  in 1d 1h
        team:ops    5 concurrent  100 %     0
        """
    assert drawn(busy(), 80, 24) == dedent(expected).strip("\n").splitlines()


def test_nothing_to_tell() -> None:
    expected = """
        08:00:00  no daemon is running: `llmgate serve` starts one      q ends
        over  requests/s  tokens/s  USD/s  errors
        10s            0         0  $0.00
        1m             0         0  $0.00
        requests                                                  most 0 in 1s
        nothing is in flight

        no user in the last 1m

        no model in the last 1m

        no upstream has answered in the last 5m

        no limit is near its end
        """
    assert drawn(IDLE, 70, 20) == dedent(expected).strip("\n").splitlines()


def test_a_wide_terminal_has_sections_beside_each_other() -> None:
    lines = drawn(busy(), 200, 50)
    titles = next(line for line in lines if line.startswith("in flight"))
    assert "upstream  requests" in titles
    assert titles.count("in flight") == 2, "no column is left out that a usual terminal has"
    assert "req_1" in "".join(lines)
    wider = next(line for line in drawn(busy(), 250, 40) if line.startswith("in flight"))
    assert [wider.split().count(word) for word in ("user", "upstream")] == [2, 2]
    assert max(map(len, drawn(busy(), 120, 30))) <= 120


@given(width=st.integers(20, 250), height=st.integers(1, 70), ascii_=st.booleans())
def test_it_never_leaves_the_screen(width: int, height: int, ascii_: bool) -> None:
    text = screen(busy(), Look(width, height, UTC, ascii_)).plain
    lines = text.split("\n")
    assert len(lines) <= height
    assert max(map(cell_len, lines)) <= width
    assert text.isascii() or not ascii_


def test_what_is_cut_says_how_much_there_is() -> None:
    many = [flight(user=f"user{number}") for number in range(90)]
    lines = drawn(Recent(60).take(look_at(START_MS, in_flight=many)), 80, 24)
    assert any(line.startswith("in flight 6/90") for line in lines), lines
    near = [limited(f"user{number}", "5 concurrent", 5) for number in range(50)]
    lines = drawn(Recent(60).take(look_at(START_MS)._replace(near=near)), 80, 24)
    assert any(line.startswith("near limit 13/50+") for line in lines), lines


def test_what_is_wrong_stands_out() -> None:
    state = Recent(60).take(look_at(START_MS, in_flight=[flight(stranded=True), flight()]))
    assert "no daemon is running" in drawn(state, 80, 24)[0]
    assert drawn(state, 80, 24)[1] == "1 request in flight is of a process that died, and will be booked as interrupted"
    serving = Recent(60).take(look_at(START_MS, daemons=[Daemon(1, "box", 0), Daemon(22, "box", 0)]))
    assert drawn(serving, 80, 24)[0].startswith("08:00:00  2 processes serve: pid 1, 22")
    near = dashboard.near(busy())
    assert list(near.styles) == ["yellow", "red"]
    assert list(dashboard.upstreams(busy()).styles) == ["", "red"]


def test_a_model_cant_move_the_cursor() -> None:
    state = Recent(60).take(
        look_at(START_MS, [request(START_MS, model="\x1b[2Jgone")], in_flight=[flight(model="a\nb")])
    )
    text = "\n".join(drawn(state, 80, 24))
    assert "\x1b" not in text
    assert "a\\nb" in text


@pytest.mark.parametrize(
    ("wanted", "room", "given"),
    [([], 3, []), ([1, 2], 9, [1, 2]), ([9, 1, 9], 7, [3, 1, 3]), ([9, 9], 3, [2, 1]), ([9, 9], -1, [0, 0])],
)
def test_lines_are_shared_fairly(wanted: list[int], room: int, given: list[int]) -> None:
    assert fair(wanted, room) == given


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        *((0, "0s"), (300, "0.3s"), (9_999, "10s"), (12_345, "12s"), (60_000, "1m"), (190_000, "3m 10s")),
        *((3_600_000, "1h"), (7_500_000, "2h 5m"), (86_400_000, "1d"), (270_000_000, "3d 3h")),
    ],
)
def test_lengths_of_time(ms: int, text: str) -> None:
    assert span(ms) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (0.00028, "0.00028"), (0.05, "0.05"), (1.234, "1.23"), (12.34, "12.3"), (1234.5, "1,234")],
)
def test_figures(number: float, text: str) -> None:
    assert figure(number) == text


def test_bars() -> None:
    assert bars([0, 1, 4, 8]) == " ▁▄█"
    assert bars([0, 0]) == "  "
    assert bars([0, 1, 100], " .:#") == " .#"
