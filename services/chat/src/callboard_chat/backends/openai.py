"""Any server that speaks OpenAI's protocol.

The `openai` package turns the settings into an address and credentials and asks whether the server is there. Replies
are streamed without it: its request builder, transport and typed stream cost 0.7 ms for every reply, as much as all the
rest of a worker.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, Sequence, Set
from typing import Literal

from openai import AsyncOpenAI, DefaultAsyncHttpxClient, OpenAIError, Timeout
from pydantic_core import to_json

from callboard_chat.backends.engine_http import EngineConnection, EngineHttp
from callboard_chat.backends.openai_replies import EventReader, ReplyReader
from callboard_chat.backends.openai_wire import Json, embedding_refused, read_vectors, refused, request_body
from callboard_chat.backends.sampling import given, names
from callboard_chat.domain.control_tokens import ControlTokens
from callboard_chat.domain.embedding import embed_cut
from callboard_chat.domain.models import no_tokens
from callboard_chat.domain.ports import Chunk, Continuation, Embedded, PromptTokens
from callboard_chat.domain.prefill import cannot_continue
from callboard_chat.domain.prompt_formats import OwnTurns, fallback_turns
from callboard_contracts.chat import ChatRequest, Thinking
from callboard_contracts.errors import ErrorCode
from callboard_contracts.tokens import DescribeModelReply
from callboard_contracts.workers import Ability
from callboard_worker.engine import EngineError, EngineFailed, EngineUnavailable

log = logging.getLogger(__name__)

READY_TIMEOUT_S = 5.0
MAX_ERROR_BYTES = 65_536
MAX_ANSWER_BYTES = 16 * 1024 * 1024
END_TIMEOUT_S = 0.05

# Engines that continue an answer when asked; those that do so unasked ignore the words.
CONTINUE = {"continue_final_message": True, "add_generation_prompt": False}


NAMES = names(
    "temperature top_p presence_penalty frequency_penalty seed stop logit_bias "
    # What other servers than OpenAI's own take beside these, under vLLM's names.
    "top_k min_p repetition_penalty",
    {"min_output_tokens": "min_tokens", "ban_end_token": "ignore_eos", "banned_texts": "bad_words"},
)
SAMPLING = frozenset(NAMES) | {"banned_token_ids"}
BAN = -100.0
"""The bias that keeps a token out for certain."""
ABILITIES: frozenset[Ability] = frozenset(
    {"completion", "chat", "tools", "json_schema", "images", "thinking", "logprobs", "prefill", "embedding"}
)
_Path = Literal["/chat/completions", "/completions", "/embeddings"]
_PATHS: dict[str, _Path] = {"chat": "/chat/completions", "completion": "/completions"}


class OpenAIEngine:
    """An engine behind `url`, which includes the version segment, as in `http://host:8000/v1`.

    Such an engine does not tell its control tokens, so all that are well known are broken up, except for the models of
    `parse_special`.
    """

    abilities = ABILITIES
    sampling = SAMPLING
    in_process = False
    honours_prefill = False

    def __init__(
        self, url: str, api_key: str | None, connect_timeout_s: float, *, parse_special: Set[str] = frozenset()
    ) -> None:
        self._control_tokens = ControlTokens()
        self._parse_special = parse_special
        self._client = AsyncOpenAI(
            base_url=url,
            api_key=api_key or "none",
            http_client=DefaultAsyncHttpxClient(trust_env=False),
            max_retries=0,
            timeout=Timeout(READY_TIMEOUT_S, connect=connect_timeout_s),
        )
        self._http = EngineHttp(
            str(self._client.base_url),
            {
                **self._client.auth_headers,
                "Content-Type": "application/json",
                "Accept": "text/event-stream",
                "Accept-Encoding": "identity",
                "User-Agent": self._client.user_agent,
            },
            connect_timeout_s,
        )

    async def load(self) -> None:
        """Does nothing: the engine runs elsewhere."""

    async def ready(self) -> str | None:
        """Asks the engine for its models."""
        try:
            await self._client.models.list()
        except OpenAIError as error:
            status = getattr(error, "status_code", None)
            # A server without that list is still a server.
            return None if status in {404, 405, 501} else f"engine: {type(error).__name__}"
        return None

    async def stream(
        self, request: ChatRequest, continuation: Continuation | None = None
    ) -> AsyncGenerator[Chunk, None]:
        """Streams one reply; see `ChatEngine`."""
        if request.mode == "chat" and request.model not in self._parse_special:
            request = self.broken_up(request)
            continuation = self._control_tokens.broken_up_reply(continuation)
        body = _body(request, continuation)
        if continuation is not None and request.mode == "chat":
            body |= CONTINUE
        spent = continuation.tokens if continuation else 0
        reader = ReplyReader(
            request.max_output_tokens - spent, spent_prompt_tokens=spent, top_logprobs=request.top_logprobs
        )
        response = await self._send(_PATHS[request.mode], to_json(body))
        try:
            if response.status >= 400:
                raise await _refusal(request, response, continued=continuation is not None)
            if response.header("content-type").startswith("application/json"):
                if (chunk := await _whole(response, reader)) is not None:
                    yield chunk
            else:
                # What arrives in one read becomes one chunk, so frames grow while this process is busy and only then.
                events = EventReader()
                while not reader.done and (data := await response.read()):
                    for chunk in reader.chunks(events.feed(data)):
                        chunk.last_follows = reader.done and response.is_complete
                        yield chunk
                await _read_to_end(response, reader)
        except OSError:
            # Whether anything is missing, the reader knows.
            log.debug("engine_connection_lost")
        finally:
            # An answer that was not read to its end takes its connection with it, which is what stops the engine.
            response.close()
        yield reader.last()

    def broken(self) -> str | None:
        """Never: the engine runs elsewhere."""
        return None

    def broken_up(self, request: ChatRequest) -> ChatRequest:
        """Breaks up all control tokens that are well known."""
        return request if request.model in self._parse_special else self._control_tokens.broken_up(request)

    def own_turns(self, model: str) -> OwnTurns:
        """Alpaca's, which most models read: such an engine does not tell its template."""
        return fallback_turns("")

    async def tokenize(self, request: ChatRequest, *, special: bool = True) -> PromptTokens:
        """Refuses: the protocol has no tokens."""
        raise no_tokens()

    async def detokenize(self, model: str, ids: Sequence[int], *, special: bool = True) -> str:
        """Refuses: the protocol has no tokens."""
        raise no_tokens()

    async def describe(self, model: str) -> DescribeModelReply:
        """Knows nothing of a model but its name."""
        return DescribeModelReply()

    async def embed(self, model: str, inputs: Sequence[str], context_tokens: int, *, truncate: bool) -> Embedded:
        """Makes vectors; see `ChatEngine`. A text is cut here, since servers do not agree on how to ask for that."""
        del context_tokens

        async def asked(texts: Sequence[str]) -> Embedded:
            body = to_json({"model": model, "input": texts, "encoding_format": "base64"})
            response = await self._send("/embeddings", body)
            try:
                if response.status >= 400:
                    error = await response.read_all(MAX_ERROR_BYTES)
                    raise embedding_refused(response.status, error, response.header("retry-after"))
                return read_vectors(await response.read_all(MAX_ANSWER_BYTES))
            except OSError:
                raise EngineUnavailable from None
            finally:
                response.close()

        return await (embed_cut(asked, inputs) if truncate else asked(inputs))

    async def _send(self, path: _Path, content: bytes) -> EngineConnection:
        try:
            return await self._http.request("POST", path, content)
        except OSError:
            raise EngineUnavailable from None

    async def close(self) -> None:
        """Closes the connections."""
        self._http.close()
        await self._client.close()


