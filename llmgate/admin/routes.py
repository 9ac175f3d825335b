"""Every route of the admin API: the one table that the server, the OpenAPI document and the tests go by."""

from __future__ import annotations

from ..store.admins import Scope
from . import answers, bodies, public, reads, writes
from .answers import Page
from .calls import Route

READ, KEYS, CREDITS = Scope.READ, Scope.KEYS, Scope.CREDITS

USER, TEAM, KEY = "/admin/users/{user}", "/admin/teams/{team}", "/admin/keys/{key}"
LIMITS = "/admin/limits/{target}"
REQUEST = "/admin/requests/{request}"

ROUTES: tuple[Route, ...] = (
    Route("GET", "/admin/me", READ, reads.me, answers.Me),
    # users, teams, keys
    Route("GET", "/admin/users", READ, reads.users, Page[answers.User], bodies.UsersOf),
    Route("POST", "/admin/users", KEYS, writes.add_user, answers.UserDetails, body=bodies.NewUser, status=201),
    Route("GET", USER, READ, reads.user, answers.UserDetails, overdue=True),
    Route("PATCH", USER, KEYS, writes.set_user, answers.UserDetails, body=bodies.UserChange, same=reads.user),
    Route("POST", f"{USER}/disable", KEYS, writes.disable_user, answers.UserDetails),
    Route("POST", f"{USER}/enable", KEYS, writes.enable_user, answers.UserDetails),
    Route("GET", "/admin/teams", READ, reads.teams, Page[answers.Team], bodies.Paged),
    Route("POST", "/admin/teams", KEYS, writes.add_team, answers.TeamDetails, body=bodies.NewTeam, status=201),
    Route("GET", TEAM, READ, reads.team, answers.TeamDetails, overdue=True),
    Route("PATCH", TEAM, KEYS, writes.set_team, answers.TeamDetails, body=bodies.TeamChange, same=reads.team),
    Route("GET", "/admin/keys", READ, reads.key_list, Page[answers.Key], bodies.KeysOf),
    Route("POST", "/admin/keys", KEYS, writes.add_key, answers.IssuedKey, body=bodies.NewKey, status=201),
    Route("GET", KEY, READ, reads.key, answers.Key),
    Route("PATCH", KEY, KEYS, writes.set_key, answers.Key, body=bodies.KeyChange, same=reads.key),
    Route("POST", f"{KEY}/revoke", KEYS, writes.revoke_key, answers.Key),
    Route("POST", f"{KEY}/rotate", KEYS, writes.rotate_key, answers.IssuedKey, body=bodies.Rotation),
    Route("POST", f"{KEY}/disable", KEYS, writes.disable_key, answers.Key),
    Route("POST", f"{KEY}/enable", KEYS, writes.enable_key, answers.Key),
    # who asks for a key
    Route("GET", "/admin/requests", READ, reads.request_list, Page[answers.KeyRequest], bodies.RequestsOf),
    Route("POST", f"{REQUEST}/approve", KEYS, writes.approve_request, answers.KeyRequest, body=bodies.Approval),
    Route("POST", f"{REQUEST}/deny", KEYS, writes.deny_request, answers.KeyRequest),
    Route("POST", "/public/keys", None, public.ask, answers.Asked, body=bodies.NewRequest, status=201, also=(202,)),
    Route("POST", "/public/keys/claim", None, public.claim, answers.Asked, body=bodies.Claim),
    Route("GET", "/public/keys/{username}", None, public.masked_keys, answers.PublicKeys),
    # money
    Route("GET", "/admin/balance", READ, reads.balance, Page[answers.Account], bodies.Paged, overdue=True),
    Route("POST", "/admin/credits", CREDITS, writes.add_credits, answers.Moved, body=bodies.NewCredits, status=201),
    Route("GET", "/admin/credits/{account}", READ, reads.entries, Page[answers.Entry], bodies.Paged, overdue=True),
    # what holds
    Route("GET", "/admin/limits", READ, reads.limit_list, Page[answers.Limit], bodies.Paged),
    Route("GET", LIMITS, READ, reads.limits_of, answers.Limits),
    Route(
        *("PUT", LIMITS, KEYS, writes.put_limits, answers.Limits),
        body=bodies.NewLimits,
        same=reads.limits_of,
        must_match=True,
    ),
    Route("DELETE", LIMITS, KEYS, writes.delete_limits, answers.Limits, same=reads.limits_of),
    Route("GET", "/admin/plans", READ, reads.plans, Page[answers.Plan], bodies.Paged),
    Route("GET", "/admin/models", READ, reads.models, Page[answers.Model], bodies.Searched),
    Route("GET", "/admin/upstreams", READ, reads.upstreams, Page[answers.UpstreamState], bodies.Paged),
    # what was used, and what happened
    Route("GET", "/admin/usage", READ, reads.usage_rows, Page[answers.Usage], bodies.UsageOf),
    Route("GET", "/admin/usage/{whose}", READ, reads.usage_of, Page[answers.Usage], bodies.UsageIn),
    Route("GET", "/admin/report", READ, reads.report, answers.Report, bodies.ReportOf),
    Route("GET", "/admin/events", READ, reads.event_list, Page[answers.Event], bodies.Since),
    Route("GET", "/admin/audit", READ, reads.acts, Page[answers.Act], bodies.Since),
    Route("GET", "/admin/monitor", READ, reads.overview, answers.Monitor),
)
