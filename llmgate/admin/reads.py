"""What the admin API tells. Each docstring's first line is what the OpenAPI document says of it."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from .. import catalogue, clock, routing
from ..clock import day_of
from ..errors import Refusal
from ..limits import Limit
from ..money import MAX_NANO, usd
from ..names import quoted
from ..store import accounts, audit, events, keys, ledger, limits, monitor, prices, reports, requests, usage
from ..store.db import Row, Tx
from . import answers, bodies
from .answers import Page
from .calls import Call
from .paging import after, page, sliced

TOP = 10
"""Users that the monitor names."""

RECENT = 20
"""Requests that the monitor shows."""


Number = Annotated[int, msgspec.Meta(ge=0, le=MAX_NANO)]
"""Of a row, as a cursor names it: one that SQLite can compare with."""


def me(_: Tx, call: Call) -> answers.Me:
    """Whose admin key this is."""
    return answers.me(call.admin)


# ── users, teams, keys ────────────────────────────────────────────────────────────────────────────────────────────────


def users(tx: Tx, call: Call) -> Page[answers.User]:
    """List users by name, with the account that pays for each."""
    team = call.query.team
    if team is not None:
        accounts.team_row(tx, team)
    sought = (call.query.search or "").lower()
    rows = [
        row
        for row in accounts.list_users(tx)
        if team in (None, row["team"]) and sought in f"{row['name']} {row['email'] or ''}".lower()
    ]
    return sliced(call.query, rows, lambda row: answers.User(**answers.user(row)), lambda row: [row["name"]])


def user(tx: Tx, call: Call) -> answers.UserDetails:
    """Show a user, what the account that pays has left, and the user's keys."""
    name = call.params["user"]
    row = accounts.user_row(tx, name)
    return answers.UserDetails(
        **answers.user(row),
        **_left(tx, row["payer_id"]),
        keys=[f"{name}/{one['name']}" for one in keys.list_keys(tx, user=name)],
    )


def _left(tx: Tx, account_id: int) -> dict[str, Any]:
    return {
        "balance_usd": usd(ledger.balance(tx, account_id)),
        "available_usd": usd(ledger.available(tx, account_id)),
    }


def teams(tx: Tx, call: Call) -> Page[answers.Team]:
    """List teams by name."""
    rows = accounts.list_teams(tx)
    return sliced(
        call.query, rows, lambda row: answers.Team(**answers.team(row, row["members"])), lambda row: [row["name"]]
    )


def team(tx: Tx, call: Call) -> answers.TeamDetails:
    """Show a team, what its account has left, and its users."""
    name = call.params["team"]
    row = accounts.team_row(tx, name)
    members = [one["name"] for one in accounts.list_users(tx) if one["team"] == name]
    return answers.TeamDetails(**answers.team(row, len(members)), **_left(tx, row["account_id"]), users=members)


def key_list(tx: Tx, call: Call) -> Page[answers.Key]:
    """List keys, oldest first. The keys themselves are not known."""
    rows = keys.list_keys(tx, user=call.query.user, dead=call.query.all)
    return sliced(
        call.query,
        rows,
        lambda row: answers.Key(**answers.key(row)),
        lambda row: [f"{row['created_ms']:015}", row["id"]],
    )


def key(tx: Tx, call: Call) -> answers.Key:
    """Show all that is known of a key."""
    return answers.Key(**answers.key(keys.key_row(tx, call.params["key"])))


def request_list(tx: Tx, call: Call) -> Page[answers.KeyRequest]:
    """List requests for keys that wait for a decision, oldest first."""
    rows = requests.list_requests(tx, decided=call.query.all)
    return sliced(call.query, rows, answers.key_request, lambda row: [f"{row['id']:019}"])


# ── money ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def balance(tx: Tx, call: Call) -> Page[answers.Account]:
    """List every account: its balance, what requests in flight hold of it, what is left, whom it pays for."""
    rows = ledger.list_accounts(tx)
    return sliced(call.query, rows, answers.account, lambda row: [row["kind"], row["name"]])


