"""What every protocol with embeddings must do."""

import asyncio
import statistics
import time

import aiohttp

from callboard_contracts.errors import ErrorCode
from tests.protocols.client import Client
from tests.protocols.conftest import MAX_QUEUED, NARROW, UNSERVED
from tests.protocols.dialect import EmbeddingDialect
from tests.protocols.suite import STOP_BOUND_S, Connect, RequestSuite, check_error
from tests.protocols.tenants import Tenant, new_tenant
from tests.support.deployment import Deployment, eventually
from tests.support.stub_chat import StubChat
from tests.support.stub_openai import Script, word_vector

TEXTS = tuple(f"The owl of line {n} sat on a fence." for n in range(20))


class EmbeddingSuite(RequestSuite[EmbeddingDialect]):
    """Embeddings, and everything that can happen to them."""

    async def test_vectors_are_in_their_order_and_charged_once_by_their_tokens(
        self, client: Client, tenant: Tenant, chat_engine: StubChat
    ) -> None:
        answer = await client.ask(self.dialect.ask(*TEXTS))
        assert answer.status == 200, answer.body[:500]
        assert [list(vector) for vector in self.dialect.read_vectors(answer.body)] == [word_vector(t) for t in TEXTS]
        (event,) = await tenant.usage(1)
        assert (event.kind, event.outcome, event.work.completion_tokens) == ("embedding", "stop", 0)
        assert event.work.prompt_tokens == sum(len(text.split()) for text in TEXTS)
        assert [text for call in chat_engine.calls for text in call["input"]] == list(TEXTS)

    async def test_one_text_is_one_vector(self, client: Client) -> None:
        answer = await client.ask(self.dialect.ask("Hello."))
        assert [list(vector) for vector in self.dialect.read_vectors(answer.body)] == [word_vector("Hello.")]

    async def test_unknown_model_is_refused_and_costs_nothing(
        self, client: Client, tenant: Tenant, chat_engine: StubChat
    ) -> None:
        check_error(self.dialect, await client.ask(self.dialect.ask("x", model="nobody")), ErrorCode.UNKNOWN_MODEL)
        check_error(self.dialect, await client.ask(self.dialect.ask("x", model=UNSERVED)), ErrorCode.UNKNOWN_MODEL)
        await tenant.assert_no_usage()
        assert chat_engine.calls == []

    async def test_text_over_the_context_is_refused_and_costs_nothing(
        self, client: Client, tenant: Tenant, chat_engine: StubChat
    ) -> None:
        chat_engine.plays(Script(context_tokens=10))
        answer = await client.ask(self.dialect.ask(*TEXTS, "word " * 20))
        check_error(self.dialect, answer, ErrorCode.CONTEXT_LENGTH_EXCEEDED)
        (event,) = await tenant.usage(1)
        assert (event.outcome, event.work.prompt_tokens) == ("error", 0)

    async def test_engine_that_fails_is_an_error_and_costs_nothing(
        self, client: Client, tenant: Tenant, chat_engine: StubChat
    ) -> None:
        chat_engine.plays(Script(fail_status=404, fail_times=1))
        check_error(self.dialect, await client.ask(self.dialect.ask("x")), ErrorCode.ENGINE_FAILED)
        (event,) = await tenant.usage(1)
        assert (event.outcome, event.work.prompt_tokens) == ("error", 0)

    async def test_engine_that_is_away_for_a_moment_is_asked_again(
        self, client: Client, tenant: Tenant, chat_engine: StubChat
    ) -> None:
        chat_engine.plays(Script(fail_status=503, fail_times=2))
        assert (await client.ask(self.dialect.ask("Hello."))).status == 200
        assert len(await tenant.usage(1)) == 1

    async def test_caller_over_a_limit_is_told_so(
        self, deployment: Deployment, session: aiohttp.ClientSession, connect: Connect
    ) -> None:
        tenant = await new_tenant(deployment, session, "tiny")
        client = connect(key=tenant.key)
        # More tokens than their bytes let expect, so that the worker has more held.
        assert (await client.ask(self.dialect.ask("a " * 150))).status == 200
        (event,) = await tenant.usage(1)
        assert event.work.prompt_tokens == 150
        answer = await client.ask(self.dialect.ask("a " * 150))
        check_error(self.dialect, answer, ErrorCode.QUOTA_EXCEEDED)
        assert int(answer.headers["Retry-After"]) > 0

    async def test_texts_that_turn_out_to_be_over_a_limit_are_refused_and_cost_nothing(
        self, deployment: Deployment, session: aiohttp.ClientSession, connect: Connect
    ) -> None:
        tenant = await new_tenant(deployment, session, "tiny")
        answer = await connect(key=tenant.key).ask(self.dialect.ask("a " * 210))
        check_error(self.dialect, answer, ErrorCode.QUOTA_EXCEEDED)
        (event,) = await tenant.usage(1)
        assert (event.outcome, event.work.prompt_tokens) == ("error", 0)

    async def test_too_many_waiting_requests_are_refused(
        self, client: Client, tenant: Tenant, chat_engine: StubChat
    ) -> None:
        chat_engine.plays(Script(first_delay_s=1.0))
        asked = [client.ask(self.dialect.ask("Hello.", model=NARROW)) for _ in range(MAX_QUEUED + 2)]
        answers = await asyncio.gather(*asked)
        refused = [answer for answer in answers if answer.status != 200]
        assert len(refused) == 2
        for answer in refused:
            check_error(self.dialect, answer, ErrorCode.QUEUE_FULL)
        assert len(await tenant.usage(MAX_QUEUED)) == MAX_QUEUED

    async def test_client_that_leaves_stops_the_engine_at_once(self, client: Client, chat_engine: StubChat) -> None:
        chat_engine.plays(Script(first_delay_s=30))
        delays: list[float] = []
        for number in range(1, 4):
            asked = asyncio.ensure_future(client.ask(self.dialect.ask("Hello.")))
            await eventually(lambda: chat_engine.active == 1, 20, "the engine works")
            left_at = time.time()
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
            await eventually(lambda number=number: chat_engine.stub.left_early == number, 20, "the engine is stopped")
            delays.append(chat_engine.left_at - left_at)
        assert statistics.median(delays) <= STOP_BOUND_S
