"""The sampling fields of OpenAI's two text paths, and what other servers added to them."""

from typing import Any

from callboard_contracts.chat import Sampling
from callboard_edge.protocols.openai.bodies import SamplingBody

REFUSED = frozenset({"temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "logit_bias"})
"""OpenAI's own fields, which are refused where the engine does not honour them; those of other servers are ignored."""


_PLAIN = frozenset(
    {
        *("temperature", "top_p", "top_k", "min_p"),
        *("presence_penalty", "frequency_penalty", "repetition_penalty", "seed"),
    }
)
"""Fields that are taken as they are."""
_USUAL = Sampling()


def sampling(body: SamplingBody) -> Sampling:
    """The sampling fields of a request."""
    given: dict[str, Any] = {name: getattr(body, name) for name in _PLAIN & body.model_fields_set}
    if body.stop:
        stop = [body.stop] if isinstance(body.stop, str) else body.stop
        given["stop"] = tuple(word for word in stop if word)
    if body.logit_bias:
        given["logit_bias"] = body.logit_bias
    return Sampling(**given) if given else _USUAL
