"""What is known of those who say who somebody is: where they are, and how they are asked. Data only."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import msgspec

Manner = Literal["oidc", "github"]
"""OpenID Connect, where a signed token says who it is; or GitHub's OAuth, where its API does."""

GOOGLE = "https://accounts.google.com"
GITHUB = "https://github.com"


class Issuer(msgspec.Struct, frozen=True, kw_only=True):
    """One known issuer of identities."""

    label: str | None = None
    """What people call it. None: by the name of its table."""
    issuer: str | None = None
    """None: nobody but the admin knows it."""
    manner: Manner = "oidc"
    scopes: tuple[str, ...] = ("openid", "email", "profile")
    public: bool = False
    """Whether anybody at all can have an account there."""


UNKNOWN = Issuer()

ISSUERS: Mapping[str, Issuer] = MappingProxyType(
    {
        "google": Issuer(label="Google", issuer=GOOGLE, public=True),
        "github": Issuer(
            label="GitHub", issuer=GITHUB, manner="github", scopes=("read:user", "user:email"), public=True
        ),
        "gitlab": Issuer(label="GitLab", issuer="https://gitlab.com", public=True),
    }
)
"""By the name that a table has, or says. (Microsoft's depends on the tenant, so the admin writes it: the one for all
tenants together names no issuer that could be compared, and no address that it vouches for.)"""
