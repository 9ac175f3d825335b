"""Every page: the one table that the server and the tests go by. A page without a row isn't there."""

from __future__ import annotations

from ..admin import bodies
from ..store.admins import Scope
from . import home, oidc, reports, request_key, signing_in, summing
from .console import keys, money, people, requests, watching
from .portal import keys as own_keys
from .portal import overview, sums, team
from .portal import requests as own_requests
from .visits import Page, Who

READ, KEYS, CREDITS = Scope.READ, Scope.KEYS, Scope.CREDITS

ADMIN = "/admin/pages"
USER, TEAM, KEY = f"{ADMIN}/users/{{user}}", f"{ADMIN}/teams/{{team}}", f"{ADMIN}/keys/{{key}}"
OWN_KEY, MEMBER = "/portal/keys/{key}", "/portal/team/members/{member}"
ACCOUNT, LIMITS = f"{ADMIN}/credits/{{account}}", f"{ADMIN}/limits/{{target}}"

PAGES: tuple[Page, ...] = (
    Page("GET", "/", Who.EVERYBODY, home.show),
    Page("GET", "/request-key", Who.EVERYBODY, request_key.show, query=request_key.Which),
    Page("POST", "/request-key", Who.EVERYBODY, request_key.ask, form=request_key.AskForm, again=request_key.show),
    Page("POST", "/request-key/fetch", Who.EVERYBODY, request_key.fetch, form=request_key.FetchForm),
    Page("POST", "/request-key/forget", Who.EVERYBODY, request_key.forget),
    # signing in and out
    Page("GET", "/sign-in", Who.EVERYBODY, signing_in.show, query=signing_in.Next),
    Page("POST", "/sign-in", Who.EVERYBODY, signing_in.by_key, form=signing_in.KeyForm, again=signing_in.show),
    Page("GET", "/sign-in/link", Who.EVERYBODY, signing_in.show_link, query=signing_in.Token),
    Page("POST", "/sign-in/link", Who.EVERYBODY, signing_in.by_link, form=signing_in.Token),
    Page("GET", "/sign-in/{provider}", Who.EVERYBODY, oidc.leave, query=signing_in.Next),
    Page("GET", "/sign-in/{provider}/callback", Who.EVERYBODY, oidc.come_back, query=oidc.Back),
    Page("GET", "/sign-out", Who.SIGNED_IN, signing_in.show_sessions),
    Page("POST", "/sign-out", Who.SIGNED_IN, signing_in.out),
    Page("POST", "/sign-out/everywhere", Who.SIGNED_IN, signing_in.out_everywhere),
    # admins'
    Page("GET", "/admin", READ, watching.overview, menu="Overview", wide=True),
    Page("GET", "/reports", READ, reports.show, query=summing.Query, menu="Reports", wide=True),
    Page("GET", "/reports/data", READ, reports.data, query=reports.DataQuery),
    Page("GET", f"{ADMIN}/users", READ, people.users, query=bodies.UsersOf, menu="Users", wide=True),
    Page(
        *("POST", f"{ADMIN}/users", KEYS, people.add_user),
        form=bodies.NewUser,
        query=bodies.UsersOf,
        again=people.users,
        wide=True,
    ),
    Page("GET", USER, READ, people.user, overdue=True, wide=True),
    Page("POST", USER, KEYS, people.set_user, form=people.UserForm, again=people.user, wide=True),
    Page("POST", f"{USER}/disable", KEYS, people.disable_user),
    Page("POST", f"{USER}/enable", KEYS, people.enable_user),
    Page("POST", f"{USER}/link", KEYS, people.link),
    Page("POST", f"{USER}/sign-out", KEYS, people.sign_out),
    Page("POST", f"{USER}/forget", KEYS, people.forget),
    Page("GET", f"{ADMIN}/teams", READ, people.teams, query=bodies.Paged, menu="Teams", wide=True),
    Page(
        *("POST", f"{ADMIN}/teams", KEYS, people.add_team),
        form=bodies.NewTeam,
        query=bodies.Paged,
        again=people.teams,
        wide=True,
    ),
    Page("GET", TEAM, READ, people.team, overdue=True, wide=True),
    Page("POST", TEAM, KEYS, people.set_team, form=people.TeamForm, again=people.team, wide=True),
    Page("GET", f"{ADMIN}/keys", READ, keys.listing, query=bodies.KeysOf, menu="Keys", wide=True),
    Page(
        *("POST", f"{ADMIN}/keys", KEYS, keys.add),
        form=keys.NewKeyForm,
        query=bodies.KeysOf,
        again=keys.listing,
        wide=True,
    ),
    Page("GET", KEY, READ, keys.show, wide=True),
    Page("POST", KEY, KEYS, keys.change, form=keys.KeyForm, again=keys.show, wide=True),
    Page("POST", f"{KEY}/rotate", KEYS, keys.rotate, form=keys.RotationForm, again=keys.show, wide=True),
    Page("POST", f"{KEY}/revoke", KEYS, keys.revoke),
    Page("POST", f"{KEY}/disable", KEYS, keys.disable),
    Page("POST", f"{KEY}/enable", KEYS, keys.enable),
    Page("GET", f"{ADMIN}/credits", READ, money.credits, query=bodies.Paged, menu="Credits", overdue=True, wide=True),
    Page("GET", ACCOUNT, READ, money.account, query=bodies.Paged, overdue=True, wide=True),
    Page(
        *("POST", ACCOUNT, CREDITS, money.add_credits),
        form=money.CreditsForm,
        query=bodies.Paged,
        again=money.account,
        wide=True,
    ),
    Page("GET", f"{ADMIN}/limits", READ, money.limits, query=money.Target, menu="Limits", wide=True),
    Page("GET", LIMITS, READ, money.limits_of, wide=True),
    Page("POST", LIMITS, KEYS, money.put_limits, form=money.LimitsForm, again=money.limits_of, wide=True),
    Page("GET", f"{ADMIN}/requests", READ, requests.listing, query=bodies.RequestsOf, menu="Requests", wide=True),
    Page(
        *("POST", f"{ADMIN}/requests/{{request}}/approve", KEYS, requests.approve),
        form=bodies.Approval,
        query=bodies.RequestsOf,
        again=requests.listing,
        wide=True,
    ),
    Page("POST", f"{ADMIN}/requests/{{request}}/deny", KEYS, requests.deny),
    Page("GET", f"{ADMIN}/usage", READ, watching.usage, query=bodies.UsageOf, menu="Usage", wide=True),
    Page("GET", f"{ADMIN}/models", READ, watching.models, query=bodies.Searched, menu="Models", wide=True),
    Page("GET", f"{ADMIN}/plans", READ, watching.plans, query=bodies.Paged, wide=True),
    Page("GET", f"{ADMIN}/events", READ, watching.events, query=bodies.Since, menu="Events", wide=True),
    Page("GET", f"{ADMIN}/audit", READ, watching.acts, query=bodies.Since, wide=True),
    # a user's own
    Page("GET", "/portal", Who.USER, overview.show, menu="Overview", overdue=True, wide=True),
    Page("GET", "/portal/keys", Who.USER, own_keys.listing, menu="Keys", wide=True),
    Page("POST", "/portal/keys", Who.USER, own_keys.add, form=own_keys.NewKey, again=own_keys.listing, wide=True),
    Page("GET", OWN_KEY, Who.USER, own_keys.show, wide=True),
    Page("POST", OWN_KEY, Who.USER, own_keys.rename, form=own_keys.NewName, again=own_keys.show, wide=True),
    Page(
        *("POST", f"{OWN_KEY}/rotate", Who.USER, own_keys.rotate),
        form=own_keys.Rotation,
        again=own_keys.show,
        wide=True,
    ),
    Page("POST", f"{OWN_KEY}/revoke", Who.USER, own_keys.revoke),
    Page("GET", "/portal/usage", Who.USER, own_requests.usage_page, query=sums.InMonth, menu="Usage", wide=True),
    Page("GET", "/portal/usage.csv", Who.USER, own_requests.download, query=own_requests.File),
    Page(
        *("GET", "/portal/requests", Who.USER, own_requests.listing),
        query=own_requests.Listed,
        menu="Requests",
        wide=True,
    ),
    # a team's, for its lead
    Page("GET", "/portal/team", Who.LEAD, team.show, query=sums.InMonth, menu="Team", overdue=True, wide=True),
    Page("GET", MEMBER, Who.LEAD, team.member, wide=True),
    Page("POST", f"{MEMBER}/keys", Who.LEAD, team.add_key, form=own_keys.NewKey, again=team.member, wide=True),
    Page("POST", f"{MEMBER}/keys/{{key}}/revoke", Who.LEAD, team.revoke_key),
    Page("POST", f"{MEMBER}/limits", Who.LEAD, team.add_limit, form=team.NewLimit, again=team.member, wide=True),
    Page(
        *("POST", f"{MEMBER}/limits/remove", Who.LEAD, team.remove_limit),
        form=team.NewLimit,
        again=team.member,
        wide=True,
    ),
)
