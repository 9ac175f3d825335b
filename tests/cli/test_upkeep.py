"""`llmgate init`, `config` and `db`: the files that everything lives in."""

from __future__ import annotations

import csv
import io
import re
import sqlite3
import tomllib
from pathlib import Path

import pytest

from llmgate.store import schema

from . import books
from .conftest import Cli, plain

# ── init ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def config_of(cli: Cli, name: str = "llmgate.toml") -> dict[str, object]:
    return tomllib.loads((cli.folder / name).read_text())


def test_init_without_a_terminal_asks_nothing(cli: Cli) -> None:
    done = cli("init")
    assert config_of(cli)["upstreams"] == {"sandbox": {}}
    assert (cli.folder / "llmgate.toml").read_text() in done.err, "it shows what it writes"
    assert "llmgate keys add" in done.err
    assert done.out == ""
    cli("config", "check")


def test_init_takes_the_upstreams_of_the_environment(cli: Cli) -> None:
    cli("init", OPENAI_API_KEY="sk-x", GROQ_API_KEY="gsk-x")
    assert set(config_of(cli)["upstreams"]) == {"openai", "groq"}  # type: ignore[call-overload]
    assert "sk-x" not in (cli.folder / "llmgate.toml").read_text()


def test_init_never_overwrites(cli: Cli) -> None:
    (cli.folder / "llmgate.toml").write_text("# mine\n")
    for done in (cli("init", code=1), cli("init", "--yes", code=1)):
        assert "--force" in done.err
        assert done.err.count("\n") == 1
    assert "--force" in cli.terminal("init", code=1).out
    assert (cli.folder / "llmgate.toml").read_text() == "# mine\n"
    cli("init", "--force")
    assert config_of(cli)["upstreams"] == {"sandbox": {}}


def test_init_by_flags(cli: Cli) -> None:
    made = cli.data(
        *("init", "--upstream", "openai", "--upstream", "ollama", "--bind", "0.0.0.0:4000"),
        *("--billing", "prepaid", "--path", "etc/gate/llmgate.toml"),
    )
    assert made == {
        "config": "etc/gate/llmgate.toml",
        "upstreams": ["openai", "ollama"],
        "bind": "0.0.0.0:4000",
        "billing": "prepaid",
    }
    found = config_of(cli, "etc/gate/llmgate.toml")
    assert found["server"] == {"bind": "0.0.0.0:4000"}
    assert found["defaults"] == {"billing": "prepaid"}


def test_init_says_which_secret_is_missing(cli: Cli) -> None:
    assert "set OPENAI_API_KEY" in cli("init", "--upstream", "openai").err
    assert "set OPENAI_API_KEY" not in cli("init", "--upstream", "openai", "--force", OPENAI_API_KEY="sk-x").err


def test_init_writes_where_the_config_is_looked_for(cli: Cli) -> None:
    cli("--config", "one.toml", "init")
    cli("init", LLMGATE_CONFIG="two.toml")
    assert (cli.folder / "one.toml").exists()
    assert (cli.folder / "two.toml").exists()


def test_init_asks_on_a_terminal(cli: Cli) -> None:
    answers = {
        "Upstreams [openai]": "opnai\n",
        "did you mean openai?\nUpstreams": "openai sandbox\n",
        "Listen on": "\n",
        "Billing": "free\n",
        "a balance is needed\nBilling": "prepaid\n",
        "Write llmgate.toml?": "y\n",
    }
    typed = {key.replace("\n", "\r\n"): text for key, text in answers.items()}
    done = cli.terminal("init", answers=typed, OPENAI_API_KEY="x")
    assert "Secrets in the environment already: OPENAI_API_KEY (openai)." in done.out
    assert done.out.index("[upstreams.sandbox]") < done.out.index("Write llmgate.toml?"), "it shows it first"
    assert set(config_of(cli)["upstreams"]) == {"openai", "sandbox"}  # type: ignore[call-overload]
    assert config_of(cli)["defaults"] == {"billing": "prepaid"}


def test_init_can_be_declined(cli: Cli) -> None:
    answers = {"Upstreams": "\n", "Listen on": "\n", "Billing": "\n", "Write llmgate.toml?": "n\n"}
    assert "nothing was written" in cli.terminal("init", answers=answers, code=1).out
    assert not (cli.folder / "llmgate.toml").exists()


@pytest.mark.parametrize("question", ["Upstreams", "Listen on", "Billing", "Write llmgate.toml?"])
def test_ctrl_c_at_any_of_inits_questions_leaves_nothing(cli: Cli, question: str) -> None:
    answers = {"Upstreams": "\n", "Listen on": "\n", "Billing": "\n"} | {question: "\x03"}
    assert "Traceback" not in cli.terminal("init", answers=answers, code=130).out
    assert not (cli.folder / "llmgate.toml").exists()


