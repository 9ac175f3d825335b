"""Users, teams and the accounts that pay for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from ..errors import Refusal
from ..names import check_new, meant, quoted
from ..types import Billing
from . import audit
from .db import Row, Tx

PAYER = """
  CASE WHEN u.team_id IS NOT NULL AND ua.billing_source = 'default' THEN t.account_id ELSE u.account_id END
"""
"""SQL: which account pays for a user `u` (with its own account `ua`) of the team `t`: the user's own, if the user has
billing or credits of its own or no team; else the team's."""


def add_user(
    tx: Tx,
    name: str,
    *,
    team: str | None = None,
    plan: str | None = None,
    email: str | None = None,
    billing: Billing | None = None,
    default_billing: Billing = Billing.METERED,
) -> Row:
    """Make a user and its account. `billing` is what an admin says by hand; else `default_billing` holds."""
    check_new(name, "user")
    if find_user(tx, name):
        raise Refusal(f"user {name} exists already: see `llmgate users show {name}`", code="conflict")
    team_id = team_row(tx, team)["id"] if team else None
    account_id = _add_account(tx, "user", billing, default_billing)
    tx.execute(
        "INSERT INTO users (name, account_id, team_id, plan, email, created_ms) VALUES (?, ?, ?, ?, ?, ?)",
        (name, account_id, team_id, plan, email, tx.now_ms),
    )
    audit.record(tx, "users.add", name, after={"team": team, "plan": plan, "email": email, "billing": billing})
    return user_row(tx, name)


def add_team(
    tx: Tx,
    name: str,
    *,
    plan: str | None = None,
    billing: Billing | None = None,
    default_billing: Billing = Billing.METERED,
) -> Row:
    check_new(name, "team")
    if tx.one("SELECT 1 FROM teams WHERE name = ?", name):
        raise Refusal(f"team {name} exists already: see `llmgate teams show {name}`", code="conflict")
    account_id = _add_account(tx, "team", billing, default_billing)
    tx.execute(
        "INSERT INTO teams (name, account_id, plan, created_ms) VALUES (?, ?, ?, ?)",
        (name, account_id, plan, tx.now_ms),
    )
    audit.record(tx, "teams.add", name, after={"plan": plan, "billing": billing})
    return team_row(tx, name)


def _add_account(tx: Tx, kind: str, billing: Billing | None, default_billing: Billing) -> int:
    cursor = tx.execute(
        "INSERT INTO accounts (kind, billing, billing_source) VALUES (?, ?, ?)",
        (kind, billing or default_billing, "hand" if billing else "default"),
    )
    assert cursor.lastrowid is not None
    return cursor.lastrowid


_USER = f"""
SELECT u.*, t.name AS team, l.name AS leads, ua.billing AS own_billing, ua.billing_source, p.id AS payer_id,
       p.kind AS payer_kind, p.billing AS billing
FROM users u
JOIN accounts ua ON ua.id = u.account_id
LEFT JOIN teams t ON t.id = u.team_id
LEFT JOIN teams l ON l.id = u.leads_team_id
JOIN accounts p ON p.id = {PAYER}
"""


def find_user(tx: Tx, name: str) -> Row | None:
    return tx.one(_USER + " WHERE u.name = ?", name)


def user_row(tx: Tx, name: str) -> Row:
    """A user by name. Raises Refusal `not_found`, naming the nearest."""
    row = find_user(tx, name)
    if row is None:
        raise unknown(tx, "user", name, "users")
    return row


def team_row(tx: Tx, name: str) -> Row:
    row = tx.one(
        "SELECT t.*, a.billing, a.billing_source FROM teams t JOIN accounts a ON a.id = t.account_id WHERE t.name = ?",
        name,
    )
    if row is None:
        raise unknown(tx, "team", name, "teams")
    return row


def unknown(tx: Tx, what: str, name: str, table: str) -> Refusal:
    """There is no such thing; but perhaps one that is spelled nearly so."""
    known = [row[0] for row in tx.execute(f"SELECT name FROM {table}")]
    return Refusal(f"there is no {what} {quoted(name)}: {meant(name, known, f'llmgate {table}')}", code="not_found")


def list_users(tx: Tx) -> list[Row]:
    return tx.execute(_USER + " ORDER BY u.name").fetchall()


def list_teams(tx: Tx) -> list[Row]:
    return tx.execute(
        "SELECT t.*, a.billing, a.billing_source, (SELECT count(*) FROM users u WHERE u.team_id = t.id) AS members "
        "FROM teams t JOIN accounts a ON a.id = t.account_id ORDER BY t.name"
    ).fetchall()


DEFAULT = "default"
"""In place of a billing: the one that an account has as long as nobody says otherwise by hand."""


