"""Reads `multipart/form-data` while it arrives: text fields and one file, each within bounds."""

import email.parser
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import Message
from encodings import normalize_encoding
from encodings.aliases import aliases

from callboard_contracts.errors import CallboardError, ErrorCode

FORM = "multipart/form-data"
MAX_BOUNDARY_BYTES = 200
MAX_PARTS = 128
MAX_PART_HEADER_BYTES = 8 * 1024
MAX_PARAMETERS = 64
"""How many semicolons headers may have; each costs Python's parser a look at all that stands before it."""
MAX_FIELD_BYTES = 64 * 1024
"""How long a text field may be, and all of them together."""
_CHARSETS = frozenset((*aliases, *aliases.values()))
"""Python knows more: codecs for names of hosts, which take a second for the longest field. Every name that it does not
know it keeps for ever."""
_PLAIN_ENCODINGS = frozenset({"", "7bit", "8bit", "binary"})
_INDEX = re.compile(r"\[\d*\]\Z")


@dataclass(slots=True)
class FormContent:
    """What a form holds: text fields in their order by name, and the file.

    Names are without what some clients put behind those of lists, as in `include[]`.
    """

    fields: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    file: bytearray | None = None


class FormParser:
    """Takes a form's bytes as they come and keeps only what its parts say; `file_field` is the part with the file."""

    def __init__(
        self,
        content_type: str,
        file_field: str | None = None,
        max_file_bytes: int = 0,
        max_field_bytes: int = MAX_FIELD_BYTES,
    ) -> None:
        """Raises CallboardError for a content type that is not a form's, or that has no usable boundary."""
        self.content = FormContent()
        self._delimiter = b"\r\n--" + _boundary(content_type)
        self._file_field = file_field
        self._max_file_bytes = max_file_bytes
        self._max_field_bytes = max_field_bytes
        # The first boundary may be the first that there is, and then has no line before it.
        self._buffer = bytearray(b"\r\n")
        self._step = self._preamble
        self._parts = 0
        self._field_bytes = 0
        self._part: bytearray = bytearray()
        self._name = ""
        self._charset = "utf-8"
        self.ended = False

    def feed(self, data: bytes) -> None:
        """Takes the next bytes; raises CallboardError for what is no form, or holds too much."""
        if self.ended:
            return
        self._buffer += data
        while not self.ended and self._step():
            pass

    def close(self) -> FormContent:
        """The form, once all bytes are in; raises CallboardError where its end is missing."""
        if not self.ended:
            raise _malformed("it ends before its last boundary")
        return self.content

    def _preamble(self) -> bool:
        at = self._buffer.find(self._delimiter)
        if at < 0:
            del self._buffer[: max(0, len(self._buffer) - len(self._delimiter) + 1)]
            return False
        del self._buffer[: at + len(self._delimiter)]
        self._step = self._boundary_end
        return True

    def _boundary_end(self) -> bool:
        """What follows a boundary: two dashes after the last one, else blanks and the end of the line."""
        if self._buffer.startswith(b"--"):
            self.ended = True
            self._buffer.clear()
            return False
        line, found, _ = self._buffer.partition(b"\r\n")
        if len(line) > MAX_PART_HEADER_BYTES or bytes(line).strip(b" \t") not in {b"", b"-", b"\r"}:
            raise _malformed("something stands behind a boundary")
        if not found:
            return False
        if line.strip(b" \t"):
            raise _malformed("something stands behind a boundary")
        # The end of this line stays, so that a part without headers begins with an empty line like any other.
        del self._buffer[: len(line)]
        self._step = self._headers
        return True

    def _headers(self) -> bool:
        at = self._buffer.find(b"\r\n\r\n")
        if at > MAX_PART_HEADER_BYTES or (at < 0 and len(self._buffer) > MAX_PART_HEADER_BYTES):
            raise _malformed(f"the headers of a part are longer than {MAX_PART_HEADER_BYTES} bytes")
        if at < 0:
            return False
        self._begin_part(bytes(self._buffer[2 : at + 2]))
        # The line end before the content may be the one before the next boundary, of a part without content.
        del self._buffer[: at + 2]
        self._step = self._body_begin
        return True

    def _begin_part(self, raw: bytes) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise _malformed(f"it has more than {MAX_PARTS} parts")
        # Browsers and HTTP libraries send names as UTF-8.
        headers = _headers(raw.decode("utf-8", "replace"))
        encoding = str(headers.get("Content-Transfer-Encoding", "")).strip().lower()
        if encoding not in _PLAIN_ENCODINGS:
            raise _malformed("the content of a part is encoded; send it as it is")
        name = _parameter(headers, "name", "content-disposition")
        if not name:
            raise _malformed("a part has no name")
        self._name = _INDEX.sub("", name)
        self._charset = normalize_encoding(_parameter(headers, "charset") or "utf-8").lower()
        if self._name == self._file_field and self.content.file is not None:
            raise CallboardError(
                ErrorCode.INVALID_REQUEST, "The form has more than one file; send one.", param=self._file_field
            )
        self._part = bytearray()

    def _body_begin(self) -> bool:
        if len(self._buffer) < len(self._delimiter):
            return False
        if not self._buffer.startswith(self._delimiter):
            del self._buffer[:2]
        self._step = self._body
        return True

    def _body(self) -> bool:
        at = self._buffer.find(self._delimiter)
        known = at if at >= 0 else max(0, len(self._buffer) - len(self._delimiter) + 1)
        self._take(memoryview(self._buffer)[:known])
        if at < 0:
            del self._buffer[:known]
            return False
        del self._buffer[: at + len(self._delimiter)]
        self._end_part()
        self._step = self._boundary_end
        return True

    def _take(self, content: memoryview) -> None:
        is_file = self._name == self._file_field
        with content:
            if is_file and len(self._part) + len(content) > self._max_file_bytes:
                raise CallboardError(
                    ErrorCode.BODY_TOO_LARGE,
                    f"The file is larger than the limit of {self._max_file_bytes} bytes.",
                    param=self._file_field,
                )
            self._part += content
            if not is_file:
                self._field_bytes += len(content)
                if self._field_bytes > self._max_field_bytes:
                    raise _malformed(f"its text fields are longer than {self._max_field_bytes} bytes")

    def _end_part(self) -> None:
        if self._name == self._file_field:
            self.content.file = self._part
        else:
            text = _text(self._part, self._charset)
            if text is None:
                raise CallboardError(
                    ErrorCode.INVALID_REQUEST, f"The field '{self._name}' is not valid text.", param=self._name
                )
            self.content.fields.setdefault(self._name, []).append(text)
        self._part = bytearray()


