"""What requests, ends of turns and the clock do to a room, over the ports in memory."""

import asyncio
import contextlib
from collections import Counter
from typing import Any

import pytest

from callboard_contracts.chat import ChatMessage
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.rooms import (
    MAX_WAITING_TURNS,
    TURN_LIFE_S,
    CancelTurn,
    OpenRoom,
    Room,
    RoomRequest,
    RoomSettings,
    SpeakInRoom,
    Turn,
    TurnEnded,
    room_id,
)
from callboard_kit.background_tasks import BackgroundTasks
from callboard_rooms.backends.memory import MemoryRoomStore, MemoryTurns
from callboard_rooms.domain.dialogue import Limits
from callboard_rooms.domain.ports import StoreUnavailable
from callboard_rooms.domain.reaper import Reaper
from callboard_rooms.domain.room import DEADLINE_GRACE_S, START_GRACE_S, IdlePolicy
from callboard_rooms.domain.rooms import MAX_POST_AGE_S, RoomService
from callboard_rooms.domain.turns import TurnEffects
from tests.unit.rooms.turns import INSTRUCTIONS, LIFE_S, NOW, post, result, turn

pytestmark = pytest.mark.unit

ROOM = room_id("ait", "stage")
REQUEST = RoomRequest(kind="ait", key="stage")


class Figures:
    """Counts by outcome."""

    def __init__(self) -> None:
        self.conflicts = 0
        self.outcomes: Counter[str] = Counter()
        self.waits: list[float] = []

    def conflict(self) -> None:
        self.conflicts += 1

    def turn_started(self, wait_s: float) -> None:
        self.waits.append(wait_s)

    def turn_ended(self, outcome: str) -> None:
        self.outcomes[outcome] += 1


class Deployment:
    """A rooms process over a store that others may share."""

    def __init__(self, other: "Deployment | None" = None, limits: Limits | None = None, **policy: Any) -> None:
        self.store = other.store if other else MemoryRoomStore()
        self.turns = other.turns if other else MemoryTurns()
        self.figures = Figures()
        self.background = BackgroundTasks()
        self.time = NOW
        policy_of = IdlePolicy(**policy)
        effects = TurnEffects(self.turns, self.turns, self.turns, self.turns, sleep=self._sleep)
        self.rooms = RoomService(
            self.store,
            effects,
            self.turns,
            self.figures,
            self.background,
            lambda: self.time,
            limits or Limits(),
            policy_of,
            sleep=self._sleep,
        )
        self.reaper = Reaper(self.store, self.rooms, policy_of, lambda: self.time)

    async def _sleep(self, _seconds: float) -> None:
        await asyncio.sleep(0)

    async def settle(self) -> None:
        """Waits for what requests have started."""
        while len(self.background):
            await asyncio.sleep(0)

    async def room(self) -> Room:
        """The room as it is stored."""
        await self.settle()
        found = (await self.store.load(ROOM)).room
        assert found is not None
        return found

    async def post(self, one: Turn, **over: Any) -> Turn:
        """Adds a turn and returns it."""
        await self.rooms.post(post(one, **over))
        await self.settle()
        return one

    async def end(self, one: Turn, text: str = "Hoo.", **over: Any) -> None:
        """Ends a turn as a worker does."""
        self.turns.results[one.id] = result(one.id, text, **over)
        assert await self.rooms.turn_ended(TurnEnded(room=ROOM, turn=one.id))
        await self.settle()

    async def later(self, seconds: float) -> None:
        """Lets time pass, and the reaper work."""
        self.time += seconds
        await self.reaper.pass_once()
        await self.settle()


@pytest.fixture
def site() -> Deployment:
    return Deployment()


async def refusal(call: Any) -> ErrorCode:
    with pytest.raises(CallboardError) as refused:
        await call
    return refused.value.info.code


