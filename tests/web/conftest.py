"""A gateway with its pages, and browsers of whoever may look at them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmgate.store import accounts, admins
from llmgate.store.admins import Scope
from tests.replay import Replay, json_answer
from tests.served import Person, Served, answers, completion, main_upstream, usage_of

TOKEN = "the-admin-token-of-the-environment"


class Form:
    """A form of a page: where it goes, and what stands in its fields."""

    def __init__(self, attributes: Mapping[str, str]) -> None:
        self.action = attributes.get("action", "")
        self.method = attributes.get("method", "get").lower()
        self.fields: dict[str, str] = {}
        self.buttons: list[dict[str, str]] = []


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self.words: list[str] = []
        self._inside: Form | None = None
        self._select: str | None = None
        self._textarea: str | None = None
        self._silent = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = {name: value or "" for name, value in attrs}
        if tag in ("script", "style"):
            self._silent += 1
        if tag == "form":
            self._inside = Form(told)
            self.forms.append(self._inside)
        form = self._inside
        if form is None:
            return
        if tag == "input" and "name" in told:
            if told.get("type") in ("checkbox", "radio") and "checked" not in told:
                return
            form.fields[told["name"]] = told.get("value", "on" if told.get("type") == "checkbox" else "")
        elif tag == "select":
            self._select = told["name"]
        elif tag == "option" and self._select and ("selected" in told or self._select not in form.fields):
            form.fields[self._select] = told.get("value", "")
        elif tag == "textarea":
            self._textarea = told["name"]
            form.fields[told["name"]] = ""
        elif tag == "button":
            form.buttons.append(told)

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._inside = None
        elif tag == "select":
            self._select = None
        elif tag == "textarea":
            self._textarea = None
        elif tag in ("script", "style"):
            self._silent -= 1

    def handle_data(self, data: str) -> None:
        if self._textarea and self._inside:
            self._inside.fields[self._textarea] += data
        if not self._silent and data.strip():
            self.words.append(" ".join(data.split()))


def forms_of(answer: httpx.Response) -> list[Form]:
    reader = _Reader()
    reader.feed(answer.text)
    return reader.forms


def words_of(answer: httpx.Response) -> str:
    """What a page says, without its markup."""
    reader = _Reader()
    reader.feed(answer.text)
    return " ".join(reader.words)


def form_to(answer: httpx.Response, action: str) -> Form:
    """The form of a page that goes to a path: the one that changes something, where another one only looks."""
    return min((form for form in forms_of(answer) if form.action == action), key=lambda form: form.method != "post")


class Browser:
    """Keeps cookies, follows nothing by itself, and fills in forms as they stand in pages."""

    def __init__(self, served: Served, *, language: str = "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8") -> None:
        self.served = served
        self.client = httpx.Client(base_url=served.url, timeout=30, trust_env=False, headers={"accept": language})

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.client.get(path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    def shown(self, path: str, status: int = 200) -> httpx.Response:
        """A page that is to be there."""
        answer = self.get(path)
        assert answer.status_code == status, (path, answer.status_code, answer.text[:2000])
        return answer

    def post(self, path: str, fields: Mapping[str, Any] | None = None, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post(path, data=dict(fields or {}), headers=named)

    def send(self, page: httpx.Response | str, action: str, **fields: Any) -> httpx.Response:
        """Fill in the form of a page that goes to `action`, and send it."""
        found = self.shown(page) if isinstance(page, str) else page
        form = form_to(found, action)
        return self.post(action, {**form.fields, **fields})

    def done(self, page: httpx.Response | str, action: str, **fields: Any) -> httpx.Response:
        """The same, where it is to go well: the page that one is sent to."""
        answer = self.send(page, action, **fields)
        assert answer.status_code == 303, (action, answer.status_code, words_of(answer))
        return self.shown(answer.headers["location"])

    def token(self) -> str:
        """What a form of this browser carries."""
        page = self.shown("/" if "llmgate_session" in self.client.cookies else "/sign-in")
        return next(form for form in forms_of(page) if form.method == "post").fields["csrf"]

    def sign_in(self, key: str) -> Browser:
        answer = self.send("/sign-in", "/sign-in", key=key)
        assert answer.status_code == 303, words_of(answer)
        return self

    def close(self) -> None:
        self.client.close()


class House:
    """A gateway, its people and its admins, each with a browser that is signed in."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.alice: Person = served.person(credits="1")
        self.bob: Person = served.person()
        with served.tx() as tx:
            accounts.add_team(tx, "research")
        self.lead: Person = served.person(team="research")
        self.member: Person = served.person(team="research")
        with served.tx() as tx:
            tx.execute(
                "UPDATE users SET leads_team_id = (SELECT id FROM teams WHERE name = 'research') WHERE name = ?",
                (self.lead.name,),
            )
            self.keys = {scope: admins.add(tx, scope.value, scope) for scope in Scope}
        served.secrets += [TOKEN, *self.keys.values()]
        self._browsers: dict[str, Browser] = {}

    def browser(self) -> Browser:
        """A new one, of nobody. To be closed."""
        return Browser(self.served)

    def _of(self, name: str, key: str | None) -> Browser:
        if name not in self._browsers:
            self._browsers[name] = Browser(self.served)
            if key is not None:
                self._browsers[name].sign_in(key)
        return self._browsers[name]

    @property
    def nobody(self) -> Browser:
        return self._of("nobody", None)

    def of(self, person: Person) -> Browser:
        return self._of(person.name, person.key)

    def admin(self, scope: Scope = Scope.ALL) -> Browser:
        return self._of(f"admin {scope}", self.keys[scope])

    def close(self) -> None:
        for browser in self._browsers.values():
            browser.close()


@pytest.fixture(scope="package")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Shared by all tests of a process: each that changes something makes its own users."""
    with Replay() as up:
        up.handler = answers(json_answer(completion(usage=usage_of(10, 5))))
        models = {"zeta": {"routes": [{"upstream": "main"}]}}
        config = {
            "upstreams": {"main": main_upstream(up)},
            "models": models,
            "self_service": {"mode": "approval"},
            "server": {"trusted_proxies": ["127.0.0.1"]},  # tests say themselves where they come from
        }
        folder: Path = tmp_path_factory.mktemp("house")
        with Served(folder, config, env={"ADMIN_TOKEN": TOKEN}) as served:
            found = House(served)
            try:
                assert served.chat(found.alice).status_code == 200
                served.settled(found.alice, 1)
                yield found
            finally:
                found.close()
