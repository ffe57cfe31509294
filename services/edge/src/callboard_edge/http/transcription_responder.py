"""Answers a request for a transcript, whole or while it is written, in whatever form a protocol's writer gives it."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from aiohttp import web

from callboard_contracts.errors import CallboardError, ErrorInfo
from callboard_contracts.pools import SttSection
from callboard_contracts.transcription import TranscriptionRequest
from callboard_edge.domain.abilities import check_hears
from callboard_edge.domain.admission import Admission
from callboard_edge.domain.catalogue import RecognitionModel
from callboard_edge.domain.job_stream import KEEP_ALIVE_S
from callboard_edge.domain.sounds import Sound
from callboard_edge.domain.transcription_stream import Transcript, TranscriptionStream
from callboard_edge.domain.workers import Workers
from callboard_edge.http.call import Call
from callboard_edge.metrics import EdgeMetrics

FIRST_WAIT_S = 3.0
"""How long the status of a stream waits for a first text, so that a refusal comes as one."""
JSON = "application/json"


class TranscriptWriter(Protocol):
    """Writes a whole transcript."""

    @property
    def content_type(self) -> str:
        """The type of the answer."""
        ...

    def whole(self, transcript: Transcript) -> bytes:
        """The answer."""
        ...


@runtime_checkable
class TranscriptEvents(Protocol):
    """Writes a transcript while it grows."""

    @property
    def content_type(self) -> str:
        """The type of the answer."""
        ...

    @property
    def keep_alive(self) -> bytes:
        """What shows a waiting client that the answer still comes."""
        ...

    def delta(self, text: str) -> bytes:
        """Text that follows what was sent."""
        ...

    def closing(self, transcript: Transcript, tokens: int) -> bytes:
        """The end; `tokens` is what was charged."""
        ...

    def failure(self, error: ErrorInfo) -> bytes:
        """The end of a transcript that failed after the answer began."""
        ...


@dataclass(frozen=True, slots=True)
class TranscriptionResponder:
    """What all protocols that take sound share between their bodies and their writers."""

    admission: Admission
    workers: Workers
    metrics: EdgeMetrics
    settings: SttSection

    async def respond(
        self,
        call: Call,
        route: str,
        request: TranscriptionRequest,
        model: RecognitionModel,
        sound: Sound,
        writer: TranscriptWriter | TranscriptEvents,
    ) -> web.StreamResponse:
        """Checks a request against the model, admits it and answers it; `route` is its name in metrics.

        Raises:
            CallboardError: it was refused, or failed before anything was sent.
        """
        check_hears(request, model, self.workers.model("stt", model.pool, model.name))
        held_ms = min(self.settings.hold_slice_ms, int(self.settings.max_audio_s * 1000))
        async with await self.admission.transcription(
            call.caller, request, model, sound, held_ms, call.fresh_id
        ) as stream:
            call.tell_limits(stream.states)
            if isinstance(writer, TranscriptEvents):
                call.mode = "stream"
                with self.metrics.streaming(route):
                    return await self._streamed(call, route, stream, writer)

            async def on_silence() -> None:
                # While a worker is there an error keeps its own status, and only JSON can begin with blanks.
                if writer.content_type == JSON and (stream.waking or call.response is not None):
                    await call.hold_open()

            body = writer.whole(await stream.collect(on_silence))
            if writer.content_type == JSON:
                return await call.answer_whole(body)
            return web.Response(body=body, headers={"Content-Type": writer.content_type})

    async def _streamed(
        self, call: Call, route: str, stream: TranscriptionStream, writer: TranscriptEvents
    ) -> web.StreamResponse:
        frames = await stream.take(FIRST_WAIT_S)
        if stream.ended and not stream.text:
            # Nothing was sent, so an error keeps its status.
            _ = stream.transcript
        await call.stream(writer.content_type)
        sent, delta = 0, b""
        if not frames:
            await call.write(writer.keep_alive, content=False)
        try:
            while True:
                # Another attempt may write other words than those that are out; the end has the whole text.
                text = stream.text
                delta = writer.delta(text[sent:]) if len(text) > sent else b""
                sent = max(sent, len(text))
                if stream.ended:
                    transcript = stream.transcript
                    last = delta + writer.closing(transcript, stream.charged_tokens(transcript.end.heard_ms))
                    break
                if delta or not frames:
                    await call.write(delta or writer.keep_alive, content=bool(delta))
                delta = b""
                frames = await stream.take(KEEP_ALIVE_S)
        except CallboardError as error:
            self.metrics.errors.labels(route, error.info.code.value).inc()
            last = delta + writer.failure(error.info)
        return await call.finish(last)
