"""One page's conversation over its session: who it is, what it asks, and what it is sent."""

import asyncio
import logging
import secrets
from collections.abc import Callable
from typing import Any, cast

from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_edge.domain.spirit_box import SpiritBox, Visitor
from callboard_edge.domain.spirit_prompts import MAX_SEED
from callboard_edge.protocols.spiritbox import packets
from callboard_edge.protocols.spiritbox.door import Door
from callboard_edge.protocols.spiritbox.packets import BadPacket, Packet
from callboard_edge.protocols.spiritbox.session import Session

log = logging.getLogger(__name__)

SEED, CONTACT = "seed", "contact"
FIRST_RESPONSE, RESPONSE = "first_response", "response"
FAILURE = "failure"
"""An event that no page of old listens to: why a contact is not answered."""


class Seance:
    """What a session carries; an event before the page is let in ends it."""

    def __init__(self, box: SpiritBox, door: Door, address: str | None, on_end: Callable[["Seance"], None]) -> None:
        self.session = Session(secrets.token_urlsafe(15), self)
        self._on_end = on_end
        self._box = box
        self._door = door
        self._address = address
        self._joining: asyncio.Task[None] | None = None
        self._refused = False
        self._visitor: Visitor | None = None
        self._expected: Packet | None = None
        """An event whose attachment is still to come."""

    def text(self, packet: str) -> None:
        """Takes a packet."""
        if self._expected is not None:
            self._break_off("A recording was announced and did not follow.")
            return
        try:
            self._take(packets.decoded(packet))
        except BadPacket as error:
            self._break_off(str(error))

    def binary(self, data: bytes) -> None:
        """Takes an attachment."""
        expected, self._expected = self._expected, None
        if expected is None or self._visitor is None:
            self._break_off("A recording was not announced.")
            return
        try:
            name, arguments = expected.event
        except BadPacket as error:
            self._break_off(str(error))
            return
        if name != CONTACT:
            self._refuse(f"'{name}' takes no recording." if name == SEED else "There is no event of this name.")
        elif arguments != [packets.PLACEHOLDER]:
            self._refuse("A contact is one recording.", contact=True)
        else:
            self._visitor.contact(data)

    def ended(self) -> None:
        """Ends what is being answered."""
        if self._joining is not None:
            self._joining.cancel()
        if self._visitor is not None:
            self._visitor.close()
        self._on_end(self)

    def first_response(self, sound: bytes) -> None:
        """Sends the beginning of an answer."""
        self.session.send(packets.binary_event(FIRST_RESPONSE), sound, answer=True)

    def response(self, sound: bytes) -> None:
        """Sends more of it."""
        self.session.send(packets.binary_event(RESPONSE), sound, answer=True)

    def failed(self, error: ErrorInfo) -> None:
        """Says in words, for pages that listen, what is wrong."""
        told = {"code": error.code.value, "message": error.message}
        self.session.send(packets.event(FAILURE, told), answer=True)

    def forget(self) -> None:
        """Takes back what has not left yet."""
        self.session.take_back()

    def close(self) -> None:
        """Ends the session; a page that is not told to stay away connects again by itself."""
        self.session.end()

    def _take(self, packet: Packet) -> None:
        if packet.kind == "connect":
            self._connect(packet)
        elif self._visitor is None:
            raise BadPacket("Connect first.")
        elif packet.namespace != "/":
            raise BadPacket("There is no other namespace than the root.")
        elif packet.kind == "disconnect":
            self.session.end()
        elif packet.kind == "binary_event":
            self._expected = packet
        elif packet.kind == "event":
            self._event(*packet.event)

    def _connect(self, packet: Packet) -> None:
        if packet.namespace != "/":
            self.session.send(packets.refused("Invalid namespace", packet.namespace[: packets.MAX_NAME_CHARACTERS]))
        elif self._joining is not None:
            raise BadPacket("A session connects once.")
        else:
            self._joining = self._box.background.start(self._join(packet.payload), "spirit-join")

    async def _join(self, credentials: Any) -> None:
        try:
            caller = await self._door.caller(credentials, self._address)
            self._visitor = self._box.enter(caller, self)
        except CallboardError as error:
            self._refused = True
            self.session.send(packets.refused(error.info.message))
        except Exception:
            log.exception("spirit_join_failed")
            self._refused = True
            self.session.send(packets.refused("Something failed inside; the log has more."))
        else:
            # A name that strangers may learn, other than that of the session.
            self.session.send(packets.connected(secrets.token_urlsafe(15)))
            self.session.joined.set()

    def _event(self, name: str, arguments: list[Any]) -> None:
        assert self._visitor is not None
        if name == CONTACT:
            self._refuse("A contact is one recording, sent as binary.", contact=True)
        elif name != SEED:
            self._refuse("There is no event of this name.")
        elif (seed := _seed(arguments)) is None:
            self._refuse("A seed is {'seed': <whole number>}.")
        else:
            self._visitor.seed(seed)

    def _refuse(self, message: str, *, contact: bool = False) -> None:
        assert self._visitor is not None
        self._visitor.refuse(CallboardError(ErrorCode.INVALID_REQUEST, message), contact=contact)

    def _break_off(self, message: str) -> None:
        """Ends a session whose packets cannot be told apart any more, and says why."""
        if self._visitor is None:
            if not self._refused:
                self.session.send(packets.refused(message))
        else:
            self.failed(ErrorInfo(code=ErrorCode.INVALID_REQUEST, message=message))
            self.session.send(packets.DISCONNECT)
        self.session.end()


def _seed(arguments: list[Any]) -> int | None:
    """The seed of an event, within the range that engines take; None where there is none."""
    first = arguments[0] if len(arguments) == 1 else None
    seed = cast("dict[Any, Any]", first).get("seed") if isinstance(first, dict) else None
    return seed % MAX_SEED if isinstance(seed, int) and not isinstance(seed, bool) else None
