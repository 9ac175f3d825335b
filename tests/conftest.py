"""What holds for all tests."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is no defect, so no example is too slow. In the gate each run plays the same examples: what it finds is
# what the change did. Elsewhere every run plays others.
settings.register_profile(
    "llmgate", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize="CI" in os.environ
)
settings.load_profile("llmgate")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say it where nobody can miss it: pages that no browser has seen may be broken."""
    skipped = {one.nodeid: one for one in terminalreporter.stats.get("skipped", ()) if "tests/browser/" in one.nodeid}
    if skipped:
        why = {one.longrepr[2].removeprefix("Skipped: ") for one in skipped.values()}
        terminalreporter.write_sep("!", f"NOT RUN: {len(skipped)} files of browser tests", red=True, bold=True)
        terminalreporter.write_line("; ".join(sorted(why)), red=True, bold=True)
