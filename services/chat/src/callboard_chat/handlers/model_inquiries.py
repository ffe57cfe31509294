"""Answers what edges ask about the models of a pool: their tokens, and what they are."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

from nats.aio.msg import Msg
from pydantic import ValidationError

from callboard_chat.domain.models import ServedModel, refusal
from callboard_chat.domain.ports import ChatEngine
from callboard_chat.domain.prompt_rendering import rendered, turns
from callboard_chat.settings import PoolSettings
from callboard_contracts import subjects
from callboard_contracts.chat import ChatRequest
from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_contracts.model import Message
from callboard_contracts.prompt_size import prompt_bytes
from callboard_contracts.tokens import (
    MAX_TEXT_BYTES,
    DescribeModelReply,
    DescribeModelRequest,
    DetokenizeReply,
    DetokenizeRequest,
    TokenizeReply,
    TokenizeRequest,
)
from callboard_kit.background_tasks import BackgroundTasks
from callboard_kit.bus import Bus
from callboard_worker.engine import EngineError, EngineRefused

log = logging.getLogger(__name__)

AT_ONCE = 2
"""So many questions are worked on at once, since the engine has replies to write."""
MAX_WAITING = 64
TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 5.0
QUEUE_GROUP = "workers"
RETRY_AFTER_S = 1.0

Q = TypeVar("Q", TokenizeRequest, DetokenizeRequest, DescribeModelRequest)
A = TypeVar("A", TokenizeReply, DetokenizeReply, DescribeModelReply)


class ModelInquiries:
    """Answers from one engine, for the models of one pool; `max_reply_bytes` is how long an answer may be."""

    def __init__(self, engine: ChatEngine, pool: PoolSettings, max_reply_bytes: int) -> None:
        self._engine = engine
        self._models = pool.models
        self._max_reply_bytes = max_reply_bytes

    async def tokenize(self, request: TokenizeRequest) -> TokenizeReply:
        """The tokens of a text, or of a dialogue; raises EngineError."""
        model = self._model(request.model)
        is_dialogue = bool(request.messages)
        asked = ChatRequest(
            mode="chat" if is_dialogue else "completion",
            model=request.model,
            messages=request.messages,
            prompt=request.text,
            tools=request.tools,
            tool_choice=request.tool_choice,
            thinking=request.thinking,
            prompt_format=request.prompt_format,
            turn_tags=request.turn_tags and not is_dialogue,
            max_output_tokens=1,
        )
        if prompt_bytes(asked) > MAX_TEXT_BYTES:
            raise _refused(ErrorCode.BODY_TOO_LARGE, f"The text is longer than {MAX_TEXT_BYTES} bytes.", "prompt")
        if refused := refusal(asked, self._models, self._engine.abilities):
            raise EngineRefused(refused)
        if any(message.images for message in request.messages):
            raise _refused(ErrorCode.UNSUPPORTED, "The tokens of pictures cannot be told.", "messages")
        shown = rendered(asked, model, self._engine).request
        shown = shown.model_copy(update={"model": model.engine_model})
        found = await self._engine.tokenize(shown, special=request.special or is_dialogue)
        return TokenizeReply(ids=found.ids, text=found.text)

    async def detokenize(self, request: DetokenizeRequest) -> DetokenizeReply:
        """The text of tokens; raises EngineError."""
        model = self._model(request.model)
        text = await self._engine.detokenize(model.engine_model, request.ids, special=request.special)
        return DetokenizeReply(text=text)

    async def describe(self, request: DescribeModelRequest) -> DescribeModelReply:
        """What a model is; raises EngineError."""
        model = self._model(request.model)
        told = await self._engine.describe(model.engine_model)
        written = turns(model.prompt_format, model, self._engine)
        context = min(model.context_tokens, told.context_tokens or model.context_tokens)
        return told.model_copy(
            update={"turn_texts": written.texts, "turn_format": written.format, "context_tokens": context}
        )

    async def answer(self, data: bytes, kind: type[Q], method: Callable[[Q], Awaitable[A]], reply: type[A]) -> bytes:
        """The answer to a message, whatever it holds."""
        try:
            request = kind.model_validate_json(data)
            async with asyncio.timeout(TIMEOUT_S):
                answer: Message = await method(request)
        except ValidationError:
            return self._failed(reply, _error(ErrorCode.INVALID_REQUEST, "The message is not of this kind."))
        except EngineError as error:
            return self._failed(reply, error.info)
        except TimeoutError:
            return self._failed(reply, _error(ErrorCode.ENGINE_UNAVAILABLE, "The engine did not answer in time."))
        except Exception as error:
            # One strange question must not end the answers to all others.
            log.warning("inquiry_failed", extra={"kind": kind.__name__, "error": type(error).__name__})
            return self._failed(reply, _error(ErrorCode.INTERNAL, "The worker failed on the question."))
        encoded = answer.compact()
        if len(encoded) <= self._max_reply_bytes:
            return encoded
        return self._failed(reply, _error(ErrorCode.BODY_TOO_LARGE, "The answer is too long for one message."))

    def _failed(self, reply: type[A], error: ErrorInfo) -> bytes:
        return reply(error=error).compact()

    def _model(self, name: str) -> ServedModel:
        if (model := self._models.get(name)) is not None:
            return model
        message = "This pool does not serve the model."
        raise EngineRefused(
            ErrorInfo(code=ErrorCode.UNKNOWN_MODEL, message=message, param="model", offered=tuple(sorted(self._models)))
        )


@asynccontextmanager
async def answering(bus: Bus, engine: ChatEngine, pool: PoolSettings) -> AsyncGenerator[None]:
    """Answers questions meant for any worker of the pool until the block is left.

    Raises:
        BusUnavailable: the connection has ended.
    """
    inquiries = ModelInquiries(engine, pool, bus.connection.max_payload)
    tasks = BackgroundTasks()
    slots = asyncio.Semaphore(AT_ONCE)

    async def work(message: Msg, answer: Callable[[bytes], Awaitable[bytes]]) -> None:
        async with slots:
            data = await answer(message.data)
        await bus.publish(message.reply, data)

    def on(answer: Callable[[bytes], Awaitable[bytes]], reply: type[A]) -> Callable[[Msg], Awaitable[None]]:
        async def arrived(message: Msg) -> None:
            if len(tasks) < MAX_WAITING:
                tasks.start(work(message, answer), "inquiry")
                return
            busy = _error(ErrorCode.QUEUE_FULL, "Too many questions are waiting.", retry_after_s=RETRY_AFTER_S)
            await bus.publish(message.reply, reply(error=busy).compact())

        return arrived

    tokenize = partial(inquiries.answer, kind=TokenizeRequest, method=inquiries.tokenize, reply=TokenizeReply)
    detokenize = partial(inquiries.answer, kind=DetokenizeRequest, method=inquiries.detokenize, reply=DetokenizeReply)
    describe = partial(inquiries.answer, kind=DescribeModelRequest, method=inquiries.describe, reply=DescribeModelReply)
    subscriptions = [
        await bus.subscribe(subjects.tokenize(pool.name), on(tokenize, TokenizeReply), QUEUE_GROUP),
        await bus.subscribe(subjects.detokenize(pool.name), on(detokenize, DetokenizeReply), QUEUE_GROUP),
        await bus.subscribe(subjects.describe_model(pool.name), on(describe, DescribeModelReply), QUEUE_GROUP),
    ]
    try:
        yield
    finally:
        for subscription in subscriptions:
            await bus.unsubscribe(subscription)
        await tasks.close(CLOSE_TIMEOUT_S)


def _error(code: ErrorCode, message: str, retry_after_s: float | None = None) -> ErrorInfo:
    return ErrorInfo(code=code, message=message, retry_after_s=retry_after_s)


def _refused(code: ErrorCode, message: str, param: str) -> EngineRefused:
    return EngineRefused(ErrorInfo(code=code, message=message, param=param))
