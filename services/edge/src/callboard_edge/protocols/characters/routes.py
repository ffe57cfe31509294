"""The characters on offer, what is said to them, and what they remember."""

from dataclasses import dataclass
from typing import Any

from aiohttp import web

from callboard_contracts.characters import Character, memory_key, speaker_name
from callboard_contracts.chat import ChatMessage, ChatRequest, Sampling
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.rooms import RoomRequest
from callboard_contracts.speech import SpeechRequest
from callboard_edge.domain.abilities import unsupported
from callboard_edge.domain.catalogue import Catalogue, ChatModel, SpeechModel
from callboard_edge.http.bodies import parse_query
from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.route import Answer, Route
from callboard_edge.protocols.characters.bodies import (
    CharacterList,
    CharacterObject,
    ForgottenObject,
    MemoryObject,
    MemoryQuery,
    MessageAnswer,
    MessageBody,
    SpeechOutput,
)
from callboard_edge.protocols.characters.errors import ANSWERS
from callboard_edge.protocols.characters.writer import MessageWriter

TAG = "Characters"
PREFIX = "/v1/characters"
MESSAGES = "character_messages"
STREAMED = ("pcm", "mp3", "opus")


@dataclass(frozen=True, slots=True)
class CharacterHandlers:
    """What callers do with characters."""

    context: EdgeContext

    async def _found(self, call: Call) -> tuple[Character, ChatModel]:
        model = (await self.context.offers.to(call.caller)).chat_models.find(f"character/{call.params['name']}")
        if model is None or model.character is None:
            # Who has no key is not told which characters there are.
            await self.context.admission.identify(call.caller)
            raise CallboardError(ErrorCode.UNKNOWN_MODEL, "There is no character of that name here.", param="model")
        return model.character, model

    async def _remembered(self, call: Call) -> tuple[Character, str, str]:
        """The character, the speaker, and the key of what they have said."""
        query = parse_query(MemoryQuery, call.request.query)
        character, _model = await self._found(call)
        caller, speaker = await self.context.admission.identify(call.caller), speaker_name(query.speaker)
        if not caller.tier:
            raise CallboardError(ErrorCode.QUOTA_UNAVAILABLE, "Whose memory this is cannot be told at the moment.")
        return character, speaker, memory_key(caller.tenant, character, speaker)

    async def listing(self, call: Call) -> web.StreamResponse:
        """Lists the characters."""
        await self.context.admission.identify(call.caller)
        models = (await self.context.offers.to(call.caller)).chat_models.models
        characters = [model.character for model in models if model.character is not None]
        return call.answer({"characters": [character_object(character) for character in characters]})

    async def show(self, call: Call) -> web.StreamResponse:
        """Describes one."""
        await self.context.admission.identify(call.caller)
        character, _model = await self._found(call)
        return call.answer(character_object(character))

    async def say(self, call: Call) -> web.StreamResponse:
        """Has a message answered."""
        body = await call.json(MessageBody)
        character, model = await self._found(call)
        request = ChatRequest(
            model=model.name,
            messages=(ChatMessage(role="user", content=body.text),),
            sampling=Sampling(temperature=body.temperature),
            max_output_tokens=model.output_limit(body.max_tokens),
            speaker=body.speaker or "",
            message_id=body.message_id or "",
        )
        speaker, stream = call.speaker or speaker_name(body.speaker), bool(body.stream)
        if body.speech is None:
            writer = MessageWriter(call.fresh_id, character.name, speaker)
            return await self.context.text.respond(call, MESSAGES, request, model, writer, stream=stream)
        sound_format = body.speech.format or "mp3"
        if stream and sound_format not in STREAMED:
            raise unsupported(f"A streamed reply is spoken as one of {', '.join(STREAMED)}.", "speech.format")
        speech_models = (await self.context.offers.to(call.caller)).speech_models
        speech, speech_model = spoken(self.context, speech_models, model, body.speech)
        writer = MessageWriter(call.fresh_id, character.name, speaker, sound_format)
        return await self.context.narrated.respond(
            call, MESSAGES, request, model, speech, speech_model, sound_format, writer, stream=stream
        )

    async def memory(self, call: Call) -> web.StreamResponse:
        """Shows what is remembered of a speaker."""
        character, speaker, key = await self._remembered(call)
        room = await self.context.room_reader.room("character", key)
        lines = room.messages if room else ()
        return call.answer(
            {
                "character": character.name,
                "speaker": speaker,
                "messages": [
                    {"role": one.role, "speaker": one.speaker, "text": one.text, "at": one.at} for one in lines
                ],
                "waiting": len(room.open_turns) if room else 0,
            }
        )

    async def forget(self, call: Call) -> web.StreamResponse:
        """Ends that memory."""
        _character, _speaker, key = await self._remembered(call)
        try:
            await self.context.rooms.end(RoomRequest(kind="character", key=key))
        except CallboardError as error:
            if error.info.code is not ErrorCode.NOT_FOUND:
                raise
            return call.answer({"forgotten": False})
        return call.answer({"forgotten": True})


