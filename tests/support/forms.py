"""Forms as clients post them, byte by byte."""

from collections.abc import Mapping

BOUNDARY = "rose-and-crown"
FORM = f"multipart/form-data; boundary={BOUNDARY}"


def part(name: str, content: bytes, file_name: str | None = None) -> bytes:
    """One part with its boundary before it."""
    named = f'; filename="{file_name}"' if file_name is not None else ""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'
    return head.encode() + content + b"\r\n"


def form(fields: Mapping[str, str], file: bytes | None = None) -> bytes:
    """A whole form of the type `FORM`, its file first."""
    parts = [] if file is None else [part("file", file, "sound")]
    parts += [part(name, value.encode()) for name, value in fields.items()]
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()
