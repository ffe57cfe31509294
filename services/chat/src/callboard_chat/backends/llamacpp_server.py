"""What llama.cpp's server is started with."""

import contextlib
from pathlib import Path
from typing import Any

import xllamacpp

from callboard_kit.control_groups import processors

# The package has no types.
llama: Any = xllamacpp

CPU_BATCH_TOKENS = 64
"""About 0.15 s of prompt on two cores with a small model; half of it costs a quarter of the speed."""
GPU_BATCH_TOKENS = 512


def server_params(
    model: Path,
    key: str,
    slots: int,
    context_tokens: int,
    threads: int | None,
    prompt_cache_mib: int,
) -> Any:
    """The parameters of a server on loopback for `slots` replies at once."""
    params = llama.CommonParams()
    params.model.path = str(model)
    params.n_parallel = slots
    params.n_ctx = slots * context_tokens
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [key]
    params.ui = False
    params.endpoint_slots = True
    # Its error lines quote schemas and prompts.
    params.verbosity = -1
    params.n_threads_http = slots + 4
    params.cache_ram_mib = prompt_cache_mib
    # The threads meet after each of hundreds of operations a token, so a single reply is written at the pace of the one
    # whose processor has other work, and one processor always has. Prompts and several replies at once take all.
    params.cpuparams.n_threads = threads or max(1, processors() - 1)
    params.cpuparams_batch.n_threads = threads or processors()
    params.n_batch = params.n_ubatch = GPU_BATCH_TOKENS if _has_gpu() else CPU_BATCH_TOKENS
    return params


def make_embeddings(params: Any, context_tokens: int, *, pools: bool) -> None:
    """Has a server make embeddings too; `pools` is whether the model says how a text's vectors become one."""
    params.embedding = True
    params.n_batch = params.n_ubatch = context_tokens
    # With a cache for each slot, texts that are read together are split at the end of the shortest, and the vector of
    # a longer one is made of its rest alone.
    params.kv_unified = True
    if not pools:
        # A model that was made to write: the mean of what it makes of each token.
        params.pooling_type = llama.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN


def _has_gpu() -> bool:
    with contextlib.suppress(KeyError, TypeError):
        return any("GPU" in str(device["type"]) for device in llama.get_device_info())
    return False