async def test_turns_run_one_after_the_other_and_see_what_was_said(site: Deployment) -> None:
    first, second = await site.post(turn("Who?")), await site.post(turn("Why?", speaker="Ben", character="Fox"))
    assert [job.request_id for job in site.turns.chats] == [first.id]
    assert (await site.room()).waiting[0].number == 2
    await site.end(first, "owl: Me.")
    assert [job.request_id for job in site.turns.chats] == [first.id, second.id]
    job = site.turns.chats[1]
    assert job.request.messages == (
        ChatMessage(role="system", content=INSTRUCTIONS),
        ChatMessage(role="user", content="Ann: Who?"),
        ChatMessage(role="assistant", content="Owl: Me."),
        ChatMessage(role="user", content="Ben: Why?"),
    )
    assert job.request.turn is not None
    assert (job.request.turn.room, job.request.turn.turn) == (ROOM, second.id)
    assert (job.hold, job.deadline_at) == (second.hold, second.deadline_at)
    await site.end(second)
    room = await site.room()
    assert (room.running, room.waiting) == (None, ())
    assert [(one.message_id, one.failed) for one in room.ended] == [
        (first.message_id, False),
        (second.message_id, False),
    ]
    assert site.figures.outcomes == {"answered": 2}
    assert set(site.turns.told) == {ROOM}


async def test_turn_that_fails_is_not_remembered_and_the_next_starts(site: Deployment) -> None:
    first, second = await site.post(turn()), await site.post(turn("Why?"))
    await site.end(first, "half a rep", reason="error")
    room = await site.room()
    assert room.messages == ()
    assert room.ended[0].failed
    assert room.running is not None
    assert room.running.id == second.id
    assert len(site.turns.chats[1].request.messages) == 2


async def test_turn_without_a_result_has_failed_unless_it_may_still_come(site: Deployment) -> None:
    one = await site.post(turn())
    event = TurnEnded(room=ROOM, turn=one.id)
    assert not await site.rooms.turn_ended(event, may_lag=True)
    assert (await site.room()).running is not None
    assert await site.rooms.turn_ended(event)
    assert (await site.room()).ended[0].failed


async def test_turn_of_which_a_lagging_replica_knows_nothing_is_ended_later(site: Deployment) -> None:
    site.turns.failure = StoreUnavailable("killed")
    one = await site.post(turn())
    site.turns.failure = None
    site.turns.results[one.id] = result(one.id)
    event = TurnEnded(room=ROOM, turn=one.id)
    # Another process has written what this one reads.
    other = Deployment(site)
    site.store.lagging = 2
    assert not await other.rooms.turn_ended(event, may_lag=True)
    site.store.lagging = 0
    assert await other.rooms.turn_ended(event, may_lag=True)
    assert (await site.room()).running is None
    assert await other.rooms.turn_ended(event, may_lag=True)


async def test_first_turn_of_a_room_survives_a_replica_that_lags_behind(site: Deployment) -> None:
    site.store.before_write = lambda _room: setattr(site.store, "lagging", 1)
    one = await site.post(turn())
    site.store.before_write = lambda _room: None
    site.store.lagging = 0
    assert site.turns.removed == site.turns.cancelled == []
    running = (await site.room()).running
    assert running is not None
    assert (running.id, running.job_seq) == (one.id, 1)


async def test_turn_that_does_not_remember_neither_sees_nor_joins_the_dialogue(site: Deployment) -> None:
    await site.end(await site.post(turn("Who?")))
    one = await site.post(turn("Translate.", remembers=False))
    assert len(site.turns.chats[1].request.messages) == 2
    await site.end(one)
    room = await site.room()
    assert len(room.messages) == 2
    assert [ended.text for ended in room.ended] == ["", "Translate."]


async def test_end_of_a_turn_counts_once(site: Deployment) -> None:
    one = await site.post(turn())
    await site.end(one)
    before = await site.room()
    await site.end(one)
    assert await site.room() == before
    assert site.figures.outcomes == {"answered": 1}


async def test_message_id_is_refused_twice_and_a_turn_is_added_once(site: Deployment) -> None:
    one = await site.post(turn())
    await site.post(one)
    assert await refusal(site.rooms.post(post(turn(message_id=one.message_id)))) is ErrorCode.DUPLICATE_MESSAGE
    await site.end(one)
    assert await refusal(site.rooms.post(post(turn(message_id=one.message_id)))) is ErrorCode.DUPLICATE_MESSAGE
    await site.post(one)
    assert len(site.turns.chats) == 1
    await site.post(turn(message_id=one.message_id), unique=False)
    assert len(site.turns.chats) == 2


