"""`python -m bench.reports`: a database of many usage rows, and how long the commands take that look at it.

Built by SQL alone, because ten million requests would take hours. Its books balance all the same.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from llmgate import __version__
from llmgate.pricing import UNITS, Price
from llmgate.store import accounts, keys, prices
from llmgate.store.db import Database, now_ms
from llmgate.types import METERS

USERS, TEAMS, MODELS, DAYS = 100, 10, 20, 400
UPSTREAMS = ("openai", "anthropic", "gpu1")
TAGS = {"agent": 12, "job": 60, "stage": 3}
"""Tag → how many values it has; each request has all of them."""

DAY_MS = 86_400_000

LEGS = {
    "by user and model": (0.3, "report --since 30d --by user --by model"),
    "the same as JSON": (0.3, "report --since 30d --by user --by model --json"),
    "by user, with trends": (0.3, "report --since 30d"),
    "by day": (0.3, "report --since 30d --by day"),
    "by model, compared": (0.3, "report --since 30d --by model --compare"),
    "by month, of all days": (None, "report --since 400d --by month"),
    "a chart": (None, "report --since 30d --chart"),
    "by hour": (3.0, "report --since 30d --by hour"),
    "by tag": (3.0, "report --since 30d --by tag"),
    "one tag, by user": (3.0, "report --since 30d --tag agent=v3 --by user"),
    "an invoice": (None, "invoice user0"),
    "the newest 50 requests": (None, "usage --last 50"),
    "credits": (None, "credits"),
}
"""What is timed: seconds that it may take, where there is such a promise, and the command."""


def main() -> int:
    args = _arguments()
    folder = args.keep or Path(mkdtemp(prefix="llmgate-bench-"))
    path = folder / "llmgate.db"
    try:
        built_s = None if path.exists() else _timed(lambda: build(path, args.rows))
        result = measure(path, args.rounds)
    finally:
        if not args.keep:
            shutil.rmtree(folder)
    told = {
        "llmgate": __version__,
        "python": platform.python_version(),
        "rows": args.rows,
        "built_s": built_s and round(built_s, 1),
        **result,
    }
    if args.json:
        print(json.dumps(told, indent=2))
    else:
        _show(told)
    late = [leg for leg in told["legs"] if leg["promised_s"] and leg["median_s"] > leg["promised_s"]]
    return 1 if late else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.reports", description="Time reports over many usage rows.")
    parser.add_argument("--rows", type=int, default=10_000_000, help="how many requests (default: 10 million)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each command is run (default: 3)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="build it there and leave it, or use what is there")
    parser.add_argument("--json", action="store_true", help="write JSON")
    return parser.parse_args()


def _timed(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


# ── the database ──────────────────────────────────────────────────────────────────────────────────────────────────────


def build(path: Path, rows: int) -> None:
    """Requests evenly over `DAYS` days that end now, most of them of few users and of few models."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with Database(path, actor="bench") as db:
        with db.write() as tx:
            for number in range(TEAMS):
                accounts.add_team(tx, f"team{number}")
            for number in range(USERS):
                accounts.add_user(tx, f"user{number}", team=f"team{number % TEAMS}" if number % 2 else None)
                keys.add(tx, f"user{number}")
            price = prices.intern(tx, Price(input=UNITS, output=4 * UNITS)).id
        db.conn.execute("PRAGMA journal_mode = DELETE")
        conn = db.conn
        conn.execute("PRAGMA synchronous = OFF")
        conn.execute("PRAGMA journal_mode = OFF")
        conn.execute("PRAGMA cache_size = -262144")
        conn.execute("PRAGMA temp_store = FILE")
        conn.execute("PRAGMA foreign_keys = OFF")
        with _without_indexes(conn, "usage", "usage_tags"):
            _insert(conn, rows, price)
        conn.execute(_ROLLUPS)
        conn.execute(_BALANCES)
        conn.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('holds', ?)", (rows,))  # as if each had been held


@contextmanager
def _without_indexes(conn: sqlite3.Connection, *tables: str) -> Iterator[None]:
    """Indexes are made at the end: sorting once is faster than finding the place of each row."""
    marks = ", ".join("?" for _ in tables)
    found = conn.execute(
        f"SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL AND tbl_name IN ({marks})",
        tables,
    ).fetchall()
    for name, _ in found:
        conn.execute(f"DROP INDEX {name}")
    yield
    for _, sql in found:
        conn.execute(sql)


