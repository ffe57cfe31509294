"""OpenAI's older `/v1/completions`."""

from typing import Any

from aiohttp import web

from callboard_contracts.chat import ChatRequest
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_edge.domain.abilities import unsupported
from callboard_edge.domain.catalogue import ChatModel
from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.route import Answer, Route
from callboard_edge.http.text_batch import TextBatchResponder
from callboard_edge.protocols.openai.bodies import Completion, CompletionBody
from callboard_edge.protocols.openai.errors import ANSWERS
from callboard_edge.protocols.openai.sampling import REFUSED, sampling
from callboard_edge.protocols.openai.writer import CompletionsWriter, CompletionWriter, ReplyHead

NAME = "completions"
DEFAULT_MAX_TOKENS = 16
"""OpenAI's own default for this path."""
MAX_PROMPTS = 32
"""So many texts may be in one request; each is a job of its own."""


def routes(context: EdgeContext) -> list[Route]:
    """The routes of this module."""

    async def create(call: Call) -> web.StreamResponse:
        body = await call.json(CompletionBody)
        model = (await context.offers.to(call.caller)).chat_models.resolve(body.model)
        requests = completion_requests(body, model)
        include_usage = bool(body.stream_options and body.stream_options.include_usage)
        head = ReplyHead(f"cmpl-{call.fresh_id}", body.model or model.name, include_usage)
        writers = [
            CompletionWriter(head, echo=request.prompt if body.echo else "", index=index)
            for index, request in enumerate(requests)
        ]
        if len(requests) == 1:
            return await context.text.respond(
                call, NAME, requests[0], model, writers[0], stream=bool(body.stream), refused_sampling=REFUSED
            )
        return await TextBatchResponder(context.text).respond(
            call,
            NAME,
            requests,
            model,
            CompletionsWriter(head, writers),
            stream=bool(body.stream),
            refused_sampling=REFUSED,
        )

    return [
        Route(
            "POST",
            "/v1/completions",
            create,
            name=NAME,
            summary="Continue a text, or each of several, whole or streamed",
            tag="Completions",
            body=CompletionBody,
            answers={
                200: Answer("The continuation.", Completion, ("application/json", "text/event-stream")),
                **ANSWERS,
            },
        )
    ]


def completion_requests(body: CompletionBody, model: ChatModel) -> list[ChatRequest]:
    """The neutral form of a request: one for each of its prompts.

    Raises:
        CallboardError: it asks for what cannot be served.
    """
    if body.logprobs is not None:
        raise unsupported("Log probabilities are not offered.", "logprobs")
    if body.suffix:
        raise unsupported("Inserting before a suffix is not offered.", "suffix")
    if body.best_of is not None and body.best_of > 1:
        raise unsupported("Only one choice is generated for a request; leave 'best_of' out or set it to 1.", "best_of")
    shared = sampling(body)
    limit = model.output_limit(body.max_tokens, DEFAULT_MAX_TOKENS)
    return [
        ChatRequest(
            mode="completion",
            model=model.name,
            prompt=prompt,
            sampling=shared,
            max_output_tokens=limit,
            speaker=body.user or "",
        )
        for prompt in _prompts(body.prompt)
    ]


def _prompts(prompt: str | list[Any]) -> list[str]:
    parts = [prompt] if isinstance(prompt, str) else prompt
    texts = [part for part in parts if isinstance(part, str)]
    if len(texts) < len(parts) and all(isinstance(part, (int, list)) for part in parts):
        raise unsupported("A prompt of token ids cannot be read here; send text.", "prompt")
    if not parts or len(texts) < len(parts):
        raise _invalid("'prompt' must be a text, or a list of texts.")
    if len(texts) > MAX_PROMPTS:
        raise _invalid(f"'prompt' may have at most {MAX_PROMPTS} texts; it has {len(texts)}.")
    if not all(texts):
        raise _invalid("'prompt' must not be empty.")
    return texts


def _invalid(message: str) -> CallboardError:
    return CallboardError(ErrorCode.INVALID_REQUEST, message, param="prompt")
