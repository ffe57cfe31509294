"""What goes on between the spirit box and its visitors, over the fakes and without a wire."""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from callboard_contracts.chat import ChatJob
from callboard_contracts.config import Config
from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_contracts.speech import BYTES_PER_MS, SegmentInfo, SpeechEnd, SpeechJob
from callboard_contracts.spirit_box import SpiritBoxSection
from callboard_contracts.workers import OfferedModel, OfferedVoice, WorkerInfo
from callboard_edge.backends.fake_job_queue import FakeJobQueue
from callboard_edge.backends.fake_model_inquiry import FakeModelInquiry
from callboard_edge.backends.fake_quota_client import FakeQuotaClient
from callboard_edge.backends.fake_reply_router import FakeReplyRouter
from callboard_edge.backends.fake_result_store import FakeResultStore
from callboard_edge.backends.fake_rooms import FakeRooms
from callboard_edge.domain.admission import Admission
from callboard_edge.domain.caller import Caller
from callboard_edge.domain.catalogue import chat_catalogue, recognition_catalogue, speech_catalogue
from callboard_edge.domain.characters import Characters
from callboard_edge.domain.kept_jobs import KeptJobs
from callboard_edge.domain.offers import Offer, Offers
from callboard_edge.domain.spirit_box import SpiritBox, Visitor
from callboard_edge.domain.spirit_ports import Sounds
from callboard_edge.domain.spirit_prompts import Monologue, spirit_request
from callboard_edge.domain.submission import Dependencies
from callboard_edge.domain.workers import Workers
from callboard_kit.background_tasks import BackgroundTasks
from tests.unit.edge.harness import CONFIG, frames, heard

pytestmark = pytest.mark.unit

RECORDING = b"\x1aE\xdf\xa3 a recording"
REFUSAL, SILENCE = b"thud", b"hush"
VOICES = (
    OfferedVoice(name="ann", language="en-us"),
    OfferedVoice(name="greta", language="de"),
    OfferedVoice(name="bob", language="en-gb"),
)
PIECE = bytes(20 * BYTES_PER_MS)


@dataclass(eq=False)
class RecordingEar:
    """A page that notes what it is sent."""

    sent: list[tuple[str, bytes]] = field(default_factory=list[tuple[str, bytes]])
    errors: list[ErrorInfo] = field(default_factory=list[ErrorInfo])
    forgotten: int = 0
    closed: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def first_response(self, sound: bytes) -> None:
        self._note("first_response", sound)

    def response(self, sound: bytes) -> None:
        self._note("response", sound)

    def failed(self, error: ErrorInfo) -> None:
        self.errors.append(error)

    def forget(self) -> None:
        self.forgotten += 1

    def close(self) -> None:
        self.closed = True

    async def hears(self, count: int) -> list[tuple[str, bytes]]:
        """What was sent, once it is so much."""
        async with asyncio.timeout(5):
            while len(self.sent) < count:
                self.changed.clear()
                await self.changed.wait()
        return self.sent

    def _note(self, name: str, sound: bytes) -> None:
        self.sent.append((name, sound))
        self.changed.set()


class Figures:
    """Keeps what is counted."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.outcomes: list[str] = []

    def reached(self, stage: str, seconds: float) -> None:
        assert seconds >= 0
        self.stages.append(stage)

    def ended(self, outcome: str) -> None:
        self.outcomes.append(outcome)


@dataclass
class Stage:
    """A spirit box, one visitor, and the workers' side of everything."""

    box: SpiritBox
    visitor: Visitor
    ear: RecordingEar
    quota: FakeQuotaClient
    jobs: FakeJobQueue
    replies: FakeReplyRouter
    figures: Figures
    background: BackgroundTasks

    async def hear(self, text: str = "Who are you?", language: str = "en") -> None:
        """Writes the question down."""
        job = await self.jobs.next_transcription()
        for frame in heard(*([text] if text else []), language=language):
            self.replies.write_down(job.request_id, frame)
        self.jobs.finish(job.request_id)

    async def asked(self) -> tuple[ChatJob, SpeechJob]:
        """The two jobs of a part."""
        speech = await self.jobs.next_speech()
        return await self.jobs.next_chat(), speech

    def say(self, speech: SpeechJob, n: int = 0, pcm: bytes = PIECE) -> None:
        """Speaks a piece."""
        self.replies.say(speech.request_id, n, SegmentInfo(attempt=1, piece=n, offset_bytes=0, piece_done=True), pcm)

    def end_speech(self, speech: SpeechJob, n: int = 1) -> None:
        """Ends an utterance."""
        end = SpeechEnd(reason="stop", audio_ms=20 * n)
        self.replies.say(speech.request_id, n, SegmentInfo(attempt=1, piece=n, offset_bytes=0, end=end), b"")
        self.jobs.finish(speech.request_id)

    async def play(self, *texts: str) -> tuple[ChatJob, SpeechJob]:
        """Has a whole part written and spoken in one piece."""
        chat, speech = await self.asked()
        for frame in frames(*texts):
            self.replies.send(chat.request_id, frame)
        self.jobs.finish(chat.request_id)
        if texts:
            self.say(speech)
        self.end_speech(speech, len(texts[:1]))
        return chat, speech

    async def quiet(self) -> None:
        """Waits until nothing is open, and what is left behind is taken back."""
        async with asyncio.timeout(5):
            while self.replies.open_requests or len(self.background):
                await asyncio.sleep(0.01)


