"""How messages stand on the connection to the bus."""

import nats.errors

_HEADERS_BEGIN = "NATS/1.0"


def publish_command(subject: str, payload: bytes, reply: str, headers: dict[str, str] | None) -> bytes:
    """The protocol's command that publishes a message; line breaks in a header's value become spaces.

    Raises:
        nats.errors.Error: a subject or the name of a header could be read as something else.
    """
    words = f"{subject} {reply}" if reply else subject
    if not words.isprintable() or " " in subject or " " in reply or not subject:
        raise nats.errors.BadSubjectError
    if not headers:
        return f"PUB {words} {len(payload)}\r\n".encode() + payload + b"\r\n"
    lines = ""
    for name, value in headers.items():
        line = f"{name}: {value}"
        lines += f"{line if line.isprintable() else _cleaned(name, value)}\r\n"
    block = f"{_HEADERS_BEGIN}\r\n{lines}\r\n".encode()
    size = len(block)
    return f"HPUB {words} {size} {size + len(payload)}\r\n".encode() + block + payload + b"\r\n"


def _cleaned(name: str, value: str) -> str:
    if not name.isprintable():
        raise nats.errors.BadHeaderError(name)
    text = value.strip().replace("\r", " ").replace("\n", " ")
    return f"{name}: {text}"


def counted_bytes(command: bytes) -> int:
    """What the server counts of a message against its limit: headers and payload."""
    return len(command) - command.index(b"\r\n") - 2 * len(b"\r\n")


def parse_headers(block: bytes) -> dict[str, str] | None:
    """A message's headers by name, including the server's status; None when there are none."""
    first, *lines = block.decode(errors="replace").split("\r\n")
    headers: dict[str, str] = {}
    if first != _HEADERS_BEGIN:
        status, _, description = first.removeprefix(_HEADERS_BEGIN).strip().partition(" ")
        if status:
            headers["Status"] = status
        if description:
            headers["Description"] = description
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip()] = value.strip()
    return headers or None
