"""The page that `llmgate invoice --format html` makes, as it is opened, and as it is printed."""

from __future__ import annotations

from pathlib import Path

from playwright.async_api import expect

from llmgate.pricing import Price
from llmgate.store import accounts, ledger
from llmgate.types import Meters
from tests.books import Book
from tests.cli.conftest import Cli

from .conftest import OpenWindow

CONFIG = """
[upstreams.sandbox]
[plans.pro]
price = 29.5
[invoice]
name = "Example & Sons"
address = ["1 Example Street", "VAT EX1"]
note = "Payable within 14 days."
"""

PRICE = Price(input=2_500_000_000, cached_input=125_000_000, output=10_000_000_000)

LONG = "openrouter/anthropic/claude-sonnet-4.5-20250929:thinking"

OCTOBER_MS = 1_727_776_800_000
"""2024-10-01T10:00Z."""

PRINTED = 672
"""CSS pixels: an A4 page between its margins."""


def written(folder: Path) -> Path:
    """The invoice of a user with a long name, of models with long names, and of much use."""
    book = Book(folder / "llmgate.db")
    name = "alice.with-a-name-as-long-as-names-may-be@engineering"
    key = book.user(name)
    with book.write(OCTOBER_MS) as tx:
        accounts.set_user(tx, name, {"email": "alice@example.com", "plan": "pro"})
        ledger.add(tx, name, 25 * 10**9, note="card payment, thank you", ref="stripe:pi_3Q7zK2LkdIwHu7ix0aBcDeFg")
    for model in ("big", "gpt-4o-mini", LONG):
        meters = Meters(input=1_234_567, cached_input=20_000, output=43_210, calls=1)
        book.use(key, meters, now_ms=OCTOBER_MS, price=PRICE, model=model)
    book.close()
    (folder / "llmgate.toml").write_text(CONFIG)
    page = folder / "invoice.html"
    ran = Cli(folder)("--db", book.path, "invoice", name, "--month", "2024-10", "--format", "html")
    page.write_text(ran.out)
    return page


async def test_an_invoice_is_read_on_any_screen(open_window: OpenWindow, tmp_path: Path) -> None:
    window = await open_window(written(tmp_path).as_uri())
    await window.go("", name="invoice", paper=True)


async def test_an_invoice_is_printed_whole(open_window: OpenWindow, tmp_path: Path) -> None:
    window = await open_window(written(tmp_path).as_uri(), viewport={"width": PRINTED, "height": 960})
    await window.go("", look=False)
    await window.page.emulate_media(media="print")
    assert await window.wider() == []
    await expect(window.page.get_by_role("columnheader", name="quantities")).to_be_visible()
    await window.keep("invoice-printed")
