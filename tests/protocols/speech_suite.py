"""What every protocol that speaks must do."""

import asyncio
import signal
import statistics
import time
from collections.abc import Callable

import aiohttp
import pytest

from callboard_contracts.errors import ErrorCode
from tests.protocols.client import Answer, Client, slow_session
from tests.protocols.conftest import MAX_QUEUED, SPEECH_SLOTS
from tests.protocols.dialect import ParsedSpeech, SpeechDialect
from tests.protocols.suite import STOP_BOUND_S, Connect, RequestSuite, check_error
from tests.protocols.tenants import Tenant, new_tenant
from tests.support.audio import SAMPLE_RATE_HZ
from tests.support.deployment import Deployment, eventually
from tests.support.stub_speech import StubSpeech

LINE = "This is a line of the old play."
TEXT = " ".join(f"This is line {n} of the old play, and the owl is listening to it." for n in range(6))
DOOMED = "Here the engine breaks."
SLOW_S = 0.05
"""The stub's pause before each 100 ms of sound."""


def sound_ms(sound: bytes) -> int:
    """How long PCM lasts."""
    return len(sound) * 1000 // (SAMPLE_RATE_HZ * 2)


class SpeechSuite(RequestSuite[SpeechDialect]):
    """Speech, and everything that can happen to it."""

    def heard(self, answer: Answer) -> ParsedSpeech:
        """What a whole answer says."""
        return self.dialect.read_speech(answer.body, cut=answer.cut)

    def sounds(self, seconds: float) -> Callable[[bytes], bool]:
        """Whether an answer has brought that much sound."""
        least = int(seconds * SAMPLE_RATE_HZ * 2)
        return lambda data: len(self.dialect.read_speech(data, cut=False).sound) >= least

    async def speech(self, client: Client, text: str = TEXT) -> bytes:
        """Asks for speech that is expected to succeed."""
        answer = await client.ask(self.dialect.ask(text))
        seen = self.heard(answer)
        assert (answer.status, seen.complete, seen.error) == (200, True, None), answer.body[:500]
        return seen.sound

    async def test_sound_does_not_depend_on_the_pace_and_is_charged_by_its_length(
        self, client: Client, tenant: Tenant, speech_engine: StubSpeech
    ) -> None:
        quick = await self.speech(client)
        speech_engine.script.chunk_delay_s = 0.01
        assert await self.speech(client) == quick
        assert sound_ms(quick) > 5_000
        assert all(abs(event.work.audio_ms - sound_ms(quick)) <= 1 for event in await tenant.usage(2))

    @pytest.mark.parametrize(
        ("asked", "code"),
        [({"model": "nobody"}, ErrorCode.UNKNOWN_MODEL), ({"voice": "nobody"}, ErrorCode.UNKNOWN_VOICE)],
        ids=["model", "voice"],
    )
    async def test_unknown_name_is_refused_and_costs_nothing(
        self, asked: dict[str, str], code: ErrorCode, client: Client, tenant: Tenant, speech_engine: StubSpeech
    ) -> None:
        check_error(self.dialect, await client.ask(self.dialect.ask(**asked)), code)
        await tenant.assert_no_usage()
        assert speech_engine.calls == []

    async def test_caller_over_a_limit_is_told_which_and_when_to_return(
        self, deployment: Deployment, session: aiohttp.ClientSession, connect: Connect
    ) -> None:
        tenant = await new_tenant(deployment, session, "small")
        client = connect(key=tenant.key)
        served, answer = 0, await client.ask(self.dialect.ask(LINE))
        while answer.status == 200 and served < 5:
            served += 1
            await tenant.usage(served)
            # What is held is far more than what it costs.
            answer = await client.ask(self.dialect.ask(TEXT))
        check_error(self.dialect, answer, ErrorCode.QUOTA_EXCEEDED)
        assert answer.headers["x-ratelimit-limit-tokens"] == "600"
        await tenant.usage(served)

    async def test_full_queue_is_refused_with_a_time_to_return(
        self, client: Client, tenant: Tenant, deployment: Deployment, speech_engine: StubSpeech
    ) -> None:
        speech_engine.script.chunk_delay_s = SLOW_S
        async with asyncio.TaskGroup() as group:
            waiting = [group.create_task(self.speech(client, LINE)) for _ in range(MAX_QUEUED)]
            await eventually(lambda: deployment.messages_in("TTS") == MAX_QUEUED, 10, "the queue is full")
            answer = await client.ask(self.dialect.ask())
        check_error(self.dialect, answer, ErrorCode.QUEUE_FULL)
        assert int(answer.headers["Retry-After"]) >= 1
        assert len({task.result() for task in waiting}) == 1
        await tenant.usage(MAX_QUEUED)

    async def test_engine_that_fails_before_a_sound_is_an_error_that_costs_nothing(
        self, client: Client, tenant: Tenant, speech_engine: StubSpeech
    ) -> None:
        speech_engine.script.fail_text, speech_engine.script.fail_status = DOOMED, 401
        answer = await client.ask(self.dialect.ask(DOOMED))
        error = check_error(self.dialect, answer, ErrorCode.ENGINE_FAILED)
        assert "own words" not in error.message
        (event,) = await tenant.usage(1)
        assert (event.outcome, event.work.audio_ms) == ("error", 0)

    async def test_engine_that_fails_in_the_middle_is_shown_and_what_was_sent_is_charged(
        self, client: Client, tenant: Tenant, speech_engine: StubSpeech
    ) -> None:
        speech_engine.script.fail_text, speech_engine.script.fail_status = DOOMED, 401
        answer = await client.ask(self.dialect.ask(f"{TEXT} {DOOMED} {TEXT}"))
        seen = self.heard(answer)
        assert answer.status == 200
        self.check_failed(seen, ErrorCode.ENGINE_FAILED)
        (event,) = await tenant.usage(1)
        assert event.outcome == "error"
        assert event.work.audio_ms >= sound_ms(seen.sound) > 1000

    async def test_client_that_leaves_stops_the_engine_and_pays_for_what_was_made(
        self, client: Client, tenant: Tenant, speech_engine: StubSpeech
    ) -> None:
        whole_ms = sound_ms(await self.speech(client))
        speech_engine.script.chunk_delay_s = SLOW_S
        took_s: list[float] = []
        for _ in range(3):
            speech_engine.calls.clear()
            async with client.open(self.dialect.ask(TEXT)) as answer:
                await answer.until(self.sounds(0.5))
                answer.leave()
                left_s = time.monotonic()
            await eventually(lambda: speech_engine.running == 0, 10, "the engine is left alone")
            took_s.append(max(call.ended_s or left_s for call in speech_engine.calls) - left_s)
        assert statistics.median(took_s) <= STOP_BOUND_S, took_s
        _spoken, *left = await tenant.usage(4)
        assert {event.outcome for event in left} == {"cancelled"}
        assert all(500 <= event.work.audio_ms < whole_ms for event in left), left

    async def test_client_that_leaves_the_queue_is_never_served_and_pays_nothing(
        self,
        client: Client,
        connect: Connect,
        deployment: Deployment,
        session: aiohttp.ClientSession,
        speech_engine: StubSpeech,
    ) -> None:
        speech_engine.script.chunk_delay_s = SLOW_S
        neighbour = await new_tenant(deployment, session)
        running = [asyncio.ensure_future(client.ask(self.dialect.ask(TEXT))) for _ in range(SPEECH_SLOTS)]
        await eventually(lambda: speech_engine.running == SPEECH_SLOTS, 10, "all slots are taken")
        queued = asyncio.ensure_future(connect(key=neighbour.key).ask(self.dialect.ask("Never spoken.")))
        await eventually(lambda: deployment.messages_in("TTS") == SPEECH_SLOTS + 1, 10, "one more job is queued")
        queued.cancel()
        await asyncio.gather(queued, return_exceptions=True)
        await eventually(lambda: deployment.messages_in("TTS") == SPEECH_SLOTS, 5, "the queued job is removed")
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await neighbour.assert_no_usage()
        assert all("Never" not in call.text for call in speech_engine.calls)

    async def test_slow_reader_loses_nothing(self, connect: Connect, client: Client) -> None:
        text = " ".join([TEXT] * 4)
        async with slow_session() as slow, connect(via=slow).open(self.dialect.ask(text)) as answer:
            for _ in range(5):
                await answer.more()
                await asyncio.sleep(0.2)
            seen = self.heard(await answer.rest())
        assert (seen.complete, seen.error) == (True, None)
        assert seen.sound == await self.speech(client, text)

    async def test_edge_that_is_told_to_stop_finishes_what_it_can_and_shows_that_the_rest_is_not_whole(
        self, client: Client, connect: Connect, deployment: Deployment, tenant: Tenant, speech_engine: StubSpeech
    ) -> None:
        whole = await self.speech(client, LINE)
        edge = await asyncio.to_thread(deployment.add_edge, edge={"drain_timeout_s": 1.5})
        await asyncio.to_thread(edge.wait_ready)
        speech_engine.script.chunk_delay_s = SLOW_S
        async with asyncio.TaskGroup() as group, connect(edge).open(self.dialect.ask(" ".join([TEXT] * 3))) as answer:
            await answer.until(self.sounds(0.3))
            finished = group.create_task(self.speech(connect(edge), LINE))
            await eventually(lambda: any(call.text == LINE for call in speech_engine.calls), 5, "both are spoken")
            edge.running.signal(signal.SIGTERM)
            seen = self.heard(await answer.rest())
        assert finished.result() == whole
        self.check_failed(seen, ErrorCode.INTERRUPTED)
        assert await asyncio.to_thread(edge.running.wait) == 0
        events = await tenant.usage(3)
        (cancelled,) = [event for event in events if event.outcome == "cancelled"]
        assert cancelled.work.audio_ms >= sound_ms(seen.sound) >= 300

    def check_failed(self, seen: ParsedSpeech, code: ErrorCode) -> None:
        """Checks that speech ended with an error, or, where the protocol has no place for one, not whole."""
        if seen.error is None:
            assert not seen.complete
        else:
            assert seen.error.code == self.dialect.errors[code][1]
