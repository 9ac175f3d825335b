"""Forms: what was typed becomes a struct, or words; sent twice they are done once; of two tabs one is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

import httpx
import msgspec
import pytest

from llmgate.admin import reads
from llmgate.admin.desk import Desk
from llmgate.errors import Refusal
from llmgate.store import accounts, admins, sessions
from llmgate.store.admins import Scope
from llmgate.store.db import Tx
from llmgate.store.keys import hash_key
from llmgate.web import forms, render, site
from llmgate.web.pages import PAGES
from llmgate.web.visits import Download, Page, Redirect, Reply, Shown, Told, Visit, Who
from tests.served import Inside

from .conftest import forms_of, words_of

FORM = b"application/x-www-form-urlencoded; charset=utf-8"


class Wish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: Annotated[str, msgspec.Meta(max_length=10)]
    number: Annotated[int, msgspec.Meta(ge=1)] = 5
    amount_usd: str | None = None
    models: list[str] = []
    sure: bool = False


def read(**fields: Any) -> Wish:
    return forms.read(Wish, forms.parse(urlencode(fields, doseq=True).encode(), FORM).fields)


def test_what_was_typed() -> None:
    assert read(name=" a ", number="7", models="x\r\n\r\n y\n", sure="true") == Wish("a", 7, None, ["x", "y"], True)
    assert read(name="é <b>", number="", amount_usd="  ", models=["x", "y"]) == Wish("é <b>", 5, None, ["x", "y"])


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({}, "name", "name is missing"),
        ({"name": "  "}, "name", "name is missing"),
        ({"name": "x", "number": "many"}, "number", "number: a whole number is wanted"),
        ({"name": "x", "number": "1.5"}, "number", "number: a whole number is wanted"),
        ({"name": "x", "number": "0"}, "number", "number: a number >= 1 is wanted"),
        ({"name": "x" * 11}, "name", "name: it is too long: at most 10 characters"),
        ({"name": "x", "sure": "perhaps"}, "sure", "sure: yes or no is wanted"),
        ({"name": ["x", "y"]}, "name", "name is given twice: once is enough"),
        ({"name": "x", "other": "y"}, "other", "'other' is no field of this form"),
        ({"name": "a\x00b"}, "name", "name: there is a character in it that can't be seen"),
        ({"name": "a\u202eb"}, "name", "name: there is a character in it that can't be seen"),
    ],
)
def test_what_can_t_be_taken(fields: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(Refusal) as caught:
        read(**fields)
    assert (caught.value.message, caught.value.param, caught.value.http_status) == (words, param, 400)


@pytest.mark.parametrize(
    ("raw", "kind", "status"),
    [
        (b"name=%ff", FORM, 400),
        (b"name=\xff", FORM, 400),
        (b"&".join(b"a=%d" % number for number in range(501)), FORM, 400),
        (b'{"name": "x"}', b"application/json", 415),
        (b"name=x", None, 415),
    ],
)
def test_what_is_no_form(raw: bytes, kind: bytes | None, status: int) -> None:
    with pytest.raises(Refusal) as caught:
        forms.parse(raw, kind)
    assert caught.value.http_status == status


def test_what_was_typed_may_look_like_our_own_words() -> None:
    class Choice(msgspec.Struct):
        billing: Literal["metered", "prepaid"] | None = None

    for typed in ("x - at `$.aaaa", "x - at `$.note`"):
        with pytest.raises(Refusal) as caught:
            forms.read(Choice, {"billing": [typed]})
        assert (caught.value.param, caught.value.message) == ("billing", f"billing: {typed} can't be chosen")


def test_no_secret_is_put_back_into_a_page() -> None:
    fields = forms.parse(b"key=sk-lg-x&token=y&name=alice", FORM).fields
    assert forms.typed(fields) == {"name": "alice"}


# ── pages of this test's own ──────────────────────────────────────────────────────────────────────────────────────────

ADDED = "try.html"

TEMPLATE = """{% extends "base.html" %}{% block title %}Try{% endblock %}{% block main %}<h1>{{ heading }}</h1>
{{ parts.refused() }}
<form method="post" action="/portal/try">{{ hidden() }}{{ version(told) if told else "" }}
{{ parts.field("name", "Name") }}{{ parts.lines("models", "Models") }}
{{ parts.choice("plan", "Plan", [("a", "A"), ("b", "B")]) }}</form>
{{ parts.meter(85, "tokens") }}{{ parts.state("active") }}{{ parts.copyable("x") }}
{% call parts.empty("Nothing yet.") %}<p>Do something.</p>{% endcall %}
<p>{{ 1234567890 | money }} {{ 12345 | number }} {{ 0 | when }} {{ 0 | date }} {{ none | time }}
{{ "`a<b`" | words }}</p>
{% endblock %}"""


class Trial(msgspec.Struct, frozen=True):
    name: str
    models: list[str] = []
    plan: str | None = None


def show(tx: Tx, visit: Visit) -> Reply:
    return Shown(ADDED, {"heading": visit.actor, "told": None})


def add(tx: Tx, visit: Visit) -> Reply:
    """Makes a user, and shows something that is known this once."""
    accounts.add_user(tx, visit.form.name)
    return Shown(ADDED, {"heading": f"secret of {visit.form.name}", "told": None}, 201)


def show_user(tx: Tx, visit: Visit) -> Reply:
    return Shown(ADDED, {"heading": "user", "told": reads.user(tx, visit.call())})


class Mail(msgspec.Struct, frozen=True):
    email: str


def set_mail(tx: Tx, visit: Visit) -> Reply:
    visit.check_version(reads.user(tx, visit.call()))
    accounts.set_user(tx, visit.params["user"], {"email": visit.form.email})
    return Redirect("/portal/try", said=f"Wrote to `{visit.form.email}`.", keep={"oidc": "kept é"})


async def slow(visit: Visit) -> Reply:
    count = await visit.read(lambda tx: tx.value("SELECT count(*) FROM users"))
    await visit.change(lambda tx: accounts.set_user(tx, "alice", {"email": f"{count}@x.org"}))
    return Told({"users": count, "kept": visit.kept("oidc"), "other": visit.kept("oid")})


def give(tx: Tx, visit: Visit) -> Reply:
    return Download('us"age\r\n.csv', b"a,b\n", "text/csv; charset=utf-8")


def program(tx: Tx, visit: Visit) -> Reply:
    return Told({"name": visit.form.name, "actor": visit.actor})


def fail(tx: Tx, visit: Visit) -> Reply:
    accounts.add_user(tx, "half")
    raise RuntimeError("the secret reason")


def leak(tx: Tx, visit: Visit) -> Reply:
    return Shown(ADDED, {"heading": accounts.user_row(tx, "alic")["name"]})


TRIED = (
    Page("GET", "/portal/try", Who.SIGNED_IN, show, menu="Try"),
    Page("POST", "/portal/try", Who.SIGNED_IN, add, form=Trial, again=show),
    Page("GET", "/admin/pages/try/{user}", Scope.READ, show_user),
    Page("POST", "/admin/pages/try/{user}", Scope.KEYS, set_mail, form=Mail),
    Page("GET", "/portal/slow", Who.SIGNED_IN, slow),
    Page("GET", "/portal/file", Who.SIGNED_IN, give),
    Page("POST", "/public/try", Who.EVERYBODY, program, form=Trial, api=True),
    Page("POST", "/portal/fail", Who.SIGNED_IN, fail),
    Page("GET", "/portal/leak", Who.USER, leak),
)


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "PAGES", (*PAGES, *TRIED))
    environment = render._environment()
    loader = environment.loader
    assert loader is not None
    load = loader.load

    def with_ours(environment: Any, name: str, globals: Any = None) -> Any:  # noqa: A002
        if name == ADDED:
            return environment.from_string(TEMPLATE)
        return load(environment, name, globals)

    monkeypatch.setattr(loader, "load", with_ours)


class Room:
    """A gateway in this process, with these pages, and somebody who is signed in to it."""

    def __init__(self, inside: Inside, app: site.Pages) -> None:
        self.inside = inside
        self.app = app

    @asynccontextmanager
    async def browser(self, **who: Any) -> AsyncIterator[httpx.AsyncClient]:
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://gate") as client:
            client.headers["accept"] = "text/html"
            keeper = await self.app.keeper()
            with self.inside.tx() as tx:
                session_id = sessions.begin(tx, "key", "127.0.0.1", 60_000, **who)
            client.cookies.set("llmgate_session", keeper._session.sign(session_id).decode())
            yield client

    def user(self, name: str) -> Any:
        with self.inside.view() as tx:
            return self.browser(user_id=accounts.user_row(tx, name)["id"])

    def admin(self, scope: Scope) -> Any:
        with self.inside.tx() as tx:
            key = admins.add(tx, f"{scope}", scope)
        return self.browser(admin_hash=hash_key(key))


@asynccontextmanager
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    async with Inside(tmp_path, {"upstreams": {"sandbox": {}}}) as inside:
        desk = Desk(inside.database, inside.gateway.reader, durable=False)
        with inside.tx() as tx:
            accounts.add_user(tx, "alice")
        try:
            yield Room(inside, site.Pages(inside.gateway, desk))
        finally:
            await desk.close()


def fields_of(answer: httpx.Response, action: str = "/portal/try") -> dict[str, str]:
    return next(form for form in forms_of(answer) if form.action == action).fields


def users(inside: Inside) -> list[str]:
    with inside.view() as tx:
        return [row["name"] for row in accounts.list_users(tx)]


@pytest.mark.usefixtures("pages")
async def test_a_form_sent_twice_is_done_once(tmp_path: Path) -> None:
    async with room(tmp_path) as found, found.user("alice") as client:
        page = await client.get("/portal/try")
        assert "1234567890" not in page.text
        assert "$1.23456789 12,345" in words_of(page)
        assert "<code>a&lt;b</code>" in page.text
        fields = fields_of(page) | {"name": "bob"}
        first = await client.post("/portal/try", data=fields)
        again = await client.post("/portal/try", data=fields)
        assert (first.status_code, again.status_code) == (201, 201)
        assert first.content == again.content
        assert "secret of bob" in words_of(again)
        other = await client.post("/portal/try", data=fields | {"name": "carol"})  # the same page, another wish
        assert "secret of carol" in words_of(other)
        async with found.user("alice") as stranger:  # a form isn't another browser's
            assert (await stranger.post("/portal/try", data=fields)).status_code == 403
        assert users(found.inside) == ["alice", "bob", "carol"]
        with found.inside.view() as tx:
            kept = [row["body"] for row in tx.execute("SELECT body FROM answers")]
        assert len(kept) == 2
        assert not [body for body in kept if b"secret of" in body]


@pytest.mark.usefixtures("pages")
async def test_a_form_that_is_refused_is_shown_again(tmp_path: Path) -> None:
    async with room(tmp_path) as found, found.user("alice") as client:
        fields = fields_of(await client.get("/portal/try"))
        answer = await client.post("/portal/try", data=fields | {"name": "alice", "models": "x\ny", "plan": "b"})
        assert answer.status_code == 409
        assert "exists already" in words_of(answer)
        kept = fields_of(answer)
        assert (kept["name"], kept["models"].split(), kept["plan"]) == ("alice", ["x", "y"], "b")
        assert kept["nonce"] != fields["nonce"]
        script = "<script>alert(1)</script>"
        answer = await client.post("/portal/try", data=fields | {"name": script})
        assert answer.status_code == 400
        assert script not in answer.text
        assert fields_of(answer)["name"] == script


@pytest.mark.usefixtures("pages")
async def test_of_two_tabs_the_later_is_told(tmp_path: Path) -> None:
    async with room(tmp_path) as found, found.admin(Scope.ALL) as client:
        path = "/admin/pages/try/alice"
        page = await client.get(path)
        fields = {name: value for name, value in fields_of(page).items() if name in ("csrf", "version")}
        first = await client.post(path, data=fields | {"email": "a@x.org"})
        assert (first.status_code, first.headers["location"]) == (303, "/portal/try")
        said = await client.get("/portal/try")
        assert "Wrote to a@x.org ." in words_of(said)
        told = (await client.get("/portal/slow")).json()
        assert told == {"users": 1, "kept": "kept é", "other": None}
        late = await client.post(path, data=fields | {"email": "b@x.org"})
        assert late.status_code == 412
        assert "somebody else has changed it" in words_of(late).lower()
        with found.inside.view() as tx:
            acts = tx.execute("SELECT actor, action FROM audit WHERE action = 'users.set' ORDER BY id").fetchall()
        assert [tuple(act) for act in acts] == [("admin:all", "users.set")] * 2


@pytest.mark.usefixtures("pages")
async def test_who_may_not_any_more_is_told_in_the_transaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the first look and the change a session may end, or an admin key become another."""
    async with room(tmp_path) as found, found.admin(Scope.KEYS) as client:
        fields = {"csrf": fields_of(await client.get("/admin/pages/try/alice"))["csrf"], "email": "x@x.org"}
        change = found.app.desk.change
        cut = "UPDATE admins SET scope = 'read'"

        async def meanwhile(actor: str, work: Any) -> Any:
            with found.inside.tx() as tx:
                tx.execute(cut)
            return await change(actor, work)

        monkeypatch.setattr(found.app.desk, "change", meanwhile)
        answer = await client.post("/admin/pages/try/alice", data=fields)
        assert (answer.status_code, "page_not_allowed" in answer.text) == (403, True)
        with found.inside.tx() as tx:
            tx.execute("UPDATE admins SET scope = 'keys'")
        cut = "UPDATE admins SET status = 'revoked'"
        answer = await client.post("/admin/pages/try/alice", data=fields)
        assert (answer.status_code, "signed_out" in answer.text) == (401, True)
        with found.inside.view() as tx:
            assert accounts.user_row(tx, "alice")["email"] is None


