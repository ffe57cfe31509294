"""Answers a request for a reply that is spoken too, streamed or whole, in the form that a writer gives it."""

import asyncio
from collections.abc import AsyncGenerator, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Protocol

from aiohttp import web

from callboard_contracts.chat import ChatEnd, ChatFrame, ChatRequest
from callboard_contracts.errors import CallboardError, ErrorInfo
from callboard_contracts.speech import AudioSegment, SpeechEnd, SpeechRequest
from callboard_edge.domain.admission import Admission
from callboard_edge.domain.catalogue import ChatModel, SpeechModel
from callboard_edge.domain.job_stream import KEEP_ALIVE_S
from callboard_edge.domain.narrated_stream import Arrived, NarratedStream
from callboard_edge.domain.text_stream import TextReply
from callboard_edge.domain.word_times import TimedWord, WordClock
from callboard_edge.http.call import Call
from callboard_edge.http.text_responder import FIRST_WAIT_S, TextResponder
from callboard_edge.media.encoder_pool import EncoderPool, EncodingSession
from callboard_edge.media.formats import AudioFormat
from callboard_edge.metrics import EdgeMetrics
from callboard_edge.settings import EdgeSettings


@dataclass(slots=True)
class SpokenReply:
    """What is known of a reply and its speech once both have ended; `audio_tokens` is what quota charged."""

    text: TextReply
    speech: SpeechEnd
    audio_tokens: int
    words: Sequence[TimedWord] = ()


class NarratedWriter(Protocol):
    """Writes one reply and its sound in a protocol's form; see `TextWriter`."""

    @property
    def content_type(self) -> str:
        """The type of a streamed reply."""
        ...

    @property
    def keep_alive(self) -> bytes:
        """What shows a waiting client that the stream still lives."""
        ...

    def spoken(self, reply: SpokenReply, sound: bytes) -> bytes:
        """A whole reply with its sound, as JSON."""
        ...

    def opening(self) -> bytes:
        """What comes first."""
        ...

    def deltas(self, frames: Sequence[ChatFrame]) -> bytes:
        """The text, thinking and tool calls of some frames."""
        ...

    def audio(self, sound: bytes) -> bytes:
        """A part of the sound."""
        ...

    def words(self, words: Sequence[TimedWord]) -> bytes:
        """When the words of the sound that follows are heard, where they were asked for."""
        ...

    def ending(self, reply: SpokenReply) -> bytes:
        """The end of a reply that is complete."""
        ...

    def failure(self, error: ErrorInfo) -> bytes:
        """The end of a reply that failed after the stream had begun."""
        ...


@dataclass(slots=True)
class _Progress:
    """What arrived of a reply so far."""

    text: TextReply = field(default_factory=lambda: TextReply(ChatEnd(reason="error")))
    speech: SpeechEnd = field(default_factory=lambda: SpeechEnd(reason="error"))

    def add(self, frames: Sequence[ChatFrame], segments: Sequence[AudioSegment]) -> None:
        for frame in frames:
            self.text.text += frame.text
            self.text.thinking += frame.thinking
            self.text.tool_calls += frame.tool_calls
            self.text.end = frame.end or self.text.end
        for segment in segments:
            self.speech = segment.info.end or self.speech

    def reply(self, stream: NarratedStream) -> SpokenReply:
        return SpokenReply(self.text, self.speech, stream.speech.charged_tokens(self.speech.audio_ms))


@dataclass(frozen=True, slots=True)
class NarratedResponder:
    """What protocols that speak their replies share between their bodies and their writers."""

    text: TextResponder
    admission: Admission
    encoders: EncoderPool
    metrics: EdgeMetrics
    settings: EdgeSettings

    async def respond(
        self,
        call: Call,
        route: str,
        request: ChatRequest,
        model: ChatModel,
        speech_request: SpeechRequest,
        speech_model: SpeechModel,
        audio_format: AudioFormat,
        writer: NarratedWriter,
        *,
        stream: bool,
        refused_sampling: Set[str] = frozenset(),
    ) -> web.StreamResponse:
        """Admits a reply and its speech and answers with both; `route` is its name in metrics.

        Raises:
            CallboardError: it was refused, or failed before anything was sent.
        """
        request = await self.text.checked(call, request, model, refused_sampling)
        audio_ms = self.settings.speech.hold_slice_ms
        async with (
            self.encoders.session(audio_format) as session,
            await self.admission.narrated(
                call.caller, request, model, speech_request, speech_model, audio_ms, call.fresh_id
            ) as narrated,
        ):
            call.tell_limits(narrated.text.states)
            if not stream:
                return await call.answer_whole(await self._whole(call, narrated, session, writer))
            with self.metrics.streaming(route):
                return await self._streamed(call, route, narrated, session, writer)

    async def _whole(
        self, call: Call, narrated: NarratedStream, session: EncodingSession, writer: NarratedWriter
    ) -> bytes:
        progress, pcm = _Progress(), bytearray()
        clock, words = WordClock(session.info.delay_ms), list[TimedWord]()
        while not narrated.ended:
            arrived = await narrated.take(KEEP_ALIVE_S)
            if arrived == Arrived() and (call.response is not None or narrated.waking):
                await call.hold_open()
            progress.add(arrived.frames, arrived.segments)
            for segment in arrived.segments:
                pcm += segment.pcm
                words += clock.words_of(segment)
        session.set_length(len(pcm))
        sound = (await session.feed(bytes(pcm)) if pcm else b"") + await session.finish()
        return writer.spoken(replace(progress.reply(narrated), words=words), sound)

    async def _streamed(
        self, call: Call, route: str, narrated: NarratedStream, session: EncodingSession, writer: NarratedWriter
    ) -> web.StreamResponse:
        progress, wait_s = _Progress(), FIRST_WAIT_S
        loop = asyncio.get_running_loop()
        written_at = loop.time()
        clock = WordClock(session.info.delay_ms)
        while not narrated.ended:
            try:
                arrived = await narrated.take(wait_s)
            except CallboardError as error:
                if call.response is None:
                    raise
                self.metrics.errors.labels(route, error.info.code.value).inc()
                return await call.finish(writer.failure(error.info))
            progress.add(arrived.frames, arrived.segments)
            wait_s = KEEP_ALIVE_S
            if call.response is None:
                await call.stream(writer.content_type)
                await call.write(writer.opening(), content=False)
                written_at = loop.time()
            if arrived.frames and (content := writer.deltas(arrived.frames)):
                await call.write(content)
                written_at = loop.time()
            if words := [word for segment in arrived.segments for word in clock.words_of(segment)]:
                await call.write(writer.words(words))
            async for sound in _encoded(session, arrived.segments):
                await call.write(writer.audio(sound))
                written_at = loop.time()
            if loop.time() - written_at >= KEEP_ALIVE_S:
                await call.write(writer.keep_alive, content=False)
                written_at = loop.time()
        last = await session.finish()
        return await call.finish((writer.audio(last) if last else b"") + writer.ending(progress.reply(narrated)))


async def _encoded(session: EncodingSession, segments: Sequence[AudioSegment]) -> AsyncGenerator[bytes]:
    """What the encoder makes of some segments, part by part."""
    for segment in segments:
        for part in session.chunks(segment.pcm) if segment.pcm else ():
            if sound := await session.feed(part):
                yield sound
