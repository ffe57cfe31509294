"""Sends prompts that begin alike to one worker, whose engine has read their beginning before."""

from hashlib import blake2b

from callboard_contracts.chat import ChatRequest
from callboard_edge.domain.catalogue import ChatModel
from callboard_edge.domain.workers import Workers

PROMPT_CHARACTERS = 256
"""A prompt without messages is told by so much of its beginning."""


def with_preferred_worker(request: ChatRequest, model: ChatModel, workers: Workers) -> ChatRequest:
    """The request with the worker that is the quickest at it, where the pool has several."""
    worker = workers.preferred("chat", model.pool, model.name, lambda: cache_key(request))
    return request.model_copy(update={"preferred_worker": worker}) if worker else request


def cache_key(request: ChatRequest) -> bytes:
    """What prompts have in common that begin alike: the client's key, else the system prompt and the first message."""
    beginning = request.prompt[:PROMPT_CHARACTERS]
    if request.memory:
        # The front of a long prompt is dropped as it grows, which is what memory stays for.
        beginning = request.memory if request.overflow == "drop_front" else request.memory + beginning
    parts = [request.prompt_cache_key or beginning]
    if not request.prompt_cache_key:
        for message in request.messages:
            parts.append(message.content)
            if message.role != "system":
                break
    digest = blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(b"%d:" % len(data) + data)
    return digest.digest()
