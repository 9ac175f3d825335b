"""What holds for every command: exit codes, one line per error, which stream gets what."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest

from llmgate import __version__
from llmgate.store import schema

from . import books
from .conftest import PROGRAM, Cli


def one_line(text: str) -> str:
    assert text.endswith("\n")
    assert text.count("\n") == 1, text
    assert text.startswith("llmgate: ")
    return text.removeprefix("llmgate: ").rstrip("\n")


def test_version(cli: Cli) -> None:
    assert cli("--version").out == f"llmgate {__version__}\n"


def test_without_a_command_it_says_what_there_is(cli: Cli) -> None:
    done = cli()
    assert "Usage: llmgate" in done.out
    assert done.err == ""


@pytest.mark.parametrize(
    ("args", "meant"),
    [
        (["key"], "keys"),
        (["keys", "ad"], "add"),
        (["keys", "--usr", "alice"], "--user"),
        (["report", "--by", "modle"], "model"),
        (["--jsn", "keys"], "--json"),
    ],
)
def test_a_misspelled_word_is_told_the_right_one(cli: Cli, args: list[str], meant: str) -> None:
    assert f"did you mean {meant}?" in one_line(cli(*args, code=2).err)


@pytest.mark.parametrize(
    "args",
    [
        ["bogus"],
        ["keys", "bogus"],
        ["keys", "add"],
        ["keys", "add", "alice", "bob"],
        ["keys", "add", "a b"],
        ["keys", "add", "alice", "--credits", "five"],
        ["keys", "add", "alice", "--credits", "-1"],
        ["keys", "add", "alice", "--expires", "soon"],
        ["keys", "add", "alice", "--expires", "2001-01-01"],
        ["keys", "add", "alice", "--ips", "10.0.0.300"],
        ["keys", "add", "alice", "--tag", "novalue"],
        ["keys", "--format", "xml"],
        ["keys", "--config"],
        ["keys", "set", "alice"],
        ["users", "set", "alice"],
        ["users", "add", "alice", "--billing", "free"],
        ["credits", "add", "alice", "0"],
        ["credits", "reverse", "x"],
        ["credits", "reverse", "0"],
        ["usage", "--last", "0"],
        ["usage", "--status", "good"],
        ["report", "--since", "yesterday", "--until", "2020-01-01"],
        ["db", "set-zone", "Mars/Olympus"],
        ["init", "--upstream", "skynet"],
        ["init", "--bind", "nowhere"],
    ],
    ids=" ".join,
)
def test_wrong_words_are_exit_2_in_one_line(cli: Cli, args: list[str]) -> None:
    cli("users", "add", "alice")
    done = cli(*args, code=2)
    assert done.out == ""
    one_line(done.err)


def test_wrong_words_are_json_where_json_was_asked_for(cli: Cli) -> None:
    for args in (
        ["keys", "--json", "--format", "csv"],
        ["bogus", "--json"],
        ["--json", "keys", "ad"],
        ["keys", "add", "--format", "json"],
        ["keys", "--format=json", "--x"],
    ):
        done = cli(*args, code=2)
        assert set(done.error) == {"code", "message"}
        assert done.error["code"] == "usage_error"
        assert done.err.count("\n") == 1


def test_refusals_are_exit_1(cli: Cli) -> None:
    cli("users", "add", "alice")
    told = one_line(cli("users", "show", "alise", code=1).err)
    assert told == "there is no user 'alise': did you mean alice? `llmgate users` lists them"
    assert cli("users", "add", "alice", "--json", code=1).error["code"] == "conflict"
    assert cli("keys", "show", "k-nothing", "--json", code=1).error["code"] == "not_found"


def test_a_bad_config_is_exit_1_and_names_the_place(cli: Cli) -> None:
    (cli.folder / "llmgate.toml").write_text("[server]\nbindd = 1\n")
    assert "server.bindd" in one_line(cli("keys", code=1).err)
    assert cli("--json", "keys", code=1).error["code"] == "config_error"


def test_a_config_that_is_not_there_is_exit_1(cli: Cli) -> None:
    assert "nowhere.toml" in one_line(cli("--config", "nowhere.toml", "keys", code=1).err)


def test_text_that_is_not_utf8_is_refused(cli: Cli) -> None:
    done = subprocess.run(
        [*map(os.fsencode, PROGRAM), b"keys", b"add", b"\xff"], capture_output=True, env=cli.env, cwd=cli.folder
    )
    assert done.returncode == 2
    assert b"UTF-8" in done.stderr


# ── options that every command knows ──────────────────────────────────────────────────────────────────────────────────


def test_db_and_config_stand_before_and_after_the_command(cli: Cli) -> None:
    key = cli("--db", "one.db", "keys", "add", "alice").out
    assert key.startswith("sk-lg-")
    for args in (
        ["--db", "one.db", "keys"],
        ["keys", "--db", "one.db"],
        ["keys", "--db", "one.db", "list"],
        ["keys", "list", "--db=one.db"],
        ["--db", "two.db", "keys", "list", "--db", "one.db"],
        ["keys", "list", "--db", "sqlite:///one.db"],
    ):
        assert [row["user"] for row in cli.data(*args)] == ["alice"], args
    assert not (cli.folder / "two.db").exists()
    (cli.folder / "other.toml").write_text('database = "one.db"\n')
    assert len(cli.data("--config", "other.toml", "keys")) == 1
    assert len(cli.data("keys", "--config", "other.toml")) == 1


def test_the_environment_names_the_database_too(cli: Cli) -> None:
    cli("keys", "add", "alice", LLMGATE_DB="env.db")
    assert (cli.folder / "env.db").exists()
    assert len(cli("keys", "--json", LLMGATE_DB="env.db").json) == 1


def test_every_command_takes_yes(cli: Cli) -> None:
    cli("keys", "add", "alice", "--yes")
    cli("--yes", "keys")
    cli("report", "-y")


# ── streams ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_new_database_is_told_on_stderr_and_belongs_to_its_owner(cli: Cli) -> None:
    done = cli("keys")
    path = cli.folder / "data" / "llmgate" / "llmgate.db"
    assert str(path) in done.err
    assert done.out == ""
    assert path.stat().st_mode & 0o777 == 0o600
    assert "made the database" not in cli("keys").err


def test_a_reader_that_leaves_early_is_no_error(reader: Cli) -> None:
    for command in ("usage --format csv", "report --json", "keys", "--help"):
        shell = f"{' '.join(PROGRAM)} {command} | true; exit ${{PIPESTATUS[0]}}"
        done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, env=reader.env, cwd=reader.folder)
        assert (done.returncode, done.stderr) == (0, ""), command


def test_closed_streams_are_no_error(cli: Cli) -> None:
    shell = f"{' '.join(PROGRAM)} keys add alice <&- >&- 2>&-"
    assert subprocess.run(["bash", "-c", shell], env=cli.env, cwd=cli.folder, check=False).returncode == 0
    assert len(cli.data("keys")) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_line(reader: Cli) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*PROGRAM, "keys"], stdout=full, stderr=subprocess.PIPE, text=True, env=reader.env, cwd=reader.folder
        )
    assert done.returncode == 1
    assert "the disk is full" in one_line(done.stderr)


def test_output_in_ascii_is_still_json(cli: Cli) -> None:
    cli("keys", "add", "alice", "--note", "Schlüssel 日本")
    done = cli("keys", "--json", PYTHONIOENCODING="ascii", PYTHONUTF8="0", LC_ALL="C")
    assert done.out.isascii()
    assert done.json[0]["note"] == "Schlüssel 日本"
    assert "\\xfc" in cli("keys", "show", "alice", PYTHONIOENCODING="ascii").out


def test_interrupted_is_130_without_a_traceback(cli: Cli) -> None:
    cli("users", "add", "alice")
    path = cli.folder / "data" / "llmgate" / "llmgate.db"
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        process = subprocess.Popen(
            [*PROGRAM, "users", "add", "bob"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=cli.env,
            cwd=cli.folder,
        )
        time.sleep(1.5)
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        other.execute("ROLLBACK")
    out, err = process.communicate(timeout=20)
    other.close()
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err


def test_ctrl_c_at_a_question(cli: Cli) -> None:
    cli("keys", "add", "alice")
    done = cli.terminal("keys", "revoke", "alice", answers={"[y/N]": "\x03"}, code=130)
    assert "Traceback" not in done.out
    assert cli.data("keys")[0]["status"] == "active"


# ── databases that can't be used ──────────────────────────────────────────────────────────────────────────────────────


def test_a_folder_is_no_database(cli: Cli) -> None:
    (cli.folder / "folder").mkdir()
    assert "folder" in one_line(cli("--db", "folder", "keys", code=4).err)


def test_any_other_file_is_no_database(cli: Cli) -> None:
    (cli.folder / "text.db").write_text("not a database, but long enough to be read as one " * 50)
    done = cli("--db", "text.db", "keys", "--json", code=4)
    assert done.error["code"] == "storage_error"
    assert "text.db" in done.error["message"]


def test_another_programs_database_is_left_alone(cli: Cli) -> None:
    with sqlite3.connect(cli.folder / "other.db") as other:
        other.execute("CREATE TABLE mine (x)")
    other.close()
    assert "not one of llmgate's" in one_line(cli("--db", "other.db", "keys", code=4).err)


def test_a_database_of_a_newer_llmgate_is_left_alone(cli: Cli) -> None:
    books.fill(cli.folder / "newer.db")
    with sqlite3.connect(cli.folder / "newer.db") as other:
        other.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    other.close()
    assert "newer llmgate" in one_line(cli("--db", "newer.db", "keys", code=4).err)


def test_a_folder_that_can_not_be_made(cli: Cli) -> None:
    (cli.folder / "file").write_text("")
    assert "file" in one_line(cli("--db", "file/llmgate.db", "keys", code=4).err)


POWERLESS = ("setpriv", "--bounding-set=-all", "--inh-caps=-all") if os.geteuid() == 0 else ()
"""Root may write everything, unless it gives that up."""


@pytest.mark.skipif(bool(POWERLESS) and shutil.which("setpriv") is None, reason="root may write everything")
def test_a_database_that_may_only_be_read(cli: Cli) -> None:
    books.fill(cli.folder / "read.db").chmod(0o400)
    for command, code, told in ((("keys",), 0, ""), (("users", "add", "zoe"), 4, "read-only")):
        done = subprocess.run(
            [*POWERLESS, *PROGRAM, "--db", "read.db", *command],
            capture_output=True,
            text=True,
            env=cli.env,
            cwd=cli.folder,
            check=False,
        )
        assert done.returncode == code
        assert told in done.stderr


def test_a_locked_database_is_waited_for_and_then_told(cli: Cli) -> None:
    books.fill(cli.folder / "busy.db")
    with sqlite3.connect(cli.folder / "busy.db", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        assert len(cli.data("--db", "busy.db", "keys")) == 2, "reading doesn't wait"
        done = cli("--db", "busy.db", "users", "add", "zoe", "--json", code=4)
        assert done.error["code"] == "storage_busy"
    other.close()


def test_what_must_be_there_is_not_made(cli: Cli) -> None:
    for args in (
        ["verify"],
        ["db", "stats"],
        ["db", "backup", "copy.db"],
        ["db", "migrate"],
        ["db", "set-zone", "UTC"],
    ):
        assert "there is no database" in one_line(cli("--db", "nowhere.db", *args, code=4).err)
    assert not (cli.folder / "nowhere.db").exists()


# ── the zone of the books ─────────────────────────────────────────────────────────────────────────────────────────────


def test_the_zone_of_config_and_database_must_agree(cli: Cli) -> None:
    config = cli.folder / "llmgate.toml"
    config.write_text('timezone = "Europe/Berlin"\n')
    cli("keys", "add", "alice")
    assert cli.data("db", "stats")["zone"] == "Europe/Berlin", "a new database takes the config's"
    config.write_text('timezone = "Asia/Tokyo"\n')
    told = one_line(cli("keys", code=1).err)
    assert "llmgate db set-zone Asia/Tokyo" in told
    assert "Europe/Berlin" in told
    assert cli("config", "check", code=3).out.count("set-zone") == 1
    cli("db", "set-zone", "Asia/Tokyo")
    assert len(cli.data("keys")) == 1
    config.write_text("")
    assert len(cli.data("keys")) == 1, "a config that says nothing agrees"


def test_set_zone_against_the_config_says_so(cli: Cli) -> None:
    (cli.folder / "llmgate.toml").write_text('timezone = "UTC"\n')
    cli("keys", "add", "alice")
    assert 'timezone = "UTC"' in cli("db", "set-zone", "Asia/Tokyo").err
    cli("db", "set-zone", "UTC")
    assert [act["after"] for act in cli.data("audit")][-1] == {"zone": "UTC"}


def test_errors_never_hold_a_key(cli: Cli) -> None:
    key = cli("keys", "add", "alice").out.strip()
    done = cli("keys", "show", key, code=2)
    assert key not in done.err
    assert json.dumps(key) not in cli("audit", "--json").out


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["upstreams", "--format", "xml"], "there is no format 'xml': it is table, json, csv or md"),
        (
            ["export", "foo"],
            "there is no export 'foo': it is usage, entries, zone, prices, users, teams, keys, pruned or all",
        ),
        (
            ["credits", "add", "alice", "-5"],
            "-5 is no amount to add: `llmgate credits take USER USD` takes credits away",
        ),
        (["report", "--prices", "/nonexist"], "/nonexist can't be read: there is no such file or folder"),
    ],
)
def test_a_wrong_word_is_told_what_would_be_right(cli: Cli, args: list[str], told: str) -> None:
    assert one_line(cli(*args, code=2).err) == told
