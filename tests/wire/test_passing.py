"""Bodies and answers that no format describes: they pass byte for byte, whatever they are and however they are cut."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgate import metering
from llmgate.errors import Refusal
from llmgate.metering import Metering
from llmgate.types import Meters, Usage
from llmgate.wire import passing
from llmgate.wire.endpoint import Endpoint, Terms
from llmgate.wire.openai import OPENAI
from tests.wire.listening import whole

TOKENS = Metering(unit="token", expression=metering.compiled("n || last_sse.n"), fallback=100, most=1000, nano=1)
METERED = passing.metered("/v1/x", "/x", OPENAI, TOKENS)
PASSED = passing.passed("/x", OPENAI)
FREE = passing.unmetered("route", "/x", OPENAI)
ALL = [METERED, PASSED, FREE]

TERMS = Terms(model="x", bound=5, bound_fields=("max_tokens",), bound_write="max_tokens", ask_usage=True)


def sent(endpoint: Endpoint, raw: bytes, model: str = "/v1/x") -> bytes:
    """What an upstream gets of a body."""
    fields = endpoint.read(raw, "", endpoint.known)
    ask = endpoint.read_ask(fields, model)
    changes = endpoint.prepare(fields, ask, TERMS)
    return whole(endpoint.write(raw, fields, changes)) if changes else raw


anything = st.one_of(
    st.binary(max_size=200),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    ).map(lambda value: json.dumps(value, indent=1).encode()),
)


@pytest.mark.parametrize("endpoint", ALL)
@given(raw=anything)
def test_a_body_that_names_no_model_is_sent_as_it_came(endpoint: Endpoint, raw: bytes) -> None:
    try:
        assert sent(endpoint, raw) == raw
    except Refusal:  # of what may be read in two ways
        assert endpoint is PASSED


@pytest.mark.parametrize("endpoint", ALL)
@given(data=st.binary(max_size=300), cuts=st.lists(st.integers(0, 300), max_size=6), hide=st.booleans())
def test_a_stream_passes_as_it_came(endpoint: Endpoint, data: bytes, cuts: list[int], hide: bool) -> None:
    stream = endpoint.stream(hide)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    passed = b"".join(stream.feed(data[begin:end]) for begin, end in pairwise(edges))
    assert passed + stream.finish() == data
    stream.break_off()
    assert endpoint.used(endpoint.read_ask({}, "/v1/x"), stream.heard) is not None


@given(cuts=st.lists(st.integers(0, 120), max_size=8), ends=st.sampled_from(["\n\n", "\r\n\r\n", "\r\r"]))
def test_the_last_event_that_is_json_counts_however_it_is_cut(cuts: list[int], ends: str) -> None:
    events = ['data: {"n": 1}', ": a comment", 'event: x\ndata: {"n":\ndata: 7}', "data: [DONE]"]
    data = "".join(event.replace("\n", ends[: len(ends) // 2]) + ends for event in events).encode()
    stream = METERED.stream(False)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for begin, end in pairwise(edges):
        stream.feed(data[begin:end])
    stream.finish()
    stream.break_off()
    assert stream.heard.usage == Usage(meters=Meters(output=7, calls=1))
    assert stream.heard.done


@pytest.mark.parametrize("answer", [b"", b"\xff\x00", b"[]", b'{"n": "7"}', b'{"n": -7}', b"{" * 5000])
def test_an_answer_that_says_nothing_is_the_fallback(answer: bytes) -> None:
    heard = METERED.hear(answer)
    assert heard is not None
    assert METERED.used(METERED.read_ask({}, None), heard) == Usage(
        meters=Meters(output=100, calls=1), input_missing=True
    )


@pytest.mark.parametrize(
    ("raw", "model", "stream"),
    [
        (b'{"model": "m", "stream": true}', "m", True),
        (b'  {"model": "m"}', "m", False),
        (b'{"model": 5}', "/v1/x", False),
        (b'{"model": ""}', "/v1/x", False),
        (b'{"input": "m"}', "/v1/x", False),
        (b"", "/v1/x", False),
        (b"model=m", "/v1/x", False),
    ],
)
def test_who_is_asked_where_a_path_is_passed_through(raw: bytes, model: str, stream: bool) -> None:
    ask = PASSED.read_ask(PASSED.read(raw, "", PASSED.known), "/v1/x")
    assert (ask.model, ask.stream, ask.unquotable) == (model, stream, "/v1/x")


@pytest.mark.parametrize(
    ("answer", "meters"),
    [
        ({"usage": {"prompt_tokens": 3, "completion_tokens": 4}}, Meters(input=3, output=4, calls=1)),
        ({"usage": {"input_tokens": 3, "output_tokens": 4}}, Meters(input=3, output=4, calls=1)),
        ({"response": {"usage": {"input_tokens": 3, "output_tokens": 4}}}, Meters(input=3, output=4, calls=1)),
        ({"usage": "none"}, Meters(calls=1)),
        ([], Meters(calls=1)),
    ],
)
def test_a_usage_is_heard_where_a_path_is_passed_through(answer: Any, meters: Meters) -> None:
    heard = PASSED.hear(json.dumps(answer).encode())
    assert heard is not None
    usage = PASSED.used(PASSED.read_ask({}, "/v1/x"), heard)
    assert usage is not None
    assert usage.meters == meters
