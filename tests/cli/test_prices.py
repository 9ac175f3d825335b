"""`llmgate prices` and `models price`: set, listed, explained, imported, compared."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from llmgate.pricing import Price
from llmgate.types import Meters
from tests.books import Book
from tests.replay import Replay, body_answer

from .conftest import Cli, plain

CONFIG = """
[upstreams.openai]
api_key = "sk"
[upstreams.sandbox]
[models.fast]
routes = [{ upstream = "openai", model = "gpt-4.1" }]
price = { input = 3, output = 12 }
"""
FIELDS = ["model", "upstream", "kind", "price", "from_at", "until_at", "status", "actor"]


@pytest.fixture
def priced(cli: Cli) -> Cli:
    (cli.folder / "llmgate.toml").write_text(CONFIG)
    return cli


def charged(cli: Cli, model: str) -> str:
    (line,) = [line for line in cli.data("models") if line["model"] == model]
    return str(line["input_usd"])


# ── set, listed, removed ──────────────────────────────────────────────────────────────────────────────────────────────


def test_set_list_show_and_remove(priced: Cli) -> None:
    assert "no price is set" in priced("prices").err
    done = priced("prices", "set", "gpt-4o", "input=2.2", "output=$8.8")
    assert "gpt-4o: input $2.2, output $8.8, from the next request on" in done.err
    (row,) = priced.data("prices")
    assert list(row) == FIELDS
    assert (row["model"], row["upstream"], row["kind"], row["status"]) == ("gpt-4o", None, "charge", "active")
    assert row["price"] == {"input": "2.2", "output": "8.8"}
    assert charged(priced, "gpt-4o") == "2.2"
    assert charged(priced, "fast") == "3", "an alias has a price of its own"
    assert "no more input $2.2, output $8.8" in priced("prices", "remove", "gpt-4o").err
    assert priced.data("prices") == []
    assert [row["status"] for row in priced.data("prices", "list", "--all")] == ["past"]
    assert charged(priced, "gpt-4o") == "2.5"
    assert [row["action"] for row in priced.data("audit")] == ["prices.set", "prices.remove"]


def test_a_price_to_come(priced: Cli) -> None:
    priced("prices", "set", "gpt-4o", "input=1", "output=1")
    priced("prices", "set", "gpt-4o", "input=9", "output=9", "--from", "2199-01-01")
    now, later = priced.data("prices")
    assert (now["status"], later["status"]) == ("active", "to come")
    assert now["until_at"] == later["from_at"] == "2199-01-01T00:00:00.000Z"
    assert charged(priced, "gpt-4o") == "1"
    told = priced("prices", "set", "gpt-4o", "input=2", "output=2").err
    assert "it holds until 2199-01-01T00:00:00.000Z: another price is set from then on" in told
    priced("prices", "remove", "gpt-4o", "--from", "2199-01-01")
    assert [row["status"] for row in priced.data("prices")] == ["active"]


def test_of_one_upstream_and_of_the_cost(priced: Cli) -> None:
    row = priced.data("prices", "set", "openai/gpt-4o", "input=2.2", "output=8.8", "--cost")
    assert (row["model"], row["upstream"], row["kind"]) == ("gpt-4o", "openai", "cost")
    priced("prices", "set", "gpt-4o", "free", "--upstream", "openai")
    (line,) = [line for line in priced.data("models") if line["model"] == "gpt-4o"]
    assert line["free"] is True
    found = priced.data("models", "price", "gpt-4o", "--input", "1000000")
    assert (found["cost_usd"], found["charge_usd"]) == ("2.2", "0")


def test_it_tells_what_the_config_says_of_the_same_model(priced: Cli) -> None:
    told = priced("prices", "set", "fast", "input=1", "output=2").err
    assert "has a price for [models.fast] too: the one set here holds instead of it" in told
    assert charged(priced, "fast") == "1"
    told = priced("prices", "set", "gpt-4.1", "input=1", "output=2").err
    assert "who asks for fast is still charged by the price of [models.fast]" in told


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["gpt-4o", "inptu=3"], "did you mean input?"),
        (["gpt-4o", "3"], "write KEY=USD, such as input=0.25, or the word free alone"),
        (["gpt-4o", "free", "input=1"], "write KEY=USD"),
        (["gpt-4o", "input=1", "input=2"], "input stands there twice"),
        (["gpt-4o", "input=-1"], "negative"),
        (["gpt-4o", "input=0.0000000001"], "9 decimals"),
        (["gpt-4o", "input="], "not a number"),
        (["gpt-4o", "input=1e400"], "too large"),
        (["gpt 4o", "input=1"], "a name has letters"),
        (["gpt-4o", "input=1", "--upstream", "opnai"], "did you mean openai?"),
        (["gpt-4o", "input=1", "--from", "soon"], "write a duration"),
        (["gpt-4o"], ""),
    ],
)
def test_what_is_typed_wrongly(priced: Cli, args: list[str], told: str) -> None:
    assert told in priced("prices", "set", *args, code=2).err
    assert priced.data("prices") == []


def test_the_past_and_the_missing(priced: Cli) -> None:
    past = priced("prices", "set", "gpt-4o", "input=1", "--from", "2026-01-01", "--json", code=1).error
    assert "the past can't be repriced" in past["message"]
    assert priced("prices", "remove", "gpt-4o", "--json", code=1).error["code"] == "not_found"
    assert priced("prices", "show", "openai/no-such", "--json", code=1).error["code"] == "model_not_found"


def test_show_explains_every_rate_and_tells_the_history(priced: Cli) -> None:
    priced("prices", "set", "gpt-4o", "input=2", "output=8")
    priced("prices", "set", "gpt-4o", "input=1", "output=4")
    found = priced.data("prices", "show", "gpt-4o")
    rates = {rate["price"]: rate for rate in found["rates"]}
    assert rates["input"]["charge_usd"] == "1"
    assert rates["input"]["charge_from"].startswith("set for gpt-4o since 20")
    assert (rates["input"]["cost_usd"], rates["input"]["cost_from"]) == ("2.5", "catalogue: openai gpt-4o")
    assert (rates["cached_input"]["charge_usd"], rates["cached_input"]["charge_from"]) == ("1", "as input")
    assert rates["cached_input"]["cost_usd"] == "1.25"
    assert (rates["reasoning"]["cost_usd"], rates["reasoning"]["cost_from"]) == ("10", "as output")
    assert [row["status"] for row in found["history"]] == ["past", "active"]
    table = priced("prices", "show", "gpt-4o").out
    assert "as output" in table
    assert "past" in table
    rows = list(csv.DictReader(io.StringIO(priced("prices", "show", "gpt-4o", "--format", "csv").out)))
    assert len(rows) == len(found["rates"])


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_on_a_terminal(priced: Cli, columns: int) -> None:
    priced("prices", "set", "gpt-4o", "input=2.2", "output=8.8", "cached_input=1.1", "--from", "2199-01-01")
    for command in (("prices",), ("prices", "show", "gpt-4o"), ("models", "price", "gpt-4o", "--input", "1000")):
        out = plain(priced.terminal(*command, columns=columns).out)
        assert max(map(len, out.splitlines())) <= columns, out
        assert "…" not in out.partition("left out")[0]


# ── explained ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_request_explained_line_by_line(priced: Cli) -> None:
    priced("prices", "set", "gpt-4o", "input=3", "cached_input=1", "output=0.000000001", "per_request=0.01")
    parts = ("--input", "1000", "--cached", "200", "--output", "500")
    found = priced.data("models", "price", "gpt-4o", *parts)
    assert (found["upstream"], found["cost_usd"], found["charge_usd"]) == ("openai", "0.00725", "0.012600001")
    lines = {(line["of"], line["meter"]): line for line in found["lines"]}
    told = {key: (line["quantity"], line["rate_usd"], line["amount_usd"]) for key, line in lines.items()}
    assert told == {
        ("cost", "input"): (800, "2.5", "0.002"),
        ("cost", "cached_input"): (200, "1.25", "0.00025"),
        ("cost", "output"): (500, "10", "0.005"),
        ("cost", "total"): (None, None, "0.00725"),
        ("charge", "input"): (800, "3", "0.0024"),
        ("charge", "cached_input"): (200, "1", "0.0002"),
        ("charge", "output"): (500, "0.000000001", "0.0000000000005"),
        ("charge", "calls"): (1, "0.01", "0.01"),
        ("charge", "total"): (None, None, "0.012600001"),
    }
    assert lines["charge", "total"]["from"] == "rounded up"
    assert lines["cost", "total"]["from"] == "exact"
    assert "rounded up" in priced("models", "price", "gpt-4o", *parts).out


def test_a_flat_rate_is_one_line(cli: Cli) -> None:
    (cli.folder / "llmgate.toml").write_text(
        '[defaults]\nflat_rate = 20\n[upstreams.openai]\napi_key = "x"\n[upstreams.ollama]\n'
    )
    for model in ("gpt-4o", "gpt-4.1-mini", "ollama/anything"):
        found = cli.data("models", "price", model, "--input", "900000", "--output", "100000")
        assert found["charge_usd"] == "20"


def test_a_tier_is_told(priced: Cli) -> None:
    (priced.folder / "llmgate.toml").write_text('[upstreams.anthropic]\napi_key = "x"\n')
    found = priced.data("models", "price", "claude-sonnet-4-5", "--input", "200001")
    assert found["lines"][0]["rate_usd"] == "6"
    assert "above 200000 input tokens" in found["lines"][0]["from"]


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        (["--input", "10", "--cached", "11"], 2, "--input 10 is all of them: its parts come to 11"),
        (["--reasoning", "1"], 2, "--output 0 is all of them"),
        (["--input", "-1"], 2, ""),
        (["--upstream", "opnai"], 2, "did you mean openai?"),
    ],
)
def test_what_cannot_be_explained(priced: Cli, args: list[str], code: int, told: str) -> None:
    assert told in priced("models", "price", "gpt-4o", *args, code=code).err


# ── imported ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def write(cli: Cli, name: str, text: str) -> str:
    (cli.folder / name).write_text(text)
    return name


def test_import_shows_what_changes_and_asks(priced: Cli) -> None:
    priced("prices", "set", "gpt-4o", "input=2.5", "output=10")
    file = write(priced, "p.json", '{"gpt-4o": {"prompt": 0.003, "completion": 0.01}, "echo-2": {"input": 1, "x": 2}}')
    unasked = priced("prices", "import", file, code=2)
    assert "add --yes" in unasked.err
    assert "not taken: x" in unasked.err
    assert "changed" in unasked.out
    refused = priced.terminal("prices", "import", file, answers={"[y/N]": "n\n"}, code=1)
    assert "nothing was changed" in refused.out
    assert len(priced.data("prices")) == 1
    assert priced.terminal("prices", "import", file, answers={"[y/N]": "y\n"}).code == 0
    assert charged(priced, "gpt-4o") == "3"
    again = priced("prices", "import", file, "--yes")
    assert "nothing to do: 2 unchanged" in again.err
    assert again.out == ""
    rows = priced.data("prices", "import", write(priced, "q.csv", "model,input\ngpt-4o,4"), "--yes")
    assert rows == [
        {
            "change": "changed",
            "of": None,
            "model": "gpt-4o",
            "before": {"input": "3", "output": "10"},
            "after": {"input": "4"},
        }
    ]


def test_import_is_all_or_nothing(priced: Cli) -> None:
    file = write(priced, "p.csv", "model,input,output\na,1,2\nb,-1,2\n")
    assert "p.csv: line 3, b: -1 is negative" in priced("prices", "import", file, "--yes", code=2).err
    file = write(priced, "p.csv", "model,upstream,input\na,,1\nb,nowhere,2\n")
    assert "there is no upstream 'nowhere'" in priced("prices", "import", file, "--yes", code=2).err
    assert "can't be read" in priced("prices", "import", "missing.json", "--yes", code=2).err
    assert priced.data("prices") == []


def test_import_from_stdin_of_costs_and_for_later(priced: Cli) -> None:
    text = '{"gpt-4o": {"litellm_provider": "openai", "input_cost_per_token": 2e-6, "output_cost_per_token": 8e-6}}'
    priced("prices", "import", "-", "--cost", "--from", "2199-01-01", "--yes", stdin=text)
    (row,) = priced.data("prices")
    assert (row["kind"], row["status"], row["price"]) == ("cost", "to come", {"input": "2", "output": "8"})
    assert [row["action"] for row in priced.data("audit")] == ["prices.import"]


def test_model_pricing_json(priced: Cli) -> None:
    text = '{"gpt-4o": {"prompt": 0.004, "completion": 0.016}, "fast": 0.1}'
    path = write(priced, "prices.json", text)
    for given in (text, path):
        rows = priced("models", "--search", "a", "--json", MODEL_PRICING_JSON=given).json
        assert {row["model"]: row["input_usd"] for row in rows if row["model"] == "fast"} == {"fast": "3"}
        found = priced("prices", "show", "gpt-4o", "--json", MODEL_PRICING_JSON=given).json["rates"][0]
        assert (found["charge_usd"], found["charge_from"]) == ("4", "$MODEL_PRICING_JSON")
    for bad in ("{", "missing.json", '{"a": -1}'):
        assert "environment: MODEL_PRICING_JSON must be JSON" in priced("models", code=1, MODEL_PRICING_JSON=bad).err


# ── the catalogue ─────────────────────────────────────────────────────────────────────────────────────────────────────

NEWER = json.dumps(
    [
        {
            "id": "openai",
            "name": "OpenAI",
            "api_pattern": "https://api\\.openai\\.com",
            "model_match": {"starts_with": "gpt-"},
            "models": [
                {"id": "gpt-4o", "match": {"starts_with": "gpt-4o"}, "prices": {"input_mtok": 7, "output_mtok": 10}},
                {"id": "gpt-9", "match": {"equals": "gpt-9"}, "prices": {"input_mtok": 1, "output_mtok": 2}},
            ],
        }
    ]
)


def test_update_from_a_file_and_back(priced: Cli) -> None:
    file = write(priced, "data.json", NEWER)
    rows = {row["model"]: row for row in priced.data("prices", "diff", file)}
    assert rows["gpt-9"]["change"] == "added"
    assert rows["gpt-4.1-mini"]["change"] == "gone"
    assert (rows["gpt-4o"]["before"]["input"], rows["gpt-4o"]["after"]["input"]) == ("2.5", "7")
    assert charged(priced, "gpt-4o") == "2.5", "diff changes nothing"
    assert "add --yes" in priced("prices", "update", "--file", file, code=2).err
    priced("prices", "update", "--file", file, "--yes")
    assert charged(priced, "gpt-4o") == "7"
    assert charged(priced, "gpt-9") == "1"
    back = {row["model"]: row["change"] for row in priced.data("prices", "diff")}
    assert (back["gpt-9"], back["gpt-4.1-mini"]) == ("gone", "added")
    priced("prices", "update", "--installed", "--yes")
    assert charged(priced, "gpt-4o") == "2.5"
    assert [row["action"] for row in priced.data("audit")] == ["prices.update"] * 2


def test_update_from_the_network(priced: Cli) -> None:
    with Replay() as up:
        up.answer(*body_answer(NEWER.encode()))
        priced("prices", "update", "--url", f"{up.url}/data.json", "--yes")
        assert charged(priced, "gpt-9") == "1"
        up.answer(*body_answer(b"gone", status=404))
        failed = priced("prices", "update", "--url", f"{up.url}/data.json", "--yes", "--json", code=1).error
        assert failed["code"] == "upstream_unavailable"
        assert "llmgate prices update --file data.json" in failed["message"]
    unreachable = priced("prices", "update", "--url", f"{up.url}/data.json", "--yes", code=1)
    assert "without a network" in unreachable.err
    assert charged(priced, "gpt-9") == "1"


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--file", "bad.json"], "no data.json of genai-prices"),
        (["--file", "missing.json"], "can't be read"),
        (["--file", "bad.json", "--installed"], "choose one of"),
        (["--url", "nonsense"], "can't be fetched"),
    ],
)
def test_what_is_no_update(priced: Cli, args: list[str], told: str) -> None:
    write(priced, "bad.json", '{"a": 1}')
    code = 1 if "--url" in args else 2
    assert told in priced("prices", "update", *args, "--yes", code=code).err


# ── rerated ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_the_same_usage_would_have_cost(cli: Cli, tmp_path: Path) -> None:
    book = Book(tmp_path / "rerated.db")
    alice, bob = book.user("alice"), book.user("bob")
    million = 1_000_000_000
    for key, model in ((alice, "gpt-4o"), (alice, "other"), (bob, "GPT-4o")):
        used = Meters(input=900_000, cached_input=100_000, output=200_000, calls=1)
        book.use(key, used, model=model, price=Price(input=million, output=2 * million), now_ms=None)
    book.close()
    file = write(cli, "next.csv", "model,input,cached_input,output\ngpt-4o,2,1,3\n")
    args = ("report", "--since", "2026-11-01", "--prices", file, "--db", tmp_path / "rerated.db")
    rows = cli.data(*args, "--by", "model")
    assert rows[0] == {
        "model": "GPT-4o",
        "requests": 1,
        "cost_usd": "1.4",
        "charge_usd": "1.4",
        "rerated_usd": "2.5",
        "difference_usd": "1.1",
        "unpriced": 0,
    }
    assert {row["model"]: (row["rerated_usd"], row["unpriced"]) for row in rows} == {
        "GPT-4o": ("2.5", 0),
        "gpt-4o": ("2.5", 0),
        "other": ("1.4", 1),
    }
    by_user = {row["user"]: row["difference_usd"] for row in cli.data(*args)}
    assert by_user == {"alice": "1.1", "bob": "1.1"}
    table = cli(*args, "--by", "day", "--by", "user").out
    assert "rerated" in table
    assert "total" in table
    assert "no JSON" in cli("report", "--prices", write(cli, "bad.json", "{"), code=2).err


def test_it_tells_what_may_not_have_been_meant(priced: Cli) -> None:
    (priced.folder / "llmgate.toml").write_text(CONFIG + "[upstreams.mistral]\napi_key = 'x'\nformat = 'openai'\n")
    told = priced("prices", "set", "gpt-4o", "input=2", "output=20").err
    assert "below what openai bills: input $2 of $2.5 per 1M (catalogue: openai gpt-4o)" in told
    assert "output" not in told.partition("below")[2]
    assert "below" not in priced("prices", "set", "gpt-4o", "input=2.5", "output=10").err
    assert "below" not in priced("prices", "set", "gpt-4o", "input=1", "output=1", "--from", "2199-01-01").err


def test_a_list_that_is_not_there_is_named_once(cli: Cli) -> None:
    assert cli("prices", "import", "/no.csv", code=2).err.startswith("llmgate: /no.csv can't be read: ")
