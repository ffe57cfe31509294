"""PNG files as the chunks that they are made of, with the texts in them that somebody asks for."""

import struct
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from callboard_contracts.errors import CallboardError, ErrorCode

SIGNATURE = b"\x89PNG\r\n\x1a\n"
TEXT_KINDS = frozenset({b"tEXt", b"zTXt", b"iTXt"})
PRIVATE_KINDS = TEXT_KINDS | {b"eXIf", b"tIME"}
MAX_CHUNKS = 65_536


@dataclass(frozen=True, slots=True)
class Chunk:
    """One chunk, whose check sum was right."""

    kind: bytes
    data: bytes


def chunks(data: bytes) -> Iterator[Chunk]:
    """The chunks of a PNG file, from `IHDR` to `IEND`.

    Raises:
        CallboardError: the file is none, is cut off, or is damaged.
    """
    if not data.startswith(SIGNATURE):
        raise bad_card("The file is not a PNG.")
    at = len(SIGNATURE)
    for n in range(MAX_CHUNKS):
        if at + 12 > len(data):
            raise bad_card("The PNG file is cut off.")
        size, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + size
        if end > len(data):
            raise bad_card("The PNG file is cut off.")
        if zlib.crc32(data[at + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            raise bad_card("The PNG file is damaged: a check sum is wrong.")
        if (n == 0) != (kind == b"IHDR"):
            raise bad_card("The PNG file is damaged: its header is not where it belongs.")
        yield Chunk(kind, data[at + 8 : end - 4])
        if kind == b"IEND":
            return
        at = end
    raise bad_card("The PNG file has too many chunks.")


def texts(found: Iterable[Chunk], keywords: Collection[str], max_bytes: int) -> Mapping[str, bytes]:
    """The texts of a file under these keywords, the first of each, decompressed up to a size.

    Raises:
        CallboardError: a text is longer, or cannot be decompressed.
    """
    texts: dict[str, bytes] = {}
    for chunk in found:
        if chunk.kind not in TEXT_KINDS:
            continue
        keyword, _, rest = chunk.data.partition(b"\0")
        name = keyword.decode("latin-1").lower()
        if name not in keywords or name in texts:
            continue
        text, compressed = _text(chunk.kind, rest)
        texts[name] = _decompressed(text, max_bytes) if compressed else text
        if len(texts[name]) > max_bytes:
            raise too_large(max_bytes)
    return texts


def _text(kind: bytes, rest: bytes) -> tuple[bytes, bool]:
    """What follows a keyword, and whether it is compressed."""
    if kind == b"tEXt":
        return rest, False
    if kind == b"zTXt":
        return rest[1:], True
    _language, _, after = rest[2:].partition(b"\0")
    return after.partition(b"\0")[2], rest[:1] == b"\1"


def _decompressed(data: bytes, max_bytes: int) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, max_bytes + 1)
    except zlib.error:
        raise bad_card("A text in the PNG file cannot be decompressed.") from None


def png(parts: Iterable[Chunk], added: Mapping[str, bytes] | None = None) -> bytes:
    """A PNG file of some chunks, with texts before its end and without those it had."""
    out = [SIGNATURE]
    for chunk in parts:
        if chunk.kind == b"IEND":
            out += [_packed(b"tEXt", name.encode("latin-1") + b"\0" + text) for name, text in (added or {}).items()]
        if chunk.kind not in PRIVATE_KINDS:
            out.append(_packed(chunk.kind, chunk.data))
    return b"".join(out)


def _packed(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bad_card(message: str) -> CallboardError:
    """The error for a file that is no card."""
    return CallboardError(ErrorCode.INVALID_REQUEST, message, param="card")


def too_large(max_bytes: int) -> CallboardError:
    """The error for a card with more than is kept."""
    return CallboardError(ErrorCode.BODY_TOO_LARGE, f"The card has more than {max_bytes} bytes.", param="card")
