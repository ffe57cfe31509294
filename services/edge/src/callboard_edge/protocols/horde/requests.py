"""What requesters ask, in the neutral form, and which of the models it goes to."""

from collections.abc import Sequence
from typing import Literal, get_args

from callboard_contracts.chat import ChatRequest
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.volunteer_conditions import Conditions
from callboard_contracts.volunteers import Formatting, VolunteerRecord, VolunteerTerms
from callboard_edge.domain.catalogue import Catalogue, ChatModel, unknown_model
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.local_sampling import context_and_reply, has_turn_tags, local_sampling
from callboard_edge.protocols.horde.bodies import AsyncBody, Params
from callboard_edge.protocols.horde.errors import Refusal
from callboard_edge.protocols.horde.pools import (
    is_of_volunteers,
    pool_of,
    takes_volunteers,
    volunteers_for,
    worker_id,
)
from callboard_edge.protocols.horde.possible import refusal_of

DEFAULT_LENGTH = 80
DEFAULT_CONTEXT_LENGTH = 2048
MAX_WORKERS = 5
FORMATTING: tuple[Formatting, ...] = get_args(Formatting)
MAX_OTHER_MODELS = 32
MAX_STOPS = 128
MAX_STOP_CHARACTERS = 2000
MIN_SAMPLERS = 7
KOBOLDCPP = "koboldcpp/"
"""Begins the names of models as workers of KoboldCpp offer them."""

_NOT_OFFERED = {
    "extra_source_images": (400, "InvalidExtraSourceImages", "Texts are made without images."),
    "proxied_account": (403, "OnlyServiceAccountProxy", "This site has no service accounts, which act for others."),
    "style": (404, "StyleNotFound", "This site has no styles; leave 'style' out."),
}


def lengths_of(body: AsyncBody) -> tuple[int, int]:
    """How long the reply, and how long prompt and reply together may be, as the requester has it."""
    params = body.params or Params()
    return params.max_length or DEFAULT_LENGTH, params.max_context_length or DEFAULT_CONTEXT_LENGTH


def check_body(body: AsyncBody) -> None:
    """Refuses what no worker could serve, and what is not offered here.

    Raises:
        Refusal: the field at fault.
    """
    params = body.params or Params()
    if not body.prompt:
        raise Refusal(400, "MissingPrompt", "You cannot specify an empty prompt.", "prompt")
    max_length, context_length = lengths_of(body)
    if max_length > context_length:
        raise Refusal(400, "TokenOverflow", "'max_length' is larger than 'max_context_length'.", "params.max_length")
    order = params.sampler_order
    if order is not None and len(set(order)) < MIN_SAMPLERS:
        message = f"'sampler_order' must name {MIN_SAMPLERS} samplers."
        raise Refusal(400, "MissingFullSamplerOrder", message, "params.sampler_order")
    stops = params.stop_sequence or ()
    if len(stops) > MAX_STOPS:
        message = f"There are more than {MAX_STOPS} stop sequences."
        raise Refusal(400, "TooManyStopSequences", message, "params.stop_sequence")
    if sum(map(len, stops)) > MAX_STOP_CHARACTERS:
        message = f"The stop sequences have more than {MAX_STOP_CHARACTERS} characters together."
        raise Refusal(400, "ExcessiveStopSequence", message, "params.stop_sequence")
    for field, (status, rc, message) in _NOT_OFFERED.items():
        if getattr(body, field):
            raise Refusal(status, rc, message, field)


def chosen_model(context: EdgeContext, models: Catalogue[ChatModel], body: AsyncBody, kudos: int = 0) -> ChatModel:
    """The model that is to write: of those that are asked for, one that would begin soonest.

    `kudos` are the requester's, in thousandths. Own pools are trusted, validated and not slow, so that those filters
    leave all of them.

    Raises:
        CallboardError: `unknown_model`.
        Refusal: a worker is not known, or those asked for serve no such model.
    """
    found = _asked(models, body.models or ())
    wanted = (body.workers or ())[:MAX_WORKERS]
    pools = {worker_id(model.pool) for model in models.models if not is_of_volunteers(context, model)}
    if any(worker not in pools and context.volunteers.get(worker) is None for worker in wanted):
        raise Refusal(404, "WorkerNotFound", "This site has no worker of such an id.", "workers")
    found = [model for model in found if _has_worker(context, model, wanted, excludes=bool(body.worker_blacklist))]
    if not found:
        raise Refusal(400, "NoValidWorkers", "None of the workers that are asked for serves such a model.", "workers")
    if body.softprompt and not (found := [model for model in found if takes_volunteers(context, model)]):
        message = "The workers of these models have no soft prompts; leave 'softprompt' out."
        raise Refusal(400, "BadRequest", message, "softprompt")
    max_length, context_length = lengths_of(body)
    by_name = {name: pool_of(context, name) for name in {model.pool for model in found}}

    terms = _terms(context, body, kudos)
    of_any_length = Conditions.of(terms, 1, 1)

    known: dict[str, bool] = {}

    def may_write(one: VolunteerRecord) -> bool:
        # Asked once for each volunteer, whatever number of models it offers.
        if (may := known.get(one.id)) is None:
            may = known[one.id] = refusal_of(context, one, terms, of_any_length) is None
        return may

    def rank(model: ChatModel) -> tuple[bool, bool, bool, bool]:
        pool = by_name[model.pool]
        fits = model.context_tokens >= context_length and model.max_output_tokens >= max_length
        expected = context.workers.expects("chat", model)
        if is_of_volunteers(context, model):
            some = [one for one in volunteers_for(context, model) if may_write(one)]
            fits = any(one.max_context_length >= context_length and one.max_length >= max_length for one in some)
            expected = bool(some)
        return not expected, not pool.slots, not fits, not pool.has_free_slot

    return min(found, key=rank)


