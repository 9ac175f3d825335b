"""What can go wrong, split by whose fault it is.

    LlmgateError
    ├── Refusal          the caller's: who they are, what they ask, what they can pay      HTTP 4xx
    ├── UpstreamFailure  the upstream's: unreachable, broken, late, or refusing our secret HTTP 5xx
    └── Failure          ours or the admin's: config, database, command line              exit 1-4
        ├── UsageError      a command typed wrongly                                       exit 2
        ├── ConfigError     llmgate.toml or the environment
        ├── ProblemsFound   a check did its work and found something                      exit 3
        └── StorageError    the database                                                  exit 4

Every error has a `code` out of one table, `CODES`, which says the HTTP status and the exit code. Nothing else in the
package decides either. The sentence in `message` names the thing and what to do about it, and never holds a key, a
secret or a path that a client should not see.
"""

from __future__ import annotations

import errno
from typing import NamedTuple


class Verdict(NamedTuple):
    """How an error looks from outside: its HTTP status, and the exit code of a command that dies of it."""

    http: int
    exit: int = 1


CODES: dict[str, Verdict] = {
    # the caller's
    "invalid_request": Verdict(400),
    "missing_key": Verdict(401),
    "invalid_key": Verdict(401),
    "key_expired": Verdict(401),
    "key_disabled": Verdict(401),
    "key_revoked": Verdict(401),
    "signed_out": Verdict(401),
    "insufficient_credits": Verdict(402),
    "budget_exceeded": Verdict(402),
    "model_not_allowed": Verdict(403),
    "ip_not_allowed": Verdict(403),
    "scope_not_allowed": Verdict(403),
    "page_not_allowed": Verdict(403),
    "form_refused": Verdict(403),
    "model_not_priced": Verdict(403),
    "user_disabled": Verdict(403),
    "sign_in_refused": Verdict(403),
    "plan_not_found": Verdict(403),
    "model_not_found": Verdict(404),
    "not_found": Verdict(404),
    "method_not_allowed": Verdict(405),
    "request_timeout": Verdict(408),
    "conflict": Verdict(409),
    "link_over": Verdict(410),
    "precondition_failed": Verdict(412),
    "request_too_large": Verdict(413),
    "unsupported_encoding": Verdict(415),
    "precondition_required": Verdict(428),
    "rate_limited": Verdict(429),
    "credits_held": Verdict(429),
    # the upstream's
    "upstream_error": Verdict(502),
    "upstream_auth": Verdict(502),
    "upstream_unavailable": Verdict(503),
    "upstream_timeout": Verdict(504),
    # ours, or the admin's
    "internal_error": Verdict(500),
    "file_error": Verdict(500),
    "storage_busy": Verdict(503, 4),
    "storage_error": Verdict(503, 4),
    "config_error": Verdict(500),
    "usage_error": Verdict(400, 2),
    "problems_found": Verdict(500, 3),
}


class LlmgateError(Exception):
    """The root. `message` is one sentence or two; `code` is a key of `CODES`.

    `headers` are what the HTTP answer adds (`Retry-After`, `x-should-retry`), `param` names the field at fault.
    """

    code = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.param = param
        self.headers = headers

    @property
    def http_status(self) -> int:
        return CODES[self.code].http

    @property
    def exit_code(self) -> int:
        return CODES[self.code].exit


class Refusal(LlmgateError):
    """The caller's fault, or at least the caller's to mend."""

    code = "invalid_request"


class UpstreamFailure(LlmgateError):
    """The upstream's fault.

    `reached` says whether the upstream may have begun to work for this request: only then is there usage to settle.
    """

    code = "upstream_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        headers: tuple[tuple[str, str], ...] = (),
        reached: bool = False,
    ) -> None:
        super().__init__(message, code=code, headers=headers)
        self.reached = reached


class Failure(LlmgateError):
    """Ours, or the admin's."""


class UsageError(Failure):
    code = "usage_error"


class ConfigError(Failure):
    code = "config_error"


class ProblemsFound(Failure):
    code = "problems_found"


class StorageError(Failure):
    code = "storage_error"


_REASONS = {
    errno.ENOENT: "there is no such file or folder",
    errno.EACCES: "this user may not",
    errno.EPERM: "this user may not",
    errno.EISDIR: "it is a folder",
    errno.ENOTDIR: "a part of its path is no folder",
    errno.EEXIST: "it exists already",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the disk is read-only",
    errno.EIO: "the disk or terminal is broken or gone",
    errno.EMFILE: "too many files are open",
    errno.ENFILE: "too many files are open",
    errno.EADDRINUSE: "another program listens there",
    errno.EADDRNOTAVAIL: "this machine has no such address",
}


def reason(error: Exception) -> str:
    """Why the system, or a decoder, couldn't: as a clause of a sentence of ours, without the file's name."""
    if isinstance(error, UnicodeError):
        return "it is no text in UTF-8"
    number = error.errno if isinstance(error, OSError) else None
    if number is not None and number < 0:  # a resolver's
        return "no address is known for that name"
    told = error.strerror if isinstance(error, OSError) else None
    return _REASONS.get(number or 0) or (told or str(error)).lower()


NO_RETRY = (("x-should-retry", "false"),)
"""Told to SDKs with an answer that a retry can't better (both the openai and the anthropic SDK obey it)."""
