"""The vocabulary is found among whatever else a file says of itself."""

import struct
from pathlib import Path

import pytest

from callboard_chat.backends.gguf import read_header

pytestmark = pytest.mark.unit


def string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def entry(name: str, kind: int, value: bytes) -> bytes:
    return string(name) + struct.pack("<I", kind) + value


def array(kind: int, count: int, items: bytes) -> bytes:
    return struct.pack("<IQ", kind, count) + items


TOKENS = entry("tokenizer.ggml.tokens", 9, array(8, 3, string("a") + string("<｜User｜>") + string("")))
TYPES = entry("tokenizer.ggml.token_type", 9, array(5, 3, struct.pack("<3i", 1, 3, 4)))
OTHERS = (
    entry("general.architecture", 8, string("llama")),
    entry("llama.block_count", 4, struct.pack("<I", 30)),
    entry("tokenizer.ggml.add_bos_token", 7, b"\x01"),
    entry("llama.rope.freq_base", 6, struct.pack("<f", 1e4)),
    entry("general.size", 10, struct.pack("<Q", 1 << 40)),
    entry("nested", 9, array(9, 1, array(4, 2, struct.pack("<2I", 1, 2)))),
)


def write(folder: Path, *entries: bytes) -> Path:
    path = folder / "model.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(entries)) + b"".join(entries))
    return path


def test_tokens_and_types_are_found_among_other_entries(tmp_path: Path) -> None:
    path = write(tmp_path, *OTHERS, TOKENS, TYPES)
    header = read_header(path)
    assert (header.tokens, header.types) == (["a", "<｜User｜>", ""], [1, 3, 4])
    assert (header.architecture, header.size_bytes) == ("llama", path.stat().st_size)


def test_a_file_without_a_vocabulary_has_an_empty_one(tmp_path: Path) -> None:
    header = read_header(write(tmp_path, *OTHERS))
    assert (header.tokens, header.types) == ([], [])


@pytest.mark.parametrize("data", [b"", b"GGUF", b"PK\x03\x04 and more", b"GGUF" + struct.pack("<IQQ", 3, 0, 9)])
def test_what_is_no_such_file_is_an_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="no GGUF file"):
        read_header(path)