def routes(context: EdgeContext) -> list[Route]:
    """All routes."""
    handlers = CharacterHandlers(context)
    one = f"{PREFIX}/{{name}}"
    return [
        Route(
            "GET",
            PREFIX,
            handlers.listing,
            name="characters",
            summary="List the characters on offer",
            tag=TAG,
            answers={200: Answer("The characters.", CharacterList)},
        ),
        Route(
            "GET",
            one,
            handlers.show,
            name="character",
            summary="Describe one character",
            tag=TAG,
            answers={200: Answer("The character.", CharacterObject), 404: ANSWERS[404]},
        ),
        Route(
            "POST",
            f"{one}/messages",
            handlers.say,
            name=MESSAGES,
            summary="Say something to a character, and have the reply whole or streamed, spoken or not",
            tag=TAG,
            body=MessageBody,
            answers={
                200: Answer("The reply.", MessageAnswer, ("application/json", "text/event-stream")),
                **ANSWERS,
            },
        ),
        Route(
            "GET",
            f"{one}/memory",
            handlers.memory,
            name="character_memory",
            summary="Show what a character remembers of a speaker",
            tag=TAG,
            query=MemoryQuery,
            answers={200: Answer("The memory.", MemoryObject), 404: ANSWERS[404]},
        ),
        Route(
            "DELETE",
            f"{one}/memory",
            handlers.forget,
            name="character_forget",
            summary="Have a character forget a speaker",
            tag=TAG,
            query=MemoryQuery,
            answers={200: Answer("Whether there was something to forget.", ForgottenObject), 404: ANSWERS[404]},
        ),
    ]


def character_object(character: Character) -> dict[str, Any]:
    """A character as callers see it, without its prompt."""
    return {
        "name": character.name,
        "model": character.model_name,
        "display_name": character.display_name,
        "desc": character.desc,
        "greeting": next(iter(character.greetings), ""),
        "greetings": list(character.greetings),
        "voice": character.voice,
        "memory_messages": character.memory_messages,
    }


def spoken(
    context: EdgeContext, models: Catalogue[SpeechModel], model: ChatModel, asked: SpeechOutput
) -> tuple[SpeechRequest, SpeechModel]:
    """How a reply is spoken; raises CallboardError for what is not offered."""
    try:
        speech_model = models.resolve(asked.model or models.default or next(iter(models.names), None))
        catalog = speech_model.catalog(context.workers)
        can_speak = model.character is not None and catalog.can_speak(model.character)
        voice = asked.voice or (model.name if can_speak else None)
        request = SpeechRequest(
            model=speech_model.name,
            text="",
            voice=catalog.resolve(voice),
            speed=1.0 if asked.speed is None else asked.speed,
            words=catalog.words_of(voice),
        )
    except CallboardError as error:
        raise CallboardError.of(error.info.model_copy(update={"param": f"speech.{error.info.param}"})) from None
    return request, speech_model
