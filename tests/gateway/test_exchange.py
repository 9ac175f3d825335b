"""What a request's end is made of: every way in which it can end, as a table."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import msgspec
import pytest
from msgspec.structs import replace

from llmgate.config import known_upstreams, parse
from llmgate.errors import UpstreamFailure
from llmgate.gateway.exchange import Cut, Exchange, Priced, outcome_of
from llmgate.gateway.upstream import Answer
from llmgate.pricing import Price, dearest
from llmgate.routing import Route, Tariff
from llmgate.store.admission import Claim, Grant
from llmgate.store.holds import Attempt, Hold, Outcome
from llmgate.store.keys import Caller
from llmgate.store.limits import Amounts
from llmgate.store.prices import Snapshot
from llmgate.types import Ask, CostSource, Meters, Quote, Source, Status
from llmgate.wire.heard import Heard
from llmgate.wire.openai import CHAT, hear
from llmgate.wire.openai import stream as open_stream
from tests.replay import sse
from tests.served import DONE, chunk_of, completion, usage_chunk, usage_of

INPUT = 15
"""What the input is estimated at."""

COST = Snapshot(1, Price(input=1, output=2))
CHARGE = Snapshot(2, Price(input=3, output=4))
FLEX = Snapshot(3, Price(input=5, output=6))

Way = Callable[[Exchange], None]
"""Something that happens to a request."""

UPSTREAMS = known_upstreams(
    parse(
        """
        [upstreams.main]
        base_url = "http://127.0.0.1:1/v1"
        auth = "none"

        [upstreams.openrouter]
        api_key = "sk"
        """
    )
)


def hold_of(bound: int | None, choices: int) -> Hold:
    quote = Quote(
        input_tokens=100,
        output_tokens=1000,
        choices=choices,
        amount_nano=1,
        floor_tokens=256,
        floor_nano=1,
        input_estimate=INPUT,
    )
    claim = Claim(
        request_id="req_1",
        worker_id="w",
        key_hash=b"",
        model="main/zeta",
        names=("main/zeta",),
        upstream="main",
        upstream_model="zeta",
        format="openai",
        endpoint="chat",
        streamed=True,
        quote=quote,
        price=dearest((COST.price,), 100, False, 0),
        unquotable=None,
        cost=COST,
        charge=None,
        cost_source=CostSource.CONFIG,
        tags={},
    )
    caller = Caller("k", "default", 1, "alice", None, None, None, (), (), {}, 1, "user", True, 10**9, 0, 0, None)
    grant = Grant(
        caller=caller, amounts=Amounts(INPUT, 1000, 1), output_tokens=bound, clamped=bound is not None, bounded=True
    )
    return Hold(id=1, claim=claim, grant=grant, placed_ms=0, row={})


def route_of(upstream: str) -> Route:
    tariff = Tariff(COST.price, CostSource.CATALOGUE, None, {})
    return Route(upstream=UPSTREAMS[upstream], model="zeta", tariff=tariff, context_window=None)


def exchange_of(
    *ways: Way,
    upstream: str = "main",
    bound: int | None = None,
    choices: int = 1,
    charge: Snapshot | None = None,
) -> Exchange:
    """A request that has its hold, and to which these things happened."""
    exchange = Exchange("req_1", CHAT)
    exchange.ask = Ask(model="zeta")
    exchange.hold = hold_of(bound, choices)
    exchange.priced = Priced(route_of(upstream), COST, charge, {"flex": FLEX})
    for way in ways:
        way(exchange)
    return exchange


def ended(exchange: Exchange) -> Outcome:
    outcome = outcome_of(exchange)
    assert outcome is not None
    return outcome


def end_of(exchange: Exchange) -> tuple[Status, Source, int | None, Meters]:
    outcome = ended(exchange)
    return outcome.status, outcome.source, outcome.http_status, outcome.meters


# -- what may happen


def sent(exchange: Exchange) -> None:
    exchange.note_sent()


def gone(exchange: Exchange) -> None:
    exchange.client_gone = True


def answered(status: int = 200) -> Way:
    def way(exchange: Exchange) -> None:
        assert exchange.priced is not None
        exchange.note_sent()
        exchange.answer = Answer(httpx.Response(status), exchange.priced.route)

    return way


def cut(why: Cut) -> Way:
    def way(exchange: Exchange) -> None:
        exchange.cut = why
        exchange.failure = UpstreamFailure("it was cut off", code="upstream_timeout", reached=True)

    return way


def failed(exchange: Exchange) -> None:
    exchange.failure = UpstreamFailure("it broke off", reached=True)


def whole(answer: object) -> Way:
    def way(exchange: Exchange) -> None:
        answered()(exchange)
        exchange.heard = hear(msgspec.json.encode(answer))
        assert exchange.heard is not None

    return way


def streamed(*events: bytes) -> Way:
    def way(exchange: Exchange) -> None:
        answered()(exchange)
        stream = open_stream(False)
        exchange.heard, exchange.head_sent = stream.heard, True
        for event in events:
            stream.feed(event)
        stream.break_off()

    return way


HELLO = sse(chunk_of("hello"))
ZERO = Meters()
ASKED = Meters(input=INPUT, calls=1)
"""The input, and nothing that was delivered."""

GREETED = Meters(input=INPUT, output=2, calls=1)
EXACT = Meters(input=10, output=5, calls=1)


# -- nothing reached, nothing settled


@pytest.mark.parametrize(
    "ways",
    [(), (gone,), (failed,), (cut(Cut.SHUTDOWN),), (gone, cut(Cut.SHUTDOWN))],
    ids=["nothing", "gone", "failed", "shutdown", "both"],
)
def test_what_reached_nobody_is_nothing(ways: tuple[Way, ...]) -> None:
    assert outcome_of(exchange_of(*ways)) is None


# -- refusals are free


@pytest.mark.parametrize("status", [300, 400, 401, 404, 408, 429, 500, 503, 529])
@pytest.mark.parametrize("left", [False, True], ids=["waits", "leaves"])
def test_a_refusal_is_free_whatever_the_client_does(status: int, left: bool) -> None:
    exchange = exchange_of(answered(status), *([gone] if left else []))
    assert end_of(exchange) == (Status.ERROR, Source.UPSTREAM, status, ZERO)


@pytest.mark.parametrize("status", [400, 503])
@pytest.mark.parametrize("why", [Cut.GONE, Cut.TOTAL, Cut.IDLE])
def test_a_refusal_that_is_cut_off_is_free(status: int, why: Cut) -> None:
    outcome = ended(exchange_of(answered(status), gone, cut(why)))
    assert (outcome.status, outcome.source, outcome.meters) == (Status.ERROR, Source.UPSTREAM, ZERO)


@pytest.mark.parametrize("status", [400, 503])
def test_a_refusal_at_a_shutdown_is_free(status: int) -> None:
    outcome = ended(exchange_of(answered(status), cut(Cut.SHUTDOWN)))
    assert (outcome.status, outcome.source, outcome.meters) == (Status.INTERRUPTED, Source.UPSTREAM, ZERO)


def test_a_failure_before_anything_was_delivered_is_free() -> None:
    assert end_of(exchange_of(sent, failed)) == (Status.ERROR, Source.UPSTREAM, 502, ZERO)
    assert end_of(exchange_of(sent, cut(Cut.FIRST_BYTE))) == (Status.ERROR, Source.UPSTREAM, 504, ZERO)
    assert end_of(exchange_of(answered(), cut(Cut.IDLE))) == (Status.ERROR, Source.UPSTREAM, 504, ZERO)


# -- cut off before an answer


@pytest.mark.parametrize("more", [(), (cut(Cut.GONE),), (failed,)], ids=["read on", "closed", "broken off"])
def test_a_client_that_is_gone_before_any_answer_pays_its_input(more: tuple[Way, ...]) -> None:
    assert end_of(exchange_of(sent, gone, *more)) == (Status.CANCELLED, Source.ESTIMATED, None, ASKED)


def test_a_client_that_is_gone_before_its_plain_answer_is_whole_pays_its_input() -> None:
    exchange = exchange_of(answered(), gone, cut(Cut.GONE))
    assert end_of(exchange) == (Status.CANCELLED, Source.ESTIMATED, 200, ASKED)


@pytest.mark.parametrize("begun", [sent, answered()], ids=["no head", "half a body"])
@pytest.mark.parametrize("left", [False, True], ids=["waits", "leaves"])
def test_a_plain_answer_that_a_shutdown_cuts_off_is_its_input(begun: Way, left: bool) -> None:
    outcome = ended(exchange_of(begun, *([gone] if left else []), cut(Cut.SHUTDOWN)))
    assert (outcome.status, outcome.source, outcome.meters) == (Status.INTERRUPTED, Source.ESTIMATED, ASKED)


def test_a_stream_that_a_shutdown_cuts_off_is_what_was_delivered() -> None:
    exchange = exchange_of(streamed(HELLO), cut(Cut.SHUTDOWN))
    assert end_of(exchange) == (Status.INTERRUPTED, Source.ESTIMATED, 200, GREETED)
    exchange = exchange_of(streamed(), cut(Cut.SHUTDOWN))
    assert end_of(exchange) == (Status.INTERRUPTED, Source.ESTIMATED, 200, ASKED)


# -- what was heard


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ((), Status.OK),
        ((gone,), Status.CANCELLED),
        ((cut(Cut.SHUTDOWN),), Status.INTERRUPTED),
    ],
)
@pytest.mark.parametrize(
    "way",
    [
        whole(completion(usage=usage_of(10, 5))),
        streamed(HELLO, sse(usage_chunk(10, 5)), DONE),
        streamed(sse(chunk_of("hello", usage=usage_of(10, 5)))),
    ],
    ids=["plain", "stream", "one chunk"],
)
def test_usage_that_was_heard_is_exact_however_it_ended(way: Way, more: tuple[Way, ...], status: Status) -> None:
    outcome = ended(exchange_of(way, *more))
    assert (outcome.status, outcome.source, outcome.meters) == (status, Source.UPSTREAM, EXACT)


@pytest.mark.parametrize(
    "way",
    [
        streamed(HELLO, sse(usage_chunk(10, 5)), DONE),
        streamed(sse(chunk_of("hello", usage=usage_of(10, 5)))),
        streamed(HELLO, sse(usage_chunk(10, 5)), sse({"error": {"message": "overloaded"}})),
        streamed(sse(chunk_of(finish="stop")), sse(usage_chunk(10, 5))),
    ],
    ids=["stream", "one chunk", "an error after text", "nothing to say"],
)
def test_usage_that_was_heard_is_exact_where_a_stream_fails_after_it_delivered(way: Way) -> None:
    outcome = ended(exchange_of(way, failed))
    assert (outcome.status, outcome.source, outcome.meters) == (Status.ERROR, Source.UPSTREAM, EXACT)
    assert outcome.attempts == ()


def test_the_last_of_several_usages_counts() -> None:
    exchange = exchange_of(streamed(EARLY, sse(usage_chunk(10, 3)), sse(usage_chunk(10, 5)), DONE))
    assert end_of(exchange) == (Status.OK, Source.UPSTREAM, 200, EXACT)


def test_without_usage_it_is_the_text() -> None:
    assert end_of(exchange_of(whole(completion("hello")))) == (Status.OK, Source.ESTIMATED, 200, GREETED)
    assert end_of(exchange_of(streamed(HELLO, DONE))) == (Status.OK, Source.ESTIMATED, 200, GREETED)
    assert end_of(exchange_of(streamed(HELLO), failed)) == (Status.ERROR, Source.ESTIMATED, 200, GREETED)


EARLY = sse(chunk_of("hi", usage=usage_of(10, 1)))
LONG = sse(chunk_of("x" * 3000))


@pytest.mark.parametrize(
    ("more", "status"),
    [((), Status.OK), ((gone, cut(Cut.GONE)), Status.CANCELLED), ((failed,), Status.ERROR)],
)
def test_text_after_the_last_usage_comes_on_top(more: tuple[Way, ...], status: Status) -> None:
    """Some servers tell the usage in every chunk: the one in the first counts nothing of the rest."""
    meters = Meters(input=10, output=1 + 1000, calls=1)
    assert end_of(exchange_of(streamed(EARLY, LONG), *more)) == (status, Source.ESTIMATED, 200, meters)


def test_text_after_the_last_usage_is_rounded_up() -> None:
    meters = Meters(input=10, output=1 + 2, calls=1)
    assert ended(exchange_of(streamed(EARLY, sse(chunk_of("abcd"))))).meters == meters


def test_text_before_the_last_usage_is_in_it() -> None:
    exchange = exchange_of(streamed(EARLY, LONG, sse(usage_chunk(10, 5)), DONE))
    assert end_of(exchange) == (Status.OK, Source.UPSTREAM, 200, EXACT)


@pytest.mark.parametrize("choices", [1, 3])
def test_an_estimate_is_within_the_bound_of_every_choice(choices: int) -> None:
    exchange = exchange_of(streamed(LONG), bound=7, choices=choices)
    assert ended(exchange).meters == Meters(input=INPUT, output=7 * choices, calls=1)


@pytest.mark.parametrize("choices", [1, 3])
def test_the_rest_is_within_the_bound_of_every_choice(choices: int) -> None:
    """The rest alone is never estimated above what the hold set aside."""
    meters = ended(exchange_of(streamed(sse(chunk_of(usage=usage_of(10, 0))), LONG), bound=7, choices=choices)).meters
    assert meters == Meters(input=10, output=7 * choices, calls=1)


@pytest.mark.parametrize(("heard", "total"), [(1, 7), (6, 7), (7, 7), (9, 9)])
def test_what_was_counted_and_the_rest_are_together_within_the_bound(heard: int, total: int) -> None:
    """Unless the upstream itself counted more: that is its bill."""
    early = sse(chunk_of("hi", usage=usage_of(10, heard)))
    assert ended(exchange_of(streamed(early, LONG), bound=7)).meters == Meters(input=10, output=total, calls=1)


def test_a_usage_that_says_nothing_of_the_output() -> None:
    """Neither a completion nor a total: what went by is estimated."""
    for way in (
        whole(completion("hello", usage={"prompt_tokens": 10})),
        streamed(HELLO, sse(chunk_of(choices=[], usage={"prompt_tokens": 10})), DONE),
    ):
        meters = Meters(input=10, output=2, calls=1)
        assert end_of(exchange_of(way)) == (Status.OK, Source.ESTIMATED, 200, meters)


def test_a_usage_that_says_nothing_of_the_input() -> None:
    """Neither a prompt nor a total: the input is what it was estimated at, never nothing."""
    for way in (
        whole(completion("hello", usage={"completion_tokens": 5})),
        streamed(HELLO, sse(chunk_of(choices=[], usage={"completion_tokens": 5})), DONE),
    ):
        meters = Meters(input=INPUT, output=5, calls=1)
        assert end_of(exchange_of(way)) == (Status.OK, Source.ESTIMATED, 200, meters)


def test_a_completion_that_only_the_total_tells() -> None:
    usage = {"prompt_tokens": 10, "total_tokens": 15}
    assert end_of(exchange_of(whole(completion(usage=usage)))) == (Status.OK, Source.UPSTREAM, 200, EXACT)


@pytest.mark.parametrize(
    "way",
    [whole(completion(usage=usage_of(0, 0))), streamed(HELLO, sse(usage_chunk(0, 0)), DONE)],
    ids=["plain", "stream"],
)
def test_an_explicit_zero_is_zero(way: Way) -> None:
    assert end_of(exchange_of(way)) == (Status.OK, Source.UPSTREAM, 200, Meters(calls=1))


ERROR = {"error": {"message": "overloaded", "code": 502}}


@pytest.mark.parametrize("way", [whole(ERROR), streamed(sse(ERROR))], ids=["plain", "stream"])
def test_a_success_that_only_says_an_error_is_free(way: Way) -> None:
    assert end_of(exchange_of(way)) == (Status.ERROR, Source.UPSTREAM, 200, ZERO)


def test_a_stream_that_fails_before_it_delivered_is_free() -> None:
    assert end_of(exchange_of(streamed(), failed)) == (Status.ERROR, Source.UPSTREAM, 200, ZERO)
    exchange = exchange_of(answered(), failed)
    exchange.heard = Heard()  # broken off before its first byte: not even its head was passed on
    assert end_of(exchange) == (Status.ERROR, Source.UPSTREAM, 502, ZERO)


# -- billed in vain


def refused(status: int, body: object) -> Way:
    def way(exchange: Exchange) -> None:
        answered(status)(exchange)
        assert exchange.answer is not None
        exchange.in_vain(exchange.answer, msgspec.json.encode(body))

    return way


def retried(status: int, body: object) -> Way:
    """A try that failed, before the one that counts."""

    def way(exchange: Exchange) -> None:
        refused(status, body)(exchange)
        assert exchange.priced is not None
        exchange.begin(exchange.priced)

    return way


BILLED = ERROR | {"usage": usage_of(10, 5)}
VAIN = Attempt(
    upstream="main",
    upstream_model="zeta",
    http_status=200,
    source=Source.UPSTREAM,
    meters=EXACT,
    cost=COST,
    cost_source=CostSource.CATALOGUE,
)


@pytest.mark.parametrize(
    ("way", "http_status", "seen"),
    [
        (whole(BILLED), 200, 200),
        (streamed(sse(BILLED)), 200, 200),
        (streamed(sse(usage_chunk(10, 5)), sse(ERROR)), 200, 200),
        (refused(503, BILLED), 503, 503),
        (refused(400, BILLED), 400, 400),
    ],
    ids=["plain", "stream", "usage first", "refusal", "the client's fault"],
)
def test_an_error_that_was_billed_is_the_houses(way: Way, http_status: int, seen: int) -> None:
    """Nobody got anything: the row is free, and beside it stands what it cost."""
    exchange = exchange_of(way, charge=CHARGE)
    assert end_of(exchange) == (Status.ERROR, Source.UPSTREAM, seen, ZERO)
    assert ended(exchange).attempts == (replace(VAIN, http_status=http_status),)


@pytest.mark.parametrize("cause", [failed, cut(Cut.IDLE)])
def test_a_plain_answer_that_only_lacked_its_closing_is_the_houses(cause: Way) -> None:
    exchange = exchange_of(whole(completion("hello", usage=usage_of(10, 5))), cause)
    assert end_of(exchange)[:2] == (Status.ERROR, Source.UPSTREAM)
    assert (ended(exchange).meters, ended(exchange).attempts) == (ZERO, (VAIN,))


def test_a_stream_that_only_told_its_input_before_it_broke_off_is_the_houses() -> None:
    exchange = exchange_of(streamed(sse(chunk_of(usage=usage_of(10, 0)))), failed)
    assert end_of(exchange) == (Status.ERROR, Source.UPSTREAM, 200, ZERO)
    assert [attempt.meters for attempt in ended(exchange).attempts] == [Meters(input=10, calls=1)]


def test_tries_before_the_one_that_went_well() -> None:
    exchange = exchange_of(
        retried(503, BILLED), retried(429, ERROR), retried(500, BILLED), whole(completion(usage=usage_of(1, 1)))
    )
    outcome = ended(exchange)
    assert (outcome.status, outcome.meters) == (Status.OK, Meters(input=1, output=1, calls=1))
    assert [(attempt.http_status, attempt.meters) for attempt in outcome.attempts] == [(503, EXACT), (500, EXACT)]


@pytest.mark.parametrize("body", [ERROR, ERROR | {"usage": usage_of(0, 0)}, ERROR | {"usage": None}, [], "busy"])
def test_an_error_that_tells_no_usage_cost_nothing(body: object) -> None:
    assert ended(exchange_of(refused(503, body))).attempts == ()


def test_a_usage_in_a_refusal_that_streams_is_heard() -> None:
    exchange = exchange_of(sent)
    assert exchange.priced is not None
    response = httpx.Response(503, headers={"content-type": "text/event-stream"})
    exchange.in_vain(Answer(response, exchange.priced.route), sse(BILLED))
    assert ended(exchange).attempts == (replace(VAIN, http_status=503),)


def test_the_cost_of_an_attempt_is_what_its_upstream_reports() -> None:
    exchange = exchange_of(refused(503, ERROR | {"usage": usage_of(0, 0, cost=0.5)}), upstream="openrouter")
    (attempt,) = ended(exchange).attempts
    assert (attempt.reported_cost_nano, attempt.upstream) == (500_000_000, "openrouter")


def test_the_price_of_an_attempt_is_that_of_its_tier() -> None:
    exchange = exchange_of(refused(503, BILLED | {"service_tier": "flex"}))
    assert [attempt.cost for attempt in ended(exchange).attempts] == [FLEX]


# -- by which price


def test_a_cost_is_taken_only_from_who_reports_it() -> None:
    way = whole(completion(usage=usage_of(10, 5, cost=0.00123)))
    assert ended(exchange_of(way, upstream="openrouter")).reported_cost_nano == 1_230_000
    assert ended(exchange_of(way)).reported_cost_nano is None


def test_a_reporter_that_reports_nothing() -> None:
    for way in (whole(completion(usage=usage_of(10, 5))), whole(completion()), sent):
        assert ended(exchange_of(way, upstream="openrouter")).reported_cost_nano is None


@pytest.mark.parametrize(
    ("tier", "cost"), [("flex", FLEX), ("default", COST), ("unheard-of", COST), (None, COST), (7, COST)]
)
def test_the_price_of_the_service_tier_that_answered(tier: object, cost: Snapshot) -> None:
    answer = completion(usage=usage_of(10, 5)) | ({} if tier is None else {"service_tier": tier})
    outcome = ended(exchange_of(whole(answer), charge=CHARGE))
    assert (outcome.cost, outcome.charge) == (cost, CHARGE)  # what is charged is the admin's own price all the same


def test_the_price_of_a_stream_that_tells_its_tier_first() -> None:
    exchange = exchange_of(streamed(sse(chunk_of("hello", service_tier="flex")), sse(usage_chunk(10, 5)), DONE))
    assert ended(exchange).cost == FLEX


def test_where_it_was_served_and_by_whose_price() -> None:
    outcome = ended(exchange_of(whole(completion(usage=usage_of(10, 5)))))
    assert (outcome.upstream, outcome.upstream_model, outcome.cost_source) == ("main", "zeta", CostSource.CATALOGUE)
    assert outcome.cost == COST
    assert outcome.charge is None