def test_init_with_yes_asks_nothing_on_a_terminal(cli: Cli) -> None:
    cli.terminal("init", "--yes")
    assert config_of(cli)["upstreams"] == {"sandbox": {}}


# ── config ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_config_check_tells_of_every_upstream_in_one_run(cli: Cli) -> None:
    (cli.folder / "llmgate.toml").write_text(
        '[upstreams.one]\nbase_url = "x"\n[upstreams.two]\nbase_url = "http://x/v1"\nauth = "bearer"\n'
        '[upstreams.three]\n[upstreams.openai]\napi_key = "${NOT_SET}"\n[models.m]\nroutes = [{ upstream = "ten" }]\n'
    )
    problems = cli("config", "check", "--json", code=3).json["problems"]
    assert [problem.split(" ")[0] for problem in problems] == [
        "upstreams.one.base_url",
        "upstreams.three.base_url",
        "models.m.routes[0].upstream",
        "upstreams.two.api_key",
        "upstreams.openai.api_key",
    ]


def test_config_check_without_problems_has_its_header(cli: Cli) -> None:
    assert cli("config", "check", "--format", "csv").out == "problem\n"
    assert cli("config", "check", "--format", "md").out == "| problem |\n| --- |\n"
    assert not cli("config", "check", "--format", "csv").err.startswith("\n")


def test_config_check_lists_every_problem(cli: Cli) -> None:
    (cli.folder / "llmgate.toml").write_text("[server]\nbindd = 1\nbind = 5\n[upstreams.openai]\ntimeout = 3\n")
    done = cli("config", "check", code=3)
    for place in ("server.bindd", "server.bind ", "upstreams.openai.timeout"):
        assert place in done.out
    assert "3 problems found" in done.err
    assert done.err.count("\n") == 1
    found = cli("config", "check", "--json", code=3)
    assert found.json["ok"] is False
    assert len(found.json["problems"]) == 3
    assert found.error["code"] == "problems_found"


def test_config_check_needs_the_secrets(cli: Cli) -> None:
    (cli.folder / "llmgate.toml").write_text('[upstreams.openai]\napi_key = "${MY_KEY}"\n')
    assert "MY_KEY" in cli("config", "check", code=3).out
    done = cli("config", "check", MY_KEY="sk-x")
    assert done.err == ""
    assert "is right" in done.out
    cli("keys", "add", "alice")


def test_config_check_without_a_config(cli: Cli) -> None:
    assert cli("config", "check", "--json").json["ok"] is True
    assert "no config file" in cli("config", "check").out


def test_config_show_masks_secrets(cli: Cli) -> None:
    (cli.folder / "llmgate.toml").write_text(
        '[upstreams.openai]\napi_key = "sk-very-secret"\n[upstreams.groq]\napi_key = "${GROQ_API_KEY}"\n'
        "[models.m]\nprice = { input = 0.25 }\n"
    )
    for options in ([], ["--json"], ["--format", "csv"], ["--format", "md"]):
        assert "very-secret" not in cli("config", "show", *options).out
    text = cli("config", "show").out
    assert tomllib.loads(text)["upstreams"]["groq"]["api_key"] == "${GROQ_API_KEY}"
    assert cli("config").out == text
    assert cli.data("config", "show")["models"]["m"]["price"] == {"input": "0.25"}
    rows = dict(csv.reader(io.StringIO(cli("config", "show", "--format", "csv").out)))
    assert rows["models.m.price.input"] == "0.25"


def test_config_path(cli: Cli) -> None:
    found = cli.data("config", "path")
    assert found == {"config": None, "database": str(cli.folder / "data" / "llmgate" / "llmgate.db")}
    (cli.folder / "llmgate.toml").write_text("")
    found = cli.data("config", "path")
    assert found == {"config": str(cli.folder / "llmgate.toml"), "database": str(cli.folder / "llmgate.db")}
    assert cli.data("config", "path", "--db", "x.db")["database"] == str(cli.folder / "x.db")
    assert not (cli.folder / "llmgate.db").exists(), "to be asked is not to be made"


