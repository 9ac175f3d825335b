"""What anybody may ask of self-service, if it is on. The first line of a docstring is what the OpenAPI document says.

What a stranger may learn. `GET /public/keys/{username}` takes no key, because self-service programs have none, so it
tells as little as it can. Of a name under which a key was asked for and made here: that it was, and for each such key
its first and last four characters and whether it works. The first are four of 43 random characters, the last are of the
checksum: more than 200 bits are left to guess. Nothing is told of when and from where, of notes, plans, money and
usage, or of keys that an admin made. A user who never asked here is answered as a name that nobody has; only where
self-service is open is it told that a name is taken, to who asks for it. An address that tries more than a few names
that aren't there, or are taken, has to wait.
"""

from __future__ import annotations

from ..store import requests
from ..store.db import Tx
from . import answers, bodies
from .calls import Call


def ask(tx: Tx, call: Call) -> answers.Asked:
    """Ask for a key: it is told at once where self-service is open, else it waits for an admin."""
    body: bodies.NewRequest = call.body
    service = call.config.self_service
    asked = requests.ask(tx, service, body.username, body.note, call.address, call.policy, call.default_billing)
    key = asked.issued.key if asked.issued is not None else None
    return answers.Asked(username=body.username, status="issued" if key else "waiting", key=key, secret=asked.secret)


def claim(tx: Tx, call: Call) -> answers.Asked:
    """Come back for a key that was asked for: it is told once, as soon as it was approved."""
    body: bodies.Claim = call.body
    row, issued = requests.take(tx, call.config.self_service, body.secret)
    status = "issued" if issued is not None else row["status"]
    return answers.Asked(
        username=row["username"], status=status, key=issued.key if issued is not None else None, secret=None
    )


def masked_keys(tx: Tx, call: Call) -> answers.PublicKeys:
    """Show the keys that were asked for under a name: the first and last four characters of each."""
    name = call.params["username"]
    found = requests.public_keys(tx, name)
    return answers.PublicKeys(username=name, keys=[answers.MaskedKey(key=one.key, status=one.status) for one in found])
