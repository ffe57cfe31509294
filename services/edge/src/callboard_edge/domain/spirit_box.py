"""The spirit box: what is going on between it and each of its visitors.

A contact is a recorded question. It is heard, answered by a model and spoken while the answer is written; then a
monologue goes on until the next contact. A new contact ends the one before at once: its jobs are cancelled and nothing
of it is sent any more.
"""

import asyncio
import logging
from collections import Counter, deque
from dataclasses import dataclass
from uuid import uuid4

from callboard_contracts.chat import ChatRequest
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.pools import SttSection, TtsSection
from callboard_contracts.speech import BYTES_PER_MS
from callboard_contracts.spirit_box import SpiritBoxSection
from callboard_contracts.transcription import TranscriptionRequest
from callboard_edge.domain.abilities import check_abilities, check_hears, with_honoured_sampling
from callboard_edge.domain.admission import Admission
from callboard_edge.domain.caller import Caller
from callboard_edge.domain.job_stream import KEEP_ALIVE_S
from callboard_edge.domain.languages import language_tag
from callboard_edge.domain.offers import Offer, Offers
from callboard_edge.domain.ports import Background
from callboard_edge.domain.prompt_bound import within_bounds
from callboard_edge.domain.sounds import Sound
from callboard_edge.domain.spirit_cast import Cast, cast_for, chosen
from callboard_edge.domain.spirit_ports import Ear, Figures, Outcome, Sounds, Stage
from callboard_edge.domain.spirit_prompts import Exchange, Monologue, Seed, spirit_request
from callboard_edge.domain.text_stream import has_output
from callboard_edge.domain.workers import Workers

log = logging.getLogger(__name__)

LEAD_S = 0.5
"""How long before a part of an answer has been heard the next one is sent; a page plays what it has without a gap."""
HELD_RECORDINGS = 16
"""How many of the largest recordings may wait at once until they are stored."""


@dataclass(slots=True)
class _Contact:
    """A question and how far its answer has come."""

    asked_at: float
    answered: bool = False
    written: bool = False
    heard_until: float = 0.0
    """When the page has played what was sent."""


class SpiritBox:
    """The visitors of one edge process, and what all of them share."""

    def __init__(
        self,
        settings: SpiritBoxSection,
        stt: SttSection,
        tts: TtsSection,
        admission: Admission,
        offers: Offers,
        workers: Workers,
        sounds: Sounds,
        figures: Figures,
    ) -> None:
        self.settings = settings
        self.max_contact_bytes = min(settings.max_contact_bytes, stt.max_upload_bytes)
        self.admission = admission
        self.offers = offers
        self.workers = workers
        self.sounds = sounds
        self.figures = figures
        self.heard_ms = min(stt.hold_slice_ms, int(stt.max_audio_s * 1000))
        self.spoken_ms = tts.hold_slice_ms
        self._closed = False
        self._lines: dict[Ear, str | None] = {}
        self._visitors: set[Visitor] = set()
        self._addresses: Counter[str | None] = Counter()
        self._held_bytes = 0
        self._refusal = b""

    @property
    def background(self) -> Background:
        """The owner of every contact's task."""
        return self.admission.deps.background

    @property
    def visitors(self) -> int:
        """How many are connected."""
        return len(self._visitors)

    def pick_up(self, ear: Ear, address: str | None) -> None:
        """Takes a connection, whose visitor is not known yet.

        Raises:
            CallboardError: there are too many, or too many from this address, or the process stops.
        """
        settings, lines = self.settings, self._lines
        if self._closed:
            raise CallboardError(ErrorCode.INTERRUPTED, "The server is shutting down.", retry_after_s=1.0)
        of_address = sum(one == address for one in lines.values())
        if len(lines) >= 2 * settings.max_visitors or of_address >= 2 * settings.max_visitors_per_address:
            raise CallboardError(ErrorCode.OVERLOADED, "Too many connections are open; try again later.")
        lines[ear] = address

    def hang_up(self, ear: Ear) -> None:
        """Forgets a connection; safe to repeat."""
        self._lines.pop(ear, None)

    def enter(self, caller: Caller, ear: Ear) -> "Visitor":
        """Lets a visitor in.

        Raises:
            CallboardError: too many are here, or too many from this address.
        """
        settings = self.settings
        if self.visitors >= settings.max_visitors:
            raise CallboardError(ErrorCode.OVERLOADED, "Too many visitors are here; try again later.")
        if self._addresses[caller.address] >= settings.max_visitors_per_address:
            raise CallboardError(ErrorCode.OVERLOADED, "Too many visitors of this address are here; try again later.")
        visitor = Visitor(self, caller, ear)
        self._visitors.add(visitor)
        self._addresses[caller.address] += 1
        return visitor

    def leave(self, visitor: "Visitor") -> None:
        """Forgets a visitor; safe to repeat."""
        if visitor in self._visitors:
            self._visitors.discard(visitor)
            self._addresses[visitor.caller.address] -= 1
            self._addresses += Counter()

    async def refusal(self) -> bytes:
        """What a contact hears that is not answered; made once."""
        if not self._refusal:
            self._refusal = await self.sounds.encode(self.sounds.refusal)
        return self._refusal

    def hold(self, recording: bytes) -> Sound:
        """A recording that is kept until it is stored.

        Raises:
            CallboardError: too many of them wait.
        """
        size = len(recording)
        if self._held_bytes + size > HELD_RECORDINGS * self.max_contact_bytes:
            raise CallboardError(
                ErrorCode.OVERLOADED, "Too many recordings wait at this moment; try again shortly.", retry_after_s=2.0
            )
        self._held_bytes += size
        released = False

        def release() -> None:
            nonlocal released
            self._held_bytes -= 0 if released else size
            released = True

        return Sound(recording, release)

    def close(self) -> None:
        """Ends every connection and takes none any more; safe to repeat."""
        self._closed = True
        for ear in tuple(self._lines):
            ear.close()