# ── db ────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_db_stats(reader: Cli) -> None:
    found = reader.data("db")
    assert found["size_bytes"] > 10_000
    assert (found["schema"], found["zone"]) == (schema.VERSION, "UTC")
    assert (found["rows"]["usage"], found["rows"]["users"], found["rows"]["holds"]) == (5, 2, 0)
    assert not any(name.startswith(("_", "sqlite_")) for name in found["rows"])
    assert found["bytes"].keys() == found["rows"].keys()
    assert 0 < sum(found["bytes"].values()) <= found["size_bytes"]
    assert re.search(r"\nusage +5 +[0-9,]+\n", reader("db", "stats").out)
    shown = reader.terminal("db", "stats")
    assert re.search(r"\n *usage +5 +[0-9,]+ *\n", plain(shown.out))
    assert "nothing is older than 400 days" in shown.out
    assert len(list(csv.DictReader(io.StringIO(reader("db", "stats", "--format", "csv").out)))) == 1


def test_db_stats_tells_growth_and_when_to_prune(tmp_path: Path) -> None:
    requests = [books.Request(ago_ms=days * books.DAY_MS) for days in (0, 1, 1, 2, 500, 410)]
    cli = Cli(tmp_path, LLMGATE_DB=str(books.fill_with(tmp_path / "llmgate.db", requests)))
    found = cli.data("db", "stats")
    assert found["requests_per_day"] == 1, "3 in the last 30 whole days"
    assert found["size_in_90_days"] == found["size_bytes"] + max(0, 90 * found["bytes_per_day"] - found["free_bytes"])
    assert (found["prunable_requests"], found["prunable_bytes"] > 0) == (2, True)
    told = cli("db", "stats").err
    assert "`llmgate db prune --before 400d` sums up 2 requests" in told
    cli("db", "prune", "--before", "400d", "--yes")
    after = cli.data("db", "stats")
    assert (after["prunable_requests"], after["pruned_requests"], after["rows"]["usage"]) == (0, 2, 4)
    assert after["oldest_day"] > found["oldest_day"]


# ── prune ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def aged(tmp_path: Path) -> Cli:
    """alice's five requests, of which three are older than 400 days."""
    requests = [books.Request(ago_ms=days * books.DAY_MS, tags=(("job", "1"),)) for days in (1, 2, 500, 500, 410)]
    return Cli(tmp_path, LLMGATE_DB=str(books.fill_with(tmp_path / "llmgate.db", requests)))


FIGURES = (["report", "--since", "600d", "--by", "day", "--by", "user", "--by", "model"], ["credits"], ["limits"])


def test_prune_changes_no_figure(aged: Cli) -> None:
    before = [aged.data(*words) for words in FIGURES]
    assert len(before[0]) == 4
    done = aged("db", "prune", "--before", "400d", "--yes")
    assert "summed up 3 requests of" in done.err
    assert "charged $0.006" in done.err
    assert [aged.data(*words) for words in FIGURES] == before
    aged("verify")
    assert len(aged.data("usage")) == 2
    assert "nothing to prune" in aged("db", "prune", "--before", "400d").err
    (act,) = [act for act in aged.data("audit") if act["action"] == "db.prune"]
    assert (act["after"]["requests"], act["after"]["charge_usd"]) == (3, "0.006")


def test_a_dry_run_changes_nothing(aged: Cli) -> None:
    found = aged("db", "prune", "--before", "400d", "--dry-run", "--json").json
    assert (found["requests"], found["charge_usd"], found["days"], found["accounts"]) == (3, "0.006", 2, 1)
    assert found["dry_run"] is True
    assert len(aged.data("usage")) == 5
    assert "would sum up 3 requests" in aged("db", "prune", "--before", "400d", "--dry-run").err
    gone = aged("db", "prune", "--before", "400d", "--json", "--yes", "--vacuum").json
    moving = ("size_bytes", "free_bytes", "dry_run")
    assert {name: value for name, value in gone.items() if name not in moving} == {
        name: value for name, value in found.items() if name not in moving
    }
    assert (gone["free_bytes"], gone["dry_run"]) == (0, False)


def test_prune_asks_first(aged: Cli) -> None:
    assert "add --yes" in aged("db", "prune", "--before", "400d", code=2).err
    shown = aged.terminal("db", "prune", "--before", "400d", answers={"[y/N]": "n\n"}, code=1)
    assert "nothing was changed" in shown.out
    assert len(aged.data("usage")) == 5
    aged.terminal("db", "prune", "--before", "400d", answers={"[y/N]": "y\n"})
    assert len(aged.data("usage")) == 2


@pytest.mark.parametrize(("when", "code", "told"), [("0d", 1, "limits that still run"), ("soon", 2, "no time")])
def test_prune_refuses(aged: Cli, when: str, code: int, told: str) -> None:
    assert told in aged("db", "prune", "--before", when, "--yes", code=code).err
    assert len(aged.data("usage")) == 5