async def test_unknown_room_is_opened_only_on_request(site: Deployment) -> None:
    assert await refusal(site.rooms.post(post(turn(), opens=False))) is ErrorCode.NOT_FOUND
    reply = await site.rooms.open(OpenRoom(kind="ait", key="stage"))
    assert (reply.id, reply.created) == (ROOM, True)
    assert not (await site.rooms.open(OpenRoom(kind="ait", key="stage"))).created
    await site.post(turn(), opens=False)
    assert (await site.room()).running is not None


async def test_full_queue_says_when_to_come_again(site: Deployment) -> None:
    for _ in range(1 + MAX_WAITING_TURNS):
        await site.post(turn())
    with pytest.raises(CallboardError) as refused:
        await site.rooms.post(post(turn()))
    assert refused.value.info.code is ErrorCode.QUEUE_FULL
    assert refused.value.info.retry_after_s


async def test_room_that_would_be_too_large_loses_old_messages_before_it_refuses(site: Deployment) -> None:
    site.store.max_document_bytes = 5000
    site = Deployment(site, Limits(max_document_bytes=5000))
    await site.end(await site.post(turn("x" * 1500)), "y" * 1500)
    await site.post(turn("z" * 1500))
    assert (await site.room()).messages == ()
    assert await refusal(site.rooms.post(post(turn("w" * 3000)))) is ErrorCode.BODY_TOO_LARGE
    await site.post(turn())
    assert await refusal(site.rooms.post(post(turn("w" * 3000)))) is ErrorCode.QUEUE_FULL


@pytest.mark.parametrize(("text", "age_s"), [("x" * 70_000, 0.0), ("x", MAX_POST_AGE_S + 1)])
async def test_turn_that_is_too_long_or_too_late_is_refused(site: Deployment, text: str, age_s: float) -> None:
    assert await refusal(site.rooms.post(post(turn(text, NOW - age_s)))) in {
        ErrorCode.BODY_TOO_LARGE,
        ErrorCode.BUS_UNAVAILABLE,
    }
    assert (await site.store.load(ROOM)).room is None


async def test_turn_that_became_too_old_while_others_changed_its_room_is_refused(site: Deployment) -> None:
    await site.post(turn())

    def other_comes_first(_room: str) -> None:
        site.store.before_write = lambda _room: None
        site.store.bump(ROOM)
        site.time += MAX_POST_AGE_S + 1

    site.store.before_write = other_comes_first
    assert await refusal(site.rooms.post(post(turn()))) is ErrorCode.BUS_UNAVAILABLE
    assert (await site.room()).waiting == ()


async def test_spoken_reply_is_announced_and_narrated(site: Deployment) -> None:
    one = await site.post(turn(voice=True))
    (speech,) = site.turns.speeches
    assert one.speech is not None
    assert speech.narrates is not None
    assert (speech.narrates.edge, speech.narrates.request_id) == ("e", one.id)
    assert (speech.room, speech.in_room, speech.hold) == (ROOM, True, one.speech.hold)
    assert speech.utterance == f"00000001-{one.speech.request_id}"
    assert site.turns.announced == [1]
    running = (await site.room()).running
    assert running is not None
    assert (running.job_seq, running.speech_seq) == (1, 1)


async def test_reply_is_written_where_it_cannot_be_spoken(site: Deployment) -> None:
    site.turns.speech_refusal = CallboardError(ErrorCode.QUEUE_FULL, "Full.")
    one = await site.post(turn(voice=True))
    assert len(site.turns.chats) == 1
    assert site.turns.left_out == [1]
    assert one.speech is not None
    assert site.turns.released == [one.speech.request_id]


async def test_text_is_spoken_without_waiting_for_a_reply(site: Deployment) -> None:
    await site.post(turn())
    line = turn("Curtain up.", chat=False)
    await site.rooms.speak(SpeakInRoom(kind="ait", key="stage", turn=line))
    assert [job.request.text for job in site.turns.speeches] == ["Curtain up."]
    assert site.turns.speeches[0].narrates is None
    room = await site.room()
    assert [(one.number, one.failed) for one in room.ended] == [(2, False)]
    assert (room.speaking, room.messages) == ((), ())
    assert site.figures.outcomes == {"spoken": 1}


