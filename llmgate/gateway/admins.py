"""Who uses the admin API, or reads the metrics: an admin key, known at every request, and not guessed."""

from __future__ import annotations

import hmac
import math
import time
from collections import OrderedDict

from ..errors import Refusal
from ..store import admins
from ..store.admins import Admin, Scope
from ..store.keys import hash_key, well_formed
from ..store.requests import subscriber
from .http import Scope as Request
from .http import header
from .pipeline import Gateway

MOST_WRONG = 10
"""Wrong admin keys from one address within `FORGET_S`; then it is asked to wait, also with the right one."""

FORGET_S = 60.0

MOST_ADDRESSES = 4096
"""How many addresses are remembered: past that the one that was quiet for longest is forgotten."""


class Attempts:
    """How often an address has sent something wrong lately. Known to one process alone. Times are in seconds."""

    def __init__(self, what: str = "wrong keys") -> None:
        self._what = what
        self._wrong: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def check(self, address: str, now: float) -> None:
        """Raises Refusal 429 for an address that has tried too often."""
        count, since = self._wrong.get(subscriber(address), (0, now))
        left = since + FORGET_S - now
        if count >= MOST_WRONG and left > 0:
            raise Refusal(
                f"too many {self._what} from your address: wait a minute",
                code="rate_limited",
                headers=(("retry-after", str(max(math.ceil(left), 1))),),
            )

    def wrong(self, address: str, now: float) -> None:
        network = subscriber(address)
        count, since = self._wrong.pop(network, (0, now))
        self._wrong[network] = (count + 1, since) if now < since + FORGET_S else (1, now)
        if len(self._wrong) > MOST_ADDRESSES:
            self._wrong.popitem(last=False)


class Door:
    """Lets admins in."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._attempts = Attempts()

    def admin(self, request: Request) -> tuple[Admin, str]:
        """Who asks, as things stand now, and the key. Raises Refusal 401, or 429 for one who guesses."""
        key = _presented(request)
        if key is None:
            raise Refusal(self._without_key(), code="missing_key")
        address, now = self._gateway.address_of(request), time.monotonic()
        self._attempts.check(address, now)
        try:
            return self.known(key), key
        except Refusal:
            self._attempts.wrong(address, now)
            raise

    def known(self, key: str) -> Admin:
        """Whose admin key this is, as things stand now. Raises Refusal 401."""
        token = self._gateway.config.admin_token
        if token is not None and hmac.compare_digest(hash_key(key), hash_key(token.reveal())):
            return Admin(admins.ENV, Scope.ALL)
        if not well_formed(key, admins.PREFIX):
            raise Refusal(
                f"this is no admin key of this gateway: they begin with {admins.PREFIX}, and `llmgate admins add NAME` "
                "makes one",
                code="invalid_key",
            )
        key_hash = hash_key(key)
        found = self._gateway.look(lambda tx: admins.authenticate(tx, key_hash))
        self._gateway.note_admin(found)
        return found

    def _without_key(self) -> str:
        text = "no admin key: send one as `Authorization: Bearer sk-lg-admin-…` or `X-Admin-Token`"
        if self._gateway.config.admin_token is None and not self._gateway.look(admins.list_admins):
            return f"{text}; there is none yet, `llmgate admins add NAME` makes one"
        return f"{text}; `llmgate admins add NAME` makes one"


def _presented(request: Request) -> str | None:
    """The admin key that a request carries. Raises Refusal where it carries two."""
    found = {text.strip() for text in (_bearer(request), _told(request, b"x-admin-token")) if text and text.strip()}
    if len(found) > 1:
        raise Refusal("two different admin keys in one request: send one", code="invalid_key")
    return found.pop() if found else None


def _bearer(request: Request) -> str | None:
    scheme, _, text = (_told(request, b"authorization") or "").partition(" ")
    return text if scheme.lower() == "bearer" else None


def _told(request: Request, name: bytes) -> str | None:
    value = header(request["headers"], name)
    return value.decode("latin-1") if value is not None else None