Open = Callable[..., Any]


@asynccontextmanager
async def stage(**settings: Any) -> AsyncGenerator[Stage]:
    """Opens a spirit box with one visitor."""
    over = {"enabled": True, "pause_s": 0.0, "max_parts": 1, **settings}
    tts = {"pools": {"booth": {"backend": "fake"}}, "models": {"parrot": {"pool": "booth", "default_voice": "ann"}}}
    config = Config.model_validate({**CONFIG, "tts": tts, "spirit_box": over})
    quota, jobs, replies, rooms = FakeQuotaClient(), FakeJobQueue(), FakeReplyRouter(), FakeRooms()
    background, workers, characters = BackgroundTasks(), Workers(), Characters()
    deps = Dependencies(quota, jobs, replies, background, rooms, rooms, FakeModelInquiry())
    workers.announce(
        WorkerInfo(
            id="w1",
            service="tts",
            pool="booth",
            backend="fake",
            models=(OfferedModel(name="parrot", voices=VOICES),),
            slots=1,
            at=0,
        )
    )
    admission = Admission(deps, workers, KeptJobs(deps, FakeResultStore(replies)), 10.0)
    everything = Offer(
        chat_catalogue(config.chat),
        speech_catalogue(config.tts),
        recognition_models=recognition_catalogue(config.stt),
    )

    async def tier_of(caller: Caller) -> str:
        raise AssertionError(caller)

    async def encode(pcm: bytes) -> bytes:
        await asyncio.sleep(0)
        return pcm

    figures, ear = Figures(), RecordingEar()
    offers = Offers(everything, {}, tier_of, characters, workers)
    sounds = Sounds(encode, REFUSAL, SILENCE)
    box = SpiritBox(config.spirit_box, config.stt, config.tts, admission, offers, workers, sounds, figures)
    box.pick_up(ear, "10.0.0.1")
    visitor = box.enter(Caller(None, "10.0.0.1"), ear)
    try:
        yield Stage(box, visitor, ear, quota, jobs, replies, figures, background)
    finally:
        visitor.close()
        await background.close(5)


async def test_answer_sounds_while_it_is_written_and_each_of_its_jobs_is_held() -> None:
    async with stage() as on:
        on.visitor.seed(77)
        on.visitor.contact(RECORDING)
        await on.hear()
        chat, speech = await on.asked()
        assert [message.role for message in chat.request.messages] == ["system", "user"]
        assert "English" in chat.request.messages[0].content
        assert chat.request.messages[1].content == "Who are you?"
        assert (chat.request.sampling.seed, chat.request.max_output_tokens) == (77, 100)
        assert speech.narrates is not None
        assert (speech.narrates.request_id, speech.request.voice) == (chat.request_id, "ann")
        on.replies.send(chat.request_id, frames("I am ", end=None)[0])
        on.say(speech)
        assert await on.ear.hears(1) == [("first_response", PIECE)]
        assert [one.kind for one in on.quota.asked] == ["transcription", "speech", "chat"]
        for frame in frames("the wind.", first=1):
            on.replies.send(chat.request_id, frame)
        on.say(speech, 1)
        on.end_speech(speech, 2)
        assert await on.ear.hears(2) == [("first_response", PIECE), ("response", PIECE)]
        await on.quiet()
        assert (on.figures.stages, on.figures.outcomes) == (["text", "token", "sound"], ["answered"])
        assert (on.jobs.cancelled, on.ear.errors, on.jobs.sounds) == ([], [], {})


async def test_monologue_goes_on_part_after_part_to_its_bound_with_seeds_in_order() -> None:
    async with stage(max_parts=3, pause_s=0.05) as on:
        on.visitor.seed(2**31 - 1)
        on.visitor.contact(RECORDING)
        await on.hear()
        loop, times = asyncio.get_running_loop(), list[float]()
        jobs: list[ChatJob] = []
        for n, text in enumerate(("I am the wind.", "I blow.", "I rest."), 1):
            jobs.append((await on.play(text))[0])
            await on.ear.hears(n)
            times.append(loop.time())
        await on.quiet()
        assert [name for name, _sound in on.ear.sent] == ["first_response", "response", "response"]
        assert [job.request.sampling.seed for job in jobs] == [2**31 - 1, 0, 1]
        told = [(message.role, message.content) for message in jobs[2].request.messages[1:]]
        more = told[2][1]
        assert "one more" in more
        assert told == [
            ("user", "Who are you?"),
            ("assistant", "I am the wind."),
            ("user", more),
            ("assistant", "I blow."),
            ("user", more),
        ]
        # A part is heard for 20 ms, and the pause follows.
        assert all(later - earlier >= 0.069 for earlier, later in itertools.pairwise(times))