async def test_text_that_cannot_be_queued_is_refused_and_its_hold_released(site: Deployment) -> None:
    site.turns.speech_refusal = CallboardError(ErrorCode.QUEUE_FULL, "Full.")
    line = turn("Curtain up.", chat=False)
    speak = SpeakInRoom(kind="ait", key="stage", turn=line, opens=True)
    assert await refusal(site.rooms.speak(speak)) is ErrorCode.QUEUE_FULL
    assert line.speech is not None
    assert site.turns.released == [line.speech.request_id]
    assert (await site.room()).ended[0].failed


async def test_text_that_the_bus_did_not_take_is_queued_later(site: Deployment) -> None:
    site.turns.failure = StoreUnavailable("away")
    line = turn("Curtain up.", chat=False)
    await site.rooms.speak(SpeakInRoom(kind="ait", key="stage", turn=line, opens=True))
    assert [one.id for one in (await site.room()).speaking] == [line.id]
    site.turns.failure = None
    await site.later(START_GRACE_S)
    assert [job.request.text for job in site.turns.speeches] == ["Curtain up."]
    assert (await site.room()).ended[0].id == line.id
    assert site.turns.released == []


async def test_claimed_room_asks_for_its_secret(site: Deployment) -> None:
    claim = OpenRoom(kind="ait", key="stage", secret="sesame")
    await site.rooms.open(claim)
    await site.rooms.open(OpenRoom(kind="ait", key="stage"))
    wrong = OpenRoom(kind="ait", key="stage", secret="other")
    settings = OpenRoom(kind="ait", key="stage", settings=RoomSettings(model="wren"))
    line = SpeakInRoom(kind="ait", key="stage", turn=turn("Curtain up.", chat=False))
    for call in (
        site.rooms.open(wrong),
        site.rooms.open(settings),
        site.rooms.reset(REQUEST),
        site.rooms.end(REQUEST),
        site.rooms.speak(line),
    ):
        assert await refusal(call) is ErrorCode.ROOM_SECRET_REQUIRED
    await site.post(turn())
    own = RoomRequest(kind="ait", key="stage", secret="sesame")
    await site.rooms.open(settings.model_copy(update={"secret": "sesame"}))
    assert (await site.room()).settings.model == "wren"
    await site.rooms.speak(line.model_copy(update={"secret": "sesame"}))
    await site.rooms.reset(own)
    await site.rooms.end(own.model_copy(update={"secret": None, "by_admin": True}))
    assert (await site.store.load(ROOM)).room is None


async def test_reset_forgets_the_dialogue_and_gives_up_the_turns(site: Deployment) -> None:
    await site.end(await site.post(turn()))
    running, waiting = await site.post(turn(voice=True)), await site.post(turn(voice=True))
    site.turns.begun = {running.id}
    await site.rooms.reset(REQUEST)
    room = await site.room()
    assert (room.messages, room.running, room.waiting, room.generation) == ((), None, (), 1)
    assert [one.cancelled for one in room.ended] == [False, True, True]
    assert running.speech is not None
    assert waiting.speech is not None
    assert site.turns.cancelled == [running.id, running.speech.request_id]
    # The worker that had the running turn settles its hold.
    assert set(site.turns.released) == {waiting.id, running.speech.request_id, waiting.speech.request_id}
    assert site.turns.results[waiting.id].end.reason == "cancelled"
    await site.end(running, "Too late.")
    assert (await site.room()).messages == ()
    await site.post(turn("Who?"))
    assert len(site.turns.chats[-1].request.messages) == 2


async def test_turn_is_given_up_although_the_bus_is_away_for_a_moment(site: Deployment) -> None:
    one = await site.post(turn(voice=True))
    site.turns.cancel_failures = 3
    await site.rooms.reset(REQUEST)
    await site.settle()
    assert one.speech is not None
    assert set(site.turns.released) == {one.id, one.speech.request_id}
    assert site.turns.removed == [1, -1]
    assert site.turns.left_out == [1]
    assert site.turns.results[one.id].end.reason == "cancelled"


