"""The admin's door: `llmgate NOUN VERB`.

    main ─► commands (the table of all of them) ─► grammar (options, defaults, did you mean) ─► one file per noun
                                                         └─► context (config, database), output (table, json, csv, md)

A command parses what was typed, calls the store, and hands rows to `output`. Only what a command needs is imported.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line, and leave with its exit code."""
    try:
        from .run import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        # What is given up half-done (a cursor, a generator) has nothing to say of that.
        sys.unraisablehook = lambda _: None
        code = 130
    _leave(code)


def _leave(code: int) -> None:
    """Exit without Python complaining about an output that nobody reads any more."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
    sys.exit(code)