def _has_worker(context: EdgeContext, model: ChatModel, wanted: Sequence[str], *, excludes: bool) -> bool:
    """Whether a worker that is asked for, or not excluded, serves a model."""
    if not wanted:
        return True
    if not is_of_volunteers(context, model) and (worker_id(model.pool) in wanted) != excludes:
        return True
    if not takes_volunteers(context, model):
        return False
    some = volunteers_for(context, model)
    return any((one.id in wanted) != excludes for one in some) or not (some or not excludes)


def volunteer_terms(
    context: EdgeContext, body: AsyncBody, model: ChatModel, models: Catalogue[ChatModel], kudos: int
) -> VolunteerTerms | None:
    """What is asked of volunteers, where they write with the model; `kudos` are the requester's, in thousandths."""
    if not takes_volunteers(context, model):
        return None
    others = (models.find(name) for name in body.models or ())
    wanted = (body.workers or ())[:MAX_WORKERS]
    own_engine = _own_engine(context, model, wanted, excludes=bool(body.worker_blacklist))
    return _terms(context, body, kudos).model_copy(
        update={
            "models": tuple(one.name for one in others if one and one.pool == model.pool)[:MAX_OTHER_MODELS],
            "own_engine": "may_not" if body.softprompt else own_engine,
        }
    )


def _terms(context: EdgeContext, body: AsyncBody, kudos: int) -> VolunteerTerms:
    """What a request asks of volunteers, whichever of its models they write with."""
    wanted = (body.workers or ())[:MAX_WORKERS]
    return VolunteerTerms(
        any_model=not body.models,
        workers=tuple(worker for worker in wanted if context.volunteers.get(worker) is not None),
        excludes=bool(body.worker_blacklist),
        trusted_only=bool(body.trusted_workers),
        validated_only=bool(body.validated_backends),
        slow_workers=body.slow_workers is not False,
        extra_slow_workers=bool(body.extra_slow_workers),
        nsfw=body.nsfw is not False,
        kudos=max(0, kudos),
        disable_batching=bool(body.disable_batching),
        softprompt=body.softprompt or None,
        formatting=tuple(name for name in FORMATTING if getattr(body.params, name, None)),
    )


def _own_engine(
    context: EdgeContext, model: ChatModel, wanted: Sequence[str], *, excludes: bool
) -> Literal["may", "must", "may_not"]:
    """Whether the pool's own engine may write, by the workers that are asked for or excluded."""
    named = worker_id(model.pool) in wanted
    if not wanted:
        return "may"
    if excludes:
        return "may_not" if named else "may"
    if not named:
        return "may_not"
    return "may" if any(context.volunteers.get(worker) is not None for worker in wanted) else "must"


def _asked(models: Catalogue[ChatModel], names: Sequence[str]) -> list[ChatModel]:
    if names:
        found = [models.find(name) or models.find(name.removeprefix(KOBOLDCPP)) for name in names]
        if not any(found):
            raise unknown_model(models.names)
        return [model for model in found if model is not None]
    own = [model for model in models.models if model.character is None]
    if not own:
        raise CallboardError(ErrorCode.UNKNOWN_MODEL, "There is no model for text here.", param="models")
    return sorted(own, key=lambda model: model.name != models.default)


def chat_request(body: AsyncBody, model: ChatModel, volunteers: VolunteerTerms | None = None) -> ChatRequest:
    """The neutral form of a request that was checked.

    A prompt may always have placeholders for the model's own turns, as Lite writes them without saying so.
    """
    params = body.params or Params()
    max_length, context_length = lengths_of(body)
    context_tokens, limit = context_and_reply(model, (context_length,), (max_length,))
    sampling = local_sampling(params)
    if params.singleline:
        sampling = sampling.model_copy(update={"stop": (*sampling.stop, "\n")})
    return ChatRequest(
        mode="completion",
        model=model.name,
        prompt=body.prompt or "",
        overflow="drop_front",
        context_tokens=context_tokens,
        turn_tags=has_turn_tags((body.prompt,), params.stop_sequence),
        sampling=sampling,
        max_output_tokens=limit,
        volunteers=volunteers,
    )