async def test_room_that_cannot_be_tidied_does_not_keep_the_others_from_it() -> None:
    site = Deployment(idle_timeout_s=600)
    for key in ("stage", "lake"):
        await site.rooms.open(OpenRoom(kind="ait", key=key))

    def full(room: str) -> None:
        if room == ROOM:
            raise StoreUnavailable("full")

    site.store.before_write = full
    for _ in range(2):
        with contextlib.suppress(StoreUnavailable):
            await site.later(600)
    assert (await site.store.load(room_id("ait", "lake"))).room is None
    site.store.before_write = lambda _room: None
    await site.later(600)
    assert (await site.store.load(ROOM)).room is None


async def test_room_that_made_place_for_others_is_forgotten() -> None:
    site = Deployment(idle_timeout_s=600)
    await site.rooms.open(OpenRoom(kind="ait", key="stage"))
    await site.later(0)
    assert site.reaper.rooms_by_kind == {"ait": 1}
    site.store.discard(ROOM)
    await site.later(600)
    assert site.reaper.rooms_by_kind == {}


async def test_ended_room_is_gone_and_its_numbers_go_on(site: Deployment) -> None:
    one = await site.post(turn())
    await site.rooms.end(REQUEST)
    await site.settle()
    assert one.id in site.turns.cancelled
    assert await refusal(site.rooms.reset(REQUEST)) is ErrorCode.NOT_FOUND
    await site.post(turn())
    running = (await site.room()).running
    assert running is not None
    assert running.number > 1


async def test_turn_whose_process_died_before_its_job_is_started_by_another() -> None:
    site = Deployment()
    site.turns.failure = StoreUnavailable("killed")
    one = await site.post(turn(voice=True))
    assert site.turns.chats == []
    site.turns.failure = None
    other = Deployment(site)
    await other.later(START_GRACE_S - 1)
    assert site.turns.chats == []
    await other.later(1)
    assert [job.request_id for job in site.turns.chats] == [one.id]
    assert len(site.turns.speeches) == 1
    await other.later(START_GRACE_S)
    assert len(site.turns.chats) == 1


async def test_turn_that_ended_before_its_job_was_noted_is_not_run_again() -> None:
    site = Deployment()
    site.turns.failure = StoreUnavailable("killed")
    one = await site.post(turn())
    site.turns.failure = None
    site.turns.results[one.id] = result(one.id)
    await site.later(3600)
    assert site.turns.chats == []


async def test_job_that_was_queued_long_ago_is_found_and_not_queued_again() -> None:
    site = Deployment()
    one = await site.post(turn())
    stored = await site.store.load(ROOM)
    assert stored.room is not None
    assert stored.room.running is not None
    lost = stored.room.running.model_copy(update={"job_seq": None})
    await site.store.save(stored.room.model_copy(update={"running": lost}), stored.revision)
    site.turns.refusal = CallboardError(ErrorCode.QUEUE_FULL, "Nothing is queued again.")
    await site.later(LIFE_S / 2)
    running = (await site.room()).running
    assert running is not None
    assert (running.id, running.job_seq) == (one.id, 1)


async def test_job_that_no_queue_takes_ends_its_turn(site: Deployment) -> None:
    site.turns.refusal = CallboardError(ErrorCode.QUEUE_FULL, "Full.")
    one, two = await site.post(turn(voice=True)), await site.post(turn())
    room = await site.room()
    assert [(ended.id, ended.failed) for ended in room.ended] == [(one.id, True), (two.id, True)]
    error = site.turns.results[one.id].end.error
    assert error is not None
    assert error.code is ErrorCode.QUEUE_FULL
    assert one.speech is not None
    assert set(site.turns.released) == {one.id, one.speech.request_id, two.id}


async def test_turn_past_its_deadline_fails_and_the_next_starts(site: Deployment) -> None:
    one, two = await site.post(turn(voice=True)), await site.post(turn(now=NOW + 100, deadline_at=NOW + 3 * LIFE_S))
    await site.later(LIFE_S + DEADLINE_GRACE_S - 1)
    assert len(site.turns.chats) == 1
    await site.later(1)
    assert [job.request_id for job in site.turns.chats] == [one.id, two.id]
    error = site.turns.results[one.id].end.error
    assert error is not None
    assert error.code is ErrorCode.DEADLINE_EXCEEDED
    assert one.speech is not None
    assert set(site.turns.released) == {one.id, one.speech.request_id}
    assert site.turns.removed == [1, -1]
    assert site.turns.left_out == [1]
    assert site.figures.outcomes == {"failed": 1}


