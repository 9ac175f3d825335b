"""A folder in which every example of the help works: a config, books with a history, price lists, a backup.

All upstreams are the sandbox under the names that examples use, so that nothing leaves the machine.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from llmgate.config import SelfService
from llmgate.plans import NONE
from llmgate.pricebook import Kind
from llmgate.pricing import Price
from llmgate.store import accounts, admins, backups, identities, ledger, limits, prices, requests
from llmgate.store.admins import Scope
from llmgate.store.db import now_ms
from llmgate.types import Billing, Meters, Status
from tests.books import Book

from .books import DAY_MS, Request, use

CONFIG = """
database = "llmgate.db"

[defaults]
limits = ["600 requests/minute"]

[upstreams.openai]
preset = "sandbox"

[upstreams.azure]
preset = "sandbox"

[upstreams.gpu1]
preset = "sandbox"

[models.gpt-4o]
routes = [{ upstream = "openai" }, { upstream = "azure" }]

[models.gpt-4o-mini]
routes = [{ upstream = "openai" }]

[plans.starter]
price = 29
billing = "prepaid"
limits = ["100000 tokens/month", "10000 tokens/minute"]
overage = 0.002
models = ["gpt-4o*"]
"""

ASKED = SelfService(mode="approval")

KEY_OF_ALICE, KEY_OF_BOB = "k-7hq2m9xd", "k-7m2xq9ht"
USAGE, REQUEST = 1042, "req_5f0c2a9be1d34d7f"
LATER = 365 * DAY_MS

CATALOGUE = [
    {
        "id": "openai",
        "name": "OpenAI",
        "api_pattern": "https://api\\.openai\\.com",
        "models": [{"id": "gpt-4o", "match": {"equals": "gpt-4o"}, "prices": {"input_mtok": 2, "output_mtok": 8}}],
    }
]
MOVING: dict[str, object] = {
    "team": "ops",
    "plan": None,
    "billing": "metered",
    "billing_source": "default",
    "limits": [],
} | {"created_at": "2026-01-01T00:00:00.000Z"}
FILES = {
    "llmgate.toml": CONFIG,
    "new.toml": CONFIG,
    "prices.csv": "model,input,output\ngpt-4o,2.5,10\n",
    "next-year.csv": "model,input,output\ngpt-4o,2,8\n",
    "prices.json": json.dumps({"gpt-4o": {"input": 0.0025, "output": 0.01}}),
    "model_prices_and_context_window.json": json.dumps(
        {"gpt-4o": {"input_cost_per_token": 2.5e-06, "output_cost_per_token": 1e-05, "litellm_provider": "openai"}}
    ),
    "data.json": json.dumps(CATALOGUE),
    "box.ndjson": json.dumps(MOVING) + "\n",
}


NEXT_YEAR = datetime.now(UTC).year + 1
"""Examples tell a day to come by the year 2027; when they are run, it is the next one."""


def prepare(folder: Path) -> Path:
    for name, text in FILES.items():
        (folder / name).write_text(text)
    book = Book(folder / "llmgate.db")
    _fill(book)
    backups.backup(book.db, folder / "spare.db")
    book.close()
    return folder


def _fill(book: Book) -> None:
    book.team("research", credits=250_000_000_000)
    alice, bob = book.user("alice", credits=20_000_000_000), book.user("bob", team="research")
    for name, key in (("alice", KEY_OF_ALICE), ("bob", KEY_OF_BOB)):
        book.db.conn.execute(
            "UPDATE keys SET id = ? WHERE user_id = (SELECT id FROM users WHERE name = ?)", (key, name)
        )
    with book.write() as tx:
        for number in range(20):
            ledger.add(tx, "alice", 10_000_000, ref=f"paid-{number}", note="by transfer")
        ledger.add(tx, "alice", 1_000_000_000, expires_ms=tx.now_ms + LATER)
        admins.add(tx, "prometheus", Scope.READ)
        known = {"issuer": "https://accounts.google.com", "subject": "1234", "email": "alice@example.org"}
        identities.link(tx, accounts.user_row(tx, "alice"), **known)
        limits.hang(tx, "alice", ["60 requests/minute", "$50 total"])
        limits.hang(tx, f"key:{KEY_OF_BOB}", ["5 concurrent"])
        charge, bill = Price(input=2_500_000_000, output=10_000_000_000), Price(input=2_000_000_000)
        prices.put(tx, {(Kind.CHARGE, "", "gpt-4o"): charge, (Kind.COST, "azure", "gpt-4o"): bill}, None)
        prices.put(
            tx, {(Kind.CHARGE, "", "gpt-4o"): bill}, int(datetime(NEXT_YEAR, 1, 1, tzinfo=UTC).timestamp()) * 1000
        )
        for number, name in enumerate(("carol", "dave", "erin")):
            asked = requests.ask(tx, ASKED, name, "for the course", f"203.0.113.{number}", NONE, Billing.METERED)
            tx.execute("UPDATE requests SET id = ? WHERE id = ?", (12 + number, asked.row["id"]))
    use(
        book,
        [
            Request(alice, ago_ms=3 * DAY_MS, model="gpt-4o", upstream="openai"),
            Request(bob, ago_ms=DAY_MS, model="gpt-4o-mini", upstream="openai", tags=(("agent", "coder"),)),
            Request(alice, status=Status.ERROR, meters=Meters()),
        ],
    )
    book.db.conn.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = 'holds'", (USAGE - 1,))
    dear = Meters(input=100_000_000, output=1_000, calls=1)
    book.use(alice, dear, now_ms=now_ms() - 60_000, model="gpt-4o", request_id=REQUEST)
