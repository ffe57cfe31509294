"""Files that almost are sounds, and forms that almost are forms."""

import random
from collections.abc import Callable, Sequence

from tests.support.deployment import HEARING_MODEL
from tests.support.forms import BOUNDARY, form, part
from tests.support.sounds import encoded, film_without_sound, melody, noise, wav

CONTAINERS = (
    ("flac", "flac"),
    ("mp3", "libmp3lame"),
    ("ogg", "libopus"),
    ("matroska", "libopus"),
    ("adts", "aac"),
    ("mov", "aac"),
)
MARKS = (
    b"OggS",
    b"RIFF",
    b"fLaC",
    b"ID3\x04",
    b"\x1aE\xdf\xa3",
    b"\0\0\0\x20ftypisom",
    b"#EXTM3U\n",
    b"ffconcat version 1.0\n",
)
NAMES = (b"name=file", b'name="', b"name*=utf-8''fi%6ce", b'name="file[]"')
HEAD_BYTES = 96
"""Where containers have their sizes and counts."""

Spoil = Callable[[bytes, random.Random], bytes]


def whole_files() -> Sequence[bytes]:
    """A second of sound in each container, and a film without any."""
    sound = melody([440])
    return [wav(sound), wav(noise(1)), film_without_sound(), *(encoded(sound, *one) for one in CONTAINERS)]


def _cut(file: bytes, chance: random.Random) -> bytes:
    return file[: chance.randrange(len(file))]


def _changed_head(file: bytes, chance: random.Random) -> bytes:
    changed = bytearray(file)
    for _ in range(chance.randint(1, 6)):
        changed[chance.randrange(min(HEAD_BYTES, len(file)))] = chance.choice((0, 1, 0x7F, 0x80, 0xFF))
    return bytes(changed)


def _changed_anywhere(file: bytes, chance: random.Random) -> bytes:
    changed = bytearray(file)
    for _ in range(chance.randint(1, 60)):
        changed[chance.randrange(len(file))] = chance.randrange(256)
    return bytes(changed)


def _without_a_piece(file: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(file))
    return file[:at] + file[at + chance.randint(1, 500) :]


def _longer(file: bytes, chance: random.Random) -> bytes:
    return file + chance.choice((file, chance.randbytes(300), bytes(20_000), chance.choice(MARKS)))


def _other_mark(file: bytes, chance: random.Random) -> bytes:
    mark = chance.choice(MARKS)
    return mark + chance.choice((file, file[len(mark) :], chance.randbytes(2000)))


SPOILS: tuple[Spoil, ...] = (_cut, _changed_head, _changed_anywhere, _without_a_piece, _longer, _other_mark)


def spoiled_file(whole: Sequence[bytes], chance: random.Random) -> bytes:
    """A file with one or two faults, or random bytes."""
    if chance.random() < 0.1:
        return chance.randbytes(chance.choice((0, 1, 3, 500, 5000)))
    file = chance.choice(whole)
    for spoil in chance.choices(SPOILS, k=chance.choice((1, 1, 2))):
        file = spoil(file, chance) or b"\0"
    return file


def spoiled_form(file: bytes, chance: random.Random) -> tuple[bytes, str]:
    """A form with a fault, and its content type."""
    right = form({"model": HEARING_MODEL, "response_format": "json"}, file)
    field = part("prompt", b"An owl.")
    mark = f"--{BOUNDARY}".encode()
    at = chance.randrange(len(right))
    bodies = (
        right,
        right[:at],
        right[:at] + chance.randbytes(8) + right[at:],
        right.replace(b"\r\n", b"\n"),
        right.replace(b"\r\n", b"\r", 3),
        right.replace(b"form-data", b"attachment", 1),
        right.replace(b'name="file"', chance.choice(NAMES)),
        right.replace(b"Content-Disposition", b"Content-Transfer-Encoding: base64\r\nContent-Disposition", 1),
        right.replace(b"Content-Disposition", b"X: " + b"y" * 9000 + b"\r\nContent-Disposition", 1),
        right.replace(b"Content-Disposition", b"Content-Type: text/plain; charset=\xff\xfe\r\nContent-Disposition"),
        right.replace(b"form-data", b"form-data" + b"; a=b" * 70, 1),
        mark + b"--\r\n" + right,
        mark * 3 + right,
        field * chance.choice((2, 127, 128, 500)) + right,
        part("file", file) + right,
        part("file", part("file", file)) + right,
        part("prompt", b"x" * chance.choice((4096, 4097, 70_000))) + right,
        part("language", chance.randbytes(6)) + right,
        part("temperature", chance.choice((b"nan", b"1e999", b"-1", b"", b"\xd9\xa0"))) + right,
        part("timestamp_granularities[]", b"word,segment") + part("response_format", b"verbose_json") + right,
        chance.randbytes(400),
        b"",
    )
    marks = (
        BOUNDARY,
        BOUNDARY,
        BOUNDARY,
        BOUNDARY,
        f'"{BOUNDARY}"',
        "",
        "x" * 300,
        f"{BOUNDARY}; boundary=x",
        "\u00e9",
    )
    return chance.choice(bodies), f"multipart/form-data; boundary={chance.choice(marks)}"
