"""Requests for keys, and who leads a team, through the admin API."""

from __future__ import annotations

from typing import Any

from llmgate.config import SelfService
from llmgate.plans import NONE
from llmgate.store import requests
from llmgate.store.admins import Scope
from llmgate.types import Billing
from tests.served import error_of

from .conftest import Office


def asked(office: Office, name: str) -> tuple[int, str]:
    """A request that waits: its number and its secret."""
    with office.served.tx() as tx:
        service = SelfService(mode="approval", per_address="1000/day")
        done = requests.ask(tx, service, name, "thesis", "203.0.113.9", NONE, Billing.METERED)
    assert done.secret is not None
    office.served.secrets.append(done.secret)
    return done.row["id"], done.secret


def listed(office: Office, number: int, *, decided: bool = False) -> dict[str, Any] | None:
    rows = office.ops.told(f"/requests?limit=1000&all={str(decided).lower()}")["data"]
    return next((row for row in rows if row["id"] == number), None)


def test_a_request_is_approved_and_fetched(office: Office) -> None:
    number, secret = asked(office, "applicant")
    row = listed(office, number)
    assert row is not None
    assert (row["user"], row["existing"], row["status"], row["note"]) == ("applicant", False, "waiting", "thesis")
    done = office.of(Scope.KEYS).done("POST", f"/requests/{number}/approve")
    assert (done["status"], done["decided_by"], done["key"]) == ("approved", "admin:keys", None)
    headers = {"x-forwarded-for": "192.0.2.40"}  # from here others may have guessed, and have to wait
    claim = office.served.client.post(
        f"{office.served.url}/public/keys/claim", json={"secret": secret}, headers=headers
    )
    office.served.secrets.append(claim.json()["key"])
    assert claim.json()["status"] == "issued"
    assert listed(office, number) is None
    row = listed(office, number, decided=True)
    assert row is not None
    assert (row["status"], row["key"]) == ("done", "applicant/default")
    error_of(office.ops("POST", f"/requests/{number}/deny"), 409, "conflict")


def test_a_key_of_somebody_else_takes_a_word_more(office: Office) -> None:
    number, _ = asked(office, office.alice.name)
    error_of(office.ops("POST", f"/requests/{number}/approve"), 409, "conflict")
    error_of(office.ops("POST", f"/requests/{number}/approve", {"existing": "yes"}), 400, "invalid_request")
    assert office.ops.done("POST", f"/requests/{number}/approve", {"existing": True})["status"] == "approved"
    assert office.ops.done("POST", f"/requests/{number}/deny")["status"] == "denied"


def test_requests_that_are_not_there(office: Office) -> None:
    for number in ("0", "999999", "x", "-1", "9" * 30, "1.0"):
        error_of(office.ops("POST", f"/requests/{number}/approve"), 404, "not_found")


def test_who_leads_a_team(office: Office) -> None:
    office.ops.done("POST", "/teams", {"team": "led"})
    made = office.ops.done("POST", "/users", {"user": "leader"})
    assert made["leads"] is None
    before = office.ops("GET", "/users/leader").headers["etag"]
    assert office.ops.done("PATCH", "/users/leader", {"leads": "led"})["leads"] == "led"
    stale = office.ops("PATCH", "/users/leader", {"leads": None}, if_match=before)
    error_of(stale, 412, "precondition_failed")
    error_of(office.ops("PATCH", "/users/leader", {"leads": "nowhere"}), 404, "not_found")
    assert office.ops.done("PATCH", "/users/leader", {"leads": None})["leads"] is None
