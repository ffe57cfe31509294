"""How many choices a request has, what is told of their tokens, and how they are answered: one job for each."""

from collections.abc import Awaitable, Callable, Sequence, Set
from dataclasses import dataclass
from functools import partial

from aiohttp import web

from callboard_contracts.chat import ChatRequest
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.workers import OfferedModel
from callboard_edge.domain.abilities import unsupported
from callboard_edge.domain.catalogue import ChatModel
from callboard_edge.domain.running_replies import reply_name
from callboard_edge.domain.text_stream import TextStream
from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.text_batch import TextBatchResponder
from callboard_edge.protocols.openai.bodies import ChatCompletionBody, CompletionBody, SamplingBody
from callboard_edge.protocols.openai.local import LocalBody, LocalChatBody, LocalCompletionBody
from callboard_edge.protocols.openai.sampling import REFUSED
from callboard_edge.protocols.openai.writer import ChatWriter, ChoicesWriter, CompletionWriter

MAX_CHOICES = 8
"""So many choices may be written for one prompt."""
MAX_JOBS = 32
"""So many may be written for all prompts of a request."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """So many choices of each prompt are answered, the best of `written`."""

    answered: int = 1
    written: int = 1

    @property
    def chosen(self) -> bool:
        """Whether fewer are answered than are written."""
        return self.answered < self.written


ONE = Wanted()


def wanted_choices(
    body: ChatCompletionBody | CompletionBody | LocalChatBody | LocalCompletionBody, offered: OfferedModel | None
) -> Wanted:
    """The choices that a request asks for.

    Raises:
        CallboardError: they are too many, or cannot be compared.
    """
    if body.n is None and not isinstance(body, CompletionBody | LocalCompletionBody):
        return ONE
    best_of = body.best_of if isinstance(body, CompletionBody | LocalCompletionBody) else None
    answered = max(1, body.n or 1)
    written = max(1, best_of or answered)
    for count, name in ((answered, "n"), (written, "best_of")):
        if count > MAX_CHOICES:
            raise unsupported(f"At most {MAX_CHOICES} choices are written for a prompt.", name)
    if written < answered:
        raise CallboardError(ErrorCode.INVALID_REQUEST, "'best_of' must not be less than 'n'.", param="best_of")
    if written > answered:
        if body.stream:
            raise unsupported("The best choices are known when all are written: they cannot be streamed.", "best_of")
        check_logprobs(offered, "best_of")
    return Wanted(answered, written)


def check_logprobs(offered: OfferedModel | None, param: str) -> None:
    """Refuses what needs log probabilities of an engine that has none.

    Raises:
        CallboardError: `unsupported`.
    """
    if offered is not None and "logprobs" not in offered.abilities:
        raise unsupported("This model's engine tells no log probabilities.", param)


def wanted_logprobs(
    body: ChatCompletionBody | CompletionBody | LocalChatBody | LocalCompletionBody, offered: OfferedModel | None
) -> int | None:
    """How many alternatives are wanted with each token's log probability; None for no log probabilities.

    Raises:
        CallboardError: the engine tells none; clients of local servers are answered without them.
    """
    if isinstance(body, LocalBody):
        return body.wanted_logprobs if offered is None or "logprobs" in offered.abilities else None
    if isinstance(body, ChatCompletionBody):
        if not body.logprobs:
            if body.top_logprobs:
                raise CallboardError(
                    ErrorCode.INVALID_REQUEST, "'top_logprobs' needs 'logprobs'.", param="top_logprobs"
                )
            return None
        wanted = body.top_logprobs or 0
    elif body.logprobs is None:
        return None
    else:
        wanted = body.logprobs
    check_logprobs(offered, "logprobs")
    return wanted


def of_each(request: ChatRequest, wanted: Wanted) -> list[ChatRequest]:
    """The requests for all choices of one; those after the first have seeds of their own where one is given."""
    if wanted.written == 1:
        return [request]
    if wanted.chosen and request.top_logprobs is None:
        request = request.model_copy(update={"top_logprobs": 0})
    return [_seeded(request, number) for number in range(wanted.written)]


def respond(
    context: EdgeContext,
    call: Call,
    route: str,
    requests: Sequence[ChatRequest],
    model: ChatModel,
    writers: Sequence[ChatWriter] | Sequence[CompletionWriter],
    body: SamplingBody | LocalBody,
    *,
    stream: bool,
    wanted: Wanted,
) -> Awaitable[web.StreamResponse]:
    """Answers with one choice for each writer.

    Clients of local servers read their replies by keys, and stop them so; what else they ask for is never refused.
    """
    answered = partial(_answered, context, call, route, requests, model, writers, stream=stream, wanted=wanted)
    if isinstance(body, LocalBody):
        return _followed(context, reply_name(call.caller, body.genkey or ""), answered)
    return answered(REFUSED, None)


async def _followed(
    context: EdgeContext,
    name: str,
    answered: Callable[[Set[str], Callable[[TextStream], None]], Awaitable[web.StreamResponse]],
) -> web.StreamResponse:
    """Answers so that the reply can be read and stopped by its name."""
    with context.running.running(name) as reply:
        return await answered(frozenset(), reply.follow)


def _answered(
    context: EdgeContext,
    call: Call,
    route: str,
    requests: Sequence[ChatRequest],
    model: ChatModel,
    writers: Sequence[ChatWriter] | Sequence[CompletionWriter],
    refused: Set[str],
    follow: Callable[[TextStream], None] | None,
    *,
    stream: bool,
    wanted: Wanted,
) -> Awaitable[web.StreamResponse]:
    if len(requests) == 1:
        return context.text.respond(
            call, route, requests[0], model, writers[0], stream=stream, refused_sampling=refused, follow=follow
        )
    return TextBatchResponder(context.text).respond(
        call,
        route,
        requests,
        model,
        ChoicesWriter(writers, (wanted.answered, wanted.written)),
        stream=stream,
        refused_sampling=refused,
        follow=follow,
    )


def _seeded(request: ChatRequest, number: int) -> ChatRequest:
    if not number or request.sampling.seed is None:
        return request
    sampling = request.sampling.model_copy(update={"seed": request.sampling.seed + number})
    return request.model_copy(update={"sampling": sampling})