@pytest.mark.usefixtures("pages")
async def test_what_fails_tells_nothing_and_leaves_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with room(tmp_path) as found, found.user("alice") as client:
        token = fields_of(await client.get("/portal/try"))["csrf"]
        answer = await client.post("/portal/fail", data={"csrf": token})
        assert answer.status_code == 500
        assert "the secret reason" not in answer.text
        assert "the secret reason" in caplog.text
        assert users(found.inside) == ["alice"]
        missing = await client.get("/portal/leak")
        assert missing.status_code == 404
        assert "did you mean" not in missing.text


@pytest.mark.usefixtures("pages")
async def test_files_and_programs(tmp_path: Path) -> None:
    async with room(tmp_path) as found, found.user("alice") as client:
        file = await client.get("/portal/file")
        assert file.headers["content-disposition"] == 'attachment; filename="us-age--.csv"'
        assert (file.headers["content-type"], file.content) == ("text/csv; charset=utf-8", b"a,b\n")
        told = await client.post("/public/try", json={"name": "x"}, headers={"sec-fetch-site": "cross-site"})
        assert told.json() == {"name": "x", "actor": "public"}  # whose cookie came along doesn't count
        wrong = await client.post("/public/try", json={"nam": "x"})
        assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "name")
        program = {"accept": "application/json"}
        client.cookies.clear()
        answer = await client.get("/portal/file", headers=program)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "signed_out")


@pytest.mark.usefixtures("pages")
async def test_a_form_that_is_too_long(tmp_path: Path) -> None:
    async with room(tmp_path) as found, found.user("alice") as client:
        answer = await client.post("/portal/try", data={"name": "x" * 70_000})
        assert answer.status_code == 413


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("this key was revoked", "This key was revoked."),
        ("no.", "No."),
        ("alice has a key", "alice has a key."),
        ("new@example.org is no user here", "new@example.org is no user here."),
        ("the-boss is no user here", "the-boss is no user here."),
        ("key.7 is taken", "key.7 is taken."),
    ],
)
def test_a_sentence_begins_in_capitals_but_a_name_stays_as_it_is(said: str, shown: str) -> None:
    assert render.sentence(said) == shown
