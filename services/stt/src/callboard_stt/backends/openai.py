"""Any server that speaks OpenAI's `/v1/audio/transcriptions`."""

import io
import logging
import wave
from collections.abc import AsyncGenerator, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import openai
from openai import AsyncOpenAI, DefaultAsyncHttpxClient
from pydantic import BaseModel

from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_contracts.transcription import TranscribedSegment, TranscribedWord, TranscriptionRequest
from callboard_contracts.workers import Ability
from callboard_stt.domain.ports import SAMPLE_RATE_HZ, SAMPLES_PER_MS, Recognised, Sound
from callboard_worker.engine import EngineError, EngineFailed, EngineRefused, EngineUnavailable

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0
_BUSY = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_REFUSED = frozenset({400, 413, 415, 422})
_FILE_NAMES = {"matroska": "webm", "mov": "mp4", "ogg": "ogg", "flac": "flac", "mp3": "mp3", "wav": "wav"}
"""What such servers know a container by: the end of the file's name."""


class _Word(BaseModel):
    word: str
    start: float
    end: float
    probability: float | None = None


class _Segment(BaseModel):
    start: float
    end: float
    text: str
    tokens: tuple[int, ...] = ()
    seek: int | None = None
    temperature: float | None = None
    avg_logprob: float | None = None
    compression_ratio: float | None = None
    no_speech_prob: float | None = None


class _Answer(BaseModel):
    """A `verbose_json`, or a plain `json` from a server that has no other."""

    text: str
    language: str | None = None
    segments: tuple[_Segment, ...] | None = None
    words: tuple[_Word, ...] | None = None


class OpenAIRecognitionEngine:
    """A recogniser elsewhere; it gets the client's file, and answers for the whole of it at once."""

    in_process = False

    def __init__(self, url: str, api_key: str | None, timeout_s: float) -> None:
        self._client = AsyncOpenAI(
            base_url=url,
            api_key=api_key or "none",
            max_retries=0,
            timeout=openai.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S),
            # A proxy that the environment names is not to hear what is said.
            http_client=DefaultAsyncHttpxClient(trust_env=False),
        )

    @property
    def abilities(self) -> AbstractSet[Ability]:
        """What the protocol can ask for."""
        return frozenset({"translation", "word_timestamps"})

    def languages(self) -> Sequence[str]:
        """Unknown: the server judges."""
        return ()

    async def load(self) -> None:
        """Has nothing to prepare: a server that is down at this moment may be up for the first job."""

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()

    async def ready(self) -> str | None:
        """Always: such servers have no common way to be asked, and every request shows it."""
        return None

    def broken(self) -> str | None:
        """Never: every sound is a request of its own."""
        return None

    async def transcribe(
        self, model: str, sound: Sound, request: TranscriptionRequest, start_ms: int = 0
    ) -> AsyncGenerator[Recognised, None]:
        """Yields everything at once; closing the generator closes the request."""
        try:
            answer = await self._ask(model, sound, request, start_ms)
        except openai.APIStatusError as error:
            log.warning("engine_refused", extra={"status": error.status_code})
            raise _refusal(error.status_code) from error
        except openai.APIConnectionError as error:
            raise EngineUnavailable("the engine cannot be reached") from error
        except ValueError as error:
            raise EngineFailed("the engine's answer is not a transcription") from error
        if (recognised := _recognised(answer, sound.duration_ms, start_ms)) is not None:
            yield recognised

    async def _ask(self, model: str, sound: Sound, request: TranscriptionRequest, start_ms: int) -> _Answer:
        prompt = ", ".join(filter(None, (request.prompt, *request.hotwords)))
        translates = request.task == "translate"
        granularities = ["segment", *(["word"] if request.word_timestamps else [])]
        fields: dict[str, Any] = {
            "model": model,
            "response_format": "verbose_json",
            "prompt": prompt,
            "temperature": request.temperature,
            **({} if translates else {"language": request.language, "timestamp_granularities": granularities}),
        }
        answer = await self._client.post(
            "/audio/translations" if translates else "/audio/transcriptions",
            cast_to=object,
            body={name: value for name, value in fields.items() if value not in (None, "")},
            files=[("file", _file(sound, start_ms))],
            options={"headers": {"Content-Type": "multipart/form-data"}},
        )
        return _Answer.model_validate(answer)


def _file(sound: Sound, start_ms: int) -> tuple[str, bytes]:
    """The client's own file where the server is likely to know its form, else the sound of it as WAV."""
    name = next((end for form, end in _FILE_NAMES.items() if form in sound.container.split(",")), None)
    if name is not None and start_ms == 0:
        return f"sound.{name}", sound.file
    target = io.BytesIO()
    with wave.open(target, "wb") as written:
        written.setnchannels(1)
        written.setsampwidth(2)
        written.setframerate(SAMPLE_RATE_HZ)
        written.writeframes(sound.samples[start_ms * SAMPLES_PER_MS :].astype("<i2").tobytes())
    return "sound.wav", target.getvalue()


def _recognised(answer: _Answer, duration_ms: int, start_ms: int) -> Recognised | None:
    """What the server heard, or None where it heard nothing; times are counted from the sound's beginning."""
    offset_s = start_ms / 1000
    found = answer.segments
    if not found:
        if not answer.text.strip():
            return None
        found = (_Segment(start=0.0, end=duration_ms / 1000 - offset_s, text=answer.text),)
    words = list(answer.words or ())
    segments: list[TranscribedSegment] = []
    for n, segment in enumerate(found):
        is_last = n == len(found) - 1
        own = [word for word in words if is_last or (word.start + word.end) / 2 < segment.end]
        del words[: len(own)]
        segments.append(
            TranscribedSegment(
                start_s=max(0.0, segment.start) + offset_s,
                end_s=max(0.0, segment.end) + offset_s,
                # Some servers leave out the space between segments.
                text=segment.text if segment.text[:1].isspace() or n == 0 else f" {segment.text}",
                words=tuple(
                    TranscribedWord(
                        word=word.word,
                        start_s=word.start + offset_s,
                        end_s=word.end + offset_s,
                        probability=word.probability,
                    )
                    for word in own
                ),
                tokens=segment.tokens,
                seek=segment.seek,
                temperature=segment.temperature,
                avg_logprob=segment.avg_logprob,
                compression_ratio=segment.compression_ratio,
                no_speech_probability=segment.no_speech_prob,
            )
        )
    return Recognised(tuple(segments), answer.language)


def _refusal(status: int) -> EngineError:
    if status in _BUSY:
        return EngineUnavailable(f"the engine answered {status}")
    if status in _REFUSED:
        message = "The engine behind the model does not take this sound or its language."
        return EngineRefused(ErrorInfo(code=ErrorCode.UNSUPPORTED, message=message))
    return EngineFailed(f"the engine answered {status}")
