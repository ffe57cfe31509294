"""Whether somebody who is there could write a request, by what workers have announced and volunteers have said."""

from collections import Counter
from collections.abc import Iterator

from callboard_contracts.kudos_price import is_validated
from callboard_contracts.volunteer_conditions import Conditions, KnownVolunteer
from callboard_contracts.volunteers import VolunteerRecord, VolunteerTerms
from callboard_edge.domain.catalogue import ChatModel
from callboard_edge.http.context import EdgeContext
from callboard_edge.protocols.horde.pools import is_pool_of_volunteers, names_for_volunteers, takes_volunteers

_ANYBODY = VolunteerTerms(extra_slow_workers=True, nsfw=False, kudos=1)
_REASONS = {
    "max_context_length": "its context is longer than they take",
    "max_length": "it is longer than they write",
    "nsfw": "it may be not safe for work, which they do not write",
    "untrusted": "it asks for workers that are trusted or validated",
    "performance": "it asks for faster workers",
    "kudos": "they write only for those who have kudos",
    "matching_softprompt": "they do not have its soft prompt",
    "worker_id": "it asks for other workers",
}


def refusal_of(context: EdgeContext, one: VolunteerRecord, terms: VolunteerTerms, wanted: Conditions) -> str | None:
    """The Horde's word for why a volunteer that writes with the model may not write a request, or None."""
    if terms.workers and (one.id in terms.workers) == terms.excludes:
        return "worker_id"
    return wanted.refusal(KnownVolunteer(one, validated=is_validated(context.settings.kudos, one.bridge_agent)))


def is_possible(
    context: EdgeContext, pool: str, model: str, terms: VolunteerTerms | None, max_length: int, context_length: int
) -> bool:
    """Whether a request for a model of a pool, by the name that clients use, can be written by somebody who is there.

    An engine of the site that is asleep or on its way counts as there. Blacklists are not looked at.
    """
    if _own_engine_may(context, pool, terms):
        return True
    if terms is None:
        if not is_pool_of_volunteers(context, pool):
            return False
        # An edge of a version before kept it without what it asks.
        terms, max_length, context_length = _ANYBODY, 1, 1
    wanted = Conditions.of(terms, max_length, context_length)
    return any(refusal_of(context, one, terms, wanted) is None for one in _volunteers(context, model, terms))


def why_not(
    context: EdgeContext, model: ChatModel, terms: VolunteerTerms | None, max_length: int, context_length: int
) -> str:
    """Why nobody who is there can write a request, in words for whoever asks."""
    found = Counter[str]()
    if terms is not None:
        wanted = Conditions.of(terms, max_length, context_length)
        for one in _volunteers(context, model.name, terms):
            found[refusal_of(context, one, terms, wanted) or ""] += 1
    reason = next((_REASONS[word] for word, _ in found.most_common() if word), None)
    if reason is None:
        return "No worker of this model is there at the moment; one is expected."
    return f"No worker that is there at the moment can write it: {reason}."


def _own_engine_may(context: EdgeContext, pool: str, terms: VolunteerTerms | None) -> bool:
    if is_pool_of_volunteers(context, pool) or (terms is not None and terms.own_engine == "may_not"):
        return False
    served = (one for one in context.chat_models.models if one.pool == pool)
    return any(context.workers.expects("chat", one) for one in served)


def _volunteers(context: EdgeContext, model: str, terms: VolunteerTerms) -> Iterator[VolunteerRecord]:
    """The volunteers that are there and offer a model that may write the request."""
    if terms.any_model:
        yield from (one for one in context.volunteers.online() if not (one.maintenance or one.paused))
        return
    asked = [found for name in (model, *terms.models) if (found := context.chat_models.find(name)) is not None]
    names = [name for one in asked if takes_volunteers(context, one) for name in names_for_volunteers(context, one)]
    yield from context.volunteers.offering(*names)
