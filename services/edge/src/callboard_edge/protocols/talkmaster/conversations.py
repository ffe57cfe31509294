"""A visitor alone with one character: `/conversation`, whose model and instructions are set at its start."""

from uuid import uuid4

from aiohttp import web

from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.rooms import EndedTurn, OpenRoom, RoomSettings
from callboard_edge.domain.room_turns import Question, RoomKey, Words
from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.route import Answer, Route
from callboard_edge.protocols.talkmaster.bodies import ConversationMessage, ConversationQuery, ConversationStart
from callboard_edge.protocols.talkmaster.errors import Refusal, body_of, query_of, served
from callboard_edge.protocols.talkmaster.models import TAG
from callboard_edge.protocols.talkmaster.replies import check_ended, processing, reply_text, with_text
from callboard_edge.protocols.talkmaster.requests import caller_of, chat_model, chat_request, sampling_of

UNKNOWN = "There is no conversation of this key."


def routes(context: EdgeContext) -> list[Route]:
    """The routes of this module."""
    turns = context.room_turns

    async def start(call: Call) -> web.StreamResponse:
        body = await body_of(call, ConversationStart)
        caller = caller_of(context, call)
        model = chat_model((await context.offers.to(caller)).chat_models, body.model)
        await turns.check_limits(caller, model.served_name)
        settings = RoomSettings(
            model=model.name,
            system_instructions=body.system_instructions,
            sampling=sampling_of(body.options),
            max_output_tokens=model.output_limit(max(body.options.num_predict or 0, 0) or None),
        )
        key = str(uuid4())
        await context.rooms.open(OpenRoom(kind="conversation", key=key, settings=settings))
        return call.answer({"conversation_key": key})

    async def post(call: Call) -> web.StreamResponse:
        body = await body_of(call, ConversationMessage)
        caller = caller_of(context, call)
        models = (await context.offers.to(caller)).chat_models
        room = await context.room_reader.room("conversation", body.conversation_key)
        if room is None:
            await turns.check_limits(caller, chat_model(models, "").name)
            raise Refusal(ErrorCode.NOT_FOUND, 400, {"message": UNKNOWN})
        model = chat_model(models, room.settings.model or "")
        request = chat_request(
            context.workers,
            model,
            room.settings.system_instructions,
            room.settings.sampling,
            limit=room.settings.max_output_tokens,
            think=body.think,
        )
        request = await context.text.checked(call, request, model, frozenset())
        words = Words(body.message_id, "", body.message)
        where = RoomKey("conversation", body.conversation_key)
        try:
            await turns.ask(caller, where, words, Question(request, model), None, opens=False, unique=False)
        except CallboardError as error:
            if error.info.code is ErrorCode.NOT_FOUND:
                raise Refusal(ErrorCode.NOT_FOUND, 400, {"message": UNKNOWN}) from error
            raise
        return processing(
            {
                "message_id": body.message_id,
                "conversation_key": body.conversation_key,
                "status": "processing",
                "info": "The message is queued.",
            }
        )

    async def response(call: Call) -> web.StreamResponse:
        query = query_of(call, ConversationQuery)
        room = await context.room_reader.room("conversation", query.conversation_key)
        if room is None:
            raise Refusal(ErrorCode.NOT_FOUND, 400, {"message": UNKNOWN})
        turn = room.turn_of(query.message_id)
        fields = {"message_id": query.message_id, "conversation_key": query.conversation_key}
        if turn is not None and (result := await context.room_reader.reply(turn.id)) is not None:
            return call.answer_json(with_text(fields, "response", reply_text(result)))
        if isinstance(turn, EndedTurn):
            check_ended(turn)
        return processing({"message": "There is no answer yet.", "conversation_key": query.conversation_key})

    return [
        Route(
            "POST",
            "/conversation/start",
            served(start),
            name="talkmaster_conversation_start",
            summary="Open a conversation with one character",
            tag=TAG,
            body=ConversationStart,
            answers={200: Answer("Its key."), 400: Answer("The model is not offered."), 429: Answer("A limit.")},
        ),
        Route(
            "POST",
            "/conversation/postMessage",
            served(post),
            name="talkmaster_conversation_post",
            summary="Say something in a conversation",
            tag=TAG,
            body=ConversationMessage,
            answers={425: Answer("Accepted."), 400: Answer("There is no such conversation."), 429: Answer("A limit.")},
        ),
        Route(
            "GET",
            "/conversation/getMessageResponse",
            served(response),
            name="talkmaster_conversation_response",
            summary="Fetch the answer to a message of a conversation",
            tag=TAG,
            query=ConversationQuery,
            answers={200: Answer("The answer."), 425: Answer("Not yet."), 400: Answer("No such conversation.")},
        ),
    ]
