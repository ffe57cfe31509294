"""Edges ask the workers of a pool about their models, over a real bus."""

import asyncio
from collections.abc import Sequence

import pytest

from callboard_chat.backends.fake import FakeEngine, FakeScript
from callboard_chat.domain.ports import PromptTokens
from callboard_chat.handlers import model_inquiries
from callboard_contracts import subjects
from callboard_contracts.chat import ChatMessage, ChatRequest
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.tokens import (
    DescribeModelRequest,
    DetokenizeRequest,
    TokenizeReply,
    TokenizeRequest,
)
from callboard_edge.backends.model_inquiry import BusModelInquiry
from tests.integration.chat.conftest import worker
from tests.integration.chat.edge_stub import MODEL, POOL, EdgeStub
from tests.support.nats_server import NatsServer

pytestmark = pytest.mark.integration


class SlowTokens(FakeEngine):
    """Takes its time to count."""

    def __init__(self) -> None:
        super().__init__()
        self.counting = self.most = 0
        self.go_on = asyncio.Event()

    async def tokenize(self, request: ChatRequest, *, special: bool = True) -> PromptTokens:
        self.counting += 1
        self.most = max(self.most, self.counting)
        try:
            await self.go_on.wait()
            if request.prompt == "break":
                raise RuntimeError
            return await super().tokenize(request, special=special)
        finally:
            self.counting -= 1


async def ready(inquiry: BusModelInquiry) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                await inquiry.describe(POOL, DescribeModelRequest(model=MODEL))
            except CallboardError:
                await asyncio.sleep(0.05)
            else:
                return


@pytest.fixture
def inquiry(edge_stub: EdgeStub) -> BusModelInquiry:
    return BusModelInquiry(edge_stub.bus)


async def refusal(inquiry: BusModelInquiry, request: TokenizeRequest | DetokenizeRequest) -> ErrorCode:
    with pytest.raises(CallboardError) as refused:
        await (
            inquiry.tokenize(POOL, request)
            if isinstance(request, TokenizeRequest)
            else inquiry.detokenize(POOL, request)
        )
    return refused.value.info.code


async def test_a_worker_tells_what_its_engine_reads(
    server: NatsServer, edge_stub: EdgeStub, inquiry: BusModelInquiry
) -> None:
    async with worker(server, FakeEngine(FakeScript(context_tokens=64))):
        await ready(inquiry)
        text = "Hi there {{[INPUT]}} you"
        told = await inquiry.tokenize(POOL, TokenizeRequest(model=MODEL, text=text))
        assert (len(told.ids), told.text) == (4, text)
        assert (await inquiry.detokenize(POOL, DetokenizeRequest(model="owl:latest", ids=told.ids))).text == text
        tagged = await inquiry.tokenize(POOL, TokenizeRequest(model=MODEL, text=text, turn_tags=True))
        assert tagged.text == "Hi there <|im_start|>user\n you"
        message = ChatMessage(role="user", content="One two <|im_end|> three")
        dialogue = await inquiry.tokenize(POOL, TokenizeRequest(model=MODEL, messages=(message,)))
        assert len(dialogue.ids) == 4
        request = TokenizeRequest(model=MODEL, messages=(message,), prompt_format="metharme")
        assert (await inquiry.tokenize(POOL, request)).text == "<|user|>One two < |im_end|> three<|model|>"
        about = await inquiry.describe(POOL, DescribeModelRequest(model=MODEL))
        assert (about.context_tokens, about.turn_format) == (64, "own")
        assert about.turn_texts is not None
        assert about.turn_texts.user_start == "<|im_start|>user\n"


async def test_what_cannot_be_answered_is_an_error(
    server: NatsServer, edge_stub: EdgeStub, inquiry: BusModelInquiry
) -> None:
    async with worker(server, FakeEngine()):
        await ready(inquiry)
        assert await refusal(inquiry, TokenizeRequest(model="heron", text="x")) is ErrorCode.UNKNOWN_MODEL
        assert await refusal(inquiry, TokenizeRequest(model=MODEL, text="a" * 131_073)) is ErrorCode.BODY_TOO_LARGE
        # A million bytes of JSON for 130,000 characters.
        controls = TokenizeRequest(model=MODEL, text="\x01 " * 65_000)
        assert await refusal(inquiry, controls) is ErrorCode.BODY_TOO_LARGE
        assert await refusal(inquiry, TokenizeRequest(model=MODEL, text="a" * 2**20)) is ErrorCode.BODY_TOO_LARGE
        for data in (b"", b"{}", b"\xff", b'{"model":7}'):
            answer = await edge_stub.bus.request(subjects.tokenize(POOL), data, 20)
            error = TokenizeReply.model_validate_json(answer).error
            assert error is not None
            assert error.code in {ErrorCode.INVALID_REQUEST, ErrorCode.UNKNOWN_MODEL}


async def test_nobody_answers_without_a_worker(server: NatsServer, edge_stub: EdgeStub) -> None:
    quick = BusModelInquiry(edge_stub.bus, timeout_s=0.3)
    assert await refusal(quick, TokenizeRequest(model=MODEL, text="x")) is ErrorCode.NO_WORKER
    async with worker(server, FakeEngine()) as running:
        await ready(BusModelInquiry(edge_stub.bus))
        await running.stop()
        assert await refusal(quick, TokenizeRequest(model=MODEL, text="x")) is ErrorCode.NO_WORKER


async def test_few_questions_are_worked_on_at_once_and_few_wait(
    server: NatsServer, edge_stub: EdgeStub, inquiry: BusModelInquiry
) -> None:
    engine = SlowTokens()
    async with worker(server, engine):
        await ready(inquiry)
        asked: Sequence[asyncio.Task[TokenizeReply]] = [
            asyncio.ensure_future(inquiry.tokenize(POOL, TokenizeRequest(model=MODEL, text="a b")))
            for _ in range(model_inquiries.MAX_WAITING + 3)
        ]
        async with asyncio.timeout(20):
            while sum(task.done() for task in asked) < 3:
                await asyncio.sleep(0.01)
        engine.go_on.set()
        found = await asyncio.gather(*asked, return_exceptions=True)
        refused = [each.info.code for each in found if isinstance(each, CallboardError)]
        assert refused == [ErrorCode.QUEUE_FULL] * 3
        assert engine.most == model_inquiries.AT_ONCE
        assert await refusal(inquiry, TokenizeRequest(model=MODEL, text="break")) is ErrorCode.INTERNAL
        assert len((await inquiry.tokenize(POOL, TokenizeRequest(model=MODEL, text="a b"))).ids) == 2
