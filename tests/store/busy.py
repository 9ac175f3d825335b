"""A process that writes all the time, as a daemon under load does: `python -m tests.store.busy DATABASE KEY...`.

It writes a line once it is at work, and ends when its standard input does.
"""

from __future__ import annotations

import random
import select
import sys
from contextlib import suppress
from pathlib import Path

import msgspec

from llmgate.errors import Refusal
from llmgate.store import holds, ledger
from llmgate.store.admission import Claim
from llmgate.types import Meters

from ..books import POLICY, Book


def main(path: Path, keys: list[str]) -> None:
    book = Book(path)
    outcomes = [book.outcome(Meters(input=number, output=number % 7, calls=1)) for number in range(40)]
    claims = [book.claim(key, bound=50, output=20) for key in keys]
    settled: list[int] = []
    print("at work", flush=True)
    number = 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        number += 1
        with book.db.write() as tx, suppress(Refusal):  # a limit in the way is no trouble
            hold = holds.place(tx, _renamed(claims[number % len(claims)], f"{book.worker.id} {number}"), POLICY)
            match random.randrange(10):
                case 0:
                    holds.release(tx, hold.id)
                case 1:
                    pass  # in flight for a while
                case 2 if settled:
                    holds.settle(tx, random.choice(settled), random.choice(outcomes), POLICY)
                case 3:
                    ledger.add(tx, "busy0", 5)
        with book.db.write() as tx:
            for row in tx.execute("SELECT id FROM holds ORDER BY random() LIMIT 2").fetchall():
                settled.append(row[0])
                holds.settle(tx, row[0], random.choice(outcomes), POLICY)
    book.close()


def _renamed(claim: Claim, request_id: str) -> Claim:
    return msgspec.structs.replace(claim, request_id=request_id)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
