"""A gateway, and a key of each kind that may knock at its admin API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmgate.store import admins
from llmgate.store.admins import Scope
from tests.replay import Replay, json_answer
from tests.served import Person, Served, answers, completion, main_upstream, usage_of

TOKEN = "the-admin-token-of-the-environment"

SERVICE = {"mode": "open", "limits": ["5 requests/day"], "per_address": "100000/day", "per_name": "100000/day"}

PLANS = {"starter": {"price": 29, "limits": ["1000 requests/day"]}, "pro": {"billing": "prepaid"}}


class Admin:
    """Whoever calls the admin API with a key; without one, nobody."""

    def __init__(self, served: Served, key: str | None) -> None:
        self._served = served
        self.key = key

    def __call__(
        self, method: str, path: str, body: Any = None, content: bytes | None = None, **headers: str
    ) -> httpx.Response:
        told = {"authorization": f"Bearer {self.key}"} if self.key is not None else {}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        given = content if body is None else json.dumps(body).encode()
        url = f"{self._served.url}/admin{path}"
        return self._served.client.request(method, url, headers=told | named, content=given)

    def told(self, path: str, status: int = 200) -> Any:
        """What a GET tells."""
        answer = self("GET", path)
        assert answer.status_code == status, answer.text
        return answer.json()

    def done(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """What became of a change that is to go well."""
        answer = self(method, path, body, None, **headers)
        assert answer.status_code in (200, 201), answer.text
        return answer.json()


class Office:
    """A gateway with a user who has used it, and with admins."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.alice: Person = served.person(credits="1")
        with served.tx() as tx:
            self.keys = {scope: admins.add(tx, scope.value, scope) for scope in Scope}
        served.secrets += [TOKEN, *self.keys.values()]
        self.ops = Admin(served, self.keys[Scope.ALL])
        self.nobody = Admin(served, None)

    def of(self, scope: Scope) -> Admin:
        return Admin(self.served, self.keys[scope])


@pytest.fixture(scope="package")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    """Shared by all tests of a process: each makes its own users."""
    with Replay() as up:
        up.handler = answers(json_answer(completion(usage=usage_of(10, 5))))
        models = {"zeta": {"routes": [{"upstream": "main"}]}}
        routes = {
            "/v1/translate": {"upstream": "main", "price": 0.25},
            "/v1/files": {"upstream": "main", "unmetered": True},
        }
        config = {"upstreams": {"main": main_upstream(up)}, "plans": PLANS, "models": models, "routes": routes}
        config["self_service"] = SERVICE
        config["server"] = {"trusted_proxies": ["127.0.0.1"]}  # tests may say themselves where they come from
        folder: Path = tmp_path_factory.mktemp("office")
        with Served(folder, config, env={"ADMIN_TOKEN": TOKEN}) as served:
            found = Office(served)
            assert served.chat(found.alice).status_code == 200
            served.settled(found.alice, 1)
            yield found


@pytest.fixture
def ops(office: Office) -> Admin:
    """Who may do everything."""
    return office.ops
