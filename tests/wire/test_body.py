"""Request bodies: what is refused because two readers may read it differently, and what is left as it came."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgate.errors import Refusal
from llmgate.wire import body

KNOWN = frozenset({"model", "stream", "max_tokens", "messages"})


def refused(raw: bytes) -> Refusal:
    with pytest.raises(Refusal) as caught:
        body.read(raw, KNOWN)
    assert caught.value.code == "invalid_request"
    return caught.value


def unreadable(raw: bytes, name: str) -> Refusal:
    fields = body.read(raw, KNOWN)
    with pytest.raises(Refusal) as caught:
        body.value(fields, name)
    assert (caught.value.code, caught.value.param) == ("invalid_request", name)
    return caught.value


# -- what is no body


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" ",
        b"null",
        b"true",
        b"7",
        b'"text"',
        b"[]",
        b'[{"model":"m"}]',
        b"{",
        b'{"model":"m"',
        b'{"model":"m",}',
        b'{"model":"m"} x',
        b'{"model":"m"}{"model":"n"}',
        b"{'model':'m'}",
        b'{"model":"m" // comment\n}',
        b'{"model":NaN}',
        b'\xef\xbb\xbf{"model":"m"}',
        '{"model":"m"}'.encode("utf-16"),
        b'{"\xff":1}',
        b"<html>",
        b"model=m&stream=true",
    ],
)
def test_what_is_no_json_object_is_refused(raw: bytes) -> None:
    assert "JSON object" in refused(raw).message


# -- twins


@pytest.mark.parametrize(
    "raw",
    [
        b'{"model":"cheap","model":"dear"}',
        b'{"model":"cheap" , "x":1, "model" :"dear"}',
        b'{"max_tokens":5,"model":"m","max_tokens":90000}',
        b'{"mod\\u0065l":"cheap","model":"dear"}',
        b'{"model":"cheap","\\u006dodel":"dear"}',
        b'{"mod\\u0065l":"cheap","\\u006dodel":"dear"}',
        b'{"model":"m","model":"m"}',
        b'{"model":null,"model":"m"}',
    ],
)
def test_a_field_that_comes_twice_is_refused(raw: bytes) -> None:
    error = refused(raw)
    assert "comes twice" in error.message
    assert error.param in KNOWN


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("MODEL", "model"),
        ("Model", "model"),
        ("max_Tokens", "max_tokens"),
        ("MAX_TOKENS", "max_tokens"),
        ("M\\u004fDEL", "model"),
        ("max_to\u212aens", "max_tokens"),  # the Kelvin sign, a K to Go's JSON
        ("max_token\u017f", "max_tokens"),  # the long s, an s to Go's JSON, which is what Ollama reads with
        ("me\u017f\u017fages", "messages"),
    ],
)
def test_a_field_in_other_letters_is_refused(name: str, meant: str) -> None:
    error = refused(f'{{"model":"m","max_tokens":5,"{name}":90000}}'.encode())
    assert error.param == meant
    assert repr(meant) in error.message


@pytest.mark.parametrize(
    "raw",
    [
        b'{"model":"m","messages":[{"model":"n"},{"model":"o"}]}',  # further down they mean something else
        b'{"model":"m","x":{"model":1,"model":2}}',
        b'{"model":"model","stream":true}',  # a value
        b'{"model":"m","x":1,"x":2}',  # nothing that is read here
        b'{"model":"m","X":1,"x":2}',
        b'{"model":"m","\\u0078":1,"x":"\\u0041"}',
        b'{"mod\\u0065l":"m"}',
        b'{"model":"m","messages":"\\"model\\":\\"n\\""}',
    ],
)
def test_other_repetitions_are_the_upstreams_business(raw: bytes) -> None:
    fields = body.read(raw, KNOWN)
    assert body.value(fields, "model") in ("m", "model")


names = st.sampled_from(["model", "MODEL", "stream", "x", "mod\\u0065l", "max_tokens", "ma\\u0078_tokens", "y"])


@given(st.lists(names, max_size=6))
def test_twins_as_python_sees_them(written: list[str]) -> None:
    raw = ("{" + ",".join(f'"{name}":{number}' for number, name in enumerate(written)) + "}").encode()
    plain = [json.loads(f'"{name}"') for name in written]
    wrong = [name for name in plain if (name in KNOWN and plain.count(name) > 1) or name == "MODEL"]
    if wrong:
        refused(raw)
    else:
        fields = body.read(raw, KNOWN)
        assert {name: body.value(fields, name) for name in fields} == json.loads(raw)


# -- values


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b"null", None),
        (b"true", True),
        (b"5", 5),
        (b'"a\\u00fc\\ud83d\\ude42"', "aü🙂"),
        (b"1e400", float("inf")),
        (b"123456789012345678901234567890", 123456789012345678901234567890),
        (b"[1, {}]", [1, {}]),
    ],
)
def test_values(raw: bytes, value: Any) -> None:
    assert body.value(body.read(b'{"model":%b}' % raw, KNOWN), "model") == value


def test_absent_is_null() -> None:
    assert body.value(body.read(b"{}", KNOWN), "model") is None


@pytest.mark.parametrize(
    "raw",
    [b"9" * 5000, b'"\xff"', b'{"x":"\xff"}'],
    ids=["more digits than Python reads", "not UTF-8", "not UTF-8 further down"],
)
def test_values_that_cannot_be_read(raw: bytes) -> None:
    unreadable(b'{"model":%b}' % raw, "model")


@pytest.mark.parametrize(
    "raw", [b'"\\ud800"', b'"\\ude00"', b'"\\ud800 x"', b'"x\\ud800\\u0041"', b'["\\udfff"]', b'{"\\ud800":1}']
)
@pytest.mark.parametrize("name", ["model", "metadata"])
def test_half_a_character_is_refused(raw: bytes, name: str) -> None:
    """Some parsers take a lone surrogate, some don't, and it can't be written down as UTF-8."""
    refused(b'{"%b":%b}' % (name.encode(), raw))


@pytest.mark.parametrize("escaped", [b"", b'"\\u0061":1,'], ids=["plain", "with escapes"])
@pytest.mark.parametrize("name", ["messages", "x"])
@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_depth_without_end(opening: bytes, closing: bytes, name: str, escaped: bytes) -> None:
    deep = opening * 100_000 + b"1" + closing * 100_000
    assert "too deep" in refused(b'{"model":"m",%b"%b":%b}' % (escaped, name.encode(), deep)).message


def test_a_value_deeper_than_python_reads() -> None:
    """What the quick parser lets pass and the thorough one doesn't is a refusal as well."""
    for depth in (100, 500, 900, 990, 2000, 5000):
        raw = b'{"messages":' + b"[" * depth + b"1e999" + b"]" * depth + b"}"
        try:
            body.value(body.read(raw, KNOWN), "messages")
        except Refusal as error:
            assert error.code == "invalid_request"  # noqa: PT017 - either is right, an exception of another kind isn't


