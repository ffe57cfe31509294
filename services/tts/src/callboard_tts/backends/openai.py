"""Any server that speaks OpenAI's `/v1/audio/speech` and can send raw PCM."""

import logging
from collections.abc import AsyncGenerator, Sequence

import openai
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_contracts.speech import BYTES_PER_SAMPLE, SAMPLE_RATE_HZ
from callboard_tts.domain.ports import Part, PieceRequest
from callboard_tts.domain.pronunciation import without_pronunciations
from callboard_tts.domain.sound import from_pcm
from callboard_tts.domain.voices import Voice
from callboard_worker.engine import EngineError, EngineFailed, EngineRefused, EngineUnavailable

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0
STALL_TIMEOUT_S = 60.0
CHUNK_BYTES = 9_600
MAX_PIECE_BYTES = 120 * SAMPLE_RATE_HZ * BYTES_PER_SAMPLE
"""Two minutes of sound, many times what a piece can take: a server that sends more is out of order."""
_BUSY = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_REFUSED = frozenset({400, 413, 422})


class OpenAISpeechEngine:
    """A speech server elsewhere; it is asked for 24 kHz PCM, piece by piece, and read while it speaks."""

    in_process = False
    tells_word_times = False

    def __init__(
        self, url: str, api_key: str | None, voices: Sequence[str] = (), stall_timeout_s: float = STALL_TIMEOUT_S
    ) -> None:
        self._voices = [Voice(name) for name in voices]
        self._client = AsyncOpenAI(
            base_url=url,
            api_key=api_key or "none",
            max_retries=0,
            timeout=openai.Timeout(stall_timeout_s, connect=CONNECT_TIMEOUT_S),
            # A proxy that the environment names is not to hear what is spoken.
            http_client=DefaultAsyncHttpxClient(trust_env=False),
        )

    async def load(self) -> None:
        """Has nothing to prepare: a server that is down at this moment may be up for the first job."""

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()

    async def ready(self) -> str | None:
        """Always: such servers have no common way to be asked, and every piece shows it."""
        return None

    def voices(self) -> Sequence[Voice]:
        """The voices that the configuration names; without any the server judges."""
        return self._voices

    def broken(self) -> str | None:
        """Never: every piece is a request of its own."""
        return None

    async def synthesise(self, piece: PieceRequest) -> AsyncGenerator[Part, None]:
        """Yields the sound as the server sends it; closing the generator closes the request."""
        received = 0
        rest = b""
        try:
            async with self._client.audio.speech.with_streaming_response.create(
                model=piece.model,
                voice=piece.voice.spec,
                input=without_pronunciations(piece.text),
                speed=piece.speed,
                response_format="pcm",
                instructions=piece.instructions or openai.omit,
            ) as response:
                _check_form(response.headers.get("content-type", ""))
                async for chunk in response.iter_bytes(CHUNK_BYTES):
                    _check_sound(chunk, received)
                    received += len(chunk)
                    data = rest + chunk
                    rest = data[len(data) - len(data) % BYTES_PER_SAMPLE :]
                    yield Part(from_pcm(data))
        except openai.APIStatusError as error:
            log.warning("engine_refused", extra={"status": error.status_code})
            raise _refusal(error.status_code) from error
        except EngineError:
            raise
        except Exception as error:
            # The package wraps what fails before the answer; what fails within it comes as its HTTP library's errors.
            if received:
                raise EngineFailed("the engine's answer broke off") from error
            raise EngineUnavailable("the engine cannot be reached") from error
        if received == 0:
            raise EngineFailed("the engine sent no sound")


def _refusal(status: int) -> EngineError:
    if status in _BUSY:
        return EngineUnavailable(f"the engine answered {status}")
    if status in _REFUSED:
        message = "The engine behind the model does not take this text, voice or speed."
        return EngineRefused(ErrorInfo(code=ErrorCode.UNSUPPORTED, message=message))
    return EngineFailed(f"the engine answered {status}")


def _check_sound(chunk: bytes, received: int) -> None:
    if received == 0 and chunk.startswith(b"RIFF"):
        raise EngineFailed("the engine sent a WAV file instead of PCM")
    if received + len(chunk) > MAX_PIECE_BYTES:
        raise EngineFailed("the engine sent far more sound than the text can take")


def _check_form(content_type: str) -> None:
    """Raw PCM has no header of its own, so a declared other form or rate is all there is to notice a mistake by."""
    form, *parameters = (part.strip().lower() for part in content_type.split(";"))
    if form in {"audio/mpeg", "audio/mp3", "audio/wav", "audio/x-wav", "audio/ogg", "audio/flac", "audio/aac"}:
        raise EngineFailed("the engine sent another format than PCM")
    if form in {"application/json", "text/html", "text/plain"}:
        raise EngineFailed("the engine sent a text instead of sound")
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key == "rate" and value.isdigit() and int(value) != SAMPLE_RATE_HZ:
            raise EngineFailed("the engine speaks at another sample rate than 24 kHz")