def set_user(tx: Tx, name: str, changes: dict[str, Any], *, default_billing: Billing = Billing.METERED) -> Row:
    """Change what is named in `changes`: team, leads, plan, email, billing, status. "" takes it away. Who leads a team
    need not be one of it.
    """
    before = user_row(tx, name)
    for field, value in changes.items():
        match field:
            case "team" | "leads":
                team_id = team_row(tx, value)["id"] if value else None
                column = {"team": "team_id", "leads": "leads_team_id"}[field]
                tx.execute(f"UPDATE users SET {column} = ? WHERE id = ?", (team_id, before["id"]))
            case "billing":
                _set_by_hand(tx, before["account_id"], value, default_billing)
            case "plan" | "email" | "status":
                tx.execute(f"UPDATE users SET {field} = ? WHERE id = ?", (value or None, before["id"]))
            case _:
                raise AssertionError(field)
    if changes.get("status") == "disabled":  # also where it is enabled again, nobody is signed in any more
        tx.execute("DELETE FROM sessions WHERE user_id = ?", (before["id"],))
    if changes.get("status") == "active":  # until then, who has one is told why it doesn't work
        tx.execute("DELETE FROM links WHERE user_id = ? AND used_ms IS NULL", (before["id"],))
    own = {"billing": "own_billing"}
    before_changes = {field: before[own.get(field, field)] for field in changes}
    audit.record(tx, "users.set", name, before=before_changes, after=changes)
    return user_row(tx, name)


def set_team(tx: Tx, name: str, changes: dict[str, Any], *, default_billing: Billing = Billing.METERED) -> Row:
    """Change what is named in `changes`: plan, billing."""
    before = team_row(tx, name)
    for field, value in changes.items():
        match field:
            case "billing":
                _set_by_hand(tx, before["account_id"], value, default_billing)
            case "plan":
                tx.execute("UPDATE teams SET plan = ? WHERE id = ?", (value or None, before["id"]))
            case _:
                raise AssertionError(field)
    audit.record(tx, "teams.set", name, before={field: before[field] for field in changes}, after=changes)
    return team_row(tx, name)


def _set_by_hand(tx: Tx, account_id: int, value: str, default_billing: Billing) -> None:
    """`DEFAULT` forgets what was said by hand. Credits that are left make the account prepaid then, as they do where
    nothing was ever said: else nobody could use them.
    """
    if value != DEFAULT:
        set_billing(tx, account_id, Billing(value), "hand")
    elif tx.value("SELECT balance_nano > 0 FROM accounts WHERE id = ?", account_id):
        set_billing(tx, account_id, Billing.PREPAID, "credits")
    else:
        set_billing(tx, account_id, default_billing, "default")


def set_billing(tx: Tx, account_id: int, billing: Billing, source: str) -> None:
    tx.execute("UPDATE accounts SET billing = ?, billing_source = ? WHERE id = ?", (billing, source, account_id))


def follow_plans(tx: Tx, billing: Mapping[str, Billing]) -> None:
    """Give the accounts of users and teams on a plan the billing that it says, unless it was set by hand or by credits.

    `billing` is by the plan's name; a plan that says nothing isn't in it.
    """
    for plan, wanted in billing.items():
        for table in ("users", "teams"):
            for row in tx.execute(
                f"SELECT o.name, a.id, a.billing FROM {table} o JOIN accounts a ON a.id = o.account_id "
                "WHERE o.plan = ? AND a.billing_source = 'default' AND a.billing <> ?",
                (plan, wanted),
            ).fetchall():
                set_billing(tx, row["id"], wanted, "default")
                audit.record(
                    tx, f"{table}.set", row["name"], before={"billing": row["billing"]}, after={"billing": wanted}
                )


def without_plan(tx: Tx, plans: Collection[str]) -> list[tuple[str, str]]:
    """Users and teams whose plan isn't among these: their full names, and the plan's."""
    sql = (
        "SELECT name, plan FROM users WHERE plan > '' UNION ALL SELECT 'team:' || name, plan FROM teams WHERE plan > ''"
    )
    return [(name, plan) for name, plan in tx.execute(f"{sql} ORDER BY 1") if plan not in plans]


def plan_at(tx: Tx, name: str, at_ms: int) -> str | None:
    """The plan that a user was on before a moment, as the last act says that names one; None: none, or none says so."""
    row = tx.one(
        "SELECT json_extract(after, '$.plan') FROM audit WHERE action IN ('users.add', 'users.set') AND target = ? "
        "AND time_ms < ? AND json_type(after, '$.plan') IS NOT NULL ORDER BY id DESC LIMIT 1",
        *(name, at_ms),
    )
    return row[0] or None if row else None


def on_plans(tx: Tx) -> Counter[str | None]:
    """How many users have each plan, be it their own or their team's."""
    sql = "SELECT coalesce(nullif(u.plan, ''), t.plan) FROM users u LEFT JOIN teams t ON t.id = u.team_id"
    return Counter(plan for (plan,) in tx.execute(sql))


def made_ms(tx: Tx, name: str) -> int:
    """When an account was made, by its full name."""
    row = team_row(tx, name.removeprefix("team:")) if name.startswith("team:") else user_row(tx, name)
    return int(row["created_ms"])


def money(tx: Tx, account_id: int) -> Row:
    """What an account has: `balance_nano`, of which `held_nano` is set aside for requests in flight."""
    row = tx.one("SELECT billing, balance_nano, held_nano FROM accounts WHERE id = ?", account_id)
    assert row is not None
    return row


def account_of(tx: Tx, target: str) -> tuple[int, str]:
    """The account that a command names: `alice`, or `team:research`. Returns its id and its full name."""
    if target.startswith("team:"):
        return team_row(tx, target.removeprefix("team:"))["account_id"], target
    name = target.removeprefix("user:")
    return user_row(tx, name)["account_id"], name
