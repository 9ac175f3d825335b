"""llmgate, its allocations traced from when it is asked first: `python -m bench.traced serve`.

SIGUSR2 asks. The answer is `traced BYTES`, which have been allocated since then and are not free again, and a few lines
with what has grown most since it was asked before. Earlier would be too early: the one module with all prices of the
world takes minutes to import when it is traced.
"""

from __future__ import annotations

import gc
import signal
import tracemalloc

from llmgate.cli import main

GROWN = 5
"""Lines of code that are named."""

_before: list[tracemalloc.Snapshot] = []


def tell(*_: object) -> None:
    if not tracemalloc.is_tracing():
        tracemalloc.start()
    gc.collect()
    snapshot = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(False, tracemalloc.__file__)])
    print(f"traced {sum(trace.size for trace in snapshot.traces)}")
    for statistic in snapshot.compare_to(_before[0], "lineno")[:GROWN] if _before else ():
        print(f"  {statistic}")
    print("told", flush=True)
    _before[:] = [snapshot]


if __name__ == "__main__":
    signal.signal(signal.SIGUSR2, tell)
    main()
