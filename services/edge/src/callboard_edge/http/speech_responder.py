"""Answers a request for speech, sent while it is being spoken, in whatever form a protocol's writer gives it."""

import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from aiohttp import HttpVersion11, web

from callboard_contracts.errors import CallboardError, ErrorInfo
from callboard_contracts.speech import SpeechEnd, SpeechRequest
from callboard_contracts.speech_duration import max_audio_ms
from callboard_edge.domain.admission import Admission
from callboard_edge.domain.catalogue import SpeechModel
from callboard_edge.domain.speech_stream import SpeechStream, unexplained
from callboard_edge.domain.word_times import TimedWord, WordClock
from callboard_edge.http.call import Call
from callboard_edge.media.encoder_pool import EncoderPool
from callboard_edge.media.formats import FORMATS, AudioFormat
from callboard_edge.media.id3 import beginning
from callboard_edge.metrics import EdgeMetrics
from callboard_edge.settings import EdgeSettings

ID3_PADDING_BYTES = 1024
"""A byte goes out in each silence, so this lasts for hours."""
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class SpeechWriter(Protocol):
    """Frames the encoded sound of one utterance."""

    @property
    def content_type(self) -> str:
        """The type of the answer."""
        ...

    @property
    def length_is_sound(self) -> bool:
        """Whether the answer is as long as the sound, so that its length can be announced where that is known."""
        ...

    def keep_alive(self, *, waking: bool) -> bytes:
        """What shows a waiting client that the answer still comes, or nothing; `waking` while there is no worker."""
        ...

    def audio(self, sound: bytes) -> bytes:
        """A part of the sound."""
        ...

    def words(self, words: Sequence[TimedWord]) -> bytes:
        """When the words of the sound that follows are heard, where they were asked for."""
        ...

    def closing(self, end: SpeechEnd, tokens: int) -> bytes:
        """The end of an utterance that is complete; `tokens` is what was charged."""
        ...

    def failure(self, error: ErrorInfo) -> bytes | None:
        """The end of an utterance that failed or met a limit after its first sound; None where it cannot be told."""
        ...


@dataclass
class RawAudio:
    """The sound as it is, as a body of its own."""

    content_type: str
    length_is_sound: bool = True

    def keep_alive(self, *, waking: bool) -> bytes:
        """Nothing but sound may stand in most formats."""
        del waking
        return b""

    def audio(self, sound: bytes) -> bytes:
        """The sound itself."""
        return sound

    def words(self, words: Sequence[TimedWord]) -> bytes:
        """Nothing."""
        del words
        return b""

    def closing(self, end: SpeechEnd, tokens: int) -> bytes:
        """Nothing."""
        del end, tokens
        return b""

    def failure(self, error: ErrorInfo) -> bytes | None:
        """Nothing can be told in the middle of sound."""
        del error
        return None


class Mp3Audio(RawAudio):
    """MP3 as it is, behind a tag without content that grows while a pool wakes.

    All players skip a tag before the sound, however slowly it comes.
    """

    def __init__(self, content_type: str) -> None:
        super().__init__(content_type)
        self._padding_bytes: int | None = None

    def keep_alive(self, *, waking: bool) -> bytes:
        """The beginning of the tag, then a byte of its padding; nothing while a worker is there, or after sound."""
        if self._padding_bytes is None:
            if not waking:
                return b""
            self._padding_bytes = ID3_PADDING_BYTES
            return beginning(self._padding_bytes)
        if not self._padding_bytes:
            return b""
        self._padding_bytes -= 1
        return b"\0"

    def audio(self, sound: bytes) -> bytes:
        """The sound, after what is left of the tag."""
        padding, self._padding_bytes = bytes(self._padding_bytes or 0), 0
        return padding + sound


def raw_audio(name: AudioFormat) -> RawAudio:
    """The writer of sound as it is, in a format."""
    content_type = FORMATS[name].content_type
    return Mp3Audio(content_type) if name == "mp3" else RawAudio(content_type)


