"""The sampling fields of OpenAI's two text paths, and what other servers added to them."""

from callboard_contracts.chat import Sampling
from callboard_edge.protocols.openai.bodies import SamplingBody

REFUSED = frozenset({"temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "logit_bias"})
"""OpenAI's own fields, which are refused where the engine does not honour them; those of other servers are ignored."""


def sampling(body: SamplingBody) -> Sampling:
    """The sampling fields of a request."""
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or ()
    return Sampling(
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        min_p=body.min_p,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        repetition_penalty=body.repetition_penalty,
        seed=body.seed,
        stop=tuple([word for word in stop if word]) if stop else (),
        logit_bias=body.logit_bias or None,
    )
