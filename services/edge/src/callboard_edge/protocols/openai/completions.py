"""OpenAI's older `/v1/completions`."""

from aiohttp import web

from callboard_contracts.chat import ChatRequest, OutputFormat
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_edge.domain.abilities import unsupported
from callboard_edge.domain.catalogue import ChatModel
from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.route import Answer, Route
from callboard_edge.protocols.openai.bodies import Completion, CompletionBody
from callboard_edge.protocols.openai.errors import ANSWERS
from callboard_edge.protocols.openai.sampling import REFUSED, sampling
from callboard_edge.protocols.openai.writer import CompletionWriter

NAME = "completions"
DEFAULT_MAX_TOKENS = 16
"""OpenAI's own default for this path."""


def routes(context: EdgeContext) -> list[Route]:
    """The routes of this module."""

    async def create(call: Call) -> web.StreamResponse:
        body = await call.json(CompletionBody)
        model = context.chat_models.resolve(body.model)
        request = completion_request(body, model)
        writer = CompletionWriter(
            call.fresh_id,
            body.model or model.name,
            include_usage=bool(body.stream_options and body.stream_options.include_usage),
            echo=request.prompt if body.echo else "",
        )
        return await context.text.respond(
            call, NAME, request, model, writer, stream=bool(body.stream), refused_sampling=REFUSED
        )

    return [
        Route(
            "POST",
            "/v1/completions",
            create,
            name=NAME,
            summary="Continue a text, whole or streamed",
            tag="Completions",
            body=CompletionBody,
            answers={
                200: Answer("The continuation.", Completion, ("application/json", "text/event-stream")),
                **ANSWERS,
            },
        )
    ]


def completion_request(body: CompletionBody, model: ChatModel) -> ChatRequest:
    """The neutral form of a request.

    Raises:
        CallboardError: it asks for what cannot be served.
    """
    if body.logprobs is not None:
        raise unsupported("Log probabilities are not offered.", "logprobs")
    if body.suffix:
        raise unsupported("Inserting before a suffix is not offered.", "suffix")
    if body.best_of is not None and body.best_of > 1:
        raise unsupported("Only one choice is generated for a request; leave 'best_of' out or set it to 1.", "best_of")
    return ChatRequest(
        mode="completion",
        model=model.name,
        messages=(),
        prompt=_prompt(body),
        sampling=sampling(body),
        max_output_tokens=model.output_limit(body.max_tokens, DEFAULT_MAX_TOKENS),
        output_format=OutputFormat(),
        tools=(),
        tool_choice="auto",
    )


def _prompt(body: CompletionBody) -> str:
    prompt = body.prompt
    if not isinstance(prompt, str):
        if not prompt or not all(isinstance(part, str) for part in prompt):
            if prompt and all(isinstance(part, (int, list)) for part in prompt):
                raise unsupported("A prompt of token ids cannot be read here; send text.", "prompt")
            raise CallboardError(
                ErrorCode.INVALID_REQUEST, "'prompt' must be a text, or a list of one text.", param="prompt"
            )
        if len(prompt) > 1:
            raise unsupported("Only one prompt is taken for a request.", "prompt")
        prompt = str(prompt[0])
    if not prompt:
        raise CallboardError(ErrorCode.INVALID_REQUEST, "'prompt' must not be empty.", param="prompt")
    return prompt
