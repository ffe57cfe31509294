"""What a pop says of a volunteer: its name, its models, and what it takes."""

import re

from callboard_contracts.characters import MODEL_PREFIX
from callboard_contracts.kudos_price import is_validated
from callboard_contracts.volunteers import (
    MAX_MODEL_NAME,
    MAX_OFFERED_MODELS,
    MAX_SOFT_PROMPTS,
    VolunteerOffer,
    VolunteerRecord,
)
from callboard_edge.domain.volunteers import SignIn
from callboard_edge.http.context import EdgeContext
from callboard_edge.protocols.horde.errors import Refusal
from callboard_edge.protocols.horde.requesters import ACCOUNT_MARK
from callboard_edge.protocols.horde.worker_bodies import PopBody

DEFAULT_LENGTH = 512
DEFAULT_CONTEXT_LENGTH = 2048
LEAST_NAME, MOST_NAME = 3, 100
MAX_BLACKLIST_CHARACTERS = 100
OWNER_MARK = "::"
"""Stands between a model's name and the user who alone may offer it."""
MOST_DIGITS = 20
_USERNAME = re.compile(r"[^#]+#([0-9]{1,20})")


def sign_in_of(context: EdgeContext, body: PopBody, account: str) -> SignIn:
    """What a volunteer says of itself; raises Refusal."""
    name = (body.name or "").strip()
    if not LEAST_NAME <= len(name) <= MOST_NAME or not name.isprintable():
        message = f"A worker needs a name of {LEAST_NAME} to {MOST_NAME} printable characters."
        raise Refusal(400, "BadRequest", message, "name")
    if any(name.casefold() == model.pool.casefold() for model in context.chat_models.models):
        raise Refusal(400, "PolymorphicNameConflict", "A worker of the site has that name.", "name")
    models = tuple(dict.fromkeys(one.strip() for one in body.models or () if _may_be_offered(one.strip())))
    if not models:
        raise Refusal(400, "BadRequest", "A worker has to offer a model.", "models")
    for model in models:
        _check_owner(model, account)
    soft = (one.strip() for one in body.softprompts or ())
    return SignIn(
        name=name,
        account=account,
        models=models[:MAX_OFFERED_MODELS],
        max_length=body.max_length or DEFAULT_LENGTH,
        max_context_length=body.max_context_length or DEFAULT_CONTEXT_LENGTH,
        threads=body.threads or 1,
        nsfw=body.nsfw is not False,
        bridge_agent=body.bridge_agent or "unknown:0:unknown",
        extra_slow=bool(body.extra_slow_worker),
        needs_kudos=bool(body.require_upfront_kudos),
        softprompts=tuple(dict.fromkeys(one for one in soft if _is_name(one)))[:MAX_SOFT_PROMPTS],
    )


def _may_be_offered(model: str) -> bool:
    return _is_name(model) and not model.startswith(MODEL_PREFIX)


def _is_name(text: str) -> bool:
    return bool(text) and len(text) <= MAX_MODEL_NAME and text.isprintable()


def _check_owner(model: str, account: str) -> None:
    """Refuses a model whose name says that it is another user's; raises Refusal."""
    _, marked, owner = model.partition(OWNER_MARK)
    if marked and owner:
        number = owner.rpartition("#")[2]
        if not number.isdecimal() or f"{ACCOUNT_MARK}{int(number[:MOST_DIGITS]):016x}" != account:
            raise Refusal(400, "BadRequest", f"This model can only be hosted by {owner[:MOST_NAME]}.", "models")


def offer_of(
    context: EdgeContext, body: PopBody, record: VolunteerRecord, models: tuple[str, ...], priority: tuple[str, ...]
) -> VolunteerOffer:
    """What a volunteer can do now."""
    words = (word.strip().casefold()[:MAX_BLACKLIST_CHARACTERS] for word in body.blacklist or ())
    said = record.offer(validated=is_validated(context.settings.kudos, record.bridge_agent))
    return said.model_copy(
        update={
            "models": models,
            "blacklist": tuple(word for word in words if word),
            "priority": () if record.maintenance else priority,
        }
    )


def account_of_username(username: str) -> str:
    """The account of a user's name, whose number is its id; raises Refusal."""
    found = _USERNAME.fullmatch(username)
    if found is None or int(found[1]) >= 2**64:
        raise Refusal(400, "InvalidPriorityUsername", "A user's name is 'name#number'.", "priority_usernames")
    return f"{ACCOUNT_MARK}{int(found[1]):016x}"
