"""`llmgate limits`, `plans` and `events`: how much may be asked, who has which bundle, and what was told of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from llmgate.plans import Policy
from llmgate.store import holds
from llmgate.store.db import now_ms
from llmgate.types import Meters
from tests.books import POLICY, Book

from .books import PRICE
from .conftest import Cli

FIELDS = ["target", "limit", "source", "used", "held", "remaining", "resets_at"]

CONFIG = """
[defaults]
limits = ["60 requests/minute"]

[plans.starter]
price = 29
limits = ["100000 tokens/month", "$0.5 total on gpt-4o*"]
models = ["gpt-4o*", "sandbox/*"]

[plans.pro]

[plans.sold]
limits = ["1000 tokens/month"]
overage = 0.002
billing = "prepaid"
"""

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:00\.000Z")


@pytest.fixture
def planned(cli: Cli) -> Cli:
    """A home with plans and a default."""
    (cli.folder / "llmgate.toml").write_text(CONFIG)
    return cli


@pytest.fixture(scope="module")
def with_alice(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """A home with alice in it, for what changes nothing."""
    cli = Cli(tmp_path_factory.mktemp("alice"))
    cli("users", "add", "alice")
    return cli


def database(cli: Cli) -> Path:
    return Path(cli.data("db", "stats")["database"])


def told(cli: Cli, *target: str) -> list[tuple[str, str, str]]:
    return [(row["target"], row["limit"], row["source"]) for row in cli.data("limits", *target)]


# ── limits ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_limits_are_set_listed_and_removed(cli: Cli) -> None:
    key_id = cli.data("keys", "add", "alice")["id"]
    cli("teams", "add", "research")
    done = cli("limits", "set", "alice", "60 request/minute", "50 USD / month")
    assert (done.out, done.err.splitlines()) == ("", ["alice: 60 requests/minute", "alice: $50/month"])
    cli("limits", "set", "team:research", "$5/day on gpt-4o*")
    cli("limits", "set", f"key:{key_id}", "5 concurrent")
    cli("limits", "set", "user:alice", "70 requests/minute")
    everything = [
        ("alice", "$50/month", "user"),
        ("alice", "70 requests/minute", "user"),
        ("team:research", "$5/day on gpt-4o*", "team"),
        (f"key:{key_id}", "5 concurrent", "key"),
    ]
    assert told(cli) == told(cli, "list") == everything
    assert told(cli, "alice") == told(cli, "user:alice") == told(cli, "list", "alice") == everything[:2]
    assert told(cli, "team:research") == everything[2:3]
    assert told(cli, "key:alice/default") == told(cli, f"key:{key_id}") == everything[3:]
    done = cli("limits", "remove", "alice", "1 requests/minute")
    assert done.err == "alice: no more 70 requests/minute\n"
    cli("limits", "set", "alice", "5 concurrent", "9 tokens total")
    done = cli("limits", "remove", "alice", "--all", "--yes")
    assert len(done.err.splitlines()) == 3
    assert told(cli, "alice") == []
    assert [row["action"] for row in cli.data("audit")].count("limits.set") == 5
    assert [row["action"] for row in cli.data("audit")].count("limits.remove") == 2


def test_a_limit_in_json(cli: Cli) -> None:
    key = cli("keys", "add", "alice").out.strip()
    cli("limits", "set", "alice", "3 requests/hour", "$0.01 total", "2 concurrent", "unlimited tokens/day")
    book = Book(database(cli))
    at_ms = now_ms()
    book.use(key, Meters(input=1000, output=500, calls=1), price=PRICE, now_ms=at_ms)
    book.place(key, price=PRICE, bound=1000, output=500, now_ms=at_ms)
    book.close()
    rows = {row["limit"]: row for row in cli.data("limits")}
    assert [list(row) for row in rows.values()] == [FIELDS] * 3
    figures = {text: tuple(row[name] for name in ("target", "used", "held", "remaining")) for text, row in rows.items()}
    assert figures == {
        "3 requests/hour": ("alice", 1, 1, 1),
        "$0.01 total": ("alice", "0.002", "0.002", "0.006"),
        "2 concurrent": ("alice", 0, 1, 1),
    }
    assert TIME.fullmatch(rows["3 requests/hour"]["resets_at"])
    assert rows["$0.01 total"]["resets_at"] is rows["2 concurrent"]["resets_at"] is None
    table = cli("limits", "alice").out
    assert "$0.006" in table
    assert cli("verify").code == 0


def test_a_limit_that_was_lowered_leaves_nothing_and_not_less(cli: Cli) -> None:
    key = cli("keys", "add", "alice").out.strip()
    book = Book(database(cli))
    for _ in range(3):
        book.use(key, Meters(input=1, calls=1))
    book.close()
    cli("limits", "set", "alice", "2 requests total")
    assert [(row["used"], row["remaining"]) for row in cli.data("limits")] == [(3, 0)]


def test_defaults_and_plans_are_listed_with_whom_they_hold_for(planned: Cli) -> None:
    planned("keys", "add", "bob", "--plan", "starter")
    planned("keys", "add", "carol")
    starter = [
        ("bob", "100000 tokens/month", "plan"),
        ("bob", "$0.5 total on gpt-4o*", "plan"),
        ("bob", "60 requests/minute", "default"),
    ]
    assert told(planned) == [*starter, ("carol", "60 requests/minute", "default")]
    planned("limits", "set", "bob", "600 requests/minute")
    assert told(planned, "bob") == [("bob", "600 requests/minute", "user"), *starter[:2]]
    planned("limits", "remove", "bob", "600 requests/minute")
    assert told(planned, "bob") == starter
    done = planned("limits", "remove", "bob", "60 requests/minute", "--json", code=1)
    assert done.error["code"] == "not_found", "the default's is not its own"


def test_where_there_is_none(cli: Cli) -> None:
    cli("users", "add", "alice")
    assert "llmgate limits set USER" in cli("limits").err
    done = cli("limits", "alice")
    assert (done.out, "there is no limit on alice" in done.err) == ("", True)
    assert cli.data("limits") == []


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("set", "alice", "5 apples/day"), 2, "'5 apples/day' is no limit: write for example 60 requests/minute"),
        (("set", "alice", "60 requests"), 2, "has no window: add /minute"),
        (("set", "alice"), 2, "SPEC"),
        (("set", "alise", "5 requests/day"), 1, "did you mean alice?"),
        (("set", "team:ops", "5 requests/day"), 1, "there is no team 'ops'"),
        (("set", "key:k-22222222", "5 requests/day"), 1, "there is no key 'k-22222222'"),
        (("list", "alise"), 1, "did you mean alice?"),
        (("remove", "alice"), 2, "name one limit, or say --all"),
        (("remove", "alice", "5 requests/day", "--all"), 2, "name one limit, or say --all"),
        (("remove", "alice", "--all"), 2, "add --yes"),
        (("remove", "alice", "--all", "--yes"), 1, "alice has no such limit of its own"),
        (("remove", "alice", "5 requests/day"), 1, "`llmgate limits alice` lists them"),
        (("remove", "alice", "all"), 2, "'all' is no limit"),
    ],
)
def test_wrong_words(with_alice: Cli, args: tuple[str, ...], code: int, says: str) -> None:
    done = with_alice("limits", *args, "--json", code=code)
    assert done.out == ""
    assert says in done.error["message"]
    assert done.error["code"] == ("usage_error" if code == 2 else "not_found")


def test_after_wrong_words_nothing_has_changed(with_alice: Cli) -> None:
    assert with_alice.data("limits") == []


def test_a_terminal_is_asked_before_all_are_removed(cli: Cli) -> None:
    cli("users", "add", "alice")
    cli("limits", "set", "alice", "5 requests/day")
    question = "Remove all limits of alice's own?"
    cli.terminal("limits", "remove", "alice", "--all", answers={question: "n\n"}, code=1)
    assert len(told(cli)) == 1
    cli.terminal("limits", "remove", "alice", "--all", answers={question: "y\n"})
    assert told(cli) == []


# ── plans ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_plans(planned: Cli) -> None:
    planned("teams", "add", "ops")
    planned("teams", "set", "ops", "--plan", "pro")
    planned("users", "add", "eve", "--team", "ops")
    planned("keys", "add", "bob", "--plan", "starter")
    planned("users", "add", "fay", "--team", "ops", "--plan", "starter")
    starter = {
        "plan": "starter",
        "price_usd": "29",
        "billing": None,
        "limits": ["100000 tokens/month", "$0.5 total on gpt-4o*"],
        "overage_usd": None,
        "models": ["gpt-4o*", "sandbox/*"],
        "users": 2,
    }
    pro = starter | {"plan": "pro", "price_usd": "0", "limits": [], "models": [], "users": 1}
    sold = pro | {"plan": "sold", "billing": "prepaid", "limits": ["1000 tokens/month"], "overage_usd": "0.002"}
    assert planned.data("plans") == planned.data("plans", "list") == [starter, pro, sold | {"users": 0}]
    assert planned.data("plans", "show", "starter") == starter
    assert "did you mean starter?" in planned("plans", "show", "start", code=1).err
    planned("users", "set", "bob", "--plan", "")
    assert planned.data("plans", "show", "starter")["users"] == 1


def test_a_plan_says_the_billing_of_who_has_none_of_their_own(planned: Cli) -> None:
    planned("users", "add", "new", "--plan", "sold")
    planned("keys", "add", "keyed", "--plan", "sold")
    planned("users", "add", "set")
    planned("users", "set", "set", "--plan", "sold")
    planned("users", "add", "hand", "--billing", "metered", "--plan", "sold")
    planned("teams", "add", "ops", "--plan", "sold")
    planned("teams", "add", "dev")
    planned("teams", "set", "dev", "--plan", "sold")
    told = {row["account"]: row["billing"] for row in planned.data("credits")}
    assert told.pop("hand") == "metered"
    assert told == dict.fromkeys(("keyed", "new", "set", "team:ops", "team:dev"), "prepaid")
    done = [row for row in planned.data("audit") if row["after"] == {"billing": "prepaid"}]
    assert sorted(row["target"] for row in done) == ["dev", "keyed", "new", "ops", "set"]


def test_who_is_on_a_plan_that_is_gone_is_told(planned: Cli) -> None:
    planned("users", "add", "alice", "--plan", "starter")
    planned("teams", "add", "ops", "--plan", "starter")
    planned("config", "check")
    text = (planned.folder / "llmgate.toml").read_text().replace("plans.starter", "plans.renamed")
    (planned.folder / "llmgate.toml").write_text(text)
    found = planned("config", "check", "--json", code=3)
    alice, ops = json.loads(found.out)["problems"]
    assert alice.startswith("alice is on the plan 'starter', which isn't there: its requests are refused")
    assert "`llmgate users set alice --plan …`" in alice
    assert "`llmgate teams set ops --plan …`" in ops


def test_without_plans(cli: Cli) -> None:
    assert "add [plans.NAME]" in cli("plans").err
    assert cli.data("plans") == []
    cli("plans", "show", "starter", code=1)


@pytest.mark.parametrize(
    "args", [("keys", "add", "bob"), ("users", "add", "eve"), ("users", "set", "alice"), ("teams", "set", "ops")]
)
def test_a_plan_that_is_not_in_the_config_is_given_to_nobody(planned: Cli, args: tuple[str, ...]) -> None:
    planned("users", "add", "alice")
    planned("teams", "add", "ops")
    done = planned(*args, "--plan", "startr", code=1)
    assert "there is no plan 'startr': did you mean starter?" in done.err
    assert [(user["user"], user["plan"]) for user in planned.data("users")] == [("alice", None)]


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ('[defaults]\nlimits = ["5 apples/day"]', "defaults.limits"),
        ('[plans.starter]\nlimits = ["5 tokens/day", "5 requests"]', "plans.starter.limits"),
        ('[plans.starter]\nlimits = "5 requests/day"', "plans.starter.limits"),
    ],
)
def test_a_config_with_a_wrong_limit(cli: Cli, table: str, says: str) -> None:
    (cli.folder / "llmgate.toml").write_text(table)
    assert says in cli("limits", code=1).err


# ── a key's own ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_key_is_issued_with_a_plan_and_limits(planned: Cli) -> None:
    done = planned.data("keys", "add", "bob", "--plan", "starter", "--limit", "10 requests/minute", "--limit", "$1/day")
    assert done["plan"] == "starter"
    key = f"key:{done['id']}"
    assert told(planned, key) == [(key, "$1/day", "key"), (key, "10 requests/minute", "key")]
    assert len(told(planned)) == 5


def test_a_key_with_a_wrong_limit_is_not_issued(planned: Cli) -> None:
    done = planned("keys", "add", "bob", "--plan", "starter", "--limit", "10 apples", code=2)
    assert done.out == ""
    assert planned.data("users") == planned.data("keys", "--all") == []


# ── events ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_events_are_listed(cli: Cli) -> None:
    key = cli("keys", "add", "alice", "--credits", "0.00001").out.strip()
    cli("limits", "set", "alice", "2 requests/day")
    assert "nothing happened since 7d" in cli("events").err
    assert cli.data("events") == []
    book = Book(database(cli))
    policy = Policy(plans=POLICY.plans, limits=(), alert_at=(80,), low_balance=(9_990,))
    at_ms = now_ms()
    for _ in range(2):
        claim = book.claim(key)
        with book.write(at_ms) as tx:
            hold = holds.place(tx, claim, policy)
        outcome = book.outcome(Meters(input=10, calls=1))
        with book.write(at_ms) as tx:
            holds.settle(tx, hold.id, outcome, policy)
    book.close()
    rows = cli.data("events")
    assert [list(row) for row in rows] == [["id", "time", "kind", "target", "message"]] * 2
    assert [(row["kind"], row["target"]) for row in rows] == [("limit", "alice"), ("low_balance", "alice")]
    assert rows[0]["message"].startswith("80 % of the limit 2 requests/day is used until ")
    assert rows[1]["message"] == "the balance is $0.00000998, below $0.00000999"
    assert cli.data("events", "--since", "1h") == rows
    assert cli.data("events", "--since", "2100-01-01") == []
    assert "80 %" in cli("events").out
    cli("events", "--since", "whenever", code=2)


def test_what_was_done_is_written_where_a_format_is_asked_for(cli: Cli) -> None:
    cli("users", "add", "alice")
    made = cli("limits", "set", "alice", "5 requests/day", "unlimited requests/minute", "--json")
    assert [(row["limit"], row["remaining"]) for row in made.json] == [("5 requests/day", 5)]
    assert made.err == ""
    gone = cli("limits", "remove", "alice", "--all", "--yes", "--json").json
    assert gone == [{"target": "alice", "limit": limit} for limit in ("5 requests/day", "unlimited requests/minute")]


def test_a_price_without_quantities_says_how_to_tell_them(cli: Cli) -> None:
    assert "--input 1000 --output 500" in cli("models", "price", "sandbox/echo").err
    assert cli("models", "price", "sandbox/echo", "--input", "4").err == ""