async def test_earlier_questions_are_told_and_the_same_seed_begins_anew() -> None:
    async with stage() as on:
        jobs: list[ChatJob] = []
        for n in range(3):
            if n != 1:
                on.visitor.seed(5)
            on.visitor.contact(RECORDING)
            await on.hear(f"Question {n}?")
            jobs.append((await on.play(f"Answer {n}."))[0])
            await on.ear.hears(n + 1)
            await on.quiet()
        assert [job.request.sampling.seed for job in jobs] == [5, 6, 5]
        assert [message.content for message in jobs[2].request.messages[1:]] == [
            *("Question 0?", "Answer 0.", "Question 1?", "Answer 1."),
            "Question 2?",
        ]


@pytest.mark.parametrize("reached", ["nothing", "text", "token", "sound"])
async def test_next_contact_cancels_engine_and_voice_at_once_and_nothing_of_the_old_one_comes(reached: str) -> None:
    async with stage() as on:
        on.visitor.contact(RECORDING)
        open_jobs: list[str] = []
        chat = speech = None
        if reached == "nothing":
            open_jobs = [(await on.jobs.next_transcription()).request_id]
        else:
            await on.hear("Old?")
            chat, speech = await on.asked()
            open_jobs = [speech.request_id, chat.request_id]
            if reached != "text":
                on.replies.send(chat.request_id, frames("Old.", end=None)[0])
            if reached == "sound":
                on.say(speech)
                await on.ear.hears(1)
        on.visitor.contact(RECORDING)
        # Not a turn of the loop later than the cancelling itself takes.
        for _ in range(20):
            await asyncio.sleep(0)
        assert set(on.jobs.cancelled) == set(open_jobs)
        if speech is not None:
            on.say(speech, int(reached == "sound"))
        await on.hear("New?")
        chat, _speech = await on.play("New.")
        assert chat.request.messages[-1].content == "New?"
        before = [("first_response", PIECE)] if reached == "sound" else []
        assert await on.ear.hears(len(before) + 1) == [*before, ("first_response", PIECE)]
        await on.quiet()
        assert on.figures.outcomes == ["answered" if before else "replaced", "answered"]
        assert (on.ear.forgotten, len(on.ear.sent), on.jobs.sounds) == (2, len(before) + 1, {})


async def test_visitor_who_leaves_has_everything_cancelled_and_given_back() -> None:
    async with stage(max_parts=100) as on:
        on.visitor.contact(RECORDING)
        await on.hear()
        await on.play("I am the wind.")
        chat, speech = await on.asked()
        on.visitor.close()
        await on.quiet()
        assert set(on.jobs.cancelled) == {chat.request_id, speech.request_id}
        assert set(on.quota.released) == {chat.request_id, speech.request_id}
        assert (on.box.visitors, len(on.ear.sent)) == (0, 1)


@pytest.mark.parametrize(
    ("language", "voice", "named"),
    [("de", "greta", "German"), ("en", "ann", "English"), ("fi", "ann", "English"), ("hu", "bob", "Hungarian")],
)
async def test_language_of_the_question_decides_language_and_voice(language: str, voice: str, named: str) -> None:
    async with stage(languages={"hu": {"voice": "bob", "question": "Kérdés: {question}"}}) as on:
        on.visitor.contact(RECORDING)
        await on.hear("Hm?", language)
        chat, speech = await on.play("So.")
        assert speech.request.voice == voice
        assert named in chat.request.messages[0].content
        assert chat.request.messages[1].content == ("Kérdés: Hm?" if language == "hu" else "Hm?")


async def test_long_conversation_loses_its_oldest_part_instead_of_being_refused() -> None:
    async with stage(chat_model="wren/tiny", instructions="Be short.", max_output_tokens=8) as on:
        jobs: list[ChatJob] = []
        for n in range(3):
            on.visitor.contact(RECORDING)
            await on.hear(f"{n}" * 6000)
            jobs.append((await on.play("So."))[0])
            await on.ear.hears(n + 1)
            await on.quiet()
        request = jobs[-1].request
        assert request.overflow == "drop_front"
        told = [message.content[:3] for message in request.messages]
        assert told == ["Be ", "So.", "111", "So.", "222"]