def _body(request: ChatRequest, continuation: Continuation | None) -> Json:
    sampling = given(request.sampling, NAMES)
    if banned := request.sampling.banned_token_ids:
        sampling["logit_bias"] = {**sampling.get("logit_bias", {}), **{str(token): BAN for token in banned}}
    effort = _effort(request.thinking)
    return request_body(request, continuation, sampling) | ({"reasoning_effort": effort} if effort else {})


def _effort(thinking: Thinking) -> str | None:
    return "none" if thinking.enabled is False else thinking.effort


async def _read_to_end(response: EngineConnection, reader: ReplyReader) -> None:
    """Reads what follows a reply's end, which keeps the connection for the next request."""
    if reader.finished and not response.is_complete:
        # A server that holds it open is left.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_TIMEOUT_S):
                while await response.read():
                    pass


async def _refusal(request: ChatRequest, response: EngineConnection, *, continued: bool) -> EngineError:
    body = await response.read_all(MAX_ERROR_BYTES)
    error = refused(request, response.status, body, response.header("retry-after"))
    return cannot_continue() if continued and error.info.code is ErrorCode.INVALID_REQUEST else error


async def _whole(response: EngineConnection, reader: ReplyReader) -> Chunk | None:
    """An answer that was not streamed although it was asked to be."""
    body = await response.read_all(MAX_ANSWER_BYTES)
    try:
        answer = json.loads(body)
        for choice in answer["choices"]:
            choice["delta"] = choice.pop("message", None)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise EngineFailed from None
    return reader.read([json.dumps(answer).encode()])