def entries(tx: Tx, call: Call) -> Page[answers.Entry]:
    """List the ledger entries of an account, newest first, each with the balance after it."""
    account_id, _ = accounts.account_of(tx, call.params["account"])
    left = {lot.entry_id: lot.left_nano for lot in ledger.lots(tx, account_id)}
    before = after(call.query, Number)
    rows = [row for row in reversed(ledger.history(tx, account_id)) if before is None or row["id"] < before]
    return page(call.query, rows, lambda row: answers.entry(row, left), lambda row: row["id"])


# ── what holds ────────────────────────────────────────────────────────────────────────────────────────────────────────


def limit_list(tx: Tx, call: Call) -> Page[answers.Limit]:
    """List the limits of everybody, with what is used of them, held by requests in flight, and left."""
    found = limits.listing(tx, call.policy)
    return sliced(call.query, found, answers.limit, lambda one: [one.target, str(one.standing.limit)])


def limits_of(tx: Tx, call: Call) -> answers.Limits:
    """List the limits of a target: USER, user:U, team:T or key:ID."""
    subject, name = limits.subject_of(tx, call.params["target"])
    found = limits.listing(tx, call.policy, call.params["target"])
    own: list[Limit] = limits.own_of(tx, subject)
    return answers.Limits(target=name, limits=[answers.limit(one) for one in found], own=[str(one) for one in own])


def plans(tx: Tx, call: Call) -> Page[answers.Plan]:
    """List the plans of the config, and how many users have them."""
    having = accounts.on_plans(tx)
    found = list(call.policy.plans.values())
    return sliced(call.query, found, lambda one: answers.plan(one, having[one.name]), lambda one: [one.name])


def models(tx: Tx, call: Call) -> Page[answers.Model]:
    """List the models that can be asked for, and the paths of the config, with what they are charged."""
    book = prices.in_force(tx)
    catalogue.use(book.edition, book.catalogue)
    today = day_of(tx.now_ms, clock.zone("UTC"))  # list prices change at midnight UTC, whatever the zone of the book
    sought = (call.query.search or "").lower()
    lines = routing.listing(call.config, call.upstreams, today, book=book)
    everything = [
        *(answers.model(line) for line in lines),
        *(answers.path(name, table) for name, table in call.config.routes.items()),
    ]
    found = [one for one in everything if sought in f"{one.model} {one.upstream}".lower()]
    return sliced(call.query, found, lambda one: one, lambda one: [one.model, one.upstream])


def upstreams(tx: Tx, call: Call) -> Page[answers.UpstreamState]:
    """List the upstreams of the config, and how they do. No secret is told."""
    recent = monitor.lately(tx)
    return sliced(
        call.query,
        list(call.upstreams.values()),
        lambda one: answers.upstream(one, call.resting, recent),
        lambda one: [one.name],
    )


# ── what was used, and what happened ──────────────────────────────────────────────────────────────────────────────────


def usage_rows(tx: Tx, call: Call) -> Page[answers.Usage]:
    """List requests that reached an upstream, newest first."""
    return _usage(tx, call.query, _filters(tx, call.query))


def usage_of(tx: Tx, call: Call) -> Page[answers.Usage]:
    """List the requests of a user, or of a key by its id, newest first."""
    whose = call.params["whose"]
    if accounts.find_user(tx, whose):
        return _usage(tx, call.query, {"user": whose})
    try:
        key = keys.key_row(tx, whose)
    except Refusal as error:
        raise Refusal(f"there is no user and no key {quoted(whose)}", code=error.code) from error
    return _usage(tx, call.query, {"key": key["id"]})


def _usage(tx: Tx, query: Any, filters: dict[str, Any]) -> Page[answers.Usage]:
    span = _span(tx, query.since, query.until, precise=True)
    filters = filters | {"status": query.status, "since_ms": span[0], "until_ms": span[1]}
    rows = usage.latest(tx, filters, query.limit + 1, after(query, tuple[Number, Number]))
    return page(query, rows, answers.usage, lambda row: (row["time_ms"], row["id"]))