def _insert(conn: sqlite3.Connection, rows: int, price: int) -> None:
    """The numbers look drawn, and are the same each time: multiples of odd numbers, cut off at 32 bits."""
    first_ms = now_ms() - DAYS * DAY_MS
    conn.execute("BEGIN")
    conn.execute(
        f"""
        INSERT INTO usage (id, request_id, account_id, user_id, team_id, key_id, plan, model, upstream, upstream_model,
          format, endpoint, streamed, status, source, http_status, {", ".join(METERS)}, cost_nano, charge_nano,
          cost_source, cost_price_id, hold_nano, bounded, overrun, day, time_ms, duration_ms, ttft_ms)
        WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :rows),
        drawn AS (
          SELECT n, :first_ms + n * :span_ms / :rows AS time_ms,
            ((n * 2654435761) & 4294967295) / 4294967296.0 AS a, ((n * 2246822519) & 4294967295) / 4294967296.0 AS b,
            ((n * 3266489917) >> 7) & 4095 AS c
          FROM numbers
        ),
        chosen AS (
          SELECT *, 1 + CAST({USERS} * a * a AS INTEGER) AS user, CAST({MODELS} * b * b AS INTEGER) AS model FROM drawn
        )
        SELECT n, printf('req_%012d', n), u.account_id, u.id, u.team_id, k.id, NULL, 'model-' || c.model,
          CASE c.model % 3 WHEN 0 THEN 'openai' WHEN 1 THEN 'anthropic' ELSE 'gpu1' END, 'model-' || c.model,
          'openai', 'chat', n % 2, CASE n % 50 WHEN 0 THEN 'error' ELSE 'ok' END, 'upstream', 200,
          {", ".join(_QUANTITIES.get(name, "0") for name in METERS)},
          c.c + 4 * (c.c / 4), c.c + 4 * (c.c / 4), 'config', :price, 20000, 0, 0,
          date(time_ms / 1000, 'unixepoch'), time_ms, 900 + c.c, 200
        FROM chosen c CROSS JOIN users u ON u.id = c.user CROSS JOIN keys k ON k.user_id = u.id
        """,
        {"rows": rows, "first_ms": first_ms, "span_ms": DAYS * DAY_MS, "price": price},
    )
    values = " UNION ALL ".join(f"SELECT '{tag}' AS name, {number} AS number" for tag, number in TAGS.items())
    conn.execute(
        f"""
        INSERT INTO usage_tags (usage_id, name, value)
        SELECT g.id, t.name, 'v' || ((g.id * 2654435761 >> 5) % t.number) FROM usage g CROSS JOIN ({values}) t
        """
    )
    conn.execute("COMMIT")


_QUANTITIES = {"input": "c.c - c.c / 3", "cached_input": "c.c / 3", "output": "c.c / 4", "calls": "1"}

_BALANCES = """
UPDATE accounts SET balance_nano = -(SELECT coalesce(sum(charge_nano), 0) FROM rollups WHERE account_id = accounts.id)
"""

_SUMS = ", ".join(f"sum({name})" for name in METERS)
_ROLLUPS = f"""
INSERT INTO rollups (day, account_id, user_id, team_id, key_id, plan, model, upstream, requests, errors,
  {", ".join(METERS)}, cost_nano, charge_nano)
SELECT day, account_id, user_id, coalesce(team_id, 0), key_id, '', model, upstream, count(*), sum(status = 'error'),
  {_SUMS}, sum(cost_nano), sum(charge_nano)
FROM usage GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
"""


# ── the commands ──────────────────────────────────────────────────────────────────────────────────────────────────────


def measure(path: Path, rounds: int) -> dict[str, Any]:
    """Each command as a whole process, from its start to its end; and the least that a process takes."""
    legs = []
    for name, (promised_s, command) in LEGS.items():
        samples, cpu = _runs(rounds, "-m", "llmgate", "--db", str(path), *command.split())
        legs.append(
            {
                "leg": name,
                "command": command,
                "median_s": round(statistics.median(samples), 3),
                "samples_s": [round(sample, 3) for sample in samples],
                "cpu_s": round(statistics.median(cpu), 3),
                "promised_s": promised_s,
            }
        )
    bare = statistics.median(_runs(rounds, "-c", "pass")[0])
    return {"size_mib": path.stat().st_size >> 20, "python_s": round(bare, 3), "legs": legs}


def _runs(rounds: int, *args: str) -> tuple[list[float], list[float]]:
    """How long each run took, and how much of a processor."""
    samples, cpu = [], []
    for _ in range(rounds):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        samples.append(_timed(lambda: _run(*args)))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return samples, cpu


def _run(*args: str) -> None:
    env = {"PATH": os.environ.get("PATH", ""), "HOME": os.environ.get("HOME", "/"), "LANG": "C.UTF-8"}
    folder = Path(__file__).parent.parent
    subprocess.run(
        [sys.executable, *args], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env, cwd=folder
    )


def _show(told: dict[str, Any]) -> None:
    print(f"llmgate {told['llmgate']}, Python {told['python']}: {told['rows']:,} requests over {DAYS} days, ", end="")
    print(f"{told['size_mib']:,} MiB; `python -c pass` takes {told['python_s']:.3f} s")
    for leg in told["legs"]:
        promised = f"promised {leg['promised_s']} s" if leg["promised_s"] else ""
        figures = f"{leg['median_s']:8.3f} s  {leg['cpu_s']:7.3f} s CPU"
        print(f"{leg['leg']:<24} {figures}  {promised:<15}  llmgate {leg['command']}")


if __name__ == "__main__":
    sys.exit(main())
