"""What every protocol for text must do."""

import asyncio

import aiohttp

from callboard_contracts.errors import ErrorCode
from tests.protocols.client import Client, slow_session
from tests.protocols.conftest import MAX_OUTPUT_TOKENS, MAX_QUEUED, UNSERVED
from tests.protocols.suite import Connect, check_error
from tests.protocols.tenants import Tenant, ask_admin, new_tenant
from tests.protocols.text_faults import TextFaultSuite
from tests.support.clients import script_text
from tests.support.deployment import Deployment, eventually
from tests.support.stub_chat import StubChat, numbered
from tests.support.stub_openai import Script


class TextSuite(TextFaultSuite):
    """Replies, whole and streamed, and everything that can happen to them."""

    async def test_streamed_text_is_the_whole_reply(
        self, client: Client, tenant: Tenant, chat_engine: StubChat
    ) -> None:
        family = ["\U0001f469", "\u200d", "\U0001f469", "\u200d", "\U0001f467"]
        tokens = ["Здрав", "ствуй", "те, ", *family, " e", "\u0301"]
        tokens += ["\n", "\n", "data: x\n\n", "\r\n", "\u2028", '"\\', "u00e9", "<b>", "~\n", "S", "STO", "S", "TO"]
        text = "".join(tokens)
        chat_engine.plays(Script(reply=[*tokens, "P", " never"], token_delay_s=0.01))
        whole, streamed = self.replies(await self.both(client, stops=["STOP"]))
        assert whole.text == streamed.text == text.removesuffix("STO")
        assert whole.reason == streamed.reason
        assert {event.outcome for event in await tenant.usage(2)} == {"stop"}

    async def test_request_without_a_model_gets_the_default(self, client: Client, chat_engine: StubChat) -> None:
        chat_engine.plays(numbered(3))
        assert {seen.text for seen in self.replies(await self.both(client, model=None))} == {script_text(3)}

    async def test_unknown_model_is_refused_and_costs_nothing(self, client: Client, tenant: Tenant) -> None:
        for answer in await self.both(client, model="nobody"):
            check_error(self.dialect, answer, ErrorCode.UNKNOWN_MODEL)
        await tenant.assert_no_usage()

    async def test_model_that_never_had_a_worker_is_refused_with_a_time_to_return(
        self, client: Client, tenant: Tenant
    ) -> None:
        for answer in await self.both(client, model=UNSERVED):
            check_error(self.dialect, answer, ErrorCode.NO_WORKER)
            assert int(answer.headers["Retry-After"]) >= 1
        await tenant.assert_no_usage()

    async def test_caller_over_a_limit_is_told_which_and_when_to_return(
        self, deployment: Deployment, session: aiohttp.ClientSession, connect: Connect, chat_engine: StubChat
    ) -> None:
        chat_engine.plays(Script(reply=["word "] * MAX_OUTPUT_TOKENS, at_once=True))
        tenant = await new_tenant(deployment, session, "small")
        client = connect(key=tenant.key)
        for served in (1, 2):
            answer = await client.ask(self.dialect.ask(stream=served == 2))
            if answer.status == 200:
                assert answer.headers["x-ratelimit-limit-tokens"] == "600"
                await tenant.usage(served)
        (before,) = await tenant.charged_units()
        for answer in await self.both(client):
            check_error(self.dialect, answer, ErrorCode.QUOTA_EXCEEDED)
            assert int(answer.headers["Retry-After"]) >= 1
            assert answer.headers["x-ratelimit-limit-tokens"] == "600"
            assert int(answer.headers["x-ratelimit-remaining-tokens"]) < 600
        await tenant.settles_at(before)
        assert before > 0

    async def test_request_larger_than_the_whole_limit_has_no_time_to_return(
        self, deployment: Deployment, session: aiohttp.ClientSession, connect: Connect
    ) -> None:
        tenant = await new_tenant(deployment, session, "tiny")
        for answer in await self.both(connect(key=tenant.key)):
            check_error(self.dialect, answer, ErrorCode.QUOTA_EXCEEDED)
            assert "Retry-After" not in answer.headers
        await tenant.assert_no_usage()

    async def test_full_queue_is_refused_with_a_time_to_return(
        self,
        client: Client,
        connect: Connect,
        tenant: Tenant,
        deployment: Deployment,
        session: aiohttp.ClientSession,
        chat_engine: StubChat,
    ) -> None:
        chat_engine.plays(numbered(40, delay_s=0.05))
        neighbour = await new_tenant(deployment, session)
        async with asyncio.TaskGroup() as group:
            waiting = [group.create_task(client.ask(self.dialect.ask(stream=True))) for _ in range(MAX_QUEUED)]
            await eventually(lambda: deployment.messages_in("CHAT") == MAX_QUEUED, 10, "the queue is full")
            for answer in await self.both(client):
                check_error(self.dialect, answer, ErrorCode.QUEUE_FULL)
                assert int(answer.headers["Retry-After"]) >= 1
            served = self.replies(await self.both(connect(key=neighbour.key), max_tokens=1))
            assert {seen.text for seen in served} == {script_text(1)}
        assert {self.dialect.read_stream(task.result().body).text for task in waiting} == {script_text(40)}
        await tenant.usage(MAX_QUEUED)

    async def test_slow_reader_loses_nothing_and_disturbs_nobody(
        self, connect: Connect, client: Client, tenant: Tenant, chat_engine: StubChat
    ) -> None:
        tokens = [f"{n:03}{'x' * (32_000 // self.dialect.copies)} " for n in range(MAX_OUTPUT_TOKENS)]
        chat_engine.plays(Script(reply=tokens, at_once=True))
        async with slow_session() as slow, connect(via=slow).open(self.dialect.ask(stream=True)) as answer:
            for _ in range(5):
                await answer.more()
                await asyncio.sleep(0.1)
            chat_engine.plays(numbered(20))
            assert {seen.text for seen in self.replies(await self.both(client))} == {script_text(20)}
            assert not self.dialect.read_stream(answer.data).complete
            seen = self.dialect.read_stream((await answer.rest()).body)
        assert seen.complete
        assert seen.text == "".join(tokens)
        tokens_charged = sorted(event.work.completion_tokens for event in await tenant.usage(3))
        assert tokens_charged == [20, 20, MAX_OUTPUT_TOKENS]

    async def test_stream_is_kept_alive_while_it_waits(self, client: Client, chat_engine: StubChat) -> None:
        chat_engine.plays(Script(reply=["At ", "last."], first_delay_s=1.2))
        async with client.open(self.dialect.ask(stream=True)) as answer:
            await answer.until(bool)
            assert self.dialect.kept_alive(answer.data, 1)
            seen = self.dialect.read_stream((await answer.rest()).body)
        assert (seen.text, seen.complete) == ("At last.", True)
        assert self.dialect.kept_alive(answer.data, 2)

    async def test_usage_is_settled_once_however_a_reply_ends(
        self,
        client: Client,
        deployment: Deployment,
        session: aiohttp.ClientSession,
        tenant: Tenant,
        chat_engine: StubChat,
    ) -> None:
        chat_engine.plays(numbered(20))
        stopped = self.replies(await self.both(client))
        cut_short = self.replies(await self.both(client, max_tokens=5))
        assert {seen.text for seen in stopped} == {script_text(20)}
        assert {seen.text for seen in cut_short} == {script_text(5)}
        assert not {seen.reason for seen in stopped} & {seen.reason for seen in cut_short}
        chat_engine.plays(Script(reply=[f"w{n} " for n in range(40)], error_at=4))
        await self.both(client)
        chat_engine.plays(numbered(240, delay_s=0.05))
        leaving = asyncio.ensure_future(self.both(client))
        await eventually(lambda: chat_engine.active == 2, 10, "both replies are being written")
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        events = await tenant.usage(8)
        tokens = {(event.outcome, event.work.completion_tokens) for event in events if event.outcome != "cancelled"}
        assert tokens == {("stop", 20), ("length", 5), ("error", 4)}
        assert [event.outcome for event in events].count("cancelled") == 2
        report = await ask_admin(deployment, session, "/usage/verify", {"since": "1h"})
        assert report["drift_count"] == 0, report