@dataclass(frozen=True, slots=True)
class SpeechResponder:
    """What all speech protocols share between their bodies and their writers."""

    admission: Admission
    encoders: EncoderPool
    metrics: EdgeMetrics
    settings: EdgeSettings

    async def respond(
        self,
        call: Call,
        route: str,
        request: SpeechRequest,
        model: SpeechModel,
        audio_format: AudioFormat,
        writer: SpeechWriter,
        whole: Mapping[str, str] | None = None,
    ) -> web.StreamResponse:
        """Admits an utterance and sends it while it is spoken; `route` is its name in metrics.

        With headers for `whole` it is sent only when it is complete, for clients that need its length.

        Raises:
            CallboardError: it was refused, or failed before any sound; or after, where the writer cannot tell.
        """
        speech = self.settings.speech
        most_ms = max_audio_ms(request.text, request.speed, speech.comma_pause_ms, speech.sentence_pause_ms)
        # The worker extends the hold while it speaks, as far as the text turns out to need it.
        audio_ms = min(most_ms, speech.hold_slice_ms)
        async with await self.admission.speech(call.caller, request, model, audio_ms, call.fresh_id) as utterance:
            call.tell_limits(utterance.states)
            with self.metrics.streaming(route):
                try:
                    if whole is None:
                        end = await self._send(call, utterance, audio_format, writer)
                    else:
                        end = await self._send_whole(call, utterance, audio_format, writer, whole)
                except CallboardError as error:
                    if call.response is None:
                        raise
                    return await self._failed(call, route, writer, error)
                if end.reason == "limit":
                    info = end.error or unexplained(end)
                    self.metrics.errors.labels(route, info.code.value).inc()
                    # Sound that a limit ended is whole as far as it goes.
                    return await call.finish(writer.failure(info) or b"")
                return await call.finish(writer.closing(end, utterance.charged_tokens(end.audio_ms)))

    async def _send(
        self, call: Call, utterance: SpeechStream, audio_format: AudioFormat, writer: SpeechWriter
    ) -> SpeechEnd:
        """Sends an utterance through one encoder, as it comes, and returns its end.

        Raises:
            CallboardError: the utterance failed; nothing has been sent if the answer has not begun.
        """
        length: int | None = None
        clock, words = WordClock(FORMATS[audio_format].delay_ms), b""

        async def send(sound: bytes) -> None:
            if not sound:
                return
            if call.response is None:
                known = length is not None and writer.length_is_sound
                await call.stream(writer.content_type, {"Content-Length": str(length)} if known else None)
            nonlocal words
            told, words = words, b""
            await call.write(told + writer.audio(sound))

        on_silence = partial(_keep_alive, call, utterance, writer)
        async with self.encoders.session(audio_format) as session:
            segments = await utterance.opening(on_silence)
            if segments[-1].info.end is not None:
                length = session.set_length(sum(len(segment.pcm) for segment in segments))
            while True:
                if not segments:
                    await on_silence()
                for segment in segments:
                    if segment.info.end is not None:
                        await send(await session.finish())
                        return segment.info.end
                    if heard := clock.words_of(segment):
                        words += writer.words(heard)
                    for part in session.chunks(segment.pcm) if segment.pcm else ():
                        await send(await session.feed(part))
                segments = await utterance.next_segments()

    async def _send_whole(
        self,
        call: Call,
        utterance: SpeechStream,
        audio_format: AudioFormat,
        writer: SpeechWriter,
        headers: Mapping[str, str],
    ) -> SpeechEnd:
        """Sends an utterance once it is complete, and returns its end; raises as `_send` does, with nothing sent."""

        async def wait() -> None:
            pass

        segments = await utterance.opening(wait)
        while (end := segments[-1].info.end if segments else None) is None:
            segments += await utterance.next_segments()
        async with self.encoders.session(audio_format) as session:
            session.set_length(sum(len(segment.pcm) for segment in segments))
            parts = [
                await session.feed(part)
                for segment in segments
                for part in (session.chunks(segment.pcm) if segment.pcm else ())
            ]
            parts.append(await session.finish())
        sound = b"".join(parts)
        await call.stream(writer.content_type, {**headers, "Content-Length": str(len(sound))})
        await call.write(writer.audio(sound))
        return end

    async def _failed(self, call: Call, route: str, writer: SpeechWriter, error: CallboardError) -> web.StreamResponse:
        """Shows in the middle of an answer that it is not whole; raises where the writer cannot tell the client."""
        last = writer.failure(error.info)
        if last is None:
            if call.request.version < HttpVersion11:
                _reset_on_close(call)
            raise error
        self.metrics.errors.labels(route, error.info.code.value).inc()
        return await call.finish(last)


async def _keep_alive(call: Call, utterance: SpeechStream, writer: SpeechWriter) -> None:
    if sign := writer.keep_alive(waking=utterance.waking):
        if call.response is None:
            await call.stream(writer.content_type)
        await call.write(sign, content=False)


def _reset_on_close(call: Call) -> None:
    """Has the connection end in a reset: an HTTP/1.0 client takes a plain close for the proper end of the body."""
    transport = call.request.transport
    endpoint = transport.get_extra_info("socket") if transport is not None else None
    if endpoint is not None:
        endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
