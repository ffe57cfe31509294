"""What every protocol that hears must do."""

import asyncio
import statistics
import time
from collections.abc import Sequence

import aiohttp

from callboard_contracts.errors import ErrorCode
from tests.protocols.client import Answer, Client
from tests.protocols.conftest import DEAF_EAR, FAILING_EAR, HEARING_SLOTS, MAX_QUEUED, MAX_SOUND_S, SLOW_EAR
from tests.protocols.dialect import HearingDialect, ParsedReply
from tests.protocols.suite import STOP_BOUND_S, Connect, RequestSuite, check_error, check_failed
from tests.protocols.tenants import Tenant, new_tenant
from tests.support.deployment import Deployment, eventually
from tests.support.sounds import film_without_sound, melody, silence, tone, wav

PITCHES_HZ = (200, 300, 400)
FILE = wav(melody(PITCHES_HZ))
LONG = wav(melody([300] * 8))
"""A slow engine is still at work on it when its client leaves."""
UNHEARD = (FILE[:20], film_without_sound(), wav(tone(300, MAX_SOUND_S + 1)[::2], 8000))
"""A file that was cut, one without sound, and one that is too long."""


def text_of(pitches_hz: Sequence[int]) -> str:
    """What the fake engine hears in a melody."""
    return " ".join(f"tone {pitch}" for pitch in pitches_hz)


