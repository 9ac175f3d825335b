"""`llmgate admins`: the keys of the admin API."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from .conftest import PROGRAM, Cli, plain

KEY = re.compile(r"sk-lg-admin-[0-9A-Za-z]{49}")


def test_on_a_pipe_the_key_stands_alone(cli: Cli) -> None:
    done = cli("admins", "add", "ops")
    assert KEY.fullmatch(done.out.removesuffix("\n"))
    assert "admin key of ops (scope all), for http://127.0.0.1:8000/admin; it is shown this once" in done.err
    assert not KEY.search(done.err)


def test_a_life(cli: Cli) -> None:
    made = cli.data("admins", "add", "ops", "--scope", "keys")
    assert KEY.fullmatch(made["key"])
    assert (made["admin"], made["scope"], made["status"]) == ("ops", "keys", "active")
    assert made["url"] == "http://127.0.0.1:8000/admin"
    (row,) = cli.data("admins")
    assert list(row) == ["admin", "scope", "prefix", "last_used_at", "status", "created_at"]
    assert row["prefix"] == made["key"][:18]
    assert cli("admins", "add", "ops", "--json", code=1).error["code"] == "conflict"
    assert "add --yes" in cli("admins", "revoke", "ops", code=2).err
    assert cli("admins", "revoke", "ops", "--yes").err == "the admin key of ops is revoked\n"
    assert cli.data("admins") == []
    assert [row["status"] for row in cli.data("admins", "list", "--all")] == ["revoked"]
    assert [act["action"] for act in cli.data("audit")] == ["admins.add", "admins.revoke"]
    assert made["key"] not in cli("audit", "--json").out


def test_mistakes(cli: Cli) -> None:
    assert "there is no admin key: `llmgate admins add NAME` makes one" in cli("admins").err
    assert "read" in cli("admins", "add", "ops", "--scope", "some", code=2).err
    assert "no name for a key of an admin" in cli("admins", "add", "<b>", code=2).err
    assert cli("admins", "revoke", "ops", "--yes", "--json", code=1).error["code"] == "not_found"


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_on_a_terminal(cli: Cli, columns: int) -> None:
    cli("admins", "add", "ops")
    out = plain(cli.terminal("admins", columns=columns).out)
    assert "ops" in out
    assert max(map(len, out.splitlines())) <= columns


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    ("noun", "cure"), [("keys", "`llmgate keys rotate k-"), ("admins", "`llmgate admins revoke ops`")]
)
def test_a_key_that_can_t_be_shown(cli: Cli, noun: str, cure: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*PROGRAM, noun, "add", "ops"], stdout=full, stderr=subprocess.PIPE, text=True, env=cli.env, cwd=cli.folder
        )
    assert done.returncode == 1
    assert "can't be shown (the disk is full)" in done.stderr
    assert cure in done.stderr.splitlines()[-1]
