"""Which model a request is for: these clients name none, unless a user adds `model` to what they send."""

from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_edge.domain.catalogue import Catalogue, ChatModel

PREFIX = "koboldcpp/"


def default_model(models: Catalogue[ChatModel]) -> ChatModel | None:
    """The model of those who name none: the site's default, else its first; None where there is none."""
    if models.default is not None:
        return models.resolve(None)
    return models.models[0] if models.models else None


def chosen_model(models: Catalogue[ChatModel], name: str | None) -> ChatModel:
    """The model of a name, with or without the word that clients read before it.

    Raises:
        CallboardError: `unknown_model`, or there is none.
    """
    if name:
        return models.find(name.removeprefix(PREFIX)) or models.resolve(name)
    found = default_model(models)
    if found is None:
        raise CallboardError(ErrorCode.UNKNOWN_MODEL, "There is no model for text here.", param="model")
    return found
