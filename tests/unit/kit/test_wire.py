"""Messages as they stand on the connection to the bus."""

import nats.errors
import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard_kit.wire import counted_bytes, parse_headers, publish_command

pytestmark = pytest.mark.unit

TEXTS = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=20)


def test_message_without_headers_is_a_line_and_its_payload() -> None:
    assert publish_command("a.b", b"text", "", None) == b"PUB a.b 4\r\ntext\r\n"
    assert publish_command("a.b", b"", "answer.here", {}) == b"PUB a.b answer.here 0\r\n\r\n"


@given(st.dictionaries(st.text("abcABC-", min_size=1, max_size=8), TEXTS, min_size=1, max_size=3), st.binary())
def test_headers_and_payload_are_counted_in_bytes_and_read_back(headers: dict[str, str], payload: bytes) -> None:
    line, _, rest = publish_command("a", payload, "r", headers).partition(b"\r\n")
    operation, subject, reply, block_bytes, whole_bytes = line.split(b" ")
    assert (operation, subject, reply) == (b"HPUB", b"a", b"r")
    assert counted_bytes(line + b"\r\n" + rest) == int(whole_bytes) == len(rest) - 2
    assert rest[int(block_bytes) :] == payload + b"\r\n"
    assert parse_headers(rest[: int(block_bytes)]) == {name: value.strip() for name, value in headers.items()}


def test_line_breaks_in_a_header_become_spaces() -> None:
    command = publish_command("a", b"", "", {"Note": " two\r\nlines: \tPUB b 0 "})
    assert command.count(b"\r\n") == 5
    assert b"\r\nNote: two  lines: \tPUB b 0\r\n\r\n" in command


def test_a_name_of_a_header_cannot_be_a_line() -> None:
    with pytest.raises(nats.errors.BadHeaderError):
        publish_command("a", b"", "", {"Note: x\r\nOther": "y"})


@pytest.mark.parametrize(
    ("subject", "reply"), [("", ""), ("a b", ""), ("a", "b c"), ("a\r\nPUB b 0", ""), ("a", "b\n"), ("a\t", "")]
)
def test_what_is_no_subject_is_refused(subject: str, reply: str) -> None:
    with pytest.raises(nats.errors.BadSubjectError):
        publish_command(subject, b"", reply, None)