class HearingSuite(RequestSuite[HearingDialect]):
    """Speech to text, and everything that can happen to it."""

    def heard(self, answer: Answer) -> ParsedReply:
        """What a whole answer says."""
        return self.dialect.read_text(answer.body)

    async def text(self, client: Client, sound: bytes = FILE) -> str:
        """Asks for a text that is expected to come."""
        answer = await client.ask(self.dialect.ask(sound))
        seen = self.heard(answer)
        assert (answer.status, seen.complete, seen.error) == (200, True, None), answer.body[:500]
        return seen.text

    async def test_sound_is_written_down_and_charged_once_by_its_length(self, client: Client, tenant: Tenant) -> None:
        assert await self.text(client) == text_of(PITCHES_HZ)
        assert await self.text(client, wav(silence(1))) == ""
        as_json = await client.ask(self.dialect.ask_as_json(FILE))
        assert text_of(PITCHES_HZ) in as_json.body.decode()
        events = await tenant.usage(3)
        assert {event.kind for event in events} == {"transcription"}
        assert [event.work.audio_ms for event in events] == [3000, 0, 3000]
        assert await tenant.heard_ms() == 6000

    async def test_unknown_model_is_refused_and_costs_nothing(self, client: Client, tenant: Tenant) -> None:
        answer = await client.ask(self.dialect.ask(FILE, model="nobody"))
        check_error(self.dialect, answer, ErrorCode.UNKNOWN_MODEL)
        await tenant.assert_no_usage()

    async def test_file_that_cannot_be_heard_is_refused_and_costs_nothing(self, client: Client, tenant: Tenant) -> None:
        answers = await asyncio.gather(*(client.ask(self.dialect.ask(file)) for file in UNHEARD))
        for answer in answers:
            check_error(self.dialect, answer, ErrorCode.INVALID_REQUEST)
        events = await tenant.usage(len(UNHEARD))
        assert {(event.outcome, event.work.audio_ms) for event in events} == {("error", 0)}
        assert await tenant.heard_ms() == 0

    async def test_caller_over_a_limit_is_told_which_and_what_is_left(
        self, deployment: Deployment, session: aiohttp.ClientSession, connect: Connect
    ) -> None:
        tenant = await new_tenant(deployment, session, "brief")
        client = connect(key=tenant.key)
        assert await self.text(client) == text_of(PITCHES_HZ)
        await tenant.usage(1)
        # Only the worker knows how long it is, and has the whole of it held before it listens.
        refused = await client.ask(self.dialect.ask(FILE))
        error = check_error(self.dialect, refused, ErrorCode.QUOTA_EXCEEDED)
        assert "seconds of sound" in error.message
        events = await tenant.usage(2)
        assert [event.work.audio_ms for event in events] == [3000, 0]
        fitting = await client.ask(self.dialect.ask(wav(melody(PITCHES_HZ[:2]))))
        assert self.heard(fitting).text == text_of(PITCHES_HZ[:2])
        assert fitting.headers["x-ratelimit-limit-heard-seconds"] == "5"
        assert fitting.headers["x-ratelimit-remaining-heard-seconds"] == "1"
        await tenant.usage(3)
        assert await tenant.heard_ms() == 5000
        # What is still held may come back soon, and would be worth another try.
        await asyncio.to_thread(deployment.wait_idle)
        full = await client.ask(self.dialect.ask(wav(melody([300]))))
        check_error(self.dialect, full, ErrorCode.QUOTA_EXCEEDED)
        assert full.headers["x-ratelimit-remaining-heard-seconds"] == "0"
        assert int(full.headers["Retry-After"]) > 60
        await tenant.usage(3)

    async def test_full_queue_is_refused_with_a_time_to_return(
        self, client: Client, tenant: Tenant, deployment: Deployment
    ) -> None:
        request = self.dialect.ask(FILE, model=SLOW_EAR)
        async with asyncio.TaskGroup() as group:
            waiting = [group.create_task(client.ask(request)) for _ in range(MAX_QUEUED)]
            await eventually(lambda: deployment.messages_in("STT") == MAX_QUEUED, 10, "the queue is full")
            answer = await client.ask(request)
        check_error(self.dialect, answer, ErrorCode.QUEUE_FULL)
        assert int(answer.headers["Retry-After"]) >= 1
        assert {self.heard(task.result()).text for task in waiting} == {text_of(PITCHES_HZ)}
        await tenant.usage(MAX_QUEUED)

    async def test_engine_that_fails_before_a_text_is_an_error_that_costs_nothing(
        self, client: Client, tenant: Tenant
    ) -> None:
        answer = await client.ask(self.dialect.ask(FILE, model=DEAF_EAR))
        error = check_error(self.dialect, answer, ErrorCode.ENGINE_FAILED)
        assert "scripted" not in error.message
        (event,) = await tenant.usage(1)
        assert (event.outcome, event.work.audio_ms) == ("error", 0)

    async def test_engine_that_fails_in_the_middle_is_shown_and_at_most_what_it_heard_is_charged(
        self, client: Client, tenant: Tenant
    ) -> None:
        answer = await client.ask(self.dialect.ask(FILE, model=FAILING_EAR))
        if self.dialect.sends_text_early:
            assert answer.status == 200
            seen = self.heard(answer)
            assert seen.text == text_of(PITCHES_HZ[:1])
            check_failed(self.dialect, seen, ErrorCode.ENGINE_FAILED)
        else:
            check_error(self.dialect, answer, ErrorCode.ENGINE_FAILED)
        (event,) = await tenant.usage(1)
        assert (event.outcome, event.work.audio_ms) == ("error", 1000)

    async def test_client_that_leaves_stops_the_engine_and_pays_for_what_was_heard(
        self, client: Client, deployment: Deployment, tenant: Tenant
    ) -> None:
        (worker,) = deployment.recognisers
        left_at: list[float] = []
        for _ in range(3):
            request = self.dialect.ask(LONG, model=SLOW_EAR)
            if self.dialect.sends_text_early:
                async with client.open(request) as answer:
                    await answer.until(lambda data: bool(self.dialect.read_text(data).text))
                    answer.leave()
                    left_at.append(time.time())
            else:
                asking = asyncio.ensure_future(client.ask(request))
                await eventually(lambda: worker.metrics()["callboard_stt_slots_used"] == 1, 10, "the worker listens")
                asking.cancel()
                left_at.append(time.time())
                await asyncio.gather(asking, return_exceptions=True)
            await tenant.usage(len(left_at))
        events = await tenant.usage(3)
        assert {event.outcome for event in events} == {"cancelled"}
        least_ms = 1000 if self.dialect.sends_text_early else 0
        assert all(least_ms <= event.work.audio_ms < 8000 for event in events), events
        took_s = [event.at - at for event, at in zip(events, left_at, strict=True)]
        assert statistics.median(took_s) <= STOP_BOUND_S, took_s

    async def test_client_that_leaves_the_queue_is_never_served_and_pays_nothing(
        self, client: Client, connect: Connect, deployment: Deployment, session: aiohttp.ClientSession
    ) -> None:
        neighbour = await new_tenant(deployment, session)
        request = self.dialect.ask(LONG, model=SLOW_EAR)
        running = [asyncio.ensure_future(client.ask(request)) for _ in range(HEARING_SLOTS)]
        await eventually(lambda: deployment.messages_in("STT") == HEARING_SLOTS, 10, "all slots are taken")
        queued = asyncio.ensure_future(connect(key=neighbour.key).ask(request))
        await eventually(lambda: deployment.messages_in("STT") == HEARING_SLOTS + 1, 10, "one more job is queued")
        queued.cancel()
        await asyncio.gather(queued, return_exceptions=True)
        await eventually(lambda: deployment.messages_in("STT") == HEARING_SLOTS, 5, "the queued job is removed")
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await neighbour.assert_no_usage()
        await eventually(lambda: deployment.messages_in("SOUND") == 0, 10, "no sound is left")