def test_base_model_continues_the_question_and_then_what_it_said() -> None:
    settings = SpiritBoxSection(prompt_form="base")
    monologue = Monologue("Who are {said}?", "en")
    first = spirit_request(settings, "owl", 50, monologue, (), None)
    assert (first.mode, first.prompt) == ("completion", "Question: Who are {said}?\nAnswer:")
    assert (first.sampling.stop, first.messages) == (("\n",), ())
    monologue.said += ["I am {question}.", "Yes."]
    then = spirit_request(settings, "owl", 50, monologue, (), 3)
    assert then.prompt == "Question: Who are {said}?\nAnswer: I am {question}. Yes."


@pytest.mark.parametrize(
    ("recording", "said", "code"),
    [
        (b"", None, ErrorCode.INVALID_REQUEST),
        (bytes(200_001), None, ErrorCode.BODY_TOO_LARGE),
        (RECORDING, "", ErrorCode.INVALID_REQUEST),
    ],
)
async def test_what_cannot_be_heard_gets_one_dull_answer_and_no_job(
    recording: bytes, said: str | None, code: ErrorCode
) -> None:
    async with stage() as on:
        on.visitor.contact(recording)
        if said is not None:
            await on.hear(said)
        assert await on.ear.hears(1) == [("first_response", REFUSAL)]
        await on.quiet()
        assert ([error.code for error in on.ear.errors], on.figures.outcomes) == ([code], ["failed"])
        assert len(on.quota.asked) == (said is not None)


@pytest.mark.parametrize("kind", ["transcription", "speech", "chat"])
async def test_refusal_of_quota_is_told_once_and_nothing_stays_held(kind: Any) -> None:
    async with stage() as on:
        on.quota.refusal = ErrorInfo(code=ErrorCode.QUOTA_EXCEEDED, message="No more today.")
        on.quota.refused_kind = kind
        on.visitor.contact(RECORDING)
        if kind != "transcription":
            await on.hear()
        assert await on.ear.hears(1) == [("first_response", REFUSAL)]
        await on.quiet()
        assert [error.message for error in on.ear.errors] == ["No more today."]
        assert set(on.quota.held) <= {one.request_id for one in on.quota.asked if one.kind == "transcription"}
        assert len(on.ear.sent) == 1


async def test_failure_after_the_answer_began_ends_the_monologue_with_words_alone() -> None:
    async with stage(max_parts=5) as on:
        on.visitor.contact(RECORDING)
        await on.hear()
        await on.play("I am the wind.")
        chat, _speech = await on.asked()
        on.replies.send(chat.request_id, frames(end="error")[0])
        await on.quiet()
        assert [name for name, _sound in on.ear.sent] == ["first_response"]
        assert [error.code for error in on.ear.errors] == [ErrorCode.ENGINE_FAILED]


async def test_answer_without_a_word_is_a_silence_and_ends_the_monologue_when_it_comes_again() -> None:
    async with stage(max_parts=5) as on:
        on.visitor.contact(RECORDING)
        await on.hear()
        await on.play()
        await on.play()
        await on.quiet()
        assert (on.ear.sent, on.ear.errors) == ([("first_response", SILENCE)], [])


async def test_so_many_visitors_and_connections_and_no_more() -> None:
    async with stage(max_visitors=3, max_visitors_per_address=1) as on:
        with pytest.raises(CallboardError, match="this address"):
            on.box.enter(Caller(None, "10.0.0.1"), RecordingEar())
        others = [on.box.enter(Caller(None, f"10.0.1.{n}"), RecordingEar()) for n in range(2)]
        with pytest.raises(CallboardError, match="Too many visitors are here"):
            on.box.enter(Caller(None, "10.0.2.1"), RecordingEar())
        for other in others:
            other.close()
            other.close()
        assert on.box.visitors == 1
        on.box.pick_up(RecordingEar(), "10.0.0.1")
        with pytest.raises(CallboardError, match="connections"):
            on.box.pick_up(RecordingEar(), "10.0.0.1")
        on.box.close()
        assert on.ear.closed


async def test_recordings_that_wait_are_bounded_and_let_go() -> None:
    async with stage(max_contact_bytes=1024) as on:
        held = [on.box.hold(bytes(1024)) for _ in range(16)]
        with pytest.raises(CallboardError) as refused:
            on.box.hold(b"x")
        assert refused.value.info.code is ErrorCode.OVERLOADED
        for sound in held:
            sound.release()
            sound.release()
        # A contact that is replaced before its first step lets its recording go, too.
        for _ in range(20):
            on.visitor.contact(bytes(1024))
        await asyncio.sleep(0.01)
        on.visitor.close()
        await on.quiet()
        assert len([on.box.hold(bytes(1024)) for _ in range(16)]) == 16