# -- writing


ODD = b'{ "model" : "m",\r\n\t"x": 1.50, "y":"\\u0041\xc3\xbc\\/", "z":[ 1,2 ], "big":1e400, "n":null }'


def test_what_is_not_changed_keeps_its_bytes() -> None:
    fields = body.read(ODD, KNOWN)
    assert {name: bytes(raw) for name, raw in fields.items()} == {
        "model": b'"m"',
        "x": b"1.50",
        "y": b'"\\u0041\xc3\xbc\\/"',
        "z": b"[ 1,2 ]",
        "big": b"1e400",
        "n": b"null",
    }
    written = body.write(fields, {"model": "other", "max_tokens": 5})
    assert written == (
        b'{"model":"other","x":1.50,"y":"\\u0041\xc3\xbc\\/","z":[ 1,2 ],"big":1e400,"n":null,"max_tokens":5}'
    )


texts = st.text(st.characters(codec="utf-8"))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.sampled_from(["model", "stream", "x", "ü", "a\nb"]), json_values, max_size=5)


@given(objects, objects, st.booleans(), st.sampled_from([None, 1]))
def test_writing_changes_what_it_is_told_and_nothing_else(
    before: dict[str, Any], changes: dict[str, Any], ascii_only: bool, indent: int | None
) -> None:
    raw = json.dumps(before, ensure_ascii=ascii_only, indent=indent).encode()
    fields = body.read(raw, KNOWN)
    written = body.write(fields, changes)
    assert json.loads(written) == {**before, **changes}
    after = msgspec.json.decode(written, type=dict[str, msgspec.Raw])
    kept = [name for name in before if name not in changes]
    assert [bytes(after[name]) for name in kept] == [bytes(fields[name]) for name in kept]


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (b'{"messages": [{"file_id": "a"}], "system": {"file_id": "b"}}', ("a",)),
        (b'{"messages": [{"file\\u005fid": "a"}]}', ("a",)),
        (b'{"messages": [{"file": "file_id"}]}', ()),
        (b'{"messages": "no file"}', ()),
        (b"{}", ()),
    ],
)
def test_a_name_is_found_however_it_is_written(raw: bytes, found: tuple[str, ...]) -> None:
    assert body.strings_in(body.read(raw, frozenset()), ("messages",), ("file_id",)) == found
