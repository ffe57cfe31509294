"""Rooms of a Callboard: a visitor who talks with a character, and listeners who hear both."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from urllib.parse import quote
from uuid import uuid4

import aiohttp

from callboard_cli.bench.player import Player
from callboard_cli.bench.samples import FailedRequest, Failure, Sample
from callboard_cli.bench.target import Target, failure_of, whole_body
from callboard_cli.volunteer.errors import EngineFailed
from callboard_cli.volunteer.streams import events
from callboard_kit.background_tasks import BackgroundTasks

POLL_S = 0.2
"""How exactly the arrival of a reply's text is known; its sound is told as it begins."""
RESET_TIMEOUT_S = 2.0
BYTES_PER_KBIT = 125
DEFAULT_KBPS = 320
VISITOR, CHARACTER = "Visitor", "Prompter"
NOT_YET = 425


class Room:
    """One open room with its listeners; `visited` makes it."""

    def __init__(self, target: Target, key: str) -> None:
        self._target = target
        self._path = f"{target.root}/ait"
        self._key = key
        self._players: list[Player] = []
        self._changed = asyncio.Event()
        self._watched = False
        self._speaking = False
        self._lost: Failure | None = None
        self._began_s = 0.0

    async def say(self, sample: Sample, text: str, instructions: str, max_tokens: int) -> None:
        """Has the character answer, and waits until its last word was heard; raises FailedRequest."""
        heard = [(player.audio_s, player.underruns, player.underrun_s) for player in self._players]
        asked_s, message = time.monotonic(), str(uuid4())
        body = {
            "join_key": self._key,
            "username": VISITOR,
            "message": text,
            "charactername": CHARACTER,
            "message_id": message,
            "model": self._target.model,
            "system_instructions": instructions,
            "options": {"num_predict": max_tokens},
            "audio_model": self._target.speech_model,
            "audio_voice": self._target.voice if self._target.speech_model else "",
        }
        async with self._target.asking("POST", f"{self._path}/postMessage", body, also=NOT_YET):
            pass
        reply = await self._reply(message)
        replied_s = time.monotonic()
        if self._target.speech_model and reply.strip():
            await self._until(lambda: self._began_s > asked_s)
            sample.first_s = self._began_s
            await self._until(lambda: not self._speaking)
        sample.end_s = replied_s
        for player, (audio_s, underruns, underrun_s) in zip(self._players, heard, strict=False):
            sample.audio_s += player.audio_s - audio_s
            sample.underruns += player.underruns - underruns
            sample.underrun_s += player.underrun_s - underrun_s

    async def _reply(self, message: str) -> str:
        url = f"{self._path}/getMessageResponse?join_key={quote(self._key)}&message_id={message}"
        while True:
            async with self._target.asking("GET", url, also=NOT_YET) as answer:
                if answer.status == 200:
                    try:
                        return str(json.loads(await whole_body(answer))["response"])
                    except (ValueError, KeyError, TypeError, RecursionError):
                        raise FailedRequest(Failure("not_json", 200)) from None
            await asyncio.sleep(POLL_S)

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            if self._lost is not None:
                raise FailedRequest(self._lost)
            self._changed.clear()
            await self._changed.wait()

    async def listened(self, listeners: int) -> None:
        """Waits until all listeners hear the room; raises FailedRequest."""
        await self._until(lambda: self._watched and len(self._players) == listeners)

    async def keep(self, stream: Callable[[], Awaitable[None]]) -> None:
        """Reads a stream; its end, however it comes, ends the turn that is measured with it."""
        try:
            await stream()
            self._lost = Failure("disconnected")
        except FailedRequest as error:
            self._lost = error.failure
        except (EngineFailed, aiohttp.ClientError, OSError) as error:
            self._lost = failure_of(error)
        self._changed.set()

    async def watch(self) -> None:
        """Notes who speaks, to the end of the room."""
        async with self._target.asking("GET", f"{self._path}/rooms/{quote(self._key)}/events") as answer:
            async for event in events(answer):
                speaks = event.get("speaker") is not None
                if speaks:
                    self._began_s = time.monotonic()
                self._speaking, self._watched = speaks, True
                self._changed.set()

    async def listen(self) -> None:
        """Hears the room, to its end, with a player that starts at once."""
        async with self._target.asking("GET", f"{self._path}/stream/{quote(self._key)}") as answer:
            told = answer.headers.get("icy-br", "")
            rate = (int(told) if told.isdecimal() and int(told) else DEFAULT_KBPS) * BYTES_PER_KBIT
            player = Player(rate)
            self._players.append(player)
            self._changed.set()
            async for part in answer.content.iter_any():
                player.feed(time.monotonic(), len(part))

    async def change(self, word: str) -> None:
        """Opens or empties the room; raises FailedRequest."""
        await self._target.json("POST", f"{self._path}/{word}", {"join_key": self._key})


@asynccontextmanager
async def visited(target: Target, listeners: int) -> AsyncGenerator[Room]:
    """Opens a room of its own, with listeners, and empties it at the end; raises FailedRequest."""
    room = Room(target, f"bench-{uuid4().hex[:12]}")
    async with asyncio.timeout(target.timeout_s):
        await room.change("startConversation")
    tasks = BackgroundTasks()
    streams: list[asyncio.Task[None]] = []
    try:
        if target.speech_model:
            heard = [room.watch, *[room.listen] * listeners]
            streams = [tasks.start(room.keep(stream), "a room's stream") for stream in heard]
            async with asyncio.timeout(target.timeout_s):
                await room.listened(listeners)
        yield room
    finally:
        for stream in streams:
            stream.cancel()
        await tasks.close(RESET_TIMEOUT_S)
        with contextlib.suppress(FailedRequest, TimeoutError, aiohttp.ClientError, OSError):
            async with asyncio.timeout(RESET_TIMEOUT_S):
                await room.change("resetJoinkey")
