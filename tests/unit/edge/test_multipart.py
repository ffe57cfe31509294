"""The parser of forms: every cut, unusual part headers, and its bounds."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_edge.http.multipart import (
    MAX_FIELD_BYTES,
    MAX_PART_HEADER_BYTES,
    MAX_PARTS,
    FormContent,
    FormParser,
    is_form,
)

pytestmark = pytest.mark.unit

TYPE = "multipart/form-data; boundary=xYz"
SOUND = b"RIFF\r\n--xY\r\n\r\n--\x00\xff\r\n"
"""Bytes that look like the beginnings of a boundary."""


def part(disposition: str, content: bytes, *more: str) -> bytes:
    """One part."""
    lines = [f"Content-Disposition: {disposition}", *more]
    return b"--xYz\r\n" + "\r\n".join(lines).encode() + b"\r\n\r\n" + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    """A whole body."""
    return b"".join(parts) + b"--xYz--\r\n"


def parse(raw: bytes, step: int = 1 << 20, content_type: str = TYPE) -> FormContent:
    """Reads a body in pieces."""
    parser = FormParser(content_type, "file", 1000)
    for at in range(0, len(raw), step):
        parser.feed(raw[at : at + step])
    return parser.close()


MODEL = part('form-data; name="model"', b"whisper-1")
FILE = part('form-data; name="file"; filename="a.wav"', SOUND, "Content-Type: audio/wav")


@pytest.mark.parametrize("step", [1, 2, 3, 7, 64, 1 << 20])
@pytest.mark.parametrize("parts", [(MODEL, FILE), (FILE, MODEL)], ids=["file last", "file first"])
def test_parts_are_read_in_any_order_however_the_bytes_arrive(parts: tuple[bytes, ...], step: int) -> None:
    found = parse(form(*parts), step)
    assert found.fields == {"model": ["whisper-1"]}
    assert found.file == SOUND


@pytest.mark.parametrize(
    "disposition",
    [
        'form-data; name="file"',
        "form-data; name=file; filename=a.wav",
        'form-data; filename="a; name=model.wav"; name="file"',
        'form-data; filename="C:\\\\sounds\\\\a \\"b\\".wav"; name="file"',
        "form-data; name*=UTF-8''file; filename*=UTF-8''na%C3%AFve.wav",
        'form-data;\r\n name="file";\r\n\tfilename="a.wav"',
        'FORM-DATA; NAME="file"; FILENAME="ü.wav"',
        'attachment; name="file[]"',
    ],
)
def test_unusual_part_headers_are_understood(disposition: str) -> None:
    more = ("content-length: 5", "X-Own: 1", "Content-Transfer-Encoding: binary")
    assert parse(form(part(disposition, SOUND, *more)), 5).file == SOUND


def test_names_of_lists_lose_their_brackets_and_texts_may_name_their_charset() -> None:
    words = part('form-data; name="timestamp_granularities[]"', b"word")
    segments = part('form-data; name="timestamp_granularities[1]"', b"segment")
    prompt = part('form-data; name="prompt"', "é".encode("latin-1"), "Content-Type: text/plain; charset=latin-1")
    assert parse(form(words, segments, prompt)).fields == {
        "timestamp_granularities": ["word", "segment"],
        "prompt": ["é"],
    }


def test_preamble_blanks_behind_a_boundary_and_an_epilogue_are_passed_over() -> None:
    raw = b"Nothing here.\r\n" + MODEL.replace(b"--xYz\r\n", b"--xYz \t\r\n") + b"--xYz--\r\nNor here: --xYz\r\n"
    assert parse(raw, 3).fields == {"model": ["whisper-1"]}


def test_empty_parts_are_kept_as_empty() -> None:
    empty = part('form-data; name="file"; filename=""', b""), part('form-data; name="prompt"', b"")
    found = parse(form(*empty), 1)
    assert (found.file, found.fields) == (b"", {"prompt": [""]})


MALFORMED = {
    "no boundary": form(MODEL).replace(b"xYz", b"zyx"),
    "cut in the headers": MODEL[:20],
    "cut in the content": FILE[:-10],
    "no last boundary": MODEL + FILE,
    "bytes behind a boundary": form(MODEL).replace(b"--xYz\r\n", b"--xYzz\r\n"),
    "no name": form(part("form-data", b"x")),
    "no disposition": b"--xYz\r\n\r\nx\r\n--xYz--\r\n",
    "encoded": form(part('form-data; name="file"', b"AAAA", "Content-Transfer-Encoding: base64")),
    "long headers": form(part('form-data; name="file"', b"x", "X: " + "y" * MAX_PART_HEADER_BYTES)),
    "headers without an end": b"--xYz\r\n" + b"y" * 100_000,
    "many semicolons": form(part('form-data; name="file"; ' + ";" * 5000, b"x")),
    "many parts": form(*[MODEL] * (MAX_PARTS + 1)),
    "a long field": form(part('form-data; name="prompt"', b"x" * (MAX_FIELD_BYTES + 1))),
    "no text": form(part('form-data; name="prompt"', b"\xff\xfe")),
    "unknown charset": form(part('form-data; name="prompt"', b"x", "Content-Type: text/plain; charset=klingon")),
    "no charset of texts": form(
        part('form-data; name="prompt"', b"bcher-kva", "Content-Type: text/plain; charset=PunyCode")
    ),
    "two files": form(FILE, FILE),
    "nothing": b"",
}


@pytest.mark.parametrize("raw", MALFORMED.values(), ids=MALFORMED.keys())
@pytest.mark.parametrize("step", [13, 1 << 20])
def test_malformed_forms_are_refused(raw: bytes, step: int) -> None:
    with pytest.raises(CallboardError) as refused:
        parse(raw, step)
    assert refused.value.info.code is ErrorCode.INVALID_REQUEST


def test_large_file_is_refused_as_soon_as_it_is_too_large() -> None:
    parser = FormParser(TYPE, "file", 1000)
    with pytest.raises(CallboardError) as refused:
        parser.feed(part('form-data; name="file"', b"x" * 1001)[:-2] + b"more" * 10)
    assert refused.value.info.code is ErrorCode.BODY_TOO_LARGE


@pytest.mark.parametrize("content_type", [FormParser.__name__, "multipart/form-data", f"{TYPE}{'z' * 300}"])
def test_type_without_a_usable_boundary_is_refused(content_type: str) -> None:
    with pytest.raises(CallboardError):
        FormParser(content_type, "file", 1000)


def test_type_is_a_form_in_any_case() -> None:
    assert is_form({"Content-Type": "Multipart/Form-Data; boundary=x"})
    assert not is_form({"Content-Type": "multipart/mixed; boundary=x"})


def outcome(raw: bytes, step: int) -> FormContent | str:
    """What a body is read as, or why it is not."""
    try:
        return parse(raw, step)
    except CallboardError as error:
        return error.info.message


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from([MODEL, FILE, b"--xYz", b"\r\n", b"--", b" ", SOUND, b"--xYz--\r\n", b"\r\n--xYz\r\n", b"a: b"])
        | st.binary(max_size=12),
        max_size=9,
    ).map(b"".join),
    st.integers(1, 40),
)
def test_any_bytes_are_read_alike_however_they_arrive(raw: bytes, step: int) -> None:
    assert outcome(raw, step) == outcome(raw, len(raw) + 1)
