"""Cuts a long sound into stretches, so that an engine never has an hour of it in memory at once."""

from collections.abc import Iterator

import numpy as np

from callboard_stt.domain.ports import SAMPLE_RATE_HZ, Samples

STRETCH_S = 300
SEARCH_S = 30
"""A stretch ends at the quietest moment of its last half minute."""
MOMENT_SAMPLES = SAMPLE_RATE_HZ // 2


def stretches(samples: Samples, start: int = 0) -> Iterator[tuple[int, int]]:
    """The beginning and the end of each stretch from a sample on; they follow one another and leave nothing out."""
    begin = start
    while samples.size - begin > STRETCH_S * SAMPLE_RATE_HZ:
        end = begin + STRETCH_S * SAMPLE_RATE_HZ
        search = samples[end - SEARCH_S * SAMPLE_RATE_HZ : end]
        moments = np.abs(search.astype(np.int32)).reshape(-1, MOMENT_SAMPLES).sum(axis=1)
        quietest = int(np.argmin(moments))
        end += (quietest - moments.size) * MOMENT_SAMPLES + MOMENT_SAMPLES // 2
        yield begin, end
        begin = end
    if begin < samples.size:
        yield begin, samples.size
