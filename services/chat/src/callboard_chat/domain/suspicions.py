"""Signs that a volunteer's text is not what a model wrote."""

from hashlib import blake2b

from callboard_chat.domain.posted_job import Handout, estimated_tokens
from callboard_chat.domain.recent_entries import RecentEntries
from callboard_contracts.volunteers import Suspicion

IMPOSSIBLE_TOKENS_PER_S = 1000.0
LEAST_TIMED_TOKENS = 64
LEAST_REPEATED_CHARACTERS = 32
REMEMBERED_TEXTS = 8
"""Of each volunteer; the same text again looks false."""
REMEMBERED_WORKERS = 2048


class Suspicions:
    """Judges texts beside those that the same volunteers have sent before."""

    def __init__(self) -> None:
        self._texts: RecentEntries[str, list[bytes]] = RecentEntries(REMEMBERED_WORKERS)

    def judge(self, handout: Handout, text: str, seconds: float) -> tuple[Suspicion, ...]:
        """What is suspicious about a text that was written within so many seconds."""
        found: list[Suspicion] = []
        worker, tokens = handout.by.worker_id, estimated_tokens(text)
        if not text.startswith(handout.told) and not handout.told.startswith(text):
            return ("contradictory",)
        if not text.strip():
            found.append("empty")
        if tokens >= LEAST_TIMED_TOKENS and tokens > IMPOSSIBLE_TOKENS_PER_S * max(seconds, 0.001):
            found.append("speed")
        if len(text) >= LEAST_REPEATED_CHARACTERS:
            digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
            texts = self._texts.get(worker, [])
            if digest in texts:
                found.append("repeated")
            self._texts.put(worker, [*texts, digest][-REMEMBERED_TEXTS:])
        return tuple(found)
