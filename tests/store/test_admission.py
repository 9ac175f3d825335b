"""Whether a request may be served: how things stand, what it claims, and what it is granted or refused with."""

from __future__ import annotations

import random
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgate.errors import Refusal
from llmgate.limits import Unit, Window, parse, span
from llmgate.plans import Plan
from llmgate.pricing import FREE, Price, dearest
from llmgate.quoting import amount_at, quote
from llmgate.store.admission import HELD_RETRY_S, JITTER_S, Claim, Grant, admit
from llmgate.store.keys import Caller
from llmgate.store.limits import Amounts, Standing
from llmgate.store.prices import Snapshot
from llmgate.types import Ask, CostSource

from ..books import PRICE
from .test_limits import NOON

ZONE = ZoneInfo("UTC")

NOW = NOON + 29 * 60_000 + 59_250
"""12:29:59.250 on a Wednesday: 750 ms before a minute ends, and half an hour before an hour does."""


def claim(
    *,
    bound: int = 100,
    estimate: int = 40,
    output: int = 50,
    least: int = 1,
    choices: int = 1,
    price: Price = PRICE,
    names: tuple[str, ...] = ("gpt", "openai/gpt"),
    unquotable: str | None = None,
    writes: bool = True,
) -> Claim:
    """A claim of at most `bound` input tokens, held at a quarter more than `estimate`; an output token costs 2."""
    ask = Ask(
        model=names[0],
        text_bytes=3 * estimate,
        max_output=output,
        min_output=least,
        choices=choices,
        output=writes,
    )
    most = dearest((price,), bound, False, 0)
    return Claim(
        request_id="req_1",
        worker_id="w",
        key_hash=b"",
        model=names[0],
        names=names,
        upstream="openai",
        upstream_model="gpt",
        format="openai",
        endpoint="chat",
        streamed=False,
        quote=quote(ask, most, bound, output),
        price=most,
        unquotable=unquotable,
        cost=Snapshot(1, price),
        charge=None,
        cost_source=CostSource.CONFIG,
        tags={},
    )


def caller(
    credits_nano: int | None = None, held_nano: int = 0, *, team: bool = False, models: tuple[str, ...] = ()
) -> Caller:
    """alice; prepaid, where credits are given."""
    return Caller(
        key_id="k-1",
        key_name="default",
        user_id=1,
        user="alice",
        team_id=1 if team else None,
        team="ops" if team else None,
        plan=None,
        models=models,
        ips=(),
        tags={},
        account_id=1,
        account_kind="team" if team else "user",
        prepaid=credits_nano is not None,
        balance_nano=credits_nano or 0,
        held_nano=held_nano,
        last_used_ms=0,
        expires_next_ms=None,
    )


def stands(text: str, used: int = 0, held: int = 0, source: str = "user") -> Standing:
    """A limit, and what is used and held of it: nano-USD where it is one of USD."""
    limit = parse(text)
    window = span(limit.window, NOW, ZONE)
    return Standing(limit=limit, subject=("user", "1"), source=source, span=window, used=used, held=held, fresh=True)


def granted(*standings: Standing, by: Caller | None = None, plan: Plan | None = None, **fields: Any) -> Grant:
    return admit(claim(**fields), by or caller(), plan, standings, NOW)


