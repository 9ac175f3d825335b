"""`llmgate keys`: a key's life, and who is shown what of it."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta

import pytest

from llmgate.names import is_secret, quoted

from .conftest import Cli, plain

KEY = re.compile(r"sk-lg-[0-9A-Za-z]{49}")

FIELDS = ["id", "user", "name", "prefix", "plan", "models", "ips", "expires_at", "last_used_at", "status", "created_at"]


def test_on_a_pipe_the_key_stands_alone(cli: Cli) -> None:
    done = cli("keys", "add", "alice")
    assert KEY.fullmatch(done.out.removesuffix("\n"))
    assert "http://127.0.0.1:8000/v1" in done.err
    assert "user alice is new" in done.err
    assert done.out.strip() not in done.err


def test_on_a_terminal_it_comes_with_what_to_do_next(cli: Cli) -> None:
    cli("users", "add", "alice")
    for columns in (60, 100):
        out = plain(cli.terminal("keys", "add", "alice", "--models", "gpt-4o*", columns=columns).out)
        assert KEY.search(out), "on one line, so that it can be copied"
        assert "http://127.0.0.1:8000/v1" in out
        assert "gpt-4o*" in out
        assert "llmgate serve" in out
        assert max(map(len, out.splitlines())) <= columns


def test_in_json_it_comes_with_its_fields(cli: Cli) -> None:
    made = cli.data("keys", "add", "alice")
    assert KEY.fullmatch(made["key"])
    assert made["user_added"] is True
    assert made["became_prepaid"] is False
    assert [name for name in made if name in FIELDS] == FIELDS
    assert made["prefix"] == made["key"][:12]
    assert (made["name"], made["status"]) == ("default", "active")


def test_the_same_twice_makes_another_key(cli: Cli) -> None:
    one, two = cli("keys", "add", "alice").out, cli("keys", "add", "alice").out
    assert one != two
    assert [key["name"] for key in cli.data("keys")] == ["default", "default-2"]
    assert len(cli.data("users")) == 1
    done = cli("keys", "add", "alice", "--name", "default", "--json", code=1)
    assert done.error["code"] == "conflict"


def test_it_is_all_or_nothing(cli: Cli) -> None:
    cli("keys", "add", "alice", "--credits", "0", code=2)
    cli("keys", "add", "alice", "--expires", "never-ever", code=2)
    cli("keys", "add", "alice", "--ips", "nowhere", code=2)
    assert cli.data("users") == []
    assert cli.data("audit") == []


def test_everything_that_a_key_may_be_given(cli: Cli) -> None:
    done = cli(
        *("keys", "add", "alice", "--name", "laptop", "--credits", "$5", "--models", "gpt-4o*,sandbox/*"),
        *("--models", "mistral", "--ips", "10.1.2.3/8", "--ips", "2001:db8::1", "--expires", "90d"),
        *("--tag", "agent=coder", "--tag", "formula=a=b", "--note", "for the train"),
    )
    assert "alice is prepaid from now on" in done.err
    row = cli.data("keys", "show", "alice/laptop")
    assert row["models"] == ["gpt-4o*", "sandbox/*", "mistral"]
    assert row["ips"] == ["10.0.0.0/8", "2001:db8::1/128"]
    assert row["tags"] == {"agent": "coder", "formula": "a=b"}
    assert row["note"] == "for the train"
    ends = datetime.fromisoformat(row["expires_at"])
    assert timedelta(days=89) < ends - datetime.now(UTC) <= timedelta(days=90)
    assert cli.data("credits")[0]["balance_usd"] == "5"
    more = cli("keys", "add", "alice", "--credits", "1")
    assert "alice has $6.00 of credits" in more.err
    assert "prepaid" not in more.err, "said once, when it becomes so"


def test_new_users_are_billed_as_the_config_says(cli: Cli) -> None:
    (cli.folder / "llmgate.toml").write_text('[defaults]\nbilling = "prepaid"\n')
    cli("keys", "add", "alice")
    cli("users", "add", "bob")
    assert {user["billing"] for user in cli.data("users")} == {"prepaid"}


def test_the_base_url_is_the_configs(cli: Cli) -> None:
    config = cli.folder / "llmgate.toml"
    for text, url in (
        ('bind = "127.0.0.1:4000"', "http://127.0.0.1:4000/v1"),
        ('bind = "[::1]:4000"', "http://[::1]:4000/v1"),
        ('bind = "gate.example.org:443"\ncertfile = "a"\nkeyfile = "b"', "https://gate.example.org:443/v1"),
        ('bind = "${WHERE}"', "http://10.0.0.1:80/v1"),
    ):
        config.write_text(f"[server]\n{text}\n")
        assert cli("keys", "add", "alice", "--json", WHERE="10.0.0.1:80").json["base_url"] == url
    assert cli("keys", "add", "alice", "--json").json["base_url"] == "http://HOST:PORT/v1"
    config.write_text('[server]\nbind = "0.0.0.0:80"\n')
    assert "0.0.0.0" not in cli.data("keys", "add", "alice")["base_url"]


def test_a_bare_noun_lists(cli: Cli) -> None:
    cli("keys", "add", "alice")
    cli("keys", "add", "bob")
    assert cli.data("keys") == cli.data("keys", "list")
    assert [key["user"] for key in cli.data("keys", "--user", "bob")] == ["bob"]
    assert cli("keys", "--user", "carl", "--json", code=1).error["code"] == "not_found"


def test_fields_come_in_their_order(cli: Cli) -> None:
    cli("keys", "add", "alice")
    assert list(cli.data("keys")[0])[: len(FIELDS)] == FIELDS
    assert cli("keys", "--format", "csv").out.startswith(",".join(FIELDS))


def test_nothing_ever_shows_a_key_again(cli: Cli) -> None:
    key = cli("keys", "add", "alice").out.strip()
    for command in ("keys", "keys --json", "keys show alice", "keys show alice --json", "audit --json"):
        assert key not in cli(*command.split()).out


def test_a_key_is_changed(cli: Cli) -> None:
    cli("keys", "add", "alice", "--tag", "a=1", "--tag", "b=2", "--note", "old", "--expires", "1d", "--ips", "10.0.0.1")
    done = cli(
        *("keys", "set", "alice", "--name", "laptop", "--models", "gpt*", "--tag", "a=", "--tag", "c=3"),
        *("--note", "", "--expires", "never", "--ips", ""),
    )
    assert (done.out, done.err.count("\n")) == ("", 1)
    row = cli.data("keys", "show", "alice/laptop")
    assert (row["models"], row["ips"], row["note"], row["expires_at"]) == (["gpt*"], [], None, None)
    assert row["tags"] == {"b": "2", "c": "3"}
    assert cli.data("keys", "set", "alice", "--models", "")["models"] == []
    cli("keys", "add", "alice", "--name", "other")
    assert cli("keys", "set", "alice/other", "--name", "laptop", "--json", code=1).error["code"] == "conflict"
    assert "more than one key" in cli("keys", "show", "alice", code=1).err


def test_a_key_is_rotated(cli: Cli) -> None:
    old = cli.data("keys", "add", "alice")
    new = cli("keys", "rotate", "alice").out.strip()
    assert KEY.fullmatch(new)
    assert new != old["key"]
    row = cli.data("keys", "show", "alice")
    assert (row["id"], row["prefix"]) == (old["id"], new[:12])
    assert KEY.fullmatch(cli.data("keys", "rotate", "alice", "--grace", "24h")["key"])
    assert KEY.search(plain(cli.terminal("keys", "rotate", "alice").out))
    cli("keys", "rotate", "alice", "--grace", "soon", code=2)


def test_a_key_is_disabled_and_enabled_and_again(cli: Cli) -> None:
    cli("keys", "add", "alice")
    for _ in range(2):
        assert "is disabled" in cli("keys", "disable", "alice").err
    assert cli.data("keys")[0]["status"] == "disabled"
    for _ in range(2):
        assert cli.data("keys", "enable", "alice")["status"] == "active"


def test_an_expired_key_is_listed_with_all(cli: Cli) -> None:
    cli("keys", "add", "alice", "--expires", "1s")
    cli("keys", "add", "bob")
    time.sleep(1)
    assert [key["user"] for key in cli.data("keys")] == ["bob"]
    statuses = {key["user"]: key["status"] for key in cli.data("keys", "--all")}
    assert statuses == {"alice": "expired", "bob": "active"}


def test_revoking_asks_on_a_terminal(cli: Cli) -> None:
    cli("keys", "add", "alice")
    assert "nothing was changed" in cli.terminal("keys", "revoke", "alice", answers={"[y/N]": "n\n"}, code=1).out
    assert cli.data("keys")[0]["status"] == "active"
    cli.terminal("keys", "revoke", "alice", answers={"[y/N]": "y\n"})
    assert cli.data("keys") == []
    assert cli.data("keys", "--all")[0]["status"] == "revoked"


def test_revoking_demands_yes_on_a_pipe(cli: Cli) -> None:
    made = cli.data("keys", "add", "alice")
    done = cli("keys", "revoke", "alice", code=2)
    assert "--yes" in done.err
    assert done.err.count("\n") == 1
    assert cli("keys", "revoke", "alice", "--json", code=2).error["code"] == "usage_error"
    assert cli.data("keys")[0]["status"] == "active"
    cli("keys", "revoke", "alice", "--yes")
    assert cli.data("--yes", "keys", "revoke", made["id"])["status"] == "revoked", "twice is no harm"
    for verb in ("enable", "rotate"):
        assert "revoked for good" in cli("keys", verb, made["id"], code=1).err


SECRETS = (
    "sk-proj-" + "a1B2" * 12,
    "sk-ant-api03-" + "x" * 95,
    "sk-lg-" + "A" * 49,
    "AIzaSy" + "D3" * 16 + "x",
    "sk-own",
)


def test_what_looks_like_a_secret() -> None:
    assert all(is_secret(secret) for secret in SECRETS)
    assert not any(is_secret(name) for name in ("sky", "task-sk-1", "AIza", "hf_team", "xai-lab", "k-7hq2m9xd"))
    assert not any(secret[8:] in quoted(secret) for secret in SECRETS[:-1])
    assert quoted("alice") == "'alice'"


@pytest.mark.parametrize("secret", SECRETS[2:4])
def test_a_secret_in_the_place_of_a_name_is_neither_taken_nor_repeated(cli: Cli, secret: str) -> None:
    words: tuple[str, ...]
    cli("keys", "add", "alice")
    cli("teams", "add", "research")
    for words in (
        ("keys", "add", secret),
        ("keys", "add", "alice", "--name", secret),
        ("keys", "set", "alice", "--name", secret),
        ("users", "add", secret),
        ("teams", "add", secret),
        ("admins", "add", secret),
    ):
        told = cli(*words, code=2).err
        assert "looks like a secret" in told, words
        assert secret not in told, words
    assert [user["user"] for user in cli.data("users")] == ["alice"]
    for words in (
        *(("keys", "show", secret), ("keys", "show", f"{secret}/default"), ("keys", "add", "alice", secret)),
        *(("users", "show", secret), ("users", "set", "alice", "--team", secret), ("teams", "show", secret)),
        *(("admins", "revoke", secret, "--yes"), ("credits", "add", secret, "5"), ("limits", secret), (secret,)),
        ("keys", secret),
    ):
        done = cli(*words, code=None)
        assert done.code in (1, 2), words
        assert secret not in done.err + done.out, words


def test_another_key_of_the_same_user_is_told_of(cli: Cli) -> None:
    assert "another key" not in cli("keys", "add", "bob").err
    assert "bob has another key: bob/default\n" in cli("keys", "add", "bob").err
    assert "another key" not in cli("keys", "add", "bob", "--name", "meant").err
    assert "bob has 3 other keys: `llmgate keys --user bob`" in cli("keys", "add", "bob").err
    assert "did you mean bob/default?" in cli("keys", "revoke", "bob/defualt", "--yes", code=1).err
    one = cli.data("keys")[0]["id"]
    assert f"did you mean {one}?" in cli("keys", "show", one[:-1], code=1).err


def test_a_wrong_answer_is_asked_for_again_and_none_changes_nothing(cli: Cli) -> None:
    cli("keys", "add", "alice")
    asked = cli.terminal(
        "keys", "revoke", "alice", answers={"[y/N]: ": "perhaps\n", "y or n": "n\n"}, code=1, columns=40
    )
    assert "[y/N]: " in asked.out
    assert max(map(len, asked.out.splitlines())) <= 40 + len("perhaps")
    assert "nothing was changed" in cli.terminal("keys", "revoke", "alice", answers={"[y/N]": "\x03"}, code=130).out
    assert cli.data("keys")[0]["status"] == "active"


def test_an_error_is_laid_out_for_a_terminal_and_one_line_on_a_pipe(cli: Cli) -> None:
    words = ("keys", "add", "no name at all, and so long that it takes more than one line")
    told = cli(*words, code=2).err
    shown = cli.terminal(*words, code=2, columns=60).out
    assert told.count("\n") == 1
    assert shown.split() == told.split()
    assert max(map(len, shown.splitlines())) <= 60


def test_a_pipe_gets_what_a_terminal_has_no_room_for(cli: Cli) -> None:
    cli("keys", "add", "alice", "--tag", "agent=coder", "--note", "for the night")
    for form in ("table", "md"):
        out = cli("keys", "--format", form).out
        assert all(text in out for text in ("tags", "agent=coder", "note", "for the night", "created"))
        assert "team" not in out, "it says nothing"
    assert "for the night" not in plain(cli.terminal("keys", columns=200).out)
