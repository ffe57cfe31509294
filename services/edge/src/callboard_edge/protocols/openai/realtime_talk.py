"""The life of a session of `/v1/realtime`: its client's events, and the jobs that hear, write and speak."""

import asyncio
import logging
import secrets
from collections.abc import Sequence
from typing import Any, TypeVar

from aiohttp import WSCloseCode

from callboard_contracts.chat import ChatEnd, ChatFrame, ChatRequest, Sampling
from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_contracts.quota import LimitState
from callboard_contracts.speech import SpeechEnd
from callboard_edge.domain.abilities import unsupported
from callboard_edge.domain.catalogue import ChatModel
from callboard_edge.domain.input_audio import BYTES_PER_SAMPLE, OFF_LOOP_BYTES, SpeechStarted, Turn
from callboard_edge.domain.job_stream import KEEP_ALIVE_S
from callboard_edge.domain.offers import Offer
from callboard_edge.domain.text_stream import failure
from callboard_edge.http.bodies import parse
from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.event_socket import EventSocket
from callboard_edge.http.rate_limits import counted
from callboard_edge.media.plain import wav_header
from callboard_edge.protocols.openai.chat_audio import voiced
from callboard_edge.protocols.openai.realtime_bodies import EVENTS, AudioAppend, ClientEvent
from callboard_edge.protocols.openai.realtime_events import CodedError, Events
from callboard_edge.protocols.openai.realtime_hearing import FAILED, NAME, pcm_of, write_down
from callboard_edge.protocols.openai.realtime_items import Item, Part
from callboard_edge.protocols.openai.realtime_response import Answered, CancelReason, Response
from callboard_edge.protocols.openai.realtime_session import Session
from callboard_edge.protocols.openai.realtime_settings import SessionSettings, Shape
from callboard_edge.protocols.openai.realtime_voice import ResponseVoice, TurnFigures
from callboard_edge.protocols.openai.realtime_work import Plan
from callboard_edge.protocols.openai.responses_input import functions_of

log = logging.getLogger(__name__)

E = TypeVar("E", bound=ClientEvent)


