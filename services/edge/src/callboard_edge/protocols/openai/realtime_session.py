"""What a session of `/v1/realtime` is and does, without the connection, the clock and the jobs."""

import time
from collections.abc import Sequence
from dataclasses import replace

from callboard_contracts.chat import ChatMessage
from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_edge.domain.abilities import unsupported
from callboard_edge.domain.input_audio import InputAudio, SpeechStarted, Turn
from callboard_edge.domain.voice_activity import TurnDetection
from callboard_edge.protocols.openai.realtime_bodies import (
    ClientEvent,
    ItemBody,
    ItemCreate,
    ItemNamed,
    ItemTruncate,
    ResponseBody,
    ResponseCancel,
    ResponseCreate,
    SessionUpdate,
)
from callboard_edge.protocols.openai.realtime_events import CodedError, Events
from callboard_edge.protocols.openai.realtime_items import Conversation, Item, Part, messages_of, new_id, read_item
from callboard_edge.protocols.openai.realtime_response import CancelReason, Response
from callboard_edge.protocols.openai.realtime_settings import SessionSettings, session_object, updated
from callboard_edge.protocols.openai.realtime_work import Plan, Work

MAX_PENDING = 16
"""How many sounds may wait to be written down at once."""
MAX_RESPONSES = 4
"""How many responses beside the conversation may run at once."""