def test_what_is_gone_is_told(aged: Cli) -> None:
    aged("db", "prune", "--before", "400d", "--yes")
    for words in (["usage"], ["export", "usage"], ["usage", "--since", "450d", "--user", "alice"]):
        told = aged(*words).err
        assert f"{1 if '--since' in words else 3} request" in told
        assert "pruned" in told
    for words in (["usage", "--since", "30d"], ["usage", "--last", "1"], ["export", "usage", "--since", "30d"]):
        assert "pruned" not in aged(*words).err
    assert (
        "3 requests of this time were pruned, and are not counted"
        in aged("report", "--by", "tag", "--since", "600d").err
    )
    refused = aged("credits", "refund", "3", code=1).err
    assert "were pruned" in refused
    assert "credits add" in refused


def test_db_backup(cli: Cli) -> None:
    path = books.fill(cli.folder / "llmgate.db")
    done = cli("--db", path, "db", "backup", "copy.db")
    assert "the copy is sound" in done.err
    assert cli.data("--db", "copy.db", "credits") == cli.data("--db", path, "credits")
    again = cli("--db", path, "db", "backup", "copy.db", "--json", code=4)
    assert "exists already" in again.error["message"]
    made = cli.data("--db", path, "db", "backup", "other.db")
    assert made["size_bytes"] == (cli.folder / "other.db").stat().st_size or made["size_bytes"] > 0
    cli("--db", path, "db", "backup", "no/such/folder/../..", code=4)


def test_db_backup_keeps_the_newest(cli: Cli) -> None:
    path = books.fill(cli.folder / "llmgate.db")
    (cli.folder / "b").mkdir()
    for removed in (0, 0, 1):
        made = cli.data("--db", path, "db", "backup", "b", "--keep", "2")
        assert len(made["removed"]) == removed
    assert len(list((cli.folder / "b").iterdir())) == 2
    assert "--keep must be at least 1" in cli("--db", path, "db", "backup", "b", "--keep", "0", code=2).err


def test_db_restore(cli: Cli) -> None:
    path = books.fill(cli.folder / "llmgate.db")
    cli("--db", path, "db", "backup", "copy.db")
    cli("--db", path, "users", "add", "carol")
    assert "add --yes" in cli("--db", path, "db", "restore", "copy.db", code=2).err
    no = cli.terminal("--db", path, "db", "restore", "copy.db", answers={"[y/N]": "n\n"}, code=1)
    assert "nothing was changed" in no.out
    assert "carol" in cli("--db", path, "users").out
    assert "there is no file" in cli("--db", path, "db", "restore", "nothing.db", "--yes", code=4).err
    done = cli("--db", path, "db", "restore", "copy.db", "--yes", "--json").json
    assert (done["database"], done["backup"]) == (str(path), "copy.db")
    assert "carol" not in cli("--db", path, "users").out
    assert "carol" in cli("--db", done["kept"], "users").out
    assert cli.data("--db", path, "audit")[-1]["action"] == "db.restore"
    cli("--db", path, "verify")


def test_db_migrate(cli: Cli) -> None:
    path = books.fill(cli.folder / "llmgate.db")
    assert cli.data("--db", path, "db", "migrate") == {
        "database": str(path),
        "from": schema.VERSION,
        "to": schema.VERSION,
    }
    assert f"at schema {schema.VERSION} already" in cli("--db", path, "db", "migrate").err


def test_set_zone(cli: Cli) -> None:
    path = books.fill(cli.folder / "llmgate.db")
    assert cli.data("--db", path, "db", "set-zone", "Europe/Berlin") == {
        "database": str(path),
        "from": "UTC",
        "to": "Europe/Berlin",
    }
    with sqlite3.connect(path) as other:
        assert other.execute("SELECT value FROM meta WHERE key = 'zone'").fetchone() == ("Europe/Berlin",)
    other.close()
    assert "did you mean" in cli("db", "set-zon", "UTC", code=2).err


@pytest.mark.parametrize("word", ["keys", "db", "config"])
def test_a_bare_noun_does_what_its_first_verb_does(reader: Cli, word: str) -> None:
    first = {"keys": "list", "db": "stats", "config": "show"}[word]
    assert reader(word, "--json").out == reader(word, first, "--json").out


def test_a_backup_into_a_folder_that_is_not_there_is_refused(cli: Cli) -> None:
    cli("keys", "add", "alice")
    assert "there is no folder disk/daily" in cli("db", "backup", "disk/daily/x.db", code=4).err
    assert not (cli.folder / "disk").exists()


def test_options_that_another_command_has_are_told_of(cli: Cli) -> None:
    assert "`llmgate credits add team:TEAM USD`" in cli("teams", "add", "research", "--credits", "20", code=2).err
