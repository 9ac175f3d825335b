"""Multipart bodies: what is read of them, what is refused because others might read it otherwise, what is changed."""

from __future__ import annotations

from typing import Any

import aiohttp
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgate.errors import Refusal
from llmgate.wire import body, form
from llmgate.wire.audio import TRANSCRIPTIONS
from llmgate.wire.form import Form
from llmgate.wire.images import IMAGE_EDITS
from llmgate.wire.openai import IMAGE_TOKENS
from tests.replay import Replay, json_answer
from tests.wire.listening import whole

KNOWN = frozenset({"model", "n", "stream"})
TYPE = "multipart/form-data; boundary=XX"


def part(name: str, value: bytes | str, *, filename: str | None = None, headers: str = "") -> bytes:
    data = value if isinstance(value, bytes) else value.encode()
    of_file = f'; filename="{filename}"' if filename else ""
    return f'Content-Disposition: form-data; name="{name}"{of_file}\r\n{headers}\r\n'.encode() + data


def joined(*parts: bytes, boundary: bytes = b"XX") -> bytes:
    return b"".join(b"--%b\r\n%b\r\n" % (boundary, one) for one in parts) + b"--%b--\r\n" % boundary


def read(*parts: bytes) -> Form:
    return form.read(joined(*parts), TYPE, KNOWN)


def test_fields_and_files() -> None:
    found = read(
        part("model", "whisper-1"),
        part("file", b"RIFF" + b"x" * 9000, filename="a.wav", headers="Content-Type: audio/wav\r\n"),
        part("prompt", "héllo"),
        part("tags[]", "a"),
        part("tags[]", "b"),
    )
    assert {name: body.value(found, name) for name in found} == {"model": "whisper-1"}
    assert [(file.name, file.size, file.head) for file in found.files] == [("file", 9004, b"RIFF" + b"x" * 4092)]
    assert found.text_bytes == len("whisper-1") + 6 + 2


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/form-data; boundary=XX", b"XX"),
        ('multipart/form-data; boundary="XX"', b"XX"),
        ("Multipart/Form-Data;boundary=XX; charset=utf-8", b"XX"),
        ("multipart/form-data; boundary=----WebKitFormBoundaryAbC123", b"----WebKitFormBoundaryAbC123"),
        ('multipart/form-data; boundary="a=b?c:d"', b"a=b?c:d"),
        ("multipart/form-data; boundary=0123456789abcdef0123456789abcdef", b"0123456789abcdef0123456789abcdef"),
    ],
)
def test_as_clients_write_it(content_type: str, boundary: bytes) -> None:
    plain = b"Content-Disposition: form-data; name=model\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nm"  # .NET
    guzzle = b'Content-Disposition: form-data; name="n"\r\nContent-Length: 1\r\n\r\n2'
    upload = b"content-disposition: form-data; name=file; filename=a.mp3; filename*=utf-8''a.mp3\r\n\r\n\r\n\r\n"
    for end in (b"", b"\r\n"):
        raw = joined(plain, guzzle, upload, boundary=boundary).removesuffix(b"\r\n") + end
        found = form.read(raw, content_type, KNOWN)
        assert {name: form.number(found, name) for name in found} == {"model": "m", "n": 2}
        assert [file.size for file in found.files] == [4]


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "application/json",
        "multipart/mixed; boundary=XX",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=XX; boundary=YY",
        "multipart/form-data; boundary=XX; Boundary=XX",
        'multipart/form-data; boundary="X\\X"',
        "multipart/form-data; boundary=X X",
        "multipart/form-data, boundary=XX",
        "multipart/form-data; boundary=" + "X" * 71,
    ],
)
def test_content_types_that_are_refused(content_type: str) -> None:
    with pytest.raises(Refusal) as caught:
        form.read(joined(part("model", "m")), content_type, KNOWN)
    assert caught.value.code == "invalid_request"


MODEL = part("model", "m")
WHOLE = joined(MODEL)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"--XX--\r\n",
        b"preamble\r\n" + WHOLE,
        b"\r\n" + WHOLE,
        WHOLE + b"epilogue",
        WHOLE + WHOLE,
        WHOLE[:-4],
        WHOLE.replace(b"\r\n", b"\n"),
        WHOLE.replace(b"--XX\r\n", b"--XX \r\n"),
        WHOLE.replace(b"\r\n\r\nm", b"\r\n"),
        joined(b"\r\n" + MODEL),
        joined(MODEL, part("prompt", "a\n--XX\nb")),
        joined(MODEL, part("prompt", "a\r\n--XXtra\r\nb")),
        joined(MODEL, part("file", "a--XX\r\nb", filename="f")),
        joined(MODEL, *[part("a", "b")] * 1000),
    ],
)
def test_bodies_that_others_might_read_otherwise(raw: bytes) -> None:
    with pytest.raises(Refusal):
        form.read(raw, TYPE, KNOWN)


@pytest.mark.parametrize(
    "parts",
    [
        [MODEL, MODEL],
        [MODEL, part("MODEL", "m")],
        [MODEL, part("model ", "m")],
        [MODEL, part("ſtream", "true")],
        [part("model", "m", filename="f")],
        [part("model", "m", headers='Content-Disposition: form-data; name="n"\r\n')],
        [part("model", "m", headers=' ; name="n"\r\n')],
        [part("model", "m", headers="Content-Transfer-Encoding: base64\r\n")],
        [part("model", "m", headers="Content-Type: text/plain; charset=utf-16\r\n")],
        [part("_charset_", "utf-7"), MODEL],
        [part("model", b"\xff")],
        [part("model", "m", headers="X: \x00\r\n")],
        [part("model", "m", headers="no header\r\n")],
        [part("mod%65l", "m")],
        [b'Content-Disposition: form-data; name="model"; name="n"\r\n\r\nm'],
        [b"Content-Disposition: form-data; name=\"n\"; name*=utf-8''model\r\n\r\nm"],
        [b'Content-Disposition: form-data; name="mo\\del"\r\n\r\nm'],
        [b"Content-Disposition: form-data\r\n\r\nm"],
        [b'Content-Disposition: attachment; name="model"\r\n\r\nm'],
        [b"Content-Type: text/plain\r\n\r\nm"],
    ],
)
def test_twins_and_other_doubtful_parts(parts: list[bytes]) -> None:
    with pytest.raises(Refusal):
        read(*parts)


