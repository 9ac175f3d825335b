"""`llmgate report`, `usage`, `models`, `verify` and `audit`: what was done, what it cost, and whether that is right."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from llmgate.store.reports import GROUPS

from . import books
from .conftest import Cli, plain

SUMS = [
    *("requests", "input_tokens", "cached_tokens", "output_tokens", "tokens", "cost_usd", "charge_usd", "errors"),
    "wasted_usd",
]

USAGE = [
    *("id", "time", "request_id", "user", "team", "key", "model", "upstream", "format", "input_tokens"),
    *("cached_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens", "cost_usd", "charge_usd"),
    *("wasted_usd", "status"),
    *("source", "cost_source", "overrun", "http_status", "streamed", "duration_ms", "ttft_ms", "tags", "account"),
]


def test_a_report_is_by_user_unless_said_otherwise(reader: Cli) -> None:
    rows = reader.data("report")
    assert [list(row) for row in rows] == [["user", *SUMS]] * 2
    assert rows[0] == {
        "user": "alice",
        "requests": 4,
        "input_tokens": 3000,
        "cached_tokens": 300,
        "output_tokens": 1500,
        "tokens": 4500,
        "cost_usd": "0.006",
        "charge_usd": "0.006",
        "errors": 1,
        "wasted_usd": "0",
    }


def test_a_total_stands_in_tables_only(reader: Cli) -> None:
    table = reader("report").out.splitlines()
    assert table[-1].split()[:2] == ["total", "5"]
    assert "$0.008" in table[-1]
    assert "total" not in reader("report", "--format", "csv").out
    assert "total" not in reader("report", "--json").out
    assert "total" not in reader("report", "--user", "bob").out, "one row needs none"
    assert "total" in plain(reader.terminal("report").out)


@pytest.mark.parametrize("group", GROUPS)
def test_a_report_by_everything(reader: Cli, group: str) -> None:
    rows = reader.data("report", "--by", group)
    assert list(rows[0]) == [group, *SUMS]
    assert sum(row["requests"] for row in rows) == 5


def test_a_report_by_several_things(reader: Cli) -> None:
    rows = reader.data("report", "--by", "user", "--by", "model")
    assert reader.data("report", "--by", "user,model") == rows
    assert [(row["user"], row["model"], row["requests"]) for row in rows] == [
        ("alice", "sandbox/echo", 3),
        ("alice", "gpt-4o-mini", 1),
        ("bob", "gpt-4o-mini", 1),
    ]
    assert {row["team"] for row in reader.data("report", "--by", "team")} == {None, "research"}


@pytest.mark.parametrize(
    ("filters", "requests"),
    [
        (["--user", "alice"], 4),
        (["--team", "research"], 1),
        (["--key", "alice/default"], 4),
        (["--model", "gpt*"], 2),
        (["--upstream", "sandbox"], 3),
        (["--user", "alice", "--model", "gpt*"], 1),
    ],
    ids=str,
)
def test_what_is_reported_can_be_narrowed(reader: Cli, filters: list[str], requests: int) -> None:
    assert sum(row["requests"] for row in reader.data("report", *filters)) == requests
    assert len(reader.data("usage", *filters)) == requests


def test_a_filter_that_names_nobody_is_a_typo(reader: Cli) -> None:
    for command in ("report", "usage"):
        for option in ("--user", "--team", "--key"):
            assert reader(command, option, "nobody", "--json", code=1).error["code"] == "not_found"
    assert "did you mean alice?" in reader("report", "--user", "alise", code=1).err


def test_a_report_of_days(cli: Cli) -> None:
    requests = [books.Request(ago_ms=days * books.DAY_MS) for days in (0, 1, 2, 40)]
    db_option = ("--db", books.fill_with(cli.folder / "llmgate.db", requests))
    assert cli.data(*db_option, "report")[0]["requests"] == 3
    assert cli.data(*db_option, "report", "--since", "1d")[0]["requests"] == 2
    assert cli.data(*db_option, "report", "--since", "60d", "--until", "yesterday")[0]["requests"] == 3
    assert cli.data(*db_option, "report", "--since", "yesterday", "--until", "yesterday")[0]["requests"] == 1
    days = [row["day"] for row in cli.data(*db_option, "report", "--since", "1y", "--by", "day")]
    assert days == sorted(days)
    assert len(days) == 4
    assert "whole days" in cli(*db_option, "report", "--since", "90m").err


def test_an_empty_period_says_so(reader: Cli) -> None:
    done = reader("report", "--since", "2020-01-01", "--until", "2020-01-31")
    assert (done.out, done.err) == ("", "nothing was used from 2020-01-01 to 2020-01-31\n")
    assert reader.data("report", "--until", "2020-01-31", "--since", "2020-01-01") == []
    header = reader("report", "--since", "2020-01-01", "--until", "2020-01-31", "--format", "csv", "--by", "day").out
    assert header == ",".join(["day", *SUMS]) + "\n"


def test_usage_has_its_fields(reader: Cli) -> None:
    rows = reader.data("usage")
    assert [list(row) for row in rows] == [USAGE] * 5
    row = rows[0]
    assert (row["user"], row["key"], row["team"]) == ("alice", "alice/default", None)
    assert (row["input_tokens"], row["cached_tokens"], row["output_tokens"], row["reasoning_tokens"]) == (
        *(1000, 100, 500, 100),
    )
    assert (row["cost_usd"], row["charge_usd"]) == ("0.002", "0.002")
    assert (row["streamed"], row["overrun"], row["tags"]) == (False, False, {})
    assert [row["tags"] for row in rows if row["tags"]] == [{"job": "42"}]
    assert [row["account"] for row in rows] == ["alice", "team:research", "alice", "alice", "alice"]


def test_usage_shows_the_id_that_a_refund_takes(cli: Cli) -> None:
    path = books.fill_with(cli.folder / "llmgate.db", [books.Request()])
    for width in (60, 80, 200):
        lines = plain(cli.terminal("--db", path, "usage", columns=width).out).splitlines()
        assert "id" in lines[[line.startswith("id") for line in lines].index(True)].split()
        assert any(line.split()[:1] == ["1"] for line in lines)
    cli("--db", path, "credits", "refund", "1")


def test_usage_can_be_narrowed_in_time(reader: Cli) -> None:
    assert len(reader.data("usage", "--since", "1h")) == 3
    assert len(reader.data("usage", "--since", "25h")) == 4
    assert len(reader.data("usage", "--until", "1h")) == 2
    assert [row["status"] for row in reader.data("usage", "--status", "error")] == ["error"]
    times = [row["time"] for row in reader.data("usage", "--last", "2")]
    assert times == sorted(times)
    assert len(times) == 2
    assert "no request" in reader("usage", "--since", "1s").err


def test_a_terminal_gets_the_newest_usage_only(cli: Cli) -> None:
    requests = [books.Request(model=f"m{number:03}", ago_ms=9000) for number in range(60)]
    path = books.fill_with(cli.folder / "llmgate.db", requests)
    out = plain(cli.terminal("--db", path, "usage", columns=200).out)
    assert "m009" not in out
    assert "m010" in out
    assert "m059" in out
    assert "m000" in cli("--db", path, "usage").out
    assert "m000" in cli.terminal("--db", path, "usage", "--format", "csv").out
    assert "m056" not in cli.terminal("--db", path, "usage", "--last", "3", columns=200).out


# ── models ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_models_come_with_their_prices(cli: Cli) -> None:
    (cli.folder / "llmgate.toml").write_text(
        "[upstreams.sandbox]\n"
        '[upstreams.gpu]\nbase_url = "http://10.0.0.5/v1"\nauth = "none"\nprice = "free"\n'
        '[models.fast]\nroutes = [{ upstream = "gpu", model = "x" }]\n'
        '[models.dear]\nroutes = [{ upstream = "gpu", model = "y" }]\nprice = { input = 0.25, output = 1.5 }\n'
    )
    rows = {row["model"]: row for row in cli.data("models")}
    assert rows["dear"] == {
        "model": "dear",
        "upstream": "gpu",
        "input_usd": "0.25",
        "output_usd": "1.5",
        "cached_input_usd": "0.25",
        "free": False,
        "price_usd": None,
        "per": None,
    }
    assert rows["fast"]["free"] is True
    assert rows["sandbox/echo"]["input_usd"] == "1"
    assert [row["model"] for row in cli.data("models", "--search", "FAST")] == ["fast"]
    assert cli.data("models", "list", "--search", "nothing like it") == []
    assert not (cli.folder / "llmgate.db").exists(), "prices need no database"


@pytest.mark.parametrize(
    ("price", "tokens", "each", "per"),
    [
        ("{ per_1k_characters = 0.015 }", None, "0.015", "1000 characters"),
        ("{ per_second = 0.0001 }", None, "0.0001", "second"),
        ("{ per_image = 0.04 }", None, "0.04", "image"),
        ("{ per_search = 0.005 }", None, "0.005", "search"),
        ("{ per_request = 0.01 }", None, "0.01", "request"),
        ("{ input = 1, output = 1, per_request = 0.01 }", "1", "0.01", "request"),
        ("{ input = 1, output = 1, per_search = 0.01 }", "1", None, None),
        ('"free"', "0", None, None),
    ],
)
def test_what_is_sold_by_the_piece_has_no_price_of_tokens(
    cli: Cli, price: str, tokens: str | None, each: str | None, per: str | None
) -> None:
    (cli.folder / "llmgate.toml").write_text(
        f'[upstreams.sandbox]\n[models.m]\nroutes = [{{ upstream = "sandbox" }}]\nprice = {price}\n'
    )
    row = next(row for row in cli.data("models") if row["model"] == "m")
    assert [row[name] for name in ("input_usd", "output_usd", "cached_input_usd")] == [tokens] * 3
    assert (row["price_usd"], row["per"], row["free"]) == (each, per, price == '"free"')


def test_the_catalogues_voices_are_not_free(cli: Cli) -> None:
    (cli.folder / "llmgate.toml").write_text("[upstreams.openai]\n")
    (row,) = [row for row in cli.data("models", "--search", "tts-1") if row["model"] == "tts-1"]
    assert row["input_usd"] is None
    assert (row["price_usd"] > "0", row["per"], row["free"]) == (True, "1000 characters", False)


@pytest.mark.parametrize("command", [("models", "price"), ("prices", "show")])
@pytest.mark.parametrize(
    ("model", "meant", "search"),
    [
        ("gtp-4o", "gpt-4o", "gpt-4o"),
        ("openai/gtp-4o", "openai/gpt-4o", "gpt-4o"),
        ("opnai/gpt-4o", "openai/gpt-4o", "gpt-4o"),
        ("/v1/translat", "/v1/translate", "/v1/translate"),
    ],
)
def test_a_models_typo_is_told_the_nearest(
    cli: Cli, command: tuple[str, str], model: str, meant: str, search: str
) -> None:
    (cli.folder / "llmgate.toml").write_text(
        '[upstreams.openai]\n[upstreams.groq]\n[routes."/v1/translate"]\nupstream = "openai"\nprice = 0.01\n'
    )
    told = cli(*command, model, code=1).err
    assert f"there is no model {model!r}: did you mean {meant}? `llmgate models --search {search}` lists them" in told


def test_a_model_like_no_other_is_told_how_it_could_be_one(cli: Cli) -> None:
    (cli.folder / "llmgate.toml").write_text("[upstreams.openai]\n[upstreams.groq]\n")
    told = cli("models", "price", "zzzzzzzz", code=1).err
    assert "[models.zzzzzzzz]" in told
    assert "`llmgate models` lists those known" in told
    assert "did you mean" not in cli("models", "price", "openai/zzzzzzzz", code=1).err


def test_a_report_of_a_model_that_nobody_knows_names_the_nearest(cli: Cli) -> None:
    (cli.folder / "llmgate.toml").write_text("[upstreams.openai]\n")
    path = books.fill_with(cli.folder / "llmgate.db", [books.Request(model="my-llama", ago_ms=9000)])
    for typo, meant in (("my-lama", "my-llama"), ("gpt-44", "gpt-4")):
        done = cli("--db", path, "report", "--model", typo, "--json")
        assert done.out == "[]\n"
        assert f"did you mean {meant}?" in done.err
    for right in ("gpt-4o", "gpt-44*"):
        assert "did you mean" not in cli("--db", path, "report", "--model", right).err


# ── audit ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_audit_tells_who_did_what(cli: Cli) -> None:
    cli("keys", "add", "alice", "--credits", "5", "--expires", "2031-01-31")
    cli("users", "disable", "alice")
    acts = cli.data("audit")
    assert [act["action"] for act in acts] == ["users.add", "keys.add", "credits.add", "users.set"]
    assert all(act["actor"].startswith("cli:") for act in acts)
    assert acts[2]["after"]["amount_usd"] == "5"
    assert acts[1]["after"]["expires_at"] == "2031-02-01T00:00:00.000Z"
    assert (acts[3]["before"], acts[3]["after"]) == ({"status": "active"}, {"status": "disabled"})
    today = datetime.now(UTC).date().isoformat()
    assert cli.data("audit", "--since", "2020-01-01", "--until", "2020-12-31") == []
    assert len(cli.data("audit", "--since", today)) == 4


def test_reading_leaves_no_trace(cli: Cli, tmp_path: Path) -> None:
    path = books.fill(tmp_path / "llmgate.db")
    before = len(cli.data("--db", path, "audit"))
    for command in ("keys", "users", "credits", "report", "usage", "verify", "db stats"):
        cli("--db", path, *command.split())
    assert len(cli.data("--db", path, "audit")) == before
