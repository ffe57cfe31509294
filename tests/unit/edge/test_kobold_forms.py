"""Forms of speech clients, whatever is in them."""

import asyncio
from collections.abc import Iterator

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callboard_contracts.errors import CallboardError
from callboard_edge.http.bodies import parse
from callboard_edge.protocols.kobold.speech import SpeechBody, form_fields

pytestmark = pytest.mark.unit

FORM, PARTS = "application/x-www-form-urlencoded", "multipart/form-data; boundary=b"
PIECES = st.sampled_from(
    [
        *(b"--b", b"--b--", b"--", b"\r\n", b"\n", b"=", b"&", b"%", b"%zz", b";", b":", b'"', b"\x00", b"\xff\xfe"),
        *(b"Content-Disposition: form-data; name=", b"Content-Disposition: ;;=", b"name*=utf-8''a%ff", b'"text_input"'),
        *(b"Content-Transfer-Encoding: base64", b"Content-Transfer-Encoding: x-uuencode", b"Content-Type: multipart/x"),
        *(b"Content-Type: text/plain; charset=nope", b"text_input", b"Hello", b"; boundary=c", b"begin 644 x"),
    ]
)


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from([FORM, PARTS, "multipart/form-data", "multipart/form-data; boundary="]),
    pieces=st.lists(PIECES, max_size=24),
)
def test_a_form_is_read_or_refused(kind: str, pieces: list[bytes]) -> None:
    try:
        fields = form_fields(kind, b"".join(pieces))
    except (ValueError, CallboardError):
        return
    assert all(isinstance(part, str) for field in fields.items() for part in field)


def encoded(form: aiohttp.FormData) -> tuple[str, bytes]:
    """A form as a client writes it."""
    payload = form()
    chunks: list[bytes] = []

    class Sink:
        async def write(self, chunk: bytes) -> None:
            chunks.append(chunk)

    asyncio.run(payload.write(Sink()))  # type: ignore[arg-type]
    return payload.content_type, b"".join(chunks)


def forms() -> Iterator[tuple[str, bytes]]:
    yield FORM, b"text_input=Hello+there%2C+Zo%C3%AB&language=en&empty="
    yield encoded(_filled(aiohttp.FormData(default_to_multipart=True)))
    yield encoded(_filled(aiohttp.FormData()))


def _filled(form: aiohttp.FormData) -> aiohttp.FormData:
    for name, value in (("text_input", "Hello there, Zoë"), ("language", "en"), ("empty", "")):
        form.add_field(name, value)
    return form


def test_both_kinds_of_forms_are_read() -> None:
    for kind, raw in forms():
        assert form_fields(kind, raw) == {"text_input": "Hello there, Zoë", "language": "en", "empty": ""}, kind


@pytest.mark.parametrize(
    ("sent", "speed"),
    [
        ("2", 2.0),
        ("9", 4.0),
        ("-1", 0.25),
        ('"1.5"', 1.5),
        ("null", 1.0),
        ("[]", 1.0),
        ("1e999", 4.0),
        ("1" * 400, 1.0),
    ],
)
def test_any_speed_is_one_that_can_be_spoken(sent: str, speed: float) -> None:
    assert parse(SpeechBody, f'{{"input": "Hello.", "speed": {sent}}}'.encode()).speed == speed
