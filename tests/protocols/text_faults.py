"""What a protocol for text must do when its engine fails, its client leaves or its edge stops."""

import asyncio
import signal
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace

import aiohttp
import pytest

from callboard_contracts.errors import ErrorCode
from tests.protocols.client import Answer, Client
from tests.protocols.conftest import NARROW
from tests.protocols.cut_suite import CutSuite
from tests.protocols.dialect import ParsedReply
from tests.protocols.suite import SHORT_DEADLINE, STOP_BOUND_S, Connect, check_error, check_failed
from tests.protocols.tenants import Tenant, new_tenant
from tests.support.clients import script_text
from tests.support.deployment import Deployment, eventually
from tests.support.stub_chat import StubChat, numbered
from tests.support.stub_openai import Script


class TextFaultSuite(CutSuite):
    """Replies that do not come to their end."""

    async def both(self, client: Client, **asked: object) -> tuple[Answer, Answer]:
        """Asks for the same reply whole and streamed, at once, and returns the two answers in that order."""
        return await asyncio.gather(
            client.ask(self.dialect.ask(stream=False, **asked)),  # pyright: ignore[reportArgumentType]
            client.ask(self.dialect.ask(stream=True, **asked)),  # pyright: ignore[reportArgumentType]
        )

    def replies(self, answers: Sequence[Answer]) -> tuple[ParsedReply, ParsedReply]:
        """Reads a whole and a streamed reply that are expected to be complete."""
        assert [answer.status for answer in answers] == [200, 200], answers
        whole, streamed = self.dialect.read_whole(answers[0].body), self.dialect.read_stream(answers[1].body)
        for seen in (whole, streamed):
            assert (seen.complete, seen.error) == (True, None), seen
        return whole, streamed

    def check_errors(self, answers: Sequence[Answer], *codes: ErrorCode) -> None:
        """Checks that a whole and a streamed answer are errors that came before any text.

        A stream that had to wait may have been kept alive, and so begun, before its error.
        """
        whole, streamed = answers
        check_error(self.dialect, whole, *codes)
        if streamed.status == 200:
            seen = self.dialect.read_stream(streamed.body)
            assert (streamed.cut, seen.text) == (False, "")
            check_failed(self.dialect, seen, *codes)
        else:
            check_error(self.dialect, streamed, *codes)

    @pytest.mark.parametrize(
        ("script", "code"),
        [
            (Script(fail_status=400, fail_times=100), ErrorCode.INVALID_REQUEST),
            (Script(error_at=0), ErrorCode.ENGINE_FAILED),
        ],
        ids=["refused", "failed"],
    )
    async def test_engine_that_fails_before_the_first_token_is_an_error_that_costs_nothing(
        self, script: Script, code: ErrorCode, client: Client, tenant: Tenant, chat_engine: StubChat
    ) -> None:
        chat_engine.plays(replace(script))
        self.check_errors(await self.both(client), code)
        assert {event.outcome for event in await tenant.usage(2)} == {"error"}
        assert await tenant.charged_units() == {0}

    async def test_engine_that_fails_in_the_middle_is_an_error_and_what_was_sent_is_charged(
        self, client: Client, tenant: Tenant, chat_engine: StubChat
    ) -> None:
        chat_engine.plays(Script(reply=[f"w{n} " for n in range(40)], error_at=10, token_delay_s=0.01))
        whole, streamed = await self.both(client)
        check_error(self.dialect, whole, ErrorCode.ENGINE_FAILED)
        seen = self.dialect.read_stream(streamed.body)
        assert (streamed.status, streamed.cut, seen.text) == (200, False, script_text(10))
        check_failed(self.dialect, seen, ErrorCode.ENGINE_FAILED)
        events = await tenant.usage(2)
        assert {(event.outcome, event.work.completion_tokens) for event in events} == {("error", 10)}

    async def test_engine_that_is_down_is_an_error_that_costs_nothing(
        self, connect: Connect, tenant: Tenant, chat_engine: StubChat
    ) -> None:
        await asyncio.to_thread(chat_engine.pause)
        try:
            answers = await self.both(connect(SHORT_DEADLINE))
        finally:
            await asyncio.to_thread(chat_engine.start)
        assert answers[1].status == 200
        self.check_errors(answers, ErrorCode.ENGINE_UNAVAILABLE, ErrorCode.DEADLINE_EXCEEDED)
        assert {event.outcome for event in await tenant.usage(2)} == {"error"}
        assert await tenant.charged_units() == {0}

    async def test_engine_that_goes_down_in_the_middle_is_an_error_and_what_was_sent_is_charged(
        self, connect: Connect, tenant: Tenant, chat_engine: StubChat
    ) -> None:
        client = connect(SHORT_DEADLINE)
        chat_engine.plays(numbered(200, delay_s=0.02))
        async with asyncio.TaskGroup() as group, client.open(self.dialect.ask(stream=True)) as answer:
            whole = group.create_task(client.ask(self.dialect.ask(stream=False)))
            await answer.until(self.words(10))
            await eventually(lambda: chat_engine.active == 2, 5, "both replies are being written")
            await asyncio.to_thread(chat_engine.pause)
            try:
                seen = self.dialect.read_stream((await answer.rest()).body)
                await whole
            finally:
                await asyncio.to_thread(chat_engine.start)
        codes = (ErrorCode.ENGINE_UNAVAILABLE, ErrorCode.ENGINE_FAILED, ErrorCode.DEADLINE_EXCEEDED)
        check_failed(self.dialect, seen, *codes)
        check_error(self.dialect, whole.result(), *codes)
        assert script_text(200).startswith(seen.text)
        events = await tenant.usage(2)
        assert {event.outcome for event in events} == {"error"}
        assert max(event.work.completion_tokens for event in events) >= seen.text.count(" ") >= 10

    async def test_client_that_leaves_stops_the_engine_and_pays_for_what_was_sent(
        self, client: Client, tenant: Tenant, chat_engine: StubChat
    ) -> None:
        chat_engine.plays(numbered(240, delay_s=0.02))
        took_s: list[float] = []
        for _ in range(3):
            chat_engine.stub.last_left_at = 0.0
            async with client.open(self.dialect.ask(model=NARROW, stream=True)) as answer:
                await answer.until(self.words(10))
                answer.leave()
                left_at = time.time()
            await eventually(lambda: chat_engine.left_at > 0, 10, "the engine sees its client go")
            took_s.append(chat_engine.left_at - left_at)
        # The middle of three keeps a neighbour's burst of load out of the figure.
        assert statistics.median(took_s) <= STOP_BOUND_S, took_s
        events = await tenant.usage(3)
        assert {event.outcome for event in events} == {"cancelled"}
        assert all(10 <= event.work.completion_tokens < 200 for event in events), events
        # The one slot is free again.
        chat_engine.plays(numbered(3))
        assert {seen.text for seen in self.replies(await self.both(client, model=NARROW))} == {script_text(3)}

    async def test_client_that_leaves_a_whole_reply_stops_the_engine_too(
        self, client: Client, tenant: Tenant, chat_engine: StubChat
    ) -> None:
        chat_engine.plays(numbered(240, delay_s=0.02))
        asking = asyncio.ensure_future(client.ask(self.dialect.ask(model=NARROW)))
        await eventually(lambda: chat_engine.active == 1, 10, "the reply is being written")
        await asyncio.sleep(0.3)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await eventually(lambda: chat_engine.left_at > 0, 3, "the engine sees its client go")
        (event,) = await tenant.usage(1)
        assert event.outcome == "cancelled"
        assert 1 <= event.work.completion_tokens < 240

    async def test_client_that_leaves_the_queue_is_never_served_and_pays_nothing(
        self,
        client: Client,
        connect: Connect,
        deployment: Deployment,
        session: aiohttp.ClientSession,
        chat_engine: StubChat,
    ) -> None:
        chat_engine.plays(numbered(240, delay_s=0.05))
        neighbour = await new_tenant(deployment, session)
        async with client.open(self.dialect.ask(model=NARROW, stream=True)) as running:
            await running.until(self.words(3))
            queued = asyncio.ensure_future(self.both(connect(key=neighbour.key), model=NARROW))
            await eventually(lambda: deployment.messages_in("CHAT") == 3, 10, "both jobs are queued")
            queued.cancel()
            await asyncio.gather(queued, return_exceptions=True)
            await eventually(lambda: deployment.messages_in("CHAT") == 1, 5, "both jobs are removed")
            await neighbour.assert_no_usage()
            running.leave()
        assert len(chat_engine.calls) == 1

    async def test_edge_that_is_told_to_stop_finishes_what_it_can_and_ends_the_rest_with_an_error(
        self,
        connect: Connect,
        deployment: Deployment,
        session: aiohttp.ClientSession,
        tenant: Tenant,
        chat_engine: StubChat,
    ) -> None:
        edge = await asyncio.to_thread(deployment.add_edge, edge={"drain_timeout_s": 2})
        await asyncio.to_thread(edge.wait_ready)
        neighbour = await new_tenant(deployment, session)
        short, long = connect(edge), connect(edge, neighbour.key)
        async with asyncio.TaskGroup() as group:
            chat_engine.plays(numbered(30, delay_s=0.03))
            finished = group.create_task(self.both(short))
            await eventually(lambda: chat_engine.active == 2, 5, "the short replies are being written")
            chat_engine.plays(numbered(240, delay_s=0.05))
            whole = group.create_task(long.ask(self.dialect.ask(stream=False)))
            async with long.open(self.dialect.ask(stream=True)) as answer:
                await answer.until(self.words(3))
                await eventually(lambda: len(chat_engine.calls) == 4, 5, "all replies are being written")
                edge.running.signal(signal.SIGTERM)
                streamed = await answer.rest()
        assert {seen.text for seen in self.replies(finished.result())} == {script_text(30)}
        assert {event.outcome for event in await tenant.usage(2)} == {"stop"}
        check_error(self.dialect, whole.result(), ErrorCode.INTERRUPTED)
        seen = self.dialect.read_stream(streamed.body)
        assert not streamed.cut
        check_failed(self.dialect, seen, ErrorCode.INTERRUPTED)
        assert script_text(240).startswith(seen.text)
        assert await asyncio.to_thread(edge.running.wait) == 0
        events = await neighbour.usage(2)
        assert {event.outcome for event in events} == {"cancelled"}
        assert max(event.work.completion_tokens for event in events) >= seen.text.count(" ") >= 3