def is_form(headers: Mapping[str, str]) -> bool:
    """Whether a request says that its body is such a form."""
    return headers.get("Content-Type", "").partition(";")[0].strip().lower() == FORM


def _headers(text: str) -> Message:
    if text.count(";") > MAX_PARAMETERS:
        raise _malformed(f"headers have more than {MAX_PARAMETERS} parameters")
    return email.parser.HeaderParser().parsestr(text)


def _text(content: bytearray, charset: str) -> str | None:
    """The text of a field, None where it is not of its charset, or that is unknown."""
    try:
        return content.decode(charset) if charset in _CHARSETS else None
    except (UnicodeDecodeError, LookupError):
        return None


def _parameter(headers: Message, name: str, header: str = "content-type") -> str:
    """A header's parameter, also one that is folded, quoted, escaped or percent-encoded; empty where there is none."""
    found = headers.get_param(name, header=header)
    text = found[2] if isinstance(found, tuple) else found
    return text if isinstance(text, str) else ""


def _boundary(content_type: str) -> bytes:
    boundary = _parameter(_headers(f"Content-Type: {content_type}\r\n\r\n"), "boundary")
    found = boundary.rstrip().encode("utf-8", "replace")
    if not found or len(found) > MAX_BOUNDARY_BYTES:
        raise _malformed("its content type names no boundary")
    return found


def _malformed(why: str) -> CallboardError:
    return CallboardError(ErrorCode.INVALID_REQUEST, f"The body is not a valid form: {why}.")