async def test_room_that_is_reset_while_a_turn_starts_takes_back_its_job(site: Deployment) -> None:
    await site.rooms.post(post(turn()))
    # The job is queued in the background, after the reset.
    await site.rooms.reset(REQUEST)
    await site.settle()
    (job,) = site.turns.chats
    assert job.request_id in site.turns.cancelled
    assert 1 in site.turns.removed


async def test_room_ends_when_nothing_happens_in_it() -> None:
    site = Deployment(idle_timeout_s=600, keep_alive=frozenset({"lobby"}))
    one = await site.post(turn(deadline_at=NOW + 10_000))
    await site.rooms.open(OpenRoom(kind="ait", key="lobby"))
    await site.later(700)
    assert (await site.room()).running is not None
    await site.end(one)
    await site.later(599)
    assert (await site.room()).messages
    await site.later(1)
    assert (await site.store.load(ROOM)).room is None
    assert (await site.store.load(room_id("ait", "lobby"))).room is not None
    await site.later(0)
    assert site.reaper.rooms_by_kind == {"ait": 1}


async def test_ended_turns_are_forgotten_after_their_results(site: Deployment) -> None:
    await site.end(await site.post(turn()))
    await site.later(TURN_LIFE_S - 1)
    assert len((await site.room()).ended) == 1
    await site.later(1)
    assert (await site.room()).ended == ()
    revision = (await site.store.load(ROOM)).revision
    await site.later(3600)
    assert (await site.store.load(ROOM)).revision == revision


async def test_racing_processes_keep_one_order() -> None:
    first = Deployment()
    second = Deployment(first)
    turns = [turn() for _ in range(50)]
    await asyncio.gather(*(site.rooms.post(post(one)) for one, site in zip(turns, [first, second] * 25, strict=True)))
    room = await first.room()
    assert room.running is not None
    numbered = [room.running, *room.waiting]
    assert [one.number for one in numbered] == list(range(1, 51))
    assert {one.id for one in numbered} == {one.id for one in turns}
    for _ in turns:
        running = (await second.room()).running
        assert running is not None
        await second.end(running)
    assert [job.request_id for job in first.turns.chats] == [one.id for one in numbered]


async def test_change_that_others_come_before_is_made_again(site: Deployment) -> None:
    await site.post(turn())
    once = [True]

    def before_write(_room_id: str) -> None:
        if once.pop() if once else False:
            site.store.bump(ROOM)

    site.store.before_write = before_write
    await site.post(turn())
    assert site.figures.conflicts == 1
    assert len((await site.room()).waiting) == 1


async def test_room_that_this_process_wrote_is_not_read_again(site: Deployment) -> None:
    await site.end(await site.post(turn()))
    loads = site.store.loads
    await site.end(await site.post(turn()))
    assert site.store.loads == loads
    assert len((await site.room()).messages) == 4


async def test_room_that_others_changed_is_read_before_anything_is_refused() -> None:
    first = Deployment()
    other = Deployment(first)
    one = await first.post(turn())
    await other.rooms.reset(REQUEST)
    await other.rooms.end(REQUEST)
    # The room that this process knows has the message already.
    await first.post(one)
    assert (await first.room()).running is not None
    assert first.figures.conflicts == 0
    await other.rooms.end(REQUEST)
    assert await refusal(first.rooms.reset(REQUEST)) is ErrorCode.NOT_FOUND


async def test_place_of_a_job_is_only_noted_while_its_turn_runs() -> None:
    deployment = Deployment()
    short, long = turn(), turn()
    await deployment.rooms.post(post(short))
    while not deployment.turns.chats:
        await asyncio.sleep(0)
    revision = (await deployment.store.load(ROOM)).revision
    deployment.turns.results[short.id] = result(short.id, "Hoo.")
    assert await deployment.rooms.turn_ended(TurnEnded(room=ROOM, turn=short.id))
    await deployment.settle()
    assert (await deployment.store.load(ROOM)).revision == revision + 1
    await deployment.post(long)
    running = (await deployment.room()).running
    assert running is not None
    assert running.job_seq is not None