class Visitor:
    """One visitor: the seed, what was said before, and the contact that is being answered."""

    def __init__(self, box: SpiritBox, caller: Caller, ear: Ear) -> None:
        self.caller = caller
        self.ear = ear
        self._box = box
        self._seed = Seed()
        self._earlier: deque[Exchange] = deque(maxlen=box.settings.remembered_questions)
        self._contact: _Contact | None = None
        self._task: asyncio.Task[None] | None = None

    def seed(self, seed: int) -> None:
        """Fixes what the generations after this are seeded with."""
        self._seed.set(seed)

    def contact(self, recording: bytes) -> None:
        """Takes a question; the one before is over from this moment on."""
        self._stop()
        self.ear.forget()
        contact = self._contact = _Contact(asyncio.get_running_loop().time())
        try:
            sound = self._held(recording)
        except CallboardError as error:
            self._task = self._box.background.start(self._refuse(contact, error), "spirit-refusal")
        else:
            self._task = self._box.background.start(self._answer(contact, sound), "spirit-answer")
            # A task that is cancelled before its first step never comes to its own end.
            self._task.add_done_callback(lambda _task: sound.release())

    def refuse(self, error: CallboardError, *, contact: bool) -> None:
        """Says that what the visitor sent is wrong; `contact` where it was meant as a question."""
        if not contact:
            self.ear.failed(error.info)
            return
        self._stop()
        self.ear.forget()
        found = self._contact = _Contact(asyncio.get_running_loop().time())
        self._task = self._box.background.start(self._refuse(found, error), "spirit-refusal")

    def close(self) -> None:
        """Ends what is being answered; safe to repeat."""
        self._stop()
        self._contact = None
        self._box.leave(self)

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
        if self._contact is not None and not self._contact.answered:
            self._box.figures.ended("replaced")

    def _held(self, recording: bytes) -> Sound:
        if not recording:
            raise CallboardError(ErrorCode.INVALID_REQUEST, "The recording is empty.", param="contact")
        if len(recording) > self._box.max_contact_bytes:
            message = f"The recording is larger than the limit of {self._box.max_contact_bytes} bytes."
            raise CallboardError(ErrorCode.BODY_TOO_LARGE, message, param="contact")
        return self._box.hold(recording)

    async def _answer(self, contact: _Contact, sound: Sound) -> None:
        try:
            offer = await self._box.offers.to(self.caller)
            question, language = await self._hear(offer, sound)
            self._reached("text", contact)
            cast = cast_for(offer, self._box.workers, self._box.settings, language)
            await self._speak(contact, cast, Monologue(question, cast.language))
        except CallboardError as error:
            await self._refuse(contact, error)
        except Exception:
            log.exception("spirit_failed")
            message = "Something failed inside; the log has more."
            await self._refuse(contact, CallboardError(ErrorCode.INTERNAL, message))

    async def _refuse(self, contact: _Contact, error: CallboardError) -> None:
        """Says why there is no answer, or no more of it: to the page's ear a sound, since it has no place for words."""
        sound = b"" if contact.answered else await self._box.refusal()
        self.ear.failed(error.info)
        if not contact.answered:
            self._send(contact, sound, "failed")

    async def _hear(self, offer: Offer, sound: Sound) -> tuple[str, str | None]:
        box = self._box
        model = chosen(offer.recognition_models, box.settings.transcription_model)
        request = TranscriptionRequest(model=model.name)
        check_hears(request, model, box.workers.model("stt", model.pool, model.name))
        async with await box.admission.transcription(self.caller, request, model, sound, box.heard_ms) as stream:
            while not stream.ended:
                await stream.take(KEEP_ALIVE_S)
            transcript = stream.transcript
        if not transcript.text:
            raise CallboardError(ErrorCode.INVALID_REQUEST, "Nothing was said in the recording.", param="contact")
        language = transcript.end.language
        return transcript.text, language_tag(language).partition("-")[0] if language else None

    async def _speak(self, contact: _Contact, cast: Cast, monologue: Monologue) -> None:
        """The answer, then the monologue, each part after the one before has been heard."""
        settings = self._box.settings
        try:
            while len(monologue.said) < settings.max_parts:
                if monologue.said:
                    await _until(contact.heard_until)
                request = self._request(cast, monologue)
                said = await self._part(contact, cast, request)
                if monologue.said and not said:
                    return
                monologue.said.append(said)
                if not contact.answered:
                    self._send(contact, await self._box.sounds.encode(self._box.sounds.silence), "answered")
        finally:
            if monologue.text:
                self._earlier.append(Exchange(monologue.question, monologue.text))

    def _request(self, cast: Cast, monologue: Monologue) -> ChatRequest:
        model, settings = cast.chat, self._box.settings
        limit = model.output_limit(settings.max_output_tokens)
        request = spirit_request(settings, model.name, limit, monologue, tuple(self._earlier), self._seed.next())
        request = within_bounds(request, model, self._box.admission.max_request_bytes)
        check_abilities(request, model)
        offered = self._box.workers.model("chat", model.pool, model.served_name)
        return with_honoured_sampling(request, offered, frozenset())

    async def _part(self, contact: _Contact, cast: Cast, request: ChatRequest) -> str:
        """Has one part written and spoken, and sends it piece by piece; returns what was written."""
        box = self._box
        text, pcm, first = "", bytearray(), True
        async with await box.admission.narrated(
            self.caller, request, cast.chat, cast.spoken, cast.speech, box.spoken_ms, uuid4().hex
        ) as narrated:
            while not narrated.ended:
                arrived = await narrated.take(KEEP_ALIVE_S)
                if not contact.written and any(map(has_output, arrived.frames)):
                    contact.written = True
                    self._reached("token", contact)
                text += "".join(frame.text for frame in arrived.frames)
                for segment in arrived.segments:
                    pcm += segment.pcm
                    if pcm and (segment.info.piece_done or segment.info.end is not None):
                        await self._sound(contact, bytes(pcm), begins=first)
                        first = False
                        pcm.clear()
        return " ".join(text.split())

    async def _sound(self, contact: _Contact, pcm: bytes, *, begins: bool) -> None:
        """Sends a piece when it is its turn: a part begins after the pause, and is not sent far ahead within."""
        sound = await self._box.sounds.encode(pcm)
        if contact.answered:
            await _until(contact.heard_until + (self._box.settings.pause_s if begins else -LEAD_S))
        else:
            self._reached("sound", contact)
        self._send(contact, sound, "answered")
        now = asyncio.get_running_loop().time()
        contact.heard_until = max(now, contact.heard_until) + len(pcm) / BYTES_PER_MS / 1000

    def _send(self, contact: _Contact, sound: bytes, outcome: Outcome) -> None:
        if contact is not self._contact:
            return
        if contact.answered:
            self.ear.response(sound)
            return
        contact.answered = True
        self._box.figures.ended(outcome)
        self.ear.first_response(sound)

    def _reached(self, stage: Stage, contact: _Contact) -> None:
        self._box.figures.reached(stage, asyncio.get_running_loop().time() - contact.asked_at)


async def _until(due: float) -> None:
    await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
