"""Ollama's options in the neutral form."""

from typing import Any

from callboard_contracts.chat import Sampling
from callboard_edge.domain.catalogue import ChatModel
from callboard_edge.http.lenient import within
from callboard_edge.protocols.ollama.bodies import Options

LEAST_CONTEXT_TOKENS = 128
MAX_STOPS = 256

NAMES = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "typical_p": "typical_p",
    "tfs": "tfs_z",
    "repetition_range": "repeat_last_n",
    "repetition_penalty": "repeat_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "mirostat": "mirostat",
    "mirostat_tau": "mirostat_tau",
    "mirostat_eta": "mirostat_eta",
}
"""The neutral names of numbers, and Ollama's."""


def sampling(options: Options) -> Sampling:
    """The sampling fields of some options, brought into their range; a negative seed is a random one."""
    given = {name: getattr(options, own) for name, own in NAMES.items()}
    fields: dict[str, Any] = {name: within(name, value) for name, value in given.items() if value is not None}
    if options.seed is not None and options.seed >= 0:
        fields["seed"] = options.seed
    return Sampling(**fields, stop=tuple((options.stop or ())[:MAX_STOPS]))


def lengths(options: Options, model: ChatModel) -> tuple[int | None, int]:
    """How long prompt and reply may be together, None for the model's own, and how long the reply may be.

    `num_predict` below one asks for as much as the model may write.
    """
    wanted = options.num_predict if options.num_predict is not None and options.num_predict > 0 else None
    limit = model.output_limit(wanted)
    if options.num_ctx is None or options.num_ctx <= 0:
        return None, limit
    context = min(model.context_tokens, max(LEAST_CONTEXT_TOKENS, options.num_ctx))
    return context, min(limit, context)
