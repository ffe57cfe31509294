"""What it costs to join hearing, writing and speaking: from the end of a question to the first sound of its answer."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import openai

from callboard_chat.backends.llamacpp import LlamaCppEngine
from callboard_contracts.chat import ChatMessage, ChatRequest, Sampling
from callboard_contracts.spirit_box import SpiritBoxSection
from callboard_edge.domain.spirit_prompts import Monologue, spirit_request
from callboard_tts.domain.pieces import PieceStream, split_text
from tests.benchmarks.figures import Figure
from tests.benchmarks.recognition_cost import BareWhisper, hearing_config, missing_hearing_files
from tests.benchmarks.speech_cost import ANSWER_TIMEOUT_S, REST_S, BareEngine, hear
from tests.support.audio import decoded, duration_s
from tests.support.deployment import Deployment
from tests.support.models import CHAT_MODEL, model_file
from tests.support.processes import merged
from tests.support.realtime_client import pieces, until
from tests.support.sounds import RATE_HZ, Pcm, at_16_khz, encoded, wav
from tests.support.spirit_page import page

TIMES_SUM = 1.1
QUESTION = "Good evening. Can you tell me what a lighthouse is for, and who lives in it?"
INSTRUCTIONS = "You keep a lighthouse and answer in whole sentences."
OUTPUT_TOKENS = 40
SEED = 7
PASSWORD = "moth"
SAME_LENGTH = 0.1
"""How much longer or shorter a first sound may be than that of the same words alone."""
NOTES = """\
A question that Kokoro spoke is heard by Whisper base, answered by SmolLM2-135M and spoken by Kokoro, as `callboard up`
runs them: through `/v1/realtime`, where the client ends the turn, and through the spirit box. The stages alone are the
same engines without Callboard, each with the processor for itself: faster-whisper over the recording, llama.cpp up to
the end of the first piece that is spoken, and kokoro-onnx over that piece. All take turns, half a second apart.
"""


@dataclass(slots=True)
class Stages:
    """Seconds from the end of a question to its text, to the first token and to the first sound, round by round.

    `is_same` is whether what was spoken first are the words that the engines alone speak first.
    """

    text: list[float] = field(default_factory=list[float])
    token: list[float] = field(default_factory=list[float])
    sound: list[float] = field(default_factory=list[float])
    is_same: list[bool] = field(default_factory=list[bool])

    def rows(self, name: str) -> list[Figure]:
        """The medians and the worst."""
        return [
            Figure(f"{name}: end of speech to {stage}, {kind}", how(values) * 1000, "ms")
            for stage, values in (("text", self.text), ("first token", self.token), ("first sound", self.sound))
            for kind, how in (("p50", median), ("worst", max))
        ]


@dataclass(slots=True)
class Alone:
    """Seconds of each engine alone, for the prompts of one protocol."""

    heard: list[float] = field(default_factory=list[float])
    token: list[float] = field(default_factory=list[float])
    piece: list[float] = field(default_factory=list[float])
    spoken: list[float] = field(default_factory=list[float])
    first: tuple[str, float] = ("", 0.0)
    """The piece that is spoken first, and the length of its sound."""

    def rows(self, name: str) -> list[Figure]:
        """The medians and the worst."""
        return [
            Figure(f"{name}: {stage} alone, {kind}", how(values) * 1000, "ms")
            for stage, values in (
                ("hearing", self.heard),
                ("first token", self.token),
                ("first piece written", self.piece),
                ("first piece spoken", self.spoken),
            )
            for kind, how in (("p50", median), ("worst", max))
        ]

    def clear(self) -> None:
        """Forgets the times."""
        for times in (self.heard, self.token, self.piece, self.spoken):
            times.clear()

    def sums(self) -> list[float]:
        """What the stages take together."""
        return [sum(one) for one in zip(self.heard, self.piece, self.spoken, strict=True)]


def measure(folder: Path, *, quick: bool) -> list[Figure] | str:
    """Measures a set of processes beside the bare engines; a text says why it could not."""
    if missing := missing_hearing_files():
        return f"model files missing: {', '.join(missing)}"
    box = {"enabled": True, "password": PASSWORD, "max_parts": 1, "remembered_questions": 0}
    spirits = {"spirit_box": {**box, "max_output_tokens": OUTPUT_TOKENS, "instructions": INSTRUCTIONS}}
    deployment = Deployment(folder, merged(hearing_config(), spirits), sync="processes", log_level="info")
    try:
        deployment.start()
        deployment.add_recogniser().wait_ready()
        question = _question(deployment)
        with BareWhisper() as ear, BareEngine() as voice:
            figures = asyncio.run(Round(deployment, question, ear, voice, folder).measure(6 if quick else 15))
        deployment.stop()
    finally:
        deployment.abandon()
    return figures


def _question(deployment: Deployment) -> Pcm:
    """The question as somebody speaks it, at 16 kHz."""
    return at_16_khz(hear(deployment, deployment.create_key("standard"), QUESTION).pcm)


class Round:
    """One question, asked in turn of the engines alone and through both protocols."""

    def __init__(
        self, deployment: Deployment, question: Pcm, ear: BareWhisper, voice: BareEngine, folder: Path
    ) -> None:
        self._deployment = deployment
        self._question = question
        self._ear = ear
        self._voice = voice
        self._file = folder / "question.wav"
        self._file.write_bytes(wav(question, RATE_HZ))
        self._realtime, self._spirits = Stages(), Stages()
        self._alone = {"real time": Alone(), "spirit box": Alone()}
        self._heard_text = ""

    async def measure(self, rounds: int) -> list[Figure]:
        """Asks so many times, after once for warmth, and sums up."""
        pool = hearing_config()["chat"]["pools"]["local"]
        engine = LlamaCppEngine(model_file("chat.model_file"), pool["slots"], 2048, None)
        await engine.load()
        try:
            async with self._client() as client:
                # What is heard the first time is what the engines alone are asked.
                await self._talk(client)
                await self._contact()
                await self._all_alone(engine)
                self._realtime, self._spirits = Stages(), Stages()
                for one in self._alone.values():
                    one.clear()
                for number in range(rounds):
                    turns = [lambda: self._all_alone(engine), lambda: self._talk(client), self._contact]
                    for n in range(len(turns)):
                        await turns[(n + number) % len(turns)]()
        finally:
            await engine.close()
        figures: list[Figure] = []
        for name, joined in (("real time", self._realtime), ("spirit box", self._spirits)):
            alone = self._alone[name]
            ratios = [whole / parts for whole, parts in zip(joined.sound, alone.sums(), strict=True)]
            figures += [
                *alone.rows(name),
                Figure(f"{name}: sum of the stages alone, p50", median(alone.sums()) * 1000, "ms"),
                *joined.rows(name),
                Figure(f"{name}: first sound, times the sum of the stages, p50", median(ratios), "x", TIMES_SUM),
                Figure(f"{name}: the same, worst", max(ratios), "x"),
                Figure(f"{name}: rounds that spoke the same first, of {len(ratios)}", sum(joined.is_same), "rounds"),
            ]
        return figures

    @asynccontextmanager
    async def _client(self) -> AsyncGenerator[openai.AsyncOpenAI]:
        root = self._deployment.base_url
        sockets = root.replace("http", "ws", 1)
        async with openai.AsyncOpenAI(base_url=root, websocket_base_url=sockets, api_key="none") as client:
            yield client

    async def _talk(self, client: openai.AsyncOpenAI) -> None:
        """One turn of a new session."""
        await asyncio.sleep(REST_S)
        async with client.realtime.connect(model=CHAT_MODEL) as connection:
            heard: Any = {"turn_detection": None, "transcription": {"model": "whisper-1"}}
            settings: Any = {
                "type": "realtime",
                "instructions": INSTRUCTIONS,
                "max_output_tokens": OUTPUT_TOKENS,
                "temperature": 0,
                "audio": {"input": heard},
            }
            await connection.session.update(session=settings)
            await until(connection, "session.updated")
            for piece in pieces(self._question):
                await connection.input_audio_buffer.append(audio=piece)
            # The site has taken all of the sound once it answers what comes after it.
            await connection.session.update(session={"type": "realtime"})
            await until(connection, "session.updated")
            start = time.monotonic()
            await connection.input_audio_buffer.commit()
            await connection.response.create()
            (text,) = (await until(connection, "conversation.item.input_audio_transcription.completed"))[-1:]
            self._realtime.text.append(time.monotonic() - start)
            self._heard_text = text.transcript
            await until(connection, "response.output_audio_transcript.delta")
            self._realtime.token.append(time.monotonic() - start)
            await until(connection, "response.output_audio.delta")
            self._realtime.sound.append(time.monotonic() - start)
            done = (await until(connection, "response.done", ANSWER_TIMEOUT_S))[-1].response
            words = split_text(done.output[0].content[0].transcript, "en-us")[0].text
            self._realtime.is_same.append(words == self._alone["real time"].first[0])

    async def _contact(self) -> None:
        """One question to the spirits; what its stages took is read from the edge's own figures."""
        await asyncio.sleep(REST_S)
        before = await self._stage_sums()
        async with page(self._deployment.root_url(), PASSWORD) as one:
            await one.client.emit("seed", {"seed": SEED})
            question = await asyncio.to_thread(encoded, self._question, "webm", "libopus")
            start = time.monotonic()
            await one.asks(question)
            heard = await one.hears(1, "first_response")
            self._spirits.sound.append(time.monotonic() - start)
            if one.failures:
                raise RuntimeError(f"the spirits failed: {one.failures}")
        after = await self._stage_sums()
        self._spirits.text.append(after["text"] - before["text"])
        self._spirits.token.append(after["token"] - before["token"])
        alone_s = self._alone["spirit box"].first[1]
        length_s = duration_s(decoded(heard[0][1]))
        self._spirits.is_same.append(abs(length_s - alone_s) < SAME_LENGTH * alone_s)
        await asyncio.to_thread(self._deployment.wait_idle)

    async def _stage_sums(self) -> dict[str, float]:
        found = await asyncio.to_thread(self._deployment.edges[0].metrics)
        name = "callboard_edge_spirit_stage_seconds_sum"
        return {stage: found[f'{name}{{stage="{stage}"}}'] for stage in ("text", "token")}

    async def _all_alone(self, engine: LlamaCppEngine) -> None:
        """Each engine by itself, with the prompt of each protocol."""
        await asyncio.sleep(REST_S)
        heard_s = float((await asyncio.to_thread(self._ear.hear, self._file))["took_s"])
        for name, request in (("real time", self._realtime_request()), ("spirit box", self._spirit_request())):
            alone = self._alone[name]
            await asyncio.sleep(REST_S)
            token_s, piece_s, text = await _first_piece(engine, request)
            await asyncio.sleep(REST_S)
            spoken_s, audio_s = await asyncio.to_thread(self._voice.speak, text)
            alone.heard.append(heard_s)
            alone.token.append(token_s)
            alone.piece.append(piece_s)
            alone.spoken.append(spoken_s)
            alone.first = text, audio_s

    def _realtime_request(self) -> ChatRequest:
        messages = (
            ChatMessage(role="system", content=INSTRUCTIONS),
            ChatMessage(role="user", content=self._heard_text),
        )
        sampling = Sampling(temperature=0)
        return ChatRequest(model=CHAT_MODEL, messages=messages, max_output_tokens=OUTPUT_TOKENS, sampling=sampling)

    def _spirit_request(self) -> ChatRequest:
        settings = SpiritBoxSection(instructions=INSTRUCTIONS, remembered_questions=0, max_parts=1)
        monologue = Monologue(self._heard_text, "en")
        return spirit_request(settings, CHAT_MODEL, OUTPUT_TOKENS, monologue, (), SEED)


async def _first_piece(engine: LlamaCppEngine, request: ChatRequest) -> tuple[float, float, str]:
    """Seconds to the first token and to the first piece that would be spoken, and that piece."""
    stream, token_s = PieceStream("en-us"), 0.0
    start = time.monotonic()
    async with aclosing(engine.stream(request)) as chunks:
        async for chunk in chunks:
            token_s = token_s or time.monotonic() - start
            if found := stream.feed(chunk.text):
                return token_s, time.monotonic() - start, found[0].text
    found = stream.finish()
    return token_s, time.monotonic() - start, found[0].text
