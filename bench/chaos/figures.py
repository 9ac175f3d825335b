"""What a scenario has done, and what of it was not as it must be."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.served import Served

from .scene import Reply, command


@dataclass
class Figures:
    scenario: str
    seed: int
    rounds: int = 0
    requests: int = 0
    served: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    """By code."""
    broken: int = 0
    """Requests that got no answer, or not all of it: who asked had left, or the daemon was killed."""
    rows: int = 0
    interrupted: int = 0
    verified: int = 0
    """How often `llmgate verify` was run."""
    findings: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)
    """Invariants that didn't hold."""

    def must(self, holds: bool, sentence: str) -> None:
        """An invariant: what is wrong where it doesn't hold."""
        if not holds:
            self.problems.append(f"{self.scenario}, seed {self.seed}: {sentence}")

    def count(self, replies: list[Reply]) -> None:
        self.requests += len(replies)
        self.served += sum(reply.served for reply in replies)
        self.refused.update(reply.code for reply in replies if reply.code)
        self.broken += sum(not reply.served and not reply.code for reply in replies)

    def one_row_each(self, journal: Iterable[str], rows: Mapping[str, Sequence[object]]) -> None:
        """Whom the upstream began to answer has exactly one usage row, and nobody has two."""
        self.must("(none)" not in rows, "a usage row has no marker")
        for marker, times in Counter(journal).items():
            self.must(times == 1, f"the upstream was asked {times} times for {marker}")
            self.must(marker in rows, f"{marker} was answered and not booked")
        for marker, found in rows.items():
            self.must(len(found) == 1, f"{marker} has {len(found)} usage rows")

    def verify(self, served: Served) -> None:
        """`llmgate verify`, which must find nothing."""
        done = command(served, "verify", "--json")
        self.verified += 1
        if done.returncode:
            self.findings += len(json.loads(done.stdout)["findings"]) if done.stdout else 1
            self.must(False, f"llmgate verify ends with {done.returncode}: {(done.stdout or done.stderr)[:1000]}")
