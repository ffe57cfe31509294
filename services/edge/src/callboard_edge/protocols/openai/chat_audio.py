"""What a chat request says of audio: how the reply is spoken, and which earlier audio stands for its text."""

import re
from collections.abc import Awaitable, Callable
from typing import TypeVar

from callboard_contracts.chat import ChatResult
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.speech import SpeechRequest
from callboard_edge.domain.abilities import unsupported
from callboard_edge.domain.catalogue import Catalogue, ChatModel, SpeechModel
from callboard_edge.domain.word_times import check_word_times
from callboard_edge.domain.workers import Workers
from callboard_edge.media.formats import AudioFormat
from callboard_edge.protocols.openai.audio_writer import AUDIO_ID
from callboard_edge.protocols.openai.bodies import ChatFields, ChatTurn
from callboard_edge.protocols.openai.words import GRANULARITIES

F = TypeVar("F", bound=ChatFields)

_FORMATS: dict[str, AudioFormat] = {
    "wav": "wav",
    "aac": "aac",
    "mp3": "mp3",
    "flac": "flac",
    "opus": "opus",
    "pcm16": "pcm",
}
_STREAMED = ("pcm16", "mp3", "opus")


def spoken(
    body: ChatFields, chat_model: ChatModel, models: Catalogue[SpeechModel], workers: Workers
) -> tuple[SpeechModel, SpeechRequest, AudioFormat]:
    """The model, the request and the format in which a reply is spoken; a character speaks with its own voice.

    Raises:
        CallboardError: `audio` is missing, names what is not offered, or asks for a format that cannot be streamed.
    """
    audio = body.audio
    if "text" not in (body.modalities or ()):
        raise unsupported("Audio comes with its transcript only: 'modalities' must be ['text', 'audio'].", "modalities")
    if audio is None:
        raise CallboardError(ErrorCode.INVALID_REQUEST, "Missing required field: 'audio'.", param="audio")
    if body.stream and audio.format not in _STREAMED:
        raise unsupported(f"A streamed reply is spoken as one of {', '.join(_STREAMED)}.", "audio.format")
    speed, word_times = 1.0 if audio.speed is None else audio.speed, bool(audio.timestamp_granularities)
    try:
        model, request = voiced(
            chat_model, models, workers, audio.model, audio.voice, speed=speed, word_times=word_times
        )
        if word_times:
            check_word_times(model, workers, GRANULARITIES)
    except CallboardError as error:
        raise CallboardError.of(error.info.model_copy(update={"param": f"audio.{error.info.param}"})) from None
    return model, request, _FORMATS[audio.format]


def voiced(
    chat_model: ChatModel,
    models: Catalogue[SpeechModel],
    workers: Workers,
    name: str | None,
    voice: str | None,
    *,
    speed: float = 1.0,
    word_times: bool = False,
) -> tuple[SpeechModel, SpeechRequest]:
    """How the reply of a chat model is spoken; OpenAI's clients have no place for the name of the speech model.

    Raises:
        CallboardError: there is no such model or voice.
    """
    model = models.resolve(name or models.default or next(iter(models.names), None))
    catalog = model.catalog(workers)
    if voice is None and chat_model.character is not None and catalog.can_speak(chat_model.character):
        voice = chat_model.name
    request = SpeechRequest(
        model=model.name,
        text="",
        voice=catalog.resolve(voice),
        speed=speed,
        words=catalog.words_of(voice),
        word_times=word_times,
    )
    return model, request


async def with_transcripts(body: F, result: Callable[[str], Awaitable[ChatResult | None]]) -> F:
    """The request with the text of each message that names the audio of an earlier reply.

    Raises:
        CallboardError: that audio is not known, or no longer.
    """
    spoken_before = [turn for turn in body.messages if turn.audio is not None]
    if not spoken_before:
        return body
    turns = [await _with_transcript(turn, index, result) for index, turn in enumerate(body.messages)]
    return body.model_copy(update={"messages": turns})


async def _with_transcript(
    turn: ChatTurn, index: int, result: Callable[[str], Awaitable[ChatResult | None]]
) -> ChatTurn:
    if turn.audio is None or turn.content is not None:
        return turn
    match = re.fullmatch(AUDIO_ID, turn.audio.id)
    kept = await result(match[1]) if match and turn.role == "assistant" else None
    if kept is None:
        message = "There is no audio of that id, or it has expired; send the text instead."
        raise CallboardError(ErrorCode.INVALID_REQUEST, message, param=f"messages[{index}].audio.id")
    return turn.model_copy(update={"content": kept.text})