def _filters(tx: Tx, query: Any) -> dict[str, Any]:
    """As the store takes them. Raises Refusal for a user, team or key that there isn't: that is a typo."""
    if query.user is not None:
        accounts.user_row(tx, query.user)
    if query.team is not None:
        accounts.team_row(tx, query.team)
    for pair in query.tag:
        if not pair.partition("=")[1]:
            raise Refusal(f"{pair!r} is no tag: write NAME=VALUE", param="tag")
    names = ("user", "team", "model", "upstream", "plan")
    return {
        **{name: getattr(query, name) for name in names},
        "key": keys.key_row(tx, query.key)["id"] if query.key is not None else None,
        "tag": msgspec.json.encode(query.tag).decode() if query.tag else None,
    }


def _span(tx: Tx, since: str | None, until: str | None, *, precise: bool) -> tuple[int | None, int | None]:
    since_ms = clock.since_ms(since, tx.now_ms, tx.zone, precise=precise) if since is not None else None
    until_ms = clock.until_ms(until, tx.now_ms, tx.zone, precise=precise) if until is not None else None
    if since_ms is not None and until_ms is not None and since_ms >= until_ms:
        raise Refusal(f"since {since} is not before until {until}: there is nothing in between", param="since")
    return since_ms, until_ms


def report(tx: Tx, call: Call) -> answers.Report:
    """Sum up what was used and what it cost, by groups; those of time in their order, others dearest first."""
    query: bodies.ReportOf = call.query
    by = list(dict.fromkeys(word for text in query.by for word in text.replace(",", " ").split())) or ["user"]
    for name in by:
        if name not in reports.GROUPS:
            raise Refusal(f"there is no grouping {name!r}: use {', '.join(reports.GROUPS)}", param="by")
    since_ms, until_ms = _span(tx, query.since, query.until, precise=False)
    assert since_ms is not None
    days = {
        "since": day_of(since_ms, tx.zone),
        "until": day_of(until_ms - 1 if until_ms is not None else tx.now_ms, tx.zone),
    }
    whose = _filters(tx, query)
    return answers.Report(
        **days,
        rows=[answers.group(by, row) for row in reports.report(tx, by, whose | days)],
        total=answers.Sums(**answers.sums(reports.report(tx, (), whose | days)[0])),
        pruned=reports.pruned(tx, whose | days) if reports.of_rows(by, whose) else 0,
    )


def event_list(tx: Tx, call: Call) -> Page[answers.Event]:
    """List what happened that is worth telling, newest first."""
    before = after(call.query, Number)
    found = events.since(tx, clock.since_ms(call.query.since, tx.now_ms, tx.zone))
    rows = [row for row in reversed(found) if before is None or row["id"] < before]
    return page(call.query, rows, answers.event, lambda row: row["id"])


def acts(tx: Tx, call: Call) -> Page[answers.Act]:
    """List who changed what, newest first."""
    since_ms = clock.since_ms(call.query.since, tx.now_ms, tx.zone)
    rows = audit.latest(tx, since_ms, call.query.limit + 1, after(call.query, Number))
    return page(call.query, rows, answers.act, lambda row: row["id"])


def overview(tx: Tx, call: Call) -> answers.Monitor:
    """Show what is going on: users, today's use, the latest requests, what is in flight, how upstreams do."""
    today = {"since": day_of(tx.now_ms, tx.zone)}
    people, flight, recent = monitor.users(tx), monitor.in_flight(tx), monitor.lately(tx)
    top: list[Row] = reports.report(tx, ("user",), today)[:TOP]
    return answers.Monitor(
        users=answers.People(total=people["total"], active_today=people["active"]),
        today=answers.Sums(**answers.sums(reports.report(tx, (), today)[0])),
        top_users=[answers.Top(user=row["user"], **answers.sums(row)) for row in top],
        recent=[answers.usage(row) for row in usage.latest(tx, {}, RECENT)],
        in_flight=answers.Flight(requests=flight["requests"], held_usd=usd(flight["held_nano"])),
        upstreams=[answers.upstream(one, call.resting, recent) for one in call.upstreams.values()],
    )
