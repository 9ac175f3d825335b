"""`llmgate doctor`: each check by what it is told, and the whole by what is really wrong."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import tomli_w

from llmgate.cli.doctor import CHECKS, LEAST_FREE, Facts
from llmgate.cli.run import run
from llmgate.clock import DAY_MS
from llmgate.config import Config, parse, resolve
from llmgate.config.tables import Server
from llmgate.gateway.checkup import Checkup
from llmgate.listening import certificate_ends_ms, listen
from llmgate.store import schema
from llmgate.store.condition import Condition, look
from llmgate.store.db import now_ms
from llmgate.store.workers import Worker
from llmgate.types import Meters
from tests import tls
from tests.books import Book
from tests.replay import Replay, json_answer

from . import books
from .conftest import Cli

NOW_MS = 1_800_000_000_000


def ready(**server: Any) -> Any:
    return resolve(parse(tomli_w.dumps({"upstreams": {"sandbox": {}}, "server": server})), {})


FINE = Facts(
    now_ms=NOW_MS,
    database=Path("/d/x.db"),
    problems=[],
    ready=ready(),
    zone="UTC",
    plans={"starter"},
    modes={Path("/d/x.db"): (0o600, True), Path("/d/llmgate.toml"): (0o644, False)},
    free_bytes=LEAST_FREE,
    condition=Condition(zone="UTC", last_ms=NOW_MS),
    certificate_ends_ms=NOW_MS + 7 * DAY_MS,
    upstreams=[Checkup(upstream="gpu1")],
)


def told(check: str, **changes: Any) -> list[str]:
    """What one check says of facts that are fine but for some."""
    return list(CHECKS[check](msgspec.structs.replace(FINE, **changes)))


@pytest.mark.parametrize("check", CHECKS)
def test_nothing_is_said_where_nothing_is_wrong(check: str) -> None:
    assert told(check) == []


@pytest.mark.parametrize(
    ("check", "changes", "what", "cure"),
    [
        ("config", {"problems": ["a.b is wrong"]}, "a.b is wrong", ""),
        ("config", {"ready": ready()._replace(config=Config())}, "there is no upstream", "llmgate init"),
        ("permissions", {"modes": {Path("/d/x.db"): (0o640, True)}}, "open to others (mode 640)", "chmod 600"),
        ("permissions", {"modes": {Path("/d/c"): (0o664, False)}}, "can be changed by others", "chmod go-w /d/c"),
        ("permissions", {"is_writable": False}, "can't be written by this user", "chown"),
        ("disk", {"free_bytes": LEAST_FREE - 1}, "MiB left", "free some"),
        ("database", {"condition": Condition(failure="can't be opened")}, "can't be opened", ""),
        ("database", {"condition": Condition(damage="page 3")}, "is damaged (page 3)", "llmgate db restore"),
        ("migrations", {"condition": Condition(schema=1)}, "is at schema 1", "llmgate db migrate"),
        ("migrations", {"condition": Condition(schema=99)}, "of a newer llmgate", "upgrade"),
        ("journal", {"condition": Condition(journal="delete")}, "wait for each other", "llmgate db migrate"),
        ("time", {"condition": Condition(zone="UTC", last_ms=NOW_MS + 61_000)}, "the clock is 61 s behind", "NTP"),
        ("time", {"zone": "Europe/Berlin"}, "counted in UTC", "llmgate db set-zone Europe/Berlin"),
        ("holds", {"condition": Condition(orphans=2, stuck_nano=10**9)}, "of workers that died ($1.00", "serve"),
        ("holds", {"condition": Condition(orphans=2, serving=1)}, "workers that died", "restart the daemon"),
        ("holds", {"condition": Condition(overdue=3)}, "3 holds are older than any request", "restart the daemon"),
        ("keys", {"condition": Condition(unused=["ann/old"])}, "ann/old was never used", "llmgate keys revoke ann/old"),
        ("plans", {"condition": Condition(planned=[("team:x", "old")])}, "on the plan 'old'", "llmgate teams set x"),
        ("database", {"left_behind": Path("/o/llmgate.db")}, "but there is /o/llmgate.db", "db restore /o/llmgate.db"),
        ("bind", {"ready": ready(bind="0.0.0.0:8000")}, "without TLS", "certfile"),
        ("bind", {"unavailable": "can't listen: it is taken; choose another"}, "can't listen", "choose another"),
        ("certificate", {"certificate_ends_ms": 0}, "has expired", "renew"),
        ("certificate", {"certificate_ends_ms": NOW_MS + 7 * DAY_MS - 1}, "ends in 6 days", "renew"),
        ("prices", {"unpriced": ["m"]}, "the model m has no price", "llmgate prices set m"),
        ("upstreams", {"upstreams": [Checkup(upstream="gpu1", problems=["down: start it"])]}, "gpu1: down", "start it"),
    ],
)  # fmt: skip
def test_each_problem_has_its_cure(check: str, changes: dict[str, Any], what: str, cure: str) -> None:
    (sentence,) = told(check, **changes)
    assert what in sentence
    assert cure in sentence


def test_whoever_has_a_proxy_in_front_needs_no_certificate() -> None:
    assert told("bind", ready=ready(bind="0.0.0.0:8000", trusted_proxies=["10.0.0.0/8"])) == []


# ── what is seen of a database ────────────────────────────────────────────────────────────────────────────────────────


def seen(path: Path, *, orphaned_ms: int = 0, overdue_ms: int = 0, unused_ms: int = 0) -> Condition:
    return look(path, orphaned_ms=orphaned_ms, overdue_ms=overdue_ms, unused_ms=unused_ms)


def test_stuck_holds_are_told_from_those_in_flight(tmp_path: Path) -> None:
    book = Book(tmp_path / "x.db")
    book.place(book.user("alice", credits=1_000))
    later = now_ms() + 60_000
    assert (seen(book.path).overdue, seen(book.path).serving) == (0, 1)
    found = seen(book.path, orphaned_ms=later)
    assert (found.orphans, found.overdue, found.stuck_nano) == (0, 0, 0)
    found = seen(book.path, overdue_ms=later)
    assert (found.orphans, found.overdue) == (0, 1)
    assert found.stuck_nano == book.money("alice")[1] > 0
    book.close()
    found = seen(book.path, orphaned_ms=later)
    assert (found.orphans, found.overdue, found.serving) == (1, 0, 0)


def test_only_living_keys_that_were_never_used_are_idle(tmp_path: Path) -> None:
    book = Book(tmp_path / "x.db")
    book.use(book.user("alice", credits=100), Meters(input=1, output=1, calls=1))
    book.user("bob")
    assert seen(book.path, unused_ms=now_ms() + 60_000).unused == ["bob/default"]
    assert seen(book.path).unused == []
    book.close()


def test_to_be_looked_at_changes_nothing(tmp_path: Path) -> None:
    path = books.fill(tmp_path / "x.db")
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("PRAGMA journal_mode = DELETE")
        conn.execute("PRAGMA user_version = 1")
    before = path.read_bytes()
    found = seen(path)
    assert (found.schema, found.journal, found.is_known) == (1, "delete", False)
    assert path.read_bytes() == before
    (tmp_path / "text").write_text("no database" * 1000)
    assert "is not a SQLite database" in (seen(tmp_path / "text").failure or "")


# ── the whole ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_fresh_machine_is_well(cli: Cli) -> None:
    cli("init", "--bind", "127.0.0.1:0")
    assert "all is well" in cli("doctor").out
    cli("keys", "add", "alice", "--credits", "5")
    found = cli("doctor", "--json").json
    assert found["ok"] is True
    assert [check["check"] for check in found["checks"]] == list(CHECKS)
    assert {check["status"] for check in found["checks"]} == {"ok"}


def test_everything_that_is_wrong_is_one_list(cli: Cli) -> None:
    config = cli.folder / "llmgate.toml"
    with Replay() as up:
        up.answer(*json_answer({"error": "no"}, status=401))
        config.write_text(
            f'[server]\nbind = "0.0.0.0:8000"\n[upstreams.main]\nbase_url = "{up.url}"\napi_key = "sk-literal"\n'
            '[models.mystery]\nroutes = [{ upstream = "main" }]\n'
        )
        config.chmod(0o644)
        books.fill(cli.folder / "llmgate.db").chmod(0o644)
        with closing(sqlite3.connect(cli.folder / "llmgate.db")) as conn:
            conn.execute("PRAGMA journal_mode = DELETE")
        done = cli("doctor", "--json", code=3)
    found = {(one["check"], one["problem"].split(":")[0].split(" (")[0]) for one in done.json["problems"]}
    assert found == {
        ("permissions", f"{config} is open to others"),
        ("permissions", f"{cli.folder / 'llmgate.db'} is open to others"),
        ("journal", "readers and writers wait for each other"),
        ("bind", "0.0.0.0"),
        ("prices", "the model mystery has no price, so it is refused"),
        ("upstreams", "main"),
    }
    assert done.error["code"] == "problems_found"
    assert "sk-literal" not in done.out + done.err


def test_a_broken_config_is_a_problem_and_the_rest_is_still_looked_at(cli: Cli) -> None:
    (cli.folder / "llmgate.toml").write_text(
        '[server]\nbind = "127.0.0.1:0"\n[upstreams.openai]\napi_key = "${NOT_SET}"\n'
    )
    path = books.fill(cli.folder / "llmgate.db")
    with closing(sqlite3.connect(path)) as conn:
        conn.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    done = cli("doctor", "--json", code=3).json
    assert [one["check"] for one in done["problems"]] == ["config", "migrations"]
    assert "NOT_SET" in done["problems"][0]["problem"]
    assert {one["check"] for one in done["checks"] if one["status"] == "skipped"} == {
        *("time", "holds", "keys", "plans", "upstreams")
    }
    (cli.folder / "llmgate.toml").write_text("[server]\nbindd = 1\n")
    assert "server.bindd" in cli("doctor", code=3).out


def test_a_certificate_tells_when_it_ends(tmp_path: Path) -> None:
    tls.server(tmp_path, tls.authority(tmp_path), days=100)
    ends_ms = certificate_ends_ms(Server(certfile=str(tmp_path / "server.pem"), keyfile=str(tmp_path / "server.key")))
    assert ends_ms is not None
    assert 99 * DAY_MS < ends_ms - now_ms() <= 100 * DAY_MS
    assert certificate_ends_ms(Server(certfile=str(tmp_path / "none"), keyfile=str(tmp_path / "none"))) is None


def test_a_certificate_that_has_ended(tmp_path: Path) -> None:
    tls.server(tmp_path, tls.authority(tmp_path), days=-1)
    server = Server(certfile=str(tmp_path / "server.pem"), keyfile=str(tmp_path / "server.key"))
    assert certificate_ends_ms(server) == 0


# ── each problem, really there ────────────────────────────────────────────────────────────────────────────────────────


def toml(cli: Cli, text: str) -> None:
    (cli.folder / "llmgate.toml").write_text(
        text + ("" if "[server]" in text else '[server]\nbind = "127.0.0.1:0"\n') + "[upstreams.sandbox]\n"
    )
    (cli.folder / "llmgate.toml").chmod(0o600)


def tamper(cli: Cli, *statements: str) -> None:
    with closing(sqlite3.connect(cli.folder / "llmgate.db")) as conn:
        for statement in statements:
            conn.execute(statement)
        conn.commit()


def typo(cli: Cli) -> None:
    toml(cli, "timzone = 1\n")


def unset_secret(cli: Cli) -> None:
    toml(cli, '[upstreams.openai]\napi_key = "${NOT_SET}"\n')


def open_database(cli: Cli) -> None:
    (cli.folder / "llmgate.db").chmod(0o644)


def open_config(cli: Cli) -> None:
    (cli.folder / "llmgate.toml").chmod(0o666)


def clock_behind(cli: Cli) -> None:
    tamper(
        cli, f"INSERT INTO audit (time_ms, actor, action, target) VALUES ({now_ms() + DAY_MS}, 'x', 'keys.add', 'x')"
    )


def other_zone(cli: Cli) -> None:
    toml(cli, 'timezone = "Asia/Tokyo"\n')


def plain_journal(cli: Cli) -> None:
    tamper(cli, "PRAGMA journal_mode = DELETE")


def older_schema(cli: Cli) -> None:
    tamper(cli, "PRAGMA user_version = 2")


def unreachable(cli: Cli) -> None:
    toml(cli, '[upstreams.gpu1]\nbase_url = "http://127.0.0.1:9/v1"\nauth = "none"\nprice = "free"\n')


def expired_certificate(cli: Cli) -> None:
    tls.server(cli.folder, tls.authority(cli.folder), days=-1)
    toml(cli, '[server]\ncertfile = "server.pem"\nkeyfile = "server.key"\n')


def no_price(cli: Cli) -> None:
    toml(
        cli,
        '[models.mystery]\nroutes = [{ upstream = "gpu1" }]\n'
        '[upstreams.gpu1]\nbase_url = "http://127.0.0.1:9/v1"\nauth = "none"\n',
    )


def stuck_hold(cli: Cli) -> None:
    book = Book(cli.folder / "llmgate.db")
    hold = book.place(book.user("zoe"))
    book.close()
    tamper(cli, f"UPDATE holds SET placed_ms = {now_ms() - DAY_MS} WHERE id = {hold.id}")


def open_address(cli: Cli) -> None:
    toml(cli, '[server]\nbind = "0.0.0.0:8000"\n')


def old_key(cli: Cli) -> None:
    cli("keys", "add", "zoe")
    tamper(cli, f"UPDATE keys SET created_ms = {now_ms() - 91 * DAY_MS} WHERE last_used_ms IS NULL")


def lost_plan(cli: Cli) -> None:
    cli("config", "check")
    toml(cli, "[plans.gone]\n")
    cli("users", "set", "alice", "--plan", "gone")
    toml(cli, "")


def left_behind(cli: Cli) -> None:
    (cli.folder / "llmgate.db").unlink()
    books.fill_with(_made(cli.folder / "data" / "llmgate" / "llmgate.db"), [])


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True)
    return path


@pytest.mark.parametrize(
    ("happens", "check", "what", "cure"),
    [
        (typo, "config", "timzone is no known key", "timezone"),
        (unset_secret, "config", "NOT_SET", "which is not set"),
        (open_database, "permissions", "is open to others", "chmod 600"),
        (open_config, "permissions", "can be changed by others", "chmod go-w"),
        (clock_behind, "time", "the clock is", "NTP"),
        (other_zone, "time", "counted in UTC", "llmgate db set-zone Asia/Tokyo"),
        (plain_journal, "journal", "wait for each other", "llmgate db migrate"),
        (older_schema, "migrations", "is at schema 2", "llmgate db migrate"),
        (unreachable, "upstreams", "gpu1", "127.0.0.1:9"),
        (expired_certificate, "certificate", "has expired", "renew it"),
        (no_price, "prices", "mystery has no price", "llmgate prices set mystery"),
        (stuck_hold, "holds", "1 hold is of workers that died", "llmgate serve"),
        (open_address, "bind", "without TLS", "certfile"),
        (old_key, "keys", "zoe/default was never used", "llmgate keys revoke zoe/default"),
        (lost_plan, "plans", "alice is on the plan 'gone'", "llmgate users set alice"),
        (left_behind, "database", "is empty, but there is", "llmgate db restore"),
    ],
)
def test_what_happens_is_found(cli: Cli, happens: Any, check: str, what: str, cure: str) -> None:
    toml(cli, "")
    books.fill(cli.folder / "llmgate.db")
    happens(cli)
    done = cli("doctor", "--json", code=3)
    found = [one["problem"] for one in done.json["problems"] if one["check"] == check]
    assert [one for one in found if what in one and cure in one], done.json
    assert len(done.json["checks"]) == len(CHECKS)


def test_a_full_disk_is_found(cli: Cli, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    cli("init")
    cli("keys", "add", "alice")
    monkeypatch.chdir(cli.folder)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=LEAST_FREE // 2))
    assert run(["doctor"]) == 3
    assert "256 MiB left: free some" in capsys.readouterr().out


def test_one_upstream_without_its_secret_hides_no_other(cli: Cli) -> None:
    with Replay() as up:
        up.answer(*json_answer({"error": "no"}, status=401))
        toml(
            cli,
            f'[upstreams.openai]\napi_key = "${{NOT_SET}}"\n[upstreams.main]\nbase_url = "{up.url}"\napi_key = "x"\n',
        )
        found = cli("doctor", "--json", code=3).json["problems"]
    assert [(one["check"], "NOT_SET" in one["problem"], "main" in one["problem"]) for one in found] == [
        ("config", True, False),
        ("upstreams", False, True),
    ]


def test_a_database_from_before_the_config_is_told_of_once(cli: Cli) -> None:
    cli("keys", "add", "alice")
    assert "llmgate db restore" in cli("init").err
    told = cli("keys").err
    assert str(cli.folder / "data" / "llmgate" / "llmgate.db") in told
    assert "llmgate db restore" in told
    assert "restore" not in cli("keys").err
    cli("db", "restore", "data/llmgate/llmgate.db", "--yes")
    assert len(cli.data("keys")) == 1
    assert "data/llmgate" not in cli("doctor", code=None).out


def test_a_port_that_another_program_has_is_found_and_that_of_our_own_daemon_is_not(cli: Cli) -> None:
    with closing(listen("127.0.0.1:0")) as taken:
        port = taken.getsockname()[1]
        toml(cli, f'[server]\nbind = "127.0.0.1:{port}"\n')
        (found,) = cli("doctor", "--json", code=3).json["problems"]
        assert found["check"] == "bind"
        assert f"127.0.0.1:{port}: another program listens there; choose another" in found["problem"]
        books.fill(cli.folder / "llmgate.db")
        worker = Worker(cli.folder / "llmgate.db")
        try:
            assert "bind" not in cli("doctor", code=0).err
        finally:
            worker.close()


def test_what_was_skipped_says_why(cli: Cli) -> None:
    toml(cli, "")
    (cli.folder / "llmgate.toml").write_text('[upstreams.openai]\n[server]\nbind = "127.0.0.1:0"\n')
    done = cli("doctor", "--format", "csv", code=3, OPENAI_API_KEY="")
    assert "OPENAI_API_KEY is empty" in done.out
    assert 'upstreams,skipped,"none was asked: each lacks something, see config"' in done.out
    assert "database,skipped,not looked at: there is no database yet" in done.out
