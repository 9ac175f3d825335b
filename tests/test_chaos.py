"""The proof that the money holds, in short: `make chaos` runs the same for longer, with a seed of its own each time."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.chaos.__main__ import SCENARIOS
from bench.chaos.figures import Figures

SHORT: dict[str, dict[str, int | float]] = {
    "overspend": {"rounds": 1, "requests": 120},
    "kill": {"rounds": 3},
    "disconnect": {"rounds": 40},
    "locks": {"rounds": 2, "longest_s": 1.2},
    "attack": {"rounds": 200},
    "disk": {"rounds": 2},
}


def test_every_scenario_has_a_short_form() -> None:
    assert SHORT.keys() == SCENARIOS.keys()


@pytest.mark.timeout(300)  # many processes are started, which takes its time on a machine that is busy with others
@pytest.mark.parametrize("name", SHORT)
def test_the_money_holds(tmp_path: Path, name: str) -> None:
    figures = Figures(name, seed=20261120)
    SCENARIOS[name](figures, tmp_path, **SHORT[name])
    assert figures.problems == []
    assert figures.verified
    assert figures.rows
