"""The rooms service's requests over the bus, for edges and operators' tools."""

import asyncio
from typing import TypeVar

from pydantic import ValidationError

from callboard_contracts.characters import CharacterReply, DeleteCharacter, PutCharacter
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.model import Message
from callboard_contracts.rooms import RoomReply
from callboard_contracts.subjects import CHARACTERS_DELETE, CHARACTERS_PUT
from callboard_kit.bus import Bus, BusError, BusUnavailable
from callboard_kit.rpc import ask_service

TIMEOUT_S = 10.0
ATTEMPT_S = 2.5
"""A restart of the bus can swallow an answer, so the request is sent again; every request may be."""
RETRY_AFTER_S = 2.0

R = TypeVar("R", RoomReply, CharacterReply)


async def ask_rooms(bus: Bus, subject: str, request: Message, timeout_s: float = TIMEOUT_S) -> RoomReply:
    """The rooms service's answer to a request.

    Raises:
        CallboardError: what the service refuses, or `bus_unavailable` when no process answers in time; then the change
            may have happened.
    """
    return await _ask(bus, subject, request, RoomReply, timeout_s)


async def ask_characters(bus: Bus, request: PutCharacter | DeleteCharacter) -> CharacterReply:
    """The rooms service's answer to a change of a character; raises as `ask_rooms`."""
    subject = CHARACTERS_PUT if isinstance(request, PutCharacter) else CHARACTERS_DELETE
    return await _ask(bus, subject, request, CharacterReply, TIMEOUT_S)


async def _ask(bus: Bus, subject: str, request: Message, model: type[R], timeout_s: float) -> R:
    try:
        reply = model.model_validate_json(await _answer(bus, subject, request.compact(), timeout_s))
    except (BusError, ValidationError) as error:
        raise CallboardError(
            ErrorCode.BUS_UNAVAILABLE,
            "The rooms service did not answer; try again shortly.",
            retry_after_s=RETRY_AFTER_S,
        ) from error
    if reply.error is not None:
        raise CallboardError.of(reply.error)
    return reply


async def _answer(bus: Bus, subject: str, payload: bytes, timeout_s: float) -> bytes:
    loop = asyncio.get_running_loop()
    until = loop.time() + timeout_s
    while True:
        left_s = until - loop.time()
        try:
            return await ask_service(bus, subject, payload, min(ATTEMPT_S, left_s))
        except BusUnavailable:
            if left_s <= ATTEMPT_S:
                raise
