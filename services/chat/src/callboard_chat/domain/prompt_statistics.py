"""How many tokens a model makes of a prompt's bytes, learned from what its engine counts."""

from callboard_contracts.chat import ChatRequest
from callboard_contracts.prompt_size import USUAL_TOKENS_PER_BYTE, prompt_bytes

FIRST_BYTES = 4096
"""The first figure weighs as much as a prompt of this length."""
MEMORY_BYTES = 1_000_000
"""About so many bytes count; older prompts fade."""
MIN_PROMPT_BYTES = 128
"""In a shorter prompt most tokens are the template's."""
LEAST = 0.001
"""Some engines count next to nothing of a long prompt, of which they have read most before."""
MARGIN = 1.1
"""The figure that is told is so much above the mean, since too little held costs another request to quota."""


class PromptStatistics:
    """The mean of one model's tokens for each byte; pictures and tools, whose bytes do not count here, are left out."""

    def __init__(self) -> None:
        self._bytes = float(FIRST_BYTES)
        self._tokens = FIRST_BYTES * USUAL_TOKENS_PER_BYTE / MARGIN

    @property
    def tokens_per_byte(self) -> float:
        """How many tokens a byte usually is, with a margin."""
        return max(LEAST, round(self._tokens / self._bytes * MARGIN, 3))

    def learn(self, request: ChatRequest, prompt_tokens: int) -> None:
        """Takes in how many tokens an engine counted in a prompt."""
        if request.tools or request.has_images:
            return
        self.count(prompt_bytes(request), prompt_tokens)

    def count(self, size: int, tokens: int) -> None:
        """Takes in how many tokens an engine counted in so many bytes."""
        if size < MIN_PROMPT_BYTES:
            return
        fading = min(1.0, MEMORY_BYTES / (self._bytes + size))
        self._bytes = (self._bytes + size) * fading
        self._tokens = (self._tokens + tokens) * fading
