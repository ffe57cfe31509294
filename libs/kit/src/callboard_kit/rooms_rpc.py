"""The rooms service's requests over the bus, for edges and operators' tools."""

from pydantic import ValidationError

from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.model import Message
from callboard_contracts.rooms import RoomReply
from callboard_kit.bus import Bus, BusError
from callboard_kit.rpc import ask_service

TIMEOUT_S = 5.0
RETRY_AFTER_S = 2.0


async def ask_rooms(bus: Bus, subject: str, request: Message, timeout_s: float = TIMEOUT_S) -> RoomReply:
    """The rooms service's answer to a request.

    Raises:
        CallboardError: what the service refuses, or `bus_unavailable` when no process answers in time; then the change
            may have happened.
    """
    try:
        reply = RoomReply.model_validate_json(await ask_service(bus, subject, request.compact(), timeout_s))
    except (BusError, ValidationError) as error:
        raise CallboardError(
            ErrorCode.BUS_UNAVAILABLE,
            "The rooms service did not answer; try again shortly.",
            retry_after_s=RETRY_AFTER_S,
        ) from error
    if reply.error is not None:
        raise CallboardError.of(reply.error)
    return reply
