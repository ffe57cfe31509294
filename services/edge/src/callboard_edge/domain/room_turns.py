"""Turns of rooms: what they may cost is held, and then the rooms service has them answered and spoken in order."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from uuid import uuid4

from callboard_contracts.chat import ChatRequest
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.quota import Hold, ReserveReply, ReserveRequest, Work
from callboard_contracts.rooms import CancelTurn, EndedTurn, PostTurn, RoomKind, SpeakInRoom, Turn, TurnSpeech
from callboard_contracts.speech import SpeechRequest
from callboard_edge.domain.admission import Admission
from callboard_edge.domain.caller import Caller
from callboard_edge.domain.catalogue import ChatModel, SpeechModel
from callboard_edge.domain.character_prompts import without_memory
from callboard_edge.domain.prompt_cache import with_preferred_worker
from callboard_edge.domain.submission import QuotaRefused, Route, Submission
from callboard_edge.domain.text_stream import TextSource, TextStream
from callboard_edge.domain.turn_stream import RepeatedSource, TurnStream
from callboard_edge.domain.workers import WorkerWait, check_pool

POST_ATTEMPTS = 2
"""A turn is posted again, under the same id, when no rooms process has answered."""


@dataclass(frozen=True, slots=True)
class RoomKey:
    """A room as its clients call it."""

    kind: RoomKind
    key: str


@dataclass(frozen=True, slots=True)
class Words:
    """What was said to a room, by whom, and which character is to answer."""

    message_id: str
    speaker: str
    text: str
    character: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """What a model is asked, without the dialogue."""

    request: ChatRequest
    model: ChatModel


@dataclass(frozen=True, slots=True)
class Speech:
    """How something is spoken; the request has no text where a reply is spoken."""

    request: SpeechRequest
    model: SpeechModel


@dataclass(frozen=True, slots=True)
class RoomTurns:
    """Posts turns into rooms."""

    admission: Admission
    hold_slice_ms: int

    async def ask(
        self,
        caller: Caller,
        room: RoomKey,
        words: Words,
        question: Question,
        speech: Speech | None,
        *,
        opens: bool = True,
        unique: bool = True,
        remembers: bool = True,
    ) -> Turn:
        """Has a message answered, and the answer spoken; returns the turn, whose number only the room knows.

        Where no speech worker is expected, it is answered in text alone.

        Raises:
            QuotaRefused: quota refused a hold.
            CallboardError: `duplicate_message` where `unique`, `not_found` unless the room is open or the turn opens
                it, `queue_full`; or no worker is expected, or the bus is away.
        """
        # A character that speaks in a room has its memory there.
        question = Question(
            *without_memory(question.request.model_copy(update={"speaker": words.speaker}), question.model)
        )
        await self.admission.wait_announced("chat", question.model)
        if speech is not None:
            await self.admission.wait_announced("tts", speech.model)
        reserve, held = self.admission.chat_reserve(
            caller, question.request, question.model, None, joins_dialogue=remembers
        )

        if speech is not None and not self._is_expected(speech.model):
            speech = None

        async def post() -> Turn:
            holds: list[Hold] = []
            try:
                chat = await self._hold(reserve, holds)
                turn = self._turn(reserve.request_id, words, chat.tenant).model_copy(
                    update={
                        "request": self._request(room, words, question),
                        "pool": question.model.pool,
                        "hold": chat.hold,
                        "held": held if chat.hold else None,
                        "speech": speech and await self._speech(caller, speech, holds),
                        "remembers": remembers,
                    }
                )
                await self._post(PostTurn(kind=room.kind, key=room.key, turn=turn, opens=opens, unique=unique))
            except BaseException:
                await self._release(holds)
                raise
            return turn

        return await asyncio.shield(self.admission.deps.background.start(post(), "post-turn"))

    async def answer(
        self,
        caller: Caller,
        room_of: Callable[[Submission], RoomKey],
        words: Words,
        question: Question,
        request_id: str | None,
        memory_messages: int,
    ) -> TextStream:
        """Has a line answered in a room that remembers both, and streams the reply; raises as `ask`.

        `room_of` finds the room once it is known who asks. A message id that the room knows gets the reply to the first
        of its turns that did not fail.
        """
        admission, model = self.admission, question.model
        await admission.wait_announced("chat", model)
        reserve, held = admission.chat_reserve(caller, question.request, model, request_id, joins_dialogue=True)
        deps, wait = admission.deps, WorkerWait(admission.workers, "chat", model)
        source = TextSource(deps.replies, reserve.request_id)
        stream = TurnStream(deps, reserve.request_id, admission.request_timeout_s, source, wait)

        async def post() -> Submission:
            holds: list[Hold] = []
            try:
                reply = await self._hold(reserve, holds)
                submission = Submission(None, reply.tenant, reply.hold, reply.states)
                room = room_of(submission)
                stream.posted = CancelTurn(kind=room.kind, key=room.key, turn=reserve.request_id)
                turn = self._turn(reserve.request_id, words, reply.tenant).model_copy(
                    update={
                        "message_id": words.message_id or reserve.request_id,
                        "request": self._request(room, words, question),
                        "pool": model.pool,
                        "hold": reply.hold,
                        "held": held if reply.hold else None,
                        "memory_messages": memory_messages,
                        "named_lines": False,
                    }
                )
                await self._post(PostTurn(kind=room.kind, key=room.key, turn=turn, opens=True, retries=True))
            except BaseException:
                await self._release(holds)
                raise
            return submission

        try:
            submitting = deps.background.start(post(), "post-turn")
            return await stream.begin(submitting, Route("chat", model.pool)).accepted()
        except CallboardError as error:
            posted = stream.posted
            if error.info.code is not ErrorCode.DUPLICATE_MESSAGE or posted is None:
                raise
            return await self._repeated(posted, words, model, error)

    async def _repeated(self, posted: CancelTurn, words: Words, model: ChatModel, error: CallboardError) -> TextStream:
        """The reply to a message that the room has already; raises the error where it is not kept any more."""
        deps = self.admission.deps
        found = await deps.room_reader.room(posted.kind, posted.key)
        turn = found.turn_of(words.message_id) if found else None
        if turn is None or (isinstance(turn, EndedTurn) and await deps.room_reader.reply(turn.id) is None):
            raise error
        name = uuid4().hex
        source = RepeatedSource(deps.replies, name, turn_id=turn.id)
        wait = WorkerWait(self.admission.workers, "chat", model)
        return TextStream(deps, name, self.admission.request_timeout_s, source, wait)

    async def speak(self, caller: Caller, room: RoomKey, words: Words, speech: Speech, secret: str | None) -> Turn:
        """Has a text spoken in a room; raises as `ask`, and `room_secret_required`."""
        await self.admission.wait_announced("tts", speech.model)
        check_pool(self.admission.workers, "tts", speech.model)

        async def post() -> Turn:
            holds: list[Hold] = []
            try:
                spoken = await self._speech(caller, speech, holds)
                turn = self._turn(uuid4().hex, words, spoken.tenant).model_copy(
                    update={"speech": spoken, "remembers": False}
                )
                request = SpeakInRoom(
                    kind=room.kind, key=room.key, turn=turn, opens=True, unique=False, secret=secret or None
                )
                await self.admission.deps.rooms.speak(request)
            except BaseException:
                await self._release(holds)
                raise
            return turn

        return await asyncio.shield(self.admission.deps.background.start(post(), "speak-in-room"))

    async def check_limits(self, caller: Caller, model: str) -> None:
        """Refuses a caller who has used up a limit, and takes nothing; raises QuotaRefused or CallboardError."""
        reserve = self.admission.reserve_request(caller, "chat", model, Work(prompt_tokens=1), None)
        await self._release([hold for hold in [(await self._hold(reserve, [])).hold] if hold])

    def _request(self, room: RoomKey, words: Words, question: Question) -> ChatRequest:
        """The request for the worker that has read the dialogue with the character's instructions before it."""
        key = f"{room.kind}/{room.key}/{words.character}"
        request = question.request.model_copy(update={"prompt_cache_key": key})
        return with_preferred_worker(request, question.model, self.admission.workers)

    def _is_expected(self, model: SpeechModel) -> bool:
        try:
            check_pool(self.admission.workers, "tts", model)
        except CallboardError:
            return False
        return True

    async def _speech(self, caller: Caller, speech: Speech, holds: list[Hold]) -> TurnSpeech:
        model = speech.model
        work = Work(audio_ms=self.hold_slice_ms)
        reserve = self.admission.reserve_request(caller, "speech", model.name, work, None)
        reply = await self._hold(reserve, holds)
        return TurnSpeech(
            pool=model.pool,
            request=speech.request,
            request_id=reserve.request_id,
            tenant=reply.tenant,
            hold=reply.hold,
        )

    def _turn(self, turn_id: str, words: Words, tenant: str) -> Turn:
        deps = self.admission.deps
        now = deps.now()
        return Turn(
            id=turn_id,
            message_id=words.message_id,
            speaker=words.speaker,
            text=words.text,
            character=words.character,
            edge=deps.replies.edge,
            tenant=tenant,
            created_at=now,
            deadline_at=now + self.admission.request_timeout_s,
        )

    async def _hold(self, reserve: ReserveRequest, holds: list[Hold]) -> ReserveReply:
        reply = await self.admission.deps.quota.reserve(reserve)
        if reply.error is not None:
            refused = QuotaRefused.of(reply.error)
            refused.states = reply.states
            raise refused
        if reply.hold is not None:
            holds.append(reply.hold)
        return reply

    async def _post(self, request: PostTurn) -> None:
        for attempt in range(POST_ATTEMPTS):
            try:
                await self.admission.deps.rooms.post(request)
            except CallboardError as error:
                if error.info.code is not ErrorCode.BUS_UNAVAILABLE or attempt == POST_ATTEMPTS - 1:
                    raise
            else:
                return

    async def _release(self, holds: list[Hold]) -> None:
        for hold in holds:
            await self.admission.deps.quota.release(hold)
