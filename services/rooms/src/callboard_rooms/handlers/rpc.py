"""The requests of edges and operators, as FastStream subscribers, from which the AsyncAPI document is made.

Turns, whose clients wait for a reply, reach their handler directly.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from faststream import ContextRepo
from faststream.nats import NatsBroker
from nats.aio.msg import Msg
from pydantic import ValidationError

from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_contracts.rooms import PostTurn, RoomReply
from callboard_contracts.subjects import (
    CHARACTERS_DELETE,
    CHARACTERS_PUT,
    ROOMS_CANCEL,
    ROOMS_END,
    ROOMS_OPEN,
    ROOMS_POST,
    ROOMS_RESET,
    ROOMS_SPEAK,
)
from callboard_kit import tracing
from callboard_kit.background_tasks import BackgroundTasks
from callboard_kit.broker import AnsweringMiddleware, Handler, malformed, reply_of, subscribe_all
from callboard_kit.bus import Bus, BusError
from callboard_rooms.domain.characters import CharacterService
from callboard_rooms.domain.ports import StoreUnavailable
from callboard_rooms.domain.rooms import RoomService
from callboard_rooms.metrics import REQUEST_SECONDS, REQUESTS

log = logging.getLogger(__name__)

QUEUE = "rooms"
MAX_IN_FLIGHT = 2000
RETRY_AFTER_S = 2.0


class RoomHandlers:
    """The handler of each request; it is the broker's middleware, which puts errors in the form of the reply.

    What comes on top of 2,000 requests in flight is refused at once.
    """

    def __init__(self, bus: Bus, rooms: RoomService, characters: CharacterService, in_flight: BackgroundTasks) -> None:
        self._bus = bus
        self._rooms = rooms
        self._in_flight = in_flight
        self.handlers: Mapping[str, Handler] = {
            ROOMS_OPEN: rooms.open,
            ROOMS_POST: rooms.post,
            ROOMS_SPEAK: rooms.speak,
            ROOMS_RESET: rooms.reset,
            ROOMS_END: rooms.end,
            ROOMS_CANCEL: rooms.cancel,
            CHARACTERS_PUT: characters.put,
            CHARACTERS_DELETE: characters.delete,
        }
        self._replies = {subject: reply_of(handler) for subject, handler in self.handlers.items()}

    def __call__(self, msg: Any, /, *, context: ContextRepo) -> AnsweringMiddleware:
        """The middleware of one message."""
        return AnsweringMiddleware(self.answer, msg, context)

    def subscribe(self, broker: NatsBroker) -> None:
        """Has the broker take the requests, in the queue group that all rooms processes share."""
        subscribe_all(broker, QUEUE, self.handlers)

    async def post(self, message: Msg) -> None:
        """Answers a turn without FastStream, which would cost more than the change of the room."""

        async def post() -> RoomReply:
            return await self._rooms.post(PostTurn.model_validate_json(message.data))

        reply = await self.answer(ROOMS_POST, post)
        if message.reply:
            try:
                await self._bus.publish(message.reply, reply.model_dump_json(exclude_none=True).encode(), flush=True)
            except BusError:
                log.warning("reply_lost", extra={"request": "post"})

    async def answer(self, subject: str, call: Callable[[], Awaitable[Any]]) -> Any:
        """Calls a handler and returns its reply, or the error in its form."""
        request = subject.removeprefix("rooms.").replace(".", "_")
        started = asyncio.get_running_loop().time()
        result = "ok"
        try:
            self._check_load()
            return await call()
        except Exception as error:
            info = _error_info(request, error)
            result = info.code.value
            return self._replies[subject](error=info)  # pyright: ignore[reportCallIssue] - every reply has an error
        finally:
            REQUESTS.labels(request, result).inc()
            REQUEST_SECONDS.labels(request).observe(asyncio.get_running_loop().time() - started, tracing.ids())

    def _check_load(self) -> None:
        if len(self._in_flight) > MAX_IN_FLIGHT:
            raise StoreUnavailable("too many requests")


def _error_info(request: str, error: Exception) -> ErrorInfo:
    """What the sender of a request is told of an error, which is logged where it is no refusal."""
    if isinstance(error, CallboardError):
        return error.info
    if isinstance(error, ValidationError):
        return malformed(error)
    if isinstance(error, StoreUnavailable):
        log.warning("store_unavailable", extra={"request": request, "reason": str(error)})
        return ErrorInfo(
            code=ErrorCode.BUS_UNAVAILABLE,
            message="It could not be stored in time; try again shortly.",
            retry_after_s=RETRY_AFTER_S,
        )
    log.error("request_failed", extra={"request": request}, exc_info=error)
    return ErrorInfo(code=ErrorCode.INTERNAL, message="It could not be stored.")
