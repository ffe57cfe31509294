"""The continuation of a text, whole and streamed: for KoboldCpp's clients and text-generation-webui's, by one path."""

from aiohttp import web

from callboard_contracts.chat import ChatRequest, Thinking
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.workers import OfferedModel
from callboard_edge.domain.abilities import unsupported
from callboard_edge.domain.catalogue import ChatModel
from callboard_edge.domain.running_replies import reply_name
from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.local_sampling import context_and_reply, grammar_format, has_turn_tags, local_sampling
from callboard_edge.http.route import Answer, Route
from callboard_edge.protocols.kobold.bodies import GenerateBody, Results, SamplingBody
from callboard_edge.protocols.kobold.errors import ANSWERS
from callboard_edge.protocols.kobold.info import LATEST, TAG
from callboard_edge.protocols.kobold.models import chosen_model
from callboard_edge.protocols.kobold.perf import Figures
from callboard_edge.protocols.kobold.tidy import tidied
from callboard_edge.protocols.kobold.writer import KoboldWriter

TEXTGEN_LENGTH = 200
"""The length of a reply, in tokens, where a client of text-generation-webui names none."""
TOP_LOGPROBS = 10
"""How many alternatives come with each token, as KoboldCpp has it."""
MAX_TOP_LOGPROBS = 20
THINKING_SHARES = {"minimal": 0.1, "low": 0.25, "medium": 0.5}
"""How much of a reply's length may be thinking, by the effort that is asked for."""


def routes(context: EdgeContext, figures: Figures) -> list[Route]:
    """The routes of this module."""

    async def answer(call: Call, route: str, *, stream: bool) -> web.StreamResponse:
        body = await call.json(GenerateBody)
        model = chosen_model((await context.offers.to(call.caller)).chat_models, body.model)
        offered = context.workers.model("chat", model.pool, model.served_name)
        request = generate_request(body, model, offered)
        evennia = not stream and (body.max_new_tokens is not None or "User-Agent" not in call.request.headers)
        own_name = model.character.display_name if model.character else None
        writer = KoboldWriter(
            trims_stop=body.trim_stop is not False,
            on_end=figures.ended,
            tidy=(lambda text: tidied(text, request.prompt, own_name)) if evennia else None,
        )
        if evennia:
            # A game does not send its request again where a connection that it kept was closed meanwhile.
            call.headers["Connection"] = "close"
        with context.running.running(reply_name(call.caller, body.genkey or "")) as reply, figures.generation():
            response = await context.text.respond(
                call, route, request, model, writer, stream=stream, follow=reply.follow
            )
        if evennia and not response.prepared:
            response.force_close()
        return response

    async def whole(call: Call) -> web.StreamResponse:
        return await answer(call, "kobold_generate", stream=False)

    async def streamed(call: Call) -> web.StreamResponse:
        return await answer(call, "kobold_generate_stream", stream=True)

    return [
        *(
            Route(
                "POST",
                f"{prefix}/generate",
                whole,
                "kobold_generate",
                "Continue a text",
                TAG,
                body=GenerateBody,
                answers={200: Answer("The continuation.", Results), **ANSWERS},
            )
            for prefix in LATEST
        ),
        Route(
            "POST",
            "/api/extra/generate/stream",
            streamed,
            "kobold_generate_stream",
            "Continue a text, as server-sent events",
            TAG,
            body=GenerateBody,
            answers={200: Answer("Events with `token` and `finish_reason`.", None, ("text/event-stream",)), **ANSWERS},
        ),
    ]


def generate_request(body: GenerateBody, model: ChatModel, offered: OfferedModel | None) -> ChatRequest:
    """The neutral form of a request.

    Raises:
        CallboardError: it asks for what cannot be served.
    """
    for field, name in ((body.images, "images"), (body.audio, "audio")):
        if field:
            raise unsupported(f"This model takes text only; leave '{name}' out.", name)
    if not body.prompt and not body.memory:
        raise CallboardError(ErrorCode.INVALID_REQUEST, "Missing required field: 'prompt'.", param="prompt")
    context_tokens, limit = lengths(body, model)
    abilities = offered.abilities if offered else ()
    return ChatRequest(
        mode="completion",
        model=model.name,
        prompt=body.prompt or "",
        memory=body.memory or "",
        overflow="drop_front",
        context_tokens=context_tokens,
        turn_tags=body.replace_instruct_placeholders is not False
        and has_turn_tags((body.prompt, body.memory), body.stop_sequence),
        sampling=local_sampling(body),
        max_output_tokens=limit,
        output_format=grammar_format(body.grammar),
        thinking=_thinking(body, limit) if "thinking" in abilities else Thinking(),
        top_logprobs=_top_logprobs(body.logprobs) if "logprobs" in abilities else None,
    )


def lengths(body: SamplingBody, model: ChatModel) -> tuple[int | None, int]:
    """How long memory, prompt and reply may be together, None for the model's own, and how long the reply may be."""
    return context_and_reply(
        model,
        (body.max_context_length, body.truncation_length),
        (body.max_length, body.max_new_tokens),
        TEXTGEN_LENGTH if body.is_textgen else None,
    )


def _thinking(body: GenerateBody, limit: int) -> Thinking:
    budget, effort = body.thinking_budget_tokens, body.reasoning_effort
    if budget is not None and budget >= 0:
        return Thinking(enabled=budget > 0, budget_tokens=budget)
    if effort == "none":
        return Thinking(enabled=False)
    if effort in THINKING_SHARES:
        return Thinking(enabled=True, budget_tokens=int(limit * THINKING_SHARES[effort]))
    return Thinking(enabled=True, effort="high") if effort == "high" else Thinking()


def _top_logprobs(wanted: bool | int | None) -> int | None:
    if not wanted:
        return None
    return TOP_LOGPROBS if wanted is True else max(0, min(MAX_TOP_LOGPROBS, wanted))
