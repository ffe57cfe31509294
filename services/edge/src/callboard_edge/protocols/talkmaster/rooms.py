"""Rooms of characters: `/ait`, where visitors and characters share one dialogue that is spoken aloud."""

from dataclasses import dataclass
from uuid import uuid4

from aiohttp import web

from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.rooms import EndedTurn, OpenRoom, RoomRequest
from callboard_edge.domain.room_turns import Question, RoomKey, Words
from callboard_edge.domain.speech_text import check_text
from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.route import Answer, Route
from callboard_edge.protocols.talkmaster.bodies import (
    GenerateAudio,
    PostMessage,
    ResetJoinKey,
    RoomQuery,
    StartConversation,
)
from callboard_edge.protocols.talkmaster.errors import Refusal, body_of, query_of, repeated, served
from callboard_edge.protocols.talkmaster.models import TAG
from callboard_edge.protocols.talkmaster.replies import check_ended, processing, reply_text, with_text
from callboard_edge.protocols.talkmaster.requests import (
    caller_of,
    chat_model,
    chat_request,
    no_audio,
    room_key,
    sampling_of,
    speech_of,
)
from callboard_edge.protocols.talkmaster.stream import stream_url


@dataclass(frozen=True, slots=True)
class RoomHandlers:
    """What scripts do with rooms."""

    context: EdgeContext

    async def start(self, call: Call) -> web.StreamResponse:
        """Opens a room."""
        body = await body_of(call, StartConversation)
        if call.caller.key_digest is not None:
            await self.context.admission.identify(call.caller)
        room = room_key(call, body.join_key, body.secret)
        info = "The conversation has started."
        try:
            opened = await self.context.rooms.open(OpenRoom(kind="ait", key=room.key, secret=room.secret or None))
        except CallboardError as error:
            # Whoever knows no secret may join a claimed room, and only that.
            if error.info.code is not ErrorCode.ROOM_SECRET_REQUIRED or room.secret:
                raise
        else:
            if not opened.created:
                info = "The conversation goes on."
        return call.answer({"info": info, "stream_url": self._heard_at(call, room.key)})

    async def post(self, call: Call) -> web.StreamResponse:
        """Takes what a visitor says to a character."""
        body = await body_of(call, PostMessage)
        room = room_key(call, body.join_key)
        caller = caller_of(self.context, call)
        offer = await self.context.offers.to(caller)
        model = chat_model(offer.chat_models, body.model)
        speech = (
            speech_of(offer.speech_models, self.context.workers, body)
            if self.context.settings.speaks_in_rooms
            else None
        )
        request = chat_request(
            self.context.workers,
            model,
            # The scripts join the lines of a notecard with these two characters.
            body.system_instructions.replace("\\n", "\n"),
            sampling_of(body.options),
            limit=body.options.num_predict,
            think=body.think,
        )
        request = await self.context.text.checked(call, request, model, frozenset())
        words = Words(body.message_id, body.username, body.message, body.charactername)
        try:
            await self.context.room_turns.ask(caller, RoomKey("ait", room.key), words, Question(request, model), speech)
        except CallboardError as error:
            raise repeated(error, body.message_id) from error
        return processing({"message_id": body.message_id, "status": "processing", "info": "The message is queued."})

    async def response(self, call: Call) -> web.StreamResponse:
        """Gives the answer to it."""
        query = query_of(call, RoomQuery)
        key = room_key(call, query.join_key).key
        room = await self.context.room_reader.room("ait", key)
        if room is None:
            raise Refusal(ErrorCode.NOT_FOUND, 400, "There is no conversation of this join key.")
        turn = room.turn_of(query.message_id)
        if turn is not None and (result := await self.context.room_reader.reply(turn.id)) is not None:
            text = reply_text(result, turn.character)
            return call.answer_json(with_text({"message_id": query.message_id}, "response", text))
        if isinstance(turn, EndedTurn):
            check_ended(turn)
        return web.json_response("There is no answer yet.", status=425)

    async def reset(self, call: Call) -> web.StreamResponse:
        """Empties a room."""
        body = await body_of(call, ResetJoinKey)
        caller = caller_of(self.context, call)
        models = (await self.context.offers.to(caller)).chat_models
        await self.context.room_turns.check_limits(caller, chat_model(models, "").name)
        room = room_key(call, body.join_key, body.secret)
        try:
            await self.context.rooms.reset(RoomRequest(kind="ait", key=room.key, secret=room.secret or None))
        except CallboardError as error:
            if error.info.code is not ErrorCode.NOT_FOUND:
                raise
        return call.answer({"info": "The conversation begins anew.", "stream_url": self._heard_at(call, room.key)})

    async def speak(self, call: Call) -> web.StreamResponse:
        """Takes a text to be spoken."""
        body = await body_of(call, GenerateAudio)
        caller = caller_of(self.context, call)
        speech = speech_of(
            (await self.context.offers.to(caller)).speech_models, self.context.workers, body, text=body.message
        )
        room = room_key(call, body.join_key, body.secret)
        if speech is None:
            raise no_audio()
        check_text(body.message, self.context.settings.speech.max_input_characters)
        words = Words(uuid4().hex, body.username, body.message, body.username)
        await self.context.room_turns.speak(caller, RoomKey("ait", room.key), words, speech, room.secret)
        info = "The text is queued to be spoken."
        return call.answer({"status": "processing", "info": info, "stream_url": self._heard_at(call, room.key)})

    def _heard_at(self, call: Call, key: str) -> str:
        return stream_url(self.context, call, "ait", key) if self.context.speech_models.models else ""


def routes(context: EdgeContext) -> list[Route]:
    """The routes of this module."""
    handlers = RoomHandlers(context)
    return [
        Route(
            "POST",
            "/ait/startConversation",
            served(handlers.start),
            name="talkmaster_start",
            summary="Open a room, or find it open",
            tag=TAG,
            body=StartConversation,
            answers={200: Answer("The room is open."), 400: Answer("The key has a space in it.")},
        ),
        Route(
            "POST",
            "/ait/postMessage",
            served(handlers.post),
            name="talkmaster_post",
            summary="Say something to a character of a room",
            tag=TAG,
            body=PostMessage,
            answers={
                425: Answer("Accepted; the answer is fetched by its message id."),
                400: Answer("The model or voice is not offered, the message is there already, or the key has a space."),
                429: Answer("A limit is reached."),
            },
        ),
        Route(
            "GET",
            "/ait/getMessageResponse",
            served(handlers.response),
            name="talkmaster_response",
            summary="Fetch the answer to a message of a room",
            tag=TAG,
            query=RoomQuery,
            answers={200: Answer("The answer."), 425: Answer("Not yet."), 400: Answer("There is no such room.")},
        ),
        Route(
            "POST",
            "/ait/resetJoinkey",
            served(handlers.reset),
            name="talkmaster_reset",
            summary="Forget what was said in a room",
            tag=TAG,
            body=ResetJoinKey,
            answers={200: Answer("The room is empty."), 400: Answer("The key has a space in it, or is claimed.")},
        ),
        Route(
            "POST",
            "/ait/generateAudio",
            served(handlers.speak),
            name="talkmaster_speak",
            summary="Speak a text in a room",
            tag=TAG,
            body=GenerateAudio,
            answers={200: Answer("Accepted."), 400: Answer("The voice is not offered, or there is no audio.")},
        ),
    ]
