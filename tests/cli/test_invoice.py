"""`llmgate invoice`: one page in five formats, and the same exact amounts in each."""

from __future__ import annotations

import csv
import json
import re
from datetime import UTC, date, datetime
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import msgspec
import pytest

from llmgate.cli.invoice import _month, _open, _page
from llmgate.config import load
from llmgate.errors import UsageError
from llmgate.money import parse_usd
from llmgate.pricing import Price, Tier
from llmgate.store import accounts, ledger
from llmgate.store.invoices import Invoice
from llmgate.types import Meters

from ..books import Book
from .conftest import Cli, Ran, plain

PRICE = Price(input=1_000_000_000, output=2_000_000_000, calls=5_000_000_000_000, tiers=(Tier(9, Price(input=3)),))
CONFIG = """
[upstreams.sandbox]
[plans.pro]
price = 29.5
[invoice]
name = "Example & Sons <Ltd>"
address = ["1 Example Street", "VAT EX1"]
note = "Payable within 14 days | thank you"
"""


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1000


@pytest.fixture(scope="module")
def sold(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """alice, who buys for herself, in October 2024; bob, whose team pays."""
    book = Book(tmp_path_factory.mktemp("invoice") / "llmgate.db")
    book.team("research")
    alice, bob = book.user("alice"), book.user("bob", team="research")
    with book.write(at("2024-09-30T10:00")) as tx:
        ledger.add(tx, "alice", 10 * 10**9)
        accounts.set_user(tx, "alice", {"email": "<b>a@example.com</b>", "plan": "pro"})
    book.use(alice, Meters(input=3, calls=1), now_ms=at("2024-09-30T11:00"), price=Price(input=10**6))
    for when, key, model in (
        ("2024-10-01T00:00", alice, "big"),
        ("2024-10-31T23:59", alice, "ba|d<i>"),
        ("2024-10-02T00:00", bob, "big"),
    ):
        book.use(key, Meters(input=3, cached_input=2, output=4, calls=1), now_ms=at(when), price=PRICE, model=model)
    with book.write(at("2024-10-09T10:00")) as tx:
        ledger.take(tx, "alice", 1, note="x|<script>alert(1)</script>")
    book.close()
    return book.path


@pytest.fixture
def invoice(cli: Cli, sold: Path) -> Any:
    (cli.folder / "llmgate.toml").write_text(CONFIG)

    def run(*args: str, code: int = 0, user: str = "alice", month: str = "2024-10", **env: str) -> Ran:
        return cli("--db", sold, "invoice", user, "--month", month, *args, code=code, **env)

    return run


def test_json_has_all_of_it(invoice: Any) -> None:
    told = invoice("--json").json
    assert list(told) == [
        *("number", "account", "month", "zone", "currency", "final", "issuer", "lines", "entries", "plans"),
        *("opening_usd", "moved_usd", "total_usd", "closing_usd"),
    ]
    assert (told["number"], told["zone"], told["final"]) == ("2024-10-alice", "UTC", True)
    assert told["plans"] == [{"plan": "pro", "users": 1, "price_usd": "29.5"}]
    assert [line["model"] for line in told["lines"]] == ["ba|d<i>", "big"]
    big = told["lines"][1]
    wanted = ("kind", "requests", "input", "cached_input", "output", "calls", "amount_usd")
    assert [big[name] for name in wanted] == ["usage", 1, 3, 2, 4, 1, "0.005013"]
    assert big["price"] == "input $1, output $2, input above 9 $0.000000003 per 1M tokens, $0.005 per request"
    assert (told["opening_usd"], told["moved_usd"], told["total_usd"]) == ("9.999999997", "-0.000000001", "0.010026")
    assert told["closing_usd"] == "9.989973996"
    assert [entry["kind"] for entry in told["entries"]] == ["take"]


def test_csv_has_lines_entries_and_balances(invoice: Any) -> None:
    rows = list(csv.DictReader(StringIO(invoice("--format", "csv").out)))
    assert [row["section"] for row in rows] == ["opening", "usage", "usage", "total", "take", "closing"]
    assert {row["number"] for row in rows} == {"2024-10-alice"}
    amounts = {row["section"]: row["amount_usd"] for row in rows}
    nano = [int(float(row["amount_usd"]) * 10**9 + 0.5) for row in rows if row["section"] == "usage"]
    assert sum(nano) == parse_usd(amounts["total"])


class Seen(HTMLParser):
    """The tags and texts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attrs: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attrs += [name for name, _ in attrs]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_html_is_one_page_without_a_script_or_anything_from_elsewhere(invoice: Any, cli: Cli) -> None:
    text = invoice("--format", "html").out
    page = Seen(text)
    assert not {"script", "b", "i", "img", "link", "iframe"} & set(page.tags)
    assert not {"src", "href", "onclick"} & set(page.attrs)
    assert "url(" not in text
    assert "@page" in text
    for said in ("Example & Sons <Ltd>", "ba|d<i>", "x|<script>alert(1)</script>", "for alice <<b>a@example.com</b>>"):
        assert said in page.texts, said
    for said in ("Invoice 2024-10-alice", "$0.010026", "$9.989973996", "Payable within 14 days | thank you"):
        assert said in page.texts, said
    bare = invoice("--format", "html", PYTHONIOENCODING="ascii").out
    assert bare.isascii()


def test_markdown_has_tables_that_no_name_breaks(invoice: Any) -> None:
    lines = invoice("--format", "md").out.splitlines()
    assert lines[0] == "# Invoice 2024-10-alice"
    assert "**Example & Sons \\<Ltd\\>**  " in lines
    tables = [line for line in lines if line.startswith("|")]
    assert any("ba\\|d\\<i\\>" in line for line in tables)
    for line in tables:
        assert line.replace("\\|", "").count("|") in (3, 4, 6), line
    assert tables[4].startswith("| total | 2 |")


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_on_a_terminal_nothing_is_lost(invoice: Any, cli: Cli, sold: Path, columns: int) -> None:
    args = ("--db", sold, "invoice", "alice", "--month", "2024-10")
    out = plain(cli.terminal(*args, columns=columns).out)
    assert max(map(len, out.splitlines())) <= columns
    for said in ("Invoice 2024-10-alice", "$0.010026", "$9.989973996", "$29.50", "VAT EX1"):
        assert said in out, said


def test_nobody_pays_twice(invoice: Any) -> None:
    bob = invoice(user="bob")
    assert "nothing was used" in bob.out
    assert "Requests of bob are now paid by team:research" in bob.err
    team = json.loads(invoice("--json", user="team:research").out)
    assert (team["number"], team["total_usd"], team["closing_usd"]) == (
        *("2024-10-team:research", "0.005013", "-0.005013"),
    )


@pytest.fixture
def lately(cli: Cli) -> Any:
    """A user made in November 2024 without a plan, who gets one in December; and one who came without her past."""
    (cli.folder / "llmgate.toml").write_text(CONFIG)
    book = Book(cli.folder / "llmgate.db")
    with book.write(at("2024-11-21T10:00")) as tx:
        accounts.add_user(tx, "carol")
    with book.write(at("2024-12-05T10:00")) as tx:
        accounts.set_user(tx, "carol", {"plan": "pro"})
    with book.write(at("2025-01-31T23:59")) as tx:
        accounts.set_user(tx, "carol", {"email": "carol@example.com"})
    with book.write(at("2025-02-01T00:00")) as tx:
        accounts.set_user(tx, "carol", {"plan": ""})
    with book.write(at("2024-11-21T10:00")) as tx:
        accounts.add_user(tx, "dave", plan="pro")
        tx.execute("DELETE FROM audit WHERE target = 'dave'")
    book.close()

    def run(month: str | None, user: str = "carol") -> Ran:
        return cli("invoice", user, *(("--month", month) if month else ()), "--json")

    return run


def test_a_plan_is_told_of_the_months_that_the_user_had_it(lately: Any, cli: Cli) -> None:
    plans = {month: [row["plan"] for row in lately(month).json["plans"]] for month in MONTHS}
    assert plans == {"2024-10": [], "2024-11": [], "2024-12": ["pro"], "2025-01": ["pro"], "2025-02": []}
    assert lately("2024-12", "dave").json["plans"] == []  # nobody knows since when he has it
    book = Book(cli.folder / "llmgate.db")
    with book.write(at("2024-12-31T12:00")) as tx:  # but now he has it
        page = _page(tx, load(cli.folder / "llmgate.toml").config, "dave", "2024-12")
    book.close()
    assert [row["plan"] for row in page.plans] == ["pro"]


MONTHS = ("2024-10", "2024-11", "2024-12", "2025-01", "2025-02")


def test_why_it_is_empty(lately: Any) -> None:
    assert "carol did not exist in 2024-10: it was made on 2024-11-21" in lately("2024-10").err
    assert lately("2024-12").err == ""
    assert re.search(r"nothing happened in \S+: --month \S+ is the running month", lately(None).err)


def test_nothing_at_all(invoice: Any) -> None:
    for form in ("table", "md", "html", "csv", "json"):
        assert "nan" not in invoice("--format", form, month="2020-02").out.lower()
    assert invoice("--json", month="2020-02").json["lines"] == []


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("alice", "--month", "2024-13"), 2, "'2024-13' is no month"),
        (("alice", "--month", "october"), 2, "'october' is no month"),
        (("alice", "--month", "9999-12"), 2, "'9999-12' is no month"),
        (("alice", "--month", "9998-12"), 2, "has not begun yet"),
        (("alice", "--format", "pdf"), 2, "pdf"),
        (("alice", "--json", "--format", "csv"), 2, "two formats"),
        (("alicia",), 1, "did you mean alice"),
        (("team:reserch",), 1, "research"),
    ],
    ids=str,
)
def test_what_is_no_invoice(cli: Cli, sold: Path, args: tuple[str, ...], code: int, said: str) -> None:
    done = cli("--db", sold, "invoice", *args, code=code)
    assert said in done.err
    assert done.out == ""


def test_which_month() -> None:
    assert _month(None, date(2026, 1, 31)) == date(2025, 12, 1)
    assert _month(None, date(2026, 11, 1)) == date(2026, 10, 1)
    assert _month("2026-11", date(2026, 11, 1)) == date(2026, 11, 1)
    with pytest.raises(UsageError, match="has not begun yet: the running month is 2026-11"):
        _month("2026-12", date(2026, 11, 30))


def test_what_is_not_final() -> None:
    month = Invoice(opening_nano=0, entries=[], lines=[], in_flight=2, plans={})
    assert _open(month, True) == "Not final: the month is not over."
    assert _open(month, False) == "Not final: requests of this month are still in flight (2)."
    assert _open(msgspec.structs.replace(month, in_flight=0), False) == ""
