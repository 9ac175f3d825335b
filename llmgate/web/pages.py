"""Every page: the one table that the server and the tests go by. A page without a row isn't there."""

from __future__ import annotations

from . import home, oidc, portal, signing_in
from .visits import Page, Who

PAGES: tuple[Page, ...] = (
    Page("GET", "/", Who.EVERYBODY, home.show),
    # signing in and out
    Page("GET", "/sign-in", Who.EVERYBODY, signing_in.show, query=signing_in.Next),
    Page("POST", "/sign-in", Who.EVERYBODY, signing_in.by_key, form=signing_in.KeyForm, again=signing_in.show),
    Page("GET", "/sign-in/link", Who.EVERYBODY, signing_in.show_link, query=signing_in.Token),
    Page("POST", "/sign-in/link", Who.EVERYBODY, signing_in.by_link, form=signing_in.Token),
    Page("GET", "/sign-in/{provider}", Who.EVERYBODY, oidc.leave, query=signing_in.Next),
    Page("GET", "/sign-in/{provider}/callback", Who.EVERYBODY, oidc.come_back, query=oidc.Back),
    Page("POST", "/sign-out", Who.SIGNED_IN, signing_in.out),
    Page("POST", "/sign-out/everywhere", Who.SIGNED_IN, signing_in.out_everywhere),
    # a user's own
    Page("GET", "/portal", Who.USER, portal.show, menu="Overview", overdue=True),
)
