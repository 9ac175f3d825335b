"""The OpenAPI document, and the running server held against it."""

from __future__ import annotations

import re
from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from llmgate.admin.document import PARAMS, openapi
from llmgate.admin.pages import FILES
from llmgate.admin.routes import ROUTES

from .conftest import Office

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]

BOUNDED = hypothesis.settings(
    max_examples=8,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
)

NOTHING_TO_SAY = [("GET", "/admin/me"), ("GET", "/admin/monitor")]
"""Nothing is sent there, so nothing can be wrong."""

OPERATIONS = [(route.method, route.path) for route in ROUTES]


def test_the_document_is_served_to_everybody(office: Office) -> None:
    answer = office.served.client.get(f"{office.served.url}/openapi.json")
    assert answer.status_code == 200
    document = answer.json()
    assert document["openapi"] == "3.1.0"
    assert {(method.upper(), path) for path, of in document["paths"].items() for method in of} == set(OPERATIONS)
    assert office.served.client.post(f"{office.served.url}/openapi.json").status_code == 405


def test_every_operation_has_its_own_name_and_says_what_it_does() -> None:
    operations = [one for of in openapi(ROUTES)["paths"].values() for one in of.values()]
    assert len({one["operationId"] for one in operations}) == len(operations)
    for one in operations:
        assert re.fullmatch(r"[A-Z].*\.", one["summary"]), one["summary"]
        assert set(one["responses"]) >= {"400", "429", "503"}
        assert ("401" in one["responses"]) == ("security" not in one)
    assert {name for _, path in OPERATIONS for name in re.findall(r"\{(\w+)\}", path)} == set(PARAMS)


SOURCE = re.compile(r'(?:src|href)="([^"]+)"')


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
def test_pages_show_it_with_nothing_from_elsewhere(office: Office, page: str) -> None:
    client, url = office.served.client, office.served.url
    answer = client.get(url + page)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert not re.search(r"<script>|<style|\son\w+=", answer.text), "no script stands in the page"
    sources = SOURCE.findall(answer.text)
    assert sources
    for source in sources:
        assert not source.startswith(("http", "/")), "also below a proxy's prefix"
        plain = client.get(f"{url}/{source}")
        assert plain.status_code == 200, source
        assert not re.search(r"""src[:=] ?["']https?:""", plain.text), source
        packed = client.get(f"{url}/{source}", headers={"accept-encoding": "gzip"})
        assert packed.content == plain.content
        kept = FILES.get(f"/{source}")
        assert ("content-encoding" in packed.headers) == (kept is not None and kept.name.endswith(".gz"))
    assert client.post(url + page).status_code == 405
    assert client.head(url + page).status_code == 200


@pytest.fixture(scope="module")
def named(office: Office) -> dict[str, str]:
    """What a path may name that is really there."""
    office.ops.done("POST", "/teams", {"team": "fuzzed"})
    key = office.ops.done("POST", "/keys", {"user": "fuzzed"})["id"]
    return {**dict.fromkeys(PARAMS, "fuzzed"), "key": key, "request": "1"}


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_the_server_does_what_the_document_says(
    office: Office, named: dict[str, str], method: str, path: str, mode: GenerationMode
) -> None:
    """Right calls name what is there, so that they go through; wrong ones name anything."""
    document = openapi(ROUTES)
    del document["security"]  # who may do what is a test of its own
    headers = {"authorization": f"Bearer {office.ops.key}"}
    right = mode is GenerationMode.POSITIVE
    if not right and (method, path) in NOTHING_TO_SAY:
        return
    checks = CHECKS if right else [*CHECKS, negative_data_rejection]

    @BOUNDED
    @hypothesis.given(schemathesis.openapi.from_dict(document)[path][method].as_strategy(generation_mode=mode))
    def attempt(case: schemathesis.Case[Any]) -> None:
        if right:
            case.path_parameters = {name: named[name] for name in case.path_parameters}
        case.validate_response(case.call(base_url=office.served.url, headers=headers), checks=checks)

    attempt()
