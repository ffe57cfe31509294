"""Reads requests for transcription: a form with a file, or KoboldCpp's JSON with base64."""

import asyncio
import binascii
import re
from base64 import b64decode
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field

from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.transcription import (
    MAX_HOTWORDS,
    MAX_PROMPT_CHARACTERS,
    TranscriptionRequest,
    TranscriptionTask,
)
from callboard_edge.domain.catalogue import RecognitionModel
from callboard_edge.domain.languages import language_tag
from callboard_edge.domain.sounds import Sound
from callboard_edge.http.bodies import parse, parse_query
from callboard_edge.http.call import Call
from callboard_edge.http.multipart import FORM, FormParser, is_form

FILE = "file"
BASE64 = "audio_data"
MAX_WORD = 128
FORM_BYTES = 256 * 1024
"""What a form has beside its file, at most."""
AUTO = frozenset({"auto", "detect"})
"""What clients say for a language that is to be found."""
_LANGUAGE = re.compile(r"[a-z]{2,3}")

TranscriptFormat = Literal["json", "verbose_json", "text", "srt", "vtt", "diarized_json"]
Granularity = Literal["word", "segment"]


def _listed(value: Any) -> Any:
    """A list, also where one value stands for itself or several are in one text."""
    parts = value if isinstance(value, list) else [value]
    split = [one for part in parts for one in (map(str.strip, part.split(",")) if isinstance(part, str) else [part])]
    return tuple(one for one in split if one not in ("", None))


def _one(value: Any) -> Any:
    """The last of a field's values; empty is as good as left out."""
    last = value[-1] if isinstance(value, list) and value else value
    return None if last == "" else last


def _language(value: Any) -> Any:
    """The code of a language that is named by a code, a tag or its name."""
    value = _one(value)
    if not isinstance(value, str) or value.strip().lower() in AUTO:
        return None if isinstance(value, str) else value
    code = language_tag(value).partition("-")[0]
    if not _LANGUAGE.fullmatch(code):
        raise ValueError("a language is a code of ISO 639, such as 'en'")
    return "no" if code == "nb" else code


Language = Annotated[str | None, BeforeValidator(_language)]
"""A language's code, read from a code, a tag or a name."""
Words = Annotated[
    tuple[Annotated[str, Field(max_length=MAX_WORD)], ...], Field(max_length=MAX_HOTWORDS), BeforeValidator(_listed)
]
Single = BeforeValidator(_one)


class TranscriptionBody(BaseModel):
    """What is to be heard and how it is to be written, by the names of each kind of client; the rest is ignored.

    All fields of a form are text, so types are taken as they can be read.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    model: Annotated[str | None, Single] = None
    language: Annotated[
        str | None, BeforeValidator(_language), Field(validation_alias=AliasChoices("language", "langcode"))
    ] = None
    prompt: Annotated[str | None, Field(max_length=MAX_PROMPT_CHARACTERS), Single] = None
    hotwords: Annotated[Words, Field(validation_alias=AliasChoices("hotwords", "keywords"))] = ()
    temperature: Annotated[float | None, Field(ge=0, le=1), Single] = None
    response_format: Annotated[TranscriptFormat | None, Single] = None
    timestamp_granularities: Annotated[tuple[Granularity, ...], BeforeValidator(_listed)] = ()
    include: Annotated[tuple[Literal["logprobs"], ...], BeforeValidator(_listed)] = ()
    stream: Annotated[bool | None, Single] = None
    suppress_non_speech: Annotated[bool | None, Single] = None


class FileForm(TranscriptionBody):
    """The same as a form."""

    file: Annotated[str, Field(json_schema_extra={"format": "binary"})]


class Base64Body(TranscriptionBody):
    """The same as JSON; `audio_data` is the sound as base64, also as a data URL."""

    audio_data: str


@dataclass(frozen=True, slots=True)
class Upload:
    """What a client sent."""

    body: TranscriptionBody
    sound: Sound


@asynccontextmanager
async def uploaded(call: Call, max_sound_bytes: int, *, is_labelled: bool = True) -> AsyncGenerator[Upload]:
    """What a request brings, in either form; its bytes count as those of an open body until they are released.

    Where it need not be labelled, what is no form is JSON.

    Raises:
        CallboardError: it is of another type, has no sound, several or too much, or a field is wrong.
    """
    if is_form(call.request.headers):
        parser = FormParser(call.request.headers["Content-Type"], FILE, max_sound_bytes)
        async with call.held_body(parser.feed) as held:
            form = parser.close()
            if form.file is None:
                raise CallboardError(ErrorCode.INVALID_REQUEST, f"Missing required field: '{FILE}'.", param=FILE)
            body, sound = parse_query(TranscriptionBody, form.fields), _sound(form.file, FILE, held.release)
            # Once it is released nothing may keep its bytes.
            form.file = None
            yield Upload(body, sound)
        return
    if is_labelled and call.request.content_type not in {"application/json", "text/json"}:
        raise CallboardError(
            ErrorCode.UNSUPPORTED_MEDIA_TYPE,
            f"The body must be {FORM} with the sound as '{FILE}', or JSON with base64 of it as '{BASE64}'.",
            offered=(FORM, "application/json"),
        )
    async with call.held_body() as held:
        body, content = await asyncio.to_thread(_decoded, held.take(), max_sound_bytes)
        sound = _sound(content, BASE64, held.release)
        del content
        yield Upload(body, sound)


def transcription_request(
    body: TranscriptionBody, model: RecognitionModel, task: TranscriptionTask = "transcribe"
) -> TranscriptionRequest:
    """The neutral form of a request."""
    return TranscriptionRequest(
        model=model.name,
        task=task,
        language=body.language,
        prompt=body.prompt or "",
        hotwords=body.hotwords,
        temperature=body.temperature,
        word_timestamps="word" in body.timestamp_granularities,
    )


def max_upload_bytes(max_sound_bytes: int) -> int:
    """How large a body may be, so that base64 of the largest sound fits."""
    return max_sound_bytes * 4 // 3 + FORM_BYTES


def _decoded(raw: bytes, max_sound_bytes: int) -> tuple[TranscriptionBody, bytes]:
    body = parse(Base64Body, raw)
    text = body.audio_data
    if text.startswith("data:"):
        text = text.partition(",")[2]
    if len(text) // 4 * 3 > max_sound_bytes + 2:
        raise CallboardError(
            ErrorCode.BODY_TOO_LARGE, f"The sound is larger than the limit of {max_sound_bytes} bytes.", param=BASE64
        )
    try:
        return TranscriptionBody.model_construct(**dict(body)), b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise CallboardError(ErrorCode.INVALID_REQUEST, f"'{BASE64}' is not valid base64.", param=BASE64) from None


def _sound(content: bytes | bytearray, param: str, release: Callable[[], None]) -> Sound:
    if not content:
        raise CallboardError(ErrorCode.INVALID_REQUEST, "The file is empty.", param=param)
    return Sound(content, release)
