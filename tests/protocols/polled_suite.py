"""What every protocol with polled jobs must do: state, text so far, result and cancellation, from any edge."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from callboard_contracts.errors import ErrorCode
from tests.protocols.client import Client
from tests.protocols.conftest import EDGE_MODULE, MAX_QUEUED, NARROW, UNSERVED, config
from tests.protocols.dialect import ParsedJob, PolledDialect
from tests.protocols.suite import SHORT_DEADLINE, Connect, RequestSuite, check_error, url_of
from tests.protocols.tenants import Tenant, new_tenant
from tests.support.clients import script_text
from tests.support.deployment import Deployment, eventually
from tests.support.stub_chat import StubChat, numbered
from tests.support.stub_openai import Script

POLL_INTERVAL_S = 0.1
END_TIMEOUT_S = 30.0


class PolledSuite(RequestSuite[PolledDialect]):
    """Jobs that nobody listens to."""

    async def submitted(self, client: Client, **asked: object) -> str:
        """Submits a job that is expected to be accepted, and returns its id."""
        answer = await client.ask(self.dialect.submit(**asked))  # pyright: ignore[reportArgumentType]
        assert answer.status < 300, answer
        return self.dialect.read_id(answer.body)

    async def job(self, client: Client, job_id: str) -> ParsedJob:
        """The job as it stands."""
        answer = await client.ask(self.dialect.poll(job_id))
        assert answer.status == 200, answer
        return self.dialect.read_job(answer.body)

    async def reaches(self, client: Client, job_id: str, condition: Callable[[ParsedJob], object]) -> ParsedJob:
        """Polls until a job satisfies a condition; its text must only grow."""
        text = ""
        async with asyncio.timeout(END_TIMEOUT_S):
            while True:
                seen = await self.job(client, job_id)
                assert seen.text.startswith(text), (text, seen)
                text = seen.text
                if condition(seen):
                    return seen
                await asyncio.sleep(POLL_INTERVAL_S)

    async def ended(self, client: Client, job_id: str) -> ParsedJob:
        """Polls until a job has ended."""
        return await self.reaches(client, job_id, lambda seen: seen.reason is not None)

    async def under_way(self, client: Client, job_id: str) -> ParsedJob:
        """Polls until a worker has written some of a job's text."""
        return await self.reaches(client, job_id, lambda seen: seen.text.count(" ") >= 5)

    async def check_job_failed(self, client: Client, job_id: str, code: ErrorCode) -> None:
        """Checks that a job shows an error in the place of its result."""
        check_error(self.dialect, await client.ask(self.dialect.poll(job_id)), code)

    @asynccontextmanager
    async def busy(self, client: Client, chat_engine: StubChat) -> AsyncGenerator[None]:
        """Keeps the one slot of the narrow pool busy."""
        job_id = await self.submitted(client, model=NARROW)
        await eventually(lambda: chat_engine.active == 1, 10, "the slot is taken")
        yield
        await client.ask(self.dialect.cancel(job_id))

    async def test_text_grows_and_the_result_stays_whatever_becomes_of_its_edge(
        self, connect: Connect, deployment: Deployment, client: Client, tenant: Tenant, chat_engine: StubChat
    ) -> None:
        edge = await asyncio.to_thread(deployment.add_edge)
        await asyncio.to_thread(edge.wait_ready)
        # Longer than workers wait for an edge that has fallen silent, which must not matter here.
        chat_engine.plays(numbered(90, delay_s=0.05))
        job_id = await self.submitted(connect(edge))
        seen = await self.under_way(client, job_id)
        assert seen.reason is None
        assert script_text(90).startswith(seen.text)
        (queued,) = await deployment.read("CHAT")
        assert queued.subject.split(".")[3:] == ["batch", tenant.id]
        await asyncio.to_thread(edge.running.kill)
        seen = await self.ended(client, job_id)
        assert seen.text == script_text(90)
        assert await self.job(connect(SHORT_DEADLINE), job_id) == seen
        (event,) = await tenant.usage(1)
        assert (event.outcome, event.work.completion_tokens) == ("stop", 90)
        # There is nothing left to cancel.
        assert (await client.ask(self.dialect.cancel(job_id))).status < 300
        assert await self.job(client, job_id) == seen
        await tenant.usage(1)

    async def test_job_that_is_cancelled_in_the_queue_is_never_served_and_costs_nothing(
        self,
        client: Client,
        connect: Connect,
        deployment: Deployment,
        session: aiohttp.ClientSession,
        chat_engine: StubChat,
    ) -> None:
        chat_engine.plays(numbered(200, delay_s=0.05))
        neighbour = await new_tenant(deployment, session)
        async with self.busy(client, chat_engine):
            waiting = connect(key=neighbour.key)
            job_id = await self.submitted(waiting, model=NARROW)
            assert await self.job(waiting, job_id) == ParsedJob("")
            assert (await waiting.ask(self.dialect.cancel(job_id))).status < 300
            await eventually(lambda: deployment.messages_in("CHAT") == 1, 5, "the job is removed")
            seen = await self.ended(waiting, job_id)
            assert seen.text == ""
        await neighbour.assert_no_usage()
        assert len(chat_engine.calls) == 1

    async def test_job_that_is_cancelled_while_it_runs_keeps_its_text_and_pays_for_it(
        self, client: Client, connect: Connect, tenant: Tenant, chat_engine: StubChat
    ) -> None:
        chat_engine.plays(numbered(200, delay_s=0.05))
        job_id = await self.submitted(client, model=NARROW)
        await self.under_way(client, job_id)
        # Any edge can do it.
        assert (await connect(SHORT_DEADLINE).ask(self.dialect.cancel(job_id))).status < 300
        await eventually(lambda: chat_engine.left_at > 0, 5, "the engine is stopped")
        seen = await self.ended(client, job_id)
        assert 5 <= seen.text.count(" ") < 200
        assert script_text(200).startswith(seen.text)
        (event,) = await tenant.usage(1)
        assert (event.outcome, event.work.completion_tokens) == ("cancelled", seen.text.count(" "))

    @pytest.mark.parametrize("job_id", ["0123456789abcdef", "a.b", "*", "%3E", "x" * 200])
    async def test_unknown_job_is_not_found(self, job_id: str, client: Client) -> None:
        for request in (self.dialect.poll(job_id), self.dialect.cancel(job_id)):
            check_error(self.dialect, await client.ask(request), ErrorCode.NOT_FOUND)

    @pytest.mark.parametrize(("model", "code"), [("nobody", ErrorCode.UNKNOWN_MODEL), (UNSERVED, ErrorCode.NO_WORKER)])
    async def test_model_that_cannot_answer_is_refused_and_costs_nothing(
        self, model: str, code: ErrorCode, client: Client, tenant: Tenant
    ) -> None:
        check_error(self.dialect, await client.ask(self.dialect.submit(model=model)), code)
        await tenant.assert_no_usage()

    async def test_caller_over_a_limit_is_refused(
        self, deployment: Deployment, session: aiohttp.ClientSession, connect: Connect
    ) -> None:
        tenant = await new_tenant(deployment, session, "tiny")
        answer = await connect(key=tenant.key).ask(self.dialect.submit())
        check_error(self.dialect, answer, ErrorCode.QUOTA_EXCEEDED)
        assert answer.headers["x-ratelimit-limit-tokens"] == "200"
        await tenant.assert_no_usage()

    async def test_full_queue_is_refused_with_a_time_to_return(
        self, client: Client, tenant: Tenant, chat_engine: StubChat
    ) -> None:
        chat_engine.plays(numbered(20, delay_s=0.05))
        jobs = [await self.submitted(client) for _ in range(MAX_QUEUED)]
        answer = await client.ask(self.dialect.submit())
        check_error(self.dialect, answer, ErrorCode.QUEUE_FULL)
        assert int(answer.headers["Retry-After"]) >= 1
        assert {(await self.ended(client, job_id)).text for job_id in jobs} == {script_text(20)}
        await tenant.usage(MAX_QUEUED)

    async def test_engine_that_fails_is_the_error_of_the_job(
        self, client: Client, tenant: Tenant, chat_engine: StubChat
    ) -> None:
        chat_engine.plays(Script(error_at=0))
        job_id = await self.submitted(client)
        (event,) = await tenant.usage(1)
        assert (event.outcome, event.work.completion_tokens) == ("error", 0)
        for _ in range(2):
            await self.check_job_failed(client, job_id, ErrorCode.ENGINE_FAILED)

    async def test_restart_of_the_bus_loses_nothing(
        self, tmp_path: Path, chat_engine: StubChat, session: aiohttp.ClientSession
    ) -> None:
        """A job that is done, one that runs and one that waits."""
        table = config(chat_engine.url, chat_engine.url)
        deployment = Deployment(tmp_path / "deployment", table, edge_module=EDGE_MODULE, forked=True)
        try:
            await asyncio.to_thread(deployment.start, chats=0, speakers=0)
            worker = await asyncio.to_thread(deployment.add_chat, "narrow")
            await asyncio.to_thread(worker.wait_ready)
            tenant = await new_tenant(deployment, session)
            client = Client(session, url_of(deployment.edges[0]), self.dialect, tenant.key)
            chat_engine.plays(numbered(3))
            done = await self.submitted(client, model=NARROW)
            result = await self.ended(client, done)
            chat_engine.plays(numbered(60, delay_s=0.05))
            running = await self.submitted(client, model=NARROW)
            await eventually(lambda: chat_engine.active == 1, 10, "the job runs")
            chat_engine.plays(numbered(5))
            waiting = await self.submitted(client, model=NARROW)
            await asyncio.to_thread(deployment.nats.kill)
            await asyncio.to_thread(deployment.nats.start)
            await eventually(lambda: deployment.edges[0].ready_reason() is None, 20, "the edge is back on the bus")
            assert (await self.ended(client, running)).text == script_text(60)
            assert (await self.ended(client, waiting)).text == script_text(5)
            assert await self.job(client, done) == result
            assert [event.outcome for event in await tenant.usage(3)] == ["stop"] * 3
            await asyncio.to_thread(deployment.stop)
        finally:
            await asyncio.to_thread(deployment.abandon)
