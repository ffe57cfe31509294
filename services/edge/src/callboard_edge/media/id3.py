"""The tags at the beginning of an MP3 file, in ID3 version 2.3."""

SPEECH_GENRE = "(101)Speech"
MAX_CHARACTERS = 500


def tags(title: str, album: str, artist: str) -> bytes:
    """A tag that names a recording of speech."""
    values = {"TIT2": title, "TALB": album, "TPE1": artist, "TCON": SPEECH_GENRE}
    return _tag(b"".join(_frame(name, value) for name, value in values.items()))


def beginning(padding_bytes: int) -> bytes:
    """The beginning of a tag that says only that this is speech; so many bytes of zero must follow to end it."""
    return _tag(_frame("TCON", SPEECH_GENRE), padding_bytes)


def _tag(frames: bytes, padding_bytes: int = 0) -> bytes:
    return b"ID3\x03\0\0" + _without_sync(len(frames) + padding_bytes) + frames


def _frame(name: str, value: str) -> bytes:
    text = "".join(sign for sign in value[:MAX_CHARACTERS] if sign.isprintable())
    body = b"\x01" + text.encode("utf-16", "replace")
    return name.encode() + len(body).to_bytes(4, "big") + b"\0\0" + body


def _without_sync(size: int) -> bytes:
    """A size in four bytes of seven bits, so that none looks like the beginning of a frame of sound."""
    return bytes((size >> shift) & 0x7F for shift in (21, 14, 7, 0))
