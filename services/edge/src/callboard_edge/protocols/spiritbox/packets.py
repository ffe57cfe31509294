"""The packets of Socket.IO (protocol 5), as far as this protocol uses them: the root namespace and one attachment."""

import json
from dataclasses import dataclass
from typing import Any, Literal, cast

MAX_TEXT_CHARACTERS = 16 * 1024
"""The longest packet of text; the only large thing that a page sends is a recording, which is binary."""
MAX_NAME_CHARACTERS = 64

PacketKind = Literal["connect", "disconnect", "event", "binary_event", "ack"]
_KINDS: dict[str, PacketKind] = {
    "0": "connect",
    "1": "disconnect",
    "2": "event",
    "3": "ack",
    "5": "binary_event",
    "6": "ack",
}
PLACEHOLDER = {"_placeholder": True, "num": 0}


class BadPacket(ValueError):  # noqa: N818 - what it is
    """A packet that cannot be read; the message is for whoever sent it."""


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet; `payload` is what stands in its JSON, None where it has none."""

    kind: PacketKind
    namespace: str = "/"
    payload: Any = None

    @property
    def event(self) -> tuple[str, list[Any]]:
        """The name of an event and what comes with it; raises BadPacket."""
        if not isinstance(self.payload, list):
            raise BadPacket("An event is a list of its name and what comes with it.")
        name, *arguments = cast("list[Any]", self.payload) or [None]
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME_CHARACTERS:
            raise BadPacket("An event begins with its name.")
        return name, arguments


def decoded(text: str) -> Packet:
    """Reads a packet.

    Raises:
        BadPacket: it is none, or one of a kind that only servers send, or it has more than one attachment.
    """
    if len(text) > MAX_TEXT_CHARACTERS:
        raise BadPacket("The packet is too long; recordings are sent as binary.")
    kind = _KINDS.get(text[:1])
    if kind is None:
        raise BadPacket("There is no packet of this type.")
    rest = text[1:]
    if kind == "binary_event" or text[0] == "6":
        count, dash, rest = rest.partition("-")
        if not dash or count != "1":
            raise BadPacket("A binary event has one attachment.")
    namespace = "/"
    if rest.startswith("/"):
        namespace, _, rest = rest.partition(",")
        namespace = namespace.partition("?")[0]
    # The number under which an acknowledgement is asked for, which nobody gives here.
    rest = rest.lstrip("0123456789")
    if not rest:
        return Packet(kind, namespace)
    try:
        return Packet(kind, namespace, json.loads(rest))
    except (ValueError, RecursionError):
        raise BadPacket("The packet holds no readable JSON.") from None


def connected(sid: str) -> str:
    """The answer to one who is let in."""
    return f"0{_json({'sid': sid})}"


def refused(message: str, namespace: str = "/") -> str:
    """The answer to one who is not."""
    return f"4{'' if namespace == '/' else namespace + ','}{_json({'message': message})}"


def event(name: str, payload: Any) -> str:
    """An event with JSON."""
    return f"2{_json([name, payload])}"


def binary_event(name: str) -> str:
    """An event whose one attachment follows."""
    return f"51-{_json([name, PLACEHOLDER])}"


DISCONNECT = "1"


def _json(content: Any) -> str:
    return json.dumps(content, separators=(",", ":"))