class Session:
    """The state of a session; each method sends what the client is to know of it."""

    def __init__(
        self, events: Events, work: Work, settings: SessionSettings, max_buffer_ms: int, max_items: int, life_s: float
    ) -> None:
        self.settings = settings
        self.conversation = Conversation(max_items)
        self.audio = InputAudio(settings.input_rate_hz, max_buffer_ms, _turns(settings))
        self._id = new_id("sess")
        self._expires_at = int(time.time() + life_s)
        self._max_buffer_ms = max_buffer_ms
        self._events = events
        self._work = work
        self._turn_id: str | None = None
        self._pending: dict[int, Part] = {}
        self._wants_response = False
        self._responses: list[Response] = []
        self._has_spoken = False

    @property
    def active(self) -> Response | None:
        """The response of the conversation that is being given."""
        return next((one for one in self._responses if one.in_conversation), None)

    @property
    def is_busy(self) -> bool:
        """Whether an answer is being given, or is to be."""
        return bool(self._responses) or self._wants_response

    def open(self) -> None:
        """Says what there is."""
        self._events.send("session.created", session=self._object())
        self._events.send(
            "conversation.created", conversation={"id": self.conversation.id, "object": "realtime.conversation"}
        )

    def take(self, event: ClientEvent) -> None:
        """Does what a client's event asks for, sound excepted.

        Raises:
            CallboardError: it cannot be done, and nothing was changed.
        """
        match event:
            case SessionUpdate():
                self._update(event)
            case ItemCreate():
                self._create_item(event)
            case ItemNamed() if event.type.endswith("retrieve"):
                item = self._named(event.item_id, "retrieve")
                self._events.send("conversation.item.retrieved", item=item.as_object(self._events.shape))
            case ItemNamed():
                self.conversation.delete(self._named(event.item_id, "delete").id)
                self._events.send("conversation.item.deleted", item_id=event.item_id)
            case ItemTruncate():
                self._truncate(event)
            case ResponseCreate():
                self._respond(event.response or ResponseBody())
            case ResponseCancel():
                self._cancel(event.response_id)
            case _ if event.type == "input_audio_buffer.commit":
                self._check_pending()
                try:
                    turn = self.audio.commit()
                except CallboardError as error:
                    raise CodedError("input_audio_buffer_commit_empty", error.info.message) from None
                self._commit(turn, detected=False)
            case _:
                self.audio.clear()
                self._turn_id = None
                self._events.send("input_audio_buffer.cleared")

    def heard_sound(self, found: Sequence[SpeechStarted | Turn]) -> None:
        """Takes what begins and ends in a sound that was appended."""
        for one in found:
            if isinstance(one, SpeechStarted):
                self._turn_id = new_id("item")
                self._events.send(
                    "input_audio_buffer.speech_started", audio_start_ms=one.start_ms, item_id=self._turn_id
                )
                detection = self.settings.detection
                if detection is not None and detection.interrupt_response and (active := self.active) is not None:
                    self._stop(active, "turn_detected")
                continue
            self._turn_id = self._turn_id or new_id("item")
            self._events.send("input_audio_buffer.speech_stopped", audio_end_ms=one.end_ms, item_id=self._turn_id)
            if len(self._pending) >= MAX_PENDING:
                self._turn_id = None
                self._events.error(_too_much().info)
            else:
                self._commit(one, detected=True)

    def heard(self, item: Item, part: Part, text: str, seconds: float) -> None:
        """Takes the text of a sound."""
        self._pending.pop(id(part), None)
        part.text = text
        if self.settings.transcription is not None:
            self._events.send(
                "conversation.item.input_audio_transcription.completed",
                item_id=item.id,
                content_index=item.parts.index(part),
                transcript=text,
                usage={"type": "duration", "seconds": seconds},
            )
        self._answer_if_ready()

    def hears(self, item: Item, part: Part, delta: str) -> None:
        """Takes a part of the text of a sound."""
        if self.settings.transcription is not None and delta:
            self._events.send(
                "conversation.item.input_audio_transcription.delta",
                item_id=item.id,
                content_index=item.parts.index(part),
                delta=delta,
            )

    def not_heard(self, item: Item, part: Part, info: ErrorInfo, error: object) -> None:
        """Takes that a sound could not be written down; who waits for an answer to it is told."""
        self._pending.pop(id(part), None)
        part.text = ""
        self._events.send(
            "conversation.item.input_audio_transcription.failed",
            item_id=item.id,
            content_index=item.parts.index(part),
            error=error,
        )
        if self._wants_response and not self._has_unanswered():
            self._wants_response = False
            self._events.error(info)
        self._answer_if_ready()

    def pending_of(self, plan: Plan) -> bool:
        """Whether sounds that a response is to answer are still to be written down."""
        items = self.conversation if plan.input is None else plan.input
        return any(id(part) in self._pending for item in items for part in item.parts)

    def messages(self, plan: Plan) -> tuple[ChatMessage, ...]:
        """What the model of a response reads.

        Raises:
            CallboardError: there is nothing to answer.
        """
        instructions = plan.response.settings.instructions
        system = (ChatMessage(role="system", content=instructions),) if instructions else ()
        items = self.conversation if plan.input is None else plan.input
        messages = (*system, *messages_of(items))
        if not messages:
            raise CallboardError(ErrorCode.INVALID_REQUEST, "There is nothing to answer.")
        return messages

    def spoke(self) -> None:
        """Notes that the session's voice was heard, which then stays."""
        self._has_spoken = True

    def ended(self, response: Response) -> None:
        """Notes that a response has ended."""
        if response in self._responses:
            self._responses.remove(response)
        self._drop_overflow()
        self._answer_if_ready()

    def _update(self, event: SessionUpdate) -> None:
        own, settings = self.settings.model, updated(self.settings, event.session)
        if self._work.check(replace(settings, model=event.session.model or own)) != own:
            raise unsupported("A session keeps its model; open another session.", "session.model")
        if self._has_spoken and settings.voice != self.settings.voice:
            raise unsupported("A session keeps its voice once it was heard.", "session.voice")
        if settings.input_rate_hz != self.settings.input_rate_hz:
            if self.audio.kept_ms and self.audio.speaking:
                raise unsupported("The form of the sound cannot change within a turn.", "session.audio.input.format")
            self.audio = InputAudio(settings.input_rate_hz, self._max_buffer_ms, _turns(settings))
        else:
            self.audio.detect(_turns(settings))
        if settings.detection is None:
            self._turn_id = None
        self.settings = settings
        self._events.send("session.updated", session=self._object())

    def _create_item(self, event: ItemCreate) -> None:
        new = read_item(event.item, "item")
        if new.sounds:
            self._check_pending()
        previous = self.conversation.add(new.item, event.previous_item_id)
        try:
            for part, sound in new.sounds:
                self._work.recognise_encoded(new.item, part, sound, "item.content")
                self._pending[id(part)] = part
        except CallboardError:
            self.conversation.delete(new.item.id)
            raise
        self._show(new.item, previous)

    def _show(self, item: Item, previous: str | None) -> None:
        shown = item.as_object(self._events.shape)
        self._events.send("conversation.item.added", previous_item_id=previous, item=shown)
        self._events.send("conversation.item.done", previous_item_id=previous, item=shown)
        self._drop_overflow()

    def _drop_overflow(self) -> None:
        for item in self.conversation.overflow():
            self._events.send("conversation.item.deleted", item_id=item.id)

    def _truncate(self, event: ItemTruncate) -> None:
        item = self._named(event.item_id, "truncate")
        self.conversation.truncate(item.id, event.content_index, event.audio_end_ms)
        self._events.send(
            "conversation.item.truncated",
            item_id=event.item_id,
            content_index=event.content_index,
            audio_end_ms=event.audio_end_ms,
        )

    def _commit(self, turn: Turn, *, detected: bool) -> None:
        part = Part("input_audio", None)
        item = Item(self._turn_id or new_id("item"), role="user", parts=[part])
        self._turn_id = None
        previous = self.conversation.add(item)
        self._events.send("input_audio_buffer.committed", previous_item_id=previous, item_id=item.id)
        self._show(item, previous)
        self._work.turn_ended(turn.silence_ms, detected=detected)
        self._pending[id(part)] = part
        if detected and self.settings.detection is not None and self.settings.detection.create_response:
            self._wants_response = True
        self._work.recognise(item, part, turn.pcm)

    def _answer_if_ready(self) -> None:
        """Answers what was said once all of it is known and nobody speaks; who goes on is answered after that."""
        if not self._wants_response or self._pending:
            return
        detection = self.settings.detection
        if self.audio.speaking and detection is not None and detection.interrupt_response:
            return
        if self.active is not None:
            return
        self._wants_response = False
        if self._has_unanswered():
            self._start(self._new_response(self.settings, ResponseBody()), None)

    def _has_unanswered(self) -> bool:
        """Whether somebody said something after the last answer."""
        for item in reversed(list(self.conversation)):
            if item.role == "assistant" or item.type == "function_call":
                return False
            if item.role == "user" and item.text.strip():
                return True
        return False

    def _respond(self, body: ResponseBody) -> None:
        settings = updated(self.settings, body)
        self._work.check(settings)
        if body.conversation != "none" and self.active is not None:
            raise CodedError(
                "conversation_already_has_active_response",
                "Conversation already has an active response in progress; wait for its end, or cancel it.",
            )
        if len(self._responses) >= MAX_RESPONSES:
            raise CallboardError(ErrorCode.CONFLICT, f"At most {MAX_RESPONSES} responses are given at once.")
        items = None if body.input is None else [self._input(one, n) for n, one in enumerate(body.input)]
        if body.conversation != "none":
            self._wants_response = False
        self._start(self._new_response(settings, body), items)

    def _new_response(self, settings: SessionSettings, body: ResponseBody) -> Response:
        if body.conversation == "none":
            return Response(self._events, settings, None, None, body.metadata)
        conversation = self.conversation
        return Response(self._events, settings, conversation.add, conversation.id, body.metadata)

    def _input(self, body: ItemBody, index: int) -> Item:
        place = f"response.input[{index}]"
        if body.type == "item_reference":
            return self.conversation.get(body.id or "")
        new = read_item(body, place)
        if new.sounds:
            raise unsupported("Sound of a response's own input is not read; create an item of it.", f"{place}.content")
        return new.item

    def _start(self, response: Response, items: Sequence[Item] | None) -> None:
        self._responses.append(response)
        self._work.respond(Plan(response, items))

    def _cancel(self, response_id: str | None) -> None:
        for response in self._responses:
            if response_id == response.id or (response_id is None and response.in_conversation):
                self._stop(response, "client_cancelled")
                return
        raise CodedError("response_cancel_not_active", "Cancellation failed: no active response found.", "response_id")

    def _stop(self, response: Response, reason: CancelReason) -> None:
        response.cancel(reason)
        self._responses.remove(response)
        self._work.stop(response, reason)

    def _named(self, item_id: str, act: str) -> Item:
        """The item that an event names; raises CallboardError where there is none."""
        if (item := self.conversation.find(item_id)) is None:
            message = "There is no item of this id in the conversation."
            raise CodedError(f"item_{act}_invalid_item_id", message, "item_id")
        return item

    def _check_pending(self) -> None:
        if len(self._pending) >= MAX_PENDING:
            raise _too_much()

    def _object(self) -> dict[str, object]:
        return session_object(self.settings, self._id, self._expires_at, self._events.shape)


def _turns(settings: SessionSettings) -> TurnDetection | None:
    return None if settings.detection is None else settings.detection.turns


def _too_much() -> CallboardError:
    return CallboardError(
        ErrorCode.QUEUE_FULL, "Too much of what was said is still to be written down.", retry_after_s=1.0
    )
