"""What edges do for a room's turns: take the hold, post the turn, and read what became of it."""

import asyncio
from typing import Any
from uuid import uuid4

from callboard_contracts import subjects
from callboard_contracts.chat import ChatMessage, ChatRequest, ChatResult
from callboard_contracts.config import NatsSection
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.quota import ReserveRequest, Work
from callboard_contracts.rooms import PostTurn, Room, RoomReply, Turn, room_id
from callboard_contracts.streams import BUCKET_ROOMS
from callboard_kit.background_tasks import BackgroundTasks
from callboard_kit.bucket import Bucket
from callboard_kit.bus import Bus, BusUnavailable
from callboard_kit.kept import kept
from callboard_kit.quota_rpc import QuotaRpc
from callboard_kit.rooms_rpc import ask_rooms
from tests.support.deployment import CHAT_MODEL, CHAT_POOL

LIFE_S = 120.0
INSTRUCTIONS = "You are the owl."


class Poster:
    """One edge's side of the bus, for one room."""

    def __init__(self, bus: Bus, key: str) -> None:
        self.bus = bus
        self.key = key
        self.bucket = Bucket(bus, BUCKET_ROOMS)
        self._background = BackgroundTasks()
        self._quota = QuotaRpc(bus, 5.0, self._background.start)

    @classmethod
    async def connect(cls, url: str, key: str) -> "Poster":
        """An edge with a connection of its own."""
        bus = await Bus.connect(NatsSection(url=url), "edge", lambda: None)
        await bus.clock.measure()
        return cls(bus, key)

    async def close(self) -> None:
        """Ends the connection."""
        await self._background.close(5)
        await self.bus.close()

    async def post(self, turn: Turn) -> Turn:
        """Posts a turn, again until the bus has taken it, as clients do."""
        while True:
            try:
                await self.ask(subjects.ROOMS_POST, PostTurn(kind="ait", key=self.key, turn=turn, opens=True))
            except CallboardError as error:
                if error.info.code not in {ErrorCode.BUS_UNAVAILABLE, ErrorCode.CONFLICT}:
                    raise
            else:
                return turn

    async def release(self, turn: Turn) -> None:
        """Gives back the hold of a turn that the service refused."""
        assert turn.hold is not None
        await self._quota.release(turn.hold)

    async def turn(self, text: str, client: str = "Ann", **over: Any) -> Turn:
        """A turn and its hold."""
        turn_id = uuid4().hex
        work = Work(prompt_tokens=50, completion_tokens=50)
        reserve = ReserveRequest(
            request_id=turn_id, kind="chat", model=CHAT_MODEL, work=work, address="192.0.2.1", life_s=LIFE_S
        )
        reply = None
        while reply is None or reply.hold is None:
            reply = await self._quota.reserve(reserve)
            assert reply is None or reply.error is None, reply
        now = self.bus.clock.now()
        fields: dict[str, Any] = {
            "id": turn_id,
            "message_id": f"m-{turn_id}",
            "speaker": client,
            "text": text,
            "character": "Owl",
            "request": ChatRequest(
                model=CHAT_MODEL,
                messages=(ChatMessage(role="system", content=INSTRUCTIONS),),
                max_output_tokens=50,
            ),
            "pool": CHAT_POOL,
            "edge": "e1",
            "tenant": reply.tenant,
            "hold": reply.hold,
            "held": work,
            "created_at": now,
            "deadline_at": now + LIFE_S,
        }
        return Turn.model_validate({**fields, **over})

    async def ask(self, subject: str, request: Any) -> RoomReply:
        """Asks the rooms service."""
        return await ask_rooms(self.bus, subject, request)

    async def room(self) -> Room | None:
        """The room as it is stored."""
        entry = await self.bucket.get(room_id("ait", self.key))
        return Room.model_validate_json(entry.value) if entry else None

    async def result(self, turn: Turn) -> ChatResult | None:
        """What is kept of a turn."""
        return await kept(self.bus, subjects.result(turn.id), ChatResult)

    async def settled(self, timeout_s: float = 60.0) -> Room:
        """Waits until the room has no turn that is not over."""
        until = asyncio.get_running_loop().time() + timeout_s
        while True:
            try:
                room = await self.room()
            except BusUnavailable:
                room = None
            if room is not None and not room.open_turns:
                return room
            assert asyncio.get_running_loop().time() < until, room
            await asyncio.sleep(0.05)