def test_one_field_is_changed_and_no_other_byte() -> None:
    raw = joined(part("file", bytes(range(256)) * 9, filename="f"), part("model", "cheap"), part("prompt", "cheap"))
    fields = form.read(raw, TYPE, KNOWN)
    changed = whole(form.write(raw, fields, {"model": "a/longer-name"}))
    assert changed == raw.replace(b'name="model"\r\n\r\ncheap', b'name="model"\r\n\r\na/longer-name')
    assert whole(form.write(raw, fields, {})) == raw
    pieces = form.write(raw, fields, {"model": "n"})
    assert [piece.obj is raw if isinstance(piece, memoryview) else piece for piece in pieces] == [True, b"n", True]
    assert form.write(b"{}", {}, {"model": "m"}) == b'{"model":"m"}'


@given(
    st.lists(st.tuples(st.sampled_from(["prompt", "file", "x"]), st.binary(max_size=60)), max_size=6),
    st.text(max_size=9),
    st.text(alphabet="abc/:", min_size=1, max_size=9),
)
def test_what_is_written_is_read_back(others: list[tuple[str, bytes]], model: str, name: str) -> None:
    parts = [part(field, data, filename="f" if field == "file" else None) for field, data in others]
    raw = joined(*parts, part("model", model), boundary=b"0123456789abcdef")
    kind = "multipart/form-data; boundary=0123456789abcdef"
    fields = form.read(raw, kind, KNOWN)
    assert body.value(fields, "model") == model
    changed = whole(form.write(raw, fields, {"model": name}))
    again = form.read(changed, kind, KNOWN)
    assert body.value(again, "model") == name
    assert again.files == fields.files
    assert again.text_bytes - fields.text_bytes == len(name) - len(model.encode())
    assert whole(form.write(changed, again, {"model": model})) == raw


@pytest.mark.parametrize(
    ("value", "flag"), [("true", True), ("True", True), ("1", True), ("false", False), ("False", False), ("0", False)]
)
def test_yes_and_no(value: str, flag: bool) -> None:
    assert form.flag(read(part("stream", value)), "stream") is flag


@pytest.mark.parametrize("value", ["yes", "", "2", "null"])
def test_what_is_neither(value: str) -> None:
    with pytest.raises(Refusal):
        form.flag(read(part("stream", value)), "stream")


@pytest.mark.parametrize(
    ("value", "number"),
    [("2", 2), ("007", 7), ("-1", "-1"), ("1.5", "1.5"), ("٣", "٣"), ("", ""), ("1" * 11, "1" * 11)],
)
def test_numbers_are_written_in_digits(value: str, number: Any) -> None:
    assert form.number(read(part("n", value)), "n") == number


def test_json_where_a_path_takes_both() -> None:
    assert form.read_either(b'{"model":"m"}', "application/json", KNOWN) == body.read(b'{"model":"m"}', KNOWN)
    assert form.read_either(WHOLE, TYPE, KNOWN) == form.read(WHOLE, TYPE, KNOWN)
    with pytest.raises(Refusal):
        form.read_either(WHOLE, "multipart/mixed; boundary=XX", KNOWN)


# -- as real clients write it


def test_what_the_openai_sdk_sends() -> None:
    sound, picture = b"ID3" + bytes(3000), b"\x89PNG" + bytes(300)
    with Replay() as upstream:
        upstream.answer(*json_answer({"text": "hello", "data": []}))
        client = openai.OpenAI(api_key="k", base_url=upstream.url, max_retries=0)
        client.audio.transcriptions.create(
            model="whisper-1",
            file=("ä b.mp3", sound),
            prompt="héllo",
            timestamp_granularities=["word", "segment"],
            response_format="verbose_json",
        )
        client.images.edit(model="gpt-image-1", image=[("a.png", picture), ("b.png", picture)], prompt="x", n=2)
        heard, drawn = upstream.requests
    for endpoint, sent in ((TRANSCRIPTIONS, heard), (IMAGE_EDITS, drawn)):
        fields = endpoint.read(sent.body, sent.header("content-type") or "", endpoint.known)
        renamed = whole(endpoint.write(sent.body, fields, {"model": "another"}))
        asked = endpoint.read_ask(fields, None)
        assert renamed.replace(b"another", asked.model.encode()) == sent.body
        if endpoint is TRANSCRIPTIONS:
            assert (asked.model, asked.milliseconds) == ("whisper-1", 4_004)
        else:
            assert (asked.model, asked.images, asked.media_tokens) == ("gpt-image-1", 2, 2 * IMAGE_TOKENS)


async def test_what_aiohttp_sends() -> None:
    data = aiohttp.FormData()
    data.add_field("model", "m")
    data.add_field("file", bytes(900), filename="a.wav", content_type="audio/wav")
    with Replay() as upstream:
        upstream.answer(*json_answer({}))
        async with aiohttp.ClientSession() as session, session.post(upstream.url, data=data):
            pass
        (sent,) = upstream.requests
    found = form.read(sent.body, sent.header("content-type") or "", KNOWN)
    assert (body.value(found, "model"), found.files[0].size) == ("m", 900)
