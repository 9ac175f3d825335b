"""The errors and the one table that says how each looks from outside."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llmgate.errors import (
    CODES,
    NO_RETRY,
    ConfigError,
    Failure,
    LlmgateError,
    ProblemsFound,
    Refusal,
    StorageError,
    UpstreamFailure,
    UsageError,
    Verdict,
)

# code: (HTTP status, exit code). Clients and scripts rely on it: a change here is a change for them.
TABLE: dict[str, tuple[int, int]] = {
    "invalid_request": (400, 1),
    "missing_key": (401, 1),
    "invalid_key": (401, 1),
    "key_expired": (401, 1),
    "key_disabled": (401, 1),
    "key_revoked": (401, 1),
    "signed_out": (401, 1),
    "insufficient_credits": (402, 1),
    "budget_exceeded": (402, 1),
    "model_not_allowed": (403, 1),
    "ip_not_allowed": (403, 1),
    "scope_not_allowed": (403, 1),
    "page_not_allowed": (403, 1),
    "form_refused": (403, 1),
    "model_not_priced": (403, 1),
    "user_disabled": (403, 1),
    "sign_in_refused": (403, 1),
    "plan_not_found": (403, 1),
    "model_not_found": (404, 1),
    "not_found": (404, 1),
    "method_not_allowed": (405, 1),
    "request_timeout": (408, 1),
    "conflict": (409, 1),
    "link_over": (410, 1),
    "precondition_failed": (412, 1),
    "request_too_large": (413, 1),
    "unsupported_encoding": (415, 1),
    "precondition_required": (428, 1),
    "rate_limited": (429, 1),
    "credits_held": (429, 1),
    "upstream_error": (502, 1),
    "upstream_auth": (502, 1),
    "upstream_unavailable": (503, 1),
    "upstream_timeout": (504, 1),
    "internal_error": (500, 1),
    "file_error": (500, 1),
    "storage_busy": (503, 4),
    "storage_error": (503, 4),
    "config_error": (500, 1),
    "usage_error": (400, 2),
    "problems_found": (500, 3),
}


def family(base: type[LlmgateError]) -> Iterator[type[LlmgateError]]:
    yield base
    for child in base.__subclasses__():
        yield from family(child)


def test_the_table() -> None:
    assert {code: tuple(verdict) for code, verdict in CODES.items()} == TABLE


def test_every_class_has_a_code_of_the_table() -> None:
    assert [error.__name__ for error in family(LlmgateError) if error.code not in CODES] == []


@pytest.mark.parametrize("code", CODES)
def test_an_error_looks_as_its_code_says(code: str) -> None:
    error = LlmgateError("Nothing works.", code=code)
    assert Verdict(error.http_status, error.exit_code) == CODES[code]


@pytest.mark.parametrize(
    ("error", "code", "http", "exit_code"),
    [
        (LlmgateError, "internal_error", 500, 1),
        (Refusal, "invalid_request", 400, 1),
        (UpstreamFailure, "upstream_error", 502, 1),
        (Failure, "internal_error", 500, 1),
        (UsageError, "usage_error", 400, 2),
        (ConfigError, "config_error", 500, 1),
        (ProblemsFound, "problems_found", 500, 3),
        (StorageError, "storage_error", 503, 4),
    ],
)
def test_what_a_class_means_unless_told_otherwise(
    error: type[LlmgateError], code: str, http: int, exit_code: int
) -> None:
    raised = error("Nothing works.")
    assert (raised.code, raised.http_status, raised.exit_code) == (code, http, exit_code)
    assert (raised.message, raised.param, raised.headers) == ("Nothing works.", None, ())
    assert str(raised) == "Nothing works."


def test_whose_fault_it_is_tells_the_statuses_apart() -> None:
    for child in (Refusal, UpstreamFailure, Failure):
        assert child.__base__ is LlmgateError
    for child in (UsageError, ConfigError, ProblemsFound, StorageError):
        assert child.__base__ is Failure


def test_one_error_may_be_more_exact_than_its_class() -> None:
    error = Refusal("No credits left.", code="insufficient_credits", param="model", headers=NO_RETRY)
    assert (error.code, error.http_status, error.param) == ("insufficient_credits", 402, "model")
    assert error.headers == (("x-should-retry", "false"),)
    assert Refusal.code == "invalid_request"


def test_an_upstream_failure_knows_whether_the_upstream_was_reached() -> None:
    assert not UpstreamFailure("It is away.").reached
    error = UpstreamFailure("It broke off.", code="upstream_timeout", headers=NO_RETRY, reached=True)
    assert (error.reached, error.code, error.headers, error.param) == (True, "upstream_timeout", NO_RETRY, None)


def test_a_code_outside_the_table_is_a_mistake_that_shows() -> None:
    with pytest.raises(KeyError, match="no_such_code"):
        _ = LlmgateError("Nothing works.", code="no_such_code").http_status
