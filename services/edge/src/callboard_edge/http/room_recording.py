"""Answers those who fetch what was said in a room: one MP3, or the dialogue with times."""

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, contextmanager
from urllib.parse import quote

from aiohttp import web

from callboard_contracts.config import Config
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.rooms import Room, RoomKind, room_id
from callboard_edge.domain.ports import RoomAudioSource, RoomReader
from callboard_edge.domain.recording import Recording, Sound, allowed, texts_of
from callboard_edge.http.call import Call
from callboard_edge.http.captions import Caption, webvtt
from callboard_edge.media.encoder_pool import EncoderPool, EncodingSession
from callboard_edge.media.id3 import tags

MAX_OPEN = 32
"""How many recordings one process sends at once. A player reads one as slowly as it plays it, and keeps 1.5 MB here."""
MAX_AT_ONCE = 4
"""How many of them are read from the bus and encoded at the same moment, which live speech needs too."""


class RoomRecordingResponder:
    """What all protocols with rooms share; the paths are theirs."""

    def __init__(self, source: RoomAudioSource, rooms: RoomReader, encoders: EncoderPool, config: Config) -> None:
        self._source = source
        self._rooms = rooms
        self._encoders = encoders
        self._keeps = config.rooms.recording_life_s is not None
        self._pause_s = config.room_stream.pause_s
        self._open = 0
        self._working = asyncio.Semaphore(MAX_AT_ONCE)

    async def mp3(self, call: Call, kind: RoomKind, key: str, secret: str | None, artist: str) -> web.StreamResponse:
        """A recording as one file, encoded while it is sent; `artist` stands before the speakers in its tags.

        Raises:
            CallboardError: `not_found`, `room_secret_required`, or `overloaded` when too many are being sent.
        """
        recording, _room = await self._recording(kind, key, secret)
        headers = {"Content-Disposition": f"inline; filename*=UTF-8''{quote(key, safe='')}.mp3"}
        if call.request.method == "HEAD":
            return web.Response(content_type="audio/mpeg", headers=headers)
        with self._place():
            async with self._encoders.session("mp3") as session, aclosing(recording.sounds()) as sounds:
                await call.stream("audio/mpeg", headers)
                await call.write(tags(key, key, artist + ", ".join(recording.speakers)))
                while (data := await self._next(sounds, session)) is not None:
                    if data:
                        await call.write(data)
                return await call.finish(await session.finish())

    async def vtt(self, kind: RoomKind, key: str, secret: str | None) -> web.StreamResponse:
        """The dialogue of a recording with its times, as WebVTT; raises as `mp3`."""
        recording, room = await self._recording(kind, key, secret)
        with self._place():
            async with self._working:
                cues = await recording.cues(texts_of(room))
        captions = [Caption(cue.begin_ms, cue.end_ms, cue.text, cue.speaker) for cue in cues]
        return web.Response(text=webvtt(captions), content_type="text/vtt", charset="utf-8")

    async def _next(self, sounds: AsyncGenerator[Sound], session: EncodingSession) -> bytes | None:
        """The next part of a recording, encoded; None at its end."""
        async with self._working:
            sound = await anext(sounds, None)
            return None if sound is None else await session.feed(sound.pcm)

    @contextmanager
    def _place(self) -> Generator[None]:
        if self._open >= MAX_OPEN:
            raise CallboardError(ErrorCode.OVERLOADED, "Too many recordings are being read.", retry_after_s=10.0)
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1

    async def _recording(self, kind: RoomKind, key: str, secret: str | None) -> tuple[Recording, Room | None]:
        if not self._keeps:
            raise CallboardError(ErrorCode.NOT_FOUND, "This site records no rooms.")
        room, name = await self._rooms.room(kind, key), room_id(kind, key)
        starts = await self._source.starts(name, 0.0)
        utterances = allowed(starts, room, secret)
        return Recording(self._source, name, utterances, self._pause_s), room
