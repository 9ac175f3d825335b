"""What the admin API does: by the same books as the CLI, once, and never over somebody else's head."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmgate.admin import answers
from llmgate.store import admins, keys, limits, verify
from llmgate.store.admins import Scope
from llmgate.store.answers import KEPT_MS
from llmgate.store.db import Database
from tests.books import Book
from tests.served import Served, error_of

from .conftest import Admin, Office


def cli(served: Served, *args: str) -> Any:
    """What a command writes as JSON on the same database."""
    env = {**os.environ, "HOME": str(served.folder)}
    where = ["--db", str(served.database), "--config", str(served.config), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "llmgate", *args, *where],
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# ── the other door ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("path", "command"),
    [
        ("/users", ["users"]),
        ("/teams", ["teams"]),
        ("/keys?all=true", ["keys", "--all"]),
        ("/balance", ["credits"]),
        ("/plans", ["plans"]),
        ("/models", ["models"]),
    ],
)
def test_both_doors_tell_the_same(office: Office, path: str, command: list[str]) -> None:
    office.ops("POST", "/teams", {"team": "same", "plan": "starter"})
    sign = "&" if "?" in path else "?"
    found = office.ops.told(f"{path}{sign}limit=1000")
    assert found["next"] is None
    assert found["data"]
    assert sorted(found["data"], key=str) == sorted(cli(office.served, *command), key=str)


def test_both_doors_tell_the_same_of_limits(office: Office) -> None:
    with office.served.tx() as tx:
        limits.hang(tx, office.alice.name, ["$50 total", "3 concurrent"])
    told = office.ops.told(f"/limits/{office.alice.name}")
    assert told["limits"] == cli(office.served, "limits", office.alice.name)
    assert [one for one in office.ops.told("/limits?limit=1000")["data"] if one in told["limits"]] == sorted(
        told["limits"], key=lambda one: str(one["limit"])
    )


def test_both_doors_tell_the_same_of_one(office: Office) -> None:
    name, key_id = office.alice.name, office.alice.key_id
    assert office.ops.told(f"/users/{name}") == cli(office.served, "users", "show", name)
    assert office.ops.told(f"/keys/{key_id}") == cli(office.served, "keys", "show", key_id)
    assert office.ops.told(f"/usage/{name}")["data"] == cli(office.served, "usage", "--user", name)
    assert office.ops.told(f"/usage/{key_id}") == office.ops.told(f"/usage/{name}")
    assert office.ops.told(f"/credits/{name}")["data"] == cli(office.served, "credits", "history", name)[::-1]
    newest = office.ops.told("/audit?limit=1000&since=1d")["data"]
    assert newest[::-1] == cli(office.served, "audit")
    rows = office.ops.told(f"/report?by=user,model&by=day&user={name}")["rows"]
    assert rows == cli(office.served, "report", "--by", "user,model", "--by", "day", "--user", name)
    assert office.ops.told("/report?by=hour")["rows"] == cli(office.served, "report", "--by", "hour")


def test_neither_a_user_nor_a_key(office: Office) -> None:
    error = office.ops.told("/usage/nobody", 404)["error"]
    assert (error["code"], error["message"]) == ("not_found", "there is no user and no key 'nobody'")


def test_the_monitor_sums_up_what_is_going_on(tmp_path: Path) -> None:
    with Served(tmp_path, {"upstreams": {"sandbox": {}}}) as served:
        with served.tx() as tx:
            ops = Admin(served, admins.add(tx, "ops", Scope.READ))
        alice, _ = served.person(), served.person()
        assert served.chat(alice, model="echo").status_code == 200
        served.settled(alice, 1)
        seen = ops.told("/monitor")
    assert seen["users"]["total"] == 2
    assert seen["users"]["active_today"] == len(seen["top_users"]) == seen["today"]["requests"]  # 0 past a midnight
    assert [row["user"] for row in seen["recent"]] == [alice.name]
    assert seen["in_flight"] == {"requests": 0, "held_usd": "0"}
    (up,) = seen["upstreams"]
    assert (up["upstream"], up["ready"], up["failing"], up["recent_errors"]) == ("sandbox", True, [], 0)


def test_no_secret_is_told(office: Office) -> None:
    assert office.ops.told("/upstreams")["data"][0]["secret_set"] is True
    for path in ("/upstreams", "/monitor", "/keys", "/audit?limit=1000"):
        text = str(office.ops.told(path))
        assert not [secret for secret in office.served.secrets if secret in text]


# ── changes ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_user_from_first_to_last(ops: Admin, office: Office) -> None:
    made = ops.done("POST", "/users", {"user": "ann", "email": "ann@example.org", "plan": "pro"})
    assert (made["billing"], made["plan"], made["keys"]) == ("prepaid", "pro", [])
    ops.done("POST", "/teams", {"team": "anns", "billing": "metered"})
    moved = ops.done("PATCH", "/users/ann", {"team": "anns", "email": None, "plan": None})
    assert (moved["team"], moved["email"], moved["plan"]) == ("anns", None, None)
    assert ops.done("PATCH", "/users/ann", {"billing": "prepaid"})["account"] == "ann"
    assert ops.done("PATCH", "/users/ann", {"billing": None})["account"] == "team:anns"
    issued = ops.done("POST", "/keys", {"user": "ann", "tags": {"job": "1"}})
    assert office.served.chat(issued["key"]).status_code == 200
    assert ops.done("POST", "/users/ann/disable")["status"] == "disabled"
    error_of(office.served.chat(issued["key"]), 403, "user_disabled")
    assert ops.done("POST", "/users/ann/enable", {})["status"] == "active"
    acts = [act for act in ops.told("/audit?limit=1000")["data"] if act["target"] in ("ann", "anns", issued["id"])]
    assert {act["actor"] for act in acts} == {"admin:all"}
    assert [act["action"] for act in acts][::-1] == [
        *("users.add", "users.set", "teams.add", "users.set", "users.set", "users.set"),
        *("keys.add", "users.set", "users.set"),
    ]


def test_a_key_from_first_to_last(ops: Admin, office: Office) -> None:
    made = ops.done(
        "POST",
        "/keys",
        {
            "user": "kim",
            "name": "laptop",
            "models": ["main/*"],
            "ips": ["127.0.0.1/8"],
            "note": "n",
            "expires": "90d",
            "limits": ["9 requests/day"],
            "credits_usd": "2.50",
            "plan": "starter",
        },
    )
    office.served.secrets.append(made["key"])
    assert (made["user_added"], made["became_prepaid"], made["plan"]) == (True, True, "starter")
    assert (made["ips"], made["prefix"]) == (["127.0.0.0/8"], made["key"][:12])
    at = f"/keys/{made['id']}"
    assert office.served.chat(made["key"]).status_code == 200
    assert ops.told(f"/limits/key:{made['id']}")["own"] == ["9 requests/day"]
    assert ops.done("POST", f"{at}/disable")["status"] == "disabled"
    error_of(office.served.chat(made["key"]), 401, "key_disabled")
    ops.done("POST", f"{at}/enable")
    rotated = ops.done("POST", f"{at}/rotate", {"grace": "24h"})
    office.served.secrets.append(rotated["key"])
    assert rotated["key"] != made["key"]
    assert [office.served.chat(key).status_code for key in (made["key"], rotated["key"])] == [200, 200]
    again = ops.done("POST", f"{at}/rotate")
    office.served.secrets.append(again["key"])
    assert office.served.chat(made["key"]).status_code == 401
    changed = ops.done("PATCH", at, {"expires": None, "note": None, "models": [], "tags": {"a": "b"}, "name": "new"})
    assert (changed["expires_at"], changed["note"], changed["models"], changed["tags"]) == (None, None, [], {"a": "b"})
    assert ops.done("POST", f"{at}/revoke")["status"] == "revoked"
    error_of(office.served.chat(again["key"]), 401, "key_revoked")
    assert made["key"] not in str(ops.told("/audit?limit=1000"))


def test_a_key_is_all_or_nothing(ops: Admin) -> None:
    for wrong in ({"limits": ["60"]}, {"ips": ["nowhere"]}, {"expires": "yesterday"}, {"credits_usd": "0"}):
        assert ops("POST", "/keys", {"user": "half", **wrong}).status_code == 400
    error_of(ops("POST", "/keys", {"user": "half", "plan": "startre"}), 404, "not_found")
    error_of(ops("GET", "/users/half"), 404, "not_found")


def test_credits(ops: Admin, office: Office) -> None:
    ops.done("POST", "/users", {"user": "rich"})
    made = ops.done("POST", "/credits", {"account": "rich", "amount_usd": "12.000000001", "ref": "r-1", "note": "x"})
    assert (made["amount_usd"], made["balance_usd"]) == ("12.000000001", "12.000000001")
    assert (made["became_prepaid"], made["repeated"]) == (True, False)
    again = ops.done("POST", "/credits", {"account": "rich", "amount_usd": "12.000000001", "ref": "r-1"})
    assert (again["entry"], again["repeated"], again["balance_usd"]) == (made["entry"], True, "12.000000001")
    other = {"account": "rich", "amount_usd": "13", "ref": "r-1"}
    error_of(ops("POST", "/credits", other), 409, "conflict")
    (entry,) = ops.told("/credits/rich")["data"]
    assert (entry["actor"], entry["ref"], entry["note"]) == ("admin:all", "r-1", "x")
    assert office.served.findings() == []


def test_limits_are_put_whole(ops: Admin) -> None:
    ops.done("POST", "/users", {"user": "lim"})
    seen = ops("GET", "/limits/lim")
    error_of(ops("PUT", "/limits/lim", {"limits": ["$5/day"]}), 428, "precondition_required")
    first = ops("PUT", "/limits/lim", {"limits": ["$5/day", "3 concurrent"]}, if_match=seen.headers["etag"])
    assert first.json()["own"] == ["$5/day", "3 concurrent"]
    error_of(ops("PUT", "/limits/lim", {"limits": []}, if_match=seen.headers["etag"]), 412, "precondition_failed")
    second = ops("PUT", "/limits/lim", {"limits": ["$6/day"]}, if_match=f'"other", {first.headers["etag"]}')
    assert second.json()["own"] == ["$6/day"]
    error_of(ops("PUT", "/limits/lim", {"limits": ["60"]}, if_match="*"), 400, "invalid_request")
    assert ops.told("/limits/lim")["own"] == ["$6/day"], "all or nothing"
    assert ops.done("DELETE", "/limits/lim")["own"] == []
    error_of(ops("DELETE", "/limits/lim"), 404, "not_found")


def test_two_admins_don_t_overwrite_each_other(ops: Admin) -> None:
    ops.done("POST", "/users", {"user": "two"})
    seen = ops("GET", "/users/two").headers["etag"]
    assert ops("PATCH", "/users/two", {"email": "a@example.org"}, if_match=seen).status_code == 200
    error_of(ops("PATCH", "/users/two", {"email": "b@example.org"}, if_match=seen), 412, "precondition_failed")
    assert ops.done("PATCH", "/users/two", {"email": "c@example.org"})["email"] == "c@example.org"
    seen = ops("GET", "/users/two").headers["etag"]

    def write(number: int) -> int:
        return ops("PATCH", "/users/two", {"email": f"{number}@example.org"}, if_match=seen).status_code

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(write, range(4))) == [200, 412, 412, 412]


def test_what_users_do_changes_no_etag(ops: Admin, office: Office) -> None:
    made = ops.done("POST", "/keys", {"user": "busy", "credits_usd": "1"})
    paths = ("/users/busy", f"/keys/{made['id']}")
    before = [ops("GET", path).headers["etag"] for path in paths]
    assert office.served.chat(made["key"]).status_code == 200
    assert [ops("GET", path).headers["etag"] for path in paths] == before


# ── the same again ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_same_again_is_answered_the_same(ops: Admin, office: Office) -> None:
    first = ops("POST", "/keys", {"user": "once"}, idempotency_key="order-1")
    again = ops("POST", "/keys", {"user": "once"}, idempotency_key="order-1")
    assert (again.status_code, again.content) == (first.status_code, first.content) == (201, first.content)
    assert ("idempotent-replayed" in first.headers, again.headers["idempotent-replayed"]) == (False, "true")
    assert len(ops.told("/keys?user=once")["data"]) == 1
    error_of(ops("POST", "/keys", {"user": "other"}, idempotency_key="order-1"), 409, "conflict")
    error_of(ops("POST", "/users", {"user": "once"}, idempotency_key="order-1"), 409, "conflict")
    issued = first.json()["key"]
    office.served.secrets.append(issued)
    files = [file for file in office.served.folder.glob("books.db*") if file.is_file()]
    assert files
    assert not [file for file in files if issued.encode() in file.read_bytes()], "it is kept nowhere in clear"


def test_another_admin_has_idempotency_keys_of_its_own(office: Office) -> None:
    other = Admin(office.served, "the-admin-token-of-the-environment")
    made = [admin.done("POST", "/keys", {"user": "own"}, idempotency_key="k") for admin in (office.ops, other)]
    assert made[0]["id"] != made[1]["id"]


def test_at_once_it_is_done_once(ops: Admin) -> None:
    body = {"account": "team:pool", "amount_usd": "1"}
    ops.done("POST", "/teams", {"team": "pool"})

    def add(_: int) -> httpx.Response:
        return ops("POST", "/credits", body, idempotency_key="at-once")

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(add, range(8)))
    assert {answer.content for answer in found} == {found[0].content}
    assert ops.told("/teams/pool")["balance_usd"] == "1"


def test_what_was_refused_may_be_tried_again(ops: Admin) -> None:
    body = {"account": "later", "amount_usd": "1"}
    error_of(ops("POST", "/credits", body, idempotency_key="later"), 404, "not_found")
    ops.done("POST", "/users", {"user": "later"})
    assert ops.done("POST", "/credits", body, idempotency_key="later")["balance_usd"] == "1"


def test_answers_are_kept_for_a_day(tmp_path: Path) -> None:
    from llmgate.store import answers as kept

    book = Book(tmp_path / "books.db")
    answer = kept.Answer(201, b'{"key": "sk-lg-secret"}')
    with book.write(1_000) as tx:
        kept.keep(tx, "admin-key", "k", b"request", answer)
        assert kept.find(tx, "admin-key", "k", b"request") == answer
        assert kept.find(tx, "another-key", "k", b"request") is None
        assert tx.value("SELECT count(*) FROM answers WHERE instr(body, 'sk-lg')") == 0
    with book.write(1_000 + KEPT_MS) as tx:
        assert kept.find(tx, "admin-key", "k", b"request") is None
        kept.keep(tx, "admin-key", "k", b"other", answer)
        assert tx.value("SELECT count(*) FROM answers") == 1
    book.close()


# ── pages ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def walked(ops: Admin, path: str, size: int) -> list[Any]:
    """All that a listing tells, page by page."""
    found: list[Any] = []
    sign, cursor = "&" if "?" in path else "?", ""
    while True:
        page = ops.told(f"{path}{sign}limit={size}{cursor}")
        assert len(page["data"]) <= size
        found += page["data"]
        if page["next"] is None:
            return found
        cursor = f"&cursor={page['next']}"


@pytest.mark.parametrize(
    "path", ["/users", "/keys?all=true", "/balance", "/limits", "/models", "/audit", "/credits/paged", "/usage/paged"]
)
def test_pages_come_to_the_whole(ops: Admin, office: Office, path: str) -> None:
    if ops("GET", "/users/paged").status_code == 404:
        key = ops.done("POST", "/keys", {"user": "paged", "limits": ["9 concurrent", "99 requests/day"]})["key"]
        for number in range(5):
            ops.done("POST", "/credits", {"account": "paged", "amount_usd": "1", "ref": f"page-{number}"})
            assert office.served.chat(key).status_code == 200
    whole = walked(ops, path, 1000)
    assert len(whole) > 1 or path == "/models"
    assert walked(ops, path, 2) == whole


def test_a_page_goes_on_where_it_was_though_something_came(ops: Admin) -> None:
    for name in ("cur-a", "cur-c", "cur-e"):
        ops.done("POST", "/users", {"user": name})
    first = ops.told("/users?limit=1000")["data"]
    at = next(index for index, row in enumerate(first) if row["user"] == "cur-c")
    page = ops.told(f"/users?limit={at + 1}")
    ops.done("POST", "/users", {"user": "cur-b"})
    ops.done("POST", "/users", {"user": "cur-d"})
    rest = ops.told(f"/users?limit=2&cursor={page['next']}")
    assert [row["user"] for row in rest["data"]] == ["cur-d", "cur-e"]


# ── bad input ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "param"),
    [
        ("POST", "/users", b"", 400, "user"),
        ("POST", "/users", b"[]", 400, None),
        ("POST", "/users", b"nonsense", 400, None),
        ("POST", "/users", b'{"user": "x\xff"}', 400, None),
        ("POST", "/users", b'{"user": "x", "colour": "red"}', 400, "colour"),
        ("POST", "/users", b'{"user": 5}', 400, "user"),
        ("POST", "/users", b'{"email": "x"}', 400, "user"),
        ("POST", "/users", b'{"user": "<b>"}', 400, None),
        ("POST", "/users", b'{"user": "a\\u0000b"}', 400, None),
        ("POST", "/users", b'{"user": "x", "billing": "free"}', 400, "billing"),
        ("POST", "/users", b'{"user": "x", "team": "nowhere"}', 404, None),
        ("POST", "/users", b'{"user": "x", "plan": "nowhere"}', 404, None),
        ("POST", "/credits", b'{"account": "x", "amount_usd": 5}', 400, "amount_usd"),
        ("PATCH", "/users/x", b"{}", 404, None),
        ("POST", "/users/x/disable", b'{"why": 1}', 400, "why"),
        ("POST", "/users", b'{"user": "' + b"x" * 300_000 + b'"}', 413, None),
        ("GET", "/users?limit=0", None, 400, "limit"),
        ("GET", "/users?limit=100000", None, 400, "limit"),
        ("GET", "/users?limit=ten", None, 400, "limit"),
        ("GET", "/users?limit=5&limit=6", None, 400, "limit"),
        ("GET", "/users?size=5", None, 400, "size"),
        ("GET", "/users?cursor=%00", None, 400, "cursor"),
        ("GET", "/usage?cursor=WzFlOTks", None, 400, "cursor"),
        ("GET", "/audit?cursor=OTk5OTk5OTk5OTk5OTk5OTk5OTk5", None, 400, "cursor"),
        ("GET", "/users?team=nowhere", None, 404, None),
        ("GET", "/keys/k-22222222", None, 404, None),
        ("GET", "/usage?since=tomorrowish", None, 400, None),
        ("GET", "/usage?since=today&until=yesterday", None, 400, "since"),
        ("GET", "/report?by=colour", None, 400, "by"),
        ("GET", "/usage?tag=alone", None, 400, "tag"),
        ("GET", "/nothing", None, 404, None),
        ("GET", "/users/a/b", None, 404, None),
    ],
)
def test_what_is_wrong_is_named(
    ops: Admin, method: str, path: str, content: bytes | None, status: int, param: str | None
) -> None:
    answer = ops(method, path, content=content)
    codes = {400: "invalid_request", 404: "not_found", 413: "request_too_large"}
    error = error_of(answer, status, codes[status])
    assert error["param"] == param, error
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["date"].endswith(" GMT")


def test_a_key_in_the_path_is_not_repeated(ops: Admin, office: Office) -> None:
    answer = ops("GET", f"/keys/{office.alice.key}")
    error_of(answer, 400, "invalid_request")
    assert office.alice.key not in answer.text
    assert keys.PREFIX not in office.served.log()


def test_wrong_methods(ops: Admin) -> None:
    for method, path, allowed in (("DELETE", "/users", "GET, HEAD, POST"), ("POST", "/monitor", "GET, HEAD")):
        answer = ops(method, path)
        error_of(answer, 405, "method_not_allowed")
        assert answer.headers["allow"] == allowed
    head = ops("HEAD", "/users")
    assert (head.status_code, head.content) == (200, b"")


def test_a_compressed_body_is_refused(ops: Admin) -> None:
    error_of(ops("POST", "/users", content=b"{}", content_encoding="gzip"), 415, "unsupported_encoding")


def test_nothing_is_there_for_who_has_no_admin_key(tmp_path: Path) -> None:
    with Served(tmp_path, {"upstreams": {"sandbox": {}}}) as served:
        error = error_of(Admin(served, None)("GET", "/users"), 401, "missing_key")
        assert "there is none yet, `llmgate admins add NAME` makes one" in error["message"]


def test_a_change_waits_for_who_writes(office: Office, ops: Admin) -> None:
    """As a command of the CLI does; and requests are served meanwhile."""
    with Database(office.served.database) as db, ThreadPoolExecutor(1) as pool:
        db.conn.execute("BEGIN IMMEDIATE")
        waiting = pool.submit(ops.done, "POST", "/users", {"user": "patient"})
        assert ops.told("/me")["scope"] == "all"
        db.conn.execute("ROLLBACK")
        assert waiting.result()["user"] == "patient"


def test_the_books_verify_after_all_of_it(office: Office) -> None:
    with Database(office.served.database) as db:
        assert list(verify.verify(db)) == []


def test_an_etag_is_of_what_admins_say(office: Office) -> None:
    user = office.ops.told(f"/users/{office.alice.name}")
    assert "balance_usd" not in answers.UserDetails(**user).version()
