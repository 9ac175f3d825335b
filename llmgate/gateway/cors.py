"""Cross-origin requests (CORS, as the Fetch standard has it): browsers ask whether a page may call us.

Keys travel in headers that the page sets itself, never as cookies, so credentials are never allowed.
"""

from __future__ import annotations

from collections.abc import Sequence

from .http import Scope, Send, header
from .upstream import Headers

METHODS = b"GET, POST, PUT, PATCH, DELETE, OPTIONS"
SHOWN = b"*"
"""Every header of an answer may be read: limits, charges, the request's id."""

A_DAY_S = b"86400"


def allowed(origins: Sequence[str], scope: Scope) -> Headers:
    """What an answer tells a browser; nothing where no page of this origin may call."""
    origin = header(scope["headers"], b"origin")
    if origin is None or not ("*" in origins or origin.decode("latin-1") in origins):
        return []
    return [
        (b"access-control-allow-origin", origin),
        (b"access-control-expose-headers", SHOWN),
        (b"vary", b"origin"),
    ]


def is_preflight(scope: Scope) -> bool:
    """The question whether a request may be sent, ahead of the request."""
    return scope["method"] == "OPTIONS" and header(scope["headers"], b"access-control-request-method") is not None


def preflight(scope: Scope, told: Headers) -> Headers:
    wanted = header(scope["headers"], b"access-control-request-headers")
    asked = [(b"access-control-allow-headers", wanted)] if wanted else []
    return [*told, (b"access-control-allow-methods", METHODS), *asked, (b"access-control-max-age", A_DAY_S)]


def telling(send: Send, told: Headers) -> Send:
    """A `send` that adds them to the head of the answer."""

    async def send_on(message: dict[str, object]) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], *told]}  # type: ignore[misc]
        await send(message)

    return send_on  # type: ignore[return-value]
