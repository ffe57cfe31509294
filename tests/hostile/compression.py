"""Compressed bodies that are bombs, broken or built to be slow, and the statuses that may answer each."""

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import zstandard

from tests.support.deployment import CHAT_MODEL

BOMB_BYTES = 64 * 1024 * 1024
EMPTY_MESSAGES = 118_000


@dataclass(frozen=True, slots=True)
class Compressed:
    """A body and how it says it is encoded."""

    name: str
    encoding: str
    body: bytes
    statuses: tuple[int, ...]


def _gzip(plain: bytes) -> bytes:
    return zlib.compress(plain, 9, wbits=31)


def payloads() -> Iterator[Compressed]:
    """Every kind."""
    message = {"role": "user", "content": ""}
    plain = json.dumps({"model": CHAT_MODEL, "messages": [message] * EMPTY_MESSAGES}).encode()
    small = json.dumps({"model": CHAT_MODEL, "messages": [{"role": "alien", "content": "x" * 3000}]}).encode()
    blanks = b" " * BOMB_BYTES
    bomb = _gzip(blanks)
    endless = zstandard.ZstdCompressor(level=19).compress(blanks)
    wide = zstandard.ZstdCompressionParameters(window_log=27, compression_level=1)
    streamed = zstandard.ZstdCompressor(compression_params=wide).compressobj()
    yield Compressed("very many messages", "gzip", _gzip(plain), (400, 413))
    yield Compressed("very many messages", "zstd", zstandard.compress(plain), (400, 413))
    yield Compressed("bomb", "gzip", bomb, (413,))
    yield Compressed("bomb of many members", "gzip", bomb * 20, (413,))
    yield Compressed("bomb", "zstd", endless, (413,))
    yield Compressed("bomb of many frames", "zstd", endless * 20, (413,))
    yield Compressed("bomb in a bomb", "gzip", _gzip(bomb), (400,))
    yield Compressed("wide window", "zstd", streamed.compress(plain) + streamed.flush(), (400, 413))
    yield Compressed(
        "announces 2^60 bytes", "zstd", b"\x28\xb5\x2f\xfd\xe0" + (2**60).to_bytes(8, "little"), (400, 413)
    )
    yield Compressed("empty members", "gzip", gzip.compress(b"") * 150_000, (400, 413))
    yield Compressed("empty frames", "zstd", zstandard.compress(b"") * 300_000, (400, 413))
    yield Compressed("skippable frames", "zstd", b"\x50\x2a\x4d\x18\0\0\0\0" * 400_000, (400, 413))
    yield Compressed("garbage behind", "gzip", _gzip(small) + b"garbage", (400,))
    yield Compressed("garbage behind", "zstd", zstandard.compress(small) + b"garbage", (400,))
    yield Compressed("a name of a megabyte", "gzip", b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * 1_000_000, (400,))
    for encoding, body in (("gzip", _gzip(small)), ("zstd", zstandard.compress(small))):
        yield Compressed("right but for the role", encoding, body, (400,))
        yield Compressed("cut", encoding, body[:-5], (400,))
        yield Compressed("only a beginning", encoding, body[:4], (400,))
        yield Compressed("a wrong byte", encoding, body[:20] + bytes([body[20] ^ 255]) + body[21:], (400,))
        yield Compressed("twice", f"{encoding}, {encoding}", _gzip(body), (415,))
    yield Compressed("named otherwise", "zstd", _gzip(small), (400,))
    yield Compressed("named otherwise", "gzip", zstandard.compress(small), (400,))
    yield Compressed("not compressed", "gzip", small, (400,))
    for encoding in ("br", "deflate", "compress", "GZIP;q=1", "gzip\tgzip", "x" * 4000):
        yield Compressed("not offered", encoding, zlib.compress(small), (415,))