async def test_turn_that_is_given_up_before_its_job_is_noted_takes_back_its_job() -> None:
    deployment = Deployment()
    await deployment.rooms.post(post(turn()))
    while not deployment.turns.chats:
        await asyncio.sleep(0)
    await deployment.rooms.reset(REQUEST)
    await deployment.settle()
    assert deployment.turns.removed == [1]


async def test_turn_whose_client_left_is_given_up_and_the_next_begins() -> None:
    deployment = Deployment()
    first, second = turn(), turn()
    for one in (first, second):
        await deployment.rooms.post(post(one))
    await deployment.background.close(5)
    await deployment.rooms.cancel(CancelTurn(kind="ait", key="stage", turn=first.id))
    await deployment.background.close(5)
    room = (await deployment.store.load(ROOM)).room
    assert room is not None
    assert room.running is not None
    assert (room.running.id, room.messages) == (second.id, ())
    assert deployment.turns.cancelled == [first.id]
    assert first.id in deployment.turns.released
    assert [job.request_id for job in deployment.turns.chats] == [first.id, second.id]
    # Its reply comes too late to be remembered.
    deployment.turns.results[first.id] = result(first.id)
    await deployment.rooms.turn_ended(TurnEnded(room=ROOM, turn=first.id))
    assert (await deployment.store.load(ROOM)).room == room
    assert deployment.figures.outcomes == {"cancelled": 1}


@pytest.mark.parametrize(("heard", "reply"), [("Well, the mill ", "Well, the mill"), ("", "…")])
async def test_turn_that_is_interrupted_is_remembered_with_what_was_heard(heard: str, reply: str) -> None:
    deployment = Deployment()
    first, second = turn("The mill?"), turn("No, the barn!")
    for one in (first, second):
        await deployment.rooms.post(post(one))
    await deployment.background.close(5)
    await deployment.rooms.cancel(CancelTurn(kind="ait", key="stage", turn=first.id, heard=heard))
    await deployment.background.close(5)
    asked = deployment.turns.chats[-1].request.messages
    assert [one.content for one in asked[1:]] == ["Ann: The mill?", f"Owl: {reply}", "Ann: No, the barn!"]


async def test_giving_up_what_is_over_or_unknown_changes_nothing() -> None:
    deployment = Deployment()
    one = turn()
    await deployment.rooms.cancel(CancelTurn(kind="ait", key="stage", turn=one.id))
    await deployment.rooms.post(post(one))
    await deployment.background.close(5)
    deployment.turns.results[one.id] = result(one.id)
    await deployment.rooms.turn_ended(TurnEnded(room=ROOM, turn=one.id))
    before = (await deployment.store.load(ROOM)).room
    await deployment.rooms.cancel(CancelTurn(kind="ait", key="stage", turn=one.id))
    assert (await deployment.store.load(ROOM)).room == before
    assert before is not None
    assert len(before.messages) == 2


async def test_message_whose_turn_failed_is_taken_again_where_it_may_be() -> None:
    deployment = Deployment()
    first = turn(message_id="m")
    await deployment.rooms.post(post(first, retries=True))
    with pytest.raises(CallboardError):
        await deployment.rooms.post(post(turn(message_id="m"), retries=True))
    await deployment.rooms.cancel(CancelTurn(kind="ait", key="stage", turn=first.id))
    with pytest.raises(CallboardError):
        await deployment.rooms.post(post(turn(message_id="m")))
    await deployment.rooms.post(post(turn(message_id="m"), retries=True))
    await deployment.background.close(5)


async def test_memory_of_a_character_outlives_other_rooms() -> None:
    deployment = Deployment(idle_timeout_s=100.0, memory_timeout_s=1000.0)
    for kind in ("ait", "character"):
        await deployment.rooms.open(OpenRoom(kind=kind, key="k"))
    deployment.time += 500
    await deployment.reaper.pass_once()
    assert deployment.reaper.rooms_by_kind == {"character": 1}
    deployment.time += 501
    await deployment.reaper.pass_once()
    assert deployment.reaper.rooms_by_kind == {}
