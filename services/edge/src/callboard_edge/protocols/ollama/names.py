"""The names of models as Ollama's clients write them, with a tag behind a colon or without."""

from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_edge.domain.catalogue import LATEST, MAX_NAMED, Catalogue, M

MOST_SHOWN = 128


def tagged(name: str) -> str:
    """A name with its tag, which is `latest` where it has none."""
    return name if ":" in name.rpartition("/")[2] else name + LATEST


def find(models: Catalogue[M], name: str) -> M | None:
    """The model of a name, with or without the tag `latest`, or None."""
    return models.find(name) or models.find(name.removesuffix(LATEST)) or models.find(tagged(name))


def chosen(models: Catalogue[M], name: str | None) -> M:
    """The model of a name, with or without the tag `latest`; without a name, the site's default.

    Raises:
        CallboardError: `unknown_model`, or there is no default.
    """
    if not name:
        return models.resolve(None)
    found = find(models, name)
    if found is None:
        offered = models.names[:MAX_NAMED]
        message = f"model '{name[:MOST_SHOWN]}' not found; on offer: {', '.join(offered) or 'none'}"
        raise CallboardError(ErrorCode.UNKNOWN_MODEL, message, param="model", offered=offered)
    return found