class Talk:
    """One session: reads its client's events, and does what its state asks for by jobs."""

    def __init__(
        self, context: EdgeContext, call: Call, socket: EventSocket, offer: Offer, model: ChatModel, shape: Shape
    ) -> None:
        limits = context.live_sessions.limits
        self._context = context
        self._call = call
        self._socket = socket
        self._offer = offer
        self._limits = limits
        self._events = Events(socket, shape)
        self._session = Session(
            self._events,
            self,
            self._first_settings(model),
            int(limits.max_buffer_s * 1000),
            limits.max_items,
            limits.max_session_s,
        )
        self._tasks = set[asyncio.Task[None]]()
        self._responding: dict[str, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._changed = asyncio.Event()
        self._turn_end: tuple[float, str] | None = None
        self._close_code = WSCloseCode.OK

    async def run(self) -> None:
        """Serves the session to its end.

        Raises:
            ConnectionError: the client is gone, or does not read.
        """
        self._session.open()
        gone = False
        try:
            async with asyncio.TaskGroup() as self._group:
                self._start(self._socket.run(), "realtime-writer")
                self._start(self._end_with_edge(), "realtime-end")
                await self._read()
                self._group = None
                for task in tuple(self._tasks):
                    task.cancel()
        except* ConnectionError:
            gone = True
        finally:
            self._group = None
        if gone:
            raise ConnectionResetError("the client is gone")
        await self._socket.close(self._close_code)

    def check(self, settings: SessionSettings) -> str:
        """The model that the settings name by this or another name; raises CallboardError for what is not served."""
        model = self._offer.chat_models.resolve(settings.model)
        functions_of(settings.tools, settings.tool_choice, model)
        if settings.spoken:
            if not self._offer.speech_models.models:
                raise unsupported("Nothing is spoken here; ask for text alone.", "session.output_modalities")
            voiced(model, self._offer.speech_models, self._context.workers, None, settings.voice)
        if settings.transcription is not None:
            self._offer.recognition_models.resolve(settings.transcription.model)
        return model.name

    def recognise(self, item: Item, part: Part, pcm: bytes) -> None:
        """Begins to write down the sound of the turn that has just ended."""
        self._begin_hearing(item, part, pcm, TurnFigures(self._context.metrics, self._turn_end))

    def recognise_encoded(self, item: Item, part: Part, sound: str, param: str) -> None:
        """Begins to write down a sound that is base64; raises CallboardError where it is not."""
        pcm = pcm_of(sound, self._session.settings.input_format, param)
        if not pcm:
            raise CallboardError(ErrorCode.INVALID_REQUEST, "The sound is empty.", param=param)
        whole = pcm[: len(pcm) // BYTES_PER_SAMPLE * BYTES_PER_SAMPLE]
        self._begin_hearing(item, part, whole, TurnFigures(self._context.metrics, None))

    def turn_ended(self, silence_ms: int, *, detected: bool) -> None:
        """Notes when somebody stopped to speak."""
        ended_at = asyncio.get_running_loop().time() - silence_ms / 1000
        self._turn_end = ended_at, "server_vad" if detected else "client"

    def respond(self, plan: Plan) -> None:
        """Begins to give a response."""
        task = self._start(self._respond(plan), "realtime-response")
        if task is not None:
            self._responding[plan.response.id] = task

    def stop(self, response: Response, reason: CancelReason) -> None:
        """Ends the work for a response at once."""
        if reason == "turn_detected":
            self._context.metrics.realtime_interruptions.inc()
        if (task := self._responding.pop(response.id, None)) is not None:
            task.cancel()
        self._changed.set()

    def _first_settings(self, model: ChatModel) -> SessionSettings:
        spoken, voice = bool(self._offer.speech_models.models), None
        if spoken:
            speech_model, _ = voiced(model, self._offer.speech_models, self._context.workers, None, None)
            catalog = speech_model.catalog(self._context.workers)
            speaks = model.character is not None and catalog.can_speak(model.character)
            voice = model.name if speaks else catalog.default_voice
        return SessionSettings(model.name, spoken=spoken, voice=voice)

    def _start(self, work: Any, name: str) -> asyncio.Task[None] | None:
        """Runs a part of the session's work; nothing more once it ends."""
        if self._group is None:
            work.close()
            return None
        task = self._group.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _end_with_edge(self) -> None:
        await self._context.live_sessions.stopping.wait()
        while self._session.is_busy:
            self._changed.clear()
            await self._changed.wait()
        self._close_code = WSCloseCode.GOING_AWAY
        await self._socket.close(self._close_code, "the server stops")

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + self._limits.max_session_s
        while True:
            received = await self._socket.receive(max(0.001, until - loop.time()))
            match received.kind:
                case "closed":
                    return
                case "expired":
                    info = ErrorInfo(code=ErrorCode.DEADLINE_EXCEEDED, message="The session has lasted long enough.")
                    self._fail(info)
                    self._close_code = WSCloseCode.GOING_AWAY
                    return
                case "binary":
                    self._fail(_invalid("Events are JSON text; this message is binary.").info)
                case "text":
                    await self._take(received.text)
            # A client that does not read is not listened to either.
            await self._socket.room()

    async def _take(self, raw: bytes) -> None:
        event_id: str | None = None
        if len(raw) > (most := self._limits.max_event_bytes):
            message = f"The event is larger than the limit of {most} bytes."
            self._fail(ErrorInfo(code=ErrorCode.BODY_TOO_LARGE, message=message))
            return
        try:
            head = await _parsed(ClientEvent, raw)
            event_id = head.event_id
            event = await _parsed(_kind_of(head.type), raw)
            if isinstance(event, AudioAppend):
                await self._append(event.audio)
            else:
                self._session.take(event)
        except CallboardError as error:
            self._fail(error.info, event_id, error.name if isinstance(error, CodedError) else None)

    async def _append(self, audio: str) -> None:
        form, session = self._session.settings.input_format, self._session

        def append() -> Sequence[SpeechStarted | Turn]:
            return session.audio.append(pcm_of(audio, form, "audio"))

        session.heard_sound(await asyncio.to_thread(append) if len(audio) > OFF_LOOP_BYTES else append())

    def _fail(self, info: ErrorInfo, event_id: str | None = None, code: str | None = None) -> None:
        self._context.metrics.errors.labels(NAME, info.code.value).inc()
        self._events.error(info, event_id, code)

    def _begin_hearing(self, item: Item, part: Part, pcm: bytes, figures: TurnFigures) -> None:
        session = self._session
        sound = wav_header(len(pcm), session.settings.input_rate_hz) + pcm
        seconds = len(pcm) / (session.settings.input_rate_hz * BYTES_PER_SAMPLE)
        self._start(self._hear(item, part, sound, seconds, figures), "realtime-hear")

    async def _hear(self, item: Item, part: Part, sound: bytes, seconds: float, figures: TurnFigures) -> None:
        parts = (self._context, self._call, self._socket, self._session)
        hearing = write_down(*parts, item, part, sound, seconds, figures)
        # Nothing else keeps the bytes once they are stored.
        del sound
        await hearing
        self._changed.set()

    async def _respond(self, plan: Plan) -> None:
        response = plan.response
        turn, self._turn_end = self._turn_end if response.in_conversation else None, None
        try:
            while self._session.pending_of(plan):
                self._changed.clear()
                await self._changed.wait()
            response.complete(await self._answer(plan, TurnFigures(self._context.metrics, turn)))
        except CallboardError as error:
            self._context.metrics.errors.labels(NAME, error.info.code.value).inc()
            response.fail(error.info)
        except Exception:
            log.exception("response_failed", extra={"request_id": self._call.fresh_id, "route": NAME})
            response.fail(FAILED)
        finally:
            self._responding.pop(response.id, None)
            self._session.ended(response)
            self._changed.set()

    async def _answer(self, plan: Plan, figures: TurnFigures) -> Answered:
        """Has an answer written, and spoken where it is to be; raises CallboardError where it fails."""
        context, settings = self._context, plan.response.settings
        offer = await context.offers.to(self._call.caller)
        model = offer.chat_models.resolve(settings.model)
        tools, tool_choice = functions_of(settings.tools, settings.tool_choice, model)
        request = ChatRequest(
            model=model.name,
            messages=self._session.messages(plan),
            overflow="drop_front",
            sampling=Sampling(temperature=settings.temperature),
            max_output_tokens=model.output_limit(settings.max_output_tokens),
            tools=tools,
            tool_choice=tool_choice,
            speaker=self._call.speaker,
        )
        request = await context.text.prepared(request, model)
        context.admission.check_size(request)
        if settings.spoken:
            return await self._spoken(plan.response, request, model, offer, figures)
        async with await context.admission.chat(self._call.caller, request, model) as stream:
            stream.heard = plan.response.heard
            self._tell_limits(stream.states)
            end = ChatEnd(reason="error")
            async for frames in stream:
                end = _end_of(frames) or end
                figures.text(frames)
                plan.response.written(frames)
                await self._socket.room()
            if (error := failure(end)) is not None:
                raise CallboardError.of(error)
            return Answered(end)

    async def _spoken(
        self, response: Response, request: ChatRequest, model: ChatModel, offer: Offer, figures: TurnFigures
    ) -> Answered:
        context, settings = self._context, response.settings
        speech_model, speech = voiced(
            model, offer.speech_models, context.workers, None, settings.voice, speed=settings.speed
        )
        offered = context.workers.model("tts", speech_model.pool, speech_model.name)
        # By the times of its words an answer that is interrupted is cut where it was.
        speech = speech.model_copy(update={"word_times": offered is not None and offered.word_times})
        slice_ms = context.settings.speech.hold_slice_ms
        end, speech_end = ChatEnd(reason="error"), SpeechEnd(reason="error")
        voice = ResponseVoice(response, settings.output_format)
        async with await context.admission.narrated(
            self._call.caller, request, model, speech, speech_model, slice_ms, secrets.token_hex(16)
        ) as narrated:
            narrated.text.heard = response.heard
            self._tell_limits(narrated.text.states)
            while not narrated.ended:
                arrived = await narrated.take(KEEP_ALIVE_S)
                end = _end_of(arrived.frames) or end
                figures.text(arrived.frames)
                response.written(arrived.frames)
                for segment in arrived.segments:
                    speech_end = segment.info.end or speech_end
                    if segment.pcm:
                        figures.sound()
                        self._session.spoke()
                    voice.speak(segment)
                    await self._socket.room()
                await self._socket.room()
            tokens = narrated.speech.charged_tokens(speech_end.audio_ms)
        return Answered(end, speech_end.reason == "limit", tokens)

    def _tell_limits(self, states: Sequence[LimitState]) -> None:
        limits = [
            {
                "name": counted(state),
                "limit": state.allowed,
                "remaining": max(0, state.remaining),
                "reset_seconds": state.resets_in_s,
            }
            for state in states
            # The protocol knows no others.
            if counted(state) in {"requests", "tokens"}
        ]
        if limits:
            self._events.send("rate_limits.updated", rate_limits=limits)


def _end_of(frames: Sequence[ChatFrame]) -> ChatEnd | None:
    return frames[-1].end if frames else None


async def _parsed(kind: type[E], raw: bytes) -> E:
    return parse(kind, raw) if len(raw) <= OFF_LOOP_BYTES else await asyncio.to_thread(parse, kind, raw)


def _kind_of(name: str) -> type[ClientEvent]:
    if (kind := EVENTS.get(name)) is None:
        raise _invalid(f"There is no event of this type. Known are: {', '.join(EVENTS)}.", "type")
    return kind


def _invalid(message: str, param: str | None = None) -> CallboardError:
    return CallboardError(ErrorCode.INVALID_REQUEST, message, param=param)