def refused(*standings: Standing, by: Caller | None = None, plan: Plan | None = None, **fields: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        admit(claim(**fields), by or caller(), plan, standings, NOW)
    return caught.value


# ── granted ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_without_limits_and_credits_nothing_is_bounded() -> None:
    grant = granted()
    assert (grant.output_tokens, grant.clamped, grant.bounded, grant.standings) == (None, False, False, ())
    assert grant.amounts == Amounts(50, 50, 200)


# The input is at most 100 tokens and held as 50; a bound of 50 output tokens costs 100 nano-USD, one of 1000 2000.
@pytest.mark.parametrize(
    ("standings", "by", "fields", "output", "sent"),
    [
        # credit and budgets
        ([], caller(200), {}, 50, True),
        ([], caller(1_000), {"output": 1_000}, 450, True),
        ([], caller(1_000, 300), {"output": 1_000}, 300, True),
        ([stands("$0.000001/day")], None, {"output": 1_000}, 450, True),
        ([stands("$0.000001/day", 100, 200)], None, {"output": 1_000}, 300, True),
        ([stands("$0.000001/day", 100, 200)], None, {"output": 1_000, "least": 300}, 300, True),
        ([stands("$0.000001/day"), stands("$0.0000009 total")], None, {"output": 1_000}, 400, True),
        ([stands("$0.000001/day")], caller(800), {"output": 1_000}, 350, True),
        ([stands("$0.000001/day")], caller(800), {"output": 600, "choices": 1, "bound": 10}, 395, True),
        ([stands("$0.000002/day")], None, {"output": 1_000, "choices": 3}, 316, True),
        ([stands("$1/day")], None, {"output": 1_000}, 1_000, True),
        # tokens
        ([stands("400 tokens/hour")], None, {"output": 1_000}, 350, True),
        ([stands("400 tokens/hour", 20, 30)], None, {"output": 1_000}, 300, True),
        ([stands("1000 tokens/hour")], None, {"output": 1_000, "choices": 3}, 316, True),
        ([stands("400 output tokens/hour")], None, {"output": 1_000}, 400, True),
        ([stands("1001 output tokens/hour", 100)], None, {"output": 1_000, "choices": 3}, 300, True),
        ([stands("400 output tokens/hour")], None, {"output": 50}, 50, True),
        ([stands("50 input tokens/hour")], None, {"output": 1_000}, 1_000, False),
        # the tightest of all
        (
            [stands("$0.000001/day"), stands("400 tokens/hour"), stands("300 output tokens/day")],
            caller(900),
            {"output": 1_000},
            300,
            True,
        ),
        (
            [stands("$0.0000007/day"), stands("400 tokens/hour"), stands("400 output tokens/day")],
            caller(900),
            {"output": 1_000},
            300,
            True,
        ),
        (
            [stands("$0.000001/day"), stands("320 tokens/hour"), stands("300 output tokens/day")],
            caller(900),
            {"output": 270},
            270,
            True,
        ),
        # counts
        ([stands("1 requests/minute")], None, {"output": 1_000}, 1_000, False),
        ([stands("5 requests/minute", 3, 1)], None, {"output": 1_000}, 1_000, False),
        ([stands("2 concurrent", 0, 1)], None, {"output": 1_000}, 1_000, False),
    ],
)
def test_the_longest_answer_that_everything_carries(
    standings: list[Standing], by: Caller | None, fields: dict[str, Any], output: int, sent: bool
) -> None:
    grant = granted(*standings, by=by, **fields)
    asked, choices = fields.get("output", 50), fields.get("choices", 1)
    assert grant.output_tokens == (output if sent else None)
    assert grant.clamped is (output < asked)
    assert grant.amounts.output_tokens == output * choices
    assert grant.amounts.input_tokens == (50 if "bound" not in fields else 13)
    assert grant.standings == tuple(standings)
    if grant.bounded:
        assert grant.amounts.nano == amount_at(claim(**fields).price, fields.get("bound", 100), output, choices)


def test_the_amounts_of_a_grant_by_unit() -> None:
    amounts = granted(choices=2).amounts
    assert {unit: amounts.of(unit) for unit in Unit} == {
        Unit.REQUESTS: 1,
        Unit.TOKENS: 150,
        Unit.INPUT_TOKENS: 50,
        Unit.OUTPUT_TOKENS: 100,
        Unit.USD: 300,
        Unit.CONCURRENT: 1,
    }


def test_what_is_free_passes_budgets_and_empty_accounts() -> None:
    spent = stands("$0.000001/day", 1_000)
    grant = granted(spent, by=caller(0), price=FREE, output=1_000, unquotable="plugins")
    assert (grant.output_tokens, grant.clamped, grant.bounded, grant.amount_nano) == (None, False, True, 0)
    assert refused(spent, stands("1 requests/minute", 1), price=FREE).code == "rate_limited"
    assert refused(stands("99 tokens/hour"), price=FREE).code == "rate_limited"


def test_what_writes_nothing_is_sent_no_bound() -> None:
    grant = granted(stands("$1/day"), stands("50 tokens/day"), stands("0 output tokens/day"), writes=False)
    assert (grant.output_tokens, grant.clamped, grant.amounts) == (None, False, Amounts(50, 0, 100))


def test_output_that_costs_nothing_is_not_bounded_by_money() -> None:
    price = Price(input=PRICE.input, output=0)
    grant = granted(stands("$0.0000001/day"), by=caller(100), price=price, output=10**6)
    assert (grant.output_tokens, grant.clamped, grant.amount_nano) == (None, False, 100)


# ── refused ───────────────────────────────────────────────────────────────────────────────────────────────────────────

NEVER = {"x-should-retry": "false"}
SOON = {"retry-after": str(HELD_RETRY_S)}


@pytest.mark.parametrize(
    ("standing", "fields", "code", "headers", "says"),
    [
        # money: the claim needs 200 nano-USD at least
        (
            stands("$0.0000002/day", 1),
            {},
            "budget_exceeded",
            NEVER,
            "$0.0000002/day of yours is used up: it resets at 2026-11-19T00:00",
        ),
        (
            stands("$0.0000002 total", 1),
            {},
            "budget_exceeded",
            NEVER,
            "$0.0000002 total of yours is used up: ask your admin",
        ),
        (stands("$0.000000199/day"), {}, "budget_exceeded", NEVER, "can never fit the limit $0.000000199/day of yours"),
        (stands("$0.000000199/day", 0, 199), {}, "budget_exceeded", NEVER, "can never fit"),
        (stands("$0/day"), {}, "budget_exceeded", NEVER, "can never fit"),
        (stands("$0.0000002/day", 0, 1), {}, "credits_held", SOON, "is held by other requests in flight"),
        (stands("$0.0000003/day", 100, 1), {}, "credits_held", SOON, "is held by other requests in flight"),
        (stands("$0.0000003/day", 101, 1), {}, "budget_exceeded", NEVER, "is used up"),
        (stands("$0.0000003/day", 900, 0), {}, "budget_exceeded", NEVER, "is used up"),
        # tokens: 50 of input, 50 of output
        (
            stands("100 tokens/minute", 1),
            {},
            "rate_limited",
            1,
            "100 tokens/minute of yours is reached: it resets at 2026-11-18T12:30:00.000Z",
        ),
        (stands("100 tokens/hour", 1), {}, "rate_limited", 1801, "resets at 2026-11-18T13:00"),
        (
            stands("99 tokens/hour"),
            {},
            "rate_limited",
            NEVER,
            "can never fit the limit 99 tokens/hour of yours: it is too large",
        ),
        (stands("100 tokens/hour", 0, 1), {}, "rate_limited", SOON, "is held by other requests in flight"),
        (stands("100 tokens total", 1), {}, "rate_limited", NEVER, "is used up: ask your admin to raise it"),
        (stands("50 input tokens/minute", 1), {}, "rate_limited", 1, "50 input tokens/minute of yours is reached"),
        (stands("49 input tokens/minute"), {}, "rate_limited", NEVER, "can never fit"),
        (stands("50 output tokens/minute", 1), {}, "rate_limited", 1, "is reached"),
        (stands("50 output tokens/minute", 0, 1), {}, "rate_limited", SOON, "is held"),
        (stands("99 output tokens/minute"), {"choices": 2}, "rate_limited", NEVER, "can never fit"),
        (stands("255 output tokens/minute"), {"output": 9_999}, "rate_limited", NEVER, "can never fit"),
        # counts
        (stands("5 requests/minute", 5), {}, "rate_limited", 1, "the limit 5 requests/minute of yours is reached"),
        (stands("5 requests/minute", 0, 5), {}, "rate_limited", 1, "is reached"),
        (stands("5 requests/minute", 9, 0), {}, "rate_limited", 1, "is reached"),
        (stands("5 requests/hour", 3, 2), {}, "rate_limited", 1801, "is reached"),
        (stands("5 requests total", 5), {}, "rate_limited", NEVER, "is used up"),
        (stands("0 requests/day"), {}, "rate_limited", NEVER, "can never fit"),
        (
            stands("3 concurrent", 0, 3),
            {},
            "rate_limited",
            SOON,
            "3 concurrent of yours is reached: try again when another request",
        ),
        (stands("0 concurrent"), {}, "rate_limited", NEVER, "can never fit"),
        # whose
        (stands("1 requests/minute", 1, source="key"), {}, "rate_limited", 1, "1 requests/minute of this key"),
        (stands("1 requests/minute", 1, source="team"), {}, "rate_limited", 1, "1 requests/minute of your team"),
        (stands("1 requests/minute", 1, source="plan"), {}, "rate_limited", 1, "1 requests/minute of your plan"),
        (stands("1 requests/minute", 1, source="default"), {}, "rate_limited", 1, "1 requests/minute of this gateway"),
    ],
)
def test_a_limit_refuses_and_says_whether_waiting_helps(
    standing: Standing, fields: dict[str, Any], code: str, headers: dict[str, str] | int, says: str
) -> None:
    error = refused(standing, **fields)
    assert (error.code, error.http_status) == (code, 402 if code == "budget_exceeded" else 429)
    assert says in error.message
    told = dict(error.headers)
    if isinstance(headers, dict):
        assert told == headers
    else:
        assert headers <= int(told.pop("retry-after")) <= headers + JITTER_S
        assert told == (NEVER if headers > 60 else {})


@pytest.mark.parametrize(
    ("standing", "fields", "told"),
    [
        (stands("100 tokens/minute", 20), {}, "; with a max_tokens of 30 or less it would fit"),
        (stands("99 tokens/hour"), {}, "it is too large; with a max_tokens of 49 or less it would fit"),
        (stands("255 output tokens/minute"), {"output": 9_999}, "; with a max_tokens of 255 or less it would fit"),
        (stands("99 output tokens/minute"), {"choices": 2}, "; with a max_tokens of 49 or less it would fit"),
        (stands("100 tokens/minute", 35), {}, None),  # 15: nobody wants that
        (stands("100 input tokens/minute", 80), {}, None),
        (stands("100 tokens/minute", 20), {"least": 300, "output": 300}, None),  # what it asks besides needs more
        (stands("100 tokens/minute", 20), {"writes": False, "estimate": 80}, None),
    ],
)
def test_a_shorter_answer_that_would_fit_is_told(standing: Standing, fields: dict[str, Any], told: str | None) -> None:
    message = refused(standing, **fields).message
    assert message.endswith(told) if told else "max_tokens" not in message, message
    if told:
        most = int(told.split("max_tokens of ")[1].split()[0])
        assert granted(standing, **{**fields, "output": most})
        with pytest.raises(Refusal):
            admit(claim(**{**fields, "output": most + 1}), caller(), None, (standing,), NOW)


def test_retries_are_spread_over_three_seconds() -> None:
    found = set()
    for seed in range(60):
        random.seed(seed)
        found.add(dict(refused(stands("1 requests/minute", 1)).headers)["retry-after"])
    assert found == {"1", "2", "3", "4"}


@pytest.mark.parametrize(
    ("by", "code", "headers", "says"),
    [
        (caller(199), "insufficient_credits", NEVER, "the remaining credit of $0.000000199 doesn't carry this request"),
        (caller(0), "insufficient_credits", NEVER, "of $0.00 "),
        (caller(-5), "insufficient_credits", NEVER, "of -$0.000000005 "),
        (caller(200, 1), "credits_held", SOON, "the remaining credit is held"),
        (caller(199, 1), "insufficient_credits", NEVER, "of $0.000000198 "),
        (caller(199, team=True), "insufficient_credits", NEVER, "the remaining credit doesn't carry this request"),
    ],
)
def test_credit_refuses(by: Caller, code: str, headers: dict[str, str], says: str) -> None:
    error = refused(by=by)
    assert (error.code, dict(error.headers)) == (code, headers)
    assert says in error.message


@pytest.mark.parametrize(
    ("by", "standings", "code"),
    [
        (caller(0), [stands("1 requests/minute", 1), stands("$0.000001/day", 1_000)], "insufficient_credits"),
        (caller(), [stands("1 requests/minute", 1), stands("$0.000001/day", 1_000)], "budget_exceeded"),
        (caller(), [stands("1 requests/minute", 1), stands("$1/day")], "rate_limited"),
    ],
)
def test_what_must_be_paid_comes_before_what_must_be_waited_for(
    by: Caller, standings: list[Standing], code: str
) -> None:
    assert refused(*standings, by=by).code == code


@pytest.mark.parametrize(("by", "standings"), [(caller(10**6), []), (caller(), [stands("$1/day")])])
def test_what_has_no_known_bound_is_not_for_money_that_can_run_out(by: Caller, standings: list[Standing]) -> None:
    error = refused(*standings, by=by, unquotable="plugins")
    assert (error.code, error.param) == ("invalid_request", "plugins")
    assert granted(stands("9 requests/day"), stands("9000 tokens/day"), unquotable="plugins")


# ── models ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def plan_of(*models: str) -> Plan:
    return Plan(name="small", price_nano=0, limits=(), models=models)


@pytest.mark.parametrize(
    ("models", "names", "fits"),
    [
        ((), ("o3", "openai/o3"), True),
        (("gpt-4o*", "fast"), ("gpt-4o-mini", "openai/gpt-4o-mini"), True),
        (("gpt-4o*", "fast"), ("fast", "gpu1/llama"), True),
        (("gpu1/*",), ("fast", "gpu1/llama"), True),
        (("gpt-4o*", "fast"), ("o3", "openai/o3"), False),
    ],
)
def test_a_plan_and_a_key_allow_models_by_any_of_their_names(
    models: tuple[str, ...], names: tuple[str, ...], fits: bool
) -> None:
    if fits:
        granted(plan=plan_of(*models), by=caller(models=models), names=names)
        return
    by_plan = refused(plan=plan_of(*models), names=names)
    by_key = refused(by=caller(models=models), names=names)
    assert {(error.code, error.http_status) for error in (by_plan, by_key)} == {("model_not_allowed", 403)}
    assert "the plan small doesn't include o3" in by_plan.message
    assert "this key may not use o3" in by_key.message


# ── as a property ─────────────────────────────────────────────────────────────────────────────────────────────────────

LIMITED = st.builds(
    lambda unit, amount, used, held: stands(
        f"{amount if unit != 'USD' else f'0.{amount:09d}'} {unit}{' total' if unit != 'concurrent' else ''}", used, held
    ),
    st.sampled_from([str(unit) for unit in Unit]),
    st.integers(0, 2_000),
    st.integers(0, 600),
    st.integers(0, 600),
)


@given(
    standings=st.lists(LIMITED, max_size=4),
    credits_nano=st.none() | st.integers(0, 3_000),
    bound=st.integers(1, 300),
    estimate=st.integers(0, 300),
    output=st.integers(1, 900),
    choices=st.integers(1, 3),
)
def test_the_grant_is_the_longest_that_fits_all_and_what_is_refused_fits_none(
    standings: list[Standing], credits_nano: int | None, **fields: Any
) -> None:
    asked = claim(**fields)
    quoted = asked.quote

    def fits(output: int) -> bool:
        nano = amount_at(asked.price, quoted.input_tokens, output, quoted.choices)
        amounts = Amounts(-(-5 * quoted.input_estimate // 4), output * quoted.choices, nano)
        within = all(amounts.of(standing.limit.unit) <= standing.room for standing in standings)
        return within and (credits_nano is None or nano <= credits_nano)

    try:
        grant = admit(asked, caller(credits_nano), None, standings, NOW)
    except Refusal:
        assert not fits(quoted.floor_tokens)
        return
    output = grant.amounts.output_tokens // quoted.choices
    assert fits(output)
    assert output >= quoted.floor_tokens
    assert output == quoted.output_tokens or not fits(output + 1)
    assert grant.output_tokens in (output, None)
    assert grant.output_tokens is not None or output == quoted.output_tokens


def test_windows_are_what_this_file_counts_on() -> None:
    assert [stands(f"1 requests/{window}").span.end_ms - NOW for window in (Window.MINUTE, Window.HOUR)] == [
        *(750, 30 * 60_000 + 750),
    ]
