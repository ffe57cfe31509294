"""Word timestamps in the form of OpenAI's transcriptions."""

from collections.abc import Sequence
from typing import Any

from callboard_edge.domain.word_times import TimedWord

GRANULARITIES = "timestamp_granularities"
"""The field that asks for them."""


def word_objects(words: Sequence[TimedWord]) -> list[dict[str, Any]]:
    """The words with their times in seconds."""
    return [{"word": word.word, "start": word.start_ms / 1000, "end": word.end_ms / 1000} for word in words]
