"""Admission for characters too: what is asked of one becomes what is asked of its model, with or without a memory."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from callboard_contracts.characters import Character, memory_key
from callboard_contracts.chat import ChatRequest
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.quota import ReserveRequest, Work
from callboard_contracts.speech import SpeechRequest
from callboard_edge.domain.abilities import with_honoured_sampling
from callboard_edge.domain.admission import Admission
from callboard_edge.domain.caller import Caller
from callboard_edge.domain.catalogue import ChatModel, SpeechModel
from callboard_edge.domain.character_prompts import opening_request, spoken_line, without_memory
from callboard_edge.domain.kudos_price import KudosPrice
from callboard_edge.domain.narrated_stream import NarratedStream
from callboard_edge.domain.room_turns import Question, RoomKey, RoomTurns, Words
from callboard_edge.domain.submission import Submission
from callboard_edge.domain.text_stream import TextStream
from callboard_edge.domain.workers import WorkerWait

ANONYMOUS = "anonymous"
"""The tenant of callers who cannot be told apart."""
MemoryUse = Literal["kept", "none"]


@dataclass(frozen=True)
class CharacterAdmission(Admission):
    """Admits requests to characters as those to any model.

    A request that names its speaker is a turn of the room in which the character and that speaker remember each other;
    any other is answered from what it brings.
    """

    turns: RoomTurns = field(kw_only=True)
    count: Callable[[MemoryUse], None] = field(kw_only=True, default=lambda _memory: None)

    async def begin_chat(
        self, caller: Caller, request: ChatRequest, model: ChatModel, request_id: str | None = None
    ) -> TextStream:
        """Begins a request to a model or a character; see `Admission`. One that is remembered is waited for."""
        character, base = model.character, model.base
        if character is None or base is None:
            return await super().begin_chat(caller, request, model, request_id)
        line = spoken_line(request, character) if character.memory_messages else None
        self.count("none" if line is None else "kept")
        if line is None:
            return await super().begin_chat(caller, *self._without_memory(request, model), request_id)
        asked = self._honoured(opening_request(request, model, line.speaker), base)

        def room_of(submission: Submission) -> RoomKey:
            return RoomKey("character", key_of(submission, character, line.speaker))

        words = Words(request.message_id, line.speaker, line.text, character.display_name)
        return await self.turns.answer(
            caller, room_of, words, Question(asked, base), request_id, character.memory_messages
        )

    async def chat_kept(
        self,
        caller: Caller,
        request: ChatRequest,
        model: ChatModel,
        request_id: str | None = None,
        name: str | None = None,
        kudos: KudosPrice | None = None,
    ) -> str:
        """Admits a request that is polled; a character answers it without its memory."""
        return await super().chat_kept(caller, *self._without_memory(request, model), request_id, name, kudos)

    async def narrated(
        self,
        caller: Caller,
        request: ChatRequest,
        model: ChatModel,
        speech_request: SpeechRequest,
        speech_model: SpeechModel,
        audio_ms: int,
        request_id: str,
    ) -> NarratedStream:
        """Admits a reply and its speech; a message that was sent before is refused, since its frames are gone.

        Raises as `Admission` does, and CallboardError (`duplicate_message`).
        """
        narrated = await super().narrated(caller, request, model, speech_request, speech_model, audio_ms, request_id)
        if narrated.text.request_id != request_id:
            narrated.text.close()
            narrated.speech.close()
            raise CallboardError(
                ErrorCode.DUPLICATE_MESSAGE, "The message was said before, and its reply is not spoken again."
            )
        return narrated

    def chat_reserve(
        self,
        caller: Caller,
        request: ChatRequest,
        model: ChatModel,
        request_id: str | None,
        *,
        joins_dialogue: bool = False,
        wait: WorkerWait | None = None,
    ) -> tuple[ReserveRequest, Work | None]:
        """The request for the hold of a model or a character."""
        served = self._without_memory(request, model)
        return super().chat_reserve(caller, *served, request_id, joins_dialogue=joins_dialogue, wait=wait)

    def _without_memory(self, request: ChatRequest, model: ChatModel) -> tuple[ChatRequest, ChatModel]:
        if model.character is None:
            return request, model
        served, base = without_memory(request, model)
        return (request, model) if base is model else (self._honoured(served, base), base)

    def _honoured(self, request: ChatRequest, model: ChatModel) -> ChatRequest:
        offered = self.workers.model("chat", model.pool, model.name)
        return with_honoured_sampling(request, offered, frozenset())


def key_of(submission: Submission, character: Character, speaker: str) -> str:
    """The key of a memory; raises CallboardError where quota did not say whose it is."""
    if submission.hold is None and submission.tenant == ANONYMOUS:
        raise CallboardError(
            ErrorCode.QUOTA_UNAVAILABLE,
            "Whose memory this is cannot be told while the quota service is away; try again shortly.",
            retry_after_s=2.0,
        )
    return memory_key(submission.tenant, character, speaker)
