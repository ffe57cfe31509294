"""OpenAI's older `/v1/completions`."""

from aiohttp import web

from callboard_contracts.chat import ChatRequest
from callboard_contracts.workers import OfferedModel
from callboard_edge.domain.abilities import unsupported
from callboard_edge.domain.catalogue import ChatModel
from callboard_edge.domain.model_inquiries import ModelQuestions
from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.local_sampling import context_and_reply, has_turn_tags
from callboard_edge.http.route import Answer, Route
from callboard_edge.protocols.openai.bodies import Completion, CompletionBody
from callboard_edge.protocols.openai.chat import response_format
from callboard_edge.protocols.openai.choices import of_each, respond, wanted_choices, wanted_logprobs
from callboard_edge.protocols.openai.errors import ANSWERS
from callboard_edge.protocols.openai.local import (
    LocalCompletionBody,
    chosen_model,
    guided_format,
    read_body,
    wanted_sampling,
)
from callboard_edge.protocols.openai.prompts import Prompts, texts_of
from callboard_edge.protocols.openai.writer import CompletionWriter, ReplyHead

NAME = "completions"
DEFAULT_MAX_TOKENS = 16
"""OpenAI's own default for this path."""


def routes(context: EdgeContext) -> list[Route]:
    """The routes of this module."""
    prompts = Prompts(ModelQuestions(context.inquiry), context.admission)

    async def create(call: Call) -> web.StreamResponse:
        body = await read_body(call, CompletionBody, LocalCompletionBody)
        model = chosen_model((await context.offers.to(call.caller)).chat_models, body)
        offered = context.workers.model("chat", model.pool, model.served_name)
        wanted = wanted_choices(body, offered)
        shared = shared_request(body, model, offered)
        texts = await prompts.read(texts_of(body, wanted.written), model, call.caller)
        head = ReplyHead(
            f"cmpl-{call.fresh_id}",
            body.model or model.name,
            include_usage=bool(body.stream_options and body.stream_options.include_usage),
            logprobs=shared.top_logprobs is not None,
            keeps_stop=isinstance(body, LocalCompletionBody) and body.keeps_stop,
        )
        echoes = [text if body.echo else "" for text in texts for _ in range(wanted.answered)]
        writers = [CompletionWriter(head, echo=echo, index=index) for index, echo in enumerate(echoes)]
        requests = [one for text in texts for one in of_each(shared.model_copy(update={"prompt": text}), wanted)]
        return await respond(
            context, call, NAME, requests, model, writers, body, stream=bool(body.stream), wanted=wanted
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


def shared_request(
    body: CompletionBody | LocalCompletionBody, model: ChatModel, offered: OfferedModel | None
) -> ChatRequest:
    """The neutral form of a request, without its prompt.

    Raises:
        CallboardError: it asks for what cannot be served.
    """
    if body.suffix:
        raise unsupported("Inserting before a suffix is not offered.", "suffix")
    logprobs = wanted_logprobs(body, offered)
    if body.echo and logprobs is not None:
        raise unsupported("A prompt has no log probabilities here; leave 'echo' or 'logprobs' out.", "echo")
    if isinstance(body, CompletionBody):
        return ChatRequest(
            mode="completion",
            model=model.name,
            sampling=wanted_sampling(body),
            max_output_tokens=model.output_limit(body.max_tokens, DEFAULT_MAX_TOKENS),
            top_logprobs=logprobs,
            speaker=body.user or "",
        )
    context_tokens, limit = context_and_reply(model, body.contexts, body.lengths)
    wanted = wanted_sampling(body)
    prompts = body.prompt if isinstance(body.prompt, list) else [body.prompt]
    texts = (body.memory, *(prompt for prompt in prompts if isinstance(prompt, str)))
    output_format = response_format(body.response_format)
    return ChatRequest(
        mode="completion",
        model=model.name,
        memory=body.memory or "",
        overflow="drop_front",
        context_tokens=context_tokens,
        turn_tags=body.replace_instruct_placeholders is not False and has_turn_tags(texts, wanted.stop),
        sampling=wanted,
        max_output_tokens=limit,
        output_format=output_format if output_format.kind != "text" else guided_format(body),
        top_logprobs=logprobs,
        speaker=body.user or "",
    )
